"""The plain networks: shapes, counts of parameters, how they start, and that they learn."""

import copy
import math
import pickle
from functools import lru_cache, partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import antialias
from hilbertnet.networks import CKN
from hilbertnet.networks.cnn import ckn_like, mnist_net, resnet, vgg
from hilbertnet.networks.plain import PlainCNN

CKN_TEXT = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss2"
small_ckn_like = partial(ckn_like, CKN_TEXT, 1, (6, 9))
SMALL = {
    "vgg": (partial(vgg, width=4), (3, 32, 32)),
    "resnet": (partial(resnet, width=4), (3, 32, 32)),
    "mnist_net": (partial(mnist_net, width=4), (1, 28, 28)),
    "ckn_like": (partial(small_ckn_like, space=(10, 8)), (1, 10, 8)),
}
each_network = pytest.mark.parametrize("name", SMALL)


def images(n, shape, seed=0, dtype=torch.float32):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def count(net):
    return sum(p.numel() for p in net.parameters())


def convolutions(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]


# -------------------------------------------------------------------------------------------------- shapes and counts


@each_network
@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (3, 3), (10, 10)])
def test_one_logit_for_each_class_and_one_for_two(name, classes, outputs):
    build, shape = SMALL[name]
    net = build(classes=classes, generator=0)
    assert isinstance(net, PlainCNN)
    assert net(images(3, shape)).shape == (3, outputs)


def vgg_count(channels, classes, convolutions, width, size=32):
    total = 0
    for repeat, multiple in zip(convolutions, (1, 2, 4, 8, 8), strict=True):
        for _ in range(repeat):
            total += 9 * channels * multiple * width + multiple * width
            channels = multiple * width
    hidden = 8 * width
    flat = hidden * (size // 32) ** 2
    return total + (flat + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * classes


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, (1, 1, 2, 2, 2)),
        ({"depth": 13, "width": 4}, (2, 2, 2, 2, 2)),
        ({"depth": 16}, (2, 2, 3, 3, 3)),
        ({"depth": 19, "width": 4}, (2, 2, 4, 4, 4)),
        ({"width": 16, "in_channels": 1, "classes": 7, "size": 64}, (1, 1, 2, 2, 2)),
    ],
)
def test_vgg_has_the_parameters_of_its_blocks(options, blocks):
    channels, classes = options.get("in_channels", 3), options.get("classes", 10)
    expected = vgg_count(channels, classes, blocks, options.get("width", 64), options.get("size", 32))
    net = vgg(generator=0, **options)
    assert count(net) == expected
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == options.get("depth", 11)


def test_vgg_and_resnet_have_the_published_numbers_of_parameters():
    assert count(vgg(generator=0)) == 9_750_922
    assert count(vgg(depth=16, generator=0)) == 15_245_130
    # 11,173,962 with batch normalization, which has 2 parameters for each of 4,800 channels
    assert count(resnet(generator=0)) == 11_173_962 - 2 * 4_800


def resnet_count(channels, classes, stages, width):
    total, inside = 9 * channels * width, width
    for stage, repeat in enumerate(stages):
        for block in range(repeat):
            out = width << stage
            total += 9 * inside * out + 9 * out * out + (inside * out if stage and not block else 0)
            inside = out
    return total + (inside + 1) * classes


@pytest.mark.parametrize(("depth", "stages"), [(10, (1, 1, 1, 1)), (18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_resnet_has_the_parameters_of_its_blocks(depth, stages):
    net = resnet(1, 5, depth=depth, width=4, generator=0)
    assert count(net) == resnet_count(1, 5, stages, 4)
    weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum(getattr(m, "kernel_size", None) != (1, 1) for m in weighted) == depth


def test_resnet_shrinks_its_maps_as_published():
    net, x, sizes = resnet(width=4, generator=0), images(1, (3, 32, 32)), []
    for part in net.body:
        x = part(x)
        sizes.append(tuple(x.shape[1:]))
    blocks = [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2
    assert sizes == [(4, 32, 32)] * 2 + blocks + [(32, 1, 1)]


@pytest.mark.parametrize(("width", "depth"), [(64, 4), (8, 3), (8, 1)])
def test_mnist_net_has_the_parameters_of_its_layers(width, depth):
    net = mnist_net(width=width, depth=depth, generator=0)
    chain = [1, *(width << k for k in range(depth))]
    expected = sum(9 * a * b for a, b in pairwise(chain))
    side = {4: 1, 3: 3, 1: 14}[depth]
    assert count(net) == expected + 10 * chain[-1] * side**2
    assert net.maps(images(2, (1, 28, 28))).shape == (2, chain[-1], side, side)
    assert not any("bias" in name for name, _ in net.named_parameters())


def test_mnist_net_without_biases_is_homogeneous():
    net = mnist_net(width=4, mean=0, std=1, generator=0)
    x = images(2, (1, 28, 28))
    torch.testing.assert_close(net(3 * x), 3 * net(x), rtol=1e-4, atol=1e-6)


def test_no_network_has_batch_normalization():
    for build, _ in SMALL.values():
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in build(generator=0).modules())


@pytest.mark.parametrize("build", [vgg, resnet])
def test_larger_images_are_taken_in_multiples_of_32(build):
    net = build(width=2, size=64, generator=0)
    x = images(2, (3, 64, 64))
    assert net.maps(x).shape == (2, 16, 2, 2)
    assert net(x).shape == (2, 10)


# -------------------------------------------------------------------------------------------------- the shape of a CKN


@pytest.mark.parametrize("boundary", ["zero", "valid", "circular"])
@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", (13, 12)),
        ("2 arccos1 avg2 | 4 exp(1) avg3/2", (16, 15)),
        ("5 exp(0.6) stride2 | 1 linear - | 3 arccos1 global", (14, 14)),
        ("3 exp(0.6) avg2 | 2 exp(0.6) gauss2", (17,)),
        ("1 exp(0.6) - | 2 poly2 gauss3/1", (10, 9)),
    ],
)
def test_like_a_ckn_all_maps_have_its_shapes(text, space, boundary):
    if boundary == "valid":
        text = text.replace("gauss2", "avg2").replace("gauss3/1", "avg3/1")
    arch = Architecture.parse(text, boundary=boundary, sigma0=0.4)
    filters = tuple(range(5, 5 + len(arch.layers)))
    ckn = CKN(arch, 2, filters, axes=len(space), generator=0)
    net = ckn_like(arch, 2, filters, 4, space=space, generator=0)
    x = images(3, (2, *space))
    assert net.maps(x).shape == ckn(x).shape == (3, *ckn.output_shape(space))
    assert net(x).shape == (3, 4)
    maps, below = x, x
    for index, layer in enumerate(net.body[1:]):
        maps, below = layer(maps), ckn.layers[index](below)
        assert maps.shape == below.shape
        assert layer.convolution.weight.shape == ckn.layers[index].filters.shape


def test_like_a_ckn_in_the_published_layout():
    arch = Architecture.parse("3 exp(0.6) gauss2 | 2 exp(0.6) avg2", layout="ckn_kernel")
    ckn, x = CKN(arch, 1, (5, 6), generator=0), images(2, (1, 14, 14))
    assert ckn_like(arch, 1, (5, 6), space=(14, 14), generator=0).maps(x).shape == ckn(x).shape


@pytest.mark.parametrize("boundary", ["zero", "valid", "circular"])
def test_like_a_ckn_against_torchs_own_convolution_and_pooling(boundary):
    arch = Architecture.parse("3 exp(0.6) avg2", boundary=boundary, sigma0=0.5)
    net, x = ckn_like(arch, 2, (5,), space=(10, 10), generator=0), images(2, (2, 10, 10))
    y = antialias(x, 0.5, arch)
    if boundary != "valid":
        y = functional.pad(y, (1, 1, 1, 1), mode="circular" if boundary == "circular" else "constant")
    layer = net.body[1].convolution
    expected = functional.avg_pool2d(functional.conv2d(y, layer.weight, layer.bias).relu(), 2)
    torch.testing.assert_close(net.maps(x), expected)


def test_like_a_ckn_biases_are_optional():
    plain, without = small_ckn_like(space=(8, 8), generator=0), small_ckn_like(space=(8, 8), bias=False, generator=0)
    assert count(plain) - count(without) == 6 + 9
    ckn = CKN(CKN_TEXT, 1, (6, 9), generator=0)
    assert count(without) == count(ckn) + (9 * 2 * 2 + 1) * 10


# ------------------------------------------------------------------------------------------------------ random numbers


@each_network
def test_same_seed_same_network_and_the_global_state_is_not_touched(name):
    build, shape = SMALL[name]
    torch.manual_seed(0)
    before, x = torch.get_rng_state(), images(2, shape)
    nets = [build(generator=seed) for seed in (0, torch.Generator().manual_seed(0), 1)]
    assert torch.equal(nets[0](x), nets[1](x))
    assert not torch.equal(nets[0](x), nets[2](x))
    assert torch.equal(before, torch.get_rng_state())


@each_network
def test_without_a_seed_networks_differ(name):
    build, shape = SMALL[name]
    assert not torch.equal(build()(images(1, shape)), build()(images(1, shape)))


def assert_normal(weight, variance):
    """Mean, variance and fourth moment within five standard errors."""
    z, n = weight.detach().double().flatten() / math.sqrt(variance), weight.numel()
    assert float(z.mean()) == pytest.approx(0, abs=5 / math.sqrt(n))
    assert float(z.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / n))
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / n))


def test_vgg_starts_as_published():
    for layer in convolutions(vgg(width=16, generator=0)):
        assert_normal(layer.weight, 2 / (9 * layer.out_channels))
        assert not layer.bias.any()


def test_resnet_starts_with_small_branches():
    net = resnet(width=16, depth=18, generator=0)
    seconds = {id(block.second) for block in net.body[2:-1]}
    assert len(seconds) == 8
    for layer in convolutions(net):
        fan_in = layer.weight[0].numel()
        assert_normal(layer.weight, 2 / fan_in / (8 if id(layer) in seconds else 1))


def test_others_start_with_the_variance_of_rectifiers():
    for net in (mnist_net(width=16, generator=0), ckn_like(CKN_TEXT, 3, (64, 128), space=(8, 8), generator=0)):
        for layer in convolutions(net):
            assert_normal(layer.weight, 2 / layer.weight[0].numel())


@each_network
def test_linear_layers_start_uniform(name):
    for layer in SMALL[name][0](generator=0).modules():
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            weight = layer.weight.detach()
            assert bound > float(weight.abs().max()) > 0.8 * bound
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.3)


@pytest.mark.parametrize("depth", [10, 18, 34])
def test_maps_of_a_resnet_keep_their_size_however_deep(depth):
    net = resnet(width=16, depth=depth, generator=0).requires_grad_(False)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for part in net.body:
        x = part(x)
        assert 0.2 < float(x.square().mean()) < 5


# ------------------------------------------------------------------------------------------------------------ learning


@lru_cache(maxsize=1)
def digits():
    """Digits of 8 x 8 pixels, in [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits(n_class=4)
    x = torch.as_tensor(found.images[:32] / 16, dtype=torch.float32)[:, None]
    return x, torch.as_tensor(found.target[:32])


@pytest.mark.parametrize(
    ("build", "size", "rate"),
    [
        (partial(vgg, 1, 4, width=8), 32, 0.05),
        (partial(resnet, 1, 4, width=4, depth=10), 32, 0.03),
        (partial(resnet, 1, 4, width=4, depth=34), 32, 0.015),
        (partial(mnist_net, classes=4, width=8), 28, 0.05),
        (partial(small_ckn_like, 4, space=(8, 8)), 8, 0.4),
    ],
    ids=["vgg", "resnet10", "resnet34", "mnist_net", "ckn_like"],
)
def test_a_few_steps_lower_the_loss(build, size, rate):
    x, y = digits()
    x, net = functional.interpolate(x, size=(size, size)), build(generator=0)
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(4), abs=0.3)
    assert losses[-1] < 0.8 * losses[0]


@each_network
def test_gradients_reach_each_parameter_and_the_input(name):
    build, shape = SMALL[name]
    net, x = build(classes=3, generator=0), images(8, shape).requires_grad_()
    functional.cross_entropy(net(x), torch.arange(8) % 3).backward()
    for key, parameter in net.named_parameters():
        assert float(parameter.grad.abs().sum()) > 0, key
    assert float(x.grad.abs().sum()) > 0


@each_network
def test_gradients_can_be_differentiated_again(name):
    """Penalties on gradients need it."""
    build, shape = SMALL[name]
    net, x = build(classes=2, generator=0), images(2, shape).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert float(net.head.weight.grad.abs().sum() if isinstance(net.head, nn.Linear) else 1) > 0


# ------------------------------------------------------------------------------------------------------- an nn.Module


@each_network
def test_state_dict_round_trip(name):
    build, shape = SMALL[name]
    first, second, x = build(generator=0), build(generator=1, mean=0.2, std=0.7), images(2, shape)
    assert {"mean", "std"} <= set(first.state_dict())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@each_network
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_compute_the_same(name, duplicate):
    build, shape = SMALL[name]
    net, x = build(generator=0), images(2, shape)
    assert torch.equal(duplicate(net)(x), net(x))


@each_network
def test_double_computes_in_float64(name):
    build, shape = SMALL[name]
    net, x = build(generator=0).double(), images(2, shape, dtype=torch.float64)
    assert net(x).dtype == torch.float64
    torch.testing.assert_close(net.float()(x.float()).double(), net.double()(x), rtol=1e-4, atol=1e-5)


@each_network
def test_examples_of_a_batch_do_not_see_each_other(name):
    build, shape = SMALL[name]
    net, x = build(generator=0).double(), images(4, shape, dtype=torch.float64)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- normalization


def test_mean_and_deviation_of_known_images_are_the_default():
    cifar, mnist = vgg(width=2, generator=0), mnist_net(width=2, generator=0)
    torch.testing.assert_close(cifar.mean.flatten(), torch.tensor([0.4914, 0.4822, 0.4465]))
    torch.testing.assert_close(cifar.std.flatten(), torch.tensor([0.2470, 0.2435, 0.2616]))
    assert (float(mnist.mean), float(mnist.std)) == pytest.approx((0.1307, 0.3081))
    other = resnet(2, width=2, generator=0)
    assert other.mean.flatten().tolist() == [0, 0]
    assert other.std.flatten().tolist() == [1, 1]
    assert not small_ckn_like(generator=0).mean.any()


@each_network
def test_images_are_normalized_inside(name):
    build, shape = SMALL[name]
    given, plain = build(mean=0.3, std=[0.5] * shape[0], generator=0), build(mean=0, std=1, generator=0)
    x = images(2, shape)
    torch.testing.assert_close(given(x), plain((x - 0.3) / 0.5))
    assert not any("mean" in name or "std" in name for name, _ in given.named_parameters())


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (vgg, {"in_channels": 0}, "^in_channels: expected a whole number of at least 1, got 0"),
        (vgg, {"width": 2.5}, "^width: "),
        (vgg, {"depth": 12}, "^depth: expected one of 11, 13, 16, 19, got 12"),
        (vgg, {"size": 48}, "^size: expected a positive multiple of 32, .* got 48"),
        (vgg, {"size": 0}, "^size: "),
        (vgg, {"classes": 1}, "^classes: expected a whole number of at least 2, got 1"),
        (vgg, {"classes": True}, "^classes: "),
        (vgg, {"mean": (0.1, 0.2)}, "^mean: expected a number, or 3 of them"),
        (vgg, {"mean": "0.1"}, "^mean: "),
        (vgg, {"mean": math.nan}, "^mean: expected finite numbers"),
        (vgg, {"std": 0}, "^std: expected positive numbers"),
        (vgg, {"std": (1, 1, -1)}, "^std: "),
        (resnet, {"depth": 50}, "^depth: expected one of 10, 18, 34, got 50"),
        (resnet, {"depth": True}, "^depth: "),
        (resnet, {"size": 28}, "^size: "),
        (resnet, {"classes": 0}, "^classes: "),
        (mnist_net, {"depth": 5}, "^depth: expected at most 4 for images of size 28, got 5"),
        (mnist_net, {"depth": 0}, "^depth: "),
        (mnist_net, {"width": -1}, "^width: "),
        (mnist_net, {"size": "28"}, "^size: "),
        (mnist_net, {"classes": 1}, "^classes: "),
    ],
)
def test_bad_arguments_are_named(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, 1, (6, 9)), {}, "^arch: expected an Architecture"),
        ((CKN_TEXT, 0, (6, 9)), {}, "^in_channels: "),
        ((CKN_TEXT, 1, (6,)), {}, "^filters: expected 2 positive whole numbers"),
        ((CKN_TEXT, 1, "69"), {}, "^filters: "),
        ((CKN_TEXT, 1, (6, 9), 1), {}, "^classes: "),
        ((CKN_TEXT, 1, (6, 9)), {"space": 32}, "^space: "),
        ((CKN_TEXT, 1, (6, 9)), {"space": (3, 3, 3)}, "^space: "),
        ((CKN_TEXT, 1, (6, 9)), {"space": (2, 8)}, "layer 1: expected a patch of at most 2"),
    ],
)
def test_bad_arguments_of_ckn_like_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ckn_like(*arguments, **options)


@each_network
def test_images_of_another_shape_are_refused(name):
    build, shape = SMALL[name]
    net, expected = build(generator=0), f"^x: expected shape \\(n, {shape[0]}, {shape[1]}, {shape[2]}\\), got "
    for wrong in ((shape[0] + 1, *shape[1:]), (*shape[:2], shape[2] + 1), shape[:2]):
        for function in (net, net.maps):
            with pytest.raises(ValueError, match=expected):
                function(images(2, wrong))

"""Random features against the exact kernel they estimate, and as an ``nn.Module``."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch

from hilbertnet.architecture import Architecture, AveragePool, Dual, Layer
from hilbertnet.architecture.operators import patch_scale
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import CKN
from hilbertnet.networks import features as module
from hilbertnet.networks.random_features import RandomFeatureNet
from hilbertnet.protocols import Representation

KERNELS = ("arccos0", "arccos1", "exp(0.6)", "exp(2)", "dual(gelu)", "dual(tanh)")
BOUNDARIES = ("zero", "valid", "circular")
SPACES = {1: (6,), 2: (4, 5)}
MIXED = "3 exp(0.6) gauss2 | 3 arccos1 gauss2"


def signals(n, channels=2, space=(6,), seed=0, dtype=torch.float64):
    return torch.randn(n, channels, *space, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(seed=0, **options):
    return RandomFeatureNet(MIXED, 1, (6, 9), generator=seed, **options)


def gram(arch, x, width, seed, **options):
    net = RandomFeatureNet(arch, x.shape[1], width, axes=x.ndim - 2, generator=seed, **options).double()
    features = net(x).flatten(1)
    return features @ features.T


# ---------------------------------------------------------------------------------------------------- the exact kernel


def assert_mean_is_kernel(arch, x, width=400, draws=40, **options):
    """The mean of independent draws lies within four of its standard errors of the kernel, entry by entry."""
    exact = ConvKernel(arch).gram(x)
    found = torch.stack([gram(arch, x, width, seed, **options) for seed in range(draws)])
    error = found.std(0) / math.sqrt(draws)
    assert (error < 0.02 * exact.abs().max()).all()  # else the test sees nothing
    rounding = 1e-12 * exact.abs().max()
    assert ((found.mean(0) - exact).abs() <= 4 * error + rounding).all()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_layer_is_unbiased(kernel, axes, boundary):
    arch = Architecture.parse(f"3 {kernel} avg2", boundary=boundary)
    assert_mean_is_kernel(arch, signals(3, 2, SPACES[axes]))


@pytest.mark.parametrize("pool", ["-", "gauss2", "avg3/2", "stride2", "global"])
@pytest.mark.parametrize("kernel", ["arccos1", "exp(0.6)"])
def test_one_layer_is_unbiased_whatever_the_pool(kernel, pool):
    assert_mean_is_kernel(Architecture.parse(f"2 {kernel} {pool}"), signals(3))


@pytest.mark.parametrize("kernel", KERNELS)
def test_orthogonal_directions_are_unbiased_too(kernel):
    assert_mean_is_kernel(Architecture.parse(f"3 {kernel} avg2"), signals(3), orthogonal=True)


def test_unbiased_in_the_published_layout_and_behind_the_anti_aliasing():
    for kernel in ("arccos1", "exp(0.6)"):
        arch = Architecture.parse(f"3 {kernel} gauss2", layout="ckn_kernel", sigma0=0.5)
        assert_mean_is_kernel(arch, signals(3, 1, (7, 7)))


def test_unbiased_for_an_activation_that_is_a_function():
    assert_mean_is_kernel(Architecture([Layer(3, Dual(torch.nn.functional.softplus), AveragePool(2))]), signals(3))


def test_dual_relu_is_arccos1():
    nets = [RandomFeatureNet(f"3 {kernel} avg2", 2, 8, axes=1, generator=0) for kernel in ("dual(relu)", "arccos1")]
    found, expected = (net.double()(signals(3)) for net in nets)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def errors(arch, x, widths, seeds, **options):
    """Relative errors of Gram matrices, root mean squares over seeds."""
    exact = ConvKernel(arch).gram(x)
    size = float(exact.norm())
    return [
        math.sqrt(sum((float((gram(arch, x, w, s, **options) - exact).norm()) / size) ** 2 for s in seeds) / len(seeds))
        for w in widths
    ]


def slope(widths, found):
    return np.polyfit(np.log(widths), np.log(found), 1)[0]


@pytest.mark.parametrize("kernel", ["arccos0", "arccos1", "exp(0.6)", "dual(gelu)"])
def test_the_error_falls_as_one_over_the_root_of_the_width(kernel):
    widths = (64, 256, 1024, 4096)
    found = errors(Architecture.parse(f"3 {kernel} avg2"), signals(4), widths, range(25))
    assert slope(widths, found) == pytest.approx(-0.5, abs=0.06)
    assert found[-1] < 0.03


@pytest.mark.parametrize(
    ("text", "boundary"),
    [
        ("3 exp(0.6) gauss2 | 2 arccos1 avg2", "zero"),
        ("2 arccos1 avg2 | 1 exp(0.6) global", "circular"),
        ("2 arccos0 stride2 | 1 dual(tanh) -", "valid"),
    ],
)
def test_the_error_of_two_layers_falls_as_one_over_the_root_of_the_width(text, boundary):
    widths = (64, 128, 512, 1024)
    found = errors(Architecture.parse(text, boundary=boundary), signals(4), widths, range(20))
    assert slope(widths, found) == pytest.approx(-0.5, abs=0.1)


def test_two_layers_of_thousands_of_features_are_close_to_the_kernel_whatever_the_boundary():
    for boundary in BOUNDARIES:
        arch = Architecture.parse("3 exp(0.6) avg2 | 1 arccos1 avg2", boundary=boundary)
        assert errors(arch, signals(3), (4096,), (0,))[0] < 0.05


def test_orthogonal_directions_have_the_smaller_error_for_the_gaussian_kernel():
    arch, x, seeds = Architecture.parse("3 exp(1) avg2"), signals(4, 4, (5,)), range(60)
    for width in (24, 128):
        independent, orthogonal = (errors(arch, x, (width,), seeds, orthogonal=flag)[0] for flag in (False, True))
        assert orthogonal < 0.9 * independent


def test_orthogonal_directions_are_orthogonal_in_blocks_and_standard_normal():
    net = RandomFeatureNet("3 arccos1 -", 2, 8000, axes=1, orthogonal=True, generator=0).double()
    weight = net.layers[0].weight.detach().flatten(1)
    for start in (0, 6, 7992):
        block = weight[start : min(start + 6, 8000)]
        inner = block @ block.T
        assert (inner - inner.diag().diag()).abs().max() < 1e-5
    n = weight.numel()
    assert float(weight.mean()) == pytest.approx(0, abs=4 / math.sqrt(n))
    assert float(weight.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / n))
    assert float(weight.pow(4).mean()) == pytest.approx(3, abs=4 * math.sqrt(96 / n))


@pytest.mark.parametrize("axes", [1, 2])
def test_pairs_of_cosine_and_sine_keep_norms_exactly(axes):
    x = signals(3, 2, SPACES[axes])
    for text in ("3 exp(0.6) -", "2 exp(0.6) - | 3 exp(2) -"):
        net = RandomFeatureNet(text, 2, 6, axes=axes, generator=0).double()
        torch.testing.assert_close(net.norm(x), ConvKernel(text).norm(x), rtol=1e-12, atol=0)


def test_layers_are_homogeneous_and_map_zero_to_zero():
    for kernel in KERNELS:
        net = RandomFeatureNet(f"2 {kernel} - | 2 {kernel} avg2", 2, 6, axes=1, generator=0).double()
        torch.testing.assert_close(net(3 * signals(2)), 3 * net(signals(2)), rtol=1e-10, atol=1e-12)
        assert not net(torch.zeros(1, 2, 6, dtype=torch.float64)).any()


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("text", [f"2 {kernel} avg2 | 2 {kernel} -" for kernel in KERNELS])
def test_gradients_of_input_and_directions(text):
    net = RandomFeatureNet(text, 1, 4, axes=1, generator=1).double().requires_grad_()
    x = signals(2, 1, (5,)).requires_grad_()
    names, weights = zip(*net.named_parameters(), strict=True)

    def function(x, *weights):
        return torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *(w.detach().clone().requires_grad_() for w in weights)))


def test_gradients_of_distances_and_norms():
    net = RandomFeatureNet("2 exp(0.6) avg2 | 2 arccos1 -", 1, 4, axes=1, generator=0).double()
    x, y = (signals(2, 1, (5,), seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(net.distance, (x, y))
    assert torch.autograd.gradcheck(net.norm, (x,))
    assert net.float().norm(x.float()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_finite_at_zero_patches_and_identical_inputs(kernel, dtype):
    net = RandomFeatureNet(f"2 {kernel} avg2 | 2 {kernel} -", 1, 4, axes=1, generator=0).to(dtype)
    x = torch.zeros(3, 1, 8, dtype=dtype)
    x[1, 0, 2], x[2, 0, 2] = 1.0, torch.finfo(dtype).tiny ** 0.3
    x.requires_grad_()
    (net.norm(x).sum() + net.distance(x, x.detach().clone()).sum() + net(x).sum()).backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(net(x)).all()


def test_directions_learn_only_when_asked_to():
    net, x = small(), signals(2, 1, (8, 8), dtype=torch.float32)
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


# ------------------------------------------------------------------------------------------------------- an nn.Module


def test_it_is_a_representation():
    assert isinstance(small(), Representation)
    assert small().differentiable


def test_shapes_are_those_of_a_ckn():
    for axes, space in ((2, (9, 8)), (1, (11,))):
        net = RandomFeatureNet(MIXED, 3, (6, 9), axes=axes, generator=0)
        ckn = CKN(MIXED, 3, (6, 9), axes=axes, generator=0)
        x = signals(4, 3, space, dtype=torch.float32)
        assert net(x).shape == ckn(x).shape == (4, *net.output_shape(space))
    assert net.widths == (6, 9)
    assert RandomFeatureNet(MIXED, 3, 6, generator=0).widths == (6, 6)


def test_directions_have_the_patch_and_half_as_many_for_pairs():
    shapes = {name: tuple(value.shape) for name, value in small().state_dict().items()}
    assert shapes == {"layers.0.weight": (3, 1, 3, 3), "layers.1.weight": (9, 6, 3, 3)}


@pytest.mark.parametrize("orthogonal", [False, True])
def test_same_seed_same_network_and_the_global_state_is_not_touched(orthogonal):
    torch.manual_seed(0)
    before, x = torch.get_rng_state(), signals(2, 1, (8, 8), dtype=torch.float32)
    nets = [small(seed, orthogonal=orthogonal) for seed in (0, torch.Generator().manual_seed(0), 1)]
    assert torch.equal(nets[0](x), nets[1](x))
    assert not torch.equal(nets[0](x), nets[2](x))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_networks_differ():
    x = signals(2, 1, (8, 8), dtype=torch.float32)
    assert not torch.equal(small(None)(x), small(None)(x))


def test_double_computes_in_float64():
    net, x = small(), signals(3, 1, (8, 8), dtype=torch.float32)
    single = net(x)
    double = net.double()(x.double())
    assert double.dtype == net.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_compute_the_same(duplicate):
    net, x = small(), signals(3, 1, (8, 8), dtype=torch.float32)
    assert torch.equal(duplicate(net)(x), net(x))


def test_state_dict_moves_directions_to_another_network():
    first, second, x = small(0), small(1), signals(3, 1, (8, 8), dtype=torch.float32)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


def test_encoding_in_batches_equals_forward(monkeypatch):
    net, x, steps = small(), signals(11, 1, (8, 8), dtype=torch.float32), []
    monkeypatch.setattr(module, "_BATCH_BYTES", 4 * 6 * 64 * 3)  # three images
    found = net.requires_grad_().encode(x, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.testing.assert_close(found, net(x).flatten(1), rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_encoding_takes_arrays_of_any_dtype():
    net, x = small(), (255 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))).round()
    expected = net.encode(x)
    for dtype in (np.float64, np.float32, np.uint8):
        torch.testing.assert_close(net.encode(x.numpy().astype(dtype)), expected)
    assert net.double().encode(x).dtype == torch.float64


@pytest.mark.gpu
def test_on_a_device_it_computes_the_same():
    net, x = small().double(), signals(3, 1, (8, 8))
    expected = net(x)
    found = net.cuda()(x.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-10, atol=1e-12)
    assert net.encode(x).is_cuda


def test_printing_shows_the_layers():
    assert "1 -> 6, 3 exp(0.6) gauss2" in repr(small())


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("kernel", ["poly2", "poly(1,2)", "inverse", "vovk3", "linear"])
def test_kernels_without_features_are_named_with_their_layer(kernel):
    with pytest.raises(ValueError, match="^layer 2: arch: expected kernels .* got " + re.escape(kernel)):
        RandomFeatureNet(f"3 arccos1 - | 3 {kernel} -", 1, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, (6,)), {}, "^width: expected a positive whole number, or 2 of them"),
        ((1, (6, 0)), {}, "^width: "),
        ((1, 0), {}, "^width: "),
        ((1, True), {}, "^width: "),
        ((1, "69"), {}, "^width: "),
        ((1, 6.0), {}, "^width: "),
        ((1, (7, 8)), {}, "^layer 1: width: expected an even number, .* got 7"),
        ((0, (6, 9)), {}, "^in_channels: "),
        ((1.5, (6, 9)), {}, "^in_channels: "),
        ((1, (6, 9)), {"axes": 3}, "^axes: "),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        RandomFeatureNet(MIXED, *arguments, **options)


def test_what_is_no_architecture_is_refused():
    with pytest.raises(ValueError, match="^arch: expected an Architecture"):
        RandomFeatureNet(3, 1, 8)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (signals(2, 3, (8, 8)), r"^x: expected shape \(n, 1, height, width\), got \(2, 3, 8, 8\)"),
        (signals(2, 1, (8,)), r"^x: expected shape \(n, 1, height, width\), got \(2, 1, 8\)"),
        (signals(2, 1, (2, 8)), "layer 1: expected a patch of at most 2"),
    ],
)
def test_signals_that_do_not_suit_are_refused(x, message):
    for function in (small(), small().encode):
        with pytest.raises(ValueError, match=message):
            function(x.float())


def test_scale_of_patches_is_that_of_the_architecture():
    """In the published layout patches are not divided by their size."""
    x, features = signals(2, 1, (8, 8)), {}
    for layout in ("hilbertnet", "ckn_kernel"):
        arch = Architecture.parse("3 arccos1 -", layout=layout)
        features[layout] = RandomFeatureNet(arch, 1, 8, generator=0).double()(x) / patch_scale(3, 2, arch)
    torch.testing.assert_close(features["hilbertnet"], features["ckn_kernel"], rtol=1e-12, atol=1e-12)

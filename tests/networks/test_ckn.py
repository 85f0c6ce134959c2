"""The network as the projection of the exact kernel, and as an ``nn.Module``."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import extract_patches
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import CKN
from hilbertnet.networks import features as module

TWO_LAYERS = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss2"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, channels=1, space=(8, 8), seed=0, dtype=torch.float32):
    return torch.rand(n, channels, *space, generator=seeded(seed), dtype=dtype)


def small(**options):
    return CKN(TWO_LAYERS, 1, (6, 9), generator=0, **options)


def with_all_patches_as_anchors(arch, x):
    """A network whose filters are all patches of the maps below that are not zero."""
    net = CKN(arch, x.shape[1], (1,) * len(arch.layers), axes=x.ndim - 2, epsilon=0, generator=0).double().eval()
    for index, layer in enumerate(net.layers):
        maps = net._below(index)(x)
        patches = extract_patches(maps, layer.layer.patch, arch).flatten(2).movedim(1, 2).flatten(0, 1)
        norms = patches.norm(dim=1)
        layer.set_filters_(patches[norms > 1e-12 * norms.max()])
    return net


# ----------------------------------------------------------------------------------------------- the exact kernel's


@pytest.mark.parametrize("boundary", ["zero", "valid", "circular"])
@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", 1),
        ("3 exp(0.6) - | 2 exp(0.6) gauss2", 2),
        ("3 arccos1 avg2 | 3 arccos1 -", 1),
        ("2 poly2 stride2 | 2 inverse global", 2),
        ("3 linear avg2 | 3 poly3 -", 1),
        ("3 vovk3 avg3/1 | 2 arccos0 -", 1),
        ("3 poly2 avg2 | 2 arccos1 - | 1 exp(1) -", 1),
    ],
)
def test_with_every_patch_as_an_anchor_the_network_is_the_exact_kernel(text, axes, boundary):
    if boundary == "valid":
        text = text.replace("gauss2", "avg2")
    x = images(3, 2, (10,) if axes == 1 else (5, 6), dtype=torch.float64)
    arch = Architecture.parse(text, boundary=boundary)
    features = with_all_patches_as_anchors(arch, x)(x).flatten(1)
    exact = ConvKernel(arch).gram(x)
    assert ((features @ features.T - exact).abs().max() / exact.abs().max()).item() < 1e-8


def test_with_every_patch_as_an_anchor_in_the_published_layout_and_behind_the_anti_aliasing():
    x = images(3, 1, (7, 7), dtype=torch.float64)
    arch = Architecture.parse("3 exp(0.6) gauss2 | 2 exp(0.6) avg2", layout="ckn_kernel", sigma0=0.5)
    net = with_all_patches_as_anchors(arch, x)
    features = net(x).flatten(1)
    torch.testing.assert_close(features @ features.T, ConvKernel(arch).gram(x), rtol=1e-8, atol=0)
    torch.testing.assert_close(net.distance(x[:1], x[1:2]), ConvKernel(arch).distance(x[:1], x[1:2]), rtol=1e-6, atol=0)
    torch.testing.assert_close(net.norm(x), ConvKernel(arch).norm(x), rtol=1e-8, atol=0)


def test_the_error_falls_as_anchors_grow():
    x = images(30, dtype=torch.float64)
    exact, errors = ConvKernel(TWO_LAYERS).gram(x), []
    for count in (2, 32, 128, 256):
        net = CKN(TWO_LAYERS, 1, (count, count), epsilon=0, generator=0).double()
        features = net.fit_filters_(x, patches=2000, generator=0).encode(x)
        errors.append(float((features @ features.T - exact).norm() / exact.norm()))
    assert all(after < 0.6 * before for before, after in pairwise(errors))
    assert errors[-1] < 0.005


def test_fitted_filters_are_better_anchors_than_random_ones():
    x = images(30, dtype=torch.float64)
    exact, errors = ConvKernel("3 exp(0.6) gauss2").gram(x), []
    net = CKN("3 exp(0.6) gauss2", 1, (16,), epsilon=0, generator=0).double()
    for fit in (False, True):
        features = (net.fit_filters_(x, generator=0) if fit else net).encode(x)
        errors.append(float((features @ features.T - exact).norm() / exact.norm()))
    assert errors[1] < 0.2 * errors[0]


# ----------------------------------------------------------------------------------------------------- an nn.Module


def test_outputs_have_the_shape_that_was_announced():
    for axes, space in ((2, (9, 8)), (1, (11,))):
        net = CKN(TWO_LAYERS, 3, (6, 9), axes=axes, generator=0)
        assert net(images(4, 3, space)).shape == (4, *net.output_shape(space))
    assert net.filters == (6, 9)


def test_state_dict_moves_filters_to_another_network():
    first, second, x = small(), CKN(TWO_LAYERS, 1, (6, 9), generator=1), images(3)
    assert set(first.state_dict()) == {"layers.0.filters", "layers.1.filters"}
    second.eval()(x)  # fills the caches, which must not survive
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(x), second(x))


def test_same_seed_same_network():
    assert torch.equal(small()(images(2)), small()(images(2)))
    assert not torch.equal(small()(images(2)), CKN(TWO_LAYERS, 1, (6, 9), generator=1)(images(2)))


def test_global_random_state_is_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    small().fit_filters_(images(20), patches=100, generator=0)
    assert torch.equal(before, torch.get_rng_state())


def test_double_computes_in_float64():
    net, x = small().eval(), images(3)
    single = net(x)
    double = net.double()(x.double())
    assert double.dtype == net.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.float()(x), single, rtol=1e-5, atol=1e-5)


def test_modes_return_the_network_and_change_no_output():
    net, x = small(), images(3)
    assert net.eval() is net
    evaluated = net(x)
    assert net.train() is net
    assert net.layers[0].training
    assert torch.equal(net(x), evaluated)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_equal_and_independent(duplicate):
    net, x = small().eval(), images(3)
    expected = net(x)
    other = duplicate(net)
    assert torch.equal(other(x), expected)
    other.layers[0].set_filters_(torch.randn(6, 9, generator=seeded(7)))
    assert not torch.equal(other(x), expected)
    assert torch.equal(net(x), expected)


@pytest.mark.parametrize("options", [{}, {"regularization": "eigenvalue", "epsilon": 0.2}, {"axes": 1}])
def test_saved_and_loaded_it_computes_the_same_bit_for_bit(tmp_path, options):
    arch = Architecture.parse(TWO_LAYERS, boundary="circular", sigma0=0.4)
    net = CKN(arch, 2, (6, 9), generator=0, **options)
    x = images(5, 2, (8, 7)[: net.axes])
    net.fit_filters_(x, patches=500, generator=0).eval()
    net.save(tmp_path / "net.safetensors")
    loaded = CKN.load(tmp_path / "net.safetensors")
    assert loaded.config() == net.config()
    assert loaded.arch == arch
    assert not loaded.training
    assert torch.equal(loaded(x), net(x))


def test_saved_in_float64_it_is_loaded_in_float64(tmp_path):
    small().double().save(tmp_path / "net.safetensors")
    assert CKN.load(tmp_path / "net.safetensors").dtype == torch.float64


def test_what_is_no_network_is_not_loaded(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    for name in ("text", "absent"):
        with pytest.raises(ValueError, match=name):
            CKN.load(tmp_path / name)


# ----------------------------------------------------------------------------------------------------------- features


def test_encoding_in_batches_equals_forward(monkeypatch):
    net, x, steps = small().eval(), images(11), []
    expected = net(x).flatten(1)
    monkeypatch.setattr(module, "_BATCH_BYTES", 4 * 6 * 64 * 3)  # three images
    found = net.encode(x, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_encoding_takes_arrays_of_any_dtype():
    net, x = small().eval(), (255 * images(3)).round()
    expected = net.encode(x)
    for dtype in (np.float64, np.float32, np.uint8):
        torch.testing.assert_close(net.encode(x.numpy().astype(dtype)), expected)
    assert net.double().encode(x).dtype == torch.float64


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.layers[0].filters.copy_(net.layers[0].filters.flip(0).roll(1, -1)),
        lambda net: net.layers[1].filters[0].neg_(),
        lambda net: net.layers[0].set_filters_(torch.randn(6, 9, generator=seeded(3))),
        lambda net: nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(net.parameters()).flip(0), net.parameters()
        ),
        lambda net: net.fit_filters_(images(20), patches=200, generator=0),
        lambda net: net.load_state_dict(small().double().float().state_dict()),
    ],
    ids=["copied", "negated", "set", "from a vector", "fitted", "loaded"],
)
def test_projections_kept_in_eval_mode_follow_the_filters(change):
    net, x = small().eval(), images(3)
    with torch.no_grad():
        net.layers[0].filters.mul_(1)
        net(x)
        change(net)
        kept = net(x)
        assert torch.equal(kept, net.train()(x))


def test_projections_kept_in_eval_mode_follow_filters_that_take_the_place_of_others():
    """New filters may have the address of old ones that are gone."""
    net, x = small().eval(), images(1)
    for seed in range(100):
        net(x)
        for other in (0, 1):
            net.layers[0].set_filters_(torch.randn(6, 9, generator=seeded(2 * seed + other)))
        assert torch.equal(net(x), copy.deepcopy(net)(x)), seed


def test_projections_kept_in_eval_mode_follow_an_optimizer():
    net, x = small().requires_grad_(True).eval(), images(3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with torch.no_grad():
        net(x)
    net(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(net(x), net.train()(x))


def test_projections_kept_in_inference_mode_serve_gradients_later():
    net, x = small().eval(), images(2)
    with torch.inference_mode():
        net(x)
    x.requires_grad_()
    net(x).sum().backward()
    assert torch.isfinite(x.grad).all()


# ---------------------------------------------------------------------------------------------------------- gradients


def test_gradients_reach_the_input_but_not_frozen_filters():
    net, x = small(), images(2).requires_grad_()
    for mode in (True, False):
        x.grad = None
        net.train(mode)(x).sum().backward()
        assert float(x.grad.abs().sum()) > 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("form", ["root", "eigenvalue"])
@pytest.mark.parametrize("text", ["2 exp(0.6) avg2 | 2 poly2 -", "2 inverse - | 2 exp(1) gauss2"])
def test_gradients_of_filters_and_input(text, form):
    net = CKN(text, 1, (3, 4), axes=1, regularization=form, generator=0).double().requires_grad_(True)
    names = [name for name, _ in net.named_parameters()]
    x = images(2, 1, (5,), dtype=torch.float64).requires_grad_()

    def function(x, *filters):
        filters = [nn.functional.normalize(f.flatten(1)).reshape(f.shape) for f in filters]  # along the sphere
        return torch.func.functional_call(net, dict(zip(names, filters, strict=True)), (x,))

    filters = [p.detach().clone().requires_grad_() for p in net.parameters()]
    for mode in (True, False):
        net.train(mode)
        assert torch.autograd.gradcheck(function, (x, *filters), atol=1e-5)


def test_gradients_of_distances_and_norms():
    net = CKN("2 exp(0.6) avg2 | 2 poly2 -", 1, (3, 4), axes=1, generator=0).double()
    x, y = (images(2, 1, (5,), seed, dtype=torch.float64).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(net.distance, (x, y))
    assert torch.autograd.gradcheck(net.norm, (x,))
    assert net.float().norm(x.float()).dtype == torch.float64


def test_gradients_are_finite_at_identical_and_at_zero_inputs():
    net = small()
    x = images(2).requires_grad_()
    net.distance(x, x.detach().clone()).sum().backward()
    zero = torch.zeros(1, 1, 8, 8, requires_grad=True)
    net.norm(zero).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(zero.grad).all()


def test_filters_learn():
    """A few steps along the sphere lower a loss of features."""
    net, x = small().requires_grad_(True), images(8)
    target = CKN(TWO_LAYERS, 1, (6, 9), generator=5)(x).detach()
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.02), []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append((net(x) - target).square().sum())
        losses[-1].backward()
        optimizer.step()
        with torch.no_grad():
            for filters in net.parameters():
                filters.div_(filters.flatten(1).norm(dim=1)[:, None, None, None])
    assert losses[-1] < 0.7 * losses[0]


# ------------------------------------------------------------------------------------------------------------ fitting


def test_fitting_is_reproducible_and_returns_the_network():
    x = images(20)
    nets = [small().fit_filters_(x, patches=300, generator=seed) for seed in (0, 0, 1)]
    assert torch.equal(nets[0](x), nets[1](x))
    assert not torch.equal(nets[0](x), nets[2](x))
    net = small()
    assert net.fit_filters_(x, patches=300, generator=0) is net


@pytest.mark.parametrize("training", [True, False])
def test_fitting_leaves_modes_and_frozen_filters_as_they_were(training):
    net = small().train(training)
    net.layers[1].train(not training)
    net.fit_filters_(images(20), patches=300, generator=0)
    assert net.layers[0].training == training
    assert net.layers[1].training != training
    assert not any(p.requires_grad for p in net.parameters())


def test_fitting_learns_only_from_the_layers_below():
    """The first layer's filters are the same, whatever follows."""
    x = images(20)
    short = CKN("3 exp(0.6) gauss2", 1, (6,), generator=0).fit_filters_(x, patches=300, generator=0)
    long = small().fit_filters_(x, patches=300, generator=0)
    assert torch.equal(short.layers[0].filters, long.layers[0].filters)


def test_fitting_signals_arrays_and_float64():
    x = np.random.RandomState(0).rand(20, 3, 15)
    net = CKN(TWO_LAYERS, 3, (6, 9), axes=1, generator=0).double().fit_filters_(x, patches=300, generator=0)
    assert net.dtype == torch.float64
    norms = net.layers[1].filters.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)


def test_fewer_filters_than_asked_for_only_if_allowed():
    x = torch.ones(3, 1, 8, 8)  # nine distinct patches of 3 x 3, by how they meet the border
    net = CKN(TWO_LAYERS, 1, (20, 20), generator=0)
    with pytest.raises(ValueError, match="^layer 1: filters: expected at most 9 filters.* got 20"):
        net.fit_filters_(x, generator=0)
    net.fit_filters_(x, generator=0, allow_fewer=True)
    assert net.filters[0] == 9
    assert net(x).shape[1] == net.filters[1] <= 20


def test_progress_counts_the_layers():
    steps = []
    small().fit_filters_(images(9), patches=100, generator=0, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, (6,)), {}, "^filters: expected 2 positive whole numbers"),
        ((1, (6, 0)), {}, "^filters: "),
        ((1, "69"), {}, "^filters: "),
        ((1, (6, 2.5)), {}, "^filters: "),
        ((0, (6, 9)), {}, "^in_channels: "),
        ((1.5, (6, 9)), {}, "^in_channels: "),
        ((1, (6, 9)), {"axes": 3}, "^axes: "),
        ((1, (6, 9)), {"epsilon": -1}, "^epsilon: "),
        ((1, (6, 9)), {"regularization": "none"}, "^regularization: "),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        CKN(TWO_LAYERS, *arguments, **options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images(2, 3), r"^x: expected shape \(n, 1, height, width\), got \(2, 3, 8, 8\)"),
        (images(2, 1, (8,)), r"^x: expected shape \(n, 1, height, width\), got \(2, 1, 8\)"),
        (images(2)[0], r"^x: expected shape \(n, 1, height, width\)"),
        (images(2, 1, (2, 8)), "layer 1: expected a patch of at most 2"),
    ],
)
def test_signals_that_do_not_suit_are_refused(x, message):
    net = small()
    for function in (net, net.encode, net.fit_filters_):
        with pytest.raises(ValueError, match=message):
            function(x)


@pytest.mark.parametrize("patches", [0, -5, 2.5, True])
def test_numbers_of_patches_are_checked(patches):
    with pytest.raises(ValueError, match="^patches: expected a whole number of at least 1"):
        small().fit_filters_(images(3), patches=patches)


def test_signals_of_zeros_have_no_filters():
    with pytest.raises(ValueError, match="patches that are not all zero"):
        small().fit_filters_(torch.zeros(3, 1, 8, 8))

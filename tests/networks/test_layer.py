"""One Nyström layer: exact on its anchors, a projection elsewhere, and as symmetric as its filters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.layer import CKNLayer

BOUNDARIES = ("zero", "valid", "circular")
KERNELS = ["exp(0.6)", "arccos0", "arccos1", "poly2", "poly3", "inverse", "vovk3", "poly(1,3)", "linear"]
LIPSCHITZ_KERNELS = [name for name in KERNELS if name != "arccos0"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def signals(n, channels, space, seed=0):
    return torch.randn(n, channels, *space, generator=seeded(seed), dtype=torch.float64)


def make(text, channels, filters, *, boundary="zero", axes=2, epsilon=0.0, seed=0, **options):
    arch = Architecture.parse(text, boundary=boundary)
    layer = CKNLayer(arch, arch.layers[0], channels, filters, axes=axes, epsilon=epsilon, **options).double()
    size = channels * arch.layers[0].patch ** axes
    return layer.set_filters_(torch.randn(filters, size, generator=seeded(seed), dtype=torch.float64))


def on_rows(text, anchors, **options):
    """A layer of single positions: psi(z) for rows z."""
    layer = make(text, anchors.shape[1], len(anchors), axes=1, **options).set_filters_(anchors)
    return lambda z: layer(z[:, :, None])[:, :, 0]


# ------------------------------------------------------------------------------------------------------------ anchors


@pytest.mark.parametrize("kernel", KERNELS)
def test_inner_products_of_anchors_are_their_kernel(kernel):
    anchors = functional.normalize(signals(12, 5, ()))
    psi = on_rows(f"1 {kernel} -", anchors)
    expected = ConvKernel(f"1 {kernel} -").gram(anchors)
    tolerance = 1e-7 if kernel == "arccos0" else 1e-10  # arc-cosine 0 is good to 1e-8 only near 1
    torch.testing.assert_close(psi(anchors) @ psi(anchors).T, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_anchor_has_its_exact_kernel_with_everything(kernel):
    """<P phi(z), phi(z')> = <phi(z), phi(z')> where P projects on a space that holds phi(z); lengths do not matter."""
    anchors, others = functional.normalize(signals(10, 5, ())), 3 * signals(6, 5, (), seed=1)
    psi = on_rows(f"1 {kernel} -", anchors)
    torch.testing.assert_close(
        psi(2 * anchors) @ psi(others).T,
        ConvKernel(f"1 {kernel} -").gram(2 * anchors, others),
        rtol=1e-8,
        atol=1e-9,
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_error_falls_monotonically_for_nested_anchors(kernel):
    samples, anchors = signals(40, 6, ()), functional.normalize(signals(32, 6, (), seed=1))
    gram = ConvKernel(f"1 {kernel} -").gram(samples)
    errors, previous = [], torch.full((40,), math.inf, dtype=torch.float64)
    for count in (1, 2, 4, 8, 16, 32):
        features = on_rows(f"1 {kernel} -", anchors[:count])(samples)
        residual = gram - features @ features.T  # the kernel of what is orthogonal to the span
        assert torch.linalg.eigvalsh(residual)[0] > -1e-9
        each = residual.diagonal()
        assert (each <= previous + 1e-9).all()
        previous = each
        errors.append(float(each.sum()))
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("kernel", ["linear", "poly2"])
def test_kernels_of_finite_dimension_are_exact_with_that_many_anchors(kernel):
    samples = signals(20, 3, ())
    dimension = {"linear": 3, "poly2": 6}[kernel]
    for extra in (0, 5):  # with more anchors the small matrix is singular
        psi = on_rows(f"1 {kernel} -", signals(dimension + extra, 3, (), seed=1))
        torch.testing.assert_close(
            psi(samples) @ psi(samples).T, ConvKernel(f"1 {kernel} -").gram(samples), rtol=0, atol=1e-8
        )


# --------------------------------------------------------------------------------------------------------- projection


@settings(max_examples=50, deadline=None)
@given(
    kernel=st.sampled_from(LIPSCHITZ_KERNELS),
    boundary=st.sampled_from(BOUNDARIES),
    patch=st.integers(1, 4),
    pool=st.sampled_from(["-", "avg2", "stride2", "avg3/1", "global"]),
    axes=st.sampled_from([1, 2]),
    filters=st.integers(1, 20),
    epsilon=st.sampled_from([0.0, 0.01, 1.0]),
    form=st.sampled_from(["root", "eigenvalue"]),
    seed=st.integers(0, 1000),
    step=st.sampled_from([1e-4, 0.1, 5.0]),
)
def test_layer_is_lipschitz_and_never_increases_norms(
    kernel, boundary, patch, pool, axes, filters, epsilon, form, seed, step
):
    layer = make(
        f"{patch} {kernel} {pool}",
        2,
        filters,
        boundary=boundary,
        axes=axes,
        epsilon=epsilon,
        seed=seed,
        regularization=form,
    )
    x = signals(3, 2, (8, 7)[:axes], seed)
    y = x + step * signals(3, 2, (8, 7)[:axes], seed + 1)
    moved = (layer(x) - layer(y)).flatten(1).norm(dim=1)
    assert (moved <= layer.layer.kernel.lipschitz * (x - y).flatten(1).norm(dim=1) * (1 + 1e-9)).all()
    assert (layer(x).flatten(1).norm(dim=1) <= x.flatten(1).norm(dim=1) * (1 + 1e-9)).all()


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from(KERNELS),
    boundary=st.sampled_from(BOUNDARIES),
    pool=st.sampled_from(["-", "avg2", "stride2", "global"]),
    filters=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_layer_moves_no_further_than_the_exact_representation(kernel, boundary, pool, filters, seed):
    layer = make(f"3 {kernel} {pool}", 2, filters, boundary=boundary, axes=1, seed=seed)
    x, y = signals(3, 2, (9,), seed), signals(3, 2, (9,), seed + 1)
    exact = ConvKernel(layer.arch)
    assert ((layer(x) - layer(y)).flatten(1).norm(dim=1) <= exact.distance(x, y) + 1e-6).all()
    assert (layer(x).flatten(1).norm(dim=1) <= exact.norm(x) + 1e-6).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_layer_is_homogeneous_and_maps_zero_to_zero(kernel):
    layer = make(f"3 {kernel} avg2", 2, 6)
    x = signals(2, 2, (6, 6))
    for a in (1e-6, 0.5, 1e6):
        torch.testing.assert_close(layer(a * x), a * layer(x), rtol=1e-10, atol=a * 1e-10)
    x[:, :, :4] = 0
    assert torch.isfinite(layer(x)).all()
    assert (layer(0 * x) == 0).all()


# --------------------------------------------------------------------------------------------------------- symmetries


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shift", [(1, 0), (3, 5)])
def test_on_the_torus_layers_commute_with_translations(kernel, shift):
    layer = make(f"3 {kernel} gauss2/1", 2, 7, boundary="circular")
    x = signals(2, 2, (8, 6))
    torch.testing.assert_close(layer(x.roll(shift, (2, 3))), layer(x).roll(shift, (2, 3)), rtol=1e-9, atol=1e-9)


def test_on_the_torus_translations_by_the_stride_move_pooled_maps_by_one():
    layer = make("2 exp(0.6) gauss2", 2, 7, boundary="circular", axes=1)
    x = signals(2, 2, (8,))
    torch.testing.assert_close(layer(x.roll(2, 2)), layer(x).roll(1, 2), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer(x.roll(-4, 2)), layer(x).roll(-2, 2), rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.sampled_from(KERNELS),
    boundary=st.sampled_from(BOUNDARIES),
    patch=st.integers(1, 4),
    pool=st.sampled_from(["-", "avg2", "stride2", "avg3/1", "avg3", "global"]),
    width=st.integers(8, 10),
)
def test_layers_commute_with_flips_up_to_the_order_of_filters(kernel, boundary, patch, pool, width):
    if boundary == "circular" and patch % 2 == 0:
        patch += 1  # an even patch on the torus leans to one side
    layer = make(f"{patch} {kernel} {pool}", 2, 4, boundary=boundary)
    half = layer.filters.detach()
    layer.set_filters_(torch.cat([half, half.flip(3)]).flatten(1))
    swapped = [4, 5, 6, 7, 0, 1, 2, 3]
    x = signals(2, 2, (7, width))
    torch.testing.assert_close(layer(x.flip(3)), layer(x).flip(3)[:, swapped], rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------------------------ filters


def test_filters_are_unit_vectors_and_frozen():
    layer = make("3 exp(0.6) -", 2, 5)
    torch.testing.assert_close(layer.filters.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert layer.filters.shape == (5, 2, 3, 3)
    assert not layer.filters.requires_grad


def test_new_filters_may_be_more_and_of_more_channels():
    layer = make("3 exp(0.6) -", 2, 5).set_filters_(signals(9, 4 * 9, ()))
    assert layer.filters.shape == (9, 4, 3, 3)
    assert layer(signals(2, 4, (6, 6))).shape == (2, 9, 6, 6)


def test_new_filters_keep_asking_for_a_gradient():
    layer = make("3 exp(0.6) -", 2, 5).requires_grad_(True)
    assert layer.set_filters_(signals(5, 18, ())).filters.requires_grad


@pytest.mark.parametrize(("form", "epsilon"), [("root", 0.01), ("eigenvalue", 0.001)])
def test_default_epsilon_is_the_published_one(form, epsilon):
    arch = Architecture.parse("3 exp(0.6) -")
    assert CKNLayer(arch, arch.layers[0], 1, 2, regularization=form).epsilon == epsilon


@pytest.mark.parametrize("form", ["root", "eigenvalue"])
def test_projection_is_the_regularized_inverse_root_of_the_anchors_kernel(form):
    layer = make("3 exp(0.6) -", 2, 5, epsilon=0.1, regularization=form)
    flat = layer.filters.flatten(1)
    values, vectors = torch.linalg.eigh(torch.exp((flat @ flat.T - 1) / 0.36))
    inverse = 1 / (values.sqrt() + 0.1) if form == "root" else (values + 0.1).rsqrt()
    torch.testing.assert_close(layer.projection(), (vectors * inverse) @ vectors.T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularization": "roots"}, "^regularization: expected 'root' or 'eigenvalue', got 'roots'"),
        ({"epsilon": -1.0}, "^epsilon: expected 0 or more"),
        ({"epsilon": math.nan}, "^epsilon: expected 0 or more"),
        ({"epsilon": math.inf}, "^epsilon: expected 0 or more"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arch = Architecture.parse("3 exp(0.6) -")
    with pytest.raises(ValueError, match=message):
        CKNLayer(arch, arch.layers[0], 1, 2, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's, of torch itself
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiled_once_it_gives_the_same_numbers_and_gradients(mode):
    from hilbertnet import CKN

    net = CKN("3 exp(0.6) gauss2 | 2 arccos1 avg2 | 1 poly2 global", 1, (6, 7, 5), generator=0).requires_grad_()
    net.train(mode == "train")
    compiled = torch.compile(net, fullgraph=True)
    x = torch.rand(4, 1, 10, 9, generator=torch.Generator().manual_seed(0))
    plain, fast = net(x), compiled(x)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)
    parameters = list(net.parameters())
    expected = torch.autograd.grad(plain.square().sum(), parameters)
    found = torch.autograd.grad(fast.square().sum(), parameters)
    for one, two in zip(found, expected, strict=True):
        assert (one - two).norm() <= 1e-3 * two.norm()

"""The recursion against features written out, random networks, closed recursions and symmetries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import antialias, extract_patches, pool_features
from hilbertnet.kernels import ConvKernel

BOUNDARIES = ("zero", "valid", "circular")
SPACES = {1: (9,), 2: (8, 9)}


def signals(n, channels, space, seed=0):
    return torch.randn(n, channels, *space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- finite features


def square_features(arch, x):
    """The features of kappa(u) = u^2, written out: phi(z) = z (x) z / ||z||."""
    x = antialias(x, arch.sigma0, arch)
    for layer in arch.layers:
        patches = extract_patches(x, layer.patch, arch)
        z, grid = patches.flatten(2), patches.shape[2:]
        products = torch.einsum("niu,nju->niju", z, z).flatten(1, 2)
        norms = z.norm(dim=1, keepdim=True)
        mapped = torch.where(norms > 0, products / norms.clamp(min=1e-300), 0.0)
        x = pool_features(mapped.unflatten(2, grid), layer.pool, arch)
    return x.flatten(1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("text", ["3 poly2 gauss2 | 2 poly2 avg2", "2 poly2 - | 2 poly2 global", "1 poly2 stride2"])
def test_kernel_of_squares_is_the_product_of_its_finite_features(text, axes, boundary):
    if boundary == "valid":
        text = text.replace("gauss2", "avg2")
    arch = Architecture.parse(text, boundary=boundary)
    channels = 3 - axes
    x, y = signals(3, channels, SPACES[axes], seed=1), signals(2, channels, SPACES[axes], seed=2)
    expected = square_features(arch, x) @ square_features(arch, y).T
    torch.testing.assert_close(ConvKernel(arch).gram(x, y), expected, rtol=1e-12, atol=1e-12 * float(expected.max()))


def test_kernel_of_squares_in_the_published_layout_and_behind_the_anti_aliasing():
    x = signals(3, 1, (10, 10))
    arch = Architecture.parse("3 poly2 gauss2 | 2 poly2 avg2", layout="ckn_kernel", sigma0=0.7)
    features = square_features(arch, x)
    torch.testing.assert_close(ConvKernel(arch).gram(x), features @ features.T, rtol=1e-12, atol=1e-12)


def test_linear_layers_on_the_torus_keep_inner_products():
    x = signals(4, 3, (5, 8))
    kernel = ConvKernel(Architecture.parse("3 linear - | 2 linear -", boundary="circular"))
    torch.testing.assert_close(kernel.gram(x), x.flatten(1) @ x.flatten(1).T, rtol=1e-12, atol=1e-12)


def test_one_zero_padded_layer_against_unfold_written_by_others():
    """Patches by torch's own ``unfold``, pooling by its ``avg_pool2d``: nothing of this library's operators."""
    x = signals(3, 2, (8, 8))
    z = functional.unfold(x, 3, padding=1) / 3  # (n, entries, positions)
    inner = torch.einsum("niu,miv->nmuv", z, z)
    norms = z.norm(dim=1)
    products = norms[:, None, :, None] * norms[None, :, None, :]
    mapped = products * torch.exp(((inner / products) - 1) / 0.6**2)
    pooled = functional.avg_pool2d(mapped.reshape(-1, 1, 8, 8), 2).reshape(-1, 64, 16)
    pooled = functional.avg_pool2d(pooled.movedim(1, 2).reshape(-1, 1, 8, 8), 2).reshape(3, 3, 16, 16)
    expected = pooled.diagonal(dim1=2, dim2=3).sum(-1)
    torch.testing.assert_close(ConvKernel("3 exp(0.6) avg2").gram(x), expected, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------- networks of widths


def assert_close_to_mean(draws, expected, errors=4.0):
    """The mean of independent draws lies within a few of its standard errors of what is expected."""
    draws = torch.stack(draws)
    error = draws.std(0) / math.sqrt(len(draws))
    assert (error < 0.025 * expected.abs().max()).all()  # else the test sees nothing
    assert ((draws.mean(0) - expected).abs() < errors * error).all()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("axes", [1, 2])
def test_arc_cosine_is_the_mean_over_random_relu_networks(axes, boundary):
    arch = Architecture.parse("3 arccos1 avg2 | 2 arccos1 avg2", boundary=boundary)
    x, rng, width, draws = signals(3, 2, SPACES[axes]), torch.Generator().manual_seed(0), 600, []
    for _ in range(40):
        maps = x
        for layer in arch.layers:
            z = extract_patches(maps, layer.patch, arch)
            weight = torch.randn(width, z.shape[1], generator=rng, dtype=torch.float64)
            random = torch.einsum("wi,ni...->nw...", weight, z).relu() * math.sqrt(2 / width)
            maps = pool_features(random, layer.pool, arch)
        draws.append(maps.flatten(1) @ maps.flatten(1).T)
    assert_close_to_mean(draws, ConvKernel(arch).gram(x))


class TangentNetwork(nn.Module):
    """``a_k = A relu(W_k P sqrt(2/m) a_{k-1})``, ``f = sqrt(2/m) <w, a_n>``, all weights standard normal."""

    def __init__(self, arch, x, width, rng):
        super().__init__()
        self.arch, self.width, self.weights = arch, width, nn.ParameterList()
        channels, space = x.shape[1], tuple(x.shape[2:])
        for layer in arch.layers:
            shape = (width, channels * layer.patch ** len(space))
            self.weights.append(torch.randn(shape, generator=rng, dtype=torch.float64))
            channels = width
        last = (width, *arch.shapes(space)[-1][1])
        self.last = nn.Parameter(torch.randn(last, generator=rng, dtype=torch.float64))

    def forward(self, x):
        for k, (layer, weight) in enumerate(zip(self.arch.layers, self.weights, strict=True)):
            z = extract_patches(x if k == 0 else x * math.sqrt(2 / self.width), layer.patch, self.arch)
            x = pool_features(torch.einsum("wi,ni...->nw...", weight, z).relu(), layer.pool, self.arch)
        return math.sqrt(2 / self.width) * (x * self.last).flatten(1).sum(1)


def empirical_tangent_kernel(network, x):
    rows = [torch.autograd.grad(network(one[None])[0], list(network.parameters())) for one in x]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return jacobian @ jacobian.T


@pytest.mark.slow
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_tangent_kernel_is_that_of_wide_networks(boundary):
    arch = Architecture.parse("3 arccos1 avg2 | 3 arccos1 avg2", boundary=boundary)
    x, rng = signals(3, 2, (12,)), torch.Generator().manual_seed(0)
    draws = [empirical_tangent_kernel(TangentNetwork(arch, x, 200, rng), x) for _ in range(240)]
    assert_close_to_mean(draws, ConvKernel(arch, "ntk").gram(x))


@pytest.mark.slow
def test_tangent_kernel_in_two_dimensions_and_three_layers():
    arch = Architecture.parse("3 arccos1 - | 3 arccos1 avg2 | 2 arccos1 global")
    x, rng = signals(3, 1, (6, 5)), torch.Generator().manual_seed(0)
    draws = [empirical_tangent_kernel(TangentNetwork(arch, x, 300, rng), x) for _ in range(200)]
    assert_close_to_mean(draws, ConvKernel(arch, "ntk").gram(x))


# ------------------------------------------------------------------------------------------------- fully connected


def kappa0(u):
    return (math.pi - math.acos(u)) / math.pi


def kappa1(u):
    return (u * (math.pi - math.acos(u)) + math.sqrt(1 - u * u)) / math.pi


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_deep_kernels_of_rows_follow_the_recursion_on_cosines(depth):
    x, y = signals(4, 6, ()).numpy(), signals(3, 6, (), seed=1).numpy()
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    random_features, tangent = np.empty((4, 3)), np.empty((4, 3))
    for index, u in np.ndenumerate(x @ y.T / norms):
        theta = u
        for _ in range(depth):
            u, theta = kappa1(u), theta * kappa0(u) + kappa1(u)
        random_features[index], tangent[index] = u, theta
    first, second = ConvKernel(" | ".join(["1 arccos1 -"] * depth)).gram_pair(x, y)
    np.testing.assert_allclose(first, norms * random_features, rtol=1e-12)
    np.testing.assert_allclose(second, norms * tangent, rtol=1e-12)


def test_shallow_relu_kernels_have_their_known_values():
    """Values of k1(u) and u k0(u) + k1(u) computed with more digits elsewhere."""
    u = np.array([-0.5, 0.0, 0.3, 0.5, 0.9])
    y = np.stack([u, np.sqrt(1 - u * u)], axis=1)
    first, second = ConvKernel("1 arccos1 -").gram_pair(np.array([[1.0, 0.0]]), y)
    expected = [0.108997781044, 0.318309886184, 0.482744283835, 0.608997781044, 0.909538398845]
    np.testing.assert_allclose(first[0], expected, rtol=1e-11)
    expected = [-0.057668885622, 0.318309886184, 0.661840289042, 0.942331114378, 1.680328735029]
    np.testing.assert_allclose(second[0], expected, rtol=1e-10)


def test_exponential_kernel_of_unit_rows_is_the_gaussian_kernel_of_scikit_learn():
    from sklearn.metrics.pairwise import rbf_kernel

    x = functional.normalize(signals(5, 4, ())).numpy()
    np.testing.assert_allclose(ConvKernel("1 exp(0.6) -").gram(x), rbf_kernel(x, gamma=0.5 / 0.6**2), rtol=1e-12)


# -------------------------------------------------------------------------------------------------------- symmetries

KINDS = st.sampled_from(["ckn", "ntk"])
KERNELS = st.sampled_from(["exp(0.6)", "arccos1", "poly3", "inverse", "vovk3", "poly(1,2)"])


@settings(max_examples=25, deadline=None)
@given(kernel=KERNELS, kind=KINDS, shift=st.tuples(st.integers(0, 7), st.integers(0, 7)), patch=st.integers(1, 4))
def test_on_the_torus_translated_images_have_the_same_kernel(kernel, kind, shift, patch):
    arch = Architecture.parse(f"{patch} {kernel} gauss2/1 | 3 {kernel} avg3/1", boundary="circular")
    x, y = signals(2, 1, (8, 8)), signals(2, 1, (8, 8), seed=1)
    moved = [a.roll(shift, (2, 3)) for a in (x, y)]
    torch.testing.assert_close(
        ConvKernel(arch, kind).gram(*moved), ConvKernel(arch, kind).gram(x, y), rtol=1e-11, atol=0
    )


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_on_the_torus_translations_by_the_total_stride_change_nothing_and_others_do(kind):
    arch = Architecture.parse("3 exp(0.6) gauss2 | 2 exp(0.6) avg2", boundary="circular")
    x, y = signals(2, 1, (12,)), signals(2, 1, (12,), seed=1)
    gram = ConvKernel(arch, kind).gram
    torch.testing.assert_close(gram(x.roll(4, 2), y.roll(4, 2)), gram(x, y), rtol=1e-11, atol=0)
    assert (gram(x.roll(1, 2), y.roll(1, 2)) / gram(x, y) - 1).abs().max() > 1e-4


@settings(max_examples=40, deadline=None)
@given(
    boundary=st.sampled_from(BOUNDARIES),
    kernel=KERNELS,
    kind=KINDS,
    patch=st.integers(1, 4),
    pool=st.sampled_from(["-", "gauss2", "avg2", "avg3/2", "stride2", "gauss3/1", "avg3", "global"]),
    height=st.integers(9, 12),
    dims=st.sampled_from([(2,), (3,), (2, 3)]),
)
def test_flipped_images_have_the_same_kernel(boundary, kernel, kind, patch, pool, height, dims):
    if boundary == "circular" and patch % 2 == 0:
        patch += 1  # an even patch on the torus leans to one side
    if boundary == "valid":
        pool = pool.replace("gauss2", "avg2").replace("gauss3/1", "avg3/1")
    arch = Architecture.parse(f"{patch} {kernel} {pool}", boundary=boundary)
    x, y = signals(2, 1, (height, 10)), signals(2, 1, (height, 10), seed=1)
    flipped = ConvKernel(arch, kind).gram(x.flip(dims), y.flip(dims))
    torch.testing.assert_close(flipped, ConvKernel(arch, kind).gram(x, y), rtol=1e-11, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    boundary=st.sampled_from(BOUNDARIES),
    kernel=st.sampled_from(["exp(0.6)", "exp(1)", "arccos1", "poly2", "inverse", "vovk3", "linear", "poly(1,2)"]),
    patch=st.integers(1, 4),
    pool=st.sampled_from(["-", "gauss2", "avg2", "stride2", "gauss3/1", "avg3/1", "global"]),
    length=st.integers(10, 13),
    seed=st.integers(0, 1000),
    step=st.sampled_from([1e-3, 0.1, 3.0]),
)
def test_representation_is_lipschitz_with_the_stated_constant(boundary, kernel, patch, pool, length, seed, step):
    if boundary == "valid":
        pool = pool.replace("gauss2", "avg2").replace("gauss3/1", "avg3/1")
    arch = Architecture.parse(f"{patch} {kernel} {pool} | {1 if pool == 'global' else 2} {kernel} -", boundary=boundary)
    x = signals(3, 2, (length,), seed)
    y = x + step * signals(3, 2, (length,), seed + 1)
    kernel = ConvKernel(arch)
    moved = (x - y).flatten(1).norm(dim=1)
    assert (kernel.distance(x, y) <= arch.lipschitz * moved * (1 + 1e-6)).all()
    assert (kernel.norm(x) <= x.flatten(1).norm(dim=1) * (1 + 1e-12)).all()


def test_lipschitz_constant_is_reached_by_small_steps_of_a_patch():
    """One position, exp(0.6): a small step across the sphere is stretched by sqrt(kappa'(1)) = 1/0.6."""
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[math.cos(1e-3), math.sin(1e-3)]], dtype=torch.float64)
    kernel = ConvKernel("1 exp(0.6) -")
    stretch = float(kernel.distance(x, y)[0]) / float((x - y).norm())
    assert stretch == pytest.approx(kernel.arch.lipschitz, rel=1e-5)

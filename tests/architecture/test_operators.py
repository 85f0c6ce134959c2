"""P, A and A_0 against loops over positions written from their definitions, and their properties."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from hilbertnet.architecture import Architecture, AveragePool, GaussianPool, GlobalPool, Layer, Linear, Subsample
from hilbertnet.architecture.operators import (
    antialias,
    extract_patches,
    gram_patches,
    gram_pool,
    patch_length,
    patch_norms,
    pool_features,
    pooled_length,
    pooling_matrix,
)


def conventions(boundary: str = "zero", layout: str = "hilbertnet") -> Architecture:
    return Architecture([Layer(1, Linear())], boundary=boundary, layout=layout)


CONVENTIONS = [conventions("zero"), conventions("valid"), conventions("circular"), conventions("zero", "ckn_kernel")]
ids = ["zero", "valid", "circular", "ckn_kernel"]
every_convention = pytest.mark.parametrize("rules", CONVENTIONS, ids=ids)
boundaries = st.sampled_from(CONVENTIONS[:3])
pools = st.one_of(
    st.builds(GaussianPool, st.integers(1, 4), st.none() | st.integers(1, 5)),
    st.builds(AveragePool, st.integers(1, 4), st.none() | st.integers(1, 5)),
    st.builds(Subsample, st.integers(1, 4)),
    st.just(GlobalPool()),
)
spaces = st.lists(st.integers(1, 12), min_size=1, max_size=2).map(tuple)


def signals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Inner products over channels at all pairs of positions, (n, m, *space, *space)."""
    flat = torch.einsum("ncu,mcv->nmuv", x.flatten(2), y.flatten(2))
    return flat.reshape(len(x), len(y), *x.shape[2:], *y.shape[2:])


def flip_space(x: torch.Tensor, axes: int) -> torch.Tensor:
    return x.flip(tuple(range(x.ndim - axes, x.ndim)))


# ----------------------------------------------------------------------------------- references written as loops


def window(length: int, patch: int, rules: Architecture) -> tuple[int, int]:
    """Number of patches along an axis, and the offset of a patch's first pixel from its position."""
    if rules.layout == "ckn_kernel":
        return length, -(patch // 2)
    if rules.boundary == "valid":
        return length - patch + 1, 0
    if rules.boundary == "circular":
        return length, -((patch - 1) // 2)
    return (length, -(patch // 2)) if patch % 2 else (length + 1, -(patch // 2))


def naive_patches(x: np.ndarray, patch: int, rules: Architecture) -> np.ndarray:
    n, channels, *space = x.shape
    counts, starts = zip(*(window(length, patch, rules) for length in space), strict=True)
    result = np.zeros((n, channels, *[patch] * len(space), *counts))
    for position in itertools.product(*map(range, counts)):
        for offset in itertools.product(range(patch), repeat=len(space)):
            pixel = [u + a + v for u, a, v in zip(position, starts, offset, strict=True)]
            if rules.boundary == "circular":
                pixel = [p % length for p, length in zip(pixel, space, strict=True)]
            if all(0 <= p < length for p, length in zip(pixel, space, strict=True)):
                result[(slice(None), slice(None), *offset, *position)] = x[(slice(None), slice(None), *pixel)]
    scale = 1.0 if rules.layout == "ckn_kernel" else patch ** (-len(space) / 2)
    return result.reshape(n, -1, *counts) * scale


def naive_weights(pool, centre: Fraction) -> dict[int, float]:
    """Pixel to weight, for the continuous definition of each filter around a centre that may lie between pixels."""
    near = range(math.floor(centre) - 20, math.ceil(centre) + 21)
    if isinstance(pool, Subsample):
        weights = {j: float(max(0, 1 - abs(j - centre))) for j in near}
    elif isinstance(pool, AveragePool):
        half = Fraction(pool.window, 2)
        left, right = centre - half, centre + half
        overlap = {j: min(right, j + Fraction(1, 2)) - max(left, j - Fraction(1, 2)) for j in near}
        weights = {j: float(max(0, share) / pool.window) for j, share in overlap.items()}
    else:
        std = pool.window / math.sqrt(2)
        raw = {j: math.exp(-(float(j - centre) ** 2) / (2 * std**2)) for j in near if abs(j - centre) <= pool.window}
        weights = {j: weight / sum(raw.values()) for j, weight in raw.items()}
    return {j: weight for j, weight in weights.items() if weight > 0}


def naive_pooling(pool, length: int, rules: Architecture) -> np.ndarray:
    """The pooling matrix, row by row."""
    if isinstance(pool, GlobalPool):
        return np.full((1, length), 1 / length)
    if rules.layout == "ckn_kernel":
        return naive_legacy_pooling(pool, length)
    for count in range(math.ceil(length / pool.stride), 0, -1):
        first = Fraction(length - 1 - pool.stride * (count - 1), 2)
        rows = [naive_weights(pool, first + pool.stride * i) for i in range(count)]
        if rules.boundary != "valid" or all(0 <= j < length for row in rows for j in row):
            break
    else:
        return np.zeros((0, length))
    matrix = np.zeros((count, length))
    for i, row in enumerate(rows):
        for j, weight in row.items():
            if rules.boundary == "circular":
                matrix[i, j % length] += weight
            elif 0 <= j < length:
                matrix[i, j] += weight
    return matrix


def naive_legacy_pooling(pool, length: int) -> np.ndarray:
    """out[i] = sum_k w[k] in[s i + k]; gaussian and strided pooling lose one centre at the far edge."""
    stride = pool.stride
    if isinstance(pool, GaussianPool):
        f = pool.window
        weights = np.exp(-((np.arange(2 * f + 1) - f) ** 2) / f**2)
        weights, count = weights / weights.sum(), length // stride - 1
    elif isinstance(pool, AveragePool):
        weights, count = np.full(pool.window, 1 / pool.window), length // stride
    else:
        weights, count = np.eye(stride + 1)[stride], length // stride - 1
    matrix = np.zeros((max(count, 0), length))
    for i in range(count):
        for k, weight in enumerate(weights):
            if stride * i + k < length:
                matrix[i, stride * i + k] = weight
    return matrix


# --------------------------------------------------------------------------------------------------------- patches


@every_convention
@pytest.mark.parametrize("patch", [1, 2, 3, 4])
@pytest.mark.parametrize("space", [(7,), (4,), (5, 4), (4, 6)])
def test_patches_equal_the_loop(space, patch, rules):
    x = signals(2, 3, *space)
    patches = extract_patches(x, patch, rules)
    np.testing.assert_allclose(patches.numpy(), naive_patches(x.numpy(), patch, rules), rtol=0, atol=1e-15)
    assert tuple(patch_length(length, patch, rules) for length in space) == patches.shape[2:]


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_valid_patches_equal_unfold(patch):
    x = signals(2, 3, 6, 5)
    unfolded = functional.unfold(x, patch).unflatten(-1, (7 - patch, 6 - patch)) / patch
    torch.testing.assert_close(extract_patches(x, patch, conventions("valid")), unfolded, rtol=0, atol=1e-15)


@every_convention
@pytest.mark.parametrize("patch", [1, 2, 3, 4])
@pytest.mark.parametrize("space", [(7,), (5, 4)])
def test_patch_norms_are_the_norms_of_patches(space, patch, rules):
    x = signals(2, 3, *space)
    expected = extract_patches(x, patch, rules).norm(dim=1, keepdim=True)
    torch.testing.assert_close(patch_norms(x, patch, rules), expected, rtol=1e-14, atol=0)


@every_convention
@pytest.mark.parametrize("patch", [1, 2, 3, 4])
@pytest.mark.parametrize("space", [(7,), (4,), (5, 4), (4, 6)])
def test_patches_on_a_gram_tensor_equal_inner_products_of_patches(space, patch, rules):
    x, y = signals(2, 3, *space), signals(3, 3, *space, seed=1)
    expected = gram_of(extract_patches(x, patch, rules), extract_patches(y, patch, rules))
    computed = gram_patches(gram_of(x, y), patch, len(space), rules)
    torch.testing.assert_close(computed, expected, rtol=0, atol=5e-14)


@given(space=spaces, patch=st.integers(1, 4), rules=boundaries)
@settings(max_examples=60, deadline=None)
def test_patches_keep_norms_on_the_torus_and_never_increase_them(space, patch, rules):
    assume(patch <= min(space))
    x = signals(2, 2, *space)
    before, after = x.flatten(1).norm(dim=1), extract_patches(x, patch, rules).flatten(1).norm(dim=1)
    assert (after <= before * (1 + 1e-14)).all()
    if rules.boundary == "circular":
        torch.testing.assert_close(after, before, rtol=1e-14, atol=0)


@given(space=spaces, patch=st.integers(1, 4), rules=boundaries)
@settings(max_examples=60, deadline=None)
def test_flips_commute_with_patches(space, patch, rules):
    """On the torus an even patch has no middle: there they commute up to a shift by one."""
    assume(patch <= min(space))
    axes = len(space)
    x = signals(1, 2, *space)

    def with_offsets(y):
        return extract_patches(y, patch, rules).unflatten(1, (2, *[patch] * axes))

    expected = flip_space(with_offsets(x), 2 * axes)
    if rules.boundary == "circular" and patch % 2 == 0:
        expected = expected.roll([-1] * axes, dims=list(range(-axes, 0)))
    torch.testing.assert_close(with_offsets(flip_space(x, axes)), expected, rtol=0, atol=0)


@given(space=spaces, patch=st.integers(1, 4), shift=st.tuples(st.integers(-12, 12), st.integers(-12, 12)))
@settings(max_examples=40, deadline=None)
def test_translations_commute_with_patches_on_the_torus(space, patch, shift):
    assume(patch <= min(space))
    axes, x = len(space), signals(1, 2, *space)
    dims, rules = list(range(-axes, 0)), conventions("circular")
    moved = extract_patches(x.roll(shift[:axes], dims), patch, rules)
    torch.testing.assert_close(moved, extract_patches(x, patch, rules).roll(shift[:axes], dims), rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- pooling

POOLS = [
    GaussianPool(1),
    GaussianPool(2),
    GaussianPool(3),
    GaussianPool(1, 3),
    GaussianPool(3, 2),
    AveragePool(1),
    AveragePool(2),
    AveragePool(3),
    AveragePool(1, 2),
    AveragePool(2, 5),
    Subsample(1),
    Subsample(2),
    Subsample(3),
    GlobalPool(),
]


@every_convention
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling_matrix_equals_the_loop(pool, rules):
    for length in range(1, 14):
        expected = naive_pooling(pool, length, rules)
        if len(expected) == 0:
            with pytest.raises(ValueError, match="leaves nothing"):
                pooled_length(length, pool, rules)
            continue
        assert pooled_length(length, pool, rules) == len(expected)
        np.testing.assert_allclose(pooling_matrix(pool, length, rules).numpy(), expected, rtol=0, atol=1e-15)


@every_convention
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("space", [(9,), (9, 7)])
def test_pooling_features_applies_the_matrix_to_every_axis(pool, rules, space):
    x = signals(2, 3, *space)
    matrices = [torch.from_numpy(naive_pooling(pool, length, rules)) for length in space]
    if min(map(len, matrices)) == 0:
        pytest.skip("nothing is left")
    equation = "ncu,au->nca" if len(space) == 1 else "ncuv,au,bv->ncab"
    expected = torch.einsum(equation, x, *matrices)
    torch.testing.assert_close(pool_features(x, pool, rules), expected, rtol=0, atol=1e-14)


@every_convention
@pytest.mark.parametrize("pool", [GaussianPool(2), AveragePool(2), AveragePool(3, 2), Subsample(3), GlobalPool()])
@pytest.mark.parametrize("space", [(9,), (8, 7)])
def test_pooling_a_gram_tensor_equals_inner_products_of_pooled_signals(pool, rules, space):
    x, y = signals(2, 3, *space), signals(1, 3, *space, seed=1)
    expected = gram_of(pool_features(x, pool, rules), pool_features(y, pool, rules))
    torch.testing.assert_close(gram_pool(gram_of(x, y), pool, len(space), rules), expected, rtol=0, atol=1e-14)


def test_no_pooling_leaves_everything():
    x = signals(1, 2, 5)
    assert pool_features(x, None, conventions()) is x
    assert gram_pool(x, None, 1, conventions()) is x
    assert pooled_length(5, None, conventions()) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_keeps_the_dtype(dtype):
    x = signals(1, 2, 6, 6).to(dtype)
    assert pool_features(x, GaussianPool(2), conventions()).dtype == dtype
    assert antialias(x, 0.5, conventions()).dtype == dtype


def test_changing_a_returned_matrix_changes_no_later_one():
    first = pooling_matrix(GaussianPool(2), 8, conventions())
    kept = first.clone()
    first.zero_()
    torch.testing.assert_close(pooling_matrix(GaussianPool(2), 8, conventions()), kept, rtol=0, atol=0)


@given(length=st.integers(1, 24), pool=pools, rules=boundaries)
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_or_less_beside_a_zero_boundary(length, pool, rules):
    matrix = matrix_or_skip(pool, length, rules)
    assert matrix.min() >= 0
    if rules.boundary == "zero":
        assert matrix.sum(1).max() <= 1 + 1e-15
    else:
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64), rtol=0, atol=1e-15)


@given(length=st.integers(1, 24), pool=pools, rules=st.sampled_from(CONVENTIONS))
@settings(max_examples=60, deadline=None)
def test_pooling_never_increases_norms(length, pool, rules):
    assert torch.linalg.matrix_norm(matrix_or_skip(pool, length, rules), ord=2) <= 1 + 1e-14


@given(length=st.integers(1, 24), pool=pools, rules=boundaries)
@settings(max_examples=60, deadline=None)
def test_flips_commute_with_pooling(length, pool, rules):
    matrix = matrix_or_skip(pool, length, rules)
    torch.testing.assert_close(matrix.flip(0, 1), matrix, rtol=0, atol=1e-16)


@given(outputs=st.integers(1, 6), pool=pools, steps=st.integers(-6, 6))
@settings(max_examples=60, deadline=None)
def test_translations_by_the_stride_commute_with_pooling_on_the_torus(outputs, pool, steps):
    stride = 1 if isinstance(pool, GlobalPool) else pool.stride
    x, rules = signals(1, 2, outputs * stride), conventions("circular")
    moved = pool_features(x.roll(steps * stride, -1), pool, rules)
    torch.testing.assert_close(moved, pool_features(x, pool, rules).roll(steps, -1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("pool", [GaussianPool(2, 3), AveragePool(2, 3), Subsample(2)], ids=str)
def test_pooling_on_the_torus_does_not_commute_with_other_translations(pool):
    x, rules = signals(1, 1, 8), conventions("circular")
    moved, still = pool_features(x.roll(1, -1), pool, rules), pool_features(x, pool, rules)
    assert all(not torch.allclose(moved, still.roll(steps, -1)) for steps in range(4))


def matrix_or_skip(pool, length: int, rules: Architecture) -> torch.Tensor:
    try:
        return pooling_matrix(pool, length, rules)
    except ValueError:
        assume(False)
        raise


@every_convention
@pytest.mark.parametrize("side", [2, 3, 4])
def test_average_pooling_is_torch_average_pooling_where_it_divides_the_size(side, rules):
    x = signals(2, 3, 12, 24)
    expected = functional.avg_pool2d(x, side)
    torch.testing.assert_close(pool_features(x, AveragePool(side), rules), expected, rtol=0, atol=1e-15)


def test_global_pooling_is_the_mean():
    x = signals(2, 3, 5, 4)
    torch.testing.assert_close(
        pool_features(x, GlobalPool(), conventions()), x.mean((2, 3), keepdim=True), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(("length", "stride", "left"), [(28, 2, 14), (14, 5, 3), (32, 2, 16), (16, 5, 4), (7, 3, 3)])
@pytest.mark.parametrize("pool", [GaussianPool, AveragePool, Subsample])
@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_sizes_are_those_of_the_strides_rounded_up(length, stride, left, pool, boundary):
    assert pooled_length(length, pool(stride), conventions(boundary)) == left


@pytest.mark.parametrize("sizes", [(28, 2, 13, 5, 1), (32, 2, 15, 5, 2), (32, 2, 15, 2, 6, 2, 2)])
@pytest.mark.parametrize("pool", [GaussianPool, Subsample])
def test_sizes_of_the_published_code(sizes, pool):
    for length, stride, left in zip(sizes[:-2:2], sizes[1::2], sizes[2::2], strict=True):
        assert pooled_length(length, pool(stride), CONVENTIONS[3]) == left


@pytest.mark.parametrize(("length", "stride"), [(28, 2), (13, 5), (9, 4)])
def test_average_sizes_of_the_published_code_are_rounded_down(length, stride):
    assert pooled_length(length, AveragePool(stride), CONVENTIONS[3]) == length // stride


# ---------------------------------------------------------------------------------------------------- anti-aliasing


@pytest.mark.parametrize(("boundary", "mode"), [("zero", "constant"), ("valid", "constant"), ("circular", "wrap")])
@pytest.mark.parametrize("sigma0", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("space", [(15,), (9, 14), (5, 3)])
def test_antialiasing_equals_scipy(boundary, mode, sigma0, space):
    x = signals(2, 3, *space)
    axes = tuple(range(2, x.ndim))
    expected = gaussian_filter(x.numpy(), sigma0, mode=mode, truncate=4.0, axes=axes)
    computed = antialias(x, sigma0, conventions(boundary)).numpy()
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-14)


def test_antialiasing_by_zero_is_the_identity():
    x = signals(1, 1, 4)
    assert antialias(x, 0.0, conventions()) is x


@given(space=spaces, sigma0=st.floats(0.1, 3), rules=boundaries)
@settings(max_examples=40, deadline=None)
def test_antialiasing_never_increases_norms_and_commutes_with_flips(space, sigma0, rules):
    x = signals(1, 2, *space)
    smooth = antialias(x, sigma0, rules)
    assert smooth.norm() <= x.norm() * (1 + 1e-14)
    flipped = antialias(flip_space(x, len(space)), sigma0, rules)
    torch.testing.assert_close(flipped, flip_space(smooth, len(space)), rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------------ derivatives


@every_convention
def test_operators_are_differentiable(rules):
    x = signals(1, 2, 5, 4).requires_grad_()

    def both(x):
        return pool_features(extract_patches(x, 3, rules), AveragePool(2), rules)

    assert torch.autograd.gradcheck(both, (x,))
    assert torch.autograd.gradcheck(lambda x: patch_norms(x, 3, rules), (x,))

"""Operators of the theorem against dense matrices, loops and closed forms; their norms against svdvals."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from hilbertnet.architecture import (
    Architecture,
    AveragePool,
    GaussianPool,
    GlobalPool,
    Subsample,
)
from hilbertnet.architecture.operators import extract_patches
from hilbertnet.deformations import gradient_norm, scale_field, warp
from hilbertnet.stability.growth import commutator_growth, translation_growth, wave
from hilbertnet.stability.operators import (
    Operator,
    commutator,
    deformation,
    difference,
    identity,
    operator_norm,
    patches,
    patches_after_pooling,
    pooling,
)
from hilbertnet.stability.transport import Grid, layer_grids, sampling


def arch_of(text: str = "3 exp(1) gauss2 | 3 exp(1) gauss2", **rules) -> Architecture:
    return Architecture.parse(text, **rules)


def smooth_field(space: tuple[int, ...], seed: int = 0) -> Tensor:
    """A few random waves, shape (1, axes, *space)."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, len(space), *space, dtype=torch.float64)
    grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in space), indexing="ij")
    for k in range(len(space)):
        for _ in range(3):
            w = torch.randn(len(space) + 1, dtype=torch.float64, generator=generator)
            total[0, k] += torch.sin(2 * math.pi * (sum(a * g for a, g in zip(w, grids, strict=False)) + w[-1]))
    return total


def shift(space: tuple[int, ...], *pixels: int) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float64).view(1, -1, *[1] * len(space)).expand(1, -1, *space).clone()


def largest(operator: Operator) -> float:
    return float(torch.linalg.svdvals(operator.dense())[0])


# ------------------------------------------------------------------------------------------------------- norms

ARCH = arch_of(sigma0=0.8)
OPERATORS = {
    "pooling": pooling(GaussianPool(2), ARCH, (10, 9)),
    "patches": patches(3, ARCH, (10, 9)),
    "patches after pooling": patches_after_pooling(ARCH, 2, (10, 9)),
    "deformation": deformation(smooth_field((10, 9))),
    "commutator": commutator(patches_after_pooling(ARCH, 1, (10, 9)), deformation(smooth_field((10, 9)))),
    "difference": difference(pooling(GaussianPool(2), ARCH, (10, 9)), deformation(smooth_field((10, 9)))),
    "signal": commutator(patches(5, arch_of(), (60,)), deformation(smooth_field((60,)))),
}
every_operator = pytest.mark.parametrize("name", OPERATORS)


@every_operator
def test_both_norms_are_the_largest_singular_value(name):
    operator = OPERATORS[name]
    true = largest(operator)
    exact, iterated = operator_norm(operator), operator_norm(operator, dense=0, tolerance=0.02)
    assert exact.certain
    assert exact.value == pytest.approx(true, rel=1e-9)
    assert iterated.value <= true * (1 + 1e-9)
    assert iterated.value == pytest.approx(true, rel=1e-3)
    assert true <= iterated.upper * (1 + 1e-9)
    assert iterated.upper <= iterated.value * 1.0201


def test_the_upper_value_holds_also_where_singular_values_are_close():
    values = torch.linspace(1.0, 0.9, 400, dtype=torch.float64)  # no gap: the residual alone would say too much
    operator = Operator(lambda x: x * values, (400,))
    for seed in range(5):
        found = operator_norm(operator, dense=0, tolerance=0.05, generator=seed)
        assert not found.certain
        assert found.value <= 1.0 + 1e-12 <= found.upper <= 1.05 * found.value * (1 + 1e-9)


def test_norms_are_the_same_each_time():
    operator = OPERATORS["commutator"]
    assert operator_norm(operator, dense=0) == operator_norm(operator, dense=0)
    own = operator_norm(operator, dense=0, generator=torch.Generator().manual_seed(0))
    assert own == operator_norm(operator, dense=0)


@every_operator
def test_the_adjoint_is_the_transpose(name, generator):
    operator = OPERATORS[name]
    x = torch.randn(2, 1, *operator.space, dtype=torch.float64, generator=generator)
    y = torch.randn(operator(x).shape, dtype=torch.float64, generator=generator)
    assert torch.allclose((operator(x) * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1))


def test_the_zero_operator_has_norm_zero():
    for dense in (0, 2**20):
        assert operator_norm(commutator(OPERATORS["patches"], identity((10, 9))), dense=dense).upper == 0.0


@pytest.mark.parametrize("boundary", ["zero", "valid", "circular"])
@pytest.mark.parametrize("pool", [GaussianPool(2), GaussianPool(1, 3), AveragePool(3), Subsample(2), GlobalPool()])
def test_poolings_and_patches_do_not_expand(pool, boundary):
    arch = arch_of(boundary=boundary)
    assert operator_norm(pooling(pool, arch, (11, 12))).value <= 1 + 1e-12
    assert operator_norm(patches(3, arch, (11, 12))).value <= 1 + 1e-12
    if boundary == "circular":
        assert operator_norm(patches(4, arch, (11, 12))).value == pytest.approx(1.0)


@pytest.mark.parametrize("space", [(40,), (14, 15)])
def test_deformations_of_a_gradient_of_a_half_have_norm_at_most_two_to_d_over_two(space):
    for seed in range(5):
        field = scale_field(smooth_field(space, seed), gradient=0.5)
        assert operator_norm(deformation(field)).value <= 2 ** (len(space) / 2)


def test_the_norm_on_one_channel_is_that_on_many(generator):
    field = smooth_field((10, 9))
    operator = OPERATORS["commutator"]
    x = torch.randn(20, 5, 10, 9, dtype=torch.float64, generator=generator)
    moved = torch.cat([operator(x[:, c : c + 1]) for c in range(5)], 1)
    pad = arch_of(sigma0=0.8)
    first = patches_after_pooling(pad, 1, (10, 9)).apply
    direct = first(warp(x, field)) - warp(first(x), field)  # all channels at once, without Operator's own loops
    assert direct.square().sum() == pytest.approx(float(moved.square().sum()))
    ratios = direct.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert float(ratios.max()) <= operator_norm(operator).value


# -------------------------------------------------------------------------------------------------- commutators


def test_the_commutator_is_the_difference_of_matrix_products():
    torus = arch_of(boundary="circular")
    space = (5, 6)
    moved = deformation(smooth_field(space), boundary="circular")
    b = patches(3, torus, space) @ pooling(GaussianPool(1, 2), torus, space)
    small, big = moved.dense(), torch.kron(torch.eye(9, dtype=torch.float64), moved.dense())
    expected = b.dense() @ small - big @ b.dense()
    assert torch.allclose(commutator(b, moved).dense(), expected, atol=1e-14)


def test_the_zero_field_commutes_to_the_last_bit():
    still = deformation(torch.zeros(1, 2, 10, 9, dtype=torch.float64))
    for layer in (1, 2):
        b = patches_after_pooling(ARCH, layer, (10, 9))
        before = deformation(torch.zeros(1, 2, *b.space, dtype=torch.float64))
        after = deformation(torch.zeros(1, 2, *ARCH.shapes((10, 9))[layer - 1][0], dtype=torch.float64))
        assert operator_norm(commutator(b, before, after)).upper == 0.0
    assert operator_norm(difference(pooling(GaussianPool(2), ARCH, (10, 9)), still)).upper == 0.0


def test_whole_pixel_shifts_commute_exactly_on_the_torus():
    torus = arch_of("3 exp(1) gauss2/1 | 4 exp(1) avg3/1", boundary="circular", sigma0=0.9)
    for pixels in itertools.product((0, 1, -3), repeat=2):
        moved = deformation(shift((9, 8), *pixels), boundary="circular")
        for layer in (1, 2):
            found = operator_norm(commutator(patches_after_pooling(torus, layer, (9, 8)), moved))
            assert found.value <= 1e-14


def test_shifts_of_gaussian_poolings_stay_below_c_over_sigma():
    torus = arch_of(boundary="circular")
    for axes, constant in ((1, math.sqrt(2 / math.pi)), (2, math.sqrt(math.pi / 2))):  # ||grad h||_1
        space = (13,) * axes
        for size, pixels in itertools.product((1, 2, 4), itertools.product((0, 1, 3), repeat=axes)):
            if not any(pixels):
                continue
            a = pooling(GaussianPool(1, size), torus, space)
            moved = deformation(shift(space, *pixels), boundary="circular")
            inside, outside = (operator_norm(difference(a, moved, inside=side)).value for side in (True, False))
            assert inside == pytest.approx(outside)  # on the torus both orders are the same
            assert inside <= constant * math.hypot(*pixels) / (size / math.sqrt(2))


# ------------------------------------------------------------------------------------------------- layers' grids


@pytest.mark.parametrize(
    "rules", [{}, {"boundary": "valid"}, {"layout": "ckn_kernel"}, {"boundary": "circular"}], ids=str
)
def test_positions_are_the_centres_of_what_they_see(rules):
    arch = arch_of("3 linear gauss2 | 2 linear avg3 | 3 linear gauss2/1", **rules)
    length = 60
    grids = layer_grids(arch, (length,))
    chain = identity((length,))
    for number, grid in enumerate(grids[1:], start=1):
        chain = patches_after_pooling(arch, number, (length,)) @ chain
        seen = chain(torch.eye(length, dtype=torch.float64).unsqueeze(1)).mean(1).T  # (positions, pixels)
        assert grid.lengths == (len(seen),)
        centres = (seen @ torch.arange(length, dtype=torch.float64)) / seen.sum(1)
        inner = (grid.line(0) > 15) & (grid.line(0) < length - 16)  # away from the edges
        assert inner.sum() > 3
        assert torch.allclose(grid.line(0)[inner], centres[inner])


def test_sampling_takes_the_nearest_position():
    space = (9, 7)
    grid = Grid((0.5, -0.5), (2.0, 2.0), (4, 4))
    field = scale_field(smooth_field(space), displacement=4.0)
    for boundary in ("zero", "edge", "circular"):
        x = torch.arange(1.0, 17.0, dtype=torch.float64).view(1, 1, 4, 4)
        found = sampling(field, grid, boundary=boundary).operator(x)[0, 0]
        for i, j in itertools.product(range(4), repeat=2):
            tau = [float(_bilinear(field[0, k], 0.5 + 2 * i, -0.5 + 2 * j, boundary)) for k in range(2)]
            at = [i - tau[0] / 2, j - tau[1] / 2]
            row, column = (round(a) for a in at)
            if boundary == "zero":
                expected = x[0, 0, row, column] if 0 <= row < 4 and 0 <= column < 4 else 0.0
            elif boundary == "edge":
                expected = x[0, 0, min(max(row, 0), 3), min(max(column, 0), 3)]
            else:
                expected = x[0, 0, row % 4, column % 4]
            assert found[i, j] == expected


def _bilinear(values: Tensor, row: float, column: float, boundary: str) -> Tensor:
    """Bilinear interpolation written out; beyond the pixels the nearest one, or the other side of the torus."""
    total = torch.zeros((), dtype=values.dtype)
    for axis, at in enumerate((row, column)):
        if boundary != "circular":  # tau itself goes on as at the edge
            at = min(max(at, 0.0), values.shape[axis] - 1.0)
        row, column = (at, column) if axis == 0 else (row, at)
    for a, b in itertools.product((0, 1), repeat=2):
        r, c = math.floor(row) + a, math.floor(column) + b
        weight = (1 - abs(row - r)) * (1 - abs(column - c))
        total = total + weight * values[r % values.shape[0], c % values.shape[1]]
    return total


def test_a_sampling_knows_its_norm():
    for seed in range(3):
        field = scale_field(smooth_field((8, 8), seed), displacement=3.0)
        found = sampling(field, Grid((0.0, 0.0), (1.0, 1.0), (8, 8)))
        assert found.norm == pytest.approx(largest(found.operator))


# -------------------------------------------------------------------------------------------------------- growth


def test_the_commutator_grows_with_the_patch_below_what_is_known():
    found = commutator_growth((3, 5, 7, 9, 13), pool=1, space=(40,))
    assert all(a < b for a, b in itertools.pairwise(found.quotients))
    assert all(norm <= bound for norm, bound in zip(found.quotients, found.known, strict=True))
    assert 0 < found.exponent < found.last_exponent <= 1.05  # a constant and a linear term
    assert "O(beta^2), exponent 2" in str(found)


def test_the_exponent_is_a_least_squares_slope():
    found = commutator_growth((3, 5, 9), space=(24,))
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (found.scale, found.quotients))
    x = torch.stack([x, torch.ones_like(x)], 1)
    assert found.exponent == pytest.approx(float(torch.linalg.lstsq(x, y).solution[0]))


def test_the_translation_term_falls_as_one_over_sigma():
    found = translation_growth((4, 6, 8, 12, 16), space=(128,))
    assert found.exponent == pytest.approx(-1, abs=0.05)
    assert all(norm <= bound for norm, bound in zip(found.quotients, found.known, strict=True))
    flat = translation_growth((2, 4), space=(20, 20), shift=(1, 1))
    assert flat.divisor == pytest.approx(math.sqrt(2))
    assert flat.order == (-1.0, "C/sigma")


def test_the_wave_has_the_wanted_gradient_and_is_periodic():
    for space in ((30,), (12, 20)):
        field = wave(space, 0.3)
        assert float(gradient_norm(field, periodic=True)) == pytest.approx(0.3)
        assert float(field.mean().abs()) < 1e-12


def test_patches_of_an_operator_are_those_of_the_architecture(generator):
    x = torch.randn(3, 1, 10, 9, dtype=torch.float64, generator=generator)
    assert torch.equal(patches(3, ARCH, (10, 9))(x), extract_patches(x, 3, ARCH))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patches_after_pooling(ARCH, 3, (8, 8)), "layer: expected a number from 1 to 2, got 3"),
        (lambda: deformation(torch.zeros(2, 2, 8, 8)), r"field: expected one field, shape \(1, axes, \*space\), got"),
        (
            lambda: commutator(pooling(GaussianPool(2), ARCH, (8, 8)), identity((8, 8))),
            r"after: expected an operator on the positions \(4, 4\), got one on \(8, 8\)",
        ),
        (lambda: operator_norm(identity((4,)), tolerance=0), "tolerance: expected a number between 0 and 1, got 0"),
        (lambda: commutator_growth((3,)), "sizes: expected at least two different whole numbers of pixels"),
        (lambda: commutator_growth((3, 4)), "sizes: expected odd numbers of at least 3"),
        (lambda: commutator_growth(field=torch.ones(1, 1, 20)), "field: expected one whose gradient is not 0"),
        (lambda: translation_growth(shift=(0, 0)), "shift: expected 2 whole numbers, not all 0"),
        (lambda: translation_growth((0, 2)), "sizes: expected at least two different whole numbers"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()

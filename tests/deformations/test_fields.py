"""Norms, Jacobians, scaling, composition and folds of fields against closed forms, numpy and dense sampling."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from hilbertnet.deformations import (
    FoldWarning,
    Rotation,
    Translation,
    check_field,
    compose,
    displacement_norm,
    folds,
    gradient_norm,
    jacobian,
    scale_field,
    warn_of_folds,
    warp,
)

SPACES = [(9,), (7, 6), (2, 2)]
seeds = st.integers(0, 2**31)
spaces = st.sampled_from([(2,), (9,), (4, 7), (1, 3), (6, 6)])


def random_field(space, n=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(space), *space, generator=generator, dtype=torch.float64).to(dtype)


def grid(*space):
    return torch.stack(torch.meshgrid(*[torch.arange(n).double() for n in space], indexing="ij"))


def affine_field(matrix, space, shift=0.0):
    return (torch.einsum("kl,l...->k...", matrix, grid(*space)) + shift)[None]


# --- Jacobians


def test_jacobians_are_those_of_numpy():
    field = random_field((7, 6))
    for n, k in itertools.product(range(3), range(2)):
        expected = np.stack(np.gradient(field[n, k].numpy()), -1)
        np.testing.assert_allclose(jacobian(field)[n, :, :, k].numpy(), expected, atol=1e-15)
    sound = random_field((9,))
    np.testing.assert_allclose(
        jacobian(sound)[:, :, 0, 0].numpy(), np.gradient(sound[:, 0].numpy(), axis=1), atol=1e-15
    )


@pytest.mark.parametrize("space", [(5,), (4, 6)])
def test_affine_fields_have_their_matrix_everywhere(space):
    matrix = torch.randn(len(space), len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    field = affine_field(matrix, space, 2.5)
    torch.testing.assert_close(jacobian(field), matrix.expand(1, *space, -1, -1), rtol=0, atol=1e-14)
    expected = torch.linalg.matrix_norm(matrix, 2)
    torch.testing.assert_close(gradient_norm(field), expected[None], rtol=1e-13, atol=0)


def test_periodic_differences_see_the_seam():
    u = torch.arange(8).double()
    ramp = (u / 2)[None, None]
    assert gradient_norm(ramp).item() == 0.5
    assert gradient_norm(ramp, periodic=True).item() == 3.5
    wave = torch.sin(2 * math.pi * u / 8 + 0.3)[None, None]
    expected = math.sin(2 * math.pi / 8) * torch.cos(2 * math.pi * u / 8 + 0.3)
    torch.testing.assert_close(jacobian(wave, periodic=True)[0, :, 0, 0], expected)


def test_an_axis_of_one_pixel_has_no_gradient():
    field = random_field((1, 6))
    assert (jacobian(field)[..., 0] == 0).all()
    torch.testing.assert_close(
        gradient_norm(field), torch.linalg.vector_norm(field[:, :, 0].diff(dim=2), dim=1).amax(1)
    )
    assert gradient_norm(random_field((1, 1))).tolist() == [0, 0, 0]


# --- norms


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_displacement_norm_is_the_longest_vector(space):
    field = random_field(space)
    expected = [max(np.linalg.norm(v) for v in f.reshape(len(space), -1).T) for f in field.numpy()]
    np.testing.assert_allclose(displacement_norm(field).numpy(), expected, rtol=1e-15)


def test_gradient_norm_is_the_lipschitz_constant_between_pixels():
    """Slopes of the field interpolated by scipy: never more, and as much next to some pixel in some direction."""
    field = random_field((5, 6), n=2)
    generator = np.random.default_rng(0)
    around = np.linspace(0, 2 * np.pi, 720)
    pixels = np.indices((5, 6)).reshape(2, -1, 1) + 1e-6 * np.stack([np.cos(around), np.sin(around)])[:, None]
    inside = ((pixels >= 0) & (pixels <= [[[4]], [[5]]])).all(0)
    anywhere = generator.uniform(0, [4, 5], (20_000, 2)).T
    angle = generator.uniform(0, 2 * np.pi, 20_000)
    starts = np.concatenate([np.indices((5, 6)).repeat(720).reshape(2, -1)[:, inside.ravel()], anywhere], 1)
    near = np.clip(anywhere + 1e-3 * np.stack([np.cos(angle), np.sin(angle)]), 0, [[4], [5]])
    ends = np.concatenate([pixels[:, inside], near], 1)
    for f, norm in zip(field.numpy(), gradient_norm(field).tolist(), strict=True):
        moved = [np.stack([map_coordinates(part, p, order=1) for part in f]) for p in (starts, ends)]
        slopes = np.linalg.norm(moved[1] - moved[0], axis=0) / np.linalg.norm(ends - starts, axis=0)
        assert slopes.max() == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_gradient_norm_against_singular_values(space):
    field = random_field(space)
    forward_or_backward = itertools.product((0, 1), repeat=len(space))
    largest = torch.zeros(3, dtype=torch.float64)
    for sides in forward_or_backward:
        columns = []
        for axis, side in enumerate(sides):
            d = field.diff(dim=2 + axis)
            ends = [d, d.narrow(2 + axis, -1, 1)] if side else [d.narrow(2 + axis, 0, 1), d]
            columns.append(torch.cat(ends, 2 + axis))
        values = torch.linalg.matrix_norm(torch.stack(columns, -1).movedim(1, -2), 2)
        largest = torch.maximum(largest, values.flatten(1).amax(1))
    torch.testing.assert_close(gradient_norm(field), largest)
    central = torch.linalg.matrix_norm(jacobian(field), 2).flatten(1).amax(1)
    assert (central <= largest * (1 + 1e-14)).all()


def test_alternating_fields_are_not_smooth():
    alternating = (-1.0) ** grid(6, 6).sum(0)
    field = torch.stack([0.1 * alternating, 0 * alternating])[None]
    assert jacobian(field)[:, 1:-1, 1:-1].abs().max() == 0
    assert gradient_norm(field).item() == pytest.approx(0.2 * math.sqrt(2))


def test_norms_have_a_gradient():
    field = random_field((4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(displacement_norm, field)
    assert torch.autograd.gradcheck(gradient_norm, field)
    zero = torch.zeros(1, 2, 4, 5, requires_grad=True)
    (gradient_norm(zero) + displacement_norm(zero)).sum().backward()
    assert zero.grad.abs().max() == 0


@settings(max_examples=40, deadline=None)
@given(seeds, spaces, st.floats(-1e3, 1e3))
def test_norms_are_norms(seed, space, factor):
    a, b = random_field(space, n=2, seed=seed), random_field(space, n=2, seed=seed + 1)
    for norm in (displacement_norm, gradient_norm):
        assert (norm(a + b) <= norm(a) + norm(b) + 1e-12).all()
        torch.testing.assert_close(norm(factor * a), abs(factor) * norm(a), rtol=1e-12, atol=1e-300)
        assert norm(torch.zeros_like(a)).tolist() == [0, 0]
    torch.testing.assert_close(gradient_norm(a + 7), gradient_norm(a), rtol=1e-11, atol=0)


# --- scaling


@settings(max_examples=60, deadline=None)
@given(seeds, spaces, st.floats(1e-12, 1e6), st.sampled_from(["displacement", "gradient"]))
def test_scaled_fields_have_the_wanted_norm(seed, space, wanted, name):
    field = random_field(space, seed=seed)
    scaled = scale_field(field, **{name: wanted})
    norm = displacement_norm if name == "displacement" else gradient_norm
    assert norm(scaled).tolist() == pytest.approx([wanted] * 3, rel=1e-13)
    ratio = scaled.flatten(1) / field.flatten(1)
    assert (ratio > 0).all()
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12, atol=0)


def test_scaling_in_single_precision_and_one_norm_for_each():
    field = random_field((20, 20), dtype=torch.float32)
    for name, norm in (("displacement", displacement_norm), ("gradient", gradient_norm)):
        scaled = scale_field(field, **{name: torch.tensor([0.1, 0.0, 3.0])})
        assert scaled.dtype == torch.float32
        assert norm(scaled).tolist() == pytest.approx([0.1, 0, 3], rel=1e-6)
    assert (scale_field(torch.zeros(1, 2, 3, 3), gradient=0) == 0).all()


def test_scaling_refuses():
    field = random_field((4, 5))
    with pytest.raises(ValueError, match=r"^scale_field: expected exactly one of .* got none"):
        scale_field(field)
    with pytest.raises(ValueError, match=r"^scale_field: expected exactly one of .* got both"):
        scale_field(field, displacement=1, gradient=1)
    with pytest.raises(ValueError, match=r"^displacement: .* at least 0, got -1"):
        scale_field(field, displacement=-1)
    with pytest.raises(ValueError, match=r"^gradient: .* at least 0, got nan"):
        scale_field(field, gradient=torch.tensor([0.1, math.nan, 1]))
    with pytest.raises(ValueError, match=r"^gradient: expected a number or shape \(3,\)"):
        scale_field(field, gradient=torch.ones(2))
    with pytest.raises(ValueError, match=r"^displacement: expected a number or shape \(3,\).* got 'far'"):
        scale_field(field, displacement="far")
    constant = torch.ones(2, 2, 4, 5)
    with pytest.raises(
        ValueError, match=r"^gradient: expected fields of a norm above 0 .* got field 0 whose norm is 0"
    ):
        scale_field(constant, gradient=0.5)
    with pytest.raises(ValueError, match=r"^gradient: expected norms whose displacements are finite in torch.float64"):
        scale_field(torch.tensor([[[1e10, 1e10, 1e10 + 1e-5]]], dtype=torch.float64), gradient=1e304)
    with pytest.raises(ValueError, match=r"^field: expected finite numbers"):
        scale_field(field / 0, gradient=0.5)


# --- composition


def sines(space, size, phase):
    """A smooth periodic field in closed form, as a function of points."""
    waves = [2 * math.pi / n for n in space]

    def tau(p):
        angle = sum(w * (k + 1) * p[k] for k, w in enumerate(waves)) + phase
        return torch.stack([size * torch.sin(angle + k) for k in range(len(space))])

    return tau


@pytest.mark.parametrize("axes", [1, 2])
def test_composition_against_both_warps_in_closed_form(axes):
    """L_outer L_inner x of a function x is x at p - inner(p), p = u - outer(u): second order in the size of pixels."""
    errors = []
    for length in (32, 64):
        space = (length,) * axes
        outer, inner = sines(space, length / 40, 0.0), sines(space, length / 30, 1.0)

        def x(p, length=length):
            return torch.cos(2 * math.pi / length * (p[0] + 2 * p[-1]))

        u = grid(*space)
        p = u - outer(u)
        direct = x(p - inner(p))
        composed = compose(outer(u)[None], inner(u)[None], boundary="circular")[0]
        other = compose(inner(u)[None], outer(u)[None], boundary="circular")[0]
        errors.append(float((x(u - composed) - direct).abs().max()))
        assert errors[-1] < 0.05 * float((x(u - other) - direct).abs().max())
    assert errors[1] < errors[0] / 3.5


def test_composition_warps_as_one_after_the_other():
    space = (40, 48)
    u = grid(*space)
    x = torch.exp(-((u[0] - 20) ** 2 + (u[1] - 22) ** 2) / 60)[None, None]
    outer, inner = sines(space, 1.5, 0.3)(u)[None], sines(space, 2.0, 2.0)(u)[None]
    twice = warp(warp(x, inner, interpolation="cubic"), outer, interpolation="cubic")
    once = warp(x, compose(outer, inner), interpolation="cubic")
    assert (once - twice).abs().max() < 5e-3
    assert (once - warp(x, compose(inner, outer), interpolation="cubic")).abs().max() > 2e-2


@pytest.mark.parametrize("boundary", ["linear", "edge", "circular"])
def test_translations_add_exactly(boundary):
    for space in ((9,), (5, 7)):
        a = Translation().field(2.7, 3, space, generator=1)
        b = Translation().field(11.3, 3, space, generator=2)
        assert torch.equal(compose(a, b, boundary=boundary), a + b)


def test_rotations_add_up():
    turn = Rotation().field
    found = compose(turn(25, 1, (12, 9)), turn(40, 1, (12, 9)))
    torch.testing.assert_close(found, turn(65, 1, (12, 9)), rtol=0, atol=1e-12)
    back = compose(turn(25, 1, (12, 9)), Rotation("clockwise").field(25, 1, (12, 9)))
    assert back.abs().max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(seeds, spaces)
def test_composition_with_nothing_and_its_size(seed, space):
    field, other = random_field(space, seed=seed), random_field(space, seed=seed + 1)
    nothing = torch.zeros_like(field)
    for boundary in ("linear", "edge", "circular"):
        assert torch.equal(compose(nothing, field, boundary=boundary), field)
        assert torch.equal(compose(field, nothing, boundary=boundary), field)
    for boundary in ("edge", "circular"):
        longest = displacement_norm(compose(field, other, boundary=boundary))
        assert (longest <= displacement_norm(field) + displacement_norm(other) + 1e-12).all()


def test_composition_of_one_with_many_and_refusals():
    one, many = random_field((4, 5), n=1), random_field((4, 5), seed=2)
    assert torch.equal(compose(one, many)[1:2], compose(one, many[1:2]))
    assert torch.equal(compose(many, one)[1:2], compose(many[1:2], one))
    with pytest.raises(ValueError, match=r"^inner: expected shape \(3 or 1, 2, 4, 5\)"):
        compose(many, random_field((5, 4)))
    with pytest.raises(ValueError, match=r"^outer: expected finite"):
        compose(many / 0, many)
    with pytest.raises(ValueError, match=r"^boundary: expected one of 'linear', 'edge', 'circular', got 'zero'"):
        compose(many, many, boundary="zero")


# --- folds


def test_folds_of_a_sine_where_its_slope_is_above_one():
    length, size = 40, 8.0
    wave = 2 * math.pi / length
    u = torch.arange(length).double()
    field = (size * torch.sin(wave * u))[None, None]
    slope = 2 * size * math.sin(wave / 2) * torch.cos(wave * (u + 0.5)) >= 1  # of the piece from u to u + 1
    assert folds(field, periodic=True)[0].tolist() == (slope | slope.roll(1)).tolist()
    ends = slope[:-1]  # without the piece across the seam
    expected = torch.cat([ends, ends[-1:]]) | torch.cat([ends[:1], ends])
    assert folds(field)[0].tolist() == expected.tolist()
    assert not folds(scale_field(field, gradient=1 - 1e-9)).any()
    assert folds(scale_field(field, gradient=1 + 1e-9)).any()


def test_folds_of_a_tent_are_exactly_its_steep_pixels():
    u = torch.arange(30).double()
    tent = (2 * (u - 10).clamp(0, 5))[None, None]  # slope 2 from 10 to 15
    assert torch.nonzero(folds(tent)[0]).flatten().tolist() == list(range(10, 16))


def test_folds_in_two_dimensions_are_those_of_the_determinant():
    space = (6, 7)
    mirror = torch.tensor([[2.0, 0], [0, 0]]).double()
    assert folds(affine_field(mirror, space)).all()
    half_turn = torch.tensor([[2.0, 0], [0, 2]]).double()  # a rotation by 180 degrees has determinant 1
    assert not folds(affine_field(half_turn, space)).any()
    crossing, turning = torch.tensor([[[0.0, 2], [2, 0]], [[0.0, 2], [-2, 0]]]).double()
    assert folds(affine_field(crossing, space)).all()  # determinant -3
    assert not folds(affine_field(turning, space)).any()  # determinant 5
    collapse = torch.tensor([[0.0, 0], [0, 1]]).double()
    assert folds(affine_field(collapse, space)).all()
    u = grid(20, 8)
    tent = torch.stack([1.5 * (u[0] - 6).clamp(0, 4), 0.3 * u[1]])[None]
    where = folds(tent)[0]
    assert where.any(1).tolist() == where.all(1).tolist() == [6 <= row <= 10 for row in range(20)]


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 0.999))
def test_small_gradients_never_fold(seed, size):
    assert not folds(scale_field(random_field((6, 5), seed=seed), gradient=size)).any()


def test_warning_says_where():
    field = torch.zeros(3, 2, 5, 6)
    field[1, 0, 3:] = 1.5
    with pytest.warns(
        FoldWarning, match=r"^tau: 1 of 3 fold the picture.* number 1 at 12 of 30 pixels.* \(2, 0\)"
    ) as caught:
        assert warn_of_folds(field, "tau").tolist() == [False, True, False]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_of_folds(field / 2).any()


# --- bad input


def test_what_is_no_field_is_refused_by_name():
    for function in (
        jacobian,
        displacement_norm,
        gradient_norm,
        folds,
        warn_of_folds,
        lambda f: check_field(f, "field"),
    ):
        with pytest.raises(ValueError, match=r"^field: expected a field \(n, 2, height, width\) or \(n, 1, length\)"):
            function(torch.zeros(2, 3, 4, 5))
        with pytest.raises(ValueError, match=r"^field: expected a field .* got shape \(1, 1, 2, 2, 2\)"):
            function(torch.zeros(1, 1, 2, 2, 2))
        with pytest.raises(ValueError, match=r"^field: expected finite numbers, got nan at index \[0, 0, 1\]"):
            function(torch.tensor([[[0.0, math.nan]]]))
        with pytest.raises(
            ValueError, match=r"^field: expected real floating-point numbers, got dtype torch.complex64"
        ):
            function(torch.zeros(1, 1, 4, dtype=torch.complex64))
        with pytest.raises(ValueError, match=r"^field: expected a tensor"):
            function(np.zeros((1, 1, 4)))
    field = torch.zeros(2, 1, 4)
    assert check_field(field) is field

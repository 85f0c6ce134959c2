"""Balls and deformations: projections and linear maximizers against scipy; nothing is outside by rounding; warnings."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hilbertnet.robustness.boxes import project
from hilbertnet.robustness.threats import Ball, Deformations, RadiusWarning, read_bounds


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def best_by_scipy(value, slope, x, norm, radius):
    """Of all points of a ball and the unit box, the one where a smooth convex function is least."""
    limits = (np.maximum(x - radius, 0), np.minimum(x + radius, 1)) if norm == "inf" else (0 * x, 0 * x + 1)
    ball = {"type": "ineq", "fun": lambda z: radius**2 - ((z - x) ** 2).sum(), "jac": lambda z: -2 * (z - x)}
    found = minimize(
        value, x, jac=slope, bounds=list(zip(*limits, strict=True)), method="SLSQP",
        constraints=[ball] if norm == "2" else [], options={"maxiter": 500, "ftol": 1e-14},
    )  # fmt: skip
    return found.x


# --- projections and maximizers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_retractions_are_euclidean_projections(norm, seed):
    x, moved, radius = draw(1, 8, seed=seed).sigmoid(), 2 * draw(1, 8, seed=seed + 50), 0.3 + 0.15 * seed
    away = moved[0].numpy()
    expected = best_by_scipy(
        lambda z: ((z - away) ** 2).sum(), lambda z: 2 * (z - away), x[0].numpy(), norm, radius
    )  # fmt: skip
    found = Ball(norm, radius).retract(moved, x)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_steepest_points_are_maxima_of_linear_functions(norm, seed):
    x, gradient, radius = draw(1, 8, seed=seed).sigmoid(), draw(1, 8, seed=seed + 50), 0.2 + 0.25 * seed
    weight = gradient[0].numpy()
    expected = best_by_scipy(lambda z: -weight @ z, lambda z: -weight, x[0].numpy(), norm, radius)
    found = Ball(norm, radius).steepest(gradient, x)[0].numpy()
    assert weight @ found >= weight @ expected - 1e-9
    assert weight @ found == pytest.approx(weight @ expected, abs=1e-6)


def test_a_corner_of_the_box_and_pixels_without_slope():
    x = torch.tensor([[0.2, 0.9, 0.5], [0.0, 1.0, 0.5]])
    gradient = torch.tensor([[1.0, -3.0, 0.0], [-1.0, 1e-30, 0.0]])
    found = Ball("2", 1.5).steepest(gradient, x)
    assert torch.equal(found, torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]))
    nothing = Ball("2", 1.5).steepest(torch.zeros_like(x), x)
    assert torch.equal(nothing, x)


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_no_gradient_is_too_small(norm, bounds):
    x, gradient = draw(3, 10).sigmoid(), draw(3, 10, seed=1)
    ball = Ball(norm, 0.1, bounds)
    torch.testing.assert_close(ball.steepest(1e-200 * gradient, x), ball.steepest(gradient, x))
    small = (1e-30 * gradient).float()
    torch.testing.assert_close(ball.steepest(small, x.float()), ball.steepest(gradient, x).float())


def test_each_example_may_have_a_radius_of_its_own():
    x, moved, radii = draw(4, 6).sigmoid(), draw(4, 6, seed=1), torch.tensor([0.0, 0.1, 0.5, 3.0])
    for norm in ("2", "inf"):
        together = project(moved, x, norm, radii, (0.0, 1.0))
        alone = [Ball(norm, 0.999 if r > 1 and norm == "inf" else float(r)) for r in radii]
        rows = [ball.retract(moved[i : i + 1], x[i : i + 1]) for i, ball in enumerate(alone[:3])]
        torch.testing.assert_close(together[:3], torch.cat(rows))
        torch.testing.assert_close(together[3], moved[3].clamp(0, 1))


# --- rounding


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["2", "inf"]),
    radius=st.floats(0, 3, exclude_max=True),
    bounded=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([0.1, 10.0]),
)
def test_retractions_land_inside_and_keep_what_is_there(seed, norm, radius, bounded, dtype, scale):
    threat = Ball(norm, radius, (-1.0, 2.0) if bounded else None)
    x = draw(3, 2, 4, seed=seed, dtype=dtype).clamp(-1, 2)
    gradient = draw(3, 2, 4, seed=seed + 1, dtype=dtype)
    moved = threat.retract(x + scale * gradient, x)
    for point in (moved, threat.steepest(gradient, x), threat.retract(threat.draw(x, torch.Generator()), x)):
        length = (point.double() - x.double()).flatten(1).norm(p=float(norm), dim=1)
        assert (length <= radius).all()  # exactly, whatever the precision
        assert point.dtype == dtype
        threat.check(point)
    # shortened towards x it is a point of the set, which stays
    inside = x + 0.5 * (moved - x)
    torch.testing.assert_close(threat.retract(inside, x), inside, rtol=1e-6, atol=1e-6)


# --- arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball("l2", 1.0), "norm: expected '2' or 'inf', got 'l2'; did you mean '2'"),
        (lambda: Ball(1, 1.0), "norm: expected '2' or 'inf', got 1"),
        (lambda: Ball([2], 1.0), r"norm: expected '2' or 'inf', got \[2\]"),
        (lambda: Ball("2", -1.0), "radius: expected a finite number of at least 0, got -1.0"),
        (lambda: Ball("2", math.nan), "radius: expected a finite number of at least 0, got nan"),
        (lambda: Ball("2", 1.0, (1.0, 0.0)), "bounds: expected two increasing finite numbers"),
        (lambda: Ball("2", 1.0, 3), "bounds: expected two increasing finite numbers, or None, got 3"),
        (lambda: read_bounds((0, math.inf)), "bounds: expected two increasing finite numbers"),
        (lambda: Ball("2", 1.0).check(torch.full((2, 3), 1.5)), r"x: expected values in \[0, 1\], the threat's bounds"),
        (lambda: Ball("2", 1.0).check(torch.tensor([[0.5, math.nan]])), r"x: expected values in \[0, 1\], .* got nan"),
        (lambda: Deformations(-1.0, 0.5), "max_shift: expected a finite number of at least 0, got -1.0"),
        (lambda: Deformations(1.0, math.inf), "max_gradient: expected a finite number of at least 0, got inf"),
        (lambda: Deformations("1", 0.5), "max_shift: expected a finite number"),
        (lambda: Deformations(1.0, 0.5).check(torch.zeros(3, 4)), r"x: expected images .* got shape \(3, 4\)"),
    ],
)
def test_bad_threats(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_norms_as_numbers():
    assert Ball(2, 1.0) == Ball("2", 1.0)
    assert Ball(math.inf, 0.5).norm == "inf"
    assert str(Ball("inf", 0.03, None)) == "l_inf ball of radius 0.03"
    assert str(Deformations(2, 0.5)) == "deformations by at most 2 pixels, of gradient at most 0.5"


def test_radii_in_other_units_are_warned_of():
    with pytest.warns(
        RadiusWarning, match="radius: the l_inf ball of radius 8 .* no distance is above 1; is it in units"
    ):
        Ball("inf", 8.0)
    with pytest.warns(RadiusWarning):  # one grey level of 255
        Ball("inf", 1)
    x = torch.zeros(2, 3, 4, 4)
    with pytest.warns(RadiusWarning, match="no distance is above 6.928"):
        Ball("2", 128.0).check(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ball("inf", 8.0, (0, 255)), Ball("inf", 8.0, None), Ball("inf", 0.99)
        Ball("2", 128.0, None).check(x)
        Ball("2", 6.9).check(x)

"""Multiplicities, zonal polynomials, coefficients of powers and of functions."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from sphere_reference import half_moment, polynomial_coefficients

from hilbertnet.complexity.harmonics import (
    as_degrees,
    log_multiplicity,
    log_power_coefficients,
    log_rising,
    multiplicity,
    project,
    zonal_polynomials,
)
from hilbertnet.complexity.mercer_logs import log_activation_coefficients

DIMENSIONS = (2, 3, 4, 5, 10, 20, 50)


@pytest.mark.parametrize("p", [2, 3, 4, 7])
def test_multiplicity_is_the_dimension_of_harmonic_polynomials(p):
    """Homogeneous polynomials of degree k less those of degree k - 2."""
    for k in range(12):
        below = math.comb(k - 2 + p - 1, p - 1) if k >= 2 else 0
        assert multiplicity(p, k) == math.comb(k + p - 1, p - 1) - below


def test_multiplicity_of_the_literature():
    for p in DIMENSIONS:
        assert multiplicity(p, 0) == 1
        for k in (1, 2, 17, 500):
            assert multiplicity(p, k) * k == (2 * k + p - 2) * math.comb(k + p - 3, p - 2)


@pytest.mark.parametrize("p", DIMENSIONS)
def test_log_multiplicity(p):
    k = [0, 1, 2, 3, 50, 500, 10**5, 10**8]
    exact = [float(mp.log(multiplicity(p, degree))) for degree in k]
    np.testing.assert_allclose(log_multiplicity(p, k), exact, rtol=1e-14, atol=2e-13)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.5, 26.0])
def test_log_rising(shift):
    x = np.array([0.5, 1.0, 3.0, 19.5, 20.0, 100.5, 1e4, 1e8])
    with mp.workdps(40):
        exact = [float(mp.loggamma(mp.mpf(v) + shift) - mp.loggamma(mp.mpf(v))) for v in x.tolist()]
    np.testing.assert_allclose(log_rising(x, shift), exact, rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("p", DIMENSIONS)
def test_zonal_polynomials_are_gegenbauer_polynomials(p):
    t = np.array([-1.0, -0.9, -0.3, 0.0, 0.2, 0.77, 1.0])
    polynomials = list(zonal_polynomials(p, 60, t))
    with mp.workdps(80):
        for k in (0, 1, 2, 7, 60):
            powers = polynomial_coefficients(p, k).items()
            exact = [float(mp.fsum(c * mp.mpf(v) ** j for j, c in powers)) for v in t.tolist()]
            np.testing.assert_allclose(polynomials[k], exact, rtol=0, atol=2e-14)


@pytest.mark.parametrize("p", DIMENSIONS)
def test_coefficients_of_powers(p):
    """Against the exact integral, for p = 2 to 50 and degrees to 500, where they are as small as 1e-300."""
    with mp.workdps(420):
        for j, k in ((0, 0), (1, 1), (4, 2), (5, 3), (9, 2), (3, 5), (300, 100), (501, 499)):
            constant = mp.gamma(mp.mpf(p) / 2) / (mp.sqrt(mp.pi) * mp.gamma(mp.mpf(p - 1) / 2))
            moments = (
                c * mp.beta(mp.mpf(i + j + 1) / 2, mp.mpf(p - 1) / 2) if (i + j) % 2 == 0 else 0
                for i, c in polynomial_coefficients(p, k).items()
            )
            exact = constant * mp.fsum(moments)
            found = float(log_power_coefficients(p, np.array(j), np.array(k)))
            if j < k or (j - k) % 2:
                assert found == -np.inf
                assert abs(exact) < 1e-90
            else:
                assert found == pytest.approx(float(mp.log(exact)), rel=1e-13, abs=2e-12)


@pytest.mark.parametrize("p", DIMENSIONS)
@pytest.mark.parametrize("order", [0, 1])
def test_activation_coefficients(order, p):
    """The closed form against a sum over the polynomial's powers, in 420 digits."""
    degrees = np.array([0, 1, 2, 3, 4, 5, 20, 21, 99, 100, 499, 500])
    logs, signs = log_activation_coefficients(order, p, degrees)
    with mp.workdps(420):
        for k, log, sign in zip(degrees.tolist(), logs, signs, strict=True):
            exact = half_moment(order, p, k)
            if sign == 0:
                assert log == -np.inf
                assert abs(exact) < 1e-90
            else:
                assert sign == mp.sign(exact)
                assert log == pytest.approx(float(mp.log(abs(exact))), rel=1e-14, abs=2e-13)


@pytest.mark.parametrize("p", [2, 3, 10, 50])
def test_projections_of_polynomials_and_their_errors(p):
    """t^3 has two coefficients; what quadrature finds is as near to them as it says."""
    values, errors = project(lambda theta: np.cos(theta) ** 3, p, 60)
    exact = np.exp(log_power_coefficients(p, np.array(3), np.arange(61)))
    assert (np.abs(values - exact) <= errors + 1e-13 * exact).all()
    assert errors[3:].max() < 1e-14


def test_projections_see_kinks_only_where_they_are_told():
    absolute = project(lambda theta: np.abs(np.cos(theta) - 0.3), 3, 40, kinks=[math.acos(0.3)])
    blind = project(lambda theta: np.abs(np.cos(theta) - 0.3), 3, 40)
    gap = np.abs(absolute[0] - blind[0])
    assert absolute[1].max() < 1e-13
    assert gap.max() > 1e-9
    assert (gap <= 10 * blind[1]).all()  # the error says so


def test_a_function_is_the_sum_of_its_projections():
    coefficients, _ = project(lambda theta: np.exp(np.cos(theta)), 4, 40)
    t = np.linspace(-1, 1, 9)
    polynomials = zonal_polynomials(4, 40, t)
    found = sum(a * multiplicity(4, k) * next(polynomials) for k, a in enumerate(coefficients))
    np.testing.assert_allclose(found, np.exp(t), rtol=1e-13)


@pytest.mark.parametrize("p", [1, 0, -3, 2.0, "3", True, None])
def test_no_dimension(p):
    with pytest.raises(ValueError, match="^p: expected a whole number of at least 2"):
        multiplicity(p, 3)


@pytest.mark.parametrize(
    "degrees", [-1, 2.5, 3.0, [1.0, 2.0], [], [3, 2], [2, 2], [-1, 0], [[1]], "5", True, [True], 10**8, [2 * 10**9]]
)
def test_no_degrees(degrees):
    with pytest.raises(ValueError, match="^degrees: expected"):
        as_degrees(degrees)


def test_projections_refuse_what_is_not_finite():
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match="^function: expected finite numbers, one for each"),
    ):
        project(lambda theta: np.where(theta > 1, np.nan, 1.0), 3, 5)
    with pytest.raises(ValueError, match="^function: expected finite numbers"):
        project(lambda theta: 1.0, 3, 5)
    with pytest.raises(ValueError, match="^kinks: expected angles strictly between"):
        project(np.cos, 3, 5, kinks=[0.0])
    with pytest.raises(ValueError, match="^degrees: expected at most 20000"):
        project(np.cos, 3, [30_000])

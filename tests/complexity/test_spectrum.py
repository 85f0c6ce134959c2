"""Mercer eigenvalues: figures of the literature, extended precision, quadrature, sums, decay."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import sphere_reference as reference
from scipy.special import roots_jacobi
from sphere_points import unit

from hilbertnet import ConvKernel
from hilbertnet.architecture import (
    ArcCosine,
    DotProductKernel,
    Dual,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.complexity import mercer_logs
from hilbertnet.complexity.harmonics import log_multiplicity, log_power_coefficients, zonal_polynomials
from hilbertnet.complexity.mercer_logs import log_closed_form
from hilbertnet.complexity.numeric_series import log_numeric_series, numeric_taylor
from hilbertnet.complexity.spectrum import mercer
from hilbertnet.complexity.sphere_kernel import sphere_kernel

DIMENSIONS = (2, 3, 4, 5, 10, 20, 50)
TWO_LAYERS = "1 arccos1 - | 1 arccos1 -"
REFERENCES = {
    ("arccos0", "ckn"): (ArcCosine(0), reference.kappa_zero),
    ("arccos1", "ckn"): (ArcCosine(1), reference.kappa_one),
    ("arccos1", "ntk"): (ArcCosine(1), reference.relu_tangent),
    ("exp(0.6)", "ckn"): (Exponential(0.6), lambda t: mp.exp((t - 1) / (mp.mpf(0.6) ** 2))),
    ("exp(0.6)", "ntk"): (Exponential(0.6), lambda t: mp.exp((t - 1) / (x := mp.mpf(0.6) ** 2)) * (1 + t / x)),
    ("inverse", "ckn"): (InversePolynomial(), lambda t: 1 / (2 - t)),
    ("inverse", "ntk"): (InversePolynomial(), lambda t: t / (2 - t) ** 2 + 1 / (2 - t)),
}
SERIES = [Exponential(0.6), Exponential(3.0), InversePolynomial(), Polynomial(1, 3), Power(4), Linear(), Vovk()]


# ------------------------------------------------------------------------------------------- figures of the literature


@pytest.mark.parametrize(
    ("order", "kind", "degrees", "expected"),
    [
        (1, "ntk", [0, 1, 2, 4, 6, 8], [0.5, 1 / 3, 0.078125, 0.005208333333, 0.001403808594, 0.0005798339844]),
        (
            1,
            "ckn",
            [0, 1, 2, 4, 6, 8],
            [0.375, 1 / 6, 0.0234375, 6.510416667e-4, 9.155273438e-5, 2.288818359e-5],
        ),
        (0, "ckn", [0, 1, 3, 5, 7], [0.5, 0.125, 0.0078125, 0.001953125, 7.629394531e-4]),
    ],
)
def test_eigenvalues_of_the_literature(order, kind, degrees, expected):
    found = mercer(ArcCosine(order), 3, degrees, kind=kind)
    assert found.method == "closed"
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=4e-10)


@pytest.mark.parametrize(("p", "constant"), [(3, 0.31831), (5, 2.864789), (10, 29880.83)])
def test_constants_of_the_decay(p, constant):
    """``mu_k ~ C k^-p`` for the tangent kernel and ``p C k^-(p+2)`` for random features."""
    exact = 2.0 ** (p - 1) * math.gamma(p / 2) ** 2 / math.pi**2
    assert exact == pytest.approx(constant, rel=3e-6)
    k = 10**8
    tangent, features = (float(mercer(ArcCosine(1), p, [k], kind=kind).log_eigenvalues[0]) for kind in ("ntk", "ckn"))
    assert math.exp(tangent + p * math.log(k)) == pytest.approx(exact, rel=1e-6)
    assert math.exp(features + (p + 2) * math.log(k)) == pytest.approx(p * exact, rel=1e-6)


@pytest.mark.parametrize(("p", "ratio"), [(3, 0.996), (5, 0.982), (10, 0.906)])
def test_how_near_degree_400_is_to_the_asymptotics(p, ratio):
    constant = 2.0 ** (p - 1) * math.gamma(p / 2) ** 2 / math.pi**2
    found = mercer(ArcCosine(1), p, [400], kind="ntk").log_eigenvalues[0] + p * math.log(400) - math.log(constant)
    assert math.exp(found) == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize("p", DIMENSIONS)
def test_tangent_kernel_at_degree_one(p):
    assert mercer(ArcCosine(1), p, 1, kind="ntk").eigenvalues[1] == pytest.approx(1 / p, rel=1e-14)


@pytest.mark.parametrize("p", DIMENSIONS)
def test_parities(p):
    k = np.arange(501)
    zero = mercer(ArcCosine(0), p, 500)
    np.testing.assert_array_equal(zero.zero, (k > 0) & (k % 2 == 0))
    for kind in ("ckn", "ntk"):
        one = mercer(ArcCosine(1), p, 500, kind=kind)
        np.testing.assert_array_equal(one.zero, (k > 1) & (k % 2 == 1))
        np.testing.assert_array_equal(one.resolved, ~one.zero)


def test_slopes_below_the_asymptotic_range():
    """Between k = 250 and 500 the local slope is off by .11 at p = 10, .50 at p = 20 and 3.2 at p = 50."""
    for p, gap in ((10, 0.11), (20, 0.50), (50, 3.2)):
        slope = mercer(ArcCosine(1), p, [250, 500], kind="ntk").slopes().values[0]
        assert slope + p == pytest.approx(gap, rel=0.07)


@pytest.mark.parametrize("p", DIMENSIONS)
@pytest.mark.parametrize(("order", "kind", "shift"), [(1, "ntk", 0), (1, "ckn", 2), (0, "ckn", 0)])
def test_slopes_where_the_asymptotics_has_set_in(p, order, kind, shift):
    degrees = np.unique(np.geomspace(20_000, 5 * 10**8, 15).astype(np.int64)) // 2 * 2 + 1 - order
    found = mercer(ArcCosine(order), p, degrees, kind=kind)
    assert found.predicted == -(p + shift)
    slopes = found.slopes().values
    assert np.abs(slopes + p + shift).max() < 0.05
    (fit,) = found.decay(20_000)
    assert fit.exponent == pytest.approx(-(p + shift), abs=0.02)
    assert (fit.parity, fit.predicted) == ("odd" if order == 0 else "even", -(p + shift))


def test_how_slowly_the_asymptotics_sets_in():
    """Next to k the slope is off by about p (p - 2) / (2 k): by .06 at k = 20,000 for p = 50, by .05 from 25,000 on."""
    for p, k in ((10, 1000), (20, 20_000), (50, 20_000), (50, 25_000)):
        slope = mercer(ArcCosine(1), p, [k, k + 200], kind="ntk").slopes().values[0]
        assert slope + p == pytest.approx(p * (p - 2) / (2 * (k + 100)), rel=0.01)


# ------------------------------------------------------------------------------------------- extended precision


@pytest.mark.parametrize(("name", "kind"), list(REFERENCES))
@pytest.mark.parametrize("p", [2, 3, 5, 10])
def test_eigenvalues_in_extended_precision(name, kind, p):
    kernel, kappa = REFERENCES[name, kind]
    degrees = [0, 1, 2, 3, 4, 9, 16]
    found = mercer(kernel, p, degrees, kind=kind)
    for k, log, error in zip(degrees, found.log_eigenvalues, found.log_errors, strict=True):
        exact = reference.eigenvalue(kappa, p, k, digits=40)
        if log == -np.inf:
            assert abs(exact) < 1e-30
        else:
            assert log == pytest.approx(float(mp.log(exact)), abs=1e-12)
            assert abs(mp.exp(log) - exact) <= math.exp(error)


@pytest.mark.parametrize(
    ("name", "kind", "p", "k"),
    [
        ("arccos1", "ntk", 50, 60),
        ("arccos1", "ckn", 20, 80),
        ("arccos0", "ckn", 50, 41),
        ("inverse", "ckn", 50, 40),
        ("exp(0.6)", "ntk", 20, 36),
    ],
)
def test_eigenvalues_far_below_rounding_errors(name, kind, p, k):
    kernel, kappa = REFERENCES[name, kind]
    exact = reference.eigenvalue(kappa, p, k, digits=100)
    assert float(mercer(kernel, p, [k], kind=kind).log_eigenvalues[0]) == pytest.approx(float(mp.log(exact)), abs=3e-12)


@pytest.mark.parametrize("p", DIMENSIONS)
def test_exponential_eigenvalues_are_bessel_functions(p):
    """``e^-alpha Gamma(p/2) (2/alpha)^(p/2-1) I_{k+p/2-1}(alpha)``, to degree 500."""
    degrees = [0, 1, 10, 100, 500]
    for sigma in (0.02, 0.1, 0.6, 5.0):
        found = mercer(Exponential(sigma), p, degrees)
        with mp.workdps(40):
            alpha = mp.mpf(Exponential(sigma).alpha)
            front = mp.exp(-alpha) * mp.gamma(mp.mpf(p) / 2) * (2 / alpha) ** (mp.mpf(p) / 2 - 1)
            exact = [float(mp.log(front * mp.besseli(k + mp.mpf(p) / 2 - 1, alpha))) for k in degrees]
        np.testing.assert_allclose(found.log_eigenvalues, exact, rtol=1e-13, atol=3e-12 if sigma > 0.05 else 1e-10)
        relative = np.exp(found.log_errors - found.log_eigenvalues)
        assert (np.abs(found.log_eigenvalues - exact) <= relative + 1e-15 * np.abs(exact)).all()


@pytest.mark.parametrize("p", DIMENSIONS)
def test_arc_cosine_eigenvalues_are_squares_of_activation_coefficients(p):
    """Both sides of ``2 lambda^2`` and ``2 p lambda^2``, the right one summed in 420 digits, to degree 500."""
    with mp.workdps(420):
        for order, degrees in ((0, [1, 77, 499]), (1, [2, 78, 500])):
            found = mercer(ArcCosine(order), p, degrees).log_eigenvalues
            factor = 2 * (p if order else 1)
            exact = [float(mp.log(factor * reference.half_moment(order, p, k) ** 2)) for k in degrees]
            np.testing.assert_allclose(found, exact, rtol=1e-14, atol=1e-12)


@pytest.mark.parametrize("p", range(2, 51))
@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_every_dimension_without_overflow(p, kind):
    """Warnings are errors here."""
    for kernel in (ArcCosine(1), Exponential(0.6)):
        found = mercer(kernel, p, 500, kind=kind)
        assert (np.isfinite(found.log_eigenvalues) | found.zero).all()
        assert np.diff(found.log_eigenvalues[::2]).max() < 0  # they decrease within a parity
        assert 0.98 * found.kernel.at_one < found.trace().partial <= found.kernel.at_one * (1 + 1e-12)


# ------------------------------------------------------------------------------------------- quadrature


@pytest.mark.parametrize("p", [2, 3, 5, 10, 50])
@pytest.mark.parametrize(
    ("kernel", "kind"),
    [(ArcCosine(0), "ckn"), (ArcCosine(1), "ckn"), (ArcCosine(1), "ntk"), *[(kernel, "ntk") for kernel in SERIES]],
    ids=str,
)
def test_quadrature_is_as_good_as_it_says(kernel, kind, p):
    exact, found = (mercer(kernel, p, 200, kind=kind, method=method) for method in ("auto", "quadrature"))
    assert (exact.method != "quadrature", found.method) == (True, "quadrature")
    gaps = np.abs(found.eigenvalues - np.where(found.resolved, exact.eigenvalues, 0.0))
    assert (gaps <= np.exp(found.log_errors) + np.exp(exact.log_errors)).all()
    hidden = ~found.resolved & exact.resolved  # what is not told from 0 is indeed below twice the error
    assert (exact.log_eigenvalues[hidden] <= found.log_errors[hidden] + math.log(2)).all()
    assert np.exp(found.log_errors).max() < 1e-13


def test_angles_beat_gauss_and_jacobi_at_the_singularities():
    """Gauss-Jacobi's own rule, exact for polynomials, converges slowly for sqrt(1 - t); it serves smooth kernels."""
    p, k = 3, 6
    t, w = roots_jacobi(200, (p - 3) / 2, (p - 3) / 2)
    polynomial = list(zonal_polynomials(p, k, t))[k]

    def jacobi(kernel):
        return float(w @ (kernel(t) * polynomial)) / w.sum()

    exact = mercer(ArcCosine(1), p, k, kind="ntk").eigenvalues[k]
    rough = abs(jacobi(lambda t: t * ArcCosine(0)(t) + ArcCosine(1)(t)) / exact - 1)
    fine = abs(mercer(ArcCosine(1), p, k, kind="ntk", method="quadrature").eigenvalues[k] / exact - 1)
    assert rough > 1e-6
    assert fine < 1e-12
    assert jacobi(Exponential(0.6)) == pytest.approx(mercer(Exponential(0.6), p, k).eigenvalues[k], rel=1e-10)


@pytest.mark.parametrize(("kind", "kappa"), [("ckn", reference.deep), ("ntk", reference.deep_tangent)])
@pytest.mark.parametrize("p", [2, 3, 10])
def test_two_layers_in_extended_precision(kind, kappa, p):
    degrees = [0, 1, 2, 3, 8, 15]
    found = mercer(TWO_LAYERS, p, degrees, kind=kind)
    assert found.method == "mixed"
    for k, value, error in zip(degrees, found.eigenvalues, found.log_errors, strict=True):
        exact = float(reference.eigenvalue(kappa, p, k, digits=30))
        assert abs(value - exact) <= math.exp(error)
        assert value == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(("kind", "kappa"), [("ckn", reference.deep), ("ntk", reference.deep_tangent)])
def test_two_layers_far_below_rounding_errors(kind, kappa):
    found = mercer(TWO_LAYERS, 50, [60], kind=kind)
    exact = reference.eigenvalue(kappa, 50, 60, digits=80)
    assert exact < 1e-34
    assert found.log_eigenvalues[0] == pytest.approx(float(mp.log(exact)), abs=1e-8)
    assert found.log_errors[0] < found.log_eigenvalues[0] + math.log(1e-8)


@pytest.mark.parametrize("p", [2, 3, 10, 50])
@pytest.mark.parametrize(("order", "kind"), [(0, "ckn"), (1, "ckn"), (1, "ntk")])
def test_computed_coefficients_find_the_closed_forms(order, kind, p):
    """One layer, whose eigenvalues are known, treated as several are."""
    kernel, k = sphere_kernel(ArcCosine(order), kind), np.arange(0, 501, 7)
    logs, errors = log_numeric_series(kernel, p, k)
    exact = log_closed_form(kernel, p, k)
    assert (np.abs(np.exp(logs) - np.exp(exact)) <= np.exp(errors) + 1e-12 * np.exp(exact)).all()
    alive = np.isfinite(exact)
    gaps = np.abs(np.expm1(logs[alive] - exact[alive]))
    assert (gaps <= np.exp(errors[alive] - exact[alive])).all()
    assert gaps.max() < 1e-5


@pytest.mark.parametrize("kernel", [ArcCosine(0), ArcCosine(1), Exponential(0.6), InversePolynomial()], ids=str)
def test_computed_coefficients(kernel):
    b, errors = numeric_taylor(sphere_kernel(kernel))
    exact = kernel.coefficients(len(b))
    assert (np.abs(b - exact) <= errors).all()
    assert (errors[:1000] < 1e-14).all()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_values_are_those_of_exact_kernels(layers, kind):
    """A point of the sphere is a signal of one position with p channels."""
    text = " | ".join(["1 arccos1 -"] * layers)
    x = unit(0, 8, 6)
    cosines = np.clip(x @ x.T, -1, 1)
    away = ~np.eye(8, dtype=bool)
    exact = ConvKernel(text, kind=kind).gram(x)
    np.testing.assert_allclose(sphere_kernel(text, kind)(cosines)[away], exact[away], rtol=1e-12)
    assert sphere_kernel(text, kind).at_one == (1.0 if kind == "ckn" else layers + 1.0)


def test_layers_as_published():
    """``ntk_L = ((L-1) ntk_{L-1} k0(k1^{(L-2)}(u)) + k1^{(L-1)}(u)) / L``, with L - 1 nonlinear layers."""
    u = np.linspace(-0.99, 0.99, 41)
    zero, one = ArcCosine(0), ArcCosine(1)
    published, inner = (u * zero(u) + one(u)) / 2, one(u)
    for depth in (3, 4):
        outer = one(inner)
        published = ((depth - 1) * published * zero(inner) + outer) / depth
        inner = outer
        found = sphere_kernel([one] * (depth - 1), "ntk")
        np.testing.assert_allclose(found(u) / found.at_one, published, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_deep_equals_shallow_in_decay(kind):
    found = mercer("1 arccos1 - | 1 arccos1 - | 1 arccos1 -", 5, 400, kind=kind)
    assert found.resolved.all()  # no parity is missing from two layers on
    shift = 2 if kind == "ckn" else 0
    assert found.predicted == -(5 + shift)
    for fit in found.decay(200):
        assert fit.exponent == pytest.approx(-(5 + shift), abs=0.05)


def test_steps_of_two_layers_decay_slower():
    """The square root of a square root: nu = 1/4."""
    found = mercer("1 arccos0 - | 1 arccos0 -", 3, 800)
    assert found.predicted == -2.5
    assert {round(fit.exponent, 1) for fit in found.decay(400)} == {-2.5}


def test_rounding_of_steep_kernels_is_in_the_error():
    """Two layers of order 0 go as the square root of the angle: the cosines' rounding counts more than the rule's."""
    with mp.workdps(40):
        cuts = [mp.mpf(0), *(mp.pi / 2 * mp.mpf(4) ** -j for j in range(30, 0, -3)), mp.pi / 2, mp.pi]
        nested = lambda theta: reference.kappa_zero(1 - theta / mp.pi)  # noqa: E731
        exact = mp.quad(lambda theta: nested(theta) * mp.cos(4 * theta), cuts) / mp.pi
    found = mercer("1 arccos0 - | 1 arccos0 -", 2, [4])
    assert 0 < abs(float(found.eigenvalues[0] - exact)) < math.exp(found.log_errors[0]) < 1e-12


def test_a_long_table_shows_what_is_not_zero():
    lines = str(mercer(ArcCosine(1), 3, 200)).splitlines()
    assert len(lines) < 30
    assert sum(line.split()[2] == "0" for line in lines[3:]) <= 2
    assert lines[-1].startswith("200 ")


def test_duals_are_quadrature():
    """The dual kernel of ReLU is that of order 1."""
    found, exact = mercer(Dual("relu"), 4, 30), mercer(ArcCosine(1), 4, 30)
    assert (found.method, found.predicted) == ("quadrature", None)
    assert (np.abs(found.eigenvalues - exact.eigenvalues) <= 30 * np.exp(found.log_errors)).all()
    np.testing.assert_allclose(found.eigenvalues[::2][:6], exact.eigenvalues[::2][:6], rtol=1e-10)


@pytest.mark.parametrize("name", ["sin", "cos", "exp", "erf"])
def test_duals_of_known_series(name):
    found, exact = (mercer(Dual(name), 5, 40, method=method) for method in ("auto", "quadrature"))
    assert (found.method, found.predicted) == ("series", -math.inf)
    gaps = np.abs(found.eigenvalues - np.where(exact.resolved, exact.eigenvalues, found.eigenvalues))
    assert (gaps <= 10 * np.exp(exact.log_errors)).all()  # the dual kernel's own table is good to 1e-15
    assert found.trace().partial == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("p", [3, 50])
def test_powers_have_one_coefficient(p):
    k = np.arange(301)
    expected = log_power_coefficients(p, np.array(300), k)
    np.testing.assert_allclose(mercer(Power(300), p, 300).log_eigenvalues, expected, atol=1e-9)
    np.testing.assert_allclose(mercer(Power(300), p, [0]).log_eigenvalues, expected[:1], atol=1e-9)


def test_polynomials_of_a_large_degree():
    small, large = mercer(Polynomial(1, 900), 6, 30), mercer(Polynomial(1, 1200), 6, 30)
    assert (small.method, large.method) == ("series", "series")
    other = mercer(Polynomial(1, 900), 6, 30, method="quadrature")
    assert (np.abs(small.eigenvalues - other.eigenvalues) <= np.exp(other.log_errors) + 1e-11 * small.eigenvalues).all()
    assert large.resolved.all()


# ------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("p", DIMENSIONS)
def test_eigenvalues_sum_to_the_diagonal(p):
    """What is missing at degree 600 (1.9995 of 2 at p = 3) is the tail of the power law."""
    for kernel, kind in ((ArcCosine(1), "ntk"), (ArcCosine(1), "ckn"), (ArcCosine(0), "ckn")):
        trace = mercer(kernel, p, 600, kind=kind).trace()
        assert trace.partial + trace.tail == pytest.approx(trace.at_one, abs=2e-4)
        assert trace.missing == pytest.approx(trace.tail, rel=0.06)
    if p == 3:
        assert mercer(ArcCosine(1), p, 600, kind="ntk").trace().partial == pytest.approx(1.9995, abs=5e-5)
    for kernel in SERIES:
        assert mercer(kernel, p, 200).trace().partial == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("p", [10, 50])
def test_eigenvalues_sum_to_the_diagonal_in_the_end(p):
    found = mercer(ArcCosine(1), p, 300_000, kind="ntk").trace()
    assert found.partial == pytest.approx(2.0, abs=1e-5)
    assert found.partial + found.tail == pytest.approx(2.0, abs=1e-8)


@pytest.mark.parametrize(("kernel", "kind"), [(Exponential(0.6), "ckn"), (ArcCosine(1), "ckn"), (TWO_LAYERS, "ckn")])
def test_values_come_back(kernel, kind):
    found = mercer(kernel, 4, 400, kind=kind)
    t = np.linspace(-1, 1, 21)
    np.testing.assert_allclose(found.value(t), found.kernel(t), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------- bad input


class Bare(DotProductKernel):
    """A kernel of the user's own, with nothing but a value."""

    slope = 1.0

    def __init__(self, function):
        self.function = function

    def value(self, u):
        return self.function(u)

    def derivative(self, u):
        return u

    def coefficients(self, count):
        return np.zeros(count)

    def __str__(self):
        return "bare"


def test_kernels_of_the_users_own():
    found = mercer(Bare(lambda u: (u + u**3) / 2), 5, 6)
    assert found.method == "quadrature"
    np.testing.assert_array_equal(found.resolved, [False, True, False, True, False, False, False])
    assert found.trace().partial == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("function", [lambda u: -u, lambda u: 1 - u**2, lambda u: (3 * u**4 - 1) / 2])
def test_no_positive_definite_kernel(function):
    with pytest.raises(ValueError, match="^kernel: expected a positive definite kernel on S\\^4, got eigenvalue -"):
        mercer(Bare(function), 5, 6)


def test_a_kernel_that_is_not_finite():
    with pytest.raises(ValueError, match="^function: expected finite numbers"):
        mercer(Bare(lambda u: u * math.nan), 3, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ArcCosine(1), 1, 5), "^p: expected a whole number of at least 2"),
        ((ArcCosine(1), 3, 2.5), "^degrees: expected"),
        ((ArcCosine(1), 3, [2, 1]), "^degrees: expected increasing"),
        ((np.cos, 3, 5), "^kernel: expected a dot-product kernel"),
        (([], 3, 5), "^kernel: expected a dot-product kernel"),
        ((None, 3, 5), "^kernel: expected a dot-product kernel"),
        (("3 arccos1 gauss2", 3, 5), "^kernel: expected fully connected layers"),
        ((TWO_LAYERS, 3, [30_000]), "^degrees: expected at most 20000"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        mercer(*arguments)


def test_bad_names():
    with pytest.raises(ValueError, match="^kind: expected 'ckn' or 'ntk', got 'ntkk'; did you mean 'ntk'"):
        mercer(ArcCosine(1), 3, 5, kind="ntkk")
    with pytest.raises(ValueError, match="^method: expected one of auto, closed"):
        mercer(ArcCosine(1), 3, 5, method="jacobi")
    with pytest.raises(ValueError, match="^method: arccos1 .* has no Taylor series here"):
        mercer(ArcCosine(1), 3, 5, method="series")
    with pytest.raises(ValueError, match="^method: dual.relu. .* has no computed Taylor coefficients"):
        mercer(Dual("relu"), 3, 5, method="mixed")
    with pytest.raises(ValueError, match="^kind: the tangent kernel needs a finite"):
        mercer(ArcCosine(0), 3, 5, kind="ntk")
    with pytest.raises(ValueError, match="^degrees: expected all degrees from 0 on for trace"):
        mercer(ArcCosine(1), 3, [4, 6]).trace()


def test_a_series_that_is_too_long(monkeypatch):
    monkeypatch.setattr(mercer_logs, "_MOST_TERMS", 10_000)
    with pytest.raises(ValueError, match="^kernel: the series of exp.0.0001. .* needs more than 10,000 terms"):
        mercer(Exponential(1e-4), 3, [0, 100])


def test_tables():
    text = str(mercer(ArcCosine(1), 3, 6, kind="ntk"))
    assert text.startswith("arccos1 (ntk) on S^2 (p = 3), closed; predicted exponent of mu_k: -3\n")
    assert "0.005208" in text
    assert "beyond any power" in str(mercer(Exponential(1), 50, 500))
    assert "e-11" in str(mercer(Exponential(0.6), 50, 500)).splitlines()[-1]  # 6e-1106, as text
    assert "not known" in str(mercer(Dual("gelu"), 5, 8))
    assert "<" in str(mercer(Dual("gelu"), 5, 8))
    assert "predicted -3" in str(mercer(ArcCosine(1), 3, 600, kind="ntk").decay(50)[0])
    assert "kappa(1) = 2" in str(mercer(ArcCosine(1), 3, 600, kind="ntk").trace())
    assert "20000 to 40000" in str(mercer(ArcCosine(1), 3, [20_000, 40_000]).slopes())


def test_multiplicities_of_a_spectrum():
    found = mercer(ArcCosine(1), 6, 30)
    np.testing.assert_allclose(np.log(np.array(found.multiplicities, float)), found.log_multiplicities, atol=1e-13)
    np.testing.assert_allclose(log_multiplicity(6, found.degrees), found.log_multiplicities)

"""Functions of one cosine: coefficients, RKHS norms, approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hilbertnet import ConvKernel
from hilbertnet.architecture import ArcCosine, Dual, Exponential, InversePolynomial, Linear
from hilbertnet.complexity.harmonics import zonal_polynomials
from hilbertnet.complexity.spectrum import mercer
from hilbertnet.complexity.zonal import absolute_power, activation, kernel_section, monomial, zonal
from hilbertnet.complexity.zonal_approximation import approximation, lipschitz_exponent
from hilbertnet.complexity.zonal_norm import harmonic_norm, norm_table, zonal_norm

FUNCTIONS = [
    *[absolute_power(s) for s in (0.5, 1, 1.5, 2, 2.5, 3.7, 4)],
    activation(0),
    activation(1),
    monomial(0),
    monomial(5),
    kernel_section(ArcCosine(1), kind="ntk"),
    kernel_section(Exponential(0.6)),
]
RELU = ArcCosine(1)


def tangent(p, last=2000):
    return mercer(RELU, p, last, kind="ntk")


def features(p, last=2000):
    return mercer(RELU, p, last)


# ------------------------------------------------------------------------------------------- coefficients


@pytest.mark.parametrize("p", [2, 3, 5, 20])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_closed_forms_are_quadrature(function, p):
    exact = function.coefficients(p, 60)
    found = zonal(function.value, kinks=[0.0]).coefficients(p, 60)
    assert (np.abs(exact.values - found.values) <= np.exp(found.log_errors) + 1e-13 * np.abs(exact.values)).all()
    assert np.exp(found.log_errors).max() < 2e-13


@pytest.mark.parametrize("p", [2, 3, 10, 50])
def test_absolute_value_is_two_neurons(p):
    """``|t| = 2 relu(t) - t``: the coefficients of even degrees are twice those of ReLU, to degree 500."""
    one, two = activation(1).coefficients(p, 500), absolute_power(1).coefficients(p, 500)
    np.testing.assert_allclose(two.logs[::2], one.logs[::2] + math.log(2), rtol=1e-14, atol=1e-12)
    np.testing.assert_array_equal(two.signs[::2], one.signs[::2])
    assert (two.signs[1::2] == 0).all()


@pytest.mark.parametrize("p", [2, 3, 10, 50])
def test_even_powers_are_polynomials(p):
    np.testing.assert_allclose(
        absolute_power(4).coefficients(p, 10).values, monomial(4).coefficients(p, 10).values, rtol=1e-12, atol=1e-300
    )


@pytest.mark.parametrize("p", [3, 20])
@pytest.mark.parametrize("s", [0.5, 1, 2.5])
def test_decay_of_coefficients(s, p):
    """``k^-(p/2 + s)``."""
    logs = absolute_power(s).coefficients(p, [10**6, 2 * 10**6]).logs
    assert np.diff(logs)[0] / math.log(2) == pytest.approx(-(p / 2 + s), abs=1e-4)


# ------------------------------------------------------------------------------------------- norms


@pytest.mark.parametrize("p", [2, 3, 5, 20])
@pytest.mark.parametrize(
    ("kernel", "kind"),
    [(RELU, "ntk"), (RELU, "ckn"), (Exponential(0.6), "ckn"), (InversePolynomial(), "ntk")],
    ids=str,
)
def test_norm_of_a_kernel_section(kernel, kind, p):
    """``||K(w, .)||^2 = kappa(1)``, the tail by a power law included."""
    norm = zonal_norm(kernel_section(kernel, kind=kind), mercer(kernel, p, 600, kind=kind))
    assert norm.limit**2 == pytest.approx(norm.spectrum.kernel.at_one, rel=2e-4)
    assert norm.reason.startswith("finite")


@pytest.mark.parametrize(("kernel", "kind"), [(RELU, "ntk"), (RELU, "ckn"), (Exponential(0.6), "ckn")], ids=str)
def test_norm_of_a_kernel_expansion(kernel, kind):
    """``f = K(w, .) + K(-w, .) / 2`` has the norm ``sqrt(alpha' K alpha)`` of kernel ridge regression."""
    spectrum = mercer(kernel, 3, 600, kind=kind)
    ends = spectrum.kernel(np.array([-1.0, 1.0]))
    exact = math.sqrt(1.25 * ends[1] + ends[0])
    function = zonal(lambda t: spectrum.kernel(t) + spectrum.kernel(-t) / 2)
    norm = zonal_norm(function, spectrum)
    sum_up_to_100 = norm.truncated[100] if kind == "ntk" else norm.truncated[40]
    assert sum_up_to_100 == pytest.approx(exact, rel=3e-3)
    assert norm.truncated[0] < norm.truncated[10] <= exact * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_interpolation_never_has_a_larger_norm(kind):
    """The least norm through n values of f is below ||f||, and near it for many points."""
    p, function = 3, absolute_power(3.2)
    exact = zonal_norm(function, mercer(RELU, p, 2000, kind=kind)).limit
    x = np.random.RandomState(0).standard_normal((500, p))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    values, found = function.value(x[:, 0]), []
    for n in (20, 100, 500):
        gram = ConvKernel("1 arccos1 -", kind=kind).gram(x[:n])
        found.append(math.sqrt(values[:n] @ np.linalg.lstsq(gram, values[:n], rcond=1e-10)[0]))
    assert found[0] < found[1] < found[2] < exact
    assert found[2] > 0.9 * exact


@pytest.mark.parametrize("p", [3, 5, 10])
def test_functions_inside_one_and_outside_the_other(p):
    """``|t|^s`` is in the RKHS of the tangent kernel for s > (p-1)/2, of random features for s > (p+1)/2."""
    table = norm_table([absolute_power(s) for s in ((p - 1.5) / 2, p / 2, (p + 2.4) / 2)], [tangent(p), features(p)])
    limits = np.array([norm.limit for norm in table.norms]).reshape(3, 2)
    np.testing.assert_array_equal(np.isfinite(limits), [[False, False], [True, False], [True, True]])
    for norm in table.norms:
        assert norm.fitted == pytest.approx(norm.predicted, abs=0.02)
    text = str(table)
    assert "k <= 512" in text
    assert "inf" in text


def test_the_tail_completes_a_short_sum():
    short, long = (zonal_norm(absolute_power(1.5), tangent(3, last)) for last in (100, 10_000))
    assert short.truncated[-1] < long.truncated[-1] < long.limit
    assert short.limit == pytest.approx(long.limit, rel=1e-4)
    assert long.limit - long.truncated[-1] < 1e-4


def test_degrees_that_a_kernel_does_not_have():
    norm = zonal_norm(monomial(3), tangent(4))
    assert norm.limit == math.inf
    assert norm.reason == "infinite: the kernel has no harmonics of degree 3, which f has"
    assert zonal_norm(monomial(2), tangent(4)).reason.startswith("finite: f has finitely many degrees")
    assert zonal_norm(monomial(1), mercer(Linear(), 4, 5)).limit == pytest.approx(1.0, rel=1e-12)  # <w, x>
    assert zonal_norm(activation(1), mercer(Linear(), 4, 5)).limit == math.inf


def test_kernels_that_are_too_smooth():
    norm = zonal_norm(absolute_power(2.5), mercer(Exponential(0.6), 3, 200))
    assert norm.limit == math.inf
    assert "faster than any power" in norm.reason


def test_what_is_not_known_is_said():
    norm = zonal_norm(absolute_power(1), mercer(Dual("gelu"), 3, 80))
    assert math.isnan(norm.limit)
    assert "not known beyond degree" in norm.reason
    assert norm.last < 80


def test_deep_kernels_have_the_odd_degrees():
    """From two layers on no parity is missing."""
    shallow, deep = (mercer(text, 3, 300, kind="ntk") for text in ("1 arccos1 -", "1 arccos1 - | 1 arccos1 -"))
    assert zonal_norm(monomial(3), shallow).limit == math.inf
    assert 0 < zonal_norm(monomial(3), deep).limit < 10
    assert zonal_norm(absolute_power(2.5), deep).limit == pytest.approx(
        zonal_norm(absolute_power(2.5), mercer("1 arccos1 - | 1 arccos1 -", 3, 600, kind="ntk")).limit, rel=1e-4
    )


# ------------------------------------------------------------------------------------------- approximation


def test_exponents_of_the_literature():
    for p in (4, 5, 10):
        assert lipschitz_exponent(tangent(p, 10)) == pytest.approx(-1 / (p / 2 - 1))
        assert lipschitz_exponent(features(p, 10)) == pytest.approx(-1 / (p / 2))
    assert lipschitz_exponent(tangent(2, 10)) == -math.inf
    assert lipschitz_exponent(mercer(Dual("gelu"), 3, 5)) is None


@pytest.mark.parametrize("p", [4, 5, 10])
@pytest.mark.parametrize("spectrum", [tangent, features])
def test_one_derivative_in_l2_gives_the_exponent_of_lipschitz_functions(spectrum, p):
    """``-1/(p/2 - 1)`` for the tangent kernel and ``-1/(p/2)`` for random features, measured and predicted."""
    found = approximation(absolute_power(0.5), spectrum(p, 4000))
    assert found.predicted == pytest.approx(lipschitz_exponent(found.spectrum))
    assert found.best.exponent == pytest.approx(found.predicted, abs=0.005)


@pytest.mark.parametrize("p", [5, 10])
@pytest.mark.parametrize("spectrum", [tangent, features])
def test_the_absolute_value_is_approximated_faster(spectrum, p):
    found = approximation(absolute_power(1), spectrum(p, 4000))
    assert found.best.exponent == pytest.approx(found.predicted, abs=0.005)
    assert found.best.exponent < lipschitz_exponent(found.spectrum)


@pytest.mark.parametrize("spectrum", [tangent, features])
def test_poisson_means_reach_the_theorem_up_to_its_logarithm(spectrum):
    """In the supremum norm, for |t|: at least as fast as for every Lipschitz function."""
    for p in (4, 5, 6):
        found = approximation(absolute_power(1), spectrum(p, 4000))
        assert found.means.exponent_up_to_logarithm < lipschitz_exponent(found.spectrum)
        assert (np.diff(found.means.errors) < 0).all()
        assert (np.diff(found.means.norms) > 0).all()


def test_the_best_approximation_solves_the_penalized_problem():
    """Degree by degree, ``a mu / (mu + lambda)`` against a search for the least ``||f - h||^2 + lambda ||h||_H^2``."""
    spectrum, function, lam = tangent(4, 200), absolute_power(1), 0.01
    found = approximation(function, spectrum, lam=[lam])
    a, mu = function.coefficients(4, 200).values, spectrum.eigenvalues
    counts, use = np.exp(spectrum.log_multiplicities), spectrum.resolved
    best = found.best.errors[0] ** 2 + lam * found.best.norms[0] ** 2
    shrunk = np.where(use, mu / (mu + lam), 0.0)
    for factor in (0.98, 0.999, 1.0, 1.001, 1.02):
        h = a * shrunk * factor
        cost = (counts * (a - h) ** 2).sum() + lam * (counts[use] * h[use] ** 2 / mu[use]).sum()
        assert cost >= best - 1e-6  # the tail of f beyond degree 200 is in `best` only
    assert (counts * (a - a * shrunk) ** 2).sum() == pytest.approx(found.best.errors[0] ** 2, rel=1e-3)


def test_means_are_convolutions_with_the_poisson_kernel():
    """Their error at the pole, where ``sum_k r^k a_k N P_k`` is an integral against ``(1 - r^2) / |x - r y|^p``."""
    p, r = 3, 0.6
    found = approximation(absolute_power(1), tangent(p, 400), radii=[1 - r])
    u, weights = np.polynomial.legendre.leggauss(400)
    kernel = (1 - r**2) / (1 - 2 * r * u + r**2) ** (p / 2)
    assert weights @ kernel / 2 == pytest.approx(1.0, rel=1e-12)
    at_pole = 1 - weights @ (np.abs(u) * kernel) / 2
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    on_equator = np.sqrt(1 - u**2)[:, None] * np.abs(np.cos(angles))  # |<w, y>| seen from a point of the equator
    at_equator = weights @ kernel_mean(on_equator, kernel)
    assert found.means.errors[0] == pytest.approx(max(at_pole, at_equator), rel=1e-3)


def kernel_mean(values, kernel):
    return values.mean(1) * kernel / 2


def test_functions_inside_are_reached_at_their_norm():
    found = approximation(absolute_power(2.5), tangent(3, 4000))
    assert found.predicted == -math.inf
    norm = zonal_norm(absolute_power(2.5), tangent(3, 4000)).limit
    assert found.best.norms[-1] == pytest.approx(norm, rel=1e-3)
    assert found.best.norms.max() <= norm


def test_curves_as_text():
    text = str(approximation(absolute_power(1), tangent(5, 1000)))
    assert "predicted exponents of delta for this function -1.5; for Lipschitz functions -0.667" in text
    assert "L2 error" in text
    assert "after division by log(1 + delta)" in text
    assert "RKHS norm of |t|^1.5 for arccos1 (ntk), p = 3" in str(zonal_norm(absolute_power(1.5), tangent(3)))


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: absolute_power(0), "^s: expected"),
        (lambda: absolute_power(math.nan), "^s: expected"),
        (lambda: activation(2), "^order: expected 0 for the step or 1"),
        (lambda: activation(True), "^order: expected 0 for the step or 1"),
        (lambda: monomial(2.0), "^power: expected a whole number"),
        (lambda: monomial(-1), "^power: expected a whole number"),
        (lambda: zonal(3), "^g: expected a function"),
        (lambda: zonal(np.abs, kinks=[1.0]), "^kinks: expected cosines strictly between"),
        (lambda: zonal(np.abs, kinks=["0"]), "^kinks: expected a finite number"),
        (lambda: zonal(lambda t: t * np.nan).coefficients(3, 4), "^function: expected finite numbers"),
        (lambda: absolute_power(1).coefficients(1, 4), "^p: expected"),
        (lambda: absolute_power(1).coefficients(3, 4.5), "^degrees: expected"),
        (lambda: zonal_norm(np.abs, tangent(3, 5)), "^function: expected a ZonalFunction"),
        (lambda: zonal_norm(absolute_power(1), RELU), "^spectrum: expected a Spectrum"),
        (lambda: zonal_norm(absolute_power(1), mercer(RELU, 3, [4, 6])), "^spectrum: expected all degrees"),
        (lambda: norm_table([absolute_power(1)], [tangent(3, 50)]), "^degrees: expected at most 50"),
        (lambda: approximation(absolute_power(1), tangent(3, 50), lam=0.0), "^lam: expected"),
        (lambda: approximation(absolute_power(1), tangent(3, 50), radii=1.5), "^radii: expected"),
        (lambda: approximation(absolute_power(1), tangent(3, 50), radii=-1), "^radii: expected"),
        (lambda: approximation(absolute_power(1), tangent(3, 3)), "^spectrum: expected eigenvalues above 0 at two"),
        (lambda: approximation(monomial(3), tangent(3, 50)), "^function: expected degrees that the kernel has"),
        (
            lambda: approximation(absolute_power(1), mercer(Dual("gelu"), 3, 80)),
            "^spectrum: expected eigenvalues above",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("p", [3, 6])
def test_the_norm_of_a_function_that_is_not_zonal(p):
    """K(v, .) + 2 K(w, .) has the squared norm 5 kappa(1) + 4 kappa(<v, w>), and energies by the addition theorem."""
    spectrum = mercer(Exponential(0.6), p, 60)
    cosine = 0.3
    polynomials = np.array(list(zonal_polynomials(p, 60, np.array([cosine]))))[:, 0]
    energies = np.exp(2 * spectrum.log_eigenvalues + spectrum.log_multiplicities) * (5 + 4 * polynomials)
    exact = 5 + 4 * math.exp((cosine - 1) / 0.36)
    assert harmonic_norm(energies, spectrum) == pytest.approx(math.sqrt(exact), rel=1e-10)
    relu = mercer(ArcCosine(1), p, 10)
    assert harmonic_norm([0.0, 0.0, 0.0, 1e-9], relu) == math.inf
    found = harmonic_norm([0.0, 2.0, 0.0], relu)
    assert found == pytest.approx(math.sqrt(2.0 / relu.eigenvalues[1]))
    with pytest.raises(ValueError, match="energies: expected at most 11 degrees"):
        harmonic_norm(np.ones(12), relu)
    with pytest.raises(ValueError, match="energies: expected finite numbers of at least 0, got -1"):
        harmonic_norm([1.0, -1.0], relu)

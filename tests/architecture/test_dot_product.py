"""The contract of every dot-product kernel, against mpmath with 40 digits."""

import dataclasses
import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
import torch
from catalogue import CATALOGUE, DIGITS, Entry
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hilbertnet.architecture import (
    ArcCosine,
    Architecture,
    Dual,
    Exponential,
    InversePolynomial,
    Layer,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.architecture.homogeneous import homogeneous, safe_norm, tangent

every_kernel = pytest.mark.parametrize("entry", CATALOGUE, ids=str)

INSIDE = torch.linspace(-0.9, 0.9, 19, dtype=torch.float64)
NEAR_ENDS = torch.tensor([s * (1 - 10.0**-k) for k in range(1, 16) for s in (1, -1)], dtype=torch.float64)
ENDS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def many_digits():
    with mp.workdps(DIGITS):
        yield


def worst_error(computed: torch.Tensor, u: torch.Tensor, exact) -> float:
    pairs = zip(computed.tolist(), u.tolist(), strict=True)
    return max(abs(float(mp.mpf(k) - exact(mp.mpf(x)))) for k, x in pairs)


def partial_sums(entry: Entry, weight=lambda j: 1.0) -> tuple[float, float]:
    """Sums of weight(j) b_j over j < 120 and j < 480."""
    terms = entry.kernel.coefficients(480) * weight(np.arange(480))
    return float(terms[:120].sum()), float(terms.sum())


# ---------------------------------------------------------------------------------------------------------- values


@every_kernel
def test_value_at_one_is_one(entry):
    assert entry.kernel(1.0) == pytest.approx(1.0, abs=entry.accuracy)


@every_kernel
def test_values_stay_within_one(entry):
    u = torch.cat([torch.linspace(-1, 1, 4001, dtype=torch.float64), NEAR_ENDS, ENDS])
    assert entry.kernel.value(u).abs().max() <= 1 + entry.accuracy


@every_kernel
def test_value_equals_its_formula(entry):
    assert worst_error(entry.kernel.value(INSIDE), INSIDE, entry.value) <= entry.accuracy


@every_kernel
def test_value_near_the_ends_is_as_good_as_inside(entry):
    u = torch.cat([NEAR_ENDS, ENDS])
    assert worst_error(entry.kernel.value(u), u, entry.value) <= entry.accuracy


@every_kernel
def test_value_in_single_precision(entry):
    u = torch.cat([INSIDE, NEAR_ENDS[:12], ENDS]).float()
    computed = entry.kernel.value(u)
    assert computed.dtype == torch.float32
    assert worst_error(computed, u, entry.value) <= 5e-7


@every_kernel
def test_derivative_equals_its_formula(entry):
    # kappa' of a dual grows to about 3
    assert worst_error(entry.kernel.derivative(INSIDE), INSIDE, entry.derivative) <= 5 * entry.accuracy


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if not isinstance(e.kernel, Dual)], ids=str)
def test_the_catalogue_differentiates_its_own_formula(entry):
    for u in (-0.7, 0.2, 0.8):
        assert abs(mp.diff(entry.value, u) - entry.derivative(mp.mpf(u))) < 1e-15


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if math.isfinite(e.kernel.slope)], ids=str)
def test_derivative_near_the_ends(entry):
    """Kernels with a kink have a derivative like sqrt(1 - u), for which half of the digits are lost."""
    u = torch.cat([NEAR_ENDS, ENDS])
    kink = isinstance(entry.kernel, Dual) and entry.remainder is not None
    tolerance = 2e-8 if kink else 20 * entry.accuracy
    assert worst_error(entry.kernel.derivative(u), u, entry.derivative) <= tolerance


def test_derivative_of_order_zero_near_the_ends():
    computed = ArcCosine(0).derivative(NEAR_ENDS)
    exact = [1 / (mp.pi * mp.sqrt(1 - mp.mpf(u) ** 2)) for u in NEAR_ENDS.tolist()]
    assert max(abs(float(c / e - 1)) for c, e in zip(computed.tolist(), exact, strict=True)) <= 1e-15


def test_arc_cosine_values_of_the_literature():
    """Order 1, and the tangent kernel u kappa_0 + kappa_1 of two layers."""
    u = np.array([-0.5, 0.0, 0.3, 0.5, 0.9])
    first = [0.108997781044, 0.318309886184, 0.482744283835, 0.608997781044, 0.909538398845]
    tangents = [-0.057668885622, 0.318309886184, 0.661840289042, 0.942331114378, 1.680328735029]
    np.testing.assert_allclose(ArcCosine(1)(u), first, rtol=0, atol=6e-13)
    np.testing.assert_allclose(u * ArcCosine(0)(u) + ArcCosine(1)(u), tangents, rtol=0, atol=6e-13)
    np.testing.assert_allclose(ArcCosine(0)([-0.5, 0, 0.5]), [1 / 3, 1 / 2, 2 / 3], rtol=0, atol=1e-15)


def test_exponential_is_the_gaussian_kernel_on_the_sphere(generator):
    z = torch.nn.functional.normalize(torch.randn(9, 4, dtype=torch.float64, generator=generator), dim=1)
    gaussian = torch.exp(-torch.cdist(z, z).square() / (2 * 0.6**2))
    torch.testing.assert_close(Exponential(0.6).value((z @ z.T).clamp(-1, 1)), gaussian, rtol=0, atol=1e-14)


def test_call_answers_in_the_kind_it_was_asked_in():
    kernel = Power(2)
    assert kernel(0.5) == 0.25
    assert isinstance(kernel(0.5), float)
    assert isinstance(kernel(np.array([0.5])), np.ndarray)
    assert kernel(torch.tensor(0.5)).dtype == torch.float32


# ------------------------------------------------------------------------------------------------- Taylor series


@every_kernel
def test_coefficients_are_not_negative(entry):
    b = entry.kernel.coefficients(300)
    assert b.shape == (300,)
    assert b.min() >= 0


@every_kernel
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_fewer_coefficients_are_the_first_ones(entry, count):
    np.testing.assert_array_equal(entry.kernel.coefficients(count), entry.kernel.coefficients(9)[:count])


@every_kernel
def test_coefficients_sum_to_one(entry):
    """At once, or with a remainder that shrinks at the known power of the number of terms."""
    first, whole = partial_sums(entry)
    assert whole <= 1 + 4e-15
    if entry.remainder is None:
        assert whole == pytest.approx(1, abs=4e-15)
    else:
        assert (1 - whole) / (1 - first) == pytest.approx(4**entry.remainder, rel=0.03)


@every_kernel
def test_slope_is_the_sum_of_j_times_coefficients(entry):
    first, whole = partial_sums(entry, weight=lambda j: j)
    slope = entry.kernel.slope
    if entry.remainder is None:
        assert whole == pytest.approx(slope, rel=2e-14)
    elif math.isinf(slope):
        assert whole / first == pytest.approx(4 ** (1 + entry.remainder), rel=0.03)
    else:
        assert (slope - whole) / (slope - first) == pytest.approx(4 ** (1 + entry.remainder), rel=0.03)


@every_kernel
def test_slope_is_the_derivative_at_one(entry):
    assert entry.kernel.slope == pytest.approx(float(entry.derivative(mp.mpf(1))), rel=1e-14)


@every_kernel
def test_series_equals_the_value_inside(entry):
    u = INSIDE.numpy()
    series = np.polynomial.polynomial.polyval(u, entry.kernel.coefficients(400))
    np.testing.assert_allclose(series, entry.kernel(u), rtol=0, atol=5 * entry.accuracy)


@every_kernel
def test_series_of_the_derivative_inside(entry):
    b = entry.kernel.coefficients(450)
    series = np.polynomial.polynomial.polyval(INSIDE.numpy(), b[1:] * np.arange(1, 450))
    np.testing.assert_allclose(series, entry.kernel.derivative(INSIDE).numpy(), rtol=0, atol=10 * entry.accuracy)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (ArcCosine(0), [0.5, 0.3183098862, 0, 0.0530516477, 0, 0.0238732415]),
        (ArcCosine(1), [0.3183098862, 0.5, 0.1591549431, 0, 0.0132629119, 0, 0.0039788736, 0, 0.0017762828]),
        (InversePolynomial(), [1 / 2, 1 / 4, 1 / 8, 1 / 16]),
        (Vovk(), [1 / 3, 1 / 3, 1 / 3, 0, 0]),
        (Polynomial(1, 3), [1 / 8, 3 / 8, 3 / 8, 1 / 8, 0]),
        (Polynomial(2, 3), [8 / 27, 12 / 27, 6 / 27, 1 / 27, 0]),
        (Exponential(1), [math.exp(-1), math.exp(-1), math.exp(-1) / 2, math.exp(-1) / 6]),
    ],
    ids=str,
)
def test_coefficients_printed_in_the_literature(kernel, expected):
    np.testing.assert_allclose(kernel.coefficients(len(expected)), expected, rtol=0, atol=6e-11)


@pytest.mark.parametrize(
    ("kernel", "slope"),
    [
        (Exponential(0.6), 1 / 0.36),
        (Exponential(1), 1),
        (InversePolynomial(), 1),
        (Polynomial(1, 3), 1.5),
        (Polynomial(2, 3), 1),
        (Power(4), 4),
        (Vovk(), 1),
        (Linear(), 1),
        (ArcCosine(0), math.inf),
        (ArcCosine(1), 1),
    ],
    ids=str,
)
def test_slopes_printed_in_the_literature(kernel, slope):
    assert kernel.slope == pytest.approx(slope, rel=1e-15)
    assert kernel.lipschitz == pytest.approx(max(1, math.sqrt(slope)), rel=1e-15)


# ---------------------------------------------------------------------------------------------------- derivatives


@every_kernel
def test_gradient_against_finite_differences(entry):
    u = torch.linspace(-0.95, 0.95, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entry.kernel.value, (u,))


@every_kernel
def test_second_gradient_against_finite_differences(entry):
    u = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(entry.kernel.value, (u,))


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_at_the_ends_is_finite(entry, dtype):
    u = ENDS.to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(entry.kernel.value(u).sum(), u)
    assert torch.isfinite(gradient).all()
    if math.isfinite(entry.kernel.slope):
        assert gradient[1] == pytest.approx(entry.kernel.slope, rel=1e-6 if dtype == torch.float64 else 1e-3)


@every_kernel
def test_gradient_at_the_ends_vanishes_with_the_incoming_one(entry):
    u = ENDS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(entry.kernel.value(u), u, torch.zeros_like(u))
    torch.testing.assert_close(gradient, torch.zeros_like(u), rtol=0, atol=0)


@every_kernel
def test_second_gradient_at_the_ends_is_finite(entry):
    u = ENDS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(entry.kernel.value(u).sum(), u, create_graph=True)
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient.sum(), u)
        assert torch.isfinite(second).all()


# ------------------------------------------------------------------------------------- objects, text forms, errors


@every_kernel
def test_kernels_are_values(entry):
    kernel = entry.kernel
    again = dataclasses.replace(kernel)
    assert again == kernel
    assert hash(again) == hash(kernel)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.sigma = 2.0


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if e.text], ids=str)
def test_text_form_reads_back(entry):
    assert str(entry.kernel) == entry.text
    assert Architecture.parse(f"3 {entry.text} -") == Architecture([Layer(3, entry.kernel)])


def test_all_kernels_differ():
    assert len({entry.kernel for entry in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, "0.6", None, 1e-200, 1e-160, 1e200])
def test_bad_sigma_is_refused_by_name(sigma):
    with pytest.raises(ValueError, match=r"^sigma: expected a positive"):
        Exponential(sigma)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Polynomial(0, 3), "c"),
        (lambda: Polynomial(-1.0, 3), "c"),
        (lambda: Polynomial(1, 0), "degree"),
        (lambda: Polynomial(1, 2.5), "degree"),
        (lambda: Power(1), "degree"),
        (lambda: Power(True), "degree"),
        (lambda: ArcCosine(2), "order"),
        (lambda: ArcCosine(True), "order"),
    ],
)
def test_bad_parameters_are_refused_by_name(build, name):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        build()


# ----------------------------------------------------------------------------------------- the kernel on vectors


def patch_kernel(kernel, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    norms = [safe_norm(z.square().sum(-1)) for z in (x, y)]
    return homogeneous(kernel, x @ y.T, norms[0][:, None], norms[1][None, :])


@every_kernel
def test_gram_matrix_is_positive(entry, generator):
    x = torch.randn(40, 5, dtype=torch.float64, generator=generator) * torch.logspace(-2, 2, 40)[:, None]
    x[3], x[4], x[5] = 2 * x[2], -x[2], 0
    gram = patch_kernel(entry.kernel, x, x)
    torch.testing.assert_close(gram, gram.T)
    norms = x.norm(dim=1).clamp(min=1e-300)
    smallest = torch.linalg.eigvalsh(gram / norms[:, None] / norms).min()
    assert smallest >= (-1e-7 if entry.kernel == ArcCosine(0) else -1e-12)


@every_kernel
def test_feature_map_keeps_norms(entry, generator):
    x = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(patch_kernel(entry.kernel, x, x).diagonal(), x.square().sum(1), rtol=1e-7, atol=0)


vectors = arrays(np.float64, (2, 4), elements=st.floats(-10, 10, allow_subnormal=False))


@given(pair=vectors)
@settings(max_examples=50, deadline=None)
def test_feature_maps_expand_by_no_more_than_their_constants(pair):
    x = torch.from_numpy(pair)
    for entry in CATALOGUE:
        gram = patch_kernel(entry.kernel, x, x)
        squared_distance = gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]
        bound = entry.kernel.lipschitz**2 * (x[0] - x[1]).square().sum()
        # order 0 moves by 1e-8 when a cosine is wrong by one rounding, but its bound is infinite
        assert not squared_distance > bound + 1e-13 * x.square().sum(), entry


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
@every_kernel
def test_homogeneous_of_degree_one_in_each_vector(entry, scale, dtype, generator):
    x, y = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator).to(dtype)
    expected = patch_kernel(entry.kernel, x, y)
    tolerance = {"rtol": 0, "atol": 100 * torch.finfo(dtype).eps}
    torch.testing.assert_close(patch_kernel(entry.kernel, scale * x, y) / scale, expected, **tolerance)
    torch.testing.assert_close(patch_kernel(entry.kernel, x, scale * y) / scale, expected, **tolerance)


@every_kernel
def test_zero_vectors_give_zero_and_gradients_that_are_zero(entry, generator):
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    x[1] = 0
    x.requires_grad_()
    y = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    gram = patch_kernel(entry.kernel, x, y)
    assert (gram[1] == 0).all()
    (gradient,) = torch.autograd.grad(gram.sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).any()
    (gradient,) = torch.autograd.grad(patch_kernel(entry.kernel, x, x)[1, 1], x)
    assert (gradient == 0).all()


@every_kernel
def test_a_cosine_above_one_by_rounding_counts_as_one(entry):
    norm = torch.ones(2, dtype=torch.float64, requires_grad=True)
    inner = torch.tensor([1 + 4e-16, -1 - 4e-16], dtype=torch.float64, requires_grad=True)
    value = homogeneous(entry.kernel, inner, norm, norm)
    torch.testing.assert_close(value, entry.kernel.value(ENDS.flip(0)), rtol=0, atol=1e-15)
    gradients = torch.autograd.grad(value.sum(), (inner, norm))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert not torch.isnan(tangent(entry.kernel, inner, norm, norm)).any()


@every_kernel
def test_tangent_is_the_derivative_at_the_cosine(entry):
    inner = torch.tensor([3.0, -2.0, 0.0], dtype=torch.float64)
    norm_x = torch.tensor([2.0, 4.0, 0.0], dtype=torch.float64)
    norm_y = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    expected = entry.kernel.derivative(torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(tangent(entry.kernel, inner, norm_x, norm_y), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_safe_norm_of_nothing_and_of_rounding_below_it(dtype):
    squared = torch.tensor([0.0, -1e-20, 4.0], dtype=dtype, requires_grad=True)
    norm = safe_norm(squared)
    assert norm.tolist() == [0.0, 0.0, 2.0]
    (gradient,) = torch.autograd.grad(norm.sum(), squared)
    assert gradient.tolist() == [0.0, 0.0, 0.25]


def test_safe_norm_is_homogeneous_at_every_scale():
    scales = torch.tensor([1e-30, 1e-8, 1.0, 1e8, 1e30], dtype=torch.float64)
    torch.testing.assert_close(safe_norm((3 * scales) ** 2), 3 * scales, rtol=1e-15, atol=0)


@pytest.mark.parametrize("degree", [29, 31, 1200])
def test_coefficients_of_polynomials_of_any_degree_are_those_of_the_binomial_theorem(degree):
    found = Polynomial(1.5, degree).coefficients(degree + 3)
    expected = [
        math.comb(degree, j) * Fraction(3, 2) ** (degree - j) / Fraction(5, 2) ** degree for j in range(degree + 1)
    ]
    np.testing.assert_allclose(found, [*map(float, expected), 0, 0], rtol=1e-10, atol=1e-300)

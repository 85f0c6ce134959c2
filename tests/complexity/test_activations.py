"""Taylor series of activations and their norms in the RKHS of dot-product kernels."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.architecture import (
    ArcCosine,
    Dual,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.complexity.activation_norms import activation_norm, relu_surrogates
from hilbertnet.complexity.activations import (
    SERIES,
    as_activation,
    polynomial,
    power,
    scaled,
)
from hilbertnet.complexity.own_activations import chebyshev, from_function
from hilbertnet.complexity.series import kernel_series

MP = {
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "exp": mpmath.exp,
    "erf_sigmoid": lambda u: (1 + mpmath.erf(mpmath.sqrt(mpmath.pi) * u)) / 2,
    "smooth_relu": lambda u: (
        u * (1 + mpmath.erf(mpmath.sqrt(mpmath.pi) * u)) / 2 + mpmath.exp(-mpmath.pi * u * u) / (2 * mpmath.pi)
    ),
    "gelu": lambda u: u * (1 + mpmath.erf(u / mpmath.sqrt(2))) / 2,
    "softplus": lambda u: mpmath.log(1 + mpmath.exp(u)),
    "sigmoid": lambda u: 1 / (1 + mpmath.exp(-u)),
    "silu": lambda u: u / (1 + mpmath.exp(-u)),
    "tanh": mpmath.tanh,
}
MP_KERNELS = [
    (Exponential(0.6), lambda u: mpmath.exp((u - 1) / mpmath.mpf("0.36"))),
    (InversePolynomial(), lambda u: 1 / (2 - u)),
    (ArcCosine(0), lambda u: (mpmath.pi - mpmath.acos(u)) / mpmath.pi),
    (ArcCosine(1), lambda u: (u * (mpmath.pi - mpmath.acos(u)) + mpmath.sqrt(1 - u * u)) / mpmath.pi),
    (Vovk(), lambda u: (1 + u + u * u) / 3),
    (Polynomial(2.0, 3), lambda u: ((2 + u) / 3) ** 3),
    (Dual("exp"), lambda u: mpmath.exp(u - 1)),
    (Dual("sin"), lambda u: mpmath.sinh(u) / mpmath.sinh(1)),
    (Dual("cos"), lambda u: mpmath.cosh(u) / mpmath.cosh(1)),
    (Dual("erf"), lambda u: mpmath.asin(2 * u / 3) / mpmath.asin(mpmath.mpf(2) / 3)),
]
INFINITE = [name for name, activation in SERIES.items() if activation.logs is not None and activation.degree is None]


@pytest.mark.parametrize("name", MP)
def test_taylor_coefficients_against_mpmath(name):
    with mpmath.workdps(60):
        exact = mpmath.taylor(MP[name], 0, 40)
        wanted = [float(abs(value)) if abs(value) > mpmath.mpf(10) ** -50 else 0.0 for value in exact]
    np.testing.assert_allclose(np.exp(SERIES[name].logs(41)), wanted, rtol=2e-13, atol=0)
    u = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(SERIES[name](torch.from_numpy(u)), [float(MP[name](value)) for value in u], rtol=1e-14)
    for count in range(6):
        assert len(SERIES[name].logs(count)) == count


def test_every_series_has_a_reference():
    assert set(INFINITE) == set(MP)


@pytest.mark.parametrize(("kernel", "function"), MP_KERNELS, ids=lambda value: str(value)[:12])
def test_kernel_coefficients_against_mpmath(kernel, function):
    with mpmath.workdps(60):
        exact = mpmath.taylor(function, 0, 30)
        wanted = [float(value) if abs(value) > mpmath.mpf(10) ** -45 else 0.0 for value in exact]
    np.testing.assert_allclose(np.exp(kernel_series(kernel).logs(31)), wanted, rtol=2e-13, atol=0)
    assert len(kernel_series(kernel).logs(2)) == 2


@pytest.mark.parametrize("name", ["relu", "abs", "erf", "sin", "cos", "exp"])
def test_closed_forms_of_dual_kernels_are_the_tabulated_ones(name):
    np.testing.assert_allclose(np.exp(kernel_series(Dual(name)).logs(12)), Dual(name).coefficients(12), atol=1e-14)


@pytest.mark.parametrize("name", INFINITE)
def test_the_growth_of_an_activation_bounds_it_and_is_reached(name):
    activation = SERIES[name]
    logs, growth, j = activation.logs(4000), activation.growth, np.arange(8, 3998)
    known = np.isfinite(logs[j]) & np.isfinite(logs[j + 2])
    j = j[known]
    bound = 2 * math.log(growth.scale) - 2 * growth.order * np.log(j + 1)
    steps = logs[j + 2] - logs[j]
    assert (steps <= bound + 1e-10).all()
    assert abs(steps[-1] - bound[-1]) < 2e-3


@pytest.mark.parametrize("kernel", [kernel for kernel, _ in MP_KERNELS] + [Dual("abs"), Dual("relu")], ids=str)
def test_the_growth_of_a_kernel_bounds_it_and_is_reached(kernel):
    series = kernel_series(kernel)
    if series.growth is None:
        assert series.degree is not None
        return
    logs, growth, j = series.logs(4000), series.growth, np.arange(8, 3998)
    j = j[np.isfinite(logs[j])]
    bound = 2 * math.log(growth.scale) - 2 * growth.order * np.log(j + 1) - np.log1p(growth.correction / (j + 1))
    steps = logs[j + 2] - logs[j]
    assert (steps >= bound - 1e-10).all()
    assert abs(steps[-1] - bound[-1]) < 3e-3


# --- norms


@pytest.mark.parametrize(
    ("activation", "kernel", "radius", "wanted"),
    [
        ("linear", Exponential(1.0), 1.5, math.e * 2.25),
        ("linear", InversePolynomial(), 1.5, 4 * 2.25),
        ("linear", ArcCosine(1), 1.5, 2 * 2.25),
        ("power3", Exponential(1.0), 1.2, 6 * math.e * 1.44**3),
        ("power3", InversePolynomial(), 1.2, 16 * 1.44**3),
        ("sin", Exponential(1.0), 1.0, math.e * math.sinh(1.0)),
        ("sin", Exponential(1.0), 5.0, math.e * math.sinh(25.0)),
        (
            "sin",
            InversePolynomial(),
            1.0,
            float(mpmath.besseli(0, 2 * mpmath.sqrt(2)) - mpmath.besselj(0, 2 * mpmath.sqrt(2))),
        ),
        ("exp", Exponential(1.0), 2.0, math.exp(5.0)),
        ("sin", Dual("sin"), 2.0, math.sinh(1.0) * math.sinh(4.0)),
    ],
)
def test_closed_forms(activation, kernel, radius, wanted):
    answer = activation_norm(activation, kernel, radius)
    assert answer.inside is True
    assert answer.squared == pytest.approx(wanted, rel=1e-12)
    assert abs(answer.squared - wanted) <= answer.error * wanted
    assert answer.error < 1e-11
    assert answer.value == pytest.approx(math.sqrt(wanted), rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "kernel", "square", "wanted"),
    [
        ("sin", Exponential(1.0), 1.0, 3.194528049),
        ("sin", InversePolynomial(), 1.0, 4.448898975),
        ("smooth_relu", InversePolynomial(), 1.0, 23.3126533),
        ("erf_sigmoid", InversePolynomial(), 1.0, 1008.145729),
        ("smooth_relu", Exponential(1.0), 0.15, 0.2047693),
    ],
)
def test_the_values_of_the_theory(activation, kernel, square, wanted):
    assert activation_norm(activation, kernel, math.sqrt(square)).squared == pytest.approx(
        wanted, abs=0.6 * 10 ** -_places(wanted)
    )


def _places(value: float) -> int:
    return len(repr(value).split(".")[1])


def test_the_radius_of_the_smooth_forms_on_the_exponential_kernel():
    inside = activation_norm("smooth_relu", Exponential(1.0), math.sqrt(0.15))
    assert inside.largest_radius == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)
    outside = activation_norm("smooth_relu", Exponential(1.0), math.sqrt(0.17))
    assert outside.inside is False
    assert outside.value == outside.squared == math.inf
    assert outside.reason == "the series diverges beyond radius 0.398942"
    assert not outside
    near = activation_norm("smooth_relu", Exponential(1.0), 0.3989)
    assert near.inside
    assert near.error < 1e-8
    assert activation_norm("erf_sigmoid", Exponential(1.0), 1 / math.sqrt(2 * math.pi)).inside is None
    # kernels with another bandwidth, activations with another scale
    assert activation_norm("smooth_relu", Exponential(0.5), 0.1).largest_radius == pytest.approx(0.797885, rel=1e-5)
    assert activation_norm(scaled("smooth_relu", 2.0), Exponential(1.0), 0.1).largest_radius == pytest.approx(
        0.199471, rel=1e-5
    )


@pytest.mark.parametrize("name", INFINITE)
@pytest.mark.parametrize(
    "kernel", [Exponential(0.8), InversePolynomial(), ArcCosine(0), ArcCosine(1), Dual("erf")], ids=str
)
def test_sums_against_mpmath(name, kernel):
    """Where it is inside, 400 digits-exact terms give the same; where outside, they grow."""
    answer = activation_norm(name, kernel, 0.3)
    a, b = SERIES[name].logs(400), kernel_series(kernel).logs(400)
    terms = [
        mpmath.exp(2 * mpmath.mpf(x) - mpmath.mpf(y)) * mpmath.mpf(0.3) ** (2 * j)
        for j, (x, y) in enumerate(zip(a, b, strict=True))
        if np.isfinite(x) and np.isfinite(y)
    ]
    if answer.inside:
        assert answer.squared == pytest.approx(float(mpmath.fsum(terms)), rel=1e-11)
    elif answer.reason.startswith("a_"):
        j = int(answer.reason.split()[0][2:])
        assert np.isfinite(a[j])
        assert np.isneginf(b[j])
    else:
        assert answer.largest_radius <= 0.3
        assert terms[-1] > terms[len(terms) // 2]


@pytest.mark.parametrize(
    ("activation", "kernel", "reason"),
    [
        ("sin", ArcCosine(1), "a_3 is not 0 where b_3 = 0"),
        ("erf_sigmoid", ArcCosine(1), "a_3 is not 0 where b_3 = 0"),
        ("power2", Linear(), "a_2 is not 0 where b_2 = 0"),
        ("linear", Power(2), "a_1 is not 0 where b_1 = 0"),
        ("exp", Power(2), "a_0 is not 0 where b_0 = 0"),
        ("sin", Polynomial(1.0, 100), "a_101 is not 0 where b_101 = 0"),
        ("relu", Exponential(1.0), "relu has no Taylor series at 0"),
        ("softplus", Exponential(1.0), "the series diverges at every radius above 0"),
        ("tanh", InversePolynomial(), "the series diverges beyond radius 1.11072"),
    ],
)
def test_outside_is_an_answer_with_its_reason(activation, kernel, reason):
    answer = activation_norm(activation, kernel, 2.0)
    assert answer.inside is False
    assert answer.value == math.inf
    assert answer.reason == reason
    assert f"{activation} is not in the RKHS of {kernel}" in str(answer)


def test_even_smooth_forms_are_in_arc_cosine_1():
    """b_odd = 0 for j >= 3, but smooth ReLU and GELU are u/2 plus even functions."""
    for name in ("smooth_relu", "gelu"):
        assert activation_norm(name, ArcCosine(1), 3.0)
    assert activation_norm("softplus", ArcCosine(1), 3.0).largest_radius == pytest.approx(math.pi)


def test_dual_kernels_known_by_quadrature_alone():
    assert activation_norm("sin", Dual("gelu"), 1.0).inside is None
    known = activation_norm("power2", Dual("gelu"), 1.0)
    assert known.squared == pytest.approx(1 / Dual("gelu").coefficients(3)[2], rel=1e-10)
    assert activation_norm("power3", Dual("gelu"), 1.0).inside is None  # b_3 is 0 to rounding
    assert "quadrature" in activation_norm("power3", Dual("gelu"), 1.0).reason


def test_zero_radius_and_zero_functions():
    assert activation_norm("exp", InversePolynomial(), 0.0).squared == pytest.approx(2.0)
    assert activation_norm("sin", Exponential(1.0), 0.0).squared == 0.0
    assert activation_norm("softplus", Exponential(1.0), 0.0).squared == pytest.approx(math.e * math.log(2) ** 2)
    assert activation_norm("exp", Power(2), 0.0).reason == "a_0 is not 0 where b_0 = 0"


def test_nothing_overflows():
    steep = activation_norm("linear", Polynomial(1.0, 2000), 1.0)  # b_1 = 2000 / 2^2000
    assert steep.log_squared == pytest.approx(2000 * math.log(2) - math.log(2000), rel=1e-12)
    assert steep.squared == math.inf
    assert steep.inside
    answer = activation_norm("power9", InversePolynomial(), 1e30)
    assert answer.inside
    assert answer.squared == math.inf
    assert answer.log_squared == pytest.approx(10 * math.log(2) + 540 * math.log(10), rel=1e-13)
    large = activation_norm("exp", Exponential(1.0), 40.0)
    assert large.log_squared == pytest.approx(1601.0, rel=1e-13)
    assert math.isfinite(large.value) or large.log_squared > 1400
    assert activation_norm("exp", Exponential(1.0), 1e6).inside is True
    assert activation_norm("exp", Exponential(1.0), 1e6).squared == math.inf


@given(st.sampled_from(["sin", "exp", "smooth_relu", "gelu"]), st.floats(0.01, 2.0), st.floats(1.01, 2.0))
@settings(max_examples=25, deadline=None)
def test_the_norm_grows_with_the_radius(name, radius, factor):
    small, large = (activation_norm(name, InversePolynomial(), r) for r in (radius, radius * factor))
    assert small.squared < large.squared


# --- the user's own


def test_polynomials_and_powers():
    own = polynomial([1.0, 0.0, 2.0, 0.0])
    assert own.degree == 2
    assert activation_norm(own, Exponential(1.0), 0.5).squared == pytest.approx(math.e * (1 + 4 * 2 * 0.0625))
    assert own(torch.tensor([3.0])).item() == 19.0
    assert own.at_zero == 1.0
    assert activation_norm(power(4), Power(4), 2.0).squared == pytest.approx(256.0)
    assert as_activation("power2")(torch.tensor([3.0])).item() == 9.0


def test_a_scaled_activation():
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)
    double = scaled("smooth_relu", 2.0)
    torch.testing.assert_close(double(u), SERIES["smooth_relu"](2 * u) / 2)
    ours = activation_norm(double, InversePolynomial(), 0.4)
    assert ours.value == pytest.approx(activation_norm("smooth_relu", InversePolynomial(), 0.8).value / 2, rel=1e-12)
    assert scaled("sin", 1) is SERIES["sin"]
    assert scaled("relu", 2.0).logs is None


def test_an_own_function_by_cauchys_integral():
    own = from_function(np.exp, 3.0, degree=40)
    known = activation_norm("exp", InversePolynomial(), 1.0)
    ours = activation_norm(own, InversePolynomial(), 1.0)
    assert ours.inside
    assert known.squared * (1 - 1e-12) <= ours.squared <= known.squared * (1 + 1e-10)
    assert activation_norm(own, InversePolynomial(), 2.2).inside is None  # 3 / sqrt(2) = 2.12
    assert activation_norm(own, Exponential(1.0), 0.1).inside is None
    even = from_function(np.cosh, 2.0, degree=30)
    assert activation_norm(even, ArcCosine(1), 0.5).inside is None  # a_3 is 0 but for rounding
    assert "a_3 is not told from 0" in activation_norm(even, ArcCosine(1), 0.5).reason
    assert own(torch.tensor([0.5])).item() == pytest.approx(math.exp(0.5))
    coarse = from_function(np.exp, 3.0, degree=5)  # the rest is bounded, not forgotten
    bound = activation_norm(coarse, InversePolynomial(), 1.0)
    assert bound.squared >= known.squared


def test_the_polynomial_in_the_place_of_any_function():
    relu = chebyshev("relu", 1.5, 8)
    grid = np.linspace(-1.5, 1.5, 3001)
    off = np.abs(relu(torch.from_numpy(grid)).numpy() - np.maximum(grid, 0)).max()
    assert off == pytest.approx(relu.sup_error, rel=1e-3)
    assert 0.01 < relu.sup_error < 0.1
    assert activation_norm(relu, InversePolynomial(), 1.5)
    near = chebyshev(torch.sin, 1.0, 20)
    assert activation_norm(near, Exponential(1.0), 1.0).squared == pytest.approx(math.e * math.sinh(1.0), rel=1e-9)
    with mpmath.workdps(50):
        nodes = [1.5 * float(np.cos((k + 0.5) * math.pi / 9)) for k in range(9)]
        matrix = mpmath.matrix([[mpmath.mpf(x) ** j for j in range(9)] for x in nodes])
        solved = mpmath.lu_solve(matrix, mpmath.matrix([max(x, 0.0) for x in nodes]))
    np.testing.assert_allclose(np.exp(relu.logs(9)), [abs(float(value)) for value in solved], rtol=1e-9, atol=1e-13)


def test_surrogates_of_relu():
    table = relu_surrogates(InversePolynomial(), 1.0, [0.5, 1, 2])
    assert [row.sup_error for row in table.rows] == pytest.approx([1 / math.pi, 0.5 / math.pi, 0.25 / math.pi])
    u = torch.linspace(-6, 6, 100001, dtype=torch.float64)
    for name in ("smooth_relu", "softplus", "gelu"):
        row = relu_surrogates(InversePolynomial(), 0.1, [1.5], activation=name).rows[0]
        off = float((scaled(name, 1.5)(u) - torch.relu(u)).abs().max())
        assert off == pytest.approx(row.sup_error, rel=1e-7)
    norms = [row.norm.value for row in table.rows]
    assert norms[0] < norms[1] < norms[2]
    assert norms[1] == pytest.approx(math.sqrt(23.3126533), rel=1e-8)
    assert str(table).splitlines()[0].startswith("scale")
    on_exp = relu_surrogates(Exponential(1.0), 0.2, [1.0, 4.0])
    assert on_exp.rows[1].norm.value == math.inf


def test_the_homogeneous_neuron_of_the_figure():
    x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    got = SERIES["smooth_relu"].homogeneous(x, 0.5)
    half = SERIES["smooth_relu"](torch.tensor([-0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(got, torch.stack([2 * half[0], half[0] * 0, 3 * half[1]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: activation_norm("sine", Linear(), 1.0), r"^activation: unknown name 'sine'; did you mean 'sin'\?"),
        (lambda: activation_norm(3, Linear(), 1.0), r"^activation: expected a name"),
        (lambda: activation_norm("sin", "exp", 1.0), r"^kernel: expected a dot-product kernel"),
        (lambda: activation_norm("sin", Linear(), -1.0), r"^radius: "),
        (lambda: activation_norm("sin", Linear(), math.nan), r"^radius: "),
        (lambda: polynomial([0.0]), r"^coefficients: "),
        (lambda: polynomial([1.0, math.inf]), r"^coefficients: "),
        (lambda: polynomial(["a"]), r"^coefficients: "),
        (lambda: power(0), r"^degree: "),
        (lambda: scaled("sin", 0.0), r"^scale: "),
        (lambda: chebyshev("relu", -1.0, 3), r"^radius: "),
        (lambda: chebyshev("relu", 1.0, 0), r"^degree: "),
        (lambda: chebyshev(torch.log, 1.0, 3), r"^function: expected finite"),
        (lambda: from_function(np.log, 1.0), r"^function: "),
        (lambda: from_function(lambda z: 1 / (z - 0.5), 1.0), r"^function: expected a function that is analytic"),
        (lambda: from_function(lambda z: 1j * z, 1.0), r"^function: expected a function that is real"),
        (lambda: relu_surrogates(Linear(), activation="sin"), r"^activation: expected a surrogate"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

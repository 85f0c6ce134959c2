"""Dual kernels of activations: every name, users' functions, and functions that cannot be used."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import eval_hermitenorm

from hilbertnet.architecture import ArcCosine, Architecture, Dual
from hilbertnet.architecture.dual import ACTIVATIONS

INSIDE = torch.linspace(-1, 1, 21, dtype=torch.float64)


def hermite_coefficients(name: str, count: int) -> np.ndarray:
    """Squared normalized Hermite coefficients by scipy's adaptive quadrature, split at 0."""

    def integral(function):
        return sum(quad(function, *side, epsabs=1e-13, limit=200)[0] for side in ((-12, 0), (0, 12)))

    def signal(x):
        value = ACTIVATIONS[name](torch.tensor(x, dtype=torch.float64)).item()
        return value * math.exp(-x * x / 4) / (2 * math.pi) ** 0.25

    def basis(j, x):
        return eval_hermitenorm(j, x) * math.exp(-x * x / 4) / (2 * math.pi) ** 0.25 / math.sqrt(math.factorial(j))

    second_moment = integral(lambda x: signal(x) ** 2)
    return np.array([integral(lambda x, j=j: signal(x) * basis(j, x)) ** 2 / second_moment for j in range(count)])


@pytest.mark.parametrize("name", ["elu", "selu", "leaky_relu", "mish", "sigmoid", "silu"])
def test_coefficients_are_squared_hermite_coefficients(name):
    np.testing.assert_allclose(Dual(name).coefficients(5), hermite_coefficients(name, 5), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_named_activation_is_a_kernel_and_reads_back(name):
    kernel = Dual(name)
    assert Architecture.parse(f"1 dual({name}) -").layers[0].kernel == kernel
    assert kernel(1.0) == pytest.approx(1, abs=4e-15)
    # twenty terms are enough at 0.2, wherever the activation has its kinks
    series = np.polynomial.polynomial.polyval(0.2, kernel.coefficients(25))
    assert kernel(0.2) == pytest.approx(series, abs=1e-14)


def test_relu_is_the_arc_cosine_kernel_of_order_one():
    torch.testing.assert_close(Dual("relu").value(INSIDE), ArcCosine(1).value(INSIDE), rtol=0, atol=2e-15)
    torch.testing.assert_close(Dual("relu").derivative(INSIDE), ArcCosine(1).derivative(INSIDE), rtol=0, atol=2e-8)


def test_leaky_relu_mixes_identity_and_absolute_value():
    slope = 0.01
    odd, even = ((1 + slope) / 2) ** 2, ((1 - slope) / 2) ** 2
    expected = (odd * INSIDE + even * Dual("abs").value(INSIDE)) / (odd + even)
    torch.testing.assert_close(Dual("leaky_relu").value(INSIDE), expected, rtol=0, atol=4e-15)


def test_scale_of_the_activation_does_not_matter():
    scaled = Dual(lambda x: -1e-3 * torch.relu(x))
    torch.testing.assert_close(scaled.value(INSIDE), ArcCosine(1).value(INSIDE), rtol=0, atol=4e-15)


def test_constant_activation_is_the_constant_kernel():
    kernel = Dual(torch.ones_like)
    torch.testing.assert_close(kernel.value(INSIDE), torch.ones_like(INSIDE), rtol=0, atol=1e-15)
    assert kernel.slope == pytest.approx(0, abs=1e-15)


def test_a_module_is_an_activation():
    assert Dual(torch.nn.Tanh())(0.3) == pytest.approx(Dual("tanh")(0.3), abs=1e-15)


def test_monte_carlo_agrees(generator):
    a, other = torch.randn(2, 400_000, dtype=torch.float64, generator=generator)
    b = 0.4 * a + math.sqrt(1 - 0.16) * other
    elu = torch.nn.functional.elu
    estimate = (elu(a) * elu(b)).mean() / elu(a).square().mean()
    assert Dual("elu")(0.4) == pytest.approx(estimate.item(), abs=0.01)


@pytest.mark.parametrize(
    "activation",
    [
        torch.sign,
        lambda x: (x > 0).to(x.dtype),
        lambda x: torch.heaviside(x, torch.zeros_like(x)),
        lambda x: torch.where(x.abs() > 0.7, 1.0, 0.0) + 0 * x,
        torch.round,
        torch.nn.functional.hardtanh,
        lambda x: torch.relu(x - 0.3),
    ],
    ids=["sign", "comparison", "heaviside", "window", "round", "hardtanh", "shifted relu"],
)
def test_jumps_and_kinks_away_from_zero_are_refused(activation):
    with pytest.raises(ValueError, match=r"^activation: expected a continuous function"):
        Dual(activation)


@pytest.mark.parametrize(
    "activation",
    [lambda x: x.sum(), lambda x: x[..., :1], lambda x: 3.0, lambda x: 1 / x.clamp(min=0), torch.log],
    ids=["scalar", "shape", "number", "infinite", "nan"],
)
def test_functions_that_are_not_elementwise_or_finite_are_refused(activation):
    with pytest.raises(ValueError, match=r"^activation: expected an elementwise function"):
        Dual(activation)


def test_the_zero_function_is_refused():
    with pytest.raises(ValueError, match=r"^activation: expected a function that is not zero"):
        Dual(torch.zeros_like)


@pytest.mark.parametrize(("name", "hint"), [("rleu", "did you mean 'relu'"), ("zzz", "known: abs, cos, ")])
def test_unknown_names_are_answered_with_known_ones(name, hint):
    with pytest.raises(ValueError, match=rf"^activation: unknown name '{name}'; {hint}"):
        Dual(name)


@pytest.mark.parametrize("activation", [3, None, ["relu"]])
def test_what_is_no_activation_is_refused(activation):
    with pytest.raises(ValueError, match=r"^activation: expected a name or an elementwise function"):
        Dual(activation)

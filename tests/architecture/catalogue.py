"""Every dot-product kernel with the formula it must equal: a new kernel is one line of `CATALOGUE`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath as mp
import numpy as np
from scipy.special import expit, ndtr

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

DIGITS = 40


@dataclass(frozen=True)
class Entry:
    """A kernel, its text form, and kappa(u) and kappa'(u) for a number of mpmath's.

    `remainder` says how 1 - (b_0 + ... + b_{N-1}) vanishes: as N to this power, or geometrically (``None``).
    `accuracy` is the absolute error allowed to values in float64.
    """

    kernel: DotProductKernel
    text: str | None
    value: Callable[[Any], Any]
    derivative: Callable[[Any], Any]
    remainder: float | None = None
    accuracy: float = 1e-15

    def __str__(self) -> str:
        return self.text or "dual(callable)"


def arccos0(u):
    """Arc-cosine kernel of order 0."""
    return 1 - mp.acos(u) / mp.pi


def arccos1(u):
    """Arc-cosine kernel of order 1."""
    return (u * (mp.pi - mp.acos(u)) + mp.sqrt(1 - u * u)) / mp.pi


def gaussian_expectation(function: Callable[[np.ndarray], np.ndarray], u: float) -> float:
    """E[s(a) s(b)] for an analytic s by the trapezoidal rule, which converges geometrically there."""
    step = np.arange(-10.0, 10.0, 0.1)
    second = u * step[:, None] + np.sqrt(1 - u * u) * step
    mass = np.exp(-(step**2) / 2) * 0.1 / np.sqrt(2 * np.pi)
    return float((function(step) * mass) @ function(second) @ mass)


def trapezoid(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], Any]:
    """E[s(a) s(b)] / E[s(a)^2] as a function of the correlation."""
    return lambda u: gaussian_expectation(function, float(u)) / gaussian_expectation(function, 1.0)


def trapezoid_of_slopes(
    function: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Any], Any]:
    """E[s'(a) s'(b)] / E[s(a)^2] as a function of the correlation."""
    return lambda u: gaussian_expectation(slope, float(u)) / gaussian_expectation(function, 1.0)


def cubic_and_square(x):
    """A user's activation."""
    return x**3 + x**2


def _gelu(x):
    return x * ndtr(x)


def _gelu_slope(x):
    return ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _softplus(x):
    return np.logaddexp(0, x)


def _polynomial(c: int, m: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return lambda u: ((c + u) / mp.mpf(c + 1)) ** m, lambda u: m * (c + u) ** (m - 1) / mp.mpf(c + 1) ** m


def _power(m: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return lambda u: u**m, lambda u: m * u ** (m - 1)


ALPHA = 1 / mp.mpf(0.6) ** 2
DUAL = 4e-15  # a Chebyshev series of some fifty terms

CATALOGUE = [
    Entry(Exponential(0.6), "exp(0.6)", lambda u: mp.exp(ALPHA * (u - 1)), lambda u: ALPHA * mp.exp(ALPHA * (u - 1))),
    Entry(Exponential(1), "exp(1)", lambda u: mp.exp(u - 1), lambda u: mp.exp(u - 1)),
    Entry(InversePolynomial(), "inverse", lambda u: 1 / (2 - u), lambda u: 1 / (2 - u) ** 2),
    Entry(Polynomial(1, 3), "poly(1,3)", *_polynomial(1, 3)),
    Entry(Polynomial(2, 3), "poly(2,3)", *_polynomial(2, 3)),
    Entry(Power(2), "poly2", *_power(2)),
    Entry(Power(3), "poly3", *_power(3)),
    Entry(Power(4), "poly4", *_power(4)),
    Entry(Vovk(), "vovk3", lambda u: (1 + u + u * u) / 3, lambda u: (1 + 2 * u) / 3),
    Entry(Linear(), "linear", lambda u: u, lambda u: mp.mpf(1)),
    Entry(ArcCosine(0), "arccos0", arccos0, lambda u: 1 / (mp.pi * mp.sqrt(1 - u * u)) if abs(u) < 1 else mp.inf, -0.5),
    Entry(ArcCosine(1), "arccos1", arccos1, arccos0, -1.5),
    Entry(Dual("relu"), "dual(relu)", arccos1, arccos0, -1.5, DUAL),
    Entry(
        Dual("abs"),
        "dual(abs)",
        lambda u: 2 * (mp.sqrt(1 - u * u) + u * mp.asin(u)) / mp.pi,
        lambda u: 2 * mp.asin(u) / mp.pi,
        -1.5,
        DUAL,
    ),
    Entry(
        Dual("erf"),
        "dual(erf)",
        lambda u: mp.asin(2 * u / 3) / mp.asin(mp.mpf(2) / 3),
        lambda u: 2 / (3 * mp.sqrt(1 - 4 * u * u / 9) * mp.asin(mp.mpf(2) / 3)),
        accuracy=DUAL,
    ),
    Entry(
        Dual("sin"), "dual(sin)", lambda u: mp.sinh(u) / mp.sinh(1), lambda u: mp.cosh(u) / mp.sinh(1), accuracy=DUAL
    ),
    Entry(
        Dual("cos"), "dual(cos)", lambda u: mp.cosh(u) / mp.cosh(1), lambda u: mp.sinh(u) / mp.cosh(1), accuracy=DUAL
    ),
    Entry(Dual("exp"), "dual(exp)", lambda u: mp.exp(u - 1), lambda u: mp.exp(u - 1), accuracy=DUAL),
    Entry(Dual("gelu"), "dual(gelu)", trapezoid(_gelu), trapezoid_of_slopes(_gelu, _gelu_slope), accuracy=DUAL),
    Entry(
        Dual("tanh"),
        "dual(tanh)",
        trapezoid(np.tanh),
        trapezoid_of_slopes(np.tanh, lambda x: np.cosh(x) ** -2),
        accuracy=DUAL,
    ),
    Entry(
        Dual("softplus"), "dual(softplus)", trapezoid(_softplus), trapezoid_of_slopes(_softplus, expit), accuracy=DUAL
    ),
    Entry(
        Dual(cubic_and_square),
        None,
        # x^3 + x^2 = He_3 + He_2 + 3 He_1 + He_0, and E[He_j(a) He_j(b)] = j! u^j
        lambda u: (6 * u**3 + 2 * u**2 + 9 * u + 1) / mp.mpf(18),
        lambda u: (18 * u**2 + 4 * u + 9) / mp.mpf(18),
        accuracy=DUAL,
    ),
]

"""Power series of kernels and activations in logarithms, with what is known of their tails.

The norm of an activation in an RKHS is a sum of the positive terms a_j^2 / b_j L^j: in logarithms nothing overflows and
nothing cancels, so that double precision is enough. What decides whether the sum is finite is how fast a_j and b_j
fall, which closed forms tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilbertnet.architecture.dot_product import (
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

__all__ = ["Growth", "KernelSeries", "kernel_series", "log_of"]

Logs = Callable[[int], NDArray[np.float64]]

_QUADRATURE = 1e-20  # a coefficient of a dual kernel below it is not told from 0


@dataclass(frozen=True)
class Growth:
    """How a coefficient and the one two places on compare, c_{j+2} / c_j, for j >= 8.

    For an activation, ``|a_{j+2} / a_j| <= scale^2 (j + 1)^(-2 order)``; for a kernel, ``b_{j+2} / b_j >= scale^2 (j +
    1)^(-2 order) / (1 + correction / (j + 1))``. Both tend to equality.
    """

    scale: float
    order: float
    correction: float = 0.0


@dataclass(frozen=True)
class KernelSeries:
    """The Taylor coefficients of a kernel, b_j, in logarithms.

    Parameters
    ----------
    logs
        From a count to log b_0 ... log b_{count-1}, -inf where b_j = 0.
    growth
        How they fall; none where it is not known.
    degree
        Of a polynomial.
    floor
        A b_j below it is not told from 0.
    """

    logs: Logs
    growth: Growth | None = None
    degree: int | None = None
    floor: float = 0.0


def log_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms, -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.log(values)


def kernel_series(kernel: DotProductKernel) -> KernelSeries:
    """The Taylor coefficients of `kernel`, with their growth where a closed form tells it."""
    if isinstance(kernel, Exponential):
        return _exponential(kernel.alpha)
    if isinstance(kernel, InversePolynomial):
        return KernelSeries(lambda n: -math.log(2.0) * np.arange(1, n + 1, dtype=np.float64), Growth(0.5, 0.0))
    if isinstance(kernel, ArcCosine):
        return KernelSeries(lambda n: log_of(kernel.coefficients(n)), Growth(1.0, 0.0, 8.0))
    if isinstance(kernel, Polynomial):
        c, order = float(kernel.c), kernel.degree
        return KernelSeries(lambda n: _binomial(c, order, n), degree=order)
    if isinstance(kernel, Linear | Power | Vovk):
        degree = kernel.degree if isinstance(kernel, Power) else 1 if isinstance(kernel, Linear) else 2
        return KernelSeries(lambda n: _finite(kernel, n, degree), degree=degree)
    if isinstance(kernel, Dual):
        known = _DUALS.get(kernel.activation) if isinstance(kernel.activation, str) else None
        return known or KernelSeries(lambda n: log_of(kernel.coefficients(n)), floor=_QUADRATURE)
    return KernelSeries(lambda n: log_of(kernel.coefficients(n)))


def _finite(kernel: DotProductKernel, count: int, degree: int) -> NDArray[np.float64]:
    return np.append(log_of(kernel.coefficients(degree + 1)), np.full(max(count - degree - 1, 0), -np.inf))[:count]


def _binomial(c: float, degree: int, count: int) -> NDArray[np.float64]:
    """Of ((c + u) / (c + 1))^degree; a coefficient may be below the smallest number, and is not 0 for that."""
    from scipy.special import gammaln

    j = np.arange(min(count, degree + 1), dtype=np.float64)
    logs = gammaln(degree + 1.0) - gammaln(j + 1) - gammaln(degree - j + 1)
    logs += (degree - j) * math.log(c) - degree * math.log1p(c)
    return np.append(logs, np.full(max(count - degree - 1, 0), -np.inf))


def _exponential(alpha: float) -> KernelSeries:
    def logs(count: int) -> NDArray[np.float64]:
        from scipy.special import gammaln

        j = np.arange(count)
        return np.asarray(j * math.log(alpha) - alpha - gammaln(j + 1), dtype=np.float64)

    return KernelSeries(logs, Growth(alpha, 1.0, 1.0))


def _parity(first: int, logs: Logs, growth: Growth) -> KernelSeries:
    """The coefficients with j = `first`, `first` + 2, ... alone."""

    def kept(count: int) -> NDArray[np.float64]:
        return np.where(np.arange(count) % 2 == first, logs(count), -np.inf)

    return KernelSeries(kept, growth)


def _duals() -> dict[str, KernelSeries]:
    """Dual kernels in closed form: E[s(a) s(b)] / E[s(a)^2] for a, b standard normal with correlation u.

    exp: exp(u - 1). sin: sinh(u) / sinh(1). cos: cosh(u) / cosh(1). relu: arc-cosine 1. abs: twice its even part. erf:
    arcsin(2u/3) / arcsin(2/3), whose coefficients are those of arc-cosine 0 but for factors.
    """
    exponential, one, zero = _exponential(1.0), kernel_series(ArcCosine(1)), kernel_series(ArcCosine(0))
    factorial, polynomial = Growth(1.0, 1.0, 1.0), Growth(1.0, 0.0, 8.0)
    unit = math.log(math.pi) - math.log(math.asin(2 / 3))
    return {
        "exp": exponential,
        "sin": _parity(1, lambda n: exponential.logs(n) + 1.0 - math.log(math.sinh(1.0)), factorial),
        "cos": _parity(0, lambda n: exponential.logs(n) + 1.0 - math.log(math.cosh(1.0)), factorial),
        "relu": one,
        "abs": _parity(0, lambda n: one.logs(n) + math.log(2.0), polynomial),
        "erf": _parity(1, lambda n: zero.logs(n) + unit + np.arange(n) * math.log(2 / 3), Growth(2 / 3, 0.0, 8.0)),
    }


_DUALS = _duals()

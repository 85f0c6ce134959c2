"""Activations by their Taylor series: closed forms and polynomials.

A homogeneous neuron ``f(z) = ||z|| s(<g, z> / ||z||)`` sees its activation s on [-||g||, ||g||] alone, and lies in the
RKHS of a dot-product kernel if the Taylor coefficients a_j of s are small enough beside those of the kernel (see
`hilbertnet.complexity.activation_norms`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hilbertnet.complexity.series import Growth, log_of
from hilbertnet.signals import is_count
from hilbertnet.text import format_number, nearest

__all__ = ["SERIES", "Activation", "as_activation", "of_fractions", "polynomial", "power", "scaled"]


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation s(u) = sum_j a_j u^j.

    Parameters
    ----------
    name
        What messages and tables call it.
    function
        s, elementwise, of tensors.
    logs
        From a count to log |a_j|, j < count, -inf where a_j = 0; none for a function without Taylor series at 0.
    degree
        Of a polynomial.
    growth
        How |a_j| falls, where a closed form tells it.
    envelope
        (M, r) with ``|a_j| <= M r^-j`` for every j, where that alone is known.
    noise
        From a count to what the |a_j| may be off by; none where they are exact to rounding.
    sup_error, interval
        For a surrogate: its largest distance from the function that it stands for, on [-interval, interval].
    """

    name: str
    function: Callable[[Tensor], Tensor]
    logs: Callable[[int], NDArray[np.float64]] | None
    degree: int | None = None
    growth: Growth | None = None
    envelope: tuple[float, float] | None = None
    noise: Callable[[int], NDArray[np.float64]] | None = None
    sup_error: float = 0.0
    interval: float = math.inf

    def __call__(self, u: Tensor) -> Tensor:
        """s(u), elementwise."""
        return self.function(u)

    def __str__(self) -> str:
        return self.name

    @property
    def at_zero(self) -> float:
        """s(0)."""
        return float(self.function(torch.zeros(1, dtype=torch.float64))[0])

    def homogeneous(self, x: Tensor, weight: Tensor | float) -> Tensor:
        """The neuron ``|x| s(w x / |x|)`` in one dimension, 0 at 0, elementwise."""
        return x.abs() * self.function(weight * torch.sign(x))


# --- closed forms


def _factorial(count: int) -> NDArray[np.float64]:
    from scipy.special import gammaln

    return -gammaln(np.arange(count) + 1.0)


def _keep(logs: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    return np.where(np.arange(len(logs)) % 2 == first, logs, -np.inf)


def _error_function(rate: float, last: int) -> Callable[[int], NDArray[np.float64]]:
    """Log coefficients of (1 + erf(sqrt(rate) u)) / 2 times sqrt(pi / rate), odd ones, `last` places on (0 or 1)."""

    def logs(count: int) -> NDArray[np.float64]:
        from scipy.special import gammaln

        k = np.arange(count // 2 + 1)
        found = np.full(count + 3, -np.inf)
        found[1 + last :: 2][: len(k)] = k * math.log(rate) - gammaln(k + 1) - np.log(2 * k + 1)
        return found[:count]

    return logs


def _sigmoid_erf(count: int) -> NDArray[np.float64]:
    logs = _error_function(math.pi, 0)(count)
    logs[:1] = math.log(0.5)
    return logs


def _smooth_relu(count: int) -> NDArray[np.float64]:
    """The primitive of (1 + erf(sqrt(pi) u)) / 2 with value 1 / (2 pi) at 0."""
    logs = _error_function(math.pi, 1)(count)
    logs[2:] -= np.log(np.arange(2, count))
    logs[:2] = [-math.log(2 * math.pi), math.log(0.5)][:count]
    return logs


def _gelu(count: int) -> NDArray[np.float64]:
    """Of u (1 + erf(u / sqrt(2))) / 2."""
    logs = _error_function(0.5, 1)(count) - 0.5 * math.log(2 * math.pi)
    logs[1:2] = math.log(0.5)
    return logs


def _log_cosh(count: int) -> NDArray[np.float64]:
    """Of softplus, log |a_2n| =, pi^-2n / n sum_m (2m + 1)^-2n, from the zeta function; -inf for odd j."""
    from scipy.special import zeta

    n = np.arange(1, count // 2 + 2, dtype=np.float64)
    odd_zeta = zeta(2 * n) * -np.expm1(-2 * n * math.log(2.0))
    found = np.full(count + 4, -np.inf)
    found[2::2][: len(n)] = -2 * n * math.log(math.pi) + np.log(odd_zeta) - np.log(n)
    return found[:count]


def _softplus(count: int) -> NDArray[np.float64]:
    logs = _log_cosh(count)
    logs[:2] = [math.log(math.log(2.0)), math.log(0.5)][:count]
    return logs


def _sigmoid(count: int) -> NDArray[np.float64]:
    """The derivative of softplus."""
    logs = _log_cosh(count + 1)[1:] + np.log(np.arange(1, count + 1))
    logs[:1] = math.log(0.5)
    return logs


def _silu(count: int) -> NDArray[np.float64]:
    return np.append(-np.inf, _sigmoid(count))[:count]


def _tanh(count: int) -> NDArray[np.float64]:
    """2 sigmoid(2u) - 1."""
    logs = _sigmoid(count) + (np.arange(count) + 1) * math.log(2.0)
    logs[:1] = -np.inf
    return logs


def _erf_sigmoid(u: Tensor) -> Tensor:
    return (1 + torch.erf(math.sqrt(math.pi) * u)) / 2


def _smooth_relu_value(u: Tensor) -> Tensor:
    return u * _erf_sigmoid(u) + torch.exp(-math.pi * u * u) / (2 * math.pi)


_FACTORIAL, _ERF, _NORMAL, _POLE = Growth(1.0, 1.0), Growth(math.sqrt(2 * math.pi), 0.5), Growth(1.0, 0.5), 1 / math.pi

SERIES: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("linear", lambda u: u, lambda n: log_of((np.arange(n) == 1).astype(float)), degree=1),
        Activation("sin", torch.sin, lambda n: _keep(_factorial(n), 1), growth=_FACTORIAL),
        Activation("cos", torch.cos, lambda n: _keep(_factorial(n), 0), growth=_FACTORIAL),
        Activation("exp", torch.exp, _factorial, growth=_FACTORIAL),
        Activation("erf_sigmoid", _erf_sigmoid, _sigmoid_erf, growth=_ERF),
        Activation("smooth_relu", _smooth_relu_value, _smooth_relu, growth=_ERF),
        Activation("gelu", functional.gelu, _gelu, growth=_NORMAL),
        Activation("softplus", functional.softplus, _softplus, growth=Growth(_POLE, 0.0)),
        Activation("sigmoid", torch.sigmoid, _sigmoid, growth=Growth(_POLE, 0.0)),
        Activation("silu", functional.silu, _silu, growth=Growth(_POLE, 0.0)),
        Activation("tanh", torch.tanh, _tanh, growth=Growth(2 * _POLE, 0.0)),
        Activation("relu", torch.relu, None),
        Activation("abs", torch.abs, None),
        Activation("leaky_relu", functional.leaky_relu, None),
        Activation("elu", functional.elu, None),
    )
}


# --- the user's own


def as_activation(activation: str | Activation) -> Activation:
    """An activation from a name of `SERIES`, ``"power3"`` for u^3, or itself.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise ValueError(f"activation: expected a name or an Activation, got {activation!r}")
    if activation.startswith("power") and activation[5:].isdigit() and int(activation[5:]):
        return power(int(activation[5:]))
    if activation not in SERIES:
        hint = nearest(activation, SERIES) or f"; known: {', '.join(SERIES)}, power2, power3, ..."
        raise ValueError(f"activation: unknown name {activation!r}{hint}")
    return SERIES[activation]


def polynomial(coefficients: Sequence[float], name: str = "polynomial") -> Activation:
    """The polynomial with Taylor coefficients a_0, a_1, ...

    Raises
    ------
    ValueError
        If they are not finite numbers, or all 0.
    """
    expected = f"coefficients: expected finite numbers, not all 0, got {coefficients!r}"
    try:
        exact = [Fraction(value) for value in coefficients]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(expected) from None
    if not any(exact):
        raise ValueError(expected)
    return of_fractions(exact, name)


def of_fractions(exact: list[Fraction], name: str) -> Activation:
    """The polynomial with these exact coefficients."""
    degree = max(j for j, value in enumerate(exact) if value)
    known = np.array([_log_fraction(abs(value)) for value in exact[: degree + 1]])
    values = [float(value) for value in exact[: degree + 1]]

    def logs(count: int) -> NDArray[np.float64]:
        return np.append(known, np.full(max(count - len(known), 0), -np.inf))[:count]

    def function(u: Tensor) -> Tensor:
        total = torch.zeros_like(u)
        for value in reversed(values):
            total = total * u + value
        return total

    return Activation(name, function, logs, degree=degree)


def _log_fraction(value: Fraction) -> float:
    """Python's logarithm takes whole numbers of any size."""
    return math.log(value.numerator) - math.log(value.denominator) if value else -math.inf


def power(degree: int) -> Activation:
    """u^degree."""
    if not is_count(degree):
        raise ValueError(f"degree: expected a whole number of at least 1, got {degree!r}")
    return Activation(
        f"power{degree}",
        lambda u: u**degree,
        lambda n: log_of((np.arange(n) == degree).astype(float)),
        degree=degree,
    )


def scaled(activation: str | Activation, scale: float) -> Activation:
    """``s(scale u) / scale``: with a large scale, the smooth forms of ReLU come near to it.

    Raises
    ------
    ValueError
        If the scale is not positive and finite.
    """
    inner = as_activation(activation)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError(f"scale: expected a positive finite number, got {scale!r}")
    if scale == 1:
        return inner
    logs, growth, envelope, noise = inner.logs, inner.growth, inner.envelope, inner.noise

    def stretch(count: int) -> NDArray[np.float64]:
        return (np.arange(count, dtype=np.float64) - 1.0) * math.log(scale)

    return Activation(
        f"{inner.name}({format_number(scale)} u)/{format_number(scale)}",
        lambda u: inner.function(scale * u) / scale,
        None if logs is None else lambda n: logs(n) + stretch(n),
        inner.degree,
        None if growth is None else Growth(growth.scale * scale, growth.order),
        None if envelope is None else (envelope[0] / scale, envelope[1] / scale),
        None if noise is None else lambda n: noise(n) * np.exp(stretch(n)),
        inner.sup_error / scale,
        inner.interval / scale,
    )

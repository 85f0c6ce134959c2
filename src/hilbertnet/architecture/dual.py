"""Dual kernels of activations, tabulated.

For (a, b) standard normal with correlation cos(theta), ``E[s(a) s(b)]`` is an integral in polar coordinates,
a = r cos(phi), b = r cos(phi - theta): the activation's kink at 0 falls on four known angles, between which the
integrand is smooth and Gauss-Legendre quadrature converges fast. As a function of theta in [0, pi] the result is smooth
up to the ends even for ReLU, (cos(theta) (pi - theta) + sin(theta)) / pi, so a Chebyshev series in theta stands for it
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hilbertnet.text import nearest

__all__ = ["ACTIVATIONS", "DualTable", "dual_table"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "cos": torch.cos,
    "elu": functional.elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "gelu": functional.gelu,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "relu": torch.relu,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "sin": torch.sin,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}

_ANGLES = 64  # Gauss-Legendre nodes between two kinks
_DEGREE = 56  # of the Chebyshev series
_RADIUS = 14.0  # the standard normal has no mass beyond it: exp(-98) = 1e-43


@dataclass(frozen=True)
class DualTable:
    """kappa and kappa' of a dual kernel as Chebyshev series in the angle, and its Hermite coefficients."""

    value_series: tuple[float, ...]
    derivative_series: tuple[float, ...]
    slope: float
    activation: Callable[[Tensor], Tensor]
    second_moment: float

    def value(self, u: Tensor) -> Tensor:
        """kappa(u)."""
        return _clenshaw(self.value_series, _inside(u))

    def derivative(self, u: Tensor) -> Tensor:
        """kappa'(u)."""
        return _clenshaw(self.derivative_series, _inside(u))

    def coefficients(self, count: int) -> NDArray[np.float64]:
        """b_j = (normalized Hermite coefficient j)^2 / E[s^2], j < count."""
        points, weights = _line_rule()
        signal = _evaluate(self.activation, points) * weights
        b = np.empty(count)
        previous, current = np.zeros_like(points), np.ones_like(points)
        for j in range(count):  # orthonormal Hermite polynomials by their three-term recurrence
            b[j] = np.sum(signal * current) ** 2 / self.second_moment
            following = (points * current - math.sqrt(j) * previous) / math.sqrt(j + 1)
            previous, current = current, following
        return b


def _inside(u: Tensor) -> Tensor:
    """The cosine moved off the ends, where arccos has no derivative: a change of one rounding error."""
    eps = torch.finfo(u.dtype).eps
    return u.clamp(-1.0 + eps, 1.0 - eps)


def _clenshaw(series: tuple[float, ...], u: Tensor) -> Tensor:
    x = torch.acos(u) * (2.0 / math.pi) - 1.0
    later, last = torch.zeros_like(x), torch.zeros_like(x)
    for coefficient in series[:0:-1]:
        last, later = 2.0 * x * last - later + coefficient, last
    return x * last - later + series[0]


def _evaluate(function: Callable[[Tensor], Tensor], points: NDArray[np.float64]) -> NDArray[np.float64]:
    values = function(torch.from_numpy(points))
    if not isinstance(values, Tensor) or values.shape != points.shape or not torch.isfinite(values).all():
        raise ValueError("activation: expected an elementwise function of tensors, finite on [-38, 38]")
    return values.detach().numpy()


def _slope_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def slope(points: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            output = function(leaf)
            if not output.requires_grad:  # constant, or made of comparisons: its slope is 0 almost everywhere
                return torch.zeros_like(points)
            try:
                (gradient,) = torch.autograd.grad(output.sum(), leaf)
            except RuntimeError as error:
                raise ValueError(
                    f"activation: expected a continuous function, differentiable by torch ({error})"
                ) from None
        return gradient

    return slope


@lru_cache(maxsize=1)
def _radial_rule() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of Gauss-Legendre panels on [0, 14]."""
    nodes, weights = legendre.leggauss(16)
    edges = np.linspace(0.0, _RADIUS, 15)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()


@lru_cache(maxsize=1)
def _line_rule() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for expectations under the standard normal, split at 0; fine enough for Hermite degree 500."""
    nodes, weights = legendre.leggauss(32)
    edges = np.linspace(-38.0, 38.0, 153)
    half = np.diff(edges)[:, None] / 2
    points = (edges[:-1, None] + half * (nodes + 1)).ravel()
    return points, (half * weights).ravel() * np.exp(-points * points / 2) / math.sqrt(2 * math.pi)


def _expectation(function: Callable[[Tensor], Tensor], angle: float) -> float:
    """E[s(a) s(b)] for the angle between a and b."""
    radius, radial_weights = _radial_rule()
    nodes, weights = legendre.leggauss(_ANGLES)
    kinks = np.array([-0.5, angle / math.pi - 0.5, 0.5, angle / math.pi + 0.5, 1.5]) * math.pi
    half = np.diff(kinks)[:, None] / 2
    phi = (kinks[:-1, None] + half * (nodes + 1)).ravel()[:, None]
    first = _evaluate(function, radius * np.cos(phi))
    second = _evaluate(function, radius * np.cos(phi - angle))
    mass = radial_weights * radius * np.exp(-radius * radius / 2) / (2 * math.pi)
    return float((half * weights).ravel() @ (first * second) @ mass)


def _series(function: Callable[[Tensor], Tensor], scale: float) -> tuple[float, ...]:
    """Chebyshev series of E[s(a) s(b)] / scale in the angle on [0, pi]."""
    from scipy.fft import dct

    angles = (chebyshev.chebpts1(_DEGREE + 1)[::-1] + 1) * math.pi / 2
    values = np.array([_expectation(function, angle) for angle in angles]) / scale
    series = dct(values, type=2) / (_DEGREE + 1)  # numpy's own interpolation loses three digits here
    series[0] /= 2
    return tuple(chebyshev.chebtrim(series, tol=1e-16 * np.abs(series).max()).tolist())


@lru_cache(maxsize=64)
def dual_table(activation: str | Callable[[Tensor], Tensor]) -> DualTable:
    """Tabulate the dual kernel of `activation` (see `hilbertnet.architecture.dot_product.Dual`)."""
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            hint = nearest(activation, ACTIVATIONS) or f"; known: {', '.join(ACTIVATIONS)}"
            raise ValueError(f"activation: unknown name {activation!r}{hint}")
        function = ACTIVATIONS[activation]
    elif callable(activation):
        function = activation
    else:
        raise ValueError(f"activation: expected a name or an elementwise function of tensors, got {activation!r}")
    second_moment = _expectation(function, 0.0)
    if not second_moment > 1e-12:
        raise ValueError("activation: expected a function that is not zero almost everywhere")
    slope_function = _slope_of(function)
    _check_smooth(function, slope_function)
    return DualTable(
        value_series=_series(function, second_moment),
        derivative_series=_series(slope_function, second_moment),
        slope=_expectation(slope_function, 0.0) / second_moment,
        activation=function,
        second_moment=second_moment,
    )


def _check_smooth(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> None:
    """Stein's identity E[x s(x)] = E[s'(x)] fails for a jump; polar and straight quadratures part at other kinks."""
    points, weights = _line_rule()
    inside = np.abs(points) < _RADIUS
    points, weights = points[inside], weights[inside]
    values, slopes = _evaluate(function, points), _evaluate(slope, points)
    size = math.sqrt(np.sum(weights * values**2)) + math.sqrt(np.sum(weights * slopes**2))
    stein = abs(np.sum(weights * points * values) - np.sum(weights * slopes)) / size
    polar = abs(np.sum(weights * slopes**2) - _expectation(slope, 0.0)) / size**2
    moment = abs(np.sum(weights * values**2) - _expectation(function, 0.0)) / size**2
    worst = max(stein, polar, moment)
    if worst > 1e-9:
        raise ValueError(
            "activation: expected a continuous function, smooth except perhaps at 0, and the quadrature does not "
            f"converge (error {worst:.1e}); for the step function use arccos0"
        )

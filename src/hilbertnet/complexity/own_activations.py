"""Activations from functions: Taylor coefficients by Cauchy's integral, and polynomials by interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.complexity.activations import Activation, as_activation, of_fractions
from hilbertnet.complexity.series import log_of
from hilbertnet.signals import is_count

__all__ = ["chebyshev", "from_function"]

_ROUNDING = 2.0**-52


def from_function(
    function: Callable[[NDArray[np.complex128]], NDArray[np.complex128]],
    radius: float,
    *,
    degree: int = 64,
    name: str | None = None,
) -> Activation:
    """An activation from a function that is analytic on the disc of radius `radius` around 0, by Cauchy's integral.

    The coefficients are the discrete Fourier transform of the values on the circle. Cauchy's bound ``|a_j| <= M
    radius^-j``, M the sum of the sizes of the Fourier coefficients, holds for all that are not computed; it
    decides about kernels whose coefficients fall geometrically (not the exponential one: cut the function to a
    polynomial by `chebyshev` there).

    Parameters
    ----------
    function
        From complex numpy arrays to complex numpy arrays, elementwise, real on the real line.
    radius
        Of the disc.
    degree
        How many coefficients are computed.
    name
        For messages; default the function's own.

    Raises
    ------
    ValueError
        If the radius or the degree is not positive, or the function is not finite, or is not real on the real line.
    """
    _check(radius, degree)
    points = 8 * (degree + 1)
    circle = radius * np.exp(2j * math.pi * np.arange(points) / points)
    with np.errstate(all="ignore"):
        values = np.asarray(function(circle), dtype=np.complex128)
    if values.shape != circle.shape or not np.isfinite(values).all():
        raise ValueError(f"function: expected finite values on the circle of radius {radius!r}, elementwise")
    largest = float(np.abs(values).max())
    raw = np.fft.fft(values) / points
    if np.abs(raw.imag).max() > 1e-10 * largest:
        raise ValueError("function: expected a function that is real on the real line")
    if np.abs(raw[-degree:]).max() > 1e-10 * largest:  # negative powers
        raise ValueError(f"function: expected a function that is analytic on the disc of radius {radius!r}")
    taps = np.arange(degree + 1)
    coefficients = raw.real[: degree + 1] * float(radius) ** -taps
    beyond_points = float(np.abs(raw[-degree:]).max())  # the highest powers show how much falls on these from beyond
    errors = (16 * _ROUNDING * largest + 2 * beyond_points) * float(radius) ** -taps
    bound = float(np.abs(raw).sum())  # no smaller than the largest value between the points

    def logs(count: int) -> NDArray[np.float64]:
        return np.append(log_of(np.abs(coefficients)), np.full(max(count - len(taps), 0), -np.inf))[:count]

    def noise(count: int) -> NDArray[np.float64]:
        beyond = np.arange(len(taps), max(count, len(taps)))
        return np.append(errors, bound * np.exp(-beyond * math.log(radius)))[:count]

    def torch_function(u: Tensor) -> Tensor:
        numbers = np.asarray(function(u.detach().numpy().astype(np.complex128)))
        return torch.from_numpy(np.ascontiguousarray(numbers.real)).to(u.dtype)

    return Activation(
        name or str(getattr(function, "__name__", "function")),
        torch_function,
        logs,
        envelope=(bound, float(radius)),
        noise=noise,
    )


def chebyshev(
    function: str | Activation | Callable[[Tensor], Tensor],
    radius: float,
    degree: int,
    *,
    name: str | None = None,
) -> Activation:
    """The polynomial that interpolates a function at the Chebyshev points of [-radius, radius].

    A polynomial is in the RKHS of any kernel with enough positive coefficients, ReLU and others without Taylor series
    are not: `Activation.sup_error` is what the exchange costs on the interval, from 20,001 points.

    Parameters
    ----------
    function
        Elementwise function of tensors, an `Activation`, or a name of `SERIES`.
    radius
        Half the interval: a bound of the filters' norms.
    degree
        Of the polynomial.
    name
        For messages.

    Raises
    ------
    ValueError
        If the radius or the degree is not positive, or the function is not finite on the interval.
    """
    _check(radius, degree)
    known = as_activation(function) if isinstance(function, str) else function
    angles = (np.arange(degree + 1) + 0.5) * math.pi / (degree + 1)
    values = known(torch.from_numpy(radius * np.cos(angles)))
    grid = torch.linspace(-radius, radius, 20001, dtype=torch.float64)
    wanted = known(grid)
    if not (torch.isfinite(values).all() and torch.isfinite(wanted).all()):
        raise ValueError(f"function: expected finite values on [-{radius}, {radius}]")
    orders = np.arange(degree + 1)
    series = np.cos(np.outer(orders, angles)) @ values.numpy() * 2 / (degree + 1)
    series[0] /= 2
    series[np.abs(series) < 1e-15 * np.abs(series).max()] = 0.0
    inner = known.name if isinstance(known, Activation) else str(getattr(known, "__name__", "function"))
    label: str = name or f"chebyshev{degree}({inner})"
    found = of_fractions(_monomials(series, Fraction(radius)), label)
    within = np.polynomial.chebyshev.chebval(grid.numpy() / radius, series)
    error = float(np.abs(within - wanted.numpy()).max())
    return Activation(label, found.function, found.logs, found.degree, sup_error=error, interval=float(radius))


def _monomials(series: NDArray[np.float64], radius: Fraction) -> list[Fraction]:
    """Coefficients of powers of u from those of T_j(u / radius), exactly: in floating point they cancel."""
    total = [Fraction(0)] * len(series)
    previous, current = [Fraction(1)], [Fraction(0), Fraction(1)]
    for value in series:
        weight = Fraction(float(value))
        if weight:
            for j, coefficient in enumerate(previous):
                total[j] += weight * coefficient
        following = [Fraction(0), *(2 * c for c in current)]
        for j, coefficient in enumerate(previous):
            following[j] -= coefficient
        previous, current = current, following
    scale, found = Fraction(1), []
    for coefficient in total:
        found.append(coefficient / scale)
        scale *= radius
    return found


def _check(radius: float, degree: int) -> None:
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < math.inf:
        raise ValueError(f"radius: expected a positive finite number, got {radius!r}")
    if not is_count(degree):
        raise ValueError(f"degree: expected a whole number of at least 1, got {degree!r}")

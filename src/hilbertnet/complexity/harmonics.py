"""Spherical harmonics on S^{p-1}: how many of each degree, their zonal polynomials, projections on them.

``P_k`` is the Gegenbauer polynomial of degree k normalized to ``P_k(1) = 1`` (the Legendre polynomial for p = 3, cos(k
theta) for p = 2), and a function ``g(<w, x>)`` of one cosine has the coefficients

    a_k = c_p int_{-1}^1 g(t) P_k(t) (1 - t^2)^{(p-3)/2} dt,    c_p = Gamma(p/2) / (sqrt(pi) Gamma((p-1)/2)),

so that ``g(t) = sum_k a_k N(p, k) P_k(t)``, and, for a kernel, ``mu_k = a_k`` are its Mercer eigenvalues for the
uniform probability on the sphere (Funk and Hecke's formula). Large and small numbers are kept as logarithms.

References: F. Bach, "Breaking the curse of dimensionality with convex neural networks", JMLR 2017, appendix D;
A. Smola, Z. Ovari and R. Williamson, "Regularization with dot-product kernels", NeurIPS 2000.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.signals import is_count

__all__ = [
    "as_degrees",
    "check_dimension",
    "log_multiplicity",
    "log_power_coefficients",
    "log_rising",
    "multiplicity",
    "project",
    "zonal_polynomials",
]

Array = NDArray[np.float64]

MAX_DEGREE = 10**9  # of closed forms
MAX_SUMMED_DEGREE = 20_000  # where all degrees below are needed too

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_EPS = float(np.finfo(np.float64).eps)


def check_dimension(p: int) -> None:
    """Refuse a dimension that has no sphere with harmonics: p is a whole number of at least 2."""
    if not is_count(p) or p < 2:
        raise ValueError(f"p: expected a whole number of at least 2, the dimension around the sphere, got {p!r}")


def as_degrees(degrees: int | Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Degrees as an increasing array: all up to a whole number, or those of a sequence.

    Parameters
    ----------
    degrees
        The largest degree, or distinct degrees in increasing order.

    Raises
    ------
    ValueError
        If a degree is no whole number from 0 to 1e9, or they do not increase.
    """
    if isinstance(degrees, Integral) and not isinstance(degrees, bool):
        if not 0 <= int(degrees) <= 10**7:
            raise ValueError(
                f"degrees: expected a largest degree from 0 to 1e7, or a sequence of degrees, got {degrees}"
            )
        return np.arange(int(degrees) + 1)
    found = np.asarray(degrees)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        raise ValueError(f"degrees: expected a whole number or a sequence of whole numbers, got {degrees!r}")
    if found.min() < 0 or found.max() > MAX_DEGREE or (np.diff(found.astype(np.int64)) <= 0).any():
        raise ValueError(f"degrees: expected increasing numbers from 0 to 1e9, got {found.tolist()[:10]}")
    return found.astype(np.int64)


def multiplicity(p: int, k: int) -> int:
    """N(p, k), the number of independent harmonics of degree k on S^{p-1}, exactly.

    Examples
    --------
    >>> [multiplicity(3, k) for k in range(5)]
    [1, 3, 5, 7, 9]
    """
    check_dimension(p)
    (k,) = map(int, as_degrees([k]))
    return math.comb(k + p - 1, p - 1) - (math.comb(k + p - 3, p - 1) if k >= 2 else 0)


def log_multiplicity(p: int, degrees: Sequence[int] | NDArray[Any]) -> Array:
    """Logarithm of N(p, k) for an array of degrees."""
    from scipy.special import gammaln

    check_dimension(p)
    k = as_degrees(degrees).astype(np.float64)
    positive = np.maximum(k, 1.0)
    logs = np.log((2 * positive + p - 2) / positive) + log_rising(positive, p - 2) - gammaln(p - 1)
    return np.where(k == 0, 0.0, logs)


def log_rising(x: Array, shift: float) -> Array:
    """``log Gamma(x + shift) - log Gamma(x)`` for x > 0 and a shift >= 0, good to 1e-13 also where both are huge.

    The difference of two ``gammaln`` at 1e8 keeps 7 digits only; Stirling's series lets the large parts cancel on
    paper.
    """
    from scipy.special import gammaln

    x = np.asarray(x, dtype=np.float64)
    large = np.maximum(x, 20.0)
    series = (large + shift - 0.5) * np.log1p(shift / large) - shift + shift * np.log(large)
    series += _stirling(large + shift) - _stirling(large)
    return np.where(x >= 20.0, series, gammaln(x + shift) - gammaln(x))


def _stirling(x: Array) -> Array:
    return sum((c * x ** -(2.0 * i + 1) for i, c in enumerate(_STIRLING)), np.zeros_like(x))


def log_power_coefficients(p: int, power: NDArray[Any], degree: NDArray[Any]) -> Array:
    """Logarithm of the coefficient a_k of ``t^j`` for whole numbers j; -inf where k > j or k - j is odd.

    With Rodrigues' formula and k integrations by parts, ``a_k = Gamma(p/2) 2^-k j! Gamma((j-k+1)/2) / (sqrt(pi) (j-k)!
    Gamma((j+k+p)/2))``: never negative, so that kernels with b_j >= 0 are summed without cancellation.

    Parameters
    ----------
    p
        Dimension of the space around the sphere.
    power, degree
        j and k, of shapes that broadcast together.
    """
    from scipy.special import gammaln

    j, k = np.broadcast_arrays(np.asarray(power, np.float64), np.asarray(degree, np.float64))
    alive = (j >= k) & ((j - k) % 2 == 0)
    left = np.where(alive, j - k, 0.0)
    # (j-k)! = Gamma((j-k+1)/2) Gamma((j-k)/2 + 1) 2^(j-k) / sqrt(pi) takes two of the five factors away
    logs = gammaln(p / 2) + gammaln(j + 1) - j * math.log(2) - gammaln(left / 2 + 1) - gammaln((j + k + p) / 2)
    return np.where(alive, logs, -np.inf)


def zonal_polynomials(p: int, largest: int, t: Array, theta: Array | None = None) -> Iterator[Array]:
    """``P_0(t), P_1(t), ..., P_largest(t)`` one after the other, by their three-term recurrence.

    Parameters
    ----------
    p
        Dimension of the space around the sphere.
    largest
        The last degree.
    t
        Cosines in [-1, 1].
    theta
        Their angles, if they are known better than from `t`.
    """
    check_dimension(p)
    if p == 2:  # cos(k theta) does not add up rounding errors
        angle = np.arccos(t) if theta is None else theta
        for k in range(largest + 1):
            yield np.cos(k * angle)
        return
    previous, current = np.zeros_like(t), np.ones_like(t)
    for k in range(largest + 1):
        yield current
        previous, current = current, ((2 * k + p - 2) * t * current - k * previous) / (k + p - 2)


def project(
    function: Callable[[Array], Array],
    p: int,
    degrees: int | Sequence[int] | NDArray[Any],
    kinks: Sequence[float] = (),
) -> tuple[Array, Array]:
    """The coefficients a_k of a function of the angle by quadrature, and an estimate of their errors.

    With ``t = cos(theta)`` the square roots that arc-cosine kernels have at t = 1 and -1 become smooth. Gauss and
    Legendre's rule is used on panels short enough for the largest degree, which shrink towards both ends and the kinks
    so that weaker singularities do no harm. The error is the difference to a rule of fewer nodes, and rounding.

    Parameters
    ----------
    function
        g as a function of arrays of angles in (0, pi).
    p
        Dimension of the space around the sphere.
    degrees
        The largest degree, or a sequence of degrees, up to 20,000.
    kinks
        Angles strictly inside (0, pi) where g is not smooth.

    Returns
    -------
    tuple
        The coefficients and their absolute errors, one for each degree.

    Raises
    ------
    ValueError
        If an argument is not of this form, or the function is not finite.
    """
    check_dimension(p)
    degrees = as_degrees(degrees)
    largest = int(degrees[-1])
    if largest > MAX_SUMMED_DEGREE:
        raise ValueError(f"degrees: expected at most {MAX_SUMMED_DEGREE} where there is no closed form, got {largest}")
    if not all(0 < angle < math.pi for angle in kinks):
        raise ValueError(f"kinks: expected angles strictly between 0 and pi, got {list(kinks)}")
    edges = _edges(largest + p, tuple(sorted(kinks)))
    fine, rounding = _integrals(function, p, degrees, edges, 32)
    coarse, _ = _integrals(function, p, degrees, edges, 22)
    return fine, np.abs(fine - coarse) + rounding


def _edges(frequency: int, kinks: tuple[float, ...]) -> Array:
    """Edges of the panels: of a length at most 16 / frequency, shrinking by 4 towards the singular angles."""
    ends = [0.0, *kinks, math.pi]
    pieces = []
    for left, right in itertools.pairwise(ends):
        count = 2 * math.ceil((right - left) * frequency / 32) + 1
        even = np.linspace(0.0, 1.0, count + 1)
        graded = even[1] * 4.0 ** -np.arange(1.0, 15.0)
        unit = np.concatenate([[0.0], graded[::-1], even[1:-1], 1 - graded, [1.0]])
        pieces.append(left + (right - left) * unit)
    return np.unique(np.concatenate(pieces))


@lru_cache(maxsize=8)
def _gauss(nodes: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(nodes)


def _integrals(
    function: Callable[[Array], Array], p: int, degrees: NDArray[np.int64], edges: Array, nodes: int
) -> tuple[Array, Array]:
    points, weights = _gauss(nodes)
    half = np.diff(edges)[:, None] / 2
    theta = ((edges[:-1, None] + edges[1:, None]) / 2 + half * points).ravel()
    values = np.asarray(function(theta), dtype=np.float64)
    if values.shape != theta.shape or not np.isfinite(values).all():
        raise ValueError("function: expected finite numbers, one for each of an array of cosines in (-1, 1)")
    constant = math.exp(log_rising(np.array((p - 1) / 2), 0.5)) / math.sqrt(math.pi)
    mass = constant * (half * weights).ravel() * np.sin(theta) ** (p - 2)
    weighted = mass * values
    sizes = np.abs(weighted)
    wanted, results, rounding = set(degrees.tolist()), [], []
    for k, polynomial in enumerate(zonal_polynomials(p, int(degrees[-1]), np.cos(theta), theta)):
        if k in wanted:
            results.append(polynomial @ weighted)
            rounding.append((8 + k / 4) * _EPS * (np.abs(polynomial) @ sizes))
    return np.array(results), np.array(rounding)

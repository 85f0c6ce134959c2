"""Power laws in sequences of logarithms: local slopes, fitted exponents, tails of sums.

Kernels may have degrees of one parity only, and the parities may decay differently: each is looked at by itself.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilbertnet.text import columns

__all__ = ["Decay", "Slopes", "Trace", "fit_decay", "local_slopes", "log_power_tail", "power_tail"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Slopes:
    """Slopes of log mu_k against log k between neighbouring degrees of one parity.

    Parameters
    ----------
    left, right
        The two degrees, shape (slopes,).
    values
        The slopes, shape (slopes,).
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: Array

    def before(self, degree: int) -> str:
        """The slope that ends at a degree, as text; empty if there is none."""
        found = np.flatnonzero(self.right == degree)
        return f"{self.values[found[0]]:.3f}" if found.size else ""

    def __str__(self) -> str:
        rows = [["degrees", "slope"]]
        rows += [[f"{a} to {b}", f"{s:.4f}"] for a, b, s in zip(self.left, self.right, self.values, strict=True)]
        return columns(rows)


@dataclass(frozen=True)
class Decay:
    """The exponent of a parity: ``mu_k ~ k^exponent`` fitted to `count` degrees of `degrees` (first, last)."""

    parity: str
    exponent: float
    degrees: tuple[int, int]
    count: int
    predicted: float | None

    def __str__(self) -> str:
        end = "not known" if self.predicted is None else f"{self.predicted:g}"
        first, last = self.degrees
        return f"{self.parity} degrees {first} to {last}: exponent {self.exponent:.4f}, predicted {end}"


@dataclass(frozen=True)
class Trace:
    """``sum_k mu_k N(p, k)`` up to a degree, the tail beyond it, and the limit kappa(1).

    Parameters
    ----------
    last
        The degree.
    partial
        The sum up to it.
    tail
        The rest, as a power law through the last two terms of each parity gives it; infinite where these do not
        decay faster than 1/k yet.
    at_one
        kappa(1).
    """

    last: int
    partial: float
    tail: float
    at_one: float

    @property
    def missing(self) -> float:
        """``kappa(1) - partial``, at least 0: what the degrees beyond carry."""
        return max(self.at_one - self.partial, 0.0)

    def __str__(self) -> str:
        return (
            f"sum of mu_k N(p, k) up to {self.last}: {self.partial:.8g}; kappa(1) = {self.at_one:g}, missing "
            f"{self.missing:.3g}; a power law gives the tail {self.tail:.3g}"
        )


def _parities(degrees: NDArray[np.int64], used: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
    """Indices of the used degrees above 0 of each parity."""
    indices = np.flatnonzero(used & (degrees > 0))
    return [(name, indices[degrees[indices] % 2 == parity]) for parity, name in enumerate(("even", "odd"))]


def local_slopes(degrees: NDArray[np.int64], logs: Array, used: NDArray[np.bool_]) -> Slopes:
    """Slopes between neighbours of one parity among the used degrees, in increasing order of the right one.

    Parameters
    ----------
    degrees, logs, used
        The degrees, the logarithms, and which of them count, each of shape (degrees,).
    """
    pairs = sorted(
        (int(degrees[b]), int(degrees[a]), float(logs[b] - logs[a]) / math.log(degrees[b] / degrees[a]))
        for _, indices in _parities(degrees, used)
        for a, b in itertools.pairwise(indices)
    )
    table = np.array(pairs, dtype=np.float64).reshape(-1, 3)
    return Slopes(table[:, 1].astype(np.int64), table[:, 0].astype(np.int64), table[:, 2])


def fit_decay(
    degrees: NDArray[np.int64], logs: Array, used: NDArray[np.bool_], least: int, predicted: float | None
) -> list[Decay]:
    """The exponent of every parity with three used degrees from `least` on, by least squares in logarithms."""
    found = []
    for name, indices in _parities(degrees, used & (degrees >= least)):
        if len(indices) >= 3:
            x, y = np.log(degrees[indices]), logs[indices]
            x = x - x.mean()
            slope = float(x @ (y - y.mean()) / (x @ x))
            ends = int(degrees[indices[0]]), int(degrees[indices[-1]])
            found.append(Decay(name, slope, ends, len(indices), predicted))
    return found


def log_power_tail(first: tuple[float, float], last: tuple[float, float]) -> float:
    """Logarithm of ``sum_{i >= 1} a(k + 2 i)``, a the power law through two terms, given as (degree, logarithm).

    Infinite if it does not decay faster than 1/k.
    """
    from scipy.special import zeta

    exponent = -(last[1] - first[1]) / math.log(last[0] / first[0])
    if exponent <= 1.0:
        return math.inf
    half = last[0] / 2
    # sum_i ((k + 2 i) / k)^-s = (k/2)^s zeta(s, k/2 + 1); for large s the first term is all, and zeta underflows
    if exponent > 60.0:
        return last[1] - exponent * math.log1p(1 / half)
    return last[1] + exponent * math.log(half) + math.log(zeta(exponent, half + 1))


def power_tail(degrees: NDArray[np.int64], log_terms: Array, at_one: float) -> Trace:
    """The sum of terms at all degrees from 0 on, and what a power law through the last two of each parity adds.

    Parameters
    ----------
    degrees, log_terms
        All degrees up to the last, and the logarithms of the terms, each of shape (degrees,).
    at_one
        The known limit.
    """
    partial, tail = float(np.exp(log_terms).sum()), 0.0
    for _, indices in _parities(degrees, np.isfinite(log_terms)):
        if len(indices) < 3 or degrees[indices[-1]] < degrees[-1] - 1:  # a parity of finitely many degrees
            continue
        a, b = indices[-2:]
        tail += math.exp(min(log_power_tail((degrees[a], log_terms[a]), (degrees[b], log_terms[b])), 700.0))
    return Trace(int(degrees[-1]), partial, tail if tail < 1e300 else math.inf, at_one)

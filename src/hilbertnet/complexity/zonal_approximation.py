"""How well functions outside an RKHS are approximated by its functions of norm at most delta.

Two families approximate ``f = g(<w, .>)``. ``T (T + lambda)^-1 f``, T the kernel's integral operator, is the best in
L2 at its norm: coefficients ``a_k mu_k / (mu_k + lambda)``. Poisson's means ``sum_k r^k a_k N(p, k) P_k`` are those of
the proof for Lipschitz functions, in the supremum norm. With ``a_k ~ k^-(p/2 + s)`` and ``mu_k ~ k^-(p + 2 nu - 1)``
the L2 error falls as ``delta^-((2 s + 1) / (p + 2 nu - 2 - 2 s))``. The theorem for all even Lipschitz functions has,
up to a logarithm, ``delta^-(1 / (p/2 - 1))`` for the ReLU tangent kernel, nu = 1/2, and ``delta^-(1 / (p/2))`` for the
kernel of random features, nu = 3/2. These are the L2 exponents for s = 1/2, where f has one derivative in L2 up to a
logarithm; ``|t|``, s = 1, does better, for its kink lies on the equator only.

References: F. Bach, "Breaking the curse of dimensionality with convex neural networks", JMLR 2017, appendix D;
A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, corollary 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.complexity.decay import power_tail
from hilbertnet.complexity.effective_dimension import positive
from hilbertnet.complexity.harmonics import zonal_polynomials
from hilbertnet.complexity.log_numbers import format_log
from hilbertnet.complexity.spectrum import Spectrum
from hilbertnet.complexity.zonal import Coefficients, ZonalFunction
from hilbertnet.complexity.zonal_norm import check_zonal
from hilbertnet.text import columns

__all__ = ["Approximation", "ErrorCurve", "approximation", "lipschitz_exponent"]

Array = NDArray[np.float64]

_GRID = 257  # angles of the supremum


def lipschitz_exponent(spectrum: Spectrum) -> float | None:
    """The exponent of delta in the theorem for Lipschitz functions, ``-1 / (p/2 + nu - 3/2)``; ``None`` if not known.

    Parameters
    ----------
    spectrum
        Of a kernel with the singularity (1 - t)^nu. At p = 2 and nu = 1/2 any power is reached: ``-inf``.
    """
    nu = spectrum.kernel.singularity
    if nu is None or math.isinf(nu):
        return None
    room = spectrum.p / 2 + nu - 1.5
    return -1 / room if room > 0 else -math.inf


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Errors against norms, along one parameter, each of shape (points,).

    Parameters
    ----------
    parameter
        lambda, or 1 - r; decreasing.
    norms
        delta, the approximation's RKHS norm.
    errors
        Its error.
    """

    parameter: Array
    norms: Array
    errors: Array

    @property
    def exponent(self) -> float:
        """Of delta in the error, fitted to the larger half of the norms; NaN if there are less than two."""
        return self._fit(self.errors)

    @property
    def exponent_up_to_logarithm(self) -> float:
        """Of delta in ``error / log(1 + delta)``, the same way."""
        return self._fit(self.errors / np.log1p(self.norms))

    def _fit(self, errors: Array) -> float:
        use = (self.norms >= math.sqrt(self.norms.min() * self.norms.max())) & (errors > 0)
        if use.sum() < 2:
            return math.nan
        x, y = np.log(self.norms[use]), np.log(errors[use])
        x = x - x.mean()
        return float(x @ y / (x @ x)) if x @ x > 0 else math.nan

    def table(self, parameter: str, error: str) -> str:
        """A row for each point."""
        rows = [[parameter, "norm delta", error]]
        for values in zip(self.parameter, self.norms, self.errors, strict=True):
            rows.append([format_log(math.log(v)) if v > 0 else "0" for v in values])
        return columns(rows)


@dataclass(frozen=True, eq=False)
class Approximation:
    """Approximations of a zonal function in an RKHS.

    Parameters
    ----------
    function, spectrum
        What is approximated, and in the RKHS of which kernel.
    best
        Over lambda: the L2 error, for the uniform probability on the sphere, which is the least at each norm.
    means
        Over 1 - r: the largest error of Poisson's means on a grid of angles.
    """

    function: ZonalFunction
    spectrum: Spectrum
    best: ErrorCurve
    means: ErrorCurve

    @property
    def predicted(self) -> float | None:
        """Of delta in the L2 error of this function; ``-inf`` if it is in the RKHS, ``None`` if it is not known."""
        s, decay = self.function.order, self.spectrum.predicted
        if s is None or decay is None or math.isinf(decay):
            return None
        room = -decay - 1 - 2 * s
        return -(2 * s + 1) / room if room > 0 else -math.inf

    def __str__(self) -> str:
        named = (("for this function", self.predicted), ("for Lipschitz functions", lipschitz_exponent(self.spectrum)))
        theory = "; ".join(f"{what} {'not known' if e is None else f'{e:.3g}'}" for what, e in named)
        return (
            f"approximation of {self.function} for {self.spectrum.kernel}, p = {self.spectrum.p}; predicted exponents "
            f"of delta {theory}\n{self.best.table('lambda', 'L2 error')}\nexponent {self.best.exponent:.3f}\n"
            f"{self.means.table('1 - r', 'largest error')}\nexponent {self.means.exponent:.3f}, "
            f"{self.means.exponent_up_to_logarithm:.3f} after division by log(1 + delta)"
        )


def approximation(function: ZonalFunction, spectrum: Spectrum, lam: Any = None, radii: Any = None) -> Approximation:
    """Approximate a zonal function by functions of the RKHS, as well as their norm allows.

    Parameters
    ----------
    function
        The function.
    spectrum
        All degrees from 0 to a last one, all known; what f has beyond it counts as L2 error by a power law.
    lam
        Positive numbers; by default 24 of them from the eigenvalue of degree 4 to that of a quarter of the last degree,
        below which the cut of the degrees would show.
    radii
        1 - r, between 0 and 1; by default 12 of them from 1/2 to 30 over the last degree, for the same reason.

    Raises
    ------
    ValueError
        If degrees are missing or too few, eigenvalues are below their errors, a number is out of its range, or f has
        degrees that the kernel has not.
    """
    check_zonal(function, spectrum)
    if not (spectrum.resolved | spectrum.zero).all():
        first = int(spectrum.degrees[~(spectrum.resolved | spectrum.zero)][0])
        raise ValueError(f"spectrum: expected eigenvalues above their errors, got one below at degree {first}")
    a = function.coefficients(spectrum.p, spectrum.degrees)
    lost = np.flatnonzero(np.isfinite(a.logs) & spectrum.zero)
    if lost.size:
        raise ValueError(
            f"function: expected degrees that the kernel has, got {function}, which has degree "
            f"{spectrum.degrees[lost[0]]}"
        )
    return Approximation(function, spectrum, _best(spectrum, a, lam), _means(function, spectrum, a, radii))


def _norms(spectrum: Spectrum, a: Coefficients, log_kept: Array) -> Array:
    """RKHS norms of the functions with coefficients ``a_k exp(log_kept)``, (points, degrees) to (points,)."""
    use = spectrum.resolved
    terms = (2 * a.logs + spectrum.log_multiplicities)[use] - spectrum.log_eigenvalues[use]
    return np.sqrt(np.exp(terms + 2 * log_kept[:, use]).sum(1))


def _best(spectrum: Spectrum, a: Coefficients, lam: Any) -> ErrorCurve:
    lams = _default_lambdas(spectrum) if lam is None else np.sort(positive(lam))[::-1]
    squares, log_lam = 2 * a.logs + spectrum.log_multiplicities, np.log(lams)[:, None]
    both = np.logaddexp(spectrum.log_eigenvalues, log_lam)
    beyond = power_tail(spectrum.degrees, squares, math.inf).tail
    errors = np.sqrt(np.exp(squares + 2 * (log_lam - both)).sum(1) + (beyond if math.isfinite(beyond) else math.nan))
    return ErrorCurve(lams, _norms(spectrum, a, spectrum.log_eigenvalues - both), errors)


def _default_lambdas(spectrum: Spectrum) -> Array:
    logs = spectrum.log_eigenvalues[
        spectrum.resolved & (spectrum.degrees >= 4) & (spectrum.degrees <= max(4, spectrum.degrees[-1] // 4))
    ]
    if len(logs) < 2:
        raise ValueError(
            "spectrum: expected eigenvalues above 0 at two degrees between 4 and a quarter of the last, got the last "
            f"degree {spectrum.degrees[-1]}; pass lam, or more degrees"
        )
    return np.exp(np.linspace(logs[0], logs[-1], 24))


def _means(function: ZonalFunction, spectrum: Spectrum, a: Coefficients, radii: Any) -> ErrorCurve:
    """Poisson's means: their errors over a grid of angles that contains 0, pi/2 and pi."""
    last = max(int(spectrum.degrees[-1]), 1)
    gaps = np.geomspace(0.5, min(30.0 / last, 0.4), 12) if radii is None else np.sort(positive(radii, "radii"))[::-1]
    if gaps[0] >= 1:
        raise ValueError(f"radii: expected 1 - r between 0 and 1, got {gaps[0]:g}")
    kept = np.log1p(-gaps)[:, None] * spectrum.degrees.astype(np.float64)
    theta = np.linspace(0.0, math.pi, _GRID)
    t = np.cos(theta)
    t[_GRID // 2] = 0.0
    found = np.zeros((len(gaps), _GRID))
    weights = a.signs * np.exp(a.logs + spectrum.log_multiplicities + kept)
    for k, polynomial in enumerate(zonal_polynomials(spectrum.p, last, t, theta)):
        if k < len(a.signs) and a.signs[k]:
            found += weights[:, k, None] * polynomial
    return ErrorCurve(gaps, _norms(spectrum, a, kept), np.abs(found - function.value(t)).max(1))

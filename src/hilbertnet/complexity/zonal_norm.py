"""RKHS norms of zonal functions from their harmonics, against the degree where the sum is cut.

For ``f = g(<w, .>)`` with coefficients a_k, ``||f||_H^2 = sum_k a_k^2 N(p, k) / mu_k`` over the degrees with a_k != 0,
and infinite where one of them has mu_k = 0: the harmonics of degree k have norm ``mu_k^(-1/2)`` in H, and f has the
square norm ``a_k^2 N(p, k)`` among them in L2. ``f = K(w, .)`` has a_k = mu_k and ``||f||^2 = kappa(1)``.

References: A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, section 3.2;
F. Bach, "Breaking the curse of dimensionality with convex neural networks", JMLR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.complexity.decay import fit_decay, power_tail
from hilbertnet.complexity.harmonics import as_degrees
from hilbertnet.complexity.log_numbers import format_log, shown_rows
from hilbertnet.complexity.real_numbers import real_numbers
from hilbertnet.complexity.spectrum import Spectrum
from hilbertnet.complexity.zonal import ZonalFunction
from hilbertnet.text import columns

__all__ = ["NormTable", "ZonalNorm", "harmonic_norm", "norm_table", "zonal_norm"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ZonalNorm:
    """The RKHS norm of a zonal function up to every degree, and what is known of its limit.

    Parameters
    ----------
    function, spectrum
        What it is the norm of, and in the RKHS of which kernel.
    degrees
        0, 1, ..., shape (degrees,).
    log_terms
        Logarithms of ``a_k^2 N(p, k) / mu_k``, shape (degrees,); ``inf`` where mu_k is 0 and a_k is not.
    last
        The last degree that counts: before the first whose mu_k, though not 0, was not told from 0.
    """

    function: ZonalFunction
    spectrum: Spectrum
    degrees: NDArray[np.int64]
    log_terms: Array
    last: int

    @property
    def log_truncated(self) -> Array:
        """Logarithm of the norm of what f has up to each degree, shape (degrees,)."""
        return np.logaddexp.accumulate(self.log_terms) / 2

    @property
    def truncated(self) -> Array:
        """The norm of what f has up to each degree, shape (degrees,)."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_truncated)

    @property
    def predicted(self) -> float | None:
        """The exponent of the terms in k, from those of a_k and mu_k; ``None`` where one is not known."""
        s, decay = self.function.order, self.spectrum.predicted
        return None if s is None or decay is None else -2.0 - 2.0 * s - decay

    @property
    def fitted(self) -> float | None:
        """The exponent of the terms in the upper half of the degrees, the larger of the two parities'."""
        used = np.isfinite(self.log_terms) & (self.degrees <= self.last)
        found = fit_decay(self.degrees, self.log_terms, used, max(self.last // 2, 1), None)
        return max((fit.exponent for fit in found), default=None)

    @property
    def reason(self) -> str:
        """Why the norm is infinite, or what its finiteness rests on."""
        missing = np.flatnonzero(self.log_terms == np.inf)
        if missing.size:
            return f"infinite: the kernel has no harmonics of degree {self.degrees[missing[0]]}, which f has"
        if self.last < self.degrees[-1]:
            return f"not known beyond degree {self.last}, where the kernel's eigenvalues are below their errors"
        exponent, kind = (self.fitted, "fitted") if self.predicted is None else (self.predicted, "predicted")
        if exponent is None:
            return "finite: f has finitely many degrees, or they fade at once"
        if exponent == math.inf:
            return "infinite: the kernel's eigenvalues decay faster than any power, and f's coefficients do not"
        verdict = "finite" if exponent < -1 else "infinite"
        return f"{verdict}: the terms go as k^{exponent:.3g} ({kind}), summable below k^-1"

    @property
    def limit(self) -> float:
        """The norm: the sum and its tail by a power law; infinite or NaN as `reason` says."""
        if self.reason.startswith("infinite"):
            return math.inf
        if self.reason.startswith("not known"):
            return math.nan
        sums = power_tail(self.degrees, self.log_terms, math.inf)
        return math.sqrt(sums.partial + sums.tail)

    def __str__(self) -> str:
        rows = [["degree k", "term", "norm up to k"]]
        for i in shown_rows(len(self.degrees)):
            rows.append([str(self.degrees[i]), format_log(self.log_terms[i]), format_log(self.log_truncated[i])])
        head = f"RKHS norm of {self.function} for {self.spectrum.kernel}, p = {self.spectrum.p}: {self.limit:.6g}"
        return f"{head}\n{self.reason}\n{columns(rows)}"


def zonal_norm(function: ZonalFunction, spectrum: Spectrum) -> ZonalNorm:
    """The RKHS norm of a zonal function, for the kernel of a spectrum.

    Parameters
    ----------
    function
        The function.
    spectrum
        All degrees from 0 to a last one.

    Raises
    ------
    ValueError
        If degrees are missing from the spectrum.
    """
    check_zonal(function, spectrum)
    a = function.coefficients(spectrum.p, spectrum.degrees)
    known, alive = spectrum.resolved | spectrum.zero, np.isfinite(a.logs)
    unknown = np.flatnonzero(~known & alive)
    last = int(spectrum.degrees[unknown[0]]) - 1 if unknown.size else int(spectrum.degrees[-1])
    logs = np.full(len(a.logs), -np.inf)
    use = alive & spectrum.resolved
    logs[use] = (2 * a.logs + spectrum.log_multiplicities)[use] - spectrum.log_eigenvalues[use]
    logs[alive & spectrum.zero] = np.inf
    return ZonalNorm(function, spectrum, spectrum.degrees, logs, last)


def harmonic_norm(energies: Any, spectrum: Spectrum) -> float:
    """The RKHS norm of any function on the sphere with finitely many degrees, ``sqrt(sum_k energies[k] / mu_k)``.

    Parameters
    ----------
    energies
        The squared L2 norm, for the uniform probability, of the part of f of each degree 0, 1, ..., shape (degrees,);
        ``a_k^2 N(p, k)`` for a zonal function.
    spectrum
        All degrees from 0 to at least the last of these.

    Returns
    -------
    float
        Infinite where the kernel has no harmonics of a degree that f has, NaN where their eigenvalue is not known.

    Raises
    ------
    ValueError
        If an energy is negative or not finite, or a degree is missing from the spectrum.
    """
    _check_whole(spectrum)
    found = real_numbers("energies", energies, least=0.0)
    if len(found) > len(spectrum.degrees):
        raise ValueError(
            f"energies: expected at most {len(spectrum.degrees)} degrees, the spectrum's, got {len(found)}"
        )
    used = np.flatnonzero(found)
    if spectrum.zero[used].any():
        return math.inf
    if not spectrum.resolved[used].all():
        return math.nan
    return float(np.sqrt(np.exp(np.log(found[used]) - spectrum.log_eigenvalues[used]).sum()))


def check_zonal(function: ZonalFunction, spectrum: Spectrum) -> None:
    """Refuse what is no zonal function, and a spectrum that lacks degrees."""
    if not isinstance(function, ZonalFunction):
        raise ValueError(f"function: expected a ZonalFunction such as absolute_power(1), got {function!r}")
    _check_whole(spectrum)


def _check_whole(spectrum: Spectrum) -> None:
    if not isinstance(spectrum, Spectrum):
        raise ValueError(f"spectrum: expected a Spectrum, as mercer makes them, got {spectrum!r}")
    if len(spectrum.degrees) != spectrum.degrees[-1] + 1:
        raise ValueError(f"spectrum: expected all degrees from 0 on, got {spectrum.degrees.tolist()[:10]}")


@dataclass(frozen=True, eq=False)
class NormTable:
    """Norms of functions in the RKHS of several kernels, against the degree where the sums are cut."""

    norms: tuple[ZonalNorm, ...]
    degrees: NDArray[np.int64]

    def __str__(self) -> str:
        rows = [["f", "kernel", *[f"k <= {k}" for k in self.degrees], "norm", "exponent of terms", "predicted"]]
        for norm in self.norms:
            cells = [format_log(norm.log_truncated[k]) if k <= norm.last else "-" for k in self.degrees]
            exponents = ["-" if e is None else f"{round(e, 2) + 0.0:.2f}" for e in (norm.fitted, norm.predicted)]
            rows.append([str(norm.function), str(norm.spectrum.kernel), *cells, f"{norm.limit:.4g}", *exponents])
        return columns(rows)


def norm_table(
    functions: Sequence[ZonalFunction], spectra: Sequence[Spectrum], degrees: Sequence[int] = (8, 64, 512)
) -> NormTable:
    """Every function's norm for every kernel, cut at some degrees; a term exponent below -1 means that f is inside.

    Parameters
    ----------
    functions
        Zonal functions.
    spectra
        Spectra with all degrees from 0 to at least the last of `degrees`.
    degrees
        Where to cut the sums.

    Raises
    ------
    ValueError
        If a spectrum ends before the last degree, or lacks some.
    """
    cut = as_degrees(list(degrees))
    norms = tuple(zonal_norm(function, spectrum) for function in functions for spectrum in spectra)
    for norm in norms:
        if norm.degrees[-1] < cut[-1]:
            raise ValueError(f"degrees: expected at most {norm.degrees[-1]}, the spectrum's last, got {cut[-1]}")
    return NormTable(norms, cut)

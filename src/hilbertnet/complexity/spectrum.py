"""Mercer eigenvalues of dot-product kernels on the sphere S^{p-1}, with their decay beside the predicted one.

``kappa(<x, y>) = sum_k mu_k N(p, k) P_k(<x, y>)``: mu_k is the eigenvalue of the kernel's integral operator, for the
uniform probability on the sphere, on all N(p, k) harmonics of degree k.

References: A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, section 3.2;
A. Smola, Z. Ovari and R. Williamson, "Regularization with dot-product kernels", NeurIPS 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.complexity.decay import Decay, Slopes, Trace, fit_decay, local_slopes, power_tail
from hilbertnet.complexity.harmonics import (
    as_degrees,
    check_dimension,
    log_multiplicity,
    multiplicity,
    project,
    zonal_polynomials,
)
from hilbertnet.complexity.log_numbers import format_log, format_rows, shown_rows
from hilbertnet.complexity.mercer_logs import log_closed_form, log_series
from hilbertnet.complexity.numeric_series import log_numeric_series
from hilbertnet.complexity.sphere_kernel import KernelLike, SphereKernel, sphere_kernel
from hilbertnet.text import columns, nearest

__all__ = ["Spectrum", "mercer"]

Array = NDArray[np.float64]

METHODS = ("auto", "closed", "series", "quadrature", "mixed")


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Mercer eigenvalues of a kernel on S^{p-1}, made by `mercer`; ``print`` shows them as a table.

    Parameters
    ----------
    kernel
        The kernel as a function of one cosine.
    p
        Dimension of the space around the sphere.
    degrees
        k, increasing, shape (degrees,).
    log_eigenvalues
        log mu_k, -inf where mu_k is 0 or was not told from 0, shape (degrees,).
    log_errors
        Logarithm of the absolute error of mu_k, shape (degrees,); -inf where it is 0 exactly.
    method
        ``"closed"``, ``"series"``, ``"quadrature"`` or ``"mixed"``: where the numbers come from.
    """

    kernel: SphereKernel
    p: int
    degrees: NDArray[np.int64]
    log_eigenvalues: Array
    log_errors: Array
    method: str

    @property
    def eigenvalues(self) -> Array:
        """mu_k; 0 below 1e-308, where only the logarithms tell."""
        return np.exp(self.log_eigenvalues)

    @property
    def multiplicities(self) -> list[int]:
        """N(p, k), exactly."""
        return [multiplicity(self.p, int(k)) for k in self.degrees]

    @property
    def log_multiplicities(self) -> Array:
        """Logarithm of N(p, k)."""
        return log_multiplicity(self.p, self.degrees)

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Where mu_k is positive and above its error."""
        return np.isfinite(self.log_eigenvalues)

    @property
    def zero(self) -> NDArray[np.bool_]:
        """Where mu_k is 0 exactly: the parities that the kernel does not have."""
        return ~self.resolved & ~np.isfinite(self.log_errors)

    @property
    def predicted(self) -> float | None:
        """The predicted exponent of mu_k in k; ``-inf`` if it decays faster than any power, ``None`` if not known.

        ``-(p + 2 nu - 1)``, for a kernel with the singularity (1 - t)^nu: -p for the ReLU tangent kernel and the
        arc-cosine kernel of order 0, -(p + 2) for that of order 1 (random features), of any depth.
        """
        nu = self.kernel.singularity
        return None if nu is None else -(self.p + 2 * nu - 1)

    def slopes(self) -> Slopes:
        """Local slopes of log mu_k against log k, between neighbours of one parity that are known to 1%."""
        return local_slopes(self.degrees, self.log_eigenvalues, self._precise())

    def decay(self, least: int = 1) -> list[Decay]:
        """For each parity, the exponent fitted by least squares to the degrees from `least` on.

        A parity with less than three eigenvalues known to 1% from there on has none. Where p is large, the asymptotic
        exponent shows at very large degrees only: at k = 500 it is still .1 off for p = 10, and 3 for p = 50.
        """
        return fit_decay(self.degrees, self.log_eigenvalues, self._precise(), least, self.predicted)

    def trace(self) -> Trace:
        """``sum_k mu_k N(p, k)``, the tail that a power law through the last terms gives, and kappa(1), its limit.

        Raises
        ------
        ValueError
            If the degrees are not all from 0 on.
        """
        self._check_whole("trace")
        return power_tail(self.degrees, self.log_eigenvalues + self.log_multiplicities, self.kernel.at_one)

    def value(self, t: Any) -> Array:
        """The kernel back from these degrees, ``sum_k mu_k N(p, k) P_k(t)``, at cosines t."""
        self._check_whole("value")
        terms = np.exp(self.log_eigenvalues + self.log_multiplicities)
        t = np.asarray(t, dtype=np.float64)
        polynomials = zonal_polynomials(self.p, int(self.degrees[-1]), t)
        return sum((term * P for term, P in zip(terms, polynomials, strict=True)), np.zeros_like(t))

    def _check_whole(self, what: str) -> None:
        if len(self.degrees) != self.degrees[-1] + 1:
            raise ValueError(f"degrees: expected all degrees from 0 on for {what}, got {self.degrees.tolist()[:10]}")

    def _precise(self) -> NDArray[np.bool_]:
        return self.resolved & (self.log_errors < self.log_eigenvalues - math.log(100))

    def __str__(self) -> str:
        predicted = self.predicted
        end = "not known" if predicted is None else f"{predicted:g}" if math.isfinite(predicted) else "beyond any power"
        head = f"{self.kernel} on S^{self.p - 1} (p = {self.p}), {self.method}; predicted exponent of mu_k: {end}"
        slopes = self.slopes()
        rows = [["degree k", "N(p, k)", "mu_k", "error", "slope before k"]]
        long = len(self.degrees) > 20
        some = np.flatnonzero(~self.zero | (not long) | (self.degrees < 6))  # of a long table, what is not 0
        for i in some[shown_rows(len(some))]:
            value, error = format_log(self.log_eigenvalues[i]), format_log(self.log_errors[i], 1)
            if not self.resolved[i]:
                value = "0" if self.zero[i] else f"< {error}"
            count = format_log(self.log_multiplicities[i])
            rows.append([str(self.degrees[i]), count, value, error, slopes.before(int(self.degrees[i]))])
        return f"{head}\n{columns(format_rows(rows))}"


def mercer(
    kernel: KernelLike,
    p: int,
    degrees: int | Sequence[int] | NDArray[Any] = 40,
    *,
    kind: str = "ckn",
    method: str = "auto",
) -> Spectrum:
    """Mercer eigenvalues of a dot-product kernel, or of a stack of them, on the sphere S^{p-1}.

    Closed forms serve the arc-cosine kernels and the tangent kernel of that of order 1; Taylor series of positive terms
    the exponential, the polynomial and their like, and tangent kernels of one such layer. Both keep relative precision
    everywhere. Several layers take, for every degree, the better of quadrature and of a series of positive terms with
    computed coefficients; dual kernels and kernels of your own are quadrature. Both of these have an absolute error
    that is stated for every degree: eigenvalues below it are marked and not guessed.

    Parameters
    ----------
    kernel
        A dot-product kernel, several of them from the input on, or an architecture of patches of one pixel without
        pooling, or its text form: ``"1 arccos1 - | 1 arccos1 -"``.
    p
        Dimension of the space around the sphere, at least 2.
    degrees
        The largest degree, or a sequence of increasing degrees: up to 1e9 in closed form.
    kind
        ``"ckn"`` for the kernel itself, ``"ntk"`` for its tangent kernel; with one arc-cosine layer of order 1 they are
        the random-feature and the tangent kernel of a two-layer ReLU network.
    method
        ``"closed"``, ``"series"``, ``"mixed"`` (quadrature and computed coefficients), ``"quadrature"``, or ``"auto"``
        for the first of them that the kernel has.

    Raises
    ------
    ValueError
        If an argument is not of this form, the kernel has no such method, or the kernel is not positive definite on
        this sphere.

    Examples
    --------
    >>> from hilbertnet.architecture import ArcCosine
    >>> print(mercer(ArcCosine(1), p=3, degrees=6, kind="ntk"))
    arccos1 (ntk) on S^2 (p = 3), closed; predicted exponent of mu_k: -3
    degree k  N(p, k)      mu_k  error  slope before k
    --------  -------  --------  -----  --------------
    0               1       0.5  5e-13               -
    1               3    0.3333  3e-13               -
    2               5   0.07812  8e-14               -
    3               7         0      0               -
    4               9  0.005208  5e-15          -3.907
    5              11         0      0               -
    6              13  0.001404  1e-15          -3.233
    """
    check_dimension(p)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}{nearest(str(method), METHODS)}")
    function, degrees = sphere_kernel(kernel, kind), as_degrees(degrees)
    closed = log_closed_form(function, p, degrees) if method in ("auto", "closed") else None
    if closed is not None:
        return Spectrum(function, p, degrees, closed, closed + math.log(1e-12), "closed")
    series = log_series(function, p, degrees) if method in ("auto", "series") else None
    if series is not None:
        return Spectrum(function, p, degrees, *series, "series")
    if method in ("closed", "series") or (method == "mixed" and not function.analytic):
        raise ValueError(f"method: {function} has no {_METHOD_NAMES[method]} here; use 'quadrature'")
    logs, errors = _quadrature(function, p, degrees)
    if method == "quadrature" or not function.analytic:
        return Spectrum(function, p, degrees, *_told_from_zero(logs, errors), "quadrature")
    both = log_numeric_series(function, p, degrees)
    assert both is not None
    better = both[1] < errors
    logs, errors = np.where(better, both[0], logs), np.where(better, both[1], errors)
    return Spectrum(function, p, degrees, *_told_from_zero(logs, errors), "mixed")


_METHOD_NAMES = {"closed": "closed form", "series": "Taylor series", "mixed": "computed Taylor coefficients"}


def _told_from_zero(logs: Array, errors: Array) -> tuple[Array, Array]:
    return np.where(logs > errors, logs, -np.inf), errors


def _change(function: SphereKernel, t: Array) -> Array:
    """How much a kernel changes between a number and the next."""
    return np.abs(function(t) - function(np.nextafter(t, 0.0)))


def _quadrature(function: SphereKernel, p: int, degrees: NDArray[np.int64]) -> tuple[Array, Array]:
    values, errors = project(lambda theta: function(np.cos(theta)), p, degrees)
    # what rounding of the cosines does: near t = 1 kernels of order 0, twice above all, are steep
    noise, _ = project(lambda theta: _change(function, np.cos(theta)), p, [0])
    errors = errors + 1e-15 * np.abs(values) + noise[0]
    worst = int(np.argmin(values + 10 * errors))
    if values[worst] < -10 * errors[worst]:
        raise ValueError(
            f"kernel: expected a positive definite kernel on S^{p - 1}, got eigenvalue {values[worst]:.3g} at degree "
            f"{degrees[worst]}"
        )
    with np.errstate(divide="ignore"):
        return np.where(values > 0, np.log(np.abs(values)), -np.inf), np.log(errors)

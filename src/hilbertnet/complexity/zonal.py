"""Functions of one cosine, ``f(x) = g(<w, x>)``, on the sphere: their harmonic coefficients.

``g(t) = sum_k a_k N(p, k) P_k(t)``. As the kernel's own eigenvalues, the coefficients are logarithms with a sign, in
closed form where there is one: ``|t|^s`` is smooth but for an order s on the equator, and a_k goes to 0 as ``k^-(p/2 +
s)``.

Reference: F. Bach, "Breaking the curse of dimensionality with convex neural networks", JMLR 2017, appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.complexity.harmonics import as_degrees, check_dimension, log_power_coefficients, log_rising, project
from hilbertnet.complexity.mercer_logs import log_activation_coefficients
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.complexity.spectrum import mercer
from hilbertnet.complexity.sphere_kernel import KernelLike, sphere_kernel
from hilbertnet.text import format_number

__all__ = ["Coefficients", "ZonalFunction", "absolute_power", "activation", "kernel_section", "monomial", "zonal"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Coefficients:
    """a_k of a zonal function, each of shape (degrees,).

    Parameters
    ----------
    logs
        log |a_k|, -inf where a_k is 0 or was not told from 0.
    signs
        1, -1, or 0 where it is 0.
    log_errors
        Logarithm of the absolute error, -inf where there is none.
    """

    logs: Array
    signs: Array
    log_errors: Array

    @property
    def values(self) -> Array:
        """a_k, 0 where it is below 1e-308."""
        return self.signs * np.exp(self.logs)


@dataclass(frozen=True, eq=False)
class ZonalFunction:
    """``f(x) = g(<w, x>)`` for a unit vector w; see `zonal`, `absolute_power`, `activation`, `kernel_section`.

    Parameters
    ----------
    name
        For tables.
    value
        g, from an array of cosines to one of numbers.
    find
        From p and an array of degrees to the `Coefficients`.
    order
        s, if g is smooth but for a term ``|t|^s`` or ``max(t, 0)^s`` at t = 0; otherwise ``None``.
    """

    name: str
    value: Callable[[Array], Array]
    find: Callable[[int, NDArray[np.int64]], Coefficients]
    order: float | None = None

    def coefficients(self, p: int, degrees: int | Sequence[int] | NDArray[Any]) -> Coefficients:
        """a_k on S^{p-1}, for all degrees up to a whole number, or for those of a sequence.

        Raises
        ------
        ValueError
            If p or a degree is none.
        """
        check_dimension(p)
        return self.find(p, as_degrees(degrees))

    def __str__(self) -> str:
        return self.name


def zonal(g: Callable[[Array], Any], *, kinks: Sequence[float] = (), name: str = "g(t)") -> ZonalFunction:
    """A function of your own, by quadrature.

    Parameters
    ----------
    g
        From an array of cosines in (-1, 1) to finite numbers of the same shape.
    kinks
        Cosines strictly between -1 and 1 where g is not smooth: without them the quadrature is only as good as its
        error says.
    name
        For tables.

    Raises
    ------
    ValueError
        If g is no function, or a kink lies outside.
    """
    if not callable(g):
        raise ValueError(f"g: expected a function of an array of cosines, got {g!r}")
    if not all(-1 < real_number("kinks", t) < 1 for t in kinks):
        raise ValueError(f"kinks: expected cosines strictly between -1 and 1, got {list(kinks)}")
    angles = sorted(math.acos(t) for t in set(kinks))

    def find(p: int, degrees: NDArray[np.int64]) -> Coefficients:
        values, errors = project(lambda theta: np.asarray(g(np.cos(theta)), np.float64), p, degrees, angles)
        told = np.abs(values) > errors
        with np.errstate(divide="ignore"):
            logs = np.where(told, np.log(np.abs(values)), -np.inf)
            return Coefficients(logs, np.where(told, np.sign(values), 0.0), np.log(errors))

    return ZonalFunction(name, lambda t: np.asarray(g(t), np.float64), find)


def _exactly(logs: Array, signs: Array) -> Coefficients:
    """Coefficients of a closed form, to 1e-12."""
    return Coefficients(logs, np.where(np.isfinite(logs), signs, 0.0), logs + math.log(1e-12))


def absolute_power(s: float) -> ZonalFunction:
    """``|t|^s``, for s > 0: it belongs to the RKHS of a kernel with eigenvalues ``k^-q`` if and only if q < 2 s + 1.

    ``a_k = Gamma(p/2) Gamma(s+1) 2^-s / (Gamma((s-k)/2 + 1) Gamma((s+k+p)/2))`` for even k, and 0 for odd k: what
    Rodrigues' formula gives for even powers, continued in s.

    Parameters
    ----------
    s
        The power.

    Raises
    ------
    ValueError
        If s is no positive number.
    """
    s = real_number("s", s, above=0.0)

    def find(p: int, degrees: NDArray[np.int64]) -> Coefficients:
        from scipy.special import gammaln

        k = degrees.astype(np.float64)
        constant = gammaln(p / 2) + gammaln(s + 1) - s * math.log(2)
        y = np.where(k > s, (k - s) / 2, 1.0)  # 1 / Gamma(1 - y) = Gamma(y) sin(pi y) / pi
        size = abs(math.sin(math.pi * (s % 2) / 2))
        high = constant + (math.log(size / math.pi) if s % 2 else -np.inf) - log_rising(y, s + p / 2)
        below = np.where(k > s, 0.0, s - k)
        low = constant - gammaln(below / 2 + 1) - gammaln((s + k + p) / 2)
        logs = np.where(k % 2 == 1, -np.inf, np.where(k > s, high, low))
        signs = np.where(k > s, np.sign(np.cos(math.pi * (k // 2)) * -math.sin(math.pi * (s % 4) / 2)), 1.0)
        return _exactly(logs, signs)

    return ZonalFunction(f"|t|^{format_number(s)}", lambda t: np.abs(t) ** s, find, None if s % 2 == 0 else s)


def activation(order: int) -> ZonalFunction:
    """One neuron ``max(t, 0)^a``: the step for a = 0, ReLU for a = 1.

    Raises
    ------
    ValueError
        If the order is another.
    """
    if isinstance(order, bool) or order not in (0, 1):
        raise ValueError(f"order: expected 0 for the step or 1 for ReLU, got {order!r}")

    def find(p: int, degrees: NDArray[np.int64]) -> Coefficients:
        return _exactly(*log_activation_coefficients(order, p, degrees))

    if order == 0:
        return ZonalFunction("step(t)", lambda t: np.heaviside(t, 0.5), find, 0.0)
    return ZonalFunction("relu(t)", lambda t: np.maximum(t, 0.0), find, 1.0)


def monomial(power: int) -> ZonalFunction:
    """``t^j``, which has the degrees j, j - 2, ... only.

    Raises
    ------
    ValueError
        If the power is no whole number of at least 0.
    """
    if isinstance(power, bool) or not isinstance(power, int) or power < 0:
        raise ValueError(f"power: expected a whole number of at least 0, got {power!r}")

    def find(p: int, degrees: NDArray[np.int64]) -> Coefficients:
        logs = log_power_coefficients(p, np.array(float(power)), degrees)
        return _exactly(logs, np.ones(len(degrees)))

    return ZonalFunction(f"t^{power}", lambda t: np.asarray(t, np.float64) ** power, find)


def kernel_section(kernel: KernelLike, *, kind: str = "ckn") -> ZonalFunction:
    """``K(w, .)`` of a kernel: its coefficients are the eigenvalues, its norm in its own RKHS is ``sqrt(kappa(1))``.

    Parameters
    ----------
    kernel, kind
        As for `hilbertnet.complexity.spectrum.mercer`.
    """
    function = sphere_kernel(kernel, kind)

    def find(p: int, degrees: NDArray[np.int64]) -> Coefficients:
        spectrum = mercer(kernel, p, degrees, kind=kind)
        return Coefficients(spectrum.log_eigenvalues, spectrum.resolved.astype(np.float64), spectrum.log_errors)

    return ZonalFunction(f"K(w, .) of {function}", function, find)

"""Logarithms of Mercer eigenvalues without quadrature: closed forms, and series of positive terms.

Nothing here subtracts: every eigenvalue is a product of Gamma functions, or a sum of such products that are all
positive, so that relative precision is kept where mu_k is 1e-1000.

References: A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, appendix (order 1
and the tangent kernel); Y. Cho and L. Saul, "Kernel methods for deep learning", NeurIPS 2009 (the kernels); F. Bach,
"Breaking the curse of dimensionality with convex neural networks", JMLR 2017, appendix D (the activations).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hilbertnet.architecture import ArcCosine, DotProductKernel
from hilbertnet.complexity.harmonics import log_power_coefficients, log_rising
from hilbertnet.complexity.series import kernel_series
from hilbertnet.complexity.sphere_kernel import SphereKernel, is_smooth

__all__ = ["log_activation_coefficients", "log_closed_form", "log_series", "log_taylor"]

Array = NDArray[np.float64]

_BLOCK = 64
_MOST_TERMS = 20_000_000


# --- closed forms


def log_activation_coefficients(order: int, p: int, degrees: NDArray[np.int64]) -> tuple[Array, Array]:
    """Logarithm and sign of ``lambda_{a,k}``, the coefficients of ``max(t, 0)^a``: a = 0 is the step, a = 1 is ReLU.

    For k > a with k - a odd ``lambda = (-1)^((k-1-a)/2) Gamma(p/2) a! Gamma((k-a)/2) / (2^(a+1) pi Gamma((k+p+a)/2))``;
    for k > a with k - a even it is 0.

    Parameters
    ----------
    order
        a, 0 or 1.
    p
        Dimension of the space around the sphere.
    degrees
        k, shape (degrees,).
    """
    from scipy.special import gammaln

    a, k = order, np.asarray(degrees, dtype=np.float64)
    alive = (k > a) & ((k - a) % 2 == 1)
    half = np.where(alive, (k - a) / 2, 1.0)
    logs = gammaln(p / 2) - (a + 1) * math.log(2) - math.log(math.pi) - log_rising(half, p / 2 + a)
    logs = np.where(alive, logs, -np.inf)
    signs = np.where(alive, 1.0 - 2.0 * (((k - 1 - a) // 2) % 2), 0.0)
    first = {(0, 0): -math.log(2.0), (1, 1): -math.log(2.0 * p)}
    first[1, 0] = gammaln(p / 2) - math.log(2 * math.sqrt(math.pi)) - gammaln((p + 1) / 2)
    for (which, degree), value in first.items():
        if which == a:
            logs[k == degree], signs[k == degree] = value, 1.0
    return logs, signs


def _arc_cosine(order: int, p: int, degrees: NDArray[np.int64]) -> Array:
    """Of the kernel of order 0 ``2 lambda_{0,k}^2``, of order 1 ``2 p lambda_{1,k}^2``."""
    logs, _ = log_activation_coefficients(order, p, degrees)
    return math.log(2.0 * (p if order else 1)) + 2.0 * logs


def _tangent(p: int, degrees: NDArray[np.int64]) -> Array:
    """Of ``t kappa_0(t) + kappa_1(t)``: the recurrence of ``t P_k`` takes the first part to its neighbours' degrees."""
    k = degrees.astype(np.float64)
    total = np.maximum(2 * k + p - 2, 1.0)
    with np.errstate(divide="ignore"):
        below = np.where(k > 0, np.log(k / total), -np.inf) + _arc_cosine(0, p, np.maximum(degrees - 1, 0))
        share = np.where(k > 0, np.log(np.maximum(k + p - 2, 1.0) / total), 0.0)  # all of it where k = 0, also at p = 2
    above = share + _arc_cosine(0, p, degrees + 1)
    return np.logaddexp(np.logaddexp(below, above), _arc_cosine(1, p, degrees))


def log_closed_form(kernel: SphereKernel, p: int, degrees: NDArray[np.int64]) -> Array | None:
    """Logarithm of mu_k of one arc-cosine kernel, or of the tangent kernel of that of order 1; otherwise ``None``.

    Parameters
    ----------
    kernel
        The kernel.
    p
        Dimension of the space around the sphere.
    degrees
        k, shape (degrees,), up to 1e9.
    """
    layer = kernel.layers[0]
    if len(kernel.layers) > 1 or not isinstance(layer, ArcCosine):
        return None
    return _arc_cosine(layer.order, p, degrees) if kernel.kind == "ckn" else _tangent(p, degrees)


# --- Taylor series


def log_taylor(layer: DotProductKernel) -> tuple[Callable[[NDArray[np.int64]], Array], float] | None:
    """``j -> log b_j`` for an array of orders, and the last order, for a kernel whose coefficients fall fast.

    The last order is infinite where there is none. ``None`` if the coefficients are not known, or fall as a power of j.
    """
    series = kernel_series(layer)
    if series.degree is None:
        return (lambda j: series.logs(int(j.max()) + 1)[j], math.inf) if is_smooth(layer) else None
    degree = series.degree
    table = np.append(series.logs(degree + 1), -np.inf)
    if not abs(np.exp(table).sum() - 1.0) < 1e-9:
        return None
    return lambda j: table[np.minimum(j, degree + 1)], float(degree)


def log_series(kernel: SphereKernel, p: int, degrees: NDArray[np.int64]) -> tuple[Array, Array] | None:
    """Logarithms of ``mu_k = sum_j b_j a_k(t^j)``, a_k of powers, and of its error; ``None`` if `log_taylor` is.

    For the exponential kernel the sum is that of the modified Bessel function,
    ``mu_k = e^-alpha Gamma(p/2) (2/alpha)^(p/2-1) I_{k+p/2-1}(alpha)``.

    Parameters
    ----------
    kernel
        One layer; its tangent kernel has the coefficients (j + 1) b_j.
    p
        Dimension of the space around the sphere.
    degrees
        k, shape (degrees,).

    Raises
    ------
    ValueError
        If there are more than 20 million terms in all.
    """
    from scipy.special import gammaln

    known = log_taylor(kernel.layers[0]) if len(kernel.layers) == 1 else None
    if known is None:
        return None
    log_b, last = known
    k = degrees[:, None]
    total, largest = np.full(len(degrees), -np.inf), np.full(len(degrees), -np.inf)
    top = degrees.copy()
    terms_so_far, block = 0, _BLOCK
    while True:
        j = k + 2 * np.arange(terms_so_far, terms_so_far + block)
        terms = log_b(j) + log_power_coefficients(p, j, k)
        if kernel.kind == "ntk":
            terms = terms + np.log1p(j)
        total = np.logaddexp(total, np.logaddexp.reduce(terms, axis=1))
        top = np.where(terms.max(axis=1) > largest, j[np.arange(len(k)), terms.argmax(axis=1)], top)
        largest = np.maximum(largest, terms.max(axis=1))
        # the terms rise to one top and fall from there: a block that ends low has nothing behind it
        ended = (terms[:, -1] < largest - 45.0) | (largest == -np.inf)  # or a parity without coefficients
        if (j[:, -1] >= last).all() or (math.isinf(last) and ended.all()):
            # the rounding errors of log Gamma at the order that counts most
            return total, total + np.log(1e-12 + 8 * np.finfo(np.float64).eps * gammaln(top + p))
        terms_so_far, block = terms_so_far + block, min(2 * block, 2**22 // len(degrees) + 1)
        if terms_so_far * len(degrees) > _MOST_TERMS:
            raise ValueError(
                f"kernel: the series of {kernel} for {len(degrees)} degrees needs more than {_MOST_TERMS:,} terms; use "
                "fewer degrees, a larger sigma, or method='quadrature'"
            )

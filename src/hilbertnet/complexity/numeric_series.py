"""Taylor coefficients of stacks of dot-product kernels, and their Mercer eigenvalues as sums of positive terms.

In high dimension mu_k is far below the rounding errors of any integral against P_k: for p = 50 from degree 15 on. But
kernels have b_j >= 0, and ``mu_k = sum_j b_j a_k(t^j)`` adds positive terms only, so that mu_k is as precise as the
b_j that matter. These come from the values on a circle inside the unit disc (Cauchy's formula and an FFT); beyond the
last of them, b_j follows the power law that the kernel's singularity at t = 1 gives it.

References: J. Lyness and G. Sande, "Algorithm 413: evaluation of normalized Taylor coefficients of an analytic
function", Communications of the ACM, 1971; P. Flajolet and A. Odlyzko, "Singularity analysis of generating functions",
SIAM Journal on Discrete Mathematics, 1990.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.complexity.harmonics import log_power_coefficients
from hilbertnet.complexity.sphere_kernel import SphereKernel

__all__ = ["log_numeric_series", "numeric_taylor"]

Array = NDArray[np.float64]

_POINTS = 2**19  # on the circle
_ORDERS = _POINTS // 8  # of these, the coefficients that are kept
_ALIAS = 1e-10  # r^points, how much of b_{j + points} is added to b_j
_EPS = float(np.finfo(np.float64).eps)
_GAMMA = 1e-10  # relative error of the ratios of Gamma functions at 65,536


@lru_cache(maxsize=4)
def numeric_taylor(kernel: SphereKernel) -> tuple[Array, Array]:
    """The coefficients b_j, j < 65,536, and estimates of their absolute errors.

    Parameters
    ----------
    kernel
        A stack of arc-cosine, exponential, polynomial kernels and their like, analytic in the unit disc.
    """
    radius = _ALIAS ** (1 / _POINTS)
    angles = np.arange(_POINTS // 2 + 1) * (2 * math.pi / _POINTS)
    values = kernel.complex_value(torch.from_numpy(radius * np.exp(1j * angles))).numpy()
    growth = radius ** -np.arange(_ORDERS, dtype=np.float64)
    b = np.fft.irfft(values.conj(), _POINTS)[:_ORDERS] * growth
    # rounding errors of the points are independent, and the FFT averages them
    noise = 80 * _EPS * math.sqrt(float(np.mean(np.abs(values) ** 2)) / _POINTS) * growth
    return np.maximum(b, 0.0), noise + _ALIAS * kernel.at_one * _POINTS**-1.5 + 4 * _EPS * np.abs(b)


def log_numeric_series(kernel: SphereKernel, p: int, degrees: NDArray[np.int64]) -> tuple[Array, Array] | None:
    """Logarithms of mu_k and of its absolute error; ``None`` for kernels whose values in the disc are not known.

    Parameters
    ----------
    kernel
        The kernel.
    p
        Dimension of the space around the sphere.
    degrees
        k, shape (degrees,).
    """
    from scipy.special import gammaln

    if not kernel.analytic:
        return None
    b, noise = numeric_taylor(kernel)
    orders = np.arange(_ORDERS)
    # the three factors of `harmonics.log_power_coefficients`, from tables
    top = gammaln(p / 2) + gammaln(orders + 1.0) - orders * math.log(2)
    middle = gammaln(np.arange(_ORDERS // 2 + 1) + 1.0)
    bottom = gammaln((np.arange(2 * _ORDERS) + p) / 2)
    logs, errors = np.full(len(degrees), -np.inf), np.full(len(degrees), np.inf)
    for i, k in enumerate(degrees.tolist()):
        if k >= _ORDERS // 2:  # nothing of the series is left
            break
        j = orders[k::2]
        weights = top[j] - middle[(j - k) // 2] - bottom[j + k]
        largest = float(weights.max())
        scaled = np.exp(weights - largest)
        tail, tail_error = _tail(kernel, p, k, largest)
        total = float(scaled @ b[k::2]) + tail
        error = float(scaled @ noise[k::2]) + tail_error + _GAMMA * total
        logs[i] = largest + (math.log(total) if total > 0 else -math.inf)
        errors[i] = largest + math.log(error)
    return logs, errors


def _tail(kernel: SphereKernel, p: int, k: int, largest: float) -> tuple[float, float]:
    """``sum_{j >= 65,536} b_j a_k(t^j) exp(-largest)``, j of the parity of k, from a fit of b_j, and its error.

    A sum over every second j of a function that changes on the scale of j is half its integral, here over ``s = 1/j``.
    """
    nu = kernel.singularity
    if nu is None or math.isinf(nu):
        return 0.0, 0.0
    nodes, weights = np.polynomial.legendre.leggauss(48)
    start = _ORDERS - 1.0 + k % 2
    fraction = (nodes + 1) / 2
    j = start / fraction
    jumps = k + 2 * np.round((j - k) / 2)  # `log_power_coefficients` knows whole numbers of one parity
    with np.errstate(under="ignore"):
        factors = np.exp(log_power_coefficients(p, jumps, np.array(float(k))) - largest)
    mass = weights / 2 * start / fraction**2 / 2 * factors
    late, early = (_power_law(kernel, nu, k % 2, last) for last in (_ORDERS, _ORDERS // 2))
    found = [float(mass @ (j ** -(nu + 1.0) * (c + d / j))) for c, d in (late, early)]
    return max(found[0], 0.0), abs(found[0] - found[1]) + 1e-4 * abs(found[0])


@lru_cache(maxsize=32)
def _power_law(kernel: SphereKernel, nu: float, parity: int, last: int) -> tuple[float, float]:
    """The c and d of ``b_j ~ j^-(nu + 1) (c + d / j)``, fitted to the upper half of a parity's orders below `last`."""
    b, _ = numeric_taylor(kernel)
    j = np.arange(last // 2 + parity, last, 2, dtype=np.float64)
    scaled = b[j.astype(int)] * j ** (nu + 1.0)
    design = np.stack([np.ones_like(j), last / j], axis=1)
    c, d = np.linalg.lstsq(design, scaled, rcond=None)[0]
    return float(c), float(d) * last

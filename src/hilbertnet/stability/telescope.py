r"""The telescoping sum behind the stability theorems, for numbers that bound the operators' norms.

Write B_k = P_k A_{k-1}, z_k = B_k M_{k-1} z_{k-1} for the patches of layer k, and let T_k be linear maps on the
positions of layer k that commute with M_k, T_0 = L_tau. Then z_k of the deformed signal is compared with T_k z_k of the
signal, layer by layer:

.. math:: \delta_k = \|z_k(L_\tau x) - T_k z_k(x)\| \le \|B_k\| \rho_{k-1} \delta_{k-1} + e_k \|z_{k-1}(x)\|,
   \qquad e_k = \|B_k T_{k-1} - T_k B_k\|,

since M_k is rho_k-Lipschitz, commutes with T_k and preserves norms; at the end ``||Phi(L_tau x) - Phi(x)|| <= ||A_n||
rho_n delta_n + ||A_n T_n - A_n|| ||z_n(x)||``. In the thesis T_k = L_tau for all k (chapter 2); any others that
commute with M_k do as well.

The tangent kernel's map carries a second signal y_k, with ``M(x, y) = (phi_0(x) (x) y, phi_1(x))`` point by point,
where ``<phi_0(x), phi_0(x')> = kappa'(cos)``. It is stable in the same way except for the jump of phi_0,

.. math:: \|(\varphi_0(x) - \varphi_0(x')) \otimes y\| \le \sqrt{b \kappa''(1)} \, \|x - x'\|
   \quad \text{or, for ReLU,} \quad \sqrt{b \min(\|x\|, \|x'\|) \, \|x - x'\|},

where y is the one that belongs to the shorter of x and x', and ``|y(u)|^2 <= b |x(u)|^2``. With b_1 = 1, b_{k+1} = 1 +
kappa_k'(1) b_k, that holds at every position: the tangent kernel T and the kernel K of a layer satisfy T <= b K on all
pairs of positions, because ``c kappa'(c) <= kappa'(1) kappa(c)``, and pooling weights are not negative.

References: A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, chapter 2; A. Bietti
and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, lemma 11 and proposition 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hilbertnet.architecture import ArcCosine, Architecture, DotProductKernel, Dual

__all__ = ["Step", "check_tangent", "ckn_sum", "curvature", "ntk_sum", "size_factor"]


@dataclass(frozen=True)
class Step:
    """What the sum needs of one layer.

    Parameters
    ----------
    norm
        ``||B_k||``.
    error
        ``e_k = ||B_k T_{k-1} - T_k B_k||``.
    stretch
        ``||T_k||``, or the norm of L_tau, whichever is smaller; for tangent kernels only.
    """

    norm: float
    error: float
    stretch: float = 1.0


def ckn_sum(kernels: Sequence[DotProductKernel], steps: Sequence[Step], pool: float, last: float) -> float:
    """The bound of ``||Phi(L_tau x) - Phi(x)|| / ||x||`` for a convolutional kernel network.

    Parameters
    ----------
    kernels
        Those of layers 1 ... n.
    steps
        Norms of layers 1 ... n.
    pool
        ``||A_n||``.
    last
        ``||A_n T_n - A_n||``.
    """
    delta, size, rho = 0.0, 1.0, 1.0
    for kernel, step in zip(kernels, steps, strict=True):
        delta = _scaled(step.norm * rho, delta) + step.error * size
        size *= step.norm
        rho = kernel.lipschitz
    return pool * _scaled(rho, delta) + last * size


def ntk_sum(kernels: Sequence[DotProductKernel], steps: Sequence[Step], pool: float, last: float) -> float:
    """The same for the map of the tangent kernel; parameters as for `ckn_sum`."""
    x = y = 1.0  # sizes of the two signals, and how far they move
    moved_x = moved_y = 0.0
    ratio = 1.0
    for number, step in enumerate(steps):
        if number == 0:
            x = y = step.norm
            moved_x = moved_y = step.error
        else:
            before = kernels[number - 1]
            size, moved = _through(before, (x, y), (moved_x, moved_y), ratio, steps[number - 1].stretch)
            moved_x = _scaled(step.norm * before.lipschitz, moved_x) + step.error * x
            moved_y = _scaled(step.norm, moved) + step.error * size
            x, y = step.norm * x, step.norm * size
            ratio = 1.0 + before.slope * ratio
    size, moved = _through(kernels[-1], (x, y), (moved_x, moved_y), ratio, steps[-1].stretch)
    return _scaled(pool, moved) + last * size


def _through(
    kernel: DotProductKernel, sizes: tuple[float, float], moved: tuple[float, float], ratio: float, stretch: float
) -> tuple[float, float]:
    """Size of M(x, y), and how far it moves."""
    (x, y), (moved_x, moved_y) = sizes, moved
    size = math.sqrt(kernel.slope * y * y + x * x)
    smooth = math.sqrt(kernel.slope * moved_y**2 + _scaled(kernel.lipschitz, moved_x) ** 2)
    bend = curvature(kernel)
    if math.isfinite(bend):
        return size, smooth + math.sqrt(ratio * bend) * moved_x
    # ReLU: ||phi_0(x) - phi_0(x')||^2 <= ||x - x'|| / min(||x||, ||x'||)
    return size, smooth + math.sqrt(ratio * stretch * x * moved_x)


def _scaled(factor: float, length: float) -> float:
    """The product, 0 where nothing has moved, even if the factor is infinite."""
    return factor * length if length else 0.0


def size_factor(kernels: Sequence[DotProductKernel], kind: str) -> float:
    """The bound of ``||Phi(x)|| / ||x||`` for operators of norm 1: 1, and ``sqrt(n + 1)`` for a ReLU tangent kernel."""
    square = 1.0
    if kind == "ntk":
        for kernel in kernels:
            square = 1.0 + kernel.slope * square
    return math.sqrt(square)


def curvature(kernel: DotProductKernel) -> float:
    """``kappa''(1)``, infinite for the arc-cosine kernels.

    Raises
    ------
    ValueError
        For dual kernels, whose tables do not know it.
    """
    if isinstance(kernel, ArcCosine):
        return math.inf
    if isinstance(kernel, Dual):
        raise ValueError(f"kind: the tangent kernel's bound needs kappa''(1), which {kernel} does not know")
    with torch.enable_grad():
        one = torch.ones((), dtype=torch.float64, requires_grad=True)
        slope = kernel.derivative(one)
        return float(torch.autograd.grad(slope, one)[0]) if slope.requires_grad else 0.0


def check_tangent(arch: Architecture) -> None:
    """Raise where the tangent kernel's sum does not hold (see the module).

    Raises
    ------
    ValueError
        If a kappa'(1) is infinite, a kappa''(1) is not known, or the kernels take negative values such that T <= b K
        may fail.
    """
    u = torch.linspace(-1.0, 1.0, 2001, dtype=torch.float64)
    positive = False  # whether the cosines of this layer are at least 0, whatever the signal
    for number, layer in enumerate(arch.layers, start=1):
        kernel = layer.kernel
        if math.isinf(kernel.slope):
            raise ValueError(
                f"kind: the tangent kernel needs a finite kappa'(1), which {kernel} of layer {number} has not"
            )
        curvature(kernel)
        value, slope = kernel.value(u), kernel.derivative(u)
        small = bool((u * slope <= kernel.slope * value + 1e-12).all())
        rising = number == 1 or bool((slope >= -1e-12).all())
        if not positive and not (small and rising):
            raise ValueError(
                f"kind: the tangent kernel's bound needs c kappa'(c) <= kappa'(1) kappa(c) for negative cosines, which "
                f"{kernel} of layer {number} does not satisfy"
            )
        positive = positive or bool((value >= 0).all())

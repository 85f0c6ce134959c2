"""Dot-product kernels and stacks of them as functions of one cosine: what a kernel is on the unit sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.architecture import (
    ArcCosine,
    Architecture,
    DotProductKernel,
    Exponential,
    GlobalPool,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.complexity.series import kernel_series
from hilbertnet.text import nearest

__all__ = ["KernelLike", "SphereKernel", "is_smooth", "sphere_kernel"]

Array = NDArray[np.float64]
KernelLike: TypeAlias = DotProductKernel | Architecture | str | Sequence[DotProductKernel]


@dataclass(frozen=True)
class SphereKernel:
    """kappa_L of L layers, fully connected, on the unit sphere; made by `sphere_kernel`.

    ``kind="ckn"`` is the composition ``kappa_L(... kappa_1(t))``, the kernel of random features where they are
    arc-cosine kernels. ``kind="ntk"`` is the tangent kernel: ``T_0 = t``, ``T_l = kappa_l'(c) T_{l-1} + kappa_l(c)``
    with c the composition of the layers before; its value at t = 1 is L + 1 where all kappa'(1) are 1, as for ReLU.

    Reference: A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, section 2.
    """

    layers: tuple[DotProductKernel, ...]
    kind: str = "ckn"

    def __call__(self, t: Array) -> Array:
        """The kernel at an array of cosines in [-1, 1]."""
        return self._recursion(torch.from_numpy(np.array(t, dtype=np.float64)), clip=True).numpy()

    def complex_value(self, u: Tensor) -> Tensor:
        """The kernel's analytic continuation at complex numbers inside the unit disc, where `analytic`."""
        return self._recursion(u, clip=False)

    def _recursion(self, cosine: Tensor, clip: bool) -> Tensor:
        tangent = mapped = cosine
        for layer in self.layers:
            mapped = layer.value(cosine)
            if self.kind == "ntk":
                tangent = layer.derivative(cosine) * tangent + mapped
            cosine = mapped.clamp(-1.0, 1.0) if clip else mapped
        return tangent if self.kind == "ntk" else mapped

    @property
    def analytic(self) -> bool:
        """Whether all layers are of this library and have formulas that hold in the unit disc too."""
        return all(type(layer) in _KNOWN for layer in self.layers)

    @property
    def at_one(self) -> float:
        """The kernel of a point with itself."""
        if self.kind == "ckn":
            return 1.0
        tangent = 1.0
        for layer in self.layers:
            tangent = layer.slope * tangent + 1.0
        return tangent

    @property
    def singularity(self) -> float | None:
        """The least nu with a term ``(1 - t)^nu``, nu no whole number, in the kernel near t = 1; infinite if smooth.

        ``None`` where a layer's is not known (dual kernels, kernels of your own). Then ``mu_k`` goes to 0 as ``k^-(p +
        2 nu - 1)``: A. Bietti and F. Bach, "Deep equals shallow for ReLU networks in kernel regimes", ICLR 2021,
        theorem 1.
        """
        if not all(isinstance(layer, ArcCosine) or is_smooth(layer) for layer in self.layers):
            return None
        orders = [layer.order for layer in self.layers if isinstance(layer, ArcCosine)]
        if not orders:
            return math.inf
        if 0 in orders:  # each layer of order 0 takes the square root of the distance to 1
            return 0.5 ** orders.count(0)
        return 1.5 if self.kind == "ckn" else 0.5

    def __str__(self) -> str:
        return " | ".join(map(str, self.layers)) + f" ({self.kind})"


def is_smooth(layer: DotProductKernel) -> bool:
    """Whether the Taylor coefficients are known to fall faster than every power: kappa is smooth at 1 and -1."""
    series = kernel_series(layer)
    fast = series.growth is not None and (series.growth.order > 0 or series.growth.scale < 1)
    return fast or series.degree is not None


_KNOWN = {ArcCosine, Exponential, InversePolynomial, Linear, Polynomial, Power, Vovk}


def sphere_kernel(kernel: KernelLike, kind: str = "ckn") -> SphereKernel:
    """The function of one cosine that a kernel, or a stack of layers, is on the unit sphere.

    Parameters
    ----------
    kernel
        A dot-product kernel, several of them from the input on, or an architecture of patches of one pixel without
        pooling (or its text form, ``"1 arccos1 - | 1 arccos1 -"``), which is a fully connected one.
    kind
        ``"ckn"`` for the kernel itself, ``"ntk"`` for its tangent kernel.

    Raises
    ------
    ValueError
        If it is none of these, or a tangent kernel is asked for where kappa'(1) is infinite.
    """
    layers = _layers(kernel)
    if kind not in ("ckn", "ntk"):
        raise ValueError(f"kind: expected 'ckn' or 'ntk', got {kind!r}{nearest(str(kind), ['ckn', 'ntk'])}")
    for number, layer in enumerate(layers, start=1):
        if kind == "ntk" and not math.isfinite(layer.slope):
            raise ValueError(
                f"kind: the tangent kernel needs a finite kappa'(1), which {layer} of layer {number} has not"
            )
    return SphereKernel(layers, kind)


def _layers(kernel: object) -> tuple[DotProductKernel, ...]:
    if isinstance(kernel, str):
        kernel = Architecture.parse(kernel)
    if isinstance(kernel, Architecture):
        for number, layer in enumerate(kernel.layers, start=1):
            if layer.patch != 1 or not (layer.pool is None or isinstance(layer.pool, GlobalPool)):
                raise ValueError(
                    "kernel: expected fully connected layers, patches of one pixel and no pooling, such as "
                    f"'1 arccos1 -', got {str(layer)!r} as layer {number}"
                )
        return tuple(layer.kernel for layer in kernel.layers)
    layers = (kernel,) if isinstance(kernel, DotProductKernel) else kernel
    if not isinstance(layers, Sequence) or not layers or not all(isinstance(x, DotProductKernel) for x in layers):
        raise ValueError(
            "kernel: expected a dot-product kernel such as ArcCosine(1), a sequence of them, or an architecture such "
            f"as '1 arccos1 -', got {kernel!r}"
        )
    return tuple(layers)

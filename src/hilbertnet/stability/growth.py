"""How the theorem's two constants behave on the grid: the commutator's with the patch, the translation's with sigma.

Both are measured on a torus without strides, where positions of input and output are the same, so that ``[P A, L_tau]``
and ``L_tau A - A`` are what the theorem means by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hilbertnet.architecture import Architecture, GaussianPool, Layer, Linear
from hilbertnet.complexity.operator_norms import OperatorNorm
from hilbertnet.deformations import check_field, gradient_norm, scale_field
from hilbertnet.signals import is_count
from hilbertnet.stability.constants import commutator_constant, gradient_mass
from hilbertnet.stability.operators import (
    commutator,
    deformation,
    difference,
    operator_norm,
    patches,
    pooling,
)
from hilbertnet.text import columns

__all__ = ["Growth", "commutator_growth", "translation_growth", "wave"]

_TORUS = Architecture([Layer(1, Linear())], boundary="circular")


@dataclass(frozen=True)
class Growth:
    """Norms of operators against a scale; ``print`` it.

    Parameters
    ----------
    title
        What was measured.
    names
        Of the first column, of the scale, of the norms, and of the constants beside them.
    sizes
        The first column: patch or pooling sizes, in pixels.
    scale
        The scale of each.
    norms
        The norms.
    divisor
        What they are divided by: ``sup||grad tau||`` or ``|c|``.
    known
        What is known to bound the quotients, on R^d.
    order
        The exponent that the theorem states, and its symbol.
    """

    title: str
    names: tuple[str, str, str, str]
    sizes: tuple[int, ...]
    scale: tuple[float, ...]
    norms: tuple[OperatorNorm, ...]
    divisor: float
    known: tuple[float, ...]
    order: tuple[float, str]

    @property
    def quotients(self) -> tuple[float, ...]:
        """The norms divided by `divisor`."""
        return tuple(norm.value / self.divisor for norm in self.norms)

    @property
    def exponent(self) -> float:
        """Slope of the logarithm of the quotients against that of the scale, by least squares."""
        return float(np.polyfit(np.log(self.scale), np.log(self.quotients), 1)[0])

    @property
    def last_exponent(self) -> float:
        """The same slope between the two largest sizes, where constant terms weigh least."""
        two = sorted(zip(self.scale, self.quotients, strict=True))[-2:]
        (a, low), (b, high) = two
        return math.log(high / low) / math.log(b / a)

    def __str__(self) -> str:
        values = zip(self.sizes, self.scale, self.quotients, self.known, strict=True)
        rows = [[str(size), *(f"{value:.4g}" for value in rest)] for size, *rest in values]
        text = self.title + "\n" + columns([list(self.names), *rows])
        text += f"\nfitted exponent {self.exponent:.2f}, between the two largest {self.last_exponent:.2f}; "
        return text + f"in the theorem {self.order[1]}, exponent {self.order[0]:g}"


def wave(space: tuple[int, ...], gradient: float) -> Tensor:
    """A smooth field on the torus that zooms in and out: ``tau_k`` a sine of u_k, one period, shape (1, axes, *space).

    Parameters
    ----------
    space
        Spatial shape.
    gradient
        Wanted ``sup||grad tau||``.
    """
    parts = []
    for axis, length in enumerate(space):
        line = torch.sin(2 * math.pi * torch.arange(length, dtype=torch.float64) / length)
        shape = [-1 if a == axis else 1 for a in range(len(space))]
        parts.append(line.view(shape).expand(*space))
    return scale_field(torch.stack(parts).unsqueeze(0), gradient=gradient, periodic=True)


def commutator_growth(
    sizes: Sequence[int] = (3, 5, 7, 9),
    *,
    pool: int = 2,
    space: tuple[int, ...] = (32, 32),
    gradient: float = 0.1,
    field: Tensor | None = None,
    generator: int | torch.Generator = 0,
) -> Growth:
    """``||[P A, L_tau]|| / sup||grad tau||`` for patches of growing size, against beta.

    Parameters
    ----------
    sizes
        Sides of the patches, in pixels, at least two.
    pool
        Size of the Gaussian pooling A, whose sigma is ``pool / sqrt(2)`` pixels; beta is the patch radius over it.
    space
        Spatial shape of the torus.
    gradient
        ``sup||grad tau||`` of the field `wave`.
    field
        Another field (1, axes, *space) instead.
    generator
        Of `hilbertnet.stability.operators.operator_norm`.

    Returns
    -------
    Growth
        Its exponent is to be read beside the theorem's ``C_beta = O(beta^(d+1))``, an upper bound.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is not an odd number of at least 3.
    """
    _check_sizes("sizes", sizes)
    if any(size < 3 or size % 2 == 0 for size in sizes):  # an even patch is not centred on its position
        raise ValueError(f"sizes: expected odd numbers of at least 3, got {list(sizes)}")
    field = wave(space, gradient) if field is None else check_field(field)
    space = tuple(field.shape[2:])
    axes, g = len(space), float(gradient_norm(field, periodic=True).max())
    if g == 0:
        raise ValueError("field: expected one whose gradient is not 0, got a translation")
    moved = deformation(field, boundary="circular")
    smooth = pooling(GaussianPool(1, pool), _TORUS, space)
    betas = [math.sqrt(axes) * (size - 1) / 2 / (pool / math.sqrt(2.0)) for size in sizes]
    norms = [
        operator_norm(commutator(patches(size, _TORUS, space) @ smooth, moved), generator=generator) for size in sizes
    ]
    known = [commutator_constant(beta, axes, g) if g < 1 else math.inf for beta in betas]
    title = f"commutator [P A, L_tau] on a torus of {_shape(space)} pixels, sigma = {pool / math.sqrt(2):.3g} pixels"
    names = ("patch (px)", "beta", "norm / sup||grad tau||", "known bound on R^d")
    order = (axes + 1.0, f"O(beta^{axes + 1})")
    return Growth(title, names, tuple(sizes), tuple(betas), tuple(norms), g, tuple(known), order)


def translation_growth(
    sizes: Sequence[int] = (2, 3, 4, 6, 8),
    *,
    space: tuple[int, ...] = (48, 48),
    shift: Sequence[int] | None = None,
    generator: int | torch.Generator = 0,
) -> Growth:
    """``||L_c A - A|| / |c|`` for Gaussian poolings A of growing size, against sigma.

    Parameters
    ----------
    sizes
        Sizes of the Gaussian poolings, at least two; sigma is ``size / sqrt(2)`` pixels.
    space
        Spatial shape of the torus.
    shift
        c, whole pixels along each axis; default one pixel along the first.
    generator
        Of `hilbertnet.stability.operators.operator_norm`.

    Returns
    -------
    Growth
        Its exponent is to be read beside the -1 of ``C / sigma``. (For Gaussians on R^d the quotient times sigma
        tends to ``exp(-1/2)`` as |c| / sigma falls: the largest value of ``w exp(-w^2/2)``. Those here are cut at
        ``sqrt(2) sigma``, and thus narrower than their sigma.)

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or the shift is zero or has not as many entries as there are axes.
    """
    _check_sizes("sizes", sizes)
    space = tuple(space)
    shift = [1, *[0] * (len(space) - 1)] if shift is None else list(shift)
    if len(shift) != len(space) or not any(shift):
        raise ValueError(f"shift: expected {len(space)} whole numbers, not all 0, got {shift}")
    field = torch.tensor(shift, dtype=torch.float64).view(1, -1, *[1] * len(space)).expand(1, len(space), *space)
    moved = deformation(field, boundary="circular")
    norms = []
    for size in sizes:
        smooth = pooling(GaussianPool(1, size), _TORUS, space)
        norms.append(operator_norm(difference(smooth, moved, inside=False), generator=generator))
    sigmas = [size / math.sqrt(2.0) for size in sizes]
    known = [gradient_mass(len(space)) / sigma for sigma in sigmas]
    title = f"translation term L_c A - A on a torus of {_shape(space)} pixels, c = {tuple(shift)}"
    names = ("pooling (px)", "sigma (px)", "norm / |c| (1/px)", "known bound on R^d")
    length = math.hypot(*shift)
    return Growth(title, names, tuple(sizes), tuple(sigmas), tuple(norms), length, tuple(known), (-1.0, "C/sigma"))


def _check_sizes(name: str, sizes: Sequence[int]) -> None:
    if len(set(sizes)) < 2 or not all(is_count(size) for size in sizes):
        raise ValueError(f"{name}: expected at least two different whole numbers of pixels, got {list(sizes)}")


def _shape(space: tuple[int, ...]) -> str:
    return " x ".join(map(str, space))

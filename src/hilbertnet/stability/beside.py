"""The theorems' bounds beside what was measured: for the fields that moved a representation farthest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.deformations import displacement_norm, gradient_norm
from hilbertnet.kernels import ConvKernel
from hilbertnet.progress import Progress
from hilbertnet.signals import as_signals
from hilbertnet.stability.bound import stability_bound
from hilbertnet.stability.grid_bound import grid_bound
from hilbertnet.stability.measure import FieldDeformation, Measurement, draw_seeds
from hilbertnet.text import columns

__all__ = ["BoundsBeside", "bounds_beside"]


@dataclass(frozen=True)
class BoundsBeside:
    """``||Phi(L_tau x) - Phi(x)|| / ||x||`` where it was largest, and its bounds, by size; ``print`` it.

    Parameters
    ----------
    kernel, unit
        Texts.
    sizes, gradient, displacement
        Of the deformation; ``sup||grad tau||`` and ``sup|tau|`` of the field that moved its image farthest.
    measured
        How far, in units of ``||x||``.
    grid
        The bound computed on this grid for that field.
    theorem
        The theorem's bound on R^d; infinite where it does not hold.
    """

    kernel: str
    unit: str
    sizes: tuple[float, ...]
    gradient: NDArray[np.float64]
    displacement: NDArray[np.float64]
    measured: NDArray[np.float64]
    grid: NDArray[np.float64]
    theorem: NDArray[np.float64]

    def __str__(self) -> str:
        head = [f"size ({self.unit})", "sup||grad tau||", "sup|tau| (px)", "measured", "bound on the grid", "theorem"]
        parts = (self.gradient, self.displacement, self.measured, self.grid, self.theorem)
        rows = [[f"{size:g}", *(f"{part[i]:.4g}" for part in parts)] for i, size in enumerate(self.sizes)]
        return f"{self.kernel}: the worst draw of every size, in units of ||x||\n" + columns([head, *rows])


@torch.no_grad()
def bounds_beside(
    kernel: ConvKernel,
    images: Any,
    deformation: FieldDeformation,
    found: Measurement,
    *,
    generator: torch.Generator | int = 0,
    progress: Progress = None,
) -> BoundsBeside:
    """The bounds for the worst draw of every size of a measurement.

    Parameters
    ----------
    kernel
        The exact kernel that was measured.
    images, deformation, generator
        As they were given to `hilbertnet.stability.measure`.
    found
        What that returned.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If the measurement is of other images or draws, or the tangent kernel of this architecture has no bound.
    """
    x, seeds = as_signals(images, "images"), draw_seeds(found.relative.shape[2], generator)
    if found.relative.shape[1] != len(x) or found.deformation != str(deformation):
        raise ValueError(
            f"found: expected a measurement of {len(x)} images under {deformation}, got one of "
            f"{found.relative.shape[1]} under {found.deformation}"
        )
    units = (kernel.norm(x).double() / x.double().flatten(1).norm(dim=1)).numpy(force=True)
    fields, measured = [], []
    for size, relative in zip(found.sizes, found.relative, strict=True):
        distances = relative * units[:, None]
        image, draw = np.unravel_index(distances.argmax(), distances.shape)
        rng = torch.Generator().manual_seed(seeds[draw])
        fields.append(deformation.family.field(size, len(x), x.shape[2:], generator=rng)[image])
        measured.append(float(distances.max()))
    tau = torch.stack(fields)
    how: dict[str, Any] = {"interpolation": deformation.interpolation, "boundary": deformation.boundary}
    grid = grid_bound(kernel.arch, tau, kind=kernel.kind, **how, progress=progress).value
    theorem = stability_bound(kernel.arch, tau, kind=kernel.kind).value
    norms = gradient_norm(tau).numpy(), displacement_norm(tau).numpy()
    name = f"{kernel.kind.upper()}, {kernel.arch}"
    return BoundsBeside(name, found.unit, found.sizes, *norms, np.array(measured), grid.numpy(), theorem.numpy())

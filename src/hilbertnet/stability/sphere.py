"""Points of the unit sphere moved by a distance: what a kernel map alone does to small changes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["OnSphere", "sphere_points"]


def sphere_points(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Uniform on the unit sphere, as signals of one position (count, dimension, 1), float64.

    Parameters
    ----------
    count
        How many.
    dimension
        Of the space around the sphere.
    generator
        For the draws.
    """
    x = torch.randn(count, dimension, 1, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


class OnSphere:
    """Moves points of the unit sphere along it, to the distance ``||z' - z||`` of a size up to 2.

    On signals of one position an architecture of one layer with patches of one pixel and no pooling is its kernel map
    phi: of the arc-cosine kernels, that of order 1 is 1-Lipschitz, and ``||phi(z') - phi(z)||`` of order 0 goes to 0 as
    the square root of the distance (A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS
    2019, section 4).
    """

    unit = "distance"

    def __call__(self, x: Tensor, size: float, generator: torch.Generator) -> Tensor:
        """Every point moved in a direction of its own.

        Raises
        ------
        ValueError
            If the signals are no points of the unit sphere, or the size is above 2.
        """
        norms = x.flatten(1).norm(dim=1)
        if x.ndim != 3 or x.shape[2] != 1 or x.shape[1] < 2 or (norms - 1).abs().max() > 1e-6:
            raise ValueError(
                "x: expected points of the unit sphere, shape (n, dimension, 1), a dimension of at least 2 and norm 1, "
                f"got shape {tuple(x.shape)} and norms from {float(norms.min()):g} to {float(norms.max()):g}"
            )
        if size > 2:
            raise ValueError(f"sizes: expected at most 2, the diameter of the unit sphere, got {size:g}")
        across = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        across = across - (across * x).sum(1, keepdim=True) * x
        across = across / across.norm(dim=1, keepdim=True)
        cosine = 1 - size**2 / 2
        return cosine * x + size * (1 - size**2 / 4) ** 0.5 * across

    def __str__(self) -> str:
        return "along the unit sphere"

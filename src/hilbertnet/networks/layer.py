"""One Nyström layer: x -> A psi(P x), with psi(z) = ||z|| kappa(Z'Z)^(-1/2) kappa(Z'z / ||z||) for unit filters Z.

psi(z) holds coordinates of the projection of phi(z) on the span of phi(Z), so its inner products are the kernel of
projections: exact on the filters, never more expansive than phi. Pooling commutes with the projection matrix and comes
first, where there are more positions.

References: C. Williams and M. Seeger, "Using the Nyström method to speed up kernel machines", NeurIPS 2000; J. Mairal,
"End-to-end kernel learning with supervised convolutional kernel networks", NeurIPS 2016, equation (6).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.architecture.homogeneous import homogeneous
from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.operators import (
    pad_for_patches,
    patch_norms,
    patch_scale,
    pool_features,
)
from hilbertnet.networks.inverse_root import PUBLISHED_EPSILON, Regularization, inverse_square_root

__all__ = ["CKNLayer"]


class CKNLayer(nn.Module):
    """A Nyström layer with its filters.

    Parameters
    ----------
    arch
        The architecture it belongs to, for its boundary and layout.
    layer
        Patch, kernel and pooling.
    in_channels
        Channels of the input.
    filters
        How many filters.
    axes
        Axes of space: 2 for images, 1 for signals.
    regularization, epsilon
        See `hilbertnet.networks.inverse_root.inverse_square_root`; the default epsilon is the published one.
    generator
        Of the random unit filters it starts with.

    Attributes
    ----------
    filters
        A parameter of shape (filters, in_channels, patch, patch), or (filters, in_channels, patch) for signals. They do
        not require a gradient until asked to. The layer sees their directions only, so any optimizer may move them.
    """

    def __init__(
        self,
        arch: Architecture,
        layer: Layer,
        in_channels: int,
        filters: int,
        *,
        axes: int = 2,
        regularization: Regularization = "root",
        epsilon: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if regularization not in PUBLISHED_EPSILON:
            raise ValueError(f"regularization: expected 'root' or 'eigenvalue', got {regularization!r}")
        epsilon = PUBLISHED_EPSILON[regularization] if epsilon is None else float(epsilon)
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon: expected 0 or more, got {epsilon!r}")
        self.arch, self.layer, self.axes = arch, layer, axes
        self.regularization, self.epsilon = regularization, epsilon
        shape = (filters, in_channels, *(layer.patch,) * axes)
        start = functional.normalize(torch.randn(filters, math.prod(shape[1:]), generator=generator))
        self.filters = nn.Parameter(start.reshape(shape), requires_grad=False)
        self._cache: tuple[Tensor, Any, Tensor] | None = None

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        count, channels = self.filters.shape[:2]
        return f"{channels} -> {count}, {self.layer}"

    @torch.no_grad()
    def set_filters_(self, filters: Float[Tensor, "filters entries"]) -> CKNLayer:
        """Take new filters, scaled to unit norm; their number, and that of their channels, may differ."""
        shape = (len(filters), -1, *self.filters.shape[2:])
        unit = functional.normalize(filters.to(self.filters)).reshape(shape)
        self.filters = nn.Parameter(unit.clone(), requires_grad=self.filters.requires_grad)
        return self

    def projection(self) -> Float[Tensor, "filters filters"]:
        """``kappa(Z'Z)^(-1/2)``, regularized, from eigenvalues in float64."""
        flat = functional.normalize(self.filters.flatten(1))
        flat = flat.double() if flat.device.type != "mps" else flat.cpu().double()
        gram = self.layer.kernel.value((flat @ flat.T).clamp(-1.0, 1.0))
        return inverse_square_root(gram, self.regularization, self.epsilon).to(self.filters)

    def _projection(self) -> Tensor:
        """The projection; in eval mode it is kept for as long as the filters are the same."""
        if self.training or torch.compiler.is_compiling() or (self.filters.requires_grad and torch.is_grad_enabled()):
            return self.projection()
        weight = self.filters
        key = (weight._version, weight.data_ptr(), weight.device, weight.dtype)
        if self._cache is None or self._cache[0] is not weight or self._cache[1] != key:
            with torch.inference_mode(False), torch.no_grad():  # kept for calls in other modes
                self._cache = weight, key, self.projection()
        return self._cache[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n filters *pooled"]:
        """The layer's maps.

        Parameters
        ----------
        x
            Shape (n, in_channels, *space).

        Returns
        -------
        Tensor
            Shape (n, filters, *pooled).
        """
        patch = self.layer.patch
        convolve = functional.conv2d if self.axes == 2 else functional.conv1d
        unit = functional.normalize(self.filters.flatten(1)).view_as(self.filters)
        weight = unit * patch_scale(patch, self.axes, self.arch)
        inner = convolve(pad_for_patches(x, patch, self.arch), weight)
        norms = patch_norms(x, patch, self.arch)
        mapped = homogeneous(self.layer.kernel, inner, norms, torch.ones((), dtype=x.dtype, device=x.device))
        pooled = pool_features(mapped, self.layer.pool, self.arch)
        return (self._projection() @ pooled.flatten(2)).unflatten(2, pooled.shape[2:])

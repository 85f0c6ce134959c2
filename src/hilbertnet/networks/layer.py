"""One Nyström layer: x -> A psi(P x), with psi(z) = ||z|| kappa(Z'Z)^(-1/2) kappa(Z'z / ||z||) for unit filters Z.

psi(z) holds coordinates of the projection of phi(z) on the span of phi(Z), so its inner products are the kernel of
projections: exact on the filters, never more expansive than phi. Pooling commutes with the projection matrix and comes
first, where there are more positions.

Signals (n, channels, length) of different lengths share a batch under a mask (n, length), true up to the end of each.
Maps are zero at patches past the end before pooling, and at pooled positions past the end after it.

References: C. Williams and M. Seeger, "Using the Nyström method to speed up kernel machines", NeurIPS 2000; J. Mairal,
"End-to-end kernel learning with supervised convolutional kernel networks", NeurIPS 2016, equation (6).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.architecture.homogeneous import homogeneous
from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.operators import (
    pad_for_patches,
    patch_length,
    patch_norms,
    patch_scale,
    pool_features,
    pooled_length,
    pooling_matrix,
)
from hilbertnet.architecture.pools import GlobalPool
from hilbertnet.networks.inverse_root import PUBLISHED_EPSILON, Regularization, inverse_square_root

__all__ = ["CKNLayer", "check_mask", "zero_past_end"]


def check_mask(mask: Any, x: Tensor) -> None:
    """Raise unless `mask` marks the positions of the signals `x`, each from the first to its end.

    While compiling, shape and dtype are checked but not the values, which are not known then.

    Parameters
    ----------
    mask
        Booleans, shape (n, length).
    x
        Signals, shape (n, channels, length).

    Raises
    ------
    ValueError
        If the mask has another shape or dtype, a row is all false, or one is true again after its end.
    """
    if x.ndim != 3:
        raise ValueError(f"mask: expected signals (n, channels, length) to mask, got shape {tuple(x.shape)}")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"mask: expected a tensor of dtype bool, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.ndim != 2 or mask.shape[0] != x.shape[0] or mask.shape[1] != x.shape[2]:
        raise ValueError(f"mask: expected shape ({x.shape[0]}, {x.shape[2]}), got {tuple(mask.shape)}")
    if torch.compiler.is_compiling():
        return
    wrong = ~mask[:, 0] | (mask[:, 1:] & ~mask[:, :-1]).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        got = "false at first" if mask[row].any() else "all false"
        got = "true again after its end" if mask[row, 0] else got
        raise ValueError(f"mask: expected rows that are true up to the end of the signal, got row {row}, {got}")


def zero_past_end(x: Float[Tensor, "n channels length"], mask: Bool[Tensor, "n length"]) -> Tensor:
    """`x` with zeros, and no gradient, where `mask` is false."""
    return torch.where(mask[:, None], x, 0.0)


def _up_to(lengths: Tensor, count: int) -> Bool[Tensor, "n count"]:
    return torch.arange(count, device=lengths.device) < lengths[:, None]


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

    def forward(
        self, x: Float[Tensor, "n channels *space"], mask: Bool[Tensor, "n length"] | None = None
    ) -> Float[Tensor, "n filters *pooled"]:
        """The layer's maps.

        Parameters
        ----------
        x
            Shape (n, in_channels, *space).
        mask
            For signals (n, in_channels, length): shape (n, length), true up to the end of each signal. What `x` holds
            past the end does not count.

        Returns
        -------
        Tensor
            Shape (n, filters, *pooled); zero where `output_mask` is false.

        Raises
        ------
        ValueError
            If the mask is not of this form, the boundary is circular, or a signal is too short for the layer.
        """
        if mask is not None:
            self._check_mask(mask, x)
            x = zero_past_end(x, mask)
        patch = self.layer.patch
        convolve = functional.conv2d if self.axes == 2 else functional.conv1d
        unit = functional.normalize(self.filters.flatten(1)).view_as(self.filters)
        weight = unit * patch_scale(patch, self.axes, self.arch)
        inner = convolve(pad_for_patches(x, patch, self.arch), weight)
        norms = patch_norms(x, patch, self.arch)
        mapped = homogeneous(self.layer.kernel, inner, norms, torch.ones((), dtype=x.dtype, device=x.device))
        if mask is None:
            pooled = pool_features(mapped, self.layer.pool, self.arch)
        else:
            pooled = self._pool_inside(mapped, self.patch_mask(mask))
        return (self._projection() @ pooled.flatten(2)).unflatten(2, pooled.shape[2:])

    # --- signals of different lengths

    def patch_mask(self, mask: Bool[Tensor, "n length"]) -> Bool[Tensor, "n patches"]:
        """Which patches are those of each signal alone, from the mask of the layer's input."""
        length = mask.shape[1]
        count = patch_length(length, self.layer.patch, self.arch)
        return _up_to(mask.sum(1) + (count - length), count)

    def output_mask(self, mask: Bool[Tensor, "n length"]) -> Bool[Tensor, "n pooled"]:
        """Which positions of the layer's maps belong to the signals.

        With boundary ``"zero"``, those whose centre lies inside the signal, but always the first; with ``"valid"``,
        those whose window does, which may be none. The centres are those of the padded length: with a stride above 1
        they may lie elsewhere than those of the signal alone, unless the padding is a multiple of the stride. In
        ``layout="ckn_kernel"``, whose centres do not depend on the length, they are those of the signal alone, but at
        least one.

        Parameters
        ----------
        mask
            Of the layer's input, shape (n, length).

        Returns
        -------
        Tensor
            Shape (n, pooled).
        """
        return self._pool_mask(self.patch_mask(mask))

    def _pool_mask(self, mask: Tensor) -> Tensor:
        pool, (_, length) = self.layer.pool, mask.shape
        if pool is None:
            return mask
        if isinstance(pool, GlobalPool):
            return mask.any(1, keepdim=True)
        if self.arch.boundary == "valid":
            weights = pooling_matrix(pool, length, self.arch, like=self.filters).abs()
            return (~mask).to(weights) @ weights.T == 0
        count, ends = pooled_length(length, pool, self.arch), mask.sum(1)
        if self.arch.layout == "ckn_kernel":
            kept = ends // pool.stride - pool.legacy_cut
        else:  # as many i as have first / 2 + stride i <= end - 1
            first = length - 1 - pool.stride * (count - 1)
            kept = (2 * ends - 2 - first) // (2 * pool.stride) + 1
        return _up_to(kept.clamp(min=1), count)

    def _pool_inside(self, mapped: Tensor, mask: Tensor) -> Tensor:
        """Pooling of the maps inside `mask`, zero at pooled positions past the end."""
        mapped = zero_past_end(mapped, mask)
        if isinstance(self.layer.pool, GlobalPool):
            return mapped.sum(2, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
        return zero_past_end(pool_features(mapped, self.layer.pool, self.arch), self._pool_mask(mask))

    def _check_mask(self, mask: Tensor, x: Tensor) -> None:
        check_mask(mask, x)
        if self.arch.boundary == "circular":
            raise ValueError("mask: expected a boundary 'zero' or 'valid', got 'circular', where signals have no end")
        if self.arch.boundary == "valid" and not torch.compiler.is_compiling():
            short = ~self.output_mask(mask)[:, 0]
            if short.any():
                row = int(short.nonzero()[0])
                length = int(mask[row].sum())
                raise ValueError(f"mask: expected signals long enough for '{self.layer}', got row {row} of {length}")

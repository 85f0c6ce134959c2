"""Convolutional kernel networks: a sequence of Nyström layers, the finite view of an architecture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hilbertnet.architecture.layers import Architecture
from hilbertnet.architecture.operators import antialias, extract_patches
from hilbertnet.networks.features import FeatureNet
from hilbertnet.networks.filters import sample_patches, spherical_kmeans
from hilbertnet.networks.inverse_root import Regularization
from hilbertnet.networks.layer import CKNLayer, check_mask, zero_past_end
from hilbertnet.networks.pieces import check_counts, check_filters
from hilbertnet.progress import Progress, track
from hilbertnet.records import load_tensors, save_tensors
from hilbertnet.signals import as_rng

__all__ = ["CKN"]


class CKN(FeatureNet):
    """The finite network of an architecture: its layers' kernels projected on the span of `filters` anchors each.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    in_channels
        Channels of the input.
    filters
        How many filters in each layer.
    axes
        Axes of space: 2 for images (n, channels, height, width), 1 for signals (n, channels, length).
    regularization, epsilon
        Of the inverse square roots: ``"root"``, 1/(sqrt(l) + eps) with eps = 0.01, or ``"eigenvalue"``, (l +
        eps)^(-1/2) with eps = 0.001; eps = 0 is the pseudo-inverse, exact on the filters.
    generator
        Seed or ``torch.Generator`` of the random unit filters it starts with.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> net = CKN("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", in_channels=1, filters=(8, 16), generator=0)
    >>> images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> net.fit_filters_(images, patches=500, generator=0)(images).shape
    torch.Size([20, 16, 2, 2])
    """

    def __init__(
        self,
        arch: Architecture | str,
        in_channels: int,
        filters: Sequence[int],
        *,
        axes: int = 2,
        regularization: Regularization = "root",
        epsilon: float | None = None,
        generator: int | torch.Generator | None = None,
    ) -> None:
        super().__init__(arch, in_channels, axes)
        counts = check_filters(filters, len(self.arch.layers))
        rng, channels = as_rng(generator), in_channels
        for layer, count in zip(self.arch.layers, counts, strict=True):
            self.layers.append(
                CKNLayer(
                    self.arch,
                    layer,
                    channels,
                    count,
                    axes=axes,
                    regularization=regularization,
                    epsilon=epsilon,
                    generator=rng,
                )
            )
            channels = count

    @property
    def filters(self) -> tuple[int, ...]:
        """How many filters in each layer."""
        return tuple(len(layer.filters) for layer in self._stack)

    @property
    def _stack(self) -> list[CKNLayer]:
        return cast(list[CKNLayer], list(self.layers))

    @property
    def widths(self) -> tuple[int, ...]:
        """How many channels the maps of each layer have: one for each filter."""
        return self.filters

    def forward(
        self, x: Float[Tensor, "n channels *space"], mask: Bool[Tensor, "n length"] | None = None
    ) -> Float[Tensor, "n filters *pooled"]:
        """The last layer's maps.

        Parameters
        ----------
        x
            Signals, shape (n, in_channels, *space), in the network's dtype and on its device.
        mask
            For signals (n, in_channels, length) of different lengths: shape (n, length), true up to the end of each.
            No position past the end counts: where all pools have stride 1 or are global, the maps inside `output_mask`
            are those of each signal alone. With larger strides the pooling centres are those of the padded length
            (see `CKNLayer.output_mask`).

        Returns
        -------
        Tensor
            Shape (n, filters, *pooled); zero where `output_mask` is false.

        Raises
        ------
        ValueError
            If the signals do not suit the network; if the mask is not of this form, the boundary is circular, or a
            signal is too short for the network.
        """
        if mask is None:
            return super().forward(x)
        self._check(x)
        check_mask(mask, x)
        return self._masked(len(self.layers), x, mask)[0]

    def masks(self, mask: Bool[Tensor, "n length"]) -> list[Bool[Tensor, "n positions"]]:
        """Which positions of every layer's maps belong to the signals, from the mask of the input."""
        result = []
        for layer in self._stack:
            mask = layer.output_mask(mask)
            result.append(mask)
        return result

    def output_mask(self, mask: Bool[Tensor, "n length"]) -> Bool[Tensor, "n positions"]:
        """Which positions of the last layer's maps belong to the signals."""
        return self.masks(mask)[-1]

    def _masked(self, count: int, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The first `count` layers, after A_0, and the mask of their output."""
        x = antialias(zero_past_end(x, mask), self.arch.sigma0, self.arch)
        for layer in self._stack[:count]:
            x, mask = layer(x, mask), layer.output_mask(mask)
        return zero_past_end(x, mask), mask

    def _patches_below(self, count: int) -> Callable[[Tensor], Tensor]:
        """The patches of layer `count` as channels, zero past the end, of signals whose last channel is their mask."""
        layer = self._stack[count]

        def apply(packed: Tensor) -> Tensor:
            maps, mask = self._masked(count, packed[:, :-1], packed[:, -1] > 0)
            return zero_past_end(extract_patches(maps, layer.layer.patch, self.arch), layer.patch_mask(mask))

        return apply

    def _sample(
        self, index: int, x: Tensor, mask: Tensor | None, count: int, rng: torch.Generator, batch: int
    ) -> Tensor:
        """Unit patches of the maps below layer `index`."""
        patch = self._stack[index].layer.patch
        if mask is None:
            return sample_patches(x, count, patch, self.arch, rng, before=self._below(index), batch=batch)
        packed = torch.cat([x, mask[:, None].to(x)], dim=1)
        # patches past the end are zero, and those are never kept; each is a signal's channels at one position
        below, batch = self._patches_below(index), max(1, batch // patch)
        return sample_patches(packed, count, 1, self.arch, rng, before=below, batch=batch)

    def _as_mask(self, mask: Any, x: Tensor) -> Tensor | None:
        """A mask, tensor or array, on the network's device."""
        if mask is None:
            return None
        if not isinstance(mask, Tensor):
            array = np.array(mask)
            mask = torch.from_numpy(array) if array.dtype == bool else array
        check_mask(mask, x)
        return mask.to(self._weight.device)

    # --- filters

    @torch.no_grad()
    def fit_filters_(
        self,
        x: Any,
        mask: Any = None,
        *,
        patches: int = 100_000,
        generator: int | torch.Generator | None = None,
        iterations: int = 100,
        allow_fewer: bool = False,
        progress: Progress = None,
    ) -> CKN:
        """Learn every layer's filters without labels: spherical k-means of random patches of the maps below.

        Parameters
        ----------
        x
            Signals, shape (n, in_channels, *space).
        mask
            As for `forward`; no patch past the end of its signal is taken.
        patches
            How many patches to cluster in each layer.
        generator
            Seed or ``torch.Generator``.
        iterations
            At most so many passes of k-means.
        allow_fewer
            Where there are fewer distinct patches than filters, keep as many filters as there are patches instead of
            failing.
        progress
            ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

        Returns
        -------
        CKN
            The network itself.

        Raises
        ------
        ValueError
            If the signals do not suit the network, all patches are zero, or there are fewer distinct patches than
            filters.
        """
        weight = self._weight
        x = self._signals(x).to(weight.device)
        mask = self._as_mask(mask, x)
        check_counts(patches=patches)
        rng, batch = as_rng(generator), self._batch(tuple(x.shape[2:]))
        was_training = [layer.training for layer in self._stack]
        self.layers.eval()  # the projections of the layers below are computed once
        try:
            for index, layer in enumerate(track(self._stack, progress, label="filters")):
                samples = self._sample(index, x, mask, patches, rng, batch)
                try:
                    centres = spherical_kmeans(
                        samples,
                        self.filters[index],
                        rng,
                        iterations=iterations,
                        allow_fewer=allow_fewer,
                    )
                except ValueError as error:
                    raise ValueError(f"layer {index + 1}: {error}") from None
                layer.set_filters_(centres)
        finally:
            for layer, mode in zip(self._stack, was_training, strict=True):
                layer.train(mode)
        return self

    # --- features

    def encode(self, x: Any, mask: Any = None, *, progress: Progress = None) -> Float[Tensor, "n features"]:
        """Features, flattened, in batches; the network's dtype and device, no gradient.

        Parameters
        ----------
        x
            Signals, shape (n, in_channels, *space).
        mask
            As for `forward`.
        progress
            ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

        Returns
        -------
        Tensor
            Shape (n, filters * positions).
        """
        x = self._signals(x)
        mask = self._as_mask(mask, x)
        return self._encode(x, progress) if mask is None else self._encode(x, progress, mask)

    # --- save, load

    def config(self) -> dict[str, Any]:
        """What JSON keeps of the network; its filters are tensors."""
        first = self._stack[0]
        return {
            "kind": "CKN",
            "architecture": self.arch.to_dict(),
            "in_channels": self.in_channels,
            "filters": list(self.filters),
            "axes": self.axes,
            "regularization": first.regularization,
            "epsilon": first.epsilon,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], prefix: str = "") -> CKN:
        """The network that `config` described, with the filters found in `tensors`."""
        keys = ("in_channels", "filters", "axes", "regularization", "epsilon")
        net = cls(
            Architecture.from_dict(config["architecture"]),
            **{key: config[key] for key in keys},
            generator=0,
        )
        state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        net.to(state["layers.0.filters"].dtype).load_state_dict(state)
        return net.eval()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write filters and architecture to one safetensors file."""
        save_tensors(path, self.state_dict(), self.config())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CKN:
        """Read what `save` wrote, in eval mode on the CPU.

        Raises
        ------
        ValueError
            If the file is not a saved network.
        """
        tensors, config = load_tensors(path, "CKN")
        return cls.from_config(config, tensors)

"""What every finite view of an architecture has in common: layers of some width, features in batches, distances."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.architecture.layers import Architecture
from hilbertnet.architecture.operators import antialias
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import LONG, Progress, announce, format_bytes, format_seconds, track
from hilbertnet.signals import as_signals

__all__ = ["FeatureNet"]

_BATCH_BYTES = 2**26  # of one layer's largest map in a batch


class FeatureNet(nn.Module):
    """A network of an architecture's layers, whose inner products are close to the exact kernel's.

    The base of `hilbertnet.networks.CKN` and `hilbertnet.networks.RandomFeatureNet`, which fill ``layers`` and say
    their `widths`.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    in_channels
        Channels of the input.
    axes
        Axes of space: 2 for images (n, channels, height, width), 1 for signals (n, channels, length).

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """

    differentiable = True
    _announced = False  # of each network: one that is trained encodes its data every epoch

    def __init__(self, arch: Architecture | str, in_channels: int, axes: int) -> None:
        super().__init__()
        self.arch = Architecture.parse(arch) if isinstance(arch, str) else arch
        if not isinstance(self.arch, Architecture):
            raise ValueError(f"arch: expected an Architecture or its text form, got {arch!r}")
        check_counts(in_channels=in_channels)
        if axes not in (1, 2):
            raise ValueError(f"axes: expected 1 (signals) or 2 (images), got {axes!r}")
        self.in_channels, self.axes = in_channels, axes
        self.layers = nn.ModuleList()

    @property
    def widths(self) -> tuple[int, ...]:
        """How many channels the maps of each layer have."""
        raise NotImplementedError

    @property
    def _weight(self) -> Tensor:
        """Some parameter: it has the network's dtype and device."""
        return next(self.layers.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters, in which the network computes."""
        return self._weight.dtype

    def output_shape(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """Shape (channels, *space) of the last layer's maps, for an input of spatial shape `space`."""
        return (self.widths[-1], *self.arch.shapes(space)[-1][1])

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n width *pooled"]:
        """The last layer's maps.

        Parameters
        ----------
        x
            Signals, shape (n, in_channels, *space), in the network's dtype and on its device.

        Returns
        -------
        Tensor
            Shape (n, width, *pooled).

        Raises
        ------
        ValueError
            If the signals do not suit the network.
        """
        self._check(x)
        return self._below(len(self.layers))(x)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 + self.axes or x.shape[1] != self.in_channels:
            space = "height, width" if self.axes == 2 else "length"
            raise ValueError(f"x: expected shape (n, {self.in_channels}, {space}), got {tuple(x.shape)}")
        self.arch.shapes(tuple(x.shape[2:]))

    def _below(self, count: int) -> Callable[[Tensor], Tensor]:
        """The first `count` layers, after A_0."""

        def apply(x: Tensor) -> Tensor:
            x = antialias(x, self.arch.sigma0, self.arch)
            for layer in self.layers[:count]:
                x = layer(x)
            return x

        return apply

    def _batch(self, space: tuple[int, ...]) -> int:
        """How many signals at once."""
        shapes = self.arch.shapes(space)
        largest = max(count * math.prod(patched) for count, (patched, _) in zip(self.widths, shapes, strict=True))
        return max(1, _BATCH_BYTES // (self.dtype.itemsize * largest))

    def encode(self, x: Any, *, progress: Progress = None) -> Float[Tensor, "n features"]:
        """Features, flattened, in batches; the network's dtype and device, no gradient.

        Parameters
        ----------
        x
            Signals, shape (n, in_channels, *space), an array or a tensor.
        progress
            ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

        Returns
        -------
        Tensor
            Shape (n, width * positions).

        Raises
        ------
        ValueError
            If the signals do not suit the network.
        """
        return self._encode(self._signals(x), progress)

    def _signals(self, x: Any) -> Tensor:
        """Signals of this network, in its dtype, wherever they are."""
        x = as_signals(x, "x", dtype=self.dtype)
        self._check(x)
        return x

    @torch.no_grad()
    def _encode(self, x: Tensor, progress: Progress, *beside: Tensor) -> Tensor:
        """Features of `x`; what is `beside` it goes to `forward` with it, batch by batch."""
        weight, space = self._weight, tuple(x.shape[2:])
        size, step = math.prod(self.output_shape(space)), self._batch(space)
        result = torch.empty(len(x), size, dtype=weight.dtype, device=weight.device)
        batches, began = range(0, len(x), step), time.perf_counter()
        for done, start in enumerate(track(batches, progress, label="features")):
            part = slice(start, start + step)
            result[part] = self(*(signals[part].to(weight.device) for signals in (x, *beside))).flatten(1)
            if done == 1:  # the first batch warms up
                self._say_if_long(result, (time.perf_counter() - began) / 2 * len(batches))
        return result

    def _say_if_long(self, features: Tensor, seconds: float) -> None:
        if seconds <= LONG or self._announced:
            return
        self._announced = True
        (n, size), memory = features.shape, format_bytes(features.nbytes)
        announce(f"features of {n:,} signals: {n:,} x {size:,} numbers, {memory}, in about {format_seconds(seconds)}")

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """``||Phi(x_i) - Phi(y_i)||`` for every i, shape (n,), float64."""
        return (self(x).double() - self(y).double()).flatten(1).norm(dim=1)

    def norm(self, x: Tensor) -> Tensor:
        """``||Phi(x_i)||`` for every i, shape (n,), float64."""
        return self(x).double().flatten(1).norm(dim=1)

"""What a network computes on a few images: which filters are used, what is nearest to them, and feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hilbertnet.architecture.operators import antialias, pad_for_patches, patch_norms, patch_scale
from hilbertnet.networks import CKN
from hilbertnet.networks.layer import CKNLayer

__all__ = ["LayerActivity", "observe"]

_BATCH_BYTES = 2**26
_FLAT = 0.1  # patches below this share of the image's largest norm have no direction worth a picture


@dataclass(frozen=True)
class LayerActivity:
    """What one layer does on some images.

    Parameters
    ----------
    use
        Share of the patches that each filter is the nearest to, shape (filters,).
    cosine
        Of each filter and the nearest patch of each image, shape (images, filters); -inf where an image has none.
    position
        Of that patch, as a number in row-major order, shape (images, filters).
    patched
        Spatial shape of the positions of patches.
    variance
        Of each output channel over images and positions, shape (filters,).
    maps
        Outputs of the layer on the images to show, shape (shown, filters, *space).
    """

    use: NDArray[np.float64]
    cosine: NDArray[np.float32]
    position: NDArray[np.int64]
    patched: tuple[int, ...]
    variance: NDArray[np.float64]
    maps: NDArray[np.float32]

    @property
    def by_use(self) -> NDArray[np.int64]:
        """Numbers of the filters, the most used first."""
        return np.argsort(-self.use, kind="stable")

    def nearest(self, filter: int, count: int) -> list[tuple[int, tuple[int, ...]]]:
        """Images and positions of at most `count` patches nearest to a filter, one of each image."""
        order = np.argsort(-self.cosine[:, filter], kind="stable")[:count]
        return [
            (int(image), tuple(map(int, np.unravel_index(self.position[image, filter], self.patched))))
            for image in order
            if np.isfinite(self.cosine[image, filter])
        ]


@torch.no_grad()
def observe(network: CKN, images: Tensor, shown: Sequence[int]) -> list[LayerActivity]:
    """What every layer does on `images`.

    Parameters
    ----------
    network
        The network, in eval mode.
    images
        As the network takes them, shape (n, channels, *space).
    shown
        Numbers of the images whose feature maps to keep.

    Returns
    -------
    list
        One `LayerActivity` for each layer.
    """
    layers = cast(list[CKNLayer], list(network.layers))
    shapes = network.arch.shapes(tuple(images.shape[2:]))
    tallies = [
        _Tally(len(images), len(layer.filters), patched) for layer, (patched, _) in zip(layers, shapes, strict=True)
    ]
    largest = max(len(tally.counts) * int(np.prod(tally.patched)) for tally in tallies)
    step = max(1, _BATCH_BYTES // (images.element_size() * largest))
    for start in range(0, len(images), step):
        x = antialias(images[start : start + step], network.arch.sigma0, network.arch)
        for layer, tally in zip(layers, tallies, strict=True):
            tally.add_patches(start, *_cosines(layer, x))
            x = layer(x)
            tally.add_maps(start, x, shown)
    return [tally.result() for tally in tallies]


def _cosines(layer: CKNLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of patches and filters, (n, filters, positions), and which patches are not flat, (n, positions)."""
    patch, arch = layer.layer.patch, layer.arch
    convolve = functional.conv2d if layer.axes == 2 else functional.conv1d
    inner = convolve(pad_for_patches(x, patch, arch), layer.filters * patch_scale(patch, layer.axes, arch))
    norms = patch_norms(x, patch, arch)
    flat_norms = norms.flatten(1)
    kept = (flat_norms > 0) & (flat_norms >= _FLAT * flat_norms.amax(1, keepdim=True))
    return (inner / norms.clamp(min=torch.finfo(x.dtype).tiny)).flatten(2), kept


class _Tally:
    """Adds up a layer's activity, batch by batch."""

    def __init__(self, images: int, filters: int, patched: tuple[int, ...]) -> None:
        self.patched = patched
        self.counts = np.zeros(filters, np.int64)
        self.cosine = np.full((images, filters), -np.inf, np.float32)
        self.position = np.zeros((images, filters), np.int64)
        self.sums, self.squares, self.number = np.zeros(filters), np.zeros(filters), 0
        self.maps: list[NDArray[np.float32]] = []

    def add_patches(self, start: int, cosines: Tensor, kept: Tensor) -> None:
        nearest = cosines.argmax(1)[kept]
        self.counts += np.bincount(nearest.numpy(), minlength=len(self.counts))
        best, place = cosines.masked_fill(~kept[:, None], -torch.inf).max(2)
        self.cosine[start : start + len(best)] = best.numpy()
        self.position[start : start + len(best)] = place.numpy()

    def add_maps(self, start: int, x: Tensor, shown: Sequence[int]) -> None:
        flat = x.flatten(2).double()
        self.sums += flat.sum((0, 2)).numpy()
        self.squares += flat.square().sum((0, 2)).numpy()
        self.number += flat.shape[0] * flat.shape[2]
        self.maps += [x[index - start].float().numpy() for index in shown if start <= index < start + len(x)]

    def result(self) -> LayerActivity:
        mean = self.sums / self.number
        return LayerActivity(
            use=self.counts / max(1, self.counts.sum()),
            cosine=self.cosine,
            position=self.position,
            patched=self.patched,
            variance=self.squares / self.number - mean**2,
            maps=np.stack(self.maps) if self.maps else np.zeros((0, len(mean), *self.patched), np.float32),
        )

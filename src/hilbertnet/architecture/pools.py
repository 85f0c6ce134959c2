"""Pooling filters: what a layer's A does along one axis, as taps around each centre.

Pooling by s of a length n keeps m = ceil(n/s) centres, the first at a = (n - 1 - s(m - 1))/2, so that flips commute.
The centre is then a pixel or falls half-way between two, and each pool says its taps for both cases; weights sum to
one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilbertnet.signals import is_count

__all__ = ["AveragePool", "GaussianPool", "GlobalPool", "Pool", "Subsample", "Taps"]


class Taps(NamedTuple):
    """Offsets of the pixels from floor(centre), and their weights."""

    offsets: NDArray[np.int64]
    weights: NDArray[np.float64]


class Pool(ABC):
    """A pooling filter with its stride; a subclass writes `taps`, `legacy_taps` and ``__str__``."""

    stride: int
    legacy_cut: int = 1
    """How many of its floor(n / stride) centres ``layout="ckn_kernel"`` drops at the far edge."""

    @abstractmethod
    def taps(self, half: bool) -> Taps:
        """Taps around a centre on a pixel, or half-way to the next one if `half`."""

    @abstractmethod
    def legacy_taps(self) -> Taps:
        """Taps of output i from pixel ``stride * i`` in ``layout="ckn_kernel"``."""

    @abstractmethod
    def __str__(self) -> str:
        """The text form."""


def _check_size(name: str, value: int) -> None:
    if not is_count(value):
        raise ValueError(f"{name}: expected a whole number of pixels, at least 1, got {value!r}")


class _Windowed(Pool):
    """Pools with a stride and a window that is the stride unless given."""

    name: str
    stride: int
    size: int | None

    def __post_init__(self) -> None:
        _check_size("stride", self.stride)
        if self.size is not None:
            _check_size("size", self.size)
            if self.size == self.stride:  # one spelling for each pool, so that equal pools compare equal
                object.__setattr__(self, "size", None)

    @property
    def window(self) -> int:
        """The window's size in pixels."""
        return self.stride if self.size is None else self.size

    def __str__(self) -> str:
        return f"{self.name}{self.stride}" if self.size is None else f"{self.name}{self.size}/{self.stride}"


@dataclass(frozen=True)
class GaussianPool(_Windowed):
    """A Gaussian of standard deviation ``size / sqrt(2)``, cut at `size` pixels from the centre.

    Parameters
    ----------
    stride
        Sampling step, in pixels.
    size
        Scale of the window, in pixels; default `stride`.
    """

    stride: int
    size: int | None = None
    name = "gauss"

    def taps(self, half: bool) -> Taps:
        radius = self.window
        offsets = np.arange(1 - radius if half else -radius, radius + 1)
        weights = np.exp(-(((offsets - 0.5 * half) / radius) ** 2))
        return Taps(offsets, weights / weights.sum())

    def legacy_taps(self) -> Taps:
        offsets, weights = self.taps(half=False)
        return Taps(offsets + self.window, weights)


@dataclass(frozen=True)
class AveragePool(_Windowed):
    """The mean over a window of width `size`; pixels that the window covers in part count in that proportion.

    Parameters
    ----------
    stride
        Sampling step, in pixels.
    size
        Width of the window, in pixels; default `stride`.
    """

    stride: int
    size: int | None = None
    name = "avg"
    legacy_cut = 0

    def taps(self, half: bool) -> Taps:
        reach = self.window // 2 + 1
        offsets = np.arange(-reach, reach + 2)
        distance = np.abs(offsets - 0.5 * half)
        covered = np.clip(self.window / 2 + 0.5 - distance, 0.0, 1.0)
        kept = covered > 0
        return Taps(offsets[kept], covered[kept] / self.window)

    def legacy_taps(self) -> Taps:
        return Taps(np.arange(self.window), np.full(self.window, 1.0 / self.window))


@dataclass(frozen=True)
class Subsample(Pool):
    """The value at the centre, or the mean of its two neighbours where the centre falls between pixels.

    Parameters
    ----------
    stride
        Sampling step, in pixels.
    """

    stride: int

    def __post_init__(self) -> None:
        _check_size("stride", self.stride)

    def taps(self, half: bool) -> Taps:
        return Taps(np.array([0, 1]), np.array([0.5, 0.5])) if half else Taps(np.array([0]), np.array([1.0]))

    def legacy_taps(self) -> Taps:
        return Taps(np.array([self.stride]), np.array([1.0]))

    def __str__(self) -> str:
        return f"stride{self.stride}"


@dataclass(frozen=True)
class GlobalPool(Pool):
    """The mean over all positions: one position is left."""

    def taps(self, half: bool) -> Taps:
        raise TypeError("GlobalPool has as many taps as its input has pixels")

    def legacy_taps(self) -> Taps:
        raise TypeError("GlobalPool has as many taps as its input has pixels")

    def __str__(self) -> str:
        return "global"

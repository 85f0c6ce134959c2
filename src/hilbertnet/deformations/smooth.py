r"""Families of smooth random fields: Gaussian-smoothed noise, band-limited noise, cubic B-splines.

Each draws a random field, all components alike and independent, and scales it to the wanted norm: sup||grad tau|| or
sup|tau|. Their own scale, in pixels or in cycles, is what they are named after.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from hilbertnet.deformations.family import Family, finite
from hilbertnet.deformations.fields import scale_field
from hilbertnet.signals import is_count

__all__ = ["BandLimitedField", "GaussianField", "SplineField"]


class _Smooth(Family):
    """Random fields of a wanted norm; a subclass writes `_draw`, whose result has any norm but 0."""

    norm: str
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"norm": ("gradient", "displacement")}

    @property
    def unit(self) -> str:
        """Of the norm."""
        return "sup ||grad tau||" if self.norm == "gradient" else "pixels, sup |tau|"

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> dict[str, Any]:
        """The family's own scale."""
        if len(numbers) != 1:
            raise ValueError(f"expected {cls.usage}")
        (scale,) = (attribute.name for attribute in dataclass_fields(cls) if attribute.name != "norm")  # type: ignore[arg-type]
        number = numbers[0]
        return {scale: int(number) if number.is_integer() else number}

    @abstractmethod
    def _draw(self, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Random fields (count, axes, *space)."""

    def _fields(self, size: float, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        if self.norm == "gradient" and max(space) == 1:
            raise self._refuse(f"expected more than one pixel to have a gradient on, got {space}")
        found = self._draw(count, space, rng)
        if self.norm == "gradient":
            return scale_field(found, gradient=size)
        return scale_field(found, displacement=size)


@dataclass(frozen=True)
class GaussianField(_Smooth):
    """White noise smoothed by a Gaussian, as in the elastic distortions of handwriting.

    P. Simard, D. Steinkraus and J. Platt, "Best practices for convolutional neural networks applied to visual document
    analysis", ICDAR 2003; the noise here is normal and goes on beyond the image, so that the field is alike at the
    edges and in the middle.

    Parameters
    ----------
    std
        Standard deviation of the Gaussian, in pixels.
    norm
        What a size is: ``"gradient"``, sup||grad tau||, or ``"displacement"``, sup|tau| in pixels.
    """

    std: float
    norm: str = "gradient"
    name: ClassVar[str] = "gaussian"
    usage: ClassVar[str] = "gaussian(3) or gaussian(3, displacement), with a standard deviation in pixels"

    def __post_init__(self) -> None:
        self._check_choices()
        value = finite(self.std)
        if value is None or value <= 0:
            raise self._refuse(f"std: expected a number of pixels above 0, got {self.std!r}")

    def _draw(self, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        noise = torch.randn(count, len(space), *space, dtype=torch.float64, generator=rng)
        return _along_axes(noise, [_smoothing(length, float(self.std)) for length in space])


@dataclass(frozen=True)
class BandLimitedField(_Smooth):
    """A sum of waves of at most so many cycles across the image, with random amplitudes and phases.

    Frequencies k are whole numbers of cycles along each axis with 0 < |k| <= cycles (Euclidean), all with coefficients
    alike: the field is periodic, smooth on the torus too, and has mean 0.

    Parameters
    ----------
    cycles
        Highest frequency, in cycles across the image, at least 1 and less than half of its pixels.
    norm
        What a size is: ``"gradient"``, sup||grad tau||, or ``"displacement"``, sup|tau| in pixels.
    """

    cycles: float
    norm: str = "gradient"
    name: ClassVar[str] = "bandlimited"
    usage: ClassVar[str] = "bandlimited(4) or bandlimited(4, displacement), with the highest number of cycles"

    def __post_init__(self) -> None:
        self._check_choices()
        value = finite(self.cycles)
        if value is None or value < 1:
            raise self._refuse(f"cycles: expected a number of at least 1, got {self.cycles!r}")

    def _draw(self, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        if 2 * self.cycles >= min(space):
            raise self._refuse(f"cycles: expected less than half of {min(space)} pixels, got {self.cycles:g}")
        highest = int(self.cycles)
        waves = torch.tensor(
            [k for k in itertools.product(range(-highest, highest + 1), repeat=len(space)) if self._is_one(k)],
            dtype=torch.float64,
        )
        lines = [torch.arange(length, dtype=torch.float64) / length for length in space]
        points = torch.stack(torch.meshgrid(*lines, indexing="ij")).flatten(1)
        phases = 2 * math.pi * (waves @ points)
        parts = torch.randn(2, count, len(space), len(waves), dtype=torch.float64, generator=rng)
        return (parts[0] @ phases.cos() + parts[1] @ phases.sin()).unflatten(2, space)

    def _is_one(self, k: tuple[int, ...]) -> bool:
        """Whether k is in the band; of k and -k, which are the same wave, the one whose first entry is above 0."""
        return math.hypot(*k) <= self.cycles and k > (0,) * len(k)


@dataclass(frozen=True)
class SplineField(_Smooth):
    """A cubic B-spline with random coefficients on a regular grid of knots (free-form deformation).

    D. Rueckert et al., "Nonrigid registration using free-form deformations", IEEE Transactions on Medical Imaging,
    1999. The field has continuous second derivatives.

    Parameters
    ----------
    knots
        Coefficients along each axis, at least 4: the image is knots - 3 intervals wide, from the first pixel to the
        last.
    norm
        What a size is: ``"gradient"``, sup||grad tau||, or ``"displacement"``, sup|tau| in pixels.
    """

    knots: int
    norm: str = "gradient"
    name: ClassVar[str] = "spline"
    usage: ClassVar[str] = "spline(5) or spline(5, displacement), with the number of knots along each axis"

    def __post_init__(self) -> None:
        self._check_choices()
        if not is_count(self.knots) or self.knots < 4:
            raise self._refuse(f"knots: expected a whole number of at least 4, got {self.knots!r}")

    def _draw(self, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        coefficients = torch.randn(count, len(space), *[self.knots] * len(space), dtype=torch.float64, generator=rng)
        return _along_axes(coefficients, [_spline_matrix(length, self.knots) for length in space])


@lru_cache(maxsize=16)
def _smoothing(length: int, std: float) -> Tensor:
    """The symmetric square root of K K^T, for the matrix K that smooths noise on the pixels and 4 std around them.

    It makes noise on the pixels alone as smooth (normal noise, so the law is the same), with far fewer numbers drawn.
    The singular values of K keep it accurate where K K^T is next to singular.
    """
    radius = math.ceil(4 * std)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / std) ** 2)
    smooth = torch.zeros(length, length + 2 * radius, dtype=torch.float64)
    for pixel in range(length):
        smooth[pixel, pixel : pixel + len(taps)] = taps / taps.norm()
    left, values, _ = torch.linalg.svd(smooth, full_matrices=False)
    return (left * values) @ left.T


def _along_axes(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """One matrix applied along each axis of space."""
    for dim, matrix in enumerate(matrices, start=2):
        x = torch.tensordot(x, matrix, ([dim], [1])).movedim(-1, dim)
    return x


def _spline_matrix(length: int, knots: int) -> Tensor:
    """Values of the uniform cubic B-splines (length, knots) at `length` pixels across ``knots - 3`` intervals."""
    at = torch.linspace(0, knots - 3, length, dtype=torch.float64)
    first = at.floor().clamp(max=knots - 4).long()
    t = at - first
    pieces = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]
    matrix = torch.zeros(length, knots, dtype=torch.float64)
    for k, piece in enumerate(pieces):
        matrix[torch.arange(length), first + k] = piece / 6
    return matrix

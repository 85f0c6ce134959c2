r"""Families of affine deformations: translation, rotation, zoom, scaling along one axis, shear.

Directions are those of the picture on a screen, with row 0 at the top and column 0 at the left. The picture is moved by
p -> c + M (p - c) around a centre c, so that tau(u) = (I - M^-1)(u - c) and grad tau = I - M^-1 everywhere.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hilbertnet.deformations.family import Family, finite

__all__ = ["Rotation", "Scaling", "Shear", "Translation", "Zoom"]

_SIDES = {"right": 0.0, "up": 90.0, "left": 180.0, "down": 270.0}


@dataclass(frozen=True)
class Translation(Family):
    """The whole picture moves by `size` pixels: tau is constant, its gradient norm 0.

    Parameters
    ----------
    direction
        ``"random"``, each direction alike (for signals, both); ``"right"``, ``"left"``, ``"up"`` or ``"down"``; or an
        angle in degrees from the right, anticlockwise (90 is up). Along a signal, right is towards larger positions.

    Examples
    --------
    >>> Translation("down").field(2, 1, (1, 1)).flatten().tolist()
    [2.0, 0.0]
    """

    direction: str | float = "random"
    name: ClassVar[str] = "translation"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"direction": ("random", *_SIDES)}
    usage: ClassVar[str] = "translation, translation(right) or translation(30), an angle in degrees"

    def __post_init__(self) -> None:
        if isinstance(self.direction, str):
            self._check_choices()
        elif finite(self.direction) is None:
            raise self._refuse(f"direction: expected a word or an angle in degrees, got {self.direction!r}")

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> dict[str, Any]:
        """An angle."""
        return {"direction": numbers[0]} if len(numbers) == 1 else super().from_numbers(numbers)

    @property
    def unit(self) -> str:
        """Pixels."""
        return "pixels"

    def _fields(self, size: float, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        vectors = size * self._directions(count, len(space), rng)
        return vectors.view(count, len(space), *[1] * len(space)).expand(-1, -1, *space).clone()

    def _directions(self, count: int, axes: int, rng: torch.Generator) -> Tensor:
        """Unit vectors (count, axes)."""
        if self.direction == "random" and axes == 1:
            return 1 - 2 * torch.randint(2, (count, 1), generator=rng).double()
        if self.direction == "random":
            angles = 2 * math.pi * torch.rand(count, dtype=torch.float64, generator=rng)
            return torch.stack([-angles.sin(), angles.cos()], 1)
        angle = _SIDES[self.direction] if isinstance(self.direction, str) else float(self.direction)
        versine, sine = _turn(angle)
        if axes == 1:
            if sine != 0:
                raise self._refuse(f"expected direction right, left or random for signals, got {self.direction!r}")
            return torch.full((count, 1), 1 - versine, dtype=torch.float64)
        return torch.tensor([[-sine, 1 - versine]], dtype=torch.float64).expand(count, -1)


class _Affine(Family):
    """Families of linear maps around a centre; `direction` is a word, or ``"random"`` for one of them, each alike."""

    direction: str
    centre: tuple[float, ...] | None
    only_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check_choices()
        if self.centre is None:
            return
        given = (
            self.centre if isinstance(self.centre, Sequence) and not isinstance(self.centre, str) else (self.centre,)
        )
        centre = [finite(c) for c in given]
        if len(centre) not in (1, 2) or None in centre:
            raise self._refuse(f"centre: expected a row and a column in pixels, got {self.centre!r}")
        object.__setattr__(self, "centre", tuple(centre))  # lists are as good, and equal families compare equal

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> dict[str, Any]:
        """A centre."""
        if len(numbers) > 2:
            raise ValueError(f"expected {cls.usage}")
        return {"centre": tuple(numbers)} if numbers else {}

    @abstractmethod
    def _gradient(self, direction: str, size: float, axes: int) -> list[list[float]]:
        """The matrix I - M^-1."""

    def _fields(self, size: float, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        axes = len(space)
        if self.only_images and axes == 1:
            raise self._refuse(f"expected images (height, width), got signals of length {space[0]}")
        if self.centre is not None and len(self.centre) != axes:
            raise self._refuse(f"centre: expected {axes} coordinates, got {len(self.centre)}")
        centre = [(length - 1) / 2 for length in space] if self.centre is None else self.centre
        lines = [torch.arange(length, dtype=torch.float64) - c for length, c in zip(space, centre, strict=True)]
        offsets = torch.stack(torch.meshgrid(*lines, indexing="ij"))
        gradients = torch.stack([self._matrix(direction, size, axes) for direction in self._ways()])
        parts = gradients.view(*gradients.shape, *[1] * axes) * offsets  # no matrix product, which rounds rows unlike
        return parts.sum(2)[torch.randint(len(parts), (count,), generator=rng)]

    def _ways(self) -> tuple[str, ...]:
        """The directions that may be drawn."""
        return self.choices["direction"][1:] if self.direction == "random" else (self.direction,)

    def _matrix(self, direction: str, size: float, axes: int) -> Tensor:
        return torch.tensor(self._gradient(direction, size, axes), dtype=torch.float64)


@dataclass(frozen=True)
class Rotation(_Affine):
    """Images turn by `size` degrees around a centre: the gradient norm is 2 sin(size / 2) everywhere.

    Parameters
    ----------
    direction
        ``"anticlockwise"`` (on the screen), ``"clockwise"``, or ``"random"``, one or the other.
    centre
        Row and column, in pixels; default the middle of the image.
    """

    direction: str = "anticlockwise"
    centre: tuple[float, ...] | None = None
    name: ClassVar[str] = "rotation"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"direction": ("random", "anticlockwise", "clockwise")}
    usage: ClassVar[str] = "rotation, rotation(clockwise) or rotation(3, 4), around row 3 and column 4"
    only_images: ClassVar[bool] = True

    @property
    def unit(self) -> str:
        """Degrees."""
        return "degrees"

    def _gradient(self, direction: str, size: float, axes: int) -> list[list[float]]:
        versine, sine = _turn(size if direction == "anticlockwise" else -size)
        return [[versine, -sine], [sine, versine]]


@dataclass(frozen=True)
class Zoom(_Affine):
    """The picture is magnified by the factor 1 + size around a centre, or made smaller by it.

    The gradient norm is size / (1 + size) where the picture becomes larger, and `size` where it becomes smaller.

    Parameters
    ----------
    direction
        ``"in"``, larger; ``"out"``, smaller; or ``"random"``, one or the other.
    centre
        The point that stays, row and column in pixels (for signals, one position); default the middle.
    """

    direction: str = "in"
    centre: tuple[float, ...] | None = None
    name: ClassVar[str] = "zoom"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"direction": ("random", "in", "out")}
    usage: ClassVar[str] = "zoom, zoom(out) or zoom(3, 4), around row 3 and column 4"

    @property
    def unit(self) -> str:
        """Of magnification."""
        return "factor - 1"

    def _gradient(self, direction: str, size: float, axes: int) -> list[list[float]]:
        return [[_magnify(direction, size) if k == m else 0.0 for m in range(axes)] for k in range(axes)]


@dataclass(frozen=True)
class Scaling(_Affine):
    """The picture is stretched along one axis by the factor 1 + size, or squeezed by it.

    The gradient norm is as for `Zoom`.

    Parameters
    ----------
    axis
        ``"horizontal"``, wider; ``"vertical"``, taller. Both at once are a `Zoom`. Signals have the first alone.
    direction
        ``"in"``, larger; ``"out"``, smaller; or ``"random"``, one or the other.
    centre
        The point that stays, row and column in pixels (for signals, one position); default the middle.
    """

    axis: str = "horizontal"
    direction: str = "in"
    centre: tuple[float, ...] | None = None
    name: ClassVar[str] = "scaling"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "axis": ("horizontal", "vertical"),
        "direction": ("random", "in", "out"),
    }
    usage: ClassVar[str] = "scaling, scaling(vertical), scaling(out) or scaling(3, 4), around row 3 and column 4"

    @property
    def unit(self) -> str:
        """Of magnification along the axis."""
        return "factor - 1"

    def _gradient(self, direction: str, size: float, axes: int) -> list[list[float]]:
        if axes == 1:
            if self.axis == "vertical":
                raise self._refuse("axis: expected 'horizontal' for signals, got 'vertical'")
            return [[_magnify(direction, size)]]
        rows, columns = (size, 0.0) if self.axis == "vertical" else (0.0, size)
        return [[_magnify(direction, rows), 0.0], [0.0, _magnify(direction, columns)]]


@dataclass(frozen=True)
class Shear(_Affine):
    """Images lean over: lines move along themselves, by `size` pixels more from each to the next.

    The gradient norm is `size`.

    Parameters
    ----------
    direction
        ``"right"``, ``"left"``: the top of the picture goes there, its bottom the other way (right makes italics);
        ``"up"``, ``"down"``: the right side goes there, the left side the other way; or ``"random"``, one of the four.
    centre
        Row and column that stay, in pixels; default the middle of the image.
    """

    direction: str = "right"
    centre: tuple[float, ...] | None = None
    name: ClassVar[str] = "shear"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"direction": ("random", "right", "left", "up", "down")}
    usage: ClassVar[str] = "shear, shear(left) or shear(3, 4), around row 3 and column 4"
    only_images: ClassVar[bool] = True

    @property
    def unit(self) -> str:
        """Pixels for each pixel."""
        return "slope"

    def _gradient(self, direction: str, size: float, axes: int) -> list[list[float]]:
        if direction in ("right", "left"):
            return [[0.0, 0.0], [-size if direction == "right" else size, 0.0]]
        return [[0.0, size if direction == "down" else -size], [0.0, 0.0]]


def _turn(degrees: float) -> tuple[float, float]:
    """``(1 - cos, sin)`` of an angle: exact for quarter turns, and without cancellation for small angles."""
    quarters, rest = divmod(degrees, 90)
    if abs(degrees) < 45:
        angle = math.radians(degrees)
        return 2 * math.sin(angle / 2) ** 2, math.sin(angle)
    cosine, sine = (1.0, 0.0) if rest == 0 else (math.cos(math.radians(rest)), math.sin(math.radians(rest)))
    for _ in range(int(quarters) % 4):
        cosine, sine = -sine, cosine
    return 1 - cosine, sine


def _magnify(direction: str, size: float) -> float:
    """``1 - 1/m`` for a magnification m of 1 + size (in) or 1 / (1 + size) (out)."""
    return size / (1 + size) if direction == "in" else -size

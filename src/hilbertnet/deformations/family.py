"""What all families of deformations have in common: fields of a wanted size, and a text form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from hilbertnet.signals import as_rng, is_count
from hilbertnet.text import format_number, nearest

__all__ = ["Family"]


class Family(ABC):
    """A family of deformations, of any size: size 0 is no deformation.

    A subclass is a frozen dataclass that writes `name`, `choices`, `unit` and `_fields`. The size is no part of what is
    drawn: with a generator in the same state, fields of two sizes are the same deformation, more or less far.
    """

    name: ClassVar[str]
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Words that each attribute may be in the text form."""
    usage: ClassVar[str]
    """The text form, for messages."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What a size is measured in."""

    @abstractmethod
    def _fields(self, size: float, count: int, space: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """The fields (count, axes, *space), in float64 on the CPU."""

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> dict[str, Any]:
        """Attributes from the numbers of a text form.

        Raises
        ------
        ValueError
            If there may be no numbers, or not as many.
        """
        if numbers:
            raise ValueError(f"expected {cls.usage}")
        return {}

    def field(
        self,
        size: float,
        count: int,
        space: Sequence[int],
        *,
        generator: torch.Generator | int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Fields of the family, one of `size` for each example.

        Parameters
        ----------
        size
            In units of `unit`, at least 0.
        count
            How many fields.
        space
            Height and width of the images, or length of the signals, in pixels.
        generator
            Of what is random, on the CPU: a generator, a seed, or None for fresh entropy. The numbers are drawn in
            float64 on the CPU, so that a seed means the same fields on all devices.
        dtype, device
            Of the fields.

        Returns
        -------
        Tensor
            Displacements in pixels, shape (count, axes, *space).

        Raises
        ------
        ValueError
            If an argument is not as said, or the family has no fields for such signals.
        """
        shape = _checked_space(space)
        if not is_count(count):
            raise ValueError(f"count: expected a whole number of fields, at least 1, got {count!r}")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype: expected a floating-point dtype, got {dtype!r}")
        if isinstance(generator, torch.Generator) and generator.device.type != "cpu":
            raise ValueError(f"generator: expected a generator on the CPU, got one on {generator.device}")
        found = self._fields(check_size(size), count, shape, as_rng(generator)).to(dtype=dtype, device=device)
        if not torch.isfinite(found).all():
            raise self._refuse(f"size: expected one whose displacements are finite in {dtype}, got {size!r}")
        return found

    def _refuse(self, problem: str) -> ValueError:
        """The error of the family; the caller raises it."""
        return ValueError(f"{self.name}: {problem}")

    def _check_choices(self) -> None:
        """Refuse, by its name, an attribute that is none of its words."""
        for attribute, known in self.choices.items():
            value = getattr(self, attribute)
            if value not in known:
                hint = nearest(value, known) if isinstance(value, str) else ""
                raise self._refuse(f"{attribute}: expected one of {', '.join(map(repr, known))}, got {value!r}{hint}")

    def __str__(self) -> str:
        """The text form: the name, and what is not as by default."""
        words: list[str] = []
        for attribute in dataclass_fields(self):  # type: ignore[arg-type]
            value = getattr(self, attribute.name)
            if value is not None and value != attribute.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [v if isinstance(v, str) else format_number(v) for v in values]
        return f"{self.name}({', '.join(words)})" if words else self.name


def _checked_space(space: Sequence[int]) -> tuple[int, ...]:
    found = tuple(space) if isinstance(space, Sequence) and not isinstance(space, str) else ()
    if len(found) not in (1, 2) or not all(map(is_count, found)):
        raise ValueError(f"space: expected (height, width) or (length,) in pixels, each at least 1, got {space!r}")
    return found


def check_size(size: Any) -> float:
    """The size as a number, if it is finite and at least 0."""
    value = finite(size)
    if value is None or value < 0:
        raise ValueError(f"size: expected a finite number of at least 0, got {size!r}")
    return value


def finite(value: Any) -> float | None:
    """`value` as a float if it is a finite real number (no truth value, no text), else None."""
    if isinstance(value, bool | str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None

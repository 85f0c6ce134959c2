"""What an adversary may do to a signal."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.ascent import unit_direction
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.robustness.boxes import farthest_in_box, lengths, project
from hilbertnet.signals import per_example
from hilbertnet.text import format_number, nearest

__all__ = ["NORMS", "Ball", "Deformations", "Norm", "RadiusWarning", "read_bounds", "read_norm"]

Norm = Literal["2", "inf"]
NORMS = {"2": "l2", "inf": "l_inf"}


class RadiusWarning(UserWarning):
    """A ball holds all signals within its bounds: most likely its radius is in other units than the signals."""


@dataclass(frozen=True)
class Ball:
    """Perturbations of at most some length, of signals whose values stay within bounds.

    Parameters
    ----------
    norm
        ``"2"`` or ``"inf"``; the numbers 2 and infinity will do.
    radius
        At least 0, in units of the signals.
    bounds
        Least and largest value of a pixel, or ``None``.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Warns
    -----
    RadiusWarning
        If an l_inf radius is at least the distance of the bounds; when signals are checked, if an l2 radius is at least
        the diagonal of their box.

    Examples
    --------
    >>> print(Ball("2", 0.5))
    l2 ball of radius 0.5 in [0, 1]
    """

    norm: Norm
    radius: float
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", read_norm(self.norm))
        object.__setattr__(self, "radius", real_number("radius", self.radius, least=0.0))
        object.__setattr__(self, "bounds", read_bounds(self.bounds))
        if self.norm == "inf":
            self._warn_beyond(1)

    @property
    def name(self) -> str:
        """``"l2"`` or ``"l_inf"``."""
        return NORMS[self.norm]

    def __str__(self) -> str:
        where = "" if self.bounds is None else f" in [{self.bounds[0]:g}, {self.bounds[1]:g}]"
        return f"{self.name} ball of radius {format_number(self.radius)}{where}"

    def check(self, x: Float[Tensor, "n ..."]) -> None:
        """Refuse signals that are not within the bounds themselves; warn of a radius that reaches all others."""
        if self.bounds is None:
            return
        low, high = self.bounds
        least, largest = x.min().item(), x.max().item()
        if not (least >= low and largest <= high):
            raise ValueError(
                f"x: expected values in [{low:g}, {high:g}], the threat's bounds, got {least:g} to {largest:g}"
            )
        if self.norm == "2":
            self._warn_beyond(x[0].numel())

    def length(self, delta: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Of perturbations in this norm, float64."""
        return lengths(delta, self.norm)

    def retract(self, moved: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The signal that this adversary can make of `x` nearest to each of `moved`, itself if it is one.

        It is the Euclidean projection. What rounding adds to a length is taken off again.
        """
        return project(moved, x, self.norm, self.radius, self.bounds)

    def steepest(self, gradient: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Of all signals that this adversary can make of `x`, one where ``<gradient, .>`` is largest.

        Exact, also within bounds; pixels whose gradient is 0 stay.
        """
        if self.norm == "inf":
            return self.retract(x + self.radius * gradient.sign(), x)
        if self.bounds is None:
            return self.retract(x + self.radius * unit_direction(gradient, "2"), x)
        return farthest_in_box(gradient, x, self.radius, self.bounds)

    def draw(self, x: Float[Tensor, "n ..."], generator: torch.Generator) -> Float[Tensor, "n ..."]:
        """Random starts of attacks: uniform in the l_inf ball; of uniform direction and length in the l2 ball.

        They may be out of bounds, which `retract` mends.
        """
        if self.norm == "inf":
            drawn = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
        else:
            share = torch.rand(len(x), generator=generator, dtype=torch.float64)
            drawn = unit_direction(torch.randn(x.shape, generator=generator, dtype=torch.float64), "2")
            drawn = drawn * per_example(share, x)
        return x + (self.radius * drawn).to(x)

    def _warn_beyond(self, pixels: int) -> None:
        """Warn of a radius that is as long as the diagonal of a box of so many pixels; l_inf: of one."""
        if self.bounds is None:
            return
        longest = (self.bounds[1] - self.bounds[0]) * math.sqrt(pixels)
        if self.radius >= longest:
            warnings.warn(
                f"radius: the {self} holds everything within the bounds, where no distance is above {longest:g}; "
                "is it in units of 0 to 255?",
                RadiusWarning,
                stacklevel=4,
            )


@dataclass(frozen=True)
class Deformations:
    """Small deformations ``x(u - tau(u))`` of images or signals, in the two norms of the stability theorem.

    Parameters
    ----------
    max_shift
        Largest ``sup |tau|``, in pixels; at least 0.
    max_gradient
        Largest ``sup ||grad tau||``, without a unit; 0 leaves translations. From 1 on fields may fold.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> print(Deformations(1.5, 0.25))
    deformations by at most 1.5 pixels, of gradient at most 0.25
    """

    max_shift: float
    max_gradient: float

    def __post_init__(self) -> None:
        for name in ("max_shift", "max_gradient"):
            object.__setattr__(self, name, real_number(name, getattr(self, name), least=0.0))

    @property
    def name(self) -> str:
        """``"deformations"``."""
        return "deformations"

    def __str__(self) -> str:
        shift, gradient = format_number(self.max_shift), format_number(self.max_gradient)
        return f"deformations by at most {shift} pixels, of gradient at most {gradient}"

    def check(self, x: Float[Tensor, "n ..."]) -> None:
        """Refuse what has no space to be deformed in."""
        if x.ndim not in (3, 4):
            expected = "images (n, channels, height, width) or signals (n, channels, length)"
            raise ValueError(f"x: expected {expected}, which can be deformed, got shape {tuple(x.shape)}")


def read_norm(norm: object) -> Norm:
    """``"2"`` or ``"inf"``, also from the numbers.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(norm, int | float):
        norm = "2" if norm == 2 else "inf" if norm == math.inf else norm
    if norm == "2":
        return "2"
    if norm == "inf":
        return "inf"
    raise ValueError(f"norm: expected '2' or 'inf', got {norm!r}{nearest(str(norm), NORMS)}")


def read_bounds(bounds: object) -> tuple[float, float] | None:
    """Least and largest value of a pixel, or ``None``.

    Raises
    ------
    ValueError
        If they are not two increasing finite numbers.
    """
    if bounds is None:
        return None
    pair = tuple(bounds) if isinstance(bounds, tuple | list) else ()
    if len(pair) != 2 or not all(map(_real, pair)) or not pair[0] < pair[1]:
        raise ValueError(f"bounds: expected two increasing finite numbers, or None, got {bounds!r}")
    return pair


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

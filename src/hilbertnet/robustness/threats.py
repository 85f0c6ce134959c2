"""What an adversary may do to a signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.signals import per_example
from hilbertnet.text import format_number, nearest

__all__ = ["Ball"]

Norm = Literal["2", "inf"]
_NAMES = {"2": "l2", "inf": "l_inf"}


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

    Examples
    --------
    >>> print(Ball("2", 0.5))
    l2 ball of radius 0.5 in [0, 1]
    """

    norm: Norm
    radius: float
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        name = {2: "2", math.inf: "inf"}.get(self.norm, self.norm) if not isinstance(self.norm, str) else self.norm
        if name not in _NAMES:
            raise ValueError(f"norm: expected '2' or 'inf', got {self.norm!r}{nearest(str(self.norm), _NAMES)}")
        object.__setattr__(self, "norm", name)
        object.__setattr__(self, "radius", real_number("radius", self.radius, least=0.0))
        if self.bounds is not None:
            pair = tuple(self.bounds) if isinstance(self.bounds, tuple | list) else ()
            if len(pair) != 2 or not all(map(_real, pair)) or not pair[0] < pair[1]:
                raise ValueError(f"bounds: expected two increasing finite numbers, or None, got {self.bounds!r}")
            object.__setattr__(self, "bounds", pair)

    @property
    def name(self) -> str:
        """``"l2"`` or ``"l_inf"``."""
        return _NAMES[self.norm]

    def __str__(self) -> str:
        where = "" if self.bounds is None else f" in [{self.bounds[0]:g}, {self.bounds[1]:g}]"
        return f"{self.name} ball of radius {format_number(self.radius)}{where}"

    def check(self, x: Float[Tensor, "n ..."]) -> None:
        """Refuse signals that are not within the bounds themselves."""
        if self.bounds is None:
            return
        low, high = self.bounds
        least, largest = x.min().item(), x.max().item()
        if least < low or largest > high:
            raise ValueError(
                f"x: expected values in [{low:g}, {high:g}], the threat's bounds, got {least:g} to {largest:g}"
            )

    def length(self, delta: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Of perturbations in this norm, float64."""
        flat = delta.double().flatten(1)
        return flat.norm(dim=1) if self.norm == "2" else flat.abs().amax(1)

    def retract(self, moved: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """A signal that this adversary can make of `x` for each of `moved`, itself if it is one.

        The perturbation is shortened, then values are clipped, which moves them towards `x` and makes it no longer. It
        is not the Euclidean projection where both matter. What rounding adds to a length is taken off again.
        """
        delta = moved - x
        found = x + self._short(delta)
        if self.bounds is not None:
            found = found.clamp(*self.bounds)
        for shrink in (16 * torch.finfo(x.dtype).eps, 1e-6, 1e-4, 1e-2):
            outside = self.length(found.double() - x.double()) > self.radius
            if not outside.any():
                return found
            nearer = x + (1 - shrink) * (found - x)
            found = torch.where(per_example(outside, x), nearer, found)
        outside = self.length(found.double() - x.double()) > self.radius
        return torch.where(per_example(outside, x), x, found)

    def _short(self, delta: Tensor) -> Tensor:
        if self.norm == "inf":
            return delta.clamp(-self.radius, self.radius)
        length = self.length(delta)
        share = torch.where(length > self.radius, self.radius / length, 1.0).to(delta)
        return delta * per_example(share, delta)


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

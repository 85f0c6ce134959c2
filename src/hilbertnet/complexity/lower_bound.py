"""A lower bound of a norm with the signals that attain it, and a table of several."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.text import columns

__all__ = ["LowerBound", "LowerBounds"]


@dataclass(frozen=True, eq=False)
class LowerBound:
    """A lower bound of an RKHS norm and the signals that attain it.

    Parameters
    ----------
    name
        Where x' was looked for.
    value
        The bound, ``difference / distance``.
    ratios
        That of each signal, or of each pair, in float64.
    index
        Of x in the data, or ``None``.
    x, x_prime
        The pair, shape (channels, *space) each, or ``None`` where there is none.
    difference
        ``|f(x') - f(x)|``; the slope for gradients.
    distance
        The upper bound of the distance moved in the RKHS; for gradients, that of its rate.
    source
        Of `distance`: ``"Lipschitz"``, ``"distance"`` or ``"Gram matrix"``.
    other
        Index of x' in the data, or ``None``.
    """

    name: str
    value: float
    ratios: Float[Tensor, " n"]
    index: int | None
    x: Tensor | None
    x_prime: Tensor | None
    difference: float
    distance: float
    source: str
    other: int | None = None

    def better(self, second: LowerBound) -> LowerBound:
        """The better of two bounds of one name, with each signal's better ratio."""
        won = second if second.value > self.value else self
        return replace(won, ratios=torch.maximum(self.ratios, second.ratios))

    def to_dict(self) -> dict[str, Any]:
        """What JSON keeps: all but the signals and the other examples' ratios."""
        kept = ("name", "value", "index", "other", "difference", "distance", "source")
        found = {name: getattr(self, name) for name in kept}
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in found.items()}

    def __str__(self) -> str:
        return str(LowerBounds((self,)))


@dataclass(frozen=True, eq=False)
class LowerBounds:
    """Lower bounds of one function's RKHS norm; ``print`` it.

    Parameters
    ----------
    bounds
        One or more.
    exact
        The norm, where it is known.
    """

    bounds: tuple[LowerBound, ...]
    exact: float | None = None

    @property
    def best(self) -> LowerBound:
        """The largest."""
        return max(self.bounds, key=lambda bound: bound.value)

    def to_dict(self) -> dict[str, Any]:
        """What JSON keeps."""
        return {"exact": self.exact, "bounds": [bound.to_dict() for bound in self.bounds]}

    def __getitem__(self, name: str) -> LowerBound:
        for bound in self.bounds:
            if bound.name == name:
                return bound
        raise KeyError(name)

    def __str__(self) -> str:
        head = ["lower bound from", "||f|| >=", "example", "|f(x') - f(x)|", "moved at most", "by"]
        rows = [head + (["of the exact norm"] if self.exact else [])]
        for bound in self.bounds:
            where = "-" if bound.index is None else str(bound.index)
            where += "" if bound.other is None else f", {bound.other}"
            pair = ["-" if math.isnan(v) else f"{v:.4g}" for v in (bound.difference, bound.distance)]
            row = [bound.name, f"{bound.value:.4g}", where, *pair, bound.source]
            rows.append(row + ([f"{100 * bound.value / self.exact:.1f}%"] if self.exact else []))
        end = "" if self.exact is None else f"\nexact: ||f|| = {self.exact:.4g}"
        return columns(rows) + end

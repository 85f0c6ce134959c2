"""Balls about signals within bounds on their pixels: lengths, projections, and maximizers of linear functions.

Over an l2 ball and a box both the projection of a point ``v`` and the maximizer of ``<v, delta>`` are ``clip(t v, low,
high)`` for some t (their optimality conditions): for the projection the largest t <= 1 that keeps the length within the
radius, for the maximizer the largest of all. It is found exactly, by sorting the t at which pixels reach a bound.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.signals import per_example

__all__ = ["farthest_in_box", "lengths", "project"]

_SHORTENED = (1e-6, 1e-4, 1e-2)  # by what share, should a few units of rounding not do


def lengths(delta: Float[Tensor, "n ..."], norm: Literal["2", "inf"]) -> Float[Tensor, " n"]:
    """Of perturbations, float64."""
    flat = delta.double().flatten(1)
    return flat.norm(dim=1) if norm == "2" else flat.abs().amax(1)


def project(
    moved: Float[Tensor, "n ..."],
    x: Float[Tensor, "n ..."],
    norm: Literal["2", "inf"],
    radius: float | Float[Tensor, " n"],
    bounds: tuple[float, float] | None,
) -> Float[Tensor, "n ..."]:
    """The point of a ball about `x`, within bounds, that is nearest to `moved`; never outside by rounding.

    Parameters
    ----------
    moved, x
        Shape (n, ...).
    norm
        ``"2"`` or ``"inf"``.
    radius
        One number, or one for each example.
    bounds
        Least and largest value of a pixel, or ``None``; `x` is within them.
    """
    limit = torch.as_tensor(radius, dtype=torch.float64, device=x.device).expand(len(x))
    delta = moved - x
    if norm == "inf":
        # the bound is rounded to the precision of x: what that adds is taken off below
        reach = per_example(limit.to(x), x)
        found = x + torch.minimum(torch.maximum(delta, -reach), reach)
    else:
        length = lengths(delta, "2")
        share = torch.where(length > limit, limit / length, 1.0).to(delta)
        found = x + delta * per_example(share, delta)
    if bounds is not None:
        if norm == "2":
            found = _both_matter(found, moved, x, limit, bounds)
        found = found.clamp(*bounds)
    return _shortened(found, x, norm, limit)


def farthest_in_box(
    gradient: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."], radius: float, bounds: tuple[float, float]
) -> Float[Tensor, "n ..."]:
    """Of all points within bounds and an l2 ball about `x`, the one where ``<gradient, .>`` is largest."""
    limit = x.new_full((len(x),), radius, dtype=torch.float64)
    found = (x + _filled(gradient, x, limit, bounds, math.inf)).clamp(*bounds)
    return _shortened(found, x, "2", limit)


def _both_matter(found: Tensor, moved: Tensor, x: Tensor, limit: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Shortening and then clipping is the projection unless both do something; there it is filled up."""
    out = ((found < bounds[0]) | (found > bounds[1])).flatten(1).any(1)
    rows = (out & (lengths(moved.clamp(*bounds) - x, "2") > limit)).nonzero()[:, 0]
    if not len(rows):
        return torch.where(per_example(out, x), moved, found)
    filled = x[rows] + _filled(moved[rows] - x[rows], x[rows], limit[rows], bounds, 1.0)
    return torch.where(per_example(out, x), moved, found).index_copy(0, rows, filled)


def _filled(vectors: Tensor, x: Tensor, limit: Tensor, bounds: tuple[float, float], most: float) -> Tensor:
    """``clip(t v, low - x, high - x)`` with the largest t of at most `most` that makes it no longer than the limit."""
    v, point = vectors.double().flatten(1), x.double().flatten(1)
    largest = v.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)  # squares of small entries would vanish
    v = v / scale
    low, high = (bounds[0] - point).clamp(max=0), (bounds[1] - point).clamp(min=0)
    reach = torch.where(v > 0, high, torch.where(v < 0, -low, 0.0))
    stops = torch.where(v != 0, reach / v.abs(), math.inf)  # t at which a pixel comes to its bound
    stops, order = stops.sort(dim=1)
    squares = v.square().gather(1, order)
    moving = squares.flip(1).cumsum(1).flip(1)  # of pixels that come to their bounds at that stop or later
    stopped = reach.square().gather(1, order).cumsum(1) - reach.square().gather(1, order)
    # squared length at each stop; at an infinite one all that still move have slope 0
    there = stopped + torch.where(stops.isfinite(), stops.square() * moving, 0.0)
    room = limit.square()[:, None]
    beyond = (there > room) & (moving > 0)
    first = beyond.to(torch.int8).argmax(1, keepdim=True)
    t = ((room - stopped.gather(1, first)).clamp(min=0) / moving.gather(1, first)).sqrt()
    t = torch.where(beyond.any(1, keepdim=True), t, math.inf)
    t = torch.minimum(t, most * scale)
    delta = torch.where(v != 0, t * v, 0.0).clamp(low, high)
    return delta.reshape(x.shape).to(x)


def _shortened(found: Tensor, x: Tensor, norm: Literal["2", "inf"], limit: Tensor) -> Tensor:
    """Points that rounding has left outside, drawn a little towards `x`."""
    exact = x.double()
    for share in (16 * torch.finfo(x.dtype).eps, *_SHORTENED, 1.0):
        outside = lengths(found.double() - exact, norm) > limit
        if not outside.any():
            return found
        found = torch.where(per_example(outside, x), x + (1 - share) * (found - x), found)
    return found

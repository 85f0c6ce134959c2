"""Where a logit rises most in a ball around an example: which examples to look at, and the ascent from them.

A pair is a logit and an example. Pairs come as numbers of logits (L,) and places of examples (L, m), m for each logit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.ascent import unit_direction
from hilbertnet.regularization.functions import Surface, logits_of
from hilbertnet.regularization.gradients import each_gradient, lengths
from hilbertnet.regularization.steps import STEP, ball, fixed_steps

__all__ = ["Rises"]

_Pairs = tuple[Int[Tensor, " logits"], Int[Tensor, "logits m"], Float[Tensor, "logits m ..."]]


@dataclass(frozen=True)
class Rises:
    """A search for the largest rises of logits in balls around the examples of a batch.

    Parameters
    ----------
    f
        From signals (n, ...) to logits (n, outputs), its parameters frozen.
    surface
        Its logits at the batch.
    radius, steps, screen, shared, probe, chunk
        See `hilbertnet.regularization.Delta`.
    """

    f: nn.Module
    surface: Surface
    radius: float
    steps: int
    screen: int | None
    shared: int | None
    probe: int | None
    chunk: int

    def highest(self, chosen: Int[Tensor, " classes"]) -> tuple[Int[Tensor, " classes"], Float[Tensor, "classes ..."]]:
        """The place of the example where each of these logits rises most, and the point that it rises to."""
        found = [self._highest(*pairs) for pairs in self._pairs(chosen)]
        return torch.cat([place for place, _ in found]), torch.cat([point for _, point in found])

    @property
    def _x(self) -> Tensor:
        return self.surface.variable.detach()

    @property
    def _values(self) -> Tensor:
        return self.surface.values.detach()

    # --- which pairs

    def _pairs(self, chosen: Tensor) -> Iterator[_Pairs]:
        """For some logits at a time: their numbers, the examples to go on from, and the gradients there."""
        n = len(self._values)
        count = min(self.screen or n, n)
        parts = chosen.split(max(1, self.chunk // count))
        if self.shared is not None and count < n:
            places = self._changes(chosen, self.shared).topk(count, dim=0).indices.T
            for part, rows in zip(parts, places.split(len(parts[0])), strict=True):
                yield part, rows, self._slopes(part, rows)
            return
        gradients = each_gradient(self.surface, chosen)
        for part in parts:
            kept = []
            for gradient in islice(gradients, len(part)):
                steepest = lengths(gradient).topk(count).indices
                kept.append((steepest, gradient[steepest]))
            yield part, torch.stack([rows for rows, _ in kept]), torch.stack([slopes for _, slopes in kept])

    def _changes(self, chosen: Tensor, count: int) -> Float[Tensor, "n classes"]:
        """How much each of these logits changes, in l2, over a chain of probes that they all share.

        A probe is a step from each example to the sphere, along the gradient of one logit: of the lowest one first,
        which has most to gain, then of the one that rose most in the probe before.
        """
        values, done = self._values, torch.ones_like(self._values, dtype=torch.bool)
        done[:, chosen] = False
        promise, total, count = -values, torch.zeros_like(values), min(count, len(chosen))
        for number in range(count):
            own = functional.one_hot(promise.masked_fill(done, -torch.inf).argmax(1), values.shape[1])
            slopes = self.surface.gradient(own.to(values), last=number + 1 == count)
            with torch.no_grad():
                promise = logits_of(self.f, self._x + self.radius * unit_direction(slopes, "2")) - values
            total += promise.square()
            done |= own.bool()
        return total[:, chosen]

    def _slopes(self, logits: Tensor, places: Tensor) -> Float[Tensor, "logits m ..."]:
        """The gradients of pairs."""
        rows, columns, found = places.flatten(), logits[:, None].expand_as(places).flatten(), []
        for part in torch.arange(len(rows), device=rows.device).split(self.chunk):
            own = functional.one_hot(columns[part], self._values.shape[1]).to(self._values)
            found.append(Surface(self.f, self._x[rows[part]]).gradient(own, last=True))
        return torch.cat(found).unflatten(0, places.shape)

    # --- how high

    def _highest(self, logits: Tensor, places: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        row = torch.arange(len(places), device=places.device)
        before = self._values[places, logits[:, None]]
        if self.probe is not None and self.probe < places.shape[1]:
            _, tops = self._climb(logits, places, slopes, self.radius, 1)
            kept = (tops - before).topk(self.probe, dim=1).indices
            places, slopes, before = (of[row[:, None], kept] for of in (places, slopes, before))
        ends, tops = self._climb(logits, places, slopes, STEP * self.radius / self.steps, self.steps)
        best = (tops - before).argmax(1)
        return places[row, best], ends[row, best]

    def _climb(
        self, logits: Tensor, places: Tensor, slopes: Tensor, step: float, steps: int
    ) -> tuple[Float[Tensor, "logits m ..."], Float[Tensor, "logits m"]]:
        """Where steps of this length lead from every pair, and the logit there."""
        rows, columns, slopes = places.flatten(), logits[:, None].expand_as(places).flatten(), slopes.flatten(0, 1)
        ends, tops = [], []
        for part in torch.arange(len(rows), device=rows.device).split(self.chunk):
            end, top = self._ascend(self._x[rows[part]], columns[part], slopes[part], step, steps)
            ends.append(end)
            tops.append(top)
        return torch.cat(ends).unflatten(0, places.shape), torch.cat(tops).view_as(places)

    def _ascend(
        self, x: Float[Tensor, "m ..."], columns: Int[Tensor, " m"], slopes: Tensor, step: float, steps: int
    ) -> tuple[Float[Tensor, "m ..."], Float[Tensor, " m"]]:
        """The same for pairs in a row; the first step goes along the gradients in x, which are known."""

        def height(point: Tensor) -> Tensor:
            return logits_of(self.f, point).gather(1, columns[:, None])[:, 0]

        project = ball(x, self.radius)
        point = project(x + step * unit_direction(slopes, "2"))
        point = fixed_steps(height, point, project, step, steps - 1)
        with torch.no_grad():
            return point, height(point)

"""The nearest misclassified point of each example: attacks that have no radius.

Reference: M. Pintor, F. Roli, W. Brendel and B. Biggio, "Fast minimum-norm adversarial attacks through adaptive norm
constraints", NeurIPS 2021, Algorithm 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.ascent import unit_direction
from hilbertnet.complexity.functions import Model, untouched
from hilbertnet.robustness.boxes import lengths, project
from hilbertnet.robustness.campaign import differentiable, goal_of, read_aims, read_counts, read_examples
from hilbertnet.robustness.goals import Goal, attack_loss
from hilbertnet.robustness.threats import Ball, Norm, read_bounds, read_norm
from hilbertnet.signals import as_rng, per_example

__all__ = ["MinimalNorm", "fmn"]

_STEPS = (1.0, 0.01)  # alpha, first and last: steps over the radius
_SHARES = (0.05, 1e-4)  # gamma, first and last: by how much the radius changes
_LEAST = 1e-6  # the least radius, over the largest
_FARTHEST = 100.0  # the largest radius without bounds, over the length of the signal
_LOOKED_AT = 9  # wrong classes, the likeliest, of which the nearest are aimed at
_HALVINGS = 16  # of the segment to the point that was found


class MinimalNorm(NamedTuple):
    """What a minimal-norm attack found.

    Parameters
    ----------
    x_adv
        Points that are decided as wanted; examples for which none was found, as they are.
    distance
        Their distances from the examples, shape (n,), float64: 0 for examples that were decided so from the start, and
        infinity where none was found.
    """

    x_adv: Float[Tensor, "n ..."]
    distance: Float[Tensor, " n"]


@differentiable
def fmn(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    *,
    norm: Norm = "2",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    steps: int = 25,
    restarts: int = 1,
    target: Int[Tensor, " n"] | None = None,
    targets: int | None = None,
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> MinimalNorm:
    """Fast minimum-norm attack: descents of the margin in a ball that shrinks where it holds a wrong point, else grows.

    As published but for four things, of which the first lets it be used in any units: steps are shares of the radius,
    from 1 to 0.01, and have this length in the attack's own norm; the radius is never so small that it is lost in
    rounding, and never larger than bounds allow; the projection on an l2 ball within bounds is exact; and at last the
    segment from the example to the best point is halved 16 times, which leaves a point just past the boundary.

    Parameters
    ----------
    model, x, y, batch_size
        See `hilbertnet.robustness.attacks.pgd`.
    norm
        Of perturbations: ``"2"`` or ``"inf"``.
    bounds
        Least and largest value of a pixel, or ``None``; then no radius is above a hundred lengths of the signal.
    steps, restarts
        Of the descents. The first starts at `x`, others at random, no farther than what is found already. More
        than some 25 steps change little: descents that aim at other classes change more.
    target
        The wrong class that each example should be taken for, shape (n,); default any.
    targets
        How many wrong classes to aim at beside, one after the other: those of the nine likeliest that are nearest to
        first order; default 3 if there is no `target`. A descent of the margin tends to stay with the likeliest class.
    generator
        Seed or ``torch.Generator`` of the random starts.

    Returns
    -------
    MinimalNorm
        Points, of the shape, dtype and device of `x`, and distances. These are above the least ones.

    Raises
    ------
    ValueError
        As `hilbertnet.robustness.attacks.pgd`.

    Examples
    --------
    >>> weight = torch.tensor([3.0, 4.0])
    >>> found = fmn(lambda z: z @ weight - 2.5, torch.ones(1, 2), torch.tensor([1]))
    >>> found.x_adv, found.distance
    (tensor([[0.4600, 0.2800]]), tensor([0.9000], dtype=torch.float64))
    """
    read_examples(x, y)
    ball = Ball(read_norm(norm), 0.0, read_bounds(bounds))
    ball.check(x)
    read_counts(steps=steps, restarts=restarts, batch_size=batch_size)
    targets = (3 if target is None else 0) if targets is None else targets
    read_aims(target, targets, len(x))
    rng, clean, points, distances = as_rng(generator), x.detach(), [], []
    with untouched(model):
        for first in range(0, len(x), batch_size):
            rows = slice(first, first + batch_size)
            aim = None if target is None else target[rows]
            part = clean[rows]
            goal, scores = goal_of(model, part, y[rows], attack_loss("margin"), aim)
            walk = _Walk(goal, part, scores, ball, steps)
            for number in range(restarts):
                walk.go(goal, walk.draw(rng) if number else part)
            for wrong in walk.nearest(goal.likely(scores, max(_LOOKED_AT, targets)), targets):
                walk.go(goal.towards(wrong), part)
            walk.halve()
            points.append(walk.point)
            distances.append(walk.distance)
    return MinimalNorm(torch.cat(points), torch.cat(distances))


class _Walk:
    """On one batch; `point` and `distance` are the nearest found."""

    def __init__(self, goal: Goal, x: Tensor, scores: Tensor, ball: Ball, steps: int) -> None:
        self.goal, self.x, self.ball, self.steps = goal, x, ball, steps
        self.point = x.clone()
        self.distance = torch.where(goal.reached(scores), 0.0, x.new_full((len(x),), math.inf, dtype=torch.float64))
        self.farthest = self._farthest()

    def _farthest(self) -> Tensor:
        """The largest radius of each example that makes sense."""
        if self.ball.bounds is None:
            size = self.ball.length(self.x)
            return _FARTHEST * torch.where(size > 0, size, 1.0)
        low, high = self.ball.bounds
        return self.ball.length(torch.maximum(self.x - low, high - self.x))

    def draw(self, rng: torch.Generator) -> Tensor:
        """Random points, no farther than the nearest found, and inside the ball of the largest radius."""
        unit = Ball(self.ball.norm, 1.0, None).draw(self.x, rng) - self.x
        return self.x + unit * per_example(torch.minimum(self.distance, self.farthest).to(unit), unit)

    def nearest(self, classes: list[Tensor], count: int) -> list[Tensor]:
        """Of some classes, so many of each example that are nearest to first order, the nearest first."""
        if not 0 < count < len(classes):
            return classes[:count]
        apart = []
        for wrong in classes:
            seen = self.goal.towards(wrong).slope(self.x)
            apart.append(_over(-seen.value, _dual(seen.gradient, self.ball.norm), self.farthest))
        order = torch.stack(apart).argsort(dim=0, stable=True)[:count]
        return list(torch.stack(classes).gather(0, order))

    def go(self, aim: Goal, start: Tensor) -> None:
        """One descent; `aim` tells where to."""
        norm, least = self.ball.norm, _LEAST * self.farthest
        radius = self.farthest
        point = project(start, self.x, norm, radius, self.ball.bounds)
        for k in range(self.steps):
            seen = aim.slope(point)
            reached, size = self._offer(point, seen.scores), lengths(point.double() - self.x.double(), norm)
            gamma, alpha = _cosine(_SHARES, k, self.steps), _cosine(_STEPS, k, self.steps)
            smaller = torch.minimum(radius * (1 - gamma), self.distance)
            ahead = _over(-seen.value.clamp(max=0), _dual(seen.gradient, norm), self.farthest)
            # first order says where the boundary is, until a point past it is known; a little more, to be past it
            larger = torch.where(self.distance.isinf(), (size + ahead) * (1 + gamma), radius * (1 + gamma))
            radius = torch.where(reached, smaller, larger).clamp(min=least, max=self.farthest)
            step = per_example((alpha * radius).to(point), point) * unit_direction(seen.gradient, norm)
            point = project(point + step, self.x, norm, radius, self.ball.bounds)
        self._offer(point, self.goal.scores(point))

    def _offer(self, point: Tensor, scores: Tensor) -> Tensor:
        """Keep what is nearer; returns which are decided as wanted."""
        reached, size = self.goal.reached(scores), lengths(point.double() - self.x.double(), self.ball.norm)
        won = reached & (size < self.distance)
        self.point = torch.where(per_example(won, point), point, self.point)
        self.distance = torch.where(won, size, self.distance)
        return reached

    def halve(self) -> None:
        """Find where the segment to the point leaves its class, and stay a little beyond: rounding differs by batch."""
        found = (self.distance > 0) & self.distance.isfinite()
        if not found.any():
            return
        delta = self.point - self.x
        right, wrong = torch.zeros_like(self.distance), torch.ones_like(self.distance)
        for _ in range(_HALVINGS):
            middle = (right + wrong) / 2
            reached = self.goal.reached(self.goal.scores(self._between(delta, middle)))
            right, wrong = torch.where(reached, right, middle), torch.where(reached, middle, wrong)
        point = self._between(delta, (wrong + 2.0**-_HALVINGS).clamp(max=1))
        self._offer(torch.where(per_example(found, point), point, self.point), self.goal.scores(point))

    def _between(self, delta: Tensor, share: Tensor) -> Tensor:
        point = self.x + per_example(share.to(delta), delta) * delta
        return point if self.ball.bounds is None else point.clamp(*self.ball.bounds)


def _dual(gradient: Tensor, norm: Norm) -> Tensor:
    """Length of gradients in the dual norm, float64."""
    flat = gradient.double().flatten(1)
    return flat.norm(dim=1) if norm == "2" else flat.abs().sum(1)


def _over(value: Tensor, slope: Tensor, most: Tensor) -> Tensor:
    """``value / slope``, at most `most`; also where there is no slope."""
    return torch.minimum(value / torch.where(slope > 0, slope, 1.0), most).where(slope > 0, most)


def _cosine(ends: tuple[float, float], k: int, steps: int) -> float:
    """From the first to the last value along half a cosine."""
    first, last = ends
    return last + (first - last) * (1 + math.cos(math.pi * k / max(steps - 1, 1))) / 2

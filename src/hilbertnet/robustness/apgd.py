"""Projected gradients whose steps are halved by what has been gained, with momentum: Auto-PGD.

Reference: F. Croce and M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, section 3 and Algorithm 1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.ascent import unit_direction
from hilbertnet.complexity.functions import Model
from hilbertnet.robustness.attacks import ball_examples
from hilbertnet.robustness.campaign import campaign, differentiable, read_counts
from hilbertnet.robustness.goals import AttackLoss, Best, Goal
from hilbertnet.robustness.threats import Ball
from hilbertnet.signals import per_example

__all__ = ["apgd", "checkpoints"]

_KEPT = 0.75  # alpha: how much of a step is new, the rest goes on as before
_ENOUGH = 0.75  # rho: the share of steps that should raise the objective
_FIRST, _SHORTER, _LEAST = 0.22, 0.03, 0.06  # of all steps: the first period, by how much the next is shorter, the last


@differentiable
def apgd(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball,
    *,
    steps: int = 100,
    restarts: int = 1,
    random_start: bool = False,
    target: Int[Tensor, " n"] | None = None,
    targets: int = 0,
    loss: AttackLoss = "logistic",
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Float[Tensor, "n ..."]:
    """Auto-PGD: steps are two radii long at first, and halved at checkpoints, back at the best point, if little is won.

    ``loss="logistic"`` is the published APGD-CE, ``"dlr"`` APGD-DLR, and ``loss="dlr", targets=9`` what is published as
    APGD-T, though beside the ascent that is not targeted. As published but for three things: the first start is `x` and
    only the others are random; the projection onto an l2 ball within bounds is exact; and an example that is decided
    wrongly is climbed on to the largest loss.

    Parameters
    ----------
    model, x, y, threat, random_start, target, targets, batch_size
        See `hilbertnet.robustness.attacks.pgd`.
    steps, restarts
        Of the ascents.
    loss
        As of `hilbertnet.robustness.attacks.pgd`. There is no third logit for two classes, where ``"dlr"`` is the
        margin, and no fourth for three, where the targeted ratio takes the third for it.
    generator
        Seed or ``torch.Generator`` of the random starts.

    Returns
    -------
    Tensor
        Adversarial examples, of the shape, dtype and device of `x`, inside the ball and its bounds: of all points that
        were seen, one that is decided as wanted goes before one that is not, then the loss counts.

    Raises
    ------
    ValueError
        As `hilbertnet.robustness.attacks.pgd`.

    Examples
    --------
    >>> weight = torch.tensor([3.0, 4.0])
    >>> apgd(lambda z: z @ weight, torch.zeros(1, 2), torch.tensor([1]), Ball("2", 0.5, None))
    tensor([[-0.3000, -0.4000]])
    """
    ball_examples(x, y, threat)
    read_counts(steps=steps)
    if threat.radius == 0:
        return x.detach().clone()

    def climb(goal: Goal, part: Tensor, first: bool, rng: torch.Generator) -> Tensor:
        return _climb(goal, threat, part, part if first else threat.draw(part, rng), steps)

    return campaign(
        model, x, y, climb, loss=loss, target=target, targets=targets, restarts=restarts,
        random_start=random_start, generator=generator, batch_size=batch_size,
    )  # fmt: skip


def checkpoints(steps: int) -> list[int]:
    """After which steps the length of a step is looked at: ``w_j = ceil(p_j steps)``, increasing, below `steps`.

    ``p_0 = 0``, ``p_1 = 0.22`` and ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)`` (section 3.3), in hundredths to
    be exact.
    """
    shorter, least, period = round(100 * _SHORTER), round(100 * _LEAST), round(100 * _FIRST)
    found, at = [], period
    while at < 100:
        found.append(math.ceil(at * steps / 100))
        period = max(period - shorter, least)
        at += period
    return sorted({w for w in found if w < steps})


def _climb(goal: Goal, threat: Ball, x: Tensor, start: Tensor, steps: int) -> Tensor:
    """Algorithm 1; letters are the paper's."""
    last = point = threat.retract(start, x)
    seen = goal.slope(point)
    best = Best(goal, point, seen.scores)
    top, f_max, top_gradient = point, seen.value, seen.gradient  # of the largest value, decided wrongly or not
    f, gradient = seen.value, seen.gradient
    eta = torch.full_like(f, 2 * threat.radius)
    halved, f_checked, raised, w_last = torch.zeros_like(f, dtype=torch.bool), f, torch.zeros_like(f), 0
    watched = set(checkpoints(steps))
    for k in range(1, steps + 1):
        z = threat.retract(point + per_example(eta.to(x), x) * unit_direction(gradient, threat.norm), x)
        if k > 1:
            z = threat.retract(point + _KEPT * (z - point) + (1 - _KEPT) * (point - last), x)
        last, point = point, z
        seen = goal.slope(point)
        best.offer(point, seen.scores)
        raised = raised + (seen.value > f)
        f, gradient = seen.value, seen.gradient
        higher = f > f_max
        top = torch.where(per_example(higher, x), point, top)
        top_gradient = torch.where(per_example(higher, x), gradient, top_gradient)
        f_max = torch.where(higher, f, f_max)
        if k in watched:
            few = raised < _ENOUGH * (k - w_last)
            stuck = ~halved & (f_max == f_checked)
            halved = few | stuck
            eta = torch.where(halved, eta / 2, eta)
            point = torch.where(per_example(halved, x), top, point)
            gradient = torch.where(per_example(halved, x), top_gradient, gradient)
            f = torch.where(halved, f_max, f)
            f_checked, raised, w_last = f_max, torch.zeros_like(f), k
    return best.point

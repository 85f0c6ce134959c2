"""Attacks: pure functions ``(model, x, y, threat, *, generator) -> x_adv`` that leave the model as it was.

References: A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018 (projected gradients, restarts); I. Goodfellow, J. Shlens and C. Szegedy, "Explaining
and harnessing adversarial examples", ICLR 2015 (one step). For the losses see `hilbertnet.robustness.goals`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.ascent import projected_ascent, unit_direction
from hilbertnet.complexity.functions import Model
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.robustness.campaign import campaign, differentiable, read_counts, read_examples
from hilbertnet.robustness.goals import AttackLoss, Best, Goal
from hilbertnet.robustness.threats import Ball

__all__ = ["AttackLoss", "ball_examples", "fgm", "pgd"]


@differentiable
def pgd(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball,
    *,
    steps: int = 50,
    restarts: int = 1,
    random_start: bool = False,
    target: Int[Tensor, " n"] | None = None,
    targets: int = 0,
    step_size: float | None = None,
    adapt: bool = True,
    loss: AttackLoss = "margin",
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Float[Tensor, "n ..."]:
    """Projected gradient ascent on a loss inside a ball, the best point of each example kept.

    The first start is `x`, so that the result is never worse than `x`; others are drawn at random inside the ball.

    Parameters
    ----------
    model
        From signals to logits (n, outputs); one output tells two classes apart. A module is taken in eval mode; modes,
        parameters, their gradients and buffers are left as they were.
    x
        Signals, shape (n, ...), on the device of the model.
    y
        Numbers of classes, shape (n,).
    threat
        The ball.
    steps, restarts
        Of the ascents.
    random_start
        Whether the first start is drawn too, as for an attack that is tried once more.
    target
        The wrong class that each example should be taken for, shape (n,); default any.
    targets
        How many wrong classes to aim at beside, one after the other, the likeliest first: each is an ascent of ``f_j -
        f_y`` from `x` (of the targeted ratio for ``"dlr"``). Ascents of the margin tend to stay with the class that is
        nearest at first.
    step_size
        Length of the first step, in units of the signals; default 2.5 radii over `steps`, with `adapt` a quarter of the
        radius at least.
    adapt
        Whether steps adapt by themselves (`hilbertnet.ascent.projected_ascent`). Otherwise all have the same length, as
        published, and each goes on from where the last has led.
    loss
        ``"margin"`` (how much the best wrong logit is above the right one), ``"logistic"`` (cross-entropy), ``"dlr"``
        (the margin over the distance of the largest logit from the third, which no scale of the logits changes; the
        margin for two classes), ``"squared_hinge"``, or a function from logits and labels to losses (n,). With `target`
        it is that of the target, to be made small; the margin of the target, to be made large.
    generator
        Seed or ``torch.Generator`` of the random starts.
    batch_size
        Signals at a time; it does not change the result unless there are restarts.

    Returns
    -------
    Tensor
        Adversarial examples, of the shape, dtype and device of `x`, inside the ball and its bounds. Points of several
        ascents that are decided as wanted go before those that are not, then the loss counts.

    Raises
    ------
    ValueError
        If an argument is not of this form, signals are out of bounds, or the model is not differentiable or not finite.

    Examples
    --------
    >>> weight = torch.tensor([3.0, 4.0])
    >>> pgd(lambda z: z @ weight, torch.zeros(1, 2), torch.tensor([1]), Ball("2", 0.5, None))
    tensor([[-0.3000, -0.4000]])
    """
    ball_examples(x, y, threat)
    read_counts(steps=steps)
    share = max(0.25, 2.5 / steps) if adapt else 2.5 / steps
    step = share * threat.radius if step_size is None else _step("step_size", step_size)
    if threat.radius == 0:
        return x.detach().clone()

    def climb(goal: Goal, part: Tensor, first: bool, rng: torch.Generator) -> Tensor:
        start = threat.retract(part if first else threat.draw(part, rng), part)
        if not adapt:
            return _fixed(goal, threat, part, start, steps, step)
        return projected_ascent(
            goal.value,
            lambda z: threat.retract(z, part),
            start,
            steps=steps,
            step_size=step,
            direction=threat.norm,
        ).point

    return campaign(
        model, x, y, climb, loss=loss, target=target, targets=targets, restarts=restarts,
        random_start=random_start, generator=generator, batch_size=batch_size,
    )  # fmt: skip


@differentiable
def fgm(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball,
    *,
    target: Int[Tensor, " n"] | None = None,
    targets: int = 0,
    loss: AttackLoss = "logistic",
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Float[Tensor, "n ..."]:
    """One step along the gradient of the loss, to where its linear part is largest in the ball and within its bounds.

    That point is exact, also in l2 within bounds. Where it is worse than `x`, the example stays as it is.

    Parameters
    ----------
    model, x, y, threat, target, targets, loss, batch_size
        See `pgd`.
    generator
        Nothing is random here.

    Returns
    -------
    Tensor
        As of `pgd`.

    Raises
    ------
    ValueError
        As `pgd`.

    Examples
    --------
    The second pixel comes to its bound, so that the first can go farther:

    >>> weight = torch.tensor([3.0, 4.0])
    >>> fgm(lambda z: z @ weight, torch.tensor([[0.9, 0.3]]), torch.tensor([1]), Ball("2", 0.5))
    tensor([[0.5000, 0.0000]])
    """
    ball_examples(x, y, threat)
    if threat.radius == 0:
        return x.detach().clone()
    return campaign(
        model, x, y, lambda goal, part, _first, _rng: threat.steepest(goal.slope(part).gradient, part), loss=loss,
        target=target, targets=targets, generator=generator, batch_size=batch_size,
    )  # fmt: skip


def ball_examples(x: Any, y: Any, threat: Any) -> None:
    """Refuse what is no ball, and signals that are not in its bounds."""
    read_examples(x, y)
    if not isinstance(threat, Ball):
        raise ValueError(f"threat: expected a Ball, got {threat!r}")
    threat.check(x)


def _step(name: str, value: Any) -> float:
    """A positive length; the message is that of `projected_ascent`."""
    try:
        return real_number(name, value, above=0.0)
    except ValueError:
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}") from None


def _fixed(goal: Goal, threat: Ball, x: Tensor, start: Tensor, steps: int, step: float) -> Tensor:
    """Steps of one length, each from where the last has led."""
    point, best = start, Best(goal, start, goal.scores(start))
    for _ in range(steps):
        seen = goal.slope(point)
        best.offer(point, seen.scores)
        point = threat.retract(point + step * unit_direction(seen.gradient, threat.norm), x)
    best.offer(point, goal.scores(point))
    return best.point

"""What attacks raise: losses of logits, away from the right class or towards another; and the best points they see.

References: N. Carlini and D. Wagner, "Towards evaluating the robustness of neural networks", IEEE Symposium on Security
and Privacy 2017 (the margin); F. Croce and M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", ICML 2020 (the difference of logits ratio, equations 6 and 7); S. Gowal, J. Uesato, C.
Qin, P.-S. Huang, T. Mann and P. Kohli, "An alternative surrogate loss for PGD-based adversarial testing", 2019 (the
targets).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from hilbertnet.ascent import value_and_gradient
from hilbertnet.complexity.functions import Model, outputs
from hilbertnet.complexity.margins import margins
from hilbertnet.losses import decide, losses, read_labels, signs
from hilbertnet.signals import per_example
from hilbertnet.text import nearest

__all__ = ["AttackLoss", "Best", "Goal", "Seen", "attack_loss", "read_targets"]

_Named = Literal["margin", "logistic", "squared_hinge", "dlr"]
AttackLoss = _Named | Callable[[Tensor, Tensor], Tensor]
_LOSSES = get_args(_Named)

_Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From scores, labels and target classes, or none, to what is raised (n,)."""


class Seen(NamedTuple):
    """A model at some points: what is raised, its gradient in the points, and the logits."""

    value: Float[Tensor, " n"]
    gradient: Float[Tensor, "n ..."]
    scores: Float[Tensor, "n outputs"]


@dataclass(frozen=True, eq=False)
class Goal:
    """What an attack is after on one batch.

    Parameters
    ----------
    model
        From signals to logits.
    labels
        The right classes, shape (n,).
    loss
        See `attack_loss`.
    target
        The wrong class that each example should be taken for, shape (n,), or ``None`` for any.
    """

    model: Model
    labels: Int[Tensor, " n"]
    loss: _Loss
    target: Int[Tensor, " n"] | None = None

    def of(self, scores: Float[Tensor, "n outputs"]) -> Float[Tensor, " n"]:
        """What is raised, float64: small differences count."""
        found = self.loss(scores, self.labels, self.target)
        if not isinstance(found, Tensor) or found.shape != (len(scores),):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"loss: expected a tensor of {len(scores)} values, one for each example, got {got}")
        return found

    def reached(self, scores: Float[Tensor, "n outputs"]) -> Bool[Tensor, " n"]:
        """Which examples are taken for their targets, or for any wrong class."""
        decided = decide(scores)
        return decided != self.labels if self.target is None else decided == self.target

    def value(self, z: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """What is raised, at these points."""
        return self.of(outputs(self.model, z))

    @torch.no_grad()
    def scores(self, z: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
        """Logits."""
        return outputs(self.model, z)

    def slope(self, z: Float[Tensor, "n ..."]) -> Seen:
        """Everything at these points."""
        kept = []

        def objective(point: Tensor) -> Tensor:
            scores = outputs(self.model, point)
            kept.append(scores.detach())
            return self.of(scores)

        value, gradient = value_and_gradient(objective, z)
        return Seen(value, gradient, kept[0])

    def towards(self, target: Int[Tensor, " n"]) -> Goal:
        """One class: the ratio of logits if that is the loss, else the lead ``f_target - f_label``."""
        return replace(self, loss=_dlr if self.loss is _dlr else _lead, target=target)

    def likely(self, scores: Float[Tensor, "n outputs"], count: int) -> list[Int[Tensor, " n"]]:
        """So many wrong classes of each example, the likeliest first, at most all; none for one output."""
        if scores.shape[1] == 1 or not count:
            return []
        order = scores.scatter(1, self.labels[:, None], -math.inf).argsort(dim=1, descending=True, stable=True)
        return list(order[:, : min(count, scores.shape[1] - 1)].unbind(1))


class Best:
    """The best points so far: of those that reach the goal, where there are any, the one of the largest value.

    Of equal values the margin decides: cross-entropies of sure models differ by less than can be represented.
    """

    def __init__(self, goal: Goal, point: Float[Tensor, "n ..."], scores: Float[Tensor, "n outputs"]) -> None:
        self.goal, self.point = goal, point
        self.rank = self._rank(scores)

    def offer(self, point: Float[Tensor, "n ..."], scores: Float[Tensor, "n outputs"]) -> None:
        """Keep those that are better."""
        rank, won = self._rank(scores), torch.zeros(len(point), dtype=torch.bool, device=point.device)
        tied = ~won
        for new, old in zip(rank, self.rank, strict=True):
            won = won | (tied & (new > old))
            tied = tied & (new == old)
        self.point = torch.where(per_example(won, point), point, self.point)
        self.rank = [torch.where(won, new, old) for new, old in zip(rank, self.rank, strict=True)]

    @torch.no_grad()
    def _rank(self, scores: Tensor) -> list[Tensor]:
        """What is compared, one after the other, each of shape (n,)."""
        goal = self.goal
        return [goal.reached(scores), goal.of(scores), _margin(scores, goal.labels, goal.target)]


def read_targets(target: Any, y: Int[Tensor, " n"], n: int, count: int) -> Int[Tensor, " n"]:
    """Wrong classes that examples should be taken for.

    Raises
    ------
    ValueError
        If they are no numbers of classes, or one is the example's own.
    """
    try:
        found = read_labels(target, n, count, y.device)
    except ValueError as error:
        raise ValueError(f"target{str(error).removeprefix('y')}") from None
    if (found == y).any():
        first = int((found == y).nonzero()[0])
        raise ValueError(f"target: expected classes other than those of y, got {int(found[first])} at example {first}")
    return found


# --- losses


def attack_loss(loss: AttackLoss) -> _Loss:
    """A loss by its name, or a function from logits and labels to losses (n,).

    With a target it is that of the target class, less instead of more of it; for ``"dlr"`` the targeted ratio.

    Raises
    ------
    ValueError
        If there is no such loss.
    """
    if not isinstance(loss, str) and callable(loss):
        own = loss
        return lambda scores, y, target: own(scores, y) if target is None else -own(scores, target)
    if loss == "margin":
        return _margin
    if loss == "dlr":
        return _dlr
    if loss not in _LOSSES:
        known = ", ".join(map(repr, _LOSSES))
        raise ValueError(f"loss: expected {known} or a function, got {loss!r}{nearest(str(loss), _LOSSES)}")
    plain = _logistic if loss == "logistic" else _squared_hinge
    return lambda scores, y, target: plain(scores.double(), y) if target is None else -plain(scores.double(), target)


def _squared_hinge(scores: Tensor, y: Tensor) -> Tensor:
    return losses("squared_hinge", scores, signs(y, scores.shape[1], torch.float64))


def _logistic(scores: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy as ``log(1 + exp(-margin of soft maxima))``, which is not rounded to 0 where a model is sure."""
    if scores.shape[1] == 1:
        return losses("logistic", scores, signs(y, 1, torch.float64))
    others = scores.scatter(1, y[:, None], -math.inf).logsumexp(1)
    return functional.softplus(others - scores.gather(1, y[:, None])[:, 0])


def _margin(scores: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    return -margins(scores.double(), y) if target is None else margins(scores.double(), target)


def _lead(scores: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``f_target - f_y``."""
    if target is None or scores.shape[1] == 1:
        return _margin(scores, y, target)
    return (scores.double().gather(1, torch.stack([target, y], 1)) * scores.new_tensor([1.0, -1.0])).sum(1)


def _dlr(scores: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """The lead over the distance of the largest logit from the third, or with a target from the third and the fourth.

    There is no third logit for two classes, where it is the lead alone, and no fourth for three, where it is the third.
    """
    values = scores.double()
    lead = _margin(values, y, None) if target is None else _lead(values, y, target)
    if scores.shape[1] < 3:
        return lead
    top = values.topk(min(4, scores.shape[1]), dim=1).values
    low = top[:, 2] if target is None else top[:, 2:].mean(1)
    apart = top[:, 0] - low
    # three logits alike, or all of them 0: a ratio to their distance would be infinite
    return lead / torch.where(apart > 1e-12 * values.abs().amax(1), apart, 1.0)

"""Attacks: pure functions ``(model, x, y, threat, *, generator) -> x_adv`` that leave the model as it was.

References: A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018 (projected gradients, restarts); N. Carlini and D. Wagner, "Towards evaluating the
robustness of neural networks", IEEE Symposium on Security and Privacy 2017 (the margin as objective); S. Gowal, J.
Uesato, C. Qin, P.-S. Huang, T. Mann and P. Kohli, "An alternative surrogate loss for PGD-based adversarial testing",
2019 (targets).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.ascent import Ascent, Objective, Start, projected_ascent, unit_direction
from hilbertnet.complexity.functions import Model, outputs, read_labels, untouched
from hilbertnet.complexity.margins import margins
from hilbertnet.losses import losses, signs
from hilbertnet.robustness.threats import Ball
from hilbertnet.signals import as_rng, is_count, per_example
from hilbertnet.text import nearest

__all__ = ["AttackLoss", "pgd", "read_examples"]

AttackLoss = Literal["margin", "logistic", "squared_hinge"] | Callable[[Tensor, Tensor], Tensor]
_LOSSES = ("margin", "logistic", "squared_hinge")


def pgd(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball,
    *,
    steps: int = 50,
    restarts: int = 1,
    targets: int = 0,
    step_size: float | None = None,
    loss: AttackLoss = "margin",
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Float[Tensor, "n ..."]:
    """Projected gradient ascent on a loss inside a ball, the best point of each example kept.

    Steps adapt by themselves (`hilbertnet.ascent.projected_ascent`). The first start is `x`, so that the loss is never
    below that at `x`; others are drawn at random inside the ball.

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
    targets
        How many wrong classes to aim at beside, one after the other, the likeliest first: each is an ascent of ``f_j -
        f_y`` from `x`. Ascents of the margin tend to stay with the class that is nearest at first.
    step_size
        Length of the first step, in units of the signals; default a quarter of the radius.
    loss
        ``"margin"`` (how much the best wrong logit is above the right one), ``"logistic"``, ``"squared_hinge"``, or a
        function from logits and labels to losses (n,).
    generator
        Seed or ``torch.Generator`` of the random starts.
    batch_size
        Signals at a time; it does not change the result unless there are restarts.

    Returns
    -------
    Tensor
        Adversarial examples, of the shape, dtype and device of `x`, inside the ball and its bounds.

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
    read_examples(x, y)
    if not isinstance(threat, Ball):
        raise ValueError(f"threat: expected a Ball, got {threat!r}")
    if not is_count(batch_size):
        raise ValueError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}")
    threat.check(x)
    if not is_count(targets) and targets != 0:
        raise ValueError(f"targets: expected a whole number of at least 0, got {targets!r}")
    rng, clean, step = as_rng(generator), x.detach(), threat.radius / 4 if step_size is None else step_size
    if threat.radius == 0:
        return clean.clone()
    parts = []
    with untouched(model):
        for part, labels in zip(clean.split(batch_size), torch.as_tensor(y).split(batch_size), strict=True):
            attack = _Attack(model, part, labels, threat, _loss(loss), steps, step)
            parts.append(attack.run(restarts, targets, rng))
    return torch.cat(parts)


def read_examples(x: Any, y: Any) -> None:
    """Refuse what are no signals with as many labels; `y` itself is checked against the model's outputs later."""
    if not isinstance(x, Tensor) or x.ndim < 2 or 0 in x.shape or x.dtype not in (torch.float32, torch.float64):
        got = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected a float32 or float64 tensor of signals (n, ...), got {got}")
    if not torch.isfinite(x).all():
        raise ValueError(f"x: expected finite numbers, got others at example {_first_bad(x)}")
    shape = tuple(y.shape) if hasattr(y, "shape") else (len(y),) if hasattr(y, "__len__") else ()
    if shape != (len(x),):
        raise ValueError(f"y: expected {len(x)} numbers of classes, one for each signal, got shape {shape}")


def _first_bad(x: Tensor) -> int:
    return int((~torch.isfinite(x).flatten(1).all(1)).nonzero()[0])


@dataclass(frozen=True)
class _Attack:
    """On one batch."""

    model: Model
    x: Tensor
    y: Tensor
    threat: Ball
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int
    step_size: float

    def run(self, restarts: int, targets: int, rng: torch.Generator) -> Tensor:
        starts = iter([self.x])

        def start(generator: torch.Generator) -> Tensor:
            found = next(starts, None)
            return _draw(self.x, self.threat, generator) if found is None else found

        best = self._climb(self.value, start, restarts, rng)
        if not targets:
            return best.point
        point, value = best.point, best.value
        for target in self._targets(targets):
            moved = self._climb(lambda z, j=target: self._lead(z, j), self.x, 1, rng).point  # type: ignore[misc]
            with torch.no_grad():
                found = self.value(moved)
            won = found > value
            point = torch.where(per_example(won, moved), moved, point)
            value = torch.where(won, found, value)
        return point

    def value(self, z: Tensor) -> Tensor:
        """The loss."""
        return self.loss(outputs(self.model, z), self.y)

    def _climb(self, objective: Objective, start: Start, restarts: int, rng: torch.Generator) -> Ascent:
        return projected_ascent(
            objective,
            lambda z: self.threat.retract(z, self.x),
            start,
            steps=self.steps,
            step_size=self.step_size,
            direction=self.threat.norm,
            generator=rng,
            restarts=restarts,
        )

    @torch.no_grad()
    def _targets(self, count: int) -> list[Tensor]:
        """Wrong classes of each example, the likeliest first; none for one output."""
        scores = outputs(self.model, self.x)
        labels = read_labels(self.y, len(scores), scores.shape[1], scores.device)
        order = scores.scatter(1, labels[:, None], -math.inf).argsort(1, descending=True)
        return list(order[:, : min(count, scores.shape[1] - 1)].unbind(1))

    def _lead(self, z: Tensor, target: Tensor) -> Tensor:
        """``f_j - f_y``."""
        scores = outputs(self.model, z).double()
        pair = torch.stack([target, self.y.to(target)], 1)
        return scores.gather(1, pair) @ scores.new_tensor([1.0, -1.0])


def _draw(x: Tensor, threat: Ball, rng: torch.Generator) -> Tensor:
    """Uniform in the l_inf ball; of uniform direction and length in the l2 ball."""
    if threat.norm == "inf":
        drawn = 2 * torch.rand(x.shape, generator=rng, dtype=torch.float64) - 1
    else:
        share = torch.rand(len(x), generator=rng, dtype=torch.float64)
        drawn = unit_direction(torch.randn(x.shape, generator=rng, dtype=torch.float64), "2")
        drawn = drawn * per_example(share, x)
    return x + (threat.radius * drawn).to(x)


def _loss(loss: AttackLoss) -> Callable[[Tensor, Tensor], Tensor]:
    """From logits and labels to losses (n,), float64: small differences count."""
    if callable(loss):
        return loss
    if loss == "margin":
        return lambda scores, y: -margins(scores.double(), y)
    if loss not in _LOSSES:
        known = ", ".join(map(repr, _LOSSES))
        raise ValueError(f"loss: expected {known} or a function, got {loss!r}{nearest(str(loss), _LOSSES)}")
    name = loss

    def value(scores: Tensor, y: Tensor) -> Tensor:
        labels = read_labels(y, len(scores), scores.shape[1], scores.device)
        return losses(name, scores.double(), signs(labels, scores.shape[1], torch.float64))

    return value

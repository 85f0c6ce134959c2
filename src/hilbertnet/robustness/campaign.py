"""What all attacks of a given size do alike: arguments, batches, starts, targets, the best point of each example."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.complexity.functions import Model, outputs, untouched
from hilbertnet.losses import read_labels
from hilbertnet.robustness.goals import AttackLoss, Best, Goal, attack_loss, read_targets
from hilbertnet.signals import as_rng, is_count

__all__ = ["Climb", "campaign", "differentiable", "goal_of", "read_aims", "read_counts", "read_examples"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

Climb = Callable[[Goal, Tensor, bool, torch.Generator], Tensor]
"""From a goal, signals, whether to start at them or at random, and a generator, to points that the threat allows."""


def differentiable(attack: Callable[_P, _R]) -> Callable[_P, _R]:
    """An attack that callers in inference mode may use, and with tensors from there: copies can be differentiated."""

    def plain(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    @functools.wraps(attack)
    def called(*args: Any, **options: Any) -> Any:
        with torch.inference_mode(False):
            return attack(*map(plain, args), **{name: plain(value) for name, value in options.items()})

    return called


def campaign(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    climb: Climb,
    *,
    loss: AttackLoss,
    target: Int[Tensor, " n"] | None = None,
    targets: int = 0,
    restarts: int = 1,
    random_start: bool = False,
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Float[Tensor, "n ..."]:
    """The best point of each example over all its climbs; the model is left as it was.

    The first climb starts at the signals, the `restarts` - 1 others at random; then one, from the signals, for each of
    the `targets` likeliest wrong classes. With `random_start` none starts at the signals. A point that is decided as
    the attack wants is better than one that is not, and of two such points that of the larger loss; the signals
    themselves count, so that nothing gets worse.

    Parameters
    ----------
    climb
        From a goal, signals, whether to start at them, and a generator, to points.
    model, x, y, loss, target, targets, restarts, random_start, generator, batch_size
        See `hilbertnet.robustness.attacks.pgd`.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    read_examples(x, y)
    read_aims(target, targets, len(x))
    read_counts(restarts=restarts, batch_size=batch_size)
    if not isinstance(random_start, bool):
        raise ValueError(f"random_start: expected True or False, got {random_start!r}")
    raised, rng, clean, parts = attack_loss(loss), as_rng(generator), x.detach(), []
    with untouched(model):
        for first in range(0, len(x), batch_size):
            rows = slice(first, first + batch_size)
            part = clean[rows]
            goal, scores = goal_of(model, part, y[rows], raised, None if target is None else target[rows])
            best = Best(goal, part, scores)
            for number in range(restarts):
                found = climb(goal, part, number == 0 and not random_start, rng)
                best.offer(found, goal.scores(found))
            for aim in goal.likely(scores, targets):
                found = climb(goal.towards(aim), part, not random_start, rng)
                best.offer(found, goal.scores(found))
            parts.append(best.point.clone())
    return torch.cat(parts)


def goal_of(model: Model, x: Tensor, y: Any, loss: Callable[..., Tensor], target: Any) -> tuple[Goal, Tensor]:
    """The goal on a batch, labels checked against the model's outputs, and the logits there."""
    with torch.no_grad():
        scores = outputs(model, x)
    labels = read_labels(y, len(x), scores.shape[1], scores.device)
    aim = None if target is None else read_targets(target, labels, len(x), scores.shape[1])
    return Goal(model, labels, loss, aim), scores


def read_examples(x: Any, y: Any) -> None:
    """Refuse what are no signals with as many labels; `y` itself is checked against the model's outputs later."""
    if not isinstance(x, Tensor) or x.ndim < 2 or 0 in x.shape or x.dtype not in (torch.float32, torch.float64):
        got = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected a float32 or float64 tensor of signals (n, ...), got {got}")
    if not torch.isfinite(x).all():
        first = int((~torch.isfinite(x).flatten(1).all(1)).nonzero()[0])
        raise ValueError(f"x: expected finite numbers, got others at example {first}")
    _check_length("y", y, len(x))


def read_aims(target: Any, targets: Any, n: int) -> None:
    """Refuse targets of both kinds, and what are none."""
    read_counts(0, targets=targets)
    if target is None:
        return
    if targets:
        raise ValueError(f"targets: expected 0 when the target of each example is given, got {targets!r}")
    _check_length("target", target, n)


def _check_length(name: str, values: Any, n: int) -> None:
    shape = tuple(values.shape) if hasattr(values, "shape") else (len(values),) if hasattr(values, "__len__") else ()
    if shape != (n,):
        raise ValueError(f"{name}: expected {n} numbers of classes, one for each signal, got shape {shape}")


def read_counts(least: int = 1, **counts: Any) -> None:
    """Refuse what are no whole numbers of at least 0 or 1."""
    for name, value in counts.items():
        if not is_count(value) and not (least == 0 and value == 0 and not isinstance(value, bool)):
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")

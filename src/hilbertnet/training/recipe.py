"""What a training is asked for, and what it records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hilbertnet.signals import is_count
from hilbertnet.text import check_word

__all__ = ["DivergedError", "Epoch", "Recipe", "ended"]


class DivergedError(ValueError):
    """The loss of a batch is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How long and in what portions to train.

    Parameters
    ----------
    epochs
        Passes over the training data, at most.
    batch_size
        Examples in a batch; the last batch of an epoch may have fewer.
    seed
        Of the order of examples, of augmentation and of whatever is random in the model.
    clip
        Largest norm of the gradient, or ``None``.
    patience
        Stop after so many evaluations in a row that are no better, or ``None``.
    evaluate_every
        Epochs between two evaluations; the last epoch is always evaluated.
    precision
        ``"float32"`` (the model's own dtype), or ``"bfloat16"`` or ``"float16"`` for mixed precision by autocast.

    Raises
    ------
    ValueError
        If a count is no whole number of at least 1, `clip` not positive, or the precision unknown.
    """

    epochs: int
    batch_size: int = 128
    seed: int = 0
    clip: float | None = None
    patience: int | None = None
    evaluate_every: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "evaluate_every"):
            value = getattr(self, name)
            if not is_count(value) and not (name == "patience" and value is None):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        clip = self.clip
        real = isinstance(clip, int | float) and not isinstance(clip, bool)
        if clip is not None and not (real and 0 < clip < math.inf):
            raise ValueError(f"clip: expected a positive finite number or None, got {clip!r}")
        check_word("precision", self.precision, ("float32", "bfloat16", "float16"))


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch; accuracies in [0, 1], ``None`` where nothing was evaluated."""

    number: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float

    def better_than(self, other: Epoch | None) -> bool:
        """Whether validation says so: by accuracy, ties by loss."""
        if self.validation_accuracy is None or self.validation_loss is None:
            return False
        if other is None or other.validation_accuracy is None or other.validation_loss is None:
            return True
        mine = (self.validation_accuracy, -self.validation_loss)
        return mine > (other.validation_accuracy, -other.validation_loss)


def ended(history: list[Epoch], patience: int | None) -> bool:
    """Whether the last evaluations were no better than one before them."""
    if patience is None:
        return False
    best, since = None, 0
    for epoch in history:
        if epoch.validation_accuracy is None:
            continue
        best, since = (epoch, 0) if epoch.better_than(best) else (best, since + 1)
    return since >= patience

"""What is minimized, and how it is measured on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.losses import LOSSES, Loss, decide, losses, read_labels, signs
from hilbertnet.protocols import Penalty
from hilbertnet.text import check_word

__all__ = [
    "Data",
    "Objective",
    "classification_loss",
    "device_of",
    "evaluate",
    "evaluating",
    "followed",
    "follows",
    "logits_of",
]

Data = tuple[Tensor, Tensor]
Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def classification_loss(loss: Loss = "logistic") -> Objective:
    """The mean loss of a batch and the decision values, as `train` takes them.

    Parameters
    ----------
    loss
        ``"logistic"``, ``"squared_hinge"`` or ``"ridge"``; one output stands for two classes, and may come without
        its axis. Called with labels that are not numbers of classes of the model, it raises ``ValueError``.

    Raises
    ------
    ValueError
        If `loss` is another word.
    """
    check_word("loss", loss, LOSSES)
    return _ClassificationLoss(loss)


@dataclass(frozen=True)
class _ClassificationLoss:
    """What `classification_loss` gives: its decision values are those of the model at the batch itself."""

    loss: Loss

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits_of(model, x)
        labels = read_labels(y, len(x), scores.shape[1], scores.device)
        return losses(self.loss, scores, signs(labels, scores.shape[1], scores.dtype)).mean(), scores


def logits_of(model: nn.Module, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
    """Logits in at least float32, one row for each signal; one output may come without its axis.

    Raises
    ------
    ValueError
        If they are not of this form.
    """
    found = model(x)
    if isinstance(found, Tensor) and found.ndim == 1:
        found = found[:, None]
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x) or not found.is_floating_point():
        got = f"shape {tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"model: expected logits of shape ({len(x)},) or ({len(x)}, outputs), got {got}")
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def followed(
    objective: Objective, penalty: Penalty | None, model: nn.Module, x: Float[Tensor, "n ..."]
) -> tuple[Float[Tensor, "n ..."], dict[str, bool]]:
    """The signals of a step, and what its penalty is told beside the decision values.

    Where decision values are known to be the model's at the batch itself, and the penalty says that it `follows`, the
    signals are a copy that requires a gradient, and the penalty goes back the way of the step, ``back=True``.
    """
    own = isinstance(objective, _ClassificationLoss) and x.is_floating_point() and not x.requires_grad
    trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    if not (own and trained and follows(penalty, model)):
        return x, {}
    copy = x.detach().clone().requires_grad_()
    copy.register_post_accumulate_grad_hook(_forget)
    return copy, {"back": True}


def _forget(x: Tensor) -> None:
    x.grad = None  # the gradient of a step in its signals, which nobody asked for


def follows(penalty: Penalty | None, model: nn.Module) -> bool:
    """Whether a penalty goes back the way of a training step of this model."""
    asked: Callable[[nn.Module], bool] | None = getattr(penalty, "follows", None)
    return asked is not None and asked(model)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Data, objective: Objective | None = None, *, batch_size: int = 512
) -> tuple[float, float]:
    """Mean loss and accuracy on `data`, in eval mode; every module's mode is left as it was.

    Parameters
    ----------
    model
        Maps a batch to decision values (n, outputs).
    data
        Signals (n, ...) and numbers of classes (n,).
    objective
        As for `train`.
    batch_size
        Signals at a time.
    """
    x, y = data
    objective, device = objective or classification_loss(), device_of(model)
    total, right = 0.0, 0
    with evaluating(model):
        for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            labels = labels.to(device)
            loss, scores = objective(model, part.to(device), labels)
            total += loss.item() * len(part)
            right += int((decide(scores) == labels).sum())
    return total / len(x), right / len(x)


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(iter(model.parameters())).device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

"""Classification losses of decision values, labels, and the decision; one output stands for two classes.

With t_k = +1 for the label's output and -1 for the others:

- ``"squared_hinge"``, one against all, ``sum_k max(0, 1 - t_k f_k)^2 / 2``;
- ``"logistic"``, softmax cross-entropy, or its two-class form for one output;
- ``"ridge"``, ``sum_k (t_k - f_k)^2 / 2``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "Loss", "decide", "divergences", "losses", "read_labels", "signs"]

Loss = Literal["squared_hinge", "logistic", "ridge"]
LOSSES: tuple[Loss, ...] = ("squared_hinge", "logistic", "ridge")


def decide(scores: Float[Tensor, "n outputs"]) -> Int[Tensor, " n"]:
    """Numbers of the predicted classes, from decision values."""
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(dim=1)


def read_labels(y: Any, n: int, count: int, device: torch.device | None = None) -> Int[Tensor, " n"]:
    """Numbers of classes, one for each of `n` examples, below `count`; one output tells two classes apart.

    Raises
    ------
    ValueError
        If they are not of this form.
    """
    labels = y if isinstance(y, Tensor) else torch.as_tensor(y)
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"y: expected {n} whole numbers of classes, got shape {tuple(labels.shape)}, {labels.dtype}")
    labels, classes = labels.to(device or labels.device, torch.int64), max(count, 2)
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise ValueError(f"y: expected numbers of classes from 0 to {classes - 1}, got {int(labels[bad][0])}")
    return labels


def signs(labels: Int[Tensor, " n"], outputs: int, dtype: torch.dtype) -> Float[Tensor, "n outputs"]:
    """+1 for the label's output and -1 for the others; one output for two classes."""
    if outputs == 1:
        return (2.0 * labels - 1.0).to(dtype)[:, None]
    return (2.0 * functional.one_hot(labels, outputs) - 1.0).to(dtype)


def losses(loss: Loss, scores: Float[Tensor, "n outputs"], targets: Float[Tensor, "n outputs"]) -> Float[Tensor, " n"]:
    """The loss of every example, for targets of +1 and -1."""
    if loss == "squared_hinge":
        return 0.5 * (1.0 - targets * scores).clamp(min=0.0).square().sum(1)
    if loss == "ridge":
        return 0.5 * (targets - scores).square().sum(1)
    if targets.shape[1] == 1:
        return functional.softplus(-targets * scores)[:, 0]
    return functional.cross_entropy(scores, targets.argmax(1), reduction="none")


def divergences(first: Float[Tensor, "n outputs"], second: Float[Tensor, "n outputs"]) -> Float[Tensor, " n"]:
    """KL(p || q) of the probabilities that two rows of logits stand for; one output is the logit of class 1."""
    if first.shape[1] == 1:
        first, second = (functional.pad(logits, (1, 0)) for logits in (first, second))
    log_p, log_q = first.log_softmax(1), second.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)

"""Classification losses of decision values, and the decision itself; one output stands for two classes.

With t_k = +1 for the label's output and -1 for the others:

- ``"squared_hinge"``, one against all, ``sum_k max(0, 1 - t_k f_k)^2 / 2``;
- ``"logistic"``, softmax cross-entropy, or its two-class form for one output;
- ``"ridge"``, ``sum_k (t_k - f_k)^2 / 2``.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "Loss", "decide", "losses", "signs"]

Loss = Literal["squared_hinge", "logistic", "ridge"]
LOSSES: tuple[Loss, ...] = ("squared_hinge", "logistic", "ridge")


def decide(scores: Float[Tensor, "n outputs"]) -> Int[Tensor, " n"]:
    """Numbers of the predicted classes, from decision values."""
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(dim=1)


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

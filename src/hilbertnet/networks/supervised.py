"""Convolutional kernel networks trained end to end: filters by back-propagation, the head fitted exactly.

Before every epoch the head is fitted to the current features, then filters and head take stochastic gradient steps
together; filters move on the unit sphere. The objective is that of the unsupervised network's head,
``mean_i loss(y_i, W f(x_i) + b) + (lambda / 2) ||W||^2``, with features f centred and scaled to a mean squared norm of
one, now minimized over the filters too.

Reference: J. Mairal, "End-to-end kernel learning with supervised convolutional kernel networks", NeurIPS 2016, section
3.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.losses import Loss
from hilbertnet.networks.ckn import CKN
from hilbertnet.networks.pieces import output_count
from hilbertnet.networks.sphere import SphereSGD, filters_and_others
from hilbertnet.progress import Progress
from hilbertnet.solvers.linear import Eigenbasis, LinearHead, fit_head, standardize_, with_features_scaled
from hilbertnet.training import Data, Epoch, Recipe, classification_loss, evaluate, train

if TYPE_CHECKING:
    from hilbertnet.regularization.regularizer import BoundRegularizer

__all__ = ["CKNNet", "train_supervised"]

_MILESTONES = (60 / 105, 85 / 105, 100 / 105)  # of the published schedule, as shares of the epochs
_REFIT_ITERATIONS = 100


class CKNNet(nn.Module):
    """A convolutional kernel network with a linear head: signals (n, channels, *space) to decision values (n, outputs).

    Parameters
    ----------
    features
        The network; its filters are made to require a gradient.
    space
        Spatial shape of the signals.
    classes
        How many classes, at least 2; two classes have one output.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: CKN, space: tuple[int, ...], classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes: expected at least 2, got {classes}")
        size = math.prod(features.output_shape(space))
        self.features = features.requires_grad_()
        self.classes = classes
        first = next(features.parameters())
        self.head = nn.Linear(size, output_count(classes)).to(first)
        self.register_buffer("mean", torch.zeros(size).to(first))
        self.register_buffer("scale", torch.ones(()).to(first))
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n outputs"]:
        """Decision values."""
        return self.head((self.features(x).flatten(1) - self.mean) * self.scale)

    @torch.no_grad()
    def refit_(self, x: Tensor, y: Tensor, loss: Loss, lam: float) -> CKNNet:
        """Centre and scale the features of `x`, and fit the head to them exactly.

        Parameters
        ----------
        x, y
            Signals (n, channels, *space) and numbers of classes (n,).
        loss
            See `hilbertnet.losses`.
        lam
            lambda, positive.
        """
        mode = self.features.training
        features = self.features.eval().encode(x, progress=False)
        self.features.train(mode)
        mean, scale = standardize_(features)
        self.mean.copy_(mean)
        self.scale.fill_(scale)
        labels = y.to(features.device)
        basis = Eigenbasis(features)
        head = fit_head(features, labels, self.classes, loss, lam, basis=basis, max_iter=_REFIT_ITERATIONS)
        self.head.weight.copy_(head.weight)
        self.head.bias.copy_(head.bias)
        return self

    def linear_head(self, lam: float, loss: Loss) -> LinearHead:
        """The head as one on the raw features."""
        weight, bias = self.head.weight.detach(), self.head.bias.detach()
        return with_features_scaled(LinearHead(weight, bias, lam, loss), self.mean, float(self.scale))


def train_supervised(
    net: CKNNet,
    data: Data,
    validation: Data | None,
    recipe: Recipe,
    *,
    loss: Loss = "squared_hinge",
    lam: float,
    learning_rate: float = 0.03,
    momentum: float = 0.9,
    refit: bool = True,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    regularizer: BoundRegularizer | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = None,
) -> list[Epoch]:
    """Train filters and head, and leave the network as after its best epoch on `validation`.

    With an exact head, the filters that it starts from count as an epoch: where none is better, they are kept.

    Parameters
    ----------
    net
        The network, its filters learned without labels before.
    data, validation
        Signals (n, channels, *space) and numbers of classes (n,).
    recipe
        Epochs, batches, seed.
    loss
        See `hilbertnet.losses`.
    lam
        lambda, positive.
    learning_rate
        At first; a tenth of the one before at 57%, 81% and 95% of the epochs.
    momentum
        In [0, 1).
    refit
        Fit the head exactly before every epoch; without, it starts where it is and takes gradient steps only.
    augment
        From a batch and a generator to another batch of that shape.
    regularizer
        Bound to the training signals, with its objective. An exact head knows nothing of penalties, so it takes
        ``refit=False``.
    checkpoint
        See `hilbertnet.training.train`.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total) epochs.

    Returns
    -------
    list of Epoch
        The record of every epoch.

    Raises
    ------
    DivergedError
        If the loss is not finite.
    ValueError
        If there is a regularizer, and `refit`.
    """
    if regularizer is not None and refit:
        raise ValueError("refit: expected False beside a regularizer, which an exact head would know nothing of")
    filters, others = filters_and_others(net)
    groups: list[dict[str, Any]] = [{"params": filters, "sphere": True}]
    head = set(map(id, net.head.parameters()))
    groups.append({"params": [net.head.weight], "weight_decay": lam})
    groups.append({"params": [p for p in others if id(p) not in head] + [net.head.bias]})
    optimizer = SphereSGD(groups, lr=learning_rate, momentum=momentum)
    milestones = sorted({round(share * recipe.epochs) for share in _MILESTONES})
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)

    start, before = _start(net, data, validation, loss, lam) if refit else (None, None)

    def before_epoch(_: nn.Module, epoch: int) -> None:
        if refit and not (epoch == 0 and start is not None):  # which has just fitted it
            net.refit_(*data, loss, lam)
            for parameter in net.head.parameters():  # its momentum was that of another head
                optimizer.state.pop(parameter, None)

    history = train(
        net,
        data,
        validation,
        optimizer,
        recipe,
        schedule=schedule,
        objective=classification_loss(loss) if regularizer is None else regularizer.objective,
        validation_objective=classification_loss(loss),
        penalty=None if regularizer is None else regularizer.penalty,
        constraint=None if regularizer is None else regularizer.constraint,
        augment=augment,
        before_epoch=before_epoch,
        checkpoint=checkpoint,
        progress=progress,
    )
    if start is not None and not any(epoch.better_than(before) for epoch in history):
        net.load_state_dict(start)
    return history


def _start(
    net: CKNNet, data: Data, validation: Data | None, loss: Loss, lam: float
) -> tuple[dict[str, Tensor] | None, Epoch | None]:
    """The state and the validation of the network as it is, with an exact head."""
    if validation is None:
        return None, None
    net.refit_(*data, loss, lam)
    held_loss, held_accuracy = evaluate(net, validation, classification_loss(loss))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return state, Epoch(-1, 0.0, math.nan, math.nan, held_loss, held_accuracy, 0.0)

"""Penalties on gradients in the signals: of every logit, ``grad``, and of the loss, ``grad_l2`` and ``grad_l1``.

References: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 3.1, for the gradients of logits; H. Drucker and Y. Le Cun, "Improving generalization performance
using double backpropagation", IEEE Transactions on Neural Networks 3(6), 1992, for those of the loss.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.complexity.functions import untouched
from hilbertnet.losses import LOSSES, Loss, losses, read_labels, signs
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.functions import (
    BatchPenalty,
    Surface,
    as_function,
    check_signals,
    draw_examples,
    read_counts,
    with_graph,
)
from hilbertnet.regularization.term import PenaltyTerm
from hilbertnet.text import check_word

__all__ = ["Grad", "GradL1", "GradL2", "drawn_logits", "each_gradient", "lengths"]


@dataclass(frozen=True)
class Grad(PenaltyTerm):
    """The largest squared gradient of every logit in the batch, ``sum_k max_i ||grad f_k(x_i)||^2``.

    ``max_x ||grad f(x)||`` bounds the RKHS norm of f from below. The examples where the maxima are reached are found
    first, with parameters frozen; double back-propagation then goes through these alone, one for each logit.

    Parameters
    ----------
    classes
        Draw so many logits at every step, and weigh their sum so that its mean over draws is that of all; ``None``: no
        draw.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    References
    ----------
    Bietti, Mialon, Chen and Mairal, ICML 2019, section 3.1; `classes` is ours.

    Examples
    --------
    >>> model = nn.Linear(3, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[1.0, 2.0, 2.0], [0.0, 1.0, 0.0]]))
    >>> penalty = Grad().bind(torch.ones(4, 3), generator=0)
    >>> penalty(model, torch.ones(4, 3), torch.tensor([0, 1, 0, 1])).item()  # 3^2 + 1^2
    10.0
    """

    name: ClassVar[str] = "grad"
    formula: ClassVar[str] = "sum_k max_i ||grad f_k(x_i)||^2"

    classes: int | None = None

    def __post_init__(self) -> None:
        read_counts(self, "classes")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        return BatchPenalty(self._value, generator, follows=True)

    def _value(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        logits: Tensor | None,
        generator: torch.Generator,
        step: Tensor | None = None,
    ) -> Tensor:
        check_signals(x)
        with as_function(model) as f:
            with untouched(f):
                surface = Surface(f, x, step)
                read_labels(y, len(x), surface.values.shape[1])
                logits_seen, weight = drawn_logits(surface.values.shape[1], self.classes, generator)
                longest = [lengths(gradient).argmax() for gradient in each_gradient(surface, logits_seen)]
            variable, values = with_graph(f, x[torch.stack(longest)])
            own = functional.one_hot(logits_seen, values.shape[1]).to(values)
            (gradient,) = torch.autograd.grad(values, variable, own, create_graph=torch.is_grad_enabled())
        return weight * gradient.square().sum()


@dataclass(frozen=True)
class _LossGradient(PenaltyTerm):
    """What `GradL2` and `GradL1` have in common: the mean over examples of a length of the loss' gradient."""

    loss: Loss = "logistic"
    examples: int | None = None

    def __post_init__(self) -> None:
        check_word("loss", self.loss, LOSSES)
        read_counts(self, "examples")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        return BatchPenalty(self._value, generator, follows=self.examples is None)

    @abstractmethod
    def _length(self, gradient: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
        """Of each gradient."""

    def _value(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        logits: Tensor | None,
        generator: torch.Generator,
        step: Tensor | None = None,
    ) -> Tensor:
        check_signals(x)
        drawn = draw_examples(len(x), self.examples, generator)
        part = x if drawn is None else x[drawn.to(x.device)]
        with as_function(model) as f:
            surface = Surface(f, part, step)
            values = surface.values
            labels = read_labels(y, len(x), values.shape[1], values.device)
            labels = labels if drawn is None else labels[drawn.to(labels.device)]
            twice = torch.is_grad_enabled()
            with torch.enable_grad():
                total = losses(self.loss, values, signs(labels, values.shape[1], values.dtype)).sum()
            (gradient,) = torch.autograd.grad(
                total, surface.variable, create_graph=twice, retain_graph=twice or surface.borrowed
            )
        return self._length(gradient.flatten(1)).mean()


@dataclass(frozen=True)
class GradL2(_LossGradient):
    """The mean squared gradient of the loss, ``(1/n) sum_i ||grad_x loss(x_i, y_i)||_2^2``.

    Parameters
    ----------
    loss
        ``"logistic"``: cross-entropy, or its two-class form for one logit; ``"squared_hinge"``; ``"ridge"``
        (`hilbertnet.losses`).
    examples
        The mean over so many examples of every batch, drawn at random, which estimates that over all; ``None``: all.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    References
    ----------
    Drucker and Le Cun, 1992; Bietti, Mialon, Chen and Mairal, ICML 2019, section 3.2.
    """

    name: ClassVar[str] = "grad_l2"
    formula: ClassVar[str] = "(1/n) sum_i ||grad loss(x_i, y_i)||_2^2"

    def _length(self, gradient: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
        return gradient.square().sum(1)


@dataclass(frozen=True)
class GradL1(_LossGradient):
    """The mean gradient of the loss in l1, ``(1/n) sum_i ||grad_x loss(x_i, y_i)||_1``: not squared.

    Parameters
    ----------
    loss, examples
        As for `GradL2`.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    References
    ----------
    Bietti, Mialon, Chen and Mairal, ICML 2019, section 3.2.
    """

    name: ClassVar[str] = "grad_l1"
    formula: ClassVar[str] = "(1/n) sum_i ||grad loss(x_i, y_i)||_1"

    def _length(self, gradient: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
        return gradient.abs().sum(1)


# --- gradients of logits, which `delta` starts from too


def drawn_logits(count: int, classes: int | None, generator: torch.Generator) -> tuple[Int[Tensor, " classes"], float]:
    """Numbers of the logits that a sum goes over, all `count` or some drawn ones, and the weight of their sum."""
    if classes is None or classes >= count:
        return torch.arange(count), 1.0
    return torch.randperm(count, generator=generator)[:classes].sort().values, count / classes


def each_gradient(surface: Surface, chosen: Int[Tensor, " classes"] | None = None) -> Iterator[Float[Tensor, "n ..."]]:
    """The gradients of one logit after the other, at all examples: one backward pass each through one forward pass."""
    numbers = list(range(surface.values.shape[1])) if chosen is None else chosen.tolist()
    for number, k in enumerate(numbers):
        ones = torch.zeros_like(surface.values)
        ones[:, k] = 1
        yield surface.gradient(ones, last=number + 1 == len(numbers))


def lengths(gradient: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Euclidean, of each example's gradient."""
    return gradient.flatten(1).norm(dim=1)

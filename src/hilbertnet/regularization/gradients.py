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

from hilbertnet.complexity.functions import read_labels, untouched
from hilbertnet.losses import LOSSES, Loss, losses, signs
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.functions import (
    BatchPenalty,
    as_function,
    check_signals,
    draw_examples,
    logits_of,
    read_count,
)
from hilbertnet.regularization.term import PenaltyTerm
from hilbertnet.text import nearest

__all__ = ["Grad", "GradL1", "GradL2", "candidates", "cut_at", "each_gradient", "lengths", "read_counts", "with_graph"]


@dataclass(frozen=True)
class Grad(PenaltyTerm):
    """The largest squared gradient of every logit in the batch, ``sum_k max_i ||grad f_k(x_i)||^2``.

    ``max_x ||grad f(x)||`` bounds the RKHS norm of f from below. The examples where the maxima are reached are found
    first, with parameters frozen; double back-propagation then goes through these alone, one for each logit.

    Parameters
    ----------
    shortlist
        Look only at so many examples, those where ``||sum_k s_k grad f_k||`` is largest, for one draw of signs
        s_k = +-1 for each example: its mean square is ``sum_k ||grad f_k||^2``. ``None``: look at all. What is found is
        at most the maximum.
    examples
        Draw so many examples of every batch and look at no others; ``None``: all.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    References
    ----------
    Bietti, Mialon, Chen and Mairal, ICML 2019, section 3.1; `shortlist` is ours.

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

    shortlist: int | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        read_counts(self, "shortlist", "examples")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        return BatchPenalty(self._value, generator)

    def _value(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        check_signals(x)
        with as_function(model) as f:
            with untouched(f):
                kept = candidates(f, x, self.examples, self.shortlist, generator)
                variable, values = with_graph(f, x[kept])
                read_labels(y, len(x), values.shape[1])
                longest = [lengths(gradient).argmax() for gradient in each_gradient(values, variable)]
            variable, values = with_graph(f, x[kept[torch.stack(longest)]])
            own = torch.eye(len(values), dtype=values.dtype, device=values.device)
            (gradient,) = torch.autograd.grad(values, variable, own, create_graph=torch.is_grad_enabled())
        return gradient.square().sum()


@dataclass(frozen=True)
class _LossGradient(PenaltyTerm):
    """What `GradL2` and `GradL1` have in common: the mean over examples of a length of the loss' gradient."""

    loss: Loss = "logistic"
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            hint = nearest(str(self.loss), LOSSES)
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}{hint}")
        read_counts(self, "examples")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        return BatchPenalty(self._value, generator)

    @abstractmethod
    def _length(self, gradient: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
        """Of each gradient."""

    def _value(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        check_signals(x)
        drawn = draw_examples(len(x), self.examples, generator)
        part = x if drawn is None else x[drawn.to(x.device)]
        with as_function(model) as f:
            variable, values = with_graph(f, part)
            labels = read_labels(y, len(x), values.shape[1], values.device)
            labels = labels if drawn is None else labels[drawn.to(labels.device)]
            with torch.enable_grad():
                total = losses(self.loss, values, signs(labels, values.shape[1], values.dtype)).sum()
            (gradient,) = torch.autograd.grad(total, variable, create_graph=torch.is_grad_enabled())
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


def with_graph(f: nn.Module, x: Float[Tensor, "n ..."]) -> tuple[Tensor, Float[Tensor, "n outputs"]]:
    """Signals that require a gradient, and the logits there, even where gradients are switched off outside.

    Raises
    ------
    ValueError
        If the logits do not depend differentiably on the signals.
    """
    with torch.enable_grad():
        variable = x.detach().clone().requires_grad_()
        values = logits_of(f, variable)
    if not values.requires_grad:
        raise ValueError("model: expected logits that depend differentiably on the signals, they do not")
    return variable, values


def cut_at(f: nn.Module, x: Float[Tensor, "n ..."], layer: int) -> tuple[Tensor, Float[Tensor, "n outputs"]]:
    """The input of a convolution or linear layer, a tensor that requires a gradient, and the logits as functions of it.

    What comes before the layer, and what goes around it, keeps no graph.

    Parameters
    ----------
    f
        With frozen parameters.
    x
        Signals.
    layer
        Counted from 0, in the order in which they are called.

    Raises
    ------
    ValueError
        If there is no such layer, or it does not see one row for each signal.
    """
    found, count = [], 0

    def start_graph(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        nonlocal count
        count += 1
        if count != layer + 1:
            return None
        found.append(inputs[0].detach().requires_grad_())
        return (found[0], *inputs[1:])

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [module.register_forward_pre_hook(start_graph) for module in f.modules() if isinstance(module, kinds)]
    try:
        with torch.enable_grad():
            values = logits_of(f, x.detach())
    finally:
        for hook in hooks:
            hook.remove()
    if not found or not values.requires_grad or len(found[0]) != len(x):
        raise ValueError(
            f"layer: expected one of the model's {count} convolutions and linear layers, counted from 0, with one row "
            f"for each signal, got {layer}"
        )
    return found[0], values


def each_gradient(
    values: Float[Tensor, "n outputs"], variable: Float[Tensor, "n ..."]
) -> Iterator[Float[Tensor, "n ..."]]:
    """The gradients of one logit after the other, at all examples: one backward pass each through one forward pass."""
    count = values.shape[1]
    for k in range(count):
        chosen = torch.zeros_like(values)
        chosen[:, k] = 1
        yield torch.autograd.grad(values, variable, chosen, retain_graph=k + 1 < count)[0]


def lengths(gradient: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Euclidean, of each example's gradient."""
    return gradient.flatten(1).norm(dim=1)


def candidates(
    f: nn.Module, x: Float[Tensor, "n ..."], examples: int | None, shortlist: int | None, generator: torch.Generator
) -> Int[Tensor, " m"]:
    """Numbers of the examples that maxima are looked for at; see `Grad` for the two ways to have fewer than all."""
    drawn = draw_examples(len(x), examples, generator)
    kept = torch.arange(len(x), device=x.device) if drawn is None else drawn.to(x.device)
    if shortlist is None or shortlist >= len(kept):
        return kept
    variable, values = with_graph(f, x[kept])
    toss = torch.randint(0, 2, values.shape, generator=generator).to(values) * 2 - 1
    (mixed,) = torch.autograd.grad(values, variable, toss)
    return kept[lengths(mixed).topk(shortlist).indices]


def read_counts(term: PenaltyTerm, *names: str) -> None:
    """Check the optional counts among the fields of a frozen term, and make whole numbers of them."""
    for name in names:
        value = getattr(term, name)
        if value is not None:
            object.__setattr__(term, name, read_count(name, value))

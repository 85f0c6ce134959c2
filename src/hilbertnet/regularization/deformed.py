r"""Penalties of how much a model's functions change when training signals are deformed.

With f_k the logits, x_i training signals, x' their deformed copies and t_ij tangents of deformations at x_i:

.. math:: \|f\|_\tau^2 = \sum_k \max_{i, x'} (f_k(x') - f_k(x_i))^2, \qquad
          \|D_\tau f\|^2 = \sum_k \max_i \|\partial_\alpha f_k(x_i + \sum_j \alpha_j t_{ij})\|^2 \text{ at } \alpha = 0.

Both are lower bounds, up to a constant, of the squared RKHS norm. Signals and copies are a stream of their own, drawn
afresh at every call: the batch plays no part.

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 2.1 and appendix. Its published code took the maximum of the second over sums of the derivatives
where it should be of their squares; here they are squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hilbertnet.complexity.functions import untouched
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.losses import read_labels
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.copies import Copies, check_deformation, copies_of
from hilbertnet.regularization.functions import (
    BatchPenalty,
    Surface,
    as_function,
    check_signals,
    logits_of,
    read_counts,
    with_graph,
)
from hilbertnet.regularization.gradients import each_gradient
from hilbertnet.regularization.term import PenaltyTerm

__all__ = ["DTau", "Tau"]

_PIECE = 256  # signals at a time in the search for the maximum


class _Deformed(PenaltyTerm):
    """What both have in common: the fields `deformation`, `size`, `images`."""

    deformation: str | None
    size: float | None
    images: int

    def __post_init__(self) -> None:
        if self.deformation is not None:
            check_deformation(self.deformation)
        if self.size is not None:
            object.__setattr__(self, "size", real_number("size", self.size, least=0.0))
        read_counts(self, "images")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """The penalty on a stream of `x_train`; see `PenaltyTerm.bind`."""
        copies = copies_of(x_train, self.deformation, self.size, self.name)
        return BatchPenalty(partial(self._value, copies), generator)

    def _value(
        self, copies: Copies, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        raise NotImplementedError

    def _choose(self, copies: Copies, x: Tensor, generator: torch.Generator) -> Int[Tensor, " images"]:
        """The places of the signals of this call."""
        check_signals(x)
        if x.shape[1:] != copies.x.shape[1:]:
            wanted = ", ".join(map(str, copies.x.shape[1:]))
            raise ValueError(f"x: expected shape (n, {wanted}), as the training signals, got {tuple(x.shape)}")
        return copies.choose(self.images, generator)


@dataclass(frozen=True)
class Tau(_Deformed):
    """``||f||_tau^2``: the largest squared change of each logit under a deformation, over a stream of training signals.

    Parameters
    ----------
    deformation
        ``"infinite_mnist"``, or a family of `hilbertnet.deformations` in its text form (``"rotation"``,
        ``"translation"``, ``"zoom(in)"``, ``"gaussian"``, ``"gaussian(3)"``, ...); ``None``: the first where images are
        1 x 28 x 28 with pixels in [0, 1], ``"gaussian"`` on other images and on 1-D signals.
    size
        Alpha of Infinite MNIST (default 1), else in the family's unit: pixels of translations and of smooth fields
        without a scale (sup|tau|, default 1/28 of the side); degrees of rotations, and so on, without a default, where
        it is the largest of many sizes.
    images
        Training signals drawn at each call, all different. Fewer cost less, and see less.
    variants
        Copies of each, the first of which is the signal itself.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    >>> penalty = Tau("translation", 1.0, variants=8).bind(x, 0)
    >>> value = penalty(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), x, torch.tensor([0]))
    >>> value.ndim, bool(value > 0)
    (0, True)
    """

    name: ClassVar[str] = "tau"
    formula: ClassVar[str] = "sum_k max over signals x and deformed copies x' of (f_k(x') - f_k(x))^2"

    deformation: str | None = None
    size: float | None = None
    images: int = 32
    variants: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        read_counts(self, "variants")
        if self.variants < 2:
            raise ValueError("variants: expected at least 2, of which the first is the signal itself, got 1")

    def _value(
        self, copies: Copies, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        places = self._choose(copies, x, generator)
        variants = copies.variants(places, self.variants, generator, x)
        with as_function(model) as f:
            pairs = _largest_changes(f, variants)
            values = logits_of(f, pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
        read_labels(y, len(x), values.shape[2])
        return (values[0] - values[1]).diagonal().square().sum()


@dataclass(frozen=True)
class DTau(_Deformed):
    """``||D_tau f||^2``: the largest squared derivative of each logit along tangents of deformations.

    Parameters
    ----------
    deformation, size, images
        As for `Tau`; tangents are in proportion to the size.
    tangents
        Of each signal, drawn as deformations are.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """

    name: ClassVar[str] = "dtau"
    formula: ClassVar[str] = "sum_k max_i ||d/da f_k(x_i + sum_j a_j t_ij)||^2 at a = 0"

    deformation: str | None = None
    size: float | None = None
    images: int = 32
    tangents: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        read_counts(self, "tangents")

    def _value(
        self, copies: Copies, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        places = self._choose(copies, x, generator)
        tangents = copies.tangents(places, self.tangents, generator, x)
        signals = copies.originals(places, x)
        with as_function(model) as f:
            with untouched(f):
                surface = Surface(f, signals)
                read_labels(y, len(x), surface.values.shape[1])
                steepest = [_squares(slope, tangents).argmax() for slope in each_gradient(surface)]
            largest = torch.stack(steepest)
            variable, values = with_graph(f, signals[largest])
            with torch.enable_grad():
                total = values.diagonal().sum()
            (slopes,) = torch.autograd.grad(total, variable, create_graph=torch.is_grad_enabled())
        return _squares(slopes, tangents[largest]).sum()


def _largest_changes(f: nn.Module, variants: Float[Tensor, "images copies ..."]) -> Float[Tensor, "2 outputs ..."]:
    """For every output the copy that changes it most, and its original: copy 0."""
    flat = variants.flatten(0, 1)
    with torch.no_grad(), untouched(f):
        values = torch.cat([logits_of(f, part) for part in flat.split(_PIECE)]).unflatten(0, variants.shape[:2])
    changes = (values - values[:, :1]).square().flatten(0, 1)
    best = changes.argmax(0)  # NaN counts as largest, and the penalty is then NaN
    return torch.stack([flat[best], variants[best.div(variants.shape[1], rounding_mode="floor"), 0]])


def _squares(gradient: Float[Tensor, "m ..."], tangents: Float[Tensor, "m count ..."]) -> Float[Tensor, " m"]:
    """``sum_j <gradient_i, t_ij>^2`` for every i."""
    # no matrix product, which mixed precision would round
    return (gradient.flatten(1)[:, None] * tangents.flatten(2)).sum(2).square().sum(1)

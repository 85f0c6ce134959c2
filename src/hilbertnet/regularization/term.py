"""What all terms of a regularizer have in common: frozen, with a text form, and bound before they are used.

A term says what is wanted; bound to training data and a generator it is a callable that owns its stream of random
numbers, its deformed examples and its warm-started vectors, and whose `state_dict` a checkpoint keeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hilbertnet.protocols import Penalty
from hilbertnet.text import format_number

if TYPE_CHECKING:
    from hilbertnet.regularization.regularizer import Regularizer

__all__ = ["BoundConstraint", "BoundLoss", "ConstraintTerm", "LossTerm", "PenaltyTerm", "Term", "written"]


@runtime_checkable
class BoundLoss(Protocol):
    """A loss in the place of the training loss, an objective of `hilbertnet.training.train`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch and the logits it was computed from."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep to go on with the same numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        ...


@runtime_checkable
class BoundConstraint(Protocol):
    """A set that parameters are projected onto after every step."""

    def project_(self, model: nn.Module, epoch: int) -> None:
        """Project the parameters of `model` in place; epochs count from 0."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep to go on with the same numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        ...


class Term(ABC):
    """One term of a regularizer. A subclass is a frozen dataclass that writes `name` and `bind`.

    Its fields are numbers, words, or ``None``; in the text form they come in order, or by name. In Python, terms are
    summed and weighted: ``0.1 * Tau() + SpectralProjection(1.5)``.
    """

    name: ClassVar[str]
    """In the text form."""
    formula: ClassVar[str]
    """One line, for tables and help."""

    def __str__(self) -> str:
        """The text form: the name, and what is not as by default, by name."""
        words = []
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if value != field.default:
                words.append(f"{field.name}={written(value)}")
        return f"{self.name}({', '.join(words)})" if words else self.name

    def __add__(self, other: Term | Regularizer) -> Regularizer:
        return _alone(self) + other

    def __mul__(self, weight: float) -> Regularizer:
        return _alone(self) * weight

    __rmul__ = __mul__


def written(value: float | str | None) -> str:
    """A field's value as it is read back: a word as it is, other texts in quotes."""
    if isinstance(value, str):
        return value if value.isidentifier() else f"'{value}'"
    return "none" if value is None else format_number(value)


def _alone(term: Term) -> Regularizer:
    from hilbertnet.regularization.regularizer import as_regularizer  # it stands on this file

    return as_regularizer(term)


class PenaltyTerm(Term):
    """A number that is added to the training loss, times a weight."""

    @abstractmethod
    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """The penalty itself.

        Parameters
        ----------
        x_train
            The training signals, shape (n, ...), for terms that draw examples of their own.
        generator
            Seed or ``torch.Generator`` (on the CPU) of whatever is random.

        Raises
        ------
        ValueError
            If the term does not make sense for such signals.
        """


class LossTerm(Term):
    """A loss that replaces the training loss."""

    @abstractmethod
    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundLoss:
        """The loss itself; see `PenaltyTerm.bind`."""


class ConstraintTerm(Term):
    """A set that the parameters are projected onto."""

    @abstractmethod
    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundConstraint:
        """The constraint itself; see `PenaltyTerm.bind`."""

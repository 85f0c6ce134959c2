"""What a text form such as ``"delta(1.0) + 0.1*tau + sn(1.5)"`` parses to, and what it becomes once bound to data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.chance import own_seed
from hilbertnet.regularization.functions import check_signals
from hilbertnet.regularization.term import BoundConstraint, BoundLoss, ConstraintTerm, LossTerm, PenaltyTerm, Term
from hilbertnet.regularization.terms import parse_term
from hilbertnet.text import Scanner, format_number
from hilbertnet.training.objective import Objective, classification_loss, followed, follows

__all__ = ["BoundRegularizer", "Regularizer", "as_regularizer"]

_NONE = "none"
_NO_WEIGHT = {
    ConstraintTerm: "a constraint has no weight: it is a set, and its radius is its argument",
    LossTerm: "a robust loss has no weight: it takes the place of the training loss",
}


@dataclass(frozen=True)
class Regularizer:
    """Penalties with their weights, at most one robust loss, and constraints.

    Sums of terms make one: ``Delta(1.0) + 0.1 * Tau() + SpectralProjection(1.5)``; so does `parse`, and ``str`` gives
    the text back. It is frozen and hashable.

    Parameters
    ----------
    loss
        What takes the place of the training loss, if anything does.
    penalty
        Pairs of a weight, above 0, and what is added to the loss.
    constraint
        What parameters are projected onto after every step, in this order.

    Raises
    ------
    ValueError
        If a part is of another kind, or a weight is not positive and finite.

    Examples
    --------
    >>> regularizer = Regularizer.parse("0.01*sn_penalty(iterations=4) + sn(1.5)")
    >>> str(regularizer)
    '0.01*sn_penalty(iterations=4) + sn(tau=1.5)'
    >>> len(regularizer.penalty), len(regularizer.constraint)
    (1, 1)
    """

    loss: LossTerm | None = None
    penalty: tuple[tuple[float, PenaltyTerm], ...] = ()
    constraint: tuple[ConstraintTerm, ...] = ()

    def __post_init__(self) -> None:
        if self.loss is not None and not isinstance(self.loss, LossTerm):
            raise ValueError(f"loss: expected a robust loss or None, got {self.loss!r}")
        pairs = isinstance(self.penalty, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in self.penalty)
        if not pairs or not all(isinstance(term, PenaltyTerm) for _, term in self.penalty):
            raise ValueError(f"penalty: expected a tuple of pairs (weight, penalty), got {self.penalty!r}")
        if not isinstance(self.constraint, tuple) or not all(isinstance(c, ConstraintTerm) for c in self.constraint):
            raise ValueError(f"constraint: expected a tuple of constraints, got {self.constraint!r}")
        weighted = tuple((real_number(f"weight of {term}", weight, above=0.0), term) for weight, term in self.penalty)
        object.__setattr__(self, "penalty", weighted)

    @classmethod
    def parse(cls, text: str) -> Regularizer:
        """The regularizer that a text names: terms joined by ``+``, penalties with weights, ``none`` for no term.

        Parameters
        ----------
        text
            Such as ``"delta(1.0) + 0.1*tau + sn(1.5)"``. `hilbertnet.regularization.terms.describe` lists the terms.

        Raises
        ------
        TextFormError
            If the text cannot be read; the message points at the character.
        """
        if not isinstance(text, str):
            raise ValueError(f"regularizer: expected a text such as 'delta(1.0) + sn(1.5)', got {text!r}")
        if text.strip() == _NONE:
            return cls()
        scanner = Scanner(text, "regularizer")
        found = cls._next(scanner, cls())
        while not scanner.at_end():
            scanner.expect("+")
            found = cls._next(scanner, found)
        return found

    @classmethod
    def _next(cls, scanner: Scanner, before: Regularizer) -> Regularizer:
        """What was read before and the next term."""
        scanner.at_end()  # skips blanks
        start, weight = scanner.position, scanner.optional_number()
        if weight is not None:
            scanner.expect("*")
        term, place = parse_term(scanner)
        try:
            alone = as_regularizer(term)
            found = alone if weight is None else alone * weight
        except ValueError as error:
            raise scanner.fail(str(error), start) from None
        try:
            return before + found
        except ValueError as error:
            raise scanner.fail(str(error), place) from None

    def __str__(self) -> str:
        words = [] if self.loss is None else [str(self.loss)]
        words += [str(term) if weight == 1 else f"{format_number(weight)}*{term}" for weight, term in self.penalty]
        return " + ".join([*words, *map(str, self.constraint)]) or _NONE

    def __add__(self, other: Regularizer | Term) -> Regularizer:
        if not isinstance(other, Regularizer | Term):
            return NotImplemented
        other = as_regularizer(other)
        if self.loss is not None and other.loss is not None:
            raise ValueError(f"expected at most one robust loss, got {self.loss} and {other.loss}")
        loss = other.loss if self.loss is None else self.loss
        return Regularizer(loss, self.penalty + other.penalty, self.constraint + other.constraint)

    def __mul__(self, weight: float) -> Regularizer:
        if isinstance(weight, Regularizer | Term):
            return NotImplemented
        for term in (*self.constraint, *(() if self.loss is None else (self.loss,))):
            reason = _NO_WEIGHT[ConstraintTerm if isinstance(term, ConstraintTerm) else LossTerm]
            raise ValueError(f"{term.name}: {reason}")
        weight = real_number("weight", weight, above=0.0)
        return Regularizer(penalty=tuple((weight * own, term) for own, term in self.penalty))

    __rmul__ = __mul__

    @property
    def terms(self) -> tuple[Term, ...]:
        """The loss, the penalties and the constraints."""
        first: tuple[Term, ...] = () if self.loss is None else (self.loss,)
        return (*first, *(term for _, term in self.penalty), *self.constraint)

    def bind(
        self,
        x_train: Tensor,
        generator: int | torch.Generator | None = None,
        *,
        objective: Objective | None = None,
    ) -> BoundRegularizer:
        """The regularizer as a training loop takes it.

        Parameters
        ----------
        x_train
            The training signals, shape (n, ...), for terms that draw examples of their own or look at their shape.
        generator
            Seed or ``torch.Generator`` on the CPU. Each term has a generator of its own derived from it, so that one
            more term does not change the numbers of another.
        objective
            The training loss where no robust loss takes its place; default
            `hilbertnet.training.objective.classification_loss`. Its logits must be those of the batch that it is given.

        Raises
        ------
        ValueError
            If a term does not make sense for such signals.
        """
        check_signals(x_train, "x_train")
        sources = _Sources(generator)
        loss = None if self.loss is None else _Replacement(self.loss, self.loss.bind(x_train, sources.next(self.loss)))
        penalties = [term.bind(x_train, sources.next(term)) for _, term in self.penalty]
        constraints = [term.bind(x_train, sources.next(term)) for term in self.constraint]
        weights = [weight for weight, _ in self.penalty]
        return BoundRegularizer(
            regularizer=self,
            objective=loss or objective or classification_loss(),
            penalty=_Sum(self, weights, penalties) if penalties else None,
            constraint=_Sequence(self, constraints) if constraints else None,
        )


def as_regularizer(regularizer: str | Term | Regularizer | None) -> Regularizer:
    """A regularizer from its text form, from one term, or from ``None``, which is no term.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(regularizer, Regularizer):
        return regularizer
    if isinstance(regularizer, PenaltyTerm):
        return Regularizer(penalty=((1.0, regularizer),))
    if isinstance(regularizer, LossTerm):
        return Regularizer(loss=regularizer)
    if isinstance(regularizer, ConstraintTerm):
        return Regularizer(constraint=(regularizer,))
    return Regularizer() if regularizer is None else Regularizer.parse(regularizer)  # type: ignore[arg-type]


class _Sources:
    """Generators for the terms, each of its own: a term's numbers depend on its name and which of that name it is."""

    def __init__(self, generator: int | torch.Generator | None) -> None:
        self.root = own_seed(generator)
        self.seen: Counter[str] = Counter()

    def next(self, term: Term) -> torch.Generator:
        self.seen[term.name] += 1
        key = f"{self.root} {term.name} {self.seen[term.name]}"
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
        return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class BoundRegularizer:
    """A regularizer bound to training data: three lines in a training loop of one's own.

        bound = Regularizer.parse("delta(1.0) + sn(1.5)").bind(x_train, generator=0)
        loss, logits = bound(model, x, y)               # loss with penalties; back-propagate, step
        bound.project_(model, epoch)

    Or take `objective`, `penalty` and `constraint` as `hilbertnet.training.train` does.

    Parameters
    ----------
    regularizer
        What it is.
    objective
        ``(model, x, y) -> (mean loss, logits)``: the robust loss, or the training loss.
    penalty
        The weighted sum of the penalties, or ``None``.
    constraint
        All projections, or ``None``.
    """

    regularizer: Regularizer
    objective: Objective
    penalty: Penalty | None
    constraint: BoundConstraint | None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss with its penalties, and the logits.

        Raises
        ------
        ValueError
            If `x` are no signals (n, ...) in floating point, n >= 1, or `y` no numbers of classes of the model.
        """
        check_signals(x)
        x, back = followed(self.objective, self.penalty, model, x)
        loss, logits = self.objective(model, x, y)
        return (loss if self.penalty is None else loss + self.penalty(model, x, y, logits, **back)), logits

    def project_(self, model: nn.Module, epoch: int) -> None:
        """Project the parameters of `model` in place, if there is a constraint; epochs count from 0."""
        if self.constraint is not None:
            self.constraint.project_(model, epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep to go on with the same numbers."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off.

        Raises
        ------
        ValueError
            If the state is that of another regularizer.
        """
        parts = self._parts()
        if state.keys() != parts.keys():
            raise ValueError(
                f"state: expected that of {self.regularizer}, with {', '.join(parts) or 'nothing'}, got "
                f"{', '.join(state) or 'nothing'}"
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        """Those that have a state; a training loss of one's own may have none."""
        parts = {"objective": self.objective, "penalty": self.penalty, "constraint": self.constraint}
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}


class _Parts:
    """Bound terms of one kind, with one state."""

    def __init__(self, words: Sequence[str], parts: Sequence[Any]) -> None:
        self.words, self.parts = list(words), list(parts)

    def state_dict(self) -> dict[str, Any]:
        """The states of all, beside their text forms."""
        return {"terms": list(self.words), "states": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        words, states = state.get("terms"), state.get("states")
        if words != self.words or not isinstance(states, list) or len(states) != len(words):
            got = " + ".join(map(str, words)) if isinstance(words, list) and words != self.words else "something else"
            raise ValueError(f"state: expected that of {' + '.join(self.words)}, got {got}")
        for part, inner in zip(self.parts, states, strict=True):
            part.load_state_dict(inner)


class _Replacement(_Parts):
    """A robust loss."""

    def __init__(self, term: LossTerm, loss: BoundLoss) -> None:
        super().__init__([str(term)], [loss])

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and logits."""
        loss, logits = self.parts[0](model, x, y)
        return loss, logits


class _Sum(_Parts):
    """The weighted sum of penalties."""

    def __init__(self, regularizer: Regularizer, weights: list[float], penalties: list[Penalty]) -> None:
        super().__init__([str(Regularizer(penalty=(pair,))) for pair in regularizer.penalty], penalties)
        self.weights, self.moved = weights, regularizer.loss is not None

    def follows(self, model: nn.Module) -> bool:
        """Whether a part goes back the way of the step (`hilbertnet.protocols.Penalty`)."""
        return not self.moved and any(follows(part, model) for part in self.parts)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None = None, *, back: bool = False
    ) -> Tensor:
        """The sum, on the model's device."""
        known = None if self.moved else logits  # the logits of a robust loss are those of other examples
        total: Tensor | None = None
        for weight, penalty in zip(self.weights, self.parts, strict=True):
            if back and follows(penalty, model):
                value = penalty(model, x, y, known, back=True)
            else:
                value = penalty(model, x.detach() if back else x, y, known)
            part = weight * value
            total = part if total is None else total + part
        assert total is not None
        return total


class _Sequence(_Parts):
    """Projections, one after the other."""

    def __init__(self, regularizer: Regularizer, constraints: list[BoundConstraint]) -> None:
        super().__init__(list(map(str, regularizer.constraint)), constraints)

    def project_(self, model: nn.Module, epoch: int) -> None:
        """Project the parameters of `model` in place."""
        for part in self.parts:
            part.project_(model, epoch)

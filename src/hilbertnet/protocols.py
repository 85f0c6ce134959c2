"""What rooms take from each other as arguments: structural types, no base classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Attack", "Constraint", "MinimalNormAttack", "Penalty", "Representation"]


@runtime_checkable
class Representation(Protocol):
    """A map Phi from signals to a Hilbert space, known through distances and norms."""

    differentiable: bool

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """``||Phi(x_i) - Phi(y_i)||`` for every i: two tensors (n, channels, *space) to (n,), float64."""
        ...

    def norm(self, x: Tensor) -> Tensor:
        """``||Phi(x_i)||`` for every i: a tensor (n, channels, *space) to (n,), float64."""
        ...


@runtime_checkable
class Penalty(Protocol):
    """A bound penalty: it owns its stream of random numbers and any warm-started vectors.

    It may have a method ``follows(model) -> bool``. Where that is true, a training step may make its signals require a
    gradient and call the penalty with ``back=True``: it may then go the way back from the logits to the signals, and
    leaves it for the step.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None = None) -> Tensor:
        """The penalty of `model` at the batch, a scalar that can be differentiated in the parameters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep to go on with the same numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        ...


@runtime_checkable
class Constraint(Protocol):
    """A set that parameters are projected onto."""

    def project_(self, model: nn.Module, epoch: int) -> None:
        """Project the parameters of `model` in place."""
        ...


class Attack(Protocol):
    """A pure function that moves examples inside a threat's set so as to raise the model's loss."""

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        threat: Any,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial examples of the shape of `x`; `model` is left as it was."""
        ...


class MinimalNormAttack(Protocol):
    """A pure function that looks for the nearest point that a model decides wrongly."""

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        *,
        norm: Any = "2",
        bounds: tuple[float, float] | None = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Points of the shape of `x`, and their distances, shape (n,): infinite where none was found."""
        ...

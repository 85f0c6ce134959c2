"""``vat``: virtual adversarial training, how far predictions move within a ball, without labels.

Reference: T. Miyato, S. Maeda, M. Koyama and S. Ishii, "Virtual adversarial training: a regularization method for
supervised and semi-supervised learning", IEEE TPAMI 41(8), 2019 (arXiv 1704.03976), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.ascent import unit_direction
from hilbertnet.complexity.functions import untouched
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.losses import divergences, read_labels
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.functions import (
    BatchPenalty,
    as_function,
    check_radius,
    check_signals,
    draw_examples,
    logits_of,
    read_counts,
    reusable,
    with_graph,
)
from hilbertnet.regularization.term import PenaltyTerm

__all__ = ["Vat"]


@dataclass(frozen=True)
class Vat(PenaltyTerm):
    """Divergence of predictions in the worst direction, ``(1/n) sum_i KL(p(.|x_i) || p(.|x_i + r_i))``.

    r_i has length `radius` along the direction in which the divergence curves most, found from a random one by power
    iteration: ``d <- normalized grad_r KL(p(.|x) || p(.|x + r))`` at ``r = xi d``. The p(.|x_i) and the r_i are
    constants for the gradient of the penalty. One logit stands for two classes. Labels are not used.

    Parameters
    ----------
    radius
        Of the ball, in units of the signals.
    xi
        Where the iteration looks, in the same units. The paper has 1e-6, at which a difference of two logits is lost in
        the rounding of single precision.
    iterations
        Of the power method.
    examples
        The mean over so many examples of every batch, drawn at random; ``None``: all.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Warns
    -----
    RadiusWarning
        When bound, if the ball around any signal holds all others in [0, 1], where the training signals are.
    """

    name: ClassVar[str] = "vat"
    formula: ClassVar[str] = "(1/n) sum_i KL(p(.|x_i) || p(.|x_i + r_i)), ||r_i|| = radius"

    radius: float = 1.0
    xi: float = 0.01
    iterations: int = 1
    examples: int | None = None

    def __post_init__(self) -> None:
        for name in ("radius", "xi"):
            object.__setattr__(self, name, real_number(name, getattr(self, name), above=0.0))
        read_counts(self, "iterations", "examples")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        check_radius(self.radius, x_train)
        return BatchPenalty(self._value, generator)

    def _value(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        check_signals(x)
        drawn = draw_examples(len(x), self.examples, generator)
        x_part = x.detach() if drawn is None else x.detach()[drawn.to(x.device)]
        known = reusable(model, logits)  # which asks for the mode of the step
        with as_function(model) as f:
            with untouched(f):
                target = self._target(f, x_part, known, drawn)
                read_labels(y, len(x), target.shape[1])
                moved = x_part + self.radius * self._direction(f, x_part, target, generator)
            found = logits_of(f, moved)
        # rounding may leave the mean of a tiny divergence below zero
        return divergences(target, found).mean().clamp(min=0)

    @torch.no_grad()
    def _target(self, f: nn.Module, x: Tensor, known: Tensor | None, drawn: Tensor | None) -> Tensor:
        """Logits of p(.|x), those of the step where they are of the same function."""
        if known is None:
            return logits_of(f, x)
        return (known if drawn is None else known[drawn.to(known.device)]).detach()

    def _direction(
        self, f: nn.Module, x: Tensor, target: Float[Tensor, "n outputs"], generator: torch.Generator
    ) -> Float[Tensor, "n ..."]:
        """Of length one, or 0 where the divergence does not change."""
        direction = unit_direction(torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x), "2")
        if torch.is_autocast_enabled(x.device.type):  # differences of nearby logits are lost in half precision
            with torch.autocast(x.device.type, enabled=False):
                return self._power(f, x, self._target(f, x, None, None), direction)
        return self._power(f, x, target, direction)

    def _power(
        self, f: nn.Module, x: Tensor, target: Float[Tensor, "n outputs"], direction: Float[Tensor, "n ..."]
    ) -> Float[Tensor, "n ..."]:
        for _ in range(self.iterations):
            variable, values = with_graph(f, x + self.xi * direction)
            with torch.enable_grad():
                total = divergences(target, values).sum()
            (gradient,) = torch.autograd.grad(total, variable)
            direction = unit_direction(gradient, "2")
        return direction

"""``delta``: how far each logit rises in a ball around an example, a lower bound of the RKHS norm.

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hilbertnet.complexity.functions import untouched
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.losses import read_labels
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.functions import (
    BatchPenalty,
    Surface,
    as_function,
    check_radius,
    check_signals,
    logits_of,
    read_counts,
    reusable,
)
from hilbertnet.regularization.gradients import drawn_logits
from hilbertnet.regularization.rises import Rises
from hilbertnet.regularization.term import PenaltyTerm

__all__ = ["Delta"]


@dataclass(frozen=True)
class Delta(PenaltyTerm):
    """The squared rise of every logit in a ball, ``sum_k (f_k(x_i + d_ik) - f_k(x_i))^2`` at one image i for each k.

    For each example and each logit, steps of length 1.5 radius / steps along the normalized gradient lead from d = 0 up
    within ``||d|| <= radius``; i is the example with the largest rise. The d are constants for the gradient of the
    penalty, which goes through both values of f. By default this is the published objective; it ascends from every
    example for every logit, which is most of its cost. The cheaper ways are ours: `screen`, `shared` and `probe` look
    for the largest rise at fewer examples, so that what is found is at most that, and `classes` draws some of the sum's
    terms.

    Parameters
    ----------
    radius
        Of the ball, in units of the signals.
    steps
        Of each ascent.
    screen
        For each logit, go on only from so many examples, without `shared` those with the largest ``||grad f_k||``;
        ``None``: from all.
    shared
        Screen by so many probes that all logits share, in the place of the gradients of every logit at every example.
        A probe is a step from each example to the sphere of the ball: along the gradient of the logit that is lowest
        there, then of the one, not taken before, that rose most in the last probe. Kept are the examples where the
        logit changed most over the probes, in l2. More probes than logits (of those drawn, with `classes`) are as many;
        where `screen` keeps all examples there is no screening.
    probe
        Of these, ascend only from so many, those where the logit rises most in one step along the gradient to the
        sphere of the ball, which costs one forward pass for each; ``None``: from all.
    classes
        Draw so many logits at every step, and weigh their sum so that its mean over draws is that of all; ``None``: no
        draw.
    chunk
        So many pairs ascend at a time, which bounds the memory and changes nothing else.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Warns
    -----
    RadiusWarning
        When bound, if the ball around any signal holds all others in [0, 1], where the training signals are.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> penalty = Delta(radius=0.5).bind(torch.ones(4, 2), generator=0)
    >>> penalty(model, torch.ones(4, 2), torch.tensor([0, 1, 0, 1])).item()  # (||w|| / 2)^2
    6.25
    """

    name: ClassVar[str] = "delta"
    formula: ClassVar[str] = "sum_k max_i (f_k(x_i + d_ik) - f_k(x_i))^2, ||d_ik|| <= radius"

    radius: float = 1.0
    steps: int = 5
    screen: int | None = None
    shared: int | None = None
    probe: int | None = None
    classes: int | None = None
    chunk: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", real_number("radius", self.radius, above=0.0))
        read_counts(self, "steps", "screen", "shared", "probe", "classes", "chunk")
        if self.shared is not None and self.screen is None:
            raise ValueError(f"shared: expected screen= beside it, how many examples are to be kept, got {self}")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        check_radius(self.radius, x_train)
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
        known = reusable(model, logits)  # which asks for the mode of the step
        with as_function(model) as f:
            with untouched(f):
                surface = Surface(f, x, step)
                values = surface.values
                read_labels(y, len(x), values.shape[1])
                chosen, weight = drawn_logits(values.shape[1], self.classes, generator)
                chosen = chosen.to(x.device)
                places, moved = self._rises(f, surface).highest(chosen)
            known = _known(known, values)
            after = logits_of(f, moved if known is not None else torch.cat([moved, x.detach()[places]]))
        rows = torch.arange(len(places), device=x.device)
        before = known[places, chosen] if known is not None else after[len(places) + rows, chosen]
        return weight * (after[rows, chosen] - before).square().sum()

    def _rises(self, f: nn.Module, surface: Surface) -> Rises:
        return Rises(f, surface, self.radius, self.steps, self.screen, self.shared, self.probe, self.chunk)


def _known(logits: Tensor | None, values: Tensor) -> Tensor | None:
    """Logits of the step, where they can stand for those of the penalty, with the way back to the parameters."""
    if logits is None or logits.shape != values.shape or (torch.is_grad_enabled() and not logits.requires_grad):
        return None
    return logits

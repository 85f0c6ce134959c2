"""``delta``: how far each logit rises in a ball around an example, a lower bound of the RKHS norm.

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hilbertnet.ascent import unit_direction
from hilbertnet.complexity.functions import read_labels, untouched
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.functions import (
    BatchPenalty,
    as_function,
    check_signals,
    logits_of,
    read_count,
    reusable,
)
from hilbertnet.regularization.gradients import candidates, cut_at, each_gradient, lengths, read_counts, with_graph
from hilbertnet.regularization.steps import STEP, ball, fixed_steps
from hilbertnet.regularization.term import PenaltyTerm

__all__ = ["Delta"]


@dataclass(frozen=True)
class Delta(PenaltyTerm):
    """The squared rise of every logit in a ball, ``sum_k (f_k(x_i + d_ik) - f_k(x_i))^2`` at one image i for each k.

    For each example and each logit, steps of length 1.5 radius / steps along the normalized gradient lead from d = 0 up
    within ``||d|| <= radius``; i is the example with the largest rise. The d are constants for the gradient of the
    penalty, which goes through both values of f. By default this is the published objective; it ascends from every
    example for every logit, which is most of its cost. `screen`, `shortlist` and `examples` are cheaper ways, ours:
    they look at fewer, so that the rise found is at most the largest.

    Parameters
    ----------
    radius
        Of the ball, in units of the signals.
    steps
        Of each ascent.
    screen
        Ascend, for each logit, only from so many examples, those with the largest ``||grad f_k||``; ``None``: from all.
    layer
        Choose these by the gradient in the input of this convolution or linear layer, counted from 0 in the order of
        execution, in place of the gradient in the signals: an estimate, for which back-propagation stops short of the
        first layers, whose maps are the largest. ``None``: by the gradient in the signals.
    shortlist
        Before that, keep only so many examples, those where ``||sum_k s_k grad f_k||`` is largest, for one draw of
        signs s_k = +-1 for each example: one backward pass in place of one for each logit. ``None``: keep all.
    examples
        Before that, draw so many examples of every batch; ``None``: all.
    chunk
        So many pairs ascend at a time, which bounds the memory and changes nothing else.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> penalty = Delta(radius=2.0).bind(torch.ones(4, 2), generator=0)
    >>> penalty(model, torch.ones(4, 2), torch.tensor([0, 1, 0, 1])).item()  # (2 ||w||)^2
    100.0
    """

    name: ClassVar[str] = "delta"
    formula: ClassVar[str] = "sum_k max_i (f_k(x_i + d_ik) - f_k(x_i))^2, ||d_ik|| <= radius"

    radius: float = 1.0
    steps: int = 5
    screen: int | None = None
    layer: int | None = None
    shortlist: int | None = None
    examples: int | None = None
    chunk: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", real_number("radius", self.radius, above=0.0))
        for name in ("steps", "chunk"):
            object.__setattr__(self, name, read_count(name, getattr(self, name)))
        read_counts(self, "screen", "layer", "shortlist", "examples")
        if self.layer is not None and self.screen is None:
            raise ValueError(f"layer: expected it with screen, which it is for, got layer={self.layer} alone")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        return BatchPenalty(self._value, generator)

    def _value(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        check_signals(x)
        x, known = x.detach(), reusable(model, logits)  # which asks for the mode of the step
        with as_function(model) as f:
            with untouched(f):
                kept = candidates(f, x, self.examples, self.shortlist, generator)
                candidate = x[kept]
                at, values = with_graph(f, candidate) if self.layer is None else cut_at(f, candidate, self.layer)
                read_labels(y, len(x), values.shape[1])
                found = [self._highest(f, candidate, values.detach(), *pairs) for pairs in self._pairs(values, at)]
            places, moved = kept[torch.cat([place for place, _ in found])], torch.cat([point for _, point in found])
            known = _known(known, (len(x), len(places)))
            after = logits_of(f, moved if known is not None else torch.cat([moved, x[places]]))
        if known is None:
            before = after[len(places) :].diagonal()
        else:
            before = known[places, torch.arange(len(places), device=places.device)]
        return (after[: len(places)].diagonal() - before).square().sum()

    def _pairs(
        self, values: Float[Tensor, "n outputs"], at: Float[Tensor, "n ..."]
    ) -> Iterator[tuple[int, Int[Tensor, "classes m"], Tensor | None]]:
        """For some logits at a time: the first, the examples to ascend from, and the gradients there where known."""
        count = min(self.screen or len(values), len(values))
        at_once = max(1, self.chunk // count)
        places: list[Tensor] = []
        slopes: list[Tensor] = []
        for k, gradient in enumerate(each_gradient(values, at)):
            places.append(lengths(gradient).topk(count).indices)
            if self.layer is None:
                slopes.append(gradient[places[-1]])
            if len(places) == at_once or k + 1 == values.shape[1]:
                yield k + 1 - len(places), torch.stack(places), torch.cat(slopes) if slopes else None
                places, slopes = [], []

    def _highest(
        self, f: nn.Module, x: Tensor, values: Tensor, first: int, places: Tensor, slopes: Tensor | None
    ) -> tuple[Int[Tensor, " classes"], Float[Tensor, "classes ..."]]:
        """The example of the largest rise for each logit, and where it leads."""
        logit = torch.arange(first, first + len(places), device=x.device)[:, None].expand_as(places)
        rows, columns = places.flatten(), logit.flatten()
        ends, tops = [], []
        for part in torch.arange(len(rows), device=x.device).split(self.chunk):
            end, top = self._ascend(f, x[rows[part]], columns[part], None if slopes is None else slopes[part])
            ends.append(end)
            tops.append(top)
        best = (torch.cat(tops) - values[rows, columns]).view_as(places).argmax(1, keepdim=True)
        chosen = torch.cat(ends).unflatten(0, places.shape)[torch.arange(len(places), device=x.device), best[:, 0]]
        return places.gather(1, best)[:, 0], chosen

    def _ascend(
        self,
        f: nn.Module,
        x: Float[Tensor, "m ..."],
        columns: Int[Tensor, " m"],
        slopes: Float[Tensor, "m ..."] | None,
    ) -> tuple[Float[Tensor, "m ..."], Float[Tensor, " m"]]:
        """Where the steps lead and the logits there; the first goes along the gradients in x, if they are known."""

        def height(point: Tensor) -> Tensor:
            return logits_of(f, point).gather(1, columns[:, None])[:, 0]

        step, project = STEP * self.radius / self.steps, ball(x, self.radius)
        point, steps = x, self.steps
        if slopes is not None:
            point, steps = project(x + step * unit_direction(slopes, "2")), steps - 1
        point = fixed_steps(height, point, project, step, steps)
        with torch.no_grad():
            return point, height(point)


def _known(logits: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """Logits of the step, where they can stand for those of the penalty, with the way back to the parameters."""
    if logits is None or tuple(logits.shape) != shape or (torch.is_grad_enabled() and not logits.requires_grad):
        return None
    return logits

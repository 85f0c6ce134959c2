"""``delta``: how far each logit rises in a ball around an example, a lower bound of the RKHS norm.

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hilbertnet.ascent import unit_direction
from hilbertnet.complexity.functions import untouched
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.losses import read_labels
from hilbertnet.protocols import Penalty
from hilbertnet.regularization.functions import (
    BatchPenalty,
    as_function,
    check_radius,
    check_signals,
    logits_of,
    read_counts,
    reusable,
    with_graph,
)
from hilbertnet.regularization.gradients import drawn_logits, each_gradient, lengths
from hilbertnet.regularization.steps import STEP, ball, fixed_steps
from hilbertnet.regularization.term import PenaltyTerm

__all__ = ["Delta"]


@dataclass(frozen=True)
class Delta(PenaltyTerm):
    """The squared rise of every logit in a ball, ``sum_k (f_k(x_i + d_ik) - f_k(x_i))^2`` at one image i for each k.

    For each example and each logit, steps of length 1.5 radius / steps along the normalized gradient lead from d = 0 up
    within ``||d|| <= radius``; i is the example with the largest rise. The d are constants for the gradient of the
    penalty, which goes through both values of f. By default this is the published objective; it ascends from every
    example for every logit, which is most of its cost. The cheaper ways are ours: `screen` and `probe` look for the
    largest rise at fewer examples, so that what is found is at most that, and `classes` draws some of the sum's terms.

    Parameters
    ----------
    radius
        Of the ball, in units of the signals.
    steps
        Of each ascent.
    screen
        For each logit, go on only from so many examples, those with the largest ``||grad f_k||``; ``None``: from all.
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
    probe: int | None = None
    classes: int | None = None
    chunk: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", real_number("radius", self.radius, above=0.0))
        read_counts(self, "steps", "screen", "probe", "classes", "chunk")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """See `PenaltyTerm.bind`."""
        check_signals(x_train, "x_train")
        check_radius(self.radius, x_train)
        return BatchPenalty(self._value, generator)

    def _value(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        check_signals(x)
        x, known = x.detach(), reusable(model, logits)  # which asks for the mode of the step
        with as_function(model) as f:
            with untouched(f):
                variable, values = with_graph(f, x)
                read_labels(y, len(x), values.shape[1])
                chosen, weight = drawn_logits(values.shape[1], self.classes, generator)
                chosen = chosen.to(x.device)
                found = [
                    self._highest(f, x, values.detach(), *pairs) for pairs in self._pairs(values, variable, chosen)
                ]
            places, moved = torch.cat([place for place, _ in found]), torch.cat([point for _, point in found])
            known = _known(known, values)
            after = logits_of(f, moved if known is not None else torch.cat([moved, x[places]]))
        rows = torch.arange(len(places), device=x.device)
        before = known[places, chosen] if known is not None else after[len(places) + rows, chosen]
        return weight * (after[rows, chosen] - before).square().sum()

    def _pairs(
        self, values: Float[Tensor, "n outputs"], variable: Float[Tensor, "n ..."], chosen: Int[Tensor, " classes"]
    ) -> Iterator[tuple[Tensor, Int[Tensor, "logits m"], Float[Tensor, "logits m ..."]]]:
        """For some logits at a time: their numbers, the examples to ascend from, and the gradients there."""
        count = min(self.screen or len(values), len(values))
        at_once = max(1, self.chunk // count)
        gradients = each_gradient(values, variable, chosen)
        for part in chosen.split(at_once):
            places, slopes = [], []
            for gradient in islice(gradients, len(part)):
                places.append(lengths(gradient).topk(count).indices)
                slopes.append(gradient[places[-1]])
            yield part, torch.stack(places), torch.stack(slopes)

    def _highest(
        self, f: nn.Module, x: Tensor, values: Tensor, logits: Tensor, places: Tensor, slopes: Tensor
    ) -> tuple[Int[Tensor, " logits"], Float[Tensor, "logits ..."]]:
        """The example of the largest rise for each logit, and where it leads."""
        if self.probe is not None and self.probe < places.shape[1]:
            _, tops = self._climb(f, x, logits, places, slopes, self.radius, 1)
            kept = (tops - values[places, logits[:, None]]).topk(self.probe, dim=1).indices
            row = torch.arange(len(places), device=x.device)[:, None]
            places, slopes = places[row, kept], slopes[row, kept]
        ends, tops = self._climb(f, x, logits, places, slopes, STEP * self.radius / self.steps, self.steps)
        best = (tops - values[places, logits[:, None]]).argmax(1)
        row = torch.arange(len(places), device=x.device)
        return places[row, best], ends[row, best]

    def _climb(
        self, f: nn.Module, x: Tensor, logits: Tensor, places: Tensor, slopes: Tensor, step: float, steps: int
    ) -> tuple[Float[Tensor, "logits m ..."], Float[Tensor, "logits m"]]:
        """Where steps of this length lead from every pair of a logit and an example, and the logit there."""
        rows, columns, slopes = places.flatten(), logits[:, None].expand_as(places).flatten(), slopes.flatten(0, 1)
        ends, tops = [], []
        for part in torch.arange(len(rows), device=x.device).split(self.chunk):
            end, top = self._ascend(f, x[rows[part]], columns[part], slopes[part], step, steps)
            ends.append(end)
            tops.append(top)
        return torch.cat(ends).unflatten(0, places.shape), torch.cat(tops).view_as(places)

    def _ascend(
        self,
        f: nn.Module,
        x: Float[Tensor, "m ..."],
        columns: Int[Tensor, " m"],
        slopes: Float[Tensor, "m ..."],
        step: float,
        steps: int,
    ) -> tuple[Float[Tensor, "m ..."], Float[Tensor, " m"]]:
        """The same for pairs in a row; the first step goes along the gradients in x, which are known."""

        def height(point: Tensor) -> Tensor:
            return logits_of(f, point).gather(1, columns[:, None])[:, 0]

        project = ball(x, self.radius)
        point = project(x + step * unit_direction(slopes, "2"))
        point = fixed_steps(height, point, project, step, steps - 1)
        with torch.no_grad():
            return point, height(point)


def _known(logits: Tensor | None, values: Tensor) -> Tensor | None:
    """Logits of the step, where they can stand for those of the penalty, with the way back to the parameters."""
    if logits is None or logits.shape != values.shape or (torch.is_grad_enabled() and not logits.requires_grad):
        return None
    return logits

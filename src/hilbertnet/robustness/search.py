"""The search for the smallest perturbation of each example that any attack finds, in parts that a file remembers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.complexity.functions import Model, batched
from hilbertnet.complexity.margins import margins
from hilbertnet.losses import decide
from hilbertnet.progress import LONG, Progress, announce, format_seconds, track
from hilbertnet.records import check_identity, digest
from hilbertnet.robustness.entries import Entry
from hilbertnet.robustness.threats import Ball, Deformations
from hilbertnet.states import load_state, save_state

__all__ = ["Search", "Stage", "at_radius", "model_identity", "radius_of"]

_KIND = "unfinished evaluation"
_SLACK = 1e-5  # relative: attacks of others are exact to float32
_PRIME = 1_000_003


@dataclass(frozen=True)
class Stage:
    """One attack at one radius, once.

    Parameters
    ----------
    entry
        The attack.
    radius
        Place of the radius; ``None`` for attacks that have none.
    restart
        0 at first.
    """

    entry: Entry
    radius: int | None
    restart: int = 0


def radius_of(threat: Ball | Deformations) -> float:
    """What is varied in a threat: the radius of a ball, the largest shift of deformations."""
    return float(threat.radius if isinstance(threat, Ball) else threat.max_shift)


def at_radius(threat: Ball | Deformations, radius: float) -> Ball | Deformations:
    """The same threat at another radius."""
    return replace(threat, radius=radius) if isinstance(threat, Ball) else replace(threat, max_shift=radius)


def model_identity(model: Model) -> dict[str, Any]:
    """What a file knows a model by: its name and, of a module, the content of its tensors."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if not isinstance(model, nn.Module):
        return {"name": f"{getattr(model, '__module__', '')}.{getattr(model, '__qualname__', name)}"}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {"name": name, "tensors": {key: digest(value) for key, value in tensors}}


class Search:
    """What attacks have found so far.

    Parameters
    ----------
    model, x, y
        The model, signals (n, ...), and labels (n,) on the same device.
    scores
        Logits of the signals.
    threat
        Its radius does not matter.
    radii
        Increasing.
    batch_size
        Signals at a time.
    keep
        Of how many of the first examples that are decided rightly the adversarial signals are kept.

    Attributes
    ----------
    length
        The smallest perturbation that changes the decision of each example, in the threat's radii, shape (n,), float64:
        0 where it is wrong without one, infinite where none was found.
    by
        Which attack found it, -1 for none, shape (n,).
    points
        Adversarial signals of the examples `kept`.
    seconds
        What all of it took.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        scores: Tensor,
        threat: Ball | Deformations,
        radii: Sequence[float],
        *,
        batch_size: int,
        keep: int,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.batch_size = model, x, y, threat, batch_size
        self.radii = torch.tensor(radii, dtype=torch.float64)
        clean = (decide(scores) == y).cpu()
        self.length = torch.where(clean, torch.inf, 0.0).double()
        self.by = torch.full((len(x),), -1)
        self.margin = margins(scores, y).double().cpu()
        self.kept = clean.nonzero()[:keep, 0]
        self.points = x[self.kept.to(x.device)].cpu()
        self.done, self.queue, self.seconds = 0, torch.arange(0), 0.0
        self.file: str | None = None

    def remember(self, file: str | os.PathLike[str] | None, identity: dict[str, Any], seed: int) -> int:
        """Keep what is found in a file; go on from it if it is there. The seed of the file, or `seed`."""
        self.seed, self.identity = seed, identity
        self.file = None if file is None else os.fspath(file)
        if self.file is None or not os.path.exists(self.file):
            return self.seed
        state = load_state(self.file, _KIND)
        try:
            check_identity(self.file, state["identity"], self.identity, "evaluation")
            for name in ("length", "by", "margin", "points", "queue", "seconds"):
                setattr(self, name, state[name])
            self.done, self.seed = int(state["done"]), int(state["seed"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"checkpoint: {self.file} is damaged ({error!r}); remove it") from None
        return self.seed

    def _save(self) -> None:
        if self.file is not None:
            names = ("length", "by", "margin", "points", "queue", "seconds", "done", "seed", "identity")
            save_state(self.file, {name: getattr(self, name) for name in names}, _KIND)

    def run(self, stages: Sequence[Stage], names: Sequence[str], share: float, progress: Progress) -> None:
        """All stages that are not done."""
        chunks = -(-len(self.x) // self.batch_size)
        units = [(stage, part) for stage in stages for part in range(chunks)]
        first = True
        for place, (stage, part) in self._left(units, progress):
            if part == 0:
                self.queue = self._queue(stage, share)
            rows = self.queue[part * self.batch_size : (part + 1) * self.batch_size]
            self.done = place + 1
            if not len(rows):
                continue
            started = time.perf_counter()
            self._attack(stage, rows, names.index(stage.entry.name), self.seed * _PRIME + place)
            taken = time.perf_counter() - started
            self.seconds += taken
            self._save()
            expected = taken * (len(units) - place - 1)
            if first and expected > LONG:
                announce(f"evaluate: up to {format_seconds(expected)} if no example is lost early")
            first = False
        self._save()

    def _left(self, units: Sequence[tuple[Stage, int]], progress: Progress) -> Iterator[tuple[int, tuple[Stage, int]]]:
        return track(list(enumerate(units))[self.done :], progress, label="attacks")

    def _queue(self, stage: Stage, share: float) -> Tensor:
        """Examples to attack: those that withstood; when tried again, a share of them, the least margin first."""
        radius = self.radii[self.radii > 0].min() if stage.radius is None else self.radii[stage.radius]
        left = (self.length > radius).nonzero()[:, 0]
        if stage.restart == 0:
            return left
        order = self.margin[left].argsort(stable=True)
        return left[order][: math.ceil(len(left) * share)]

    def _attack(self, stage: Stage, rows: Tensor, number: int, seed: int) -> None:
        """Attack some examples, look at what the model says, and note what was found."""
        where = rows.to(self.x.device)
        x, y = self.x[where], self.y[where]
        largest = self.radii[-1] if stage.radius is None else self.radii[stage.radius]
        threat = at_radius(self.threat, float(largest))
        generator = torch.Generator().manual_seed(seed % 2**63)
        moved = stage.entry.run(self.model, x, y, threat, generator, again=stage.restart > 0)
        lengths = self._measure(stage, moved, x, threat)
        moved = moved.detach()
        scores = batched(self.model, moved, self.batch_size)
        wrong = (decide(scores) != y).cpu()
        self.margin[rows] = torch.minimum(self.margin[rows], margins(scores, y).double().cpu())
        better = wrong & (lengths < self.length[rows])
        found = rows[better]
        self.length[found], self.by[found] = lengths[better], number
        shown = torch.isin(self.kept, found)
        if shown.any():
            place = {int(row): i for i, row in enumerate(rows)}
            self.points[shown] = moved[[place[int(row)] for row in self.kept[shown]]].cpu()

    def _measure(self, stage: Stage, moved: Any, x: Tensor, threat: Ball | Deformations) -> Tensor:
        """Lengths of perturbations, at most the radius they were made for; refuse what is no such perturbation."""
        name = stage.entry.name
        if not isinstance(moved, Tensor) or moved.shape != x.shape or moved.dtype != x.dtype:
            got = f"{tuple(moved.shape)}, {moved.dtype}" if isinstance(moved, Tensor) else type(moved).__name__
            raise ValueError(f"attack: expected signals of shape {tuple(x.shape)}, {x.dtype}, of {name}, got {got}")
        if not torch.isfinite(moved).all():
            raise ValueError(f"attack: expected finite signals, got others by {name}")
        if not isinstance(threat, Ball):
            return torch.full((len(x),), radius_of(threat), dtype=torch.float64)
        threat.check(moved)
        lengths = threat.length(moved.double() - x.double()).cpu()
        limit = threat.radius * (1 + _SLACK)
        if stage.entry.kind != "nearest" and not bool((lengths <= limit).all()):
            raise ValueError(
                f"attack: expected perturbations inside the {threat}, got one of length {lengths.max():g} by {name}"
            )
        # a wrong decision without a perturbation is rounding: other signals were in the batch
        lengths = lengths.clamp(min=torch.finfo(torch.float64).tiny)
        radii = self.radii[:, None]
        snapped = torch.where((lengths > radii) & (lengths <= radii * (1 + _SLACK)), radii, torch.inf).amin(0)
        return torch.minimum(lengths, snapped)

"""Few examples: the accuracy that penalties and constraints of a network's RKHS norm buy, and what they cost.

Each run is a method with some candidates, regularizers of different strengths. The first seed chooses the candidate on
validation examples; all seeds then train with it, and the test examples are looked at once.

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 4.1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hilbertnet.complexity.functions import batched
from hilbertnet.experiments.experiment import Experiment, Records, Run, Unfinished, against, markdown
from hilbertnet.experiments.regularized import ATTACK, Network, Parts, best_of, bounds_of, cost_of_step, read_parts
from hilbertnet.losses import decide
from hilbertnet.progress import Progress, track
from hilbertnet.records import load_tensors, save_tensors, settings_of
from hilbertnet.robustness import Ball, attacked_accuracy
from hilbertnet.threads import threads
from hilbertnet.training import DivergedError

__all__ = ["EXPERIMENT", "SmallDataRun", "table"]

_WEIGHTS = "unfinished candidate"


@dataclass(frozen=True)
class SmallDataRun(Run):
    """One method.

    Parameters
    ----------
    name, device
        See `Run`.
    candidates
        Text forms of regularizers; an empty text is none.
    data
        What `hilbertnet.data.load` takes.
    train, validation
        How many examples, drawn anew for every seed.
    seeds
        Of examples, weights and order.
    width, depth, epochs, batch_size, learning_rate
        See `hilbertnet.experiments.regularized.Network`.
    radii
        Of l2 balls, increasing, in units of pixels in [0, 1].
    attacked
        How many test examples are attacked.
    published
        The published accuracy in percent, or ``None``.
    threads
        How many torch computes with, ``None`` for all: networks of a few filters are faster on one.
    """

    candidates: tuple[str, ...]
    data: str = "digits"
    train: int = 300
    validation: int = 300
    seeds: tuple[int, ...] = (0, 1, 2)
    width: int = 16
    depth: int = 2
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.05
    radii: tuple[float, ...] = (0.25, 0.5, 1.0)
    attacked: int = 200
    published: float | None = None
    threads: int | None = None

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Choose, train, test; the record is returned.

        Raises
        ------
        ValueError
            If a text form cannot be read, no candidate trains, or there are not as many examples.
        """
        with threads(self.threads):
            return self._record(folder, progress)

    def _record(self, folder: Path, progress: Progress) -> dict[str, Any]:
        started, unfinished = time.perf_counter(), Unfinished(folder, settings_of(self))
        chosen, tried = self._choose(unfinished, progress)
        found = {}
        for seed in track(self.seeds, progress, label=f"{self.name}: seeds"):
            found[str(seed)] = unfinished.part(f"seed-{seed}", partial(self._one, chosen, seed, unfinished))
        parts = self._parts(self.seeds[0])
        return {
            "settings": settings_of(self),
            "protocol": (
                f"{self.train:,} training and {self.validation:,} validation examples drawn for every seed; the "
                f"candidate chosen on the validation examples of seed {self.seeds[0]}, the epoch on those of each "
                "seed; test examples looked at once; attacks: projected gradients of the margin, from the image and "
                "towards every wrong class"
            ),
            "data": parts.data.to_dict(),
            "test_examples": len(parts.test[0]),
            "validation_accuracy": tried,
            "chosen": chosen,
            "cost_of_step": unfinished.part(
                "cost", lambda: {"ratio": cost_of_step(self._network, parts, chosen, self.seeds[0])}
            )["ratio"],
            "seeds": found,
            **unfinished.costs(started, self.device),
        }

    @property
    def _network(self) -> Network:
        return Network(self.width, self.depth, self.epochs, self.batch_size, self.learning_rate)

    def _parts(self, seed: int) -> Parts:
        return read_parts(self.data, self.train, self.validation, seed, self.device)

    def _choose(self, unfinished: Unfinished, progress: Progress) -> tuple[str, dict[str, float | None]]:
        """The candidate with the best validation accuracy, the first of equals; those that diverge have none."""
        if not self.candidates:
            raise ValueError("candidates: expected at least one text form, got none")
        if len(self.candidates) == 1:
            return self.candidates[0], {}
        tried: dict[str, float | None] = {}
        for i, text in enumerate(track(self.candidates, progress, label=f"{self.name}: candidates")):
            place = unfinished.path(f"weights-{i}", ".safetensors")
            tried[text] = unfinished.part(f"candidate-{i}", partial(self._validated, text, place))["accuracy"]
        known = {text: value for text, value in tried.items() if value is not None}
        if not known:
            raise ValueError(f"candidates: expected one that trains, all of {', '.join(self.candidates)} diverged")
        return max(known, key=lambda text: known[text]), tried

    def _validated(self, text: str, place: Path) -> dict[str, Any]:
        """Accuracy of a candidate, whose weights are kept until the run ends."""
        seed = self.seeds[0]
        try:
            net, history = self._network.fit(self._parts(seed), text, seed)
        except DivergedError as error:
            return {"accuracy": None, "reason": str(error)}
        save_tensors(place, net.state_dict(), {"kind": _WEIGHTS})
        return {"accuracy": best_of(history)}

    def _one(self, text: str, seed: int, unfinished: Unfinished) -> dict[str, Any]:
        parts = self._parts(seed)
        place = unfinished.path(f"weights-{self.candidates.index(text)}", ".safetensors")
        if seed == self.seeds[0] and place.exists():  # the candidate itself
            net = self._network.new(parts, seed).eval()
            net.load_state_dict(load_tensors(place, _WEIGHTS)[0])
        else:
            net, _ = self._network.fit(parts, text, seed)
        x, y = parts.test
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: self.attacked].to(x.device)
        attacked = attacked_accuracy(
            net, x[drawn], y[drawn], Ball("2", max(self.radii)), self.radii, attack=ATTACK, generator=seed
        )
        return {
            "test_accuracy": float((decide(batched(net, x, 512)) == y).double().mean()),
            "attacked": [one.value for one in attacked.accuracy],
            "attacked_examples": len(drawn),
            "bounds": bounds_of(net, x[drawn]),
        }


def table(records: Records) -> str:
    """One row for each method: accuracy, attacked accuracies, bounds and cost; means over seeds and their spread.

    Parameters
    ----------
    records
        By name of the run.
    """
    if not records:
        return "no run is finished yet"
    radii = next(iter(records.values()))["settings"]["radii"]
    head = ["method", "chosen", "accuracy (%)", *(f"attacked, radius {radius:g}" for radius in radii)]
    rows = [[*head, "gradient on data", "Lipschitz constant at most", "cost of a step"]]
    rows += [_row(name, record) for name, record in records.items()]
    first = next(iter(records.values()))
    seeds = len(first["seeds"])
    return (
        f"{markdown(rows)}\n\nMeans over {seeds} seeds, standard deviations after ±. Gradient: of the difference of "
        "the two largest logits, its largest norm on test images; at most: the same from operator norms of the layers, "
        "for any two logits and anywhere. Cost: of a training step, over a plain one timed beside it."
    )


def _row(name: str, record: Mapping[str, Any]) -> list[str]:
    seeds = list(record["seeds"].values())
    accuracy = [100 * one["test_accuracy"] for one in seeds]
    published = record["settings"]["published"]
    beside = "" if published is None else f" {against(published, statistics.mean(accuracy) / 100)}"
    attacked = [_spread([100 * one["attacked"][i] for one in seeds]) for i in range(len(seeds[0]["attacked"]))]
    below, above = ([one["bounds"][side] for one in seeds] for side in ("below", "above"))
    steep = [_mean(below), "infinite" if None in above else _mean(above)]
    return [
        name, record["chosen"] or "none", _spread(accuracy) + beside, *attacked, *steep,
        f"{record['cost_of_step']:.1f}",
    ]  # fmt: skip


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.3g}"


EXPERIMENT = Experiment(SmallDataRun, table)

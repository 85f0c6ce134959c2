"""Robustness, locally and globally: what training against an adversary does at the training points and elsewhere.

Adversarial training lowers the slope of a network at its training examples; penalties of the RKHS norm and constraints
of spectral norms lower it everywhere. `CurveRun` trains networks of one method at several strengths, and measures
slopes, and decisions that an attack cannot change, at training and test images, at images between two training images,
and at random ones. What the norm says of the robust loss is checked beside, on functions whose norm is known
(`hilbertnet.experiments.robust_inequality`).

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, sections 3 and 4.3; A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hilbertnet.complexity.data_bounds import gradient_bound
from hilbertnet.complexity.functions import batched
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Records, Run, Unfinished, markdown
from hilbertnet.experiments.regularized import ATTACK, Network, Parts, leaders, read_parts
from hilbertnet.experiments.robust_inequality import InequalityRun, inequality_rows
from hilbertnet.losses import decide
from hilbertnet.networks import PlainCNN
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, track
from hilbertnet.records import settings_of
from hilbertnet.robustness import Ball, attacked_accuracy
from hilbertnet.threads import threads
from hilbertnet.training import DivergedError

__all__ = ["EXPERIMENT", "PLACES", "CurveRun", "figures", "make_run", "table"]

PLACES = ("training", "test", "between", "random")
"""Where networks are looked at."""


@dataclass(frozen=True)
class CurveRun(Run):
    """One method at several strengths.

    Parameters
    ----------
    name, device
        See `Run`.
    strengths
        Text forms of regularizers, from weak to strong; an empty text is none.
    data
        What `hilbertnet.data.load` takes.
    train, validation
        How many examples; the validation examples choose the epoch, by clean accuracy.
    seeds
        Of examples, weights and order.
    network, width, depth, epochs, batch_size, learning_rate, augmentation
        See `hilbertnet.experiments.regularized.Network`; `network` is its kind.
    radii
        Of l2 balls, increasing, in units of pixels in [0, 1].
    points
        How many images of each kind are looked at.
    threads
        How many torch computes with, ``None`` for all: networks of a few filters are faster on one.
    """

    strengths: tuple[str, ...]
    data: str = "digits"
    train: int = 300
    validation: int = 300
    seeds: tuple[int, ...] = (0, 1)
    network: str = "mnist_net"
    width: int = 16
    depth: int = 2
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.05
    augmentation: str | None = None
    radii: tuple[float, ...] = (0.25, 0.5, 1.0)
    points: int = 200
    threads: int | None = None

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Train and measure; the record is returned."""
        with threads(self.threads):
            return self._record(folder, progress)

    def _record(self, folder: Path, progress: Progress) -> dict[str, Any]:
        check_counts(points=self.points)
        started, unfinished = time.perf_counter(), Unfinished(folder, settings_of(self))
        jobs = [(text, seed) for text in self.strengths for seed in self.seeds]
        found: dict[str, dict[str, Any]] = {text: {} for text in self.strengths}
        for i, (text, seed) in enumerate(track(jobs, progress, label=f"{self.name}: trainings")):
            found[text][str(seed)] = unfinished.part(f"training-{i}", partial(self._one, text, seed))
        parts = read_parts(self.data, self.train, self.validation, self.seeds[0], self.device)
        return {
            "settings": settings_of(self),
            "protocol": (
                f"{self.train:,} training and {self.validation:,} validation examples for every seed, the epoch chosen "
                "on the latter by clean accuracy; between: means of two training images of different classes with "
                "weights drawn at random; random: uniform pixels; kept: the network's own decision, under projected "
                "gradients of the margin"
            ),
            "data": parts.data.to_dict(),
            "strengths": found,
            **unfinished.costs(started, self.device),
        }

    def _one(self, text: str, seed: int) -> dict[str, Any]:
        parts = read_parts(self.data, self.train, self.validation, seed, self.device)
        network = Network(
            self.width, self.depth, self.epochs, self.batch_size, self.learning_rate, kind=self.network,
            augmentation=self.augmentation,
        )  # fmt: skip
        try:
            net, _ = network.fit(parts, text, seed)
        except DivergedError as error:
            return {"diverged": str(error)}
        places = _places(parts, self.points, seed)
        x, y = parts.test
        return {
            "test_accuracy": float((decide(batched(net, x, 512)) == y).double().mean()),
            "places": {name: self._place(net, points, seed) for name, points in places.items()},
            "robust": self._robust(net, places["test"], y[_drawn(parts, self.points, seed)], seed),
        }

    def _place(self, net: PlainCNN, x: Tensor, seed: int) -> dict[str, Any]:
        own = decide(batched(net, x, 512))
        return {"gradient": _steepest(net, x), "kept": self._robust(net, x, own, seed)}

    def _robust(self, net: PlainCNN, x: Tensor, y: Tensor, seed: int) -> list[float]:
        found = attacked_accuracy(net, x, y, Ball("2", max(self.radii)), self.radii, attack=ATTACK, generator=seed)
        return [one.value for one in found.accuracy]


def _steepest(net: PlainCNN, x: Tensor) -> float:
    return max(gradient_bound(net, part, lipschitz=1.0, output=pair).value for pair, part in leaders(net, x).items())


def _places(parts: Parts, count: int, seed: int) -> dict[str, Tensor]:
    """Images of each kind."""
    rng = torch.Generator().manual_seed(seed)
    x, y = parts.train
    first, second = (torch.randint(len(x), (4 * count,), generator=rng) for _ in range(2))
    apart = (y.cpu()[first] != y.cpu()[second]).nonzero()[:count, 0]
    share = torch.rand(len(apart), 1, 1, 1, generator=rng).to(x)
    between = share * x[first[apart]] + (1 - share) * x[second[apart]]
    test = parts.test[0]
    return {
        "training": x[torch.randperm(len(x), generator=rng)[:count].to(x.device)],
        "test": test[_drawn(parts, count, seed)],
        "between": between,
        "random": torch.rand(count, *x.shape[1:], generator=rng).to(x),
    }


def _drawn(parts: Parts, count: int, seed: int) -> Tensor:
    """Which test images are looked at."""
    n = len(parts.test[0])
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count].to(parts.test[0].device)


def make_run(**settings: Any) -> Run:
    """A run of functions of known norm where there is an ``architecture``, otherwise of networks."""
    return InequalityRun(**settings) if "architecture" in settings else CurveRun(**settings)


# --- tables


def table(records: Records) -> str:
    """Accuracies and slopes by method and strength, and losses under attack beside what norms allow.

    Parameters
    ----------
    records
        By name of the run.
    """
    curves = {name: record for name, record in records.items() if "strengths" in record}
    parts = [_curve_table(curves)] if curves else []
    for name, record in records.items():
        if "functions" in record:
            parts += [name, markdown(inequality_rows(record))]
    return "\n\n".join(parts) if parts else "no run is finished yet"


def _curve_table(records: Records) -> str:
    radii = next(iter(records.values()))["settings"]["radii"]
    attacked = [f"attacked, radius {radius:g}" for radius in radii]
    slopes = [f"gradient, {place}" for place in PLACES]
    kept = [f"kept, {place}" for place in PLACES]
    rows = [["method", "regularizer", "accuracy (%)", *attacked, *slopes, *kept]]
    for name, record in records.items():
        for text, by_seed in record["strengths"].items():
            seeds = _trained(by_seed)
            if not seeds:
                rows.append([name, text or "none", "diverged", *[""] * (len(rows[0]) - 3)])
                continue
            numbers = [[one["test_accuracy"], *one["robust"]] for one in seeds]
            steep = [_mean([one["places"][place]["gradient"] for one in seeds]) for place in PLACES]
            same = [_mean([100 * one["places"][place]["kept"][0] for one in seeds]) for place in PLACES]
            rows.append(
                [name, text or "none", *(_mean([100 * v for v in column]) for column in zip(*numbers, strict=True)),
                 *steep, *same]
            )  # fmt: skip
    return (
        f"{markdown(rows)}\n\nMeans over seeds. Gradient: the largest norm of the gradient of the difference of the "
        "two largest logits. Kept: percent of the network's own decisions that the attack does not change, at the "
        "smallest radius. Between: mixtures of two training images."
    )


def _trained(by_seed: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in by_seed.values() if "places" in one]


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3g}"


# --- pictures


def figures(records: Records) -> dict[str, list[Panel]]:
    """Clean against attacked accuracy by method, and slopes at every kind of image against clean accuracy.

    Parameters
    ----------
    records
        By name of the run.
    """
    curves = {name: record for name, record in records.items() if "strengths" in record}
    if not curves:
        return {}
    radii = next(iter(curves.values()))["settings"]["radii"]
    robust = [
        Panel(
            f"radius {radius:g}", "clean accuracy (%)", "attacked accuracy (%)",
            tuple(_curve(name, record, lambda one, i=i: 100 * one["robust"][i]) for name, record in curves.items()),
            log_x=False, log_y=False,
        )
        for i, radius in enumerate(radii)
    ]  # fmt: skip
    steep = [
        Panel(
            f"{place} images", "clean accuracy (%)", "largest gradient",
            tuple(
                _curve(name, record, lambda one, place=place: one["places"][place]["gradient"])
                for name, record in curves.items()
            ),
            log_x=False,
        )
        for place in PLACES
    ]  # fmt: skip
    return {"robust": robust, "gradients": steep}


def _curve(name: str, record: Mapping[str, Any], value: Any) -> Curve:
    """By strength, means over seeds."""
    seeds = [_trained(by_seed) for by_seed in record["strengths"].values()]
    known = [one for one in seeds if one]
    x = [100 * statistics.mean(one["test_accuracy"] for one in group) for group in known]
    y = [[value(one) for one in group] for group in known]
    return Curve(name, tuple(x), tuple(map(statistics.mean, y)), low=tuple(map(min, y)), high=tuple(map(max, y)))


EXPERIMENT = Experiment(make_run, table, figures)

"""Is it lazy, and in which layers? A network at several output scales, its linearization, and kernel regression.

A network f is trained as ``alpha (f - f_0)`` on ``loss / alpha^2`` with the loss ``||t - f||^2 / 2`` of targets t = +1
and -1, by the same steps for every alpha; its linearization at the start by the same steps; and kernel regression with
the empirical tangent kernel is the gradient flow of the linearization, in closed form, at the same time (steps times
learning rate). Lazy training is where the three agree and no layer moves: for large alpha, or for a wide network.

Reference: L. Chizat, E. Oyallon and F. Bach, "On lazy training in differentiable programming", NeurIPS 2019, sections 2
and 3.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hilbertnet.data import load
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Records, Run, Unfinished, markdown
from hilbertnet.kernels.empirical import empirical_ntk
from hilbertnet.kernels.lazy import LazyModel, LinearizedModel, lazy_objective, tangent_regression
from hilbertnet.kernels.movement import Movement
from hilbertnet.kernels.parameters import choose_parameters
from hilbertnet.losses import decide, signs
from hilbertnet.metrics import Interval, accuracy_interval
from hilbertnet.networks.pieces import check_counts, output_count
from hilbertnet.networks.tangent import ntk_network
from hilbertnet.progress import Progress, track
from hilbertnet.records import digest, settings_of
from hilbertnet.training import Data, Recipe, classification_loss, train

__all__ = ["EXPERIMENT", "LazyRun", "LazyStudy", "figures", "stable_rate", "table"]

_SQUARED = classification_loss("ridge")
_PROBED = 64  # examples whose kernel says how fast gradient descent may be
_SHOWN = 7  # epochs of a picture


def stable_rate(model: nn.Module, x: Tensor) -> float:
    """A learning rate for the mean of ``||t - f||^2 / 2``: one over the largest eigenvalue of the kernel over n.

    Gradient descent on the linearization is stable below twice as much.

    Parameters
    ----------
    model
        At its initial parameters.
    x
        Examples; the first 64 are looked at.
    """
    blocks = empirical_ntk(model, x[:_PROBED], trace="class-by-class", progress=False)
    n, _, outputs, _ = blocks.shape
    largest = torch.linalg.eigvalsh(blocks.transpose(1, 2).reshape(n * outputs, -1))[-1]
    return n / float(largest)


@dataclass(frozen=True)
class LazyStudy:
    """One model, data, and the steps by which it is trained at every scale.

    Parameters
    ----------
    model
        Any module from signals to decision values (n, outputs), at its initial parameters; it is not touched. In
        float64, since at large scales parameters move by little.
    data, test
        Signals and numbers of classes, for training and for testing.
    recipe
        Epochs, batches, seed.
    learning_rate
        Of gradient descent; default `stable_rate`.
    """

    model: nn.Module
    data: Data
    test: Data
    recipe: Recipe
    learning_rate: float | None = None

    @cached_property
    def rate(self) -> float:
        """The learning rate."""
        return stable_rate(self.model, self.data[0]) if self.learning_rate is None else self.learning_rate

    @property
    def time(self) -> float:
        """Steps times learning rate."""
        return self.recipe.epochs * -(-len(self.data[0]) // self.recipe.batch_size) * self.rate

    @cached_property
    def regression(self) -> LinearizedModel:
        """Kernel regression, centred as the trained models are."""
        x, y = self.data
        centred = LazyModel(copy.deepcopy(self.model), 1.0)
        with torch.no_grad():
            outputs = centred(x[:1])
        return tangent_regression(centred, x, signs(y, outputs.shape[1], outputs.dtype), time=self.time, progress=False)

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """Accuracy on the test examples, and the distance of its outputs there to those of kernel regression."""
        x, y = self.test
        model.eval()
        with torch.no_grad():
            found, expected = model(x), self.regression(x)
        accuracy = accuracy_interval(y.numpy(force=True), decide(found).numpy(force=True))
        distance = float((found - expected).norm() / expected.norm())
        return {"accuracy": accuracy._asdict(), "distance": distance}

    def regress(self) -> dict[str, Any]:
        """What kernel regression reaches."""
        return self.judge(self.regression)

    def linearized(self) -> dict[str, Any]:
        """What the linearization reaches, trained by the same steps."""
        layers = [f"model.{name}" for name in choose_parameters(self.model)]
        model = LinearizedModel(LazyModel(copy.deepcopy(self.model), 1.0), layers=layers)
        found = self._train(model, Movement(model), 1.0)
        moved = [{name.removeprefix("model."): by for name, by in epoch.items()} for epoch in found["movement"]]
        return {**found, "movement": moved}

    def at(self, alpha: float) -> dict[str, Any]:
        """What the model reaches at an output scale."""
        inner = copy.deepcopy(self.model)
        return self._train(LazyModel(inner, alpha), Movement(inner), alpha)

    def _train(self, model: nn.Module, movement: Movement, alpha: float) -> dict[str, Any]:
        optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], self.rate)
        objective = lazy_objective(alpha, _SQUARED)
        history = train(
            model, self.data, None, optimizer, self.recipe, schedule=movement, objective=objective, progress=False
        )
        last = history[-1]
        fitted = {"train_loss": last.train_loss * alpha**2, "train_accuracy": last.train_accuracy}
        return {**self.judge(model), **fitted, "movement": movement.history}


@dataclass(frozen=True)
class LazyRun(Run):
    """The network of an architecture in the tangent kernel's parametrization, on a data set, at several scales.

    Parameters
    ----------
    name, device
        See `Run`.
    architecture
        Text form, of kernels ``arccos1``, ``exp`` and ``dual``.
    width
        Features of every layer.
    alphas
        Output scales, increasing.
    data
        What `hilbertnet.data.load` takes.
    train, test
        Images, from the training part of the data.
    epochs, batch_size
        Of the training.
    seed
        Of the weights, the images and the order of batches.
    """

    architecture: str
    width: int
    alphas: tuple[float, ...]
    data: str = "digits"
    train: int = 200
    test: int = 1000
    epochs: int = 1000
    batch_size: int = 200
    seed: int = 0

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Train at every scale; the record is returned."""
        self._check()
        started, data = time.perf_counter(), load(self.data)
        if self.train + self.test > len(data.x):
            raise ValueError(f"train, test: expected at most {len(data.x):,} images, got {self.train + self.test:,}")
        order = np.random.RandomState(self.seed).permutation(len(data.x))[: self.train + self.test]
        x, y = (
            torch.from_numpy(data.x[order]).double(),
            torch.from_numpy(np.unique(data.y, return_inverse=True)[1][order]),
        )
        study = self._study(x.to(self.device), y.to(self.device))
        unfinished = Unfinished(folder, {**settings_of(self), "images": digest(x), "labels": digest(y)})
        jobs = {"regression": study.regress, "linearized": study.linearized}
        jobs |= {f"alpha-{alpha:g}": partial(study.at, alpha) for alpha in self.alphas}
        parts = {name: unfinished.part(name, jobs[name]) for name in track(jobs, progress, label="models")}
        return {
            "settings": settings_of(self),
            "protocol": (
                f"{self.train:,} training and {self.test:,} test images, no augmentation, no selection of an epoch; "
                f"{self.epochs} epochs of gradient descent in float64, batches of {self.batch_size}, learning rate "
                f"{study.rate:.3g}; kernel regression is the gradient flow at the same time"
            ),
            "data": data.to_dict(),
            "learning_rate": study.rate,
            "regression": parts["regression"],
            "linearized": parts["linearized"],
            "trained": [parts[f"alpha-{alpha:g}"] for alpha in self.alphas],
            **unfinished.costs(started, self.device),
        }

    def _study(self, x: Tensor, y: Tensor) -> LazyStudy:
        outputs = output_count(int(y.max()) + 1)
        space = tuple(x.shape[2:])
        net = ntk_network(self.architecture, x.shape[1], self.width, space=space, outputs=outputs, generator=self.seed)
        recipe = Recipe(self.epochs, self.batch_size, self.seed)
        first, rest = (x[: self.train], y[: self.train]), (x[self.train :], y[self.train :])
        return LazyStudy(net.to(x), first, rest, recipe)

    def _check(self) -> None:
        check_counts(width=self.width, train=self.train, test=self.test, epochs=self.epochs, batch_size=self.batch_size)
        alphas = self.alphas
        if not alphas or min(alphas) <= 0 or not np.isfinite(alphas).all() or list(alphas) != sorted(set(alphas)):
            raise ValueError(f"alphas: expected increasing positive numbers, at least one, got {alphas!r}")


def table(records: Records) -> str:
    """For every run and model: test accuracy, distance to kernel regression, and the layer that moved most.

    Parameters
    ----------
    records
        By name of the run.
    """
    rows = [["run", "model", "test accuracy", "distance to kernel regression", "training accuracy", "moved most"]]
    for name, record in records.items():
        rows.append([name, "kernel regression", *_cells(record["regression"])])
        rows.append([name, "linearization", *_cells(record["linearized"])])
        for alpha, found in zip(record["settings"]["alphas"], record["trained"], strict=True):
            rows.append([name, f"network, alpha = {alpha:g}", *_cells(found)])
    return markdown(rows)


def _cells(found: dict[str, Any]) -> list[str]:
    cells = [str(Interval(**found["accuracy"])), f"{found['distance']:.2g}"]
    if "movement" not in found:
        return [*cells, "", ""]
    layer, moved = max(found["movement"][-1].items(), key=lambda item: item[1])
    return [*cells, f"{100 * found['train_accuracy']:.1f}%", f"{layer}: {moved:.2g}"]


def figures(records: Records) -> dict[str, list[Panel]]:
    """A picture for every run: movement of each layer and test accuracy against alpha, and movement by epoch.

    Parameters
    ----------
    records
        By name of the run.
    """
    return {name: _panels(record) for name, record in records.items()}


def _panels(record: dict[str, Any]) -> list[Panel]:
    """The three panels of a run; layers that started at 0 or did not move are left out of logarithmic axes."""
    settings, alphas = record["settings"], record["settings"]["alphas"]
    final = [found["movement"][-1] for found in record["trained"]]
    title, moved = f"{settings['data']}: {settings['architecture']}", "relative movement of the weights"
    slope = -1.0 if len(alphas) > 1 else None  # what the theory says
    by_alpha = Panel(title, "output scale alpha", moved, _by_layer(alphas, final), slope=slope)
    least = record["trained"][0]["movement"]
    shown = sorted({round(epoch) for epoch in np.geomspace(1, len(least), _SHOWN)})
    epochs = _by_layer(shown, [least[epoch - 1] for epoch in shown])
    by_epoch = Panel(f"at alpha = {alphas[0]:g}", "epoch", moved, epochs)
    accuracy = Panel(
        f"{settings['test']:,} test images", "output scale alpha", "accuracy, %", _accuracies(record), False
    )
    return [by_alpha, by_epoch, accuracy]


def _by_layer(x: Sequence[float], movements: list[dict[str, float]]) -> tuple[Curve, ...]:
    curves = []
    for layer in movements[0]:
        y = [movement[layer] for movement in movements]
        if min(y) > 0 and np.isfinite(y).all():
            curves.append(Curve(layer, tuple(x), tuple(y), tuple(y), tuple(y)))
    return tuple(curves)


def _accuracies(record: dict[str, Any]) -> tuple[Curve, ...]:
    alphas = tuple(record["settings"]["alphas"])
    ways = {
        "network": record["trained"],
        "linearization": [record["linearized"]] * len(alphas),
        "kernel regression": [record["regression"]] * len(alphas),
    }
    curves = []
    for label, found in ways.items():
        mean, low, high = (tuple(100 * one["accuracy"][end] for one in found) for end in ("value", "low", "high"))
        curves.append(Curve(label, alphas, mean, low, high))
    return tuple(curves)


EXPERIMENT = Experiment(LazyRun, table, figures)

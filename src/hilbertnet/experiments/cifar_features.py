"""CIFAR-10 features: convolutional kernel networks, unsupervised and supervised, beside a plain network of their shape.

Training images are the first of the 50,000; the last 10,000 are a test set that no choice looks at, beside the official
test images that are at hand. A fifth of the training images is held out to choose lambda, epoch and learning rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Augmentation, Dataset, Preprocessing, load
from hilbertnet.estimators import CKNClassifier
from hilbertnet.losses import decide
from hilbertnet.metrics import accuracy_interval
from hilbertnet.networks import PlainCNN, ckn_like
from hilbertnet.progress import Progress
from hilbertnet.records import environment, finite, peak_memory, save_tensors, settings_of
from hilbertnet.solvers.linear import validation_folds
from hilbertnet.training import DivergedError, Epoch, Recipe, evaluate, train

__all__ = ["CifarRun"]

_TEST = 10_000  # of the training images, the last
_HELD_OUT = 0.2
Fitted = TypeVar("Fitted")


@dataclass(frozen=True)
class CifarRun:
    """One row of the table.

    Parameters
    ----------
    name
        What the row and its folder are called.
    architecture
        Text form or preset.
    train
        How many of the first training images.
    filters
        Of each layer; ``None`` for those of the preset.
    model
        ``"ckn"``, or ``"cnn"`` for the plain network of the same shape.
    training
        ``"unsupervised"`` or ``"supervised"``.
    patches
        Clustered in each layer.
    preprocessing
        Text form.
    epochs, batch_size, augmentation
        Of supervised training.
    rates
        Learning rates to choose from.
    published
        The published accuracy in percent, or ``None``.
    seed
        Of all that is random.
    device
        Where to compute.
    """

    name: str
    architecture: str
    train: int
    filters: tuple[int, ...] | None = None
    model: str = "ckn"
    training: str = "unsupervised"
    patches: int = 200_000
    preprocessing: str = "whiten"
    epochs: int = 30
    batch_size: int = 128
    augmentation: str | None = None
    rates: tuple[float, ...] = (0.01,)
    published: float | None = None
    seed: int = 0
    device: str = "cpu"

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Fit, choose, test once, and leave the checkpoint in `folder`; the record is returned."""
        data, started = load("cifar10"), time.perf_counter()
        most = len(data.x) - _TEST
        if self.train > most:
            raise ValueError(f"train: expected at most {most:,}, all but the last {_TEST:,} images, got {self.train:,}")
        fit = self._fit_cnn if self.model == "cnn" else self._fit_ckn
        scores, found = fit(data, folder, progress)
        tests = {}
        for name, values in scores.items():
            y = _parts(data)[name][1]
            interval = accuracy_interval(y, decide(torch.from_numpy(values)).numpy())
            tests[name] = {"examples": len(values), **interval._asdict()}
        return {
            "settings": settings_of(self),
            "protocol": (
                f"first {self.train:,} training images; {_HELD_OUT:.0%} of them held out to choose lambda, epoch and "
                f"learning rate; tested once on the last {_TEST:,} training images and the official test images at hand"
            ),
            "data": data.to_dict(),
            "test": tests,
            **found,
            "seconds": time.perf_counter() - started,
            "peak_memory": peak_memory(),
            **environment(self.device),
        }

    def _fit_ckn(
        self, data: Dataset, folder: Path, progress: Progress
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        def fit(rate: float) -> tuple[float, CKNClassifier, dict[str, Any]]:
            model = CKNClassifier(
                self.architecture,
                self.filters,
                preprocessing=self.preprocessing,
                patches=self.patches,
                validation=_HELD_OUT,
                training=self.training,  # type: ignore[arg-type]
                epochs=self.epochs,
                learning_rate=rate,
                batch_size=self.batch_size,
                augmentation=self.augmentation,
                checkpoint=_unfinished(folder, rate),
                random_state=self.seed,
                device=self.device,
                progress=progress,
            ).fit(data.x[: self.train], data.y[: self.train])
            reached = max(point.accuracy for point in model.validation_curve_)
            return reached, model, {"lambda": model.alpha_}

        model, found = self._choose(self.rates if self.training == "supervised" else self.rates[:1], fit)
        model.save(folder / "model.safetensors")
        scores = {name: model.decision_function(part) for name, (part, _) in _parts(data).items()}
        history = [finite(asdict(epoch)) for epoch in model.history_]
        return scores, {"features": model.head_.weight.shape[1], **found, "history": history}

    def _fit_cnn(
        self, data: Dataset, folder: Path, progress: Progress
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        whiten = Preprocessing.parse(self.preprocessing).fit(data.x[: self.train])
        x, y = torch.from_numpy(whiten(data.x[: self.train])), torch.from_numpy(data.y[: self.train])
        (held,) = validation_folds(y, _HELD_OUT, torch.Generator().manual_seed(self.seed))

        def fit(rate: float) -> tuple[float, tuple[PlainCNN, list[Epoch]], dict[str, Any]]:
            model = self._plain(x, len(data.class_names)).to(self.device)
            optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
            history = train(
                model,
                (x[~held], y[~held]),
                (x[held], y[held]),
                optimizer,
                Recipe(self.epochs, self.batch_size, self.seed, clip=1.0),
                schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs),
                augment=None if self.augmentation is None else Augmentation.parse(self.augmentation),
                checkpoint=_unfinished(folder, rate),
                progress=progress,
            )
            return evaluate(model, (x[held], y[held]))[1], (model, history), {}

        (model, epochs), found = self._choose(self.rates, fit)
        save_tensors(folder / "model.safetensors", model.state_dict(), {"kind": "plain network", **asdict(self)})
        parts = {name: torch.from_numpy(whiten(part)) for name, (part, _) in _parts(data).items()}
        scores = {name: _decisions(model, part) for name, part in parts.items()}
        history = [finite(asdict(epoch)) for epoch in epochs]
        return scores, {"features": model.head.in_features, **found, "history": history}

    def _choose(
        self, rates: Sequence[float], fit: Callable[[float], tuple[float, Fitted, dict[str, Any]]]
    ) -> tuple[Fitted, dict[str, Any]]:
        """What `fit` makes of the rate that is best on held-out images, and what became of all of them."""
        candidates: list[dict[str, Any]] = []
        best: tuple[float, Fitted] | None = None
        for rate in rates:
            try:
                reached, fitted, said = fit(rate)
            except DivergedError as error:
                candidates.append({"rate": rate, "diverged": str(error)})
                continue
            candidates.append({"rate": rate, "validation_accuracy": reached, **said})
            if best is None or reached > best[0]:
                best = reached, fitted
        if best is None:
            raise ValueError(
                f"rates: expected one that does not diverge, got {self.rates}: {candidates[-1]['diverged']}"
            )
        return best[1], {"validation_accuracy": best[0], "candidates": candidates}

    def _plain(self, x: torch.Tensor, classes: int) -> PlainCNN:
        """The plain network; a CKN is indifferent to the scale of its input, this one gets its mean and deviation."""
        _, channels, height, width = x.shape
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()
        arch, preset_filters = read_architecture(self.architecture, (height, width))
        filters = self.filters or preset_filters
        assert filters is not None
        space = (height, width)
        return ckn_like(arch, channels, filters, classes, space=space, mean=mean, std=std, generator=self.seed)


def _unfinished(folder: Path, rate: float) -> Path:
    return folder / f"unfinished-{rate:g}.safetensors"


def _parts(data: Dataset) -> dict[str, tuple[NDArray[np.float32], NDArray]]:
    """Images and labels of the two test sets."""
    assert data.test_x is not None
    assert data.test_y is not None
    return {"last": (data.x[-_TEST:], data.y[-_TEST:]), "official": (data.test_x, data.test_y)}


@torch.no_grad()
def _decisions(model: torch.nn.Module, x: torch.Tensor) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).cpu() for part in x.split(512)]).numpy()

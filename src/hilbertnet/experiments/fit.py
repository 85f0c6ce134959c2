"""Fit a model to a data set, measure it on held-out examples, and leave a run folder.

Each seed is a run of its own: it splits the data, fits the model to the training part, and looks at the held-out part
once. A convolutional kernel network learns filters without labels and chooses lambda on folds of the training part; it
may then be trained with labels, as other networks are. A finished run is never done twice; an interrupted one goes on
from what it had done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.data import Dataset, Partition, load, partition
from hilbertnet.data.dataset import printable
from hilbertnet.data.reading import Reading
from hilbertnet.experiments.pictures import save_pictures
from hilbertnet.experiments.predictions import PredictionWriter
from hilbertnet.losses import decide
from hilbertnet.metrics import accuracy_interval
from hilbertnet.progress import Progress, Stopwatch
from hilbertnet.records import RunFolder, atomic_path, environment, finite, peak_memory, settings_of, write_json
from hilbertnet.regularization.regularizer import as_regularizer
from hilbertnet.text import nearest

if TYPE_CHECKING:
    from hilbertnet.estimators import CKNClassifier, RegularizedClassifier

__all__ = ["FitSettings", "fit_run", "fit_seeds", "labels_of"]

CKN = "ckn"
_MODELS = (CKN, "cnn", "motif", "vgg", "resnet")
_OF_SEQUENCES = "10 exp(0.6) global"  # where a motif stands in a sequence does not matter
_UNLABELLED, _SELECTED = "filters learned without labels on the training part", "the epoch selected on what is held out"
_LAMBDA = "lambda chosen on held-out folds of the training part"
_KEPT = "trained on all of the training part, the last epoch kept"
_TRAINED = f"trained on what is not held out of the training part, {_SELECTED}"
_PROTOCOLS = {
    "unsupervised": f"{_UNLABELLED}; {_LAMBDA}; the head fitted on all of the training part",
    "supervised": f"{_UNLABELLED}; filters then {_TRAINED}; {_LAMBDA}; the head fitted on all of the training part",
    "regularized": f"{_UNLABELLED}; {_LAMBDA}; filters and head then {_KEPT}",
    "plain": _KEPT,
}


@dataclass(frozen=True)
class FitSettings(Reading):
    """What a run is made of.

    Parameters
    ----------
    data
        What `hilbertnet.data.load` takes.
    architecture
        Text form, preset's name, or ``None`` for the default by the size of the images; of sequences one layer of
        patches of 10 letters.
    filters
        Filters of each layer, or ``None`` for the default.
    loss
        ``"squared_hinge"``, ``"logistic"`` or ``"ridge"``; default the first. Other models have ``"logistic"``.
    seed
        Of the split, and of all that is random in the fit.
    held_out
        Share of examples held out, in (0, 1); ``None`` takes the official test set, or a third where there is none.
    train
        Keep only so many training examples, or ``None`` for all.
    patches
        Patches clustered in each layer, or ``None`` for the default.
    device
        Where to compute.
    preprocessing
        Text form of what is done to images first, such as ``"contrast | zca(1e-4)"``, or ``None``.
    size, channels, axes, label, alphabet, length
        How files are read, see `hilbertnet.data.load`.
    training
        ``"unsupervised"`` or ``"supervised"``, see `CKNClassifier`; default the second where there is a regularizer,
        or another model.
    epochs, learning_rate, batch_size, augmentation
        Of supervised training, see `CKNClassifier`; they do nothing without. Default 30 epochs at 0.03 in
        batches of 128; for other models those of `RegularizedClassifier`.
    model
        ``"ckn"``, or what `RegularizedClassifier` takes, by name: ``"cnn"``, ``"vgg"``, ``"resnet"`` or
        ``"package.module:function"``. Architecture, filters, patches and preprocessing are those of ``"ckn"``.
    regularize
        Text form of a regularizer, such as ``"delta(1.0) + sn(1.5)"``, or ``None``.
    weight_decay
        Of models other than ``"ckn"``, which has lambda.

    Raises
    ------
    ValueError
        If the regularizer cannot be read, or a setting is not one of the model's.
    """

    data: str
    architecture: str | None = None
    filters: tuple[int, ...] | None = None
    loss: str | None = None
    seed: int = 0
    held_out: float | None = None
    train: int | None = None
    patches: int | None = None
    device: str = "cpu"
    preprocessing: str | None = None
    training: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    augmentation: str | None = None
    model: str = CKN
    regularize: str | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.model not in _MODELS and ":" not in self.model:
            raise ValueError(
                f"model: expected one of {', '.join(_MODELS)} or 'package.module:function', got "
                f"{printable(self.model)!r}{nearest(self.model, _MODELS)}"
            )
        ckn, terms = self.model == CKN, as_regularizer(self.regularize).terms
        defaults: dict[str, Any] = {
            "loss": "squared_hinge" if ckn else "logistic",
            "training": "unsupervised" if ckn and not terms else "supervised",
            "epochs": 30 if ckn else 100,
            "learning_rate": 0.03 if ckn else 0.05,
            "batch_size": 128 if ckn else 32,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if ckn and self.weight_decay:
            raise ValueError("weight-decay: only for models other than ckn, whose lambda validation chooses")
        if not ckn:
            _check_plain(self)


def _check_plain(settings: FitSettings) -> None:
    """Refuse what only a convolutional kernel network can be asked for."""
    known: dict[str, Any] = {"architecture": None, "filters": None, "patches": None, "preprocessing": None}
    known |= {"loss": "logistic", "training": "supervised"}
    for name, value in known.items():
        found = getattr(settings, name)
        if found != value:
            raise ValueError(
                f"{name}: only for model ckn; {printable(settings.model)} takes {value or 'none'}, got {found!r}"
            )


def fit_run(settings: FitSettings, folder: Path, *, progress: Progress = None) -> dict[str, Any]:
    """One run: its record, new or found in `folder`.

    Parameters
    ----------
    settings
        What to fit.
    folder
        Where its record, checkpoint and predictions go.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If a setting is not what is expected, or `folder` holds a finished run of other settings.
    """
    run = RunFolder(folder)
    found = run.found(settings_of(settings))
    if found is not None:
        return found
    clock = Stopwatch()
    data = load(settings.data, **asdict(Reading.of(settings)))
    _check(data, settings)
    parts = partition(data, held_out=settings.held_out, seed=settings.seed, train=settings.train)
    clock.lap("load")
    model = _classifier(settings, data, run, progress).fit(parts.train_x, labels_of(data, parts.train_y))
    clock.lap("fit")
    scores = model.decision_function(parts.test_x)
    columns = scores[:, None] if scores.ndim == 1 else scores
    predicted = model.classes_[decide(torch.from_numpy(columns)).numpy()]
    true = labels_of(data, parts.test_y)
    clock.lap("test")
    record = _record(settings, parts, model, true, predicted)
    record |= {"seconds": _seconds(clock, model), "peak_memory": peak_memory()}
    model.save(run.checkpoint_path)
    save_pictures(run.pictures_path, parts, model.classes_, true, columns, settings.seed)
    with atomic_path(run.predictions_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        PredictionWriter(file, model.classes_).write(_names(parts), true, predicted, columns)
    write_json(run.record_path, record)
    run.unfinished_path.unlink(missing_ok=True)
    return record


def _names(parts: Partition) -> Sequence[object]:
    """What the test examples are called: by their places, or by their names."""
    names, places = parts.data.names, parts.test.tolist()
    return [names[place] for place in places] if names and parts.kind != "official" else places


def _seconds(clock: Stopwatch, model: CKNClassifier | RegularizedClassifier) -> dict[str, float]:
    """Of all stages, in order; those of the fit one by one."""
    return {"load": clock.laps["load"], **model.seconds_, "test": clock.laps["test"]}


def fit_seeds(
    settings: FitSettings, folder: Path, seeds: int, *, progress: Progress = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs for `seeds` seeds in a row from ``settings.seed``, each in its sub-folder (one seed: `folder` itself)."""
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    for seed in range(settings.seed, settings.seed + seeds):
        place = folder if seeds == 1 else folder / f"seed-{seed}"
        own = FitSettings(**{**asdict(settings), "seed": seed})
        yield place, fit_run(own, place, progress=progress)


def _check(data: Dataset, settings: FitSettings) -> None:
    """Refuse what no classifier could be fitted to, and what is done to images only."""
    for name, value in (("preprocess", settings.preprocessing), ("augment", settings.augmentation)):
        if value is not None and data.kind != "images":
            raise ValueError(f"{name}: only for images, got {value!r} for the {data.kind} of {printable(data.name)}")
    if len(np.unique(data.y)) < 2:
        label = data.class_names[data.y[0]] if data.class_names else data.y[0].item()
        raise ValueError(f"{printable(data.name)}: expected at least two classes, got one: {printable(label)}")
    if not data.x.any():
        raise ValueError(f"{printable(data.name)}: expected {data.kind} that are not all 0, got no others")


def _classifier(
    settings: FitSettings, data: Dataset, run: RunFolder, progress: Progress
) -> CKNClassifier | RegularizedClassifier:
    from hilbertnet.estimators import CKNClassifier, RegularizedClassifier

    assert settings.epochs is not None  # by default, as the others
    assert settings.learning_rate is not None
    assert settings.batch_size is not None
    if settings.model != CKN:
        return RegularizedClassifier(
            settings.model,
            settings.regularize,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            batch_size=settings.batch_size,
            augmentation=settings.augmentation,
            random_state=settings.seed,
            device=settings.device,
            checkpoint=run.unfinished_path,
            progress=progress,
        )
    return CKNClassifier(
        settings.architecture or (_OF_SEQUENCES if data.kind == "sequences" else None),
        settings.filters,
        preprocessing=settings.preprocessing,
        loss=settings.loss,  # type: ignore[arg-type]
        checkpoint=run.unfinished_path,
        training=settings.training,  # type: ignore[arg-type]
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        augmentation=settings.augmentation,
        regularizer=settings.regularize,
        patches=settings.patches,
        random_state=settings.seed,
        device=settings.device,
        progress=progress,
    )


def labels_of(data: Dataset, y: NDArray) -> NDArray:
    """What the classes are called, where they have names that are not their numbers."""
    names = data.class_names
    return y if names == tuple(map(str, range(len(names)))) else np.array(names)[y]


def _record(
    settings: FitSettings,
    parts: Partition,
    model: CKNClassifier | RegularizedClassifier,
    true: NDArray,
    predicted: NDArray,
) -> dict[str, Any]:
    regularizer = as_regularizer(settings.regularize)
    accuracy = accuracy_interval(true, predicted)
    return {
        "settings": settings_of(settings),
        "protocol": _protocol(settings, parts),
        "data": {"summary": str(parts.data), **parts.data.to_dict()},
        "split": parts.to_dict(),
        "train_examples": len(parts.train),
        "test_examples": len(parts.test),
        "model": settings.model,
        "regularizer": str(regularizer) if regularizer.terms else None,
        "loss": settings.loss,
        "parameters": _parameters(model),
        **_ckn_record(model),
        "history": [finite(asdict(epoch)) for epoch in model.history_],
        "test_accuracy": accuracy.value,
        "test_accuracy_interval": {"level": 0.95, "method": "Wilson", "low": accuracy.low, "high": accuracy.high},
        **environment(settings.device),
    }


def _parameters(model: CKNClassifier | RegularizedClassifier) -> int:
    """How many numbers were learned."""
    if hasattr(model, "module_"):
        return sum(parameter.numel() for parameter in model.module_.parameters())
    filters = sum(parameter.numel() for parameter in model.network_.parameters())
    return filters + model.head_.weight.numel() + model.head_.bias.numel()


def _ckn_record(model: CKNClassifier | RegularizedClassifier) -> dict[str, Any]:
    """What only a convolutional kernel network has."""
    if not hasattr(model, "network_"):
        return {}
    arch = model.network_.arch
    return {
        "architecture": arch.to_dict(),
        "filters": list(model.network_.filters),
        "kappa_slopes": [finite(slope) for slope in arch.slopes],
        "lipschitz_bound": finite(arch.lipschitz),
        "preprocessing": None if model.preprocessing_ is None else str(model.preprocessing_),
        "features": model.head_.weight.shape[1],
        "lambda": model.alpha_,
        "validation_curve": [asdict(point) for point in model.validation_curve_],
    }


def _protocol(settings: FitSettings, parts: Partition) -> str:
    split = "official" if parts.kind == "official" else f"seeded {parts.kind}"
    how = settings.training or "unsupervised"
    if settings.model != CKN:
        how = "plain"
    elif as_regularizer(settings.regularize).terms:
        how = "regularized"
    return f"{split} split; {_PROTOCOLS[how]}; the test part looked at once"


def check_device(name: str) -> str:
    """`name` if torch can compute there.

    Raises
    ------
    ValueError
        If it cannot.
    """
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: expected one torch can use, such as cpu or cuda, got {name!r} ({reason})") from None
    return name

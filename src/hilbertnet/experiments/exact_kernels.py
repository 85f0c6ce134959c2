"""Ridge regression with exact kernels on few or many images: convolutional kernels, random features, tangent kernels.

Training images are the first of a random order, so that smaller sets are parts of larger ones; lambda is chosen by
leave-one-out on them, and the test images are looked at once. Gram matrices are kept in stores beside the record: an
interrupted run goes on from the tiles that are there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Preprocessing, load
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Records, Run, Unfinished, against, markdown
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.ridge import choose_lambda, ridge_path
from hilbertnet.kernels.runners import compute_gram
from hilbertnet.kernels.store import KINDS, GramStore
from hilbertnet.kernels.stored import open_gram
from hilbertnet.metrics import Interval, accuracy_interval, paired_interval, paired_test
from hilbertnet.progress import Progress, format_seconds
from hilbertnet.records import digest, settings_of
from hilbertnet.signals import is_count

__all__ = ["EXPERIMENT", "LAMBDAS", "ExactKernelRun", "figures", "table"]

LAMBDAS = tuple(10.0**-power for power in range(4, 12))
"""Tried for ``(K + n lambda I)^-1``, in units of the mean of the diagonal of K."""


@dataclass(frozen=True)
class ExactKernelRun(Run):
    """One architecture on one data set, with one kernel or both, at several numbers of training images.

    Parameters
    ----------
    name, device
        See `Run`.
    architecture
        Text form or preset.
    data
        What `hilbertnet.data.load` takes; with an official test set.
    kinds
        ``"ckn"`` (of arc-cosine kernels: that of random features), ``"ntk"``, or both, for the price of the second.
    sizes
        Numbers of training images, increasing.
    test
        How many test images, chosen at random; ``None`` for all that are at hand.
    preprocessing
        Text form; learned from the training images of the largest size.
    published
        Figures to show beside, as ``"KIND SIZE PERCENT"``, where KIND may also be another method's name.
    seed
        Of the order of the images.
    """

    architecture: str
    data: str = "cifar10"
    kinds: tuple[str, ...] = ("ckn",)
    sizes: tuple[int, ...] = (300, 1000)
    test: int | None = None
    preprocessing: str | None = None
    published: tuple[str, ...] = ()
    seed: int = 42

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Compute the Gram matrices, choose lambda, test once at every size; the record is returned."""
        self._check()
        started, data = time.perf_counter(), load(self.data)
        if data.test_x is None or data.test_y is None:
            raise ValueError(f"data: expected a data set with test images, got {self.data!r}")
        train = _first(len(data.x), self.sizes[-1], "sizes", self.seed)
        test = np.arange(len(data.test_x))
        if self.test is not None:
            test = np.sort(_first(len(data.test_x), self.test, "test", self.seed))
        x, test_x = data.x[train], data.test_x[test]
        if self.preprocessing is not None:
            prepare = Preprocessing.parse(self.preprocessing).fit(x)
            x, test_x = prepare(x), prepare(test_x)
        y, test_y = data.y[train], data.test_y[test]
        identity = {**settings_of(self), "x": digest(x), "test_x": digest(test_x)}
        unfinished = Unfinished(folder, identity)
        tiles_found = self._compute(folder, x, test_x, progress)
        results = {
            kind: {
                str(size): unfinished.part(f"{kind}-{size}", partial(_evaluate, folder, kind, size, y, test_y))
                for size in self.sizes
            }
            for kind in self.kinds
        }
        return {
            "settings": settings_of(self),
            "protocol": (
                f"first training images of the order of RandomState({self.seed}); targets one-hot less 1 / classes; "
                f"lambda by leave-one-out accuracy on them; tested once on {len(test):,} official test images; float32"
            ),
            "data": data.to_dict(),
            "test_examples": digest(test),
            "test_count": len(test),
            "results": results,
            "tiles_found": tiles_found,  # by an earlier call, whose time is not in that of this one
            **unfinished.costs(started, self.device),
        }

    def _check(self) -> None:
        if not self.sizes or not all(map(is_count, self.sizes)) or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes: expected increasing positive whole numbers, got {self.sizes!r}")
        if not self.kinds or any(kind not in KINDS for kind in self.kinds):
            raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {self.kinds!r}")
        for figure in self.published:
            _read_published(figure)

    def _compute(self, folder: Path, x: NDArray[np.float32], test_x: NDArray[np.float32], progress: Progress) -> int:
        arch, _ = read_architecture(self.architecture, x.shape[2:])
        kernel = ConvKernel(arch, "ntk" if "ntk" in self.kinds else "ckn")
        train, test = (torch.from_numpy(np.ascontiguousarray(part)).to(self.device) for part in (x, test_x))
        how: dict[str, Any] = {"kinds": self.kinds, "dtype": torch.float32, "progress": progress}
        folder.mkdir(parents=True, exist_ok=True)
        stores, found = (folder / "train.zarr", folder / "test.zarr"), 0
        for store in stores:
            found += len(GramStore.open(store).done()) if store.exists() else 0
        compute_gram(stores[0], kernel, train, **how)
        compute_gram(stores[1], kernel, test, train, **how)
        return found


def _first(count: int, wanted: int, name: str, seed: int) -> NDArray[np.int64]:
    if wanted > count:
        raise ValueError(f"{name}: expected at most {count:,} images, got {wanted:,}")
    return np.random.RandomState(seed).permutation(count)[:wanted]


def _evaluate(folder: Path, kind: str, size: int, y: NDArray, test_y: NDArray) -> dict[str, Any]:
    """Fit with the first `size` images, and test."""
    gram = open_gram(folder / "train.zarr", kind).block(slice(size), slice(size)).double()
    cross = open_gram(folder / "test.zarr", kind).block(slice(None), slice(size)).double()
    classes, labels = np.unique(y[:size], return_inverse=True)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), len(classes)).double() - 1 / len(classes)
    unit = float(gram.diagonal().mean())

    def accuracy(scores: Tensor) -> float:
        return float(np.mean(scores.argmax(1).numpy() == labels))

    path = ridge_path(gram, targets)
    lam, curve = choose_lambda(path, LAMBDAS, accuracy, unit)
    solution = path.solution(lam * unit)
    predicted = classes[(cross @ solution.coefficients).argmax(1).numpy()]
    return {
        "lambda": lam,
        "leave_one_out": max(score for at, score, _ in curve if at == lam),
        "curve": [list(point) for point in curve],
        "rkhs_norms": solution.squared_norm.sqrt().tolist(),
        "test": accuracy_interval(test_y, predicted)._asdict(),
        "wrong": np.flatnonzero(predicted != test_y).tolist(),
    }


# --- table and pictures


def table(records: Records) -> str:
    """Two tables in Markdown: accuracies, and differences of kernels on the same test images.

    A difference is with its 95% interval (Newcombe) and the p-value of McNemar's test; an order of two kernels is
    claimed only where the interval leaves out 0.

    Parameters
    ----------
    records
        By name of the run.
    """
    rows = [["run", "kernel", "training images", "lambda", "leave-one-out", "test", "published", "time of the run"]]
    for name, record in records.items():
        for kind, size, found in _results(record):
            rows.append(
                [
                    name,
                    kind,
                    f"{size:,}",
                    f"{found['lambda']:.0e}",
                    f"{100 * found['leave_one_out']:.2f}%",
                    f"{Interval(**found['test'])} of {record['test_count']:,}",
                    _published(record["settings"]["published"], kind, size, found["test"]["value"]),
                    format_seconds(record["seconds"]) + (" (tiles from earlier)" if record["tiles_found"] else ""),
                ]
            )
    pairs = _pairs(records)
    return markdown(rows) + (f"\n\n{markdown(pairs)}" if len(pairs) > 1 else "")


def _results(record: Mapping[str, Any]) -> list[tuple[str, int, dict[str, Any]]]:
    return [(kind, int(size), found) for kind, sizes in record["results"].items() for size, found in sizes.items()]


def _pairs(records: Records) -> list[list[str]]:
    """Every two kernels with the same training and test images."""
    rows = [["data", "training images", "first", "second", "first less second", "p", "order"]]
    by_images: dict[Any, list[tuple[str, Any, dict[str, Any]]]] = {}
    for name, record in records.items():
        settings = record["settings"]
        for kind, size, found in _results(record):
            same = (settings["data"], size, settings["seed"], record["test_examples"], record["test_count"])
            by_images.setdefault(same, []).append((f"{name} {kind}", record["test_count"], found))
    for (data, size, *_), found_there in by_images.items():
        for (first, count, one), (second, _, other) in combinations(found_there, 2):
            right, wrong_one, wrong_other = np.zeros(count, int), np.zeros(count, int), np.zeros(count, int)
            wrong_one[one["wrong"]] = 1
            wrong_other[other["wrong"]] = 1
            gap = paired_interval(right, wrong_one, wrong_other)
            order = "first is better" if gap.low > 0 else "second is better" if gap.high < 0 else "not told apart"
            p = paired_test(right, wrong_one, wrong_other)
            points = f"{100 * gap.value:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
            rows.append([data, f"{size:,}", first, second, points, f"{p:.2g}", order])
    return rows


def _read_published(figure: str) -> tuple[str, int, float]:
    try:
        what, size, percent = figure.rsplit(" ", 2)
        return what, int(size), float(percent)
    except ValueError:
        raise ValueError(f"published: expected 'KIND SIZE PERCENT', got {figure!r}") from None


def _published(figures: Sequence[str], kind: str, size: int, value: float) -> str:
    """Figures for this kernel, or of other methods at this size; a miss is said."""
    cells = []
    for what, at, percent in map(_read_published, figures):
        if what == kind and at == size:
            cells.append(f"{percent:g}% {against(percent, value)}")
        elif what == kind:
            cells.append(f"{percent:g}% with {at:,}")
        elif what not in KINDS and at == size:
            cells.append(f"{percent:g}% ({what})")
    return ", ".join(cells)


def figures(records: Records) -> dict[str, list[Panel]]:
    """Accuracy against the number of training images, a panel for each data set.

    Parameters
    ----------
    records
        By name of the run.
    """
    panels: dict[str, list[Curve]] = {}
    for name, record in records.items():
        for kind, sizes in record["results"].items():
            tests = [Interval(**found["test"]) for found in sizes.values()]
            value, low, high = (tuple(100 * number for number in numbers) for numbers in zip(*tests, strict=True))
            label = f"{name} {kind}" if len(record["results"]) > 1 else name
            curve = Curve(label, tuple(float(size) for size in sizes), value, low, high)
            panels.setdefault(record["settings"]["data"], []).append(curve)
    drawn = [
        Panel(data, "training images", "test accuracy (%)", tuple(curves), log_y=False)
        for data, curves in panels.items()
    ]
    return {"accuracy": drawn} if drawn else {}


EXPERIMENT = Experiment(ExactKernelRun, table, figures)

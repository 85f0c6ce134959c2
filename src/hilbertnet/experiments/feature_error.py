"""How far the Gram matrix of a finite network is from the exact kernel's, against the width of its layers.

Random features, independent and orthogonal, and the Nyström projection on filters that were learned from other images
of the same data have the same architecture and as many features in every layer. Errors are those of the Gram matrix of
images that no filter has seen, ||G - K||_F / ||K||_F and max |G - K| / max |K|, for several seeds of each width. A
straight line is fitted to the logarithms of their root mean squares. One layer of independent features is unbiased with
a variance of exactly 1 / width, so that its slope is -1/2; with more layers that is the limit for large widths.

References: A. Rahimi and B. Recht, "Random features for large-scale kernel machines", NeurIPS 2007; F. Yu et al.,
"Orthogonal random features", NeurIPS 2016; C. Williams and M. Seeger, "Using the Nyström method to speed up kernel
machines", NeurIPS 2000.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.data import load
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Records, Run, Unfinished, markdown
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import CKN, RandomFeatureLayer, RandomFeatureNet
from hilbertnet.networks.features import FeatureNet
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, format_seconds, track
from hilbertnet.records import digest, settings_of
from hilbertnet.signals import is_count

__all__ = ["EXPERIMENT", "METHODS", "FeatureErrorRun", "figures", "fit_slope", "table"]

METHODS = ("random", "orthogonal", "Nyström")
_EXPECTED_SLOPE = -0.5  # of random features
_QUARTILES = (0.25, 0.75)
_LEAST = float(np.finfo(np.float64).eps)  # below it an error is rounding


@dataclass(frozen=True)
class FeatureErrorRun(Run):
    """One architecture on one data set, all methods, widths and seeds.

    Parameters
    ----------
    name, device
        See `Run`.
    architecture
        Text form, of kernels that have random features.
    widths
        Features of every layer, increasing; even where a kernel is ``exp``.
    data
        What `hilbertnet.data.load` takes.
    examples
        Images of the Gram matrix, from the training part of the data.
    train
        Other images of it, whose patches the filters are learned from.
    patches, iterations
        Clustered in each layer, and passes of k-means at most.
    draws
        Of random directions, for each width.
    fits
        Of filters, from other random patches and starts, for each width.
    seed
        Of the choice of images.
    """

    architecture: str
    widths: tuple[int, ...]
    data: str = "digits"
    examples: int = 100
    train: int = 1000
    patches: int = 5000
    iterations: int = 10
    draws: int = 100
    fits: int = 3
    seed: int = 0

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Measure every width of every method; the record is returned."""
        self._check()
        started, data = time.perf_counter(), load(self.data)
        images = _choose(data.x, self.examples, self.train, self.seed)
        unfinished = Unfinished(folder, {**settings_of(self), "images": [digest(part) for part in images]})
        task = _Task(self, *(torch.from_numpy(part).double().to(self.device) for part in images))
        wanted = [(method, width) for method in METHODS for width in self.widths]
        parts: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
        for method, width in track(wanted, progress, label="errors"):
            name = f"{METHODS.index(method)}-{width}"
            parts[method].append(unfinished.part(name, partial(task.measure, method, width)))
        return {
            "settings": settings_of(self),
            "protocol": (
                f"Gram matrix of {self.examples:,} images against the exact kernel's, in float64; for each width, "
                f"{self.draws} draws of random directions and {self.fits} of filters, which were learned from "
                f"{self.patches:,} patches of {self.train:,} other images; epsilon 0"
            ),
            "data": data.to_dict(),
            "methods": {method: _summary(self.widths, found) for method, found in parts.items()},
            **unfinished.costs(started, self.device),
        }

    def _check(self) -> None:
        check_counts(examples=self.examples, train=self.train, draws=self.draws, fits=self.fits)
        widths = self.widths
        if len(widths) < 3 or not all(map(is_count, widths)) or list(widths) != sorted(set(widths)):
            raise ValueError(f"widths: expected at least 3 increasing positive whole numbers, got {widths!r}")
        arch, rng = Architecture.parse(self.architecture), torch.Generator()
        for layer in arch.layers:  # before anything is computed
            for width in widths:
                RandomFeatureLayer(arch, layer, 1, width, generator=rng)


def _choose(x: NDArray[np.float32], examples: int, train: int, seed: int) -> tuple[NDArray, NDArray]:
    """Images of the Gram matrix, and others for the filters."""
    if examples + train > len(x):
        raise ValueError(f"examples, train: expected at most {len(x):,} images together, got {examples:,} + {train:,}")
    order = np.random.RandomState(seed).permutation(len(x))
    return x[order[:examples]], x[order[examples : examples + train]]


@dataclass(frozen=True)
class _Task:
    """What is measured: images of the Gram matrix, and those whose patches are clustered."""

    run: FeatureErrorRun
    x: Tensor
    train: Tensor

    @cached_property
    def exact(self) -> Tensor:
        return ConvKernel(Architecture.parse(self.run.architecture)).gram(self.x, progress=False)

    def measure(self, method: str, width: int) -> dict[str, Any]:
        """Errors of every seed of a width, and the seconds of networks, features and inner products."""
        exact, started = self.exact, time.perf_counter()
        networks = (self._network(method, width, seed) for seed in range(self._seeds(method)))
        grams = [features @ features.T for features in (net.encode(self.x, progress=False) for net in networks)]
        seconds = time.perf_counter() - started
        gaps = [gram - exact for gram in grams]
        return {
            "frobenius": [float(gap.norm() / exact.norm()) for gap in gaps],
            "sup": [float(gap.abs().max() / exact.abs().max()) for gap in gaps],
            "seconds": seconds,
        }

    def _seeds(self, method: str) -> int:
        return self.run.fits if method == "Nyström" else self.run.draws

    def _network(self, method: str, width: int, seed: int) -> FeatureNet:
        run, channels = self.run, self.x.shape[1]
        arch = Architecture.parse(run.architecture)
        # a stream of its own: with the same seed, the first directions of two widths would be the same
        rng = torch.Generator().manual_seed(1_000_003 * seed + width)
        if method != "Nyström":
            net = RandomFeatureNet(arch, channels, width, orthogonal=method == "orthogonal", generator=rng)
            return net.double().to(run.device)
        ckn = CKN(arch, channels, (width,) * len(arch.layers), epsilon=0.0, generator=rng).double().to(run.device)
        options: dict[str, Any] = {"patches": run.patches, "iterations": run.iterations, "progress": False}
        return ckn.eval().fit_filters_(self.train, generator=rng, **options)


def _summary(widths: tuple[int, ...], parts: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [part["frobenius"] for part in parts]
    means = [_root_mean_square(found) for found in errors]
    slope, error = fit_slope(widths, means)
    return {
        "widths": list(widths),
        "frobenius": errors,
        "sup": [part["sup"] for part in parts],
        "mean": [float(np.mean(found)) for found in errors],
        "root_mean_square": means,
        "standard_deviation": [float(np.std(found, ddof=1)) if len(found) > 1 else None for found in errors],
        "slope": slope,
        "slope_standard_error": error,
        "line": [means[0] * math.sqrt(widths[0] / width) for width in widths],  # where the slope is -1/2
        "seconds": [part["seconds"] for part in parts],
    }


def _root_mean_square(errors: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def fit_slope(widths: Sequence[int], errors: Sequence[float]) -> tuple[float, float]:
    """Slope of log error against log width by least squares, and its standard error, from the residuals.

    Parameters
    ----------
    widths
        At least 3 of them.
    errors
        One for each; what is below rounding counts as rounding.
    """
    from scipy.stats import linregress

    fitted = linregress(np.log(widths), np.log(np.maximum(errors, _LEAST)))
    return float(fitted.slope), float(fitted.stderr)


def table(records: Records) -> str:
    """For every run and method: the slope, and the error at the largest width, random against Nyström.

    Parameters
    ----------
    records
        By name of the run.
    """
    rows = [_HEAD]
    for name, record in records.items():
        least = max(record["methods"]["Nyström"]["root_mean_square"][-1], _LEAST)
        where = f"`{record['settings']['architecture']}`, {record['settings']['data']}"
        rows += [[name, where, method, *_cells(found, least)] for method, found in record["methods"].items()]
    return markdown(rows)


_HEAD = ["run", "architecture", "method", "slope", "width", "error", "1/sqrt line", "sup error"]
_HEAD += ["times Nyström's", "time"]


def _cells(found: dict[str, Any], least: float) -> list[str]:
    """What the table says of a method: errors are root mean squares over seeds, ± their standard deviation."""
    error, deviation = found["root_mean_square"][-1], found["standard_deviation"][-1]
    ratio = float(f"{error / least:.3g}")
    return [
        f"{found['slope']:.3f} ± {found['slope_standard_error']:.3f}",
        f"{found['widths'][-1]:,}",
        f"{error:.2g}" if deviation is None else f"{error:.2g} ± {deviation:.1g}",
        f"{found['line'][-1]:.2g}",
        f"{_root_mean_square(found['sup'][-1]):.2g}",
        f"{ratio:,g}",
        format_seconds(sum(found["seconds"])),
    ]


def figures(records: Records) -> dict[str, list[Panel]]:
    """The picture ``errors``: for every run, the error of each method against the width, with its quartiles.

    Parameters
    ----------
    records
        By name of the run.
    """
    return {"errors": [_panel(record) for record in records.values()]}


def _panel(record: dict[str, Any]) -> Panel:
    settings = record["settings"]
    curves = []
    for method, found in record["methods"].items():
        low, high = (tuple(np.quantile(found["frobenius"], share, axis=1).tolist()) for share in _QUARTILES)
        curves.append(Curve(method, tuple(found["widths"]), tuple(found["root_mean_square"]), low, high))
    title, axes = f"{settings['data']}: {settings['architecture']}", ("features in each layer", "relative error")
    return Panel(title, *axes, tuple(curves), slope=_EXPECTED_SLOPE)


EXPERIMENT = Experiment(FeatureErrorRun, table, figures)

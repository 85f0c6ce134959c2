"""How far digits move under deformations: tangent kernels against convolutional ones, and other representations.

The figure of A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, section 4: mean
relative distance ``||Phi(x') - Phi(x)|| / ||Phi(x)||`` of deformed digits x' against the size of the deformation (the
alpha of infinite MNIST), without and with translations, beside distances to digits of the same label and of any label.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.data import Dataset, load
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.experiments.compared import KINDS, lacking, make_representations
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Records, Run, Unfinished, markdown
from hilbertnet.experiments.stability import curves_of_one
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, track
from hilbertnet.protocols import Representation
from hilbertnet.records import settings_of
from hilbertnet.stability import Handwriting, Measurement, as_representation, landmarks, measure
from hilbertnet.stability.sphere import OnSphere, sphere_points

__all__ = ["EXPERIMENT", "DeformedRun", "SphereRun", "figures", "make_run", "table"]

WAYS = {"deformations": False, "deformations and translations": True}
_FITTED = 3  # smallest sizes, through which a slope is fitted
_OTHERS, _PAIRS = 500, 400  # images for landmarks, and pairs with them


@dataclass(frozen=True)
class DeformedRun(Run):
    """Relative distances of one kind of representation, without and with translations.

    Parameters
    ----------
    name, device
        See `Run`.
    representation
        ``"kernels"`` (both kernels of an architecture), ``"ckn"`` (its first kernel alone), ``"cnn"`` (the last maps of
        a small ReLU network, trained), ``"scattering"`` (kymatio's, where it is installed) or ``"pixels"``.
    alphas
        Sizes, increasing.
    architecture
        Text form, for kernels.
    layout
        Of the architecture.
    data
        What `hilbertnet.data.load` takes.
    labels
        Of the digits, the first of each; default all.
    form
        ``"float"``, or ``"uint8"`` as published.
    draws
        Deformed copies of every digit.
    train, epochs
        Images and epochs of the network's training.
    published
        Texts such as ``"ckn: deformations: 0.0029 0.0034"``, a figure for every alpha, or ``"ckn: same label: 0.19"``.
    seed
        Of the draws, of landmarks and of the network.
    """

    representation: str
    alphas: tuple[float, ...]
    architecture: str = ""
    layout: str = "hilbertnet"
    data: str = "mnist"
    labels: tuple[int, ...] = ()
    form: Literal["float", "uint8"] = "float"
    draws: int = 20
    train: int = 10_000
    epochs: int = 5
    published: tuple[str, ...] = ()
    seed: int = 0

    def lacking(self) -> str | None:
        """Why it cannot be done here, or ``None``."""
        return lacking(self.representation)

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Measure; the record is returned."""
        self._check()
        started, data = time.perf_counter(), load(self.data)
        digits = self._choose(data)
        rest = np.random.RandomState(self.seed).permutation(np.setdiff1d(np.arange(len(data.x)), digits))
        if self.representation != "cnn":  # nothing else is trained
            rest = rest[:_OTHERS]
        x, y = torch.from_numpy(data.x[rest]), data.y[rest]
        phis, notes = make_representations(
            self.representation,
            (x, y),
            architecture=self.architecture,
            layout=self.layout,
            train=self.train,
            epochs=self.epochs,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )
        deformations = {way: Handwriting(self._digits(data, translate), digits) for way, translate in WAYS.items()}
        unfinished = Unfinished(folder, {**settings_of(self), "digits": deformations["deformations"].digits.to_dict()})
        others = x[:_OTHERS].double(), y[:_OTHERS]
        jobs = {name: partial(self._measure, phi, deformations, data.y[digits], others) for name, phi in phis.items()}
        found = {name: unfinished.part(name, jobs[name]) for name in track(jobs, progress, label="measurements")}
        return {
            "settings": settings_of(self),
            "protocol": (
                f"the first digit of {len(digits)} classes, {self.draws} deformed copies of each, {self.form} images; "
                f"landmarks are mean distances of {_PAIRS} pairs at most with {_OTHERS} other images"
            ),
            "data": data.to_dict(),
            "digits": digits.tolist(),
            "deformations": {way: one.digits.to_dict() for way, one in deformations.items()},
            "notes": notes,
            "measurements": found,
            **unfinished.costs(started, self.device),
        }

    def _digits(self, data: Dataset, translate: bool) -> InfiniteMNIST:
        """With the published components where they are at hand, which belong to MNIST alone."""
        images: dict[str, Any] = {} if data.name == "mnist" else {"images": data.x, "labels": data.y}
        dtype = torch.float32 if self.form == "uint8" else torch.float64
        return InfiniteMNIST(translate=translate, form=self.form, dtype=dtype, **images)

    def _choose(self, data: Dataset) -> NDArray[np.int64]:
        """The first digit of every label wanted."""
        known = np.unique(data.y)
        if not set(self.labels) <= set(known.tolist()):
            raise ValueError(f"labels: expected some of {known.tolist()}, got {self.labels}")
        return np.array([np.flatnonzero(data.y == label)[0] for label in self.labels or known])

    def _measure(
        self,
        phi: Representation,
        deformations: Mapping[str, Handwriting],
        y: NDArray[np.int64],
        others: tuple[Tensor, NDArray[np.int64]],
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        same, every = None, None
        for way, deformation in deformations.items():
            x = deformation.originals.to(self.device)
            if not found:  # the same for both ways
                same, every = landmarks(phi, x, y, others=others, pairs=_PAIRS, generator=self.seed)
            one = measure(phi, x, deformation, self.alphas, draws=self.draws, generator=self.seed, progress=False)
            found[way] = replace(one, same_label=same, all_labels=every).to_dict()
        return found

    def _check(self) -> None:
        if self.representation not in KINDS:
            raise ValueError(f"representation: expected one of {', '.join(KINDS)}, got {self.representation!r}")
        if self.form not in ("float", "uint8"):
            raise ValueError(f"form: expected float or uint8, got {self.form!r}")
        check_counts(draws=self.draws, train=self.train, epochs=self.epochs)
        read_published(self.published, len(self.alphas))


@dataclass(frozen=True)
class SphereRun(Run):
    """Relative distances of points of the unit sphere under kernel maps alone.

    Parameters
    ----------
    name, device
        See `Run`.
    maps
        Kernels in text form, such as ``"arccos0"``.
    alphas
        Distances of the points, increasing.
    dimension, draws, seed
        Of the space around the sphere, of points moved, and of both.
    """

    maps: tuple[str, ...]
    alphas: tuple[float, ...]
    dimension: int = 10
    draws: int = 20
    seed: int = 0

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Measure; the record is returned."""
        started, unfinished = time.perf_counter(), Unfinished(folder, settings_of(self))
        x = sphere_points(10, self.dimension, torch.Generator().manual_seed(self.seed)).to(self.device)
        found = {}
        for name in track(self.maps, progress, label="kernels"):
            phi = as_representation(ConvKernel(Architecture.parse(f"1 {name} -")), name=name)
            one = measure(phi, x, OnSphere(), self.alphas, draws=self.draws, generator=self.seed, progress=False)
            found[name] = {str(OnSphere()): one.to_dict()}
        return {
            "settings": settings_of(self),
            "protocol": f"10 uniform points of the unit sphere, dimension {self.dimension}, {self.draws} moves of each",
            "notes": {"text": "kernel maps alone"},
            "measurements": found,
            **unfinished.costs(started, self.device),
        }


def make_run(**settings: Any) -> Run:
    """A run of digits, or of points of the sphere where there are ``maps``."""
    return SphereRun(**settings) if "maps" in settings else DeformedRun(**settings)


def read_published(texts: tuple[str, ...], sizes: int) -> dict[tuple[str, str], tuple[float, ...]]:
    """Published figures by representation and what they are of.

    Raises
    ------
    ValueError
        If a text is not of the form, or has another number of figures than there are sizes, or one for a landmark.
    """
    found = {}
    for text in texts:
        parts = [part.strip() for part in text.split(":")]
        try:
            name, what, numbers = parts
            values = tuple(float(number) for number in numbers.split())
        except ValueError:
            values = ()
        if not values or len(values) != (sizes if what in WAYS else 1):
            raise ValueError(f"published: expected 'ckn: deformations: ' and {sizes} figures, or one, got {text!r}")
        found[name, what] = values
    return found


# --- table and pictures


def _measurements(record: Mapping[str, Any]) -> dict[tuple[str, str], Measurement]:
    return {
        (name, way): Measurement.from_dict(values)
        for name, ways in record["measurements"].items()
        for way, values in ways.items()
    }


def table(records: Records) -> str:
    """For every run, representation and way: mean relative distances by alpha, their slope, landmarks, published ones.

    Parameters
    ----------
    records
        By name of the run.
    """
    return "\n\n".join(f"{name} ({_what(record)})\n\n{_table(record)}" for name, record in records.items())


def _what(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    parts = (settings.get("architecture"), settings.get("form"), record["notes"].get("text"))
    return ", ".join(part for part in parts if part)


def _table(record: Mapping[str, Any]) -> str:
    settings, found = record["settings"], _measurements(record)
    published = read_published(tuple(settings.get("published", ())), len(settings["alphas"]))
    rows = [["", *(f"{one.unit} {size:g}" for one in list(found.values())[:1] for size in one.sizes)]]
    rows[0] += ["slope", "same label", "any label"]
    for (name, way), one in found.items():
        marks = [_mark(value, published.get((name, what))) for what, value in one.landmarks.items()]
        rows.append([f"{name}, {way}", *map(_number, one.mean), f"{_slope(one):.2f}", *marks])
        if (name, way) in published:
            rows.append([f"{name}, {way}, published", *(f"{value:.4f}" for value in published[name, way]), "", "", ""])
    for way in WAYS:
        if ("ckn", way) in found and ("ntk", way) in found:
            ratio = found["ntk", way].mean / found["ckn", way].mean
            rows.append([f"NTK / CKN, {way}", *(f"{value:.2f}" for value in ratio), "", "", ""])
    return markdown(rows)


def _number(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-3 or value == 0 else f"{value:.2g}"


def _mark(value: float | None, published: tuple[float, ...] | None) -> str:
    return ("" if value is None else f"{value:.4f}") + (f" ({published[0]:.4f})" if published else "")


def _slope(one: Measurement) -> float:
    """Through the smallest sizes at which anything moved."""
    moved = [size for size, mean in zip(one.sizes, one.mean, strict=True) if size > 0 and mean > 0]
    return one.slope(moved[min(_FITTED, len(moved)) - 1]) if len(moved) > 1 else float("nan")


def figures(records: Records) -> dict[str, list[Panel]]:
    """A picture for every run: a panel for each way.

    Parameters
    ----------
    records
        By name of the run.
    """
    return {name: [_panel(record, way) for way in _ways(record)] for name, record in records.items()}


def _ways(record: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(way for ways in record["measurements"].values() for way in ways))


def _panel(record: Mapping[str, Any], way: str) -> Panel:
    settings = record["settings"]
    published = read_published(tuple(settings.get("published", ())), len(settings["alphas"]))
    curves: list[Curve] = []
    for (name, its), one in _measurements(record).items():
        if its != way:
            continue
        curves += curves_of_one(one)
        if (name, way) in published:
            curves.append(Curve(f"{one.representation}, published", one.sizes, published[name, way], kind="points"))
    title = f"{way}, {settings['form']} images" if "form" in settings else way
    unit = "alpha" if way in WAYS else "distance"
    return Panel(title, unit, "mean relative distance", tuple(curves))


EXPERIMENT = Experiment(make_run, table, figures)

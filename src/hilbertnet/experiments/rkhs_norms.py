"""RKHS norms: which activations are in which RKHS, what nearness to ReLU costs, and functions whose norm is known.

Reference: A. Bietti and J. Mairal, "Group invariance, stability to deformations, and complexity of deep convolutional
representations", JMLR 2019, section 4.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.complexity.activation_norms import activation_norm, relu_surrogates
from hilbertnet.complexity.activations import as_activation
from hilbertnet.complexity.functions import KernelMachine
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_below import lower_bounds
from hilbertnet.data import load
from hilbertnet.experiments.experiment import Curve, Experiment, Panel, Records, Run, Unfinished, markdown
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, track
from hilbertnet.records import known, settings_of

__all__ = ["EXPERIMENT", "ActivationRun", "RidgeRun", "figures", "make_run", "table"]

_GRID = np.linspace(-2, 2, 161)


@dataclass(frozen=True)
class ActivationRun(Run):
    """Activations, the neurons they make, and their norm in the RKHS of kernels, by the radius of the weights.

    Parameters
    ----------
    name, device
        See `Run`; nothing here is computed on a device.
    activations, kernels
        Names; kernels in text form.
    radii
        ``||g||``, increasing.
    weights
        w of the neurons ``|x| s(w x / |x|)`` that are drawn.
    scales
        Of surrogates of ReLU, ``s(scale u) / scale`` with s the smooth ReLU.
    """

    activations: tuple[str, ...]
    kernels: tuple[str, ...]
    radii: tuple[float, ...]
    weights: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Compute; the record is returned."""
        started, unfinished = time.perf_counter(), Unfinished(folder, settings_of(self))
        grid = torch.from_numpy(_GRID)
        drawn = {name: as_activation(name) for name in ("relu", "smooth_relu")}
        kernels = {text: Architecture.parse(f"1 {text} -").layers[0].kernel for text in self.kernels}
        norms: dict[str, dict[str, Any]] = {}
        for text in track(self.kernels, progress, label="kernels"):
            norms[text] = {name: self._norms(name, kernels[text]) for name in self.activations}
        return {
            "settings": settings_of(self),
            "protocol": "sums of the series, the terms left out and rounding below 1e-9 of them",
            "functions": {name: one(grid).tolist() for name, one in drawn.items()},
            "neurons": {
                name: {f"{weight:g}": one.homogeneous(grid, weight).tolist() for weight in self.weights}
                for name, one in drawn.items()
            },
            "norms": norms,
            "surrogates": {text: self._surrogates(kernel) for text, kernel in kernels.items()},
            **unfinished.costs(started, "cpu"),
        }

    def _norms(self, name: str, kernel: Any) -> dict[str, Any]:
        found = [activation_norm(name, kernel, radius) for radius in self.radii]
        return {
            "norms": [known(one.value) for one in found],
            "inside": [one.inside for one in found],
            "reasons": [one.reason for one in found],
        }

    def _surrogates(self, kernel: Any) -> list[list[float | None]]:
        rows = relu_surrogates(kernel, 1.0, self.scales).rows
        return [[row.scale, row.sup_error, known(row.norm.value)] for row in rows]


@dataclass(frozen=True)
class RidgeRun(Run):
    """Kernel ridge functions, whose norm is known, and what lower bounds find of it.

    Parameters
    ----------
    name, device
        See `Run`.
    architecture
        Text form.
    data
        What `hilbertnet.data.load` takes.
    train
        Examples that the functions are fitted to.
    lam
        The ridge, in units of the mean of the diagonal of K.
    seeds
        One function for each: of the examples, and of the class that it tells from the others.
    """

    architecture: str
    data: str = "digits"
    train: int = 60
    lam: float = 1e-3
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Fit and bound; the record is returned."""
        check_counts(train=self.train)
        started, data = time.perf_counter(), load(self.data)
        unfinished = Unfinished(folder, settings_of(self))
        x, y = torch.from_numpy(data.x).double().to(self.device), data.y
        parts = {}
        for seed in track(self.seeds, progress, label="functions"):
            parts[str(seed)] = unfinished.part(f"seed-{seed}", partial(self._bounds, x, y, seed))
        return {
            "settings": settings_of(self),
            "protocol": f"{self.train} examples, a class against the rest, ridge {self.lam:g} of mean K(x, x)",
            "data": data.to_dict(),
            "functions": parts,
            **unfinished.costs(started, self.device),
        }

    def _bounds(self, x: Tensor, y: Any, seed: int) -> dict[str, Any]:
        rng = np.random.RandomState(seed)
        chosen = rng.permutation(len(x))[: self.train]
        points = x[torch.from_numpy(chosen)]
        target = torch.from_numpy(np.where(y[chosen] == rng.choice(np.unique(y[chosen])), 1.0, -1.0)).to(x)
        kernel = ConvKernel(Architecture.parse(self.architecture))
        gram = kernel.gram(points, progress=False)
        ridge = self.lam * len(gram) * gram.diagonal().mean()
        alpha = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), target)
        exact = float((alpha @ gram @ alpha).clamp(min=0).sqrt())
        machine = KernelMachine(kernel, points, alpha)
        lipschitz = embedding_lipschitz(kernel.arch, tuple(x.shape[2:]))
        found = lower_bounds(
            machine, points, lipschitz=lipschitz, representation=kernel, gram=gram, exact=exact, steps=10, restarts=1,
            deformations=[("rotation", 10.0)], draws=1, generator=seed,
        )  # fmt: skip
        return found.to_dict()


def make_run(**settings: Any) -> Run:
    """A run of activations, or of kernel ridge functions where there is an ``architecture``."""
    return RidgeRun(**settings) if "architecture" in settings else ActivationRun(**settings)


# --- tables


def table(records: Records) -> str:
    """Norms of activations by radius, surrogates of ReLU, and shares of known norms that lower bounds find.

    Parameters
    ----------
    records
        By name of the run.
    """
    parts = []
    for name, record in records.items():
        rows = _ridge_rows(record) if "architecture" in record["settings"] else _activation_rows(record)
        parts += [name, *(markdown(part) for part in rows)]
    return "\n\n".join(parts)


def _activation_rows(record: Mapping[str, Any]) -> list[list[list[str]]]:
    radii = record["settings"]["radii"]
    norms = [["kernel", "activation", *(f"C at {radius:g}" for radius in radii), "why not"]]
    surrogates = [["kernel", "scale", "sup error of the smooth ReLU", "its norm at radius 1"]]
    for kernel, by_activation in record["norms"].items():
        for name, found in by_activation.items():
            outside = [reason for norm, reason in zip(found["norms"], found["reasons"], strict=True) if norm is None]
            cells = [
                "not known" if inside is None else _cell(norm)
                for norm, inside in zip(found["norms"], found["inside"], strict=True)
            ]
            norms.append([kernel, name, *cells, outside[0] if outside else ""])
        for scale, error, norm in record["surrogates"][kernel]:
            surrogates.append([kernel, f"{scale:g}", f"{error:.4g}", _cell(norm)])
    return [norms, surrogates]


def _cell(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"


def _ridge_rows(record: Mapping[str, Any]) -> list[list[list[str]]]:
    functions = list(record["functions"].values())
    names = [bound["name"] for bound in functions[0]["bounds"]]
    rows = [["seed", "exact norm", *names]]
    for seed, one in record["functions"].items():
        shares = [f"{100 * bound['value'] / one['exact']:.0f}%" for bound in one["bounds"]]
        rows.append([seed, f"{one['exact']:.4g}", *shares])
    return [rows]


# --- pictures


def figures(records: Records) -> dict[str, list[Panel]]:
    """Of every run of activations: functions, neurons, norms by radius, and errors of surrogates by norm.

    Parameters
    ----------
    records
        By name of the run.
    """
    return {name: _panels(record) for name, record in records.items() if "norms" in record}


def _panels(record: Mapping[str, Any]) -> list[Panel]:
    grid = tuple(_GRID.tolist())
    functions = [Curve(name, grid, tuple(values)) for name, values in record["functions"].items()]
    neurons = [
        Curve(f"{name}, w = {weight}", grid, tuple(values))
        for name, by_weight in record["neurons"].items()
        for weight, values in by_weight.items()
    ]
    panels = [
        Panel("activations", "x", "s(x)", tuple(functions), log_y=False, log_x=False),
        Panel("neurons |x| s(w x / |x|)", "x", "f(x)", tuple(neurons), log_y=False, log_x=False),
    ]
    radii = record["settings"]["radii"]
    for kernel, by_activation in record["norms"].items():
        curves = [_finite(name, radii, found["norms"]) for name, found in by_activation.items()]
        panels.append(
            Panel(f"norms in the RKHS of {kernel}", "radius", "C", tuple(c for c in curves if c), log_x=False)
        )
    errors = [
        _finite(kernel, [row[2] for row in rows], [row[1] for row in rows])
        for kernel, rows in record["surrogates"].items()
    ]
    panels.append(Panel("surrogates of ReLU", "norm at radius 1", "sup error", tuple(c for c in errors if c)))
    return [panel for panel in panels if panel.curves]


def _finite(name: str, x: Sequence[float | None], y: Sequence[float | None]) -> Curve | None:
    """The points that both numbers are known of, positive as logarithmic axes need them."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if a and b]
    return Curve(name, tuple(a for a, _ in points), tuple(b for _, b in points)) if points else None


EXPERIMENT = Experiment(make_run, table, figures)

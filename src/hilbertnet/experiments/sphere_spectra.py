"""Mercer spectra of kernels on the sphere: decay of eigenvalues, near and far, against what is predicted.

Reference: A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, section 3: the
eigenvalues of the ReLU tangent kernel fall as k^-p, those of its random features as k^-(p+2).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hilbertnet.complexity.decay import Decay
from hilbertnet.complexity.spectrum import mercer
from hilbertnet.experiments.experiment import Experiment, Panel, Records, Run, Unfinished, markdown
from hilbertnet.experiments.spectra import SMALLEST, decay_panel, read_stack
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, track
from hilbertnet.records import known, settings_of

__all__ = ["EXPERIMENT", "SpectraRun", "figures", "table"]

_FAR = (25_000, 200_000)  # degrees at which the asymptotics has set in for p up to 50
_NEAR = 10  # smallest degree of the fit to what is shown


@dataclass(frozen=True)
class SpectraRun(Run):
    """Spectra of some kernels on the sphere of one dimension.

    Parameters
    ----------
    name, device
        See `Run`; nothing here is computed on a device.
    kernels
        Texts such as ``"ntk: arccos1"`` or ``"ckn: arccos1 | exp(0.6)"``.
    dimension
        p, of the space around the sphere.
    degrees
        The largest degree.
    """

    kernels: tuple[str, ...]
    dimension: int
    degrees: int = 200

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Compute; the record is returned."""
        check_counts(dimension=self.dimension, degrees=self.degrees)
        started, unfinished = time.perf_counter(), Unfinished(folder, settings_of(self))
        found = {text: self._spectrum(text) for text in track(self.kernels, progress, label="spectra")}
        return {
            "settings": settings_of(self),
            "protocol": (
                f"exponents by least squares, from degree {_NEAR} to {self.degrees}, and where there is a closed form "
                f"from {_FAR[0]:,} to {_FAR[1]:,}"
            ),
            "spectra": found,
            **unfinished.costs(started, "cpu"),
        }

    def _spectrum(self, text: str) -> dict[str, Any]:
        kind, _, kernel = (part.strip() for part in text.partition(":"))
        stack = read_stack(kernel)
        near = mercer(stack, self.dimension, self.degrees, kind=kind)
        far: list[Decay] = []
        if near.method == "closed":
            odd = np.unique(np.geomspace(*_FAR, 12).astype(np.int64)) // 2 * 2 + 1
            far = mercer(stack, self.dimension, np.sort(np.concatenate([odd - 1, odd])), kind=kind).decay()
        trace = near.trace()
        return {
            "method": near.method,
            "log_eigenvalues": list(map(known, near.log_eigenvalues.tolist())),
            "predicted": known(near.predicted),
            "near": {one.parity: one.exponent for one in near.decay(_NEAR)},
            "far": {one.parity: one.exponent for one in far},
            "sum": trace.partial,
            "tail": known(trace.tail),
            "at_one": trace.at_one,
        }


def table(records: Records) -> str:
    """Exponents near and far beside the predicted one, and the sum of all eigenvalues beside kappa(1).

    Parameters
    ----------
    records
        By name of the run.
    """
    rows = [["run", "p", "kernel", "first eigenvalues", "exponent", "far", "predicted", "sum", "with tail", "kappa(1)"]]
    for name, record in records.items():
        for kernel, found in record["spectra"].items():
            rows.append([name, str(record["settings"]["dimension"]), kernel, *_cells(found)])
    return markdown(rows)


def _cells(found: Mapping[str, Any]) -> list[str]:
    logs = [log for log in found["log_eigenvalues"][:3] if log is not None]
    first = ", ".join(f"{np.exp(log):.4g}" for log in logs)
    with_tail = "" if found["tail"] is None else f"{found['sum'] + found['tail']:.6g}"
    sums = [f"{found['sum']:.6g}", with_tail, f"{found['at_one']:g}"]
    if found["predicted"] is None:
        return [first, "", "", "none: faster than powers, or not known", *sums]
    return [first, *(_exponents(found[part]) for part in ("near", "far")), f"{found['predicted']:g}", *sums]


def _exponents(found: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2f} ({parity})" for parity, value in found.items())


def figures(records: Records) -> dict[str, list[Panel]]:
    """A picture for every run: eigenvalues against degrees.

    Parameters
    ----------
    records
        By name of the run.
    """
    return {name: [_panel(record)] for name, record in records.items()}


def _panel(record: Mapping[str, Any]) -> Panel:
    spectra = record["spectra"]
    powers = [
        log for found in spectra.values() if found["predicted"] for log in found["log_eigenvalues"] if log is not None
    ]
    shown = {kernel: (found["log_eigenvalues"], found["predicted"]) for kernel, found in spectra.items()}
    # what falls faster than powers is cut where the others end
    return decay_panel(shown, record["settings"]["dimension"], least=min(powers, default=SMALLEST))


EXPERIMENT = Experiment(SpectraRun, table, figures)

"""Experiments by name: runs from a settings file, each in a folder of its own, table and pictures from their records.

A finished run is never done twice, and an interrupted one goes on from what it had done.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from hilbertnet.experiments import (
    cifar_features,
    deformed_digits,
    exact_kernels,
    feature_error,
    lazy_training,
    rkhs_norms,
    robust_curves,
    small_data,
    sphere_spectra,
)
from hilbertnet.experiments.experiment import Draw, Experiment, Run
from hilbertnet.progress import Progress, announce
from hilbertnet.records import RunFolder, atomic_path, settings_of, write_json
from hilbertnet.text import nearest

__all__ = ["EXPERIMENTS", "SCALES", "read_settings", "reproduce"]

EXPERIMENTS: dict[str, Experiment] = {
    "cifar-features": cifar_features.EXPERIMENT,
    "deformed-digits": deformed_digits.EXPERIMENT,
    "exact-kernels": exact_kernels.EXPERIMENT,
    "lazy-training": lazy_training.EXPERIMENT,
    "norms": rkhs_norms.EXPERIMENT,
    "random-features": feature_error.EXPERIMENT,
    "robust-curves": robust_curves.EXPERIMENT,
    "small-data": small_data.EXPERIMENT,
    "spectra": sphere_spectra.EXPERIMENT,
}
SCALES = ("laptop", "paper")


def read_settings(name: str, scale: str) -> tuple[str, list[Run]]:
    """Title and runs of an experiment.

    Parameters
    ----------
    name
        One of `EXPERIMENTS`.
    scale
        ``"laptop"`` or ``"paper"``.

    Raises
    ------
    ValueError
        If there is no such experiment or scale.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"experiment: expected one of {', '.join(EXPERIMENTS)}, got {name!r}{nearest(name, EXPERIMENTS)}"
        )
    if scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}{nearest(scale, SCALES)}")
    text = resources.files("hilbertnet.experiments").joinpath("settings", f"{name}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    runs = []
    for settings in content[scale]:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        runs.append(EXPERIMENTS[name].run(**values))
    return content["title"], runs


def reproduce(
    name: str,
    folder: Path,
    *,
    scale: str = "laptop",
    only: Sequence[str] = (),
    device: str = "cpu",
    draw: Draw | None = None,
    progress: Progress = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do the runs that are not done yet, and yield each record; table and pictures are made anew after every one.

    Parameters
    ----------
    name
        One of `EXPERIMENTS`.
    folder
        Where the folders of the runs, ``table.md``, ``table.json`` and the pictures are.
    scale
        ``"laptop"``: what two cores do in less than an hour; ``"paper"``: as published.
    only
        Names of runs; all if empty.
    device
        Where to compute.
    draw
        Draws panels into a file, ``.svg``; without it there are no pictures.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If there is no such experiment, scale or run, a run named in `only` cannot be done here, or `folder` holds a run
        of other settings.
    """
    title, runs = read_settings(name, scale)
    names = [run.name for run in runs]
    for wanted in only:
        if wanted not in names:
            raise ValueError(f"only: expected some of {', '.join(names)}, got {wanted!r}{nearest(wanted, names)}")
    for run in runs:
        reason = None if RunFolder(folder / run.name).finished else run.lacking()
        if reason is not None and run.name in only:
            raise ValueError(f"{run.name}: {reason}")
        if reason is not None and not only:
            announce(f"{run.name}: left out, {reason}")
        elif not only or run.name in only:
            record = _do(replace(run, device=device), RunFolder(folder / run.name), progress)
            _write(EXPERIMENTS[name], title, folder, names, draw)
            yield run.name, record


def _do(run: Run, place: RunFolder, progress: Progress) -> dict[str, Any]:
    record = place.found(settings_of(run))
    if record is None:
        record = run.run(place.path, progress)
        write_json(place.record_path, record)
    for left in place.path.glob("unfinished*"):
        left.unlink()
    return record


def _write(experiment: Experiment, title: str, folder: Path, names: Sequence[str], draw: Draw | None) -> None:
    """Table and pictures of all runs that are finished, now or before."""
    finished = {name: RunFolder(folder / name) for name in names}
    records = {name: run.read_record() for name, run in finished.items() if run.finished}
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(f"{title}\n\n{experiment.table(records)}\n", encoding="utf-8")
    write_json(folder / "table.json", {"title": title, "rows": records})
    if draw is not None and experiment.figures is not None:
        for name, panels in experiment.figures(records).items():
            draw(panels, folder / f"{name}.svg")

"""Published tables, made again: runs from a settings file, each in a folder of its own, and a table from their records.

A finished run is never done twice, and an interrupted one goes on from its checkpoint.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from hilbertnet.experiments.cifar_features import CifarRun
from hilbertnet.metrics import Interval
from hilbertnet.progress import Progress, format_seconds
from hilbertnet.records import RunFolder, atomic_path, settings_of, write_json
from hilbertnet.text import nearest

__all__ = ["EXPERIMENTS", "SCALES", "read_settings", "reproduce", "table"]

EXPERIMENTS: dict[str, Callable[..., CifarRun]] = {"cifar-features": CifarRun}
SCALES = ("laptop", "paper")


def read_settings(name: str, scale: str) -> tuple[str, list[CifarRun]]:
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
        runs.append(EXPERIMENTS[name](**values))
    return content["title"], runs


def reproduce(
    name: str,
    folder: Path,
    *,
    scale: str = "laptop",
    only: Sequence[str] = (),
    device: str = "cpu",
    progress: Progress = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do the runs that are not done yet, and yield the record of each; the table is written anew after every one.

    Parameters
    ----------
    name
        One of `EXPERIMENTS`.
    folder
        Where the folders of the runs, ``table.md`` and ``table.json`` are.
    scale
        ``"laptop"``: what two cores do in less than an hour; ``"paper"``: as published.
    only
        Names of runs; all if empty.
    device
        Where to compute.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If there is no such experiment, scale or run, or `folder` holds a run of other settings.
    """
    title, runs = read_settings(name, scale)
    names = [run.name for run in runs]
    for wanted in only:
        if wanted not in names:
            raise ValueError(f"only: expected some of {', '.join(names)}, got {wanted!r}{nearest(wanted, names)}")
    for run in runs:
        if not only or run.name in only:
            record = _do(replace(run, device=device), RunFolder(folder / run.name), progress)
            _write(title, folder, names)
            yield run.name, record


def _do(run: CifarRun, place: RunFolder, progress: Progress) -> dict[str, Any]:
    found = place.found(settings_of(run))
    if found is not None:
        return found
    record = run.run(place.path, progress)
    write_json(place.record_path, record)
    for left in place.path.glob("unfinished*"):  # of candidates that diverged
        left.unlink()
    return record


def _write(title: str, folder: Path, names: Sequence[str]) -> None:
    finished = {name: RunFolder(folder / name) for name in names}
    records = {name: run.read_record() for name, run in finished.items() if run.finished}
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(f"{title}\n\n{table(records)}\n", encoding="utf-8")
    write_json(folder / "table.json", {"title": title, "rows": records})


def table(records: dict[str, dict[str, Any]]) -> str:
    """The table of finished runs, in Markdown; where a published figure is missed by more than 1.5 points, it says so.

    Parameters
    ----------
    records
        By name of the run.
    """
    head = ["run", "training images", "features", "held out", "last 10,000", "official test", "published", "time"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, record in records.items():
        settings, tests = record["settings"], record["test"]
        cells = [
            name,
            f"{settings['train']:,}",
            f"{record['features']:,}",
            f"{100 * record['validation_accuracy']:.2f}%",
            *(_accuracy(tests[part]) for part in ("last", "official")),
            _published(settings["published"], tests["last"]["value"]),
            format_seconds(record["seconds"]),
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _accuracy(test: dict[str, Any]) -> str:
    return f"{Interval(test['value'], test['low'], test['high'])} of {test['examples']:,}"


def _published(figure: float | None, value: float) -> str:
    if figure is None:
        return ""
    gap = 100 * value - figure
    return f"{figure:.1f}%" + (f" (missed by {-gap:.1f})" if gap < -1.5 else f" ({gap:+.1f})")

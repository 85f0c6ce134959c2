"""What an experiment is made of: independent runs, a table of their records, and curves for its pictures."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hilbertnet.progress import Progress
from hilbertnet.records import check_identity, environment, peak_memory, write_json

__all__ = ["Curve", "Draw", "Experiment", "Panel", "Records", "Run", "Unfinished", "against", "markdown"]

_MISSED = 1.5  # points below a published figure

Records = Mapping[str, dict[str, Any]]
"""Records of finished runs, by their names."""


@dataclass(frozen=True)
class Run(ABC):
    """A run of an experiment: its settings, all that its record depends on.

    Parameters
    ----------
    name
        What the run and its folder are called.
    device
        Where to compute.
    """

    name: str
    device: str = field(default="cpu", kw_only=True)

    def lacking(self) -> str | None:
        """Why the run cannot be done here, such as a package that is not installed, or ``None``."""
        return None

    @abstractmethod
    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Compute, and return the record, with ``settings`` as `hilbertnet.records.settings_of` has them.

        Parameters
        ----------
        folder
            The run's own. What a finished run need not keep is called ``unfinished...``, and is removed after it.
        progress
            ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).
        """


@dataclass(frozen=True)
class Curve:
    """A quantity against another, with its spread.

    Parameters
    ----------
    label
        What it is called.
    x, y
        Numbers, as many of each.
    low, high
        Ends of the spread at each of them; default none.
    kind
        ``"line"``, ``"points"`` of another source, or a ``"level"`` to compare with.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    kind: str = "line"

    def __post_init__(self) -> None:
        if self.kind not in ("line", "points", "level"):
            raise ValueError(f"kind: expected line, points or level, got {self.kind!r}")
        for end in ("low", "high"):
            if not getattr(self, end):
                object.__setattr__(self, end, self.y)


@dataclass(frozen=True)
class Panel:
    """Curves that share axes.

    Parameters
    ----------
    title
        Above them.
    x, y
        What is on the axes.
    curves
        At least one.
    log_y, log_x
        Whether y and x are on logarithmic scales.
    slope
        Of a straight line to compare with, which begins where the first curve does; both scales are logarithmic.
    """

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_y: bool = True
    slope: float | None = None
    log_x: bool = True


Draw = Callable[[Sequence[Panel], Path], object]
"""Draws panels into a file; it stands in a room above, and comes as an argument."""


@dataclass(frozen=True)
class Experiment:
    """Runs of one kind, and what is made from their records alone.

    Parameters
    ----------
    run
        Makes a run from its settings, as the settings file has them.
    table
        The table of finished runs, in Markdown.
    figures
        Panels of each picture, by the name of its file without ending.
    """

    run: Callable[..., Run]
    table: Callable[[Records], str]
    figures: Callable[[Records], Mapping[str, Sequence[Panel]]] | None = None


class Unfinished:
    """The finished parts of an unfinished run, each in a file of its folder.

    Parameters
    ----------
    folder
        The run's own.
    identity
        What the run is of, for JSON: settings, and digests of its data.

    Attributes
    ----------
    seconds
        What the parts took that were found done.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity, self.seconds = folder, identity, 0.0

    def costs(self, started: float, device: str) -> dict[str, Any]:
        """What a record says of its making: seconds, those of parts found done included, memory and environment.

        Parameters
        ----------
        started
            `time.perf_counter` at the start.
        device
            Where it was computed.
        """
        seconds = time.perf_counter() - started + self.seconds
        return {"seconds": seconds, "peak_memory": peak_memory(), **environment(device)}

    def path(self, name: str, suffix: str) -> Path:
        """A file of the part `name`, which is removed after the run."""
        return self.folder / f"unfinished-{name}{suffix}"

    def part(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` returns, for JSON, or returned when this run was interrupted after it.

        Raises
        ------
        ValueError
            If the part's file is damaged, or of another run.
        """
        file = self.path(name, ".json")
        if file.exists():
            result, seconds = self._read(file)
            self.seconds += seconds
            return result
        started = time.perf_counter()
        result = make()
        write_json(file, {"identity": self.identity, "result": result, "seconds": time.perf_counter() - started})
        return result

    def _read(self, file: Path) -> tuple[dict[str, Any], float]:
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            identity, result, seconds = dict(kept["identity"]), dict(kept["result"]), float(kept["seconds"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"checkpoint: {file} is damaged ({error!r}); remove it") from None
        check_identity(file, identity, self.identity, "run")
        return result, seconds


def against(figure: float, value: float) -> str:
    """How far a proportion is from a published figure in percent; a miss of more than 1.5 points is called one.

    Examples
    --------
    >>> against(77.5, 0.7678)
    '(-0.7)'
    >>> against(77.5, 0.75)
    '(missed by 2.5)'
    """
    gap = 100 * value - figure
    return f"(missed by {-gap:.1f})" if gap < -_MISSED else f"({gap:+.1f})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of cells as text; the first row is the head."""
    head, *body = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))

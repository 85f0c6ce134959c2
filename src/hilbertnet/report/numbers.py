"""Files of numbers that commands left beside a record, and what several sections make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from hilbertnet.experiments.experiment import Panel
from hilbertnet.records import RunFolder
from hilbertnet.report import svg
from hilbertnet.report.curves import curves
from hilbertnet.report.plots import new_axes
from hilbertnet.report.words import percent

__all__ = ["accuracy_range", "draw", "read_numbers"]


def read_numbers(run: RunFolder, name: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """A JSON file of a run that has these keys; ``None`` if there is no such file.

    Raises
    ------
    ValueError
        If it is no such file.
    """
    path = run.path / name
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    missing = [key for key in keys if key not in found] if isinstance(found, dict) else list(keys)
    if missing:
        raise ValueError(f"{path}: expected a JSON object with {', '.join(keys)}, found no {missing[0]}")
    return found


def draw(panel: Panel, name: str, label: str) -> Markup:
    """Curves over the page's width."""
    figure = curves(panel, new_axes(None, 6.4, 3.6), palette=svg.PAGE).figure
    return svg.inline_svg(figure, name, label)  # type: ignore[arg-type]


def accuracy_range(found: Mapping[str, float]) -> dict[str, str]:
    """An accuracy and its interval in percent."""
    return {
        "value": percent(found["value"], 1),
        "interval": f"{100 * found['low']:.1f} to {100 * found['high']:.1f}",
    }

"""Plots of panels: curves with their spread, points of other sources and levels to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hilbertnet.experiments.experiment import Curve, Panel
from hilbertnet.report.plots import PAPER, Palette, dress_rates, new_axes

__all__ = ["curves"]

_MOST_TICKS = 12  # places of points that are all named
_WIDEST = 1e6  # if the last is not so many times the first


def curves(panel: Panel, ax: Axes | None = None, *, palette: Palette = PAPER) -> Axes:
    """Curves with their spread as bands.

    Parameters
    ----------
    panel
        Curves, at least one; labels, scale, and the slope of a straight line to compare with.
    ax
        Where to draw; default the axes of a new figure.
    palette
        The colours.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If there is no curve, one has no points, or what is on a logarithmic scale is not positive.
    """
    for curve in panel.curves:
        _check_curve(curve, panel)
    if not panel.curves:
        raise ValueError("panel: expected at least one curve, got none")
    ax = new_axes(ax, 4.8, 3.6)
    places = sorted({x for curve in panel.curves for x in curve.x})
    index, levels = -1, list(dict.fromkeys(curve.label for curve in panel.curves if curve.kind == "level"))
    for curve in panel.curves:
        index += curve.kind == "line" or index < 0  # levels and points have the colour of the line before them
        _draw_curve(curve, index, ax, palette, levels)
    if panel.slope is not None:
        first, ends = panel.curves[0], np.array([places[0], places[-1]])
        heights = first.y[0] * (ends / first.x[0]) ** panel.slope
        label = f"slope {panel.slope:g}".replace("-", "−")
        ax.plot(ends, heights, color=palette.ink, linewidth=1.0, linestyle=(0, (1, 2)), label=label, zorder=1)
    if panel.log_x:
        ax.set_xscale("log")
    dress_rates(ax, palette)
    if panel.log_y:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if _decades(panel.curves) > 2 else (1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    if not panel.log_x:
        ax.xaxis.set_major_locator(MaxNLocator(6))
    elif len(places) <= _MOST_TICKS and places[-1] <= _WIDEST * places[0]:
        ax.set_xticks(places, [f"{x:,g}" for x in places])
    else:
        subs = (1.0, 2.0, 5.0) if places[-1] < 1000 * places[0] else (1.0,)
        ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.set_title(panel.title, loc="left", fontsize=9, color=palette.ink, parse_math=False)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))  # a level's label may come again
    legend = ax.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, labelcolor=palette.ink)
    legend.set_zorder(5)
    return ax


_MARKERS = "osD^vP"
_DASHES = ("-", "--", (0, (4, 1, 1, 1)))
_LEVELS = ((5, 2), (1, 2), (5, 1, 1, 1))


def _draw_curve(curve: Curve, index: int, ax: Axes, palette: Palette, levels: list[str]) -> None:
    """One curve; markers differ, so that it can be told apart in grey, and colours come round with other dashes."""
    colours = (palette.accent, palette.muted, palette.warn, palette.ink)
    colour, dashes = colours[index % len(colours)], _DASHES[index // len(colours) % len(_DASHES)]
    marker = _MARKERS[index % len(_MARKERS)]
    if curve.kind == "level":
        pattern = (0, _LEVELS[levels.index(curve.label) % len(_LEVELS)])
        ax.plot(curve.x, curve.y, color=colour, linewidth=1.0, linestyle=pattern, label=curve.label, zorder=1)
        return
    if curve.kind == "points":
        ax.plot(
            curve.x, curve.y, color=colour, linewidth=0, marker=marker, ms=7, mfc="none", mew=1.2, label=curve.label
        )
        return
    if curve.low != curve.y or curve.high != curve.y:
        ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    some = max(1, len(curve.x) // _MOST_TICKS)  # of many points few have a marker
    ax.plot(
        curve.x, curve.y, color=colour, linewidth=1.6, linestyle=dashes, marker=marker, markevery=some, ms=3.5,
        label=curve.label,
    )  # fmt: skip


def _decades(drawn: Sequence[Curve]) -> float:
    heights = [height for curve in drawn for height in curve.y]
    return float(np.log10(max(heights) / min(heights)))


def _check_curve(curve: Curve, panel: Panel) -> None:
    parts = {"x": curve.x, "y": curve.y, "low": curve.low, "high": curve.high}
    counts = {name: len(values) for name, values in parts.items()}
    if not curve.x or len(set(counts.values())) > 1:
        raise ValueError(f"panel: expected as many x, y, low and high of {curve.label!r}, at least one, got {counts}")
    for name, values in parts.items():
        least = min(values) if np.isfinite(values).all() else np.nan
        positive = panel.log_x if name == "x" else panel.log_y
        if np.isnan(least) or (positive and not least > 0):
            what = "positive numbers" if positive else "numbers"
            raise ValueError(f"panel: expected finite {what} as {name} of {curve.label!r}, got {values}")

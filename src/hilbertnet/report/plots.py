"""Plots of a run: on the axes given, or on a figure of their own; never on matplotlib's current one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from hilbertnet.report.pictures import tile
from hilbertnet.report.words import power, shorten
from hilbertnet.solvers.linear import ValidationPoint
from hilbertnet.training import Epoch

__all__ = [
    "PAPER",
    "Palette",
    "confusion_matrix",
    "dress_rates",
    "mosaic",
    "new_axes",
    "training_curve",
    "validation_curve",
]

_MOST_NUMBERED = 20  # classes whose cells have room for a number
_MOST_NAMED = 40  # classes whose names all fit beside the axes


@dataclass(frozen=True)
class Palette:
    """The colours of a plot."""

    ink: str = "#1c1e21"
    muted: str = "#5f6670"
    line: str = "#dcdee2"
    accent: str = "#2b5fa8"
    warn: str = "#c2571a"


PAPER = Palette()


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    return ax if ax is not None else Figure(figsize=(width, height), layout="constrained").subplots()


def _dress(ax: Axes, palette: Palette) -> None:
    """Light spines and ticks, in the palette's colours."""
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.line)
    ax.tick_params(colors=palette.line, labelcolor=palette.ink, labelsize=9, which="both")
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_color(palette.muted)
        axis.label.set_fontsize(9)


def dress_rates(ax: Axes, palette: Palette) -> None:
    """The same for a curve of rates, with lines to read their height by."""
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(axis="y", color=palette.line, linewidth=0.6)
    ax.set_axisbelow(True)
    _dress(ax, palette)


def validation_curve(
    points: Sequence[ValidationPoint], chosen: float, ax: Axes | None = None, *, palette: Palette = PAPER
) -> Axes:
    """Accuracy on held-out folds against lambda, with the chosen lambda marked.

    Parameters
    ----------
    points
        What validation said of every lambda tried, at least one, in any order.
    chosen
        The lambda of the final fit.
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
        If there are no points.
    """
    if not points:
        raise ValueError("points: expected at least one lambda tried, got none")
    ax = new_axes(ax, 6.4, 3.2)
    points = sorted(points, key=lambda point: point.lam)
    lambdas = [point.lam for point in points]
    rates = [100 * point.accuracy for point in points]
    ax.plot(lambdas, rates, color=palette.accent, linewidth=1.6, marker="o", markersize=4)
    ax.set_xscale("log")
    ax.axvline(chosen, color=palette.muted, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    best = rates[int(np.argmin(np.abs(np.log(lambdas) - np.log(chosen))))]
    ax.plot([chosen], [best], marker="o", markersize=9, markerfacecolor="none", color=palette.warn, linewidth=0)
    right = np.log(chosen) > np.mean(np.log([lambdas[0], lambdas[-1]]))
    ax.annotate(
        f"λ = {power(chosen)}, {best:.2f}%",
        (chosen, 0.04),  # low, where the curve is not
        xycoords=("data", "axes fraction"),
        xytext=(-7 if right else 7, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        color=palette.ink,
        fontsize=9,
    )
    ax.set_xlabel("λ")
    ax.set_ylabel("accuracy on held-out folds, %")
    ax.xaxis.set_major_locator(LogLocator(numticks=len(points) + 2))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    ax.margins(y=0.12)
    dress_rates(ax, palette)
    return ax


def training_curve(history: Sequence[Epoch], ax: Axes | None = None, *, palette: Palette = PAPER) -> Axes:
    """Accuracy on the training batches and on held-out data against the epoch, with the best epoch marked.

    Parameters
    ----------
    history
        The record of every epoch, at least one.
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
        If there is no epoch.
    """
    if not history:
        raise ValueError("history: expected at least one epoch, got none")
    ax = new_axes(ax, 6.4, 3.2)
    numbers = [epoch.number + 1 for epoch in history]
    ax.plot(numbers, [100 * epoch.train_accuracy for epoch in history], color=palette.muted, linewidth=1.2)
    lines = [("training batches", 100 * history[-1].train_accuracy, palette.muted)]
    held = [(epoch.number + 1, 100 * rate) for epoch in history if (rate := epoch.validation_accuracy) is not None]
    if held:
        ax.plot(*zip(*held, strict=True), color=palette.accent, linewidth=1.6, marker="o", markersize=3)
        lines.append(("held out", held[-1][1], palette.accent))
        best: Epoch | None = None
        for epoch in history:
            best = epoch if epoch.better_than(best) else best
        if best is not None and best.validation_accuracy is not None:
            place = ([best.number + 1], [100 * best.validation_accuracy])
            ax.plot(*place, marker="o", markersize=9, markerfacecolor="none", color=palette.warn, linewidth=0)
    for (name, height, colour), up in zip(lines, (1, -1) if lines[0][1] >= lines[-1][1] else (-1, 1), strict=False):
        ax.annotate(
            name,
            (numbers[-1], height),
            xytext=(-4, 9 * up),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            fontsize=9,
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel("accuracy, %")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    dress_rates(ax, palette)
    return ax


def confusion_matrix(
    counts: ArrayLike, classes: Sequence[object], ax: Axes | None = None, *, palette: Palette = PAPER
) -> Axes:
    """How often each class was taken for each: what is right in one colour, mistakes in another.

    A cell's strength is its share of the row; that of mistakes is raised, since they are few.

    Parameters
    ----------
    counts
        Whole numbers, shape (k, k): rows are labels, columns predictions.
    classes
        What the k classes are called; long names are cut with an ellipsis.
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
        If `counts` is not a square array of k rows.
    """
    table = np.asarray(counts)
    k = len(classes)
    if table.shape != (k, k) or not k:
        raise ValueError(f"counts: expected shape ({k}, {k}), one row for each class, got {table.shape}")
    side = 2.6 + 0.3 * min(max(k, 4), _MOST_NUMBERED)
    ax = new_axes(ax, side, side)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    if k <= _MOST_NUMBERED:
        _cells(ax, shares, palette)
        _numbers(ax, table, palette)
    else:
        _raster(ax, shares, palette)
    ax.set_xlim(-0.5, k - 0.5)
    ax.set_ylim(k - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_xlabel("prediction")
    ax.set_ylabel("label")
    _dress(ax, palette)
    _name_ticks(ax, classes)
    ax.spines[:].set_visible(True)
    return ax


def _strength(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Opacity of every cell: low enough for a number on it, and never 0 where something was counted."""
    right = np.eye(len(shares), dtype=bool)
    return np.where(shares > 0, np.where(right, 0.08 + 0.42 * shares, 0.10 + 0.60 * np.sqrt(shares)), 0.0)


def _cells(ax: Axes, shares: NDArray[np.float64], palette: Palette) -> None:
    alphas = _strength(shares)
    patches = [
        Rectangle(
            (column - 0.5, row - 0.5),
            1,
            1,
            facecolor=to_rgba(palette.accent if row == column else palette.warn, float(alphas[row, column])),
            linewidth=0,
        )
        for row, column in zip(*np.nonzero(alphas), strict=True)
    ]
    ax.add_collection(PatchCollection(patches, match_original=True))


def _numbers(ax: Axes, table: NDArray, palette: Palette) -> None:
    side = 72 * (ax.bbox.width / ax.figure.dpi) / len(table)  # of a cell, in points
    size = float(np.clip(1.3 * side / max(3, len(f"{table.max():,}")), 4.0, 9.0))
    for row, column in zip(*np.nonzero(table), strict=True):
        ax.text(column, row, f"{table[row, column]:,}", ha="center", va="center", fontsize=size, color=palette.ink)


def _raster(ax: Axes, shares: NDArray[np.float64], palette: Palette) -> None:
    """All cells as one picture: as shapes, those of a hundred classes are most of a page's bytes."""
    right = np.eye(len(shares), dtype=bool)[..., None]
    plain = Palette()  # pixels have no variables
    colours = np.where(right, to_rgba(plain.accent), to_rgba(plain.warn))
    colours[..., 3] = _strength(shares) * 1.4
    ax.imshow(colours, interpolation="none", aspect="equal")


def _name_ticks(ax: Axes, classes: Sequence[object]) -> None:
    k = len(classes)
    shown = np.arange(0, k, 1 if k <= _MOST_NAMED else 10)
    names = [shorten(classes[int(index)]) for index in shown]
    long = max(map(len, names)) > (3 if k <= 12 else 1)
    size = 7 if 12 < k <= _MOST_NAMED else 9
    ax.set_xticks(shown, names, rotation=45 if long else 0, ha="right" if long else "center", rotation_mode="anchor")
    ax.set_yticks(shown, names)
    for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        label.set_parse_math(False)
        label.set_fontsize(size)
    ax.tick_params(length=0 if k <= _MOST_NAMED else 3)


def mosaic(images: ArrayLike, ax: Axes | None = None, *, columns: int | None = None) -> Axes:
    """Pictures side by side.

    Parameters
    ----------
    images
        Bytes, shape (n, channels, height, width) with n at least 1; other than 3 channels are shown as their mean.
    ax
        Where to draw; default the axes of a new figure.
    columns
        How many in a row; default about as many as rows.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the images have another shape or are no bytes.
    """
    from hilbertnet.report.pictures import as_pixels

    pixels = as_pixels(images)
    whole = tile(pixels, columns or int(np.ceil(np.sqrt(len(pixels)))))
    ax = new_axes(ax, 6.0, 6.0 * whole.shape[0] / whole.shape[1])
    ax.imshow(whole, interpolation="none")
    ax.set_axis_off()
    return ax

"""Accuracy against the size of perturbations, and distributions of margins, as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hilbertnet.experiments.experiment import Curve, Panel

__all__ = ["accuracy_panel", "certified_curve", "interval_curve", "margin_panels"]

_MOST = 150  # points of a distribution that are drawn
_WIDE = 0.1  # below this share of the largest radius, small ones need a logarithmic scale


def interval_curve(label: str, radii: Sequence[float], found: Sequence[Mapping[str, float]]) -> Curve:
    """Accuracies in percent with their intervals, as `hilbertnet.metrics.Interval` has them."""
    value, low, high = (tuple(100 * one[key] for one in found) for key in ("value", "low", "high"))
    return Curve(label, tuple(radii), value, low, high)


def certified_curve(label: str, kept: Mapping[str, Sequence[float]], clean: float) -> Curve:
    """Certified accuracy as steps, from the radii at which it falls."""
    points = [(0.0, clean)]
    for radius, accuracy in zip(kept["radii"], kept["accuracy"], strict=True):
        points += [(radius, points[-1][1]), (radius, accuracy)] if radius > points[-1][0] else [(radius, accuracy)]
    x, y = zip(*points, strict=True)
    return Curve(label, x, tuple(100 * share for share in y))


def accuracy_panel(found: Sequence[Curve], clean: float, radius: str) -> Panel:
    """Accuracy on the same examples by radius, with the clean one as a level.

    Parameters
    ----------
    found
        Curves in percent.
    clean
        Accuracy without perturbations, in [0, 1].
    radius
        What radii are called.
    """
    positive = sorted(x for curve in found for x in curve.x if x > 0)
    log = bool(positive) and positive[len(positive) // 2] < _WIDE * positive[-1]
    parts = [_positive(curve, positive[0]) if log else curve for curve in found]
    ends = (positive[0] if log else 0.0, positive[-1]) if positive else (0.0, 1.0)
    level = Curve("clean", ends, (100 * clean, 100 * clean), kind="level")
    return Panel("", radius, "accuracy, %", (*parts, level), log_y=False, log_x=log)


def _positive(curve: Curve, least: float) -> Curve:
    """A curve for a logarithmic scale: what lies at 0 is moved to its left end."""
    return Curve(curve.label, tuple(max(x, least) for x in curve.x), curve.y, curve.low, curve.high, curve.kind)


def margin_panels(found: Mapping[str, Any], names: Mapping[str, str]) -> list[Panel]:
    """The distribution of margins as they are, and over each norm on a logarithmic scale.

    Parameters
    ----------
    found
        Margins as ``norms.json`` has them.
    names
        What norms are called on the page, by their names there.
    """
    step = max(1, len(found["values"]) // _MOST)
    rows = [*range(0, len(found["values"]) - 1, step), len(found["values"]) - 1]
    values, shares = [found["values"][row] for row in rows], [100 * found["shares"][row] for row in rows]
    share = "examples with at most it, %"
    panels = [
        Panel(
            "", "margin", share, (Curve("training examples", tuple(values), tuple(shares)),), log_y=False, log_x=False
        )
    ]
    positive = [(value, height) for value, height in zip(values, shares, strict=True) if value > 0]
    if positive and found["norms"]:
        margins, heights = zip(*positive, strict=True)
        curves = tuple(
            Curve(f"over the {names.get(name, name)}", tuple(value / norm for value in margins), heights)
            for name, norm in found["norms"].items()
        )
        panels.append(Panel("", "margin over a norm", share, curves, log_y=False, log_x=True))
    return panels

"""Accuracy with its interval, auROC50 and two classifiers compared on the same examples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "accuracy_interval", "auroc50", "paired_interval", "paired_test"]


class Interval(NamedTuple):
    """A proportion with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f}% [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def accuracy_interval(y_true: ArrayLike, y_pred: ArrayLike, confidence: float = 0.95) -> Interval:
    """Accuracy with the Wilson score interval.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n,).
    confidence
        Level of the interval, in (0, 1).

    Raises
    ------
    ValueError
        If the labels are empty or their shapes differ.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Examples
    --------
    >>> print(accuracy_interval([0, 1, 1, 0], [0, 1, 1, 1]))
    75.00% [30.06, 95.44]
    """
    true, pred = _same_length(y_true, y_pred)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number in (0, 1), got {confidence!r}")
    from scipy.special import ndtri

    n, rate = len(true), float(np.mean(true == pred))
    z = float(ndtri(0.5 + confidence / 2))
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half)))


def auroc50(y_true: ArrayLike, scores: ArrayLike, false_positives: int = 50) -> float:
    """Area under the ROC curve up to the first 50 false positives, scaled to [0, 1].

    Tied scores are averaged over their orders, as in the full area under the curve.

    Parameters
    ----------
    y_true
        Labels, shape (n,): positive where above 0, negative where 0, -1 or false.
    scores
        Larger is more positive, shape (n,).
    false_positives
        How many negatives to look at; all of them if there are fewer.

    Raises
    ------
    ValueError
        If a class is absent, a score is not finite or the shapes differ.

    References
    ----------
    M. Gribskov and N. Robinson, "Use of receiver operating characteristic (ROC) analysis to evaluate sequence
    matching", Computers & Chemistry 1996.
    """
    true, score = _same_length(y_true, scores)
    positive = true > 0
    if not np.isfinite(score.astype(float)).all():
        raise ValueError("scores: expected finite numbers, got NaN or infinity")
    if positive.all() or not positive.any():
        raise ValueError("y_true: expected both positives and negatives, got one class only")
    if false_positives < 1:
        raise ValueError(f"false_positives: expected at least 1, got {false_positives!r}")
    # one step of the curve per distinct score; inside a tie the curve is a straight line
    _, group = np.unique(-score.astype(float), return_inverse=True)
    true_steps = np.bincount(group, weights=positive)
    false_steps = np.bincount(group, weights=~positive)
    y = np.concatenate([[0.0], np.cumsum(true_steps)])
    x = np.concatenate([[0.0], np.cumsum(false_steps)])
    limit = min(float(false_positives), x[-1])
    y_at_limit = _curve_at(limit, x, y)
    inside = x < limit
    xs, ys = np.append(x[inside], limit), np.append(y[inside], y_at_limit)
    return float(np.trapezoid(ys, xs) / (limit * positive.sum()))


def _curve_at(limit: float, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Height of the curve where it first reaches x = limit."""
    after = int(np.searchsorted(x, limit, side="left"))
    before = after - 1
    share = (limit - x[before]) / (x[after] - x[before])
    return float(y[before] + share * (y[after] - y[before]))


def paired_test(y_true: ArrayLike, first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided exact McNemar test: the p-value of "both classifiers are as good" on the same examples.

    Parameters
    ----------
    y_true, first, second
        Labels and the two classifiers' predictions, each of shape (n,).

    References
    ----------
    Q. McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947.
    """
    from scipy.stats import binomtest

    _, only_first, only_second, _ = _agreement(y_true, first, second)
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def paired_interval(y_true: ArrayLike, first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Interval:
    """Accuracy of one classifier less that of another on the same examples, with Newcombe's score interval.

    Parameters
    ----------
    y_true, first, second
        Labels and the two classifiers' predictions, each of shape (n,).
    confidence
        Level of the interval, in (0, 1).

    Raises
    ------
    ValueError
        If the labels are empty or their shapes differ.

    References
    ----------
    R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 1998, method 10.

    Examples
    --------
    >>> gap = paired_interval([0] * 10, [0] * 8 + [1] * 2, [0] * 5 + [1] * 5)
    >>> gap.value, gap.low < 0.3 < gap.high
    (0.3, True)
    """
    one, other = (accuracy_interval(y_true, found, confidence) for found in (first, second))
    both, only, lone, neither = _agreement(y_true, first, second)
    n = both + only + lone + neither
    product = (both + only) * (lone + neither) * (both + lone) * (only + neither)
    excess = float(both * neither - only * lone)
    if excess > 0:  # the correlation, with a correction for continuity
        excess = max(excess - n / 2, 0.0)
    correlation = excess / math.sqrt(product) if product else 0.0

    def half(near: float, far: float) -> float:
        return math.sqrt(max(near * near - 2 * correlation * near * far + far * far, 0.0))

    gap = (only - lone) / n
    low = gap - half(one.value - one.low, other.high - other.value)
    high = gap + half(one.high - one.value, other.value - other.low)
    return Interval(gap, max(low, -1.0), min(high, 1.0))


def _agreement(y_true: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[int, int, int, int]:
    """On how many examples both classifiers are right, only the first, only the second, neither."""
    true, one = _same_length(y_true, first)
    _, two = _same_length(y_true, second)
    right, also = one == true, two == true
    parts = (right & also, right & ~also, ~right & also, ~right & ~also)
    both, only_first, only_second, neither = (int(np.sum(part)) for part in parts)
    return both, only_first, only_second, neither


def _same_length(first: ArrayLike, second: ArrayLike) -> tuple[NDArray, NDArray]:
    one, two = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or one.shape != two.shape or not len(one):
        raise ValueError(
            f"y_true and its predictions: expected two equal shapes (n,), n >= 1, got {one.shape} and {two.shape}"
        )
    return one, two

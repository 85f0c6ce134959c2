"""Metrics against scipy, scikit-learn and cases counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from hilbertnet.metrics import Interval, accuracy_interval, auroc50, paired_interval, paired_test


def predictions(right: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(total, int), (np.arange(total) >= right).astype(int)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 4), (9553, 10000)])
def test_accuracy_interval_is_the_one_of_wilson(right, total, confidence):
    found = accuracy_interval(*predictions(right, total), confidence=confidence)
    expected = binomtest(right, total).proportion_ci(confidence, method="wilson")
    assert found.value == right / total
    assert found.low == pytest.approx(expected.low, abs=1e-14)
    assert found.high == pytest.approx(expected.high, abs=1e-14)


@given(total=st.integers(1, 200), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_accuracy_interval_contains_the_accuracy(total, share):
    found = accuracy_interval(*predictions(round(share * total), total))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_labels_may_be_words():
    assert accuracy_interval(["cat", "dog"], ["cat", "cat"]).value == 0.5


def test_interval_in_words():
    assert str(Interval(0.9553, 0.951, 0.9592)) == "95.53% [95.10, 95.92]"


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, math.nan])
def test_bad_confidence_is_refused_by_name(confidence):
    with pytest.raises(ValueError, match=r"^confidence: expected a number in \(0, 1\)"):
        accuracy_interval([0], [0], confidence)


@pytest.mark.parametrize("pair", [([], []), ([0], [0, 1]), ([[0]], [[0]]), (0, 0)])
@pytest.mark.parametrize("metric", [accuracy_interval, auroc50, lambda a, b: paired_test(a, a, b)])
def test_shapes_that_differ_are_refused(metric, pair):
    with pytest.raises(ValueError, match=r"expected two equal shapes \(n,\)"):
        metric(*pair)


@pytest.mark.parametrize(
    ("labels", "scores", "limit", "expected"),
    [
        # best first: P N P N, so the first negative has one positive above it and the second has two
        ([1, 0, 1, 0], [4, 3, 2, 1], 50, (1 + 2) / (2 * 2)),
        ([1, 0, 1, 0], [4, 3, 2, 1], 1, 1 / 2),
        ([1, 0, 1, 0], [4, 3, 2, 1], 2, (1 + 2) / (2 * 2)),
        ([1, 1, 0, 0], [4, 3, 2, 1], 1, 1),
        ([0, 0, 1, 1], [4, 3, 2, 1], 50, 0),
        # all tied: the diagonal, of which the first of two negatives sees the lower half
        ([1, 0, 1, 0], [1, 1, 1, 1], 50, 1 / 2),
        ([1, 0, 1, 0], [1, 1, 1, 1], 1, 1 / 4),
        # a positive above, then a positive tied with two negatives: heights 1 to 1.5 up to the first one
        ([1, 1, 0, 0], [2, 1, 1, 1], 1, 1.25 / 2),
        ([True, False], [0.2, 0.1], 50, 1),
    ],
)
def test_auroc_counted_by_hand(labels, scores, limit, expected):
    assert auroc50(labels, scores, limit) == pytest.approx(expected, abs=1e-15)


def test_auroc_is_the_mean_over_the_orders_of_ties():
    labels, scores = np.array([1, 0, 1, 0, 0, 1]), np.array([3.0, 2.0, 2.0, 2.0, 1.0, 0.5])
    rng = np.random.default_rng(0)
    orders = [auroc50(labels, scores + 1e-6 * rng.permutation(6), 2) for _ in range(4000)]
    assert auroc50(labels, scores, 2) == pytest.approx(np.mean(orders), abs=0.01)


@given(
    labels=st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda y: 0 < sum(y) < len(y)),
    seed=st.integers(0, 1000),
    levels=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_auroc_of_fifty_negatives_or_less_is_the_whole_area(labels, seed, levels):
    scores = np.random.default_rng(seed).integers(levels, size=len(labels))
    assert auroc50(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_looks_at_fifty_negatives_only():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(400) < 0.2, rng.standard_normal(400)
    # without ties: drop the negatives beyond the fiftieth, and all that comes after it cannot matter
    order = np.argsort(-scores)
    rank_of_fiftieth = np.flatnonzero(~labels[order])[49]
    kept = order[: rank_of_fiftieth + 1]
    area = sum(int(labels[kept[:i]].sum()) for i in range(len(kept)) if not labels[kept[i]])
    assert auroc50(labels, scores) == pytest.approx(area / (50 * labels.sum()), abs=1e-14)
    assert auroc50(labels, scores) != pytest.approx(roc_auc_score(labels, scores), abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [0.1, 0.2]), r"^y_true: expected both positives and negatives"),
        (([0, 0], [0.1, 0.2]), r"^y_true: expected both positives and negatives"),
        (([0, 1], [0.1, math.nan]), r"^scores: expected finite numbers"),
        (([0, 1], [0.1, math.inf]), r"^scores: expected finite numbers"),
        (([0, 1], [0.1, 0.2], 0), r"^false_positives: expected at least 1"),
    ],
)
def test_auroc_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        auroc50(*arguments)


@given(both=st.integers(0, 30), first=st.integers(0, 30), second=st.integers(0, 30), neither=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_paired_test_counts_coins(both, first, second, neither):
    """Which of the two is right, where one of them only is, is a fair coin."""
    one = [1] * both + [1] * first + [0] * second + [0] * neither
    two = [1] * both + [0] * first + [1] * second + [0] * neither
    if not one:
        return
    coins = first + second
    tail = sum(math.comb(coins, k) for k in range(min(first, second) + 1)) / 2**coins
    assert paired_test([1] * len(one), one, two) == pytest.approx(min(1, 2 * tail), rel=1e-12)
    assert paired_test([1] * len(one), two, one) == pytest.approx(min(1, 2 * tail), rel=1e-12)


def test_paired_test_of_a_clear_case():
    true = np.zeros(100, int)
    assert paired_test(true, true, (np.arange(100) < 10).astype(int)) == pytest.approx(2 / 2**10, rel=1e-12)
    assert paired_test(true, true, true) == 1


# --- differences of two classifiers


def two_classifiers(both, first, second, neither):
    """Predictions of two classifiers where all labels are 0: both right, only one of them, none."""
    one = np.repeat([0, 0, 1, 1], [both, first, second, neither])
    two = np.repeat([0, 1, 0, 1], [both, first, second, neither])
    return np.zeros(len(one), int), one, two


def test_paired_interval_covers_the_true_difference():
    """By simulation, where the classifiers agree much, as they do, and where they do not."""
    rng = np.random.RandomState(0)
    for chances, n in (((0.9, 0.05, 0.03, 0.02), 100), ((0.3, 0.25, 0.25, 0.2), 60), ((0.97, 0.02, 0.005, 0.005), 300)):
        gap, covered = chances[1] - chances[2], 0
        for _ in range(400):
            found = paired_interval(*two_classifiers(*rng.multinomial(n, chances)))
            covered += found.low <= gap <= found.high
        assert 0.92 <= covered / 400 <= 1.0


@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(any))
def test_paired_interval_is_a_difference(counts):
    true, one, two = two_classifiers(*counts)
    found, back = paired_interval(true, one, two), paired_interval(true, two, one)
    assert found.value == pytest.approx(np.mean(one == 0) - np.mean(two == 0), abs=1e-12)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low), abs=1e-12)
    wider = paired_interval(true, one, two, 0.99)
    assert wider.low <= found.low
    assert wider.high >= found.high


def test_paired_interval_of_equal_classifiers_holds_zero():
    found = paired_interval(*two_classifiers(90, 0, 0, 10))
    assert found.low < 0 < found.high
    assert found.high < 0.06  # narrower than that of two that are wrong in other places
    apart = paired_interval(*two_classifiers(80, 10, 10, 0))
    assert apart.high > found.high

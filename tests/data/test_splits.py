"""Splits: seeded, stratified, every class on both sides, and a record that makes them again."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from hilbertnet.data import Dataset, load, partition, split, subset


def some(y, official=None):
    y = np.asarray(y)
    names = tuple("abcdefghij"[: y.max() + 1])
    x = np.arange(len(y), dtype=np.float32).reshape(-1, 1, 1, 1)
    if official is None:
        return Dataset("some", x, y, names)
    return Dataset("some", x, y, names, np.zeros((len(official), 1, 1, 1), np.float32), np.asarray(official))


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("train", [None, 300])
def test_digits_are_split_as_scikit_learn_does(seed, train):
    y = load("digits").y
    first, second = train_test_split(np.arange(len(y)), test_size=1 / 3, stratify=y, random_state=seed)
    if train:
        first, _ = train_test_split(first, train_size=train, stratify=y[first], random_state=seed)
    found = split(y, 1 / 3, seed, train)
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], second)


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    held_out=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
    share=st.floats(0, 1),
)
def test_every_class_is_on_both_sides_and_nothing_is_lost(counts, held_out, seed, share):
    y = np.repeat(np.arange(len(counts)), counts)
    n, classes = len(y), len(counts)
    outside = int(np.ceil(n * held_out))
    assume(min(outside, n - outside) >= classes)
    train, test = split(y, held_out, seed)
    assert sorted([*train, *test]) == list(range(n))
    assert len(test) == outside
    assert len(np.unique(y[train])) == len(np.unique(y[test])) == classes
    fewer = classes + int(share * (len(train) - classes))
    kept, same = split(y, held_out, seed, fewer)
    assert np.array_equal(same, test)
    assert len(set(kept)) == fewer
    assert set(kept) <= set(train)
    assert len(np.unique(y[kept])) == classes
    again, _ = split(y, held_out, seed, fewer)
    assert np.array_equal(kept, again)


def test_proportions_are_kept_where_a_class_is_small():
    y = np.repeat([0, 1, 2], [900, 98, 2])
    for seed in range(20):
        kept = subset(y, 50, seed)
        assert np.bincount(y[kept], minlength=3).tolist() in ([44, 5, 1], [45, 4, 1])


def test_seeds_differ_and_a_random_split_is_another():
    y = np.repeat(np.arange(3), 30)
    first, other, random = (split(y, 0.5, s, stratified=k)[0] for s, k in ((0, True), (1, True), (0, False)))
    assert not np.array_equal(first, other)
    assert not np.array_equal(np.sort(first), np.sort(random))
    assert np.bincount(y[first]).tolist() == [15, 15, 15]
    assert len(subset(y, 10, 0, stratified=False)) == 10
    assert np.array_equal(subset(y, 90, 0), np.arange(90))


@pytest.mark.parametrize(
    ("y", "arguments", "message"),
    [
        ([0, 0, 1, 1], (0, 0), r"held-out: expected a share in \(0, 1\), got 0"),
        ([0, 0, 1, 1], (1.0, 0), r"held-out: expected a share in \(0, 1\), got 1\.0"),
        ([0, 0, 1, 1], (float("nan"), 0), "held-out: expected a share"),
        ([0, 0, 1], (0.5, 0), "y: expected at least two examples of every class, got a class with one: 1"),
        ([0, 0, 1, 1, 2, 2], (0.1, 0), "held-out: expected a share that leaves each of 3 classes an example"),
        ([0, 0, 1, 1, 2, 2], (0.9, 0), "held-out: expected a share that leaves each of 3 classes an example"),
        ([0, 0, 1, 1], (0.5, 0, 1), r"train: expected 2 \(one for each class\) to 2 examples, got 1"),
        ([0, 0, 1, 1], (0.5, 0, 3), "train: expected 2 .* to 2 examples, got 3"),
        ([0] * 5 + [1] * 5, (0.25, 0, 8), "train: expected 2 .* to 7 examples, got 8"),
    ],
)
def test_what_cannot_be_split_is_refused(y, arguments, message):
    with pytest.raises(ValueError, match=message):
        split(np.array(y), *arguments)


def test_a_class_with_one_image_is_refused_by_its_name():
    data = some([0, 0, 0, 1, 1, 1, 2])
    with pytest.raises(ValueError, match="got a class with one: c$"):
        partition(data)


def test_the_official_split_is_taken_where_there_is_one():
    data = some([0, 1] * 10, official=[0, 1, 1])
    parts = partition(data, seed=4)
    assert parts.kind == "official"
    assert parts.train_x is data.x
    assert parts.train_y is data.y
    assert parts.test_x is data.test_x
    assert parts.test_y is data.test_y
    fewer = partition(data, seed=4, train=6)
    assert np.bincount(fewer.train_y).tolist() == [3, 3]
    assert np.array_equal(fewer.train_x.ravel().astype(int), fewer.train)
    assert fewer.test_x is data.test_x
    with pytest.raises(ValueError, match="train: expected 2 .* to 20 examples, got 21"):
        partition(data, train=21)


def test_a_share_leaves_the_official_test_set_alone():
    data = some([0, 1] * 10, official=[0, 1, 1])
    parts = partition(data, held_out=0.2, seed=1)
    assert parts.kind == "stratified"
    assert len(parts.train_x) == 16
    assert np.array_equal(parts.test_x.ravel().astype(int), parts.test)
    assert np.array_equal(parts.test_y, data.y[parts.test])


def test_a_third_is_held_out_where_nothing_is_official():
    data = load("digits")
    parts = partition(data, seed=2, train=200)
    train, test = split(data.y, 1 / 3, 2, 200)
    assert np.array_equal(parts.train, train)
    assert np.array_equal(parts.test, test)
    assert np.array_equal(parts.train_x, data.x[train])
    assert partition(data, stratified=False).kind == "random"


def test_a_record_tells_whether_a_split_is_the_same():
    data = load("digits")
    record = partition(data, seed=2, train=200).to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record == partition(data, seed=2, train=200).to_dict()
    assert (record["kind"], record["seed"], record["train"], record["test"]) == ("stratified", 2, 200, 599)
    assert record["held_out"] == 1 / 3
    assert len(record["train_sha256"]) == 64
    assert record["train_sha256"] != partition(data, seed=3, train=200).to_dict()["train_sha256"]

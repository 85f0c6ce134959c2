"""Exact kernels by the number of training images, against naive ridge regression, and what is made of the records."""

import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from hilbertnet.data import Dataset
from hilbertnet.experiments import exact_kernels
from hilbertnet.experiments.exact_kernels import LAMBDAS, ExactKernelRun, figures, table
from hilbertnet.kernels import ConvKernel
from hilbertnet.metrics import paired_interval, paired_test

KERNEL = "3 arccos1 gauss2 | 2 arccos1 gauss2"
RUN = ExactKernelRun("small", KERNEL, data="few", kinds=("ckn", "ntk"), sizes=(15, 30), test=40, seed=3)
COST = ("seconds", "peak_memory", "time", "tiles_found")


@pytest.fixture
def few(digits, monkeypatch):
    """Digits with an official test set."""
    x, y = digits.x, digits.y
    data = Dataset("few", x[:60], y[:60], test_x=x[900:980], test_y=y[900:980], class_names=digits.class_names)
    monkeypatch.setattr(exact_kernels, "load", lambda name: data)
    return data


def without_cost(record):
    return {key: value for key, value in record.items() if key not in COST}


def naive(gram, cross, y, classes):
    """Lambda and predictions of ridge regression, fitted again without each example."""
    n, unit = len(gram), np.trace(gram) / len(gram)
    targets = (y[:, None] == classes) - 1 / len(classes)
    best = None
    for lam in LAMBDAS:
        left_out = np.empty_like(targets)
        for i in range(n):
            others = np.arange(n) != i
            system = gram[np.ix_(others, others)] + n * lam * unit * np.eye(n - 1)
            left_out[i] = gram[i, others] @ np.linalg.solve(system, targets[others])
        score = np.mean(classes[left_out.argmax(1)] == y), -np.mean((left_out - targets) ** 2)
        if best is None or score > best[0]:
            best = score, lam
    coefficients = np.linalg.solve(gram + n * best[1] * unit * np.eye(n), targets)
    return best, classes[(cross @ coefficients).argmax(1)], np.sqrt(np.sum(coefficients * (gram @ coefficients), 0))


def test_the_record_is_that_of_naive_ridge_regression(few, tmp_path):
    record = RUN.run(tmp_path, progress=False)
    order = np.random.RandomState(3).permutation(60)[:30]
    test = np.sort(np.random.RandomState(3).permutation(80)[:40])
    for kind in RUN.kinds:
        kernel = ConvKernel(KERNEL, kind)
        gram = kernel.gram(few.x[order], dtype=torch.float64)
        cross = kernel.gram(few.test_x[test], few.x[order], dtype=torch.float64)
        for size in RUN.sizes:
            y = few.y[order[:size]]
            (score, lam), predicted, norms = naive(gram[:size, :size], cross[:, :size], y, np.unique(y))
            found = record["results"][kind][str(size)]
            assert found["lambda"] == lam
            assert found["leave_one_out"] == pytest.approx(score[0])
            assert found["wrong"] == np.flatnonzero(predicted != few.test_y[test]).tolist()
            assert found["test"]["value"] == pytest.approx(1 - len(found["wrong"]) / 40)
            np.testing.assert_allclose(found["rkhs_norms"], norms, rtol=1e-3)


def test_interrupted_it_goes_on_from_its_tiles(few, tmp_path, monkeypatch):
    compute = exact_kernels.compute_gram

    def interrupted(store, *arguments, **options):
        if store.name == "test.zarr":
            raise KeyboardInterrupt
        return compute(store, *arguments, **options)

    whole = RUN.run(tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(exact_kernels, "compute_gram", interrupted)
        with pytest.raises(KeyboardInterrupt):
            RUN.run(tmp_path / "broken", progress=False)
    tiles = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken" / "train.zarr").glob("*/c/*/*")}
    assert tiles
    again = RUN.run(tmp_path / "broken", progress=False)
    assert without_cost(again) == without_cost(whole)
    assert again["tiles_found"] == len(tiles) / 2 > whole["tiles_found"] == 0  # two kinds
    assert "(tiles from earlier)" in table({"a": again})
    assert tiles == {path: path.stat().st_mtime_ns for path in tiles}


def test_other_images_are_refused(few, tmp_path):
    RUN.run(tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"train\.zarr"):
        replace(RUN, seed=4).run(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sizes": (30, 15)}, r"^sizes: expected increasing positive whole numbers, got \(30, 15\)"),
        ({"sizes": ()}, "^sizes: expected increasing"),
        ({"sizes": (61,)}, "^sizes: expected at most 60 images, got 61"),
        ({"test": 81}, "^test: expected at most 80 images, got 81"),
        ({"kinds": ("rf",)}, "^kinds: expected some of ckn, ntk, got"),
        ({"published": ("ckn 80.5",)}, "^published: expected 'KIND SIZE PERCENT', got 'ckn 80.5'"),
        ({"architecture": "3 exq(1) -"}, "did you mean 'exp'"),
    ],
)
def test_bad_settings(changed, message, few, tmp_path):
    with pytest.raises(ValueError, match=message):
        replace(RUN, **changed).run(tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_data_without_test_images(tmp_path):
    with pytest.raises(ValueError, match="^data: expected a data set with test images, got 'digits'"):
        replace(RUN, data="digits").run(tmp_path, progress=False)


# --- the table


def result(wrong, count=100):
    value = 1 - len(wrong) / count
    test = {"value": value, "low": value - 0.05, "high": min(1.0, value + 0.05)}
    return {"lambda": 1e-6, "leave_one_out": 0.5, "test": test, "wrong": wrong}


def record(results, published=(), **changed):
    settings = {"data": "cifar10", "seed": 42, "published": list(published)}
    found = {"settings": settings, "test_examples": "all", "test_count": 100, "seconds": 90.0, "results": results}
    found["tiles_found"] = 0
    return {**found, **changed}


def test_the_table_shows_published_figures_and_says_what_is_missed():
    published = ["ckn 300 85", "ckn 1000 79.5", "ckn 10000 90", "ntk 300 99", "networks 300 70"]
    text = table({"a": record({"ckn": {"300": result(list(range(20))), "1000": result(list(range(21)))}}, published)})
    first, second = text.splitlines()[2:]
    assert (
        "| 80.00% [75.00, 85.00] of 100 | 85% (missed by 5.0), 79.5% with 1,000, 90% with 10,000, 70% (networks)"
        in first
    )
    assert "| 1,000 | 1e-06 | 50.00% | 79.00%" in second
    assert "79.5% (-0.5)" in second


def test_an_order_is_claimed_only_where_the_interval_leaves_out_zero():
    good, bad, near = result(list(range(10))), result(list(range(45))), result(list(range(2, 14)))
    records = {
        "a": record({"ckn": {"300": good}, "ntk": {"300": near}}),
        "b": record({"ckn": {"300": bad}}),
        "c": record({"ckn": {"300": bad}}, test_examples="others"),
    }
    rows = [line.split(" | ") for line in table(records).split("\n\n")[1].splitlines()[2:]]
    assert [(row[2], row[3], row[-1].strip("| ")) for row in rows] == [
        ("a ckn", "a ntk", "not told apart"),
        ("a ckn", "b ckn", "first is better"),
        ("a ntk", "b ckn", "first is better"),
    ]
    right, one, other = np.zeros(100), np.zeros(100), np.zeros(100)
    one[:10], other[:45] = 1, 1
    gap = paired_interval(right, one, other)
    assert rows[1][4] == f"+35.00 [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    assert rows[1][5] == f"{paired_test(right, one, other):.2g}"


def test_no_records():
    assert table({}).count("\n") == 1
    assert figures({}) == {}


def test_a_panel_for_each_data_set():
    both = record({"ckn": {"300": result([1]), "1000": result([])}, "ntk": {"300": result([1, 2])}})
    other = record({"ckn": {"10": result([3])}}, settings={"data": "mnist", "seed": 0, "published": []})
    first, second = figures({"a": both, "b": other})["accuracy"]
    assert (first.title, second.title) == ("cifar10", "mnist")
    assert [curve.label for curve in first.curves] == ["a ckn", "a ntk"]
    assert first.curves[0].x == (300.0, 1000.0)
    assert first.curves[0].y == pytest.approx((99.0, 100.0))
    assert first.curves[0].low == pytest.approx((94.0, 95.0))
    assert [curve.label for curve in second.curves] == ["b"]


def test_from_the_command_line_with_picture(few, hilbertnet, monkeypatch, tmp_path):
    room = sys.modules["hilbertnet.experiments.reproduce"]
    monkeypatch.setattr(room, "read_settings", lambda name, scale: ("A title", [RUN]))
    code, out, err = hilbertnet("reproduce", "exact-kernels", "--out", tmp_path)
    assert code == 0, err
    assert out.strip() in (tmp_path / "table.md").read_text()
    assert ElementTree.parse(tmp_path / "accuracy.svg").getroot().tag.endswith("svg")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["record.json", "test.zarr", "train.zarr"]
    assert hilbertnet("reproduce", "exact-kernels", "--out", tmp_path)[:2] == (0, out)

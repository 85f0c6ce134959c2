"""Rows of CIFAR-10 on small data: what is chosen, what is kept when interrupted, and what the table says."""

import json

import numpy as np
import pytest

from hilbertnet.data import Dataset
from hilbertnet.experiments import cifar_features
from hilbertnet.experiments import reproduce as run_all
from hilbertnet.experiments.cifar_features import CifarRun, table


@pytest.fixture
def small_cifar(monkeypatch):
    """Coloured digits of 16 x 16 in the place of CIFAR-10, with the last 150 as the first test set."""
    from hilbertnet.data import load

    digits = load("digits")
    x = np.repeat(np.kron(digits.x[:600], np.ones((1, 1, 2, 2), np.float32)), 3, axis=1)
    data = Dataset("cifar10", x[:500], digits.y[:500], tuple("abcdefghij"), x[500:], digits.y[500:600])
    monkeypatch.setattr(cifar_features, "load", lambda name: data)
    monkeypatch.setattr(cifar_features, "_TEST", 150)
    return data


SMALL = {"architecture": "3 exp(0.6) gauss2 | 3 exp(0.6) gauss4", "train": 300, "filters": (6, 8), "patches": 1000}
RUNS = [
    CifarRun(
        "plain",
        **SMALL,
        model="cnn",
        training="supervised",
        epochs=10,
        batch_size=16,
        rates=(0.1, 1e-6),
        augmentation="crop(1)",
    ),
    CifarRun("unsupervised", **SMALL, published=99.9),
    CifarRun("supervised", **SMALL, training="supervised", epochs=2, rates=(0.01, 0.003)),
]


@pytest.fixture
def settings(monkeypatch):
    room = __import__("sys").modules["hilbertnet.experiments.reproduce"]
    monkeypatch.setattr(room, "read_settings", lambda name, scale: ("A title", RUNS))


def test_runs_leave_records_checkpoints_and_a_table(small_cifar, settings, tmp_path):
    records = dict(run_all("cifar-features", tmp_path, progress=False))
    assert list(records) == ["plain", "unsupervised", "supervised"]
    for name, record in records.items():
        assert json.loads((tmp_path / name / "record.json").read_text()) == record
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["model.safetensors", "record.json"]
        assert record["test"]["last"]["examples"] == 150
        assert record["test"]["official"]["examples"] == 100
        assert record["test"]["last"]["value"] > 0.12
    chosen = max(records["supervised"]["candidates"], key=lambda c: c["validation_accuracy"])
    assert records["supervised"]["validation_accuracy"] == chosen["validation_accuracy"]
    assert [c["rate"] for c in records["plain"]["candidates"]] == [0.1, 1e-6]
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("A title\n\n| run | training images")
    assert "99.9% (missed by" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert dict(run_all("cifar-features", tmp_path, progress=False)) == records
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}


def test_the_last_images_are_not_trained_on(small_cifar, settings, tmp_path):
    """Another content of the test images changes nothing but what is said of them."""
    (record,) = dict(run_all("cifar-features", tmp_path / "a", only=["unsupervised"], progress=False)).values()
    small_cifar.x[-150:] = 0.5
    (again,) = dict(run_all("cifar-features", tmp_path / "b", only=["unsupervised"], progress=False)).values()
    assert record["candidates"] == again["candidates"]
    assert record["test"]["official"] == again["test"]["official"]
    assert record["test"]["last"]["value"] > again["test"]["last"]["value"]
    one, two = ((tmp_path / place / "unsupervised" / "model.safetensors").read_bytes() for place in "ab")
    assert one == two


@pytest.mark.parametrize("model", [pytest.param("ckn", marks=pytest.mark.slow), "cnn"])
def test_a_rate_that_diverges_is_recorded_and_not_chosen(small_cifar, tmp_path, model):
    settings = {**SMALL, "model": model, "training": "supervised", "epochs": 2, "batch_size": 16}
    record = CifarRun("x", **settings, rates=(1e30, 0.01)).run(tmp_path, progress=False)
    first, second = record["candidates"]
    assert "lower the learning rate" in first["diverged"]
    assert record["validation_accuracy"] == second["validation_accuracy"]
    with pytest.raises(ValueError, match=r"rates: expected one that does not diverge, got \(1e\+30,\)"):
        CifarRun("x", **settings, rates=(1e30,)).run(tmp_path / "again", progress=False)


def test_too_many_training_images_are_refused(small_cifar, tmp_path):
    with pytest.raises(ValueError, match="train: expected at most 350, all but the last 150 images, got 351"):
        CifarRun("x", **{**SMALL, "train": 351}).run(tmp_path)


# what differs from one machine and one moment to another
COST = ("seconds", "peak_memory", "time")


@pytest.mark.parametrize("model", [pytest.param("ckn", marks=pytest.mark.slow), "cnn"])
def test_an_interrupted_run_keeps_its_finished_candidates(small_cifar, tmp_path, monkeypatch, model):
    options = {**SMALL, "train": 150, "model": model, "training": "supervised", "epochs": 1, "batch_size": 16}
    run = CifarRun("x", **options, rates=(0.03, 1e30, 0.01))
    whole = run.run(tmp_path / "whole", progress=False)
    kind = cifar_features._Plain if model == "cnn" else cifar_features._Kernel
    fit, rates, broken = kind.fit, [], [0.01]

    def interrupted(self, rate, progress):
        rates.append(rate)
        if rate in broken:
            raise KeyboardInterrupt
        return fit(self, rate, progress)

    monkeypatch.setattr(kind, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path / "parts", progress=False)
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert {f"unfinished-candidate-0.03.{kind}" for kind in ("json", "safetensors")} <= names
    assert "unfinished-candidate-1e+30.json" in names
    assert "model.safetensors" not in names
    broken.clear()
    again = run.run(tmp_path / "parts", progress=False)
    assert rates == [0.03, 1e30, 0.01, 0.01]
    for record in (whole, again):
        for epoch in record["history"]:
            epoch.pop("seconds")
    assert {key: again[key] for key in again if key not in COST} == {
        key: whole[key] for key in whole if key not in COST
    }
    one, two = (tmp_path / place / "model.safetensors" for place in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()
    run.run(tmp_path / "parts", progress=False)  # nothing is fitted now
    assert len(rates) == 4


def test_candidates_of_other_training_images_are_refused(small_cifar, tmp_path):
    run = CifarRun("x", **SMALL)
    run.run(tmp_path, progress=False)
    small_cifar.x[0] = 0.5
    with pytest.raises(ValueError, match=r"checkpoint: .*candidate-0.01.json holds an unfinished run of other x;"):
        run.run(tmp_path, progress=False)


def row(published, value):
    test = {"examples": 10, "value": value, "low": value - 0.1, "high": value + 0.1}
    settings = {"train": 40_000, "published": published}
    return {
        "settings": settings, "features": 12, "validation_accuracy": 0.5, "seconds": 100.0,
        "test": {"last": test, "official": test},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("published", "value", "words"),
    [
        (77.5, 0.70, "77.5% (missed by 7.5)"),
        (77.5, 0.77, "77.5% (-0.5)"),
        (77.5, 0.80, "77.5% (+2.5)"),
        (None, 0.7, "|  |"),
    ],
)
def test_a_table_says_where_a_published_figure_is_missed(published, value, words):
    assert words in table({"r": row(published, value)})

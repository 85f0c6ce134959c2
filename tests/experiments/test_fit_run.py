"""Runs: what their folder holds, and what it is found again by."""

import csv
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hilbertnet.data import load, partition
from hilbertnet.estimators import CKNClassifier
from hilbertnet.experiments import FitSettings, fit_run, fit_seeds
from hilbertnet.experiments.pictures import margins
from hilbertnet.metrics import accuracy_interval
from hilbertnet.records import RunFolder, load_tensors

SMALL = {"filters": (8, 16), "train": 200, "patches": 500, "loss": "ridge"}
SETTINGS = FitSettings("digits", **SMALL)


def read_predictions(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- the record


def test_a_record_says_what_the_run_was(digits_run, digits):
    record = json.loads((digits_run / "record.json").read_text(encoding="utf-8"))
    parts = partition(digits, train=200)
    assert record["settings"]["data"] == "digits"
    assert record["settings"]["filters"] == [8, 16]
    assert record["data"] == {"summary": str(digits), **digits.to_dict()}
    assert record["split"] == parts.to_dict()
    assert record["split"]["kind"] == "stratified"
    assert record["protocol"].startswith("seeded stratified split; ")
    assert (record["train_examples"], record["test_examples"]) == (200, 599)
    assert record["preprocessing"] is None
    assert list(record["seconds"]) == ["load", "filters", "features", "lambda", "head", "test"]
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert record["peak_memory"] is None or 2**24 < record["peak_memory"] < 2**40
    assert record["features"] == 16 * 4 * 4
    assert record["lambda"] in [point["lam"] for point in record["validation_curve"]]
    assert record["device"] == "cpu"


def test_a_record_a_model_and_predictions_agree(digits_run, digits):
    record = json.loads((digits_run / "record.json").read_text(encoding="utf-8"))
    rows = read_predictions(digits_run)
    model = CKNClassifier.load(digits_run / "model.safetensors")
    parts = partition(digits, train=200)
    assert [int(row["example"]) for row in rows] == parts.test.tolist()
    assert [int(row["label"]) for row in rows] == parts.test_y.tolist()
    predicted = model.predict(parts.test_x)
    assert [int(row["prediction"]) for row in rows] == predicted.tolist()
    accuracy = accuracy_interval(parts.test_y, predicted)
    assert record["test_accuracy"] == accuracy.value
    interval = record["test_accuracy_interval"]
    assert (interval["low"], interval["high"]) == (accuracy.low, accuracy.high)
    assert accuracy.value > 0.9
    assert record["lambda"] == model.alpha_
    assert model.head_.weight.shape[1] == record["features"]


def test_a_run_leaves_four_files(digits_run):
    names = ["model.safetensors", "pictures.safetensors", "predictions.csv", "record.json"]
    assert sorted(path.name for path in digits_run.iterdir()) == names


def test_preprocessing_is_in_the_record_and_the_model(tmp_path):
    record = fit_run(replace(SETTINGS, preprocessing="zca(0.01)|contrast"), tmp_path, progress=False)
    model = CKNClassifier.load(tmp_path / "model.safetensors")
    assert record["preprocessing"] == str(model.preprocessing_)
    assert record["settings"]["preprocessing"] == "zca(0.01)|contrast"  # as it was given
    assert "zca(0.01)" in record["preprocessing"]
    assert "contrast" in record["preprocessing"]


# --- found again


def test_a_finished_run_is_found_again(digits_run, monkeypatch):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in digits_run.iterdir()}
    monkeypatch.setattr("hilbertnet.experiments.fit.load", lambda *_, **__: pytest.fail("loaded"))
    record = fit_run(SETTINGS, digits_run)
    assert record == json.loads((digits_run / "record.json").read_text(encoding="utf-8"))
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in digits_run.iterdir()}


@pytest.mark.parametrize(
    "other",
    [
        {"loss": "logistic"},
        {"seed": 1},
        {"train": 201},
        {"filters": (8, 17)},
        {"filters": None},
        {"preprocessing": "contrast"},
        {"size": (8, 8)},
        {"channels": 1},
        {"held_out": 0.3},
        {"patches": 501},
        {"architecture": "3 exp(0.6) - | 3 exp(0.6) gauss2"},
        {"data": "./digits"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_settings_are_refused(digits_run, other):
    before = {path: path.stat().st_mtime_ns for path in digits_run.iterdir()}
    with pytest.raises(ValueError, match="^out: .* holds a finished run of other settings; choose another folder"):
        fit_run(replace(SETTINGS, **other), digits_run)
    assert before == {path: path.stat().st_mtime_ns for path in digits_run.iterdir()}


def test_a_run_again_is_the_same(digits_run, tmp_path):
    fit_run(SETTINGS, tmp_path / "again", progress=False)
    for name in ("predictions.csv", "model.safetensors", "pictures.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (digits_run / name).read_bytes()


def interrupt(folder, after):
    """Start the run of `digits_run` again, and stop it after so many steps."""
    counted = []

    def stop(done, total):
        counted.append(done)
        if len(counted) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(SETTINGS, folder, progress=stop)


@pytest.mark.parametrize("after", [1, 6])
def test_an_interrupted_run_goes_on_to_the_same(digits_run, tmp_path, after):
    interrupt(tmp_path / "run", after)
    assert not RunFolder(tmp_path / "run").finished
    fit_run(SETTINGS, tmp_path / "run", progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(p.name for p in digits_run.iterdir())
    for name in ("predictions.csv", "model.safetensors", "pictures.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (digits_run / name).read_bytes()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """An unfinished run's folder, not to be changed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    interrupt(folder, 6)
    return folder


def test_an_interrupted_run_of_other_settings_is_refused(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["unfinished.safetensors"]
    before = (tmp_path / "run" / "unfinished.safetensors").read_bytes()
    with pytest.raises(ValueError, match="unfinished.safetensors holds an unfinished fit of other loss"):
        fit_run(replace(SETTINGS, loss="logistic"), tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "unfinished.safetensors").read_bytes() == before


def changed(old, new):
    return lambda content: content.replace(old, new)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="cut"),
        pytest.param(lambda content: b"no tensors at all\n" * 9, id="text"),
        pytest.param(changed(rb"\"identity\"", rb"\"identitz\""), id="no-identity"),
        pytest.param(changed(rb"\"curve\"", rb"\"curvf\""), id="no-curve"),
    ],
)
def test_a_broken_unfinished_run_is_refused_by_name(stopped, tmp_path, damage):
    shutil.copytree(stopped, tmp_path / "run")
    path = tmp_path / "run" / "unfinished.safetensors"
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(ValueError, match=r"unfinished\.safetensors"):
        fit_run(SETTINGS, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"settings": ',
        b"{}",
        pytest.param(b"\xff"),
        pytest.param(b"[" * 100_000),
    ],
    ids=["empty", "list", "cut", "no-settings", "no-text", "deep"],
)
def test_a_broken_record_is_refused_by_name(digits_run, tmp_path, content):
    shutil.copytree(digits_run, tmp_path / "run")
    (tmp_path / "run" / "record.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"record\.json|holds a finished run of other settings"):
        fit_run(SETTINGS, tmp_path / "run", progress=False)


def test_seeds_are_runs_of_their_own(tmp_path):
    settings = FitSettings("digits", filters=(4, 8), train=50, patches=500, loss="ridge")
    runs = list(fit_seeds(settings, tmp_path / "seeds", 2, progress=False))
    assert [place.name for place, _ in runs] == ["seed-0", "seed-1"]
    assert [record["settings"]["seed"] for _, record in runs] == [0, 1]
    assert runs[0][1]["split"]["test_sha256"] != runs[1][1]["split"]["test_sha256"]
    assert not RunFolder(tmp_path / "seeds").finished
    fit_run(replace(settings, seed=1), tmp_path / "alone", progress=False)
    alone, second = (folder / "predictions.csv" for folder in (tmp_path / "alone", runs[1][0]))
    assert alone.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "digitz"}, "^DATA: "),
        ({"loss": "hinge"}, "^loss: "),
        ({"filters": (8,)}, "^filters: "),
        ({"train": 3}, "^train: "),
        ({"held_out": 1.5}, "^held-out: "),
        ({"size": (9, 8)}, "^size: "),
        ({"channels": 3}, "^channels: "),
        ({"channels": 2}, "^channels: "),
        ({"patches": 0}, "^patches: "),
        ({"preprocessing": "zcq"}, "did you mean 'zca'"),
        ({"architecture": "3 exq(0.6) -"}, "did you mean 'exp'"),
        ({"seed": -1}, "^seed: "),
        ({"seed": 2**32}, "^seed: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused_leaves_nothing(other, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit_run(replace(SETTINGS, **other), tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


# --- pictures


def test_pictures_are_the_worst_mistakes_and_training_images(digits_run, digits):
    tensors, header = load_tensors(digits_run / "pictures.safetensors", "Pictures")
    rows = {int(row["example"]): row for row in read_predictions(digits_run)}
    parts = partition(digits, train=200)
    wrong = {place for place, row in rows.items() if row["label"] != row["prediction"]}
    mistakes = header["mistakes"]
    assert len(mistakes) == min(48, len(wrong)) == len(tensors["mistakes"])
    assert {mistake["example"] for mistake in mistakes} <= wrong
    sizes = [mistake["margin"] for mistake in mistakes]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= 0
    for mistake, picture in zip(mistakes, tensors["mistakes"].numpy(), strict=True):
        row = rows[mistake["example"]]
        assert (mistake["label"], mistake["prediction"]) == (row["label"], row["prediction"])
        scores = {int(name.removeprefix("score_")): float(row[name]) for name in row if name.startswith("score_")}
        own = scores.pop(int(row["label"]))
        assert mistake["margin"] == pytest.approx(max(scores.values()) - own, abs=1e-4)
        np.testing.assert_array_equal(picture, np.rint(digits.x[mistake["example"]] * 255).astype(np.uint8))
    samples = header["samples"]
    assert {sample["example"] for sample in samples} <= set(parts.train.tolist())
    assert len({sample["example"] for sample in samples}) == len(samples) == len(tensors["samples"])
    labels = [int(sample["label"]) for sample in samples]
    assert labels == digits.y[[sample["example"] for sample in samples]].tolist()
    assert np.bincount(labels, minlength=10).tolist() == [6] * 10
    for sample, picture in zip(samples, tensors["samples"].numpy(), strict=True):
        np.testing.assert_array_equal(picture, np.rint(digits.x[sample["example"]] * 255).astype(np.uint8))


def test_no_mistake_is_worse_than_those_that_are_kept(digits, tmp_path):
    """A model of few filters and training examples makes more than 48."""
    settings = FitSettings("digits", filters=(2, 2), train=20, patches=500, loss="ridge")
    fit_run(settings, tmp_path, progress=False)
    _, header = load_tensors(tmp_path / "pictures.safetensors", "Pictures")
    kept = {mistake["example"]: mistake["margin"] for mistake in header["mistakes"]}
    assert len(kept) == 48
    least = min(kept.values())
    for row in read_predictions(tmp_path):
        scores = {name: float(value) for name, value in row.items() if name.startswith("score_")}
        own = scores.pop(f"score_{row['label']}")
        if row["label"] != row["prediction"] and int(row["example"]) not in kept:
            assert max(scores.values()) - own <= least + 1e-4


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_margins_are_a_loop(classes):
    rng = np.random.RandomState(classes)
    scores = rng.standard_normal((40, 1 if classes == 2 else classes)).astype(np.float32)
    true = rng.randint(-1, classes, 40)
    kept = scores.copy()
    for row, label, margin in zip(scores, true, margins(scores, true), strict=True):
        both = [-row[0] / 2, row[0] / 2] if classes == 2 else list(row)
        own = 0.0 if label < 0 else both[label]
        assert margin == pytest.approx(own - max(both[i] for i in range(classes) if i != label), abs=1e-6)
    np.testing.assert_array_equal(scores, kept)


# --- data of other kinds


def test_two_classes(digits, tmp_path):
    two = np.flatnonzero(digits.y < 2)
    np.savez(tmp_path / "two.npz", x=digits.x[two], y=digits.y[two])
    record = fit_run(FitSettings(str(tmp_path / "two.npz"), **SMALL), tmp_path / "run", progress=False)
    rows = read_predictions(tmp_path / "run")
    assert list(rows[0]) == ["example", "label", "prediction", "score_1"]
    assert all((float(row["score_1"]) > 0) == (row["prediction"] == "1") for row in rows)
    assert record["data"]["classes"] == ["0", "1"]
    assert record["test_accuracy"] > 0.95
    tensors, header = load_tensors(tmp_path / "run" / "pictures.safetensors", "Pictures")
    assert np.unique([sample["label"] for sample in header["samples"]], return_counts=True)[1].tolist() == [32, 32]
    assert len(header["mistakes"]) == sum(row["label"] != row["prediction"] for row in rows)
    assert ("mistakes" in tensors) == bool(header["mistakes"])


@pytest.mark.parametrize(("stranger", "words"), [(0, False), (3, True), pytest.param(9, True, marks=pytest.mark.slow)])
def test_an_official_test_set_with_a_class_that_training_lacks(digits, stranger, words, tmp_path):
    y = np.array(list("abcdefghij"))[digits.y] if words else digits.y
    known = np.flatnonzero(digits.y[:300] != stranger)
    path = tmp_path / "both.npz"
    np.savez(path, x=digits.x[known], y=y[known], x_test=digits.x[300:360], y_test=y[300:360])
    record = fit_run(
        FitSettings(str(path), filters=(4, 8), patches=500, loss="ridge"), tmp_path / "run", progress=False
    )
    assert record["protocol"].startswith("official split; ")
    assert record["split"] == partition(load(path)).to_dict()
    assert (record["split"]["kind"], record["split"]["held_out"]) == ("official", None)
    assert (record["train_examples"], record["test_examples"]) == (len(known), 60)
    rows = read_predictions(tmp_path / "run")
    assert [row["label"] for row in rows] == [str(label) for label in y[300:360]]
    assert [int(row["example"]) for row in rows] == list(range(60))
    name = str("abcdefghij"[stranger] if words else stranger)
    assert f"score_{name}" not in rows[0]
    assert name not in {row["prediction"] for row in rows}
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert record["test_accuracy"] == right / 60
    assert right / 60 > 0.75
    tensors, header = load_tensors(tmp_path / "run" / "pictures.safetensors", "Pictures")
    strangers = [mistake for mistake in header["mistakes"] if mistake["label"] == name]
    assert len(strangers) == sum(row["label"] == name for row in rows) > 0
    for mistake in strangers:
        row = rows[mistake["example"]]
        highest = max(float(value) for column, value in row.items() if column.startswith("score_"))
        assert mistake["margin"] == pytest.approx(highest, abs=1e-4)
    for mistake, picture in zip(header["mistakes"], tensors["mistakes"].numpy(), strict=True):
        np.testing.assert_array_equal(picture, np.rint(digits.x[300 + mistake["example"]] * 255).astype(np.uint8))
    for sample in header["samples"]:
        assert sample["label"] == str(y[known][sample["example"]])


def test_a_share_leaves_the_official_test_set_alone(digits, tmp_path):
    path = tmp_path / "both.npz"
    np.savez(path, x=digits.x[:300], y=digits.y[:300], x_test=digits.x[300:360], y_test=digits.y[300:360])
    settings = FitSettings(str(path), filters=(4, 8), patches=500, loss="ridge", held_out=0.25)
    record = fit_run(settings, tmp_path / "run", progress=False)
    assert (record["train_examples"], record["test_examples"]) == (225, 75)
    assert record["split"]["held_out"] == 0.25
    assert record["protocol"].startswith("seeded stratified split; ")


def test_a_folder_resized_and_made_grey(digits, tmp_path, write_pictures):
    two = np.flatnonzero(digits.y < 2)[:40]
    grey = np.rint(digits.x[two, 0] * 255).astype(np.uint8)
    names = [f"{'nought' if digits.y[i] == 0 else 'one, or =1'}/{i:04}.png" for i in two]
    folder = write_pictures(tmp_path / "photos", np.repeat(grey[..., None], 3, axis=3), names)
    settings = FitSettings(str(folder), size=(10, 12), channels=1, filters=(4, 8), patches=500, loss="ridge")
    record = fit_run(settings, tmp_path / "run", progress=False)
    assert record["settings"]["size"] == [10, 12]
    assert record["settings"]["channels"] == 1
    assert record["data"]["shape"] == [1, 10, 12]
    assert record["data"]["classes"] == ["nought", "one, or =1"]
    assert CKNClassifier.load(tmp_path / "run" / "model.safetensors").signal_shape_ == (1, 10, 12)
    tensors, _ = load_tensors(tmp_path / "run" / "pictures.safetensors", "Pictures")
    assert tensors["samples"].shape[1:] == (1, 10, 12)
    assert fit_run(settings, tmp_path / "run") == record | {"seconds": record["seconds"]}  # found again, JSON and all
    assert record["test_accuracy"] > 0.9


def test_classes_whose_numbers_are_not_in_a_row(digits, tmp_path):
    path = tmp_path / "gaps.npz"
    chosen = np.flatnonzero(digits.y < 3)[:120]
    np.savez(path, x=digits.x[chosen], y=np.array([-5, 7, 100])[digits.y[chosen]])
    record = fit_run(
        FitSettings(str(path), filters=(4, 8), patches=500, loss="ridge"), tmp_path / "run", progress=False
    )
    assert record["data"]["classes"] == ["-5", "7", "100"]
    rows = read_predictions(tmp_path / "run")
    assert {row["prediction"] for row in rows} <= {"-5", "7", "100"}
    assert record["test_accuracy"] == np.mean([row["label"] == row["prediction"] for row in rows])
    assert record["test_accuracy"] > 0.9


def test_a_folder_whose_name_is_no_text(digits, tmp_path, write_pictures):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only names that are text")
    two = np.flatnonzero(digits.y < 2)[:20]
    pixels = np.rint(digits.x[two, 0] * 255).astype(np.uint8)
    write_pictures(folder, pixels, [f"{digits.y[i]}/{i:04}.png" for i in two])
    settings = FitSettings(str(folder), filters=(4, 8), patches=500, loss="ridge")
    record = fit_run(settings, tmp_path / "run", progress=False)
    assert fit_run(settings, tmp_path / "run") == record

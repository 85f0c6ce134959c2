"""Predictions of a finished run: `predict_run` and ``hilbertnet predict``."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hilbertnet.data import load, partition
from hilbertnet.estimators import CKNClassifier
from hilbertnet.experiments import FitSettings, Predicted, fit_run, predict, predict_run
from hilbertnet.metrics import accuracy_interval

SMALL = {"filters": (8, 16), "train": 200, "patches": 500, "loss": "ridge"}


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def predicted(run, source, **how):
    """Rows, and what was returned."""
    file = io.StringIO(newline="")
    found = predict_run(run, source, file, progress=False, **how)
    assert isinstance(found, Predicted)
    return rows_of(file.getvalue()), found


def scores_of(rows):
    return np.array([[float(value) for name, value in row.items() if name.startswith("score_")] for row in rows])


@pytest.fixture(scope="module")
def pixels(digits):
    """Digits as bytes (n, 8, 8)."""
    return np.rint(digits.x[:, 0] * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model(digits_run):
    return CKNClassifier.load(digits_run / "model.safetensors")


def same_as_model(rows, model, pixels):
    """Rows are what the model in memory says of pictures (n, 8, 8) of bytes."""
    x = pixels[:, None].astype(np.float32) / 255
    assert [row["prediction"] for row in rows] == [str(label) for label in model.predict(x)]
    np.testing.assert_allclose(scores_of(rows), model.decision_function(x), rtol=1e-4, atol=1e-4)


# --- what is predicted


def test_predictions_are_those_that_the_run_left(digits_run):
    with (digits_run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        left = list(csv.DictReader(file))
    rows, found = predicted(digits_run, "digits")
    assert [row["example"] for row in rows] == [str(i) for i in range(1797)]
    again = [rows[int(row["example"])] for row in left]
    words = ("example", "label", "prediction")
    assert list(rows[0]) == [*words, *(f"score_{i}" for i in range(10))]
    assert [[row[name] for name in words] for row in again] == [[row[name] for name in words] for row in left]
    np.testing.assert_allclose(scores_of(again), scores_of(left), rtol=1e-4, atol=1e-5)
    assert found.seen
    assert found.strangers == ()
    assert sum(found.counts.values()) == 1797
    assert found.accuracy == accuracy_interval([row["label"] for row in rows], [row["prediction"] for row in rows])


def test_the_highest_score_is_the_prediction(digits_run):
    rows, _ = predicted(digits_run, "digits")
    assert [row["prediction"] for row in rows] == [str(place) for place in scores_of(rows).argmax(axis=1)]


def test_preprocessing_is_that_of_the_model_in_memory(tmp_path):
    steps = "contrast | zca(1e-2)"
    settings = FitSettings("digits", preprocessing=steps, **SMALL)
    fit_run(settings, tmp_path / "run", progress=False)
    parts = partition(load("digits"), train=200)
    model = CKNClassifier(None, (8, 16), preprocessing=steps, patches=500, loss="ridge", random_state=0)
    model.fit(parts.train_x, parts.train_y)
    rows, _ = predicted(tmp_path / "run", "digits")
    test = [rows[i] for i in parts.test]
    assert [int(row["prediction"]) for row in test] == model.predict(parts.test_x).tolist()
    np.testing.assert_allclose(scores_of(test), model.decision_function(parts.test_x), rtol=1e-4, atol=1e-4)


def test_two_classes_have_one_score_that_of_the_second(tmp_path, digits):
    two = np.flatnonzero(digits.y < 2)
    words = np.array(["nought", "one"])[digits.y[two]]
    np.savez(tmp_path / "two.npz", x=digits.x[two], y=words)
    fit_run(FitSettings(str(tmp_path / "two.npz"), **SMALL), tmp_path / "run", progress=False)
    rows, found = predicted(tmp_path / "run", tmp_path / "two.npz")
    assert list(rows[0]) == ["example", "label", "prediction", "score_one"]
    assert [row["label"] for row in rows] == words.tolist()
    assert [row["prediction"] == "one" for row in rows] == (scores_of(rows)[:, 0] > 0).tolist()
    assert set(found.counts) == {"nought", "one"}
    assert found.accuracy.value > 0.9


# --- folders


def test_a_folder_of_classes_has_labels_and_an_accuracy(digits_run, model, pixels, digits, tmp_path, write_pictures):
    chosen = np.sort(np.concatenate([np.flatnonzero(digits.y == label)[:3] for label in range(10)]))
    chosen = chosen[np.argsort(digits.y[chosen], kind="stable")]
    names = [f"{digits.y[i]}/{place:03}.png" for place, i in enumerate(chosen)]
    folder = write_pictures(tmp_path / "photos", pixels[chosen], names)
    rows, found = predicted(digits_run, folder)
    assert [row["example"] for row in rows] == names
    assert [row["label"] for row in rows] == [name.split("/")[0] for name in names]
    same_as_model(rows, model, pixels[chosen])
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert found.accuracy.value == pytest.approx(right)
    assert found.strangers == ()
    assert not found.seen


def test_a_flat_folder_has_no_labels_and_no_accuracy(digits_run, model, pixels, tmp_path, write_pictures):
    names = [f"{i}.png" for i in range(7)]
    folder = write_pictures(tmp_path / "photos", pixels[:7], names)
    rows, found = predicted(digits_run, folder)
    assert [row["example"] for row in rows] == names
    assert {row["label"] for row in rows} == {""}
    same_as_model(rows, model, pixels[:7])
    assert found.accuracy is None
    assert found.strangers == ()


def test_coloured_pictures_become_grey_for_a_grey_run(digits_run, model, pixels, tmp_path, write_pictures):
    coloured = np.repeat(pixels[:5, :, :, None], 3, axis=3)
    rows, _ = predicted(digits_run, write_pictures(tmp_path / "photos", coloured, [f"{i}.png" for i in range(5)]))
    same_as_model(rows, model, pixels[:5])


def test_labels_that_the_model_does_not_know_are_mistakes(digits_run, pixels, tmp_path, write_pictures, hilbertnet):
    folder = write_pictures(tmp_path / "photos", pixels[:4], ["0/a.png", "1/a.png", "cat/a.png", "dog/a.png"])
    rows, found = predicted(digits_run, folder)
    assert found.strangers == ("cat", "dog")
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert found.accuracy.value == right / 4
    assert found.accuracy.value <= 0.5
    code, _, err = hilbertnet("predict", digits_run, folder)
    assert code == 0
    assert "hilbertnet: warning: labels that the model does not know: cat, dog\n" in err


def test_labels_all_unknown_give_no_accuracy(digits_run, pixels, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "photos", pixels[:2], ["cat/a.png", "dog/a.png"])
    _, found = predicted(digits_run, folder)
    assert found.accuracy is None
    assert found.strangers == ("cat", "dog")


# --- sizes and shapes


def large(pixels, factor):
    return np.kron(pixels, np.ones((1, factor, factor), np.uint8))


def test_another_size_is_refused_unless_it_may_be_resized(
    digits_run, model, pixels, tmp_path, write_pictures, hilbertnet
):
    folder = write_pictures(tmp_path / "photos", large(pixels[:4], 2), [f"{i}.png" for i in range(4)])
    code, out, err = hilbertnet("predict", digits_run, folder)
    assert (code, out) == (2, "")
    wanted = "expected images of 1 x 8 x 8 (channels, height, width)"
    assert err.startswith(f"hilbertnet: {folder}: {wanted}, which {digits_run} was fitted on, got 1 x 16 x 16")
    assert "--resize" in err
    code, out, err = hilbertnet("predict", digits_run, folder, "--resize")
    assert code == 0, err
    smaller = [Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR) for picture in large(pixels[:4], 2)]
    same_as_model(rows_of(out), model, np.stack(smaller))


def test_sizes_that_differ_are_refused_by_name(digits_run, pixels, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "photos", pixels[:2], ["a.png", "b.png"])
    write_pictures(folder, large(pixels[2:3], 2), ["c.png"])
    with pytest.raises(ValueError, match="c.png of 16 x 16"):
        predicted(digits_run, folder)
    rows, _ = predicted(digits_run, folder, resize=True)
    assert len(rows) == 3


def test_a_run_of_resized_images_resizes_by_itself(pixels, digits, tmp_path, write_pictures):
    two = np.flatnonzero(digits.y < 2)[:60]
    names = [f"{digits.y[i]}/{i:04}.png" for i in two]
    folder = write_pictures(tmp_path / "photos", large(pixels[two], 2), names)
    settings = FitSettings(str(folder), size=(8, 8), filters=(4, 8), patches=500, loss="ridge")
    fit_run(settings, tmp_path / "run", progress=False)
    rows, found = predicted(tmp_path / "run", folder)
    assert found.seen
    others = write_pictures(tmp_path / "others", large(pixels[two[:8]], 3), [f"{i}.png" for i in range(8)])
    write_pictures(others, pixels[two[8:9]], ["8.png"])
    again, found = predicted(tmp_path / "run", others)
    assert not found.seen
    assert len(again) == 9
    same = {row["example"]: row for row in rows}
    assert again[8]["prediction"] == same[f"{digits.y[two[8]]}/{two[8]:04}.png"]["prediction"]


@pytest.mark.parametrize(
    ("shape", "got"), [((3, 8, 8), "3 x 8 x 8"), ((1, 7, 8), "1 x 7 x 8"), ((3, 16, 4), "3 x 16 x 4")]
)
def test_arrays_of_another_shape_are_refused(digits_run, shape, got, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, *shape), np.uint8))
    message = f"x.npz: expected images of 1 x 8 x 8 .* got {got}"
    for resize in (False, True):
        with pytest.raises(ValueError, match=message) as refused:
            predicted(digits_run, tmp_path / "x.npz", resize=resize)
        assert "--resize" not in str(refused.value)  # which helps only folders


# --- arrays in a file


def test_a_file_without_labels(digits_run, digits, tmp_path):
    np.savez(tmp_path / "x.npz", x=digits.x[:9])
    rows, found = predicted(digits_run, tmp_path / "x.npz")
    assert [row["example"] for row in rows] == [str(i) for i in range(9)]
    assert {row["label"] for row in rows} == {""}
    assert found.accuracy is None
    whole, _ = predicted(digits_run, "digits")
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in whole[:9]]


def test_the_part_that_is_asked_for(digits_run, digits, tmp_path):
    path = tmp_path / "both.npz"
    np.savez(path, x=digits.x[:12], y=digits.y[:12], x_test=digits.x[20:25], y_test=digits.y[20:25])
    for part, y in ((None, digits.y[20:25]), ("test", digits.y[20:25]), ("train", digits.y[:12])):
        rows, found = predicted(digits_run, path, part=part)
        assert [int(row["label"]) for row in rows] == y.tolist()
        assert found.accuracy is not None
        assert not found.seen
    with pytest.raises(ValueError, match="^part: expected 'train' or 'test', got 'tset'"):
        predicted(digits_run, path, part="tset")
    with pytest.raises(ValueError, match="^part: digits has no official test set"):
        predicted(digits_run, "digits", part="test")


def test_examples_count_as_seen_by_the_part_that_was_fitted(digits, tmp_path, monkeypatch):
    path = tmp_path / "both.npz"
    np.savez(path, x=digits.x[:300], y=digits.y[:300], x_test=digits.x[300:350], y_test=digits.y[300:350])
    fit_run(FitSettings(str(path), **SMALL), tmp_path / "run", progress=False)
    assert not predicted(tmp_path / "run", path)[1].seen
    assert not predicted(tmp_path / "run", path, part="test")[1].seen
    assert predicted(tmp_path / "run", path, part="train")[1].seen
    monkeypatch.chdir(tmp_path)
    assert predicted(tmp_path / "run", "both.npz", part="train")[1].seen  # the same file by another name
    with (tmp_path / "run" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        left = list(csv.DictReader(file))
    rows, _ = predicted(tmp_path / "run", path)
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in left]
    shutil.copy(path, tmp_path / "copy.npz")
    assert not predicted(tmp_path / "run", tmp_path / "copy.npz", part="train")[1].seen  # which nobody can know


# --- as they come


class Listener(io.StringIO):
    """A stream that asks something with every write."""

    def __init__(self, ask):
        super().__init__(newline="")
        self.ask, self.answers = ask, []

    def write(self, text):
        self.answers.append((text, self.ask()))
        return super().write(text)


def test_a_batch_is_all_that_is_read_before_its_rows_are_written(
    digits_run, pixels, tmp_path, write_pictures, monkeypatch
):
    from hilbertnet.data import streams

    decoded = []
    decode = streams.decode
    monkeypatch.setattr(streams, "decode", lambda path, size: decoded.append(path) or decode(path, size))
    monkeypatch.setattr(predict, "_BATCH", 4)
    folder = write_pictures(tmp_path / "photos", pixels[:10], [f"{i}.png" for i in range(10)])
    file = Listener(lambda: len(decoded))
    predict_run(digits_run, folder, file, progress=False)
    seen = {text.split(",")[0]: count for text, count in file.answers}
    assert [seen[f"{i}.png"] - seen["0.png"] for i in range(10)] == [0, 0, 0, 0, 4, 4, 4, 4, 6, 6]


def test_a_broken_picture_comes_after_the_rows_before_it(
    digits_run, pixels, tmp_path, write_pictures, monkeypatch, hilbertnet
):
    monkeypatch.setattr(predict, "_BATCH", 4)
    folder = write_pictures(tmp_path / "photos", pixels[:10], [f"{i}.png" for i in range(10)])
    (folder / "9.png").write_bytes((folder / "9.png").read_bytes()[:40])
    code, out, err = hilbertnet("predict", digits_run, folder)
    assert code == 2
    assert [row["example"] for row in rows_of(out)] == [f"{i}.png" for i in range(8)]
    assert err.startswith(f"hilbertnet: {folder / '9.png'}: expected an image, got ")
    assert err.count("\n") == 1


def test_with_out_there_is_a_whole_file_or_none(digits_run, pixels, tmp_path, write_pictures, monkeypatch, hilbertnet):
    monkeypatch.setattr(predict, "_BATCH", 4)
    folder = write_pictures(tmp_path / "photos", pixels[:10], [f"{i}.png" for i in range(10)])
    sound = (folder / "9.png").read_bytes()
    (folder / "9.png").write_bytes(sound[:40])
    place = tmp_path / "out"
    place.mkdir()
    code, out, err = hilbertnet("predict", digits_run, folder, "--out", place / "p.csv")
    assert (code, out) == (2, "")
    assert "9.png: expected an image" in err
    assert list(place.iterdir()) == []
    (folder / "9.png").write_bytes(sound)
    code, out, err = hilbertnet("predict", digits_run, folder, "--out", place / "p.csv")
    assert (code, out) == (0, "")
    assert f"predictions: {place / 'p.csv'}\n" in err
    assert [path.name for path in place.iterdir()] == ["p.csv"]
    whole = (place / "p.csv").read_bytes()
    assert whole.decode() == hilbertnet("predict", digits_run, folder)[1]
    (folder / "9.png").write_bytes(sound[:40])
    assert hilbertnet("predict", digits_run, folder, "--out", place / "p.csv")[0] == 2
    assert (place / "p.csv").read_bytes() == whole  # an older file stays
    assert [path.name for path in place.iterdir()] == ["p.csv"]


def test_a_batch_makes_no_difference(digits_run, digits, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=digits.x[:11])
    whole, _ = predicted(digits_run, tmp_path / "x.npz")
    steps = []
    monkeypatch.setattr(predict, "_BATCH", 3)
    file = io.StringIO(newline="")
    predict_run(digits_run, tmp_path / "x.npz", file, progress=lambda done, total: steps.append((done, total)))
    parts = rows_of(file.getvalue())
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [row["prediction"] for row in parts] == [row["prediction"] for row in whole]
    np.testing.assert_allclose(scores_of(parts), scores_of(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_error(digits_run):
    command = [sys.executable, "-m", "hilbertnet", "predict", str(digits_run), "digits"]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert result.returncode == 0


# --- names


ODD = ["a, b", 'say "x"', "=cmd|' /C calc'!A0", "two\nlines", "ω x̂ 猫", " edge ", "tab\there", "cr\rhere"]


def test_odd_names_survive_a_reader_of_csv(digits, tmp_path, hilbertnet):
    labels = np.array(ODD)[np.arange(200) % len(ODD)]
    path = tmp_path / "odd.npz"
    np.savez(path, x=digits.x[:200], y=labels)
    settings = FitSettings(str(path), filters=(4, 8), patches=500, loss="ridge")
    record = fit_run(settings, tmp_path / "run", progress=False)
    assert sorted(record["data"]["classes"]) == sorted(ODD)
    shown = {name: "".join("\ufffd" if letter in "\n\t\r" else letter for letter in name) for name in ODD}
    code, out, err = hilbertnet("predict", tmp_path / "run", path)
    assert code == 0, err
    table = list(csv.reader(io.StringIO(out, newline="")))
    assert table[0] == ["example", "label", "prediction", *(f"score_{shown[name]}" for name in sorted(ODD))]
    assert [row[1] for row in table[1:]] == [shown[name] for name in labels]
    assert {row[2] for row in table[1:]} <= set(shown.values())
    assert {len(row) for row in table} == {3 + len(ODD)}
    assert len(out.splitlines()) == 201
    with (tmp_path / "run" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert {row["label"] for row in csv.DictReader(file)} == set(shown.values())
    assert "warning: labels" not in err
    assert all(line.split(" ")[0] for line in err.splitlines())


def test_odd_files_survive_a_reader_of_csv(digits_run, pixels, tmp_path, write_pictures, hilbertnet):
    names = sorted(["a, b.png", '"q".png', "=1+1.png", "two\nlines.png", "猫.png"])
    folder = write_pictures(tmp_path / "pho,tos", pixels[:5], names)
    code, out, _ = hilbertnet("predict", digits_run, folder)
    assert code == 0
    table = list(csv.reader(io.StringIO(out, newline="")))
    assert [row[0] for row in table[1:]] == [name.replace("\n", "\ufffd") for name in names]


# --- the run


def no_run(tmp_path, digits_run):
    return tmp_path / "nothing", "expected a finished run, found no record.json"


def a_file(tmp_path, digits_run):
    (tmp_path / "file").write_text("no folder")
    return tmp_path / "file", "expected a finished run, found no record.json"


def seeds(tmp_path, digits_run):
    for seed in (0, 1):
        shutil.copytree(digits_run, tmp_path / "seeds" / f"seed-{seed}")
    return tmp_path / "seeds", "found runs inside it: seed-0, seed-1; choose one of them"


def unfinished(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "record.json").unlink()
    (run / "model.safetensors").rename(run / "unfinished.safetensors")
    return run, "found an interrupted one; give the command that began it again"


def no_model(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "model.safetensors").unlink()
    return run, "model.safetensors: expected a safetensors file written by hilbertnet"


def model_is_a_folder(tmp_path, digits_run):
    run, message = no_model(tmp_path, digits_run)
    (run / "model.safetensors").mkdir()
    return run, message


def cut_model(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[: len(content) // 2])
    return run, "model.safetensors: expected a safetensors file written by hilbertnet"


def empty_model(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "model.safetensors").write_bytes(b"")
    return run, "model.safetensors: expected a safetensors file written by hilbertnet"


def other_tensors(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    shutil.copy(run / "pictures.safetensors", run / "model.safetensors")
    return run, "model.safetensors: expected a CKNClassifier, got a 'Pictures'"


def no_json(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "record.json").write_text('{"settings": ')
    return run, "record.json: not a JSON record"


def a_list(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "record.json").write_text("[]")
    return run, "record.json: expected a JSON object, got list"


def no_text(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "record.json").write_bytes(b"\xff\xfe{}")
    return run, "record.json"


def deep_json(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "record.json").write_text("[" * 100_000)
    return run, "record.json"


def no_settings(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "record.json").write_text("{}")
    return run, "record.json"


def no_data(tmp_path, digits_run):
    run = shutil.copytree(digits_run, tmp_path / "run")
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    del record["data"]
    (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return run, "record.json"


def changed_header(old, new):
    def change(tmp_path, digits_run):
        run = shutil.copytree(digits_run, tmp_path / "run")
        content = (run / "model.safetensors").read_bytes()
        assert content.count(old) == 1
        assert len(old) == len(new)
        (run / "model.safetensors").write_bytes(content.replace(old, new))
        return run, "model.safetensors"

    change.__name__ = f"header_{new.decode().strip(chr(92) + chr(34))}"
    return change


HEADERS = [
    changed_header(rb"\"classes\"", rb"\"clazzes\""),
    changed_header(rb"\"signal_shape\"", rb"\"signal_shapf\""),
    changed_header(rb"\"network\"", rb"\"netwerk\""),
    changed_header(b'"head.weight"', b'"head.weighs"'),
]


@pytest.mark.parametrize(
    "damage",
    [
        no_run,
        a_file,
        seeds,
        unfinished,
        no_model,
        model_is_a_folder,
        cut_model,
        empty_model,
        other_tensors,
        no_json,
        a_list,
        no_text,
        deep_json,
        no_settings,
        no_data,
        *HEADERS,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_run_that_is_none_is_one_message(damage, digits_run, tmp_path, hilbertnet):
    run, message = damage(tmp_path, digits_run)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        predicted(run, "digits")
    assert run.name in str(refused.value)
    code, out, err = hilbertnet("predict", run, "digits", "--out", tmp_path / "p.csv")
    assert (code, out) == (2, "")
    assert err == f"hilbertnet: {refused.value}\n"
    assert not list(tmp_path.glob("*.csv*"))
    assert not list(tmp_path.glob(".*"))


# --- the command


def test_the_command_says_what_became_of_the_examples(digits_run, hilbertnet, tmp_path):
    code, out, err = hilbertnet("predict", digits_run, "digits")
    assert code == 0
    rows = rows_of(out)
    assert len(rows) == 1797
    _, found = predicted(digits_run, "digits")
    assert err.startswith("1,797 examples: ")
    assert f"accuracy: {found.accuracy}\n" in err
    assert "hilbertnet: warning: the run was fitted on some of these examples\n" in err
    code, out, err = hilbertnet("predict", digits_run, "digits", "--out", tmp_path / "new" / "p.csv")
    assert (code, out) == (0, "")
    assert rows_of((tmp_path / "new" / "p.csv").read_text(encoding="utf-8")) == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digitz"], "DATA: expected one of digits"),
        (["digits", "--part", "tset"], "part: expected 'train' or 'test'"),
        (["digits", "--part", "test"], "part: digits has no official test set"),
        (["digits", "--device", "gpu"], "device: expected one torch can use"),
        (["digits", "--out", "."], "out: expected a file, got the folder ."),
        (["digits", "--out", "new/folder/../."], "expected"),
    ],
)
def test_bad_arguments_are_one_message(arguments, message, digits_run, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    if "new/folder/../." in arguments:
        (tmp_path / "new" / "folder").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = hilbertnet("predict", digits_run, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"hilbertnet: {message}") or message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_refusal_leaves_no_new_folder(digits_run, tmp_path, hilbertnet):
    assert hilbertnet("predict", digits_run, "digitz", "--out", tmp_path / "new" / "p.csv")[0] == 2
    assert list(tmp_path.iterdir()) == []

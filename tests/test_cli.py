"""The command line on real data, and its refusals."""

import csv
import json
import subprocess
import sys

import pytest

from hilbertnet.estimators import CKNClassifier

SMALL = ["--filters", "8,16", "--train", "200", "--patches", "2000"]


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "hilbertnet", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    result = run("fit", "digits", *SMALL, "--seeds", "2", "--out", "out", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "out", result


def test_fit_prints_accuracy_slopes_and_the_run_folder(finished):
    _, result = finished
    assert "kappa'(1) per layer: 2.78, 2.78" in result.stdout
    assert "seed 0: " in result.stdout
    assert "mean of 2 seeds: " in result.stdout
    assert "run folder: out" in result.stdout
    assert result.stderr == ""


def test_fit_writes_record_checkpoint_and_predictions_that_agree(finished):
    folder, _ = finished
    record = json.loads((folder / "seed-1" / "record.json").read_text())
    with (folder / "seed-1" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert record["test_examples"] == len(rows) == 599
    assert record["test_accuracy"] == pytest.approx(right / 599)
    assert record["train_examples"] == 200
    assert record["settings"]["seed"] == 1
    assert record["versions"]["torch"]
    assert record["kappa_slopes"] == pytest.approx([1 / 0.36, 1 / 0.36])

    from hilbertnet.data import load

    model = CKNClassifier.load(folder / "seed-1" / "model.safetensors")
    examples = [int(row["example"]) for row in rows]
    predicted = model.predict(load("digits").x[examples])
    assert predicted.tolist() == [int(row["prediction"]) for row in rows]


def test_a_finished_run_is_not_done_twice_nor_mistaken_for_another(finished):
    folder, first = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = run("fit", "digits", *SMALL, "--seeds", "2", "--out", "out", cwd=folder.parent)
    assert again.stdout == first.stdout
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    other = run("fit", "digits", *SMALL, "--seeds", "2", "--loss", "ridge", "--out", "out", cwd=folder.parent)
    assert other.returncode == 2
    assert "other settings" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digitz"], "did you mean 'digits'"),
        (["digits", "--architecture", "3 exq(0.6) gauss2"], "did you mean 'exp'"),
        (["digits", "--architecture", "ckn-65-256"], "did you mean 'ckn-64-256'"),
        (["digits", "--architecture", "9 exp(0.6) -"], "patch of at most 8"),
        (["digits", "--filters", "8;16"], "filters: expected positive whole numbers"),
        (["digits", "--filters", "8"], "filters: expected 2"),
        (["digits", "--loss", "hinge"], "loss: expected one of"),
        (["digits", "--train", "5"], "train: expected 10"),
        (["digits", "--held-out", "1.5"], "held-out: expected a share"),
        (["digits", "--device", "gpu"], "device: expected one torch can use"),
        (["digits", "--seeds", "0"], "seeds: expected at least 1"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    from hilbertnet import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hilbertnet", "fit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.*"))


def test_an_unwritable_folder_is_one_message(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    result = run("fit", "digits", *SMALL, "--out", "file/inside", cwd=tmp_path)
    assert result.returncode == 2
    assert "Not a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_shows_examples_that_run(capsys, monkeypatch):
    from hilbertnet import cli

    monkeypatch.setattr(sys, "argv", ["hilbertnet", "fit", "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert "hilbertnet fit digits" in capsys.readouterr().out

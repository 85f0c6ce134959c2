"""The command line on real data, and its refusals."""

import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

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


@pytest.mark.slow
def test_an_unwritable_folder_is_one_message(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    result = run("fit", "digits", *SMALL, "--out", "file/inside", cwd=tmp_path)
    assert result.returncode == 2
    assert "Not a directory" in result.stderr
    assert "Traceback" not in result.stderr


COMMANDS = ["fit", "predict", "gram", "report"]


def examples(command):
    """The examples that a command's help shows, as it shows them."""
    text = importlib.import_module(f"hilbertnet.cli.{command}").HELP
    return [line.strip() for line in text.splitlines() if line.strip().startswith("hilbertnet ")]


@pytest.mark.parametrize("command", [*COMMANDS, "reproduce"])
def test_help_shows_the_examples(command, capsys, monkeypatch):
    from hilbertnet import cli

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["hilbertnet", command, "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert examples(command)
    assert all(line in shown for line in examples(command))


@pytest.mark.slow
def test_the_examples_of_the_help_run(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("L", (20, 30), 80 * i).save(tmp_path / "photos" / f"{i}.png")
    proteins = [f">p{i} class={'ab'[i % 2]}\n{'ARNDC' * 9 if i % 2 else 'EQGHI' * 9}\n" for i in range(40)]
    (tmp_path / "proteins.fasta").write_text("".join(proteins), encoding="ascii")
    first = run("fit", "digits", *SMALL, "--out", "runs/digits", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    for line in [example for command in COMMANDS[::-1] for example in examples(command)]:
        line = line.replace(
            "hilbertnet fit digits --seeds 5 --out runs/digits", "hilbertnet fit digits --seeds 2 --out runs/more"
        )
        result = subprocess.run(
            line.replace("hilbertnet ", f"{sys.executable} -m hilbertnet ", 1),
            shell=True, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, f"{line}: {result.stderr}"
    for name in ("predictions.csv", "digits.npz", "ntk.npz", "digits.html", "runs/digits/report.html"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(
    "words", ["fit di", "predict runs m", "gram dig", "fit digits --loss log", "gram digits --kind n"]
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completion(words, shell, tmp_path):
    (tmp_path / "dig it").mkdir()
    (tmp_path / "mine.npz").touch()
    environment = {**os.environ, "_HILBERTNET_COMPLETE": f"complete_{shell}"}
    environment |= {"COMP_WORDS": f"hilbertnet {words}", "COMP_CWORD": str(len(words.split()))}
    environment |= {"_TYPER_COMPLETE_ARGS": f"hilbertnet {words}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment |= {"_TYPER_COMPLETE_WORD_TO_COMPLETE": words.split()[-1]}
    script = "import sys; sys.argv = ['hilbertnet']; from hilbertnet.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    expected = {
        "fit di": ["digits", "dig it/"],
        "predict runs m": ["mnist", "mine.npz"],
        "gram dig": ["digits", "dig it/"],
        "fit digits --loss log": ["logistic"],
        "gram digits --kind n": ["ntk"],
    }[words]
    for word in expected:
        assert word in result.stdout, result.stdout + result.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_a_folder_from_which_the_same_command_goes_on(tmp_path):
    arguments = ["fit", "digits", "--filters", "16,32", "--train", "600", "--out", "out"]
    unfinished = tmp_path / "out" / "unfinished.safetensors"
    command = [sys.executable, "-m", "hilbertnet", *arguments]
    for _ in range(3):  # on a busy machine the fit may be over before this process comes to interrupt it
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        ) as process:
            limit = time.monotonic() + 60
            while not unfinished.exists() and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
        if process.returncode != 0:
            break
        shutil.rmtree(tmp_path / "out")
    assert process.returncode == 130, out + error
    assert error == ("hilbertnet: interrupted; out keeps what was learned, and the same command goes on from there\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished.safetensors"]
    refused = run("predict", "out", "digits", cwd=tmp_path)
    assert refused.returncode == 2
    assert "found an interrupted one" in refused.stderr
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    straight = run(*arguments[:-1], "straight", cwd=tmp_path)
    assert straight.returncode == 0
    files = ["model.safetensors", "pictures.safetensors", "predictions.csv", "record.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    for name in files[:3]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_no_bar_is_drawn_where_standard_error_is_no_terminal(finished):
    _, result = finished
    assert result.stderr == ""
    assert "\r" not in result.stdout

"""Runs of plain networks and regularizers: ``fit --model --regularize``, and ``predict`` of what they leave."""

import csv
import io
import json
import re
import sys

import numpy as np
import pytest

from hilbertnet.data import partition
from hilbertnet.estimators import CKNClassifier, RegularizedClassifier, load_classifier
from hilbertnet.experiments import FitSettings, fit_run, predict_run
from hilbertnet.metrics import accuracy_interval
from hilbertnet.records import RunFolder, load_tensors
from hilbertnet.regularization.terms import TERMS

TEXT = "0.01*sn_penalty + sn(3)"
SMALL = {"train": 150, "model": "cnn", "regularize": TEXT, "epochs": 6, "batch_size": 16, "learning_rate": 0.1}
NETS = """
from torch import nn

def linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 1 if classes == 2 else classes))
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    fit_run(FitSettings("digits", **SMALL), folder, progress=False)
    return folder


def record_of(folder):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


# --- the run


def test_the_record_of_a_plain_network(plain, digits):
    record, parts = record_of(plain), partition(digits, train=150)
    assert record["model"] == "cnn"
    assert record["regularizer"] == "0.01*sn_penalty + sn(tau=3)"
    assert record["loss"] == "logistic"
    assert record["settings"]["regularize"] == TEXT
    assert record["settings"]["training"] == "supervised"
    assert len(record["history"]) == 6
    assert record["split"] == parts.to_dict()
    assert list(record["seconds"]) == ["load", "training", "test"]
    assert "trained on all of the training part, the last epoch kept" in record["protocol"]
    absent = {"architecture", "filters", "kappa_slopes", "lambda", "features", "validation_curve", "preprocessing"}
    assert not absent & record.keys()
    model = load_classifier(plain / "model.safetensors")
    assert isinstance(model, RegularizedClassifier)
    assert record["parameters"] == sum(parameter.numel() for parameter in model.module_.parameters())
    names = ["model.safetensors", "pictures.safetensors", "predictions.csv", "record.json"]
    assert sorted(path.name for path in plain.iterdir()) == names


def test_record_model_predictions_and_pictures_agree(plain, digits):
    record, parts = record_of(plain), partition(digits, train=150)
    model = load_classifier(plain / "model.safetensors")
    with (plain / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    predicted = model.predict(parts.test_x)
    assert [int(row["prediction"]) for row in rows] == predicted.tolist()
    assert record["test_accuracy"] == accuracy_interval(parts.test_y, predicted).value
    assert record["test_accuracy"] > 0.75
    _, header = load_tensors(plain / "pictures.safetensors", "Pictures")
    wrong = {int(parts.test[i]): str(predicted[i]) for i in np.flatnonzero(predicted != parts.test_y)}
    assert {one["example"]: one["prediction"] for one in header["mistakes"]}.items() <= wrong.items()


def test_the_run_is_that_of_the_estimator(plain, digits):
    parts = partition(digits, train=150)
    model = RegularizedClassifier("cnn", TEXT, epochs=6, batch_size=16, learning_rate=0.1, random_state=0)
    model.fit(parts.train_x, parts.train_y)
    again = load_classifier(plain / "model.safetensors")
    np.testing.assert_array_equal(model.decision_function(parts.test_x), again.decision_function(parts.test_x))


@pytest.mark.parametrize("model", ["cnn", "ckn"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(model, tmp_path):
    own = {"filters": (4, 8), "patches": 300, "loss": "ridge"} if model == "ckn" else {"batch_size": 30}
    settings = FitSettings("digits", train=60, model=model, regularize=TEXT, epochs=4, **own)
    fit_run(settings, tmp_path / "whole", progress=False)
    counted = []

    def stop(done, total):
        counted.append(total)
        if counted[-3:] == [4, 4, 4]:  # the third epoch of four
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(settings, tmp_path / "run", progress=stop)
    assert not RunFolder(tmp_path / "run").finished
    fit_run(settings, tmp_path / "run", progress=False)
    for name in ("predictions.csv", "model.safetensors", "pictures.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_a_kernel_network_with_a_regularizer(tmp_path):
    settings = FitSettings(
        "digits", filters=(6, 12), train=150, patches=500, loss="ridge", regularize="delta(0.2, screen=2)", epochs=2
    )
    assert settings.training == "supervised"
    record = fit_run(settings, tmp_path, progress=False)
    assert (record["model"], record["regularizer"]) == ("ckn", "delta(radius=0.2, screen=2)")
    assert record["filters"] == [6, 12]
    assert "filters and head then trained on all of the training part, the last epoch kept" in record["protocol"]
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (2, 128, 0.03)
    assert "head fitted on all" not in record["protocol"]
    model = load_classifier(tmp_path / "model.safetensors")
    assert isinstance(model, CKNClassifier)
    assert record["parameters"] == 6 * 9 + 12 * 9 * 6 + 10 * (12 * 4 * 4 + 1)
    assert record["test_accuracy"] > 0.8


# --- every kind of data


def test_labels_that_are_words_in_a_file(few, tmp_path):
    record = fit_run(FitSettings(str(few), **{**SMALL, "train": None}), tmp_path / "run", progress=False)
    file = io.StringIO(newline="")
    found = predict_run(tmp_path / "run", few, file, progress=False)
    assert found.seen
    assert sum(found.counts.values()) == 12
    assert set(record["data"]["classes"]) == {"a, b", "ω", "=c", "d"}


def test_a_folder_of_coloured_pictures(tmp_path, write_pictures, hilbertnet):
    pixels = np.random.RandomState(0).randint(0, 120, (12, 9, 7, 3))
    pixels[6:] += 120
    names = [f"{'dark' if i < 6 else 'light'}/{i}.png" for i in range(12)]
    folder = write_pictures(tmp_path / "pictures", pixels, names)
    code, out, err = hilbertnet(
        "fit", folder, "--model", "cnn", "--regularize", "grad", "--epochs", 20, "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert "regularizer: grad\n" in out
    code, out, err = hilbertnet("predict", tmp_path / "run", folder)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 12
    assert record_of(tmp_path / "run")["data"]["shape"] == [3, 9, 7]


# --- the command line


def test_fit_and_predict_with_a_network_of_the_users(tmp_path, monkeypatch, hilbertnet):
    (tmp_path / "nets_of_a_user.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])  # as a script sees it
    monkeypatch.delitem(sys.modules, "nets_of_a_user", raising=False)
    where = tmp_path / "run"
    code, out, err = hilbertnet(
        "fit", "digits", "--model", "nets_of_a_user:linear", "--train", 100, "--epochs", 30, "--weight-decay", 1e-3,
        "--out", where,
    )  # fmt: skip
    assert code == 0, err
    assert "model: nets_of_a_user:linear, 650 parameters" in out
    assert re.search(r"seed 0: \d\d\.\d\d% \[.*\(100 for training\), \d", out)
    assert "lambda" not in out
    code, out, err = hilbertnet("predict", where, "digits")
    assert code == 0, err
    assert len(list(csv.DictReader(io.StringIO(out)))) == 1797
    assert record_of(where)["settings"]["weight_decay"] == 1e-3
    assert record_of(where)["regularizer"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "cnn", "--regularize", "delte(1.0)"], "did you mean 'delta'"),
        (["--regularize", "0.5*sn(1.5)"], "a constraint has no weight"),
        (["--model", "cnm"], "did you mean 'cnn'"),
        (["--model", "ckm"], "model: expected one of ckn, cnn, motif, vgg, resnet or"),
        (["--model", "no_such:function"], "model: 'no_such:function' cannot be imported"),
        (["--model", "vgg"], "model: vgg takes square images of a multiple of 32 pixels, got 1 x 8 x 8"),
        (["--model", "cnn", "--filters", "8,16"], "filters: only for model ckn"),
        (["--model", "cnn", "--architecture", "3 exp(0.6) -"], "architecture: only for model ckn"),
        (["--model", "cnn", "--preprocess", "contrast"], "preprocessing: only for model ckn"),
        (["--model", "cnn", "--loss", "ridge"], "loss: only for model ckn; cnn takes logistic, got 'ridge'"),
        (["--model", "cnn", "--training", "unsupervised"], "training: only for model ckn; cnn takes supervised"),
        (["--weight-decay", "0.1"], "weight-decay: only for models other than ckn"),
        (["--training", "unsupervised", "--regularize", "grad"], "regularizer: only for training='supervised'"),
        (
            ["--preprocess", "contrast", "--regularize", "pgd_l2(0.3)"],
            "pgd_l2 keeps images in [0, 1], where preprocessed",
        ),
        (["--model", "cnn", "--epochs", "0"], "epochs: expected a whole number of at least 1"),
        (["--model", "cnn", "--learning-rate", "1e9", "--epochs", "20"], "lower the learning rate"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    code, _, err = hilbertnet("fit", "digits", "--train", 60, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("record.json"))


def test_typos_are_pointed_at(hilbertnet):
    code, _, err = hilbertnet("fit", "digits", "--regularize", "delta(1.0) + snn(1.5)")
    assert code == 2
    _, shown, pointer = err.rstrip("\n").split("\n")
    assert pointer.index("^") - shown.index("delta") == 13


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_the_terms(hilbertnet, word):
    code, out, _ = hilbertnet("fit", word)
    assert code == 0
    assert "--regularize" in out
    listed = out[out.index("Terms of --regularize") :]
    assert all(re.search(rf"^  {name}\b", listed, re.MULTILINE) for name in TERMS)

"""Sequences, 1-D signals and rows through the whole command line: regularized fits, predict, norms, attack, report."""

import csv
import json
import re
import sys

import numpy as np
import pytest

from hilbertnet.data import DNA
from hilbertnet.estimators import load_classifier
from hilbertnet.records import load_tensors

LETTERS, LENGTH = np.array(list("ACGT")), 24
MOTIFS = {"heat": "GATTACA", "cold": "CCGTTGG"}


def texts(n, seed=0):
    """Random sequences of 12 to 24 letters, each with the motif of its class somewhere, and the classes."""
    rng, found = np.random.RandomState(seed), []
    for i in range(n):
        name = ("cold", "heat")[i % 2]
        letters = list(rng.choice(LETTERS, rng.randint(12, LENGTH + 1)))
        letters = letters if i else letters + ["A"] * (LENGTH - len(letters))  # one has all the length
        start = rng.randint(len(letters) - 6)
        letters[start : start + 7] = MOTIFS[name]
        found.append((f"s{i}", name, "".join(letters)))
    return found


def write_fasta(path, records, header="{0} class={1}"):
    path.write_text("".join(f">{header.format(name, label)}\n{text}\n" for name, label, text in records))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data of every kind: what fit is given."""
    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.RandomState(0)
    y = np.arange(80) % 2
    rows, signals = 3 * rng.randn(80, 5), rng.randn(80, 2, 20)
    rows[:, 1] += 12 * y
    signals[:, 0, 3:9] += 2 * y[:, None]
    np.savez(folder / "rows.npz", x=rows, y=y)
    np.savez(folder / "signals.npz", x=signals, y=y)
    write_fasta(folder / "all.fasta", texts(80))
    (folder / "classes").mkdir()
    for name in MOTIFS:
        write_fasta(folder / "classes" / f"{name}.fa", [one for one in texts(80) if one[1] == name], header="{0}")
    return {
        "rows": [folder / "rows.npz", "--model", "cnn"],
        "signals": [folder / "signals.npz", "--axes", "1", "--model", "cnn"],
        "sequences": [folder / "all.fasta", "--model", "motif"],
        "classes": [folder / "classes", "--model", "motif"],
    }


QUICK = ("--epochs", "20", "--batch-size", "16", "--regularize", "0.01*grad_l2 + 0.001*delta(0.1, screen=4, shared=1)")
SHAPES = {"rows": (5, 1), "signals": (2, 20), "sequences": (4, LENGTH), "classes": (4, LENGTH)}


@pytest.fixture(scope="module")
def run_of(made, tmp_path_factory):
    """A finished run by the kind of its data, fitted through the command line."""
    from hilbertnet import cli

    found = {}

    def run(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp("runs") / kind
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
                patch.setattr(sys, "argv", ["hilbertnet", "fit", *map(str, made[kind]), *QUICK, "--out", str(folder)])
                with pytest.raises(SystemExit) as stopped:
                    cli.main()
            assert not stopped.value.code
            found[kind] = folder
        return found[kind]

    return run


def record_of(folder):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", SHAPES)
def test_fit_with_a_regularizer_on_every_kind_of_data(kind, run_of):
    record, model = record_of(run_of(kind)), load_classifier(run_of(kind) / "model.safetensors")
    assert model.signal_shape_ == SHAPES[kind]
    assert record["data"]["kind"] == ("sequences" if kind == "classes" else kind)
    assert record["regularizer"] == "0.01*grad_l2 + 0.001*delta(radius=0.1, screen=4, shared=1)"
    assert record["test_accuracy"] > 0.8


@pytest.mark.parametrize("kind", SHAPES)
def test_predictions_of_the_same_data_are_those_of_the_run(kind, run_of, made, hilbertnet, tmp_path):
    code, _, err = hilbertnet("predict", run_of(kind), made[kind][0], "--out", tmp_path / "p.csv")
    assert code == 0, err
    own, all_of_them = (
        {row["example"]: row["prediction"] for row in csv.DictReader(path.read_text().splitlines())}
        for path in (run_of(kind) / "predictions.csv", tmp_path / "p.csv")
    )
    assert own.items() <= all_of_them.items()
    assert len(all_of_them) == 80
    assert ("s0" in all_of_them) == (kind in ("sequences", "classes"))  # sequences are called by their names


@pytest.mark.parametrize("kind", SHAPES)
def test_norms_attack_and_report(kind, run_of, hilbertnet):
    folder = run_of(kind)
    code, out, err = hilbertnet("norms", folder, "--examples", 6, "--radii", "0.1,0.5")
    assert code == 0, err
    assert "lower bound from" in out
    code, _, err = hilbertnet("attack", folder, "--examples", 6, "--radii", "0.1,2", "--attacks", "fgm,fmn")
    assert code == 0, err
    threat = json.loads((folder / "attack.json").read_text())["threats"][0]
    assert threat["clean"]["value"] >= threat["attacked"][0]["value"] >= threat["attacked"][1]["value"]
    assert threat["threat"].endswith("in [0, 1]") == (kind in ("sequences", "classes"))  # numbers of any size know none
    code, _, err = hilbertnet("report", folder)
    assert code == 0, err
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert ("a row for each letter (ACGT, from above)" in page) == (kind in ("sequences", "classes"))
    assert ("a row for each channel" in page) == (kind == "signals")
    assert 'href="#maps"' not in page


def test_mistakes_are_told_by_name_and_letters(run_of, made):
    path = run_of("sequences") / "pictures.safetensors"
    tensors, header = load_tensors(path, "Pictures")
    assert tensors == {}
    spelled = {name: text for name, _, text in texts(80)}
    for one in header["mistakes"]:
        assert one["letters"] == spelled[one["name"]]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("sequences", "tau", "tau: expected images or signals, which can be deformed, got one-hot letters"),
        ("rows", "dtau", "dtau: expected images .* got rows without positions"),
        ("signals", "pgd_l2(0.1)", r"pgd_l2: x_train: expected signals in \[0, 1\], .* use clip=none"),
    ],
)
def test_terms_that_mean_nothing_for_the_data(kind, text, message, made, hilbertnet, tmp_path):
    code, _, err = hilbertnet("fit", *made[kind], "--regularize", text, "--out", tmp_path / "run")
    assert code == 2
    (line,) = err.splitlines()
    assert re.search(message, line), line


def test_a_kernel_network_of_sequences(made, hilbertnet, tmp_path):
    code, out, err = hilbertnet("fit", made["sequences"][0], "--patches", "500", "--loss", "ridge", "--out", tmp_path)
    assert code == 0, err
    assert "all.fasta: 80 sequences of 4 letters on 24 positions, 2 classes" in out
    assert "architecture: 10 exp(0.6) global" in out
    code, _, err = hilbertnet("report", tmp_path)
    assert code == 0, err


def test_sequences_without_classes_and_longer_ones(run_of, hilbertnet, tmp_path):
    motif, folder = MOTIFS["heat"], run_of("sequences")
    unknown = write_fasta(tmp_path / "new.fa", [("a", "", motif), ("b", "", MOTIFS["cold"])], header="{0}")
    code, out, err = hilbertnet("predict", folder, unknown)
    assert code == 0, err
    assert [row["prediction"] for row in csv.DictReader(out.splitlines())] == ["heat", "cold"]
    longer = write_fasta(tmp_path / "longer.fa", [("a", "", motif + "A" * 40)], header="{0}")
    code, _, err = hilbertnet("predict", folder, longer)
    assert code == 2
    assert "longer.fa: expected sequences of at most 24 letters" in err
    assert "got one of 47; --resize cuts what is longer" in err
    code, out, err = hilbertnet("predict", folder, longer, "--resize")
    assert code == 0, err
    assert next(csv.DictReader(out.splitlines()))["prediction"] == "heat"


def test_a_run_of_cut_sequences_cuts_others(made, hilbertnet, tmp_path):
    code, _, err = hilbertnet("fit", *made["sequences"], "--length", 14, "--epochs", 1, "--out", tmp_path / "run")
    assert code == 0, err
    code, _, err = hilbertnet("predict", tmp_path / "run", made["sequences"][0], "--out", tmp_path / "p.csv")
    assert code == 0, err
    assert load_classifier(tmp_path / "run" / "model.safetensors").signal_shape_ == (4, 14)


def test_another_alphabet_is_read_with_the_run_s(run_of, hilbertnet, tmp_path):
    """Letters that look like a protein's are refused by a run of DNA, and not taken for other symbols."""
    other = write_fasta(tmp_path / "protein.fa", [("a", "", "MKVLA")], header="{0}")
    code, _, err = hilbertnet("predict", run_of("sequences"), other)
    assert code == 2
    assert f"expected symbols of the alphabet {DNA.symbols!r}" in err


@pytest.mark.parametrize(
    ("fitted", "other", "message"),
    [
        ("signals", "sequences", "all.fasta: expected signals, as"),
        ("rows", "sequences", "all.fasta: expected rows, as"),
        ("sequences", "signals", "expected signals of 4 x 24 (channels, length), which"),
        ("sequences", "rows", "expected signals of 4 x 24 (channels, length), which"),
        ("signals", "rows", "(channels, length), which"),
    ],
)
def test_data_of_another_kind_are_refused(fitted, other, message, run_of, made, hilbertnet, tmp_path):
    for command in ("predict", "attack"):
        options = ("--out", tmp_path / "out") if command == "attack" else ()
        code, _, err = hilbertnet(command, run_of(fitted), made[other][0], *options)
        assert code == 2
        assert message in err or command == "attack"
        assert err.startswith("hilbertnet: ")


def test_other_data_to_attack_are_read_as_the_run_s_own(run_of, made, hilbertnet, tmp_path):
    more = write_fasta(tmp_path / "more.fa", texts(10, seed=1))
    wanted = ("--examples", 4, "--attacks", "fgm", "--out", tmp_path / "out")
    code, out, err = hilbertnet("attack", run_of("sequences"), more, *wanted)
    assert code == 0, err
    assert "more.fa: 10 sequences of 4 letters on 24 positions, 2 classes" in out
    code, _, err = hilbertnet("attack", run_of("signals"), made["signals"][0], *wanted)
    assert code == 0, err
    code, _, err = hilbertnet("attack", run_of("sequences"), "--length", 9, *wanted)
    assert code == 2
    assert "length: only beside DATA" in err


def test_kernels_of_sequences(made, hilbertnet, tmp_path):
    out = tmp_path / "K.npz"
    code, _, err = hilbertnet(
        "gram", made["sequences"][0], "--kernel", "7 exp(0.6) global", "--examples", 6, "--out", out
    )
    assert code == 0, err
    with np.load(out) as found:
        assert found["gram"].shape == (6, 6)
        assert np.linalg.eigvalsh(found["gram"]).min() > 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "sequences",
            ("--augment", "crop(1)"),
            "augment: only for images, got 'crop(1)' for the sequences of all.fasta",
        ),
        ("rows", ("--preprocess", "zca", "--model", "ckn"), "preprocess: only for images, got 'zca' for the rows of"),
        ("sequences", ("--size", "3x3"), "size: only for a folder of images, which"),
        ("rows", ("--axes", "2"), "x: expected images (n, height, width)"),
    ],
)
def test_what_is_done_to_images_only(kind, options, message, made, hilbertnet, tmp_path):
    code, _, err = hilbertnet("fit", *made[kind], *options, "--out", tmp_path / "run")
    assert code == 2
    assert message in err


@pytest.mark.parametrize("kind", ["sequences", "rows"])
def test_deformations_do_not_attack_letters_and_rows(kind, run_of, hilbertnet, tmp_path):
    code, _, err = hilbertnet("attack", run_of(kind), "--attacks", "deformation", "--out", tmp_path / "out")
    assert code == 2
    assert f"attacks: deformation is one of images and signals, got {kind}" in err


def test_stability_of_signals(made, hilbertnet, tmp_path):
    data = (made["signals"][0], "--axes", 1, "--images", 4, "--draws", 2)
    code, out, err = hilbertnet("stability", *data, "--out", tmp_path / "out")
    assert code == 0, err
    assert "to other images of same label" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curves.svg", "record.json", "table.txt"]


@pytest.mark.parametrize("kind", ["sequences", "rows"])
def test_what_cannot_be_deformed_has_no_stability(kind, made, hilbertnet):
    code, _, err = hilbertnet("stability", made[kind][0])
    assert code == 2
    assert f"DATA: expected images or signals, which can be deformed, got {kind}" in err

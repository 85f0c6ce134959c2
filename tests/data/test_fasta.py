"""Sequences with classes, from FASTA files and folders of them: loaded, and streamed with and without classes."""

import gzip

import numpy as np
import pytest

from hilbertnet.data import DNA, PROTEIN, load, stream
from hilbertnet.data.sequences import RNA, Alphabet, guess_alphabet, parse_alphabet

NAMED = ">one class=b first\nGATTACA\n>two label=a\nACGTN\nACGT\n>three x class=b\nC\n"
SCOP = ">d1dlwa_ a.1.1.1 (A:) Protein\nSLFEQ\n>d2 b.1.1.2 {Worm}\nMKV\n>d3 a.4.5 other\nMK\n"


@pytest.fixture
def write(tmp_path):
    def to(text, name="some.fasta"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return to


def test_classes_that_headers_name(write):
    data = load(write(NAMED))
    assert str(data) == "some.fasta: 3 sequences of 4 letters on 9 positions, 2 classes"
    assert (data.kind, data.alphabet, data.class_names) == ("sequences", DNA, ("a", "b"))
    assert data.y.tolist() == [1, 0, 1]
    assert data.names == ("one", "two", "three")
    expected = DNA.encode(["GATTACA", "ACGTNACGT", "C"])
    np.testing.assert_array_equal(data.x, expected.x)
    said = data.to_dict()
    assert (said["kind"], said["alphabet"], said["shape"]) == ("sequences", "ACGT+NRYSWKMBDHV", [4, 9])
    assert parse_alphabet(said["alphabet"]) == DNA


@pytest.mark.parametrize("name", ["some.fasta", "a.FA", "b.faa.gz", "named.txt", "without"])
def test_it_is_fasta_by_its_name_or_by_its_first_letter(write, name):
    assert load(write(NAMED, name)).class_names == ("a", "b")


def test_a_pattern_finds_the_class(write):
    path = write(SCOP)
    data = load(path, label=r"^\S+ (\w)\.")
    assert (data.class_names, data.y.tolist(), data.alphabet) == (("a", "b"), [0, 1, 0], PROTEIN)
    assert load(path, label=r"\b[ab]\.\d").class_names == ("a.1", "a.4", "b.1")
    with pytest.raises(ValueError, match=r"label: .* a regular expression .*some.fasta has none in 'd1dlwa_ a.1.1.1"):
        load(path)
    with pytest.raises(ValueError, match=r"label: expected a class in the header of every .* got sequence 2 \(d3 a.4"):
        load(path, label=r"(\d\.\d\.\d)")
    with pytest.raises(ValueError, match=r"label: expected a class in the header of every sequence .* sequence 1"):
        load(path, label=r"d\d(dlwa)?")  # an empty group is no class


def test_a_folder_has_a_file_for_each_class(write, tmp_path):
    write(">1\nMKV\n>2\nAA\n", "both/yes.fasta")
    write(">3\nLLLL\n", "both/no.fa.gz")
    (tmp_path / "both" / ".hidden").write_text("x")
    data = load(tmp_path / "both")
    assert str(data) == "both: 3 sequences of 20 letters on 4 positions, 2 classes"
    assert (data.class_names, data.y.tolist(), data.names) == (("no", "yes"), [0, 1, 1], ("3", "1", "2"))
    with pytest.raises(ValueError, match=r"label: .*both has one file for each class, got 'x' too"):
        load(tmp_path / "both", label="x")
    write("", "both/photo.png")
    with pytest.raises(ValueError, match="expected images in sub-folders"):
        load(tmp_path / "both")  # not of sequences


def test_letters_and_lengths_that_are_asked_for(write):
    path = write(">1 class=a\nACGT\n>2 class=b\nACNA\n")
    assert load(path, alphabet="protein").x.shape == (2, 20, 4)
    assert load(path, alphabet="ACGT+N", length=6).x[1, :, 2].tolist() == [0.25] * 4
    assert load(path, length=2).x.shape == (2, 4, 2)  # cut
    with pytest.raises(
        ValueError, match=r"some.fasta: sequences: expected symbols of .* got 'N' at position 2 of .* \(2"
    ):
        load(path, alphabet="ACGT")


def test_what_letters_look_like():
    assert guess_alphabet(["ACGT", "nnac"]) is DNA
    assert guess_alphabet(["ACGU"]) is RNA
    assert guess_alphabet(["ACGTU"]) is guess_alphabet(["MKV"]) is PROTEIN
    assert parse_alphabet("HP") == Alphabet("HP")
    assert parse_alphabet(str(RNA)) == RNA
    with pytest.raises(ValueError, match=r"symbols, unknown: expected no '\+'"):
        Alphabet("A+B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a FASTA file, got an empty file"),
        ("ACGT\n", "line 1: expected a FASTA file, whose first line starts with '>'"),
        (">a class=x\n", "line 1: expected a sequence after"),
        (">a class=x\nAC1\n", "line 2: expected letters"),
    ],
)
def test_what_is_no_fasta_is_refused_by_name(write, text, message):
    with pytest.raises(ValueError, match=rf"some\.fasta.*{message}"):
        load(write(text))


@pytest.mark.parametrize("option", [{"size": (4, 4)}, {"channels": 1}, {"axes": 1}])
def test_what_is_for_images_is_refused(write, option):
    (name,) = option
    with pytest.raises(ValueError, match=rf"^{name}: only for .*, which .*some.fasta is not"):
        load(write(NAMED), **option)


# --- streams


def test_a_stream_is_what_is_loaded(write):
    data, examples = load(write(NAMED)), stream(write(NAMED))
    assert (examples.name, examples.total, examples.shape, examples.classes) == ("some.fasta", 3, (4, 9), ("a", "b"))
    batches = list(examples.batches(2))
    assert [name for batch in batches for name in batch.names] == list(data.names)
    assert [label for batch in batches for label in batch.labels] == ["b", "a", "b"]
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), data.x)


def test_a_stream_needs_no_classes(write):
    examples = stream(write(SCOP), length=4, alphabet="protein")
    assert (examples.labelled, examples.shape) == (False, (20, 4))
    (batch,) = examples.batches()
    assert (batch.labels, batch.names) == (None, ["d1dlwa_", "d2", "d3"])
    assert stream(write(SCOP), label=r" (\w)\.").classes == ("a", "b")
    with pytest.raises(ValueError, match=r"part: some.fasta has no official test set, got 'test'"):
        stream(write(SCOP), part="test")


def test_rows_and_signals_are_streamed(tmp_path):
    x = np.random.RandomState(0).randn(5, 2, 3)
    np.savez(tmp_path / "signals.npz", x=x)
    np.savez(tmp_path / "rows.npz", x=x[:, 0], y=np.arange(5))
    signals, rows = stream(tmp_path / "signals.npz", axes=1), stream(tmp_path / "rows.npz")
    assert (signals.shape, rows.shape, rows.labelled) == ((2, 3), (3, 1), True)
    np.testing.assert_array_equal(next(signals.batches()).x, x.astype(np.float32))

"""Alphabets, padding and FASTA files: what is read is what was written, and what is wrong is named."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.data.sequences import DNA, PROTEIN, Alphabet, Sequences, read_fasta

# ---------------------------------------------------------------------------------------------------------- alphabets


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ACGTacgt", min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 4))
def test_known_symbols_come_back(texts, more):
    longest = max(map(len, texts))
    data = DNA.encode(texts, length=longest + more)
    assert data.x.shape == (len(texts), 4, longest + more)
    assert data.x.dtype == np.float32
    assert data.lengths.tolist() == [len(text) for text in texts]
    assert np.array_equal(data.x.sum(axis=1), data.mask)
    for text, row, length in zip(texts, data.numbers, data.lengths, strict=True):
        assert "".join("ACGT"[number] for number in row[:length]) == text.upper()
        assert not row[length:].any()


def test_unknown_symbols_are_uniform_and_keep_their_place():
    data = PROTEIN.encode(["AX*", "W"])
    np.testing.assert_allclose(data.x[0, :, 1:3], 1 / 20)
    assert data.numbers.tolist() == [[0, 20, 20], [18, 0, 0]]
    assert data.mask.tolist() == [[True] * 3, [True, False, False]]
    assert all(PROTEIN.encode([letter]).x[0, 0, 0] == np.float32(1 / 20) for letter in "BZXUOJ*bzxuoj")
    assert all(DNA.encode([letter]).x[0, 0, 0] == 0.25 for letter in "NRYSWKMBDHV")


def test_letters_come_back():
    data = PROTEIN.encode(["MKVX*", "w"])
    assert [PROTEIN.decode(x) for x in data.x] == ["MKVBB", "W"]
    assert Alphabet("AB").decode(np.full((2, 1), 0.5, np.float32)) == "?"


def test_names_are_kept_or_numbers():
    assert DNA.encode([("first", "AC"), ("second", "G")]).names == ("first", "second")
    assert DNA.encode(iter(["AC", "G"])).names == ("0", "1")
    assert len(DNA.encode(["AC", "G"])) == 2


def test_alphabets_are_values():
    assert Alphabet("ACGT", "N") == Alphabet("ACGT", "N") != Alphabet("ACGT")
    assert len({Alphabet("AB"), Alphabet("AB")}) == 1
    assert Alphabet("ΑΒ").encode(["β"]).numbers.tolist() == [[1]]


def test_what_is_too_long_is_cut_only_if_asked():
    data = DNA.encode(["ACGT", "A"], length=2, truncate=True)
    assert data.lengths.tolist() == [2, 1]
    assert data.numbers.tolist() == [[0, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"^length: expected at least 4, the length of sequence 1 \(b\), got 2"):
        DNA.encode([("a", "AC"), ("b", "ACGT")], length=2)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "^sequences: expected at least one sequence, got none"),
        (["AC", ""], "^sequences: expected at least one symbol, got an empty sequence 1$"),
        ([("x", "")], r"^sequences: expected at least one symbol, got an empty sequence 0 \(x\)"),
        (["AC", "AC-G"], "^sequences: expected symbols of the alphabet 'ACGT' .*got '-' at position 2 of sequence 1$"),
        ([("x", "A\nC")], r"got '\\n' at position 1 of sequence 0 \(x\)"),
        ("ACGT", "^sequences: expected a list of texts"),
        (3, "^sequences: expected a list of texts"),
        ([b"AC"], "^sequences: expected texts, or pairs of name and text, got b'AC' at 0"),
        ([("a", "b", "c")], "^sequences: expected texts, or pairs"),
        ([["AC"]], "^sequences: expected texts, or pairs"),
    ],
)
def test_sequences_that_cannot_be_encoded_are_named(sequences, message):
    with pytest.raises(ValueError, match=message):
        DNA.encode(sequences)


@pytest.mark.parametrize("length", [0, -1, 2.0, True, "3"])
def test_lengths_are_whole_numbers(length):
    with pytest.raises(ValueError, match="^length: expected a whole number of at least 1, got"):
        DNA.encode(["A"], length=length)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "^symbols: expected a text"),
        ((4,), "^symbols: expected a text"),
        (("AC", None), "^unknown: expected a text"),
        (("ACa",), "^symbols: expected characters that are no blanks, in upper case, got 'a'"),
        (("A C",), "^symbols: .* got ' '"),
        (("ACA",), "^symbols, unknown: expected every character once, got 'A' more than once"),
        (("AC", "C"), "^symbols, unknown: .*got 'C'"),
    ],
)
def test_alphabets_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        Alphabet(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, r"^x: expected sequences \(n, symbols, length\), got shape \(2, 3\)"),
        ({"lengths": np.array([1])}, "^lengths, names: expected 2 of each"),
        ({"names": ("a",)}, "^lengths, names: expected 2 of each"),
        ({"lengths": np.array([0, 1])}, "^lengths: expected numbers from 1 to 3, got 0 to 1"),
        ({"lengths": np.array([4, 1])}, "^lengths: expected numbers from 1 to 3, got 1 to 4"),
    ],
)
def test_sequences_that_do_not_agree(change, message):
    good = {"x": np.zeros((2, 4, 3), np.float32), "lengths": np.array([1, 3]), "names": ("a", "b")}
    with pytest.raises(ValueError, match=message):
        Sequences(**good | change)


# -------------------------------------------------------------------------------------------------------------- files

RECORDS = [("sp|P1 first, μ", "MKVL*A"), ("second", "ac-gt")]
TEXT = "\n>sp|P1 first, μ\nMKV\n\nL*\tA\n> second  \nac- gt"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_records_are_read_whatever_the_line_ends(tmp_path, end, packed, start):
    content = start + TEXT.replace("\n", end).encode()
    path = tmp_path / ("a.fasta.gz" if packed else "a.fasta")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_fasta(path) == read_fasta(str(path)) == RECORDS


def test_records_are_encoded_under_their_names(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(">one\nACGT\n>two\nAC\n")
    data = DNA.encode(read_fasta(path))
    assert data.names == ("one", "two")
    assert data.lengths.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a FASTA file, got an empty file"),
        (b"\n\r\n  \n", "expected a FASTA file, got an empty file"),
        (b"\nsome,table\n", "line 2: expected a FASTA file, whose first line starts with '>', got 'some,table'"),
        (b">a\n>b\nAC", "line 1: expected a sequence after '>a', got none"),
        (b">a\nAC\n>b\n\n", "line 3: expected a sequence after '>b', got none"),
        (b">a\nAC\n>\nAC", "line 3: expected a name after '>', got none"),
        (b">a\nAC\nA1C", "line 3: expected letters, .* of a sequence, got '1' in 'A1C'"),
        (">a\nAÉ".encode(), "line 2: expected letters"),
        (b">a\nA\x00C", "line 2: expected a FASTA file, which is text, got other bytes"),
        (b"\x89PNG\r\n\x1a\n\x00", "line 1: expected a FASTA file, which is text, got other bytes"),
        (gzip.compress(b">a\n" + bytes(range(65, 91)) * 50, mtime=0)[:-9], "a gzip file that is cut or corrupted"),
    ],
)
def test_files_that_are_no_fasta_are_named_with_the_line(tmp_path, content, message):
    path = tmp_path / "a.fasta"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.fasta.*{message}"):
        read_fasta(path)


def test_absent_files_and_folders(tmp_path):
    with pytest.raises(ValueError, match="absent: expected a FASTA file, got no such file"):
        read_fasta(tmp_path / "absent")
    with pytest.raises(ValueError, match="expected a FASTA file, got a folder"):
        read_fasta(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_read_or_refused_with_one_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.fasta"
    path.write_bytes(content)
    records, message = [], path.name
    try:
        records = read_fasta(path)
    except ValueError as error:
        message = str(error)
    assert path.name in message
    assert all(name and text for name, text in records)

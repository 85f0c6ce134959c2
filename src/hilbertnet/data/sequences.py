"""Sequences of symbols: alphabets, one-hot encoding with padding, and FASTA files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.dataset import printable
from hilbertnet.data.files import open_unzipped
from hilbertnet.data.memory import check_fits
from hilbertnet.signals import is_count
from hilbertnet.text import nearest

__all__ = [
    "ALPHABETS",
    "DNA",
    "PROTEIN",
    "RNA",
    "Alphabet",
    "Sequences",
    "guess_alphabet",
    "parse_alphabet",
    "read_fasta",
]

_SHOWN = 60  # characters of a name or a line in a message


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences as signals, padded with zeros to one length.

    Parameters
    ----------
    x
        One-hot vectors, float32, shape (n, symbols, length), zero past the end of each sequence.
    lengths
        How many positions each sequence has, int64, shape (n,).
    names
        What the sequences are called, n of them.

    Raises
    ------
    ValueError
        If shapes do not agree, or a length is not from 1 to the padded one.
    """

    x: NDArray[np.float32]
    lengths: NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or 0 in self.x.shape:
            raise ValueError(f"x: expected sequences (n, symbols, length), got shape {self.x.shape}")
        n, _, length = self.x.shape
        if self.lengths.shape != (n,) or len(self.names) != n:
            got = f"{self.lengths.shape} and {len(self.names)}"
            raise ValueError(f"lengths, names: expected {n} of each, one for each sequence, got {got}")
        if not (self.lengths.min() >= 1 and self.lengths.max() <= length):
            got = f"{self.lengths.min()} to {self.lengths.max()}"
            raise ValueError(f"lengths: expected numbers from 1 to {length}, got {got}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True up to the end of each sequence, shape (n, length)."""
        return np.arange(self.x.shape[2]) < self.lengths[:, None]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Numbers of the symbols, int64, shape (n, length): `symbols` for an unknown one, 0 past the end."""
        known = self.x.max(axis=1) == 1
        return np.where(known | ~self.mask, self.x.argmax(axis=1), self.x.shape[1])


@dataclass(frozen=True)
class Alphabet:
    """The symbols that sequences are made of; lower-case letters count as their capitals.

    Parameters
    ----------
    symbols
        One character for each channel.
    unknown
        Characters that stand for some symbol, it is not known which. Their vector is uniform, 1 / symbols in every
        channel: the mean over what they may stand for, so that its inner product with any symbol is the mean of the
        symbols', and unlike zeros, which are what lies past the end, it keeps its place in the sequence.

    Raises
    ------
    ValueError
        If there is no symbol, or characters are repeated, blank or in lower case.

    Examples
    --------
    >>> data = Alphabet("ACGT", unknown="N").encode(["gat", "NA"])
    >>> data.x[0].argmax(axis=0).tolist(), data.x[1].tolist()
    ([2, 0, 3], [[0.25, 1.0, 0.0], [0.25, 0.0, 0.0], [0.25, 0.0, 0.0], [0.25, 0.0, 0.0]])
    >>> data.mask.tolist()
    [[True, True, True], [True, True, False]]
    """

    symbols: str
    unknown: str = ""
    _rows: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("symbols", "unknown"):
            value = getattr(self, name)
            if not isinstance(value, str) or (name == "symbols" and not value):
                raise ValueError(f"{name}: expected a text of symbols such as 'ACGT', got {value!r}")
            for symbol in value:
                if not symbol.isprintable() or symbol.isspace() or symbol != symbol.upper():
                    raise ValueError(f"{name}: expected characters that are no blanks, in upper case, got {symbol!r}")
        letters = self.symbols + self.unknown
        if "+" in letters:
            raise ValueError(f"symbols, unknown: expected no '+', which stands between the two in texts, got {self!r}")
        if len(set(letters)) < len(letters):
            twice = next(letter for letter in letters if letters.count(letter) > 1)
            raise ValueError(f"symbols, unknown: expected every character once, got {twice!r} more than once")
        rows = {symbol: min(row, len(self.symbols)) for row, symbol in enumerate(letters)}
        small = {symbol.lower(): row for symbol, row in rows.items()}
        object.__setattr__(self, "_rows", {**small, **rows})

    def __str__(self) -> str:
        """The letters, as `parse_alphabet` reads them."""
        return f"{self.symbols}+{self.unknown}" if self.unknown else self.symbols

    def encode(
        self, sequences: Iterable[str | tuple[str, str]], *, length: int | None = None, truncate: bool = False
    ) -> Sequences:
        """One-hot vectors, padded with zeros.

        Parameters
        ----------
        sequences
            Texts, whose names are then their numbers from 0, or pairs of name and text, as `read_fasta` gives them.
        length
            To pad to; default the length of the longest.
        truncate
            Cut what is longer than `length`, instead of failing.

        Returns
        -------
        Sequences
            In the order given.

        Raises
        ------
        ValueError
            If there is no sequence, one is empty or longer than `length`, or has a character that is not in the
            alphabet; the message names sequence and position.
        """
        pairs = _pairs(sequences)
        _check_length(pairs, length, truncate)
        rows = [self._numbers(number, *pair) for number, pair in enumerate(pairs)]
        length = max(map(len, rows)) if length is None else length
        check_fits((len(rows), len(self.symbols), length), "sequences", "encode fewer, or shorter ones")
        # one row for each symbol, and one for what is unknown
        vectors = np.vstack([np.eye(len(self.symbols)), np.full(len(self.symbols), 1 / len(self.symbols))])
        vectors = vectors.astype(np.float32)
        x = np.zeros((len(rows), len(self.symbols), length), np.float32)
        for target, row in zip(x, rows, strict=True):
            target[:, : len(row)] = vectors[row[:length]].T
        lengths = np.array([min(len(row), length) for row in rows], np.int64)
        return Sequences(x, lengths, tuple(name for name, _ in pairs))

    def decode(self, x: NDArray[np.float32]) -> str:
        """The letters of one sequence, shape (symbols, length), up to its end; unknown ones as the first that is.

        Parameters
        ----------
        x
            As `encode` gives it.
        """
        inside = x[:, x.any(axis=0)]
        known = inside.max(axis=0) == 1
        numbers = np.where(known, inside.argmax(axis=0), len(self.symbols))
        return "".join((self.symbols + (self.unknown or "?")[0])[number] for number in numbers)

    def _numbers(self, number: int, name: str, text: str) -> list[int]:
        found = [self._rows.get(symbol, -1) for symbol in text]
        if -1 in found:
            place = found.index(-1)
            known = f"the alphabet {self.symbols!r}" + (f" or {self.unknown!r}" if self.unknown else "")
            raise ValueError(
                f"sequences: expected symbols of {known}, got {text[place]!r} at position {place} of sequence {number}"
                f"{_called(number, name)}"
            )
        return found


PROTEIN = Alphabet("ACDEFGHIKLMNPQRSTVWY", unknown="BZXUOJ*")
"""The 20 amino acids. Ambiguous (B, Z, J, X) and rare ones (U, O) and stops (*) are unknown."""

DNA = Alphabet("ACGT", unknown="NRYSWKMBDHV")
"""The four bases. The letters for more than one base are unknown."""


RNA = Alphabet("ACGU", unknown="NRYSWKMBDHV")
"""The four bases of RNA, with uracil in the place of thymine."""

ALPHABETS = {"dna": DNA, "rna": RNA, "protein": PROTEIN}
"""Alphabets by name."""


def parse_alphabet(text: str) -> Alphabet:
    """An alphabet by its name, or by its letters: ``"ACGT"``, with those for an unknown one ``"ACGT+N"``.

    Raises
    ------
    ValueError
        If the text is neither.
    """
    if not isinstance(text, str):
        raise ValueError(f"alphabet: expected a name or letters such as 'ACGT+N', got {text!r}")
    if text in ALPHABETS:
        return ALPHABETS[text]
    symbols, _, unknown = text.partition("+")
    try:
        return Alphabet(symbols, unknown)
    except ValueError as error:
        names = ", ".join(ALPHABETS)
        raise ValueError(
            f"alphabet: expected one of {names}, or letters such as 'ACGT+N', got {printable(text)!r}"
            f"{nearest(text, ALPHABETS)} ({error})"
        ) from None


def guess_alphabet(texts: Iterable[str]) -> Alphabet:
    """DNA or RNA where there are no letters but their bases and N, else proteins."""
    seen = set().union(*(set(text.upper()) for text in texts))
    return next((ALPHABETS[name] for name in ("dna", "rna") if seen <= {*ALPHABETS[name].symbols, "N"}), PROTEIN)


def _pairs(sequences: Iterable[str | tuple[str, str]]) -> list[tuple[str, str]]:
    if isinstance(sequences, str) or not isinstance(sequences, Iterable):
        raise ValueError(f"sequences: expected a list of texts, or of pairs of name and text, got {sequences!r:.60}")
    pairs = []
    for number, item in enumerate(sequences):
        name, text = item if isinstance(item, tuple) and len(item) == 2 else (str(number), item)
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"sequences: expected texts, or pairs of name and text, got {item!r:.60} at {number}")
        if not text:
            raise ValueError(
                f"sequences: expected at least one symbol, got an empty sequence {number}{_called(number, name)}"
            )
        pairs.append((name, text))
    if not pairs:
        raise ValueError("sequences: expected at least one sequence, got none")
    return pairs


def _check_length(pairs: list[tuple[str, str]], length: int | None, truncate: bool) -> None:
    if length is None:
        return
    if not is_count(length):
        raise ValueError(f"length: expected a whole number of at least 1, got {length!r}")
    longest = max(range(len(pairs)), key=lambda number: len(pairs[number][1]))
    name, text = pairs[longest]
    if len(text) > length and not truncate:
        raise ValueError(
            f"length: expected at least {len(text)}, the length of sequence {longest}{_called(longest, name)}, "
            f"got {length}; truncate=True cuts what is longer"
        )


def _called(number: int, name: str) -> str:
    return "" if name == str(number) else f" ({printable(name[:_SHOWN])})"


# --- files


def read_fasta(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Names and sequences of a FASTA file, gzipped or not.

    Blank lines, blanks inside a sequence, and any kind of line end are taken.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    list of tuple
        In the order of the file. The name is the whole line after ``>``.

    Raises
    ------
    ValueError
        If the file is no FASTA, a record has no name or no sequence, or the file cannot be read; the message names
        file and line.
    """
    path = Path(path)
    records: list[tuple[str, list[str], int]] = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"{printable(path)}, line {number}"
        if line.startswith(">"):
            _check_record(path, records)
            records.append((_name(line, where), [], number))
        elif line:
            if not records:
                raise ValueError(f"{where}: expected a FASTA file, whose first line starts with '>', got {_cut(line)}")
            records[-1][1].append(_symbols(line, where))
    _check_record(path, records)
    if not records:
        raise ValueError(f"{printable(path)}: expected a FASTA file, got an empty file")
    return [(name, "".join(parts)) for name, parts, _ in records]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{printable(path)}: expected a FASTA file, got {got}")
    try:
        with open_unzipped(path) as stream:
            content = stream.read()
    except OSError as error:
        raise ValueError(f"{printable(path)}: could not be read ({error.strerror or error})") from None
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    result = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            text = "\0"
        if not text.replace("\t", " ").isprintable():
            raise ValueError(f"{printable(path)}, line {number}: expected a FASTA file, which is text, got other bytes")
        result.append(text)
    return result


def _name(line: str, where: str) -> str:
    name = line[1:].strip()
    if not name:
        raise ValueError(f"{where}: expected a name after '>', got none")
    return name


def _symbols(line: str, where: str) -> str:
    text = "".join(line.split())
    for symbol in text:
        if not (symbol.isascii() and (symbol.isalpha() or symbol in "*-.")):
            raise ValueError(
                f"{where}: expected letters, '*', '-' or '.' of a sequence, got {symbol!r} in {_cut(line)}"
            )
    return text


def _check_record(path: Path, records: list[tuple[str, list[str], int]]) -> None:
    """Raise if the last record has no sequence."""
    if records and not records[-1][1]:
        name, _, number = records[-1]
        raise ValueError(f"{printable(path)}, line {number}: expected a sequence after {_cut('>' + name)}, got none")


def _cut(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "...")

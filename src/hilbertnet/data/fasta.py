"""Sequences with classes: a FASTA file whose headers name them, or a folder with one FASTA file for each class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hilbertnet.data.dataset import Dataset, printable
from hilbertnet.data.folder import title, visible
from hilbertnet.data.reading import Reading
from hilbertnet.data.sequences import Alphabet, guess_alphabet, parse_alphabet, read_fasta

__all__ = ["Records", "is_fasta", "load_fasta", "read_records"]

SUFFIXES = (".fa", ".faa", ".fasta", ".fna")
LABEL = r"(?:^|\s)(?:class|label)=(\S+)"
"""What finds a class in a header, by default."""


@dataclass(frozen=True)
class Records:
    """What one or more FASTA files hold.

    Parameters
    ----------
    name
        What the user called them.
    names, texts
        Of the sequences: the first word of each header, and the letters.
    labels
        The names of their classes, or ``None`` where no header names one.
    alphabet
        The one asked for, or what the letters look like.
    """

    name: str
    names: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    alphabet: Alphabet

    @property
    def longest(self) -> int:
        """Letters of the longest."""
        return max(map(len, self.texts))

    def encoded(self, start: int, stop: int, length: int) -> np.ndarray:
        """One-hot letters (n, symbols, length) of some in a row; what is longer is cut.

        Raises
        ------
        ValueError
            If a letter is not in the alphabet; the message names the sequence.
        """
        pairs = zip(self.names[start:stop], self.texts[start:stop], strict=True)
        try:
            return self.alphabet.encode(pairs, length=length, truncate=True).x
        except ValueError as error:
            raise ValueError(f"{printable(self.name)}: {error}") from None


def is_fasta(path: Path) -> bool:
    """Whether a file is FASTA by its name or its first letter, or a folder has FASTA files by their names only."""
    if path.is_dir():
        entries = visible(path)
        return bool(entries) and all(_named_so(entry) and entry.is_file() for entry in entries)
    if _named_so(path):
        return True
    with path.open("rb") as stream:
        return stream.read(1) == b">"


def _named_so(path: Path) -> bool:
    return Path(path.name.lower().removesuffix(".gz")).suffix in SUFFIXES


def load_fasta(path: Path, reading: Reading) -> Dataset:
    """Sequences with their classes.

    Parameters
    ----------
    path
        A FASTA file, gzipped or not, whose headers name classes: ``class=NAME`` or ``label=NAME`` unless
        ``reading.label`` says otherwise. Or a folder of FASTA files, one for each class, which is called as the file.
    reading
        Its `label`, `alphabet` and `length`; by default sequences are padded to the longest.

    Returns
    -------
    Dataset
        In the order of the file, or of the sorted classes; classes in sorted order.

    Raises
    ------
    ValueError
        If a file is no FASTA, a sequence has no class or a letter that is not in the alphabet.
    """
    found = read_records(path, reading)
    if found.labels is None:
        raise ValueError(
            "label: expected class=NAME in the header of every sequence, or a regular expression that finds the class "
            f"there, or a folder with one FASTA file for each class; {printable(path)} has none in {_first(path)}"
        )
    classes = sorted(set(found.labels))
    y = np.array([classes.index(label) for label in found.labels], np.int64)
    x = found.encoded(0, len(y), reading.length or found.longest)
    return Dataset(found.name, x, y, tuple(classes), alphabet=found.alphabet, names=found.names)


def read_records(path: Path, reading: Reading) -> Records:
    """The sequences of a file or a folder, with or without classes: all or none of a file's headers name one.

    Parameters
    ----------
    path, reading
        As for `load_fasta`.

    Raises
    ------
    ValueError
        If a file is no FASTA, or some headers name a class and others none.
    """
    labels: list[str] | None
    if path.is_dir():
        records, labels = [], []
        for file in visible(path):
            own = read_fasta(file)
            records += own
            labels += [_stem(file)] * len(own)
        if reading.label is not None:
            raise ValueError(f"label: {printable(path)} has one file for each class, got {reading.label!r} too")
    else:
        records = read_fasta(path)
        labels = _labels(path, [header for header, _ in records], reading.label)
    texts = tuple(text for _, text in records)
    alphabet = guess_alphabet(texts) if reading.alphabet is None else parse_alphabet(reading.alphabet)
    names = tuple(header.split()[0] for header, _ in records)
    return Records(title(path), names, texts, None if labels is None else tuple(labels), alphabet)


def _stem(path: Path) -> str:
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return printable(Path(name).stem)


def _labels(path: Path, headers: Sequence[str], label: str | None) -> list[str] | None:
    pattern = re.compile(LABEL if label is None else label)
    found = [pattern.search(header) for header in headers]
    if not any(found):
        return None
    for number, (match, header) in enumerate(zip(found, headers, strict=True)):
        if match is None or not match[pattern.groups]:
            raise ValueError(
                f"label: expected a class in the header of every sequence of {printable(path)}, as in others, found by "
                f"{pattern.pattern!r}, got sequence {number} ({printable(header)[:60]})"
            )
    return [printable(match[pattern.groups]) for match in found if match is not None]


def _first(path: Path) -> str:
    header = read_fasta(path)[0][0]
    return repr(printable(header)[:60])

"""How files are to be read where that is a choice: a size for images, one axis or two, classes and letters of FASTA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hilbertnet.data.sequences import parse_alphabet
from hilbertnet.signals import is_count

__all__ = ["Reading"]

_IMAGES = ("size", "channels")
_SEQUENCES = ("label", "alphabet", "length")
_FILES = {
    **dict.fromkeys(_IMAGES, "a folder of images"),
    "axes": "an .npz file",
    **dict.fromkeys(_SEQUENCES, "FASTA files"),
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a caller asks for; ``None`` leaves it to the file.

    Parameters
    ----------
    size
        Height and width to resize the images of a folder to.
    channels
        1 for grey and 3 for colour images of a folder.
    axes
        1 reads three axes of an ``.npz`` file as signals (n, channels, length), and not as grey images.
    label
        A regular expression that finds the class in the header of a sequence: what its group matches, or all of it.
    alphabet
        ``"dna"``, ``"rna"``, ``"protein"``, or letters: ``"ACGT"``, with those for an unknown one ``"ACGT+N"``.
    length
        Cut sequences to so many letters, or pad them.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    axes: int | None = None
    label: str | None = None
    alphabet: str | None = None
    length: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any] | object) -> Reading:
        """The part of settings, of a record or a dataclass, that says how its data were read."""
        names = [field.name for field in fields(Reading)]
        found = {
            name: settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name) for name in names
        }
        if isinstance(found["size"], list):
            found["size"] = tuple(found["size"])
        return Reading(**found)

    def over(self, other: Reading) -> Reading:
        """What is asked for here, and where nothing is, what `other` asks for."""
        kept = {field.name: getattr(self, field.name) for field in fields(Reading)}
        return Reading(**{name: getattr(other, name) if value is None else value for name, value in kept.items()})

    def check(self) -> None:
        """Refuse what cannot be asked of any file.

        Raises
        ------
        ValueError
            With the name of the argument.
        """
        size = self.size
        if size is not None and not (len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
            raise ValueError(f"size: expected height and width, two positive whole numbers, got {size!r}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {self.channels!r}")
        if self.axes not in (None, 1, 2):
            raise ValueError(f"axes: expected 1 (signals) or 2 (images), got {self.axes!r}")
        if self.length is not None and not is_count(self.length):
            raise ValueError(f"length: expected a whole number of letters, at least 1, got {self.length!r}")
        if self.alphabet is not None:
            parse_alphabet(self.alphabet)
        if self.label is not None:
            _check_pattern(self.label)

    def only_for(self, what: str, *allowed: str) -> None:
        """Refuse what is asked for and means nothing for a source.

        Parameters
        ----------
        what
            The source, for messages.
        allowed
            Names of what may be asked for.

        Raises
        ------
        ValueError
            With the name of the argument, and the files that it is for.
        """
        for name, files in _FILES.items():
            if getattr(self, name) is not None and name not in allowed:
                raise ValueError(f"{name}: only for {files}, which {what} is not, got {getattr(self, name)!r}")


def _check_pattern(pattern: object) -> None:
    try:
        groups = re.compile(pattern).groups if isinstance(pattern, str) else None
    except re.error as error:
        raise ValueError(f"label: expected a regular expression, got {pattern!r} ({error})") from None
    if groups not in (0, 1):
        got = "no text" if groups is None else f"{groups} groups"
        raise ValueError(f"label: expected a regular expression with one group, the class, got {pattern!r}, {got}")

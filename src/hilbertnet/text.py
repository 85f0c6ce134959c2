"""One grammar and one error pointer for every text form (architectures, regularizers, sizes in bytes).

A text form is made of words, numbers, calls such as ``exp(0.6)`` and punctuation. `Scanner` reads them from left to
right and, when something is wrong, raises `TextFormError`: what was expected, what came, the nearest known name, and a
caret under the character.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TypeVar

__all__ = ["Call", "Scanner", "TextFormError", "check_word", "columns", "format_number", "nearest", "parse_bytes"]

Step = TypeVar("Step")

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_INTEGER = re.compile(r"\d+(?![\d.])")
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=")
_QUOTED = re.compile(r"""'([^'\n]*)'|"([^"\n]*)\"""")


class TextFormError(ValueError):
    """A text form that cannot be read: the message points at the character."""


@dataclass(frozen=True)
class Call:
    """A name with its arguments, such as ``poly(1, 3)``; a bare name has ``arguments=()``.

    Parameters
    ----------
    name
        The word before the bracket.
    arguments
        Those without a name.
    position
        Where the name stands in the text.
    named
        Those by name, ``delta(1, screen=8)``, in their order.
    places
        Where the arguments stand: those of `arguments`, then those of `named`.
    """

    name: str
    arguments: tuple[float | str, ...]
    position: int
    named: tuple[tuple[str, float | str], ...] = ()
    places: tuple[int, ...] = field(default=(), compare=False)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A table in aligned columns, the first to the left and the others to the right; the first row is the head.

    Examples
    --------
    >>> print(columns([["size", "mean"], ["0.5", "12"]]))
    size  mean
    ----  ----
    0.5     12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in [rows[0], ["-" * width for width in widths], *rows[1:]]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'exp'?"`` for the known name nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_word(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that is not in `known`.

    Raises
    ------
    ValueError
        With the nearest one suggested; the message starts with `name`.
    """
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}")


@dataclass
class Scanner:
    """Reads a text form from left to right.

    Parameters
    ----------
    text
        The whole text form.
    what
        What it is, for messages: ``"architecture"``, ``"regularizer"``.
    """

    text: str
    what: str
    position: int = field(default=0, init=False)

    def fail(self, message: str, position: int | None = None) -> TextFormError:
        """The error for `message` at `position` (default: here); the caller raises it."""
        if position is None:
            self._skip_space()
        at = self.position if position is None else position
        shown = self.text.replace("\n", " ").replace("\t", " ")
        return TextFormError(f"{self.what}: {message} (character {at + 1})\n  {shown}\n  {' ' * at}^")

    def unknown(self, kind: str, name: str, known: Iterable[str], position: int) -> TextFormError:
        """The error for a name that is not in `known`, with the nearest one suggested."""
        known = sorted(known)
        hint = nearest(name, known) or f"; known: {', '.join(known)}"
        return self.fail(f"unknown {kind} {name!r}{hint}", position)

    def steps(self, read: Callable[[Scanner], Step]) -> list[Step]:
        """The whole text as steps joined by ``|``, each of which `read` reads."""
        found = [read(self)]
        while self.accept("|"):
            found.append(read(self))
        if not self.at_end():
            raise self.fail("expected '|' or the end of the text")
        return found

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.position)
        assert found is not None
        self.position = found.end()

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Skip blanks and consume `pattern` if it is next."""
        self._skip_space()
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
        return found

    def accept(self, symbol: str) -> bool:
        """Consume `symbol` if it is next."""
        return self.match(re.compile(re.escape(symbol))) is not None

    def expect(self, symbol: str) -> None:
        """Consume `symbol` or fail."""
        if not self.accept(symbol):
            raise self.fail(f"expected {symbol!r}, got {self._next()}")

    def at_end(self) -> bool:
        """Whether only blanks are left."""
        self._skip_space()
        return self.position == len(self.text)

    def integer(self, meaning: str) -> int:
        """Consume a whole number, described in the error as `meaning`."""
        found = self.match(_INTEGER)
        if not found:
            raise self.fail(f"expected {meaning}, a whole number, got {self._next()}")
        return int(found.group())

    def number(self, meaning: str) -> float:
        """Consume a decimal number, described in the error as `meaning`."""
        found = self.match(_NUMBER)
        if not found:
            raise self.fail(f"expected {meaning}, a number, got {self._next()}")
        return float(found.group())

    def optional_number(self) -> float | None:
        """Consume a decimal number if it is next, else nothing."""
        found = self.match(_NUMBER)
        return float(found.group()) if found else None

    def call(self, meaning: str, *, named: bool = False) -> Call:
        """Consume ``name`` or ``name(argument, ...)``; arguments are numbers or words.

        With `named`, the last ones may come by name, ``name(1.0, screen=8)``, and a text in quotes is a word.
        """
        found = self.match(_WORD)
        if not found:
            raise self.fail(f"expected {meaning}, got {self._next()}")
        call = Call(found.group(), (), found.start())
        if self.accept("("):
            call = self._argument(call, named)
            while not self.accept(")"):
                if not self.accept(","):
                    raise self.fail(f"expected ',' or ')' after an argument, got {self._next()}")
                call = self._argument(call, named)
        return call

    def _argument(self, call: Call, named: bool) -> Call:
        """The call with one more argument, which is next."""
        key = self.match(_KEY) if named else None
        if call.named and not key:
            raise self.fail(f"expected an argument by name after {call.named[-1][0]!r}, got {self._next()}")
        if key and key.group(1) in dict(call.named):
            raise self.fail(f"{key.group(1)!r} comes twice", key.start())
        self._skip_space()
        places = (*call.places, key.start() if key else self.position)
        word = self.match(_WORD) or (self.match(_QUOTED) if named else None)
        value = word.group(word.lastindex or 0) if word else self.number(f"an argument of {call.name!r}")
        if key:
            return replace(call, named=(*call.named, (key.group(1), value)), places=places)
        return replace(call, arguments=(*call.arguments, value), places=places)

    def _next(self) -> str:
        self._skip_space()
        rest = self.text[self.position :].split()
        return repr(rest[0]) if rest else "the end of the text"


def format_number(value: float) -> str:
    """The shortest text that reads back as `value`: ``2`` for 2.0, ``0.6`` for 0.6."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(value: int | float | str, name: str = "memory") -> int:
    """A size in bytes from a number or a text such as ``"2GB"`` or ``"512 MiB"``.

    Raises
    ------
    ValueError
        If `value` is not a positive size; the message starts with `name`.
    """
    size = 0.0
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)\s*", value)
        size = float(found.group(1)) * _UNITS.get(found.group(2).upper(), 0) if found else 0.0
    elif isinstance(value, Real) and not isinstance(value, bool):
        size = float(value)
    if not 1 <= size < math.inf:
        raise ValueError(f"{name}: expected bytes, as a positive number or a text such as '2GB', got {value!r}")
    return int(size)

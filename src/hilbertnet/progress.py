"""What a long computation tells its user: a progress bar, sizes and times in words.

``progress=`` means the same everywhere: ``None`` shows a bar when standard error is a terminal, ``True`` always,
``False`` never, and a callable is called as ``progress(done, total)`` after every step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

__all__ = ["LONG", "Progress", "Stopwatch", "announce", "format_bytes", "format_seconds", "track"]

Progress = bool | None | Callable[[int, int], object]
Item = TypeVar("Item")

LONG = 60.0
"""Seconds: what takes longer says its cost first."""

_LOGGER = logging.getLogger("hilbertnet")


def track(
    items: Iterable[Item], progress: Progress = None, *, label: str = "", total: int | None = None
) -> Iterator[Item]:
    """Iterate over `items` and report how many are done.

    Parameters
    ----------
    items
        What to iterate over.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of ``(done, total)``.
    label
        The words beside the bar.
    total
        How many items there are, if `items` has no length.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    if callable(progress):
        for done, item in enumerate(items, start=1):
            yield item
            progress(done, total)
    elif progress is False:
        yield from items
    else:
        from tqdm.auto import tqdm

        disable = None if progress is None else False  # None: only where standard error is a terminal
        yield from tqdm(items, desc=label, total=total, disable=disable, leave=False, delay=0.5)


def announce(message: str) -> None:
    """Say what is about to cost much, once, through the ``hilbertnet`` logger (shown by default)."""
    _LOGGER.warning(message)


class Stopwatch:
    """Seconds of the stages of a computation, by name, in order."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The stage `name`, or one more part of it, ends here."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def format_bytes(size: float) -> str:
    """A size in words: ``"800 MB"``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}" if size < 999.5 else f"{size:,.0f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """A time in words: ``"3.2 hours"``."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} seconds"

"""How many threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hilbertnet.signals import is_count

__all__ = ["threads"]


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads inside, and with as many as before afterwards; ``None`` changes nothing.

    Threads that share many small matrices wait for each other, up to a hundred times as long as one of them computes.

    Parameters
    ----------
    count
        At least 1, or ``None``.

    Raises
    ------
    ValueError
        If `count` is neither.

    Examples
    --------
    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    if count is None:
        yield
        return
    if not is_count(count):
        raise ValueError(f"threads: expected a whole number of at least 1 or None, got {count!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

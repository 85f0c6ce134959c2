"""How many threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["threads"]


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads inside, and with as many as before afterwards; ``None`` changes nothing.

    Threads that share many small matrices wait for each other, up to a hundred times as long as one of them computes.

    Parameters
    ----------
    count
        At least 1, or ``None``.

    Examples
    --------
    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)

"""Whether images fit into memory, before they are read."""

from __future__ import annotations

import math
import os

from hilbertnet.progress import format_bytes

__all__ = ["check_fits"]


def check_fits(shape: tuple[int, ...], name: str, advice: str) -> None:
    """Raise if float32 images of `shape` are larger than the machine's memory.

    Raises
    ------
    ValueError
        With the size, and `advice` on what to do.
    """
    size = 4 * math.prod(shape)
    limit = _machine_memory()
    if size > limit:
        images = " x ".join(map(str, shape))
        raise ValueError(f"{name}: {images} numbers take {format_bytes(size)} of {format_bytes(limit)}: {advice}")


def _machine_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not told by every system
        return math.inf

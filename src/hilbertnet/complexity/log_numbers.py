"""Numbers of tables: from logarithms, far beyond what a float holds, and the rows that a long table shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["format_log", "format_rows", "shown_rows"]


def format_log(log: float, digits: int = 4) -> str:
    """``exp(log)`` with so many digits, at any size.

    Examples
    --------
    >>> format_log(-3000.0), format_log(0.0), format_log(-math.inf)
    ('1.31e-1303', '1', '0')
    """
    if log == -math.inf:
        return "0"
    if not math.isfinite(log) or abs(log) < 600:
        return f"{math.exp(log) if math.isfinite(log) else log:.{digits}g}"
    tens = log / math.log(10)
    exponent = math.floor(tens)
    mantissa = f"{10 ** (tens - exponent):.{max(digits - 2, 0)}f}"  # the logarithm's own error takes two digits
    return f"{mantissa}e{exponent:+d}"


def shown_rows(count: int, most: int = 20) -> list[int]:
    """The rows that a table shows: all, or the first ones and then ever fewer."""
    if count <= most:
        return list(range(count))
    return np.unique(np.geomspace(1, count, most).round().astype(int) - 1).tolist()


def format_rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """`rows` with "-" in empty cells."""
    return [[cell or "-" for cell in row] for row in rows]

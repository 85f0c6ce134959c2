"""Sums of shifted rows, compiled: the one loop that patches and poolings are made of.

Few rows at a time, as many as the compiler can tell apart; the first ones replace what is in the target.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from hilbertnet.kernels.fused_kappa import FAST

__all__ = ["INLINE", "LEAF", "NATIVE", "combine", "weighted_sum"]

NATIVE: Any = {"fastmath": FAST, "error_model": "numpy", "nogil": True}
LEAF: Any = {**NATIVE, "_nrt": False}
"""For functions that make no arrays: their views of rows are not counted, which costs more than short rows do."""
INLINE: Any = {**LEAF, "forceinline": True}
"""For functions called once or twice a row, which have more arguments than work."""


@njit(**LEAF)
def combine(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, count: int, lo: int, hi: int) -> None:
    """``out[at, i] = sum_k by[k] source[rows[k], i + shifts[k]]`` for lo <= i < hi and k < count."""
    if count >= 5:
        done = 5
        _five(out, at, source, by, rows, shifts, lo, hi)
    elif count == 4:
        done = 4
        _four(out, at, source, by, rows, shifts, lo, hi)
    elif count == 3:
        done = 3
        _three(out, at, source, by, rows, shifts, lo, hi)
    elif count == 2:
        done = 2
        _two(out, at, source, by, rows, shifts, lo, hi)
    elif count == 1:
        done = 1
        _one(out, at, source, by, rows, shifts, lo, hi)
    else:
        done = 0
        target = out[at, lo:hi]
        for i in range(len(target)):
            target[i] = 0
    while done < count:
        if count - done >= 3:
            _add_three(out, at, source, by[done:], rows[done:], shifts[done:], lo, hi)
            done += 3
        else:
            _add_one(out, at, source, by[done], rows[done], shifts[done], lo, hi)
            done += 1


@njit(**LEAF)
def _five(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    p0, p1, p2, p3, p4 = by[0], by[1], by[2], by[3], by[4]
    a0 = source[rows[0], lo + shifts[0] :]
    a1 = source[rows[1], lo + shifts[1] :]
    a2 = source[rows[2], lo + shifts[2] :]
    a3 = source[rows[3], lo + shifts[3] :]
    a4 = source[rows[4], lo + shifts[4] :]
    for i in range(n):
        target[i] = p0 * a0[i] + p1 * a1[i] + p2 * a2[i] + p3 * a3[i] + p4 * a4[i]


@njit(**LEAF)
def _four(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    p0, p1, p2, p3 = by[0], by[1], by[2], by[3]
    a0 = source[rows[0], lo + shifts[0] :]
    a1 = source[rows[1], lo + shifts[1] :]
    a2 = source[rows[2], lo + shifts[2] :]
    a3 = source[rows[3], lo + shifts[3] :]
    for i in range(n):
        target[i] = p0 * a0[i] + p1 * a1[i] + p2 * a2[i] + p3 * a3[i]


@njit(**LEAF)
def _three(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    p0, p1, p2 = by[0], by[1], by[2]
    a0 = source[rows[0], lo + shifts[0] :]
    a1 = source[rows[1], lo + shifts[1] :]
    a2 = source[rows[2], lo + shifts[2] :]
    for i in range(n):
        target[i] = p0 * a0[i] + p1 * a1[i] + p2 * a2[i]


@njit(**LEAF)
def _two(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    p0, p1 = by[0], by[1]
    a0 = source[rows[0], lo + shifts[0] :]
    a1 = source[rows[1], lo + shifts[1] :]
    for i in range(n):
        target[i] = p0 * a0[i] + p1 * a1[i]


@njit(**LEAF)
def _one(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    p0 = by[0]
    a0 = source[rows[0], lo + shifts[0] :]
    for i in range(n):
        target[i] = p0 * a0[i]


@njit(**LEAF)
def _add_three(out: Any, at: int, source: Any, by: Any, rows: Any, shifts: Any, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    p0, p1, p2 = by[0], by[1], by[2]
    a0 = source[rows[0], lo + shifts[0] :]
    a1 = source[rows[1], lo + shifts[1] :]
    a2 = source[rows[2], lo + shifts[2] :]
    for i in range(n):
        target[i] += p0 * a0[i] + p1 * a1[i] + p2 * a2[i]


@njit(**LEAF)
def _add_one(out: Any, at: int, source: Any, by: Any, row: int, shift: int, lo: int, hi: int) -> None:
    n, target = hi - lo, out[at, lo:hi]
    a0 = source[row, lo + shift :]
    for i in range(n):
        target[i] += by * a0[i]


@njit(**LEAF)
def weighted_sum(row: Any, first: Any, second: Any) -> Any:
    """``sum_i row[i] first[i] second[i]``."""
    total = row.dtype.type(0)
    for i in range(len(row)):
        total += row[i] * first[i] * second[i]
    return total

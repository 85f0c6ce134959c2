"""The recursion of exact convolutional kernels, compiled: one pair of signals at a time, all of it in cache.

The numbers are those of `hilbertnet.kernels.recursion`; the layers are in `hilbertnet.kernels.fused_layer`. Rows of the
first signal whose patch is zero are skipped, and so are pairs of positions that cannot reach the result
(`hilbertnet.kernels.fused_program`). Sums over a row are taken in the working precision, those of rows in float64.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from hilbertnet.kernels.fused_layer import (
    BEFORE_H,
    BEFORE_W,
    GRID_W,
    H_OUT,
    HEIGHT,
    P_H,
    P_W,
    SCALE,
    STRIDE,
    TAPS,
    W_OUT,
    WIDTH,
    WRAP,
    entries,
    layer,
    work_rows,
)
from hilbertnet.kernels.fused_rows import NATIVE

__all__ = ["ALL", "EQUAL", "OWN", "UPPER", "block", "workspace_size"]

ALL, UPPER, EQUAL, OWN = range(4)
"""Which pairs of a block are evaluated."""


def workspace_size(ints: Any, tangent: bool) -> tuple[int, int, int]:
    """Entries of what one thread works in: rows, states between layers, and whole numbers."""
    most = max(int(work_rows(p, index == 0, tangent) * p[STRIDE] + 2 * p[TAPS]) for index, p in enumerate(ints))
    states = sum(int(p[HEIGHT] * p[WIDTH] * p[STRIDE]) for p in ints[1:])
    return most, (1 + tangent) * states, max(map(entries, ints))


@njit(**NATIVE)
def _norms(p: Any, scale: Any, x: Any, state: Any, first: bool, floor: Any, diagonal: Any, nx: Any, inv_x: Any) -> None:
    """Norms of the patches of a signal and their inverses, from its state with itself; 0 where they vanish."""
    height, width = p[HEIGHT], p[WIDTH]
    for a in range(height):
        for b in range(width):
            u = a * width + b
            if first:
                total = x.dtype.type(0)
                for channel in range(x.shape[0]):
                    total += x[channel, u] * x[channel, u]
                diagonal[u] = total
            else:
                diagonal[u] = state[u, (p[BEFORE_H] + a) * p[GRID_W] + p[BEFORE_W] + b]
    for a in range(p[H_OUT]):
        for b in range(p[W_OUT]):
            total = x.dtype.type(0)
            for r in range(p[P_H]):
                c = a + r - p[BEFORE_H]
                for s in range(p[P_W]):
                    d = b + s - p[BEFORE_W]
                    if p[WRAP]:
                        total += diagonal[(c % height) * width + d % width]
                    elif c >= 0 and c < height and d >= 0 and d < width:
                        total += diagonal[c * width + d]
            total *= scale
            norm = np.sqrt(max(total, 0))
            kept = total > floor
            nx[a * p[W_OUT] + b] = norm if kept else 0
            inv_x[a * p[W_OUT] + b] = 1 / norm if kept else 0


# --- blocks of pairs


@njit(**NATIVE)
def _pair(
    ints: Any, table: Any, floats: Any, x: Any, y: Any, nx: Any, inv_x: Any, ny: Any, inv_y: Any, own: bool, floor: Any,
    tangent: bool, work: Any, whole: Any, states: Any,
) -> tuple[float, float]:  # fmt: skip
    """Both kernels of one pair, from the norms of patches of all layers, which of a signal with itself are computed."""
    total, total_t = 0.0, 0.0
    at_x, at_y, at = 0, 0, 0
    state = states[:0].reshape(0, 1)
    state_t = state
    for index in range(len(ints)):
        p = ints[index]
        q = ints[min(index + 1, len(ints) - 1)]
        out, out_t = state, state_t
        if index + 1 < len(ints):
            rows, stride = q[HEIGHT] * q[WIDTH], q[STRIDE]
            out = states[at : at + rows * stride].reshape(rows, stride)
            at += rows * stride
            out_t = out
            if tangent:
                out_t = states[at : at + rows * stride].reshape(rows, stride)
                at += rows * stride
        count, size = p[H_OUT] * p[W_OUT], p[STRIDE]
        if own:
            scale = floats[p[SCALE]]
            _norms(p, scale, x, state, index == 0, floor, work, nx[at_x : at_x + count], inv_x[at_x : at_x + count])
            for a in range(p[H_OUT]):
                for b in range(p[W_OUT]):
                    to, u = at_y + a * p[GRID_W] + b, at_x + a * p[W_OUT] + b
                    ny[to], inv_y[to] = nx[u], inv_x[u]
        total, total_t = layer(
            p, q, table, floats, x, y, state, state_t, index == 0, tangent, nx[at_x : at_x + count],
            inv_x[at_x : at_x + count], ny[at_y : at_y + size], inv_y[at_y : at_y + size], work, whole, out, out_t,
        )  # fmt: skip
        at_x += count
        at_y += size
        state, state_t = out, out_t
    return total, total_t


def _kept(function: Any) -> Any:
    """Compiled, and kept on disk under a name that changes with any of the files it is made of.

    numba looks at the function's own file only, and would go on with the others as they were.
    """
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("fused_*.py")))
    function.__qualname__ += f"_{hashlib.sha256(sources).hexdigest()[:12]}"
    return njit(cache=True, **NATIVE)(function)


@_kept
def block(
    ints: Any, table: Any, floats: Any, x: Any, y: Any, nx: Any, inv_x: Any, ny: Any, inv_y: Any, mode: int, floor: Any,
    tangent: bool, work: Any, whole: Any, states: Any, result: Any,
) -> None:  # fmt: skip
    """Both kernels of a block of pairs.

    Parameters
    ----------
    ints, table, floats
        The program.
    x, y
        Signals: (n, channels, positions), and on the first layer's grid, (m, channels, entries of a row).
    nx, inv_x, ny, inv_y
        Norms of patches and their inverses (0 for a zero norm), all layers after each other: (n, positions), and on the
        grids, with zeros in their borders, (m, entries).
    mode
        `ALL` pairs, those `UPPER` with i <= j, those `EQUAL` with i = j, or `OWN`: every signal with itself, whose
        norms are left in `nx` and `inv_x`; `ny` and `inv_y` are then one row to work in, with zeros in the borders.
    floor
        Squared norms up to here count as 0.
    tangent
        Whether to compute the tangent kernel too.
    work, whole, states
        What one thread works in.
    result
        Shape (n, m, 2), float64; m = 1 for `OWN`.
    """
    own = mode == OWN
    for i in range(len(x)):
        lo, hi = 0, len(y)
        if mode == UPPER:
            lo = i
        elif mode == EQUAL or own:
            lo, hi = i, i + 1
        for j in range(lo, hi):
            grid, to = (0, 0) if own else (j, j)
            result[i, to, 0], result[i, to, 1] = _pair(
                ints, table, floats, x[i], y[j], nx[i], inv_x[i], ny[grid], inv_y[grid], own, floor, tangent, work,
                whole, states,
            )  # fmt: skip

"""The recursion of exact convolutional kernels, compiled: one pair of signals at a time, all of it in cache.

The numbers are those of `hilbertnet.kernels.recursion`. A pair's state at one layer is a matrix: row u = (a, b) of the
first signal, column u' on a grid with its border, flat. For every row of S = P K the sums along diagonals are sums of
shifted rows, first over columns of the patch (H, of which a ring of `patch` lines is kept), then over its lines;
kappa follows in the same row, and pooling over the first signal adds the row to the few outputs it belongs to. When an
output line is complete it is pooled over the second signal. The last layer's pooling and trace are one weighted sum.

Rows of the first signal whose patch is zero are skipped, and so are pairs of positions that cannot reach the result
(`hilbertnet.kernels.fused_program`). Sums over a row are taken in the working precision, those of rows in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hilbertnet.kernels.fused_kappa import FAST, both_row, value_row
from hilbertnet.kernels.fused_program import FIELDS

__all__ = ["cross_block", "own_block", "workspace_size"]

_NATIVE: Any = {"fastmath": FAST, "error_model": "numpy", "nogil": True, "cache": True}
(
    CODE, PAR, PAR_COUNT, SCALE, HEIGHT, WIDTH, P_H, P_W, BEFORE_H, BEFORE_W, WRAP, GRID_H, GRID_W, STRIDE, H_OUT,
    W_OUT, M_H, M_W, MODE, S_LO, S_HI, H_LO, H_HI, G_LO, G_HI, ROWS_PTR, ROWS_TO, ROWS_BY, COLUMNS_PTR, COLUMNS_TO,
    COLUMNS_BY, FIRST, LAST, SLOT, SLOTS, DOWN_PTR, DOWN_FROM, DOWN_BY, ACROSS_PTR, ACROSS_FROM, ACROSS_BY, C_LO,
    C_HI, D_LO, D_HI, WEIGHT_H, WEIGHT_W,
) = range(len(FIELDS))  # fmt: skip


# --- sums of shifted rows


@njit(**_NATIVE)
def _assign(out: Any, source: Any, rows: Any, shifts: Any, count: int, lo: int, hi: int) -> None:
    """``out[i] = sum_k source[rows[k], i + shifts[k]]`` for lo <= i < hi."""
    n = hi - lo
    target = out[lo:hi]
    done = 0
    if count == 0:
        for i in range(n):
            target[i] = 0
    elif count == 1:
        one = source[rows[0], lo + shifts[0] :]
        for i in range(n):
            target[i] = one[i]
        done = 1
    elif count == 2:
        one, two = source[rows[0], lo + shifts[0] :], source[rows[1], lo + shifts[1] :]
        for i in range(n):
            target[i] = one[i] + two[i]
        done = 2
    else:
        one, two, three = (
            source[rows[0], lo + shifts[0] :],
            source[rows[1], lo + shifts[1] :],
            source[rows[2], lo + shifts[2] :],
        )
        for i in range(n):
            target[i] = one[i] + two[i] + three[i]
        done = 3
    while done < count:
        if count - done >= 2:
            one, two = source[rows[done], lo + shifts[done] :], source[rows[done + 1], lo + shifts[done + 1] :]
            for i in range(n):
                target[i] += one[i] + two[i]
            done += 2
        else:
            one = source[rows[done], lo + shifts[done] :]
            for i in range(n):
                target[i] += one[i]
            done += 1


@njit(**_NATIVE)
def _combine(out: Any, source: Any, by: Any, rows: Any, shifts: Any, count: int, lo: int, hi: int) -> None:
    """``out[i] = sum_k by[k] source[rows[k], i + shifts[k]]`` for lo <= i < hi."""
    n = hi - lo
    target = out[lo:hi]
    if count >= 3:
        done = 3
        one, two, three = (
            source[rows[0], lo + shifts[0] :],
            source[rows[1], lo + shifts[1] :],
            source[rows[2], lo + shifts[2] :],
        )
        p, q, r = by[0], by[1], by[2]
        for i in range(n):
            target[i] = p * one[i] + q * two[i] + r * three[i]
    else:
        done = 0
        for i in range(n):
            target[i] = 0
    while done < count:
        if count - done >= 2:
            one, two = source[rows[done], lo + shifts[done] :], source[rows[done + 1], lo + shifts[done + 1] :]
            p, q = by[done], by[done + 1]
            for i in range(n):
                target[i] += p * one[i] + q * two[i]
            done += 2
        else:
            one = source[rows[done], lo + shifts[done] :]
            p = by[done]
            for i in range(n):
                target[i] += p * one[i]
            done += 1


@njit(**_NATIVE)
def _add(out: Any, by: Any, row: Any, lo: int, hi: int) -> None:
    """``out += by row`` for lo <= i < hi."""
    target, source = out[lo:hi], row[lo:hi]
    for i in range(hi - lo):
        target[i] += by * source[i]


@njit(**_NATIVE)
def _weighted_sum(row: Any, first: Any, second: Any) -> Any:
    total = row.dtype.type(0)
    for i in range(len(row)):
        total += row[i] * first[i] * second[i]
    return total


# --- one layer of one pair


@njit(**_NATIVE)
def _lines(
    p: Any, table: Any, x: Any, y: Any, state: Any, virtual: int, first: bool, ring: Any, lines: Any, rows: Any,
    shifts: Any, by: Any,
) -> None:  # fmt: skip
    """The sums over columns of the patch, H, of one line of the first signal into its place in the ring."""
    slot = (virtual % p[P_H]) * p[W_OUT]
    source_row = virtual - p[BEFORE_H]
    if p[WRAP]:
        source_row %= p[HEIGHT]
    elif source_row < 0 or source_row >= p[HEIGHT]:
        return
    width, patch = p[WIDTH], p[P_W]
    channels = y.shape[0]
    direct = first and channels * patch <= channels + patch + 1
    start = source_row * width
    if first and not direct:  # products of pixels of all channels
        lo, hi = table[p[G_LO] + virtual], table[p[G_HI] + virtual]
        for b in range(width):
            for channel in range(channels):
                rows[channel], shifts[channel], by[channel] = channel, 0, x[channel, start + b]
            _combine(lines[b], y, by, rows, shifts, channels, lo, hi)
    for b in range(p[W_OUT]):
        lo, hi = table[p[H_LO] + virtual * p[W_OUT] + b], table[p[H_HI] + virtual * p[W_OUT] + b]
        if hi <= lo:
            continue
        count = 0
        for s in range(patch):
            column = b + s - p[BEFORE_W]
            if p[WRAP]:
                column %= width
            elif column < 0 or column >= width:
                continue
            if direct:
                for channel in range(channels):
                    rows[count], shifts[count], by[count] = channel, s, x[channel, start + column]
                    count += 1
            else:
                rows[count], shifts[count] = column if first else start + column, s
                count += 1
        if direct:
            _combine(ring[slot + b], y, by, rows, shifts, count, lo, hi)
        elif first:
            _assign(ring[slot + b], lines, rows, shifts, count, lo, hi)
        else:
            _assign(ring[slot + b], state, rows, shifts, count, lo, hi)


@njit(**_NATIVE)
def _pool_line(p: Any, table: Any, floats: Any, ia: int, sums: Any, tmp: Any, out: Any, q: Any) -> None:
    """Pooling over the second signal of a complete line `ia`, into the state of the next layer `q`."""
    width, base = p[GRID_W], p[SLOT] + ia
    start = table[base] * p[M_W]
    c_lo, c_hi = table[p[C_LO] + ia], table[p[C_HI] + ia]
    w_out = p[W_OUT]
    for ib in range(p[M_W]):
        d_lo, d_hi = table[p[D_LO] + ib], table[p[D_HI] + ib]
        source = sums[start + ib]
        target = out[ia * p[M_W] + ib]
        for jc in range(c_lo, c_hi):
            for d in range(w_out):
                tmp[d] = 0
            for k in range(table[p[DOWN_PTR] + jc], table[p[DOWN_PTR] + jc + 1]):
                at = table[p[DOWN_FROM] + k] * width
                by = floats[p[DOWN_BY] + k]
                part = source[at : at + w_out]
                for d in range(w_out):
                    tmp[d] += by * part[d]
            line = (q[BEFORE_H] + jc) * q[GRID_W] + q[BEFORE_W]
            for jd in range(d_lo, d_hi):
                total = tmp.dtype.type(0)
                for k in range(table[p[ACROSS_PTR] + jd], table[p[ACROSS_PTR] + jd + 1]):
                    total += floats[p[ACROSS_BY] + k] * tmp[table[p[ACROSS_FROM] + k]]
                target[line + jd] = total


@njit(**_NATIVE)
def _copy_row(p: Any, q: Any, row: Any, target: Any) -> None:
    """A row of a layer without pooling, from its own grid to that of the next layer."""
    for c in range(p[H_OUT]):
        source = row[c * p[GRID_W] :]
        line = target[(q[BEFORE_H] + c) * q[GRID_W] + q[BEFORE_W] :]
        for d in range(p[W_OUT]):
            line[d] = source[d]


@njit(**_NATIVE)
def _wrap_rows(q: Any, count: int, out: Any) -> None:
    """The border of the torus around every row's grid."""
    h, w, width = q[HEIGHT], q[WIDTH], q[GRID_W]
    for row in range(count):
        line = out[row]
        for c in range(q[GRID_H]):
            inside = q[BEFORE_H] + (c - q[BEFORE_H]) % h
            for d in range(width):
                line[c * width + d] = line[inside * width + q[BEFORE_W] + (d - q[BEFORE_W]) % w]


@njit(**_NATIVE)
def _layer(
    p: Any, q: Any, table: Any, floats: Any, x: Any, y: Any, state: Any, state_t: Any, first: bool, tangent: bool,
    nx: Any, inv_x: Any, ny: Any, inv_y: Any, work: Any, whole: Any, out: Any, out_t: Any,
) -> tuple[float, float]:  # fmt: skip
    """One layer of one pair: its state for the next layer `q`, or the traces if it is the last."""
    stride, size = p[STRIDE], p[H_OUT] * p[GRID_W]
    lines_in_ring, m_w = p[P_H] * p[W_OUT], p[M_W]
    place = 0
    row = work[place : place + stride]
    row_t = work[place + stride : place + 2 * stride]
    mapped = work[place + 2 * stride : place + 3 * stride]
    mapped_t = work[place + 3 * stride : place + 4 * stride]
    tmp = work[place + 4 * stride : place + 9 * stride].reshape(5, stride)
    place += 9 * stride
    ring = work[place : place + lines_in_ring * stride].reshape(lines_in_ring, stride)
    place += lines_in_ring * stride
    lines = work[place : place + (p[WIDTH] * stride if first else 0)].reshape(p[WIDTH] if first else 0, stride)
    place += p[WIDTH] * stride if first else 0
    pooled = p[MODE] == 1
    line = work[place : place + (m_w * stride if pooled else 0)].reshape(m_w if pooled else 0, stride)
    place += m_w * stride if pooled else 0
    slots = p[SLOTS] * m_w if pooled else 0
    sums = work[place : place + slots * stride].reshape(slots, stride)
    place += slots * stride
    separate = tangent and not first  # the tangent kernel has sums of its own from the second layer on
    ring_t, line_t, sums_t = ring, line, sums
    if separate:
        ring_t = work[place : place + lines_in_ring * stride].reshape(lines_in_ring, stride)
        place += lines_in_ring * stride
    if tangent:
        line_t = work[place : place + (m_w * stride if pooled else 0)].reshape(m_w if pooled else 0, stride)
        place += m_w * stride if pooled else 0
        sums_t = work[place : place + slots * stride].reshape(slots, stride)
        place += slots * stride
    by = work[place : place + y.shape[0] * p[P_W] + 1]
    rows, shifts = whole[: y.shape[0] * p[P_W] + p[P_H] + 1], whole[y.shape[0] * p[P_W] + p[P_H] + 1 :]

    par = floats[p[PAR] : p[PAR] + p[PAR_COUNT]]
    scale = floats[p[SCALE]]
    total, total_t = 0.0, 0.0
    ready = 0  # virtual lines in the ring
    for a in range(p[H_OUT]):
        while ready < a + p[P_H]:
            _lines(p, table, x, y, state, ready, first, ring, lines, rows, shifts, by)
            if separate:
                _lines(p, table, x, y, state_t, ready, first, ring_t, lines, rows, shifts, by)
            ready += 1
        if pooled:
            for k in range(m_w):
                line[k, :size] = 0
                if tangent:
                    line_t[k, :size] = 0
        for b in range(p[W_OUT]):
            u = a * p[W_OUT] + b
            lo, hi = table[p[S_LO] + u], table[p[S_HI] + u]
            if hi <= lo:
                continue
            if nx[u] == 0:
                if p[MODE] == 0:
                    mapped[:size] = 0
                    _copy_row(p, q, mapped, out[u])
                    if tangent:
                        _copy_row(p, q, mapped, out_t[u])
                continue
            count = 0
            for r in range(p[P_H]):
                source_row = a + r - p[BEFORE_H]
                if p[WRAP] or (source_row >= 0 and source_row < p[HEIGHT]):
                    rows[count] = ((a + r) % p[P_H]) * p[W_OUT] + b
                    shifts[count] = r * p[GRID_W]
                    count += 1
            _assign(row, ring, rows, shifts, count, lo, hi)
            if tangent:
                source = row
                if separate:
                    _assign(row_t, ring_t, rows, shifts, count, lo, hi)
                    source = row_t
                both_row(
                    p[CODE], par, row[lo:hi], source[lo:hi], inv_x[u] * scale, scale, nx[u], inv_y[lo:hi], ny[lo:hi],
                    mapped[lo:hi], mapped_t[lo:hi], tmp,
                )  # fmt: skip
            else:
                value_row(
                    p[CODE], par, row[lo:hi], inv_x[u] * scale, nx[u], inv_y[lo:hi], ny[lo:hi], mapped[lo:hi], tmp
                )
            if p[MODE] == 2:
                first_weight = floats[p[WEIGHT_H] + a * size + lo : p[WEIGHT_H] + a * size + hi]
                second_weight = floats[p[WEIGHT_W] + b * size + lo : p[WEIGHT_W] + b * size + hi]
                total += _weighted_sum(mapped[lo:hi], first_weight, second_weight)
                if tangent:
                    total_t += _weighted_sum(mapped_t[lo:hi], first_weight, second_weight)
            elif pooled:
                for k in range(table[p[COLUMNS_PTR] + b], table[p[COLUMNS_PTR] + b + 1]):
                    weight = floats[p[COLUMNS_BY] + k]
                    _add(line[table[p[COLUMNS_TO] + k]], weight, mapped, lo, hi)
                    if tangent:
                        _add(line_t[table[p[COLUMNS_TO] + k]], weight, mapped_t, lo, hi)
            else:
                mapped[:lo] = 0
                mapped[hi:size] = 0
                _copy_row(p, q, mapped, out[u])
                if tangent:
                    mapped_t[:lo] = 0
                    mapped_t[hi:size] = 0
                    _copy_row(p, q, mapped_t, out_t[u])
        if pooled:
            for k in range(table[p[ROWS_PTR] + a], table[p[ROWS_PTR] + a + 1]):
                ia, weight = table[p[ROWS_TO] + k], floats[p[ROWS_BY] + k]
                start = table[p[SLOT] + ia] * m_w
                for j in range(m_w):
                    if a == table[p[FIRST] + ia]:
                        sums[start + j, :size] = 0
                        if tangent:
                            sums_t[start + j, :size] = 0
                    _add(sums[start + j], weight, line[j], 0, size)
                    if tangent:
                        _add(sums_t[start + j], weight, line_t[j], 0, size)
                if a == table[p[LAST] + ia]:
                    _pool_line(p, table, floats, ia, sums, tmp[0], out, q)
                    if tangent:
                        _pool_line(p, table, floats, ia, sums_t, tmp[0], out_t, q)
    if p[MODE] != 2 and q[WRAP]:
        _wrap_rows(q, p[M_H] * m_w, out)
        if tangent:
            _wrap_rows(q, p[M_H] * m_w, out_t)
    return total, total_t


def workspace_size(ints: Any, channels: int, tangent: bool) -> tuple[int, int, int]:
    """Entries of what one thread works in: rows, states between layers, and whole numbers."""
    most = 0
    for index, p in enumerate(ints):
        pooled, first = p[MODE] == 1, index == 0
        ring = p[P_H] * p[W_OUT]
        kept = (p[M_W] + p[SLOTS] * p[M_W]) * pooled
        rows = 9 + ring + kept + p[WIDTH] * first + tangent * (kept + ring * (not first))
        most = max(most, int(rows * p[STRIDE] + channels * p[P_W]) + 1)
    states = sum(int(p[HEIGHT] * p[WIDTH] * p[STRIDE]) for p in ints[1:])
    entries = max(int(channels * p[P_W] + p[P_H]) + 1 for p in ints)
    return most, (1 + tangent) * states, 2 * entries


@njit(**_NATIVE)
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


@njit(**_NATIVE)
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
        count, size = p[H_OUT] * p[W_OUT], p[H_OUT] * p[GRID_W]
        if own:
            scale = floats[p[SCALE]]
            _norms(p, scale, x, state, index == 0, floor, work, nx[at_x : at_x + count], inv_x[at_x : at_x + count])
            for a in range(p[H_OUT]):
                for b in range(p[W_OUT]):
                    to, u = at_y + a * p[GRID_W] + b, at_x + a * p[W_OUT] + b
                    ny[to], inv_y[to] = nx[u], inv_x[u]
        total, total_t = _layer(
            p, q, table, floats, x, y, state, state_t, index == 0, tangent, nx[at_x : at_x + count],
            inv_x[at_x : at_x + count], ny[at_y : at_y + size], inv_y[at_y : at_y + size], work, whole, out, out_t,
        )  # fmt: skip
        at_x += count
        at_y += size
        state, state_t = out, out_t
    return total, total_t


@njit(**_NATIVE)
def cross_block(
    ints: Any, table: Any, floats: Any, x: Any, y: Any, nx: Any, inv_x: Any, ny: Any, inv_y: Any, mode: int,
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
        0 all pairs, 1 those with i <= j, 2 those with i = j.
    tangent
        Whether to compute the tangent kernel too.
    work, whole, states
        What one thread works in.
    result
        Shape (n, m, 2), float64.
    """
    for j in range(len(y)):
        lo, hi = 0, len(x)
        if mode == 1:
            hi = j + 1
        elif mode == 2:
            lo, hi = j, j + 1
        for i in range(lo, hi):
            result[i, j, 0], result[i, j, 1] = _pair(
                ints,
                table,
                floats,
                x[i],
                y[j],
                nx[i],
                inv_x[i],
                ny[j],
                inv_y[j],
                False,
                work[0],
                tangent,
                work,
                whole,
                states,
            )


@njit(**_NATIVE)
def own_block(
    ints: Any, table: Any, floats: Any, x: Any, y: Any, nx: Any, inv_x: Any, ny: Any, inv_y: Any, floor: Any,
    tangent: bool, work: Any, whole: Any, states: Any, result: Any,
) -> None:  # fmt: skip
    """Both kernels of every signal with itself, and the norms of its patches, which are left in `nx`.

    Parameters
    ----------
    floor
        Squared norms up to here count as 0.
    ny, inv_y
        One row of the grids, zero in their borders.
    result
        Shape (n, 2), float64. The rest is as for `cross_block`.
    """
    for i in range(len(x)):
        result[i, 0], result[i, 1] = _pair(
            ints, table, floats, x[i], y[i], nx[i], inv_x[i], ny, inv_y, True, floor, tangent, work, whole, states
        )

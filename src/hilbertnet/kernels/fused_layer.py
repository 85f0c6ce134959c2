"""One layer of one pair of signals, compiled: patches, kappa and pooling, or the traces if it is the last.

A pair's state is a matrix: row u = (a, b) of the first signal, column u' on a grid with its border, flat. For every row
of S = P K the sums along diagonals are sums of shifted rows, first over columns of the patch (H, of which a ring of
`patch` lines is kept), then over its lines; kappa follows in the same row. Pooling takes as many mapped rows as its
window has, over columns of the first signal, then over its rows, and then pools the one row that results over the
second signal. The last layer's pooling and trace are one weighted sum.

Entries that do not count are not computed, and hold what was there before: never more than finite numbers, which
reach nothing that counts.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.extending import register_jitable

from hilbertnet.kernels.fused_kappa import both_row, value_row
from hilbertnet.kernels.fused_program import FIELDS
from hilbertnet.kernels.fused_rows import INLINE, LEAF, NATIVE, combine, weighted_sum

__all__ = ["entries", "layer", "work_rows"]

(
    CODE, PAR, PAR_COUNT, SCALE, HEIGHT, WIDTH, P_H, P_W, BEFORE_H, BEFORE_W, WRAP, GRID_H, GRID_W, STRIDE, H_OUT,
    W_OUT, M_H, M_W, MODE, S_LO, S_HI, H_LO, H_HI, G_LO, G_HI, UNEVEN, DOWN_PTR, DOWN_FROM, DOWN_BY,
    ACROSS_PTR, ACROSS_FROM, ACROSS_BY, DOWN_DONE_PTR, DOWN_DONE, ACROSS_DONE_PTR, ACROSS_DONE, DOWN_SLOT, DOWN_SLOTS,
    ACROSS_SLOT, ACROSS_SLOTS, C_LO, C_HI, DOWN_LO, DOWN_HI, DOWN_STEP, DOWN_FULL, ACROSS_LO, ACROSS_HI,
    ACROSS_STEP, ACROSS_FULL, WEIGHT_H, WEIGHT_W, TAPS,
) = range(len(FIELDS))  # fmt: skip
MAP_ONLY, POOL, TRACE = range(3)


# --- what a layer works in


_SINGLE = 13  # rows: two of sums, five for kappa, the five of the field, zeros


@register_jitable
def _row_counts(p: Any) -> tuple[int, int, int]:
    """Rows of the ring, mapped rows that are kept, and those pooled over columns."""
    ring = p[P_H] * p[W_OUT]
    if p[MODE] == POOL:
        return ring, p[ACROSS_SLOTS], p[DOWN_SLOTS] * p[M_W]
    return ring, 1, 0


def work_rows(p: Any, first: bool, tangent: bool) -> int:
    """Rows of one layer's buffers, see `_buffers`."""
    ring, mapped, lines = _row_counts(p)
    kept = mapped + lines
    return int(_SINGLE + ring + kept + p[WIDTH] * first + tangent * (kept + ring * (not first)))


def entries(p: Any) -> int:
    """Whole numbers that one layer works with: taps, and which part of each kept row is there."""
    return int(4 * p[TAPS] + 2 * (p[ACROSS_SLOTS] + p[DOWN_SLOTS] * p[M_W]))


@njit(**NATIVE)
def _rows(work: Any, start: int, count: int, stride: int) -> Any:
    return work[start * stride : (start + count) * stride].reshape(count, stride)


@njit(**NATIVE)
def _buffers(p: Any, work: Any, first: bool, tangent: bool) -> Any:
    """Views into what a thread works in: single rows, inputs, the ring, mapped rows, and those pooled over columns."""
    stride = p[STRIDE]
    ring_rows, mapped_rows, line_rows = _row_counts(p)
    some = _rows(work, 0, _SINGLE, stride)
    at = _SINGLE
    ring = _rows(work, at, ring_rows, stride)
    at += ring_rows
    inputs = _rows(work, at, p[WIDTH] if first else 0, stride)
    at += len(inputs)
    mapped = _rows(work, at, mapped_rows, stride)
    at += mapped_rows
    lines = _rows(work, at, line_rows, stride)
    at += line_rows
    ring_t, mapped_t, lines_t = ring, mapped, lines
    if tangent:
        mapped_t = _rows(work, at, mapped_rows, stride)
        at += mapped_rows
        lines_t = _rows(work, at, line_rows, stride)
        at += line_rows
        if not first:  # the tangent kernel has sums of its own from the second layer on
            ring_t = _rows(work, at, ring_rows, stride)
    return some, inputs, ring, ring_t, mapped, mapped_t, lines, lines_t


# --- patches


@njit(**LEAF)
def _columns(
    p: Any, table: Any, x: Any, y: Any, state: Any, virtual: int, first: bool, ring: Any, inputs: Any, rows: Any,
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
            combine(inputs, b, y, by, rows, shifts, channels, lo, hi)
    if not direct:
        by[:patch] = 1
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
        source = state
        if direct:
            source = y
        elif first:
            source = inputs
        combine(ring, slot + b, source, by, rows, shifts, count, lo, hi)


@njit(**INLINE)
def _patch_rows(p: Any, a: int, b: int, rows: Any, shifts: Any, by: Any) -> int:
    """Which rows of the ring make S in row (a, b)."""
    count = 0
    for r in range(p[P_H]):
        source_row = a + r - p[BEFORE_H]
        if p[WRAP] or (source_row >= 0 and source_row < p[HEIGHT]):
            rows[count], shifts[count], by[count] = ((a + r) % p[P_H]) * p[W_OUT] + b, r * p[GRID_W], 1
            count += 1
    return count


@njit(**INLINE)
def _map_row(
    p: Any, floats: Any, a: int, b: int, lo: int, hi: int, first: bool, tangent: bool, ring: Any, ring_t: Any, nx: Any,
    inv_x: Any, ny: Any, inv_y: Any, row: Any, row_t: Any, mapped: Any, mapped_t: Any, slot: int, rows: Any,
    shifts: Any, by: Any, tmp: Any, zeros: Any,
) -> None:  # fmt: skip
    """Patches and kappa of one row, into its slot."""
    u, scale = a * p[W_OUT] + b, floats[p[SCALE]]
    par = floats[p[PAR] : p[PAR] + p[PAR_COUNT]]
    to, inv, norm = mapped[slot, lo:hi], inv_y[lo:hi], ny[lo:hi]
    count = _patch_rows(p, a, b, rows, shifts, by)
    if tangent and not first:
        combine(row_t, 0, ring_t, by, rows, shifts, count, lo, hi)
    s1, s2 = zeros[lo:], zeros[lo:]
    if count >= 3:  # kappa's own loop adds the last two
        count -= 2
        s1 = ring[rows[count], lo + shifts[count] :]
        s2 = ring[rows[count + 1], lo + shifts[count + 1] :]
    s = row[0, lo:hi]
    if count == 1:
        s = ring[rows[0], lo + shifts[0] : hi + shifts[0]]
    else:
        combine(row, 0, ring, by, rows, shifts, count, lo, hi)
    if tangent:
        both_row(
            p[CODE], par, s, s1, s2, row_t[0, lo:hi], first, inv_x[u] * scale, scale, nx[u], inv, norm, to,
            mapped_t[slot, lo:hi], tmp,
        )  # fmt: skip
    else:
        value_row(p[CODE], par, s, s1, s2, inv_x[u] * scale, nx[u], inv, norm, to, tmp)


@njit(**INLINE)
def _trace(p: Any, floats: Any, a: int, b: int, lo: int, hi: int, mapped: Any) -> float:
    """What a row of the last layer adds to the result: pooling and trace in one."""
    first = floats[p[WEIGHT_H] + a * p[STRIDE] + lo :]
    second = floats[p[WEIGHT_W] + b * p[STRIDE] + lo :]
    return weighted_sum(mapped[0, lo:hi], first, second)


# --- pooling


@njit(**INLINE)
def _take(
    table: Any, floats: Any, inputs: Any, slots: int, step: int, offset: int, spans: Any, rows: Any, shifts: Any,
    by: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """The inputs of one output that are there (zero ones are not): how many, and the part of the row they fill."""
    count, lo, hi = 0, 1 << 62, 0
    for k in range(inputs[0], inputs[1]):
        row = table[slots + table[inputs[2] + k]] * step + offset
        if spans[row, 1] > spans[row, 0]:
            rows[count], shifts[count], by[count] = row, 0, floats[inputs[3] + k]
            lo, hi = min(lo, spans[row, 0]), max(hi, spans[row, 1])
            count += 1
    return count, min(lo, hi), hi


@njit(**INLINE)
def _pool_columns(
    p: Any, table: Any, floats: Any, a: int, b: int, tangent: bool, mapped: Any, mapped_t: Any, lines: Any,
    lines_t: Any, spans: Any, line_spans: Any, rows: Any, shifts: Any, by: Any,
) -> None:  # fmt: skip
    """The outputs in line `a` of the first signal whose last input is column `b`."""
    line = table[p[DOWN_SLOT] + a] * p[M_W]
    for done in range(table[p[ACROSS_DONE_PTR] + b], table[p[ACROSS_DONE_PTR] + b + 1]):
        j = table[p[ACROSS_DONE] + done]
        ptr = p[ACROSS_PTR] + j
        inputs = (table[ptr], table[ptr + 1], p[ACROSS_FROM], p[ACROSS_BY])
        count, lo, hi = _take(table, floats, inputs, p[ACROSS_SLOT], 1, 0, spans, rows, shifts, by)
        line_spans[line + j, 0], line_spans[line + j, 1] = lo, hi
        if count:
            combine(lines, line + j, mapped, by, rows, shifts, count, lo, hi)
            if tangent:
                combine(lines_t, line + j, mapped_t, by, rows, shifts, count, lo, hi)


@njit(**LEAF)
def _pool_rows(
    p: Any, q: Any, table: Any, floats: Any, a: int, tangent: bool, lines: Any, lines_t: Any, line_spans: Any,
    field: Any, out: Any, out_t: Any, rows: Any, shifts: Any, by: Any, rows_2: Any, shifts_2: Any, by_2: Any,
) -> None:  # fmt: skip
    """The outputs whose last input is line `a` of the first signal, pooled over the second signal too."""
    row = field[:, p[STRIDE] :]
    for done in range(table[p[DOWN_DONE_PTR] + a], table[p[DOWN_DONE_PTR] + a + 1]):
        i = table[p[DOWN_DONE] + done]
        c_lo, c_hi = table[p[C_LO] + i], table[p[C_HI] + i]
        if c_hi <= c_lo:
            continue
        ptr = p[DOWN_PTR] + i
        inputs = (table[ptr], table[ptr + 1], p[DOWN_FROM], p[DOWN_BY])
        for j in range(p[M_W]):
            u = i * p[M_W] + j
            count, lo, hi = _take(table, floats, inputs, p[DOWN_SLOT], p[M_W], j, line_spans, rows, shifts, by)
            if count == 0:
                _clear(p, q, c_lo, c_hi, out, u)
                if tangent:
                    _clear(p, q, c_lo, c_hi, out_t, u)
                continue
            combine(row, 0, lines, by, rows, shifts, count, lo, hi)
            if p[UNEVEN]:
                _clear_border(p, row)
            _pool_second(p, q, table, floats, c_lo, c_hi, field, out, u, rows_2, shifts_2, by_2)
            if tangent:
                combine(row, 0, lines_t, by, rows, shifts, count, lo, hi)
                _clear_border(p, row)
                _pool_second(p, q, table, floats, c_lo, c_hi, field, out_t, u, rows_2, shifts_2, by_2)


@njit(**LEAF)
def _clear_border(p: Any, row: Any) -> None:
    """Zeros around a row, which pooling reads; in rows of the first kernel that are whole the norms have put them."""
    size = p[H_OUT] * p[GRID_W]
    for i in range(size, p[STRIDE]):
        row[0, i] = 0
    for i in range(p[W_OUT], size, p[GRID_W]):
        for border in range(p[GRID_W] - p[W_OUT]):
            row[0, i + border] = 0


@njit(**INLINE)
def _filter(table: Any, floats: Any, inputs: Any, step: int, back: int, rows: Any, shifts: Any, by: Any) -> int:
    """The inputs of one output as shifts in one row, `back` entries before its place: how many."""
    for k in range(inputs[0], inputs[1]):
        tap = k - inputs[0]
        rows[tap], shifts[tap], by[tap] = 0, table[inputs[2] + k] * step - back, floats[inputs[3] + k]
    return inputs[1] - inputs[0]


@njit(**LEAF)
def _pool_second(
    p: Any, q: Any, table: Any, floats: Any, c_lo: int, c_hi: int, field: Any, out: Any, at: int, rows: Any,
    shifts: Any, by: Any,
) -> None:  # fmt: skip
    """Pooling over the second signal of the row in the field, into a row of the next layer's state.

    Outputs that are one filter are pooled at every position, flat, and the wanted ones picked: long rows are faster
    than few numbers. The field is five rows: zeros, the row, zeros, where it is pooled over its lines, over columns.
    """
    width, stride = p[GRID_W], p[STRIDE]
    down, across = p[DOWN_STEP] * width, p[ACROSS_STEP]
    down_lo, down_hi = max(c_lo, p[DOWN_LO]), min(c_hi, p[DOWN_HI])
    pooled = 3 * stride
    for c in range(c_lo, c_hi):
        alone = c < down_lo or c >= down_hi
        if alone or c == down_lo:
            full = c if alone else p[DOWN_FULL]
            inputs = (table[p[DOWN_PTR] + full], table[p[DOWN_PTR] + full + 1], p[DOWN_FROM], p[DOWN_BY])
            count = _filter(table, floats, inputs, width, full * down + 2 * stride, rows, shifts, by)
            last = c if alone else down_hi - 1
            combine(field, 0, field, by, rows, shifts, count, pooled + c * down, pooled + last * down + width)
    across_lo, across_hi = p[ACROSS_LO], p[ACROSS_HI]
    if across_hi > across_lo:
        full = p[ACROSS_FULL]
        inputs = (table[p[ACROSS_PTR] + full], table[p[ACROSS_PTR] + full + 1], p[ACROSS_FROM], p[ACROSS_BY])
        count = _filter(table, floats, inputs, 1, full * across + stride, rows, shifts, by)
        first, last = c_lo * down + across_lo * across, (c_hi - 1) * down + (across_hi - 1) * across
        combine(field, 0, field, by, rows, shifts, count, pooled + stride + first, pooled + stride + last + 1)
    for c in range(c_lo, c_hi):
        target = out[at, (q[BEFORE_H] + c) * q[GRID_W] + q[BEFORE_W] :]
        part, filtered = field[0, pooled + c * down :], field[0, pooled + stride + c * down :]
        if across == 2:  # said as a number, this loop takes vectors
            for d in range(across_lo, across_hi):
                target[d] = filtered[2 * d]
        else:
            for d in range(across_lo, across_hi):
                target[d] = filtered[d * across]
        for d in range(p[M_W]):
            if d < across_lo or d >= across_hi:
                target[d] = _alone(p, table, floats, part, d)


@njit(**LEAF)
def _alone(p: Any, table: Any, floats: Any, part: Any, d: int) -> Any:
    """One pooled entry with taps of its own."""
    total = part.dtype.type(0)
    for k in range(table[p[ACROSS_PTR] + d], table[p[ACROSS_PTR] + d + 1]):
        total += floats[p[ACROSS_BY] + k] * part[table[p[ACROSS_FROM] + k]]
    return total


@njit(**LEAF)
def _clear(p: Any, q: Any, c_lo: int, c_hi: int, out: Any, at: int) -> None:
    """A row of the next layer's state to which nothing contributes."""
    for c in range(c_lo, c_hi):
        line = (q[BEFORE_H] + c) * q[GRID_W] + q[BEFORE_W]
        for i in range(p[M_W]):
            out[at, line + i] = 0


@njit(**LEAF)
def _copy_row(p: Any, q: Any, mapped: Any, out: Any, u: int) -> None:
    """A row of a layer without pooling, from its own grid to that of the next layer."""
    for c in range(p[H_OUT]):
        source = mapped[0, c * p[GRID_W] :]
        line = out[u, (q[BEFORE_H] + c) * q[GRID_W] + q[BEFORE_W] :]
        for d in range(p[W_OUT]):
            line[d] = source[d]


@njit(**LEAF)
def _wrap_rows(q: Any, count: int, out: Any) -> None:
    """The border of the torus around every row's grid."""
    h, w, width = q[HEIGHT], q[WIDTH], q[GRID_W]
    for row in range(count):
        line = out[row]
        for c in range(q[GRID_H]):
            inside = q[BEFORE_H] + (c - q[BEFORE_H]) % h
            for d in range(width):
                line[c * width + d] = line[inside * width + q[BEFORE_W] + (d - q[BEFORE_W]) % w]


# --- the layer


@njit(**NATIVE)
def layer(
    p: Any, q: Any, table: Any, floats: Any, x: Any, y: Any, state: Any, state_t: Any, first: bool, tangent: bool,
    nx: Any, inv_x: Any, ny: Any, inv_y: Any, work: Any, whole: Any, out: Any, out_t: Any,
) -> tuple[float, float]:  # fmt: skip
    """The state for the next layer `q` into `out`, or the traces if this layer is the last.

    Parameters
    ----------
    p, q, table, floats
        Of the program: this layer and the next.
    x, y
        The signals.
    state, state_t
        The last layer's, of both kernels.
    first, tangent
        Whether it is the first layer, and whether the tangent kernel is computed.
    nx, inv_x, ny, inv_y
        Norms of patches and their inverses, by position and on the grid.
    work, whole
        What a thread works in.
    out, out_t
        The next layer's states.
    """
    mode, n_taps = p[MODE], p[TAPS]
    some, inputs, ring, ring_t, mapped, mapped_t, lines, lines_t = _buffers(p, work, first, tangent)
    row, row_t, tmp = some[:1], some[1:2], some[2:7]
    field, zeros = some[7:12].reshape(1, 5 * p[STRIDE]), some[12]
    field[:] = 0  # another layer has been here
    zeros[:] = 0
    by, by_2 = work[len(work) - 2 * n_taps : len(work) - n_taps], work[len(work) - n_taps :]
    rows, shifts = whole[:n_taps], whole[n_taps : 2 * n_taps]
    rows_2, shifts_2 = whole[2 * n_taps : 3 * n_taps], whole[3 * n_taps : 4 * n_taps]
    spans = whole[4 * n_taps : 4 * n_taps + 2 * p[ACROSS_SLOTS]].reshape(p[ACROSS_SLOTS], 2)
    line_spans = whole[4 * n_taps + 2 * p[ACROSS_SLOTS] :]
    line_spans = line_spans[: 2 * p[DOWN_SLOTS] * p[M_W]].reshape(p[DOWN_SLOTS] * p[M_W], 2)
    total, total_t = 0.0, 0.0
    ready = 0  # virtual lines in the ring
    for a in range(p[H_OUT]):
        while ready < a + p[P_H]:
            _columns(p, table, x, y, state, ready, first, ring, inputs, rows, shifts, by)
            if tangent and not first:
                _columns(p, table, x, y, state_t, ready, first, ring_t, inputs, rows, shifts, by)
            ready += 1
        for b in range(p[W_OUT]):
            u = a * p[W_OUT] + b
            lo, hi = table[p[S_LO] + u], table[p[S_HI] + u]
            if nx[u] == 0:
                hi = lo
            slot = table[p[ACROSS_SLOT] + b] if mode == POOL else 0
            if hi > lo:
                _map_row(
                    p, floats, a, b, lo, hi, first, tangent, ring, ring_t, nx, inv_x, ny, inv_y, row, row_t, mapped,
                    mapped_t, slot, rows, shifts, by, tmp, zeros,
                )  # fmt: skip
            if mode == TRACE:
                if hi > lo:
                    total += _trace(p, floats, a, b, lo, hi, mapped)
                    if tangent:
                        total_t += _trace(p, floats, a, b, lo, hi, mapped_t)
            elif mode == MAP_ONLY:
                if hi <= lo:
                    mapped[0] = 0
                    mapped_t[0] = 0
                _copy_row(p, q, mapped, out, u)
                if tangent:
                    _copy_row(p, q, mapped_t, out_t, u)
            else:
                spans[slot, 0], spans[slot, 1] = lo, hi
                _pool_columns(
                    p, table, floats, a, b, tangent, mapped, mapped_t, lines, lines_t, spans, line_spans, rows, shifts,
                    by,
                )  # fmt: skip
        if mode == POOL:
            _pool_rows(
                p, q, table, floats, a, tangent, lines, lines_t, line_spans, field, out, out_t, rows, shifts, by,
                rows_2, shifts_2, by_2,
            )  # fmt: skip
    if mode != TRACE and q[WRAP]:
        _wrap_rows(q, p[M_H] * p[M_W], out)
        if tangent:
            _wrap_rows(q, p[M_H] * p[M_W], out_t)
    return total, total_t

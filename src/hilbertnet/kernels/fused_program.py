"""What the compiled recursion is told of an architecture: sizes, ranges, taps and weights, as two flat arrays.

A signal has two axes here; those of one axis get a first one of length 1. Positions u' of the second signal are flat
on a grid of rows, so that every shift, sum and kappa is one pass over a contiguous row, and u = (a, b) numbers rows.

Only pairs of positions that can reach the result are visited. From the last layer back, along each axis, ``need[a,
c]`` says whether the pair of positions a and c counts: at the end those with a = c, before a pooling those that share
a window with a pair that counts, before patches those that share an offset. Rows are cut to the hull of what counts,
at multiples of `LANES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.operators import patch_length, patch_padding, patch_scale, pooling_matrix
from hilbertnet.kernels import fused_kappa

__all__ = ["FIELDS", "LANES", "Program", "make_program"]

LANES = 16  # entries of a vector, or of several: stores begin at whole ones

FIELDS = (  # noqa: SIM905 - comments between the names
    # kappa: its code, its parameters; the factor of P, squared
    "code par par_count scale "
    # maps before the layer: rows and columns; patch; border before; whether the border wraps
    "h w p_h p_w before_h before_w wrap "
    # grid of the second signal with its border, length of a row of the state, positions after patches, pooled
    "grid_h grid_w stride h_out w_out m_h m_w "
    # pooling: 0 none, 1 pool, 2 the last layer, whose pooling and trace are one weighted sum
    "mode "
    # ranges [lo, hi): S for every (a, b), H for every (virtual row, b), inputs for every virtual row
    "s_lo s_hi h_lo h_hi g_lo g_hi "
    # whether the ranges of S differ: sums of rows then reach beyond what is there of some
    "uneven "
    # pooling over rows and over columns, by output; outputs that each input completes; slots in which inputs are kept
    "down_ptr down_from down_by across_ptr across_from across_by down_done_ptr down_done across_done_ptr across_done "
    "down_slot down_slots across_slot across_slots "
    # which pooled rows of the second signal are needed
    "c_lo c_hi "
    # outputs [lo, hi) that are one filter, moved by `step` positions from each to the next; an output with all its taps
    "down_lo down_hi down_step down_full across_lo across_hi across_step across_full "
    # the last layer's weights of positions of the second signal, for every a and every b
    "weight_h weight_w "
    # most terms of any sum
    "taps"
).split()


@dataclass(frozen=True)
class _Axis:
    """A layer along one axis."""

    length: int
    patch: int
    before: int
    after: int
    out: int
    pool: NDArray[np.float64] | None  # (pooled, out)
    wrap: bool

    @property
    def pooled(self) -> int:
        return self.out if self.pool is None else len(self.pool)

    @property
    def grid(self) -> int:
        return self.length + self.before + self.after

    @property
    def matrix(self) -> NDArray[np.float64]:
        return np.eye(self.out) if self.pool is None else self.pool

    def before_pool(self, need: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pairs of patches that reach pairs of pooled positions."""
        reach = (self.matrix != 0).astype(np.int64)
        return reach.T @ need @ reach > 0

    def before_patches(self, need: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pairs of pixels that reach pairs of patches."""
        result = np.zeros((self.length, self.length), bool)
        a, c = np.nonzero(need)
        for r in range(self.patch):
            i, j = a + r - self.before, c + r - self.before
            if self.wrap:
                i, j = i % self.length, j % self.length
            inside = (i >= 0) & (i < self.length) & (j >= 0) & (j < self.length)
            result[i[inside], j[inside]] = True
        return result


@dataclass(frozen=True)
class Program:
    """An architecture for signals of one shape, as the compiled code reads it.

    Parameters
    ----------
    ints
        Shape (layers, fields): what `FIELDS` names, and the offsets in the two tables.
    table
        Whole numbers: ranges and taps.
    floats
        Parameters of kappa, and weights.
    shape
        (channels, rows, columns) of the signals.
    layers
        For every layer: grid of the patches of the second signal (rows, columns used, length of a row) and the length
        of a row of the state.
    stride
        Length of a row of the first layer's state.
    arch
        The architecture.
    """

    ints: NDArray[np.int64]
    table: NDArray[np.int64]
    floats: NDArray[Any]
    shape: tuple[int, int, int]
    layers: tuple[tuple[int, int, int, int], ...]
    stride: int
    arch: Architecture


class _Tables:
    def __init__(self) -> None:
        self.ints: list[int] = []
        self.floats: list[float] = []

    def whole(self, values: Any) -> int:
        start = len(self.ints)
        self.ints += np.asarray(values, np.int64).ravel().tolist()
        return start

    def real(self, values: Any) -> int:
        start = len(self.floats)
        self.floats += np.asarray(values, np.float64).ravel().tolist()
        return start


def make_program(arch: Architecture, shape: tuple[int, ...], dtype: np.dtype[Any], *, own: bool) -> Program | None:
    """The program of an architecture, or ``None`` where some kappa has no code.

    Parameters
    ----------
    arch
        The architecture.
    shape
        Of one signal, (channels, *space).
    dtype
        Of the computation.
    own
        Whether it is for signals with themselves, where norms of all patches are needed too.
    """
    channels, *space = shape
    codes = [fused_kappa.encode(layer.kernel, dtype) for layer in arch.layers]
    if any(code is None for code in codes):
        return None
    axes = _axes(arch, tuple(space))
    needs = _needs(axes, own)
    tables, rows, grids = _Tables(), [], []
    for index, (layer, pair) in enumerate(zip(arch.layers, axes, strict=True)):
        code = codes[index]
        assert code is not None
        row = _fields(tables, layer, arch, pair, needs[index], index == len(axes) - 1, len(space))
        row["taps"] = max(_most_taps(pair), channels * pair[1].patch if index == 0 else 0)
        row |= {"code": code[0], "par": tables.real(code[1]), "par_count": len(code[1])}
        rows.append([row[name] for name in FIELDS])
        grids.append((pair[0].out, pair[1].out, pair[1].grid, row["stride"]))
    ints = np.array(rows, np.int64)
    size = (space[0], space[1]) if len(space) == 2 else (1, space[0])
    floats, stride = np.array(tables.floats, dtype), rows[0][FIELDS.index("stride")]
    return Program(ints, np.array(tables.ints, np.int64), floats, (channels, *size), tuple(grids), stride, arch)


def _axes(arch: Architecture, space: tuple[int, ...]) -> list[tuple[_Axis, _Axis]]:
    result = []
    for layer in arch.layers:
        found = [_axis(arch, layer, length) for length in space]
        first = found[0] if len(found) == 2 else _Axis(1, 1, 0, 0, 1, None, False)
        result.append((first, found[-1]))
        space = tuple(axis.pooled for axis in found)
    return result


def _axis(arch: Architecture, layer: Layer, length: int) -> _Axis:
    out = patch_length(length, layer.patch, arch)
    pool = None if layer.pool is None else pooling_matrix(layer.pool, out, arch).numpy()
    return _Axis(length, layer.patch, *patch_padding(layer.patch, arch), out, pool, arch.boundary == "circular")


def _needs(axes: list[tuple[_Axis, _Axis]], own: bool) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """For every layer and axis, which pairs of pooled positions count."""
    need = [np.eye(axis.pooled, dtype=bool) for axis in axes[-1]]
    result = [(need[0], need[1])]
    for pair in axes[:0:-1]:
        need = [axis.before_patches(axis.before_pool(one)) for axis, one in zip(pair, need, strict=True)]
        if own:  # norms of all patches
            need = [one | np.eye(len(one), dtype=bool) for one in need]
        result.append((need[0], need[1]))
    return result[::-1]


def _fields(
    tables: _Tables,
    layer: Layer,
    arch: Architecture,
    pair: tuple[_Axis, _Axis],
    need: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    last: bool,
    space: int,
) -> dict[str, int]:
    rows, columns = pair
    shifts = (rows.patch - 1) * columns.grid + columns.patch - 1
    stride = _whole_lanes(_whole_lanes(rows.out * columns.grid) + shifts)
    result = {
        "scale": tables.real([patch_scale(layer.patch, space, arch) ** 2]),
        "h": rows.length,
        "w": columns.length,
        "p_h": rows.patch,
        "p_w": columns.patch,
        "before_h": rows.before,
        "before_w": columns.before,
        "wrap": int(columns.wrap),
        "grid_h": rows.grid,
        "grid_w": columns.grid,
        "stride": stride,
        "h_out": rows.out,
        "w_out": columns.out,
        "m_h": rows.pooled,
        "m_w": columns.pooled,
        "mode": 2 if last else int(layer.pool is not None),
    }
    return result | _ranges(tables, pair, need) | _pooling(tables, pair, need) | _weights(tables, pair, last, stride)


def _whole_lanes(count: Any) -> Any:
    return -(-count // LANES) * LANES


def _most_taps(pair: tuple[_Axis, _Axis]) -> int:
    return int(max(max(axis.patch, (axis.matrix != 0).sum(1).max()) for axis in pair))


def _ranges(
    tables: _Tables, pair: tuple[_Axis, _Axis], need: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> dict[str, int]:
    """Flat ranges of u' that count, for S, for the horizontal sums H, and for the inputs."""
    rows, columns = pair
    width = columns.grid
    c_lo, c_hi = _hull(rows.before_pool(need[0]))
    d_lo, d_hi = _hull(columns.before_pool(need[1]))
    used = (c_hi > c_lo)[:, None] & (d_hi > d_lo)
    s_lo = np.where(used, (c_lo[:, None] * width + d_lo) // LANES * LANES, 0)
    s_hi = np.where(used, _whole_lanes((c_hi[:, None] - 1) * width + d_hi), 0)
    virtual = rows.out + rows.patch - 1
    h_lo, h_hi = np.full((virtual, columns.out), np.iinfo(np.int64).max), np.zeros((virtual, columns.out), np.int64)
    for r in range(rows.patch):
        part = slice(r, r + rows.out)
        h_lo[part] = np.where(used, np.minimum(h_lo[part], s_lo + r * width), h_lo[part])
        h_hi[part] = np.where(used, np.maximum(h_hi[part], s_hi + r * width), h_hi[part])
    h_lo = np.minimum(h_lo, h_hi) // LANES * LANES
    some = h_hi > h_lo
    g_lo = np.where(some, h_lo, np.iinfo(np.int64).max).min(1)
    g_hi = np.where(some.any(1), h_hi.max(1) + columns.patch - 1, 0)
    values = {"s_lo": s_lo, "s_hi": s_hi, "h_lo": h_lo, "h_hi": h_hi, "g_lo": np.minimum(g_lo, g_hi), "g_hi": g_hi}
    uneven = used & ((s_lo != s_lo[used].min()) | (s_hi != s_hi[used].max()))
    return {name: tables.whole(value) for name, value in values.items()} | {"uneven": int(uneven.any())}


def _hull(need: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every row the range [lo, hi) that holds all that is true."""
    some = need.any(1)
    lo = np.where(some, need.argmax(1), 0)
    hi = np.where(some, need.shape[1] - need[:, ::-1].argmax(1), 0)
    return lo, hi


def _pooling(
    tables: _Tables, pair: tuple[_Axis, _Axis], need: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> dict[str, int]:
    """Pooling of both signals along both axes, as sums that outputs take of their inputs."""
    result: dict[str, int] = {}
    for name, axis, border in (("down", pair[0], pair[0].out), ("across", pair[1], pair[1].grid - pair[1].out)):
        filled = axis.matrix != 0
        last = _hull(filled)[1] - 1
        until = np.where(filled, last[:, None], -1).max(0)  # the last step at which an input is used
        steps = np.arange(axis.out)
        slot, slots = _slots(steps, np.maximum(until, steps) + 1)
        result |= {
            f"{name}_ptr": tables.whole(np.concatenate([[0], filled.sum(1).cumsum()])),
            f"{name}_from": tables.whole(np.nonzero(filled)[1]),
            f"{name}_by": tables.real(axis.matrix[filled]),
            f"{name}_done_ptr": tables.whole(np.searchsorted(np.sort(last), np.arange(axis.out + 1))),
            f"{name}_done": tables.whole(np.argsort(last, kind="stable")),
            f"{name}_slot": tables.whole(slot),
            f"{name}_slots": slots,
        }
        result |= {f"{name}_{key}": value for key, value in _filter(axis.matrix, border).items()}
    c_lo, c_hi = _hull(need[0])
    return result | {"c_lo": tables.whole(c_lo), "c_hi": tables.whole(c_hi)}


def _filter(matrix: NDArray[np.float64], border: int) -> dict[str, int]:
    """The longest run of outputs that are one filter, which may reach `border` zeros beyond the inputs."""
    outputs, inputs = matrix.shape
    first, end = _hull(matrix != 0)
    width = np.where((matrix != 0).sum(1) == end - first, end - first, 0)  # without gaps
    full = np.flatnonzero(width == width.max())
    one = int(full[0])
    step = int(first[full[1]] - first[one]) // int(full[1] - one) if len(full) > 1 else 1
    taps = matrix[one, first[one] : end[one]]
    best, run = (0, 0), 0
    for j in range(outputs):
        at = int(first[one]) + step * (j - one)
        padded = np.zeros(inputs + 2 * border)
        same = step >= 1 and step * (outputs - 1) < inputs and -border <= at <= inputs + border - len(taps)
        if same:
            padded[at + border : at + border + len(taps)] = taps
            same = np.array_equal(padded[border : border + inputs], matrix[j])
        run = run + 1 if same else 0
        best = max(best, (run, j + 1))
    length, hi = best
    return {"lo": hi - length, "hi": hi, "step": step if length else 1, "full": one}


def _slots(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[list[int], int]:
    """Slots that rows share, each from its first step up to, not including, its last."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    result = [0] * len(first)
    count = 0
    for row in np.argsort(first, kind="stable"):
        free += [slot for end, slot in busy if end <= first[row]]
        busy = [(end, slot) for end, slot in busy if end > first[row]]
        if not free:
            free.append(count)
            count += 1
        result[row] = free.pop()
        busy.append((int(last[row]), result[row]))
    return result, count


def _weights(tables: _Tables, pair: tuple[_Axis, _Axis], last: bool, stride: int) -> dict[str, int]:
    """A'A of both axes, spread over rows of the second signal: the last pooling and the trace in one."""
    if not last:
        return {"weight_h": 0, "weight_w": 0}
    rows, columns = pair
    grid = np.zeros((rows.out, rows.out, columns.grid))
    grid[:] = (rows.matrix.T @ rows.matrix)[:, :, None]
    across = np.zeros((columns.out, rows.out, columns.grid))
    across[:, :, : columns.out] = (columns.matrix.T @ columns.matrix)[:, None, :]
    spread = [
        np.pad(one.reshape(len(one), -1), ((0, 0), (0, stride - rows.out * columns.grid))) for one in (grid, across)
    ]
    return {"weight_h": tables.real(spread[0]), "weight_w": tables.real(spread[1])}

"""A Gram matrix as tiles of known memory: what is computed, in what order, and what it costs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from hilbertnet.architecture.layers import Architecture
from hilbertnet.kernels.grid import Grid
from hilbertnet.progress import format_bytes, format_seconds

__all__ = ["ACCELERATORS", "Plan", "Tile", "check_machine", "make_plan"]

ACCELERATORS = ("cuda", "xpu")
"""Kinds of devices with a compiler for `hilbertnet.kernels.fused_gpu`; AMD's are ``"cuda"`` too."""

# how many tensors of the size of a layer's largest state are alive at once in the recursion, as measured
_LIVE_CKN, _LIVE_NTK = 9, 10
_RESULT_BYTES = 48  # of one pair of a compiled tile: both kernels in float64, for a tile and for its parts
_COMPILED_SIDE = 32
_WORKING_SET = 32 * 2**20  # larger tiles leave the cache and are several times slower
_ACCELERATOR_SET = 16 * 2**30  # of an accelerator's memory at most; smaller tiles are mostly launches


class Tile(NamedTuple):
    """Rows and columns of one tile."""

    rows: slice
    columns: slice

    @property
    def pairs(self) -> int:
        """How many pairs of signals it holds."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


@dataclass(frozen=True)
class Plan:
    """How a Gram matrix will be computed, and what it costs; ``print`` it.

    Parameters
    ----------
    rows, columns
        Shape of the matrix.
    symmetric
        Whether only the tiles on and above the diagonal are computed.
    side
        Rows and columns of a tile.
    pair_bytes
        Working memory of one pair of signals.
    signal_bytes
        Working memory of one signal of a tile, for its rows and columns.
    fixed_bytes
        The matrices themselves, and the norms of patches that all tiles share.
    pair_seconds
        Time for one pair, as measured on this machine, or NaN before it is.
    """

    rows: int
    columns: int
    symmetric: bool
    side: int
    pair_bytes: int
    signal_bytes: int
    fixed_bytes: int
    pair_seconds: float = math.nan

    @property
    def pairs(self) -> int:
        """How many pairs of signals are evaluated, with those that norms need."""
        if not self.symmetric:
            return self.rows * self.columns + self.rows + self.columns
        if self.signal_bytes:  # the compiled recursion skips half of the tiles on the diagonal too
            return self.rows * (self.rows + 1) // 2 + self.rows
        full, rest = divmod(self.rows, self.side)
        on_diagonal = full * self.side**2 + rest**2
        return (self.rows**2 + on_diagonal) // 2 + self.rows

    @property
    def _grid(self) -> Grid:
        return Grid(self.rows, self.columns, self.symmetric, self.side)

    @property
    def tile_count(self) -> int:
        """How many tiles are computed."""
        return self._grid.count

    @property
    def seconds(self) -> float:
        """Estimated time."""
        return self.pairs * self.pair_seconds

    @property
    def peak_bytes(self) -> int:
        """Estimated peak of memory, beyond what the signals themselves take."""
        pairs = min(self.side**2, self.rows * self.columns)
        return self.fixed_bytes + pairs * self.pair_bytes + 2 * self.side * self.signal_bytes

    def batches(self, signals: Sized) -> list[slice]:
        """Batches of signals whose passes with themselves take as much memory as a tile."""
        step = self.side if self.signal_bytes else self.side**2
        return [slice(start, min(start + step, len(signals))) for start in range(0, len(signals), step)]

    def tiles(self) -> Iterator[Tile]:
        """The tiles, row by row; of a symmetric matrix, those on and above the diagonal."""
        grid = self._grid
        for place in grid.places():
            yield Tile(grid.row_slice(place.row), grid.column_slice(place.column))

    def __str__(self) -> str:
        time = "unknown time" if math.isnan(self.seconds) else f"about {format_seconds(self.seconds)}"
        fixed = "the result, the norms and what threads work in" if self.signal_bytes else "the result and the norms"
        return (
            f"Gram matrix {self.rows:,} x {self.columns:,}: {self.pairs:,} pairs of signals, {time} on this machine, "
            f"{format_bytes(self.peak_bytes)} of memory ({format_bytes(self.fixed_bytes)} for {fixed})"
        )

    def timed(self, pair_seconds: float) -> Plan:
        """The same plan with the measured time of one pair."""
        return replace(self, pair_seconds=pair_seconds)


def check_machine(plan: Plan) -> None:
    """Refuse what could only end in the machine running out of memory, perhaps days later.

    Raises
    ------
    ValueError
        If the plan needs more memory than the machine has.
    """
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return
    needed = plan.peak_bytes
    if needed > physical:
        raise ValueError(
            f"memory: the {plan.rows:,} x {plan.columns:,} result and its working memory need {format_bytes(needed)}, "
            f"this machine has {format_bytes(physical)}; compute the matrix in blocks, or in dtype=torch.float32"
        )


def _state_sizes(arch: Architecture, space: tuple[int, ...]) -> list[int]:
    """Entries of one signal's map at every stage: input, and patches of every layer (poolings are smaller)."""
    stages = [space] + [stage for shapes in arch.shapes(space) for stage in shapes]
    return [math.prod(stage) for stage in stages]


def _working_set(device: torch.device | None) -> int:
    """Bytes that a tile should take."""
    if device is None or device.type not in ACCELERATORS:
        return _WORKING_SET
    total: int = torch.get_device_module(device).get_device_properties(device).total_memory
    return min(total // 4, _ACCELERATOR_SET)


def make_plan(
    arch: Architecture,
    shape: tuple[int, ...],
    rows: int,
    columns: int | None,
    *,
    dtype: torch.dtype,
    results: int,
    tangent: bool,
    memory: int | None,
    compiled: tuple[int, int] | None = None,
    device: torch.device | None = None,
) -> Plan:
    """Plan a Gram matrix under a memory budget.

    Parameters
    ----------
    arch
        The architecture.
    shape
        Shape of one signal, (channels, *space).
    rows, columns
        Numbers of signals; ``columns=None`` for the symmetric matrix.
    dtype
        Of the computation and the result.
    results
        How many matrices are returned.
    tangent
        Whether the tangent kernel is computed.
    memory
        Bytes for everything but the signals; default the result, the norms and what tiles of a good size need.
    compiled
        For the compiled recursion, the bytes of one signal of a tile, and of what all threads work in.
    device
        Where it is computed; default the CPU.

    Raises
    ------
    ValueError
        If not even one pair at a time fits the budget.
    """
    item = torch.finfo(dtype).bits // 8
    symmetric, width = columns is None, rows if columns is None else columns
    signals = rows if symmetric else rows + width
    kept = sum(math.prod(patched) for patched, _ in arch.shapes(shape[1:])) + math.prod(shape)
    fixed = item * (results * rows * width + signals * (kept + 2))
    if compiled is None:
        pair_bytes = (_LIVE_NTK if tangent else _LIVE_CKN) * item * max(_state_sizes(arch, shape[1:])) ** 2
        signal_bytes, working, most = 0, 0, max(1, math.isqrt(_working_set(device) // pair_bytes))
    else:
        signal_bytes, working = compiled
        pair_bytes, most = _RESULT_BYTES, _COMPILED_SIDE
    fixed += working
    smallest = fixed + pair_bytes + 2 * signal_bytes
    if memory is not None and memory < smallest:
        raise ValueError(
            f"memory: expected at least {format_bytes(smallest)} ({format_bytes(fixed - working)} for the "
            f"{rows:,} x {width:,} result and the norms, {format_bytes(smallest - fixed + working)} to work in), "
            f"got {format_bytes(memory)}"
        )
    side = min(most, max(rows, width))
    while memory is not None and side > 1 and fixed + side * (side * pair_bytes + 2 * signal_bytes) > memory:
        side -= 1
    return Plan(rows, width, symmetric, side, pair_bytes, signal_bytes, fixed)

"""What a stored Gram matrix is of, how its tiles are computed, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet import __version__
from hilbertnet.kernels.gram import ConvKernel
from hilbertnet.kernels.grid import Grid, Place
from hilbertnet.kernels.store import FORMAT, KINDS, GramStore, bytes_on_disk
from hilbertnet.progress import format_bytes, format_seconds
from hilbertnet.records import digest
from hilbertnet.signals import as_signals, is_count
from hilbertnet.text import parse_bytes

__all__ = ["GramJob", "StorePlan"]

_TILE_SECONDS = 10.0
_SMALLEST, _LARGEST = 32, 1024


@dataclass(frozen=True, eq=False)
class GramJob:
    """A kernel and its signals: whatever is needed to compute any tile.

    Parameters
    ----------
    kernel
        The kernel.
    kinds
        Which of its kinds are computed.
    x, y
        Signals, n and m of them; ``y=None`` for the symmetric matrix of `x`.
    data
        Digests of the signals as they were given, before they were converted to `dtype`.
    dtype
        Of the computation and the result.
    memory
        Bytes for one tile at work, or ``None``: see `ConvKernel.gram`.
    """

    kernel: ConvKernel
    kinds: tuple[str, ...]
    x: Tensor
    y: Tensor | None
    data: tuple[str, str | None]
    dtype: torch.dtype
    memory: int | None

    @classmethod
    def make(
        cls,
        kernel: ConvKernel,
        X: Any,
        Y: Any = None,
        *,
        kinds: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
        memory: int | float | str | None = None,
        workers: int = 1,
    ) -> GramJob:
        """Check what a user gives; `memory` is shared by `workers` tiles at work.

        Raises
        ------
        ValueError
            If an argument is not what is expected.
        """
        if not isinstance(kernel, ConvKernel):
            raise ValueError(f"kernel: expected a ConvKernel, got {type(kernel).__name__}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        chosen = (kernel.kind,) if kinds is None else tuple(kind for kind in KINDS if kind in kinds)
        if not chosen or (kinds is not None and sorted(chosen) != sorted(kinds)):
            raise ValueError(f"kinds: expected some of {KINDS}, got {kinds!r}")
        # refuses a tangent kernel that does not exist
        kernel = ConvKernel(kernel.arch, "ntk" if "ntk" in chosen else "ckn")
        budget = None if memory is None else parse_bytes(memory) // workers
        given = as_signals(X, "X")
        x = as_signals(given, "X", dtype=dtype)
        data = (digest(given), None)
        if Y is None:
            return cls(kernel, chosen, x, None, data, dtype, budget)
        other = as_signals(Y, "Y", like=x)
        y = as_signals(other, "Y", dtype=dtype)
        return cls(kernel, chosen, x, y, (data[0], digest(other)), dtype, budget)

    @property
    def identity(self) -> dict[str, Any]:
        """What the tiles are of, but for their side, for JSON."""
        return {
            "format": FORMAT,
            "version": __version__,
            "architecture": self.kernel.arch.to_dict(),
            "kinds": list(self.kinds),
            "dtype": str(self.dtype).removeprefix("torch."),
            "shape": [len(self.x), len(self.x if self.y is None else self.y)],
            "symmetric": self.y is None,
            "data": list(self.data),
        }

    def grid(self, side: int) -> Grid:
        """The matrix in tiles of this side."""
        rows, columns = self.identity["shape"]
        return Grid(rows, columns, self.y is None, side)

    def signals(self, grid: Grid, place: Place) -> tuple[Tensor, Tensor | None]:
        """Of the rows and the columns of a tile; ``None`` for those of a tile on a symmetric matrix's diagonal."""
        rows = self.x[grid.row_slice(place.row)]
        if grid.symmetric and place.row == place.column:
            return rows, None
        return rows, (self.x if self.y is None else self.y)[grid.column_slice(place.column)]

    def tile(self, grid: Grid, place: Place) -> dict[str, NDArray[Any]]:
        """The numbers of a tile, for every kind."""
        return compute_tile(self.kernel, self.kinds, *self.signals(grid, place), self.dtype, self.budget(grid.side))

    def budget(self, side: int, results: int = 0) -> int | None:
        """Bytes for a tile's computation, beside the chunks that are written from it and `results` more."""
        if self.memory is None:
            return None
        chunks = (len(self.kinds) + results) * side**2 * self.dtype.itemsize
        if chunks >= self.memory:
            raise ValueError(
                f"memory: tiles of {side} x {side} need more than {format_bytes(chunks)} at once, "
                f"got {format_bytes(self.memory)}; choose smaller ones"
            )
        return self.memory - chunks

    # --- cost

    def plan(self, side: int | None = None, store: GramStore | None = None) -> StorePlan:
        """What the matrix costs, in tiles of this side, or of the side that is chosen by their time.

        Parameters
        ----------
        side
            Rows and columns of a tile, or ``None``.
        store
            The store, if it exists: its tiles are used.

        Raises
        ------
        ValueError
            If a tile does not fit the budget, or the store has tiles of another side.
        """
        if side is not None and not is_count(side):
            raise ValueError(f"tile: expected a whole number of at least 1, got {side!r}")
        if store is not None:
            store.check(self.identity if side is None else self.identity | {"tile": side})
            side = store.grid.side
        elif side is None:
            side = self._choose_side()
        cost = self._probe(min(side, max(self.identity["shape"])))
        grid = self.grid(side)
        chunks = len(self.kinds) * grid.side**2 * self.dtype.itemsize
        done = 0 if store is None else len(store.done())
        tile_bytes = cost.peak_bytes + chunks + chunks // len(self.kinds) * (len(self.kinds) - 1)
        return StorePlan(grid, len(self.kinds), self.dtype.itemsize, cost.pair_seconds, tile_bytes, done)

    def _probe(self, side: int) -> Any:
        """The plan of one tile: checks that it fits the budget, and measures a few pairs."""
        other = self.x if self.y is None else self.y
        extra = len(self.kinds) - 1  # the plan of a kernel counts one result
        return self.kernel.plan(self.x[:side], other[:side], memory=self.budget(side, extra), dtype=self.dtype)

    def _choose_side(self) -> int:
        """A power of two, for tiles of some seconds that take a part of the budget only."""
        longest = max(self.identity["shape"])
        # of one pair alone, the time is mostly that of the call
        seconds = self._probe(min(16, longest) if self.memory is None else 1).pair_seconds
        side = math.sqrt(_TILE_SECONDS / max(seconds, 1e-9))
        if self.memory is not None:
            side = min(side, math.sqrt(self.memory / (8 * len(self.kinds) * self.dtype.itemsize)))
        power = 2 ** math.floor(math.log2(max(side, 1)))
        return min(max(power, _SMALLEST if self.memory is None else 1), _LARGEST, longest)


def compute_tile(
    kernel: ConvKernel,
    kinds: Sequence[str],
    x: Tensor,
    y: Tensor | None,
    dtype: torch.dtype,
    memory: int | None,
) -> dict[str, NDArray[Any]]:
    """One tile for every kind: a function of its arguments alone, so that any process may compute it."""
    matrices: tuple[Tensor, ...]
    if len(kinds) > 1:
        matrices = kernel.gram_pair(x, y, memory=memory, dtype=dtype, progress=False)
    else:
        matrices = (kernel.gram(x, y, memory=memory, dtype=dtype, progress=False),)
    return {kind: matrix.cpu().numpy() for kind, matrix in zip(kinds, matrices, strict=True)}


@dataclass(frozen=True)
class StorePlan:
    """What a stored Gram matrix costs; ``print`` it.

    Parameters
    ----------
    grid
        Its tiles.
    kinds
        How many kinds of kernels.
    itemsize
        Bytes of one number.
    pair_seconds
        Time for one pair of signals, as measured on this machine.
    tile_bytes
        Memory that one tile at work takes.
    done
        How many tiles a store has already.
    """

    grid: Grid
    kinds: int
    itemsize: int
    pair_seconds: float
    tile_bytes: int
    done: int = 0

    @property
    def pairs(self) -> int:
        """How many pairs of signals are evaluated, with those that norms need."""
        grid = self.grid
        if grid.symmetric:
            return grid.rows * (grid.rows + 1) // 2 + grid.rows * grid.down
        return grid.rows * grid.columns + grid.rows * grid.across + grid.columns * grid.down

    @property
    def seconds(self) -> float:
        """Estimated time of all tiles, one at a time."""
        return self.pairs * self.pair_seconds

    @property
    def seconds_left(self) -> float:
        """Estimated time of the tiles that are not done."""
        return self.seconds * (1 - self.done / self.grid.count)

    @property
    def disk_bytes(self) -> int:
        """What all tiles take on disk."""
        return bytes_on_disk(self.grid.count, self.grid.side, self.itemsize, self.kinds)

    def __str__(self) -> str:
        grid, left = self.grid, ""
        if self.done:
            left = f", {self.done:,} of them done, about {format_seconds(self.seconds_left)} left"
        return (
            f"Gram matrix {grid.rows:,} x {grid.columns:,}: {self.pairs:,} pairs of signals, "
            f"about {format_seconds(self.seconds)} on this machine, {format_bytes(self.tile_bytes)} of memory for a "
            f"tile, {format_bytes(self.disk_bytes)} on disk; {grid.count:,} tiles of {grid.side} x {grid.side}{left}"
        )

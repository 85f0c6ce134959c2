"""A Gram matrix read from its store, a tile at a time, so that it may be larger than memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.kernels.grid import Place
from hilbertnet.kernels.store import GramStore
from hilbertnet.progress import format_bytes
from hilbertnet.text import parse_bytes

__all__ = ["StoredGram", "open_gram"]


def open_gram(path: str | os.PathLike[str], kind: str | None = None) -> StoredGram:
    """The Gram matrix that a store keeps.

    Parameters
    ----------
    path
        The folder.
    kind
        ``"ckn"`` or ``"ntk"``; default the only one that it keeps.

    Raises
    ------
    ValueError
        If there is no such store, or it does not keep that kind.
    """
    return StoredGram(GramStore.open(path), kind)


class StoredGram:
    """One matrix of a store; nothing of it is in memory but what a method says.

    Every tile that is read is compared with its checksum. A symmetric one is a `GramLike`, what solvers ask for:
    `diagonal`, `matmul` and `columns` give float64. The other methods give the dtype of the store. All on the CPU.

    Parameters
    ----------
    store
        The store.
    kind
        ``"ckn"`` or ``"ntk"``; default the only one that it keeps.

    Raises
    ------
    ValueError
        From every method that reads, if tiles are missing or damaged, or the result does not fit the memory.
    """

    def __init__(self, store: GramStore, kind: str | None = None) -> None:
        if kind is None and len(store.kinds) > 1:
            raise ValueError(f"kind: {store.path} keeps {' and '.join(store.kinds)}; say which")
        if kind is not None and kind not in store.kinds:
            raise ValueError(f"kind: {store.path} keeps {' and '.join(store.kinds)}, got {kind!r}")
        self.store = store
        self.kind = kind or store.kinds[0]
        self._grid = store.grid
        self._whole = False

    def __repr__(self) -> str:
        return f"StoredGram({str(self.store.path)!r}, {self.shape[0]} x {self.shape[1]}, {self.kind})"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._grid.rows, self._grid.columns

    @property
    def dtype(self) -> torch.dtype:
        """``torch.float64`` or ``torch.float32``."""
        return torch.float64 if self.store.dtype.itemsize == 8 else torch.float32

    @property
    def symmetric(self) -> bool:
        """Whether it is the matrix of one set of signals with itself."""
        return self._grid.symmetric

    # --- what solvers ask for

    def diagonal(self) -> Float[Tensor, " n"]:
        """The diagonal of a symmetric matrix, shape (n,); reads the tiles on it."""
        if not self.symmetric:
            raise ValueError(f"diagonal: expected the symmetric matrix of one set of signals, this one is {self.shape}")
        self._check_complete()
        return torch.cat([self._tile(band, band).diagonal().double() for band in range(self._grid.down)])

    def matmul(self, V: Float[Tensor, "m k"]) -> Float[Tensor, "n k"]:
        """``K @ V``, shape (n, k); reads every stored tile once.

        Parameters
        ----------
        V
            Shape (m, k).
        """
        if not isinstance(V, Tensor) or V.ndim != 2 or len(V) != self.shape[1] or not V.is_floating_point():
            got = f"shape {tuple(V.shape)}, {V.dtype}" if isinstance(V, Tensor) else f"{type(V).__name__}"
            raise ValueError(f"V: expected a tensor of real numbers, shape ({self.shape[1]}, k), got {got}")
        self._check_complete()
        right = V.to("cpu", torch.float64)
        result = torch.zeros(self.shape[0], V.shape[1], dtype=torch.float64)
        for place in self._grid.places():
            rows, columns = self._grid.row_slice(place.row), self._grid.column_slice(place.column)
            tile = self._tile(*place).double()
            result[rows].addmm_(tile, right[columns])
            if self.symmetric and place.row != place.column:
                result[columns].addmm_(tile.T, right[rows])
        return result

    def columns(self, index: Int[Tensor, " k"]) -> Float[Tensor, "n k"]:
        """Some columns, shape (n, k), in the order asked for.

        Parameters
        ----------
        index
            Which, shape (k,), int64, from 0 to m - 1.
        """
        if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype != torch.int64:
            raise ValueError(f"index: expected a tensor of int64, shape (k,), got {index!r}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.shape[1]:
            raise ValueError(f"index: expected 0 to {self.shape[1] - 1}, got {int(index.min())} to {int(index.max())}")
        self._check_complete()
        self._check_fits(8 * self.shape[0] * len(index))
        result = torch.empty(self.shape[0], len(index), dtype=torch.float64)
        bands = index.cpu() // self._grid.side
        for band in bands.unique().tolist():
            wanted = torch.nonzero(bands == band).squeeze(1)
            inside = index.cpu()[wanted] - band * self._grid.side
            for row in range(self._grid.down):
                result[self._grid.row_slice(row), wanted] = self._tile(row, band)[:, inside].double()
        return result

    # --- parts, and all of it

    def block(self, rows: slice = slice(None), columns: slice = slice(None)) -> Float[Tensor, "r c"]:
        """A part of the matrix, as slices of it without a step; ``K[rows, columns]`` is the same."""
        top, bottom = _bounds("rows", rows, self.shape[0])
        left, right = _bounds("columns", columns, self.shape[1])
        self._check_complete()
        self._check_fits((bottom - top) * (right - left) * self.store.dtype.itemsize)
        result = torch.empty(bottom - top, right - left, dtype=self.dtype)
        for row in _bands(top, bottom, self._grid.side):
            for column in _bands(left, right, self._grid.side):
                down, across = self._grid.row_slice(row), self._grid.column_slice(column)
                y = slice(max(top, down.start), min(bottom, down.stop))
                x = slice(max(left, across.start), min(right, across.stop))
                tile = self._tile(row, column)
                result[y.start - top : y.stop - top, x.start - left : x.stop - left] = tile[
                    y.start - down.start : y.stop - down.start, x.start - across.start : x.stop - across.start
                ]
        return result

    def __getitem__(self, key: Any) -> Tensor:
        if not (isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, slice) for part in key)):
            raise ValueError(f"index: expected two slices, as in K[:10, 5:20], got {key!r}; see `columns` for others")
        return self.block(*key)

    def rows(self, *, memory: int | float | str = "256MB") -> Iterator[tuple[slice, Float[Tensor, "r m"]]]:
        """Bands of whole rows from top to bottom, with the rows that they are.

        Parameters
        ----------
        memory
            Budget of a band, in bytes or as ``"1GB"``; less than a row of tiles makes tiles be read more than once.
        """
        budget, side = parse_bytes(memory), self._grid.side
        height = budget // (self.shape[1] * self.store.dtype.itemsize)
        if height < 1:
            needed = format_bytes(self.shape[1] * self.store.dtype.itemsize)
            raise ValueError(f"memory: expected at least {needed} for one row, got {format_bytes(budget)}")
        if height >= side:
            height -= height % side
        for top in range(0, self.shape[0], height):
            where = slice(top, min(top + height, self.shape[0]))
            yield where, self.block(where)

    def to_array(self, *, memory: int | float | str | None = None) -> NDArray[Any]:
        """All of it, shape (n, m), in memory.

        Parameters
        ----------
        memory
            Budget, in bytes or as ``"2GB"``; default what the machine has available.

        Raises
        ------
        ValueError
            If it is larger, or tiles are missing or damaged.
        """
        self._check_fits(
            math.prod(self.shape) * self.store.dtype.itemsize, None if memory is None else parse_bytes(memory)
        )
        return self.block().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("copy: a matrix on disk becomes an array only by a copy")
        return self.to_array().astype(dtype or self.store.dtype, copy=False)

    # --- tiles

    def _tile(self, row: int, column: int) -> Tensor:
        mirrored = self.symmetric and row > column
        numbers = self.store.read(self.kind, Place(column, row) if mirrored else Place(row, column))
        tile = torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("="), copy=False))
        return tile.T if mirrored else tile

    def _check_complete(self) -> None:
        if self._whole:
            return
        missing = self._grid.count - len(self.store.done())
        if missing:
            raise ValueError(
                f"store: {missing:,} of {self._grid.count:,} tiles of {self.store.path} are missing; "
                "the command that made it goes on from there"
            )
        self._whole = True

    def _check_fits(self, needed: int, budget: int | None = None) -> None:
        limit = available_memory() if budget is None else budget
        if limit is not None and needed > limit:
            has = "this machine has" if budget is None else "the budget is"
            raise ValueError(
                f"memory: this part of the {self.shape[0]:,} x {self.shape[1]:,} matrix needs {format_bytes(needed)}, "
                f"{has} {format_bytes(limit)}; read it in blocks, by rows() or with matmul()"
            )


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, or ``None`` where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _bounds(name: str, part: slice, length: int) -> tuple[int, int]:
    if not isinstance(part, slice) or part.step not in (None, 1):
        raise ValueError(f"{name}: expected a slice without a step, got {part!r}")
    try:
        start, stop, _ = part.indices(length)
    except TypeError:
        raise ValueError(f"{name}: expected a slice of whole numbers, got {part!r}") from None
    return start, max(start, stop)


def _bands(start: int, stop: int, side: int) -> range:
    return range(start // side, -(-stop // side)) if stop > start else range(0)

"""How a matrix is cut into square tiles, by their numbers: what a store keeps, and what runners share out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hilbertnet.signals import is_count

__all__ = ["Grid", "Place"]


class Place(NamedTuple):
    """Which tile: the number of its band of rows, and of its band of columns."""

    row: int
    column: int


@dataclass(frozen=True)
class Grid:
    """How a matrix is cut into square tiles.

    Parameters
    ----------
    rows, columns
        Shape of the matrix.
    symmetric
        Whether only the tiles on and above the diagonal are kept.
    side
        Rows and columns of a tile; the last ones may have fewer.
    """

    rows: int
    columns: int
    symmetric: bool
    side: int

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "side"):
            value = getattr(self, name)
            if not is_count(value):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")

    @property
    def down(self) -> int:
        """How many bands of rows there are."""
        return -(-self.rows // self.side)

    @property
    def across(self) -> int:
        """How many bands of columns there are."""
        return -(-self.columns // self.side)

    @property
    def count(self) -> int:
        """How many tiles are kept."""
        return self.down * (self.down + 1) // 2 if self.symmetric else self.down * self.across

    def places(self) -> Iterator[Place]:
        """The tiles that are kept, row by row."""
        for row in range(self.down):
            for column in range(row if self.symmetric else 0, self.across):
                yield Place(row, column)

    def row_slice(self, band: int) -> slice:
        """The rows of a band."""
        return slice(band * self.side, min((band + 1) * self.side, self.rows))

    def column_slice(self, band: int) -> slice:
        """The columns of a band."""
        return slice(band * self.side, min((band + 1) * self.side, self.columns))

    def shape(self, place: Place) -> tuple[int, int]:
        """Shape of a tile."""
        rows, columns = self.row_slice(place.row), self.column_slice(place.column)
        return rows.stop - rows.start, columns.stop - columns.start

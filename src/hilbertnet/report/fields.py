"""Receptive fields: which pixels of the input a position of a layer depends on, one axis at a time.

All operators are separable, so that the field of a position (row, column) is the product of two of these.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import antialias, pad_for_patches, pooling_matrix
from hilbertnet.report.pictures import Pixels

__all__ = ["crop", "reach", "receptive_field"]

Field = NDArray[np.bool_]


def receptive_field(arch: Architecture, length: int, layer: int, *, pooled: bool = False) -> Field:
    """Which of `length` pixels of an axis each position of a layer depends on.

    Parameters
    ----------
    arch
        The architecture.
    length
        Pixels of the input's axis.
    layer
        Number of the layer, from 0.
    pooled
        The positions after its pooling, instead of those of its patches.

    Returns
    -------
    array
        Booleans of shape (positions, length).

    Raises
    ------
    ValueError
        If there is no such layer, or the axis is too short for the architecture.
    """
    if not 0 <= layer < len(arch.layers):
        raise ValueError(f"layer: expected a number from 0 to {len(arch.layers) - 1}, got {layer}")
    # signals of one axis: each pixel alone, so that what an output sees of each is one row of the batch
    seen = antialias(torch.eye(length, dtype=torch.float64)[:, None], arch.sigma0, arch) != 0
    for number, each in enumerate(arch.layers[: layer + 1]):
        arch.shapes((length,))
        padded = pad_for_patches(seen.double(), each.patch, arch)
        seen = padded.unfold(2, each.patch, 1).any(-1)
        if each.pool is not None and (number < layer or pooled):
            taps = pooling_matrix(each.pool, seen.shape[2], arch) != 0
            seen = (seen.double() @ taps.double().T) > 0
    return seen[:, 0].T.numpy()


def _span(row: Field) -> NDArray[np.int64]:
    """The pixels from the first to the last of a field, in order; a field on the torus may go around the edge."""
    inside = np.flatnonzero(row)
    gaps = np.diff(np.append(inside, inside[0] + len(row)))
    first = inside[(int(gaps.argmax()) + 1) % len(inside)]
    return np.arange(first, first + len(row) - int(gaps.max()) + 1) % len(row)


def reach(field: Field) -> int:
    """Pixels of the widest field, from its first to its last."""
    return max(len(_span(row)) for row in field)


def crop(picture: Pixels, rows: Field, columns: Field, shape: tuple[int, int]) -> Pixels:
    """What a position sees of a picture, as RGBA of `shape`; transparent where its field reaches beyond the edge.

    Parameters
    ----------
    picture
        RGB, shape (height, width, 3).
    rows, columns
        The field along each axis, shapes (height,) and (width,).
    shape
        The size of the result, that of `reach` along each axis.
    """
    result = np.zeros((*shape, 4), np.uint8)
    places = [_place(row, size) for row, size in zip((rows, columns), shape, strict=True)]
    (from_rows, to_rows), (from_columns, to_columns) = places
    part = picture[from_rows[:, None], from_columns]
    result[to_rows, to_columns, :3] = part
    result[to_rows, to_columns, 3] = 255
    return result


def _place(row: Field, size: int) -> tuple[NDArray[np.int64], slice]:
    """The pixels of a field, and where they go in a window of `size`: a field cut by an edge lies at the other side."""
    pixels = _span(row)
    start = size - len(pixels) if pixels[0] == 0 and pixels[-1] != len(row) - 1 else 0
    return pixels, slice(start, start + len(pixels))

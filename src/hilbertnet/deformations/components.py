"""What Infinite MNIST is made of: displacement components, tangent images, shifts by one pixel.

Published are 1522 smooth displacement components and two tangent images of every training digit of MNIST (Loosli, Canu
and Bottou, *Training invariant support vector machines using selective sampling*, 2007; see `published_digits`). Where
they are not at hand, both are made here, for images of any size.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["COUNT", "SUP_AT_ONE", "image_tangents", "made_fields", "mean_sup", "shift_tables", "sup_at_one"]

COUNT = 1522
"""How many displacement components the published rule draws from."""

SUP_AT_ONE = 1.0
"""Calibration: sup over pixels of the displacement, mean over pairs of made components, in pixels of a 28 x 28 image.

It holds at alpha = 1. Images of other sizes have it in proportion to their side. See `made_fields`.
"""

_SIDE = 28  # of the images that lengths are stated for
_STD = 4.0  # of the Gaussian, in pixels of such an image: the value of Simard et al. for MNIST
_REACH = 4  # where the Gaussian is cut, in standard deviations
_GRID = 4096  # components are whole multiples of 1/4096 pixel


@lru_cache(maxsize=4)
def made_fields(height: int, width: int, seed: int = 0, count: int = COUNT) -> NDArray[np.float32]:
    """Smooth random displacement components, the same for ever for the same arguments.

    White Gaussian noise, drawn beyond the image's edges, is smoothed by a Gaussian of standard deviation 4/28 of the
    side (Simard, Steinkraus and Platt, *Best practices for convolutional neural networks applied to visual document
    analysis*, 2003, use 4 pixels and uniform noise), so that every component is a stationary field. All are then
    multiplied by one number, such that `mean_sup` is `SUP_AT_ONE` times side / 28: at alpha = 1 the largest
    displacement of a 28 x 28 digit is one pixel on average. The scale of the published components is not known here:
    one pixel is a round number, not a fit to published results.

    Parameters
    ----------
    height, width
        Of the images; their side is sqrt(height * width).
    seed
        From 0 to 2^32 - 1.
    count
        How many components.

    Returns
    -------
    array
        Shape (count, height, width), float32, read-only, in pixels. Whole multiples of 1/4096, so that other last bits
        in another machine's sums change no digit.
    """
    std = _STD * math.sqrt(height * width) / _SIDE
    reach = math.ceil(_REACH * std)
    # the legacy generator: numpy promises that its stream never changes, torch and new numpy generators do not
    noise = np.random.RandomState(seed).standard_normal((count, height + 2 * reach, width + 2 * reach))
    smooth = _gaussian(height, std, reach) @ noise @ _gaussian(width, std, reach).T
    smooth *= sup_at_one(height, width) / mean_sup(smooth)
    fields = (np.rint(smooth * _GRID) / _GRID).astype(np.float32)
    fields.flags.writeable = False
    return fields


def _gaussian(length: int, std: float, reach: int) -> NDArray[np.float64]:
    """The matrix (length, length + 2 reach) that smooths a line and drops `reach` pixels at both ends."""
    taps = np.exp(-((np.arange(-reach, reach + 1) / std) ** 2) / 2)
    matrix = np.zeros((length, length + 2 * reach))
    for i in range(length):
        matrix[i, i : i + len(taps)] = taps / taps.sum()
    return matrix


def sup_at_one(height: int, width: int) -> float:
    """`SUP_AT_ONE` in pixels of images of another size."""
    return SUP_AT_ONE * math.sqrt(height * width) / _SIDE


def mean_sup(fields: NDArray) -> float:
    """sup_u |tau(u)|, in pixels, mean over the displacements tau of components (k, k + 1).

    Parameters
    ----------
    fields
        At least two components (count, height, width).
    """
    squares = fields.astype(np.float64) ** 2
    return float(np.sqrt((squares[:-1] + squares[1:]).max(axis=(1, 2))).mean())


def image_tangents(pixels: NDArray) -> NDArray:
    """Derivatives of images along rows (downwards) and columns, by the masks of Sobel.

    The central difference (x[u + 1] - x[u - 1]) / 2 along one axis, then the mean with weights 1/4, 1/2, 1/4 along the
    other: without it, the edges of slanted strokes grow teeth at large alpha. There is nothing outside an image. For
    pixels that are whole numbers nothing is rounded, so that all machines find the same.

    Parameters
    ----------
    pixels
        Shape (n, height, width), floating.

    Returns
    -------
    array
        Shape (2, n, height, width), in grey levels per pixel.
    """
    tangents = np.empty((2, *pixels.shape), pixels.dtype)
    across = 2 * pixels
    across[:, :, :-1] += pixels[:, :, 1:]
    across[:, :, 1:] += pixels[:, :, :-1]
    _difference(across, tangents[0])
    across = 2 * pixels
    across[:, :-1] += pixels[:, 1:]
    across[:, 1:] += pixels[:, :-1]
    _difference(across.swapaxes(1, 2), tangents[1].swapaxes(1, 2))
    tangents *= pixels.dtype.type(1 / 8)
    return tangents


def _difference(x: NDArray, out: NDArray) -> None:
    """Write x[u + 1] - x[u - 1] along the rows (n, rows, columns)."""
    out[:, :-1] = x[:, 1:]
    out[:, -1] = 0
    out[:, 1:] -= x[:, :-1]


@lru_cache(maxsize=8)
def shift_tables(height: int, width: int, published_edges: bool) -> NDArray[np.int64]:
    """Where every pixel of an image shifted by one pixel comes from, for the nine options of the published rule.

    Up, down, left, right, up and left, up and right, down and left, down and right, and not at all.

    Parameters
    ----------
    height, width
        Of the images.
    published_edges
        Do as the published program: zeros are put one column beside where they belong, and the column that leaves an
        image comes in again on the other side, one row on. Pixels within one column of the left edge and in the last
        column are concerned; the digits of MNIST seldom have any there. Otherwise zeros come in at the edge.

    Returns
    -------
    array
        Shape (9, height * width): places in the flattened image; height * width stands for zero.
    """
    zero = height * width
    here = np.arange(zero).reshape(height, width)

    def vertical(image: NDArray, step: int) -> NDArray:
        blank = np.full((1, width), zero)
        return np.concatenate((image[1:], blank) if step > 0 else (blank, image[:-1]))

    def horizontal(image: NDArray, step: int) -> NDArray:
        if not published_edges:
            blank = np.full((height, 1), zero)
            return np.concatenate((image[:, 1:], blank) if step > 0 else (blank, image[:, :-1]), 1)
        flat = image.reshape(-1)
        moved = np.append(flat[1:], zero) if step > 0 else np.append(zero, flat[:-1])
        moved[(0 if step > 0 else 1) :: width] = zero
        return moved.reshape(height, width)

    up, down = vertical(here, 1), vertical(here, -1)
    tables = [up, down, horizontal(here, 1), horizontal(here, -1)]
    tables += [horizontal(image, step) for image in (up, down) for step in (1, -1)]
    stacked = np.stack([*tables, here]).reshape(9, zero)
    stacked.flags.writeable = False
    return stacked

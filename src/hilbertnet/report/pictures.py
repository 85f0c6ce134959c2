"""Arrays as pictures: pixels, signed colours, tiles, and PNG files written into the page itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "as_pixels",
    "change_strip",
    "enlarge",
    "filter_pixels",
    "frame",
    "map_pixels",
    "png_uri",
    "shrink",
    "signed_pixels",
    "tile",
]

Pixels = NDArray[np.uint8]


def as_pixels(images: ArrayLike) -> Pixels:
    """Bytes (n, channels, height, width) as RGB (n, height, width, 3); other than 3 channels as their mean, in grey.

    Raises
    ------
    ValueError
        If the images have another shape, there are none, or they are no bytes.
    """
    values = np.asarray(images)
    if values.ndim != 4 or 0 in values.shape or values.dtype != np.uint8:
        raise ValueError(
            f"images: expected bytes (n, channels, height, width), got shape {values.shape} of {values.dtype}"
        )
    if values.shape[1] != 3:
        values = np.rint(values.mean(1, keepdims=True)).astype(np.uint8).repeat(3, axis=1)
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


def signed_pixels(values: NDArray) -> Pixels:
    """Numbers in [-1, 1] as RGB (..., 3), from blue through white to red."""
    import matplotlib

    return matplotlib.colormaps["RdBu_r"](0.5 + 0.5 * np.asarray(values, np.float64), bytes=True)[..., :3]


def _scaled(values: NDArray, axes: tuple[int, ...]) -> NDArray[np.float64]:
    largest = np.abs(values).max(axis=axes, keepdims=True)
    return np.asarray(values / np.where(largest > 0, largest, 1.0), np.float64)


def filter_pixels(filters: NDArray) -> tuple[Pixels, str]:
    """Filters (n, channels, height, width) as RGB (n, height, width, 3), and how they are to be read.

    Each is scaled by its own largest entry. Three channels are red, green and blue, and fewer or more their mean.
    Negative entries, if any, make zero grey (or, of one channel, white).
    """
    signed = bool((filters < 0).any())
    if filters.shape[1] == 3:
        scaled = _scaled(filters, (1, 2, 3)).transpose(0, 2, 3, 1)
        shown = np.rint(255 * (0.5 + 0.5 * scaled if signed else scaled)).astype(np.uint8)
        return shown, "grey is zero" if signed else "black is zero"
    scaled = _scaled(filters.mean(1), (1, 2))
    if signed:
        return signed_pixels(scaled), "red is positive, blue negative, white zero"
    grey = np.rint(255 * scaled).astype(np.uint8)
    return grey[..., None].repeat(3, axis=-1), "black is zero, white the largest entry"


def map_pixels(maps: NDArray) -> Pixels:
    """Feature maps (samples, channels, height, width) as RGB, each channel about its own mean over the samples."""
    centred = maps - maps.mean(axis=(0, 2, 3), keepdims=True)
    return signed_pixels(_scaled(centred, (0, 2, 3)))


def change_strip(image: NDArray, change: NDArray, side: int, *, bounded: bool) -> Pixels:
    """An image, the image changed, and the change magnified until its largest entry has full colour, side by side.

    Parameters
    ----------
    image, change
        Shape (channels, height, width).
    side
        Pixels of the larger side of each, at most.
    bounded
        Whether numbers are grey levels in [0, 1]; if not, black and white are the extremes of both images together.
    """
    both = np.stack([image, image + change]).astype(np.float64)
    low, high = (0.0, 1.0) if bounded else (both.min(), both.max())
    levels = (both - low) / (high - low if high > low else 1.0)
    seen = as_pixels(np.rint(255 * levels.clip(0, 1)).astype(np.uint8))
    if len(change) == 3:
        scaled = 0.5 + 0.5 * _scaled(change, (0, 1, 2)).transpose(1, 2, 0)
        magnified = np.rint(255 * scaled).astype(np.uint8)
    else:
        magnified = signed_pixels(_scaled(change.mean(0), (0, 1)))
    return tile(shrink(np.concatenate([seen, magnified[None]]), side), 3, gap=1)


def enlarge(tiles: Pixels, height: int, width: int) -> Pixels:
    """Tiles (..., h, w, channels) in another size, each pixel a block of its own colour."""
    rows = np.arange(height) * tiles.shape[-3] // height
    columns = np.arange(width) * tiles.shape[-2] // width
    return tiles[..., rows[:, None], columns, :]


def shrink(tiles: Pixels, side: int) -> Pixels:
    """Tiles (n, h, w, channels), reduced to at most `side` pixels a side; smaller ones are left alone."""
    from PIL import Image

    height, width = tiles.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1:
        return tiles
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in tiles])


def frame(tiles: Pixels) -> Pixels:
    """Tiles (n, h, w, 3) as RGBA with a thin grey edge, which shows where a white one ends on a white page."""
    n, height, width, _ = tiles.shape
    whole = np.full((n, height + 2, width + 2, 4), (128, 128, 128, 150), np.uint8)
    whole[:, 1:-1, 1:-1, :3], whole[:, 1:-1, 1:-1, 3] = tiles, 255
    return whole


def tile(tiles: Pixels, columns: int, gap: int = 1) -> Pixels:
    """Tiles (n, h, w, 3 or 4) side by side as one RGBA picture, with transparent gaps."""
    n, height, width, channels = tiles.shape
    rows = -(-n // columns)
    whole = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for index, one in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        place = whole[top : top + height, left : left + width]
        place[..., :channels] = one
        if channels == 3:
            place[..., 3] = 255
    return whole


def png_uri(pixels: Pixels) -> str:
    """A picture (h, w), (h, w, 3) or (h, w, 4) as a PNG in a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")

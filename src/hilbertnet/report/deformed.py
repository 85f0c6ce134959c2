"""Pictures of deformations: a field as arrows over an image, and images against the size of their deformation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hilbertnet.report.pictures import as_pixels, tile
from hilbertnet.report.plots import PAPER, Palette

__all__ = ["deformed_images", "draw_deformed", "field_arrows"]

_ARROWS = 16  # along the longer side


def field_arrows(
    field: ArrayLike, image: ArrayLike | None = None, ax: Axes | None = None, *, palette: Palette = PAPER
) -> Axes:
    """A field of displacements as arrows, from where a pixel of the image was to where it is seen, to scale.

    Parameters
    ----------
    field
        tau in pixels, shape (2, height, width), rows first: the deformed image at u is the image at u - tau(u).
    image
        Shown behind, shape (channels, height, width), in [0, 1]; it is the deformed one that arrows end in.
    ax
        Where to draw; default the axes of a new figure.
    palette
        The colours.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the field is not of this shape, or the image of another size.
    """
    tau = np.asarray(field, np.float64)
    if tau.ndim != 3 or len(tau) != 2 or not np.isfinite(tau).all():
        raise ValueError(f"field: expected finite displacements (2, height, width), got shape {tau.shape}")
    height, width = tau.shape[1:]
    if ax is None:
        ax = Figure(figsize=(4.0, 4.0 * height / width), layout="constrained").subplots()
    if image is not None:
        picture = np.asarray(image, np.float64)
        if picture.ndim != 3 or picture.shape[1:] != (height, width):
            raise ValueError(f"image: expected shape (channels, {height}, {width}), got {picture.shape}")
        ax.imshow(_pixels(picture[None])[0], alpha=0.5, interpolation="none")
    step = -(-max(height, width) // _ARROWS)
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    down, right = tau[:, rows, columns]
    ax.quiver(
        columns - right, rows - down, right, down, angles="xy", scale_units="xy", scale=1, color=palette.accent,
        width=0.006,
    )  # fmt: skip
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def _pixels(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    return as_pixels(np.rint(images.clip(0, 1) * 255).astype(np.uint8))


def deformed_images(
    images: ArrayLike, labels: Sequence[str], ax: Axes | None = None, *, palette: Palette = PAPER
) -> Axes:
    """Images, a row for every size of their deformation.

    Parameters
    ----------
    images
        In [0, 1], shape (rows, columns, channels, height, width).
    labels
        Of the rows.
    ax
        Where to draw; default the axes of a new figure.
    palette
        The colours.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If there is not one label for each row.
    """
    array = np.asarray(images, np.float64)
    if array.ndim != 5 or len(labels) != len(array):
        raise ValueError(
            f"images: expected shape ({len(labels)}, columns, channels, height, width), a row for each label, got "
            f"{array.shape}"
        )
    rows, columns, height = len(array), array.shape[1], array.shape[3]
    if ax is None:
        ax = Figure(figsize=_size(array.shape), layout="constrained").subplots()
    ax.imshow(tile(_pixels(array.reshape(-1, *array.shape[2:])), columns), interpolation="none")
    ax.set_yticks([(height + 1) * row + height / 2 for row in range(rows)], labels)
    ax.tick_params(length=0, labelcolor=palette.ink, labelsize=9)
    ax.set_xticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _size(shape: tuple[int, ...]) -> tuple[float, float]:
    """Of a figure of (rows, columns, ...) images, in inches."""
    return 0.7 * shape[1] + 1, 0.7 * shape[0]


def draw_deformed(images: ArrayLike, labels: Sequence[str], path: Path) -> None:
    """`deformed_images` into a ``.png`` file, atomically."""
    import matplotlib.style

    from hilbertnet.records import atomic_path

    with atomic_path(path) as temporary, matplotlib.style.context("default"):
        figure = Figure(figsize=_size(np.shape(images)), layout="constrained")
        deformed_images(images, labels, figure.subplots())
        figure.savefig(temporary, format="png", dpi=150)

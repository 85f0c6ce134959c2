"""Digit images in grey levels, as Infinite MNIST keeps them: whole numbers in a byte where they are whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.data.sources import load

__all__ = ["grey_levels", "labelled_digits", "mnist_digits"]

_WHOLE = 1e-3  # grey levels: 255 times a float32 that came from a byte is as near to a whole number


def mnist_digits(
    test_images: Any = None, test_labels: Any = None, labels: Any = None
) -> tuple[NDArray, NDArray[np.int64], NDArray, NDArray[np.int64]]:
    """Training images and labels, test images and labels of MNIST.

    Raises
    ------
    ValueError
        If its files cannot be had, or images or labels were given without the training images they belong to.
    """
    if not (test_images is None and test_labels is None and labels is None):
        raise ValueError("images: expected training digits with labels, test_images and test_labels, got None")
    data = load("mnist")
    assert data.test_x is not None  # MNIST has a test set
    assert data.test_y is not None
    return grey_levels(data.x, "images"), data.y, grey_levels(data.test_x, "test_images"), data.test_y


def grey_levels(images: Any, name: str) -> NDArray:
    """Images as grey levels 0..255, shape (n, height, width): uint8 where all are whole numbers, else float32.

    Parameters
    ----------
    images
        Shape (n, height, width) or (n, 1, height, width), uint8 or floating in [0, 1].
    name
        The argument's name, for messages.

    Raises
    ------
    ValueError
        If they are not.
    """
    array = np.asarray(images.detach().cpu() if isinstance(images, Tensor) else images)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 3 or 0 in array.shape or min(array.shape[1:]) < 2:
        raise ValueError(
            f"{name}: expected grey images (n, height, width) or (n, 1, height, width), at least 2 x 2, "
            f"got shape {np.shape(images)}"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):  # NaN fails too
        got = f"dtype {array.dtype}" if array.dtype.kind != "f" else f"numbers from {array.min()} to {array.max()}"
        raise ValueError(f"{name}: expected uint8, or numbers from 0 to 1, got {got}")
    levels = array.astype(np.float32) * np.float32(255)
    whole = np.rint(levels)
    return whole.astype(np.uint8) if np.abs(levels - whole).max() < _WHOLE else levels


def _check_labels(labels: Any, name: str, count: int) -> NDArray[np.int64]:
    """Labels as int64, one for each of `count` images.

    Raises
    ------
    ValueError
        If they are others.
    """
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected {count} whole numbers, one for each image, got shape {array.shape}, dtype {array.dtype}"
        )
    return array.astype(np.int64)


def labelled_digits(name: str, images: Any, label_name: str, labels: Any) -> tuple[NDArray, NDArray[np.int64]]:
    """Grey levels and labels of the arguments `name` and `label_name`, of which neither may be without the other."""
    if images is None or labels is None:
        raise ValueError(f"{name}, {label_name}: expected both or neither")
    pixels = grey_levels(images, name)
    return pixels, _check_labels(labels, label_name, len(pixels))

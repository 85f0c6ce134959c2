"""The indices of Infinite MNIST: which are allowed, and what the published rule draws for each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.deformations.components import COUNT

__all__ = ["LAST", "Draw", "draw", "whole_numbers"]

LAST = 2**61
"""Indices are below this: the published rule computes 2 i in 64 bits."""


class Draw(NamedTuple):
    """What the published rule draws for deformed digits, arrays (n,)."""

    digit: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    sign: NDArray[np.int64]
    option: NDArray[np.int64]


def draw(indices: NDArray[np.int64], digits: int, tests: int, count: int = COUNT) -> Draw:
    """Digit a, components k1 and k2, sign and shift of deformed digits.

    For index i, with n training digits after t test digits and m components: a = (i - t) mod n; k1 = u mod (m - 1)
    with u = 131071 i in 32 bits, without sign; k2 = (k1 + 1 + 2 i) mod m; the sign is minus where k1 + k2 is odd (for
    even m always); the shift is k1 mod 9. Published: n = 60,000, t = 10,000, m = 1522.

    Parameters
    ----------
    indices
        Whole numbers (n,), from t + n to below `LAST`.
    digits, tests, count
        n, t and m.
    """
    low = indices & 0xFFFFFFFF
    first = (low * 131071 & 0xFFFFFFFF) % (count - 1)
    second = (first + 1 + 2 * indices) % count
    return Draw((indices - tests) % digits, first, second, 1 - 2 * ((first + second) & 1), first % 9)


def whole_numbers(name: str, values: Any, bound: int, axes: int | None = None) -> NDArray[np.int64]:
    """Whole numbers from 0 to below `bound`, as int64."""
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.size == 0 and array.dtype.kind == "f":  # an empty list
        array = array.astype(np.int64)
    shape = "" if axes is None else f", shape ({', '.join('n' * axes)},)"
    if array.dtype.kind not in "iu" or (axes is not None and array.ndim != axes):
        got = f"dtype {array.dtype}, shape {array.shape}"
        if array.dtype == object:
            got = "numbers beyond 64 bits, or no numbers"
        raise ValueError(f"{name}: expected whole numbers from 0 to {bound - 1}{shape}, got {got}")
    bad = (array < 0) | (array >= bound)
    if bad.any():
        raise ValueError(f"{name}: expected whole numbers from 0 to {bound - 1}{shape}, got {array[bad].flat[0]}")
    return array.astype(np.int64)

"""Checks of real numbers, one and many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["real_number", "real_numbers"]


def real_number(name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """`value` if it is a finite real number, at least `least` and above `above`.

    Raises
    ------
    ValueError
        If it is not; the message starts with `name`.
    """
    real = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < least or value <= above:
        raise ValueError(f"{name}: expected a finite number{_range(least, above)}, got {value!r}")
    return float(value)


def real_numbers(
    name: str, values: Float[Tensor, " n"] | Any, *, least: float = -math.inf, above: float = -math.inf
) -> NDArray[np.float64]:
    """An array or tensor (n,), n >= 1, of such numbers, as float64; errors are those of `real_number`."""
    array = np.asarray(values.numpy(force=True) if isinstance(values, Tensor) else values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected real numbers, shape (n,), n >= 1, got shape {array.shape}, {array.dtype}")
    found = array.astype(np.float64)
    bad = ~np.isfinite(found) | (found < least) | (found <= above)
    if bad.any():
        raise ValueError(f"{name}: expected finite numbers{_range(least, above)}, got {found[bad][0]}")
    return found


def _range(least: float, above: float) -> str:
    if above > -math.inf:
        return f" above {above:g}"
    return f" of at least {least:g}" if least > -math.inf else ""

"""What every public door does with its arguments first: signals of one shape, finite numbers, seeds, counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_rng", "as_signals", "check_same_space", "check_space", "is_count", "per_example"]

_EXPECTED = "images (n, channels, height, width), signals (n, channels, length) or rows (n, features)"


def as_signals(x: Any, name: str = "X", *, dtype: torch.dtype | None = None, like: Tensor | None = None) -> Tensor:
    """Check an array or tensor of signals and return it as a tensor (n, channels, *space).

    Parameters
    ----------
    x
        Images (n, channels, height, width), signals (n, channels, length), or rows (n, features), which are signals of
        one position. A numpy array, a tensor, or what numpy can make an array of.
    name
        The argument's name, for messages.
    dtype
        Wanted dtype; default that of `x`, or float64 for whole numbers.
    like
        Other signals, whose channels, space and device `x` must have.

    Raises
    ------
    ValueError
        If the rank is wrong, an axis is empty, the numbers are not real and finite, or the shape differs from `like`.
    """
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
        if array.dtype == np.float16 or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
            array = array.astype(np.float64)
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        x = torch.from_numpy(array if array.flags.writeable else array.copy())
    if x.is_complex() or x.is_quantized:
        raise ValueError(f"{name}: expected real numbers, got dtype {x.dtype}")
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"{name}: expected {_EXPECTED}, got shape {tuple(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"{name}: expected at least one signal, channel and pixel, got shape {tuple(x.shape)}")
    x = x.to(dtype or (x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float64))
    if not torch.isfinite(x).all():
        first = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise ValueError(f"{name}: expected finite numbers, got {x[tuple(first)].item()} at index {first}")
    if x.ndim == 2:
        x = x.unsqueeze(-1)
    if like is not None:
        check_same_space(x, like, name)
        x = x.to(like.device)
    return x


def check_same_space(x: Tensor, like: Tensor, name: str) -> None:
    """Raise unless `x` has the channels and the space of `like`."""
    check_space(x, like.shape[1:], name)


def check_space(x: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Raise unless each of the signals `x` has this shape, (channels, *space)."""
    if tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"{name}: expected shape (n, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def as_rng(seed: int | torch.Generator | None) -> torch.Generator:
    """A generator on the CPU from a seed, a generator, or fresh entropy for ``None``."""
    if isinstance(seed, torch.Generator):
        return seed
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(int(seed))
    return generator


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Numbers (n,) of examples, shaped (n, 1, ...) to broadcast over tensors such as `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))

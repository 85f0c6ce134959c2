"""The linear operators P (patches) and A (pooling), each once, on features and on Gram tensors.

A signal is a tensor (n, channels, *space) with one or two axes of space. A Gram tensor (*pairs, *space, *space) holds
the inner products of the values of two signals at all pairs of positions. Both operators are separable:

- P gathers the patch around every position, with the factor |S|^(-1/2) that makes it preserve norms on the torus. On a
  Gram tensor it is a sum along the diagonals of each pair of axes.
- A is one small matrix for each axis (`pooling_matrix`), applied to features and to both sides of a Gram tensor.

What an operator must know of the architecture is its boundary and its layout (`Conventions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hilbertnet.architecture.grammar import parse_pool
from hilbertnet.architecture.homogeneous import safe_norm
from hilbertnet.architecture.pools import GlobalPool, Pool, Taps

__all__ = [
    "Conventions",
    "antialias",
    "extract_patches",
    "gram_patches",
    "gram_pool",
    "pad_for_patches",
    "patch_length",
    "patch_norms",
    "patch_padding",
    "patch_scale",
    "patch_windows",
    "pool_features",
    "pooled_length",
    "pooling_matrix",
]


@runtime_checkable
class Conventions(Protocol):
    """What the operators read of an architecture."""

    @property
    def boundary(self) -> str:
        """``"zero"``, ``"valid"`` or ``"circular"``."""
        ...

    @property
    def layout(self) -> str:
        """``"hilbertnet"`` or ``"ckn_kernel"``."""
        ...


# --- patches


def patch_padding(patch: int, conventions: Conventions) -> tuple[int, int]:
    """Pixels added before and after an axis, so that the patch at output i covers padded pixels i ... i + patch - 1."""
    if conventions.boundary == "valid":
        return 0, 0
    if conventions.layout == "ckn_kernel":
        return patch // 2, (patch - 1) // 2
    if conventions.boundary == "circular":
        return (patch - 1) // 2, patch // 2
    return patch // 2, patch // 2


def patch_length(length: int, patch: int, conventions: Conventions, where: str = "patch") -> int:
    """How many patches an axis of `length` pixels has.

    Raises
    ------
    ValueError
        If the patch is longer than the axis.
    """
    if patch > length:
        raise ValueError(f"{where}: expected a patch of at most {length}, the size of its input, got patch {patch}")
    return length + sum(patch_padding(patch, conventions)) - patch + 1


def patch_scale(patch: int, axes: int, conventions: Conventions) -> float:
    """The factor |S|^(-1/2) of P for `axes` axes of space; 1 in ``layout="ckn_kernel"``."""
    return 1.0 if conventions.layout == "ckn_kernel" else float(patch) ** (-axes / 2)


def pad_for_patches(
    x: Float[Tensor, "n channels *space"], patch: int, conventions: Conventions
) -> Float[Tensor, "n channels *padded"]:
    """`x` with the border that patches reach into."""
    before, after = patch_padding(patch, conventions)
    if before == after == 0:
        return x
    border = [before, after] * (x.ndim - 2)
    return functional.pad(x, border, mode="circular" if conventions.boundary == "circular" else "constant")


def extract_patches(
    x: Float[Tensor, "n channels *space"], patch: int, conventions: Conventions
) -> Float[Tensor, "n entries *positions"]:
    """P x: the patch at every position, flattened as (channel, offsets), times |S|^(-1/2).

    Parameters
    ----------
    x
        Signals, shape (n, channels, *space).
    patch
        Side of the patch, in pixels.
    conventions
        The architecture.

    Returns
    -------
    Tensor
        Shape (n, channels * patch**axes, *positions).
    """
    axes = x.ndim - 2
    windows = patch_windows(x, patch, conventions)
    flat = windows.permute(0, *range(1 + axes, windows.ndim), *range(1, 1 + axes)).flatten(1, 1 + axes)
    return flat * patch_scale(patch, axes, conventions)


def patch_windows(x: Float[Tensor, "n channels *space"], patch: int, conventions: Conventions) -> Tensor:
    """The patches as a view of the padded signal, (n, *positions, channels, *offsets), without the factor of P."""
    axes = x.ndim - 2
    windows = pad_for_patches(x, patch, conventions).movedim(1, -1)
    for axis in range(axes):
        windows = windows.unfold(1 + axis, patch, 1)
    return windows


def patch_norms(
    x: Float[Tensor, "n channels *space"], patch: int, conventions: Conventions
) -> Float[Tensor, "n one *positions"]:
    """``||P x(u)||`` at every position, with a channel axis of 1."""
    axes = x.ndim - 2
    squares = pad_for_patches(x.square().sum(1, keepdim=True), patch, conventions)
    for axis in range(axes):
        squares = squares.unfold(2 + axis, patch, 1).sum(-1)
    return safe_norm(squares * patch_scale(patch, axes, conventions) ** 2)


def gram_patches(
    gram: Float[Tensor, "*pairs_and_space"], patch: int, axes: int, conventions: Conventions
) -> Float[Tensor, "*pairs_and_positions"]:
    """P on a Gram tensor: inner products of patches, ``sum_v K(u + v, u' + v) / |S|``, one pair of axes at a time.

    Parameters
    ----------
    gram
        Shape (*pairs, *space, *space).
    patch
        Side of the patch, in pixels.
    axes
        How many axes of space there are.
    conventions
        The architecture.
    """
    first = gram.ndim - 2 * axes
    for axis in range(first, first + axes):
        gram = _diagonal_sums(gram, axis, axis + axes, patch, conventions)
    return gram * patch_scale(patch, axes, conventions) ** 2 if patch > 1 else gram


def _diagonal_sums(gram: Tensor, axis: int, other: int, patch: int, conventions: Conventions) -> Tensor:
    """Sum of `patch` neighbours along the diagonals of a pair of axes."""
    before, after = patch_padding(patch, conventions)
    if conventions.boundary == "circular":
        shifts = range(-before, after + 1)
        return sum(
            (gram.roll((-v, -v), (axis, other)) for v in shifts[1:]),
            gram.roll((before, before), (axis, other)),
        )
    if before or after:
        border = [0, 0] * gram.ndim
        for a in (axis, other):
            border[2 * (gram.ndim - 1 - a) : 2 * (gram.ndim - a)] = [before, after]
        gram = functional.pad(gram, border)
    rows, columns = gram.shape[axis] - patch + 1, gram.shape[other] - patch + 1
    total = gram.narrow(axis, 0, rows).narrow(other, 0, columns)
    for v in range(1, patch):
        total = total + gram.narrow(axis, v, rows).narrow(other, v, columns)
    return total


# --- pooling


def pooled_length(length: int, pool: Pool | None, conventions: Conventions, where: str = "pool") -> int:
    """How many positions are left of an axis of `length` pixels.

    Raises
    ------
    ValueError
        If none is left.
    """
    if pool is None:
        return length
    if isinstance(pool, GlobalPool):
        return 1
    if conventions.layout == "ckn_kernel":
        left = length // pool.stride - pool.legacy_cut
    else:
        left = -(-length // pool.stride)
        while conventions.boundary == "valid" and left > 0 and not _fits(length, left, pool):
            left -= 1
    if left < 1:
        raise ValueError(f"{where}: pooling {pool} leaves nothing of a length of {length}; use a smaller pool")
    return left


def _centre(length: int, positions: int, stride: int) -> tuple[int, bool]:
    """Floor of the first centre, and whether it falls half-way between two pixels."""
    twice = length - 1 - stride * (positions - 1)
    return twice // 2, twice % 2 == 1


def _fits(length: int, positions: int, pool: Pool) -> bool:
    """Whether all windows lie inside; by symmetry, whether the first one starts inside."""
    centre, half = _centre(length, positions, pool.stride)
    return centre + int(pool.taps(half).offsets[0]) >= 0


@lru_cache(maxsize=256)
def _weights(pool: Pool, length: int, boundary: str, layout: str) -> NDArray[np.float64]:
    conventions = _Plain(boundary, layout)
    if isinstance(pool, GlobalPool):
        return np.full((1, length), 1.0 / length)
    positions = pooled_length(length, pool, conventions)
    if layout == "ckn_kernel":
        return _place(pool.legacy_taps(), length, positions, 0, pool.stride, wrap=False)
    centre, half = _centre(length, positions, pool.stride)
    return _place(pool.taps(half), length, positions, centre, pool.stride, wrap=boundary == "circular")


class _Plain:
    def __init__(self, boundary: str, layout: str) -> None:
        self.boundary, self.layout = boundary, layout


def _place(taps: Taps, length: int, positions: int, first: int, stride: int, *, wrap: bool) -> NDArray[np.float64]:
    """The matrix with the taps of output i around pixel first + stride * i; what falls outside wraps or is lost."""
    matrix = np.zeros((positions, length))
    for i in range(positions):
        pixels = first + stride * i + taps.offsets
        inside = np.ones(len(pixels), bool) if wrap else (pixels >= 0) & (pixels < length)
        np.add.at(matrix[i], pixels[inside] % length, taps.weights[inside])
    return matrix


_SCHEMA = "(str pool, int length, str boundary, str layout) -> Tensor"


@torch.library.custom_op("hilbertnet::pooling_weights", mutates_args=(), schema=_SCHEMA)
def _opaque_weights(pool: str, length: int, boundary: str, layout: str) -> Tensor:
    """`_weights` as the compiler sees it: one operator, not numpy's loops."""
    return torch.from_numpy(_weights(parse_pool(pool), length, boundary, layout)).clone()


@_opaque_weights.register_fake
def _(pool: str, length: int, boundary: str, layout: str) -> Tensor:
    shape = _weights(parse_pool(pool), int(length), boundary, layout).shape
    return torch.empty(shape, dtype=torch.float64)


def pooling_matrix(
    pool: Pool, length: int, conventions: Conventions, *, like: Tensor | None = None
) -> Float[Tensor, "positions length"]:
    """A along one axis: row i holds the weights of output i, which sum to one (less what falls beyond a zero boundary).

    Parameters
    ----------
    pool
        The pooling.
    length
        How many pixels the axis has.
    conventions
        The architecture.
    like
        A tensor whose dtype and device the matrix takes; default float64 on the CPU.
    """
    if torch.compiler.is_compiling():
        matrix = _opaque_weights(str(pool), length, conventions.boundary, conventions.layout)
    else:
        matrix = torch.from_numpy(_weights(pool, length, conventions.boundary, conventions.layout))
    return matrix.clone() if like is None else matrix.to(dtype=like.dtype, device=like.device)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """`matrix` applied along one axis."""
    if axis == x.ndim - 1:
        return x @ matrix.T
    return (matrix @ x.flatten(axis + 1)).unflatten(-1, x.shape[axis + 1 :])


def _pool_axes(x: Tensor, pool: Pool | None, conventions: Conventions, axes: Sequence[int]) -> Tensor:
    if pool is not None:
        for axis in axes:
            x = _along(pooling_matrix(pool, x.shape[axis], conventions, like=x), x, axis)
    return x


def pool_features(
    x: Float[Tensor, "n channels *space"], pool: Pool | None, conventions: Conventions
) -> Float[Tensor, "n channels *pooled"]:
    """A on features: pooling along every axis of space."""
    return _pool_axes(x, pool, conventions, range(2, x.ndim))


def gram_pool(
    gram: Float[Tensor, "*pairs_and_space"], pool: Pool | None, axes: int, conventions: Conventions
) -> Float[Tensor, "*pairs_and_pooled"]:
    """A on a Gram tensor (*pairs, *space, *space): pooling along every axis of both signals."""
    return _pool_axes(gram, pool, conventions, range(gram.ndim - 2 * axes, gram.ndim))


def antialias(
    x: Float[Tensor, "n channels *space"], sigma0: float, conventions: Conventions
) -> Float[Tensor, "n channels *space"]:
    """A_0: a Gaussian of standard deviation `sigma0` pixels at stride 1, cut at 4 sigma0; the size is kept."""
    if sigma0 == 0:
        return x
    radius = math.ceil(4 * sigma0)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma0) ** 2)
    taps = Taps(offsets, weights / weights.sum())
    for axis in range(2, x.ndim):
        length = x.shape[axis]
        matrix = torch.from_numpy(_place(taps, length, length, 0, 1, wrap=conventions.boundary == "circular"))
        x = _along(matrix.to(dtype=x.dtype, device=x.device), x, axis)
    return x

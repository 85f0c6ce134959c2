"""Deformations of every layer's grid: where its positions are in pixels of the input, and which of them moves where.

On the line, the kernel map M_k acts point by point and commutes with L_tau. On a grid it does not commute with an
interpolation, which averages values, but it does with every *sampling map*, which gives each position the value of
some position, or 0. Here a field becomes sampling maps of the layers' own grids, at their own resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hilbertnet.architecture import Architecture, Pool
from hilbertnet.architecture.operators import patch_padding, pooled_length
from hilbertnet.stability.operators import Operator

__all__ = ["Grid", "Sampling", "layer_grids", "sampling"]


@dataclass(frozen=True)
class Grid:
    """Positions of a layer, in pixels of the input: ``origin + step * i`` along each axis.

    Parameters
    ----------
    origin
        First position along each axis.
    step
        Distance of neighbours, the same along all axes except after a global pooling.
    lengths
        How many there are.
    """

    origin: tuple[float, ...]
    step: tuple[float, ...]
    lengths: tuple[int, ...]

    def line(self, axis: int) -> Tensor:
        """Positions along one axis, float64."""
        return self.origin[axis] + self.step[axis] * torch.arange(self.lengths[axis], dtype=torch.float64)


def layer_grids(arch: Architecture, space: tuple[int, ...]) -> list[Grid]:
    """The input's grid, then the grid of each layer's patches, between its P and its A."""
    grid = Grid((0.0,) * len(space), (1.0,) * len(space), tuple(space))
    result = [grid]
    for layer, (patched, pooled) in zip(arch.layers, arch.shapes(tuple(space)), strict=True):
        shift = (layer.patch - 1) / 2 - patch_padding(layer.patch, arch)[0]
        grid = _finer(grid, [shift] * len(space), [1] * len(space), patched)
        result.append(grid)
        lines = [_pool_line(layer.pool, length, arch) for length in patched]
        grid = _finer(grid, [first for first, _ in lines], [stride for _, stride in lines], pooled)
    return result


def _finer(grid: Grid, firsts: list[float], strides: list[int], lengths: tuple[int, ...]) -> Grid:
    origin = tuple(a + s * first for a, s, first in zip(grid.origin, grid.step, firsts, strict=True))
    return Grid(origin, tuple(s * stride for s, stride in zip(grid.step, strides, strict=True)), tuple(lengths))


def _pool_line(pool: Pool | None, length: int, arch: Architecture) -> tuple[float, int]:
    """Centre of a pooling's first window along an axis, and its stride."""
    if pool is None:
        return 0.0, 1
    positions = pooled_length(length, pool, arch)
    stride = getattr(pool, "stride", length)  # a global pooling has one window
    if arch.layout == "ckn_kernel" and hasattr(pool, "stride"):
        taps = pool.legacy_taps()
        return float(taps.weights @ taps.offsets), stride
    return (length - 1 - stride * (positions - 1)) / 2, stride


@dataclass(frozen=True)
class Sampling:
    """A sampling map of a grid: output u is the value at position ``index[u]``, or 0 where not ``inside[u]``.

    Parameters
    ----------
    index, inside
        Flat, one entry for each position.
    lengths
        The grid's shape.
    """

    index: Tensor
    inside: Tensor
    lengths: tuple[int, ...]

    @property
    def operator(self) -> Operator:
        """As a linear operator."""

        def apply(x: Tensor) -> Tensor:
            moved = x.flatten(2)[:, :, self.index] * self.inside.to(x.dtype)
            return moved.unflatten(2, self.lengths)

        return Operator(apply, self.lengths)

    @property
    def norm(self) -> float:
        """Its operator norm: the root of the largest number of positions that take the same value."""
        taken = self.index[self.inside]
        return math.sqrt(int(torch.bincount(taken).max())) if len(taken) else 0.0


def sampling(field: Tensor, grid: Grid, *, boundary: str = "zero") -> Sampling:
    """The sampling map nearest to L_tau on a layer's grid.

    Position u takes the value of the position nearest to ``u - tau(u)``, tau being linear between pixels.

    Parameters
    ----------
    field
        One field (1, axes, *space) on the input's grid, in pixels.
    grid
        The layer's positions.
    boundary
        As for `hilbertnet.deformations.warp`: what is beyond the grid.
    """
    tau = field[0].detach().to("cpu", torch.float64)
    for axis in range(len(grid.lengths)):
        weights = _line_weights(grid.line(axis), tau.shape[1 + axis], periodic=boundary == "circular")
        tau = (tau.movedim(1 + axis, -1) @ weights.T).movedim(-1, 1 + axis)
    index = torch.zeros(grid.lengths, dtype=torch.int64)
    inside = torch.ones(grid.lengths, dtype=torch.bool)
    for axis, length in enumerate(grid.lengths):
        shape = [-1 if a == axis else 1 for a in range(len(grid.lengths))]
        far = (-tau[axis] / grid.step[axis]).clamp(-1e9, 1e9)  # of no consequence, and a whole number of 64 bits
        at = torch.arange(length).view(shape) + torch.round(far).long()
        if boundary == "circular":
            at = at.remainder(length)
        elif boundary == "zero":
            inside &= (at >= 0) & (at < length)
        index = index * length + at.clamp(0, length - 1)
    return Sampling(index.flatten(), inside.flatten(), grid.lengths)


def _line_weights(points: Tensor, length: int, *, periodic: bool) -> Tensor:
    """Linear interpolation of `length` pixels at `points`, (points, length); beyond the ends the nearest pixel."""
    points = points.remainder(length) if periodic else points.clamp(0, length - 1)
    below = points.floor().clamp(max=length - 1)
    fraction = points - below
    weights = torch.zeros(len(points), length, dtype=torch.float64)
    rows = torch.arange(len(points))
    after = (below.long() + 1).remainder(length) if periodic else (below.long() + 1).clamp(max=length - 1)
    weights.index_put_((rows, below.long()), 1 - fraction, accumulate=True)
    weights.index_put_((rows, after), fraction, accumulate=True)
    return weights

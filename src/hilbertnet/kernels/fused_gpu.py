"""The recursion of pairs of signals for accelerators: few kernels, which torch's compiler writes.

It computes what `hilbertnet.kernels.recursion.cross_pass` does, arranged so that a state of a pair (all pairs of
positions) crosses the memory as rarely as it can:

- the inner products of the first layer's patches are one matrix product;
- sums over patches, cosines, kappa and kappa' of a layer are one kernel;
- pooling gathers its taps, one axis after the other;
- the last pooling and the trace are one weighted sum, in float64, of values of the last kappa that are never stored.

Without a compiler, the same function runs step by step on any device, which is how it is tested where there is no
accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import NamedTuple, cast

import torch
from torch import Tensor

from hilbertnet.architecture.homogeneous import homogeneous
from hilbertnet.architecture.homogeneous import tangent as tangent_factor
from hilbertnet.architecture.layers import Architecture
from hilbertnet.architecture.operators import Conventions, extract_patches, gram_patches, pooling_matrix
from hilbertnet.architecture.pools import Pool
from hilbertnet.kernels.recursion import SelfPass, left_norms, right_norms

__all__ = ["compiled_pairs", "cross_pass", "make_pairs"]

Pairs = Callable[[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, Tensor | None]]
"""Of the first layer's patches of both signals (n, entries, positions) and their norms in all layers."""


def cross_pass(
    arch: Architecture, x: SelfPass, y: SelfPass, *, tangent: bool, compiled: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The kernel, and the tangent kernel if asked for, of all pairs (x_i, y_j).

    Parameters
    ----------
    arch
        The architecture.
    x, y
        The passes of n and m signals with themselves.
    tangent
        Whether to compute the tangent kernel too.
    compiled
        Whether torch's compiler is used; it takes some ten seconds for each architecture and size of signals.

    Returns
    -------
    tuple
        Two tensors (n, m); the second is ``None`` unless `tangent`.
    """
    make = compiled_pairs if compiled else make_pairs
    pairs = make(arch, tuple(x.signals.shape[2:]), x.signals.dtype, x.signals.device, tangent)
    left, right = (extract_patches(own.signals, arch.layers[0].patch, arch).flatten(2) for own in (x, y))
    if compiled:
        for one in (left, right, *x.norms, *y.norms):  # tiles differ in size, the last ones at least
            torch._dynamo.maybe_mark_dynamic(one, 0)
    return pairs(left, right, x.norms, y.norms)


@lru_cache(maxsize=64)
def compiled_pairs(
    arch: Architecture, space: tuple[int, ...], dtype: torch.dtype, device: torch.device, tangent: bool
) -> Pairs:
    """`make_pairs`, to be compiled at its first call."""
    pairs = cast(FunctionType, make_pairs(arch, space, dtype, device, tangent))
    # the compiler counts versions of a code object and gives up at the ninth: one for each architecture
    own = FunctionType(pairs.__code__.replace(), pairs.__globals__, pairs.__name__, None, pairs.__closure__)
    return torch.compile(own, fullgraph=True)


def make_pairs(
    arch: Architecture, space: tuple[int, ...], dtype: torch.dtype, device: torch.device, tangent: bool
) -> Pairs:
    """The recursion of pairs of signals of one shape, as a function of tensors alone.

    Parameters
    ----------
    arch
        The architecture.
    space
        Shape of the signals, channels left out.
    dtype, device
        Of the computation.
    tangent
        Whether to compute the tangent kernel too.
    """
    axes, shapes = len(space), arch.shapes(space)
    taps = [
        [_taps(layer.pool, length, arch, dtype, device) for length in patched]
        for layer, (patched, _) in zip(arch.layers[:-1], shapes[:-1], strict=True)
    ]
    weights = [_overlap(arch.layers[-1].pool, length, arch, dtype, device) for length in shapes[-1][0]]

    def pairs(
        x: Tensor, y: Tensor, norms_x: tuple[Tensor, ...], norms_y: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | None]:
        positions = shapes[0][0]
        inner = torch.einsum("ndu,mdv->nmuv", x, y).reshape(len(x), len(y), *positions, *positions)
        below = inner
        for index, layer in enumerate(arch.layers):
            both = left_norms(norms_x[index].unsqueeze(1), axes), right_norms(norms_y[index].unsqueeze(0), axes)
            states = [homogeneous(layer.kernel, inner, *both)]
            if tangent:
                states.append(tangent_factor(layer.kernel, inner, *both) * below + states[0])
            if index == len(arch.layers) - 1:
                break
            patch = arch.layers[index + 1].patch
            states = [gram_patches(_pool(state, taps[index], axes), patch, axes, arch) for state in states]
            inner, below = states[0], states[-1]
        values = [_pooled_trace(state, weights, axes).to(dtype) for state in states]
        return values[0], values[1] if tangent else None

    return pairs


class _Taps(NamedTuple):
    """For every output the inputs it takes and their weights, padded by weights of 0: shape (positions, taps)."""

    inputs: Tensor
    weights: Tensor


def _taps(
    pool: Pool | None, length: int, conventions: Conventions, dtype: torch.dtype, device: torch.device
) -> _Taps | None:
    if pool is None:
        return None
    matrix = pooling_matrix(pool, length, conventions)
    most = int((matrix != 0).sum(1).max())
    inputs = (matrix != 0).int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return _Taps(inputs.to(device), matrix.gather(1, inputs).to(device, dtype))


def _pool(gram: Tensor, taps: list[_Taps | None], axes: int) -> Tensor:
    """A on both sides of a Gram tensor."""
    first = gram.ndim - 2 * axes
    for axis, along in enumerate([*taps, *taps], start=first):
        if along is None:
            continue
        after = (1,) * (gram.ndim - axis - 1)
        taken = gram.index_select(axis, along.inputs.flatten()).unflatten(axis, along.inputs.shape)
        gram = (taken * along.weights.reshape(*along.weights.shape, *after)).sum(axis + 1)
    return gram


def _overlap(
    pool: Pool | None, length: int, conventions: Conventions, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """A'A along one axis: the weight of a pair of positions in the trace."""
    if pool is None:
        return None
    matrix = pooling_matrix(pool, length, conventions)
    return (matrix.T @ matrix).to(device, dtype)


def _pooled_trace(gram: Tensor, weights: list[Tensor | None], axes: int) -> Tensor:
    """The trace of A K A', in float64."""
    if weights[0] is None:
        step = math.prod(gram.shape[-axes:]) + 1  # the compiler fails on `diagonal` of what it computes itself
        return gram.flatten(2)[..., ::step].sum(-1, dtype=torch.float64)
    for axis, weight in enumerate(weights):
        assert weight is not None
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = weight.shape
        gram = gram * weight.reshape(shape)
    return gram.flatten(2).sum(-1, dtype=torch.float64)

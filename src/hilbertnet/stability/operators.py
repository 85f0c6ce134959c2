"""The linear operators of the stability theorem on the grid, and their norms.

The theorem is a sum of norms of linear operators: of the commutators ``[P_k A_{k-1}, L_tau]``, and of ``L_tau A_n -
A_n``. Here they are functions of a signal, made of the operators of `hilbertnet.architecture.operators` and
of `hilbertnet.deformations.warp`; adjoints come from automatic differentiation. They act on space alone, the same on
every channel, so that their norms on one channel are their norms on signals with values in any Hilbert space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hilbertnet.architecture import Architecture, Pool
from hilbertnet.architecture.operators import antialias, extract_patches, pool_features
from hilbertnet.complexity.operator_norms import DENSE, LinearMap, OperatorNorm
from hilbertnet.complexity.operator_norms import operator_norm as linear_map_norm
from hilbertnet.deformations import check_field, warp
from hilbertnet.signals import is_count

__all__ = [
    "Operator",
    "commutator",
    "deformation",
    "difference",
    "identity",
    "operator_norm",
    "patches",
    "patches_after_pooling",
    "pooling",
]


@dataclass(frozen=True)
class Operator:
    """A linear operator on signals of one channel.

    Parameters
    ----------
    apply
        From (n, 1, *space) to (n, channels, *positions), float64, linear, by differentiable operations.
    space
        Spatial shape of its input.
    """

    apply: Callable[[Tensor], Tensor]
    space: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x)

    @property
    def map(self) -> LinearMap:
        """The same, of signals with a channel axis."""
        return LinearMap(self.apply, (1, *self.space))

    def adjoint(self, y: Tensor) -> Tensor:
        """``C^T y``, by automatic differentiation."""
        return self.map.adjoint(y)

    def dense(self) -> Tensor:
        """Its matrix, (channels * positions, pixels)."""
        return self.map.dense()

    def __matmul__(self, other: Operator) -> Operator:
        """The composition: first `other`, then this one on each of its channels."""
        return Operator(lambda x: _per_channel(self, other(x)), other.space)

    def __sub__(self, other: Operator) -> Operator:
        return Operator(lambda x: self(x) - other(x), self.space)


def _per_channel(operator: Operator, x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return operator(x)
    y = operator(x.flatten(0, 1).unsqueeze(1))
    return y.unflatten(0, x.shape[:2]).flatten(1, 2)


# --- the operators of an architecture


def identity(space: tuple[int, ...]) -> Operator:
    """The operator that changes nothing."""
    return Operator(lambda x: x, tuple(space))


def pooling(pool: Pool | None, arch: Architecture, space: tuple[int, ...]) -> Operator:
    """A_k: the pooling `pool` with the conventions of `arch`, on signals of spatial shape `space`."""
    return Operator(lambda x: pool_features(x, pool, arch), tuple(space))


def patches(patch: int, arch: Architecture, space: tuple[int, ...]) -> Operator:
    """P_k: patches of side `patch` with the conventions of `arch`, on signals of spatial shape `space`."""
    return Operator(lambda x: extract_patches(x, patch, arch), tuple(space))


def patches_after_pooling(arch: Architecture, layer: int, space: tuple[int, ...]) -> Operator:
    """``P_k A_{k-1}`` of layer `layer` = 1 ... n: from the patches' positions of the layer before to its own.

    Parameters
    ----------
    arch
        The architecture.
    layer
        k; A_0 is the anti-aliasing filter.
    space
        Spatial shape of the input of the whole architecture.
    """
    if not is_count(layer) or layer > len(arch.layers):
        raise ValueError(f"layer: expected a number from 1 to {len(arch.layers)}, got {layer!r}")
    patch = arch.layers[layer - 1].patch
    shapes = arch.shapes(tuple(space))
    if layer == 1:
        return Operator(lambda x: extract_patches(antialias(x, arch.sigma0, arch), patch, arch), tuple(space))
    pool = arch.layers[layer - 2].pool
    return Operator(lambda x: extract_patches(pool_features(x, pool, arch), patch, arch), shapes[layer - 2][0])


def deformation(field: Tensor, *, interpolation: str = "bilinear", boundary: str = "zero") -> Operator:
    """L_tau for one field (1, axes, *space): `hilbertnet.deformations.warp`, which is linear in the signal."""
    check_field(field)
    if len(field) != 1:
        raise ValueError(f"field: expected one field, shape (1, axes, *space), got shape {tuple(field.shape)}")
    field = field.detach().to(torch.float64)
    return Operator(lambda x: warp(x, field, interpolation=interpolation, boundary=boundary), tuple(field.shape[2:]))


def commutator(operator: Operator, before: Operator, after: Operator | None = None) -> Operator:
    """``B T - T' B`` for B = `operator`, T = `before` on its input and T' = `after` on its output (default: T).

    With B = P_k A_{k-1} and T = T' = L_tau it is ``[P_k A_{k-1}, L_tau]``, which needs input and output on one grid;
    with strides, T' is a deformation of the coarser grid.

    Raises
    ------
    ValueError
        If the output of B is not on the grid of T'.
    """
    after = before if after is None else after
    positions = tuple(operator(torch.zeros(1, 1, *operator.space, dtype=torch.float64)).shape[2:])
    if positions != after.space:
        raise ValueError(f"after: expected an operator on the positions {positions}, got one on {after.space}")
    return (operator @ before) - (after @ operator)


def difference(pool: Operator, moved: Operator, *, inside: bool = True) -> Operator:
    """``A_n T - A_n``, or ``T A_n - A_n`` (``L_tau A_n - A_n`` of the theorem, without strides) if not `inside`."""
    return (pool @ moved if inside else moved @ pool) - pool


# --- norms


def operator_norm(
    operator: Operator,
    *,
    tolerance: float = 0.01,
    generator: int | torch.Generator = 0,
    dense: int = DENSE,
) -> OperatorNorm:
    """The norm of an operator: `hilbertnet.complexity.operator_norms.operator_norm`, whose arguments these are."""
    return linear_map_norm(operator.map, tolerance=tolerance, generator=generator, dense=dense)

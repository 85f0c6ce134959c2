"""The linear operators of the stability theorem on the grid, and their norms.

The theorem is a sum of norms of linear operators: of the commutators ``[P_k A_{k-1}, L_tau]``, and of ``L_tau A_n -
A_n``. Here they are functions of a signal, made of the operators of `hilbertnet.architecture.operators` and
of `hilbertnet.deformations.warp`; adjoints come from automatic differentiation. They act on space alone, the same on
every channel, so that their norms on one channel are their norms on signals with values in any Hilbert space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hilbertnet.architecture import Architecture, Pool
from hilbertnet.architecture.operators import antialias, extract_patches, pool_features
from hilbertnet.deformations import check_field, warp
from hilbertnet.signals import as_rng, is_count

__all__ = [
    "Norm",
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

_DENSE = 2**20  # entries of a matrix that is faster to make than to iterate with
_FAILURE = 1e-6


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

    def adjoint(self, y: Tensor) -> Tensor:
        """``C^T y``, by automatic differentiation."""
        with torch.enable_grad():
            x = torch.zeros(len(y), 1, *self.space, dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self(x), x, y)[0]

    def dense(self) -> Tensor:
        """Its matrix, (channels * positions, pixels)."""
        pixels = math.prod(self.space)
        unit = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *self.space)
        return self(unit).flatten(1).T.contiguous()

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


@dataclass(frozen=True)
class Norm:
    """An operator norm.

    Parameters
    ----------
    value
        The largest singular value; where it is found iteratively, a value that is never above it.
    upper
        What it does not exceed: except for rounding where `exact`, else except with a probability of 1e-6 over the
        start (see `operator_norm`).
    products
        How many times ``C^T C`` was applied.
    residual
        ``||C^T C v - value^2 v|| / value^2`` of the singular vector v found; 0 where exact.
    exact
        Whether the whole matrix was made, or the iteration ended by itself.
    """

    value: float
    upper: float
    products: int
    residual: float
    exact: bool

    def __str__(self) -> str:
        if self.exact:
            return f"{self.value:.6g}"
        return f"{self.value:.6g} (at most {self.upper:.6g}, {self.products} products, residual {self.residual:.1e})"


@torch.no_grad()
def operator_norm(
    operator: Operator,
    *,
    tolerance: float = 0.01,
    generator: int | torch.Generator = 0,
    dense: int = _DENSE,
) -> Norm:
    """The norm of a linear operator: from its matrix if it is small, else by an accelerated power iteration.

    The power iteration multiplies a random vector by ``C^T C`` again and again. Lanczos' method makes the same
    products and takes the best vector of all their span, never worse than the last one. From a uniform random start,
    the probability that its value for ``||C||^2`` is too small by a factor below 1 - eps after q products is at
    most ``1.648 sqrt(N) exp(-sqrt(eps) (2 q - 1))``, N the number of pixels. The number of products is chosen so that
    `Norm.upper` is at most ``1 + tolerance`` times the value, at a probability of 1e-6.

    Parameters
    ----------
    operator
        C.
    tolerance
        Wanted relative distance of `Norm.upper` from `Norm.value`.
    generator
        Seed of the start, or a generator.
    dense
        Entries up to which the matrix is made, and its norm is exact; 0 for never.

    References
    ----------
    J. Kuczynski and H. Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a
    random start", SIAM Journal on Matrix Analysis and Applications, 1992.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: expected a number between 0 and 1, got {tolerance!r}")
    pixels = math.prod(operator.space)
    start = torch.randn(1, 1, *operator.space, dtype=torch.float64, generator=as_rng(generator))
    if pixels * operator(start).numel() <= dense:
        return _dense_norm(operator.dense())
    return _lanczos(operator, start, tolerance)


def _dense_norm(matrix: Tensor) -> Norm:
    small = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    value = math.sqrt(max(float(torch.linalg.eigvalsh(small)[-1]), 0.0))
    return Norm(value, value * (1 + 1e-10), 0, 0.0, True)


def _square(operator: Operator, v: Tensor) -> Tensor:
    """``C^T C v``."""
    with torch.enable_grad():
        x = v.detach().view(1, 1, *operator.space).requires_grad_()
        y = operator(x)
        return torch.autograd.grad(y, x, y.detach())[0].flatten()


def _lanczos(operator: Operator, start: Tensor, tolerance: float) -> Norm:
    basis = [(start / start.norm()).flatten()]
    pixels = len(basis[0])
    diagonal: list[float] = []
    beside: list[float] = []
    spread = math.log(1.648 * math.sqrt(pixels) / _FAILURE)
    eps = 1.0 - (1.0 + tolerance) ** -2
    wanted = min(math.ceil((spread / math.sqrt(eps) + 1) / 2), pixels)
    while True:
        w = _square(operator, basis[-1])
        diagonal.append(float(w @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # once is not enough in floating point
            w = w - known.T @ (known @ w)
        size = float(w.norm())
        value, last = _largest(diagonal, beside)
        closed = size <= 1e-12 * max(value, torch.finfo(torch.float64).tiny) or len(basis) == pixels
        if closed or len(basis) >= wanted:
            break
        beside.append(size)
        basis.append(w / size)
    norm = math.sqrt(max(value, 0.0))
    if closed:
        return Norm(norm, norm * (1 + 1e-10), len(basis), 0.0, True)
    eps = (spread / (2 * len(basis) - 1)) ** 2
    return Norm(norm, norm / math.sqrt(1 - eps), len(basis), size * last / value, False)


def _largest(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """Largest eigenvalue of a tridiagonal matrix, and the size of the last entry of its vector."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.tensor(beside, dtype=torch.float64)
    if len(off):
        matrix += torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), abs(float(vectors[-1, -1]))

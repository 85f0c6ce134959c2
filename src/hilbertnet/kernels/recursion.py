"""The recursion of exact convolutional kernels, in plain torch: any dtype, any device, differentiable. The reference.

For signals x and y let ``K_0(u, u') = <x(u), y(u')>``. Layer k with patches P, kernel kappa and pooling A maps

    S   = P K_{k-1}                       inner products of patches, at all pairs of positions
    n_x = sqrt(S_xx(u, u)), n_y alike     norms of patches
    K_k = A [ n_x n_y kappa(c) ],         c = S / (n_x n_y)

and the tangent kernel, starting from T_0 = K_0,

    T_k = A [ kappa'(c) P T_{k-1} + n_x n_y kappa(c) ].

The results are the traces over positions, ``sum_u K_n(u, u)`` and ``sum_u T_n(u, u)``.

References: J. Mairal, P. Koniusz, Z. Harchaoui and C. Schmid, "Convolutional kernel networks", NeurIPS 2014; A. Bietti
and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, proposition 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.architecture.homogeneous import homogeneous, safe_norm
from hilbertnet.architecture.homogeneous import tangent as tangent_factor
from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.operators import antialias, gram_patches, gram_pool

__all__ = ["SelfPass", "cross_pass", "left_norms", "right_norms", "self_pass"]


@dataclass(frozen=True)
class SelfPass:
    """What a signal's recursion with itself leaves for its pairs with others.

    Parameters
    ----------
    signals
        The signals after A_0, shape (n, channels, *space).
    norms
        For every layer, the norms of patches, shape (n, *positions).
    ckn
        K(x, x), shape (n,).
    ntk
        The tangent kernel's K(x, x), shape (n,), or ``None`` if it was not asked for.
    """

    signals: Tensor
    norms: tuple[Tensor, ...]
    ckn: Float[Tensor, " n"]
    ntk: Float[Tensor, " n"] | None

    def __getitem__(self, rows: slice) -> SelfPass:
        ntk = None if self.ntk is None else self.ntk[rows]
        return SelfPass(self.signals[rows], tuple(norm[rows] for norm in self.norms), self.ckn[rows], ntk)

    @staticmethod
    def cat(parts: list[SelfPass]) -> SelfPass:
        """The passes of several batches as one."""
        if len(parts) == 1:
            return parts[0]
        ntks = [part.ntk for part in parts if part.ntk is not None]
        return SelfPass(
            torch.cat([part.signals for part in parts]),
            tuple(torch.cat(norms) for norms in zip(*(part.norms for part in parts), strict=True)),
            torch.cat([part.ckn for part in parts]),
            torch.cat(ntks) if ntks else None,
        )


def self_pass(arch: Architecture, x: Float[Tensor, "n channels *space"], *, tangent: bool) -> SelfPass:
    """The recursion of every signal with itself.

    Parameters
    ----------
    arch
        The architecture.
    x
        Signals, shape (n, channels, *space).
    tangent
        Whether to compute the tangent kernel too.
    """
    x = antialias(x, arch.sigma0, arch)
    axes = x.ndim - 2
    gram = _inner_products(x, x, pairs="n")
    tangents = gram if tangent else None
    norms = []
    for layer in arch.layers:
        inner = gram_patches(gram, layer.patch, axes, arch)
        norm = safe_norm(_diagonal(inner, axes))
        norms.append(norm)
        both = left_norms(norm, axes), right_norms(norm, axes)
        gram, tangents = _map_and_pool(arch, layer, inner, tangents, both, axes)
    traces = _trace(gram, axes), None if tangents is None else _trace(tangents, axes)
    return SelfPass(x, tuple(norms), *traces)


def cross_pass(
    arch: Architecture, x: SelfPass, y: SelfPass, *, tangent: bool, elementwise: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The kernel, and the tangent kernel if asked for, of all pairs (x_i, y_j), or of the pairs (x_i, y_i).

    Parameters
    ----------
    arch
        The architecture.
    x, y
        The passes of n and m signals with themselves.
    tangent
        Whether to compute the tangent kernel too.
    elementwise
        Pair x_i with y_i only; then n = m.

    Returns
    -------
    tuple
        Two tensors (n, m), or (n,) if `elementwise`; the second is ``None`` unless `tangent`.
    """
    axes = x.signals.ndim - 2
    gram = _inner_products(x.signals, y.signals, pairs="n" if elementwise else "nm")
    tangents = gram if tangent else None
    for layer, norm_x, norm_y in zip(arch.layers, x.norms, y.norms, strict=True):
        inner = gram_patches(gram, layer.patch, axes, arch)
        if not elementwise:
            norm_x, norm_y = norm_x.unsqueeze(1), norm_y.unsqueeze(0)
        both = left_norms(norm_x, axes), right_norms(norm_y, axes)
        gram, tangents = _map_and_pool(arch, layer, inner, tangents, both, axes)
    return _trace(gram, axes), None if tangents is None else _trace(tangents, axes)


def _map_and_pool(
    arch: Architecture,
    layer: Layer,
    inner: Tensor,
    tangents: Tensor | None,
    norms: tuple[Tensor, Tensor],
    axes: int,
) -> tuple[Tensor, Tensor | None]:
    """A M, on the kernel and on the tangent kernel, from the inner products of patches."""
    mapped = homogeneous(layer.kernel, inner, *norms)
    if tangents is not None:
        below = gram_patches(tangents, layer.patch, axes, arch)
        tangents = gram_pool(tangent_factor(layer.kernel, inner, *norms) * below + mapped, layer.pool, axes, arch)
    return gram_pool(mapped, layer.pool, axes, arch), tangents


def _inner_products(x: Tensor, y: Tensor, pairs: str) -> Tensor:
    """<x_i(u), y_j(u')> for all positions, of all pairs (``"nm"``) or of the pairs i = j (``"n"``)."""
    space = x.shape[2:]
    if pairs == "n":
        flat = torch.einsum("ncu,ncv->nuv", x.flatten(2), y.flatten(2))
        return flat.reshape(len(x), *space, *space)
    flat = torch.einsum("ncu,mcv->nmuv", x.flatten(2), y.flatten(2))
    return flat.reshape(len(x), len(y), *space, *space)


def _diagonal(gram: Tensor, axes: int) -> Tensor:
    """K(u, u): (*pairs, *space, *space) to (*pairs, *space)."""
    space = gram.shape[-axes:]
    size = math.prod(space)
    flat = gram.reshape(*gram.shape[: -2 * axes], size, size)
    return flat.diagonal(dim1=-2, dim2=-1).reshape(*gram.shape[: -2 * axes], *space)


def _trace(gram: Tensor, axes: int) -> Tensor:
    return _diagonal(gram, axes).flatten(-axes).sum(-1)


def left_norms(norm: Tensor, axes: int) -> Tensor:
    """Norms of the first signal's patches, shaped to broadcast over the positions of the second."""
    return norm.reshape(*norm.shape, *(1,) * axes)


def right_norms(norm: Tensor, axes: int) -> Tensor:
    """Norms of the second signal's patches, shaped to broadcast over the positions of the first."""
    return norm.reshape(*norm.shape[:-axes], *(1,) * axes, *norm.shape[-axes:])

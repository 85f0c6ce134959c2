r"""Deformation fields on the grid of pixels: Jacobians, the two norms of the stability theorem, composition, folds.

A field is a tensor tau (n, axes, *space) of displacements in pixels; tau[:, k] is the displacement along axis k of
space (axis 0 of an image are its rows, downwards). It moves a signal by (L_tau x)(u) = x(u - tau(u)), so a constant tau
moves the picture by +tau. The theorem (A. Bietti and J. Mairal, "Group invariance, stability to deformations, and
complexity of deep convolutional representations", JMLR 2019, section 3) reads two norms of tau: sup_u |tau(u)| and
sup_u ||grad tau(u)||, the second an operator norm.

Between the pixels a field is taken to be multilinear. One-sided differences at the pixels are then its derivatives at
the corners of the cells between pixels. In a cell, each column of grad tau is affine in the other coordinate alone, so
that a norm of grad tau, which is convex, has its largest value at a corner, and det(I - grad tau), which is affine in
each coordinate, has its smallest one there. Looking at all one-sided differences therefore gives the exact sup and
finds all folds, of which central differences see nothing where a field alternates from pixel to pixel.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hilbertnet.deformations.warp import check_field, warp

__all__ = [
    "FoldWarning",
    "check_field",
    "compose",
    "displacement_norm",
    "folds",
    "gradient_norm",
    "jacobian",
    "scale_field",
    "warn_of_folds",
]

_BEYOND = ("linear", "edge", "circular")


class FoldWarning(UserWarning):
    """A field that folds the picture: det(I - grad tau) <= 0 somewhere."""


# --- derivatives on the grid


def _differences(field: Tensor, axis: int, periodic: bool) -> tuple[Tensor, Tensor]:
    """Forward and backward differences along one axis of space; at an edge both are the one there is, else 0."""
    dim = 2 + axis
    if field.shape[dim] == 1:
        return (torch.zeros_like(field),) * 2
    if periodic:
        forward = field.roll(-1, dim) - field
        return forward, forward.roll(1, dim)
    inner = field.diff(dim=dim)
    last = inner.narrow(dim, -1, 1)
    return torch.cat([inner, last], dim), torch.cat([inner.narrow(dim, 0, 1), inner], dim)


def _corners(field: Tensor, periodic: bool) -> Iterator[list[list[Tensor]]]:
    """The Jacobians at the corners of all cells, as entries[k][l] (n, *space) of d tau_k / d u_l."""
    axes = field.shape[1]
    for columns in itertools.product(*(_differences(field, axis, periodic) for axis in range(axes))):
        yield [[columns[axis][:, k] for axis in range(axes)] for k in range(axes)]


def jacobian(field: Float[Tensor, "n axes *space"], *, periodic: bool = False) -> Float[Tensor, "n *space axes axes"]:
    """The Jacobian matrix at every pixel: entry (k, l) is d tau_k / d u_l, without a unit.

    Central differences inside, one-sided ones at the edges: both are exact for affine fields. They are the mean of the
    one-sided differences that `gradient_norm` and `folds` look at. Along an axis of one pixel they are 0.

    Parameters
    ----------
    field
        In pixels, shape (n, axes, *space).
    periodic
        Whether the first pixel of each axis follows the last one, as on the torus.
    """
    check_field(field)
    pairs = [_differences(field, axis, periodic) for axis in range(field.shape[1])]
    return torch.stack([(forward + backward) / 2 for forward, backward in pairs], -1).movedim(1, -2)


# --- the two norms


def displacement_norm(field: Float[Tensor, "n axes *space"]) -> Float[Tensor, " n"]:
    """``sup_u |tau(u)|``, the longest displacement (Euclidean), in pixels, shape (n,)."""
    check_field(field)
    return _length(*field.unbind(1)).flatten(1).amax(1)


def gradient_norm(field: Float[Tensor, "n axes *space"], *, periodic: bool = False) -> Float[Tensor, " n"]:
    """``sup_u ||grad tau(u)||``, the largest operator norm (largest singular value) of the Jacobian, without a unit.

    This is the Lipschitz constant of the field, multilinear between pixels: the largest value over the
    one-sided differences at all pixels. It is at least the largest norm of `jacobian`, and the same for affine fields.

    Parameters
    ----------
    field
        In pixels, shape (n, axes, *space).
    periodic
        As for `jacobian`.

    Returns
    -------
    Tensor
        Shape (n,).
    """
    check_field(field)
    largest = [_operator_norm(entries).flatten(1).amax(1) for entries in _corners(field, periodic)]
    return torch.stack(largest).amax(0)


def _operator_norm(entries: list[list[Tensor]]) -> Tensor:
    """Largest singular value of 1 x 1 and 2 x 2 matrices, in closed form.

    That of [[a, b], [c, d]] is half of |(a + d, c - b)| + |(a - d, c + b)|: the norms of the parts of the matrix that
    turn and that mirror the plane.
    """
    if len(entries) == 1:
        return entries[0][0].abs()
    (a, b), (c, d) = entries
    return (_length(a + d, c - b) + _length(a - d, c + b)) / 2


def _length(*parts: Tensor) -> Tensor:
    """Euclidean norm of vectors of one or two entries; its gradient at 0 is 0."""
    if len(parts) == 1:
        return parts[0].abs()
    zero = (parts[0] == 0) & (parts[1] == 0)
    return torch.hypot(parts[0].masked_fill(zero, 1), parts[1]).masked_fill(zero, 0)


def scale_field(
    field: Float[Tensor, "n axes *space"],
    *,
    displacement: float | Tensor | None = None,
    gradient: float | Tensor | None = None,
    periodic: bool = False,
) -> Float[Tensor, "n axes *space"]:
    """Every field times the number that gives it a wanted norm, to rounding.

    Parameters
    ----------
    field
        In pixels, shape (n, axes, *space).
    displacement
        Wanted ``sup_u |tau(u)|``, in pixels: a number, or one for each field (n,).
    gradient
        Wanted ``sup_u ||grad tau(u)||``, without a unit; give this or `displacement`.
    periodic
        As for `jacobian`.

    Raises
    ------
    ValueError
        If not exactly one norm is wanted, it is negative or not finite, or a field has norm 0 and is to have another.
    """
    check_field(field)
    if (displacement is None) == (gradient is None):
        given = "both" if gradient is not None else "none"
        raise ValueError(f"scale_field: expected exactly one of displacement and gradient, got {given}")
    name = "gradient" if displacement is None else "displacement"
    value = gradient if displacement is None else displacement
    wanted = _wanted(name, value, field)
    norm = displacement_norm(field) if displacement is not None else gradient_norm(field, periodic=periodic)
    lost = torch.nonzero((norm == 0) & (wanted > 0))
    if len(lost):
        found = f"field {int(lost[0])} whose norm is 0"
        raise ValueError(
            f"{name}: expected fields of a norm above 0 to scale to {wanted[lost[0]].item():g}, got {found}"
        )
    norm = norm.where(norm > 0, torch.ones_like(norm))
    shape = (-1, *[1] * (field.ndim - 1))
    scaled = (field / norm.view(shape)) * wanted.view(shape)
    if not torch.isfinite(scaled).all():
        raise ValueError(f"{name}: expected norms whose displacements are finite in {field.dtype}, got {value!r}")
    return scaled


def _wanted(name: str, value: Any, field: Tensor) -> Tensor:
    """The wanted norms as (n,), checked."""
    try:
        wanted = torch.as_tensor(value, dtype=field.dtype, device=field.device)
    except (TypeError, ValueError, RuntimeError):
        wanted = torch.empty(0)
    if wanted.shape not in ((), field.shape[:1]):
        raise ValueError(f"{name}: expected a number or shape ({len(field)},), one for each field, got {value!r}")
    bad = wanted[~(torch.isfinite(wanted) & (wanted >= 0))]
    if len(bad):
        raise ValueError(f"{name}: expected finite numbers of at least 0, got {bad[0].item():g}")
    return wanted.expand(len(field))


# --- composition and folds


def compose(
    outer: Float[Tensor, "#n axes *space"],
    inner: Float[Tensor, "#n axes *space"],
    *,
    boundary: str = "linear",
) -> Float[Tensor, "#n axes *space"]:
    """The field of ``L_outer L_inner``: first `inner` deforms the signal, then `outer` what came of it.

    It is ``outer(u) + inner(u - outer(u))``, with `inner` multilinear between pixels: exact where `inner` is affine.

    Parameters
    ----------
    outer, inner
        In pixels, shape (n, axes, *space); either may be one field for all.
    boundary
        What `inner` is beyond the pixels: ``"linear"`` goes on with the slope at the edge, so that affine fields are
        composed exactly everywhere; ``"edge"`` is the nearest pixel; ``"circular"`` is the torus.
    """
    check_field(outer, "outer")
    check_field(inner, "inner", like=outer)
    if boundary not in _BEYOND:
        raise ValueError(f"boundary: expected one of {', '.join(map(repr, _BEYOND))}, got {boundary!r}")
    if boundary != "linear":
        return outer + warp(inner, outer, boundary=boundary)
    moved = warp(inner, outer, boundary="edge")
    axes, space = inner.shape[1], inner.shape[2:]
    slopes = jacobian(inner).movedim((-2, -1), (1, 2)).flatten(1, 2)
    slopes = warp(slopes, outer, boundary="edge").unflatten(1, (axes, axes))
    return outer + moved + (slopes * _overshoot(outer, space).unsqueeze(1)).sum(2)


def _overshoot(field: Tensor, space: torch.Size) -> Tensor:
    """How far u - tau(u) is beyond the pixels, along every axis of space; 0 inside."""
    beyond = []
    for axis, length in enumerate(space):
        shape = [-1 if a == axis else 1 for a in range(len(space))]
        points = torch.arange(length, dtype=field.dtype, device=field.device).view(shape) - field[:, axis]
        beyond.append(points - points.clamp(0, length - 1))
    return torch.stack(beyond, 1)


def folds(field: Float[Tensor, "n axes *space"], *, periodic: bool = False) -> Bool[Tensor, " n *space"]:
    """Where ``u -> u - tau(u)`` is not one-to-one: the pixels at which det(I - grad tau) <= 0 in a cell around them.

    Fields of a gradient norm below 1 have none.

    Parameters
    ----------
    field
        In pixels, shape (n, axes, *space).
    periodic
        As for `jacobian`.
    """
    check_field(field)
    return torch.stack([_determinant(entries) <= 0 for entries in _corners(field, periodic)]).any(0)


def _determinant(entries: list[list[Tensor]]) -> Tensor:
    """det(I - grad tau)."""
    if len(entries) == 1:
        return 1 - entries[0][0]
    (a, b), (c, d) = entries
    return (1 - a) * (1 - d) - b * c


def warn_of_folds(
    field: Float[Tensor, "n axes *space"], name: str = "field", *, periodic: bool = False, stacklevel: int = 2
) -> Bool[Tensor, " n"]:
    """Warn if some field folds, and where first; returns which do.

    Parameters
    ----------
    field
        In pixels, shape (n, axes, *space).
    name
        What it is, for the message.
    periodic
        As for `jacobian`.
    stacklevel
        Of the warning, as for `warnings.warn`.

    Warns
    -----
    FoldWarning
        If a field folds.
    """
    where = folds(field, periodic=periodic)
    folding = where.flatten(1).any(1)
    if folding.any():
        first, *pixel = torch.nonzero(where)[0].tolist()
        pixels = int(where[first].sum())
        warnings.warn(
            f"{name}: {int(folding.sum())} of {len(field)} fold the picture, det(I - grad tau) <= 0: number {first} at "
            f"{pixels} of {where[first].numel()} pixels, the first at {tuple(pixel)}; a sup of ||grad tau|| below 1 "
            "avoids it",
            FoldWarning,
            stacklevel=stacklevel,
        )
    return folding

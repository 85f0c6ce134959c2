r"""Deforming a signal on the grid: (L_tau x)(u) = x(u - tau(u)), with x interpolated between pixels.

The neighbours of every point are gathered and weighted. How many pixels the point is away, floor and fraction, is
computed from tau alone, never from u - tau(u), whose rounding would grow with the image: for displacements by whole
pixels the fraction is exactly 0 and the pixels come back to the last bit.

- ``"bilinear"``: weights 1 - f and f along each axis (linear interpolation on signals).
- ``"cubic"``: the convolution of R. Keys, "Cubic convolution interpolation for digital image processing", IEEE
  Transactions on Acoustics, Speech, and Signal Processing, 1981, with a = -1/2 (also known as Catmull-Rom splines):
  four neighbours along each axis, continuous first derivatives, exact for polynomials of degree 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hilbertnet.text import nearest

__all__ = ["BOUNDARIES", "INTERPOLATIONS", "check_field", "warp"]

BOUNDARIES = ("zero", "circular", "edge")


class _Scheme(NamedTuple):
    """How values between pixels are made of `taps` neighbours, the first at `first` from the floor of the point."""

    first: int
    taps: int
    weights: Callable[[Tensor], Any]
    combine: Callable[[Sequence[Tensor], Any], Tensor]


def _cubic_weights(f: Tensor) -> tuple[Tensor, ...]:
    """Keys' weights of the pixels at -1, 0, 1, 2; exactly 0 and 1 where f is 0 or 1."""
    g = 1 - f
    near, far = 1 + f * f * (1.5 * f - 2.5), 1 + g * g * (1.5 * g - 2.5)
    return -0.5 * f * g * g, near, far, -0.5 * g * f * f


def _weighted(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = torch.addcmul(total, value, weight)
    return total


INTERPOLATIONS = {
    # torch.lerp is exact at both ends and for equal values
    "bilinear": _Scheme(0, 2, lambda f: f, lambda values, f: torch.lerp(values[0], values[1], f)),
    "cubic": _Scheme(-1, 4, _cubic_weights, _weighted),
}


def warp(
    x: Float[Tensor, "#n channels *space"],
    field: Float[Tensor, "#n axes *space"],
    *,
    interpolation: str = "bilinear",
    boundary: str = "zero",
) -> Float[Tensor, "#n channels *space"]:
    """``L_tau x``, the signal deformed by a field: ``x(u - tau(u))`` at every pixel u.

    Linear in `x`; can be differentiated in `x` and in `field` (in the field, almost everywhere: bilinear values have
    kinks where u - tau(u) is on a line of pixels).

    Parameters
    ----------
    x
        Signals (n, channels, length) or images (n, channels, height, width), of any floating dtype.
    field
        Displacements in pixels (n, axes, *space), on the device of `x`; one field serves all signals, and one signal
        all fields.
    interpolation
        ``"bilinear"`` or ``"cubic"``.
    boundary
        What `x` is beyond its pixels: 0 (``"zero"``), periodic (``"circular"``), or its nearest pixel (``"edge"``).

    Returns
    -------
    Tensor
        In the dtype and on the device of `x`.

    Raises
    ------
    ValueError
        If shapes do not fit, numbers are not finite, or a name is unknown.
    """
    _check_signals(x)
    check_field(field, like=x)
    scheme = INTERPOLATIONS[_known("interpolation", interpolation, tuple(INTERPOLATIONS))]
    _known("boundary", boundary, BOUNDARIES)
    count, space = max(len(x), len(field)), x.shape[2:]
    shift = -(field if field.dtype in (torch.float32, torch.float64) else field.float())
    floor = shift.detach().floor()
    weights = [scheme.weights(f.unsqueeze(1)) for f in (shift - floor).flatten(2).to(x.dtype).unbind(1)]
    padded = [length + 2 * scheme.taps for length in space]
    base = _first_neighbours(floor, scheme, boundary, padded).flatten(1)
    base = base.unsqueeze(1).expand(count, x.shape[1], -1)
    flat = _pad(x, scheme.taps, boundary).flatten(2).expand(count, -1, -1)

    def value(axis: int, offset: int) -> Tensor:
        if axis == len(space):
            return flat.narrow(2, offset, flat.shape[2] - offset).gather(2, base)
        stride = padded[1] if (axis, len(space)) == (0, 2) else 1
        return scheme.combine([value(axis + 1, offset + stride * tap) for tap in range(scheme.taps)], weights[axis])

    return value(0, 0).unflatten(2, space)


def _first_neighbours(floor: Tensor, scheme: _Scheme, boundary: str, padded: Sequence[int]) -> Tensor:
    """Where the first neighbour of every point is in the padded signal, as a flat index (n, *space).

    The padding is as wide as there are neighbours, so a point far outside may be moved to where all its neighbours lie
    in the padding.
    """
    index = torch.zeros((), dtype=torch.int64, device=floor.device)
    for axis, size in enumerate(padded):
        length = size - 2 * scheme.taps
        here = torch.arange(length, device=floor.device).view([-1 if a == axis else 1 for a in range(len(padded))])
        if boundary == "circular":
            at = floor[:, axis].remainder(length).long() + here
            at = torch.where(at < length, at, at - length) + (scheme.first + scheme.taps)
        else:
            # far floats are cut before they become whole numbers, which would overflow
            at = floor[:, axis].clamp(-length - scheme.taps, length + scheme.taps).long() + here
            at = (at + (scheme.first + scheme.taps)).clamp(0, length + scheme.taps)
        index = index * size + at
    return index


def _pad(x: Tensor, width: int, boundary: str) -> Tensor:
    """`x` with `width` more pixels before and after every axis of space."""
    if boundary == "zero":
        return functional.pad(x, [width] * (2 * (x.ndim - 2)))
    for dim in range(2, x.ndim):
        length = x.shape[dim]
        source = torch.arange(-width, length + width, device=x.device)
        source = source.remainder(length) if boundary == "circular" else source.clamp(0, length - 1)
        x = x.index_select(dim, source)
    return x


# --- checks


def _known(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        hint = nearest(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}{hint}")
    return value


def _check_tensor(value: Any, name: str, expected: str) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, {expected}, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{name}: expected real floating-point numbers, got dtype {value.dtype}")


def _check_finite(value: Tensor, name: str) -> None:
    if not torch.isfinite(value).all():
        first = torch.nonzero(~torch.isfinite(value))[0].tolist()
        raise ValueError(f"{name}: expected finite numbers, got {value[tuple(first)].item()} at index {first}")


def _check_signals(x: Any) -> None:
    expected = "images (n, channels, height, width) or signals (n, channels, length)"
    _check_tensor(x, "x", expected)
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise ValueError(f"x: expected {expected}, none of them 0, got shape {tuple(x.shape)}")
    _check_finite(x, "x")


def check_field(field: Tensor, name: str = "field", like: Tensor | None = None) -> Tensor:
    """The field, if it is one: a floating-point tensor (n, axes, *space) of finite numbers.

    Parameters
    ----------
    field
        Displacements in pixels.
    name
        The argument's name, for messages.
    like
        Signals (n, channels, *space), or another field, whose space and device it must have, and as many examples,
        unless there is one of either.

    Raises
    ------
    ValueError
        If it is no field, or does not fit.
    """
    expected = "a field (n, 2, height, width) or (n, 1, length) in pixels"
    _check_tensor(field, name, expected)
    if field.ndim not in (3, 4) or field.shape[1] != field.ndim - 2 or 0 in field.shape:
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(field.shape)}")
    if like is not None:
        _check_fits(field, name, like)
    _check_finite(field, name)
    return field


def _check_fits(field: Tensor, name: str, like: Tensor) -> None:
    space = tuple(like.shape[2:])
    counts = {len(field), len(like)} - {1}
    if field.shape[2:] != like.shape[2:] or len(counts) > 1:
        wanted = ", ".join(map(str, (len(space), *space)))
        one = "" if len(like) == 1 else f"{len(like)} or 1, "
        first = one or "n, "
        raise ValueError(f"{name}: expected shape ({first}{wanted}), got {tuple(field.shape)}")
    if field.device != like.device:
        raise ValueError(f"{name}: expected it on {like.device}, as the signals, got {field.device}")

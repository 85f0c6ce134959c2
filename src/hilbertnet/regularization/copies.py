r"""Deformed copies of training signals, and tangents of their deformations, for any data that have them.

Images of one channel of 28 x 28 pixels are deformed as those of Infinite MNIST are, all others, and 1-D signals, by
smooth random fields of the same calibration: a Gaussian of 4/28 of the side, a largest displacement of 1/28 of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hilbertnet.deformations.components import SUP_AT_ONE
from hilbertnet.deformations.families import FAMILIES, Family, GaussianField, parse_family
from hilbertnet.deformations.family import check_size
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.deformations.warp import warp
from hilbertnet.regularization.functions import check_signals
from hilbertnet.signals import as_rng
from hilbertnet.text import nearest

__all__ = ["DIGITS", "Copies", "DigitCopies", "FamilyCopies", "check_deformation", "copies_of", "is_letters"]

DIGITS = "infinite_mnist"
"""The deformations of Infinite MNIST, among the names of families."""

_INDICES = 100_000  # deformations that each digit has, as published
_FIELDS, _NUMBERS = 1024, 2**24  # of a family: as many fields, and no more numbers than that
_SIZES = 32  # of affine families
_SIDE, _STD = 28, 4  # pixels: the standard deviation for images of that side
_BARE = {"bandlimited": "bandlimited(4, displacement)", "spline": "spline(5, displacement)"}


class Copies(ABC):
    """A set of signals and a way to deform them. Nothing random happens but in the generator that is handed over."""

    def __init__(self, x: Float[Tensor, "n channels *space"]) -> None:
        self.x = x.detach()

    def choose(self, count: int, rng: torch.Generator) -> Tensor:
        """Places of `count` different signals, or of all where there are fewer."""
        return torch.randperm(len(self.x), generator=rng)[:count]

    def originals(self, places: Tensor, like: Tensor) -> Tensor:
        """The signals, of the dtype and on the device of `like`."""
        return self.x[places.to(self.x.device)].to(like)

    def variants(self, places: Tensor, count: int, rng: torch.Generator, like: Tensor) -> Tensor:
        """Each signal and `count - 1` deformed copies of it, shape (images, count, channels, *space)."""
        originals = self.originals(places, like)[:, None]
        if count == 1:
            return originals
        deformed = self._deformed(places.repeat_interleave(count - 1), rng, like)
        return torch.cat([originals, deformed.unflatten(0, (len(places), count - 1))], 1)

    def tangents(self, places: Tensor, count: int, rng: torch.Generator, like: Tensor) -> Tensor:
        """`count` directions of deformation at each signal, shape (images, count, channels, *space)."""
        return self._tangents(places.repeat_interleave(count), rng, like).unflatten(0, (len(places), count))

    @abstractmethod
    def _deformed(self, places: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
        """One deformed copy of the signal at each place."""

    @abstractmethod
    def _tangents(self, places: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
        """One tangent at the signal at each place."""


class DigitCopies(Copies):
    """Grey images deformed by the rule of `hilbertnet.deformations.InfiniteMNIST`.

    Parameters
    ----------
    x
        Shape (n, 1, height, width), in [0, 1].
    alpha
        Size of the deformation.
    """

    def __init__(self, x: Float[Tensor, "n 1 height width"], alpha: float = 1.0) -> None:
        super().__init__(x)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.digits = InfiniteMNIST(alpha, images=x, labels=np.zeros(len(x), np.int64), dtype=dtype)

    def _indices(self, places: Tensor, rng: torch.Generator) -> Any:
        copies = torch.randint(1, _INDICES + 1, places.shape, generator=rng)
        return self.digits.index(places.numpy(), copies.numpy())

    def _deformed(self, places: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
        return self.digits.batch(self._indices(places, rng))[0].to(like)

    def _tangents(self, places: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
        return self.digits.tangent(self._indices(places, rng)).to(like)


class FamilyCopies(Copies):
    """Images or signals warped by fields of a family; beyond its edges a signal is its nearest pixel.

    Every copy is warped by one of 1024 fields (of fewer where they would take more than 64 MB), which are always the
    same, as the components of Infinite MNIST are: drawing new ones costs more than all the rest.

    Parameters
    ----------
    x
        Shape (n, channels, *space).
    family
        Any family of `hilbertnet.deformations`.
    size
        Of the fields, in the family's unit; of affine ones (rotation, zoom, scaling, shear) the largest size.

    Raises
    ------
    ValueError
        If the family has no such fields.
    """

    def __init__(self, x: Float[Tensor, "n channels *space"], family: Family, size: float) -> None:
        super().__init__(x)
        space = x.shape[2:]
        count = min(_FIELDS, max(1, _NUMBERS // (len(space) * math.prod(space))))
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        # rotations and the like differ in nothing but their sizes and a few directions
        sizes = [size * (i + 1) / _SIZES for i in range(_SIZES)] if _is_affine(family) else [size]
        rng, each = as_rng(0), math.ceil(count / len(sizes))
        fields = [family.field(part, each, space, generator=rng, dtype=dtype) for part in map(check_size, sizes)]
        self.fields = torch.cat(fields)

    def _chosen(self, count: int, rng: torch.Generator, like: Tensor) -> Tensor:
        self.fields = self.fields.to(like)  # once
        return self.fields[torch.randint(len(self.fields), (count,), generator=rng).to(like.device)]

    def _deformed(self, places: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
        return warp(self.originals(places, like), self._chosen(len(places), rng, like), boundary="edge")

    def _tangents(self, places: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
        """``(warp(x, h tau) - warp(x, -h tau)) / 2h`` for h to 0: minus tau times the central differences of x."""
        fields, x = self._chosen(len(places), rng, like), self.originals(places, like)
        along = [fields[:, axis, None] * _differences(x, 2 + axis) for axis in range(fields.shape[1])]
        return -torch.stack(along).sum(0)


def copies_of(
    x: Float[Tensor, "n channels *space"],
    deformation: str | None = None,
    size: float | None = None,
    name: str = "tau",
) -> Copies:
    """The deformations that fit the data, or those that are named.

    Parameters
    ----------
    x
        Training signals.
    deformation
        ``"infinite_mnist"``; a family in its text form (`hilbertnet.deformations.parse_family`), of which the smooth
        ones may come without their scale: ``"gaussian"`` is then 4/28 of the side, ``"bandlimited"`` has 4 cycles,
        ``"spline"`` 5 knots; or ``None``: the first where images are 1 x 28 x 28 with pixels in [0, 1], else
        ``"gaussian"``.
    size
        Alpha of Infinite MNIST, by default 1; for the others in the family's own unit, by default 1/28 of the side
        where it is pixels (translations, smooth fields without a scale). Affine ones have all sizes up to it, and
        without a direction all directions.
    name
        Of the term, for messages.

    Raises
    ------
    ValueError
        If the data have no deformations, or the arguments do not fit.
    """
    _check_positions(x, name)
    digits = x.ndim == 4 and tuple(x.shape[1:]) == (1, _SIDE, _SIDE) and bool(((x >= 0) & (x <= 1)).all())
    chosen = (DIGITS if digits else GaussianField.name) if deformation is None else deformation
    check_deformation(chosen)
    try:
        if chosen == DIGITS:
            return DigitCopies(x, 1.0 if size is None else size)
        side = math.prod(x.shape[2:]) ** (1 / (x.ndim - 2))
        family = _family(chosen, side)
        if size is None and not family.unit.startswith("pixels"):
            raise ValueError(f"size: expected a number, in {family.unit}, with {family}, got None")
        return FamilyCopies(x, family, SUP_AT_ONE * side / _SIDE if size is None else size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def check_deformation(deformation: object) -> None:
    """Refuse what `copies_of` does not know.

    Raises
    ------
    ValueError
        With the nearest name.
    """
    known = (DIGITS, *FAMILIES)
    if deformation in known:
        return
    if not isinstance(deformation, str) or "(" not in deformation:
        hint = nearest(str(deformation), known) or f"; known: {', '.join(known)}"
        raise ValueError(f"deformation: expected the name of one, got {deformation!r}{hint}")
    parse_family(deformation)


def _family(text: str, side: float) -> Family:
    if text == GaussianField.name:
        return GaussianField(_STD * side / _SIDE, "displacement")
    if text in FAMILIES and _is_affine(FAMILIES[text]):
        return FAMILIES[text](direction="random")  # type: ignore[call-arg]
    return parse_family(_BARE.get(text, text))


def _is_affine(family: Family | type[Family]) -> bool:
    return hasattr(family, "centre")


def _check_positions(x: Tensor, name: str) -> None:
    """Refuse data on which deformations mean nothing."""
    check_signals(x, "x_train")
    if x.ndim not in (3, 4) or math.prod(x.shape[2:]) == 1:
        raise ValueError(
            f"{name}: expected images (n, channels, height, width) or signals (n, channels, length), which can be "
            f"deformed, got rows without positions, shape {tuple(x.shape)}"
        )
    if is_letters(x):
        raise ValueError(
            f"{name}: expected images or signals, which can be deformed, got one-hot letters, shape {tuple(x.shape)}"
        )


def is_letters(x: Float[Tensor, "n channels *space"]) -> bool:
    """Whether 1-D signals are sequences of one-hot letters (`hilbertnet.data.Sequences`).

    Every position is one letter, nothing (past the end), or unknown (the same number in every channel).
    """
    if x.ndim != 3 or x.shape[1] < 2:
        return False
    letter = ((x == 0) | (x == 1)).all(1) & (x.sum(1) == 1)
    unknown = ((x - 1 / x.shape[1]).abs() < torch.finfo(torch.float32).eps).all(1)
    return bool(letter.any()) and bool((letter | unknown | (x == 0).all(1)).all())


def _differences(x: Tensor, dim: int) -> Tensor:
    """``(x[u + 1] - x[u - 1]) / 2`` along an axis, with the nearest pixel beyond its ends."""
    moved = x.movedim(dim, -1)
    flat = moved.reshape(len(x), -1, moved.shape[-1])
    padded = functional.pad(flat, (1, 1), mode="replicate")
    return ((padded[..., 2:] - padded[..., :-2]) / 2).reshape(moved.shape).movedim(-1, dim)

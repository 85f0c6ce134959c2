"""The deformations of infinite MNIST, as something to measure with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.deformations.infinite_mnist import InfiniteMNIST

__all__ = ["Handwriting"]

_COPIES = 2**40  # drawn from; the rule takes them modulo other numbers


class Handwriting:
    """Deformed copies of some of the digits of an `InfiniteMNIST`, by size alpha.

    Parameters
    ----------
    digits
        Where the copies come from; its own alpha does not matter.
    places
        Which of its training digits the signals are that will be moved, in their order; default all.
    """

    unit = "alpha"

    def __init__(self, digits: InfiniteMNIST, places: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        self.digits = digits
        self.places = np.arange(digits.digits) if places is None else np.asarray(places)

    @classmethod
    def of(cls, images: Any, **how: Any) -> Handwriting:
        """Of grey images (n, 1, height, width) in [0, 1]; `how` are arguments of `InfiniteMNIST`."""
        return cls(InfiniteMNIST(images=images, labels=np.zeros(len(images), np.int64), **how))

    @property
    def originals(self) -> Tensor:
        """The digits themselves, (n, 1, height, width), float64 in [0, 1]."""
        return self._read(self.digits, np.zeros(len(self.places), np.int64))

    def _read(self, digits: InfiniteMNIST, copies: NDArray[np.int64]) -> Tensor:
        x = digits.batch(digits.index(self.places, copies))[0]
        return x.double() / 255 if digits.form == "uint8" else x.double()

    def __call__(self, x: Tensor, size: float, generator: torch.Generator) -> Tensor:
        """Copies of the digits `x`, one draw for each; a digit's draw is the same at every size.

        Raises
        ------
        ValueError
            If `x` are other digits.
        """
        if x.shape != (len(self.places), *self.digits.shape):
            wanted = (len(self.places), *self.digits.shape)
            raise ValueError(f"x: expected the digits that are deformed, shape {wanted}, got {tuple(x.shape)}")
        copies = torch.randint(1, _COPIES, (len(x),), generator=generator)
        return self._read(self.digits.at(size), copies.numpy()).to(x)

    def __str__(self) -> str:
        return "handwriting, translated" if self.digits.translate else "handwriting"

"""Infinite MNIST: every whole number is the index of a digit, deformed for ever in the same way.

The rule is that of Loosli, Canu and Bottou (*Training invariant support vector machines using selective sampling*,
2007) and of their program: a digit plus smooth displacement components times its tangent images.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from hilbertnet.deformations.components import image_tangents, shift_tables, sup_at_one
from hilbertnet.deformations.digit_images import labelled_digits, mnist_digits
from hilbertnet.deformations.digit_indices import LAST, Draw, draw, whole_numbers
from hilbertnet.deformations.published_digits import check_finite, choose_components
from hilbertnet.records import digest

__all__ = ["InfiniteMNIST"]

_PIECE = 256  # images that are computed at once: what they need stays in the cache of a core
_NO_SHIFT = 8


class InfiniteMNIST(TorchDataset[tuple[Tensor, int]]):
    """Digits without end. Index i is always the same digit, and none needs another.

    With t test and n training digits (10,000 and 60,000 of MNIST), the indices below t are the test digits and the next
    n the training digits, as they are. All others are deformed training digits a (see `draw`)::

        x' = x[a] + s (F[k1] T[a, 0] - F[k2] T[a, 1]),   s = alpha or -alpha,

    clipped to 0..255, where F are smooth displacement components and T the digit's two tangent images: to first order
    in alpha, x' is the digit warped by the displacement `field`.

    Parameters
    ----------
    alpha
        Size of the deformation. At 1 the largest displacement of a digit of MNIST is about a pixel.
    translate
        Shift the deformed digits by one pixel too: along an axis or a diagonal, or (one time in nine) not at all.
    form
        ``"float"``: pixels in [0, 1]. ``"uint8"``: pixels in 0..255, truncated to whole numbers, as published; changes
        below one grey level are then lost, or become one.
    images
        Training digits, (n, height, width) or (n, 1, height, width), uint8 or floating in [0, 1]; default MNIST's.
    labels
        Their labels, n whole numbers.
    test_images, test_labels
        Digits that have the first indices; default MNIST's, or none with `images`.
    fields
        Displacement components (m, height, width), or the file of the published ones; default the published ones with
        the published tangent images, where both are there and the digits are MNIST's, and else made here by
        `hilbertnet.deformations.components.made_fields`, with the calibration stated there.
    tangents
        Tangent images (n, 2, height, width) of the training digits, in grey levels 0..255 per pixel, or the file of the
        published ones; default as for `fields`: made here, they are differences of pixels (Sobel's).
    folder
        Where the published files are; default ``infimnist`` in the folder that HILBERTNET_DATA names.
    published
        ``True`` refuses to do without the published files; ``False`` makes components even so; ``None`` uses them where
        they are.
    seed
        Of components that are made here.
    clip
        Whether the float form is clipped to [0, 1]. The uint8 form always is.
    dtype
        Of the float form, float32 or float64, and of the arithmetic. The uint8 form is computed in float32, as
        published.

    Raises
    ------
    ValueError
        If an argument is not as above, or a file has another size; and, with the digits that it concerns, if a tangent
        image of a file is not finite.

    Examples
    --------
    >>> from hilbertnet.data import load
    >>> digits = load("digits")
    >>> endless = InfiniteMNIST(images=digits.x, labels=digits.y)
    >>> image, label = endless[10**12]
    >>> tuple(image.shape), label
    ((1, 8, 8), 6)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        translate: bool = False,
        form: str = "float",
        *,
        images: ArrayLike | Tensor | None = None,
        labels: ArrayLike | Tensor | None = None,
        test_images: ArrayLike | Tensor | None = None,
        test_labels: ArrayLike | Tensor | None = None,
        fields: ArrayLike | str | os.PathLike[str] | None = None,
        tangents: ArrayLike | str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        published: bool | None = None,
        seed: int = 0,
        clip: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if form not in ("float", "uint8"):
            raise ValueError(f"form: expected 'float' or 'uint8', got {form!r}")
        if dtype not in (torch.float32, torch.float64) or (form == "uint8" and dtype != torch.float32):
            raise ValueError(f"dtype: expected torch.float32, or torch.float64 in the float form, got {dtype}")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2^32 - 1, got {seed!r}")
        own = images is not None or fields is not None or tangents is not None
        if own and (published or folder is not None):
            raise ValueError(
                "published, folder: the published files belong to MNIST alone, got images, fields or tangents"
            )
        self.alpha, self.form, self.translate = _check_alpha(alpha), form, bool(translate)
        self.seed, self.clip, self.dtype = int(seed), bool(clip), dtype
        if images is None:
            self._take(*mnist_digits(test_images, test_labels, labels))
        else:
            pixels, y = labelled_digits("images", images, "labels", labels)
            test, test_y = pixels[:0], y[:0]
            if test_images is not None or test_labels is not None:
                test, test_y = labelled_digits("test_images", test_images, "test_labels", test_labels)
            self._take(pixels, y, test, test_y)
        height, width = self.shape[1:]
        self.components = choose_components(
            (self.digits, height, width),
            self.seed,
            fields,
            tangents,
            folder=folder,
            published=False if own else published,
        )
        self._shifts = shift_tables(height, width, self.components.origin == "published")

    def _take(self, pixels: NDArray, y: NDArray[np.int64], test: NDArray, test_y: NDArray[np.int64]) -> None:
        if test.shape[1:] != pixels.shape[1:]:
            raise ValueError(
                f"test_images: expected shape (m, {', '.join(map(str, pixels.shape[1:]))}), got {test.shape}"
            )
        self.digits, self.tests = len(pixels), len(test)
        self.shape = (1, *pixels.shape[1:])
        self._pixels, self._labels = np.concatenate((test, pixels)), np.concatenate((test_y, y))

    def __len__(self) -> int:
        """The bound of indices, 2^61: take batches of indices or a `DigitStream`, not a shuffling sampler."""
        return LAST

    def __repr__(self) -> str:
        """Alpha, form and components."""
        _, height, width = self.shape
        shifted = ", translated" if self.translate else ""
        return (
            f"InfiniteMNIST(alpha={self.alpha:g}{shifted}, {self.form}; {self.digits:,} digits of {height} x {width}, "
            f"{len(self.components.fields):,} components {self.components.origin})"
        )

    def to_dict(self) -> dict[str, Any]:
        """What a record says of these digits, for JSON: all that tells index i's digit, the images by a digest."""
        made = self.components.origin == "made here"
        return {
            "alpha": self.alpha,
            "translate": self.translate,
            "form": self.form,
            "clip": self.clip,
            "dtype": str(self.dtype).removeprefix("torch."),
            "shape": list(self.shape),
            "digits": self.digits,
            "tests": self.tests,
            "images": digest(self._pixels),
            "components": self.components.origin,
            "fields": digest(self.components.fields),
            "count": len(self.components.fields),
            "seed": self.seed if made else None,
            "mean_sup_at_one": sup_at_one(*self.shape[1:]) if made else None,
        }

    def at(self, alpha: float) -> InfiniteMNIST:
        """The same digits and draws with another alpha; nothing is copied."""
        other = copy.copy(self)
        other.alpha = _check_alpha(alpha)
        return other

    def index(self, digit: int | Sequence[int] | NDArray, copies: int | Sequence[int] | NDArray) -> NDArray[np.int64]:
        """Index of a copy of a training digit: copy 0 is the digit itself, all others are deformed.

        Parameters
        ----------
        digit
            Place among the training digits.
        copies
            Which copy; broadcast against `digit`.

        Raises
        ------
        ValueError
            If there is no such digit, or its index is not below 2^61.
        """
        places = whole_numbers("digit", digit, self.digits)
        return places + self.tests + self.digits * whole_numbers("copies", copies, (LAST - self.tests) // self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (1, height, width) and label.

        Raises
        ------
        ValueError
            If the index is negative, no whole number, or not below 2^61.
        """
        x, y = self.batch([index])
        return x[0], int(y[0])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several items at once; torch's ``DataLoader`` asks for its batches so."""
        x, y = self.batch(indices)
        return list(zip(x, y.tolist(), strict=True))

    def batch(self, indices: Sequence[int] | NDArray | Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 1, height, width) and int64 labels (n,) of the digits with these indices.

        Raises
        ------
        ValueError
            If an index is negative, no whole number, or not below 2^61.
        """
        places = whole_numbers("indices", indices, LAST, axes=1)
        out = np.empty((len(places), *self.shape[1:]), np.uint8 if self.form == "uint8" else self._work)
        for start in range(0, len(places), _PIECE):
            self._write(places[start : start + _PIECE], out[start : start + _PIECE])
        return torch.from_numpy(out[:, None]), torch.from_numpy(self._labels[self._rows(places)])

    def tangent(self, indices: Sequence[int] | NDArray | Tensor) -> Tensor:
        """The deformation alone, s (F[k1] T[a, 0] - F[k2] T[a, 1]), neither clipped nor shifted.

        Parameters
        ----------
        indices
            Whole numbers (n,).

        Returns
        -------
        Tensor
            Shape (n, 1, height, width), floating, for pixels in [0, 1]; zero for digits that are not deformed.

        Raises
        ------
        ValueError
            As for `batch`.
        """
        places = whole_numbers("indices", indices, LAST, axes=1)
        out = np.zeros((len(places), *self.shape[1:]), self._work)
        for start in range(0, len(places), _PIECE):
            moved = np.flatnonzero(places[start : start + _PIECE] >= self.tests + self.digits) + start
            out[moved] = self._direction(self._draw(places[moved]), self._pixels[self._rows(places[moved])])
        out /= out.dtype.type(255)
        return torch.from_numpy(out[:, None])

    def field(self, indices: Sequence[int] | NDArray | Tensor) -> Tensor:
        """The displacement that the digits are deformed by, to first order: x' = x(u - tau(u)), without the shift.

        Parameters
        ----------
        indices
            Whole numbers (n,).

        Returns
        -------
        Tensor
            tau, shape (n, 2, height, width), in pixels, rows (downwards) first; zero for digits that are not deformed.

        Raises
        ------
        ValueError
            As for `batch`; or if the tangent images are not those made here, whose axes and units are known.
        """
        if self.components.tangents is not None:
            raise ValueError(
                f"field: expected tangent images made here, got {self.components.origin} ones of unknown axes"
            )
        places = whole_numbers("indices", indices, LAST, axes=1)
        tau = np.zeros((len(places), 2, *self.shape[1:]), self._work)
        moved = np.flatnonzero(places >= self.tests + self.digits)
        drawn = self._draw(places[moved])
        size = (self.alpha * drawn.sign)[:, None, None]
        tau[moved, 0] = -size * self.components.fields[drawn.first]
        tau[moved, 1] = size * self.components.fields[drawn.second]
        return torch.from_numpy(tau)

    @property
    def _work(self) -> type[np.floating]:
        return np.float64 if self.dtype == torch.float64 else np.float32

    def _draw(self, places: NDArray[np.int64]) -> Draw:
        return draw(places, self.digits, self.tests, len(self.components.fields))

    def _rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of the digits themselves, test digits first."""
        originals = self.tests + self.digits
        return np.where(places < originals, places, self.tests + (places - self.tests) % self.digits)

    def _write(self, places: NDArray[np.int64], out: NDArray) -> None:
        """At most `_PIECE` digits; the arithmetic has the order of the published program, so float32 rounds alike."""
        x = self._pixels[self._rows(places)].astype(self._work)
        moved = np.flatnonzero(places >= self.tests + self.digits)
        drawn = self._draw(places[moved])
        everything = len(moved) == len(places)
        digits = x if everything else x[moved]
        deformed = self._direction(drawn, digits)
        deformed += digits
        if self.clip or self.form == "uint8":
            np.clip(deformed, 0, 255, out=deformed)
        if self.translate:
            deformed = self._shift(deformed, drawn.option)
        if everything:
            x = deformed
        else:
            x[moved] = deformed
        if self.form == "uint8":
            out[:] = x  # truncates
        else:
            np.divide(x, self._work(255), out=out)

    def _direction(self, drawn: Draw, x: NDArray) -> NDArray:
        """S (F[k1] T[a, 0] - F[k2] T[a, 1]), in grey levels."""
        if self.components.tangents is None:
            rows, columns = image_tangents(x.astype(self._work, copy=False))
        else:
            taken = self.components.tangents[drawn.digit]
            check_finite(taken, self.components.source, drawn.digit)
            rows, columns = taken.astype(self._work).swapaxes(0, 1)
        rows *= self.components.fields[drawn.first]
        columns *= self.components.fields[drawn.second]
        rows -= columns
        rows *= (self.alpha * drawn.sign).astype(self._work)[:, None, None]
        return rows

    def _shift(self, x: NDArray, options: NDArray[np.int64]) -> NDArray:
        flat = x.reshape(len(x), math.prod(self.shape))
        padded = np.concatenate((flat, np.zeros((len(flat), 1), flat.dtype)), 1)
        for option in range(_NO_SHIFT):
            rows = np.flatnonzero(options == option)
            flat[rows] = padded[rows][:, self._shifts[option]]
        return flat.reshape(x.shape)


def _check_alpha(alpha: float) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0 <= alpha < math.inf:
        raise ValueError(f"alpha: expected a finite number of at least 0, got {alpha!r}")
    return float(alpha)

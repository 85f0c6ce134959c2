"""A picture of digits against the size of their deformation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.signals import is_count

__all__ = ["contact_sheet"]


def contact_sheet(
    digits: InfiniteMNIST,
    which: Sequence[int] | None = None,
    alphas: Sequence[float] = (0.0, 0.3, 1.0, 2.0, 3.0),
    *,
    copies: int = 1,
    gap: int = 2,
) -> NDArray[np.float64]:
    """A picture of training digits, one to a row, against alpha, one to a column: all of a row have the same draw.

    Parameters
    ----------
    digits
        Where they come from.
    which
        Their places among the training digits; default the first of every label.
    alphas
        Sizes of the deformation; 0 is the digit itself (with `translate`, shifted).
    copies
        Which copy of the digits, 1 or more.
    gap
        Grey pixels between two.

    Returns
    -------
    array
        Shape (pixels, pixels), in [0, 1].
    """
    if not len(alphas):
        raise ValueError("alphas: expected at least one size, got none")
    if not is_count(copies):
        raise ValueError(f"copies: expected a whole number of at least 1, got {copies!r}")
    if which is None:
        which = np.unique(digits._labels[digits.tests :], return_index=True)[1].tolist()
    places = digits.index(which, copies)
    _, height, width = digits.shape
    sheet = np.full((len(places), height + gap, len(alphas), width + gap), 0.5)
    for column, alpha in enumerate(alphas):
        pixels = digits.at(alpha).batch(places)[0][:, 0].numpy()
        sheet[:, :height, column, :width] = pixels / (255 if digits.form == "uint8" else 1)
    return sheet.reshape(len(places) * (height + gap), -1)[: -gap or None, : -gap or None].clip(0, 1)

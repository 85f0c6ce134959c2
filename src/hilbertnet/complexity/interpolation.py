"""A lower bound of the RKHS norm of a function from all its values on data: the norm of the smallest interpolant.

Reference: H. Wendland, "Scattered data approximation", Cambridge University Press, 2004, theorem 13.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.complexity.functions import BATCH, Model, Output, read_signals, values_of
from hilbertnet.complexity.lower_bound import LowerBound
from hilbertnet.complexity.real_numbers import real_number

__all__ = ["interpolation_bound"]


def interpolation_bound(
    f: Model,
    x: Any,
    gram: Float[Tensor, "n n"],
    *,
    output: Output = None,
    ridge: float | None = None,
    batch_size: int = BATCH,
) -> LowerBound:
    """The norm of the smallest function with the values of f on the data: ``sqrt(f(X)' K^{-1} f(X))``.

    With the Gram matrix K at hand it is the best of all bounds by values of f on the data. K is made regular by
    `ridge`, which makes the bound smaller: it stays one.

    Parameters
    ----------
    f, x, output, batch_size
        See `gradient_bound`; f need not be differentiable, and must have no intercept.
    gram
        ``K(x_i, x_j)``, shape (n, n).
    ridge
        Added to the diagonal, in units of its mean; default the square root of the precision of the values of f, whose
        rounding errors it keeps down.

    Returns
    -------
    LowerBound
        One number: it has no x'.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    signals = read_signals(x)
    matrix = torch.as_tensor(gram).detach().double().cpu()
    if matrix.shape != (len(signals), len(signals)) or not torch.isfinite(matrix).all():
        shape = tuple(matrix.shape)
        raise ValueError(f"gram: expected a finite matrix of shape ({len(signals)}, {len(signals)}), got {shape}")
    exact = values_of(f, signals, output, batch_size)
    if ridge is None:
        ridge = math.sqrt(torch.finfo(exact.dtype).eps)
    shift = real_number("ridge", ridge, above=0.0) * float(matrix.diagonal().mean())
    values = exact.double().cpu()
    eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    # rounding makes some eigenvalues negative
    square = float(((vectors.T @ values).square() / (eigenvalues.clamp(min=0.0) + shift)).sum()) if shift else 0.0
    value = math.sqrt(square)
    return LowerBound("interpolation", value, torch.tensor([value], dtype=torch.float64), None, None, None, math.nan,
                      math.nan, "Gram matrix")  # fmt: skip

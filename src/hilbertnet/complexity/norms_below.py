"""All lower bounds of a function's RKHS norm on data, in one table. Each bound alone is in `data_bounds`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.complexity.data_bounds import ball_bound, deformation_bound, gradient_bound, pair_bound
from hilbertnet.complexity.functions import Model, Output
from hilbertnet.complexity.interpolation import interpolation_bound
from hilbertnet.complexity.lower_bound import LowerBound, LowerBounds
from hilbertnet.protocols import Representation
from hilbertnet.signals import as_rng

__all__ = [
    "LowerBound",
    "LowerBounds",
    "ball_bound",
    "deformation_bound",
    "gradient_bound",
    "interpolation_bound",
    "lower_bounds",
    "pair_bound",
]


def lower_bounds(
    f: Model,
    x: Any,
    *,
    radii: Iterable[float] = (1.0,),
    deformations: Iterable[tuple[Any, float | None]] = (),
    lipschitz: float | Architecture | None = None,
    representation: Representation | None = None,
    gram: Float[Tensor, "n n"] | None = None,
    exact: float | None = None,
    output: Output = None,
    steps: int = 40,
    restarts: int = 2,
    draws: int = 10,
    pairs: int = 10_000,
    rounding: float | None = None,
    generator: int | torch.Generator | None = None,
) -> LowerBounds:
    """All lower bounds of `hilbertnet.complexity.data_bounds`, in a table.

    Parameters
    ----------
    f, x, lipschitz, representation, output, steps, restarts, draws, pairs, rounding, generator
        As there. That by gradients needs `lipschitz`.
    radii
        Of balls, each of which gives a bound.
    deformations
        Pairs of a deformation and its size (``None`` for fields and searches).
    gram
        Gram matrix of `x`, for the bound by interpolation.
    exact
        The norm, where it is known, to compare with.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    moved: dict[str, Any] = {
        "lipschitz": lipschitz,
        "representation": representation,
        "output": output,
        "rounding": rounding,
        "generator": as_rng(generator),
    }
    found = []
    if lipschitz is not None:
        found.append(gradient_bound(f, x, lipschitz=lipschitz, output=output))
    found += [ball_bound(f, x, radius, steps=steps, restarts=restarts, **moved) for radius in radii]
    found += [deformation_bound(f, x, what, size=size, draws=draws, **moved) for what, size in deformations]
    found.append(pair_bound(f, x, pairs=pairs, **moved))
    if gram is not None:
        found.append(interpolation_bound(f, x, gram, output=output))
    return LowerBounds(tuple(found), exact)

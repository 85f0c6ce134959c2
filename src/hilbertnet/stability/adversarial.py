"""Adversarial deformations: the field within given norms that moves a representation the most.

``max ||Phi(L_tau x) - Phi(x)||`` over fields with ``sup |tau| <= displacement`` and ``sup ||grad tau|| <= gradient``,
the two norms of the stability theorem, by projected ascent. What is found is a lower bound of the maximum.

Steps and random fields are those of `hilbertnet.deformations.field_set.FieldSet`.

References: R. Alaifari, G. Alberti and T. Gauksson, "ADef: an iterative algorithm to construct adversarial
deformations", ICLR 2019 (smoothed gradients of a field); A. Bietti and J. Mairal, "Group invariance, stability to
deformations, and complexity of deep convolutional representations", JMLR 2019 (the two norms).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.ascent import projected_ascent
from hilbertnet.deformations import warn_of_folds, warp
from hilbertnet.deformations.field_set import FIRST_STEP, FieldSet
from hilbertnet.protocols import Representation
from hilbertnet.signals import as_signals
from hilbertnet.stability.representations import as_representation

__all__ = ["WorstField", "worst_field"]


@dataclass(frozen=True)
class WorstField:
    """What `worst_field` found.

    Parameters
    ----------
    field
        The worst field of each signal, in pixels, shape (n, axes, *space).
    distance
        ``||Phi(L_tau x) - Phi(x)||``, shape (n,), float64.
    relative
        The same over ``||Phi(x)||``.
    history
        The largest distance so far by restart, step and signal, shape (restarts, steps + 1, n); ``history[:, 0]`` are
        those of the random fields that ascents started from.
    """

    field: Float[Tensor, "n axes *space"]
    distance: Float[Tensor, " n"]
    relative: Float[Tensor, " n"]
    history: Float[Tensor, "restarts steps n"]


def worst_field(
    representation: Representation | Any,
    x: Any,
    *,
    displacement: float,
    gradient: float,
    steps: int = 40,
    restarts: int = 4,
    generator: int | torch.Generator | None = None,
    interpolation: str = "bilinear",
    boundary: str = "zero",
    smoothness: float | None = None,
) -> WorstField:
    """The field within two norms that moves a representation the most, for each signal, by projected ascent.

    The set of fields is convex and balanced, but points outside are not taken to their nearest ones in it: see
    `hilbertnet.deformations.field_set.FieldSet`.

    Parameters
    ----------
    representation
        What `hilbertnet.stability.as_representation` takes, if it is differentiable.
    x
        Images (n, channels, height, width) or signals (n, channels, length).
    displacement
        Largest ``sup |tau|`` allowed, in pixels.
    gradient
        Largest ``sup ||grad tau||`` allowed, without a unit; 0 leaves translations. From 1 on fields may fold, which is
        warned of.
    steps
        Of each ascent, at most.
    restarts
        How many ascents, each from the worst of 32 random fields: zooms and other affine fields about random points,
        and smoothed noise with a translation.
    generator
        Seed or ``torch.Generator`` of the random fields.
    interpolation, boundary
        Of `hilbertnet.deformations.warp`; on the circular boundary both norms are those of the torus.
    smoothness
        Of random fields and steps, see `FieldSet`.

    Returns
    -------
    WorstField
        At least as bad as all fields that it started from.

    Raises
    ------
    ValueError
        If the representation is not differentiable, a signal's representation is 0, or an argument is not of this form.

    Warns
    -----
    FoldWarning
        If a field that was found folds.
    """
    phi, signals = as_representation(representation), as_signals(x, "x")
    if not phi.differentiable:
        name = phi.name
        raise ValueError(f"representation: expected one that can be differentiated, which {name!r} cannot")
    if signals.ndim < 3 or getattr(x, "ndim", 3) == 2:
        raise ValueError("x: expected images (n, channels, height, width) or signals (n, channels, length), got rows")
    fields = FieldSet(
        displacement, gradient, tuple(signals.shape[2:]), smoothness=smoothness, periodic=boundary == "circular"
    )
    away, signals = phi.distance_from(signals), signals.detach()

    def moved(field: Tensor) -> Tensor:
        return away(warp(signals, field, interpolation=interpolation, boundary=boundary))

    norms = _norms(phi, signals)
    found = projected_ascent(
        moved,
        fields.retract,
        lambda rng: fields.worst_draw(moved, signals, rng),
        steps=steps,
        step_size=FIRST_STEP,
        direction=fields.direction,
        generator=generator,
        restarts=restarts,
    )
    if fields.gradient >= 1:
        warn_of_folds(found.point, "worst field", periodic=fields.periodic)
    return WorstField(found.point, found.value, found.value / norms, found.history)


@torch.no_grad()
def _norms(phi: Representation, x: Tensor) -> Tensor:
    norms = phi.norm(x)
    if (norms == 0).any():
        first = int((norms == 0).nonzero()[0])
        raise ValueError(f"x: expected signals whose representation has a positive norm, got 0 for signal {first}")
    return norms

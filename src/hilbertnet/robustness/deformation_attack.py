"""The deformation of each image within two norms that raises the loss the most.

Reference: R. Alaifari, G. Alberti and T. Gauksson, "ADef: an iterative algorithm to construct adversarial
deformations", ICLR 2019; the sets of fields are those of A. Bietti and J. Mairal, "Group invariance, stability to
deformations, and complexity of deep convolutional representations", JMLR 2019, section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.ascent import Objective, projected_ascent
from hilbertnet.complexity.functions import Model
from hilbertnet.deformations import warn_of_folds, warp
from hilbertnet.deformations.field_set import FIRST_STEP, FieldSet
from hilbertnet.robustness.campaign import campaign, differentiable, read_counts, read_examples
from hilbertnet.robustness.goals import AttackLoss, Goal
from hilbertnet.robustness.threats import Deformations
from hilbertnet.signals import per_example

__all__ = ["deformation_attack"]


@differentiable
def deformation_attack(
    model: Model,
    x: Float[Tensor, "n channels *space"],
    y: Int[Tensor, " n"],
    threat: Deformations,
    *,
    steps: int = 40,
    restarts: int = 4,
    target: Int[Tensor, " n"] | None = None,
    targets: int = 0,
    loss: AttackLoss = "margin",
    interpolation: str = "bilinear",
    boundary: str = "zero",
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Float[Tensor, "n channels *space"]:
    """Images ``x(u - tau(u))`` with a field tau that raises the loss much, by projected ascent over fields.

    Each ascent starts at the worst of 32 random fields, or of none if all of them are better for the model. Losses have
    many maxima over fields, more than over balls: what is found is no more than a lower bound, and restarts pay.

    Parameters
    ----------
    model, y, target, targets, loss, batch_size
        See `hilbertnet.robustness.attacks.pgd`.
    x
        Images (n, channels, height, width) or signals (n, channels, length), on the device of the model.
    threat
        Bounds on the field and on its gradient.
    steps, restarts
        Of the ascents; every start is random.
    interpolation, boundary
        Of `hilbertnet.deformations.warp`; with ``"bilinear"`` no value leaves the range of the image's values and, on
        the boundary ``"zero"``, 0.
    generator
        Seed or ``torch.Generator`` of the random fields.

    Returns
    -------
    Tensor
        Deformed images, of the shape, dtype and device of `x`; never worse than `x` itself.

    Raises
    ------
    ValueError
        If an argument is not of this form, or the model is not differentiable or not finite.

    Warns
    -----
    FoldWarning
        If a field that was found folds, which takes a gradient of 1 or more.
    """
    read_examples(x, y)
    if not isinstance(threat, Deformations):
        raise ValueError(f"threat: expected Deformations, got {threat!r}")
    threat.check(x)
    read_counts(steps=steps)
    warp(x[:1], x.new_zeros(1, x.ndim - 2, *x.shape[2:]), interpolation=interpolation, boundary=boundary)
    if threat.max_shift == 0:
        return x.detach().clone()
    fields = FieldSet(threat.max_shift, threat.max_gradient, tuple(x.shape[2:]), periodic=boundary == "circular")

    def deformed(part: Tensor, field: Tensor) -> Tensor:
        return warp(part, field, interpolation=interpolation, boundary=boundary)

    def climb(goal: Goal, part: Tensor, _first: bool, rng: torch.Generator) -> Tensor:
        def raised(field: Tensor) -> Tensor:
            return goal.value(deformed(part, field))

        found = projected_ascent(
            raised, fields.retract, _start(raised, fields, part, rng), steps=steps, step_size=FIRST_STEP,
            direction=fields.direction,
        ).point  # fmt: skip
        if fields.gradient >= 1:
            warn_of_folds(found, "field", periodic=fields.periodic)
        return deformed(part, found)

    return campaign(
        model, x, y, climb, loss=loss, target=target, targets=targets, restarts=restarts, generator=generator,
        batch_size=batch_size,
    )  # fmt: skip


@torch.no_grad()
def _start(raised: Objective, fields: FieldSet, x: Tensor, rng: torch.Generator) -> Tensor:
    """The worst of some random fields and of no deformation at all."""
    drawn = fields.worst_draw(raised, x, rng)
    none = torch.zeros_like(drawn)
    return torch.where(per_example(raised(drawn) > raised(none), drawn), drawn, none)

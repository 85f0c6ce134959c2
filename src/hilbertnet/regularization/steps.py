"""The inner ascent of training: a fixed number of steps of one length, no step taken back.

It costs one value and gradient a step, and no more. `hilbertnet.ascent` is the careful one, for evaluation.

Reference: A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018, section 2.1; the steps of fixed length along normalized gradients are those of
A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks", ICML 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.ascent import unit_direction
from hilbertnet.regularization.functions import no_gradient
from hilbertnet.signals import per_example

__all__ = ["STEP", "Norm", "ball", "fixed_steps"]

Norm = Literal["l2", "linf"]

STEP = 1.5
"""Length of all steps together, in radii of the ball: the published scheme."""

_DIRECTIONS: dict[str, Literal["2", "inf"]] = {"l2": "2", "linf": "inf"}


def fixed_steps(
    objective: Callable[[Tensor], Tensor],
    start: Float[Tensor, "n ..."],
    project: Callable[[Tensor], Tensor],
    step: float,
    steps: int,
    norm: Norm = "l2",
) -> Float[Tensor, "n ..."]:
    """Where `steps` projected gradient steps lead, each example for itself; nothing is remembered on the way.

    Values and gradients that are not finite lead to points that are not, or stay where they are: nothing is raised, so
    that a training loop can say where it diverged.

    Parameters
    ----------
    objective
        From points (n, ...) to values (n,); entry i depends on point i alone. Freeze the parameters of what it calls
        (`hilbertnet.complexity.functions.untouched`): they need no gradient here.
    start
        Shape (n, ...), in the set.
    project
        From points (n, ...) to points of the set, such as `ball` gives.
    step
        Length of a step.
    steps
        How many.
    norm
        ``"l2"``: along the gradient over its l2 norm. ``"linf"``: along its signs. A gradient of 0 moves nothing.

    Returns
    -------
    Tensor
        The last points, without a graph.

    Raises
    ------
    ValueError
        If the values are not (n,), or do not depend differentiably on the points.
    """
    point = start.detach()
    for _ in range(steps):
        gradient = _gradient(objective, point)
        with torch.no_grad():
            point = project(point + step * unit_direction(gradient, _DIRECTIONS[norm]))
    return point


def ball(
    centre: Float[Tensor, "n ..."], radius: float, norm: Norm = "l2", box: tuple[float, float] | None = None
) -> Callable[[Tensor], Tensor]:
    """A map of points (n, ...) into the balls around `centre`, within a box.

    It is the Euclidean projection for ``"linf"``, and for ``"l2"`` without a box; for ``"l2"`` with one, points go onto
    the ball first and into the box then, which takes them no further from the centre.

    Parameters
    ----------
    centre
        Shape (n, ...).
    radius
        Of all balls.
    norm
        ``"l2"`` or ``"linf"``.
    box
        Least and largest entry, such as (0, 1) for pixels, or ``None``. Where an entry of the centre is out of the box,
        all between the two is allowed: what is clipped would be moved out of the ball.
    """
    centre = centre.detach()
    low, high = (None, None) if box is None else (centre.clamp(max=box[0]), centre.clamp(min=box[1]))

    def project(point: Tensor) -> Tensor:
        moved = point - centre
        if norm == "linf":
            moved = moved.clamp(-radius, radius)
        else:
            length = (moved / radius).flatten(1).norm(dim=1)  # in radii: squares of large numbers would overflow
            moved = moved / per_example(length.clamp(min=1.0), moved)
        found = centre + moved
        return found if box is None else found.clamp(low, high)

    return project


def _gradient(objective: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    with torch.enable_grad():
        variable = point.detach().clone().requires_grad_()
        values = objective(variable)
        if values.shape != (len(point),):
            raise ValueError(f"objective: expected {len(point)} values, got shape {tuple(values.shape)}")
        found = None
        if values.requires_grad:
            (found,) = torch.autograd.grad(values.sum(), variable, allow_unused=True)
    if found is None:
        raise no_gradient()
    return found

"""Projected ascent over a set, for many examples at once: each has its own objective, step and best point.

The set is known through a map onto it that leaves its points where they are: the Euclidean projection or another
retraction. A step goes along a direction of length one in a norm that the caller chooses, so that step sizes are in
units of the set. A step that does not raise an example's objective is taken back and halved, so values only grow.

Reference: A. Madry, A. Makelov, L. Schmidt, D. Tsipras and A. Vladu, "Towards deep learning models resistant to
adversarial attacks", ICLR 2018, section 2.1; the steps that are halved are those of F. Croce and M. Hein, "Reliable
evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020, in a simpler form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.signals import as_rng, is_count, per_example
from hilbertnet.text import nearest

__all__ = [
    "Ascent",
    "Direction",
    "Objective",
    "Projection",
    "Start",
    "projected_ascent",
    "unit_direction",
    "value_and_gradient",
]

Objective = Callable[[Tensor], Tensor]
Projection = Callable[[Tensor], Tensor]
Direction = Literal["2", "inf"] | Callable[[Tensor], Tensor]
Start = Tensor | Callable[[torch.Generator], Tensor]

_SHORTER = 0.5  # a step, of the one before
_PATIENCE = 4  # steps without a better point, after which the next is shorter
_NO_STEP = 2.0**-10  # of the first step: below it an example has stopped


@dataclass(frozen=True)
class Ascent:
    """What `projected_ascent` found.

    Parameters
    ----------
    point
        The best point of each example, shape (n, ...).
    value
        The objective there, shape (n,).
    history
        The best value so far, by restart, step and example, shape (restarts, steps + 1, n); ``history[:, 0]`` are the
        values of the starts.
    """

    point: Float[Tensor, "n ..."]
    value: Float[Tensor, " n"]
    history: Float[Tensor, "restarts steps n"]


def projected_ascent(
    objective: Objective,
    project: Projection,
    start: Start,
    *,
    steps: int,
    step_size: float | Tensor,
    direction: Direction = "2",
    generator: int | torch.Generator | None = None,
    restarts: int = 1,
) -> Ascent:
    """Raise an objective over a set by steps along its gradient, each mapped back into the set.

    Examples do not see each other: entry i of the objective may depend on example i only. Each has a step of its own,
    which is halved, back at the best point, when it does not raise the objective, and grows by a quarter when it does.
    All stop when no example has a step left. Nothing random happens but in `start`.

    Parameters
    ----------
    objective
        From points (n, ...) to values (n,), differentiable.
    project
        From any points (n, ...) to points of the set, each example for itself; the identity on the set.
    start
        Points (n, ...), or a function of a generator that draws them, which restarts need. They are projected first.
    steps
        At most so many; each costs one value and gradient of the objective.
    step_size
        Length of the first step, of all examples or of each, shape (n,), in the norm of `direction`.
    direction
        ``"2"``: the gradient over its l2 norm. ``"inf"``: its signs, a step of length one in l_inf. Or a function from
        gradients (n, ...) to directions of length one in the caller's norm, 0 where there is nowhere to go; its inner
        product with the gradient should be positive.
    generator
        Seed or ``torch.Generator`` for `start`.
    restarts
        How many starts; each example keeps its best point of all.

    Returns
    -------
    Ascent
        Never worse, for any example, than any of its starts.

    Raises
    ------
    ValueError
        If an argument is not of this form, the objective does not depend differentiably on the point, or a value or a
        gradient is not finite.

    Examples
    --------
    The point of the unit disc that is nearest to (3, 4):

    >>> target = torch.tensor([[3.0, 4.0]])
    >>> found = projected_ascent(
    ...     lambda z: -(z - target).norm(dim=1),
    ...     lambda z: z / z.norm(dim=1, keepdim=True).clamp(min=1),
    ...     torch.zeros(1, 2), steps=50, step_size=0.5)
    >>> found.point
    tensor([[0.6000, 0.8000]])
    """
    _check_count("steps", steps)
    _check_count("restarts", restarts)
    if restarts > 1 and not callable(start):
        raise ValueError(f"start: expected a function that draws points, as restarts is {restarts}, got a tensor")
    rng, best, histories = as_rng(generator), None, []
    for _ in range(restarts):
        point = start(rng) if callable(start) else start
        run = _ascend(objective, project, point.detach(), steps, step_size, direction)
        histories.append(run.history)
        best = run if best is None else _better(best, run)
    assert best is not None
    return Ascent(best.point, best.value, torch.cat(histories))


def unit_direction(gradient: Float[Tensor, "n ..."], norm: Literal["2", "inf"]) -> Float[Tensor, "n ..."]:
    """Of all directions of length at most one, the one along which the linear part grows most; 0 for a gradient of 0.

    Parameters
    ----------
    gradient
        Shape (n, ...).
    norm
        In which the length is measured: ``"2"`` or ``"inf"``.
    """
    if norm == "inf":
        return gradient.sign()
    # scaled first: squares of small entries would vanish
    largest = gradient.flatten(1).abs().amax(1)
    scaled = gradient / per_example(torch.where(largest > 0, largest, 1.0), gradient)
    length = scaled.flatten(1).norm(dim=1)
    return scaled / per_example(torch.where(length > 0, length, 1.0), gradient)


# --- one start


def _ascend(
    objective: Objective,
    project: Projection,
    start: Tensor,
    steps: int,
    step_size: float | Tensor,
    direction: Direction,
) -> Ascent:
    point = best = _projected(project, start)
    toward, first = _direction_of(direction), _check_step(step_size, start)
    value, gradient = value_and_gradient(objective, point)
    best_gradient, history, step = gradient, [value], first.clone()
    lost = torch.zeros(len(start), dtype=torch.int64, device=start.device)  # steps since the best point
    for _ in range(steps):
        moved = _projected(project, point + per_example(step, point) * toward(gradient))
        moves = (moved != point).flatten(1).any(1)
        if not (moves | (lost > 0)).any() or not (step > _NO_STEP * first).any():
            break
        point = moved
        found, gradient = value_and_gradient(objective, point)
        better = found > value
        best = torch.where(per_example(better, point), point, best)
        best_gradient = torch.where(per_example(better, point), gradient, best_gradient)
        value = torch.where(better, found, value)
        lost = torch.where(better, 0, lost + 1)
        back = (lost >= _PATIENCE) | (~moves & (lost > 0))
        point = torch.where(per_example(back, point), best, point)
        gradient = torch.where(per_example(back, point), best_gradient, gradient)
        step, lost = torch.where(back, step * _SHORTER, step), torch.where(back, 0, lost)
        history.append(value)
    history.extend([value] * (steps + 1 - len(history)))
    return Ascent(best, value, torch.stack(history)[None])


def _better(first: Ascent, second: Ascent) -> Ascent:
    """Of two ascents, each example's better point."""
    won = second.value > first.value
    point = torch.where(per_example(won, first.point), second.point, first.point)
    return Ascent(point, torch.where(won, second.value, first.value), first.history)


def value_and_gradient(objective: Objective, point: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,) of an objective, and their gradients in the points; gradients of anything else are left alone.

    Raises
    ------
    ValueError
        If the objective does not depend differentiably on the point, or a value or a gradient is not finite.
    """
    with torch.enable_grad():
        variable = point.detach().clone().requires_grad_()
        values = objective(variable)
        if not isinstance(values, Tensor) or values.shape != (len(point),):
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"objective: expected a tensor of {len(point)} values, one for each example, got {got}")
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), variable, allow_unused=True)
    if gradient is None:
        raise ValueError("objective: expected values that depend differentiably on the point, they do not")
    for what, numbers in (("values", values), ("gradients", gradient)):
        bad = ~torch.isfinite(numbers.detach()).flatten(1 if numbers.ndim > 1 else 0)
        rows = bad.any(1) if bad.ndim > 1 else bad
        if rows.any():
            raise ValueError(f"objective: expected finite {what}, got others at example {int(rows.nonzero()[0])}")
    return values.detach(), gradient


def _direction_of(direction: Direction) -> Callable[[Tensor], Tensor]:
    if callable(direction):
        return direction
    if direction not in ("2", "inf"):
        raise ValueError(
            f"direction: expected '2', 'inf' or a function, got {direction!r}{nearest(str(direction), ['2', 'inf'])}"
        )
    norm = direction
    return lambda gradient: unit_direction(gradient, norm)


def _projected(project: Projection, point: Tensor) -> Tensor:
    with torch.no_grad():
        found = project(point)
    if not isinstance(found, Tensor) or found.shape != point.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"project: expected points of shape {tuple(point.shape)}, got {got}")
    return found


def _check_step(step_size: float | Tensor, start: Tensor) -> Tensor:
    """The first step of every example."""
    good = isinstance(step_size, Tensor) or (isinstance(step_size, int | float) and not isinstance(step_size, bool))
    step = torch.as_tensor(step_size, dtype=start.dtype, device=start.device) if good else torch.zeros(())
    if step.shape not in ((), (len(start),)) or not bool(((step > 0) & (step < math.inf)).all()):
        raise ValueError(
            f"step_size: expected a positive finite number, or {len(start)} of them, one for each example, "
            f"got {step_size!r}"
        )
    return step.expand(len(start))


def _check_count(name: str, value: int) -> None:
    if not is_count(value):
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")

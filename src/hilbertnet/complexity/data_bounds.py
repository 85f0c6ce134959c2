r"""Lower bounds of the RKHS norm of a function, from how fast it changes on data.

For f in the RKHS, ``|f(x) - f(x')| <= ||f|| ||Phi(x) - Phi(x')||``, so that every pair of signals gives a lower bound,

.. math:: \|f\| \ge \frac{|f(x) - f(x')|}{\|\Phi(x) - \Phi(x')\|} \ge \frac{|f(x) - f(x')|}{D(x, x')},

with D any upper bound of the distance moved (`hilbertnet.complexity.moved`): a Lipschitz constant of Phi times ``||x -
x'||``, or the distance itself where a representation is given, or the smaller of both. Without that division the
quantities here are bounds only for perturbations of length at most 1 and a Phi that is non-expansive.

Where x' may be: near x in l2 (`ball_bound`), infinitely near (`gradient_bound`), x deformed (`deformation_bound`), any
other signal of the data (`pair_bound`). An intercept changes nothing. Differences are made smaller by what rounding may
have done to the values (16 units of their precision): for signals that are close, use double precision.

References: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019 (balls, gradients, deformations); A. Bietti, "Foundations of deep convolutional models through kernel
methods", 2019, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.ascent import projected_ascent, unit_direction
from hilbertnet.complexity.functions import (
    BATCH,
    ROUNDING,
    Model,
    Output,
    gradients_of,
    measured,
    read_signals,
    scalar,
    untouched,
)
from hilbertnet.complexity.lower_bound import LowerBound
from hilbertnet.complexity.moved import Moved, lengths
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.deformations import Family, parse_family, warp
from hilbertnet.protocols import Representation
from hilbertnet.signals import as_rng, is_count, per_example

__all__ = ["ball_bound", "deformation_bound", "gradient_bound", "pair_bound"]

_INNER = 0.01  # of the ball's radius: below it differences drown in rounding errors


def gradient_bound(
    f: Model,
    x: Any,
    *,
    lipschitz: float | Architecture,
    output: Output = None,
    batch_size: int = BATCH,
) -> LowerBound:
    """``sup_i ||grad f(x_i)||`` over the Lipschitz constant of Phi.

    Parameters
    ----------
    f
        From signals (n, ...) to values (n,) or (n, outputs); a module is taken in eval mode, and left
        as it was.
    x
        The data: images, signals or rows (n, features), as f takes them.
    lipschitz
        A Lipschitz constant of Phi, or an architecture (`hilbertnet.complexity.moved.embedding_lipschitz`).
    output
        Which output of f, or two, whose difference is meant; ``None`` if there is one only.
    batch_size
        Signals at a time.

    Returns
    -------
    LowerBound
        Whose x' is one step of length one along the gradient.

    Raises
    ------
    ValueError
        If an argument is not of this form, or f is not differentiable.

    Examples
    --------
    A linear function is in the RKHS of the linear kernel, with the norm of its weights:

    >>> x = torch.eye(2, dtype=torch.float64)
    >>> gradient_bound(lambda z: z.flatten(1) @ torch.tensor([3.0, 4.0]).double(), x, lipschitz=1.0).value
    5.0
    """
    signals, moved = read_signals(x), Moved(lipschitz)
    gradients = gradients_of(f, signals, output, batch_size)
    constant = moved.constant(signals)
    assert constant is not None
    slopes = lengths(gradients.double())
    ratios = slopes / constant
    i = int(ratios.argmax())
    step = signals[i] + unit_direction(gradients[i : i + 1], "2")[0]
    return LowerBound(
        "gradient", float(ratios[i]), ratios.cpu(), i, signals[i], step, float(slopes[i]), constant, "Lipschitz"
    )


def ball_bound(
    f: Model,
    x: Any,
    radius: float,
    *,
    lipschitz: float | Architecture | None = None,
    representation: Representation | None = None,
    output: Output = None,
    steps: int = 40,
    restarts: int = 2,
    generator: int | torch.Generator | None = None,
    rounding: float | None = None,
    batch_size: int = BATCH,
) -> LowerBound:
    """``sup |f(x_i + delta) - f(x_i)|`` over the distance moved, for ``||delta|| <= radius``, by projected ascent.

    It is the ratio that is raised, not the difference. The first ascent starts along the gradient of f, others in
    random directions; perturbations are at least a hundredth of `radius` long.

    Parameters
    ----------
    f, x, lipschitz, output, batch_size
        See `gradient_bound`.
    radius
        In l2, positive.
    representation
        Phi; its distance is used beside the Lipschitz constant or in its place.
    steps, restarts
        Of the ascents.
    generator
        Seed or ``torch.Generator`` of the random directions.
    rounding
        See `hilbertnet.complexity.moved.Moved`.

    Raises
    ------
    ValueError
        If an argument is not of this form, or f is not differentiable.
    """
    signals, moved = read_signals(x), Moved(lipschitz, representation, rounding=rounding)
    size = real_number("radius", radius, above=0.0)
    rng, function, found = as_rng(generator), scalar(f, output), []
    gradients = gradients_of(f, signals, output, batch_size)
    with untouched(f):
        for part, gradient in zip(signals.split(batch_size), gradients.split(batch_size), strict=True):
            found.append(part + _climb(function, part, gradient, size, moved, steps, restarts, rng))
    return _largest(f"ball of radius {radius:g}", f, signals, torch.cat(found), moved, output, batch_size)


def deformation_bound(
    f: Model,
    x: Any,
    deformation: Family | str | Tensor | Callable[[Tensor, torch.Generator], Tensor],
    *,
    size: float | None = None,
    draws: int = 10,
    lipschitz: float | Architecture | None = None,
    representation: Representation | None = None,
    output: Output = None,
    interpolation: str = "bilinear",
    boundary: str = "zero",
    generator: int | torch.Generator | None = None,
    rounding: float | None = None,
    batch_size: int = BATCH,
) -> LowerBound:
    """``sup |f(L_tau x_i) - f(x_i)|`` over the distance moved, over fields tau.

    Parameters
    ----------
    f, x, lipschitz, representation, output, rounding, batch_size
        See `ball_bound`.
    deformation
        A family of fields or its text form, of which `draws` are tried for each signal; or one field for each signal,
        in pixels (n, axes, *space); or a function (x, generator) that returns such fields, a search for the worst.
    size
        Of the family's fields, in its own unit.
    draws
        How often to draw, or to search.
    interpolation, boundary
        Of `hilbertnet.deformations.warp`.
    generator
        Seed or ``torch.Generator`` of what is drawn.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    signals, moved = read_signals(x), Moved(lipschitz, representation, rounding=rounding)
    if not is_count(draws):
        raise ValueError(f"draws: expected a whole number of at least 1, got {draws!r}")
    rng, best = as_rng(generator), None
    name, draw, times = _fields(deformation, signals, size, draws)
    for _ in range(times):
        warped = warp(signals, draw(rng), interpolation=interpolation, boundary=boundary).detach()
        found = _largest(name, f, signals, warped, moved, output, batch_size)
        best = found if best is None else best.better(found)
    assert best is not None
    return best


def pair_bound(
    f: Model,
    x: Any,
    *,
    lipschitz: float | Architecture | None = None,
    representation: Representation | None = None,
    output: Output = None,
    pairs: int = 10_000,
    generator: int | torch.Generator | None = None,
    rounding: float | None = None,
    batch_size: int = BATCH,
) -> LowerBound:
    """``sup |f(x_i) - f(x_j)|`` over the distance moved, over pairs of the data.

    Parameters
    ----------
    f, x, lipschitz, representation, output, rounding, batch_size
        See `ball_bound`; f need not be differentiable.
    pairs
        At most so many, drawn at random if there are more.
    generator
        Seed or ``torch.Generator`` of the draw.

    Raises
    ------
    ValueError
        If an argument is not of this form, or there is one signal only.
    """
    signals, moved = read_signals(x), Moved(lipschitz, representation, rounding=rounding)
    if len(signals) < 2:
        raise ValueError("x: expected at least two signals, got one")
    if not is_count(pairs):
        raise ValueError(f"pairs: expected a whole number of at least 1, got {pairs!r}")
    first, second = torch.triu_indices(len(signals), len(signals), 1)
    if len(first) > pairs:
        kept = torch.randperm(len(first), generator=as_rng(generator))[:pairs].sort().values
        first, second = first[kept], second[kept]
    values, errors = measured(f, signals, output, batch_size)
    apart = ((values[first] - values[second]).abs() - errors[first] - errors[second]).clamp(min=0.0)
    parts = zip(first.split(batch_size), second.split(batch_size), strict=True)
    distance, equal = _distances(moved, ((signals[i], signals[j]) for i, j in parts))
    ratios = _ratios(apart, distance, equal)
    k = int(ratios.argmax())
    i, j = int(first[k]), int(second[k])
    return LowerBound(
        "pairs", float(ratios[k]), ratios.cpu(), i, signals[i], signals[j], float(apart[k]), float(distance[k]),
        _source(moved, signals[i : i + 1], signals[j : j + 1]), other=j,
    )  # fmt: skip


# --- one ascent


def _climb(
    function: Model,
    x: Tensor,
    gradient: Tensor,
    radius: float,
    moved: Moved,
    steps: int,
    restarts: int,
    rng: torch.Generator,
) -> Tensor:
    """The perturbation of each signal with the largest ratio that ascents found."""
    with torch.no_grad():
        values = function(x)
    errors = 2 * ROUNDING * torch.finfo(values.dtype).eps * values.double().abs()
    values = values.double()
    differentiable, long = moved.differentiable, radius * (1 - 4 * torch.finfo(x.dtype).eps)

    def ratio(delta: Tensor) -> Tensor:
        apart = (function(x + delta).double() - values).abs()
        distance = moved.upper(x, x + delta) if differentiable else lengths(delta.double())
        return (apart - errors) / distance  # or rounding errors would be what is raised

    def shell(delta: Tensor) -> Tensor:
        length = lengths(delta)
        unit = torch.where(length > 0, length, 1.0)
        return delta * per_example(unit.clamp(_INNER * radius, long) / unit, delta)

    first = True

    def start(generator: torch.Generator) -> Tensor:
        nonlocal first
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        flat = per_example((gradient.flatten(1) == 0).all(1), x) | (not first)
        first = False
        return radius * unit_direction(torch.where(flat, drawn, gradient), "2")

    found = projected_ascent(ratio, shell, start, steps=steps, step_size=radius / 4, generator=rng, restarts=restarts)
    return found.point


# --- the largest ratio


def _largest(
    name: str, f: Model, x: Tensor, others: Tensor, moved: Moved, output: Output, batch_size: int
) -> LowerBound:
    """The bound from pairs (x_i, x'_i)."""
    (values, errors), (moved_to, more) = (measured(f, points, output, batch_size) for points in (x, others))
    apart = ((moved_to - values).abs() - errors - more).clamp(min=0.0)
    distance, equal = _distances(moved, zip(x.split(batch_size), others.split(batch_size), strict=True))
    ratios = _ratios(apart, distance, equal)
    i = int(ratios.argmax())
    source = _source(moved, x[i : i + 1], others[i : i + 1])
    return LowerBound(
        name, float(ratios[i]), ratios.cpu(), i, x[i], others[i], float(apart[i]), float(distance[i]), source
    )


@torch.no_grad()
def _distances(moved: Moved, parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """How far pairs are moved at most, and which are of equal signals, some pairs at a time."""
    found = [(moved.upper(x, y), (x == y).flatten(1).all(1)) for x, y in parts]
    return torch.cat([distance for distance, _ in found]), torch.cat([equal for _, equal in found])


def _ratios(apart: Tensor, distance: Tensor, equal: Tensor) -> Tensor:
    """Differences over distances; 0 for signals that agree, whose values may differ by the place in a batch."""
    apart, distance = torch.where(equal.to(apart.device), 0.0, apart), distance.to(apart.device)
    same = distance <= torch.finfo(torch.float64).tiny ** 0.5
    if (same & (apart > 0)).any():
        i = int((same & (apart > 0)).nonzero()[0])
        gap = float(apart[i])
        raise ValueError(f"f: expected equal values at signals of distance 0 in the RKHS, got a difference of {gap:g}")
    return torch.where(same, 0.0, apart / torch.where(same, 1.0, distance))


def _source(moved: Moved, x: Tensor, y: Tensor) -> str:
    """Which bound of the distance was the smaller one."""
    if moved.representation is None:
        return "Lipschitz"
    with torch.no_grad():
        return "Lipschitz" if float(moved.by_length(x, y)) <= float(moved.upper(x, y)) else "distance"


def _fields(
    deformation: Any, x: Tensor, size: float | None, draws: int
) -> tuple[str, Callable[[torch.Generator], Tensor], int]:
    """What to call a deformation, how to draw its fields, and how often."""
    if isinstance(deformation, str):
        deformation = parse_family(deformation)
    if isinstance(deformation, Family):
        if size is None:
            raise ValueError(f"size: expected the size of a {deformation}, in {deformation.unit}, got None")
        number, family, space = real_number("size", size, least=0.0), deformation, tuple(x.shape[2:])
        return (
            f"{family} of {number:g} {family.unit}",
            lambda rng: family.field(number, len(x), space, generator=rng, dtype=x.dtype, device=x.device),
            draws,
        )
    if isinstance(deformation, Tensor):
        return "deformation", lambda rng: deformation.to(x), 1
    if callable(deformation):
        return getattr(deformation, "__name__", "search").strip("<>"), lambda rng: deformation(x, rng), draws
    raise ValueError(f"deformation: expected a family, its text form, fields or a function, got {deformation!r}")

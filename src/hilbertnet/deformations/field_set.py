"""The set of fields within the two norms of the stability theorem, as ascents over fields need it.

The gradient of what a field does to a model is rough, from pixel to pixel, and a rough field spends the budget of
gradients on its one steepest place. Steps therefore go along the gradient smoothed at some scale, and along its mean, a
translation, which spends no gradient at all.

References: R. Alaifari, G. Alberti and T. Gauksson, "ADef: an iterative algorithm to construct adversarial
deformations", ICLR 2019 (smoothed gradients of a field); A. Bietti and J. Mairal, "Group invariance, stability to
deformations, and complexity of deep convolutional representations", JMLR 2019 (the two norms).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.deformations.fields import displacement_norm, gradient_norm
from hilbertnet.signals import per_example

__all__ = ["FIRST_STEP", "FieldSet"]

FIRST_STEP = 0.5
"""Of ascents over fields, in units of the set."""

_KINDS = ("zoom", "affine", "zoom", "noise") * 8  # random fields, of which an ascent starts at the worst


class FieldSet:
    """Fields with ``sup |tau| <= displacement`` and ``sup ||grad tau|| <= gradient``, as `projected_ascent` needs them.

    Parameters
    ----------
    displacement
        In pixels, positive.
    gradient
        Without a unit, 0 or more; infinity for no bound.
    space
        Spatial shape of the signals.
    smoothness
        Standard deviation in pixels of the Gaussian that smooths random fields and steps; default ``displacement /
        gradient``, the length at which both norms are used up together, but one pixel at least and half of the
        largest side at most.
    periodic
        Whether the signals lie on the torus.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """

    def __init__(
        self,
        displacement: float,
        gradient: float,
        space: tuple[int, ...],
        *,
        smoothness: float | None = None,
        periodic: bool = False,
    ) -> None:
        self.displacement = _number(
            "displacement", displacement, "a positive finite number", lambda d: 0 < d < math.inf
        )
        self.gradient = _number("gradient", gradient, "a number of at least 0", lambda g: g >= 0)
        if smoothness is None:
            natural = self.displacement / self.gradient if self.gradient > 0 else math.inf
            smoothness = min(max(1.0, natural), max(1.0, max(space) / 2))
        self.smoothness = _number("smoothness", smoothness, "a positive finite number", lambda s: 0 < s < math.inf)
        self.space, self.periodic = space, periodic

    def gauge(self, field: Tensor) -> Tensor:
        """The least factor by which the set must grow to hold each field, shape (n,); infinite if none does."""
        short, steep = displacement_norm(field) / self.displacement, self._gradient_norm(field)
        steep = torch.where(steep > 0, steep / self.gradient, 0.0) if self.gradient > 0 else steep.sign() * math.inf
        return torch.maximum(short, torch.nan_to_num(steep, nan=0.0, posinf=math.inf))

    def retract(self, field: Tensor) -> Tensor:
        """A field of the set for each one, itself if it is in the set. This is not the Euclidean projection.

        Three steps, each of which leaves the fields of the set alone. Each component becomes the mean of its largest
        minorant and its least majorant whose differences along the axes are at most `gradient` (McShane's extensions),
        which flattens where it is steep and nowhere else. Displacements that are too long are shortened. What is still
        too steep, at most by a small factor, is drawn towards its mean: radially, but about the mean and not about 0,
        so that a translation is not lost where only a gradient is too large.
        """
        field = self._flattened(field)
        length = field.norm(dim=1, keepdim=True)
        field = torch.where(length > self.displacement, field * (self.displacement / length), field)
        mean = field.flatten(2).mean(2).reshape(*field.shape[:2], *(1,) * len(self.space))
        steep = self._gradient_norm(field)
        share = per_example(torch.where(steep > self.gradient, self.gradient / steep, 1.0), field)
        return torch.where(share < 1, mean + share * (field - mean), field)

    def _flattened(self, field: Tensor) -> Tensor:
        if self.gradient in (0, math.inf):
            return field
        low = high = field
        for axis, length in enumerate(self.space):
            rise = (self.gradient * _apart(length, self.periodic)).to(field)
            low = (_rows(low, axis) + rise).amin(-1).movedim(-1, 2 + axis)
            high = (_rows(high, axis) - rise).amax(-1).movedim(-1, 2 + axis)
        changed = (low != field) | (high != field)  # rounding is no change
        return torch.where(changed, (low + high) / 2, field)

    def direction(self, gradient: Tensor) -> Tensor:
        """Smoothed gradient and mean gradient, each of gauge one half, or one where the other is 0."""
        mean = gradient.flatten(2).mean(2).reshape(*gradient.shape[:2], *(1,) * len(self.space)).expand_as(gradient)
        parts = [self._unit(mean)]
        if self.gradient > 0:
            parts.append(self._unit(self._smooth(self._smooth(gradient, transposed=True))))
        return self._unit(torch.stack(parts).sum(0))

    def draw(self, x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
        """A random field of the set for each signal.

        Parameters
        ----------
        x
            The signals, whose number, dtype and device the fields have.
        kind
            ``"zoom"``, in or out, or ``"affine"``: about a random point, as steep as allowed, shortened where it is too
            long; ``"noise"``: smoothed noise that uses up the budget, and a random translation. Without a gradient
            all are translations.
        generator
            Of all draws.
        """
        n, axes = len(x), len(self.space)
        if self.gradient == 0:
            return self._shift(n, generator, shortest=1.0).to(x)
        if kind == "noise":
            noise = self._smooth(torch.randn(n, axes, *self.space, generator=generator, dtype=torch.float64))
            return self.retract(self._unit(noise) + self._shift(n, generator)).to(x)
        matrix = torch.randn(n, axes, axes, generator=generator, dtype=torch.float64)
        if kind == "zoom":
            matrix = matrix[:, :1, :1].sign() * torch.eye(axes, dtype=torch.float64)
        steep = min(self.gradient, 2 * self.displacement)  # steeper ones jump from side to side within a pixel
        matrix = matrix * (steep / torch.linalg.matrix_norm(matrix, 2)[:, None, None])
        centre = (
            torch.rand(n, axes, 1, generator=generator, dtype=torch.float64) * (torch.tensor(self.space) - 1)[:, None]
        )
        axis_points = (torch.arange(length, dtype=torch.float64) for length in self.space)
        points = torch.stack(torch.meshgrid(*axis_points, indexing="ij")).flatten(1)
        return self.retract((matrix @ (points - centre)).unflatten(2, self.space)).to(x)

    @torch.no_grad()
    def worst_draw(
        self, objective: Callable[[Tensor], Tensor], x: Float[Tensor, "n channels *space"], generator: torch.Generator
    ) -> Float[Tensor, "n axes *space"]:
        """Of 32 random fields, the worst of each signal: where an ascent may start.

        Parameters
        ----------
        objective
            From fields (n, axes, *space) to values (n,).
        x, generator
            See `draw`.
        """
        worst, value = None, None
        for kind in _KINDS:
            field = self.draw(x, kind, generator)
            found = objective(field)
            if worst is None or value is None:
                worst, value = field, found
                continue
            won = found > value
            worst, value = torch.where(per_example(won, field), field, worst), torch.where(won, found, value)
        assert worst is not None
        return worst

    def _shift(self, n: int, generator: torch.Generator, shortest: float = 0.0) -> Tensor:
        """Constant fields of random directions, and lengths between a share of the largest and it."""
        drawn = torch.randn(n, len(self.space), generator=generator, dtype=torch.float64)
        share = shortest + (1 - shortest) * torch.rand(n, 1, generator=generator, dtype=torch.float64)
        shift = drawn * (share * self.displacement / drawn.norm(dim=1, keepdim=True))
        return shift.reshape(*shift.shape, *(1,) * len(self.space)).expand(-1, -1, *self.space)

    # --- smoothing

    def _smooth(self, field: Tensor, *, transposed: bool = False) -> Tensor:
        """Gaussian smoothing along all axes, renormalized at the edges; its transpose."""
        for axis, length in enumerate(self.space):
            weights = _gaussian(length, self.smoothness, self.periodic).to(field)
            weights = weights.T if transposed else weights
            field = torch.tensordot(field, weights, dims=([2 + axis], [1])).movedim(-1, 2 + axis)
        return field

    def _unit(self, field: Tensor) -> Tensor:
        """Of gauge one, where a field is not 0."""
        largest = field.flatten(1).abs().amax(1)
        scaled = field / per_example(torch.where(largest > 0, largest, 1.0), field)
        gauge = self.gauge(scaled)
        return scaled / per_example(torch.where(gauge > 0, gauge, 1.0), field)

    def _gradient_norm(self, field: Tensor) -> Tensor:
        return gradient_norm(field, periodic=self.periodic)


def _apart(length: int, periodic: bool) -> Tensor:
    """Distances of all pairs of positions along an axis, shape (length, length)."""
    positions = torch.arange(length, dtype=torch.float64)
    apart = (positions[:, None] - positions).abs()
    return torch.minimum(apart, length - apart) if periodic else apart


def _gaussian(length: int, std: float, periodic: bool) -> Tensor:
    """Weights (length, length) of the smoothed value at i; its rows sum to one."""
    return torch.softmax(-0.5 * (_apart(length, periodic) / std) ** 2, dim=1)


def _rows(field: Tensor, axis: int) -> Tensor:
    """One axis of space last, once more before it, to be combined with numbers for all pairs of its positions."""
    return field.movedim(2 + axis, -1).unsqueeze(-2)


def _number(name: str, value: Any, expected: str, good: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not good(float(value)):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return float(value)

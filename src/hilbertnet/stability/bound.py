"""The stability theorems evaluated: how far a representation can move under a field, by its two norms.

Reference: A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, chapter 2 (CKN); A.
Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019, proposition 12 (NTK).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.deformations import displacement_norm, gradient_norm
from hilbertnet.stability.constants import (
    TERMS,
    Constant,
    commutator_constant,
    given_constants,
    known_constants,
    term_sizes,
    translation_constant,
    warp_norm,
)
from hilbertnet.stability.grid_bound import check_kind
from hilbertnet.stability.scales import Scales, as_architecture, scales
from hilbertnet.stability.telescope import Step, ntk_sum, size_factor
from hilbertnet.text import columns

__all__ = ["LIMIT", "StabilityBound", "fit_constants", "stability_bound"]

LIMIT = 0.5
"""The largest ``sup||grad tau||`` for which the theorems hold."""


@dataclass(frozen=True)
class StabilityBound:
    """A theorem's bound of ``||Phi(L_tau x) - Phi(x)|| / ||x||`` for some fields; ``print`` it.

    Parameters
    ----------
    arch
        The architecture.
    kind
        ``"ckn"`` or ``"ntk"``.
    scales
        Its scales.
    gradient, displacement
        ``sup||grad tau||`` and ``sup|tau|`` in pixels, shape (n,).
    constants
        The theorem's, each with what is known of it.
    terms
        Each term of the bound by its name, shape (n,), Lipschitz constants included.
    holds
        Whether ``sup||grad tau|| <= 1/2``, without which the theorem says nothing, shape (n,).
    """

    arch: Architecture
    kind: str
    scales: Scales
    gradient: Tensor
    displacement: Tensor
    constants: tuple[Constant, ...]
    terms: dict[str, Tensor]
    holds: Tensor

    @property
    def value(self) -> Tensor:
        """The bound, shape (n,), times ``||x||``; infinite where it does not hold or a constant is not known."""
        return torch.stack(list(self.terms.values())).sum(0).masked_fill(~self.holds, math.inf)

    def __str__(self) -> str:
        head = ["field", "sup|tau| (px)", "sup||grad tau||", *self.terms, "bound / ||x||"]
        rows = []
        for i, value in enumerate(self.value.tolist()):
            terms = [f"{term[i]:.4g}" if self.holds[i] else "-" for term in self.terms.values()]
            bound = f"{value:.4g}" if self.holds[i] else "does not hold"
            rows.append([str(i), f"{self.displacement[i]:.4g}", f"{self.gradient[i]:.4g}", *terms, bound])
        found = self.scales
        text = f"{self.kind} theorem for {self.arch}: n = {found.depth}, sigma_n = {found.sigmas[-1]:.3g} pixels, "
        text += f"beta = {found.beta:.3g}, Lipschitz constants {found.lipschitz:.3g} in all\n" + columns([head, *rows])
        text += "\n" + "\n".join(map(str, self.constants))
        if not bool(self.holds.all()):
            text += f"\nthe theorem needs sup||grad tau|| <= {LIMIT:g}"
        most = size_factor([layer.kernel for layer in self.arch.layers], self.kind) * (1 + warp_norm(found.axes))
        return text + f"\nthe norms of both sides alone give {most:.4g}: a bound above that says nothing"


def stability_bound(
    arch: Architecture | str,
    field: Tensor | tuple[Any, Any],
    *,
    kind: str = "ckn",
    constants: dict[str, float] | Sequence[Constant] | None = None,
    axes: int = 2,
    space: tuple[int, ...] | None = None,
) -> StabilityBound:
    """The CKN or NTK theorem's bound of ``||Phi(L_tau x) - Phi(x)|| / ||x||``.

    For a CKN ``(C_beta (n+1) sup||grad tau|| + (C / sigma_n) sup|tau|) prod_k max(1, sqrt(kappa_k'(1)))``; C_beta is
    the constant ``"gradient"``, C is ``"translation"``. Both are known for Gaussian filters on R^d
    (`hilbertnet.stability.constants`). For the tangent kernel proposition 12's form, with a third constant ``"root"``
    of the term in ``sup||grad tau||^(1/2)``, is used when `constants` are given. Without, the sum in its proof
    (`hilbertnet.stability.telescope`) is evaluated with the known norms of its operators, since only the order of two
    of the constants is known.

    It is a statement about functions on R^d: signals between pixels, no edges, no sampling. On a grid with strides,
    sums over positions are smaller than its integrals by the product of the strides along all axes, and norms by its
    root. For a bound of what is computed, on a grid, see `hilbertnet.stability.grid_bound`.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    field
        Fields (n, axes, *space) in pixels, or the pair of their norms ``(sup||grad tau||, sup|tau|)``, numbers or (n,).
    kind
        ``"ckn"`` or ``"ntk"``.
    constants
        Constants by name, or those of `fit_constants`; default the known ones.
    axes, space
        Where `field` is a pair of norms: see `hilbertnet.stability.scales`.

    Returns
    -------
    StabilityBound
        Where ``sup||grad tau|| > 1/2`` the theorem does not hold: ``holds`` is false and the bound infinite.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> arch = Architecture.parse("3 exp(1) gauss2 | 3 exp(1) gauss4", sigma0=1.0)
    >>> found = stability_bound(arch, (0.0, 1.0))
    >>> [round(float(term), 3) for term in found.terms.values()]
    [0.0, 0.222]
    """
    arch = as_architecture(arch)
    check_kind(kind, arch)
    gradient, displacement, shape = _norms(field)
    found = scales(arch, axes=axes, space=shape or space)
    holds = gradient <= LIMIT
    inside = gradient.clamp(max=LIMIT)
    if constants is None:
        stated = known_constants(found, kind, inside)
        if kind == "ntk":
            terms = {"sum of the proof": _known_tangent(arch, found, inside, displacement)}
            return StabilityBound(arch, kind, found, gradient, displacement, stated, terms, holds)
    else:
        stated = given_constants(constants, kind)
    sizes = term_sizes(found, kind, gradient, displacement)
    terms = {c.name: _times(found.lipschitz, _times(c.value, sizes[c.name])) for c in stated}
    return StabilityBound(arch, kind, found, gradient, displacement, stated, terms, holds)


def _times(constant: float | Tensor, size: Tensor) -> Tensor:
    """The product, 0 where `size` is 0 even if the constant is infinite."""
    value = torch.as_tensor(constant, dtype=torch.float64).broadcast_to(size.shape)
    return torch.where(size > 0, value * size.where(size > 0, torch.ones_like(size)), torch.zeros_like(size))


def _known_tangent(arch: Architecture, found: Scales, gradient: Tensor, displacement: Tensor) -> Tensor:
    """The telescoping sum with the operators' norms on R^d: B_k and A_n have norm 1."""
    kernels = [layer.kernel for layer in arch.layers]
    result = []
    for g, shift in zip(gradient.tolist(), displacement.tolist(), strict=True):
        stretch = warp_norm(found.axes, g)
        steps = [Step(1.0, g * commutator_constant(layer.ratio, found.axes, g), stretch) for layer in found.layers[1:]]
        last = (
            g * commutator_constant(0.0, found.axes, g) + translation_constant(found.axes, g) * shift / found.sigmas[-1]
        )
        result.append(ntk_sum(kernels, steps, 1.0, last))
    return torch.tensor(result, dtype=torch.float64)


def _norms(field: Any) -> tuple[Tensor, Tensor, tuple[int, ...] | None]:
    """The two norms, (n,) in float64, and the grid if there is one."""
    if isinstance(field, Tensor) and field.ndim >= 3:
        parts = gradient_norm(field), displacement_norm(field)
        gradient, displacement = (part.detach().to("cpu", torch.float64) for part in parts)
        return gradient, displacement, tuple(field.shape[2:])
    if not isinstance(field, tuple | list) or len(field) != 2:
        what = f"shape {tuple(field.shape)}" if isinstance(field, Tensor) else repr(field)
        raise ValueError(f"field: expected fields (n, axes, *space) or a pair (sup||grad tau||, sup|tau|), got {what}")
    gradient, displacement = _numbers("field", *field)
    return gradient, displacement, None


def _numbers(name: str, *values: Any) -> tuple[Tensor, ...]:
    """Numbers or (n,), as vectors of one length, finite and at least 0."""
    try:
        found = [torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in values]
        found = list(torch.broadcast_tensors(*[value.reshape(-1) if value.ndim == 0 else value for value in found]))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}: expected numbers or vectors of one length, got {values!r}") from None
    for value in found:
        if value.ndim != 1 or not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(f"{name}: expected finite numbers of at least 0, got {value.tolist()}")
    return tuple(found)


def fit_constants(
    arch: Architecture | str,
    gradient: Any,
    displacement: Any,
    distances: Any,
    *,
    kind: str = "ckn",
    known: dict[str, float] | None = None,
    axes: int = 2,
    space: tuple[int, ...] | None = None,
) -> tuple[Constant, ...]:
    """The smallest constants of a theorem whose bound covers measured distances.

    Of all constants that cover every measurement, those with the least mean bound (a linear program). They are facts
    about these measurements, and no bound of others.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    gradient, displacement
        ``sup||grad tau||`` and ``sup|tau|`` in pixels of every measurement, shape (n,).
    distances
        ``||Phi(L_tau x) - Phi(x)|| / ||x||`` of every measurement, shape (n,).
    kind
        ``"ckn"`` or ``"ntk"``.
    known
        Constants, by name, that are not to be fitted.
    axes, space
        See `hilbertnet.stability.scales`.

    Raises
    ------
    ValueError
        If an argument is not of this form, or no constants cover a measurement: it moved though its field is zero.
    """
    arch = as_architecture(arch)
    check_kind(kind, arch)
    gradient, displacement, distances = _numbers("gradient, displacement, distances", gradient, displacement, distances)
    inside = gradient <= LIMIT
    count, total = int(inside.sum()), len(inside)
    if count == 0:
        raise ValueError(f"gradient: expected some measurement with sup||grad tau|| <= {LIMIT:g}, got none")
    found = scales(arch, axes=axes, space=space)
    if math.isinf(found.lipschitz):
        raise ValueError(
            f"arch: expected kernels with a finite kappa'(1), without which no bound is finite, got {arch}"
        )
    sizes = term_sizes(found, kind, gradient[inside], displacement[inside])
    fixed = {c.name: c for c in given_constants(known or {}, kind) if c.name in (known or {})}
    free = [name for name in TERMS[kind] if name not in fixed]
    rest = distances[inside] / found.lipschitz - sum(fixed[name].value * sizes[name] for name in fixed)
    status = f"fitted to {count} measurements" + (f", {total - count} beyond the theorem left out" * (total > count))
    values = _least_cover(torch.stack([sizes[name] for name in free], 1), rest.clamp(min=0)) if free else []
    fitted = {name: Constant(name, value, status) for name, value in zip(free, values, strict=True)}
    return tuple(fitted.get(name) or fixed[name] for name in TERMS[kind])


def _least_cover(sizes: Tensor, distances: Tensor) -> list[float]:
    """Constants c >= 0 with ``sizes @ c >= distances`` and the least mean of ``sizes @ c``."""
    from scipy.optimize import linprog

    lost = torch.nonzero((sizes.sum(1) == 0) & (distances > 0)).flatten()
    if len(lost):
        raise ValueError(
            f"distances: expected 0 where the field is zero, got {distances[lost[0]].item():.4g} for measurement "
            f"{int(lost[0])}, which no constants cover"
        )
    if not bool((distances > 0).any()):
        return [0.0] * sizes.shape[1]
    width = sizes.amax(0).clamp(min=1e-300)  # terms of one size, so that the solver's tolerance is relative
    scaled, wanted = sizes / width, distances / distances.max()
    answer = linprog(scaled.mean(0).numpy(), A_ub=-scaled.numpy(), b_ub=-wanted.numpy(), bounds=(0, None))
    if answer.status != 0:
        raise ValueError(f"distances: expected measurements that constants can cover ({answer.message})")
    found = torch.from_numpy(answer.x).clamp(min=0)
    reached = scaled @ found
    moved = wanted > 0
    short = float((wanted[moved] / reached[moved]).max())
    return (found * max(short, 1.0) * (1 + 1e-12) * distances.max() / width).tolist()

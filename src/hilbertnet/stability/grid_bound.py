r"""A stability bound in which everything is computed, for this architecture, on this grid, for this field.

The theorem lives on R^d. On a grid there are strides, edges and interpolation, and its constants are not known. The sum
behind it (`hilbertnet.stability.telescope`) needs less: for each layer a linear map T_k that commutes with the
pointwise kernel map M_k. An interpolated L_tau does not, but a *sampling map* does, which gives every position the
value of some position, or 0. So take T_0 = L_tau on the input, as it is interpolated there, and T_k the sampling map
nearest to L_tau on the grid of layer k's patches, at that layer's resolution. Then, with B_k = P_k A_{k-1} as it is,
strides and edges included,

.. math::

   \|\Phi(L_\tau x) - \Phi(x)\| \le \left( \|A_n\| \sum_{k=1}^n \Big[ \prod_{j \ge k} \rho_j \prod_{j \ne k} \|B_j\|
   \Big] \|B_k T_{k-1} - T_k B_k\| + \|A_n T_n - A_n\| \prod_j \|B_j\| \right) \|x\|.

Nothing is left out, so this holds for all boundaries, poolings and strides; only its size depends on how near T_k is
to L_tau. The identity commutes with M_k too: the deformation may be followed up to a layer l, and dropped there. T_k
= I for k > l leaves the commutators of layers 1 ... l and one norm ``||B_{l+1} T_l - B_{l+1}||`` (``||A_n T_n -
A_n||`` for l = n). The least of these n + 1 bounds is taken. Following to the end is what the theorem does, and is
exact for shifts by whole pixels on a torus without strides; dropping early is better for displacements that are short
beside a layer's step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.deformations import check_field, displacement_norm, gradient_norm
from hilbertnet.progress import Progress, track
from hilbertnet.stability.operators import (
    Operator,
    commutator,
    deformation,
    difference,
    operator_norm,
    patches_after_pooling,
    pooling,
)
from hilbertnet.stability.scales import as_architecture
from hilbertnet.stability.telescope import Step, check_tangent, ckn_sum, ntk_sum
from hilbertnet.stability.transport import layer_grids, sampling
from hilbertnet.text import columns, nearest

__all__ = ["GridBound", "check_kind", "grid_bound"]


@dataclass(frozen=True)
class GridBound:
    """Bounds of ``||Phi(L_tau x) - Phi(x)|| / ||x||`` for some fields, in float64 on the CPU; ``print`` it.

    Parameters
    ----------
    arch
        The architecture.
    kind
        ``"ckn"`` or ``"ntk"``.
    followed
        The bound when the deformation is followed up to layer 0 ... n, shape (fields, n + 1).
    commutators
        ``||B_k T_{k-1} - T_k B_k||`` of layers 1 ... n, shape (fields, n).
    dropped
        The norm where the deformation is dropped after layer 0 ... n, shape (fields, n + 1).
    still
        The same sum when nothing is compared: the norms of Phi(L_tau x) and Phi(x) added, shape (fields,).
    gradient, displacement
        ``sup ||grad tau||`` and ``sup |tau|`` in pixels, shape (fields,).
    """

    arch: Architecture
    kind: str
    followed: Tensor
    commutators: Tensor
    dropped: Tensor
    still: Tensor
    gradient: Tensor
    displacement: Tensor

    @property
    def value(self) -> Tensor:
        """The least bound of each field, shape (fields,), times ``||x||``."""
        return torch.minimum(self.followed.amin(1), self.still)

    def __str__(self) -> str:
        depth = self.commutators.shape[1]
        head = ["field", "sup|tau| (px)", "sup||grad tau||", *(f"commutator {k + 1}" for k in range(depth))]
        head += ["dropped after", "that norm", "bound / ||x||"]
        rows = [self._row(i) for i in range(len(self.value))]
        text = f"{self.kind} bound of {self.arch}, all norms computed on this grid\n" + columns([head, *rows])
        return text + "\nnorms: the two norms ||Phi(L_tau x)|| + ||Phi(x)||, where no sum is less"

    def _row(self, i: int) -> list[str]:
        parts = [str(i), f"{self.displacement[i]:.4g}", f"{self.gradient[i]:.4g}"]
        parts += [f"{value:.4g}" for value in self.commutators[i]]
        layer = int(self.followed[i].argmin())
        if self.still[i] < self.followed[i, layer]:
            return [*parts, "norms", "-", f"{self.value[i]:.4g}"]
        return [*parts, f"layer {layer}", f"{self.dropped[i, layer]:.4g}", f"{self.value[i]:.4g}"]


def grid_bound(
    arch: Architecture | str,
    field: Tensor,
    *,
    kind: str = "ckn",
    interpolation: str = "bilinear",
    boundary: str = "zero",
    tolerance: float = 0.01,
    generator: int | torch.Generator = 0,
    progress: Progress = None,
) -> GridBound:
    """Bounds of ``||Phi(L_tau x) - Phi(x)|| / ||x||`` by norms computed on the grid (see the module).

    Parameters
    ----------
    arch
        The architecture, or its text form.
    field
        Fields (n, axes, *space), in pixels.
    kind
        ``"ckn"``, or ``"ntk"`` for the map of the tangent kernel.
    interpolation, boundary
        Those of `hilbertnet.deformations.warp` with which signals are deformed: the bound is that of this L_tau.
    tolerance, generator
        Of `hilbertnet.stability.operators.operator_norm`; the bound takes the norms' upper values.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total), one for each field.

    Raises
    ------
    ValueError
        If an argument is not of this form, or the tangent kernel's bound does not hold for a kernel.

    Examples
    --------
    >>> import torch
    >>> shift = torch.ones(1, 2, 16, 16, dtype=torch.float64)
    >>> torus = Architecture.parse("3 exp(1) gauss2/1 | 3 exp(1) gauss4/1", boundary="circular")
    >>> found = grid_bound(torus, shift, boundary="circular")
    >>> found.commutators.tolist(), round(float(found.value), 2)
    ([[0.0, 0.0]], 0.35)
    """
    arch = as_architecture(arch)
    check_kind(kind, arch)
    check_field(field)
    fields = field.detach().to("cpu", torch.float64)
    space = tuple(fields.shape[2:])
    layers = [patches_after_pooling(arch, k, space) for k in range(1, len(arch.layers) + 1)]
    last = pooling(arch.layers[-1].pool, arch, arch.shapes(space)[-1][0])

    def norm(operator: Operator) -> float:
        return operator_norm(operator, tolerance=tolerance, generator=generator).upper

    problem = _Problem(arch, kind, [*layers, last], [norm(operator) for operator in (*layers, last)])
    grids = layer_grids(arch, space)[1:]
    found = []
    for tau in track(fields.split(1), progress, label="stability bound"):
        warped = deformation(tau, interpolation=interpolation, boundary=boundary)
        samplings = [sampling(tau, grid, boundary=boundary) for grid in grids]
        moved = [warped, *(one.operator for one in samplings)]
        stretches = [norm(warped), *(one.norm for one in samplings)]
        commuted = [norm(commutator(b, moved[k], moved[k + 1])) for k, b in enumerate(layers)]
        drops = [norm(difference(b, moved[k])) for k, b in enumerate(problem.operators)]
        sums = [problem.bound(commuted[:k], drop, stretches) for k, drop in enumerate(drops)]
        found.append((sums, commuted, drops, problem.size * (1.0 + stretches[0])))
    followed, errors, dropped, still = (torch.tensor(part, dtype=torch.float64) for part in zip(*found, strict=True))
    return GridBound(arch, kind, followed, errors, dropped, still, gradient_norm(fields), displacement_norm(fields))


def check_kind(kind: Any, arch: Architecture) -> None:
    """Raise unless `kind` is ``"ckn"`` or ``"ntk"`` and `arch` has a bound of that kind."""
    if kind not in ("ckn", "ntk"):
        raise ValueError(f"kind: expected 'ckn' or 'ntk', got {kind!r}{nearest(str(kind), ['ckn', 'ntk'])}")
    if kind == "ntk":
        check_tangent(arch)


@dataclass(frozen=True)
class _Problem:
    """An architecture on a grid: its operators B_1 ... B_n and A_n, and their norms."""

    arch: Architecture
    kind: str
    operators: list[Operator]
    norms: list[float]

    def bound(self, errors: Sequence[float], drop: float, stretches: Sequence[float]) -> float:
        """The sum with the deformation followed for ``len(errors)`` layers and dropped there."""
        depth = len(self.arch.layers)
        after = len(errors)
        all_errors = [*errors, drop, *[0.0] * depth][: depth + 1]
        steps = [
            Step(self.norms[k], all_errors[k], min(stretches[0], stretches[k + 1]) if k < after else 1.0)
            for k in range(depth)
        ]
        kernels = [layer.kernel for layer in self.arch.layers]
        total = ckn_sum if self.kind == "ckn" else ntk_sum
        return total(kernels, steps, self.norms[-1], all_errors[depth])

    @property
    def size(self) -> float:
        """The bound of ``||Phi(x)|| / ||x||``: the sum where nothing is lost but the pooled patches themselves."""
        kernels = [layer.kernel for layer in self.arch.layers]
        if self.kind == "ckn":
            return math.prod(self.norms)
        still = [Step(norm, 0.0) for norm in self.norms[:-1]]
        return ntk_sum(kernels, still, 0.0, self.norms[-1])

"""Constraints on the weights: spectral norms of the reshaped filters, or of the true convolutions, at most tau."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.regularization.chance import Stateless
from hilbertnet.regularization.functions import as_function
from hilbertnet.regularization.operators import NormSearch, Use, input_shapes
from hilbertnet.regularization.term import BoundConstraint, ConstraintTerm
from hilbertnet.regularization.weights import WeightLayer, by_shape, full_precision, in_float64, weight_layers
from hilbertnet.text import format_number, nearest

__all__ = ["OperatorProjection", "SpectralProjection"]

_EXCESS = {torch.float32: 1e-6, torch.float64: 1e-12}
"""What rounding may leave above tau, relative: no more is projected, so that a second projection changes nothing."""

_PASSES = 5
_HIDING = 30.0


@dataclass(frozen=True)
class _Radii(ConstraintTerm):
    """What both constraints have in common: a radius, its schedule, and radii of single layers."""

    tau: float
    kappa: float | None = 2
    radii: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", real_number("tau", self.tau, above=0.0))
        if self.kappa is not None:
            object.__setattr__(self, "kappa", real_number("kappa", self.kappa, least=0.0))
        if self.radii is not None:
            text = ", ".join(
                f"{name}:{format_number(radius)}" for name, radius in sorted(_read_radii(self.radii).items())
            )
            object.__setattr__(self, "radii", text or None)

    def radius(self, epoch: int, own: float | None = None) -> float:
        """``tau (1 + 4 exp(-epoch / kappa))``, for a layer's own radius in the place of tau."""
        tau = self.tau if own is None else own
        return tau * (1 + 4 * math.exp(-epoch / self.kappa)) if self.kappa else tau

    def layers(self, model: nn.Module, epoch: int) -> list[tuple[WeightLayer, float]]:
        """The layers of a model that are bounded, with their radii in an epoch.

        Raises
        ------
        ValueError
            If there are none, their weights are in half precision, or `radii` names others.
        """
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise ValueError(f"epoch: expected a whole number of at least 0, got {epoch!r}")
        own, found = {} if self.radii is None else _read_radii(self.radii), []
        every = weight_layers(model)
        for layer in every:
            names = {layer.name, *layer.others} & own.keys()
            radii = {own.pop(name) for name in names}
            if len(radii) > 1:
                raise ValueError(f"radii: expected one for {' and '.join(sorted(names))}, which share a weight")
            _check_precision(layer)
            found.append((layer, self.radius(epoch, radii.pop() if radii else None)))
        if own:
            known = [name for layer in every for name in (layer.name, *layer.others)]
            wrong = min(own)
            raise ValueError(f"radii: the model has no convolution or linear layer {wrong!r}{nearest(wrong, known)}")
        return [(layer, radius) for layer, radius in found if radius < math.inf]


def _read_radii(radii: object) -> dict[str, float]:
    """Radii by the layers' names, from a mapping or a text such as ``"features.0:2, classifier:inf"``."""
    expected = "radii: expected numbers above 0 by layers' names, as a mapping or a text such as 'features.0:2, fc:inf'"
    pairs: list[Any] = []
    if isinstance(radii, Mapping):
        pairs = list(radii.items())
    elif isinstance(radii, str):
        pairs = [tuple(part.strip().rpartition(":")[::2]) for part in radii.split(",")]
    found: dict[str, float] = {}
    for name, value in pairs:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not isinstance(name, str) or not number > 0 or name.strip() in found or set(name) & set("':,"):
            raise ValueError(f"{expected}, got {radii!r}")
        found[name.strip()] = number
    if not found:
        raise ValueError(f"{expected}, got {radii!r}")
    return found


def _check_precision(layer: WeightLayer) -> None:
    if layer.weight.dtype not in _EXCESS:
        raise ValueError(
            f"model: expected weights in float32 or float64, and {layer.name}.weight is in {layer.weight.dtype}, which "
            "cannot hold a projection; keep the parameters in float32 and use autocast"
        )


@dataclass(frozen=True)
class SpectralProjection(_Radii):
    """Every singular value of every reshaped filter at most ``tau (1 + 4 exp(-epoch / kappa))`` (``"sn"``).

    After every step, larger singular values of the weight as a matrix (out, in / groups * patch) become that bound: the
    nearest matrix in the Frobenius norm. Of a transposed convolution the matrix is (out / groups, in * patch). Which
    layers are taken is said in `hilbertnet.regularization.weights`; a weight that layers share is projected once.

    Parameters
    ----------
    tau
        The radius.
    kappa
        How many epochs the bound takes to come down from 5 tau; 0 or ``None`` for tau from the start.
    radii
        Radii of single layers in the place of tau, by their names in ``model.named_modules()``: a mapping, or a text
        such as ``"features.0:2, classifier:inf"``; infinite for layers that are left alone.

    Raises
    ------
    ValueError
        If a number is not as said; when a model is projected, if it has no such layer, its weights are in half
        precision, or `radii` names a layer that it has not.

    References
    ----------
    A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks", ICML 2019
    (the schedule is that of its code); the set is that of Y. Yoshida and T. Miyato, 2017.
    """

    name: ClassVar[str] = "sn"
    formula: ClassVar[str] = "sigma(W) <= tau (1 + 4 exp(-epoch / kappa)), W the weight as a matrix (out, rest)"

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundConstraint:
        """The projection; neither argument plays a part, see `PenaltyTerm.bind`."""
        return _BoundSpectralProjection(self)


class _BoundSpectralProjection(Stateless):
    """The projection of singular values, which keeps nothing."""

    def __init__(self, term: SpectralProjection) -> None:
        self.term = term

    @torch.no_grad()
    def project_(self, model: nn.Module, epoch: int) -> None:
        """Clip the singular values of all filters in place; weights that are not finite stay as they are."""
        with as_function(model) as plain, full_precision(plain):
            wanted = self.term.layers(plain, epoch)
            radii = {layer.name: radius for layer, radius in wanted}
            for layers, stack in by_shape([layer for layer, _ in wanted]):
                bounds = torch.tensor([radii[layer.name] for layer in layers], dtype=torch.float64)
                for place, matrix in _clipped(stack, bounds):
                    layers[place].write_(matrix)


def _clipped(
    stack: Float[Tensor, "layers out rest"], radii: Float[Tensor, " layers"]
) -> list[tuple[int, Float[Tensor, "out rest"]]]:
    """Matrices with a singular value above their radius: their places, and what they are once it is clipped.

    With ``W W' = U S^2 U'`` in float64, W becomes ``W - U (1 - radius / S)_+ U' W``: only large singular values play a
    part, those that the smaller of the two Gram matrices knows well. Whether there is one is read off a Cholesky
    factorization of ``radius^2 - W W'``, which exists if there is none, at a small part of the cost. A singular value
    that is many times the radius hides the others in its square: W itself is decomposed then.
    """
    small = stack if stack.shape[1] <= stack.shape[2] else stack.mT
    wide, rounding = in_float64(small), _EXCESS[stack.dtype]
    radii = radii.to(wide.device)
    if not (wide.flatten(1).norm(dim=1) > radii * (1 + rounding)).any():
        return []
    changed: set[int] = set()
    for _ in range(_PASSES):
        gram = wide @ wide.mT
        gap = torch.diag_embed((radii * (1 + rounding)).square()[:, None].expand(gram.shape[:2])) - gram
        over = (torch.linalg.cholesky_ex(gap).info > 0) & torch.isfinite(gram).all(2).all(1)
        places = over.nonzero()[:, 0].tolist()
        if not places:
            break
        squares, vectors = torch.linalg.eigh(gram[places])
        if (squares[:, -1] > (_HIDING * radii[places]).square()).any():
            vectors, values, _ = torch.linalg.svd(wide[places], full_matrices=False)
        else:
            values = squares.clamp(min=0.0).sqrt()
        excess = (1 - radii[places, None] / values).clamp(min=0.0)
        wide = wide.index_put((over,), wide[places] - (vectors * excess[:, None, :]) @ (vectors.mT @ wide[places]))
        changed.update(places)
    return [(place, wide[place] if small is stack else wide[place].mT) for place in sorted(changed)]


@dataclass(frozen=True)
class OperatorProjection(_Radii):
    """The norm of every convolution and linear layer as a linear map at most tau (``"sn_operator"``).

    The norm is that of the layer with its stride, border, dilation and groups on the grid that it sees in the model,
    the one that bounds Lipschitz constants, found by a block Lanczos method from where it ended after the step before.
    A layer above the bound is divided by what it is too large by. That is no projection in the Frobenius norm, which
    has no closed form for filters of limited support: clipping frequencies spreads the filter over the grid, and
    cutting it back to its patch may raise the norm again. Linear layers are clipped as by `SpectralProjection`, which
    is the projection.

    Parameters
    ----------
    tau
        The radius.
    kappa, radii
        As for `SpectralProjection`.
    tolerance
        Relative precision of the norms: how far above the bound they may stay.

    Raises
    ------
    ValueError
        As for `SpectralProjection`; and when a model is projected, if its forward pass does not reach a layer, whose
        grid is not known then.

    References
    ----------
    H. Sedghi, V. Gupta and P. Long, "The singular values of convolutional layers", ICLR 2019 (on why the operator, and
    on clipping frequencies); H. Gouk, E. Frank, B. Pfahringer and M. Cree, "Regularisation of neural networks by
    enforcing Lipschitz continuity", Machine Learning, 2021 (division by the norm after every step).
    """

    tolerance: float = 1e-5

    name: ClassVar[str] = "sn_operator"
    formula: ClassVar[str] = "||C|| <= tau, C the layer as a linear map of its whole input"

    def __post_init__(self) -> None:
        super().__post_init__()
        if real_number("tolerance", self.tolerance, above=0.0) >= 1:
            raise ValueError(f"tolerance: expected a number between 0 and 1, got {self.tolerance!r}")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundConstraint:
        """The projection; the first of `x_train` shows which grids the layers see, see `PenaltyTerm.bind`."""
        return _BoundOperatorProjection(self, x_train[:1].detach().clone(), generator)


class _BoundOperatorProjection:
    """Divides convolutions by what they are too large by; it keeps grids and singular vectors by the layers' names."""

    def __init__(self, term: OperatorProjection, example: Tensor, generator: int | torch.Generator | None) -> None:
        self.term, self.example = term, example
        self.search = NormSearch(term.tolerance, generator)
        self.uses: dict[str, list[Use]] = {}

    @torch.no_grad()
    def project_(self, model: nn.Module, epoch: int) -> None:
        """Bring all layers to the bound in place; weights that are not finite stay as they are."""
        with as_function(model) as plain, full_precision(plain):
            wanted = self.term.layers(plain, epoch)
            if any(layer.name not in self.uses for layer, _ in wanted):
                self.uses = input_shapes(plain, [layer for layer, _ in wanted], self.example)
            for layer, radius in wanted:
                if isinstance(layer.module, nn.Linear):
                    self._clip_(layer, radius)
                else:
                    self._divide_(layer, radius)

    @staticmethod
    def _clip_(layer: WeightLayer, radius: float) -> None:
        matrix = layer.matrix()
        for _, clipped in _clipped(matrix[None], torch.tensor([radius], dtype=torch.float64)):
            layer.write_(clipped)

    def _divide_(self, layer: WeightLayer, radius: float) -> None:
        if not torch.isfinite(layer.weight).all():
            return
        norm = self.search.norm(layer, self.uses[layer.name])
        if norm > radius * (1 + self.term.tolerance):
            layer.write_(layer.matrix() * (radius / norm))

    def state_dict(self) -> dict[str, Any]:
        """The singular vectors, and the state of the generator."""
        return self.search.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self.search.load_state_dict(state)

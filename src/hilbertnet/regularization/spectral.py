"""Penalties on the weights alone: spectral norms of the filters, and their Frobenius norms (weight decay)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.protocols import Penalty
from hilbertnet.regularization.chance import Stateless, WarmStarted
from hilbertnet.regularization.functions import as_function
from hilbertnet.regularization.term import PenaltyTerm
from hilbertnet.regularization.weights import by_shape, full_precision, weight_layers

__all__ = ["SpectralPenalty", "WeightDecay"]


@dataclass(frozen=True)
class SpectralPenalty(PenaltyTerm):
    """``sum_layers sigma_max(W)^2`` over convolutions and linear layers, the last one too (``"sn_penalty"``).

    W is the weight as a matrix (out, in / groups * patch); of a transposed convolution (out / groups, in * patch), as
    in torch's own ``spectral_norm``. Which layers are taken is said in `hilbertnet.regularization.weights`.

    Parameters
    ----------
    iterations
        Power iterations for each batch, which start where those of the batch before ended, or 0 for the exact norm, by
        a singular value decomposition. The gradient flows through ``u^T W v`` with u and v constant.

    Raises
    ------
    ValueError
        If `iterations` is no whole number of at least 0.

    References
    ----------
    Y. Yoshida and T. Miyato, "Spectral norm regularization for improving the generalizability of deep learning", 2017;
    as coded by A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural
    networks", ICML 2019.
    """

    iterations: int = 2

    name: ClassVar[str] = "sn_penalty"
    formula: ClassVar[str] = "sum_layers sigma_max(W)^2, W the weight as a matrix (out, rest)"

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or isinstance(self.iterations, bool) or self.iterations < 0:
            raise ValueError(f"iterations: expected a whole number, 0 for the exact norm, got {self.iterations!r}")

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """The penalty; `x_train` plays no part, see `PenaltyTerm.bind`."""
        return _BoundSpectralPenalty(self.iterations, generator)


@dataclass(frozen=True)
class WeightDecay(PenaltyTerm):
    """``sum_layers ||W||_F^2 / 2`` over the weights of convolutions and linear layers (``"weight_decay"``).

    Biases and normalization layers are left out. With SGD, a weight of lambda is that of ``weight_decay=lambda`` in the
    optimizer, on these weights.
    """

    name: ClassVar[str] = "weight_decay"
    formula: ClassVar[str] = "sum_layers ||W||_F^2 / 2, without biases"

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> Penalty:
        """The penalty; neither argument plays a part, see `PenaltyTerm.bind`."""
        return _BoundWeightDecay()


class _BoundWeightDecay(Stateless):
    """The penalty, ready for use."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None = None) -> Tensor:
        """The penalty; the batch plays no part."""
        with as_function(model) as plain, full_precision(plain):
            return _total([stack.square().sum() / 2 for _, stack in by_shape(weight_layers(plain))])


def _total(parts: list[Tensor]) -> Tensor:
    """The sum, on the device of the first."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part.to(total.device)
    return total


class _BoundSpectralPenalty(WarmStarted):
    """The penalty with the left singular vectors that it has found so far, by the layers' names."""

    def __init__(self, iterations: int, generator: int | torch.Generator | None) -> None:
        super().__init__(generator)
        self.iterations = iterations

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None = None) -> Tensor:
        """The penalty; the batch plays no part."""
        with as_function(model) as plain, full_precision(plain):
            sums = []
            for layers, stack in by_shape(weight_layers(plain)):
                norms = self._norms([layer.name for layer in layers], stack)
                sums.append(norms.square().sum())
            return _total(sums)

    def _norms(self, names: list[str], stack: Float[Tensor, "layers out rest"]) -> Float[Tensor, " layers"]:
        if not self.iterations:
            return _exact_norms(stack)
        with torch.no_grad():
            u = torch.stack([self._vector(name, stack) for name in names])
            for _ in range(self.iterations):
                v = _unit(torch.einsum("lor,lo->lr", stack, u))
                v = torch.where(v.any(1, keepdim=True), v, _unit(_longest_rows(stack)))
                new = _unit(torch.einsum("lor,lr->lo", stack, v))
                u = torch.where(new.any(1, keepdim=True), new, u)
            self.vectors.update(zip(names, u.unbind(), strict=True))
        return torch.einsum("lo,lor,lr->l", u, stack, v)

    def _vector(self, name: str, stack: Tensor) -> Float[Tensor, " out"]:
        """Where the iteration starts: where it ended, or a random direction."""
        known = self.vectors.get(name)
        if known is None or len(known) != stack.shape[1]:
            known = torch.randn(stack.shape[1], dtype=torch.float64, generator=self.rng)
            known = known / known.norm()
        return known.to(stack)


def _unit(vectors: Float[Tensor, "layers p"]) -> Float[Tensor, "layers p"]:
    """Each over its norm; 0 where that is 0 or not finite."""
    largest = vectors.abs().amax(1, keepdim=True)  # the square of a small number may be 0, and of a large one infinite
    usable = (largest > 0) & largest.isfinite()
    vectors = torch.where(usable, vectors / largest, 0.0)
    return torch.where(usable, vectors / vectors.norm(dim=1, keepdim=True), 0.0)


def _longest_rows(stack: Float[Tensor, "layers out rest"]) -> Float[Tensor, "layers rest"]:
    """Directions that W does not map to 0 unless W is 0, for where u is orthogonal to the range of W."""
    places = stack.abs().amax(2).argmax(1)
    return stack[torch.arange(len(stack), device=stack.device), places]


def _exact_norms(stack: Float[Tensor, "layers out rest"]) -> Float[Tensor, " layers"]:
    if not torch.isfinite(stack.detach()).all():
        return stack.flatten(1).sum(1) * torch.nan  # the decomposition would raise; the training loop looks at the loss
    return torch.linalg.matrix_norm(stack, ord=2)

"""Norms of a model's layers as linear maps on the grids that they see, found again and again as the weights move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.complexity.functions import untouched
from hilbertnet.complexity.operator_norms import LinearMap
from hilbertnet.regularization.chance import WarmStarted
from hilbertnet.regularization.weights import Transposed, WeightLayer

__all__ = ["NormSearch", "Use", "input_shapes"]

Use = tuple[nn.Module, tuple[int, ...]]
"""A layer and the shape (channels, *space) of one of its inputs."""

_BLOCK = 4
_BASIS = 32
_LEAST_STEPS, _MOST_STEPS = 4, 300
_TOLERANCE_IN_FLOAT32 = 1e-5
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@torch.no_grad()
def input_shapes(model: nn.Module, layers: Sequence[WeightLayer], example: Tensor) -> dict[str, list[Use]]:
    """Which layers use each weight, on inputs of which shapes, from one forward pass, by the layers' names.

    Raises
    ------
    ValueError
        If the forward pass does not reach a layer.
    """
    found: dict[str, list[Use]] = {layer.name: [] for layer in layers}

    def note(name: str, module: nn.Module, x: Tensor) -> None:
        axes = 1 if isinstance(module, nn.Linear) else axes_of(module) + 1
        use = module, tuple(x.shape[-axes:])
        if use not in found[name]:
            found[name].append(use)

    hooks = []
    try:
        for layer in layers:
            for name in (layer.name, *layer.others):
                hook = lambda module, inputs, name=layer.name: note(name, module, inputs[0])  # noqa: E731
                hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))
        first = next(model.parameters())
        with untouched(model):
            model(example.to(first.device, first.dtype))
    finally:
        for handle in hooks:
            handle.remove()
    for name, uses in found.items():
        if not uses:
            raise ValueError(
                f"model: its forward pass does not reach {name}, whose grid is not known then; leave it out with "
                f"radii='{name}:inf'"
            )
    return found


def axes_of(module: nn.Module) -> int:
    """Axes of space of a convolution."""
    return len(module.kernel_size)  # type: ignore[arg-type]


def linear_map(module: nn.Module, weight: Tensor, shape: tuple[int, ...]) -> LinearMap:
    """A layer without its bias, for another weight of the same shape."""
    if isinstance(module, nn.Linear):
        return LinearMap(lambda x: functional.linear(x, weight), shape)
    if isinstance(module, Transposed):
        convolve = _TRANSPOSED[axes_of(module)]
        rest = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
        return LinearMap(lambda x: convolve(x, weight, None, *rest), shape)  # type: ignore[arg-type]
    return LinearMap(lambda x: module._conv_forward(x, weight, None), shape)  # type: ignore[operator]


class NormSearch(WarmStarted):
    """Operator norms by a block Lanczos method, each search from the singular vectors that the one before ended with.

    A single vector would stay where it is when the weights have moved so far that another singular value is the
    largest: with groups, or on a torus, singular vectors may share nothing. So several are kept, and one random vector
    is added in each search. A norm may still be found too small where many singular values lie close to the largest,
    by about their distance.

    Parameters
    ----------
    tolerance
        A search ends where the residual of ``C'C v = value^2 v`` is at most this times value^2.
    generator
        Seed or ``torch.Generator`` (on the CPU) that its own, of the random vectors, is told by.
    """

    def __init__(self, tolerance: float, generator: int | torch.Generator | None) -> None:
        super().__init__(generator)
        self.tolerance = tolerance

    def norm(self, layer: WeightLayer, uses: Sequence[Use]) -> float:
        """The largest norm of the maps that a weight makes, with what the residual leaves open added."""
        weight, largest = layer.weight.detach(), 0.0
        # convolutions in float32 are good to 1e-3 alone on a GPU, unless its user has asked for more
        if weight.device.type == "cuda" or self.tolerance < _TOLERANCE_IN_FLOAT32:
            weight = weight.double()
        for number, (module, shape) in enumerate(uses):
            key = f"{layer.name} {number}"
            operator = linear_map(module, weight, shape)
            square, residual, self.vectors[key] = _top_vectors(
                operator, self._start(key, shape, weight), self.tolerance
            )
            largest = max(largest, math.sqrt(max(square + residual, 0.0)))
        return largest

    def _start(self, key: str, shape: tuple[int, ...], weight: Tensor) -> Float[Tensor, "block size"]:
        """Where the search before ended, and random vectors: one, or a whole block at first."""
        size, known = math.prod(shape), self.vectors.get(key)
        if known is None or known.shape[1] != size:
            known = torch.empty(0, size, dtype=torch.float64)
        count = min(max(1, _BLOCK - len(known)), size)
        drawn = torch.randn(count, size, dtype=torch.float64, generator=self.rng)
        return torch.cat([known.to(weight), drawn.to(weight)])


def _top_vectors(
    operator: LinearMap, start: Float[Tensor, "block size"], tolerance: float
) -> tuple[float, float, Float[Tensor, "block size"]]:
    """Largest eigenvalue of C'C that a block leads to, the norm of its residual, and the vectors of the largest ones.

    The basis grows by the residuals of the best vectors, and is made anew from these when it is full.
    """

    def apply(block: Tensor) -> Tensor:
        return operator.squared(block.view(-1, *operator.shape)).flatten(1)

    basis = _orthonormal(start, start[:0])
    images = apply(basis)
    for step in range(1, _MOST_STEPS + 1):
        values, mixed = torch.linalg.eigh(_symmetric(basis @ images.T))
        values, best = values.flip(0), mixed.flip(1).T[:_BLOCK]  # the largest first
        vectors, moved = best @ basis, best @ images
        left = moved - values[:_BLOCK, None] * vectors
        square, residual = float(values[0]), float(left[0].norm())
        done = residual <= tolerance * square and step >= _LEAST_STEPS
        if done or len(basis) == start.shape[1] or square <= 0:
            break
        if len(basis) + _BLOCK > _BASIS:
            basis, images = vectors, moved
        new = _orthonormal(left, basis)
        if not len(new):
            break
        basis, images = torch.cat([basis, new]), torch.cat([images, apply(new)])
    return square, residual, vectors


def _symmetric(matrix: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
    return (matrix + matrix.T) / 2


def _orthonormal(block: Float[Tensor, "block size"], basis: Float[Tensor, "p size"]) -> Float[Tensor, "rank size"]:
    """An orthonormal basis of what `block` adds to the span of orthonormal vectors."""
    rounding, lengths = 500 * torch.finfo(block.dtype).eps, block.norm(dim=1)
    block = block[lengths > rounding * lengths.max()]
    block = block / block.norm(dim=1, keepdim=True)
    for _ in range(2):  # once is not enough in floating point
        block = block - (block @ basis.T) @ basis
        q, r = torch.linalg.qr(block.T)
        block = q.T[r.diagonal().abs() > rounding]
    return block[: basis.shape[1] - len(basis)]

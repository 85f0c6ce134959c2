"""The RKHS norm of a convolutional network from above, layer by layer.

The network is read as a function in the RKHS of a kernel of the same architecture: patches, the homogeneous kernel map
and pooling at every layer. Layer k computes at every patch the homogeneous neurons ``n s(c_i / n)``, c_i what the
convolution gives there and n the norm of the patch in the kernel's own map, ``||P_k x_{k-1}(u)||`` (for the first layer
``|S|^(-1/2)`` times the norm of the patch of the input); the last, linear, layer sums their pooled maps. With ReLU n
drops out, and that is the network as it stands.

Let G_k be the Gram matrix of the neurons of layer k in its RKHS H_k, and G_0 the identity. As the patch operator
carries ``|S|^(-1/2)``, the preactivations have the Gram matrix ``L_k = |S| sum_v W_k(v) G_{k-1} W_k(v)'``, and ``G_k =
sum_l (a_l^2 / b_l) L_k^l``, entry by entry. Then ``||f||^2 <= sum_u w(u)' G_n w(u)``. Three bounds, the first the
tightest:

gram
    with the matrices G_k themselves;
spectral
    with a bound of the largest eigenvalue of G_k, ``s_k = C^2(|S| ||W~_k||^2 s_{k-1}) + (m_k - 1) a_0^2 / b_0``, W~ the
    weight reshaped to (out, in |S|); the second term, for m_k maps, is the correction for s(0) != 0, without which it
    is false;
filters
    with a bound of each diagonal entry, ``B_{k,i} = C^2(|S| p_{k-1} sum_j ||w_k^ij||^2 B_{k-1,j})``, p the number of
    maps.

References
----------
Y. Zhang, J. Lee and M. Jordan, ICML 2016; A. Bietti and J. Mairal, "Group invariance, stability to deformations, and
complexity of deep convolutional representations", JMLR 2019, section 4. The Gram matrices and the correction are this
project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hilbertnet.architecture.dot_product import DotProductKernel
from hilbertnet.complexity.activation_norms import ActivationNorm, activation_norm, term_logs
from hilbertnet.complexity.activations import Activation, as_activation
from hilbertnet.complexity.operations import Step
from hilbertnet.complexity.operator_norms import spectral_norm
from hilbertnet.text import columns

__all__ = ["LayerInRkhs", "RkhsNorms", "rkhs_norms"]

_LARGEST = 600.0  # logarithm of the largest squared norm that is followed
_MOST = 20000  # terms of a series of matrices


@dataclass(frozen=True)
class LayerInRkhs:
    """One layer of the recursion.

    Parameters
    ----------
    place
        The layer in the model.
    patch
        ``|S|``, positions of a patch.
    activation
        Name of its activation.
    reshaped
        Spectral norm of the weight as a matrix (out, in * patch).
    argument
        ``|S| ||W~||^2 s``, the L of ``C^2(L)`` in the spectral form.
    gram, spectral, filters
        Squared norms: largest eigenvalue of G_k, its bound, and the largest of the B_{k,i}.
    """

    place: str
    patch: int
    activation: str
    reshaped: float
    argument: float
    gram: float
    spectral: float
    filters: float


@dataclass(frozen=True)
class RkhsNorms:
    """Upper bounds of the RKHS norm of a network, largest over its outputs; infinite with a reason.

    Parameters
    ----------
    gram, spectral, filters
        The norm (not squared) by the three forms of the recursion.
    outputs
        By the first form, for every output.
    layers
        What each layer contributes.
    reason
        Why it is infinite; empty where it is finite.
    notes
        What the number says nothing about: the bias of the last layer, the normalization of the input.
    """

    gram: float
    spectral: float
    filters: float
    outputs: Tensor
    layers: tuple[LayerInRkhs, ...]
    reason: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ["layer", "|S|", "activation", "reshaped", "|S| |W|^2 s", "Gram", "spectral", "filters"]
        table = [head]
        for row in self.layers:
            numbers = (row.reshaped, row.argument, row.gram, row.spectral, row.filters)
            table.append([row.place, str(row.patch), row.activation, *(f"{value:.4g}" for value in numbers)])
        last = "; ".join(self.notes)
        total = f"norm {self.gram:.6g} (Gram), {self.spectral:.6g} (spectral), {self.filters:.6g} (filters)"
        return "\n".join(part for part in (columns(table), total, self.reason, last) if part)


class _OutsideError(Exception):
    """The network has no finite bound, for a reason."""


@dataclass
class _State:
    """What is known of the maps after a layer."""

    gram: Tensor
    spectral: float
    filters: Tensor
    shape: tuple[int, ...]
    positions: int = 1  # of the maps that a flattened input was
    layers: list[LayerInRkhs] = field(default_factory=list)


def rkhs_norms(
    steps: list[Step],
    kernel: DotProductKernel | Sequence[DotProductKernel],
    surrogate: Activation | None = None,
) -> RkhsNorms:
    """The recursion on the steps of `hilbertnet.complexity.graph.trace`.

    Parameters
    ----------
    steps
        The network.
    kernel
        One dot-product kernel, or one for each layer but the last.
    surrogate
        An activation in the place of every ReLU.
    """
    notes: list[str] = []
    state: _State | None = None
    try:
        state, rest = _start(steps, notes)
        used = 0
        while rest:
            layer, activation, rest = _next_layer(rest, state, surrogate)
            if activation is None and not rest:
                if not isinstance(kernel, DotProductKernel) and len(kernel) != used:
                    raise ValueError(f"kernel: expected one kernel, or {used}, got {len(kernel)}")
                return _finish(state, layer, notes)
            state = _advance(state, layer, activation or as_activation("linear"), _kernel(kernel, used))
            used += 1
        raise _OutsideError("the last step is not a linear layer")
    except _OutsideError as error:
        layers = tuple(state.layers) if state else ()
        outputs = torch.full(steps[-1].shape, math.inf, dtype=torch.float64)
        return RkhsNorms(math.inf, math.inf, math.inf, outputs, layers, str(error), tuple(notes))


def _kernel(kernel: DotProductKernel | Sequence[DotProductKernel], index: int) -> DotProductKernel:
    if isinstance(kernel, DotProductKernel):
        return kernel
    if index >= len(kernel):
        raise ValueError(f"kernel: expected one kernel, or one for each layer but the last, got {len(kernel)}")
    return kernel[index]


def _start(steps: list[Step], notes: list[str]) -> tuple[_State, list[Step]]:
    """The Gram matrix of the channels, and the steps after the normalization of the input."""
    for i, step in enumerate(steps):
        if step.kind == "unbounded":
            raise _OutsideError(f"{step.label}: {step.reason}")
        if len(step.inputs) > 1 or (i and step.inputs != (i - 1,)):
            where = next(other for other in steps if len(other.inputs) > 1)
            raise _OutsideError(f"{where.label}: the recursion is for chains of layers, and here branches meet")
    shape, rest = steps[0].shape, steps[1:]
    while rest and rest[0].kind in ("shift", "scale"):
        if not notes:
            notes.append("as a function of the normalized input")
        rest = rest[1:]
    while rest and len(shape) == 1 and rest[0].kind == "shape" and math.prod(rest[0].shape) == shape[0]:
        shape, rest = rest[0].shape, rest[1:]  # rows that are read as signals
    eye = torch.eye(shape[0], dtype=torch.float64)
    return _State(eye, 1.0, torch.ones(shape[0], dtype=torch.float64), shape), rest


def _next_layer(
    rest: list[Step], state: _State, surrogate: Activation | None
) -> tuple[Step, Activation | None, list[Step]]:
    """The next layer and its activation; pooling and flattening before it are part of the kernel."""
    while rest and rest[0].kind in ("pool", "shape"):
        _reshape(rest[0], state)
        rest = rest[1:]
    if not rest:
        raise _OutsideError("the last step is not a linear layer")
    step, rest = rest[0], rest[1:]
    if step.kind != "layer":
        raise _OutsideError(f"{step.label}: {_why_not(step)}")
    while rest and rest[0].kind == "shape" and rest[0].shape == step.shape:
        rest = rest[1:]
    if not rest or rest[0].kind != "activation":
        return step, None, rest
    name = rest[0].activation
    known = surrogate if name == "relu" and surrogate is not None else _series(rest[0], name)
    return step, known, rest[1:]


def _series(step: Step, name: str) -> Activation:
    try:
        return as_activation(name)
    except ValueError:
        raise _OutsideError(f"{step.label}: no Taylor series of it is known here") from None


def _why_not(step: Step) -> str:
    return {
        "max_pool": "a maximum over positions is not in the RKHS of a convolutional kernel",
        "activation": "an activation that follows no layer",
        "scale": "a factor between layers that is not folded into one",
        "shift": "a constant is not in the RKHS of a homogeneous kernel",
        "linear": "a linear map across channels and space that the recursion does not follow",
    }.get(step.kind, f"a step of kind {step.kind}")


def _reshape(step: Step, state: _State) -> None:
    if step.kind == "pool":
        if len(state.shape) < 2:
            raise _OutsideError(f"{step.label}: it pools maps that were flattened")
        state.shape = step.shape
        return
    # axes of one pixel may come and go, the channels stay first
    same = step.shape[0] == state.shape[0] and _long(step.shape) == _long(state.shape)
    flattened = len(step.shape) == 1 and step.operation in ("flatten", "reshape", "view")
    if step.operation in ("transpose", "movedim", "permute", "numpy_T") or not (same or flattened):
        raise _OutsideError(f"{step.label}: it moves entries in a way that the recursion does not follow")
    if flattened and len(state.shape) > 1:
        state.positions = math.prod(state.shape[1:])
    state.shape = step.shape


def _long(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n > 1]


def _patches(step: Step, state: _State) -> Tensor:
    """The weight as (out, in, positions of a patch), groups filled up with zeros."""
    layer = step.layer
    assert layer is not None
    channels = layer.channels // state.positions if step.operation.startswith("linear") else layer.channels
    if channels != len(state.gram):
        raise _OutsideError(f"{step.label}: it takes positions for channels")
    if step.operation.startswith("linear"):
        return layer.weight.flatten(1).unflatten(1, (-1, state.positions))
    weight = layer.weight.flatten(2)
    if layer.groups == 1:
        return weight
    out, inner = weight.shape[0] // layer.groups, weight.shape[1]
    full = torch.zeros(weight.shape[0], layer.channels, weight.shape[2], dtype=torch.float64)
    for group in range(layer.groups):
        rows = slice(group * out, (group + 1) * out)
        full[rows, group * inner : (group + 1) * inner] = weight[rows]
    return full


def _quadratic(weight: Tensor, gram: Tensor) -> Tensor:
    """``sum_v W(v) G W(v)'``."""
    return torch.einsum("oiv,ij,pjv->op", weight, gram, weight)


def _largest(gram: Tensor) -> float:
    return float(torch.linalg.eigvalsh(gram)[-1]) if torch.isfinite(gram).all() else math.inf


def _advance(state: _State, step: Step, activation: Activation, kernel: DotProductKernel) -> _State:
    """From the maps before a layer to those after its activation."""
    if step.bias is not None and bool((step.bias != 0).any()):
        raise _OutsideError(f"{step.label}: it has a bias, and a constant is not in the RKHS of a homogeneous kernel")
    weight = _patches(step, state)
    patch, maps, reshaped = weight.shape[2], weight.shape[0], spectral_norm(weight.flatten(1))
    argument = patch * reshaped**2 * state.spectral
    inner = patch * _quadratic(weight, state.gram)
    by_filter = patch * weight.shape[1] * weight.square().sum(2) @ state.filters
    first = activation_norm(activation, kernel, math.sqrt(max(float(inner.diagonal().max()), 0.0)))
    if not first.inside:
        verdict = "is not in" if first.inside is False else "is not known to be in"
        raise _OutsideError(
            f"{step.label}: {activation} {verdict} the RKHS of {kernel} at radius {first.radius:g} ({first.reason})"
        )
    constant = math.exp(term_logs(activation, kernel, 1)[0])
    spectral = _square(activation, kernel, argument) + (maps - 1) * constant
    filters = torch.tensor([_square(activation, kernel, value) for value in by_filter.tolist()], dtype=torch.float64)
    gram = _apply_series(inner, activation, kernel, first)
    if not torch.isfinite(gram).all() and math.isfinite(spectral):
        # too many terms for a matrix: G <= s I, and the recursion preserves that order
        gram = spectral * torch.eye(maps, dtype=torch.float64)
    row = LayerInRkhs(
        step.label, patch, activation.name, reshaped, argument, _largest(gram), spectral, float(filters.max())
    )
    shape = (maps,) if len(step.shape) == 1 else step.shape
    state.layers.append(row)
    if math.isinf(row.gram) and math.isinf(spectral):
        raise _OutsideError(f"{step.label}: {activation} is in the RKHS, but the squared norm is above 1e260")
    return _State(gram, spectral, filters, shape, 1, state.layers)


def _square(activation: Activation, kernel: DotProductKernel, argument: float) -> float:
    """C^2(argument), infinite where it is too large to go on with."""
    if not math.isfinite(argument):
        return math.inf
    norm = activation_norm(activation, kernel, math.sqrt(max(argument, 0.0)))
    return norm.squared if norm.inside and norm.log_squared < _LARGEST else math.inf


def _apply_series(inner: Tensor, activation: Activation, kernel: DotProductKernel, first: ActivationNorm) -> Tensor:
    """``sum_l (a_l^2 / b_l) inner^l``, entry by entry; all infinite where it is too large or too long."""
    if first.log_squared > _LARGEST or first.terms > _MOST:
        return torch.full_like(inner, math.inf)
    if math.isinf(first.log_squared) or first.radius == 0.0:
        return torch.full_like(inner, first.squared)
    logs = term_logs(activation, kernel, first.terms) + 2 * np.arange(first.terms) * math.log(first.radius)
    terms = np.exp(logs)
    ratio = (inner / first.radius**2).clamp(-1.0, 1.0)
    total = torch.zeros_like(ratio)
    for term in terms[: int(np.flatnonzero(terms)[-1]) + 1][::-1].tolist():
        total = total * ratio + term
    # the terms left out and rounding, on the diagonal, where the matrix needs them to stay an upper bound: the largest
    # eigenvalue of what is missing is at most the number of maps times its largest entry
    return total + torch.eye(len(total), dtype=total.dtype) * (len(total) * first.error * first.squared)


def _finish(state: _State, step: Step, notes: list[str]) -> RkhsNorms:
    """The last linear layer: f = sum_u <w(u), x_n(u)>."""
    if step.operation not in ("linear", "linear + batch_norm") and math.prod(step.shape[1:]) > 1:
        raise _OutsideError(f"{step.label}: the last layer has outputs at more than one position")
    if step.bias is not None and bool((step.bias != 0).any()):
        notes.append("without the bias of the last layer")
    weight = _patches(step, state)
    squares = weight.square().sum(2)
    gram = torch.einsum("oiv,ij,ojv->o", weight, state.gram, weight).clamp(min=0.0).sqrt()
    spectral = float((squares.sum(1) * state.spectral).max().sqrt())
    by_filter = weight.shape[1] * squares * state.filters
    filters = float(torch.nan_to_num(by_filter, nan=0.0, posinf=math.inf).sum(1).max().sqrt())
    return RkhsNorms(float(gram.max()), spectral, filters, gram, tuple(state.layers), "", tuple(notes))

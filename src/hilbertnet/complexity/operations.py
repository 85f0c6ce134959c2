"""What torch's operations on one map are: layers, pooling, activations, and how much they can stretch.

An operation with a new name needs a line in `step_of`, or in `hilbertnet.complexity.lipschitz` if it is an activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from hilbertnet.complexity.convolutions import Convolution
from hilbertnet.complexity.lipschitz import activation_slope
from hilbertnet.complexity.operator_norms import LinearMap, operator_norm, spectral_norm
from hilbertnet.signals import is_count

__all__ = ["Step", "step_of"]

_DROPOUT = {"alpha_dropout", "dropout", "feature_dropout"}
_SHAPE = _DROPOUT | {"alias", "clone", "contiguous", "detach", "flatten", "lift_fresh_copy", "movedim", "numpy_T"}
_SHAPE |= {"permute", "reshape", "squeeze", "to", "transpose", "unflatten", "unsqueeze", "view", "_to_copy"}
_PART = {"slice", "select", "narrow"}
_POOLS = {"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"}
_MAX_POOLS = {"max_pool1d", "max_pool2d"}
_DEFAULTS = {"elu": [1.0], "leaky_relu": [0.01], "softplus": [1.0, 20.0]}


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a network on its maps.

    Parameters
    ----------
    place
        Path of the module that does it, empty for the network itself.
    operation
        torch's name of it.
    kind
        ``"input"``, ``"layer"`` (convolution or linear), ``"shift"`` (a constant added), ``"scale"`` (multiplied by a
        constant), ``"shape"`` (entries moved or dropped), ``"pool"`` (linear on space, the same for every channel),
        ``"linear"``, ``"activation"``, ``"max_pool"``, ``"add"``, ``"cat"``, or ``"unbounded"``.
    inputs
        Indices of the steps that it takes.
    shape
        Of its output, without the axis of examples.
    layer
        The convolution of a layer.
    bias
        What it adds, if it does; for a shift, the constant.
    slope
        Lipschitz constant of other kinds.
    factor
        The constant of a scale.
    paths
        For path norms: from p = 1 or 2 and the inputs to the output of the step with its weights' absolute values to
        the power p; none for a layer.
    activation
        Name of an activation that has a series, or of any other.
    reason
        Why its Lipschitz constant is not bounded.
    """

    place: str
    operation: str
    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    layer: Convolution | None = None
    bias: Tensor | None = None
    slope: float = 1.0
    factor: Tensor | None = None
    paths: Callable[..., Tensor] | None = None
    activation: str = ""
    reason: str = ""

    @property
    def label(self) -> str:
        """Where it is, and what."""
        return f"{self.place} ({self.operation})" if self.place else self.operation


def step_of(step: Step, node: fx.Node, args: list[Any], keywords: dict[str, Any], shape: tuple[int, ...]) -> Step:
    """The step of an operation that takes one map: what it is, filled into `step`.

    Parameters
    ----------
    step
        Place, operation, input and shape of the output.
    node
        The node of the program.
    args, keywords
        What it is called with, ``None`` in the place of the map.
    shape
        Of the map, without the axis of examples.
    """
    name, call = step.operation, _calling(node, args, keywords)
    if name in ("conv1d", "conv2d", "linear"):
        return _layer(step, args, keywords, shape)
    if name == "batch_norm":
        return _batch_norm(step, args)
    if name in _SHAPE or name in _PART:
        if name in _DROPOUT and [*args, True][2]:
            return replace(step, reason="dropout that stays on in evaluation mode")
        repeats = math.prod(step.shape) > math.prod(shape)
        if not repeats:
            return replace(step, kind="shape", paths=lambda p, x: call(x), reason="")
    if name == "pad":
        return _pad(step, args, keywords, call, shape)
    if name in _POOLS or name == "mean":
        return _pool(step, args, call, shape)
    if name in _MAX_POOLS or name == "amax":
        return replace(step, kind="max_pool", slope=_max_slope(name, args), paths=lambda p, x: call(x), reason="")
    if name in ("mul", "div"):
        return _scale(step, args, keywords, shape)
    if name == "matmul":
        return _matmul(step, args, shape)
    if name in ("pow", "square"):
        return _power(step, 2 if name == "square" else args[1])
    if name == "exp":
        return replace(step, kind="activation", activation="exp", slope=math.inf, reason="exp is not Lipschitz")
    slope = activation_slope(name, args, keywords)
    if slope is None:
        return step
    if step.shape != shape:
        return replace(step, reason="it repeats entries")

    def paths(p: int, x: Tensor) -> Tensor:
        if name == "softmax":  # every output sees all entries: |dp_i| <= 2 p_i (1 - p_i) max_j |dz_j|
            x = x.amax(args[1], keepdim=True).expand_as(x)
        return slope**p * x

    options = "" if args[1:] == _DEFAULTS.get(name, [])[: len(args) - 1] and not keywords else " with options"
    return replace(step, kind="activation", slope=slope, activation=f"{name}{options}", paths=paths, reason="")


def _power(step: Step, degree: Any) -> Step:
    if not is_count(degree):
        return replace(step, reason=f"a power that is no positive whole number: {degree!r}")
    return replace(
        step, kind="activation", activation=f"power{degree}", slope=math.inf, reason=f"u^{degree} is not Lipschitz"
    )


def _layer(step: Step, args: list[Any], keywords: dict[str, Any], shape: tuple[int, ...]) -> Step:
    if args[0] is not None or not isinstance(args[1], Tensor):
        return replace(step, reason="its weight depends on the input")
    weight, bias = args[1], (args[2] if len(args) > 2 else keywords.get("bias"))
    if step.operation == "linear":
        if len(shape) > 1:  # the same matrix at every position along the other axes
            return replace(
                step, reason="a linear layer along the last axis of maps: flatten them, or use a convolution"
            )
        layer = Convolution(weight.unsqueeze(-1), (1,), (1,), ((0, 0),), (1,))
        return replace(step, kind="layer", layer=layer, bias=bias, reason="")
    axes = len(shape) - 1
    if axes != weight.ndim - 2:
        return replace(step, reason="it takes maps without an axis of examples")
    stride, dilation = (_each(args, keywords, i, word, axes, 1) for i, word in ((3, "stride"), (5, "dilation")))
    groups = args[6] if len(args) > 6 else keywords.get("groups", 1)
    padding = args[4] if len(args) > 4 else keywords.get("padding", 0)
    borders = [(0, 0)] * axes
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        borders = [(total // 2, total - total // 2) for total in totals]
    elif padding != "valid":
        borders = [(int(p), int(p)) for p in _each(args, keywords, 4, "padding", axes, 0)]
    layer = Convolution(weight, shape[1:], stride, tuple(borders), dilation, "constant", groups)
    return replace(step, kind="layer", layer=layer, bias=bias, reason="")


def _batch_norm(step: Step, args: list[Any]) -> Step:
    weight, bias, mean, variance, training, _, eps = args[1:8]
    if training or mean is None or variance is None:
        return replace(step, reason="it normalizes by the statistics of the batch")
    factor = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
    shift = -mean * factor + (0.0 if bias is None else bias)
    column = factor.view(-1, *(1,) * (len(step.shape) - 1))
    return replace(
        step,
        kind="scale",
        slope=float(factor.abs().max()),
        factor=factor,
        bias=shift,
        paths=lambda p, x: column.abs() ** p * x,
        reason="",
    )


def _pad(
    step: Step, args: list[Any], keywords: dict[str, Any], call: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> Step:
    mode = args[2] if len(args) > 2 else keywords.get("mode", "constant")
    value = args[3] if len(args) > 3 else keywords.get("value")
    if mode == "constant" and value not in (None, 0, 0.0):
        return replace(step, reason="it pads by another constant than 0")
    slope = 1.0
    if mode != "constant":  # along space, the same for every channel
        slope = operator_norm(LinearMap(call, (1, *shape[1:]))).upper
    pixels = list(args[1])
    border = tuple((pixels[i], pixels[i + 1]) for i in range(0, len(pixels), 2))[::-1]
    inside = len(border) == len(shape) - 1 and min(map(min, border)) >= 0
    return replace(
        step,
        kind="linear",
        slope=slope,
        activation=mode if inside else "",
        factor=torch.tensor(border) if inside else None,
        paths=lambda p, x: call(x),
        reason="",
    )


def _pool(step: Step, args: list[Any], call: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Step:
    if step.operation == "mean":
        axes = [axis % (len(shape) + 1) for axis in (args[1] if len(args) > 1 and args[1] else range(len(shape) + 1))]
        if 0 in axes:
            return replace(step, reason="it takes the mean over the examples")
        size = math.prod(shape[axis - 1] for axis in axes)
        kind = "pool" if 1 not in axes else "linear"
        return replace(
            step, kind=kind, slope=1 / math.sqrt(size), paths=lambda p, x: call(x) / size ** (p - 1), reason=""
        )
    if len(shape) < 2:
        return replace(step, reason="it takes maps without an axis of channels")
    plane = LinearMap(call, (1, *shape[1:]))
    # all weights of a window are equal: its sum over how many pixels it holds, which a border cuts
    ones = torch.ones(1, 1, *shape[1:], dtype=torch.float64)
    weight = call(ones) / _window_sizes(step, args, shape).clamp(min=1.0)
    return replace(
        step,
        kind="pool",
        slope=operator_norm(plane).upper,
        paths=lambda p, x: call(x) * weight ** (p - 1),
        reason="",
    )


def _window_sizes(step: Step, args: list[Any], shape: tuple[int, ...]) -> Tensor:
    """How many pixels each window of an average holds, the border not counted."""
    space, axes = shape[1:], len(shape) - 1
    if step.operation.startswith("adaptive"):
        size = torch.ones((), dtype=torch.float64)
        for n, m in zip(space, step.shape[1:], strict=True):
            length = torch.tensor([-(-(i + 1) * n // m) - i * n // m for i in range(m)], dtype=torch.float64)
            size = size[..., None] * length
        return size
    sides, stride = _each(args, {}, 1, "", axes, 1), _each(args, {}, 2, "", axes, 0)
    stride = stride if len(args) > 2 and args[2] else sides
    padding, ceil_mode = _each(args, {}, 3, "", axes, 0), len(args) > 4 and bool(args[4])
    flat = (1,) * (2 - axes)  # a signal is an image of one row
    ones = torch.ones(1, 1, *flat, *space, dtype=torch.float64)
    counts = functional.avg_pool2d(
        ones, flat + sides, flat + stride, (0,) * (2 - axes) + padding, ceil_mode, True, divisor_override=1
    )
    return counts.view(step.shape[1:])


def _max_slope(name: str, args: list[Any]) -> float:
    """The square root of the most windows that an entry is in: ``|max a - max b| <= max |a - b|`` in each."""
    if name == "amax":
        return 1.0
    sizes = list(args[1]) if isinstance(args[1], Sequence) else [args[1]]
    axes = 1 if name == "max_pool1d" else 2
    sizes = sizes * axes if len(sizes) == 1 else sizes
    stride = _each(args, {}, 2, "stride", axes, None) if len(args) > 2 and args[2] else tuple(sizes)
    dilation = _each(args, {}, 4, "dilation", axes, 1)
    return math.sqrt(
        math.prod(math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(sizes, stride, dilation, strict=True))
    )


def _scale(step: Step, args: list[Any], keywords: dict[str, Any], shape: tuple[int, ...]) -> Step:
    """A product with a constant, or a quotient by one that is not rounded."""
    other = args[1] if args[0] is None else args[0]
    if other is None or len(args) != 2 or keywords or (step.operation == "div" and args[0] is not None):
        return replace(step, reason="it is no product with a constant")
    constant = torch.as_tensor(other, dtype=torch.float64)
    factor = 1 / constant if step.operation == "div" else constant
    if step.shape != shape:
        return replace(step, reason="it repeats entries")
    if not torch.isfinite(factor).all():
        return replace(step, reason="it divides by 0")
    largest = float(factor.abs().max())
    return replace(
        step, kind="scale", slope=largest, factor=factor, paths=lambda p, x: factor.abs() ** p * x, reason=""
    )


def _matmul(step: Step, args: list[Any], shape: tuple[int, ...]) -> Step:
    """A constant matrix along the last axis, or along the one before."""
    left = args[0] is not None
    matrix = args[0] if left else args[1]
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or len(shape) < (2 if left else 1):
        return replace(step, reason="it is no product with a constant matrix")
    axis = len(shape) - (1 if left else 0)  # counted with that of the examples
    size = matrix.abs()

    def paths(p: int, x: Tensor) -> Tensor:
        return size**p @ x if left else x @ size**p

    kind = "pool" if axis >= 2 else "linear"
    return replace(step, kind=kind, slope=spectral_norm(matrix), paths=paths, reason="")


# --- arguments


def _calling(node: fx.Node, args: list[Any], keywords: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The operation as a function of its one map, its constants filled in."""
    places = [i for i, value in enumerate(node.args) if isinstance(value, fx.Node) and args[i] is None]

    def call(x: Tensor) -> Tensor:
        filled = [x if i in places else value for i, value in enumerate(args)]
        return node.target(*filled, **keywords)  # type: ignore[operator]

    return call


def _each(args: list[Any], keywords: dict[str, Any], index: int, word: str, axes: int, default: Any) -> tuple[int, ...]:
    """An argument with one number for each axis."""
    value = args[index] if len(args) > index else keywords.get(word, default)
    values = list(value) if isinstance(value, Sequence) else [value]
    return tuple(values * axes if len(values) == 1 else values)

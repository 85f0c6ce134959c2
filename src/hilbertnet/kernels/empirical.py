"""The empirical tangent kernel of any torch model, from the gradients of its outputs, in blocks under a memory budget.

``Theta(x, x')_cd = sum_p  d f_c(x) / d theta_p  d f_d(x') / d theta_p``,

over all parameters or those of some layers. For a wide network at random weights in the parametrization of
`hilbertnet.networks.tangent.ntk_network` it tends to the exact tangent kernel ``ConvKernel(arch, kind="ntk")`` times
the identity of outputs.

Reference: A. Jacot, F. Gabriel and C. Hongler, "Neural tangent kernel: convergence and generalization in neural
networks", NeurIPS 2018, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hilbertnet.kernels.jacobian import Jacobian, Sizes
from hilbertnet.kernels.parameters import Layers, choose_parameters
from hilbertnet.progress import Progress, format_bytes, track
from hilbertnet.signals import as_signals, check_same_space
from hilbertnet.text import nearest, parse_bytes
from hilbertnet.training.objective import evaluating

__all__ = ["Trace", "as_examples", "empirical_ntk"]

Trace = bool | Literal["mean", "sum", "class-by-class"]

_WORKING_SET = 2**28  # bytes, by default, beside the result
_AT_ONCE = 64  # examples in one vectorized pass: more are no faster


def empirical_ntk(
    model: nn.Module,
    X: Any,
    Y: Any = None,
    *,
    layers: Layers = None,
    trace: Trace = "mean",
    per_layer: bool = False,
    memory: int | float | str | None = None,
    dtype: torch.dtype = torch.float64,
    progress: Progress = None,
) -> Any:
    """The empirical tangent kernel of a model at its present parameters.

    The model is taken in eval mode (dropout off, running statistics of batch norm), one example at a time, and left as
    it was. A module that ``torch.func.vmap`` cannot handle is differentiated by one backward pass for each example and
    output, which is slower and said once.

    Parameters
    ----------
    model
        From a batch (n, ...) to outputs (n, ...), of which there are C for each example.
    X, Y
        Examples, n and m of them: real signals as for `hilbertnet.kernels.ConvKernel`, but rows (n, features) stay
        rows; whole numbers, such as symbols to embed, are left as they are. Without `Y`, the symmetric matrix of `X`,
        which costs half.
    layers
        Of which layers: names of modules or parameters, or modules, one or several; default all parameters that
        require a gradient.
    trace
        ``"mean"`` (or ``True``): ``sum_c Theta_cc / C``. ``"sum"``: without the division. ``"class-by-class"`` (or
        ``False``): all blocks Theta_cd.
    per_layer
        Return one matrix for each layer, which sum to the whole.
    memory
        Budget for everything but model and examples, in bytes or as ``"2GB"``; default the result and 256 MiB beside
        it, or the gradients of two outputs where they take more.
    dtype
        Of the computation and the result: parameters and buffers are converted.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Returns
    -------
    array, tensor or dict
        Shape (n, m), or (n, m, C, C) class by class; in the kind of `X`, on its device. With `per_layer`, a dictionary
        of them by the layer's name.

    Raises
    ------
    ValueError
        If an argument is not of this form, the model does not take the examples, the budget is too small for two
        gradients, or a gradient is not finite.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(5, 100), nn.ReLU(), nn.Linear(100, 3))
    >>> x = np.random.RandomState(0).randn(4, 5)
    >>> empirical_ntk(model, x).shape, empirical_ntk(model, x, trace="class-by-class").shape
    ((4, 4), (4, 4, 3, 3))
    >>> list(empirical_ntk(model, x, per_layer=True))
    ['0', '2']
    """
    _check(dtype, trace)
    groups = choose_parameters(model, layers)
    if not per_layer:
        groups = {"": [name for names in groups.values() for name in names]}
    x, y = as_examples(X, "X", dtype), None if Y is None else as_examples(Y, "Y", dtype)
    if y is not None:
        check_same_space(y, x, "Y")
    with evaluating(model), torch.no_grad():
        results = _kernels(Jacobian(model, groups, dtype), x, y, trace, memory, progress)
    for name, result in results.items():
        _check_finite(result, name)
    found = {name: _like(result, X) for name, result in results.items()}
    return found if per_layer else found[""]


def as_examples(X: Any, name: str, dtype: torch.dtype) -> Tensor:
    """Examples for any model: `as_signals`, but rows stay rows and whole numbers stay whole."""
    whole = (X if isinstance(X, Tensor) else np.asarray(X)).dtype
    x = as_signals(X, name, dtype=dtype).detach()
    x = x.squeeze(-1) if np.ndim(X) == 2 else x
    return x.long() if not _is_float(whole) else x


def _like(result: Tensor, example: Any) -> Any:
    """Torch for torch, on its device, numpy for anything else."""
    return result.to(example.device) if isinstance(example, Tensor) else result.numpy(force=True)


def _is_float(dtype: Any) -> bool:
    return dtype.is_floating_point if isinstance(dtype, torch.dtype) else dtype.kind == "f"


def _check(dtype: torch.dtype, trace: Trace) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    known = ("mean", "sum", "class-by-class")
    if not isinstance(trace, bool) and trace not in known:
        raise ValueError(f"trace: expected one of {', '.join(known)}, got {trace!r}{nearest(str(trace), known)}")


def _check_finite(result: Tensor, layer: str) -> None:
    if not torch.isfinite(result.sum()) and not torch.isfinite(result).all():
        place = torch.nonzero(~torch.isfinite(result))[0].tolist()
        where = f" of layer {layer!r}" if layer else ""
        raise ValueError(f"model: expected finite gradients{where}, got {result[tuple(place)].item()} at {place}")


# --- blocks


class _Step(NamedTuple):
    """One block of the result: examples and outputs of its rows, then of its columns."""

    rows: slice
    row_outputs: slice
    columns: slice
    column_outputs: slice

    @property
    def on_diagonal(self) -> bool:
        return self[:2] == self[2:]


@dataclass(frozen=True)
class _Portions:
    """How many examples of rows and columns, and outputs, have their gradients in memory, and examples in one pass."""

    rows: int
    columns: int
    outputs: int
    at_once: int


def _kernels(
    jacobian: Jacobian,
    x: Tensor,
    y: Tensor | None,
    trace: Trace,
    memory: int | float | str | None,
    progress: Progress,
) -> dict[str, Tensor]:
    x = x.to(jacobian.device)
    symmetric, y = y is None, x if y is None else y.to(jacobian.device)
    sizes, blocks = jacobian.sizes(x), trace in (False, "class-by-class")
    sides = (len(x), sizes.outputs, len(y), sizes.outputs) if blocks else (len(x), len(y))
    matrices = len(jacobian.groups) + blocks  # products of blocks are made before they are put in their places
    fixed = matrices * math.prod(sides) * jacobian.dtype.itemsize
    portions = _portion(len(x), len(y), sizes, fixed, memory, blocks=blocks)
    results = {name: torch.zeros(sides, dtype=jacobian.dtype, device=x.device) for name in jacobian.groups}
    steps = list(_steps(len(x), len(y), sizes.outputs, portions, symmetric=symmetric, blocks=blocks))
    for _ in track(_fill_(results, jacobian, x, y, steps, portions, symmetric), progress, total=len(steps)):
        pass
    if symmetric:
        _symmetrize_(results, steps, blocks)
    if trace in (True, "mean"):
        for result in results.values():
            result /= sizes.outputs
    return {name: result.transpose(1, 2) if blocks else result for name, result in results.items()}


def _portion(n: int, m: int, sizes: Sizes, fixed: int, memory: int | float | str | None, *, blocks: bool) -> _Portions:
    """Share the budget so that gradients are computed few times.

    Those of the rows are computed once, those of the columns once for each portion of the rows. A trace is a sum over
    outputs, so fewer outputs at once leave room for more rows; blocks of classes need all pairs of outputs, and gain
    nothing from it.
    """
    least = fixed + 2 * sizes.row + sizes.working(1)
    budget = max(fixed + _WORKING_SET, least) if memory is None else parse_bytes(memory)
    if budget < least:
        raise ValueError(
            f"memory: expected at least {format_bytes(least)} ({format_bytes(fixed)} for the result, "
            f"{format_bytes(least - fixed)} for the gradients of two outputs), got {format_bytes(budget)}"
        )
    room, outputs = budget - fixed, sizes.outputs
    while outputs > 1:
        tried = _share(n, m, sizes, room, outputs)
        if tried is not None and (blocks or tried.rows == n):
            return tried
        outputs = (outputs + 1) // 2
    share = _share(n, m, sizes, room, 1)
    assert share is not None
    return share


def _share(n: int, m: int, sizes: Sizes, room: int, outputs: int) -> _Portions | None:
    """The portions for so many outputs, or nothing if not even single examples have room."""
    example, working = outputs * sizes.row, sizes.working(outputs)
    if room < 2 * example + working:
        return None
    at_once = min(max(1, min(room // 4, room - 2 * example) // working), _AT_ONCE, max(n, m))
    left = room - at_once * working
    columns = min(m, max(1, left // (8 * example)))
    return _Portions(min(n, (left - columns * example) // example), columns, outputs, at_once)


def _spans(start: int, stop: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def _steps(n: int, m: int, outputs: int, portions: _Portions, *, symmetric: bool, blocks: bool) -> Iterator[_Step]:
    """Blocks in an order that computes the gradients of the rows once; of a symmetric matrix, the upper half."""
    parts = _spans(0, outputs, portions.outputs)
    for first in parts:
        for rows in _spans(0, n, portions.rows):
            for second in parts if blocks else [first]:
                if not symmetric:
                    columns = _spans(0, m, portions.columns)
                else:
                    inside = [rows] if first == second else _spans(rows.start, rows.stop, portions.columns)
                    columns = inside + _spans(rows.stop, n, portions.columns)
                for part in columns:
                    yield _Step(rows, first, part, second)


def _fill_(
    results: Mapping[str, Tensor],
    jacobian: Jacobian,
    x: Tensor,
    y: Tensor,
    steps: list[_Step],
    portions: _Portions,
    symmetric: bool,
) -> Iterator[None]:
    """Fill the matrices, yielding after every block."""
    kept = jacobian.buffer(portions.rows, portions.outputs)
    passing = jacobian.buffer(portions.columns, portions.outputs)
    left: dict[str, Tensor] = {}
    at = None
    for step in steps:
        if at != step[:2]:
            at = step[:2]
            left = jacobian.rows(x[step.rows], step.row_outputs, kept, portions.at_once)
        right = left
        if not (symmetric and step.on_diagonal):
            right = jacobian.rows(y[step.columns], step.column_outputs, passing, portions.at_once)
        for name, result in results.items():
            _add_(result, left[name], right[name], step, mirror=symmetric and step.columns.start >= step.rows.stop)
        yield


def _add_(result: Tensor, left: Tensor, right: Tensor, step: _Step, *, mirror: bool) -> None:
    """Add the inner products of gradients to their block, and to that across the diagonal."""
    if result.ndim == 2:
        block = result[step.rows, step.columns]
        block.addmm_(left.flatten(1), right.flatten(1).T)
        if mirror:
            result[step.columns, step.rows] = block.T
        return
    product = (left.flatten(0, 1) @ right.flatten(0, 1).T).view(*left.shape[:2], *right.shape[:2])
    result[step.rows, step.row_outputs, step.columns, step.column_outputs] = product
    if mirror:
        result[step.columns, step.column_outputs, step.rows, step.row_outputs] = product.permute(2, 3, 0, 1)


def _symmetrize_(results: Mapping[str, Tensor], steps: list[_Step], blocks: bool) -> None:
    """Make the blocks on the diagonal symmetric to the last bit."""
    for rows in dict.fromkeys((step.rows.start, step.rows.stop) for step in steps):
        span = slice(*rows)
        for result in results.values():
            block = result[span, :, span] if blocks else result[span, span]
            block.copy_((block + (block.permute(2, 3, 0, 1) if blocks else block.T)) / 2)

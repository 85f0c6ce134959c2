"""Norms of a network from above: Lipschitz constants, RKHS norms and the capacities of the literature, by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilbertnet.architecture import InversePolynomial
from hilbertnet.architecture.dot_product import DotProductKernel
from hilbertnet.complexity.activations import Activation, as_activation
from hilbertnet.complexity.graph import trace
from hilbertnet.complexity.operations import Step
from hilbertnet.complexity.operator_norms import OperatorNorm
from hilbertnet.complexity.rkhs_recursion import RkhsNorms, rkhs_norms
from hilbertnet.text import columns

__all__ = ["Bound", "LayerNorms", "NormBounds", "norm_bounds"]

_BRANCHES = "stated for chains of layers, and here branches meet"


@dataclass(frozen=True)
class Bound:
    """A number under its name; infinite with a reason where there is none.

    Parameters
    ----------
    name
        What it is.
    value
        The number.
    reason
        Why it is infinite, with the place in the model; else empty.
    """

    name: str
    value: float
    reason: str = ""

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class LayerNorms:
    """One step of the network.

    Parameters
    ----------
    place, operation
        Where it is in the model, and what it does.
    shape
        Of its output.
    operator
        Norm of the linear map of a layer, on its grid; none for other steps.
    slope
        Lipschitz constant of the step: for a layer, the upper bound of its operator norm.
    reshaped, frobenius
        Of the weight as a matrix (out, in * patch).
    rows
        ``||A'||_{2,1}``: the sum of the Euclidean norms of the rows of the matrix A of the map.
    lipschitz
        Bound of the Lipschitz constant from the input to here.
    reason
        Why it is not bounded.
    """

    place: str
    operation: str
    shape: tuple[int, ...]
    operator: OperatorNorm | None
    slope: float
    reshaped: float
    frobenius: float
    rows: float
    lipschitz: float
    reason: str


@dataclass(frozen=True)
class NormBounds:
    """Norms of a network from above. What is not bounded is infinite, with the reason and the place.

    Parameters
    ----------
    lipschitz
        Lipschitz constant of the output in the Euclidean norms: the product of operator norms and slopes, where
        branches meet their sum.
    lipschitz_outputs
        The same for every output alone, shape (outputs,).
    lipschitz_differences
        The same for the difference of every pair of outputs, shape (outputs, outputs).
    lipschitz_sup
        Largest change of an output for a change of at most 1 in every pixel: the path norm with p = 1 of one output.
    rkhs
        The recursion of `hilbertnet.complexity.rkhs_recursion`, for the activations of the model.
    rkhs_surrogate
        The same with `surrogate` in the place of ReLU; none where the model has no ReLU.
    reshaped, frobenius
        Products of the layers' reshaped spectral norms, and of their Frobenius norms, with slopes and sums as for
        `lipschitz`. Capacities, no Lipschitz constants.
    spectral_complexity
        Bartlett et al. 2017, with the full matrices A_i: ``lipschitz (sum_i (||A_i'||_{2,1} / ||A_i||)^(2/3))^(3/2)``.
    spectral_frobenius
        Neyshabur et al. 2018: ``lipschitz sqrt(sum_i ||A_i||_F^2 / ||A_i||^2)``.
    path_one, path_two
        Neyshabur et al. 2015: sum over the paths from inputs to outputs of the products of absolute weights, and the
        square root of the sum of the squared products; maximum pooling kept.
    kernel, surrogate
        Names, for tables.
    rows
        One for each step.
    """

    lipschitz: Bound
    lipschitz_outputs: Tensor
    lipschitz_differences: Tensor
    lipschitz_sup: Bound
    rkhs: RkhsNorms
    rkhs_surrogate: RkhsNorms | None
    reshaped: Bound
    frobenius: Bound
    spectral_complexity: Bound
    spectral_frobenius: Bound
    path_one: Bound
    path_two: Bound
    kernel: str
    surrogate: str
    rows: tuple[LayerNorms, ...]

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Every number, under its name."""
        found = [self.lipschitz, self.lipschitz_sup, *_rkhs_bounds(self.rkhs, f"RKHS norm on {self.kernel}")]
        if self.rkhs_surrogate is not None:
            name = f"RKHS norm on {self.kernel}, {self.surrogate} for relu"
            found += _rkhs_bounds(self.rkhs_surrogate, name)
        found += [self.reshaped, self.frobenius, self.spectral_complexity, self.spectral_frobenius]
        return (*found, self.path_one, self.path_two)

    @property
    def unbounded(self) -> tuple[str, ...]:
        """The steps that no Lipschitz constant is known of, with their places and reasons."""
        return tuple(f"{row.place or row.operation}: {row.reason}" for row in self.rows if row.reason)

    def __str__(self) -> str:
        head = ["step", "output", "operator norm", "at most", "reshaped", "Frobenius", "(2,1)", "Lipschitz to here"]
        table = [head]
        for row in self.rows:
            if row.operator is None and row.slope == 1.0 and not row.reason:
                continue
            layer = [f"{value:.4g}" for value in (row.reshaped, row.frobenius, row.rows)] if row.operator else [""] * 3
            value = "" if row.operator is None else f"{row.operator.value:.6g}"
            label = f"{row.place} ({row.operation})" if row.place else row.operation
            table.append([label, _shape(row.shape), value, f"{row.slope:.6g}", *layer, f"{row.lipschitz:.4g}"])
        totals = columns([["bound", "value"], *([bound.name, f"{bound.value:.6g}"] for bound in self.bounds)])
        reasons = {f"{bound.name.split(' (')[0]}: {bound.reason}": None for bound in self.bounds if bound.reason}
        notes = [f"RKHS norm: {note}" for note in self.rkhs.notes]
        recursions = [str(norms) for norms in (self.rkhs, self.rkhs_surrogate) if norms is not None and norms.layers]
        parts = (columns(table), totals, "\n".join([*reasons, *notes]), *recursions)
        return "\n\n".join(part for part in parts if part)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _rkhs_bounds(norms: RkhsNorms, name: str) -> list[Bound]:
    values = {"Gram": norms.gram, "spectral": norms.spectral, "filters": norms.filters}
    return [
        Bound(f"{name} ({form})", value, norms.reason or ("" if math.isfinite(value) else "above the largest number"))
        for form, value in values.items()
    ]


def norm_bounds(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    kernel: DotProductKernel | Sequence[DotProductKernel] | None = None,
    surrogate: str | Activation = "smooth_relu",
    tolerance: float = 0.05,
    generator: int | torch.Generator = 0,
) -> NormBounds:
    """Norms of a network from above, layer by layer.

    Bounded are convolutions (1-D and 2-D; any stride, padding, dilation, groups), linear layers, average and maximum
    pooling, batch normalization in evaluation mode, dropout, activations, reshaping, sums of branches, concatenation,
    and products with constants. Anything else is named with its place in the model, and makes the bounds that need it
    infinite.

    The RKHS norm is that of the homogeneous network with these weights (see `hilbertnet.complexity.rkhs_recursion`), in
    the RKHS of the convolutional kernel of the same patches and pooling. With ReLU the model is that network itself,
    but ReLU is in the RKHS of no analytic kernel: infinity is the answer, and the number for a surrogate (a smooth one,
    or a polynomial of your own) stands beside it, under its name.

    Parameters
    ----------
    model
        In evaluation mode, in single or double precision, from (n, channels, *space) to (n, outputs).
    input_shape
        (channels, *space) of one input.
    kernel
        The dot-product kernel of the layers, or one for each layer but the last; default ``1 / (2 - u)``.
    surrogate
        The activation that stands in for ReLU.
    tolerance
        Wanted relative distance of the upper bounds of operator norms from their values.
    generator
        Seed of the starts of the iterations, or a generator.

    Returns
    -------
    NormBounds
        All bounds, and a row for each step.

    Raises
    ------
    ValueError
        If the model is in training mode, complex or in half precision, does not take such inputs or cannot be traced,
        or an argument is not of this form.

    References
    ----------
    A. Bietti and J. Mairal, JMLR 2019; P. Bartlett, D. Foster and M. Telgarsky, "Spectrally-normalized margin bounds
    for neural networks", NeurIPS 2017; B. Neyshabur, R. Tomioka and N. Srebro, "Norm-based capacity control in neural
    networks", COLT 2015; B. Neyshabur, S. Bhojanapalli and N. Srebro, "A PAC-Bayesian approach to spectrally-normalized
    margin bounds for neural networks", ICLR 2018.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv1d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1, bias=False)).eval()
    >>> for weight in net.parameters():
    ...     _ = nn.init.constant_(weight, 0.5)
    >>> bounds = norm_bounds(net, (1, 6))
    >>> bounds.rkhs.gram, bounds.rkhs.reason
    (inf, '0 (conv1d): relu is not in the RKHS of inverse at radius 1.5 (relu has no Taylor series at 0)')
    >>> round(bounds.lipschitz.value, 3), round(bounds.lipschitz_sup.value, 3)
    (2.676, 6.0)
    """
    kernels = InversePolynomial() if kernel is None else kernel
    for one in [kernels] if isinstance(kernels, DotProductKernel) else list(kernels):
        if not isinstance(one, DotProductKernel):
            raise ValueError(
                f"kernel: expected a dot-product kernel, or one for each layer but the last, got {kernel!r}"
            )
    smooth = as_activation(surrogate)
    steps = trace(model, input_shape)
    if len(steps[-1].shape) != 1:
        raise ValueError(f"model: expected outputs of shape (n, outputs), got {(1, *steps[-1].shape)}")
    norms = [step.layer.norm(tolerance=tolerance, generator=generator) if step.layer else None for step in steps]
    with torch.no_grad():
        return _collect(steps, _rows(steps, norms), kernels, smooth)


# --- along the graph


def _follow(steps: list[Step], layer_norms: list[float], reasons: list[str]) -> list[tuple[float, str]]:
    """Products along the steps, sums where branches meet; with the first reason why one is infinite."""
    found: list[tuple[float, str]] = []
    for i, step in enumerate(steps):
        values = [found[j][0] for j in step.inputs]
        reason = next((found[j][1] for j in step.inputs if found[j][1]), reasons[i])
        if step.kind == "input":
            value = 1.0
        elif reason:
            value = math.inf
        elif step.kind == "add":
            value = sum(values)  # 1 + ... for a residual block
        elif step.kind == "cat":
            value = math.hypot(*values)
        else:
            value = values[0] * layer_norms[i] if layer_norms[i] else 0.0  # 0 times infinity: a constant
        found.append((value, reason))
    return found


def _reasons(steps: list[Step]) -> list[str]:
    return [f"{step.label}: {step.reason}" if step.reason else "" for step in steps]


def _rows(steps: list[Step], norms: list[OperatorNorm | None]) -> tuple[LayerNorms, ...]:
    slopes = [norm.upper if norm else step.slope for step, norm in zip(steps, norms, strict=True)]
    reached = _follow(steps, slopes, _reasons(steps))
    rows = []
    for step, norm, slope, (lipschitz, _) in zip(steps, norms, slopes, reached, strict=True):
        layer = step.layer
        rows.append(
            LayerNorms(
                step.place,
                step.operation,
                step.shape,
                norm,
                math.inf if step.reason else slope,
                layer.reshaped if layer else math.nan,
                layer.frobenius if layer else math.nan,
                float(layer.rows.sum()) if layer else math.nan,
                lipschitz,
                step.reason,
            )
        )
    return tuple(rows)


def _product(steps: list[Step], name: str, values: list[float]) -> Bound:
    value, reason = _follow(steps, values, _reasons(steps))[-1]
    return Bound(name, value, reason)


def _is_chain(steps: list[Step]) -> bool:
    return all(step.inputs == ((i - 1,) if i else ()) for i, step in enumerate(steps))


def _collect(
    steps: list[Step],
    rows: tuple[LayerNorms, ...],
    kernel: DotProductKernel | Sequence[DotProductKernel],
    surrogate: Activation,
) -> NormBounds:
    lipschitz = _product(steps, "Lipschitz constant", [row.slope for row in rows])
    outputs, differences = _outputs(steps, rows)
    layers = [(row, step.layer) for row, step in zip(rows, steps, strict=True) if step.layer is not None]
    sizes = [row.slope for row, _ in layers]
    shares = [row.rows / size if size else 0.0 for (row, _), size in zip(layers, sizes, strict=True)]
    squares = [
        float(layer.rows.square().sum()) / size**2 if size else 0.0
        for (_, layer), size in zip(layers, sizes, strict=True)
    ]
    bartlett = sum(share ** (2 / 3) for share in shares) ** 1.5
    paths_one, paths_two = _paths(steps, 1), _paths(steps, 2)
    reason = lipschitz.reason
    relu = any(step.activation == "relu" for step in steps)
    return NormBounds(
        lipschitz=lipschitz,
        lipschitz_outputs=outputs,
        lipschitz_differences=differences,
        lipschitz_sup=Bound("Lipschitz constant of an output, largest pixel", float(paths_one.max()), reason),
        rkhs=rkhs_norms(steps, kernel),
        rkhs_surrogate=rkhs_norms(steps, kernel, surrogate) if relu else None,
        reshaped=_product(steps, "product of reshaped norms", _values(rows, "reshaped")),
        frobenius=_product(steps, "product of Frobenius norms", _values(rows, "frobenius")),
        spectral_complexity=_for_chains(steps, "spectral complexity (2,1)", lipschitz, bartlett),
        spectral_frobenius=_for_chains(steps, "spectral Frobenius", lipschitz, math.sqrt(sum(squares))),
        path_one=Bound("path norm, p = 1", float(paths_one.sum()), reason),
        path_two=Bound("path norm, p = 2", float(paths_two.sum().sqrt()), reason),
        kernel=str(kernel) if isinstance(kernel, DotProductKernel) else " | ".join(map(str, kernel)),
        surrogate=surrogate.name,
        rows=rows,
    )


def _values(rows: tuple[LayerNorms, ...], name: str) -> list[float]:
    return [getattr(row, name) if row.operator else row.slope for row in rows]


def _for_chains(steps: list[Step], name: str, lipschitz: Bound, factor: float) -> Bound:
    if not lipschitz.reason and not _is_chain(steps):
        where = next(step for step in steps if len(step.inputs) > 1)
        return Bound(name, math.inf, f"{where.label}: {_BRANCHES}")
    if lipschitz.reason:
        return Bound(name, math.inf, lipschitz.reason)
    return Bound(name, lipschitz.value * factor if factor else 0.0)


def _outputs(steps: list[Step], rows: tuple[LayerNorms, ...]) -> tuple[Tensor, Tensor]:
    """Lipschitz constants of every output and of every difference of two, from the rows of the last linear layer."""
    last, total, size = steps[-1], rows[-1].lipschitz, steps[-1].shape[0]
    if last.kind != "layer" or not last.operation.startswith("linear") or not math.isfinite(total):
        each = torch.full((size,), total, dtype=torch.float64)
        pairs = torch.full((size, size), math.sqrt(2.0) * total, dtype=torch.float64)
        return each, pairs.fill_diagonal_(0.0)
    assert last.layer is not None
    weight, before = last.layer.weight.flatten(1), rows[last.inputs[0]].lipschitz
    pairs = torch.linalg.vector_norm(weight[:, None] - weight[None], dim=2)
    return before * weight.norm(dim=1), before * pairs


def _paths(steps: list[Step], p: int) -> Tensor:
    """For each output, the sum over paths of the products of the weights' absolute values to the power p."""
    values: list[Tensor] = []
    if any(step.reason for step in steps):
        return torch.full(steps[-1].shape, math.inf, dtype=torch.float64)
    for step in steps:
        before = [values[i] for i in step.inputs]
        if step.kind == "input":
            value = torch.ones(1, *step.shape, dtype=torch.float64)
        elif step.layer is not None:
            value = step.layer.with_weight(step.layer.weight.abs() ** p)(before[0].reshape(1, *step.layer.shape))
            value = value.reshape(1, *step.shape)
        else:
            assert step.paths is not None
            value = step.paths(p, *before)
        values.append(value)
    return values[-1][0]

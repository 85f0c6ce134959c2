"""Functions as bounds and attacks take them: one number for each signal, from a model that is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.losses import read_labels
from hilbertnet.protocols import Representation
from hilbertnet.signals import as_signals, check_same_space, is_count
from hilbertnet.training.objective import evaluating

__all__ = [
    "BATCH",
    "ROUNDING",
    "KernelMachine",
    "Model",
    "Output",
    "batched",
    "gradients_of",
    "measured",
    "outputs",
    "read_labels",
    "read_signals",
    "scalar",
    "untouched",
    "values_of",
]

Model = Callable[[Tensor], Tensor]
Output = int | tuple[int, int] | None

BATCH = 128
"""Signals at a time."""

ROUNDING = 16.0
"""Rounding errors of a model's values, in units of the precision: a network's last layers add up so many."""


@contextmanager
def untouched(model: Model) -> Iterator[None]:
    """Eval mode and frozen parameters inside; modes, parameters and buffers are as before afterwards.

    Functions that are no modules are taken as they are.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with evaluating(model):
        try:
            for parameter in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in wanted:
                parameter.requires_grad_()
            for module, name, buffer, copy in buffers:
                if not torch.equal(buffer, copy):
                    with torch.no_grad():
                        buffer.copy_(copy)
                module._buffers[name] = buffer


def outputs(model: Model, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
    """Values of a model, one row for each signal; a single value may come without its axis.

    Raises
    ------
    ValueError
        If they are not of this form, or not finite.
    """
    found = model(x)
    if isinstance(found, Tensor) and found.ndim == 1:
        found = found[:, None]
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x) or not found.is_floating_point():
        got = f"shape {tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"model: expected a real tensor of shape ({len(x)},) or ({len(x)}, outputs), got {got}")
    bad = ~torch.isfinite(found.detach()).all(1)
    if bad.any():
        raise ValueError(f"model: expected finite values, got others at example {int(bad.nonzero()[0])}")
    return found


def scalar(model: Model, output: Output = None) -> Model:
    """One function of a model, from signals (n, ...) to values (n,).

    Parameters
    ----------
    model
        From signals to values (n,) or (n, outputs).
    output
        Which output; or two, whose difference is meant; ``None`` for a model of one output.

    Raises
    ------
    ValueError
        If `output` is of no such form; when called, if the model has no such output.
    """
    _check_output(output)

    def function(x: Tensor) -> Tensor:
        parts = _picked(outputs(model, x), output)
        return parts[:, 0] - parts[:, 1] if isinstance(output, tuple) and len(output) == 2 else parts[:, 0]

    return function


def _check_output(output: Output) -> tuple[int, ...]:
    chosen = (0,) if output is None else output if isinstance(output, tuple) else (output,)
    whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in chosen)
    if len(chosen) not in (1, 2) or not whole:
        raise ValueError(f"output: expected the number of an output, two for their difference, or None, got {output!r}")
    return chosen


def _picked(values: Tensor, output: Output) -> Tensor:
    """The one or two outputs that a function is made of, in columns."""
    chosen, count = _check_output(output), values.shape[1]
    if output is None and count != 1:
        raise ValueError(f"output: expected the number of one of the model's {count} outputs, or two, got None")
    if max(chosen) >= count:
        raise ValueError(f"output: expected numbers below {count}, the model's outputs, got {output!r}")
    return values[:, list(chosen)]


def read_signals(x: Any) -> Float[Tensor, "n ..."]:
    """Data without its gradient: images, signals, or rows, which stay rows.

    Raises
    ------
    ValueError
        See `hilbertnet.signals.as_signals`.
    """
    signals = as_signals(x, "x").detach()
    return signals.squeeze(-1) if np.ndim(x) == 2 else signals


class KernelMachine(nn.Module):
    """``f_k(x) = sum_i coefficients_ik K(x_i, x) + intercept_k``, which can be differentiated in x.

    The kernel is known through its norms and distances, ``K(x, y) = (||Phi(x)||^2 + ||Phi(y)||^2 - ||Phi(x) -
    Phi(y)||^2) / 2``, so any `hilbertnet.protocols.Representation` will do. Its RKHS norms are those of the functions
    less their intercepts.

    Parameters
    ----------
    representation
        Of the kernel.
    points
        The x_i, shape (m, channels, *space).
    coefficients
        Shape (m,) or (m, outputs).
    intercept
        Shape (outputs,), or one number.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """

    def __init__(
        self,
        representation: Representation,
        points: Any,
        coefficients: Float[Tensor, "m outputs"],
        intercept: Float[Tensor, " outputs"] | float = 0.0,
    ) -> None:
        super().__init__()
        signals = as_signals(points, "points")
        weights = torch.as_tensor(coefficients, dtype=torch.float64).detach()
        weights = weights[:, None] if weights.ndim == 1 else weights
        if weights.ndim != 2 or len(weights) != len(signals):
            raise ValueError(
                f"coefficients: expected {len(signals)} rows, one for each point, got shape {tuple(weights.shape)}"
            )
        constant = torch.as_tensor(intercept, dtype=torch.float64).detach()
        if constant.shape not in ((), (1,), (weights.shape[1],)):
            raise ValueError(f"intercept: expected {weights.shape[1]} numbers, got shape {tuple(constant.shape)}")
        self.representation = representation
        self.register_buffer("points", signals)
        self.register_buffer("coefficients", weights)
        self.register_buffer("intercept", constant)
        with torch.no_grad():
            self.register_buffer("squares", representation.norm(signals).square())

    points: Tensor
    coefficients: Tensor
    intercept: Tensor
    squares: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.cross(x) @ self.coefficients + self.intercept

    def cross(self, x: Tensor) -> Float[Tensor, "n m"]:
        """``K(x, x_i)``, float64."""
        x = as_signals(x, "x")
        check_same_space(x, self.points, "x")
        n, m = len(x), len(self.points)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            left = self.points.repeat(n, *(1,) * (x.ndim - 1)).to(x.dtype)
            # both sides take the same path, the one that can be differentiated, and are split alike
            left.requires_grad_(torch.is_grad_enabled())
            apart = self.representation.distance(left, x.repeat_interleave(m, 0)).reshape(n, m)
            return (self.representation.norm(x).square()[:, None] + self.squares - apart.square()) / 2

    def products(self) -> Float[Tensor, "outputs outputs"]:
        """``<f_j, f_k>`` in the RKHS, ``coefficients' K coefficients``; its diagonal are the squared norms."""
        with torch.no_grad():
            found = self.coefficients.T @ self.cross(self.points) @ self.coefficients
        return (found + found.T) / 2


def batched(model: Model, x: Float[Tensor, "n ..."], batch_size: int) -> Float[Tensor, "n outputs"]:
    """Values of a model that is left as it was, without gradients, some signals at a time."""
    with torch.no_grad(), untouched(model):
        return torch.cat([outputs(model, part) for part in x.split(batch_size)])


def values_of(f: Model, x: Float[Tensor, "n ..."], output: Output, batch_size: int) -> Float[Tensor, " n"]:
    """Values of one function of a model that is left as it was (`scalar`), in their own precision."""
    _check_batch(batch_size)
    with untouched(f):
        return batched(scalar(f, output), x, batch_size)[:, 0]


def measured(f: Model, x: Float[Tensor, "n ..."], output: Output, batch_size: int) -> tuple[Tensor, Tensor]:
    """Values as `values_of` gives them, and what rounding may have done to each, both in float64, shape (n,)."""
    _check_batch(batch_size)
    parts = _picked(batched(f, x, batch_size), output)
    values = parts[:, 0] - parts[:, 1] if parts.shape[1] == 2 else parts[:, 0]
    return values.double(), ROUNDING * torch.finfo(parts.dtype).eps * parts.double().abs().sum(1)


def gradients_of(f: Model, x: Float[Tensor, "n ..."], output: Output, batch_size: int) -> Float[Tensor, "n ..."]:
    """Gradients of one function of a model in its signals; the model is left as it was.

    Raises
    ------
    ValueError
        If there are none, or they are not finite.
    """
    _check_batch(batch_size)
    function, found = scalar(f, output), []
    with untouched(f), torch.enable_grad():
        for part in x.split(batch_size):
            variable, gradient = part.detach().clone().requires_grad_(), None
            values = function(variable)
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), variable, allow_unused=True)
            if gradient is None:
                raise ValueError("f: expected values that depend differentiably on the signals, they do not")
            if not torch.isfinite(gradient).all():
                raise ValueError("f: expected finite gradients, got others")
            found.append(gradient)
    return torch.cat(found)


def _check_batch(batch_size: int) -> None:
    if not is_count(batch_size):
        raise ValueError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}")

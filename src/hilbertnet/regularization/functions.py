"""Models as penalties take them: functions of one example at a time, left in the mode they were in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.nn.utils import parametrizations, parametrize

from hilbertnet.regularization.chance import Drawing
from hilbertnet.robustness.threats import Ball
from hilbertnet.signals import is_count
from hilbertnet.training.objective import evaluating, logits_of

__all__ = [
    "BatchPenalty",
    "Surface",
    "as_function",
    "check_radius",
    "check_signals",
    "draw_examples",
    "followable",
    "logits_of",
    "no_gradient",
    "read_counts",
    "reusable",
    "with_graph",
]

_TWO_MODES = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RReLU,
    nn.RNNBase,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    parametrizations._SpectralNorm,  # iterates whenever its weight is read: twice where a module has two places
)

_SPREAD = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@contextmanager
def as_function(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, in which each output depends on its own example and on no chance.

    Gradients flow to its parameters. Afterwards every module is in the mode it was in. What is compiled, the model or a
    part of it, runs without its compilation: second derivatives and batches of other sizes are not what it was compiled
    for. A model that is spread over devices comes as the module inside: its gradients are gathered in the one backward
    pass of the training loop.
    """
    plain: Any = model
    while isinstance(plain, _SPREAD) or hasattr(plain, "_orig_mod"):
        plain = plain.module if isinstance(plain, _SPREAD) else plain._orig_mod
    eager = torch.compiler.set_stance("force_eager") if _has_compiled_part(plain) else nullcontext()
    with eager, evaluating(plain):
        yield plain


def _has_compiled_part(model: nn.Module) -> bool:
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules())


def with_graph(f: nn.Module, x: Float[Tensor, "n ..."]) -> tuple[Tensor, Float[Tensor, "n outputs"]]:
    """Signals that require a gradient, and the logits there, even where gradients are switched off outside.

    Raises
    ------
    ValueError
        If the logits do not depend differentiably on the signals.
    """
    with torch.enable_grad():
        variable = x.detach().clone().requires_grad_()
        values = logits_of(f, variable)
    if not values.requires_grad:
        raise no_gradient()
    return variable, values


class Surface:
    """The logits of a batch as functions of its signals: those of the training step, or computed anew.

    Parameters
    ----------
    f
        What `as_function` gives.
    x
        Signals (n, ...).
    step
        Logits of the training step, computed from `x`, which requires a gradient: the way back from them is gone too,
        and left for the step, which spares a forward pass. ``None``: they are computed.

    Raises
    ------
    ValueError
        If logits that are computed do not depend differentiably on the signals.
    """

    def __init__(self, f: nn.Module, x: Float[Tensor, "n ..."], step: Tensor | None = None) -> None:
        self.borrowed = step is not None
        self.variable, self.values = with_graph(f, x) if step is None else (x, step)

    def gradient(self, weights: Float[Tensor, "n outputs"], *, last: bool = False) -> Float[Tensor, "n ..."]:
        """Of a weighted sum of each example's logits, in its signal; after the `last` one none can be asked for."""
        keep = self.borrowed or not last
        return torch.autograd.grad(self.values, self.variable, weights, retain_graph=keep)[0]


def no_gradient() -> ValueError:
    """The error for logits that are constants in the signals."""
    if torch.is_inference_mode_enabled():
        return ValueError(
            "model: expected gradients in the signals, which torch.inference_mode() rules out; use torch.no_grad()"
        )
    return ValueError("model: expected logits that depend differentiably on the signals, they do not")


def reusable(model: nn.Module, logits: Tensor | None) -> Tensor | None:
    """`logits` of a training step if they are those of the function that `as_function` gives, else ``None``.

    They are where no module in training mode behaves in another way than in eval mode: no dropout, no normalization by
    the batch, and nothing of which that is not known: modules of the user's own, scripted ones, hooks.
    """
    if logits is None or any(module.training and not _same_in_both_modes(module) for module in model.modules()):
        return None
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return logits[:, None] if logits.ndim == 1 else logits


def followable(model: nn.Module) -> bool:
    """Whether a penalty may go back through a training step's forward pass, and leave it for the step.

    Only where all of the model is known: what is compiled, spread over devices or recomputed on the way back
    (activation checkpoints) may be gone through once only, and modules of the user's own may be any of these.
    """
    spread = any(isinstance(module, _SPREAD) for module in model.modules())
    return not spread and not _has_compiled_part(model) and all(map(_same_in_both_modes, model.modules()))


def _same_in_both_modes(module: nn.Module) -> bool:
    kind: type = type(module)
    if kind.__module__ == parametrize.__name__:  # made by torch, of what is parametrized
        kind = kind.__mro__[1]
    known = kind.__module__.startswith(("torch.nn.", "hilbertnet.")) and "forward" not in vars(module)
    around = hasattr(module, "_orig_mod")  # something compiled, which is asked itself
    return (around or (known and not isinstance(module, _TWO_MODES))) and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    of_all = every_module._global_forward_hooks or every_module._global_forward_pre_hooks
    return bool(module._forward_hooks or module._forward_pre_hooks or of_all)


# --- batches


def check_signals(x: object, name: str = "x") -> None:
    """Refuse what is no batch of signals (n, ...) in floating point with at least one of them.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.numel() or not x.is_floating_point():
        got = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected a tensor of signals (n, ...), n >= 1, in floating point, got {got}")


def draw_examples(n: int, count: int | None, generator: torch.Generator) -> Int[Tensor, " m"] | None:
    """Numbers of `count` of `n` examples, without repetition; ``None`` where all are wanted."""
    return None if count is None or count >= n else torch.randperm(n, generator=generator)[:count]


def read_count(name: str, value: object) -> int:
    """A whole number of at least 1; a text form gives 8 as 8.0.

    Raises
    ------
    ValueError
        If it is none.
    """
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not is_count(whole):
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
    assert isinstance(whole, int)
    return whole


def read_counts(term: object, *names: str) -> None:
    """Make whole numbers of at least 1 of fields of a frozen term, or ``None`` where that is the default.

    Raises
    ------
    ValueError
        If one is none; see `read_count`.
    """
    optional = {field.name for field in fields(term) if field.default is None}  # type: ignore[arg-type]
    for name in names:
        value = getattr(term, name)
        if value is not None or name not in optional:
            object.__setattr__(term, name, read_count(name, value))


def check_radius(radius: float, x_train: Float[Tensor, "n ..."], norm: Literal["2", "inf"] = "2") -> None:
    """Warn of a ball that holds all signals in [0, 1], where the training signals are.

    Warns
    -----
    RadiusWarning
        If the radius is so large, most likely in other units than the signals.
    """
    if bool(((x_train >= 0) & (x_train <= 1)).all()):
        Ball(norm, radius, (0.0, 1.0)).check(x_train)


class BatchPenalty(Drawing):
    """A penalty of the batch alone: but for its random numbers, nothing is kept from one batch to the next.

    Parameters
    ----------
    function
        ``(model, x, y, logits, generator) -> scalar``; with `follows` also the logits once more, or ``None``, as
        `Surface` takes them.
    generator
        Seed or ``torch.Generator`` (on the CPU) that the penalty's own is told by.
    follows
        Whether the way back from the logits of the step to its signals is of use.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        generator: int | torch.Generator | None,
        *,
        follows: bool = False,
    ) -> None:
        super().__init__(generator)
        self.function, self._follows = function, follows

    def follows(self, model: nn.Module) -> bool:
        """Whether it goes back the way of the step, if `x` requires a gradient and ``back=True`` is given."""
        return self._follows and followable(model)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None = None, *, back: bool = False
    ) -> Tensor:
        """The penalty at a batch.

        Parameters
        ----------
        model, x, y
            The batch, and a function of it.
        logits
            Of the training step, those of the model at `x`; with `back` as `logits_of` gives them.
        back
            Whether they lead back to `x`, which requires a gradient, and that way may be gone; see `follows`.
        """
        step = (logits,) if back and self._follows else ()
        return self.function(model, x, y, logits, self.rng, *step)

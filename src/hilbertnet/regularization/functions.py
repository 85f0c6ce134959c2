"""Models as penalties take them: functions of one example at a time, left in the mode they were in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hilbertnet.regularization.chance import Drawing
from hilbertnet.signals import is_count
from hilbertnet.training.objective import evaluating

__all__ = ["BatchPenalty", "as_function", "check_signals", "draw_examples", "logits_of", "read_count", "reusable"]

_TWO_MODES = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RReLU,
    nn.RNNBase,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)

_SPREAD = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@contextmanager
def as_function(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, in which each output depends on its own example and on no chance.

    Gradients flow to its parameters. Afterwards every module is in the mode it was in. A compiled model comes without
    its compilation: second derivatives and batches of other sizes are not what it was compiled for. One that is spread
    over devices comes as the module inside: its gradients are gathered in the one backward pass of the training loop.
    """
    plain: Any = model
    while isinstance(plain, _SPREAD) or hasattr(plain, "_orig_mod"):
        plain = plain.module if isinstance(plain, _SPREAD) else plain._orig_mod
    with evaluating(plain):
        yield plain


def logits_of(model: nn.Module, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
    """Logits in at least float32, one row for each signal; one output may come without its axis.

    Raises
    ------
    ValueError
        If they are not of this form.
    """
    found = model(x)
    if isinstance(found, Tensor) and found.ndim == 1:
        found = found[:, None]
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x) or not found.is_floating_point():
        got = f"shape {tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"model: expected logits of shape ({len(x)},) or ({len(x)}, outputs), got {got}")
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def reusable(model: nn.Module, logits: Tensor | None) -> Tensor | None:
    """`logits` of a training step if they are those of the function that `as_function` gives, else ``None``.

    They are where no module in training mode behaves in another way than in eval mode: no dropout, no normalization by
    the batch, no module of the user's own, of which that is not known.
    """
    if logits is None or any(module.training and not _same_in_both_modes(module) for module in model.modules()):
        return None
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return logits[:, None] if logits.ndim == 1 else logits


def _same_in_both_modes(module: nn.Module) -> bool:
    ours = type(module).__module__.partition(".")[0] in ("torch", "hilbertnet")
    return ours and not isinstance(module, _TWO_MODES)


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


class BatchPenalty(Drawing):
    """A penalty of the batch alone: but for its random numbers, nothing is kept from one batch to the next.

    Parameters
    ----------
    function
        ``(model, x, y, logits, generator) -> scalar``.
    generator
        Seed or ``torch.Generator`` (on the CPU) that the penalty's own is told by.
    """

    def __init__(
        self,
        function: Callable[[nn.Module, Tensor, Tensor, Tensor | None, torch.Generator], Tensor],
        generator: int | torch.Generator | None,
    ) -> None:
        super().__init__(generator)
        self.function = function

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor | None = None) -> Tensor:
        """The penalty at a batch."""
        return self.function(model, x, y, logits, self.rng)

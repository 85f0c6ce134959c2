"""Models as penalties take them: functions of one example at a time, left in the mode they were in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.training.objective import evaluating

__all__ = ["as_function", "logits_of", "reusable"]

_TWO_MODES = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RReLU,
    nn.RNNBase,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


@contextmanager
def as_function(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, in which each output depends on its own example and on no chance.

    Gradients flow to its parameters. Afterwards every module is in the mode it was in. A compiled model comes without its
    compilation: second derivatives and batches of other sizes are not what it was compiled for.
    """
    plain = getattr(model, "_orig_mod", model)
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
    return logits[:, None] if logits.ndim == 1 else logits


def _same_in_both_modes(module: nn.Module) -> bool:
    ours = type(module).__module__.partition(".")[0] in ("torch", "hilbertnet")
    return ours and not isinstance(module, _TWO_MODES)

"""Margins of a classifier, and their distribution in units of a norm.

A margin is ``y f(x)`` for one output and y = -1 or 1, and ``f_y(x) - max_j f_j(x)`` over j other than y for more. It is
positive where the decision is right.

Reference: P. Bartlett, D. Foster and M. Telgarsky, "Spectrally-normalized margin bounds for neural networks", NeurIPS
2017 (distributions of normalized margins).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.complexity.functions import read_labels
from hilbertnet.losses import signs
from hilbertnet.text import columns

__all__ = ["MarginDistribution", "margin_distribution", "margins"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def margins(scores: Float[Tensor, "n outputs"], y: Any) -> Float[Tensor, " n"]:
    """Margins of decision values; they can be differentiated.

    Parameters
    ----------
    scores
        Shape (n, outputs); one output tells two classes apart.
    y
        Numbers of classes, shape (n,).

    Raises
    ------
    ValueError
        If shapes do not fit or a label is out of range.

    Examples
    --------
    >>> margins(torch.tensor([[1.0, 3.0, 2.5], [1.0, 3.0, 2.5]]), torch.tensor([1, 2]))
    tensor([ 0.5000, -0.5000])
    >>> margins(torch.tensor([[2.0], [2.0]]), torch.tensor([0, 1]))
    tensor([-2.,  2.])
    """
    labels = _checked(scores, y)
    if scores.shape[1] == 1:
        return (signs(labels, 1, scores.dtype) * scores)[:, 0]
    return scores.gather(1, labels[:, None])[:, 0] - _others(scores, labels).amax(1)


def _others(values: Float[Tensor, "n outputs"], labels: Tensor) -> Float[Tensor, "n outputs"]:
    """`values`, but minus infinity for the label's own output."""
    return values.scatter(1, labels[:, None], -math.inf)


def _checked(scores: Tensor, y: Any) -> Tensor:
    if not isinstance(scores, Tensor) or scores.ndim != 2 or 0 in scores.shape or not scores.is_floating_point():
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"scores: expected a real tensor (n, outputs), got {got}")
    if not torch.isfinite(scores.detach()).all():
        first = torch.nonzero(~torch.isfinite(scores.detach()))[0].tolist()
        raise ValueError(f"scores: expected finite numbers, got {scores[tuple(first)].item()} at index {first}")
    return read_labels(y, len(scores), scores.shape[1], scores.device)


@dataclass(frozen=True)
class MarginDistribution:
    """Margins of examples, and the norms they are to be seen in units of; ``print`` it.

    Parameters
    ----------
    margins
        Shape (n,), float64.
    norms
        Positive numbers by name, infinite where nothing is known; margins over norms are what bounds depend on.
    """

    margins: Float[Tensor, " n"]
    norms: dict[str, float]

    def normalized(self, name: str) -> Float[Tensor, " n"]:
        """Margins over the norm of that name."""
        return self.margins / self.norms[name]

    def curve(self, name: str | None = None) -> tuple[Tensor, Tensor]:
        """Margins in increasing order, and the fraction of examples with at most that margin."""
        values = (self.margins if name is None else self.normalized(name)).sort().values
        return values, torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)

    def __str__(self) -> str:
        head = ["margins over", "norm", *(f"{100 * q:.0f}%" for q in _QUANTILES)]
        rows = [_row("1 (as they are)", 1.0, self.margins)]
        rows += [_row(name, norm, self.normalized(name)) for name, norm in self.norms.items()]
        wrong = float((self.margins <= 0).double().mean())
        count = f"{len(self.margins)} examples, {100 * wrong:.2f}% with a margin of 0 or less"
        return f"quantiles of margins: {count}\n{columns([head, *rows])}"


def _row(name: str, norm: float, values: Tensor) -> list[str]:
    levels = torch.tensor(_QUANTILES, dtype=torch.float64)
    return [name, f"{norm:.4g}", *(f"{q:.3g}" for q in torch.quantile(values, levels).tolist())]


def margin_distribution(
    scores: Float[Tensor, "n outputs"], y: Any, norms: Mapping[str, float] | None = None
) -> MarginDistribution:
    """The distribution of margins, normalized by each norm.

    Parameters
    ----------
    scores
        Decision values, shape (n, outputs).
    y
        Numbers of classes, shape (n,).
    norms
        By name: an RKHS norm, a product of spectral norms, ... For several outputs, of all of them together.

    Raises
    ------
    ValueError
        If shapes do not fit, or a norm is not positive.
    """
    checked = {}
    for name, norm in (norms or {}).items():
        real = isinstance(norm, int | float) and not isinstance(norm, bool)
        if not real or not norm > 0:
            raise ValueError(f"norms: expected positive numbers, got {norm!r} for {name!r}")
        checked[str(name)] = float(norm)
    found = margins(scores.detach() if isinstance(scores, Tensor) else scores, y)
    return MarginDistribution(found.double().cpu(), checked)

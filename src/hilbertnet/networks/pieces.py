"""What plain networks are built of: layers whose weights come from a generator, and checks of their numbers.

torch's own layers draw their weights from its global state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import skip_init

from hilbertnet.signals import is_count

__all__ = [
    "check_classes",
    "check_counts",
    "check_filters",
    "convolution_layer",
    "linear_layer",
    "output_count",
]


def convolution_layer(
    channels: int,
    out: int,
    rng: torch.Generator,
    *,
    patch: int = 3,
    axes: int = 2,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
    variance: float | None = None,
) -> nn.Module:
    """A convolution with weights N(0, variance), by default 2 / fan_in, biases 0, and half a patch of padding."""
    kind = nn.Conv2d if axes == 2 else nn.Conv1d
    padding = patch // 2 if padding is None else padding
    layer = skip_init(kind, channels, out, patch, stride=stride, padding=padding, bias=bias)
    variance = 2 / (channels * patch**axes) if variance is None else variance
    nn.init.normal_(layer.weight, std=math.sqrt(variance), generator=rng)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def linear_layer(inputs: int, outputs: int, rng: torch.Generator, *, bias: bool = True) -> nn.Module:
    """A linear layer with weights and biases uniform on +-1 / sqrt(inputs), as torch's own."""
    layer, bound = skip_init(nn.Linear, inputs, outputs, bias=bias), 1 / math.sqrt(inputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=rng)
    return layer


def output_count(classes: int) -> int:
    """How many logits: the sign of one tells two classes apart."""
    return 1 if classes == 2 else classes


def check_counts(**values: int) -> None:
    """Refuse, by its name, what is no whole number of at least 1."""
    for name, value in values.items():
        if not is_count(value):
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


def check_classes(classes: int) -> None:
    """Refuse what is no whole number of at least 2."""
    if not is_count(classes) or classes < 2:
        raise ValueError(f"classes: expected a whole number of at least 2, got {classes!r}")


def check_filters(filters: Sequence[int], layers: int) -> tuple[int, ...]:
    """Numbers of filters, one for each layer; anything else is refused."""
    counts = tuple(filters) if isinstance(filters, Sequence) and not isinstance(filters, str) else ()
    if len(counts) != layers or not all(map(is_count, counts)):
        raise ValueError(f"filters: expected {layers} positive whole numbers, one for each layer, got {filters!r}")
    return counts

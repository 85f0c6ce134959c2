"""What all plain networks are: normalization of the input, maps, and a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.signals import check_space

__all__ = ["PlainCNN", "Statistic"]

Statistic = float | Sequence[float] | None
"""Of a network's input: one number, one for each channel, or none."""


class PlainCNN(nn.Module):
    """A convolutional network: normalization of the input, maps, and a head from the flattened maps to logits.

    `vgg`, `resnet`, `mnist_net` and `ckn_like` build it.

    Parameters
    ----------
    body
        From the normalized input to the last maps.
    head
        From the flattened maps to logits.
    shape
        Shape (channels, *space) of one input.
    mean, std
        Of the input, one number or one for each channel; default 0 and 1.

    Raises
    ------
    ValueError
        If `mean` or `std` is not of this form.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, head: nn.Module, shape: tuple[int, ...], *, mean: Statistic = None, std: Statistic = None
    ) -> None:
        super().__init__()
        self.shape = shape
        for name, value, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            numbers = _check_statistic(name, default if value is None else value, shape[0])
            column = torch.tensor(numbers).reshape(-1, *(1,) * (len(shape) - 1))
            self.register_buffer(name, column.expand(shape[0], *column.shape[1:]).clone())
        self.body, self.head = body, head

    def maps(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n filters *pooled"]:
        """The last maps, which the head takes flattened.

        Parameters
        ----------
        x
            Images in [0, 1], or signals, of the shape the network was made for.

        Raises
        ------
        ValueError
            If they have another shape.
        """
        check_space(x, self.shape, "x")
        return self.body((x - self.mean) / self.std)

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n outputs"]:
        """Logits, shape (n, classes), or (n, 1) for two classes; input and errors are those of `maps`."""
        return self.head(self.maps(x).flatten(1))


def _check_statistic(name: str, value: float | Sequence[float], channels: int) -> list[float]:
    expected = f"{name}: expected a number, or {channels} of them, one for each channel, got {value!r}"
    try:
        numbers = [float(number) for number in (value if isinstance(value, Sequence) else [value])]
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if isinstance(value, str) or len(numbers) not in (1, channels):
        raise ValueError(expected)
    if not all(map(math.isfinite, numbers)) or (name == "std" and min(numbers) <= 0):
        raise ValueError(f"{name}: expected {'positive' if name == 'std' else 'finite'} numbers, got {value!r}")
    return numbers

"""Random changes of training images that leave their class as it is: crops of padded images, mirror images.

A step maps images (n, channels, height, width) and a generator to images of the same shape. `Augmentation` is a
sequence of steps with a text form, such as ``"crop(4) | flip"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hilbertnet.signals import is_count
from hilbertnet.text import Scanner

__all__ = ["Augmentation", "Crop", "Flip"]


@dataclass(frozen=True)
class Crop:
    """Shift every image by up to `pad` pixels along each axis, each shift alike; zeros come in at the edges.

    Parameters
    ----------
    pad
        Whole number of pixels, at least 1.
    """

    pad: int = 4

    def __post_init__(self) -> None:
        if not is_count(self.pad):
            raise ValueError(f"crop: expected a whole number of pixels, at least 1, got {self.pad!r}")

    def __str__(self) -> str:
        return f"crop({self.pad})"

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Shifted images."""
        n, _, height, width = x.shape
        padded = functional.pad(x, (self.pad,) * 4)
        top, left = torch.randint(2 * self.pad + 1, (2, n, 1, 1, 1), generator=generator).to(x.device)
        rows = top + torch.arange(height, device=x.device)[:, None]
        columns = left + torch.arange(width, device=x.device)
        images = torch.arange(n, device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[:, None, None]
        return padded[images, channels, rows, columns]


@dataclass(frozen=True)
class Flip:
    """Mirror every image left to right, with probability one half."""

    def __str__(self) -> str:
        return "flip"

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images, half of them mirrored."""
        mirrored = torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device) < 0.5
        return torch.where(mirrored, x.flip(3), x)


@dataclass(frozen=True)
class Augmentation:
    """A sequence of steps.

    Parameters
    ----------
    steps
        `Crop` and `Flip`, in the order in which they are applied.

    Examples
    --------
    >>> str(Augmentation.parse("crop | flip"))
    'crop(4) | flip'
    """

    steps: Sequence[Crop | Flip]

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """Steps from a text form: ``crop(pad)`` and ``flip``, joined by ``|``.

        Raises
        ------
        TextFormError
            At a name or number that is not what is expected.
        """
        return cls(tuple(Scanner(text, "augmentation").steps(_step)))

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images after all steps.

        Parameters
        ----------
        x
            Images (n, channels, height, width).
        generator
            Of the random numbers; it lives on the CPU.
        """
        if x.ndim != 4:
            raise ValueError(f"x: expected images (n, channels, height, width), got shape {tuple(x.shape)}")
        for step in self.steps:
            x = step(x, generator)
        return x


def _step(scanner: Scanner) -> Crop | Flip:
    call = scanner.call("a step such as crop or flip")
    if call.name not in ("crop", "flip"):
        raise scanner.unknown("step", call.name, ("crop", "flip"), call.position)
    if len(call.arguments) > (call.name == "crop"):
        raise scanner.fail(f"{call.name} takes {'one number' if call.name == 'crop' else 'nothing'}", call.position)
    if call.name == "flip":
        return Flip()
    pad = call.arguments[0] if call.arguments else Crop.pad
    try:
        return Crop(int(pad) if isinstance(pad, float) and pad.is_integer() else pad)  # type: ignore[arg-type]
    except ValueError as error:
        raise scanner.fail(str(error), call.position) from None

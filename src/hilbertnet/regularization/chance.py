"""What is random in a bound term: a generator of its own, which a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hilbertnet.signals import as_rng

__all__ = ["Drawing", "own_generator"]


def own_generator(generator: int | torch.Generator | None) -> torch.Generator:
    """A generator on the CPU that nobody else draws from, told by one number drawn from `generator`.

    Raises
    ------
    ValueError
        If `generator` is on another device.
    """
    if isinstance(generator, torch.Generator) and generator.device.type != "cpu":
        raise ValueError(f"generator: expected one on the CPU, got one on {generator.device}")
    seed = int(torch.randint(2**62, (), generator=as_rng(generator)))
    return torch.Generator().manual_seed(seed)


class Drawing:
    """A bound term whose state is that of its generator, `rng`.

    Parameters
    ----------
    generator
        Seed or ``torch.Generator`` (on the CPU) that the term's own is told by.
    """

    def __init__(self, generator: int | torch.Generator | None) -> None:
        self.rng = own_generator(generator)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"generator": self.rng.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the numbers that come after `state_dict`.

        Raises
        ------
        ValueError
            If it is the state of something else.
        """
        found = state.get("generator")
        try:
            if set(state) != {"generator"} or not isinstance(found, Tensor):
                raise TypeError
            self.rng.set_state(found.cpu())
        except (TypeError, RuntimeError):
            raise ValueError(
                f"state: expected the state of a generator alone, got {', '.join(sorted(map(str, state))) or 'nothing'}"
            ) from None

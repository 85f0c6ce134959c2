"""What a bound term keeps from one call to the next, and a checkpoint with it: random numbers, vectors, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hilbertnet.signals import as_rng

__all__ = ["Drawing", "Stateless", "WarmStarted", "own_generator", "own_seed"]


def own_seed(generator: int | torch.Generator | None) -> int:
    """One number drawn from `generator`, which tells a generator of one's own.

    Raises
    ------
    ValueError
        If `generator` is on another device than the CPU.
    """
    if isinstance(generator, torch.Generator) and generator.device.type != "cpu":
        raise ValueError(f"generator: expected one on the CPU, got one on {generator.device}")
    return int(torch.randint(2**62, (), generator=as_rng(generator)))


def own_generator(generator: int | torch.Generator | None) -> torch.Generator:
    """A generator on the CPU that nobody else draws from, told by `own_seed`."""
    return torch.Generator().manual_seed(own_seed(generator))


class Stateless:
    """A bound term that keeps nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of another term."""
        if state:
            raise ValueError(f"state: expected none, as nothing is kept, got {_keys(state)}")


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
            raise ValueError(f"state: expected that of a generator, got {_keys(state)}") from None


class WarmStarted(Drawing):
    """A bound term that goes on from the vectors it ended with, by their names: random ones at first.

    Parameters
    ----------
    generator
        See `Drawing`.
    """

    def __init__(self, generator: int | torch.Generator | None) -> None:
        super().__init__(generator)
        self.vectors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """The vectors, and the generator's state."""
        return {"vectors": dict(self.vectors), **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the vectors; see `Drawing`."""
        found = state.get("vectors")
        if not isinstance(found, Mapping) or not all(isinstance(vector, Tensor) for vector in found.values()):
            raise ValueError(f"state: expected vectors and that of a generator, got {_keys(state)}")
        super().load_state_dict({name: part for name, part in state.items() if name != "vectors"})
        self.vectors = {name: vector.clone() for name, vector in found.items()}


def _keys(state: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, state))) or "nothing"

"""Infinite MNIST as training reads it: batches of digits without end, in an order that a seed tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.deformations.digit_indices import LAST
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.signals import is_count

__all__ = ["DigitStream"]


class DigitStream:
    """An endless iterator of batches (x, y) in which no index occurs twice.

    Round r takes every training digit once, in an order of its own, as its copy `first` + r: an epoch over the training
    set, with a new deformation each time. A batch may end one round and begin the next. The state is one number, so
    that a stream goes on exactly where another stopped.

    Parameters
    ----------
    digits
        Where they come from.
    size
        How many digits a batch has.
    seed
        Of the orders, from 0 to 2^32 - 1.
    first
        Copy of the first round; 0 begins with the digits as they are.

    Raises
    ------
    ValueError
        If a number is not as above.
    """

    def __init__(self, digits: InfiniteMNIST, size: int = 256, *, seed: int = 0, first: int = 1) -> None:
        if not is_count(size):
            raise ValueError(f"size: expected a whole number of digits, at least 1, got {size!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2^32 - 1, got {seed!r}")
        if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < LAST // digits.digits:
            raise ValueError(f"first: expected the number of a copy, at least 0, got {first!r}")
        self.digits, self.size, self.seed, self.first = digits, size, seed, first
        self.taken = 0
        self._round, self._order = -1, np.empty(0, np.int64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The stream itself: a second loop goes on where the first one stopped."""
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Images (size, 1, height, width) and labels (size,)."""
        batch = self.digits.batch(self.next_indices())
        self.taken += self.size
        return batch

    def next_indices(self) -> NDArray[np.int64]:
        """Indices of the batch that comes next."""
        parts, place = [], self.taken
        while place < self.taken + self.size:
            turn, start = divmod(place, self.digits.digits)
            stop = min(self.digits.digits, start + self.taken + self.size - place)
            parts.append(self.digits.index(self._order_of(turn)[start:stop], self.first + turn))
            place += stop - start
        return np.concatenate(parts)

    def _order_of(self, turn: int) -> NDArray[np.int64]:
        if turn != self._round:
            words = [self.seed, turn & 0xFFFFFFFF, turn >> 32]
            # the legacy generator, whose stream numpy promises never to change
            self._round, self._order = turn, np.random.RandomState(words).permutation(self.digits.digits)
        return self._order

    def _identity(self) -> dict[str, Any]:
        return {"digits": self.digits.to_dict(), "seed": self.seed, "first": self.first}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from: how many digits were taken, and of which stream. For JSON."""
        return {"taken": self.taken, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` left off; the size of the batches may be another.

        Raises
        ------
        ValueError
            If the state is no stream's, or that of a stream of other digits, another seed or another first copy.
        """
        taken, wanted = state.get("taken"), self._identity()
        if isinstance(taken, bool) or not isinstance(taken, int) or taken < 0:
            raise ValueError(f"state: expected the state of a digit stream, got {taken!r} digits taken")
        for name, value in wanted.items():
            if state.get(name) != value:
                raise ValueError(f"state: expected that of a stream with {name} {value}, got {state.get(name)}")
        self.taken = taken

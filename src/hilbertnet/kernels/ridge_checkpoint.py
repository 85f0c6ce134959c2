"""How far the path of a large kernel ridge regression went, in a file from which it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from hilbertnet.kernels.conjugate_gradient import CGState
from hilbertnet.records import check_identity
from hilbertnet.states import load_state, save_state

__all__ = ["HeldOutPoint", "RidgeCheckpoint", "best_point"]

_KIND = "unfinished ridge regression"


@dataclass(frozen=True)
class HeldOutPoint:
    """What the held-out part says of one lambda.

    Parameters
    ----------
    alpha
        lambda in units of the mean of K(x, x).
    score
        Of the predictions; larger is better.
    error
        Their mean squared error.
    iterations
        Of conjugate gradient.
    converged
        Whether the tolerance was reached.
    """

    alpha: float
    score: float
    error: float
    iterations: int
    converged: bool


def best_point(curve: Sequence[HeldOutPoint]) -> HeldOutPoint:
    """The point of highest score, ties by the error."""
    return max(curve, key=lambda point: (point.score, -point.error))


class RidgeCheckpoint:
    """What was reached: the curve, the solution of the last and of the best lambda, the system being solved.

    Parameters
    ----------
    file
        Where they are kept; read if it is there. ``None`` keeps nothing.
    identity
        What the run is of, for JSON.
    seconds
        An iteration is written after so many seconds at the soonest.

    Raises
    ------
    ValueError
        If the file is of another run, or none of ours.
    """

    def __init__(self, file: str | os.PathLike[str] | None, identity: dict[str, Any], seconds: float) -> None:
        self.file = None if file is None else Path(file)
        self.identity, self.seconds = identity, seconds
        self.curve: list[HeldOutPoint] = []
        self.start: Tensor | None = None
        self.best: Tensor | None = None
        self.chosen = False
        self.system: CGState | None = None
        self._written = time.monotonic()
        if self.file is not None and self.file.exists():
            self._read(self.file)

    def _read(self, file: Path) -> None:
        state = load_state(file, _KIND)
        try:
            check_identity(file, state["identity"], self.identity, "ridge regression")
            self.curve = [HeldOutPoint(**point) for point in state["curve"]]
            self.start, self.best, self.chosen = state["start"], state["best"], state["chosen"]
            system = state["system"]
            self.system = None if system is None else CGState(**system)
        except (KeyError, TypeError) as error:
            raise ValueError(f"checkpoint: {file} is damaged ({error!r}); remove it") from None

    def take_system(self) -> CGState | None:
        """Where the system being solved was, once."""
        system, self.system = self.system, None
        return system

    def keep_system(self, state: CGState) -> None:
        """Note an iteration; written now and then."""
        self.system = state
        if time.monotonic() - self._written >= self.seconds:
            self._write()

    def keep_point(self, point: HeldOutPoint, solution: Tensor) -> None:
        """Note a lambda that is done."""
        self.curve.append(point)
        self.start, self.system = solution, None
        if best_point(self.curve) is point:
            self.best = solution
        self._write()

    def choose(self) -> None:
        """The path has ended."""
        self.chosen, self.start = True, None
        self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        system = None if self.system is None else {f.name: getattr(self.system, f.name) for f in fields(self.system)}
        curve = [asdict(point) for point in self.curve]
        found = {"curve": curve, "start": self.start, "best": self.best, "chosen": self.chosen, "system": system}
        save_state(self.file, {"identity": self.identity, **found}, _KIND)
        self._written = time.monotonic()

    def remove(self) -> None:
        """All is done."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

"""What a training has reached, in a file from which it goes on."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from hilbertnet.records import check_identity, digest
from hilbertnet.states import load_state, save_state
from hilbertnet.training.objective import Data
from hilbertnet.training.recipe import Epoch, Recipe

__all__ = ["TrainingCheckpoint", "identity"]

_KIND = "unfinished training"


class TrainingCheckpoint:
    """History, best state, and the state of all parts, in a file if there is one."""

    def __init__(self, file: str | os.PathLike[str] | None, parts: dict[str, Any], identity: dict[str, Any]) -> None:
        self.file, self.identity = file, identity
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None
        self.best_epoch: Epoch | None = None
        if file is not None and os.path.exists(file):
            self._read()

    def _read(self) -> None:
        state = load_state(str(self.file), _KIND)
        try:
            self._restore(state)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"checkpoint: {self.file} is damaged ({error!r}); remove it") from None

    def _restore(self, state: dict[str, Any]) -> None:
        check_identity(str(self.file), state["identity"], self.identity, "training")
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        for epoch in self.history:
            if epoch.better_than(self.best_epoch):
                self.best_epoch = epoch
        self.best = state["best"]

    def offer(self, epoch: Epoch) -> None:
        """Note the model as it is now, if the epoch is the best so far."""
        if epoch.better_than(self.best_epoch):
            self.best, self.best_epoch = copy.deepcopy(self.parts["model"].state_dict()), epoch

    def keep(self) -> None:
        """Write down the epoch that has ended."""
        if self.file is not None:
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            history = [asdict(epoch) for epoch in self.history]
            state = {"identity": self.identity, "history": history, "best": self.best, "parts": parts}
            save_state(self.file, state, _KIND)

    def restore_best(self) -> None:
        """Leave the model as it was offered with its best epoch; as it is where nothing was evaluated."""
        if self.best is not None:
            self.parts["model"].load_state_dict(self.best)

    def remove(self) -> None:
        """The training is finished."""
        if self.file is not None and os.path.exists(self.file):
            os.unlink(self.file)


def identity(
    model: nn.Module,
    data: Data,
    validation: Data | None,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    parts: Mapping[str, Any],
) -> dict[str, Any]:
    """What must be the same for a training to go on."""
    groups = [{key: repr(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {
        "model": {name: list(value.shape) for name, value in model.state_dict().items()},
        "data": [digest(part) for part in data],
        "validation": None if validation is None else [digest(part) for part in validation],
        "optimizer": {"name": type(optimizer).__name__, "groups": groups},
        "parts": sorted(name for name, part in parts.items() if part is not None),
        "recipe": {name: value for name, value in asdict(recipe).items() if name != "epochs"},
        "threads": torch.get_num_threads(),
    }

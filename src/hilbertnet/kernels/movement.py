"""How far a training has moved the weights of each layer, relative to where they started.

``||w - w_0|| / ||w_0||`` for the weights of a layer taken together: near 0 in the lazy regime, where the model trains
like its linearization.

Reference: L. Chizat, E. Oyallon and F. Bach, "On lazy training in differentiable programming", NeurIPS 2019, section 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.kernels.lazy import LinearizedModel
from hilbertnet.kernels.parameters import Layers, choose_parameters

__all__ = ["Movement"]


class Movement:
    """The relative movement of each layer, recorded after every epoch.

    It stands where `hilbertnet.training.train` takes a schedule, and steps yours; in a loop of your own, call `step`.
    As a part of the checkpoint it goes on with an interrupted training. The record is of every epoch, also those after
    the one that validation selects.

    Parameters
    ----------
    model
        The model at its initial parameters, whose movement is recorded; of a `hilbertnet.kernels.lazy.LinearizedModel`,
        the displacement relative to the frozen parameters.
    schedule
        Any of ``torch.optim.lr_scheduler``, stepped after every epoch, or ``None``.
    layers
        Of which layers, as for `hilbertnet.kernels.empirical.empirical_ntk`.

    Attributes
    ----------
    history
        For every epoch, the movement by the layer's name; infinite for a layer that started at 0 and moved.

    Raises
    ------
    ValueError
        If a layer is unknown or has no parameters.

    Examples
    --------
    >>> model = nn.Linear(2, 2, bias=False)
    >>> movement = Movement(model)
    >>> with torch.no_grad():
    ...     _ = model.weight.mul_(2.0)
    >>> movement.step()
    >>> movement.history
    [{'weight': 1.0}]
    """

    def __init__(self, model: nn.Module, schedule: Any = None, *, layers: Layers = None) -> None:
        if isinstance(model, LinearizedModel):
            if layers is not None:
                raise ValueError("layers: expected None for a LinearizedModel, which was made for its layers")
            self.groups = model.groups
        else:
            self.groups = choose_parameters(model, layers)
        self.model, self.schedule = model, schedule
        self.start = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        if isinstance(model, LinearizedModel):
            self.start = {name: tensor.detach().clone() for name, tensor in model.anchors().items()}
        self.history: list[dict[str, float]] = []

    def _weights(self) -> dict[str, Tensor]:
        if isinstance(self.model, LinearizedModel):
            anchors = self.model.anchors()
            return {name: anchors[name] + delta for name, delta in self.model.deltas().items()}
        own = dict(self.model.named_parameters())
        return {name: own[name] for names in self.groups.values() for name in names}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The movement now, by the layer's name."""
        now = self._weights()
        moved = {name: now[name] - start.to(now[name]) for name, start in self.start.items()}
        return {layer: _ratio(_norm(moved, names), _norm(self.start, names)) for layer, names in self.groups.items()}

    def step(self) -> None:
        """Record an epoch, and step the schedule."""
        self.history.append(self.measure())
        if self.schedule is not None:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the schedule, where the weights started, and the record."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"schedule": schedule, "start": self.start, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        if set(state["start"]) != set(self.start):
            raise KeyError("movement of other layers")
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.start, self.history = dict(state["start"]), [dict(epoch) for epoch in state["history"]]


def _norm(tensors: Mapping[str, Tensor], names: list[str]) -> float:
    return math.sqrt(sum(float(tensors[name].double().square().sum()) for name in names))


def _ratio(moved: float, start: float) -> float:
    if start == 0:
        return math.inf if moved > 0 else 0.0
    return moved / start

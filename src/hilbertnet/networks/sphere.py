"""Stochastic gradient steps that keep filters on the unit sphere.

On the sphere the gradient is the part of the Euclidean one that is orthogonal to the filter, a step follows the
geodesic that leaves in that direction, and the momentum, which points along it, is carried with it: for a filter w and
a momentum m of norm r, the step -rate * m of angle t = rate * r leads to

    w' = cos(t) w - sin(t) m / r,        m' = cos(t) m + sin(t) r w,

which has the norm of m and is orthogonal to w'.

Reference: P.-A. Absil, R. Mahony and R. Sepulchre, *Optimization algorithms on matrix manifolds*, 2008, chapters 4, 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.networks.layer import CKNLayer

__all__ = ["SphereSGD", "filters_and_others"]


def filters_and_others(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that require a gradient: filters of CKN layers, which live on the sphere, and all others."""
    spherical = {id(module.filters) for module in model.modules() if isinstance(module, CKNLayer)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (
        [parameter for parameter in trained if id(parameter) in spherical],
        [parameter for parameter in trained if id(parameter) not in spherical],
    )


class SphereSGD(torch.optim.Optimizer):
    """SGD with momentum; for parameter groups with ``sphere=True`` on the unit sphere, row by row.

    Parameters
    ----------
    params
        Parameters, or groups of them as for any of torch's optimizers.
    lr
        Learning rate, above 0: on the sphere, radians for a gradient of norm 1.
    momentum
        In [0, 1).
    weight_decay
        For groups that are not on the sphere, where it would do nothing.
    sphere
        Whether rows ``parameter[i]`` are unit vectors, and stay so.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> from hilbertnet import CKN
    >>> model = nn.Sequential(CKN("3 exp(0.6) gauss2", 1, (16,)).requires_grad_(), nn.Flatten(), nn.LazyLinear(10))
    >>> filters, others = filters_and_others(model)
    >>> optimizer = SphereSGD([{"params": filters, "sphere": True}, {"params": others}], lr=0.1, momentum=0.9)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        sphere: bool = False,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr: expected a positive number, got {lr!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum!r}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number of at least 0, got {weight_decay!r}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "sphere": sphere})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if group["sphere"]:
                    _sphere_step(parameter, state, group)
                else:
                    _flat_step(parameter, state, group)
        return value


def _sphere_step(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    points, grads = parameter.flatten(1), parameter.grad.flatten(1)  # type: ignore[union-attr]
    tangent = grads - (grads * points).sum(1, keepdim=True) * points
    if group["momentum"] and "momentum" in state:
        tangent += group["momentum"] * state["momentum"].flatten(1)
    norms = tangent.norm(dim=1, keepdim=True)
    angles = group["lr"] * norms
    directions = tangent / norms.clamp(min=torch.finfo(tangent.dtype).tiny)
    moved = angles.cos() * points - angles.sin() * directions
    if group["momentum"]:
        state["momentum"] = (norms * (angles.cos() * directions + angles.sin() * points)).view_as(parameter)
    # rounding would add up over steps
    parameter.copy_(nn.functional.normalize(moved).view_as(parameter))


def _flat_step(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    grad = parameter.grad
    assert grad is not None
    if group["weight_decay"]:
        grad = grad + group["weight_decay"] * parameter
    if group["momentum"]:
        buffer = state.get("momentum")
        grad = grad.clone() if buffer is None else buffer.mul_(group["momentum"]).add_(grad)
        state["momentum"] = grad
    parameter.add_(grad, alpha=-group["lr"])

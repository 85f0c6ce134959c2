"""Lipschitz constants of activations."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["activation_slope"]

# the largest |s'(u)|; where it is not attained at a round place, rounded up in the last digit
_GELU = 0.5 * (1 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi)  # at u = sqrt(2)
_THRESHOLD = 20.0  # of torch's softplus: from there on it is the identity, to 2e-9
_SLOPES = {
    "abs": 1.0,
    "celu": 1.0,  # alpha > 0
    "clamp": 1.0,
    "clamp_min": 1.0,
    "clamp_max": 1.0,
    "cos": 1.0,
    "erf": 2 / math.sqrt(math.pi),
    "hardsigmoid": 0.1666666717,  # torch's 1/6 is in single precision
    "hardswish": 1.5,
    "hardtanh": 1.0,
    "log_sigmoid": 1.0,
    "mish": 1.0885,
    "relu": 1.0,
    "relu6": 1.0,
    "selu": 1.0507009873554805 * 1.6732632423543772,
    "sigmoid": 0.25,
    "silu": 1.0998394,
    "sin": 1.0,
    "softmax": 0.5,
    "softplus": 1.0,
    "tanh": 1.0,
}


def activation_slope(name: str, args: list[Any], keywords: dict[str, Any]) -> float | None:
    """The Lipschitz constant of one of torch's activations, none if it is not known.

    Parameters
    ----------
    name
        torch's name of the operation.
    args, keywords
        What it is called with; its map in the place of the first.

    Notes
    -----
    softmax along any axis is 1/2-Lipschitz in the Euclidean norm: its Jacobian diag(p) - p p' has rows whose absolute
    values sum to 2 p (1 - p) <= 1/2.
    """
    if name == "gelu":
        return _GELU if keywords.get("approximate", "none") == "none" and len(args) < 2 else None
    if name == "leaky_relu":
        return max(1.0, abs(float(args[1] if len(args) > 1 else keywords.get("negative_slope", 0.01))))
    if name == "elu":
        alpha, scale, inner = (float(value) for value in (args[1:] + [1.0, 1.0, 1.0][len(args) - 1 :]))
        return abs(scale) * max(1.0, abs(alpha * inner)) if inner >= 0 else None
    if name == "celu" and len(args) > 1 and float(args[1]) <= 0:
        return None  # exp(u / alpha) grows below 0
    if name == "prelu":
        return max(1.0, float(args[1].abs().max())) if len(args) > 1 and args[1] is not None else None
    if name == "selu":
        return _SLOPES[name]
    if name == "softplus" and len(args) > 1:
        # with torch's beta the slope is still that of a sigmoid; at a small threshold the function jumps
        return 1.0 if len(args) < 3 or float(args[2]) >= _THRESHOLD else None
    return _SLOPES.get(name)

"""A plain network on the page: its modules with what they give out, and its first filters where they lie on pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilbertnet.complexity.functions import untouched
from hilbertnet.estimators import RegularizedClassifier
from hilbertnet.report.words import clean, shorten

__all__ = ["first_convolution", "model_line", "module_rows", "parameter_count"]

_LONGEST = 90  # letters of a module's description


def model_line(record: Mapping[str, Any], model: RegularizedClassifier) -> str:
    """The model in one line."""
    named = record.get("model") or model.model
    regularizer = str(model.regularizer_) if model.regularizer_.terms else ""
    parts = [
        *([f"preprocessing {record['preprocessing']}"] if record.get("preprocessing") else []),
        str(named if isinstance(named, str) else getattr(named, "__qualname__", named)),
        f"{parameter_count(model.module_):,} parameters",
        f"regularizer {regularizer}" if regularizer else "no regularizer",
    ]
    return clean(" · ".join(parts))


def parameter_count(module: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in module.parameters())


def module_rows(model: RegularizedClassifier) -> list[dict[str, str]]:
    """One row for each module without parts of its own that the network calls, in the order of their first calls."""
    return [
        {
            "place": clean(name or "–"),
            "module": shorten(module, _LONGEST),
            "output": " × ".join(map(str, shape)),
            "parameters": f"{count:,}" if (count := parameter_count(module)) else "",
        }
        for name, module, shape in _calls(model)
    ]


def first_convolution(model: RegularizedClassifier) -> NDArray | None:
    """Weights (filters, channels, *patch) of the first module with any, if it is a convolution of the signals."""
    for _, module, _ in _calls(model):
        if parameter_count(module):
            kind = nn.Conv1d if len(model.signal_shape_) == 2 else nn.Conv2d
            if not isinstance(module, kind) or (module.groups, module.in_channels) != (1, model.signal_shape_[0]):
                return None
            return module.weight.detach().double().cpu().numpy()
    return None


@torch.no_grad()
def _calls(model: RegularizedClassifier) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Modules without parts, with their names and the shape of what they gave out first."""
    module: nn.Module = model.module_
    found: dict[str, tuple[str, nn.Module, tuple[int, ...]]] = {}
    leaves = [(name, part) for name, part in module.named_modules() if not list(part.children())]

    def note(name: str, part: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, given: Any) -> None:
            shape = tuple(given.shape[1:]) if isinstance(given, Tensor) else ()
            found.setdefault(name, (name, part, shape))

        return hook

    hooks = [part.register_forward_hook(note(name, part)) for name, part in leaves]
    try:
        with untouched(module):
            like = next(parameter for parameter in module.parameters() if parameter.is_floating_point())
            module(like.new_zeros(1, *model.signal_shape_))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())

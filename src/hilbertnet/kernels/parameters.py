"""Which parameters of a model are meant, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from hilbertnet.text import nearest

__all__ = ["Layers", "choose_parameters"]

Layers = str | nn.Module | Sequence[str | nn.Module] | None


def choose_parameters(model: nn.Module, layers: Layers = None) -> dict[str, list[str]]:
    """Names of a model's parameters, by layer.

    Parameters
    ----------
    model
        The model.
    layers
        ``None`` for all parameters that require a gradient, each under the module that owns it (a parameter of the
        model itself under its own name). Or names of modules, with all that is inside, names of parameters, or the
        modules themselves, one or several; these parameters are then meant whether they require a gradient or not.

    Returns
    -------
    dict
        From the name of each layer to the names of its parameters, in the order of the model or of `layers`.

    Raises
    ------
    ValueError
        If a name is unknown, a layer has no parameters, or two layers share one.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"model: expected parameters with a shape, {name!r} has none before a first forward pass")
    if layers is None:
        return _by_owner(model)
    wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    if not wanted:
        raise ValueError("layers: expected at least one layer, got none; None means all")
    # a parameter that is used twice has two names, and counts under the first
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    aliases = {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    groups: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for item in wanted:
        layer = _name_of(model, item, aliases)
        inside = [name for name in aliases if name == layer or not layer or name.startswith(layer + ".")]
        groups[layer] = list(dict.fromkeys(aliases[name] for name in inside))
        if not groups[layer]:
            raise ValueError(f"layers: expected layers with parameters, {layer!r} has none")
        for name in groups[layer]:
            if name in owner:
                raise ValueError(f"layers: expected no parameter twice, {name!r} is in {owner[name]!r} and {layer!r}")
            owner[name] = layer
    return groups


def _by_owner(model: nn.Module) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
    if not groups:
        raise ValueError("model: expected parameters that require a gradient, got none; name others by layers=")
    return groups


def _name_of(model: nn.Module, item: str | nn.Module, parameters: dict[str, str]) -> str:
    modules = dict(model.named_modules())
    if isinstance(item, nn.Module):
        for name, module in modules.items():
            if module is item:
                return name
        raise ValueError(f"layers: expected modules of the model, got another {type(item).__name__}")
    if not isinstance(item, str):
        raise ValueError(f"layers: expected names or modules, got {item!r}")
    if not item or (item not in modules and item not in parameters):
        known = [name for name in [*modules, *parameters] if name]
        raise ValueError(
            f"layers: expected the name of a layer or a parameter, got {item!r}"
            f"{nearest(item, known) or '; known: ' + ', '.join(known[:20])}"
        )
    return item

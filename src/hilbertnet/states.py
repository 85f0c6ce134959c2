"""State dictionaries of models, optimizers and schedules in one safetensors file: nothing that is read can run code.

A state is any nest of dictionaries, lists and tuples with tensors, numbers, texts, booleans and None inside, as torch's
``state_dict`` methods give them. Tensors are stored as they are, the nest around them as JSON in the file's header.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hilbertnet.records import load_tensors, save_tensors

__all__ = ["load_state", "save_state"]


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any], kind: str) -> None:
    """Write a state, atomically.

    Parameters
    ----------
    path
        The file.
    state
        The nest.
    kind
        What it is, to be named again by `load_state`.

    Raises
    ------
    ValueError
        If there is something inside that is none of the above.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(dict(state), tensors, kind)
    save_tensors(path, tensors, {"kind": kind, "state": tree})


def load_state(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read what `save_state` wrote, on the CPU.

    Raises
    ------
    ValueError
        If the file is absent, corrupted or of another kind.
    """
    tensors, header = load_tensors(path, kind)
    try:
        return _unpack(header["state"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a state written by hilbertnet, it is damaged ({error!r})") from None


def _pack(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):  # keys of optimizers are numbers, which JSON would make texts of
        return {"items": [[key, _pack(item, tensors, f"{place}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        packed = [_pack(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]
        return packed if isinstance(value, list) else {"tuple": packed}
    raise ValueError(f"{place}: expected tensors, numbers and texts, got {type(value).__name__}")


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((word, content),) = tree.items()
    if word == "tensor":
        return tensors[content]
    if word == "float":
        return float(content)
    if word == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return {key: _unpack(item, tensors) for key, item in content}

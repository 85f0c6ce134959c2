"""What an evaluation takes as an attack: names, functions of this package, functions of the user."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hilbertnet.complexity.functions import Model, untouched
from hilbertnet.records import digest
from hilbertnet.robustness.apgd import apgd
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.deformation_attack import deformation_attack
from hilbertnet.robustness.minimal_norm import fmn
from hilbertnet.robustness.threats import Ball
from hilbertnet.text import nearest

__all__ = ["NAMES", "Attacks", "Entry", "read_attacks"]

Attacks = Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]]

NAMES: dict[str, Callable[..., Any]] = {
    "fgm": fgm,
    "pgd": pgd,
    "apgd": apgd,
    "apgd-t": functools.partial(apgd, loss="dlr", targets=9),
    "fmn": fmn,
    "deformation": deformation_attack,
}
"""Attacks that have a name."""

_FORMS = (
    "attack(model, x, y, threat, generator=...), attack(model, x, y, norm=..., bounds=..., generator=...) "
    "or attack(x, y)"
)


@dataclass(frozen=True)
class Entry:
    """An attack under its name.

    Parameters
    ----------
    name
        For tables.
    kind
        ``"threat"``: makes examples inside a threat, radius by radius. ``"nearest"``: finds the nearest wrong decision,
        whatever the radius. ``"own"``: a function of signals and labels alone, which knows its model itself.
    function
        The attack.
    """

    name: str
    kind: Literal["threat", "nearest", "own"]
    function: Callable[..., Any]

    @property
    def identity(self) -> str:
        """What a checkpoint knows it by: names and options."""
        return f"{self.name}: {_described(self.function)}"

    @property
    def random(self) -> bool:
        """Whether it may do something else when it is tried again: one step does not."""
        return self.kind == "threat" and _bare(self.function) is not fgm

    def run(self, model: Model, x: Tensor, y: Tensor, threat: Any, generator: torch.Generator, again: bool) -> Tensor:
        """Attacked signals.

        Parameters
        ----------
        model, x, y, threat, generator
            As attacks take them.
        again
            Whether this was tried on these examples before: random starts are wanted.
        """
        if self.kind == "own":
            with untouched(model):
                return self.function(x.clone(), y.clone())
        if self.kind == "nearest":
            found = self.function(model, x, y, norm=threat.norm, bounds=threat.bounds, generator=generator)
            return found if isinstance(found, Tensor) else found.x_adv
        more = self._random_start() if again else {}
        return self.function(model, x, y, threat, generator=generator, **more)

    def _random_start(self) -> dict[str, bool]:
        """Where there is such an option; who gave it keeps it."""
        given = self.function.keywords if isinstance(self.function, functools.partial) else {}
        return {"random_start": True} if "random_start" in _parameters(self.function).keys() - given.keys() else {}


def read_attacks(attacks: Attacks, threat: Any) -> list[Entry]:
    """Attacks under their names, those that do not need a radius first.

    Raises
    ------
    ValueError
        If one is not of a known form, or not for this threat.
    """
    if isinstance(attacks, str) or not isinstance(attacks, Sequence | Mapping) or not attacks:
        raise ValueError(f"attacks: expected at least one name or function in a list or dictionary, got {attacks!r}")
    pairs = attacks.items() if isinstance(attacks, Mapping) else ((None, attack) for attack in attacks)
    found: list[Entry] = []
    for name, attack in pairs:
        function = _by_name(attack) if isinstance(attack, str) else attack
        title = name or (attack if isinstance(attack, str) else _title(function))
        taken = sum(entry.name.split(" #")[0] == title for entry in found)
        entry = Entry(f"{title} #{taken + 1}" if taken else title, _kind(title, function), function)
        _check_suits(entry, threat)
        found.append(entry)
    return sorted(found, key=lambda entry: entry.kind == "threat")


def _by_name(name: str) -> Callable[..., Any]:
    if name not in NAMES:
        hint = nearest(name, NAMES) or f"; known: {', '.join(NAMES)}"
        raise ValueError(f"attacks: unknown attack {name!r}{hint}")
    return NAMES[name]


def _kind(name: str, function: Any) -> Literal["threat", "nearest", "own"]:
    """By what the function takes."""
    parameters = _parameters(function) if callable(function) else {}
    if {"norm", "bounds"} <= set(parameters):
        return "nearest"
    values = parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in values):
        return "threat"
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in values if p.kind in places and p.default is p.empty and p.name != "generator"]
    if len(needed) == 4:
        return "threat"
    if len(needed) == 2:
        return "own"
    raise ValueError(f"attacks: expected {_FORMS}, got {name!r}, {function!r}")


def _check_suits(entry: Entry, threat: Any) -> None:
    if isinstance(threat, Ball):
        if _bare(entry.function) is deformation_attack:
            raise ValueError(f"attacks: {entry.name!r} needs Deformations as threat, got the {threat}")
    elif entry.kind != "threat":
        raise ValueError(f"attacks: {entry.name!r} makes perturbations of pixels, and the threat is {threat}")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _bare(function: Any) -> Any:
    """The function inside partials; of an object that is called, its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__name__") else type(function)


def _title(function: Any) -> str:
    """Name, and the options that make it another."""
    options = function.keywords if isinstance(function, functools.partial) else {}
    name = str(getattr(_bare(function), "__name__", "attack"))
    return f"{name}({', '.join(f'{key}={_word(value)}' for key, value in options.items())})" if options else name


def _word(value: Any) -> str:
    """For tables."""
    return str(getattr(value, "__name__", None) or repr(value))


def _described(value: Any) -> str:
    """The same in every process: no addresses of functions, all numbers of a tensor."""
    if isinstance(value, functools.partial):
        options = {name: _described(one) for name, one in sorted(value.keywords.items())}
        return f"{_described(value.func)} {[_described(one) for one in value.args]} {options}"
    if isinstance(value, torch.Tensor | np.ndarray):
        return digest(value)
    if callable(value):
        bare = _bare(value)
        return f"{bare.__module__}.{bare.__qualname__}"
    return repr(value)

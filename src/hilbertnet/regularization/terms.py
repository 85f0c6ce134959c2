"""The terms of a regularizer by name, and their text form: ``delta(1.0)``, ``delta(1.0, screen=8)``, ``tau``.

A new term is a class in this room and a place in `TERMS`.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from hilbertnet.regularization.deformed import DTau, Tau
from hilbertnet.regularization.delta import Delta
from hilbertnet.regularization.gradients import Grad, GradL1, GradL2
from hilbertnet.regularization.projections import OperatorProjection, SpectralProjection
from hilbertnet.regularization.robust_losses import PgdL2, PgdLinf, Trades
from hilbertnet.regularization.spectral import SpectralPenalty, WeightDecay
from hilbertnet.regularization.term import ConstraintTerm, LossTerm, PenaltyTerm, Term, written
from hilbertnet.regularization.vat import Vat
from hilbertnet.text import Call, Scanner, format_number

__all__ = ["TERMS", "describe", "parse_term"]

TERMS: dict[str, type[Term]] = {
    term.name: term
    for term in (
        Delta,
        Grad,
        GradL2,
        GradL1,
        Vat,
        Tau,
        DTau,
        SpectralPenalty,
        WeightDecay,
        PgdL2,
        PgdLinf,
        Trades,
        SpectralProjection,
        OperatorProjection,
    )
}
"""All terms by their names in the text form."""

_KINDS: dict[str, type[Term]] = {
    "penalties, each with a weight, as in 0.1*tau": PenaltyTerm,
    "robust losses, at most one, in the place of the training loss": LossTerm,
    "constraints, projected onto after every step": ConstraintTerm,
}


def describe() -> str:
    """All terms with their formulas and what their arguments mean, for help texts."""
    lines = []
    for title, kind in _KINDS.items():
        lines.append(f"{title}:")
        for term in TERMS.values():
            if issubclass(term, kind):
                lines += [f"  {_usage(term)}", f"      {term.formula}", *_explained(term)]
    return "\n".join(lines)


def _explained(term: type[Term]) -> Iterator[str]:
    """What the docstring says of each argument, in one sentence, with the words of the text form."""
    text, names = inspect.cleandoc(term.__doc__ or ""), {other.__name__: other.name for other in TERMS.values()}
    found = re.search(r"^Parameters\n-+\n(.*?)(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    for entry in re.split(r"\n(?=\w)", found.group(1)) if found else []:
        arguments, _, body = entry.partition("\n")
        sentence = re.split(r"(?<=\.)\s", " ".join(body.split()))[0]
        sentence = re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[1]), sentence)
        told = sentence.replace("`", "").replace("None", "none").replace('"', "'")
        yield textwrap.fill(f"{arguments}: {told}", 110, initial_indent=" " * 8, subsequent_indent=" " * 12)


def _usage(term: type[Term]) -> str:
    """A term with its arguments: ``delta(eps, steps=5)``."""
    words = [
        field.name if field.default is MISSING else f"{field.name}={written(field.default)}" for field in _fields(term)
    ]
    return f"{term.name}({', '.join(words)})" if words else term.name


def _fields(term: type[Term]) -> tuple[Field[Any], ...]:
    return fields(term)  # type: ignore[arg-type]  # subclasses are dataclasses


def parse_term(scanner: Scanner) -> tuple[Term, int]:
    """The term that comes next, and where it stands.

    Raises
    ------
    TextFormError
        If there is no such term, or its arguments are not as they should be; the message points at the character.
    """
    call = scanner.call("a term such as delta(1.0) or tau", named=True)
    if call.name not in TERMS:
        raise scanner.unknown("term", call.name, TERMS, call.position)
    values, places = _arguments(scanner, call)
    try:
        return TERMS[call.name](**values), call.position
    except ValueError as error:
        told = [place for name, place in places.items() if re.match(rf"(\w+: )?{name}:", str(error))]
        raise scanner.fail(f"{call.name}: {error}", told[0] if told else call.position) from None


def _arguments(scanner: Scanner, call: Call) -> tuple[dict[str, Any], dict[str, int]]:
    """What a call gives each field, and where."""
    known = {field.name: field for field in _fields(TERMS[call.name])}
    usage = _usage(TERMS[call.name])
    if call.places and not known:
        raise scanner.fail(f"{call.name} takes no arguments", call.places[0])
    if len(call.arguments) > len(known):
        raise scanner.fail(f"expected {usage}", call.places[len(known)])
    given = [*zip(known, call.arguments, strict=False), *call.named]
    values, places = {}, {}
    for (name, value), place in zip(given, call.places, strict=True):
        if name not in known:
            raise scanner.unknown(f"argument of {call.name}", name, known, place)
        if name in values:
            raise scanner.fail(f"{name!r} comes twice: expected {usage}", place)
        values[name], places[name] = _value(scanner, known[name], value, place), place
    if missing := [name for name, field in known.items() if name not in values and field.default is MISSING]:
        raise scanner.fail(f"expected {usage}, {missing[0]} is not given", call.position)
    return values, places


def _value(scanner: Scanner, field: Field[Any], value: float | str, place: int) -> float | str | None:
    """A number or a word as the field takes it: whole numbers where it counts something."""
    words = set(re.findall(r"\w+", str(field.type)))
    if value == "none" and "None" in words:
        return None
    if isinstance(value, str):
        if words <= {"int", "float", "None"}:
            raise scanner.fail(f"{field.name}: expected a number, got {value!r}", place)
        return value
    if "int" in words and "float" not in words:
        if not value.is_integer():
            raise scanner.fail(f"{field.name}: expected a whole number, got {format_number(value)}", place)
        return int(value)
    return value

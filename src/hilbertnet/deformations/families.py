"""The families of deformations by name, and their text form.

A family is its name with what is not as by default: ``"rotation"``, ``"rotation(clockwise)"``, ``"zoom(3, 4)"`` (a
centre), ``"gaussian(3)"``, ``"gaussian(3, displacement)"``. A new family is a class in this room and a place in
`FAMILIES`.
"""

from __future__ import annotations

from typing import Any

from hilbertnet.deformations.affine import Rotation, Scaling, Shear, Translation, Zoom
from hilbertnet.deformations.family import Family
from hilbertnet.deformations.smooth import BandLimitedField, GaussianField, SplineField
from hilbertnet.text import Call, Scanner

__all__ = [
    "FAMILIES",
    "BandLimitedField",
    "Family",
    "GaussianField",
    "Rotation",
    "Scaling",
    "Shear",
    "SplineField",
    "Translation",
    "Zoom",
    "parse_family",
]

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (Translation, Rotation, Zoom, Scaling, Shear, GaussianField, BandLimitedField, SplineField)
}


def parse_family(text: str) -> Family:
    """The family that `text` names; ``str`` gives the text back.

    Parameters
    ----------
    text
        A name of `FAMILIES`, with words and numbers in brackets: ``"translation(right)"``, ``"zoom(out)"``,
        ``"bandlimited(4)"``.

    Raises
    ------
    TextFormError
        If there is no such family, or its arguments are not as they should be.

    Examples
    --------
    >>> parse_family("gaussian(3)")
    GaussianField(std=3, norm='gradient')
    >>> str(parse_family("zoom( in, 3, 4.5 )"))
    'zoom(3, 4.5)'
    """
    if not isinstance(text, str):
        raise ValueError(f"deformation: expected a text such as 'rotation' or 'gaussian(3)', got {text!r}")
    scanner = Scanner(text, "deformation")
    call = scanner.call("a deformation such as rotation or gaussian(3)")
    if call.name not in FAMILIES:
        raise scanner.unknown("deformation", call.name, FAMILIES, call.position)
    if not scanner.at_end():
        raise scanner.fail(f"expected the end of the text after {call.name!r}")
    family = FAMILIES[call.name]
    values = _words(scanner, call, family)
    try:
        numbers = family.from_numbers([value for value in call.arguments if not isinstance(value, str)])
        if values.keys() & numbers.keys():
            raise ValueError(f"expected {family.usage}")
        return family(**values, **numbers)
    except ValueError as error:
        raise scanner.fail(str(error), call.position) from None


def _words(scanner: Scanner, call: Call, family: type[Family]) -> dict[str, Any]:
    """Attributes from the words among the arguments."""
    values: dict[str, str] = {}
    for word in call.arguments:
        if not isinstance(word, str):
            continue
        attributes = [name for name, known in family.choices.items() if word in known]
        if not attributes:
            known = [word for choice in family.choices.values() for word in choice]
            raise scanner.unknown(f"word of {call.name!r}", word, known, call.position)
        if attributes[0] in values:
            raise scanner.fail(f"{call.name}: expected one {attributes[0]}, got {word!r} too", call.position)
        values[attributes[0]] = word
    return values

"""What ``attack.json`` and ``attack_images.safetensors`` say of a run, as the figures and pictures of a section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from hilbertnet.experiments.experiment import Curve
from hilbertnet.records import RunFolder, load_tensors
from hilbertnet.report.numbers import accuracy_range, draw, read_numbers
from hilbertnet.report.pictures import change_strip, png_uri
from hilbertnet.report.radii import accuracy_panel, certified_curve, interval_curve
from hilbertnet.report.words import clean, quantity

__all__ = ["attacks"]

_SIDE = 96  # pixels of a picture's larger side on the page
_NORMS = {"l2": "l2", "l_inf": "l∞"}


def attacks(run: RunFolder) -> dict[str, Any] | None:
    """The section on attacks; ``None`` where there are none.

    Raises
    ------
    ValueError
        If a file of it is there but is not what it should be.
    """
    found = read_numbers(run, "attack.json", ("threats", "examples"))
    if found is None:
        return None
    try:
        return {
            "data": clean(found.get("data") or ""),
            "part": clean(found.get("part") or ""),
            "examples": f"{found['examples']:,}",
            "threats": [_threat(number, threat) for number, threat in enumerate(found["threats"])],
            "pictures": _pictures(run, found),
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{run.path / 'attack.json'}: expected what hilbertnet attack writes, but {error!r}") from None


def _threat(number: int, threat: Mapping[str, Any]) -> dict[str, Any]:
    # the columns are those of attacks that found something the others had not
    names = list(threat["attacks"]) if len(threat["attacks"]) > 1 else []
    rows = [
        {
            "radius": f"{radius:g}",
            "attacked": accuracy_range(threat["attacked"][k]),
            "certified": accuracy_range(threat["certified"][k]) if threat["certified"] else None,
            "broken": [f"{threat['broken'][name][k]:,}" for name in names],
        }
        for k, radius in enumerate(threat["radii"])
    ]
    return {
        "title": f"Perturbations in {_NORMS[threat['norm']]}" if threat["norm"] in _NORMS else "Deformations",
        "name": clean(threat["threat"]),
        "unit": _unit(threat["norm"]),
        "attacks": [clean(name) for name in threat["attacks"]],
        "columns": [clean(name) for name in names],
        "clean": accuracy_range(threat["clean"]),
        "rows": rows,
        "certified": bool(threat["certified"]),
        "certified_by": clean(threat.get("certified_by") or ""),
        "not_certified": clean(threat.get("not_certified") or ""),
        "plot": _plot(number, threat),
    }


def _unit(norm: str) -> str:
    """What radii are measured in."""
    return f"{_NORMS[norm]} radius" if norm in _NORMS else "largest shift in pixels"


def _length(norm: str, length: float) -> str:
    """Of a perturbation, in words."""
    number = quantity(length)
    return f"{_NORMS[norm]} length {number}" if norm in _NORMS else f"shift of at most {number} pixels"


def _plot(number: int, threat: Mapping[str, Any]) -> Markup:
    share, radii = threat["clean"]["value"], threat["radii"]
    if threat.get("curve"):
        whole = threat["curve"]
        drawn = [Curve("attacked, worst case", tuple(whole["radii"]), tuple(100 * one for one in whole["accuracy"]))]
    else:
        at_zero = [] if 0 in radii else [0.0]
        values = [threat["clean"]] * len(at_zero) + threat["attacked"]
        drawn = [interval_curve("attacked, worst case", [*at_zero, *radii], values)]
    if threat.get("certified_curve"):
        drawn.append(certified_curve("certified", threat["certified_curve"], share))
    elif threat["certified"]:
        drawn.append(interval_curve("certified", radii, threat["certified"]))
    label = f"Clean, attacked and certified accuracy by {_unit(threat['norm'])}"
    return draw(accuracy_panel(drawn, share, _unit(threat["norm"])), f"threat-{number}", label)


def _pictures(run: RunFolder, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Clean and adversarial images with their differences; none for signals, or if they are of another attack."""
    path = run.path / "attack_images.safetensors"
    if not path.is_file():
        return []
    tensors, header = load_tensors(path, "AttackImages")
    if len(header["images"]) != found.get("images", len(header["images"])) or "clean" not in tensors:
        return []
    images, moved = tensors["clean"].numpy(), tensors["adversarial"].numpy()
    if images.ndim != 4 or len(images) != len(header["images"]):
        return []
    return [
        {
            "src": png_uri(change_strip(image, other - image, _SIDE, bounded=True)),
            "label": clean(about["label"]),
            "adversarial": clean(about["adversarial"]),
            "example": about["example"],
            "attack": clean(about["attack"]),
            "length": _length(about["norm"], about["length"]),
            "largest": quantity(float(abs(other - image).max())),
        }
        for image, other, about in zip(images, moved, header["images"], strict=True)
    ]

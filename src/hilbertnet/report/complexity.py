"""What ``norms.json`` says of a run, as the tables, plots and pictures of a section."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from hilbertnet.experiments.experiment import Panel
from hilbertnet.experiments.norms import images_path
from hilbertnet.records import RunFolder, load_tensors
from hilbertnet.report import svg
from hilbertnet.report.curves import curves
from hilbertnet.report.numbers import accuracy_range, draw, read_numbers
from hilbertnet.report.pictures import change_strip, png_uri
from hilbertnet.report.radii import accuracy_panel, certified_curve, interval_curve, margin_panels
from hilbertnet.report.words import clean, percent, quantity

__all__ = ["complexity"]

_SIDE = 96  # pixels of a picture's larger side on the page
_NORMS = {"||f||": "RKHS norm ‖f‖"}


def complexity(run: RunFolder) -> dict[str, Any] | None:
    """The section on complexity; ``None`` where there are no numbers.

    Raises
    ------
    ValueError
        If a file of it is there but is not what it should be.
    """
    path = run.path / "norms.json"
    found = read_numbers(run, "norms.json", ("outputs", "below", "margins", "attacked", "radii"))
    if found is None:
        return None
    try:
        return _section(run, found)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: expected what hilbertnet norms writes, but {error!r}") from None


def _stale(run: RunFolder, found: Mapping[str, Any]) -> bool:
    """Whether numbers are of another model than the run's."""
    with run.checkpoint_path.open("rb") as file:
        return found.get("model_sha256") != hashlib.file_digest(file, "sha256").hexdigest()


def _section(run: RunFolder, found: dict[str, Any]) -> dict[str, Any]:
    exact, below = found["norms"] is not None, found["below"]
    return {
        "stale": _stale(run, found),
        "exact": exact,
        "lipschitz": _number(found["lipschitz"]),
        "outputs": _output_rows(found),
        "preprocessed": bool(found["preprocessed"]),
        "function": clean(below["output"]).replace(" - ", " − "),
        "pair": " - " in below["output"],
        "norm": _number(below["exact"]),
        "at_most": _number(below["lipschitz_at_most"]),
        "below": [_below_row(bound, below["exact"]) for bound in below["bounds"]],
        "pictures": _maximizers(run, found),
        "above": _above(found["above"]),
        "not_above": clean(found["not_above"] or ""),
        "margins": _margins(found["margins"]),
        "bounds": _bound_rows(found["margin_bounds"]),
        "attacked": _attacked(found),
    }


def _number(value: float | None) -> str:
    """Three digits; what JSON keeps as nothing is infinite."""
    return "∞" if value is None else quantity(value)


def _output_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for k, name in enumerate(found["outputs"]):
        slope = found["from_below"][k]
        rows.append(
            {
                "name": clean(name),
                "below": "–" if slope is None else quantity(slope),
                "norm": "" if found["norms"] is None else quantity(found["norms"][k]),
                "above": _number(found["lipschitz_outputs"][k]),
            }
        )
    return rows


def _below_row(bound: Mapping[str, Any], exact: float | None) -> dict[str, str]:
    examples = [str(bound[key]) for key in ("index", "other") if bound[key] is not None]
    return {
        "name": clean(bound["name"]),
        "value": quantity(bound["value"]),
        "share": percent(bound["value"] / exact, 1) if exact else "",
        "examples": ", ".join(examples) or "–",
        "difference": "–" if bound["difference"] is None else quantity(bound["difference"]),
        "distance": "–" if bound["distance"] is None else quantity(bound["distance"]),
        "source": clean(bound["source"]),
    }


def _maximizers(run: RunFolder, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The pairs that attain the bounds, as pictures; none for signals."""
    path = images_path(run.path / "norms.json")
    if not path.is_file():
        return []
    tensors, header = load_tensors(path, "Maximizers")
    if header.get("model_sha256") != found.get("model_sha256") or header.get("output") != found["below"]["output"]:
        return []  # of an earlier call
    bounds = {bound["name"]: bound for bound in found["below"]["bounds"]}
    about = [bounds[pair["bound"]] for pair in header["pairs"]]
    shown = []
    for number, bound in enumerate(about):
        image, change = (tensors[name][number].numpy() for name in ("x", "moved"))
        if image.ndim == 3:
            strip = change_strip(image, change, _SIDE, bounded=not found["preprocessed"])
            shown.append(
                {
                    "src": png_uri(strip),
                    "name": clean(bound["name"]),
                    "value": quantity(bound["value"]),
                    "largest": quantity(float(abs(change).max())),
                }
            )
    return shown


def _above(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    reasons = dict.fromkeys(clean(bound["reason"]) for bound in found["bounds"] if bound["reason"])
    return {
        "bounds": [{"name": clean(one["name"]), "value": _number(one["value"])} for one in found["bounds"]],
        "reasons": list(reasons),
        "layers": [_layer_row(layer) for layer in found["layers"]],
    }


def _layer_row(layer: Mapping[str, Any]) -> dict[str, str]:
    linear = layer["operator_norm"] is not None
    return {
        "place": clean(layer["place"]) or "–",
        "operation": clean(layer["operation"]),
        "shape": " × ".join(map(str, layer["shape"])),
        "operator": quantity(layer["operator_norm"]) if linear else "",
        "at_most": _number(layer["at_most"]),
        "reshaped": _number(layer["reshaped"]) if linear else "",
        "frobenius": _number(layer["frobenius"]) if linear else "",
        "rows": _number(layer["rows"]) if linear else "",
        "lipschitz": _number(layer["lipschitz"]),
    }


def _margins(found: Mapping[str, Any]) -> dict[str, Any]:
    labels = (
        f"Distribution of the margins of {found['examples']:,} training examples",
        "The same in units of norms, on a logarithmic scale",
    )
    plots = [
        _draw_margins(panel, f"margins-{number}", label)
        for number, (panel, label) in enumerate(zip(margin_panels(found, _NORMS), labels, strict=False))
    ]
    norms = [(clean(_NORMS.get(name, name)), quantity(value)) for name, value in found["norms"].items()]
    return {
        "plots": plots,
        "norms": norms,
        "examples": f"{found['examples']:,}",
        "wrong": percent(found["not_positive"]),
    }


def _draw_margins(panel: Panel, name: str, label: str) -> Markup:
    """Half the page wide, with what curves are called above them: they leave no room inside."""
    axes = curves(panel, palette=svg.PAGE)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles, labels, frameon=False, fontsize=8, labelcolor=svg.PAGE.ink, loc="lower left", bbox_to_anchor=(0.0, 1.0)
    )
    return svg.inline_svg(axes.figure, name, label)  # type: ignore[arg-type]


def _bound_rows(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not found:
        return None
    rows = [
        {
            "epsilon": f"{bound['epsilon']:g}",
            "bound": quantity(bound["value"]),
            "empty": bound["value"] >= 1,
            "gamma": quantity(bound["gamma"]),
            **{name: quantity(bound["terms"][name]) for name in ("empirical", "complexity", "confidence")},
        }
        for bound in found
    ]
    return {
        "rows": rows,
        "level": f"{100 * (1 - found[0]['delta']):g}%",
        "count": f"{found[0]['count']:,}",
        "empty": all(row["empty"] for row in rows),
        "some": any(row["empty"] for row in rows),
    }


def _attacked(found: Mapping[str, Any]) -> dict[str, Any]:
    drawn = [interval_curve("attacked", found["radii"], found["attacked"])]
    if found["certified_curve"] is not None:
        drawn.append(certified_curve("certified", found["certified_curve"], found["clean"]))
    panel = accuracy_panel(drawn, found["clean"], "l2 radius")
    label = f"Accuracy on {found['test_examples']:,} held-out examples by radius, attacked and certified"
    rows = [
        {
            "radius": f"{radius:g}",
            "attacked": accuracy_range(found["attacked"][k]),
            "certified": accuracy_range(found["certified"][k]) if found["certified"] else None,
        }
        for k, radius in enumerate(found["radii"])
    ]
    return {
        "plot": draw(panel, "attacked", label),
        "rows": rows,
        "clean": percent(found["clean"], 1),
        "examples": f"{found['test_examples']:,}",
        "log": panel.log_x,
        "certified": bool(found["certified"]),
    }

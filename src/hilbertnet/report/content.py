"""What the record and the model say, as the words and tables of the page. Keys that older records lack are left out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from hilbertnet.architecture import Architecture
from hilbertnet.estimators import CKNClassifier, RegularizedClassifier
from hilbertnet.records import RunFolder
from hilbertnet.report.plain import parameter_count
from hilbertnet.report.words import clean, duration, factor, joined, percent, power, size

__all__ = ["cost_rows", "data_name", "headline", "incomplete", "layer_rows", "model_line", "non_expansive", "origin"]

_STAGES = {
    "load": "Read the data",
    "filters": "Learn filters",
    "features": "Encode training examples",
    "lambda": "Choose λ",
    "head": "Fit the head",
    "training": "Train end to end",
    "fit": "Read the data and fit",
    "test": "Test",
}


def data_name(record: Mapping[str, Any]) -> str:
    """What the data set is called."""
    named = record.get("data", {}).get("name") or record.get("settings", {}).get("data")
    return clean(named or "a data set")


def headline(record: Mapping[str, Any]) -> dict[str, str]:
    """The accuracy in words, as the record has it."""
    interval, n = record.get("test_accuracy_interval", {}), record["test_examples"]
    return {
        "accuracy": percent(record["test_accuracy"]),
        "low": f"{100 * interval['low']:.2f}" if "low" in interval else "",
        "high": f"{100 * interval['high']:.2f}" if "high" in interval else "",
        "level": f"{100 * interval.get('level', 0.95):g}%",
        "method": clean(interval.get("method", "Wilson")),
        "right": f"{round(record['test_accuracy'] * n):,}",
        "test": f"{n:,}",
        "train": f"{record['train_examples']:,}",
        "seed": clean(record.get("settings", {}).get("seed", "unknown")),
    }


def incomplete(record: Mapping[str, Any]) -> list[str]:
    """``9,000 of 10,000 official test images`` for each part that is not whole."""
    data = record.get("data", {})
    found, words = data.get("found", {}), {"train": "training"}
    return [
        f"{found[part]:,} of {number:,} official {words.get(part, part)} images"
        for part, number in data.get("official", {}).items()
        if found.get(part, number) < number
    ]


def model_line(record: Mapping[str, Any], model: CKNClassifier) -> str:
    """The model in one line."""
    network, loss = model.network_, str(record.get("settings", {}).get("loss") or model.head_.loss)
    counts = joined([f"{count:,}" for count in network.filters])
    parts = [
        *([f"preprocessing {record['preprocessing']}"] if record.get("preprocessing") else []),
        str(network.arch),
        f"{counts} filters",
        f"{features(record, model):,} features",
        f"{loss.replace('_', ' ')}, λ = {power(model.alpha_)}",
        *([f"regularizer {record['regularizer']}"] if record.get("regularizer") else []),
    ]
    return clean(" · ".join(parts))


def features(record: Mapping[str, Any], model: CKNClassifier) -> int:
    """How many features an example has."""
    return int(record.get("features") or math.prod(model.network_.output_shape(model.signal_shape_[1:])))


def layer_rows(model: CKNClassifier) -> list[dict[str, Any]]:
    """One row for each layer."""
    network = model.network_
    shapes = network.arch.shapes(model.signal_shape_[1:])
    rows = []
    for number, (layer, count, (_, space)) in enumerate(
        zip(network.arch.layers, network.filters, shapes, strict=True), start=1
    ):
        rows.append(
            {
                "number": number,
                "patch": " × ".join([str(layer.patch)] * network.axes),
                "kernel": clean(layer.kernel),
                "pool": clean(layer.pool or "none"),
                "filters": f"{count:,}",
                "output": " × ".join(map(str, (count, *space))),
                "slope": factor(layer.kernel.slope),
                "lipschitz": factor(layer.kernel.lipschitz),
            }
        )
    return rows


def non_expansive(arch: Architecture) -> str:
    """When a kernel map is non-expansive, and whether these are."""
    above = [str(number) for number, slope in enumerate(arch.slopes, start=1) if slope > 1]
    rule = "A layer’s kernel map φ is non-expansive, ‖φ(z) − φ(z′)‖ ≤ ‖z − z′‖, when κ′(1) ≤ 1"
    if not above:
        said = f"{rule}. Here all layers are, so the whole map moves two examples no further apart than they were."
    else:
        which = f"layer{'s' if len(above) > 1 else ''} {joined(above)}"
        if math.isinf(arch.lipschitz):
            meaning = "has no Lipschitz constant at all: two patches that are close may be mapped far apart"
            said = f"{rule}. That is not so in {which}, and the map {meaning}."
        else:
            said = (
                f"{rule}; otherwise distances may grow, by at most √κ′(1). That is so in {which}: a small change of "
                f"an example may become up to {factor(arch.lipschitz)} times as large (the product over layers), and "
                "bounds on stability hold with that factor."
            )
    if arch.layout == "ckn_kernel":
        said += (
            " In this layout (ckn_kernel) patches are not divided by their size, so each layer also multiplies by the "
            "square root of its patch’s size."
        )
    return said


def cost_rows(
    record: Mapping[str, Any], model: CKNClassifier | RegularizedClassifier, run: RunFolder
) -> list[tuple[str, str]]:
    """What the run took, and how large the model is."""
    seconds = record.get("seconds", {})
    rows = [(_STAGES.get(stage, clean(stage).capitalize()), duration(taken)) for stage, taken in seconds.items()]
    if len(rows) > 1:
        rows.append(("All of it", duration(sum(seconds.values()))))
    if record.get("peak_memory"):
        rows.append(("Peak memory", size(record["peak_memory"])))
    rows += _sizes(record, model)
    rows.append(("Checkpoint", size(run.checkpoint_path.stat().st_size)))
    machine = {"device": "Device", "threads": "Threads", "platform": "Machine"}
    return rows + [(title, clean(record[key])) for key, title in machine.items() if key in record]


def _sizes(record: Mapping[str, Any], model: CKNClassifier | RegularizedClassifier) -> list[tuple[str, str]]:
    if isinstance(model, RegularizedClassifier):
        return [("Parameters", f"{parameter_count(model.module_):,}")]
    filters = sum(layer.filters.numel() for layer in model.network_.layers)  # type: ignore[operator, misc]
    head = model.head_.weight.numel() + model.head_.bias.numel()
    return [
        ("Features of an example", f"{features(record, model):,}"),
        ("Parameters", f"{filters + head:,} ({filters:,} in filters, {head:,} in the head)"),
    ]


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """Where the numbers come from: command, versions, date, digests, protocol."""
    settings, split, data = (record.get(key) or {} for key in ("settings", "split", "data"))
    rows = [
        ("Data", clean(data.get("summary") or data_name(record))),
        ("Split", clean(", ".join(_split_words(split)))),
        ("Seed", clean(settings.get("seed", ""))),
        ("Date", clean(record.get("time", "")).replace("T", " ").replace("Z", " UTC")),
        ("Protocol", clean(record.get("protocol", ""))),
    ]
    chosen = {
        key: value for key, value in settings.items() if value is not None and key not in ("data", "seed", "device")
    }
    rows.append(("Settings", clean("; ".join(f"{key} {_plain(value)}" for key, value in chosen.items()))))
    digests = [
        (f"{where}, {key.removesuffix('_sha256').removesuffix('sha256') or 'all'}", clean(value))
        for where, part in (("data", data), ("split", split))
        for key, value in part.items()
        if key.endswith("sha256")
    ]
    command = record.get("command")
    return {
        "rows": [(title, text) for title, text in rows if text],
        "digests": digests,
        "versions": [(clean(name), clean(version)) for name, version in record.get("versions", {}).items()],
        "command": clean(shlex.join(map(str, command))) if command else None,
    }


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _split_words(split: Mapping[str, Any]) -> list[str]:
    words = [str(split["kind"])] if "kind" in split else []
    if split.get("held_out") is not None:
        words.append(f"{100 * split['held_out']:.3g}% held out")
    counts = [
        f"{split[part]:,} for {word}" for part, word in (("train", "training"), ("test", "test")) if part in split
    ]
    return words + counts

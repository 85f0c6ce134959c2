"""One HTML page from a run folder: nothing else is read, and the page asks for nothing outside itself."""

from __future__ import annotations

import importlib.resources
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from hilbertnet.records import RunFolder, atomic_path
from hilbertnet.report import content, figures, plain, plots, results, svg
from hilbertnet.report.attacks import attacks
from hilbertnet.report.complexity import complexity
from hilbertnet.report.words import clean, duration, joined, percent, power
from hilbertnet.training import Epoch

if TYPE_CHECKING:
    from hilbertnet.estimators import CKNClassifier, RegularizedClassifier

__all__ = ["write_report"]

_LONG_TABLE = 20  # rows above which a table scrolls in a box of its own


def write_report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """One self-contained HTML page about a finished run, from its folder alone.

    Parameters
    ----------
    folder
        A run folder, or a folder of ``seed-*`` run folders: each finished one gets its page, and the folder a page with
        a table of them.
    out
        The file; default ``report.html`` in `folder`. The pages of single seeds stay in their folders.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        If there is no finished run, or a file of it is not what it should be.
    OSError
        If a file of it cannot be read.
    """
    run = RunFolder(Path(folder))
    target = run.path / "report.html" if out is None else Path(out)
    seeds = _seed_runs(run.path)
    if not run.finished and any(each.finished for each in seeds):
        text = _seeds_page(run.path, seeds, target)
    else:
        text = _run_page(run)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return target


def _seed_runs(folder: Path) -> list[RunFolder]:
    """Sub-folders of single seeds, in the order of their numbers."""
    numbered = [(path.name.removeprefix("seed-"), path) for path in folder.glob("seed-*") if path.is_dir()]
    found = sorted((int(number), path) for number, path in numbered if number.isdigit())
    return [RunFolder(path) for _, path in found]


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hilbertnet.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = importlib.resources.files("hilbertnet.report").joinpath("style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(style), **values)


# --- one run


def _run_page(run: RunFolder) -> str:
    from hilbertnet.estimators import load_classifier

    record = run.read_record()
    _check_record(record, run.record_path)
    model = load_classifier(run.checkpoint_path)
    pictures = figures.read_pictures(run)
    return _render(
        "page.html.jinja",
        name=content.data_name(record),
        head=content.headline(record),
        incomplete=content.incomplete(record),
        preprocessing=clean(record.get("preprocessing") or ""),
        training=_training(record),
        images=len(model.signal_shape_) == 3,
        letters=clean(str((record.get("data") or {}).get("alphabet") or "").partition("+")[0]),
        **_model(record, model, pictures),
        **_classes(run, record, model),
        pictures=pictures.present,
        mistakes=figures.mistakes(pictures),
        samples=0 if pictures.samples is None else len(pictures.samples),
        complexity=complexity(run),
        attacks=attacks(run),
        cost=content.cost_rows(record, model, run),
        origin=content.origin(record),
    )


def _model(
    record: Mapping[str, Any], model: CKNClassifier | RegularizedClassifier, pictures: figures.Pictures
) -> dict[str, Any]:
    """What the model is, and what is seen inside it: more of kernel networks than of plain ones."""
    from hilbertnet.estimators import CKNClassifier

    if not isinstance(model, CKNClassifier):
        return {
            "kernel": False,
            "model": plain.model_line(record, model),
            "modules": plain.module_rows(model),
            "first": figures.first_filters(model, None),
        }
    seen = figures.look(model, pictures)
    return {
        "kernel": True,
        "model": content.model_line(record, model),
        "layers": content.layer_rows(model),
        "non_expansive": content.non_expansive(model.network_.arch),
        "validation": _validation(record, model),
        "first": figures.first_filters(model, seen),
        "deeper": figures.deeper_filters(model, seen),
        "maps": figures.feature_maps(model, seen),
    }


def _check_record(record: Mapping[str, Any], path: Path) -> None:
    missing = [key for key in ("test_accuracy", "test_examples", "train_examples") if key not in record]
    if missing:
        raise ValueError(f"{path}: expected the record of a fitted model, found no {missing[0]}")


def _validation(record: Mapping[str, Any], model: CKNClassifier) -> dict[str, Any]:
    points, chosen = model.validation_curve_, model.alpha_
    plot = None
    if points:
        label = f"Accuracy on held-out folds of the training data for {len(points)} values of lambda"
        axes = plots.validation_curve(points, chosen, palette=svg.PAGE)
        plot = svg.inline_svg(_figure(axes), "validation", label)
    return {
        "plot": plot,
        "chosen": power(chosen),
        "tried": len(points),
        "protocol": clean(record.get("protocol", "")),
    }


def _training(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The curve of training by gradient steps; ``None`` where filters were learned without labels."""
    history = [Epoch(**{key: _number(value) for key, value in epoch.items()}) for epoch in record.get("history", [])]
    if not history:
        return None
    held_out = any(epoch.validation_accuracy is not None for epoch in history)
    label = f"Accuracy on training batches{' and on held-out data' if held_out else ''} over {len(history)} epochs"
    plot = svg.inline_svg(_figure(plots.training_curve(history, palette=svg.PAGE)), "training", label)
    return {"plot": plot, "held_out": held_out}


def _number(value: Any) -> Any:
    """Records spell out what JSON has no numbers for."""
    return float({"infinity": "inf", "not a number": "nan"}[value]) if isinstance(value, str) else value


def _figure(axes: Any) -> Any:
    return axes.figure


def _classes(run: RunFolder, record: Mapping[str, Any], model: CKNClassifier | RegularizedClassifier) -> dict[str, Any]:
    """Everything about single classes: the matrix as a plot, and the tables."""
    fitted = [str(label) for label in model.classes_]
    named = [str(name) for name in record.get("data", {}).get("classes", [])]
    order = named if set(fitted) <= set(named) else fitted
    counts, classes = results.read_counts(run.predictions_path, order, record["test_examples"])
    rows = results.class_rows(counts, classes)
    label = f"Confusion matrix of {len(classes)} classes on {int(counts.sum()):,} test examples"
    axes = plots.confusion_matrix(counts, classes, palette=svg.PAGE)
    return {
        "matrix": svg.inline_svg(_figure(axes), "confusion", label),
        "matrix_size": "small" if len(classes) <= 5 else "large" if len(classes) <= _LONG_TABLE else "huge",
        "classes": rows,
        "long": len(rows) > _LONG_TABLE,
        "confusions": results.confusion_rows(counts, classes),
        "errors": int(counts.sum() - counts.trace()),
        "numbered": len(classes) <= _LONG_TABLE,
    }


# --- several seeds


def _seeds_page(folder: Path, seeds: list[RunFolder], target: Path) -> str:
    finished = [run for run in seeds if run.finished]
    records = [run.read_record() for run in finished]
    rows = []
    for run, record in zip(finished, records, strict=True):
        page = write_report(run.path)
        link = Path(os.path.relpath(page, target.parent)).as_posix()
        rows.append(_seed_row(run, record) | {"link": quote(link)})
    rates = [100 * record["test_accuracy"] for record in records]
    official = all(record.get("split", {}).get("kind") == "official" for record in records)
    return _render(
        "seeds.html.jinja",
        name=content.data_name(records[0]),
        incomplete=content.incomplete(records[0]),
        rows=rows,
        mean=f"{statistics.fmean(rates):.2f}%",
        spread=f"{statistics.stdev(rates):.2f}" if len(rates) > 1 else None,
        model=_common_model(records[0]),
        official=official,
        unfinished=[clean(run.path.name) for run in seeds if not run.finished],
        origin=content.origin(records[0]),
    )


def _seed_row(run: RunFolder, record: Mapping[str, Any]) -> dict[str, str]:
    interval = record.get("test_accuracy_interval", {})
    return {
        "seed": run.path.name.removeprefix("seed-"),
        "accuracy": percent(record["test_accuracy"]),
        "interval": f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f}" if "low" in interval else "–",
        "lam": power(record["lambda"]) if "lambda" in record else "–",
        "examples": f"{record['test_examples']:,}",
        "seconds": duration(sum(record.get("seconds", {}).values())),
    }


def _common_model(record: Mapping[str, Any]) -> str:
    arch, regularizer = record.get("architecture"), record.get("regularizer")
    counts = joined([f"{count:,}" for count in record.get("filters", [])])
    parts = [
        arch.get("layers", "") if arch else record.get("model", ""),
        f"{counts} filters" if counts else "",
        f"regularizer {regularizer}" if regularizer else "",
    ]
    return clean(" · ".join(part for part in parts if part))

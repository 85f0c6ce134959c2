"""``hilbertnet fit``: a model from data, and the run folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hilbertnet.cli.options import (
    ARCHITECTURE,
    Axes,
    Channels,
    Data,
    Device,
    Label,
    Length,
    Letters,
    Preprocess,
    Size,
    complete_architecture,
    complete_path,
    how_read,
    one_of,
)

__all__ = ["HELP", "fit"]

HELP = """Fit a convolutional kernel network, or another network, to DATA and measure it on held-out examples.

Examples:

    hilbertnet fit digits

    hilbertnet fit digits --seeds 5 --out runs/digits

    hilbertnet fit digits --architecture "3 exp(0.6) - | 3 exp(0.6) gauss2" --filters 32,128 --train 300

    hilbertnet fit digits --preprocess "contrast | zca(1e-4)" --filters 32,128

    hilbertnet fit digits --training supervised --filters 16,32 --epochs 10 --augment "crop(1)"

    hilbertnet fit digits --model cnn --regularize "0.1*tau(images=8, variants=8)" --train 300

    hilbertnet fit proteins.fasta --label "class=(\\w+)" --length 300 --model motif --regularize "0.1*grad_l2"

Interrupted (Ctrl-C) and given again, a command goes on where it was.
"""


def _help(context: typer.Context, wanted: bool) -> None:
    """The help, and the terms of regularizers, which take torch to know."""
    if not wanted or context.resilient_parsing:
        return
    from hilbertnet.regularization.terms import describe

    typer.echo(context.get_help())
    typer.echo("Terms of --regularize\n\n" + describe())
    raise typer.Exit


def fit(
    data: Data,
    model: Annotated[
        str,
        typer.Option(
            help="ckn, a convolutional kernel network; cnn, a small plain network for signals of any shape; motif, for "
            "sequences, filters that each look for one motif; vgg or resnet, for images of 32 x 32 and its multiples; "
            "or package.module:function, a function from the shape (channels, height, width) and the number of classes "
            "to a torch module.",
            autocompletion=one_of("ckn", "cnn", "motif", "vgg", "resnet"),
        ),
    ] = "ckn",
    regularize: Annotated[
        str | None,
        typer.Option(
            help="Penalties, a robust loss and constraints, such as 'delta(1.0) + 0.1*tau + sn(1.5)'; the terms are "
            "listed below. A ckn is then trained with labels, and its head is not fitted exactly between the epochs."
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of models other than ckn.")] = 0.0,
    architecture: Annotated[str | None, typer.Option(help=ARCHITECTURE, autocompletion=complete_architecture)] = None,
    filters: Annotated[str | None, typer.Option(help="Filters of each layer, such as 64,256.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="squared_hinge (default), logistic or ridge; other models than ckn have logistic.",
            autocompletion=one_of("squared_hinge", "logistic", "ridge"),
        ),
    ] = None,
    preprocess: Preprocess = None,
    size: Size = None,
    channels: Channels = None,
    axes: Axes = None,
    label: Label = None,
    alphabet: Letters = None,
    length: Length = None,
    training: Annotated[
        str | None,
        typer.Option(
            help="unsupervised: filters are learned without labels. supervised: they are then trained end to end. "
            "Default: unsupervised, without --regularize.",
            autocompletion=one_of("unsupervised", "supervised"),
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of supervised training. Default: 30; other models: 100.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of supervised training, at first. Default: 0.03; other models: 0.05.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Of supervised training. Default: 128; other models: 32.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="Random changes of images in supervised training, such as 'crop(4) | flip'.")
    ] = None,
    train: Annotated[int | None, typer.Option(help="Keep only so many training examples.")] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Share held out for the test. Default: the official test set, or a third where there is none."
        ),
    ] = None,
    patches: Annotated[int | None, typer.Option(help="Patches clustered in each layer.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the filters and the folds.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many runs, with seeds in a row.")] = 1,
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/DATA-TIME.", autocompletion=complete_path)
    ] = None,
    wants_help: Annotated[
        bool, typer.Option("--help", "-h", is_eager=True, callback=_help, help="Show this message and exit.")
    ] = False,
) -> None:
    from hilbertnet.experiments.fit import FitSettings, check_device, fit_seeds

    settings = FitSettings(
        data=data,
        architecture=architecture,
        filters=_read_filters(filters),
        loss=loss,
        seed=seed,
        held_out=held_out,
        train=train,
        patches=patches,
        device=check_device(device),
        preprocessing=preprocess,
        **how_read(size, channels, axes, label, alphabet, length),
        training=training,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        augmentation=augment,
        model=model,
        regularize=regularize,
        weight_decay=weight_decay,
    )
    name = os.path.basename(os.path.abspath(data))[:80]
    folder = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    records: list[dict[str, Any]] = []
    try:
        for _, record in fit_seeds(settings, folder, seeds):
            if not records:
                _say_model(record)
            records.append(record)
            _say_run(record)
    except KeyboardInterrupt:
        _say_interrupted(folder, out is None, len(records))
        raise
    if len(records) > 1:
        _say_mean(records)
    typer.echo(f"run folder: {folder}")


def _read_filters(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"filters: expected positive whole numbers such as 64,256, got {text!r}")
    return tuple(map(int, parts))


def _say_model(record: dict[str, Any]) -> None:
    typer.echo(record["data"]["summary"])
    if record.get("regularizer"):
        typer.echo(f"regularizer: {record['regularizer']}")
    if "architecture" in record:
        _say_architecture(record)
    else:
        typer.echo(f"model: {record['model']}, {record['parameters']:,} parameters")


def _say_architecture(record: dict[str, Any]) -> None:
    filters = " and ".join(map(str, record["filters"]))
    before = f"{record['preprocessing']}, then " if record["preprocessing"] else ""
    typer.echo(f"architecture: {before}{record['architecture']['layers']}, {filters} filters")
    slopes = ", ".join(_number(slope) for slope in record["kappa_slopes"])
    bound = _number(record["lipschitz_bound"])
    typer.echo(f"kappa'(1) per layer: {slopes}; Lipschitz constant of the kernel map at most {bound}")


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _say_run(record: dict[str, Any]) -> None:
    interval = record["test_accuracy_interval"]
    chosen = f", lambda {record['lambda']:.0e}" if "lambda" in record else ""
    typer.echo(
        f"seed {record['settings']['seed']}: {100 * record['test_accuracy']:.2f}% "
        f"[{100 * interval['low']:.2f}, {100 * interval['high']:.2f}] of {record['test_examples']:,} test examples "
        f"({record['train_examples']:,} for training){chosen}, "
        f"{sum(record['seconds'].values()):.1f} s"
    )


def _say_mean(records: list[dict[str, Any]]) -> None:
    import statistics

    values = [100 * record["test_accuracy"] for record in records]
    mean, spread = statistics.mean(values), statistics.stdev(values)
    typer.echo(f"mean of {len(values)} seeds: {mean:.2f}%, standard deviation {spread:.2f}")


def _say_interrupted(folder: Path, unnamed: bool, finished: int) -> None:
    if not folder.exists():
        typer.echo("hilbertnet: interrupted before anything was learned", err=True)
        return
    runs = f"{finished} finished {'run' if finished == 1 else 'runs'} and " if finished else ""
    again = f"the same command with --out {folder}" if unnamed else "the same command"
    typer.echo(
        f"hilbertnet: interrupted; {folder} keeps {runs}what was learned, and {again} goes on from there", err=True
    )

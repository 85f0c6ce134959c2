"""``hilbertnet predict``: a run's model on other examples."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hilbertnet.cli.options import Data, Device, Run, complete_path, one_of

__all__ = ["HELP", "predict"]

HELP = """Predict the classes of the examples of DATA with the model of RUN, as CSV on standard output.

DATA is as for fit, but needs no labels: a folder may have its images directly inside, an .npz only x, and headers of a
FASTA file need not name classes.

Examples:

    hilbertnet predict runs/digits digits --out predictions.csv

    hilbertnet predict runs/digits photos --resize > predictions.csv
"""


def predict(
    run: Run,
    data: Data,
    part: Annotated[
        str | None,
        typer.Option(
            help="train or test, where DATA has an official test set. Default: that test set, else everything.",
            autocompletion=one_of("train", "test"),
        ),
    ] = None,
    resize: Annotated[
        bool,
        typer.Option(
            "--resize", help="Resize the images of a folder, and cut longer sequences, to what the run was fitted on."
        ),
    ] = False,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="CSV file, written whole or not at all. Default: standard output.", autocompletion=complete_path
        ),
    ] = None,
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.predict import predict_run
    from hilbertnet.records import atomic_path

    how: dict[str, Any] = {"part": part, "resize": resize, "device": check_device(device)}
    if out is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
        try:
            predicted = predict_run(run, data, sys.stdout, **how)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads the table has read enough; Python would complain when it closes the stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        _say_predicted(predicted)
        return
    if out.is_dir():
        raise ValueError(f"out: expected a file, got the folder {out}")
    with atomic_path(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        predicted = predict_run(run, data, file, **how)
    _say_predicted(predicted)
    typer.echo(f"predictions: {out}", err=True)


def _say_predicted(predicted: Any) -> None:
    """On standard error: standard output is the table."""
    from hilbertnet.data.dataset import printable

    total = sum(predicted.counts.values())
    most = [f"{printable(name)} {count:,}" for name, count in list(predicted.counts.items())[:10]]
    more = len(predicted.counts) - len(most)
    if more > 0:
        most.append(f"{more} more classes")
    typer.echo(f"{total:,} examples: {', '.join(most)}", err=True)
    if predicted.accuracy is not None:
        typer.echo(f"accuracy: {predicted.accuracy}", err=True)
    if predicted.strangers:
        names = ", ".join(printable(name) for name in predicted.strangers[:10])
        typer.echo(f"hilbertnet: warning: labels that the model does not know: {names}", err=True)
    if predicted.seen:
        typer.echo("hilbertnet: warning: the run was fitted on some of these examples", err=True)

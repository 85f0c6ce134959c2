"""``hilbertnet reproduce``: published tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import Device, complete_path, one_of

__all__ = ["HELP", "reproduce"]

HELP = """Make a published table again: every run in a folder of its own, and the table from their records.

Finished runs are not done twice; an interrupted one goes on.

Examples:

    hilbertnet reproduce cifar-features --only small-unsupervised

    hilbertnet reproduce cifar-features --scale paper --device cuda
"""


def reproduce(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="cifar-features.", autocompletion=one_of("cifar-features"))
    ],
    scale: Annotated[
        str,
        typer.Option(help="laptop (two cores) or paper (as published).", autocompletion=one_of("laptop", "paper")),
    ] = "laptop",
    only: Annotated[list[str] | None, typer.Option(help="Name of a run; may be given more than once.")] = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs. Default: runs/EXPERIMENT-SCALE.", autocompletion=complete_path),
    ] = None,
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.reproduce import reproduce as runs
    from hilbertnet.experiments.reproduce import table

    folder = out or Path("runs") / f"{experiment}-{scale}"
    records = {}
    for name, record in runs(experiment, folder, scale=scale, only=only or (), device=check_device(device)):
        records[name] = record
        typer.echo(f"{name}: done", err=True)
    typer.echo(table(records))
    typer.echo(f"table: {folder / 'table.md'}", err=True)

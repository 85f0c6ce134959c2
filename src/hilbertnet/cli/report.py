"""``hilbertnet report``: a page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import Run, complete_path

__all__ = ["HELP", "report"]

HELP = """Write one self-contained page, report.html, about the run or the seeds in RUN.

Examples:

    hilbertnet report runs/digits

    hilbertnet report runs/digits --out digits.html
"""


def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Where to. Default: RUN/report.html.", autocompletion=complete_path)
    ] = None,
) -> None:
    from hilbertnet.report import write_report

    typer.echo(f"report: {write_report(run, out)}")

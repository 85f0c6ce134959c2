"""``hilbertnet gram``: exact kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import (
    ARCHITECTURE,
    Channels,
    Data,
    Device,
    Preprocess,
    Size,
    complete_architecture,
    complete_path,
    one_of,
    read_size,
)

__all__ = ["HELP", "gram"]

HELP = """Compute the Gram matrix of the examples of DATA under the exact kernel of an architecture.

Examples:

    hilbertnet gram digits --plan

    hilbertnet gram digits --kernel "3 exp(0.6) - | 3 exp(0.6) gauss2" --examples 100 --out digits.npz

    hilbertnet gram digits --kernel "3 arccos1 gauss2" --kind ntk --examples 100 --out ntk.npz
"""


def gram(
    data: Data,
    kernel: Annotated[str | None, typer.Option(help=ARCHITECTURE, autocompletion=complete_architecture)] = None,
    kind: Annotated[str, typer.Option(help="ckn or ntk.", autocompletion=one_of("ckn", "ntk"))] = "ckn",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would cost: pairs, time, memory.")] = False,
    examples: Annotated[
        int | None, typer.Option(help="Keep only so many examples, in the proportions of the classes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of examples.")] = 0,
    preprocess: Preprocess = None,
    size: Size = None,
    channels: Channels = None,
    memory: Annotated[str | None, typer.Option(help="Budget, such as 2GB, for everything but the images.")] = None,
    dtype: Annotated[
        str, typer.Option(help="float64 or float32.", autocompletion=one_of("float64", "float32"))
    ] = "float64",
    device: Device = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            help=".npz (gram, y, class_names, examples, record) or .npy (the matrix alone).",
            autocompletion=complete_path,
        ),
    ] = Path("gram.npz"),
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.gram import GramSettings, gram_file, gram_plan

    settings = GramSettings(
        data=data,
        kernel=kernel,
        kind=kind,  # type: ignore[arg-type]
        examples=examples,
        seed=seed,
        preprocessing=preprocess,
        size=read_size(size),
        channels=channels,
        memory=memory,
        dtype=dtype,
        device=check_device(device),
    )
    if plan:
        found, cost = gram_plan(settings)
        typer.echo(f"kernel: {found.kind} {found.arch}")
        typer.echo(str(cost))
        return
    found, (rows, columns) = gram_file(settings, out)
    typer.echo(f"kernel: {found.kind} {found.arch}")
    typer.echo(f"Gram matrix {rows:,} x {columns:,}: {out}")

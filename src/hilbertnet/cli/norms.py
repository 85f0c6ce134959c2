"""``hilbertnet norms``: how complex a fitted model is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import Device, complete_path, read_numbers

__all__ = ["HELP", "norms"]

HELP = """Norms of a run's decision functions: exactly or from above, from below on data, with margins and certificates.

The numbers go to RUN/norms.json, which `hilbertnet report` shows.

Examples:

    hilbertnet norms runs/digits

    hilbertnet norms runs/digits --radii 0.05,0.1,0.2 --output 3 --output 8

    hilbertnet norms hilbertnet.networks:mnist_net --shape 1x28x28

A run may also be package.module:function, a function without arguments that returns a torch module: its
norms are bounded from above, layer by layer.
"""


def norms(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run folder, or package.module:function.", autocompletion=complete_path),
    ],
    shape: Annotated[str | None, typer.Option(help="CHANNELSxHEIGHTxWIDTH of a module's inputs.")] = None,
    radii: Annotated[str, typer.Option(help="Of l2 balls: attacked and certified.")] = "0.03,0.1,0.3,1",
    examples: Annotated[int, typer.Option(help="Held-out examples that are looked at.")] = 200,
    output: Annotated[
        list[str] | None,
        typer.Option(help="Class whose decision function is bounded from below; given twice, the difference of two."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of attacks and searches.")] = 0,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="A JSON file for the numbers. Default: RUN/norms.json.", autocompletion=complete_path),
    ] = None,
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.norms import module_norms, run_norms, write_norms

    if not Path(run).is_dir() and ":" in run:
        if out is not None or output:
            raise ValueError(f"{'output' if output else 'out'}: only for a run folder, got package.module:function")
        typer.echo(str(module_norms(run, _read_shape(shape))))
        return
    if shape is not None:
        raise ValueError("shape: only for package.module:function; a run knows the shape of its images")
    asked = {"examples": examples, "radii": read_numbers("radii", radii), "output": output or [], "seed": seed}
    found = run_norms(Path(run), **asked, device=check_device(device))  # type: ignore[arg-type]
    typer.echo(str(found))
    target = Path(run) / "norms.json" if out is None else out
    write_norms(target, found, Path(run), **asked)
    typer.echo(f"norms: {target}", err=True)


def _read_shape(text: str | None) -> tuple[int, ...]:
    if text is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text):
        raise ValueError(f"shape: expected CHANNELSxHEIGHTxWIDTH or CHANNELSxLENGTH, such as 3x32x32, got {text!r}")
    return tuple(map(int, text.split("x")))

"""``hilbertnet spectrum``: Mercer eigenvalues of dot-product kernels on the sphere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import complete_path, one_of, read_numbers
from hilbertnet.cli.reproduce import draw

__all__ = ["HELP", "spectrum"]

HELP = """Mercer eigenvalues of a dot-product kernel, or of a stack of them, on the unit sphere of a dimension.

Examples:

    hilbertnet spectrum arccos1 --dimension 10

    hilbertnet spectrum arccos1 --kind both --dimension 3 --degrees 200 --out decay.svg

    hilbertnet spectrum "arccos1 | arccos1" --kind ntk --dimension 5 --degrees 20

    hilbertnet spectrum "exp(0.6)" --dimension 10 --degrees 12 --lam 0.01,0.0001

The tangent kernel (ntk) of arccos1 is that of a two-layer ReLU network; the kernel itself, ckn, of its random features.
"""


def spectrum(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL",
            help="Text form, such as arccos1 or 'exp(0.6)'; layers with | between them.",
            autocompletion=one_of("arccos0", "arccos1", "exp(0.6)", "inverse", "linear"),
        ),
    ],
    dimension: Annotated[int, typer.Option(help="Of the space around the sphere, 2 or more.")] = 10,
    degrees: Annotated[int, typer.Option(help="The largest degree.")] = 40,
    kind: Annotated[str, typer.Option(help="ckn, ntk or both.", autocompletion=one_of("ckn", "ntk", "both"))] = "ckn",
    lam: Annotated[
        str | None, typer.Option(help="Degrees of freedom at these lambdas, with commas between them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A picture: .svg, .png or .pdf.", autocompletion=complete_path)
    ] = None,
) -> None:
    from hilbertnet.experiments.spectra import SUFFIXES, decay_panel, spectra
    from hilbertnet.records import known

    if out is not None and out.suffix not in SUFFIXES:
        raise ValueError(f"out: expected a file that ends in {', '.join(SUFFIXES)}, got {out}")
    found = spectra(kernel, dimension, degrees, kind)
    lambdas = () if lam is None else read_numbers("lam", lam)
    typer.echo("\n\n".join(one.text(lambdas) for one in found))
    if out is not None:
        shown = {str(one.spectrum.kernel): (one.logs, known(one.spectrum.predicted)) for one in found}
        draw([decay_panel(shown, dimension)], out)
        typer.echo(str(out), err=True)

"""``hilbertnet stability``: how far representations move under deformations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import (
    Axes,
    Channels,
    Data,
    Device,
    Size,
    complete_path,
    how_read,
    one_of,
    read_numbers,
)
from hilbertnet.cli.reproduce import draw

__all__ = ["HELP", "stability"]

HELP = """Measure how far representations of the examples of DATA move under deformations, relative to their norm.

Examples:

    hilbertnet stability digits --representation pixels --representation "ckn: 3 exp(0.6) gauss2"

    hilbertnet stability digits --representation "ckn:" --representation "ntk:" --deformation rotation --sizes 3,10,30

    hilbertnet stability digits --representation "ckn:" --deformation "gaussian(3)" --sizes 0.03,0.1 --bounds

    hilbertnet stability digits --deformation handwriting --sizes 0.1,0.3,1,3 --out stability

A representation is pixels, an exact kernel (ckn: or ntk: and an architecture, by default one by the images' size),
a run folder that fit left, or package.module:function, a function without arguments that returns a torch module or any
other map from images to features. All are measured on the same deformations.
"""


def stability(
    data: Data,
    representation: Annotated[
        list[str] | None,
        typer.Option(
            help="What moves; may be given more than once.",
            autocompletion=lambda incomplete: one_of("pixels", "ckn:", "ntk:")(incomplete) + complete_path(incomplete),
        ),
    ] = None,
    deformation: Annotated[
        str,
        typer.Option(
            help="A family of fields, such as rotation, zoom, shear, translation, gaussian(3); or handwriting, as of "
            "infinite MNIST, or 'handwriting, translated'.",
            autocompletion=one_of("translation", "rotation", "zoom", "shear", "gaussian(3)", "handwriting"),
        ),
    ] = "gaussian(3)",
    sizes: Annotated[
        str, typer.Option(help="Increasing, in the deformation's unit: pixels, degrees, sup of the gradient, alpha.")
    ] = "0.03,0.1,0.3",
    images: Annotated[int, typer.Option(help="Examples, in the proportions of the classes.")] = 20,
    draws: Annotated[int, typer.Option(help="Deformations of every example.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the examples and the deformations.")] = 0,
    bounds: Annotated[
        bool, typer.Option("--bounds", help="Evaluate the stability theorems beside exact kernels.")
    ] = False,
    size: Size = None,
    channels: Channels = None,
    axes: Axes = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the record, the table and two pictures.", autocompletion=complete_path),
    ] = None,
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.stability import StabilitySettings, measure_stability, write_stability
    from hilbertnet.report.deformed import draw_deformed

    settings = StabilitySettings(
        data=data,
        representations=tuple(representation or ("pixels", "ckn:")),
        deformation=deformation,
        sizes=read_numbers("sizes", sizes),
        images=images,
        draws=draws,
        seed=seed,
        **how_read(size, channels, axes),
        device=check_device(device),
        bounds=bounds,
    )
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, got the file {out}")
    result = measure_stability(settings)
    typer.echo(str(result))
    if out is not None:
        for path in write_stability(out, settings, result, draw, draw_deformed):
            typer.echo(str(path), err=True)

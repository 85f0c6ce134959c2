"""``hilbertnet attack``: how much accuracy adversaries leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilbertnet.cli.options import (
    DATA,
    Axes,
    Channels,
    Device,
    Label,
    Length,
    Letters,
    Size,
    complete_data,
    complete_path,
    how_read,
    one_of,
    read_numbers,
)
from hilbertnet.cli.reproduce import draw

__all__ = ["HELP", "attack"]

HELP = """Clean, attacked and certified accuracy of a run against the radius of perturbations, as a table and a figure.

The results go to RUN/attack.json, attack_images.safetensors and attack.svg, which `hilbertnet report` shows.

Examples:

    hilbertnet attack runs/digits

    hilbertnet attack runs/digits --norm linf --radii 0.01,0.03,0.1 --attacks pgd,apgd --examples 500

    hilbertnet attack runs/digits --attacks fmn,deformation --shifts 0.5,1,2

    hilbertnet attack runs/digits photos --out attacked

    hilbertnet attack my_package.nets:make mnist --norm linf --radii 0.1,0.3

By default the examples are those that the run held out. A run may also be package.module:function, a function without
arguments that returns a torch module from images in [0, 1] to logits; DATA has to be given then. Interrupted (Ctrl-C)
and given again, a command goes on where it was.
"""


def attack(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run folder, or package.module:function.", autocompletion=complete_path),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help=f"{DATA} Default: what the run held out.",
            autocompletion=complete_data,
        ),
    ] = None,
    norm: Annotated[str, typer.Option(help="l2 or linf.", autocompletion=one_of("l2", "linf"))] = "l2",
    radii: Annotated[
        str | None, typer.Option(help="Of the balls, for pixels in [0, 1]. Default: 0.1,0.3,1; linf: 0.01,0.03,0.1.")
    ] = None,
    attacks: Annotated[
        str,
        typer.Option(help="Of fgm, pgd, apgd, apgd-t (targeted), fmn (minimal norm) and deformation, with commas."),
    ] = "pgd,apgd,fmn",
    restarts: Annotated[int, typer.Option(help="Of pgd, apgd and deformation, on what is left.")] = 1,
    shifts: Annotated[str, typer.Option(help="Largest shifts of deformations, in pixels.")] = "0.5,1",
    gradient: Annotated[float, typer.Option(help="Largest gradient of deformations.")] = 0.5,
    examples: Annotated[int, typer.Option(help="How many are attacked.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the examples and the attacks.")] = 0,
    size: Size = None,
    channels: Channels = None,
    axes: Axes = None,
    label: Label = None,
    alphabet: Letters = None,
    length: Length = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results. Default: the run's own; of a module, one inside runs.",
            autocompletion=complete_path,
        ),
    ] = None,
) -> None:
    from hilbertnet.experiments import attack as work
    from hilbertnet.experiments.fit import check_device

    settings = work.AttackSettings(
        run=run,
        data=data,
        norm=norm,
        radii=None if radii is None else read_numbers("radii", radii),
        attacks=tuple(name.strip() for name in attacks.split(",")),
        restarts=restarts,
        shifts=read_numbers("shifts", shifts),
        gradient=gradient,
        examples=examples,
        seed=seed,
        **how_read(size, channels, axes, label, alphabet, length),
        device=check_device(device),
    )
    folder = work.default_folder(run) if out is None else out
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder, got the file {folder}")
    try:
        result = work.attack(settings, folder)
    except KeyboardInterrupt:
        typer.echo(f"hilbertnet: interrupted; {folder} keeps what is done, and the same command goes on", err=True)
        raise
    typer.echo(str(result))
    for path in work.write_attack(folder, result, draw):
        typer.echo(str(path), err=True)

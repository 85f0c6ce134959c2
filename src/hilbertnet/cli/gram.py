"""``hilbertnet gram``: exact kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from hilbertnet.experiments.gram import GramSettings
    from hilbertnet.kernels import ConvKernel

__all__ = ["HELP", "gram"]

HELP = """Compute the Gram matrix of the examples of DATA under the exact kernel of an architecture.

Examples:

    hilbertnet gram digits --plan

    hilbertnet gram digits --kernel "3 exp(0.6) - | 3 exp(0.6) gauss2" --examples 100 --out digits.npz

    hilbertnet gram digits --kernel "3 arccos1 gauss2" --kind ntk --examples 100 --out ntk.npz

    hilbertnet gram digits --out K.zarr --plan

    hilbertnet gram digits --out K.zarr --part 3/16

A store (K.zarr) gets its tiles as they are finished: interrupted or killed, the same command goes on from there.
"""


def gram(
    data: Data,
    kernel: Annotated[str | None, typer.Option(help=ARCHITECTURE, autocompletion=complete_architecture)] = None,
    kind: Annotated[
        str, typer.Option(help="ckn, ntk, or in a store both.", autocompletion=one_of("ckn", "ntk", "both"))
    ] = "ckn",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would cost: pairs, time, memory.")] = False,
    examples: Annotated[
        int | None, typer.Option(help="Keep only so many examples, in the proportions of the classes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of examples.")] = 0,
    preprocess: Preprocess = None,
    size: Size = None,
    channels: Channels = None,
    axes: Axes = None,
    label: Label = None,
    alphabet: Letters = None,
    length: Length = None,
    memory: Annotated[str | None, typer.Option(help="Budget, such as 2GB, for everything but the images.")] = None,
    dtype: Annotated[
        str, typer.Option(help="float64 or float32.", autocompletion=one_of("float64", "float32"))
    ] = "float64",
    device: Device = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            help=".npz (gram, y, class_names, examples, record), .npy (the matrix alone), or .zarr, a store of tiles.",
            autocompletion=complete_path,
        ),
    ] = Path("gram.npz"),
    tile: Annotated[int | None, typer.Option(help="Rows and columns of a store's tile; default by their time.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Tiles of a store at once: threads, or processes with --cluster local.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Compute a store's tiles on a Dask cluster: local, or the address of a scheduler.",
            autocompletion=one_of("local", "tcp://"),
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only one part of a store's tiles, such as 3/16: a job of a queue."),
    ] = None,
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.gram import GramSettings, gram_file, gram_plan, gram_store_plan

    settings = GramSettings(
        data=data,
        kernel=kernel,
        kind=kind,  # type: ignore[arg-type]
        examples=examples,
        seed=seed,
        preprocessing=preprocess,
        **how_read(size, channels, axes, label, alphabet, length),
        memory=memory,
        dtype=dtype,
        device=check_device(device),
    )
    spread = {"workers": workers, "cluster": cluster, "part": part}
    if out.suffix != ".zarr":
        _check_file(out, {"tile": tile, **spread})
    if plan:
        found, cost = gram_store_plan(settings, out, tile=tile) if out.suffix == ".zarr" else gram_plan(settings)
        _say_kernel(found, kind)
        typer.echo(str(cost))
    elif out.suffix == ".zarr":
        _fill(settings, out, tile=tile, **spread)
    else:
        found, (rows, columns) = gram_file(settings, out)
        _say_kernel(found, kind)
        typer.echo(f"Gram matrix {rows:,} x {columns:,}: {out}")


def _check_file(out: Path, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: only a store, such as --out K.zarr, is computed in tiles of its own, got {out}")


def _say_kernel(kernel: ConvKernel, kind: str) -> None:
    typer.echo(f"kernel: {'ckn and ntk' if kind == 'both' else kind} {kernel.arch}")


def _fill(settings: GramSettings, out: Path, **how: Any) -> None:
    from hilbertnet.experiments.gram import gram_store

    try:
        kernel, store = gram_store(settings, out, **how)
    except KeyboardInterrupt:
        _say_interrupted(out)
        raise
    _say_kernel(kernel, settings.kind)
    grid, done = store.grid, len(store.done())
    state = "" if done == grid.count else f", {done:,} of {grid.count:,} tiles"
    typer.echo(f"Gram matrix {grid.rows:,} x {grid.columns:,}{state}: {out}")


def _say_interrupted(out: Path) -> None:
    from hilbertnet.kernels.store import GramStore

    try:
        store = GramStore.open(out)
    except ValueError:
        typer.echo("hilbertnet: interrupted before the first tile", err=True)
        return
    typer.echo(
        f"hilbertnet: interrupted; {out} keeps {len(store.done()):,} of {store.grid.count:,} tiles, "
        "and the same command goes on from there",
        err=True,
    )

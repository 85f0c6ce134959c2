"""``hilbertnet reproduce``: experiments, their tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilbertnet.cli.options import Device, complete_path, one_of

if TYPE_CHECKING:
    from hilbertnet.experiments.experiment import Panel

__all__ = ["HELP", "NAMES", "draw", "reproduce"]

NAMES = (
    "cifar-features",
    "deformed-digits",
    "exact-kernels",
    "lazy-training",
    "norms",
    "random-features",
    "robust-curves",
    "small-data",
    "spectra",
)
"""What a shell completes; the experiments themselves load when they are done."""

HELP = """Do an experiment: every run in a folder of its own, table and pictures from their records.

cifar-features: accuracies on CIFAR-10 of convolutional kernel networks and plain ones, beside published figures.

deformed-digits: how far deformed digits move, under exact kernels and other representations, beside published figures.

exact-kernels: accuracy of ridge regression with exact kernels, MNIST and CIFAR-10, by the number of training images.

lazy-training: whether networks train as their tangent kernel says, and in which layers.

norms: which activations are in which RKHS, and lower bounds of norms that are known.

random-features: how far random features and Nyström projections are from the exact kernel, by their number.

robust-curves: accuracy under attack against clean accuracy, and slopes at training points and elsewhere.

small-data: accuracy with few examples, under attack too, by regularizer, with norms and costs.

spectra: eigenvalues of kernels on the sphere, and how they fall with the degree.

Finished runs are not done twice; an interrupted one goes on.

Examples:

    hilbertnet reproduce random-features

    hilbertnet reproduce cifar-features --only small-unsupervised

    hilbertnet reproduce exact-kernels --only mnist-exp

    hilbertnet reproduce cifar-features --scale paper --device cuda
"""


def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(metavar="EXPERIMENT", help=" or ".join(NAMES) + ".", autocompletion=one_of(*NAMES)),
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
    from hilbertnet.experiments.reproduce import EXPERIMENTS
    from hilbertnet.experiments.reproduce import reproduce as runs

    folder = out or Path("runs") / f"{experiment}-{scale}"
    records, device = {}, check_device(device)
    try:
        for name, record in runs(experiment, folder, scale=scale, only=only or (), device=device, draw=draw):
            records[name] = record
            typer.echo(f"{name}: done", err=True)
    except KeyboardInterrupt:
        typer.echo(f"hilbertnet: interrupted; {folder} keeps what is done, and the same command goes on", err=True)
        raise
    typer.echo(EXPERIMENTS[experiment].table(records))
    for path in [folder / "table.md", *sorted(folder.glob("*.svg"))]:
        typer.echo(f"{'table' if path.suffix == '.md' else 'picture'}: {path}", err=True)


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels side by side into a file, atomically; its ending says what kind: ``.svg``, ``.png``, ``.pdf``."""
    import matplotlib.style
    from matplotlib.figure import Figure

    from hilbertnet.records import atomic_path
    from hilbertnet.report.curves import curves

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with atomic_path(path) as temporary, matplotlib.style.context(["default", {"svg.hashsalt": path.stem}]):
        figure = Figure(figsize=(4.8 * columns, 3.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, ax in zip(panels, axes, strict=False):
            curves(panel, ax)
        for ax in axes[len(panels) :]:
            ax.remove()
        # no date: the same records are the same bytes
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)

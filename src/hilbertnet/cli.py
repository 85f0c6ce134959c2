"""The command line: ``hilbertnet fit digits``.

Exit code 0 is success; 2 is bad usage or bad input, with one message that says what to do.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["app", "main"]

app = typer.Typer(
    help="Convolutional models as functions in a reproducing kernel Hilbert space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    pass


_FIT_HELP = """Fit a convolutional kernel network to DATA and measure it on held-out examples.

Examples:

    hilbertnet fit digits

    hilbertnet fit digits --seeds 5 --out runs/digits

    hilbertnet fit digits --architecture "3 exp(0.6) - | 3 exp(0.6) gauss2" --filters 32,128 --train 300
"""


@app.command(help=_FIT_HELP)
def fit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="digits, mnist, cifar10, a folder with one sub-folder of images per class, or an .npz with x and y.",
        ),
    ],
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Text form, such as '3 exp(0.6) gauss2 | 3 exp(0.6) gauss5', or a preset's name. "
            "Default: by the size of the images."
        ),
    ] = None,
    filters: Annotated[str | None, typer.Option(help="Filters of each layer, such as 64,256.")] = None,
    loss: Annotated[str, typer.Option(help="squared_hinge, logistic or ridge.")] = "squared_hinge",
    train: Annotated[int | None, typer.Option(help="Keep only so many training examples.")] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Share held out for the test. Default: the official test set, or a third where there is none."
        ),
    ] = None,
    patches: Annotated[int | None, typer.Option(help="Patches clustered in each layer.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the filters and the folds.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many runs, with seeds in a row.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/DATA-TIME.")] = None,
) -> None:
    from hilbertnet.experiments.fit import FitSettings, check_device, fit_seeds

    settings = FitSettings(
        data=data,
        architecture=architecture,
        filters=_read_filters(filters),
        loss=loss,
        seed=seed,
        held_out=held_out,
        train=train,
        patches=patches,
        device=check_device(device),
    )
    folder = out or Path("runs") / f"{Path(data).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    warnings.showwarning = lambda message, *_: typer.echo(f"hilbertnet: warning: {message}", err=True)
    records: list[dict[str, Any]] = []
    for _, record in fit_seeds(settings, folder, seeds):
        if not records:
            _say_model(record)
        records.append(record)
        _say_run(record)
    if len(records) > 1:
        _say_mean(records)
    typer.echo(f"run folder: {folder}")


def _read_filters(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"filters: expected positive whole numbers such as 64,256, got {text!r}")
    return tuple(map(int, parts))


def _say_model(record: dict[str, Any]) -> None:
    typer.echo(record["data"]["summary"])
    filters = " and ".join(map(str, record["filters"]))
    typer.echo(f"architecture: {record['architecture']['layers']}, {filters} filters")
    slopes = ", ".join(_number(slope) for slope in record["kappa_slopes"])
    bound = _number(record["lipschitz_bound"])
    typer.echo(f"kappa'(1) per layer: {slopes}; Lipschitz constant of the kernel map at most {bound}")


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _say_run(record: dict[str, Any]) -> None:
    interval = record["test_accuracy_interval"]
    typer.echo(
        f"seed {record['settings']['seed']}: {100 * record['test_accuracy']:.2f}% "
        f"[{100 * interval['low']:.2f}, {100 * interval['high']:.2f}] of {record['test_examples']:,} test examples "
        f"({record['train_examples']:,} for training), lambda {record['lambda']:.0e}, "
        f"{sum(record['seconds'].values()):.1f} s"
    )


def _say_mean(records: list[dict[str, Any]]) -> None:
    import statistics

    values = [100 * record["test_accuracy"] for record in records]
    mean, spread = statistics.mean(values), statistics.stdev(values)
    typer.echo(f"mean of {len(values)} seeds: {mean:.2f}%, standard deviation {spread:.2f}")


def main() -> None:
    """Entry point: bad input is one message and exit code 2."""
    # torch's threads spin while they wait; where other programs run, that makes small products up to 20 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ValueError as error:
        typer.echo(f"hilbertnet: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"hilbertnet: {error.strerror}: {error.filename}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("hilbertnet: interrupted; finished runs are kept", err=True)
        sys.exit(130)

"""The command line: ``hilbertnet fit digits``, and what is done with the run folder it leaves.

Exit code 0 is success; 2 is bad usage or bad input, with one message that says what to do; 130 is Ctrl-C.
"""

from __future__ import annotations

import glob
import os
import re
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
    warnings.showwarning = lambda message, *_: typer.echo(f"hilbertnet: warning: {message}", err=True)


# --- what the commands share


def _complete_data(incomplete: str) -> list[str]:
    """Names of data sets, then files and folders: shells do not add these to a list of words."""
    names = [name for name in ("digits", "mnist", "cifar10") if name.startswith(incomplete)]
    return names + _complete_path(incomplete)


def _complete_path(incomplete: str) -> list[str]:
    found = sorted(glob.glob(glob.escape(incomplete) + "*"))
    return [path + os.sep if os.path.isdir(path) else path for path in found]


def _complete_architecture(incomplete: str) -> list[str]:
    from hilbertnet.architecture import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def _one_of(*words: str) -> Any:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


_DATA = "digits, mnist, cifar10, a folder with one sub-folder of images per class, or an .npz with x and y."
_ARCHITECTURE = (
    "Text form, such as '3 exp(0.6) gauss2 | 3 exp(0.6) gauss5', or a preset's name. "
    "Default: by the size of the images."
)
Data = Annotated[str, typer.Argument(metavar="DATA", help=_DATA, autocompletion=_complete_data)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that fit left.", autocompletion=_complete_path)]
Size = Annotated[
    str | None,
    typer.Option(help="Resize the images of a folder to this HEIGHTxWIDTH, such as 32x32; a side alone is both."),
]
Channels = Annotated[int | None, typer.Option(help="Take the images of a folder as grey (1) or coloured (3).")]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help="Done to the images first, fitted on training images: 'contrast', 'zca(1e-4)', 'whiten(3)', or several, "
        "as in 'contrast | zca'."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.", autocompletion=_one_of("cpu", "cuda", "mps"))]


def _read_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*([1-9]\d*)(?:\s*[x×,]\s*([1-9]\d*))?\s*", text)
    if found is None:
        raise ValueError(f"size: expected HEIGHTxWIDTH in pixels, such as 32x32, got {text!r}")
    height, width = found.group(1), found.group(2) or found.group(1)
    return int(height), int(width)


# --- fit

_FIT_HELP = """Fit a convolutional kernel network to DATA and measure it on held-out examples.

Examples:

    hilbertnet fit digits

    hilbertnet fit digits --seeds 5 --out runs/digits

    hilbertnet fit digits --architecture "3 exp(0.6) - | 3 exp(0.6) gauss2" --filters 32,128 --train 300

    hilbertnet fit digits --preprocess "contrast | zca(1e-4)" --filters 32,128

    hilbertnet fit digits --training supervised --filters 16,32 --epochs 10 --augment "crop(1)"

Interrupted (Ctrl-C) and given again, a command goes on where it was.
"""


@app.command(help=_FIT_HELP)
def fit(
    data: Data,
    architecture: Annotated[str | None, typer.Option(help=_ARCHITECTURE, autocompletion=_complete_architecture)] = None,
    filters: Annotated[str | None, typer.Option(help="Filters of each layer, such as 64,256.")] = None,
    loss: Annotated[
        str,
        typer.Option(
            help="squared_hinge, logistic or ridge.", autocompletion=_one_of("squared_hinge", "logistic", "ridge")
        ),
    ] = "squared_hinge",
    preprocess: Preprocess = None,
    size: Size = None,
    channels: Channels = None,
    training: Annotated[
        str,
        typer.Option(
            help="unsupervised: filters are learned without labels. supervised: they are then trained end to end.",
            autocompletion=_one_of("unsupervised", "supervised"),
        ),
    ] = "unsupervised",
    epochs: Annotated[int, typer.Option(help="Of supervised training.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="Of supervised training.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Of supervised training.")] = 128,
    augment: Annotated[
        str | None, typer.Option(help="Random changes of images in supervised training, such as 'crop(4) | flip'.")
    ] = None,
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
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/DATA-TIME.", autocompletion=_complete_path)
    ] = None,
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
        preprocessing=preprocess,
        size=_read_size(size),
        channels=channels,
        training=training,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        augmentation=augment,
    )
    name = os.path.basename(os.path.abspath(data))[:80]
    folder = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    records: list[dict[str, Any]] = []
    try:
        for _, record in fit_seeds(settings, folder, seeds):
            if not records:
                _say_model(record)
            records.append(record)
            _say_run(record)
    except KeyboardInterrupt:
        _say_interrupted(folder, out is None, len(records))
        raise
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
    before = f"{record['preprocessing']}, then " if record["preprocessing"] else ""
    typer.echo(f"architecture: {before}{record['architecture']['layers']}, {filters} filters")
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


def _say_interrupted(folder: Path, unnamed: bool, finished: int) -> None:
    if not folder.exists():
        typer.echo("hilbertnet: interrupted before anything was learned", err=True)
        return
    runs = f"{finished} finished {'run' if finished == 1 else 'runs'} and " if finished else ""
    again = f"the same command with --out {folder}" if unnamed else "the same command"
    typer.echo(
        f"hilbertnet: interrupted; {folder} keeps {runs}what was learned, and {again} goes on from there", err=True
    )


# --- predict

_PREDICT_HELP = """Predict the classes of the examples of DATA with the model of RUN, as CSV on standard output.

DATA is as for fit, but needs no labels: a folder may have its images directly inside, and an .npz only x.

Examples:

    hilbertnet predict runs/digits digits --out predictions.csv

    hilbertnet predict runs/digits photos --resize > predictions.csv
"""


@app.command(help=_PREDICT_HELP)
def predict(
    run: Run,
    data: Data,
    part: Annotated[
        str | None,
        typer.Option(
            help="train or test, where DATA has an official test set. Default: that test set, else everything.",
            autocompletion=_one_of("train", "test"),
        ),
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize the images of a folder to the size that the run was fitted on.")
    ] = False,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="CSV file, written whole or not at all. Default: standard output.", autocompletion=_complete_path
        ),
    ] = None,
) -> None:
    from hilbertnet.experiments.fit import check_device
    from hilbertnet.experiments.predict import predict_run
    from hilbertnet.records import atomic_path

    how: dict[str, Any] = {"part": part, "resize": resize, "device": check_device(device)}
    if out is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
        try:
            predicted = predict_run(run, data, sys.stdout, **how)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads the table has read enough; Python would complain when it closes the stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        _say_predicted(predicted)
        return
    if out.is_dir():
        raise ValueError(f"out: expected a file, got the folder {out}")
    with atomic_path(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        predicted = predict_run(run, data, file, **how)
    _say_predicted(predicted)
    typer.echo(f"predictions: {out}", err=True)


def _say_predicted(predicted: Any) -> None:
    """On standard error: standard output is the table."""
    from hilbertnet.data.dataset import printable

    total = sum(predicted.counts.values())
    most = [f"{printable(name)} {count:,}" for name, count in list(predicted.counts.items())[:10]]
    more = len(predicted.counts) - len(most)
    if more > 0:
        most.append(f"{more} more classes")
    typer.echo(f"{total:,} examples: {', '.join(most)}", err=True)
    if predicted.accuracy is not None:
        typer.echo(f"accuracy: {predicted.accuracy}", err=True)
    if predicted.strangers:
        names = ", ".join(printable(name) for name in predicted.strangers[:10])
        typer.echo(f"hilbertnet: warning: labels that the model does not know: {names}", err=True)
    if predicted.seen:
        typer.echo("hilbertnet: warning: the run was fitted on some of these examples", err=True)


# --- gram

_GRAM_HELP = """Compute the Gram matrix of the examples of DATA under the exact kernel of an architecture.

Examples:

    hilbertnet gram digits --plan

    hilbertnet gram digits --kernel "3 exp(0.6) - | 3 exp(0.6) gauss2" --examples 100 --out digits.npz

    hilbertnet gram digits --kernel "3 arccos1 gauss2" --kind ntk --examples 100 --out ntk.npz
"""


@app.command(help=_GRAM_HELP)
def gram(
    data: Data,
    kernel: Annotated[str | None, typer.Option(help=_ARCHITECTURE, autocompletion=_complete_architecture)] = None,
    kind: Annotated[str, typer.Option(help="ckn or ntk.", autocompletion=_one_of("ckn", "ntk"))] = "ckn",
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
        str, typer.Option(help="float64 or float32.", autocompletion=_one_of("float64", "float32"))
    ] = "float64",
    device: Device = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            help=".npz (gram, y, class_names, examples, record) or .npy (the matrix alone).",
            autocompletion=_complete_path,
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
        size=_read_size(size),
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


# --- report

_REPORT_HELP = """Write one self-contained page, report.html, about the run or the seeds in RUN.

Examples:

    hilbertnet report runs/digits

    hilbertnet report runs/digits --out digits.html
"""


@app.command(help=_REPORT_HELP)
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Where to. Default: RUN/report.html.", autocompletion=_complete_path)
    ] = None,
) -> None:
    from hilbertnet.report import write_report

    typer.echo(f"report: {write_report(run, out)}")


# --- reproduce

_REPRODUCE_HELP = """Make a published table again: every run in a folder of its own, and the table from their records.

Finished runs are not done twice; an interrupted one goes on.

Examples:

    hilbertnet reproduce cifar-features --only small-unsupervised

    hilbertnet reproduce cifar-features --scale paper --device cuda
"""


@app.command(help=_REPRODUCE_HELP)
def reproduce(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="cifar-features.", autocompletion=_one_of("cifar-features"))
    ],
    scale: Annotated[
        str,
        typer.Option(help="laptop (two cores) or paper (as published).", autocompletion=_one_of("laptop", "paper")),
    ] = "laptop",
    only: Annotated[list[str] | None, typer.Option(help="Name of a run; may be given more than once.")] = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs. Default: runs/EXPERIMENT-SCALE.", autocompletion=_complete_path),
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
        typer.echo(f"hilbertnet: {error.strerror or error}: {error.filename}", err=True)
        sys.exit(2)

"""Arguments and options that several commands take, and what a shell completes them with."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "ARCHITECTURE",
    "DATA",
    "Axes",
    "Channels",
    "Data",
    "Device",
    "Label",
    "Length",
    "Letters",
    "Preprocess",
    "Run",
    "Size",
    "complete_architecture",
    "complete_path",
    "how_read",
    "one_of",
    "read_numbers",
]


def complete_data(incomplete: str) -> list[str]:
    """Names of data sets, then files and folders: shells do not add these to a list of words."""
    names = [name for name in ("digits", "mnist", "cifar10") if name.startswith(incomplete)]
    return names + complete_path(incomplete)


def complete_path(incomplete: str) -> list[str]:
    found = sorted(glob.glob(glob.escape(incomplete) + "*"))
    return [path + os.sep if os.path.isdir(path) else path for path in found]


def complete_architecture(incomplete: str) -> list[str]:
    from hilbertnet.architecture import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def one_of(*words: str) -> Any:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


DATA = (
    "digits, mnist, cifar10, a folder with one sub-folder of images per class, an .npz with x and y, or a FASTA file "
    "(or a folder with one per class)."
)
ARCHITECTURE = (
    "Text form, such as '3 exp(0.6) gauss2 | 3 exp(0.6) gauss5', or a preset's name. "
    "Default: by the size of the images; of sequences '10 exp(0.6) global'."
)
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA, autocompletion=complete_data)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that fit left.", autocompletion=complete_path)]
Size = Annotated[
    str | None,
    typer.Option(help="Resize the images of a folder to this HEIGHTxWIDTH, such as 32x32; a side alone is both."),
]
Channels = Annotated[int | None, typer.Option(help="Take the images of a folder as grey (1) or coloured (3).")]
Axes = Annotated[
    int | None,
    typer.Option(help="1: three axes of an .npz are signals (examples, channels, length), and not grey images."),
]
Label = Annotated[
    str | None,
    typer.Option(
        help="Regular expression that finds the class in a FASTA header: what its group matches, such as "
        "'^\\S+\\s+(\\w)' for the first letter of the second word. Default: class=NAME or label=NAME."
    ),
]
Letters = Annotated[
    str | None,
    typer.Option(
        "--alphabet",
        help="Of sequences: dna, rna, protein, or letters, with those for an unknown one behind a plus, such as "
        "ACGT+N. Default: what they look like.",
        autocompletion=one_of("dna", "rna", "protein"),
    ),
]
Length = Annotated[int | None, typer.Option(help="Letters to cut or pad sequences to. Default: those of the longest.")]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help="Done to the images first, fitted on training images: 'contrast', 'zca(1e-4)', 'whiten(3)', or several, "
        "as in 'contrast | zca'."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.", autocompletion=one_of("cpu", "cuda", "mps"))]


def read_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*([1-9]\d*)(?:\s*[x×,]\s*([1-9]\d*))?\s*", text)
    if found is None:
        raise ValueError(f"size: expected HEIGHTxWIDTH in pixels, such as 32x32, got {text!r}")
    height, width = found.group(1), found.group(2) or found.group(1)
    return int(height), int(width)


def how_read(
    size: str | None,
    channels: int | None,
    axes: int | None,
    label: str | None = None,
    letters: str | None = None,
    length: int | None = None,
) -> dict[str, Any]:
    """What options say of how files are read, by the names that settings have for it."""
    sides = None if size is None else read_size(size)
    return {
        "size": sides, "channels": channels, "axes": axes, "label": label, "alphabet": letters, "length": length,
    }  # fmt: skip


def read_numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name}: expected numbers with commas between them, such as 0.1,0.3,1, got {text!r}"
        ) from None

"""Gram matrices of data sets, planned, or computed and kept in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Dataset, Preprocessing, load, subset
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.tiles import Plan
from hilbertnet.progress import Progress
from hilbertnet.records import atomic_path, environment

__all__ = ["GramSettings", "gram_file", "gram_plan"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class GramSettings:
    """What Gram matrix is computed.

    Parameters
    ----------
    data
        Name of the data set; an official test set is left out.
    kernel
        Architecture: text form, preset's name, or ``None`` for the default by the size of the images.
    kind
        ``"ckn"`` or ``"ntk"``.
    examples
        Keep only so many examples, in the proportions of the classes, or ``None`` for all.
    seed
        Of that choice.
    preprocessing
        Text form of what is done to images first, fitted on these examples, or ``None``.
    size, channels
        Of the images of a folder, see `hilbertnet.data.load`.
    memory
        Budget, in bytes or such as ``"2GB"``, or ``None``: see `ConvKernel.gram`.
    dtype
        ``"float64"`` or ``"float32"``.
    device
        Where to compute.
    """

    data: str
    kernel: str | None = None
    kind: Literal["ckn", "ntk"] = "ckn"
    examples: int | None = None
    seed: int = 0
    preprocessing: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    memory: str | None = None
    dtype: str = "float64"
    device: str = "cpu"


@dataclass(frozen=True)
class _Task:
    data: Dataset
    kernel: ConvKernel
    examples: NDArray[np.int64]
    x: torch.Tensor
    how: dict[str, Any]


def gram_plan(settings: GramSettings) -> tuple[ConvKernel, Plan]:
    """The kernel, and what its Gram matrix would cost.

    Raises
    ------
    ValueError
        If a setting is not what is expected.
    """
    task = _read(settings)
    return task.kernel, task.kernel.plan(task.x, **task.how)


def gram_file(settings: GramSettings, out: Path, *, progress: Progress = None) -> tuple[ConvKernel, tuple[int, int]]:
    """Compute the matrix and write it, whole or not at all.

    An ``.npz`` file gets ``gram`` (n, n), ``y`` (n,), ``class_names``, ``examples`` (n,), the places of the examples in
    the data, and ``record``, a JSON text; an ``.npy`` file the matrix alone.

    Parameters
    ----------
    settings
        What to compute.
    out
        The file.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Returns
    -------
    tuple
        The kernel and the shape of the matrix.

    Raises
    ------
    ValueError
        If a setting is not what is expected, or `out` has another suffix.
    """
    if out.suffix not in (".npz", ".npy"):
        raise ValueError(f"out: expected a file that ends in .npz or .npy, got {out}")
    if out.is_dir():
        raise ValueError(f"out: expected a file, got the folder {out}")
    task = _read(settings)
    with atomic_path(out) as temporary:  # a folder that cannot be written to is found out before the work
        matrix = task.kernel.gram(task.x, **task.how, progress=progress).cpu().numpy()
        with temporary.open("wb") as file:
            if out.suffix == ".npy":
                np.save(file, matrix)
            else:
                np.savez(file, gram=matrix, **_beside(task, settings))
    return task.kernel, matrix.shape


def _read(settings: GramSettings) -> _Task:
    if settings.dtype not in _DTYPES:
        raise ValueError(f"dtype: expected float64 or float32, got {settings.dtype!r}")
    preprocessing = None if settings.preprocessing is None else Preprocessing.parse(settings.preprocessing)
    data = load(settings.data, size=settings.size, channels=settings.channels)
    arch, _ = read_architecture(settings.kernel, data.x.shape[2:])
    kernel = ConvKernel(arch, settings.kind)
    examples = np.sort(_choose(data, settings))
    x = data.x[examples]
    if preprocessing is not None:
        x = preprocessing.fit(x)(x)
    how = {"memory": settings.memory, "dtype": _DTYPES[settings.dtype]}
    return _Task(data, kernel, examples, torch.from_numpy(x).to(settings.device), how)


def _choose(data: Dataset, settings: GramSettings) -> NDArray[np.int64]:
    if settings.examples is None:
        return np.arange(len(data.x))
    classes = len(np.unique(data.y))
    if not classes <= settings.examples <= len(data.x):
        raise ValueError(f"examples: expected {classes} (one for each class) to {len(data.x)}, got {settings.examples}")
    return subset(data.y, settings.examples, settings.seed)


def _beside(task: _Task, settings: GramSettings) -> dict[str, Any]:
    """What an ``.npz`` file holds beside the matrix; texts are arrays of text, which load without pickle."""
    record = {
        "kernel": task.kernel.arch.to_dict(),
        "kind": task.kernel.kind,
        "preprocessing": settings.preprocessing,
        "data": task.data.to_dict(),
        **environment(settings.device),
    }
    return {
        "y": task.data.y[task.examples],
        "class_names": np.array(task.data.class_names),
        "examples": task.examples,
        "record": np.array(json.dumps(record, ensure_ascii=False)),
    }

"""Gram matrices of data sets, planned, or computed and kept in a file or a store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Dataset, Preprocessing, load, subset
from hilbertnet.data.reading import Reading
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.jobs import StorePlan
from hilbertnet.kernels.runners import compute_gram, plan_gram
from hilbertnet.kernels.store import KINDS, GramStore
from hilbertnet.kernels.tiles import Plan
from hilbertnet.progress import Progress
from hilbertnet.records import atomic_path, environment

__all__ = ["GramSettings", "gram_file", "gram_plan", "gram_store", "gram_store_plan"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class GramSettings(Reading):
    """What Gram matrix is computed.

    Parameters
    ----------
    data
        Name of the data set; an official test set is left out.
    kernel
        Architecture: text form, preset's name, or ``None`` for the default by the size of the images.
    kind
        ``"ckn"`` or ``"ntk"``; in a store also ``"both"``, for the price of the second.
    examples
        Keep only so many examples, in the proportions of the classes, or ``None`` for all.
    seed
        Of that choice.
    preprocessing
        Text form of what is done to images first, fitted on these examples, or ``None``.
    size, channels, axes, label, alphabet, length
        How files are read, see `hilbertnet.data.load`.
    memory
        Budget, in bytes or such as ``"2GB"``, or ``None``: see `ConvKernel.gram`.
    dtype
        ``"float64"`` or ``"float32"``.
    device
        Where to compute.
    """

    data: str
    kernel: str | None = None
    kind: Literal["ckn", "ntk", "both"] = "ckn"
    examples: int | None = None
    seed: int = 0
    preprocessing: str | None = None
    memory: str | None = None
    dtype: str = "float64"
    device: str = "cpu"


@dataclass(frozen=True)
class _Task:
    data: Dataset
    kernel: ConvKernel
    kinds: tuple[str, ...]
    examples: NDArray[np.int64]
    x: torch.Tensor
    how: dict[str, Any]


def gram_plan(settings: GramSettings) -> tuple[ConvKernel, Plan]:
    """The kernel, and what its Gram matrix in a file would cost.

    Raises
    ------
    ValueError
        If a setting is not what is expected.
    """
    task = _read_one(settings)
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
        raise ValueError(f"out: expected a file that ends in .npz or .npy, or a store in .zarr, got {out}")
    if out.is_dir():
        raise ValueError(f"out: expected a file, got the folder {out}")
    task = _read_one(settings)
    with atomic_path(out) as temporary:  # a folder that cannot be written to is found out before the work
        matrix = task.kernel.gram(task.x, **task.how, progress=progress).cpu().numpy()
        with temporary.open("wb") as file:
            if out.suffix == ".npy":
                np.save(file, matrix)
            else:
                np.savez(file, gram=matrix, **_beside(task, settings))
    return task.kernel, matrix.shape


def gram_store_plan(settings: GramSettings, out: Path, *, tile: int | None = None) -> tuple[ConvKernel, StorePlan]:
    """The kernel, and what its Gram matrix in a store would cost; nothing is computed or written.

    Parameters and errors are those of `gram_store`.
    """
    task = _read(settings)
    return task.kernel, plan_gram(task.kernel, task.x, store=out, kinds=task.kinds, tile=tile, **task.how)


def gram_store(
    settings: GramSettings,
    out: Path,
    *,
    tile: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    part: str | None = None,
    progress: Progress = None,
) -> tuple[ConvKernel, GramStore]:
    """Compute the matrix tile by tile, each on disk as soon as it is finished; the same call goes on where one stopped.

    A store keeps the matrices ``ckn`` and ``ntk``, the arrays ``y`` (n,) and ``examples`` (n,), the places of the
    examples in the data, and the attributes ``class_names`` and ``record``.

    Parameters
    ----------
    settings
        What to compute.
    out
        The folder, which ends in ``.zarr``.
    tile, workers, cluster, part
        See `hilbertnet.kernels.runners.compute_gram`.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total), in tiles.

    Returns
    -------
    tuple
        The kernel and the store.

    Raises
    ------
    ValueError
        If an argument is not what is expected, the store is of something else, the disk has no room, or a cluster
        fails.
    OSError
        If a tile cannot be written; those before it are kept.
    """
    if out.suffix != ".zarr":
        raise ValueError(f"out: expected a store that ends in .zarr, got {out}")
    task = _read(settings)
    store = compute_gram(
        out,
        task.kernel,
        task.x,
        kinds=task.kinds,
        tile=tile,
        workers=workers,
        cluster=cluster,
        part=part,
        arrays=_labels(task),
        attributes={"class_names": list(task.data.class_names), "record": _record(task, settings)},
        progress=progress,
        **task.how,
    )
    return task.kernel, store


def _read_one(settings: GramSettings) -> _Task:
    if settings.kind == "both":
        raise ValueError("kind: both matrices are kept in a store, such as K.zarr, only")
    return _read(settings)


def _read(settings: GramSettings) -> _Task:
    if settings.dtype not in _DTYPES:
        raise ValueError(f"dtype: expected float64 or float32, got {settings.dtype!r}")
    preprocessing = None if settings.preprocessing is None else Preprocessing.parse(settings.preprocessing)
    data = load(settings.data, **asdict(Reading.of(settings)))
    arch, _ = read_architecture(settings.kernel, data.x.shape[2:])
    kernel = ConvKernel(arch, "ntk" if settings.kind == "both" else settings.kind)
    examples = np.sort(_choose(data, settings))
    x = data.x[examples]
    if preprocessing is not None:
        x = preprocessing.fit(x)(x)
    how = {"memory": settings.memory, "dtype": _DTYPES[settings.dtype]}
    kinds = KINDS if settings.kind == "both" else (kernel.kind,)
    return _Task(data, kernel, kinds, examples, torch.from_numpy(x).to(settings.device), how)


def _choose(data: Dataset, settings: GramSettings) -> NDArray[np.int64]:
    if settings.examples is None:
        return np.arange(len(data.x))
    classes = len(np.unique(data.y))
    if not classes <= settings.examples <= len(data.x):
        raise ValueError(f"examples: expected {classes} (one for each class) to {len(data.x)}, got {settings.examples}")
    return subset(data.y, settings.examples, settings.seed)


def _beside(task: _Task, settings: GramSettings) -> dict[str, Any]:
    """What an ``.npz`` file holds beside the matrix; texts are arrays of text, which load without pickle."""
    return {
        **_labels(task),
        "class_names": np.array(task.data.class_names),
        "record": np.array(json.dumps(_record(task, settings), ensure_ascii=False)),
    }


def _labels(task: _Task) -> dict[str, NDArray[Any]]:
    return {"y": task.data.y[task.examples], "examples": task.examples}


def _record(task: _Task, settings: GramSettings) -> dict[str, Any]:
    return {
        "kernel": task.kernel.arch.to_dict(),
        "kind": settings.kind,
        "preprocessing": settings.preprocessing,
        "data": task.data.to_dict(),
        **environment(settings.device),
    }

"""What ``hilbertnet stability`` does: how far representations move on examples of a data set, measured and drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Dataset, load
from hilbertnet.data.dataset import DEFORMABLE
from hilbertnet.data.reading import Reading
from hilbertnet.data.splits import subset
from hilbertnet.experiments.experiment import Curve, Draw, Panel
from hilbertnet.experiments.run_model import open_run
from hilbertnet.kernels import ConvKernel
from hilbertnet.named import is_name, result_named
from hilbertnet.networks import PlainCNN
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress
from hilbertnet.protocols import Representation
from hilbertnet.records import atomic_path, environment, settings_of, write_json
from hilbertnet.stability import (
    BoundsBeside,
    Deformation,
    FieldDeformation,
    Handwriting,
    Measurement,
    as_deformation,
    as_representation,
    bounds_beside,
    measure,
)

__all__ = [
    "Stability",
    "StabilitySettings",
    "curves_of",
    "curves_of_one",
    "measure_stability",
    "read_representation",
    "write_stability",
]

_KERNEL = re.compile(r"\s*(ckn|ntk)\s*:\s*(.*)", re.DOTALL)
_SHOWN = 10  # examples of a picture


@dataclass(frozen=True)
class StabilitySettings(Reading):
    """What to measure.

    Parameters
    ----------
    data
        What `hilbertnet.data.load` takes.
    representations
        Texts, see `read_representation`.
    deformation
        Text form of a family of fields, ``"handwriting"`` or ``"handwriting, translated"``.
    sizes
        Increasing, in the deformation's unit.
    images, draws
        Examples, and deformations of each.
    seed
        Of the examples and the deformations.
    size, channels, axes, label, alphabet, length
        How files are read, see `hilbertnet.data.load`.
    device
        Where to compute.
    bounds
        Whether the stability theorems are evaluated beside exact kernels.
    """

    data: str
    representations: tuple[str, ...] = ("pixels",)
    deformation: str = "gaussian(3)"
    sizes: tuple[float, ...] = (0.03, 0.1, 0.3)
    images: int = 20
    draws: int = 10
    seed: int = 0
    device: str = "cpu"
    bounds: bool = False


def read_representation(text: str, space: tuple[int, ...], device: str = "cpu") -> Representation:
    """A representation from its text.

    Parameters
    ----------
    text
        ``"pixels"``; ``"ckn: ARCHITECTURE"`` or ``"ntk: ARCHITECTURE"``, an exact kernel; a run folder that
        ``hilbertnet fit`` left, whose features are meant; or ``"package.module:function"``, a function without
        arguments that returns a torch module or anything else that `hilbertnet.stability.as_representation` takes.
    space
        Shape of the images, for the default architecture: ``"ckn:"``.
    device
        Where to compute.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    kernel = _KERNEL.fullmatch(text)
    if text == "pixels":
        return as_representation(text)
    if kernel is not None:
        arch, _ = read_architecture(kernel[2].strip() or None, space)
        exact = ConvKernel(arch, kernel[1])  # type: ignore[arg-type]
        return as_representation(exact, name=f"{kernel[1].upper()}, {arch}")
    if Path(text).is_dir():
        return as_representation(_run_features(Path(text), device), name=text)
    if is_name(text):
        thing = result_named("representation", text)
        return as_representation(thing.to(device) if isinstance(thing, nn.Module) else thing, name=text)
    raise ValueError(
        "representation: expected 'pixels', 'ckn: ARCHITECTURE', 'ntk: ARCHITECTURE', a run folder or "
        f"'package.module:function', got {text!r}"
    )


def _run_features(folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    """What a run's head takes, of images as they are before its preprocessing; logits where no head is known."""
    from hilbertnet.estimators import CKNClassifier

    model = open_run(folder, device=device, argument="representation").classifier
    steps: Callable[[Tensor], Tensor] | None = None
    encode: Callable[[Tensor], Tensor]
    if isinstance(model, CKNClassifier):
        network: nn.Module = model.network_
        encode, steps = partial(model.network_.encode, progress=False), model.preprocessing_
    else:
        network = model.module_
        encode = network.maps if isinstance(network, PlainCNN) else network
    dtype = next(network.parameters()).dtype

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != model.signal_shape_:
            wanted, got = (" x ".join(map(str, shape)) for shape in (model.signal_shape_, tuple(x.shape[1:])))
            raise ValueError(f"representation: {folder} was fitted on images of {wanted}, got {got}")
        return encode((x if steps is None else steps(x)).to(dtype))

    return features


@dataclass(frozen=True)
class Stability:
    """What was measured.

    Parameters
    ----------
    data
        The data.
    pictures
        The first examples, undeformed and at every size, shape (sizes + 1, examples, channels, height, width).
    found
        A measurement for each representation.
    bounds
        Of the exact kernels among them, if asked for.
    """

    data: Dataset
    pictures: Tensor
    found: tuple[Measurement, ...]
    bounds: tuple[BoundsBeside, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, (*self.found, *self.bounds)))


def measure_stability(settings: StabilitySettings, *, progress: Progress = None) -> Stability:
    """Measure every representation on the same deformations of the same examples.

    Raises
    ------
    ValueError
        If a setting is not what is expected.
    """
    check_counts(images=settings.images, draws=settings.draws)
    data = load(settings.data, **asdict(Reading.of(settings)))
    if data.kind not in DEFORMABLE:
        raise ValueError(f"DATA: expected images or signals, which can be deformed, got {data.kind} ({data.name})")
    phis = [read_representation(text, data.x.shape[2:], settings.device) for text in settings.representations]
    classes = len(np.unique(data.y))
    if not classes <= settings.images <= len(data.x):
        raise ValueError(f"images: expected {classes} (one for each class) to {len(data.x)}, got {settings.images}")
    chosen = np.sort(subset(data.y, settings.images, settings.seed))
    x, y = torch.from_numpy(data.x[chosen]).to(settings.device), data.y[chosen]
    deformation = _deformation(settings, x)
    bound = _bounded(phis, deformation) if settings.bounds else []
    how: dict[str, Any] = {"generator": settings.seed, "progress": progress}
    found = [measure(phi, x, deformation, settings.sizes, draws=settings.draws, labels=y, **how) for phi in phis]
    bounds = [bounds_beside(kernel, x, fields, found[index], **how) for index, kernel, fields in bound]
    return Stability(data, _pictures(x, deformation, settings), tuple(found), tuple(bounds))


def _bounded(
    phis: Sequence[Representation], deformation: Deformation
) -> list[tuple[int, ConvKernel, FieldDeformation]]:
    """The exact kernels with their places, and the deformation, of which the theorems know."""
    if not isinstance(deformation, FieldDeformation):
        raise ValueError(f"bounds: expected a family of fields as deformation, which theorems know, got {deformation}")
    kernels = enumerate(getattr(phi, "representation", None) for phi in phis)
    found = [(index, kernel, deformation) for index, kernel in kernels if isinstance(kernel, ConvKernel)]
    if not found:
        raise ValueError("bounds: expected an exact kernel among the representations, 'ckn:' or 'ntk:', got none")
    return found


def _deformation(settings: StabilitySettings, x: Tensor) -> Deformation:
    words = [word.strip() for word in settings.deformation.split(",")]
    if words[0] == "handwriting" and words[1:] in ([], ["translated"]):
        return Handwriting.of(x.numpy(force=True), translate=len(words) > 1)
    return as_deformation(settings.deformation)


def _pictures(x: Tensor, deformation: Deformation, settings: StabilitySettings) -> Tensor:
    """The first draw of the first examples, at every size; the rest of the batch is there for the same draw."""
    generator = partial(torch.Generator().manual_seed, settings.seed)
    rows = [x, *(deformation(x, size, generator()) for size in settings.sizes)]
    return torch.stack(rows)[:, :_SHOWN].cpu()


def curves_of(found: Sequence[Measurement]) -> list[Panel]:
    """Mean relative distance by size, with 10% and 90% quantiles, of representations under the same deformations.

    Sizes at which nothing moved are left out of the logarithmic axes.

    Parameters
    ----------
    found
        At least one.
    """
    curves = [curve for one in found for curve in curves_of_one(one)]
    first = found[0]
    return [Panel(first.deformation, f"size ({first.unit})", "mean relative distance", tuple(curves))] if curves else []


def curves_of_one(one: Measurement) -> list[Curve]:
    """Mean and quantiles of one representation, and its landmarks as levels."""
    kept = (one.mean > 0) & (np.array(one.sizes) > 0)
    if not kept.any():
        return []
    x = tuple(np.array(one.sizes)[kept].tolist())
    mean, high = (tuple(part[kept].tolist()) for part in (one.mean, one.quantile(0.9)))
    low = tuple(np.maximum(one.quantile(0.1)[kept], 1e-3 * one.mean[kept]).tolist())  # 0 is not on the axis
    curves = [Curve(one.representation, x, mean, low, high)]
    for what, value in one.landmarks.items():
        if value is not None:
            curves.append(Curve(what, (x[0], x[-1]), (value, value), kind="level"))
    return curves


def write_stability(
    folder: Path,
    settings: StabilitySettings,
    result: Stability,
    draw: Draw,
    draw_images: Callable[[Tensor, Sequence[str], Path], object],
) -> list[Path]:
    """Write ``record.json``, ``table.txt``, ``curves.svg`` and, of images, ``deformed.png``; their paths.

    Parameters
    ----------
    folder
        Made if it is not there.
    settings, result
        Of `measure_stability`.
    draw, draw_images
        Draw panels, and labelled rows of images (rows, columns, channels, height, width), into a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("record.json", "table.txt")]
    measurements = [one.to_dict() for one in result.found]
    record = {"settings": settings_of(settings), "data": result.data.to_dict(), "measurements": measurements}
    write_json(paths[0], {**record, **environment(settings.device)})
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(f"{result}\n", encoding="utf-8")
    if result.data.kind == "images":
        paths.append(folder / "deformed.png")
        draw_images(result.pictures, ["original", *(f"{size:g}" for size in settings.sizes)], paths[-1])
    panels = curves_of(result.found)
    if panels:
        paths.append(folder / "curves.svg")
        draw(panels, paths[-1])
    return paths

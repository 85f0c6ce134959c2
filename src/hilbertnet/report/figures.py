"""The pictures of a page: mistakes, filters, what deeper filters respond to, feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.architecture import Architecture
from hilbertnet.estimators import CKNClassifier, RegularizedClassifier
from hilbertnet.records import RunFolder, load_tensors
from hilbertnet.report import plain
from hilbertnet.report.fields import crop, reach, receptive_field
from hilbertnet.report.maps import LayerActivity, observe
from hilbertnet.report.pictures import (
    Pixels,
    as_pixels,
    enlarge,
    filter_pixels,
    frame,
    map_pixels,
    png_uri,
    shrink,
    tile,
)
from hilbertnet.report.words import clean, percent

__all__ = ["Pictures", "deeper_filters", "feature_maps", "first_filters", "look", "mistakes", "read_pictures"]

_MOST_FIRST = 256  # filters of the first layer shown
_MOST_DEEPER = 16  # filters of a deeper layer shown
_PATCHES = 6  # nearest patches of each
_CHANNELS = 16  # feature maps of each sample
_SAMPLES = 4
_LAYERS = 4  # deeper layers shown, if there are more
_SIDE = 56  # pixels of a picture's larger side on the page
_TILE = 32  # and of a small one's
_FILTER = 28  # at most so many pixels for a filter of the first layer


@dataclass(frozen=True)
class Pictures:
    """What ``pictures.safetensors`` holds; nothing, in folders that have none.

    Parameters
    ----------
    present
        Whether there is such a file.
    mistakes, samples
        Bytes (n, channels, height, width), or ``None``.
    about_mistakes, about_samples
        What the header says of each of them.
    """

    present: bool = False
    mistakes: NDArray[np.uint8] | None = None
    samples: NDArray[np.uint8] | None = None
    about_mistakes: list[dict[str, Any]] = field(default_factory=list)
    about_samples: list[dict[str, Any]] = field(default_factory=list)


def read_pictures(run: RunFolder) -> Pictures:
    """The pictures that a run kept.

    Raises
    ------
    ValueError
        If the file is there but is not one of pictures.
    """
    path = run.path / "pictures.safetensors"
    if not path.is_file():
        return Pictures()
    tensors, header = load_tensors(path, "Pictures")
    found: dict[str, Any] = {}
    for name in ("mistakes", "samples"):
        about = header.get(name) or []
        found[f"about_{name}"] = about
        if name in tensors and len(tensors[name]):
            found[name] = tensors[name].numpy()
            if len(about) != len(found[name]):
                raise ValueError(f"{path}: expected a line about each of {len(found[name])} {name}, got {len(about)}")
    return Pictures(present=True, **found)


def mistakes(pictures: Pictures) -> list[dict[str, Any]]:
    """The worst mistakes: images as pictures, others with names and letters where they have any."""
    shown: list[str] = [""] * len(pictures.about_mistakes)
    if pictures.mistakes is not None:
        shown = [png_uri(one) for one in shrink(as_pixels(pictures.mistakes), _SIDE)]
    return [
        {
            "src": src,
            "label": clean(about["label"]),
            "prediction": clean(about["prediction"]),
            "margin": f"{about['margin']:.2f}",
            "example": about["example"],
            "name": clean(about.get("name", "")),
            "letters": clean(about.get("letters", "")),
        }
        for src, about in zip(shown, pictures.about_mistakes, strict=True)
    ]


# --- filters and maps


@dataclass(frozen=True)
class Look:
    """A network's activity on the samples, with their pixels."""

    pixels: Pixels
    shown: list[int]
    labels: list[str]
    layers: list[LayerActivity]


def look(model: CKNClassifier, pictures: Pictures) -> Look | None:
    """What the network does on the samples; ``None`` without any, or if they are not what it was fitted to."""
    if pictures.samples is None or pictures.samples.shape[1:] != tuple(model.signal_shape_):
        return None
    images = torch.from_numpy(pictures.samples).to(torch.float32) / 255
    prepare = getattr(model, "preprocessing_", None)
    if prepare is not None:
        images = prepare(images)
    labels = [clean(about["label"]) for about in pictures.about_samples]
    firsts = [labels.index(label) for label in dict.fromkeys(labels)]
    others = [index for index in range(len(labels)) if index not in firsts]
    shown = sorted([*firsts, *others][:_SAMPLES])
    layers = observe(model.network_, images.to(model.network_.dtype), shown)
    return Look(as_pixels(pictures.samples), shown, labels, layers)


def first_filters(model: CKNClassifier | RegularizedClassifier, seen: Look | None) -> dict[str, Any] | None:
    """The filters of the first layer in one picture; ``None`` where they are no patches, or of one pixel.

    Filters of signals are pictures with a row for each channel.
    """
    filters = (
        plain.first_convolution(model) if isinstance(model, RegularizedClassifier) else _weights(model.network_, 0)
    )
    if filters is None or filters.shape[2:] == (1,) or filters.shape[1:] == (1, 1, 1):
        return None
    of_signals = filters.ndim == 3
    filters = filters[:, None] if of_signals else filters
    order = np.arange(len(filters)) if seen is None else seen.layers[0].by_use
    shown = order[:_MOST_FIRST]
    pixels, scale = filter_pixels(filters[shown])
    columns = min(len(shown), 16 if len(shown) > 40 else 8)
    times = max(1, _FILTER // max(pixels.shape[1:3]))
    framed = frame(enlarge(pixels, times * pixels.shape[1], times * pixels.shape[2]))
    return {
        "src": png_uri(tile(framed, columns, gap=4)),
        "columns": columns,
        "scale": scale,
        "count": len(filters),
        "shown": len(shown),
        "ordered": seen is not None,
        "largest": percent(float(seen.layers[0].use.max()), 1) if seen else "",
        "unused": int((seen.layers[0].use == 0).sum()) if seen else 0,
        "channels": filters.shape[1],
        "of_signals": of_signals,
    }


def _weights(network: Any, layer: int) -> NDArray[np.float64]:
    return network.layers[layer].filters.detach().double().cpu().numpy()


def _some(numbers: Sequence[int], most: int) -> list[int]:
    """All of `numbers`, or `most` of them from the first to the last."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[round(index)] for index in np.linspace(0, len(numbers) - 1, most)]


def deeper_filters(model: CKNClassifier, seen: Look | None) -> list[dict[str, Any]]:
    """For layers after the first: the most used filters, each as the patches of the samples nearest to it."""
    arch = model.network_.arch
    if seen is None or model.network_.axes != 2:
        return []
    return [_nearest_patches(arch, layer, seen) for layer in _some(range(1, len(arch.layers)), _LAYERS)]


def _nearest_patches(arch: Architecture, layer: int, seen: Look) -> dict[str, Any]:
    activity = seen.layers[layer]
    rows, columns = (receptive_field(arch, length, layer) for length in seen.pixels.shape[1:3])
    shape = reach(rows), reach(columns)
    strips = []
    for number in activity.by_use[:_MOST_DEEPER]:
        found = [
            crop(seen.pixels[image], rows[row], columns[column], shape)
            for image, (row, column) in activity.nearest(int(number), _PATCHES)
        ]
        if found and activity.use[number] > 0:
            strip = tile(shrink(np.stack(found), _TILE), 3, gap=1)
            strips.append({"src": png_uri(strip), "number": int(number), "use": percent(activity.use[number], 1)})
    return {
        "number": layer + 1,
        "strips": strips,
        "count": len(activity.use),
        "field": f"{shape[0]} × {shape[1]}",
        "unused": int((activity.use == 0).sum()),
    }


def feature_maps(model: CKNClassifier, seen: Look | None) -> list[dict[str, Any]]:
    """For every layer, one picture: a row for each of a few samples, a column for each channel that varies most."""
    if seen is None or model.network_.axes != 2:
        return []
    return [_maps_of(layer, seen) for layer in _some(range(len(seen.layers)), _LAYERS + 1)]


def _maps_of(layer: int, seen: Look) -> dict[str, Any]:
    activity = seen.layers[layer]
    channels = np.argsort(-activity.variance, kind="stable")[:_CHANNELS]
    samples = shrink(seen.pixels[seen.shown], _TILE)
    height, width = samples.shape[1:3]
    maps = map_pixels(activity.maps[:, channels])
    shown = enlarge(shrink(maps.reshape(-1, *maps.shape[2:]), _TILE), height, width).reshape(
        *maps.shape[:2], height, width, 3
    )
    both = np.concatenate([samples[:, None], shown], axis=1)
    return {
        "number": layer + 1,
        "src": png_uri(tile(both.reshape(-1, height, width, 3), both.shape[1])),
        "channels": len(channels),
        "count": len(activity.variance),
        "size": " × ".join(map(str, activity.maps.shape[2:])),
        "labels": [seen.labels[index] for index in seen.shown],
        "columns": both.shape[1],
    }

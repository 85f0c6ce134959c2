"""How far a representation moves under deformations of growing size, relative to the norm: measured, not bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hilbertnet.deformations import Family, parse_family, warp
from hilbertnet.progress import Progress, track
from hilbertnet.protocols import Representation
from hilbertnet.signals import as_rng, as_signals, is_count
from hilbertnet.stability.representations import as_representation
from hilbertnet.text import columns

__all__ = ["Deformation", "FieldDeformation", "Measurement", "as_deformation", "landmarks", "measure"]

_QUANTILES = (0.1, 0.5, 0.9)


@runtime_checkable
class Deformation(Protocol):
    """What moves signals by a size; `str` names it."""

    @property
    def unit(self) -> str:
        """Of sizes."""
        ...

    def __call__(self, x: Tensor, size: float, generator: torch.Generator) -> Tensor:
        """Every signal of (n, channels, *space) moved by one draw of its own.

        The same state of the generator gives the same draws at every size.
        """
        ...


@dataclass(frozen=True)
class FieldDeformation:
    """Signals warped by the fields of a family.

    Parameters
    ----------
    family
        A `hilbertnet.deformations.Family`.
    interpolation, boundary
        Of `hilbertnet.deformations.warp`.
    """

    family: Family
    interpolation: str = "bilinear"
    boundary: str = "zero"

    @property
    def unit(self) -> str:
        """Of sizes."""
        return self.family.unit

    def __call__(self, x: Tensor, size: float, generator: torch.Generator) -> Tensor:
        space = tuple(x.shape[2:])
        field = self.family.field(size, len(x), space, generator=generator, dtype=x.dtype, device=x.device)
        return warp(x, field, interpolation=self.interpolation, boundary=self.boundary)

    def __str__(self) -> str:
        return str(self.family)


def as_deformation(thing: Any) -> Deformation:
    """A deformation from a family, from its text form, or as it is.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(thing, str):
        thing = parse_family(thing)
    if isinstance(thing, Family):
        return FieldDeformation(thing)
    if callable(thing) and isinstance(getattr(thing, "unit", None), str):
        return thing
    raise ValueError(
        "deformation: expected a family of fields, its text form such as 'rotation', or a callable (x, size, "
        f"generator) with a unit, got {thing!r}"
    )


@dataclass(frozen=True)
class Measurement:
    """Relative distances ``||Phi(x') - Phi(x)|| / ||Phi(x)||`` by size of the deformation; ``print`` it.

    Parameters
    ----------
    representation, deformation
        What they are called.
    unit
        Of sizes.
    sizes
        Increasing.
    relative
        Shape (sizes, images, draws).
    same_label, all_labels
        Mean relative distance to other images of the same label, and to all others, or ``None``.
    """

    representation: str
    deformation: str
    unit: str
    sizes: tuple[float, ...]
    relative: NDArray[np.float64]
    same_label: float | None = None
    all_labels: float | None = None

    @property
    def mean(self) -> NDArray[np.float64]:
        """Over images and draws, by size."""
        return self.relative.mean((1, 2))

    @property
    def worst(self) -> NDArray[np.float64]:
        """The largest, by size."""
        return self.relative.max((1, 2))

    @property
    def landmarks(self) -> dict[str, float | None]:
        """Mean relative distances to other images, by what these are."""
        return {"same label": self.same_label, "any label": self.all_labels}

    def quantile(self, q: float) -> NDArray[np.float64]:
        """Over images and draws, by size."""
        return np.quantile(self.relative, q, axis=(1, 2))

    def slope(self, largest: float = math.inf) -> float:
        """Of the logarithm of the mean against that of the size, by least squares, of sizes up to `largest`.

        Raises
        ------
        ValueError
            If fewer than two sizes are left at which anything moved.
        """
        sizes = np.array(self.sizes)
        kept = (sizes > 0) & (sizes <= largest) & (self.mean > 0)
        if kept.sum() < 2:
            raise ValueError(f"largest: expected at least two sizes up to it that move the images, got {largest:g}")
        return float(np.polyfit(np.log(sizes[kept]), np.log(self.mean[kept]), 1)[0])

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the distances of every image and draw are in ``relative``."""
        return {
            "representation": self.representation,
            "deformation": self.deformation,
            "unit": self.unit,
            "sizes": list(self.sizes),
            "relative": self.relative.tolist(),
            "same_label": self.same_label,
            "all_labels": self.all_labels,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        """What `to_dict` gave."""
        return cls(**{**values, "sizes": tuple(values["sizes"]), "relative": np.array(values["relative"])})

    def __str__(self) -> str:
        head = [f"size ({self.unit})", "mean", *(f"{100 * q:.0f}%" for q in _QUANTILES), "worst"]
        parts = [self.mean, *(self.quantile(q) for q in _QUANTILES), self.worst]
        rows = [[f"{size:g}", *(f"{part[i]:.4g}" for part in parts)] for i, size in enumerate(self.sizes)]
        _, images, draws = self.relative.shape
        text = f"{self.representation}, {self.deformation}: relative distances, {images} images x {draws} draws\n"
        text += columns([head, *rows])
        for what, value in self.landmarks.items():
            if value is not None:
                text += f"\nto other images of {what}: {value:.4g}"
        return text


@torch.no_grad()
def measure(
    representation: Representation | Any,
    images: Any,
    deformation: Deformation | Family | str,
    sizes: Sequence[float],
    *,
    draws: int = 20,
    generator: torch.Generator | int = 0,
    labels: ArrayLike | None = None,
    others: tuple[Any, ArrayLike] | None = None,
    pairs: int = 1000,
    progress: Progress = None,
) -> Measurement:
    """Relative distances of a representation by size of the deformation.

    Parameters
    ----------
    representation
        What `hilbertnet.stability.as_representation` takes: an exact kernel, a CKN, a torch module, a scattering
        transform, a callable, ``"pixels"``.
    images
        Signals (n, channels, *space).
    deformation
        A family of fields or its text form, or a callable (x, size, generator) with a ``unit``.
    sizes
        Increasing, in the deformation's unit; 0 is the identity.
    draws
        Deformations of every image; draw j is the same one at every size.
    generator
        A generator, or a seed: the same seed compares representations on the same deformations.
    labels
        Of the images, for landmarks.
    others
        Images and labels that landmarks are taken from; default the images themselves.
    pairs
        Most pairs of images for each landmark.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If sizes are not increasing numbers of at least 0, an image has norm 0, or an argument is not what is expected.
    """
    chosen, phi, x = as_deformation(deformation), as_representation(representation), as_signals(images, "images")
    if not is_count(draws):
        raise ValueError(f"draws: expected a whole number, at least 1, got {draws!r}")
    wanted = _check_sizes(sizes)
    norms, distance = _norms(phi, x, "images"), phi.distance_from(x)
    seeds = draw_seeds(draws, generator)
    found = np.empty((len(wanted), len(x), draws))
    steps = [(row, draw) for row in range(len(wanted)) for draw in range(draws)]
    for row, draw in track(steps, progress, label="deformations"):
        moved = chosen(x, wanted[row], torch.Generator().manual_seed(seeds[draw]))
        found[row, :, draw] = (distance(moved) / norms).numpy(force=True)
    same, every = (None, None)
    if labels is not None:
        same, every = landmarks(phi, x, labels, others=others, pairs=pairs, generator=generator)
    name = getattr(phi, "name", type(phi).__name__)
    return Measurement(name, str(chosen), chosen.unit, wanted, found, same, every)


def draw_seeds(draws: int, generator: torch.Generator | int) -> list[int]:
    """The seed of every draw of `measure`."""
    return torch.randint(2**62, (draws,), generator=as_rng(generator)).tolist()


def _check_sizes(sizes: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(size) for size in sizes)
    if not values or not all(math.isfinite(size) and size >= 0 for size in values) or list(values) != sorted({*values}):
        raise ValueError(f"sizes: expected increasing finite numbers, at least 0, got {sizes!r}")
    return values


def _norms(phi: Representation, x: Tensor, name: str) -> Tensor:
    norms = phi.norm(x)
    if (norms == 0).any():
        first = int(torch.nonzero(norms == 0)[0])
        raise ValueError(f"{name}: expected representations of positive norm, got 0 at index {first}")
    return norms


@torch.no_grad()
def landmarks(
    representation: Representation | Any,
    images: Any,
    labels: ArrayLike,
    *,
    others: tuple[Any, ArrayLike] | None = None,
    pairs: int = 1000,
    generator: torch.Generator | int = 0,
) -> tuple[float | None, float | None]:
    """Mean relative distance ``||Phi(x) - Phi(z)|| / ||Phi(x)||`` to images z of the same label, and of any label.

    Parameters
    ----------
    representation, images, labels, others, pairs, generator
        See `measure`.

    Returns
    -------
    tuple
        ``None`` in the place of a mean over no pair.
    """
    phi, x = as_representation(representation), as_signals(images, "images")
    y = _check_labels(labels, x, "labels")
    z, z_labels = (x, y) if others is None else (as_signals(others[0], "others", like=x), np.empty(0))
    if others is not None:
        z_labels = _check_labels(others[1], z, "others")
    if not is_count(pairs):
        raise ValueError(f"pairs: expected a whole number, at least 1, got {pairs!r}")
    allowed = np.ones((len(x), len(z)), bool)
    if others is None:
        np.fill_diagonal(allowed, False)
    rng, norms = as_rng(generator), _norms(phi, x, "images")
    means: list[float | None] = []
    for mask in (allowed & (y[:, None] == z_labels), allowed):
        places = torch.from_numpy(np.stack(np.nonzero(mask)))
        left, right = places[:, torch.randperm(places.shape[1], generator=rng)[:pairs]]
        means.append(float((phi.distance(x[left], z[right]) / norms[left]).mean()) if len(left) else None)
    return means[0], means[1]


def _check_labels(labels: ArrayLike, x: Tensor, name: str) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.shape != (len(x),):
        raise ValueError(f"{name}: expected {len(x)} labels, one for each image, got shape {array.shape}")
    return array

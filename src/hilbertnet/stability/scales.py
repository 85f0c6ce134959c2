"""The scales of an architecture in pixels of the input: pooling widths, patch radii, and their ratio beta.

The stability theorem of the thesis knows an architecture through few numbers: sigma_k, the scale of the pooling A_k;
the radius of the patches S_k; beta, the smallest number such that sup_{v in S_k} |v| <= beta sigma_{k-1} for all k; and
the Lipschitz constants of the kernel maps. All are lengths on the input's grid: a layer's own pixels times the product
of the strides before it.

Reference: A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, chapter 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hilbertnet.architecture import Architecture, GaussianPool, GlobalPool, Pool
from hilbertnet.signals import is_count
from hilbertnet.text import columns

__all__ = ["PIXEL", "LayerScale", "Scales", "as_architecture", "filter_std", "scales"]

PIXEL = 1.0 / math.sqrt(12.0)
"""Standard deviation of a pixel's own square, along an axis: what stands for a filter that is not there."""


@dataclass(frozen=True)
class LayerScale:
    """The scales of one layer, in pixels of the input.

    Parameters
    ----------
    number
        The layer's number; 0 is the anti-aliasing filter A_0.
    text
        Its text form.
    step
        Distance of neighbouring positions before its pooling: the product of the strides of the layers before.
    sigma
        Scale sigma_k of its pooling.
    source
        Where `sigma` comes from: ``"Gaussian"``, ``"taps"`` or ``"pixel"`` (see `scales`).
    taps
        Standard deviation of the filter's taps around a pixel: a Gaussian that is cut is narrower than its sigma.
    radius
        Distance of the patch's farthest pixel from its centre, sup_{v in S_k} |v|; 0 for A_0.
    ratio
        `radius` over the sigma of the layer before; 0 for A_0.
    lipschitz
        ``max(1, sqrt(kappa'(1)))``; 1 for A_0.
    """

    number: int
    text: str
    step: float
    sigma: float
    source: str
    taps: float
    radius: float
    ratio: float
    lipschitz: float


@dataclass(frozen=True)
class Scales:
    """The scales of an architecture (see `scales`); ``print`` it.

    Parameters
    ----------
    layers
        A_0, then every layer.
    axes
        Axes of space.
    """

    layers: tuple[LayerScale, ...]
    axes: int

    @property
    def depth(self) -> int:
        """n, the number of layers, without A_0."""
        return len(self.layers) - 1

    @property
    def sigmas(self) -> tuple[float, ...]:
        """sigma_0 ... sigma_n, in pixels of the input."""
        return tuple(layer.sigma for layer in self.layers)

    @property
    def radii(self) -> tuple[float, ...]:
        """Patch radii of layers 1 ... n, in pixels of the input."""
        return tuple(layer.radius for layer in self.layers[1:])

    @property
    def beta(self) -> float:
        """``max_k (patch radius of layer k) / sigma_{k-1}``."""
        return max(layer.ratio for layer in self.layers)

    @property
    def beta_layer(self) -> int:
        """The first layer that attains `beta`."""
        return max(self.layers[1:], key=lambda layer: (layer.ratio, -layer.number)).number

    @property
    def lipschitz(self) -> float:
        """Product of the kernel maps' Lipschitz constants."""
        return math.prod(layer.lipschitz for layer in self.layers)

    @property
    def gaussian(self) -> bool:
        """Whether A_0 and all poolings are Gaussian, as the theorem has them."""
        return all(layer.source == "Gaussian" for layer in self.layers)

    def __str__(self) -> str:
        head = ["layer", "step", "sigma", "from", "taps' std", "patch radius", "radius/sigma before", "Lipschitz"]
        rows = [_row(layer) for layer in self.layers]
        text = "lengths in pixels of the input\n" + columns([head, *rows])
        text += f"\nbeta = {self.beta:.3g}, attained by layer {self.beta_layer}"
        text += f"; product of the Lipschitz constants {self.lipschitz:.3g}"
        if any(layer.source == "pixel" for layer in self.layers):
            text += f"\nwhere there is no filter, sigma is that of a pixel's own square, 1/sqrt(12) = {PIXEL:.3f} steps"
        return text


def _row(layer: LayerScale) -> list[str]:
    first = [f"{layer.number}: {layer.text}", f"{layer.step:g}", f"{layer.sigma:.3g}", layer.source]
    first.append(f"{layer.taps:.3g}")
    if layer.number == 0:
        return [*first, "-", "-", "-"]
    return [*first, f"{layer.radius:.3g}", f"{layer.ratio:.3g}", f"{layer.lipschitz:.3g}"]


def scales(arch: Architecture | str, *, axes: int = 2, space: tuple[int, ...] | None = None) -> Scales:
    """The scales of an architecture, in pixels of the input.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    axes
        Axes of space: 2 for images, 1 for signals.
    space
        Spatial shape of the input, which a global pooling needs; it then says `axes`. Of a rectangle the shorter side
        counts.

    Returns
    -------
    Scales
        sigma_k is the standard deviation along an axis of A_k times the product of the strides before it.
        ``"Gaussian"``: the declared one, ``size / sqrt(2)`` for `GaussianPool` and sigma0 for A_0. ``"taps"``: for
        other filters, the standard deviation of their taps. ``"pixel"``: where there is no filter (``-``, ``stride``,
        sigma0 = 0), or one of one tap, `PIXEL` steps, as if every pixel were the mean over its square; the theorem
        needs some sigma, so that bounds made from such a sigma are assumptions and are marked so.

    Raises
    ------
    ValueError
        If an argument is not of this form, or a pooling is global and `space` is not given.

    Examples
    --------
    >>> found = scales("3 exp(1) gauss2 | 3 exp(1) gauss2")
    >>> [round(sigma, 3) for sigma in found.sigmas]
    [0.289, 1.414, 2.828]
    >>> found.beta_layer, round(found.beta, 3)
    (1, 4.899)
    """
    arch = as_architecture(arch)
    if space is not None:
        axes = len(space)
        arch.shapes(space)
    if axes not in (1, 2):
        raise ValueError(f"axes: expected 1 (signals) or 2 (images), got {axes!r}")
    sigma, source = (arch.sigma0, "Gaussian") if arch.sigma0 > 0 else (PIXEL, "pixel")
    result = [LayerScale(0, f"sigma0 = {arch.sigma0:g}", 1.0, float(sigma), source, float(arch.sigma0), 0.0, 0.0, 1.0)]
    step, length = 1.0, None if space is None else min(space)
    for number, layer in enumerate(arch.layers, start=1):
        radius = step * math.sqrt(axes) * (layer.patch - 1) / 2
        if length is not None:
            patched, length = (shape[0] for shape in _alone(arch, number).shapes((length,))[0])
        else:
            patched = None
        std, source, taps = _pool_scale(layer.pool, patched, number)
        ratio = radius / result[-1].sigma
        result.append(
            LayerScale(number, str(layer), step, step * std, source, step * taps, radius, ratio, layer.kernel.lipschitz)
        )
        step *= _stride(layer.pool, patched)
    return Scales(tuple(result), axes)


def as_architecture(arch: Architecture | str) -> Architecture:
    """An architecture, also from its text form.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(arch, str):
        arch = Architecture.parse(arch)
    if not isinstance(arch, Architecture):
        raise ValueError(f"arch: expected an Architecture or its text form, got {arch!r}")
    return arch


def _alone(arch: Architecture, number: int) -> Architecture:
    """One layer with the conventions of all."""
    return Architecture([arch.layers[number - 1]], boundary=arch.boundary, layout=arch.layout)


def _pool_scale(pool: Pool | None, length: int | None, number: int) -> tuple[float, str, float]:
    """Scale of a pooling in its layer's pixels, where it comes from, and the standard deviation of its taps."""
    taps = filter_std(pool, length, f"layer {number}")
    if isinstance(pool, GaussianPool):
        return pool.window / math.sqrt(2.0), "Gaussian", taps
    return (taps, "taps", taps) if taps > 0 else (PIXEL, "pixel", taps)


def filter_std(pool: Pool | None, length: int | None = None, where: str = "pool") -> float:
    """Standard deviation of a pooling's taps along an axis, in pixels of its input, in windows centred on a pixel.

    Parameters
    ----------
    pool
        The pooling, or ``None``, whose standard deviation is 0.
    length
        How many pixels the axis has, which a global pooling needs.
    where
        For messages.
    """
    if pool is None:
        return 0.0
    if isinstance(pool, GlobalPool):
        return math.sqrt((_needed(length, where) ** 2 - 1) / 12.0)
    offsets, weights = pool.taps(half=False)
    mean = float(weights @ offsets)
    return math.sqrt(float(weights @ (offsets - mean) ** 2))


def _needed(length: int | None, where: str) -> int:
    if length is None or not is_count(length):
        raise ValueError(f"space: expected the input's spatial shape, since {where} pools globally, got None")
    return length


def _stride(pool: Pool | None, length: int | None) -> int:
    if pool is None:
        return 1
    return _needed(length, "a layer") if isinstance(pool, GlobalPool) else pool.stride

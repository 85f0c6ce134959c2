"""Networks of random features: the random cousin of a CKN, with the same patches and pooling and no filters to learn.

A layer maps a patch z to `width` random numbers whose expected inner products are the layer's kernel ``||z|| ||z'||
kappa(cos(z, z'))``. With w standard normal and z~ = z / ||z||:

    arccos1      sqrt(2 / width) relu(<w, z>)
    arccos0      sqrt(2 / width) ||z|| 1[<w, z> > 0]
    exp(s)       sqrt(2 / width) ||z|| (cos(<w, z~> / s), sin(<w, z~> / s)), of width / 2 directions w
    dual(f)      ||z|| f(<w, z~>) / sqrt(width E[f(g)^2]), g standard normal

One layer is unbiased. The layers above see the random maps below, of which their kernel is no linear function: their
bias is of the order of 1 / width, below the standard deviation, of the order of 1 / sqrt(width).

References: A. Rahimi and B. Recht, "Random features for large-scale kernel machines", NeurIPS 2007; Y. Cho and L. Saul,
"Kernel methods for deep learning", NeurIPS 2009; A. Daniely, R. Frostig, V. Gupta and Y. Singer, "Random features for
compositional kernels", 2017; F. Yu, A. Suresh, K. Choromanski, D. Holtmann-Rice and S. Kumar, "Orthogonal random
features", NeurIPS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.architecture.dot_product import ArcCosine, DotProductKernel, Dual, Exponential
from hilbertnet.architecture.dual import dual_table
from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.operators import pad_for_patches, patch_norms, patch_scale, pool_features
from hilbertnet.networks.features import FeatureNet
from hilbertnet.signals import as_rng, is_count

__all__ = ["RandomFeatureLayer", "RandomFeatureNet"]


class RandomFeatureLayer(nn.Module):
    """A layer of random features: x -> A psi(P x).

    Parameters
    ----------
    arch
        The architecture it belongs to, for its boundary and layout.
    layer
        Patch, kernel and pooling.
    in_channels
        Channels of the input.
    width
        How many features; an even number for an exponential kernel, whose features are pairs of a cosine and a sine.
    axes
        Axes of space: 2 for images, 1 for signals.
    orthogonal
        Whether directions are drawn in orthogonal blocks.
    generator
        Of the random directions.

    Attributes
    ----------
    weight
        The directions w, standard normal, a parameter of shape (width, in_channels, patch, patch), or (width,
        in_channels, patch) for signals; half as many for an exponential kernel. They do not require a gradient until
        asked to.

    Raises
    ------
    ValueError
        If the kernel has no such features, or `width` is odd where it must be even.
    """

    def __init__(
        self,
        arch: Architecture,
        layer: Layer,
        in_channels: int,
        width: int,
        *,
        axes: int = 2,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(layer.kernel, ArcCosine | Exponential | Dual):
            raise ValueError(
                "arch: expected kernels arccos0, arccos1, exp or dual, of which random features are known, "
                f"got {layer.kernel}"
            )
        paired = isinstance(layer.kernel, Exponential)
        if paired and width % 2:
            raise ValueError(f"width: expected an even number, for pairs of cosine and sine, got {width}")
        self.arch, self.layer, self.axes, self.width = arch, layer, axes, width
        rows, shape = width // 2 if paired else width, (in_channels, *(layer.patch,) * axes)
        weight = _gaussian_rows(rows, math.prod(shape), generator, orthogonal=orthogonal)
        self.weight = nn.Parameter(weight.reshape(rows, *shape), requires_grad=False)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.weight.shape[1]} -> {self.width}, {self.layer}"

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n width *pooled"]:
        """The layer's maps.

        Parameters
        ----------
        x
            Shape (n, in_channels, *space).

        Returns
        -------
        Tensor
            Shape (n, width, *pooled).
        """
        patch = self.layer.patch
        convolve = functional.conv2d if self.axes == 2 else functional.conv1d
        weight = self.weight * patch_scale(patch, self.axes, self.arch)
        inner = convolve(pad_for_patches(x, patch, self.arch), weight)
        mapped = _features(self.layer.kernel, inner, patch_norms(x, patch, self.arch), self.width)
        return pool_features(mapped, self.layer.pool, self.arch)


def _features(kernel: DotProductKernel, inner: Tensor, norms: Tensor, width: int) -> Tensor:
    """psi(z) from <w, z>, shape (n, rows, *space), and ||z||, shape (n, 1, *space)."""
    scale = math.sqrt(2.0 / width)
    if isinstance(kernel, ArcCosine):
        return scale * (inner.relu() if kernel.order == 1 else norms * (inner > 0).to(inner.dtype))
    # norms are exactly 0 or well above it: dividing by 1 there keeps values and gradients at 0
    unit = inner / norms.masked_fill(norms == 0, 1.0)
    if isinstance(kernel, Exponential):
        phases = unit / float(kernel.sigma)
        return scale * norms * torch.cat([phases.cos(), phases.sin()], dim=1)
    assert isinstance(kernel, Dual)
    table = dual_table(kernel.activation)
    return norms * table.activation(unit) / math.sqrt(width * table.second_moment)


def _gaussian_rows(count: int, entries: int, generator: torch.Generator | None, *, orthogonal: bool) -> Tensor:
    """Rows that are standard normal, independent, or orthogonal in blocks of as many rows as they have entries."""
    if not orthogonal:
        return torch.randn(count, entries, generator=generator)
    blocks = []
    for start in range(0, count, entries):
        rows = min(entries, count - start)
        draw = torch.randn(entries, rows, generator=generator, dtype=torch.float64)
        basis, triangle = torch.linalg.qr(draw)
        basis = basis * triangle.diagonal().sign()  # without it the directions are not uniform
        norms = torch.randn(rows, entries, generator=generator, dtype=torch.float64).norm(dim=1)
        blocks.append(basis.T * norms[:, None])
    return torch.cat(blocks).to(torch.get_default_dtype())


class RandomFeatureNet(FeatureNet):
    """Random features of an architecture's exact kernel, layer by layer: no data are needed to draw them.

    Inner products of its features tend to those of `hilbertnet.kernels.ConvKernel` as the width grows, with an error of
    the order of 1 / sqrt(width).

    Parameters
    ----------
    arch
        The architecture, or its text form, of layers with kernels ``arccos0``, ``arccos1``, ``exp`` and ``dual``.
    in_channels
        Channels of the input.
    width
        How many features in each layer, one number for all or one for each; even where the kernel is ``exp``.
    axes
        Axes of space: 2 for images (n, channels, height, width), 1 for signals (n, channels, length).
    orthogonal
        Draw each layer's directions in blocks of orthogonal ones, each still standard normal: the error is smaller
        where patches have many entries.
    generator
        Seed or ``torch.Generator`` of the random directions.

    Raises
    ------
    ValueError
        If an argument is not of this form, or a layer has another kernel.

    Notes
    -----
    The features of ``arccos0`` are steps of the direction of a patch, so the gradients of `distance` follow the norms
    of patches only.

    Examples
    --------
    >>> net = RandomFeatureNet("3 exp(0.6) gauss2 | 3 arccos1 gauss2", in_channels=1, width=64, generator=0)
    >>> net(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))).shape
    torch.Size([20, 64, 2, 2])
    """

    def __init__(
        self,
        arch: Architecture | str,
        in_channels: int,
        width: int | Sequence[int],
        *,
        axes: int = 2,
        orthogonal: bool = False,
        generator: int | torch.Generator | None = None,
    ) -> None:
        super().__init__(arch, in_channels, axes)
        self.orthogonal = bool(orthogonal)
        widths = _check_widths(width, len(self.arch.layers))
        options: dict[str, Any] = {"axes": axes, "orthogonal": self.orthogonal, "generator": as_rng(generator)}
        channels = in_channels
        for number, (layer, count) in enumerate(zip(self.arch.layers, widths, strict=True), start=1):
            try:
                self.layers.append(RandomFeatureLayer(self.arch, layer, channels, count, **options))
            except ValueError as error:
                raise ValueError(f"layer {number}: {error}") from None
            channels = count

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features in each layer."""
        return tuple(layer.width for layer in cast(list[RandomFeatureLayer], list(self.layers)))


def _check_widths(width: int | Sequence[int], layers: int) -> tuple[int, ...]:
    if is_count(width):
        return (cast(int, width),) * layers
    counts = tuple(width) if isinstance(width, Sequence) and not isinstance(width, str) else ()
    if len(counts) != layers or not all(map(is_count, counts)):
        raise ValueError(
            f"width: expected a positive whole number, or {layers} of them, one for each layer, got {width!r}"
        )
    return counts

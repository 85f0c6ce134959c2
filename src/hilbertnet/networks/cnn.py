"""Plain convolutional networks, from images in [0, 1] to logits: what kernels and their penalties are compared with.

None has batch normalization, whose statistics would tie the examples of a batch together and hide the norms of the
weights. The mean and standard deviation of the input are part of the network, so that distances in its input are
distances between images.

References: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019; K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
2015; K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition", CVPR 2016, and "Delving deep
into rectifiers", ICCV 2015 (weights of variance 2 / fan); D. Arpit, V. Campos and Y. Bengio, "How to initialize your
network?", NeurIPS 2019 (residual branches scaled by the number of blocks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.architecture.layers import Architecture, Layer
from hilbertnet.architecture.operators import antialias, pad_for_patches, pool_features
from hilbertnet.networks.pieces import (
    check_classes,
    check_counts,
    check_filters,
    convolution_layer,
    linear_layer,
    output_count,
)
from hilbertnet.networks.plain import PlainCNN, Statistic
from hilbertnet.signals import as_rng, is_count

__all__ = ["ckn_like", "mnist_net", "resnet", "vgg"]

# of the training images in [0, 1], by number of channels
_MEAN: dict[int, tuple[float, ...]] = {3: (0.4914, 0.4822, 0.4465), 1: (0.1307,)}  # CIFAR-10, MNIST
_STD: dict[int, tuple[float, ...]] = {3: (0.2470, 0.2435, 0.2616), 1: (0.3081,)}
_VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_VGG_MULTIPLES = (1, 2, 4, 8, 8)
_RESNET_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_RESNET_MULTIPLES = (1, 2, 4, 8)


def vgg(
    in_channels: int = 3,
    classes: int = 10,
    *,
    depth: int = 11,
    width: int = 64,
    size: int = 32,
    mean: Statistic = None,
    std: Statistic = None,
    generator: int | torch.Generator | None = None,
) -> PlainCNN:
    """VGG: five blocks of 3 x 3 convolutions, each followed by 2 x 2 max pooling, and three linear layers.

    Convolutions and linear layers have biases. Convolutions start as N(0, 2 / (9 out_channels)) with biases 0, linear
    layers uniform on +-1 / sqrt(inputs).

    Parameters
    ----------
    in_channels
        Channels of the images.
    classes
        At least 2; two classes have one logit.
    depth
        11, 13, 16 or 19 layers with weights.
    width
        Channels of the first block; the others have 2, 4, 8 and 8 times as many, the hidden linear layers 8 times.
    size
        Height and width of the images, a multiple of 32.
    mean, std
        Of the images, one number or one for each channel; default those of CIFAR-10 for 3 channels, of MNIST for 1, and
        0 and 1 otherwise.
    generator
        Seed or ``torch.Generator`` of the weights.

    Returns
    -------
    PlainCNN
        From images (n, in_channels, size, size) to logits.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> net = vgg(width=8, generator=0)
    >>> net(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).shape
    torch.Size([2, 10])
    """
    convolutions = _choose_depth(depth, _VGG_CONVOLUTIONS)
    _check_images(in_channels, classes, width, size)
    rng, channels, parts = as_rng(generator), in_channels, list[nn.Module]()
    for count, multiple in zip(convolutions, _VGG_MULTIPLES, strict=True):
        for _ in range(count):
            out = multiple * width
            parts += [convolution_layer(channels, out, rng, bias=True, variance=2 / (9 * out)), nn.ReLU()]
            channels = out
        parts.append(nn.MaxPool2d(2))
    hidden, flat = channels, channels * (size // 32) ** 2
    head = nn.Sequential(
        linear_layer(flat, hidden, rng),
        nn.ReLU(),
        linear_layer(hidden, hidden, rng),
        nn.ReLU(),
        linear_layer(hidden, output_count(classes), rng),
    )
    mean, std = _statistics(mean, std, in_channels)
    return PlainCNN(nn.Sequential(*parts), head, (in_channels, size, size), mean=mean, std=std)


def resnet(
    in_channels: int = 3,
    classes: int = 10,
    *,
    depth: int = 18,
    width: int = 64,
    size: int = 32,
    mean: Statistic = None,
    std: Statistic = None,
    generator: int | torch.Generator | None = None,
) -> PlainCNN:
    """ResNet for small images: a 3 x 3 convolution, four stages of basic blocks, 4 x 4 average pooling, a linear layer.

    Convolutions have no bias; where a block changes the shape its shortcut is a 1 x 1 convolution. They start as
    N(0, 2 / fan_in), which keeps the size of maps through a ReLU, but for the second one of every block, which is
    divided by the square root of the number of blocks: the sum over all residual branches is then of the size of the
    input however deep the network is, and it trains without batch normalization.

    Parameters
    ----------
    in_channels, classes, size, mean, std, generator
        As for `vgg`.
    depth
        10, 18 or 34 layers with weights.
    width
        Channels of the first stage; the others have 2, 4 and 8 times as many.

    Returns
    -------
    PlainCNN
        From images (n, in_channels, size, size) to logits.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    stages = _choose_depth(depth, _RESNET_BLOCKS)
    _check_images(in_channels, classes, width, size)
    rng, channels = as_rng(generator), width
    parts: list[nn.Module] = [convolution_layer(in_channels, width, rng), nn.ReLU()]
    for stage, (count, multiple) in enumerate(zip(stages, _RESNET_MULTIPLES, strict=True)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            parts.append(_BasicBlock(channels, multiple * width, stride, sum(stages), rng))
            channels = multiple * width
    parts.append(nn.AvgPool2d(4))
    head = linear_layer(channels * (size // 32) ** 2, output_count(classes), rng)
    mean, std = _statistics(mean, std, in_channels)
    return PlainCNN(nn.Sequential(*parts), head, (in_channels, size, size), mean=mean, std=std)


class _BasicBlock(nn.Module):
    """``relu(conv2(relu(conv1(x))) + shortcut(x))``."""

    def __init__(self, channels: int, out: int, stride: int, blocks: int, rng: torch.Generator) -> None:
        super().__init__()
        self.first = convolution_layer(channels, out, rng, stride=stride)
        self.second = convolution_layer(out, out, rng, variance=2 / (9 * out * blocks))
        changes = stride > 1 or channels != out
        self.shortcut = convolution_layer(channels, out, rng, patch=1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


def mnist_net(
    in_channels: int = 1,
    classes: int = 10,
    *,
    width: int = 64,
    depth: int = 4,
    size: int = 28,
    mean: Statistic = None,
    std: Statistic = None,
    generator: int | torch.Generator | None = None,
) -> PlainCNN:
    """A small network for MNIST: 3 x 3 convolutions with ReLU and 2 x 2 average pooling, a linear layer, no biases.

    Convolutions start as N(0, 2 / fan_in), the linear layer uniform on +-1 / sqrt(inputs).

    Parameters
    ----------
    in_channels, classes, mean, std, generator
        As for `vgg`.
    width
        Channels of the first convolution; each has twice as many as the one before.
    depth
        How many convolutions; each halves the size, rounding down.
    size
        Height and width of the images.

    Returns
    -------
    PlainCNN
        From images (n, in_channels, size, size) to logits.

    Raises
    ------
    ValueError
        If an argument is not of this form, or nothing is left of the images after so many convolutions.
    """
    check_counts(in_channels=in_channels, width=width, depth=depth, size=size)
    check_classes(classes)
    if size >> depth < 1:
        raise ValueError(f"depth: expected at most {size.bit_length() - 1} for images of size {size}, got {depth}")
    rng, channels, parts = as_rng(generator), in_channels, list[nn.Module]()
    for layer in range(depth):
        parts += [convolution_layer(channels, width << layer, rng), nn.ReLU(), nn.AvgPool2d(2)]
        channels = width << layer
    head = linear_layer(channels * (size >> depth) ** 2, output_count(classes), rng, bias=False)
    mean, std = _statistics(mean, std, in_channels)
    return PlainCNN(nn.Sequential(*parts), head, (in_channels, size, size), mean=mean, std=std)


def ckn_like(
    arch: Architecture | str,
    in_channels: int,
    filters: Sequence[int],
    classes: int = 10,
    *,
    space: tuple[int, ...] = (32, 32),
    bias: bool = True,
    mean: Statistic = None,
    std: Statistic = None,
    generator: int | torch.Generator | None = None,
) -> PlainCNN:
    """The plain network of the shape of a `CKN`: its patches, boundary and pooling, with ReLU instead of the kernels.

    All maps have the shapes of the CKN's. Convolutions start as N(0, 2 / fan_in) with biases 0, the linear layer
    uniform on +-1 / sqrt(inputs).

    Parameters
    ----------
    arch
        The architecture, or its text form; its kernels are not used.
    in_channels
        Channels of the input.
    filters
        How many filters in each layer.
    classes
        At least 2; two classes have one logit.
    space
        Spatial shape of the input: (height, width) of images, or (length,) of signals.
    bias
        Whether convolutions have biases, which the filters of a CKN have not; the linear layer always has.
    mean, std
        Of the input, one number or one for each channel; default 0 and 1, as what a CKN takes is prepared elsewhere.
    generator
        Seed or ``torch.Generator`` of the weights.

    Returns
    -------
    PlainCNN
        From signals (n, in_channels, *space) to logits.

    Raises
    ------
    ValueError
        If an argument is not of this form, or the input is too small for the architecture.

    Examples
    --------
    >>> net = ckn_like("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2", 1, (8, 16), classes=2, space=(8, 8), generator=0)
    >>> images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> net.maps(images).shape, net(images).shape
    (torch.Size([2, 16, 2, 2]), torch.Size([2, 1]))
    """
    arch = Architecture.parse(arch) if isinstance(arch, str) else arch
    if not isinstance(arch, Architecture):
        raise ValueError(f"arch: expected an Architecture or its text form, got {arch!r}")
    check_counts(in_channels=in_channels)
    check_classes(classes)
    counts = check_filters(filters, len(arch.layers))
    if not isinstance(space, tuple) or len(space) not in (1, 2) or not all(map(is_count, space)):
        raise ValueError(f"space: expected (height, width) of images or (length,) of signals, got {space!r}")
    rng, channels, parts = as_rng(generator), in_channels, list[nn.Module]()
    for layer, count in zip(arch.layers, counts, strict=True):
        parts.append(_ConvolveAndPool(arch, layer, channels, count, len(space), rng, bias=bias))
        channels = count
    head = linear_layer(channels * math.prod(arch.shapes(space)[-1][1]), output_count(classes), rng)
    body = nn.Sequential(_Antialias(arch), *parts)
    return PlainCNN(body, head, (in_channels, *space), mean=mean, std=std)


class _Antialias(nn.Module):
    """A_0 of an architecture."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch

    def forward(self, x: Tensor) -> Tensor:
        return antialias(x, self.arch.sigma0, self.arch)


class _ConvolveAndPool(nn.Module):
    """Convolution, ReLU and pooling with the borders and the sizes of a layer of an architecture."""

    def __init__(
        self,
        arch: Architecture,
        layer: Layer,
        channels: int,
        out: int,
        axes: int,
        rng: torch.Generator,
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        self.arch, self.layer = arch, layer
        self.convolution = convolution_layer(channels, out, rng, patch=layer.patch, axes=axes, padding=0, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        mapped = self.convolution(pad_for_patches(x, self.layer.patch, self.arch))
        return pool_features(functional.relu(mapped), self.layer.pool, self.arch)


# --- checks


def _check_images(in_channels: int, classes: int, width: int, size: int) -> None:
    check_counts(in_channels=in_channels, width=width)
    check_classes(classes)
    if not is_count(size) or size % 32:
        raise ValueError(f"size: expected a positive multiple of 32, by which the maps shrink, got {size!r}")


def _choose_depth(depth: int, known: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth not in known:
        raise ValueError(f"depth: expected one of {', '.join(map(str, known))}, got {depth!r}")
    return known[depth]


def _statistics(mean: Statistic, std: Statistic, channels: int) -> tuple[Statistic, Statistic]:
    """What was given, and the known data set's for what was not."""
    return (_MEAN.get(channels) if mean is None else mean), (_STD.get(channels) if std is None else std)

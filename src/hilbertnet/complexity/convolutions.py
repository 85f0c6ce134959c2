"""The norms of a convolution, each under its own name.

A convolution of a finite grid is a linear map whose norm, the one that bounds Lipschitz constants, depends on the size
of the grid, the border, the stride and the dilation. Papers often use the norm of the filter reshaped to a matrix
instead, which is another quantity: neither bounds the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.complexity.operator_norms import (
    LinearMap,
    OperatorNorm,
    check_tolerance,
    operator_norm,
    spectral_norm,
)
from hilbertnet.signals import is_count
from hilbertnet.text import columns

__all__ = ["Convolution", "ConvolutionNorms", "convolution_norms"]

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_FOURIER_COST = 3e9  # multiplications of the eigenvalues of all frequencies, some seconds
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution without its bias, on a grid of known size.

    Parameters
    ----------
    weight
        Shape (out, in / groups, *patch), float64.
    space
        Spatial shape of the input.
    stride, dilation
        One number for each axis.
    padding
        Pixels (before, after) added on each axis.
    mode
        What they are: ``"constant"`` (zeros), ``"circular"``, ``"reflect"`` or ``"replicate"``.
    groups
        In how many groups the channels are split.
    """

    weight: Tensor
    space: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    mode: str = "constant"
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Module, space: tuple[int, ...]) -> Convolution:
        """The convolution of an ``nn.Conv1d`` or ``nn.Conv2d`` on a grid `space`; an ``nn.Linear`` is one of side 1."""
        weight = layer.weight.detach().to("cpu", torch.float64)  # type: ignore[operator]
        if isinstance(layer, nn.Linear):
            weight, space = weight.unsqueeze(-1), (1,)
            return cls(weight, space, (1,), ((0, 0),), (1,))
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        padding = layer.padding
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            borders = tuple((total // 2, total - total // 2) for total in totals)
        else:
            borders = tuple((0 if p == "valid" else int(p),) * 2 for p in _repeat(padding, len(space)))
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return cls(weight, tuple(space), layer.stride, borders, layer.dilation, mode, layer.groups)

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.weight.shape[1] * self.groups

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, (channels, *space)."""
        return self.channels, *self.space

    @property
    def reach(self) -> tuple[int, ...]:
        """From the first to the last pixel of a patch, on each axis."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))

    def __call__(self, x: Tensor) -> Tensor:
        if any(before or after for before, after in self.padding):
            border = [pixels for pair in reversed(self.padding) for pixels in pair]
            x = functional.pad(x, border, mode=self.mode)
        convolve = _CONVOLVE[len(self.space)]
        return convolve(x, self.weight, None, self.stride, 0, self.dilation, self.groups)

    def with_weight(self, weight: Tensor) -> Convolution:
        """The same with other weights."""
        return replace(self, weight=weight)

    @property
    def map(self) -> LinearMap:
        """The convolution as a linear map of (n, *shape)."""
        return LinearMap(self, self.shape)

    # --- bounds

    @cached_property
    def reshaped(self) -> float:
        """Spectral norm of the weight as a matrix (out, in / groups * patch), Miyato et al. 2018."""
        return spectral_norm(self.weight.flatten(1))

    @cached_property
    def frobenius(self) -> float:
        """Frobenius norm of the weight."""
        return float(self.weight.norm())

    @cached_property
    def overlap(self) -> float:
        """``|W~| sqrt(c)``: the largest of the groups' reshaped norms, c the most patches that a pixel is in.

        The norm of all patches of x is at most sqrt(c) times that of x, and each output is the filter times a patch.
        """
        one = replace(self, weight=torch.ones(1, 1, *self.weight.shape[2:], dtype=torch.float64), groups=1)
        ones = torch.ones_like(one(torch.zeros(1, 1, *self.space, dtype=torch.float64)))
        count = float(one.map.adjoint(ones).max())
        if self.groups == 1:
            return self.reshaped * math.sqrt(count)
        return spectral_norm(self.weight.flatten(1).unflatten(0, (self.groups, -1))) * math.sqrt(count)

    @cached_property
    def schur(self) -> float:
        """``sqrt(||A||_1 ||A||_inf)`` of the matrix A of the map: the largest sums of a column and of a row."""
        size = self.with_weight(self.weight.abs())
        rows = size(torch.ones(1, *self.shape, dtype=torch.float64))
        return math.sqrt(float(rows.max()) * float(size.map.adjoint(torch.ones_like(rows)).max()))

    @cached_property
    def rows(self) -> Tensor:
        """Euclidean norm of each row of the matrix of the map: (out, *positions)."""
        if self.mode == "constant":
            return self.with_weight(self.weight.square())(torch.ones(1, *self.shape, dtype=torch.float64))[0].sqrt()
        seen, places = zip(*(self._meetings(axis) for axis in range(len(self.space))), strict=True)
        met = self.weight.unsqueeze(-1)  # one more axis for the kinds of patches
        for kinds in seen:  # each axis goes behind the others, and its kinds behind those of the axes before
            met = torch.einsum("oia...k,tab->oi...bkt", met, kinds).flatten(-2)
        flat = met.flatten(2, -2) * self.weight.flatten(2).unsqueeze(-1)
        squares = flat.sum((1, 2)).unflatten(1, [len(kinds) for kinds in seen])
        for axis, place in enumerate(places, start=1):
            squares = squares.index_select(axis, place)
        return squares.clamp(min=0.0).sqrt()

    def _meetings(self, axis: int) -> tuple[Tensor, Tensor]:
        """Which taps of a patch meet the same pixel along an axis, for each kind of patch, and each position's kind."""
        pixels = torch.arange(self.space[axis], dtype=torch.float64).view(1, 1, -1)
        seen = functional.pad(pixels, self.padding[axis], mode=self.mode).flatten()
        reach, step, taps = self.reach[axis], self.dilation[axis], self.weight.shape[2 + axis]
        starts = torch.arange(0, len(seen) - reach, self.stride[axis])
        patches = seen[starts[:, None] + step * torch.arange(taps)]
        same = (patches[:, :, None] == patches[:, None, :]).to(torch.float64)
        kinds, place = torch.unique(same, dim=0, return_inverse=True)
        return kinds, place

    def fourier(self) -> tuple[float, bool]:
        """Norm of the convolution on a torus that holds the grid, and whether it is the norm of this one.

        On a torus a convolution is diagonal in frequencies, a matrix (out, in) for each; with stride s, the s
        frequencies that alias are one matrix (out, s in) divided by sqrt(s). With circular borders and the size kept,
        that is the convolution itself. With zeros around, it is a restriction of that on a torus large enough for no
        patch to see both ends, so that the norm is an upper bound. Infinite where neither holds, or where it would
        cost too much.

        References
        ----------
        H. Sedghi, V. Gupta and P. Long, "The singular values of convolutional layers", ICLR 2019.
        """
        torus, exact = self._torus()
        if torus is None:
            return math.inf, False
        out, inputs = self.weight.shape[0] // self.groups, self.weight.shape[1]
        sides = out, inputs * math.prod(self.stride)
        frequencies = self.groups * math.prod(torus) / math.prod(self.stride)
        if frequencies * min(sides) ** 2 * (max(sides) + 10 * min(sides)) > _FOURIER_COST:
            return math.inf, False
        folded = _fold(_spectrum(self.weight, torus, self.dilation), self.stride)
        matrices = folded.unflatten(0, (self.groups, -1)).flatten(3).movedim(-1, 0).flatten(0, 1)
        return spectral_norm(matrices) / math.sqrt(math.prod(self.stride)), exact

    def _torus(self) -> tuple[tuple[int, ...] | None, bool]:
        """Sides of the torus, none if no torus will do, and whether the convolution is the same on it."""
        axes = list(zip(self.space, self.padding, self.reach, self.stride, strict=True))
        if self.mode == "constant" or not any(map(any, self.padding)):
            alone = not any(self.reach) and not any(map(any, self.padding))  # no pixel sees another
            sides = []
            for n, (before, after), reach, s in axes:
                border = max(before, after)
                sides.append(s * math.ceil((n + max(border, reach) + max(0, border - reach)) / s))
            return tuple(sides), alone and tuple(sides) == self.space
        fits = all(n % s == 0 and before + after <= reach for n, (before, after), reach, s in axes)
        if self.mode != "circular" or not fits:
            return None, False
        return self.space, all(before + after == reach for _, (before, after), reach, _ in axes)

    def norm(self, *, tolerance: float = 0.01, generator: int | torch.Generator = 0) -> OperatorNorm:
        """The operator norm, see `hilbertnet.complexity.operator_norms.operator_norm`."""
        check_tolerance(tolerance)
        if math.prod(self.space) * self.groups == 1:
            return OperatorNorm(self.reshaped, self.reshaped * (1 + _ROUNDING), "dense")
        size = math.prod(self.shape)
        direct = size * self.rows.numel() <= 2**20
        torus, exact = (math.inf, False) if direct and not self._torus()[1] else self.fourier()
        if exact:
            return OperatorNorm(torus, torus * (1 + _ROUNDING), "fourier")
        bound = min(torus, self.overlap, self.schur) * (1 + _ROUNDING)
        return operator_norm(self.map, tolerance=tolerance, generator=generator, bound=bound)


def _spectrum(weight: Tensor, torus: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """The filters' discrete Fourier transforms on a torus: (out, in, *torus), one axis after the other."""
    spectrum = weight.to(torch.complex128)
    for axis, (n, step) in enumerate(zip(torus, dilation, strict=True), start=2):
        taps = torch.arange(weight.shape[axis], dtype=torch.float64) * step
        phase = 2 * math.pi / n * torch.remainder(torch.outer(taps, torch.arange(n, dtype=torch.float64)), n)
        spectrum = torch.movedim(
            torch.movedim(spectrum, axis, -1) @ torch.polar(torch.ones_like(phase), phase), -1, axis
        )
    return spectrum


def _fold(spectrum: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Frequencies that alias gathered beside the inputs: (out, in * strides, *coarse frequencies)."""
    for axis, s in enumerate(stride, start=2):
        spectrum = spectrum.unflatten(axis, (s, -1)).movedim(axis, 1).flatten(1, 2)
    return spectrum


def _repeat(value: int | str | Sequence[int | str], axes: int) -> list[int | str]:
    return [value] * axes if isinstance(value, int | str) else list(value)


@dataclass(frozen=True)
class ConvolutionNorms:
    """The norms of one convolution or linear layer.

    Parameters
    ----------
    operator
        The norm of the linear map: of the layer as a function of images.
    torus
        Norm of the convolution on a torus that holds the grid: an upper bound of `operator`, exact for circular
        borders; infinite where it is not known (borders that mirror, or too many frequencies times channels).
    overlap
        The largest reshaped norm of a group times the square root of the most patches a pixel is in: an upper bound.
    schur
        ``sqrt(||A||_1 ||A||_inf)``: an upper bound.
    reshaped
        Spectral norm of the weight as a matrix (out, in / groups * patch): what papers call the spectral norm of the
        layer. No bound of `operator`.
    frobenius
        Frobenius norm of the weight. No bound of `operator`.
    """

    operator: OperatorNorm
    torus: float
    overlap: float
    schur: float
    reshaped: float
    frobenius: float

    def __str__(self) -> str:
        rows = [
            ["norm", "value", "what it is"],
            ["operator", f"{self.operator.value:.6g}", f"of the linear map, by {self.operator.method}"],
            ["operator, at most", f"{self.operator.upper:.6g}", "upper bound"],
            ["torus", f"{self.torus:.6g}", "upper bound"],
            ["overlap", f"{self.overlap:.6g}", "upper bound"],
            ["schur", f"{self.schur:.6g}", "upper bound"],
            ["reshaped", f"{self.reshaped:.6g}", "of the filter as a matrix"],
            ["frobenius", f"{self.frobenius:.6g}", "of the filter"],
        ]
        return columns(rows)


def convolution_norms(
    layer: nn.Module,
    space: Sequence[int] = (),
    *,
    tolerance: float = 0.01,
    generator: int | torch.Generator = 0,
) -> ConvolutionNorms:
    """All norms of a convolution on a grid, or of a linear layer.

    Parameters
    ----------
    layer
        An ``nn.Conv1d`` or ``nn.Conv2d`` (any stride, padding and its mode, dilation, groups), or an ``nn.Linear``. Its
        bias plays no part.
    space
        Spatial shape of its input, (length,) or (height, width); not needed for a linear layer.
    tolerance
        Wanted relative distance of the upper bound of the operator norm from its value, where it is iterated.
    generator
        Seed of the start of the iteration, or a generator.

    Returns
    -------
    ConvolutionNorms
        Every norm under its own name.

    Raises
    ------
    ValueError
        If the layer is of another kind, its weight is not real and finite, or the grid is too small for it.

    References
    ----------
    T. Miyato, T. Kataoka, M. Koyama and Y. Yoshida, "Spectral normalization for generative adversarial networks", ICLR
    2018 (the reshaped norm); H. Sedghi, V. Gupta and P. Long, "The singular values of convolutional layers", ICLR 2019.

    Examples
    --------
    >>> layer = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> norms = convolution_norms(layer, (64,))
    >>> round(norms.operator.value, 4), round(norms.torus, 4), round(norms.reshaped, 4)
    (2.9977, 3.0, 1.7321)
    """
    if not isinstance(layer, _LAYERS):
        raise ValueError(f"layer: expected an nn.Conv1d, nn.Conv2d or nn.Linear, got {type(layer).__name__}")
    if not layer.weight.is_floating_point() or not torch.isfinite(layer.weight).all():
        raise ValueError(f"layer: expected real and finite weights, got dtype {layer.weight.dtype}")
    if not isinstance(layer, nn.Linear):
        axes = layer.weight.ndim - 2
        if not isinstance(space, Sequence) or len(space) != axes or not all(map(is_count, space)):
            raise ValueError(f"space: expected {axes} positive whole numbers, got {space!r}")
    convolution = Convolution.of(layer, tuple(space))
    try:
        convolution(torch.zeros(1, *convolution.shape, dtype=torch.float64))
    except RuntimeError as error:
        raise ValueError(f"space: too small for the layer, got {space!r} ({str(error).splitlines()[0]})") from None
    torus, _ = convolution.fourier()
    return ConvolutionNorms(
        operator=convolution.norm(tolerance=tolerance, generator=generator),
        torus=torus,
        overlap=convolution.overlap,
        schur=convolution.schur,
        reshaped=convolution.reshaped,
        frobenius=convolution.frobenius,
    )

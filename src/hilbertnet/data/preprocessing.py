"""What is done to images before a model sees them: whitening of patches, global ZCA, contrast normalization.

A step maps a tensor of images (n, channels, height, width) to one of the same shape, batch by batch, so that beyond the
result it needs the memory of a batch. `Preprocessing` is a sequence of steps with a text form, such as
``"contrast | zca(1e-4)"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import fold, unfold

from hilbertnet.data.memory import check_fits
from hilbertnet.text import Call, Scanner, format_number

__all__ = ["ZCA", "ContrastNormalization", "PatchWhitening", "Preprocessing"]

Images = TypeVar("Images", Tensor, NDArray[Any])


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or 0 in x.shape or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x: expected images (n, channels, height, width) in float32 or float64, got {tuple(x.shape)} in {x.dtype}"
        )


def _finite(x: Tensor, start: int) -> Tensor:
    """`x`, a batch: to look at all images at once would take as much memory as they do."""
    finite = torch.isfinite(x).flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"x: expected finite numbers, got others in image {start + int(finite.logical_not().nonzero()[0])}"
        )
    return x


def _by_batches(transform: Callable[[Tensor], Tensor], x: Tensor, batch: int, inplace: bool) -> Tensor:
    _check_images(x)
    result = x if inplace else torch.empty_like(x)
    for start in range(0, len(x), batch):
        result[start : start + batch] = transform(_finite(x[start : start + batch], start)).to(x.dtype)
    return result


def _as_tensor(x: Tensor | NDArray[Any]) -> Tensor:
    """`x` as a tensor in float32 or float64, on the same memory where it can be."""
    if isinstance(x, Tensor):
        return x if x.dtype in (torch.float32, torch.float64) else x.double()
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"x: expected real numbers, got dtype {array.dtype}")
    return torch.from_numpy(np.require(array, np.float32 if array.dtype == np.float32 else np.float64, ["C", "W"]))


@dataclass(frozen=True)
class PatchWhitening:
    """Whiten the patches of each image by that image's own covariance; nothing is fitted.

    From all patches inside the image the mean of each channel is taken away, and the patches are averaged where they
    overlap, which gives an image again. With ``U diag(l) U'`` the sum of ``p p'`` over its patches p, they are
    multiplied by ``U diag(l^(-1/4)) U'`` and averaged again. The exponent is that of Bietti's experiments on CIFAR-10,
    and so is the sum where a covariance would have a mean: it is a common factor of all pixels. Those compare square
    roots of eigenvalues with ``1e-8``, which is ``cut=1e-16`` here. A flat image becomes zero.

    Parameters
    ----------
    patch
        Side of a patch.
    cut
        Eigenvalues up to this share of the largest are dropped.

    Raises
    ------
    ValueError
        If `patch` or `cut` is not positive.
    """

    patch: int = 3
    cut: float = 1e-8

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise ValueError(f"patch: expected a side of at least 1, got {self.patch}")
        if not 0 < self.cut < 1:
            raise ValueError(f"cut: expected a share in (0, 1), got {self.cut!r}")

    def __str__(self) -> str:
        cut = "" if self.cut == 1e-8 else f", {format_number(self.cut)}"
        return f"whiten({self.patch}{cut})"

    def __call__(self, x: Tensor, *, inplace: bool = False, batch: int = 128) -> Tensor:
        """Whitened images (n, channels, height, width), computed in float64.

        Raises
        ------
        ValueError
            If `x` is not such images, or they are smaller than a patch.
        """
        if x.ndim == 4 and min(x.shape[2:]) < self.patch:
            raise ValueError(f"x: expected images of at least {self.patch} x {self.patch}, got {tuple(x.shape)}")
        return _by_batches(self._whiten, x, batch, inplace)

    def _whiten(self, x: Tensor) -> Tensor:
        x = x.double()
        n, channels = x.shape[:2]
        space = tuple(x.shape[2:])
        covered = fold(unfold(torch.ones_like(x[:1, :1]), self.patch), space, self.patch)
        patches = unfold(x, self.patch)  # (n, channels * patch^2, positions)
        # what rounding leaves of a flat image, which must not be taken for its content
        noise = (64 * torch.finfo(x.dtype).eps) ** 2 * patches.square().sum((1, 2))
        split = patches.view(n, channels, self.patch**2, -1)
        centred = (split - split.mean(2, keepdim=True)).view_as(patches)
        patches = unfold(fold(centred, space, self.patch) / covered, self.patch)
        values, vectors = torch.linalg.eigh(patches @ patches.mT)
        kept = values > torch.maximum(self.cut * values[:, -1], noise)[:, None]
        scale = torch.where(kept, values, 1.0).pow(-0.25) * kept
        patches = (vectors * scale[:, None]) @ (vectors.mT @ patches)
        return fold(patches, space, self.patch) / covered


@dataclass(frozen=True)
class ContrastNormalization:
    """Take away each image's mean and divide by the square root of its variance plus `bias`; nothing is fitted.

    Mean and variance are over all pixels and channels of the image. A flat image becomes zero.

    Parameters
    ----------
    bias
        Added to the variance, so that noise in an image almost flat stays small.

    Raises
    ------
    ValueError
        If `bias` is negative.
    """

    bias: float = 1.5e-4  # 10 on the scale of 0..255, as in Coates and Ng (2011)

    def __post_init__(self) -> None:
        if not 0 <= self.bias < math.inf:
            raise ValueError(f"bias: expected a number of at least 0, got {self.bias!r}")

    def __str__(self) -> str:
        return f"contrast({format_number(self.bias)})"

    def __call__(self, x: Tensor, *, inplace: bool = False, batch: int = 1024) -> Tensor:
        """Normalized images (n, channels, height, width).

        Raises
        ------
        ValueError
            If `x` is not such images.
        """
        return _by_batches(self._normalize, x, batch, inplace)

    def _normalize(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        deviation = (centred.square().mean(1, keepdim=True) + self.bias).sqrt()
        # without bias, what rounding leaves of a flat image is not divided by itself
        floor = 64 * torch.finfo(flat.dtype).eps * flat.abs().amax(1, keepdim=True)
        return torch.where(deviation > floor, centred / deviation, 0.0).view_as(x)


class ZCA:
    """Global ZCA whitening: ``(x - mean) U diag((l + bias)^(-1/2)) U'``, fitted on training images.

    Parameters
    ----------
    bias
        Added to the eigenvalues l of the covariance ``U diag(l) U'`` of all pixels and channels.

    Attributes
    ----------
    mean : Tensor or None
        Mean image, shape (channels, height, width), once fitted.
    matrix : Tensor or None
        The whitening matrix, shape (features, features), once fitted.

    Raises
    ------
    ValueError
        If `bias` is not positive.
    """

    def __init__(self, bias: float = 1e-4) -> None:
        if not 0 < bias < math.inf:
            raise ValueError(f"bias: expected a positive number, got {bias!r}")
        self.bias = bias
        self.mean: Tensor | None = None
        self.matrix: Tensor | None = None

    def __str__(self) -> str:
        return f"zca({format_number(self.bias)})"

    def fit(self, x: Tensor, *, batch: int = 1024) -> ZCA:
        """Mean and covariance of training images (n, channels, height, width), summed in float64.

        Raises
        ------
        ValueError
            If `x` is not such images, they are fewer than two, or the matrix does not fit into memory.
        """
        _check_images(x)
        if len(x) < 2:
            raise ValueError(f"x: expected two images or more to fit, got {len(x)}")
        features = math.prod(x.shape[1:])
        check_fits((6, features, features), "zca", "whiten patches instead, or take smaller images")
        starts = range(0, len(x), batch)
        mean = torch.zeros(features, dtype=torch.float64, device=x.device)
        for start in starts:
            mean += _finite(x[start : start + batch], start).flatten(1).double().sum(0) / len(x)
        covariance = torch.zeros(features, features, dtype=torch.float64, device=x.device)
        for start in starts:
            centred = x[start : start + batch].flatten(1).double() - mean
            covariance.addmm_(centred.mT, centred, alpha=1 / len(x))
        values, vectors = torch.linalg.eigh(covariance)
        matrix = (vectors * (values.clamp(min=0) + self.bias).rsqrt()) @ vectors.mT
        self.mean, self.matrix = mean.view(x.shape[1:]).to(x.dtype), matrix.to(x.dtype)
        return self

    def __call__(self, x: Tensor, *, inplace: bool = False, batch: int = 1024) -> Tensor:
        """Whitened images (n, channels, height, width).

        Raises
        ------
        ValueError
            If nothing was fitted, or `x` has another shape than the training images.
        """
        if self.mean is None or self.matrix is None:
            raise ValueError("zca: fit it on training images first")
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"x: expected images of shape {tuple(self.mean.shape)}, got {tuple(x.shape[1:])}")
        mean, matrix = self.mean.to(x), self.matrix.to(x)
        return _by_batches(lambda part: ((part - mean).flatten(1) @ matrix).view_as(part), x, batch, inplace)


Step = PatchWhitening | ContrastNormalization | ZCA


class Preprocessing:
    """A sequence of steps, with a text form.

    Parameters
    ----------
    steps
        `PatchWhitening`, `ContrastNormalization` and `ZCA` in the order in which they are applied.

    Examples
    --------
    >>> str(Preprocessing.parse("contrast | zca(1e-3)"))
    'contrast(0.00015) | zca(0.001)'
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    @classmethod
    def parse(cls, text: str) -> Preprocessing:
        """Steps from a text form: ``whiten(patch, cut)``, ``contrast(bias)``, ``zca(bias)``, joined by ``|``.

        Raises
        ------
        TextFormError
            At a name or number that is not what is expected.
        """
        return cls(Scanner(text, "preprocessing").steps(_step))

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))

    def fit(self, x: Tensor | NDArray[Any]) -> Preprocessing:
        """Fit the steps that need it, each on what the steps before it make of `x`.

        Parameters
        ----------
        x
            Training images (n, channels, height, width), and only those.

        Raises
        ------
        ValueError
            If `x` is not such images.
        """
        images = _as_tensor(x)
        last = max((i for i, step in enumerate(self.steps) if isinstance(step, ZCA)), default=-1)
        copied = False
        for i, step in enumerate(self.steps[: last + 1]):
            if isinstance(step, ZCA):
                step.fit(images)
            if i < last:
                images = step(images, inplace=copied)
                copied = True
        return self

    def __call__(self, x: Images, *, inplace: bool = False) -> Images:
        """Images (n, channels, height, width) after all steps: an array for an array, a tensor for a tensor.

        Parameters
        ----------
        x
            The images, float32 or float64; whole numbers become float64.
        inplace
            Overwrite `x`, which saves the memory of a copy.

        Raises
        ------
        ValueError
            If `x` is not such images, cannot be overwritten though `inplace`, or a step was not fitted.
        """
        images = _as_tensor(x)
        shared = isinstance(x, Tensor) or np.shares_memory(images.numpy(), x)
        if inplace and not (shared and images.dtype in _SAME and x.dtype in _SAME):
            raise ValueError("x: expected a writable contiguous array of float32 or float64 to overwrite")
        for i, step in enumerate(self.steps):
            images = step(images, inplace=inplace or i > 0)
        return images if isinstance(x, Tensor) else images.numpy()

    def tensors(self) -> dict[str, Tensor]:
        """What was fitted, by name, for safetensors; with the text form it is all there is to keep."""
        return {
            f"{i}.{name}": value
            for i, step in enumerate(self.steps)
            if isinstance(step, ZCA)
            for name, value in (("mean", step.mean), ("matrix", step.matrix))
            if value is not None
        }

    @classmethod
    def from_tensors(cls, text: str, tensors: Mapping[str, Tensor]) -> Preprocessing:
        """The fitted steps, from their text form and their `tensors`.

        Raises
        ------
        ValueError
            If the text form cannot be read, or a tensor is missing or has a wrong shape.
        """
        steps = cls.parse(text)
        for i, step in enumerate(steps.steps):
            if isinstance(step, ZCA):
                mean, matrix = tensors.get(f"{i}.mean"), tensors.get(f"{i}.matrix")
                if mean is None or matrix is None or mean.ndim != 3 or matrix.shape != (mean.numel(), mean.numel()):
                    raise ValueError(f"preprocessing: expected the mean and matrix of step {i}, {step}")
                step.mean, step.matrix = mean, matrix
        return steps


_SAME = (torch.float32, torch.float64, np.dtype(np.float32), np.dtype(np.float64))
_MOST_ARGUMENTS = {"whiten": 2, "contrast": 1, "zca": 1}


def _step(scanner: Scanner) -> Step:
    call = scanner.call("a step such as whiten, contrast or zca")
    if call.name not in _MOST_ARGUMENTS:
        raise scanner.unknown("step", call.name, _MOST_ARGUMENTS, call.position)
    try:
        return _build(call)
    except ValueError as error:
        raise scanner.fail(str(error), call.position) from None


def _build(call: Call) -> Step:
    most = _MOST_ARGUMENTS[call.name]
    numbers = [value for value in call.arguments if not isinstance(value, str)]
    if len(call.arguments) > most or len(numbers) < len(call.arguments):
        raise ValueError(f"{call.name} takes at most {most} number{'s' if most > 1 else ''}")
    if call.name == "zca":
        return ZCA(*numbers)
    if call.name == "contrast":
        return ContrastNormalization(*numbers)
    if numbers and not float(numbers[0]).is_integer():
        raise ValueError(f"patch: expected a whole number, got {numbers[0]!r}")
    patch = int(numbers[0]) if numbers else PatchWhitening.patch
    return PatchWhitening(patch, *numbers[1:])

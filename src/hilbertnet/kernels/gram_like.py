"""Symmetric Gram matrices as solvers see them: a few products, wherever the numbers are.

A solver that only multiplies needs neither all of K in memory nor to know whether it is a tensor or tiles on a disk.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["DenseGram", "GramLike", "GramPart", "as_gram_like", "check_gram", "check_positive", "check_targets"]

_BLOCK = 2**22  # entries converted to float64, or compared with their mirror images, at a time


@runtime_checkable
class GramLike(Protocol):
    """A symmetric positive semi-definite matrix known through products; results are float64, on the CPU."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """In which the entries are kept."""
        ...

    def diagonal(self) -> Tensor:
        """Shape (n,)."""
        ...

    def matmul(self, V: Tensor) -> Tensor:
        """``K V``, shape (n, k), for `V` of shape (n, k)."""
        ...

    def columns(self, index: Tensor) -> Tensor:
        """``K[:, index]``, shape (n, k), for whole numbers `index` of shape (k,)."""
        ...


class DenseGram:
    """A Gram matrix in memory.

    Parameters
    ----------
    values
        Symmetric, shape (n, n); it is not copied.

    Raises
    ------
    ValueError
        If it is not square, finite and symmetric.
    """

    def __init__(self, values: Float[Tensor, "n n"]) -> None:
        check_gram(values)
        self._values = values

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return len(self._values), len(self._values)

    @property
    def dtype(self) -> torch.dtype:
        """In which the entries are kept."""
        return self._values.dtype

    def diagonal(self) -> Float[Tensor, " n"]:
        """The diagonal in float64."""
        return self._values.diagonal().double().cpu()

    def matmul(self, V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """``K V`` in float64; a float32 matrix is converted by blocks of rows."""
        right = V.to(self._values.device, torch.float64)
        rows = max(1, _BLOCK // max(1, len(self._values)))
        blocks = [self._values] if self._values.dtype == torch.float64 else self._values.split(rows)
        return torch.cat([block.double() @ right for block in blocks]).cpu()

    def columns(self, index: Int[Tensor, " k"]) -> Float[Tensor, "n k"]:
        """``K[:, index]`` in float64."""
        return self._values[:, index.to(self._values.device)].double().cpu()


class GramPart:
    """Some rows and the same columns of a matrix, as a matrix: its products are those of the whole with zeros.

    Parameters
    ----------
    gram
        The whole.
    kept
        Numbers of the rows, shape (m,).
    """

    def __init__(self, gram: GramLike, kept: Tensor) -> None:
        self._gram, self._kept = gram, kept

    @property
    def shape(self) -> tuple[int, int]:
        """(m, m)."""
        return len(self._kept), len(self._kept)

    @property
    def dtype(self) -> torch.dtype:
        """In which the entries are kept."""
        return self._gram.dtype

    def embed(self, V: Tensor) -> Tensor:
        """`V` with rows of zeros for what is not kept."""
        whole = torch.zeros(self._gram.shape[0], V.shape[1], dtype=torch.float64)
        whole[self._kept] = V
        return whole

    def diagonal(self) -> Tensor:
        """Shape (m,)."""
        return self._gram.diagonal()[self._kept]

    def matmul(self, V: Tensor) -> Tensor:
        """``K V``, shape (m, k)."""
        return self._gram.matmul(self.embed(V))[self._kept]

    def columns(self, index: Tensor) -> Tensor:
        """``K[:, index]``, shape (m, k)."""
        return self._gram.columns(self._kept[index])[self._kept]


def as_gram_like(gram: Any) -> GramLike:
    """A tensor as a `DenseGram`; anything else must be square and a `GramLike` already.

    Raises
    ------
    ValueError
        If it is neither, or not square, or empty.
    """
    if isinstance(gram, Tensor):
        return DenseGram(gram)
    if not isinstance(gram, GramLike):
        raise ValueError(
            "gram: expected a tensor, or something with shape, dtype, diagonal, matmul and columns, "
            f"got {type(gram).__name__}"
        )
    _check_square(tuple(gram.shape))
    return gram


def check_gram(gram: Tensor) -> None:
    """Refuse what is no finite symmetric matrix, up to the rounding errors of its dtype.

    Raises
    ------
    ValueError
        With the first entries that are not finite, or differ from their mirror images.
    """
    if not isinstance(gram, Tensor) or gram.dtype not in (torch.float32, torch.float64):
        got = gram.dtype if isinstance(gram, Tensor) else type(gram).__name__
        raise ValueError(f"gram: expected a float32 or float64 tensor, got {got}")
    _check_square(tuple(gram.shape))
    rows = max(1, _BLOCK // len(gram))
    largest = 0.0
    for start in range(0, len(gram), rows):
        block = gram[start : start + rows]
        if not torch.isfinite(block).all():
            i, j = torch.nonzero(~torch.isfinite(block))[0].tolist()
            raise ValueError(f"gram: expected finite numbers, got {block[i, j].item()} at index {[start + i, j]}")
        largest = max(largest, float(block.abs().max()))
    tolerance = torch.finfo(gram.dtype).eps ** 0.5 * largest
    for start in range(0, len(gram), rows):
        gap = (gram[start : start + rows] - gram[:, start : start + rows].T).abs()
        if gap.max() > tolerance:
            i, j = divmod(int(gap.argmax()), len(gram))
            i += start
            raise ValueError(
                f"gram: expected a symmetric matrix, got {gram[i, j].item():.6g} at index {[i, j]} "
                f"and {gram[j, i].item():.6g} at {[j, i]}"
            )


def _check_square(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"gram: expected shape (n, n) with n at least 1, got {shape}")


def check_targets(targets: Any, n: int) -> Float[Tensor, "n outputs"]:
    """Targets in float64 on the CPU.

    Raises
    ------
    ValueError
        If they are no finite tensor of shape (n, outputs).
    """
    if not isinstance(targets, Tensor) or targets.ndim != 2 or len(targets) != n or not targets.shape[1]:
        got = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"targets: expected a tensor of shape ({n}, outputs), got {got}")
    if targets.is_complex():
        raise ValueError(f"targets: expected real numbers, got dtype {targets.dtype}")
    exact = targets.detach().double().cpu()
    if not torch.isfinite(exact).all():
        first = torch.nonzero(~torch.isfinite(exact))[0].tolist()
        raise ValueError(f"targets: expected finite numbers, got {exact[tuple(first)].item()} at index {first}")
    return exact


def check_positive(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite number above 0, or of at least 0 where `zero` is allowed.

    Raises
    ------
    ValueError
        If `value` is none.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else float("nan")
    if not (0 < number < float("inf") or (zero and number == 0)):
        wanted = "a finite number of at least 0" if zero else "a positive finite number"
        raise ValueError(f"{name}: expected {wanted}, got {value!r}")
    return number

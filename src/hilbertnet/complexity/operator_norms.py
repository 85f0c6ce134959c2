"""The norm of a linear map that is known by what it does: from its matrix if small, else by Lanczos' method.

Two numbers are always given: a value that is never above the norm (but for rounding), and an upper bound. Adjoints come
from automatic differentiation, so that any composition of torch's linear operations will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hilbertnet.signals import as_rng
from hilbertnet.threads import threads

__all__ = ["DENSE", "LinearMap", "OperatorNorm", "check_tolerance", "operator_norm", "spectral_norm"]

DENSE = 2**20
"""Entries of a matrix that is faster to make than to iterate with."""

_FAILURE = 1e-6
_ROUNDING = 1e-10


@dataclass(frozen=True)
class LinearMap:
    """A linear map of signals.

    Parameters
    ----------
    apply
        From (n, *shape) to (n, *output), float64, linear in each of the n signals apart, by differentiable operations.
    shape
        Shape of one input.
    """

    apply: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``C^T y``, by automatic differentiation."""
        with torch.enable_grad():
            x = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self(x), x, y)[0]

    def squared(self, x: Tensor) -> Tensor:
        """``C^T C x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self(x)
            return torch.autograd.grad(y, x, y.detach())[0]

    def dense(self) -> Tensor:
        """Its matrix, (outputs, inputs)."""
        size = math.prod(self.shape)
        return self(torch.eye(size, dtype=torch.float64).view(size, *self.shape)).flatten(1).T.contiguous()


@dataclass(frozen=True)
class OperatorNorm:
    """An operator norm between two numbers.

    Parameters
    ----------
    value
        The largest singular value found, never above the norm but for rounding.
    upper
        What the norm does not exceed: but for rounding where `certain`, else except with a probability of 1e-6 over
        the random start of the iteration (see `operator_norm`).
    method
        ``"dense"`` (from the matrix), ``"fourier"`` (diagonal in frequencies), ``"lanczos"``, or ``"formula"``.
    certain
        Whether no randomness is left in `upper`.
    products
        How many times ``C^T C`` was applied.
    residual
        ``||C^T C v - value^2 v|| / value^2`` of the singular vector found; 0 where the method is direct.
    """

    value: float
    upper: float
    method: str
    certain: bool = True
    products: int = 0
    residual: float = 0.0

    @property
    def gap(self) -> float:
        """``upper / value - 1``, 0 for the zero map."""
        return self.upper / self.value - 1.0 if self.value > 0 else 0.0

    def __str__(self) -> str:
        if self.gap <= 1e-6:
            return f"{self.value:.6g} ({self.method})"
        surely = "" if self.certain else " but for a probability of 1e-6"
        return f"{self.value:.6g} ({self.method}, {self.products} products, at most {self.upper:.6g}{surely})"


@torch.no_grad()
def operator_norm(
    operator: LinearMap,
    *,
    tolerance: float = 0.01,
    generator: int | torch.Generator = 0,
    dense: int = DENSE,
    bound: float = math.inf,
) -> OperatorNorm:
    """The norm of a linear map: from its matrix if it is small, else by Lanczos' method with a certified gap.

    Lanczos' method takes the best vector of the span of ``(C^T C)^q v`` and is never worse than the power iteration.
    From a uniform random start v, the probability that its value for ``||C||^2`` is too small by a factor below 1 -
    eps after q products is at most ``1.648 sqrt(N) exp(-sqrt(eps) (2 q - 1))``, N the number of inputs. The number of
    products is chosen so that `OperatorNorm.upper` is at most ``1 + tolerance`` times the value, at a probability of
    1e-6; it is smaller where `bound` comes that near before.

    Parameters
    ----------
    operator
        C.
    tolerance
        Wanted relative distance of `OperatorNorm.upper` from `OperatorNorm.value`.
    generator
        Seed of the start, or a generator.
    dense
        Entries up to which the matrix is made; 0 for never.
    bound
        An upper bound known from elsewhere.

    Returns
    -------
    OperatorNorm
        The norm between two numbers.

    Raises
    ------
    ValueError
        If the tolerance is not between 0 and 1, or what the map gives is not finite.

    References
    ----------
    J. Kuczynski and H. Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a
    random start", SIAM Journal on Matrix Analysis and Applications, 1992.
    """
    check_tolerance(tolerance)
    start = torch.randn(1, *operator.shape, dtype=torch.float64, generator=as_rng(generator))
    image = operator(start)
    if not torch.isfinite(image).all():
        raise ValueError("operator: expected finite numbers, and it gives others")
    if start.numel() * image.numel() <= dense:
        return _directly(operator.dense())
    return _lanczos(operator, start, tolerance, bound)


def check_tolerance(tolerance: float) -> None:
    """Refuse what is no number between 0 and 1."""
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: expected a number between 0 and 1, got {tolerance!r}")


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of a matrix, or the largest one of a batch of them."""
    if matrix.numel() == 0:
        return 0.0
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mH
    with threads(1):
        return math.sqrt(max(float(torch.linalg.eigvalsh(wide @ wide.mH)[..., -1].max()), 0.0))


def _directly(matrix: Tensor) -> OperatorNorm:
    value = spectral_norm(matrix)
    return OperatorNorm(value, value * (1 + _ROUNDING), "dense")


def _lanczos(operator: LinearMap, start: Tensor, tolerance: float, bound: float) -> OperatorNorm:
    size = start.numel()
    spread = math.log(1.648 * math.sqrt(size) / _FAILURE)
    eps = 1.0 - (1.0 + tolerance) ** -2
    wanted = min(math.ceil((spread / math.sqrt(eps) + 1) / 2), size)
    basis = torch.empty(wanted, size, dtype=torch.float64)
    basis[0] = (start / start.norm()).flatten()
    diagonal: list[float] = []
    beside: list[float] = []
    for q in range(1, wanted + 1):
        v = basis[q - 1]
        w = operator.squared(v.view(start.shape)).flatten()
        diagonal.append(float(w @ v))
        for _ in range(2):  # once is not enough in floating point
            w = w - basis[:q].T @ (basis[:q] @ w)
        length = float(w.norm())
        square, last = _largest(diagonal, beside)
        closed = length <= 1e-12 * max(square, torch.finfo(torch.float64).tiny) or q == size
        value = math.sqrt(max(square, 0.0))
        if closed or q == wanted or bound <= value * (1 + tolerance):
            break
        beside.append(length)
        basis[q] = w / length
    if closed:
        return OperatorNorm(value, min(value * (1 + _ROUNDING), max(bound, value)), "lanczos", True, q)
    residual, eps = length * last / square, (spread / (2 * q - 1)) ** 2
    likely = value / math.sqrt(1 - eps) if eps < 1 else math.inf
    # a bound from elsewhere that rounding brought below the value is met with equality
    return OperatorNorm(value, min(likely, max(bound, value)), "lanczos", bound <= likely, q, residual)


def _largest(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """Largest eigenvalue of a tridiagonal matrix, and the size of the last entry of its vector."""
    from scipy.linalg import eigh_tridiagonal

    last = len(diagonal) - 1
    if not last:
        return diagonal[0], 1.0
    values, vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=(last, last))
    return float(values[0]), abs(float(vectors[-1, 0]))

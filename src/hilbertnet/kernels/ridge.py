"""Kernel ridge regression from one eigendecomposition: every lambda, and leave-one-out without refitting.

`ridge_solve` is the cheaper way to one lambda that is known, from one Cholesky factor; `hilbertnet.kernels.large_ridge`
is for matrices that do not fit in memory.

For a Gram matrix K and targets T the coefficients are ``(K + n lambda I)^(-1) T``. With ``K = Q diag(s) Q'`` they cost
one matrix product for each lambda, and the leave-one-out residual of example i is ``coef_i / [(K + n lambda
I)^(-1)]_ii``.

With an intercept b, which is not penalized, coefficients are those of T - b, and with M = (K + n lambda I)^(-1) the
intercept is ``1' M T / 1' M 1``; the diagonal of M in the leave-one-out residual becomes ``M_ii - (M 1)_i^2 / 1' M 1``.

References: C. E. Rasmussen and C. K. I. Williams, "Gaussian processes for machine learning", 2006, section 5.4.2;
G. Cawley, "Leave-one-out cross-validation based model selection criteria for weighted LS-SVMs", IJCNN 2006.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.kernels.cholesky import cholesky
from hilbertnet.kernels.gram_like import check_gram, check_positive, check_targets
from hilbertnet.progress import LONG, announce, format_bytes, format_seconds

__all__ = ["LAMBDAS", "RidgePath", "RidgeSolution", "choose_lambda", "fit_intercept", "ridge_path", "ridge_solve"]

LAMBDAS: tuple[float, ...] = tuple(float(f"{m}e-{p}") for p in range(1, 12) for m in (3, 1))[1:]
"""Values to try, in units of the mean of K(x, x)."""

_EIGH_MATRICES = 4  # of the size of K: itself, the eigenvectors and the workspace of LAPACK's syevd
_PROBE = 500  # the size whose eigendecomposition is timed before a large one


@dataclass(frozen=True)
class RidgeSolution:
    """Functions ``sum_i coefficients_i K(x_i, .) + intercept`` fitted with one lambda.

    Parameters
    ----------
    lam
        lambda of ``(K + n lambda I)``.
    coefficients
        Shape (n, outputs).
    intercept
        Shape (outputs,); zeros if none was fitted.
    squared_norm
        Squares of the RKHS norms of the functions less their intercepts, ``coef' K coef``, shape (outputs,).
    jitter
        What was added to the diagonal beside n lambda to solve the system.
    """

    lam: float
    coefficients: Float[Tensor, "n outputs"]
    intercept: Float[Tensor, " outputs"]
    squared_norm: Float[Tensor, " outputs"]
    jitter: float = 0.0


def fit_intercept(
    solved: Float[Tensor, "n outputs"], solved_ones: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n outputs"], Float[Tensor, " outputs"]]:
    """Coefficients and intercepts from ``M T`` and ``M 1``, with M = (K + n lambda I)^(-1)."""
    intercept = solved.sum(0) / solved_ones.sum()
    return solved - torch.outer(solved_ones, intercept), intercept


def ridge_solve(
    gram: Float[Tensor, "n n"], targets: Float[Tensor, "n outputs"], lam: float, *, intercept: bool = False
) -> RidgeSolution:
    """Kernel ridge regression for one lambda, by Cholesky, in float64 on the CPU.

    Parameters
    ----------
    gram
        Symmetric, shape (n, n).
    targets
        Shape (n, outputs).
    lam
        lambda, positive.
    intercept
        Whether to fit an intercept beside the function.

    Warns
    -----
    RuntimeWarning
        If ``K + n lambda I`` is not positive definite to machine precision; see `hilbertnet.kernels.cholesky`.
    """
    check_gram(gram)
    exact = check_targets(targets, len(gram))
    shift = len(gram) * check_positive("lam", lam)
    factor = cholesky(gram, shift)
    right = torch.cat([exact, torch.ones(len(exact), 1, dtype=torch.float64)], dim=1) if intercept else exact
    solved = factor.solve(right)
    constant = torch.zeros(exact.shape[1], dtype=torch.float64)
    if intercept:
        solved, constant = fit_intercept(solved[:, :-1], solved[:, -1])
    norms = (solved * (gram.detach().double().cpu() @ solved)).sum(0).clamp(min=0.0)
    return RidgeSolution(lam, solved, constant, norms, factor.jitter)


@dataclass(frozen=True)
class RidgePath:
    """One Gram matrix's eigendecomposition with the targets in its basis.

    Parameters
    ----------
    values, vectors
        Eigenvalues, negative ones (rounding) set to 0, and eigenvectors.
    rotated
        Targets in the eigenbasis, shape (n, outputs).
    targets
        Targets, shape (n, outputs).
    with_intercept
        Whether there is an intercept.
    """

    values: Float[Tensor, " n"]
    vectors: Float[Tensor, "n n"]
    rotated: Float[Tensor, "n outputs"]
    targets: Float[Tensor, "n outputs"]
    with_intercept: bool = False

    def _filter(self, lam: float) -> Tensor:
        return 1.0 / (self.values + len(self.values) * lam)

    def _ones(self) -> Tensor:
        """The vector of ones in the eigenbasis."""
        return self.vectors.sum(0)

    def intercept(self, lam: float) -> Float[Tensor, " outputs"]:
        """``1' M T / 1' M 1``, or zeros without an intercept."""
        if not self.with_intercept:
            return torch.zeros(self.targets.shape[1], dtype=self.targets.dtype)
        return ((self._filter(lam) * self._ones()) @ self.rotated) / self.inverse_sum(lam)

    def _shrunk(self, lam: float) -> Tensor:
        """Coefficients in the eigenbasis."""
        return self._filter(lam)[:, None] * (self.rotated - torch.outer(self._ones(), self.intercept(lam)))

    def coefficients(self, lam: float) -> Float[Tensor, "n outputs"]:
        """``(K + n lambda I)^(-1) (T - b)``."""
        return self.vectors @ self._shrunk(lam)

    def inverse_sum(self, lam: float) -> float:
        """``1' M 1``."""
        return float(self._filter(lam) @ self._ones().square())

    def inverse_diagonal(self, lam: float) -> Float[Tensor, " n"]:
        """The diagonal of M, or of ``M - M 1 1' M / 1' M 1`` with an intercept."""
        diagonal = self.vectors.square() @ self._filter(lam)
        if self.with_intercept:
            shrunk = self._filter(lam) * self._ones()
            diagonal = diagonal - (self.vectors @ shrunk).square() / self.inverse_sum(lam)
        return diagonal

    def leave_one_out(self, lam: float) -> Float[Tensor, "n outputs"]:
        """What the function fitted without example i predicts for it."""
        return self.targets - self.coefficients(lam) / self.inverse_diagonal(lam)[:, None]

    def squared_norm(self, lam: float) -> Float[Tensor, " outputs"]:
        """The RKHS norms of the fitted functions, squared: ``coef' K coef``."""
        return (self.values[:, None] * self._shrunk(lam).square()).sum(0)

    def solution(self, lam: float) -> RidgeSolution:
        """All of it for one lambda."""
        return RidgeSolution(lam, self.coefficients(lam), self.intercept(lam), self.squared_norm(lam))


def ridge_path(
    gram: Float[Tensor, "n n"], targets: Float[Tensor, "n outputs"], *, intercept: bool = False
) -> RidgePath:
    """Decompose a Gram matrix, in float64 on the CPU; what takes more than a minute says so first.

    Parameters
    ----------
    gram
        Symmetric, shape (n, n).
    targets
        Shape (n, outputs).
    intercept
        Whether to fit an intercept beside the function.

    Raises
    ------
    ValueError
        If `gram` is not symmetric and finite, or `targets` do not fit it.
    """
    check_gram(gram)
    exact = check_targets(targets, len(gram))
    matrix = gram.detach().double().cpu()
    _say_if_long(matrix)
    values, vectors = torch.linalg.eigh(matrix)
    return RidgePath(values.clamp(min=0.0), vectors, vectors.T @ exact, exact, intercept)


def _say_if_long(matrix: Tensor) -> None:
    """Announce the cost of a long decomposition, from that of a leading block; small ones are not even timed."""
    n = len(matrix)
    if n < 6 * _PROBE:
        return
    block = matrix[:_PROBE, :_PROBE].contiguous()
    torch.linalg.eigh(block)  # the first call warms up
    began = time.perf_counter()
    torch.linalg.eigh(block)
    seconds = (time.perf_counter() - began) * (n / _PROBE) ** 3
    if seconds > LONG:
        memory = format_bytes(_EIGH_MATRICES * 8 * n**2)
        announce(f"eigendecomposition of {n:,} x {n:,}: about {format_seconds(seconds)}, {memory} of memory")


def choose_lambda(
    path: RidgePath, lambdas: Sequence[float], score: Callable[[Tensor], float], unit: float = 1.0
) -> tuple[float, list[tuple[float, float, float]]]:
    """Choose lambda by leave-one-out: the best score, ties by the mean squared residual.

    Parameters
    ----------
    path
        The decomposition.
    lambdas
        Values to try, in units of `unit`.
    score
        Of the leave-one-out predictions (n, outputs); larger is better.
    unit
        What a lambda of 1 means.

    Returns
    -------
    tuple
        The chosen lambda, and for each one tried (lambda, score, mean squared residual).
    """
    curve = []
    for lam in sorted(map(float, lambdas), reverse=True):
        predicted = path.leave_one_out(lam * unit)
        curve.append((lam, score(predicted), float((predicted - path.targets).square().mean())))
    return max(curve, key=lambda point: (point[1], -point[2]))[0], curve

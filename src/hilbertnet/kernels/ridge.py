"""Kernel ridge regression from one eigendecomposition: every lambda, and leave-one-out without refitting.

For a Gram matrix K and targets T the coefficients are ``(K + n lambda I)^(-1) T``. With ``K = Q diag(s) Q'`` they cost
one matrix product for each lambda, and the leave-one-out residual of example i is ``coef_i / [(K + n lambda
I)^(-1)]_ii``.

With an intercept b, which is not penalized, coefficients are those of T - b, and with M = (K + n lambda I)^(-1) the
intercept is ``1' M T / 1' M 1``; the diagonal of M in the leave-one-out residual becomes ``M_ii - (M 1)_i^2 / 1' M 1``.

References: C. E. Rasmussen and C. K. I. Williams, "Gaussian processes for machine learning", 2006, section 5.4.2;
G. Cawley, "Leave-one-out cross-validation based model selection criteria for weighted LS-SVMs", IJCNN 2006.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LAMBDAS", "RidgePath", "choose_lambda", "ridge_path"]

LAMBDAS: tuple[float, ...] = tuple(float(f"{m}e-{p}") for p in range(1, 12) for m in (3, 1))[1:]
"""Values to try, in units of the mean of K(x, x)."""


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
        shrunk = self._filter(lam) * self._ones()
        return (shrunk @ self.rotated) / (shrunk @ self._ones())

    def _shrunk(self, lam: float) -> Tensor:
        """Coefficients in the eigenbasis."""
        return self._filter(lam)[:, None] * (self.rotated - torch.outer(self._ones(), self.intercept(lam)))

    def coefficients(self, lam: float) -> Float[Tensor, "n outputs"]:
        """``(K + n lambda I)^(-1) (T - b)``."""
        return self.vectors @ self._shrunk(lam)

    def leave_one_out(self, lam: float) -> Float[Tensor, "n outputs"]:
        """What the function fitted without example i predicts for it."""
        diagonal = self.vectors.square() @ self._filter(lam)
        if self.with_intercept:
            shrunk = self._filter(lam) * self._ones()
            diagonal = diagonal - (self.vectors @ shrunk).square() / (shrunk @ self._ones())
        return self.targets - self.coefficients(lam) / diagonal[:, None]

    def squared_norm(self, lam: float) -> Float[Tensor, " outputs"]:
        """The RKHS norms of the fitted functions, squared: ``coef' K coef``."""
        return (self.values[:, None] * self._shrunk(lam).square()).sum(0)


def ridge_path(
    gram: Float[Tensor, "n n"], targets: Float[Tensor, "n outputs"], *, intercept: bool = False
) -> RidgePath:
    """Decompose a Gram matrix, in float64 on the CPU.

    Parameters
    ----------
    gram
        Symmetric, shape (n, n).
    targets
        Shape (n, outputs).
    intercept
        Whether to fit an intercept beside the function.
    """
    values, vectors = torch.linalg.eigh(gram.double().cpu())
    exact = targets.double().cpu()
    return RidgePath(values.clamp(min=0.0), vectors, vectors.T @ exact, exact, intercept)


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

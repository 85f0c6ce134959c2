"""Kernel ridge regression from one eigendecomposition: every lambda, and leave-one-out without refitting.

For a Gram matrix K and targets T the coefficients are ``(K + n lambda I)^(-1) T``. With ``K = Q diag(s) Q'`` they cost
one matrix product for each lambda, and the leave-one-out residual of example i is ``coef_i / [(K + n lambda
I)^(-1)]_ii``.

Reference: C. E. Rasmussen and C. K. I. Williams, "Gaussian processes for machine learning", 2006, section 5.4.2.
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
    """

    values: Float[Tensor, " n"]
    vectors: Float[Tensor, "n n"]
    rotated: Float[Tensor, "n outputs"]
    targets: Float[Tensor, "n outputs"]

    def _filter(self, lam: float) -> Tensor:
        return 1.0 / (self.values + len(self.values) * lam)

    def coefficients(self, lam: float) -> Float[Tensor, "n outputs"]:
        """``(K + n lambda I)^(-1) T``."""
        return self.vectors @ (self._filter(lam)[:, None] * self.rotated)

    def leave_one_out(self, lam: float) -> Float[Tensor, "n outputs"]:
        """What the function fitted without example i predicts for it."""
        diagonal = self.vectors.square() @ self._filter(lam)
        return self.targets - self.coefficients(lam) / diagonal[:, None]

    def squared_norm(self, lam: float) -> Float[Tensor, " outputs"]:
        """The RKHS norms of the fitted functions, squared: ``coef' K coef``."""
        shrunk = self.values[:, None] * (self._filter(lam)[:, None] * self.rotated).square()
        return shrunk.sum(0)


def ridge_path(gram: Float[Tensor, "n n"], targets: Float[Tensor, "n outputs"]) -> RidgePath:
    """Decompose a Gram matrix, in float64 on the CPU.

    Parameters
    ----------
    gram
        Symmetric, shape (n, n).
    targets
        Shape (n, outputs).
    """
    values, vectors = torch.linalg.eigh(gram.double().cpu())
    exact = targets.double().cpu()
    return RidgePath(values.clamp(min=0.0), vectors, vectors.T @ exact, exact)


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

"""Cholesky factors of Gram matrices, with a jitter that is never silent.

A Gram matrix with repeated signals, or one computed in float32, is positive definite on paper only. What has to be
added to its diagonal before it can be factorized is found, reported and warned of.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.kernels.gram_like import check_gram, check_positive

__all__ = ["Cholesky", "cholesky"]

_MOST = 1e-3  # of the largest diagonal entry: what needs more is not a Gram matrix with rounding errors


@dataclass(frozen=True)
class Cholesky:
    """The factor L of ``K + (shift + jitter) I = L L'``.

    Parameters
    ----------
    lower
        L, float64.
    jitter
        What was added to the diagonal beside the shift; 0 unless it had to be.
    """

    lower: Float[Tensor, "n n"]
    jitter: float

    def solve(self, right: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """``(L L')^(-1) right``."""
        return torch.cholesky_solve(right, self.lower)

    def whiten(self, right: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """``L^(-1) right``."""
        return torch.linalg.solve_triangular(self.lower, right, upper=False)

    def log_determinant(self) -> float:
        """``log det(L L')``."""
        return 2 * float(self.lower.diagonal().log().sum())

    def inverse_diagonal(self) -> Float[Tensor, " n"]:
        """The diagonal of ``(L L')^(-1)``."""
        return torch.cholesky_inverse(self.lower).diagonal().clone()


def cholesky(gram: Float[Tensor, "n n"], shift: float = 0.0) -> Cholesky:
    """Factorize ``K + shift I``, in float64 on the CPU.

    The jitter starts at 0. It grows by factors of ten, from n eps times the largest diagonal entry, as long as a pivot
    is not above that rounding error, and a `RuntimeWarning` says how large it became.

    Parameters
    ----------
    gram
        K, symmetric, shape (n, n); left as it is.
    shift
        At least 0.

    Raises
    ------
    ValueError
        If `gram` is not symmetric and finite, or is far from positive semi-definite: a jitter of 1e-3 of the largest
        diagonal entry would not do.
    """
    check_gram(gram)
    shift = check_positive("shift", shift, zero=True)
    system = gram.detach().to("cpu", torch.float64, copy=True)
    diagonal = system.diagonal().clone() + shift
    largest = float(diagonal.max())
    rounding = len(system) * torch.finfo(torch.float64).eps * largest
    jitter = 0.0
    while jitter <= _MOST * largest:
        system.diagonal().copy_(diagonal + jitter)
        lower, failed = torch.linalg.cholesky_ex(system)
        # a factor of rounding errors may well exist: its pivots are no larger than they
        if not failed and float(lower.diagonal().min()) ** 2 > rounding:
            if jitter:
                _warn(shift, jitter, largest)
            return Cholesky(lower, jitter)
        if not rounding > 0:
            break
        jitter = max(rounding, 10 * jitter)
    raise ValueError(
        f"gram: expected a positive semi-definite matrix; with {shift + _MOST * largest:.2g} added to its diagonal, "
        f"whose largest entry is {largest - shift:.2g}, it is not positive definite"
    )


def _warn(shift: float, jitter: float, largest: float) -> None:
    warnings.warn(
        f"the Gram matrix + {shift:.2g} I is not positive definite to machine precision; a jitter of {jitter:.2g} "
        f"({jitter / largest:.1g} of the largest diagonal entry) was added to its diagonal",
        RuntimeWarning,
        stacklevel=3,
    )

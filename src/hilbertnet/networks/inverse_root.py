"""The inverse square root of a Nyström layer's small kernel matrix, regularized, with its exact gradient.

For eigenvalues l and s = sqrt(l), the two published forms are ``1 / (s + eps)`` ("root") and ``(l + eps)^(-1/2)``
("eigenvalue"). With eps = 0 both are the pseudo-inverse square root. The derivative of a matrix function has divided
differences (f(l_i) - f(l_j)) / (l_i - l_j), which here simplify to forms without eigenvalue gaps, so repeated
eigenvalues do no harm.

Reference: J. Mairal, "End-to-end kernel learning with supervised convolutional kernel networks", NeurIPS 2016, appendix
A.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["PUBLISHED_EPSILON", "Regularization", "inverse_square_root"]

Regularization = Literal["root", "eigenvalue"]
PUBLISHED_EPSILON: dict[str, float] = {"root": 0.01, "eigenvalue": 0.001}


class _InverseRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gram: Tensor, regularization: str, epsilon: float) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=0.0)
        if epsilon == 0.0:
            kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
            roots = values.sqrt()
            inverse = torch.where(kept, 1.0 / roots.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
        elif regularization == "root":
            roots = values.sqrt()
            inverse = 1.0 / (roots + epsilon)
        else:
            roots = (values + epsilon).sqrt()
            inverse = 1.0 / roots
        ctx.save_for_backward(vectors, roots, inverse)
        return (vectors * inverse) @ vectors.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        vectors, roots, inverse = ctx.saved_tensors
        sums = roots[:, None] + roots[None, :]
        # both s vanish only where the derivative is infinite; rounding decides which eigenvalues those are
        floor = roots[-1] * torch.finfo(roots.dtype).eps ** 0.5
        differences = -inverse[:, None] * inverse[None, :] / sums.clamp(min=floor)
        # one eigenvalue left out by the pseudo-inverse: f(l_i) / l_i, with the other f = 0
        one_left_out = (inverse[:, None] == 0) ^ (inverse[None, :] == 0)
        differences = torch.where(one_left_out, (inverse[:, None] + inverse[None, :]) ** 3, differences)
        inner = differences * (vectors.T @ grad @ vectors)
        return vectors @ inner @ vectors.T, None, None


def inverse_square_root(gram: Tensor, regularization: Regularization, epsilon: float) -> Tensor:
    """The regularized inverse square root of a symmetric positive semi-definite matrix, in float64, in its dtype.

    Parameters
    ----------
    gram
        Shape (m, m).
    regularization
        ``"root"``: eigenvalues l become 1/(sqrt(l) + eps); ``"eigenvalue"``: (l + eps)^(-1/2).
    epsilon
        0 or more; 0 is the pseudo-inverse square root.

    Returns
    -------
    Tensor
        Shape (m, m), on the device of `gram`.
    """
    exact = gram.to("cpu").double() if gram.device.type == "mps" else gram.double()
    return _InverseRoot.apply(exact, regularization, epsilon).to(device=gram.device, dtype=gram.dtype)

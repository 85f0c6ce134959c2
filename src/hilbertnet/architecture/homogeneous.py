"""Norms and cosines of patches, the one place where a norm is floored and a cosine is clipped."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.architecture.dot_product import DotProductKernel

__all__ = ["homogeneous", "safe_norm", "tangent"]


def safe_norm(squared: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Square root of squared norms, exactly 0 (with gradient 0) where they vanish or rounding made them negative."""
    floor = _floor(squared.dtype) ** 2
    return torch.where(squared > floor, torch.sqrt(squared.clamp(min=floor)), 0.0)


def _floor(dtype: torch.dtype) -> float:
    """A norm below this counts as 0; its square is still a normal number."""
    return torch.finfo(dtype).tiny ** 0.25


def _cosine(inner: Tensor, norm_x: Tensor, norm_y: Tensor) -> Tensor:
    floor = _floor(inner.dtype)
    return (inner / (norm_x.clamp(min=floor) * norm_y.clamp(min=floor))).clamp(-1.0, 1.0)


def homogeneous(kernel: DotProductKernel, inner: Tensor, norm_x: Tensor, norm_y: Tensor) -> Tensor:
    """``||z|| ||z'|| kappa(<z, z'> / (||z|| ||z'||))``, 0 where z or z' is 0.

    Parameters
    ----------
    kernel
        kappa.
    inner, norm_x, norm_y
        Inner products and norms, of shapes that broadcast together.
    """
    return norm_x * norm_y * kernel.value(_cosine(inner, norm_x, norm_y))


def tangent(kernel: DotProductKernel, inner: Tensor, norm_x: Tensor, norm_y: Tensor) -> Tensor:
    """``kappa'(cos(z, z'))``, the factor of the layer below in the tangent kernel."""
    return kernel.derivative(_cosine(inner, norm_x, norm_y))

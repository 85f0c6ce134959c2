"""Homogeneous dot-product kernels K(z, z') = ||z|| ||z'|| kappa(cos(z, z')).

``kappa(u) = sum_j b_j u^j`` with ``b_j >= 0`` and ``kappa(1) = 1``. Each kernel knows its value, its derivative (which
gives the tangent kernel), its Taylor coefficients b_j and its slope kappa'(1): above 1 the kernel map is not
non-expansive.

References: A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, chapter 2; Y. Cho and
L. Saul, "Kernel methods for deep learning", NeurIPS 2009 (arc-cosine kernels); A. Bietti and J. Mairal, "On the
inductive bias of neural tangent kernels", NeurIPS 2019.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.text import format_number

if TYPE_CHECKING:
    from hilbertnet.architecture.dual import DualTable

__all__ = [
    "ArcCosine",
    "DotProductKernel",
    "Dual",
    "Exponential",
    "InversePolynomial",
    "Linear",
    "Polynomial",
    "Power",
    "Vovk",
]


class DotProductKernel(ABC):
    """kappa on [-1, 1]: a subclass writes ``value``, ``derivative``, ``coefficients``, ``slope`` and ``__str__``."""

    @abstractmethod
    def value(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """kappa(u), elementwise, for u in [-1, 1]; differentiable, also at the ends."""

    @abstractmethod
    def derivative(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """kappa'(u), elementwise, for u in [-1, 1]."""

    @abstractmethod
    def coefficients(self, count: int) -> NDArray[np.float64]:
        """The Taylor coefficients b_0 ... b_{count-1}."""

    @property
    @abstractmethod
    def slope(self) -> float:
        """kappa'(1), infinite where the kernel map is not Lipschitz."""

    @abstractmethod
    def __str__(self) -> str:
        """The text form."""

    @property
    def lipschitz(self) -> float:
        """An upper bound of the kernel map's Lipschitz constant, ``max(1, sqrt(kappa'(1)))``."""
        return max(1.0, math.sqrt(self.slope))

    def __call__(self, u: Any) -> Any:
        """kappa(u) for a tensor, an array or a number in [-1, 1], in the same kind."""
        if isinstance(u, Tensor):
            return self.value(u)
        values = self.value(torch.as_tensor(np.asarray(u, dtype=np.float64))).numpy()
        return values if values.ndim else float(values)


def _check_positive(name: str, value: float) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}")


def _check_degree(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


class _SmoothAtEnds(torch.autograd.Function):
    """kappa with the derivative it declares, where differentiating its formula would give NaN at u = -1 and 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, kernel: Any) -> Tensor:
        return kernel.formula(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.kernel = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        if math.isinf(ctx.kernel.slope):  # the slope that two neighbouring floating point numbers can show
            eps = torch.finfo(u.dtype).eps
            u = u.clamp(-1.0 + eps, 1.0 - eps)
        return grad * ctx.kernel.derivative(u), None


@dataclass(frozen=True)
class Exponential(DotProductKernel):
    """``exp((u - 1) / sigma^2)``: on the unit sphere, the Gaussian kernel of bandwidth `sigma`.

    kappa'(1) = 1/sigma^2 is 2.78 at the sigma = 0.6 used in practice, so that map is not non-expansive.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("sigma", self.sigma)
        if not 1e-100 < self.sigma < 1e100:  # sigma^-2 must be a positive finite number too
            raise ValueError(f"sigma: expected a positive number between 1e-100 and 1e100, got {self.sigma!r}")

    @property
    def alpha(self) -> float:
        """``1 / sigma^2``."""
        return 1.0 / float(self.sigma) ** 2

    def value(self, u: Tensor) -> Tensor:
        return torch.exp(self.alpha * (u - 1.0))

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha * self.value(u)

    def coefficients(self, count: int) -> NDArray[np.float64]:
        from scipy.special import gammaln

        j = np.arange(count)
        return np.exp(j * math.log(self.alpha) - self.alpha - gammaln(j + 1))

    @property
    def slope(self) -> float:
        return self.alpha

    def __str__(self) -> str:
        return f"exp({format_number(self.sigma)})"


@dataclass(frozen=True)
class InversePolynomial(DotProductKernel):
    """``1 / (2 - u)``, with b_j = 2^-(j+1)."""

    def value(self, u: Tensor) -> Tensor:
        return 1.0 / (2.0 - u)

    def derivative(self, u: Tensor) -> Tensor:
        return (2.0 - u) ** -2

    def coefficients(self, count: int) -> NDArray[np.float64]:
        return np.exp2(-(np.arange(count, dtype=np.float64) + 1.0))

    @property
    def slope(self) -> float:
        return 1.0

    def __str__(self) -> str:
        return "inverse"


@dataclass(frozen=True)
class Polynomial(DotProductKernel):
    """``((c + u) / (c + 1))^degree``, non-expansive if and only if c >= degree - 1."""

    c: float
    degree: int

    def __post_init__(self) -> None:
        _check_positive("c", self.c)
        _check_degree("degree", self.degree)

    def value(self, u: Tensor) -> Tensor:
        return ((self.c + u) / (self.c + 1.0)) ** self.degree

    def derivative(self, u: Tensor) -> Tensor:
        return self.slope * ((self.c + u) / (self.c + 1.0)) ** (self.degree - 1)

    def coefficients(self, count: int) -> NDArray[np.float64]:
        from scipy.special import comb, gammaln

        j = np.arange(count)
        left = np.maximum(self.degree - j, 0)
        if self.degree <= 30:
            return np.where(j <= self.degree, comb(self.degree, j) * self.c**left / (self.c + 1.0) ** self.degree, 0.0)
        # in logarithms: the powers overflow
        logs = gammaln(self.degree + 1.0) - gammaln(j + 1.0) - gammaln(left + 1.0)
        logs += left * math.log(self.c) - self.degree * math.log1p(self.c)
        return np.where(j <= self.degree, np.exp(logs), 0.0)

    @property
    def slope(self) -> float:
        return self.degree / (self.c + 1.0)

    def __str__(self) -> str:
        return f"poly({format_number(self.c)},{self.degree})"


@dataclass(frozen=True)
class Power(DotProductKernel):
    """``u^degree``: products of `degree` pixels and nothing else."""

    degree: int

    def __post_init__(self) -> None:
        _check_degree("degree", self.degree, least=2)

    def value(self, u: Tensor) -> Tensor:
        return u**self.degree

    def derivative(self, u: Tensor) -> Tensor:
        return self.degree * u ** (self.degree - 1)

    def coefficients(self, count: int) -> NDArray[np.float64]:
        return (np.arange(count) == self.degree).astype(np.float64)

    @property
    def slope(self) -> float:
        return float(self.degree)

    def __str__(self) -> str:
        return f"poly{self.degree}"


@dataclass(frozen=True)
class Linear(DotProductKernel):
    """``u``: the identity map."""

    def value(self, u: Tensor) -> Tensor:
        return u

    def derivative(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)

    def coefficients(self, count: int) -> NDArray[np.float64]:
        return (np.arange(count) == 1).astype(np.float64)

    @property
    def slope(self) -> float:
        return 1.0

    def __str__(self) -> str:
        return "linear"


@dataclass(frozen=True)
class Vovk(DotProductKernel):
    """Vovk's real polynomial kernel of degree 3, ``(1 + u + u^2) / 3``."""

    def value(self, u: Tensor) -> Tensor:
        return (1.0 + u + u * u) / 3.0

    def derivative(self, u: Tensor) -> Tensor:
        return (1.0 + 2.0 * u) / 3.0

    def coefficients(self, count: int) -> NDArray[np.float64]:
        return np.where(np.arange(count) < 3, 1.0 / 3.0, 0.0)

    @property
    def slope(self) -> float:
        return 1.0

    def __str__(self) -> str:
        return "vovk3"


@dataclass(frozen=True)
class ArcCosine(DotProductKernel):
    """Arc-cosine kernels: order 0 (step activation) and order 1 (ReLU), normalized to kappa(1) = 1.

    Order 0 is ``1 - arccos(u)/pi``; near u = 1 it behaves as ``sqrt(1 - u)``, so a cosine known to 1e-16 gives it to
    1e-8 only. Order 1 is ``(u (pi - arccos u) + sqrt(1 - u^2))/pi``; its derivative is order 0.
    """

    order: int

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (0, 1):
            raise ValueError(f"order: expected 0 or 1, got {self.order!r}")

    def formula(self, u: Tensor) -> Tensor:
        """kappa(u) without a usable derivative at the ends."""
        angle = torch.acos(u)
        if self.order == 0:
            return 1.0 - angle / math.pi
        return (u * (math.pi - angle) + torch.sqrt((1.0 - u) * (1.0 + u))) / math.pi

    def value(self, u: Tensor) -> Tensor:
        return _SmoothAtEnds.apply(u, self)

    def derivative(self, u: Tensor) -> Tensor:
        if self.order == 1:
            return ArcCosine(0).value(u)
        return 1.0 / (math.pi * torch.sqrt((1.0 - u) * (1.0 + u)))

    def coefficients(self, count: int) -> NDArray[np.float64]:
        n = np.arange(count // 2 + 1)
        # C(2n, n) / 4^n by its recurrence: factorials overflow
        central = np.cumprod(np.concatenate([[1.0], (2.0 * n[1:] - 1.0) / (2.0 * n[1:])]))
        odd = central / (math.pi * (2 * n + 1))  # b_{2n+1} of order 0
        b = np.zeros(count + 2)
        if self.order == 0:
            b[0] = 0.5
            b[1::2] = odd[: len(b[1::2])]
        else:  # the integral of order 0
            b[0], b[1] = 1.0 / math.pi, 0.5
            b[2::2] = (odd / (2 * n + 2))[: len(b[2::2])]
        return b[:count]

    @property
    def slope(self) -> float:
        return math.inf if self.order == 0 else 1.0

    def __str__(self) -> str:
        return f"arccos{self.order}"


@dataclass(frozen=True)
class Dual(DotProductKernel):
    """The dual kernel of an activation, ``E[s(a) s(b)] / E[s(a)^2]`` with (a, b) standard normal of correlation u.

    Parameters
    ----------
    activation
        A name of `hilbertnet.architecture.dual.ACTIVATIONS`, such as ``"gelu"``, or an elementwise function of tensors
        that is continuous, and smooth except perhaps at 0. Only names have a text form that can be read back.

    Raises
    ------
    ValueError
        If the name is unknown or the quadrature does not converge (a jump, or a kink away from 0).

    References
    ----------
    A. Daniely, R. Frostig and Y. Singer, "Toward deeper understanding of neural networks", NeurIPS 2016.
    """

    activation: str | Callable[[Tensor], Tensor]

    if TYPE_CHECKING:
        _table: DualTable

    def __post_init__(self) -> None:
        if not isinstance(self.activation, str) and not callable(self.activation):
            raise ValueError(
                f"activation: expected a name or an elementwise function of tensors, got {self.activation!r}"
            )
        from hilbertnet.architecture.dual import dual_table

        # an attribute and no property: torch's compiler would trace into the making of the table
        object.__setattr__(self, "_table", dual_table(self.activation))

    def __reduce__(self) -> tuple[Any, ...]:
        return Dual, (self.activation,)

    def formula(self, u: Tensor) -> Tensor:
        """kappa(u) without a usable derivative at the ends."""
        return self._table.value(u)

    def value(self, u: Tensor) -> Tensor:
        return _SmoothAtEnds.apply(u, self)

    def derivative(self, u: Tensor) -> Tensor:
        return self._table.derivative(u)

    def coefficients(self, count: int) -> NDArray[np.float64]:
        return self._table.coefficients(count)

    @property
    def slope(self) -> float:
        return self._table.slope

    def __str__(self) -> str:
        name = self.activation if isinstance(self.activation, str) else getattr(self.activation, "__qualname__", "?")
        return f"dual({name})"

r"""The constants of the stability theorems: what is known of them on R^d, and their statements.

**The translation constant C.** ``||L_tau A - A|| <= (C / sigma) sup|tau|`` for a Gaussian filter A of standard
deviation sigma: its kernel ``h(u - tau(u) - v) - h(u - v)`` has row sums at most ``sup|tau| ||grad h||_1 / sigma``,
and column sums at most that over ``(1 - g)^d``, g = sup||grad tau||, by the change of variables u -> u - t tau(u).
Schur's test gives ``C = ||grad h||_1 (1 - g)^(-d/2)``, which is ``2^(d/2) ||grad h||_1`` at g = 1/2, and ``||grad
h||_1`` for translations.

**The commutator's constant C_beta.** ``||[P A, L_tau]|| <= C_beta g`` for patches in a ball of radius beta sigma. It
is enough to bound every shift |c| <= beta sigma of A by itself, as P takes a mean of squares over them. With v = w -
tau(w) and D(w) = det(I - grad tau(w)), the kernel of the commutator of the filter shifted by c is

.. math:: h_\sigma(z - \tau(z) + c - w + \tau(w)) - h_\sigma(z + c - w) / D(w).

Let y = z + c - w - t (tau(z) - tau(w)), for t from 0 to 1 between the two arguments. Since |tau(z) - tau(w)| <= g |z
- w| and |z - w| <= (|y| + |c|) / (1 - t g), integrals of the difference of the two h are at most g times ``m = int
|grad h|(y) (|y| + beta) dy = d + beta ||grad h||_1``, times a Jacobian of the change to y. Per unit of g, with D
between (1 - g)^d and (1 + g)^d, and with the singular values of ``(I - grad tau)(I - t grad tau)^(-1)``,

.. math::

   \text{rows (over } v\text{):} \quad & m \int_0^1 \frac{(1 + g (1 - 2t))^d}{(1 - t g)^{d+1}} dt +
       \frac{(1 + g)^d - 1}{g}, \\
   \text{columns (over } z\text{):} \quad & m \int_0^1 \frac{dt}{(1 - t g)^{d+1}} + \frac{(1 - g)^{-d} - 1}{g},

and C_beta is the root of their product (Schur's test): ``2 d + beta ||grad h||_1`` as g -> 0. It grows linearly with
beta, less than the ``O(beta^(d+1))`` that the theorem states, so that it may stand for the theorem's constant.

References: A. Bietti and J. Mairal, "Group invariance, stability to deformations, and complexity of deep
convolutional representations", JMLR 2019, section 3; S. Mallat, "Group invariant scattering", CPAM 2012, appendix E.
The two computations with all constants kept are this library's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hilbertnet.stability.scales import Scales

__all__ = [
    "TERMS",
    "Constant",
    "commutator_constant",
    "given_constants",
    "gradient_mass",
    "known_constants",
    "term_sizes",
    "translation_constant",
    "warp_norm",
]

TERMS = {"ckn": ("gradient", "translation"), "ntk": ("root", "gradient", "translation")}
"""Names of the constants of each theorem, in its order of terms."""


@dataclass(frozen=True)
class Constant:
    """A constant of a theorem and what is known of it.

    Parameters
    ----------
    name
        ``"gradient"``, ``"translation"`` or ``"root"``.
    value
        A number, or one for each field (n,); infinite where not known.
    status
        ``"known ..."``, ``"assumed ..."``, ``"fitted to ..."``, ``"given"`` or ``"not known"``.
    """

    name: str
    value: float | Tensor
    status: str

    def __str__(self) -> str:
        low, high = (float(f(torch.as_tensor(self.value))) for f in (torch.min, torch.max))
        shown = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return f"{self.name}: {shown}, {self.status}"


def gradient_mass(axes: int) -> float:
    """``||grad h||_1`` of the standard Gaussian density h: the mean of |y|, ``sqrt(2) Gamma((d+1)/2) / Gamma(d/2)``."""
    _check_axes(axes)
    return math.sqrt(2.0) * math.gamma((axes + 1) / 2) / math.gamma(axes / 2)


def translation_constant(axes: int, gradient: float = 0.5) -> float:
    """C with ``||L_tau A - A|| <= (C / sigma) sup|tau|`` for Gaussian filters on R^d (see the module).

    Parameters
    ----------
    axes
        d.
    gradient
        ``sup||grad tau||``, below 1.
    """
    _check_gradient(gradient)
    return gradient_mass(axes) * (1.0 - gradient) ** (-axes / 2)


def commutator_constant(beta: float, axes: int, gradient: float = 0.5) -> float:
    """C_beta with ``||[P A, L_tau]|| <= C_beta sup||grad tau||`` for Gaussian filters on R^d (see the module).

    Parameters
    ----------
    beta
        Radius of the patches over the filter's sigma.
    axes
        d.
    gradient
        ``sup||grad tau||``, below 1.
    """
    _check_gradient(gradient)
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta: expected a number of at least 0, got {beta!r}")
    mass = axes + beta * gradient_mass(axes)
    nodes, weights = np.polynomial.legendre.leggauss(32)
    t, weights = (nodes + 1) / 2, weights / 2
    inverse = (1 - t * gradient) ** -(axes + 1.0)
    rows = mass * float(weights @ ((1 + gradient * (1 - 2 * t)) ** axes * inverse))
    columns = mass * float(weights @ inverse)
    rows += ((1 + gradient) ** axes - 1) / gradient if gradient > 0 else axes
    columns += ((1 - gradient) ** -axes - 1) / gradient if gradient > 0 else axes
    return math.sqrt(rows * columns)


def warp_norm(axes: int, gradient: float = 0.5) -> float:
    """The bound ``(1 - sup||grad tau||)^(-d/2)`` of ``||L_tau||`` on R^d: ``2^(d/2)`` where the theorem ends."""
    _check_axes(axes)
    _check_gradient(gradient)
    return (1.0 - gradient) ** (-axes / 2)


def known_constants(scales: Scales, kind: str, gradient: Tensor) -> tuple[Constant, ...]:
    """The constants of a theorem for fields of the norms `gradient`, with what is known of each.

    Parameters
    ----------
    scales
        Of the architecture.
    kind
        ``"ckn"`` or ``"ntk"``.
    gradient
        ``sup||grad tau||`` of each field, at most 1/2, shape (n,).
    """
    values = gradient.tolist()
    shift = torch.tensor([translation_constant(scales.axes, g) for g in values], dtype=torch.float64)
    known = "known (Schur's test, Gaussian filters on R^d)"
    if not scales.gaussian:
        known = f"assumed (as if {_other_filters(scales)} were Gaussian)"
    if kind == "ntk":
        order = "known in its order only: in its place the sum of the proof, with known norms"
        unknown = [Constant(name, math.inf, order) for name in ("root", "gradient")]
        return (*unknown, Constant("translation", shift, known))
    grad = torch.tensor([commutator_constant(scales.beta, scales.axes, g) for g in values], dtype=torch.float64)
    return Constant("gradient", grad, known), Constant("translation", shift, known)


def _other_filters(scales: Scales) -> str:
    numbers = [layer.number for layer in scales.layers if layer.source != "Gaussian"]
    return "A_" + ", A_".join(map(str, numbers))


def term_sizes(scales: Scales, kind: str, gradient: Tensor, displacement: Tensor) -> dict[str, Tensor]:
    """What multiplies each constant in the theorem, (n,), the Lipschitz constants of the layers left out.

    ``"ckn"``: ``C_beta (n+1) ||grad tau|| + (C / sigma_n) ||tau||``; ``"ntk"``: ``C n^(7/4) ||grad tau||^(1/2) + C'
    n^2 ||grad tau|| + sqrt(n+1) (C'' / sigma_n) ||tau||``, whose C and C' contain ``C(beta)``.
    """
    n, sigma = scales.depth, scales.sigmas[-1]
    if kind == "ckn":
        return {"gradient": (n + 1) * gradient, "translation": displacement / sigma}
    return {
        "root": n**1.75 * gradient.sqrt(),
        "gradient": n**2 * gradient,
        "translation": math.sqrt(n + 1) * displacement / sigma,
    }


def given_constants(constants: dict[str, float] | Sequence[Constant], kind: str) -> tuple[Constant, ...]:
    """Constants that a user gives, in the theorem's order; those that are left out are not known.

    Raises
    ------
    ValueError
        If a name is not the theorem's, or a value is negative or NaN.
    """
    if isinstance(constants, dict):
        constants = [Constant(name, float(value), "given") for name, value in constants.items()]
    found = {constant.name: constant for constant in constants}
    for name, constant in found.items():
        if name not in TERMS[kind]:
            raise ValueError(
                f"constants: expected names among {', '.join(TERMS[kind])} for kind={kind!r}, got {name!r}"
            )
        if not bool((torch.as_tensor(constant.value) >= 0).all()):
            raise ValueError(f"constants: expected {name} to be at least 0, got {constant.value!r}")
    return tuple(found.get(name, Constant(name, math.inf, "not known")) for name in TERMS[kind])


def _check_axes(axes: int) -> None:
    if axes not in (1, 2):
        raise ValueError(f"axes: expected 1 (signals) or 2 (images), got {axes!r}")


def _check_gradient(gradient: float) -> None:
    if not 0 <= gradient < 1:
        raise ValueError(f"gradient: expected a norm from 0 to below 1, got {gradient!r}")

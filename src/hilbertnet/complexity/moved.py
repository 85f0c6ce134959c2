r"""How far two signals are apart in the RKHS: an upper bound, which is what lower bounds of norms divide by.

For ``Phi = A_n M_n P_n ... A_1 M_1 P_1 A_0`` on a grid the constant

.. math:: \prod_k \|P_k\| \, \rho_k \, \|A_k\|, \qquad \rho_k = \max(1, \sqrt{\kappa_k'(1)}),

is a Lipschitz constant of Phi (``||A_0|| <= 1``). P and A act alike on every feature, so their norms on one channel are
those on features of any dimension; A is separable, and its norm the product over axes of that of a small matrix.
Pooling by s divides the constant by about sqrt(s) for each axis.

Reference: A. Bietti and J. Mairal, "Group invariance, stability to deformations, and complexity of deep convolutional
representations", JMLR 2019, lemma 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import patch_scale, pooling_matrix
from hilbertnet.protocols import Representation
from hilbertnet.signals import is_count

__all__ = ["Moved", "embedding_lipschitz", "lengths"]

_ROUNDING, _STEEP_ROUNDING = 1e-12, 1e-7


def embedding_lipschitz(arch: Architecture | str, space: Sequence[int]) -> float:
    """An upper bound of the Lipschitz constant of an architecture's kernel map, for signals of a spatial shape.

    It is that of ``kind="ckn"``; tangent kernels' maps need not have any.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    space
        Height and width, or length, in pixels.

    Returns
    -------
    float
        Infinite where some kappa'(1) is.

    Raises
    ------
    ValueError
        If the architecture does not suit such signals.

    Examples
    --------
    >>> embedding_lipschitz("3 arccos1 -", (8, 8)), embedding_lipschitz("3 exp(0.5) -", (8, 8))
    (1.0, 2.0)
    >>> round(embedding_lipschitz("3 arccos1 avg2", (8, 8)), 6)
    0.5
    """
    arch = Architecture.parse(arch) if isinstance(arch, str) else arch
    if not isinstance(arch, Architecture):
        raise ValueError(f"arch: expected an Architecture or its text form, got {arch!r}")
    if not isinstance(space, Sequence) or not all(map(is_count, space)):
        raise ValueError(f"space: expected height and width, or (length,), in pixels, got {space!r}")
    constant, axes = 1.0, len(space)
    for layer, (patched, _) in zip(arch.layers, arch.shapes(tuple(space)), strict=True):
        # P'P multiplies a pixel by the number of its patches, at most all
        patches = layer.patch ** (axes / 2) * patch_scale(layer.patch, axes, arch)
        pools = 1.0
        if layer.pool is not None:
            matrices = [pooling_matrix(layer.pool, length, arch) for length in patched]
            pools = math.prod(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in matrices)
        constant *= patches * layer.kernel.lipschitz * pools
    return constant


class Moved:
    """An upper bound of ``||Phi(x) - Phi(y)||``: the least of what is known.

    Parameters
    ----------
    lipschitz
        A Lipschitz constant of Phi, or an architecture (see `embedding_lipschitz`).
    representation
        Phi, known through its distances.
    rounding
        Distances are taken to be good to the square root of this number, in units of the two norms, and are made larger
        by as much (in squares). Default 1e-12; 1e-7 for exact tangent kernels and those with an infinite kappa'(1),
        which are known to half of the digits near the diagonal.

    Raises
    ------
    ValueError
        If an argument is not of this form, or neither of the first two is given; if the representation is the tangent
        kernel of an architecture, or that of another one, while `lipschitz` is an architecture.
    """

    def __init__(
        self,
        lipschitz: float | Architecture | None = None,
        representation: Representation | None = None,
        *,
        rounding: float | None = None,
    ) -> None:
        if lipschitz is None and representation is None:
            raise ValueError("lipschitz, representation: expected at least one of them, got neither")
        number = isinstance(lipschitz, int | float) and not isinstance(lipschitz, bool)
        if not (lipschitz is None or isinstance(lipschitz, Architecture) or (number and 0 < lipschitz < math.inf)):
            raise ValueError(
                f"lipschitz: expected a positive finite number, an Architecture or None, got {lipschitz!r}"
            )
        if not (representation is None or isinstance(representation, Representation)):
            raise ValueError(
                f"representation: expected one with distance and norm, got {type(representation).__name__}"
            )
        arch, tangent = getattr(representation, "arch", None), getattr(representation, "kind", "ckn") != "ckn"
        if isinstance(lipschitz, Architecture) and (tangent or (isinstance(arch, Architecture) and arch != lipschitz)):
            found = f"the tangent kernel of {arch}" if tangent else f"the kernel of {arch}"
            raise ValueError(f"lipschitz: an architecture's constant is that of its own kernel, and not of {found}")
        steep = isinstance(arch, Architecture) and any(math.isinf(layer.kernel.slope) for layer in arch.layers)
        if rounding is None:
            rounding = _STEEP_ROUNDING if tangent or steep else _ROUNDING
        if not (isinstance(rounding, int | float) and not isinstance(rounding, bool) and 0 <= rounding < 1):
            raise ValueError(f"rounding: expected a number from 0 to below 1, got {rounding!r}")
        self.lipschitz, self.representation, self.rounding = lipschitz, representation, float(rounding)

    @property
    def differentiable(self) -> bool:
        """Whether `upper` is."""
        return self.representation is None or self.representation.differentiable

    def constant(self, x: Tensor) -> float | None:
        """The Lipschitz constant, for signals like `x`; ``None`` if there is none."""
        if not isinstance(self.lipschitz, Architecture):
            return self.lipschitz
        found = embedding_lipschitz(self.lipschitz, tuple(x.shape[2:]) or (1,))  # rows are one position
        if math.isinf(found):
            if self.representation is None:
                raise ValueError(
                    f"lipschitz: expected an architecture whose kappa'(1) are finite, got {self.lipschitz}"
                )
            return None
        return found

    def by_length(self, x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """The Lipschitz constant times ``||x - y||``, float64; infinite without one."""
        constant = self.constant(x)
        if constant is None:
            return torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
        return constant * lengths(y.double() - x.double())

    def upper(self, x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """The bound for every pair, float64; infinite where nothing is known."""
        bound = self.by_length(x, y)
        if self.representation is None:
            return bound
        phi = self.representation
        slack = self.rounding * (phi.norm(x).detach().square() + phi.norm(y).detach().square())
        # where it is 0 the distance has no derivative
        square = phi.distance(x, y).double().square() + slack
        return torch.minimum(bound, square.clamp(min=torch.finfo(torch.float64).tiny).sqrt())


def lengths(x: Float[Tensor, "n ..."]) -> Tensor:
    """l2 norms of all but the first axis, with gradient 0 at 0."""
    flat = x.flatten(1)
    zero = (flat == 0).all(1)
    safe = torch.where(zero[:, None], torch.ones_like(flat), flat)
    return torch.where(zero, 0.0, safe.norm(dim=1))

"""The spectrum of the convolutional kernel of one layer, with its pooling.

``K(x, x') = sum_{u,v,v'} A[u, v] A[u, v'] kappa(<x_v, x'_v'>)`` for patches x_v of norm 1 at n positions and a pooling
A. Where patches are independent and uniform on the sphere, the eigenfunctions are ``sum_v e[v] Y(x_v)``, for the
eigenvectors e of ``A^T A`` and harmonics Y of degree k >= 1, with the eigenvalues ``gamma mu_k``: on the torus with
the filter h, gamma = |hat h(w)|^2, so that pooling weighs down what varies fast in space. Constants have the
eigenvalue ``mu_0 sum(A^T A)``. Hence

    E K(x, x) = tr(A^T A) (kappa(1) - mu_0) + sum(A^T A) mu_0,

which for n positions on the torus, pooled without a stride, is ``n ||h||^2 + mu_0 n (1 - ||h||^2)`` with kappa(1) = 1:
n without pooling, and ``1 + mu_0 (n - 1)`` for the mean over all positions (``GlobalPool`` keeps one of these n
outputs).

Reference: A. Bietti, "Approximation and learning with deep convolutional models: a kernel perspective", ICLR 2022,
sections 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.architecture import Architecture, Layer
from hilbertnet.architecture.operators import Conventions, pooling_matrix
from hilbertnet.complexity.effective_dimension import DegreesOfFreedom, positive
from hilbertnet.complexity.log_numbers import format_log
from hilbertnet.complexity.spectrum import Spectrum, mercer
from hilbertnet.complexity.zonal import ZonalFunction
from hilbertnet.complexity.zonal_norm import check_zonal, zonal_norm
from hilbertnet.signals import is_count
from hilbertnet.text import columns

__all__ = ["PooledSpectrum", "pooled_spectrum", "pooling_operator"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PooledSpectrum:
    """Eigenvalues of a one-layer convolutional kernel, made by `pooled_spectrum`.

    Parameters
    ----------
    spectrum
        Of the patches' kernel, all degrees from 0 to a last one.
    space
        The positions along each axis.
    pooling
        ``A^T A``, shape (positions, positions).
    gains
        Its eigenvalues gamma, decreasing, shape (positions,).
    vectors
        Its eigenvectors in columns, shape (positions, positions).
    """

    spectrum: Spectrum
    space: tuple[int, ...]
    pooling: Array
    gains: Array
    vectors: Array

    @property
    def constant(self) -> float:
        """The eigenvalue of the constant function."""
        return float(self.pooling.sum()) * float(self.spectrum.eigenvalues[0])

    @property
    def trace(self) -> float:
        """``E K(x, x)``, all degrees included."""
        rest = self.spectrum.kernel.at_one - float(self.spectrum.eigenvalues[0])
        return float(self.gains.sum()) * rest + self.constant

    def eigenvalues(self, most: int) -> Array:
        """The `most` largest eigenvalues, with multiplicity, decreasing; fewer if the degrees hold fewer."""
        values, counts = [self.constant], [1]
        degree_values = self.spectrum.eigenvalues
        for k, count in zip(self.spectrum.degrees[1:], self.spectrum.multiplicities[1:], strict=True):
            values += (self.gains * degree_values[k]).tolist()
            counts += [min(count, most)] * len(self.gains)
        order = np.argsort(values)[::-1]
        found = np.repeat(np.array(values)[order], np.array(counts)[order])[:most]
        return found[found > 0]

    def degrees_of_freedom(self, lam: Any) -> DegreesOfFreedom:
        """``sum_i s_i / (s_i + lambda)`` over all eigenvalues, between bounds as for one patch."""
        lams = positive(lam)
        logs, counts = self.spectrum.log_eigenvalues[1:], self.spectrum.log_multiplicities[1:]
        lower = self.constant / (self.constant + lams)
        for gain in self.gains[self.gains > 0]:
            scaled = logs + math.log(gain)
            lower = lower + np.exp(counts + scaled - np.logaddexp(scaled, np.log(lams)[:, None])).sum(1)
        missing = float(self.gains.sum()) * self.spectrum.trace().missing
        return DegreesOfFreedom(lams, lower, lower + missing / lams)

    def norm(self, function: ZonalFunction, weights: Any) -> float:
        """The RKHS norm of ``f(x) = sum_u weights[u] g(<w, x_u>)``: ``||A^+ weights||`` times that of g, and its mean.

        Degrees k >= 1 have ``weights' (A^T A)^+ weights * a_k^2 N / mu_k``, degree 0 has ``(sum(weights) a_0)^2`` over
        the eigenvalue of constants. Infinite where A loses a part of the weights, or the kernel a degree of g; NaN
        where the limit is not known.

        Parameters
        ----------
        function
            g.
        weights
            Shape (positions,), or that of the space.

        Raises
        ------
        ValueError
            If the weights are not finite numbers, one for each position.
        """
        check_zonal(function, self.spectrum)
        c = np.asarray(weights)
        if c.dtype.kind not in "fiu" or c.size != len(self.gains) or not np.isfinite(c).all():
            raise ValueError(
                f"weights: expected {len(self.gains)} finite numbers, one for each position, got {weights!r}"
            )
        found = zonal_norm(function, self.spectrum)
        higher = replace(found, log_terms=np.where(self.spectrum.degrees > 0, found.log_terms, -np.inf)).limit ** 2
        mean, square = float(c.sum()) ** 2, 0.0
        if mean > 1e-30 * float(np.abs(c).sum()) ** 2 and found.log_terms[0] > -np.inf:
            square = mean / float(self.pooling.sum()) * math.exp(found.log_terms[0])
        parts = np.square(self.vectors.T @ c.ravel().astype(np.float64))
        if higher == 0.0 or not parts.any():
            return math.sqrt(square)
        if parts[self.gains == 0].sum() > 1e-20 * parts.sum():
            return math.inf
        kept = self.gains > 0
        return math.sqrt(square + float((parts[kept] / self.gains[kept]).sum()) * higher)

    def __str__(self) -> str:
        size = "x".join(map(str, self.space))
        head = (
            f"{self.spectrum.kernel} on patches in R^{self.spectrum.p}, {size} positions; "
            f"E K(x, x) = {self.trace:.6g}, without pooling {len(self.gains) * self.spectrum.kernel.at_one:g}"
        )
        shown = [i for i in range(len(self.gains)) if i < 6 or i == len(self.gains) - 1]
        rows = [["gain gamma", *[f"gamma mu_{k}" for k in self.spectrum.degrees[1:5]]]]
        for i in shown:
            log = math.log(self.gains[i]) if self.gains[i] > 0 else -math.inf
            rows.append([format_log(log), *[format_log(log + v) for v in self.spectrum.log_eigenvalues[1:5]]])
        return f"{head}\nconstant function: {self.constant:.6g}\n{columns(rows)}"


def pooling_operator(layer: Layer, space: tuple[int, ...], conventions: Conventions) -> Array:
    """A as a matrix (pooled positions, positions), the axes of space flattened.

    Parameters
    ----------
    layer
        Whose pooling.
    space
        The positions along each axis.
    conventions
        The architecture.
    """
    matrix = np.ones((1, 1))
    for length in space:
        along = np.eye(length) if layer.pool is None else pooling_matrix(layer.pool, length, conventions).numpy()
        matrix = np.kron(matrix, along)
    return matrix


def pooled_spectrum(
    arch: Architecture | str, p: int, space: int | Sequence[int], degrees: int = 40, *, kind: str = "ckn"
) -> PooledSpectrum:
    """The spectrum of a one-layer convolutional kernel for independent patches, uniform on the sphere.

    Parameters
    ----------
    arch
        One layer, or its text form such as ``"1 arccos1 gauss3/1"``; give an `Architecture` for the torus. Its patch is
        what has dimension p: patches that overlap are not independent, so that it is 1 where p is the number of
        channels.
    p
        Dimension of the patches.
    space
        How many positions of patches there are, along each of one or two axes.
    degrees
        The largest degree.
    kind
        ``"ckn"``, or ``"ntk"``: the tangent kernel of the layer.

    Raises
    ------
    ValueError
        If an argument is not of this form, or the architecture has more than one layer.
    """
    arch = Architecture.parse(arch) if isinstance(arch, str) else arch
    if not isinstance(arch, Architecture) or len(arch.layers) != 1:
        raise ValueError(f"arch: expected an architecture of one layer, such as '1 arccos1 gauss2', got {str(arch)!r}")
    sides = tuple(space) if isinstance(space, Sequence) else (space,)
    if not 1 <= len(sides) <= 2 or not all(map(is_count, sides)):
        raise ValueError(f"space: expected one or two whole numbers of positions, got {space!r}")
    operator = pooling_operator(arch.layers[0], sides, arch)
    pooling = operator.T @ operator
    gains, vectors = np.linalg.eigh(pooling)
    gains = np.where(gains > 1e-13 * gains[-1], gains, 0.0)  # what rounding leaves of the directions that A drops
    spectrum = mercer(arch.layers[0].kernel, p, degrees, kind=kind)
    return PooledSpectrum(spectrum, sides, pooling, gains[::-1], vectors[:, ::-1])

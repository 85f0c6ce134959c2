"""Degrees of freedom of a kernel at a regularization lambda: on the whole sphere, and of a Gram matrix.

``N(lambda) = sum_i s_i / (s_i + lambda)`` over the eigenvalues of the kernel's integral operator (with multiplicity),
or of ``K / n`` for a Gram matrix K of n points: the effective number of parameters of kernel ridge regression with
penalty ``n lambda ||f||^2``. For points drawn from the uniform probability on the sphere the second tends to the
first.

References: A. Caponnetto and E. De Vito, "Optimal rates for the regularized least-squares algorithm", Foundations of
Computational Mathematics, 2007; F. Bach, "Sharp analysis of low-rank kernel matrix approximations", COLT 2013
(leverage).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.complexity.log_numbers import format_log
from hilbertnet.complexity.real_numbers import real_number, real_numbers
from hilbertnet.complexity.spectrum import Spectrum
from hilbertnet.text import columns

__all__ = ["DegreesOfFreedom", "GramSpectrum", "compare_spectra", "degrees_of_freedom", "gram_spectrum"]

Array = NDArray[np.float64]


def positive(lam: Any, name: str = "lam") -> Array:
    """Regularization parameters, one or an array of them, as an array (lambdas,); refused unless positive."""
    return real_numbers(name, np.atleast_1d(np.asarray(lam)), above=0.0)


@dataclass(frozen=True, eq=False)
class DegreesOfFreedom:
    """N(lambda) between two bounds, each of shape (lambdas,).

    Parameters
    ----------
    lam
        lambda.
    lower
        The sum over the degrees of the spectrum.
    upper
        The same and ``(kappa(1) - sum mu_k N(p, k)) / lambda``, the most that the degrees left out can add.
    """

    lam: Array
    lower: Array
    upper: Array

    def __str__(self) -> str:
        rows = [["lambda", "N(lambda) at least", "at most"]]
        rows += [[f"{a:.3g}", f"{b:.6g}", f"{c:.6g}"] for a, b, c in zip(self.lam, self.lower, self.upper, strict=True)]
        return columns(rows)


def degrees_of_freedom(spectrum: Spectrum, lam: Any) -> DegreesOfFreedom:
    """N(lambda) of a kernel on the sphere, from its Mercer eigenvalues.

    Parameters
    ----------
    spectrum
        All degrees from 0 to a last one.
    lam
        A positive number, or an array of them.

    Raises
    ------
    ValueError
        If degrees are missing, or a lambda is not positive.
    """
    lams = positive(lam)
    missing = spectrum.trace().missing
    logs = np.logaddexp(spectrum.log_eigenvalues, np.log(lams)[:, None])
    lower = np.exp(spectrum.log_multiplicities + spectrum.log_eigenvalues - logs).sum(1)
    return DegreesOfFreedom(lams, lower, lower + missing / lams)


@dataclass(frozen=True, eq=False)
class GramSpectrum:
    """The eigenvalues of ``K / n`` for a Gram matrix, decreasing, made by `gram_spectrum`.

    Parameters
    ----------
    eigenvalues
        Shape (n,), those that rounding made negative as 0.
    vectors
        Eigenvectors in columns, shape (n, n).
    """

    eigenvalues: Array
    vectors: Array

    def degrees_of_freedom(self, lam: Any) -> Array:
        """``tr K (K + n lambda)^-1`` for every lambda, shape (lambdas,)."""
        s = self.eigenvalues
        return (s / (s + positive(lam)[:, None])).sum(1)

    def leverage(self, lam: float) -> Array:
        """``n`` times the diagonal of ``K (K + n lambda)^-1``, shape (n,): how much each point weighs.

        Their mean is `degrees_of_freedom`; their largest value says how many of the points a random subset must take
        (Bach, COLT 2013). On the sphere all points would weigh the same.
        """
        value = real_number("lam", lam, above=0.0)
        s = self.eigenvalues
        return len(s) * (np.square(self.vectors) @ (s / (s + value)))

    def table(self, lam: Any) -> str:
        """N(lambda) and the largest leverage, a row for each lambda."""
        lams = positive(lam)
        rows = [["lambda", "N(lambda)", "largest leverage"]]
        for value, count in zip(lams, self.degrees_of_freedom(lams), strict=True):
            rows.append([f"{value:.3g}", f"{count:.6g}", f"{self.leverage(float(value)).max():.6g}"])
        return columns(rows)

    def __str__(self) -> str:
        s = self.eigenvalues
        return (
            f"Gram matrix of {len(s)} points: trace of K/n {s.sum():.6g}, largest eigenvalue {s[0]:.6g}\n"
            + self.table(s.sum() * np.array([1e-1, 1e-2, 1e-3, 1e-4]))
        )


def gram_spectrum(gram: Any) -> GramSpectrum:
    """The spectrum of a Gram matrix.

    Parameters
    ----------
    gram
        K, an array or tensor of shape (n, n), symmetric and positive semi-definite up to rounding.

    Raises
    ------
    ValueError
        If it is not.
    """
    matrix = np.asarray(gram.detach().cpu() if hasattr(gram, "detach") else gram)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size or matrix.dtype.kind not in "fiu":
        raise ValueError(f"gram: expected a matrix (n, n) of real numbers, got shape {matrix.shape}, {matrix.dtype}")
    precision = np.finfo(matrix.dtype).eps if matrix.dtype.kind == "f" else 0.0
    matrix = matrix.astype(np.float64)
    size = float(np.abs(matrix).max())
    if not 0 < size < np.inf:
        raise ValueError("gram: expected finite numbers that are not all 0, got NaN, an infinity, or zeros only")
    if np.abs(matrix - matrix.T).max() > 1e4 * max(precision, 1e-14) * size:
        raise ValueError("gram: expected a symmetric matrix, got entries that differ across the diagonal")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    # the diagonal of tangent kernels is known to half of the digits only
    if values[0] < -1e2 * len(matrix) * max(precision, 1e-10) * size:
        raise ValueError(f"gram: expected a positive semi-definite matrix, got the eigenvalue {values[0]:.3g}")
    return GramSpectrum(np.maximum(values[::-1], 0.0) / len(matrix), vectors[:, ::-1])


def compare_spectra(spectrum: Spectrum, found: GramSpectrum, most: int = 12) -> str:
    """A table of Mercer eigenvalues beside those of a Gram matrix of points on the sphere.

    A degree has N(p, k) equal eigenvalues; beside them stand the mean and range of as many of ``K / n``, in decreasing
    order. A Gram matrix of n points has no more than n of them, and the last are always too small.

    Parameters
    ----------
    spectrum
        Of the kernel.
    found
        Of the Gram matrix.
    most
        How many degrees to show.
    """
    order = np.argsort(-spectrum.log_eigenvalues, kind="stable")
    rows, start = [["degree k", "N(p, k)", "mu_k", "of K/n: mean", "largest", "least", "lost"]], 0
    counts = spectrum.multiplicities
    for i in order[:most]:
        if start >= len(found.eigenvalues) or not spectrum.resolved[i]:
            break
        block = found.eigenvalues[start : start + counts[i]]
        start += counts[i]
        values = [f"{v:.4g}" for v in (block.mean(), block.max(), block.min())]
        lost = str(counts[i] - len(block)) if len(block) < counts[i] else "-"
        rows.append([str(spectrum.degrees[i]), str(counts[i]), format_log(spectrum.log_eigenvalues[i]), *values, lost])
    return columns(rows)

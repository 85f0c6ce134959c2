"""Gaussian processes with a Gram matrix: posterior mean and variance, likelihood, choice of the noise.

The prior is f ~ GP(0, a K), and y = f + noise of variance a r; a, the amplitude, has a closed-form optimum for every
noise ratio r. With ``C = K + r I`` and ``c = C^(-1) y``

- posterior mean ``K_* c`` and covariance ``a (K_** - K_* C^(-1) K_*')``, of f, without the noise of y;
- log marginal likelihood ``-y'c / 2a - log det(C) / 2 - n log(2 pi a) / 2``, largest at ``a = y'c / n``;
- leave-one-out predictions of mean ``y_i - c_i / [C^(-1)]_ii`` and variance ``a / [C^(-1)]_ii``, whose log probability
  is largest at the a that is the mean of ``c_i^2 / [C^(-1)]_ii``.

With an intercept, y has a constant mean of flat prior, integrated out: the inverse of C is replaced by
``C^(-1) - C^(-1) 1 1' C^(-1) / s`` with ``s = 1' C^(-1) 1``; the mean gains the constant ``1' C^(-1) y / s``, the
variance ``a (1 - 1' C^(-1) k_*)^2 / s``, the likelihood ``-log(s) / 2``, and n becomes n - 1. This is not the same as
centring y first: kernels that are homogeneous in the norm of signals may fit y well, and y less its mean not at all.

Reference: C. E. Rasmussen and C. K. I. Williams, "Gaussian processes for machine learning", 2006, sections 2.2, 2.7 and
5.4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.kernels.cholesky import Cholesky, cholesky
from hilbertnet.kernels.gram_like import check_gram, check_positive, check_targets
from hilbertnet.kernels.ridge import RidgePath, fit_intercept
from hilbertnet.text import nearest

__all__ = ["NOISES", "SELECTIONS", "GaussianProcess", "NoisePoint", "Selection", "choose_noise", "gaussian_process"]

Selection = Literal["likelihood", "leave_one_out"]
SELECTIONS: tuple[Selection, ...] = ("likelihood", "leave_one_out")

NOISES: tuple[float, ...] = tuple(float(f"{m}e{p}") for p in range(1, -10, -1) for m in (3, 1))[1:]
"""Ratios to try, in units of the mean of K(x, x)."""


@dataclass(frozen=True)
class NoisePoint:
    """What the training data say of one noise ratio, summed over outputs, each with its best amplitude or the given.

    Parameters
    ----------
    noise
        The ratio r, as given.
    likelihood
        Log marginal likelihood.
    leave_one_out
        Log probability of the examples, each predicted from the others.
    """

    noise: float
    likelihood: float
    leave_one_out: float


@dataclass(frozen=True)
class GaussianProcess:
    """A posterior.

    Parameters
    ----------
    factor
        Of ``C = K + r I``, and the jitter that it took.
    coefficients
        ``C^(-1) (T - b)``, shape (n, outputs).
    intercept
        b, shape (outputs,); zeros if none was fitted.
    solved_ones
        ``C^(-1) 1``, shape (n,), or ``None`` without an intercept.
    amplitude
        a, one for each output, shape (outputs,).
    noise
        r.
    likelihood, leave_one_out
        Log marginal likelihood, and log probability of the leave-one-out predictions, of each output, shape (outputs,).
    squared_norm
        Squares of the norms of the posterior means in the RKHS of K, shape (outputs,).
    """

    factor: Cholesky
    coefficients: Float[Tensor, "n outputs"]
    intercept: Float[Tensor, " outputs"]
    solved_ones: Float[Tensor, " n"] | None
    amplitude: Float[Tensor, " outputs"]
    noise: float
    likelihood: Float[Tensor, " outputs"]
    leave_one_out: Float[Tensor, " outputs"]
    squared_norm: Float[Tensor, " outputs"]

    def mean(self, cross: Float[Tensor, "m n"]) -> Float[Tensor, "m outputs"]:
        """Posterior means, from the Gram matrix of new and training signals."""
        return cross.double().cpu() @ self.coefficients + self.intercept

    def variance(self, cross: Float[Tensor, "m n"], own: Float[Tensor, " m"]) -> Float[Tensor, "m outputs"]:
        """Posterior variances, never negative; `own` holds ``K(x, x)`` of the new signals."""
        cross = cross.double().cpu()
        rest = (own.double().cpu() - self.factor.whiten(cross.T).square().sum(0)).clamp(min=0.0)
        return torch.outer(rest + self._of_intercept(cross).square(), self.amplitude)

    def covariance(self, cross: Float[Tensor, "m n"], own: Float[Tensor, "m m"]) -> Float[Tensor, "m m outputs"]:
        """Posterior covariances, symmetric, no variance negative; `own` is the Gram matrix of the new signals."""
        cross = cross.double().cpu()
        white, uncertain = self.factor.whiten(cross.T), self._of_intercept(cross)
        rest = own.double().cpu() - white.T @ white
        rest = (rest + rest.T) / 2
        rest.diagonal().clamp_(min=0.0)
        return (rest + torch.outer(uncertain, uncertain))[:, :, None] * self.amplitude

    def _of_intercept(self, cross: Tensor) -> Tensor:
        """What the uncertain intercept adds: ``(1 - 1' C^(-1) k_*) / sqrt(s)``."""
        if self.solved_ones is None:
            return torch.zeros(len(cross), dtype=torch.float64)
        return (1.0 - cross @ self.solved_ones) / self.solved_ones.sum().sqrt()


def gaussian_process(
    gram: Float[Tensor, "n n"],
    targets: Float[Tensor, "n outputs"],
    noise: float,
    *,
    amplitude: float | None = None,
    select: Selection = "likelihood",
    intercept: bool = False,
) -> GaussianProcess:
    """The posterior for one noise ratio, by Cholesky, in float64 on the CPU; outputs are independent.

    Parameters
    ----------
    gram
        K, symmetric, shape (n, n).
    targets
        Shape (n, outputs).
    noise
        The ratio r of the variances of noise and prior, in units of K, positive.
    amplitude
        a, positive; ``None`` takes what `select` finds best for each output.
    select
        ``"likelihood"`` or ``"leave_one_out"``.
    intercept
        Whether the targets have a constant mean, of flat prior.

    Warns
    -----
    RuntimeWarning
        If ``K + r I`` is not positive definite to machine precision: the jitter adds to the noise.
    """
    check_gram(gram)
    exact = check_targets(targets, len(gram))
    noise = check_positive("noise", noise)
    _check_select(select)
    _check_count(len(exact), intercept)
    factor = cholesky(gram, noise)
    coefficients, diagonal, determinant = factor.solve(exact), factor.inverse_diagonal(), factor.log_determinant()
    constant, ones = torch.zeros(exact.shape[1], dtype=torch.float64), None
    if intercept:
        ones = factor.solve(torch.ones(len(exact), 1, dtype=torch.float64))[:, 0]
        coefficients, constant = fit_intercept(coefficients, ones)
        diagonal = diagonal - ones.square() / ones.sum()
        determinant += math.log(float(ones.sum()))
    fit = _Fit(exact, coefficients, diagonal, determinant, len(exact) - intercept)
    scale = fit.amplitude(select, amplitude)
    norms = (coefficients * (gram.detach().double().cpu() @ coefficients)).sum(0).clamp(min=0.0)
    return GaussianProcess(
        factor,
        coefficients,
        constant,
        ones,
        scale,
        noise,
        fit.likelihood(scale),
        fit.leave_one_out(scale),
        norms,
    )


def choose_noise(
    path: RidgePath,
    noises: Sequence[float],
    *,
    amplitude: float | None = None,
    select: Selection = "likelihood",
    unit: float = 1.0,
) -> tuple[float, list[NoisePoint]]:
    """Choose the noise ratio by the likelihood or by leave-one-out, from one eigendecomposition.

    Parameters
    ----------
    path
        The decomposition; its intercept is that of the process.
    noises
        Ratios to try, in units of `unit`.
    amplitude, select
        As in `gaussian_process`.
    unit
        What a ratio of 1 means.

    Returns
    -------
    tuple
        The chosen ratio in units of `unit`, ties going to the larger, and a `NoisePoint` for each, largest first.
    """
    _check_select(select)
    _check_count(len(path.values), path.with_intercept)
    curve = []
    for noise in sorted((check_positive("noises", value) for value in noises), reverse=True):
        lam = noise * unit / len(path.values)
        determinant = float((path.values + noise * unit).log().sum())
        if path.with_intercept:
            determinant += math.log(path.inverse_sum(lam))
        freedom = len(path.values) - path.with_intercept
        fit = _Fit(path.targets, path.coefficients(lam), path.inverse_diagonal(lam), determinant, freedom)
        scale = fit.amplitude(select, amplitude)
        curve.append(NoisePoint(noise, float(fit.likelihood(scale).sum()), float(fit.leave_one_out(scale).sum())))
    if not curve:
        raise ValueError("noises: expected positive finite numbers, got none")
    return max(curve, key=lambda point: getattr(point, select)).noise, curve


@dataclass(frozen=True)
class _Fit:
    """What the formulas need; with an intercept, `log_determinant` is that of C and s, `freedom` is n - 1."""

    targets: Tensor
    coefficients: Tensor
    inverse_diagonal: Tensor
    log_determinant: float
    freedom: int

    def _energy(self) -> Tensor:
        """``y' C^(-1) y``."""
        return (self.targets * self.coefficients).sum(0).clamp(min=0.0)

    def _standardized(self) -> Tensor:
        """Squares of the leave-one-out residuals over their variances, for an amplitude of 1."""
        return self.coefficients.square() / self.inverse_diagonal[:, None]

    def amplitude(self, select: Selection, given: float | None) -> Tensor:
        if given is not None:
            return torch.full((self.targets.shape[1],), check_positive("amplitude", given), dtype=torch.float64)
        best = self._energy() / self.freedom if select == "likelihood" else self._standardized().mean(0)
        return torch.where(best > 0, best, torch.ones_like(best))  # targets that are all 0 tell nothing

    def likelihood(self, amplitude: Tensor) -> Tensor:
        constant = self.log_determinant + self.freedom * (2 * math.pi * amplitude).log()
        return -0.5 * (self._energy() / amplitude + constant)

    def leave_one_out(self, amplitude: Tensor) -> Tensor:
        spread = (2 * math.pi * amplitude / self.inverse_diagonal[:, None]).log()
        return -0.5 * (self._standardized() / amplitude + spread).sum(0)


def _check_count(n: int, intercept: bool) -> None:
    if intercept and n < 2:
        raise ValueError("targets: expected at least two with an intercept, got n_samples=1")


def _check_select(select: Selection) -> Selection:
    if select not in SELECTIONS:
        raise ValueError(
            f"select: expected one of {', '.join(SELECTIONS)}, got {select!r}{nearest(str(select), SELECTIONS)}"
        )
    return select

"""Gaussian process regression with exact convolutional kernels, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from hilbertnet.architecture import Architecture
from hilbertnet.estimators.inputs import like_input
from hilbertnet.estimators.kernel_base import KernelEstimator, Kind, document, mean_diagonal, squeeze_outputs
from hilbertnet.kernels.gaussian_process import NOISES, NoisePoint, Selection, choose_noise, gaussian_process
from hilbertnet.kernels.gram_like import check_positive
from hilbertnet.kernels.ridge import ridge_path
from hilbertnet.progress import Progress

__all__ = ["ConvGaussianProcessRegressor"]

_PARAMETERS = """
    noise : float or None
        The variance of the noise over that of the prior, in units of the mean of K(x, x); ``None`` chooses it among
        `noises`.
    noises : sequence of float or None
        Values to try; default 1e1 ... 1e-9.
    amplitude : float or None
        The factor of the kernel in the prior's covariance; ``None`` takes the best one for each output, in closed form.
    select : str
        What noise and amplitude are chosen by: ``"likelihood"``, the log marginal likelihood, or ``"leave_one_out"``,
        the log probability of each training target as predicted from the others.
    intercept : bool
        Whether the targets have a constant mean, of flat prior, beside the function; otherwise their mean is 0.
"""
_ATTRIBUTES = """
    noise_ : float
        The ratio used.
    amplitude_ : array
        The factor of the kernel, shape (outputs,).
    noise_variance_ : array
        The variance of the noise, in squared units of the targets, shape (outputs,).
    intercept_ : tensor
        The constant, shape (outputs,).
    log_marginal_likelihood_ : array
        Of the targets, shape (outputs,).
    leave_one_out_ : array
        The log probability of each training target as predicted from the others, summed, shape (outputs,).
    noise_curve_ : list of NoisePoint
        Both, for every ratio tried; empty if `noise` was given.
    jitter_ : float
        What was added to the diagonal beside the noise to factorize the matrix; 0 unless a warning said so.
    rkhs_norm_ : array
        RKHS norms of the posterior means less their intercepts, shape (outputs,).
    X_fit_ : tensor
        The training signals, shape (n, channels, *space).
"""


class ConvGaussianProcessRegressor(MultiOutputMixin, RegressorMixin, KernelEstimator):
    """Gaussian process regression with an exact convolutional kernel as covariance.

    Several outputs are independent, of one noise ratio, each with its own amplitude.
    """

    def __init__(
        self,
        architecture: Architecture | str | None = None,
        *,
        kind: Kind = "ckn",
        noise: float | None = None,
        noises: Sequence[float] | None = None,
        amplitude: float | None = None,
        select: Selection = "likelihood",
        intercept: bool = True,
        input_shape: tuple[int, ...] | None = None,
        memory: int | str | None = None,
        dtype: str = "float64",
        device: str | None = None,
        progress: Progress = False,
    ) -> None:
        super().__init__(
            architecture,
            kind=kind,
            input_shape=input_shape,
            memory=memory,
            dtype=dtype,
            device=device,
            progress=progress,
        )
        self.noise = noise
        self.noises = noises
        self.amplitude = amplitude
        self.select = select
        self.intercept = intercept

    def fit(self, X: Any, y: Any) -> ConvGaussianProcessRegressor:
        """Fit.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features).
        y
            Targets, shape (n,) or (n, outputs).
        """
        noises = self._noises()
        signals, targets = self._read_with_targets(X, y)
        gram = self._fit_gram(signals)
        unit = mean_diagonal(gram)
        self.noise_ = noises[0]
        self.noise_curve_: list[NoisePoint] = []
        if len(noises) > 1:
            path = ridge_path(gram, targets, intercept=self.intercept)
            self.noise_, self.noise_curve_ = choose_noise(
                path, noises, amplitude=self.amplitude, select=self.select, unit=unit
            )
            del path  # as large as the Gram matrix
        self.posterior_ = gaussian_process(
            gram,
            targets,
            self.noise_ * unit,
            amplitude=self.amplitude,
            select=self.select,
            intercept=self.intercept,
        )
        self.intercept_ = self.posterior_.intercept
        self.amplitude_ = self.posterior_.amplitude.numpy()
        self.noise_variance_ = self.amplitude_ * self.noise_ * unit
        self.jitter_ = self.posterior_.factor.jitter
        self.log_marginal_likelihood_ = self.posterior_.likelihood.numpy()
        self.leave_one_out_ = self.posterior_.leave_one_out.numpy()
        self.rkhs_norm_ = self.posterior_.squared_norm.sqrt().numpy()
        self.X_fit_ = signals
        return self

    def _noises(self) -> tuple[float, ...]:
        if self.noise is not None:
            return (check_positive("noise", self.noise),)
        values = NOISES if self.noises is None else tuple(self.noises)
        if not values:
            raise ValueError(f"noises: expected positive finite numbers, got {self.noises!r}")
        return tuple(check_positive("noises", value) for value in values)

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Posterior means, and what else is asked for, in the kind of `X`.

        Parameters
        ----------
        X
            Signals as in `fit`.
        return_std
            Whether to return the standard deviations of the function too, which do not include the noise of targets:
            those of targets are ``sqrt(std**2 + noise_variance_)``.
        return_cov
            Whether to return the covariances instead.

        Returns
        -------
        array or tuple
            Means (n,) or (n, outputs); standard deviations of that shape, or covariances (n, n) or (n, n, outputs).
        """
        check_is_fitted(self)
        if return_std and return_cov:
            raise ValueError("return_std, return_cov: expected at most one of them, got both")
        signals = self._read(X, reset=False).to(self.X_fit_.device)
        cross = self._cross_gram(signals, self.X_fit_)
        mean = like_input(squeeze_outputs(self.posterior_.mean(cross), self._flat), X)
        if not return_std and not return_cov:
            return mean
        if return_std:
            own = self.kernel_.diag(signals, dtype=signals.dtype)
            spread = self.posterior_.variance(cross, own).sqrt()
        else:
            own = self.kernel_.gram(signals, memory=self.memory, dtype=signals.dtype, progress=self.progress)
            spread = self.posterior_.covariance(cross, own)
        return mean, like_input(squeeze_outputs(spread, self._flat), X)


document(ConvGaussianProcessRegressor, _PARAMETERS, _ATTRIBUTES)

"""Kernel ridge regression with exact convolutional kernels, as scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.estimators.inputs import check_lambdas, labels_like_input, like_input
from hilbertnet.estimators.kernel_base import KernelEstimator, Kind, document, mean_diagonal, squeeze_outputs
from hilbertnet.kernels.ridge import LAMBDAS, choose_lambda, ridge_path, ridge_solve
from hilbertnet.losses import decide
from hilbertnet.progress import Progress

__all__ = ["ConvKernelRidge", "ConvKernelRidgeClassifier"]

_RIDGE_PARAMETERS = """
    alpha : float or None
        lambda of ``(K + n lambda I)``, in units of the mean of K(x, x); ``None`` chooses it among `alphas`.
    alphas : sequence of float or None
        Values to try; default 1e-1 ... 1e-11.
"""
_RIDGE_ATTRIBUTES = """
    dual_coef_ : tensor
        Coefficients of the training signals, shape (n, outputs).
    alpha_ : float
        The lambda used, in units of the mean of K(x, x).
    loo_curve_ : list of (lambda, score, mean squared residual)
        Leave-one-out for every lambda tried; empty if `alpha` was given.
    jitter_ : float
        What was added to the diagonal beside n lambda to solve the system; 0 unless a warning said so.
    rkhs_norm_ : array
        RKHS norms of the fitted functions, shape (outputs,).
    X_fit_ : tensor
        The training signals, shape (n, channels, *space).
"""


class _ConvKernelRidge(KernelEstimator):
    def __init__(
        self,
        architecture: Architecture | str | None = None,
        *,
        kind: Kind = "ckn",
        alpha: float | None = None,
        alphas: Sequence[float] | None = None,
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
        self.alpha = alpha
        self.alphas = alphas

    def _fit(self, signals: Tensor, targets: Tensor, score: Any, *, intercept: bool) -> None:
        lambdas = check_lambdas(self.alpha, LAMBDAS if self.alphas is None else self.alphas)
        gram = self._fit_gram(signals)
        unit = mean_diagonal(gram)
        self.alpha_ = lambdas[0]
        self.loo_curve_: list[tuple[float, float, float]] = []
        if len(lambdas) > 1:
            path = ridge_path(gram, targets, intercept=intercept)
            self.alpha_, self.loo_curve_ = choose_lambda(path, lambdas, score, unit)
            found = path.solution(self.alpha_ * unit)
        else:
            found = ridge_solve(gram, targets, self.alpha_ * unit, intercept=intercept)
        self.dual_coef_, self.intercept_, self.jitter_ = found.coefficients, found.intercept, found.jitter
        self.rkhs_norm_ = found.squared_norm.sqrt().numpy()
        self.X_fit_ = signals

    def _predict(self, X: Any) -> Tensor:
        """Values of the fitted functions, shape (n, outputs), on the CPU."""
        check_is_fitted(self)
        return self._cross_gram(self._read(X, reset=False), self.X_fit_) @ self.dual_coef_ + self.intercept_


class ConvKernelRidge(MultiOutputMixin, RegressorMixin, _ConvKernelRidge):
    """Kernel ridge regression with an exact convolutional kernel; lambda by leave-one-out.

    The function comes with an intercept, ``intercept_``, that is not penalized.
    """

    def fit(self, X: Any, y: Any) -> ConvKernelRidge:
        """Fit.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features).
        y
            Targets, shape (n,) or (n, outputs).
        """
        signals, targets = self._read_with_targets(X, y)
        self._fit(signals, targets, lambda loo: -float((loo - targets).square().mean()), intercept=True)
        return self

    def predict(self, X: Any) -> Any:
        """Predictions, shape (n,) or (n, outputs), in the kind of `X`."""
        values = self._predict(X)
        return like_input(squeeze_outputs(values, self._flat), X)


class ConvKernelRidgeClassifier(ClassifierMixin, _ConvKernelRidge):
    """Kernel ridge classification with an exact convolutional kernel; lambda by leave-one-out accuracy.

    Targets are one-hot minus 1/classes (+1 and -1 for two classes).
    """

    def fit(self, X: Any, y: Any) -> ConvKernelRidgeClassifier:
        """Fit.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features).
        y
            Labels, shape (n,).
        """
        signals, labels = self._read_labelled(X, y)
        count = len(self.classes_)
        if count == 2:
            targets = (2.0 * labels - 1.0).double()[:, None]
        else:
            targets = torch.nn.functional.one_hot(labels, count).double() - 1.0 / count
        self._fit(signals, targets, lambda loo: float((decide(loo) == labels).double().mean()), intercept=False)
        return self

    def decision_function(self, X: Any) -> Any:
        """Decision values, shape (n,) for two classes and (n, classes) for more, in the kind of `X`."""
        scores = self._predict(X)
        return like_input(scores[:, 0] if scores.shape[1] == 1 else scores, X)

    def predict(self, X: Any) -> Any:
        """Labels, shape (n,): an array, or a tensor if `X` is one and labels are numbers."""
        check_is_fitted(self)
        found = self.classes_[decide(self._predict(X)).numpy()]
        return labels_like_input(found, X)


for _estimator in (ConvKernelRidge, ConvKernelRidgeClassifier):
    document(_estimator, _RIDGE_PARAMETERS, _RIDGE_ATTRIBUTES)

"""Kernel ridge regression with exact convolutional kernels, as scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.presets import read_architecture
from hilbertnet.estimators.inputs import (
    check_lambdas,
    labels_like_input,
    like_input,
    read_labels,
    read_signals,
)
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.ridge import LAMBDAS, choose_lambda, ridge_path
from hilbertnet.losses import decide
from hilbertnet.progress import Progress

__all__ = ["ConvKernelRidge", "ConvKernelRidgeClassifier"]

_PARAMETERS = """
    Parameters
    ----------
    architecture : Architecture, str or None
        The architecture, its text form, a preset's name, or ``None`` for a default by the size of the input.
    kind : str
        ``"ckn"`` or ``"ntk"``.
    alpha : float or None
        lambda of ``(K + n lambda I)``, in units of the mean of K(x, x); ``None`` chooses it among `alphas`.
    alphas : sequence of float or None
        Values to try; default 1e-1 ... 1e-11.
    input_shape : tuple or None
        (channels, height, width) or (channels, length) of flattened rows. Rows without it are one position of many
        channels: a fully connected kernel.
    memory : int, str or None
        Budget of Gram matrices, such as ``"2GB"``.
    dtype : str
        ``"float64"`` or ``"float32"``, of Gram matrices.
    device : str or None
        Where to compute; default that of the input.
    progress : bool, callable or None
        See `hilbertnet.progress`.

    Attributes
    ----------
    kernel_ : ConvKernel
        The exact kernel.
    dual_coef_ : tensor
        Coefficients of the training signals, shape (n, outputs).
    alpha_ : float
        The lambda used, in units of the mean of K(x, x).
    loo_curve_ : list of (lambda, score, mean squared residual)
        Leave-one-out for every lambda tried; empty if `alpha` was given.
    rkhs_norm_ : array
        RKHS norms of the fitted functions, shape (outputs,).
    X_fit_ : tensor
        The training signals, shape (n, channels, *space).
"""


class _ConvKernelRidge(BaseEstimator):
    def __init__(
        self,
        architecture: Architecture | str | None = None,
        *,
        kind: Literal["ckn", "ntk"] = "ckn",
        alpha: float | None = None,
        alphas: Sequence[float] | None = None,
        input_shape: tuple[int, ...] | None = None,
        memory: int | str | None = None,
        dtype: str = "float64",
        device: str | None = None,
        progress: Progress = False,
    ) -> None:
        self.architecture = architecture
        self.kind = kind
        self.alpha = alpha
        self.alphas = alphas
        self.input_shape = input_shape
        self.memory = memory
        self.dtype = dtype
        self.device = device
        self.progress = progress

    def _torch_dtype(self) -> torch.dtype:
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {self.dtype!r}")
        return torch.float32 if self.dtype == "float32" else torch.float64

    def _read(self, X: Any, *, reset: bool) -> Tensor:
        signals = read_signals(self, X, dtype=self._torch_dtype(), reset=reset)
        return signals if self.device is None else signals.to(self.device)

    def _fit(self, signals: Tensor, targets: Tensor, score: Any, *, intercept: bool) -> None:
        lambdas = check_lambdas(self.alpha, LAMBDAS if self.alphas is None else self.alphas)
        arch, _ = read_architecture(self.architecture, tuple(signals.shape[2:]))
        self.kernel_ = ConvKernel(arch, self.kind)
        gram = self.kernel_.gram(signals, memory=self.memory, dtype=signals.dtype, progress=self.progress)
        scale = float(gram.diagonal().double().mean()) or 1.0
        path = ridge_path(gram, targets, intercept=intercept)
        self.alpha_ = lambdas[0]
        self.loo_curve_: list[tuple[float, float, float]] = []
        if len(lambdas) > 1:
            self.alpha_, self.loo_curve_ = choose_lambda(path, lambdas, score, scale)
        self.dual_coef_ = path.coefficients(self.alpha_ * scale)
        self.intercept_ = path.intercept(self.alpha_ * scale)
        self.rkhs_norm_ = path.squared_norm(self.alpha_ * scale).sqrt().numpy()
        self.X_fit_ = signals

    def _predict(self, X: Any) -> Tensor:
        """Values of the fitted functions, shape (n, outputs), on the CPU."""
        check_is_fitted(self)
        signals = self._read(X, reset=False).to(self.X_fit_.device)
        gram = self.kernel_.gram(signals, self.X_fit_, memory=self.memory, dtype=signals.dtype, progress=self.progress)
        return gram.cpu().double() @ self.dual_coef_ + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


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
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        signals = self._read(X, reset=True)
        y = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        if len(y) != len(signals):
            raise ValueError(f"y: expected {len(signals)} targets, as many as signals in X, got {len(y)}")
        self._flat = y.ndim == 1
        targets = torch.tensor(y.reshape(len(y), -1))
        self._fit(signals, targets, lambda loo: -float((loo - targets).square().mean()), intercept=True)
        return self

    def predict(self, X: Any) -> Any:
        """Predictions, shape (n,) or (n, outputs), in the kind of `X`."""
        values = self._predict(X)
        return like_input(values[:, 0] if self._flat else values, X)


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
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        signals = self._read(X, reset=True)
        self.classes_, labels = read_labels(y)
        if len(labels) != len(signals):
            raise ValueError(f"y: expected {len(signals)} labels, as many as signals in X, got {len(labels)}")
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
    _estimator.__doc__ = f"{_estimator.__doc__}{_PARAMETERS}    "

"""Support vector classification with exact convolutional kernels, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.estimators.inputs import labels_like_input, like_input
from hilbertnet.estimators.kernel_base import KernelEstimator, Kind, document, mean_diagonal
from hilbertnet.kernels.gram_like import check_positive
from hilbertnet.progress import Progress

__all__ = ["ConvKernelSVC"]

_PARAMETERS = """
    C : float
        The weight of the hinge losses beside half the squared norm; larger is less regularized.
    normalize : bool
        Whether to classify with ``K(x, y) / sqrt(K(x, x) K(y, y))``. Otherwise K is divided by the mean of K(x, x) over
        the training signals, so that the same `C` suits all kernels.
    tolerance : float
        Of scikit-learn's solver.
"""
_ATTRIBUTES = """
    classes_ : array
        Labels.
    support_ : array
        Numbers of the training signals that are support vectors.
    X_fit_ : tensor
        These signals, shape (number, channels, *space).
    svc_ : sklearn.svm.SVC
        scikit-learn's classifier of precomputed kernels: one machine for each pair of classes.
    rkhs_norm_ : array
        Norms of the machines less their intercepts, in the RKHS of K, or of the normalized kernel, shape (pairs,), in
        the order (0, 1), (0, 2), ..., (1, 2), ....
"""


class ConvKernelSVC(ClassifierMixin, KernelEstimator):
    """Support vector classification with an exact convolutional kernel.

    Several classes are told apart by one machine for each pair. Votes decide, ties by the sums of decision values, so
    that `predict` is where `decision_function` is largest.
    """

    def __init__(
        self,
        architecture: Architecture | str | None = None,
        *,
        kind: Kind = "ckn",
        C: float = 1.0,
        normalize: bool = True,
        tolerance: float = 1e-3,
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
        self.C = C
        self.normalize = normalize
        self.tolerance = tolerance

    def fit(self, X: Any, y: Any) -> ConvKernelSVC:
        """Fit.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features).
        y
            Labels, shape (n,).
        """
        # probabilities would need a state of its own; ties are broken so that predictions agree with decision values
        svc = SVC(
            C=check_positive("C", self.C),
            kernel="precomputed",
            tol=check_positive("tolerance", self.tolerance),
            break_ties=True,
        )
        signals, labels = self._read_labelled(X, y)
        gram = self._fit_gram(signals).cpu().double()
        unit = torch.tensor(mean_diagonal(gram), dtype=torch.float64)
        scales = gram.diagonal().sqrt() if self.normalize else unit.sqrt().repeat(len(gram))
        gram = _divided(gram, scales, scales)
        self.svc_ = svc.fit(gram.numpy(), labels.numpy())
        self.support_ = svc.support_
        kept = torch.from_numpy(self.support_).long()
        self._count, self._scales, self.X_fit_ = len(gram), scales[kept], signals[kept.to(signals.device)]
        norms = _machine_norms(svc, gram[kept][:, kept].numpy())
        # sum_i a_i K(x_i, .) / unit has the norm sqrt(a' K a) / unit
        self.rkhs_norm_ = norms if self.normalize else norms / float(unit.sqrt())
        return self

    def _scaled_gram(self, X: Any) -> NDArray[np.float64]:
        """What `svc_` takes: a column for each training signal, zeros for those that are no support vectors."""
        check_is_fitted(self)
        signals = self._read(X, reset=False)
        cross = self._cross_gram(signals, self.X_fit_)
        own = self._scales[:1].expand(len(signals))
        if self.normalize:
            own = self.kernel_.diag(signals, dtype=signals.dtype).cpu().double().sqrt()
        whole = np.zeros((len(signals), self._count))
        whole[:, self.support_] = _divided(cross, own, self._scales).numpy()
        return whole

    def decision_function(self, X: Any) -> Any:
        """Decision values, shape (n,) for two classes and (n, classes) for more, in the kind of `X`."""
        gram = self._scaled_gram(X)
        return like_input(torch.from_numpy(self.svc_.decision_function(gram)), X)

    def predict(self, X: Any) -> Any:
        """Labels, shape (n,): an array, or a tensor if `X` is one and labels are numbers."""
        gram = self._scaled_gram(X)
        return labels_like_input(self.classes_[self.svc_.predict(gram)], X)


def _divided(gram: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``gram / outer(rows, columns)``, 0 where a signal's norm is."""
    inverse_rows, inverse_columns = (torch.where(s > 0, 1.0 / s, torch.zeros_like(s)) for s in (rows, columns))
    return gram * inverse_rows[:, None] * inverse_columns


def _machine_norms(svc: SVC, gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sqrt(a' K a)`` of every pair's machine, from the Gram matrix of the support vectors."""
    if len(svc.classes_) == 2:
        machines = svc.dual_coef_
    else:
        machines = np.stack(
            [_pair(svc, i, j) for i in range(len(svc.classes_)) for j in range(i + 1, len(svc.classes_))]
        )
    return np.sqrt(np.maximum(0.0, np.einsum("ps,st,pt->p", machines, gram, machines, optimize=True)))


def _pair(svc: SVC, i: int, j: int) -> NDArray[np.float64]:
    """Coefficients of the machine of classes i < j: libsvm keeps those of i in row j - 1, those of j in row i."""
    ends = np.cumsum(svc.n_support_)
    coefficients = np.zeros(ends[-1])
    for own, row in ((i, j - 1), (j, i)):
        of_class = slice(ends[own] - svc.n_support_[own], ends[own])
        coefficients[of_class] = svc.dual_coef_[row, of_class]
    return coefficients


document(ConvKernelSVC, _PARAMETERS, _ATTRIBUTES)

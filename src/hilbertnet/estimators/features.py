"""Features of unsupervised convolutional kernel networks as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)

from hilbertnet.architecture import Architecture
from hilbertnet.data import Preprocessing
from hilbertnet.estimators.base import CKNEstimator
from hilbertnet.estimators.inputs import like_input
from hilbertnet.networks.inverse_root import Regularization
from hilbertnet.progress import Progress

__all__ = ["CKNFeatures"]


class CKNFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CKNEstimator):
    """Features of an unsupervised convolutional kernel network.

    Training signals in float32 are computed in float32, those in float64 in float64 (twice the memory and time), and
    whole numbers in float32.

    Parameters
    ----------
    architecture : Architecture, str or None
        The architecture, its text form such as ``"3 exp(0.6) gauss2 | 3 exp(0.6) gauss5"``, a preset's name, or
        ``None`` for a default by the size of the input.
    filters : sequence of int or None
        Filters of each layer; default those of the preset, or (64, 256, ...). Where the data have fewer distinct
        patches, as many are kept.
    input_shape : tuple or None
        (channels, height, width) or (channels, length) of flattened rows. Rows without it are one position of many
        channels.
    preprocessing : Preprocessing, str or None
        What is done to images first, such as ``"contrast | zca(1e-4)"``; it is fitted on the training images.
    patches : int or None
        Patches clustered in each layer; default 60 for each filter of the widest layer, at least 10,000.
    iterations : int
        At most so many passes of k-means.
    regularization, epsilon
        Of the inverse square roots, see `hilbertnet.networks.CKN`.
    random_state : int, RandomState, torch.Generator or None
        Of filters.
    device : str or None
        Where to compute; default that of the input.
    progress : bool, callable or None
        See `hilbertnet.progress`.

    Attributes
    ----------
    network_ : CKN
        The fitted network.
    preprocessing_ : Preprocessing or None
        The fitted preprocessing.
    signal_shape_ : tuple
        (channels, *space) of the training signals.
    n_features_in_ : int
        Values of one signal.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = load_digits(return_X_y=True)
    >>> features = CKNFeatures("3 exp(0.6) - | 3 exp(0.6) gauss2", (16, 32), input_shape=(1, 8, 8), random_state=0)
    >>> model = make_pipeline(features, RidgeClassifier(1e-2)).fit(X[:900] / 16, y[:900])
    >>> bool(model.score(X[900:] / 16, y[900:]) > 0.94)
    True
    """

    def __init__(
        self,
        architecture: Architecture | str | None = None,
        filters: Sequence[int] | None = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        preprocessing: Preprocessing | str | None = None,
        patches: int | None = None,
        iterations: int = 20,
        regularization: Regularization = "root",
        epsilon: float | None = None,
        random_state: Any = None,
        device: str | None = None,
        progress: Progress = False,
    ) -> None:
        self.architecture = architecture
        self.filters = filters
        self.input_shape = input_shape
        self.preprocessing = preprocessing
        self.patches = patches
        self.iterations = iterations
        self.regularization = regularization
        self.epsilon = epsilon
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> CKNFeatures:
        """Learn the filters of all layers, without labels.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features).
        y
            Ignored.
        """
        self._fit_network(X)
        return self

    def transform(self, X: Any) -> Any:
        """Features, shape (n, channels * positions), in the kind of `X` and the dtype of the training signals."""
        return like_input(self._encode(X), X)

    @property
    def _n_features_out(self) -> int:
        return int(np.prod(self.network_.output_shape(self.signal_shape_[1:])))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

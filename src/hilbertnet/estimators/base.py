"""What the estimators of convolutional kernel networks share: fitting the network and encoding."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Preprocessing
from hilbertnet.estimators.checkpoint import Checkpoint
from hilbertnet.estimators.inputs import generator_of, read_preprocessing, read_signals
from hilbertnet.networks import CKN
from hilbertnet.networks.inverse_root import Regularization
from hilbertnet.progress import Progress

__all__ = ["CKNEstimator"]

_PATCHES_PER_FILTER, _LEAST_PATCHES = 60, 10_000


class CKNEstimator(BaseEstimator):
    """What the two estimators share: fitting the network and encoding."""

    architecture: Architecture | str | None
    filters: Sequence[int] | None
    input_shape: tuple[int, ...] | None
    preprocessing: Preprocessing | str | None
    patches: int | None
    iterations: int
    regularization: Regularization
    epsilon: float | None
    random_state: Any
    device: str | None
    progress: Progress

    def _generator(self) -> torch.Generator:
        return generator_of(self.random_state)

    def _fit_network(self, X: Any, unfinished: Checkpoint | None = None) -> Tensor:
        """Fit ``preprocessing_`` and ``network_``; return the signals that the network is to see, on its device."""
        signals = read_signals(self, X, reset=True)
        self.preprocessing_ = read_preprocessing(self.preprocessing)
        if self.preprocessing_ is not None:
            signals = self.preprocessing_.fit(signals)(signals)
        signals = signals if self.device is None else signals.to(torch.device(self.device))
        if unfinished is not None and unfinished.network is not None:
            self.network_ = unfinished.network.to(signals.device)
            return signals
        self.network_ = self._learn_filters(signals)
        if unfinished is not None:
            unfinished.keep(self.network_, unfinished.path)
        return signals

    def _learn_filters(self, signals: Tensor) -> CKN:
        space, generator = tuple(signals.shape[2:]), self._generator()
        arch, preset_filters = read_architecture(self.architecture, space)
        arch.shapes(space)
        counts = self.filters if self.filters is not None else preset_filters or _default_filters(len(arch.layers))
        counts = [counts] if isinstance(counts, int) else list(counts)
        network = CKN(
            arch,
            signals.shape[1],
            counts,
            axes=len(space),
            regularization=self.regularization,
            epsilon=self.epsilon,
            generator=generator,
        )
        patches = max(_LEAST_PATCHES, _PATCHES_PER_FILTER * max(counts)) if self.patches is None else self.patches
        network.to(signals.device, signals.dtype).eval().fit_filters_(
            signals,
            patches=patches,
            generator=generator,
            iterations=self.iterations,
            allow_fewer=True,
            progress=self.progress,
        )
        if list(network.filters) != counts and self.filters is not None:
            warnings.warn(
                f"filters: {counts} asked for, but the training data have only so many distinct patches: "
                f"{list(network.filters)} kept",
                stacklevel=4,
            )
        return network

    def _encode(self, X: Any) -> Tensor:
        check_is_fitted(self)
        signals = read_signals(self, X, dtype=self.network_.dtype, reset=False)
        if self.preprocessing_ is not None:
            signals = self.preprocessing_(signals)
        return self.network_.encode(signals, progress=self.progress)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _default_filters(layers: int) -> tuple[int, ...]:
    return (256,) if layers == 1 else (64, *(256,) * (layers - 1))

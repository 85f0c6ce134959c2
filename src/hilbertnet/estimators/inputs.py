"""How estimators read their input: images, signals, flattened rows; arrays and tensors; labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d, validate_data
from torch import Tensor

from hilbertnet.data import Preprocessing
from hilbertnet.regularization.regularizer import Regularizer, as_regularizer
from hilbertnet.signals import as_signals, check_space

__all__ = [
    "check_checkpoint_seed",
    "check_lambdas",
    "generator_of",
    "labels_like_input",
    "like_input",
    "read_labels",
    "read_preprocessing",
    "read_regularizer",
    "read_signals",
]


def read_signals(estimator: BaseEstimator, X: Any, *, reset: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Check `X` as scikit-learn does and return signals (n, channels, *space).

    Parameters
    ----------
    estimator
        Its ``input_shape`` unflattens rows; ``n_features_in_`` and ``signal_shape_`` are set, or compared with.
    X
        Images, signals or rows.
    reset
        Whether this is ``fit``.
    dtype
        Of the result; default that of `X` if it is float32 or float64, float32 for anything else.
    """
    shape = _check_input_shape(estimator.input_shape)
    if not isinstance(X, Tensor) and not hasattr(X, "shape"):
        X = np.asarray(X)
    flat = len(X.shape) < 3
    if isinstance(X, Tensor):
        values = X if X.is_floating_point() or X.is_complex() else X.float()
    elif flat:
        values = validate_data(estimator, X, dtype=[np.float32, np.float64], reset=reset)
    else:
        values = check_array(X, dtype=[np.float32, np.float64], ensure_2d=False, allow_nd=True, input_name="X")
    signals = as_signals(values, "X", dtype=dtype)
    if flat and shape is not None:
        if math.prod(shape) != signals.shape[1]:
            raise ValueError(
                f"X: expected rows of {math.prod(shape)} values, input_shape {shape}, got {signals.shape[1]}"
            )
        signals = signals.reshape(-1, *shape)
    elif shape is not None:
        check_space(signals, shape, "X")
    _remember(estimator, signals, reset)
    return signals


def _remember(estimator: BaseEstimator, signals: Tensor, reset: bool) -> None:
    found = tuple(signals.shape[1:])
    if reset:
        estimator.signal_shape_ = found
        estimator.n_features_in_ = math.prod(found)
    elif found != estimator.signal_shape_:
        expected = ", ".join(map(str, estimator.signal_shape_))
        raise ValueError(f"X: expected shape (n, {expected}) as in fit, got {tuple(signals.shape)}")


def _check_input_shape(shape: Any) -> tuple[int, ...] | None:
    if shape is None:
        return None
    good = isinstance(shape, tuple | list) and len(shape) in (2, 3)
    if not good or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        raise ValueError(f"input_shape: expected (channels, height, width) or (channels, length), got {shape!r}")
    return tuple(map(int, shape))


def read_labels(y: Any) -> tuple[NDArray, Tensor]:
    """The sorted classes of `y`, and the number of each label's class.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or `y` is not one label for each example.
    """
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    if not len(y):
        raise ValueError("y: expected at least one label, got none")
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y: expected at least two classes, got one class only, {classes[0].item()!r}")
    return classes, torch.from_numpy(numbers)


def read_preprocessing(preprocessing: Any) -> Preprocessing | None:
    """What a parameter names: steps not fitted yet, from a `Preprocessing` (which is left alone) or its text form."""
    if preprocessing is None:
        return None
    if not isinstance(preprocessing, Preprocessing | str):
        raise ValueError(
            f"preprocessing: expected a Preprocessing, its text form such as 'contrast | zca(1e-4)' or None, "
            f"got {preprocessing!r}"
        )
    return Preprocessing.parse(str(preprocessing))


def read_regularizer(regularizer: Any, preprocessing: Any) -> Regularizer:
    """What a parameter names, if it makes sense for images that are preprocessed as another one says.

    Raises
    ------
    ValueError
        If it does not: where images are preprocessed, no robust loss can keep them in [0, 1].
    """
    found = as_regularizer(regularizer)
    if preprocessing is not None and getattr(found.loss, "clip", None) == "unit":
        free = replace(cast(Any, found.loss), clip="none")
        raise ValueError(
            f"regularizer: {free.name} keeps images in [0, 1], where preprocessed ones are not; write '{free}', whose "
            "radius is then one of preprocessed images, or leave the preprocessing out"
        )
    return found


def generator_of(random_state: Any) -> torch.Generator:
    """A generator of torch's on the CPU, from what scikit-learn takes as a random state, or from itself."""
    if isinstance(random_state, torch.Generator):
        return random_state
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator().manual_seed(int(seed))


def check_checkpoint_seed(random_state: Any) -> None:
    """Refuse a random state that a second call would not find again."""
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer):
        raise ValueError(f"random_state: checkpoint needs a whole number, got {random_state!r}")


def like_input(result: Tensor, X: Any) -> Any:
    """Torch for torch, numpy for anything else."""
    return result if isinstance(X, Tensor) else result.cpu().numpy()


def check_lambdas(alpha: float | None, alphas: Sequence[float]) -> tuple[float, ...]:
    """The values of lambda to try: `alpha` alone if it is given."""
    values = tuple(alphas) if alpha is None else (alpha,)
    if not values or not all(np.isreal(value) and 0 < value < np.inf for value in values):
        name, got = ("alphas", values) if alpha is None else ("alpha", alpha)
        raise ValueError(f"{name}: expected positive finite numbers, got {got!r}")
    return tuple(map(float, values))


def labels_like_input(labels: NDArray, X: Any) -> Any:
    """A tensor if `X` is one and the labels are numbers, else the array."""
    return torch.from_numpy(labels) if isinstance(X, Tensor) and labels.dtype.kind in "iufb" else labels

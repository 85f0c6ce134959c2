"""What the estimators with exact kernels share: their parameters, reading signals and labels, Gram matrices."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array
from torch import Tensor

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.presets import read_architecture
from hilbertnet.estimators.inputs import read_labels, read_signals
from hilbertnet.kernels import ConvKernel
from hilbertnet.progress import Progress

__all__ = ["KernelEstimator", "Kind", "document"]

Kind = Literal["ckn", "ntk"]

_SHARED_PARAMETERS = """
    architecture : Architecture, str or None
        The architecture, its text form, a preset's name, or ``None`` for a default by the size of the input.
    kind : str
        ``"ckn"`` or ``"ntk"``."""
_MORE_PARAMETERS = """
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
        See `hilbertnet.progress`."""
_SHARED_ATTRIBUTES = """
    kernel_ : ConvKernel
        The exact kernel."""


def document(estimator: type, parameters: str, attributes: str) -> None:
    """Write the class's docstring: its own text, the parameters and attributes that all share, and its own.

    Parameters
    ----------
    estimator
        The class.
    parameters, attributes
        Its own, as lines of numpydoc indented by four spaces.
    """
    sections = {
        "Parameters": _SHARED_PARAMETERS + parameters.rstrip() + _MORE_PARAMETERS,
        "Attributes": _SHARED_ATTRIBUTES + attributes.rstrip(),
    }
    text = "\n".join(f"\n    {name}\n    ----------{lines}" for name, lines in sections.items())
    estimator.__doc__ = f"{estimator.__doc__}{text}\n    "


class KernelEstimator(BaseEstimator):
    """The parameters that all have, and what is done with them."""

    def __init__(
        self,
        architecture: Architecture | str | None,
        *,
        kind: Kind,
        input_shape: tuple[int, ...] | None,
        memory: int | str | None,
        dtype: str,
        device: str | None,
        progress: Progress,
    ) -> None:
        self.architecture = architecture
        self.kind = kind
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

    def _read_labelled(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Signals, and the number of each label's class; sets ``classes_``."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        signals = self._read(X, reset=True)
        self.classes_, labels = read_labels(y)
        if len(labels) != len(signals):
            raise ValueError(f"y: expected {len(signals)} labels, as many as signals in X, got {len(labels)}")
        return signals, labels

    def _read_with_targets(self, X: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Signals and targets (n, outputs) in float64; remembers whether `y` had one axis."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        signals = self._read(X, reset=True)
        y = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        if len(y) != len(signals):
            raise ValueError(f"y: expected {len(signals)} targets, as many as signals in X, got {len(y)}")
        self._flat = y.ndim == 1
        return signals, torch.tensor(y.reshape(len(y), -1))

    def _fit_gram(self, signals: Tensor) -> Tensor:
        """The Gram matrix of the training signals; sets ``kernel_``."""
        arch, _ = read_architecture(self.architecture, tuple(signals.shape[2:]))
        self.kernel_ = ConvKernel(arch, self.kind)
        return self.kernel_.gram(signals, memory=self.memory, dtype=signals.dtype, progress=self.progress)

    def _cross_gram(self, signals: Tensor, others: Tensor) -> Tensor:
        """The Gram matrix of new signals and others, float64 on the CPU."""
        gram = self.kernel_.gram(
            signals.to(others.device), others, memory=self.memory, dtype=signals.dtype, progress=self.progress
        )
        return gram.cpu().double()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def mean_diagonal(gram: Tensor) -> float:
    """The mean of K(x, x), the unit of lambda, noise and 1/C; 1 where all signals are zero."""
    return float(gram.diagonal().double().mean()) or 1.0


def squeeze_outputs(values: Tensor, flat: bool) -> Tensor:
    """(..., 1) without its last axis where the targets had one axis only."""
    return values[..., 0] if flat else values

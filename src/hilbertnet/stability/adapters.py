"""Named representations: exact kernels, pixels, torch modules and their layers, functions, transformers.

Features, where there are any, are compared as the norm of their difference, which is good for tiny distances too; exact
kernels have none, and are compared through their values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.features import FeatureNet
from hilbertnet.protocols import Representation
from hilbertnet.signals import as_signals, check_same_space
from hilbertnet.text import nearest
from hilbertnet.training.objective import evaluating

__all__ = [
    "BATCH",
    "Adapter",
    "Arrays",
    "FeatureRepresentation",
    "FunctionFeatures",
    "KernelRepresentation",
    "ModuleFeatures",
    "Pixels",
    "TransformerFeatures",
]

Arrays = Literal["torch", "numpy"]

BATCH = 256
"""Signals at a time, by default."""


class Adapter(ABC):
    """A named representation that looks at signals in batches; a subclass says `_distance` and `_norm` of one batch.

    Parameters
    ----------
    name
        For tables and legends.
    differentiable
        Whether gradients flow from distances and norms to the signals.
    """

    batch_size = BATCH

    def __init__(self, name: str, *, differentiable: bool) -> None:
        self.name, self.differentiable = name, differentiable

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def distance(self, x: Any, y: Any) -> Any:
        """``||Phi(x_i) - Phi(y_i)||`` for every i.

        Parameters
        ----------
        x, y
            As many signals in each, of one shape: (n, channels, *space), or rows (n, features) where the representation
            takes rows.

        Returns
        -------
        Tensor
            Shape (n,), float64, on the device of `x`; an array if `x` is one.

        Raises
        ------
        ValueError
            If the signals are not of this form, or the representation does not answer with finite features, one row
            for each signal.
        """
        left = _signals(x, "x")
        right = _signals(y, "y", like=left)
        if len(left) != len(right):
            raise ValueError(f"y: expected {len(left)} signals, as many as in x, got {len(right)}")
        pairs = zip(left.split(self.batch_size), right.split(self.batch_size), strict=True)
        return self._collect([self._distance(*pair) for pair in pairs], x)

    def norm(self, x: Any) -> Any:
        """``||Phi(x_i)||`` for every i, shape (n,), float64; arguments and errors are those of `distance`."""
        return self._collect([self._norm(part) for part in _signals(x, "x").split(self.batch_size)], x)

    def distance_from(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """``y -> distance(x, y)`` for many y, with what depends on `x` alone computed once where that is possible."""
        signals = _signals(x, "x").detach()
        return lambda y: self.distance(signals, y)

    def _collect(self, parts: list[Tensor], like: Any) -> Any:
        result = torch.cat(parts)
        return result.to(like.device) if isinstance(like, Tensor) else result.numpy(force=True)

    @abstractmethod
    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Of one batch, float64."""

    @abstractmethod
    def _norm(self, x: Tensor) -> Tensor:
        """Of one batch, float64."""


class KernelRepresentation(Adapter):
    """A representation known through its own ``distance`` and ``norm``, such as an exact kernel, in batches.

    The distance of an exact kernel is the square root of ``K(x, x) + K(y, y) - 2 K(x, y)``, computed in float64: below
    about 1e-7 of the norm it is rounding (0 or noise), below 1e-4 for the ReLU tangent kernel. Features have no such
    floor.

    Parameters
    ----------
    representation
        A `hilbertnet.ConvKernel` or any `hilbertnet.protocols.Representation`.
    """

    def __init__(self, representation: Representation) -> None:
        name = getattr(representation, "name", type(representation).__name__)
        if isinstance(representation, ConvKernel):
            name = f"{representation.kind.upper()} kernel {representation.arch}"
        super().__init__(str(name), differentiable=bool(representation.differentiable))
        self.representation = representation

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        return self._checked(self.representation.distance(x, y), len(x), "distance")

    def _norm(self, x: Tensor) -> Tensor:
        return self._checked(self.representation.norm(x), len(x), "norm")

    def _checked(self, values: Any, n: int, what: str) -> Tensor:
        if not isinstance(values, Tensor) or values.shape != (n,) or not torch.isfinite(values).all():
            raise ValueError(f"{self.name}: expected a finite {what} for each of {n} signals, got {_described(values)}")
        return values.double()


class FeatureRepresentation(Adapter):
    """A representation by features; a subclass computes those of one batch, `_compute`."""

    def features(self, x: Any) -> Float[Tensor, "n features"]:
        """Features, flattened: shape (n, features), in the precision they come in; errors are those of `distance`."""
        return torch.cat([self._features(part) for part in _signals(x, "x").split(self.batch_size)])

    def distance_from(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """``y -> distance(x, y)`` for many y; the features of `x` are computed once."""
        signals = _signals(x, "x").detach()
        with torch.no_grad():
            reference = self.features(signals).double()

        def distance(y: Tensor) -> Tensor:
            others = _signals(y, "y", like=signals)
            if len(others) != len(signals):
                raise ValueError(f"y: expected {len(signals)} signals, as many as in x, got {len(others)}")
            parts = zip(reference.split(self.batch_size), others.split(self.batch_size), strict=True)
            return self._collect([(self._features(part).double() - left).norm(dim=1) for left, part in parts], y)

        return distance

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        return (self._features(x).double() - self._features(y).double()).norm(dim=1)

    def _norm(self, x: Tensor) -> Tensor:
        return self._features(x).double().norm(dim=1)

    def _features(self, x: Tensor) -> Tensor:
        grad = torch.is_grad_enabled() and x.requires_grad
        with torch.set_grad_enabled(grad):
            return self._rows(self._compute(x), len(x))

    def _rows(self, found: Any, n: int) -> Tensor:
        """Features as rows of finite real numbers, or what is wrong with them."""
        if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != n:
            raise ValueError(
                f"{self.name}: expected one tensor or array with the features of each of {n} signals along its first "
                f"axis, got {_described(found)}"
            )
        rows = found.flatten(1) if found.ndim > 1 else found[:, None]
        if rows.is_complex():
            rows = torch.view_as_real(rows.resolve_conj()).flatten(1)
        if not torch.isfinite(rows).all():
            row, column = torch.nonzero(~torch.isfinite(rows))[0].tolist()
            raise ValueError(f"{self.name}: expected finite features, got {rows[row, column].item()} for signal {row}")
        return rows

    @abstractmethod
    def _compute(self, x: Tensor) -> Any:
        """Features of a batch, as they come."""


# --- the kinds of features


class Pixels(FeatureRepresentation):
    """The signals themselves."""

    def __init__(self) -> None:
        super().__init__("pixels", differentiable=True)

    def _compute(self, x: Tensor) -> Tensor:
        return x


class FunctionFeatures(FeatureRepresentation):
    """A function from a batch of signals to features.

    Parameters
    ----------
    function
        From signals (n, channels, *space) to features (n, ...).
    arrays
        Whether it takes and gives tensors, and is differentiable, or numpy arrays.
    dtype
        Of the signals it is given; default their own.
    """

    def __init__(self, function: Callable[[Any], Any], *, arrays: Arrays, dtype: torch.dtype | None = None) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        super().__init__(name, differentiable=arrays == "torch")
        self.function, self.arrays, self.dtype = function, arrays, dtype

    def _compute(self, x: Tensor) -> Any:
        x = x.to(self.dtype or x.dtype)
        if self.arrays == "numpy":
            return _tensor(self.function(x.numpy(force=True)))
        found = self.function(x)
        if isinstance(found, np.ndarray):
            raise ValueError(f"{self.name}: expected a tensor, got an array: name it a function of arrays='numpy'")
        return found


class TransformerFeatures(FeatureRepresentation):
    """A fitted transformer in scikit-learn's style, which takes rows; estimators of this package take signals too.

    Parameters
    ----------
    transformer
        With ``transform``, from an array of rows (n, features) to features.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__(type(transformer).__name__, differentiable=False)
        self.transformer = transformer

    def _compute(self, x: Tensor) -> Any:
        rows = x if hasattr(self.transformer, "signal_shape_") else x.flatten(1)
        return _tensor(self.transformer.transform(rows.numpy(force=True)))


class ModuleFeatures(FeatureRepresentation):
    """What a torch module, or one of its layers, makes of signals.

    The module is taken in eval mode, as it is at the time of each call, on its own device. Its modes, buffers and
    gradients are left as they were: gradients flow to the signals only.

    Parameters
    ----------
    module
        From signals (n, channels, *space) to features (n, ...), or anything if `layer` is given.
    layer
        One of its ``named_modules()``, whose output is meant.
    dtype
        Of the computation; default that of the module's first parameter or buffer, or of the signals if it has none.

    Raises
    ------
    ValueError
        If there is no such layer, or a module compiled by ``torch.jit`` is to compute in another precision.
    """

    def __init__(self, module: nn.Module, layer: str | None = None, *, dtype: torch.dtype | None = None) -> None:
        name = type(module).__name__
        if isinstance(module, FeatureNet):
            name += f"({', '.join(map(str, module.widths))})"
        super().__init__(name if layer is None else f"{name}, layer {layer}", differentiable=True)
        if dtype is not None and isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"dtype: expected none for a module compiled by torch.jit, got {dtype}")
        self.module, self.dtype, self.layer = module, dtype, layer
        self._hooked = None if layer is None else _layer_of(module, layer)

    def _compute(self, x: Tensor) -> Any:
        first = next((value for value in self._state().values() if value.is_floating_point()), x)
        x = x.to(first.device, self.dtype or first.dtype).contiguous()
        with evaluating(self.module), _frozen(self.module):
            return self._run(x) if self._hooked is None else self._run_layer(x, self._hooked)

    def _state(self) -> dict[str, Tensor]:
        return dict([*self.module.named_parameters(), *self.module.named_buffers()])

    def _run(self, x: Tensor) -> Any:
        """The module on copies of its buffers, and of its parameters where the precision is another."""
        if self.dtype is None:
            state = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        else:
            state = {name: self._converted(value) for name, value in self._state().items()}
        try:
            if isinstance(self.module, torch.jit.ScriptModule):  # compiled: its state is its own
                return self.module(x)
            return functional_call(self.module, state, (x,))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            shape = tuple(x.shape)
            raise ValueError(f"{self.name}: cannot take signals of shape {shape}, {x.dtype}: {error}") from error

    def _converted(self, value: Tensor) -> Tensor:
        return value.detach().to(self.dtype if value.is_floating_point() else value.dtype, copy=True)

    def _run_layer(self, x: Tensor, layer: nn.Module) -> Any:
        kept: list[Any] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # a copy: the next layer may work in place
            kept.append(output.clone() if isinstance(output, Tensor) else output)

        handle = layer.register_forward_hook(keep)
        try:
            self._run(x)
        finally:
            handle.remove()
        if len(kept) != 1:
            raise ValueError(f"layer: expected a layer that is used once, {self.layer!r} was used {len(kept)} times")
        return kept[0]


def _layer_of(module: nn.Module, layer: str) -> nn.Module:
    known = dict(module.named_modules())
    if layer not in known:
        names = [name for name in known if name]
        hint = nearest(str(layer), names) or f"; known: {', '.join(names[:20]) or 'none'}"
        raise ValueError(f"layer: expected the name of a layer of {type(module).__name__}, got {layer!r}{hint}")
    return known[layer]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients of parameters inside; afterwards each requires one that did."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_()


# --- small helpers


def _signals(x: Any, name: str, like: Tensor | None = None) -> Tensor:
    """Signals; rows stay rows, as modules and functions may take them."""
    signals = as_signals(x, name)
    if np.ndim(x) == 2:
        signals = signals.squeeze(-1)
    if like is not None:
        check_same_space(signals, like, name)
        signals = signals.to(like.device)
    return signals


def _tensor(found: Any) -> Any:
    """Arrays, and what numpy makes arrays of numbers of, as tensors; anything else as it is."""
    if isinstance(found, Tensor | tuple | list | dict) or found is None:
        return found
    array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    return torch.from_numpy(np.ascontiguousarray(array)) if array.dtype.kind in "fciub" else found


def _described(found: Any) -> str:
    """What came, in few words."""
    if isinstance(found, Tensor):
        finite = "" if torch.isfinite(found).all() else ", not all finite"
        return f"a tensor of shape {tuple(found.shape)}{finite}"
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)} ({', '.join(map(_described, found[:3]))})"
    if isinstance(found, dict):
        return f"a dict with {', '.join(map(repr, list(found)[:5]))}"
    return "None" if found is None else f"{type(found).__name__}"

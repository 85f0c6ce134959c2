"""The door to representations: `as_representation` makes a named one of whatever a user has."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from hilbertnet.architecture import Architecture
from hilbertnet.kernels import ConvKernel
from hilbertnet.protocols import Representation
from hilbertnet.signals import is_count
from hilbertnet.stability.adapters import (
    BATCH,
    Adapter,
    Arrays,
    FunctionFeatures,
    KernelRepresentation,
    ModuleFeatures,
    Pixels,
    TransformerFeatures,
)
from hilbertnet.text import TextFormError, nearest

__all__ = ["as_representation"]


def as_representation(
    thing: Any,
    *,
    layer: str | None = None,
    name: str | None = None,
    batch_size: int = BATCH,
    dtype: torch.dtype | None = None,
    arrays: Arrays | None = None,
) -> Adapter:
    """What `thing` is, as a `hilbertnet.protocols.Representation` with a name.

    Parameters
    ----------
    thing
        - ``"pixels"``: the signals themselves.
        - A `hilbertnet.ConvKernel`, or an architecture or its text form, whose exact kernel is meant: no features are
          computed, distances come from kernel values.
        - A `hilbertnet.CKN` or any other ``torch.nn.Module`` from signals to features, such as a scattering transform
          of kymatio with ``frontend="torch"``; `layer` takes the output of one of its layers instead.
        - An object with a ``transform`` from rows (n, features) to features, such as a fitted scikit-learn transformer.
        - A function from signals (n, channels, *space) to features (n, ...), such as a scattering transform of kymatio
          with ``frontend="numpy"``; see `arrays`.
        - Any other `hilbertnet.protocols.Representation`.
    layer
        Name of a module's layer, one of its ``named_modules()``.
    name
        For tables and legends; default one made of `thing`.
    batch_size
        Signals at a time.
    dtype
        Of the computation: a module's parameters and buffers are converted for it, the module itself is not. Default
        the module's own, that of the signals for functions. Exact kernels always compute in float64.
    arrays
        What a function takes: ``"torch"`` tensors (default), through which gradients flow, or ``"numpy"`` arrays.

    Returns
    -------
    Adapter
        With ``distance(x, y)`` and ``norm(x)``, float64, ``differentiable`` and ``name``. What is such an adapter is
        returned as it is.

    Raises
    ------
    ValueError
        If `thing` is none of these, it has no such layer, or an argument is not of this form or means nothing for it.

    Examples
    --------
    >>> x, y = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.5)
    >>> pixels = as_representation("pixels")
    >>> pixels.name, pixels.distance(x, y)
    ('pixels', tensor([4., 4.], dtype=torch.float64))
    >>> net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    >>> as_representation(net, layer="0").name
    'Sequential, layer 0'
    """
    if isinstance(thing, Adapter):
        if (layer, name, dtype, arrays) != (None, None, None, None):
            raise ValueError(f"thing: expected no adapter beside other arguments, got {thing.name!r}")
        return thing
    module = isinstance(thing, nn.Module)
    if layer is not None and not module:
        raise ValueError(f"layer: expected none, as only torch modules have layers, got {layer!r} of {_type(thing)}")
    if module:
        found: Adapter = ModuleFeatures(thing, layer, dtype=dtype)
    elif isinstance(thing, str | Architecture):
        found = Pixels() if thing == "pixels" else KernelRepresentation(_kernel_of(thing))
    elif callable(getattr(thing, "transform", None)) and not isinstance(thing, type):
        found = TransformerFeatures(thing)
    elif isinstance(thing, Representation) and not isinstance(thing, type):
        found = KernelRepresentation(thing)
    elif callable(thing) and not isinstance(thing, type):
        # objects of kymatio say what they take
        frontend = getattr(thing, "frontend_name", "torch")
        found = FunctionFeatures(thing, arrays=arrays or ("torch" if frontend == "torch" else "numpy"), dtype=dtype)
    else:
        raise ValueError(
            "thing: expected 'pixels', an exact kernel, an architecture, a torch module, a transformer, a function or "
            f"a Representation, got {_type(thing)}"
        )
    _check_meant(found, dtype, arrays)
    if not is_count(batch_size):
        raise ValueError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}")
    found.batch_size, found.name = batch_size, found.name if name is None else str(name)
    return found


def _kernel_of(text: str | Architecture) -> ConvKernel:
    try:
        return ConvKernel(cast(Architecture, text))
    except TextFormError as error:
        hint = nearest(str(text), ["pixels"])
        if not hint:
            raise
        raise ValueError(f"thing: expected 'pixels' or an architecture, got {text!r}{hint}") from error


def _check_meant(found: Adapter, dtype: torch.dtype | None, arrays: Arrays | None) -> None:
    """Refuse what means nothing for this kind of representation."""
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype!r}")
    if dtype is not None and not isinstance(found, ModuleFeatures | FunctionFeatures):
        raise ValueError(f"dtype: expected none for {found.name!r}, it is for modules and functions, got {dtype}")
    if arrays not in (None, "torch", "numpy"):
        raise ValueError(f"arrays: expected 'torch' or 'numpy', got {arrays!r}{nearest(str(arrays), _ARRAYS)}")
    if arrays is not None and not isinstance(found, FunctionFeatures):
        raise ValueError(f"arrays: expected none for {found.name!r}, it is for functions, got {arrays!r}")


_ARRAYS = ("torch", "numpy")


def _type(thing: Any) -> str:
    return repr(thing) if isinstance(thing, str) else f"an object of type {type(thing).__name__}"

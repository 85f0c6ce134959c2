"""Representations of digits that are compared: exact kernels, a trained network, scattering, pixels."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import mnist_net
from hilbertnet.progress import Progress
from hilbertnet.protocols import Representation
from hilbertnet.stability import as_representation
from hilbertnet.training import Recipe, evaluate, train

__all__ = ["KINDS", "lacking", "make_representations", "scattering"]

KINDS = ("kernels", "ckn", "cnn", "scattering", "pixels")

_WIDTH, _RATE = 16, 1e-3  # of the network
_TESTED = 1000


def lacking(kind: str) -> str | None:
    """Why a kind of representation cannot be made here, or ``None``."""
    if kind == "scattering" and find_spec("kymatio") is None:
        return "scattering needs kymatio: pip install kymatio"
    return None


def make_representations(
    kind: str,
    data: tuple[Tensor, NDArray[np.int64]],
    *,
    architecture: str,
    layout: str,
    train: int,
    epochs: int,
    seed: int,
    device: str,
    progress: Progress,
) -> tuple[dict[str, Representation], dict[str, Any]]:
    """Representations by name, and what a record says of their making.

    Parameters
    ----------
    kind
        One of `KINDS`.
    data
        Images (n, channels, height, width) and labels, for what is trained.
    architecture, layout
        Of exact kernels.
    train, epochs, seed, device, progress
        Of the network's training.

    Raises
    ------
    ValueError
        If it cannot be made here.
    """
    reason = lacking(kind)
    if reason is not None:
        raise ValueError(f"representation: {reason}")
    if kind in ("kernels", "ckn"):
        arch = replace(read_architecture(architecture, tuple(data[0].shape[2:]))[0], layout=layout)
        kinds = ("ckn", "ntk") if kind == "kernels" else ("ckn",)
        return {name: as_representation(ConvKernel(arch, name), name=name.upper()) for name in kinds}, {}  # type: ignore
    if kind == "cnn":
        net, notes = _trained(data, train, epochs, seed, device, progress)
        return {"cnn": as_representation(net, layer="body", name="CNN")}, notes
    if kind == "scattering":
        return {"scattering": as_representation(scattering(tuple(data[0].shape[2:])), name="scattering")}, {}
    return {"pixels": as_representation("pixels")}, {}


def _trained(
    data: tuple[Tensor, NDArray[np.int64]], count: int, epochs: int, seed: int, device: str, progress: Progress
) -> tuple[torch.nn.Module, dict[str, Any]]:
    x, y = data[0], torch.from_numpy(np.unique(data[1], return_inverse=True)[1])
    tested = min(_TESTED, len(x) // 3)
    count = min(count, len(x) - tested)
    net = mnist_net(x.shape[1], int(y.max()) + 1, width=_WIDTH, depth=3, size=x.shape[2], generator=seed).to(device)
    optimizer, recipe = torch.optim.Adam(net.parameters(), _RATE), Recipe(epochs, seed=seed)
    train(net, (x[:count], y[:count]), None, optimizer, recipe, progress=progress)
    accuracy = evaluate(net, (x[count : count + tested], y[count : count + tested]))[1]
    text = f"trained on {count:,} images for {epochs} epochs, {100 * accuracy:.1f}% right of {tested:,} others"
    return net, {"text": text, "accuracy": accuracy}


def scattering(space: tuple[int, ...]) -> Any:
    """Kymatio's scattering transform of two scales, for images of a shape."""
    import scipy.special

    if not hasattr(scipy.special, "sph_harm"):  # gone from scipy 1.17; kymatio imports it for volumes, never used here
        scipy.special.sph_harm = None
    from kymatio.torch import Scattering2D

    return Scattering2D(J=2, shape=space)

"""Norms of the weights kept at 1 by torch's own parametrizations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from hilbertnet.regularization.weights import weight_layers
from hilbertnet.signals import as_rng, is_count
from hilbertnet.text import check_word

__all__ = ["parametrize_"]

_KINDS = ("spectral_norm", "orthogonal")


def parametrize_(
    model: nn.Module,
    kind: Literal["spectral_norm", "orthogonal"],
    *,
    generator: int | torch.Generator | None = None,
    iterations: int = 1,
) -> nn.Module:
    """Keep the norms of a model's layers at 1 by torch's own parametrizations, in the place of a constraint.

    The constraint then holds in each forward pass and gradients flow through it, and nothing is done after a step.
    ``torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")`` makes it a plain weight again.

    Parameters
    ----------
    model
        Changed in place. Its optimizer is made afterwards: the parameters have other names.
    kind
        ``"spectral_norm"``: each weight over an estimate of the largest singular value of its matrix (out, in / groups
        * patch), by power iterations in each forward pass in training mode; convolutions and linear layers.
        ``"orthogonal"``: all singular values 1, of linear layers alone; torch's own would make each small slice of a
        convolution's filter orthogonal, not the filter.
    generator
        Seed or generator of the first vectors of ``"spectral_norm"``.
    iterations
        Power iterations for each forward pass.

    Returns
    -------
    nn.Module
        `model`.

    Raises
    ------
    ValueError
        If an argument is not as said, there is no such layer, one is parametrized already, or layers share a weight,
        which would be one no longer.

    References
    ----------
    T. Miyato, T. Kataoka, M. Koyama and Y. Yoshida, "Spectral normalization for generative adversarial networks", ICLR
    2018; M. Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", NeurIPS 2019.
    """
    from torch.nn.utils import parametrizations

    check_word("kind", kind, _KINDS)
    if not is_count(iterations):
        raise ValueError(f"iterations: expected a whole number of at least 1, got {iterations!r}")
    layers = [one for one in weight_layers(model) if kind == "spectral_norm" or isinstance(one.module, nn.Linear)]
    if not layers:
        raise ValueError("model: expected linear layers, which alone are made orthogonal, and it has none")
    for layer in layers:
        if layer.parametrized:
            raise ValueError(f"model: {layer.name}.weight is parametrized already")
        if layer.others:
            raise ValueError(f"model: {layer.name} and {layer.others[0]} share a weight, which would be two")
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=as_rng(generator))))
        for layer in layers:
            if kind == "orthogonal":
                parametrizations.orthogonal(layer.module)
            else:
                parametrizations.spectral_norm(layer.module, n_power_iterations=iterations)
    return model

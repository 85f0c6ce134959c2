"""Finite networks in the parametrization in which their tangent kernel tends to the exact one.

Every layer is that of `hilbertnet.networks.random_features`, trained: standard normal weights, the factors that keep
the variance in front of them (the "NTK parametrization"), and a last linear layer of standard normal weights on the
maps:

    f_c(x) = sum_{u, i} v_{c, i}(u) Phi_i(x)(u),        Phi = A_n psi_n P_n ... A_1 psi_1 P_1 A_0.

As the widths grow, ``sum_p (d f_c(x) / d theta_p) (d f_d(x') / d theta_p)`` tends to ``ConvKernel(arch, kind="ntk")``
if c = d and to 0 otherwise, with an error of the order of 1 / sqrt(width). Activations other than ReLU enter as their
homogeneous extension ``||z|| f(<w, z> / ||z||)``; the gradient of the norm adds terms of the order of 1 / width only.

References: A. Jacot, F. Gabriel and C. Hongler, "Neural tangent kernel: convergence and generalization in neural
networks", NeurIPS 2018; A. Bietti and J. Mairal, "On the inductive bias of neural tangent kernels", NeurIPS 2019,
section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.architecture.layers import Architecture
from hilbertnet.networks.pieces import check_counts
from hilbertnet.networks.random_features import RandomFeatureNet
from hilbertnet.signals import as_rng, check_space, is_count

__all__ = ["TangentNet", "ntk_network"]


class TangentNet(nn.Module):
    """Layers of random features and a linear readout, all trained; `ntk_network` builds it.

    Parameters
    ----------
    features
        The layers; their weights are made to require a gradient.
    space
        Spatial shape of the signals.
    outputs
        How many outputs.
    generator
        Of the readout.
    """

    def __init__(
        self, features: RandomFeatureNet, space: tuple[int, ...], outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.features = features.requires_grad_()
        self.shape = (features.in_channels, *space)
        self.readout = nn.Parameter(torch.randn(outputs, math.prod(features.output_shape(space)), generator=generator))

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n outputs"]:
        """Outputs, shape (n, outputs).

        Parameters
        ----------
        x
            Signals of the shape the network was made for.

        Raises
        ------
        ValueError
            If they have another shape.
        """
        check_space(x, self.shape, "x")
        return self.features(x).flatten(1) @ self.readout.T


def ntk_network(
    arch: Architecture | str,
    in_channels: int,
    width: int | Sequence[int],
    *,
    space: tuple[int, ...],
    outputs: int = 1,
    generator: int | torch.Generator | None = None,
) -> TangentNet:
    """A trainable network whose tangent kernel tends to the exact one of its architecture as it grows wider.

    Parameters
    ----------
    arch
        The architecture, or its text form, of layers with kernels ``arccos1``, ``exp`` and ``dual``.
    in_channels
        Channels of the signals.
    width
        How many features in each layer, one number for all or one for each; even where the kernel is ``exp``.
    space
        Spatial shape of the signals, (height, width) or (length,).
    outputs
        How many outputs, each with a readout of its own.
    generator
        Seed or ``torch.Generator`` of the weights.

    Returns
    -------
    TangentNet
        From signals (n, in_channels, *space) to outputs (n, outputs).

    Raises
    ------
    ValueError
        If an argument is not of this form, the signals are too small for the architecture, or a layer's kernel has no
        such features or an infinite kappa'(1), of which there is no tangent kernel.

    Examples
    --------
    >>> net = ntk_network("3 arccos1 avg2 | 3 arccos1 global", 1, 64, space=(8, 8), outputs=10, generator=0)
    >>> net(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))).shape
    torch.Size([5, 10])
    """
    if not isinstance(space, tuple) or len(space) not in (1, 2) or not all(map(is_count, space)):
        raise ValueError(f"space: expected (height, width) of images or (length,) of signals, got {space!r}")
    check_counts(outputs=outputs)
    rng = as_rng(generator)
    features = RandomFeatureNet(arch, in_channels, width, axes=len(space), generator=rng)
    for number, layer in enumerate(features.arch.layers, start=1):
        if math.isinf(layer.kernel.slope):
            raise ValueError(
                f"arch: a tangent kernel needs a finite kappa'(1), which {layer.kernel} of layer {number} has not"
            )
    return TangentNet(features, space, outputs, rng)

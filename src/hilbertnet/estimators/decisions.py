"""The decision values of a fitted `CKNClassifier` as one torch module, preprocessing inside."""

from __future__ import annotations

import copy

from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.data import Preprocessing
from hilbertnet.networks import CKN
from hilbertnet.solvers.linear import LinearHead

__all__ = ["DecisionModule"]


class DecisionModule(nn.Module):
    """Preprocessing, network and linear head, copied and in eval mode.

    Parameters
    ----------
    preprocessing
        Fitted, or ``None``.
    network, head
        Of the classifier.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, preprocessing: Preprocessing | None, network: CKN, head: LinearHead) -> None:
        super().__init__()
        self.preprocessing = copy.deepcopy(preprocessing)
        self.network = CKN.from_config(network.config(), network.state_dict()).to(network.dtype)
        self.network.to(head.weight.device).requires_grad_(False)
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", head.bias.detach().clone())
        self.eval()

    def forward(self, x: Float[Tensor, "n channels *space"]) -> Float[Tensor, "n outputs"]:
        """Decision values of signals in [0, 1], in the network's dtype."""
        if self.preprocessing is not None:
            for step in self.preprocessing.steps:  # one by one, none in place: gradients pass
                x = step(x)
        features = self.network(x.to(self.network.dtype)).flatten(1)
        return (features @ self.weight.T + self.bias).to(self.network.dtype)

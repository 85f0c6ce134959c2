"""The weights that spectral terms look at: those of convolutions and linear layers, seen as matrices.

Taken is the ``weight`` of every ``nn.Linear``, ``nn.Conv1d`` to ``nn.Conv3d``, ``nn.ConvTranspose1d`` to ``3d``, and of
their subclasses, the last layer's too. Not taken are biases, normalization layers, embeddings, recurrent and attention
weights under other names, modules of the user's own, and the filters of a `hilbertnet.networks.CKN`, which have norm 1
as it is. A weight that several layers share is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

__all__ = ["WeightLayer", "by_shape", "full_precision", "in_float64", "weight_layers"]

Transposed = nn.modules.conv._ConvTransposeNd
_KINDS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A convolution or linear layer of a model.

    Parameters
    ----------
    name
        As in ``model.named_modules()``.
    module
        The layer.
    others
        Names of further layers with the same weight.
    """

    name: str
    module: nn.Module
    others: tuple[str, ...] = ()

    @property
    def weight(self) -> Tensor:
        """The weight that the layer computes with, which a parametrization may have made."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def parametrized(self) -> bool:
        """Whether ``torch.nn.utils.parametrize`` makes the weight."""
        return parametrize.is_parametrized(self.module, "weight")

    def matrix(self, weight: Tensor | None = None) -> Float[Tensor, "out rest"]:
        """The weight as a matrix (out, in / groups * patch); of a transposed one (out / groups, in * patch).

        With groups, those of the layer stand below each other (beside each other for a transposed one), as in torch's
        own ``spectral_norm``; the norm is at least that of every group.
        """
        weight = self.weight if weight is None else weight
        weight = weight.transpose(0, 1) if isinstance(self.module, Transposed) else weight
        return weight.flatten(1)

    def write_(self, matrix: Float[Tensor, "out rest"]) -> None:
        """Put `matrix` in the place of the weight.

        Raises
        ------
        ValueError
            If a parametrization cannot give this weight.
        """
        old = self.weight
        weight = matrix.to(old.device, old.dtype)
        if isinstance(self.module, Transposed):
            weight = weight.unflatten(1, (old.shape[0], *old.shape[2:])).transpose(0, 1)
        weight = weight.reshape(old.shape)
        if not self.parametrized:
            with torch.no_grad():
                old.copy_(weight)
            return
        made_of = list(self.module.parametrizations["weight"].parameters())  # type: ignore[index,union-attr]
        before = [part.detach().clone() for part in made_of]
        try:
            self.module.weight = weight
            taken = torch.allclose(self.weight, weight, rtol=1e-4, atol=1e-6 * float(weight.abs().amax()))
        except (NotImplementedError, RuntimeError, ValueError):
            taken = False
        if not taken:
            with torch.no_grad():
                for part, value in zip(made_of, before, strict=True):
                    part.copy_(value)
            raise self._cannot()

    def _cannot(self) -> ValueError:
        return ValueError(
            f"model: the parametrization of {self.name}.weight cannot take the weight that the projection wants; "
            "remove one of the two"
        )


def weight_layers(model: nn.Module) -> list[WeightLayer]:
    """The layers of a model whose weights are taken, in its order, each weight once.

    Raises
    ------
    ValueError
        If there is none, or one has no weight that can be worked with.
    """
    found: dict[object, WeightLayer] = {}
    for name, module in model.named_modules():
        if not isinstance(module, _KINDS):
            continue
        key = _identity(module, name)
        first = found.get(key)
        found[key] = WeightLayer(name, module) if first is None else _shared(first, name)
    if not found:
        raise ValueError(
            f"model: expected convolutions or linear layers of torch.nn, and {type(model).__name__} has none"
        )
    return list(found.values())


def _shared(first: WeightLayer, name: str) -> WeightLayer:
    return WeightLayer(first.name, first.module, (*first.others, name))


def _identity(module: nn.Module, name: str) -> object:
    """What two layers have in common if their weights are one."""
    if parametrize.is_parametrized(module, "weight"):
        return tuple(map(id, module.parametrizations["weight"].parameters())) or id(module)  # type: ignore[index,union-attr]
    weight = module._parameters.get("weight")
    if isinstance(weight, UninitializedParameter):
        raise ValueError(f"model: {name}.weight is not there yet; call the model on a batch first")
    if weight is None:
        raise ValueError(
            f"model: expected {name}.weight to be a parameter, or made by torch.nn.utils.parametrizations; the older "
            "hooks of torch.nn.utils write it in the forward pass alone"
        )
    return id(weight)


def by_shape(
    layers: Iterable[WeightLayer],
) -> Iterator[tuple[list[WeightLayer], Float[Tensor, "layers out rest"]]]:
    """Layers whose matrices have one shape, device and dtype, and these, stacked, in at least float32."""
    groups: dict[object, tuple[list[WeightLayer], list[Tensor]]] = {}
    for layer in layers:
        matrix = layer.matrix()
        members, matrices = groups.setdefault((matrix.shape, matrix.device, matrix.dtype), ([], []))
        members.append(layer)
        matrices.append(matrix)
    for members, matrices in groups.values():
        stack = torch.stack(matrices) if len(matrices) > 1 else matrices[0][None]
        yield members, stack if stack.dtype in (torch.float32, torch.float64) else stack.float()


def in_float64(tensor: Tensor) -> Tensor:
    """The same numbers in float64, on the CPU if its device has none."""
    return tensor.to("cpu", torch.float64) if tensor.device.type == "mps" else tensor.double()


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """No autocast inside, on the device of the model's parameters: singular values in half precision mean little."""
    kinds = {parameter.device.type for parameter in model.parameters()} or {"cpu"}
    with torch.autocast(next(iter(kinds)), enabled=False):
        yield

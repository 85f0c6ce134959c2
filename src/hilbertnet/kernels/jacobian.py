"""Gradients of a model's outputs in its parameters, example by example, and the memory that they take.

By ``vmap`` over examples of ``jacrev`` over outputs, a few examples at a time; where a module has no rule for that, by
one backward pass for each example and output.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from hilbertnet.progress import announce

__all__ = ["Jacobian", "Sizes", "model_rows"]


def model_rows(result: object, count: int) -> Tensor:
    """A model's outputs for `count` examples as rows (count, outputs).

    Raises
    ------
    ValueError
        If they are not a real tensor with as many rows.
    """
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise ValueError(f"model: expected a tensor of real outputs, got {type(result).__name__}")
    if result.ndim < 1 or len(result) != count or not result.numel():
        raise ValueError(f"model: expected outputs ({count}, ...) for {count} examples, got {tuple(result.shape)}")
    return result.reshape(count, -1)


@dataclass(frozen=True)
class Sizes:
    """What one example takes, in bytes.

    Parameters
    ----------
    outputs
        Outputs of the model.
    row
        The gradient of one output.
    saved
        What the forward pass keeps for the backward pass.
    largest
        The largest tensor of these.
    """

    outputs: int
    row: int
    saved: int
    largest: int

    def working(self, outputs: int) -> int:
        """While the gradients of so many outputs of one example are computed: them, and what they are made from."""
        return self.saved + outputs * (2 * self.row + 4 * self.largest)  # so many copies alive at once, as measured


class Jacobian:
    """The gradients of a model's outputs in chosen parameters; the model is not touched.

    Parameters
    ----------
    model
        From a batch to outputs (n, ...), in eval mode.
    groups
        Names of parameters, by layer.
    dtype
        Of the computation; parameters and buffers are converted.
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, list[str]], dtype: torch.dtype) -> None:
        self.model, self.groups, self.dtype = model, dict(groups), dtype
        tensors = {name: tensor.detach().to(dtype) for name, tensor in model.named_parameters()}
        self.chosen = {name: tensors.pop(name) for names in groups.values() for name in names}
        # clones: a forward pass may write to its buffers
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        floats = {name: buffer.to(dtype) for name, buffer in buffers.items() if buffer.is_floating_point()}
        self.rest = {**tensors, **buffers, **floats}
        self.vectorized = True

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.chosen.values())).device

    def width(self, group: str) -> int:
        """How many parameters a layer has."""
        return sum(self.chosen[name].numel() for name in self.groups[group])

    def forward(self, chosen: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs (n, outputs) of a batch, for other values of the chosen parameters."""
        return model_rows(functional_call(self.model, (dict(chosen), self.rest), (x,)), len(x))

    def leaves(self) -> dict[str, Tensor]:
        """The chosen parameters as leaves of a graph of their own."""
        return {name: tensor.detach().requires_grad_() for name, tensor in self.chosen.items()}

    def sizes(self, x: Tensor) -> Sizes:
        """Run the model on the first example.

        Raises
        ------
        ValueError
            If the model does not take such examples.
        """
        item = self.dtype.itemsize
        own = {tensor.untyped_storage().data_ptr() for tensor in (*self.chosen.values(), *self.rest.values())}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                result = self.forward(self.leaves(), x[:1])
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                f"X: expected examples that the model takes, got shape {tuple(x.shape)}, {x.dtype}, on which it "
                f"fails: {error}"
            ) from error
        largest = max([result.numel() * item, x[0].numel() * item, *kept.values()])
        row = item * sum(self.width(group) for group in self.groups)
        return Sizes(result.shape[1], row, sum(kept.values()), largest)

    def fill_(self, into: Mapping[str, Tensor], x: Tensor, outputs: slice) -> None:
        """Write the gradients at a few examples.

        Parameters
        ----------
        into
            For every layer a tensor (n, outputs, parameters).
        x
            The examples, shape (n, ...).
        outputs
            Which outputs.
        """
        if self.vectorized:
            try:
                self._fill_vectorized_(into, x, outputs)
                return
            except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.vectorized = False
                reason = str(error).strip().partition("\n")[0][:120]
                announce(f"empirical tangent kernel: one backward pass for each example and output ({reason})")
        self._fill_one_by_one_(into, x, outputs)

    def _write_(self, into: Mapping[str, Tensor], index: int | slice, gradients: Mapping[str, Tensor | None]) -> None:
        for group, names in self.groups.items():
            offset = 0
            for name in names:
                size, gradient = self.chosen[name].numel(), gradients[name]
                place = into[group][index][..., offset : offset + size]
                place.zero_() if gradient is None else place.copy_(gradient.reshape(place.shape))
                offset += size

    def _fill_vectorized_(self, into: Mapping[str, Tensor], x: Tensor, outputs: slice) -> None:
        def one(chosen: dict[str, Tensor], example: Tensor) -> Tensor:
            return self.forward(chosen, example.unsqueeze(0))[0, outputs]

        with warnings.catch_warnings():  # operators that vmap runs one example at a time: right, only slower
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            gradients = vmap(jacrev(one), in_dims=(None, 0))(self.chosen, x)
        self._write_(into, slice(None), gradients)

    def _fill_one_by_one_(self, into: Mapping[str, Tensor], x: Tensor, outputs: slice) -> None:
        leaves = self.leaves()
        for i in range(len(x)):
            with torch.enable_grad():
                row = self.forward(leaves, x[i : i + 1])[0, outputs].unbind()
            example = {group: part[i] for group, part in into.items()}
            for k, output in enumerate(row):
                found: tuple[Tensor | None, ...] = (None,) * len(leaves)
                if output.requires_grad:
                    found = torch.autograd.grad(output, list(leaves.values()), retain_graph=True, allow_unused=True)
                self._write_(example, k, dict(zip(leaves, found, strict=True)))

    def buffer(self, examples: int, outputs: int) -> dict[str, Tensor]:
        """Room for the gradients of so many examples and outputs, one flat tensor for each layer."""
        sizes = {group: examples * outputs * self.width(group) for group in self.groups}
        return {group: torch.empty(size, dtype=self.dtype, device=self.device) for group, size in sizes.items()}

    def rows(self, x: Tensor, outputs: slice, buffer: Mapping[str, Tensor], at_once: int) -> dict[str, Tensor]:
        """The gradients (n, outputs, parameters) of every layer, in `buffer`, a few examples at once."""
        count = outputs.stop - outputs.start
        views = {}
        for group, flat in buffer.items():
            shape = (len(x), count, self.width(group))
            views[group] = flat[: math.prod(shape)].view(shape)
        for start in range(0, len(x), at_once):
            part = slice(start, start + at_once)
            self.fill_({group: view[part] for group, view in views.items()}, x[part], outputs)
        return views

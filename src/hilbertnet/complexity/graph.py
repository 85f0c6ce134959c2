"""A network as a graph of steps whose norms can be bounded one by one.

torch.export lists what the network does to one example, with the place of each operation in the modules; control flow
that depends on shapes alone is no obstacle. Constants are computed here, in double precision: buffers that normalize,
weights of pooling, weights under a parametrization. What is not known to be bounded becomes a step that says so.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from hilbertnet.complexity.operations import Step, step_of
from hilbertnet.signals import is_count

__all__ = ["Step", "trace"]


def check_model(model: nn.Module) -> None:
    """Refuse what is no module in evaluation mode with weights in single or double precision."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if module.training:
            where = f" (module {name!r})" if name else ""
            raise ValueError(f"model: expected evaluation mode, got training mode{where}; call model.eval() first")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_complex() or tensor.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"model: expected weights in single or double precision, got {tensor.dtype} at {name!r}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"model: expected finite weights, got others at {name!r}")


def trace(model: nn.Module, input_shape: Sequence[int]) -> list[Step]:
    """The steps of a network from one input (channels, *space) to its output; the last step gives the output.

    Batch normalization is folded into the convolution or linear layer before it, padding into the convolution after it.

    Raises
    ------
    ValueError
        If the model is in training mode, not in single or double precision, does not take inputs of this shape, or
        cannot be traced (control flow that depends on the numbers).
    """
    check_model(model)
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or len(shape) > 4 or not all(map(is_count, shape)):
        raise ValueError(f"input_shape: expected (channels, *space), positive whole numbers, got {input_shape!r}")
    double = copy.deepcopy(model).to("cpu", torch.float64).requires_grad_(False)
    example = torch.zeros(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        try:
            double(example)
        except Exception as error:  # whatever the model says to inputs that it does not take
            raise ValueError(f"input_shape: the model does not take {shape} ({_first_line(error)})") from None
        try:
            program = torch.export.export(double, (example,), strict=False)
        except Exception as error:  # whatever the model does that a graph cannot say
            recurrent = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.RNNBase)]
            why = f"no bound is known of module {recurrent[0][0]!r}, {recurrent[0][1]}" if recurrent else None
            raise ValueError(
                f"model: {why or f'torch.export cannot list its operations ({_first_line(error)})'}"
            ) from None
        steps = _Reader(program).read()
    return _pruned(_fold_norms(_fold_pads(steps)))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_MAYBE_VIEWS = ("shape", "unbounded")  # all other steps make new maps


class _Reader:
    """Turns the nodes of an exported program into steps, and computes those that depend on no input."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.constants: dict[fx.Node, Any] = {}
        self.index: dict[fx.Node, int] = {}
        self.steps: list[Step] = []

    def read(self) -> list[Step]:
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, specs[node.name])
            elif node.op == "output":
                self._finish(node)
            elif node.op == "get_attr":
                self.constants[node] = operator.attrgetter(str(node.target))(self.program.graph_module)
            elif not any(source in self.index for source in node.all_input_nodes) and not _is_random(node):
                self._constant(node)
            elif node.target is not torch.ops.aten._assert_tensor_metadata.default:
                self._append(node)
        return self.steps

    def _append(self, node: fx.Node) -> None:
        step = self._step(node)
        schema = getattr(node.target, "_schema", None)
        names: list[fx.Node] = []
        if schema is not None and schema.is_mutable:  # in place
            assert isinstance(node.args[0], fx.Node)
            names = self._names_of(node.args[0])
        viewed = len({self.index.get(name) for name in names}) > 1 or any(name in self.constants for name in names)
        if viewed:
            step = replace(step, kind="unbounded", reason="it changes in place what has other names")
        self.index[node] = len(self.steps)
        self.steps.append(step)
        for name in names:
            self.constants.pop(name, None)
            self.index[name] = self.index[node]
            if viewed:  # whatever each of them is now
                self.index[name] = len(self.steps)
                self.steps.append(replace(step, inputs=(self.index[node],), shape=_shape_of(name)))

    def _names_of(self, changed: fx.Node) -> list[fx.Node]:
        """The nodes that may share their memory with one: those that views, or what may be views, lead to."""
        if changed in self.constants:
            place = _memory(self.constants[changed])
            return [node for node, value in self.constants.items() if _memory(value) == place]
        root = self._owner(self.index[changed])
        return [node for node, index in self.index.items() if self._owner(index) == root]

    def _owner(self, index: int) -> int:
        while self.steps[index].kind in _MAYBE_VIEWS and self.steps[index].inputs:
            index = self.steps[index].inputs[0]
        return index

    def _placeholder(self, node: fx.Node, spec: Any) -> None:
        if spec.kind.name == "USER_INPUT":
            self.index[node] = len(self.steps)
            self.steps.append(Step("", "input", "input", (), _shape_of(node)))
        else:
            store = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
            self.constants[node] = store[spec.target]

    def _constant(self, node: fx.Node) -> None:
        assert callable(node.target)
        values = fx.map_arg((node.args, node.kwargs), lambda source: self.constants[source])
        self.constants[node] = node.target(*values[0], **values[1])

    def _finish(self, node: fx.Node) -> None:
        outputs = node.args[0]
        sources = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        if len(sources) != 1 or sources[0] not in self.index:
            raise ValueError("model: expected one output that depends on the input, shape (n, outputs)")
        assert isinstance(sources[0], fx.Node)
        last = self.index[sources[0]]
        if last != len(self.steps) - 1:  # the steps after it play no part
            self.steps = self.steps[: last + 1]

    # --- one node

    def _step(self, node: fx.Node) -> Step:
        name = _name(node)
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        inputs = tuple(self.index[source] for source in node.all_input_nodes if source in self.index)
        shape = _shape_of(node)
        step = Step(stack[-1][0] if stack else "", name, "unbounded", inputs, shape, reason="no bound of it is known")
        if _is_random(node) and not inputs:
            return replace(step, reason="it draws random numbers in evaluation mode")
        arguments = fx.map_arg((node.args, dict(node.kwargs)), lambda source: self.constants.get(source, None))
        positional, keywords = list(arguments[0]), dict(arguments[1])
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return replace(step, reason="it has more than one output, or none of real numbers")
        if not shape or value.shape[0] != 1:
            return replace(step, reason="it moves the axis of examples")
        sizes = [self.steps[i].shape for i in inputs]
        if name in ("add", "sub", "neg", "rsub"):
            return self._sum(step, node, positional, keywords)
        if name == "cat":
            return self._cat(step, node)
        if len(inputs) != 1:
            return replace(step, reason="it combines more than one map, in another way than by adding them")
        return step_of(step, node, positional, keywords, sizes[0])

    def _cat(self, step: Step, node: fx.Node) -> Step:
        sources = node.args[0]
        assert isinstance(sources, Sequence)
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if not all(source in self.index for source in sources) or not isinstance(axis, int):
            return replace(step, reason="it joins maps and constants")
        if axis % (len(step.shape) + 1) == 0:
            return replace(step, reason="it joins examples")
        inputs = tuple(self.index[source] for source in sources if isinstance(source, fx.Node))
        return replace(step, kind="cat", inputs=inputs, paths=lambda p, *x: torch.cat(x, axis), reason="")

    def _sum(self, step: Step, node: fx.Node, positional: list[Any], keywords: dict[str, Any]) -> Step:
        if float(keywords.get("alpha", 1)) != 1 or len(positional) > 2:
            return replace(step, reason="it has a factor beside the sum")
        if len(step.inputs) == 1:
            if step.operation != "neg" and node.args[0] is node.args[1]:  # x + x, x - x
                return replace(step, kind="add", inputs=step.inputs * 2, paths=lambda p, x, y: x + y, reason="")
            kept = replace(step, kind="shift", paths=lambda p, x: x.expand(x.shape[0], *step.shape), reason="")
            if self.steps[step.inputs[0]].shape != step.shape:
                return replace(step, reason="it repeats entries")
            constants = [value for value in positional if isinstance(value, Tensor | int | float)]
            return replace(kept, bias=torch.as_tensor(constants[0], dtype=torch.float64) if constants else None)
        if any(self.steps[i].shape != step.shape for i in step.inputs):
            return replace(step, reason="it adds maps of different shapes")
        return replace(step, kind="add", paths=lambda p, x, y: x + y, reason="")


# --- folding


def _users(steps: list[Step]) -> list[int]:
    counts = [0] * len(steps)
    for step in steps:
        for source in step.inputs:
            counts[source] += 1
    return counts


def _fold_pads(steps: list[Step]) -> list[Step]:
    """A border becomes part of the convolution after it, whose norm on the unpadded grid is the one that counts."""
    steps, users = list(steps), _users(steps)
    for i, step in enumerate(steps):
        if step.kind != "layer" or step.operation == "linear":
            continue
        before = steps[step.inputs[0]]
        own = step.layer
        assert own is not None
        if before.operation != "pad" or before.factor is None or users[step.inputs[0]] > 1:
            continue
        if any(map(any, own.padding)) and before.activation != "constant":
            continue
        added = [tuple(pair) for pair in before.factor.tolist()]
        border = tuple((a + c, b + d) for (a, b), (c, d) in zip(added, own.padding, strict=True))
        space = tuple(n - sum(pair) for n, pair in zip(own.space, added, strict=True))
        layer = replace(own, space=space, padding=border, mode=before.activation)
        steps[i] = replace(step, layer=layer, inputs=before.inputs)
    return steps


def _fold_norms(steps: list[Step]) -> list[Step]:
    """Batch normalization in evaluation mode becomes part of the layer before it."""
    steps, users = list(steps), _users(steps)
    for i, step in enumerate(steps):
        if step.operation != "batch_norm" or step.kind != "scale":
            continue
        source = step.inputs[0]
        before = steps[source]
        if before.kind != "layer" or users[source] > 1:
            continue
        assert before.layer is not None
        assert step.factor is not None
        assert step.bias is not None
        column = step.factor.view(-1, *(1,) * (before.layer.weight.ndim - 1))
        bias = step.bias + (0.0 if before.bias is None else before.bias * step.factor)
        layer = replace(before.layer, weight=before.layer.weight * column)
        operation = f"{before.operation} + batch_norm"
        steps[i] = replace(before, operation=operation, layer=layer, bias=bias)
    return steps


def _pruned(steps: list[Step]) -> list[Step]:
    """The steps that the last one needs, renumbered."""
    needed, stack = {len(steps) - 1}, [len(steps) - 1]
    while stack:
        for source in steps[stack.pop()].inputs:
            if source not in needed:
                needed.add(source)
                stack.append(source)
    order = {old: new for new, old in enumerate(sorted(needed))}
    return [replace(steps[old], inputs=tuple(order[i] for i in steps[old].inputs)) for old in sorted(needed)]


# --- nodes


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _memory(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else id(value)


def _name(node: fx.Node) -> str:
    target = node.target
    if target is operator.getitem:
        return "getitem"
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(target)
    name = schema.name.split("::")[-1]
    return name.removesuffix("_") if schema.is_mutable else name


def _shape_of(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(n) for n in value.shape[1:]) if isinstance(value, Tensor) and value.ndim else ()

"""What ``hilbertnet attack`` attacks: a run's model or a module, examples, and what is certified of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilbertnet.complexity.certificates import Certificates, LipschitzConstants, certified_radii, logit_rounding
from hilbertnet.complexity.functions import batched
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_above import norm_bounds
from hilbertnet.data import Dataset, load
from hilbertnet.data.dataset import Kind
from hilbertnet.data.reading import Reading
from hilbertnet.experiments.fit import labels_of
from hilbertnet.experiments.run_model import class_numbers, open_run
from hilbertnet.named import result_named
from hilbertnet.networks.pieces import check_counts
from hilbertnet.robustness.threats import Ball

if TYPE_CHECKING:
    from hilbertnet.estimators import CKNClassifier

__all__ = ["Certified", "Target", "certify", "read_target"]

_BATCH = 256
_SUFFIX = "give DATA: digits, mnist, cifar10, a folder of images, an .npz file or a FASTA file"


@dataclass(frozen=True, eq=False)
class Target:
    """A model with examples.

    Parameters
    ----------
    model
        In eval mode, from signals in [0, 1] to logits.
    x, y
        Signals and numbers of classes, on the device of the model.
    places
        Of the examples in their data set.
    classes
        What the classes are called, by number.
    data
        What the data set says of itself.
    part
        Which part of it these are of.
    kind
        What the examples are: ``"images"``, ``"signals"``, ``"sequences"`` or ``"rows"``.
    bounds
        (0, 1), where all numbers of the data set are; ``None`` where signals or rows have others.
    kernel
        The classifier, where its decision functions are in an RKHS.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    places: NDArray[np.int64]
    classes: tuple[str, ...]
    data: str
    part: str
    kind: Kind
    bounds: tuple[float, float] | None
    kernel: CKNClassifier | None = None

    def name_of(self, number: int) -> str:
        """Of a class."""
        return self.classes[number] if number < len(self.classes) else str(number)


@dataclass(frozen=True, eq=False)
class Certified:
    """Certificates of examples and what they rest on, or why there are none.

    Parameters
    ----------
    certificates
        Or ``None``.
    by
        ``"RKHS norm"`` or ``"operator norms"``; empty without certificates.
    reason
        Why there are none.
    """

    certificates: Certificates | None
    by: str = ""
    reason: str = ""


def read_target(
    run: str,
    data: str | None = None,
    *,
    examples: int = 200,
    seed: int = 0,
    reading: Reading | None = None,
    device: str = "cpu",
) -> Target:
    """The model of a run folder, or the module of ``"package.module:function"``, with examples.

    Parameters
    ----------
    run
        A folder that ``hilbertnet fit`` left, or the name of a function without arguments that returns a torch module.
    data
        What `hilbertnet.data.load` takes: its official test set where there is one, else all. By default what the run
        held out.
    examples
        How many, at most.
    seed
        Of their choice.
    reading
        How files are read; as the run read its own by default.
    device
        Where to compute.

    Raises
    ------
    ValueError
        If there is no such run, module or data, or they do not fit.
    """
    check_counts(examples=examples)
    if not Path(run).is_dir() and ":" in run:
        target = _of_module(run, data, reading or Reading(), device)
    else:
        target = _of_run(Path(run), data, reading, device)
    chosen = np.random.RandomState(seed).permutation(len(target.x))[:examples]
    rows = torch.from_numpy(chosen)
    return Target(
        target.model, target.x[rows].to(device), target.y[rows].to(device), target.places[chosen], target.classes,
        target.data, target.part, target.kind, target.bounds, target.kernel,
    )  # fmt: skip


def _of_run(folder: Path, source: str | None, reading: Reading | None, device: str) -> Target:
    from hilbertnet.estimators import CKNClassifier

    run = open_run(folder, device=device)
    model, data = run.classifier, run.load(source, reading)
    module = model.as_module().eval()
    if source is None:
        parts = run.partition(data)
        x, y, places, part = parts.test_x, parts.test_y, parts.test, "held out by the run"
    else:
        x, y, places, part = _part(data)
    shape = tuple(model.signal_shape_)
    if x.shape[1:] != shape:
        raise ValueError(
            f"{data.name}: expected signals of {_text(shape)}, which {folder} takes, got {_text(x.shape[1:])}"
        )
    numbers = class_numbers(model.classes_, labels_of(data, y))
    known = (numbers >= 0).numpy()
    if not known.any():
        raise ValueError(f"{data.name}: expected examples of classes that {folder} was fitted to, got none")
    return Target(
        module,
        _signals(x[known], module),
        numbers[numbers >= 0],
        places[known],
        tuple(map(str, model.classes_)),
        str(data),
        part,
        data.kind,
        _bounds(x),
        model if isinstance(model, CKNClassifier) else None,
    )


def _of_module(text: str, source: str | None, reading: Reading, device: str) -> Target:
    if source is None:
        raise ValueError(f"data: {text} has no data of its own; {_SUFFIX}")
    module = result_named("run", text)
    if not isinstance(module, nn.Module):
        raise ValueError(f"run: expected a function that returns a torch module, got {type(module).__name__}")
    data = load(source, **asdict(reading))
    x, y, places, part = _part(data)
    module = module.to(device).eval()
    signals = _signals(x, module)
    outputs = _outputs(module, signals[:1].to(device), text)
    found = np.unique(data.y)
    if outputs == 1 and len(found) == 2:
        numbers, names = np.searchsorted(found, y), labels_of(data, found)
    elif y.dtype.kind in "iu" and y.min() >= 0 and y.max() < max(outputs, 2):
        numbers, names = y, np.arange(max(outputs, 2))
        if len(data.class_names) == len(names):
            names = labels_of(data, names)
    else:
        raise ValueError(
            f"{data.name}: expected labels from 0 to {max(outputs, 2) - 1}, as {text} has "
            f"{outputs} output{'s' * (outputs > 1)}, got {found[0]} to {found[-1]}"
        )
    labels = torch.from_numpy(np.asarray(numbers, np.int64))
    return Target(module, signals, labels, places, tuple(map(str, names)), str(data), part, data.kind, _bounds(x))


def _part(data: Dataset) -> tuple[NDArray, NDArray, NDArray[np.int64], str]:
    if data.test_x is not None and data.test_y is not None:
        return data.test_x, data.test_y, np.arange(len(data.test_x)), "official test set"
    return data.x, data.y, np.arange(len(data.x)), "all examples"


def _bounds(x: NDArray) -> tuple[float, float] | None:
    return (0.0, 1.0) if x.min() >= 0 and x.max() <= 1 else None


def _signals(x: NDArray, model: nn.Module) -> Tensor:
    tensors = [*model.parameters(), *model.buffers()]
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.from_numpy(x).to(torch.float64 if double else torch.float32)


def _outputs(module: nn.Module, one: Tensor, text: str) -> int:
    try:
        return int(batched(module, one, 1).shape[1])
    except (RuntimeError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"run: {text} does not take signals of {_text(one.shape[1:])} ({reason})") from None


def _text(shape: Any) -> str:
    return " x ".join(map(str, shape))


def certify(target: Target, norm: str) -> Certified:
    """Certified radii of a target's examples, in l2 or l_inf.

    By the RKHS norms of the decision functions where they are known, else by the product of the operator norms of the
    layers. A perturbation of at most r in every one of d pixels is one of at most ``r sqrt(d)`` in l2.

    Parameters
    ----------
    target
        Model and examples.
    norm
        ``"2"`` or ``"inf"``.
    """
    pixels = target.x[0].numel()
    if target.kernel is not None and target.kernel.preprocessing_ is not None:
        return Certified(None, reason="the run preprocesses images, and its norms are of preprocessed ones")
    if target.kernel is not None:
        weight = target.kernel.head_.weight.double()
        lipschitz = embedding_lipschitz(target.kernel.network_.arch, tuple(target.x.shape[2:]))
        constants, by = LipschitzConstants.from_products(weight @ weight.T, lipschitz), "RKHS norm"
        constants = constants if norm == "2" else constants.times(math.sqrt(pixels))
    else:
        try:
            found = norm_bounds(target.model, tuple(target.x.shape[1:]))
        except ValueError as error:  # operations that torch cannot list, half precision
            return Certified(None, reason=str(error))
        if not math.isfinite(found.lipschitz.value):
            return Certified(None, reason=found.lipschitz.reason or "the Lipschitz bound is infinite")
        constants = LipschitzConstants.from_layers(found, pixels=None if norm == "2" else pixels)
        by = "operator norms"
    scores = batched(target.model, target.x, _BATCH)
    unit = Ball("2" if norm == "2" else "inf", 0.0).name
    rounding = logit_rounding(target.model, target.x, scores)
    return Certified(certified_radii(scores, target.y, constants, unit=unit, rounding=rounding), by)

"""What ``hilbertnet norms`` does: norms of a fitted run from below, exactly and as bounds; of any module from above."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hilbertnet.complexity.certificates import LipschitzConstants, certified_radii
from hilbertnet.complexity.functions import batched
from hilbertnet.complexity.generalization import MarginBound, best_margin_bound
from hilbertnet.complexity.lower_bound import LowerBounds
from hilbertnet.complexity.margins import MarginDistribution, margin_distribution, margins
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_above import NormBounds, norm_bounds
from hilbertnet.complexity.norms_below import lower_bounds
from hilbertnet.data import Dataset, load, partition
from hilbertnet.experiments.fit import labels_of
from hilbertnet.experiments.stability import call_by_name
from hilbertnet.networks.pieces import check_counts
from hilbertnet.records import RunFolder, environment, write_json
from hilbertnet.robustness.evaluation import Attacked, attacked_accuracy
from hilbertnet.robustness.threats import Ball
from hilbertnet.text import columns

if TYPE_CHECKING:
    from hilbertnet.estimators import CKNClassifier

__all__ = ["RunNorms", "module_norms", "run_norms", "write_norms"]

_BATCH = 256


class Decision(nn.Module):
    """The decision values of a run's model, of preprocessed images."""

    def __init__(self, model: CKNClassifier) -> None:
        super().__init__()
        self.network, self.head = model.network_, model.head_

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, outputs)."""
        return self.head.scores(self.network(x).flatten(1))


@dataclass(frozen=True)
class RunNorms:
    """Norms of a run's decision functions ``f_k = <g_k, Phi(.)> + b_k``; ``print`` it.

    Parameters
    ----------
    classes
        Names of the outputs.
    norms
        ``||g_k||``, shape (outputs,): the RKHS norm of f_k without its constant.
    biases
        Shape (outputs,).
    lipschitz
        Upper bound of the Lipschitz constant of Phi, in the l2 norm of preprocessed images.
    output
        Which output `below` is of: that of the largest norm.
    below
        Lower bounds of its norm on held-out examples.
    distribution, bound
        Of the margins of training examples.
    attacked
        Of held-out examples, with their certificates.
    """

    classes: tuple[str, ...]
    norms: Tensor
    biases: Tensor
    lipschitz: float
    output: int
    below: LowerBounds
    distribution: MarginDistribution
    bound: MarginBound
    attacked: Attacked

    def __str__(self) -> str:
        head = ["decision function", "||g||", "bias", "Lipschitz constant at most"]
        values = zip(self.classes, self.norms.tolist(), self.biases.tolist(), strict=True)
        rows = [[name, f"{norm:.4g}", f"{bias:.3g}", f"{norm * self.lipschitz:.4g}"] for name, norm, bias in values]
        parts = [
            f"RKHS norms in the network's own kernel; Phi is {self.lipschitz:.4g}-Lipschitz\n{columns([head, *rows])}",
            f"from below, on held-out examples: {self.classes[self.output]}\n{self.below}",
            f"training examples\n{self.distribution}",
            str(self.bound),
            f"held-out examples, l2 perturbations\n{self.attacked}",
        ]
        if self.attacked.certificates is not None:
            parts.append(str(self.attacked.certificates))
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        certified = self.attacked.certified
        return {
            "classes": list(self.classes),
            "norms": self.norms.tolist(),
            "biases": self.biases.tolist(),
            "lipschitz": self.lipschitz,
            "below": {"output": self.classes[self.output], **self.below.to_dict()},
            "margin_bound": {"value": self.bound.value, "gamma": self.bound.gamma, "terms": dict(self.bound.terms)},
            "radii": list(self.attacked.radii),
            "attacked": [one._asdict() for one in self.attacked.accuracy],
            "certified": None if certified is None else [one._asdict() for one in certified],
        }


def run_norms(
    folder: Path,
    *,
    examples: int = 200,
    radii: tuple[float, ...] = (0.1, 0.3, 1.0),
    seed: int = 0,
    device: str = "cpu",
) -> RunNorms:
    """Norms, bounds and certificates of a finished run, on its own data.

    Parameters
    ----------
    folder
        What ``hilbertnet fit`` left.
    examples
        How many held-out ones are looked at, at most.
    radii
        Of l2 balls around preprocessed images, increasing.
    seed
        Of attacks and searches.
    device
        Where to compute.

    Raises
    ------
    ValueError
        If there is no finished run, or its data cannot be had.
    """
    from hilbertnet.estimators import CKNClassifier
    from hilbertnet.stability import as_representation

    check_counts(examples=examples)
    run = RunFolder(folder)
    if not run.finished:
        raise ValueError(f"run: {folder} is no finished run")
    settings = run.read_record()["settings"]
    model = CKNClassifier.load(run.checkpoint_path, device=device)
    data = load(settings["data"], size=_size(settings), channels=settings["channels"])
    parts = partition(data, held_out=settings["held_out"], seed=settings["seed"], train=settings["train"])
    train, train_y = _prepared(model, parts.train_x), _labels(model, data, parts.train_y)
    chosen = np.random.RandomState(seed).permutation(len(parts.test_x))[:examples]
    test, test_y = _prepared(model, parts.test_x[chosen]), _labels(model, data, parts.test_y[chosen])
    net, known = Decision(model), (test_y >= 0)
    test, test_y = test[known], test_y[known]
    products = model.head_.weight.double() @ model.head_.weight.double().T
    norms, biases = products.diagonal().clamp(min=0).sqrt().cpu(), model.head_.bias.double().cpu()
    lipschitz, output = embedding_lipschitz(model.network_.arch, tuple(test.shape[2:])), int(norms.argmax())
    scores, diagonal = _scores_and_diagonal(net, train)
    held = batched(net, test, _BATCH)
    constants = LipschitzConstants.from_products(products, lipschitz)
    # the constant is the function of norm |b| of one feature more, 1 for every example
    whole = float((norms.square() + biases.square()).sum().sqrt())
    threat = Ball("2", max(radii), None)  # preprocessed images know no range
    attacked = attacked_accuracy(
        net, test, test_y, threat, radii,
        certificates=certified_radii(held, test_y, constants), generator=seed,
    )  # fmt: skip
    return RunNorms(
        classes=_names(model),
        norms=norms,
        biases=biases,
        lipschitz=lipschitz,
        output=output,
        below=lower_bounds(
            net, test, lipschitz=lipschitz, representation=as_representation(model.network_), output=output,
            exact=float(norms[output]), generator=seed,
        ),
        distribution=margin_distribution(scores, train_y, {"||f||": whole}),
        bound=best_margin_bound(margins(scores, train_y), whole, diagonal + 1, outputs=len(norms)),
        attacked=attacked,
    )  # fmt: skip


@torch.no_grad()
def _scores_and_diagonal(net: Decision, x: Tensor) -> tuple[Tensor, Tensor]:
    """Decision values and K(x_i, x_i), from one pass through the network."""
    scores, diagonal = [], []
    for part in x.split(_BATCH):
        features = net.network(part).flatten(1)
        scores.append(net.head.scores(features))
        diagonal.append(features.square().sum(1))
    return torch.cat(scores), torch.cat(diagonal)


def _size(settings: dict[str, Any]) -> tuple[int, int] | None:
    size = settings["size"]
    return None if size is None else (size[0], size[1])


def _prepared(model: CKNClassifier, x: Any) -> Tensor:
    signals = torch.from_numpy(x).to(model.network_.dtype)
    return signals if model.preprocessing_ is None else model.preprocessing_(signals).to(model.network_.dtype)


def _labels(model: CKNClassifier, data: Dataset, y: Any) -> Tensor:
    """Places among the model's classes, -1 for others."""
    labels = labels_of(data, y)
    places = np.searchsorted(model.classes_, labels).clip(max=len(model.classes_) - 1)
    return torch.from_numpy(np.where(model.classes_[places] == labels, places, -1))


def _names(model: CKNClassifier) -> tuple[str, ...]:
    names = [str(name) for name in model.classes_]
    return (f"{names[1]} against {names[0]}",) if len(model.head_.weight) == 1 else tuple(names)


def module_norms(text: str, shape: tuple[int, ...]) -> NormBounds:
    """Norms from above of the module that ``"package.module:function"`` returns, for inputs of a shape.

    Parameters
    ----------
    text
        Of a function without arguments.
    shape
        (channels, *space) of one input.

    Raises
    ------
    ValueError
        If it cannot be called, or returns no module that can be bounded.
    """
    model = call_by_name("run", text)
    if not isinstance(model, nn.Module):
        raise ValueError(f"run: expected a function that returns a torch module, got {type(model).__name__}")
    return norm_bounds(model.eval(), shape)


def write_norms(path: Path, found: RunNorms) -> None:
    """Write the numbers as JSON."""
    write_json(path, {**found.to_dict(), **environment()})

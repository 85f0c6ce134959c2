"""Small networks trained with a regularizer, as the experiments on few examples and on robustness share them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hilbertnet.complexity.data_bounds import gradient_bound
from hilbertnet.complexity.functions import batched
from hilbertnet.complexity.norms_above import norm_bounds
from hilbertnet.data import Augmentation, Dataset, load, partition
from hilbertnet.data.splits import subset
from hilbertnet.networks import PlainCNN, mnist_net, vgg
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress
from hilbertnet.records import finite
from hilbertnet.regularization import Regularizer
from hilbertnet.regularization.regularizer import BoundRegularizer
from hilbertnet.robustness import pgd
from hilbertnet.text import nearest
from hilbertnet.training import Data, Epoch, Recipe, classification_loss, train

__all__ = [
    "ATTACK",
    "Network",
    "Parts",
    "best_of",
    "bounds_of",
    "cost_of_step",
    "leaders",
    "read_parts",
    "regularizer_of",
]

ATTACK = partial(pgd, steps=20, targets=2)
"""Of these networks: ascents of the margin from the image, and towards the two likeliest wrong classes."""

_KINDS: dict[str, Callable[..., PlainCNN]] = {"mnist_net": mnist_net, "vgg": vgg}
_TIMED = 15  # steps of each kind


class Parts(NamedTuple):
    """Training, validation and test examples, each signals and numbers of classes, and how many classes there are."""

    data: Dataset
    train: Data
    validation: Data
    test: Data
    classes: int


def read_parts(name: str, train: int, validation: int, seed: int, device: str) -> Parts:
    """Examples for one seed: the test set is the official one, or a third; the others are drawn from the rest.

    Parameters
    ----------
    name
        What `hilbertnet.data.load` takes.
    train, validation
        How many examples, stratified by class.
    seed
        Of the draws; a held-out third is the same for all seeds.
    device
        Where the tensors are to be.

    Raises
    ------
    ValueError
        If there are not as many.
    """
    check_counts(train=train, validation=validation)
    data = load(name)
    whole = partition(data, held_out=None, seed=0, train=None)
    x, y = whole.train_x, whole.train_y
    both = subset(y, min(train + validation, len(y)), seed)
    if len(both) < train + validation:
        raise ValueError(
            f"train, validation: expected at most {len(both):,} together, got {train:,} and {validation:,}"
        )
    first = subset(y[both], train, seed)
    rest = np.setdiff1d(np.arange(len(both)), first)
    places = {"train": both[first], "validation": both[rest]}
    parts = {key: (_tensor(x[where], device), _labels(y[where], device)) for key, where in places.items()}
    test = (_tensor(whole.test_x, device), _labels(whole.test_y, device))
    return Parts(data, parts["train"], parts["validation"], test, int(y.max()) + 1)


def _tensor(x: Any, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)


def _labels(y: Any, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(y, dtype=np.int64)).to(device)


def regularizer_of(text: str) -> Regularizer:
    """The regularizer of a text form; an empty text is none."""
    return Regularizer.parse(text) if text else Regularizer()


@dataclass(frozen=True)
class Network:
    """The plain network of the small experiments and how it is trained: stochastic gradients with momentum 0.9.

    Parameters
    ----------
    width, depth
        See `hilbertnet.networks.mnist_net`, or `hilbertnet.networks.vgg`.
    epochs, batch_size, learning_rate
        Of the training.
    halved
        How often the learning rate is halved, at equal distances.
    kind
        ``"mnist_net"`` or ``"vgg"``.
    augmentation
        Text form of random changes of training images, or ``None``.

    Raises
    ------
    ValueError
        If there is no such kind of network.
    """

    width: int = 16
    depth: int = 2
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 0.05
    halved: int = 6
    kind: str = "mnist_net"
    augmentation: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"network: expected {' or '.join(_KINDS)}, got {self.kind!r}{nearest(self.kind, _KINDS)}")

    def new(self, parts: Parts, seed: int) -> PlainCNN:
        """An untrained network, on the device of the data."""
        x = parts.train[0]
        mean, std = x.mean(dim=(0, 2, 3)).tolist(), x.std(dim=(0, 2, 3)).clamp(min=1e-6).tolist()
        net = _KINDS[self.kind](
            x.shape[1], parts.classes, width=self.width, depth=self.depth, size=x.shape[2], mean=mean, std=std,
            generator=seed,
        )  # fmt: skip
        return net.to(x.device)

    def optimizer(self, net: nn.Module) -> torch.optim.SGD:
        """Of its parameters."""
        return torch.optim.SGD(net.parameters(), lr=self.learning_rate, momentum=0.9)

    def fit(self, parts: Parts, text: str, seed: int, progress: Progress = False) -> tuple[PlainCNN, list[Epoch]]:
        """A network trained with a regularizer, as after its best epoch on the validation examples.

        Raises
        ------
        DivergedError
            If the loss of a batch is not finite.
        """
        net = self.new(parts, seed)
        optimizer = self.optimizer(net)
        every = max(1, self.epochs // (self.halved + 1))
        bound = regularizer_of(text).bind(parts.train[0], seed)
        history = train(
            net, parts.train, parts.validation, optimizer,
            Recipe(self.epochs, self.batch_size, seed, clip=5.0, evaluate_every=max(1, self.epochs // 15)),
            schedule=torch.optim.lr_scheduler.StepLR(optimizer, every, 0.5),
            objective=bound.objective, validation_objective=classification_loss(), penalty=bound.penalty,
            constraint=bound.constraint, progress=progress,
            augment=None if self.augmentation is None else Augmentation.parse(self.augmentation),
        )  # fmt: skip
        return net, history


def best_of(history: list[Epoch]) -> float:
    """The validation accuracy that selected the epoch."""
    return max(epoch.validation_accuracy or 0.0 for epoch in history)


def bounds_of(net: PlainCNN, x: Tensor) -> dict[str, float | None]:
    """How steep the network's differences of logits are: at most, and at least, by the data.

    ``above`` is a bound of the Lipschitz constant of the difference of any two logits, from the operator norms of its
    layers; ``below`` is ``sup ||grad (f_j - f_k)||`` over the signals `x`, for the two likeliest classes of each. Both
    are of the RKHS norm in a non-expansive kernel, from below, and of what an adversary can gain per unit of l2.
    """
    found = norm_bounds(net, net.shape)
    below = 0.0
    for pair, part in leaders(net, x).items():
        below = max(below, gradient_bound(net, part, lipschitz=1.0, output=pair).value)
    return {"above": finite(float(found.lipschitz_differences.max())), "below": below}


def leaders(net: PlainCNN, x: Tensor) -> dict[int | tuple[int, int], Tensor]:
    """Signals by their two likeliest classes; all under the one output of a network of two classes."""
    scores = batched(net, x, 512)
    if scores.shape[1] == 1:
        return {0: x}
    pairs = scores.topk(2, dim=1).indices
    return {(int(j), int(k)): x[(pairs == pairs.new_tensor([j, k])).all(1)] for j, k in pairs.unique(dim=0).tolist()}


def cost_of_step(network: Network, parts: Parts, text: str, seed: int) -> float:
    """Time of a step with the regularizer over that of a plain step, medians of steps taken in turn."""
    plain, regularized = (_Steps(network, parts, one, seed) for one in ("", text))
    times: dict[int, list[float]] = {0: [], 1: []}
    for i in range(_TIMED + 2):
        for which, steps in enumerate((plain, regularized)):
            spent = _timed(steps.step)
            if i >= 2:
                times[which].append(spent)
    return statistics.median(times[1]) / statistics.median(times[0])


class _Steps:
    """Steps of one training, on the same batch."""

    def __init__(self, network: Network, parts: Parts, text: str, seed: int) -> None:
        self.net = network.new(parts, seed)
        self.optimizer = network.optimizer(self.net)
        self.bound: BoundRegularizer = regularizer_of(text).bind(parts.train[0], seed)
        self.x, self.y = (part[: network.batch_size] for part in parts.train)

    def step(self) -> None:
        loss, _ = self.bound(self.net, self.x, self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.bound.project_(self.net, 0)


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started

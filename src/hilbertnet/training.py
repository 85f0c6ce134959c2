"""The training loop: epochs of shuffled batches, a validation-selected epoch, a checkpoint after every epoch.

    for epoch:  before_epoch -> for batch: augment, loss + penalty, backward, clip, step, project -> validate -> keep

Random numbers come from the seed and the number of the epoch, so that a run that was interrupted goes on, from the end
of its last whole epoch, to the same bytes (on the CPU, with the same number of threads).
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hilbertnet.losses import Loss, decide, losses, signs
from hilbertnet.progress import Progress, track
from hilbertnet.protocols import Constraint, Penalty
from hilbertnet.records import digest
from hilbertnet.states import load_state, save_state

__all__ = ["DivergedError", "Epoch", "Recipe", "classification_loss", "evaluate", "train"]

Data = tuple[Tensor, Tensor]
Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
_KIND = "unfinished training"


class DivergedError(ValueError):
    """The loss of a batch is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How long and in what portions to train.

    Parameters
    ----------
    epochs
        Passes over the training data, at most.
    batch_size
        Examples in a batch; the last batch of an epoch may have fewer.
    seed
        Of the order of examples, of augmentation and of whatever is random in the model.
    clip
        Largest norm of the gradient, or ``None``.
    patience
        Stop after so many evaluations in a row that are no better, or ``None``.
    evaluate_every
        Epochs between two evaluations; the last epoch is always evaluated.
    precision
        ``"float32"`` (the model's own dtype), or ``"bfloat16"`` or ``"float16"`` for mixed precision by autocast.

    Raises
    ------
    ValueError
        If a number is not positive, or the precision unknown.
    """

    epochs: int
    batch_size: int = 128
    seed: int = 0
    clip: float | None = None
    patience: int | None = None
    evaluate_every: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "clip", "patience", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision: expected float32, bfloat16 or float16, got {self.precision!r}")


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch; accuracies in [0, 1], ``None`` where nothing was evaluated."""

    number: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float

    def better_than(self, other: Epoch | None) -> bool:
        """Whether validation says so: by accuracy, ties by loss."""
        if self.validation_accuracy is None or self.validation_loss is None:
            return False
        if other is None or other.validation_accuracy is None or other.validation_loss is None:
            return True
        mine = (self.validation_accuracy, -self.validation_loss)
        return mine > (other.validation_accuracy, -other.validation_loss)


def classification_loss(loss: Loss = "logistic") -> Objective:
    """The mean loss of a batch and the decision values, as `train` takes them.

    Parameters
    ----------
    loss
        ``"logistic"``, ``"squared_hinge"`` or ``"ridge"``; one output stands for two classes.
    """

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scores = model(x)
        wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
        return losses(loss, wide, signs(y, scores.shape[1], wide.dtype)).mean(), wide

    return objective


def train(
    model: nn.Module,
    data: Data,
    validation: Data | None,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    schedule: Any = None,
    objective: Objective | None = None,
    penalty: Penalty | None = None,
    constraint: Constraint | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    before_epoch: Callable[[nn.Module, int], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = None,
) -> list[Epoch]:
    """Train `model` in place, and leave it as it was after its best epoch, in eval mode.

    Parameters
    ----------
    model
        Maps a batch to decision values (n, outputs); one output stands for two classes.
    data, validation
        Signals (n, ...) and numbers of classes (n,), on any device: batches go to the model's. Without `validation` the
        last epoch is kept.
    optimizer
        Any of torch's, on the model's parameters.
    recipe
        Epochs, batches, seed, clipping, precision.
    schedule
        Any of ``torch.optim.lr_scheduler``, stepped after every epoch, or ``None``.
    objective
        From model, signals and labels to mean loss and decision values; default `classification_loss`.
    penalty, constraint
        Added to the loss of every batch; projected onto after every step.
    augment
        From a batch and a generator to another batch of that shape.
    before_epoch
        Called with model and epoch, from 0, in the order of epochs.
    checkpoint
        A file kept while the training lasts, from which the same call goes on; removed at the end.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total) epochs.

    Returns
    -------
    list of Epoch
        The record of every epoch.

    Raises
    ------
    DivergedError
        If the loss of a batch is not finite; the message names epoch and batch.
    ValueError
        If the data are not as many labels as signals, or `checkpoint` is of another training.
    """
    _check(data, "data")
    if validation is not None:
        _check(validation, "validation")
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "penalty": penalty}
    scaler = torch.amp.GradScaler(enabled=recipe.precision == "float16" and _device(model).type == "cuda")
    run = _Run(model, optimizer, recipe, objective or classification_loss(), penalty, constraint, augment, scaler)
    kept = _Checkpoint(checkpoint, {**parts, "scaler": scaler}, _identity(model, data, validation, optimizer, recipe))
    history = kept.history
    for number in track(range(recipe.epochs), progress, label="epochs"):
        if number < len(history):
            continue
        if _ended(history, recipe.patience):
            break
        if before_epoch is not None:
            before_epoch(model, number)
        started, rate = time.perf_counter(), optimizer.param_groups[0]["lr"]
        loss, accuracy = run.epoch(data, number)
        if schedule is not None:
            schedule.step()
        due = (number + 1) % recipe.evaluate_every == 0 or number + 1 == recipe.epochs
        held_loss, held_accuracy = None, None
        if validation is not None and due:
            held_loss, held_accuracy = evaluate(model, validation, run.objective)
        seconds = time.perf_counter() - started
        history.append(Epoch(number, rate, loss, accuracy, held_loss, held_accuracy, seconds))
        kept.keep()
    kept.restore_best()
    kept.remove()
    model.eval()
    return history


@dataclass
class _Run:
    """What an epoch needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    objective: Objective
    penalty: Penalty | None
    constraint: Constraint | None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    scaler: torch.amp.GradScaler

    def epoch(self, data: Data, number: int) -> tuple[float, float]:
        """One pass over the data: mean loss and accuracy of its batches, each before its step."""
        x, y = data
        device, total, right = _device(self.model), 0.0, 0
        self.model.train()
        with _seeded(self.recipe.seed, number) as generator:
            order = torch.randperm(len(x), generator=generator)
            for batch, indices in enumerate(order.split(self.recipe.batch_size)):
                part, labels = x[indices.to(x.device)].to(device), y[indices.to(y.device)].to(device)
                if self.augment is not None:
                    part = self.augment(part, generator)
                try:
                    loss, whole, scores = self._losses(part, labels)
                except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # parameters are not finite
                    raise self._diverged(str(error).partition(":")[0], number, batch, indices) from None
                if not torch.isfinite(whole):
                    raise self._diverged(str(whole.item()), number, batch, indices)
                self._move(whole, number)
                total += loss.item() * len(part)
                right += int((decide(scores) == labels).sum())
        return total / len(x), right / len(x)

    def _losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's loss, the same with its penalty, and the decision values."""
        with _autocast(self.recipe.precision, x.device):
            loss, scores = self.objective(self.model, x, y)
            whole = loss if self.penalty is None else loss + self.penalty(self.model, x, y, scores)
        return loss.detach(), whole, scores.detach()

    def _move(self, whole: Tensor, number: int) -> None:
        """Back-propagate, clip, step and project."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(whole).backward()
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.constraint is not None:
            self.constraint.project_(self.model, number)

    def _diverged(self, found: str, number: int, batch: int, indices: Tensor) -> DivergedError:
        rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
        first = ", ".join(map(str, indices[:5].tolist()))
        return DivergedError(
            f"epoch {number}, batch {batch} (examples {first}, ...): expected a finite loss, got {found}; "
            f"lower the learning rate ({rates}) or clip the gradient"
        )


class _Checkpoint:
    """History, best state, and the state of all parts, in a file if there is one."""

    def __init__(self, file: str | os.PathLike[str] | None, parts: dict[str, Any], identity: dict[str, Any]) -> None:
        self.file, self.identity = file, identity
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None
        self.best_epoch: Epoch | None = None
        if file is not None and os.path.exists(file):
            self._read()

    def _read(self) -> None:
        state = load_state(str(self.file), _KIND)
        try:
            self._restore(state)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"checkpoint: {self.file} is damaged ({error!r}); remove it") from None

    def _restore(self, state: dict[str, Any]) -> None:
        changed = [name for name, value in self.identity.items() if state["identity"].get(name) != value]
        if changed:
            raise ValueError(
                f"checkpoint: {self.file} holds an unfinished training of other {', '.join(changed)}; "
                "choose another file, or remove it"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        for epoch in self.history:
            if epoch.better_than(self.best_epoch):
                self.best_epoch = epoch
        self.best = state["best"]

    def keep(self) -> None:
        """Note the epoch that has ended."""
        if self.history[-1].better_than(self.best_epoch):
            self.best, self.best_epoch = copy.deepcopy(self.parts["model"].state_dict()), self.history[-1]
        if self.file is not None:
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            history = [asdict(epoch) for epoch in self.history]
            state = {"identity": self.identity, "history": history, "best": self.best, "parts": parts}
            save_state(self.file, state, _KIND)

    def restore_best(self) -> None:
        """Leave the model as it was after its best epoch; as it is where nothing was evaluated."""
        if self.best is not None:
            self.parts["model"].load_state_dict(self.best)

    def remove(self) -> None:
        """The training is finished."""
        if self.file is not None and os.path.exists(self.file):
            os.unlink(self.file)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Data, objective: Objective | None = None, *, batch_size: int = 512
) -> tuple[float, float]:
    """Mean loss and accuracy on `data`, in eval mode; every module's mode is left as it was.

    Parameters
    ----------
    model
        Maps a batch to decision values (n, outputs).
    data
        Signals (n, ...) and numbers of classes (n,).
    objective
        As for `train`.
    batch_size
        Signals at a time.
    """
    x, y = data
    objective, device = objective or classification_loss(), _device(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, right = 0.0, 0
    try:
        for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            labels = labels.to(device)
            loss, scores = objective(model, part.to(device), labels)
            total += loss.item() * len(part)
            right += int((decide(scores) == labels).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    return total / len(x), right / len(x)


def _check(data: Data, name: str) -> None:
    x, y = data
    if not len(x) or y.shape != (len(x),) or y.is_floating_point():
        raise ValueError(
            f"{name}: expected signals (n, ...) and n whole numbers of classes, n > 0, got {tuple(x.shape)} and "
            f"{tuple(y.shape)} {y.dtype}"
        )


def _identity(
    model: nn.Module, data: Data, validation: Data | None, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> dict[str, Any]:
    """What must be the same for a training to go on."""
    groups = [{key: repr(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {
        "model": {name: list(value.shape) for name, value in model.state_dict().items()},
        "data": [digest(part) for part in data],
        "validation": None if validation is None else [digest(part) for part in validation],
        "optimizer": {"name": type(optimizer).__name__, "groups": groups},
        "recipe": {name: value for name, value in asdict(recipe).items() if name != "epochs"},
        "threads": torch.get_num_threads(),
    }


def _ended(history: list[Epoch], patience: int | None) -> bool:
    """Whether the last evaluations were no better than one before them."""
    if patience is None:
        return False
    best, since = None, 0
    for epoch in history:
        if epoch.validation_accuracy is None:
            continue
        best, since = (epoch, 0) if epoch.better_than(best) else (best, since + 1)
    return since >= patience


def _device(model: nn.Module) -> torch.device:
    return next(iter(model.parameters())).device


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """A generator of this epoch's own; torch's global one, for what is random in the model, is put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(1_000_003 * seed + epoch)
        yield torch.Generator().manual_seed(1_000_003 * seed + epoch)

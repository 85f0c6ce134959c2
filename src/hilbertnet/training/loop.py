"""The training loop: epochs of shuffled batches, a validation-selected epoch, a checkpoint after every epoch.

    for epoch:  before_epoch -> for batch: augment, loss + penalty, backward, clip, step, project -> validate -> keep

Random numbers come from the seed and the number of the epoch, so that a run that was interrupted goes on, from the end
of its last whole epoch, to the same bytes (on the CPU, with the same number of threads).
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.losses import decide
from hilbertnet.progress import Progress, track
from hilbertnet.protocols import Constraint, Penalty
from hilbertnet.training.checkpoint import TrainingCheckpoint, identity
from hilbertnet.training.objective import Data, Objective, classification_loss, device_of, evaluate, followed
from hilbertnet.training.recipe import DivergedError, Epoch, Recipe, ended

__all__ = ["train"]


def train(
    model: nn.Module,
    data: Data,
    validation: Data | None,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    schedule: Any = None,
    objective: Objective | None = None,
    validation_objective: Objective | None = None,
    penalty: Penalty | None = None,
    constraint: Constraint | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    before_epoch: Callable[[nn.Module, int], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> list[Epoch]:
    """Train `model` in place, and leave it as it was after its best epoch, in eval mode.

    Where a constraint comes down with the epochs, the model is validated and left as projected onto the constraint of
    the last epoch, whichever is the best.

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
        Epochs, batches, seed, clipping, precision. A last batch of one example goes with the one before.
    schedule
        Any of ``torch.optim.lr_scheduler``, stepped after every epoch, or ``None``.
    objective
        From model, signals and labels to mean loss and decision values; default `classification_loss`.
    validation_objective
        The same for `validation`; default `objective`. A robust objective wants a plain one here.
    penalty, constraint
        Added to the loss of every batch; projected onto after every step. A penalty is given the decision values that
        the objective returned: let them be those of the model at the batch, or give penalties to the objective itself.
    augment
        From a batch and a generator to another batch of that shape.
    before_epoch
        Called with model and epoch, from 0, in the order of epochs.
    checkpoint
        A file kept while the training lasts, from which the same call goes on; removed at the end. The states of
        objective, penalty and constraint are kept too, where they have a ``state_dict``.
    settings
        What else must be the same for the training to go on, for JSON: what `objective`, `penalty` and the others are.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total) epochs.

    Returns
    -------
    list of Epoch
        The record of every epoch.

    Raises
    ------
    DivergedError
        If the loss of a batch is not finite, without its penalty or with it; the message names epoch and batch.
    ValueError
        If the data are not as many labels as signals, or `checkpoint` is of another training.
    """
    _check(data, "data")
    if torch.is_inference_mode_enabled():
        raise ValueError("train: needs gradients, which torch.inference_mode() rules out; call it outside")
    if validation is not None:
        _check(validation, "validation")
    objective = objective or classification_loss()
    scaler = torch.amp.GradScaler(enabled=recipe.precision == "float16" and device_of(model).type == "cuda")
    run = _Run(model, optimizer, recipe, objective, penalty, constraint, augment, scaler)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    given = {"objective": objective, "penalty": penalty, "constraint": constraint}
    parts |= {name: part for name, part in given.items() if _keeps(part)}
    kept = TrainingCheckpoint(
        checkpoint, parts, identity(model, data, validation, optimizer, recipe, parts) | dict(settings or {})
    )
    history = kept.history
    for number in track(range(recipe.epochs), progress, label="epochs"):
        if number < len(history):
            continue
        if ended(history, recipe.patience):
            break
        if before_epoch is not None:
            before_epoch(model, number)
        started, rate = time.perf_counter(), optimizer.param_groups[0]["lr"]
        loss, accuracy = run.epoch(data, number)
        if schedule is not None:
            schedule.step()
        due = (number + 1) % recipe.evaluate_every == 0 or number + 1 == recipe.epochs
        held: tuple[float | None, float | None] = (None, None)
        if validation is not None and due:
            with _as_in_the_end(model, constraint, number, recipe.epochs - 1):
                held = evaluate(model, validation, validation_objective or objective)
                kept.offer(Epoch(number, rate, loss, accuracy, *held, 0.0))
        history.append(Epoch(number, rate, loss, accuracy, *held, time.perf_counter() - started))
        kept.keep()
    kept.restore_best()
    kept.remove()
    model.eval()
    return history


@contextmanager
def _as_in_the_end(model: nn.Module, constraint: Constraint | None, epoch: int, last: int) -> Iterator[None]:
    """The model as it would be left after an epoch: in the constraint's last set, which may be smaller than today's."""
    if constraint is None or epoch == last:
        yield
        return
    parts: list[Any] = [part for part in (model, constraint) if _keeps(part)]
    before = [copy.deepcopy(part.state_dict()) for part in parts]  # a constraint may have warm-started vectors
    constraint.project_(model, last)
    try:
        yield
    finally:
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)


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
        device, total, right = device_of(self.model), 0.0, 0
        self.model.train()
        with torch.enable_grad(), _seeded(self.recipe.seed, number) as generator:
            order = torch.randperm(len(x), generator=generator)
            for batch, indices in enumerate(_portions(order, self.recipe.batch_size)):
                part, labels = x[indices.to(x.device)].to(device), y[indices.to(y.device)].to(device)
                if self.augment is not None:
                    part = self.augment(part, generator)
                try:
                    loss, whole, scores = self._losses(part, labels)
                except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # parameters are not finite
                    raise self._diverged(str(error).partition(":")[0], number, batch, indices) from None
                except _NotFinite as found:
                    raise self._diverged(str(found), number, batch, indices) from None
                self._move(whole, number)
                total += loss.item() * len(part)
                right += int((decide(scores) == labels).sum())
        return total / len(x), right / len(x)

    def _losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's loss, the same with its penalty, and the decision values."""
        x, back = followed(self.objective, self.penalty, self.model, x)
        with _autocast(self.recipe.precision, x.device):
            loss, scores = self.objective(self.model, x, y)
            whole = _checked(loss)  # a penalty of a network that has diverged could fail in any other way
            if self.penalty is not None:
                whole = _checked(loss + self.penalty(self.model, x, y, scores, **back))
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


def _portions(order: Tensor, size: int) -> list[Tensor]:
    """Batches; a single example that is left goes with the last one, since alone it has no batch statistics."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1 < size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class _NotFinite(ValueError):
    """A loss, or a loss and a penalty."""


def _checked(loss: Tensor) -> Tensor:
    if not torch.isfinite(loss):
        raise _NotFinite(loss.item())
    return loss


def _keeps(part: object) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _check(data: Data, name: str) -> None:
    x, y = data
    if not len(x) or y.shape != (len(x),) or y.is_floating_point():
        raise ValueError(
            f"{name}: expected signals (n, ...) and n whole numbers of classes, n > 0, got {tuple(x.shape)} and "
            f"{tuple(y.shape)} {y.dtype}"
        )


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """A generator of this epoch's own; torch's global one, for what is random in the model, is put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(1_000_003 * seed + epoch)
        yield torch.Generator().manual_seed(1_000_003 * seed + epoch)

r"""Losses at the worst point of a ball around every example, in the place of the training loss.

.. math:: \frac1n \sum_i \max_{\|d\| \le r} \ell(y_i, f(x_i + d)) \quad \text{(PGD training)}, \qquad
          \frac1n \sum_i \ell(y_i, f(x_i)) + \beta \max_{\|d\| \le r} KL(p(x_i) \| p(x_i + d)) \quad \text{(TRADES)}.

The maxima are looked for by a few steps of fixed length, in eval mode and with the parameters frozen; the loss at the
point found is then taken in the mode the model is in.

References: A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; H. Zhang et
al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019; the l2 scheme is that of
A. Bietti et al., "A kernel perspective for regularizing deep neural networks", ICML 2019.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.complexity.functions import untouched
from hilbertnet.complexity.real_numbers import real_number
from hilbertnet.losses import LOSSES, Loss, divergences, losses, read_labels, signs
from hilbertnet.regularization.chance import Drawing
from hilbertnet.regularization.functions import as_function, check_radius, check_signals, logits_of, read_counts
from hilbertnet.regularization.steps import STEP, Norm, ball, fixed_steps
from hilbertnet.regularization.term import LossTerm
from hilbertnet.text import check_word

__all__ = ["PgdL2", "PgdLinf", "Trades"]

NORMS: tuple[Norm, ...] = ("linf", "l2")

_UNIT = (0.0, 1.0)
_ROUNDING = 1e-4  # by so much augmented signals may leave the box
_TRADES_STEP = 0.007 / 0.031  # of the radius, as published
_TRADES_START = 0.001  # standard deviation of the noise added first: at the example itself the divergence has slope 0


class _Robust(LossTerm):
    """What all have in common: the fields `radius`, `steps`, `clip`."""

    radius: float
    steps: int
    clip: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", real_number("radius", self.radius, above=0.0))
        read_counts(self, "steps")
        if self.clip == "none":
            object.__setattr__(self, "clip", None)
        if self.clip is not None:
            check_word("clip", self.clip, ("unit", "none"))

    def _search(self, norm: Norm, step: float, x_train: Tensor) -> Search:
        """The search for the worst point; training signals are looked at."""
        check_signals(x_train, "x_train")
        search = Search(norm, self.radius, step, self.steps, None if self.clip is None else _UNIT)
        search.check(x_train, f"{self.name}: x_train")
        check_radius(self.radius, x_train, "2" if norm == "l2" else "inf")
        return search


@dataclass(frozen=True)
class PgdL2(_Robust):
    """The loss at the end of an ascent over an l2 ball around each example, from the example itself.

    Parameters
    ----------
    radius
        Of the balls.
    steps
        Each is 1.5 radius / steps long, along the gradient over its norm, and is projected back.
    clip
        ``"unit"``: points stay in [0, 1], where the signals must be too (pixels, not preprocessed by whitening and the
        like); ``None``: they may leave it, as in the published code, and signals are as they are.
    loss
        ``"logistic"``, ``"squared_hinge"`` or ``"ridge"``; see `hilbertnet.losses`.

    Raises
    ------
    ValueError
        If an argument is not of this form; when bound or called, if signals to be clipped are not in [0, 1].

    Warns
    -----
    RadiusWarning
        When bound, if the ball around any signal holds all others in [0, 1].

    Examples
    --------
    >>> x, y = torch.full((2, 3), 0.5), torch.tensor([0, 1])
    >>> model = nn.Linear(3, 2)
    >>> loss, logits = PgdL2(0.1).bind(x, 0)(model, x, y)
    >>> bool(loss > nn.functional.cross_entropy(model(x), y)), tuple(logits.shape)
    (True, (2, 2))
    """

    name: ClassVar[str] = "pgd_l2"
    formula: ClassVar[str] = "mean_i max over ||d||_2 <= radius of loss(y_i, f(x_i + d))"

    radius: float
    steps: int = 5
    clip: str | None = "unit"
    loss: Loss = "logistic"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("loss", self.loss, LOSSES)

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundPgd:
        """The loss itself; nothing in it is random. See `PenaltyTerm.bind`."""
        search = self._search("l2", STEP * self.radius / self.steps, x_train)
        return BoundPgd(search, self.loss, generator)


@dataclass(frozen=True)
class PgdLinf(_Robust):
    """The loss at the end of an ascent over an l_inf ball around each example, from a random point of it.

    Parameters
    ----------
    radius
        Of the balls.
    steps, step
        How many, along the signs of the gradient, each of length `step`; 0.01 as published, for radii about 0.03: from
        the random start they go no further than ``steps * step``.
    clip, loss
        As for `PgdL2`, with its errors and warnings.
    """

    name: ClassVar[str] = "pgd_linf"
    formula: ClassVar[str] = "mean_i max over ||d||_inf <= radius of loss(y_i, f(x_i + d))"

    radius: float
    steps: int = 5
    step: float = 0.01
    clip: str | None = "unit"
    loss: Loss = "logistic"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "step", real_number("step", self.step, above=0.0))
        check_word("loss", self.loss, LOSSES)

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundPgd:
        """The loss itself, with starts of its own; see `PenaltyTerm.bind`."""
        return BoundPgd(self._search("linf", self.step, x_train), self.loss, generator)


@dataclass(frozen=True)
class Trades(_Robust):
    """The loss at the examples plus `beta` times how far the predicted probabilities move in a ball around them.

    Parameters
    ----------
    radius
        Of the balls.
    beta
        Weight of the mean divergence KL(p(x) || p(x')), at least 0.
    norm
        ``"linf"`` or ``"l2"``, of the balls.
    steps
        How many.
    step
        Their length; by default as published 0.007 / 0.031 of the radius for l_inf, and 1.5 radius / steps for l2.
    clip
        As for `PgdL2`, with its errors and warnings.
    """

    name: ClassVar[str] = "trades"
    formula: ClassVar[str] = "mean_i loss(y_i, f(x_i)) + beta max over ||d|| <= radius of KL(p(x_i) || p(x_i + d))"

    radius: float
    beta: float = 6.0
    norm: Norm = "linf"
    steps: int = 10
    step: float | None = None
    clip: str | None = "unit"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", real_number("beta", self.beta, least=0.0))
        check_word("norm", self.norm, NORMS)
        if self.step is not None:
            object.__setattr__(self, "step", real_number("step", self.step, above=0.0))

    def bind(self, x_train: Tensor, generator: int | torch.Generator | None = None) -> BoundTrades:
        """The loss itself, with starts of its own; see `PenaltyTerm.bind`."""
        usual = _TRADES_STEP * self.radius if self.norm == "linf" else STEP * self.radius / self.steps
        search = self._search(self.norm, usual if self.step is None else self.step, x_train)
        return BoundTrades(search, self.beta, generator)


@dataclass(frozen=True)
class Search:
    """Where, and by which steps, the worst point is looked for.

    Parameters
    ----------
    norm, radius
        Of the balls.
    step, steps
        Length and number of steps.
    box
        Least and largest entry of all points, or ``None``.
    """

    norm: Norm
    radius: float
    step: float
    steps: int
    box: tuple[float, float] | None

    def check(self, x: Tensor, name: str) -> None:
        """Refuse signals that are not in the box: what is clipped would be moved out of the ball."""
        if self.box is None:
            return
        low, high = x.min().item(), x.max().item()
        if not (low >= self.box[0] - _ROUNDING and high <= self.box[1] + _ROUNDING):
            raise ValueError(
                f"{name}: expected signals in [{self.box[0]:g}, {self.box[1]:g}], in which they are kept, got numbers "
                f"from {low:g} to {high:g}; use clip=none, or normalize inside the model"
            )

    def __call__(self, objective: Callable[[Tensor], Tensor], x: Tensor, start: Tensor) -> Tensor:
        """From `start`, which need not be in the set, to a point of the set; nothing is raised but bad arguments."""
        project = ball(x, self.radius, self.norm, self.box)
        return fixed_steps(objective, project(start), project, self.step, self.steps, self.norm)


class _Bound(Drawing):
    """A robust loss; its state is that of the generator of its starts."""

    def __init__(self, search: Search, generator: int | torch.Generator | None) -> None:
        super().__init__(generator)
        self.search = search

    def _find(
        self, model: nn.Module, x: Tensor, objective: Callable[[nn.Module], Callable[[Tensor], Tensor]]
    ) -> Tensor:
        """Points of the set around every example where the objective of the model as a function is large."""
        check_signals(x)
        self.search.check(x, "x")
        with as_function(model) as function, untouched(function):
            return self.search(objective(function), x, self._start(x.detach()))

    @abstractmethod
    def _start(self, x: Tensor) -> Tensor:
        """Where the search begins."""


class BoundPgd(_Bound):
    """`PgdL2` or `PgdLinf`, ready for use."""

    def __init__(self, search: Search, loss: Loss, generator: int | torch.Generator | None) -> None:
        super().__init__(search, generator)
        self.loss = loss

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and logits, both at the points found."""
        found = self._find(model, x, lambda function: lambda point: _losses(self.loss, logits_of(function, point), y))
        logits = logits_of(model, found)
        return _losses(self.loss, logits, y).mean(), logits

    def _start(self, x: Tensor) -> Tensor:
        if self.search.norm == "l2":
            return x
        uniform = torch.rand(x.shape, dtype=torch.float64, generator=self.rng)
        return x + (self.search.radius * (2 * uniform - 1)).to(x)


class BoundTrades(_Bound):
    """`Trades`, ready for use."""

    def __init__(self, search: Search, beta: float, generator: int | torch.Generator | None) -> None:
        super().__init__(search, generator)
        self.beta = beta

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the logits at the examples themselves."""

        def objective(function: nn.Module) -> Callable[[Tensor], Tensor]:
            with torch.no_grad():
                clean = logits_of(function, x)
            return lambda point: divergences(clean, logits_of(function, point))

        found = self._find(model, x, objective)
        logits = logits_of(model, x)
        loss = _losses("logistic", logits, y).mean()
        return loss + self.beta * divergences(logits, logits_of(model, found)).mean(), logits

    def _start(self, x: Tensor) -> Tensor:
        return x + (_TRADES_START * torch.randn(x.shape, dtype=torch.float64, generator=self.rng)).to(x)


def _losses(loss: Loss, logits: Float[Tensor, "n outputs"], y: Tensor) -> Float[Tensor, " n"]:
    labels = read_labels(y, len(logits), logits.shape[1], logits.device)
    return losses(loss, logits, signs(labels, logits.shape[1], logits.dtype))

"""Kernel ridge regression with a Gram matrix that is too large to load: products and a few columns are all it takes.

``(K + n lambda I) A = T`` is solved by block conjugate gradient with a Nystrom preconditioner, for all outputs at once,
so that an iteration reads K once. lambda is chosen on a held-out part: the path goes from the largest value down, each
system starting from the solution of the one before. (Leave-one-out needs the diagonal of the inverse. Its stochastic
estimate, E. Kokiopoulou, C. Bekas and Y. Saad, "An estimator for the diagonal of a matrix", 2007, was tried with up to
32 probes and the preconditioner as control variate: on digits it is good to 1% at lambda 1e-4, but to 15% at 1e-8,
where leave-one-out errors then come out several times too large.)
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hilbertnet.kernels.conjugate_gradient import CGResult, CGState, conjugate_gradient
from hilbertnet.kernels.gram_like import GramLike, GramPart, as_gram_like, check_positive, check_targets
from hilbertnet.kernels.nystrom import Landmarks, Nystrom, check_rank, default_rank, nystrom
from hilbertnet.kernels.ridge import RidgeSolution, fit_intercept
from hilbertnet.kernels.ridge_checkpoint import HeldOutPoint, RidgeCheckpoint, best_point
from hilbertnet.progress import LONG, Progress, announce, format_seconds
from hilbertnet.records import digest
from hilbertnet.signals import as_rng

__all__ = ["HeldOutPoint", "LargeRidge", "ridge_from_store"]

_TYPICAL = 30  # iterations of a system, in the mean over a path, for what is said beforehand
_PATIENCE = 3  # stop the path after so many values of lambda without improvement

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class LargeRidge(RidgeSolution):
    """A `RidgeSolution` and how it was found.

    Parameters
    ----------
    alpha
        lambda in units of the mean of K(x, x).
    residuals
        Norms of the columns of ``T - b - (K + n lambda I) coef`` over those of ``T - b``, shape (outputs,).
    iterations
        Of the last system, whose lambda was chosen.
    converged
        Whether all its relative residuals are within the tolerance.
    curve
        The held-out part for every lambda tried, largest first; empty if only one was given.
    """

    alpha: float = math.nan
    residuals: Tensor | None = None
    iterations: int = 0
    converged: bool = False
    curve: tuple[HeldOutPoint, ...] = ()


def ridge_from_store(
    gram: GramLike | Float[Tensor, "n n"],
    targets: Float[Tensor, "n outputs"],
    lambdas: Sequence[float],
    *,
    score: Score | None = None,
    held_out: float | Bool[Tensor, " n"] = 0.2,
    intercept: bool = False,
    rank: int | None = None,
    landmarks: Landmarks = "pivoted",
    tolerance: float = 1e-6,
    iterations: int = 500,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress = None,
) -> LargeRidge:
    """Choose lambda on a held-out part, then fit all examples, from products with K alone.

    The path stops after three values in a row that improve nothing. Ties of the score go to the smaller mean squared
    error.

    Parameters
    ----------
    gram
        K, or anything with the same products (`hilbertnet.kernels.gram_like.GramLike`), (n, n).
    targets
        T, shape (n, outputs).
    lambdas
        Values to try, in units of the mean of K(x, x); one alone is taken without a held-out part.
    score
        Of predictions and targets (m, outputs); larger is better. Default minus the mean squared error.
    held_out
        The share of the examples, drawn with `seed`, or a mask of them, on which lambda is chosen.
    intercept
        Whether to fit an intercept beside the function.
    rank, landmarks
        Of the preconditioner, see `hilbertnet.kernels.nystrom.nystrom`; default rank 5 sqrt(n), at least 100.
    tolerance, iterations
        Of each system, see `hilbertnet.kernels.conjugate_gradient.conjugate_gradient`.
    seed
        Of the held-out share and the landmarks.
    checkpoint
        A file that keeps what was reached. Called again with the same arguments and threads, an interrupted run goes on
        from it to the same bytes. It is removed at the end.
    checkpoint_seconds
        The file is written after so many seconds at the soonest, and after each lambda.
    progress
        Of the iterations of each system, see `hilbertnet.progress`.

    Warns
    -----
    RuntimeWarning
        If a system did not reach the tolerance: relative residuals are in the result.

    Raises
    ------
    ValueError
        If shapes or numbers do not fit, or the checkpoint is of another run.
    """
    matrix = as_gram_like(gram)
    n = matrix.shape[0]
    exact = check_targets(targets, n)
    alphas = _check_lambdas(lambdas)
    if rank is not None:
        check_rank(rank, n)
    mask = _held_out(held_out, n, seed) if len(alphas) > 1 else torch.zeros(n, dtype=torch.bool)
    unit = float(matrix.diagonal().mean()) or 1.0
    run = _Run(matrix, exact, intercept, unit, rank, landmarks, tolerance, iterations, seed, progress)
    seconds = check_positive("checkpoint_seconds", checkpoint_seconds, zero=True)
    file = RidgeCheckpoint(checkpoint, {} if checkpoint is None else _identity(run, alphas, mask), seconds)
    curve = run.path(alphas, mask, score or _minus_error, file) if mask.any() else []
    chosen = best_point(curve).alpha if curve else alphas[0]
    solution = run.finish(chosen, mask, tuple(curve), file)
    _warn(solution, tolerance)
    file.remove()
    return solution


def _minus_error(predicted: Tensor, targets: Tensor) -> float:
    return -float((predicted - targets).square().mean())


def _ended(curve: Sequence[HeldOutPoint]) -> bool:
    """Whether the last values in a row improved nothing."""
    return bool(curve) and len(curve) - 1 - curve.index(best_point(curve)) >= _PATIENCE


class _Run:
    """The systems of one call."""

    def __init__(
        self,
        gram: GramLike,
        targets: Tensor,
        intercept: bool,
        unit: float,
        rank: int | None,
        landmarks: Landmarks,
        tolerance: float,
        iterations: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.gram, self.targets, self.intercept, self.unit = gram, targets, intercept, unit
        self.rank, self.landmarks, self.seed = rank, landmarks, seed
        self.tolerance, self.iterations, self.progress = tolerance, iterations, progress
        self._clock: _Clock | None = None

    def _right(self, kept: Tensor) -> Tensor:
        """Right-hand sides of the examples kept: targets, and ones for the intercept."""
        right = self.targets[kept]
        return torch.cat([right, torch.ones(len(right), 1, dtype=torch.float64)], dim=1) if self.intercept else right

    def _coefficients(self, solved: Tensor) -> tuple[Tensor, Tensor]:
        if self.intercept:
            return fit_intercept(solved[:, :-1], solved[:, -1])
        return solved, torch.zeros(solved.shape[1], dtype=torch.float64)

    def _preconditioner(self, gram: GramLike) -> Nystrom:
        n = gram.shape[0]
        rank = default_rank(n) if self.rank is None else min(self.rank, n)
        return nystrom(gram, rank, landmarks=self.landmarks, generator=as_rng(self.seed))

    def _solve(
        self,
        gram: GramLike,
        right: Tensor,
        alpha: float,
        start: Tensor | None,
        pre: Nystrom,
        left: int,
        file: RidgeCheckpoint,
    ) -> CGResult:
        """One system; the checkpoint is asked where it was, and told after every iteration."""
        if self._clock is None:
            self._clock = _Clock(self.iterations, left)
        clock = self._clock

        def keep(state: CGState) -> None:
            clock.tick()
            file.keep_system(state)

        return conjugate_gradient(
            gram,
            right,
            gram.shape[0] * alpha * self.unit,
            preconditioner=pre,
            start=start,
            tolerance=self.tolerance,
            iterations=self.iterations,
            state=file.take_system(),
            keep=keep,
            progress=self.progress,
            label=f"lambda {alpha:.0e}, conjugate gradient",
        )

    def path(self, alphas: Sequence[float], mask: Tensor, score: Score, file: RidgeCheckpoint) -> list[HeldOutPoint]:
        """The held-out part for every lambda, until some in a row improve nothing."""
        if file.chosen:
            return file.curve
        kept = (~mask).nonzero()[:, 0]
        gram, right = GramPart(self.gram, kept), self._right(kept)
        pre = self._preconditioner(gram)
        for left in range(len(alphas) - len(file.curve), 0, -1):
            if _ended(file.curve):
                break
            alpha = alphas[-left]
            found = self._solve(gram, right, alpha, file.start, pre, left + 1, file)
            coefficients, constant = self._coefficients(found.solution)
            predicted = self.gram.matmul(gram.embed(coefficients))[mask] + constant
            truth = self.targets[mask]
            point = HeldOutPoint(
                alpha,
                float(score(predicted, truth)),
                float((predicted - truth).square().mean()),
                found.iterations,
                found.converged,
            )
            if math.isnan(point.score):
                raise ValueError(f"score: expected a number, got NaN for lambda {alpha:.1e}")
            file.keep_point(point, found.solution)
        file.choose()
        return file.curve

    def finish(self, alpha: float, mask: Tensor, curve: tuple[HeldOutPoint, ...], file: RidgeCheckpoint) -> LargeRidge:
        """The system of all examples, from the solution without the held-out part."""
        everything = torch.arange(len(self.targets))
        start = None
        if file.best is not None:
            start = GramPart(self.gram, (~mask).nonzero()[:, 0]).embed(file.best)
        right = self._right(everything)
        found = self._solve(self.gram, right, alpha, start, self._preconditioner(self.gram), 1, file)
        coefficients, constant = self._coefficients(found.solution)
        lam = alpha * self.unit
        centred = self.targets - constant
        residual = found.residual
        if self.intercept:
            residual = residual[:, :-1] - torch.outer(residual[:, -1], constant)
        # K coef from the residual, which spares a product; where it cancels, the norm is 0 to working precision
        image = centred - residual - len(centred) * lam * coefficients
        size = centred.norm(dim=0)
        return LargeRidge(
            lam,
            coefficients,
            constant,
            (coefficients * image).sum(0).clamp(min=0.0),
            alpha=alpha,
            residuals=residual.norm(dim=0) / torch.where(size > 0, size, torch.ones_like(size)),
            iterations=found.iterations,
            converged=found.converged,
            curve=curve,
        )


class _Clock:
    """Says, after the first iteration of all, what a long computation takes."""

    def __init__(self, most: int, systems: int) -> None:
        self._began: float | None = time.perf_counter()
        self._most, self._systems = most, systems

    def tick(self) -> None:
        if self._began is None:
            return
        seconds = time.perf_counter() - self._began
        self._began = None
        total = seconds * min(_TYPICAL, self._most) * self._systems
        if total > LONG:
            announce(
                f"conjugate gradient: {format_seconds(seconds)} an iteration; {self._systems} systems take about "
                f"{format_seconds(total)} where each needs {min(_TYPICAL, self._most)} iterations"
            )


def _identity(run: _Run, alphas: Sequence[float], mask: Tensor) -> dict[str, Any]:
    """What must be the same for an interrupted run to go on; of the matrix, its diagonal and some columns."""
    n = run.gram.shape[0]
    few = torch.linspace(0, n - 1, min(n, 8)).long()
    return {
        "gram": [n, digest(run.gram.diagonal()), digest(run.gram.columns(few))],
        "targets": digest(run.targets),
        "lambdas": list(alphas),
        "held_out": digest(mask),
        "intercept": run.intercept,
        "rank": run.rank,
        "landmarks": run.landmarks,
        "tolerance": run.tolerance,
        "iterations": run.iterations,
        "seed": run.seed,
        "threads": torch.get_num_threads(),
    }


def _check_lambdas(lambdas: Any) -> tuple[float, ...]:
    values = tuple(lambdas) if isinstance(lambdas, Sequence) and not isinstance(lambdas, str) else ()
    if not values:
        raise ValueError(f"lambdas: expected a sequence of positive finite numbers, got {lambdas!r}")
    return tuple(sorted((check_positive("lambdas", value) for value in values), reverse=True))


def _held_out(held_out: Any, n: int, seed: int) -> Tensor:
    """A mask of the held-out examples."""
    if isinstance(held_out, Tensor):
        if held_out.dtype != torch.bool or tuple(held_out.shape) != (n,):
            raise ValueError(
                f"held_out: expected a share or a mask of shape ({n},), got {held_out.dtype} {tuple(held_out.shape)}"
            )
        mask = held_out.cpu()
    else:
        if not isinstance(held_out, float) or not 0 < held_out < 1:
            raise ValueError(f"held_out: expected a share in (0, 1) or a mask of the examples, got {held_out!r}")
        mask = torch.zeros(n, dtype=torch.bool)
        mask[torch.randperm(n, generator=as_rng(seed))[: round(n * held_out)]] = True
    if mask.all() or not mask.any():
        raise ValueError(f"held_out: expected some of the {n} examples and not all, got {int(mask.sum())}")
    return mask


def _warn(solution: LargeRidge, tolerance: float) -> None:
    missed = [point.alpha for point in solution.curve if not point.converged]
    if not solution.converged:
        assert solution.residuals is not None
        warnings.warn(
            f"conjugate gradient stopped after {solution.iterations} iterations at a relative residual of "
            f"{float(solution.residuals.max()):.1e}, above the tolerance {tolerance:.1e}, for lambda "
            f"{solution.alpha:.1e} of the mean of K(x, x); a larger rank or more iterations may help",
            RuntimeWarning,
            stacklevel=3,
        )
    elif missed:
        values = ", ".join(f"{alpha:.0e}" for alpha in missed)
        warnings.warn(
            f"conjugate gradient stopped above the tolerance {tolerance:.1e} on the examples that are not held out, "
            f"for lambda {values} of the mean of K(x, x): their scores are those of what was reached",
            RuntimeWarning,
            stacklevel=3,
        )

"""Block conjugate gradient for ``(K + mu I) X = T``: one product with K for each iteration, whatever T's columns.

All columns share one Krylov space, so that several need fewer iterations than one. The block method (D. P. O'Leary,
"The block conjugate gradient algorithm and related methods", Linear Algebra and its Applications 29, 1980) breaks down
where combinations of columns converge before others, or depend on each other from the start, as one-hot targets less
their mean do. So residuals and directions are replaced by orthonormal bases in every iteration (A. A. Dubrulle,
"Retooling the method of block conjugate gradients", Electronic Transactions on Numerical Analysis 12, 2001), and what
has vanished is dropped (H. Ji and Y. Li, "A breakdown-free block conjugate gradient method", BIT Numerical Mathematics
57, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hilbertnet.kernels.gram_like import GramLike, check_positive, check_targets
from hilbertnet.kernels.nystrom import Nystrom
from hilbertnet.progress import Progress, track
from hilbertnet.signals import is_count

__all__ = ["CGResult", "CGState", "conjugate_gradient"]

_CONVERGED = 1e-3  # of the tolerance: combinations of columns with smaller residuals are left alone
_VANISHED = 1e-13  # directions this much smaller than the largest are rounding errors


@dataclass(frozen=True)
class CGState:
    """Where a solve is after some iterations: with the same arguments it goes on from there to the same numbers.

    Parameters
    ----------
    solution, residual
        X and ``T - (K + mu I) X``, for columns of T scaled to norm one, shape (n, k).
    directions
        Of the next iteration, orthonormal, shape (n, at most k).
    iterations
        How many were done.
    checked
        The largest residual when it was last computed from X itself, infinity before.
    """

    solution: Float[Tensor, "n k"]
    residual: Float[Tensor, "n k"]
    directions: Float[Tensor, "n r"]
    iterations: int
    checked: float


@dataclass(frozen=True)
class CGResult:
    """What block conjugate gradient found.

    Parameters
    ----------
    solution
        X, shape (n, k).
    residual
        ``T - (K + mu I) X``, computed from X itself, shape (n, k).
    relative_residuals
        Norms of its columns over those of T (or 0 where both vanish), shape (k,).
    iterations
        How many were done; the products with K are a few more.
    converged
        Whether all relative residuals are within the tolerance.
    """

    solution: Float[Tensor, "n k"]
    residual: Float[Tensor, "n k"]
    relative_residuals: Float[Tensor, " k"]
    iterations: int
    converged: bool


class _Solve:
    """One system, scaled so that all columns of T have norm one."""

    def __init__(
        self, gram: GramLike, targets: Tensor, shift: float, preconditioner: Nystrom | None, tolerance: float
    ) -> None:
        norms = targets.norm(dim=0)
        self.scale = torch.where(norms > 0, norms, torch.ones_like(norms))
        self.gram, self.targets, self.shift, self.tolerance = gram, targets / self.scale, shift, tolerance
        self.preconditioner = preconditioner

    def times(self, right: Tensor) -> Tensor:
        return self.gram.matmul(right) + self.shift * right

    def _towards(self, residual: Tensor) -> Tensor:
        """The preconditioner times an orthonormal basis of what is left of the residual."""
        basis = _orthonormal(residual, _CONVERGED * self.tolerance)
        return basis if self.preconditioner is None else self.preconditioner.precondition(basis, self.shift)

    def begin(self, start: Tensor | None) -> CGState:
        if start is None:
            solution, residual = torch.zeros_like(self.targets), self.targets.clone()
        else:
            solution = start / self.scale
            residual = self.targets - self.times(solution)
        reached = _largest(residual)  # a start may be the end
        checked = reached if reached <= self.tolerance else float("inf")
        return CGState(solution, residual, _orthonormal(self._towards(residual)), 0, checked)

    def step(self, state: CGState) -> CGState:
        """One iteration; a residual that seems small enough is computed anew, and the method starts again from it."""
        directions = state.directions
        image = self.times(directions)
        factor = self._curvature(directions.T @ image)
        steps = torch.cholesky_solve(directions.T @ state.residual, factor)
        solution, residual = state.solution + directions @ steps, state.residual - image @ steps
        checked = state.checked
        if _largest(residual) <= self.tolerance:
            residual = self.targets - self.times(solution)
            checked = _largest(residual)
            following = self._towards(residual)
        else:
            following = self._towards(residual)
            following = following - directions @ torch.cholesky_solve(image.T @ following, factor)
        return CGState(solution, residual, _orthonormal(following), state.iterations + 1, checked)

    def _curvature(self, square: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex((square + square.T) / 2)
        if failed:
            raise ValueError(
                f"gram: K + {self.shift:.3g} I is not positive definite along a direction that was met; entries of "
                f"{self.gram.dtype} carry rounding errors that a larger lambda would cover"
            )
        return factor

    def ended(self, before: CGState, after: CGState) -> bool:
        """Whether the tolerance is reached, or rounding errors stand in the way of it."""
        if not after.directions.shape[1] or after.checked <= self.tolerance:
            return True
        return after.checked != before.checked and after.checked > 0.5 * before.checked

    def result(self, state: CGState) -> CGResult:
        residual = state.residual
        if state.checked != _largest(residual):  # else it was computed from X, and needs no other product
            residual = self.targets - self.times(state.solution)
        found = residual.norm(dim=0)
        return CGResult(
            state.solution * self.scale,
            residual * self.scale,
            found,
            state.iterations,
            bool((found <= self.tolerance).all()),
        )


def conjugate_gradient(
    gram: GramLike,
    targets: Float[Tensor, "n k"],
    shift: float,
    *,
    preconditioner: Nystrom | None = None,
    start: Float[Tensor, "n k"] | None = None,
    tolerance: float = 1e-6,
    iterations: int = 500,
    state: CGState | None = None,
    keep: Callable[[CGState], object] | None = None,
    progress: Progress = None,
    label: str = "conjugate gradient",
) -> CGResult:
    """Solve ``(K + shift I) X = T`` from products with K alone.

    It stops when the residual of every column, computed from X itself, is within the tolerance; when such residuals no
    longer fall by half, because rounding errors forbid; or after `iterations`.

    Parameters
    ----------
    gram
        K, (n, n).
    targets
        T, shape (n, k).
    shift
        mu, positive.
    preconditioner
        A Nystrom approximation of K.
    start
        Where to begin, shape (n, k); default zeros.
    tolerance
        For the residual of a column over its norm in T.
    iterations
        At most.
    state
        What `keep` was last called with by an interrupted solve of the same arguments.
    keep
        Called after every iteration.
    progress, label
        See `hilbertnet.progress`.

    Raises
    ------
    ValueError
        If shapes or numbers do not fit, or ``K + shift I`` is found not to be positive definite.
    """
    n = gram.shape[0]
    exact = check_targets(targets, n)
    shift, tolerance = check_positive("shift", shift), check_positive("tolerance", tolerance)
    if not is_count(iterations):
        raise ValueError(f"iterations: expected a whole number of at least 1, got {iterations!r}")
    if start is not None and tuple(start.shape) != tuple(exact.shape):
        raise ValueError(f"start: expected shape {tuple(exact.shape)} as targets, got {tuple(start.shape)}")
    solve = _Solve(gram, exact, shift, preconditioner, tolerance)
    if state is None:
        state = solve.begin(None if start is None else start.double().cpu())
    for state in track(_run(solve, state, iterations), progress, label=label, total=iterations):  # noqa: B020
        if keep is not None:
            keep(state)
    return solve.result(state)


def _run(solve: _Solve, state: CGState, iterations: int) -> Iterator[CGState]:
    ended = not state.directions.shape[1] or state.checked <= solve.tolerance
    while not ended and state.iterations < iterations:
        before, state = state, solve.step(state)
        ended = solve.ended(before, state)
        yield state


def _largest(residual: Float[Tensor, "n k"]) -> float:
    """The largest norm of a column."""
    return float(residual.norm(dim=0).max())


def _orthonormal(block: Tensor, floor: float = 0.0) -> Tensor:
    """An orthonormal basis of the columns' span, less what is below `floor` or a rounding error beside the rest."""
    if not block.shape[1]:
        return block
    orthonormal, upper = torch.linalg.qr(block)
    left, values, _ = torch.linalg.svd(upper)
    floor = max(floor, _VANISHED * float(values[0]))
    return (orthonormal @ left[:, values > floor]).contiguous()

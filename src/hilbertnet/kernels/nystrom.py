"""Nystrom approximations of a Gram matrix from some of its columns, and the preconditioner they make.

With the columns C of landmarks S, ``K ~ C K_SS^(-1) C' = F F'`` (column Nystrom, as in partial pivoted Cholesky). From
its eigenvectors U and eigenvalues L, the inverse preconditioner of ``K + mu I`` is ``(l + mu) U (L + mu I)^(-1) U' + (I
- U U')`` with l the smallest eigenvalue kept: the form of Z. Frangella, J. A. Tropp and M. Udell, "Randomized Nystrom
preconditioning", SIAM J. Matrix Anal. Appl. 44, 2023, who take a random sketch in place of columns. Columns cost less
where K is on a disk: the sketch needs a pass over all of it. That columns do well for kernel ridge regression, with
landmarks chosen by (randomly) pivoted Cholesky, is the subject of M. Diaz, E. N. Epperly, Z. Frangella, J. A. Tropp and
R. J. Webber, "Robust, randomized preconditioning for kernel ridge regression", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.kernels.gram_like import GramLike
from hilbertnet.signals import is_count
from hilbertnet.text import nearest

__all__ = ["LANDMARKS", "Landmarks", "Nystrom", "check_rank", "default_rank", "nystrom"]

Landmarks = Literal["pivoted", "greedy", "random"]
LANDMARKS: tuple[Landmarks, ...] = ("pivoted", "greedy", "random")
_ROUNDS = 10  # of columns: landmarks of a round are chosen by what the rounds before left over


@dataclass(frozen=True)
class Nystrom:
    """A low-rank approximation ``U diag(values) U'`` of a Gram matrix.

    Parameters
    ----------
    values
        Eigenvalues, largest first, shape (rank,); positive.
    vectors
        U, orthonormal columns, shape (n, rank).
    landmarks
        Numbers of the columns it was made of; fewer than asked for where more would add nothing.
    """

    values: Float[Tensor, " rank"]
    vectors: Float[Tensor, "n rank"]
    landmarks: Int[Tensor, " rank"]

    def precondition(self, right: Float[Tensor, "n k"], shift: float) -> Float[Tensor, "n k"]:
        """The inverse preconditioner of ``K + shift I`` times `right`."""
        if not len(self.values):
            return right.clone()
        gain = (self.values[-1] + shift) / (self.values + shift) - 1.0
        return right + self.vectors @ (gain[:, None] * (self.vectors.T @ right))

    def inside(self, right: Float[Tensor, "n k"], shift: float) -> Float[Tensor, "n k"]:
        """``U (diag(values) + shift I)^(-1) U' right``."""
        return self.vectors @ ((self.vectors.T @ right) / (self.values + shift)[:, None])

    def inside_diagonal(self, shift: float) -> Float[Tensor, " n"]:
        """The diagonal of ``U (diag(values) + shift I)^(-1) U'``."""
        return self.vectors.square() @ (1.0 / (self.values + shift))

    def outside(self, right: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """``(I - U U') right``."""
        return right - self.vectors @ (self.vectors.T @ right)

    def outside_diagonal(self) -> Float[Tensor, " n"]:
        """The diagonal of ``I - U U'``."""
        return (1.0 - self.vectors.square().sum(1)).clamp(min=0.0)


def default_rank(n: int) -> int:
    """``5 sqrt(n)``, at least 100, at most n: 1,118 of 50,000."""
    return min(n, max(100, round(5 * n**0.5)))


def check_rank(rank: Any, n: int) -> None:
    """Refuse what is no whole number from 1 to n."""
    if not is_count(rank) or rank > n:
        raise ValueError(f"rank: expected a whole number from 1 to {n}, got {rank!r}")


def nystrom(gram: GramLike, rank: int, *, landmarks: Landmarks = "pivoted", generator: torch.Generator) -> Nystrom:
    """Approximate a Gram matrix by some of its columns, taken in at most ten rounds.

    Parameters
    ----------
    gram
        The matrix K, (n, n).
    rank
        How many columns.
    landmarks
        ``"random"``: uniformly. ``"greedy"``: those with the largest residual ``K_ii - (F F')_ii``, pivoted Cholesky by
        blocks. ``"pivoted"``: drawn with probabilities proportional to that residual, randomly pivoted Cholesky (Y.
        Chen, E. N. Epperly, J. A. Tropp and R. J. Webber, 2022) by blocks, which far outliers do not mislead.
    generator
        Of the draws, on the CPU.

    Raises
    ------
    ValueError
        If `rank` is not in 1 ... n, or `landmarks` is unknown.
    """
    n = gram.shape[0]
    check_rank(rank, n)
    if landmarks not in LANDMARKS:
        raise ValueError(
            f"landmarks: expected one of {', '.join(LANDMARKS)}, got {landmarks!r}{nearest(str(landmarks), LANDMARKS)}"
        )
    factor = torch.zeros(n, rank, dtype=torch.float64)
    rest = gram.diagonal()
    floor = n * torch.finfo(gram.dtype).eps * float(rest.max())  # smaller residuals are rounding errors
    rounds = 1 if landmarks == "random" else _ROUNDS
    found: list[Tensor] = []
    size = 0
    while size < rank:
        left = (rest > floor).nonzero()[:, 0]
        index = _draw(rest[left], min(-(-rank // rounds), rank - size), landmarks, generator)
        if not len(index):
            break
        index = left[index]
        block, kept = _residual_factor(gram.columns(index), factor[:, :size], index, floor)
        factor[:, size : size + len(kept)] = block
        found.append(index[kept])
        size += len(kept)
        rest = (rest - block.square().sum(1)).clamp(min=0.0)
        rest[index] = 0.0  # also those that the others of the block made superfluous
    return _eigenvectors(factor[:, :size], torch.cat(found) if found else torch.zeros(0, dtype=torch.int64))


def _draw(rest: Tensor, count: int, landmarks: Landmarks, generator: torch.Generator) -> Tensor:
    count = min(count, len(rest))
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    if landmarks == "greedy":
        return rest.topk(count).indices
    if landmarks == "random":
        return torch.randperm(len(rest), generator=generator)[:count]
    # the largest keys log(u) / w are a draw without replacement (Efraimidis and Spirakis, 2006); torch.multinomial
    # takes no more than 2^24 categories
    keys = torch.rand(len(rest), generator=generator, dtype=torch.float64).log() / rest
    return keys.topk(count).indices


def _residual_factor(columns: Tensor, factor: Tensor, index: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """A factor of the part of the columns that `factor` has not, by pivoted Cholesky inside the block.

    Returns the new columns of the factor, and which of `index` they belong to: those that others of the block
    determine are left out.
    """
    columns = columns - factor @ factor[index].T
    core = columns[index]
    kept: list[int] = []
    lower = torch.zeros(len(index), len(index), dtype=torch.float64)
    rest = core.diagonal().clone()
    for step in range(len(index)):
        pivot = int(rest.argmax())
        if rest[pivot] <= floor:
            break
        column = core[:, pivot] - lower[:, :step] @ lower[pivot, :step]
        lower[:, step] = column / rest[pivot].sqrt()
        rest = rest - lower[:, step].square()
        rest[pivot] = -float("inf")
        kept.append(pivot)
    order = torch.tensor(kept, dtype=torch.int64)
    square = lower[order, : len(kept)].tril()
    return torch.linalg.solve_triangular(square, columns[:, order].T, upper=False).T, order


def _eigenvectors(factor: Tensor, landmarks: Tensor) -> Nystrom:
    """The eigendecomposition of ``F F'``, by QR, which keeps small eigenvalues."""
    orthonormal, upper = torch.linalg.qr(factor)
    left, roots, _ = torch.linalg.svd(upper)
    kept = roots > 0
    return Nystrom(roots[kept].square(), (orthonormal @ left[:, kept]).contiguous(), landmarks)

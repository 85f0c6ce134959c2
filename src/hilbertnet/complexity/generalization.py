r"""Margin bounds in the RKHS, in which every constant and logarithm is written.

**Margin bound.** Let m be the margin of f at an example (`hilbertnet.complexity.margins`), gamma > 0, ``t = ||f|| /
gamma``, and ``T = t_0 2^k`` the first of t_0, 2 t_0, 4 t_0, ... that is at least t, with ``delta_k = delta / ((k + 1)
(k + 2))``. With probability at least 1 - delta over N independent examples, for all f in the RKHS and all gamma > 0 at
once,

.. math::

   P(m \le 0) \le \frac{\#\{i: m_i \le \gamma\}}{N} + \frac{2 c \, T}{N} \sqrt{\sum_i K(x_i, x_i)}
   + 3 \sqrt{\frac{\log(2 / \delta_k)}{2 N}}.

Since f is chosen by the data, so are its norm and gamma. Both enter through t alone, because f / gamma has norm t and
margin 1: the theorem for a ball is taken for the balls of radii T, whose probabilities of failure sum to delta. That
theorem is theorem 3.3 and lemma 5.7 (contraction, for the ramp loss) of Mohri et al., as in their corollary 6.13, which
goes back to Bartlett and Mendelson. Where a number R with ``||Phi(x)|| <= R`` for *every* x, seen or not, is known
beforehand, the last two terms become ``2 c T R / sqrt(N)`` and ``sqrt(log(1 / delta_k) / (2 N))``; the largest norm in
the sample is no such R.

For one output c = 1. For K > 1 outputs ``c = 2 sqrt(K)``, with ``||f||^2 = sum_k ||f_k||^2``: the margin is
sqrt(2)-Lipschitz in the l2 norm of logits, and the vector contraction of Maurer costs another sqrt(2) and a sum over
outputs.

**Robust version.** If Phi is L-Lipschitz, then a perturbation of length eps changes f by at most ``eps L ||f||``, a
margin between two logits by at most sqrt(2) as much. The same bound then holds for ``P(m <= 0 at some x + d, ||d|| <=
eps)``, if ``gamma`` in the count is replaced by ``gamma + s eps L T gamma``, s = 1 for one output and sqrt(2) for more.
Because T <= 2 t (where t >= t_0), the shift is at most ``2 s eps L ||f||``; on a fixed ball the 2 is not there.

References: M. Mohri, A. Rostamizadeh and A. Talwalkar, "Foundations of machine learning", second edition, MIT Press,
2018; P. Bartlett and S. Mendelson, "Rademacher and Gaussian complexities: risk bounds and structural results", JMLR
2002; A. Maurer, "A vector-contraction inequality for Rademacher complexities", ALT 2016; A. Bietti, G. Mialon, D. Chen
and J. Mairal, "A kernel perspective for regularizing deep neural networks", ICML 2019 (robust version).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilbertnet.complexity.rademacher import RademacherBounds, rademacher_bounds
from hilbertnet.complexity.real_numbers import real_number, real_numbers
from hilbertnet.signals import is_count
from hilbertnet.text import columns

__all__ = ["MarginBound", "RademacherBounds", "best_margin_bound", "margin_bound", "rademacher_bounds"]


@dataclass(frozen=True)
class MarginBound:
    """A bound of the probability of a wrong decision, with all its terms; ``print`` it.

    Parameters
    ----------
    count, outputs
        N, and how many outputs the function has.
    norm, gamma, delta
        ``||f||``, the margin, and the probability with which the bound may fail.
    fraction
        Of examples whose margin is at most `threshold`.
    size
        ``sqrt(sum_i K(x_i, x_i) / N)``, or R if it was given.
    known_radius
        Whether R was given.
    start
        t_0.
    epsilon, lipschitz
        Of the robust version; `epsilon` 0 without.
    """

    count: int
    outputs: int
    norm: float
    gamma: float
    delta: float
    fraction: float
    size: float
    known_radius: bool
    start: float
    epsilon: float = 0.0
    lipschitz: float = 1.0

    @property
    def step(self) -> int:
        """k, the number of the ball."""
        return _step(self.norm, self.gamma, self.start)

    @property
    def ball(self) -> float:
        """T, the radius of that ball, in units of gamma."""
        return self.start * 2.0**self.step

    @property
    def threshold(self) -> float:
        """The margin up to which examples are counted."""
        return _threshold(self.gamma, self.ball, self.outputs, self.epsilon * self.lipschitz)

    @property
    def share(self) -> float:
        """delta_k, this ball's part of delta."""
        return self.delta / ((self.step + 1) * (self.step + 2))

    @property
    def complexity(self) -> float:
        """``2 c T size / sqrt(N)``."""
        constant = 2.0 if self.outputs == 1 else 4.0 * math.sqrt(self.outputs)
        return constant * self.ball * self.size / math.sqrt(self.count)

    @property
    def confidence(self) -> float:
        """The term with the logarithm."""
        factor, top = (1.0, 1.0) if self.known_radius else (3.0, 2.0)
        return factor * math.sqrt(math.log(top / self.share) / (2 * self.count))

    @property
    def value(self) -> float:
        """The sum of the three terms; from 1 on it says nothing."""
        return self.fraction + self.complexity + self.confidence

    @property
    def terms(self) -> dict[str, float]:
        """The three terms by name, and their sum."""
        return {
            "empirical": self.fraction,
            "complexity": self.complexity,
            "confidence": self.confidence,
            "bound": self.value,
        }

    def __str__(self) -> str:
        what = "error" if self.epsilon == 0 else f"error under perturbations of at most {self.epsilon:g}"
        size = "R" if self.known_radius else "sqrt(tr K / N)"
        c = "2" if self.outputs == 1 else f"4 sqrt({self.outputs})"
        log = "sqrt(log(1/delta_k) / 2N)" if self.known_radius else "3 sqrt(log(2/delta_k) / 2N)"
        formulas = {
            "empirical": f"margins <= {self.threshold:.4g}",
            "complexity": f"{c} T {size} / sqrt(N)",
            "confidence": log,
            "bound": "their sum" + (", which says nothing" if self.value >= 1 else ""),
        }
        rows = [["term", "value", "formula"], *([n, f"{v:.4g}", formulas[n]] for n, v in self.terms.items())]
        lines = [
            f"{what}, with probability at least {1 - self.delta:g}",
            f"N = {self.count}, {self.outputs} output{'' if self.outputs == 1 else 's'}, ||f|| = {self.norm:.4g}, "
            f"gamma = {self.gamma:.4g}, {size} = {self.size:.4g}",
            f"ball k = {self.step}: T = {self.start:g} * 2^k = {self.ball:.4g} >= ||f|| / gamma = "
            f"{self.norm / self.gamma:.4g}, delta_k = delta / ((k+1)(k+2)) = {self.share:.3g}",
        ]
        if self.epsilon:
            lines.append(
                f"shift of margins {self.threshold - self.gamma:.4g}, for eps = {self.epsilon:g} and a representation "
                f"that is {self.lipschitz:.4g}-Lipschitz"
            )
        return "\n".join([*lines, columns(rows)])


def margin_bound(
    margins: Any,
    norm: float,
    diagonal: Any = None,
    *,
    gamma: float,
    radius: float | None = None,
    outputs: int = 1,
    delta: float = 0.05,
    epsilon: float = 0.0,
    lipschitz: float = 1.0,
    start: float = 1.0,
) -> MarginBound:
    """The margin bound of this module, for a function that may depend on the data in any way.

    Parameters
    ----------
    margins
        Of the N training examples, shape (N,).
    norm
        RKHS norm of f, or an upper bound of it; of several outputs ``sqrt(sum_k ||f_k||^2)``.
    diagonal
        ``K(x_i, x_i)`` of the same examples, shape (N,). Not needed with `radius`.
    gamma
        The margin, positive; it may be chosen after seeing the data (`best_margin_bound`).
    radius
        R with ``||Phi(x)|| <= R`` for every x, known before the data.
    outputs
        How many outputs f has; one tells two classes apart.
    delta
        Probability with which the bound may fail, in (0, 1).
    epsilon
        Largest l2 norm of perturbations; 0 for the bound without any.
    lipschitz
        An upper bound of the Lipschitz constant of Phi; used with `epsilon`.
    start
        t_0, fixed before the data.

    Raises
    ------
    ValueError
        If an argument is not of this form, or neither `diagonal` nor `radius` is given.

    Examples
    --------
    >>> bound = margin_bound([1.0] * 900 + [0.1] * 100, 3.0, [1.0] * 1000, gamma=0.5)
    >>> bound.step, bound.ball, bound.fraction
    (3, 8.0, 0.1)
    >>> print(bound)
    error, with probability at least 0.95
    N = 1000, 1 output, ||f|| = 3, gamma = 0.5, sqrt(tr K / N) = 1
    ball k = 3: T = 1 * 2^k = 8 >= ||f|| / gamma = 6, delta_k = delta / ((k+1)(k+2)) = 0.0025
    term         value                       formula
    ----------  ------  ----------------------------
    empirical      0.1                margins <= 0.5
    complexity   0.506  2 T sqrt(tr K / N) / sqrt(N)
    confidence  0.1734   3 sqrt(log(2/delta_k) / 2N)
    bound       0.7794                     their sum
    """
    problem = _Problem(margins, norm, diagonal, radius, outputs, delta, epsilon, lipschitz, start)
    return problem.bound(real_number("gamma", gamma, above=0.0))


def best_margin_bound(
    margins: Any,
    norm: float,
    diagonal: Any = None,
    *,
    radius: float | None = None,
    outputs: int = 1,
    delta: float = 0.05,
    epsilon: float = 0.0,
    lipschitz: float = 1.0,
    start: float = 1.0,
    gammas: Sequence[float] | None = None,
) -> MarginBound:
    """The least margin bound over gamma, which costs nothing: the bound holds for all gamma at once.

    Arguments and errors are those of `margin_bound`.

    Parameters
    ----------
    margins, norm, diagonal, radius, outputs, delta, epsilon, lipschitz, start
        See `margin_bound`.
    gammas
        Values to try; default those where the ball changes, ``||f|| / (t_0 2^k)``: between two of them the complexity
        is constant, and fewer examples count the smaller gamma is.
    """
    problem = _Problem(margins, norm, diagonal, radius, outputs, delta, epsilon, lipschitz, start)
    if gammas is None:
        # beyond k = 60 the complexity term is far above 1 for any sample
        least = problem.norm / problem.start * (1 + 1e-12)  # rounding must not make t larger than the ball
        tried = [least / 2.0**k for k in range(61)] if problem.norm > 0 else [1.0]
    else:
        tried = [float(gamma) for gamma in real_numbers("gammas", gammas, above=0.0)]
    return min((problem.bound(gamma) for gamma in tried if gamma > 0), key=lambda bound: bound.value)


class _Problem:
    """A sample and a function, checked once."""

    def __init__(
        self,
        margins: Any,
        norm: float,
        diagonal: Any,
        radius: float | None,
        outputs: int,
        delta: float,
        epsilon: float,
        lipschitz: float,
        start: float,
    ) -> None:
        self.margins = np.sort(real_numbers("margins", margins))
        self.norm = real_number("norm", norm, least=0.0)
        self.start = real_number("start", start, above=0.0)
        self.epsilon = real_number("epsilon", epsilon, least=0.0)
        self.lipschitz = real_number("lipschitz", lipschitz, least=0.0)
        self.delta = real_number("delta", delta, above=0.0)
        if self.delta >= 1:
            raise ValueError(f"delta: expected a probability between 0 and 1, got {delta!r}")
        if not is_count(outputs):
            raise ValueError(f"outputs: expected a whole number of at least 1, got {outputs!r}")
        self.outputs, self.known_radius = outputs, radius is not None
        if radius is not None:
            self.size = real_number("radius", radius, least=0.0)
            return
        if diagonal is None:
            raise ValueError("diagonal: expected K(x_i, x_i) of the examples, or a radius that is known, got neither")
        squares = real_numbers("diagonal", diagonal, least=0.0)
        if len(squares) != len(self.margins):
            raise ValueError(f"diagonal: expected {len(self.margins)} numbers, as many as margins, got {len(squares)}")
        self.size = math.sqrt(float(squares.mean()))

    def bound(self, gamma: float) -> MarginBound:
        if not math.isfinite(2 * self.norm / gamma):
            raise ValueError(
                f"gamma: expected a margin that is not negligible beside the norm {self.norm:g}, got {gamma!r}"
            )
        ball = self.start * 2.0 ** _step(self.norm, gamma, self.start)
        threshold = _threshold(gamma, ball, self.outputs, self.epsilon * self.lipschitz)
        fraction = float(np.searchsorted(self.margins, threshold, side="right")) / len(self.margins)
        return MarginBound(
            len(self.margins), self.outputs, self.norm, gamma, self.delta, fraction, self.size, self.known_radius,
            self.start, self.epsilon, self.lipschitz,
        )  # fmt: skip


def _step(norm: float, gamma: float, start: float) -> int:
    """The least k >= 0 with ``start 2^k >= norm / gamma``."""
    ratio = norm / gamma
    step = max(0, math.ceil(math.log2(ratio / start))) if ratio > start else 0
    return step + 1 if start * 2.0**step < ratio else step  # the logarithm is rounded


def _threshold(gamma: float, radius: float, outputs: int, moved: float) -> float:
    """``gamma (1 + s eps L T)``."""
    return gamma * (1.0 + (1.0 if outputs == 1 else math.sqrt(2.0)) * moved * radius)

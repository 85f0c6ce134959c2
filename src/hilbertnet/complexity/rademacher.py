r"""Rademacher complexities of balls in the RKHS.

The empirical Rademacher complexity of ``{f: ||f|| <= B}`` on x_1 ... x_N is

.. math:: \frac{B}{N} E \Big\| \sum_i \sigma_i \Phi(x_i) \Big\| \le \frac{B}{N} \sqrt{\sum_i K(x_i, x_i)}
   \le \frac{B R}{\sqrt N}, \qquad R = \max_i \|\Phi(x_i)\|,

and at least the second term over sqrt(2) (Khintchine's inequality in a Hilbert space).

References: P. Bartlett and S. Mendelson, "Rademacher and Gaussian complexities: risk bounds and structural results",
JMLR 2002, lemma 22; R. Latala and K. Oleszkiewicz, "On the best constant in the Khinchin-Kahane inequality", Studia
Mathematica 1994 (the constant sqrt(2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hilbertnet.complexity.real_numbers import real_number, real_numbers
from hilbertnet.text import columns

__all__ = ["RademacherBounds", "rademacher_bounds"]


@dataclass(frozen=True)
class RademacherBounds:
    """Bounds of the empirical Rademacher complexity of a ball in the RKHS; ``print`` it.

    Parameters
    ----------
    norm
        B, the ball's radius.
    count
        N.
    largest
        ``R = max ||Phi(x_i)||``.
    trace
        ``sum_i K(x_i, x_i)``.
    """

    norm: float
    count: int
    largest: float
    trace: float

    @property
    def from_radius(self) -> float:
        """``B R / sqrt(N)``."""
        return self.norm * self.largest / math.sqrt(self.count)

    @property
    def from_trace(self) -> float:
        """``(B / N) sqrt(sum_i K(x_i, x_i))``, never above `from_radius`."""
        return self.norm * math.sqrt(self.trace) / self.count

    @property
    def below(self) -> float:
        """`from_trace` over sqrt(2), which the complexity is never below."""
        return self.from_trace / math.sqrt(2.0)

    def __str__(self) -> str:
        rows = [
            ["Rademacher complexity", "value", "formula"],
            ["from the largest norm", f"{self.from_radius:.4g}", "B R / sqrt(N)"],
            ["from the trace", f"{self.from_trace:.4g}", "B sqrt(tr K) / N"],
            ["at least", f"{self.below:.4g}", "B sqrt(tr K) / (N sqrt(2))"],
        ]
        given = f"B = {self.norm:.4g}, N = {self.count}, R = {self.largest:.4g}, tr K = {self.trace:.4g}"
        return f"{given}\n{columns(rows)}"


def rademacher_bounds(norm: float, diagonal: Any) -> RademacherBounds:
    """Bounds of the empirical Rademacher complexity of ``{f: ||f|| <= norm}``.

    Parameters
    ----------
    norm
        B, at least 0.
    diagonal
        ``K(x_i, x_i)`` of the sample, shape (N,).

    Raises
    ------
    ValueError
        If a number is negative or not finite.

    Examples
    --------
    >>> found = rademacher_bounds(2.0, [1.0, 4.0, 4.0, 0.0])
    >>> found.from_radius, found.from_trace
    (2.0, 1.5)
    """
    squares = real_numbers("diagonal", diagonal, least=0.0)
    largest, trace = math.sqrt(float(squares.max())), float(squares.sum())
    return RademacherBounds(real_number("norm", norm, least=0.0), len(squares), largest, trace)

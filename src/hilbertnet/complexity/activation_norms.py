"""Whether a neuron is in the RKHS of a dot-product kernel, and with what norm.

The homogeneous neuron ``f(z) = ||z|| s(<g, z> / ||z||)`` with ``s(u) = sum_j a_j u^j`` has, in the RKHS of ``||z||
||z'|| kappa(cos(z, z'))`` with ``kappa(u) = sum_j b_j u^j``, ``||f||^2 <= C^2(||g||^2)`` with ``C^2(L) = sum_j a_j^2 /
b_j L^j``. It is in the RKHS where the sum is finite.

References
----------
Y. Zhang, J. Lee and M. Jordan, "l1-regularized neural networks are improperly learnable in polynomial time", ICML 2016;
A. Bietti and J. Mairal, "Group invariance, stability to deformations, and complexity of deep convolutional
representations", JMLR 2019, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilbertnet.architecture.dot_product import DotProductKernel
from hilbertnet.complexity.activations import Activation, as_activation, scaled
from hilbertnet.complexity.series import Growth, KernelSeries, kernel_series, log_of
from hilbertnet.text import columns, nearest

__all__ = ["ActivationNorm", "ReluSurrogate", "ReluSurrogates", "activation_norm", "relu_surrogates", "term_logs"]

_FIRST, _MOST = 64, 2**21  # terms of a series
_LARGEST = 2000.0  # logarithm of a partial sum of which no more terms are asked for
_WANTED = 1e-15  # relative size of what is left out
_QUADRATURE = 1e-15  # error of a Hermite coefficient, whose square is b_j


@dataclass(frozen=True)
class ActivationNorm:
    """The answer whether an activation is in an RKHS at a radius.

    Parameters
    ----------
    activation, kernel
        Their names.
    radius
        ``||g||``, lambda in the figures.
    inside
        Whether the neuron is in the RKHS; ``None`` where what is known of the coefficients does not decide it.
    squared
        ``C^2(radius^2)``, an upper bound of the squared norm; infinite unless `inside`, or above 1e308.
    log_squared
        Its natural logarithm.
    error
        What `squared` may be off by, relatively: the terms left out and rounding.
    largest_radius
        Radius up to which the series converges (infinite for ever); NaN where that is not known.
    terms
        How many terms were summed.
    reason
        One sentence.
    """

    activation: str
    kernel: str
    radius: float
    inside: bool | None
    squared: float
    log_squared: float
    error: float
    largest_radius: float
    terms: int
    reason: str

    @property
    def value(self) -> float:
        """C(radius^2), an upper bound of the norm."""
        return math.exp(self.log_squared / 2) if self.log_squared < 1400 else math.inf

    def __bool__(self) -> bool:
        return self.inside is True

    def __str__(self) -> str:
        verdict = {True: "is in", False: "is not in", None: "is not known to be in"}[self.inside]
        number = f": C = {self.value:.6g}, C^2 = {self.squared:.10g}" if self.inside else ""
        return f"{self.activation} {verdict} the RKHS of {self.kernel} at radius {self.radius:g}{number}; {self.reason}"


def activation_norm(activation: str | Activation, kernel: DotProductKernel, radius: float) -> ActivationNorm:
    """Whether ``||z|| s(<g, z> / ||z||)`` with ``||g|| = radius`` is in the RKHS of `kernel`, and its norm.

    Parameters
    ----------
    activation
        An `Activation`, a name of `hilbertnet.complexity.activations.SERIES`, or ``"power3"``.
    kernel
        Any dot-product kernel of `hilbertnet.architecture`.
    radius
        ``||g||``, not squared.

    Returns
    -------
    ActivationNorm
        True in a condition if it is in the RKHS; else the norm is infinite, and the reason is given.

    Raises
    ------
    ValueError
        If an argument is of another kind, or the radius is negative or not finite.

    Examples
    --------
    >>> from hilbertnet.architecture import Exponential, ArcCosine
    >>> answer = activation_norm("sin", Exponential(1.0), 1.0)
    >>> round(answer.squared, 9)
    3.194528049
    >>> print(activation_norm("sin", ArcCosine(1), 1.0))
    sin is not in the RKHS of arccos1 at radius 1; a_3 is not 0 where b_3 = 0
    """
    activation = as_activation(activation)
    if not isinstance(kernel, DotProductKernel):
        raise ValueError(f"kernel: expected a dot-product kernel such as Exponential(0.6), got {kernel!r}")
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 <= radius < math.inf:
        raise ValueError(f"radius: expected a number of at least 0, got {radius!r}")
    return _Answer(activation, kernel, float(radius)).find()


def term_logs(activation: Activation, kernel: DotProductKernel, count: int) -> NDArray[np.float64]:
    """Logarithms of a_j^2 / b_j, j < count: -inf where a_j = 0, inf where b_j alone is 0."""
    assert activation.logs is not None
    return _term_logs(activation, kernel_series(kernel), count)


def _term_logs(activation: Activation, series: KernelSeries, count: int) -> NDArray[np.float64]:
    assert activation.logs is not None
    squares, b = 2 * activation.logs(count), series.logs(count)
    if activation.noise is not None:  # the largest that it may be
        squares = 2 * log_of(np.exp(squares / 2) + activation.noise(count))
    used = ~np.isneginf(squares)
    return np.subtract(squares, b, out=np.full(count, -np.inf), where=used)


@dataclass(frozen=True)
class _Answer:
    activation: Activation
    kernel: DotProductKernel
    radius: float

    def find(self) -> ActivationNorm:
        if self.activation.logs is None:
            return self._outside(f"{self.activation.name} has no Taylor series at 0", limit=0.0)
        series = kernel_series(self.kernel)
        degree, limit = self.activation.degree, math.inf
        count = max(_FIRST, 1 + (degree or 0), 9 + (series.degree or 0))
        if self.radius == 0.0:
            degree = 0
        problem = self._gap_in_kernel(series, count if degree is None else degree + 1)
        if problem is not None:
            return problem
        if degree is not None:
            return self._sum(series, degree + 1, -math.inf, self._limit(series))
        limit = self._limit(series)
        if math.isnan(limit):
            return self._unknown(_undecided(self.activation, series))
        if limit == 0.0:
            return self._outside("the series diverges at every radius above 0", limit)
        if self.radius >= limit:
            if self.activation.growth is None:
                return self._unknown(
                    f"its Taylor coefficients are known to be small enough up to radius {limit:.6g} only"
                )
            if self.radius < limit * (1 + 1e-9):
                return self._unknown(f"the radius of convergence is {limit:.6g}", limit)
            return self._outside(f"the series diverges beyond radius {limit:.6g}", limit)
        return self._to_the_end(series, count, limit)

    # --- what the coefficients say

    def _gap_in_kernel(self, series: KernelSeries, count: int) -> ActivationNorm | None:
        """The answer where a_j is not 0 and b_j is."""
        assert self.activation.logs is not None
        a, b = self.activation.logs(count), series.logs(count)
        with np.errstate(divide="ignore"):
            missing = b <= (np.log(series.floor) if series.floor else -np.inf)
        noise = np.zeros(count) if self.activation.noise is None else self.activation.noise(count)
        sure, possible = missing & (a > np.log(2 * noise + 1e-320)), missing & ((noise > 0) | ~np.isneginf(a))
        if self.activation.noise is None:
            sure = possible
        if series.floor and possible.any():
            j = int(np.argmax(possible))
            return self._unknown(f"b_{j} is known by quadrature only, and is not told from 0")
        if sure.any():
            j = int(np.argmax(sure))
            return self._outside(f"a_{j} is not 0 where b_{j} = 0", 0.0)
        if possible.any():
            j = int(np.argmax(possible))
            return self._unknown(
                f"b_{j} = 0, and a_{j} is not told from 0: give the Taylor coefficients by `polynomial`"
            )
        return None

    def _limit(self, series: KernelSeries) -> float:
        """Radius of convergence in ||g||, NaN where not known."""
        if self.activation.degree is not None:
            return math.inf
        fall = self.activation.growth or self._envelope_growth()
        if fall is None or series.growth is None:
            return math.nan
        excess = series.growth.order - 2 * fall.order
        if excess > 0:
            return 0.0 if self.activation.growth else math.nan
        return math.inf if excess < 0 else math.sqrt(series.growth.scale) / fall.scale

    def _envelope_growth(self) -> Growth | None:
        return None if self.activation.envelope is None else Growth(1.0 / self.activation.envelope[1], 0.0)

    # --- sums

    def _to_the_end(self, series: KernelSeries, count: int, limit: float) -> ActivationNorm:
        answer: ActivationNorm | None = None
        while count <= _MOST and (answer is None or answer.log_squared < _LARGEST):
            tail = self._tail(series, count)
            answer = self._sum(series, count, tail, limit)
            if tail - answer.log_squared < math.log(_WANTED):
                return answer
            count *= 2
        return self._unknown("finite, but too large to be summed at this radius", limit, inside=True)

    def _tail(self, series: KernelSeries, count: int) -> float:
        """Logarithm of an upper bound of the terms from `count` on: both parities are at most geometric."""
        if self.radius == 0.0:
            return -math.inf
        fall, falls = self.activation.growth or self._envelope_growth(), series.growth
        assert fall is not None
        assert falls is not None
        at = count - 1.0  # (j + 1) at j = count - 2
        log_ratio = 4 * math.log(self.radius * fall.scale) - 2 * math.log(falls.scale)
        log_ratio += (2 * falls.order - 4 * fall.order) * math.log(at) + math.log1p(falls.correction / at)
        if log_ratio >= -1e-12:
            return math.inf
        j = np.arange(count - 2, count)
        if self.activation.envelope is None:
            last = _term_logs(self.activation, series, count)[-2:]
        else:  # where b_j = 0 the terms are 0 or the answer was given before
            size, disc = self.activation.envelope
            last = 2 * math.log(size) - 2 * j * math.log(disc) - series.logs(count)[-2:]
            last = np.where(np.isposinf(last), -np.inf, last)
        start = _log_sum(last + 2 * j * math.log(self.radius))
        return start + log_ratio - math.log(-math.expm1(log_ratio))

    def _sum(self, series: KernelSeries, count: int, tail: float, limit: float) -> ActivationNorm:
        logs = _term_logs(self.activation, series, count)
        if self.radius == 0.0:
            logs[1:] = -np.inf
        else:
            logs = logs + 2 * np.arange(count) * math.log(self.radius)
        total = _log_sum(logs)
        if math.isinf(total):  # the zero function
            return self._answer(True, -math.inf, 0.0, limit, count, "the neuron is zero")
        error = self._rounding(series, logs > total - 50) + (math.exp(tail - total) if tail < total else 0.0)
        if self.activation.degree is not None or self.radius == 0.0:
            reason = f"a sum of {int((~np.isneginf(logs)).sum())} terms"
        else:
            ever = "every radius" if math.isinf(limit) else f"radii below {limit:.6g}"
            reason = f"the series converges at {ever}"
        if total > math.log(np.finfo(float).max):
            reason += f"; C^2 = 10^{total / math.log(10):.1f} is above the largest number"
        return self._answer(True, total, error, limit, count, reason)

    def _rounding(self, series: KernelSeries, matter: NDArray[np.bool_]) -> float:
        """Relative error of the sum from that of the logarithms of the terms that `matter`."""
        assert self.activation.logs is not None
        j = np.flatnonzero(matter)
        b = series.logs(len(matter))[j]
        size = np.abs(_term_logs(self.activation, series, len(matter))[j]) + 2 * np.abs(b)
        size += 2 * j * abs(math.log(self.radius or 1.0))
        error = 4 * np.finfo(float).eps * (1 + float(size.max()))
        if series.floor:  # a Hermite coefficient, whose square is b_j, is good to 1e-15 absolutely
            error += 4 * _QUADRATURE * float(np.exp(-b / 2).max())
        return error

    # --- answers

    def _answer(
        self, inside: bool | None, log: float, error: float, limit: float, terms: int, reason: str
    ) -> ActivationNorm:
        squared = math.exp(log) if log <= math.log(np.finfo(float).max) else math.inf
        return ActivationNorm(
            self.activation.name, str(self.kernel), self.radius, inside, squared, log, error, limit, terms, reason
        )

    def _outside(self, reason: str, limit: float) -> ActivationNorm:
        return self._answer(False, math.inf, 0.0, limit, 0, reason)

    def _unknown(self, reason: str, limit: float = math.nan, inside: bool | None = None) -> ActivationNorm:
        return self._answer(inside, math.inf, math.inf, limit, 0, reason)


def _undecided(activation: Activation, series: KernelSeries) -> str:
    if series.growth is None:
        return "how fast the kernel's Taylor coefficients fall is known from quadrature or a table only"
    return "how fast the activation's Taylor coefficients fall is not known well enough; cut it by `chebyshev`"


def _log_sum(logs: NDArray[np.float64]) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum())) if math.isfinite(top) else top


# --- surrogates of ReLU

# sup |s(u) - relu(u)| over all u: at 0 for the first two; u (1 - Phi(u)) at its largest, u = .7517916
_SURROGATES = {"smooth_relu": 1 / (2 * math.pi), "softplus": math.log(2.0), "gelu": 0.16997120747990369}


@dataclass(frozen=True)
class ReluSurrogate:
    """A smooth function ``s(scale u) / scale`` in the place of ReLU.

    Parameters
    ----------
    scale
        How steep it is.
    sup_error
        Its largest distance from ReLU, over all u.
    norm
        Of the neuron that has it.
    """

    scale: float
    sup_error: float
    norm: ActivationNorm


@dataclass(frozen=True)
class ReluSurrogates:
    """What nearness to ReLU costs in norm."""

    activation: str
    kernel: str
    radius: float
    rows: tuple[ReluSurrogate, ...]

    def __str__(self) -> str:
        table = [["scale", "sup error", f"C of {self.activation} at radius {self.radius:g} on {self.kernel}"]]
        for row in self.rows:
            table.append([f"{row.scale:g}", f"{row.sup_error:.6g}", f"{row.norm.value:.6g}"])
        return columns(table)


def relu_surrogates(
    kernel: DotProductKernel,
    radius: float = 1.0,
    scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    *,
    activation: str = "smooth_relu",
) -> ReluSurrogates:
    """The sup error of smooth surrogates ``s(scale u) / scale`` of ReLU against their norm.

    ReLU itself is in the RKHS of no kernel with an analytic kappa: with the scale the error goes to 0 and the norm to
    infinity.

    Parameters
    ----------
    kernel
        The dot-product kernel.
    radius
        ``||g||``.
    scales
        Positive numbers.
    activation
        ``"smooth_relu"`` (error 1 / (2 pi scale)), ``"softplus"`` (log 2 / scale) or ``"gelu"`` (.17 / scale).

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    if activation not in _SURROGATES:
        hint = nearest(str(activation), _SURROGATES) or f"; known: {', '.join(_SURROGATES)}"
        raise ValueError(f"activation: expected a surrogate of ReLU, got {activation!r}{hint}")
    rows = []
    for scale in scales:
        norm = activation_norm(scaled(activation, scale), kernel, radius)
        rows.append(ReluSurrogate(float(scale), _SURROGATES[activation] / scale, norm))
    return ReluSurrogates(activation, str(kernel), float(radius), tuple(rows))

r"""Radii within which no perturbation changes a decision, from margins and Lipschitz constants.

For ``||delta||_2`` below the radius the decision at x + delta is that at x:

.. math::

   \frac{|f(x)|}{L} \ \text{(one logit)}, \qquad
   \min_{j \ne y} \frac{f_y - f_j}{L_y + L_j} \ \text{(per logit)}, \qquad
   \min_{j \ne y} \frac{f_y - f_j}{\sqrt{2} \, L} \ \text{(logit vector)}, \qquad
   \min_{j \ne y} \frac{f_y - f_j}{L_{yj}} \ \text{(differences)},

where L_k is the constant of f_k, L in the third that of x -> (f_1, ..., f_K), and L_yj that of f_y - f_j. With one
constant for all logits the second is the margin over 2 L. The last is the tightest, since L_yj <= L_y + L_j and L_yj <=
sqrt(2) L.

For functions in the RKHS, ``||f||`` times the Lipschitz constant of Phi is one of f; those of differences come from
the inner products of the f_k (`LipschitzConstants.from_products`).

References: Y. Tsuzuku, I. Sato and M. Sugiyama, "Lipschitz-margin training", NeurIPS 2018 (logit vector); M. Hein and
M. Andriushchenko, "Formal guarantees on the robustness of a classifier against adversarial manipulation", NeurIPS 2017
(differences); A. Bietti, "Foundations of deep convolutional models through kernel methods", 2019, chapter 3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilbertnet.complexity.functions import BATCH, ROUNDING, Model, batched
from hilbertnet.complexity.margins import margins
from hilbertnet.complexity.real_numbers import real_number, real_numbers
from hilbertnet.losses import read_labels
from hilbertnet.metrics import Interval, accuracy_interval
from hilbertnet.text import columns, nearest

if TYPE_CHECKING:
    from hilbertnet.complexity.norms_above import NormBounds

__all__ = ["Certificates", "LipschitzConstants", "certified_radii", "logit_rounding", "read_radii"]

_ROUNDING = 64.0  # of inner products, in units of their precision
_ELSEWHERE = 8.0  # how much more rounding may do near the examples than at them
_FORMS = {"logit": "per logit", "vector": "logit vector", "difference": "differences of logits"}


@dataclass(frozen=True)
class LipschitzConstants:
    """Lipschitz constants, in l2 unless said otherwise, of a classifier from signals to logits, ``None`` if not known.

    Parameters
    ----------
    logit
        Of each logit, shape (outputs,), or one number for all.
    vector
        Of the vector of logits, in l2.
    difference
        Of ``f_j - f_k``, shape (outputs, outputs).

    Raises
    ------
    ValueError
        If nothing is given, or a number is negative or NaN, or a shape is wrong.
    """

    logit: Float[Tensor, " outputs"] | float | None = None
    vector: float | None = None
    difference: Float[Tensor, "outputs outputs"] | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, name) is None for name in _FORMS):
            raise ValueError(f"constants: expected at least one of {', '.join(_FORMS)}, got none")
        for name, axes in (("logit", (0, 1)), ("vector", (0,)), ("difference", (2,))):
            value = getattr(self, name)
            if value is None:
                continue
            found = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
            square = found.ndim < 2 or found.shape[0] == found.shape[1]
            if found.ndim not in axes or not square or not bool((found >= 0).all()):
                what = {"logit": "one number, or one for each output", "vector": "one number"}.get(name)
                expected = what or "a square matrix"
                raise ValueError(f"{name}: expected {expected}, of at least 0, got {value!r}")
            object.__setattr__(self, name, float(found) if name == "vector" else found)

    @classmethod
    def from_layers(cls, bounds: NormBounds, *, pixels: int | None = None) -> LipschitzConstants:
        """All constants of a network by the operator norms of its layers.

        Parameters
        ----------
        bounds
            Of `hilbertnet.complexity.norms_above.norm_bounds`.
        pixels
            For constants in l_inf: how many numbers a signal has. A perturbation of at most r in each of d is one of at
            most ``r sqrt(d)`` in l2; the path norm may be less.
        """
        pairs = bounds.lipschitz_differences if len(bounds.lipschitz_outputs) > 1 else None
        found = cls(bounds.lipschitz_outputs, bounds.lipschitz.value, pairs)
        if pixels is None:
            return found
        found = found.times(math.sqrt(pixels))
        assert isinstance(found.logit, Tensor)
        return cls(found.logit.clamp(max=bounds.lipschitz_sup.value), found.vector, found.difference)

    @classmethod
    def from_products(cls, products: Float[Tensor, "outputs outputs"], lipschitz: float = 1.0) -> LipschitzConstants:
        """All constants of functions ``f_k = <g_k, Phi(.)>`` from the inner products of the g_k.

        Parameters
        ----------
        products
            ``<g_j, g_k>``, shape (outputs, outputs): ``alpha' K alpha`` of a kernel machine, ``W W'`` of a linear one.
        lipschitz
            Lipschitz constant of Phi, positive; infinite where it has none.

        Raises
        ------
        ValueError
            If `products` is not symmetric and positive semi-definite, or `lipschitz` not positive.
        """
        if not (isinstance(lipschitz, int | float) and not isinstance(lipschitz, bool) and lipschitz > 0):
            raise ValueError(f"lipschitz: expected a positive number, got {lipschitz!r}")
        given = torch.as_tensor(products)
        precision = torch.finfo(given.dtype if given.is_floating_point() else torch.float64).eps
        q = given.detach().cpu().double()
        if q.ndim != 2 or q.shape[0] != q.shape[1] or 0 in q.shape or not torch.isfinite(q).all():
            raise ValueError(f"products: expected a finite square matrix, got shape {tuple(q.shape)}")
        slack = max(1e-8, _ROUNDING * precision) * float(q.diagonal().abs().max())
        values = torch.linalg.eigvalsh((q + q.T) / 2)
        if float((q - q.T).abs().max()) > slack or float(values[0]) < -slack:
            raise ValueError(
                "products: expected a symmetric positive semi-definite matrix, got one whose smallest eigenvalue is "
                f"{float(values[0]):.3g}, and whose asymmetry is {float((q - q.T).abs().max()):.3g}"
            )
        squares = q.diagonal().clamp(min=0.0)
        sums = squares[:, None] + squares
        # where f_j and f_k nearly agree rounding would make their difference too small, or nothing
        apart = ((sums - q - q.T).clamp(min=0.0) + _ROUNDING * precision * sums).fill_diagonal_(0.0)
        largest = math.sqrt(max(float(values[-1]), 0.0))
        return cls(_scaled(squares.sqrt(), lipschitz), float(_scaled(torch.tensor(largest), lipschitz)),
                   _scaled(apart.sqrt(), lipschitz))  # fmt: skip

    def times(self, factor: float) -> LipschitzConstants:
        """In units of signals that are longer by a factor, such as ``sqrt(d)`` for those of l_inf on d pixels."""
        checked = real_number("factor", factor, above=0.0)
        return LipschitzConstants(
            None if self.logit is None else checked * self.logit,
            None if self.vector is None else checked * self.vector,
            None if self.difference is None else checked * self.difference,
        )


def _scaled(values: Tensor, factor: float) -> Tensor:
    """``factor * values``, 0 where a value is 0 though the factor be infinite: that function is constant."""
    return torch.where(values > 0, values * factor, 0.0)


@dataclass(frozen=True)
class Certificates:
    """Certified l2 radii of examples; ``print`` it.

    Parameters
    ----------
    radii
        By form (``"per logit"``, ``"logit vector"``, ``"differences of logits"``, or ``"one logit"``), shape (n,),
        float64; 0 where the decision is wrong.
    margins
        Shape (n,).
    unit
        What radii are measured in, for the table.
    """

    radii: dict[str, Float[Tensor, " n"]]
    margins: Float[Tensor, " n"]
    unit: str = "l2"

    @property
    def best(self) -> Float[Tensor, " n"]:
        """The largest radius of all forms, shape (n,)."""
        return torch.stack(list(self.radii.values())).amax(0)

    def certified(self, radius: float, form: str | None = None) -> Tensor:
        """Which examples keep their right decision under all perturbations of at most `radius`, shape (n,).

        Parameters
        ----------
        radius
            At least 0.
        form
            One of `radii`; default the best of each example.
        """
        (checked,) = read_radii([radius])
        if form is not None and form not in self.radii:
            hint = nearest(str(form), self.radii) or f"; known: {', '.join(self.radii)}"
            raise ValueError(f"form: expected one that was certified, got {form!r}{hint}")
        return (self.best if form is None else self.radii[form]) > checked

    def accuracy(self, radius: float, form: str | None = None) -> Interval:
        """Certified accuracy at `radius`, a lower bound of that under any attack, with its confidence interval."""
        kept = self.certified(radius, form).numpy()
        return accuracy_interval([True] * len(kept), kept)

    def table(self, radii: Sequence[float]) -> str:
        """Certified accuracy in percent by radius and form."""
        rows = [[f"{radius:g}", *(f"{100 * self.accuracy(radius, f).value:.2f}" for f in (*self.radii, None))]
                for radius in read_radii(radii)]  # fmt: skip
        return columns([[f"radius ({self.unit})", *(f"{form} (%)" for form in self.radii), "best (%)"], *rows])

    def __str__(self) -> str:
        levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        head = [f"certified radius ({self.unit})", "25%", "50%", "75%", "mean", "largest"]
        rows = []
        for name, values in (*self.radii.items(), *([("best", self.best)] if len(self.radii) > 1 else [])):
            finite = torch.nan_to_num(values, posinf=torch.finfo(torch.float64).max)
            quantiles = finite.kthvalue  # linear interpolation would mix infinities
            picked = [quantiles(max(1, math.ceil(float(q) * len(values)))).values for q in levels]
            numbers = [*picked, values.mean(), values.max()]
            rows.append([name, *(_number(float(v)) for v in numbers)])
        right = int((self.margins > 0).sum())
        return f"{len(self.margins)} examples, {right} decided rightly\n{columns([head, *rows])}"


def _number(value: float) -> str:
    return "inf" if value > 1e300 else f"{value:.4g}"


def certified_radii(
    scores: Float[Tensor, "n outputs"],
    y: Any,
    constants: LipschitzConstants,
    *,
    unit: str = "l2",
    rounding: float | None = None,
) -> Certificates:
    """Certified radii of examples, in every form whose constants are given.

    They hold for the model as it is computed: gaps between logits count less what rounding may have done to them.

    Parameters
    ----------
    scores
        Logits, shape (n, outputs); the sign of one tells two classes apart.
    y
        Numbers of classes, shape (n,).
    constants
        Of the classifier.
    unit
        What distances of signals are measured in, for tables.
    rounding
        What rounding does to a logit at most, near the examples too (see `logit_rounding`); default 16 units of its own
        precision, to which inner layers add where their numbers are large and cancel.

    Raises
    ------
    ValueError
        If shapes do not fit, a label is out of range, or `rounding` is no number of at least 0.

    Examples
    --------
    A linear classifier, whose differences give its distance to the boundary:

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> found = certified_radii(torch.tensor([[3.0, 1.0]]), torch.tensor([0]), LipschitzConstants.from_products(
    ...     weight @ weight.T))
    >>> {form: round(float(radius), 3) for form, radius in found.radii.items()}
    {'per logit': 1.0, 'logit vector': 1.414, 'differences of logits': 1.414}
    """
    found = margins(scores.detach() if isinstance(scores, Tensor) else scores, y).double().cpu()
    values, count = scores.detach().double().cpu(), scores.shape[1]
    lost = ROUNDING * torch.finfo(scores.dtype).eps * values.abs()
    if rounding is not None:
        lost = torch.full_like(values, real_number("rounding", rounding, least=0.0))
    labels = read_labels(y, len(values), count, values.device)
    _check_count(constants, count)
    radii: dict[str, Tensor] = {}
    if count == 1:
        for name in ("logit", "vector"):
            value = getattr(constants, name)
            if value is not None:
                constant = torch.as_tensor(value, dtype=torch.float64).reshape(())
                radius = _over(found - lost[:, 0], constant)
                radii["one logit"] = torch.maximum(radii["one logit"], radius) if radii else radius
        if not radii:
            raise ValueError("constants: expected logit or vector for one output, whose differences say nothing")
        return Certificates(radii, found, unit)
    gaps = values.gather(1, labels[:, None]) - values
    gaps = gaps - lost.gather(1, labels[:, None]) - lost
    for name, form in _FORMS.items():
        value = getattr(constants, name)
        if value is not None:
            radii[form] = (
                _over(gaps, _of_gaps(name, value, labels, count)).scatter(1, labels[:, None], math.inf).amin(1)
            )
    return Certificates(radii, found, unit)


def logit_rounding(model: Model, x: Float[Tensor, "n ..."], scores: Float[Tensor, "n outputs"]) -> float | None:
    """What rounding does to logits of a module near some signals: eight times what it does to those at the signals.

    These are compared with those of a copy in double precision. ``None`` where there is none, or no need of it.

    Parameters
    ----------
    model
        In eval mode.
    x
        Signals, shape (n, ...).
    scores
        The model's logits of them.
    """
    if not isinstance(model, nn.Module) or scores.dtype == torch.float64:
        return None
    try:
        exact = batched(copy.deepcopy(model).double(), x.double(), BATCH)
    except (RuntimeError, TypeError, ValueError):  # no copy, or numbers of single precision in the code
        return None
    return _ELSEWHERE * float((exact - scores.detach()).abs().max())


def _of_gaps(name: str, value: Any, labels: Tensor, count: int) -> Tensor:
    """Constants of ``f_y - f_j`` for every example and j, shape (n, outputs) or less."""
    if name == "vector":
        return torch.tensor(math.sqrt(2.0) * value, dtype=torch.float64)
    if name == "difference":
        return torch.maximum(value, value.T)[labels]
    per_logit = value.expand(count)
    return per_logit[labels][:, None] + per_logit


def _over(gaps: Tensor, constants: Tensor) -> Tensor:
    """Gaps over constants, 0 for gaps that are not positive, infinite for those that cannot change."""
    gaps, constants = torch.broadcast_tensors(gaps.clamp(min=0.0), constants)
    ratio = gaps / torch.where(constants > 0, constants, 1.0)
    return torch.where((constants == 0) & (gaps > 0), math.inf, ratio)


def _check_count(constants: LipschitzConstants, count: int) -> None:
    logit, difference = constants.logit, constants.difference
    if isinstance(logit, Tensor) and logit.ndim == 1 and len(logit) not in (1, count):
        raise ValueError(f"constants: expected {count} numbers in logit, one for each output, got {len(logit)}")
    if difference is not None and len(difference) != count:
        raise ValueError(f"constants: expected difference of shape ({count}, {count}), got {tuple(difference.shape)}")


def read_radii(radii: Any) -> list[float]:
    """Radii, in a list, array or tensor, as increasing numbers, each once.

    Raises
    ------
    ValueError
        If there are none, or one is negative, infinite or no number.
    """
    return sorted(set(real_numbers("radii", radii, least=0.0).tolist()))

"""What ``hilbertnet norms`` found of a run: tables to print, numbers for JSON, and the maximizers as pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hilbertnet.complexity.generalization import MarginBound
from hilbertnet.complexity.lower_bound import LowerBounds
from hilbertnet.complexity.margins import MarginDistribution
from hilbertnet.complexity.norms_above import Bound, LayerNorms, NormBounds
from hilbertnet.metrics import Interval
from hilbertnet.records import known
from hilbertnet.robustness.evaluation import Attacked
from hilbertnet.text import columns

__all__ = ["ExactNorms", "RunNorms"]

_POINTS = 513  # of a distribution that is kept
_SIDE, _BYTES = 256, 2**22  # of kept pictures: pixels of a side, and bytes of all together


@dataclass(frozen=True, eq=False)
class ExactNorms:
    """Of decision functions ``f_k = <g_k, Phi(.)> + b_k`` that are linear in the features of a kernel network.

    Parameters
    ----------
    products
        ``<g_j, g_k>``, shape (outputs, outputs).
    biases
        b_k, shape (outputs,).
    lipschitz
        Upper bound of the Lipschitz constant of Phi, in the l2 norm of preprocessed images.
    """

    products: Tensor
    biases: Tensor
    lipschitz: float

    @property
    def norms(self) -> Tensor:
        """``||g_k||``, the RKHS norm of f_k without its constant, shape (outputs,)."""
        return self.products.diagonal().clamp(min=0).sqrt()

    @property
    def whole(self) -> float:
        """Of all outputs and constants: a constant is the function of norm |b| of one feature more, 1 everywhere."""
        return float((self.norms.square() + self.biases.square()).sum().sqrt())

    def of(self, output: tuple[int, ...]) -> float:
        """The norm of one output, or of the difference of two."""
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[: len(output)]
        rows = torch.tensor(output)
        return float((sign @ self.products[rows][:, rows] @ sign).clamp(min=0).sqrt())


@dataclass(frozen=True, eq=False)
class RunNorms:
    """Norms of a run's decision functions; ``print`` it.

    Parameters
    ----------
    outputs
        What they are called.
    exact
        RKHS norms, where the model is a kernel network.
    above
        Norms of a plain network from above; ``None`` for kernel networks, and where there is a `reason`.
    reason
        Why nothing is known from above.
    slopes
        Lower bounds by gradients of every output's norm; NaN where they were not computed.
    constants
        Lipschitz constants of every output, at most; infinite where nothing is known.
    output
        Which output `below` is of; or two, whose difference is meant.
    constant
        Of that function, at most.
    below
        Lower bounds of its norm, on held-out examples.
    distribution
        Of the margins of training examples.
    bounds
        Of the probability of error: without perturbations, and under those of every radius; none without a norm.
    attacked
        Held-out examples under attack, with their certificates.
    preprocessed
        Whether images are preprocessed, so that their numbers are no grey levels.
    """

    outputs: tuple[str, ...]
    exact: ExactNorms | None
    above: NormBounds | None
    reason: str
    slopes: Tensor
    constants: Tensor
    output: tuple[int, ...]
    constant: float
    below: LowerBounds
    distribution: MarginDistribution
    bounds: tuple[MarginBound, ...]
    attacked: Attacked
    preprocessed: bool

    @property
    def name(self) -> str:
        """Of the function that was bounded from below."""
        return " - ".join(self.outputs[k] for k in self.output)

    def __str__(self) -> str:
        parts = [self._by_output()]
        if self.exact is None:
            parts.append(f"from above: nothing, as {self.reason}" if self.above is None else str(self.above))
        where = "" if self.exact is not None else ", for any kernel map that is non-expansive"
        parts.append(f"from below, on held-out examples{where}: {self.name}\n{self.below}")
        parts.append(f"training examples\n{self.distribution}")
        if self.bounds:
            rows = [[f"{bound.epsilon:g}", f"{bound.value:.4g}"] for bound in self.bounds[1:]]
            under = columns([["under perturbations of at most", "bound"], *rows])
            parts.append(f"{self.bounds[0]}\n\n{under}" if rows else str(self.bounds[0]))
        parts.append(f"held-out examples, l2 perturbations\n{self.attacked}")
        if self.attacked.certificates is not None:
            parts.append(str(self.attacked.certificates))
        return "\n\n".join(parts)

    def _by_output(self) -> str:
        table = [["decision function", "from below by gradients", "Lipschitz constant at most"]]
        if self.exact is not None:
            table[0][1:1] = ["||g||", "bias"]
        for k, name in enumerate(self.outputs):
            row = [name, f"{float(self.slopes[k]):.4g}", f"{float(self.constants[k]):.4g}"]
            if self.exact is not None:
                row[1:1] = [f"{float(self.exact.norms[k]):.4g}", f"{float(self.exact.biases[k]):.3g}"]
            table.append(row)
        if self.exact is None:
            return f"a plain network: no exact norm\n{columns(table)}"
        told = f"RKHS norms in the network's own kernel; Phi is {self.exact.lipschitz:.4g}-Lipschitz"
        return f"{told}\n{columns(table)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is infinite or unknown is ``None``."""
        exact, attacked = self.exact, self.attacked
        certificates = attacked.certificates
        clean = float(attacked.clean.double().mean())
        return {
            "outputs": list(self.outputs),
            "preprocessed": self.preprocessed,
            "norms": None if exact is None else exact.norms.tolist(),
            "biases": None if exact is None else exact.biases.tolist(),
            "lipschitz": None if exact is None else known(exact.lipschitz),
            "from_below": [known(value) for value in self.slopes.tolist()],
            "lipschitz_outputs": [known(value) for value in self.constants.tolist()],
            "below": {"output": self.name, "lipschitz_at_most": known(self.constant), **self.below.to_dict()},
            "above": None if self.above is None else _above(self.above),
            "not_above": self.reason or None,
            "margins": _margins(self.distribution),
            "margin_bounds": [_bound(bound) for bound in self.bounds],
            "test_examples": len(attacked.clean),
            "clean": clean,
            "radii": list(attacked.radii),
            "attacked": _intervals(attacked.accuracy),
            "certified": None if attacked.certified is None else _intervals(attacked.certified),
            "certified_curve": None if certificates is None else _survival(certificates.best),
        }

    def pictures(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The pairs that attain the lower bounds, largest first, and what they are: x and x' - x, of bounded size.

        The differences are kept, and not x', as they are far smaller than x.
        """
        pairs, about, used = [], [], 0
        for bound in sorted(self.below.bounds, key=lambda bound: -bound.value):
            if bound.x is None or bound.x_prime is None:
                continue
            pair = _reduced(torch.stack([bound.x, bound.x_prime - bound.x]).detach().float().cpu())
            used += pair.numel() * pair.element_size()
            if used > _BYTES:
                break
            pairs.append(pair)
            about.append({"bound": bound.name, "size": list(bound.x.shape)})
        header = {"kind": "Maximizers", "output": self.name, "pairs": about}
        if not pairs:
            return {}, header
        whole = torch.stack(pairs)
        return {"x": whole[:, 0], "moved": whole[:, 1]}, header


def _reduced(images: Tensor) -> Tensor:
    """With sides of at most so many pixels, each the mean of those it stands for."""
    space = tuple(images.shape[2:])
    smaller = tuple(min(length, _SIDE) for length in space)
    if smaller == space:
        return images
    return functional.interpolate(images, size=smaller, mode="area")


def _above(found: NormBounds) -> dict[str, Any]:
    rows = [row for row in found.rows if row.operator is not None or row.slope != 1.0 or row.reason]
    return {"bounds": [_named(bound) for bound in found.bounds], "layers": [_layer(row) for row in rows]}


def _named(bound: Bound) -> dict[str, Any]:
    return {"name": bound.name, "value": known(bound.value), "reason": bound.reason}


def _layer(row: LayerNorms) -> dict[str, Any]:
    operator = None if row.operator is None else row.operator.value
    return {
        "place": row.place,
        "operation": row.operation,
        "shape": list(row.shape),
        "operator_norm": known(operator),
        "at_most": known(row.slope),
        "reshaped": known(row.reshaped),
        "frobenius": known(row.frobenius),
        "rows": known(row.rows),
        "lipschitz": known(row.lipschitz),
        "reason": row.reason,
    }


def _margins(found: MarginDistribution) -> dict[str, Any]:
    values, shares = found.curve()
    kept = _places(len(values))
    return {
        "examples": len(values),
        "not_positive": float((values <= 0).double().mean()),
        "values": values[kept].tolist(),
        "shares": shares[kept].tolist(),
        "norms": dict(found.norms),
    }


def _survival(radii: Tensor) -> dict[str, list[float]]:
    """Certified accuracy from each of these radii up to the next; where some are left out, its lower end."""
    values = radii[torch.isfinite(radii)].sort().values
    kept = values[_places(len(values))].unique()
    ends = [*kept[1:], torch.tensor(math.inf)]
    return {"radii": kept.tolist(), "accuracy": [float((radii >= end).double().mean()) for end in ends]}


def _places(count: int) -> Tensor:
    """All of so many places, or enough of them from the first to the last."""
    return torch.linspace(0, max(count - 1, 0), min(count, _POINTS)).round().long()


def _bound(bound: MarginBound) -> dict[str, Any]:
    kept = ("epsilon", "delta", "count", "gamma", "threshold", "norm", "ball", "step", "size", "share")
    return {"value": bound.value, "terms": dict(bound.terms), **{name: getattr(bound, name) for name in kept}}


def _intervals(found: list[Interval]) -> list[dict[str, float]]:
    return [one._asdict() for one in found]

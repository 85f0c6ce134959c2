"""Which examples withstood attacks, and what accuracy that leaves at every radius."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hilbertnet.complexity.certificates import Certificates, read_radii
from hilbertnet.metrics import Interval, accuracy_interval
from hilbertnet.text import columns

__all__ = ["Attacked"]


@dataclass(frozen=True, eq=False)
class Attacked:
    """Which examples of a model withstood attacks; ``print`` it.

    Parameters
    ----------
    norm
        Of the threats: ``"l2"``, ``"l_inf"``, or ``"deformations"``, whose radii are largest shifts in pixels.
    radii
        Increasing.
    clean
        Which examples are decided rightly, shape (n,).
    length
        The smallest perturbation found that makes the decision wrong, shape (n,): 0 where it is without one, infinite
        where none was found. For deformations, the radius of the threat at which one was found.
    certificates
        Of the same examples, or ``None``.
    attacks
        Names.
    by
        Which of them found it, -1 for none, shape (n,).
    kept
        Examples whose adversarial signals are kept.
    points
        Those of the smallest perturbation found, the signals themselves where there is none, shape (kept, ...).
    seconds
        What the attacks took, those before an interruption included.
    """

    norm: str
    radii: tuple[float, ...]
    clean: Bool[Tensor, " n"]
    length: Float[Tensor, " n"]
    certificates: Certificates | None = None
    attacks: tuple[str, ...] = ()
    by: Int[Tensor, " n"] = field(default_factory=lambda: torch.arange(0))
    kept: Int[Tensor, " kept"] = field(default_factory=lambda: torch.arange(0))
    points: Float[Tensor, "kept ..."] | None = None
    seconds: float = 0.0

    @property
    def survived(self) -> Bool[Tensor, "radii n"]:
        """Which examples are right at each radius and at all smaller ones."""
        return self.clean & (self.length > torch.tensor(self.radii, dtype=torch.float64)[:, None])

    @property
    def accuracy(self) -> list[Interval]:
        """Attacked accuracy by radius, an upper bound of the robust accuracy of these examples, with its interval."""
        return [_accuracy(row) for row in self.survived]

    @property
    def clean_accuracy(self) -> Interval:
        """Accuracy without an attack."""
        return _accuracy(self.clean)

    def accuracy_at(self, radius: float) -> Interval:
        """An upper bound of the robust accuracy at any radius, by the lengths of the perturbations found.

        Between the radii it is as good as minimal-norm attacks are; others find perturbations as long as they may be.

        Parameters
        ----------
        radius
            At least 0.
        """
        (checked,) = read_radii([radius])
        return _accuracy(self.clean & (self.length > checked))

    @property
    def certified(self) -> list[Interval] | None:
        """Certified accuracy by radius, never above `accuracy`; ``None`` without certificates."""
        if self.certificates is None:
            return None
        return [self.certificates.accuracy(radius) for radius in self.radii]

    @property
    def broken(self) -> dict[str, list[int]]:
        """How many examples each attack was the one to break, by radius."""
        right = self.clean & ~self.survived
        return {name: (right & (self.by == i)).sum(1).tolist() for i, name in enumerate(self.attacks)}

    def __str__(self) -> str:
        broken = self.broken if len(self.attacks) > 1 else {}
        certified = self.certified
        radius = "shift (pixels)" if self.norm == "deformations" else f"{self.norm} radius"
        head = [radius, "attacked (%)", *([] if certified is None else ["certified (%)"])]
        rows = [[*head, *(f"broken by {name}" for name in broken)]]
        for i, (size, value) in enumerate(zip(self.radii, self.accuracy, strict=True)):
            values = [value, *([] if certified is None else [certified[i]])]
            cells = [str(value).replace("%", "") for value in values]
            rows.append([f"{size:g}", *cells, *(str(counts[i]) for counts in broken.values())])
        return f"{len(self.clean)} examples, accuracy {self.clean_accuracy}\n{columns(rows)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        certified = self.certified
        return {
            "norm": self.norm,
            "radii": list(self.radii),
            "examples": len(self.clean),
            "attacks": list(self.attacks),
            "clean": self.clean_accuracy._asdict(),
            "attacked": [one._asdict() for one in self.accuracy],
            "certified": None if certified is None else [one._asdict() for one in certified],
            "broken": self.broken,
        }


def _accuracy(right: Tensor) -> Interval:
    return accuracy_interval([True] * len(right), right.cpu().numpy())

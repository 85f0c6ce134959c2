"""Accuracy under attack, and beside it the accuracy that is certified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hilbertnet.complexity.certificates import Certificates, read_radii
from hilbertnet.complexity.functions import Model, batched, read_labels
from hilbertnet.complexity.margins import margins
from hilbertnet.losses import decide
from hilbertnet.metrics import Interval, accuracy_interval
from hilbertnet.robustness.attacks import pgd, read_examples
from hilbertnet.robustness.threats import Ball
from hilbertnet.signals import as_rng, is_count
from hilbertnet.text import columns

__all__ = ["Attacked", "attacked_accuracy"]


@dataclass(frozen=True, eq=False)
class Attacked:
    """Which examples of a model withstood attacks; ``print`` it.

    Parameters
    ----------
    norm
        Of the threats: ``"l2"`` or ``"l_inf"``.
    radii
        Increasing.
    clean
        Which examples are decided rightly, shape (n,).
    survived
        Which of them are still, shape (radii, n): after the attack at that radius and those at all smaller ones.
    certificates
        Of the same examples, or ``None``.
    """

    norm: str
    radii: tuple[float, ...]
    clean: Bool[Tensor, " n"]
    survived: Bool[Tensor, "radii n"]
    certificates: Certificates | None = None

    @property
    def accuracy(self) -> list[Interval]:
        """Attacked accuracy by radius, an upper bound of the robust accuracy of these examples, with its interval."""
        return [_accuracy(row) for row in self.survived]

    @property
    def certified(self) -> list[Interval] | None:
        """Certified accuracy by radius, never above `accuracy`; ``None`` without certificates."""
        if self.certificates is None:
            return None
        return [self.certificates.accuracy(radius) for radius in self.radii]

    def __str__(self) -> str:
        head = [f"{self.norm} radius", "attacked (%)", *([] if self.certified is None else ["certified (%)"])]
        rows = []
        for i, radius in enumerate(self.radii):
            values = [self.accuracy[i], *([] if self.certified is None else [self.certified[i]])]
            rows.append([f"{radius:g}", *(str(value).replace("%", "") for value in values)])
        return f"{len(self.clean)} examples, accuracy {_accuracy(self.clean)}\n{columns([head, *rows])}"


def _accuracy(right: Tensor) -> Interval:
    return accuracy_interval([True] * len(right), right.cpu().numpy())


def attacked_accuracy(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball,
    radii: Sequence[float] | None = None,
    *,
    attack: Callable[..., Tensor] = pgd,
    certificates: Certificates | None = None,
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Attacked:
    """Accuracy of a model under an attack, by radius of the ball.

    Parameters
    ----------
    model, x, y, batch_size
        See `hilbertnet.robustness.attacks.pgd`.
    threat
        The ball.
    radii
        Of balls that are otherwise like `threat`; default its own.
    attack
        ``attack(model, x, y, threat, generator=...)``. Examples that are lost already are not attacked again.
    certificates
        Certified radii of the same examples in l2, to be shown beside.
    generator
        Seed or ``torch.Generator`` of the attack.

    Raises
    ------
    ValueError
        If an argument is not of this form, the attack leaves the ball, or certificates are not of these examples or not
        of this norm.
    """
    read_examples(x, y)
    if not isinstance(threat, Ball):
        raise ValueError(f"threat: expected a Ball, got {threat!r}")
    if not is_count(batch_size):
        raise ValueError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}")
    rng, sizes = as_rng(generator), read_radii([threat.radius] if radii is None else radii)
    scores = batched(model, x.detach(), batch_size)
    labels = read_labels(y, len(x), scores.shape[1], scores.device)
    _check_certificates(certificates, scores, labels, threat)
    clean = decide(scores) == labels
    kept, rows = clean.clone(), []
    for radius in sizes:
        left = kept.nonzero()[:, 0].to(x.device)
        if len(left):
            here = replace(threat, radius=radius)
            moved = attack(model, x[left], labels.to(x.device)[left], here, generator=rng)
            _check_inside(moved, x[left], here)
            right = decide(batched(model, moved, batch_size)) == labels[left.to(labels.device)]
            kept = kept.clone()
            kept[left.to(kept.device)] = right
        rows.append(kept)
    return Attacked(threat.name, tuple(sizes), clean.cpu(), torch.stack(rows).cpu(), certificates)


def _check_inside(moved: Tensor, x: Tensor, threat: Ball) -> None:
    if not isinstance(moved, Tensor) or moved.shape != x.shape:
        got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
        raise ValueError(f"attack: expected signals of shape {tuple(x.shape)}, got {got}")
    longest = float(threat.length(moved.double() - x.double()).max())
    if not longest <= threat.radius * (1 + 1e-5):
        raise ValueError(f"attack: expected perturbations inside the {threat}, got one of length {longest:g}")
    threat.check(moved)


def _check_certificates(certificates: Certificates | None, scores: Tensor, labels: Tensor, threat: Ball) -> None:
    if certificates is None:
        return
    if threat.norm != "2":
        raise ValueError(f"certificates: expected an l2 threat, which they are for, got {threat}")
    found = margins(scores, labels).double().cpu()
    if found.shape != certificates.margins.shape or not torch.allclose(
        found, certificates.margins, rtol=1e-3, atol=1e-5
    ):
        raise ValueError("certificates: expected those of this model on the same examples, got other margins")

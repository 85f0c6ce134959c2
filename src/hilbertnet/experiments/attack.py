"""What ``hilbertnet attack`` does: clean, attacked and certified accuracy of a run or a module, adversarial images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hilbertnet.complexity.certificates import Certificates, read_radii
from hilbertnet.complexity.functions import batched
from hilbertnet.data.dataset import DEFORMABLE
from hilbertnet.data.reading import Reading
from hilbertnet.experiments.attack_target import Certified, Target, certify, read_target
from hilbertnet.experiments.experiment import Curve, Draw, Panel
from hilbertnet.losses import decide
from hilbertnet.metrics import Interval
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress
from hilbertnet.records import environment, save_tensors, settings_of, write_json
from hilbertnet.robustness.entries import NAMES
from hilbertnet.robustness.evaluation import Attacked, evaluate
from hilbertnet.robustness.threats import Ball, Deformations
from hilbertnet.text import nearest

__all__ = ["AttackResult", "AttackSettings", "attack", "default_folder", "panels_of", "write_attack"]

NORMS = {"l2": "2", "linf": "inf"}
RADII = {"l2": (0.1, 0.3, 1.0), "linf": (0.01, 0.03, 0.1)}
_KEPT, _BYTES = 16, 2**22  # of each threat
_BATCH = 128
_GRID = 60  # places of a curve that is known everywhere


class Threatening(NamedTuple):
    """A threat with the radii that it is measured at and the attacks that look for it."""

    threat: Ball | Deformations
    radii: tuple[float, ...]
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class AttackSettings(Reading):
    """What to attack, and how.

    Parameters
    ----------
    run, data, examples, seed, device
        See `hilbertnet.experiments.attack_target.read_target`; the seed is of the attacks too.
    size, channels, axes, label, alphabet, length
        How files are read, see `hilbertnet.data.load`; by default as the run read its own.
    norm
        ``"l2"`` or ``"linf"``.
    radii
        Increasing; default 0.1, 0.3 and 1 in l2, 0.01, 0.03 and 0.1 in l_inf.
    attacks
        Names that `hilbertnet.robustness.evaluation.evaluate` knows. ``"deformation"`` is of another threat, and stands
        beside the others.
    restarts
        Of attacks that have a radius.
    shifts
        Largest shifts of deformations, in pixels.
    gradient
        Largest gradient of deformations.
    """

    run: str
    data: str | None = None
    norm: str = "l2"
    radii: tuple[float, ...] | None = None
    attacks: tuple[str, ...] = ("pgd", "apgd", "fmn")
    restarts: int = 1
    shifts: tuple[float, ...] = (0.5, 1.0)
    gradient: float = 0.5
    examples: int = 200
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm: expected l2 or linf, got {self.norm!r}{nearest(str(self.norm), NORMS)}")
        check_counts(examples=self.examples, restarts=self.restarts)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2**32 - 1, got {self.seed!r}")
        for name in self.attacks:
            if name not in NAMES:
                hint = nearest(name, NAMES) or f"; known: {', '.join(NAMES)}"
                raise ValueError(f"attacks: unknown attack {name!r}{hint}")
        if not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise ValueError(
                f"attacks: expected different names, at least one, got {', '.join(self.attacks) or 'none'}"
            )
        radii = tuple(read_radii(RADII[self.norm] if self.radii is None else self.radii))
        object.__setattr__(self, "radii", radii)
        object.__setattr__(self, "shifts", tuple(read_radii(self.shifts)))
        self.threats(None)  # which refuses what it cannot take

    def threats(self, bounds: tuple[float, float] | None) -> tuple[Threatening, ...]:
        """What there is to fear: a ball, deformations, or both.

        Parameters
        ----------
        bounds
            Of the numbers in the ball, or ``None``.
        """
        pixels = tuple(name for name in self.attacks if name != "deformation")
        found = []
        if pixels:
            assert self.radii is not None
            ball = Ball(NORMS[self.norm], max(self.radii), bounds)  # type: ignore[arg-type]
            found.append(Threatening(ball, self.radii, pixels))
        if len(pixels) < len(self.attacks):
            deformations = Deformations(max(self.shifts), self.gradient)
            found.append(Threatening(deformations, tuple(self.shifts), ("deformation",)))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What was found; ``print`` it.

    Parameters
    ----------
    settings
        What was asked for.
    target
        Model and examples.
    threats
        Each with its radii and attacks.
    found
        Of every threat.
    certified
        Of the ball; ``None`` without one.
    """

    settings: AttackSettings
    target: Target
    threats: tuple[Threatening, ...]
    found: tuple[Attacked, ...]
    certified: Certified | None

    def __str__(self) -> str:
        parts = [f"{self.target.data}\n{len(self.target.x)} examples of these: {self.target.part}"]
        parts += [str(one) for one in self.found]
        if self.certified is not None:
            by, reason = self.certified.by, self.certified.reason
            words = f"certified by {by}; {self.certified.certificates}" if by else f"nothing is certified: {reason}"
            parts.append(words)
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        threats = []
        for one, (threat, _, _) in zip(self.found, self.threats, strict=True):
            ball = self.certified if isinstance(threat, Ball) else None
            threats.append(
                {
                    **one.to_dict(),
                    "threat": str(threat),
                    "certified_by": (ball.by or None) if ball else None,
                    "not_certified": ball.reason if ball else "",
                    "curve": _whole_curve(one),
                }
            )
        return {
            "settings": settings_of(self.settings),
            "data": self.target.data,
            "part": self.target.part,
            "examples": len(self.target.x),
            "threats": threats,
            "seconds": sum(one.seconds for one in self.found),
        }


def attack(settings: AttackSettings, folder: Path, *, progress: Progress = None) -> AttackResult:
    """Attack a run's model or a module at every radius.

    What is found is kept in files of `folder` while it lasts, from which an interrupted call goes on.

    Parameters
    ----------
    settings
        What to attack, and how.
    folder
        Where the results will go.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If a setting is not what is expected, or `folder` keeps an unfinished evaluation of other settings.
    """
    target = read_target(
        settings.run, settings.data, examples=settings.examples, seed=settings.seed, reading=Reading.of(settings),
        device=settings.device,
    )  # fmt: skip
    if "deformation" in settings.attacks and target.kind not in DEFORMABLE:
        raise ValueError(f"attacks: deformation is one of images and signals, got {target.kind}")
    threats = settings.threats(target.bounds)
    found: list[Attacked] = []
    certified: Certified | None = None
    for threat, radii, attacks in threats:
        known = None
        if isinstance(threat, Ball):
            certified = certify(target, threat.norm)
            known = certified.certificates
        found.append(
            evaluate(
                target.model,
                target.x,
                target.y,
                threat,
                radii,
                attacks=attacks,
                restarts=settings.restarts,
                certificates=known,
                generator=settings.seed,
                batch_size=_BATCH,
                checkpoint=_unfinished(folder, threat),
                keep=_most(target.x),
                checks=not found,
                progress=progress,
            )
        )
    return AttackResult(settings, target, threats, tuple(found), certified)


def default_folder(run: str) -> Path:
    """A run's own folder; for a module one inside ``runs``."""
    return Path(run) if Path(run).is_dir() else Path("runs") / f"attack-{run.replace(':', '-')}"


def _unfinished(folder: Path, threat: Ball | Deformations) -> Path:
    return folder / f"unfinished-attack-{threat.name}.safetensors"


def _most(x: Tensor) -> int:
    return max(1, min(_KEPT, _BYTES // (4 * x[0].numel())))


# --- what is left in the folder


def write_attack(folder: Path, result: AttackResult, draw: Draw) -> list[Path]:
    """Write ``attack.json``, ``attack_images.safetensors`` and ``attack.svg``; their paths.

    ``attack_images.safetensors`` has tensors ``clean``, ``adversarial`` and ``difference``, of the first examples that
    are decided rightly and that an attack changed, and in its header, for each image, the example, its label, what the
    model says of both, the attack, the norm and the length of the perturbation.

    Parameters
    ----------
    folder
        Made if it is not there.
    result
        Of `attack`.
    draw
        Draws panels into a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("attack.json", "attack_images.safetensors", "attack.svg")]
    tensors, header = _images(result)
    save_tensors(paths[1], tensors, header)
    draw(panels_of(result), paths[2])
    write_json(paths[0], {**result.to_dict(), "images": len(header["images"]), **environment(result.settings.device)})
    for threat, _, _ in result.threats:
        _unfinished(folder, threat).unlink(missing_ok=True)
    return paths


def _images(result: AttackResult) -> tuple[dict[str, Tensor], dict[str, Any]]:
    target, clean, moved, words = result.target, [], [], []
    for one in result.found:
        changed = one.length[one.kept].isfinite()
        rows, points = one.kept[changed], one.points[changed] if one.points is not None else target.x[:0].cpu()
        if not len(rows):
            continue
        said = decide(batched(target.model, points.to(target.x.device), _BATCH)).cpu()
        clean.append(target.x.cpu()[rows])
        moved.append(points)
        words += [
            {
                "example": int(target.places[row]),
                "label": target.name_of(int(target.y[row])),
                "prediction": target.name_of(int(target.y[row])),  # these are decided rightly
                "adversarial": target.name_of(int(answer)),
                "attack": one.attacks[int(one.by[row])],
                "norm": one.norm,
                "length": float(one.length[row]),
            }
            for row, answer in zip(rows.tolist(), said, strict=True)
        ]
    header: dict[str, Any] = {"kind": "AttackImages", "images": words}
    if not words:
        return {}, header
    first, second = torch.cat(clean).float(), torch.cat(moved).float()
    return {"clean": first, "adversarial": second, "difference": second - first}, header


def panels_of(result: AttackResult) -> list[Panel]:
    """Clean, attacked and certified accuracy against the radius, a panel for each threat.

    Parameters
    ----------
    result
        Of `attack`.
    """
    panels = []
    for one, (threat, _, _) in zip(result.found, result.threats, strict=True):
        ends = (0.0, max(one.radii))
        clean = 100 * one.clean_accuracy.value
        curves = [_curve("attacked", one)]
        if one.certificates is not None:
            grid = _certified_grid(one.certificates, ends[1])
            curves.append(_intervals("certified", grid, [one.certificates.accuracy(radius) for radius in grid]))
        curves.append(Curve("clean", ends, (clean, clean), kind="level"))
        what = f"{one.norm} radius" if isinstance(threat, Ball) else "largest shift, pixels"
        title = (
            f"{one.norm} perturbations"
            if isinstance(threat, Ball)
            else f"deformations, gradient {threat.max_gradient:g}"
        )
        panels.append(Panel(title, what, "accuracy, %", tuple(curves), log_y=False, log_x=False))
    return panels


def _curve(label: str, one: Attacked) -> Curve:
    whole = _whole_curve(one)
    if whole is not None:
        return _intervals(label, whole["radii"], [one.accuracy_at(radius) for radius in whole["radii"]])
    radii = [0.0, *(radius for radius in one.radii if radius > 0)]
    return _intervals(label, radii, [one.clean_accuracy, *(one.accuracy[one.radii.index(r)] for r in radii[1:])])


def _whole_curve(one: Attacked) -> dict[str, list[float]] | None:
    """Accuracy between the radii too, where a minimal-norm attack says it."""
    if "fmn" not in one.attacks:
        return None
    grid = sorted({*np.linspace(0, max(one.radii), _GRID + 1).tolist(), *one.radii})
    return {"radii": grid, "accuracy": [one.accuracy_at(radius).value for radius in grid]}


def _certified_grid(certificates: Certificates, end: float) -> list[float]:
    """Places up to the end, and as many up to where nothing is certified, which may be near 0."""
    last = min(end, float(certificates.best.max()))
    return sorted({*np.linspace(0, last, _GRID + 1).tolist(), *np.linspace(0, end, _GRID + 1).tolist()})


def _intervals(label: str, x: Sequence[float], found: Sequence[Interval]) -> Curve:
    value, low, high = (tuple(100 * getattr(one, name) for one in found) for name in ("value", "low", "high"))
    return Curve(label, tuple(x), value, low, high)

"""The robust loss of functions whose RKHS norm is known, beside what the norm allows.

The inequality is

    mean_i sup_{||d|| <= eps} loss(y_i f(x_i + d))  <=  mean_i loss(y_i f(x_i)) + eps ||f||

for losses that are 1-Lipschitz (hinge, logistic) and kernels that are non-expansive.

Reference: A. Bietti, G. Mialon, D. Chen and J. Mairal, "A kernel perspective for regularizing deep neural networks",
ICML 2019, section 3.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hilbertnet.architecture import Architecture
from hilbertnet.complexity.functions import KernelMachine, batched
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.data import load
from hilbertnet.experiments.experiment import Run, Unfinished
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, track
from hilbertnet.records import settings_of
from hilbertnet.robustness import Ball, pgd
from hilbertnet.text import nearest

__all__ = ["InequalityRun", "inequality_rows"]


@dataclass(frozen=True)
class InequalityRun(Run):
    """Kernel machines of known norm: their loss under attack, and what their norm allows.

    Parameters
    ----------
    name, device
        See `Run`.
    architecture
        Text form; distances are measured in units of its embedding's Lipschitz constant, 1 if it is non-expansive.
    machines
        ``"ridge"`` and ``"svm"``.
    data
        What `hilbertnet.data.load` takes.
    train, points
        How many examples the functions are fitted to, and how many are attacked (the first ones).
    lam
        The ridge, in units of the mean of the diagonal of K; the C of the support vector machine is ``1 / lam``.
    radii
        Of l2 balls, increasing.
    steps
        Of the attack.
    seeds
        One function for each: of the examples, and of the class that it tells from the others.
    """

    architecture: str
    machines: tuple[str, ...] = ("ridge", "svm")
    data: str = "digits"
    train: int = 40
    points: int = 10
    lam: float = 1e-2
    radii: tuple[float, ...] = (0.1, 0.3, 1.0)
    steps: int = 10
    seeds: tuple[int, ...] = (0, 1)

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Fit and attack; the record is returned.

        Raises
        ------
        ValueError
            If there is no such machine, or the embedding has no Lipschitz constant.
        """
        check_counts(train=self.train, points=self.points, steps=self.steps)
        for machine in self.machines:
            if machine not in _MACHINES:
                hint = nearest(str(machine), _MACHINES)
                raise ValueError(f"machines: expected some of {', '.join(_MACHINES)}, got {machine!r}{hint}")
        started, unfinished, data = time.perf_counter(), Unfinished(folder, settings_of(self)), load(self.data)
        x, y = torch.from_numpy(data.x).double().to(self.device), data.y
        jobs = [(machine, seed) for machine in self.machines for seed in self.seeds]
        found: dict[str, dict[str, Any]] = {machine: {} for machine in self.machines}
        for machine, seed in track(jobs, progress, label="functions"):
            part = unfinished.part(f"{machine}-{seed}", partial(self._one, x, y, machine, seed))
            found[machine][str(seed)] = part
        return {
            "settings": settings_of(self),
            "protocol": (
                f"{self.train} examples, a class against the rest; loss under attack: projected gradients of the "
                f"margin, {self.steps} steps, on {self.points} of them"
            ),
            "data": data.to_dict(),
            "functions": found,
            **unfinished.costs(started, self.device),
        }

    def _one(self, x: Tensor, y: Any, machine: str, seed: int) -> dict[str, Any]:
        rng = np.random.RandomState(seed)
        chosen = rng.permutation(len(x))[: self.train]
        points = x[torch.from_numpy(chosen)]
        labels = torch.from_numpy((y[chosen] == rng.choice(np.unique(y[chosen]))).astype(np.int64)).to(x.device)
        kernel = ConvKernel(Architecture.parse(self.architecture))
        gram = kernel.gram(points, progress=False)
        alpha, intercept = _MACHINES[machine](gram, 2.0 * labels - 1, self.lam)
        norm = float((alpha @ gram @ alpha).clamp(min=0).sqrt())
        lipschitz = embedding_lipschitz(kernel.arch, tuple(x.shape[2:]))
        function = KernelMachine(kernel, points, alpha, intercept)
        return {
            "norm": norm,
            "lipschitz": lipschitz,
            "losses": self._losses(function, points[: self.points], labels[: self.points], norm * lipschitz),
        }

    def _losses(self, function: KernelMachine, x: Tensor, y: Tensor, steepest: float) -> dict[str, Any]:
        """Both losses fall with ``y f(x)``: what lowers it the most is the worst for both."""
        clean = {name: float(loss(batched(function, x, len(x)), y).mean()) for name, loss in _LOSSES.items()}
        found: dict[str, Any] = {name: {"clean": value, "radii": []} for name, value in clean.items()}
        for radius in self.radii:
            moved = pgd(function, x, y, Ball("2", radius, None), steps=self.steps)
            scores = batched(function, moved, len(x))
            for name, loss in _LOSSES.items():
                attacked, allowed = float(loss(scores, y).mean()), clean[name] + radius * steepest
                found[name]["radii"].append({"radius": radius, "attacked": attacked, "allowed": allowed})
        return found


def _ridge(gram: Tensor, target: Tensor, lam: float) -> tuple[Tensor, float]:
    ridge = lam * len(gram) * gram.diagonal().mean()
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), target.to(gram)), 0.0


def _svm(gram: Tensor, target: Tensor, lam: float) -> tuple[Tensor, float]:
    from sklearn.svm import SVC

    scale = float(gram.diagonal().mean())
    model = SVC(kernel="precomputed", C=1 / lam).fit((gram / scale).cpu().numpy(), target.cpu().numpy())
    alpha = torch.zeros(len(gram), dtype=torch.float64)
    alpha[torch.from_numpy(model.support_).long()] = torch.from_numpy(model.dual_coef_[0]) / scale
    return alpha.to(gram), float(model.intercept_[0])


_MACHINES = {"ridge": _ridge, "svm": _svm}


def _margins(scores: Tensor, y: Tensor) -> Tensor:
    return (2.0 * y - 1.0) * scores[:, 0]


_LOSSES = {
    "hinge": lambda scores, y: (1 - _margins(scores, y)).clamp(min=0),
    "logistic": lambda scores, y: functional.softplus(-_margins(scores, y)),
}


def inequality_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a table, of a record: losses under attack, what the norm allows, and whether that holds."""
    rows = [["machine", "seed", "||f||", "loss", "clean", "radius", "under attack", "allowed", "holds"]]
    for machine, by_seed in record["functions"].items():
        for seed, one in by_seed.items():
            for name, found in one["losses"].items():
                for at in found["radii"]:
                    numbers = (found["clean"], at["radius"], at["attacked"], at["allowed"])
                    clean, *rest = (f"{value:.4g}" for value in numbers)
                    holds = "yes" if at["attacked"] <= at["allowed"] * (1 + 1e-9) else "NO"
                    rows.append([machine, seed, f"{one['norm']:.4g}", name, clean, *rest, holds])
    return rows

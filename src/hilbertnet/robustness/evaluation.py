"""Accuracy under attack, and beside it the accuracy that is certified.

An example is robust at a radius only if no attack of any kind changed its decision there or at a smaller radius: the
pointwise worst case of F. Croce and M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020. What is lost already is not attacked again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.complexity.certificates import Certificates, read_radii
from hilbertnet.complexity.functions import Model, batched
from hilbertnet.complexity.margins import margins
from hilbertnet.losses import read_labels
from hilbertnet.progress import Progress
from hilbertnet.records import digest
from hilbertnet.robustness.attacked import Attacked
from hilbertnet.robustness.attacks import pgd
from hilbertnet.robustness.campaign import differentiable, read_counts, read_examples
from hilbertnet.robustness.entries import Attacks, Entry, read_attacks
from hilbertnet.robustness.sanity import CertificateWarning, find_faults
from hilbertnet.robustness.search import Search, Stage, at_radius, model_identity, radius_of
from hilbertnet.robustness.threats import Ball, Deformations, RadiusWarning
from hilbertnet.signals import as_rng

__all__ = ["Attacked", "attacked_accuracy", "evaluate"]


@differentiable
def evaluate(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball | Deformations,
    radii: Sequence[float] | None = None,
    *,
    attacks: Attacks = ("pgd",),
    restarts: int = 1,
    restart_share: float = 1.0,
    certificates: Certificates | None = None,
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
    checkpoint: str | os.PathLike[str] | None = None,
    keep: int = 0,
    checks: bool = True,
    progress: Progress = None,
) -> Attacked:
    """Accuracy of a model under the worst of several attacks, by radius.

    Attacks that find the nearest wrong decision come first, as one run of them tells of all radii; then, from the
    smallest radius to the largest, the others, each on the examples that withstood all before. A restart attacks those
    that are left once more, from another random start, the least margin first.

    Parameters
    ----------
    model
        From signals to logits (n, outputs); one output tells two classes apart. A module is taken in eval mode, and
        left as it was.
    x
        Signals, shape (n, ...), on the device of the model.
    y
        Numbers of classes, shape (n,).
    threat
        A `Ball`, or `Deformations`.
    radii
        Of threats that are otherwise like `threat`; default its own. For deformations, largest shifts in pixels.
    attacks
        Names (``"fgm"``, ``"pgd"``, ``"apgd"``, ``"apgd-t"`` with the ratio of logits and 9 targets, ``"fmn"``,
        ``"deformation"``) and functions, of one of three forms:
        ``attack(model, x, y, threat, generator=...)``; a minimal-norm attack, ``attack(model, x, y, norm=...,
        bounds=..., generator=...)``; one of your own, ``attack(x, y)``, such as AutoAttack's
        ``run_standard_evaluation``, which is called once, and whose points must be inside the largest ball. Options go
        in by `functools.partial`, names for tables by a dictionary.
    restarts
        How often attacks that have a radius are tried, but for one step, which has no start. From the second time on
        those that have an option ``random_start`` get ``random_start=True``.
    restart_share
        Of the examples that are left, how many are tried again, in (0, 1].
    certificates
        Certified radii of the same examples in l2, to be shown beside; in l_inf if that is their unit.
    generator
        Seed or ``torch.Generator`` of the attacks.
    batch_size
        Signals at a time.
    checkpoint
        A file that keeps what is found, after every batch of every attack at every radius. Called again with the same
        arguments an interrupted evaluation goes on from there to the same numbers; a finished one is read from it.
    keep
        Of how many of the first examples that are decided rightly the adversarial signals are kept.
    checks
        Whether `hilbertnet.robustness.sanity.sanity_checks` are made first, on a few examples; they only warn.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If an argument is not of this form, an attack leaves its threat, certificates are not of these examples or not
        of this norm, or the checkpoint is of another evaluation.

    Examples
    --------
    >>> weight = torch.tensor([3.0, 4.0])
    >>> x, y = torch.tensor([[0.2, 0.2], [1.0, 1.0]]), torch.tensor([1, 1])
    >>> found = evaluate(lambda z: z @ weight, x, y, Ball("2", 0.5, None), [0.1, 0.3, 0.5], checks=False)
    >>> [interval.value for interval in found.accuracy]
    [1.0, 0.5, 0.5]
    """
    read_examples(x, y)
    if not isinstance(threat, Ball | Deformations):
        raise ValueError(f"threat: expected a Ball or Deformations, got {threat!r}")
    sizes = read_radii([radius_of(threat)] if radii is None else radii)
    _check_options(restarts, restart_share, batch_size, keep)
    threat = threat if radius_of(threat) == max(sizes) else at_radius(threat, max(sizes))
    threat.check(x)
    entries = read_attacks(attacks, threat)
    seed = int(torch.randint(2**40, (), generator=as_rng(generator)))
    x = x.detach()
    scores = batched(model, x, batch_size)
    labels = read_labels(y, len(x), scores.shape[1], x.device)
    _check_certificates(certificates, scores, labels, threat)
    search = Search(model, x, labels, scores, threat, sizes, batch_size=batch_size, keep=keep)
    clean = search.length > 0
    identity = {
        "model": model_identity(model), "decisions": digest(clean), "data": [digest(x), digest(labels)],
        "threat": str(at_radius(threat, 0.0)), "radii": sizes,
        "attacks": [entry.identity for entry in entries], "restarts": [restarts, restart_share],
        "batch_size": batch_size, "keep": keep, "generator": None if generator is None else seed,
    }  # fmt: skip
    search.remember(checkpoint, identity, seed)
    names = tuple(entry.name for entry in entries)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RadiusWarning)  # given already
        for fault in find_faults(model, x, labels, threat, generator=seed) if checks else ():
            warnings.warn(fault, stacklevel=3)
        search.run(_stages(entries, sizes, restarts), names, restart_share, progress)
    found = Attacked(
        threat.name, tuple(sizes), clean, search.length, certificates, names, search.by, search.kept, search.points,
        search.seconds,
    )  # fmt: skip
    _warn_of_certificates(found)
    return found


def attacked_accuracy(
    model: Model,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    threat: Ball | Deformations,
    radii: Sequence[float] | None = None,
    *,
    attack: str | Callable[..., Any] = pgd,
    certificates: Certificates | None = None,
    generator: int | torch.Generator | None = None,
    batch_size: int = 512,
) -> Attacked:
    """Accuracy under one attack, tried once, without checks: the short form of `evaluate`, which has the arguments.

    Raises
    ------
    ValueError
        See `evaluate`.
    """
    return evaluate(
        model, x, y, threat, radii, attacks=[attack], certificates=certificates, generator=generator,
        batch_size=batch_size, checks=False, progress=False,
    )  # fmt: skip


def _stages(entries: Sequence[Entry], radii: Sequence[float], restarts: int) -> list[Stage]:
    """In the order in which they save the most work. Within a radius of 0 there is nothing to find."""
    whole = [Stage(entry, None) for entry in entries if entry.kind != "threat"]
    by_radius = [entry for entry in entries if entry.kind == "threat"]
    return whole * (max(radii) > 0) + [
        Stage(entry, place, restart)
        for place, radius in enumerate(radii)
        if radius > 0
        for restart in range(restarts)
        for entry in by_radius
        if restart == 0 or entry.random
    ]


def _check_options(restarts: int, share: float, batch_size: int, keep: int) -> None:
    read_counts(restarts=restarts, batch_size=batch_size)
    read_counts(0, keep=keep)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"restart_share: expected a number in (0, 1], got {share!r}")


def _check_certificates(
    certificates: Certificates | None, scores: Tensor, labels: Tensor, threat: Ball | Deformations
) -> None:
    if certificates is None:
        return
    if not isinstance(certificates, Certificates):
        raise ValueError(f"certificates: expected Certificates, as certified_radii gives, got {certificates!r}")
    if not isinstance(threat, Ball) or (threat.norm == "inf") != (certificates.unit == "l_inf"):
        unit = "l_inf" if certificates.unit == "l_inf" else "l2"
        raise ValueError(f"certificates: expected an {unit} threat, which they are for, got {threat}")
    found = margins(scores, labels).double().cpu()
    if found.shape != certificates.margins.shape or not torch.allclose(
        found, certificates.margins, rtol=1e-3, atol=1e-5
    ):
        raise ValueError("certificates: expected those of this model on the same examples, got other margins")


def _warn_of_certificates(found: Attacked) -> None:
    """An attack refutes a certificate: its constants are too small, or of another function."""
    if found.certificates is None:
        return
    refuted = found.clean & (found.length * (1 + 1e-6) < found.certificates.best)
    if refuted.any():
        worst = int(refuted.nonzero()[0])
        warnings.warn(
            f"certificates: {int(refuted.sum())} of {len(refuted)} examples were broken inside their certified radius, "
            f"such as example {worst}, at {found.length[worst]:.4g} with {found.certificates.best[worst]:.4g} "
            "certified: the Lipschitz constants are too small",
            CertificateWarning,
            stacklevel=4,
        )

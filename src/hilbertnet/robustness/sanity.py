"""Signs that an evaluation says less than it seems to: each is a warning of its own.

References: A. Athalye, N. Carlini and D. Wagner, "Obfuscated gradients give a false sense of security", ICML 2018; N.
Carlini et al., "On evaluating adversarial robustness", 2019 (one step against many, larger radii, radii at which
nothing can be robust); F. Croce et al., "RobustBench", NeurIPS 2021 (zero gradients, randomness).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from hilbertnet.complexity.functions import Model, batched, outputs, untouched
from hilbertnet.complexity.margins import margins
from hilbertnet.losses import decide, losses, read_labels, signs
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.campaign import differentiable, read_counts, read_examples
from hilbertnet.robustness.threats import Ball, Deformations

__all__ = [
    "CertificateWarning",
    "MaskingWarning",
    "ProbabilityWarning",
    "RandomnessWarning",
    "SanityWarning",
    "TrainingModeWarning",
    "ZeroGradientWarning",
    "find_faults",
    "probability_warning",
    "sanity_checks",
]

_STEPS = 10
_SHARE = 0.1  # of examples: above it something is the matter


class SanityWarning(UserWarning):
    """An evaluation may say less than it seems to."""


class ProbabilityWarning(SanityWarning):
    """The model's outputs look like probabilities, where logits are expected."""


class ZeroGradientWarning(SanityWarning):
    """Gradients that attacks climb are zero, or there are none."""


class RandomnessWarning(SanityWarning):
    """The model does not say the same twice."""


class TrainingModeWarning(SanityWarning):
    """The model was handed over in training mode; it is evaluated in eval mode."""


class MaskingWarning(SanityWarning):
    """Attacks that should be stronger do less: gradients lead nowhere."""


class CertificateWarning(SanityWarning):
    """An attack broke an example inside its certified radius."""


@differentiable
def sanity_checks(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Ball | Deformations,
    *,
    examples: int = 32,
    generator: int | torch.Generator | None = 0,
) -> tuple[SanityWarning, ...]:
    """Look for what makes attacks fail without the model being robust, and warn of it.

    On the first examples: whether the model came in training mode; whether it says the same twice; whether its outputs
    look like probabilities; whether gradients of the loss are zero; for balls, whether an attack of ten steps breaks
    less than one of one step, or less at twice the radius, and whether any accuracy is left at a radius where around
    every example there is another that is decided otherwise. The last three ask for gradients, and are left out where
    the model has none.

    Parameters
    ----------
    model, x, y, threat
        See `hilbertnet.robustness.evaluation.evaluate`.
    examples
        How many are looked at, at most.
    generator
        Seed or ``torch.Generator`` of the attacks.

    Returns
    -------
    tuple
        The warnings that were given.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> warnings.simplefilter("ignore", SanityWarning)
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).eval()
    >>> found = sanity_checks(net, torch.eye(4), torch.tensor([0, 1, 2, 0]), Ball("2", 0.1))
    >>> [type(warning).__name__ for warning in found if "probabilities" in str(warning)]
    ['ProbabilityWarning']
    """
    found = find_faults(model, x, y, threat, examples=examples, generator=generator)
    for one in found:
        warnings.warn(one, stacklevel=3)
    return found


def find_faults(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Ball | Deformations,
    *,
    examples: int = 32,
    generator: int | torch.Generator | None = 0,
) -> tuple[SanityWarning, ...]:
    """The warnings of `sanity_checks`, which are not given yet."""
    read_examples(x, y)
    read_counts(examples=examples)
    x = x[:examples].detach()
    scores = batched(model, x, examples)
    y = read_labels(torch.as_tensor(y)[:examples], len(x), scores.shape[1], x.device)
    found = [_training_mode(model), _randomness(model, x, scores), probability_warning(scores)]
    slopes = _slopes(model, x, y)
    found.append(_zero_gradients(slopes))
    if isinstance(threat, Ball) and slopes is not None and threat.radius > 0:
        found += _masking(model, x, y, scores, threat, generator)
    return tuple(one for one in found if one is not None)


def _training_mode(model: Model) -> SanityWarning | None:
    if not isinstance(model, nn.Module) or not any(module.training for module in model.modules()):
        return None
    return TrainingModeWarning("model: it is in training mode, and evaluated in eval mode; call model.eval() first")


def _randomness(model: Model, x: Tensor, scores: Tensor) -> SanityWarning | None:
    again = batched(model, x, len(x))
    gap, size = float((again - scores).abs().max()), float(scores.abs().max())
    if gap <= 1e-4 * size:
        return None
    return RandomnessWarning(
        f"model: two calls differ by up to {gap:.3g}, on outputs up to {size:.3g}: something in it is random, such as "
        "dropout that eval mode does not turn off; attacks need a mean over many calls"
    )


def probability_warning(scores: Tensor) -> ProbabilityWarning | None:
    """What to say of outputs that look like probabilities, or ``None``.

    Parameters
    ----------
    scores
        Shape (n, outputs). A single output is only ever in [0, 1], where logits of both signs are expected, if the
        network is a trained one.
    """
    inside = bool(((scores >= 0) & (scores <= 1)).all())
    if scores.shape[1] == 1:
        if not inside or len(scores) < 2 or scores.unique().numel() < 2:
            return None
        reason = "numbers between 0 and 1, of which every one means the second class"
    elif inside and bool(((scores.double().sum(1) - 1).abs() < 1e-3).all()):
        reason = "rows that are not negative and sum to one"
    else:
        return None
    return ProbabilityWarning(
        f"model: its outputs look like probabilities, {reason}: give logits, whose gradients do not vanish"
    )


def _slopes(model: Model, x: Tensor, y: Tensor) -> Tensor | None:
    """Largest entries of the gradients of the logistic loss and of the margin, shape (2, n); ``None`` without any."""
    with untouched(model), torch.enable_grad():
        variable = x.clone().requires_grad_()
        try:
            scores = outputs(model, variable)
        except RuntimeError as error:  # models that compute outside of torch
            if "requires grad" not in str(error):
                raise
            return None
        if not scores.requires_grad:
            return None
        wide = scores if scores.dtype == torch.float64 else scores.float()
        loss = losses("logistic", wide, signs(y, wide.shape[1], wide.dtype)).sum()
        found = [
            torch.autograd.grad(value, variable, retain_graph=True, allow_unused=True)[0]
            for value in (loss, margins(wide, y).sum())
        ]
    return torch.stack([(torch.zeros_like(x) if one is None else one).abs().flatten(1).amax(1) for one in found])


def _zero_gradients(slopes: Tensor | None) -> SanityWarning | None:
    if slopes is None:
        return ZeroGradientWarning("model: it cannot be differentiated; only attacks without gradients say something")
    loss, margin = ((row == 0).double().mean().item() for row in slopes)
    if loss <= _SHARE:
        return None
    advice = (
        "the margin's are not, and attacks of the logistic loss alone are misled"
        if margin <= _SHARE
        else f"so are the margin's of {100 * margin:.0f}%: attacks along gradients do not move"
    )
    return ZeroGradientWarning(
        f"model: gradients of the logistic loss are zero at {100 * loss:.0f}% of {slopes.shape[1]} examples; {advice}"
    )


def _masking(
    model: Model, x: Tensor, y: Tensor, scores: Tensor, threat: Ball, generator: int | torch.Generator | None
) -> list[SanityWarning | None]:
    right = decide(scores) == y
    x, y, kind = x[right], y[right], decide(scores[right])
    if not len(x):
        return []

    def wrong(moved: Tensor) -> int:
        return int((decide(batched(model, moved, len(x))) != y).sum())

    def broken(radius: float, steps: int = _STEPS) -> int:
        return wrong(pgd(model, x, y, replace(threat, radius=radius), steps=steps, generator=generator))

    allowed, radius = max(1, round(_SHARE * len(x))), threat.radius
    double = min(2 * radius, max(radius, _longest(x, threat)))
    once = wrong(fgm(model, x, y, threat, loss="margin"))
    many, twice = broken(radius), broken(double)
    found: list[SanityWarning | None] = []
    if many + allowed < once:
        found.append(
            MaskingWarning(
                f"attacks: of {len(x)} examples one step breaks {once} and {_STEPS} steps {many}: gradients are masked"
            )
        )
    if twice + allowed < many:
        found.append(
            MaskingWarning(
                f"attacks: of {len(x)} examples {many} are broken at radius {radius:g} and {twice} at {double:g}: "
                "gradients are masked"
            )
        )
    huge = _distance_to_others(x, kind, threat)
    if huge is not None and huge > radius:
        left = len(x) - broken(huge, 2 * _STEPS)
        if left > allowed:
            found.append(
                MaskingWarning(
                    f"attacks: at radius {huge:.3g} every example has another near it that is decided otherwise, and "
                    f"yet {left} of {len(x)} withstand {2 * _STEPS} steps: gradients are masked"
                )
            )
    return found


def _longest(x: Tensor, threat: Ball) -> float:
    """The diagonal of the box of bounds: no radius need be larger."""
    if threat.bounds is None:
        return math.inf
    side = threat.bounds[1] - threat.bounds[0]
    return side * math.sqrt(x[0].numel()) if threat.norm == "2" else side


def _distance_to_others(x: Tensor, kind: Tensor, threat: Ball) -> float | None:
    """The largest distance of an example to the nearest that is decided otherwise."""
    flat = x.double().flatten(1)
    apart = torch.cdist(flat, flat, p=2.0 if threat.norm == "2" else math.inf)
    apart = torch.where(kind[:, None] == kind, math.inf, apart)
    nearest = apart.amin(1)
    return float(nearest.max()) if bool(torch.isfinite(nearest).all()) else None

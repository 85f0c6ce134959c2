"""Attacks on classifiers, and their accuracy under attack beside what is certified."""

from hilbertnet.robustness.apgd import apgd
from hilbertnet.robustness.attacks import fgm, pgd
from hilbertnet.robustness.deformation_attack import deformation_attack
from hilbertnet.robustness.evaluation import Attacked, attacked_accuracy, evaluate
from hilbertnet.robustness.minimal_norm import MinimalNorm, fmn
from hilbertnet.robustness.sanity import (
    CertificateWarning,
    MaskingWarning,
    ProbabilityWarning,
    RandomnessWarning,
    SanityWarning,
    TrainingModeWarning,
    ZeroGradientWarning,
    sanity_checks,
)
from hilbertnet.robustness.threats import Ball, Deformations, RadiusWarning

__all__ = [
    "Attacked",
    "Ball",
    "CertificateWarning",
    "Deformations",
    "MaskingWarning",
    "MinimalNorm",
    "ProbabilityWarning",
    "RadiusWarning",
    "RandomnessWarning",
    "SanityWarning",
    "TrainingModeWarning",
    "ZeroGradientWarning",
    "apgd",
    "attacked_accuracy",
    "deformation_attack",
    "evaluate",
    "fgm",
    "fmn",
    "pgd",
    "sanity_checks",
]

"""Penalties, constraints and robust losses on any torch model, and their text form."""

from hilbertnet.regularization.deformed import DTau, Tau
from hilbertnet.regularization.delta import Delta
from hilbertnet.regularization.gradients import Grad, GradL1, GradL2
from hilbertnet.regularization.parametrized import parametrize_
from hilbertnet.regularization.projections import OperatorProjection, SpectralProjection
from hilbertnet.regularization.regularizer import BoundRegularizer, Regularizer, as_regularizer
from hilbertnet.regularization.robust_losses import PgdL2, PgdLinf, Trades
from hilbertnet.regularization.spectral import SpectralPenalty, WeightDecay
from hilbertnet.regularization.term import ConstraintTerm, LossTerm, PenaltyTerm, Term
from hilbertnet.regularization.terms import TERMS, describe
from hilbertnet.regularization.vat import Vat

__all__ = [
    "TERMS",
    "BoundRegularizer",
    "ConstraintTerm",
    "DTau",
    "Delta",
    "Grad",
    "GradL1",
    "GradL2",
    "LossTerm",
    "OperatorProjection",
    "PenaltyTerm",
    "PgdL2",
    "PgdLinf",
    "Regularizer",
    "SpectralPenalty",
    "SpectralProjection",
    "Tau",
    "Term",
    "Trades",
    "Vat",
    "WeightDecay",
    "as_regularizer",
    "describe",
    "parametrize_",
]

"""Attacks on classifiers, and their accuracy under attack beside what is certified."""

from hilbertnet.robustness.attacks import pgd
from hilbertnet.robustness.evaluation import Attacked, attacked_accuracy
from hilbertnet.robustness.threats import Ball

__all__ = ["Attacked", "Ball", "attacked_accuracy", "pgd"]

"""Runs that leave a folder with their record, and what is done with them."""

from hilbertnet.experiments.fit import FitSettings, fit_run, fit_seeds
from hilbertnet.experiments.gram import GramSettings, gram_file, gram_plan
from hilbertnet.experiments.predict import Predicted, predict_run
from hilbertnet.experiments.reproduce import reproduce

__all__ = [
    "FitSettings",
    "GramSettings",
    "Predicted",
    "fit_run",
    "fit_seeds",
    "gram_file",
    "gram_plan",
    "predict_run",
    "reproduce",
]

"""Runs that leave a folder with their record."""

from hilbertnet.experiments.fit import FitSettings, fit_run, fit_seeds

__all__ = ["FitSettings", "fit_run", "fit_seeds"]

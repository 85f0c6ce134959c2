"""Linear heads on features."""

from hilbertnet.solvers.linear import LinearHead, fit_head, select_lambda

__all__ = ["LinearHead", "fit_head", "select_lambda"]

"""The one training loop, what it is asked for and what it records."""

from hilbertnet.training.loop import train
from hilbertnet.training.objective import Data, Objective, classification_loss, evaluate
from hilbertnet.training.recipe import DivergedError, Epoch, Recipe

__all__ = ["Data", "DivergedError", "Epoch", "Objective", "Recipe", "classification_loss", "evaluate", "train"]

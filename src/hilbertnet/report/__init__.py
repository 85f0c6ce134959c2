"""A finished run as one self-contained HTML page, and the plots on it."""

from hilbertnet.report.deformed import deformed_images, field_arrows
from hilbertnet.report.page import write_report
from hilbertnet.report.plots import confusion_matrix, mosaic, training_curve, validation_curve

__all__ = [
    "confusion_matrix",
    "deformed_images",
    "field_arrows",
    "mosaic",
    "training_curve",
    "validation_curve",
    "write_report",
]

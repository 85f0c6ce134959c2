"""Deformations of images and signals: fields of displacements in pixels, families of them, and warping."""

from hilbertnet.deformations.contact_sheet import contact_sheet
from hilbertnet.deformations.digit_stream import DigitStream
from hilbertnet.deformations.families import (
    FAMILIES,
    BandLimitedField,
    Family,
    GaussianField,
    Rotation,
    Scaling,
    Shear,
    SplineField,
    Translation,
    Zoom,
    parse_family,
)
from hilbertnet.deformations.field_set import FieldSet
from hilbertnet.deformations.fields import (
    FoldWarning,
    check_field,
    compose,
    displacement_norm,
    folds,
    gradient_norm,
    jacobian,
    scale_field,
    warn_of_folds,
)
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST
from hilbertnet.deformations.warp import BOUNDARIES, INTERPOLATIONS, warp

__all__ = [
    "BOUNDARIES",
    "FAMILIES",
    "INTERPOLATIONS",
    "BandLimitedField",
    "DigitStream",
    "Family",
    "FieldSet",
    "FoldWarning",
    "GaussianField",
    "InfiniteMNIST",
    "Rotation",
    "Scaling",
    "Shear",
    "SplineField",
    "Translation",
    "Zoom",
    "check_field",
    "compose",
    "contact_sheet",
    "displacement_norm",
    "folds",
    "gradient_norm",
    "jacobian",
    "parse_family",
    "scale_field",
    "warn_of_folds",
    "warp",
]

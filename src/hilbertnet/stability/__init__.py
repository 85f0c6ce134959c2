"""How far a representation moves under deformations, measured and against the theorems."""

from hilbertnet.stability.adversarial import WorstField, worst_field
from hilbertnet.stability.beside import BoundsBeside, bounds_beside
from hilbertnet.stability.bound import StabilityBound, fit_constants, stability_bound
from hilbertnet.stability.designer import DesignTable, design_table
from hilbertnet.stability.grid_bound import GridBound, grid_bound
from hilbertnet.stability.growth import Growth, commutator_growth, translation_growth
from hilbertnet.stability.handwriting import Handwriting
from hilbertnet.stability.measure import Deformation, FieldDeformation, Measurement, as_deformation, landmarks, measure
from hilbertnet.stability.representations import as_representation
from hilbertnet.stability.scales import Scales, scales

__all__ = [
    "BoundsBeside",
    "Deformation",
    "DesignTable",
    "FieldDeformation",
    "GridBound",
    "Growth",
    "Handwriting",
    "Measurement",
    "Scales",
    "StabilityBound",
    "WorstField",
    "as_deformation",
    "as_representation",
    "bounds_beside",
    "commutator_growth",
    "design_table",
    "fit_constants",
    "grid_bound",
    "landmarks",
    "measure",
    "scales",
    "stability_bound",
    "translation_growth",
    "worst_field",
]

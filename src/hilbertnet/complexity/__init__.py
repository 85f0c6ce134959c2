"""How complex functions are: RKHS norms from above and below, spectra, margins, generalization, certificates."""

from hilbertnet.complexity.activation_norms import ActivationNorm, activation_norm, relu_surrogates
from hilbertnet.complexity.certificates import Certificates, LipschitzConstants, certified_radii
from hilbertnet.complexity.convolutions import ConvolutionNorms, convolution_norms
from hilbertnet.complexity.effective_dimension import degrees_of_freedom, gram_spectrum
from hilbertnet.complexity.functions import KernelMachine
from hilbertnet.complexity.generalization import MarginBound, best_margin_bound, margin_bound
from hilbertnet.complexity.margins import margin_distribution
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_above import NormBounds, norm_bounds
from hilbertnet.complexity.norms_below import LowerBounds, lower_bounds
from hilbertnet.complexity.rademacher import rademacher_bounds
from hilbertnet.complexity.spectrum import Spectrum, mercer

__all__ = [
    "ActivationNorm",
    "Certificates",
    "ConvolutionNorms",
    "KernelMachine",
    "LipschitzConstants",
    "LowerBounds",
    "MarginBound",
    "NormBounds",
    "Spectrum",
    "activation_norm",
    "best_margin_bound",
    "certified_radii",
    "convolution_norms",
    "degrees_of_freedom",
    "embedding_lipschitz",
    "gram_spectrum",
    "lower_bounds",
    "margin_bound",
    "margin_distribution",
    "mercer",
    "norm_bounds",
    "rademacher_bounds",
    "relu_surrogates",
]

"""How complex functions are: RKHS norms from above and below, spectra, margins, generalization, certificates."""

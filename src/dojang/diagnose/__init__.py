"""Facts about trained networks: dead channels, correlation between layers, coverage, hot spots."""

from dojang.diagnose.correlation import Correlation, correlations
from dojang.diagnose.equivariance import Equivariance, equivariance
from dojang.diagnose.finding import Finding, worst
from dojang.diagnose.findings import diagnose
from dojang.diagnose.spectrum import Spectrum, spectra

__all__ = [
    "Correlation",
    "Equivariance",
    "Finding",
    "Spectrum",
    "correlations",
    "diagnose",
    "equivariance",
    "spectra",
    "worst",
]

"""Facts about trained networks: dead channels, correlation between layers, coverage, hot spots."""

from dojang.diagnose.correlation import Correlation, correlations
from dojang.diagnose.effective import Effective, effective_fields
from dojang.diagnose.equivariance import Equivariance, equivariance
from dojang.diagnose.finding import Finding, worst
from dojang.diagnose.findings import diagnose
from dojang.diagnose.spectrum import Spectrum, spectra

__all__ = [
    "Correlation",
    "Effective",
    "Equivariance",
    "Finding",
    "Spectrum",
    "correlations",
    "diagnose",
    "effective_fields",
    "equivariance",
    "spectra",
    "worst",
]

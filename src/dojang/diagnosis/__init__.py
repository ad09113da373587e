"""Facts about trained networks: dead channels, correlation between layers, coverage, hot spots."""

from dojang.diagnosis.correlation import Correlation, correlations
from dojang.diagnosis.effective import Effective, effective_fields
from dojang.diagnosis.equivariance import Equivariance, equivariance
from dojang.diagnosis.findings import diagnose
from dojang.diagnosis.grouping import LayerGrouping, LayerGroupings, groupings
from dojang.diagnosis.spectrum import Spectrum, spectra
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding, worst

__all__ = [
    "Correlation",
    "Effective",
    "Equivariance",
    "Evidence",
    "Finding",
    "LayerGrouping",
    "LayerGroupings",
    "Spectrum",
    "correlations",
    "diagnose",
    "effective_fields",
    "equivariance",
    "groupings",
    "spectra",
    "worst",
]

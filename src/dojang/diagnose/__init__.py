"""Facts about trained networks: dead channels, correlation between layers, coverage, hot spots."""

from dojang.diagnose.finding import Finding, worst
from dojang.diagnose.findings import diagnose

__all__ = ["Finding", "diagnose", "worst"]

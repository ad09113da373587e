"""Cheaper networks that compute the same, or nearly: rewrites with claims and checks, and the search over them."""

from dojang.slimming.result import Edit, NetworkFigures, Refused, SlimResult
from dojang.slimming.search import slim

__all__ = ["Edit", "NetworkFigures", "Refused", "SlimResult", "slim"]

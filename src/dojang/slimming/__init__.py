"""Cheaper networks that compute the same, or nearly: rewrites with claims and checks, and the search over them."""

from dojang.slimming.result import Edit, Figures, Refused, SlimResult
from dojang.slimming.search import slim

__all__ = ["Edit", "Figures", "Refused", "SlimResult", "slim"]

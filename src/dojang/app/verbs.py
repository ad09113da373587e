"""The verbs: one function each, joining the rooms. These are `dojang.count`, `dojang.slim` and so on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dojang.app.networks import load
from dojang.arith.cost import Count
from dojang.arith.cost import count as count_graph
from dojang.report.table import number


def count(
    net: Any,
    *,
    input_size: Sequence[int] | None = None,
    num_classes: int | None = None,
    batch_size: int = 1,
    bias: bool = True,
    exact_padding: bool = False,
    unit: str = "mac",
) -> Count:
    """What every layer of a network costs, without running it; see `arith.cost.count` for what is counted.

    `net` is whatever `load` takes. Neither weights nor arrays are needed.
    """
    graph = load(net, input_size=input_size, num_classes=num_classes, arrays=False)
    return count_graph(graph, batch_size, bias, exact_padding, unit)


def over_budget(result: Count, max_macs: int | None = None, max_params: int | None = None) -> str | None:
    """Why a network is not within a budget, or None. A lower bound below the budget proves nothing, and is said so."""
    total = result.total
    for what, have, most in (("MACs", total.macs, max_macs), ("parameters", total.params, max_params)):
        if most is None:
            continue
        if have > most:
            return f"{result.network}: {number(have)} {what} are over the budget of {number(most)}"
        if total.unknown:
            return (
                f"{result.network}: at least {number(have)} {what}; whether that is within the budget of "
                f"{number(most)} is not known, because {', '.join(total.unknown[:3])} could not be counted"
            )
    return None

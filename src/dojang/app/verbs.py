"""The verbs: one function each, joining the rooms. These are `dojang.count`, `dojang.slim` and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dojang.app.networks import load
from dojang.arith.cost import Count
from dojang.arith.cost import count as count_graph
from dojang.arith.errors import UsageError
from dojang.arith.solve import solve as solve
from dojang.report.results import Listing
from dojang.report.table import number

if TYPE_CHECKING:
    from dojang.arith.check import Check
    from dojang.arith.compare import Comparison
    from dojang.arith.explain import Step
    from dojang.filters.files import FilterReport

LISTS = ("networks", "tables", "kernels", "algorithms")
"""What `list_all` can list."""


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


def explain(
    net: Any, layer: str, *, input_size: Sequence[int] | None = None, num_classes: int | None = None
) -> tuple[Step, ...]:
    """How every figure of one layer comes about; see `arith.explain`."""
    from dojang.arith.explain import explain as unfold

    return unfold(load(net, input_size=input_size, num_classes=num_classes, arrays=False), layer)


def check(table: str | Path, net: Any = None, *, input_size: Sequence[int] | None = None) -> Check:
    """A published table against the network it names, or `net`; see `arith.check`."""
    from dojang.arith.check import check as judge
    from dojang.formats import tables

    printed = tables.load(table)
    return judge(printed, load(net if net is not None else printed.network, input_size=input_size, arrays=False))


def compare(a: Any, b: Any, *, input_size: Sequence[int] | None = None) -> Comparison:
    """Two networks side by side; see `arith.compare`."""
    from dojang.arith.compare import compare as align

    return align(count(a, input_size=input_size), count(b, input_size=input_size))


def filter_files(
    images: Sequence[str | Path],
    kernel: Any,
    *,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    output: str | Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> FilterReport:
    """Presses a kernel on picture files; see `filters.files.filter_files`."""
    from dojang.filters.files import filter_files as work

    return work(images, kernel, output, border, stride, dilation, force, progress)


def list_all(what: str) -> Listing:
    """What there is: `networks` of the zoo with their totals, published `tables`, `kernels` for pictures."""
    if what == "networks":
        from dojang.formats import zoo

        rows = []
        for name in zoo.names():
            graph = zoo.load(name, weights=False)
            total = count_graph(graph).total
            source = graph.meta.get("source", "")
            rows.append({"name": name, "params": total.params, "macs": total.macs, "source": source})
        return Listing(what, tuple(rows))
    if what == "tables":
        from dojang.formats import tables

        listed = (tables.load(name) for name in tables.names())
        return Listing(
            what,
            tuple(
                {"name": t.name, "title": t.title, "network": t.network, "rows": len(t.rows), "source": t.source}
                for t in listed
            ),
        )
    if what == "kernels":
        from dojang.filters.named import NAMED

        kernels = ({"name": r.name, "does": r.does, "source": r.source, "options": r.options} for r in NAMED.values())
        return Listing(what, tuple(kernels))
    if what == "algorithms":
        from dojang.engine.algorithms import ALGORITHMS

        listed_ = ((a.__name__.rpartition(".")[2], (a.__doc__ or "").strip().splitlines()) for a in ALGORITHMS)
        return Listing(what, tuple({"name": name, "does": doc[0] if doc else ""} for name, doc in listed_))
    raise UsageError(f"there is no list of {what}; choose {' or '.join(LISTS)}")

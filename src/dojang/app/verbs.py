"""The verbs that only count: `dojang.count`, `dojang.memory`, `dojang.explain`, `dojang.check` and so on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from dojang.app.any_size import for_counting
from dojang.app.networks import InputSize, load, paths
from dojang.arith.cost import Count, of_paths
from dojang.arith.cost import count as count_graph
from dojang.arith.ops import UNKNOWN
from dojang.arith.solve import solve as solve
from dojang.arith.symbol import symbol, symbolic
from dojang.base.errors import UnsupportedError, UsageError
from dojang.base.showing import shown
from dojang.base.wording import did_you_mean
from dojang.report.table import number

if TYPE_CHECKING:
    from dojang.arith.check import Check
    from dojang.arith.compare import Comparison
    from dojang.arith.devices import Placement
    from dojang.arith.explain import Explanation
    from dojang.arith.graph import Graph
    from dojang.arith.memory import MachinePeaks, MemoryUse
    from dojang.report.results import Listing

Unit = Literal["mac", "flop"]
Optimiser = Literal["none", "sgd", "momentum", "rmsprop", "adam"]
What = Literal["networks", "tables", "kernels", "kinds", "algorithms", "operators"]
"""What `available` can list."""


def count(
    net: Any,
    *,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    batch_size: int | str = 1,
    bias: bool = True,
    exact_padding: bool = False,
    unit: Unit = "mac",
    depth: int | None = None,
) -> Count:
    """What every layer of a network costs, without running it: parameters, multiply-accumulates (MACs), bytes of its
    output, receptive field; and the totals, with the most bytes of activations that are alive at once.

    `net` is whatever `load` takes; weights are not needed. `input_size` is channels first and without the batch. One
    MAC is one multiplication and one addition; `unit="flop"` prints 2 FLOPs for it. `bias=False` leaves biases out of
    the parameters. `exact_padding=True` does not count multiplications with padding zeros. Not counted as MACs: adding
    biases, activations, pooling, normalisation, element-wise sums. An operator that is not known makes the totals a
    lower bound (`status`).

    The printed table is folded by modules to `depth` (without it as deep as one screen holds); the result always has
    every layer (`layers`), and every module with its subtotals (`tree`).

    Sizes and the batch may be names ("H"): then figures are formulas; so are those of an ONNX file that leaves sizes
    open, if none is given. Where values decide which path a network takes
    (an `if` on a tensor in a PyTorch forward, an If in an ONNX file), every path is counted: the result is the one with
    the most MACs, and `ways` has all of them.

    Raises what `load` raises.

    >>> count("alexnet").macs
    724406816
    >>> str(count("lenet5", input_size=(1, "H", "W")).macs) != ""
    True
    >>> [(m.name, m.cost.params) for m in count("resnet50").tree.modules() if m.level == 1]
    [('layer1', 215808), ('layer2', 1219584), ('layer3', 7098368), ('layer4', 14964736)]
    """
    graphs = _all_paths(net, input_size, num_classes, any_size=True)
    if depth is not None and depth < 1:
        raise UsageError(f"depth {depth}: the modules of the network itself are at depth 1")
    counts = [count_graph(graph, _batch(batch_size), bias, exact_padding, unit) for graph in graphs]
    return replace(of_paths(counts), depth=depth)


def _all_paths(
    net: Any, input_size: InputSize | None = None, num_classes: int | None = None, any_size: bool = False
) -> tuple[Graph, ...]:
    """The network, without arrays; if values decide which path it takes, one Graph per path, the costliest last.

    With `any_size` an ONNX file that leaves sizes open keeps them open, where no size is given and its layers allow it.
    """
    if any_size and input_size is None:
        graph = for_counting(net, num_classes)
        if graph is not None and not _branches(graph):
            return (graph,)
    try:
        graph = load(net, input_size=input_size, num_classes=num_classes, arrays=False)
    except UnsupportedError as error:
        if not getattr(error, "what", ""):
            raise
        return _by_cost(paths(net, input_size=input_size))
    if _branches(graph) and isinstance(net, str | Path) and Path(net).suffix == ".onnx":
        return _by_cost(paths(net, input_size=input_size))
    return (graph,)


def _branches(graph: Graph) -> bool:
    """Whether values decide which of two paths is taken."""
    return any(node.op == UNKNOWN and str(node.attrs["kind"]).startswith("If ") for node in graph.nodes)


def _by_cost(graphs: Sequence[Graph]) -> tuple[Graph, ...]:
    totals = [count_graph(graph).total for graph in graphs]
    return tuple(graphs[i] for i in sorted(range(len(graphs)), key=lambda i: (totals[i].macs, totals[i].params)))


def memory(
    net: Any,
    *,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    batch_size: int | str = 1,
    optimiser: Optimiser = "momentum",
    machine: str | None = None,
) -> MemoryUse:
    """What a network holds and moves, in bytes: weights and activations at inference; saved activations, gradients and
    the optimiser's state in one training step; and what each layer reads and writes.

    With `machine` also the least and the most time that each layer can take there. A machine is "here" (one core, by
    the peaks that plans are made from), "a100", "h200", "raspberry-pi-5", or peaks as "GFLOPS,GBYTES" such as
    "150,12". Values are float32. Not counted: scratch memory of algorithms, gradients of activations. Where values
    decide which path a network takes, this is the path with the most MACs, and `ways` has all of them.

    Raises what `load` raises, and `UsageError` for symbolic sizes and machines that are not known.

    The interval of time is the roofline (Williams, Waterman, Patterson 2009).

    >>> memory("alexnet", batch_size=32).memory.training_bytes
    1130910304
    """
    from dojang.arith.memory import memory_use

    graphs = _all_paths(net, input_size, num_classes)
    where = machine_of(machine) if machine is not None else None
    every = tuple(memory_use(graph, where, _batch(batch_size), optimiser) for graph in graphs)
    return every[0] if len(every) == 1 else replace(every[-1], ways=every)


def over_devices(
    net: Any,
    devices: int,
    *,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    batch_size: int | str = 1,
) -> Placement:
    """A network cut over several devices by the filters of its layers: the parameters, MACs and bytes of activations of
    each device, and the bytes that they exchange, layer by layer.

    Each device computes an equal part of the filters of every layer. A layer with filter groups reads only channels of
    its own groups; if these are on the device, nothing is exchanged. Layers that read all channels receive what other
    devices computed. Products of activations (attention) are computed by every device. Where values decide which path a
    network takes, this is the path with the most MACs.

    Raises what `load` raises, and `UsageError` for symbolic sizes.

    AlexNet was published over two devices like this (Krizhevsky, Sutskever, Hinton 2012, figure 2):

    >>> halves = over_devices("alexnet", 2)
    >>> halves.params, [layer.name for layer in halves.exchanges if layer.op != "lrn"]
    ((30482612, 30482612), ['conv3', 'fc6', 'fc7', 'fc8'])
    """
    from dojang.arith.devices import place

    if isinstance(batch_size, str):
        raise UsageError("over devices the batch must be a number; formulas are for one device")
    return place(_all_paths(net, input_size, num_classes)[-1], devices, batch_size)


def _batch(size: int | str) -> Any:
    return symbol(size) if isinstance(size, str) else size


def machine_of(text: str) -> MachinePeaks:
    """The machine that a person names; raises `UsageError`."""
    from dojang.arith.memory import MACHINES, MachinePeaks

    if text == "here":
        from dojang.native.machine import Machine as Processor

        host = Processor.host()
        title = f"{host.name}, one core ({host.isa}; peaks: {host.source})"
        return MachinePeaks(title, host.peaks.fma_gflops, host.peaks.read_gbs)
    if text in MACHINES:
        return MACHINES[text]
    try:
        gflops, gbytes = (float(part) for part in text.split(","))
        if not (0 < gflops < inf and 0 < gbytes < inf):
            raise ValueError
    except ValueError:
        every = f"give here, {', '.join(MACHINES)}, or peaks as GFLOPS,GBYTES such as 150,12"
        hint = did_you_mean(text, ("here", *MACHINES), every)
        raise UsageError(f"--machine {text}: {hint}") from None
    return MachinePeaks(f"{gflops:g} GFLOP/s, {gbytes:g} GB/s", gflops, gbytes)


def over_budget(result: Count, max_macs: int | None = None, max_params: int | None = None) -> str | None:
    """Why a network is not within a budget, or None. A lower bound below the budget proves nothing, and is said so."""
    total = result.total
    for what, have, most in (("MACs", total.macs, max_macs), ("parameters", total.params, max_params)):
        if most is None:
            continue
        if symbolic(have):
            raise UsageError(f"a budget needs numbers; the {what} of {result.network} are {have}")
        if have > most:
            return f"{shown(result.network)}: {number(have)} {what} are over the budget of {number(most)}"
        if total.unknown:
            return (
                f"{result.network}: at least {number(have)} {what}; whether that is within the budget of "
                f"{number(most)} is not known, because {', '.join(total.unknown[:3])} could not be counted"
            )
    return None


def explain(
    net: Any, layer: str, *, input_size: InputSize | None = None, num_classes: int | None = None
) -> Explanation:
    """How every figure of one layer comes about: the formula, the same with numbers, and the result.

    Covers output size, weights, biases, MACs, output bytes and the receptive field, for batch 1 and with padding taps
    counted. Where values decide which path a network takes, this is the path with the most MACs among those through
    the layer. Raises what `load` raises, `GraphError` for a name that is no layer, and
    `ShapeError` where an unknown operator before the layer hides its input shape.

    >>> print(explain("alexnet", "conv2").steps[2])
    weights = k·k·ic·oc / groups = 5·5·96·256 / 2 = 307,200
    """
    from dojang.arith.explain import Explanation, paths_through
    from dojang.arith.explain import explain as unfold

    graphs = _all_paths(net, input_size, num_classes)
    through = [graph for graph in graphs if layer in graph.by_name] or [graphs[-1]]
    steps = unfold(through[-1], layer)
    return Explanation(layer, steps if len(graphs) == 1 else (*steps, paths_through(len(through), len(graphs))))


def check(table: str | Path, net: Any = None, *, input_size: InputSize | None = None) -> Check:
    """A published table judged cell by cell against the network that it names, or against `net`.

    `table` is a name (`available("tables")`) or a .csv file. Every cell is *exact*, *rounded*, right by another
    *convention* that papers use, or a *mismatch*, which is explained where more than one cell supports an explanation.

    A table may name a network of the zoo, or a .net, .onnx or .safetensors file in its own folder; it never names
    code, which only `net` may (a table is data, and reading data runs nothing). Where values decide which path the
    network takes, the table is compared with the path with the most MACs.

    Raises what `load` raises, and `DataError` for rows that name no layer and cells that are no number.

    >>> [(cell.row, cell.column) for cell in check("alexnet-lecture").mismatches]
    [('fc6: 13·13·128·2·2048·2', 'weights')]
    """
    from dojang.arith.check import check as judge
    from dojang.formats import tables

    printed = tables.load(table)
    graphs = _all_paths(net if net is not None else tables.network_of(printed, table), input_size)
    return replace(judge(printed, graphs[-1]), ways=len(graphs))


def compare(a: Any, b: Any, *, input_size: InputSize | None = None) -> Comparison:
    """Two networks side by side: totals, their ratios, and the layers aligned like the lines of a diff.

    `input_size` applies to both. Raises what `load` raises.

    >>> found = compare("resnet18", "resnet50")
    >>> round(found.b.macs / found.a.macs, 2)
    2.25
    """
    from dojang.arith.compare import compare as align

    return align(count(a, input_size=input_size), count(b, input_size=input_size))


def available(what: What) -> Listing:
    """What there is to choose from, one row each: `networks` of the zoo with their totals, published `tables`, named
    `kernels` for pictures, `kinds` of convolution with what each costs beside the plain one, the `algorithms` that
    compute convolutions, and the `operators` with the parts of dojang that know them. Raises `UsageError` for another
    word.

    >>> [row["name"] for row in available("tables").rows]
    ['alexnet-lecture', 'googlenet-table1']
    """
    from dojang.report.results import Listing

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
        from dojang.filters.kernels.named import NAMED
        from dojang.filters.kernels.parse import named

        kernels = (
            {
                "name": r.name,
                "does": r.does,
                "source": r.source,
                "options": dict(r.options),
                "taps": [part.tolist() for part in named(r.name).parts],
            }
            for r in NAMED.values()
        )
        return Listing(what, tuple(kernels))
    if what == "kinds":
        from dojang.arith.kinds import field_trade, kinds

        every = kinds()
        return Listing(what, tuple(kind.to_dict(every[0]) for kind in every), {"field_trade": field_trade()})
    if what == "algorithms":
        from dojang.engine.kernels.conv import ALGORITHMS

        algorithms = ((a.NAME, (a.__doc__ or "").strip().splitlines()) for a in ALGORITHMS)
        return Listing(what, tuple({"name": name, "does": doc[0] if doc else ""} for name, doc in algorithms))
    if what == "operators":
        from dojang.app import operators

        return Listing(what, operators.rows())
    hint = did_you_mean(str(what), get_args(What), f"use {', '.join(get_args(What))}")
    raise UsageError(f"there is no list of {what}; {hint}")

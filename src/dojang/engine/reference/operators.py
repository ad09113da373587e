"""Every operator done naively in NumPy: the oracle that all faster ways of running a network are held against.

`REFERENCE` has one function per operator: `f(attrs, inputs, arrays) -> output`, where `inputs` are arrays with the
batch first and `arrays` holds the node's weights by role. The dtype of the inputs is kept: float64 in, float64 out.
The functions follow IEEE arithmetic without warnings: an overflow is inf, 0/0 is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from dojang.arith.attrs import Attrs
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import UNKNOWN
from dojang.arith.table import Table
from dojang.base.errors import DataError, DojangError, ShapeError, UsageError
from dojang.engine.reference import elements as reference_elements
from dojang.engine.reference import layout as reference_layout
from dojang.engine.reference import windows as reference_windows

Array = np.ndarray
Function = Callable[[Attrs, Sequence[Array], Mapping[str, Array]], Array]


@dataclass(frozen=True)
class RunResult:
    """What a run gave: the outputs in the order of `Graph.outputs`, and the tapped activations by node name."""

    outputs: tuple[Array, ...]
    taps: Mapping[str, Array]


def quiet(function: Function) -> Function:
    """The function without floating-point warnings: infinities and NaN go through as IEEE 754 has them."""

    @wraps(function)
    def run(attrs: Attrs, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
        with np.errstate(all="ignore"):
            return function(attrs, inputs, arrays)

    return run


def fed(attrs: Attrs, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """The network's input: what is fed in."""
    return inputs[0]


REFERENCE: Table[Function] = Table(
    "reference",
    "run",
    __name__,
    {
        name: quiet(function)
        for name, function in {
            "input": fed,
            **reference_windows.FUNCTIONS,
            **reference_elements.FUNCTIONS,
            **reference_layout.FUNCTIONS,
        }.items()
    },
    {UNKNOWN: "replace it by known operators or cut the network before it"},
)
"""One function per operator."""


def refuse_unknown(graph: Graph) -> None:
    """Raises `UnsupportedError`, with node and operator, for operators that have no meaning here."""
    for node in graph.nodes:
        REFERENCE.of(node)


def run_reference(
    graph: Graph, inputs: Array | Mapping[str, Array], dtype: Any = None, taps: Sequence[str] = ()
) -> RunResult:
    """Outputs (and tapped activations) of a network, each node by its reference function.

    `inputs`: an array (n, *shape), or one per input node by name. `dtype` computes in another precision than that of
    the input (np.float64 for checks). Raises `GraphError` for missing weights and unknown taps, `DataError` for NaN in
    weights, `ShapeError` and `UsageError` for inputs that do not fit, `UnsupportedError` for unknown operators.
    """
    check_arrays(graph)
    for name in (*taps, *graph.outputs):
        graph[name]  # raises for a name that is not there
    fed_arrays = check_inputs(graph, inputs)
    check_batch(graph, next((len(x) for x in fed_arrays.values()), 1))
    kind = np.dtype(dtype) if dtype is not None else np.result_type(*fed_arrays.values(), np.float16)
    last = last_readers(graph, taps)
    values: dict[str, Array] = {}
    for place, node in enumerate(graph.nodes):
        sources = [fed_arrays[node.name]] if node.op == "input" else [values[i] for i in node.inputs]
        arrays = {role: np.asarray(graph.weights[node.array(role)], kind) for role in graph.node_params(node)}
        sources = [np.asarray(s, kind) for s in sources]
        values[node.name] = np.asarray(apply(node, sources, arrays), kind)
        for name in last.get(place, ()):
            del values[name]
    return RunResult(tuple(values[o] for o in graph.outputs), {t: values[t] for t in taps})


def apply(node: Node, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """One node by its reference function; errors name the node."""
    function = REFERENCE.of(node)
    try:
        return function(node.attrs, inputs, arrays)
    except DojangError as error:
        raise error.within(node.name) from None


def last_readers(graph: Graph, keep: Sequence[str] = ()) -> dict[int, list[str]]:
    """For each place in `graph.nodes` the values that nobody reads after it; outputs and `keep` are never dropped."""
    last: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        for name in (node.name, *node.inputs):
            last[name] = place
    kept = {*graph.outputs, *keep}
    ends: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in kept:
            ends.setdefault(place, []).append(name)
    return ends


def check_arrays(graph: Graph) -> None:
    """Raises unless every weight array is there, fits, and holds no NaN."""
    graph.check_weights()
    for name in graph.param_shapes:
        array = np.asarray(graph.weights[name])
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name}: weights of type {array.dtype} cannot be computed with; give floating point")
        if array.dtype.kind == "f" and array.size and np.isnan(array.min()):  # the least is NaN where any is
            count = int(np.isnan(array).sum())
            raise DataError(
                f"{name}: {count} of {array.size} weights are NaN; the training diverged or the file is bad"
            )


def check_inputs(graph: Graph, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
    """The inputs by node name, each a floating-point array (n, *shape) with one n; raises a one-line error if not."""
    wanted = [node.name for node in graph.inputs]
    if not isinstance(inputs, Mapping):
        if len(wanted) != 1:
            raise UsageError(
                f"{graph.name} has {len(wanted)} inputs ({', '.join(wanted)}); give an array for each name"
            )
        inputs = {wanted[0]: inputs}
    strange = [name for name in inputs if name not in wanted]
    missing = [name for name in wanted if name not in inputs]
    if strange or missing:
        problem = f"has no input {strange[0]!r}" if strange else f"needs the input {missing[0]!r}"
        raise UsageError(f"{graph.name} {problem}; its inputs are {', '.join(wanted) or 'none'}")
    arrays = {name: np.asarray(inputs[name]) for name in wanted}
    for node in graph.inputs:
        x, shape = arrays[node.name], node.attrs["shape"]
        if x.dtype.kind != "f":
            raise UsageError(
                f"{node.name}: the input is {x.dtype}; give float32, with pictures scaled to 0..1 and normalised"
            )
        if x.shape[1:] != tuple(shape) or x.ndim != len(shape) + 1:
            got = by(x.shape) or "one number"
            raise ShapeError(f"{node.name}: the input is {got}; the network takes (batch)x{by(shape)}")
    if len({x.shape[0] for x in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} {x.shape[0]}" for name, x in arrays.items())
        raise ShapeError(f"{graph.name}: the inputs have different batch sizes: {sizes}")
    return arrays


def check_batch(graph: Graph, n: int) -> None:
    """Raises `ShapeError` where a layer stops fitting its weights with `n` pictures, as after a fixed reshape."""
    shapes = graph.shapes(n)
    for node in graph.nodes:
        sizes = [s for s in (shapes[i] for i in node.inputs) if s is not None]
        if not node.rule.params or len(sizes) < len(node.inputs):
            continue
        for role, shape in node.param_shapes(sizes).items():
            own = graph.param_shapes[node.array(role)]
            if shape != own:
                raise ShapeError(
                    f"{node.name}: with a batch of {n} its {role} would have to be {by(shape)}, it is {by(own)}; "
                    "a reshape before it has the batch size written into it"
                )

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
from dojang.arith.graph import Graph, Node, with_batch
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.standard import CONTROL, REAL
from dojang.arith.table import Table
from dojang.base.errors import DataError, DojangError, ShapeError, UnsupportedError, UsageError
from dojang.engine.reference import control as reference_control
from dojang.engine.reference import elements as reference_elements
from dojang.engine.reference import layout as reference_layout
from dojang.engine.reference import recurrent as reference_recurrent
from dojang.engine.reference import windows as reference_windows
from dojang.engine.reference.standard import run as reference_standard

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
            **reference_recurrent.FUNCTIONS,
            STANDARD: reference_standard.one_output,
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
    check_batch(graph, batch_of(graph, fed_arrays))
    kind = np.dtype(dtype) if dtype is not None else precision_of(graph, fed_arrays)
    last = last_readers(graph, taps)
    values: dict[str, Array] = {}
    several: Several = {}
    for place, node in enumerate(graph.nodes):
        sources = [fed_arrays[node.name]] if node.op == "input" else [values[i] for i in node.inputs]
        arrays = arrays_of(graph, node, kind)
        values[node.name] = typed(graph, node.name, apply(node, sources, arrays, several), kind)
        for name in last.get(place, ()):
            del values[name]
    answers = values if dtype is not None else {o: answer(graph, o, values[o]) for o in graph.outputs}
    return RunResult(tuple(answers[o] for o in graph.outputs), {t: values[t] for t in taps})


def precision_of(graph: Graph, fed: Mapping[str, Array]) -> np.dtype:
    """The precision of the real numbers of a run: that of its inputs; at least float32 if the network says a type."""
    real = [x for name, x in fed.items() if graph.is_single(name)]
    least = np.float16 if all(kind == "float32" for kind in graph.types.values() if kind in REAL) else np.float32
    return np.result_type(*real, least) if real else np.dtype(np.float32)


HELD: Mapping[str, str] = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8", "string": "object"}
"""Types that NumPy does not have, and those whose arrays hold their values."""


def typed(graph: Graph, name: str, array: Array, kind: Any = np.float32) -> Array:
    """An array in the type of a value: real numbers in the precision `kind`, whatever their type in the network. Sums
    of whole numbers that int32 does not hold wrap, as in the additions of a processor.
    """
    own = graph.types[name]
    if own == "int32" and array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            array = array.astype(np.int64)
    if own == "float64":
        kind = np.promote_types(kind, np.float64)
    return np.asarray(array, kind if own in REAL else HELD.get(own, own))


def arrays_of(graph: Graph, node: Node, kind: Any = np.float32) -> dict[str, Array]:
    """The arrays of a node by role; where its input has no known shape, those that there are."""
    roles = graph.node_params(node) or (
        node.rule.roles if any(graph.unit_shapes[i] is None for i in node.inputs) else ()
    )
    there = [role for role in roles if node.array(role) in graph.weights]
    return {role: typed(graph, node.name, graph.weights[node.array(role)], kind) for role in there}


def answer(graph: Graph, name: str, array: Array) -> Array:
    """An output in the type that the network gives it; NumPy has no bfloat16, whose numbers stay as they are."""
    own = graph.types[name]
    mixed = own == "float32" and array.dtype != np.float32 and any(t not in PLAIN for t in graph.types.values())
    return array.astype(own) if mixed or own in ("float16", "float64") else array


PLAIN = frozenset(("float32", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"))
"""Types that say nothing about the precision of real numbers, beside the usual one."""


Several = dict[tuple[Any, ...], Any]
"""The outputs of operators that have several, by what determines them, so that each is computed once in a run. `BODIES`
names the function that runs the networks of branches and loops.
"""

BODIES = ("bodies",)


def apply(node: Node, inputs: Sequence[Array], arrays: Mapping[str, Array], several: Several | None = None) -> Array:
    """One node by its reference function; errors name the node. `several` is what this run computed before."""
    function = REFERENCE.of(node)
    if node.rule.macs and node.op != STANDARD and any(x.dtype.kind in "iu" for x in inputs):
        wide = exact_type(inputs, arrays) if node.op in ("conv", "dense") else np.float64
        inputs = [x.astype(wide) for x in inputs]
        arrays = {role: array.astype(wide) for role, array in arrays.items()}
    try:
        if node.op == STANDARD and node.attrs["kind"] in CONTROL:
            return _controlled(node, inputs, {} if several is None else several)
        if node.op == STANDARD and several is not None:
            return reference_standard.shared(node, inputs, several)
        return function(node.attrs, inputs, arrays)
    except DojangError as error:
        raise error.within(node.name) from None


def _controlled(node: Node, inputs: Sequence[Array], several: Several) -> Array:
    """An output of a branch or a loop; those of the same one are computed together."""
    key = (node.attrs["settings"], node.inputs)
    found = several.get(key)
    if found is None:
        run_body = several.get(BODIES) or (lambda graph, fed: run_reference(graph, fed).outputs)
        found = several[key] = reference_control.run(node, inputs, run_body)
    return found[node.attrs["output"]]


def exact_type(inputs: Sequence[Array], arrays: Mapping[str, Array]) -> type[np.floating[Any]]:
    """The shortest real numbers in which sums of products of these whole numbers are exact: float32 below 2²⁴, float64.

    No sum is larger than the largest input times the sizes of the weights of one output, plus a bias.
    """
    weight = arrays.get("weight")
    if weight is None or not weight.size or not inputs[0].size:
        return np.float64
    largest = max(abs(int(inputs[0].max())), abs(int(inputs[0].min())))
    rows = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(1).max()
    bias = arrays.get("bias")
    most = largest * rows + (float(np.abs(bias.astype(np.float64)).max()) if bias is not None and bias.size else 0)
    return np.float32 if most < 1 << 24 else np.float64


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
        if array.dtype.kind not in "fiubO":
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
        x, shape, axis = arrays[node.name], node.attrs["shape"], node.attrs["batch_axis"]
        arrays[node.name] = _of_type(graph, node, x)
        if axis < 0:
            if x.shape != tuple(shape):
                wanted_shape = by(shape) or "one number"
                got = by(x.shape) or "one number"
                raise ShapeError(f"{node.name}: the input is {got}; the network takes {wanted_shape}")
        elif x.shape[:axis] + x.shape[axis + 1 :] != tuple(shape) or x.ndim != len(shape) + 1:
            got = by(x.shape) or "one number"
            parts = [*map(str, shape[:axis]), "(batch)", *map(str, shape[axis:])]
            raise ShapeError(f"{node.name}: the input is {got}; the network takes {'x'.join(parts)}")
    batches = {n.name: arrays[n.name].shape[n.attrs["batch_axis"]] for n in graph.inputs if n.attrs["batch_axis"] >= 0}
    if len(set(batches.values())) > 1:
        sizes = ", ".join(f"{name} {size}" for name, size in batches.items())
        raise ShapeError(f"{graph.name}: the inputs have different batch sizes: {sizes}")
    return arrays


def _of_type(graph: Graph, node: Node, x: Array) -> Array:
    """An input in its type: real numbers of any precision, whole numbers only where all of them fit.

    Whole numbers are also taken for an input of real numbers that the network turns into whole ones first, as tokens of
    an embedding are; elsewhere they are refused, because they are most likely pixels that nobody has scaled.
    """
    own = node.attrs["dtype"]
    if own in REAL:
        if x.dtype.kind in "iu" and _only_made_whole(graph, node):
            given = x.astype(np.float32)
            if not np.array_equal(given.astype(np.float64), x.astype(np.float64)):
                raise UsageError(
                    f"{node.name}: holds whole numbers above 2^24 in size, which float32 cannot tell apart"
                )
            return given
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            raise UsageError(
                f"{node.name}: the input is {x.dtype}; give float32, with pictures scaled to 0..1 and normalised"
            )
        return x if x.dtype.kind == "f" else x.astype(np.float32)
    if own.startswith(("float8", "float4")):
        raise UnsupportedError(f"{node.name}: numbers of type {own} are not computed with")
    wanted = np.dtype(HELD.get(own, own))
    if x.dtype.name == own:
        return x.astype(wanted)  # a type that NumPy does not have, from another package
    if x.dtype != wanted:
        kinds = "biuf" if wanted.kind in "iu" else wanted.kind
        with np.errstate(invalid="ignore"):
            given = x.astype(wanted) if x.dtype.kind in kinds else x
        if x.dtype.kind not in kinds or not np.array_equal(given, x):
            raise UsageError(f"{node.name}: the input is {x.dtype}; the network takes {own}")
        return given
    return x


def _only_made_whole(graph: Graph, node: Node) -> bool:
    """Whether everything that reads a value converts it to whole numbers."""
    readers = graph.consumers[node.name]
    casts = [r for r in readers if r.op == STANDARD and r.attrs["kind"] == "Cast"]
    whole = all(graph.types[r.name] in ("int32", "int64") for r in casts)
    return len(casts) == len(readers) > 0 and whole and node.name not in graph.outputs


def batch_of(graph: Graph, fed: Mapping[str, Array]) -> int:
    """The batch size of checked inputs; 1 for a network without a batch."""
    return next((fed[n.name].shape[n.attrs["batch_axis"]] for n in graph.inputs if n.attrs["batch_axis"] >= 0), 1)


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


def random_input(node: Node, batch: int, rng: np.random.Generator) -> Array:
    """An input to measure with: real numbers around 0; whole numbers 0, truth values false, which are valid indices."""
    shape = with_batch(node.attrs, batch)
    assert shape is not None
    if node.attrs["dtype"] in REAL:
        return rng.standard_normal(shape, np.float32)
    return np.zeros(shape, HELD.get(node.attrs["dtype"], node.attrs["dtype"]))

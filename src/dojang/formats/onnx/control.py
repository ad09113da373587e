"""If, Loop and Scan of ONNX: their bodies are inserted if constants say which branch runs and how often.

If the values of a tensor decide which branch of an If runs, or how often a Loop repeats, a network that is read to be
run takes its bodies as networks of their own (`deferred.py`). One that is read to be counted has an `unknown` node
there, unless `Reader.ahead` says which branches to follow (`onnx.paths`), so that every path can be counted. A Scan
along the batch stays `unknown`.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dojang.arith.graph import reachable
from dojang.arith.ops import STANDARD
from dojang.arith.shapes import axis_of
from dojang.arith.standard import MACS
from dojang.base.errors import DojangError, GraphError, ShapeError
from dojang.formats.onnx import deferred
from dojang.formats.onnx.batch import depends
from dojang.formats.onnx.constants import Const, of_tensor, of_values
from dojang.formats.onnx.draft import MADE, Call, Draft, NotDone, Reader, Value, batch_axis, shortest
from dojang.formats.onnx.fold import fold
from dojang.formats.onnx.protobuf import Message, decode
from dojang.formats.onnx.schema import GRAPH

MOST_DEPTH = 16
"""The deepest nesting of bodies; networks have two or three."""

BODY_BUDGET = 20_000
"""The most nodes that are read from bodies of one file; every iteration of a loop counts."""

MOST_DECISIONS = 6
"""The most If nodes of which both branches are followed: at most 64 paths."""

BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
"""The attributes of an operator that are graphs."""

FREE = frozenset(
    "Greater GreaterOrEqual Less LessOrEqual Equal Not And Or Xor IsNaN IsInf Cast Size Shape Squeeze Gather ArgMax "
    "ArgMin ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare NonZero".split()
)
"""Operators without weights or MACs that lead to a decision by values."""


def hold(reader: Reader, graph: Message) -> None:
    """Adds the initialisers of a graph to the known values."""
    for tensor in graph.get("initializer", ()):
        const = of_tensor(tensor, reader.folder, trained=True)
        if MADE.fullmatch(const.name):
            const = replace(const, pieces=tuple(replace(piece, named=False) for piece in const.pieces))
        reader.pieces += const.pieces
        if const.size == 1 and const.sort == "f" and _is_there(const):
            const = replace(const, fill=shortest(const.values()[0]), trained=not MADE.fullmatch(const.name))
        reader.values[const.name] = const


def _is_there(const: Const) -> bool:
    """Whether the number of a constant can be read; external data may be missing, which counting allows."""
    try:
        const.values()
    except DojangError:
        return False
    return True


def uses(graph: Message, depth: int = 0) -> Counter[str]:
    """How often each name is read in a graph and in the bodies of its nodes."""
    found = Counter(i for node in graph.get("node", ()) for i in node.get("input", ()))
    found.update(o.get("name", "") for o in graph.get("output", ()))
    for node in graph.get("node", ()):
        if node.get("op_type") in BODIES and depth < MOST_DEPTH:
            for attr in node.get("attribute", ()):
                if "g" in attr:
                    found.update(uses(decode(GRAPH, attr["g"]), depth + 1))
    return found


Body = tuple[Message, Mapping[str, Value]]


def _body(reader: Reader, call: Call, name: str) -> Body:
    """A body and its initialisers, decoded once, so that its weights are the same arrays in every iteration."""
    data = call.attrs[name]
    known = reader.bodies.get(id(data))
    if known is None:
        body, around = decode(GRAPH, data), reader.values
        reader.values = {}
        try:
            hold(reader, body)
            known = reader.bodies[id(data)] = (data, (body, reader.values))
        finally:
            reader.values = around
    return known[1]


def _read(reader: Reader, inside: Body, given: Mapping[str, Value]) -> list[Value]:
    """The outputs of a body whose inputs are `given`; the body may also read all outer names."""
    body, held = inside
    nodes = body.get("node", ())
    reader.turns += len(nodes) + len(given) + 1
    if reader.turns > BODY_BUDGET:
        raise NotDone("too many iterations to follow")
    if reader.depth >= MOST_DEPTH:
        raise NotDone("bodies nested too deep")
    around, call, label = reader.values, reader.call, reader.label
    reader.values = ChainMap({**held, **given}, around)
    reader.depth += 1
    try:
        for node in nodes:
            reader.step(node, reader.rules)
        outputs: list[Value] = []
        for value in body.get("output", ()):
            made = value.get("name", "")
            if made not in reader.values:
                raise GraphError(f"{call.name}: the output {made!r} of its body is made by no node")
            outputs.append(reader.values[made])
        return outputs
    finally:
        reader.values, reader.call, reader.label = around, call, label
        reader.depth -= 1


def _truth(value: Const) -> bool:
    return bool(value.values()[0])


def branch(r: Reader, call: Call) -> list[Value]:
    """If: the branch that a constant selects, or that is to be followed."""
    value = call.value(0)
    if isinstance(value, Draft):
        if r.ahead is None and r.runs:
            return _deferred_branch(r, call, value)
        if r.ahead is None:
            raise NotDone("values decide which branch")
        if value not in r.taken:
            if len(r.taken) == MOST_DECISIONS:
                raise NotDone(f"values decide which branch, after {MOST_DECISIONS} other decisions")
            r.taken[value] = r.ahead[len(r.taken)] if len(r.taken) < len(r.ahead) else True
        chosen = r.taken[value]
    else:
        chosen = _truth(value)
    inside = _body(r, call, "then_branch" if chosen else "else_branch")
    if not isinstance(value, Draft):
        return _read(r, inside, {})
    try:
        return _read(r, inside, {})
    except ShapeError as error:
        raise NotDone(f"the branch does not take inputs of this size: {error}") from None


def _deferred_branch(r: Reader, call: Call, condition: Draft) -> list[Value]:
    """If by a value: both bodies as networks, of which a run takes one."""
    if batch_axis(condition.shape) is not None and not depends(r.batch):
        raise NotDone("values of each image decide which branch")
    inputs = deferred.Inputs()
    inputs.place(condition)
    read: dict[str, deferred.Body] = {}
    unfit: dict[str, ShapeError] = {}
    for name in BODIES["If"]:
        start, label, outer = len(r.drafts), r.label, r.call
        try:
            read[name] = _as_network(r, call, name, {}, inputs)
        except ShapeError as error:  # the branch is for inputs of another size
            del r.drafts[start:]
            r.label, r.call = label, outer
            unfit[name] = error
    if not read:
        raise next(iter(unfit.values()))
    for name, error in unfit.items():
        read[name] = replace(next(iter(read.values())), said={"error": str(error)})
    one, other = (read[name] for name in BODIES["If"])
    if len(one.shapes) != len(other.shapes) or len(one.shapes) < len(call.outputs):
        raise GraphError(f"{call.name}: its branches give {len(one.shapes)} and {len(other.shapes)} outputs")
    if list(one.types) != list(other.types):
        raise NotDone("values decide which branch, and so the type of its result")
    shapes = [a if a == b else None for a, b in zip(one.shapes, other.shapes, strict=True)]
    return deferred.emitted(r, call, "If", {k: b.said for k, b in read.items()}, inputs, shapes, one.types)


def _as_network(
    r: Reader, call: Call, name: str, entries: Mapping[str, tuple[Any, str]], inputs: deferred.Inputs
) -> deferred.Body:
    """A body as a network of its own."""
    graph, held = _body(r, call, name)
    r.turns += len(graph.get("node", ())) + len(entries) + 1
    if r.turns > BODY_BUDGET:
        raise NotDone("too many nodes in bodies")
    if r.depth >= MOST_DEPTH:
        raise NotDone("bodies nested too deep")
    return deferred.body(r, graph, held, list(uses(graph)), entries, inputs)


def loop(r: Reader, call: Call) -> list[Value]:
    """Loop: its body, repeated, where constants say how often; else a network that a run repeats."""
    start, turns, bodies = len(r.drafts), r.turns, dict(r.bodies)
    try:
        return _unrolled(r, call)
    except NotDone as reason:
        if not r.runs:
            raise
        r.drafts[start:] = [d for d in r.drafts[start:] if d.op == "constant"]
        r.turns, r.bodies = turns, bodies
        try:
            return _deferred_loop(r, call)
        except NotDone:
            raise reason from None


def _deferred_loop(r: Reader, call: Call) -> list[Value]:
    """Loop by values: its body as a network; what it carries keeps its shape."""
    graph, _ = _body(r, call, "body")
    names = [value.get("name", "") for value in graph.get("input", ())]
    carried = [call.value(i) for i in range(2, len(call.inputs))]
    if len(names) != len(carried) + 2:
        raise GraphError(f"{call.name}: its body takes {len(names)} inputs, the Loop gives {len(carried) + 2}")
    inputs, given = deferred.Inputs(), [v if v is not None else None for v in call.inputs[:2]]
    places = [inputs.place(v) if v is not None else None for v in given]
    kinds = [v.dtype if isinstance(v, Draft) else v.kind for v in carried]
    shapes = [r.shape(v) for v in carried]
    entries: dict[str, tuple[Any, str]] = {names[0]: ((), "int64"), names[1]: ((), "bool")}
    entries |= dict(zip(names[2:], zip(shapes, kinds, strict=True), strict=True))
    read = _as_network(r, call, "body", entries, inputs)
    ends = read.shapes[1 : len(carried) + 1]
    if list(ends) != shapes or list(read.types[1 : len(carried) + 1]) != kinds:
        raise NotDone("what it carries changes its shape")
    settings = {"body": read.said, "names": names, "given": places, "carried": [inputs.place(v) for v in carried]}
    collected = [None] * (len(read.shapes) - 1 - len(carried))
    return deferred.emitted(r, call, "Loop", settings, inputs, [*ends, *collected], read.types[1:])


def _unrolled(r: Reader, call: Call) -> list[Value]:
    """Loop with a constant number of iterations."""
    try:
        trips, going = call.const(0), call.const(1)
    except NotDone:
        raise NotDone("values decide how often") from None
    body = _body(r, call, "body")
    names = [value.get("name", "") for value in body[0].get("input", ())]
    carried = [call.value(i) for i in range(2, len(call.inputs))]
    if len(names) != len(carried) + 2:
        raise GraphError(f"{call.name}: its body takes {len(names)} inputs, the Loop gives {len(carried) + 2}")
    if trips is not None and trips.batched:
        raise NotDone("turns along the batch")
    on, turn = going is None or _truth(going), 0
    collected: list[list[Value]] = [[] for _ in call.outputs[len(carried) :]]
    while on and (trips is None or turn < trips.values()[0]):
        given = [of_values([turn], (), "i"), of_values([1], (), "b"), *carried]
        results = _read(r, body, dict(zip(names, given, strict=True)))
        if len(results) < len(carried) + len(collected) + 1:
            raise GraphError(f"{call.name}: its body gives {len(results)} outputs, the Loop {len(call.outputs)}")
        if isinstance(results[0], Draft):
            raise NotDone("values decide how often")
        for column, result in zip(collected, results[len(carried) + 1 :], strict=False):
            column.append(result)
        on, carried, turn = _truth(results[0]), results[1 : len(carried) + 1], turn + 1
    read = zip(call.outputs[len(carried) :], collected, strict=True)
    return [*carried, *(_stacked(r, column) if r.used[o] else of_values([], (0,), "f") for o, column in read)]


def scan(r: Reader, call: Call) -> list[Value]:
    """Scan: its body once for each position along the scanned axes."""
    if r.opset < 9:
        raise NotDone("of operator set 8, which takes a batch")
    walked = int(call.attrs["num_scan_inputs"])
    states, across = len(call.inputs) - walked, len(call.outputs) - (len(call.inputs) - walked)
    if walked < 1 or states < 0 or across < 0:
        raise GraphError(f"{call.name}: walks along {walked} of {len(call.inputs)} inputs")
    body = _body(r, call, "body")
    names = [value.get("name", "") for value in body[0].get("input", ())]
    if len(names) != len(call.inputs):
        raise GraphError(f"{call.name}: its body takes {len(names)} inputs, the Scan gives {len(call.inputs)}")
    carried = [call.value(i) for i in range(states)]
    along = [call.value(i) for i in range(states, len(call.inputs))]
    scanned = _each(call, "scan_input_axes", walked)
    try:
        axes = [axis_of(axis, len(r.shape(value))) for axis, value in zip(scanned, along, strict=True)]
    except ShapeError as error:
        raise error.within(call.name) from None
    sizes = {r.shape(value)[axis] for value, axis in zip(along, axes, strict=True)}
    if len(sizes) > 1:
        raise GraphError(f"{call.name}: walks along axes of different sizes, {', '.join(map(str, sorted(sizes)))}")
    size = sizes.pop()
    if depends(size):
        raise NotDone("turns along the batch")
    backward = _each(call, "scan_input_directions", walked)
    collected: list[list[Value]] = [[] for _ in range(across)]
    for turn in range(size):
        places = [size - 1 - turn if back else turn for back in backward]
        parts = [_part(r, *which) for which in zip(along, axes, places, strict=True)]
        results = _read(r, body, dict(zip(names, [*carried, *parts], strict=True)))
        if len(results) != states + across:
            raise GraphError(f"{call.name}: its body gives {len(results)} outputs, the Scan {states + across}")
        carried = results[:states]
        for column, result in zip(collected, results[states:], strict=True):
            column.append(result)
    ends = zip(collected, _each(call, "scan_output_axes", across), _each(call, "scan_output_directions", across),
               call.outputs[states:], strict=True)  # fmt: skip
    return [*carried, *(_stacked(r, column[::-1] if back else column, axis) if r.used[o] else of_values([], (0,), "f")
                        for column, axis, back, o in ends)]  # fmt: skip


def _each(call: Call, name: str, count: int) -> list[int]:
    """A list attribute; zeros if it is left out."""
    given = list(call.attrs.get(name, ())) or [0] * count
    if len(given) != count:
        raise GraphError(f"{call.name}: {name} has {len(given)} values for {count}")
    return given


def _part(r: Reader, value: Value, axis: int, place: int) -> Value:
    """One position of an axis, without the axis."""
    if isinstance(value, Const):
        found = fold("Gather", [value, of_values([place], (), "i")], {"axis": axis}, r.opset)
        if found is not None:
            return found
    cut = r.emit("slice", value, tag=f"turn{place}", axis=axis, start=place, stop=place + 1)
    return r.emit("squeeze", cut, tag=f"turn{place}", axes=(axis,))


def _stacked(r: Reader, turns: Sequence[Value], axis: int = 0) -> Value:
    """The outputs of all iterations of a body, along a new axis."""
    if not turns:
        raise NotDone("no iteration, whose outputs are read")
    if all(isinstance(v, Const) for v in turns):
        axes = of_values([axis], (1,), "i")
        rows = [fold("Unsqueeze", [v, axes], {"axes": [axis]}, r.opset) for v in turns if isinstance(v, Const)]
        found = fold("Concat", rows, {"axis": axis}, r.opset) if None not in rows else None
        if found is not None:
            return found
    place = axis_of(axis, len(r.shape(turns[0])) + 1)
    lines = [r.emit("unsqueeze", v, tag=f"turn{i}", axes=(place,)) for i, v in enumerate(turns)]
    return r.emit("concat", *lines, axis=place)


def without_decisions(reader: Reader, outputs: list[Draft]) -> list[Draft]:
    """The drafts without those that cost nothing and only compute the values of a decision."""
    nodes = {d: str(i) for i, d in enumerate(reader.drafts)}
    linked = [replace(d.node, name=nodes[d], inputs=tuple(nodes[i] for i in d.inputs)) for d in nodes]
    weighed = reachable(linked, [nodes[d] for d in reader.taken])
    costly = [
        nodes[d]
        for d in reader.drafts
        if nodes[d] in weighed and d.op != "constant"
        if d.node.rule.params
        or (d.node.rule.macs and (d.op != STANDARD or d.node.attrs["kind"] in MACS))
        or (d.op == "unknown" and str(d.node.attrs["kind"]).split(" ")[0] not in FREE)
    ]
    live = reachable(linked, [nodes[d] for d in outputs] + costly)
    return [d for d in reader.drafts if nodes[d] in live or nodes[d] not in weighed or d.op == "input"]


RULES: Mapping[str, Callable[[Reader, Call], Any]] = {"If": branch, "Loop": loop, "Scan": scan}
"""One rule per operator of ONNX."""

"""A network: frozen nodes over the operators of `ops.py`, in topological order, weights as opaque named arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from dojang.arith.attrs import Attrs, normalise
from dojang.arith.conv import by
from dojang.arith.ops import OPS, STANDARD, UNKNOWN, Op
from dojang.arith.precision import Precision
from dojang.arith.shapes import Shape
from dojang.arith.standard import SINGLE
from dojang.arith.stored import Origin, Stored
from dojang.base.errors import DojangError, GraphError
from dojang.base.wording import did_you_mean

Weights = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One application of one operator. It has one output, known by the node's name; inputs are names of other nodes.

    `attrs` are complete and in normal form: make nodes with `Node.of`. `arrays` maps a role to the name of its weight
    array where that is not `<node>.<role>`, as in layers that are used twice.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attrs: Attrs = field(default_factory=dict[str, Any])
    arrays: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, name: str, op: str, *inputs: str, arrays: Mapping[str, str] | None = None, **attrs: Any) -> Node:
        """A node with defaults filled in and values in normal form; raises `GraphError` for what does not fit.

        >>> Node.of("c1", "conv", "image", out=8, kernel=(3, 3), padding=1).attrs["padding"]
        ((1, 1), (1, 1))
        """
        if op not in OPS:
            raise GraphError(f"{name}: operator {op!r} is not known")
        try:
            full = normalise(op, OPS[op].attrs, attrs)
        except DojangError as error:
            raise error.within(name) from None
        own = {role: array for role, array in arrays.items() if array != f"{name}.{role}"} if arrays else {}
        return cls(name, op, inputs, full, own)

    @property
    def rule(self) -> Op:
        """The row of `OPS` for this node."""
        return OPS[self.op]

    def array(self, role: str) -> str:
        """The name of the weight array for a role."""
        return self.arrays.get(role, f"{self.name}.{role}")

    def infer(self, shapes: Sequence[Shape]) -> Shape:
        """The output shape from the input shapes, batch first; errors name this node."""
        try:
            return self.rule.shape(self.attrs, shapes)
        except DojangError as error:
            raise error.within(self.name) from None

    def param_shapes(self, shapes: Sequence[Shape]) -> dict[str, Shape]:
        """Shape of each weight array by role, from the input shapes."""
        return self.rule.params(self.attrs, shapes) if self.rule.params else {}

    def with_attrs(self, **attrs: Any) -> Node:
        """The same node with some attributes changed."""
        return Node.of(self.name, self.op, *self.inputs, arrays=self.arrays, **{**self.attrs, **attrs})


@dataclass(frozen=True)
class Graph:
    """A network. Nodes are in topological order; `outputs` are node names. Edits return a new Graph.

    `weights` holds the arrays by name and may be empty (then it can be counted, not run). `meta` are facts about the
    network that do not change what it computes: `source`, `classes` (comma-separated), how it was trained. `stored` are
    the arrays of the module or file that the network was read from, `origins` says for each array of the network which
    of these it is made of (`stored.py`); both are empty if there is no such source, and after an edit. `modules` names
    the class of each module that holds layers, by its path (`layer1.0`), where the source says so; `scopes` gives the
    path of the module that a node belongs to, where the node's name does not begin with it (`scopes.py`).
    `precisions` says of weight arrays how their numbers are kept, where that is not float32 (`precision.py`); `weights`
    has the real numbers that they stand for.
    Raises `GraphError` if names repeat, inputs are missing or in the wrong order, or there is no output.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    name: str = "network"
    weights: Weights = field(default_factory=dict[str, Any], repr=False, compare=False)
    meta: Mapping[str, str] = field(default_factory=dict[str, str])
    stored: Mapping[str, Stored] = field(default_factory=dict[str, Stored], repr=False, compare=False)
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin], repr=False, compare=False)
    modules: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)
    scopes: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)
    precisions: Mapping[str, Precision] = field(default_factory=dict[str, Precision], repr=False, compare=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise GraphError(f"{node.name}: two nodes have this name; give each its own")
            least, most = node.rule.inputs
            if not least <= len(node.inputs) <= most:
                more = f"at most {most:,}" if len(node.inputs) > most else f"{least} or more"
                wanted = f"{least}" if least == most else more
                raise GraphError(f"{node.name}: {node.op} takes {wanted} inputs, got {len(node.inputs)}")
            for source in node.inputs:
                if source not in seen:
                    raise GraphError(f"{node.name}: its input {source!r} is not a node before it")
            seen.add(node.name)
        if not self.outputs:
            raise GraphError(f"{self.name}: the network has no output")
        for out in self.outputs:
            if out not in seen:
                raise GraphError(f"output {out!r} is not a node of the network")

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        try:
            return self.by_name[name]
        except KeyError:
            hint = did_you_mean(name, self.by_name, f"`dojang count {self.name}` shows their names")
            raise GraphError(f"{self.name} has no node {name!r}; {hint}") from None

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes through which data enters, in order."""
        return tuple(node for node in self.nodes if node.op == "input")

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """For each node the nodes that read it, each once, in order."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.inputs):
                readers[source].append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def shapes(self, batch: int = 1) -> dict[str, Shape | None]:
        """Output shape of every node, batch first; None where an unknown operator hides it."""
        if batch.__class__ is int and batch != 1 and self.inputs and not self.has_batch:
            raise GraphError(f"{self.name}: its sizes are fixed, and none is a batch; use a batch of 1, not of {batch}")
        known: dict[str, Shape | None] = {}
        for node in self.nodes:
            if node.op == "input":
                if any(s < 1 for s in node.attrs["shape"]) and node.attrs["batch_axis"] >= 0:
                    raise GraphError(f"{node.name}: input size {by(node.attrs['shape'])} must be at least 1 everywhere")
                known[node.name] = with_batch(node.attrs, batch)
            elif node.op in (STANDARD, UNKNOWN):
                known[node.name] = with_batch(node.attrs, batch)
            else:
                known[node.name] = self._infer(node, [known[i] for i in node.inputs])
            _check_size(node, known[node.name], batch)
        return known

    @staticmethod
    def _infer(node: Node, shapes: list[Shape | None]) -> Shape | None:
        sizes = [s for s in shapes if s is not None]
        return node.infer(sizes) if len(sizes) == len(shapes) else None

    @cached_property
    def has_batch(self) -> bool:
        """Whether one of the inputs has an axis for the images of a batch."""
        return any(node.attrs["batch_axis"] >= 0 for node in self.inputs)

    @cached_property
    def types(self) -> Mapping[str, str]:
        """The type of every value: "float32" unless an input, a constant or a `standard` node says otherwise.

        Operators keep the type of their first input. Shorter real numbers are computed in float32.
        """
        found: dict[str, str] = {}
        for node in self.nodes:
            own = node.attrs.get("dtype")
            found[node.name] = own or (found[node.inputs[0]] if node.inputs else "float32")
        return found

    def is_single(self, name: str) -> bool:
        """Whether a value has real numbers of at most 32 bits, which kernels compute with; else it has float64, whole
        numbers or truth values.
        """
        return self.types[name] in SINGLE

    @cached_property
    def unit_shapes(self) -> Mapping[str, Shape | None]:
        """`shapes(batch=1)`, once."""
        return self.shapes()

    def node_params(self, node: Node) -> Mapping[str, Shape]:
        """Shape of each weight array of a node, by role; empty where its input shapes are not known."""
        if node.rule.params is None:
            return {}
        found = self._params.get(id(node))
        if found is None:
            shapes = [self.unit_shapes[i] for i in node.inputs]
            sizes = [s for s in shapes if s is not None]
            found = self._params[id(node)] = node, node.param_shapes(sizes) if len(sizes) == len(shapes) else {}
        return found[1]

    @cached_property
    def _params(self) -> dict[int, tuple[Node, Mapping[str, Shape]]]:
        """Results of `node_params` by the id of the node. The node is kept too, so that no other object gets its id."""
        return {}

    @cached_property
    def param_shapes(self) -> Mapping[str, Shape]:
        """Shape of every weight array by name, each once, in order of first use."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            for role, shape in self.node_params(node).items():
                array = node.array(role)
                if shapes.setdefault(array, shape) != shape:
                    raise GraphError(
                        f"{node.name}: shares {array}, which is {by(shapes[array])}, but needs {by(shape)}"
                    )
        return shapes

    def check_weights(self) -> None:
        """Raises `GraphError` unless `weights` holds every array with the shape that the layers need."""
        for array, shape in self.param_shapes.items():
            if array not in self.weights:
                raise GraphError(f"{self.name}: no weights for {array} {by(shape)}; give a checkpoint with --weights")
            if tuple(self.weights[array].shape) != shape:
                raise GraphError(
                    f"{array}: the weights are {by(self.weights[array].shape)}, the layer needs {by(shape)}"
                )

    def replace(self, **changes: Any) -> Graph:
        """A Graph with some fields changed. What was computed about the nodes is kept if they do not change."""
        if not changes.keys() <= BESIDE_NODES:
            return replace(self, **changes)
        other = copy(self)
        other.__dict__.update(changes)
        return other

    def without_weights(self) -> Graph:
        """The same network with no arrays."""
        return self.replace(weights={})

    def alone(self) -> Graph:
        """The same network without its source: its own arrays count as the stored ones."""
        return self.replace(stored={}, origins={}) if self.stored or self.origins else self

    def with_weights(self, weights: Weights) -> Graph:
        """The same network with these arrays; arrays that no node names are left out. Where values decide the size of
        what a node reads, it keeps all arrays that it may have.
        """
        names = {*self.param_shapes}
        for node in self.nodes:
            if any(self.unit_shapes[i] is None for i in node.inputs):
                names.update(node.array(role) for role in node.rule.roles)
        return self.replace(weights={k: v for k, v in weights.items() if k in names})

    def edited(
        self,
        nodes: Mapping[str, Node | Sequence[Node]] | None = None,
        rewire: Mapping[str, str] | None = None,
        weights: Weights | None = None,
    ) -> Graph:
        """A Graph with nodes replaced, readers rewired and arrays changed; what no output needs is dropped.

        `nodes` maps a name to its replacement: a node, several in order, or an empty sequence. `rewire` maps
        the name of a value to the value that its readers (and the outputs) take instead. `weights` are added or put
        in place of old arrays. `stored` and `origins` no longer hold and are dropped.
        """
        moved = dict(rewire or {})

        def source(name: str) -> str:
            path: dict[str, None] = {}
            while name in moved:
                if name in path:
                    raise GraphError(f"{name}: is rewired to itself through {', '.join(path)}")
                path[name] = None
                name = moved[name]
            moved.update(dict.fromkeys(path, name))  # so that a long chain is followed only once
            return name

        new: list[Node] = []
        for node in self.nodes:
            instead = (nodes or {}).get(node.name, node)
            new += [instead] if isinstance(instead, Node) else instead
        new = [replace(node, inputs=tuple(source(i) for i in node.inputs)) for node in new]
        outputs = tuple(source(o) for o in self.outputs)
        live = reachable(new, outputs)
        kept = topological([node for node in new if node.name in live or node.op == "input"])
        precisions = {k: p for k, p in self.precisions.items() if k not in (weights or {})}
        weights = {**self.weights, **(weights or {})}
        graph = replace(
            self, nodes=kept, outputs=outputs, weights=weights, stored={}, origins={}, precisions=precisions
        )
        return graph.with_weights(graph.weights) if graph.weights else graph


def with_batch(attrs: Attrs, batch: int) -> Shape | None:
    """The shape of an input or of a `standard` node with its batch; None where values decide it.

    >>> with_batch({"shape": (3, 8, 8), "batch_axis": 0}, 2), with_batch({"shape": (2, 64), "batch_axis": 1}, 5)
    ((2, 3, 8, 8), (2, 5, 64))
    >>> with_batch({"shape": (2, 64), "batch_axis": -1}, 5)
    (2, 64)
    """
    shape, axis = attrs["shape"], attrs["batch_axis"]
    if shape is None or axis < 0:
        return shape
    return (*shape[:axis], batch, *shape[axis:])


BESIDE_NODES = frozenset({"name", "weights", "meta", "stored", "origins", "modules", "scopes", "precisions"})
"""Fields of a Graph that neither its shapes nor the order of its nodes depend on."""

MOST_AXES, MOST_VALUES = 64, 10**200
"""The most axes of a tensor (as in NumPy) and the most values per sample. Counting allocates nothing, but Python does
not print numbers of more than 4,300 digits, and a few hundred layers that multiply sizes would reach that."""


SURE_BITS = 664
"""If the sizes of a shape have at most so many bits together, their product is less than `MOST_VALUES`."""


def _check_size(node: Node, shape: Shape | None, batch: int) -> None:
    bits = 0
    for size in shape or ():
        if type(size) is not int:
            return  # a formula
        bits += size.bit_length()
    if shape is None or (bits <= SURE_BITS and len(shape) <= MOST_AXES):
        return
    if len(shape) > MOST_AXES:
        raise GraphError(f"{node.name}: {len(shape)} axes; a tensor has at most {MOST_AXES}")
    values, most = 1, MOST_VALUES * max(1, batch)
    for size in shape:
        values *= max(1, abs(size))
        if values > most:
            raise GraphError(f"{node.name}: more than 10^200 values in one tensor; give sizes that a machine can have")


def reachable(nodes: Iterable[Node], outputs: Iterable[str]) -> set[str]:
    """Names of the nodes that the outputs depend on."""
    inputs = {node.name: node.inputs for node in nodes}
    found: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += inputs.get(name, ())
    return found


def topological(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes ordered so that inputs come first, otherwise as given; raises `GraphError` for a cycle.

    Depth-first on a stack; keeps the given order where it is already right; linear time.
    """
    names = {node.name: node for node in nodes}
    done: set[str] = set()
    open_: set[str] = set()
    order: list[Node] = []
    for root in nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            if node.name in done:
                stack.pop()
                continue
            open_.add(node.name)
            waiting = [i for i in node.inputs if i not in done and i in names]
            if not waiting:
                order.append(stack.pop())
                done.add(node.name)
            elif any(i in open_ for i in waiting):
                loop = next(i for i in waiting if i in open_)
                raise GraphError(f"{node.name}: depends on itself through {loop}; a network has no cycles")
            else:
                stack += [names[i] for i in reversed(waiting)]
    return tuple(order)

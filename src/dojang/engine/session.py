"""Runs a network: validated inputs, NumPy matrix products, activations released after their last reader.

Convolutions become matrix products of the weights with columns (im2col), depthwise ones a sum over taps; whatever has
no fast way here goes to its reference function. Columns are built a few pictures or rows at a time, so that scratch
memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod

import numpy as np

from dojang.arith.conv import Conv, Sizes
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.ops import STANDARD
from dojang.arith.shapes import Shape, conv_problem
from dojang.engine.reference.operators import (
    RunResult,
    Several,
    answer,
    apply,
    arrays_of,
    batch_of,
    check_arrays,
    check_batch,
    check_inputs,
    last_readers,
    refuse_unknown,
    typed,
)

Array = np.ndarray
Step = Callable[[Sequence[Array]], Array]
Arrays = Mapping[str, Array]

SCRATCH_BYTES = 8 << 20
"""Most columns built at once, where a single row does not need more. Enough that small layers take some pictures per
matrix product: each product costs its threads a meeting, which is dear on a busy machine."""


class Session:
    """A network ready to run, in float32. Thread-safe: a run changes nothing here but a cache of checked batch sizes.

    Raises `GraphError` for missing or misfit weights, `DataError` for NaN in them, `UnsupportedError` for operators
    that are not known.
    """

    def __init__(self, graph: Graph) -> None:
        """Checks the network and lays out its weights."""
        refuse_unknown(graph)
        check_arrays(graph)
        self.graph = graph
        self._steps = {node.name: prepared(graph, node) for node in graph.nodes if node.op != "input"}
        self._batches = {1}

    def __call__(self, x: Array | Mapping[str, Array]) -> Array:
        """The first output for a batch `x` (n, *shape)."""
        return self.run(x).outputs[0]

    def run(self, x: Array | Mapping[str, Array], taps: Sequence[str] = ()) -> RunResult:
        """All outputs, and the activations of the nodes named in `taps`, as float32 arrays that the caller owns.

        `x` is one array (n, *shape) of floating point, n from 0 up, or one per input by name. Raises `UsageError` and
        `ShapeError` for inputs that do not fit, `GraphError` for a tap that is not there.
        """
        graph = self.graph
        for name in taps:
            graph[name]  # raises for a name that is not there
        fed = check_inputs(graph, x)
        batch = batch_of(graph, fed)
        if batch not in self._batches:
            check_batch(graph, batch)
            self._batches.add(batch)
        last = last_readers(graph, taps)
        wanted = reachable(graph.nodes, (*graph.outputs, *taps))
        values: dict[str, Array] = {}
        several: Several = {}
        for place, node in enumerate(graph.nodes):
            if node.op == "input":
                values[node.name] = locked(typed(graph, node.name, fed.pop(node.name)))
            elif node.name in wanted and node.op == STANDARD:
                made = apply(node, [values[i] for i in node.inputs], {}, several)
                values[node.name] = typed(graph, node.name, made)
            elif node.name in wanted:
                values[node.name] = self._steps[node.name]([values[i] for i in node.inputs])
            for name in last.get(place, ()):
                values.pop(name, None)
        answers = tuple(owned(answer(graph, o, values[o])) for o in graph.outputs)
        return RunResult(answers, {t: owned(values[t]) for t in taps})


def locked(array: Array) -> Array:
    """A read-only view: what it shares memory with (the caller's input, the weights) is not ours to give away."""
    view = array.view()
    view.flags.writeable = False
    return view


def owned(array: Array) -> Array:
    """The array itself if nothing else may share its memory, else a contiguous copy."""
    alone = array.base is None and array.flags.c_contiguous and array.flags.writeable
    return array if alone else np.array(array, order="C")


def prepared(graph: Graph, node: Node) -> Step:
    """How a node is run: its fast way with the weights laid out for it, or its reference function."""
    arrays = arrays_of(graph, node)
    shapes = [s for s in (graph.unit_shapes[i] for i in node.inputs) if s is not None]
    known = len(shapes) == len(node.inputs) and all(map(graph.is_single, (node.name, *node.inputs)))
    step = FAST[node.op](node, shapes, arrays) if node.op in FAST and known else None
    if step is not None:
        return step
    if node.op == "constant":
        value = locked(typed(graph, node.name, apply(node, (), arrays)))
        return lambda inputs: value
    return lambda inputs: typed(graph, node.name, apply(node, inputs, arrays))


def conv_step(node: Node, shapes: Sequence[Shape], arrays: Arrays) -> Step:
    """A convolution as matrix product, or tap by tap when depthwise."""
    problem = conv_problem(node.attrs, shapes)
    bias = arrays.get("bias", np.zeros(problem.oc, np.float32)).reshape(-1, *(1,) * problem.rank)
    if problem.pointwise and not any(p for pair in problem.padding for p in pair):
        return pointwise(problem, arrays["weight"], bias)
    if problem.depthwise and problem.oc == problem.ic:
        return depthwise(problem, arrays["weight"], bias)
    return columns(problem, arrays["weight"], bias)


def pointwise(problem: Conv, weight: Array, bias: Array) -> Step:
    """A 1×1 kernel: one matrix product per picture and group; the stride only picks pixels."""
    g = problem.groups
    matrix = np.ascontiguousarray(weight.reshape(g, problem.oc // g, problem.ic // g))
    picks = tuple(slice(None, None, s) for s in problem.stride)

    def run(inputs: Sequence[Array]) -> Array:
        x = inputs[0][(..., *picks)]
        n = len(x)
        out = np.empty((n, problem.oc, *problem.out_size), np.float32)
        pixels = prod(problem.out_size)
        np.matmul(matrix, x.reshape(n, g, problem.ic // g, pixels), out=out.reshape(n, g, problem.oc // g, pixels))
        out += bias
        return out

    return run


class Sweep:
    """How a kernel sweeps over padded pictures that lie flat in memory.

    With stride 1 on every axis, each tap meets one contiguous run over all rows and pictures, from its shift on; what
    lies between the end of a row (or picture) and the start of the next gives outputs that are skipped when the result
    is copied out. Otherwise each tap meets a strided box.
    """

    def __init__(self, problem: Conv) -> None:
        """`padded`: size with padding; `lines`: flat distance between neighbours on each axis; `taps` in order."""
        self.problem = problem
        self.padded: Sizes = tuple(i + a + b for i, (a, b) in zip(problem.size, problem.padding, strict=True))
        self.lines: Sizes = tuple(prod(self.padded[a + 1 :]) for a in range(problem.rank))
        self.flat = all(s == 1 for s in problem.stride)
        self.taps = list(product(*(range(k) for k in problem.kernel)))

    def pad(self, x: Array) -> Array:
        """Pictures with zeros around them, channels first: (c, n, *padded), contiguous."""
        full = np.zeros((x.shape[1], x.shape[0], *self.padded), np.float32)
        inner = tuple(slice(a, a + i) for i, (a, _) in zip(self.problem.size, self.problem.padding, strict=True))
        full[(..., *inner)] = x.swapaxes(0, 1)
        return full

    def places(self, pictures: int, rows: int) -> Sizes:
        """The box that is computed: with stride 1 as wide as the padded picture, and as high where more follow."""
        if not self.flat:
            return (pictures, rows, *self.problem.out_size[1:])
        return (pictures, self.padded[0] if pictures > 1 else rows, *self.padded[1:])

    def met(self, pictures: int, rows: int) -> Sizes:
        """The shape of what a tap meets: with stride 1 one run, up to the last output wanted; else the box."""
        if not self.flat:
            return self.places(pictures, rows)
        ends = zip((rows, *self.problem.out_size[1:]), self.lines, strict=True)
        return (1 + (pictures - 1) * prod(self.padded) + sum((o - 1) * line for o, line in ends),)

    def meets(self, full: Array, tap: Sizes, first: int, rows: int) -> Array:
        """What a tap meets for the outputs of rows `first` to `first + rows` of all pictures: (c, *met)."""
        p = self.problem
        if self.flat:
            shift = first * self.lines[0]
            shift += sum(t * d * line for t, d, line in zip(tap, p.dilation, self.lines, strict=True))
            return full.reshape(len(full), -1)[:, shift : shift + self.met(full.shape[1], rows)[0]]
        starts = [t * d for t, d in zip(tap, p.dilation, strict=True)]
        starts[0] += first * p.stride[0]
        box = zip(starts, (rows, *p.out_size[1:]), p.stride, strict=True)
        return full[(..., *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in box))]

    def wanted(self, box: Array, pictures: int, rows: int) -> Array:
        """The outputs of a computed box (oc, ∏places) that belong to the result: (pictures, oc, rows, ...)."""
        shaped = box.reshape(len(box), *self.places(pictures, rows)).swapaxes(0, 1)
        return shaped[(..., *(slice(0, o) for o in (rows, *self.problem.out_size[1:])))]

    def tiles(self, n: int, floats_per_place: int) -> list[tuple[int, int, int, int]]:
        """(first picture, pictures, first row, rows) so that scratch stays within `SCRATCH_BYTES` where it can."""
        height = self.problem.out_size[0]
        row_bytes = 4 * floats_per_place * prod(self.places(1, 1))
        rows = min(height, max(1, SCRATCH_BYTES // row_bytes))
        pictures = max(1, SCRATCH_BYTES // (row_bytes * height)) if rows == height else 1
        return [
            (a, min(pictures, n - a), r, min(rows, height - r))
            for a in range(0, n, pictures)
            for r in range(0, height, rows)
        ]


def columns(problem: Conv, weight: Array, bias: Array) -> Step:
    """Weights (g, oc/g, ic/g·taps) times columns (g, ic/g·taps, places), one product for each tile of pictures."""
    sweep, g, k = Sweep(problem), problem.groups, prod(problem.kernel)
    depth = problem.ic // g * k
    matrix = np.ascontiguousarray(weight.reshape(g, problem.oc // g, depth))

    def run(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        out = np.empty((len(x), problem.oc, *problem.out_size), np.float32)
        full, held = np.empty(0, np.float32), -1
        for a, pictures, first, rows in sweep.tiles(len(x), problem.ic * k):
            if held != a:
                full, held = sweep.pad(x[a : a + pictures]), a
            met = sweep.met(pictures, rows)
            cols = np.empty((problem.ic, k, *met), np.float32)
            for j, tap in enumerate(sweep.taps):
                cols[:, j] = sweep.meets(full, tap, first, rows)
            box = np.empty((problem.oc, prod(sweep.places(pictures, rows))), np.float32)
            target = box.reshape(g, problem.oc // g, -1)[..., : prod(met)]
            np.matmul(matrix, cols.reshape(g, depth, prod(met)), out=target)
            np.add(sweep.wanted(box, pictures, rows), bias, out=out[a : a + pictures, :, first : first + rows])
        return out

    return run


def depthwise(problem: Conv, weight: Array, bias: Array) -> Step:
    """One filter per channel: the sum over taps of the picture moved by the tap, times the tap's weight."""
    sweep = Sweep(problem)
    taps = weight.reshape(problem.oc, -1)

    def run(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        out = np.empty((len(x), problem.oc, *problem.out_size), np.float32)
        full, held = np.empty(0, np.float32), -1
        for a, pictures, first, rows in sweep.tiles(len(x), 2 * problem.oc):
            if held != a:
                full, held = sweep.pad(x[a : a + pictures]), a
            met = sweep.met(pictures, rows)
            box = np.empty((problem.oc, prod(sweep.places(pictures, rows))), np.float32)
            total = box[:, : met[0]] if sweep.flat else box.reshape(problem.oc, *met)
            for j, tap in enumerate(sweep.taps):
                share = taps[:, j].reshape(-1, *(1,) * len(met))
                if j == 0:
                    np.multiply(sweep.meets(full, tap, first, rows), share, out=total)
                else:
                    total += sweep.meets(full, tap, first, rows) * share
            np.add(sweep.wanted(box, pictures, rows), bias, out=out[a : a + pictures, :, first : first + rows])
        return out

    return run


def dense_step(node: Node, shapes: Sequence[Shape], arrays: Arrays) -> Step:
    """A dense layer as one matrix product over all rows."""
    weight, bias = np.ascontiguousarray(arrays["weight"].T), arrays.get("bias")

    def run(inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        out = (x.reshape(-1, weight.shape[0]) @ weight).reshape(*x.shape[:-1], weight.shape[1])
        if bias is not None:
            out += bias
        return out

    return run


def batchnorm_step(node: Node, shapes: Sequence[Shape], arrays: Arrays) -> Step:
    """Batch norm as one scale and one shift per channel, worked out in float64."""
    wide = {role: array.astype(np.float64) for role, array in arrays.items()}
    scale = wide.get("weight", 1.0) / np.sqrt(wide["running_var"] + node.attrs["eps"])
    shift = wide.get("bias", 0.0) - wide["running_mean"] * scale
    form = (-1, *(1,) * (len(shapes[0]) - 2))
    scales, shifts = (v.astype(np.float32).reshape(form) for v in (scale, shift))

    def run(inputs: Sequence[Array]) -> Array:
        out = inputs[0] * scales
        out += shifts
        return out

    return run


FAST: Mapping[str, Callable[[Node, Sequence[Shape], Arrays], Step]] = {
    "conv": conv_step,
    "dense": dense_step,
    "batchnorm": batchnorm_step,
}
"""Operators that have a faster way than the reference."""

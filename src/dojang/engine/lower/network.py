"""A network as a list of kernel calls on buffers: where every value lies, which kernel makes it.

Values of two or more axes lie channels last; concatenations and slices of channels are views, not copies, wherever
the kernel that makes a value can write it in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph
from dojang.arith.shapes import Shape, conv_problem
from dojang.base.errors import UsageError
from dojang.engine.fuse import Fusion, Group, activation_of
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import dense, fallback
from dojang.engine.kernels.other import elementwise, layout, pool
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.kernels.other.layout import LayoutTask
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Code, Offer, Refusal, Task
from dojang.engine.lower import bands as lower_bands
from dojang.engine.lower import images as lower_images
from dojang.engine.lower import shortcuts as lower_shortcuts
from dojang.engine.lower import strided as lower_strided
from dojang.engine.lower import tokens as lower_tokens
from dojang.engine.lower.calls import HostCall, KernelCall, Lowered, Place
from dojang.engine.plan.choose import Choice, choose
from dojang.engine.reference.operators import apply
from dojang.native.machine import Machine

HOT = 0.75
"""Of the second cache of a core, what packed weights may take to stay there from run to run, beside the activations."""
PAIRS = ("add", "sub", "mul", "div", "maximum", "minimum")


Chosen = dict[Task, tuple[ModuleType, float, tuple[tuple[str, str], ...]]]
"""What `choose` said of each task, so that it says it again whatever was measured meanwhile."""


class Lowering:
    """Makes a `Lowered` for one batch size."""

    def __init__(
        self,
        graph: Graph,
        batch: int,
        machine: Machine,
        threads: int,
        strict: bool,
        keep: Set[str],
        packed: dict[str, np.ndarray],
        tune: bool = False,
        like: int | None = None,
        release: bool = False,
        chosen: Chosen | None = None,
    ) -> None:
        """`packed` holds packed weights by key, shared between batch sizes. `tune` chooses by measuring.

        `like` is the batch size that algorithms are chosen for, if not this one, and `chosen` what was chosen before.
        With `release` weights are removed from the graph's mapping when the last convolution that reads them has
        packed them. An interrupt leaves each array either there or packed, so that the next lowering goes on from it.
        """
        self.graph, self.threads, self.strict = graph, threads, strict
        self.machine = replace(machine, cores=min(machine.cores, threads))  # work is cut for the cores that do it
        self.shapes = graph.shapes(batch)
        self.fusion = Fusion(graph, self.shapes, keep)
        self.packed = packed
        self.out = Lowered(arrays=packed, shapes=self.shapes)
        self.reserved: dict[str, Place] = {}
        self.keep, self.tune, self.release = keep, tune, release
        self.chosen: Chosen = {} if chosen is None else chosen
        self.chosen_shapes = self.shapes if like is None or like == batch else graph.shapes(like)
        self.readers = Counter(n.array(r) for n in self.fusion.nodes for r in graph.node_params(n))
        room = HOT * machine.l2 / max(1, 4 * sum(prod(s) for s in graph.param_shapes.values()))
        self.room = room if room > 1 else 0.0

    def run(self) -> Lowered:
        """All calls: inputs, groups, exports."""
        groups = self.fusion.groups()
        self.out.alias = self.fusion.alias
        self.reserve(groups)
        read = {name for g in groups for name in (*g.inputs, g.residual)} | self.fusion.shown
        for k, node in enumerate(self.graph.inputs):
            if node.name in read:
                self.enter(k, node.name)
        joiner = lower_bands.Joiner(self, groups)
        self.shortcuts = lower_shortcuts.found(self, groups)
        later = {g.value for s in self.shortcuts.values() for g in s.groups}
        for group in groups:
            if group.value not in later and not joiner.takes(group):
                self.group(group)
        for name in dict.fromkeys(self.fusion.source(n) for n in (*self.graph.outputs, *sorted(self.keep))):
            self.export(name)
        return self.out

    # -- places -----------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> Shape:
        """The shape of a value; known, since unknown operators were refused before."""
        shape = self.shapes[name]
        assert shape is not None
        return shape

    def buffer(self, elements: int) -> int:
        """A new buffer."""
        self.out.buffers.append(4 * elements)
        return len(self.out.buffers) - 1

    def fresh(self, shape: Shape) -> Place:
        """A place of its own."""
        return Place(self.buffer(prod(shape)), 0, shape[1], shape)

    def target(self, name: str) -> Place:
        """Where a value shall be written: its slice of a concatenation, or a place of its own."""
        place = self.reserved.get(name) or self.fresh(self.shape(name))
        self.out.places[name] = place
        return place

    def reserve(self, groups: Sequence[Group]) -> None:
        """Gives the inputs of concatenations their slices; outer concatenations first."""
        makers = {g.value: g for g in groups}
        for group in reversed(groups):
            if not self.joins(group):
                continue
            shape = self.shape(group.value)
            whole = self.reserved.get(group.value) or self.fresh(shape)
            self.reserved[group.value] = whole
            offset = whole.offset
            for name in group.inputs:
                part = self.shape(name)
                maker = makers.get(name)
                if maker is not None and name not in self.reserved and self.writes_anywhere(maker):
                    self.reserved[name] = Place(whole.buffer, offset, whole.ld, part)
                offset += part[1]

    def joins(self, group: Group) -> bool:
        """Whether a group is a concatenation of channels."""
        node = group.node
        rank = len(self.shape(node.name))
        return node.op == "concat" and rank >= 2 and node.attrs["axis"] in (1, 1 - rank)

    def writes_anywhere(self, group: Group) -> bool:
        """Whether the value is made by a kernel that can write with gaps (not a view of another value)."""
        op = group.node.op
        if op in ("conv", "conv_transpose", "maxpool", "avgpool", "batchnorm", "lrn", "resize") or self.joins(group):
            return True
        return activation_of(group.node) is not None or (op in PAIRS and self.pairs(group))

    def pairs(self, group: Group) -> bool:
        """Whether an operation on two or more values is element by element, or with one pixel per image."""
        shape = self.shape(group.node.name)
        if len(shape) < 2 or self.shape(group.inputs[0]) != shape:
            return False
        one = (*shape[:2], *(1,) * (len(shape) - 2))
        others = [self.shape(i) for i in group.inputs[1:]]
        flat = [i for i in group.inputs if self.graph[i].op == "constant"]
        return not flat and all(s in (shape, one) for s in others)

    # -- calls ------------------------------------------------------------------------------------------------------

    def call(self, choice: Choice, code: Code, images: int, slots: dict[int, Place | str], export=None) -> None:
        """Adds a native call."""
        self.out.calls.append(KernelCall(choice, code, images, slots, export))

    def simple(self, group: Group | str, module: Any, task: Any, images: int, slots: dict, export=None) -> None:
        """Adds a call of a module without alternatives."""
        value, op, members = (group, "layout", ()) if isinstance(group, str) else (
            group.value, group.node.op, group.members)  # fmt: skip
        seconds = module.offer(task, self.machine).seconds * images / self.threads
        choice = Choice(value, op, module.NAME, members, (), seconds)
        self.call(choice, module.emit(task, self.machine), images, slots, export)

    def enter(self, k: int, name: str) -> None:
        """An input: used where it lies if channels first and last are the same, else brought to channels last."""
        shape = self.shape(name)
        if len(shape) < 2:
            self.out.places[name] = Place(-1 - k, 0, 1, (*shape, 1)[:2])
            return
        outside = Place(-1 - k, 0, shape[1], shape)
        if outside.alike:
            self.out.places[name] = outside
            return
        place = self.target(name)
        task = LayoutTask(place.channels, place.pixels, place.ld, True)
        self.simple(name, layout, task, place.images, {t.X: outside, t.Y: place})

    def export(self, name: str) -> None:
        """A value for the caller, channels first; small ones are copied by NumPy."""
        place = self.out.places.get(name)
        if place is None or place.buffer < 0:
            return
        if place.channels == 1 or place.pixels == 1:
            self.out.copied.append(name)
            return
        task = LayoutTask(place.channels, place.pixels, place.ld, False)
        self.simple(name, layout, task, place.images, {t.X: place}, export=name)

    def group(self, group: Group) -> None:
        """One group: natively if its operator and its sizes allow, else by its reference function."""
        node = group.node
        if node.op == "constant":
            arrays = {r: np.asarray(self.graph.weights[node.array(r)], "f4") for r in self.graph.node_params(node)}
            self.out.host[node.name] = np.asarray(apply(node, (), arrays), np.float32)
            return
        shortcut = self.shortcuts.get(group.value)
        added = shortcut.source if shortcut else group.residual
        native = all(i in self.out.places for i in (*group.inputs, added) if i is not None)
        method = getattr(self, f"op_{node.op}", None)
        if activation_of(node) is not None:
            method = self.unary
        elif node.op in PAIRS:
            method = self.binary
        native = native and len(self.shape(group.value)) >= 2 and method is not None
        if native and method is not None and method(group):
            return
        for part in shortcut.groups if shortcut else ():
            self.group(part)
        if not lower_strided.broadcast(self, group):
            self.on_host(group)

    def on_host(self, group: Group) -> None:
        """A call of the reference function (and of those of the fused nodes)."""
        shape = self.shape(group.value)
        place = self.target(group.value) if len(shape) >= 2 else None
        choice = Choice(group.value, group.node.op, fallback.NAME, group.members, (("native", "no kernel"),))
        self.out.calls.append(HostCall(choice, group, group.inputs, place))

    def op_conv(self, group: Group) -> bool:
        """A convolution, with all that is fused to it."""
        node = group.node
        x = self.out.places[group.inputs[0]]
        return self.conv(group, conv_problem(node.attrs, [x.shape], node.op == "conv_transpose"))

    op_conv_transpose = op_conv

    def op_dense(self, group: Group) -> bool:
        """A dense layer on vectors, or over the last of many axes."""
        x = self.out.places[group.inputs[0]]
        if len(x.shape) != 2:
            return lower_tokens.dense(self, group)
        return self.conv(group, Conv.of(x.channels, group.node.attrs["out"], (1,), 1, n=x.images))

    def conv(self, group: Group, problem: Conv) -> bool:
        """Chooses, packs the weights, adds the call."""
        x = self.out.places[group.inputs[0]]
        shortcut = self.shortcuts.get(group.value)
        added = shortcut.source if shortcut else group.residual
        res = self.out.places[added] if added else None
        y = self.reserved.get(group.value)
        ld = y.ld if y else self.shape(group.value)[1]
        task = Task(
            self.chosen_for(group, problem),
            x.ld,
            ld,
            group.activation,
            res.ld if res else 0,
            "f32",
            self.strict,
            room=self.room,
        )
        algorithm, seconds, refused = self.choose(task)
        if algorithm is fallback:
            return False
        if shortcut and algorithm in lower_shortcuts.READERS:
            task = replace(task, sparse=shortcut.sparse)
            group = replace(group, members=(*(m for g in shortcut.groups for m in g.members), *group.members))
        elif shortcut:
            for part in shortcut.groups:
                self.group(part)
            res = self.out.places[group.residual or ""]
            task = replace(task, residual_ld=res.ld)
        code, node = algorithm.emit(task, self.machine), group.node
        norm = group.norm.name if group.norm else ""  # the same layer may be needed with and without its norm
        key = f"{node.name} {norm} {code.steps[0].recipe}"

        def pack(given: tuple[np.ndarray, np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
            w, b = algorithm.pack(task, self.machine, *given)
            return (w if algorithm is dense else t.on_line(w)), t.on_line(b)  # dense: as they lie, never twice

        self.pack(key, (group,), pack)
        y = self.target(group.value)
        slots: dict[int, Place | str] = {t.X: x, t.Y: y, t.W: f"{key} w", t.B: f"{key} b"}
        if res:
            slots[t.R] = res
        predicted = seconds * x.images / self.threads
        choice = Choice(
            group.value, group.node.op, algorithm.NAME, group.members, refused, predicted, None, problem.macs
        )
        self.call(choice, code, x.images, slots)
        return True

    def chosen_for(self, group: Group, problem: Conv) -> Conv:
        """The problem with as many images as it has in the batch that algorithms are chosen for."""
        shape = self.chosen_shapes[group.inputs[0]]
        assert shape is not None
        return replace(problem, n=shape[0])

    def choose(self, task: Task) -> tuple[ModuleType, float, tuple[tuple[str, str], ...]]:
        """As `plan.choose`; the same for the same task as long as the network is compiled."""
        found = self.chosen.get(task)
        if found is None:
            found = self.chosen[task] = choose(task, self.machine, self.tune)
        return found

    def pack(self, key: str, groups: Sequence[Group], pack: Any) -> None:
        """Keeps the packed weights of groups under a key unless they are there, then lets the originals go.

        `pack` makes weights and bias from what `weights` says of each group (None for one that has none).
        """
        holders = [g for g in groups if "weight" in self.graph.node_params(g.node)]
        if f"{key} w" not in self.packed:
            w, b = pack(*(self.weights(g) if g in holders else None for g in groups))
            self.packed[f"{key} b"] = b
            self.packed[f"{key} w"] = w  # the second: it says that both are there
        for group in holders if self.release else ():
            self.let_go(group.node.array("weight"))

    def let_go(self, array: str) -> None:
        """Forgets an array whose last reader has taken it."""
        self.readers[array] -= 1
        if self.readers[array] == 0:
            assert isinstance(self.graph.weights, dict)
            self.graph.weights.pop(array, None)

    def weights(self, group: Group) -> tuple[np.ndarray, np.ndarray | None]:
        """Weights and bias with the batch norm folded in, in float64 where there is one."""
        node, graph = group.node, self.graph
        if node.array("weight") not in graph.weights:
            raise UsageError(
                f"{node.name}: its weights were released after they were packed, and are now needed in another form; "
                "compile with release=False"
            )
        weight = np.asarray(graph.weights[node.array("weight")])
        bias = np.asarray(graph.weights[node.array("bias")]) if node.attrs["bias"] else None
        if group.norm is None:
            return weight, bias
        scale, shift = self.affine(group.norm)
        bias = shift if bias is None else bias * scale + shift
        if node.op == "conv_transpose":
            groups = node.attrs["groups"]
            parts = np.asarray(weight, "f8").reshape(groups, -1, *weight.shape[1:])
            parts = parts * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
            return parts.reshape(weight.shape), bias
        # Multiplied in float64, rounded once, without a float64 copy of all weights.
        folded = np.empty(weight.shape, np.result_type(weight, np.float32))
        np.multiply(weight, scale.reshape(-1, *(1,) * (weight.ndim - 1)), out=folded, casting="same_kind")
        return folded, bias

    def array(self, node: Any, role: str) -> np.ndarray:
        """A weight array."""
        return np.asarray(self.graph.weights[node.array(role)])

    def affine(self, norm: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of a batch norm, in float64."""
        arrays = {r: np.asarray(self.graph.weights[norm.array(r)], "f8") for r in self.graph.node_params(norm)}
        with np.errstate(all="ignore"):
            scale = arrays.get("weight", 1.0) / np.sqrt(arrays["running_var"] + norm.attrs["eps"])
            return scale, arrays.get("bias", 0.0) - arrays["running_mean"] * scale

    def op_batchnorm(self, group: Group) -> bool:
        """A batch norm with no convolution before it: scale and shift."""
        x, y = self.out.places[group.inputs[0]], self.target(group.value)
        scale, shift = self.affine(group.node)
        key = group.node.name
        self.packed.setdefault(f"{key} w", scale.astype("f4"))
        self.packed.setdefault(f"{key} b", shift.astype("f4"))
        task = MapTask("affine", y.channels, y.pixels, x.ld, y.ld, activation=group.activation)
        self.simple(group, elementwise, task, y.images, {t.X: x, t.Y: y, t.W: f"{key} w", t.B: f"{key} b"})
        return True

    def unary(self, group: Group) -> bool:
        """An activation on its own."""
        x, y = self.out.places[group.inputs[0]], self.target(group.value)
        task = MapTask("copy", y.channels, y.pixels, x.ld, y.ld, activation=activation_of(group.node))
        self.simple(group, elementwise, task, y.images, {t.X: x, t.Y: y})
        return True

    def binary(self, group: Group) -> bool:
        """Two or more values element by element, or with one value per channel and image."""
        if not self.pairs(group):
            return False
        left = self.out.places[group.inputs[0]]
        rest = [self.out.places[i] for i in group.inputs[1:]]
        if any(r.pixels != left.pixels and r.ld != r.channels for r in rest):
            return False
        y = self.target(group.value)
        for i, right in enumerate(rest):
            r_ld = right.ld if right.pixels == y.pixels else 0
            act = group.activation if i == len(rest) - 1 else None
            task = MapTask(group.node.op, y.channels, y.pixels, left.ld, y.ld, r_ld, act)
            self.simple(group, elementwise, task, y.images, {t.X: left, t.Y: y, t.R: right})
            left = y
        return True

    def op_lrn(self, group: Group) -> bool:
        """Local response norm with the usual power."""
        a = group.node.attrs
        if a["beta"] != 0.75 or a["k"] <= 0 or a["alpha"] < 0:
            return False
        x, y = self.out.places[group.inputs[0]], self.target(group.value)
        task = MapTask("lrn", y.channels, y.pixels, x.ld, y.ld, 0, None, a["size"], a["alpha"], a["k"])
        self.simple(group, elementwise, task, y.images, {t.X: x, t.Y: y})
        return True

    def pooling(self, group: Group, task: PoolTask | None) -> bool:
        """Any pooling with fixed windows."""
        if task is None:
            return False
        x, y = self.out.places[group.inputs[0]], self.target(group.value)
        self.simple(group, pool, replace(task, y_ld=y.ld), y.images, {t.X: x, t.Y: y})
        return True

    def windows(
        self, what: str, shape: Shape, x_ld: int, out: Shape, kernel, stride, padding, dilation=None, count: bool = True
    ) -> PoolTask | None:
        """A pooling of a value (n, channels, *size), or None where the kernel cannot do it."""
        channels, size = shape[1], shape[2:]
        dilation = dilation or (1,) * len(size)
        task = PoolTask(what, channels, size, kernel, stride, padding, dilation, out[2:], x_ld, channels, count)
        able = size and len(kernel) == len(size) and isinstance(pool.offer(task, self.machine), Offer)
        return task if able else None

    def pool_task(self, group: Group, shape: Shape, x_ld: int) -> PoolTask | None:
        """A maxpool or avgpool on a value of this shape."""
        a, pads = group.node.attrs, self.pads(group)
        if pads is None:
            return None
        rest = {"dilation": a["dilation"]} if group.node.op == "maxpool" else {"count": a["count_padding"]}
        what, out = group.node.op[:3], self.shape(group.value)
        return self.windows(what, shape, x_ld, out, a["kernel"], a["stride"], pads, **rest)

    def op_maxpool(self, group: Group) -> bool:
        """Maximum or mean under windows."""
        x = self.out.places[group.inputs[0]]
        return self.pooling(group, self.pool_task(group, x.shape, x.ld))

    op_avgpool = op_maxpool

    def pads(self, group: Group) -> Any:
        """Padding in numbers, or None where a word stands."""
        pads = group.node.attrs["padding"]
        return None if isinstance(pads, str) else pads

    def op_adaptive_avgpool(self, group: Group) -> bool:
        """Mean to a given size that divides the input's."""
        return self.adaptive(group, "avg")

    def op_adaptive_maxpool(self, group: Group) -> bool:
        """Maximum to a given size that divides the input's."""
        return self.adaptive(group, "max")

    def op_global_avgpool(self, group: Group) -> bool:
        """Mean over the image."""
        return self.adaptive(group, "avg")

    def op_global_maxpool(self, group: Group) -> bool:
        """Maximum over the image."""
        return self.adaptive(group, "max")

    def adaptive(self, group: Group, what: str) -> bool:
        """Windows that divide the image evenly."""
        size, out = self.shape(group.inputs[0])[2:], self.shape(group.value)[2:]
        if len(size) != len(out) or any(i % o for i, o in zip(size, out, strict=True)):
            return False
        kernel, x = tuple(i // o for i, o in zip(size, out, strict=True)), self.out.places[group.inputs[0]]
        none = ((0, 0),) * len(size)
        return self.pooling(group, self.windows(what, x.shape, x.ld, self.shape(group.value), kernel, kernel, none))

    def op_reduce_mean(self, group: Group) -> bool:
        """The mean over all of space is a pooling."""
        x = self.out.places[group.inputs[0]]
        rank = len(x.shape)
        if sorted(a % rank for a in group.node.attrs["axes"]) != list(range(2, rank)) or rank < 3:
            return False
        size, value = x.shape[2:], self.shape(group.value)
        ones = (1,) * len(size)
        task = PoolTask("avg", x.channels, size, size, size, ((0, 0),) * len(size), ones, ones, x.ld, x.channels)
        if isinstance(pool.offer(task, self.machine), Refusal):
            return False
        y = self.fresh(value)
        self.out.places[group.value] = y
        self.simple(group, pool, task, x.images, {t.X: x, t.Y: y})
        return True

    def op_reduce_max(self, group: Group) -> bool:
        """The largest number of each image."""
        return lower_images.largest(self, group)

    def op_concat(self, group: Group) -> bool:
        """Channels side by side; parts that were not written in place are copied."""
        if not self.joins(group):
            return False
        whole = self.target(group.value)
        offset = whole.offset
        for name in group.inputs:
            part = self.out.places[name]
            here = Place(whole.buffer, offset, whole.ld, part.shape)
            if part != here:
                task = MapTask("copy", part.channels, part.pixels, part.ld, here.ld)
                self.simple(group, elementwise, task, part.images, {t.X: part, t.Y: here})
            offset += part.channels
        return True

    def op_slice(self, group: Group) -> bool:
        """Some channels in a row are a view; every s-th row or column is a pooling of single pixels."""
        a, x = group.node.attrs, self.out.places[group.inputs[0]]
        axis, step = a["axis"] % len(x.shape), a["step"]
        taken = range(x.shape[axis])[slice(a["start"], a["stop"], step)]
        if step < 1 or not len(taken):
            return False
        if axis == 0:
            return lower_strided.cut(self, group)
        if axis == 1:
            if step != 1 or x.buffer < 0:
                return lower_strided.cut(self, group)
            self.out.places[group.value] = Place(x.buffer, x.offset + taken.start, x.ld, self.shape(group.value))
            return True
        ones, none = (1,) * (len(x.shape) - 2), ((0, 0),) * (len(x.shape) - 2)
        at = axis - 2
        stride = (*ones[:at], step, *ones[at + 1 :])
        pads = (*none[:at], (-taken.start, 0), *none[at + 1 :])
        task = self.windows("max", x.shape, x.ld, self.shape(group.value), ones, stride, pads)
        return self.pooling(group, task) or lower_strided.cut(self, group)

    def op_pad(self, group: Group) -> bool:
        """Channels of zeros (or another value) before and after."""
        a, x = group.node.attrs, self.out.places[group.inputs[0]]
        pads = ((0, 0),) * (len(x.shape) - len(a["pads"])) + a["pads"]  # the last axes
        if a["mode"] != "constant" or any(p for i, pair in enumerate(pads) for p in pair if i != 1):
            return lower_images.pad(self, group)
        if any(p < 0 for p in pads[1]):
            return False
        y = self.target(group.value)
        before, after = pads[1]
        task = MapTask("frame", x.channels, x.pixels, x.ld, y.ld, k=a["value"], before=before, after=after)
        self.simple(group, elementwise, task, x.images, {t.X: x, t.Y: y})
        return True

    def op_resize(self, group: Group) -> bool:
        """An image of another size."""
        return lower_images.resize(self, group)

    def op_instancenorm(self, group: Group) -> bool:
        """Each channel of each image by its own mean and variance."""
        return lower_tokens.channel_norm(self, group, 0)

    def op_groupnorm(self, group: Group) -> bool:
        """Each group of channels of each image by its own mean and variance."""
        return lower_tokens.channel_norm(self, group, group.node.attrs["groups"])

    def op_layernorm(self, group: Group) -> bool:
        """The last axes by their own mean and variance."""
        return lower_tokens.layernorm(self, group)

    def op_matmul(self, group: Group) -> bool:
        """The product of two values."""
        return lower_tokens.product(self, group)

    def op_transpose(self, group: Group) -> bool:
        """Another order of axes."""
        return lower_tokens.transpose(self, group) or lower_strided.transpose(self, group)

    def op_log_softmax(self, group: Group) -> bool:
        """The logarithm of softmax over channels."""
        return lower_images.probabilities(self, group)

    def op_softmax(self, group: Group) -> bool:
        """Softmax over channels."""
        return lower_images.probabilities(self, group)

    def flat(self, group: Group) -> bool:
        """Another shape of the same numbers: (images, all) of one pixel is a view, else through channels first."""
        x, shape = self.out.places[group.inputs[0]], self.shape(group.value)
        if shape[0] != x.images or prod(shape[2:]) != 1:
            return lower_tokens.same_channels(self, group) or lower_strided.reshape(self, group)
        if x.pixels == 1:
            self.out.places[group.value] = replace(x, shape=shape)
        elif x.alike:
            self.out.places[group.value] = replace(x, ld=shape[1], shape=shape)
        else:
            y = self.fresh(shape)
            self.out.places[group.value] = y
            task = LayoutTask(x.channels, x.pixels, x.ld, False)
            self.simple(group, layout, task, x.images, {t.X: x, t.Y: y})
        return True

    op_flatten = op_reshape = op_squeeze = op_unsqueeze = flat

"""A network with a picture in it: the values of its layers, as the page asks for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, final

import numpy as np

from dojang.app.running import answers
from dojang.app.sentences import Sentence, saying
from dojang.app.shown_inputs import (
    OPEN,
    Given,
    ShownInput,
    as_maps,
    from_picture,
    is_drawable,
    one_of,
    picture_node,
    shown_inputs,
)
from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import at_size, is_open, reference_values
from dojang.arith.ops import UNKNOWN
from dojang.base.errors import DojangError, GraphError, UsageError

if TYPE_CHECKING:  # the engine takes long to import, and is not needed before the page asks
    from dojang.engine.compiled import Compiled
    from dojang.engine.session import Session

Array = np.ndarray

COMPILED_MACS = 300_000_000
"""From so many multiply-accumulates on, compiled code runs a picture; NumPy answers sooner where there are fewer."""

KEPT_BYTES = 1 << 30
"""Values of all layers are kept for one picture up to so many bytes; beyond, those of a layer are computed when asked
for."""

EFFECT_BLOCKS = 16
"""Parts of an axis of the picture that are moved one after the other, at most; half as many where that takes long."""

EFFECT_MACS = 100_000_000_000
"""Multiply-accumulates that measuring a receptive field may take before the parts get larger: some seconds."""

TILE_BYTES = 8 << 20
"""Bytes of the maps in one answer: as many maps as fit, at least one."""


@dataclass(frozen=True)
class Maps:
    """Maps of some channels, strongest first, as 8-bit pictures.

    `order` are all channels of the layer by their strength (the root of the mean square over all places). Of the maps
    in `tiles` (n, h, w), value = low + (high − low) · tile / 255.
    """

    order: Array
    strength: Array
    low: Array
    high: Array
    tiles: Array


@final
class PictureInside:
    """A network and one sample of each of its inputs: values of layers, taps of filters, the answer. Thread-safe.

    `inputs` are the samples; `main` is the place of the first input that takes pictures, else 0, and `x`, `one`,
    `pixels` and `name` are those of it. `why_not` says why nothing can be computed (no weights, an operator that is not
    known, an input of which no sample can be drawn), None if it can. `bare` says that there are no samples.
    """

    def __init__(self, graph: Graph, source: Given | Mapping[str, Given] | None) -> None:
        """`source` is what is given for the inputs (`shown_inputs`). Raises what `shown_inputs` raises."""
        self._given = graph
        self._lock = threading.RLock()
        self._engines: dict[tuple[tuple[int, ...], ...], Compiled | Session] = {}
        self._values: dict[str, Array] = {}
        self._result: Array | None = None
        self.turn = 0  # counts the pictures, so that a late answer is not taken for one of the new picture
        no_sample = _no_sample(graph, source is not None)
        self.why_not = no_sample or _why_not(graph)
        self.bare = no_sample is not None
        if self.bare:
            self.graph = at_size(graph, reference_values(graph, OPEN[-1])) if is_open(graph) else graph
            self.inputs: tuple[ShownInput, ...] = ()
        else:
            self.graph, self.inputs = shown_inputs(graph, source)
        pictures = [place for place, node in enumerate(self.graph.inputs) if picture_node(node) is not None]
        self.main = pictures[0] if pictures else 0

    @property
    def x(self) -> Array:
        """The main input with its batch axis."""
        return self.inputs[self.main].x

    @property
    def one(self) -> Array:
        """The main input without its batch axis."""
        return one_of(self.x, self.graph.inputs[self.main])

    def look_at_bytes(self, raw: bytes, name: str, place: int | None = None) -> None:
        """Puts the picture of a file's content into an input, the main one without a place. What cannot be read raises,
        and the picture before stays.
        """
        place = self.main if place is None else place
        if self.bare or not 0 <= place < len(self.inputs) or picture_node(self.graph.inputs[place]) is None:
            raise saying(UsageError, Sentence("takesNone", "this input takes no picture"))
        made = from_picture(raw, name, self.graph.inputs[place])
        with self._lock:
            self.inputs = (*self.inputs[:place], made, *self.inputs[place + 1 :])
            self._values = {}
            self._result = None
            self.turn += 1

    def values(self, name: str) -> Array:
        """What a layer gives for the picture, as float32 (c, h, w): the place axes of a sequence are one row (c, 1, l);
        one value per channel is (c, 1, 1). Raises `GraphError` for a name that is not there or has no such shape.
        """
        if self.why_not is not None:
            raise saying(GraphError, self.why_not)
        with self._lock:
            if not self._has_maps(self.graph[name]):
                shape = self.graph.unit_shapes[name]
                shaped = by(shape) if shape is not None else "?"
                english = f"{name}: its values cannot be drawn as maps (shape {shaped})"
                raise saying(GraphError, Sentence("notDrawn", english, {"layer": name, "shape": shaped}))
            if name not in self._values:
                self._run(name)
            return self._values[name]

    def size_of_values(self, name: str) -> int:
        """How many values a layer gives; 0 where they cannot be drawn as maps."""
        return prod(self.graph.unit_shapes[name] or ()) if self._has_maps(self.graph[name]) else 0

    def maps(self, name: str, first: int = 0, most: int = 64) -> Maps:
        """Maps of the channels of a layer, `most` of them (or as many as `TILE_BYTES` hold) from place `first` on."""
        values = self.values(name)
        flat = values.reshape(len(values), -1).astype(np.float64)
        strength = np.sqrt((flat * flat).mean(axis=1))
        order = np.argsort(-np.nan_to_num(strength, nan=-1.0), kind="stable")
        fit = max(1, TILE_BYTES // max(1, values[0].size))
        chosen = order[max(0, first) : max(0, first) + max(1, min(most, fit))]
        return Maps(order, strength, *_tiles(values[chosen]))

    def taps(self, name: str, channel: int) -> tuple[Array, float]:
        """The filter of one output channel of a convolution or dense layer, float32 (ic / groups, kh, kw), and its
        bias. Raises `GraphError` for layers that have no filter, and channels that they do not have.
        """
        node = self.graph[name]
        if node.op not in ("conv", "conv_transpose", "dense"):
            raise GraphError(f"{name}: a {node.op} has no filter")
        weights = self._given.weights
        array = node.array("weight")
        if array not in weights:
            raise GraphError(f"{self.graph.name}: no weights for {array}")
        weight = np.asarray(weights[array])
        groups = int(node.attrs.get("groups", 1))
        channels = weight.shape[1] * groups if node.op == "conv_transpose" else len(weight)
        if not 0 <= channel < channels:
            raise GraphError(f"{name}: has no channel {channel}; there are {channels}")
        if node.op == "conv_transpose":
            group, inside = divmod(channel, weight.shape[1])
            each = weight.shape[0] // groups
            taps = weight[group * each : (group + 1) * each, inside]
        else:
            taps = weight[channel]
        bias = node.array("bias")
        offset = float(np.asarray(weights[bias]).reshape(-1)[channel]) if bias in weights else 0.0
        shape = (taps.shape[0], *(1,) * (3 - taps.ndim), *taps.shape[1:])
        return np.ascontiguousarray(taps.reshape(shape), np.float32), offset

    def effect(self, name: str, place: int | None = None, seed: int = 0) -> Array:
        """The measured receptive fields of a layer on the picture of an input (the main one without a place), (rows,
        columns, h, w): how much each place (h, w) of the layer moves when noise of the picture's own spread is added to
        one of rows × columns parts of it.

        It is the root of the mean square over the channels, 255 for the part that moves the place most; a place that
        nothing moves has 0 everywhere. Raises what `values` raises, and `GraphError` for an input that is no picture
        and no sequence.
        """
        still = self.values(name)
        with self._lock:
            place = self.main if place is None else place
            if not 0 <= place < len(self.inputs):
                raise UsageError(f"{self.graph.name} has no input {place}")
            x, turn = self.inputs[place].x, self.turn
        if x.ndim not in (3, 4) or x.dtype.kind not in "fiu" or self.graph.inputs[place].attrs["batch_axis"] > 0:
            english = f"{self.graph.name}: receptive fields are measured on pictures and sequences of real numbers only"
            raise saying(GraphError, Sentence("fieldPictures", english))
        often = EFFECT_BLOCKS**2 * (count(self.graph).total.macs or 0) <= EFFECT_MACS
        blocks = EFFECT_BLOCKS if often else EFFECT_BLOCKS // 2
        places = (1, *x.shape[2:])[-2:]  # a sequence is one row
        edges = [np.unique(np.linspace(0, size, min(size, blocks) + 1).astype(int)) for size in places]
        noise = np.random.default_rng(seed).normal(0, float(x.std()) or 1.0, x.shape).astype(np.float32)
        found = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1, *still.shape[1:]))
        for row, column in np.ndindex(found.shape[:2]):
            axes = slice(*edges[0][row : row + 2]), slice(*edges[1][column : column + 2])
            part = (..., *axes[4 - x.ndim :])
            moved = x.copy()
            moved[part] = _of_type(x[part] + noise[part], x.dtype)
            with self._lock:  # between two parts other requests are answered
                if self.turn != turn:
                    raise saying(GraphError, Sentence("pictureChanged", "another picture was chosen meanwhile"))
                taps = self._engine().run(self._feed(moved, place), [name]).taps[name]
            change = as_maps(np.asarray(taps, np.float64)[0]) - still
            found[row, column] = np.sqrt(np.square(change).mean(axis=0))
        most = found.max(axis=(0, 1))
        return np.rint(255 * found / np.where(most > 0, most, 1)).astype(np.uint8)

    def answer(self, top: int = 5) -> list[dict[str, Any]]:
        """The best classes with name, score and probability, best first; empty where the output has no classes."""
        if self.why_not is not None:
            return []
        with self._lock:
            if self._result is None:
                self._run(self.graph.outputs[0])
            assert self._result is not None
            found = answers(self.graph, self._result, top)
        return [
            {"index": g.index, "name": g.name, "score": g.score, "probability": g.probability}
            for one in found[:1]
            for g in one
        ]

    def values_on(self, samples: Array, name: str) -> Array:
        """What a layer gives for each of some samples, (n, c, h, w)."""
        from dojang.engine.session import Session

        with self._lock:
            result = Session(self.graph).run(samples, [name])
        return np.stack([as_maps(np.asarray(one, np.float32)) for one in result.taps[name]])

    def outputs_on(self, samples: Array) -> Array:
        """The first output for each of some samples."""
        with self._lock:
            engine = self._engine()
            return np.concatenate([engine.run(samples[i : i + 32]).outputs[0] for i in range(0, len(samples), 32)])

    def milliseconds(self, runs: int = 7) -> float | None:
        """The least time of some runs on the picture; None where nothing can be run."""
        if self.why_not is not None:
            return None
        from dojang.engine.compiled import Compiled

        with self._lock:
            engine = Compiled(self.graph)
            feed = self._feed()
            engine.run(feed)
            times = []
            for _ in range(runs):
                begin = perf_counter()
                engine.run(feed)
                times.append(perf_counter() - begin)
        return 1000 * min(times)

    def _run(self, name: str) -> None:
        """Computes the values of a layer, and of all others where they may be kept."""
        names = [node.name for node in self.graph.nodes if self._has_maps(node)]
        sizes = {n: 4 * prod(self.graph.unit_shapes[n] or (1,)) for n in names}
        if sum(sizes.values()) > KEPT_BYTES:
            self._values.clear()
            names = [name] if name in names else []
        result = self._engine().run(self._feed(), names)
        self._result = result.outputs[0]
        for tap in names:
            self._values[tap] = as_maps(np.asarray(result.taps[tap], np.float32)[0])

    def _feed(self, x: Array | None = None, place: int = 0) -> Array | dict[str, Array]:
        """What the network is given; with `x` in one place."""
        arrays = [x if x is not None and i == place else one.x for i, one in enumerate(self.inputs)]
        names = [node.name for node in self.graph.inputs]
        return arrays[0] if len(arrays) == 1 else dict(zip(names, arrays, strict=True))

    def _has_maps(self, node: Node) -> bool:
        shape = self.graph.unit_shapes[node.name]
        drawn = shape is not None and 2 <= len(shape) <= 5 and shape[0] == 1 and prod(shape) > 0
        return drawn and node.op != "constant" and self.graph.is_single(node.name)

    def _engine(self) -> Compiled | Session:
        from dojang.engine.compiled import Compiled
        from dojang.engine.session import Session

        key = tuple(one.x.shape for one in self.inputs)
        if key not in self._engines:
            small = count(self.graph).total.macs < COMPILED_MACS
            self._engines.clear()
            self._engines[key] = Session(self.graph) if small else Compiled(self.graph)
        return self._engines[key]


def _no_sample(graph: Graph, given: bool) -> Sentence | None:
    """Why a network is shown without samples; None if all its inputs can have one."""
    if not graph.inputs:
        return Sentence("whyNoInput", "the network has no input")
    strange = next((node for node in graph.inputs if not is_drawable(node)), None)
    if strange is None or given:
        return None
    dtype = strange.attrs["dtype"]
    english = f"the input {strange.name} takes values of type {dtype}, of which no sample is drawn"
    return Sentence("whyInputType", english, {"name": strange.name, "type": dtype})


def _why_not(graph: Graph) -> Sentence | None:
    """Why a network can be drawn and counted but not run; None if it can be run."""
    strange = [f"{node.name} ({node.attrs['kind']})" for node in graph.nodes if node.op == UNKNOWN]
    if strange:
        names = ", ".join(strange[:5])
        return Sentence("whyOperators", f"operators that dojang cannot run: {names}", {"names": names})
    if not graph.weights and graph.param_shapes:
        english = "the network has no weights: give them with --weights FILE, or train it first"
        return Sentence("whyWeights", english)
    try:
        graph.check_weights()
    except DojangError as error:
        return Sentence("whyOther", str(error), {"why": str(error)})
    return None


def _of_type(values: Array, dtype: np.dtype) -> Array:
    """Real numbers as a type, the nearest ones that it has."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def _tiles(values: Array) -> tuple[Array, Array, Array]:
    """Least and largest value of each map, and the maps from 0 to 255 between them. What is not finite is 0."""
    clean = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    flat = clean.reshape(len(clean), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    reach = np.where(high > low, high.astype(np.float64) - low, 1.0)
    tiles = (clean - low[:, None, None]) * (255 / reach)[:, None, None]
    return low, high, np.rint(tiles).clip(0, 255).astype(np.uint8)


def packed(head: Mapping[str, Any], parts: Sequence[Array]) -> bytes:
    """One answer: the length of its JSON head (4 bytes, little-endian), the head, then arrays at multiples of 4."""
    import json

    text = json.dumps(head, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body = [len(text).to_bytes(4, "little"), text]
    for part in parts:
        raw = part.tobytes()
        body += [raw, b"\0" * (-len(raw) % 4)]
    return b"".join(body)

"""A network with a picture in it: the values of its layers, as the page asks for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, final

import numpy as np

from dojang.app.prepared import InputPreparation
from dojang.app.running import answers, prepare, prepare_picture, size_of
from dojang.app.sentences import Sentence, saying
from dojang.arith.conv import by
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import at_size, is_open, nearest, reference_values, values_for
from dojang.arith.ops import UNKNOWN
from dojang.arith.preparation import takes_floats
from dojang.arith.standard import SINGLE
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

OPEN = (3, 224, 224)
"""The size of a picture in a network that takes any, if no picture says it."""

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
    """A network and one picture: values of layers, taps of filters, the answer. Thread-safe.

    `x` is the input, `one` the same without its batch axis. `why_not` says why nothing can be computed (no weights, an
    operator that is not known, an input that no picture gives), None if it can. `bare` says that there is no picture:
    what stands in its place is grey.
    """

    def __init__(self, graph: Graph, source: str | Path | Array | None) -> None:
        """`source` is a picture, an .npy file or an array; None is dojang's own picture, or nothing for a network that
        takes none. Raises what `prepare` raises.
        """
        self._given = graph
        self._lock = threading.RLock()
        self._engines: dict[tuple[int, ...], Compiled | Session] = {}
        self.turn = 0  # counts the pictures, so that a late answer is not taken for one of the new picture
        self._size: tuple[int, ...] | None = None
        no_picture = _no_picture(graph, source is not None)
        self.why_not = no_picture or _why_not(graph)
        self.bare = no_picture is not None
        if self.bare:
            self._stand_in()
        elif source is None:
            from dojang.filters.gallery import png, sample

            self.look_at_bytes(png(sample(224, 336)), "", "dojang's own picture")
        else:
            node = size_of(graph, source)
            self._look(
                *prepare(source, node, takes_floats(graph)),
                node,
                "array" if isinstance(source, Array) else Path(source).name,
            )

    def _stand_in(self) -> None:
        """Zeros in place of a picture; sizes that the network leaves open become about `OPEN`."""
        graph = self._given
        if is_open(graph):
            graph = at_size(graph, reference_values(graph, OPEN[-1]))
        shape = tuple(graph.inputs[0].attrs["shape"]) if graph.inputs else ()
        self.graph, self.name, self.prepared = graph, "", InputPreparation("as-they-stand", shape)
        self.x = np.zeros((1, *((1,) * len(shape))), np.float32)
        self.one = self.x[0]
        height, width = (*((1,) * (3 - len(shape))), *shape)[-2:] if len(shape) > 1 else (1, 1)
        self.pixels = np.full((min(int(height), OPEN[1]), min(int(width), OPEN[2]), 3), 128, np.uint8)
        self._values, self._result = {}, None

    def look_at_bytes(self, raw: bytes, name: str, called: str = "the picture") -> None:
        """Puts the picture of a file's content in. What cannot be read raises, and the picture before stays. Errors
        call a picture without a name `called`.
        """
        if self.bare:
            raise saying(UsageError, Sentence("takesNone", f"{self._given.name} takes no picture"))
        node = self._given.inputs[0]
        if is_open(self._given):
            node = node.with_attrs(shape=self._size or tuple(nearest(node.attrs["shape"], OPEN)))
        self._look(*prepare_picture(raw, name or called, node), node, name)

    def _look(self, x: Array, prepared: InputPreparation, node: Node, name: str) -> None:
        """Puts the first sample of a batch in."""
        axis = node.attrs["batch_axis"]
        x = x.take([0], axis) if axis >= 0 else x
        self._size = tuple(node.attrs["shape"])
        graph = self._given
        if is_open(graph):
            graph = at_size(graph, values_for(graph, {node.name: node.attrs["shape"]}))
        with self._lock:
            self.graph, self.name, self.prepared = graph, name, prepared
            self.x = np.ascontiguousarray(x, np.float32 if node.attrs["dtype"] in SINGLE else None)
            self.one = self.x.take(0, axis) if axis >= 0 else self.x
            self.pixels = pixels_of(self.one, node)
            self._values: dict[str, Array] = {}
            self._result: Array | None = None
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

    def effect(self, name: str, seed: int = 0) -> Array:
        """The measured receptive fields of a layer on this picture, (rows, columns, h, w): how much each place (h, w)
        of the layer moves when noise of the picture's own spread is added to one of rows × columns parts of it.

        It is the root of the mean square over the channels, 255 for the part that moves the place most; a place that
        nothing moves has 0 everywhere. Raises what `values` raises, and `GraphError` for an input without two axes.
        """
        still = self.values(name)
        with self._lock:
            x, turn = self.x, self.turn
        if x.ndim != 4 or x.dtype.kind not in "fiu":
            english = f"{self.graph.name}: receptive fields are measured on pictures only"
            raise saying(GraphError, Sentence("fieldPictures", english))
        often = EFFECT_BLOCKS**2 * (count(self.graph).total.macs or 0) <= EFFECT_MACS
        blocks = EFFECT_BLOCKS if often else EFFECT_BLOCKS // 2
        edges = [np.unique(np.linspace(0, size, min(size, blocks) + 1).astype(int)) for size in x.shape[2:]]
        noise = np.random.default_rng(seed).normal(0, float(x.std()) or 1.0, x.shape).astype(np.float32)
        found = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1, *still.shape[1:]))
        for row, column in np.ndindex(found.shape[:2]):
            part = (..., slice(*edges[0][row : row + 2]), slice(*edges[1][column : column + 2]))
            moved = x.copy()
            moved[part] = _of_type(x[part] + noise[part], x.dtype)
            with self._lock:  # between two parts other requests are answered
                if self.turn != turn:
                    raise saying(GraphError, Sentence("pictureChanged", "another picture was chosen meanwhile"))
                taps = self._engine().run(moved, [name]).taps[name]
            change = _as_maps(np.asarray(taps, np.float64)[0]) - still
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
        return np.stack([_as_maps(np.asarray(one, np.float32)) for one in result.taps[name]])

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
            engine.run(self.x)
            times = []
            for _ in range(runs):
                begin = perf_counter()
                engine.run(self.x)
                times.append(perf_counter() - begin)
        return 1000 * min(times)

    def _run(self, name: str) -> None:
        """Computes the values of a layer, and of all others where they may be kept."""
        names = [node.name for node in self.graph.nodes if self._has_maps(node)]
        sizes = {n: 4 * prod(self.graph.unit_shapes[n] or (1,)) for n in names}
        if sum(sizes.values()) > KEPT_BYTES:
            self._values.clear()
            names = [name] if name in names else []
        result = self._engine().run(self.x, names)
        self._result = result.outputs[0]
        for tap in names:
            self._values[tap] = _as_maps(np.asarray(result.taps[tap], np.float32)[0])

    def _has_maps(self, node: Node) -> bool:
        shape = self.graph.unit_shapes[node.name]
        drawn = shape is not None and 2 <= len(shape) <= 5 and shape[0] == 1 and prod(shape) > 0
        return drawn and node.op != "constant" and self.graph.is_single(node.name)

    def _engine(self) -> Compiled | Session:
        from dojang.engine.compiled import Compiled
        from dojang.engine.session import Session

        key = tuple(self.x.shape)
        if key not in self._engines:
            small = count(self.graph).total.macs < COMPILED_MACS
            self._engines.clear()
            self._engines[key] = Session(self.graph) if small else Compiled(self.graph)
        return self._engines[key]


def _no_picture(graph: Graph, given: bool) -> Sentence | None:
    """Why a network is shown without a picture; None if it has one input, and this takes a picture or what was `given`
    for it.
    """
    count = len(graph.inputs)
    if count != 1:
        names = ", ".join(node.name for node in graph.inputs)
        english = f"the network has {count} inputs ({names}), and the page puts one picture into one input"
        return Sentence("whyInputs", english, {"n": count, "names": names})
    node = graph.inputs[0]
    shape = tuple(node.attrs["shape"])
    if given or takes_pictures(graph):
        return None
    english = f"the network takes {by(shape)} values, which no picture has: give them as an .npy array in its place"
    return Sentence("whyPicture", english, {"shape": by(shape)})


def takes_pictures(graph: Graph) -> bool:
    """Whether a picture can be the input: one input of 1, 3 or 4 channels with two axes behind."""
    if len(graph.inputs) != 1:
        return False
    attrs = graph.inputs[0].attrs
    shape = attrs["shape"]
    return len(shape) == 3 and shape[0] in (1, 3, 4) and attrs["dtype"] in SINGLE and attrs["batch_axis"] == 0


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


def _as_maps(values: Array) -> Array:
    """The values of one sample as (c, h, w)."""
    if values.ndim < 2:
        return values.reshape(-1, 1, 1)
    if values.ndim == 2:
        return values[:, None, :]
    return values.reshape(values.shape[0], -1, values.shape[-1])


def _tiles(values: Array) -> tuple[Array, Array, Array]:
    """Least and largest value of each map, and the maps from 0 to 255 between them. What is not finite is 0."""
    clean = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    flat = clean.reshape(len(clean), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    reach = np.where(high > low, high.astype(np.float64) - low, 1.0)
    tiles = (clean - low[:, None, None]) * (255 / reach)[:, None, None]
    return low, high, np.rint(tiles).clip(0, 255).astype(np.uint8)


def pixels_of(x: Array, node: Node) -> Array:
    """What the network sees, as a picture of uint8 (h, w, 3): its input without normalisation."""
    maps = _as_maps(x)
    mean, std = node.attrs["mean"], node.attrs["std"]
    channels = len(maps)
    if mean and std:
        maps = maps * _per_channel(std, channels) + _per_channel(mean, channels)
    if maps.min() < -0.01 or maps.max() > 1.01:
        span = float(maps.max() - maps.min()) or 1.0
        maps = (maps - maps.min()) / span
    shown = maps[:3] if channels >= 3 else np.repeat(maps[:1], 3, axis=0)
    return np.ascontiguousarray(np.rint(np.moveaxis(shown, 0, -1).clip(0, 1) * 255).astype(np.uint8))


def _per_channel(values: Sequence[float], channels: int) -> Array:
    """One value for each channel, (channels, 1, 1); another number of them is the first for all."""
    return np.asarray(values if len(values) == channels else [values[0]] * channels, np.float32)[:, None, None]


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

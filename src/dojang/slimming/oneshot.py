"""One cut straight to a target: the channels that move the outputs least, what they carried given to those that stay.

Nothing is tuned. What a channel costs is what its readers feel of it (`evidence.reading.Reading.felt`), less the part
that the channels that stay can replace. For channels L that go and K that stay, with covariance C, least squares
leaves of channel i the variance ((C⁻¹)_LL)⁻¹_ii: the Schur complement of C_KK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph, Node
from dojang.evidence.readers import columns, reads_channels
from dojang.evidence.reading import Reading
from dojang.evidence.residuals import Residuals
from dojang.slimming.absorb import column
from dojang.slimming.front import sort_of
from dojang.slimming.narrow import compensate, least_useful

Array = np.ndarray
Ranking = Literal["outputs", "sorts", "layers", "weights"]

RANKINGS: Mapping[Ranking, str] = {
    "outputs": "what moves the outputs least, all layers compared with each other",
    "sorts": "what moves the outputs least, layers compared with those of the same operators and kernels only",
    "layers": "what moves the outputs least within each layer, all layers cut by the same share",
    "weights": "the energy that readers lose, as a part of what they read",
}
"""How channels of different layers are compared."""

LEVELS = 12
"""Widths that are looked at for each set of tied channels."""

WHOLE_UNITS = 4
"""Units that a set has at least if its widths are multiples of the unit; of a set half as wide, of half a unit."""

LEAST_LEFT = 1 / 8
"""Part of the channels that stays of every set, at least: below that, first-order costs say nothing."""

SURE = 0.005
"""`Widths` may be wrong by this part of the multiplications where layers are grouped, or attention multiplies maps:
what it says to be nearer to the target than that is counted."""

FLOOR = 1e-7
"""Costs are not told apart below this part of the outputs' spread."""


@dataclass(frozen=True)
class Ladder:
    """One set of tied channels in the order in which they go: after step n, `gone[n]`, at a total cost of `cost[n]`."""

    layers: tuple[str, ...]
    gone: tuple[tuple[int, ...], ...]
    cost: tuple[float, ...]


def readers(graph: Graph, tied: ChannelMap) -> list[Node]:
    """The layers that mix the channels that they read; depthwise ones, which pass each on by itself, are not among
    them.
    """
    return [
        node for node in graph.nodes if reads_channels(graph, tied, node) and not _passes_on(graph, node)
    ]  # fmt: skip


def _passes_on(graph: Graph, node: Node) -> bool:
    shape = graph.unit_shapes[node.inputs[0]]
    return shape is not None and node.op != "dense" and 1 < node.attrs["groups"] == shape[1]


def ladders(
    graph: Graph,
    tied: ChannelMap,
    readings: Mapping[str, Reading],
    ranking: Ranking,
    unit: int,
    known: dict[str, Residuals] | None = None,
    told: Callable[[int, int], object] | None = None,
) -> list[Ladder]:
    """For each set of channels that can go together the order in which they do, the least costly first.

    `readings`: by the name of the layer that reads. `known`: what channels explain of each other; kept from call to
    call, it spares the second ranking its share of the work. `unit`: widths are multiples of it where the set is large
    enough. `told`: is told after each set which of how many it was.
    """
    reads: dict[int, list[tuple[str, int]]] = {}
    for node in readers(graph, tied):
        track = tied.tracks[node.inputs[0]]
        if track is not None and node.name in readings:
            for place, label in enumerate(track.classes):
                reads.setdefault(label, []).append((node.name, place))
    energy = {node.name: np.square(np.asarray(columns(graph, node), np.float64)).sum(axis=1)
              for node in readers(graph, tied) if node.name in readings}  # fmt: skip
    residuals = {} if known is None else known
    found: list[Ladder] = []
    for number, bundle in enumerate(tied.bundles):
        if told is not None:
            told(number + 1, len(tied.bundles))
        if len(bundle) < 2:
            continue
        weigh = _Weights(readings, energy, ranking)
        made = _ladder(tied, bundle, reads, readings, weigh, residuals, unit)
        if made is not None:
            found.append(made)
    return found


class _Weights:
    """What losing the whole of a channel costs at one reader, in the unit of a ranking."""

    def __init__(self, readings: Mapping[str, Reading], energy: Mapping[str, Array], ranking: Ranking) -> None:
        self.readings, self.energy, self.ranking = readings, energy, ranking
        self._known: dict[str, Array] = {}

    def of(self, name: str) -> Array:
        """(c,), divided by the variance of each channel."""
        if name not in self._known:
            reading = self.readings[name]
            variance = np.maximum(reading.variance, 1e-30)
            if self.ranking == "weights":
                lost = self.energy[name] * reading.variance
                lost = lost / max(float(lost.sum()), 1e-30)
            else:
                lost = reading.felt
            self._known[name] = np.where(reading.variance > 0, lost / variance, 0.0)
        return self._known[name]


def _ladder(
    tied: ChannelMap,
    bundle: Sequence[int],
    reads: Mapping[int, Sequence[tuple[str, int]]],
    readings: Mapping[str, Reading],
    weigh: _Weights,
    residuals: dict[str, Residuals],
    unit: int,
) -> Ladder | None:
    """The greedy order of one set; None where none of it can go. What costs nothing is a step of its own, the first."""
    size = len(bundle)
    where: dict[str, dict[int, list[int]]] = {}
    for label in bundle:
        for name, place in reads.get(label, ()):
            where.setdefault(name, {}).setdefault(label, []).append(place)
    for name in where:
        if name not in residuals:
            residuals[name] = readings[name].residuals()
    step = stride_of(size, unit)
    step = max(step, -(-size // LEVELS) // step * step)
    alive, gone = list(bundle), list[int]()
    now = {name: residuals[name] for name in where}
    steps, costs = list[tuple[int, ...]](), list[float]()
    while len(alive) - (number := len(alive) % step or step) >= max(1, round(size * LEAST_LEFT)):
        price = dict.fromkeys(alive, 0.0)
        for name, own in where.items():
            cost = weigh.of(name) * now[name].left()
            for label, places in own.items():
                if label in price:
                    price[label] += float(cost[places].sum())
        if not gone:
            number = min(number, sum(cost <= 0 for cost in price.values()) or number)
        chosen = set(least_useful(tied, alive, _scores(tied, price), number))
        if not chosen:
            break
        gone += [c for c in alive if c in chosen]
        fitting = tied.fit(gone)
        if len(fitting) < len(gone):
            break
        alive = [c for c in alive if c not in chosen]
        total = 0.0
        for name, own in where.items():
            lost = [p for c in gone for p in own.get(c, ())]
            now[name] = now[name].without([p for c in chosen for p in own.get(c, ())])
            if lost:
                total += float((weigh.of(name)[lost] * now[name].lost(lost)).sum())
        steps.append(fitting)
        costs.append(max(total, costs[-1] if costs else 0.0))
    return Ladder(tied.layers(bundle), tuple(steps), tuple(costs)) if steps else None


def stride_of(size: int, unit: int) -> int:
    """By how many channels a set of so many is cut at a time, `unit` being a whole vector of the runtime.

    A vector that is half full takes as long as a full one, so widths between cost accuracy and save no time; but of a
    set of two vectors whole ones leave only one choice, so there it is half of one, which smaller vectors fill.

    >>> [stride_of(size, 16) for size in (128, 64, 32, 20, 16, 12)]
    [16, 16, 8, 8, 8, 1]
    """
    for part in (unit, unit // 2):
        if part > 1 and size >= (WHOLE_UNITS if part == unit else 2) * part:
            return part
    return max(1, size // 8)


def _scores(tied: ChannelMap, price: Mapping[int, float]) -> Array:
    score = np.full(tied.size, np.inf)
    for label, cost in price.items():
        score[label] = cost
    return score


class Widths:
    """Multiplications of a network while channels go, without making it: each layer's by the part of its inputs and
    outputs that is left.
    """

    def __init__(self, graph: Graph, tied: ChannelMap) -> None:
        """Nothing is gone."""
        self.gone: set[int] = set()
        self.parts: list[tuple[int, int, int]] = []
        self.left: list[tuple[int, int]] = []
        self.by_class: dict[int, dict[int, tuple[int, int]]] = {}
        costs = {layer.name: layer.cost.macs for layer in count(graph).layers}
        for node in graph.nodes:
            macs, track = costs.get(node.name, 0), tied.tracks[node.name]
            if not macs or track is None:
                continue
            mixes = reads_channels(graph, tied, node) and not _passes_on(graph, node)
            source = tied.tracks[node.inputs[0]] if mixes else None
            outs, ins = Counter(track.classes), Counter(source.classes if source is not None else ())
            for label in outs | ins:
                self.by_class.setdefault(label, {})[len(self.parts)] = outs[label], ins[label]
            self.left.append((outs.total(), ins.total()))
            self.parts.append((macs, outs.total(), ins.total()))
        self.now = [float(macs) for macs, *_ in self.parts]
        self.fixed = count(graph).total.macs - sum(macs for macs, *_ in self.parts)

    @property
    def macs(self) -> float:
        """Of the whole network."""
        return sum(self.now) + self.fixed

    def without(self, more: Sequence[int]) -> dict[int, float]:
        """The multiplications of each part that changes where these classes go as well."""
        return {part: self._macs(part, *left) for part, left in self._less(more).items()}

    def remove(self, more: Sequence[int]) -> None:
        """These classes go."""
        for part, left in self._less(more).items():
            self.left[part], self.now[part] = left, self._macs(part, *left)
        self.gone.update(more)

    def back(self, some: Sequence[int]) -> float:
        """How many multiplications more there would be with these classes that are gone."""
        return sum(self._macs(part, *left) - self.now[part] for part, left in self._less(some, -1).items())

    def give_back(self, some: Sequence[int]) -> None:
        """These classes, which are gone, are there again."""
        for part, left in self._less(some, -1).items():
            self.left[part], self.now[part] = left, self._macs(part, *left)
        self.gone.difference_update(some)

    def _less(self, more: Sequence[int], sign: int = 1) -> dict[int, tuple[int, int]]:
        """The outputs and inputs that are left of each part that changes where these classes go as well, or come back
        (`sign` -1).
        """
        found: dict[int, tuple[int, int]] = {}
        for label in set(more) - self.gone if sign > 0 else self.gone.intersection(more):
            for part, (outs, ins) in self.by_class.get(label, {}).items():
                was = found.get(part) or self.left[part]
                found[part] = was[0] - sign * outs, was[1] - sign * ins
        return found

    def _macs(self, part: int, outs: int, ins: int) -> float:
        macs, every_out, every_in = self.parts[part]
        return macs * (outs / every_out) * (ins / every_in if every_in else 1.0)


def along(
    graph: Graph, tied: ChannelMap, offered: Sequence[Ladder], ranking: Ranking
) -> Iterator[tuple[float, list[int]]]:
    """(multiplications left, steps that each ladder has gone), each saving more than the last: what saves most for its
    cost goes first.
    """
    widths, level = Widths(graph, tied), [0] * len(offered)

    def gain(b: int) -> tuple[float, int]:
        own, at = offered[b], level[b]
        best = (0.0, 0)
        before, cost = set(own.gone[at - 1] if at else ()), own.cost[at - 1] if at else 0.0
        for n in range(at, min(at + 3, len(own.gone))):
            more = [c for c in own.gone[n] if c not in before]
            saved = sum(widths.now[p] - left for p, left in widths.without(more).items())
            price = (n + 1) / len(own.gone) if ranking == "layers" else max(own.cost[n] - cost, 0.0) + FLOOR
            rank = 1 / price if ranking == "layers" and saved > 0 else saved / price
            best = max(best, (rank, n + 1))
        return best

    gains = [gain(b) for b in range(len(offered))]
    touching = [{p for c in own.gone[-1] for p in widths.by_class.get(c, ())} for own in offered]
    sorts = [sort_of(graph, own.layers) if ranking == "sorts" else "" for own in offered]
    while offered:
        open_ = [i for i, g in enumerate(gains) if g[0] > 0]
        if ranking == "sorts" and open_:
            parts: dict[str, list[float]] = {}
            for sort, own, at in zip(sorts, offered, level, strict=True):
                parts.setdefault(sort, []).append(at / len(own.gone))
            taken = {sort: sum(own) / len(own) for sort, own in parts.items()}
            least = min(taken[sorts[i]] for i in open_)
            open_ = [i for i in open_ if taken[sorts[i]] <= least]
        rank, b = max(((gains[i][0], -i) for i in open_), default=(0.0, 0))
        if rank <= 0:
            return
        b = -b
        before = set(offered[b].gone[level[b] - 1]) if level[b] else set[int]()
        level[b] = gains[b][1]
        widths.remove([c for c in offered[b].gone[level[b] - 1] if c not in before])
        for other in range(len(offered)):
            if not touching[b].isdisjoint(touching[other]):
                gains[other] = gain(other) if level[other] < len(offered[other].gone) else (0.0, 0)
        yield widths.macs, list(level)


def to_macs(
    graph: Graph, tied: ChannelMap, offered: Sequence[Ladder], ranking: Ranking, macs: float
) -> tuple[int, ...]:
    """The classes that go so that at most `macs` multiplications are left, or as few as can be.

    The last step may have gone too far: what cost most is given back, as far as it can be. What cost
    nothing stays away.
    """
    if count(graph).total.macs <= macs:
        return ()
    bare, level, exact = graph.replace(weights={}), [0] * len(offered), 0

    def counted(some: Sequence[int]) -> int:
        return count(cut(bare, tied.fit(_gone(offered, some)), tied)).total.macs

    for left, now in along(graph, tied, offered, ranking):
        level = now
        if left <= macs * 1.02 and (exact := counted(level)) <= macs:
            break
    else:
        return tied.fit(_gone(offered, level))
    room, widths = macs - exact, Widths(graph, tied)
    widths.remove(_gone(offered, level))

    def last_cost(b: int) -> float:
        own, at = offered[b].cost, level[b]
        return own[at - 1] - (own[at - 2] if at > 1 else 0.0) if at else 0.0

    def step_back(b: int) -> list[int]:
        own, at = offered[b].gone, level[b]
        stay_away = set(own[at - 2]) if at > 1 else set[int]()
        return [c for c in own[at - 1] if c not in stay_away]

    for b in sorted(range(len(offered)), key=last_cost, reverse=True):
        while last_cost(b) > 0 and widths.back(step_back(b)) <= room + SURE * macs:
            back = [at - (place == b) for place, at in enumerate(level)]
            left = counted(back)
            if left > macs:
                break
            widths.give_back(step_back(b))
            level, room = back, macs - left
    return tied.fit(_gone(offered, level))


def _gone(offered: Sequence[Ladder], level: Sequence[int]) -> list[int]:
    """The classes that go where each ladder has gone so many steps."""
    return [c for own, at in zip(offered, level, strict=True) if at for c in own.gone[at - 1]]


def repaired(graph: Graph, tied: ChannelMap, gone: Sequence[int], readings: Mapping[str, Reading]) -> Graph:
    """The network in its old shapes whose readers get from what stays what `gone` carried, by least squares."""
    stats: dict[str, Reading] = {}
    for node in readers(graph, tied):
        if node.name in readings:
            stats.setdefault(node.inputs[0], readings[node.name])
    return compensate(graph, tied, frozenset(gone), stats)


def shorter(graph: Graph, tied: ChannelMap, gone: Sequence[int], readings: Mapping[str, Reading]) -> Graph:
    """The network without these classes, repaired."""
    return cut(repaired(graph, tied, gone, readings), gone, tied) if gone else graph


def silenced(graph: Graph, tied: ChannelMap, gone: Sequence[int], readings: Mapping[str, Reading]) -> Graph:
    """What `shorter` computes, in the old shapes: repaired, and no layer reads what is gone."""
    new, lost = repaired(graph, tied, gone, readings), frozenset(gone)
    arrays = dict(new.weights)
    for node in readers(graph, tied):
        track = tied.tracks[node.inputs[0]]
        if track is None or lost.isdisjoint(track.classes):
            continue
        weight = np.array(arrays[node.array("weight")])
        for place, label in enumerate(track.classes):
            if label in lost:
                column(weight, node, place)[...] = 0
        arrays[node.array("weight")] = weight
    return new.replace(weights=arrays)


def left_alone(graph: Graph, tied: ChannelMap, seen: Mapping[str, Reading], keep: Mapping[str, str]) -> ChannelMap:
    """The map with more classes frozen: those of the layers in `keep` (name: reason), those that a layer reads which
    was not seen at work, and those that are added up over channels.
    """
    frozen = dict(tied.frozen)

    def freeze(name: str, why: str) -> None:
        track = tied.tracks.get(name)
        for label in track.classes if track is not None else ():
            frozen.setdefault(label, why)

    for node in graph.nodes:
        if node.name in keep:
            for name in (node.name, *node.inputs[:1]):
                freeze(name, keep[node.name])
        if node.op == "reduce_sum":
            freeze(node.inputs[0], f"{node.name}: adds up over channels")
    for node in readers(graph, tied):
        if node.name not in seen:
            freeze(node.inputs[0], f"{node.name}: reads it, and could not be watched at work")
    return replace(tied, frozen=dict(sorted(frozen.items())))

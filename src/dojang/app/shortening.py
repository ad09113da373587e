"""A module cut to a number of multiplications at once, as a narrower copy of itself: watched, ranked, repaired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from dojang.app.networks import load, torch_format
from dojang.app.progress import ProgressDisplay, Silent
from dojang.arith.channels import ChannelMap, channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.arith.ops import UNKNOWN
from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean
from dojang.evidence.reading import Reading
from dojang.evidence.residuals import Residuals
from dojang.slimming.oneshot import Ladder, Ranking, ladders, left_alone, readers, shorter, silenced, to_macs

WATCHED_MACS = 4e11
"""Multiplications that watching a network may take: a pass forwards and backwards takes about twice those of a run."""

SEEN_MACS = 4e11
"""Multiplications that runs may take from which means and covariances of what layers read are taken."""

LEAST, MOST, SEEN, NORMED = 16, 256, 768, 1024
"""Samples that are watched: from so many to so many, `SEEN` where they are only run; batch norms are measured on at
most `NORMED`. On 256 pictures 128 channels that a dense head reads after pooling seem to explain each other."""

LARGE = 1e9
"""Multiplications from which on networks are cut by one ranking less, for time."""

COMPARED = 64
"""Samples on which candidates are held against the original, at most."""


@dataclass(frozen=True)
class Own:
    """Somebody's module, the graph that was read from it, and samples as it takes them.

    `plain`: whether the module is one that dojang made of the graph. `rest`: whether the samples came with more than
    what goes into the module, labels most likely.
    """

    module: Any
    graph: Graph
    batches: tuple[Any, ...]
    plain: bool = False
    rest: bool = False

    @property
    def runnable(self) -> bool:
        """Whether dojang knows every operator."""
        return not any(node.op == UNKNOWN for node in self.graph.nodes)


@dataclass(frozen=True)
class Shortened:
    """A narrower module. `moved`: how far its outputs are from the original's on the samples (see
    `training.observed.change`). `gone`: channel classes of `tied` that were removed from `before`: the module
    at hand without the blocks that begin with the layers `without`.
    """

    module: Any
    graph: Graph
    before: Graph
    tied: ChannelMap
    gone: tuple[int, ...]
    ranking: Ranking
    moved: float
    plain: str = ""
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is made of."""
        number = len(self.without)
        blocks = f"{number} block{'s' if number > 1 else ''}" if number else ""
        return ", then ".join(filter(None, (blocks, self.ranking if self.gone else "")))

    @property
    def macs(self) -> int:
        """Multiplications of one sample."""
        return count(self.graph).total.macs


def read(module: Any, batch: Any) -> Graph:
    """The graph of a module at the size of a batch. Raises what `load` raises."""
    from dojang.formats.torch.read.adapted import Adapted

    args, named = batch
    given = entering(batch)
    straight = not named and len(given) == len(args) and all(hasattr(a, "ndim") for a in args)
    sizes = [tuple(t.shape[1:]) for t in given]
    followed = module if straight else Adapted(module, args, named)
    return load(followed, input_size=sizes[0] if len(sizes) == 1 else sizes)


def entering(batch: Any) -> list[Any]:
    """The tensors of a batch that are inputs of the network: all but single numbers, and one number per sample."""
    from dojang.training.observed import tensors

    args, named = batch
    return [t for t in tensors([*args, *named.values()]) if t.ndim > 1]


def entering_arrays(graph: Graph, batch: Any) -> list[np.ndarray]:
    """The arrays of a batch that enter a network, in the order of its inputs. Whole numbers and truth values that a
    module scales itself become float32, which its network takes.
    """
    arrays = [t.detach().cpu().numpy() for t in entering(batch)]
    real = [node.attrs["dtype"] == "float32" for node in graph.inputs]
    whole = [a.dtype.kind in "biu" for a in arrays]
    return [a.astype(np.float32) if r and w else a for a, r, w in zip(arrays, real, whole, strict=True)]


def kept_layers(graph: Graph, patterns: Sequence[str]) -> dict[str, str]:
    """The nodes that are to be left alone, each with the pattern that says so. Raises `UsageError` for one that fits
    none.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        own = [n.name for n in graph.nodes if fnmatchcase(n.name, pattern) or n.name.startswith(f"{pattern}.")]
        if not own:
            names = [n.name for n in graph.nodes if n.rule.channels in ("conv", "dense")]
            hint = did_you_mean(pattern.rstrip(".*"), names, f"layers are {', '.join(names[:8])} …")
            raise UsageError(f"keep {pattern!r}: no layer is called so; {hint}")
        found |= {name: f"{name}: is to be kept ({pattern})" for name in own}
    return found


@dataclass
class Shortener:
    """Cuts one module to fewer multiplications. `fixed`: layers that its code does not let be narrower, and why."""

    keep: tuple[str, ...] = ()
    unit: int = 8
    progress: ProgressDisplay = field(default_factory=Silent)
    seed: int = 0
    fixed: dict[tuple[str, ...], str] = field(default_factory=dict[tuple[str, ...], str])
    notes: list[str] = field(default_factory=list[str])
    last: ChannelMap | None = None

    def watched(self, own: Own) -> tuple[ChannelMap, dict[str, Reading]]:
        """Which channels can go, and what every layer reads on the samples."""
        from dojang.training.observed import readings

        graph, progress = own.graph, self.progress
        batches, followed = watching(own)
        seen_on, felt_on = (sum(map(size, part)) for part in (batches, batches[:followed]))
        progress.stage(f"watching every layer on {seen_on} samples, how the outputs follow on {felt_on}", len(batches))
        tied = channels(graph, even=not own.plain)
        seen = readings(
            own.module,
            sites(own),
            batches,
            lambda step, of: progress.step(step, of, "batches"),
            self.seed,
            followed,
        )
        keep = kept_layers(graph, self.keep)
        tied = self.without_fixed(left_alone(graph, tied, seen, keep))
        self.last = self.last or tied
        return tied, seen

    def without_fixed(self, tied: ChannelMap) -> ChannelMap:
        """The map without the sets of layers that the module's code does not let be narrower."""
        frozen = dict(tied.frozen)
        for bundle in tied.bundles:
            why = self.fixed.get(tied.layers(bundle))
            if why is not None:
                frozen |= dict.fromkeys(bundle, why)
        return replace(tied, frozen=dict(sorted(frozen.items())))

    def to(self, own: Own, macs: float, rankings: Sequence[Ranking], reference: Sequence[Any]) -> list[Shortened]:
        """One network of at most so many multiplications for each ranking, those that move the outputs least first.

        `reference`: the answers of the original, by `compared`.
        """
        from dojang.training.observed import answers, change

        tied, seen = self.watched(own)
        batches = some(own, WATCHED_MACS / 6, NORMED)
        self.progress.stage(f"batch norms of the original on {sum(map(size, batches))} samples", len(batches))
        norms = Norms(own, batches, lambda step, of: self.progress.step(step, of, "batches"))
        made: list[Shortened] = []
        known: dict[Any, list[Ladder]] = {}
        residuals: dict[str, Residuals] = {}
        for number, ranking in enumerate(rankings):
            self.progress.stage(f"cutting: {ranking}")
            built = self.built(own, tied, seen, ranking, macs, known, residuals)
            if all(_weighing(other) in {kind for kind, _ in known} for other in rankings[number + 1 :]):
                residuals.clear()  # they are as large as the covariances
            if built is None:
                continue
            one, tied = built
            if any(one.gone == other.gone for other in made):
                continue
            norms.measure(one, batches, lambda step, of: self.progress.step(step, of, "batch norms"))
            moved = change(reference, answers(one.module, compared(own)))
            made.append(replace(one, graph=again(one.module, one.graph), moved=moved))
        return sorted(made, key=lambda one: one.moved)

    def told_sets(self, done: int, total: int) -> None:
        """So many of the sets of channels were looked at."""
        self.progress.step(done, total, "sets of channels")

    def built(
        self,
        own: Own,
        tied: ChannelMap,
        seen: Mapping[str, Reading],
        ranking: Ranking,
        macs: float,
        known: dict[Any, list[Ladder]],
        residuals: dict[str, Residuals],
    ) -> tuple[Shortened, ChannelMap] | None:
        """The narrower module before its norms are measured; None where nothing can go."""
        for _ in range(3):
            key = _weighing(ranking), tuple(sorted(tied.frozen))
            if key not in known:
                known[key] = ladders(own.graph, tied, seen, ranking, self.unit, residuals, self.told_sets)
            offered = known[key]
            gone = to_macs(own.graph, tied, offered, ranking, macs)
            if not gone:
                return None
            new = shorter(own.graph, tied, gone, seen)
            module, why = self.module(own, tied, gone, seen, new)
            if module is not None:
                return Shortened(module, new, own.graph, tied, gone, ranking, 0.0), tied
            found = self.probe(own, tied, offered, seen)
            if not found:
                plain = self.as_plain(own, new, tied, gone, ranking, why)
                return None if plain is None else (plain, tied)
            self.fixed |= found
            tied = self.without_fixed(tied)
        return None

    def module(
        self, own: Own, tied: ChannelMap, gone: Sequence[int], seen: Mapping[str, Reading], new: Graph
    ) -> tuple[Any, str]:
        """A narrower copy of the module, checked against one of the old shapes that computes the same; or why not."""
        from dojang.formats.torch.write.narrow import same_answers, with_arrays

        if own.plain:
            return torch_format().to_module(new).eval(), ""
        try:
            narrow = with_arrays(own.module, own.graph, new)
            wide = with_arrays(own.module, own.graph, silenced(own.graph, tied, gone, seen))
        except (ValueError, RuntimeError) as error:
            return None, str(error).splitlines()[0]
        if narrow is None or wide is None:
            return None, "an array of a layer has no place in it"
        args, named = first(own.batches[0], 2)
        why = same_answers(narrow, wide, args, named)
        return (None, why) if why is not None else (narrow.eval(), "")

    def probe(
        self, own: Own, tied: ChannelMap, offered: Sequence[Ladder], seen: Mapping[str, Reading]
    ) -> dict[tuple[str, ...], str]:
        """The sets of layers that cannot be narrower each by itself, and why."""
        self.progress.stage("finding the layers whose size the module's code fixes")
        found: dict[tuple[str, ...], str] = {}
        for number, own_ladder in enumerate(offered):
            self.progress.step(number + 1, len(offered), "sets of layers")
            gone = own_ladder.gone[0]
            module, why = self.module(own, tied, gone, seen, shorter(own.graph, tied, gone, seen))
            if module is None:
                more = training_only(own) if "training mode" in why else ()
                named = f"; layers that only training uses: {', '.join(more[:4])}" if more else ""
                found[own_ladder.layers] = f"{own_ladder.layers[0]}: {why}{named}"
        return found

    def as_plain(
        self, own: Own, new: Graph, tied: ChannelMap, gone: tuple[int, ...], ranking: Ranking, why: str
    ) -> Shortened | None:
        """A module made of the graph, where the class of the owner cannot be narrower."""
        if not own.runnable:
            return None
        module = torch_format().to_module(new).eval()
        return Shortened(module, new, own.graph, tied, gone, ranking, 0.0, plain=why)


def _weighing(ranking: Ranking) -> str:
    """What a ranking weighs channels by; those that do it alike differ in how they compare layers only."""
    return "weights" if ranking == "weights" else "felt"


class Norms:
    """Batch norms of cut networks measured anew, without what the samples at hand do to those of the original.

    mean = old mean + mean of the cut network − mean of the original, both on the same samples; variances by their
    ratio. So few samples, or samples of another kind than the network was trained on, change nothing by themselves, and
    a network that was not cut stays as it is.
    """

    def __init__(self, own: Own, batches: Sequence[Any], told: Callable[[int, int], object] | None = None) -> None:
        """Measures the original."""
        from dojang.training.observed import measure_norms

        self.own = own
        self.names = {
            (node.array("running_mean"), node.array("running_var"))
            for node in own.graph.nodes
            if node.op == "batchnorm"
        }
        module = deepcopy(own.module).eval()
        if self.names:
            measure_norms(module, batches, told)
        self.measured = again(module, own.graph)

    def measure(self, one: Shortened, batches: Sequence[Any], told: Callable[[int, int], object]) -> None:
        """Sets the norms of a network that lost channels."""
        old, seen = (cut(graph, one.gone, one.tied) for graph in (self.own.graph, self.measured))
        self.set(one.module, one.graph, old, seen, batches, told)

    def without_blocks(self, base: Own, batches: Sequence[Any]) -> Own:
        """A network that lost whole blocks, its norms set."""
        self.set(base.module, base.graph, self.own.graph, self.measured, batches, lambda step, of: None)
        return replace(base, graph=again(base.module, base.graph))

    def set(
        self,
        module: Any,
        graph: Graph,
        old: Graph,
        seen: Graph,
        batches: Sequence[Any],
        told: Callable[[int, int], object],
    ) -> None:
        """Sets the norms of a module in place. `old`, `seen`: the original, and as it was measured, in its shapes."""
        from dojang.formats.torch.write.parametrised import put_arrays
        from dojang.training.observed import measure_norms

        if not self.names:
            return
        measure_norms(module, batches, told)
        found = again(module, graph).weights
        new: dict[str, Any] = {}
        for mean, variance in self.names:
            if mean in found and mean in old.weights:
                new[mean] = old.weights[mean] + found[mean] - seen.weights[mean]
                new[variance] = old.weights[variance] * (found[variance] + TINY) / (seen.weights[variance] + TINY)
        put_arrays(module, new)


TINY = 1e-12


def sites(own: Own) -> list[Any]:
    """The layers that read channels, as modules that can be watched; those that the module runs as plain functions are
    left out.
    """
    from dojang.formats.torch.write.parametrised import unwrapped
    from dojang.training.observed import Site

    modules, calls = dict(unwrapped(own.module).named_modules(remove_duplicate=False)), dict[int, int]()
    found: list[Any] = []
    for node in own.graph.nodes:
        if node.rule.channels not in ("conv", "dense"):
            continue
        layer = modules.get(node.array("weight").removesuffix(".weight"))
        if layer is None or not callable(getattr(layer, "forward", None)) or not hasattr(layer, "weight"):
            continue
        call = calls.get(id(layer), 0)
        calls[id(layer)] = call + 1
        found.append(Site(node.name, layer, call))
    wanted = {node.name for node in readers(own.graph, channels(own.graph))}
    return [site for site in found if site.name in wanted]


def training_only(own: Own) -> tuple[str, ...]:
    """Paths of layers whose arrays the graph does not have: what only training uses."""
    known = set(own.graph.weights)
    from dojang.formats.torch.write.parametrised import unwrapped

    names = [n for n, _ in unwrapped(own.module).named_parameters() if n not in known and "parametrizations" not in n]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def size(batch: Any) -> int:
    """Samples of a batch."""
    from dojang.training.observed import size_of

    return size_of(batch)


def first(batch: Any, most: int) -> Any:
    """At most so many samples of a batch."""
    from dojang.training.observed import part

    return part(batch, 0, most)


def some(own: Own, macs: float, most: int = MOST) -> list[Any]:
    """Batches whose run takes about so many multiplications, of at least `LEAST` and at most `most` samples."""
    return _parts(_cut_off(own.batches, _within(own.graph, macs, most)), own.graph)


def compared(own: Own) -> list[Any]:
    """The samples on which answers are held against each other."""
    return _parts(_cut_off(own.batches[::-1], _within(own.graph, WATCHED_MACS / 8, COMPARED)), own.graph)


def watching(own: Own) -> tuple[list[Any], int]:
    """The batches that are watched, and how many of them are followed backwards."""
    edge, most = _within(own.graph, WATCHED_MACS / 3, MOST), _within(own.graph, SEEN_MACS, SEEN)
    followed = _parts(_cut_off(own.batches, edge), own.graph, backwards=True)
    return [*followed, *_parts(_cut_off(own.batches, most, edge), own.graph)], len(followed)


def wanted(graph: Graph) -> int:
    """How many samples are looked at in all, where there are so many: those that are watched, and others to compare."""
    watched = max(_within(graph, SEEN_MACS, SEEN), _within(graph, WATCHED_MACS / 6, NORMED))
    return watched + _within(graph, WATCHED_MACS / 8, COMPARED)


def _within(graph: Graph, macs: float, most: int) -> int:
    """How many samples can be run within so many multiplications: of at least `LEAST` and at most `most`."""
    return int(min(most, max(LEAST, macs / max(1, count(graph).total.macs))))


TOGETHER_BYTES = 5 << 26
"""Bytes of activations that one batch may keep at a time."""


def _parts(batches: Sequence[Any], graph: Graph, backwards: bool = False) -> list[Any]:
    """Batches in parts whose activations fit into `TOGETHER_BYTES`; of two samples at least, for batch norms.

    Where they are followed `backwards` all activations of a part are kept, else about four at a time.
    """
    from dojang.training.observed import part

    sizes = [prod(shape) for shape in graph.unit_shapes.values() if shape is not None]
    numbers = sum(sizes) if backwards else 4 * max(sizes, default=1)
    most = max(2, TOGETHER_BYTES // max(1, 4 * numbers))
    found: list[Any] = []
    for batch in batches:
        whole = size(batch)
        parts = max(1, -(-whole // most))
        edges = [whole * i // parts for i in range(parts + 1)]
        found += [batch] if parts == 1 else [part(batch, a, b) for a, b in pairwise(edges)]
    return found


def _cut_off(batches: Sequence[Any], most: int, start: int = 0) -> list[Any]:
    """The samples from `start` to before `most`, of all batches in their order."""
    from dojang.training.observed import part

    found: list[Any] = []
    seen = 0
    for batch in batches:
        own = size(batch)
        low, high = max(0, start - seen), min(own, most - seen)
        if high > low:
            found.append(batch if high - low == own else part(batch, low, high))
        seen += own
    return found


def again(module: Any, graph: Graph) -> Graph:
    """The graph with the arrays that the module has now."""
    state = {name: value for name, value in arrays_of(module).items() if name in graph.weights}
    return graph.with_weights({**graph.weights, **state})


def arrays_of(module: Any) -> dict[str, Any]:
    """Every array of a module as the graph calls it, weights that are computed from others included."""
    from dojang.formats.torch.write.parametrised import arrays

    return arrays(module)

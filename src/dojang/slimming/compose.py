"""Whole candidates straight to a goal: branches dropped, cheaper forms of layers, the rest by channels; several prices.

How far outputs move without tuning holds channels against channels well enough, but not channels against branches or
forms: what is left of a layer is fitted to the samples, what is left of a sum is not. So for every number of branches
there is a candidate that drops these and reaches the goal by channels, and learning curves decide between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.evidence.finding import CHANNEL_KINDS
from dojang.slimming.branches import BRANCHES, Branch, without
from dojang.slimming.front import CHANNELS, FLOOR, Front, FrontOption, guessed
from dojang.slimming.ledger import Ledger, Proposal
from dojang.slimming.norm_statistics import MeasuredNorms
from dojang.slimming.numbering import channels_of, removed
from dojang.slimming.structural import Candidate

CLOCKED = (0.5, 1.0, 1.5, 2.0)
"""Prices of time, multiplications having what is left to 1, that are tried where both are wanted. Above 1 a cut that
saves multiplications without time costs: they would be short for the cuts that save both."""

LOOKS = 4
"""Networks that are timed as a whole to find the one that saves what is missing: what options save one by one is not
what they save together."""

PATHS = (0.5, 1.0)
"""Prices of time by which branches are chosen one after the other."""

MOST_BRANCHES = 16
"""Branches that are looked at, those that save most for what they lose alone."""

BASES = 8
"""Sets of branches and forms from which the goal is reached by channels, at most; fewer where an estimate is dear."""

ESTIMATES = 4e12
"""Multiplications that the estimates of all bases may take: of ResNet-20 about a minute on one core."""


@dataclass(frozen=True)
class Composition:
    """One candidate: the edit, what it is made of, and how far it moves the outputs after its short repair.

    `structure`: the branches and forms without the way in which channels were chosen. `time`: its part of the time of
    the network before, by the clock, else predicted.
    """

    proposal: Proposal
    name: str
    structure: str
    moved: float
    time: float


@dataclass(frozen=True)
class Goal:
    """Multiplications that may be left, and milliseconds that have to be saved. `both`: both are wanted."""

    macs: float
    ms: float
    both: bool


@dataclass(frozen=True)
class _Base:
    """A network from which channels go on: the one at hand without some branches, or with another form of a layer."""

    graph: Graph
    gone: tuple[Branch, ...] = ()
    form: Candidate | None = None

    @property
    def name(self) -> str:
        if self.form is not None:
            return f"{self.form.rewrite} of {', '.join(self.form.layers)}"
        if self.gone:
            return f"{len(self.gone)} {'branch' if len(self.gone) == 1 else 'branches'}"
        return ""


def compositions(ledger: Ledger, offers: Front, goal: Goal, forms: Sequence[Candidate] = ()) -> list[Composition]:
    """Candidates that reach a goal, those that move the outputs least first; each network once.

    From every set of branches along two paths, and from every form, channels go until the goal is reached: all layers
    compared with each other, and, as another candidate, layers with those of their own sort only.
    """
    norms = MeasuredNorms(offers.graph, offers.loss.x)
    sets = branch_sets(offers, goal)
    bases = [_Base(without(offers.graph, gone), gone) for gone in sets]
    bases += [_Base(form.graph, (), form) for form in forms]
    found: list[Composition] = []
    for base in _affordable(offers, bases):
        own = _front_of(ledger, offers, base)
        for by_sort in (False, True):
            graph, used = whole_saving(ledger, offers, own, goal, by_sort=by_sort)
            if graph is None:
                graph, used = (base.graph, []) if base.graph is not offers.graph else (None, [])
            if graph is None:
                continue
            how = ("channels by sort of layer" if by_sort else "channels") if used else ""
            name = ", then ".join(filter(None, (base.name, how)))
            if any(graph.nodes == other.proposal.graph.nodes for other in found):
                continue
            found.append(_composed(ledger, offers, base, own, graph, used, name, norms))
    return sorted(found, key=lambda one: one.moved)


def varied(found: Sequence[Composition], number: int) -> list[Composition]:
    """At most so many: of every structure the one that moves the outputs least, then the second of each, and so on."""
    turns: dict[str, int] = {}
    ranked: list[tuple[int, int, Composition]] = []
    for place, one in enumerate(found):
        turn = turns.get(one.structure, 0)
        turns[one.structure] = turn + 1
        ranked.append((turn, place, one))
    return [one for *_, one in sorted(ranked, key=lambda r: r[:2])[:number]]


def branch_sets(offers: Front, goal: Goal) -> list[tuple[Branch, ...]]:
    """Sets of branches, each a path's next one: first none, then one more at a time until the goal is reached.

    The next one saves most for what the network with all of them loses, measured together: two branches of one stage
    lose more than the sum of both.
    """
    graph, loss = offers.graph, offers.loss
    options = [option for own in offers.options for option in own if option.branch is not None]
    sets: dict[frozenset[str], tuple[Branch, ...]] = {frozenset(): ()}
    for clocked in PATHS:
        ranked = sorted(options, key=lambda o: -_worth(offers, o, o.loss, clocked))[:MOST_BRANCHES]
        lost = {id(option): option.loss for option in ranked}
        chosen: list[FrontOption] = []
        now = 0.0
        while ranked:
            fresh: set[int] = set()
            while True:  # what a branch loses grows as others go, so what was measured before is its least
                best = max(ranked, key=lambda o: _worth(offers, o, lost[id(o)], clocked))
                if id(best) in fresh or (not chosen and best.loss == lost[id(best)]):
                    break
                lost[id(best)] = max(loss.of(without(graph, _branches([*chosen, best]))) - now, 0.0)
                fresh.add(id(best))
            chosen.append(best)
            now += lost[id(best)]
            gone = _branches(chosen)
            shorter = without(graph, gone)
            sets.setdefault(frozenset(f"{b.add} {b.stays}" for b in gone), tuple(gone))
            ms = sum(option.ms for option in chosen)
            if count(shorter).total.macs <= goal.macs and ms >= goal.ms:
                break
            adds = {branch.add for branch in gone}
            ranked = [o for o in ranked if o.branch is not None and o.branch.add not in adds
                      and o.branch.add in shorter.by_name and o.branch.layers[0] in shorter.by_name]  # fmt: skip
    return list(sets.values())


def _worth(offers: Front, option: FrontOption, lost: float, clocked: float) -> float:
    """What an option saves, time at this price, for what it loses."""
    saved = clocked * option.ms / (offers.ms or 1.0) + (1 - clocked) * option.macs / max(1, offers.macs)
    return max(saved, 1e-12) / (lost + FLOOR)


def _branches(options: Iterable[FrontOption]) -> list[Branch]:
    return [option.branch for option in options if option.branch is not None]


def _affordable(offers: Front, bases: Sequence[_Base]) -> list[_Base]:
    """As many bases as estimates may be spent on, from the one that changes nothing on; evenly over what there is."""
    estimates = max(1, sum(len(own) for own in offers.options)) * offers.macs * len(_samples(offers.loss.x))
    most = int(np.clip(ESTIMATES / max(1, estimates), 2, BASES))
    if len(bases) <= most:
        return list(bases)
    places = dict.fromkeys(round(i * (len(bases) - 1) / (most - 1)) for i in range(most))
    return [bases[place] for place in places]


def _samples(x: object) -> Sequence[object]:
    return next(iter(x.values())) if isinstance(x, Mapping) else x  # type: ignore[return-value]


def _front_of(ledger: Ledger, offers: Front, base: _Base) -> Front:
    """What channels of a base can go, and what they lose beyond what the base has lost already."""
    if base.graph is offers.graph:
        kept = offers
    else:
        lost = offers.loss.of(base.graph)
        kept, _ = guessed(ledger, offers.known.on(base.graph), offers.loss, max(lost, 1e-12))
        scale = offers.ms_per_predicted
        scaled = tuple(tuple(replace(o, ms=o.ms * scale) for o in own) for own in kept.options)
        kept = replace(kept, options=scaled, ms_per_predicted=scale, ms=kept.ms * scale)
    moved = {name for order in (base.form.orders if base.form else ()) for name in order}
    own = [own for own in kept.options if own[0].branch is None and moved.isdisjoint(own[0].layers)]
    return replace(kept, options=tuple(own))


def whole_saving(
    ledger: Ledger, before: Front, own: Front, goal: Goal, by_sort: bool = False
) -> tuple[Graph | None, list[FrontOption]]:
    """The network made from `own`, a base of `before`, that reaches the goal when timed as a whole; what was used.

    The sum of what options save is corrected by what the network with all of them saves, until the least cut is
    found that does, or nothing more can go. Where multiplications and time are both wanted, several prices of the
    one in terms of the other are tried: at the right one neither falls further than it has to. Then it is enough
    where the time falls by as much more than wanted as the multiplications do. Of all networks that save enough
    the one is taken whose outputs move least; else the one that saves most time for its multiplications.
    """
    macs, ms = goal.macs, goal.ms
    found = list[tuple[bool, float, Graph, list[FrontOption]]]()
    seen: list[list[FrontOption]] = []
    already = max(before.ms - own.ms, 0.0) if own is not before else 0.0
    for clocked in (1.0,) if not goal.both else (0.5,) if ms <= 0 else CLOCKED:
        asked = max(ms - already, 0.0)
        for _ in range(LOOKS):
            if asked <= 0 and own.macs <= macs:
                graph, used = own.graph, []
                if graph is before.graph:
                    break
            else:
                graph, used = own.to(macs, asked, clocked, by_sort)
            if graph is None or used in seen:
                break
            seen.append(used)
            if ms <= 0:
                return graph, used
            saved = ledger.time_all(ledger.deploy(before.graph), [ledger.deploy(graph)])[0]
            if saved is None:
                return graph, used
            left = count(graph).total.macs
            further = min(1.0, left / macs) if goal.both and left and macs < before.macs else 1.0
            most = (1 - ms / before.ms) * further * saved.before_ms
            enough = saved.after_ms <= most
            rank = -before.loss.of(graph) if enough else most / saved.after_ms
            found.append((enough, rank, graph, used))
            promised = already + sum(option.ms for option in used)
            if saved.ms <= 0 or promised <= 0:
                break
            asked = max(ms * promised / saved.ms - already, 0.0)
    if not found:
        return None, []
    *_, graph, used = max(found, key=lambda one: one[:2])
    return graph, used


def _composed(
    ledger: Ledger,
    offers: Front,
    base: _Base,
    own: Front,
    graph: Graph,
    used: Sequence[FrontOption],
    name: str,
    norms: MeasuredNorms,
) -> Composition:
    """The edit that leads to a network, its batch norms set to what they see."""
    tied = own.known.channels
    fitting = tied.fit([c for option in used for c in option.classes])
    shaped = _shaped(base, fitting)
    graph = norms.of(graph, shaped)
    gone = channels_of(tied, fitting)
    form, options = base.form, [option for option in used if option.classes]
    kinds = [form.rewrite] if form is not None else [BRANCHES] if base.gone else []
    kinds += [CHANNELS] if options else []
    layers = [*(form.layers if form else ()), *(n for b in base.gone for n in b.layers)]
    layers += [layer for option in options for layer in option.layers]
    answers = (*(form.answers if form else ()), *(CHANNEL_KINDS if options or base.gone else ()))
    proposal = Proposal(
        "+".join(sorted(kinds, reverse=True)),
        "lossy",
        tuple(dict.fromkeys(layers)),
        graph,
        form.found if form else "",
        answers,
        removed(offers.graph, graph, gone),
        form.orders if form else (),
    )
    saved = ledger.time_all(ledger.deploy(offers.graph), [ledger.deploy(graph)])[0]
    part = saved.after_ms / saved.before_ms if saved is not None else _predicted(ledger, offers, graph)
    moved = offers.loss.of(graph)
    branches = sorted(branch.add for branch in base.gone)
    return Composition(proposal, name, f"{form.rewrite} {form.layers}" if form else " ".join(branches), moved, part)


def _predicted(ledger: Ledger, offers: Front, graph: Graph) -> float:
    return ledger.predict(graph) / max(ledger.predict(offers.graph), 1e-12)


def _shaped(base: _Base, fitting: Sequence[int]) -> Callable[[Graph], Graph]:
    """The cut of a composition without its repair. A form has other layers, whose norms keep what they have."""

    def shaped(graph: Graph) -> Graph:
        if base.form is not None:
            own = dict(base.form.graph.weights)
            same = {k: v for k, v in graph.weights.items() if k in own and np.shape(v) == np.shape(own[k])}
            graph = base.form.graph.replace(weights={**own, **same})
        graph = without(graph, base.gone)
        return cut(graph, fitting) if fitting else graph

    return shaped

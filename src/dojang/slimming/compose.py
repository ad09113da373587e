"""Whole candidates straight to a goal: branches dropped, cheaper forms of layers, the rest by channels; several prices.

How far outputs move without tuning holds channels against channels well enough, but not channels against branches or
forms: what is left of a layer is fitted to the samples, what is left of a sum is not. So for every number of branches
there is a candidate that drops these and reaches the goal by channels, and learning curves decide between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CHANNEL_KINDS
from dojang.slimming.branches import BRANCHES, Branch, without
from dojang.slimming.front import CHANNELS, FLOOR, Front, FrontOption, cost
from dojang.slimming.halving import by_turns
from dojang.slimming.importance import importance, read_statistics
from dojang.slimming.ledger import Ledger, Proposal
from dojang.slimming.narrow import least_useful
from dojang.slimming.norm_statistics import MeasuredNorms
from dojang.slimming.numbering import channels_of, removed
from dojang.slimming.structural import Candidate

CLOCKED = (0.5, 1.0, 2.0)
"""Prices of time, multiplications having what is left to 1, that are tried where both are wanted. Above 1 a cut that
saves multiplications without time costs: they would be short for the cuts that save both."""

LOOKS = 3
"""Networks that are timed as a whole to find the one that takes the time that is asked for, at most: what the plan
predicts is not what the clock sees."""

NEAR = 0.97
"""A network whose time is between this part of what is asked for and the whole is not looked for any better."""

PATHS = (0.5, 1.0)
"""Prices of time by which branches are chosen one after the other."""

MOST_BRANCHES = 16
"""Branches that are looked at, those that save most for what they lose alone."""

SEEN = 256
"""Samples that the channels of a base are ranked on, and least squares are fitted on, at most."""


FORM, INSIDE = "form", "inside"
"""Sorts of candidates beside those of channels: with another form of a layer; channels inside of blocks alone. In the
latter the outputs move more before tuning than in others, and less may be lost after it: ResNet-20 cut by hand so was
the last of seven before tuning (its norms not measured anew), the third after an eighth of an epoch, and the first
after half of one; a whole search took one of this sort in the end (CIFAR-10, `bench/results/slim_resnet20.txt`)."""


@dataclass(frozen=True)
class Composition:
    """One candidate: the edit, what it is made of, and how far it moves the outputs after its short repair.

    `structure`: the branches and forms without the way in which channels were chosen. `sort`: `INSIDE`, `FORM` or
    `CHANNELS`, which untuned outputs do not hold against each other. `time`: its part of the time of
    the network before, by the clock, else predicted. `meets`: whether it reaches the goal.
    """

    proposal: Proposal
    name: str
    structure: str
    moved: float
    time: float
    meets: bool
    sort: str = CHANNELS


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


INSIDE_OF_BLOCKS = "channels inside of blocks"

LEAST = 3
"""Candidates that are made whatever the time."""


def compositions(
    ledger: Ledger,
    offers: Front,
    goal: Goal,
    forms: Sequence[Candidate] = (),
    more: Callable[[], bool] = lambda: True,
) -> list[Composition]:
    """Candidates that reach a goal, those that move the outputs least first; each network once.

    From every set of branches along two paths, and from every form, channels go until the goal is reached: all layers
    compared with each other, and, as another candidate, layers with those of their own sort only. `more`: whether there
    is time for one more.
    """
    norms = MeasuredNorms(offers.graph, offers.loss.x)
    bases = [_Base(without(offers.graph, gone), gone) for gone in branch_sets(offers, goal)]
    bases = _from_both_ends(sorted(bases, key=lambda base: count(base.graph).total.macs))
    bases += [_Base(form.graph, (), form) for form in forms]
    found: list[Composition] = []
    for base in bases:
        if len(found) >= LEAST and not more():
            break
        own = _front_of(ledger, offers, base)
        for how, some, by_sort in _choices(own):
            graph, used = whole_saving(ledger, offers, some, goal, by_sort)
            if graph is None or any(graph.nodes == other.proposal.graph.nodes for other in found):
                continue
            how = how if used else ""
            sort = FORM if base.form is not None else INSIDE if how == INSIDE_OF_BLOCKS else CHANNELS
            name = ", then ".join(filter(None, (base.name, how)))
            found.append(_composed(ledger, offers, base, own, graph, used, name, sort, norms, goal))
    return sorted(found, key=lambda one: one.moved)


def _choices(own: Front) -> list[tuple[str, Front, bool]]:
    """(What it is called, the options of channels, whether layers are held against their own sort only).

    Channels that are added up in residual sums are read by every later block, so that with them a little is lost
    everywhere: where there are such and others, the others alone are a choice of their own.
    """
    found = [("channels", own, False), ("channels by sort of layer", own, True)]
    tied = own.known.channels
    summed = {
        label
        for node in own.graph.nodes
        if node.op == "add" and (track := tied.tracks[node.name]) is not None
        for label in track.classes
    }
    inner = tuple(ladder for ladder in own.options if summed.isdisjoint(ladder[-1].classes))
    if 0 < len(inner) < len(own.options):
        found.append((INSIDE_OF_BLOCKS, replace(own, options=inner), False))
    return found


def _from_both_ends(bases: Sequence[_Base]) -> list[_Base]:
    """The first, the last, the second, the last but one, …: what comes first is as different as can be."""
    left = list(bases)
    return [left.pop(0 if place % 2 == 0 else -1) for place in range(len(bases))]


def varied(found: Sequence[Composition], number: int) -> list[Composition]:
    """At most so many, the sorts taking turns: within a sort of every structure the one that moves the outputs least,
    then the second of each, and so on.

    Where some reach the goal, only those.
    """
    found = [one for one in found if one.meets] or found
    within = by_turns(found, lambda one: (one.sort, one.structure))
    return by_turns(within, lambda one: one.sort)[:number]


def branch_sets(offers: Front, goal: Goal) -> list[tuple[Branch, ...]]:
    """Sets of branches, each a path's next one: first none, then one more at a time until the goal is reached.

    The next one saves most for what the network with all of them loses, measured together: two branches of one stage
    lose more than the sum of both.
    """
    graph, loss = offers.graph, offers.loss
    options = [option for own in offers.options for option in own if option.branch is not None]
    sets: dict[frozenset[str], tuple[Branch, ...]] = {frozenset(): ()}
    measured: dict[frozenset[str], float] = {}

    def lost_by(gone: Sequence[Branch]) -> float:
        key = frozenset(f"{b.add} {b.stays}" for b in gone)
        if key not in measured:
            measured[key] = cost(loss.of(without(graph, gone)))
        return measured[key]

    for clocked in PATHS:
        ranked = sorted(options, key=lambda o: -_worth(offers, o, cost(o.loss), clocked))[:MOST_BRANCHES]
        lost = {id(option): cost(option.loss) for option in ranked}
        chosen: list[FrontOption] = []
        now = 0.0
        while ranked:
            fresh: set[int] = set()
            while True:  # what a branch loses grows as others go, so what was measured before is its least
                best = max(ranked, key=lambda o: _worth(offers, o, lost[id(o)], clocked))
                if id(best) in fresh or not chosen:
                    break
                lost[id(best)] = max(lost_by(_branches([*chosen, best])) - now, 0.0)
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


def _front_of(ledger: Ledger, offers: Front, base: _Base) -> Front:
    """What channels of a base can go: as many as from the network before, the least useful ones of the base itself.

    What they lose and save is taken as it was there; every candidate is measured as a whole before it is tuned.
    """
    own = [own for own in offers.options if own[0].branch is None]
    if base.graph is offers.graph:
        return replace(offers, options=tuple(own))
    known = offers.known.on(base.graph)
    if isinstance(known.samples, np.ndarray):
        known = Evidence(base.graph, known.samples[:SEEN], known.input_range, seed=known.seed)
    tied = known.channels
    score = importance(base.graph, tied, ledger.importance, read_statistics(known), ledger.gradients)
    moved = {name for order in (base.form.orders if base.form else ()) for name in order}
    bundles = {tied.layers(bundle)[0]: bundle for bundle in tied.bundles if moved.isdisjoint(tied.layers(bundle))}
    options: list[tuple[FrontOption, ...]] = []
    for ladder in own:
        bundle = next((bundles[name] for name in ladder[0].layers if name in bundles), None)
        made: list[FrontOption] = []
        for option in ladder if bundle is not None else ():
            assert bundle is not None
            classes = least_useful(tied, bundle, score, min(len(option.classes), len(bundle) - 1))
            if classes and not (made and len(classes) <= len(made[-1].classes)):
                made.append(replace(option, layers=tied.layers(bundle), classes=classes))
        if made:
            options.append(tuple(made))
    macs, ms = count(base.graph).total.macs, ledger.predict(base.graph) * offers.ms_per_predicted
    return replace(offers, known=known, options=tuple(options), macs=macs, ms=ms)


def whole_saving(
    ledger: Ledger, before: Front, own: Front, goal: Goal, by_sort: bool = False
) -> tuple[Graph | None, list[FrontOption]]:
    """The network made from `own`, a base of `before`, that reaches the goal when timed as a whole; what was used.

    How the time follows from what the plan predicts is learnt from every network that is timed. Where multiplications
    and time are both wanted, several prices of the one in terms of the other are tried: at the right one neither falls
    further than it has to. Of those that are predicted to reach the goal the one is timed whose outputs move least.
    None where nothing is cut.
    """
    most = before.ms - goal.ms
    points = [(max(ledger.predict(before.graph), 1e-12), max(before.ms, 1e-12))]
    best: tuple[tuple[bool, float], Graph, list[FrontOption]] | None = None
    for _ in range(LOOKS):
        predicted = _predicted_for(points, most)

        def fits(graph: Graph, predicted: float = predicted) -> bool:
            if count(graph).total.macs > goal.macs:
                return False
            return goal.ms <= 0 or ledger.predict(graph) <= predicted

        made = _cheapest(before, own, goal, fits, by_sort)
        if made is None:
            break
        graph, used = made
        if goal.ms <= 0 or ledger.measure is None:
            return graph, used
        saved = ledger.time_all(ledger.deploy(before.graph), [ledger.deploy(graph)])[0]
        assert saved is not None
        after = saved.after_ms * before.ms / max(saved.before_ms, 1e-12)
        enough = after <= most * (1 + 1e-9)
        rank = (enough, -before.loss.of(graph) if enough else -after)
        if best is None or rank > best[0]:
            best = rank, graph, used
        if NEAR * most <= after <= most:
            break
        points.append((max(ledger.predict(graph), 1e-12), max(after, 1e-12)))
    return (None, []) if best is None else best[1:]


def _cheapest(
    before: Front, own: Front, goal: Goal, fits: Callable[[Graph], bool], by_sort: bool
) -> tuple[Graph, list[FrontOption]] | None:
    """Of the networks that fit, at several prices of time, the one whose outputs move least; else the least one."""
    if fits(own.graph.replace(weights={})):
        return None if own.graph is before.graph else (own.graph, [])
    found: list[tuple[bool, float, Graph, list[FrontOption]]] = []
    for clocked in (1.0,) if not goal.both else (0.5,) if goal.ms <= 0 else CLOCKED:
        graph, used = own.to(fits, goal.macs, clocked, by_sort)
        if graph is None:
            return None if own.graph is before.graph else (own.graph, [])
        if not any(used == other for *_, other in found):
            found.append((fits(graph.replace(weights={})), 0.0, graph, used))
    fitting = [one for one in found if one[0]] or found
    if len(fitting) > 1:
        fitting = [(fit, before.loss.of(graph), graph, used) for fit, _, graph, used in fitting]
    *_, graph, used = min(fitting, key=lambda one: one[1])
    return graph, used


def _predicted_for(points: Sequence[tuple[float, float]], most: float) -> float:
    """The predicted time of a network that takes `most`, by a power law through the last two (predicted, timed)."""
    (p, t), (q, u) = points[0], points[-1]
    if len(points) > 1:
        p, t = points[-2]
    bend = np.log(u / t) / np.log(q / p) if abs(np.log(q / p)) > 1e-3 and u != t else 1.0
    bend = float(np.clip(bend, 0.2, 5.0))
    return q * (max(most, 1e-12) / u) ** (1 / bend)


def _composed(
    ledger: Ledger,
    offers: Front,
    base: _Base,
    own: Front,
    graph: Graph,
    used: Sequence[FrontOption],
    name: str,
    sort: str,
    norms: MeasuredNorms,
    goal: Goal,
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
    meets = count(graph).total.macs <= goal.macs and (goal.ms <= 0 or part <= 1 - goal.ms / offers.ms)
    structure = f"{form.rewrite} {form.layers}" if form else " ".join(branches)
    return Composition(proposal, name, structure, moved, part, meets, sort)


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

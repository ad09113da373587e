"""What slimming by somebody's own loop came to: final figures, every edit and refusal, and what has to be said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dojang.app.own_loop import loss
from dojang.app.own_search import OwnSearch
from dojang.app.own_timing import TIMED, UNSTEADY
from dojang.app.runtimes import version_of
from dojang.app.shortening import size
from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.base.errors import DojangError
from dojang.report.results import Slimming
from dojang.slimming.front import CHANNELS
from dojang.slimming.result import Refused, SlimResult, figures

FAR_MOVED = 1.0
"""Outputs that moved by more than this part of their spread have lost what they said."""


def slimming_of(search: OwnSearch, started: float, notes: Sequence[str]) -> Slimming:
    """Everything that is known at the end of a search. `started`: when it began, by `time.monotonic`."""
    search.told.stage("final figures")
    own, now = search.own, search.now
    try:
        before_ms, after_ms = search.times.of([own, now.own], TIMED)
    except DojangError as error:
        before_ms = after_ms = None
        search.notes.append(f"time was not measured: {error}")
    if before_ms is not None and search.times.spread > UNSTEADY:
        search.notes.append(
            f"the machine was busy: the middle half of the times spreads over {search.times.spread:.0%} of their "
            "median, so they say little; measure again with dojang bench"
        )
    control = search.control_score(now.schedule)
    figure = figures(own.graph, None if search.before is None else search.before.value, before_ms)
    after = figures(now.own.graph, None if now.score is None else now.score.value, after_ms)
    about: dict[str, Any] | None = None
    if control is not None:
        lost, error = loss(control, now.score or control, search.loop.noise)
        about = {"accuracy": control.value, "tunings": len(now.schedule), "epochs": None, "lost": lost,
                 "standard_error": error}  # fmt: skip
    if not search.asked.control and search.loop.evaluate is not None:
        search.notes.append(
            "no control was tuned (control=False): the difference to the original as it came is also what tuning alone "
            "would change"
        )
    if not search.edits:
        search.notes.append("nothing was cut; the network is as it was")
    if not own.runnable:
        search.notes.append("the network has operators that only its own code runs: times are those of PyTorch")
    if all(len(y) > 1 and not np.ptp(y, axis=0).any() for y in search.maker.reference):
        search.notes.append("the outputs are the same for all samples: by them no cut can be told from another")
    if own.rest and search.loop.tune is None and search.loop.evaluate is None:
        search.notes.append(
            "what batches hold beside the samples (labels, most likely) was not used: nothing was tuned or scored; for "
            "that give tune and evaluate"
        )
    if search.loop.tune is None and now.moved >= FAR_MOVED:
        search.notes.append(
            f"the outputs moved by {now.moved:.3g} times their spread over the samples: as it is the network says "
            "nothing any more; tune it, or cut less"
        )
    if now.plain:
        search.notes.append(f"the module of the result is no {type(own.module).__name__} but a plain one: {now.plain}")
    graph = now.own.graph
    refused = search.found.of_refused(own, (*search.refused, *left(search)))
    refused += search.found.rest(search.edits, refused)
    result = SlimResult(
        graph.replace(meta={**own.graph.meta, "slimmed": f"from {own.graph.name}"}),
        figure,
        after,
        tuple(search.edits),
        tuple(refused),
        search.asked.seed,
        tuple(dict.fromkeys((*notes, *search.shortener.notes, *search.loop.notes, *search.notes))),
        control=about,
        findings=search.found.diagnosis.findings,
        answers=search.found.outcomes(search.edits, refused),
        candidates=tuple(search.candidates),
    )
    samples = sum(map(size, own.batches))
    module = now.own.module
    runtime = search.asked.runtime if own.runnable else "torch"
    return Slimming(
        own.graph.name,
        result,
        search.found.diagnosis,
        (count(own.graph), count(graph)),
        {"name": "samples", "task": "unlabelled", "train_samples": samples, "test_samples": 0},
        "none" if search.loop.evaluate is None else "evaluate",
        runtime,
        version_of(runtime),
        search.asked.batch_size,
        TIMED,
        time.monotonic() - started,
        module=module,
        about=search.about(),
    )


def left(search: OwnSearch) -> list[Refused]:
    """The layers that could not become narrower, and why."""
    tied = search.shortener.without_fixed(search.shortener.last or channels(search.own.graph))
    reasons: dict[str, list[str]] = {}
    graph = tied.graph
    for node in graph.nodes:
        track = tied.tracks[node.name]
        if node.rule.channels not in ("conv", "dense") or track is None:
            continue
        why = {tied.frozen.get(label) for label in track.classes}
        if None not in why:
            reasons.setdefault(str(next(iter(why))), []).append(node.name)
    return [Refused(CHANNELS, tuple(names), why) for why, names in reasons.items()]

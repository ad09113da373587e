"""Slimming somebody's module by their own loop and measure, or, without them, by one cut that moves outputs least."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.networks import is_module, load, names_code, torch_format
from dojang.app.own_loop import ABOUT, OwnLoop
from dojang.app.own_result import slimming_of
from dojang.app.own_search import OwnRequest, OwnSearch
from dojang.app.own_timing import OwnTimes
from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.runtimes import whole_vectors
from dojang.app.shortening import LEAST, Own, Shortener, entering, first, kept_layers, read, wanted
from dojang.app.side_by_side import SideBySide
from dojang.app.together import Lead
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import DataError, DojangError, UnsupportedError, UsageError
from dojang.base.writing import remove_tree
from dojang.report.results import Slimming
from dojang.slimming.budget import TimeBudget
from dojang.slimming.journal import Journal

SAME = 1e-3
"""Answers to samples as they are and to the same numbers in float32 may differ by this part of the largest."""

SAMPLES = 1024
"""Samples that are kept of whatever holds some; fewer are watched where the network is large."""


def slim_own(
    net: Any,
    samples: Any,
    asked: OwnRequest,
    tune: Callable[..., Any] | None,
    evaluate: Callable[[Any], Any] | None,
    folder: Path | None = None,
    progress: ProgressDisplay | None = None,
    notes: Sequence[str] = (),
    lead: Lead | None = None,
    beside: SideBySide | None = None,
) -> Slimming:
    """The module with fewer channels: of the same class wherever its code allows it.

    Each step cuts by what moves the outputs least on the samples, whole residual blocks and channels, in several ways.
    Candidates are tuned by successive halving where `tune(module, share=...)` can do a part of its work; else they are
    measured as they were repaired, and the best two of different structure are tuned. With `lead` and `beside` several
    processes tune them side by side. The one that `evaluate` prefers is taken. What a cut loses is the difference to
    the control, the original tuned alike. Without `tune` nothing is tuned; without `evaluate` candidates are judged by
    how far their outputs moved.

    Raises `UsageError`, `DataError` for what `own_loop` and `training.feeding` refuse, `UnsupportedError` for a module
    that cannot be followed.
    """
    from dojang.training.modes import evaluating, set_modes_like

    started = time.monotonic()
    told = progress or Silent()
    own, more = owned(net, samples, asked.seed, told)
    kept_layers(own.graph, asked.keep)
    if asked.allowed is not None and evaluate is None and asked.max_drop is not None:
        labels = "; the labels beside the samples are not of a form that is scored here" if own.rest else ""
        raise UsageError(
            f"max_drop needs `evaluate`, a function that says how good a module is; pass one, or a target{labels}"
        )
    if evaluate is None and (asked.target_macs, asked.target_time, asked.target_ms) == (None, None, None):
        raise UsageError("without `evaluate` say how far to cut: target_macs, target_time or target_ms")
    kept = folder or Path(tempfile.mkdtemp(prefix="dojang-slim-"))  # stays where something goes wrong
    journal = Journal(kept, ABOUT, resume=True)
    loop = OwnLoop(own.module, tune, evaluate, journal, told)
    if lead is not None and beside is not None and tune is not None:
        loop.several = lambda modules, share: beside.many(lead, loop.tune_once, modules, share)
    shortener = Shortener(asked.keep, whole_vectors(), told, asked.seed)
    run = OwnSearch(own, asked, loop, told, shortener, OwnTimes(own, asked.runtime, asked.batch_size, journal))
    if asked.minutes is not None:
        run.budget = TimeBudget(60 * asked.minutes, journal.clocked(lambda: time.monotonic() - started))
    with evaluating(own.module):
        run.search()
        done = slimming_of(run, started, (*notes, *more))
    set_modes_like(done.module, own.module)
    if folder is None:
        remove_tree(journal.folder)
    return done


def owned(net: Any, samples: Any, seed: int, told: ProgressDisplay) -> tuple[Own, list[str]]:
    """The module that is meant, with its graph, and samples as it takes them."""
    from dojang.training.feeding import feed, samples_in
    from dojang.training.modes import evaluating

    torch_format()
    plain = False
    if is_module(net):
        module = net
    elif names_code(net):
        module = torch_format().load_callable(net)
    else:
        module, plain = torch_format().to_module(load(net)).eval(), True
    told.stage("reading the samples")
    graphs: list[Graph] = []

    def enough(batch: Any) -> int:
        graphs.append(_followed(module, batch))
        return wanted(graphs[0])

    with evaluating(module):
        fed = feed(samples, module, SAMPLES, seed=seed, enough=enough)
    graph = graphs[0]
    notes = [*([fed.said] if fed.said else []), *in_floats(module, graph, fed.batches[0])]
    if fed.samples < LEAST:
        notes.append(
            f"{fed.samples} sample{'s are' if fed.samples > 1 else ' is'} few to cut by: give {LEAST} at least, and "
            "better some hundred"
        )
    total = samples_in(samples)
    if total is not None and fed.samples < total:
        macs = count(graph).total.macs
        notes.append(
            f"{fed.samples} of the {total} samples were looked at: at {macs / 1e9:.3g} GMACs a sample more take time "
            "and would hardly change the means and covariances that cuts go by"
        )
    return Own(module, graph, fed.batches, plain, fed.rest is not None), notes


def in_floats(module: Any, graph: Graph, batch: Any) -> list[str]:
    """A note where samples are whole numbers and the network, which was followed on real ones, takes float32.

    Raises `UnsupportedError` where the module does something else with the same numbers in float32: what was followed
    is then not what it computes.
    """
    from dojang.training.modes import evaluating
    from dojang.training.observed import answers, moved

    given = first(batch, 2)
    kinds = {str(t.dtype).removeprefix("torch.") for t, node in zip(entering(given), graph.inputs, strict=False)
             if node.attrs["dtype"] == "float32" and not t.is_floating_point()}  # fmt: skip
    if not kinds:
        return []
    kind = " and ".join(sorted(kinds))
    with evaluating(module):
        wanted = answers(module, [given])
        try:
            got = answers(module, [moved(given, lambda t: t if t.is_floating_point() else t.float())])
        except DataError:
            return []  # numbers of classes or of words, which an embedding looks up
    apart = [
        float(np.abs(b - a).max(initial=0)) / (float(np.abs(a).max(initial=0)) or 1.0)
        for a, b in zip(wanted, got, strict=True)
    ]
    if max(apart, default=0.0) > SAME:
        name = type(module).__name__
        raise UnsupportedError(
            f"{name} does something else with {kind} than with the same numbers in float32, in which it is followed; "
            "give the samples as the floats that its code makes of them"
        )
    return [f"samples are {kind}; files that are written take the same numbers in float32"]


def _followed(module: Any, batch: Any) -> Graph:
    """The graph of a module. Raises `UnsupportedError` for one that cannot be followed."""
    try:
        return read(module, batch).alone()
    except DojangError as error:
        raise UnsupportedError(
            f"{type(module).__name__} cannot be followed, so none of its channels can go: {error}"
        ) from None

"""A cut chosen by hand, made and tuned as `dojang slim` makes and tunes what its search chooses.

Said as `layer1.0,layer1.1;layer3.0.conv1=32`: residual branches that go whole, by the layers that they begin with, and
after a semicolon layers that keep so many of their channels, the most useful ones by activations, least squares giving
what the others carried to those that stay.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dojang.app.diagnosing import SAMPLES, some_inputs
from dojang.app.samples import load_samples
from dojang.app.slimming import EPOCHS, SlimRequest, accuracy, chosen, control, fewer
from dojang.app.tuning import Control, TuningOptions, tuner
from dojang.arith.graph import Graph
from dojang.base.errors import UsageError
from dojang.evidence.evidence import Evidence
from dojang.formats import checkpoint
from dojang.slimming.branches import branches, without
from dojang.slimming.importance import importance, read_statistics
from dojang.slimming.journal import Journal, key_of
from dojang.slimming.narrow import least_useful, remove
from dojang.training.data import Data


def cut(graph: Graph, said: str, samples: Any) -> Graph:
    """The network with these branches gone and these layers narrower. Raises `UsageError` for what is not there."""
    names, _, narrower = said.partition(";")
    wanted = [name for name in names.split(",") if name]
    gone = [b for b in branches(graph) if any(b.layers[0].startswith(f"{name}.") for name in wanted)]
    if len(gone) != len(wanted):
        raise UsageError(f"{said}: of the branches {', '.join(wanted)} there are {len(gone)}")
    graph = without(graph, gone)
    for part in filter(None, narrower.split(",")):
        layer, _, number = part.partition("=")
        known = Evidence(graph, samples)
        tied = known.channels
        bundle = next((b for b in tied.bundles if tied.layers(b) == (layer,)), ())
        if not 0 < int(number) < len(bundle):
            raise UsageError(f"{part}: {layer} has {len(bundle)} channels of its own")
        stats = read_statistics(known)
        score = importance(graph, tied, "activation", stats)
        graph = remove(graph, tied, least_useful(tied, bundle, score, len(bundle) - int(number)), stats)
    return graph


def made(graph: Graph, said: str, place: Path, args: Any, told: Any) -> dict[str, Any]:
    """The record of one cut: read where it is finished, else made or gone on with; its control is shared by all."""
    done = place / "run.json"
    if done.exists():
        results = json.loads(done.read_text(encoding="utf-8"))["results"]
        if results["cut"] != said:
            raise UsageError(
                f"{place} holds the cut {results['cut']}, not {said}; give the cuts in that order, or --out"
            )
        return results
    data = load_samples(args.train, graph, args.test)
    if args.train_samples is not None:
        data = replace(data, train=fewer(data.train, args.train_samples, args.seed))
    choice = chosen(data, args.seed)
    narrow = cut(graph, said, some_inputs(choice, SAMPLES, args.seed))
    about = {"data": data.hash, "epochs": args.epochs, "final": args.final_epochs, "precision": args.precision,
             "seed": args.seed}  # fmt: skip

    def options(folder: Path, **more: Any) -> TuningOptions:
        return TuningOptions(args.seed, "cpu", args.precision, told, Journal(folder, {**about, **more}, resume=True))

    def score(network: Graph) -> float:
        return accuracy(network, data.test)

    def on_choice(network: Graph) -> float:
        return accuracy(network, choice.test)

    own = options(place / "unfinished", network=key_of("", [narrow]))
    assert own.journal is not None
    told.stage("fine-tuning after the cut")
    tune = own.journal.tuned_in_parts(tuner(choice, args.epochs, own))
    tuned, last = tune(narrow, graph, 1.0), args.final_epochs / args.epochs
    first = on_choice(tuned)
    beside = control_of(graph, choice, args, options(args.out / "control"))
    taught = beside.tuned((1.0, last))
    better = on_choice(taught) >= on_choice(graph)
    told.stage(f"the last fine-tuning, taught by the {'control' if better else 'original'}")
    final = tune(tuned, taught if better else graph, last)
    results = {
        "cut": said,
        "after_first": first,
        "after": {"accuracy": score(final), "selection": on_choice(final)},
        "control": {"accuracy": score(taught), "selection": on_choice(taught), "teacher": "original"},
        "teacher": "control" if better else "original",
        "notes": [f"cut by hand: {said}"],
    }
    checkpoint.save(replace(final, name=place.name), place / "model.safetensors", force=True)
    done.write_text(json.dumps({"results": results}, indent=1), encoding="utf-8")
    own.journal.remove()
    return results


def control_of(graph: Graph, choice: Data, args: Any, options: TuningOptions) -> Control:
    """The original tuned once, and a last time, as every cut is."""
    asked = SlimRequest(
        False, args.max_drop, None, None, None, args.epochs or EPOCHS, args.final_epochs, args.train_samples,
        "dojang", args.batch, args.seed, args.precision, "activation",
    )  # fmt: skip
    return control(graph, choice, asked, options)

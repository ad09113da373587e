"""Random structures: removals equal the network that ignores the channels, and exact rewrites change nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.slimming.rewrite import cast, numbers_stored, relative_difference
from dojang.slimming.search import EXACT
from nets import feed, random_network, weighted


def from_file(name: str, *path: str):
    """A helper of another test file."""
    spec = importlib.util.spec_from_file_location(
        path[-1], Path(__file__).parents[1].joinpath(*path).with_suffix(".py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


ignoring = from_file("ignoring", "arith", "test_channels")
plant = from_file("plant", "slimming", "test_exact")


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), part=st.floats(0, 1))
def test_any_removal_equals_the_network_that_ignores_the_channels(seed, part):
    graph = weighted(random_network(seed), seed)
    tied = channels(graph)
    rng = np.random.default_rng(seed)
    gone = tied.fit([c for c in tied.removable if rng.random() < part])
    narrow = cut(graph, gone, tied)
    x = feed(graph, 2, seed)
    wanted = run_reference(ignoring(graph, tied, set(gone)), x, np.float64).outputs[0]
    np.testing.assert_allclose(run_reference(narrow, x, np.float64).outputs[0], wanted, rtol=1e-9, atol=1e-11)
    assert count(narrow).total.macs <= count(graph).total.macs


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), part=st.sampled_from([0, 0.3, 0.6]))
def test_exact_rewrites_in_turn_change_no_output(seed, part):
    graph = cast(plant(weighted(random_network(seed), seed), seed, part), np.float64)
    new = graph
    for rewrite in EXACT:
        done = rewrite.apply(Evidence(new))
        if done is None:
            continue
        assert numbers_stored(done.graph) <= numbers_stored(new), rewrite.name
        assert count(done.graph).total.macs <= count(new).total.macs, rewrite.name
        assert rewrite.apply(Evidence(done.graph)) is None, rewrite.name
        new = done.graph
    assert relative_difference(graph, new, feed(graph, 2, seed)) < 1e-6


def test_random_networks_are_varied():
    ops = {node.op for seed in range(40) for node in random_network(seed).nodes}
    assert ops >= {"conv", "batchnorm", "concat", "add", "mul", "slice", "gather", "pad", "maxpool", "dense"}
    grouped = [n for seed in range(40) for n in random_network(seed).nodes if n.op == "conv" and n.attrs["groups"] > 1]
    assert grouped

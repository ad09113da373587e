"""Thousands of random layers against a loop nest, PyTorch's shapes and other counters; their errors have names."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")
for peer in ("torchinfo", "fvcore", "ptflops"):
    pytest.importorskip(peer)

from differential import DEFECTS, PEERS, compare, draw, layer_of, silent  # noqa: E402 - after the skips
from dojang.arith.conv import Conv  # noqa: E402


def test_random_layers() -> None:
    outcome = compare(layers=2000, seed=7, peers=60)
    assert outcome.failures == ()
    # every named defect is real: it changed a number that the peer printed
    assert set(outcome.seen) == {(d.peer, d.what) for d in DEFECTS}


def test_the_layers_drawn_are_of_every_kind() -> None:
    rng = random.Random(3)
    layers = [draw(rng) for _ in range(600)]
    kinds = [
        lambda c: c.transposed and c.groups > 1,
        lambda c: c.transposed and any(c.output_padding) and max(c.dilation) > 1,
        lambda c: c.depthwise,
        lambda c: c.pointwise,
        lambda c: any(a != b for a, b in c.padding),
        lambda c: len(set(c.stride)) > 1,
        lambda c: min(c.out_size) == 1,
        lambda c: c.n > 1,
        *(lambda c, r=r: c.rank == r for r in (1, 2, 3)),
    ]
    for kind in kinds:
        assert sum(map(kind, layers)) > 10


def test_the_transposed_layer_that_tools_disagree_on() -> None:
    """ConvTranspose 64→32, kernel 2, stride 2 on 16²: each input pixel meets each weight once."""
    conv = Conv.of(64, 32, (16, 16), 2, stride=2, transposed=True, bias=False)
    with silent():
        printed = {name: peer(*layer_of(conv)) for name, peer in PEERS.items()}
    assert conv.macs == 2_097_152
    assert printed == {
        "torchinfo": 4 * 2_097_152,
        "fvcore": 2_097_152,
        "ptflops": 2_097_152,
        "ptflops-aten": 2_097_152,
        "FlopCounterMode": 2 * 2_097_152,
    }

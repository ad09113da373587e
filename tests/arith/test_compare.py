"""Layers of two networks aligned: what stayed, was renamed, narrowed, put in, taken out."""

from __future__ import annotations

from dojang.arith.compare import compare
from dojang.arith.cost import count
from dojang.formats import zoo
from dojang.formats.text import parse

A = """input 3x16x16
conv1: conv 8 3x3 pad=1
relu1: relu
conv2: conv 16 3x3 pad=1
relu2: relu
pool: global_avgpool
flatten
fc: dense 10"""


def changes(a, b):
    result = compare(count(parse(a)), count(parse(b)))
    rows = {(p.a.name if p.a else None, p.b.name if p.b else None): p.change for p in result.pairs}
    return result, rows


def test_a_network_is_the_same_as_itself():
    result, rows = changes(A, A)
    assert set(rows.values()) == {"same"}
    assert result.to_dict()["ratio"] == {"params": 1, "macs": 1, "peak_bytes": 1}


def test_renamed_narrowed_inserted_removed():
    b = A.replace("conv1: conv 8", "stem: conv 8").replace("conv 16", "conv 12")
    b = b.replace("relu2: relu\n", "relu2: relu\nextra: conv 12 1x1\n")
    result, rows = changes(A, b)
    assert rows["conv1", "stem"] == "renamed"
    assert rows["conv2", "conv2"] == "narrowed"
    assert rows[None, "extra"] == "inserted"
    assert rows["fc", "fc"] == "changed"
    _, back = changes(b, A)
    assert back["extra", None] == "removed"
    assert back["conv2", "conv2"] == "widened"
    total = result.to_dict()["totals"]
    assert total["a"]["params"] == 8 * 27 + 8 + 16 * 72 + 16 + 170


def test_every_layer_of_both_appears_once_and_in_order():
    a, b = (count(zoo.load(name, weights=False)) for name in ("resnet18", "resnet50"))
    result = compare(a, b)
    assert tuple(p.a for p in result.pairs if p.a) == a.layers
    assert tuple(p.b for p in result.pairs if p.b) == b.layers


def test_filter_groups_change_two_layers_only():
    a, b = (count(zoo.load(name, weights=False)) for name in ("nin-cifar10", "nin-cifar10-root4"))
    changed = [p.a.name for p in compare(a, b).pairs if p.a and p.change != "same"]
    assert changed == ["2a.conv", "3a.conv"]

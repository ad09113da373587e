"""Layers of two networks aligned: what stayed, was renamed, narrowed, put in, taken out."""

from __future__ import annotations

from itertools import combinations
from random import Random

from dojang.arith.compare import _alike, _Sides, compare
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


def renumbered(text: str, first: int) -> str:
    """The same network as an exporter names it: the operator and a number that counts from elsewhere."""
    lines, names = [], {}
    for place, line in enumerate(text.splitlines()):
        name, colon, rest = line.partition(":")
        if colon:
            body, arrow, sources = rest.partition("<-")
            names[name] = f"{body.split()[0]}_{first + place}"
            read = ", ".join(names.get(part.strip(), part.strip()) for part in sources.split(","))
            line = f"{names[name]}:{body}{arrow} {read}"
        lines.append(line)
    return "\n".join(lines)


def test_equal_layers_of_differently_named_networks_are_aligned():
    """Exported files number their layers; an inserted layer moves all numbers, so that equal names mislead."""
    lines = ["input 8x16x16"]
    for place in range(12):
        lines += [f"c{place}: conv 8 {1 + 2 * (place % 3)}x{1 + 2 * (place % 3)} pad=same", f"r{place}: relu"]
    a = "\n".join(lines)
    b = "\n".join([*lines[:7], "extra: conv 8 7x7 pad=same", "more: relu", *lines[7:]])
    result = compare(count(parse(renumbered(a, 0))), count(parse(renumbered(b, 0))))
    tally = [pair.change for pair in result.pairs]
    assert tally.count("inserted") == 2
    assert tally.count("same") + tally.count("renamed") == len(result.a.layers)
    odd = next(pair for pair in result.pairs if pair.change == "inserted" and pair.b.op == "conv")
    assert odd.b.cost.weights == 8 * 8 * 49


def test_no_other_alignment_of_small_networks_is_better():
    """All alignments of two short networks, by brute force: none has a higher sum of what speaks for its pairs."""
    for seed in range(12):
        draw = Random(seed)
        layers = [[f"conv {draw.choice([4, 8])} {draw.choice([1, 3])}x1 pad=same" for _ in range(draw.randint(2, 5))]
                  for _ in "ab"]  # fmt: skip
        a, b = (count(parse("\n".join(["input 4x8x8", *side]))) for side in layers)
        ours, theirs = [_Sides.of(x) for x in a.layers], [_Sides.of(x) for x in b.layers]
        most = max(
            sum(_alike(ours[i], theirs[j]) for i, j in zip(left, right, strict=True))
            for size in range(1, min(len(ours), len(theirs)) + 1)
            for left in combinations(range(len(ours)), size)
            for right in combinations(range(len(theirs)), size)
            if all(ours[i].op == theirs[j].op for i, j in zip(left, right, strict=True))
        )
        pairs = [(p.a, p.b) for p in compare(a, b).pairs if p.a and p.b]
        assert sum(_alike(_Sides.of(x), _Sides.of(y)) for x, y in pairs) == most


def test_blocks_of_other_widths_stay_beside_each_other():
    result = compare(*(count(zoo.load(name, weights=False)) for name in ("resnet50", "resnext50-32x4d")))
    assert {pair.change for pair in result.pairs} <= {"same", "widened", "changed"}
    assert all(pair.a.name == pair.b.name for pair in result.pairs)

"""Unfolded figures: whatever is printed before "=" is calculated here, by Python, and gives what stands after it.

Sizes are held against PyTorch, figures against the cost table.
"""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import pytest

from dojang.app import verbs
from dojang.arith.cost import count
from dojang.arith.explain import Explanation, Figure, explain
from dojang.arith.graph import Graph, Node
from dojang.arith.window import out_size
from dojang.base.errors import DojangError, GraphError, ShapeError
from dojang.formats import zoo
from dojang.report.text_arith import explain_text
from nets import STRUCTURES

N = Node.of
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow}
ARITHMETIC = re.compile(r"[\d\s.·,()+/⌊⌋⌈⌉^-]+")


def evaluate(text: str, values: Mapping[str, int] | None = None) -> Fraction:
    """Printed arithmetic, calculated exactly; `values` in place of symbols. Raises on anything else."""
    text = text if values and "max(" in text else re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    for sign, plain in {"·": "*", "^": "**", "⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")"}.items():
        text = text.replace(sign, plain)

    def of(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int()):
                return Fraction(node.value)
            case ast.Constant(value=float()):
                return Fraction(ast.get_source_segment(text, node) or "")
            case ast.Name():
                return Fraction((values or {})[node.id])
            case ast.UnaryOp(op=ast.USub()):
                return -of(node.operand)
            case ast.BinOp(op=ast.Div()):
                return of(node.left) / of(node.right)
            case ast.BinOp():
                return Fraction(OPERATORS[type(node.op)](of(node.left), of(node.right)))
            case ast.Call(func=ast.Name(id="floor" | "ceil" | "max" as name)):
                return Fraction({"floor": math.floor, "ceil": math.ceil, "max": max}[name](*map(of, node.args)))
            case _:
                raise ValueError(f"{text!r} is no arithmetic")

    return of(ast.parse(text.strip(), mode="eval").body)


def test_the_evaluator() -> None:
    assert evaluate("⌊(227 + 0 - 1·(11 - 1) - 1) / 4⌋ + 1") == 55
    assert evaluate("34 - (-16) + 1") == 51
    assert evaluate("2·H^2 - ⌈(H + 1) / 2⌉·max(W, 3)", {"H": 4, "W": 5}) == 32 - 15
    assert evaluate("1,024,000 / 2") == 512_000
    with pytest.raises(ValueError, match="no arithmetic"):
        evaluate("oc or 0")


def equations(steps: tuple[Figure, ...]) -> Iterator[tuple[str, list[str], str]]:
    """(figure, what stands between, result) of every line with a "=" in it, as it is printed."""
    for line in explain_text(Explanation("layer", steps), width=10_000).splitlines()[1:]:
        figure, *between = line.strip().split(" = ")
        assert bool(between) == ("=" in line), line
        if between:
            yield figure, between[:-1], between[-1]


def hold(graph: Graph, name: str, values: Mapping[str, int] | None = None) -> dict[str, str]:
    """Every equation of a layer holds; gives results by figure."""
    steps = explain(graph, name)
    for step in steps:
        if step.numbers:
            assert evaluate(step.numbers, values) == evaluate(str(step.result), values), (name, step)
    found = dict[str, str]()
    for figure, sides, result in equations(steps):
        found[figure] = result
        wanted = evaluate(result, values)
        for side in sides[-1:] if len(sides) > 1 else (s for s in sides if ARITHMETIC.fullmatch(s)):
            assert evaluate(side, values) == wanted, (name, figure, side, result)
        for side in sides:
            assert not re.search(r"- -|, or |\+ -", side), (name, figure, side)
    return found


def agrees(graph: Graph, name: str) -> dict[str, str]:
    """Equations hold and give what the cost table has."""
    found = hold(graph, name)
    row = next(layer for layer in count(graph).layers if layer.name == name)
    inside = next(layer for layer in count(graph, exact_padding=True).layers if layer.name == name)
    steps = {step.figure: step.result for step in explain(graph, name)}
    if row.cost.macs:
        assert steps["MACs"] == row.cost.macs
    if "MACs on pixels only" in steps:
        assert steps["MACs on pixels only"] == inside.cost.macs
    if row.op in ("conv", "conv_transpose", "dense") and row.cost.weights:
        assert (steps["weights"], steps["biases"]) == (row.cost.weights, row.cost.biases)
    assert steps["output bytes"] == row.cost.out_bytes
    assert row.shape is not None
    for axis, size in enumerate(row.shape[2:]):
        assert steps.get(f"output, axis {axis}", size) == size
        if row.field is not None and f"receptive field, axis {axis}" in steps:
            assert steps[f"receptive field, axis {axis}"] == row.field[axis].size
    return found


ZOO = [
    n for n in zoo.names() if "root" not in n and n not in ("resnet32-cifar10", "resnet44-cifar10", "resnet56-cifar10")
]


@pytest.mark.parametrize("name", ZOO)
def test_every_equation_of_the_zoo_holds(name: str) -> None:
    graph = zoo.load(name, weights=False)
    seen, lines = set[Any](), 0
    shapes = graph.unit_shapes
    for node in graph.nodes:
        key = (
            node.op,
            tuple(sorted((k, str(v)) for k, v in node.attrs.items())),
            shapes[node.inputs[0]] if node.inputs else (),
        )
        if key not in seen and len(seen) < 40:
            seen.add(key)
            lines += len(agrees(graph, node.name))
    assert lines > 40


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_equation_of_every_structure_holds(name: str) -> None:
    graph = STRUCTURES[name]()
    for node in graph.nodes:
        agrees(graph, node.name)


def drawn(rng: random.Random, rank: int) -> tuple[Node, Any, tuple[int, ...]]:
    """A random layer of one of the kinds that have sizes of their own, PyTorch's layer, and the input (c, ...)."""
    from torch import nn

    def axes(*options: int) -> tuple[int, ...]:
        return tuple(rng.choice(options) for _ in range(rank))

    size = tuple(rng.randint(1, 40) for _ in range(rank))
    k, s, d = axes(1, 2, 3, 3, 5), axes(1, 1, 2, 3, 4), axes(1, 1, 1, 2, 3)
    c = rng.choice((2, 4, 6, 12))
    Conv, Trans, Max, Avg = (
        (getattr(nn, f"{kind}{rank}d")) for kind in ("Conv", "ConvTranspose", "MaxPool", "AvgPool")
    )
    groups, out, bias = rng.choice((1, 1, 2, c)), c * rng.choice((1, 2)), rng.random() < 0.5
    match rng.randrange(6):
        case 0 | 1:
            p = axes(0, 0, 1, 2, 3)
            node = N("y", "conv", "x", out=out, kernel=k, stride=s, padding=tuple((q, q) for q in p), dilation=d,
                     groups=groups, bias=bias)  # fmt: skip
            return node, Conv(c, out, k, s, p, d, groups, bias), (c, *size)
        case 2:
            p = axes(0, 1, 2)
            extra = tuple(rng.randrange(max(a, b)) for a, b in zip(s, d, strict=True))
            node = N("y", "conv_transpose", "x", out=out, kernel=k, stride=s, padding=tuple((q, q) for q in p),
                     dilation=d, groups=groups, bias=bias, output_padding=extra)  # fmt: skip
            return node, Trans(c, out, k, s, p, extra, groups, bias, d), (c, *size)
        case 3 | 4:
            p, ceil = tuple(rng.randint(0, q // 2) for q in k), rng.random() < 0.6
            node = N("y", "maxpool", "x", kernel=k, stride=s, padding=tuple((q, q) for q in p), dilation=d, ceil=ceil)
            return node, Max(k, s, p, d, ceil_mode=ceil), (c, *size)
        case _:
            p, ceil = tuple(rng.randint(0, q // 2) for q in k), rng.random() < 0.6
            node = N("y", "avgpool", "x", kernel=k, stride=s, padding=tuple((q, q) for q in p), ceil=ceil)
            return node, Avg(k, s, p, ceil_mode=ceil), (c, *size)


def test_random_layers_hold_and_give_pytorchs_sizes() -> None:
    torch = pytest.importorskip("torch")
    tried = 0
    for seed in range(900):
        rng = random.Random(seed)
        node, peer, shape = drawn(rng, rng.choice((1, 2, 2, 3)))
        try:
            with torch.device("meta"):
                wanted = tuple(peer.to("meta")(torch.empty(1, *shape)).shape)
        except RuntimeError:  # no place fits
            continue
        if min(wanted) < 1:  # PyTorch makes an empty output of a transposed convolution
            continue
        graph = Graph((N("x", "input", shape=shape), node), ("y",))
        note = f"drawn(random.Random({seed}))"
        try:
            agrees(graph, "y")
        except AssertionError:
            print(f"{note}: {node}")
            raise
        steps = {step.figure: step.result for step in explain(graph, "y")}
        assert tuple(steps[f"output, axis {a}"] for a in range(len(wanted) - 2)) == wanted[2:], (note, node)
        if "weights" in steps:
            assert steps["weights"] == peer.weight.numel()
            assert steps["biases"] == (0 if peer.bias is None else peer.bias.numel())
        tried += 1
    assert tried > 600


def test_padding_per_side_and_same() -> None:
    """What PyTorch cannot say: padding before and behind apart, "same", windows that start on the padding."""
    rng, tried = random.Random(5), 0
    for _ in range(500):
        size, kernel, stride = rng.randint(1, 30), rng.randint(1, 5), rng.randint(1, 5)
        before, after, dilation, ceil = rng.randint(0, 4), rng.randint(0, 9), rng.randint(1, 3), rng.random() < 0.6
        reach = (kernel - 1) * dilation + 1
        starts = [o * stride for o in range(60) if o * stride + reach <= size + before + after]
        if ceil and size + before + after >= reach:  # one more, if it hangs over the end and starts on the image
            if starts[-1] + reach < size + before + after:
                starts.append(starts[-1] + stride)
            if starts[-1] >= size + before:
                starts.pop()
        if not starts:
            continue
        assert out_size(size, kernel, stride, before, after, dilation, ceil) == len(starts)
        node = N("y", "maxpool", "x", kernel=(kernel,), stride=(stride,), padding=((before, after),),
                 dilation=(dilation,), ceil=ceil)  # fmt: skip
        graph = Graph((N("x", "input", shape=(2, size)), node), ("y",))
        agrees(graph, "y")
        assert {s.figure: s.result for s in explain(graph, "y")}["output, axis 0"] == len(starts)
        tried += 1
    assert tried > 300
    same = N("y", "conv", "x", out=2, kernel=(4,), stride=(3,), padding="same")
    assert agrees(Graph((N("x", "input", shape=(2, 11)), same), ("y",)), "y")["output, axis 0"] == "4"


OTHERS = [
    (N("y", "resize", "x", scale=(0.29, 2.5)), (3, 100, 7)),
    (N("y", "resize", "x", scale=(0.29, 0.7), arithmetic="torch"), (3, 100, 10)),
    (N("y", "resize", "x", size=(5, 9), mode="linear"), (3, 8, 8)),
    (N("y", "adaptive_avgpool", "x", out=(3, 5)), (3, 10, 11)), (N("y", "global_maxpool", "x"), (3, 10, 11)),
    (N("y", "batchnorm", "x"), (7, 5, 5)), (N("y", "groupnorm", "x", groups=2), (6, 5, 5)),
    (N("y", "layernorm", "x", shape=(5, 4)), (6, 5, 4)), (N("y", "prelu", "x", num=6), (6, 5, 4)),
    (N("y", "dense", "x", out=9, bias=False), (6, 5, 4)), (N("y", "dense", "x", out=9), (40,)),
    (N("y", "concat", "x", "x", "x", axis=2), (6, 5, 4)),
    (N("y", "einsum", "x", "x", equation="nchw,nkhw->nck"), (6, 5, 4)),
    (N("y", "einsum", "x", equation="nchw->nc"), (6, 5, 4)), (N("y", "matmul", "x", "x"), (6, 4, 4)),
    (N("y", "dynamic_conv", "x", "w", kernel=(3, 3), padding=1), (4, 9, 9)),
    (N("y", "deform_conv", "x", "o", out=8, kernel=(3, 3), padding=1), (4, 9, 9)),
    (N("y", "pad", "x", pads=((1, 2), (3, 0)), mode="reflect"), (3, 6, 6)), (N("y", "flatten", "x"), (3, 6, 6)),
    (N("y", "softmax", "x"), (3, 6, 6)), (N("y", "slice", "x", axis=2, start=5, stop=0, step=-2), (3, 6, 6)),
]  # fmt: skip


@pytest.mark.parametrize(("node", "shape"), OTHERS, ids=[n.op for n, _ in OTHERS])
def test_other_operators(node: Node, shape: tuple[int, ...]) -> None:
    more = [N("w", "constant", shape=(6, 2, 3, 3)), N("o", "conv", "x", out=18, kernel=(3, 3), padding=1)]
    graph = Graph((N("x", "input", shape=shape), *(m for m in more if m.name in node.inputs), node), ("y",))
    agrees(graph, "y")


SYMBOLIC = """input 3x{h}x{w}
a: conv 8 7x7/2 pad=3 bias=no
b: maxpool 3x3 stride=2 pad=1 ceil=yes
c: maxpool 2x2 stride=3 pad=1 ceil=yes
d: maxpool 3x3 stride=1 dilation=2
e: conv_transpose 4 3x3 stride=2
f: resize scale=0.5
g: conv 6 3x3 groups=2 pad=1
y: global_avgpool
"""


def test_equations_with_symbols_hold_for_numbers(tmp_path: Any) -> None:
    """Every printed formula, numbers put in, gives what the same network with numbers has: also in ceil mode, where
    what is left over of a division decides."""
    path = tmp_path / "s.net"
    path.write_text(SYMBOLIC.format(h=224, w=200))
    for h, w in ((224, 200), (225, 203), (97, 131), (160, 161), (300, 98)):
        path.write_text(SYMBOLIC.format(h=h, w=w))
        for layer in "abcdefgy":
            symbols = verbs.explain(path, layer, input_size=(3, "H", "W"))
            numbers = {s.figure: s.result for s in verbs.explain(path, layer).steps}
            for step in symbols.steps:
                if not step.numbers:
                    continue
                value = evaluate(str(step.result), {"H": h, "W": w})
                assert evaluate(step.numbers, {"H": h, "W": w}) == value, (layer, step)
                assert value == numbers[step.figure], (layer, step, h, w)


def test_alexnet_conv2() -> None:
    steps = {step.figure: step for step in explain(zoo.load("alexnet", weights=False), "conv2")}
    assert steps["weights"].numbers == "5·5·96·256 / 2"
    assert steps["weights"].result == 307_200
    assert steps["MACs"].numbers == "27·27·307,200"
    assert steps["MACs"].result == 223_948_800
    assert steps["output, axis 0"].numbers == "⌊(27 + 4 - 1·(5 - 1) - 1) / 1⌋ + 1"
    assert str(steps["biases"]) == "biases = oc = 256"
    assert steps["MACs"].to_dict() == {"figure": "MACs", "formula": "oh·ow·weights", "numbers": "27·27·307,200",
                                       "result": 223_948_800, "words": ""}  # fmt: skip


def test_errors() -> None:
    with pytest.raises(GraphError, match="no node 'conv9'"):
        explain(zoo.load("alexnet", weights=False), "conv9")
    nodes = (
        N("x", "input", shape=(3, 8, 8)),
        N("u", "unknown", "x", kind="Foo"),
        N("c", "conv", "u", out=1, kernel=(1, 1)),
    )
    with pytest.raises(ShapeError, match="not known"):
        explain(Graph(nodes, ("c",)), "c")
    assert issubclass(ShapeError, DojangError)

"""Receptive fields against what really depends on what: one pixel changed, the outputs that change noted."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.field import RULES, fields, track
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.arith.span import PIXEL, Span
from dojang.base.errors import DojangError
from dojang.engine.reference.operators import run_reference

Dependencies = dict[str, np.ndarray]


def test_an_input_without_a_batch_axis_has_its_image_behind_two_axes() -> None:
    """The convolution takes the first axis for the batch, the second for its channels: all of these are read."""
    nodes = (
        Node.of("x", "input", shape=(1, 4, 11), batch_axis=-1),
        Node.of("c", "conv", "x", out=2, kernel=(3,), stride=2),
    )
    graph = Graph(nodes, ("c",))
    rng = np.random.default_rng(5)
    weights = {k: rng.uniform(0.5, 1.5, s) for k, s in graph.param_shapes.items()}
    graph = graph.replace(weights=weights)
    still = rng.uniform(0.5, 1.5, (1, 4, 11))
    base = run_reference(graph, still, taps=["c"]).taps["c"]
    reads = np.zeros((4, 11, base.shape[-1]), bool)
    for row, pixel in np.ndindex(4, 11):
        moved = still.copy()
        moved[0, row, pixel] += 1
        reads[row, pixel] = (run_reference(graph, moved, taps=["c"]).taps["c"] != base).any(axis=(0, 1))
    spans = fields(graph)["c"]
    assert spans is not None
    for place in range(base.shape[-1]):
        pixels = np.flatnonzero(reads[..., place].all(axis=0))
        assert spans[0].at(place) == (pixels[0], pixels[-1])


def dependencies(graph: Graph, axis: int) -> Dependencies:
    """For each node whether its elements depend on the slices of the input along an image axis: (pixels, *shape).

    Weights are positive and the inputs grow, so that no change cancels and every maximum moves.
    """
    rng = np.random.default_rng(5)
    (source,) = graph.inputs
    size = source.attrs["shape"][axis + 1]
    weights = {k: rng.uniform(0.5, 1.5, s) for k, s in graph.param_shapes.items()}
    still = rng.uniform(0.5, 1.5, source.attrs["shape"])
    batch = np.stack([still] * (size + 1))
    for i in range(size):
        pixel = (i + 1, slice(None), *(slice(None) for _ in range(axis)), i)
        batch[pixel] += 100
    taps = [node.name for node in graph.nodes if node.name not in ("k", "kr")]
    taken = run_reference(graph.replace(weights=weights), batch, taps=taps).taps
    values = {name: np.where(np.isfinite(v), v, 0) for name, v in taken.items()}  # a maximum over padding is -inf
    return {name: np.abs(v[1:] - v[:1]) > 1e-9 * np.abs(v[:1]) for name, v in values.items()}


def hull(seen: np.ndarray) -> tuple[int, int] | None:
    places = np.flatnonzero(seen)
    return (int(places[0]), int(places[-1])) if len(places) else None


def check(graph: Graph, exact: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """Nothing outside the field is seen; for the nodes in `exact`, away from the borders, all of it is.

    Returns the sizes of the fields by node.
    """
    states = track(graph)
    for axis in range(len(graph.inputs[0].attrs["shape"]) - 1):
        size = graph.inputs[0].attrs["shape"][axis + 1]
        for name, changed in dependencies(graph, axis).items():
            state = states[name]
            assert state is not None, name
            span, carrier = state.spans[axis], state.carriers[axis]
            flat = changed.any(0, keepdims=True) if carrier is None else np.moveaxis(changed, carrier, 1)
            flat = changed.reshape(size, 1, -1) if carrier is None else flat.reshape(size, flat.shape[1], -1)
            widest = 0
            for place in range(flat.shape[1]):
                allowed = span.at(place)
                for element in flat[:, place].T:
                    seen = hull(element)
                    if seen is None:
                        continue
                    widest = max(widest, seen[1] - seen[0] + 1)
                    assert allowed is not None, (name, place)
                    assert allowed[0] <= seen[0], (name, place, allowed, seen)
                    assert seen[1] <= allowed[1], (name, place, allowed, seen)
                together = hull(flat[:, place].any(1))
                if name in exact and allowed and span.size <= allowed[0] and allowed[1] < size - span.size:
                    assert together == allowed, (name, place)
            if name in exact and 4 * span.size < size:
                assert widest == span.size, name
            if span.advance:
                o = np.arange(-3, 9)
                assert all(Fraction(h[0]) >= x * span.jump + span.first for x in o.tolist() if (h := span.at(x)))
                assert all(Fraction(h[1]) <= x * span.jump + span.last for x in o.tolist() if (h := span.at(x)))
    found = fields(graph)
    assert {name: state.spans if state else None for name, state in states.items()} == found
    return {name: tuple(s.size for s in spans) for name, spans in found.items() if spans is not None}


def network(shape: tuple[int, ...], *steps: Node) -> Graph:
    return Graph((Node.of("x", "input", shape=shape), *steps), (steps[-1].name,))


def test_every_rule_is_there() -> None:
    assert {op.field for op in OPS.values()} - {"input", "constant", "opaque"} == set(RULES)


# ---------------------------------------------------------------------------------------------- chains of windows


@st.composite
def layers(draw: st.DrawFn, kinds: str, crops: bool) -> list[tuple[str, dict[str, Any]]]:
    """Without `crops` no layer drops places that a later layer's padding would stand in for.

    Layers over one axis: c(onvolution), m(ax), a(verage), t(ransposed), p(ad), s(lice), r(esize), A(daptive).
    """
    chain: list[tuple[str, dict[str, Any]]] = []
    for kind in draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=4)):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        window = {"kernel": (kernel,), "stride": draw(st.integers(1, 3)), "padding": draw(st.integers(0, 2))}
        match kind:
            case "c":
                padding = draw(st.sampled_from([((1, 0),), ((0, 2),), "same", "same-lower", 2]))
                chain.append(("conv", {**window, "padding": padding, "out": 1, "dilation": dilation}))
            case "m":  # a maximum over padding alone is -inf and tells nothing
                window["padding"] = min(window["padding"], kernel // 2)
                chain.append(("maxpool", {**window, "ceil": draw(st.booleans()), "dilation": dilation}))
            case "a":
                chain.append(("avgpool", {**window, "ceil": draw(st.booleans())}))
            case "t":
                window["padding"] *= crops
                chain.append(("conv_transpose", {**window, "out": 1, "dilation": dilation}))
            case "p":
                pads = st.integers(-2 * crops, 2)
                chain.append(("pad", {"pads": ((draw(pads), draw(pads)),)}))
            case "s":
                start, step = draw(st.integers(0, 3 * crops)), draw(st.sampled_from([1, 2, -1, -2]))
                chain.append(("slice", {"axis": 2, "start": start if step > 0 else -1 - start, "step": step}))
            case "r":
                attrs: dict[str, Any] = {"mode": draw(st.sampled_from(["nearest", "linear", "cubic"]))}
                attrs["scale"] = (draw(st.sampled_from([2.0, 3.0, 0.5, 1.5, 0.75])),)
                attrs["coords"] = draw(st.sampled_from(["asymmetric", "half_pixel", "pytorch_half_pixel"]))
                if attrs["coords"] != "asymmetric":  # rounding down there would repeat border pixels, as padding does
                    attrs["rounding"] = draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil"]))
                chain.append(("resize", attrs))
            case _:
                chain.append(("adaptive_avgpool", {"out": (draw(st.integers(2, 40)),)}))
    return chain


def built(chain: list[tuple[str, dict[str, Any]]], size: int) -> Graph | None:
    nodes = [Node.of("x", "input", shape=(1, size))]
    nodes += [Node.of(f"n{i}", op, nodes[-1].name if i == 0 else f"n{i - 1}", **a) for i, (op, a) in enumerate(chain)]
    graph = Graph(tuple(nodes), (nodes[-1].name,))
    try:
        return graph if graph.unit_shapes and min(graph.unit_shapes[nodes[-1].name] or (0,)) >= 1 else None
    except DojangError:  # the chain shrinks its axis below 1
        return None


@settings(max_examples=120)
@given(layers("cmatps", crops=False), st.integers(40, 90))
def test_chains_of_windows_are_exact(chain: list[tuple[str, dict[str, Any]]], size: int) -> None:
    graph = built(chain, size)
    if graph is not None:
        check(graph, exact=[node.name for node in graph.nodes])


@settings(max_examples=120)
@given(layers("cmatpsrA", crops=True), st.integers(5, 60))
def test_nothing_outside_the_field_is_seen(chain: list[tuple[str, dict[str, Any]]], size: int) -> None:
    graph = built(chain, size)
    if graph is not None:
        check(graph)


def test_the_recurrence_on_known_networks() -> None:
    def windows(*layers: tuple[int, int, int]) -> Span:
        nodes = [Node.of("n0", "input", shape=(1, 500))]
        for i, (k, s, p) in enumerate(layers, 1):
            nodes.append(Node.of(f"n{i}", "conv", f"n{i - 1}", out=1, kernel=(k,), stride=s, padding=p))
        return (fields(Graph(tuple(nodes), (nodes[-1].name,)))[nodes[-1].name] or ())[0]

    # AlexNet (Araujo et al. 2019, table 1: receptive field 195, effective stride 32 at pool5)
    alexnet = windows((11, 4, 2), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0))
    assert (alexnet.size, alexnet.jump) == (195, 32)
    assert (
        windows(*[(3, 1, 1), (3, 1, 1), (2, 2, 0)] * 2, *[(3, 1, 1), (3, 1, 1), (3, 1, 1), (2, 2, 0)] * 3).size == 212
    )
    assert windows((7, 2, 3), (3, 2, 1)).first == -5


@pytest.mark.parametrize(("kernel", "stride", "sizes"), [(2, 2, 1), (3, 2, 2), (4, 2, 2), (1, 3, 1), (5, 3, 2)])
def test_transposed_layers_see_what_their_phase_reads(kernel: int, stride: int, sizes: int) -> None:
    graph = network((1, 40), Node.of("t", "conv_transpose", "x", out=1, kernel=(kernel,), stride=stride))
    assert check(graph, exact=["t"])["t"] == (sizes,)
    assert fields(graph)["t"][0].jump == Fraction(1, stride)  # type: ignore[index]


def test_a_kernel_after_a_transposed_layer_counts_whole_pixels() -> None:
    """3 taps over pixels that come in pairs touch at most 2 of them: rounding each layer apart would say 3."""
    up = Node.of("up", "conv_transpose", "x", out=1, kernel=(2,), stride=2)
    graph = network((1, 60), up, Node.of("c", "conv", "up", out=1, kernel=(3,)))
    assert check(graph, exact=["up", "c"])["c"] == (2,)


# ---------------------------------------------------------------------------------------------- branches, whole axes


def test_branches_are_united() -> None:
    graph = network(
        (1, 40, 44),
        Node.of("a", "conv", "x", out=1, kernel=(3, 1), padding=((1, 1), (0, 0))),
        Node.of("b", "conv", "x", out=1, kernel=(1, 5), padding=((0, 0), (2, 2))),
        Node.of("c", "concat", "a", "b"),
        Node.of("d", "conv", "c", out=1, kernel=(2, 2), dilation=(1, 3)),
    )
    assert check(graph, exact=["a", "b", "c", "d"])["d"] == (4, 8)


def test_branches_of_another_rhythm() -> None:
    """A skip joined with a halved and enlarged branch; and one whose odd size makes the jumps differ."""
    for size, seen in ((48, 4), (47, 4)):
        graph = network(
            (1, size),
            Node.of("down", "maxpool", "x", kernel=(2,), stride=2, ceil=True),
            Node.of("up", "resize", "down", size=(size,)),
            Node.of("sum", "add", "up", "x"),
            Node.of("c", "conv", "sum", out=1, kernel=(3,), padding=1),
        )
        assert check(graph, exact=["c"])["c"] == (seen,)


def test_branches_whose_rhythms_have_a_common_one() -> None:
    """Pairs and triples of pixels together repeat after six."""
    graph = network(
        (1, 48),
        Node.of("two", "maxpool", "x", kernel=(2,)),
        Node.of("up2", "resize", "two", scale=2.0),
        Node.of("three", "maxpool", "x", kernel=(3,)),
        Node.of("up3", "resize", "three", scale=3.0),
        Node.of("sum", "add", "up2", "up3"),
    )
    assert check(graph, exact=["sum"])["sum"] == (4,)
    assert fields(graph)["sum"] == (Span(6, ((0, 2), (0, 2), (0, 3), (2, 5), (3, 5), (3, 5))),)


def test_joining_along_an_image_axis() -> None:
    graph = network(
        (1, 12, 9),
        Node.of("a", "conv", "x", out=1, kernel=(3, 3), padding=1),
        Node.of("c", "concat", "x", "a", axis=2),
        Node.of("d", "conv", "c", out=1, kernel=(1, 1)),
    )
    assert check(graph)["d"] == (3, 3)


def test_a_squeezed_branch_sees_everything() -> None:
    graph = network(
        (2, 10, 12),
        Node.of("c", "conv", "x", out=2, kernel=(3, 3), padding=1),
        Node.of("g", "global_avgpool", "c"),
        Node.of("m", "mul", "c", "g"),
        Node.of("k", "constant", shape=(1, 2, 1, 1), fill=2.0),
        Node.of("kr", "neg", "k"),
        Node.of("s", "add", "c", "kr"),
    )
    sizes = check(graph, exact=["c", "s"])
    assert sizes["g"] == sizes["m"] == (12, 14)  # with one pixel of padding on each side
    assert sizes["s"] == (3, 3)
    assert fields(graph)["m"][0].jump == 0  # type: ignore[index]
    assert fields(graph)["k"] is None
    assert fields(graph)["kr"] is None


@pytest.mark.parametrize(
    "node",
    [
        Node.of("y", "flatten", "x"),
        Node.of("y", "instancenorm", "x"),
        Node.of("y", "groupnorm", "x", groups=1),
        Node.of("y", "reduce_mean", "x", axes=(2, 3)),
        Node.of("y", "reduce_max", "x", axes=(-1, -2), keepdims=False),
        Node.of("y", "adaptive_avgpool", "x", out=(1, 1)),
        Node.of("y", "layernorm", "x", shape=(2, 6, 7)),
    ],
)
def test_layers_that_see_everything(node: Node) -> None:
    assert check(network((2, 6, 7), node))["y"] == (6, 7)


def test_layers_along_one_axis() -> None:
    graph = network(
        (2, 6, 7),
        Node.of("soft", "softmax", "x", axis=-1),
        Node.of("d", "dense", "x", out=3),
        Node.of("l", "lrn", "x", size=3),
        Node.of("g", "gather", "x", axis=2, indices=(5, 0, 1)),
        Node.of("r", "reduce_sum", "x", axes=(2,), keepdims=False),
        Node.of("c", "conv", "r", out=2, kernel=(3,)),
        Node.of("e", "einsum", "x", equation="nchw->nwc"),
        Node.of("m", "matmul", "x", "e"),
    )
    sizes = {"soft": (1, 7), "d": (1, 7), "l": (1, 1), "g": (1, 1), "r": (6, 1), "c": (6, 3), "e": (6, 1)}
    taken = Graph(graph.nodes[:-1], ("soft", "d", "l", "g", "c", "e"))
    assert {k: v for k, v in check(taken, exact=["l", "g", "c"]).items() if k != "x"} == sizes


# ---------------------------------------------------------------------------------------------- axes on the move


def test_channel_shuffle_keeps_the_field() -> None:
    graph = network(
        (4, 40, 36),
        Node.of("c", "conv", "x", out=4, kernel=(3, 3), padding=1, groups=2),
        Node.of("r1", "reshape", "c", shape=(0, 2, 2, 40, 36)),
        Node.of("t", "transpose", "r1", perm=(0, 2, 1, 3, 4)),
        Node.of("r2", "reshape", "t", shape=(0, 4, 40, 36)),
        Node.of("d", "conv", "r2", out=4, kernel=(3, 3), padding=1, groups=2),
    )
    assert check(graph, exact=["c", "r1", "t", "r2", "d"])["d"] == (5, 5)


def test_channels_last_blocks_keep_the_field() -> None:
    graph = network(
        (3, 40, 36),
        Node.of("dw", "conv", "x", out=3, kernel=(7, 5), padding=((3, 3), (2, 2)), groups=3),
        Node.of("t", "transpose", "dw", perm=(0, 2, 3, 1)),
        Node.of("n", "layernorm", "t", shape=(3,)),
        Node.of("d", "dense", "n", out=6),
        Node.of("g", "gelu", "d"),
        Node.of("b", "transpose", "g", perm=(0, 3, 1, 2)),
        Node.of("c", "conv", "b", out=2, kernel=(3, 1)),
    )
    assert check(graph, exact=["dw", "t", "n", "d", "b", "c"])["c"] == (9, 5)


def test_pixel_shuffle_and_back() -> None:
    graph = network(
        (4, 20, 24),
        Node.of("c", "conv", "x", out=4, kernel=(3, 3), padding=1),
        Node.of("r1", "reshape", "c", shape=(0, 1, 2, 2, 20, 24)),
        Node.of("t1", "transpose", "r1", perm=(0, 1, 4, 2, 5, 3)),
        Node.of("up", "reshape", "t1", shape=(0, 1, 40, 48)),
        Node.of("r2", "reshape", "up", shape=(0, 1, 20, 2, 24, 2)),
        Node.of("t2", "transpose", "r2", perm=(0, 1, 3, 5, 2, 4)),
        Node.of("down", "reshape", "t2", shape=(0, 4, 20, 24)),
    )
    sizes = check(graph, exact=["c", "up", "down"])
    assert sizes["up"] == (3, 3)
    assert sizes["down"] == (3, 3)
    assert fields(graph)["up"][0].jump == Fraction(1, 2)  # type: ignore[index]


def test_space_to_depth() -> None:
    graph = network(
        (1, 24, 30),
        Node.of("r", "reshape", "x", shape=(0, 1, 12, 2, 10, 3)),
        Node.of("t", "transpose", "r", perm=(0, 1, 3, 5, 2, 4)),
        Node.of("y", "reshape", "t", shape=(0, 6, 12, 10)),
        Node.of("c", "conv", "y", out=1, kernel=(3, 3)),
    )
    assert check(graph, exact=["c"])["c"] == (6, 9)


def test_tokens_keep_the_rows_and_attention_sees_everything() -> None:
    graph = network(
        (3, 12, 8),
        Node.of("p", "conv", "x", out=4, kernel=(4, 4), stride=4),
        Node.of("f", "flatten", "p", axis=2),
        Node.of("t", "transpose", "f", perm=(0, 2, 1)),
        Node.of("a", "matmul", "t", "f"),
        Node.of("s", "softmax", "a", axis=-1),
        Node.of("v", "matmul", "s", "t"),
    )
    sizes = check(graph)
    assert sizes["t"] == (4, 8)
    assert sizes["v"] == (12, 8)


def test_squeeze_and_unsqueeze_move_the_axes() -> None:
    graph = network(
        (1, 1, 40),
        Node.of("s", "squeeze", "x", axes=(2,)),
        Node.of("c", "conv", "s", out=2, kernel=(3,), padding=1),
        Node.of("u", "unsqueeze", "c", axes=(2,)),
        Node.of("d", "conv", "u", out=1, kernel=(1, 3)),
    )
    assert check(graph, exact=["c", "u", "d"])["d"] == (1, 5)


def test_unknown_operators_leave_the_field_unknown() -> None:
    graph = network((1, 5), Node.of("u", "unknown", "x", kind="Twist"), Node.of("r", "relu", "u"))
    assert fields(graph) == {"x": (PIXEL,), "u": None, "r": None}


def test_a_long_chain_of_awkward_factors_stays_small() -> None:
    """Each factor has its own period; their product would be 10^11, the axis has some hundred places."""
    nodes = [Node.of("n0", "input", shape=(1, 211))]
    sizes = (199, 197, 193, 191, 181)
    nodes += [Node.of(f"n{i}", "resize", f"n{i - 1}", size=(s,), mode="linear") for i, s in enumerate(sizes, 1)]
    graph = Graph(tuple(nodes), ("n5",))
    (span,) = fields(graph)["n5"] or ()
    assert span.period == 181
    assert check(graph)["n5"][0] <= 8

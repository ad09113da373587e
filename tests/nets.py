"""Small networks of every structure that ties channels, with seeded random weights, for tests of all rooms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dojang.arith.graph import Graph, Node

N = Node.of


def weighted(graph: Graph, seed: int = 0, dtype: type = np.float32) -> Graph:
    """The network with random weights: normal, variances positive, one sign nowhere favoured."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in graph.param_shapes.items():
        fan = max(1, int(np.prod(shape[1:])))
        values = rng.normal(size=shape) / np.sqrt(fan)
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 2, size=shape)
        weights[name] = values.astype(dtype)
    return graph.with_weights(weights)


def conv(name: str, source: str, out: int, k: int = 3, **attrs: object) -> Node:
    attrs.setdefault("padding", k // 2)
    return N(name, "conv", source, out=out, kernel=(k, k), **attrs)


def net(*nodes: Node, outputs: tuple[str, ...] = (), shape: tuple[int, ...] = (3, 8, 8), name: str = "net") -> Graph:
    return Graph((N("x", "input", shape=shape), *nodes), outputs or (nodes[-1].name,), name)


def plain() -> Graph:
    return net(
        conv("c1", "x", 6), N("b1", "batchnorm", "c1"), N("r1", "relu", "b1"), N("p1", "maxpool", "r1", kernel=(2, 2)),
        conv("c2", "p1", 8, bias=False), N("b2", "batchnorm", "c2"), N("r2", "relu", "b2"),
        N("p2", "avgpool", "r2", kernel=(2, 2)), N("f", "flatten", "p2"), N("d1", "dense", "f", out=10),
        N("r3", "relu", "d1"), N("d2", "dense", "r3", out=5), N("y", "softmax", "d2"),
    )  # fmt: skip


def residual_option_a() -> Graph:
    """CIFAR ResNet: the shortcut takes every second pixel and pads channels with zeros on both sides."""
    return net(
        conv("c0", "x", 4), N("b0", "batchnorm", "c0"), N("r0", "relu", "b0"),
        conv("c1", "r0", 4), N("r1", "relu", "c1"), conv("c2", "r1", 4), N("s1", "add", "c2", "r0"),
        N("r2", "relu", "s1"), conv("c3", "r2", 8, stride=2), N("r3", "relu", "c3"), conv("c4", "r3", 8),
        N("h", "slice", "r2", axis=2, step=2), N("w", "slice", "h", axis=3, step=2),
        N("z", "pad", "w", pads=((2, 2), (0, 0), (0, 0))), N("s2", "add", "c4", "z"), N("r4", "relu", "s2"),
        N("g", "global_avgpool", "r4"), N("f", "flatten", "g"), N("y", "dense", "f", out=5),
    )  # fmt: skip


def cat_twice() -> Graph:
    return net(
        conv("a", "x", 4), N("r", "relu", "a"), conv("b", "r", 3, 1), N("t", "concat", "r", "b", "r"),
        conv("c", "t", 6), N("rc", "relu", "c"), N("t2", "concat", "rc", "rc"), conv("y", "t2", 4, 1),
    )  # fmt: skip


def sliced() -> Graph:
    """A step, a chunk in two, a reversed slice and a gather with repeats, all on channels."""
    return net(
        conv("a", "x", 12), N("r", "relu", "a"), N("even", "slice", "r", axis=1, step=2),
        N("lo", "slice", "even", axis=1, stop=3), N("hi", "slice", "even", axis=1, start=3),
        N("m", "mul", "lo", "hi"), N("back", "slice", "r", axis=1, start=10, stop=1, step=-3),
        N("pick", "gather", "r", axis=1, indices=(5, 1, 5, 7)), N("t", "concat", "m", "back", "pick"),
        conv("b", "t", 5), N("rb", "relu", "b"), conv("y", "rb", 2, 1),
    )  # fmt: skip


def mobile() -> Graph:
    """Depthwise, depthwise with a channel multiplier, and an inverted residual."""
    return net(
        conv("e", "x", 8, 1), N("r6", "clip", "e", min=0, max=6), conv("dw", "r6", 8, groups=8),
        N("bn", "batchnorm", "dw"), N("r", "relu", "bn"), conv("p", "r", 4, 1), conv("e2", "p", 6, 1),
        N("h", "hard_swish", "e2"), conv("dw2", "h", 12, groups=6), conv("p2", "dw2", 4, 1), N("s", "add", "p", "p2"),
        N("g", "global_avgpool", "s"), N("f", "flatten", "g"), N("y", "dense", "f", out=3),
    )  # fmt: skip


def grouped() -> Graph:
    return net(
        conv("a", "x", 8), N("r", "relu", "a"), conv("g1", "r", 12, groups=4), N("r1", "relu", "g1"),
        conv("g2", "r1", 8, groups=2, bias=False), N("r2", "relu", "g2"),
        N("up", "conv_transpose", "r2", out=6, kernel=(2, 2), stride=2, groups=2), N("r3", "relu", "up"),
        N("up1", "conv_transpose", "r3", out=4, kernel=(3, 3), padding=1), conv("y", "up1", 3, 1),
    )  # fmt: skip


def squeeze_excite() -> Graph:
    return net(
        conv("a", "x", 6), N("r", "relu", "a"), N("g", "global_avgpool", "r"), N("f", "flatten", "g"),
        N("d1", "dense", "f", out=4), N("r1", "relu", "d1"), N("d2", "dense", "r1", out=6), N("s", "sigmoid", "d2"),
        N("u", "unsqueeze", "s", axes=(2, 3)), N("m", "mul", "r", "u"), conv("gate", "m", 1, 1),
        N("q", "sigmoid", "gate"), N("m2", "mul", "m", "q"), N("pr", "prelu", "m2", num=6), conv("y", "pr", 3),
    )  # fmt: skip


def shared() -> Graph:
    """One block used twice, its arrays owned once."""
    own = {"weight": "k.weight", "bias": "k.bias"}
    return net(
        conv("a", "x", 5), N("r", "relu", "a"), conv("k", "r", 5), N("r1", "relu", "k"),
        N("k2", "conv", "r1", out=5, kernel=(3, 3), padding=1, arrays=own), N("r2", "relu", "k2"),
        conv("y", "r2", 2, 1),
    )  # fmt: skip


def many_ends() -> Graph:
    """Two inputs and two outputs, one of them in the middle."""
    nodes = (
        N("x", "input", shape=(3, 8, 8)), N("z", "input", shape=(2, 8, 8)), conv("a", "x", 6), conv("b", "z", 6),
        N("s", "maximum", "a", "b"), N("mid", "relu", "s"), conv("c", "mid", 7), N("rc", "relu", "c"),
        conv("out1", "rc", 4), N("r1", "relu", "out1"), conv("d", "r1", 5), N("rd", "tanh", "d"), conv("out2", "rd", 2),
    )  # fmt: skip
    return Graph(nodes, ("out1", "out2"), "many ends")


def decoder() -> Graph:
    """Dense into a picture and back to channels-last."""
    return net(
        N("d", "dense", "x", out=8 * 4), N("r", "relu", "d"), N("v", "reshape", "r", shape=(0, 8, 2, 2)),
        N("up", "resize", "v", scale=(2.0,)), conv("c", "up", 6), N("rc", "relu", "c"),
        N("t", "transpose", "rc", perm=(0, 2, 3, 1)), N("d2", "dense", "t", out=5), N("r2", "relu", "d2"),
        N("t2", "transpose", "r2", perm=(0, 3, 1, 2)), N("m", "reduce_mean", "t2", axes=(2, 3), keepdims=False),
        N("y", "dense", "m", out=3), shape=(7,),
    )  # fmt: skip


def shuffle() -> Graph:
    """ShuffleNet's channel shuffle between grouped layers."""
    return net(
        conv("a", "x", 12, 1), N("r", "relu", "a"), N("v", "reshape", "r", shape=(0, 3, 4, 8, 8)),
        N("t", "transpose", "v", perm=(0, 2, 1, 3, 4)), N("w", "reshape", "t", shape=(0, 12, 8, 8)),
        conv("g", "w", 6, groups=2), N("rg", "relu", "g"), conv("y", "rg", 3, 1),
    )  # fmt: skip


def group_normed() -> Graph:
    """Group norms of several group sizes, one of which normalises a sum, one without weights."""
    return net(
        conv("a", "x", 12), N("ga", "groupnorm", "a", groups=6), N("r", "relu", "ga"), conv("b", "r", 12),
        N("gb", "groupnorm", "b", groups=4), N("s", "add", "r", "gb"),
        N("gs", "groupnorm", "s", groups=3, affine=False), N("rs", "relu", "gs"), conv("c", "rs", 8),
        N("gc", "groupnorm", "c", groups=4), N("rc", "relu", "gc"), conv("d", "rc", 6),
        N("gd", "groupnorm", "d", groups=1), N("rd", "relu", "gd"), conv("e", "rd", 6), N("re", "relu", "e"),
        conv("y", "re", 3, 1),
    )  # fmt: skip


def constants() -> Graph:
    """A trained scale per channel, a scalar, and a normalisation over channels that nothing may cross."""
    return net(
        conv("a", "x", 6), N("k", "constant", shape=(6, 1, 1), trained=True), N("m", "mul", "a", "k"),
        N("two", "constant", shape=(1,), fill=2.0), N("n", "mul", "m", "two"), conv("b", "n", 4),
        N("ln", "lrn", "b", size=3), conv("c", "ln", 5), N("rs", "reduce_sum", "c", axes=(2, 3)),
        N("f", "flatten", "rs"), N("y", "dense", "f", out=2),
    )  # fmt: skip


def choosing() -> Graph:
    """Comparisons and choices channel by channel: with a number, with one value for all channels, with other channels;
    the largest of each pixel, which nothing may cross.
    """

    def by_element(name: str, kind: str, *inputs: str, dtype: str = "float32") -> Node:
        return N(name, "standard", *inputs, kind=kind, settings="{}", shape=(8, 8, 8), dtype=dtype)

    return net(
        conv("a", "x", 8), N("k", "constant", shape=(1, 1, 1), fill=0.1), N("h", "mul", "a", "k"),
        by_element("m", "Greater", "a", "k", dtype="bool"), by_element("w", "Where", "m", "a", "h"),
        conv("b", "w", 8), N("r", "relu", "b"), conv("one", "x", 1), by_element("l", "Less", "r", "one", dtype="bool"),
        by_element("o", "Where", "l", "r", "w"), by_element("at", "Atan", "o"), conv("c", "at", 8),
        N("most", "reduce_max", "c", axes=(1,), keepdims=True), by_element("e", "Equal", "c", "most", dtype="bool"),
        by_element("v", "Where", "e", "c", "k"), conv("d", "v", 6), N("s", "relu", "d"), conv("y", "s", 3, 1),
    )  # fmt: skip


STRUCTURES: dict[str, Callable[[], Graph]] = {
    f.__name__: f
    for f in (plain, residual_option_a, cat_twice, sliced, mobile, grouped, squeeze_excite, shared, many_ends, decoder,
              shuffle, constants, choosing, group_normed)
}  # fmt: skip


def every_segment() -> Graph:
    """Convolutions, a norm, an addition, a step in Python, pooling and a dense layer; weights are positive."""
    graph = Graph(
        (
            N("x", "input", shape=(5, 14, 13)),
            N("c1", "conv", "x", out=24, kernel=(3, 3), padding=1, bias=False),
            N("b1", "batchnorm", "c1"),
            N("r1", "relu", "b1"),
            N("c2", "conv", "r1", out=24, kernel=(3, 3), padding=1),
            N("a", "add", "c2", "r1"),
            N("c3", "conv", "a", out=16, kernel=(1, 1)),
            N("s", "einsum", "c3", equation="abcd->abcd"),
            N("p", "global_avgpool", "s"),
            N("f", "flatten", "p"),
            N("d", "dense", "f", out=7),
        ),
        ("d",),
        "net",
    )
    rng = np.random.default_rng(0)
    weights = {k: np.abs(rng.standard_normal(s)).astype("f4") * 0.1 + 0.01 for k, s in graph.param_shapes.items()}
    return graph.replace(weights=weights)


def feed(graph: Graph, n: int = 2, seed: int = 1) -> dict[str, np.ndarray]:
    """Random float64 inputs by name."""
    rng = np.random.default_rng(seed)
    return {node.name: rng.normal(size=(n, *node.attrs["shape"])) for node in graph.inputs}


def random_network(seed: int, layers: int = 10) -> Graph:
    """A valid network of random structure: every value may be read by any later one of fitting shape."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [N("x", "input", shape=(3, 8, 8))]
    shapes: dict[str, tuple[int, int, int]] = {"x": (3, 8, 8)}

    def add(op: str, *inputs: str, **attrs: object) -> str:
        name = f"n{len(nodes)}"
        nodes.append(N(name, op, *inputs, **attrs))
        shape = Graph(tuple(nodes), (name,)).unit_shapes[name]
        shapes[name] = tuple(shape[1:])
        return name

    def pick(*, like: str | None = None, whole: bool = False) -> str:
        names = (
            list(shapes)[-4:]
            if like is None
            else [n for n in shapes if shapes[n][1 - whole :] == shapes[like][1 - whole :]]
        )
        return names[rng.integers(len(names))]

    for _ in range(layers):
        a = pick()
        c, h, _ = shapes[a]
        kind = rng.choice(
            ["conv", "conv", "grouped", "norm", "act", "pool", "cat", "join", "slice", "gather", "pad", "se"]
        )
        if kind in ("conv", "grouped"):
            divides = [g for g in (1, 2, 3, 4, c) if c % g == 0]
            g = int(rng.choice(divides)) if kind == "grouped" else 1
            k = int(rng.choice([1, 3]))
            out = g * int(rng.integers(1, 3)) if g > 1 else int(rng.integers(2, 8))
            add("conv", a, out=out, kernel=(k, k), padding=int(rng.integers(0, k // 2 + 1)) if h > 3 else k // 2,
                groups=g, bias=bool(rng.integers(2)))  # fmt: skip
        elif kind == "norm":
            add("batchnorm", a)
        elif kind == "act":
            add(str(rng.choice(["relu", "relu", "sigmoid", "hard_swish", "leaky_relu", "identity", "dropout"])), a)
        elif kind == "pool" and h >= 4:
            add(str(rng.choice(["maxpool", "avgpool"])), a, kernel=(2, 2))
        elif kind == "cat":
            add("concat", *(pick(like=a) for _ in range(int(rng.integers(1, 4)))))
        elif kind == "join":
            b = pick(like=a, whole=True)
            if b == a:
                b = add("conv", pick(like=a), out=c, kernel=(1, 1))
            add(str(rng.choice(["add", "mul", "maximum", "sub"])), a, b)
        elif kind == "slice" and c > 2:
            add("slice", a, axis=1, start=int(rng.integers(0, 2)), step=int(rng.integers(1, 3)))
        elif kind == "gather":
            add("gather", a, axis=1, indices=tuple(int(i) for i in rng.integers(0, c, size=rng.integers(1, 6))))
        elif kind == "pad":
            side = int(rng.integers(0, 2))
            add("pad", a, pads=((int(rng.integers(0, 3)), int(rng.integers(0, 3))), (side, side), (0, 0)))
        elif kind == "se":
            squeezed = add("global_avgpool", a)
            add("mul", a, add("sigmoid", add("conv", squeezed, out=c, kernel=(1, 1))))
    last = add("conv", pick(), out=4, kernel=(1, 1))
    flat = f"n{len(nodes)}"
    nodes.append(N(flat, "flatten", last))
    nodes.append(N("y", "dense", flat, out=3))
    return Graph(tuple(nodes), ("y",), f"random {seed}").edited()

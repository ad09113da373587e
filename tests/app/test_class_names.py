"""Names of classes: the network's own before those of ImageNet, which are said to be guessed."""

import numpy as np
import pytest

import dojang
from dojang.app.class_names import class_names
from dojang.arith.graph import Graph, Node


def head(channels: int, count: int, **meta: str) -> Graph:
    nodes = (
        Node.of("input", "input", shape=(channels, 4, 4)),
        Node.of("flat", "flatten", "input"),
        Node.of("fc", "dense", "flat", out=count),
    )
    return Graph(nodes, ("fc",), "head", meta=meta)


@pytest.mark.parametrize(
    ("index", "name"),  # widely known numbers, from publications that print them
    [(0, "tench"), (281, "tabby"), (207, "golden retriever"), (291, "lion"), (340, "zebra"), (388, "giant panda"),
     (817, "sports car"), (934, "hotdog"), (954, "banana"), (999, "toilet tissue")],
)  # fmt: skip
def test_numbers_of_imagenet(index: int, name: str) -> None:
    found = class_names(head(3, 1000), 1000)
    assert found.of(index) == name
    assert len(set(found.names)) == 1000
    assert class_names(head(3, 1001), 1001).of(index + 1) == name


def test_a_guess_is_said_and_the_networks_own_names_come_first() -> None:
    rng = np.random.default_rng(1)
    graph = head(3, 1000)
    graph = graph.replace(weights={n: rng.normal(size=s).astype(np.float32) for n, s in graph.param_shapes.items()})
    done = dojang.run(graph, np.zeros((3, 4, 4), np.float32), top=1)
    assert "ImageNet, guessed from 3 channels in and 1,000 classes out" in done.convention
    assert "class names: those of ImageNet, guessed" in str(done)
    own = graph.replace(meta={"classes": ",".join(f"c{i}" for i in range(1000))})
    done = dojang.run(own, np.zeros((3, 4, 4), np.float32), top=1)
    assert done.top[0][0].name == f"c{done.top[0][0].index}"
    assert "guessed" not in f"{done}{done.convention}"


@pytest.mark.parametrize(
    ("graph", "names"),
    [(head(1, 1000), ()), (head(3, 999), ()), (head(3, 2, names="{0: 'cat', 1: '개'}"), ("cat", "개")),
     (head(3, 2, names="{0: 'cat', 2: 'dog'}"), ()), (head(3, 2, names="{0: __import__('os')}"), ()),
     (head(3, 2, classes="a,b", names="{0: 'c', 1: 'd'}"), ("a", "b")), (head(3, 2, names="{" * 5000), ())],
)  # fmt: skip
def test_names_of_others(graph: Graph, names: tuple[str, ...]) -> None:
    assert class_names(graph, graph["fc"].attrs["out"]).names == names

"""The networks that ship with dojang: text files in `zoo/`, some with a checkpoint of trained weights."""

from __future__ import annotations

from pathlib import Path

from dojang.arith.graph import Graph
from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean
from dojang.formats.text import parse

FOLDER = Path(__file__).parent.parent / "zoo"


def names() -> tuple[str, ...]:
    """Every zoo name, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.net")))


def load(name: str, num_classes: int | None = None, weights: bool = True) -> Graph:
    """The network of that name; `num_classes` changes the size of its last layer.

    With `weights`, it has its trained weights, if there are any (`digits-cnn`). They fit only the number of classes for
    which they were trained, so a changed network has none. Raises `UsageError` for an unknown name.

    >>> load("vgg16").param_shapes["features.0.weight"]
    (64, 3, 3, 3)
    """
    path = FOLDER / f"{name}.net"
    if name not in names():
        hint = did_you_mean(name, names(), "`dojang list networks` lists them all")
        raise UsageError(f"{name!r} is not a network of the zoo; {hint}")
    params = {} if num_classes is None else {"classes": num_classes}
    graph = parse(path.read_text(encoding="utf-8"), name, path.name, params)
    trained = path.with_suffix(".safetensors")
    if weights and trained.exists():
        from dojang.formats.checkpoint import read_arrays  # imports NumPy, which counting does not need

        arrays = read_arrays(trained)
        if all(k in arrays and tuple(arrays[k].shape) == shape for k, shape in graph.param_shapes.items()):
            return graph.with_weights(arrays)
    return graph

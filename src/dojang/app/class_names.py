"""The names of a network's classes: its own, or those of ImageNet where everything points to them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from typing import Any

from dojang.arith import classes
from dojang.arith.graph import Graph
from dojang.formats.zoo import FOLDER

MOST_TEXT = 1 << 20
"""Characters of an entry of names that is read."""

BACKGROUND = "background"
"""Class 0 of networks with 1,001 outputs, as those of TensorFlow: none of the others."""


@dataclass(frozen=True)
class ClassNames:
    """The name of each class, none where they are not known. `guessed` says from what they were guessed, "" where the
    network itself names them.
    """

    names: tuple[str, ...] = ()
    guessed: str = ""

    def of(self, index: int) -> str:
        """The name of a class, its number where names are not known."""
        return self.names[index] if self.names else str(index)


def class_names(graph: Graph, count: int) -> ClassNames:
    """The names of `count` classes.

    A network's own text comes first (`classes`, which dojang writes, or `names`, which Ultralytics writes into ONNX
    files). Without one, a network of 3-channel pictures with 1,000 outputs is taken for one of ImageNet, and with 1,001
    for one that has a background class before these. Of all others no names are known.

    >>> from dojang.formats import zoo
    >>> found = class_names(zoo.load("resnet18", weights=False), 1000)
    >>> found.names[207], found.guessed
    ('golden retriever', 'those of ImageNet, guessed from 3 channels in and 1,000 classes out')
    """
    for known in (classes.from_text(graph.meta.get("classes", "")), _of_ultralytics(graph.meta.get("names", ""))):
        if len(known) == count:
            return ClassNames(known)
    shape = graph.inputs[0].attrs["shape"] if len(graph.inputs) == 1 else ()
    if count in (1000, 1001) and len(shape) == 3 and shape[0] == 3:
        names = imagenet() if count == 1000 else (BACKGROUND, *imagenet())
        return ClassNames(names, f"those of ImageNet, guessed from 3 channels in and {count:,} classes out")
    return ClassNames()


@cache
def imagenet() -> tuple[str, ...]:
    """The 1,000 names, in the order in which networks give them.

    >>> imagenet()[:3]
    ('tench', 'goldfish', 'great white shark')
    """
    lines = (FOLDER / "imagenet-1k.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def _of_ultralytics(text: str) -> tuple[str, ...]:
    """The names of `{0: 'cat', 1: 'dog'}`; none where the text is something else."""
    if not text.startswith("{") or len(text) > MOST_TEXT:
        return ()
    try:
        found: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return ()
    known = isinstance(found, dict) and all(found.get(i) is not None for i in range(len(found)))
    return tuple(str(found[i]) for i in range(len(found))) if known else ()

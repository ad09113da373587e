"""The keys of a network's outputs, where the program that it was read from names them: an entry of its `meta`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from dojang.arith.graph import Graph

KEY = "outputs"


def as_text(keys: Sequence[str]) -> str:
    """The keys in the order of the outputs, as the text that `meta` keeps.

    >>> as_text(["logits", "boxes.0"])
    '["logits", "boxes.0"]'
    """
    return json.dumps(list(keys))


def output_keys(graph: Graph) -> tuple[str, ...]:
    """A name for each output: its key where the network has keys, else the name of the node that makes it.

    Keys count only where there is one for each output and none stands twice, as another program may have changed them.
    """
    try:
        found: Any = json.loads(graph.meta.get(KEY, "[]"))
    except (ValueError, RecursionError):
        return graph.outputs
    keys = cast(list[Any], found) if isinstance(found, list) else []
    names = tuple(key for key in keys if isinstance(key, str))
    return names if len(keys) == len(names) == len(set(names)) == len(graph.outputs) else graph.outputs

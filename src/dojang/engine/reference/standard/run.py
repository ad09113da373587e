"""The one way in: a node `standard` by the function of its operator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from dojang.arith.attrs import Attrs
from dojang.arith.graph import Node
from dojang.base.errors import DataError, DojangError, UnsupportedError
from dojang.engine.reference.standard import (
    detection,
    elements,
    layout,
    products,
    quantised,
    recurrent,
    resizing,
    signals,
    windows,
)
from dojang.engine.reference.standard.call import Array, Function, OperatorCall

FUNCTIONS: Mapping[str, Function] = {
    **elements.FUNCTIONS,
    **layout.FUNCTIONS,
    **windows.FUNCTIONS,
    **resizing.FUNCTIONS,
    **products.FUNCTIONS,
    **recurrent.FUNCTIONS,
    **quantised.FUNCTIONS,
    **detection.FUNCTIONS,
    **signals.FUNCTIONS,
}
"""One function per operator, by its name, with the domain if that is not the standard's own."""


@lru_cache(maxsize=4096)
def _settings(text: str) -> Mapping[str, Any]:
    return json.loads(text)


def outputs(attrs: Attrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """All outputs of the operator of a node."""
    function = FUNCTIONS.get(attrs["kind"])
    if function is None:
        raise UnsupportedError(f"operator {attrs['kind']} cannot be run; no function computes it")
    places = attrs["places"] or tuple(range(len(inputs)))
    given: list[Array | None] = [None] * (max(places, default=-1) + 1)
    for place, array in zip(places, inputs, strict=True):
        given[place] = array
    call = OperatorCall(attrs["kind"], given, _settings(attrs["settings"]), attrs["opset"], attrs["dtype"])
    try:
        with np.errstate(all="ignore"):
            return tuple(function(call))
    except DojangError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise DataError(f"{attrs['kind']} cannot be computed of these values ({error})") from error


def one_output(attrs: Attrs, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """The output that a node stands for."""
    found = outputs(attrs, inputs)
    if attrs["output"] >= len(found):
        raise UnsupportedError(f"output {attrs['output'] + 1} of {attrs['kind']} is not computed")
    return as_stated(attrs, found[attrs["output"]])


def as_stated(attrs: Attrs, value: Array) -> Array:
    """An output in the shape that its node states: where the batch is part of an axis, that states it as its own."""
    shape, axis = attrs["shape"], attrs["batch_axis"]
    if shape is None or axis < 0 or value.ndim != len(shape) or prod(value.shape) == 0:
        return value
    whole, own = value.shape, tuple(shape)
    if whole[:axis] != own[:axis] or whole[axis + 1 :] != own[axis + 1 :] or whole[axis] % own[axis]:
        return value
    return value.reshape(*own[:axis], whole[axis] // own[axis], *own[axis:])


def shared(node: Node, inputs: Sequence[Array], several: dict[tuple[Any, ...], tuple[Array, ...]]) -> Array:
    """The same, where `several` keeps what this run computed for other outputs of the operator."""
    a = node.attrs
    key = (a["kind"], a["settings"], a["places"], node.inputs)
    if a["output"] == 0 and a["first"]:
        found = several[key] = outputs(a, inputs)
    else:
        found = several.get(key) or several.setdefault(key, outputs(a, inputs))
    if a["output"] >= len(found):
        raise UnsupportedError(f"output {a['output'] + 1} of {a['kind']} is not computed")
    return as_stated(a, found[a["output"]])

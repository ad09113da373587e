"""The arrays that a PyTorch module or an ONNX file stores, and those from which each array of a network is made."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dojang.arith import recurrent

Shape = tuple[int, ...]
Kind = Literal["parameter", "buffer"]

ROLES = ("weight", "bias", "running_mean", "running_var", "value", *recurrent.ROLES)
"""Every role that an array has for a node."""


class Stored(NamedTuple):
    """One array of the source: how many numbers, and whether training changes it.

    A *parameter* is what the source calls one (`module.parameters()`; in a file the weights of its layers). A *buffer*
    is stored beside them and is not trained: running statistics, a fixed kernel. `trainable` is None if the source,
    such as a file, does not say.
    """

    size: int
    kind: Kind = "parameter"
    trainable: bool | None = None
    dtype: str = ""


class Origin(NamedTuple):
    """The names of the stored arrays from which an array of the network, of this shape, is made. No names if the source
    computes it from sizes and plain numbers, such as a grid of positions.
    """

    shape: Shape
    names: tuple[str, ...] = ()

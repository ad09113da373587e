"""Arrays as a source stores them, a PyTorch module or an ONNX file, and what a network's arrays are made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

Shape = tuple[int, ...]
Kind = Literal["parameter", "buffer"]

ROLES = ("weight", "bias", "running_mean", "running_var", "value")
"""Every role that an array has for a node."""


class Stored(NamedTuple):
    """One array of the source: how many numbers, and whether training changes it.

    A *parameter* is what the source calls one (`module.parameters()`; in a file the weights of its layers). A *buffer*
    is stored beside them and is not trained: running statistics, a fixed kernel. `trainable` is None where the source
    does not say, as a file does not.
    """

    size: int
    kind: Kind = "parameter"
    trainable: bool | None = None


class Origin(NamedTuple):
    """What an array of the network, of this shape, is made of: names of stored arrays. None at all for what the source
    computes from sizes and plain numbers, as a grid of places.
    """

    shape: Shape
    names: tuple[str, ...] = ()

"""The shortcut of a residual block that is strided and padded with channels, read in place by the layer that adds it.

He et al. (2016, section 4.2, option A) halve the image and double the channels without weights: every second pixel,
zeros for the channels that are new. Done as two steps of their own, these cost more for the hand-over between threads
than for their work.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dojang.engine.fuse import Fused, Group
from dojang.engine.kernels.conv import amx, winograd
from dojang.engine.kernels.task import Sparse

READERS = (winograd, amx)
"""Algorithms that can read a sparse residual."""


@dataclass(frozen=True)
class Shortcut:
    """Groups that only make what a convolution adds, in order; the value they read, and where it is read."""

    groups: tuple[Group, ...]
    source: str
    sparse: Sparse


def shortcuts(fused: Fused) -> dict[str, Shortcut]:
    """Shortcuts by the value of the convolution that adds them; of more than one tap, for others may be in a chain."""
    makers = {g.value: g for g in fused.groups}
    out: dict[str, Shortcut] = {}
    for group in fused.groups:
        pad = makers.get(group.residual or "")
        if group.node.op != "conv" or prod(group.node.attrs["kernel"]) == 1:
            continue
        if pad is None or not fused.read_once(pad.value):
            continue
        picked = makers.get(pad.inputs[0]) if pad.node.op == "pad" else None
        if picked is None or not fused.read_once(picked.value) or not picks(picked) or not widens(pad):
            continue
        source, pads = picked.inputs[0], ((0, 0),) * 3 + pad.node.attrs["pads"]
        shape = fused.shapes[source]
        if shape is not None and len(shape) == 4:
            _, channels, *size = shape
            sparse = Sparse((size[0], size[1]), picked.node.attrs["stride"], channels, pads[-3][0])
            out[group.value] = Shortcut((picked, pad), source, sparse)
    return out


def widens(group: Group) -> bool:
    """Whether a node only adds channels of zeros to images."""
    a = group.node.attrs
    *images, channels, down, across = ((0, 0),) * 3 + a["pads"]
    elsewhere = any(p for pair in (*images, down, across) for p in pair)
    return a["mode"] == "constant" and a["value"] == 0 and not elsewhere and min(channels) >= 0


def picks(group: Group) -> bool:
    """Whether a pooling takes every so many pixels as they are."""
    a = group.node.attrs
    return group.node.op == "maxpool" and a["kernel"] == (1, 1) and not any(p for pair in a["padding"] for p in pair)

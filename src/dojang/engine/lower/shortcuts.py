"""The shortcut of a residual block that is strided and padded with channels, read in place by the layer that adds it.

He et al. (2016, section 4.2, option A) halve the image and double the channels without weights: every second pixel,
zeros for the channels that are new. Done as two steps of their own, these cost more for the hand-over between threads
than for their work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from dojang.engine.fuse import Group
from dojang.engine.kernels.conv import amx, winograd
from dojang.engine.kernels.task import Sparse

if TYPE_CHECKING:
    from dojang.engine.lower.network import Lowering

READERS = (winograd, amx)
"""Algorithms that can read a sparse residual."""


@dataclass(frozen=True)
class Shortcut:
    """Groups that only make what a convolution adds, in order; the value they read, and where it is read."""

    groups: tuple[Group, ...]
    source: str
    sparse: Sparse


def found(low: Lowering, groups: Sequence[Group]) -> dict[str, Shortcut]:
    """Shortcuts by the value of the convolution that adds them; of more than one tap, for others may be in a chain."""
    makers = {g.value: g for g in groups}
    out: dict[str, Shortcut] = {}
    for group in groups:
        pad = makers.get(group.residual or "")
        if group.node.op != "conv" or prod(group.node.attrs["kernel"]) == 1 or pad is None or not alone(low, pad.value):
            continue
        picked = makers.get(pad.inputs[0]) if pad.node.op == "pad" else None
        if picked is None or not alone(low, picked.value) or not picks(picked) or not widens(pad):
            continue
        source, pads = picked.inputs[0], ((0, 0),) * 3 + pad.node.attrs["pads"]
        _, channels, *size = low.shape(source)
        if len(size) == 2:
            sparse = Sparse((size[0], size[1]), picked.node.attrs["stride"], channels, pads[-3][0])
            out[group.value] = Shortcut((picked, pad), source, sparse)
    return out


def alone(low: Lowering, value: str) -> bool:
    """Whether one node reads a value, and nobody asked for it."""
    return value not in low.fusion.shown and len(low.fusion.readers.get(value, ())) == 1


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

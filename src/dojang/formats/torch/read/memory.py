"""Memory that several stand-ins show: views of one value, and what is written through them.

PyTorch changes tensors in place; a Graph does not. So each value knows the memory that it shows and the views that
lead from the whole of it to the part (`ViewStep`). A write through a part is noted. Who reads another part afterwards
has the write put into the whole first (`scatter`), and takes its part of the new whole: as a functional program would.

Some functions give a view or a copy, as the strides decide (`reshape`, `contiguous`, `to`). Strides are not followed;
so what was written through such a part, or is read through one after a write, is not known (`MAY_COPY`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

MAY_COPY = frozenset("reshape reshape_as flatten contiguous to float double half type type_as pad cpu".split())
"""Functions whose result shares memory with their input or does not."""


@dataclass(frozen=True, slots=True)
class ViewStep:
    """One view: the function by its handler's name, its arguments after the tensor, and which of several results."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    index: int | None


@dataclass(slots=True, eq=False)
class SharedMemory:
    """What stand-ins that share memory have in common.

    `node`: the node that makes the whole of it, before the writes in `written`, each of which is (the steps to the part
    that was written, the node that makes the part's new value, its sizes). `version` counts writes. `copied`: it stands
    for a part of other memory, in which a write would have to show.
    """

    node: str
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    version: int = 0
    copied: bool = False
    written: list[tuple[tuple[ViewStep, ...], str, tuple[int, ...]]] = field(default_factory=list)


Scatter = Callable[[Any, Any, Any, ViewStep], Any]

SCATTERS: dict[str, Scatter] = {}
"""How a part is put back: `f(tracer, whole, part, step)` gives the new whole. Filled by `places.py`."""


def certain(steps: tuple[ViewStep, ...]) -> bool:
    """Whether a part shows memory for certain, and can be put back."""
    return all(step.name not in MAY_COPY and step.name in SCATTERS for step in steps)


def is_box(items: Sequence[Any]) -> bool:
    """Whether an index has numbers and slices only: then what it names is a view, else a copy."""
    plain = (int, slice, type(None), type(Ellipsis))
    ends = [v for i in items if isinstance(i, slice) for v in (i.start, i.stop, i.step)]
    return all(isinstance(i, plain) and not isinstance(i, bool) for i in items) and not any(
        isinstance(v, torch.Tensor) for v in ends
    )


def shows_memory(name: str, args: Sequence[Any]) -> bool:
    """Whether what a function of `VIEWS` gives may share memory with its input."""
    if name != "getitem" or len(args) < 2:
        return True
    return is_box(args[1] if isinstance(args[1], tuple) else (args[1],))

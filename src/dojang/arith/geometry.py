"""How the window of a convolution or a pooling moves: kernel, stride, padding, dilation, groups, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dojang.arith.attrs import Attrs
from dojang.arith.conv import Pads, Sizes, by, resolve_padding
from dojang.arith.shapes import Shape


@dataclass(frozen=True, slots=True)
class Geometry:
    """The window of a layer, one value per spatial axis; padding before and after, None if it depends on a size that is
    not known.

    `groups` is how many parts of the channels are filtered by themselves; a pooling has 1, though it mixes no channels.

    >>> str(Geometry((7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)))
    '7x7/2 p3'
    """

    kernel: Sizes
    stride: Sizes
    padding: Pads | None
    dilation: Sizes
    groups: int = 1
    output_padding: Sizes = ()

    def __str__(self) -> str:
        """Short: kernel/stride, p padding, d dilation, g groups, o output padding; what is usual is left out. Padding
        that differs at both sides is p before:after.
        """
        parts = [by(self.kernel) + (f"/{_each(self.stride)}" if any(s != 1 for s in self.stride) else "")]
        if self.padding is None:
            parts.append("p?")
        elif any(p for pair in self.padding for p in pair):
            parts.append("p" + _each([str(a) if a == b else f"{a}:{b}" for a, b in self.padding]))
        if any(d != 1 for d in self.dilation):
            parts.append(f"d{_each(self.dilation)}")
        if self.groups != 1:
            parts.append(f"g{self.groups}")
        if any(self.output_padding):
            parts.append(f"o{_each(self.output_padding)}")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """All fields; `padding` has one number for an axis, or two where its sides differ."""
        return {
            "kernel": list(self.kernel),
            "stride": list(self.stride),
            "padding": None if self.padding is None else [a if a == b else [a, b] for a, b in self.padding],
            "dilation": list(self.dilation),
            "groups": self.groups,
            "output_padding": list(self.output_padding) if any(self.output_padding) else None,
        }


def _each(values: Sequence[Any]) -> str:
    """One value if all axes have it, else one per axis."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def geometry_of(attrs: Attrs, shapes: Sequence[Shape | None]) -> Geometry | None:
    """The window of a node with these attributes and input shapes; None for an operator without a kernel."""
    kernel: Sizes = attrs.get("kernel") or ()
    if not kernel:
        return None
    rank = len(kernel)
    ones, zeros = (1,) * rank, ((0, 0),) * rank
    groups = attrs.get("groups", 1)
    if "out" not in attrs and len(shapes) > 1 and (x := shapes[0]) and (w := shapes[1]) and len(w) > 1:
        groups = x[1] // w[1]  # weights that the network computes: (oc, ic/groups, *kernel)
    stride = _spread(attrs.get("stride") or (kernel if "stride" in attrs else ones), rank)
    dilation = _spread(attrs.get("dilation") or ones, rank)
    padding = attrs.get("padding") or zeros
    if isinstance(padding, str):
        size = shapes[0][2:] if shapes and shapes[0] is not None else None
        fits = size is not None and len(size) == rank
        padding = resolve_padding(padding, size, kernel, stride, dilation) if size is not None and fits else None
    return Geometry(
        kernel,
        stride,
        None if padding is None else _spread(padding, rank),
        dilation,
        groups,
        _spread(attrs.get("output_padding") or (0,), rank) if "output_padding" in attrs else (),
    )


def _spread(values: Any, rank: int) -> Any:
    """One value per axis."""
    return tuple(values) * rank if len(values) == 1 else tuple(values)

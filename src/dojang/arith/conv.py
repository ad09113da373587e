"""One convolution, and everything that follows from its sizes by a formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from dojang.arith.window import extent, out_size, same_padding, taps_inside
from dojang.base.errors import ShapeError
from dojang.base.record import plain_repr

Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]


@plain_repr
@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of `n` inputs of `ic` channels and spatial size `size` by `oc` filters, in 1, 2, 3 … dimensions.

    Correlation, as the field uses the word: the kernel is not flipped. With `transposed` it is the adjoint, which
    spreads each input pixel over the output. Build one with `Conv.of`, which fills in defaults and resolves
    "same" and "valid"; the constructor takes every field in full.

    Conventions: 1 MAC = one multiplication and one addition; bias additions are not MACs; taps that fall on padding
    count in `macs`, and do not count in `macs_inside`. Sizes in elements, bytes for float32.
    """

    n: int
    ic: int
    oc: int
    size: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Pads
    dilation: Sizes
    groups: int = 1
    bias: bool = True
    transposed: bool = False
    output_padding: Sizes = ()
    out_size: Sizes = field(init=False, repr=False, compare=False)
    """Spatial output size: ⌊(i + p₀ + p₁ − d(k−1) − 1)/s⌋ + 1; transposed (i−1)s − p₀ − p₁ + d(k−1) + 1 + extra."""

    @classmethod
    def of(
        cls,
        ic: int,
        oc: int,
        size: int | Sequence[int],
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        transposed: bool = False,
        output_padding: int | Sequence[int] = 0,
        n: int = 1,
    ) -> Conv:
        """A `Conv` from one value per axis or one for all. Its rank is that of `size`, or of `kernel` if longer.

        >>> Conv.of(3, 64, (224, 224), 7, stride=2, padding=3).out_shape
        (1, 64, 112, 112)
        """
        rank = max(len(v) for v in ((0,), size, kernel) if not isinstance(v, int))
        sizes, kernels = per_axis(size, rank, "size"), per_axis(kernel, rank, "kernel")
        strides, dilations = per_axis(stride, rank, "stride"), per_axis(dilation, rank, "dilation")
        pads = resolve_padding(padding, sizes, kernels, strides, dilations)
        extra = per_axis(output_padding, rank, "output padding")
        return cls(n, ic, oc, sizes, kernels, strides, pads, dilations, groups, bias, transposed, extra)

    def __post_init__(self) -> None:
        check_window(self.kernel, self.stride, self.padding, self.dilation)
        if not self.output_padding:
            object.__setattr__(self, "output_padding", (0,) * self.rank)
        if len(self.size) != self.rank:
            raise ShapeError(f"a {self.rank}-d kernel {by(self.kernel)} does not fit an input of size {by(self.size)}")
        if self.ic < 1 or self.oc < 1 or self.groups < 1 or self.n < 0:
            raise ShapeError(f"channels and groups must be at least 1, got {self.ic} in, {self.oc} out, {self.groups}")
        for what, channels in (("input", self.ic), ("output", self.oc)):
            if channels % self.groups:
                raise ShapeError(divide_message(channels, self.groups, what))
        if not self.transposed and any(self.output_padding):
            raise ShapeError("output padding belongs to transposed convolutions only")
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if not 0 <= extra < max(s, d):
                raise ShapeError(f"output padding {extra} must be below the stride {s} or the dilation {d}")
        object.__setattr__(self, "out_size", self._out_size())  # computed once: shapes, costs and checks read it
        for axis, out in enumerate(self.out_size):
            if out < 1:
                raise ShapeError(too_small(self.size, self.kernel, self.padding, self.dilation, axis))

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    def _out_size(self) -> Sizes:
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, self.output_padding, strict=True)
        if self.transposed:
            return tuple([(i - 1) * s - p0 - p1 + extent(k, d) + extra for i, k, s, (p0, p1), d, extra in axes])
        return tuple([out_size(i, k, s, p0, p1, d) for i, k, s, (p0, p1), d, _ in axes])

    @property
    def in_shape(self) -> Sizes:
        """(n, ic, *size)."""
        return (self.n, self.ic, *self.size)

    @property
    def out_shape(self) -> Sizes:
        """(n, oc, *out_size)."""
        return (self.n, self.oc, *self.out_size)

    @property
    def weight_shape(self) -> Sizes:
        """(oc, ic/groups, *kernel); transposed (ic, oc/groups, *kernel), as PyTorch and ONNX lay them out."""
        if self.transposed:
            return (self.ic, self.oc // self.groups, *self.kernel)
        return (self.oc, self.ic // self.groups, *self.kernel)

    @property
    def weights(self) -> int:
        """Number of weights without biases: oc · ic/groups · ∏k."""
        return prod(self.weight_shape)

    @property
    def biases(self) -> int:
        """Number of biases: oc, or 0."""
        return self.oc if self.bias else 0

    @property
    def params(self) -> int:
        """weights + biases.

        >>> Conv.of(128, 64, (40, 50), 3, padding=1, bias=False).params
        73728
        """
        return self.weights + self.biases

    @property
    def macs(self) -> int:
        """n · ∏out · oc · ic/groups · ∏k; transposed n · ∏in · ic · oc/groups · ∏k. Padding taps count, bias does not.

        >>> Conv.of(64, 32, (16, 16), 2, stride=2, transposed=True).macs
        2097152
        """
        places = self.size if self.transposed else self.out_size
        return self.n * prod(places) * self.weights

    @property
    def macs_inside(self) -> int:
        """Like `macs`, without the taps that fall on zero padding (transposed: on cropped output)."""
        pairs = 1
        for a in range(self.rank):
            pairs *= self.pairs_inside(a)
        return self.n * pairs * (self.weights // prod(self.kernel))

    def pairs_inside(self, axis: int) -> int:
        """Pairs of position and tap along one axis that fall on the input (transposed: on what is not cropped)."""
        k, s, (before, after), d = self.kernel[axis], self.stride[axis], self.padding[axis], self.dilation[axis]
        if self.transposed:
            return taps_inside(self.out_size[axis], self.size[axis], k, s, before, d)
        return taps_inside(self.size[axis], self.out_size[axis], k, s, before, d, after)

    @property
    def depthwise(self) -> bool:
        """One input channel per group."""
        return self.groups == self.ic and self.groups > 1

    @property
    def pointwise(self) -> bool:
        """Every kernel axis is 1."""
        return all(k == 1 for k in self.kernel)

    @property
    def in_bytes(self) -> int:
        """Bytes of the input in float32."""
        return 4 * prod(self.in_shape)

    @property
    def out_bytes(self) -> int:
        """Bytes of the output in float32."""
        return 4 * prod(self.out_shape)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases in float32."""
        return 4 * self.params


def by(sizes: Sequence[int]) -> str:
    """Sizes as people write them: 3×224×224 as '3x224x224'."""
    return "x".join(str(s) for s in sizes)


def per_axis(value: int | Sequence[int], rank: int, what: str) -> Sizes:
    """One value per axis from one for all; an error names `what`."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank:
        raise ShapeError(f"{what} {by(values)} has {len(values)} values for {rank} spatial axes")
    return values


def resolve_padding(padding: Padding, size: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """Padding as one (before, after) pair per axis, from a number, numbers, pairs, "same", "same-lower" or "valid"."""
    rank = len(kernel)
    given: Any = padding
    if given.__class__ is tuple and len(given) == rank and {*map(type, given)} == {tuple}:
        return given  # already in the form of a node's attributes
    if padding == "valid":
        return ((0, 0),) * rank
    if padding in ("same", "same-lower"):
        axes = zip(size, kernel, stride, dilation, strict=True)
        return tuple(same_padding(i, k, s, d, padding == "same-lower") for i, k, s, d in axes)
    if isinstance(padding, str):
        raise ShapeError(f'padding "{padding}" is not known; use a number, one per axis, "same" or "valid"')
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    if len(padding) != rank:
        raise ShapeError(f"padding has {len(padding)} values for {rank} spatial axes")
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding)


def check_window(kernel: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> None:
    """Raises `ShapeError` unless kernel, stride, dilation are at least 1, padding at least 0, ranks equal."""
    for what, values in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if len(values) != len(kernel):
            raise ShapeError(f"{what} has {len(values)} values for {len(kernel)} spatial axes")
        for value in values:
            if value < 1:
                raise ShapeError(f"{what} {by(values)} must be at least 1 on every axis")
    if len(padding) != len(kernel):
        raise ShapeError(f"padding has {len(padding)} values for {len(kernel)} spatial axes")
    for before, after in padding:
        if before < 0 or after < 0:
            raise ShapeError(f"padding {padding} must not be negative; crop with `slice` instead")


def divide_message(channels: int, groups: int, side: Literal["input", "output"] | str) -> str:
    """The error for channels that groups do not divide, with the group counts that do."""
    fits = [g for g in range(1, min(channels, 64) + 1) if channels % g == 0]
    some = ", ".join(str(g) for g in fits[:6]) + (", ..." if len(fits) > 6 else "")
    return f"{channels} {side} channels do not divide into {groups} groups; use {some} or change the channels"


def too_small(size: Sizes, kernel: Sizes, padding: Pads, dilation: Sizes, axis: int) -> str:
    """The error for a window that is larger than the padded input."""
    need = extent(kernel[axis], dilation[axis])
    have = size[axis] + sum(padding[axis])
    return (
        f"the output shrinks below 1: kernel {by(kernel)} spans {need} pixels on axis {axis}, the padded input has "
        f"{have}; use a larger input, a smaller kernel or more padding"
    )

"""Fourier transforms, and the few functions of complex numbers that networks put between them.

A complex value stands for a real one with a last axis of two, real and imaginary parts, as ONNX has them
(`Traced.pair`). The transforms are nodes DFT and STFT, which have no multiply-accumulates by the convention of
counting. What is not listed here is unknown where a complex value goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

import torch

from dojang.arith.shapes import axis_of
from dojang.formats.torch.read.kinds import picks, real, whole_number
from dojang.formats.torch.read.ops import Handler
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import COMPLEX, HANDLERS, Traced


def paired(t: Tracer, pair: Traced) -> Traced:
    """The complex value of parts that lie along the last axis."""
    made = Traced(t.read(pair), pair.sizes[:-1], torch.complex64, t.device)
    made.pair, t.complex = pair, True
    return made


def parts(t: Tracer, value: Any) -> Traced:
    """A value as real and imaginary parts along a last axis; real numbers have one part."""
    if isinstance(value, Traced) and value.pair is not None:
        return value.pair
    if isinstance(value, Traced):
        return t.emit("unsqueeze", real(t, value), part="part", axes=(value.dim(),))
    if isinstance(value, torch.Tensor) and value.is_complex():
        made = t.derived.get(id(value))
        if made is not None and made.name == "view_as_complex" and isinstance(made.args[0], torch.Tensor):
            return t.value(made.args[0])
        with torch._C.DisableTorchFunction():
            return t.loose(torch.view_as_real(value.resolve_conj()).clone(), t.learned(value))
    return t.emit("unsqueeze", t.value(value), part="part", axes=(t.value(value).dim(),))


def pair_of(x: Traced) -> Traced:
    """The parts of a complex value."""
    assert x.pair is not None
    return x.pair


def part(t: Tracer, pair: Traced, which: int) -> Traced:
    """The real (0) or imaginary part (1), with the last axis."""
    axis = pair.dim() - 1
    return t.emit("slice", pair, part="part", axis=axis, start=which, stop=which + 1)


def transformed(
    t: Tracer, x: Traced, axis: int, size: int | None, inverse: bool, half: bool, norm: str | None, name: str
) -> Traced:
    """One axis of parts transformed."""
    places = x.sizes[axis]
    count = size if size is not None else 2 * (places - 1) if half and inverse else places
    out = [*x.sizes[:-1], 1 if half and inverse else 2]
    out[axis] = count // 2 + 1 if half and not inverse else count
    length = whole_number(t, count) if size is not None or (half and inverse) else None
    made = t.standard(
        "DFT", (x, length, whole_number(t, axis)), out, part=name, inverse=int(inverse), onesided=int(half)
    )
    factor = {None: 1.0, "backward": 1.0, "ortho": sqrt(count) if inverse else 1 / sqrt(count),
              "forward": float(count) if inverse else 1 / count}[norm]  # fmt: skip
    return made if factor == 1 else t.emit("mul", made, t.number(factor, made), part=f"{name}.norm")


def _transform(kind: str, axes: int) -> Handler:
    """fft, ifft, rfft, irfft along 1 axis, 2 axes, or any (0)."""
    inverse, half = kind in ("ifft", "irfft"), kind in ("rfft", "irfft")

    def handler(t: Tracer, x: Any, *args: Any, **kwargs: Any) -> Any:
        words = ("n", "dim", "norm") if axes == 1 else ("s", "dim", "norm")
        given = {**dict(zip(words, args, strict=False)), **kwargs}
        rank = x.dim()
        sizes, dims = given.get(words[0]), given.get("dim")
        if axes == 1:
            sizes, dims = [sizes], [-1 if dims is None else dims]
        elif dims is None:
            dims = (-2, -1) if axes == 2 else tuple(range(rank)) if sizes is None else tuple(range(-len(sizes), 0))
        sizes = [None] * len(dims) if sizes is None else [None if s in (None, -1) else int(s) for s in sizes]
        along = [(axis_of(d, rank), s) for d, s in zip(dims, sizes, strict=True)]
        value = parts(t, x)
        order = [*along[:-1], along[-1]] if kind == "irfft" else along[::-1]
        for k, (axis, size) in enumerate(order):
            last = k == (len(order) - 1 if kind == "irfft" else 0)
            value = transformed(t, value, axis, size, inverse, half and last, given.get("norm"), f"axis{axis}")
        if kind == "irfft":
            return t.emit("squeeze", value, axes=(value.dim() - 1,))
        return paired(t, value)

    return handler


for _kind in ("fft", "ifft", "rfft", "irfft"):
    for _axes, _end in ((1, ""), (2, "2"), (0, "n")):
        picks(f"fft_{_kind}{_end}")(_transform(_kind, _axes))
        COMPLEX[f"fft_{_kind}{_end}"] = HANDLERS[f"fft_{_kind}{_end}"]


@picks("stft")
def stft(
    t: Tracer, x: Traced, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Any = None,
    center: bool = True, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
    return_complex: bool | None = None, align_to_window: bool | None = None,
) -> Any:  # fmt: skip
    """Pieces of signals (n, samples), each times a window, transformed: (n, frequencies, pieces)."""
    if x.dim() != 2 or align_to_window or (win_length is not None and win_length != n_fft):
        return NotImplemented
    step = hop_length or n_fft // 4
    if center:
        line = t.emit("unsqueeze", x, part="line", axes=(1,))
        around = HANDLERS["pad"](t, line, (n_fft // 2, n_fft // 2), pad_mode)
        x = t.emit("squeeze", around, part="padded", axes=(1,))
    half = onesided is not False
    pieces, bins = 1 + (x.sizes[1] - n_fft) // step, n_fft // 2 + 1 if half else n_fft
    weights = None if window is None else real(t, window)
    signal = t.emit("unsqueeze", real(t, x), part="signal", axes=(2,))
    made = t.standard(
        "STFT", (signal, whole_number(t, step), weights, whole_number(t, n_fft)), (x.sizes[0], pieces, bins, 2),
        onesided=int(half),
    )  # fmt: skip
    turned = t.emit("transpose", made, part="turned", perm=(0, 2, 1, 3))
    if normalized:
        turned = t.emit("mul", turned, t.number(1 / sqrt(n_fft), turned), part="norm")
    return paired(t, turned) if return_complex is not False else turned


# -- complex numbers -----------------------------------------------------------------------------------------------


def complex_only(*names: str) -> Any:
    """Registers a handler for calls that a complex value goes into."""

    def register(handler: Handler) -> Handler:
        for name in names:
            COMPLEX[name] = handler
        return handler

    return register


@picks("view_as_complex")
def as_complex(t: Tracer, x: Traced) -> Any:
    """A last axis of two as real and imaginary parts."""
    return paired(t, real(t, x))


@complex_only("view_as_real")
def as_real(t: Tracer, x: Traced) -> Any:
    """Real and imaginary parts along a last axis."""
    return pair_of(x)


def _one(which: int) -> Handler:
    return lambda t, x: t.emit("squeeze", part(t, pair_of(x), which), axes=(x.dim(),))


complex_only("real")(_one(0))
complex_only("imag")(_one(1))


@complex_only("abs", "absolute")
def size(t: Tracer, x: Traced) -> Any:
    """√(re² + im²)."""
    square = t.emit("mul", pair_of(x), pair_of(x), part="square")
    return t.emit("sqrt", t.emit("reduce_sum", square, part="sum", axes=(x.dim(),), keepdims=False))


@complex_only("mul", "multiply", "rmul")
def product(t: Tracer, a: Any, b: Any) -> Any:
    """(a + bi)(c + di), or each part by a real number."""
    if isinstance(a, complex) or isinstance(b, complex):
        return NotImplemented
    one, two = parts(t, a), parts(t, b)
    if one.sizes[-1] == 1 or two.sizes[-1] == 1:
        return paired(t, t.emit("mul", one, two))
    ar, ai, br, bi = [part(t, v, k) for v in (one, two) for k in (0, 1)]

    def mul(v: Traced, w: Traced) -> Traced:
        return t.emit("mul", v, w, part="product")

    whole = t.emit("sub", mul(ar, br), mul(ai, bi), part="real")
    other = t.emit("add", mul(ar, bi), mul(ai, br), part="imaginary")
    return paired(t, t.emit("concat", whole, other, part="both", axis=whole.dim() - 1))


def _sum(op: str) -> Handler:
    def handler(t: Tracer, a: Any, b: Any, *, alpha: float = 1) -> Any:
        one, two = parts(t, a), parts(t, b)
        return paired(t, t.emit(op, one, two)) if one.sizes[-1] == two.sizes[-1] == 2 and alpha == 1 else NotImplemented

    return handler


complex_only("add", "iadd", "radd")(_sum("add"))
complex_only("sub", "isub", "subtract")(_sum("sub"))


@complex_only("div", "truediv", "divide")
def quotient(t: Tracer, a: Any, b: Any) -> Any:
    """Each part by a real number."""
    one, two = parts(t, a), parts(t, b)
    return paired(t, t.emit("div", one, two)) if two.sizes[-1] == 1 else NotImplemented


@complex_only("conj", "resolve_conj", "contiguous", "clone", "detach")
def same(t: Tracer, x: Traced) -> Any:
    """The same, or with the other sign of the imaginary part."""
    if t.func != "conj":
        return paired(t, pair_of(x))
    signs = t.value(torch.tensor([1.0, -1.0]))
    return paired(t, t.emit("mul", pair_of(x), signs))


@complex_only("permute")
def permuted(t: Tracer, x: Traced, *order: Any) -> Any:
    """Axes in another order."""
    axes: Sequence[int] = order[0] if len(order) == 1 and not isinstance(order[0], int) else order
    return paired(t, HANDLERS["permute"](t, pair_of(x), *(axis_of(a, x.dim()) for a in axes), x.dim()))


@complex_only("reshape", "view")
def reshaped(t: Tracer, x: Traced, *sizes: Any) -> Any:
    """Another shape."""
    wanted = list(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
    if -1 in wanted:
        wanted[wanted.index(-1)] = prod(x.sizes) // -prod(wanted)
    return paired(t, HANDLERS["reshape"](t, pair_of(x), *wanted, 2))

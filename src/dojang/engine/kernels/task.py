"""What an algorithm is asked to do, what it gives back, and the parts that all kernels share.

Activations lie as (n, pixel, channel), the channel fastest. The distance from pixel to pixel (`x_ld`, `y_ld`, in
elements) may exceed the channels, so that a layer can write into its slice of a concatenation.

Every kernel is a native function `kernel(args, unit, scratch)`: `args` is a table of 64-bit words (`X`, `W`, ...
below), `unit` says which part of the work to do, `scratch` is memory of the calling thread. Units are independent
and may run in any order on any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dojang.arith.conv import Conv
from dojang.base.record import plain_repr
from dojang.engine.kernels.activations import Activation
from dojang.native.emit import I64, KINDS, PTR, ElementType, Emit, SizeValue, Value
from dojang.native.families import Peaks
from dojang.native.jit import Recipe
from dojang.native.machine import Machine

X, W, B, Y, R, N, S0, S1, AHEAD, BEHIND, LINES = range(11)
"""Words of the argument table: input, weights, bias, output, residual, number of images, two shared scratch areas; the
weights that will be needed next (for units of the first half, and of the second), and how many lines of them to fetch.
"""
SIZES = 11
"""From here on, sizes that the code does not depend on (`Step.sizes`)."""
WORDS = 32


@plain_repr
@dataclass(frozen=True, slots=True)
class Sparse:
    """A residual that is not there for every channel, nor of the outputs' size: output pixel (i, j) adds pixel
    (i · step[0], j · step[1]) of an image of `size`, output channel `before` + k its channel k of `channels`.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    channels: int
    before: int

    def pixel(self, b: Emit, image: Any, row: Any, column: Any) -> Any:
        """The pixel, counted over all images, that an output pixel adds."""
        line = b.add(b.mul(image, self.size[0]), b.mul(row, self.step[0]))
        return b.add(b.mul(line, self.size[1]), b.mul(column, self.step[1]))

    def there(self, b: Emit, channel: Any, lanes: int) -> Value:
        """Which of the output channels from `channel` on it has."""
        ends = (self.before, self.before + self.channels)
        before, after = (b.mask(b.sub(end, b.index(channel)), lanes) for end in ends)
        return b.and_(after, b.not_(before))


@plain_repr
@dataclass(frozen=True, slots=True)
class Task:
    """One convolution with what surrounds it: y = activation(conv(x) + bias + residual).

    `conv.n` is not looked at: kernels take any batch. `residual_ld` is 0 where nothing is added. `kind` is "f32" or
    "f64"; `strict` forbids algorithms that compute other sums than the definition's (Winograd, Fourier). With `halved`
    only the largest of every 2 × 2 results is stored (maximum pooling, stride 2); the lowering asks this of Winograd
    alone, and to read a `sparse` residual only of those that can.

    `resident_ratio`: bytes of the second cache of a core that packed weights may take from run to run, for each byte of
    the network's weights; 0 if they do not fit there. It matters for predictions only.
    """

    conv: Conv
    x_ld: int
    y_ld: int
    activation: Activation | None = None
    residual_ld: int = 0
    kind: str = "f32"
    strict: bool = False
    halved: bool = False
    sparse: Sparse | None = None
    resident_ratio: float = field(default=0.0, repr=False)

    @classmethod
    def of(cls, conv: Conv, **rest: Any) -> Task:
        """A task on arrays without gaps."""
        return cls(conv, rest.pop("x_ld", conv.ic), rest.pop("y_ld", conv.oc), **rest)

    def fetched(self, packed_bytes: float, peaks: Peaks) -> float:
        """Seconds in which so many bytes of packed weights come from memory, or, where weights stay in the second
        cache, in which those that do not fit there come from the shared one.

        Of weights that are read in turn a cache keeps all where they fit, and none where they are twice as many.
        """
        if not self.resident_ratio:
            return packed_bytes / (peaks.read_gbs * 1e9)
        beyond = packed_bytes / (self.resident_ratio * 4 * self.conv.weights) - 1
        return min(1.0, max(0.0, beyond)) * packed_bytes / (peaks.cache_gbs * 1e9)

    @property
    def element(self) -> ElementType:
        """The element type."""
        return KINDS[self.kind]


@plain_repr
@dataclass(frozen=True, slots=True)
class Offer:
    """What an algorithm would take for a task: predicted seconds for one image on one core."""

    seconds: float


@plain_repr
@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an algorithm does not take a task, as a part of a sentence: "grouped", "more than 2 dimensions"."""

    reason: str


@plain_repr
@dataclass(frozen=True)
class Step:
    """One native function, called `units(n)` times for n images. `recipe` names it in the cache of object code.

    `sizes` are numbers that the code reads from its argument table, so that steps that differ in them share it.
    """

    recipe: str
    build: Callable[[str], str]
    units: Callable[[int], int]
    sizes: tuple[int, ...] = ()

    @property
    def kernel(self) -> Recipe:
        """How the function named "kernel" is made; it depends on the module where `build` was written."""
        return Recipe(self.recipe, lambda: self.build("kernel"), self.build.__module__)


@plain_repr
@dataclass(frozen=True)
class Code:
    """What an algorithm emits: steps that run one after the other, and the memory they need.

    `scratch` is bytes per thread; `shared(n)` bytes of the two areas that all threads see, for n images.
    """

    steps: tuple[Step, ...]
    scratch: int = 0
    shared: Callable[[int], tuple[int, int]] = lambda n: (0, 0)


def begin(symbol: str, machine: Machine) -> Emit:
    """A builder for a kernel with the standard signature."""
    return Emit.begin(symbol, {"args": PTR, "unit": I64, "scratch": PTR}, machine, noalias=("args", "scratch"))


def word(b: Emit, slot: int, pointer: bool = True) -> Value:
    """A word of the argument table."""
    p = b.at(b.arg.args, 8 * slot)
    return b.pload(p) if pointer else b.sload(p, I64)


def form(task: Task) -> str:
    """All of a task that its code depends on, the size of its images aside."""
    c = task.conv
    layer = (c.ic, c.oc, c.kernel, c.stride, c.padding, c.dilation, c.groups, c.transposed)
    return f"{layer} {task.x_ld} {task.y_ld} {task.activation} {task.residual_ld} {task.kind} {task.sparse}"


def sizes(b: Emit, count: int) -> list[SizeValue]:
    """The first `count` sizes of a step, known at run time; to be read where the function begins."""
    assert SIZES + count <= WORDS
    return [SizeValue(b, word(b, SIZES + i, pointer=False)) for i in range(count)]


def table(words: Sequence[int], step: Step) -> list[int]:
    """The argument table of a step: `words` with the step's own sizes."""
    return [*words[:SIZES], *step.sizes, *[0] * (WORDS - SIZES - len(step.sizes))]


@plain_repr
@dataclass(frozen=True)
class Ahead:
    """Fetches of what the next step will read, one line with every turn of an inner loop.

    Weights of a network pass through the caches once per run: where they are fetched when needed, units wait for them.
    `base` is where this unit's share begins, `each` the lines of one register tile.
    """

    base: Value
    each: Value

    @classmethod
    def of(cls, b: Emit, unit: Value, units: int, tiles: int) -> Ahead:
        """For kernels of `units` units per image and `tiles` register tiles per unit."""
        total = b.mul(word(b, N, pointer=False), units)
        every = b.mul(total, tiles)
        each = b.udiv(b.add(word(b, LINES, pointer=False), b.sub(every, 1)), every)
        low = b.less(b.mul(unit, 2), total)
        base = b.select(low, word(b, AHEAD), word(b, BEHIND))
        base = b.select(b.less(0, each), base, word(b, W))  # an address that is there, where nothing comes next
        return cls(b.at(base, b.mul(b.mul(unit, tiles * 64), each)), each)

    def tile(self, b: Emit, index: Any) -> Ahead:
        """From a tile of the unit on."""
        return Ahead(b.at(self.base, b.mul(b.mul(self.each, 64), index)), self.each)

    def fetch(self, b: Emit, k: Any) -> None:
        """The line of turn k; the last one again where there are fewer."""
        b.prefetch(b.at(self.base, b.mul(b.imax(b.imin(k, b.sub(self.each, 1)), 0), 64)), locality=2)


def ceil_div(a: Any, b: Any) -> Any:
    """⌈a / b⌉."""
    return (a + (b - 1)) // b


def balanced(total: int, most: int) -> list[tuple[int, int]]:
    """`total` places cut into the fewest pieces of at most `most`, sizes differing by at most one: (start, count).

    >>> balanced(27, 14)
    [(0, 14), (14, 13)]
    """
    pieces = -(-total // most)
    small, larger = divmod(total, pieces)
    out, start = [], 0
    for i in range(pieces):
        count = small + (i < larger)
        out.append((start, count))
        start += count
    return out


def balanced_sizes(total: int, most: int) -> list[tuple[int, int]]:
    """The sizes of the pieces of `balanced`, and how many there are of each.

    >>> balanced_sizes(27, 14), balanced_sizes(28, 14)
    ([(14, 1), (13, 1)], [(14, 2)])
    """
    pieces = -(-total // most)
    small, larger = divmod(total, pieces)
    return [(n, many) for n, many in ((small + 1, larger), (small, pieces - larger)) if many]


def runs(items: Sequence[Any]) -> list[tuple[int, int]]:
    """Equal neighbours as (first index, how many).

    >>> runs("abbb")
    [(0, 1), (1, 3)]
    """
    out: list[tuple[int, int]] = []
    for i, item in enumerate(items):
        if out and items[out[-1][0]] == item:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((i, 1))
    return out


def tap_range(b: Emit, place: Value | int, stride: int, pad: int, dilation: int, kernel: int, size: int):
    """The taps lo..hi of a window at output `place` that fall on the input, and where the window begins."""
    start = b.sub(b.mul(place, stride), pad)
    if pad == 0:
        lo: Any = 0
    else:
        lo = b.udiv(b.add(b.imax(b.sub(0, start), 0), dilation - 1), dilation)
    hi = b.imin(b.udiv(b.add(b.imax(b.sub(size, start), 0), dilation - 1), dilation), kernel)
    return start, lo, hi


def pack_vector(v: np.ndarray | None, groups: int, lanes: int, width: int, dtype: str) -> np.ndarray:
    """A bias (or zeros) of `groups` · `width` values, each group padded to whole vectors."""
    per = -(-width // lanes) * lanes
    out = np.zeros((groups, per), dtype)
    if v is not None:
        out[:, :width] = np.asarray(v, dtype).reshape(groups, width)
    return out.reshape(-1)


def lined(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An array that begins on a cache line, so that whole vectors do not straddle two lines; its numbers undefined."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].view(dtype).reshape(shape)


def on_line(array: np.ndarray) -> np.ndarray:
    """The array, or a copy of it that begins on a cache line."""
    if array.ctypes.data % 64 == 0:
        return array
    out = lined(array.shape, array.dtype.str)
    out[...] = array
    return out

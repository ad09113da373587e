"""What one compiled picture kernel does, as plain values: the interface between the planner and the code generator."""

from __future__ import annotations

from dataclasses import dataclass

from dojang.base.record import plain_repr
from dojang.native.emit import F32, F64, I16, KINDS, U16, ElementType
from dojang.native.machine import Machine

RowTap = tuple[int, float]  # (elements to the right, tap)
Tap = tuple[int, int, int, float]  # (rows down, segment, elements to the right, tap)


@plain_repr
@dataclass(frozen=True, slots=True)
class Finish:
    """How an accumulated sum becomes a pixel: sum · scale + offset, rounded and saturated for integers.

    For 16-bit integer sums the scale may be done without floats: `shift` divides by 2^shift, halves to even;
    `magic` = (add, multiply, shift) gives ⌊(sum + add) · multiply / 2^(16 + shift)⌋, checked over all sums.
    """

    scale: float = 1.0
    offset: float = 0.0
    shift: int = 0
    magic: tuple[int, int, int] | None = None


class ByRows:
    """The base of programs that compute every result row in the same way from the rows that its kernel spans."""

    __slots__ = ()
    extent: int
    stride: tuple[int, int]

    @property
    def grid(self) -> int:
        """A part of the picture may begin at any row."""
        return 1

    @property
    def keep(self) -> int:
        """Rows that two neighbouring blocks both need."""
        return max(self.extent - self.stride[0], 0)


class OfKinds:
    """The element types that a program names."""

    __slots__ = ()
    source: str
    target: str

    @property
    def source_kind(self) -> ElementType:
        """The element type of the picture."""
        return KINDS[self.source]

    @property
    def target_kind(self) -> ElementType:
        """The element type of the result."""
        return KINDS[self.target]


class OfSums(OfKinds):
    """The element types of programs that name that of their sums, too."""

    __slots__ = ()
    work: str
    unsigned: bool

    @property
    def work_kind(self) -> ElementType:
        """The element type of the sums."""
        return {"i16": U16 if self.unsigned else I16, "f32": F32, "f64": F64}[self.work]


@plain_repr
@dataclass(frozen=True, slots=True)
class RowProgram(ByRows, OfSums):
    """Passes over rows held in a tile that stays in cache.

    Every padded row is loaded once into the tile as `work` elements. With `segments` it is first run through the
    horizontal passes, and the tile holds their results side by side. An output is one part, or two whose root of
    squares is taken; a part sums its taps over the tile. With `dense` = (kh, kw, row step, column step) there is one
    output whose taps come from memory, row by row.
    """

    source: str
    target: str
    work: str
    unsigned: bool
    channels: int
    extent: int
    reach: int
    segments: tuple[tuple[RowTap, ...], ...]
    outputs: tuple[tuple[tuple[Tap, ...], ...], ...]
    finishes: tuple[Finish, ...]
    dense: tuple[int, int, int, int] | None
    stride: tuple[int, int]
    fill: float
    rows: int
    vectors: int

    def chunk(self, machine: Machine) -> int:
        """Elements computed at a time; a picture's rows must have as many."""
        return machine.lanes(self.work_kind.bytes) * self.vectors

    @property
    def advance(self) -> int:
        """Rows loaded for one block of `rows` output rows."""
        return self.rows * self.stride[0]

    @property
    def tile_rows(self) -> int:
        """Rows of the tile: what is kept and some blocks, so that moving the kept rows to the top costs little."""
        blocks = max(2, -(-2 * self.keep // self.advance))
        return self.keep + min(blocks, 16) * self.advance

    def tile_width(self, machine: Machine) -> int:
        """Output elements of a tile's row, whole pixels: as many as half of level 2 cache holds.

        Long rows, since each new row is a new stream from memory; at least 512 and four times the kernel's reach,
        since that much is loaded once more for every tile.
        """
        row_bytes = self.work_kind.bytes * max(1, len(self.segments)) * self.tile_rows
        width = min(max(machine.l2 // 2 // row_bytes, 512, 4 * self.reach), 1 << 14)
        step = self.tile_step(machine)
        return max(-(-width // step) * step, -(-self.chunk(machine) // self.channels) * self.channels)

    def tile_step(self, machine: Machine) -> int:
        """What the width of a tile is a multiple of: whole pixels, and where that is not too many whole chunks."""
        both = self.chunk(machine) * self.channels
        return both if both <= 2048 else self.channels

    def pitch(self, machine: Machine) -> int:
        """Elements from one tile row's segment to the next: loads may run one chunk past the end."""
        wide = self.tile_width(machine) + (0 if self.segments else self.reach) + self.chunk(machine)
        lanes = machine.lanes(self.work_kind.bytes)
        # An odd number of cache lines: rows that lie a power of two apart would fall into the same cache set.
        return (-(-wide // lanes) | 1) * lanes

    def scratch_bytes(self, machine: Machine, inner: int) -> int:
        """Bytes that one thread needs, whatever the number of elements `inner` of a picture's row."""
        del inner
        tile = self.tile_rows * self.pitch(machine) * max(1, len(self.segments)) * self.work_kind.bytes
        line = (self.tile_width(machine) + self.reach + 2 * self.chunk(machine)) * self.work_kind.bytes
        out = (self.rows * max(1, len(self.outputs)) + 1) * self.out_line(machine)
        return tile + line + out + 4 * 64

    def out_line(self, machine: Machine) -> int:
        """Bytes of one row in the output scratch."""
        return -(-(self.tile_width(machine) + self.chunk(machine)) * self.target_kind.bytes // 64) * 64

"""Fourier convolution of one channel: the lanes of a vector are as many tiles.

A row of each tile is read along itself, and a square of such vectors is transposed, so that the transforms are the same
code as where lanes are channels.
"""

from __future__ import annotations

from typing import Any

from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import activate
from dojang.engine.kernels.conv.fourier_stages import FourierStages
from dojang.native.emit import I64, Value
from dojang.native.transforms import Complex, Line

X, PIXEL, ROW, ROWS, COLUMN, COLUMNS, OUT_ROWS, OUT_COLUMNS = range(8)
"""Words of a tile: bytes of the first input, pixel of the first output, rows and columns in the image, outputs left."""
WORDS = 8


class Spread(FourierStages):
    """The code of one layer of one channel without gaps between its pixels."""

    @property
    def tiles_per_unit(self) -> int:
        """As many as lanes, twice that where a tile is one row."""
        return self.lanes * self.per_unit

    @property
    def spectrum_step(self) -> int:
        """One complex number: the same for all tiles."""
        return 2 * self.size

    def factor(self, at: Value) -> Complex:
        """A number of the spectrum in all lanes."""
        b = self.b
        return b.splat_load(at, self.kind), b.splat_load(b.at(at, self.size), self.kind)

    def enter(self, vector: Value, tile: Value, channels: int | None) -> Any:
        """Tables of the tiles of a unit, a tile a lane."""
        del vector, channels
        b = self.b
        tables = [b.local(I64.ir, self.lanes * WORDS) for _ in range(self.per_unit)]
        for k, table in enumerate(tables):

            def one(lane: Value, _: Any, k: int = k, table: Value = table) -> None:
                spot = self.spot(b.add(b.add(tile, k * self.lanes), lane))
                words = (spot.x, spot.pixel, *spot.rows, *spot.columns, spot.out_rows, spot.out_columns)
                at = b.at(table, b.mul(lane, 8 * WORDS))
                for w, value in enumerate(words):
                    b.store(b.index(value), b.at(at, 8 * w), align=8)

            b.loop(0, self.lanes, 1, one)
        return tables

    def any_row(self, spots: Any, y: Value) -> Value:
        """Tiles differ in their rows: always."""
        return self.b.less(0, 1)

    def most_rows(self, spots: Any) -> Value:
        """Rows of results of a full tile."""
        return self.cut.down

    def word(self, table: Value, lane: int, word: int) -> Value:
        """A word of a tile."""
        return self.b.sload(self.b.at(table, 8 * (lane * WORDS + word)), I64)

    def load_row(self, spot: Value, y: Value, part: int) -> None:
        """Row y of all tiles into one part of the first buffer, zeros where there is no image."""
        b, kind, line, lanes = self.b, self.kind, self.buffers[0], self.lanes
        x, pitch = t.word(b, t.X), self.c.size[1] * self.size
        tiles = []
        for lane in range(lanes):
            low, high = self.word(spot, lane, ROW), self.word(spot, lane, ROWS)
            inside = b.and_(b.less(b.sub(low, 1), y), b.less(y, high))
            last = b.select(inside, self.word(spot, lane, COLUMNS), b.index(0))
            row = b.at(x, self.word(spot, lane, X), b.mul(y, pitch))
            tiles.append((row, self.word(spot, lane, COLUMN), last))

        def some(j: Value, _: Any) -> None:
            rows = []
            for row, first, last in tiles:
                mask = b.and_(b.mask(b.sub(last, j), lanes), b.not_(b.mask(b.sub(first, j), lanes)))
                rows.append(b.vload(b.at(row, b.mul(j, self.size)), kind, mask=mask))
            for i, v in enumerate(b.transpose(rows)):
                b.vstore(v, b.at(line.base, b.mul(b.add(j, i), self.point), part), kind)

        b.loop(0, self.cut.width, lanes, lambda j, s: some(b.index(j), s))

    def store_row(self, spot: Value, vector: Value, y: Value, line: Line) -> None:
        """A row of results of all tiles with bias, residual and activation."""
        del vector
        b, kind, lanes, task = self.b, self.kind, self.lanes, self.task
        bias = b.splat_load(t.word(b, t.B), kind)
        out, res = t.word(b, t.Y), t.word(b, t.R)
        tiles = []
        for lane in range(lanes):
            pixel = b.add(self.word(spot, lane, PIXEL), b.mul(y, self.c.out_size[1]))
            last = b.select(b.less(y, self.word(spot, lane, OUT_ROWS)), self.word(spot, lane, OUT_COLUMNS), b.index(0))
            tiles.append((b.mul(pixel, self.size), last))

        def some(j: Value, _: Any) -> None:
            columns = [b.vload(b.at(line.base, b.mul(b.add(j, i), line.stride)), kind) for i in range(lanes)]
            for v, (at, last) in zip(b.transpose(columns), tiles, strict=True):
                mask, move = b.mask(b.sub(last, j), lanes), b.mul(j, self.size)
                v = b.fadd(v, bias)
                if task.residual_ld:
                    v = b.fadd(v, b.vload(b.at(res, at, move), kind, mask=mask))
                v = activate(b, v, task.activation, kind)
                b.vstore(v, b.at(out, at, move), kind, mask=mask)

        b.loop(0, self.cut.across, lanes, lambda j, s: some(b.index(j), s))

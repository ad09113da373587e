"""The stages of Fourier convolution as code: rows and columns of tiles, products, results.

A *signal* is one tile of one vector of channels. Two of its rows travel as the real and the imaginary part of one
complex row; after the transform they are told apart, since the transform of a real row at −f is the conjugate of that
at f, and only frequencies up to half the width are kept. Columns are then transformed as they stand. Where the kernel
has one row, a signal is two tiles of one row each, and there are no columns.
"""

from __future__ import annotations

from typing import Any

from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import activate
from dojang.engine.kernels.conv.fourier_tiles import FourierBlocking, TilePlace, axes_of
from dojang.engine.kernels.task import Task
from dojang.native.emit import Emit, Value
from dojang.native.machine import Machine
from dojang.native.transforms import Complex, ComplexArithmetic, Line, Transform, twiddles


class FourierStages:
    """The code of one layer while it is written. Lanes are channels."""

    def __init__(self, task: Task, cut: FourierBlocking, machine: Machine) -> None:
        """`task` has two dimensions."""
        self.task, self.c, self.cut, self.machine = task, task.conv, cut, machine
        self.kind, self.size = task.element, task.element.bytes
        self.lanes = machine.lanes(self.size)
        self.down, self.across = axes_of(task)
        self.plane = cut.height > 1
        self.high, self.wide = t.ceil_div(self.down.out, cut.down), t.ceil_div(self.across.out, cut.across)
        self.half = cut.width // 2 + 1
        self.part = self.lanes * self.size
        self.point = 2 * self.part
        self.pitch = self.point * (self.half | 1)  # odd, so that a column does not fall into few sets of the cache
        self.icg, self.ocg = self.c.ic // self.c.groups, self.c.oc // self.c.groups
        self.alone = self.icg == self.ocg == 1
        self.vectors = 1 if cut.spread else t.ceil_div(self.c.oc if self.alone else self.ocg, self.lanes)
        self.ic_row = t.ceil_div(self.c.ic, self.lanes) * self.part  # bytes
        self.oc_row = self.vectors * self.c.groups * self.part
        self.per_unit = 1 if self.plane else 2

    # -- memory -----------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of the scratch memory: whole pairs."""
        return t.ceil_div(self.cut.height, 2) * 2 if self.plane else 0

    @property
    def buffer(self) -> int:
        """Bytes of a buffer for one line."""
        return self.point * t.ceil_div(max(self.cut.height, self.cut.width), self.lanes) * self.lanes

    @property
    def scratch(self) -> int:
        """Bytes that a thread needs."""
        return self.rows * self.pitch + 2 * self.buffer

    @property
    def table_words(self) -> tuple[int, int]:
        """Numbers before the factors of columns, and before the spectrum; whole cache lines."""
        line = 64 // self.size
        across, down = (len(twiddles(n, self.machine.registers)) for n in (self.cut.width, self.cut.height))
        first = t.ceil_div(across, line) * line
        return first, first + t.ceil_div(down, line) * line

    @property
    def frequencies(self) -> int:
        """That are kept."""
        return self.half * self.cut.height

    def tiles(self, images: int) -> int:
        """All tiles."""
        return images * self.high * self.wide

    def padded_tiles(self, images: int) -> int:
        """All tiles, rounded up to whole register tiles and units."""
        step = self.cut.pixels * self.per_unit
        return t.ceil_div(self.tiles(images), step) * step

    # -- kernels ----------------------------------------------------------------------------------------------------

    def start(self, symbol: str) -> Emit:
        """A builder, with what all kernels use."""
        b = self.b = t.begin(symbol, self.machine)
        first, second = self.table_words
        w = t.word(b, t.W)
        numbers = self.numbers = ComplexArithmetic(b, self.kind)
        self.lines = Transform(numbers, self.cut.width, w)
        self.columns = Transform(numbers, self.cut.height, b.at(w, first * self.size))
        self.spectrum = b.at(w, second * self.size)
        base = b.at(b.arg.scratch, self.rows * self.pitch)
        self.buffers = [Line(b.at(base, k * self.buffer), self.point, self.part) for k in (0, 1)]
        self.total = b.mul(t.word(b, t.N, pointer=False), self.high * self.wide)
        if self.cut.pixels:
            step = self.cut.pixels * self.per_unit
            self.padded = b.mul(b.udiv(b.add(self.total, step - 1), step), step)
        return b

    def decode(self, vectors: int) -> tuple[Value, Value]:
        """(vector of channels, first tile) of the unit."""
        b = self.b
        return b.urem(b.arg.unit, vectors), b.mul(b.udiv(b.arg.unit, vectors), self.tiles_per_unit)

    @property
    def tiles_per_unit(self) -> int:
        """One; two where a tile is one row."""
        return self.per_unit

    def whole(self, symbol: str) -> str:
        """All stages of one signal, for channels by themselves."""
        b = self.start(symbol)
        vector, tile = self.decode(self.vectors)
        spots = self.enter(vector, tile, self.c.ic)
        if self.plane:
            self.rows_in(spots, lambda row, f, v: self.put(v, self.column(f), row))
            spectrum = b.at(self.spectrum, b.mul(vector, self.frequencies * self.spectrum_step))

            def column(f: Value, _: Any) -> None:
                line = self.columns.write(self.column(f), self.buffers)
                self.multiply_column(line, b.at(spectrum, b.mul(f, self.cut.height * self.spectrum_step)))
                self.columns.write(line, self.buffers, source_buffer=0, target=self.column(f), inverse=True)

            b.loop(0, self.half, 1, column)
            self.rows_out(spots, vector, lambda row, f: self.take(self.column(f), row))
        else:
            line = self.row_in(spots, 0)
            held = self.held(line)
            self.multiply_row(line, b.at(self.spectrum, b.mul(vector, self.frequencies * self.spectrum_step)))
            self.row_out(spots, vector, 0, self.lines.write(line, self.buffers, source_buffer=held, inverse=True))
        return b.finish()

    def forward(self, symbol: str) -> str:
        """The transform of one signal to [frequency][tile][re, im][ic] in the first shared area."""
        b = self.start(symbol)
        vector, tile = self.decode(self.ic_row // self.part)
        spots = self.enter(vector, tile, self.c.ic)
        row = 2 * self.ic_row
        base = b.at(t.word(b, t.S0), b.mul(tile, row), b.mul(vector, self.part))
        every = b.mul(self.padded, row)  # from frequency to frequency
        if self.plane:
            self.rows_in(spots, lambda y, f, v: self.put(v, self.column(f), y))

            def column(f: Value, _: Any) -> None:
                out = Line(b.at(base, b.mul(b.mul(f, self.cut.height), every)), every, self.ic_row)
                self.columns.write(self.column(f), self.buffers, target=out)

            b.loop(0, self.half, 1, column)
        else:
            out = Line(base, every, self.ic_row)
            line = self.row_in(spots, 0)
            self.tell_apart(line, lambda k, f, v: self.put(v, Line(b.at(out.base, k * row), every, self.ic_row), f))
        return b.finish()

    def back(self, symbol: str) -> str:
        """One signal from [frequency][tile][re, im][oc] in the second shared area to the output."""
        b = self.start(symbol)
        vector, tile = self.decode(self.oc_row // self.part)
        spots = self.enter(vector, tile, None)
        row = 2 * self.oc_row
        base = b.at(t.word(b, t.S1), b.mul(tile, row), b.mul(vector, self.part))
        every = b.mul(self.padded, row)
        if self.plane:

            def column(f: Value, _: Any) -> None:
                source = Line(b.at(base, b.mul(b.mul(f, self.cut.height), every)), every, self.oc_row)
                self.columns.write(source, self.buffers, target=self.column(f), inverse=True)

            b.loop(0, self.half, 1, column)
            self.rows_out(spots, vector, lambda y, f: self.take(self.column(f), y))
        else:
            lines = [Line(b.at(base, k * row), every, self.oc_row) for k in (0, 1)]
            self.together(lambda k, f: self.take(lines[k], f))
            self.row_out(
                spots, vector, 0, self.lines.write(self.buffers[0], self.buffers, source_buffer=0, inverse=True)
            )
        return b.finish()

    def product(self, symbol: str, some: int) -> str:
        """Y[f] = K[f] X[f] for `some` frequencies, all tiles, one block of output channels of one group."""
        b = self.start(symbol)
        full, rest = divmod(self.vectors, self.cut.vectors)
        per_group = full + (rest > 0)
        parts = per_group * self.c.groups
        block, first = b.urem(b.arg.unit, parts), b.mul(b.udiv(b.arg.unit, parts), some)
        group, inner = b.udiv(block, per_group), b.urem(block, per_group)
        k_group = self.icg * self.vectors * self.point
        x = b.at(t.word(b, t.S0), b.mul(group, self.icg * self.size))
        y = b.at(t.word(b, t.S1), b.mul(group, self.vectors * self.part), b.mul(inner, self.cut.vectors * self.part))
        k = b.at(self.spectrum, b.mul(group, k_group), b.mul(inner, self.icg * self.cut.vectors * self.point))

        def one(f: Value, _: Any) -> None:
            rows = b.mul(f, self.padded)
            xf, yf = b.at(x, b.mul(rows, 2 * self.ic_row)), b.at(y, b.mul(rows, 2 * self.oc_row))
            kf = b.at(k, b.mul(f, k_group * self.c.groups))
            if full and rest:
                b.choose(b.less(inner, full), lambda: self.matrix(xf, kf, yf, self.cut.vectors),
                         lambda: self.matrix(xf, kf, yf, rest))  # fmt: skip
            else:
                self.matrix(xf, kf, yf, rest or self.cut.vectors)

        b.loop(first, b.imin(b.add(first, some), self.frequencies), 1, one)
        return b.finish()

    def matrix(self, x: Value, k: Value, y: Value, vectors: int) -> None:
        """Complex products of all tiles with `vectors` of output channels, summed over the input channels."""
        b, kind, pixels = self.b, self.kind, self.cut.pixels
        zero = b.const(kind, 0)

        def rows(r: Value, _: Any) -> None:
            xr, yr = b.at(x, b.mul(r, 2 * self.ic_row)), b.at(y, b.mul(r, 2 * self.oc_row))

            def channel(i: Value, sums: list[Value]) -> list[Value]:
                at = b.at(k, b.mul(i, vectors * self.point))
                re, im = ([b.vload(b.at(at, (p * vectors + v) * self.part), kind) for v in range(vectors)]
                          for p in (0, 1))  # fmt: skip
                out = list(sums)
                for p in range(pixels):
                    place = b.at(xr, b.mul(i, self.size), p * 2 * self.ic_row)
                    one, other = b.splat_load(place, kind), b.splat_load(b.at(place, self.ic_row), kind)
                    less = b.fneg(other)
                    for v in range(vectors):
                        q = 2 * (p * vectors + v)
                        out[q] = b.fma(less, im[v], b.fma(one, re[v], out[q]))
                        out[q + 1] = b.fma(other, re[v], b.fma(one, im[v], out[q + 1]))
                return out

            sums = b.loop(0, self.icg, 1, channel, [zero] * (2 * pixels * vectors))
            for p in range(pixels):
                for v in range(vectors):
                    at = b.at(yr, p * 2 * self.oc_row + v * self.part)
                    b.vstore(sums[2 * (p * vectors + v)], at, kind)
                    b.vstore(sums[2 * (p * vectors + v) + 1], b.at(at, self.oc_row), kind)

        b.loop(0, self.padded, pixels, rows)

    # -- lines ------------------------------------------------------------------------------------------------------

    @property
    def spectrum_step(self) -> int:
        """Bytes of one frequency of one vector."""
        return self.point

    def column(self, f: Value) -> Line:
        """Column f of the scratch memory."""
        return Line(self.b.at(self.b.arg.scratch, self.b.mul(f, self.point)), self.pitch, self.part)

    def take(self, line: Line, k: Value) -> Complex:
        """Number k of a line."""
        return self.lines.load(self.b.at(line.base, self.b.mul(k, line.stride)), line)

    def put(self, v: Complex, line: Line, k: Value) -> None:
        """Number k of a line to memory."""
        self.lines.store(v, self.b.at(line.base, self.b.mul(k, line.stride)), line)

    def held(self, line: Line) -> int:
        """Which buffer a line is."""
        return self.buffers.index(line)

    def tell_apart(self, line: Line, put: Any) -> None:
        """Twice the transforms of the two real rows in a line of Z: Z[f] + Z̄[−f] and (Z[f] − Z̄[−f]) / i."""
        b = self.b

        def one(f: Value, _: Any) -> None:
            back = b.select(b.less(0, f), b.sub(b.index(self.cut.width), f), b.index(0))
            (xr, xi), (yr, yi) = self.take(line, f), self.take(line, back)
            put(0, f, (b.fadd(xr, yr), b.fsub(xi, yi)))
            put(1, f, (b.fadd(xi, yi), b.fsub(yr, xr)))

        b.loop(0, self.half, 1, one)

    def together(self, take: Any) -> None:
        """Two half spectra, of real rows, as one line of Z = X + iY in the first buffer."""
        b, line = self.b, self.buffers[0]

        def one(f: Value, _: Any) -> None:
            back = b.select(b.less(0, f), b.sub(b.index(self.cut.width), f), b.index(0))
            (xr, xi), (yr, yi) = take(0, f), take(1, f)
            self.put((b.fsub(xr, yi), b.fadd(xi, yr)), line, f)
            self.put((b.fadd(xr, yi), b.fsub(yr, xi)), line, back)

        b.loop(0, self.half, 1, one)

    def factor(self, at: Value) -> Complex:
        """A number of the spectrum."""
        return self.b.vload(at, self.kind), self.b.vload(self.b.at(at, self.part), self.kind)

    def multiply_column(self, line: Line, k: Value) -> None:
        """A column times the kernel's."""
        b = self.b

        def one(f: Value, _: Any) -> None:
            v = self.numbers.times(self.take(line, f), self.factor(b.at(k, b.mul(f, self.spectrum_step))))
            self.put(v, line, f)

        b.loop(0, self.cut.height, 1, one)

    def multiply_row(self, line: Line, k: Value) -> None:
        """A line of two real rows times one real kernel's spectrum, of which half is kept."""
        b = self.b

        def one(f: Value, _: Any) -> None:
            w = self.factor(b.at(k, b.mul(f, self.spectrum_step)))
            back = b.sub(b.index(self.cut.width), f)
            mirrored = self.take(line, back) if not isinstance(f, int) else None
            self.put(self.numbers.times(self.take(line, f), w), line, f)
            if mirrored is not None:
                self.put(self.numbers.times(mirrored, w, conjugate=True), line, back)

        b.loop(0, 1, 1, one)
        b.loop(1, (self.cut.width + 1) // 2, 1, lambda f, s: one(b.index(f), s))
        if self.cut.width % 2 == 0:
            b.loop(self.half - 1, self.half, 1, one)

    # -- rows -------------------------------------------------------------------------------------------------------

    def rows_in(self, spots: Any, put: Any) -> None:
        """All rows of a tile, two at a time, to the scratch memory."""
        b = self.b
        zero = b.const(self.kind, 0)

        def pair(y: Value, _: Any) -> None:
            def some() -> None:
                self.tell_apart(self.row_in(spots, y), lambda k, f, v: put(b.add(y, k), f, v))

            def none() -> None:
                b.loop(0, self.half, 1, lambda f, _: [put(b.add(y, k), f, (zero, zero)) for k in (0, 1)][:0])

            b.choose(self.any_row(spots, y), some, none)

        b.loop(0, self.rows, 2, pair)

    def row_in(self, spots: Any, y: Value) -> Line:
        """Rows y and y + 1 of a tile (row 0 of two tiles) as one complex row, transformed."""
        for k in (0, 1):
            spot, row = (spots[0], self.b.add(y, k)) if self.plane else (spots[k], 0)
            self.load_row(spot, row, k * self.part)
        return self.lines.write(self.buffers[0], self.buffers, source_buffer=0)

    def rows_out(self, spots: Any, vector: Value, take: Any) -> None:
        """All rows of results."""

        def pair(y: Value, _: Any) -> None:
            self.together(lambda k, f: take(self.b.add(y, k), f))
            self.row_out(
                spots, vector, y, self.lines.write(self.buffers[0], self.buffers, source_buffer=0, inverse=True)
            )

        self.b.loop(0, self.most_rows(spots), 2, pair)

    def row_out(self, spots: Any, vector: Value, y: Value, line: Line) -> None:
        """Two rows of results (one row of two tiles) to the output."""
        for k in (0, 1):
            spot, row = (spots[0], self.b.add(y, k)) if self.plane else (spots[k], 0)
            self.store_row(spot, vector, row, Line(self.b.at(line.base, k * self.part), line.stride, 0))

    # -- tiles ------------------------------------------------------------------------------------------------------

    def spot(self, tile: Value) -> TilePlace:
        """Where a tile lies; nothing of it is in the image where there is no such tile."""
        b, c = self.b, self.c
        (height, width), (oh, ow) = c.size, c.out_size
        image, inside = b.udiv(tile, self.high * self.wide), b.urem(tile, self.high * self.wide)
        oy, ox = b.mul(b.udiv(inside, self.wide), self.cut.down), b.mul(b.urem(inside, self.wide), self.cut.across)
        iy, ix = b.sub(oy, self.down.pad), b.sub(ox, self.across.pad)
        there = b.less(tile, self.total)

        def span(start: Value, size: int, length: int) -> tuple[Value, Value]:
            low = b.imin(b.imax(b.sub(0, start), 0), length)
            high = b.imax(b.imin(b.sub(size, start), length), low)
            return low, b.select(there, b.index(high), b.index(low))

        axes = ((self.cut.height, self.cut.down, self.down), (self.cut.width, self.cut.across, self.across))
        last = [min(length, outputs + axis.extent - 1) for length, outputs, axis in axes]
        left = lambda start, size, most: b.select(  # noqa: E731
            there, b.index(b.imin(b.sub(size, start), most)), b.index(0)
        )
        return TilePlace(
            b.mul(b.add(b.mul(b.add(b.mul(image, height), iy), width), ix), self.task.x_ld * self.size),
            b.add(b.mul(b.add(b.mul(image, oh), oy), ow), ox),
            span(iy, height, last[0]), span(ix, width, last[1]),
            left(oy, oh, self.cut.down), left(ox, ow, self.cut.across),
        )  # fmt: skip

    def enter(self, vector: Value, tile: Value, channels: int | None) -> Any:
        """The tiles of a unit; `channels` is how many the input has."""
        b = self.b
        if channels is not None:
            self.x = b.at(t.word(b, t.X), b.mul(vector, self.part))
            self.x_mask = (
                b.mask(b.sub(channels, b.mul(vector, self.lanes)), self.lanes) if channels % self.lanes else None
            )
        return [self.spot(b.add(tile, k)) for k in range(self.per_unit)]

    def any_row(self, spots: Any, y: Value) -> Value:
        """Whether row y or y + 1 holds anything."""
        b, (low, high) = self.b, spots[0].rows
        return b.and_(b.less(y, high), b.less(low, b.add(y, 2)))

    def most_rows(self, spots: Any) -> Value:
        """Rows of results."""
        return spots[0].out_rows

    def load_row(self, spot: TilePlace, y: Value, part: int) -> None:
        """Row y of a tile into one part of the first buffer, zeros where there is no image."""
        b, kind, line = self.b, self.kind, self.buffers[0]
        zero, pixel = b.const(kind, 0), self.task.x_ld * self.size
        place = lambda j: b.at(line.base, b.mul(j, self.point), part)  # noqa: E731

        def clear(low: Value, high: Value) -> None:
            b.loop(low, high, 1, lambda j, _: b.vstore(zero, place(j), kind))

        def copy() -> None:
            low, high = spot.columns
            row = b.at(self.x, spot.x, b.mul(y, self.c.size[1] * pixel))
            clear(0, low)

            b.loop(low, high, 1, lambda j, _: b.vstore(
                b.vload(b.at(row, b.mul(j, pixel)), kind, mask=self.x_mask), place(j), kind))  # fmt: skip
            clear(high, self.cut.width)

        low, high = spot.rows
        inside = b.and_(b.less(b.sub(low, 1), y), b.less(y, high))
        b.choose(inside, copy, lambda: clear(0, self.cut.width))

    def store_row(self, spot: TilePlace, vector: Value, y: Value, line: Line) -> None:
        """A row of results with bias, residual and activation."""
        b, kind, task, size = self.b, self.kind, self.task, self.size
        if self.alone:
            channel, left = b.mul(vector, self.lanes), b.sub(self.c.oc, b.mul(vector, self.lanes))
        else:
            group, inner = b.udiv(vector, self.vectors), b.mul(b.urem(vector, self.vectors), self.lanes)
            channel, left = b.add(b.mul(group, self.ocg), inner), b.sub(self.ocg, inner)
        masked = (self.c.oc if self.alone else self.ocg) % self.lanes
        mask = b.mask(left, self.lanes) if masked else None
        bias = b.vload(b.at(t.word(b, t.B), b.mul(vector, self.part)), kind)
        pixel = b.add(spot.pixel, b.mul(y, self.c.out_size[1]))
        out = b.at(t.word(b, t.Y), b.mul(pixel, task.y_ld * size), b.mul(channel, size))
        res = b.at(t.word(b, t.R), b.mul(pixel, task.residual_ld * size), b.mul(channel, size))

        def one(j: Value, _: Any) -> None:
            v = b.fadd(b.vload(b.at(line.base, b.mul(j, line.stride)), kind), bias)
            if task.residual_ld:
                v = b.fadd(v, b.vload(b.at(res, b.mul(j, task.residual_ld * size)), kind, mask=mask))
            v = activate(b, v, task.activation, kind)
            b.vstore(v, b.at(out, b.mul(j, task.y_ld * size)), kind, mask=mask)

        b.choose(b.less(y, spot.out_rows), lambda: b.loop(0, spot.out_columns, 1, one) and None)

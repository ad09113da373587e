"""Constants of an ONNX file: their shapes are read at once, their numbers only when they are used."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dojang.arith.conv import by
from dojang.arith.precision import Precision
from dojang.base.errors import DataError, FileError, UnsupportedError
from dojang.base.reading import damaged_as, opened
from dojang.formats.onnx.batch import any_depends, depends
from dojang.formats.onnx.protobuf import Buffer, Message, varints

if TYPE_CHECKING:
    import numpy as np

FOLD_LIMIT = 1 << 12
"""Arithmetic while the graph is read uses constants of at most so many elements; shapes have a few."""

FILL_LIMIT = 1 << 28
"""The most bytes of a constant that repeats one value."""

MOST_AXES = 64
"""The most axes of a tensor; NumPy has the same limit."""

Sort = Literal["f", "i", "b", "s"]
"""Real numbers, whole numbers, truth values; text and numbers that nothing here computes with."""


@dataclass(frozen=True, slots=True)
class Type:
    """A tensor element type: NumPy's name, bytes, `struct` letter, and the typed field that may contain its values."""

    name: str
    size: int
    letter: str
    field: str
    sort: Sort
    bits: int = 0

    def bytes_of(self, count: int) -> int:
        """The bytes of so many elements; several may share one."""
        return -(-count * self.bits // 8) if self.bits else count * self.size


# float16 and bfloat16 are bit patterns in int32_data.
TYPES = {
    1: Type("float32", 4, "f", "float_data", "f"),
    2: Type("uint8", 1, "B", "int32_data", "i"),
    3: Type("int8", 1, "b", "int32_data", "i"),
    4: Type("uint16", 2, "H", "int32_data", "i"),
    5: Type("int16", 2, "h", "int32_data", "i"),
    6: Type("int32", 4, "i", "int32_data", "i"),
    7: Type("int64", 8, "q", "int64_data", "i"),
    9: Type("bool", 1, "?", "int32_data", "b"),
    10: Type("float16", 2, "e", "int32_data", "f"),
    11: Type("float64", 8, "d", "double_data", "f"),
    12: Type("uint32", 4, "I", "uint64_data", "i"),
    13: Type("uint64", 8, "Q", "uint64_data", "i"),
    16: Type("bfloat16", 2, "H", "int32_data", "f"),
    8: Type("string", 0, "", "string_data", "s"),
    14: Type("complex64", 8, "", "float_data", "s"),
    15: Type("complex128", 16, "", "double_data", "s"),
    17: Type("float8_e4m3fn", 1, "", "int32_data", "s"),
    18: Type("float8_e4m3fnuz", 1, "", "int32_data", "s"),
    19: Type("float8_e5m2", 1, "", "int32_data", "s"),
    20: Type("float8_e5m2fnuz", 1, "", "int32_data", "s"),
    21: Type("uint4", 1, "", "int32_data", "i", 4),
    22: Type("int4", 1, "", "int32_data", "i", 4),
    23: Type("float4_e2m1fn", 1, "", "int32_data", "s", 4),
    24: Type("float8_e8m0fnu", 1, "", "int32_data", "s"),
    25: Type("uint2", 1, "", "int32_data", "i", 2),
    26: Type("int2", 1, "", "int32_data", "i", 2),
}
FLOAT_TYPES = frozenset(code for code, t in TYPES.items() if t.sort == "f")
USUAL: dict[Sort, str] = {"f": "float32", "i": "int64", "b": "bool", "s": "string"}
"""The type of a constant that the reader makes itself."""
HELD = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8", "bfloat16": "float32"}
"""Types that NumPy does not have, and those whose arrays hold their values."""


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """An array that the file stores, as an initialiser or in a Constant node. `named`: its author chose its name, not
    an exporter. `dtype`: the type of its numbers.
    """

    name: str
    size: int
    sort: Sort
    named: bool = True
    dtype: str = ""


@dataclass(frozen=True, eq=False)
class Grid:
    """What whole numbers of a type stand for: their scales and zero points, one for all (`axis` None), or along an axis
    of the constant.
    """

    kind: str
    scale: Const
    zero: Const | None
    axis: int | None

    def precision(self) -> Precision | None:
        """The same with its numbers; None where they are none that whole numbers can have."""
        if not self.scale.small or (self.zero is not None and not (self.zero.small and self.zero.sort == "i")):
            return None
        import numpy as np

        scale = tuple(float(np.float32(s)) for s in self.scale.values())
        zero = tuple(int(z) for z in self.zero.values()) if self.zero is not None else (0,)
        if len(zero) == 1:
            zero *= len(scale)
        try:
            return Precision(self.kind, scale, zero, self.axis)
        except DataError:
            return None

    def transposed(self, perm: Sequence[int]) -> Grid:
        """Of the constant with its axes in another order."""
        return self if self.axis is None else replace(self, axis=tuple(perm).index(self.axis))

    def reshaped(self, old: Sequence[int], new: Sequence[int]) -> Grid | None:
        """Of the constant in another shape; None where its channels no longer are an axis."""
        if self.axis is None:
            return self
        before = prod(old[: self.axis])
        for axis, size in enumerate(new):
            if prod(new[:axis]) == before and size == old[self.axis]:
                return replace(self, axis=axis)
        return None


@dataclass(frozen=True, eq=False)
class Const:
    """A constant. `values()` are its numbers in row-major order (small ones only), `array()` is the float32 array.

    Constants with the same `source` are one array: it is a tensor of the file and how it was transposed or reshaped.
    `pieces` are the stored arrays from which the constant is computed in any form. `trained`: the file stores it in
    arrays of float type, which are parameters if a node reads them. `fill` is the value of a constant that has one
    value everywhere. `batched`: some of its numbers depend on the batch (`batch.py`). `sized`: it is computed from the
    size of an input.
    """

    shape: tuple[int, ...]
    sort: Sort
    read: Callable[[], list[Any]]
    load: Callable[[], Any]
    name: str = ""
    trained: bool = False
    fill: Any = None
    source: Hashable = None
    base: Const | None = None
    turn: tuple[str, tuple[int, ...]] = field(default=("", ()))
    batched: bool = False
    pieces: tuple[Piece, ...] = ()
    dtype: str = ""
    grid: Grid | None = None
    sized: bool = False

    @property
    def kind(self) -> str:
        """The name of its type; that of a cast constant is the usual one of its sort."""
        fits = self.dtype and next((t.sort for t in TYPES.values() if t.name == self.dtype), None) == self.sort
        return self.dtype if fits else USUAL[self.sort]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def small(self) -> bool:
        """Whether it is small enough for arithmetic while reading."""
        return self.size <= FOLD_LIMIT

    @property
    def key(self) -> Hashable:
        """A key that is equal for constants that are one array."""
        return self.source if self.source is not None else id(self)

    def values(self) -> list[Any]:
        """The numbers, row-major, as Python numbers; only for `small` constants."""
        if not self.small:
            raise UnsupportedError(f"constant {self.name!r} of {by(self.shape)} is too large to compute with")
        return self.read()

    def array(self) -> np.ndarray:
        """The float32 array; raises `FileError` if the data is missing."""
        import numpy as np

        found = np.ascontiguousarray(self.load(), dtype=np.float32)
        return found if found.shape == self.shape else found.reshape(self.shape)  # not a view of it

    def typed(self) -> np.ndarray:
        """The array in its own type; float32 for all real numbers of fewer bits."""
        import numpy as np

        kind = {"float16": "float32", "string": "object"}.get(self.kind, HELD.get(self.kind, self.kind))
        return np.array(self.load(), dtype=kind).reshape(self.shape)

    def loaded(self) -> np.ndarray:
        """The array as it is stored."""
        import numpy as np

        return np.asarray(self.load()).reshape(self.shape)

    def fresh(self, name: str) -> Const:
        """A copy that counts as another array."""
        pieces = tuple(replace(piece, name=name or piece.name) for piece in self.pieces)
        return replace(self, name=name, source=object(), pieces=pieces)

    @property
    def uniform(self) -> bool:
        """Whether it is small and all its numbers are equal."""
        return self.fill is not None or (self.small and self.size > 0 and len(set(self.values())) == 1)

    def transposed(self, perm: Sequence[int]) -> Const:
        """Axes in another order; two transpositions that cancel give the same array."""
        perm = tuple(perm)
        if perm == tuple(range(len(self.shape))):
            return self
        if (
            self.base is not None
            and self.turn[0] == "perm"
            and tuple(self.turn[1][p] for p in perm) == tuple(range(len(perm)))
        ):
            return self.base
        shape = tuple(self.shape[p] for p in perm)
        steps = strides(self.shape)

        def read() -> list[Any]:
            old = self.values()
            return [
                old[sum(i * steps[p] for i, p in zip(index, perm, strict=True))]
                for index in product(*(range(s) for s in shape))
            ]

        return replace(
            self,
            shape=shape,
            read=read,
            load=lambda: self.loaded().transpose(perm),
            source=(self.key, "perm", perm),
            base=self,
            turn=("perm", perm),
            grid=self.grid.transposed(perm) if self.grid is not None else None,
        )

    def reshaped(self, shape: Sequence[int]) -> Const:
        """The same numbers in another shape; reshaping back gives the same array."""
        shape = tuple(shape)
        if len(shape) > MOST_AXES:
            raise FileError(f"constant {self.name!r} gets {len(shape)} axes; a tensor has at most {MOST_AXES}")
        if shape == self.shape:
            return self
        first = self.base if self.base is not None and self.turn[0] == "shape" else self
        if first.shape == shape:
            return first
        return replace(
            self,
            shape=shape,
            load=lambda: self.loaded().reshape(shape),
            source=(first.key, "shape", shape),
            base=first,
            turn=("shape", ()),
            grid=first.grid.reshaped(first.shape, shape) if first.grid is not None else None,
        )

    def mapped(self, what: Hashable, shape: Sequence[int], change: Callable[[Any], Any]) -> Const:
        """The constant with `change` applied to its NumPy array when it is read."""
        shape = tuple(shape)
        load = lambda: change(self.array())  # noqa: E731 - read() needs it, too
        source = (self.key, what, shape)
        return replace(
            self, shape=shape, load=load, read=lambda: load().ravel().tolist(), source=source, base=None, fill=None,
            grid=None,
        )  # fmt: skip


LARGE = 1 << 21
"""Elements of a tensor that are read from a file at a time, and bytes from which its pages are worth giving back."""


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Steps in elements from one index to the next, per axis, row-major."""
    out = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        out[axis] = out[axis + 1] * shape[axis + 1]
    return tuple(out)


def of_values(values: Sequence[Any], shape: Sequence[int], sort: Sort, trained: bool = False, dtype: str = "") -> Const:
    """A constant from its numbers."""
    values, shape = list(values), tuple(shape)

    def load() -> Any:
        import numpy as np

        return np.array(values, np.float32 if sort == "f" else None).reshape(shape)

    batched = any_depends(values)
    fill = values[0] if len(values) == 1 and not batched else None
    return Const(shape, sort, lambda: values, load, trained=trained, fill=fill, batched=batched, dtype=dtype)


def of_fill(value: Any, shape: Sequence[int], sort: Sort, name: str = "", dtype: str = "") -> Const:
    """A constant that has one value everywhere; it takes no memory until its array is read. Sizes may be formulas."""
    shape = tuple(shape)
    if len(shape) > MOST_AXES or any(s < 0 for s in shape):
        raise FileError(f"constant {name!r} has sizes below 0 or more than {MOST_AXES} axes")

    def load() -> Any:
        import numpy as np

        if 4 * prod(shape) > FILL_LIMIT:
            raise FileError(
                f"constant {name!r} of {by(shape)} would take {4 * prod(shape)} bytes; the limit is {FILL_LIMIT}"
            )
        return np.full(shape, value, np.float32 if sort == "f" else None)

    batched = depends(value)
    return Const(shape, sort, lambda: [value] * prod(shape), load, name, fill=value, batched=batched, dtype=dtype)


def of_tensor(tensor: Message, folder: Path | None, trained: bool = False) -> Const:
    """The constant of a TensorProto. Its length must fit its shape; external data is in `folder`.

    Raises `FileError` for wrong lengths, negative sizes and data outside the folder, `UnsupportedError` for element
    types that are not plain numbers.
    """
    name, shape = tensor.get("name", ""), tuple(tensor.get("dims", ()))
    code = tensor.get("data_type", 0)
    if code not in TYPES:
        raise UnsupportedError(f"tensor {name!r} has element type {code}, which is not read; convert it to float32")
    kind = TYPES[code]
    if len(shape) > MOST_AXES or any(s < 0 for s in shape):
        raise FileError(f"tensor {name!r} has sizes below 0 or more than {MOST_AXES} axes")
    data: Buffer | None = None
    if tensor.get("data_location", 0) == 1:
        entries = {e.get("key", ""): e.get("value", "") for e in tensor.get("external_data", [])}
        place = _External.of(name, entries, folder, kind.bytes_of(prod(shape)))
    else:
        place = None
        data = tensor.get("raw_data")
        if data is None or (not len(data) and prod(shape)):
            return _of_field(tensor, name, shape, code, trained)
        if len(data) != kind.bytes_of(prod(shape)):
            raise FileError(
                f"tensor {name!r}: {by(shape)} of {kind.name} takes {kind.bytes_of(prod(shape))} bytes, the file has "
                f"{len(data)}"
            )

    def raw() -> Buffer:
        return place.view() if place is not None else data if data is not None else b""

    def read() -> list[Any]:
        if not kind.letter:
            return _numpy(raw(), code, shape).ravel().tolist()
        values = struct.unpack(f"<{prod(shape)}{kind.letter}", raw())
        return [widen(v) for v in values] if code == 16 else list(values)

    return Const(
        shape,
        kind.sort,
        read,
        lambda: _numpy(raw(), code, shape),
        name,
        trained and kind.sort == "f",
        source=object(),
        pieces=(Piece(name, prod(shape), kind.sort, dtype=kind.name),),
        dtype=kind.name,
    )


def _of_field(tensor: Message, name: str, shape: tuple[int, ...], code: int, trained: bool) -> Const:
    """A tensor whose numbers are in the field of its type."""
    kind = TYPES[code]
    if kind.sort == "s" or (not kind.letter and not kind.bits):
        return _not_numbers(tensor, name, shape, code)
    data: Buffer = tensor.get(kind.field, b"")
    wide = {"float_data": 4, "double_data": 8}.get(kind.field)
    # A varint takes 1 to 10 bytes, so impossible sizes are found without reading the numbers.
    # Of types below a byte several numbers share one.
    count = kind.bytes_of(prod(shape)) if kind.bits else prod(shape)
    fits = len(data) == wide * prod(shape) if wide else count <= len(data) <= 10 * count
    if not fits:
        raise FileError(f"tensor {name!r}: {by(shape)} of {kind.name} needs {prod(shape)} numbers, the file has others")

    def numbers() -> list[Any]:
        if wide:
            return list(struct.unpack(f"<{prod(shape)}{kind.letter}", data))
        values = varints(data)
        if kind.bits and len(values) == count:
            return _numpy(bytes(v & 0xFF for v in values), code, shape).ravel().tolist()
        if len(values) != prod(shape):
            raise FileError(f"tensor {name!r} needs {prod(shape)} numbers for {by(shape)}, the file has {len(values)}")
        if code == 16:
            return [widen(v & 0xFFFF) for v in values]
        if code == 10:
            return [struct.unpack("<e", struct.pack("<H", v & 0xFFFF))[0] for v in values]
        if code == 13:
            return [v & 0xFFFFFFFFFFFFFFFF for v in values]
        return [bool(v) for v in values] if code == 9 else values

    def load() -> Any:
        import numpy as np

        if wide:
            return _numpy(data, code, shape)
        return np.array(numbers(), np.float32 if kind.sort == "f" else HELD.get(kind.name, kind.name)).reshape(shape)

    pieces = (Piece(name, prod(shape), kind.sort, dtype=kind.name),)
    learned = trained and kind.sort == "f"
    return Const(
        shape, kind.sort, numbers, load, name, learned, source=object(), pieces=pieces, dtype=kind.name
    )  # fmt: skip


def _not_numbers(tensor: Message, name: str, shape: tuple[int, ...], code: int) -> Const:
    """A tensor of text, or of numbers that nothing here computes with: its size is known."""
    kind = TYPES[code]
    texts = tensor.get("string_data", ())
    if kind.name == "string" and len(texts) != prod(shape):
        raise FileError(f"tensor {name!r}: {by(shape)} of text needs {prod(shape)} pieces, the file has {len(texts)}")

    def load() -> Any:
        import numpy as np

        if kind.name != "string":
            raise UnsupportedError(f"tensor {name!r} has type {kind.name}, which is not computed with")
        return np.array([str(t, "utf-8", "replace") for t in texts], object).reshape(shape)

    pieces = (Piece(name, prod(shape), kind.sort, dtype=kind.name),)
    return Const(
        shape, kind.sort, lambda: load().ravel().tolist(), load, name, source=object(), pieces=pieces, dtype=kind.name
    )  # fmt: skip


def widen(bits: int) -> float:
    """The number of a bfloat16: the upper half of a float32."""
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def _numpy(data: Buffer, code: int, shape: tuple[int, ...]) -> Any:
    import numpy as np

    kind = TYPES[code]
    if code == 16:
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(shape)
    if kind.bits:
        parts = np.frombuffer(data, "u1")[:, None] >> np.arange(0, 8, kind.bits, dtype="u1") & (1 << kind.bits) - 1
        whole = parts.ravel()[: prod(shape)].astype("i1")
        if kind.name.startswith("int"):
            whole = np.where(whole >= 1 << (kind.bits - 1), whole - (1 << kind.bits), whole)
        if kind.sort == "i":
            return whole.astype(HELD[kind.name]).reshape(shape)
    if not kind.letter:
        raise UnsupportedError(f"weights of type {kind.name} are not computed with; convert them to float32")
    source = np.frombuffer(data, np.dtype(kind.name).newbyteorder("<"))
    if code not in (1, 10):
        return source.reshape(shape)
    array = np.empty(shape, np.float32)
    flat = array.reshape(-1)
    for at in range(0, flat.size, LARGE):  # memory holds few pages of the file beside the array
        flat[at : at + LARGE] = source[at : at + LARGE]
        _let_go(data)
    return array


def _let_go(data: Buffer) -> None:
    """Gives the pages of a mapped file that were read back, so that memory holds the weights once; they can be read
    again.
    """
    source = data.obj if isinstance(data, memoryview) else None
    if isinstance(source, mmap.mmap) and len(data) >= LARGE and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):
            source.madvise(mmap.MADV_DONTNEED)


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError
    return int(text)


@dataclass(frozen=True, slots=True)
class _External:
    """A part of a data file in the folder of the model."""

    path: Path
    offset: int
    length: int
    name: str
    location: str
    said: int

    @classmethod
    def of(cls, name: str, entries: dict[str, str], folder: Path | None, length: int) -> _External:
        location = entries.get("location", "")
        if folder is None:
            raise FileError(f"tensor {name!r} is in another file ({location!r}); load the model by its path")
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise FileError(
                f"tensor {name!r}: external data {location!r} is not a plain path in the model's folder; refused"
            )
        root = Path(os.path.realpath(folder))
        path = Path(os.path.realpath(root / location))
        if not path.is_relative_to(root):
            raise FileError(f"tensor {name!r}: external data {location!r} leads outside the model's folder; refused")
        try:
            offset, said = _digits(entries.get("offset") or "0"), _digits(entries.get("length") or str(length))
        except ValueError:
            raise FileError(
                f"tensor {name!r}: offset and length of its external data are not numbers; export the model again"
            ) from None
        place = cls(path, offset, length, name, location, said)
        if path.exists():
            place.check()
        return place

    def check(self) -> None:
        """Raises `FileError` unless the file is there and has these bytes; counting needs no file."""
        if not self.path.is_file():
            raise FileError(
                f"tensor {self.name!r}: its data file {self.location!r} is not in the model's folder; copy it there"
            )
        size = self.path.stat().st_size
        if self.said != self.length or self.offset < 0 or self.offset + self.length > size:
            raise FileError(
                f"tensor {self.name!r}: needs {self.length} bytes at {self.offset} of {self.location!r}, the file has "
                f"{size} and the model says {self.said}"
            )

    def view(self) -> Buffer:
        """The bytes."""
        self.check()
        if not self.length:
            return b""
        with opened(self.path) as file, damaged_as(str(self.path), "cannot be mapped"):
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(whole)[self.offset : self.offset + self.length]

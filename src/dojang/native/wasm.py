"""A linker for WebAssembly: objects that LLVM wrote become one module that a browser loads.

The module imports its memory ("env", "memory") and exports the functions that are named. Data of the objects, and a
stack for their local memory, lie at the beginning of the memory; the rest belongs to the caller. What an object calls
and no object defines is an error: kernels bring their own functions of numbers, and need no library.

Sources: WebAssembly Core Specification 2.0, section 5 (binary format); "Linking" of the tool conventions of
WebAssembly (symbol table and relocations of object files).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dojang.base.errors import UnsupportedError

MAGIC = b"\0asm\1\0\0\0"
STACK_BYTES = 128 << 10
"""Memory for local arrays of kernels, which are small; the stack grows down from here to address 0."""
PAGE = 64 << 10
_CUSTOM, _TYPE, _IMPORT, _FUNCTION, _GLOBAL, _EXPORT, _CODE, _DATA = 0, 1, 2, 3, 6, 7, 10, 11
_UNDEFINED, _NAMED = 0x10, 0x40  # flags of a symbol
_FUNCTION_INDEX, _TYPE_INDEX, _GLOBAL_INDEX = 0, 6, 7  # kinds of relocations
_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_WORD = 3, 4, 5
STACK_POINTER = "__stack_pointer"


@dataclass(frozen=True)
class WasmModule:
    """A linked module. `end` is the first address of memory that it does not use itself."""

    code: bytes
    end: int


@dataclass
class _Symbol:
    name: str
    kind: int  # 0 a function, 1 data, 2 a global
    defined: bool
    index: int = 0  # of the function or the global; of the segment
    offset: int = 0  # within the segment


@dataclass
class _Relocation:
    kind: int
    at: int
    index: int
    addend: int


@dataclass
class _Object:
    """The parts of one object. `types` of all functions that it defines, `bodies` as (place in the section, code)."""

    types: list[bytes] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)  # functions that it takes from elsewhere
    functions: list[int] = field(default_factory=list)
    bodies: list[tuple[int, bytearray]] = field(default_factory=list)
    segments: list[tuple[int, int, bytearray]] = field(default_factory=list)  # place in the section, alignment, bytes
    symbols: list[_Symbol] = field(default_factory=list)
    relocations: dict[str, list[_Relocation]] = field(default_factory=dict)


def link(objects: Sequence[tuple[bytes, Mapping[str, str]]]) -> WasmModule:
    """One module of all objects; each comes with the symbols that are exported, and the names that they get.

    Raises `UnsupportedError` for a call of what no object defines, and for objects that hold what kernels never do.
    """
    parts = [_read(data) for data, _ in objects]
    types: dict[bytes, int] = {}
    functions, bodies, exports = bytearray(), bytearray(), bytearray()
    count = exported = 0
    at, segments = STACK_BYTES, []
    for part, (_, names) in zip(parts, objects, strict=True):
        addresses = []
        for _, alignment, data in part.segments:
            at = -(-at // alignment) * alignment
            addresses.append(at)
            at += len(data)
        first = count - len(part.imported)  # from an index in the object to that in the module
        placed = _Placed(part, first, [types.setdefault(t, len(types)) for t in part.types], addresses)
        placed.relocate()
        for kind, (_, body) in zip(part.functions, part.bodies, strict=True):
            functions += leb(types[part.types[kind]])
            bodies += leb(len(body)) + body
        for symbol in part.symbols:
            if symbol.kind == 0 and symbol.defined and symbol.name in names:
                exports += _name(names[symbol.name]) + b"\0" + leb(first + symbol.index)
                exported += 1
        for address, (_, _, data) in zip(addresses, part.segments, strict=True):
            if any(data):
                segments.append(b"\0\x41" + sleb(address) + b"\x0b" + leb(len(data)) + bytes(data))
        count += len(part.functions)
    end = -(-at // 64) * 64
    memory = _name("env") + _name("memory") + b"\2\0" + leb(-(-end // PAGE))
    pointer = b"\x7f\x01\x41" + sleb(STACK_BYTES) + b"\x0b"  # i32, changing
    out = bytearray(MAGIC)
    out += _section(_TYPE, len(types), b"".join(types))
    out += _section(_IMPORT, 1, memory)
    out += _section(_FUNCTION, count, bytes(functions))
    out += _section(_GLOBAL, 1, pointer)
    out += _section(_EXPORT, exported, bytes(exports))
    out += _section(_CODE, count, bytes(bodies))
    out += _section(_DATA, len(segments), b"".join(segments)) if segments else b""
    return WasmModule(bytes(out), end)


@dataclass
class _Placed:
    """An object whose places in the module are known."""

    part: _Object
    first: int
    types: Sequence[int]
    addresses: Sequence[int]

    def relocate(self) -> None:
        """Writes the indices and addresses of the module into code and data."""
        part = self.part
        for section, pieces in (("CODE", part.bodies), ("DATA", [(at, data) for at, _, data in part.segments])):
            pending = sorted(part.relocations.get(section, ()), key=lambda r: r.at)
            k = 0
            for relocation in pending:
                while k + 1 < len(pieces) and pieces[k + 1][0] <= relocation.at:
                    k += 1
                start, piece = pieces[k]
                self.write(piece, relocation.at - start, relocation)

    def write(self, piece: bytearray, at: int, relocation: _Relocation) -> None:
        """One index or address."""
        kind, value = relocation.kind, self.value(relocation)
        if kind == _ADDRESS_WORD:
            piece[at : at + 4] = value.to_bytes(4, "little")
        else:
            piece[at : at + 5] = padded(value, signed=kind == _ADDRESS_SLEB)

    def value(self, relocation: _Relocation) -> int:
        """What a relocation stands for in the module."""
        if relocation.kind == _TYPE_INDEX:
            return self.types[relocation.index]
        symbol = self.part.symbols[relocation.index]
        if relocation.kind == _GLOBAL_INDEX and symbol.name == STACK_POINTER:
            return 0
        if not symbol.defined:
            raise UnsupportedError(f"WebAssembly code needs {symbol.name}, which no kernel defines")
        if relocation.kind == _FUNCTION_INDEX:
            return self.first + symbol.index
        if relocation.kind in (_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_WORD):
            return self.addresses[symbol.index] + symbol.offset + relocation.addend
        raise UnsupportedError(f"WebAssembly code has a relocation of type {relocation.kind}, which is not supported")


# -- reading objects --------------------------------------------------------------------------------------------------


class _WasmReader:
    """Bytes read from the front."""

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        """From `at` to `end`."""
        self.data, self.at, self.end = data, at, len(data) if end is None else end

    def more(self) -> bool:
        """Whether anything is left."""
        return self.at < self.end

    def byte(self) -> int:
        """One byte."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self, signed: bool = False) -> int:
        """A number in LEB128."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return value - (1 << shift) if signed and byte & 64 else value

    def bytes(self, count: int) -> bytes:
        """So many bytes."""
        self.at += count
        return self.data[self.at - count : self.at]

    def name(self) -> str:
        """A name with its length before it."""
        return self.bytes(self.number()).decode()


def sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The sections of a module or an object: their numbers and contents."""
    r = _WasmReader(data, len(MAGIC))
    while r.more():
        number = r.byte()
        yield number, r.bytes(r.number())


def _read(data: bytes) -> _Object:
    part = _Object()
    alignments: list[int] = []
    for number, body in sections(data):
        r = _WasmReader(body)
        if number == _TYPE:
            part.types = [_function_type(r) for _ in range(r.number())]
        elif number == _IMPORT:
            part.imported = [name for _ in range(r.number()) if (name := _imported(r))]
        elif number == _FUNCTION:
            part.functions = [r.number() for _ in range(r.number())]
        elif number == _CODE:
            for _ in range(r.number()):
                size = r.number()
                part.bodies.append((r.at, bytearray(r.bytes(size))))
        elif number == _DATA:
            for _ in range(r.number()):
                _constant_offset(r)
                size = r.number()
                part.segments.append((r.at, 1, bytearray(r.bytes(size))))
        elif number == _CUSTOM:
            name = r.name()
            if name == "linking":
                part.symbols, alignments = _linking(r)
            elif name.startswith("reloc."):
                r.number()  # the section's place, which its name says too
                part.relocations[name.removeprefix("reloc.")] = [_relocation(r) for _ in range(r.number())]
    part.segments = [(at, a, data) for (at, _, data), a in zip(part.segments, alignments, strict=True)]
    for symbol in part.symbols:
        if symbol.kind == 0 and not symbol.defined:
            symbol.name = part.imported[symbol.index]
    return part


def _function_type(r: _WasmReader) -> bytes:
    start = r.at
    r.byte()
    for _ in range(2):  # parameters, results
        r.bytes(r.number())
    return r.data[start : r.at]


def _imported(r: _WasmReader) -> str:
    """The name of a function, nothing for anything else."""
    r.name()
    name = r.name()
    kind = r.byte()
    if kind == 0:
        r.number()
    elif kind == 1:
        r.byte()
        _limits(r)
    elif kind == 2:
        _limits(r)
    else:
        r.bytes(2)
    return name if kind == 0 else ""


def _limits(r: _WasmReader) -> None:
    most = r.byte() & 1
    r.number()
    if most:
        r.number()


def _constant_offset(r: _WasmReader) -> None:
    if r.number():
        raise UnsupportedError("a WebAssembly object has a data segment of another kind than is supported")
    r.byte()  # i32.const
    r.number(signed=True)
    r.byte()  # end


def _linking(r: _WasmReader) -> tuple[list[_Symbol], list[int]]:
    """The symbols, and the alignment of each segment."""
    symbols: list[_Symbol] = []
    alignments: list[int] = []
    if r.number() != 2:
        raise UnsupportedError("a WebAssembly object has another version of the symbol table than 2")
    while r.more():
        kind, size = r.byte(), r.number()
        part = _WasmReader(r.data, r.at, r.at + size)
        r.bytes(size)
        if kind == 5:
            for _ in range(part.number()):
                part.name()
                alignments.append(1 << part.number())
                part.number()
        elif kind == 8:
            symbols = [_symbol(part) for _ in range(part.number())]
    return symbols, alignments


def _symbol(r: _WasmReader) -> _Symbol:
    kind, flags = r.byte(), r.number()
    defined = not flags & _UNDEFINED
    if kind == 1:
        name = r.name()
        index, offset, _ = (r.number() for _ in range(3)) if defined else (0, 0, 0)
        return _Symbol(name, kind, defined, index, offset)
    if kind not in (0, 2, 5):
        raise UnsupportedError(f"a WebAssembly object has a symbol of type {kind}, which is not supported")
    index = r.number()
    name = r.name() if defined or flags & _NAMED else ""
    return _Symbol(name or (STACK_POINTER if kind == 2 else ""), kind, defined, index)


def _relocation(r: _WasmReader) -> _Relocation:
    kind, at, index = r.byte(), r.number(), r.number()
    addend = r.number(signed=True) if kind in (_ADDRESS_LEB, _ADDRESS_SLEB, _ADDRESS_WORD) else 0
    return _Relocation(kind, at, index, addend)


# -- writing ----------------------------------------------------------------------------------------------------------


def leb(n: int) -> bytes:
    """A number of at least 0 in LEB128."""
    out = bytearray()
    while True:
        byte, n = n & 127, n >> 7
        out.append(byte | (128 if n else 0))
        if not n:
            return bytes(out)


def sleb(n: int) -> bytes:
    """A number with a sign in LEB128."""
    out = bytearray()
    while True:
        byte, n = n & 127, n >> 7
        done = n == (-1 if byte & 64 else 0)
        out.append(byte | (0 if done else 128))
        if done:
            return bytes(out)


def padded(n: int, signed: bool = False) -> bytes:
    """A number of 32 bits in five bytes, the room that LLVM leaves for it."""
    parts = [(n >> (7 * k)) & 127 for k in range(5)]
    if signed:
        parts[4] = (n >> 28) & 127
    return bytes(p | (128 if k < 4 else 0) for k, p in enumerate(parts))


def _name(name: str) -> bytes:
    data = name.encode()
    return leb(len(data)) + data


def _section(number: int, count: int, body: bytes) -> bytes:
    content = leb(count) + body
    return bytes([number]) + leb(len(content)) + content

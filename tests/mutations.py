"""Mutations of inputs for the fuzzers: of bytes, and of formats whose lengths and checks stay right.

Each takes bytes and a generator of random numbers, and gives other bytes; it never fails, whatever the bytes are.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import warnings
import zipfile
import zlib


def havoc(data: bytes, rng: random.Random) -> bytes:
    """A few changes of the kind that every fuzzer knows: bits, bytes, runs moved, doubled or taken out."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(out) + 1) if out else 0
        size = min(len(out) - at, rng.choice((1, 2, 4, 8, 32)))
        match rng.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.randrange(256)
            case 2:
                out[at:at] = rng.choice(WORDS)
            case 3:
                del out[at : at + size]
            case 4:
                out[at:at] = out[at : at + size] * rng.choice((1, 2, 50))
            case 5 if size in (1, 2, 4, 8):
                out[at : at + size] = rng.choice(NUMBERS).to_bytes(8, "little")[:size]
            case _ if size in (1, 2, 4, 8):
                out[at : at + size] = rng.choice(NUMBERS).to_bytes(8, "big")[-size:]
    return bytes(out)


NUMBERS = [0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 32767, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
           1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]  # fmt: skip
WORDS = [b"", b"\0", b"\xff" * 8, b"-1", b"1e999", b"nan", b"0x", b"9" * 30, b'"', b"\\", b"[" * 50, b"{1..99999}",
         b"\n", b"\r", "\u2028".encode(), b"\xed\xa0\x80", b"$x", b"<-", b"=", b",", b":", b"#", b"()",
         b"999999999999999999", b"2147483647", b"inf", b"True", b"None"]  # fmt: skip


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def fields(data: bytes, depth: int = 0) -> list[list] | None:
    """Protocol Buffers without a schema: [key, value or bytes or fields]; None where it is none."""
    found: list[list] = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    try:
        while at < len(data):
            key = number()
            match key & 7:
                case 0:
                    found.append([key, number()])
                case 1 | 5:
                    size = 8 if key & 7 == 1 else 4
                    found.append([key, data[at : at + size]])
                    at += size
                case 2:
                    size = number()
                    part = data[at : at + size]
                    if len(part) < size or not key >> 3:
                        return None
                    at += size
                    inner = fields(part, depth + 1) if depth < 8 and size > 1 else None
                    found.append([key, inner if inner else part])
                case _:
                    return None
    except ValueError:
        return None
    return found if at == len(data) else None


def packed(found: list[list]) -> bytes:
    out = bytearray()
    for key, value in found:
        out += varint(key)
        if key & 7 == 2:
            part = packed(value) if isinstance(value, list) else value
            out += varint(len(part)) + part
        else:
            out += varint(value) if isinstance(value, int) else value
    return bytes(out)


OPERATORS = (
    b"Conv PRelu Reshape Resize Loop If Scan Concat Split Tile Expand Pad Slice Gather ConstantOfShape Range Identity "
    b"Transpose Upsample Gemm MatMul Einsum DepthToSpace GroupNormalization LayerNormalization ReduceMean Cast LRN "
    b"Clip BatchNormalization AveragePool MaxPool ConvTranspose Softmax Flatten Squeeze Unsqueeze Shape Size Where Sum "
    b"TopK Constant"
).split()


def of_fields(data: bytes, rng: random.Random) -> bytes:
    """Changes in the tree of a Protocol Buffers message, so that all lengths stay right."""
    tree = fields(data)
    if tree is None or rng.random() < 0.15:
        return havoc(data, rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        spots: list[tuple[list[list], int]] = []
        stack = [tree]
        while stack:
            level = stack.pop()
            spots += [(level, i) for i in range(len(level))]
            stack += [value for _, value in level if isinstance(value, list)]
        if not spots:
            break
        level, i = rng.choice(spots)
        key, value = level[i]
        match rng.randrange(6):
            case 0:
                del level[i]
            case 1:
                level.insert(rng.randrange(len(level) + 1), [key, copy.deepcopy(value)])
            case 2:
                other, j = rng.choice(spots)
                if j < len(other):
                    level[i] = copy.deepcopy([key, other[j][1]] if key & 7 == other[j][0] & 7 else other[j])
            case 3 if isinstance(value, bytes) and key & 7 == 2:
                level[i] = [key, rng.choice((rng.choice(OPERATORS), rng.choice(WORDS), havoc(value, rng)))]
            case _:
                if isinstance(value, int):
                    level[i] = [key, rng.choice(NUMBERS)]
                elif isinstance(value, bytes):
                    level[i] = [key, havoc(value, rng)[: len(value)] if key & 7 != 2 else havoc(value, rng)]
    out = packed(tree)
    return out if len(out) < 1 << 17 else data


def of_lines(data: bytes, rng: random.Random) -> bytes:
    """Changes of a text by lines and words."""
    if rng.random() < 0.3:
        return havoc(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(lines))
        words = lines[i].split(b" ")
        match rng.randrange(6):
            case 0:
                lines.insert(i, lines[rng.randrange(len(lines))])
            case 1 if len(lines) > 1:
                del lines[i]
            case 2:
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                lines[i] = b" ".join(words)
            case 3:
                others = lines[rng.randrange(len(lines))].split(b" ")
                words.insert(rng.randrange(len(words) + 1), rng.choice(others))
                lines[i] = b" ".join(words)
            case 4:
                lines[i] = b" ".join(havoc(w, rng) if rng.random() < 0.3 else w for w in words)
            case _:
                digits = [j for j, w in enumerate(words) if any(48 <= c < 58 for c in w)]
                if digits:
                    j = rng.choice(digits)
                    words[j] = bytes(c if not 48 <= c < 58 else rng.choice(b"0123456789") for c in words[j])
                    lines[i] = b" ".join(words)
    return b"\n".join(lines)


def of_header(data: bytes, rng: random.Random) -> bytes:
    """Changes in the JSON of a safetensors header, its length kept right; the network's text by its lines."""
    if len(data) < 9 or rng.random() < 0.15:
        return havoc(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    raw, rest = data[8 : 8 + length], data[8 + length :]
    try:
        found = json.loads(raw)
        assert isinstance(found, dict)
    except (ValueError, AssertionError, RecursionError):
        return struct.pack("<Q", len(raw)) + havoc(raw, rng) + rest
    meta = found.get("__metadata__")
    match rng.randrange(5):
        case 0 if isinstance(meta, dict) and "dojang.network" in meta:
            text = str(meta["dojang.network"]).encode("utf-8", "surrogatepass")
            meta["dojang.network"] = of_lines(text, rng).decode("utf-8", "replace")
        case 1 if found:
            name = rng.choice(list(found))
            found[name] = rng.choice((None, [], {}, 1, "x", found[rng.choice(list(found))]))
        case 2 if found:
            entry = found[rng.choice(list(found))]
            if isinstance(entry, dict) and entry:
                key = rng.choice(list(entry))
                entry[key] = rng.choice((0, -1, [1 << 62] * 3, [0, 1 << 63], "F32", "F8_E4M3", [], None, [2.5], 10**25))
        case 3:
            raw = havoc(raw, rng)
            return struct.pack("<Q", len(raw)) + raw + rest
        case _:
            rest = havoc(rest, rng)
    raw = json.dumps(found).encode()
    return struct.pack("<Q", len(raw)) + raw + rest


def of_members(data: bytes, rng: random.Random) -> bytes:
    """Changes in the members of a .zip that is written anew, or of the bytes as they are."""
    if rng.random() < 0.35 or not data.startswith(b"PK"):
        return havoc(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(i.filename, archive.read(i), i.compress_type) for i in archive.infolist()[:40]]
    except Exception:
        return havoc(data, rng)
    i = rng.randrange(len(members)) if members else 0
    if members:
        name, raw, method = members[i]
        match rng.randrange(6):
            case 0:
                raw = havoc(raw, rng)
            case 1:
                raw = of_npy(raw, rng)
            case 2:
                others = ("y.npy", "x.npy", "classes.npy", "train/a/1.png", "test/b/1.png", "", "\u2028", "a\0b")
                name = rng.choice((name + "/", "../" + name, name.upper(), name + ".png", *others))
            case 3:
                method = rng.choice((0, 8, 12, 14))
            case 4:
                del members[i]
            case _:
                members.append((name + rng.choice(("", "2")), raw, method))
        if i < len(members):
            members[i] = (name, raw[: 1 << 16], method)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with zipfile.ZipFile(out, "w") as archive:
                for name, raw, method in members:
                    archive.writestr(zipfile.ZipInfo(name), raw, method)
        except Exception:
            return havoc(data, rng)
    return out.getvalue() if rng.random() < 0.8 else havoc(out.getvalue(), rng)


def of_tags(data: bytes, rng: random.Random) -> bytes:
    """Changes in the entries of a TIFF's first page (TIFF 6.0, section 2), or of the bytes as they are."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8 or rng.random() < 0.3:
        return havoc(data, rng)
    out = bytearray(data)
    (at,) = struct.unpack(order + "I", data[4:8])
    count = struct.unpack(order + "H", data[at : at + 2])[0] if at + 2 <= len(data) else 0
    places = [at + 2 + 12 * i for i in range(min(count, 64)) if at + 14 + 12 * i <= len(data)]
    if not places:
        return havoc(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.choice(places)
        match rng.randrange(6):
            case 0:
                struct.pack_into(order + "H", out, place, rng.choice(TAGS))
            case 1:
                struct.pack_into(order + "H", out, place + 2, rng.choice((1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 18, 99)))
            case 2:
                struct.pack_into(order + "I", out, place + 4, rng.choice(NUMBERS) & 0xFFFFFFFF)
            case 3:  # one of 16 bits, which lies in the first half
                struct.pack_into(order + "H", out, place + 8, rng.choice((rng.randrange(10), *NUMBERS[:13])) & 0xFFFF)
            case 4:
                other = rng.choice(places)
                out[place + 2 : place + 12] = out[other + 2 : other + 12]
            case _:
                value = rng.choice((rng.randrange(len(out)), *NUMBERS)) & 0xFFFFFFFF
                struct.pack_into(order + "I", out, place + 8, value)
    return bytes(out)


TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 284, 296, 317, 320, 322, 323, 324, 325,
        330, 332, 338, 339, 347, 700, 33432, 33550, 34675, 34735)  # fmt: skip


def of_npy(data: bytes, rng: random.Random) -> bytes:
    """Changes in the header of an .npy, its length kept right."""
    if not data.startswith(b"\x93NUMPY") or len(data) < 12:
        return havoc(data, rng)
    length = struct.unpack("<H", data[8:10])[0]
    said = data[10 : 10 + length]
    types = (b"f8", b"c8", b"V4", b"U1", b"U0", b"M8", b"b1", b"i2", b"O")
    changes = [
        (b"(", b"(9"),
        (b"(", b"(0, "),
        (b"(", b"(99999999999, "),
        (b"<", b">"),
        (b"False", b"True"),
        (b"{", b"{" * 90),
    ]
    old, new = rng.choice([*changes, *((rng.choice((b"f4", b"u1", b"i8")), kind) for kind in types)])
    said = havoc(said, rng) if rng.random() < 0.2 else said.replace(old, new, 1)
    return data[:8] + struct.pack("<H", len(said) & 0xFFFF) + said + data[10 + length :]


def of_chunks(data: bytes, rng: random.Random) -> bytes:
    """Changes in a chunk of a PNG, its check right again; in a page of a TIFF; or of the bytes as they are."""
    if data[:2] in (b"II", b"MM"):
        return of_tags(data, rng)
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or rng.random() < 0.3:
        return havoc(data, rng)
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 8 <= len(data) and len(chunks) < 64:
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return havoc(data, rng)
    i = rng.randrange(len(chunks))
    kind, part = chunks[i]
    match rng.randrange(5):
        case 0:
            chunks[i] = (
                rng.choice((b"gAMA", b"iCCP", b"tRNS", b"eXIf", b"pHYs", b"zTXt", b"iTXt", b"PLTE", b"acTL")),
                part,
            )
        case 1:
            chunks.insert(rng.randrange(len(chunks)), (kind, part))
        case 2 if kind in (b"zTXt", b"iCCP", b"IDAT"):
            head = part[: part.find(b"\0") + 2] if kind != b"IDAT" else b""
            chunks[i] = (kind, head + zlib.compress(havoc(b"x" * 40, rng)))
        case _:
            chunks[i] = (kind, havoc(part, rng))
    return data[:8] + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    )

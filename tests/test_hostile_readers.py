"""Small files that ask for much, and files that make parsers stumble: each is refused in one line, within bounds.

The bound on memory is the system's (`ulimit -v` of the child process), so that what is not asked of a budget first
ends in a MemoryError, whose message differs.
"""

import gzip
import io
import json
import lzma
import os
import re
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dojang.base import reading
from dojang.base.budget import UNPACKED_BYTES, Budget, unpacked_limit
from dojang.base.errors import DataError, DojangError, FileError, ParseError, UsageError
from dojang.filters.large import opened
from dojang.formats import arrays, checkpoint, onnx, tables, text
from dojang.slimming.journal import FILE, Journal
from dojang.training import sources
from dojang.training.load import load

GIGABYTE = 1 << 30
DEEP_PALETTE = "4f8bd42f1e56d48ad0b983203af85686024e7c24"


def bounded(code: str, *args: object) -> str:
    """What a child process of at most 1 GB above its libraries says: the message of the error of ours it met."""
    script = (
        "import sys, resource\nimport numpy\nfrom dojang.base.errors import DojangError\n"
        "from dojang.formats import arrays, checkpoint, onnx, text\nfrom dojang.training import sources\n"
        "from dojang.training.load import load\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (held + {GIGABYTE},) * 2)\n"
        f"try:\n    {code}\nexcept DojangError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


# ---------------------------------------------------------------------------------------------- what is no file


@pytest.fixture(params=["pipe", "zero", "folder", "nothing", "no name", "link to a pipe"])
def no_file(request, tmp_path):
    path = tmp_path / "x.net"
    match request.param:
        case "pipe":
            os.mkfifo(path)
            return path, "a pipe"
        case "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
            return path, "a pipe"
        case "zero":
            path.symlink_to("/dev/zero")
            return path, "is a device"
        case "folder":
            path.mkdir()
            return path, "is a folder"
        case "nothing":
            return path, "no such file"
        case _:
            return f"{tmp_path}/a\0b", "no file has such a name"


READERS = {
    "text": lambda path: reading.read_text(path),
    "bytes": lambda path: reading.read_bytes(path),
    "npy": lambda path: arrays.read_npy(path),
    "npz": lambda path: arrays.read_npz(path),
    "gz": lambda path: reading.gzipped(path).__enter__(),
    "zip": lambda path: reading.zipped(path).__enter__(),
    "checkpoint": lambda path: checkpoint.load(path),
    "onnx": lambda path: onnx.load(path),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused_at_once(reader, no_file):
    path, says = no_file
    with pytest.raises(FileError, match=says) as raised:
        READERS[reader](path)
    assert str(raised.value).startswith(str(path))


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "a").write_text("é\n")
    (tmp_path / "b").symlink_to("a")
    assert reading.read_text(tmp_path / "b") == "é\n"


def test_texts_have_a_bound_and_are_utf_8(tmp_path):
    path = tmp_path / "a.net"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="not UTF-8 text"):
        reading.read_text(path)
    with pytest.raises(FileError, match="more than 1 bytes"):
        reading.read_text(path, most=1)
    path.write_bytes(b"\xef\xbb\xbfinput 3\n")
    assert reading.read_text(path) == "input 3\n"


# ---------------------------------------------------------------------------------------------- texts of networks


def multiplied(levels: int) -> str:
    lines = ["block b0(x)", " conv $x 1x1", "end"]
    for level in range(levels):
        lines += [f"block b{level + 1}(x)", f" b{level} $x$x$x$x$x$x$x$x", "end"]
    return "\n".join([*lines, "input 3x8x8", f"b{levels} 8"])


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (multiplied(14), "grows beyond"),
        ("input 3x8x8\n" + "a" * 20000 + "{1..40000}: relu\n", "grows beyond"),
        ("input 3x8x8\na{1..%s}: relu\n" % ("9" * 4000), "more than 50,000 n"),
        ('network "' + '\\"' * 60000 + "\n", "not closed"),
        ("block a" + " " * 60000 + "x\ninput 3\n", "write `block name"),
        ("input " + "x".join(["9" * 18] * 3000) + "\nflatten\n", "at most 64"),
        ("input 3x8x8\n" + "resize scale=1e17\nflatten\nunsqueeze axes=2\n" * 30, "10\\^200"),
        ("input 3x8x8\nadaptive_avgpool 0x4\n", "at least 1"),
        ("input 3x8x8\nresize size=0x4\n", "at least 1"),
        ("input 3x8x8\nunsqueeze axes=1,1\n", "twice"),
    ],
)
def test_texts_that_ask_for_much(net, says):
    with pytest.raises(ParseError, match=says):
        text.parse(net)


@pytest.mark.parametrize(
    ("net", "says"),
    [
        ("input 3x8x8\nr: resize scale=1e308\n", "too large for float32"),
        ("input 3x8x8\nr: resize scale=1e30 arithmetic=torch\nresize scale=1e300 arithmetic=torch\n", "float64"),
        ("input 3x8x8\na: relu\nc: concat <- " + ", ".join(["a"] * 40_000) + "\n", "at most 4,096 inputs, got 40000"),
        ("input 3x8x8\ngroupnorm 0\n", "do not divide into 0 groups"),
    ],
    ids=["float32", "float64", "inputs", "groups"],
)
def test_texts_that_ask_for_what_no_layer_has(net, says):
    with pytest.raises(DojangError, match=says):
        text.parse(net)


def test_names_of_any_length_take_little_memory(tmp_path):
    """A pattern that repeats a choice takes 150 bytes a letter: a name of 15 MB took 2 GB."""
    for letter in ("n", '\\"'):
        (tmp_path / "x.net").write_text(f'input 3x8x8\n"{letter * 7_000_000}": relu\n')
        said = bounded("print(len(text.parse(open(sys.argv[1]).read()).nodes[1].name))", tmp_path / "x.net")
        assert said.split() == ["7000000"], said


def test_axes_of_any_size_that_are_resized_are_not_walked():
    """What a place reads is a matter of rounding, so places are looked at one by one: of 10^8 that took minutes."""
    code = "from dojang.arith.cost import count; print(count(text.parse(sys.argv[1])).total.macs)"
    said = bounded(code, "input 3x8x8\nresize size=7x99999989\nconv 4 3x3\n")
    assert said.split() == [str(4 * 5 * 99_999_987 * 27)]


# ---------------------------------------------------------------------------------------------- checkpoints


def safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,4]}}', "4000 digits"),
        (
            b'{"a":{"dtype":"F32","shape":[' + b",".join([b"1" * 20] * 100) + b'],"data_offsets":[0,4]}}',
            "bytes as its",
        ),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "header is damaged"),
        (b'{"a":[' + b"[]," * 5_000_000 + b"[]]}", "more than 2,000,000 values"),
        (b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', "damaged at 'a'"),
        (b'{"a":1e999}', "damaged at 'a'"),
        (b"[1]", "not a safetensors"),
        (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "."),
    ],
)
def test_headers_of_checkpoints(tmp_path, header, says):
    with pytest.raises(FileError, match=says):
        checkpoint.load(safetensors(tmp_path / "a.safetensors", header, b"\0" * 4))


def test_a_header_of_empty_lists_takes_no_memory(tmp_path):
    path = safetensors(tmp_path / "a.safetensors", b'{"a":[' + b"[]," * 20_000_000 + b"[]]}")
    assert "more than 2,000,000 values" in bounded("checkpoint.load(sys.argv[1])", path)


def test_metadata_of_checkpoints(tmp_path):
    meta = {"dojang.network": "input 3\nrelu\n", "dojang.meta": "[" * 100_000}
    path = safetensors(tmp_path / "a.safetensors", json.dumps({"__metadata__": meta}).encode())
    with pytest.raises(FileError, match="metadata are damaged"):
        checkpoint.load(path)


# ---------------------------------------------------------------------------------------------- tables, journals


def test_a_cell_beyond_the_limit_of_the_csv_module(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('row,layers,params\n"' + "a" * 200_000 + '",c,1\n')
    with pytest.raises(DataError, match="not a table of comma-separated cells"):
        tables.load(path)
    path.write_text("row,layers,params\na,c," + "9" * 400 + "\n")
    with pytest.raises(DataError, match="400 letters"):
        tables.load(path)


@pytest.mark.parametrize("said", ["[" * 100_000, "{}", "[]", "3", '{"format": NaN', '{"format":"x","entries":1}'])
def test_journals_that_are_none(tmp_path, said):
    (tmp_path / FILE).write_text(said)
    with pytest.raises(FileError, match="journal|written as"):
        Journal(tmp_path, {}, resume=True)


# ---------------------------------------------------------------------------------------------- NumPy's files


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    raw = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw + data


def told(descr: object = "<f4", shape: object = (2,), fortran: object = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no .npy array"),
        (b"\x93NUMPY\x09\0" + b"\0" * 20, "no .npy array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2"), "header of its array is damaged"),
        (npy("{" * 5000), "header of its array is damaged"),
        (npy("(" * 60_000, version=1), "header of its array is damaged"),
        (npy("[1,\n'''"), "header of its array is damaged"),
        (npy(told(shape=(10**12,))), "truncated"),
        (npy(told(shape=(10**30,))), "no machine can store"),
        (npy(told(shape=(2**40, 2**40, 0))), "no machine can store"),
        (npy(told(shape=(-1,))), "at least 0"),
        (npy(told(shape=(True,))), "at least 0"),
        (npy(told(shape=(1.5,))), "at least 0"),
        (npy(told(shape=(1,) * 65)), "65 axes"),
        (npy(told(descr="|O")), "run code"),
        (npy(told(descr=[("a", "<f4")])), "of type"),
        (npy(told(descr="<U0", shape=(10**12,))), "of type"),
        (npy(told(descr="<M8[ns]")), "of type"),
        (npy(told(fortran=3)), "wrong type"),
        (npy("{1: 2}"), "does not name"),
        (npy("7"), "no dict"),
        (npy("-" * 50_000), "nested too deeply"),
        (npy("1" + "+1j" * 20_000), "nested too deeply"),
        (npy("{'descr': open('x')}"), "no dict of plain values"),
        (npy("{'a"), "no dict of plain values"),
        (npy("{'descr': " + "9" * 5000 + "}"), "header of its array is damaged"),
        (npy(told(), b"\0" * 7), "truncated"),
    ],
)
def test_arrays_whose_header_lies(tmp_path, content, says):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(FileError, match=says) as raised:
        arrays.read_npy(path)
    assert not re.search("0x[0-9a-f]|memory|<unknown>", str(raised.value))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(FileError, match=says):
        arrays.read_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f4", "<i8", "?", "<U3", "S2", "<f2", "<c8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_that_are_whole_are_read_as_numpy_reads_them(tmp_path, dtype, shape, order):
    array = np.asarray(np.arange(int(np.prod(shape))).reshape(shape).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", x=array, other=1)
    for found in (arrays.read_npy(tmp_path / "a.npy"), arrays.read_npz(tmp_path / "a.npz", {"x"})["x"]):
        assert found.dtype == np.load(tmp_path / "a.npy").dtype
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable


# ---------------------------------------------------------------------------------------------- .gz and .zip


def bomb(chunks: int, wbits: int) -> bytes:
    """Deflated zeros, a megabyte for each kilobyte: one block repeated, which is one more valid stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * chunks


def test_a_gz_of_three_megabytes_that_unpacks_to_three_gigabytes(tmp_path):
    """The header of the IDX file inside declares as much; and one that declares little ends at what it declares."""
    images = tmp_path / "train-images-idx3-ubyte.gz"
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\0")
    for rows, says in ((3 << 20, "unpacks to more than 268,435,456 bytes"), (64, "longer than it declares")):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        head = packer.compress(b"\0\0\x08\x03" + struct.pack(">3I", rows, 32, 32)) + packer.flush(zlib.Z_FULL_FLUSH)
        block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        images.write_bytes(head + block * 3000)
        assert images.stat().st_size < 4_000_000
        assert says in bounded("load(sys.argv[1])", images)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        ((0x803, (6, 0, 0), b""), (0x801, (6,), bytes(6)), "every size at least 1"),
        ((0x803, (0, 8, 8), b""), (0x801, (0,), b""), "every size at least 1"),
        ((0x803, (6, 2, 2), bytes(24)), (0xD01, (6,), struct.pack(">6f", 0, 1, 0, 1, 0, 0.5)), "no whole numbers"),
        ((0x803, (6, 2, 2), bytes(24)), (0xD01, (6,), struct.pack(">6f", 0, 1, 0, 1, 0, np.nan)), "no whole numbers"),
        ((0xE03, (6, 1, 1), struct.pack(">6d", *[1e300] * 6)), (0x801, (6,), bytes(6)), "float32"),
    ],
    ids=["no pixels", "no images", "half a label", "no label", "too large"],
)
def test_idx_files_of_what_no_data_are(tmp_path, images, labels, says):
    for name, (magic, shape, data) in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">{1 + len(shape)}I", magic, *shape)
        (tmp_path / f"train-{name}-ubyte").write_bytes(head + data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DojangError, match=says):
            load(tmp_path)


def test_a_zero_byte_in_a_member_s_name(tmp_path):
    """zipfile ends the name there: a picture would become its folder, and be left out without a word."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/0.png", b"x")
    raw = (tmp_path / "a.zip").read_bytes().replace(b"a/0.png", b"a/\0.png")
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(FileError, match="a zero byte in it"):
        load(tmp_path / "a.zip")


def zip_of(path: Path, name: str, raw: bytes, size: int) -> Path:
    """A .zip of one deflated member whose directory states `size` bytes."""
    packed = bomb(0, -15) if not raw else zlib.compress(raw, 9)[2:-4]
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0) + name.encode()
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0, 0, 0, 0, 0, 0)
    entry += name.encode()
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    path.write_bytes(local + packed + entry + end)
    return path


def tiff_of(path: Path, pixels: bytes, changes: dict[int, int]) -> Path:
    """A TIFF of one page of 64x64 grey pixels in one strip, some tags changed; all are whole numbers of 32 bits."""
    tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 64, 279: len(pixels)} | changes
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<2H2I", code, 4, 1, value) for code, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels)
    return path


def test_a_tiff_of_two_thousand_million_samples_a_pixel(tmp_path):
    path = tiff_of(tmp_path / "a.tif", bytes(4096), {277: 1 << 31})
    code = "from dojang.filters.pictures.tiff import Layout; Layout.of(sys.argv[1])"
    assert "2,147,483,648 samples per pixel; TIFF allows 65,535" in bounded(code, path)


def test_a_tiff_with_a_palette_of_thirty_thousand_million_bits(tmp_path):
    """The number of bits is one of 64 bits; two to the power of it would take 4 GB."""
    path = tmp_path / "a.tif"
    path.write_bytes((Path(__file__).parent / "fuzz_corpus" / "tiff" / DEEP_PALETTE).read_bytes())
    code = "from dojang.filters.pictures.tiff import Layout; Layout.of(sys.argv[1])"
    assert "holds 2 pages" in bounded(code, path)  # what is wrong with it besides


@pytest.mark.parametrize(("codes", "says"), [(range(40000, 42000), ""), ((270, 305, 315, 33432), "its tags hold")])
def test_tags_of_a_tiff_that_share_a_megabyte(tmp_path, codes, says):
    """2000 tags of no meaning are not read; four that are kept would hold 33 MB each, in a file of 33 MB."""
    size = (1 << 20) if not says else (1 << 25)
    tags = {256: (4, 1, 4), 257: (4, 1, 4), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8),
            277: (3, 1, 1), 278: (4, 1, 4), 279: (4, 1, 16)} | dict.fromkeys(codes, (2, size, 0))  # fmt: skip
    entries = b"".join(struct.pack("<2H2I", code, *entry) for code, entry in sorted(tags.items()))
    raw = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    path = tmp_path / "a.tif"
    path.write_bytes(raw + bytes(size))
    code = "from dojang.filters.pictures.tiff import Layout; print(Layout.of(sys.argv[1]).shape)"
    assert (says or "(4, 4)") in bounded(code, path)


without_imagecodecs = pytest.mark.skipif(
    find_spec("imagecodecs") is not None, reason="imagecodecs stops at the expected size and calls more damaged"
)


@without_imagecodecs
def test_a_strip_of_three_megabytes_that_unpacks_to_three_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_MAX_UNPACKED", str(1 << 28))  # without it 1 GiB are counted before it is refused
    path = tiff_of(tmp_path / "a.tif", bomb(3 << 10, 15), {259: 8})
    assert path.stat().st_size < 4_000_000
    code = "from dojang.filters.large import opened\n    with opened(sys.argv[1]) as source: source.read(0, 64)"
    assert "unpacks to more than 268,435,456 bytes" in bounded(code, path)


def lzma_in_pieces(raw: bytes) -> bytes:
    """A stream for each 64 KiB: decoders take streams that follow each other as one."""
    return b"".join(lzma.compress(raw[at : at + (1 << 16)]) for at in range(0, len(raw), 1 << 16))


@without_imagecodecs
@pytest.mark.parametrize("packer", [zlib.compress, lzma.compress, lzma_in_pieces])
def test_strips_unpack_within_the_limit(tmp_path, packer, monkeypatch):
    """Also those that hold more than their sizes say, which tifffile drops."""
    code = 8 if packer is zlib.compress else 34925
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    monkeypatch.setenv("DOJANG_MAX_UNPACKED", str(1 << 20))
    with opened(tiff_of(tmp_path / "a.tif", packer(pixels.tobytes() + bytes(1 << 19)), {259: code})) as source:
        np.testing.assert_array_equal(source.read(0, 64), pixels)
    with (
        opened(tiff_of(tmp_path / "b.tif", packer(pixels.tobytes() + bytes(1 << 21)), {259: code})) as source,
        pytest.raises(FileError, match=r"b\.tif: one of its strips or tiles unpacks to more than 1,048,576 bytes"),
    ):
        source.read(0, 64)
    cut = packer(pixels.tobytes() + bytes(1 << 19))[:1000]
    with (
        opened(tiff_of(tmp_path / "c.tif", cut, {259: code})) as source,
        pytest.raises(FileError, match=r"c\.tif: damaged or truncated"),
    ):
        source.read(0, 64)


def test_an_npz_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "x.npz"
    header = npy(told("|u1", (3 << 30,)))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + bomb(3 << 10, -15)
    name, size = b"x.npy", len(header) + (3 << 30)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0) + name
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), size, len(name), *[0] * 6) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    path.write_bytes(local + packed + entry + end)
    assert path.stat().st_size < 4_000_000
    assert "unpacks to more than 268,435,456 bytes" in bounded("arrays.read_npz(sys.argv[1])", path)


def test_members_of_one_npz_share_a_budget(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(6000, "u1"), y=np.zeros(6000, "u1"))
    monkeypatch.setenv("DOJANG_MAX_UNPACKED", "10000")
    with pytest.raises(FileError, match="more than 10,000 bytes.*DOJANG_MAX_UNPACKED"):
        arrays.read_npz(tmp_path / "a.npz")
    assert arrays.read_npz(tmp_path / "a.npz", {"y"})["y"].size == 6000


def test_large_files_may_unpack_to_more(monkeypatch):
    monkeypatch.delenv("DOJANG_MAX_UNPACKED", raising=False)
    assert unpacked_limit(1) == UNPACKED_BYTES == 256 << 20
    assert unpacked_limit(1 << 30) == 16 << 30
    Budget("a", file_bytes=1 << 30).unpack(15 << 30)
    monkeypatch.setenv("DOJANG_MAX_UNPACKED", "12x")
    with pytest.raises(UsageError, match="DOJANG_MAX_UNPACKED=12x"):
        unpacked_limit(1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_stopped_in_time_are_not_read(tmp_path, method):
    for name in ("a.zip", "a.npz"):
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            archive.writestr("a/0.png", b"x")
            archive.writestr("b/0.png", b"x")
            archive.writestr("x.npy", b"x")
            archive.writestr("y.npy", b"x")
        with pytest.raises(FileError, match=r"is compressed by (bzip2|LZMA); write a \.zip with deflate"):
            load(tmp_path / name)


def test_zips_that_are_encrypted_or_whose_names_are_none(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/0.png", "b/0.png"):
            archive.writestr(name, b"x")
    raw = path.read_bytes()
    locked = bytearray(raw)
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = raw.index(mark)
        locked[at + place] |= 1
    path.write_bytes(bytes(locked))
    with pytest.raises(FileError, match="is encrypted"):
        load(path)
    with pytest.raises(FileError, match="has no name"):
        load(zip_of(path, "", b"x", 1))
    utf8 = bytearray(raw.replace(b"b/0.png", b"\xff\xfe\xfd.png"))
    at = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 1)
    utf8[at + 9] |= 8  # "its name is UTF-8"
    path.write_bytes(bytes(utf8))
    with pytest.raises(FileError, match="truncated or damaged, or no .zip"):
        load(path)


# ---------------------------------------------------------------------------------------------- IDX and CIFAR


@pytest.mark.parametrize(
    ("shape", "says"),
    [((2**32 - 1, 2**32 - 1, 0), "no machine can store"), ((2**32 - 1, 28, 28), "truncated"), ((0, 0, 0), ".")],
)
def test_idx_files_that_declare_much(tmp_path, shape, says):
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", *shape))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\0")
    with pytest.raises(DojangError, match=says):
        load(images)


def test_an_idx_file_is_read_as_it_stands(tmp_path):
    x = np.arange(2 * 5 * 4, dtype=">i2").reshape(2, 5, 4)
    raw = b"\0\0\x0b\x03" + struct.pack(">3I", *x.shape) + x.tobytes()
    (tmp_path / "a").write_bytes(raw)
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(sources._idx_array(tmp_path / name), x)


# ---------------------------------------------------------------------------------------------- pictures


def png_of_zeros(side: int, mode: str = "L") -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new(mode, (side, side)).save(out, "PNG")
    return out.getvalue()


def test_a_zip_of_small_files_that_are_large_pictures(tmp_path):
    """16 pictures of 64 megapixels in 8 bits, 65 KB each: 1 GB if they were kept."""
    raw = png_of_zeros(8192)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for place in range(16):
            archive.writestr(f"{'ab'[place % 2]}/{place}.png", raw)
    said = bounded("load(sys.argv[1])", tmp_path / "a.zip")
    assert "more than 268,435,456; give a smaller size" in said


def test_sixteen_bits_to_eight_are_a_division_by_257():
    from PIL import Image

    from dojang.training.pictures import SampleSize, decoded

    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    out = io.BytesIO()
    Image.fromarray(deep).save(out, "PNG")
    np.testing.assert_array_equal(decoded(out.getvalue(), "p", SampleSize.of(None))[:, :, 0].ravel(), np.arange(256))


def test_the_bound_of_the_child_processes_is_one():
    """`bounded` would see memory that no budget was asked for."""
    with pytest.raises(AssertionError, match="MemoryError"):
        bounded("numpy.ones(3 << 30, 'u1')")
    assert resource.RLIMIT_AS is not None

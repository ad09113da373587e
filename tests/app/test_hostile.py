"""Bad input through the command line, in a process of its own: one line, an exit code, bounded time and memory."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import dojang
from dojang.base.errors import UsageError

SECONDS, MEMORY = 20, 3 << 30
"""Processor time and address space that a refusal may take; NumPy and the interpreter reserve most of the latter."""


def nested(levels: int, closed: bool = True) -> str:
    """Blocks within blocks."""
    opening = "".join(f"block b{i}(c)\n" for i in range(levels))
    return opening + "conv $c 1x1\n" + ("end\n" * levels if closed else "") + "input 3x8x8\nb0 4\n"


def called(levels: int) -> str:
    """Blocks that call each other, `levels` deep."""
    lines = [f"block b{i}(c)\n  b{i + 1} $c\nend\n" for i in range(levels)]
    return "".join(lines) + f"block b{levels}(c)\n  conv $c 1x1\nend\ninput 3x8x8\nb0 4\n"


def doubling(levels: int) -> str:
    """Blocks that each call the next one twice: 2^levels layers."""
    lines = [f"block b{i}(c)\n  b{i + 1} $c\n  b{i + 1} $c\nend\n" for i in range(levels)]
    return "".join(lines) + f"block b{levels}(c)\n  conv $c 1x1\nend\ninput 3x8x8\nb0 4\n"


BIG = 9_999_999_999

TEXTS = {
    "a cycle": ("input 3x8x8\na: relu <- b\nb: relu <- a\n", "b"),
    "a layer that reads itself": ("input 3x8x8\na: relu <- a\n", "a"),
    "10,000 blocks opened": (nested(10_000), "nest.net:"),
    "10,000 blocks opened, none closed": (nested(10_000, closed=False), "nest.net:"),
    "10,000 blocks that call each other": (called(10_000), "nested deeper"),
    "blocks that double": (doubling(40), "50,000"),
    "a block that calls itself": ("block b(c)\n  b $c\nend\ninput 3x8x8\nb 4\n", "b"),
    "a repetition without end": ("input 3x8x8\nc.{1..999999999999}: relu\n", "nest.net:2"),
    "gigabyte shapes": (f"input 3x{BIG}x{BIG}\nadaptive_avgpool {BIG}x{BIG}\nreshape shape=0,-1,7\n", "reshape"),
    "gigabyte kernels": (f"input 3x8x8\nconv 4 {BIG}x{BIG}\n", "shrinks below 1"),
    "gigabyte strides in a field": (f"input 3x{BIG}x{BIG}\nconv 4 3x3/{BIG}\nflatten\nconv 4 3x3\n", "conv2"),
    "negative sizes": ("input 3x-8x8\nconv 4 3x3\n", "8"),
    "a negative kernel": ("input 3x8x8\nconv 4 -3x3\n", "nest.net:2"),
    "negative filters": ("input 3x8x8\nconv -4 3x3\n", "at least 1"),
    "a stride of nothing": ("input 3x8x8\nconv 4 3x3/0\n", "stride"),
    "duplicate names": ("input 3x8x8\na: relu\na: relu\n", "a"),
    "no input": ("conv 4 3x3\n", "nest.net:1"),
    "nothing": ("", "nest.net"),
    "a number that is none": ("input 3x8x8\nconv 1e400 3x3\n", "nest.net:2"),
    "a number of 5,000 digits": (f"input 3x8x8\nconv {'9' * 5000} 3x3\n", "nest.net:2"),
    "zero bytes": ("input 3x8x8\nre\x00lu\n", "nest.net:2"),
    "quotes that do not close": ('input 3x8x8\n"a: relu\n', "nest.net:2"),
}


def vint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = b""
    while True:
        value, low = value >> 7, value & 127
        out += bytes([low | (128 if value else 0)])
        if not value:
            return out


def field(number: int, body: bytes) -> bytes:
    """A message or text as a field."""
    return vint(number << 3 | 2) + vint(len(body)) + body


def onnx_model(graph: bytes) -> bytes:
    """A model of operator set 17 around a graph."""
    return vint(1 << 3) + vint(8) + field(8, vint(2 << 3) + vint(17)) + field(7, graph)


def tensor_outside(location: str) -> bytes:
    """A tensor whose data lie in another file."""
    entry = field(1, b"location") + field(2, location.encode())
    head = vint(1 << 3) + vint(4) + vint(2 << 3) + vint(1) + field(8, b"w")
    return onnx_model(field(5, head + vint(14 << 3) + vint(1) + field(13, entry)))


FILES = {
    "bytes that are no protobuf": b"\xff" * 4000,
    "a length beyond the end": vint(7 << 3 | 2) + vint(1 << 62) + b"x",
    "a number without end": vint(7 << 3) + b"\x80" * 5000,
    "10,000 messages in each other": b"",
    "dimensions of 2^62": onnx_model(
        field(5, vint(1 << 3) + vint(1 << 62) + vint(1 << 3) + vint(1 << 62) + field(8, b"w"))
    ),
    "external data outside the folder": tensor_outside("../../../../etc/passwd"),
    "external data by absolute path": tensor_outside("/etc/passwd"),
    "an empty file": b"",
    "text": b"input 3x8x8\nrelu\n",
}
for _ in range(10_000):  # a graph in an attribute of a node of a graph ...
    FILES["10,000 messages in each other"] = field(
        1, field(5, field(6, FILES["10,000 messages in each other"][-60_000:]))
    )
FILES["10,000 messages in each other"] = onnx_model(FILES["10,000 messages in each other"])

HEADERS = {
    "a header of 2^60 bytes": struct.pack("<Q", 1 << 60) + b"{}",
    "a header nested 10,000 deep": struct.pack("<Q", 20_000) + b"[" * 10_000 + b"]" * 10_000,
    "arrays of 2^60 numbers": b"",
}
_header = b'{"w":{"dtype":"F32","shape":[1152921504606846976,4],"data_offsets":[0,16]}}'
HEADERS["arrays of 2^60 numbers"] = struct.pack("<Q", len(_header)) + _header + bytes(16)


def limited() -> None:
    """In the child: no more than these; a limit that is reached kills the process."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def count(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`dojang count` within the limits."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "dojang", "count", str(path), *more], capture_output=True, text=True, check=False,
        preexec_fn=limited, env=environment,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode in (2, 4), (done.returncode, done.stderr[-300:])
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("dojang: ")
    assert "fault in dojang" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 2000
    assert says in done.stderr


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, tmp_path: Path) -> None:
    content, says = TEXTS[name]
    path = tmp_path / "nest.net"
    path.write_text(content, encoding="utf-8")
    refused(count(path), says)


@pytest.mark.parametrize("name", FILES)
def test_onnx_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FILES[name])
    refused(count(path), "model.onnx")


@pytest.mark.parametrize("name", HEADERS)
def test_checkpoints(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[name])
    refused(count(path), "model.safetensors")


@pytest.mark.parametrize("size", ["3,-8,8", "3,0,8", f"{BIG},8,8", "3", ",,", "3,8,8,8,8,8,8"])
def test_sizes(size: str, tmp_path: Path) -> None:
    path = tmp_path / "small.net"
    path.write_text("input 3x8x8\nconv 4 3x3 groups=3 out=3\n")
    done = count(path, f"--input-size={size}")
    assert done.returncode in (0, 2)
    assert len(done.stderr.splitlines()) <= 1
    assert "fault in dojang" not in done.stderr


def test_huge_shapes_that_fit_are_only_numbers(tmp_path: Path) -> None:
    path = tmp_path / "huge.net"
    path.write_text(f"input 3x{BIG}x{BIG}\nconv 4 3x3 pad=1\nmaxpool 2x2\nglobal_avgpool\nflatten\ndense 10\n")
    done = count(path, "--json")
    assert done.returncode == 0, done.stderr
    assert f'"macs": {BIG * BIG * 108 + 40}' in done.stdout


def test_a_file_is_not_run_whatever_its_name(tmp_path: Path) -> None:
    """`file.py:callable` is code; a file of that very name is a file."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(): return 1\n")
    (tmp_path / "evil.py:build").write_bytes(b"data")
    name = str(tmp_path / "evil.py:build")
    for use in (dojang.load, lambda net: dojang.train(net, "digits", output=tmp_path / "o")):
        with pytest.raises(UsageError, match="files are never run as code"):
            use(name)
    assert not (tmp_path / "ran").exists()


def test_a_colon_in_the_name_of_a_network_file_makes_no_code_of_it(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    net = tmp_path / "a:b" / "c.net"
    net.write_text("input 1x8x8\nflatten\ndense 10\n")
    done = dojang.train(str(net), "digits", epochs=1, output=tmp_path / "o")
    assert done.history["start"]["fine_tuning"] is False


def test_a_misspelt_name_in_python_gets_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean solve"):
        dojang.solv  # noqa: B018

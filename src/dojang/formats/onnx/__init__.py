"""Read and write ONNX files.

`load` reads files of operator sets 7 to 28, as PyTorch's two exporters and other tools write them; `save` and
`to_bytes` write operator set 18 (up to 21 for operators that came later) with a free batch size. The wire format is
read by dojang's own table-driven reader (`protobuf.py`) over a memory map: `import onnx` alone takes 0.16 s and 29 MB,
and copies every weight, while counting ResNet-50 takes at most 0.4 s and 80 MB. Counting imports no NumPy and reads no
weights.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dojang.arith.graph import Graph
from dojang.base.errors import DojangError, FileError
from dojang.base.reading import damaged_as, opened
from dojang.formats.onnx.protobuf import Buffer, decode
from dojang.formats.onnx.read import read_model, read_paths
from dojang.formats.onnx.schema import MODEL

SMALL = 1 << 20
"""Files of at most so many bytes are read at once; larger ones are mapped."""


def load(
    path: str | os.PathLike[str],
    weights: bool = True,
    input_size: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """The network in an ONNX file.

    With `weights=False`, no arrays are read. `input_size` (without the batch, or one per input name) is needed if the
    file leaves sizes other than the batch open; it may also replace sizes that the file gives. Layers take their names
    from their weights (`conv1.weight` belongs to `conv1`), else from the node, else from its output. Operators that
    dojang does not know become `unknown` nodes, so that counting gives a lower bound.

    Raises `FileError` for files that cannot be read or are not trusted (damaged or truncated, wrong lengths, external
    data outside the folder), `GraphError` and `ShapeError` for networks whose parts do not fit together, `UsageError`
    for an open input size, `UnsupportedError` for operator sets and tensor types that are not supported, and
    `DataError` for weights that are NaN.
    """
    file = Path(path)
    data = _bytes(file)
    with _naming(file):
        return read_model(decode(MODEL, data), file.parent, weights, input_size, file.stem, len(data))


def paths(
    path: str | os.PathLike[str], input_size: Sequence[int] | Mapping[str, Sequence[int]] | None = None
) -> tuple[Graph, ...]:
    """One Graph, without weights, per path through a file in which values decide which branch of an If is taken.

    Nodes that lead to a decision are in every path, unless they cost nothing. After 6 decisions the other If nodes
    stay `unknown`, so there are at most 64 paths. Raises as `load`.
    """
    file = Path(path)
    data = _bytes(file)
    with _naming(file):
        return read_paths(decode(MODEL, data), file.parent, input_size, name=file.stem)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Adds the name of the file to errors."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{file}: cannot be read: {error.strerror or error}") from None
    except DojangError as error:
        raise error.within(str(file)) from None
    except MemoryError:
        raise FileError(f"{file}: needs more memory than is available; use a machine with more") from None


def from_bytes(
    data: Buffer, weights: bool = True, input_size: Sequence[int] | Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The network in the bytes of an ONNX file without external data; raises as `load`."""
    return read_model(decode(MODEL, data), None, weights, input_size, stored=len(data))


def _bytes(file: Path) -> Buffer:
    with opened(file, "an .onnx file") as stream:
        size = os.fstat(stream.fileno()).st_size
        if not size:
            raise FileError(f"{file}: the file is empty")
        if size <= SMALL:
            return stream.read()
        with damaged_as(str(file), "cannot be mapped"):
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def to_bytes(graph: Graph) -> bytes:
    """The network with its weights as the bytes of an ONNX file.

    Raises `GraphError` if weights are missing or do not fit, `UnsupportedError` for nodes that ONNX cannot express
    (unknown operators, adaptive pools whose sizes do not divide) and for more than 2 GB.
    """
    from dojang.formats.onnx.write import parts

    return b"".join(parts(graph))


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes the network to an ONNX file, whole or not at all; raises as `to_bytes`, `FileError` for a full disk."""
    from dojang.formats.onnx.write import parts

    file = Path(path)
    pieces = parts(graph)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(handle, "wb") as out:
            for piece in pieces:
                out.write(piece)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
        temporary = ""
    except OSError as error:
        raise FileError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""What is fuzzed: for each parser a way to run it on bytes, seeds, and a mutation of `mutations.py`.

`scripts/fuzz` drives these with atheris (coverage-guided); `tests/test_fuzz.py` with some hundred seeded mutations, so
that no run of the tests needs atheris. A run on any bytes ends well or with an error of `dojang.base.errors`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dojang.base.errors import DojangError
from mutations import havoc, of_chunks, of_fields, of_header, of_lines, of_members, of_npy, of_tags

Run = Callable[[bytes], object]
Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A parser. `make()` gives the function that runs it on bytes; its exceptions other than ours are findings."""

    make: Callable[[], Run]
    seeds: Callable[[], list[bytes]]
    mutate: Mutate | None = None
    modules: tuple[str, ...] = ()
    most: int = 4096
    """Bytes of an input at most: small ones find as much, and sooner."""


def guarded(run: Run, data: bytes) -> bool:
    """Whether a run went through; an error of ours is an answer too, any other exception comes out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # until the error is forgotten: some of Pillow's hold a file that is open
        try:
            run(data)
        except DojangError as error:
            said = str(error)
            assert said, "an error without a word"
            assert len(said) < 200_000, "an error that fills pages"
            return False
    return True


def _folder() -> Path:
    """A folder in memory where there is one; it is removed when the process ends."""
    import atexit

    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="dojang-fuzz-", dir=base))
    atexit.register(shutil.rmtree, path, True)
    return path


def _net() -> Run:
    from dojang.arith.cost import count
    from dojang.arith.field import fields as fields_of
    from dojang.formats import text

    def run(data: bytes) -> None:
        graph = text.parse(data.decode("utf-8", "replace"))
        if len(graph.nodes) < 16:
            count(graph)
            fields_of(graph)
            text.parse(text.to_text(graph))

    return run


def _net_seeds() -> list[bytes]:
    zoo = Path(__file__).parents[1] / "src" / "dojang" / "zoo"
    nets = [p.read_bytes() for p in sorted(zoo.glob("*.net")) if p.stat().st_size < 500]
    every = r"""network "a \" b" # comment
source x
classes a,b
meta k "v"
param c=3
block r(ch, s=1)
  conv1: conv $ch 3x3 stride=$s pad=1 bias=no
  relu
  add <- _, in
end
input 4x9x9 mean=0.5,0.5,0.5,0.5 std=1,1,1,1
st.{1..3}: r 4
maxpool 2x2/2 ceil=yes
resize size=7x5 mode=linear
conv_transpose 3 3x3 stride=2 output_padding=1
pad pads=1:2,0:3
reshape shape=3,-1
transpose perm=0,2,1
slice axis=1 start=0 stop=4 step=2
flatten
dense $c share=x
output _, st.1
"""
    own = [
        every.encode(),
        b"input 3x1000000x8\nresize size=999983x7\nconv 3 3x3\n",
        b"input 3x8x8\nconv 8 2147483647x3 pad=1073741824:1073741824\nadaptive_avgpool 7x3\nglobal_avgpool\n",
        b"input 4x8\nunsqueeze axes=1\nconcat axis=1 <- _, _\nmatmul <- _, _\ngather axis=0 indices=0\n"
        b"softmax axis=-1\nlayernorm shape=8\n",
    ]
    return own + nets[:12]


def _onnx() -> Run:
    from dojang.formats import onnx

    def run(data: bytes) -> None:
        onnx.from_bytes(data, input_size=None)

    return run


def _onnx_seeds() -> list[bytes]:
    from dojang.formats import onnx, text

    def written(net: str) -> bytes:
        graph = text.parse(net)
        rng = np.random.default_rng(0)
        arrays = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
        return onnx.to_bytes(graph.with_weights(arrays))

    nets = [
        "input 2x8x8\nconv 2 3x3 pad=1\nbatchnorm\nrelu\nmaxpool 2x2/2\nflatten\ndense 3\nsoftmax\n",
        "input 2x6x6\nconv 4 3x3 groups=2\nprelu num=4\nadd <- _, _\nresize scale=2\nglobal_avgpool\n",
        "input 2x6x6\nconv_transpose 2 3x3 stride=2\nlayernorm shape=13\nconcat axis=1 <- _, _\n"
        "slice axis=2 start=1 stop=5\npad pads=1,1\n",
        "input 4x8\ntranspose perm=0,2,1\nreshape shape=2,-1\nreduce_mean axes=1 keepdims=yes\nmatmul <- _, _\n",
        "input 4x8x8\ngroupnorm groups=2\ninstancenorm\nclip min=0 max=6\nadaptive_avgpool 2x2\nlrn size=3\n",
    ]
    found = []
    for net in nets:
        try:
            found.append(written(net))
        except DojangError:
            continue
    corpus = Path(__file__).parent / "formats" / "corpus"
    found += [p.read_bytes() for p in sorted(corpus.glob("*.onnx")) if p.stat().st_size < 2_000][:8]
    with contextlib.suppress(ImportError):  # the official package is in the dev extra only
        found += _control_seeds()
    return found


def _control_seeds() -> list[bytes]:
    from onnx import TensorProto, helper

    def model(nodes: list, inputs: list, inits: list) -> bytes:
        graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)], inits)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4])
    trips = helper.make_tensor("trips", TensorProto.INT64, [], [3])
    on = helper.make_tensor("on", TensorProto.BOOL, [], [1])
    body = helper.make_graph(
        [helper.make_node("Relu", ["c"], ["d"]), helper.make_node("Identity", ["k"], ["k2"])], "b",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("k", 9, []),
         helper.make_tensor_value_info("c", 1, None)],
        [helper.make_tensor_value_info("k2", 9, []), helper.make_tensor_value_info("d", 1, None)],
    )  # fmt: skip
    loop = model([helper.make_node("Loop", ["trips", "on", "x"], ["y"], body=body)], [x], [trips, on])
    node = helper.make_node
    shape = model(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["t"]), node("Unsqueeze", ["t", "zero"], ["u"]),
         node("Concat", ["zero", "u", "m"], ["v"], axis=0), node("Reshape", ["x", "v"], ["r"]),
         node("ConstantOfShape", ["dims"], ["k"]), node("Expand", ["k", "big"], ["e"]),
         node("Range", ["one", "trips", "one"], ["rng"]), node("Tile", ["r", "reps"], ["y"])], [x],
        [helper.make_tensor(name, 7, [] if isinstance(v, int) else [len(v)], [v] if isinstance(v, int) else v)
         for name, v in {"one": 1, "zero": [0], "m": [-1], "dims": [3, 4], "big": [2, 3, 4], "reps": [1, 2, 2],
                         "trips": 3}.items()],
    )  # fmt: skip
    return [loop, shape]


def _checkpoint() -> Run:
    from dojang.formats import checkpoint

    path = _folder() / "c.safetensors"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        graph = checkpoint.load(path)
        checkpoint.check_finite(graph)

    return run


def _checkpoint_seeds() -> list[bytes]:
    from dojang.formats import checkpoint, text

    folder = _folder()
    found = []
    for net in (
        "input 2x8\nconv 2 3\nrelu\nflatten\ndense 2\n",
        "input 1x2x2\nconv 1 1x1 bias=no\n",
        "input 3\nrelu\n",
    ):
        graph = text.parse(net)
        arrays = {k: np.ones(s, "f4") for k, s in graph.param_shapes.items()}
        found.append(
            checkpoint.save(
                graph.replace(weights=arrays, meta={"classes": "a,b"}), folder / "s.safetensors", True
            ).read_bytes()
        )
    raw = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"dojang.network":"input 3x4"}}'
    return [*found, struct.pack("<Q", len(raw)) + raw + b"\0" * 4]


def _tables() -> Run:
    from dojang.formats import tables

    def run(data: bytes) -> None:
        tables.parse(data.decode("utf-8", "replace"))

    return run


def _tables_seeds() -> list[bytes]:
    zoo = Path(__file__).parents[1] / "src" / "dojang" / "zoo"
    head = b"# title: T\n# network: alexnet\nrow,layers,out_shape,params,macs\n"
    own = head + b'"a,b",conv1 c.*,28x28x256,159K,128M\nc,d,,2.7K,-\n'
    return [own, *[p.read_bytes() for p in sorted(zoo.glob("*.csv"))][:6]]


SOURCES = (
    "a.npz",
    "a.npy",
    "a.zip",
    "train-images-idx3-ubyte",
    "train-images-idx3-ubyte.gz",
    "data_batch_1.bin",
    "folder",
)


class _InPlace(contextlib.nullcontext):
    """A pool of threads without threads."""

    map = staticmethod(map)

    def __init__(self, **_: object) -> None:
        super().__init__(self)


def _sources() -> Run:
    """The first byte says which kind of source the rest is."""
    from dojang.training import pictures, sources
    from dojang.training.load import load

    folder = _folder()
    idx = folder / "idx"
    idx.mkdir()
    (idx / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x04\0\1\0\1")
    classes = folder / "classes"
    for name in "ab":
        (classes / name).mkdir(parents=True)
        for place in "01":
            (classes / name / f"{place}.png").write_bytes(_picture("PNG", "L", (4, 4)))

    def run(data: bytes) -> None:
        # A pool takes longer to start its threads than four small pictures to decode, and their time is no one's.
        pool, pictures.ThreadPoolExecutor = pictures.ThreadPoolExecutor, _InPlace  # type: ignore[misc]
        try:
            read(data)
        finally:
            pictures.ThreadPoolExecutor = pool  # type: ignore[misc]

    def read(data: bytes) -> None:
        if not data:
            return
        kind, rest = SOURCES[data[0] % len(SOURCES)], data[1:]
        if kind == "folder":
            (classes / "b" / "0.png").write_bytes(rest)
            load(classes)
        elif kind == "a.npy":
            (folder / kind).write_bytes(rest)
            sources.npz_samples(folder / kind)
        else:
            path = (idx if "idx" in kind else folder) / kind
            path.write_bytes(rest)
            load(path)

    return run


def _picture(form: str, mode: str, size: tuple[int, int], **options: object) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    image = Image.effect_noise(size, 40).convert(mode) if mode not in ("I;16", "F", "I") else Image.new(mode, size, 7)
    image.save(out, form, **options)  # type: ignore[arg-type]
    return out.getvalue()


def _sources_seeds() -> list[bytes]:
    out, found = io.BytesIO(), []
    x, y = np.arange(10 * 12, dtype="u1").reshape(10, 1, 3, 4), np.arange(10) % 2
    np.savez(out, x=x, y=y, classes=np.array(["cat", "dog"]))
    found.append(b"\0" + out.getvalue())
    out = io.BytesIO()
    np.savez_compressed(out, x_train=x.astype("f4"), y_train=y, x_test=x.astype("f4"), y_test=y)
    found.append(b"\0" + out.getvalue())
    out = io.BytesIO()
    np.save(out, x.astype("f4"))
    found.append(b"\1" + out.getvalue())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for place in range(4):
            archive.writestr(f"{'ab'[place % 2]}/{place}.png", _picture("PNG", "L", (4, 4)))
    found.append(b"\2" + out.getvalue())
    idx = b"\0\0\x08\x03" + struct.pack(">3I", 4, 3, 3) + bytes(range(36))
    found += [b"\3" + idx, b"\4" + gzip.compress(idx, mtime=0), b"\5" + (b"\1" + bytes(3072) + b"\0" + bytes(3072)) * 2]
    return [*found, b"\6" + _picture("PNG", "L", (4, 4)), b"\6" + _picture("JPEG", "RGB", (4, 4))]


def of_source(data: bytes, rng: random.Random) -> bytes:
    """The kind mostly kept, the rest changed as its format wants."""
    if not data:
        return b"\0"
    kind = data[:1] if rng.random() < 0.97 else bytes((rng.randrange(len(SOURCES)),))
    rest = data[1:]
    if rest.startswith(b"PK"):
        return kind + of_members(rest, rng)
    if rest.startswith(b"\x93NUMPY"):
        return kind + of_npy(rest, rng)
    if rest.startswith(b"\x1f\x8b") and rng.random() < 0.5:
        try:
            return kind + gzip.compress(havoc(gzip.decompress(rest), rng), 1, mtime=0)
        except Exception:
            return kind + havoc(rest, rng)
    return kind + havoc(rest, rng)


def _pictures() -> Run:
    from dojang.training.pictures import SampleSize, decoded

    small = SampleSize.of((3, 8, 8))
    plain = SampleSize.of(None)

    def run(data: bytes) -> None:
        decoded(data, "p", small if len(data) % 2 else plain)

    return run


def _pictures_seeds() -> list[bytes]:
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # orientation 6
    return [
        _picture("PNG", "RGB", (9, 7)), _picture("PNG", "I;16", (5, 5)), _picture("PNG", "P", (5, 6), transparency=3),
        _picture("PNG", "LA", (5, 6)), _picture("JPEG", "RGB", (9, 8)), _picture("JPEG", "CMYK", (9, 8)),
        _picture("GIF", "P", (6, 6)), _picture("BMP", "RGB", (6, 5)), _picture("BMP", "1", (6, 5)),
        _picture("WEBP", "RGB", (6, 6)), _picture("TIFF", "RGB", (6, 6)), _picture("TIFF", "F", (6, 6)),
        _picture("TIFF", "L", (6, 6), compression="tiff_lzw"), _picture("TIFF", "1", (16, 6), compression="group4"),
        _picture("PPM", "RGB", (6, 4)), _picture("JPEG", "L", (8, 8), exif=turned),
    ]  # fmt: skip


def _filtered() -> Run:
    """Pictures as `dojang blur` reads them, with what stands beside their pixels, and writes them again."""
    from dojang.filters.pictures.reading import read_picture
    from dojang.filters.pictures.writing import write_picture

    folder = _folder()
    path = folder / "p"
    forms = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}

    def run(data: bytes) -> None:
        path.write_bytes(data)
        picture = read_picture(path, max_pixels=1 << 22)  # larger ones only take longer
        if picture.pixels.size < 1 << 14:
            suffix = (forms.get(picture.format, ".png"), *forms.values())[len(data) % 5]
            write_picture(picture, folder / f"q{suffix}", force=True)

    return run


def _filtered_seeds() -> list[bytes]:
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_text("Title", "t", zip=True)
    words.add_itxt("XML:com.adobe.xmp", "<x/>")
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    deep = b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in (
            (b"IHDR", struct.pack(">2I5B", 3, 2, 16, 2, 0, 0, 0)),
            (b"pHYs", struct.pack(">2IB", 99, 99, 1)),
            (b"IDAT", zlib.compress(bytes(2 * (1 + 18)))),
            (b"IEND", b""),
        )
    )
    return [
        *_pictures_seeds(),
        _picture("PNG", "RGB", (5, 4), pnginfo=words, dpi=(72, 72), icc_profile=b"icc", exif=turned),
        _picture("JPEG", "RGB", (8, 8), dpi=(72, 72), icc_profile=b"icc", exif=turned, comment=b"c", xmp=b"<x/>"),
        _picture("WEBP", "RGBA", (5, 4), lossless=True, exif=turned, xmp=b"<x/>"),
        b"\x89PNG\r\n\x1a\n" + deep,
        *_tiff_seeds(),
    ]


def _tiff() -> Run:
    """TIFF as large pictures are read, by bands; Pillow has no part in it."""
    from dojang.filters import large

    path = _folder() / "t.tif"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with large.opened(path) as source:
            rows = min(source.shape[0], max(1, (1 << 16) // max(1, int(np.prod(source.shape[1:])))))
            source.read(0, rows)

    return run


def _tiff_seeds() -> list[bytes]:
    import tifffile

    def written(array: np.ndarray, **options: Any) -> bytes:
        out = io.BytesIO()
        tifffile.imwrite(out, array, metadata=None, software=None, **options)
        return out.getvalue()

    grey, colours = np.arange(63, dtype="u1").reshape(9, 7), np.arange(315, dtype="u2").reshape(9, 7, 5)
    found = [seed for seed in _pictures_seeds() if seed[:4] in (b"II*\0", b"MM\0*")]
    found += [_picture("TIFF", "RGBA", (6, 6), compression=kind) for kind in ("packbits", "tiff_adobe_deflate")]
    return [
        *found,
        written(grey, compression="zlib", rowsperstrip=4, predictor=True),
        written(np.moveaxis(colours, -1, 0), photometric="rgb", planarconfig="separate", extrasamples=(0, 2)),
        written(colours, photometric="rgb", extrasamples=(0, 0), tile=(16, 16), compression="zlib", byteorder=">"),
        written(colours[..., :3].astype("f4"), photometric="rgb", rowsperstrip=2, bigtiff=True, byteorder=">"),
        written(grey, photometric="palette", colormap=np.arange(768, dtype="u2").reshape(3, 256)),
        written(grey, photometric="miniswhite", resolution=(72, 72), description="d", iccprofile=b"icc"),
    ]


TARGETS = {
    "net": Target(_net, _net_seeds, of_lines, ("dojang.formats.text", "dojang.arith"), 700),
    "onnx": Target(_onnx, _onnx_seeds, of_fields, ("dojang.formats", "dojang.arith"), 2500),
    "checkpoint": Target(_checkpoint, _checkpoint_seeds, of_header, ("dojang.formats", "dojang.base"), 2500),
    "tables": Target(_tables, _tables_seeds, of_lines, ("dojang.formats", "dojang.arith.check"), 1500),
    "sources": Target(
        _sources, _sources_seeds, of_source, ("dojang.training", "dojang.base", "dojang.formats.arrays"), 12_300
    ),
    "pictures": Target(_pictures, _pictures_seeds, havoc, ("dojang.training.pictures", "PIL")),
    "filtered": Target(_filtered, _filtered_seeds, of_chunks, ("dojang.filters", "PIL", "tifffile")),
    "tiff": Target(_tiff, _tiff_seeds, of_tags, ("dojang.filters", "tifffile")),
}

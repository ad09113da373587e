"""Samples that are larger than memory: the same numbers as in memory, in bounded memory."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from dojang.base.errors import DataError
from dojang.training import streams
from dojang.training.asked import Asked
from dojang.training.batches import Batcher
from dojang.training.data import Augment, Data
from dojang.training.load import load
from dojang.training.streams import StreamedSamples

RNG = np.random.default_rng(8)


def pictures(path: Path, zipped: bool) -> Path:
    made = {}
    for i in range(30):
        out = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(out, "PNG")
        made[f"{'cd'[i % 2]}/{i}.png"] = out.getvalue()
    if zipped:
        with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
            for name, raw in made.items():
                archive.writestr(name, raw)
        return path.with_suffix(".zip")
    for name, raw in made.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(raw)
    return path


def group(path: Path, kind: type, last: bool = False) -> Path:
    x = RNG.integers(0, 256, (30, 3, 6, 5)).astype(kind)
    store = zarr.open_group(str(path), mode="w")
    store.create_array(
        "x", data=np.moveaxis(x, 1, -1) if last else x, chunks=(7, *(x.shape[1:] if not last else (6, 5, 3)))
    )
    store.create_array("y", data=np.arange(30) % 3)
    return path


SOURCES = ("folder", "zip", "zarr", "zarr, channels last", "zarr of floats")


@pytest.mark.parametrize("kind", SOURCES)
def test_streamed_samples_are_those_of_memory(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind.startswith("zarr"):
        source = group(tmp_path / "a.zarr", np.float32 if "floats" in kind else np.uint8, "last" in kind)
    else:
        source = pictures(tmp_path / "a", kind == "zip")
    size = None if kind.startswith("zarr") else (3, 6, 5)
    resident: Data = load(source, size=size)
    monkeypatch.setattr(streams, "RESIDENT", 0.0)
    data = load(source, size=size)
    assert isinstance(data.train.x, StreamedSamples)
    assert isinstance(data.test.x, StreamedSamples)
    assert isinstance(data.selection(0.3).train.x, StreamedSamples)
    for one, other in ((data.train, resident.train), (data.test, resident.test)):
        assert np.array_equal(one.y, other.y)
        scale = 1 if one.x.dtype == other.x.dtype else 255  # floats of 0…255 in memory are stored as bytes
        assert np.allclose(one.x[:], other.x if scale == 1 else other.x.astype(np.float32))
        assert np.allclose(one.inputs(2, 9), other.inputs(2, 9), atol=1e-5)
        at = RNG.permutation(len(one))[:5]
        assert np.allclose(one.take(at).inputs(), other.take(at).inputs(), atol=1e-5)
    assert np.allclose(data.normalisation.std, np.asarray(resident.normalisation.std) * scale, rtol=1e-6)
    assert load(source, size=size).hash == data.hash
    a, b = (Batcher(d.train, Augment(2, True), 3) for d in (data, resident))
    order = RNG.permutation(len(data.train))[:6]
    a.ahead(order, 1, 2)
    assert np.allclose(a.batch(order, 1, 2), b.batch(order, 1, 2))
    parts = [a.batch(order, 1, 3, lambda items, r=r: np.array_split(items, 2)[r]) for r in (0, 1)]
    assert np.allclose(np.concatenate(parts), b.batch(order, 1, 3))


def test_a_changed_picture_changes_the_hash_and_a_size_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "a", False)
    monkeypatch.setattr(streams, "RESIDENT", 0.0)
    before = load(source, size=(3, 6, 5)).hash
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(source / "c" / "0.png")
    assert load(source, size=(3, 6, 5)).hash != before
    with pytest.raises(DataError, match=r"do not fit into memory; give one size \(--input-size"):
        load(source)


@pytest.mark.parametrize(("kind", "size"), [(np.uint8, (3, 9, 7)), (np.float32, (1, 4, 4)), (np.uint8, (1, 6, 5))])
def test_streamed_samples_are_resized_when_they_are_read(
    tmp_path: Path, kind: type, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = group(tmp_path / "a.zarr", kind)
    asked = Asked(values="as-is") if kind is np.float32 else Asked()
    with pytest.warns(UserWarning, match="were made"):
        resident = load(source, size=size, asked=asked)
    monkeypatch.setattr(streams, "RESIDENT", 0.0)
    with pytest.warns(UserWarning, match="were made"):
        data = load(source, size=size, asked=asked)
    assert isinstance(data.train.x, StreamedSamples)
    assert data.sample_shape == size
    for one, other in ((data.train, resident.train), (data.test, resident.test)):
        at = RNG.permutation(len(one))
        scale = np.abs(other.x).max()
        assert np.abs(one.x[at].astype(np.float64) - other.x[at]).max() <= (1e-6 * scale if kind is np.float32 else 0)
    assert len({data.hash, load(source, asked=asked).hash}) == 2
    with pytest.raises(DataError, match="3 channels cannot become 2"):
        load(source, size=(2, 6, 5), asked=asked)


PROGRAM = """
import resource, sys
import numpy as np
from dojang.training import streams
from dojang.training.load import load
streams.RESIDENT = 0.0
load(sys.argv[2])  # what reading needs whatever the size
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load(sys.argv[1])
for start in range(0, len(data.train), 256):
    data.train.inputs(start, start + 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    for name, count in (("small", 400), ("large", 8000)):
        store = zarr.open_group(str(tmp_path / f"{name}.zarr"), mode="w")
        x = store.create_array("x", shape=(count, 3, 64, 64), chunks=(100, 3, 64, 64), dtype="uint8")
        for start in range(0, count, 100):
            x[start : start + 100] = np.broadcast_to(np.arange(64, dtype=np.uint8), (100, 3, 64, 64))
        store.create_array("y", data=np.arange(count) % 5)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "large.zarr"), str(tmp_path / "small.zarr")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    grown = int(done.stdout) / 1024
    assert grown < 48, f"{grown:.0f} MiB more for 98 MB of samples than for 5 MB"

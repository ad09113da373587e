"""TIFFs of one deflated strip: rows as tifffile reads them, and within the memory of a band."""

import zlib

import numpy as np
import pytest
import tifffile
from tests.filters.bounded import filter_within_limit

from dojang.base.errors import FileError
from dojang.filters.files import filter_files
from dojang.filters.filter import filter
from dojang.filters.pictures import tiff_rows
from dojang.filters.pictures.tiff import Layout
from dojang.filters.pictures.tiff_rows import Rows


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("predictor", [None, 2])
def test_rows_in_any_order(tmp_path, monkeypatch, dtype, order, planar, predictor):
    if predictor and dtype == "f4":
        pytest.skip("tifffile writes no such predictor")
    monkeypatch.setattr(tiff_rows, "STREAMED_BYTES", 0)
    rng = np.random.default_rng(0)
    array = rng.integers(0, 200, (300, 41, 3)).astype(dtype)
    stored = np.moveaxis(array, -1, 0) if planar == "separate" else array
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression="zlib",
                     rowsperstrip=300, byteorder=order, predictor=predictor, metadata=None)  # fmt: skip
    rows = Rows(str(tmp_path / "a.tif"), Layout.of(str(tmp_path / "a.tif")))
    assert len(rows._strips) == (3 if planar == "separate" else 1)
    for first, last in [(0, 9), (5, 40), (40, 41), (290, 300), (3, 4), (0, 300), (299, 300)]:
        np.testing.assert_array_equal(rows.read(first, last), array[first:last])
    rows.close()
    for border in ("reflect", "circular"):
        filter_files([tmp_path / "a.tif"], "gaussian", tmp_path / "b.tif", border, band_pixels=1, force=True)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), filter(array, "gaussian", border))


@pytest.mark.parametrize("damage", ["cut", "short", "byte"])
def test_damage(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(tiff_rows, "STREAMED_BYTES", 0)
    array = np.random.default_rng(0).integers(0, 200, (300, 41, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="zlib", rowsperstrip=300, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    if damage == "cut":
        data = data[: at + length // 2]
    elif damage == "short":
        data[at : at + length] = zlib.compress(bytes(300)).ljust(length, b"\0")
    else:
        data[at + length // 2] ^= 0xFF
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(FileError, match="damaged or truncated picture") as caught:
        filter_files([tmp_path / "a.tif"], "blur", tmp_path / "b.tif", band_pixels=1)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_one_large_strip_takes_the_memory_of_a_band(tmp_path):
    """240 MB in one strip, in a process that may have 200 MB of its own."""
    line = np.random.default_rng(5).integers(0, 256, (1, 4000, 3), dtype=np.uint8)
    array = np.broadcast_to(line, (20_000, 4000, 3))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="zlib", rowsperstrip=20_000,
                     compressionargs={"level": 1}, metadata=None)  # fmt: skip
    files = [tmp_path / "a.tif", tmp_path / "b.npy"]
    filter_within_limit(*files, "blur", 240)
    result = np.load(files[1], mmap_mode="r")
    expected = filter(np.repeat(line, 5, axis=0), "blur")
    for y in (0, 9_999, 19_999):
        np.testing.assert_array_equal(result[y], expected[2])

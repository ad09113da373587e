"""Pictures and kernels are opened as every other input, and results written as every other file."""

from __future__ import annotations

import os
import stat
import struct

import numpy as np
import pytest
from PIL import Image

from dojang.base.errors import FileError, UnsupportedError, UsageError
from dojang.filters.files import filter_files, plan_files

HEADERS = {
    "open bracket": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4",
    "nested": "(" * 3000,
    "overflowing": "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999, 4)}",
    "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -4)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (3, 3)}",
    "records": "{'descr': [('a', '<f4', (100000, 100000))], 'fortran_order': False, 'shape': (3,)}",
    "a power": "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}",
}


def npy(path, header):
    raw = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(64))
    return path


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_damaged_npy(tmp_path, picture, header):
    bad = npy(tmp_path / "bad.npy", header)
    for given in (([bad], "identity"), ([picture], str(bad))):
        with pytest.raises(FileError) as caught:
            filter_files(*given, tmp_path / "o.npy")
        assert str(caught.value).startswith(str(bad))
        assert len(str(caught.value)) < len(str(bad)) + 400


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1", ">u2"])
def test_npy_in_any_order(tmp_path, order, dtype):
    image = np.arange(24).reshape(4, 6).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", image)
    filter_files([tmp_path / "a.npy"], "identity", tmp_path / "o.npy")
    assert np.array_equal(np.load(tmp_path / "o.npy"), image)
    taps = np.zeros((3, 3), dtype, order=order)
    taps[1, 2] = 1
    np.save(tmp_path / "k.npy", taps)
    filter_files([tmp_path / "a.npy"], str(tmp_path / "k.npy"), tmp_path / "k-o.npy", border="circular")
    assert np.array_equal(np.load(tmp_path / "k-o.npy"), np.roll(image, -1, axis=1))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".npy"])
def test_what_is_no_regular_file(tmp_path, picture, suffix):
    """A pipe is not waited for, and a device not read."""
    pipe, device = tmp_path / f"pipe{suffix}", tmp_path / f"zero{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        for call in (filter_files, plan_files):
            with pytest.raises(FileError, match="is a device, a pipe or a socket"):
                call([path], "blur")
        if suffix == ".npy":
            with pytest.raises(FileError, match="is a device, a pipe or a socket"):
                filter_files([picture], str(path), tmp_path / "o.png")


@pytest.mark.parametrize("name", ["o.png", "o.tif", "o.npy"])
def test_a_mode_and_a_link_are_kept(tmp_path, name):
    np.save(tmp_path / "a.npy", np.ones((8, 8), np.uint8))
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "a.png")
    source = tmp_path / ("a.png" if name == "o.png" else "a.npy")
    real, link = tmp_path / f"real-{name}", tmp_path / name
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real.name)
    filter_files([source], "identity", link, force=True)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert real.read_bytes() != b"old"


@pytest.mark.parametrize("name", ["o.png", "o.npy"])
def test_a_device_is_not_replaced(tmp_path, picture, name):
    np.save(tmp_path / "a.npy", np.ones((8, 8), np.uint8))
    link, pipe = tmp_path / name, tmp_path / f"pipe-{name}"
    link.symlink_to("/dev/null")
    os.mkfifo(pipe)
    for target in (link, pipe):
        with pytest.raises(UsageError, match="is a device, a pipe or a socket"):
            filter_files([picture if name == "o.png" else tmp_path / "a.npy"], "blur", target, force=True)
    assert link.is_symlink()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_store_is_replaced_by_force_only(tmp_path):
    pytest.importorskip("zarr")
    np.save(tmp_path / "a.npy", np.ones((8, 8), np.uint8))
    store = tmp_path / "o.zarr"
    filter_files([tmp_path / "a.npy"], "identity", store)
    (store / "mine").write_text("kept")
    with pytest.raises(UsageError, match="exists already"):
        filter_files([tmp_path / "a.npy"], "blur", store)
    assert (store / "mine").exists()
    filter_files([tmp_path / "a.npy"], "blur", store, force=True)
    assert not (store / "mine").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "o.zarr"]


def test_a_healthy_bmp_of_a_form_that_pillow_does_not_decode_is_not_called_damaged(tmp_path):
    """A palette of four colours at 2 bits a pixel, as Windows CE writes it."""
    pixels = bytes([0b00011011, 0, 0, 0]) * 2
    head = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 2, 0, len(pixels), 2835, 2835, 4, 4)
    body = head + bytes(range(16)) + pixels
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 40 + 16) + body)
    with pytest.raises(UnsupportedError, match=r"a\.bmp: .*does not decode .*pixel depth \(2\)"):
        filter_files([tmp_path / "a.bmp"], "blur", tmp_path / "b.png")

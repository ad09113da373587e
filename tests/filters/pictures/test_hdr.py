"""Pictures of floats and of 16 bits that Pillow does not open, or truncates: Radiance, PFM, deep PGM and PPM. Oracles:
OpenCV's reader and writer, and files written by hand.
"""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from dojang.base.errors import DojangError, FileError, UnsupportedError
from dojang.filters.files import NotKept, filter_files
from dojang.filters.filter import filter
from dojang.filters.pictures.reading import read_picture

RNG = np.random.default_rng(2)


def bright(shape=(31, 40, 3)):
    """Values over ten powers of ten, as lamps and shadows have."""
    return (10.0 ** RNG.uniform(-5, 5, shape)).astype(np.float32)


def by_opencv(path):
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("shape", [(31, 40, 3), (5, 7, 3), (9, 300, 3)])
@pytest.mark.parametrize("flat", [False, True])
def test_radiance(tmp_path, shape, flat):
    """Written by OpenCV, with and without run lengths; the result read by OpenCV."""
    picture = bright(shape)
    picture[:, : shape[1] // 2] = picture[0, 0]  # runs
    picture[-1, -1] = 0
    how = [cv2.IMWRITE_HDR_COMPRESSION, cv2.IMWRITE_HDR_COMPRESSION_NONE] if flat else []
    cv2.imwrite(str(tmp_path / "a.hdr"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), how)
    stored = by_opencv(tmp_path / "a.hdr")
    read = read_picture(tmp_path / "a.hdr")
    assert read.pixels.dtype == np.float32
    np.testing.assert_array_equal(read.pixels, stored)
    filter_files([tmp_path / "a.hdr"], "identity", tmp_path / "same.hdr")
    np.testing.assert_array_equal(by_opencv(tmp_path / "same.hdr"), stored)
    (done,) = filter_files([tmp_path / "a.hdr"], "gaussian").done
    assert (done.target, done.dtype) == (str(tmp_path / "a-gaussian.hdr"), "float32")
    expected = filter(stored, "gaussian")
    np.testing.assert_allclose(by_opencv(done.target), expected, atol=0, rtol=1)  # of the pixel's largest value below
    steps = np.abs(by_opencv(done.target) - expected) / expected.max(axis=-1, keepdims=True)
    assert steps.max() <= 1 / 256  # half a step of the mantissa, which lies from 128 to 255
    filter_files([tmp_path / "a.hdr"], "gaussian", tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), expected)


def test_what_a_radiance_picture_says_and_cannot_hold(tmp_path):
    pixels = np.full((4, 4, 4), 130, np.uint8)
    head = b"#?RADIANCE\n# made by hand\nEXPOSURE=2.0\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n"
    (tmp_path / "a.hdr").write_bytes(head + pixels.tobytes())
    filter_files([tmp_path / "a.hdr"], "identity", tmp_path / "b.hdr")
    assert b"\nEXPOSURE=2.0\n" in (tmp_path / "b.hdr").read_bytes()
    with pytest.warns(NotKept, match="EXPOSURE$"):
        filter_files([tmp_path / "a.hdr"], "identity", tmp_path / "b.tif")
    with pytest.warns(NotKept, match="negative values$"):
        filter_files([tmp_path / "a.hdr"], "0 -1 0; 0 0 0; 0 0 0", tmp_path / "c.hdr")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(UnsupportedError, match="HDR cannot hold uint8 pixels; end the name with .png"):
        filter_files([tmp_path / "a.png"], "blur", tmp_path / "d.hdr")
    with pytest.raises(UnsupportedError, match="JPEG cannot hold float32 pixels; end the name with .tif"):
        filter_files([tmp_path / "a.hdr"], "blur", tmp_path / "d.jpg")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"#?RADIANCE\n", "header has no end"),
        (b"#?RADIANCE\n\n-Y 9 +X 9\n" + bytes(100), "row 2 of 9 is cut off"),
        (b"#?RADIANCE\n\n-Y 9 +X 9\n\2\2\0\x09\x85", "run lengths do not fit"),
        (b"#?RADIANCE\n\n-Y 9 +X 9\n\2\2\0\x09" + b"\x8a\0" * 40, "run lengths do not fit"),
        (b"#?RADIANCE\n\n-Y 9 +X 9\n\2\2\0\x09" + b"\0" * 40, "run lengths do not fit"),
        (b"#?RADIANCE\n\n-Y 1 +X 4\n" + b"\1\1\1\3" * 4, "before 1991"),
        (b"#?RADIANCE\n\n+Y 9 +X 9\n" + bytes(400), "rows in the order '\\+Y 9 \\+X 9'"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 9 +X 9\n" + bytes(400), "32-bit_rle_xyze"),
        (b"#?RADIANCE\n\n-Y 0 +X 9\n", "9x0 pixels"),
        (b"#?RADIANCE\n\n-Y 99999999 +X 99999999\n", "decompression bomb"),
        (b"P6 4 4 65535\n" + bytes(90), "45 of 48 values"),
        (b"P2 2 2 1023\n1 2 3 1024\n", "outside 0 to 1023"),
        (b"P2 2 2 1023\n1 2 x 4\n", "outside 0 to 1023"),
        (b"P5 2 2 99999\n" + bytes(8), "outside 0 to 65535"),
        (b"P5 99999999 99999999 65535\n", "decompression bomb"),
        (b"PF\n99999999 99999999\n-1.0\n", "decompression bomb"),
        (b"Pf\n3 3\n-1.0\n" + bytes(30), "7 of 9 values"),
    ],
)
def test_damage_is_one_line(tmp_path, data, says):
    for suffix in ("hdr", "ppm", "png"):  # by content, whatever they are called
        (tmp_path / f"a.{suffix}").write_bytes(data)
        with pytest.raises((FileError, UnsupportedError), match=says) as caught:
            filter_files([tmp_path / f"a.{suffix}"], "blur", tmp_path / "b.tif")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path / f"a.{suffix}"))


@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
@pytest.mark.parametrize("top", [256, 1023, 4095, 65535])
def test_netpbm_of_more_than_8_bits(tmp_path, kind, top):
    channels = 3 if kind in (b"P3", b"P6") else 1
    values = RNG.integers(0, top + 1, (9, 8, channels))
    values[0, 0], values[0, 1] = 0, top
    body = values.astype(">u2").tobytes() if kind in (b"P5", b"P6") else " ".join(map(str, values.ravel())).encode()
    (tmp_path / "a.ppm").write_bytes(kind + b"\n# a comment\n8 9\n%d\n" % top + body)
    (done,) = filter_files([tmp_path / "a.ppm"], "identity").done
    assert (done.target, done.dtype) == (str(tmp_path / "a-identity.png"), "uint16")
    expected = np.floor(values * 65535 / top + 0.5).astype(np.uint16)
    result = cv2.imread(done.target, cv2.IMREAD_UNCHANGED)
    result = cv2.cvtColor(result, cv2.COLOR_BGR2RGB) if channels == 3 else result[..., None]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm(tmp_path, channels, order):
    pixels = bright((9, 8, channels)) - 1
    head = (b"PF" if channels == 3 else b"Pf") + b"\n8 9\n" + (b"-1.0\n" if order == "<" else b"1.0\n")
    (tmp_path / "a.pfm").write_bytes(head + pixels[::-1].astype(f"{order}f4").tobytes())
    (done,) = filter_files([tmp_path / "a.pfm"], "identity").done
    assert done.target == str(tmp_path / "a-identity.tif")
    np.testing.assert_array_equal(tifffile.imread(done.target).reshape(pixels.shape), pixels)


def test_changed_bytes_are_a_picture_or_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / "a.hdr"), bright((9, 20, 3)))
    heads = [
        (tmp_path / "a.hdr").read_bytes(),
        b"P6\n9 8\n4095\n" + bytes(9 * 8 * 6),
        b"PF\n9 8\n-1.0\n" + bytes(9 * 8 * 12),
    ]
    rng = np.random.default_rng(7)
    for trial in range(300):
        data = bytearray(heads[trial % 3])
        for at in rng.integers(0, min(len(data), 160), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        (tmp_path / "b.hdr").write_bytes(data[: rng.integers(5, len(data)) if trial % 4 == 0 else None])
        try:
            read_picture(tmp_path / "b.hdr")
        except DojangError as error:
            assert "\n" not in str(error), trial

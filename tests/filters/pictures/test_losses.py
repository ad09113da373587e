"""What is beside the pixels is kept or named; what is opened is one list of formats; limits are asked before memory."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, TiffImagePlugin
from scipy import signal

import dojang
from dojang.base.errors import DojangError, FileError, ShapeError, UnsupportedError, UsageError
from dojang.base.pictures import FORMATS
from dojang.filters.files import NotKept, filter_files
from dojang.filters.filter import filter
from dojang.filters.job import AxesWarning
from dojang.filters.kernels.named import NAMED
from dojang.filters.kernels.parse import as_kernel
from dojang.filters.pictures.png import chunks_of
from dojang.filters.pictures.reading import read_picture
from dojang.filters.pictures.tiff import Layout
from dojang.training.pictures import SampleSize, decoded

RNG = np.random.default_rng(0)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, bits, more=()):
    """A PNG of such pixels (h, w, 1 or 3), written by hand."""
    h, w, channels = values.shape
    raw = values.astype(">u2" if bits == 16 else "u1")
    rows = [raw[y].tobytes() for y in range(h)]
    if bits < 8:
        rows = [np.packbits(np.unpackbits(raw[y], axis=-1)[:, -bits:].ravel()).tobytes() for y in range(h)]
    head = struct.pack(">IIBBBBB", w, h, bits, {1: 0, 3: 2}[channels], 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", head), *(chunk(*m) for m in more), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("bits", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_one_transparent_value_of_any_depth(tmp_path, bits, channels):
    top = (1 << bits) - 1
    values = RNG.integers(0, min(top, 3) + 1, (9, 16, channels)) * (top // min(top, 3))
    key = values[0, 0]
    (tmp_path / "a.png").write_bytes(png(values, bits, [(b"tRNS", struct.pack(f">{channels}H", *key))]))
    filter_files([tmp_path / "a.png"], "identity", tmp_path / "b.png")
    pixels = read_picture(tmp_path / "b.png").pixels
    full = 65535 if bits == 16 else 255
    assert np.array_equal(pixels[..., -1], np.where((values == key).all(-1), 0, full))
    assert np.array_equal(pixels[..., :-1], values * (full // top))


@pytest.mark.parametrize("bits", [8, 16])
def test_chunks_of_a_png_are_kept_or_named(tmp_path, bits):
    more = [
        (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(range(32))), (b"cICP", b"\x09\x10\0\1"),
        (b"pHYs", struct.pack(">IIB", 3, 2, 0)), (b"tEXt", b"Author\0somebody"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>"), (b"prVt", b"x"),
    ]  # fmt: skip
    (tmp_path / "a.png").write_bytes(png(RNG.integers(0, 1 << bits, (9, 8, 3)), bits, more))
    with pytest.warns(NotKept, match=r"not kept of .*a\.png: prVt$"):
        filter_files([tmp_path / "a.png"], "blur", tmp_path / "b.png")
    assert {(c.kind, c.data) for c in chunks_of(str(tmp_path / "b.png"))[0]} == set(more[:-1])
    if bits == 8:
        with pytest.warns(NotKept, match=r"cHRM, cICP, gAMA, .*tEXt Author"):
            (one,) = filter_files([tmp_path / "a.png"], "blur", tmp_path / "b.jpg").done
        assert "prVt" in one.lost
        with Image.open(tmp_path / "b.jpg") as image:
            assert image.info["xmp"] == b"<x:xmpmeta/>"


def test_words_of_a_jpeg_are_kept_or_named(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    image.save(tmp_path / "a.jpg", comment=b"hello", xmp=b"<x/>")
    filter_files([tmp_path / "a.jpg"], "blur", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as after:
        assert (after.info["comment"], after.info["xmp"]) == (b"hello", b"<x/>")
    with pytest.warns(NotKept, match="the comment"):
        filter_files([tmp_path / "a.jpg"], "blur", tmp_path / "b.png")
    assert any(c.is_xmp and c.data.endswith(b"<x/>") for c in chunks_of(str(tmp_path / "b.png"))[0])


def test_a_second_picture_in_a_jpeg_is_named(tmp_path):
    one, two = (Image.fromarray(RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(2))
    one.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[two])
    with pytest.warns(NotKept, match="1 more picture in the same file"):
        filter_files([tmp_path / "a.jpg"], "identity", tmp_path / "b.png")
    with Image.open(tmp_path / "a.jpg") as first, Image.open(tmp_path / "b.png") as after:
        assert np.array_equal(np.asarray(first), np.asarray(after))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12"]
)
def test_damaged_exif_costs_no_picture(tmp_path, suffix, exif):
    Image.fromarray(RNG.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotKept)
        for stride in (1, 2):
            filter_files([tmp_path / "a.jpg"], "identity", tmp_path / f"{stride}.{suffix}", stride=stride)
    with Image.open(tmp_path / f"1.{suffix}") as after:
        assert after.size == (20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_pil_image_is_filtered_as_it_is_shown(orientation, form, stride):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(buffer, form, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
    result = filter(Image.open(buffer), "emboss", stride=stride, dilation=(2, 1))
    expected = filter(np.ascontiguousarray(shown), "emboss", stride=stride, dilation=(2, 1))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(result)), expected)


@pytest.mark.parametrize("orientation", [1, 2, 5, 8])
@pytest.mark.parametrize("target", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp"])
def test_exif_and_what_is_shown_survive_another_format(tmp_path, source, target, orientation):
    """Grey levels by place, so that a turned picture differs by far more than an encoder does."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    exif.get_ifd(0x8769)[0x829A] = 0.125
    exif.get_ifd(0x8825)[1] = "N"
    places = (np.arange(20)[:, None] * 8 + np.arange(30)[None, :] * 2).astype("u1")
    lossless = {"lossless": True} if source == "webp" else {"quality": 95} if source == "jpg" else {}
    Image.fromarray(np.repeat(places[..., None], 3, 2)).save(tmp_path / f"a.{source}", exif=exif, **lossless)
    filter_files([tmp_path / f"a.{source}"], "identity", tmp_path / f"b.{target}")
    with Image.open(io.BytesIO((tmp_path / f"b.{target}").read_bytes())) as after:
        found = after.getexif()
        assert (found.get(0x0112, 1), found[0x010F]) == (orientation, "a camera")
        assert (found.get_ifd(0x8769)[0x829A], found.get_ifd(0x8825)[1]) == (0.125, "N")
        shown = np.asarray(ImageOps.exif_transpose(after).convert("L"))
    flips = {1: places, 2: places[:, ::-1], 5: places.T, 8: places.T[::-1]}  # EXIF 2.32, tag 0x0112
    assert np.abs(shown.astype(int) - flips[orientation]).max() < 8


def test_exif_that_a_format_cannot_hold_costs_no_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 70_000
    places = (np.arange(20)[:, None] * 8 + np.arange(30)[None, :] * 2).astype("u1")
    Image.fromarray(places).save(tmp_path / "a.png", exif=exif)
    with pytest.warns(NotKept, match=r"EXIF \(70,\d\d\d bytes"):
        filter_files([tmp_path / "a.png"], "identity", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as after:
        assert np.abs(np.asarray(after).astype(int) - places[::-1].T).max() < 8


@pytest.mark.parametrize("mode", ["LAB", "HSV", "I", "RGBX", "RGBa", "La"])
def test_other_modes_of_pillow_are_refused_by_name(mode):
    with pytest.raises(UnsupportedError, match=f'"{mode}"'):
        filter(Image.new(mode, (8, 9)), "blur")


def test_channels_first_is_said():
    for shape in ((3, 40, 50), (1, 28, 28), (4, 64, 64)):
        with pytest.raises(ShapeError, match="moveaxis"):
            filter(np.zeros(shape, "u1"), "blur")
    with pytest.warns(AxesWarning, match="3 rows"):
        assert filter(np.zeros((1, 3, 40, 50), "u1"), "blur").shape == (1, 3, 40, 50)
    assert filter(np.zeros((3, 40, 4), "u1"), "blur").shape == (3, 40, 4)


def test_a_value_that_no_border_uses_is_refused(tmp_path):
    with pytest.raises(UsageError, match='value 3 is for border "constant"'):
        filter(np.zeros((9, 9)), "blur", value=3)
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-m", "dojang", "filter", "a.png", "--kernel", "blur", "--value", "7"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert '"constant"' in done.stderr


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("kinds", ["FF", "Ff", "fF", "DF", "dD", "DD", "lD"])
@pytest.mark.parametrize("sizes", [((9,), (4,)), ((7, 6), (3, 2))])
def test_complex_functions(mode, kinds, sizes):
    f, g = (
        ((RNG.standard_normal(size) + 1j * RNG.standard_normal(size)) * 5 if k in "FD" else RNG.integers(-9, 9, size))
        .astype(k) for k, size in zip(kinds, sizes, strict=True)
    )  # fmt: skip
    result = dojang.convolve(f, g, mode)
    expected = signal.convolve(f.astype("D"), g.astype("D"), mode, method="direct")
    single = set(kinds) <= set("fF")
    assert result.dtype == (np.complex64 if single else np.complex128)
    np.testing.assert_allclose(result, expected, atol=1e-4 if single else 1e-12)


@pytest.mark.parametrize("bad", [["a"], [None], np.ones(3, "M8[D]"), np.ma.masked_array([1, 2], [0, 1])])
def test_what_is_no_number_is_not_convolved(bad):
    with pytest.raises(UsageError):
        dojang.convolve(bad, [1.0])


OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "PDF": b"%PDF-1.4\n",
    "DDS": b"DDS " + bytes(124),
    "PSD": b"8BPS\0\1" + bytes(60),
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(40),
    "HEIC": b"\0\0\0\x1cftypheic" + bytes(40),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "ICO": b"\0\0\1\0\1\0" + bytes(40),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_by_name_whatever_the_file_is_called(tmp_path, name):
    for suffix in ("jpg", "png", "tif", "eps"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(OTHERS[name])
        with pytest.raises(FileError, match=f"is {name}, which is not opened; use JPEG, PNG") as caught:
            filter_files([path], "blur", tmp_path / "b.png")
        assert str(caught.value).startswith(str(path))
        with pytest.raises(FileError):
            decoded(OTHERS[name], "a picture for a network", SampleSize())


def test_what_pillow_writes_is_opened_only_if_it_is_in_the_list(tmp_path, monkeypatch):
    """Every format that this Pillow can write, under another's name."""
    Image.init()
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))  # writing SPIDER as a.jpg makes .jpg mean SPIDER
    tried = set()
    for form in sorted(Image.SAVE):
        try:
            Image.new("RGB", (16, 16), (9, 99, 200)).save(tmp_path / "a.jpg", form)
        except Exception:  # a format that has no such pixels or no encoder here
            continue
        tried.add(form)
        try:
            filter_files([tmp_path / "a.jpg"], "identity", tmp_path / "b.png", force=True)
        except DojangError as error:
            assert form not in FORMATS, (form, error)
        else:
            assert form in (*FORMATS, "MPO", "DIB", "SPIDER"), form
            assert form in (*FORMATS, "MPO"), form
    assert {"JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM"} <= tried


def test_the_limit_on_pixels_says_its_own_name(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    Image.new("L", (100, 100)).save(tmp_path / "a.tif")
    monkeypatch.setenv("DOJANG_MAX_PIXELS", "9999")
    for name in ("a.png", "a.tif"):
        with pytest.raises(FileError, match="raise the limit with DOJANG_MAX_PIXELS"):
            filter_files([tmp_path / name], "blur", tmp_path / "b.png")
    monkeypatch.setenv("DOJANG_MAX_PIXELS", "10000")
    filter_files([tmp_path / "a.png"], "blur", tmp_path / "b.png")
    monkeypatch.setenv("DOJANG_MAX_UNPACKED", "9999")
    with pytest.raises(FileError, match="DOJANG_MAX_UNPACKED"):
        filter_files([tmp_path / "a.png"], "blur", tmp_path / "c.png")
    monkeypatch.setenv("DOJANG_MAX_PIXELS", "many")
    with pytest.raises(UsageError, match="DOJANG_MAX_PIXELS"):
        filter_files([tmp_path / "a.png"], "blur", tmp_path / "c.png")


def test_memory_that_is_short_is_not_called_damage(tmp_path):
    """A picture of 100 megapixels in a process that may not have so much."""
    Image.new("RGB", (10_000, 10_000)).save(tmp_path / "a.png", compress_level=1)
    code = """if True:
        import resource, sys
        from dojang.base.errors import FileError
        from dojang.filters.pictures.reading import read_picture
        resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))
        try:
            read_picture(sys.argv[1])
        except FileError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, timeout=120)
    assert "not enough memory" in done.stdout, done.stdout + done.stderr[-300:]


@pytest.mark.parametrize("name", NAMED)
def test_options_of_any_size_are_a_kernel_or_one_line(name):
    for option in NAMED[name].options:
        for value in ("0", "-1", "1e308", "-1e308", "1e999", "nan", "1e-320", "8191", "2048", "1.5", "513"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    as_kernel(f"{name}:{option}={value}")
                except DojangError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("kernel", "dilation"), [("blur:size=2047", 4000), ("blur:size=999", 400), ("gabor:size=1025", 999)]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_kernels_that_span_too_much_are_refused_before_memory_is_asked_for(kernel, dilation, dtype):
    with pytest.raises(ShapeError, match="working memory"):
        filter(np.zeros((50, 50), dtype), kernel, dilation=dilation)


def test_too_many_taps():
    with pytest.raises(ShapeError, match="4,194,304"):
        filter(np.zeros((5, 5)), np.ones((3000, 3000), "f4"))
    with pytest.raises(UsageError, match="at most 2048"):
        as_kernel("blur:size=8191")


def test_a_folder_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "..", "/"):
        with pytest.raises(FileError, match="is a folder"):
            filter_files([name], "blur")


def test_pictures_of_large_cameras_are_read(tmp_path):
    """One picture may be larger than what a folder of data may hold: phones take 108 megapixels, 324 MB of RGB."""
    for name, size in (("phone.jpg", (12000, 9000)), ("small.jpg", (16, 16))):
        Image.new("RGB", size, (9, 200, 30)).save(tmp_path / name)
    with Image.open(tmp_path / "small.jpg") as image:
        told = np.asarray(image)[0, 0]
    assert (read_picture(tmp_path / "phone.jpg").pixels[::1000, ::1000, :3] == told).all()
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "plain.tif", np.full((8000, 8000, 3), 77, np.uint16), photometric="rgb")  # 384 MB
    assert (read_picture(tmp_path / "plain.tif").pixels[::1000, ::1000] == 77).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_words_that_are_not_ascii_survive_every_compression(tmp_path, compression):
    """libtiff writes words in its own type only; found on a scan whose Make was not ASCII."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[315] = "caf\xe9".encode("latin-1"), b"\x8c"
    image = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image.save(tmp_path / "a.tif", tiffinfo=tags, compression=compression)
    filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif")
    found = {tag.code: tag.value for tag in Layout.of(str(tmp_path / "b.tif")).tags}
    assert (found[270], found[315]) == (b"caf\xe9\0", b"\x8c\0")
    with Image.open(tmp_path / "b.tif") as after:
        assert np.array_equal(np.asarray(after), np.asarray(image))


@pytest.mark.parametrize("target", ["png", "jpg", "tif", "webp"])
def test_a_resolution_that_cannot_be_written_costs_no_picture(tmp_path, target):
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 4294967295.0, 4294967295.0, 2
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    jfif = data.index(b"JFIF\0") - 4
    (tmp_path / "a.jpg").write_bytes(data[:jfif] + data[jfif + 18 :])  # so that the resolution is that of EXIF
    with Image.open(tmp_path / "a.jpg") as image:
        assert min(image.info["dpi"]) > 1e9
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", NotKept)
        filter_files([tmp_path / "a.jpg"], "identity", tmp_path / f"b.{target}")
    assert any("the resolution" in str(one.message) for one in said)
    with Image.open(tmp_path / f"b.{target}") as image:
        assert image.size == (30, 20)


def test_a_profile_of_bytes_and_a_comment_of_a_gif(tmp_path):
    tags = [(34675, 1, 7, b"profile", True)]
    tifffile.imwrite(tmp_path / "a.tif", RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8), photometric="rgb",
                     extratags=tags, metadata=None)  # fmt: skip
    for bands in (1, 1 << 60):
        filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif", band_pixels=bands, force=True)
        with Image.open(tmp_path / "b.tif") as image:
            assert image.info["icc_profile"] == b"profile"
    Image.new("P", (9, 9)).save(tmp_path / "a.gif", comment=b"words")
    with pytest.warns(NotKept, match="the comment"):
        (done,) = filter_files([tmp_path / "a.gif"], "blur").done
    assert done.target == str(tmp_path / "a-blur.png")

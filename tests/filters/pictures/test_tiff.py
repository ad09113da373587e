"""What the samples of a TIFF mean, the same in one piece and in bands; oracles are Pillow, tifffile and arithmetic."""

import struct
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from dojang.base.errors import DojangError, FileError, UnsupportedError
from dojang.filters.files import NotKept, filter_files
from dojang.filters.filter import filter
from dojang.filters.large import is_large
from dojang.filters.pictures.reading import read_picture
from dojang.filters.pictures.tiff import Layout
from weighted import check_weighted

SIZE = (70, 53)
BOX = np.full((3, 3), 1 / 9)
RNG = np.random.default_rng(3)


def samples(channels=1, dtype="u1", size=SIZE):
    shape = (*size, channels) if channels > 1 else size
    if np.dtype(dtype).kind == "f":
        return RNG.random(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def palette():
    return RNG.integers(0, 65536, (3, 256)).astype("u2")


def through(tmp_path, source, bands, out="out.tif", kernel="identity", **options):
    """The file filtered in one piece or in bands; where its target is."""
    target = tmp_path / (f"{'bands' if bands else 'whole'}-{out}")
    assert is_large(source, 1) or not bands
    filter_files([source], kernel, target, band_pixels=1 if bands else 1 << 60, **options)
    return target


def pixels_of(path):
    """Raw samples, the channels last."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        array = page.asarray()
        return (np.moveaxis(array, 0, -1) if page.planarconfig == 2 else array), page


# name: (array, how it is stored, what it means, photometric and extra samples of the result)
grey, wide, real = samples(), samples(dtype="u2"), samples(dtype="f4")
rgb, rgb16, rgba = samples(3), samples(3, "u2"), samples(4)
rgb_real, double = samples(3, "f4"), samples(dtype="f8")
la16, inks, inks16, five, five_real = samples(2, "u2"), samples(4), samples(4, "u2"), samples(5), samples(5, "f4")
table = palette()


def divided(array):
    top = np.iinfo(array.dtype).max
    colours, alpha = array[..., :-1].astype("u8"), array[..., -1:].astype("u8")
    out = np.where(alpha > 0, np.minimum(colours * top // np.maximum(alpha, 1), top), 0)
    return np.concatenate([out, alpha], -1).astype(array.dtype)


MEANINGS = {
    "white is zero": (grey, {"photometric": "miniswhite"}, 255 - grey, 1, ()),
    "white is zero, 16 bits": (wide, {"photometric": "miniswhite"}, 65535 - wide, 1, ()),
    "grey": (grey, {"photometric": "minisblack"}, grey, 1, ()),
    "grey, 16 bits": (wide, {"photometric": "minisblack"}, wide, 1, ()),
    "grey, float32": (real, {"photometric": "minisblack"}, real, 1, ()),
    "grey, float64": (double, {"photometric": "minisblack"}, double, 1, ()),
    "RGB": (rgb, {"photometric": "rgb"}, rgb, 2, ()),
    "RGB, 16 bits": (rgb16, {"photometric": "rgb"}, rgb16, 2, ()),
    "RGB, float32": (rgb_real, {"photometric": "rgb"}, rgb_real, 2, ()),
    "RGB, planes": (np.moveaxis(rgb, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, rgb, 2, ()),
    "RGB, 16 bits, planes": (
        np.moveaxis(rgb16, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, rgb16, 2, ()
    ),
    "alpha": (rgba, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, rgba, 2, (2,)),
    "associated alpha": (rgba, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, divided(rgba), 2, (2,)),
    "associated alpha, 16 bits": (
        inks16, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, divided(inks16), 2, (2,)
    ),
    "near infrared": (rgba, {"photometric": "rgb", "extrasamples": ["unspecified"]}, rgba, 2, (0,)),
    "near infrared, 16 bits": (inks16, {"photometric": "rgb", "extrasamples": ["unspecified"]}, inks16, 2, (0,)),
    "grey and alpha, 16 bits": (
        la16, {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}, la16, 1, (2,)
    ),
    "grey and associated alpha, 16 bits": (
        la16, {"photometric": "minisblack", "extrasamples": ["assocalpha"], "planarconfig": "contig"},
        divided(la16), 1, (2,),
    ),
    "palette": (grey, {"photometric": "palette", "colormap": table}, (table.T >> 8).astype("u1")[grey], 2, ()),
    "CMYK": (inks, {"photometric": "separated"}, inks, 5, ()),
    "CMYK, 16 bits": (inks16, {"photometric": "separated"}, inks16, 5, ()),
    "five bands": (five, {"photometric": "minisblack", "planarconfig": "contig"}, five, 1, (0, 0, 0, 0)),
    "five bands, float32": (
        five_real, {"photometric": "minisblack", "planarconfig": "contig"}, five_real, 1, (0, 0, 0, 0)
    ),
    "RGB, infrared, alpha": (
        five, {"photometric": "rgb", "extrasamples": ["unspecified", "unassalpha"]}, five, 2, (0, 2)
    ),
}  # fmt: skip
STORED = {"strips": {"rowsperstrip": 16}, "one strip": {}, "tiles": {"tile": (32, 16)},
          "deflated": {"compression": "zlib", "rowsperstrip": 7}, "one deflated strip": {"compression": "zlib"},
          "big end first": {"byteorder": ">"}}  # fmt: skip


@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", MEANINGS)
def test_samples_keep_their_meaning(tmp_path, name, stored, bands):
    array, how, meant, photometric, extras = MEANINGS[name]
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, array, metadata=None, **how, **STORED[stored])
    got, page = pixels_of(through(tmp_path, source, bands))
    np.testing.assert_array_equal(got, meant)
    assert got.dtype == meant.dtype
    assert (page.photometric, tuple(page.extrasamples)) == (photometric, extras)
    result, _ = pixels_of(through(tmp_path, source, bands, "blurred.tif", "blur"))
    if extras[-1:] == (2,):
        check_weighted(result, meant, BOX)
    else:
        np.testing.assert_array_equal(result, filter(np.ascontiguousarray(meant), "blur"))


@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("name", ["white is zero", "RGB", "alpha", "associated alpha", "palette", "CMYK"])
def test_pillow_sees_the_same_picture_before_and_after(tmp_path, name, bands):
    array, how, *_ = MEANINGS[name]
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **how)
    with Image.open(tmp_path / "a.tif") as before, Image.open(through(tmp_path, tmp_path / "a.tif", bands)) as after:
        assert np.array_equal(np.asarray(before.convert("RGBA")), np.asarray(after.convert("RGBA")))


@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_orientation_resolution_profile_and_words_are_kept(tmp_path, orientation, bands, deep):
    array, source = (rgb16 if deep else rgb), tmp_path / "a.tif"
    tifffile.imwrite(
        source, array, photometric="rgb", metadata=None, iccprofile=b"profile", resolution=((600, 7), (1200, 7)),
        resolutionunit=3, description="words", software="a program", datetime="2026:11:29 10:11:12",
        extratags=[(274, 3, 1, orientation, True), (315, 2, 0, "somebody", True), (700, 1, 7, b"<x:xmp>", True),
                   (33550, 12, 3, (1.5, 2.5, 0.0), True)],
    )  # fmt: skip
    target = through(tmp_path, source, bands, kernel="emboss", dilation=(2, 1))
    with tifffile.TiffFile(target) as file:
        tags = file.pages[0].tags
        assert tags[34675].value == b"profile"
        assert [tags[code].value[0] / tags[code].value[1] for code in (282, 283)] == pytest.approx([600 / 7, 1200 / 7])
        assert tags[296].value == 3
        assert (tags[270].value, tags[305].value, tags[315].value) == ("words", "a program", "somebody")
        assert tags[306].value == "2026:11:29 10:11:12"
        assert bytes(tags[700].value) == b"<x:xmp>"
        assert tags[33550].value == (1.5, 2.5, 0.0)
    shown, after = (turned(path) for path in (source, target))
    np.testing.assert_array_equal(after, filter(np.ascontiguousarray(shown), "emboss", dilation=(2, 1)))


def turned(path):
    """The pixels as shown, by NumPy's own turns."""
    array, page = pixels_of(path)
    tag = page.tags.get(274)
    steps = {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: np.rot90(array, -1)[:, ::-1],
             6: np.rot90(array, -1), 7: np.rot90(array, 1)[:, ::-1], 8: np.rot90(array, 1)}  # fmt: skip
    return steps[1 if tag is None else int(tag.value)]


def test_places_do_not_survive_a_stride_and_that_is_said(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", rgb, photometric="rgb", metadata=None,
        extratags=[(33550, 12, 3, (1.5, 2.5, 0.0), True), (65000, 4, 1, 8, True)],
    )  # fmt: skip
    for bands in (False, True):
        with pytest.warns(NotKept, match=r"a\.tif: tag 65000, ModelPixelScale"):
            target = through(tmp_path, tmp_path / "a.tif", bands, stride=2)
        with tifffile.TiffFile(target) as file:
            assert 33550 not in file.pages[0].tags


@pytest.mark.parametrize(
    ("array", "how", "says"),
    [
        (samples().view("i1"), {}, "int8"),
        (samples(dtype="u2").view("i2"), {}, "int16"),
        (samples(dtype="u4"), {}, "uint32"),
        (samples(dtype="f2"), {}, "float16"),
        (samples(3), {"photometric": "cielab"}, "L\\*a\\*b"),
        (samples(3, "u2"), {"photometric": "cielab"}, "L\\*a\\*b"),
        (samples(), {"photometric": 32803}, "colour filter array"),
        (np.stack([samples(), samples()]), {"photometric": "minisblack"}, "2 pages"),
        (samples(5), {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified"]}, "only the last"),
        (samples(5), {"photometric": "rgb", "extrasamples": ["unspecified", "assocalpha"]}, "associated"),
        (1j * samples(dtype="f4"), {}, "complex"),
        (samples(), {"photometric": 4}, "mask"),
        (np.moveaxis(samples(3), -1, 0), {"photometric": "ycbcr", "planarconfig": "separate"}, "YCbCr in separate"),
    ],
)
def test_other_samples_are_refused_by_name(tmp_path, array, how, says):
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **({"photometric": "minisblack"} | how))
    for pixels in (1, 1 << 60):
        with pytest.raises(DojangError, match=says) as caught:
            filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif", band_pixels=pixels)
        assert str(caught.value).startswith(str(tmp_path / "a.tif"))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "b.tif").exists()


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("pixels", [1, 1 << 60])
def test_compressions_that_pillow_decodes_lose_nothing(tmp_path, compression, pixels):
    image = Image.fromarray(grey).convert("1") if compression.startswith("group") else Image.fromarray(rgb)
    image.save(tmp_path / "a.tif", compression=compression)
    filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif", band_pixels=pixels)
    with Image.open(tmp_path / "a.tif") as before, Image.open(tmp_path / "b.tif") as after:
        mode = "L" if image.mode == "1" else "RGB"
        assert np.array_equal(np.asarray(before.convert(mode)), np.asarray(after))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1, 3])
def test_few_bits(tmp_path, bits, photometric):
    """Pixels packed by hand: greys spread over 8 bits, or colours of the palette."""
    values = RNG.integers(0, 1 << bits, SIZE).astype("u1")
    spread = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(SIZE[0], -1)
    data = np.packbits(spread, axis=1).tobytes()
    data += b"\0" * (len(data) % 2)
    colours = RNG.integers(0, 65536, (3, 1 << bits)).astype("<u2")
    at = 8 + len(data)
    tags = [(256, 3, 1, SIZE[1]), (257, 3, 1, SIZE[0]), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, SIZE[0]), (279, 4, 1, len(data))]  # fmt: skip
    if photometric == 3:
        tags.append((320, 3, colours.size, at))
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    start = struct.pack("<2sHI", b"II", 42, at + colours.nbytes)
    (tmp_path / "a.tif").write_bytes(start + data + colours.tobytes() + table)
    filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif", band_pixels=1)
    top = (1 << bits) - 1
    greys = values * (255 // top)
    meant = {0: 255 - greys, 1: greys, 3: (colours.T >> 8).astype("u1")[values]}[photometric]
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), meant)


def test_one_deflated_strip_is_decoded_once(tmp_path, monkeypatch):
    array = samples(3, size=(900, 40))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="zlib", rowsperstrip=900)
    from dojang.filters.pictures.tiff_rows import Rows

    decoded = []
    rows = Rows(str(tmp_path / "a.tif"), Layout.of(str(tmp_path / "a.tif")))
    line = rows._line
    original = rows._page.decode
    monkeypatch.setattr(rows._page, "decode", lambda *a, **k: decoded.append(1) or original(*a, **k), raising=False)
    got = np.concatenate([rows.read(y, min(y + 64, 900)) for y in range(0, 900, 64)])
    rows.close()
    assert np.array_equal(got, array)
    assert len(decoded) == 1
    del line


def test_a_strip_that_memory_should_not_hold_is_refused(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", samples(3), photometric="rgb", compression="zlib", rowsperstrip=SIZE[0])
    monkeypatch.setenv("DOJANG_MAX_UNPACKED", "5000")
    with pytest.raises(FileError, match="DOJANG_MAX_UNPACKED"):
        filter_files([tmp_path / "a.tif"], "blur", tmp_path / "b.tif", band_pixels=1)


def test_damaged_tags_are_one_line(tmp_path):
    """Any byte of the head changed: a result, or one of our errors."""
    tifffile.imwrite(tmp_path / "a.tif", samples(3, "u2", (9, 8)), photometric="rgb", metadata=None)
    whole = (tmp_path / "a.tif").read_bytes()
    rng = np.random.default_rng(7)
    for trial in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, 260, rng.integers(1, 4)):
            data[at] = rng.integers(256)
        (tmp_path / "b.tif").write_bytes(data)
        for pixels in (1, 1 << 60):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotKept)
                    filter_files([tmp_path / "b.tif"], "blur", tmp_path / "c.tif", force=True, band_pixels=pixels)
            except DojangError as error:
                assert "\n" not in str(error), (trial, pixels)


def test_a_layout_reads_what_tifffile_reads(tmp_path):
    for i, (array, how, *_) in enumerate(MEANINGS.values()):
        for big in (False, True):
            path = tmp_path / f"{i}-{big}.tif"
            tifffile.imwrite(path, array, metadata=None, bigtiff=big, **how)
            layout = Layout.of(str(path))
            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                assert (layout.height, layout.width) == (page.imagelength, page.imagewidth)
                assert (layout.samples, layout.photometric) == (page.samplesperpixel, page.photometric)
                assert (layout.bits, layout.planar) == (page.bitspersample, page.planarconfig)
    with pytest.raises(UnsupportedError, match="pages"):
        Layout.of(str(two_pages(tmp_path)))


def two_pages(tmp_path):
    tifffile.imwrite(tmp_path / "two.tif", np.stack([grey, grey]), photometric="minisblack")
    return tmp_path / "two.tif"


def test_a_large_file_as_it_comes(tmp_path):
    """2^26 pixels of white-is-zero: in bands by the default threshold, none of it inverted."""
    array = np.full((8192, 8192), 200, "u1")
    array[5000:5003, 10:20] = 7
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite", resolution=(72, 72))
    assert is_large(tmp_path / "a.tif")
    filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif")
    result, page = pixels_of(tmp_path / "b.tif")
    assert page.photometric == 1
    assert page.resolution == (72.0, 72.0)
    assert np.array_equal(result, 255 - array)


def test_a_picture_that_is_read_says_its_mode(tmp_path):
    for name, mode in (("CMYK, 16 bits", "CMYK"), ("near infrared", "DATA"), ("grey and alpha, 16 bits", "LA")):
        array, how, *_ = MEANINGS[name]
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **how)
        assert read_picture(tmp_path / "a.tif").mode == mode
        with pytest.raises(UnsupportedError, match="PNG cannot hold" if mode != "LA" else "JPEG cannot hold"):
            filter_files([tmp_path / "a.tif"], "blur", tmp_path / ("b.png" if mode != "LA" else "b.jpg"))


@pytest.mark.parametrize("band_pixels", [1, 1 << 26])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_associated_alpha_in_every_container(tmp_path, band_pixels, planar, order, big):
    """Pillow opens no big-endian BigTIFF, and no planes of associated alpha; both paths read them all the same."""
    alpha = np.full((20, 30, 1), 128, np.uint8)
    pixels = np.concatenate([np.arange(1800, dtype=np.uint8).reshape(20, 30, 3) // 2, alpha], axis=-1)
    stored = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"], planarconfig=planar,
                     byteorder=order, bigtiff=big)  # fmt: skip
    filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif", band_pixels=band_pixels)
    result = tifffile.imread(tmp_path / "b.tif").astype(int)
    assert abs(result[..., :3] * result[..., 3:] / 255 - pixels[..., :3]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_plain_pixels_are_turned(tmp_path, orientation, shape, dtype):
    """Not compressed and in order, so that they could be mapped; the oracle is NumPy."""
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=[(274, 3, 1, orientation, True)])
    flipped = pixels[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    if orientation in (6, 8):
        flipped = pixels[:: -1 if orientation == 6 else 1, :: -1 if orientation == 8 else 1]
    shown = flipped.swapaxes(0, 1) if orientation >= 5 else flipped
    assert np.array_equal(read_picture(tmp_path / "a.tif").upright().pixels, shown)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("broken", ["unit", "no value"])
def test_a_tag_that_says_nothing_is_no_obstacle(tmp_path, broken, bands, compression):
    """A unit of resolution that TIFF 6.0 does not know, which libtiff refuses to write; a tag of no values."""
    source, words = tmp_path / "a.tif", [(33550, 12, 3, (1.5, 2.5, 0.0), True)]
    tifffile.imwrite(source, rgb, photometric="rgb", metadata=None, compression=compression, resolution=(72, 72),
                     resolutionunit=2, extratags=words)  # fmt: skip
    with tifffile.TiffFile(source, mode="r+b") as file:
        tags = file.pages[0].tags
        if broken == "unit":
            tags[296].overwrite(6)
        else:
            file.filehandle.seek(tags[33550].offset + 4)
            file.filehandle.write(bytes(4))
    got, page = pixels_of(through(tmp_path, source, bands))
    np.testing.assert_array_equal(got, rgb)
    assert (296 if broken == "unit" else 33550) not in page.tags or page.tags[296].value in (1, 2, 3)
    assert page.tags[282].value == (72, 1)

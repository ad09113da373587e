"""One list of TIFF layouts for small and large files: a drawn file means the same in one piece and in bands, or is
refused with the same words. Oracle: the array that tifffile wrote, and arithmetic.
"""

import importlib.util
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from dojang.base.errors import DojangError, MissingPart, UnsupportedError
from dojang.filters.files import NotKept, filter_files
from dojang.filters.filter import filter
from dojang.filters.pictures import tiff_codecs
from dojang.filters.pictures.tiff import Layout

SIZE = (23, 19)
CODECS = [None, "zlib", "lzma"]
CODECS += ["lzw", "zstd", "packbits", "jpeg", "webp", "lerc"] if importlib.util.find_spec("imagecodecs") else []
KINDS = {"black": 1, "white": 1, "palette": 1, "rgb": 3, "cmyk": 4}  # colours
NAMES = {"black": "minisblack", "white": "miniswhite", "palette": "palette", "rgb": "rgb", "cmyk": "separated"}


def draw(seed):
    """A picture, how tifffile stores it, and its layout in a few words."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(KINDS)))
    dtype = np.dtype("u1" if kind == "palette" else str(rng.choice(["u1", "u2", "f2", "f4", "f8", "i1", "i2", "u4"])))
    extra = 0 if kind == "palette" else int(rng.choice([0, 0, 1, 1, 2]))
    channels = KINDS[kind] + extra
    shape = (*SIZE, channels) if channels > 1 else SIZE
    if dtype.kind == "f":
        array = rng.random(shape).astype(dtype)
    else:
        array = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    how = {"photometric": NAMES[kind], "byteorder": str(rng.choice(["<", ">"])), "bigtiff": bool(rng.random() < 0.3)}
    how |= {"tile": (16, 16)} if rng.random() < 0.4 else {"rowsperstrip": int(rng.choice([1, 7, 23]))}
    how["compression"] = CODECS[rng.integers(len(CODECS))]
    if how["compression"] in ("zlib", "lzma", "lzw", "zstd") and rng.random() < 0.5:
        how["predictor"] = 3 if dtype.kind == "f" and importlib.util.find_spec("imagecodecs") else 2
    if extra:
        last = str(rng.choice(["unspecified", "unassalpha", "assocalpha"]))
        how["extrasamples"] = ["unspecified"] * (extra - 1) + [last]
    if channels > 1:
        how["planarconfig"] = str(rng.choice(["contig", "separate"]))
    if kind == "palette":
        how["colormap"] = rng.integers(0, 65536, (3, 256)).astype("u2")
    return array, how, kind


def meaning(array, how, kind):
    """What dojang makes of it, by arithmetic; floats of another width as their exact values."""
    top = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1
    if array.dtype.name in ("int8", "int16", "float16", "uint32"):
        array = array.astype("f8" if array.dtype.name == "uint32" else "f4")
    if kind == "palette":
        return (how["colormap"].T >> 8).astype("u1")[array]
    if kind == "white":
        array = array.copy()
        grey = array[..., 0] if array.ndim == 3 else array
        grey[...] = top - grey
    if how.get("extrasamples", [""])[-1] == "assocalpha":
        colours, alpha = array[..., :-1], array[..., -1:]
        if array.dtype.kind == "u":
            divided = np.minimum(colours.astype("u8") * top // np.maximum(alpha, 1), top)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                divided = colours / alpha
        array = np.concatenate([np.where(alpha > 0, divided, 0), alpha], -1).astype(array.dtype)
    return array


@pytest.mark.parametrize("part", range(8))
def test_a_drawn_layout_means_the_same_in_one_piece_and_in_bands(tmp_path, part):
    refused = taken = 0
    for seed in range(40 * part, 40 * part + 40):
        array, how, kind = draw(seed)
        source, target = tmp_path / "a.tif", tmp_path / "b.tif"
        stored = np.moveaxis(array, -1, 0) if how.get("planarconfig") == "separate" else array
        try:
            tifffile.imwrite(source, stored, metadata=None, **how)
        except Exception:  # a combination that tifffile or the codec does not write
            continue
        if how["compression"] in ("jpeg", "webp", "lerc"):
            read = tifffile.imread(source)
            array = np.moveaxis(read, 0, -1) if how.get("planarconfig") == "separate" else read
        real = {"int8": "float32", "int16": "float32", "float16": "float32", "uint32": "float64"}.get(array.dtype.name)
        outcomes = []
        for dtype in dict.fromkeys((None, real)):
            for pixels in (1 << 60, 1):
                try:
                    filter_files([source], "identity", target, force=True, dtype=dtype, band_pixels=pixels)
                except DojangError as error:
                    said = str(error)
                    assert said.startswith(str(source)), (seed, said)
                    assert "damaged" not in said, (seed, said)
                    outcomes.append(said)
                else:
                    result = tifffile.imread(target)
                    expected = meaning(array, how, kind)
                    np.testing.assert_array_equal(result, expected, err_msg=f"seed {seed}: {kind} {how}")
                    assert result.dtype == expected.dtype, seed
                    outcomes.append("taken")
        assert outcomes[::2] == outcomes[1::2], seed
        if real:
            assert f"--dtype {real}" in outcomes[0] or "white at zero" in outcomes[0] or "alpha" in outcomes[0], seed
        refused += outcomes[-1] != "taken"
        taken += outcomes[-1] == "taken"
    assert taken > 10
    assert refused > 2


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u4", "f2"])
@pytest.mark.parametrize("pixels", [1, 1 << 60])
def test_other_numbers_are_filtered_as_floats_if_floats_are_asked_for(tmp_path, dtype, pixels):
    """Heights in whole metres below and above 0, say."""
    rng = np.random.default_rng(3)
    array = (
        (rng.standard_normal((40, 30)) * 50).astype(dtype)
        if dtype == "f2"
        else rng.integers(max(-1000, np.iinfo(dtype).min), min(1000, np.iinfo(dtype).max), (40, 30)).astype(dtype)
    )
    tifffile.imwrite(tmp_path / "a.tif", array)
    exact = {"i4": "float64", "u4": "float64"}.get(dtype, "float32")
    with pytest.raises(UnsupportedError, match=f"--dtype {exact}"):
        filter_files([tmp_path / "a.tif"], "sobel-x", tmp_path / "b.tif", band_pixels=pixels)
    filter_files([tmp_path / "a.tif"], "sobel-x", tmp_path / "b.tif", dtype="float32", band_pixels=pixels)
    expected = filter(array.astype(exact), "sobel-x", dtype="float32")
    result = tifffile.imread(tmp_path / "b.tif")
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("pixels", [1, 1 << 60])
@pytest.mark.parametrize("compression", ["zlib", "tiff_lzw"])
def test_big_endian_floats_that_are_compressed(tmp_path, pixels, compression):
    """Pillow 13 exchanges their bytes once too often."""
    array = np.random.default_rng(0).random((30, 20)).astype("f4")
    if compression == "zlib":
        tifffile.imwrite(tmp_path / "a.tif", array, byteorder=">", compression=compression)
    else:
        pytest.importorskip("imagecodecs")
        tifffile.imwrite(tmp_path / "a.tif", array, byteorder=">", compression="lzw")
    filter_files([tmp_path / "a.tif"], "identity", tmp_path / "b.tif", band_pixels=pixels)
    with Image.open(tmp_path / "b.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), array)


def with_tag(path, code, value):
    """The file's first SHORT tag of that number changed, by hand."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack("<I", data[4:8])
    for i in range(struct.unpack("<H", data[at : at + 2])[0]):
        entry = at + 2 + 12 * i
        if struct.unpack("<H", data[entry : entry + 2])[0] == code:
            data[entry + 8 : entry + 10] = struct.pack("<H", value)
    path.write_bytes(data)


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="all codecs are there")
@pytest.mark.parametrize("pixels", [1, 1 << 60])
def test_a_missing_codec_is_named_and_is_no_damage(tmp_path, monkeypatch, pixels):
    """As where imagecodecs is not installed: what libtiff takes is read, the rest names the package."""
    monkeypatch.setattr(tiff_codecs.importlib.util, "find_spec", lambda name: None)
    array = np.random.default_rng(0).random((30, 20)).astype("f4")
    ints = array.view("u4").astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", ints, compression="zlib", predictor=2, metadata=None)
    with_tag(tmp_path / "a.tif", 317, 3)
    tifffile.imwrite(
        tmp_path / "b.tif", np.stack([array] * 3, -1), compression="zlib", metadata=None, photometric="rgb"
    )
    with_tag(tmp_path / "b.tif", 259, 50000)
    tifffile.imwrite(
        tmp_path / "c.tif", np.stack([array] * 3, -1), compression="zlib", metadata=None, photometric="rgb"
    )
    with_tag(tmp_path / "c.tif", 259, 34887)
    for name, says in (("b", "ZSTD compression"), ("c", "LERC compression")):
        with pytest.raises(MissingPart, match=f"{says} needs imagecodecs; pip install imagecodecs"):
            filter_files([tmp_path / f"{name}.tif"], "blur", tmp_path / "out.tif", band_pixels=pixels)
    layout = Layout.of(str(tmp_path / "a.tif"))
    assert not layout.in_bands
    assert layout.for_pillow


@pytest.mark.parametrize("pixels", [1, 1 << 60])
def test_a_predictor_where_there_is_none_is_refused(tmp_path, pixels):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((30, 20, 3), "u1"), compression="zlib", predictor=2, photometric="rgb"
    )
    for compression, says in ((1, "no compression"), (32773, "PackBits")):
        with_tag(tmp_path / "a.tif", 259, compression)
        with pytest.raises(UnsupportedError, match=f"{says} with a predictor"):
            filter_files([tmp_path / "a.tif"], "blur", tmp_path / "b.tif", band_pixels=pixels)


@pytest.mark.parametrize("pixels", [1, 1 << 60])
@pytest.mark.parametrize("big", [False, True])
def test_pages_that_are_reduced_copies_or_masks(tmp_path, pixels, big):
    """Maps and slides have small copies of themselves; a mask would change the meaning, and pages of equal rank too."""
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)

    def write(name, *kinds):
        with tifffile.TiffWriter(tmp_path / name, bigtiff=big) as file:
            for i, kind in enumerate(kinds):
                page = array if i == 0 else np.ascontiguousarray(array[:: 2 * i, :: 2 * i])
                if kind == 4:
                    file.write(page[..., 0] > 99, photometric=4, metadata=None, subfiletype=kind)
                else:
                    file.write(page, photometric="rgb", metadata=None, subfiletype=kind, tile=(16, 16))

    write("a.tif", 0, 1, 1)
    with pytest.warns(NotKept, match="2 reduced copies$"):
        filter_files([tmp_path / "a.tif"], "identity", tmp_path / "out.tif", band_pixels=pixels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), array)
    refused = {
        "two": ((0, 0), "holds 2 pages"),
        "mask": ((0, 4), "transparency mask in a page"),
        "small": ((1, 0), "first page is a reduced copy"),
    }
    for name, (kinds, says) in refused.items():
        write(f"{name}.tif", *kinds)
        with pytest.raises(UnsupportedError, match=says):
            filter_files([tmp_path / f"{name}.tif"], "identity", tmp_path / "no.tif", band_pixels=pixels)

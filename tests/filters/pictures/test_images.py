"""Picture files: every format and depth read back by a peer, and all that is not pixels kept; damaged files refused."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from dojang.base.errors import FileError, MissingPart, ShapeError, UnsupportedError, UsageError
from dojang.filters.files import filter_files, plan_files
from dojang.filters.filter import filter
from dojang.filters.pictures import images
from dojang.filters.pictures.reading import read_picture
from dojang.filters.pictures.writing import write_picture
from weighted import check_weighted

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(shape, dtype=np.uint8, seed=0):
    """A picture that JPEG keeps well: a few waves."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    planes = [np.sin(y / rng.uniform(4, 9)) * np.cos(x / rng.uniform(4, 9)) for _ in range(int(np.prod(shape[2:])))]
    top = np.iinfo(dtype).max
    return ((np.stack(planes, -1) + 1) / 2 * top).astype(dtype).reshape(shape)


def opened(path):
    """Through memory: Pillow scrambles plain pixels of a TIFF stored turned where it maps the file itself."""
    source = io.BytesIO(Path(path).read_bytes()) if isinstance(path, (str, Path)) else path
    with Image.open(source) as image:
        image.load()
    return image


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK"])
def test_pixels_profile_and_orientation_survive(tmp_path, suffix, mode):
    if (suffix, mode) in {("jpg", "RGBA"), ("jpg", "LA"), ("png", "CMYK"), ("webp", "CMYK"), ("webp", "LA")}:
        pytest.skip("the format has no such pixels")
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = smooth((30, 41, bands) if bands > 1 else (30, 41))
    image = Image.frombytes(mode, (41, 30), pixels.tobytes())
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    source = save(tmp_path / f"in.{suffix}", image, icc_profile=ICC, exif=exif, dpi=(300, 300), **options)
    filter_files([source], "identity", tmp_path / f"out.{suffix}")
    before, after = opened(source), opened(tmp_path / f"out.{suffix}")
    assert after.format == before.format
    assert after.mode == before.mode
    assert after.info["icc_profile"] == ICC
    if suffix == "tif":
        assert after.getexif().get(0x0112, 1) == 1
    else:
        assert after.getexif()[0x0112] == 6
    if suffix != "webp":
        assert round(float(after.info["dpi"][0])) == 300
    difference = np.abs(np.asarray(after).astype(int) - np.asarray(before))
    assert difference.max() <= (12 if suffix == "jpg" else 0)
    assert difference.mean() <= 2
    if suffix == "jpg":
        assert after.quantization == before.quantization
        assert after.getexif()[0x010F] == "a camera"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stride", [1, 2])
def test_the_picture_as_shown_is_filtered(tmp_path, orientation, stride):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = save(tmp_path / "in.png", Image.fromarray(smooth((21, 32, 3))), exif=exif)
    filter_files([source], "emboss", tmp_path / "out.png", stride=stride, dilation=(2, 1))
    shown = ImageOps.exif_transpose(opened(source))
    result = ImageOps.exif_transpose(opened(tmp_path / "out.png"))
    assert np.array_equal(np.asarray(result), filter(np.asarray(shown), "emboss", stride=stride, dilation=(2, 1)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_is_exact(tmp_path, channels):
    pixels = smooth((40, 33, channels), np.uint16)
    pixels ^= np.random.default_rng(1).integers(0, 256, pixels.shape, dtype=np.uint16)
    pixels = pixels[..., 0] if channels == 1 else pixels
    source = tmp_path / "in.png"
    if channels == 2:
        write_picture(images.Picture(pixels, True, "LA"), source)
    else:
        order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[channels]
        cv2.imwrite(str(source), pixels if order is None else cv2.cvtColor(pixels, order))
    picture = read_picture(source)
    assert np.array_equal(picture.pixels, pixels)
    assert picture.alpha == (channels in (2, 4))
    filter_files([source], "blur", tmp_path / "out.png")
    again = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    if channels == 2:
        again = read_picture(tmp_path / "out.png").pixels
    else:
        assert again.dtype == np.uint16
        again = again if order is None else cv2.cvtColor(again, order)
    if picture.alpha:
        check_weighted(again, pixels, np.full((3, 3), 1 / 9))
    else:
        assert np.array_equal(again, filter(pixels, "blur"))


def test_sixteen_bit_png_keeps_profile_exif_and_resolution(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = images.Picture(
        smooth((9, 8, 3), np.uint16), False, "RGB", 3, "PNG", ICC, exif.tobytes(), {"dpi": (72, 72)}
    )
    write_picture(picture, tmp_path / "a.png")
    filter_files([tmp_path / "a.png"], "identity", tmp_path / "b.png")
    image = opened(tmp_path / "b.png")
    assert image.info["icc_profile"] == ICC
    assert image.getexif()[0x0112] == 3
    assert round(image.info["dpi"][0]) == 72


def test_sixteen_bit_tiff(tmp_path):
    for channels in (1, 3, 4):
        pixels = smooth((20, 31, channels), np.uint16)[..., 0 if channels == 1 else slice(None)]
        path = tmp_path / f"{channels}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb" if channels > 1 else "minisblack", iccprofile=ICC)
        filter_files([path], "blur", tmp_path / f"{channels}-out.tif")
        result = tifffile.imread(tmp_path / f"{channels}-out.tif")
        if channels == 4:
            check_weighted(result, pixels, np.full((3, 3), 1 / 9))
        else:
            assert np.array_equal(result, filter(pixels, "blur"))
        assert opened(tmp_path / f"{channels}-out.tif").info["icc_profile"] == ICC


def test_sixteen_bit_tiff_without_its_reader(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", smooth((20, 31, 3), np.uint16), photometric="rgb")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingPart, match="pip install tifffile"):
        read_picture(tmp_path / "a.tif")


def test_float_tiff(tmp_path):
    pixels = np.random.default_rng(0).standard_normal((12, 13)).astype("f")
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    filter_files([tmp_path / "a.tif"], "blur", tmp_path / "b.tif")
    assert np.array_equal(np.asarray(opened(tmp_path / "b.tif")), filter(pixels, "blur"))


def test_palettes_bits_and_transparent_colours(tmp_path):
    grey = Image.fromarray(smooth((20, 20)))
    for name, image, mode in (("p", grey.convert("P"), "RGB"), ("one", grey.convert("1"), "L")):
        filter_files([save(tmp_path / f"{name}.png", image)], "blur", tmp_path / f"{name}-out.png")
        assert opened(tmp_path / f"{name}-out.png").mode == mode
    source = save(tmp_path / "key.png", grey.convert("RGB"), transparency=(0, 0, 0))
    filter_files([source], "blur", tmp_path / "key-out.png")
    after = np.asarray(opened(tmp_path / "key-out.png"))
    assert np.array_equal(after[..., 3], np.asarray(opened(source).convert("RGBA"))[..., 3])


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """A 60000 x 60000 PNG in a few bytes."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")
    )


def encoded(form, **options):
    buffer = io.BytesIO()
    Image.fromarray(smooth((64, 64, 3))).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("bomb.png", bomb(), "decompression bomb"),
        ("empty.jpg", b"", "not a picture"),
        ("text.png", b"hello", "not a picture"),
        ("cut.jpg", encoded("JPEG")[:900], "truncated"),
        ("cut.png", encoded("PNG")[:300], "truncated"),
        ("cut.webp", encoded("WEBP")[:100], "picture"),
        ("cut.tif", encoded("TIFF")[:2000], "picture"),
        ("cut-exif.tif", encoded("TIFF")[:40], "picture"),  # of which Pillow warns
        ("head.png", encoded("PNG")[:20], "picture"),
    ],
)
def test_damaged_files(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FileError) as caught:
        filter_files([tmp_path / name], "blur", tmp_path / f"out-{name}")
    message = str(caught.value)
    assert says in message
    assert name in message
    assert "\n" not in message
    assert os.listdir(tmp_path) == [name]


def test_other_refusals(tmp_path):
    picture = save(tmp_path / "a.png", Image.fromarray(smooth((20, 20, 4))))
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    for call, error, says in (
        (lambda: filter_files([tmp_path / "no.png"], "blur"), FileError, "no such file"),
        (lambda: filter_files([tmp_path], "blur"), FileError, "folder"),
        (lambda: filter_files([tmp_path / "moving.webp"], "blur"), UnsupportedError, "2 frames"),
        (lambda: filter_files([picture], "blur", tmp_path / "b.jpg"), UnsupportedError, "alpha"),
        (lambda: filter_files([picture], "blur", tmp_path / "b.xyz"), UnsupportedError, "format"),
        (lambda: filter_files([picture], "blur", tmp_path / "no" / "b.png"), UsageError, "does not exist"),
        (lambda: filter_files([picture], "blur", picture), UsageError, "exists already"),
        (lambda: filter_files([picture, picture], "blur", tmp_path / "x.png"), UsageError, "folder"),
        (lambda: filter_files([picture, picture], "blur", tmp_path / "x"), UsageError, "both"),
        (lambda: filter_files([], "blur"), UsageError, "no picture"),
        (
            lambda: filter_files([picture], ["blur", "sobel"], tmp_path / "b.png"),
            UsageError,
            "2 pictures need a folder",
        ),
        (lambda: filter_files([picture], "blur:size=99", border="valid"), Exception, "a.png: kernel"),
    ):
        with pytest.raises(error) as caught:
            call()
        assert says in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "moving.webp"]


def test_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    source = save(tmp_path / "a.png", Image.fromarray(smooth((20, 20))))
    out = tmp_path / "out"
    out.mkdir()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(FileError, match="disk is full"):
        filter_files([source], "blur", out / "b.png")
    assert not os.listdir(out)


def test_many_files_one_bad(tmp_path):
    good = [save(tmp_path / f"{i}.png", Image.fromarray(smooth((20, 20 + i), seed=i))) for i in range(4)]
    (tmp_path / "bad.png").write_bytes(b"no")
    seen = []
    report = filter_files(
        [*good[:2], tmp_path / "bad.png", *good[2:]], "sharpen", tmp_path / "out", progress=lambda *a: seen.append(a)
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    assert [f.source for f in report.done] == good
    assert [os.path.basename(f.source) for f in report.failed] == ["bad.png"]
    assert report.failed[0].exit_code == 4
    assert report.to_dict()["failed"][0]["message"] == report.failed[0].message
    for path in good:
        result = np.asarray(opened(tmp_path / "out" / os.path.basename(path)))
        assert np.array_equal(result, filter(np.asarray(opened(path)), "sharpen"))
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png", "2.png", "3.png"]
    again = filter_files(good, "blur", tmp_path / "out")
    assert [bad.exit_code for bad in again.failed] == [2] * 4
    assert not filter_files(good, "blur", tmp_path / "out", force=True).failed


def test_default_name(tmp_path):
    source = save(tmp_path / "a.png", Image.fromarray(smooth((20, 20))))
    report = filter_files([source], "gaussian:sigma=2")
    assert report.done[0].target == str(tmp_path / "a-gaussian-sigma=2.png")
    assert (tmp_path / "a-gaussian-sigma=2.png").exists()


def test_jpeg_to_png_is_exact(tmp_path):
    source = save(tmp_path / "a.jpg", Image.fromarray(smooth((30, 41, 3))), quality=90)
    report = filter_files([source], "sharpen", tmp_path / "b.png")
    assert report.done[0].channels == 3
    expected = filter(np.asarray(opened(source)), "sharpen")
    assert np.array_equal(np.asarray(opened(tmp_path / "b.png")), expected)
    filter_files([source], "sharpen", tmp_path / "b.jpg")
    encoded_again = io.BytesIO()
    before = opened(source)
    Image.fromarray(expected).save(encoded_again, "JPEG", qtables=before.quantization, subsampling="4:2:0")
    assert np.array_equal(np.asarray(opened(tmp_path / "b.jpg")), np.asarray(opened(encoded_again)))


def test_several_kernels_from_one_reading(tmp_path):
    one, two = (save(tmp_path / f"{i}.png", Image.fromarray(smooth((20, 24, 4), seed=i))) for i in range(2))
    kernels = ["sharpen", "gaussian:sigma=2", "sobel"]
    report = filter_files([one], kernels)
    assert report.kernels == ("sharpen", "gaussian:sigma=2", "sobel")
    assert [f.kernel for f in report.done] == list(report.kernels)
    assert [os.path.basename(f.target) for f in report.done] == [
        "0-sharpen.png", "0-gaussian-sigma=2.png", "0-sobel.png"
    ]  # fmt: skip
    for kernel, done in zip(kernels, report.done, strict=True):
        apart = filter_files([one], kernel, tmp_path / "apart.png", force=True).done[0].target
        assert np.array_equal(np.asarray(opened(done.target)), np.asarray(opened(apart))), kernel
    matrices = filter_files([one], ["1 2 1", "0 1; 2 3"]).done
    assert [os.path.basename(f.target) for f in matrices] == ["0-matrix.png", "0-matrix-2.png"]
    many = filter_files([one, two], kernels, tmp_path / "out")
    assert len(many.done) == 6
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        f"{i}-{tag}.png" for i in range(2) for tag in ("sharpen", "gaussian-sigma=2", "sobel")
    )


def test_one_target_there_and_nothing_is_written(tmp_path):
    source = save(tmp_path / "a.png", Image.fromarray(smooth((20, 20))))
    (tmp_path / "a-sobel.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="a-sobel"):
        filter_files([source], ["blur", "sobel"])
    assert sorted(os.listdir(tmp_path)) == ["a-sobel.png", "a.png"]


def test_plans_of_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_MACHINE", "laptop-avx2")  # planned for, wherever this runs
    source = save(tmp_path / "a.png", Image.fromarray(smooth((20, 20, 3))))
    np.save(tmp_path / "b.npy", np.zeros((9, 9), np.float32))
    first, second = plan_files([source, tmp_path / "b.npy"], ["sharpen", "outline"]).pictures
    assert [p.way.name for p in first.plans] == ["bank"]
    assert [j.dtype for j in second.plans[0].jobs] == [np.dtype("float32")] * 2
    assert first.to_dict()["plans"][0]["kernel"] == ["sharpen", "outline"]
    with pytest.raises(ShapeError, match="a.png"):
        plan_files([source], "blur:size=99", border="valid")


def test_a_large_jpeg_is_read_where_pillow_holds_it(tmp_path, monkeypatch):
    """More than one of Pillow's blocks of memory: 2300 · 2000 pixels of 4 bytes."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (2000, 2300, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", quality=50)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image)
    block = Image.core.get_block_size()
    read = read_picture(tmp_path / "a.jpg").pixels
    assert np.array_equal(read[..., :3], expected)
    assert Image.core.get_block_size() == block
    monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)  # an older Pillow: a copy
    again = read_picture(tmp_path / "a.jpg").pixels
    assert np.array_equal(again[..., :3], expected)
    assert again.flags.writeable
    assert not read.flags.writeable


@pytest.mark.parametrize(("name", "form", "suffix"), [
    ("a.mpo", "JPEG", ".jpg"), ("a.jfif", "JPEG", ".jpg"), ("bare", "PNG", ".png"), ("a.dat", "TIFF", ".tif"),
    ("a.x", "WEBP", ".webp"), ("a.y", "BMP", ".png"),
])  # fmt: skip
def test_a_name_that_says_no_format(tmp_path, name, form, suffix):
    """A file is opened by its content, so its result is named by it, too."""
    Image.new("RGB", (9, 8), (200, 30, 3)).save(tmp_path / name, form)
    (done,) = filter_files([tmp_path / name], "blur").done
    assert done.target == str(tmp_path / f"{Path(name).stem}-blur{suffix}")
    with Image.open(done.target) as written:
        assert written.format == {".png": "PNG"}.get(suffix, form)


def test_no_picture_is_said_to_be_none(tmp_path):
    (tmp_path / "notes.txt").write_text("letters")
    with pytest.raises(FileError, match=r"notes.txt: not a picture that can be read"):
        filter_files([tmp_path / "notes.txt"], "blur")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]

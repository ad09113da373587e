from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dojang import filter as filter_array
from dojang import filter_files, filter_plans

from .conftest import Command


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (12, 17, 3), np.uint8)).save(path)
    return path


def test_identity_keeps_the_picture(dojang: Command, photo: Path, tmp_path: Path) -> None:
    ran = dojang("filter", photo, "--kernel", "0 0 0; 0 1 0; 0 0 0", "-o", tmp_path / "out.png")
    assert ran.code == 0
    assert ran.out == f"{photo} -> {tmp_path / 'out.png'}  17x12, 3 channels, uint8\n"
    assert np.array_equal(np.asarray(Image.open(photo)), np.asarray(Image.open(tmp_path / "out.png")))


def test_json_and_options(dojang: Command, photo: Path, tmp_path: Path) -> None:
    flags = ("--kernel", "blur", "--border", "zero", "--stride", "2", "--dilation", "1,2", "-o", tmp_path / "o.png")
    ran = dojang("filter", photo, *flags, "--json")
    data = json.loads(ran.out)
    assert (data["schema"], data["border"], data["done"][0]["width"]) == ("dojang.filter/1", "zero", 9)
    assert "correlation" in data["convention"]


def test_nothing_is_overwritten_without_force(dojang: Command, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(b"mine")
    assert dojang("filter", photo, "--kernel", "blur", "-o", out).code == 2
    assert out.read_bytes() == b"mine"
    assert dojang("filter", photo, "--kernel", "blur", "-o", out, "--force").code == 0
    assert out.read_bytes() != b"mine"


def test_one_bad_picture_of_several(dojang: Command, photo: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    ran = dojang("filter", photo, bad, "--kernel", "blur", "-o", tmp_path / "out")
    assert ran.code == 4
    assert ran.err.startswith(f"dojang: {bad}: ")
    assert len(ran.err.splitlines()) == 1
    assert ran.err.count(str(bad)) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo.png"]


def test_a_picture_read_ahead_fails_as_any(dojang: Command, photo: Path, tmp_path: Path) -> None:
    """It is decoded while the rest of the program loads: what is wrong with it is said all the same, and once."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(photo.read_bytes()[:200])
    for name, says in ((bad, "truncated"), (tmp_path / "none.png", "no such file")):
        ran = dojang("filter", name, "--kernel", "blur", "-o", tmp_path / "o.png")
        assert ran.code == 4
        assert says in ran.err
        assert ran.err.count(str(name)) == len(ran.err.splitlines()) == 1
    assert not (tmp_path / "o.png").exists()


def test_borders_that_shrink_and_that_have_a_value(dojang: Command, photo: Path, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(photo)).astype(float)
    for flags, padded in (
        (("--border", "valid"), picture),
        (("--border", "constant", "--value", "200"), np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=200)),
    ):
        ran = dojang(
            "filter", photo, "--kernel", "0 -1 0; -1 5 -1; 0 -1 0", *flags, "-o", tmp_path / "o.png", "--force"
        )
        assert ran.code == 0, ran.err
        middle = padded[1:-1, 1:-1]
        around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        expected = (5 * middle - around).clip(0, 255)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), expected)
    assert "0 to 255" in dojang("filter", photo, "--kernel", "blur", "--border", "constant", "--value", "-1").err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--kernel", "embos"), 'kernel "embos" is not known; did you mean emboss?'),
        (("--kernel", "1 2; 3"), "row 2 has 1 taps"),
        (("--kernel", "blur", "--stride", "0"), "stride"),
        (("--kernel", "blur", "--border", "mirror"), "--border 'mirror' is not known; use zero, constant"),
        ((), "--kernel"),
    ],
)
def test_bad_usage(dojang: Command, photo: Path, flags: tuple[str, ...], says: str) -> None:
    ran = dojang("filter", photo, *flags)
    assert ran.code == 2
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_several_kernels(dojang: Command, photo: Path, tmp_path: Path) -> None:
    ran = dojang("filter", photo, "--kernel", "blur", "--kernel", "sobel", "-o", tmp_path / "out", "--json")
    data = json.loads(ran.out)
    assert (data["kernels"], data["kernel"]) == (["blur", "sobel"], "blur, sobel")
    assert [Path(done["target"]).name for done in data["done"]] == ["photo-blur.png", "photo-sobel.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo-blur.png", "photo-sobel.png"]


def test_plan_writes_nothing(dojang: Command, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOJANG_MACHINE", "laptop-avx2")  # planned for, wherever this runs
    way = "separable pairs"
    ran = dojang("filter", photo, "--kernel", "gaussian", "--plan")
    assert ran.out.startswith(f"{photo}\n  gaussian (7x7) on 3 channels of uint8, result uint8\n    {way}: ")
    assert "    not running sums: its taps are not all equal\n" in ran.out
    assert max(map(len, ran.out.splitlines()[1:])) <= 80
    assert [p.name for p in photo.parent.iterdir()] == [photo.name]
    data = json.loads(dojang("filter", photo, "--kernel", "gaussian", "--plan", "--json").out)
    assert data["pictures"][0]["source"] == str(photo)
    assert data["pictures"][0]["plans"][0]["algorithm"] == way


def test_plan_of_a_jpeg(dojang: Command, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG has 3 channels, though 4 bytes hold a pixel; and what fixed point would do is not what was chosen."""
    monkeypatch.setenv("DOJANG_MACHINE", "laptop-avx2")
    with Image.open(photo) as image:
        image.convert("RGB").save(tmp_path / "photo.jpg")
    said = dojang("filter", tmp_path / "photo.jpg", "--kernel", "blur", "--plan").out
    assert "\n  blur (3x3) on 3 channels (held as 4 in memory) of uint8, result uint8\n" in said
    assert "not columns first in fixed point: not needed: 16-bit integers hold the sums\n" in said
    data = json.loads(dojang("filter", tmp_path / "photo.jpg", "--kernel", "blur", "--plan", "--json").out)
    assert data["pictures"][0]["channels"] == 3


def test_page_of_kernels(dojang: Command, tmp_path: Path) -> None:
    page = tmp_path / "kernels.html"
    assert dojang("list", "kernels", "--html", page).code == 0
    text = page.read_text()
    listed = json.loads(dojang("list", "kernels", "--json").out)["kernels"]
    found = re.findall(r'<figure id="([^"]+)"><img alt="[^"]+" src="data:image/png;base64,([^"]+)">', text)
    assert [name for name, _ in found] == [row["name"] for row in listed]
    for _, data in found:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (180, 120)
    assert "http" not in text.replace("http-equiv", "")
    assert "img-src data:" in text
    sobel = next(row for row in listed if row["name"] == "sobel")
    assert sobel["taps"] == [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]]
    assert dojang("list", "kernels", "--html", page).code == 2
    assert dojang("list", "kernels", "--html", page, "--force").code == 0
    assert dojang("list", "networks", "--html", tmp_path / "n.html").code == 2


def test_lists(dojang: Command) -> None:
    nets = {row["name"]: row for row in json.loads(dojang("list", "networks", "--json").out)["networks"]}
    assert nets["alexnet"]["params"] == 60_965_224
    assert nets["vgg16"]["params"] == 138_357_544
    kernels = dojang("list", "kernels").out
    assert "emboss" in kernels
    assert max(map(len, kernels.splitlines())) <= 80
    assert max(map(len, dojang("list", "networks").out.splitlines())) <= 80


def test_env(dojang: Command) -> None:
    facts = json.loads(dojang("env", "--json").out)
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["machine"]["cores"] >= 1
    assert f"numpy          {np.__version__}" in dojang("env").out


def test_one_path_is_a_list_of_one(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 9, np.uint8)).save(tmp_path / "grey.png")
    assert filter_files(str(tmp_path / "grey.png"), "blur").done[0].width == 5
    assert len(filter_plans(tmp_path / "grey.png", "blur").pictures) == 1


def test_options_of_values(dojang: Command, photo: Path, tmp_path: Path) -> None:
    """--offset, --dtype, --anchor and --threads give what `dojang.filter` gives."""
    pixels = np.asarray(Image.open(photo))
    flags = ("--kernel", "sobel-x", "--offset", "100", "--anchor", "0,2", "--threads", "1", "--border", "zero")
    ran = dojang("filter", photo, *flags, "-o", tmp_path / "o.png")
    assert ran.code == 0, ran.err
    assert "17x12, 3 channels, uint8, 100 stands for 0 (--offset), " in ran.out
    expected = filter_array(pixels, "sobel-x", "zero", anchor=(0, 2), offset=100)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "o.png")), expected)
    ran = dojang("filter", photo, "--kernel", "sobel-x", "--dtype", "float32")
    assert (ran.code, ran.out) == (0, f"{photo} -> {tmp_path / 'photo-sobel-x.tif'}  17x12, 3 channels, float32\n")
    written = tifffile.imread(tmp_path / "photo-sobel-x.tif")
    assert np.array_equal(written, filter_array(pixels, "sobel-x", dtype="float32"))
    ran = dojang("filter", photo, "--kernel", "sobel-x", "--dtype", "float32", "-o", tmp_path / "o.jpg")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "JPEG cannot hold float32 pixels; end the name with .tif" in ran.err
    data = json.loads(dojang("filter", photo, "--kernel", "sobel-x", "--json", "-o", tmp_path / "p.png").out)
    assert data["done"][0]["offset"] == 128
    assert 0 < data["done"][0]["saturated"] < 1
    plans = json.loads(dojang("filter", photo, "--kernel", "sobel-x", "--dtype", "float64", "--plan", "--json").out)
    assert plans["inputs"]["dtype"] == "float64"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--anchor", "1"), "'1': give a row and a column, counted from 0, as 0,2"),
        (("--anchor", "0,3"), "anchor (0, 3) lies outside its 3x3 taps"),
        (("--offset", "nan"), "offset nan must be a finite number"),
        (("--dtype", "uint8"), "--dtype 'uint8' is not known"),
        (("--max-pixels", "0"), "--max-pixels"),
        (("--threads", "0"), "--threads"),
    ],
)
def test_options_that_cannot_be(
    dojang: Command, photo: Path, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    ran = dojang("filter", photo, "--kernel", "blur", *flags, "-o", tmp_path / "o.png")
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_a_kernel_that_sums_to_16_is_warned_of(dojang: Command, photo: Path, tmp_path: Path) -> None:
    ran = dojang("filter", photo, "--kernel", "1 2 1; 2 4 2; 1 2 1", "-o", tmp_path / "o.png")
    assert ran.code == 0
    assert (
        f"warning: {tmp_path / 'o.png'}: 100% of the values saturate, because the taps of matrix add up to 16"
        in ran.err
    )
    assert ran.err.count("\n") == 1
    assert "100% of the values saturate" in ran.out
    assert not dojang("filter", photo, "--kernel", "(1 2 1; 2 4 2; 1 2 1)/16", "-o", tmp_path / "p.png").err


def test_the_limit_on_pixels_is_an_option(dojang: Command, photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        image.convert("RGB").save(tmp_path / "a.jpg")
        image.save(tmp_path / "a.tif")
    for name in (photo, tmp_path / "a.jpg", tmp_path / "a.tif"):
        ran = dojang("filter", name, "--kernel", "blur", "--max-pixels", "203", "-o", tmp_path / "o.png", "--force")
        assert ran.code == 4
        assert "17x12 pixels are more than 203" in ran.err
        assert "--max-pixels" in ran.err
        ran = dojang("filter", name, "--kernel", "blur", "--max-pixels", "204", "-o", tmp_path / "o.png", "--force")
        assert ran.code == 0, ran.err


@pytest.mark.parametrize("kernel", ["emboss", "sobel", "sobel-x", "gaussian:sigma=3", "1 2 1", "blur:size=4"])
@pytest.mark.parametrize("more", [(), ("--border", "valid", "--stride", "2"), ("--border", "zero", "--dilation", "2")])
def test_a_page_shows_a_window_in_numbers(
    dojang: Command, photo: Path, tmp_path: Path, kernel: str, more: tuple[str, ...]
) -> None:
    """The numbers of the page are those of the files: the level is the result's pixel, the window is the picture's."""
    picture = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(picture).save(photo)
    page = tmp_path / "page.html"
    ran = dojang("filter", photo, "--kernel", kernel, *more, "--html", page, "-o", tmp_path / "o.png")
    assert ran.code == 0, ran.err
    text = page.read_text()
    assert "http" not in text.replace("http-equiv", "")
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    before, after = (np.asarray(Image.open(io.BytesIO(data))) for data in pictures)
    result = np.asarray(Image.open(tmp_path / "o.png"))
    assert np.array_equal(before, picture)
    assert np.array_equal(after, result)
    row, column, channel = re.findall(r"result row (\d+), column (\d+) \(from 0\), (red|green|blue)", text)[0]
    place = (int(row), int(column), ["red", "green", "blue"].index(channel))
    (level,) = re.findall(r"In uint8(?:, saturated)?: (\d+)\.", text)
    assert int(level) == result[place]
    tables = [
        [[float(cell) for cell in re.findall("<td>([^<]*)</td>", line)] for line in re.findall("<tr>(.*?)</tr>", table)]
        for table in re.findall("<tbody>(.*?)</tbody>", text)
    ]
    for pixels in tables[::2]:
        for value in np.array(pixels).ravel():
            assert value in picture[..., place[2]] or value == 0
    for pixels, taps, total in zip(tables[::2], tables[1::2], re.findall(r" = (-?[\d.]+)</p>", text), strict=False):
        if "gaussian" not in kernel:
            assert float(total) == pytest.approx(float((np.array(pixels) * np.array(taps)).sum()), abs=0.5)


def test_a_page_of_several_results(dojang: Command, photo: Path, tmp_path: Path) -> None:
    """A name with markup, alpha, floats and rows from a file; one section for each picture and kernel."""
    rng = np.random.default_rng(3)
    odd = tmp_path / "<b>.png"
    Image.fromarray(rng.integers(0, 256, (30, 20, 4), np.uint8)).save(odd)
    np.save(tmp_path / "s.npy", rng.standard_normal((700, 30)).astype("f4"))
    page = tmp_path / "page.html"
    flags = ("--kernel", "blur", "--kernel", "log", "-o", tmp_path / "out", "--html", page)
    ran = dojang("filter", photo, odd, tmp_path / "s.npy", *flags)
    assert ran.code == 0, ran.err
    text = page.read_text()
    assert text.count("<section>") == text.count("One window: ") == 6
    assert "<b>.png" not in text
    assert text.count("alpha, 1 is opaque") == 1
    assert "Divided by the sum of tap times alpha" in text
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    ]
    assert sizes[:2] == [(17, 12)] * 2
    assert max(max(size) for size in sizes) <= 480
    assert dojang("filter", photo, "--kernel", "blur", "--html", page, "-o", tmp_path / "o.png").code == 2
    assert not (tmp_path / "o.png").exists()
    assert dojang("filter", photo, "--kernel", "blur", "--html", tmp_path / "q.html", "--plan").code == 2

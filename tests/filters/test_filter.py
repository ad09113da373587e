"""`filter` against scipy.ndimage and a brute-force loop: dtypes, shapes, borders, strides, dilations, bad input."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.filters.borders import pad
from dojang.filters.filter import filter
from dojang.filters.kernels.parse import Kernel, as_kernel, named
from weighted import check_weighted

SCIPY = {"zero": "constant", "constant": "constant", "replicate": "nearest", "reflect": "mirror", "circular": "wrap",
         "symmetric": "reflect"}  # fmt: skip


def picture(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True, dtype=dtype)


def brute(image, kernel, border="reflect", stride=(1, 1), dilation=(1, 1), anchor=None, value=0.0):
    """float64 (oh, ow, c) by the definition, pixel by pixel."""
    h, w, c = image.shape
    kh, kw = kernel.shape
    ay, ax = anchor or (kh // 2, kw // 2)
    (sy, sx), (dy, dx) = stride, dilation
    ey, ex = (kh - 1) * dy + 1, (kw - 1) * dx + 1
    if border == "valid":
        source, oh, ow = image.astype(float), (h - ey) // sy + 1, (w - ex) // sx + 1
    else:
        source = pad(image.astype(float), (ay * dy, ey - 1 - ay * dy), (ax * dx, ex - 1 - ax * dx), border, value)
        oh, ow = -(-h // sy), -(-w // sx)
    out = np.zeros((oh, ow, c))
    for y in range(oh):
        for x in range(ow):
            window = source[y * sy : y * sy + ey : dy, x * sx : x * sx + ex : dx]
            out[y, x] = np.tensordot(kernel, window, 2)
    return out


def agrees(result, exact, scale=1.0):
    """Integers: the rounded, saturated float64 result, 1 apart only within 1/64 of a tie. Floats: relative to scale."""
    if result.dtype.kind == "f":
        tolerance = (2e-6 if result.dtype == np.float32 else 1e-14) * scale
        assert np.abs(result - exact).max() <= tolerance
        return
    top = np.iinfo(result.dtype).max
    expected = np.rint(exact).clip(0, top)
    apart = np.abs(result.astype(float) - expected)
    assert apart.max() <= 1
    at = apart > 0
    assert (np.abs(exact[at] - np.floor(exact[at]) - 0.5) < 1 / 64).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 4), (2, 7), (11, 11)])
def test_scipy_agrees(dtype, border, size):
    image = picture((23, 31), dtype, 3)
    kernel = np.random.default_rng(size).standard_normal(size)
    value = 3.0 if border == "constant" else 0.0
    exact = ndimage.correlate(image.astype(float), kernel, mode=SCIPY[border], cval=value)
    agrees(filter(image, kernel, border, value=value), exact, np.abs(kernel).sum() * np.abs(image).max())


@settings(max_examples=40)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    c=st.integers(1, 5),
    kh=st.integers(1, 5),
    kw=st.integers(1, 5),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    border=st.sampled_from([*SCIPY, "valid"]),
    dtype=st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_problem_is_the_definition(h, w, c, kh, kw, stride, dilation, border, dtype, whole, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.integers(-3, 4, (kh, kw)).astype(float) if whole else rng.standard_normal((kh, kw))
    anchor = (int(rng.integers(kh)), int(rng.integers(kw)))
    image = picture((h, w, c), dtype, seed)
    if border == "valid" and ((kh - 1) * dilation[0] + 1 > h or (kw - 1) * dilation[1] + 1 > w):
        with pytest.raises(ShapeError, match="spans"):
            filter(image, kernel, border, stride, dilation, anchor=anchor)
        return
    result = filter(image, kernel, border, stride, dilation, anchor=anchor, value=2 * (border == "constant"))
    exact = brute(image, kernel, border, stride, dilation, anchor, 2.0)
    assert result.dtype == image.dtype
    assert result.shape == exact.shape
    agrees(result, exact, (np.abs(kernel).sum() + 1e-30) * max(np.abs(image).max(), 2))


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 1), (9, 8, 3), (2, 9, 8, 4), (1, 1), (1, 40), (40, 1)])
def test_shapes_are_kept(shape):
    image = picture(shape, "uint8")
    result = filter(image, "blur:size=5", "circular")
    stack = image.reshape(shape if len(shape) == 4 else (1, *shape[:2], shape[2] if len(shape) > 2 else 1))
    exact = np.stack([brute(one, np.full((5, 5), 1 / 25), "circular") for one in stack])
    assert result.shape == shape
    agrees(result, exact.reshape(shape))


def test_kernel_is_not_flipped():
    image = np.zeros((5, 5))
    image[2, 2] = 1
    kernel = np.arange(9.0).reshape(3, 3)
    assert np.array_equal(filter(image, kernel)[1:4, 1:4], kernel[::-1, ::-1])


def test_magnitude_kernels():
    image = picture((20, 30, 3), "uint8")
    gx, gy = (cv2.Sobel(image, cv2.CV_64F, *d, borderType=cv2.BORDER_REFLECT_101) for d in ((1, 0), (0, 1)))
    agrees(filter(image, "sobel"), np.hypot(gx, gy))
    assert np.allclose(filter(image / 255.0, "sobel"), np.hypot(gx, gy) / 255)


def test_results_as_floats_and_offset():
    image = picture((12, 13), "uint8")
    exact = brute(image[..., None], named("emboss").matrix)[..., 0]
    assert np.array_equal(filter(image, "emboss", dtype="float64"), exact)
    assert filter(image, "emboss", dtype="float32").dtype == np.float32
    assert np.array_equal(filter(image, "emboss", offset=128), np.clip(exact + 128, 0, 255))


def test_bank_stacks_and_out():
    image = picture((12, 13, 3), "uint8")
    names = ["blur", "sharpen", "sobel", "1 2; 3 4"]
    bank = filter(image, names)
    assert bank.shape == (4, 12, 13, 3)
    for one, name in zip(bank, names, strict=True):
        assert np.array_equal(one, filter(image, name))
    out = np.empty_like(bank)
    assert filter(image, names, out=out) is out
    assert np.array_equal(out, bank)
    assert np.array_equal(filter(image, np.ones((2, 3, 3))), filter(image, [np.ones((3, 3))] * 2))
    with pytest.raises(ShapeError, match="different sizes"):
        filter(image, ["blur", "blur:size=5"], "valid")


def test_out_in_place_and_strided():
    image = picture((40, 50, 3), "uint8")
    expected = filter(image, "blur")
    same = image.copy()
    assert filter(same, "blur", out=same) is same
    assert np.array_equal(same, expected)
    wide = np.zeros((40, 100, 3), np.uint8)
    filter(image, "blur", out=wide[:, ::2])
    assert np.array_equal(wide[:, ::2], expected)
    assert not wide[:, 1::2].any()


def test_any_memory_layout():
    base = picture((40, 60, 4), "uint16")
    for view in (base[::2, 5:40], base[:, ::-1], base[..., 2::-1], base.transpose(1, 0, 2), base.astype(">u2")):
        assert np.array_equal(filter(view, "sharpen"), filter(np.array(view, "u2", order="C"), "sharpen"))
    assert filter(base.astype(">u2"), "blur").dtype == np.uint16


def test_pil_images_keep_alpha_and_mode():
    pixels = picture((10, 11, 4), "uint8")
    image = Image.fromarray(pixels)
    image.info["icc_profile"] = b"profile"
    result = filter(image, "blur")
    assert result.mode == "RGBA"
    assert result.info["icc_profile"] == b"profile"
    got = np.asarray(result)
    check_weighted(got, pixels, np.full((3, 3), 1 / 9))
    small = np.asarray(filter(image, "blur:size=4", "valid", stride=2, dilation=2))
    assert np.array_equal(small[..., 3], pixels[4:, 4:, 3][::2, ::2][: small.shape[0], : small.shape[1]])
    assert [i.size for i in filter(image.convert("L"), ["blur", "sobel"])] == [(11, 10)] * 2
    assert filter(image.convert("P"), "blur").mode in ("RGB", "RGBA")


@pytest.mark.parametrize(
    ("image", "kwargs", "error", "says"),
    [
        (np.zeros((0, 5)), {}, ShapeError, "empty"),
        (np.zeros((5, 5, 0)), {}, ShapeError, "empty"),
        (np.zeros((0, 5, 5, 1)), {}, ShapeError, "no picture"),
        (np.zeros(5), {}, ShapeError, "1 axes"),
        (np.zeros((5, 5), "int64"), {}, UsageError, "int64"),
        (np.zeros((5, 5), complex), {}, UsageError, "complex"),
        (np.array([["a"]]), {}, UsageError, "dtype"),
        (np.zeros((5, 5), "float16"), {}, UsageError, "float16"),
        (np.zeros((5, 5)), {"border": "mirror"}, UsageError, "mirror"),
        (np.zeros((5, 5)), {"stride": 0}, UsageError, "stride"),
        (np.zeros((5, 5)), {"dilation": 1.5}, UsageError, "dilation"),
        (np.zeros((5, 5)), {"stride": (1, 2, 3)}, UsageError, "stride"),
        (np.zeros((5, 5)), {"value": np.nan}, DataError, "value"),
        (np.zeros((5, 5), "uint8"), {"border": "constant", "value": 256}, DataError, "256"),
        (np.zeros((5, 5), "uint8"), {"dtype": "uint16"}, UsageError, "uint16"),
        (np.zeros((5, 5), "uint8"), {"out": np.zeros((5, 5))}, ShapeError, "out="),
        (np.zeros((5, 5), "uint8"), {"out": [1]}, UsageError, "out="),
        (np.zeros((2, 2)), {"border": "valid"}, ShapeError, "spans 3x3"),
        (np.zeros((5, 5), "f"), {"kernel": np.full((2, 2), 1e38)}, DataError, "overflow"),
        (np.zeros((5, 5)), {"kernel": np.full((2, 2), 1e308)}, DataError, "overflow"),
        (np.zeros((5, 5)), {"kernel": np.ones((2, 2), complex)}, ShapeError, "complex"),
        (np.zeros((5, 5)), {"dtype": "junk"}, UsageError, "junk"),
        (np.zeros((5, 5)), {"anchor": (-2, 0)}, UsageError, "anchor"),
        (np.zeros((5, 5)), {"anchor": (0.5, 0)}, UsageError, "anchor"),
        (np.zeros((5, 5)), {"anchor": 1}, UsageError, "anchor"),
        (np.zeros((5, 5)), {"anchor": (3, 0)}, ShapeError, "outside"),
        (np.zeros((5, 5)), {"value": None}, DataError, "value"),
        (np.zeros((5, 5)), {"offset": "a"}, DataError, "offset"),
        (np.zeros((5, 5)), {"threads": 1.5}, UsageError, "threads"),
        (np.zeros((5, 5)), {"threads": "a"}, UsageError, "threads"),
        (np.zeros((5, 5)), {"dilation": 10**9}, ShapeError, "spans"),
        (np.zeros((5, 5)), {"offset": 10**400}, DataError, "offset"),
        (np.zeros((5, 5), "f"), {"border": "constant", "value": 1e39}, DataError, "1e+39 does not fit"),
        (np.zeros((5, 5)), {"kernel": np.zeros((0, 3, 3))}, ShapeError, "0x3x3"),
        (np.zeros((5, 5)), {"kernel": np.broadcast_to(1.0, (2**20, 2**20))}, ShapeError, "are more than"),
        (np.zeros((5, 5)), {"mask": [[1], [1, 2]]}, ShapeError, "mask="),
        (np.zeros((5, 5)), {"mask": np.zeros((5, 5), bool), "out": [1]}, UsageError, "out="),
        ([[1.0], [2.0, 3.0]], {}, ShapeError, "not a picture"),
        (np.ma.masked_array(np.zeros((5, 5)), True), {}, UsageError, "mask"),
        (np.zeros((5, 5)), {"out": np.zeros((4, 5))}, ShapeError, "out= is 4x5 float64; the result is 5x5 float64"),
    ],
)
def test_bad_input(image, kwargs, error, says):
    with pytest.raises(error) as caught:
        filter(image, **({"kernel": "blur"} | kwargs))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("border", ["reflect", "valid"])
@pytest.mark.parametrize("stride", [10**9, (2, 10**6)])
def test_a_step_beyond_the_picture_keeps_one_pixel(border, stride):
    image, kernel = picture((9, 8, 2), "uint8"), np.array([[1.0, 2.0], [3.0, -4.0]])
    agrees(
        filter(image, kernel, border=border, stride=stride), brute(image, kernel, border, np.broadcast_to(stride, 2))
    )


def test_an_anchor_may_be_a_list():
    image, kernel = picture((9, 8, 1), "uint8"), picture((3, 4), "float64")
    for form in (kernel, "(1 2 3 4; 0 1 0 1; 1 1 1 2)/9"):
        exact = brute(image, as_kernel(form).matrix, anchor=(0, 3))
        agrees(filter(image, form, anchor=[0, 3]), exact)


@pytest.mark.parametrize("size", [(3, 3), (15, 15), (33, 33)])
@pytest.mark.parametrize("scale", [1e300, 1e39, 1e-39, 1e-310, 5e-324])
def test_taps_of_any_scale(size, scale):
    image, kernel = picture((40, 50, 1), "uint8"), scale * picture(size, "float64")
    agrees(filter(image, kernel), brute(image, kernel))
    kernel = np.full(size, scale)
    agrees(filter(image, kernel), brute(image, kernel))


def test_kernel_larger_than_the_picture():
    image = picture((3, 4, 2), "float64")
    kernel = np.random.default_rng(0).standard_normal((9, 15))
    for border in SCIPY:
        assert np.allclose(filter(image, kernel, border), brute(image, kernel, border))


def test_nan_pixels_stay_in_their_windows():
    image = np.zeros((20, 20), "f")
    image[10, 10] = np.nan
    for kernel in ("blur", "gaussian", "sharpen", np.ones((5, 5)), Kernel("r", (np.random.rand(3, 3),))):
        half = as_kernel(kernel).size[0] // 2
        bad = np.isnan(filter(image, kernel))
        assert bad[10, 10]
        assert not bad[: 10 - half].any()
        assert not bad[:, 11 + half :].any()


@pytest.mark.parametrize(
    "kernel",
    [
        "(1 2 1; 2 4 2; 1 2 1)/16",
        "(1 1; 1 1)/4",
        "(1 -2 1; 2 4 -2; -1 2 -1)/4",
        "(1 4 6 4 1; 4 16 24 16 4; 6 24 36 24 6; 4 16 24 16 4; 1 4 6 4 1)/256",
        "(1 1 1; 1 1 1)/6",
        *(f"blur:size={n}" for n in range(2, 18)),
        "sharpen",
        "outline:size=9",
        "127",
        "-129 0 129",
        "200 57 1",
    ],
)
def test_whole_number_kernels_round_exactly(kernel):
    """Every way of rounding 16-bit sums, also at the extremes: none, shifts (halves to even), products, floats."""
    taps = as_kernel(kernel).matrix
    image = picture((60, 150), "uint8", 7)
    image[:20] = 255
    image[20:30] = 0
    exact = brute(image[..., None], taps)[..., 0]
    ratio = taps / np.abs(taps[taps != 0]).min()
    halves = np.abs(exact - np.floor(exact) - 0.5) < 1e-9
    result = filter(image, kernel).astype(float)
    expected = np.rint(np.round(exact, 9)).clip(0, 255)
    assert np.array_equal(result[~halves], expected[~halves])
    if (ratio == np.rint(ratio)).all() and np.log2(np.abs(taps).min() if (taps != 0).all() else 1) % 1 == 0:
        assert np.array_equal(result, expected)

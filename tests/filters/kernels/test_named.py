"""Named kernels against their published matrices and against OpenCV and SciPy; text and files; bad kernels."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from dojang.base.errors import DataError, FileError, ShapeError, UsageError
from dojang.filters.borders import index_map, pad
from dojang.filters.kernels.named import NAMED
from dojang.filters.kernels.parse import Kernel, as_kernel, gabor_bank, is_bank, load_kernels, named, parse_matrix
from dojang.filters.pictures.images import turn


def test_known_matrices():
    assert named("blur").matrix.tolist() == [[1 / 9] * 3] * 3
    assert named("outline").matrix.tolist() == [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]
    assert named("emboss").matrix.tolist() == [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]
    assert named("sobel-x").matrix.tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert named("prewitt-y").matrix.tolist() == [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]
    assert named("scharr-x").matrix.tolist() == [[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]
    assert named("laplacian", neighbours=8).matrix.tolist() == [[1, 1, 1], [1, -8, 1], [1, 1, 1]]


@pytest.mark.parametrize("size", [3, 5, 7])
def test_sobel_of_any_size_is_opencvs(size):
    dx, dy = cv2.getDerivKernels(1, 0, size)
    assert np.array_equal(named("sobel-x", size=size).matrix, np.outer(dy, dx))


def test_gaussian_is_opencvs_and_scipys():
    g = cv2.getGaussianKernel(9, 1.7)
    assert np.allclose(named("gaussian", sigma=1.7, size=9).matrix, g @ g.T, atol=1e-15)
    point = np.zeros((21, 21))
    point[10, 10] = 1
    expected = ndimage.gaussian_filter(point, 1.5, radius=5)[5:16, 5:16]
    assert np.allclose(named("gaussian", sigma=1.5, size=11).matrix, expected, atol=1e-15)


def test_log_is_the_laplacian_of_the_gaussian():
    """A fine-grained difference of the formula's Gaussian, taken numerically, gives the same surface."""
    taps, h = named("log", sigma=2.0).matrix, 1e-3
    y, x = np.mgrid[-8:9, -8:9].astype(float)

    def g(y, x):
        return np.exp(-(x * x + y * y) / 8) / (2 * np.pi * 4)

    around = g(y + h, x) + g(y - h, x) + g(y, x + h) + g(y, x - h)
    assert np.allclose(taps, (around - 4 * g(y, x)) / h**2, atol=2e-5)
    assert abs(taps.sum()) < 1e-15


def test_gabor_turns_with_its_angle():
    assert np.allclose(named("gabor", angle=90).matrix, np.rot90(named("gabor").matrix), atol=1e-12)
    bank = gabor_bank(6, [4, 9])
    assert len({k.key for k in bank}) == 12
    assert as_kernel(bank[3].name).key == bank[3].key


@pytest.mark.parametrize(("name", "total"), [("motion", 1), ("unsharp", 1), ("gaussian", 1), ("sharpen", 1)])
def test_sums(name, total):
    assert named(name).matrix.sum() == pytest.approx(total, abs=1e-12)


def test_motion_lies_on_its_line():
    assert np.count_nonzero(named("motion", size=9).matrix.sum(1)) == 1
    assert np.count_nonzero(named("motion", size=9, angle=90).matrix.sum(0)) == 1
    slanted = named("motion", size=9, angle=45).matrix
    assert slanted[2, 6] > 0
    assert slanted[2, 2] == 0
    assert np.allclose(slanted, slanted[::-1, ::-1])


@pytest.mark.parametrize("name", NAMED)
def test_every_named_kernel_can_be_made_and_says_where_it_is_from(name):
    kernel = as_kernel(name)
    assert kernel.source
    assert kernel.name == name
    assert all(np.isfinite(p).all() for p in kernel.parts)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_kernel_on_stored_pixels_is_the_kernel_on_shown_pixels(orientation):
    rng = np.random.default_rng(orientation)
    stored = rng.random((9, 12))
    kernel = Kernel("k", (rng.standard_normal((3, 4)),), anchor=(0, 2))

    def press(image, k):
        (kh, kw), (ay, ax) = k.size, k.anchor
        p = pad(image, (ay, kh - 1 - ay), (ax, kw - 1 - ax), "reflect")
        windows = np.lib.stride_tricks.sliding_window_view(p, (kh, kw))
        return np.einsum("yxij,ij->yx", windows, k.matrix)

    assert np.allclose(
        turn(press(stored, kernel.turned(orientation)), orientation), press(turn(stored, orientation), kernel)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_is_pillows(orientation):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    assert np.array_equal(turn(pixels, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_matrix_text():
    assert parse_matrix("1, 2\n3,4").tolist() == [[1, 2], [3, 4]]
    assert parse_matrix("[[1 2];[3 -4e-1]]").tolist() == [[1, 2], [3, -0.4]]
    assert parse_matrix("(1 2 1; 2 4 2; 1 2 1)/16").sum() == 1
    assert as_kernel("1/9 1/9").matrix.tolist() == [[1 / 9, 1 / 9]]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("1 2; 3", UsageError, "row 2 has 1 taps and row 1 has 2"),
        ("1 x", UsageError, '"x" is not a number'),
        ("1/0", UsageError, '"1/0" is not a number'),
        (";;", UsageError, "empty kernel"),
        ("(1 2)/0", UsageError, "divisor is 0"),
        ("1 nan", DataError, "tap (0, 1) is nan"),
        ("inf", UsageError, "not known"),
        ("1 inf", DataError, "finite"),
        ("blurr", UsageError, "blurr"),
        ("blur:radius=3", UsageError, "it has size"),
        ("blur:3", UsageError, "not an option"),
        ("identity:size=3", UsageError, "it has none"),
        ("gaussian:sigma=0", UsageError, "above 0"),
        ("gaussian:sigma=nan", UsageError, "finite"),
        ("sobel:size=4", UsageError, "odd"),
        ("blur:size=1000001", UsageError, "at most"),
        ("blur:size=inf", UsageError, "size inf"),
        ("motion:size=nan", UsageError, "size nan"),
        ("gaussian:sigma=1e9", UsageError, "at most"),
        ("log:sigma=1e9", UsageError, "at most"),
        ("gabor:wavelength=1e9", UsageError, "at most"),
        ("laplacian:neighbours=5", UsageError, "4 or 8"),
    ],
)
def test_bad_text(text, error, says):
    with pytest.raises(error, match=None) as caught:
        as_kernel(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.zeros((0, 3)), ShapeError),
        (np.zeros(3), ShapeError),
        ([[1, 2], [3]], ShapeError),
        ([["a"]], ShapeError),
        (None, ShapeError),
        (np.array([[np.inf]]), DataError),
    ],
)
def test_bad_arrays(value, error):
    with pytest.raises(error):
        as_kernel(value)


def test_npy_files(tmp_path):
    np.save(tmp_path / "k.npy", np.arange(6).reshape(2, 3))
    np.save(tmp_path / "bank.npy", np.ones((4, 3, 3), "f"))
    assert as_kernel(str(tmp_path / "k.npy")).matrix.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert len(load_kernels(tmp_path / "bank.npy")) == 4
    with pytest.raises(ShapeError, match="holds 4 kernels"):
        as_kernel(tmp_path / "bank.npy")
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "k.npy").read_bytes()[:-9])
    np.save(tmp_path / "text.npy", np.array(["a"]))
    for name in ("evil", "cut", "text", "missing"):
        with pytest.raises(FileError, match=name):
            as_kernel(str(tmp_path / f"{name}.npy"))


def test_banks_and_keys():
    assert is_bank(["blur", "sharpen"])
    assert is_bank(np.ones((2, 3, 3)))
    assert not is_bank([[0, 1], [1, 0]])
    assert named("blur").key == as_kernel(np.full((3, 3), 1 / 9)).key
    assert named("blur").key != named("blur", anchor=(0, 0)).key
    with pytest.raises(ShapeError, match="anchor"):
        named("blur", anchor=(3, 0))


@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_index_maps_are_numpys(border, mode, size):
    row = np.arange(size)
    assert np.array_equal(row[index_map(size, 7, 8, border)], np.pad(row, (7, 8), mode=mode))


def test_unknown_border():
    from dojang.filters.borders import check_border

    with pytest.raises(UsageError, match=r"mirror.*reflect"):
        check_border("mirror")

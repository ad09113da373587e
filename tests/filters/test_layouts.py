"""Stacks, views and planes: the result of each picture alone, without a copy of the input. Borders by other names."""

import tracemalloc

import cv2
import numpy as np
import pytest
from scipy import ndimage

import dojang
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.filters.borders import BORDERS, OTHER_NAMES, check_border, index_map


@pytest.mark.parametrize("kernel", ["blur", "gaussian:sigma=1", "sobel", np.ones((31, 31)) / 961, "blur:size=5"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(7, 28, 28, 1), (3, 40, 33, 3)])
def test_a_stack_is_its_pictures(kernel, dtype, shape):
    stack = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    want = np.stack([dojang.filter(one, kernel) for one in stack])
    for threads in (1, 2):
        assert dojang.filter(stack, kernel, threads=threads).tobytes() == want.tobytes()
    assert dojang.filter(stack[::-2], kernel).tobytes() == np.ascontiguousarray(want[::-2]).tobytes()


def views(image):
    yield image[5:60, 7:90]
    yield image[::-1]
    yield image[::3]
    yield image[:, ::-1]
    yield np.moveaxis(np.ascontiguousarray(np.moveaxis(image, -1, 0)), 0, -1)
    yield np.moveaxis(np.ascontiguousarray(np.moveaxis(image, -1, 0))[:, 3:50, 4:77], 0, -1)
    yield image.swapaxes(0, 1)
    yield image[:, :, :1]
    yield np.broadcast_to(image[:1], image.shape)


@pytest.mark.parametrize("kernel", ["gaussian:sigma=1", "blur:size=5", "sharpen"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_views(kernel, dtype):
    image = (np.random.default_rng(1).random((64, 100, 3)) * 255).astype(dtype)
    for view in views(image):
        want = dojang.filter(np.ascontiguousarray(view), kernel)
        for _ in range(10):  # known calls are checked less
            assert np.array_equal(dojang.filter(view, kernel), want)
        assert np.array_equal(dojang.filter(view, [kernel, kernel])[1], want)
        out = np.empty(view.shape, dtype)
        assert np.array_equal(dojang.filter(view, kernel, out=out), want)


@pytest.mark.parametrize("planes", [False, True])
def test_views_are_not_copied(planes):
    image = np.zeros((3, 700, 800), np.float32) if planes else np.zeros((700, 800, 3), np.float32)
    view = np.moveaxis(image, 0, -1) if planes else image[50:650, 40:760]
    for _ in range(10):  # code is compiled at one of the first uses
        dojang.filter(view, "gaussian:sigma=2")
    tracemalloc.start()
    result = dojang.filter(view, "gaussian:sigma=2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * result.nbytes


ROW = np.arange(1.0, 5.0)


@pytest.mark.parametrize(("border", "names"), [(b, n) for b, (_, n) in OTHER_NAMES.items()])
def test_names_of_other_libraries(border, names):
    """What each library does under that name is what our border does."""
    ours = np.append(ROW, 0.0)[index_map(4, 3, 3, check_border(border))] if border != "valid" else ROW
    for library, text in names.items():
        for name in filter(None, text.split(", ")):
            assert check_border(f"{library}:{name}") == border
            if library == "numpy":
                assert np.array_equal(np.pad(ROW, 3, mode=name), ours)
            elif library == "opencv":
                assert np.array_equal(cv2.copyMakeBorder(ROW[None], 0, 0, 3, 3, getattr(cv2, name))[0], ours)
            elif library == "scipy" and border != "constant":
                shifted = [ndimage.correlate1d(ROW, np.eye(7)[k], mode=name) for k in range(7)]
                assert [float(s[0]) for s in shifted] == ours[:7].tolist()
    assert set(OTHER_NAMES) == set(BORDERS)


def test_names_with_two_meanings_are_ours():
    assert check_border("reflect") == "reflect"
    assert check_border("scipy:reflect") == check_border("BORDER_REFLECT") == "symmetric"
    with pytest.raises(UsageError, match="not known"):
        check_border("scipy:symmetric")


def test_sep_filter():
    rng = np.random.default_rng(2)
    image, kx, ky = rng.random((30, 40)), rng.standard_normal(7), rng.standard_normal(4)
    want = ndimage.correlate1d(ndimage.correlate1d(image, kx, 1, mode="mirror"), ky, 0, mode="mirror")
    np.testing.assert_allclose(dojang.sep_filter(image, kx, ky), want, atol=1e-13)
    column = cv2.getGaussianKernel(9, 2.0)
    picture = (image * 255).astype(np.uint8)
    want = ndimage.correlate1d(ndimage.correlate1d(picture * 1.0, column[:, 0], 1, mode="mirror"), column[:, 0], 0,
                               mode="mirror")  # fmt: skip
    assert np.abs(dojang.sep_filter(picture, column, column) - want).max() <= 0.5 + 1 / 64
    np.testing.assert_allclose(
        dojang.sep_filter(image, kx, ky, "zero", 2, anchor=(0, 1)),
        dojang.sep_filter(image, kx, ky, "zero", anchor=(0, 1))[::2, ::2],
        atol=1e-14,
    )
    with pytest.raises(ShapeError, match="kx must be a vector"):
        dojang.sep_filter(image, np.ones((2, 2)), ky)
    with pytest.raises(ShapeError, match="complex"):
        dojang.sep_filter(image, [1j], ky)
    long = np.ones(8191) / 8191
    np.testing.assert_allclose(dojang.sep_filter(np.ones((3, 5)), long, long), 1.0)
    with pytest.raises(ShapeError, match="more than"):
        dojang.sep_filter(image, np.ones(20000), ky)
    with pytest.raises(UsageError, match="sep_filter has no option bordr; did you mean border"):
        dojang.sep_filter(image, kx, ky, bordr="zero")
    with pytest.raises(ShapeError, match="ky: not an array of numbers"):
        dojang.sep_filter(image, kx, [[1], [1, 2]])


@pytest.mark.parametrize("mask", [None, np.eye(4, dtype=bool)])
def test_an_offset_that_the_result_cannot_hold(mask):
    image = np.ones((4, 4), np.float32)
    with pytest.raises(DataError, match="offset 1e\\+300 does not fit a float32 result"):
        dojang.filter(image, "blur", offset=1e300, mask=mask)
    assert (dojang.filter(image, "blur", offset=1e300, mask=mask, dtype="float64") == 1e300).all()
    assert (dojang.filter(image.astype(np.uint8), "blur", offset=1e300, mask=mask) == 255).all()

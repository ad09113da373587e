"""dojang.conv, conv_transpose, convolve against the definition, SciPy and NumPy."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from dojang.arith.conv import Conv
from dojang.base.errors import DataError, ShapeError, UnsupportedError, UsageError
from dojang.engine.functional import conv, conv_transpose, convolve
from kernels import oracle

rng = np.random.default_rng(0)


def whole(*shape, dtype="f4"):
    return rng.integers(-4, 5, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(2, 4, 9), (1, 3, 8, 7), (2, 2, 4, 5, 6), (0, 4, 9), (2, 1, 1, 1)])
def test_conv(shape, dtype):
    rank = len(shape) - 2
    kernel = (3, 2, 3)[:rank] if shape[-1] > 1 else (1,) * rank
    x, w, b = whole(*shape, dtype=dtype), whole(6, shape[1], *kernel, dtype=dtype), whole(6, dtype=dtype)
    y = conv(x, w, b, stride=2, padding=1)
    c = Conv.of(shape[1], 6, shape[2:], kernel, 2, 1, n=shape[0])
    assert y.dtype == dtype
    assert y.shape == c.out_shape
    assert (y == oracle(c, x, w, b)).all()
    if len(x):
        assert (conv(x[0], w, b, stride=2, padding=1) == y[0]).all()


def test_grouped_dilated_same():
    x, w = whole(2, 6, 9, 10), whole(4, 3, 3, 3)
    c = Conv.of(6, 4, (9, 10), 3, padding="same", dilation=2, groups=2, bias=False, n=2)
    assert (conv(x, w, padding="same", dilation=2, groups=2) == oracle(c, x, w, None)).all()


def test_transposed():
    x, w, b = whole(2, 4, 5, 6), whole(4, 3, 3, 2), whole(6)
    c = Conv.of(4, 6, (5, 6), (3, 2), (2, 3), (1, 0), groups=2, transposed=True, output_padding=(1, 2), n=2)
    y = conv_transpose(x, w, b, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2)
    assert (y == oracle(c, x, w, b)).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((5, 4), (16, 32), {"stride": 16, "padding": (0, 8)}),
        ((3,), (9,), {"stride": 70, "output_padding": 69}),
        ((2, 3, 4), (3, 2, 1), {"stride": (9, 9, 1), "dilation": (3, 1, 1), "padding": (1, 0, 0)}),
    ],
)
def test_transposed_with_large_strides(size, kernel, options, dtype):
    """As PyTorch: what enlarges by 16 at once has more residues than are worth kernels of their own."""
    x, w, b = whole(2, 4, *size, dtype=dtype), whole(4, 3, *kernel, dtype=dtype), whole(6, dtype=dtype)
    given = [torch.from_numpy(a) for a in (x, w, b)]
    right = getattr(torch.nn.functional, f"conv_transpose{len(size)}d")(*given, groups=2, **options).numpy()
    y = conv_transpose(x, w, b, groups=2, **options)
    assert y.dtype == dtype
    assert np.array_equal(y, right)
    assert conv_transpose(x[:0], w, b, groups=2, **options).shape == (0, *right.shape[1:])


@pytest.mark.parametrize("padding", [((1, 0), (0, 0)), ((0, 2), (1, 1)), ((2, 2), (2, 2)), ((0, 2), (0, 1))])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_pixel_in_one_pixel_out(padding, groups):
    """With a large stride the only place of the output may lie on padding."""
    x, w, b = whole(3, 4, 1, 1), whole(6, 4 // groups, 1, 1), whole(6)
    given = torch.nn.functional.pad(torch.from_numpy(x), (*padding[1], *padding[0]))
    right = torch.nn.functional.conv2d(given, torch.from_numpy(w), torch.from_numpy(b), stride=5, groups=groups)
    for precision in ("strict", "fast"):
        y = conv(x, w, b, stride=5, padding=padding, groups=groups, precision=precision)
        assert np.array_equal(y, right.numpy())


def test_any_memory_order():
    base, w = whole(3, 8, 12, 14), whole(5, 4, 3, 3)
    expected = conv(np.ascontiguousarray(base[::2, ::-2, ::-1, ::2]), w)
    assert (conv(base[::2, ::-2, ::-1, ::2], w) == expected).all()
    last = np.ascontiguousarray(np.moveaxis(base, 1, -1))
    w8 = whole(5, 8, 3, 3)
    assert (conv(np.moveaxis(last, -1, 1), w8) == conv(base, w8)).all()
    assert (conv(base.astype(">f4"), w8) == conv(base, w8)).all()
    assert (conv(base.astype("i2"), w8) == conv(base, w8)).all()


def test_inputs_are_left_alone_and_results_are_own():
    x, w = whole(1, 3, 6, 6), whole(4, 3, 3, 3)
    x.flags.writeable = w.flags.writeable = False
    first = conv(x, w)
    kept = first.copy()
    second = conv(x, w * 2)
    assert (first == kept).all()
    assert (second == 2 * first).all()
    changed = w.copy()
    again = conv(x, changed)
    changed[0] = 0
    assert (conv(x, changed)[:, 0] == 0).all()
    assert (again == first).all()


def test_nan_infinity_denormals():
    x = np.ones((1, 1, 7), "f4")
    x[0, 0, 2], x[0, 0, 6] = np.nan, np.inf
    y = conv(x, np.ones((1, 1, 3), "f4"), padding=1)
    assert np.array_equal(y[0, 0], [2, np.nan, np.nan, np.nan, 3, np.inf, np.inf], equal_nan=True)
    tiny = np.full((1, 1, 4), 1e-40, "f4")
    assert (conv(tiny, np.ones((1, 1, 1), "f4")) == tiny).all()


def test_from_many_threads():
    x, w = whole(1, 8, 20, 20), [whole(8, 8, 3, 3) for _ in range(4)]
    expected = [conv(x, v) for v in w]
    wrong = []

    def work(k):
        wrong.extend(k for _ in range(30) if not (conv(x, w[k]) == expected[k]).all())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@settings(max_examples=25)
@given(st.data(), st.sampled_from(["full", "same", "valid"]), st.integers(1, 3))
def test_convolve_like_scipy(data, mode, rank):
    shape = lambda: tuple(data.draw(st.integers(1, 7)) for _ in range(rank))  # noqa: E731
    f, g = whole(*shape(), dtype="i8"), whole(*shape(), dtype="i8")
    if mode == "valid" and not (
        all(a >= b for a, b in zip(f.shape, g.shape, strict=True))
        or all(a <= b for a, b in zip(f.shape, g.shape, strict=True))
    ):
        with pytest.raises(ShapeError, match="fit into the other"):
            convolve(f, g, mode)
        return
    y = convolve(f, g, mode)
    assert y.dtype == np.int64
    assert (y == signal.convolve(f, g, mode, method="direct")).all()
    assert np.allclose(convolve(f.astype("f4"), g.astype("f4"), mode), y)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("size", "kernel"), [((5000,), (200,)), ((90, 120), (21, 17))])
def test_fast_convolve(size, kernel, dtype):
    """By transforms where that is faster; integers stay exact."""
    f, g = rng.standard_normal(size).astype(dtype), rng.standard_normal(kernel).astype(dtype)
    for mode in ("full", "same", "valid"):
        y, right = convolve(f, g, mode, precision="fast"), signal.convolve(f.astype("f8"), g.astype("f8"), mode)
        assert y.dtype == dtype
        assert np.abs(y - right).max() <= (1e-6 if dtype == "f4" else 1e-14) * np.abs(right).max()
    f, g = whole(*size, dtype="i8"), whole(*kernel, dtype="i8")
    assert (convolve(f, g, precision="fast") == signal.convolve(f, g, method="direct")).all()


def test_fast_convolution_of_many_channels():
    """Three steps, with memory between them."""
    x, w = rng.standard_normal((2, 16, 40, 50)).astype("f4"), rng.standard_normal((24, 16, 15, 15)).astype("f4")
    plain, fast = conv(x, w, padding=7), conv(x, w, padding=7, precision="fast")
    exact = signal_sums(x, w, 7)
    errors = [np.abs(y - exact).max() for y in (fast, plain)]
    assert errors[0] <= 2 * errors[1] + 2.0**-22 * np.abs(exact).max()
    assert not np.array_equal(fast, plain)


def signal_sums(x, w, pad):
    """Correlations summed over channels in float64, by scipy."""
    x = np.pad(x.astype("f8"), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    sums = lambda image, kernels: sum(signal.correlate(a, k, "valid") for a, k in zip(image, kernels, strict=True))  # noqa: E731
    return np.array([[sums(image, kernels) for kernels in w.astype("f8")] for image in x])


def test_convolve_of_functions():
    """The bell curve of width 1 with itself is that of width √2."""
    dx = 0.01
    t = np.arange(-8, 8, dx)
    bell = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    y = convolve(bell, bell, "same", dx)
    assert np.abs(y - np.exp(-(t**2) / 4) / np.sqrt(4 * np.pi)).max() < 2 * dx
    assert abs(y.sum() * dx - 1) < 1e-6


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: conv(np.ones((1, 3, 8)), np.ones((4, 2, 3))), ShapeError, "weight is 4x2x3, 3 input channels"),
    (lambda: conv(np.ones((1, 3, 8)), np.ones((4, 3, 9))), ShapeError, "shrinks below 1"),
    (lambda: conv(np.ones((3, 8, 8, 8)), np.ones((4, 3, 3))), ShapeError, "needs 3 axes"),
    (lambda: conv(np.ones((1, 3, 8)), np.ones((4, 3, 3)), np.ones(3)), ShapeError, "bias is 3"),
    (lambda: conv(np.ones((1, 3, 8)), np.ones((4, 3, 3)), groups=2), ShapeError, "divide into 2 groups"),
    (lambda: conv(np.ones((1, 1, 8)) * 1j, np.ones((1, 1, 3))), UsageError, "real numbers"),
    (lambda: conv(np.ones((1, 1, 2, 2, 2, 2)), np.ones((1, 1, 1, 1, 1, 1))), UnsupportedError, "at most 3"),
    (lambda: convolve([1.0], [[1.0]]), ShapeError, "ranks 1 and 2"),
    (lambda: convolve([], [1.0]), ShapeError, "empty"),
    (lambda: convolve([1.0], [1.0], "middle"), UsageError, "not known"),
    (lambda: convolve([1.0], [1.0], precision="exact"), UsageError, "precision 'exact' is not known"),
    (lambda: convolve([1], [1], precision="exact"), UsageError, "precision 'exact' is not known"),
    (lambda: convolve([1.0], [1.0], dx=float("nan")), UsageError, "dx nan must be a finite number"),
    (lambda: convolve([1.0], [1.0], dx="ab"), UsageError, "dx 'ab' must be a finite number"),
    (lambda: convolve([1.0], [1.0], dx=None), UsageError, "dx None must be a finite number"),
    (lambda: convolve([[1.0]], [[1.0]], dx=np.array([1.0, 2, 3])), UsageError, "dx has 3 values for 2 axes"),
    (lambda: convolve([2**40], [2**40]), DataError, "may not be exact"),
    (lambda: convolve([1.0], [1.0], dx=10**400), UsageError, "must be a finite number"),
    (lambda: convolve([[1.0], [1.0, 2.0]], [[1.0]]), ShapeError, "arrays of numbers"),
])  # fmt: skip
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()

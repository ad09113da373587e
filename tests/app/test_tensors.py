"""`filter` on PyTorch tensors against `conv2d` of PyTorch: layouts, kernels per picture, gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

import dojang  # noqa: E402
from dojang.base.errors import ShapeError, UsageError  # noqa: E402

MODES = {"reflect": "reflect", "replicate": "replicate", "circular": "circular", "zero": "constant"}


def oracle(x, taps, border, stride=(1, 1), dilation=(1, 1)):
    """(n, c, h, w) by PyTorch's own padding and convolution; taps (kh, kw) or (n, kh, kw)."""
    n, c = x.shape[:2]
    each = taps if taps.ndim == 3 else taps.expand(n, *taps.shape)
    kh, kw = taps.shape[-2:]
    ey, ex = (kh - 1) * dilation[0], (kw - 1) * dilation[1]
    by, bx = kh // 2 * dilation[0], kw // 2 * dilation[1]
    if border != "valid":
        x = functional.pad(x, (bx, ex - bx, by, ey - by), MODES[border])
    weight = each.repeat_interleave(c, 0)[:, None]
    y = functional.conv2d(x.reshape(1, n * c, *x.shape[2:]), weight, stride=stride, dilation=dilation, groups=n * c)
    return y.reshape(n, c, *y.shape[2:])


@pytest.mark.parametrize("border", [*MODES, "valid"])
@pytest.mark.parametrize(("size", "stride", "dilation"), [((3, 3), (1, 1), (1, 1)), ((4, 5), (2, 3), (1, 2))])
@pytest.mark.parametrize("per_picture", [False, True])
def test_values_and_gradients(border, size, stride, dilation, per_picture):
    torch.manual_seed(0)
    x = torch.randn(3, 2, 14, 17, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(*((3,) if per_picture else ()), *size, dtype=torch.float64, requires_grad=True)
    y = dojang.filter(x, taps, border, stride, dilation)
    want = oracle(x, taps, border, stride, dilation)
    assert y.shape == want.shape
    torch.testing.assert_close(y, want)
    weights = torch.randn_like(want)
    mine = torch.autograd.grad((y * weights).sum(), (x, taps))
    theirs = torch.autograd.grad((want * weights).sum(), (x, taps))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_symmetric_border_by_differences():
    x = torch.randn(1, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: dojang.filter(t, "gaussian:sigma=1.5", "symmetric"), (x,))


def test_layouts():
    x = torch.rand(2, 3, 20, 24)
    first = dojang.filter(x, "gaussian:sigma=1")
    last = dojang.filter(x.permute(0, 2, 3, 1), "gaussian:sigma=1", layout="nhwc")
    assert first.is_contiguous()
    assert torch.equal(first, last.permute(0, 3, 1, 2))
    assert torch.equal(dojang.filter(x[0], "gaussian:sigma=1"), first[0])
    assert torch.equal(dojang.filter(x[0, 0], "gaussian:sigma=1"), first[0, 0])
    array = dojang.filter(x.permute(0, 2, 3, 1).contiguous().numpy(), "gaussian:sigma=1")
    assert np.array_equal(array, last.numpy())
    picture = (x * 255).to(torch.uint8)
    assert dojang.filter(picture, "blur").dtype == torch.uint8
    assert dojang.filter(picture, "sobel-x", dtype=torch.float32).min() < 0
    assert dojang.sep_filter(x, [1, 2, 1], [1.0]).shape == x.shape


def test_what_tensors_do_not_take():
    x = torch.rand(2, 3, 20, 24)
    with pytest.raises(ShapeError, match="one for each of 2 pictures"):
        dojang.filter(x, torch.ones(3, 3, 3))
    with pytest.raises(UsageError, match="layout"):
        dojang.filter(x, "blur", layout="chw")
    with pytest.raises(UsageError, match="convert with"):
        dojang.filter(x.half(), "blur")
    with pytest.raises(UsageError, match="has no gradient"):
        dojang.filter(x.requires_grad_(), "sobel")
    with pytest.raises(UsageError, match="without out="):
        dojang.filter(x.detach(), "blur", nan="ignore")
    with pytest.raises(UsageError, match="one kernel at a time"):
        dojang.filter(x.detach(), ["blur", "sharpen"])


@pytest.mark.filterwarnings("ignore:.*(beta state|prototype stage|deprecated):UserWarning")
@pytest.mark.parametrize(
    ("made", "says"),
    [
        (torch.Tensor.to_sparse, r"a tensor of torch.sparse_coo; give {}.to_dense\(\)"),
        (torch.Tensor.to_sparse_csr, r"a tensor of torch.sparse_csr; give {}.to_dense\(\)"),
        (torch.Tensor.to_mkldnn, r"a tensor of torch._mkldnn; give {}.to_dense\(\)"),
        (lambda x: x.to("meta"), r"{} is on meta; pictures are filtered by the processor"),
        (lambda x: torch.nested.nested_tensor([x, x]), "{} is a nested tensor"),
        (lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged), "{} is a nested tensor"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), r"convert with .to\(\)"),
        (torch.Tensor.bfloat16, r"convert with .to\(\)"),
    ],
)
def test_tensors_that_are_not_plain_numbers(made, says):
    x, taps = torch.rand(8, 9), torch.rand(3, 3)
    with pytest.raises(UsageError, match=says.format("image")):
        dojang.filter(made(x), "blur")
    with pytest.raises(UsageError, match=says.format("kernel")):
        dojang.filter(x, made(taps))


def test_an_imaginary_part_of_a_conjugate():
    """PyTorch only marks its numbers as negated; NumPy does not know the mark."""
    x, taps = (torch.rand(size, dtype=torch.complex128).conj().imag for size in ((6, 7), (3, 3)))
    assert x.is_neg()
    torch.testing.assert_close(dojang.filter(x, taps, "valid"), oracle(x[None, None], taps, "valid")[0, 0])


def test_a_kernel_with_gradients_on_an_array():
    with pytest.raises(ShapeError, match="kernel matrix: not an array of numbers.*detach"):
        dojang.filter(np.ones((4, 4)), torch.ones(3, 3, requires_grad=True))


@pytest.mark.parametrize("call", [dojang.conv, dojang.conv_transpose, dojang.convolve])
def test_convolutions_have_no_gradients_and_say_so(call):
    """A tensor with gradients, one of a type that NumPy lacks, and a sparse one."""
    plain = torch.ones(1, 1, 5)
    for bad in (plain.clone().requires_grad_(), plain.bfloat16(), plain.to_sparse()):
        for pair in ((bad, plain), (plain, bad)):
            with pytest.raises(ShapeError, match="convolutions take arrays of numbers"):
                call(*pair)

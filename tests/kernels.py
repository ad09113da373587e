"""What the kernel tests share: an oracle by its definition, a way to run one algorithm, memory against guard pages."""

import ctypes
import mmap
from itertools import product

import numpy as np

from dojang.engine.kernels import task as t
from dojang.native import jit

_libc = ctypes.CDLL(None, use_errno=True)


def oracle(conv, x, weight, bias):
    """Convolution tap by tap in float64; x (n, ic, *size), channels first."""
    x, weight = x.astype("f8"), weight.astype("f8")
    g = conv.groups
    if conv.transposed:
        full = [
            (i - 1) * s + d * (k - 1) + 1 + e
            for i, k, s, d, e in zip(
                conv.size, conv.kernel, conv.stride, conv.dilation, conv.output_padding, strict=True
            )
        ]
        room = [max(f, p0 + o) for f, (p0, _), o in zip(full, conv.padding, conv.out_size, strict=True)]
        out = np.zeros((len(x), conv.oc, *room))
        w = weight.reshape(g, conv.ic // g, conv.oc // g, *conv.kernel)
        xs = x.reshape(len(x), g, conv.ic // g, *conv.size)
        for tap in product(*(range(k) for k in conv.kernel)):
            part = np.einsum("ngi...,gio->ngo...", xs, w[(..., *tap)]).reshape(len(x), conv.oc, *conv.size)
            box = tuple(
                slice(k * d, k * d + (i - 1) * s + 1, s)
                for k, d, i, s in zip(tap, conv.dilation, conv.size, conv.stride, strict=True)
            )
            out[(..., *box)] += part
        cut = tuple(slice(p0, p0 + o) for (p0, _), o in zip(conv.padding, conv.out_size, strict=True))
        out = out[(..., *cut)]
    else:
        # Padded by NumPy only where a tap reads it, so that 0 · inf never enters.
        out = np.zeros((len(x), conv.oc, *conv.out_size))
        w = weight.reshape(g, conv.oc // g, conv.ic // g, *conv.kernel)
        for tap in product(*(range(k) for k in conv.kernel)):
            src, dst = [], []
            for k, d, s, (p, _), i, o in zip(
                tap, conv.dilation, conv.stride, conv.padding, conv.size, conv.out_size, strict=True
            ):
                inside = [q for q in range(o) if 0 <= q * s - p + k * d < i]
                if not inside:
                    break
                dst.append(slice(inside[0], inside[-1] + 1))
                first = inside[0] * s - p + k * d
                src.append(slice(first, first + (len(inside) - 1) * s + 1, s))
            else:
                xs = x[(..., *src)]
                xs = xs.reshape(len(x), g, conv.ic // g, *xs.shape[2:])
                part = np.einsum("ngi...,goi->ngo...", xs, w[(..., *tap)])
                out[(..., *dst)] += part.reshape(len(x), conv.oc, *part.shape[3:])
    return out if bias is None else out + bias.astype("f8").reshape(-1, *(1,) * conv.rank)


def guarded(array, at_end=True):
    """A copy of an array that ends (or begins) where memory ends; reading or writing beyond kills the process."""
    page = mmap.PAGESIZE
    size = -(-max(1, array.nbytes) // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (base, base + page + size):
        assert _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    start = page + (size - array.nbytes if at_end else 0)
    out = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    out[...] = array
    return out


def last(x):
    """Channels last, contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def gaps(x, ld, fill):
    """Channels-last data in rows of `ld` elements."""
    out = np.full((*x.shape[:-1], ld), fill, x.dtype)
    out[..., : x.shape[-1]] = x
    return out


_kernels = {}


def kernel(step, machine):
    """The function of a step. What is asked for again in this process is not compiled again.

    Steps are told apart as the engine does it, by their recipes: `test_recipes.py` holds that equal recipes are equal
    code.
    """
    key = step.kernel.key(machine)
    if key not in _kernels:
        _kernels[key] = jit.load(step.build("kernel"), machine, keep=False, thorough=False).function("kernel", 3)
    return _kernels[key]


def compiled(algorithm, task, machine):
    """The code of one algorithm and its kernels, for calls of `run` that differ in their numbers only."""
    code = algorithm.emit(task, machine)
    return code, [kernel(step, machine) for step in code.steps]


def run(algorithm, task, machine, x, weight, bias, residual=None, place=lambda a: a, fill=7.0, code=None):
    """The output (n, *out_size, y_ld) of one algorithm; what a kernel does not write keeps `fill`.

    `x` is (n, ic, *size) and the residual (n, oc, *out_size). `place` puts arrays into memory. `code` is what
    `compiled` made of the same algorithm, task and machine; it is made here where it is not given.
    """
    conv = task.conv
    code, kernels = code or compiled(algorithm, task, machine)
    dtype = task.element.dtype
    w, b = (place(a) for a in algorithm.pack(task, machine, weight, bias))
    rows = gaps(last(x.astype(dtype)), task.x_ld, np.nan)
    # The last pixel has no gap after it: kernels must not read one.
    flat = place(rows.reshape(-1)[: rows.size - (task.x_ld - conv.ic)] if rows.size else rows.reshape(-1))
    n = len(x)
    whole = n * int(np.prod(conv.out_size)) * task.y_ld
    y = place(np.full(max(0, whole - (task.y_ld - conv.oc)) if n else 0, fill, dtype))
    res = None
    if residual is not None:
        r = gaps(last(residual.astype(dtype)), task.residual_ld, np.nan)
        res = place(r.reshape(-1)[: r.size - (task.residual_ld - conv.oc)] if r.size else r.reshape(-1))
    scratch = place(np.full(code.scratch // 4, np.nan, "f4"))
    shared = [place(np.full(size // 4, np.nan, "f4")) for size in code.shared(n)]
    arrays = {t.X: flat, t.W: w, t.B: b, t.Y: y, t.S0: shared[0], t.S1: shared[1]}
    if res is not None:
        arrays[t.R] = res
    args = np.zeros(t.WORDS, np.int64)
    args[t.N] = n
    for word, array in arrays.items():
        args[word] = array.ctypes.data
    for step, function in zip(code.steps, kernels, strict=True):
        args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
        for unit in range(step.units(n)):
            function(args.ctypes.data, unit, scratch.ctypes.data)
    out = np.full(whole, fill, dtype)
    out[: y.size] = y
    return out.reshape(n, *conv.out_size, task.y_ld)

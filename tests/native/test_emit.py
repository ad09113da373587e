"""The IR builder against NumPy, on every instruction set that this machine can run, and cross-compiled."""

import numpy as np
import pytest

from dojang.native import jit
from dojang.native.emit import F32, F64, I16, I32, I64, PTR, U8, U16, Emit
from dojang.native.machine import Machine

HOST = Machine.host()
MACHINES = [HOST] + [HOST.restrict(isa) for isa in HOST.narrower()]


def ids(machine):
    return machine.isa


def address(a):
    return a.ctypes.data


@pytest.mark.parametrize("machine", MACHINES, ids=ids)
@pytest.mark.parametrize("kind", [F32, F64, U8, U16, I16, I32], ids=lambda k: k.name)
@pytest.mark.parametrize("n", [0, 1, 7, 64, 131])
def test_masked_copy_touches_nothing_else(machine, kind, n):
    b = Emit.begin("copy", {"x": PTR, "y": PTR, "n": I64}, machine)
    lanes = b.lanes(kind)

    def some(i, _):
        mask = b.mask(b.sub(b.arg.n, i), lanes)
        o = b.mul(i, kind.bytes)
        b.vstore(b.vload(b.at(b.arg.x, o), kind, mask=mask), b.at(b.arg.y, o), kind, mask=mask)

    b.loop(0, b.arg.n, lanes, some)
    f = jit.load(b.finish(), machine, keep=False).function("copy", 3)
    x = np.arange(n + 80).astype(kind.dtype)
    y = np.full(n + 80, 99, kind.dtype)
    f(address(x), address(y), n)
    assert (y[:n] == x[:n]).all()
    assert (y[n:] == 99).all()


@pytest.mark.parametrize("unroll", [1, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 10, 13])
@pytest.mark.parametrize("fixed", [True, False])
def test_loops_carry(unroll, n, fixed):
    b = Emit.begin("sum", {"n": I64, "out": PTR}, HOST)
    hi = n if fixed else b.arg.n
    (total,) = b.loop(0, hi, 1, lambda i, c: [b.add(c[0], b.mul(i, i))], [b.index(5)], unroll=unroll)
    b.vstore(b.index(total), b.arg.out, I64)
    out = np.zeros(1, np.int64)
    jit.load(b.finish(), HOST, keep=False).function("sum", 2)(n, address(out))
    assert out[0] == 5 + sum(i * i for i in range(n))


@pytest.mark.parametrize("machine", MACHINES, ids=ids)
def test_transpose_and_sum(machine):
    b = Emit.begin("t", {"x": PTR, "y": PTR, "s": PTR}, machine)
    n = b.lanes(F32)
    rows = [b.vload(b.at(b.arg.x, 4 * n * i), F32) for i in range(n)]
    for i, column in enumerate(b.transpose(rows)):
        b.vstore(column, b.at(b.arg.y, 4 * n * i), F32)
    b.vstore(b.sum(rows[1], F32), b.arg.s, F32)
    x = np.arange(n * n, dtype="f").reshape(n, n)
    y, s = np.zeros_like(x), np.zeros(1, "f")
    jit.load(b.finish(), machine, keep=False).function("t", 3)(address(x), address(y), address(s))
    assert (y == x.T).all()
    assert s[0] == x[1].sum()


@pytest.mark.parametrize("machine", MACHINES, ids=ids)
@pytest.mark.parametrize(
    ("source", "target"), [(F32, U8), (F32, U16), (F32, I16), (F32, I32), (I32, U8), (F64, U8)], ids=lambda k: k.name
)
def test_saturating_conversion(machine, source, target):
    values = [0, 0.5, 1.5, 2.5, -0.5, -1, 254.4, 255.5, 256, 300, -300, 40000, 70000, 3e9, -3e9]
    if source.floating:
        values += [np.nan, np.inf, -np.inf]
        x = np.array(values, source.dtype)
        low, high = float(target.low), float(target.high)
        expected = [low if np.isnan(v) else min(max(np.rint(v), low), high) for v in x.astype("f8")]
        if target == I32:  # the largest float32 below 2³¹
            expected = [min(v, 2147483520.0) for v in expected]
    else:
        x = np.array([v for v in values if abs(v) < 2**31], "f8").astype(source.dtype)
        expected = np.clip(x, target.low, target.high)
    b = Emit.begin("c", {"x": PTR, "y": PTR}, machine)
    b.loop(
        0,
        len(x),
        1,
        lambda i, _: b.vstore(
            b.convert(b.splat_load(b.at(b.arg.x, b.mul(i, source.bytes)), source, 4), source, target, saturate=True),
            b.at(b.arg.y, b.mul(i, target.bytes)),
            target,
            mask=b.mask(1, 4),
        ),
    )
    y = np.zeros(len(x), target.dtype)
    jit.load(b.finish(), machine, keep=False).function("c", 2)(address(x), address(y))
    assert y.tolist() == [int(v) for v in expected]


def test_nan_rules():
    b = Emit.begin("m", {"x": PTR, "y": PTR}, HOST)
    a, z = b.splat_load(b.arg.x, F32, 4), b.splat_load(b.at(b.arg.x, 4), F32, 4)
    for i, v in enumerate((b.maximum(a, z), b.maximum_nan(a, z), b.minimum(a, z))):
        b.vstore(v, b.at(b.arg.y, 16 * i), F32)
    f = jit.load(b.finish(), HOST, keep=False).function("m", 2)

    def run(*pair):
        x, y = np.array(pair, "f"), np.zeros(12, "f")
        f(address(x), address(y))
        return y[::4].tolist()

    assert run(1, 2) == [2, 2, 1]
    assert run(np.nan, 2)[::2] == [2, 2]
    assert np.isnan(run(np.nan, 2)[1])
    assert np.isnan(run(2, np.nan)).all()


def test_choose_joins_values():
    b = Emit.begin("sign", {"n": I64, "out": PTR}, HOST)
    (v,) = b.choose(b.less(b.arg.n, 0), lambda: [b.index(-1)], lambda: [b.index(1)])
    b.vstore(v, b.arg.out, I64)
    f = jit.load(b.finish(), HOST, keep=False).function("sign", 2)
    out = np.zeros(1, np.int64)
    for n, sign in ((-3, -1), (0, 1), (5, 1)):
        f(n, address(out))
        assert out[0] == sign


def test_other_processors_compile():
    for isa in ("neon", "avx512", "avx2", "generic"):
        machine = Machine.cross(isa)
        b = Emit.begin("axpy", {"x": PTR, "y": PTR}, machine)
        b.vstore(b.fma(b.vload(b.arg.x, F32), b.vload(b.arg.y, F32), b.const(F32, 1)), b.arg.y, F32)
        text = b.finish()
        assert len(jit.compile_object(text, machine)) > 100
        expected = {"neon": "fmla", "avx512": "zmm", "avx2": "vfmadd", "generic": "mulps"}[isa]
        assert expected in jit.assembly(text, machine)

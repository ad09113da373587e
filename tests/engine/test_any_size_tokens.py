"""Tokens of images whose size is open: products, softmax and norms by code for any size, and layers in rows."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import dojang
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import matmul, norm, reduce
from dojang.engine.kernels.other import softmax as softmax_kernel
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.other.norm import NormTask
from dojang.engine.kernels.other.reduce import ReduceTask
from dojang.engine.kernels.other.softmax import SoftmaxTask
from dojang.native import jit
from kernels import guarded, kernel
from machines import RUNNABLE, name_of

rng = np.random.default_rng(11)
torch = pytest.importorskip("torch")


def run(module, task, machine, images, at_end, size, **slots):
    """The result of `size` numbers, 7 where nothing was written; arrays lie against pages that must not be touched."""
    (step,) = module.emit_open(task, task, machine).steps
    y = guarded(np.full(size, 7, "f4"), at_end)
    arrays = {t.Y: y} | {getattr(t, k): guarded(np.ascontiguousarray(a, "f4"), at_end) for k, a in slots.items()}
    args = np.zeros(t.WORDS, np.int64)
    args[t.N] = images
    for slot, array in arrays.items():
        args[slot] = array.ctypes.data
    args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
    function = kernel(step, machine)
    for unit in reversed(range(step.units(images))):  # in whatever order threads take them
        function(args.ctypes.data, unit, 0)
    return y, step.recipe


def drawn(*limits):
    return [int(rng.integers(1, most + 1)) for most in limits]


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
def test_products_of_any_size(machine):
    recipes = set()
    for turn in range(24):
        images, batch, rows, depth, columns = drawn(2, 3, 70, 40, 90)
        shared = turn % 2 == 0
        gap = 3 * (turn % 3 == 0)
        a = rng.standard_normal((1 if shared else images * batch, rows, depth + gap))
        b = rng.standard_normal((images * batch, depth, columns + gap))
        bias = rng.standard_normal(rows)
        task = MatTask(batch, rows, depth, columns, depth + gap, columns + gap, columns + gap, shared)
        y, recipe = run(matmul, task, machine, images, turn % 4 < 2, images * batch * rows * (columns + gap), W=a, X=b,
                        B=bias)  # fmt: skip
        y = y.reshape(images * batch, rows, columns + gap)
        a, b = (v.astype("f4").astype("f8") for v in (a[..., :depth], b[..., :columns]))
        wanted = a @ b + (bias.astype("f4").astype("f8")[:, None] if shared else 0)
        assert np.abs(y[..., :columns] - wanted).max() <= 2**-23 * (depth + 1) * np.abs(a).max() * np.abs(b).max() * 4
        assert (y[..., columns:] == 7).all()
        recipes |= {recipe} if rows >= 8 else set()
    assert len(recipes) <= 8  # with and without a bias, up to four tiles


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("along", ["channels", "pixels"])
def test_softmax_of_any_size(machine, along):
    recipes = set()
    for turn in range(12):
        images, rows, pixels, channels = drawn(2, 3, 40, 50)
        rows, log, gap = rows if along == "pixels" else 1, turn % 2 == 0, 2 * (turn % 3 == 0)
        x = 9 * rng.standard_normal((images, rows, pixels, channels + gap)).astype("f4")
        task = SoftmaxTask(channels, pixels, channels + gap, channels + gap, log, rows if along == "pixels" else 0)
        y, recipe = run(softmax_kernel, task, machine, images, turn % 4 < 2, x.size, X=x)
        recipes.add(recipe)
        y, x = y.reshape(x.shape), x[..., :channels].astype("f8")
        wanted = (log_softmax if log else softmax)(x, axis=-1 if along == "channels" else -2)
        assert np.abs(y[..., :channels] - wanted).max() <= 1e-5 * (np.abs(wanted).max() if log else 1)
        assert (y[..., channels:] == 7).all()
    assert len(recipes) == 2


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("groups", [0, 3])
def test_norms_of_any_number_of_pixels(machine, groups):
    recipes = set()
    for turn in range(6):
        images, pixels = drawn(2, 60)
        x = (5 + rng.standard_normal((images, pixels + 1, 21))).astype("f4")
        weight, bias = rng.standard_normal((2, 21))
        task = NormTask(21, 1, pixels + 1, groups, 21, 21, 1e-5, "channel")
        y, recipe = run(norm, task, machine, images, turn % 2, x.size, X=x, W=weight, B=bias)
        recipes.add(recipe)
        first = torch.from_numpy(x).double().movedim(2, 1)
        wanted = torch.nn.functional.group_norm(first, groups or 21, *(torch.from_numpy(v) for v in (weight, bias)))
        np.testing.assert_allclose(y.reshape(x.shape), wanted.movedim(1, 2).numpy(), atol=2e-5)
    assert len(recipes) == 1


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("what", ["max", "min", "sum", "mean"])
def test_lines_of_any_length(machine, what):
    recipes = set()
    for turn, length in enumerate([1, 3, 15, 16, 17, 63, 64, 65, 200, 1000]):
        x = rng.standard_normal(length).astype("f4")
        task = ReduceTask(what, (1,), (0,), (1,), (length,), (1,))
        y, recipe = run(reduce, task, machine, 1, turn % 2, 3, X=x)
        recipes.add(recipe)
        np.testing.assert_allclose(y[0], getattr(x.astype("f8"), what)(), rtol=1e-5, atol=1e-5)
        assert (y[1:] == 7).all()
    assert len(recipes) == 1


class Encoder(torch.nn.Module):
    """Patches, a block of attention and one of dense layers over all tokens, a block of ConvNeXt, an image again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches = torch.nn.Conv2d(3, 36, 4, 4)
        self.before, self.between = torch.nn.LayerNorm(36), torch.nn.LayerNorm(36)
        self.qkv, self.out = torch.nn.Linear(36, 108), torch.nn.Linear(36, 36)
        self.wide, self.narrow = torch.nn.Linear(36, 72), torch.nn.Linear(72, 36)
        self.spread, self.last = torch.nn.Conv2d(36, 36, 3, padding=1, groups=36), torch.nn.Linear(36, 20)

    def forward(self, x):
        x = self.patches(x)
        n, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.before(x)).reshape(n, h * w, 3, 3, 12).permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.transpose(-2, -1) / 12**0.5).softmax(-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(n, h * w, c))
        x = x + self.narrow(torch.nn.functional.gelu(self.wide(self.between(x))))
        x = self.spread(x.transpose(1, 2).reshape(n, c, h, w))
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_a_network_of_tokens_answers_at_any_size_and_compiles_no_more(monkeypatch, tmp_path):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path))  # nothing that an earlier run compiled
    module = Encoder().eval()
    network = dojang.compile(module, input_size=(3, "4H", "4W"), threads=2)
    compiled = []
    at_once = jit._compile_at_once
    monkeypatch.setattr(jit, "_compile_at_once", lambda *a: compiled.append(1) or at_once(*a))
    monkeypatch.setattr(jit, "compile_object", lambda *a, kept=jit.compile_object, **k: compiled.append(1) or kept(*a))
    made = []
    for n, h, w in [(1, 96, 132), (2, 96, 132), (1, 160, 96), (2, 128, 144), (1, 100, 180), (1, 12, 8), (3, 8, 20)]:
        before = len(compiled)
        x = rng.standard_normal((n, 3, h, w)).astype("f4")
        wanted = module.double()(torch.from_numpy(x).double()).detach().numpy()
        assert np.abs(network(x) - wanted).max() < 3e-5 * np.abs(wanted).max()
        made.append(len(compiled) - before)
    assert sum(made[2:5]) <= 2  # rows of other lengths may take tiles of another width
    plan = network.engine.plan(size=(3, 160, 96))
    assert {c.algorithm for c in plan.choices if c.op == "dense"} <= {"pointwise", "direct"}

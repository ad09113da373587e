"""Attention as one step: against PyTorch in float64, in the forms in which networks write it, and where it is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from dojang import load  # noqa: E402
from dojang.engine.compiled import compile as compiled  # noqa: E402
from dojang.engine.kernels import task as t  # noqa: E402
from dojang.engine.kernels.other import attention as kernel  # noqa: E402
from dojang.engine.kernels.other.attention import AttentionTask  # noqa: E402
from dojang.native import jit  # noqa: E402
from dojang.native.machine import Machine  # noqa: E402
from kernels import guarded  # noqa: E402

HOST = Machine.host()


class Block(nn.Module):
    """Tokens by heads: queries, keys and values of one dense layer; what is done with them is a function."""

    def __init__(self, width: int, heads: int, function: Callable[..., Any], mask: Any = None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.function = heads, function
        self.register_buffer("mask", mask)

    def forward(self, x: Any) -> Any:
        many, tokens, width = x.shape
        parts = self.qkv(x).reshape(many, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = self.function(*parts.unbind(0), self.mask)
        return self.out(mixed.transpose(1, 2).reshape(many, tokens, width))


def written_out(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def divided(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = q @ k.transpose(-2, -1) / 3.0
    return (scores if mask is None else mask + scores).softmax(-1) @ v


def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def causal(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def fewer_keys(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Keys and values of every second token, as networks that reduce them have."""
    return F.scaled_dot_product_attention(q, k[:, :, ::2], v[:, :, ::2])


def checked(module: Any, tokens: int, width: int, step: bool) -> None:
    """The numbers of PyTorch in float64, for two batch sizes; one step `attention`, or none."""
    net = load(module.eval(), input_size=(tokens, width))
    run = compiled(net)
    for images in (1, 3):
        x = torch.randn(images, tokens, width, generator=torch.Generator().manual_seed(images))
        with torch.no_grad():
            wanted = module.double()(x.double()).numpy()
        module.float()
        got = run(x.numpy())
        assert np.abs(got - wanted).max() <= 3e-6 * np.abs(wanted).max()
    plan = run.plan(3)
    assert [c.algorithm for c in plan.choices].count(kernel.NAME) == step
    assert plan.in_python == ()


FORMS = (written_out, divided, function, causal, fewer_keys)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_forms(form: Any, seed: int) -> None:
    rng = np.random.default_rng(10 * seed + FORMS.index(form))
    torch.manual_seed(seed)
    heads, tokens = int(rng.integers(1, 5)), int(rng.integers(20, 150))
    width = heads * int(rng.integers(5, 70))
    masked = form in (written_out, divided, function) and rng.random() < 0.7
    mask = torch.randn(1, heads if rng.random() < 0.5 else 1, tokens, tokens) if masked else None
    checked(Block(width, heads, form, mask), tokens, width, True)


def test_a_mask_that_forbids() -> None:
    """Truth values: what may not be looked at has no share."""
    torch.manual_seed(0)
    mask = torch.rand(40, 40) > 0.5
    mask[:, 0] = True
    checked(Block(48, 3, function, mask), 40, 48, True)


def shown(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The shares are used twice."""
    shares = (q @ k.transpose(-2, -1)).softmax(-1)
    return shares @ v + shares.mean(-1, keepdim=True)


def scaled_after(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The mask is scaled too."""
    return ((q @ k.transpose(-2, -1) + mask) * 0.25).softmax(-1) @ v


def over_queries(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The softmax runs along the queries."""
    return (q @ k.transpose(-2, -1)).softmax(-2) @ v


@pytest.mark.parametrize("form", [shown, scaled_after, over_queries], ids=lambda f: f.__name__)
def test_what_is_no_attention_stays_as_it_is(form: Any) -> None:
    torch.manual_seed(0)
    checked(Block(48, 3, form, torch.randn(1, 1, 40, 40)), 40, 48, False)


def test_values_over_channels_last_pictures() -> None:
    """Attention over pixels, whose values lie channels last: queries, keys and values in other orders (SAGAN)."""

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Conv2d(24, 24, 1) for _ in range(3))

        def forward(self, x: Any) -> Any:
            q, k, v = (f(x).flatten(2) for f in (self.q, self.k, self.v))
            return ((q.transpose(1, 2) @ k).softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).reshape(x.shape)

    torch.manual_seed(0)
    module = Pixels().eval()
    run = compiled(load(module, input_size=(24, 9, 8)))
    x = torch.randn(2, 24, 9, 8)
    with torch.no_grad():
        wanted = module.double()(x.double()).numpy()
    assert np.abs(run(x.numpy()) - wanted).max() <= 3e-6 * np.abs(wanted).max()
    assert kernel.NAME in [c.algorithm for c in run.plan(2).choices]


@pytest.mark.parametrize("machine", [HOST, *(HOST.restrict(isa) for isa in HOST.narrower())], ids=lambda m: m.isa)
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(("queries", "keys", "depth", "width"), [(13, 70, 20, 37), (6, 64, 16, 64), (1, 1, 3, 2)])
def test_between_guard_pages(machine: Any, at_end: bool, queries: int, keys: int, depth: int, width: int) -> None:
    rng = np.random.default_rng(0)
    heads, scale = 2, 0.3
    q, k, v = (rng.standard_normal((heads, *s)).astype("f4") for s in ((queries, depth), (keys, depth), (keys, width)))
    mask = rng.standard_normal((queries, keys)).astype("f4")
    steps = lambda rows, columns: (rows * columns, columns, 1)  # noqa: E731
    task = AttentionTask(
        (heads,), queries, keys, depth, width, scale, steps(queries, depth), steps(keys, depth), steps(keys, width),
        steps(queries, width), (0, keys, 1),
    )  # fmt: skip
    code = kernel.emit(task, machine)
    y = np.zeros(heads * queries * width, "f4")
    arrays = {t.X: q, kernel.K: k, kernel.V: v, kernel.MASK: mask, t.Y: y}
    held = {word: guarded(a.reshape(-1), at_end) for word, a in arrays.items()}
    scratch = guarded(np.zeros(code.scratch // 4, "f4"), at_end)
    args = np.zeros(t.WORDS, np.int64)
    for word, array in held.items():
        args[word] = array.ctypes.data
    for step in code.steps:
        native = jit.load_recipe(step.kernel, machine).function("kernel", 3)
        for unit in range(step.units(1)):
            native(args.ctypes.data, unit, scratch.ctypes.data)
    scores = np.einsum("hqd,hkd->hqk", q.astype("f8"), k) * scale + mask
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = shares / shares.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(held[t.Y].reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)

"""Parameters of PyTorch modules: stored, used, trainable, by PyTorch's own numbers; ties, views, buffers, idle ones."""

from __future__ import annotations

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dojang.arith.cost import count

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - after the skip
from torch.nn import functional as F  # noqa: E402

from dojang.formats.torch import from_module  # noqa: E402


def distinct(tensors) -> int:
    """Numbers in tensors, memory that two have in common once: places counted one by one."""
    places = set()
    for t in tensors:
        flat = torch.arange(t.untyped_storage().nbytes() // t.element_size())
        view = flat.as_strided(t.shape, t.stride(), t.storage_offset())
        places |= {(t.untyped_storage().data_ptr(), int(i)) for i in view.reshape(-1)}
    return len(places)


def figures(module, *sizes):
    module.eval()
    result = count(from_module(module, list(sizes)))
    own = list(module.parameters())
    assert result.parameters.stored == distinct(own)
    assert result.parameters.trainable == distinct([p for p in own if p.requires_grad])
    assert result.parameters.used == result.total.params == sum(layer.cost.params for layer in result.layers)
    assert result.parameters.used <= result.parameters.stored
    return result


def used_by_gradient(module, *sizes) -> int:
    """Numbers in parameters that an output depends on, as autograd finds them."""
    own = list(module.parameters())
    if not own:
        return 0
    for p in own:
        p.requires_grad_()
    y = module(*[torch.randn(2, *s) for s in sizes])
    if not y.requires_grad:  # none is used, which autograd calls an error
        return 0
    grads = torch.autograd.grad(y.sum(), own, allow_unused=True)
    return distinct([p for p, g in zip(own, grads, strict=True) if g is not None])


class Module(nn.Module):
    """A module with one array w, and what a test puts into it."""

    def __init__(self, rows=6, columns=6) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(rows, columns))


class TiedByTranspose(Module):
    def forward(self, x):
        return F.linear(F.linear(x, self.w), self.w.t())


class TiedByMatmul(Module):
    def forward(self, x):
        return x @ self.w.T.contiguous() @ self.w * 2


class Chunks(Module):
    def forward(self, x):
        a, b = self.w.chunk(2)
        return torch.cat([F.linear(x, a), F.linear(x, b)], -1) + self.w[0]


class Reshaped(Module):
    def forward(self, x):
        y = F.conv1d(x.unsqueeze(1), self.w.view(6, 1, 6), padding=3)[..., :6]
        return F.linear(y.mean(1), self.w.reshape(6, 6).float().clone())


class SharedMemory(Module):
    """Two parameters over one memory, as `b.weight.data = a.weight.data` makes them."""

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(self.w.data)
        self.part = nn.Parameter(self.w.data[:2])

    def forward(self, x):
        return F.linear(F.linear(x, self.w), self.v) + F.linear(x, self.part).sum(-1, keepdim=True)


class Embedded(nn.Module):
    """An embedding whose table is the last layer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.last = nn.Linear(6, 11, bias=False)
        self.last.weight = self.table.weight

    def forward(self, x):
        return self.last(torch.softmax(self.last(x), -1) @ self.table.weight)


class Frozen(Module):
    def __init__(self):
        super().__init__()
        self.w.requires_grad = False
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return self.fc(F.linear(x, self.w))


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.many = nn.ParameterList([nn.Parameter(torch.randn(6, 6)) for _ in range(3)])
        self.gains = nn.ParameterDict({"a": nn.Parameter(torch.randn(6)), "idle": nn.Parameter(torch.randn(5))})

    def forward(self, x):
        for w in self.many:
            x = F.linear(x, w)
        return x * self.gains["a"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.again = nn.Sequential(self.fc, nn.ReLU(), self.fc)

    def forward(self, x):
        return self.again(self.fc(x))


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(4)
        self(torch.zeros(1, 6))

    def forward(self, x):
        return self.fc(x)


class LowRank(Module):
    """A matrix with a low-rank addition, as adapters keep them: one dense layer when folded."""

    def __init__(self):
        super().__init__()
        self.w.requires_grad = False
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))

    def forward(self, x):
        return F.linear(x, self.w + self.b @ self.a)


TIES = [TiedByTranspose, TiedByMatmul, Chunks, Reshaped, SharedMemory, Embedded, Frozen, Many, Twice, Lazy, LowRank]


@pytest.mark.parametrize("make", TIES, ids=lambda c: c.__name__)
def test_each_stored_array_counts_once(make) -> None:
    result = figures(make(), (6,))
    assert result.status == "exact"
    assert result.parameters.used == used_by_gradient(make(), (6,))


def test_tied_by_a_transpose_as_printed() -> None:
    module = Module(32, 64)
    module.forward = lambda x: F.linear(F.linear(x, module.w), module.w.t())
    result = figures(module, (64,))
    assert result.total.params == 2048
    assert [layer.shared for layer in result.layers if layer.op == "dense"] == [(), ("w",)]
    rows = result.to_dict()["layers"]
    assert [row.get("shared") for row in rows if row["op"] == "dense"] == [None, ["w"]]


def test_folded_counts_what_is_computed_from_parameters_by_its_result() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    result = figures(nn.Sequential(normed), (3, 8, 8))
    assert (result.parameters.used, result.parameters.folded) == (8 * 27 + 8 + 8, 8 * 27 + 8)
    assert figures(LowRank(), (6,)).parameters.folded == 36


def test_a_buffer_as_a_kernel_is_stored_and_not_trained() -> None:
    class Blurred(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.register_buffer("kernel", torch.randn(8, 1, 3, 3))

        def forward(self, x):
            return F.conv2d(self.norm(self.conv(x)), self.kernel, groups=8)

    result = figures(Blurred(), (3, 9, 9))
    assert (result.total.params, result.parameters.buffers) == (216 + 16, 72 + 16)


def test_parameters_that_no_path_uses_are_said() -> None:
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.aux = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

        def forward(self, x):
            y = self.body(x).mean((2, 3))
            return (self.head(y), self.aux(y)) if self.training else self.head(y)

    result = figures(Auxiliary(), (3, 8, 8))
    assert (result.parameters.stored, result.parameters.used) == (112 + 25 + 25, 112 + 25)
    assert result.parameters.unused == ("aux.weight", "aux.bias")
    totals = result.to_dict()["totals"]
    assert (totals["stored"], totals["used"], totals["params"]) == (162, 137, 137)
    assert totals["unused"] == ["aux.weight", "aux.bias"]


@pytest.mark.parametrize("layer", [nn.LSTM])
def test_layers_behind_an_operator_that_is_not_known_count_in_full(layer) -> None:
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rnn, self.last = (
                nn.Linear(8, 8),
                layer(8, 16, 2, batch_first=True, proj_size=9),
                nn.Linear(9, 3),
            )

        def forward(self, x):
            return self.last(self.rnn(self.first(x))[0])

    module = Recurrent()
    result = figures(module, (5, 8))
    assert result.parameters.used == sum(p.numel() for p in module.parameters())
    assert result.total.status == "lower-bound"


def test_a_table_resized_to_the_input_counts_as_stored() -> None:
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.where = nn.Conv2d(3, 4, 1), nn.Parameter(torch.randn(1, 4, 8, 8))

        def forward(self, x):
            grid = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[-2:])
            return self.conv(x) + F.interpolate(self.where, size=x.shape[-2:], mode="bilinear") + grid

    for size in (8, 16, 24):
        assert figures(Positions(), (3, size, size)).total.params == 16 + 256


STEPS = ["dense", "tied", "half", "norm", "buffer", "idle", "frozen", "shared", "twice", "scaled", "computed"]


class Random(nn.Module):
    """Steps over six features, each with arrays of its own or of an earlier one."""

    def __init__(self, steps) -> None:
        super().__init__()
        self.steps, self.made = steps, nn.ParameterList()
        self.normed, self.layers = nn.ModuleList(), nn.ModuleList()
        self.plan = []
        for step, pick in steps:
            if step in ("tied", "half", "twice", "computed") and len(self.made):
                self.plan.append((step, pick % len(self.made)))
                continue
            if step == "norm":
                self.normed.append(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)))
                self.plan.append((step, len(self.normed) - 1))
                continue
            if step == "buffer":
                self.register_buffer(f"fixed{len(self.plan)}", torch.randn(6, 6))
                self.plan.append((step, len(self.plan)))
                continue
            new = self.made[pick % len(self.made)].data if step == "shared" and len(self.made) else torch.randn(6, 6)
            self.made.append(nn.Parameter(new, requires_grad=step != "frozen"))
            self.plan.append((step, len(self.made) - 1))

    def forward(self, x):
        for step, which in self.plan:
            if step == "idle":
                continue
            if step == "norm":
                x = self.normed[which](x)
                continue
            if step == "buffer":
                x = F.linear(x, getattr(self, f"fixed{which}"))
                continue
            w = self.made[which]
            if step == "tied":
                w = w.t()
            elif step == "half":
                w = torch.cat([w[:3], w[3:]]) if which % 2 else w.view(2, 3, 6).reshape(6, 6)
            elif step == "computed":
                w = w - w.mean(1, keepdim=True)
            x = x * w[0] if step == "scaled" else F.linear(x, w)
        return x


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), min_size=1, max_size=8))
def test_random_modules_store_and_use_what_pytorch_says(steps) -> None:
    note(f"steps = {steps}")
    if all(step == "idle" for step, _ in steps):
        steps = [*steps, ("dense", 0)]
    module = Random(steps)
    result = figures(module, (6,))
    assert result.parameters.used == used_by_gradient(module, (6,))

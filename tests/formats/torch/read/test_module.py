"""Reading PyTorch modules: names, what is unknown, what is refused; weight files; code named on the command line."""

from __future__ import annotations

import os
import pickle
import threading
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from dojang.arith.cost import count  # noqa: E402
from dojang.base.errors import FileError, ShapeError, UnsupportedError, UsageError  # noqa: E402
from dojang.engine.reference.operators import run_reference  # noqa: E402
from dojang.formats.torch import from_module, load_callable, load_state, paths_of, to_module  # noqa: E402
from dojang.formats.torch.read.layers import full_equation  # noqa: E402
from forwards import Forward  # noqa: E402


def same_numbers(module, *sizes):
    """The Graph of a module, after holding its numbers against the module's."""
    graph = from_module(module, sizes)
    inputs = [torch.randn(2, *s) for s in sizes]
    with torch.no_grad():
        wanted, got = module.eval()(*inputs), to_module(graph).eval()(*inputs)
    wanted = wanted if isinstance(wanted, list | tuple) else [wanted]
    for w, g in zip(wanted, got if isinstance(got, tuple) else [got], strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
    return graph


EXPRESSIONS = {
    "arithmetic": lambda m, x: 2 ** (1 - x) / (x.abs() + 1) - 3 // (x * x + 1),
    "reversed": lambda m, x: torch.rsub(x, 2) + 1 / (2 + x**2),
    "alpha": lambda m, x: torch.add(x, x, alpha=3) - torch.sub(x, 1, alpha=2),
    "in place": lambda m, x: x.clone().mul_(2).add_(1).clamp_(-1, 1).sigmoid_(),
    "slices": lambda m, x: x[..., 1:-1:2, None, -3:] + x[:, :1, 1, None, 1:4].unsqueeze(1),
    "picked": lambda m, x: x[:, [2, 0]].index_select(2, torch.tensor([0, 3])),
    "strided": lambda m, x: torch.stack([x[:, 0], x[:, 1]], -1).movedim(-1, 1).narrow(2, 1, 3),
    "split": lambda m, x: torch.cat(torch.split(x, [1, 2], dim=1)[::-1], 1) + torch.cat(x.split(2, 1), 1),
    "swap": lambda m, x: x.transpose(1, -1).mT.swapaxes(1, 2).unflatten(2, (3, -1)),
    "squeeze": lambda m, x: x.mean(1, keepdim=True).squeeze().unsqueeze(-1).squeeze(1),
    "reduce": lambda m, x: (
        x.sum(dim=-1) + x.amax(3) - x.max(dim=3).values * x.min(dim=3)[0]
        + x.var(3, unbiased=False)
    ),
    "compare": lambda m, x: torch.maximum(x, -x) + torch.min(x, x * 2) + x.max(dim=1, keepdim=True)[0],
    "expand": lambda m, x: (
        x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 5)
        + torch.ones(1).expand(x.size(0), 3, 4, 5)
    ),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, dim=1) + torch.tile(x[:, :1], (1, 6, 1, 1)),
    "upsample": lambda m, x: F.interpolate(x, scale_factor=(1.5, 2), mode="bilinear", align_corners=True),
    "area": lambda m, x: F.interpolate(x, (2, 2), mode="area"),
    "nested views": lambda m, x: x.reshape(-1, 4).view(len(x), 3, -1).flatten(1).view(x.shape).view_as(x),
    "batch moved": lambda m, x: x.flatten(2).permute(2, 0, 1).reshape(-1, 3).reshape(x.shape[2] * x.shape[3], -1, 3),
    "matmul": lambda m, x: (
        x @ x.transpose(2, 3) + torch.einsum("...ij,...kj", x, x)
        + (x @ torch.ones(x.size(3)))[..., None]
    ),
    "norms": lambda m, x: (
        F.normalize(x, dim=1) + F.layer_norm(x, x.shape[1:])
        + F.rms_norm(x, (x.size(-1),)) + x.norm(dim=1, keepdim=True)
    ),
    "acts": lambda m, x: (
        F.hardswish(F.elu(x)) + F.rrelu(x, 0.1, 0.3) + F.prelu(x, torch.tensor([0.1]))
        + F.softmax(x, 1).log()
    ),
    "pads": lambda m, x: F.pad(F.pad(x, (1, 1, 2, 0), mode="circular"), (-1, 0, 2, -1), value=3.0),
    "unfolded channels": lambda m, x: F.channel_shuffle(F.pixel_unshuffle(x[..., :4, :4], 2), 3),
    "lists": lambda m, x: sum([x, x * 2, x.tanh()]) / max(1, len([x])),
    "dtype": lambda m, x: (
        x.float().to(x.dtype).contiguous().type_as(x).to(memory_format=torch.channels_last)
        * x.new_ones(1)
    ),
    "masks": lambda m, x: (x @ x.mT).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")).softmax(-1),
    "where": lambda m, x: torch.where(torch.eye(4).bool()[1], x, 0.5) + x.masked_fill(torch.eye(4)[0] == 1, 2.0),
    "more": lambda m, x: (
        x.logsumexp((2, 3)) + x.tensor_split(2, 1)[1].mean((2, 3)) + x.logsumexp(2, keepdim=True)[..., 0, 1]
    ),
    "splits": lambda m, x: (
        x.tensor_split((1, -1), dim=2)[1].sum((2, 3)) + torch.tensor_split(x, indices=(2,), dim=1)[1].sum((2, 3))
        + x.hsplit(3)[2].mean((2, 3)) + x.dsplit([3])[0].amax((2, 3)) + x.tensor_split(3, 2)[0].sum((2, 3))
    ),
    "nothing before": lambda m, x: torch.cat([x[:, :, :0, 1:], x[:, :, 0:, 1:]], 2) + x[..., 5:, :1].sum(),
    "divisor": lambda m, x: F.avg_pool2d(x, 2, padding=1, divisor_override=3),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_compute_the_same(name):
    graph = same_numbers(Forward(EXPRESSIONS[name]), (3, 6 if name == "swap" else 5, 4 if name != "swap" else 6))
    assert {n.op for n in graph.nodes} - {"unknown"} == {n.op for n in graph.nodes}


def test_unknown_functions_are_named_and_make_a_lower_bound():
    module = Forward(lambda m, x: m.c(torch.matrix_exp(m.b(x))), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 2, 1))
    graph = from_module(module, (3, 4, 4))
    assert [(n.name, n.attrs["kind"]) for n in graph.nodes if n.op == "unknown"] == [("matrix_exp", "matrix_exp")]
    total = count(graph).total
    assert total.status == "lower-bound"
    assert total.unknown == ("matrix_exp (matrix_exp)",)
    assert total.macs == 16 * 12 + 16 * 8
    assert total.params == sum(p.numel() for p in module.parameters())
    for batch in (1, 2):  # what follows is counted: PyTorch tells the shape
        shapes = graph.shapes(batch)
        assert shapes[graph.outputs[0]] == tuple(module(torch.zeros(batch, 3, 4, 4)).shape)


FREE = {
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "sort": lambda x: x.sort(dim=1).values,
    "topk": lambda x: x.topk(4, dim=1).values,
    "where": lambda x: torch.where(x > 0, x, x * 2),
    "cumsum": lambda x: x.cumsum(1),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "long": lambda x: x.long().float(),
    "batch norm by its own statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "windows": lambda x: x.view(-1, 4, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 2, 2).cumsum(0)
    .view(-1, 2, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 4, 4),
    "without the batch": lambda x: x + x.mean(0).cumsum(0),
    "the batch behind": lambda x: x.permute(1, 0, 2, 3).cumsum(0).permute(1, 0, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_what_has_no_products_leaves_the_count_exact(name):
    module = Forward(lambda m, x: m.c(FREE[name](m.b(x))), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 2, 1))
    graph = from_module(module, (3, 4, 4))
    total = count(graph).total
    assert (total.status, total.macs) == ("exact", 16 * 12 + 16 * 8)
    for batch in (1, 2):
        assert graph.shapes(batch)[graph.outputs[0]] == (batch, 2, 4, 4)
    if any(n.op == "unknown" for n in graph.nodes):
        with pytest.raises(UnsupportedError, match="cannot be run"):
            run_reference(graph, np.zeros((1, 3, 4, 4), "f4"))


class Choosing(nn.Module):
    """A layer whose values only choose which of two others is used."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.gate, self.small, self.large = form, nn.Linear(4, 5), nn.Linear(4, 2), nn.Linear(4, 20)

    def forward(self, x):
        if self.form == "cond":
            return torch.cond(self.gate(x).sum() > 0, self.small, lambda x: self.large(x)[:, :2], (x,))
        score = self.gate(x).relu()
        chosen = {"if": lambda: score.mean() > 0, "item": lambda: score.max().item() > 0,
                  "any": lambda: torch.any(score > 0)}[self.form]()  # fmt: skip
        return self.small(x) if chosen else self.large(x)[:, :2]


@pytest.mark.parametrize("form", ["if", "item", "any", "cond"])
def test_what_a_decision_costs_is_counted(form):
    counts = sorted((count(g).total for g in paths_of(Choosing(form), (4,))), key=lambda total: total.macs)
    assert [(c.macs, c.params, c.unknown) for c in counts] == [(20 + 8, 25 + 10, ()), (20 + 80, 25 + 100, ())]


def test_recurrent_layers_with_projections_are_unknown_and_their_parameters_counted():
    module = Forward(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(6, 5, batch_first=True, proj_size=3))
    graph = from_module(module, (7, 6))
    assert graph[graph.outputs[0]].attrs["kind"] == "lstm"
    total = count(graph).total
    assert total.status == "lower-bound"
    assert total.params == sum(p.numel() for p in module.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_unknown_with_its_parameters_counted():
    module = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())), nn.Conv2d(4, 2, 1))
    graph = from_module(module, (3, 4, 4))
    assert [n.attrs["kind"] for n in graph.nodes if n.op == "unknown"] == ["TorchScript Sequential"]
    assert count(graph).total.status == "lower-bound"
    assert count(graph).total.params >= 16


def test_lazy_layers_and_loops_over_the_batch_are_refused():
    with pytest.raises(UsageError, match=r"^weight: a lazy layer"):
        from_module(nn.LazyConv2d(3, 3), (3, 8, 8))
    with pytest.raises(UnsupportedError, match="loops over the batch"):
        from_module(Forward(lambda m, x: torch.stack([row * 2 for row in x])), (3,))


def test_custom_functions_are_followed_or_named():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    module = Forward(lambda m, x: Double.apply(m.c(x)), c=nn.Conv2d(3, 4, 1))
    same_numbers(module, (3, 4, 4))


PATCHES = {
    "columns": lambda m, x: F.unfold(x, 3, padding=1),
    "columns, steps": lambda m, x: F.unfold(x, (2, 3), dilation=(2, 1), padding=(0, 2), stride=(1, 2)),
    "windows": lambda m, x: x.unfold(2, 4, 2).unfold(-2, 3, 1),
    "windows by name": lambda m, x: x.unfold(dimension=3, size=2, step=2).sum(-1),
    "patches back": lambda m, x: F.fold(F.unfold(x, 2, stride=2) * 2, x.shape[2:], 2, stride=2),
    "overlapping back": lambda m, x: F.fold(F.unfold(x, 3, padding=1), (8, 10), 3, padding=1),
    "overlapping, dilated": lambda m, x: F.fold(F.unfold(x, (3, 2), dilation=2), (8, 10), (3, 2), dilation=2),
    "as a convolution": lambda m, x: (m.w @ F.unfold(x, 3, padding=1)).unflatten(2, (8, 10)),
}


@pytest.mark.parametrize("what", PATCHES)
def test_patches(what):
    module = Forward(PATCHES[what])
    module.w = nn.Parameter(torch.randn(5, 27))
    graph = same_numbers(module, (3, 8, 10))
    total = count(graph).total
    assert (total.status, total.macs) == ("exact", 5 * 27 * 80 if what == "as a convolution" else 0)


def test_patches_that_are_not_known_are_named():
    module = Forward(lambda m, x: F.fold(F.unfold(x, 3, stride=2), (9, 9), 3, stride=2))
    assert [n.attrs["kind"] for n in from_module(module, (2, 9, 9)).nodes if n.op == "unknown"] == ["fold"]


def test_branches_on_values_name_the_place_and_can_be_tried_both_ways():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4))

        def forward(self, x):
            return self.large(x) if x.mean() > 0 else self.small(x)

    module = nn.Sequential(OrderedDict(stem=nn.Linear(4, 4), gate=Gate(), gate2=Gate()))
    with pytest.raises(UnsupportedError, match=r"^gate: the forward depends on the values of a tensor \(an `if`"):
        from_module(module, (4,))
    macs = sorted(count(g).total.macs for g in paths_of(module, (4,)))
    assert macs == [16 + 32, 16 + 16 + 128, 16 + 16 + 128, 16 + 256]
    some = [count(g).total for g in paths_of(module, (4,), limit=2)]
    why = "what follows an `if` on its values, after 1 ways"
    assert [(t.macs, t.unknown) for t in some] == [
        (160, ()),
        (16, (f"gate.rest ({why})",)),
        (32, (f"gate2.rest ({why})",)),
    ]
    for forward in (
        lambda m, x: x * x.sum().item(),
        lambda m, x: x.sum().item() * x,
        lambda m, x: x[:, : int(x.sum().item())],
        lambda m, x: torch.full((2,), x.sum().item()) + x,
        lambda m, x: x + 2 * x.sum().item(),
        lambda m, x: x.reshape(-1, x.argmax().item()),
        lambda m, x: x * float(x.sum()),
    ):
        [begun] = paths_of(Forward(forward), (3,))
        assert [node.op for node in begun.nodes][-1:] == ["unknown"]
        with pytest.raises(UnsupportedError, match=r"values of a tensor \((item|float)\(\)\)"):
            from_module(Forward(forward), (3,))


@pytest.mark.parametrize("until", [False, True])
def test_a_while_on_values_is_followed_for_some_turns(until):
    """Each run of the real module, of whatever number of turns, has a way that costs what PyTorch counts for it."""
    from torch.utils.flop_counter import FlopCounterMode

    class Shrink(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.body, self.after = nn.Conv2d(2, 1, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 5, 1)

        def forward(self, x):
            if until:
                while not self.gate(x).mean() < 1:
                    x = self.body(x)
            else:
                while self.gate(x).mean() >= 1:
                    x = self.body(x)
            return self.after(x)

    module = Shrink()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module.gate.weight[:, 0] = 1
        module.body.weight[0, 0, 1, 1] = 0.5
    ways = [count(g).total for g in paths_of(module, (2, 4, 4), limit=9)]
    known = {t.macs for t in ways if not t.unknown}
    turns_of = lambda t: 2 * (t + 1) + 36 * t  # noqa: E731 - of the gate and the body, per pixel
    assert known == {16 * (turns_of(t) + 10) for t in (*range(7), 8 if until else 7)}  # each number of turns once
    for start, turns in ((0.5, 0), (1, 1), (6, 3), (63, 6)):
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            module(torch.full((1, 2, 4, 4), float(start)))
        assert flops.get_total_flops() // 2 == 16 * (turns_of(turns) + 10)
        assert flops.get_total_flops() // 2 in known
    rest = [t for t in ways if t.unknown]
    assert {t.unknown for t in rest} == {(f"rest (what follows an `if` on its values, after {len(known)} ways)",)}
    assert rest[-1].macs == 16 * turns_of(8)  # all turns that were followed, without what comes after


def test_many_ifs_are_followed_to_the_end_on_as_many_ways_as_are_allowed():
    class Gates(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(7))

        def forward(self, x):
            for layer in self.layers:
                if x.sum() > 0:
                    x = layer(x)
            return x

    counts = [count(g).total for g in paths_of(Gates(), (4,))]
    followed = [c for c in counts if not c.unknown]
    assert len(followed) in (63, 64)
    assert {c.macs for c in followed} >= {16, 32, 48, 64}
    assert all(f"after {len(followed)} ways" in c.unknown[0] for c in counts if c.unknown)


def test_both_ways_of_torch_cond():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 32)

        def forward(self, x):
            wide = torch.cond(x.sum() > 0, lambda x: self.large(x).mean(1), lambda x: self.small(x).mean(1), (x,))
            return torch.cond(x.shape[1] > 3, lambda x: x + 1, lambda x: self.large(x), (wide,))

    original = torch.cond
    assert sorted(count(g).total.macs for g in paths_of(Gate(), (4,))) == [16, 128]
    assert torch.cond is original


def test_both_ways_of_comparisons_with_item():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 32)

        def forward(self, x):
            if x.max().item() > 0.5 or torch.equal(x, -x):
                return self.large(x)
            return self.small(x)

    assert sorted({count(g).total.macs for g in paths_of(Gate(), (4,))}) == [16, 128]


def test_wrong_sizes_are_errors_that_name_the_layer():
    module = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(5, 4, 3)))
    with pytest.raises(ShapeError, match="b: its weights take 5 channels, the input has 4"):
        from_module(module, (3, 8, 8))
    with pytest.raises(ShapeError, match="fc: its weights take 10 features, the input has 12"):
        from_module(nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(10, 2))), (3, 2, 2))
    with pytest.raises(ShapeError, match=r"^a: "):
        from_module(module, (3, 2, 2))
    with pytest.raises(ShapeError, match=r"^add: shapes nx3x4x4 and nx3x2x4 do not fit"):
        from_module(Forward(lambda m, x: x + x[:, :, :2]), (3, 4, 4))
    with pytest.raises(UsageError, match="one per argument"):
        from_module(nn.Bilinear(2, 3, 4), (2,))
    with pytest.raises(UsageError, match="whole numbers"):
        from_module(module, (3, 0, 8))
    with pytest.raises(UsageError, match=r"got type"):
        from_module(nn.ReLU, (3, 4, 4))


def test_errors_in_the_forward_are_one_line_with_the_place():
    def fail(m, x):
        raise ValueError("no luck\nat all")

    module = nn.Sequential(OrderedDict(a=nn.ReLU(), b=Forward(fail)))
    with pytest.raises(UnsupportedError, match=r"^b: ValueError: no luck;") as caught:
        from_module(module, (3,))
    assert "\n" not in str(caught.value)
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
    assert from_module(nn.ReLU(), (3,)).outputs


def test_views_changed_in_place_fall_back_to_export():
    def forward(m, x):
        y = x * 1.5
        z = y[:, 0]
        y.add_(1)
        return z + y[:, 1]

    graph = same_numbers(Forward(forward), (3, 4))
    assert all(n.op != "unknown" for n in graph.nodes)


def test_functional_names_and_collisions():
    module = Forward(lambda m, x: F.relu(m.relu(F.relu(m.relu(x)))), relu=nn.ReLU(), relu_1=nn.ReLU())
    assert [n.name for n in from_module(module, (3,)).nodes] == ["x", "relu", "relu_2", "relu_3", "relu_4"]


def test_unused_parameters_are_said():
    module = Forward(lambda m, x: m.a(x), a=nn.Linear(3, 2), aux=nn.Linear(3, 9))
    graph = from_module(module, (3,))
    assert graph.meta["unused"] == "aux.weight, aux.bias"
    assert count(graph).total.params == 8


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_are_read_as_what_they_wrap():
    assert "weight" in from_module(torch.compile(nn.Linear(3, 4)), (3,)).weights


def test_hooks_and_threads():
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    inner[0].register_forward_hook(lambda m, args, out: out * 2)
    graph = same_numbers(inner, (3, 5, 5))
    assert [n.op for n in graph.nodes] == ["input", "conv", "constant", "mul", "relu"]
    found: list[object] = []

    def work():
        try:
            found.append([n.name for n in from_module(inner, (3, 5, 5), weights=False).nodes])
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[n.name for n in graph.nodes]] * 4


def test_models_too_big_for_memory_on_the_meta_device():
    with torch.device("meta"):
        wide = nn.Sequential(nn.Linear(200_000, 200_000), nn.ReLU(), nn.Linear(200_000, 200_000))
    total = count(from_module(wide, (200_000,))).total
    assert total.macs == 2 * 200_000**2
    assert total.params == 2 * (200_000**2 + 200_000)


@pytest.mark.parametrize(
    ("equation", "ranks", "full"),
    [
        ("ij,jk", [2, 2], "ij,jk->ik"),
        ("...ij,...kj->...ik", [4, 4], "abij,abkj->abik"),
        ("...ij,jk", [3, 2], "aij,jk->aik"),
        ("...i,...ij", [1, 3], "i,aij->aj"),
        (" b h , h ->b", [2, 1], "bh,h->b"),
    ],
)
def test_einsum_in_full(equation, ranks, full):
    assert full_equation(equation, ranks) == full


def state():
    return {"conv.weight": torch.arange(4.0).reshape(2, 2), "bn.num_batches_tracked": torch.tensor(3)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "args": {"lr": 0.1}},
        lambda s: OrderedDict((f"_orig_mod.{k}", v.half() if v.is_floating_point() else v) for k, v in s.items()),
    ],
)
def test_state_dicts_are_unwrapped(tmp_path, wrap):
    torch.save(wrap(state()), tmp_path / "w.pt")
    found = load_state(tmp_path / "w.pt")
    assert set(found) == set(state())
    assert found["conv.weight"].dtype == np.float32
    assert found["conv.weight"].tolist() == [[0, 1], [2, 3]]


class Evil:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_files_that_hold_code_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state(), "evil": Evil()}, tmp_path / "evil.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "whole.pt", "raw.pth"):
        with pytest.raises(FileError, match="holds Python code") as caught:
            load_state(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 4
    assert not (tmp_path / "harmed").exists()


def test_damaged_files_are_said_to_be(tmp_path):
    torch.save(state(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello there\n")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    for name, said in {
        "half.pt": "damaged", "empty.pt": "damaged", "text.pt": "damaged", "list.pt": "no dictionary of tensors",
        "missing.pt": "no such file", ".": "folder",
    }.items():  # fmt: skip
        with pytest.raises(FileError, match=said) as caught:
            load_state(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_callables_by_module_and_file(tmp_path, monkeypatch):
    (tmp_path / "helper_part.py").write_text("SIZE = 3\n")
    (tmp_path / "nets_by_name.py").write_text(
        "import torch\nfrom helper_part import SIZE\n"
        "def small(): return torch.nn.Linear(SIZE, 2)\n"
        "class Box:\n    made = staticmethod(small)\n"
        "ready = small()\nnumber = 5\n"
        "def needs(x): return x\n"
        "def other(): return 7\n"
    )
    (tmp_path / "broken.py").write_text("import torch\nraise RuntimeError('half done')\n")
    file = tmp_path / "nets_by_name.py"
    for spec in (f"{file}:small", f"{file}:Box.made", f"{file}:ready"):
        assert isinstance(load_callable(spec), nn.Linear)
    assert isinstance(load_callable("torch.nn:Identity"), nn.Identity)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_callable("nets_by_name:small"), nn.Linear)
    for spec, kind, said in [
        ("small", UsageError, "write package.module:callable"),
        (f"{file}:nothing", UsageError, "has no 'nothing'"),
        (f"{file}:number", UsageError, "is a int"),
        (f"{file}:other", UsageError, "returned int"),
        (f"{file}:needs", UsageError, "without arguments failed: TypeError"),
        ("no_such_package:net", UsageError, "no such Python module"),
        (f"{tmp_path}/none.py:net", FileError, "no such file"),
        (f"{tmp_path}/broken.py:net", FileError, "importing it failed: RuntimeError: half done"),
    ]:
        with pytest.raises(kind, match=said) as caught:
            load_callable(spec)
        assert "\n" not in str(caught.value)


def torchvision_operator():
    """torchvision's deform_conv2d: the real one where it is installed, else its schema with a shape rule."""
    try:
        import torchvision.ops  # noqa: F401
    except ImportError:
        library = torch.library.Library("torchvision", "DEF")
        library.define(
            "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, int stride_h, "
            "int stride_w, int pad_h, int pad_w, int dil_h, int dil_w, int groups, int offset_groups, bool use_mask) "
            "-> Tensor"
        )
        return library
    return None


def test_deformable_convolution_of_torchvision():
    library = torchvision_operator()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Conv2d(4, 18, 3, padding=1)
            self.weight = nn.Parameter(torch.randn(6, 2, 3, 3))
            self.bias = nn.Parameter(torch.randn(6))

        def forward(self, x):
            offset = self.offset(x)
            return torch.ops.torchvision.deform_conv2d(
                x, self.weight, offset, torch.zeros(1, 1), self.bias, 1, 1, 1, 1, 1, 1, 2, 1, False
            )

    graph = from_module(Net(), (4, 8, 9))
    assert [node.op for node in graph.nodes] == ["input", "conv", "deform_conv"]
    total = count(graph).total
    assert (total.status, total.macs) == ("exact", 8 * 9 * 9 * (4 * 18 + 2 * 6))
    assert total.params == 4 * 18 * 9 + 18 + 6 * 2 * 9 + 6
    assert count(graph).layers[-1].field is None  # where it looks depends on the values
    del library


def test_layers_taken_whole_are_what_their_forward_says():
    """A hook makes a layer go through PyTorch's own forward, which must give the same nodes."""

    def net():
        torch.manual_seed(0)
        bare = nn.Conv2d(6, 6, 1)
        weight = bare.weight.detach()
        del bare.weight
        bare.weight = weight * 2  # no parameter any more
        flat = nn.Sequential(nn.Conv1d(6, 8, 3, 2, 1, groups=2), nn.BatchNorm1d(8), nn.ReLU(inplace=True))
        deep = nn.Sequential(nn.Conv3d(8, 4, (1, 3, 3), padding="same", bias=False), nn.BatchNorm3d(4, affine=False))
        return nn.Sequential(
            nn.Conv2d(3, 6, (3, 5), (1, 2), 2, (2, 1), padding_mode="circular"), nn.BatchNorm2d(6, eps=1e-3), nn.ReLU(),
            bare, nn.Conv2d(6, 6, 3, padding="same"), nn.ReLU(inplace=True), nn.Flatten(2), flat,
            nn.Unflatten(2, (-1, 2, 2)), deep, nn.BatchNorm3d(4, track_running_stats=False),
        )  # fmt: skip

    whole, hooked = net(), net()
    for layer in hooked.modules():
        layer.register_forward_pre_hook(lambda module, given: None)
    a, b = from_module(whole, (3, 12, 15)), from_module(hooked, (3, 12, 15))
    assert a == b
    assert [n.op for n in a.nodes].count("conv") == 5
    assert a.weights.keys() == b.weights.keys()
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_a_layer_whose_forward_was_replaced():
    layer = nn.ReLU()
    layer.forward = torch.sigmoid
    assert [n.op for n in from_module(nn.Sequential(layer), (3, 4, 4)).nodes] == ["input", "sigmoid"]
    wrong = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedError, match="expected 2D or 3D input"):
        from_module(wrong, (3, 4, 4))


DYNAMIC = {
    "from activations": lambda m, x: F.conv2d(x, m.net(m.seed + 0 * x.mean()).view(6, 3, 3, 3), m.bias, 2, 1),
    "one kernel per picture": lambda m, x: F.conv2d(
        x.reshape(1, -1, *x.shape[2:]), m.net(x.mean((2, 3)).repeat(1, 3)[:, :8]).view(-1, 3, 3, 3), padding="same",
        groups=x.shape[0]
    ).view(x.shape[0], 6, *x.shape[2:]),
    "and a bias": lambda m, x: F.conv2d(x, m.kernel, x.mean((0, 2, 3)).repeat(2), dilation=2),
}  # fmt: skip


@pytest.mark.parametrize("name", DYNAMIC)
def test_convolutions_by_computed_weights(name):
    from torch.utils.flop_counter import FlopCounterMode

    parts = {"net": nn.Linear(8, 6 * 27), "seed": nn.Parameter(torch.randn(8)), "bias": nn.Parameter(torch.randn(6))}
    parts["kernel"] = nn.Parameter(torch.randn(6, 3, 3, 3))
    module = Forward(DYNAMIC[name], **parts)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module(torch.randn(1, 3, 12, 10))
    graph = from_module(module, (3, 12, 10))
    counted = count(graph)
    assert (counted.status, 2 * counted.total.macs) == ("exact", flops.get_total_flops())
    assert ("dynamic_conv" in {node.op for node in graph.nodes}) == (name != "and a bias")
    x = torch.randn(1 if name == "and a bias" else 2, 3, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(to_module(graph).eval()(x), module(x), rtol=1e-4, atol=1e-5)

"""Slimmed modules keep their class where the code allows it: torch itself runs, loads, exports and trains them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dojang.arith.channels import channels
from dojang.arith.cut import cut
from dojang.engine.reference.operators import run_reference
from dojang.evidence.evidence import Evidence
from dojang.formats.torch import from_module
from dojang.formats.torch.write.narrow import narrowed
from dojang.slimming.batchnorm import FOLD_BATCHNORM


class Residual(nn.Module):
    """Residual blocks, a strided shortcut, a depthwise layer, a concatenation; sizes are taken from tensors."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.a, self.bn_a = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.b = nn.Conv2d(12, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down, self.c = nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.prelu = nn.PReLU(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(x + self.b(F.relu(self.bn_a(self.a(x)))))
        y = F.relu(self.down(x) + self.c(self.deep(x)))
        y = self.prelu(torch.cat([y, F.avg_pool2d(y, 3, 1, 1)], 1))
        return self.head(y.mean((2, 3)))


class Shared(nn.Module):
    """One layer used twice, and one whose weight another shares."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.other = nn.Conv2d(6, 6, 3, padding=1)
        self.other.weight = self.twice.weight
        self.flat = nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 4))

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.flat(F.relu(self.other(self.twice(F.relu(self.twice(x))))))


class Fixed(nn.Module):
    """Its code fixes the width that was."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 64, 4)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).view(-1, 6 * 64))


def trained(make: type[nn.Module]) -> nn.Module:
    """With statistics and scales that are not those of an unused module."""
    torch.manual_seed(0)
    module = make()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight)
    return module.eval()


def halved(module: nn.Module):
    """The network of a module, and the same with every second channel cut that may go."""
    graph = from_module(module, (3, 8, 8))
    tied = channels(graph)
    return graph, cut(graph, tied.fit(tied.removable[::2]), tied)


class Single(Residual):
    """Its code runs in float32 only."""

    def forward(self, x):
        return super().forward(x.float())


@pytest.mark.parametrize("make", [Residual, Shared, Single])
def test_the_same_class_narrower_computes_the_cut_network(make: type[nn.Module]):
    module = trained(make)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph, less = halved(module)
    new, _ = narrowed(module, graph, less)
    assert type(new) is make
    assert sum(p.numel() for p in new.parameters()) < sum(p.numel() for p in module.parameters())
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    found = new(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, run_reference(less, x.astype(np.float64), np.float64).outputs[0], atol=1e-5)
    for name, array in module.state_dict().items():
        torch.testing.assert_close(array, before[name], msg="the module that was given is left alone")
    again, _ = narrowed(trained(make), graph, less)
    for array in again.state_dict().values():
        array.zero_()
    again.load_state_dict(new.state_dict(), strict=True)
    torch.testing.assert_close(again(torch.from_numpy(x)), new(torch.from_numpy(x)))
    assert list(new.state_dict()) == list(module.state_dict())


def test_it_says_its_new_sizes_trains_and_exports():
    module = trained(Residual)
    new: Residual = narrowed(module, *halved(module))[0]
    for layer in new.modules():
        if isinstance(layer, nn.Conv2d):
            assert tuple(layer.weight.shape[:2]) == (layer.out_channels, layer.in_channels // layer.groups)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight)
    assert new.deep.groups == new.deep.out_channels < 8
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.optim.SGD(new.train().parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        steps.zero_grad()
        loss = new(x).square().mean()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.grad is not None for p in new.parameters())
    program = torch.export.export(new.eval(), (x,))
    torch.testing.assert_close(program.module()(x), new(x))


def test_weights_that_were_shared_stay_shared():
    module = trained(Shared)
    new, _ = narrowed(module, *halved(module))
    assert new.other.weight is new.twice.weight


def test_folded_batch_norms_become_identities_and_biases_appear():
    module = trained(Residual)
    graph = from_module(module, (3, 8, 8))
    done = FOLD_BATCHNORM.apply(Evidence(graph))
    new, _ = narrowed(module, graph, done.graph)
    assert isinstance(new.stem[1], nn.Identity)
    assert new.stem[0].bias is not None
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(new(x), module(x), atol=1e-5, rtol=1e-4)


def test_code_that_fixes_a_size_gives_none():
    module = trained(Fixed)
    graph, less = halved(module)
    none, why = narrowed(module, graph, less)
    assert none is None
    assert "its code fails with the new sizes (RuntimeError: mat1 and mat2 shapes cannot be multiplied" in why
    assert type(narrowed(module, graph, graph)[0]) is Fixed


def test_a_layer_that_was_added_gives_none():
    module = trained(Fixed)
    graph = from_module(module, (3, 8, 8))
    extra = graph.replace(weights={**graph.weights, "other.weight": np.zeros(1, np.float32)})
    assert narrowed(module, graph, extra)[0] is None

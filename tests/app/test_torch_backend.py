"""`torch.compile(module, backend="dojang")`: the numbers of eager PyTorch, and a report of all that PyTorch keeps."""

import copy
import subprocess
import sys
import threading
import warnings

import pytest

from dojang.app.torch_backend import backend, reports
from dojang.base.errors import UsageError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    reports(clear=True)
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def compiled(module, **options):
    return torch.compile(module, backend=backend, **({"options": options} if options else {}))


def same(module, *shapes, quiet=True, dynamic=None, tol=2e-5):
    """Runs both on each shape; returns the reports."""
    module = module.eval()
    run = torch.compile(module, backend=backend, dynamic=dynamic)
    with torch.no_grad(), warnings.catch_warnings():
        if not quiet:
            warnings.simplefilter("ignore", UserWarning)
        for shape in shapes:
            x = torch.randn(*shape)
            kept = x.clone()
            found, right = run(x), module(kept)
            assert torch.equal(x, kept)
            found, right = (v if isinstance(v, tuple) else (v,) for v in (found, right))
            for a, b in zip(found, right, strict=True):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b, rtol=tol, atol=tol * max(1.0, float(b.abs().max())))
    return reports()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.c2, self.act, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(16, 5)
        nn.init.uniform_(self.b1.running_mean)

    def forward(self, x):
        y = self.act(self.b1(self.c1(x)))
        y = self.act(self.c2(y) + y)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


class Fixed(nn.Module):
    """A batch taken from the input, as PyTorch's static capture turns it into a number."""

    def __init__(self):
        super().__init__()
        self.c, self.d, self.l = nn.Conv2d(3, 8, 3), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.c(x)), 2).mean((2, 3))
        return self.l(self.d(y).view(x.size(0), -1))


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        y = torch.cummax(F.relu(self.a(x)), 1)[0]
        return self.b(y), y.argmax(1)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        y = F.relu(self.a(x))
        if y.mean() > 0:
            y = y * 2
        return self.b(y)


class Mixed(nn.Module):
    """Grouped, transposed, one-dimensional, resized, joined, normalised."""

    def __init__(self):
        super().__init__()
        self.g = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.t = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.n, self.ln = nn.GroupNorm(2, 6), nn.LayerNorm(5)
        self.line = nn.Conv1d(12, 5, 3)

    def forward(self, x):
        y = F.silu(self.n(self.t(F.hardswish(self.g(x)))))
        y = torch.cat([y, F.interpolate(F.avg_pool2d(y, 2), scale_factor=2.0, mode="bilinear")], 1)
        y = self.line(y.flatten(2))
        return torch.softmax(y, 1), self.ln(y[..., :6].transpose(1, 2))


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (Residual, ((1, 3, 12, 12), (2, 3, 12, 12), (5, 3, 12, 12), (4, 3, 14, 11))),
        (Fixed, ((1, 3, 9, 9), (2, 3, 9, 9), (7, 3, 9, 9))),
        (Mixed, ((2, 4, 6, 6), (3, 4, 6, 6))),
    ],
)
def test_whole_graphs(module, shapes):
    found = same(module(), *shapes)
    assert found
    assert all(r.native_calls == r.calls and not r.left for r in found)


def test_batch_open_from_the_start():
    found = same(Fixed(), (3, 3, 9, 9), (5, 3, 9, 9), (4, 3, 9, 9), dynamic=True)
    assert all(r.native_calls == r.calls for r in found)


def test_what_is_unknown_stays_with_pytorch_between_native_parts():
    with pytest.warns(UserWarning, match="cummax"):
        same(Unknown(), (2, 3, 8, 8))
    (report,) = reports()
    assert len(report.parts) == 2
    assert 0 < report.native_calls < report.calls
    assert {name for name, _ in report.left} >= {"cummax", "argmax"}
    assert "cummax" in str(report)
    assert report.to_dict()["left"]


def test_graph_breaks_give_several_graphs():
    found = same(Branch(), (2, 3, 8, 8), quiet=False)
    assert len(found) == 2
    assert all(r.native_calls >= r.calls - 1 for r in found)


def test_gradients_and_training_are_left_to_pytorch():
    module = Residual().eval()
    run = compiled(module)
    x = torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="gradients"):
        run(x).sum().backward()
    assert module.c1.weight.grad is not None
    torch._dynamo.reset()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = module[1].running_mean.clone()
    with torch.no_grad(), pytest.warns(UserWarning, match="in place"):
        compiled(module)(x)
    assert not torch.equal(before, module[1].running_mean)
    assert int(module[1].num_batches_tracked) == 1
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Dropout(0.5)).train()
    with torch.no_grad(), pytest.warns(UserWarning, match="training mode"):
        y = compiled(module)(x)
    assert (y == 0).float().mean() > 0.2
    assert reports()[-1].native_calls == 1  # the convolution


def test_changed_weights_are_seen():
    module = Residual().eval()
    run = compiled(module)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        run(x)
        module.fc.bias.add_(3)
        torch.testing.assert_close(run(x), module(x), rtol=1e-4, atol=1e-4)
        module.load_state_dict(Residual().state_dict())
        torch.testing.assert_close(run(x), module(x), rtol=1e-4, atol=1e-4)
        module.c2.weight.data = torch.randn(16, 16, 3, 3)
        torch.testing.assert_close(run(x), module(x), rtol=1e-4, atol=1e-3)


def test_inputs_and_buffers_changed_in_place_are_left():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 3, 1)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x, y):
            self.seen.add_(1.0)
            return self.c(x) + y.mul_(2)

    module = Writes().eval()
    x, y = torch.randn(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="in place"):
            found = compiled(module)(x, y)
        assert float(module.seen) == 1
        assert torch.equal(y, torch.full_like(y, 2))
        torch.testing.assert_close(found, module.c(x) + 2)


def test_random_numbers_are_drawn_anew():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.c(x) + torch.randn(2, 3, 4, 4)

    run, x = compiled(Noisy().eval()), torch.zeros(2, 3, 4, 4)
    with torch.no_grad(), pytest.warns(UserWarning, match="random"):
        assert not torch.equal(run(x), run(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left(dtype):
    module, x = Residual().eval().to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
    with torch.no_grad(), pytest.warns(UserWarning, match="only float32"):
        found = compiled(module)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, module(x).detach())


def test_memory_formats_and_views():
    module = Residual().eval()
    run = compiled(module)
    with torch.inference_mode():
        wide = torch.randn(4, 12, 13, 3)
        for x in (wide.permute(0, 3, 1, 2), wide.flip(1).permute(0, 3, 1, 2), wide[::2].permute(0, 3, 2, 1)):
            torch.testing.assert_close(run(x), module(x), rtol=1e-4, atol=1e-4)
    assert all(not r.left for r in reports())


def test_many_threads():
    module = Residual().eval()
    run, xs = compiled(module, threads=1, precision="strict"), [torch.randn(2, 3, 8, 8) for _ in range(4)]
    with torch.no_grad():
        right = [run(x) for x in xs]
    wrong = []

    def work(k):
        with torch.no_grad():
            wrong.extend(k for _ in range(25) if not torch.equal(run(xs[k]), right[k]))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


# -- what a caller may do with values, and around a call ------------------------------------------------------------


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


def quiet(run, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return run(*args)


def near(a, b):
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Shares(nn.Module):
    """Outputs that are views of one another, of an input, of a weight."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.c(x)
        return y, y.view(y.shape[0], -1), x[:, :1], self.c.bias.view(1, -1)


def test_outputs_share_memory_as_in_eager():
    m, x = Shares().eval(), torch.randn(2, 3, 6, 6)
    run = compiled(m)
    with torch.no_grad():
        y, flat, part, bias = quiet(run, x)
        near(y, m.c(x))
        y.fill_(3)
        x.fill_(4)
        m.c.bias.fill_(5)
    assert flat.eq(3).all()
    assert part.eq(4).all()
    assert bias.eq(5).all()


def test_halves_of_one_output_stay_native():
    class Halves(Shares):
        def forward(self, x):
            return self.c(x).chunk(2, 1)

    m, x = Halves().eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        for a, b in zip(compiled(m)(x), m(x), strict=True):
            near(a, b)
    assert not reports()[0].left


def test_outputs_of_earlier_calls_stay():
    m, xs = small(), [torch.randn(n, 3, 8, 8) for n in (2, 2, 1, 5)]
    run = compiled(m)
    with torch.no_grad():
        found = [run(x) for x in xs]
        for x, y in zip(xs, found, strict=True):
            near(y, m(x))


def test_modes_around_a_call():
    """Autocast, inference mode, gradients and forward derivatives, in turns on one compiled module."""
    m, x = small(), torch.randn(2, 3, 8, 8)
    run = compiled(m)
    forward_ad = torch.autograd.forward_ad
    with torch.no_grad():
        near(run(x), m(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quiet(run, x), m(x))
        near(quiet(run, x), m(x))
        with forward_ad.dual_level(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, from what it imports for this
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            near(forward_ad.unpack_dual(quiet(run, dual)).tangent, forward_ad.unpack_dual(m(dual)).tangent)
    with torch.inference_mode():
        assert quiet(run, x).is_inference()
    z = x.clone().requires_grad_()
    quiet(run, z).square().sum().backward()
    right = torch.autograd.grad(m(w := x.clone().requires_grad_()).square().sum(), w)[0]
    near(z.grad, right)
    m.requires_grad_(False)
    near(quiet(run, x), m(x))
    assert quiet(run, x.clone().requires_grad_()).requires_grad
    near(torch.func.vmap(run)(torch.stack([x, -x])), torch.func.vmap(m)(torch.stack([x, -x])))


@pytest.mark.parametrize("shape", [(0, 3, 9, 9), (1, 3, 9, 9), (3, 9, 9), (2, 3, 5, 5)])
def test_sizes_of_the_batch(shape):
    m, run = small(), None
    run = compiled(m)
    with torch.no_grad():
        for s in ((2, 3, 9, 9), shape, (4, 3, 9, 9), shape):
            x = torch.randn(*s)
            near(quiet(run, x), m(x))


class Statistics(nn.Module):
    """Running statistics that a function updates without a name that says so."""

    def __init__(self, kind):
        super().__init__()
        self.c, self.kind = nn.Conv2d(3, 4, 3), kind
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        y = self.c(x)
        if self.kind == "batch":
            y = F.batch_norm(y, self.mean, self.var, training=True)
        elif self.kind == "instance":
            y = F.instance_norm(y, self.mean, self.var, use_input_stats=True)
        else:
            self.count += 1
            self.mean = self.mean * 0.9 + y.mean((0, 2, 3)) * 0.1
        return y * (self.mean.view(1, -1, 1, 1) + self.count)


@pytest.mark.parametrize("kind", ["batch", "instance", "own"])
def test_buffers_that_the_forward_writes(kind):
    m = Statistics(kind).eval()
    other, x = copy.deepcopy(m), torch.randn(2, 3, 8, 8)
    run = compiled(m)
    with torch.no_grad():
        for _ in range(3):
            near(quiet(run, x), other(x))
            assert torch.equal(m.count, other.count)
            near(m.mean, other.mean)


def test_random_numbers_are_drawn_once():
    class Drops(Shares):
        def forward(self, x):
            return F.dropout(self.c(x), 0.5, True)

    m, x = Drops(), torch.randn(2, 3, 8, 8)
    run = compiled(m)
    with torch.no_grad():
        for seed in range(3):
            torch.manual_seed(seed)
            found, after = quiet(run, x), torch.rand(3)
            torch.manual_seed(seed)
            near(found, m(x))
            assert torch.equal(after, torch.rand(3))


@pytest.mark.slow
def test_threads_with_different_sizes():
    m = small()
    run, wrong = compiled(m, threads=1), []

    def work(k):
        with torch.no_grad():
            for i in range(15):
                x = torch.randn(1 + (i + k) % 3, 3, 9 + k % 2, 9)
                wrong.extend([k] * (not torch.allclose(run(x), m(x), 1e-4, 1e-4)))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_options_are_checked():
    with pytest.raises(UsageError, match="option 'thread'"):
        backend(None, (), options={"thread": 1})


@pytest.mark.slow
def test_pytorch_finds_it_by_name():
    code = (
        "import torch, torch._dynamo, sys\n"
        "assert 'dojang' not in sys.modules\n"
        "assert 'dojang' in torch._dynamo.list_backends()\n"
        "run = torch.compile(torch.nn.Conv2d(2, 3, 3).eval(), backend='dojang')\n"
        "with torch.no_grad(): run(torch.zeros(1, 2, 5, 5))\n"
        "from dojang.app.torch_backend import reports\n"
        "assert reports()[0].native_calls == 1\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True)
    if "list_backends" in done.stderr and "AssertionError" in done.stderr:
        pytest.skip("the package is not installed, so PyTorch cannot find its entry point")
    assert done.returncode == 0, done.stderr


SCALARS = {
    "mean": lambda y: y.mean(),
    "one element": lambda y: y[0, 0, 0, 0],
    "with a number": lambda y: 1 - y.mean() * 3,
    "power": lambda y: y.mean() ** 2,
    "with a tensor": lambda y: y.sum() * torch.tensor(2.5),
    "weighted sum": lambda y: torch.add(y.mean(), y.amax(), alpha=2),
    "log1p": lambda y: y.abs().mean().log1p(),
    "softplus": lambda y: F.softplus(y.mean(), beta=2),
    "celu": lambda y: F.celu(y.mean(), 0.5),
    "loss": lambda y: ((y - y * 2) ** 2).mean(),
}


class Ending(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 3), end

    def forward(self, x):
        return self.end(self.conv(x))


@pytest.mark.parametrize("end", SCALARS.values(), ids=SCALARS)
def test_an_output_without_axes(end):
    made = same(Ending(end), (2, 3, 7, 7), (3, 3, 7, 7))
    assert all(r.native_calls == r.calls for r in made)


def test_names_of_weights():
    from dojang.formats.torch.backend.follow import array_name

    assert array_name("L_self_parameters_weight_") == "weight"
    assert array_name("L_self_modules_a_modules_0_buffers_running_mean_") == "a.0.running_mean"
    assert array_name("something") == "something"

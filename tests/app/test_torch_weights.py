"""`torch.compile(backend="dojang")` gives eager's answer after every way in which PyTorch lets weights change."""

import contextlib
import copy
import ctypes
import gc
import os
import subprocess
import sys
import threading
import warnings
from multiprocessing import shared_memory

import numpy as np
import pytest

from dojang.app.torch_backend import backend, reports
from dojang.base.errors import UsageError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    reports(clear=True)
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Convolutions, normalisation, a buffer in arithmetic, a dense layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep, self.head = nn.Conv2d(16, 16, 3, groups=2), nn.Linear(16, 5)
        self.register_buffer("shift", torch.randn(1, 16, 1, 1))

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        return self.head(F.adaptive_avg_pool2d(self.deep(y) + self.shift, 1).flatten(1))


def compiled(module, **options):
    return torch.compile(module, backend=backend, **({"options": options} if options else {}))


def agree(found, right):
    """Within rounding of float32, whatever the sizes of the numbers; other precisions are PyTorch's own."""
    assert found.dtype == right.dtype
    if right.dtype != torch.float32:
        assert torch.equal(found, right)
        return
    assert found.shape == right.shape
    scale = max(1.0, float(right.abs().max())) if right.numel() else 1.0
    torch.testing.assert_close(found, right, rtol=2e-5, atol=2e-5 * scale)


def quietly(run, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return run(*args)


# -- the table of ways ----------------------------------------------------------------------------------------------


def step(make):
    """One step of an optimiser."""

    def change(m):
        m.train()
        optimiser = make([p for p in m.parameters() if p.requires_grad])
        with torch.enable_grad():
            m(torch.randn(8, 3, 9, 9)).square().sum().backward()
        optimiser.step()
        m.eval()
        m.zero_grad(set_to_none=True)

    return change


def optimisers():
    found = {}
    for kind, rates in {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.1}, "AdamW": {"lr": 0.1},
                        "Adagrad": {"lr": 0.1}}.items():  # fmt: skip
        for form in ({"fused": True}, {"foreach": True}, {"foreach": False}):
            name = f"{kind}-{'fused' if 'fused' in form else 'foreach' if form['foreach'] else 'loop'}"
            found[name] = step(lambda p, k=kind, r=rates, f=form: getattr(torch.optim, k)(p, **r, **f))
    for kind in ("RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta", "ASGD", "Rprop"):
        for form in (True, False):
            found[f"{kind}-{'foreach' if form else 'loop'}"] = step(
                lambda p, k=kind, f=form: getattr(torch.optim, k)(p, lr=0.1, foreach=f)
            )
    return found


def in_training(m):
    m.train()
    for _ in range(3):
        m(torch.randn(4, 3, 9, 9) * 3 + 1)
    m.eval()


def update_bn(m):
    torch.optim.swa_utils.update_bn([torch.randn(4, 3, 9, 9) * 2 + 1 for _ in range(3)], m)
    m.eval()


def average(m):
    """The weights of an exponential moving average, copied in."""
    ema = torch.optim.swa_utils.AveragedModel(m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    other = Net()
    for _ in range(3):
        ema.update_parameters(other)
    m.load_state_dict(ema.module.state_dict())


def swapped(m):
    """Two equal sums: values exchanged within an array."""
    w = m.conv.weight.detach().numpy()
    w[0, 0, 0, 0], w[1, 1, 1, 1] = w[1, 1, 1, 1].copy(), w[0, 0, 0, 0].copy()


def exchanged(m):
    """The same bytes in two other places: two arrays of one layer exchanged."""
    mean, var = m.norm.running_mean.numpy(), m.norm.running_var.numpy()
    mean += 2
    mean[:], var[:] = var.copy(), mean.copy()


def cancelling(m):
    """Changes that a plain sum does not see."""
    w = m.conv.weight.detach().numpy()
    w[0] += 0.25
    w[1] -= 0.25


def one_bit(m):
    """The smallest change of an array: the lowest bit of the exponent of its last number."""
    m.head.weight.detach().numpy().view(np.uint32).reshape(-1)[-1] ^= 1 << 23


def by_address(m):
    """A write by C code."""
    (ctypes.c_float * 4).from_address(m.conv.bias.data_ptr())[2] = 5.0


def through_dlpack(m):
    torch.from_dlpack(m.conv.weight.detach()).mul_(2)
    np.from_dlpack(m.conv.bias.detach())[...] = 3


def storage_bytes(m):
    m.conv.weight.untyped_storage()[3] = (m.conv.weight.untyped_storage()[3] + 1) % 256


def storage_copy(m):
    m.conv.weight.untyped_storage().copy_(torch.randn(16, 3, 3, 3).untyped_storage())


def set_(m):
    m.conv.weight.set_(torch.randn(16, 3, 3, 3))


def transposed_data(m):
    """The same memory read in another order."""
    with torch.no_grad():
        m.deep.weight.data = m.deep.weight.data.transpose(2, 3)


def restrided(m):
    m.conv.weight.as_strided_((16, 3, 3, 3), (27, 9, 1, 3))


def assigned_state(assign):
    return lambda m: m.load_state_dict(Net().state_dict(), assign=assign)


def replaced(m):
    m.conv.weight = nn.Parameter(torch.randn(16, 3, 3, 3))
    m.norm.running_mean = torch.randn(16)
    m.shift = torch.randn(1, 16, 1, 1)


def replaced_layer(m):
    m.deep = nn.Conv2d(16, 16, 3, dilation=2).eval()


def pruned(m):
    prune.l1_unstructured(m.conv, "weight", amount=0.5)


def pruned_for_good(m):
    prune.ln_structured(m.deep, "weight", amount=0.5, n=2, dim=0)
    prune.remove(m.deep, "weight")


def mask_changed(m):
    prune.random_unstructured(m.conv, "weight", amount=0.5)
    m.conv.weight_mask.numpy()[3] = 1


class Doubled(nn.Module):
    def forward(self, w):
        return w * 2


def weight_norm(m):
    parametrizations.weight_norm(m.conv)
    with torch.no_grad():
        m.conv.parametrizations.weight.original0.mul_(3)


WAYS = {
    **optimisers(),
    "batch norm in training": in_training,
    "update_bn": update_bn,
    "average": average,
    "load_state_dict": assigned_state(False),
    "load_state_dict, assign": assigned_state(True),
    "in place": lambda m: m.conv.weight.mul_(2),
    "in place through a view": lambda m: m.conv.weight.view(-1)[5:9].fill_(4),
    "in place through a detached tensor": lambda m: m.conv.weight.detach().mul_(2),
    ".data in place": lambda m: m.conv.weight.data.mul_(2),
    ".data of a buffer": lambda m: m.norm.running_var.data.mul_(3),
    ".data replaced": lambda m: setattr(m.conv.weight, "data", torch.randn(16, 3, 3, 3)),
    ".data transposed": transposed_data,
    "as_strided_": restrided,
    "copy_": lambda m: m.conv.weight.copy_(torch.randn(16, 3, 3, 3)),
    "set_": set_,
    "vector_to_parameters": lambda m: nn.utils.vector_to_parameters(
        torch.randn(sum(p.numel() for p in m.parameters())), m.parameters()
    ),
    "NumPy view": lambda m: m.conv.weight.detach().numpy().__imul__(2),
    "NumPy view of a buffer": lambda m: m.norm.running_mean.numpy().__iadd__(1),
    "values swapped": swapped,
    "arrays exchanged": exchanged,
    "a sum kept": cancelling,
    "one bit": one_bit,
    "an address": by_address,
    "DLPack": through_dlpack,
    "a byte of the storage": storage_bytes,
    "storage copied": storage_copy,
    "foreach": lambda m: torch._foreach_mul_([p.detach() for p in m.parameters()], 1.5),
    "buffer in arithmetic": lambda m: m.shift.data.add_(1),
    "replaced": replaced,
    "replaced layer": replaced_layer,
    "init": lambda m: nn.init.kaiming_normal_(m.conv.weight),
    "requires_grad_": lambda m: (m.requires_grad_(False), m.conv.weight.data.mul_(2)),
    "channels last": lambda m: (m.to(memory_format=torch.channels_last), m.conv.weight.data.mul_(2)),
    "share_memory_": lambda m: (m.share_memory(), m.conv.weight.detach().numpy().__imul__(2)),
    "pruned": pruned,
    "pruned for good": pruned_for_good,
    "mask changed": mask_changed,
    "parametrised": lambda m: parametrize.register_parametrization(m.conv, "weight", Doubled()),
    "weight_norm": weight_norm,
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.conv),
    "double": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "there and back": lambda m: m.double().float().conv.weight.data.mul_(2),
    "no bias": lambda m: setattr(m.conv, "bias", None),
    "tied": lambda m: setattr(m.deep, "bias", m.conv.bias),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_change_weights_is_seen(way):
    m = Net().eval()
    run, x = compiled(m), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        before = m(x)
        agree(run(x), before)
        assert reports()[0].native_calls == reports()[0].calls
        WAYS[way](m)
        dtype = m.head.weight.dtype
        right = m(x.to(dtype))
        assert not torch.equal(right.float(), before)
        agree(quietly(run, x.to(dtype)), right)
        if dtype == torch.float32:
            m.head.weight.detach().numpy()[...] *= 2  # and once more, after whatever the first change did
            agree(quietly(run, x), m(x))


def test_half_precision_and_back():
    m, x = Net().eval(), torch.randn(2, 3, 9, 9)
    run = compiled(m)
    with torch.no_grad():
        agree(run(x), m(x))
        m.half()
        assert torch.equal(quietly(run, x.half()), m(x.half()))
        m.float()
        agree(run(x), m(x))


def test_weights_in_memory_of_others(tmp_path):
    """Arrays of NumPy, a mapped file, one flat buffer, strided and expanded weights: whoever writes, it is seen."""
    array = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype("f4")
    file = np.memmap(tmp_path / "w.bin", "f4", "w+", shape=(16, 3, 3, 3))
    file[:] = array
    flat, wide = torch.randn(16 * 27 + 1), torch.randn(32, 3, 3, 3)
    cases = {
        "array": (torch.from_numpy(array), lambda: array.__imul__(2)),
        "file": (torch.from_numpy(file), lambda: file.__imul__(2)),
        "flat": (flat[1:].view(16, 3, 3, 3), lambda: flat.numpy().__imul__(2)),
        "strided": (wide[::2], lambda: wide.numpy().__imul__(2)),
        "expanded": (wide[:1].expand(16, 3, 3, 3), lambda: wide.numpy().__imul__(2)),
        "channels last": (wide[:16].to(memory_format=torch.channels_last), None),
    }
    for name, (weight, write) in cases.items():
        torch._dynamo.reset()
        m, x = Net().eval(), torch.randn(2, 3, 9, 9)
        m.conv.weight.data = weight
        run = compiled(m)
        with torch.no_grad():
            first = run(x)
            agree(first, m(x))
            (write or (lambda w=weight: w.permute(0, 2, 3, 1).numpy().__imul__(2)))()
            assert not torch.equal(m(x), first), name
            agree(run(x), m(x))


def test_another_process_writes():
    memory = shared_memory.SharedMemory(create=True, size=4 * 16 * 27)
    try:
        m, x = Net().eval(), torch.randn(2, 3, 9, 9)
        m.conv.weight.data = torch.frombuffer(memory.buf, dtype=torch.float32).view(16, 3, 3, 3).normal_()
        run = compiled(m)
        with torch.no_grad():
            first = run(x)
            code = (
                "import sys; from multiprocessing import shared_memory, resource_tracker as r\n"
                "s = shared_memory.SharedMemory(sys.argv[1]); s.buf[:400] = bytes(400); s.close()\n"
                "r.unregister(s._name, 'shared_memory')\n"
            )
            subprocess.run([sys.executable, "-c", code, memory.name], check=True, env={**os.environ})
            assert float(m.conv.weight.data.reshape(-1)[:100].abs().max()) == 0
            assert not torch.equal(m(x), first)
            agree(run(x), m(x))
        torch._dynamo.reset()
    finally:
        m = run = None
        gc.collect()
        with contextlib.suppress(BufferError):
            memory.close()
        memory.unlink()


def test_training_with_validation_between():
    """Several epochs with a fused optimiser, compiled validation between: the losses are eager's."""
    data, labels = torch.randn(64, 3, 9, 9), torch.randint(0, 5, (64,))
    m = Net()
    run, optimiser = compiled(m), torch.optim.AdamW(m.parameters(), lr=0.01, fused=True)
    losses = []
    for _ in range(8):
        m.train()
        for k in range(0, 64, 16):
            optimiser.zero_grad()
            F.cross_entropy(m(data[k : k + 16]), labels[k : k + 16]).backward()
            optimiser.step()
        m.eval()
        with torch.no_grad():
            for k in range(0, 64, 24):  # the last batch is smaller
                agree(run(data[k : k + 24]), m(data[k : k + 24]))
            losses.append((float(F.cross_entropy(run(data), labels)), float(F.cross_entropy(m(data), labels))))
    found, right = zip(*losses, strict=True)
    assert np.allclose(found, right, rtol=1e-4)
    assert len(set(right)) == len(right)
    assert not any(r.left for r in reports())


def test_weights_that_change_at_every_call():
    m, x = Net().eval(), torch.randn(2, 3, 9, 9)
    run = compiled(m)
    with torch.no_grad():
        for _ in range(80):
            m.conv.weight.data.add_(0.01)
            agree(run(x), m(x))
        for _ in range(3):
            agree(run(x), m(x))


def test_weights_that_are_not_finite_for_a_while():
    m, x = Net().eval(), torch.randn(2, 3, 9, 9)
    run = compiled(m)
    with torch.no_grad():
        agree(run(x), m(x))
        kept = m.conv.weight.detach().clone()
        m.conv.weight.data.fill_(float("nan"))
        assert run(x).isnan().all()
        m.conv.weight.data.copy_(kept)
        agree(run(x), m(x))


def test_two_modules_and_copies():
    """What is compiled of one module is not taken for a copy of it, nor the other way round."""
    m, x = Net().eval(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        run = compiled(m)
        agree(run(x), m(x))
        other = copy.deepcopy(m)
        other.conv.weight.data.mul_(2)
        also = compiled(other)
        agree(also(x), other(x))
        agree(run(x), m(x))
        taken = copy.deepcopy(run)
        taken.conv.weight.data.mul_(3)
        agree(taken(x), taken._orig_mod(x))
        agree(run(x), m(x))


def test_tied_empty_and_inference_weights():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.b.weight = self.a.weight
            self.register_buffer("nothing", torch.zeros(0, 3))
            self.register_buffer("whole", torch.randn(8))
            self.register_buffer("part", self.whole[2:6])

        def forward(self, x):
            y = self.b(self.a(x)) * self.whole.view(1, -1, 1, 1)
            return y[:, :4] + self.part.view(1, -1, 1, 1) + self.nothing.shape[1]

    x = torch.randn(2, 8, 6, 6)
    with torch.inference_mode():
        inside = Odd().eval()
    for m in (Odd().eval(), inside):
        run = compiled(m)
        with torch.inference_mode():
            agree(run(x), m(x))
            m.a.weight.data.mul_(2)
            agree(run(x), m(x))
            m.whole.data[3] = 7
            agree(run(x), m(x))


def test_tensors_that_are_no_parameters():
    """Attributes, globals and closures that hold tensors."""
    scale = torch.randn(1, 16, 1, 1)

    class Plain(Net):
        def __init__(self):
            super().__init__()
            self.extra = torch.randn(1, 16, 1, 1)

        def forward(self, x):
            return self.deep(self.conv(x) * self.extra) * scale + GLOBAL

    m, x = Plain().eval(), torch.randn(2, 3, 9, 9)
    run = compiled(m)
    with torch.no_grad():
        agree(quietly(run, x), m(x))
        for held in (m.extra, scale, GLOBAL):
            held.numpy()[...] += 1
            agree(quietly(run, x), m(x))


GLOBAL = torch.randn(1, 16, 1, 1)


def test_modules_and_attributes_of_the_graph():
    """The form of `torch.fx`, and of older versions of PyTorch, in which the graph holds the modules themselves."""
    m, x = Net().eval(), torch.randn(2, 3, 9, 9)
    run = backend(torch.fx.symbolic_trace(m), (x,))
    with torch.no_grad():
        agree(run(x), m(x))
        assert reports()[0].native_calls == reports()[0].calls
        for weight in (m.conv.weight.detach(), m.norm.running_mean, m.shift):
            weight.numpy()[...] += 2
            agree(run(x), m(x))
        m.conv.weight = nn.Parameter(torch.randn(16, 3, 3, 3))
        agree(run(x), m(x))


def test_a_writer_on_another_thread():
    """While a thread writes, answers are of one state or another; afterwards they are of the last."""
    m, x, stop = Net().eval(), torch.randn(2, 3, 9, 9), threading.Event()
    run = compiled(m)
    w = m.conv.weight.detach().numpy()

    def write():
        rng = np.random.default_rng(0)
        while not stop.is_set():
            w[...] = rng.standard_normal(w.shape)

    with torch.no_grad():
        run(x)
        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(30):
            run(x)
        stop.set()
        writer.join()
        for _ in range(3):
            agree(run(x), m(x))


def test_frozen_is_a_promise():
    m, x = Net().eval(), torch.randn(2, 3, 9, 9)
    run = compiled(m, frozen=True)
    with torch.no_grad():
        agree(run(x), m(x))
        for _ in range(3):
            agree(run(x), m(x))
    with pytest.raises(UsageError, match="True or False"):
        backend(None, (), options={"frozen": "yes"})

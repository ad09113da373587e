"""Reading a module leaves it as it was: whatever its forward keeps, whether reading ends well or not."""

import collections
import copy
import functools
import random
import types

import numpy as np
import pytest

import dojang
from dojang.base.errors import DojangError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

KEPT: dict = {}
TIMES = 0


class Holder:
    """A plain object of the user's."""

    __slots__ = ("last", "store")

    def __init__(self):
        self.last, self.store = None, {}


class Base(nn.Module):
    shared: dict = {}  # noqa: RUF012  # a class attribute that its objects change is the subject
    count = 0

    def __init__(self):
        super().__init__()
        self.c, self.n = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.cache, self.seen, self.recent, self.places = {}, [], collections.deque(maxlen=2), set()
        self.counter, self.grid, self.helper = 0, None, Holder()
        self.space, self.loose = types.SimpleNamespace(a=None), [nn.Conv2d(4, 4, 1).eval()]
        self.numbers, self.generator = np.zeros(3), torch.Generator().manual_seed(5)
        self.rng, self.old = np.random.default_rng(3), random.Random(4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("ema", torch.zeros(4))
        self.register_buffer("late", None)


def kept(body):
    """A module whose forward ends with `body(self, y)`."""

    class Keeps(Base):
        def forward(self, x):
            y = self.n(self.c(x))
            found = body(self, y)
            return y if found is None else found

    return Keeps


def attribute(s, y):
    s.grid = torch.ones_like(y[:1])
    return y + s.grid


def grown(s, y):
    s.cache[y.shape[2:]] = y
    s.seen.append(y)
    s.recent.append((y, {"inner": y}))
    s.places.add(y)


def objects(s, y):
    s.helper.last, s.space.a = y, y
    s.helper.store["y"] = [y]
    s.loose[0].kept = y
    return s.loose[0](y)


def counted(s, y):
    global TIMES
    TIMES += 1
    s.counter += 1
    s.numbers[1] += 1
    type(s).count += 1
    type(s).shared["y"] = y
    KEPT[y.shape[1:]] = y


def written_buffers(s, y):
    s.steps += 1
    s.ema.mul_(0.9).add_(1)
    s.ema[1] = 7
    s.n.running_mean.data.mul_(0.5)
    s.n.num_batches_tracked += 1
    s.late = torch.ones(4)
    return y * s.ema.view(1, -1, 1, 1)


def masked(s, y):
    s.c.weight.data *= (s.c.weight > 0).float()
    return s.c(F.pad(y[:, :3], (1, 1, 1, 1)))


def replaced(s, y):
    s.c.weight.data = s.c.weight.data * 2
    s.ema = s.ema + 1
    s.c.bias.requires_grad_(False)
    s.c = nn.Conv2d(3, 4, 1)
    s.add_module("more", nn.ReLU())
    s.register_buffer("again", torch.zeros(1))
    s.extra = nn.Parameter(torch.zeros(2))
    return s.more(y)


def modes(s, y):
    s.train()
    s.n.eval()
    torch.set_grad_enabled(True)
    s.register_forward_hook(lambda m, a, o: None)
    s.c.register_forward_pre_hook(lambda m, a: None)


def drawn(s, y):
    noise = torch.rand(4) + torch.rand(4, generator=s.generator) + random.random() + float(np.random.rand())
    return y * (noise + s.rng.random() + s.old.random()).view(1, -1, 1, 1)


@functools.lru_cache
def grid_of(shape, y=None):
    return y if y is not None else torch.ones(shape)


def cached_function(s, y):
    return y + grid_of(y.shape[2:]) + grid_of(y.shape[2:], y)


def closure():
    found, last = {}, None

    def body(s, y, again=[]):  # noqa: B006  # a default that collects is the subject
        nonlocal last
        found["y"], last = y, y
        again.append(y)
        return y + (0 if last is None else 1)

    return body


def lazy(s, y):
    if not hasattr(s, "made"):
        s.made = nn.Linear(y.shape[-1], 2)
    return s.made(y)


@functools.cached_property
def late_property(self):
    return torch.ones(4, 1, 1)


late_property.__set_name__(Base, "late_property")
Base.late_property = late_property


def by_property(s, y):
    return y * s.late_property


BODIES = {
    f.__name__: f
    for f in (attribute, grown, objects, counted, written_buffers, masked, replaced, modes, drawn, cached_function,
              lazy, by_property)
}  # fmt: skip
BODIES["closure"] = closure()


def told(value, seen=None):
    """All that can be reached, as plain data that compares."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        assert type(value) in (torch.Tensor, nn.Parameter), f"a {type(value).__name__} was left"
        return (id(value), value.data_ptr(), value.requires_grad, value.detach().clone().numpy().tobytes())
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if id(value) in seen:
        return "again"
    seen[id(value)] = value
    if isinstance(value, dict):
        return [(str(k), told(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return [told(v, seen) for v in value]
    if isinstance(value, set):
        return sorted(map(str, value))
    if isinstance(value, Holder):
        return [told(value.last, seen), told(value.store, seen)]
    if hasattr(value, "__dict__") and not isinstance(value, type | types.FunctionType):
        return told(value.__dict__, seen)
    return value


def state_of(m, body):
    cells = [c.cell_contents for c in body.__closure__ or ()]
    return (
        told(m), told(KEPT), TIMES, told(Base.shared), Base.count, vars(type(m)).get("count"), told(cells),
        told(body.__defaults__ or ()), torch.get_rng_state().tolist(), random.getstate(),
        str(np.random.get_state()), torch.is_grad_enabled(), torch.get_default_dtype(),
    )  # fmt: skip


VERBS = {
    "load": lambda m: dojang.load(m, input_size=(3, 8, 8)),
    "count": lambda m: dojang.count(m, input_size=(3, 8, 8)),
    "by export": lambda m: by_export(m),
}


def by_export(m):
    from dojang.formats.torch.read import module as reader

    with reader.undisturbed(m):
        return reader._by_export(m, [(3, 8, 8)], True, reader.UnsupportedError("asked for"))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("train", [False, True])
def test_nothing_is_left(body, verb, train):
    torch.manual_seed(0)
    m = kept(BODIES[body])().train(train)
    before = state_of(m, BODIES[body])
    try:
        VERBS[verb](m)
    except DojangError:
        assert verb == "by export"  # which reads less
    assert state_of(m, BODIES[body]) == before
    for p in m.parameters():
        assert p.is_leaf
    x = torch.randn(2, 3, 8, 8)
    other = copy.deepcopy(m.eval())
    with torch.no_grad():
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()
        right = m(x)
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
        torch.testing.assert_close(other(x), right)
    KEPT.clear()
    Base.shared.clear()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, RecursionError, AttributeError])
def test_nothing_is_left_when_the_forward_fails(error):
    def body(s, y):
        for other in (grown, objects, counted, written_buffers, replaced, modes, drawn):
            other(s, y)
        raise error("in the middle")

    m = kept(body)().train()
    before = state_of(m, body)
    with pytest.raises((DojangError, error)):
        dojang.load(m, input_size=(3, 8, 8))
    assert state_of(m, body) == before
    assert nn.Module.__call__.__module__ == "torch.nn.modules.module"


def test_the_graph_has_what_the_forward_would_have_used():
    """Values written on the way count for what follows, although they are put back."""
    for name in ("written_buffers", "masked", "attribute"):
        torch.manual_seed(1)
        m = kept(BODIES[name])().eval()
        x = torch.randn(2, 3, 8, 8)
        found = dojang.compile(dojang.load(m, input_size=(3, 8, 8)))(x.numpy())
        with torch.no_grad():
            right = copy.deepcopy(m).double()(x.double()) if name != "masked" else copy.deepcopy(m)(x)
        np.testing.assert_allclose(found, right.numpy(), rtol=1e-4, atol=1e-5)


def test_a_snapshot_of_the_weights():
    """`load` and `compile` copy numbers: a module that is trained on does not change them."""
    m = kept(lambda s, y: None)().eval()
    run, x = dojang.compile(m, input_size=(3, 8, 8)), torch.randn(1, 3, 8, 8)
    before = run(x.numpy())
    with torch.no_grad():
        for p in m.parameters():
            p.fill_(9)
    assert np.array_equal(run(x.numpy()), before)


MANY = [types.SimpleNamespace(place=i) for i in range(30_000)]


class NamesMuch(nn.Module):
    """Its forward names a global that holds more than is looked at, and keeps a stand-in."""

    def forward(self, x):
        self.grid = torch.ones_like(x)
        return x + self.grid + (MANY[0].place if MANY else 0)


def test_what_code_names_does_not_take_the_place_of_what_the_module_holds():
    module = NamesMuch()
    dojang.load(module, input_size=(3, 4, 4))
    assert "grid" not in vars(module)

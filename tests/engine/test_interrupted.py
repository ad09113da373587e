"""A first call that is broken off at any line is repeated, and answers as if nothing had been."""

import random
import sys
import threading

import numpy as np
import pytest

from dojang.engine.compiled import Compiled, compile
from dojang.engine.reference.operators import run_reference
from dojang.native import runtime
from nets import every_segment


class Broken(BaseException):
    """What a signal handler raises."""


def lines_of(call, stop_at=None, packing=None):
    """Lines of our package, and of llvmlite, that a call runs; with `stop_at` the exception is raised at that one.
    `packing` gets those at which weights are packed.
    """
    count = 0

    def here(frame, event, arg):
        nonlocal count
        if event == "line":
            count += 1
            if packing is not None and frame.f_code.co_name in ("pack", "let_go", "weights", "on_line"):
                packing.append(count)
            if count == stop_at:
                raise Broken
        return here

    def enter(frame, event, arg):
        name = frame.f_globals.get("__name__", "")
        return here if name.startswith(("dojang", "llvmlite.binding", "concurrent", "contextlib")) else None

    sys.settrace(enter)
    try:
        call()
    except Broken:
        pass
    finally:
        sys.settrace(None)
    return count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("release", [False, True])
def test_broken_off_at_any_line(release, monkeypatch, tmp_path):
    graph = every_segment()
    xs = [np.random.default_rng(n).standard_normal((n, 5, 14, 13)).astype("f4") for n in (3, 1)]
    exact = [run_reference(graph, {"x": x}, np.float64).outputs[0] for x in xs]
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path))

    def made():
        return compile(graph.replace(weights=dict(graph.weights)), threads=2, release=release)

    made()(xs[0])  # modules loaded, peaks measured
    runtime._pool.cache_clear()
    first = made()
    packing: list[int] = []
    total = lines_of(lambda: first(xs[0]), packing=packing)
    seed = random.SystemRandom().randrange(1 << 30)
    rng = random.Random(seed)
    moments = sorted({*(rng.randrange(1, total) for _ in range(16)), *rng.sample(packing, 12), 1, total - 3})
    for at in moments:
        runtime._pool.cache_clear()
        net = made()
        lines_of(lambda net=net: net(xs[0]), at)
        answers: list = []

        def again(net=net, answers=answers):
            answers.extend(net(x) for x in (*xs, xs[0]))

        # On another thread, which a lock that was left behind would stop.
        other = threading.Thread(target=again, daemon=True)
        other.start()
        other.join(60)
        where = f"broken off at line {at} of {total}, release={release}, seed {seed}"
        assert not other.is_alive(), where
        assert len(answers) == 3, where
        for y, e in zip(answers, (*exact, exact[0]), strict=True):
            assert np.abs(y - e).max() <= 1e-5 * max(1, np.abs(e).max()), where
    runtime._pool.cache_clear()


def test_no_memory_for_the_first_batch():
    """A batch whose activations no machine holds; smaller ones then run as ever, with the weights released."""
    graph = every_segment()
    net = Compiled(graph.replace(weights=dict(graph.weights)), threads=2, release=True)
    net._slice_images = None
    with pytest.raises(MemoryError):
        net(np.broadcast_to(np.zeros((1, 5, 14, 13), "f4"), (1 << 31, 5, 14, 13)))
    x = np.random.default_rng(1).standard_normal((2, 5, 14, 13)).astype("f4")
    exact = run_reference(graph, {"x": x}, np.float64).outputs[0]
    assert np.abs(net(x) - exact).max() <= 1e-5 * max(1, np.abs(exact).max())

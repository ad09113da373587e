"""Every algorithm forced over random layers, all arrays against unmapped pages; `bench/forced.py` is the long run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dojang
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels.conv import ALGORITHMS, amx, fallback
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer, Task
from forced import HOST, Tally, draw, forced, machines, supervise

CASES, PARTS = 300, 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_algorithm_is_wrong_or_leaves_its_arrays(part: int) -> None:
    """Each line of the failure is a command that repeats its case."""
    tally = Tally()
    supervise(range(part, CASES, PARTS), tally, quick=True)
    assert tally.wrong == []
    assert tally.cases == CASES // PARTS


def test_the_draw_holds_everything() -> None:
    """Each algorithm that this processor can run is asked, and each kind of layer is there."""
    cases = [draw(number) for number in range(CASES)]
    names = {a.NAME for c in cases for m in machines(c) for a, task in forced(c) if isinstance(a.offer(task, m), Offer)}
    expected = {a.NAME for a in ALGORITHMS if a not in (fallback, amx)} | {"pool", "bands"}
    assert names == expected | ({"amx"} if HOST.amx else set())
    convs = [c.task.conv for c in cases if isinstance(c.task, Task)]
    assert {c.rank for c in convs} == {1, 2, 3}
    assert {c.n for c in cases} == {0, 1, 2, 3}
    assert any(not before and after for c in convs for before, after in c.padding)
    assert any(c.transposed and any(c.output_padding) for c in convs)
    assert any(c.task.halved for c in cases if isinstance(c.task, Task))
    assert any(c.task.sparse for c in cases if isinstance(c.task, Task))
    assert any(isinstance(c.task, PoolTask) and max(c.task.dilation) > 1 for c in cases)


def test_a_load_outside_is_reported_with_its_case(tmp_path: Path) -> None:
    """Inputs that are one number shorter than the kernels believe: every case that reads one ends its process."""
    script = tmp_path / "short.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import forced\n"
        "whole = forced.strided\n"
        "forced.strided = lambda *given: whole(*given)[:-1]\n"
        "forced.main(sys.argv[1:])\n"
    )
    cases = range(5)  # each ends a process, and the next begins with its imports
    tally = Tally()
    supervise(cases, tally, quick=True, script=script)
    assert tally.cases == len(cases)
    assert all("ended by signal 11" in line for line in tally.wrong)
    named = {int(line.split()[2]) for line in tally.wrong}
    assert named >= {n for n in cases if draw(n).n and isinstance(task := draw(n).task, Task) and task.conv.stride
                     == task.conv.kernel == (1,) * task.conv.rank}  # fmt: skip
    assert len(named) >= 3


def test_padding_at_the_end_only() -> None:
    """1×1 kernels whose padding lies behind the image: the sums are those of the channels, the padding is 0."""
    y = dojang.conv(np.ones((1, 512, 2, 2), "f4"), np.ones((16, 512, 1, 1), "f4"), padding=((0, 30), (0, 30)))
    right = np.zeros((1, 16, 32, 32), "f4")
    right[:, :, :2, :2] = 512
    assert (y == right).all()


def test_a_window_that_sees_padding_only() -> None:
    """Its largest number is that of no number, as in PyTorch; kernels of one window once failed to be written."""
    layer = Node.of("p", "maxpool", "x", kernel=(2,), stride=(1,), padding=((1, 1),), dilation=(2,))
    graph = Graph((Node.of("x", "input", shape=(3, 1)), layer), ("p",), "one")
    x = np.ones((2, 3, 1), "f4")
    right = torch.nn.functional.max_pool1d(torch.from_numpy(x), 2, 1, 1, 2).numpy()
    assert np.isneginf(right).all()
    assert (compile(graph, threads=1)(x) == right).all()

"""bfloat16: steps are those of PyTorch's autocast, runs repeat to the bit, and what cannot be is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dojang.base.errors import UsageError
from dojang.training.config import TrainConfig
from dojang.training.data import Augment, from_arrays
from dojang.training.loop import fit
from dojang.training.numerics import require_precision
from dojang.training.record import Progress
from dojang.training.state import read, write

Small = Callable[..., nn.Module]
BF16 = TrainConfig(epochs=3, batch_size=16, precision="bf16", checkpoint_seconds=0.0)

able = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="PyTorch has no bfloat16 convolutions on this processor"
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(count: int = 48):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 1, 8, 8)), np.arange(count) % 10
    return from_arrays(x, y, x[:10], y[:10])


@able
def test_a_step_in_bf16_is_that_of_autocast_by_hand(small: Small) -> None:
    data = samples(16)
    ours, theirs = small(), small()
    fit(ours, data, TrainConfig(epochs=1, batch_size=16, lr=0.1, warmup=0.0, weight_decay=0.0, precision="bf16"))
    x, y = torch.from_numpy(data.train.inputs()), torch.from_numpy(data.train.y)
    with torch.autocast("cpu", torch.bfloat16):
        output = theirs(x)
    F.cross_entropy(output.float(), y).backward()
    plain = small()
    F.cross_entropy(plain(x), y).backward()
    exact = dict(plain.named_parameters())
    seen = 0.0
    for name, p in theirs.named_parameters():
        assert p.grad is not None
        expected = (p - 0.1 * (1 + 0.9) * p.grad).detach()  # one step of Nesterov at rest
        got = dict(ours.named_parameters())[name]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.detach(), expected, rtol=1e-3, atol=1e-4)
        other = exact[name]
        assert other.grad is not None
        seen = max(seen, float((got - (other - 0.19 * other.grad)).detach().abs().max()))
    assert seen > 1e-4  # and not that of float32


@able
def test_taken_up_again_in_bf16_it_ends_the_same(small: Small, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(now: Progress) -> None:
        if (now.epoch, now.step) == (2, 2):
            raise Stop

    whole, parts, again = small(dropout=0.3), small(dropout=0.3), small(seed=5, dropout=0.3)
    config = TrainConfig(**{**vars(BF16), "augment": Augment(1, True)})
    expected = fit(whole, samples(), config)
    with pytest.raises(Stop):
        fit(parts, samples(), config, directory=tmp_path, progress=stop)
    got = fit(again, samples(), config, directory=tmp_path, resume=True)
    assert [p.train_loss for p in got.curve] == [p.train_loss for p in expected.curve]
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert got.to_dict()["config"]["precision"] == "bf16"


@able
def test_a_run_goes_on_in_its_own_precision(small: Small, tmp_path: Path) -> None:
    fit(small(), samples(), TrainConfig(epochs=1, batch_size=16), directory=tmp_path)
    with pytest.raises(UsageError, match="has precision float32, this one bf16"):
        fit(small(), samples(), TrainConfig(**{**vars(BF16), "epochs": 1}), directory=tmp_path, resume=True)


def test_a_state_from_before_there_was_a_choice_is_one_in_float32(small: Small, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=16)
    fit(small(), samples(), config, directory=tmp_path)
    found = read(tmp_path)
    assert found is not None
    del found.fingerprint["precision"]
    write(found, tmp_path)
    assert len(fit(small(), samples(), config, directory=tmp_path, resume=True).curve) == 1


def test_where_there_are_no_bfloat16_convolutions_it_is_said() -> None:
    with pytest.raises(UsageError, match="precision 'half' is not known; use float32 or bf16"):
        TrainConfig(precision="half")
    flags = set[str]()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("flags"):
            flags = set(line.split())
    if not flags:
        pytest.skip("what the processor can do is not known here")
    require_precision("float32", torch.device("cpu"))
    if {"avx512bw", "avx512vl", "avx512dq"} <= flags:
        require_precision("bf16", torch.device("cpu"))
    elif "avx_ne_convert" not in flags:
        with pytest.raises(UsageError, match="no bfloat16 convolutions here"):
            require_precision("bf16", torch.device("cpu"))


@pytest.mark.slow
def test_memory_is_kept_between_steps_and_handed_back() -> None:
    """In a process of its own: how much an allocator keeps of itself depends on all that was allocated before. And
    without huge pages: one of them clears 512 pages in one fault.
    """
    program = """if True:
        import ctypes, resource, sys
        import torch
        from dojang.training.numerics import freed_memory_kept

        # PR_SET_THP_DISABLE: whether huge pages are given depends on how much free memory lies together just then.
        ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(4):
                torch.zeros(20_000_000)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        usual = faults()
        with freed_memory_kept():
            kept = min(faults() for _ in range(5))  # the first fill what is kept, by pieces that need not fit yet
        print(usual, kept, faults())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    usual, kept, after = map(int, done.stdout.split())
    if usual < 20_000:
        pytest.skip("this allocator keeps what is freed of itself, or the pages are huge ones")
    assert kept < 2_000  # none of the 19,532 pages of each array is cleared anew
    assert after > 20_000

"""What only real processes show: kill -9, Ctrl-C, a disk that takes no more, two processes that share a run."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from children import finished
from dojang.training import world
from dojang.training.state import STATE_FILE, read

from .conftest import begin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # each starts several processes, one after the other

Start = Callable[..., "subprocess.Popen[str]"]

# Trains into the directory of the first argument; with a second one the run goes on where it was.
PROGRAM = """
rng = np.random.default_rng(0)
data = train.from_arrays(rng.normal(size=(1500, 1, 8, 8)), np.arange(1500) % 10)
config = train.TrainConfig(epochs=6, augment=train.Augment(1, False), checkpoint_seconds=0.0)
def tell(now):
    print(now.epoch, now.step, flush=True)
module = small_net(seed=0 if len(sys.argv) < 3 else 7, dropout=0.2)
try:
    history = train.fit(module, data, config, directory=sys.argv[1], resume=len(sys.argv) > 2, progress=tell)
except KeyboardInterrupt:
    sys.exit(130)
import json
curve = [{**vars(p), "seconds": 0} for p in history.curve]
print(json.dumps([curve, history.train.accuracy, history.test.accuracy]))
"""


def finish(process: subprocess.Popen[str]) -> str:
    out, err = finished(process)
    assert process.returncode == 0, err
    assert "Warning" not in err
    return out.splitlines()[-1]


def tensors(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / STATE_FILE)


def equal(a: Path, b: Path) -> bool:
    one, two = tensors(a), tensors(b)
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def test_killed_and_interrupted_it_ends_the_same_to_the_bit(tmp_path: Path, start: Start) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    undisturbed = start(PROGRAM, str(whole))

    def until(line: str, *arguments: str) -> subprocess.Popen[str]:
        process = start(PROGRAM, str(parts), *arguments)
        assert process.stdout is not None
        for text in process.stdout:
            if text.strip() == line:
                return process
        raise AssertionError(finished(process))

    process = until("2 5")
    process.kill()  # SIGKILL, most likely in the middle of a step or of a write: the program goes on
    finished(process)
    (parts / ".training-x1.safetensors").write_bytes(b"torn")  # what a kill in the middle of a write leaves
    process = until("4 1", "again")
    process.send_signal(signal.SIGINT)
    _, err = finished(process)
    assert process.returncode == 130, err
    kept = read(parts)
    assert kept is not None
    assert (kept.position.epoch, kept.position.step) >= (3, 1)
    assert kept.position.epoch < 6
    assert finish(start(PROGRAM, str(parts), "again")) == finish(undisturbed)
    assert equal(whole, parts)
    assert {path.name for path in parts.iterdir()} == {STATE_FILE, "log.csv"}


def test_a_disk_that_takes_no_more_is_one_line_and_keeps_the_state_before(tmp_path: Path, start: Start) -> None:
    program = """
import resource
from dojang.base.errors import FileError
rng = np.random.default_rng(0)
data = train.from_arrays(rng.normal(size=(1500, 1, 8, 8)), np.arange(1500) % 10)
def tell(now):
    if now.epoch == 2 and now.done is None:
        # Writing beyond this size fails from now on, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    train.fit(small_net(), data, train.TrainConfig(epochs=3, checkpoint_seconds=0.0), directory=sys.argv[1],
              progress=tell)
except FileError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(error)
"""
    message = finish(start(program, str(tmp_path / "run")))
    assert "not written" in message
    assert "the one before it is kept" in message
    assert {path.name for path in (tmp_path / "run").iterdir()} == {STATE_FILE, "log.csv"}
    assert tensors(tmp_path / "run")


DIVIDED = """
import faulthandler, json, os
from dojang import training as train
from dojang.training import world
if __name__ == "__main__":
    rng = np.random.default_rng(0)
    data = train.from_arrays(rng.normal(size=(1500, 1, 8, 8)), np.arange(1500) % 10)
    rank = int(os.environ.get("RANK", 0))
    told = {}
    for precision in sys.argv[2:]:
        config = train.TrainConfig(epochs=2, augment=train.Augment(1, False), precision=precision, optimiser="sgd")
        module = small_net(seed=0)
        module[1].num_batches_tracked = None  # one batch norm counts its batches, the other does not
        teacher = small_net(seed=3)
        history = train.fit(module, data, config, teacher=teacher, directory=f"{sys.argv[1]}-{precision}")
        told[precision] = [[p.train_loss, p.test_loss] for p in history.curve] + [history.processes]
    if "RANK" in os.environ:  # groups that are closed while something of the training still holds them
        faulthandler.dump_traceback_later(120, exit=True)
        for _ in range(40):
            with world.joined("cpu") as here, world.shared(small_net(), here) as divided:
                divided(torch.ones(8, 1, 8, 8)).sum().backward()
                here.total(torch.ones(3))
            del divided
            told["groups"] = told.get("groups", 0) + 1
    if rank == 0:
        print(json.dumps(told))
"""

BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass(frozen=True)
class Divided:
    """What a run printed, and the folder before the precision in its name."""

    told: dict[str, Any]
    folder: Path

    def tensors(self, precision: str) -> dict[str, np.ndarray]:
        return tensors(self.folder.parent / f"{self.folder.name}-{precision}")


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Divided, Divided]:
    """The same trainings by one process and by two, in every precision that this processor has."""
    folder = tmp_path_factory.mktemp("divided")
    precisions = ["float32", *(["bf16"] if BF16 else [])]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    single, pair = folder / "one", folder / "two"
    running = [(single, begin(folder, DIVIDED, str(single), *precisions)),
               (pair, begin(folder, DIVIDED, str(pair), *precisions, launcher=launcher))]  # fmt: skip
    one, two = (Divided(json.loads(finish(process)), at) for at, process in running)
    return one, two


def test_two_processes_give_what_one_gives_within_rounding(divided: tuple[Divided, Divided]) -> None:
    alone, both = (run.told["float32"] for run in divided)
    assert (alone[-1], both[-1]) == (1, 2)
    # Sums are taken in another order; over 46 steps that grows to some 1e-4 of a weight.
    np.testing.assert_allclose(both[:-1], alone[:-1], rtol=1e-3)
    one, two = (run.tensors("float32") for run in divided)
    assert one.keys() == two.keys()
    for name in one:
        # Momentum forgets, so that its single numbers move more than weights do, and how far depends on the processor.
        most = 2e-3 if name.startswith("momentum") else 1e-3
        np.testing.assert_allclose(two[name], one[name], rtol=1e-2, atol=most, err_msg=name)
        off = np.linalg.norm(two[name].astype("f8") - one[name])
        assert off <= 0.02 * np.linalg.norm(one[name].astype("f8")) + 1e-3, (name, off)


@pytest.mark.skipif(not BF16, reason="PyTorch has no bfloat16 convolutions on this processor")
def test_in_bf16_two_processes_learn_as_one_does(divided: tuple[Divided, Divided]) -> None:
    alone, both = (run.told["bf16"] for run in divided)
    # One rounding to bfloat16 is 2^-9; batch norms over both halves, summed in bfloat16, would be off by far more.
    np.testing.assert_allclose(both[:-1], alone[:-1], rtol=0.02)
    one, two = (run.tensors("bf16") for run in divided)
    for name in one:
        if "running" in name:
            far = np.abs(two[name] - one[name]).max() / np.abs(one[name]).max()
            assert far < 0.1, (name, far)


def test_groups_that_are_closed_one_after_another_never_wait_for_each_other(divided: tuple[Divided, Divided]) -> None:
    assert divided[1].told["groups"] == 40


def test_each_group_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store outlives the groups opened with it: the next one must not find the addresses of the one before."""
    left: list[bool] = []
    shared = HashStore()

    def meets(url: str, **more: object) -> Iterator[tuple[Any, int, int]]:
        del url, more
        yield shared, 0, 1

    def opened(backend: str, store: Any, **more: object) -> None:
        del backend, more
        left.append(store.check(["address"]))
        store.set("address", "here")

    monkeypatch.setattr(world, "rendezvous", meets)
    monkeypatch.setattr(world.dist, "init_process_group", opened)
    world._open_group("gloo")
    world._open_group("gloo")
    assert left == [False, False]

"""What a training step costs by precision, and with the memory of the step before kept or handed back.

    python bench/precision.py --threads 1

Steps as `dojang train` takes them (channels last, SGD with momentum) on random pictures, in turns: float32; float32
with PyTorch's own switch for oneDNN set to bf16 (`torch.backends.mkldnn.conv.fp32_precision`); bfloat16 by autocast,
which is `--precision bf16`. Milliseconds per picture, and how many times faster than float32 with memory handed back.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from dojang.formats import zoo
from dojang.training.numerics import computing_in, freed_memory_kept
from dojang.training.score import laid_out
from dojang.training.start import module_of
from peers import spread
from record import head

WAYS = ("float32", "float32, switch", "bf16")


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """PyTorch's switch that lets oneDNN multiply float32 in bfloat16."""
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision
    mkldnn.conv.fp32_precision = mkldnn.matmul.fp32_precision = "bf16" if on else "ieee"
    try:
        yield
    finally:
        mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision = before


def measured(name: str, batch: int, rounds: int, steps: int) -> dict[tuple[str, bool], list[float]]:
    """Seconds of each step by way and whether memory is kept, the ways in turns, one step of each turn not counted."""
    device = torch.device("cpu")
    graph = zoo.load(name)
    module = module_of(graph).train()
    shape = graph.inputs[0].attrs["shape"]
    x = torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last)
    y = torch.arange(batch) % 10
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def step(precision: str) -> None:
        with computing_in(precision, device):
            output = module(x).flatten(1)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(output.float(), y).backward()
        optimizer.step()

    times: dict[tuple[str, bool], list[float]] = {(way, kept): [] for way in WAYS for kept in (False, True)}
    with laid_out(module, device):
        for _ in range(rounds):
            for (way, kept), own in times.items():
                keeping = freed_memory_kept() if kept else contextlib.nullcontext()
                with switched(way == "float32, switch"), keeping:
                    for number in range(steps + 1):
                        start = time.perf_counter()
                        step("bf16" if way == "bf16" else "float32")
                        if number:
                            own.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["nin-cifar10", "nin-cifar10-root8", "resnet20-cifar10"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(head("src/dojang/training", threads=args.threads), end="")
    print(f"# a training step of {args.batch_size} pictures; milliseconds per picture\n")
    print(f"{'network':20}{'precision':>18}{'memory':>14}{'least':>9}{'median':>9}{'iqr':>8}{'ratio':>8}")
    for name in args.networks:
        times = measured(name, args.batch_size, args.rounds, args.steps)
        first = spread(times[WAYS[0], False])[1]
        for (way, kept), own in times.items():
            least, middle, iqr = (1e3 * t / args.batch_size for t in spread(own))
            ratio = first * 1e3 / args.batch_size / middle
            memory = "kept" if kept else "handed back"
            print(f"{name:20}{way:>18}{memory:>14}{least:>9.3f}{middle:>9.3f}{iqr:>8.3f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()

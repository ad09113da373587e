"""One runtime in a process of its own, which runs a network when it is told to: the other end of `bench/networks.py`.

    python bench/runtimes.py NAME FOLDER THREADS

FOLDER holds `model.onnx` and `x.npy`. The process prepares the network, writes its answer to `NAME.npy`, and says on
its standard output, a line of JSON each, that it is ready, and then for each line `turn` of its input how long calls
took: on one thread by the processor time of the process, which other work on the machine does not add to. What
libraries print goes to the error stream.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from peers import Runner, mnn_runner, ncnn_runner, onnx_runner, openvino_runner

WAKE_S, COUNTED_S = 60e-3, 60e-3
"""Seconds of a turn that count nothing, and that count. Threads that are continued may share a core until the system
moves one: with 5 and 20 ms MobileNetV2 on two threads took 5.8 ms in place of 3.3, and peers as much longer."""


def dojang_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """dojang, from the same file as the peers."""
    from dojang.engine.compiled import compile
    from dojang.formats import onnx as onnx_format

    run = compile(onnx_format.load(model), threads=threads, release=True, batch_size=len(x))
    return lambda: run(x)


def torch_module(model: Path, threads: int):
    """The network as a PyTorch module."""
    import torch

    from dojang.formats import onnx as onnx_format
    from dojang.formats.torch import to_module

    torch.set_num_threads(threads)
    return torch, to_module(onnx_format.load(model)).eval()


def torch_runner(model: Path, x: np.ndarray, threads: int, last: bool = False) -> Runner:
    """PyTorch, eagerly."""
    torch, module = torch_module(model, threads)
    layout = torch.channels_last if last else torch.contiguous_format
    module = module.to(memory_format=layout)
    xt = torch.from_numpy(x).contiguous(memory_format=layout)

    def run():
        with torch.inference_mode():
            return module(xt)

    return run


def torch_last_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """PyTorch, eagerly, channels last."""
    return torch_runner(model, x, threads, last=True)


def frozen_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """The traced module, batch norms folded, in the layouts that oneDNN likes."""
    torch, module = torch_module(model, threads)
    xt = torch.from_numpy(x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, and still PyTorch's fastest way on some networks
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, xt)))

    def run():
        with torch.inference_mode():
            return frozen(xt)

    return run


def inductor_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """`torch.compile` of the exported module, weights frozen. It takes a C++ compiler and some 10 to 60 s."""
    torch, module = torch_module(model, threads)
    import torch._inductor.config as settings

    settings.freezing = True
    xt = torch.from_numpy(x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        compiled = torch.compile(torch.export.export(module, (xt,)).module())
        compiled(xt)

    def run():
        with torch.no_grad():
            return compiled(xt)

    return run


def ort_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """ONNX Runtime."""
    import onnxruntime as ort

    name = ort.InferenceSession(model).get_inputs()[0].name
    return onnx_runner(model.read_bytes(), {name: x}, threads)


RUNTIMES: dict[str, Callable[[Path, np.ndarray, int], Runner]] = {
    "dojang": dojang_runner,
    "torch": torch_runner,
    "torch-last": torch_last_runner,
    "torch-frozen": frozen_runner,
    "inductor": inductor_runner,
    "ort": ort_runner,
    "openvino": lambda model, x, threads: openvino_runner(model.read_bytes(), {"x": x}, threads),
    "ncnn": ncnn_runner,
    "mnn": mnn_runner,
}


def turn(run: Runner, clock: Callable[[], float]) -> list[float]:
    """Times of calls in seconds: the first ones wake threads, caches and clock, and are not counted."""
    start = time.perf_counter()
    calls = 0
    while calls < 2 or time.perf_counter() - start < WAKE_S:
        run()
        calls += 1
    times: list[float] = []
    before = start = clock()
    while len(times) < 2 or before - start < COUNTED_S:
        run()
        now = clock()
        times.append(now - before)
        before = now
    return times


def main() -> None:
    """Prepares, answers, and takes turns until its input ends."""
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**facts: object) -> None:
        print(json.dumps(facts), file=out, flush=True)

    try:
        x = np.load(folder / "x.npy")
        start = time.perf_counter()
        run = RUNTIMES[name](folder / "model.onnx", x, threads)
        answer = run()
        seconds = time.perf_counter() - start
        np.save(
            folder / f"{name}.npy", np.asarray(next(iter(answer.values())) if isinstance(answer, Mapping) else answer)
        )
    except Exception as e:  # whatever a peer raises is its result
        say(error=f"{type(e).__name__}: {e}".splitlines()[0][:200])
        return
    say(ready=seconds)
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in sys.stdin:
        say(times=turn(run, clock))


if __name__ == "__main__":
    main()

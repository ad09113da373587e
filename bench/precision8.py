"""Quantised networks: our bytes against our float32, ONNX Runtime and OpenVINO on the same quantised file.

    python bench/precision8.py layers                      # Gop/s of single layers, against the peak of bytes
    python bench/precision8.py networks [NAME ...]         # whole networks, each runtime in a process of its own
    python bench/precision8.py networks FILE.onnx=3,48,320  # one of a file, with its weights, at a size

Networks of the zoo have random weights. They are quantised by `dojang.quantize` on random samples and written with
QuantizeLinear and DequantizeLinear; all runtimes read that file, but for our float32, which runs the network before.
Processes take turns, round by round, so that all see the same machine; each gives the least and the median of its
calls, on one thread in time of the processor, which other work does not add to. The peak of bytes is four times the
multiply-adds of float32 that `dojang` knows of this processor (64 products where there are 16). OpenVINO is taken from
the folder that DOJANG_PEERS names, if it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from record import head

NETWORKS = ("resnet18", "resnet50", "mobilenet-v2", "googlenet", "resnet20-cifar10")
LAYERS = (  # input and output channels, size, kernel, stride, groups
    (64, 256, 56, 1, 1, 1), (256, 64, 56, 1, 1, 1), (512, 128, 28, 1, 1, 1), (1024, 256, 14, 1, 1, 1),
    (2048, 512, 7, 1, 1, 1), (64, 64, 56, 3, 1, 1), (128, 128, 28, 3, 1, 1), (256, 256, 14, 3, 1, 1),
    (512, 512, 7, 3, 1, 1), (64, 128, 56, 1, 2, 1), (3, 64, 224, 7, 2, 1), (3, 32, 224, 3, 2, 1),
    (16, 96, 112, 1, 1, 1), (144, 24, 56, 1, 1, 1), (96, 96, 112, 3, 2, 96), (144, 144, 56, 3, 1, 144),
    (2048, 1000, 1, 1, 1, 1),
)  # fmt: skip
ROUNDS, SECONDS = 4, 0.6
KINDS = ("bytes", "float32", "onnxruntime", "openvino")


def random_weights(graph):
    """Weights that keep values of about one size."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in graph.param_shapes.items():
        if name.endswith("running_var"):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype("f4")
        elif len(shape) > 1:
            weights[name] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        else:
            weights[name] = (0.1 * rng.standard_normal(shape) + name.endswith(".weight")).astype("f4")
    return graph.replace(weights=weights)


def layers() -> None:
    """Times of single layers on one thread, the input copied with its border included."""
    from dojang.arith.conv import Conv
    from dojang.engine.kernels import task as t
    from dojang.engine.kernels.eight import conv, depthwise
    from dojang.engine.kernels.eight.conv import EightTask
    from dojang.engine.kernels.eight.store import Requantised
    from dojang.engine.kernels.task import Offer
    from dojang.native import jit
    from dojang.native.machine import Machine
    from dojang.native.runtime import NativeCall, Program

    machine, rng = Machine.host(), np.random.default_rng(0)
    peak = 4 * machine.peaks.fma_gflops
    print(f"{machine.cpu}, one thread; peak of bytes {peak:.0f} Gop/s; one MAC is two operations")
    for ic, oc, size, k, stride, groups in LAYERS:
        c = Conv.of(ic, oc, (size, size), (k, k), padding=k // 2, stride=stride, groups=groups)
        task = EightTask(c, -(-ic // 4) * 4, oc, 0, Requantised())
        offers = [(m.offer(task, machine), m) for m in (conv, depthwise)]
        _, kernel = min(((o.seconds, m) for o, m in offers if isinstance(o, Offer)), key=lambda pair: pair[0])
        weight = rng.integers(-127, 128, c.weight_shape).astype("i1")
        packed = kernel.pack(task, machine, weight, None, np.full(oc, 1e-4, "f4"))
        code = kernel.emit(task, machine)
        x, y = t.lined((size * size * task.x_ld,), "u1"), t.lined((c.out_size[0] * c.out_size[1] * oc,), "u1")
        x[:] = rng.integers(0, 256, x.shape)
        shared = t.lined((max(1, code.shared(1)[0]),), "u1")
        words = [0] * t.WORDS
        words[t.N] = 1
        for slot, array in zip((t.X, t.W, t.B, t.Y, t.S0), (x, *packed, y, shared), strict=True):
            words[slot] = array.ctypes.data
        natives = jit.load_recipes([s.kernel for s in code.steps], machine)
        calls = [NativeCall(n.address("kernel"), t.table(words, s), s.units(1)) for n, s in
                 zip(natives, code.steps, strict=True)]  # fmt: skip
        program, times = Program(calls, t.WORDS, 0, 1), []
        while len(times) < 30 or sum(times) < 0.1:
            start = time.perf_counter()
            program.run()
            times.append(time.perf_counter() - start)
        rate = 2e-9 * c.macs / min(times)
        print(f"{ic:5} to {oc:4}, {size:3}², {k}×{k}, stride {stride}, groups {groups:3}: {1e6 * min(times):7.1f} µs, "
              f"{rate:4.0f} Gop/s, {rate / peak:4.0%} of the peak, {kernel.NAME}")  # fmt: skip


def make(name: str, folder: Path) -> None:
    """The files of a network: before, quantised, and a sample."""
    import dojang
    from dojang.formats import onnx, zoo

    file, _, size = name.partition("=")
    graph = dojang.load(file, input_size=tuple(map(int, size.split(",")))) if size else random_weights(zoo.load(name))
    rng, shape = np.random.default_rng(1), graph.inputs[0].attrs["shape"]
    onnx.save(graph, folder / "float32.onnx")
    small = dojang.quantize(graph, rng.standard_normal((8, *shape), np.float32), method="minmax", adapt=False)
    onnx.save(small, folder / "bytes.onnx")
    np.save(folder / "x.npy", rng.standard_normal((1, *shape), np.float32))


def runner(kind: str, folder: Path, threads: int):
    """A function from the sample to the answer."""
    path = str(folder / ("float32.onnx" if kind == "float32" else "bytes.onnx"))
    if kind in ("bytes", "float32"):
        from dojang.engine.compiled import compile
        from dojang.formats import onnx

        return compile(onnx.load(path), threads=threads)
    if kind == "onnxruntime":
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]
    sys.path.append(os.environ.get("DOJANG_PEERS", ""))
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, *np.load(folder / "x.npy").shape[1:]])
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer([x])[next(iter(request.results))]


def work(kind: str, folder: Path, threads: int) -> None:
    """Runs when told on stdin; prints the least and median seconds of a round."""
    run, x = runner(kind, folder, threads), np.load(folder / "x.npy")
    y = np.asarray(run(x))
    np.save(folder / f"{kind}.npy", y)
    print("ready", flush=True)
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in sys.stdin:
        times: list[float] = []
        while len(times) < 3 or sum(times) < SECONDS:
            start = clock()
            run(x)
            times.append(clock() - start)
        print(json.dumps([min(times), statistics.median(times)]), flush=True)


def network(name: str, threads: int) -> None:
    """All runtimes in turns."""
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        make(name, folder)
        found: dict[str, list[list[float]]] = {}
        children = {}
        for kind in KINDS:
            child = subprocess.Popen(
                [sys.executable, __file__, "--work", kind, where, str(threads)], text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )  # fmt: skip
            assert child.stdout is not None
            if child.stdout.readline().strip() == "ready":
                children[kind] = child
            else:
                print(f"    {kind} is not there, or cannot read the file")
        for _ in range(ROUNDS):
            for kind, child in children.items():
                child.stdin.write("go\n")
                child.stdin.flush()
                found.setdefault(kind, []).append(json.loads(child.stdout.readline()))
        for child in children.values():
            child.stdin.close()
            child.wait()
        answers = {kind: np.load(folder / f"{kind}.npy") for kind in children}
    best = {kind: 1e3 * min(least for least, _ in rounds) for kind, rounds in found.items()}
    middle = {kind: 1e3 * statistics.median(m for _, m in rounds) for kind, rounds in found.items()}
    size = float(np.abs(answers["float32"]).max())
    told = [f"{kind} {best[kind]:.2f} (median {middle[kind]:.2f})" for kind in found]
    off = [f"{kind} {float(np.abs(answers[kind] - answers['float32']).max()) / size:.3f}" for kind in found]
    short = Path(name.partition("=")[0]).stem
    print(f"{short}, {threads} threads, ms: {', '.join(told)}; off float32 by, of the largest answer: {', '.join(off)}",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("layers", "networks"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    asked = parser.parse_args()
    print(head("src/dojang/engine", "src/dojang/native", threads=max(asked.threads)))
    if asked.what == "layers":
        layers()
    else:
        for one in asked.names or NETWORKS:
            for count in asked.threads:
                network(one, count)

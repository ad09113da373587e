"""Other runtimes behind one interface, and the way times are taken: interleaved, warmed up, median and quartiles."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Runner = Callable[[], object]


def interleaved(runners: Mapping[str, Runner], seconds: float, least: int = 5) -> dict[str, list[float]]:
    """Times of each runner in seconds, taken in turns for about `seconds` in all."""
    for run in runners.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(next(iter(times.values()))) < least:
        for name in order:
            a = time.perf_counter()
            runners[name]()
            times[name].append(time.perf_counter() - a)
        order = order[1:] + order[:1]  # who goes second finds the input in the cache: let each be that
    return times


def in_bursts(
    runners: Mapping[str, Runner], seconds: float, pause: float = 40e-3, least: int = 5
) -> dict[str, list[float]]:
    """Like `interleaved`, for calls shorter than the time that runtimes let their idle threads spin.

    A turn is a pause, in which the threads of the runner before go to sleep, calls that wake this runner's own and are
    not counted, for 5 ms and at least two, and then calls for about 4 ms, again at least two. At least `least` turns:
    a system that wakes both threads of a runner on one core leaves them there for a whole turn. Without the pause, a
    runner's second thread finds its core taken by another runner's spinning thread, and is timed on one core, whoever
    it is: threads of ONNX Runtime spin for more than 20 ms after a run (an Intel server, whose `pause` takes long;
    2026). Without the first calls, a core that has slept is timed while its clock and its vector units still rise.
    """
    for run in runners.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    start = time.perf_counter()
    turns = 0
    while time.perf_counter() - start < seconds or turns < least:
        turns += 1
        for name in order:
            run, mine = runners[name], times[name]
            time.sleep(pause)
            woken = time.perf_counter()
            run()
            run()
            while time.perf_counter() - woken < 5e-3:
                run()
            turn = time.perf_counter()
            before = turn
            for k in range(1000):
                run()
                now = time.perf_counter()
                mine.append(now - before)
                before = now
                if now - turn > 4e-3 and k:
                    break
        order = order[1:] + order[:1]
    return times


def spread(values: list[float]) -> tuple[float, float, float]:
    """(least, median, interquartile range)."""
    if len(values) < 2:
        return values[0], values[0], 0.0
    q = statistics.quantiles(values, n=4)
    return min(values), statistics.median(values), q[2] - q[0]


def onnx_runner(model: bytes, feeds: dict[str, np.ndarray], threads: int) -> Runner:
    """ONNX Runtime, all graph optimisations, sequential execution."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino_runner(model: bytes, feeds: dict[str, np.ndarray], threads: int) -> Runner:
    """OpenVINO in float32, tuned for latency."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    for k, x in enumerate(feeds.values()):
        request.set_input_tensor(k, ov.Tensor(x, shared_memory=True))
    return request.infer


def ncnn_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """ncnn in float32, with Winograd and packed layouts; the file converted by pnnx. One image after another."""
    import ncnn
    import pnnx

    made = model.with_name("ncnn.ncnn.param")
    if not made.exists():
        mine = model.with_name("ncnn.onnx")
        mine.write_bytes(model.read_bytes())
        sizes = ",".join(map(str, (1, *x.shape[1:])))
        command = [pnnx.EXEC_PATH, mine.name, "fp16=0", f"inputshape=[{sizes}]"]
        subprocess.run(command, cwd=model.parent, check=True, capture_output=True)
    net = ncnn.Net()
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16")):
            setattr(net.opt, name, False)
    net.opt.num_threads = threads
    if net.load_param(str(made)) or net.load_model(str(made.with_suffix(".bin"))):
        raise ValueError("ncnn cannot load what pnnx wrote")
    images = [ncnn.Mat(image) for image in x]
    source, target = net.input_names()[0], net.output_names()[0]

    def run() -> np.ndarray:
        rows = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input(source, image)
            failed, out = extractor.extract(target)
            if failed:
                raise ValueError(f"ncnn ends with {failed}")
            rows.append(np.array(out))
        return np.stack(rows)

    return run


def mnn_runner(model: Path, x: np.ndarray, threads: int) -> Runner:
    """MNN in float32. Its command `mnnconvert` installs packages without asking; the function behind it does not."""
    import _tools
    import MNN.expr as expr
    import MNN.nn as nn

    made = model.with_name("mnn.mnn")
    if not made.exists():
        names = ("mnnconvert", "-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(made), "--bizCode", "bench")
        _tools.mnnconvert(list(names))
    import onnxruntime as ort

    session = ort.InferenceSession(model)
    ends = [[v.name for v in values] for values in (session.get_inputs(), session.get_outputs())]
    del session
    manager = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
    net = nn.load_module_from_file(str(made), *ends, runtime_manager=manager, shape_mutable=False)
    given = expr.const(x, list(x.shape), expr.NCHW)
    return lambda: net.onForward([given])[0].read()

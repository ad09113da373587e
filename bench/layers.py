"""Convolution layers against PyTorch (both layouts), ONNX Runtime and OpenVINO, in turns in one process.

    python bench/layers.py --threads 1 --seconds 0.3 --out bench/results/layers.txt [--batch 1] [--only TEXT]
    python bench/layers.py ... --part 2/5          every fifth layer; lines of other parts in --out stay
    python bench/layers.py ... --list bench/problems_large.txt             other layers than those of problems.txt

dojang is timed as it runs inside a network: activations channels last, weights packed beforehand, bias and ReLU
fused. PyTorch's channels-last run has the same terms; the graph runtimes get a model of one convolution and ReLU, in
their own best layout inside, and pay for converting at its borders. Ratio: best peer / dojang, of medians and of the
least times (which other work on the machine disturbs least). Runtimes take turns of some calls with a pause before,
so that the idle threads of one do not hold the core that another wants (`peers.in_bursts`).
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from dojang.arith.conv import Conv
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.task import Task
from dojang.engine.plan.choose import choose
from dojang.native import jit
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall, Program
from peers import in_bursts, onnx_runner, openvino_runner, spread
from problems import LIST, Problem, parse, read
from record import head as record_head

WIDTH = 52
MEASURES = ("src/dojang/engine", "src/dojang/native")


def ours(conv: Conv, x: np.ndarray, w: np.ndarray, b: np.ndarray, threads: int):
    """(algorithm, runner, output channels last)."""
    machine = Machine.host()
    task = Task.of(conv, activation=Activation("relu"))
    algorithm, _, _ = choose(task, machine)
    code = algorithm.emit(task, machine)
    last = t.on_line(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    packed = [t.on_line(p) for p in algorithm.pack(task, machine, w, b)]
    y = t.on_line(np.empty((conv.n, *conv.out_size, conv.oc), "f4"))
    shared = [t.on_line(np.zeros(s // 4 + 1, "f4")) for s in code.shared(conv.n)]
    words = [0] * t.WORDS
    words[t.X], words[t.W], words[t.B], words[t.Y], words[t.N] = (
        last.ctypes.data,
        packed[0].ctypes.data,
        packed[1].ctypes.data,
        y.ctypes.data,
        conv.n,
    )
    words[t.S0], words[t.S1] = (s.ctypes.data for s in shared)
    natives = jit.load_recipes([s.kernel for s in code.steps], machine)
    calls = [
        NativeCall(k.address("kernel"), t.table(words, s), s.units(conv.n))
        for k, s in zip(natives, code.steps, strict=True)
    ]
    program = Program(calls, t.WORDS, code.scratch, threads)
    keep = (last, packed, shared, natives)
    return algorithm.NAME, lambda keep=keep: program.run(), y


def onnx_model(conv: Conv, w: np.ndarray, b: np.ndarray) -> bytes:
    """A model of one convolution and ReLU."""
    from onnx import TensorProto, helper, numpy_helper

    pads = [p for p, _ in conv.padding] + [p for _, p in conv.padding]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=conv.kernel, strides=conv.stride, pads=pads,
                         group=conv.groups, dilations=conv.dilation),
        helper.make_node("Relu", ["c"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, conv.in_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, conv.out_shape)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def torch_runners(conv: Conv, x: np.ndarray, w: np.ndarray, b: np.ndarray):
    """PyTorch in both layouts, sequences as images of one row; asymmetric padding does not occur in the lists."""
    import torch
    import torch.nn.functional as F

    found = {}
    one = [[v] * (2 - conv.rank) for v in (0, 1)]
    pads = one[0] + [p for p, _ in conv.padding]
    stride, dilation = ([*one[1], *v] for v in (conv.stride, conv.dilation))
    if conv.rank == 1:
        x, w = x[:, :, None], w[:, :, None]
    for name, layout in (("torch", torch.contiguous_format), ("torch-last", torch.channels_last)):
        xt = torch.from_numpy(x).contiguous(memory_format=layout)
        wt = torch.from_numpy(w).contiguous(memory_format=layout)
        bt = torch.from_numpy(b)

        def run(xt=xt, wt=wt, bt=bt):
            with torch.inference_mode():
                return F.conv2d(xt, wt, bt, stride, pads, dilation, conv.groups).relu_()

        found[name] = run
    return found


def kind_of(conv: Conv) -> str:
    """What sort of layer, as in the summary."""
    if conv.groups > 1:
        return "depthwise" if conv.groups == conv.ic else f"{conv.groups} groups"
    if conv.ic <= 4:
        return "first layers"
    size = "x".join(map(str, conv.kernel))
    return size if conv.kernel == (1, 1) or conv.stride == (1, 1) else f"{size}, stride {conv.stride[0]}"


def bench(problem: Problem, batch: int, threads: int, seconds: float) -> str:
    """One line of the table."""
    c = problem.conv
    conv = Conv(batch, c.ic, c.oc, c.size, c.kernel, c.stride, c.padding, c.dilation, c.groups)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(conv.in_shape, np.float32)
    w = (rng.standard_normal(conv.weight_shape) / math.prod(conv.weight_shape[1:]) ** 0.5).astype("f4")
    b = rng.standard_normal(conv.oc).astype("f4")
    algorithm, run, y = ours(conv, x, w, b, threads)
    runners = {"dojang": run, **torch_runners(conv, x, w, b)}
    model = onnx_model(conv, w, b)
    runners["ort"] = onnx_runner(model, {"x": x}, threads)
    runners["openvino"] = openvino_runner(model, {"x": x}, threads)
    run()
    difference = float(np.abs(np.moveaxis(y, -1, 1) - runners["torch"]().numpy().reshape(conv.out_shape)).max())
    stats = {name: spread(v) for name, v in in_bursts(runners, seconds).items()}
    peers = [name for name in stats if name != "dojang"]
    gflops = 2 * conv.macs / 1e9
    median, least = (min(stats[p][i] for p in peers) / stats["dojang"][i] for i in (1, 0))
    best = min(peers, key=lambda p: stats[p][0])
    cells = " ".join(f"{stats[p][0] * 1e6:9.1f}" for p in stats)
    return (
        f"{problem.text:{WIDTH}s} {algorithm:10s} {gflops / stats['dojang'][0]:6.0f} {cells} "
        f"{median:6.2f} {least:6.2f} {best:10s} {difference:.0e}"
    )


def summary(rows: dict[str, str]) -> list[str]:
    """Geometric means by kind of layer and over all, from the lines of the table by problem."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    medians, leasts = [], []
    for text, line in rows.items():
        _, _, mine, torch_, last, _, _, median, least, *_ = line[WIDTH:].split()
        kinds.setdefault(kind_of(parse(text)), []).append((float(least), min(float(torch_), float(last)) / float(mine)))
        medians.append(float(median))
        leasts.append(float(least))
    mean_of = lambda values: math.exp(sum(map(math.log, values)) / len(values))  # noqa: E731
    lines = []
    for kind, pairs in sorted(kinds.items(), key=lambda item: -len(item[1])):
        best, torch_ = mean_of([p[0] for p in pairs]), mean_of([p[1] for p in pairs])
        behind = sum(p[0] < 1 for p in pairs)
        lines.append(
            f"# {kind} ({len(pairs)}): {best:.2f} to the best peer, {torch_:.2f} to PyTorch (least), behind on {behind}"
        )
    for what, ratios in (("medians", medians), ("least times", leasts)):
        mean = mean_of(ratios)
        ahead = sum(r > 1 for r in ratios)
        lines.append(
            f"# {what}: geometric mean {mean:.2f}, ahead on {ahead} of {len(ratios)} ({100 * ahead / len(ratios):.0f}%)"
        )
    return lines


def earlier(path: Path, conditions: str, problems: list[Problem]) -> dict[str, str]:
    """The lines of an earlier part by problem; stops where they were measured under other conditions."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    if conditions not in lines:
        sys.exit(f"{path} holds other measurements than {conditions[2:]!r}: name another file for --out")
    known = {p.text for p in problems}
    return {text: line for line in lines if (text := line[:WIDTH].strip()) in known}


def main() -> None:
    """Runs the list, or a part of it, and prints the table, losses included."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=Machine.host().cores)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--seconds", type=float, default=0.3, help="per layer, all runtimes together")
    p.add_argument("--only", default="", help="problems whose line or network contains this")
    p.add_argument("--part", default="1/1", help="K/N: every N-th problem from the K-th; --out keeps those of others")
    p.add_argument("--list", type=Path, default=LIST, help="file of problems")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    part, parts = (int(v) for v in args.part.split("/"))
    problems = read(args.list)
    wanted = [q for q in problems if args.only in q.text or args.only in q.network][part - 1 :: parts]
    if not wanted:
        sys.exit(f"no problem contains {args.only!r}")
    conditions = f"# {args.threads} threads, batch {args.batch}; least microseconds of each; ratio best peer / dojang"
    rows = earlier(args.out, conditions, problems) if args.out and parts > 1 else {}
    names = ("dojang", "torch", "torch-last", "ort", "openvino")
    columns = f"{'problem':{WIDTH}s} {'algorithm':10s} {'GFLOP/s':>6s} " + " ".join(f"{n:>9s}" for n in names)
    head = [record_head(*MEASURES, threads=args.threads).rstrip(), conditions, columns + " median  least"]
    print(*head, sep="\n", flush=True)
    for problem in wanted:
        rows[problem.text] = bench(problem, args.batch, args.threads, args.seconds)
        print(rows[problem.text], flush=True)
        if args.out:  # after each line, so that a run that is stopped loses nothing
            rows = {q.text: rows[q.text] for q in problems if q.text in rows}
            args.out.write_text("\n".join([*head, *rows.values(), *summary(rows)]) + "\n")
    print(*summary(rows), sep="\n")


if __name__ == "__main__":
    main()

"""Slimming side by side with Torch-Pruning: same networks, same loop, same epochs, one run, times in turns.

    pip install --target /tmp/tp --no-deps torch-pruning==1.6.1
    PYTHONPATH=/tmp/tp python bench/slim_peers.py --train ../shared/data/cifar10-jpeg-train.zip \\
        --test ../shared/data/cifar10-jpeg-test.zip --weights ../shared/data/resnet20-cifar10.safetensors \\
        --networks own-cnn resnet20 --train-samples 2000 --test-samples 2000 --epochs 4

can be stopped and given again: what is finished under --out is not done again. Every tool is asked for the same part of
the multiplications (--macs) and tunes its result with the same loop for the same epochs, taught by the original; the
control is the original tuned alike. With --minutes dojang tunes for as long as there is time, up to eight times the
epochs of the others, so that accuracies are to be compared without it. Torch-Pruning cuts in steps until the target is
reached, by magnitude, by group norm and by Taylor expansion, all layers compared (global) or those of one kind
(isomorphic). Wall time is that of the whole job of one tool: cutting, tuning, choosing. Accuracies are those of the
last epoch on a test part that chose nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dojang.app.networks import load
from dojang.app.progress import Stages
from dojang.app.runtimes import has_onnxruntime, runner, whole_vectors
from dojang.app.slimming import slim
from dojang.arith.cost import count
from dojang.native.machine import Machine
from dojang.slimming.timing import interleave
from experiment import MEASURES
from peer_networks import NETWORKS, Task, right, task, tune
from record import head

ROUNDS = 31

Tool = Callable[[Task, argparse.Namespace], nn.Module]


def by_dojang(own: Task, args: argparse.Namespace) -> nn.Module:
    """One call, with the loop of all tools."""

    def loop(module: nn.Module, teacher: nn.Module, share: float = 1.0) -> None:
        tune(module, own.train, args.epochs * share, teacher.eval(), args.seed)

    stages = Stages(f"{own.name} dojang")
    try:
        done = slim(
            own.module, own.train[0], tune=loop, evaluate=lambda module: right(module, own.select),
            target_macs=args.macs, seed=args.seed, minutes=args.minutes, progress=stages,
        )  # fmt: skip
    finally:
        stages.close()
    return done.module


def by_torch_pruning(importance: str, isomorphic: bool) -> Tool:
    """Torch-Pruning with one importance, then the same loop."""

    def cut(own: Task, args: argparse.Namespace) -> nn.Module:
        import torch_pruning as tp

        module = deepcopy(own.module)
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        scores = {
            "magnitude": lambda: tp.importance.MagnitudeImportance(p=2, group_reduction="first"),
            "group norm": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "taylor": lambda: tp.importance.GroupTaylorImportance(),
        }
        example = own.train[0][:1]
        heads = [m for m in module.modules() if isinstance(m, nn.Linear)] or [list(module.modules())[-1]]
        pruner = tp.pruner.BasePruner(
            module, example, scores[importance](), global_pruning=True, isomorphic=isomorphic, pruning_ratio=0.9,
            max_pruning_ratio=0.9, iterative_steps=60, ignored_layers=heads, round_to=whole_vectors() // 2,
        )  # fmt: skip
        whole = macs(own.module, example)
        for _ in range(60):
            if importance == "taylor":
                module.zero_grad()
                x, y = (t[:256] for t in own.train)
                F.cross_entropy(module(x), y).backward()
            pruner.step()
            if macs(module, example) <= args.macs * whole * 1.001:
                break
        module.zero_grad()
        tune(module, own.train, args.epochs, own.module.eval(), args.seed)
        return module

    return cut


def macs(module: nn.Module, example: torch.Tensor) -> int:
    """Multiplications of one sample, counted by dojang for every tool."""
    return count(load(module.eval(), input_size=tuple(example.shape[1:]))).total.macs


def control(own: Task, args: argparse.Namespace) -> nn.Module:
    """The original tuned alike."""
    module = deepcopy(own.module)
    tune(module, own.train, args.epochs, own.module.eval(), args.seed)
    return module


TOOLS: dict[str, Tool] = {"original": lambda own, args: own.module, "control": control, "dojang": by_dojang} | {
    f"torch-pruning {importance}, {'isomorphic' if isomorphic else 'global'}": by_torch_pruning(importance, isomorphic)
    for importance in ("magnitude", "group norm", "taylor")
    for isomorphic in (False, True)
}


def made(own: Task, name: str, args: argparse.Namespace) -> tuple[nn.Module | None, dict[str, Any]]:
    """What a tool made of a network, and its figures: as they were kept, or now."""
    place = args.out / f"{own.name}-{name.replace(' ', '-').replace(',', '')}"
    if place.with_suffix(".json").is_file():
        found = json.loads(place.with_suffix(".json").read_text())
        return (torch.load(place.with_suffix(".pt"), weights_only=False) if "failed" not in found else None), found
    print(f"{own.name}: {name}", flush=True)
    began = time.perf_counter()
    try:
        module = TOOLS[name](own, args).eval()
    except Exception as error:  # a tool that fails on a network is a row of the table
        if name in ("original", "control", "dojang"):
            raise
        found = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        place.with_suffix(".json").write_text(json.dumps(found))
        return None, found
    seconds = time.perf_counter() - began
    each = right(module, own.test)
    whole = macs(module, own.train[0][:1])
    found = {"accuracy": float(each.mean()), "seconds": seconds, "macs": whole, "each": each.tolist()}
    torch.save(module, place.with_suffix(".pt"))
    place.with_suffix(".json").write_text(json.dumps(found))
    return module, found


def timed(own: Task, modules: dict[str, nn.Module]) -> dict[tuple[str, str], float]:
    """Median milliseconds of one picture by (tool, runtime); all networks of one runtime in every round.

    A runtime at a time: within a round all run as often as the quickest needs, and runtimes differ by factors of ten.
    """
    x = own.train[0][:1].numpy()
    size = tuple(x.shape[1:])
    graphs = {name: load(module, input_size=size).alone() for name, module in modules.items()}
    found = dict[tuple[str, str], float]()
    for runtime in ("dojang", *(["onnxruntime"] if has_onnxruntime() else []), "torch"):
        print(f"{own.name}: times of {len(graphs)} networks on {runtime}", flush=True)
        runs = [runner(graph, runtime) for graph in graphs.values()]
        times = interleave([lambda run=run: run(x) for run in runs], ROUNDS)
        found |= {(name, runtime): median(own_times) for name, own_times in zip(graphs, times, strict=True)}
    return found


def rows(own: Task, args: argparse.Namespace) -> list[str]:
    """The table of one network."""
    modules, figures = dict[str, nn.Module](), dict[str, dict[str, Any]]()
    text = [f"{own.name}: {len(own.train[1])} pictures to tune with, {len(own.select[1])} to choose by, "
            f"{len(own.test[1])} to test with; {args.epochs:g} epochs"]  # fmt: skip
    for name in TOOLS:
        module, found = made(own, name, args)
        if module is None:
            text.append(f"{name:34} failed: {found['failed']}")
        else:
            modules[name], figures[name] = module, found
    times = timed(own, modules)
    runtimes = list(dict.fromkeys(runtime for _, runtime in times))
    text.insert(1, f"{'tool':34}{'MACs (M)':>9}{'fewer':>7}{'test %':>8}{'to control':>16}{'job s':>8}"
                   + "".join(f"{r + ' ms':>15}{'less':>7}" for r in runtimes))  # fmt: skip
    whole, each = figures["original"]["macs"], np.array(figures["control"]["each"])
    for name, found in figures.items():
        apart = np.array(found["each"]) - each
        error = float(apart.std() / sqrt(len(apart)))
        row = f"{name:34}{found['macs'] / 1e6:>9.2f}{whole / found['macs']:>7.2f}{100 * found['accuracy']:>8.2f}"
        row += f"{100 * apart.mean():>+9.2f} ± {100 * error:.2f}{found['seconds']:>8.0f}"
        for runtime in runtimes:
            now = times[name, runtime]
            row += f"{now:>15.3f}{times['original', runtime] / now:>6.2f}x"
        text.append(row)
    return text


def main() -> None:
    """Every network by every tool, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--macs", type=float, default=0.4)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--first-epochs", type=float, default=30)
    parser.add_argument("--minutes", type=float, help="time that dojang has for each network (default: no limit)")
    parser.add_argument("--train-samples", type=int, default=10000)
    parser.add_argument("--test-samples", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/slim-peers"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    said = (
        "to control: accuracy less that of the original tuned alike, with the standard error of the paired difference"
    )
    text = [head(*MEASURES, threads=Machine.host().cores), f"{said}. Times: medians of one picture, in turns"]
    if args.minutes is not None:
        text.append(f"dojang had {args.minutes:g} minutes and may have tuned longer than the other tools")
    for name in args.networks:
        text += ["", *rows(task(name, args), args)]
        print("\n".join(text[-len(TOOLS) - 2 :]), flush=True)
    (args.out / "summary.txt").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Slimming side by side with Torch-Pruning: same networks, same loop, same epochs, one run, times in turns.

    pip install --target /tmp/tp --no-deps torch-pruning==1.6.1
    PYTHONPATH=/tmp/tp OMP_NUM_THREADS=1 python bench/slim_peers.py --train ../shared/data/cifar10-jpeg-train.zip \\
        --test ../shared/data/cifar10-jpeg-test.zip --weights ../shared/data/resnet20-cifar10.safetensors

takes about half an hour of one core for each seed, and can be stopped and given again: what is finished under --out is
not done again, one file for each network, seed and tool. Each of --seeds is a network of its own: trained on pictures
of its own, cut and tuned by that seed.

Torch-Pruning cuts in small steps until at most --macs of the multiplications are left, by magnitude, by group norm
and by Taylor expansion, all layers compared (global) or those of one sort (isomorphic); its result is tuned with the
loop of all tools for --epochs, taught by the original. dojang is then asked for the multiplications of that one of the
six which answers the test parts best in the mean over the seeds, in each seed for what it came to there, so that
accuracies are compared at equal multiplications without interpolation; and once more for 1 / --further of them, to
see what it saves where accuracies are equal. What it takes has been tuned for the same epochs with the same loop, in
up to three parts, each with a cosine of its own. The control is the original tuned as the results of Torch-Pruning
are; dojang is told to tune none of its own, as Torch-Pruning tunes none.

The best of six on the test parts is a choice by the test parts, in favour of Torch-Pruning: dojang chooses by a
selection part of its own. With one seed the best of six is the luckiest of six, too: tuning the same cut with another
seed moves its accuracy by about a point on the small data. Job: processor seconds of one tool's whole work: cutting,
tuning, choosing; six jobs are needed to know which of the six is best. Accuracies are those of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from math import sqrt
from pathlib import Path
from statistics import mean, median
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
from dojang.base.errors import UsageError
from dojang.native.machine import Machine
from dojang.slimming.timing import interleave
from experiment import MEASURES
from peer_networks import NETWORKS, ResNet20, Task, right, task, tune
from record import head

ROUNDS = 31

STEPS = 100
"""Steps in which Torch-Pruning goes to 90 % of the channels, at most: small ones, so that it stops near the target."""

Tool = Callable[[Task, argparse.Namespace], nn.Module]

MATCHED, FURTHER = "dojang, same MACs", "dojang, fewer MACs"
"""What dojang is asked for: the multiplications of the best result of Torch-Pruning, and fewer than those."""


def by_dojang(part: float) -> Tool:
    """One call, with the loop of all tools. `part`: of the multiplications, what may be left."""

    def cut(own: Task, args: argparse.Namespace) -> nn.Module:
        def loop(module: nn.Module, teacher: nn.Module, share: float = 1.0) -> None:
            tune(module, own.train, args.epochs * share, teacher.eval(), args.seed)

        stages = Stages(f"{own.name} dojang")
        try:
            return slim(
                own.module, own.train[0], tune=loop, evaluate=lambda module: right(module, own.select),
                target_macs=part, seed=args.seed, progress=stages, control=False,
            ).module  # fmt: skip
        finally:
            stages.close()

    return cut


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
        alone = [m for m in module.modules() if isinstance(m, nn.Linear)]
        if isinstance(module, ResNet20):
            alone += module.streams()
        pruner = tp.pruner.BasePruner(
            module, example, scores[importance](), global_pruning=True, isomorphic=isomorphic, pruning_ratio=0.9,
            max_pruning_ratio=0.9, iterative_steps=STEPS, ignored_layers=alone, round_to=whole_vectors() // 2,
        )  # fmt: skip
        whole = macs(own.module, example)
        for _ in range(STEPS):
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


PEERS: dict[str, Tool] = {
    f"torch-pruning {importance}, {'isomorphic' if isomorphic else 'global'}": by_torch_pruning(importance, isomorphic)
    for importance in ("magnitude", "group norm", "taylor")
    for isomorphic in (False, True)
}


def made(own: Task, name: str, tool: Tool, args: argparse.Namespace) -> tuple[nn.Module | None, dict[str, Any]]:
    """What a tool made of a network, and its figures: as they were kept, or now.

    Raises `UsageError` where what is kept was made with other settings.
    """
    place = args.out / f"{own.name}-{name.replace(' ', '-').replace(',', '')}"
    asked = {key: getattr(args, key) for key in SETTINGS}
    if place.with_suffix(".json").is_file():
        found = json.loads(place.with_suffix(".json").read_text())
        if found["asked"] != asked:
            raise UsageError(f"{place}.json: was made with {found['asked']}, not {asked}; give another --out")
        return (torch.load(place.with_suffix(".pt"), weights_only=False) if "failed" not in found else None), found
    print(f"{own.name}: {name}", flush=True)
    began = time.process_time()
    try:
        module = tool(own, args).eval()
    except Exception as error:  # a tool that fails on a network is a row of the table
        if name not in PEERS:
            raise
        failed = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        found = {"asked": asked, "failed": failed}
        place.with_suffix(".json").write_text(json.dumps(found))
        return None, found
    seconds = time.process_time() - began
    each = right(module, own.test)
    whole = macs(module, own.train[0][:1])
    found = {"asked": asked, "accuracy": float(each.mean()), "seconds": seconds, "macs": whole, "each": each.tolist()}
    torch.save(module, place.with_suffix(".pt"))
    place.with_suffix(".json").write_text(json.dumps(found))
    return module, found


SETTINGS = ("macs", "further", "epochs", "first_epochs", "train_samples", "test_samples", "seed")
"""What has to be equal for a result to be taken up again."""


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


Made = dict[str, list[dict[str, Any]]]
"""The figures of every tool, one for each seed."""


def rows(name: str, args: argparse.Namespace) -> list[str]:
    """The table of one network, and what came of it."""
    runs = [_of_seed(args, seed) for seed in args.seeds]
    tasks = [task(name, own) for own in runs]
    modules: list[dict[str, nn.Module]] = [{} for _ in runs]
    figures, text = Made(), list[str]()

    def make(tool: str, cut: Callable[[int], Tool]) -> None:
        """A tool on the networks of all seeds; one that fails on one of them is a row that says so."""
        found = list[dict[str, Any]]()
        for place, (own, asked) in enumerate(zip(tasks, runs, strict=True)):
            module, figure = made(own, tool, cut(place), asked)
            if module is None:
                text.append(f"{tool:36} failed: {figure['failed']}")
                return
            modules[place][tool] = module
            found.append(figure)
        figures[tool] = found

    for tool, cut in ({"original": lambda own, args: own.module, "control": control} | PEERS).items():
        make(tool, lambda place, cut=cut: cut)
    peers = [tool for tool in figures if tool in PEERS]
    if not peers:
        raise UsageError(f"{name}: Torch-Pruning made nothing; {text[-1]}")
    whole = [one["macs"] for one in figures["original"]]
    best = max(peers, key=lambda tool: mean(_all(figures, tool, "accuracy")))
    parts = [one["macs"] / macs for one, macs in zip(figures[best], whole, strict=True)]
    make(MATCHED, lambda place: by_dojang(parts[place]))
    make(FURTHER, lambda place: by_dojang(parts[place] / args.further))
    times = _mean_times([timed(own, done) for own, done in zip(tasks, modules, strict=True)], list(figures))
    runtimes = list(dict.fromkeys(runtime for _, runtime in times))
    first = tasks[0]
    head = [
        f"{name}: {len(first.train[1])} pictures to tune with, {len(first.select[1])} to choose by, "
        f"{len(first.test[1])} to test with; {args.epochs:g} epochs; means of seeds {' '.join(map(str, args.seeds))}",
        f"{'tool':36}{'MACs (M)':>9}{'fewer':>7}{'test %':>8}{'to control':>16}{'job s':>8}"
        + "".join(f"{r + ' ms':>15}{'less':>7}" for r in runtimes),
    ]
    for tool in figures:
        line = (f"{tool:36}{mean(_all(figures, tool, 'macs')) / 1e6:9.2f}{_fewer(figures, tool, 'original'):7.2f}"
                f"{100 * mean(_all(figures, tool, 'accuracy')):8.2f}"
                f"{_apart(figures, tool, 'control'):>16}{mean(_all(figures, tool, 'seconds')):8.1f}")  # fmt: skip
        for runtime in runtimes:
            spent = times[tool, runtime]
            line += f"{spent:15.3f}{times['original', runtime] / spent:6.2f}x"
        text.append(line)
    for tool in (MATCHED, FURTHER):
        faster = ", ".join(f"{times[best, r] / times[tool, r]:.2f} on {r}" for r in runtimes)
        job = mean(_all(figures, tool, "seconds"))
        text.append(
            f"{tool} against {best}, the best of {len(peers)} on the test parts: "
            f"{_apart(figures, tool, best)} points, {_fewer(figures, tool, best):.2f} times fewer MACs, "
            f"times less time: {faster}; job {job / mean(_all(figures, best, 'seconds')):.1f} times its, "
            f"{job / sum(mean(_all(figures, peer, 'seconds')) for peer in peers):.1f} times that of all"
        )
    return [*head, *text]


def _of_seed(args: argparse.Namespace, seed: int) -> argparse.Namespace:
    """The settings for one seed, with a folder of its own."""
    own = argparse.Namespace(**{**vars(args), "seed": seed, "out": args.out / f"seed{seed}"})
    own.out.mkdir(parents=True, exist_ok=True)
    return own


def _all(figures: Made, tool: str, key: str) -> list[float]:
    """One figure of a tool, of every seed."""
    return [float(one[key]) for one in figures[tool]]


def _fewer(figures: Made, tool: str, than: str) -> float:
    """How many times fewer multiplications a tool leaves than another, the mean over seeds."""
    return mean(b / a for a, b in zip(_all(figures, tool, "macs"), _all(figures, than, "macs"), strict=True))


def _mean_times(found: Sequence[dict[tuple[str, str], float]], tools: Sequence[str]) -> dict[tuple[str, str], float]:
    """The mean over seeds of the times of each tool that made a network of every one."""
    return {key: mean(one[key] for one in found) for key in found[0] if key[0] in tools}


def _apart(figures: Made, tool: str, than: str) -> str:
    """By how many points a tool is better than another in the mean over seeds, with the standard error of that: of the
    paired differences of one seed over the samples, of several over the seeds, which has tuning's own chance in it.
    """
    each = [np.array(a["each"]) - np.array(b["each"]) for a, b in zip(figures[tool], figures[than], strict=True)]
    values = each[0] if len(each) == 1 else np.array([float(one.mean()) for one in each])
    error = float(values.std(ddof=1)) / sqrt(len(values))
    return f"{100 * float(values.mean()):+.2f} ± {100 * error:.2f}"


def main() -> None:
    """Every network by every tool, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--macs", type=float, default=0.4)
    parser.add_argument("--further", type=float, default=1.3)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--first-epochs", type=float, default=30)
    parser.add_argument("--train-samples", type=int, default=2500)
    parser.add_argument("--test-samples", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("out/slim-peers"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    text = [
        head(*MEASURES, threads=Machine.host().cores, extra=("torch-pruning",)).rstrip(),
        "# to control: accuracy less that of the original tuned alike; standard error over the seeds",
        "# job: processor seconds, PyTorch on one thread. Times: medians of one picture, all networks in turns",
        "",
    ]
    for name in args.networks:
        found = rows(name, args)
        print("\n".join(found), flush=True)
        text += [*found, ""]
        (args.out / "summary.txt").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()

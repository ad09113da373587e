"""ResNet-20 on CIFAR-10, slimmed: the lossless certificate, then at most half of the multiplications, peers beside.

    python bench/slim_resnet20.py --weights resnet20-cifar10.safetensors --train cifar10-train.zip \\
        --test cifar10-test.zip --epochs 40 --out out/resnet20

One command that can be stopped at any moment and given again: each slimming keeps its measurements, tunings and
trainings in its own folder under --out and goes on from there; what is finished is not done again. For each fraction
of --targets (of the multiplications, and of as much of the time as `ASKED` says) and of --target-times (of the time)
one network is searched; for each of --cuts (`by_hand.py`) one is made as it is said, tuned alike. `summary.txt` in
--out has the figures of all, with PyTorch's and ONNX Runtime's time on the same networks, interleaved, and how much of
the saved multiplications dojang's clock sees, by medians and by least times.
    python bench/slim_resnet20.py --weights ../shared/data/resnet20-cifar10.safetensors \\
        --train ../shared/data/cifar10-jpeg-train.zip --test ../shared/data/cifar10-jpeg-test.zip \\
        --precision bf16 --epochs 4 --final-epochs 0 --minutes 50 --max-drop 3 --targets 0.476 --out out/resnet20-50

is one search for 2.1 times fewer multiplications within 50 minutes, which says on the way how much of the time is over.
A training pass over 45,000 pictures takes 1 to 4 minutes on two quiet cores. A target takes two or three tunings of
--epochs, --final-epochs at its end, and as many for its control: 40 final epochs are hours. --epochs 1 --final-epochs 0
--train-samples 2000 is a look at the whole way in minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from by_hand import made as made_by_hand
from dojang.app.progress import Stages
from dojang.app.runtimes import has_onnxruntime, runner
from dojang.app.slimming import slim
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.formats import checkpoint, zoo
from dojang.native.machine import Machine
from dojang.slimming.timing import interleave
from experiment import MEASURES
from record import head as record_head

NAME = "resnet20-cifar10"
ROUNDS = 101

CLOCKED = 0.9
"""Part of the ratio of multiplications that the clock shall see: half of them in at most 1 / 1.8 of the time."""

ASKED = 0.93
"""What the search is asked for: cuts come in steps, so that more multiplications go than have to, and clocks vary."""


def made(place: Path, args: argparse.Namespace, **asked: Any) -> dict[str, Any]:
    """The record of one slimming: read where it is finished, else made or gone on with."""
    if not (place / "run.json").exists():
        stages = Stages(place.name)
        try:
            slim(
                NAME,
                args.train,
                val_data=args.test,
                weights=args.weights,
                epochs=args.epochs,
                final_epochs=args.final_epochs,
                precision=args.precision,
                seed=args.seed,
                train_samples=args.train_samples,
                minutes=None if asked.get("lossless") else args.minutes,
                batch_size=args.batch,
                output=place,
                resume=True,
                progress=stages,
                **asked,
            )
        finally:
            stages.close()
    return json.loads((place / "run.json").read_text())["results"]


def timed(networks: dict[str, Graph], batch: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds by (network, runtime), every pair in every round."""
    shape = next(iter(networks.values())).inputs[0].attrs["shape"]
    x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
    runtimes = ["dojang", "torch", "torch channels-last", *(["onnxruntime"] if has_onnxruntime() else [])]
    pairs = [(name, runtime) for name in networks for runtime in runtimes]
    runs = [runner(networks[name], runtime) for name, runtime in pairs]
    times = interleave([lambda run=run: run(x) for run in runs], ROUNDS)
    return dict(zip(pairs, times, strict=True))


def tried(found: dict[str, Any]) -> list[str]:
    """Every candidate of a search: what it is made of, its multiplications and time, its curve beside the control's."""
    whole = max(1, found["before"]["macs"])
    rows: list[str] = []
    for one in found.get("candidates", ()):
        curve = ", ".join(
            f"{share:.3g}: {100 * m:.2f} ({100 * c:.2f})" for share, m, c in one["curve"] if c is not None
        )
        took = "taken" if one["taken"] else one["why"]
        rows.append(f"{one['ranking']}: {one['macs'] / whole:.1%} MACs, {one['time']:.1%} time; {curve}; {took}")
    return rows


def lines(results: dict[str, dict[str, Any]], networks: dict[str, Graph], batch: int) -> list[str]:
    """The summary: accuracy beside the control's, multiplications, milliseconds per runtime."""
    times = timed(networks, batch)
    runtimes = list(dict.fromkeys(runtime for _, runtime in times))
    macs = {name: count(graph).total.macs for name, graph in networks.items()}
    head = f"{'network':16}{'accuracy':>10}{'control':>10}{'MACs (M)':>10}{'ratio':>7}{'seen':>6}{'(least)':>8}"
    text = [record_head(*MEASURES, threads=Machine.host().cores), head + "".join(f"{r:>22}" for r in runtimes)]
    for name in networks:
        found = results[name]
        side, control = found["before" if name == "original" else "after"], found.get("control")
        told = f"{100 * control['accuracy']:.2f}" if control and control["accuracy"] is not None else "-"
        ratio = macs["original"] / macs[name]
        row = f"{name:16}{100 * side['accuracy']:>10.2f}{told:>10}{macs[name] / 1e6:>10.2f}{ratio:>7.2f}"
        old, new = times["original", "dojang"], times[name, "dojang"]
        row += f"{median(old) / median(new) / ratio:>6.2f}{min(old) / min(new) / ratio:>8.2f}"
        for runtime in runtimes:
            own = median(times[name, runtime])
            row += f"{own:>10.3f} ms {median(times['original', runtime]) / own:>5.2f} x "
        text.append(row)
    text += [
        "",
        "x: how many times less time than the original on that runtime (medians). Seen: that on dojang over the",
    ]
    for name, found in results.items():
        text += [f"{name}: {line}" for line in tried(found)]
    text += [f"ratio of multiplications, {CLOCKED} being asked for. Control: the original, tuned as long."]
    certificate = results["lossless"]["certificate"]
    for feed, difference in certificate.items():
        said = f"float64 {difference['float64']:.1e}, float32 {difference['float32']:.1e}"
        text.append(f"lossless, {difference['inputs']} {feed} inputs, largest difference over largest output: {said}")
    for name, found in results.items():
        text += [f"{name}: {note}" for note in found["notes"] if name != "original"]
    return text


def main() -> None:
    """Makes what is missing, times all, writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--final-epochs", type=int, default=40)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--train-samples", type=int)
    parser.add_argument("--minutes", type=float, help="time of each search; without it --epochs say how long it tunes")
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--targets", type=float, nargs="*", default=[0.75, 0.5, 0.4])
    parser.add_argument("--target-times", type=float, nargs="*", default=[])
    parser.add_argument("--cuts", nargs="*", default=[], help="cuts chosen by hand, as by_hand.py has them")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/resnet20"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for target in args.targets:
        asked = {"target_macs": target, "target_time": min(1.0, target / ASKED), "max_drop": args.max_drop}
        results[f"macs-{target:g}"] = made(args.out / f"macs-{target:g}", args, **asked)
    for target in args.target_times:
        name = f"time-{target:g}"
        results[name] = made(args.out / name, args, target_time=target, max_drop=args.max_drop)
    original = zoo.load(NAME).replace(weights=checkpoint.read_arrays(args.weights))
    for number, said in enumerate(args.cuts, 1):
        stages = Stages(f"cut-{number}")
        try:
            results[f"cut-{number}"] = made_by_hand(original, said, args.out / f"cut-{number}", args, stages)
        finally:
            stages.close()
    results = {"lossless": made(args.out / "lossless", args, lossless=True), **results}
    networks = {"original": original}
    networks |= {name: checkpoint.load(args.out / name / "model.safetensors") for name in results}
    results["original"] = results["lossless"]
    text = "\n".join(lines(results, networks, args.batch))
    print(text)
    (args.out / "summary.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How many channels of an over-wide VGG die by themselves, and what removing them without loss gives.

    python bench/overwide.py --threads 1 --epochs 40 --out out/overwide
    python bench/overwide.py --train cifar10-train.zip --test cifar10-test.zip --train-samples 5000 --epochs 10

A VGG with batch norm for small pictures, `--width` times as wide as 16, 32, 64 (six convolutions), trained here on the
handwritten digits or the pictures given, once per value of --scale-l1: the penalty on the scales of batch norms (Liu et
al., "Network slimming", ICCV 2017; soft-thresholded after each step, so that scales become exactly 0), 0 being the
usual recipe. Then `dojang diagnose` says which channels are proved dead, constant or duplicate and which no sample
makes speak; `dojang slim --lossless` removes what is proved, with its certificate. `summary.txt` in --out has it all.
Can be stopped at any moment and given again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from dojang.app.diagnosing import SAMPLES
from dojang.app.slimming import UNFINISHED, slim
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.formats import checkpoint
from dojang.formats.text import parse
from dojang.training.data import Data
from dojang.training.load import load
from experiment import begin, finish, flags, heading, timed, trained

KINDS = ("dead-proven", "constant", "duplicate", "dead-observed")


def network(width: float, shape: tuple[int, ...], classes: int) -> Graph:
    """The VGG for samples of that shape: three pairs of 3x3 convolutions, pooled after each."""
    a, b, c = (round(width * channels) for channels in (16, 32, 64))
    lines = [
        "block layer(filters)", "  conv: conv $filters 3x3 pad=1 bias=no", "  bn: batchnorm", "  relu", "end",
        f"input {'x'.join(map(str, shape))}",
        f"conv1: layer {a}", f"conv2: layer {a}", "pool1: maxpool 2x2",
        f"conv3: layer {b}", f"conv4: layer {b}", "pool2: maxpool 2x2",
        f"conv5: layer {c}", f"conv6: layer {c}", "pool3: global_avgpool", "flatten", f"dense {classes}",
    ]  # fmt: skip
    return parse("\n".join(lines), f"vgg-{a}-{b}-{c}")


def wasted(record: dict[str, Any]) -> dict[str, int]:
    """Channels by kind of finding, as slimming found them before its cuts; the evidence is in its record."""
    found = Counter[str]()
    for finding in record["findings"]:
        found[finding["kind"]] += len(finding["channels"])
    return {kind: found[kind] for kind in KINDS}


def lossless(place: Path, network: Graph, data: Data, args: Any) -> tuple[Graph, dict[str, Any]]:
    """The network slimmed without loss, and its record; read where it is finished."""
    if not (place / "run.json").exists():
        shutil.rmtree(place / UNFINISHED, ignore_errors=True)
        slim(network, data, lossless=True, seed=args.seed, output=place, force=True)
    return checkpoint.load(place / "model.safetensors"), json.loads((place / "run.json").read_text())["results"]


def main() -> None:
    """Trains what is missing, diagnoses, slims, times."""
    parser = flags(__doc__, "digits", 40, "out/overwide")
    parser.add_argument("--width", type=float, default=4.0)
    parser.add_argument("--scale-l1", type=float, nargs="+", default=[0.0, 0.02, 0.1])
    args = parser.parse_args()
    first = load(args.train, val=args.test)
    graph = network(args.width, first.sample_shape, first.outputs)
    data = begin(args, graph)
    text = [heading(args, data), "penalty on batch norms' scales; channels that are wasted, of all; what is left"]
    head = f"{'penalty':>8}{'train %':>9}{'test %':>8}{'all':>6}" + "".join(f"{kind:>15}" for kind in KINDS)
    text.append(
        head
        + f"{'params (k)':>12}{'after':>8}{'MACs (M)':>10}{'after':>8}{'least':>8}{'after':>8}{'median':>8}{'after':>8}"
    )
    said = list[str]()
    for penalty in args.scale_l1:
        name = f"l1-{penalty:g}"
        full, run = trained(name, graph, data, args, scale_l1=penalty)
        less, record = lossless(args.out / f"{name}-lossless", full, data, args)
        times = timed({"full": full, "less": less}, args)
        channels = sum(n.attrs["out"] for n in full.nodes if n.op == "conv")
        row = f"{penalty:>8g}{100 * run['train_accuracy']:>9.2f}{100 * run['test_accuracy']:>8.2f}{channels:>6}"
        row += "".join(f"{number:>15}" for number in wasted(record).values())
        for figure, scale, digits in (("params", 1e3, 1), ("macs", 1e6, 2)):
            for side, width in zip((full, less), (12 if figure == "params" else 10, 8), strict=True):
                row += f"{getattr(count(side).total, figure) / scale:>{width}.{digits}f}"
        for place in (0, 1):
            row += "".join(f"{times[side][place]:>8.3f}" for side in ("full", "less"))
        text.append(row)
        for feed, d in record["certificate"].items():
            said.append(
                f"{name}: {d['inputs']} {feed} inputs, largest difference over largest output: "
                f"float64 {d['float64']:.1e}, float32 {d['float32']:.1e}"
            )
        said.append(
            f"{name}: test accuracy {record['before']['accuracy']:.4f}, after {record['after']['accuracy']:.4f}; "
            + "; ".join(f"{e['rewrite']}: {e['found']}" for e in record["edits"])
        )
    text += [
        "",
        "dead-proven: for every input of the range. Constant, duplicate: proved, or observed (as dead-observed)",
    ]
    text += [
        f"on {SAMPLES} training samples at most; only what is proved is removed. The rest is in the records.",
        "",
        *said,
    ]
    finish(args, "\n".join(text))


if __name__ == "__main__":
    main()

"""What a dense head costs and gives: an AlexNet for 32x32 pictures against the same with global average pooling.

    python bench/dense_head.py --train cifar10-train.zip --test cifar10-test.zip --train-samples 10000 --epochs 15 \\
        --threads 1 --out out/dense_head

Three networks, one recipe: `dense` as published (five convolutions, grouped as in the two towers, three dense layers
with dropout; batch norm instead of response normalisation), `pooled` (features averaged, one dense layer) from scratch,
and `rewritten`: the trained `dense` given a pooled head by slim's least squares, before and after fine-tuning with the
original as teacher for as many epochs at half the learning rate. `summary.txt` in --out has parameters, MACs, the gap
between train and test accuracy, time. Can be stopped at any moment and given again.

    python bench/dense_head.py --train cifar10-train.zip --test cifar10-test.zip --train-samples 2000 --epochs 20 \\
        --unvaried --seeds 0 1 2 --threads 1 --out out/dense_head_seeds

Whether a dense head over-fits and pooling cures it, by mean and spread: with several --seeds the two that start from
scratch are trained once per seed (weights, order, dropout; the pictures are the same), without times. --unvaried: the
pictures as they are, neither shifted nor mirrored, so that they can be learnt by heart.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from dojang.app.diagnosing import some_inputs
from dojang.app.slimming import accuracy
from dojang.app.tuning import TUNE_SHARE
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.evidence.evidence import Evidence
from dojang.formats.text import parse
from dojang.slimming.structural import pooled_head
from dojang.training.data import Augment, Data
from experiment import begin, finish, flags, heading, timed, trained

FEATURES = """
block layer(filters, kernel, groups=1)
  conv: conv $filters $kernel pad=same groups=$groups
  bn: batchnorm
  relu
end
input 3x32x32 mean=0.485,0.456,0.406 std=0.229,0.224,0.225
conv1: layer 48 5x5
pool1: maxpool 3x3/2
conv2: layer 128 5x5 groups=2
pool2: maxpool 3x3/2
conv3: layer 192 3x3
conv4: layer 192 3x3 groups=2
conv5: layer 128 3x3 groups=2
pool5: maxpool 3x3/2
"""
DENSE = """
flatten
fc6: dense 2048
relu6: relu
drop6: dropout
fc7: dense 2048
relu7: relu
drop7: dropout
fc8: dense 10
"""
POOLED = """
pool: global_avgpool
flatten
fc8: dense 10
"""
SAMPLES = 2000


def row(name: str, graph: Graph, train: float, test: float, time: Any) -> str:
    """One line of the table."""
    total = count(graph).total
    head = sum(r.cost.params for r in count(graph).layers if r.op == "dense")
    least, middle, iqr = time
    return (
        f"{name:24}{total.params / 1e3:>11.1f}{100 * head / total.params:>8.1f}{total.macs / 1e6:>10.2f}"
        f"{100 * train:>9.2f}{100 * test:>8.2f}{100 * (train - test):>7.2f}{least:>8.3f}{middle:>9.3f}{iqr:>8.3f}"
    )


def over_seeds(plain: dict[str, Graph], data: Data, args: Any) -> list[str]:
    """Train and test accuracy and their gap, mean and standard deviation over seeds, and how pooling changes them."""
    runs = dict[str, list[tuple[float, float]]]()
    for seed in args.seeds:
        own = Namespace(**{**vars(args), "seed": seed})
        for name, graph in plain.items():
            _, found = trained(f"{name}-{seed}", graph, data, own, lr=args.lr, **_unvaried(args))
            runs.setdefault(name, []).append(_figures(found))
    text = [f"{'network':24}{'train %':>16}{'test %':>16}{'gap':>16}   test % by seed"]
    for name, pairs in runs.items():
        parts = [_spread(values) for values in (*zip(*pairs, strict=True), [train - test for train, test in pairs])]
        text.append(f"{name:24}{''.join(parts)}   {' '.join(f'{100 * test:.2f}' for _, test in pairs)}")
    less = [
        [b - a for a, b in zip(dense, pooled, strict=True)]
        for dense, pooled in zip(*([(*pair, pair[0] - pair[1]) for pair in own] for own in runs.values()), strict=True)
    ]
    text.append(f"{'pooled - dense':24}{''.join(_spread(list(values)) for values in zip(*less, strict=True))}")
    return [*text, "", "mean ± standard deviation over seeds; the last line over the differences seed by seed."]


def _spread(values: Any) -> str:
    return f"{100 * mean(values):>9.2f} ± {100 * stdev(values):.2f}"


def _unvaried(args: Any) -> dict[str, Any]:
    return {"augment": Augment()} if args.unvaried else {}


def main() -> None:
    """Trains what is missing, rewrites, tunes, scores, times."""
    parser = flags(__doc__, None, 15, "out/dense_head")
    parser.add_argument("--lr", type=float, default=0.02, help="peak learning rate of all that start from scratch")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="several: mean and spread, from scratch only")
    parser.add_argument("--unvaried", action="store_true", help="train on the pictures as they are")
    args = parser.parse_args()
    plain = {
        name: parse(FEATURES + head, f"alexnet-32-{name}") for name, head in (("dense", DENSE), ("pooled", POOLED))
    }
    data = begin(args, plain["dense"])
    if args.unvaried:
        data = replace(data, augment=Augment())
    if len(args.seeds) > 1:
        said = Namespace(**{**vars(args), "seed": ", ".join(map(str, args.seeds))})
        finish(args, "\n".join([heading(said, data), *over_seeds(plain, data, args)]))
        return
    networks, found = dict[str, Graph](), dict[str, dict[str, Any]]()
    for name, graph in plain.items():
        networks[name], found[name] = trained(name, graph, data, args, lr=args.lr, **_unvaried(args))
    made = pooled_head(Evidence(networks["dense"], some_inputs(data, SAMPLES, args.seed)))
    if made is None:
        raise RuntimeError("slim found no dense head to replace in a network that has one")
    networks["rewritten"], found["rewritten"] = trained(
        "rewritten",
        replace(made.graph, name="alexnet-32-rewritten"),
        data,
        args,
        teacher=networks["dense"],
        lr=TUNE_SHARE * args.lr,
        **_unvaried(args),
    )
    before = [accuracy(made.graph, part) for part in (data.train, data.test)]
    times = timed(networks, args)
    text = [
        heading(args, data),
        f"{'network':24}{'params (k)':>11}{'head %':>8}{'MACs (M)':>10}{'train %':>9}{'test %':>8}{'gap':>7}"
        f"{'least':>8}{'median':>9}{'iqr':>8}",
        row("dense", networks["dense"], *_figures(found["dense"]), times["dense"]),
        row("pooled, from scratch", networks["pooled"], *_figures(found["pooled"]), times["pooled"]),
        row("rewritten, not tuned", made.graph, before[0], before[1], times["rewritten"]),
        row("rewritten, tuned", networks["rewritten"], *_figures(found["rewritten"]), times["rewritten"]),
        "",
        f"head %: part of the parameters in dense layers. The rewritten head is fitted on {SAMPLES} training pictures",
        "at most, without labels; its network has had twice the epochs of the others, half of them before the rewrite.",
        f"Peak learning rate {args.lr:g} from scratch, {TUNE_SHARE * args.lr:g} for tuning.",
        "Dropout 0.5 in the dense head.",
    ]
    finish(args, "\n".join(text))


def _figures(run: dict[str, Any]) -> tuple[float, float]:
    return run["train_accuracy"], run["test_accuracy"]


if __name__ == "__main__":
    main()

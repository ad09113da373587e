"""What the training experiments share: flags, data, networks trained once with one recipe and found again."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.samples import load_samples
from dojang.app.slimming import fewer
from dojang.app.training import described
from dojang.arith.graph import Graph
from dojang.base.errors import UsageError
from dojang.engine.compiled import Compiled
from dojang.formats import checkpoint
from dojang.training.config import PRECISIONS, TrainConfig
from dojang.training.data import Data, content_hash
from dojang.training.record import Progress
from peers import interleaved, spread
from record import head

MEASURES = tuple(f"src/dojang/{room}" for room in ("training", "slimming", "evidence", "engine", "native"))


def flags(doc: str | None, data: str | None, epochs: int, out: str) -> argparse.ArgumentParser:
    """The flags of every experiment; `data` is the default of --train, None where it has to be given."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--train", required=data is None, default=data, help="training data: a zip, a folder, digits")
    parser.add_argument("--test", help="the test part, where --train has none of its own")
    parser.add_argument("--train-samples", type=int, help="use so many of the training samples only")
    parser.add_argument("--test-samples", type=int, help="use so many of the test samples only")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--train-scored", type=int, help="measure the final train accuracy on so many samples only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing, for all networks together")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def begin(args: argparse.Namespace, graph: Graph) -> Data:
    """The data for this network, and PyTorch on as many threads as asked."""
    import torch

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    data = load_samples(args.train, graph, args.test)
    parts = {"train": args.train_samples, "test": args.test_samples}
    less = {part: fewer(getattr(data, part), most, args.seed) for part, most in parts.items() if most is not None}
    data = replace(data, **less)
    return replace(data, hash=content_hash((data.train, data.test), data.classes)) if less else data


def trained(name: str, graph: Graph, data: Data, args: argparse.Namespace, **more: Any) -> tuple[Graph, dict[str, Any]]:
    """The network of that name after training, and the record of its run.

    What is finished in its folder under --out is read; what was interrupted goes on where it stood. Raises `UsageError`
    when the folder holds a run with other settings.
    """
    from dojang.formats.torch import weights_of
    from dojang.training.loop import fit
    from dojang.training.start import module_of

    teacher: Graph | None = more.pop("teacher", None)
    config = TrainConfig(
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        precision=args.precision,
        device="cpu",
        test_every=args.epochs,
        train_scored=args.train_scored,
    )
    config = replace(config, **more)
    place = args.out / name
    about = {"network": graph.name, "config": config.to_dict(), "data": data.hash, "taught": teacher is not None}
    about = json.loads(json.dumps(about))  # as it is read back
    done = place / "run.json"
    if done.exists():
        found = json.loads(done.read_text(encoding="utf-8"))
        if found["about"] != about:
            raise UsageError(f"{done}: was made with other settings or data; give another --out")
        return checkpoint.load(place / "model.safetensors"), found["history"]
    place.mkdir(parents=True, exist_ok=True)

    def tell(now: Progress) -> None:
        if now.done is not None:
            seen = f"loss {now.done.train_loss:.3f}, accuracy {now.done.train_accuracy:.3f} while training"
            print(f"{name}: epoch {now.epoch} of {now.epochs}, {seen}, {now.done.seconds:.0f} s", file=sys.stderr)

    module = module_of(graph, args.seed)
    taught = None if teacher is None else module_of(teacher, args.seed)
    history = fit(module, data, config, teacher=taught, directory=place, resume=True, progress=tell).to_dict()
    result = described(weights_of(module, graph), data, config)
    checkpoint.save(result, place / "model.safetensors", force=True)
    done.write_text(json.dumps({"about": about, "history": history}, indent=1), encoding="utf-8")
    return result, history


def timed(networks: dict[str, Graph], args: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """(least, median, interquartile range) in milliseconds of each network on dojang's engine, batch 1, in turns."""
    rng = np.random.default_rng(0)
    runs = {}
    for name, graph in networks.items():
        x = rng.standard_normal((1, *graph.inputs[0].attrs["shape"]), np.float32)
        runs[name] = partial(Compiled(graph, args.threads), x)
    times = interleaved(runs, args.seconds)
    return {name: tuple(1e3 * t for t in spread(own)) for name, own in times.items()}  # pyright: ignore[reportReturnType]


def heading(args: argparse.Namespace, data: Data) -> str:
    """The first lines of a summary: machine, data, recipe, and how to have it again."""
    shifted = f"{data.augment.crop}-pixel pad and crop{', mirrored' if data.augment.mirror else ''}"
    few = f", on {args.train_scored} samples" if args.train_scored else ""
    varied = shifted if data.augment.crop else "samples as they are"
    return (
        f"{head(*MEASURES, threads=args.threads)}"
        f"# {data.name}: {len(data.train)} training and {len(data.test)} test samples; "
        f"{varied}; mean and deviation of each channel taken out\n"
        f"# {args.epochs} epochs, batches of {args.batch_size}, seed {args.seed}, trained in {args.precision}; "
        "He initialisation; SGD with Nesterov momentum 0.9, weight decay 5e-4 (weights only), "
        "linear rise and half cosine\n"
        f"# accuracies are those after the last epoch, in float32; train accuracy without variation{few}; "
        "gap = train - test\n"
        "# time: milliseconds on dojang's engine, batch 1, networks in turns (least / median / interquartile range)\n"
    )


def finish(args: argparse.Namespace, text: str) -> None:
    """Prints the summary and keeps it as summary.txt in --out."""
    print(text)
    (args.out / "summary.txt").write_text(text + "\n", encoding="utf-8")

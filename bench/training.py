"""What training learns and how long it takes, beside a plain PyTorch loop: from scratch, fine-tuned, transferred.

    python bench/training.py [scratch] [fine-tuning] [transfer] [speed]

It needs the CIFAR-10 pictures as JPEG, one folder per class, and the weights of ResNet-20, in `../shared/data`. Trained
on the first 200 pictures of each class (transfer: 500 of three classes), tested on every fifth picture of the test
part, 2,000 in all (transfer: every third of its classes, 1,000; fine-tuning: all 10,000). The plain loop is PyTorch's
AdamW (rate 0.003, decay 0.01) under OneCycleLR in batches of 64, without augmentation (with it, it has 42.6 % in place
of 48.8 %). All other settings are the defaults.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dojang
from dojang.training.config import TrainConfig
from dojang.training.data import Augment, Data, Normalisation, from_arrays
from dojang.training.load import load
from dojang.training.loop import fit
from record import head

PLACE = Path("../shared/data")
SEEDS = (0, 1, 2)
BATCH, RATE = 64, 3e-3


@cache
def _every() -> Data:
    return load(PLACE / "cifar10-jpeg-train.zip", val=PLACE / "cifar10-jpeg-test.zip")


def pictures(per_class: int, chosen: tuple[int, ...] = tuple(range(10)), step: int = 5) -> Data:
    """The first pictures of each chosen class, and every so many of the test part's of the same classes."""
    every = _every()
    train = np.sort(np.concatenate([np.flatnonzero(every.train.y == c)[:per_class] for c in chosen]))
    test = np.flatnonzero(np.isin(every.test.y, chosen))[::step]
    y, y_test = (np.searchsorted(chosen, part) for part in (every.train.y[train], every.test.y[test]))
    names = [every.classes[c] for c in chosen]
    augment = Augment(4, True)
    x, x_test = every.train.x[train], every.test.x[test]
    return from_arrays(x, y, x_test, y_test, classes=names, name="CIFAR-10 as JPEG", augment=augment)


def small(seed: int) -> nn.Module:
    """Three convolutions with batch norm: 16, 32 and 64 channels."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for ic, oc in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(ic, oc, 3, padding=1), nn.BatchNorm2d(oc), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def plain(data: Data, seed: int, epochs: int, augment: bool = False) -> tuple[float, list[float]]:
    """Test accuracy and seconds of each epoch of the loop that people write by hand."""
    module = small(seed)
    raw, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.normalisation.mean, data.normalisation.std))
    steps = -(-len(raw) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps * epochs)
    draw = torch.Generator().manual_seed(seed)
    seconds: list[float] = []
    for _ in range(epochs):
        module.train()
        began = time.perf_counter()
        order = torch.randperm(len(raw), generator=draw)
        for at in order.split(BATCH):
            x = raw[at]
            if augment:  # as ours: each picture shifted by itself and mirrored or not
                wide = F.pad(x, (4, 4, 4, 4))
                moved = torch.randint(0, 9, (len(x), 2), generator=draw).tolist()
                x = torch.stack([w[:, dy : dy + 32, dx : dx + 32] for w, (dy, dx) in zip(wide, moved, strict=True)])
                flip = torch.rand(len(x), generator=draw) < 0.5
                x = torch.where(flip[:, None, None, None], x.flip(3), x)
            optimizer.zero_grad()
            F.cross_entropy(module((x.float() / 255 - mean) / std), y[at]).backward()
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - began)
    module.eval()
    with torch.no_grad():
        answers = torch.cat([module(part) for part in torch.from_numpy(data.test.inputs()).split(256)])
    return float((answers.argmax(1).numpy() == data.test.y).mean()), seconds


def scratch() -> None:
    """The same small CNN, 2,000 pictures, 8 epochs, three seeds."""
    data, ours, theirs = pictures(200), [], []
    for seed in SEEDS:
        theirs.append(plain(data, seed, 8)[0])
        config = TrainConfig(epochs=8, batch_size=BATCH, seed=seed, test_every=8, train_scored=1)
        ours.append(fit(small(seed), data, config).test.accuracy)
    for name, found in (("plain PyTorch loop", theirs), ("dojang", ours)):
        each = ", ".join(f"{100 * v:.1f}" for v in found)
        print(f"from scratch, 8 epochs, {name:<18}: mean {100 * np.mean(found):.1f} % ({each})", flush=True)


def _trained(net: str, data: Data, **settings: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return dojang.train(net, data, output=Path(folder) / "run", **settings)


def fine_tuning() -> None:
    """ResNet-20, trained on the lossless pictures, on 2,000 of the JPEG ones; no flag is given."""
    weights, data = PLACE / "resnet20-cifar10.safetensors", pictures(200, step=1)
    few = replace(data, test=data.test.take(slice(None, None, 50)))  # what is scored after each epoch
    tuned = _trained("resnet20-cifar10", few, weights=weights)
    part = data.normalised(Normalisation(*(tuned.graph.inputs[0].attrs[key] for key in ("mean", "std")))).test
    before, after = (
        100 * part.accuracy(dojang.compile(graph)(part.inputs()))
        for graph in (dojang.load("resnet20-cifar10", weights=weights), tuned.graph)
    )
    print(
        f"fine-tuning ResNet-20 on {len(data.train):,} pictures, {tuned.history['epochs']} epochs: of all "
        f"{len(part):,} test pictures {before:.2f} % are right before, {after:.2f} % after",
        flush=True,
    )


def transfer(epochs: int = 5) -> None:
    """ResNet-20 with a new head on cats, dogs and frogs, and the same network from scratch."""
    data = pictures(500, (3, 5, 6), step=3)
    tuned = _trained(
        "resnet20-cifar10", data, weights=PLACE / "resnet20-cifar10.safetensors", num_classes=3, epochs=epochs
    )
    fresh = _trained("resnet20-cifar10", data, num_classes=3, epochs=epochs)
    print(
        f"three classes of 500 pictures, {epochs} epochs: transferred {100 * tuned.accuracy:.2f} %, "
        f"from scratch {100 * fresh.accuracy:.2f} %",
        flush=True,
    )


def speed(rounds: int = 7) -> None:
    """An epoch of the small CNN, as the pictures are and varied, beside a plain loop with the same, in turns; least."""
    data = pictures(200)
    part = data.selection(0.0005)  # one picture per class is scored after the epoch
    for how, varied in ((Augment(), "as they are"), (data.augment, "shifted and mirrored")):
        ours, theirs = [], []
        for _ in range(rounds):
            theirs += plain(data, 0, 1, augment=how != Augment())[1]
            config = TrainConfig(epochs=1, batch_size=BATCH, mode="scratch", augment=how, train_scored=1)
            ours.append(fit(small(0), part, config).seconds)
        print(
            f"an epoch of 2,000 pictures {varied}, batch {BATCH}, least of {rounds}: plain loop {min(theirs):.2f} s, "
            f"dojang {min(ours):.2f} s, {min(ours) / min(theirs):.2f} of it",
            flush=True,
        )


PARTS = {"scratch": scratch, "fine-tuning": fine_tuning, "transfer": transfer, "speed": speed}


def main(names: list[str]) -> None:
    """The parts that are named, or all."""
    if not PLACE.exists():
        sys.exit(f"{PLACE} is not there")
    torch.set_num_threads(1)
    print(head("src/dojang/training", threads=1), end="")
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])

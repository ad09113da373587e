"""How samples are normalised for a network: as asked, as the network states, or, where neither says it, tried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dojang.app.samples import match_classes
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.outputs import output_numbers
from dojang.base.errors import UsageError
from dojang.training.asked import Asked, PerChannel
from dojang.training.data import Data, Normalisation, Split
from dojang.training.guessing import TRAINED, guessing_loss, loss_of

TRIED = 256
"""Samples of the train part that a way of normalising is tried on, at most."""

LEAST, BUDGET = 16, 3e10
"""At least so many samples; more than that only within this many multiplications for all ways together."""

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of the pictures of ImageNet, as torchvision and timm normalise them."""


def fed(graph: Graph, data: Data, asked: Asked) -> Data:
    """The data with their classes numbered and their samples normalised as the network wants them.

    `asked.mean` and `asked.std` come first, then what the network states. A network with weights that states nothing is
    tried out on labelled samples: the way of normalising that gives the least loss is taken if by it the network knows
    the data, that is, loses at most `TRAINED` of what guessing loses. The notes of the data say what was decided.

    Raises what `match_classes` raises, and `UsageError` for figures that fit no channel.
    """
    data = match_classes(graph, data)
    channels = data.train.x.shape[1]
    if asked.mean is not None or asked.std is not None:
        how = Normalisation(
            per_channel(asked.mean, 0.0, channels, "mean"), per_channel(asked.std, 1.0, channels, "std")
        )
        note = f"samples are normalised with mean {_few(how.mean)} and standard deviation {_few(how.std)}, as asked"
        if data.train.x.dtype != np.uint8 and how == Normalisation.none(channels):
            note = "samples go into the network as they are; nothing is normalised"
        return replace(data.normalised(how), notes=(*data.notes, note))
    if data.values == "normalised":
        return data.normalised(Normalisation.none(channels))
    if graph.inputs[0].attrs["mean"] or not graph.weights or not len(data.train) or data.task == "unlabelled":
        return data
    tried = _losses(graph, data)
    (least, said, how), *others = sorted(tried, key=lambda one: one[0])
    other = next((one for one in others if one[1] == OWN), others[0] if others else None)
    if least <= TRAINED * guessing_loss(data.train):
        beside = "" if other is None else f"; {other[1]} it is {other[0]:.3g}"
        note = (
            f"{graph.name} does not say how its samples are normalised. Of {len(tried)} ways its loss is least, "
            f"{least:.3g}, {said}{beside}: so samples are normalised (--mean and --std say it otherwise)"
        )
        return replace(data.normalised(how), notes=(*data.notes, note))
    note = (
        f"{graph.name} does not say how its samples are normalised, and in none of {len(tried)} ways does it answer "
        f"much better than by guessing: they are normalised {OWN} (--mean and --std say it otherwise)"
    )
    return replace(data, notes=(*data.notes, note))


OWN = "with mean and standard deviation of the train part"


def _losses(graph: Graph, data: Data) -> list[tuple[float, str, Normalisation]]:
    """The loss on some samples under each way of normalising, in words and figures."""
    channels = data.train.x.shape[1]
    ways = {"with values as they stand": Normalisation.none(channels), OWN: data.normalisation}
    if data.train.x.dtype == np.uint8:
        ways = {
            "with x / 255 alone": Normalisation.none(channels),
            OWN: data.normalisation,
            "with (x / 255 - 0.5) / 0.5": Normalisation((0.5,) * channels, (0.5,) * channels),
            "with pixels from 0 to 255 as they stand": Normalisation((0.0,) * channels, (1 / 255,) * channels),
        }
        if channels == 3:
            ways["with mean and standard deviation of ImageNet"] = IMAGENET
    part = _some(data.train, int(BUDGET / max(1, count(graph).total.macs) / len(ways)))
    output = graph.outputs[0]
    numbers = output_numbers(graph)
    from dojang.evidence.activations import at_once, batches, session_run  # the engine, which takes long to import

    run = session_run(graph, part.inputs())
    found: list[tuple[float, str, Normalisation]] = []
    for said, how in ways.items():
        with np.errstate(over="ignore", invalid="ignore"):
            some = batches(part.x, at_once(graph))
            outputs = np.concatenate([run(how.apply(x), (output,))[output] for x in some])
        found.append((loss_of(outputs, part, numbers), said, how))
    return found


def _some(part: Split, afford: int) -> Split:
    """Samples drawn from all of the part, in their order."""
    most = min(len(part), TRIED, max(LEAST, afford))
    return part.take(np.sort(np.random.default_rng(0).permutation(len(part))[:most]))


def per_channel(given: PerChannel | None, default: float, channels: int, name: str) -> tuple[float, ...]:
    """One number for every channel; one alone stands for all of them."""
    if given is None:
        return (default,) * channels
    numbers = (float(given),) if isinstance(given, (int, float)) else tuple(float(v) for v in given)
    if len(numbers) not in (1, channels):
        raise UsageError(f"{name}: {len(numbers)} numbers for {channels} channels; give one, or one for each channel")
    return numbers * channels if len(numbers) == 1 else numbers


def _few(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in (values[:1] if len(set(values)) == 1 else values[:4]))

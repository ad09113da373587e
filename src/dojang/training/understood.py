"""What is said before the first step: how data and settings were understood, in one paragraph. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dojang.arith.conv import by
from dojang.arith.graph import Graph
from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean
from dojang.training.config import TrainConfig
from dojang.training.data import Augment, Data, Normalisation, Split
from dojang.training.sources import MIRROR_RULE
from dojang.training.streams import StreamedSamples

MOST_CLASSES = 12
"""Classes whose samples are listed one by one."""

_LOOKED_AT = 4096
"""Samples of a data set larger than memory whose range is told."""


def varied(data: Data, augment: str | Augment | None, mirror: bool = True) -> Data:
    """The data with the variation that is asked for: "none", or crop=PIXELS and mirror, separated by commas.

    Raises UsageError for other words, and for what samples of this form do not have.
    """
    how, asked = data.augment, augment is not None
    if isinstance(augment, Augment):
        how = augment
    elif augment is not None:
        how = _parsed(augment)
    if not mirror:
        if asked and how.mirror:
            raise UsageError("--augment mirror and --no-mirror contradict each other; give one")
        how = replace(how, mirror=False)
    if asked and how != Augment() and len(data.sample_shape) != 3:
        raise UsageError(f"augment varies pictures (c, h, w); samples of {by(data.sample_shape)} are taken as they are")
    notes = tuple(n for n in data.notes if n != MIRROR_RULE or (how.mirror and not asked))
    return replace(data, augment=how, notes=notes)


def _parsed(text: str) -> Augment:
    how = Augment()
    words = [word.strip() for word in text.split(",")]
    for word in words:
        name, _, number = word.partition("=")
        if word == "none" and len(words) == 1:
            return how
        if word == "mirror":
            how = replace(how, mirror=True)
        elif name == "crop" and number.isdecimal() and len(number) < 6:
            how = replace(how, crop=int(number))
        else:
            near = did_you_mean(name, ("none", "crop=PIXELS", "mirror"), "use none, crop=PIXELS or mirror, with commas")
            raise UsageError(f"augment {word!r:.40} is not known; {near}")
    return how


def weights_of(asked: str | Sequence[float] | None, data: Data) -> tuple[float, ...] | None:
    """The weight of each class in the loss, in the order of the classes; "balanced": n / (classes · n of the class).

    With several classes to a sample the weights are those of a yes; balanced, that is the noes per yes.
    Raises UsageError for weights that do not fit.
    """
    if asked is None:
        return None
    if data.task not in ("classification", "multilabel"):
        raise UsageError("--class-weights need classes; these data are amounts")
    if asked == "balanced":
        counts = counts_of(data.train, data.outputs)
        if data.task == "multilabel":
            found = (len(data.train) - counts) / np.maximum(counts, 1)
        else:
            found = len(data.train) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return tuple(np.where(counts > 0, found, 0.0 if data.task == "classification" else 1.0).tolist())
    try:
        weights = tuple(float(w) for w in (asked.split(",") if isinstance(asked, str) else asked))
    except (ValueError, TypeError):
        hint = did_you_mean(str(asked), ("balanced",), "use balanced, or one number per class")
        raise UsageError(f"class weights {asked!r:.60} are not known; {hint}") from None
    if len(weights) != data.outputs:
        raise UsageError(f"{len(weights)} class weights for {data.outputs} classes; give one for each, in their order")
    if not all(0 <= w < float("inf") for w in weights) or max(weights) <= 0:
        raise UsageError(f"class weights {asked!r:.60}: each must be 0 or more, and one of them greater than 0")
    return weights


def counts_of(part: Split, classes: int) -> Any:
    """Samples of each class."""
    return part.y.sum(axis=0) if part.task == "multilabel" else np.bincount(part.y, minlength=classes)


def paragraph(graph: Graph, data: Data, config: TrainConfig, training: str = "") -> str:
    """How the data were understood: parts, classes, samples, values, variation; then `training`, the rest."""
    how = config.augment if config.augment is not None else data.augment
    notes = [note for note in data.notes if note != MIRROR_RULE or how.mirror]
    sentences = [_labels(data), _samples(graph, data), _variation(data, how), *notes]
    if config.class_weights is not None:
        weights = ", ".join(f"{w:.3g}" for w in config.class_weights[:MOST_CLASSES])
        more = " …" if len(config.class_weights) > MOST_CLASSES else ""
        sentences.append(f"classes weigh {weights}{more} in the loss")
    text = " ".join(_sentence(said, (data.name, graph.name)) for said in (_parts(data), *sentences) if said)
    return f"{text} {training}".rstrip()


def _sentence(said: str, names: Sequence[str]) -> str:
    """With a capital letter and a full stop. A name at the beginning stays as it is written: it may be a file's."""
    named = any(said.startswith((f"{name} ", f"{name}:")) for name in names)
    return f"{said if named else said[0].upper() + said[1:]}".rstrip(".") + "."


def _parts(data: Data) -> str:
    chosen = "" if data.val is None else f", {len(data.val):,} to choose by"
    return f"{data.name}: {len(data.train):,} samples to train on, {len(data.test):,} to test on{chosen}; {data.split}"


def _labels(data: Data) -> str:
    if data.task == "regression":
        y = data.train.y
        return f"labels are amounts, {y.shape[1]} for each sample, from {y.min():g} to {y.max():g} (a regression)"
    counts = counts_of(data.train, data.outputs)
    each = [f"{name}: {int(n):,}" for name, n in zip(data.classes, counts, strict=True)]
    if len(each) > MOST_CLASSES:
        low, high = int(counts.argmin()), int(counts.argmax())
        listed = f"samples to train on from {each[low]} to {each[high]}"
    else:
        listed = f"samples to train on of each: {', '.join(each)}"
    several = ", several to a sample" if data.task == "multilabel" else ""
    return f"{data.outputs} classes{several} ({listed})"


def _samples(graph: Graph, data: Data) -> str:
    x, how = data.train.x, data.normalisation
    seen = x[:_LOOKED_AT] if isinstance(x, StreamedSamples) else x
    of = f" of the first {len(seen):,}" if isinstance(x, StreamedSamples) and len(seen) < len(x) else ""
    values = f"its values{of} are from {float(seen.min()):g} to {float(seen.max()):g}"
    unit = "divided by 255, " if x.dtype == np.uint8 else ""
    stated = bool(graph.inputs[0].attrs["mean"])
    if how == Normalisation.none(len(how.mean)):
        normalised = "and are divided by 255, and not normalised further" if unit else "and are not normalised"
    else:
        whose = f"those that {graph.name} states" if stated else "those of the train part"
        then = "then " if unit else ""
        normalised = (
            f"and are normalised: {unit}{then}the mean {_few(how.mean)} is subtracted, and the result is divided by "
            f"the standard deviation {_few(how.std)} ({whose})"
        )
    return f"a sample is {by(data.sample_shape)}, the input size of {graph.name}; {values} {normalised}"


def _few(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values[:4]) + (" …" if len(values) > 4 else "")


def _variation(data: Data, how: Augment) -> str:
    if how == Augment() or len(data.sample_shape) != 3:
        return "samples are not varied in training (--augment)"
    said = [f"shifted by up to {how.crop} pixels"] if how.crop else []
    said += ["mirrored left to right with probability one half"] if how.mirror else ["not mirrored"]
    return f"in training, pictures are {' and '.join(said)} (--augment none takes them as they are)"

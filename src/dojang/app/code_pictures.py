"""How pictures enter PyTorch code, which does not say it: one is asked, and nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from dojang.app.feeding import IMAGENET
from dojang.app.networks import is_module, names_code
from dojang.arith.graph import Graph
from dojang.base.errors import UsageError
from dojang.training.asked import Asked, PerChannel
from dojang.training.data import Data

NormaliseBy = Literal["none", "imagenet", "half", "data"]


def normalised_by(
    how: NormaliseBy | None, mean: PerChannel | None, std: PerChannel | None
) -> tuple[PerChannel | None, PerChannel | None]:
    """Mean and deviation of a way of normalising by name; None for "data", whose figures the data give.

    Raises `UsageError` for a name that is not known, or one beside figures.
    """
    if how is None:
        return mean, std
    if how not in get_args(NormaliseBy):
        raise UsageError(f"normalise {how!r:.40} is not known; use {', '.join(get_args(NormaliseBy))}, or mean and std")
    if mean is not None or std is not None:
        raise UsageError("say either how samples are normalised (normalise), or the figures (mean and std)")
    return {"none": (0.0, 1.0), "half": (0.5, 0.5), "imagenet": (IMAGENET.mean, IMAGENET.std), "data": (None, None)}[
        how
    ]


def settled(net: Any, graph: Graph, data: Data, asked: Asked, normalise: str | None, lossless: bool = False) -> Asked:
    """What was asked of the data, with the figures that pictures are normalised by where they have to be said. Samples
    in real numbers go into PyTorch code as they are.

    Raises `UsageError` where nobody said how pictures enter PyTorch code: a wrong guess would make every figure wrong.
    """
    if normalise == "data":
        return replace(asked, mean=data.normalisation.mean, std=data.normalisation.std)
    said = asked.mean is not None or asked.std is not None or data.values == "normalised"
    code = is_module(net) or names_code(net)
    if lossless or said or not code or graph.inputs[0].attrs["mean"]:
        return asked
    if data.train.x.dtype != np.uint8:
        return replace(asked, mean=0.0, std=1.0)  # real numbers are what the code takes
    raise UsageError(how_to_normalise(data.name))


def how_to_normalise(name: str, data: bool = True) -> str:
    """What is asked for where nobody said how pictures enter a module. `data`: whether there is a train part."""
    from_data = ", imagenet, half (minus 0.5, over 0.5) or data (mean and deviation of the train part)"
    return (
        f"{name}: PyTorch code does not say how it takes pictures; say --mean and --std, or --normalise none (0 to 1)"
        + (from_data if data else ", imagenet or half (minus 0.5, over 0.5)")
    )

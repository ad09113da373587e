"""How the input of a network was made from a picture or an array, as text and in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from dojang.arith.conv import by
from dojang.arith.graph import Node


@final
@dataclass(frozen=True, slots=True)
class InputPreparation:
    """How an input was made: as text for people, and in parts (`to_dict`) for the page, which has its own words.

    `made` is "scaled" for a picture, "pixels" for uint8 / 255, "values" for floats that were normalised,
    "as-they-stand" for values that were left alone, and "normalised-already" where the network states a mean that was
    not subtracted. Samples that were drawn, because none was given, are "drawn" (from the normal distribution),
    "drawn-whole" (whole numbers from 0 to `most`) or "ones". `shape` is that of one sample; `mean` and `std` are what
    was subtracted and divided by, empty where nothing was.

    >>> print(InputPreparation("scaled", (1, 8, 8), (0.5,), (0.25,)))
    scaled and cropped to 1x8x8, minus 0.5, over 0.25
    """

    made: Literal["scaled", "pixels", "values", "as-they-stand", "normalised-already", "drawn", "drawn-whole", "ones"]
    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    most: int = 0

    @classmethod
    def normalised(cls, made: Literal["scaled", "pixels", "values"], node: Node) -> InputPreparation:
        """By the mean and deviation that an input node states."""
        mean, std = node.attrs["mean"] or (), node.attrs["std"] or ()
        shape = tuple(node.attrs["shape"])
        return cls(made, shape, tuple(mean), tuple(std)) if mean and std else cls(made, shape)

    def __str__(self) -> str:
        said = {
            "scaled": f"scaled and cropped to {by(self.shape)}",
            "pixels": "uint8 / 255",
            "values": "values",
            "as-they-stand": "values as they stand",
            "normalised-already": "values as they stand: floats count as normalised already, uint8 as pixels",
            "drawn": f"{by(self.shape)} numbers drawn at random from the normal distribution",
            "drawn-whole": f"{by(self.shape)} whole numbers from 0 to {self.most:,}, drawn at random",
            "ones": f"{by(self.shape)} times 1",
        }[self.made]
        if self.made not in ("scaled", "pixels", "values"):
            return said
        if not self.mean:
            return f"{said}, values 0 to 1"
        return f"{said}, minus {_listed(self.mean)}, over {_listed(self.std)}"

    def to_dict(self) -> dict[str, Any]:
        """The parts; mean and deviation as the text of their numbers."""
        return {
            "made": self.made, "shape": list(self.shape), "mean": _listed(self.mean), "std": _listed(self.std),
            "most": f"{self.most:,}",
        }  # fmt: skip


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

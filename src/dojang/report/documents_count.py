"""What `count`, `solve`, `check` and `compare` print as JSON, as types (see `documents.py`)."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from dojang.arith.check import Cell
from dojang.arith.explain import Figure
from dojang.arith.layer import Uncounted
from dojang.arith.memory import MachinePeaks, Traffic

Size = Annotated[int | str, "a number, or a formula as text where a size of the input was given by name"]
Place = Annotated[int | float | str | None, "a number or a formula; null where it is not the same for all places"]
Status = Annotated[
    Literal["exact", "lower-bound", "range"],
    "lower-bound: something could not be counted; range: values decide which path the network takes, and the figures "
    "are those of the path with the most MACs",
]
Said = Annotated[str, "what the figures mean"]


class ConventionDocument(TypedDict):
    """How the figures of a cost table were counted."""

    unit: Literal["mac", "flop"]
    batch: Size
    bias: bool
    exact_padding: bool
    text: Annotated[str, "the same as a sentence"]


class Phases(TypedDict):
    """What every place of one axis sees: place o sees `seen[o % period]`, moved on by `(o // period) * advance`."""

    period: int
    advance: int
    ends: Annotated[bool, "whether `seen` lists every place that there is"]
    seen: Annotated[list[list[int] | None], "first and last pixel; null where a place sees none"]


class ReceptiveField(TypedDict):
    """The receptive field, per axis of the input: place o sees pixels o*jump + start to o*jump + last."""

    size: Annotated[list[Size], "the most pixels that a place sees"]
    jump: Annotated[list[Place], "the mean step between neighbouring places, in pixels"]
    start: list[Place]
    last: list[Place]
    bounds: Annotated[list[list[Place]], "no place sees beyond o*jump + these two"]
    phases: list[Phases]
    clipped: Annotated[list[list[Size]] | None, "places at both ends whose field reaches into padding"]
    unclipped_places: Annotated[list[Size] | None, "places whose field lies wholly on the input"]


class LayerRow(TypedDict):
    """One layer of a cost table. What could not be counted is null, never 0."""

    name: str
    op: str
    kind: NotRequired[Annotated[str, "what the source calls an operator that `op` does not name"]]
    module: Annotated[str, "the path of the module that holds it; empty for a layer of the network itself"]
    inputs: list[str]
    in_shapes: Annotated[list[list[Size] | None], "of each input, without the batch; null if it is not known"]
    out_shape: Annotated[list[Size] | None, "without the batch"]
    kernel: NotRequired[Annotated[list[int], "of convolutions and poolings, per spatial axis, as the four below"]]
    stride: NotRequired[list[int]]
    padding: NotRequired[
        Annotated[
            list[Size | list[Size]] | None,
            "per axis one number, or two where the sides differ; null where it depends on a size that is not known",
        ]
    ]
    dilation: NotRequired[list[int]]
    groups: NotRequired[Size]
    output_padding: NotRequired[Annotated[list[int] | None, "of transposed layers that have any"]]
    arrays: Annotated[dict[str, list[Size]], "the shape of each array that it reads, by role"]
    dtypes: Annotated[list[str], "types in which the source stores them; empty if it does not say"]
    params: Annotated[Size | None, "weights and biases"]
    weights: Size | None
    biases: Size | None
    trainable: Annotated[Size | None, "of `params` those that are not frozen; null if the source does not say"]
    shared: NotRequired[Annotated[list[str], "arrays that it reads and an earlier layer has counted"]]
    buffers: NotRequired[Annotated[Size, "numbers that it stores beside its parameters"]]
    macs: Size | None
    out_bytes: Size | None
    receptive_field: ReceptiveField | None
    status: Literal["exact", "lower-bound"]


class ModuleRow(TypedDict):
    """A module with two layers or more: each figure is the sum over its layers."""

    name: Annotated[str, "its path, such as layer1.0"]
    kind: Annotated[str | None, "its class; null if the source does not say it"]
    level: Annotated[int, "1 for a module of the network itself"]
    layers: Annotated[int, "how many layers it holds"]
    in_shape: Annotated[list[Size] | None, "what enters first, without the batch"]
    out_shape: Annotated[list[Size] | None, "what leaves last"]
    params: Size
    weights: Size
    biases: Size
    trainable: Size | None
    macs: Size
    out_bytes: Annotated[Size, "bytes of all outputs of its layers together"]
    status: Literal["exact", "lower-bound"]


class PrecisionRow(TypedDict):
    """A part of a network in one precision."""

    kind: Annotated[str, "the type that the weights are kept in, such as int8"]
    weights: Annotated[Size, "weights and biases kept in it; an array that several layers share counts once"]
    weight_bytes: Annotated[Size, "their bytes, without scales and zero points"]
    macs: Annotated[Size, "of the layers that multiply with such weights"]
    values: Annotated[list[str], "types of the values that these layers read"]


class Totals(TypedDict):
    """The totals of a cost table."""

    params: Annotated[Size, "weights and biases"]
    weights: Size
    biases: Size
    stored: Annotated[Size, "parameters that the source holds, used or not"]
    used: Annotated[Size, "parameters that the network reads"]
    trainable: Annotated[Size | None, "of the stored ones those that are not frozen; null where it is not known"]
    folded: Annotated[Size, "numbers left once everything that parameters alone determine is computed"]
    buffers: Annotated[Size, "numbers that are used and never trained"]
    running: Annotated[Size, "of these the running statistics of normalisations"]
    unused: Annotated[list[str], "parameters that no path reads"]
    macs: Annotated[Size, "multiply-accumulates of one run of the batch"]
    flops: NotRequired[Annotated[Size, "2 per MAC, with --unit flop"]]
    activation_bytes: Annotated[Size, "bytes of all outputs together"]
    peak_bytes: Annotated[Size, "most bytes of activations alive at once"]
    status: Status
    unknown: Annotated[list[str], "operators that could not be counted"]
    uncounted: NotRequired[Annotated[Uncounted, "how much a lower bound leaves out"]]
    precisions: NotRequired[Annotated[list[PrecisionRow], "by precision, where not all is float32"]]
    ways: NotRequired[Annotated[int, "paths that values decide between; the keys below are over all of them"]]
    macs_min: NotRequired[int]
    macs_max: NotRequired[int]
    params_min: NotRequired[int]
    params_max: NotRequired[int]


class MemoryTotals(TypedDict):
    """What inference and one training step hold, in bytes."""

    batch: int
    optimiser: str
    weight_bytes: int
    inference_bytes: Annotated[int, "activations alive at once"]
    saved_bytes: Annotated[int, "activations that a training step keeps for the way back"]
    gradient_bytes: int
    optimiser_bytes: int
    training_bytes: Annotated[int, "weights, gradients, optimiser state and saved activations"]
    status: Status
    ways: NotRequired[int]
    weight_bytes_min: NotRequired[int]
    weight_bytes_max: NotRequired[int]
    inference_bytes_min: NotRequired[int]
    inference_bytes_max: NotRequired[int]
    training_bytes_min: NotRequired[int]
    training_bytes_max: NotRequired[int]


class Roofline(TypedDict):
    """The least and the most time of the whole network on a machine."""

    machine: MachinePeaks
    least_ms: float
    most_ms: float


class DeviceTotals(TypedDict):
    """Totals of a network over devices: lists have one figure per device."""

    params: list[int]
    macs: list[int]
    activation_bytes: Annotated[list[int], "bytes of all outputs that a device computes"]
    peak_bytes: Annotated[list[int], "most bytes alive at once, with what was received"]
    received_bytes: Annotated[list[int], "activations that other devices computed"]
    exchanged_bytes: Annotated[int, "received by all devices together"]
    repeated_params: Annotated[int, "held by several devices, beyond the whole network"]
    repeated_macs: Annotated[int, "computed by several devices, beyond the whole network"]
    status: Status


class DeviceLayerRow(TypedDict):
    """One layer over devices: lists have one entry per device."""

    name: str
    op: str
    out_shapes: Annotated[list[list[int] | None], "the part that each device computes, without the batch"]
    repeated: Annotated[bool, "every device computes the whole output"]
    params: list[int]
    macs: list[int]
    out_bytes: list[int]
    received_bytes: Annotated[list[int], "received before the layer is computed"]
    sources: Annotated[list[str], "layers whose outputs are exchanged"]


class DevicesRow(TypedDict):
    """A network cut over devices by the filters of its layers."""

    devices: int
    convention: Said
    totals: DeviceTotals
    layers: list[DeviceLayerRow]


class CountDocument(TypedDict):
    """`dojang count`."""

    convention: ConventionDocument
    totals: Totals
    modules: Annotated[list[ModuleRow], "the hierarchy, what contains first; empty if there is none"]
    layers: list[LayerRow]
    memory: NotRequired[Annotated[MemoryTotals, "with --memory or --machine"]]
    traffic: NotRequired[Annotated[list[Traffic], "with --memory or --machine"]]
    roofline: NotRequired[Annotated[Roofline, "with --machine"]]
    devices: NotRequired[Annotated[DevicesRow, "with --devices"]]


class ExplainDocument(TypedDict):
    """`dojang count --explain LAYER`."""

    convention: Said
    layer: str
    steps: list[Figure]


class SolutionRow(TypedDict):
    """One layer that fits."""

    kernel: list[int]
    stride: list[int]
    padding: Annotated[list[int | list[int]], "per axis one number, or two where the sides differ"]
    dilation: list[int]
    groups: int
    filters: int
    transposed: bool
    output_padding: NotRequired[list[int]]
    in_shape: Annotated[list[int], "channels first"]
    out_shape: list[int]
    params: int
    weights: int
    biases: int
    macs: int


class SolveDocument(TypedDict):
    """`dojang solve`."""

    convention: Said
    solutions: Annotated[list[SolutionRow], "simplest first"]
    reason: Annotated[str | None, "why there is none"]
    searched: Annotated[str | None, "what was tried for the values that were not given; null if all were"]
    found: Annotated[int, "how many layers fit; `solutions` has the first 50"]


class CheckTotals(TypedDict):
    """The network's own totals, and how many cells were judged."""

    params: int
    weights: int
    biases: int
    macs: int
    cells: int
    mismatches: int
    ways: NotRequired[int]


class CheckDocument(TypedDict):
    """`dojang check`. The verdict of a cell is exact, rounded, convention or mismatch."""

    convention: Annotated[dict[str, str], "for each column, how it was counted"]
    table: str
    title: str
    source: str
    cells: list[Cell]
    totals: CheckTotals


class Both(TypedDict):
    """Totals of both networks."""

    a: Totals
    b: Totals


class Ratio(TypedDict):
    """b divided by a; null where a has none."""

    params: float | None
    macs: float | None
    peak_bytes: float | None


class PairRow(TypedDict):
    """A layer of a beside a layer of b."""

    a: LayerRow | None
    b: LayerRow | None
    change: Literal["same", "renamed", "narrowed", "widened", "changed", "removed", "inserted"]


class CompareDocument(TypedDict):
    """`dojang compare`."""

    convention: ConventionDocument
    a: str
    b: str
    totals: Both
    ratio: Ratio
    layers: list[PairRow]

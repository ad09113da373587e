"""What each JSON document holds, as types: docs/schemas/ and docs/json.md are made from them (scripts/docs.py).

A part of a document that is a dataclass of the program stands here as that dataclass. What `to_dict` shapes otherwise
is a TypedDict. The tests hold the real output of every command against these types, with no key left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from dojang.arith.check import Cell
from dojang.arith.explain import Figure
from dojang.arith.layer import Uncounted
from dojang.arith.memory import MachinePeaks, Traffic
from dojang.diagnosis.answers import Wrong
from dojang.diagnosis.bypass import Bypass
from dojang.diagnosis.effective import Effective
from dojang.diagnosis.equivariance import Equivariance
from dojang.diagnosis.scale import Scale
from dojang.diagnosis.sensitivity import Sensitivity
from dojang.engine.plan.choose import Plan
from dojang.evidence.finding import Finding, NotJudged
from dojang.evidence.times import LayerTime
from dojang.filters.files import Failed, Filtered
from dojang.native.families import Peaks
from dojang.report.results import Guess, Timing
from dojang.slimming.result import NetworkFigures
from dojang.training.config import TrainConfig
from dojang.training.confusion import Mistake
from dojang.training.record import Best, Epoch, Start

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


class FilterDocument(TypedDict):
    """`dojang filter`."""

    convention: Said
    kernel: Annotated[str, "the names of the kernels, with commas"]
    kernels: list[str]
    border: str
    done: list[Filtered]
    failed: list[Failed]


class Against(TypedDict):
    """An algorithm that was not taken, and why."""

    algorithm: str
    reason: str


class FilterPlanRow(TypedDict):
    """How kernels of one geometry would be computed."""

    kernel: list[str]
    size: list[int]
    algorithm: str
    detail: str
    cycles_per_element: float
    refused: list[Against]


class PlannedRow(TypedDict):
    """One picture and its plans."""

    source: str
    channels: Annotated[int, "of the picture"]
    plans: list[FilterPlanRow]


class FilterPlanDocument(TypedDict):
    """`dojang filter --plan`."""

    convention: Said
    pictures: list[PlannedRow]


class OutputRow(TypedDict):
    """One output array of a network."""

    name: str
    shape: list[int]
    min: float | None
    max: float | None
    values: Annotated[list[Any] | None, "null where there are more than 1000"]


class RunDocument(TypedDict):
    """`dojang run`."""

    convention: Said
    network: str
    prepared: Annotated[str, "how the input was made"]
    top: Annotated[list[list[Guess]], "the best classes of each sample, best first"]
    outputs: list[OutputRow]
    files: list[str]
    plan: NotRequired[Annotated[Plan, "with --plan; `refused` are pairs of algorithm and reason"]]


class NormalisationRow(TypedDict):
    """(value - mean) / std, per channel."""

    mean: list[float]
    std: list[float]


class AugmentRow(TypedDict):
    """How samples are varied in training."""

    crop: int
    mirror: bool


class DataRow(TypedDict):
    """A data set: sizes, classes and hash, without its samples."""

    name: str
    task: Literal["classification", "regression", "multilabel", "unlabelled"]
    classes: list[str]
    train_samples: int
    test_samples: int
    sample_shape: list[int]
    normalisation: NormalisationRow
    augment: AugmentRow
    val_samples: Annotated[int, "samples that the data set aside for choices"]
    split: Annotated[str, "where the parts come from"]
    hash: Annotated[str, "SHA-256 of all parts' content"]


class ConfusionRow(TypedDict):
    """Which classes are taken for which."""

    samples: int
    classes: list[str]
    support: Annotated[list[int], "samples of each class"]
    recall: Annotated[list[float | None], "of each class the share that is answered as it; null without samples"]
    precision: Annotated[list[float | None], "of the answers naming a class the share that is right; null without any"]
    balanced_accuracy: Annotated[float | None, "mean recall over the classes with samples"]
    majority_class: Annotated[str | None, "the class with the most samples"]
    majority_share: Annotated[float | None, "its share of the samples: the accuracy of always answering it"]
    warning: Annotated[str | None, "said where the accuracy is no better than that share"]
    matrix: Annotated[list[list[int]] | None, "rows are labels, columns are answers; null for more than 100 classes"]
    mistakes: Annotated[list[Mistake], "the most frequent pairs of a label and a wrong answer"]


class ByLabelRow(TypedDict):
    """How each class is answered where a sample has any number of them."""

    samples: int
    classes: list[str]
    support: Annotated[list[int], "samples that have the class"]
    answered: Annotated[list[int], "samples that were answered to have it"]
    recall: Annotated[list[float | None], "of the samples that have the class the share that is answered so"]
    precision: Annotated[list[float | None], "of the answers naming the class the share that is right"]


class TrainResult(TypedDict):
    """The record of a training."""

    network: str
    metric: Annotated[
        Literal["accuracy", "r2", "label accuracy"],
        "what accuracy means: a fraction of samples, R² of a regression, or a fraction of answers about each class",
    ]
    train_accuracy: float
    test_accuracy: float
    gap: Annotated[float, "train accuracy minus test accuracy"]
    train_loss: float
    test_loss: float
    epochs: int
    steps: int
    seconds: float
    lr: Annotated[float, "peak learning rate"]
    start: Annotated[Start, "what was known before the first step"]
    best: Annotated[Best | None, "the best epoch by the selection part; null where none was set aside"]
    stopped_early: bool
    device: str
    processes: int
    curve: list[Epoch]
    config: TrainConfig
    data: DataRow
    confusion: Annotated[ConfusionRow | None, "null for other tasks than classes, and for more than 2,000 of them"]
    by_label: Annotated[ByLabelRow | None, "where a sample has any number of classes; else null"]
    started: Literal["fresh", "from weights"]
    understood: Annotated[str, "how data and settings were understood, as told before the first step"]
    files: list[str]


class TrainDocument(TrainResult):
    """`dojang train`."""

    convention: Said


class SpectrumRow(TypedDict):
    """Energy curves of one layer: the share of variance in the first 1, 2, … directions."""

    layer: str
    samples: int
    inputs: list[float]
    outputs: list[float]
    weights: list[float]
    ranks: Annotated[dict[str, int], "directions of the outputs that hold this share"]


class AnswersRow(TypedDict):
    """What the network answers to the samples."""

    part: Literal["train", "test"]
    accuracy: float | None
    confusion: ConfusionRow
    probability: Annotated[str, "what the probability of an answer is"]
    wrong_samples: Annotated[int, "how many are answered wrong"]
    wrong: Annotated[list[Wrong], "the first 200 of them, the most confident first; index counts within the part"]


class TimesRow(TypedDict):
    """Where the time of one call goes, in milliseconds: layers, layout and what is outside add up to `sum_ms`."""

    layers: list[LayerTime]
    layout_ms: Annotated[float, "bringing the input to the engine's order of channels, and answers back"]
    outside_ms: Annotated[float, "in Python: checks, copying answers"]
    call_ms: Annotated[float, "one call, measured in turns with the others"]
    batch: int
    threads: int
    peak_gflops: Annotated[float, "of all these threads"]
    read_gbs: float
    doubt: Annotated[str | None, "why nothing is concluded from these times; null where they can be relied on"]
    sum_ms: float


class DiagnoseDocument(TypedDict):
    """`dojang diagnose`."""

    convention: Said
    network: str
    findings: Annotated[list[Finding], "most severe first"]
    samples: int
    data: DataRow | None
    spectra: list[SpectrumRow]
    effective_fields: list[Effective]
    equivariance: list[Equivariance]
    notes: Annotated[list[str], "what could not be looked at, and why"]
    not_judged: Annotated[list[NotJudged], "which kinds of findings were not looked for, where, and why"]
    times: Annotated[TimesRow | None, "null where no layer could be timed"]
    answers: Annotated[AnswersRow | None, "null without classes"]
    scales: Annotated[list[Scale], "how large the activations of each layer are"]
    bypasses: Annotated[list[Bypass], "each block left out by itself"]
    sensitivities: Annotated[list[Sensitivity], 'each layer\'s weights rounded; the layer "" is all of them']


class RuntimeRow(TypedDict):
    """The runtime that times were measured on."""

    name: str
    version: str | None
    batch: int


class FindingReference(TypedDict):
    """A finding as edits and refusals point at it."""

    index: Annotated[int | None, "its place in `findings`; null if it is not among them"]
    layer: str
    kind: str
    channels: list[int]


ChannelsByLayer = Annotated[dict[str, list[int]], "by layer, in the numbers of the network that was given"]


class EditRow(TypedDict):
    """An edit that was made."""

    rewrite: str
    claim: Annotated[str, "exact, bounded or lossy"]
    layers: list[str]
    params_saved: int
    macs_saved: int
    ms_saved: Annotated[float | None, "milliseconds of one batch; null where time was not measured"]
    check: Annotated[dict[str, Any], "how the claim was checked"]
    found: str
    channels: ChannelsByLayer
    findings: Annotated[list[FindingReference], "the findings that it answers"]


class RefusedRow(TypedDict):
    """An edit that was not made."""

    rewrite: str
    layers: list[str]
    reason: str
    channels: ChannelsByLayer
    findings: Annotated[list[FindingReference], "the findings that it speaks of"]


class AnswerRow(TypedDict):
    """What became of one finding."""

    finding: FindingReference
    outcome: Annotated[Literal["cut", "refused", "informs"], "informs: no rewrite is made for this kind of finding"]
    edits: Annotated[list[int], "places in `edits`"]
    refused: Annotated[list[int], "places in `refused`"]


class LayerBitsRow(TypedDict):
    """How one layer keeps its weights, and how much noise that makes."""

    layer: str
    op: str
    weights: Annotated[int, "how many there are"]
    bits: Annotated[int, "of each weight, and of what the layer reads where they are 8"]
    own_db: Annotated[
        float | None, "signal to noise of its output against float32 when it alone is in 8 bits; null without noise"
    ]
    whole_db: Annotated[float | None, "the same when all layers before it are in 8 bits, too"]
    why: Annotated[str, "why it keeps its floats"]


class SlimResultRow(TypedDict):
    """The outcome of a slimming."""

    network: str
    before: NetworkFigures
    after: NetworkFigures
    answers: Annotated[list[AnswerRow], "what became of each finding"]
    edits: list[EditRow]
    refused: list[RefusedRow]
    notes: Annotated[list[str], "where the result is not what was asked for"]
    bits: Annotated[list[LayerBitsRow], "how each layer keeps its weights, with --bits"]
    certificate: Annotated[dict[str, Any], "how far the answers are from the original's, with --lossless"]
    control: Annotated[dict[str, Any] | None, "the original fine-tuned as often and as long"]
    finish: Annotated[dict[str, Any] | None, "the last fine-tuning"]
    candidates: Annotated[
        list[dict[str, Any]],
        "every network that was tried: what it is made of, macs, part of the time, measure, lost, learning curve, why",
    ]
    seed: int
    findings: list[Finding]
    metric: Annotated[
        Literal["accuracy", "r2", "label accuracy", "evaluate", "none"],
        "what accuracy means; evaluate: what a function from Python said; none: there were no labels",
    ]
    runtime: RuntimeRow
    data: DataRow
    seconds: float
    same_answers: Annotated[str | None, "how the written ONNX file was checked"]
    files: list[str]
    convention: Said


class SlimDocument(SlimResultRow):
    """`dojang slim`."""


class InputNormalisation(TypedDict):
    """How samples of one input are normalised: (x / divisor - mean) / std, per channel."""

    input: str
    where: Annotated[
        Literal["outside", "inside", "not stated"],
        "outside: by whoever runs the file; inside: by the network in the file, which takes values as they stand",
    ]
    divisor: Annotated[float, "255 where the values are pixels, 1 where they are floats as in the training data"]
    mean: Annotated[list[float], "one per channel; empty where not stated"]
    std: list[float]
    text: Annotated[str, "the same as a sentence"]


class ExportDocument(TypedDict):
    """`dojang export`."""

    convention: Said
    network: str
    format: Literal["onnx", "safetensors", "net"]
    file: str
    size_bytes: int
    checked: Annotated[str, "how the file was checked"]
    normalisation: Annotated[list[InputNormalisation], "one per input"]


class MachineRow(TypedDict):
    """The machine that plans are made for."""

    system: str
    processor: str
    name: str
    isa: Annotated[str, "instruction set"]
    amx: Annotated[bool, "whether it has matrix tiles"]
    cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    family: str
    peaks: Annotated[Peaks, "of one core"]
    peaks_from: str
    runs_here: bool
    memory_bytes: int | None
    ignored_file: NotRequired[Annotated[str, "why the file of measured peaks is not used"]]


class ShowDocument(TypedDict):
    """`dojang show`."""

    convention: Said
    network: str
    url: Annotated[str | None, "the address of the page, with its token; null where a file was written"]
    files: list[str]
    size_bytes: int
    weights: Annotated[str, "how a page in one file stores weights: float32, float16, int8; empty for other pages"]
    lacking: Annotated[list[str], "layers that a page in one file cannot compute, with their operators"]
    why_not: Annotated[str, "why the page shows no maps, such as missing weights; empty if it shows them"]


class BenchDocument(TypedDict):
    """`dojang bench`."""

    convention: Said
    network: str
    machine: MachineRow
    results: list[Timing]
    ratio_to_best_peer: Annotated[float | None, "dojang's median divided by the best peer's; null without a peer"]
    missing: Annotated[dict[str, str], "peers that were not timed, and why"]


class NetworkRow(TypedDict):
    """A network of the zoo."""

    name: str
    params: int
    macs: int
    source: str


class TableRow(TypedDict):
    """A published table."""

    name: str
    title: str
    network: str
    rows: int
    source: str


class KernelRow(TypedDict):
    """A named kernel for pictures; two matrices give the size of a gradient."""

    name: str
    does: str
    source: str
    options: Annotated[dict[str, int | float | str], "options with their defaults"]
    taps: list[list[list[float]]]


class KindRow(TypedDict):
    """A kind of convolution beside the plain one."""

    kind: str
    in_shape: list[int]
    out_shape: list[int]
    layers: list[str]
    weights: int
    macs: int
    weights_formula: str
    macs_formula: str
    weights_ratio: float
    macs_ratio: float
    source: str


class TradeRow(TypedDict):
    """A way to see a window of the same size."""

    kernel: int
    dilation: int
    layers: int
    weights: int
    field: int


class AlgorithmRow(TypedDict):
    """An algorithm for convolutions, by the name that plans use."""

    name: str
    does: str


class ListDocument(TypedDict):
    """`dojang list`: the rows under the name of the list."""

    convention: Said
    networks: NotRequired[list[NetworkRow]]
    tables: NotRequired[list[TableRow]]
    kernels: NotRequired[list[KernelRow]]
    kinds: NotRequired[list[KindRow]]
    field_trade: NotRequired[Annotated[list[TradeRow], "beside kinds"]]
    algorithms: NotRequired[list[AlgorithmRow]]


class CacheRow(TypedDict):
    """The cache of machine code."""

    directory: str
    bytes: int
    limit_bytes: int
    not_used: Annotated[str | None, "why it is not used"]


class MeasuredRow(TypedDict):
    """What --measure found."""

    file: str
    used: bool
    shipped: Peaks
    measured: Peaks


class EnvDocument(TypedDict):
    """`dojang env`."""

    convention: Said
    versions: dict[str, str | None]
    machine: MachineRow
    cache: CacheRow
    settings: dict[str, str]
    executable: str
    measured: NotRequired[MeasuredRow]


class RunRecord(TypedDict):
    """run.json, which `train` and `slim` leave in their folder: enough to repeat the run."""

    schema: Literal["dojang.run-record/1"]
    command: Literal["train", "slim"]
    arguments: Annotated[list[str] | None, "the command line; null for calls from Python"]
    finished: Annotated[str, "time in ISO 8601, UTC"]
    configuration: dict[str, Any]
    seed: int | None
    data_hash: str | None
    versions: dict[str, str | None]
    machine: MachineRow
    results: TrainResult | SlimResultRow


DOCUMENTS: Mapping[str, tuple[type, ...]] = {
    "count": (CountDocument, ExplainDocument),
    "solve": (SolveDocument,),
    "check": (CheckDocument,),
    "compare": (CompareDocument,),
    "filter": (FilterDocument, FilterPlanDocument),
    "run": (RunDocument,),
    "show": (ShowDocument,),
    "train": (TrainDocument,),
    "diagnose": (DiagnoseDocument,),
    "slim": (SlimDocument,),
    "export": (ExportDocument,),
    "bench": (BenchDocument,),
    "list": (ListDocument,),
    "env": (EnvDocument,),
}
"""For each command what its document holds beside the head: `schema`, `version`, `inputs`. Of several one holds."""

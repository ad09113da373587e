"""What `diagnose`, `slim` and `export` print as JSON, as types (see `documents.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from dojang.diagnosis.answers import Wrong
from dojang.diagnosis.bypass import Bypass
from dojang.diagnosis.effective import Effective
from dojang.diagnosis.equivariance import Equivariance
from dojang.diagnosis.scale import Scale
from dojang.diagnosis.sensitivity import Sensitivity
from dojang.evidence.finding import Finding, NotJudged
from dojang.evidence.times import LayerTime
from dojang.report.documents_count import Said
from dojang.report.documents_run import ConfusionRow, DataRow
from dojang.slimming.result import NetworkFigures


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

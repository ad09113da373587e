"""What each JSON document holds, as types: docs/schemas/ and docs/json.md are made from them (scripts/docs.py).

A part of a document that is a dataclass of the program stands here as that dataclass. What `to_dict` shapes otherwise
is a TypedDict. The tests hold the real output of every command against these types, with no key left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from dojang.native.families import Peaks
from dojang.report.documents_count import (
    CheckDocument,
    CompareDocument,
    CountDocument,
    ExplainDocument,
    Said,
    SolveDocument,
)
from dojang.report.documents_run import (
    FilterDocument,
    FilterPlanDocument,
    RunDocument,
    ShowDocument,
    TrainDocument,
    TrainResult,
)
from dojang.report.documents_slim import DiagnoseDocument, ExportDocument, SlimDocument, SlimResultRow
from dojang.report.results import Timing


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

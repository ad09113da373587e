"""What `filter`, `run`, `show` and `train` print as JSON, as types (see `documents.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from dojang.engine.plan.choose import Plan
from dojang.filters.files import Failed, Filtered
from dojang.report.documents_count import Said
from dojang.report.results import Guess
from dojang.training.config import TrainConfig
from dojang.training.confusion import Mistake
from dojang.training.record import Best, Epoch, Start


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

"""Result types that no other package defines: frozen, with `to_dict` for JSON."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dojang.base.errors import UsageError
from dojang.base.result import Result
from dojang.report.checks import Checks
from dojang.report.markup import escape

if TYPE_CHECKING:
    from dojang.arith.cost import Count
    from dojang.arith.graph import Graph
    from dojang.arith.preparation import Preparation
    from dojang.diagnosis.correlation import Correlation
    from dojang.diagnosis.effective import Effective
    from dojang.diagnosis.equivariance import Equivariance
    from dojang.diagnosis.grouping import LayerGrouping
    from dojang.diagnosis.spectrum import Spectrum
    from dojang.engine.plan.choose import Plan
    from dojang.evidence.finding import Finding, NotJudged
    from dojang.evidence.times import CallTimes
    from dojang.slimming.result import Edit, NetworkFigures, Refused, SlimResult

MOST_VALUES = 1000
"""Outputs with more numbers than this are not written into JSON; `-o OUT.npy` has them."""


@dataclass(frozen=True, slots=True)
class Guess:
    """One class of an answer: its number, its name (the number where names are not known), score and probability."""

    index: int
    name: str
    score: float
    probability: float


MOST_IN_CELL = 16 << 20
"""Bytes of a page that is put into a notebook."""


@dataclass(frozen=True, eq=False)
class ShownPage(Result):
    """A page that shows a network: served at `url` until it is closed, or written to `files`.

    `size_bytes` is the size of the page. A page in one file holds the network's weights as `weights` says; `lacking`
    names layers that it cannot compute, with their operators. `why_not` says why the page shows no maps ("" if it
    does). `opened` says whether a browser was opened.
    """

    network: str
    url: str | None
    files: tuple[str, ...]
    size_bytes: int
    weights: str = ""
    lacking: tuple[str, ...] = ()
    why_not: str = ""
    server: Any = field(default=None, repr=False)
    opened: bool = False

    def wait(self) -> None:
        """Returns when the page is closed; an interrupt comes through."""
        if self.server is not None:
            self.server.wait()

    def close(self) -> None:
        """Stops serving the page."""
        if self.server is not None:
            self.server.close()

    def _repr_html_(self) -> str:
        """In a notebook: a page in one file stands in the cell, in a frame that reaches nothing of the notebook; one
        that is served, or has more than `MOST_IN_CELL` bytes, is a link.
        """
        if self.url is None and self.size_bytes <= MOST_IN_CELL:
            text = html.escape(Path(self.files[0]).read_text(encoding="utf-8"))
            frame = 'sandbox="allow-scripts" style="width:100%;height:46rem;border:0"'
            return f'<iframe title="{escape(self.network)}" {frame} srcdoc="{text}"></iframe>'
        where = self.url or self.files[0]
        return f'<a href="{escape(where)}" target="_blank" rel="noopener">{escape(self.network)}</a>'

    def to_dict(self) -> dict[str, Any]:
        """All but the server."""
        return {
            "network": self.network,
            "url": self.url,
            "files": list(self.files),
            "size_bytes": self.size_bytes,
            "weights": self.weights,
            "lacking": list(self.lacking),
            "why_not": self.why_not,
        }


@dataclass(frozen=True, eq=False)
class Run(Result):
    """A forward pass. `top` has the best classes of every sample, empty where the output is not one row of scores per
    sample.

    `outputs` are the arrays, by the keys of the network's outputs (else the names of the nodes that make them);
    `prepared` says how the input was made, `probability` what the probability of a class is ("" without classes),
    `guessed_names` from what the names of the classes were guessed ("" where they were not).
    """

    network: str
    source: str
    prepared: str
    outputs: Mapping[str, Any]
    top: tuple[tuple[Guess, ...], ...] = ()
    files: tuple[str, ...] = ()
    plan: Plan | None = None
    probability: str = ""
    guessed_names: str = ""

    @property
    def convention(self) -> str:
        """How its numbers are to be read."""
        names = f"; class names are {self.guessed_names}" if self.guessed_names else ""
        return f"probability is {self.probability}{names}; float32" if self.probability else "float32"

    def to_dict(self) -> dict[str, Any]:
        """Shapes and extremes of the outputs; their values where they are few."""
        return {
            "network": self.network,
            "prepared": self.prepared,
            "top": [[asdict(guess) for guess in sample] for sample in self.top],
            "outputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "min": float(array.min()) if array.size else None,
                    "max": float(array.max()) if array.size else None,
                    "values": array.tolist() if array.size <= MOST_VALUES else None,
                }
                for name, array in self.outputs.items()
            ],
            "files": list(self.files),
            **({"plan": self.plan.to_dict()} if self.plan is not None else {}),
        }


@dataclass(frozen=True)
class Trained(Result):
    """A finished training: the trained network (`graph`), the record of the run (`history`: what JSON has) and the
    files that were written. `fresh`: it began with new weights. `understood`: the paragraph told before the first step.
    `constant_accuracy`, with several classes to a sample: the test accuracy of giving all samples the same answer, that
    of the most samples for each class.
    """

    network: str
    history: Mapping[str, Any]
    files: tuple[str, ...]
    fresh: bool
    graph: Graph = field(repr=False, compare=False)
    understood: str = ""
    constant_accuracy: float | None = None

    @property
    def accuracy(self) -> float:
        """Fraction of the test part that is answered right; R² for a regression."""
        return self.history["test_accuracy"]

    @property
    def train_accuracy(self) -> float:
        """The same for the train part."""
        return self.history["train_accuracy"]

    @property
    def warning(self) -> str:
        """A sentence where an answer that is the same for all samples is as good; "" else. `Confusion` has that for
        one class to a sample.
        """
        constant = self.constant_accuracy
        if constant is not None and self.accuracy <= constant:
            return (
                f"a label accuracy of {100 * self.accuracy:.2f} % shows no learning: the same answer for all samples, "
                f"for each class that of most of them, gives {100 * constant:.2f} %."
            )
        if self.history["metric"] != "r2" or self.accuracy >= 0:
            return ""
        return (
            "R² is below 0: always answering the mean of the targets comes nearer. Targets that are scaled to a "
            "standard deviation near 1 train best; more epochs may help, too."
        )

    def to_dict(self) -> dict[str, Any]:
        """The record with its files."""
        return {"network": self.network, **self.history, "started": "fresh" if self.fresh else "from weights",
                "understood": self.understood, "files": list(self.files)}  # fmt: skip


@dataclass(frozen=True)
class Exported(Result):
    """A network written in another format. `normalisation` says for each input who normalises its samples, and how."""

    network: str
    format: str
    file: str
    size_bytes: int
    checked: str
    normalisation: tuple[Preparation, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields; `text` is the normalisation as a sentence."""
        return {**asdict(self), "normalisation": [{**asdict(how), "text": str(how)} for how in self.normalisation]}


@dataclass(frozen=True)
class Listing(Result):
    """Rows of `dojang list`: one dict each, with the same keys. `more` has further lists, by name."""

    what: str
    rows: tuple[Mapping[str, Any], ...] = field(default=())
    more: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The rows under the name of the list."""
        return {name: [dict(row) for row in rows] for name, rows in ({self.what: self.rows} | dict(self.more)).items()}


@dataclass(frozen=True)
class Diagnosis(Result):
    """Findings about a trained network, the most severe first, and the samples they are based on.

    Per layer, `spectra` says what it uses of its channels, `effective` what it uses of the input, and `equivariance`
    how it responds to a shift of the input. `notes` say what could not be looked at, `not_judged` which kinds of waste
    were not looked for, in which layer, and why. `times` says where the time of a call goes, `checks` how it answers,
    how its activations lie, and what it can spare.
    """

    network: str
    findings: tuple[Finding, ...]
    samples: int
    data: Mapping[str, Any] | None
    threshold: float
    correlations: tuple[Correlation, ...] = ()
    groupings: tuple[LayerGrouping, ...] = ()
    spectra: tuple[Spectrum, ...] = ()
    effective: tuple[Effective, ...] = ()
    equivariance: tuple[Equivariance, ...] = ()
    notes: tuple[str, ...] = ()
    not_judged: tuple[NotJudged, ...] = ()
    times: CallTimes | None = None
    checks: Checks = field(default_factory=Checks)

    def at_least(self, severity: str) -> tuple[Finding, ...]:
        """The findings of this severity or a higher one."""
        from dojang.evidence.finding import SEVERITIES  # it loads NumPy, which counting does not need

        least = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= least)

    def to_dict(self) -> dict[str, Any]:
        """Findings, what they were found on, and what each layer uses."""
        return {
            "network": self.network,
            "findings": [finding.to_dict() for finding in self.findings],
            "samples": self.samples,
            "data": dict(self.data) if self.data else None,
            "spectra": [spectrum.to_dict() for spectrum in self.spectra],
            "effective_fields": [field.to_dict() for field in self.effective],
            "equivariance": [shifted.to_dict() for shifted in self.equivariance],
            "notes": list(self.notes),
            "not_judged": [one.to_dict() for one in self.not_judged],
            "times": self.times.to_dict() if self.times is not None else None,
            **self.checks.to_dict(),
            "convention": "a channel is dead when its value after the activation never exceeds the threshold of "
            f"{self.threshold:g}; 'proven' for every input that `assumes` describes, 'observed' on the samples seen; "
            "what is said of samples holds for all findings together with the confidence that each states",
        }


NOT_LOOKED = "findings were not looked for: dojang diagnose does"
"""A note of a slimming by somebody's own loop, which goes by what moves the outputs alone."""


@dataclass(frozen=True)
class Slimming(Result):
    """A complete slimming: figures on the test part, edits, refusals, and the data and settings used.

    `metric` says what accuracy means ("none": there were no labels). `counts` are the cost tables before and after.
    `same_answers` says how the written ONNX file was checked. `module`: the result in PyTorch where a module was
    given, else None: of the same class where every edit allows it. `about`: what a file of the module says beside it.
    """

    network: str
    result: SlimResult
    diagnosis: Diagnosis
    counts: tuple[Count, Count]
    data: Mapping[str, Any]
    metric: str
    runtime: str
    runtime_version: str | None
    batch: int
    rounds: int
    seconds: float
    same_answers: str = ""
    files: tuple[str, ...] = ()
    module: Any = None
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def save(self, path: str | Path) -> None:
        """Writes the module as a state dict, which `dojang.load_slim(path, module)` puts into a fresh module of the
        same class. Raises `UsageError` where there is no module, and for the name of a file of another format.
        """
        if self.module is None:
            raise UsageError(
                "save writes a PyTorch module, and none was given to slim; write .graph with dojang.export"
            )
        other = Path(path).suffix.lower()
        if other in {".onnx", ".safetensors", ".npz", ".net", ".pt2", ".py"}:
            raise UsageError(
                f"{path}: save writes a PyTorch state dict, not a {other} file; name it .pt, or write .graph with "
                "dojang.export"
            )
        from dojang.formats.torch.write.saved import save_slim

        save_slim(self.module, path, self.about)

    @property
    def graph(self) -> Graph:
        """The cheaper network."""
        return self.result.graph

    @property
    def before(self) -> NetworkFigures:
        """Parameters, MACs, accuracy, time and size of the network that was given."""
        return self.result.before

    @property
    def after(self) -> NetworkFigures:
        """The same of the cheaper network."""
        return self.result.after

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What was cut, in order, each with its claim and the check of it."""
        return self.result.edits

    @property
    def refused(self) -> tuple[Refused, ...]:
        """What was tried and not taken, with the reason."""
        return self.result.refused

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the result differs from the request, in sentences."""
        return self.result.notes

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found about the network that was given."""
        return self.diagnosis.findings

    @property
    def convention(self) -> str:
        """What the figures mean."""
        kinds = {
            "accuracy": "the fraction of test samples answered right",
            "r2": "R²",
            "label accuracy": "the fraction of right answers about each class of each test sample",
        }
        scored = f"accuracy is {kinds[self.metric]}, on data used for no choice; " if self.metric in kinds else ""
        if self.metric == "evaluate":
            scored = "evaluate is what the function that was given to slim says of a module, higher is better; "
        return (
            f"{scored}time is the median of {self.rounds} interleaved rounds "
            f"of a batch of {self.batch} on {self.runtime}; size is that of the ONNX file; 1 MAC = 1 multiply + 1 add"
        )

    def to_dict(self) -> dict[str, Any]:
        """Before and after, edits, refusals, findings, and what it was done with."""
        return {
            "network": self.network,
            "convention": self.convention,
            **self.result.to_dict(),
            "findings": [finding.to_dict() for finding in self.diagnosis.findings],
            "metric": self.metric,
            "runtime": {"name": self.runtime, "version": self.runtime_version, "batch": self.batch},
            "data": dict(self.data),
            "seconds": self.seconds,
            "same_answers": self.same_answers or None,
            "files": list(self.files),
        }


@dataclass(frozen=True, slots=True)
class Timing:
    """One runtime's time for a batch: median and interquartile range over rounds, largest difference from dojang's."""

    runtime: str
    version: str | None
    median_ms: float
    iqr_ms: float
    max_abs_diff: float | None


@dataclass(frozen=True)
class Bench(Result):
    """A network timed on several runtimes in one run. `missing` says why a peer was not timed."""

    network: str
    batch: int
    rounds: int
    weights: str
    machine: Mapping[str, Any]
    results: tuple[Timing, ...]
    ratio: float | None
    missing: Mapping[str, str]

    @property
    def convention(self) -> str:
        """What the figures mean."""
        return (
            f"median and interquartile range of {self.rounds} interleaved rounds, one batch of {self.batch} each, "
            f"float32; differences are absolute, from dojang's output; {self.weights}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Every runtime's times; `ratio_to_best_peer` is dojang's median over the best peer's."""
        return {
            "network": self.network,
            "convention": self.convention,
            "machine": dict(self.machine),
            "results": [asdict(timing) for timing in self.results],
            "ratio_to_best_peer": self.ratio,
            "missing": dict(self.missing),
        }


@dataclass(frozen=True)
class Environment(Result):
    """What a bug report needs: versions, the machine that plans are made for, the cache, and settings that matter.

    `measured` has the measured peaks of this machine, or None if they were not measured.
    """

    versions: Mapping[str, str | None]
    machine: Mapping[str, Any]
    cache: Mapping[str, Any]
    settings: Mapping[str, str]
    executable: str
    measured: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields; `measured` only where there was a measurement."""
        facts = {
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "cache": dict(self.cache),
            "settings": dict(self.settings),
            "executable": self.executable,
        }
        return facts | ({"measured": dict(self.measured)} if self.measured is not None else {})

"""What the clock, the tuning and the scoring answered, kept on disk: a search that is killed anywhere ends the same.

A search is a function of its arguments and of what `measure`, `tune` and `evaluate` answer. The journal writes every
answer down before it is used, by its question. Taken up again, the search runs from the start and is given the same
answers without delay until they end; so nothing else has to be saved, and no moment is special. A question that is
asked anew, as of the clock, has an answer for each time that it was asked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError, FileError, UsageError
from dojang.base.reading import damaged_as, json_value, read_text
from dojang.base.writing import naming, replace_text
from dojang.formats import checkpoint
from dojang.slimming.estimate import shape_key
from dojang.slimming.ledger import Evaluate, Measure, PartTune, Tune

FILE = "journal.json"
FORMAT = "dojang.slim-journal/1"
CLOCK = "clock"
MOST_BYTES = 1 << 26
"""Bytes of a journal that is read; an answer takes about a hundred."""
FAILURES = {"DataError": DataError, "CheckFailed": CheckFailed}
"""Errors of tuning and scoring that the search goes on from, so that they are answers too."""


class Journal:
    """The answers of one search in a folder. `about` says which search it is: what must be equal to go on."""

    def __init__(self, folder: str | Path, about: Mapping[str, Any], resume: bool = False) -> None:
        """Begins, or with `resume` takes up what is there (and begins where nothing is).

        Raises `UsageError` when the folder holds another search, or one that was not asked to be resumed; `FileError`
        when it is damaged.
        """
        self.folder = Path(folder)
        self.about = json.loads(json.dumps(dict(about)))
        self.entries: list[dict[str, Any]] = []
        self._asked: Counter[str] = Counter()
        self._known: dict[str, list[dict[str, Any]]] = {}
        found = self._read()
        if found is not None:
            if not resume:
                raise UsageError(
                    f"{self.folder}: holds an unfinished slimming; go on with --resume, or begin anew with --force"
                )
            for key in self.about | found["about"]:
                if self.about.get(key) != found["about"].get(key):
                    raise UsageError(
                        f"{self.folder}: the slimming there has {key} {found['about'].get(key)}, this one "
                        f"{self.about.get(key)}; begin anew with --force, or use another folder"
                    )
            self.entries = found["entries"]
            for entry in self.entries:
                self._known.setdefault(entry["key"], []).append(entry)
        else:
            self._write()

    @property
    def working(self) -> Path:
        """A folder for the answer that is being worked out, as for the state of a training; gone once it is known."""
        return self.folder / f"{len(self.entries):04d}"

    def over(
        self, measure: Measure | None, tune: Tune | None, evaluate: Evaluate | None
    ) -> tuple[Measure | None, Tune | None, Evaluate | None]:
        """The same callables, answered from the journal as far as it goes."""
        return (
            None if measure is None else lambda graphs: self.measured(graphs, lambda: measure(graphs)),
            None if tune is None else self.tuned(tune),
            None
            if evaluate is None
            else lambda graph: self.answer(key_of("evaluate", [graph]), lambda: evaluate(graph)),
        )

    def remove(self) -> None:
        """The folder away, when the search is over and what came of it is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tuned(self, tune: Tune) -> Tune:
        """One tuning, answered from the journal where it knows the answer."""

        return lambda graph, teacher: self._tuned("tune", graph, teacher, lambda: tune(graph, teacher))

    def tuned_in_parts(self, tune: PartTune) -> PartTune:
        """The same for trainings of a part of a tuning."""
        return lambda graph, teacher, share: self._tuned(
            f"tune {share:.9g}", graph, teacher, lambda: tune(graph, teacher, share)
        )

    def clocked(self, clock: Callable[[], float]) -> Callable[[], float]:
        """Seconds since the search began, those of earlier runs included; in what is told again, as they were then.

        `clock`: the seconds of this run.
        """
        before = max((entry["value"] for entry in self.entries if entry["key"] == CLOCK), default=0.0)
        return lambda: self.answer(CLOCK, lambda: before + clock())

    def measured(
        self, graphs: Sequence[Graph], work: Callable[[], Sequence[Sequence[float]]], where: str = ""
    ) -> list[list[float]]:
        """Times of networks, in each of several rounds; what is asked anew is measured anew.

        `where`: what times depend on beside the networks, where `about` does not say it: another runtime, say, is
        another question.
        """
        key = " ".join(filter(None, (key_of("measure", graphs), where)))
        return self.answer(key, lambda: [list(map(float, t)) for t in work()])

    def _tuned(self, kind: str, graph: Graph, teacher: Graph, train: Callable[[], Graph]) -> Graph:
        def work() -> str:
            name = self.fresh("tuned", ".safetensors")
            checkpoint.save(train(), self.folder / name, force=True)
            return name

        name = self.answer(key_of(kind, [graph, teacher]), work)
        # also the one just made is read back, so that going on and taking up again compute on the same arrays
        kept = checkpoint.load(self.folder / name).weights
        return graph.with_weights({array: np.array(kept[array]) for array in kept})

    def fresh(self, stem: str, suffix: str) -> str:
        """The name of a file in the folder for the answer that is being worked out."""
        return f"{stem}-{len(self.entries):04d}{suffix}"

    def __contains__(self, key: str) -> bool:
        """Whether a question was ever answered."""
        return key in self._known

    def answer(self, key: str, work: Callable[[], Any], once: bool = False, failures: bool = True) -> Any:
        """What `work` answers, or answered an earlier time: numbers, texts, lists and mappings of them.

        `once`: the question has one answer, however often it is asked. `failures`: that the work fails is an answer.
        """
        place = 0 if once else self._asked[key]
        known = self._known.get(key, [])
        if place == len(known):
            entry: dict[str, Any] = {"key": key}
            working = self.working
            try:
                entry["value"] = work()
            except (DataError, CheckFailed) as error:
                if not failures:
                    raise
                entry |= {"error": type(error).__name__, "said": str(error)}
            self.entries.append(entry)
            known = self._known.setdefault(key, [])
            known.append(entry)
            self._write()
            shutil.rmtree(working, ignore_errors=True)
        self._asked[key] += 1
        entry = known[place]
        if "error" in entry:
            raise FAILURES[entry["error"]](entry["said"])
        return entry["value"]

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / FILE
        if not path.exists():
            return None
        what = "no journal of a slimming, or a damaged one; remove it"
        with damaged_as(str(path), what):
            found = json_value(read_text(path, most=MOST_BYTES), str(path), what)
            if found["format"] != FORMAT:
                raise FileError(f"{path}: written as {found['format']}, this version reads {FORMAT}; remove it")
            [(entry["key"], entry.get("value"), entry.get("error")) for entry in found["entries"]]
            dict(found["about"])
        return found

    def _write(self) -> None:
        text = json.dumps({"format": FORMAT, "about": self.about, "entries": self.entries})
        with naming(self.folder / FILE):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(self.folder / FILE, text)


def key_of(kind: str, graphs: Sequence[Graph]) -> str:
    """The question: what was asked about which networks. Times depend on shapes, all else also on weights."""
    told = hashlib.sha256(kind.encode())
    for graph in graphs:
        told.update(shape_key(graph).encode())
        if kind != "measure":
            for name in sorted(graph.weights):
                told.update(name.encode())
                told.update(np.ascontiguousarray(graph.weights[name]).data)
    return told.hexdigest()

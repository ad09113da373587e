"""The owner's own loop and measure: called with care, kept on disk, and held against the original tuned as long."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from io import BytesIO
from math import sqrt
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.shortening import arrays_of
from dojang.base.errors import DataError, UsageError
from dojang.base.reading import damaged_as
from dojang.base.writing import replace_bytes
from dojang.slimming.halving import Schedule
from dojang.slimming.journal import Journal

UNSTEADY = 1e-4
"""Two answers of one measure about one module that differ by more than this part of it are told to be random."""

TOO_RANDOM = 0.02
"""A measure whose two answers differ by more than this part of it cannot tell cuts apart."""

LEAST_SIZE = 1e-3
"""Measures are held to be of this size at least, or of the size of their standard error where they tell it: of a
measure near zero the two parts above would call rounding random. So answers less than 2e-5 apart are never refused."""


ABOUT = {"loop": "the owner's"}
"""What a journal of such a slimming is about. Its questions name the code and the arrays that they are asked of, so
that what still holds is taken up also where another target is asked for."""

BEST = "best.pt"
"""The best network so far, in the folder of the journal."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Score:
    """What a measure said of a module: `value`, higher is better. `error`: its standard error, where it is known.

    `each`: the answer to every sample, where the measure gave them.
    """

    value: float
    error: float | None = None
    each: np.ndarray | None = None


def score_of(answer: Any) -> Score:
    """A measure's answer: a number, (number, standard error), or one number for each sample.

    Raises `UsageError` for anything else, and `DataError` for NaN.
    """
    kind = type(answer).__name__
    if answer is None:
        raise UsageError("evaluate returned None; it has to return how good the module is, higher is better")
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    try:
        numbers = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        raise UsageError(
            f"evaluate returned {kind}; it has to return a number (higher is better), (number, standard error) or one "
            "number for each sample"
        ) from None
    if not numbers.size or not np.isfinite(numbers).all():
        raise DataError(f"evaluate returned {answer!r:.60}; a measure has to be a finite number")
    if numbers.size == 1:
        return Score(float(numbers.reshape(())))
    if isinstance(answer, tuple) and len(answer) == 2:
        return Score(float(numbers[0]), abs(float(numbers[1])))
    each = numbers.reshape(-1)
    return Score(float(each.mean()), float(each.std() / sqrt(len(each))), each)


def loss(control: Score, cut: Score, noise: float = 0.0) -> tuple[float, float | None]:
    """By how much a cut network is worse than the control, and the standard error of that where it is known.

    Of measures that answer sample by sample it is that of the paired differences. `noise`: what two answers about one
    module differed by.
    """
    lost = control.value - cut.value
    if control.each is not None and cut.each is not None and len(control.each) == len(cut.each):
        error = float((control.each - cut.each).std() / sqrt(len(cut.each)))
    elif control.error is not None and cut.error is not None:
        error = sqrt(control.error**2 + cut.error**2)
    else:
        return lost, noise or None
    return lost, sqrt(error**2 + noise**2)


def key_of(kind: str, module: Any) -> str:
    """What was asked about which arrays."""
    told = hashlib.sha256(kind.encode())
    for name, array in sorted(arrays_of(module).items()):
        told.update(f"{name} {array.shape} {array.dtype}".encode())
        told.update(np.ascontiguousarray(array).data)
    return told.hexdigest()


@dataclass
class OwnLoop:
    """`tune` and `evaluate` of somebody, each of which may be missing. `original`: the module that was given to `slim`.

    `noise`: by how much two answers of `evaluate` about the original differed; 0 where they were the same. `several`:
    tunes many modules side by side, where there are several processes.
    """

    original: Any
    tune: Callable[..., Any] | None
    evaluate: Callable[[Any], Any] | None
    journal: Journal
    progress: ProgressDisplay = field(default_factory=Silent)
    noise: float = 0.0
    notes: list[str] = field(default_factory=list[str])
    several: Callable[[Sequence[Any], float], list[Any]] | None = None
    _controls: dict[Schedule, Any] = field(default_factory=dict[Schedule, Any])

    def key(self, what: str, module: Any) -> str:
        """What "tune" or "evaluate" was asked about which arrays: other code of it is another question."""
        from dojang.training.identity import code_of

        function = self.evaluate if what == "evaluate" else self.tune
        return key_of(f"{what} {code_of(function)}" if function is not None else what, module)

    def begin(self) -> Score | None:
        """What the measure says of the original, asked twice. Raises `UsageError` where the answers differ too much."""
        self._controls = {(): deepcopy(self.original).eval()}
        if self.evaluate is None:
            return None
        self.progress.stage("evaluate: the original")
        key = self.key("evaluate", self.original)
        one, two = (self._scored(f"{key}{n}", self._controls[()]) for n in ("", " again"))
        apart, size = abs(one.value - two.value), max(abs(one.value), abs(two.value), LEAST_SIZE)
        size = max(size, *(own.error or 0.0 for own in (one, two)))
        if apart > TOO_RANDOM * size:
            raise UsageError(
                f"evaluate is random: of the original as it is it says {one.value:.6g}, then {two.value:.6g}; fix its "
                "seed, its order and its augmentation, or give it more samples"
            )
        if apart > UNSTEADY * size:
            self.noise = apart
            self.notes.append(
                f"evaluate is random: of the original it said {one.value:.6g}, then {two.value:.6g}; differences of "
                f"less than {apart:.2g} mean nothing"
            )
        self.progress.stage(f"evaluate: the original as it came: {one.value:.6g}")
        return one

    def score(self, module: Any) -> Score | None:
        """What the measure says of a module in `eval` mode; None without one."""
        if self.evaluate is None:
            return None
        module.eval()
        return self._scored(self.key("evaluate", module), module)

    def _scored(self, key: str, module: Any) -> Score:
        """What the measure says of a module, or said an earlier time."""

        def work() -> dict[str, Any]:
            found, name = self._asked(module), None
            if found.each is not None:  # not in the journal itself, which is written anew with every answer
                name = self.journal.fresh("scored", ".npy")
                content = BytesIO()
                np.save(content, found.each)
                replace_bytes(self.journal.folder / name, content.getvalue())
            return {"value": found.value, "error": found.error, "each": name}

        kept = self.journal.answer(key, work, once=True, failures=False)
        return Score(kept["value"], kept["error"], None if kept["each"] is None else self._each(kept["each"]))

    def _each(self, name: str) -> np.ndarray:
        """The answers to every sample that a file in the folder of the journal holds."""
        path = self.journal.folder / name
        with damaged_as(str(path), "damaged answers of evaluate; begin the slimming anew"):
            return np.load(path, allow_pickle=False)

    @property
    def best(self) -> Path:
        """The file of the best network so far."""
        return self.journal.folder / BEST

    def _kept(self, key: str, module: Any, work: Callable[[], Any]) -> Any:
        """The module after `work`, or as `work` left it an earlier time."""
        from dojang.formats.torch.write.saved import read_state, write_state

        made: list[Any] = []

        def written() -> str:
            made.append(work())
            name = self.journal.fresh("tuned", ".pt")
            write_state(made[0], self.journal.folder / name)
            return name

        name = self.journal.answer(key, written, once=True, failures=False)
        if made:
            return made[0]
        module.load_state_dict(read_state(self.journal.folder / name))
        return module

    def control(self, schedule: Schedule) -> Any:
        """The original tuned by these trainings, as a cut network is."""
        if schedule not in self._controls:
            before = self.control(schedule[:-1])
            self.progress.stage(f"control: the original tuned, time {len(schedule)}")
            self._controls[schedule] = self.tuned(before, self.original, schedule[-1])
        return self._controls[schedule]

    def ahead(self, schedule: Schedule, modules: Sequence[Any], share: float, control: bool = True) -> None:
        """Tunes modules for a share, and with `control` the original for the last share of `schedule`, side by side,
        for `tuned` and `control` to find.
        """
        if self.several is None or self.tune is None:
            return
        wanted = [*modules]
        if control and self.evaluate and schedule not in self._controls and schedule[-1] == share:
            wanted.insert(0, self.control(schedule[:-1]))
        what = self._named(share)
        keys = {self.key(what, module): module for module in wanted}
        keys = {key: module for key, module in keys.items() if key not in self.journal}
        if keys:
            self.progress.stage(f"tuning {len(keys)} networks side by side")
            for key, (module, done) in zip(keys, zip(keys.values(), self.several([*keys.values()], share), strict=True),
                                           strict=True):  # fmt: skip
                self._kept(key, module, lambda done=done: done)

    def tune_once(self, module: Any, share: float) -> Any:
        """The module tuned in place, or what `tune` gives in its stead; see `tuned`. It comes from another process."""
        place = next((p.device for p in self.original.parameters()), None)
        return self._tuned(module if place is None else module.to(place), self.original, share)

    @property
    def in_parts(self) -> bool:
        """Whether `tune` can be asked for a part of its work: it has a parameter `share`."""
        return self.tune is not None and takes_share(self.tune)

    def _named(self, share: float) -> str:
        """What the journal calls a tuning for a share."""
        return "tune" if share == 1.0 and not self.in_parts else f"tune {share:.9g}"

    def tuned(self, module: Any, teacher: Any, share: float = 1.0) -> Any:
        """A tuned copy of a module, in `eval` mode; the module as it is without a `tune`. `share`: the part of one
        whole tuning, for a `tune` that takes it.

        Raises `DataError` where `tune` raises, or leaves NaN; `UsageError` where it returns something else than a
        module of the same arrays, or changes the module that was given to `slim` in place of its argument.
        """
        if self.tune is None:
            return module
        work = deepcopy(module)
        key = self.key(self._named(share), module)
        return self._kept(key, work, lambda: self._tuned(work, teacher, share)).eval()

    def _tuned(self, work: Any, teacher: Any, share: float) -> Any:
        assert self.tune is not None
        before, original = key_of("", work), key_of("", self.original)
        kept = deepcopy(self.original.state_dict())
        modes = {name: part.training for name, part in self.original.named_modules(remove_duplicate=False)}
        try:
            found = trained_by(self.tune, work, teacher, {"share": share} if self.in_parts else {}, self.saved_said())
        finally:
            for name, part in self.original.named_modules(remove_duplicate=False):
                part.training = modes.get(name, part.training)
        if key_of("", self.original) != original:
            self.original.load_state_dict(kept)
            raise UsageError(
                "tune changed the module that was given to slim, not the one that it is called with (it was put back); "
                f"train the argument: tune=lambda module: ...{self.saved_said()}"
            )
        if key_of("", found) == before:
            self.note("tune left every array as it was: the figures are those of networks that were not tuned")
        return found

    def _asked(self, module: Any) -> Score:
        assert self.evaluate is not None
        module.eval()
        before = key_of("", module)
        try:
            answer = self.evaluate(module)
        except Exception as error:
            raise DataError(f"evaluate raised {_line(error)}{self.saved_said()}") from error
        if key_of("", module) != before:
            self.note(
                "evaluate changed the module: its batch norms ran in training mode; call module.eval() within it, and "
                "do not train there"
            )
        module.eval()
        return score_of(answer)

    def note(self, said: str) -> None:
        """One more note, once."""
        if said not in self.notes:
            self.notes.append(said)

    def saved_said(self) -> str:
        """Where the best network so far is."""
        return f"; the best network so far is in {self.best}" if self.best.is_file() else ""


def trained_by(
    tune: Callable[..., Any], work: Any, teacher: Any, more: Mapping[str, Any] = NOTHING, saved: str = ""
) -> Any:
    """The module `work` in training mode after the owner's loop, or the one that the loop gives in its stead.

    Raises `DataError` where `tune` raises, or leaves NaN; `UsageError` where it returns something else than a module of
    the same arrays. `saved`: what messages add about earlier work.
    """
    shapes = _shapes(work)
    work.train()
    try:
        answer = tune(work, teacher, **more) if takes_teacher(tune) else tune(work, **more)
    except Exception as error:
        raise DataError(f"tune raised {_line(error)}{saved}") from error
    found = work if answer is None else answer
    if not hasattr(found, "state_dict"):
        raise UsageError(f"tune returned {type(found).__name__}; it has to return nothing, or the tuned module{saved}")
    if _shapes(found) != shapes:
        raise UsageError(f"tune returned a module of other arrays than the one that it was called with{saved}")
    broken = next((n for n, a in arrays_of(found).items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None)
    if broken is not None:
        raise DataError(f"after tune {broken} holds NaN or infinity; lower the learning rate or clip gradients{saved}")
    return found


def takes_teacher(tune: Callable[..., Any]) -> bool:
    """Whether a function asks for a second argument by position."""
    try:
        found = list(inspect.signature(tune).parameters.values())
    except (TypeError, ValueError):
        return False
    places = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in places if p.default is p.empty]
    needed = [p for p in needed if p.name != "share"]
    return len(needed) >= 2 or (len(places) >= 2 and places[1].name == "teacher")


def takes_share(tune: Callable[..., Any]) -> bool:
    """Whether a function has a parameter `share`: the part of one whole tuning that it is to do."""
    try:
        found = inspect.signature(tune).parameters
    except (TypeError, ValueError):
        return False
    return "share" in found


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__

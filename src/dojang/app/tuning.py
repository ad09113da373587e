"""Fine-tuning within a slimming: after each cut, once more and longer at its end, and of the control beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.networks import torch_format
from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.together import Lead
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError, ShapeError, UnsupportedError
from dojang.slimming.journal import Journal
from dojang.slimming.ledger import Evaluate, Finish, Gradients, Tune
from dojang.training.data import Data

TUNE_SHARE = 0.5
"""Peak learning rate of fine-tuning, relative to that of training from scratch."""


@dataclass(frozen=True)
class Owned:
    """Somebody's module and the network that was read from it. Cut networks are fine-tuned as narrower copies of it.

    So what it does in training mode stays: dropout, frozen parameters, the momentum of batch norms, hooks. `notes` says
    where this could not be, and why.
    """

    module: Any
    graph: Graph
    notes: list[str] = field(default_factory=list[str])

    def narrowed(self, graph: Graph) -> Any:
        """A copy of the module that computes an edited network; None where there is none that can be trained."""
        from dojang.formats.torch.write.narrow import narrowed

        if not any(p.requires_grad for p in self.module.parameters()):
            self.refuse("all its parameters are frozen")
            return None
        module = narrowed(self.module, self.graph, graph)
        if module is None:
            self.refuse("its code fixes sizes that have changed, or an edit put other layers in place of one")
        return module

    def fits(self, graph: Graph) -> bool:
        """Whether the module has places for the arrays of an edited network; its code is not run."""
        from dojang.formats.torch.write.narrow import with_arrays

        return with_arrays(self.module, self.graph, graph) is not None

    def refuse(self, why: str) -> None:
        """Keep for the notes that a network was fine-tuned as a plain module, and why."""
        name = type(self.module).__name__
        note = f"a cut network was fine-tuned as a plain module made from its layers, not as a {name}: {why}"
        if note not in self.notes:
            self.notes.append(note)


@dataclass(frozen=True)
class TuningOptions:
    """What all trainings of one slimming have in common. `owned`: the module that the network was read from, if any."""

    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    progress: ProgressDisplay = field(default_factory=Silent)
    journal: Journal | None = None
    lead: Lead | None = None
    owned: Owned | None = None


def tuner(data: Data, epochs: int, options: TuningOptions) -> Tune:
    """Fine-tunes a network on `data.train` with another as its teacher (distillation).

    With a journal the state of each training is kept in its working folder, and taken up from there. Where there are
    several processes all take part.
    """
    work = training(data, options)
    if options.lead is not None:
        work = options.lead.shared(work)
    journal = options.journal
    return lambda graph, teacher: work(graph, teacher, epochs, journal.working if journal is not None else None)


def training(data: Data, options: TuningOptions) -> Callable[[Graph, Graph, int, Path | None], Graph]:
    """One training, `work(graph, teacher, epochs, folder)`: what each process does of it, and the network after it."""

    def work(graph: Graph, teacher: Graph, epochs: int, folder: Path | None) -> Graph:
        from dojang.training.config import TrainConfig
        from dojang.training.loop import fit
        from dojang.training.recipe import peak_lr
        from dojang.training.record import Progress
        from dojang.training.start import fitting_threads, module_of

        def tell(now: Progress) -> None:
            options.progress.step(
                (now.epoch - 1) * now.steps + now.step, now.epochs * now.steps, f"loss {now.loss:.3f}"
            )

        def trained(module: Any) -> Graph:
            config = TrainConfig(
                epochs=epochs,
                batch_size=min(64, len(data.train)),
                seed=options.seed,
                precision=options.precision,
                train_scored=1,
                test_every=epochs,
                device=options.device,
                mode="scratch",
                optimiser="sgd",
                augment=data.augment,
            )
            config = replace(config, lr=TUNE_SHARE * peak_lr(config, module))
            taught = module_of(teacher, options.seed)
            with fitting_threads(count(teacher).total.macs * config.batch_size):
                fit(module, data, config, teacher=taught, directory=folder, resume=True, progress=tell)
            return torch_format().weights_of(module, graph)

        owned = options.owned
        own = None if owned is None else owned.narrowed(graph)
        if owned is not None and own is not None:
            try:
                return trained(own)
            except (UnsupportedError, ShapeError) as error:  # both are raised before the first step
                owned.refuse(str(error))
        return trained(module_of(graph, options.seed))

    return work


SLOPES = 512
"""Samples that slopes of the loss are taken over, at most."""


def slopes(data: Data, seed: int) -> Gradients:
    """∂L/∂w of every weight array by name, L the mean loss of `data.train` against its labels (no teacher).

    Batch norms use their running statistics. At most `SLOPES` samples, drawn by seed.
    """
    order = np.random.default_rng(seed).permutation(len(data.train))[:SLOPES]
    part = data.train.take(np.sort(order))

    def gradients(graph: Graph) -> Mapping[str, Any]:
        from dojang.training.score import slopes_of
        from dojang.training.start import fitting_threads, module_of

        module = module_of(graph, seed)
        with fitting_threads(count(graph).total.macs * len(part)):
            slopes_of(module, part)
        return torch_format().weights_of(module, graph).weights

    return gradients


@dataclass
class Control:
    """The original tuned as often and as long as the result: what tuning alone gives, and a teacher.

    `tune` is what follows each cut (`epochs`), `last` the tuning at the end (`last_epochs`; None without one), both
    journalled. The original teaches the control in all of them.
    """

    original: Graph
    tune: Tune
    epochs: int
    last: Tune | None = None
    last_epochs: int = 0
    progress: ProgressDisplay = field(default_factory=Silent)
    teacher: str = "original"
    _made: dict[tuple[int, bool], Graph] = field(default_factory=dict[tuple[int, bool], Graph])

    def tuned(self, tunings: int, last: bool) -> Graph:
        """The original after so many tunings, and the last one. Raises what training does where it fails."""
        made = self._made.get((tunings, last), self.original)
        if made is self.original and (tunings or last):
            before = self.tuned(tunings if last else tunings - 1, False)
            self.progress.stage(f"control: the original fine-tuned, tuning {tunings + last}")
            step = self.last if last and self.last is not None else self.tune
            made = self._made[tunings, last] = step(before, self.original)
        return made

    def finish(self, evaluate: Evaluate) -> Finish | None:
        """The last tuning of a result that was tuned so often before; None where there is none.

        The teacher is the control where `evaluate` finds it no worse than the original: it has seen these data, which
        may be of another kind than the original's own. Fails as the control's trainings do.
        """
        last = self.last
        if last is None:
            return None

        def finished(graph: Graph, tunings: int) -> Graph:
            control = self.tuned(tunings, True)
            better = evaluate(control) >= evaluate(self.original)
            self.teacher = "control" if better else "original"
            self.progress.stage(f"the last fine-tuning of the result, taught by the {self.teacher}")
            return last(graph, control if better else self.original)

        return finished

    def figures(self, tunings: int, last: bool, score: Evaluate) -> dict[str, Any] | None:
        """What a result says of its control: {accuracy, tunings, epochs}; None where nothing was tuned."""
        if not tunings and not last:
            return None
        about = {"tunings": tunings + last, "epochs": tunings * self.epochs + last * self.last_epochs}
        try:
            return {"accuracy": score(self.tuned(tunings, last)), **about}
        except (DataError, CheckFailed) as error:
            return {"accuracy": None, **about, "failed": str(error)}

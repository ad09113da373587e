"""Fine-tuning within a slimming: after each cut, once more and longer at its end, and of the control beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.networks import torch_format
from dojang.app.progress import ProgressDisplay, Silent
from dojang.app.together import Lead
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.outputs import output_numbers
from dojang.base.errors import CheckFailed, DataError, ShapeError, UnsupportedError
from dojang.slimming.halving import Schedule
from dojang.slimming.journal import Journal
from dojang.slimming.ledger import Evaluate, Finish, Gradients, PartTune
from dojang.training.data import Data

TUNE_SHARE = 0.5
"""Peak learning rate of fine-tuning, relative to that of training from scratch."""
BITS_SHARE = 0.02
"""The same of tuning in 8 bits: there is little to correct, and batch norms, which bear large steps, are folded."""


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
        module, why = narrowed(self.module, self.graph, graph)
        if module is None:
            self.refuse(why)
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


def tuner(data: Data, epochs: int, options: TuningOptions) -> PartTune:
    """Fine-tunes a network on `data.train` with another as its teacher (distillation), for a part of `epochs`.

    With a journal the state of each training is kept in its working folder, and taken up from there. Where there are
    several processes all take part.
    """
    work = training(data, options)
    if options.lead is not None:
        work = options.lead.shared(work)
    journal = options.journal

    def tune(graph: Graph, teacher: Graph, share: float = 1.0) -> Graph:
        return work(graph, teacher, share * epochs, journal.working if journal is not None else None)

    return tune


def part_of(data: Data, epochs: float, batch_size: int, seed: int) -> tuple[Data, int]:
    """The data and the whole epochs that come to so many epochs: the samples are fewer where these are no whole number.

    A quarter of an epoch is one epoch over a quarter of the samples, drawn by seed, but at least one batch.
    """
    whole = max(1, ceil(epochs - 1e-9))
    number = max(round(len(data.train) * epochs / whole), min(len(data.train), batch_size))
    if number >= len(data.train):
        return data, whole
    order = np.random.default_rng([seed, number]).permutation(len(data.train))[:number]
    return replace(data, train=data.train.take(np.sort(order))), whole


def training(data: Data, options: TuningOptions) -> Callable[[Graph, Graph, float, Path | None], Graph]:
    """One training, `work(graph, teacher, epochs, folder)`: what each process does of it, and the network after it.

    A network with weights in 8 bits is trained as it computes, with rounded numbers; the result has real ones.
    """

    def work(graph: Graph, teacher: Graph, epochs: float, folder: Path | None) -> Graph:
        from dojang.training.before_sigmoid import giving_scores
        from dojang.training.config import TrainConfig
        from dojang.training.loop import fit
        from dojang.training.recipe import peak_lr
        from dojang.training.record import Progress
        from dojang.training.start import fitting_threads, module_of
        from dojang.training.straight_through import rounded_weights

        def tell(now: Progress) -> None:
            options.progress.step(
                (now.epoch - 1) * now.steps + now.step, now.epochs * now.steps, f"loss {now.loss:.3f}"
            )

        batch_size = min(64, len(data.train))
        part, whole = part_of(data, epochs, batch_size, options.seed)
        part = replace(part, test=part.test.take(slice(SCORED_AFTER)))

        def trained(module: Any) -> Graph:
            config = TrainConfig(
                epochs=whole,
                batch_size=batch_size,
                seed=options.seed,
                precision=options.precision,
                train_scored=1,
                test_every=whole,
                device=options.device,
                mode="scratch",
                optimiser="sgd",
                augment=data.augment,
            )
            of_peak = BITS_SHARE if graph.precisions else TUNE_SHARE
            config = replace(config, lr=of_peak * peak_lr(config, module))
            taught = module_of(teacher, options.seed)
            threads = fitting_threads(count(teacher).total.macs * config.batch_size, measured=True)
            scores = giving_scores(module, taught) if ends_in_sigmoid(graph, data) else nullcontext()
            with threads, rounded_weights(module, graph), scores:
                fit(module, part, config, teacher=taught, directory=folder, resume=True, progress=tell)
            return torch_format().weights_of(module, graph)

        owned = None if graph.precisions else options.owned
        own = None if owned is None else owned.narrowed(graph)
        if owned is not None and own is not None:
            try:
                return trained(own)
            except (UnsupportedError, ShapeError) as error:  # both are raised before the first step
                owned.refuse(str(error))
        return trained(module_of(graph, options.seed))

    return work


def ends_in_sigmoid(graph: Graph, data: Data) -> bool:
    """Whether a network gives the probability of each class, where samples have several: the loss takes scores."""
    return data.task == "multilabel" and output_numbers(graph) == "sigmoid"


SLOPES = 512
"""Samples that slopes of the loss are taken over, at most."""


def slopes(data: Data, seed: int) -> Gradients:
    """∂L/∂w of every weight array by name, L the mean loss of `data.train` against its labels (no teacher).

    Batch norms use their running statistics. At most `SLOPES` samples, drawn by seed.
    """
    order = np.random.default_rng(seed).permutation(len(data.train))[:SLOPES]
    part = data.train.take(np.sort(order))

    def gradients(graph: Graph) -> Mapping[str, Any]:
        from dojang.training.before_sigmoid import giving_scores
        from dojang.training.score import slopes_of
        from dojang.training.start import fitting_threads, module_of

        module = module_of(graph, seed)
        scores = giving_scores(module) if ends_in_sigmoid(graph, data) else nullcontext()
        with fitting_threads(count(graph).total.macs * len(part)), scores:
            slopes_of(module, part)
        return torch_format().weights_of(module, graph).weights

    return gradients


SCORED_AFTER = 64
"""Samples of the test part that a tuning is scored on by its loop, at most: nobody reads that score, since candidates
are judged on the whole selection by who asked for the tuning. Three passes over 5,000 pictures took as long as 90 steps
of ResNet-20, more than the whole first rung of a search within 50 minutes."""

LEAST_STEPS = 30
"""Steps of a part of a tuning below which candidates are not told apart."""


def least_share(data: Data, epochs: int) -> float:
    """The part of a tuning of so many epochs that has `LEAST_STEPS`; above 1 where the whole has fewer."""
    return LEAST_STEPS / max(1, epochs * max(1, len(data.train) // 64))


@dataclass
class Control:
    """The original tuned as often and as long as the result: what tuning alone gives, and a teacher.

    `tune(graph, teacher, share)` trains for a part of a whole tuning of `epochs`, journalled; the last tuning, at the
    end, is of `last_epochs` (0: there is none). The original teaches the control in all of them.
    """

    original: Graph
    tune: PartTune
    epochs: int
    last_epochs: int = 0
    progress: ProgressDisplay = field(default_factory=Silent)
    teacher: str = "original"
    _made: dict[Schedule, Graph] = field(default_factory=dict[Schedule, Graph])

    def tuned(self, schedule: Schedule) -> Graph:
        """The original after these trainings. Raises what training does where it fails."""
        if not schedule:
            return self.original
        if schedule not in self._made:
            before = self.tuned(schedule[:-1])
            self.progress.stage(f"control: the original fine-tuned, {sum(schedule) * self.epochs:.3g} epochs in all")
            self._made[schedule] = self.tune(before, self.original, schedule[-1])
        return self._made[schedule]

    def finish(self, evaluate: Evaluate) -> Finish:
        """The last tuning, `share` of a whole one, of a result that was trained by `schedule` before.

        The teacher is the control where `evaluate` finds it no worse than the original: it has seen these data, which
        may be of another kind than the original's own. Fails as the control's trainings do.
        """

        def finished(graph: Graph, schedule: Schedule, share: float) -> Graph:
            control = self.tuned((*schedule, share))
            better = evaluate(control) >= evaluate(self.original)
            self.teacher = "control" if better else "original"
            self.progress.stage(f"the last fine-tuning of the result, taught by the {self.teacher}")
            return self.tune(graph, control if better else self.original, share)

        return finished

    def epochs_of(self, schedule: Schedule) -> float:
        """Epochs that trainings come to, a whole number where they do."""
        epochs = round(sum(schedule) * self.epochs, 3)
        return int(epochs) if epochs == int(epochs) else epochs

    def figures(self, schedule: Schedule, score: Evaluate) -> dict[str, Any] | None:
        """What a result says of its control: {accuracy, tunings, epochs}; None where nothing was tuned."""
        if not schedule:
            return None
        about = {"tunings": len(schedule), "epochs": self.epochs_of(schedule)}
        try:
            return {"accuracy": score(self.tuned(schedule)), **about}
        except (DataError, CheckFailed) as error:
            return {"accuracy": None, **about, "failed": str(error)}

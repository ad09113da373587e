"""The training loop: a module and data in, the trained module and the record of the run out.

Deterministic by seed: batches and their variation are functions of (seed, epoch, step), dropout is seeded per step.
A run that is killed at any moment and taken up again ends in the same weights, bit for bit, on the same machine with
the same number of threads.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.base.errors import CheckFailed, DataError, UsageError
from dojang.training import state as disk
from dojang.training.batches import Batcher, epoch_batches, steps_per_epoch, torch_seed
from dojang.training.config import SET_ASIDE_LEAST, TrainConfig, learning_rate, share_set_aside
from dojang.training.data import SELECTION_FRACTION, Augment, Data, Split
from dojang.training.freezing import frozen, training_mode
from dojang.training.identity import differing, settings_of, text_of
from dojang.training.log import Log, TensorBoard
from dojang.training.numerics import computing_in, freed_memory_kept, repeatable, require_precision
from dojang.training.probe import check, is_trained, look, look_in_training
from dojang.training.recipe import VARIED_FROM, Teacher, TrainingLoss, optimizer_of, recipe_of, scales_of, shrink
from dojang.training.record import METRICS, Best, Epoch, History, Progress, Scores, Start
from dojang.training.score import (
    by_label_on,
    confusion_on,
    laid_out,
    normalised,
    right_count,
    rows,
    scores,
    variance_of,
)
from dojang.training.state import Position, State, capture, restore
from dojang.training.world import World, joined, shared

# A loss on the GPU is looked at only every so many steps, since each look waits for the GPU to finish.
_LOOK_EVERY_CUDA = 20


def fit(
    module: nn.Module,
    data: Data,
    config: TrainConfig | None = None,
    *,
    teacher: Teacher | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    tensorboard: TensorBoard = "off",
    started: Callable[[Start], None] | None = None,
    anew: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    replaces: Sequence[Path] = (),
) -> History:
    """Train `module` in place on `data.train` and return the record; the module is left in evaluation mode.

    The module takes normalised samples (n, c, h, w) and gives (n, classes) before softmax, or (n, k) for regression.
    `teacher` maps the same samples to its own outputs and is mixed into the loss. With a `directory` the state is
    kept there; `resume` takes it up (and starts anew where there is none yet), `overwrite` replaces another run's.
    log.csv there gets a row after each epoch, and `tensorboard` says whether events for TensorBoard are written too.

    It is the module itself that is trained: what its forward does in training mode, hooks, frozen parameters and the
    momentum of batch norms are its own. Parts of a module in training mode that are in evaluation mode stay there.

    `data.test` is only looked at, for the record. In a fine-tuning, and with `config.patience`, a share of the train
    part is set aside, and the state that is best on it is kept in `History.best_weights` beside the last one.

    `started` is told before the first step what the run will do. `anew` names parameters that are not trained yet
    among trained ones. `about` has more facts by which `resume` knows the run again ("network": its text); `replaces`
    are files of an earlier run, which go when the state of this one stands.

    Raises ShapeError when the network does not fit the data; UnsupportedError for modules that cannot be trained as
    they are; CheckFailed when the loss is no number any more, with the last good state put back and kept; FileError
    when the state cannot be written, with the one before kept; KeyboardInterrupt after keeping the state of the last
    whole step.
    """
    config = config or TrainConfig()
    place = None if directory is None else Path(directory)
    with joined(config.device) as world, repeatable(world.device), freed_memory_kept(), contextlib.ExitStack() as undo:
        require_precision(config.precision, world.device)
        home = next((p.device for p in module.parameters()), torch.device("cpu"))
        still = [name for name, part in module.named_modules() if not part.training] if module.training else []
        names = undo.enter_context(frozen(module, config.freeze))
        begin = training_mode(module, config.freeze)
        check(module, data, config, world)
        module.to(world.device)
        undo.callback(lambda: module.to(home).eval())
        undo.enter_context(laid_out(module, world.device))
        if isinstance(teacher, nn.Module):
            undo.callback(teacher.train, teacher.training)
            teacher.to(world.device).eval()
            undo.enter_context(laid_out(teacher, world.device))
        look(module, teacher, data, world)
        settled = settings_of(module)  # as they are after one call, so that what a second one changes is told apart
        look_in_training(module, begin, data, world)
        text = text_of(module, settled)
        log = undo.enter_context(Log(None if world.rank else place, METRICS[data.task], tensorboard))
        known = {
            "network": text,
            **(about or {}),
            "anew": list(anew),
            "frozen": list(names),
            "in_evaluation_mode": still,
        }
        run = _Run(module, data, config, world, teacher, place, progress, log, begin, known)
        run.begin(resume, overwrite, replaces)
        if started is not None and world.rank == 0:
            started(run.start())
        with shared(module, world) as trained:
            run.go(trained)
        return run.history()


class _Run:
    """One run of `fit`: what its steps share. The position and the module are its only changing parts."""

    def __init__(
        self,
        module: nn.Module,
        data: Data,
        config: TrainConfig,
        world: World,
        teacher: Teacher | None,
        directory: Path | None,
        progress: Callable[[Progress], None] | None,
        log: Log,
        training: Callable[[nn.Module], None],
        known: dict[str, Any],
    ) -> None:
        self.module, self.data, self.config, self.world, self.teacher = module, data, config, world, teacher
        self.directory, self.progress, self.log = directory, progress, log
        self.training, self.known = training, known
        self.loss = TrainingLoss(
            data.task, config.label_smoothing, config.alpha, config.temperature, config.class_weights
        )
        self.scales = scales_of(module) if config.scale_l1 else []
        self.position = Position()
        self.sums = torch.zeros(2, dtype=torch.float64, device=world.device)
        self.good: State | None = None
        self.best: dict[str, Tensor] | None = None
        self.written = time.monotonic()

    def _settle(self, fine_tuning: bool) -> None:
        """Everything that follows from whether this is a fine-tuning."""
        config, data, self.fine_tuning = self.config, self.data, fine_tuning
        self.train, self.selection = self._parts(fine_tuning)
        self.recipe = recipe_of(config, self.module, len(self.train), fine_tuning)
        self.peak = self.recipe.lr
        self.steps = steps_per_epoch(len(self.train), config.batch_size)
        short = not fine_tuning and config.epochs < VARIED_FROM
        self.augment = config.augment or (Augment() if short else data.augment)
        self.unvaried = config.augment is None and short and data.augment != Augment()
        self.batcher = Batcher(self.train, self.augment, config.seed)
        self.y = torch.from_numpy(self.train.y).to(self.world.device)
        self.variance = variance_of(self.train, self.world.device)
        self.optimizer = optimizer_of(self.recipe, config, self.module, frozenset(self.known["anew"]))

    def _parts(self, fine_tuning: bool) -> tuple[Split, Split | None]:
        """The samples that are trained on, and those that the best epoch is chosen by."""
        share, whole = self.config.select, self.data.train
        if share is None:
            share = 0.0
            if self.config.patience is not None:  # which ends the run by it: a matter of more samples
                share = SELECTION_FRACTION if SELECTION_FRACTION * len(whole) >= SET_ASIDE_LEAST else 0.0
            elif fine_tuning:
                # a validation part of the data's own costs no train samples
                share = share_set_aside(len(whole)) if self.data.val is None else SELECTION_FRACTION
            if self.config.patience is not None and not share:
                raise DataError(
                    f"{self.data.name}: {len(whole)} train samples are too few for patience to judge by; "
                    "give --select, such as 0.2"
                )
            try:
                parts = self.data.selection(share) if share else None
            except DataError:  # a class with one sample
                if self.config.patience is not None:
                    raise
                parts = None
        else:
            parts = self.data.selection(share) if share else None
        return (whole, None) if parts is None else (parts.train, parts.test)

    def start(self) -> Start:
        """What is known before the first step."""
        recipe, before = self.recipe, self.position.before
        return Start(
            fine_tuning=self.position.fine_tuning,
            optimiser=recipe.optimiser,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            why=recipe.why,
            batch=len(self.train) / self.steps,
            steps=self.steps * self.config.epochs,
            augment=self.augment,
            unvaried=self.unvaried,
            frozen=tuple(self.known["frozen"]),
            anew=tuple(self.known["anew"]),
            selection_samples=0 if self.selection is None else len(self.selection),
            selection_given=self.data.val is not None,
            before=None if before is None else Scores(**before),
        )

    def begin(self, resume: bool, overwrite: bool, replaces: Sequence[Path]) -> None:
        """Start anew or take up the state in the directory; afterwards a good state exists, also on disk."""
        found = disk.read(self.directory) if self.directory is not None else None
        if found is not None and not resume and not overwrite:
            raise UsageError(f"{self.directory}: holds a training run already; resume it (--resume) or overwrite it")
        if found is not None and resume:
            self._settle(found.position.fine_tuning)
            self._check_same(found)
            restore(found, self.module, self.optimizer)
            self.position = found.position
            self.best = disk.tensors_of(found, "best") or None
            self.sums += torch.tensor([self.position.loss, self.position.correct], dtype=torch.float64)
        else:
            self._settle_anew()
        self.world.wait()
        if self.directory is not None and self.world.rank == 0:
            disk.sweep(self.directory)
        self._keep(write=True)
        if found is None or not resume:
            for old in replaces if self.world.rank == 0 else ():
                old.unlink(missing_ok=True)
        with _interrupts() as interrupted:  # no half-written log is left
            self.log.begin([Epoch(**point) for point in self.position.curve])
        if interrupted():
            raise KeyboardInterrupt

    def _settle_anew(self) -> None:
        """Decide whether this is a fine-tuning, and measure what a fine-tuning must not lose."""
        mode, position = self.config.mode, self.position
        said = ""
        position.fine_tuning = mode == "fine-tune"
        if mode == "auto" and self.config.lr is None:
            position.fine_tuning, loss, guess = is_trained(self.module, self.data, self.world)
            about = "trained already" if position.fine_tuning else "not trained yet"
            said = f"; its weights count as {about}: their loss is {loss:.3g}, that of guessing {guess:.3g}"
        self._settle(position.fine_tuning)
        self.recipe = replace(self.recipe, why=self.recipe.why + said)
        if position.fine_tuning:
            position.before = asdict(scores(self.module, self.data.test, self.world))
        if self.selection is not None:
            self._judge(scores(self.module, self.selection, self.world), 0)

    def _judge(self, found: Scores, epoch: int) -> None:
        """Keep the present state if it is the best one on the selection part."""
        best = self.position.best
        if best is None or (found.accuracy, -found.loss) > (best["accuracy"], -best["loss"]):
            self.position.best = {"epoch": epoch, "accuracy": found.accuracy, "loss": found.loss}
            self.best = disk.copies(self.module)

    def go(self, trained: nn.Module) -> None:
        """All steps that remain."""
        position, config = self.position, self.config
        with _interrupts() as interrupted:
            while position.epoch < config.epochs and not position.stopped:
                started = time.monotonic() - position.seconds
                batches = epoch_batches(len(self.train), config.batch_size, config.seed, position.epoch)
                rate = 0.0
                self.training(trained)
                while position.step < self.steps:
                    rate, loss = self._step(trained, *batches[position.step : position.step + 2])
                    position.seconds = time.monotonic() - started
                    self._look(loss, rate)
                    if self._agreed(interrupted()):
                        self._keep(write=True)
                        raise KeyboardInterrupt
                    if self._agreed(time.monotonic() - self.written >= config.checkpoint_seconds):
                        self._keep(write=True)
                self._end_epoch(rate, started)
            if self._agreed(interrupted()):
                raise KeyboardInterrupt

    def history(self) -> History:
        """The record. The final train figures are measured now, the test ones were at the end of the last epoch."""
        curve = tuple(Epoch(**point) for point in self.position.curve)
        train = scores(self.module, self._scored(), self.world)
        last = curve[-1]
        if last.test_loss is None or last.test_accuracy is None:
            raise RuntimeError("the last epoch looks at the test part whatever `test_every` says")
        test = Scores(last.test_loss, last.test_accuracy, len(self.data.test))
        return History(
            metric=self.log.metric,
            curve=curve,
            train=train,
            test=test,
            lr=self.peak,
            steps=self.steps * len(curve),
            seconds=sum(point.seconds for point in curve),
            processes=self.world.size,
            device=self.world.device.type,
            config=self.config,
            data=self.data.to_dict(),
            confusion=confusion_on(self.module, self.data.test, self.world, self.data.classes),
            by_label=by_label_on(self.module, self.data.test, self.world, self.data.classes),
            start=self.start(),
            best=self._best(test),
            stopped_early=self.position.stopped,
            best_weights=self.best,
        )

    def _best(self, last: Scores) -> Best | None:
        """The best state's figures; its test figures are measured now, and the last state is put back."""
        best = self.position.best
        if best is None or self.best is None or self.selection is None:
            return None
        test = last
        if best["epoch"] != len(self.position.curve):
            now = disk.copies(self.module)
            disk.load(self.best, self.module)
            test = scores(self.module, self.data.test, self.world)
            disk.load(now, self.module)
        return Best(best["epoch"], best["accuracy"], best["loss"], len(self.selection), test.accuracy)

    def _scored(self) -> Split:
        """The samples of the train part that the final train figures are measured on, in their order."""
        part, most = self.train, self.config.train_scored
        if most is None or most >= len(part):
            return part
        return part.take(np.sort(np.random.default_rng(self.config.seed).permutation(len(part))[:most]))

    def _step(self, trained: nn.Module, indices: Any, following: Any = None) -> tuple[float, Tensor]:
        """One step of gradient descent on the batch `indices`, the next being `following`: (rate, mean loss of it)."""
        position, world, config = self.position, self.world, self.config
        rate = self._rate(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed(torch_seed(config.seed, position.epoch, position.step, world.rank))
        # The whole batch is varied before it is shared out, so that the processes see what one alone would see.
        raw = self.batcher.batch(indices, position.epoch, position.step, world.share)
        if following is not None:
            self.batcher.ahead(following, position.epoch, position.step + 1, world.share)
        x = normalised(raw, self.train, world.device)
        y = self.y[torch.from_numpy(world.share(indices)).to(world.device)]
        with computing_in(config.precision, world.device):
            output = rows(trained(x))
            taught = self._taught(x)
        if output.dtype == torch.bfloat16:
            output = output.float()
        loss = self.loss(output, y, taught)
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over processes, whose shares may differ by a sample.
        (loss if world.size == 1 else loss * (len(raw) * world.size / len(indices))).backward()
        self.optimizer.step()
        shrink(self.scales, rate * config.scale_l1)
        with torch.no_grad():
            right = right_count(output, y, self.data.task, self.variance)
            sums = world.total(torch.stack([loss.double() * len(raw), right.double()]))
            self.sums += sums
        position.step += 1
        position.samples += len(indices)
        return rate, sums[0] / len(indices)

    def _rate(self, step: int) -> float:
        at = self.position.epoch * self.steps + step
        return learning_rate(at, self.config.epochs * self.steps, self.peak, self.config.warmup)

    def _taught(self, x: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            return rows(torch.as_tensor(self.teacher(x), device=x.device)).float()

    def _look(self, loss: Tensor, rate: float) -> None:
        """Tell the progress display, and stop when the loss is no number. All processes hold the same sums."""
        at = self.position.step
        if self.world.device.type == "cuda" and at % _LOOK_EVERY_CUDA and at < self.steps:
            return
        value = float(loss)
        if not bool(self.sums.isfinite().all()):
            self._diverged(rate)
        if self.progress is not None and self.world.rank == 0:
            self.progress(Progress(self.position.epoch + 1, self.config.epochs, at, self.steps, rate, value))

    def _end_epoch(self, rate: float, started: float) -> None:
        """Close the epoch: a point on the curve, a good state in memory, and on disk when it is due or the last."""
        position, config = self.position, self.config
        if not rate:  # taken up exactly at the end of an epoch
            rate = self._rate(self.steps - 1)
        chosen = scores(self.module, self.selection, self.world) if self.selection is not None else None
        if chosen is not None:
            self._judge(chosen, position.epoch + 1)
            best = position.best["epoch"] if position.best else 0
            late = config.patience is not None and position.epoch + 1 - best >= config.patience
            position.stopped = late and position.epoch + 1 < config.epochs
        last = position.epoch + 1 == config.epochs or position.stopped
        seen = last or (position.epoch + 1) % config.test_every == 0
        test = scores(self.module, self.data.test, self.world) if seen else None
        loss, right = (self.sums / position.samples).tolist()
        point = Epoch(
            epoch=position.epoch + 1,
            lr=rate,
            train_loss=loss,
            train_accuracy=right,
            test_loss=test.loss if test else None,
            test_accuracy=test.accuracy if test else None,
            seconds=time.monotonic() - started,
            selection_loss=chosen.loss if chosen else None,
            selection_accuracy=chosen.accuracy if chosen else None,
        )
        before = replace(position, curve=list(position.curve))
        position.curve.append(asdict(point))
        position.epoch, position.step, position.samples, position.seconds = position.epoch + 1, 0, 0, 0.0
        self.sums.zero_()
        due = self._agreed(time.monotonic() - self.written >= config.checkpoint_seconds)
        self._keep(write=last or due, reached=before)
        self.log.add(point)
        if self.progress is not None and self.world.rank == 0:
            self.progress(Progress(point.epoch, config.epochs, self.steps, self.steps, rate, loss, point))

    def _keep(self, *, write: bool, reached: Position | None = None) -> None:
        """Take the present state for a good one, and write it. Stops when a weight is no number."""
        self.position.loss, self.position.correct = self.sums.tolist()
        state = capture(self.module, self.optimizer, self.position, self._fingerprint(), self.best)
        if not disk.finite(state):
            if self.good is None:
                raise DataError("the network's weights hold NaN or infinity before training; repair or retrain them")
            self.position = reached or self.position
            self._diverged(self.optimizer.param_groups[0]["lr"])
        self.good = state
        if write and self.directory is not None:
            if self.world.rank == 0:
                disk.write(state, self.directory)
            self.written = time.monotonic()

    def _diverged(self, rate: float) -> None:
        """Put the last good state back, keep it, and raise CheckFailed."""
        at = f"epoch {self.position.epoch + 1}, step {self.position.step} of {self.steps}"
        kept = "the state before training is kept"
        if self.good is not None:
            restore(self.good, self.module, self.optimizer)
            if self.good.position.epoch or self.good.position.step:
                where = self.good.position
                kept = f"the state after {where.epoch} epochs and {where.step} steps is kept"
            if self.directory is not None and self.world.rank == 0:
                disk.write(self.good, self.directory)
                kept += f" in {self.directory}"
        remedy = f"use a smaller --lr than {self.peak:.3g}"
        if self.variance is not None and not 0.1 < (deviation := float(self.variance.max().sqrt())) < 10:
            remedy += f", or scale the targets, whose deviation is {deviation:.3g}, to about 1"
        raise CheckFailed(
            f"training diverged at {at}: the loss is no number any more at learning rate {rate:.3g}; {kept}; {remedy}"
        )

    def _agreed(self, wish: bool) -> bool:
        """Whether any process wishes it; processes must not part ways over a clock or a signal."""
        if self.world.size == 1:
            return wish
        return bool(self.world.total(torch.tensor(float(wish), device=self.world.device)))

    def _fingerprint(self) -> dict[str, Any]:
        settings = self.config.to_dict()
        for free in ("device", "checkpoint_seconds", "train_scored", "mode"):
            del settings[free]
        return json.loads(
            json.dumps(
                {
                    "data": self.data.hash,
                    **settings,
                    "lr": self.peak,
                    "optimiser": self.recipe.optimiser,
                    "weight_decay": self.recipe.weight_decay,
                    "fine_tuning": self.fine_tuning,
                    "set_aside": len(self.data.train) - len(self.train),
                    **self.known,
                    "normalisation": self.data.normalisation.to_dict(),
                    "teacher": self.teacher is not None,
                }
            )
        )

    def _check_same(self, found: State) -> None:
        own = self._fingerprint()
        # a setting that the state does not know yet had its default when it was written
        older = {"optimiser": "sgd", "weight_decay": 5e-4, "fine_tuning": False, "frozen": own["frozen"], "anew": []}
        theirs = json.loads(json.dumps(TrainConfig().to_dict())) | older | found.fingerprint
        place = f"{self.directory}: the run there"
        if own["epochs"] != theirs["epochs"] and (found.position.stopped or found.position.epoch >= theirs["epochs"]):
            raise UsageError(
                f"{place} has finished its {found.position.epoch} epochs, at whose end its learning rate was 0; to "
                "train on, fine-tune the network that it left, in another directory"
            )
        if self.config.mode != "auto" and (self.config.mode == "fine-tune") != found.position.fine_tuning:
            theirs_mode = "fine-tune" if found.position.fine_tuning else "scratch"
            raise UsageError(
                f"{place} has mode {theirs_mode}, this one {self.config.mode}; resume with the same mode, or name "
                "another directory"
            )
        # rates follow from other settings, which are the reason
        order = {"network": 0, "data": 0, "epochs": 0, "lr": 2, "weight_decay": 2}
        for key in sorted(own | found.fingerprint, key=lambda key: order.get(key, 1)):
            if key == "mode" or key not in theirs or own.get(key) == theirs[key]:
                continue
            if key == "network":
                what = f"is of another network: {differing(theirs[key], own[key])}"
            elif key == "data":
                what = "has other data: samples, labels, classes or normalisation are not those of this one"
            else:
                what = f"has {key.replace('_', ' ')} {theirs[key]}, this one {own.get(key)}"
            raise UsageError(
                f"{place} {what}; resume with the same network, data and settings, or name another directory"
            )


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Holds back the first Ctrl-C, SIGTERM or SIGHUP until the step is done, so that its state can be kept; a second
    acts at once. A program that ignores them, or handles the latter two itself, goes on doing so.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handle(signum: int, frame: object) -> None:
        del frame
        seen.append(signum)
        if len(seen) > 1:
            raise KeyboardInterrupt

    def is_held(number: int) -> bool:
        now = signal.getsignal(number)
        if number == signal.SIGINT:
            return now is not signal.SIG_IGN
        return now is signal.SIG_DFL or getattr(now, "__module__", "") == "dojang.app.interrupts"

    ends = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in ends if is_held(number)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, old in before.items():
            signal.signal(number, old)

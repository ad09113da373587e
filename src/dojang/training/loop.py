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
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.base.errors import CheckFailed, DataError, ShapeError, UsageError
from dojang.training import state as disk
from dojang.training.batches import Batcher, epoch_batches, steps_per_epoch, torch_seed
from dojang.training.config import TrainConfig, learning_rate
from dojang.training.data import Data, Split
from dojang.training.log import Log, TensorBoard
from dojang.training.numerics import computing_in, freed_memory_kept, repeatable, require_precision
from dojang.training.recipe import Teacher, TrainingLoss, parameter_groups, peak_lr, scales_of, shrink
from dojang.training.record import METRICS, Epoch, History, Progress, Scores
from dojang.training.score import confusion_on, laid_out, normalised, right_count, scores, variance_of
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
) -> History:
    """Train `module` in place on `data.train` and return the record; the module is left in evaluation mode.

    The module takes normalised samples (n, c, h, w) and gives (n, classes) before softmax, or (n, k) for regression.
    `teacher` maps the same samples to its own outputs and is mixed into the loss. With a `directory` the state is
    kept there; `resume` takes it up (and starts anew where there is none yet), `overwrite` replaces another run's.
    log.csv there gets a row after each epoch, and `tensorboard` says whether events for TensorBoard are written too.

    `data.test` is only looked at, for the record. To choose by accuracy, train on `data.selection()`.

    Raises ShapeError when the network does not fit the data; DataError for fewer samples than a batch; CheckFailed
    when the loss is no number any more, with the last good state put back and kept; FileError when the state cannot
    be written, with the one before kept; KeyboardInterrupt after keeping the state of the last whole step.
    """
    config = config or TrainConfig()
    place = None if directory is None else Path(directory)
    with joined(config.device) as world, repeatable(world.device), freed_memory_kept(), contextlib.ExitStack() as undo:
        require_precision(config.precision, world.device)
        home = next((p.device for p in module.parameters()), torch.device("cpu"))
        _check(module, data, config, world)
        module.to(world.device)
        undo.callback(lambda: module.to(home).eval())
        undo.enter_context(laid_out(module, world.device))
        if isinstance(teacher, nn.Module):
            undo.callback(teacher.train, teacher.training)
            teacher.to(world.device).eval()
        _probe(module, teacher, data, world)
        log = undo.enter_context(Log(None if world.rank else place, METRICS[data.task], tensorboard))
        run = _Run(module, data, config, world, teacher, place, progress, log)
        run.begin(resume, overwrite)
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
    ) -> None:
        self.module, self.data, self.config, self.world, self.teacher = module, data, config, world, teacher
        self.directory, self.progress, self.log = directory, progress, log
        self.peak = peak_lr(config, module)
        self.steps = steps_per_epoch(len(data.train), config.batch_size)
        self.batcher = Batcher(data.train, data.augment if config.augment is None else config.augment, config.seed)
        self.y = torch.from_numpy(data.train.y).to(world.device)
        self.variance = variance_of(data.train, world.device)
        self.loss = TrainingLoss(
            data.task, config.label_smoothing, config.alpha, config.temperature, config.class_weights
        )
        self.optimizer = torch.optim.SGD(
            parameter_groups(module, config.weight_decay),
            lr=self.peak,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )
        self.scales = scales_of(module) if config.scale_l1 else []
        self.position = Position()
        self.sums = torch.zeros(2, dtype=torch.float64, device=world.device)
        self.good: State | None = None
        self.written = time.monotonic()

    def begin(self, resume: bool, overwrite: bool) -> None:
        """Start anew or take up the state in the directory; afterwards a good state exists, also on disk."""
        found = disk.read(self.directory) if self.directory is not None else None
        if found is not None and not resume and not overwrite:
            raise UsageError(f"{self.directory}: holds a training run already; resume it (--resume) or overwrite it")
        if found is not None and resume:
            self._check_same(found)
            restore(found, self.module, self.optimizer)
            self.position = found.position
            self.sums += torch.tensor([self.position.loss, self.position.correct], dtype=torch.float64)
        self.world.wait()
        if self.directory is not None and self.world.rank == 0:
            disk.sweep(self.directory)
        self._keep(write=True)
        self.log.begin([Epoch(**point) for point in self.position.curve])

    def go(self, trained: nn.Module) -> None:
        """All steps that remain."""
        position, config = self.position, self.config
        with _interrupts() as interrupted:
            while position.epoch < config.epochs:
                started = time.monotonic() - position.seconds
                batches = epoch_batches(len(self.data.train), config.batch_size, config.seed, position.epoch)
                rate = 0.0
                trained.train()
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
        )

    def _scored(self) -> Split:
        """The samples of the train part that the final train figures are measured on, in their order."""
        part, most = self.data.train, self.config.train_scored
        if most is None or most >= len(part):
            return part
        return part.take(np.sort(np.random.default_rng(self.config.seed).permutation(len(part))[:most]))

    def _step(self, trained: nn.Module, indices: Any, following: Any = None) -> tuple[float, Tensor]:
        """One step of gradient descent on the batch `indices`, the next being `following`: (rate, mean loss of it)."""
        position, world, config = self.position, self.world, self.config
        rate = self._rate(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(torch_seed(config.seed, position.epoch, position.step, world.rank))
        # The whole batch is varied before it is shared out, so that the processes see what one alone would see.
        raw = self.batcher.batch(indices, position.epoch, position.step, world.share)
        if following is not None:
            self.batcher.ahead(following, position.epoch, position.step + 1, world.share)
        x = normalised(raw, self.data.train, world.device)
        y = self.y[torch.from_numpy(world.share(indices)).to(world.device)]
        with computing_in(config.precision, world.device):
            output = trained(x).flatten(1)
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
            return torch.as_tensor(self.teacher(x), device=x.device).flatten(1).float()

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
        last = position.epoch + 1 == config.epochs
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
        state = capture(self.module, self.optimizer, self.position, self._fingerprint())
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
        for free in ("device", "checkpoint_seconds", "train_scored"):
            del settings[free]
        return json.loads(
            json.dumps(
                {
                    "data": self.data.hash,
                    **settings,
                    "lr": self.peak,
                    "normalisation": self.data.normalisation.to_dict(),
                    "teacher": self.teacher is not None,
                }
            )
        )

    def _check_same(self, found: State) -> None:
        own = self._fingerprint()
        # a setting that the state does not know yet had its default when it was written
        theirs = TrainConfig().to_dict() | found.fingerprint
        for key in own | found.fingerprint:
            if own.get(key) != theirs.get(key):
                raise UsageError(
                    f"{self.directory}: the run there has {key} {theirs.get(key)}, this one {own.get(key)}; "
                    "resume with the same settings or name another directory"
                )


def _check(module: nn.Module, data: Data, config: TrainConfig, world: World) -> None:
    count = len(data.train)
    if count < config.batch_size:
        raise DataError(
            f"{data.name}: {count} train samples are fewer than a batch of {config.batch_size}; "
            f"use --batch-size {count} or less"
        )
    smallest = count // steps_per_epoch(count, config.batch_size)
    if smallest < world.size:
        raise UsageError(f"batches of {smallest} samples cannot be shared by {world.size} processes; use larger ones")
    if smallest < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
        raise UsageError("batch norm has no statistics of batches of one sample; use --batch-size 2 or more")
    if not any(p.requires_grad for p in module.parameters()):
        raise UsageError("the network has no parameters to train")


@torch.no_grad()
def _probe(module: nn.Module, teacher: Teacher | None, data: Data, world: World) -> None:
    """One sample through network and teacher, to say in words what would fail in the middle of training."""
    x = normalised(data.train.x[:1], data.train, world.device)
    module.eval()
    for who, call in (("the network", module), ("the teacher", teacher)):
        if call is None:
            continue
        try:
            output = torch.as_tensor(call(x))
        except (RuntimeError, ValueError, TypeError) as error:
            shape = "×".join(map(str, data.sample_shape))
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ShapeError(
                f"{data.name}: {who} does not take samples of {shape} ({line}); use --input-size"
            ) from None
        if output.ndim < 1 or output.shape[0] != 1 or output.numel() != data.outputs:
            what = f"{data.outputs} classes" if data.task == "classification" else f"{data.outputs} targets"
            raise ShapeError(
                f"{data.name}: {who} gives {tuple(output.shape)} for one sample, the data have {what}; "
                f"use --num-classes {data.outputs}"
            )
        one = output.double().flatten()
        if data.task == "classification" and bool((one >= 0).all()) and abs(float(one.sum()) - 1) < 1e-5:
            raise ShapeError(
                f"{data.name}: {who} ends in softmax; the loss applies it, so train without that last step"
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

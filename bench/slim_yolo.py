"""YOLOv8n slimmed with ultralytics' own trainer and validator, the original tuned as long beside it.

    pip install ultralytics torchvision
    OMP_NUM_THREADS=1 python bench/slim_yolo.py --out out/yolo

The set is made by a rule, from a seed: two to five filled discs, squares, triangles and rings of any colour on coarse
coloured noise, each up to a third hidden by the next. YOLOv8n starts from ultralytics' yaml with random weights and is
trained for --first-epochs; then dojang is asked for 1 / --ratio of its multiplications, `tune` being --epochs of the
same trainer and `evaluate` the validator's mAP50-95. The validator looks at two parts: one that the search chooses by,
and a test part of the same size that is looked at once, at the end. The control in the table is the network that came
in, tuned three times by the same function, as the search tunes what it takes; the control that it keeps for itself,
tuned as the result was, stands in the report below the table.

It can be stopped and given again: the first training and every tuning stand under --out; once all have ended, what is
left is measured again. As it stands it takes hours of one core; `--pictures 64 --first-epochs 2 --epochs 1` is a look
at the whole way in minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from copy import deepcopy
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageDraw

os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing is fetched
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())

from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel

import dojang
from dojang.app.networks import load
from dojang.app.progress import Stages
from dojang.app.runtimes import has_onnxruntime, runner
from dojang.native.machine import Machine
from dojang.slimming.timing import interleave
from experiment import MEASURES
from record import head

CLASSES = ("disc", "square", "triangle", "ring")
ROUNDS = 31
TUNINGS = 3  # of the control; the search tunes what it takes so often


def picture(rng: np.random.Generator, size: int) -> tuple[Image.Image, list[tuple[float, ...]]]:
    """One picture, and for each of its shapes the class and the box: centre, width and height as parts of the side."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 20, (size, size, 3))
    drawn = Image.fromarray((np.asarray(coarse) * 0.7 + noise + 30).clip(0, 255).astype(np.uint8))
    pen, boxes = ImageDraw.Draw(drawn), []
    taken: list[tuple[int, int, int]] = []
    for _ in range(int(rng.integers(2, 6))):
        side = int(rng.integers(size // 10, size // 3))
        x, y = (int(v) for v in rng.integers(0, size - side, 2))
        if any(abs(x - u) < (side + s) / 3 and abs(y - v) < (side + s) / 3 for u, v, s in taken):
            continue  # nothing may hide most of another shape
        taken.append((x, y, side))
        which, colour = int(rng.integers(len(CLASSES))), tuple(int(c) for c in rng.integers(0, 256, 3))
        box = (x, y, x + side, y + side)
        if CLASSES[which] == "disc":
            pen.ellipse(box, fill=colour)
        elif CLASSES[which] == "square":
            pen.rectangle(box, fill=colour)
        elif CLASSES[which] == "triangle":
            pen.polygon([(x, y + side), (x + side / 2, y), (x + side, y + side)], fill=colour)
        else:
            pen.ellipse(box, outline=colour, width=max(2, side // 5))
        boxes.append((which, (x + side / 2) / size, (y + side / 2) / size, side / size, side / size))
    return drawn, boxes


def make(folder: Path, parts: dict[str, int], size: int) -> None:
    """The whole set as ultralytics reads it, with one description for each part that is validated on."""
    for seed, (part, count) in enumerate(parts.items()):
        for name in ("images", "labels"):
            (folder / name / part).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        for i in range(count):
            drawn, boxes = picture(rng, size)
            drawn.save(folder / "images" / part / f"{i:04}.png")
            text = "\n".join(" ".join(map(str, box)) for box in boxes)
            (folder / "labels" / part / f"{i:04}.txt").write_text(text)
        names = ", ".join(CLASSES)
        about = f"path: {folder.resolve()}\ntrain: images/train\nval: images/{part}\nnames: [{names}]\n"
        (folder / f"{part}.yaml").write_text(about)


class Owner:
    """What the owner of the network brings: a trainer and a measure."""

    def __init__(self, folder: Path, size: int, epochs: int) -> None:
        self.folder, self.size, self.epochs = folder, size, epochs

    def settings(self, part: str) -> dict[str, object]:
        """What trainer and validator are told."""
        return {
            "data": str(self.folder / f"{part}.yaml"), "imgsz": self.size, "batch": 16, "device": "cpu", "workers": 0,
            "plots": False, "project": str(self.folder / "runs"), "exist_ok": True, "verbose": False,
            "model": "yolov8n.yaml",
        }  # fmt: skip

    def train(self, module: DetectionModel, epochs: int, rate: float) -> None:
        """The trainer of `YOLO.train`, on this very module; the averaged weights are kept, as ultralytics does."""
        more = {"epochs": epochs, "val": False, "amp": False, "optimizer": "AdamW", "lr0": rate, "warmup_epochs": 0.5}
        trainer = DetectionTrainer(overrides={**self.settings("choice"), "mosaic": 0.0, **more})
        trainer.model = module
        trainer.train()
        module.load_state_dict(trainer.ema.ema.state_dict())
        module.criterion = None  # it holds tensors of this training

    def tune(self, module: DetectionModel, share: float = 1.0) -> None:
        """`tune` of `dojang.slim`."""
        self.train(module, max(1, round(share * self.epochs)), 1e-3)

    def score(self, module: DetectionModel, part: str = "choice") -> float:
        """mAP50-95. The validator fuses batch norms, so it gets a copy."""
        validator = DetectionValidator(args={**self.settings(part), "rect": False})
        return float(validator(model=deepcopy(module))["metrics/mAP50-95(B)"])


def lines(owner: Owner, networks: dict[str, DetectionModel], macs: dict[str, int]) -> list[str]:
    """The table: mAP50-95 on both parts, multiplications, and milliseconds on every runtime, taken in turns."""
    sample = np.random.default_rng(0).random((1, 3, owner.size, owner.size), np.float32)
    runtimes = ["dojang", *(["onnxruntime"] if has_onnxruntime() else []), "torch"]
    timed = [name for name in networks if name != "control"]  # the control has the original's layers
    graphs = {name: load(networks[name].eval(), input_size=sample.shape[1:]) for name in timed}
    pairs = [(name, runtime) for name in timed for runtime in runtimes]
    runs = [runner(graphs[name], runtime) for name, runtime in pairs]
    times = interleave([lambda run=run: run(sample) for run in runs], ROUNDS)
    found = dict(zip(pairs, times, strict=True))
    rows = [f"{'network':10}{'mAP choice':>12}{'mAP test':>10}{'MACs (M)':>10}{'ratio':>7}"]
    for name, module in networks.items():
        ratio = macs["original"] / macs[name]
        row = f"{name:10}{100 * owner.score(module):>12.2f}{100 * owner.score(module, 'test'):>10.2f}"
        row += f"{macs[name] / 1e6:>10.2f}{ratio:>7.2f}"
        for runtime in runtimes if name in timed else ():
            own, old = found[name, runtime], found["original", runtime]
            seen = f"{median(old) / median(own):.2f} x (least {min(old) / min(own):.2f} x)"
            row += f"  {runtime} {median(own):.3f} ms {seen}"
        rows.append(row)
    return rows


def main() -> None:
    """Makes the set, trains, slims, tunes the control, writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000, help="for training; a fifth for each of the other parts")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--first-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--ratio", type=float, default=1.7)
    parser.add_argument("--minutes", type=float, help="time of the search")
    parser.add_argument("--out", type=Path, default=Path("out/yolo"))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    owner = Owner(args.out / "set", args.size, args.epochs)
    if not (owner.folder / "test.yaml").exists():
        make(
            owner.folder, {"train": args.pictures, "choice": args.pictures // 5, "test": args.pictures // 5}, args.size
        )
    module, first = DetectionModel("yolov8n.yaml", nc=len(CLASSES), verbose=False), args.out / "first.pt"
    if first.exists():
        module.load_state_dict(torch.load(first))
    else:
        owner.train(module, args.first_epochs, 2e-3)
        torch.save(module.state_dict(), first)
    pictures = sorted((owner.folder / "images" / "train").iterdir())[:256]
    samples = np.stack([np.asarray(Image.open(p)) for p in pictures]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    ended, report = args.out / "slim" / "model.pt", args.out / "report.txt"
    if not report.exists():
        stages = Stages("yolov8n")
        try:
            done = dojang.slim(
                module.eval(), samples, tune=owner.tune, evaluate=owner.score, target_macs=1 / args.ratio,
                keep=("model.22.*",), minutes=args.minutes, output=args.out / "slim", resume=True, progress=stages,
            )  # fmt: skip
        finally:
            stages.close()
        report.write_text(str(done), encoding="utf-8")
    narrow = dojang.load_slim(ended, DetectionModel("yolov8n.yaml", nc=len(CLASSES), verbose=False))
    assert isinstance(narrow, DetectionModel)
    control, saved = deepcopy(module), args.out / "control.pt"
    if saved.exists():
        control.load_state_dict(torch.load(saved))
    else:
        for _ in range(TUNINGS):
            owner.tune(control)
        torch.save(control.state_dict(), saved)
    compared = {"original": module.eval(), "control": control.eval(), "slim": narrow}
    size = (3, args.size, args.size)
    macs = {name: dojang.count(m, input_size=size).total.macs for name, m in compared.items()}
    rows = lines(owner, compared, macs)
    text = head(*MEASURES, threads=Machine.host().cores, extra=("ultralytics",)) + "\n".join(
        [
            f"# {args.pictures} pictures of {args.size} pixels, {args.first_epochs} epochs, then {args.epochs}",
            f"# control: the original tuned {TUNINGS} times by the same function; x: times less time than the original",
            "",
            *rows,
            "",
            report.read_text(encoding="utf-8"),
        ]
    )
    (args.out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Slim YOLOv8n with ultralytics' own trainer in `tune` and its own validator in `evaluate`.

A synthetic set of pictures with squares, some minutes on two cores; needs `pip install ultralytics`:
python docs/examples/slim/ultralytics_yolo.py
"""

import os
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image

os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing is fetched
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())

from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel

import dojang

SIZE = 64


def squares(folder: Path, part: str, count: int, seed: int) -> None:
    """Noisy pictures with one bright square each, and their labels as ultralytics reads them."""
    rng = np.random.default_rng(seed)
    for name in ("images", "labels"):
        (folder / name / part).mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 90, (SIZE, SIZE, 3), np.uint8)
        side = int(rng.integers(14, 30))
        x, y = rng.integers(0, SIZE - side, 2)
        pixels[y : y + side, x : x + side] = 255
        Image.fromarray(pixels).save(folder / "images" / part / f"{i}.png")
        box = (np.array([x + side / 2, y + side / 2, side, side]) / SIZE).tolist()
        (folder / "labels" / part / f"{i}.txt").write_text(" ".join(map(str, [0, *box])))


def settings(folder: Path) -> dict[str, object]:
    """What trainer and validator are told."""
    return {
        "data": str(folder / "set.yaml"), "imgsz": SIZE, "batch": 8, "device": "cpu", "workers": 0, "plots": False,
        "project": str(folder / "runs"), "exist_ok": True, "verbose": False,
    }  # fmt: skip


def train(module: DetectionModel, folder: Path, epochs: int) -> None:
    """The trainer of `YOLO.train`, on this very module: from a name it would build one of full width."""
    more = {"epochs": epochs, "val": False, "amp": False, "warmup_epochs": 0, "optimizer": "AdamW", "lr0": 2e-3}
    trainer = DetectionTrainer(overrides={**settings(folder), "model": "yolov8n.yaml", **more})
    trainer.model = module
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 0.3  # ultralytics' 0.03 needs hundreds of steps, and this set has a few
    trainer.train()
    module.load_state_dict(trainer.ema.ema.state_dict())
    module.criterion = None  # it holds tensors of this training


def map50(module: DetectionModel, folder: Path) -> float:
    """The mean average precision at an overlap of 0.5. The validator fuses batch norms, so it gets a copy."""
    validator = DetectionValidator(args={**settings(folder), "model": "yolov8n.yaml", "rect": False})
    return float(validator(model=deepcopy(module))["metrics/mAP50(B)"])


def main() -> None:
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    squares(folder, "train", 64, 0)
    squares(folder, "val", 32, 1)
    (folder / "set.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [square]\n")
    module = DetectionModel("yolov8n.yaml", nc=1, verbose=False)
    train(module, folder, epochs=12)
    pictures = [np.asarray(Image.open(p)) for p in sorted((folder / "images" / "train").iterdir())]
    result = dojang.slim(
        module.eval(),
        np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 255,  # as the trainer hands them to the module
        tune=lambda net: train(net, folder, epochs=3),
        evaluate=lambda net: map50(net, folder),
        target_macs=0.7,
        keep=("model.22.*",),  # the head
    )
    print(result)
    assert isinstance(result.module, DetectionModel)
    assert result.after.macs <= 0.7 * result.before.macs


if __name__ == "__main__":
    main()

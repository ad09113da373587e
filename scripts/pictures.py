"""Takes the pictures of docs/show.md again, in Chromium: docs/pictures/show-*.png.

python scripts/pictures.py [NAME ...]     all, or some by name, in both languages (`show-stamp` has `show-stamp-ko`)

Needs node, Chromium and tests/page/node_modules (`make test-page` brings these). Look at every picture before
committing it: what is cut off, too small or unclear is a fault of the page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import dojang
from dojang.arith.graph import Graph

ROOT = Path(__file__).parent.parent
COLOURS = 128
"""Colours of a picture in the docs, which keeps it below 100 KB."""

SMALL = """
input 1x8x8
conv1: conv 16 3x3 pad=1
relu1: relu
conv2: conv 32 3x3 pad=1
relu2: relu
flatten
fc: dense 10
"""
"""A network whose training is shown: it begins with random weights."""

Job = dict[str, Any]


def random_resnet18() -> Graph:
    """ResNet-18 with random weights of the usual spread: its maps show something, its answers mean nothing."""
    rng = np.random.default_rng(0)
    graph = dojang.load("resnet18")
    weights: dict[str, Any] = {}
    for name, shape in graph.param_shapes.items():
        if len(shape) == 4:
            weights[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif len(shape) == 2:
            weights[name] = rng.normal(0, 0.05, shape)
        else:  # normalisation: scale and variance 1, mean and shift 0
            weights[name] = np.full(shape, float(name.endswith((".weight", "running_var"))))
    return graph.replace(weights={name: array.astype(np.float32) for name, array in weights.items()})


def planted() -> Graph:
    """`digits-cnn` with a channel that is always below zero, which ReLU makes dead."""
    graph = dojang.load("digits-cnn")
    arrays = {name: np.array(array) for name, array in graph.weights.items()}
    arrays["conv1.weight"][3], arrays["conv1.bias"][3] = 0, -1
    return graph.replace(weights=arrays)


def page(folder: Path, name: str, net: Any, **options: Any) -> str:
    """A page in one file, and its address."""
    path = folder / f"{name}.html"
    dojang.show(net, output=path, force=True, **options)
    return path.as_uri()


def report(folder: Path, *command: str) -> str:
    """A page that a command writes: its last argument."""
    subprocess.run([sys.executable, "-m", "dojang", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return (folder / command[-1]).as_uri()


def both(job: Job) -> list[Job]:
    """The picture in English, and in Korean."""
    return [job, {**job, "name": f"{job['name']}-ko", "lang": "ko"}]


def more(setting: str, times: int) -> list[list[Any]]:
    """Presses the + of a setting of the stamp."""
    return [["click", f'[data-setting="{setting}"] button >> nth=1']] * times


def network(folder: Path) -> list[Job]:
    """Rows, bars and maps; in Korean on a dark screen."""
    english, korean = both({"name": "show-network", "url": page(folder, "resnet18", random_resnet18())})
    return [english, {**korean, "dark": True}]


def googlenet(folder: Path) -> list[Job]:
    """The modules of GoogLeNet with parameters and MACs, the rows of its paper's Table 1."""
    job = {"name": "show-googlenet", "url": page(folder, "googlenet", "googlenet"), "element": "section.side",
           "steps": [["click", ".finding button >> nth=1"]], "height": 1400}  # fmt: skip
    return both(job)


def stamp(folder: Path) -> list[Job]:
    """One filter at work."""
    return both({"name": "show-stamp", "url": page(folder, "stamp", "stamp"), "height": 860,
                 "steps": [["click", '[data-plane="input"]', {"position": {"x": 60, "y": 150}}]]})  # fmt: skip


def cases(folder: Path) -> list[Job]:
    """Strides and paddings."""
    return both({"name": "show-cases", "url": page(folder, "stamp", "stamp"), "element": ".cases", "width": 900,
                 "steps": [["click", ".cases > button"], ["click", ".cases > button"]]})  # fmt: skip


def unread(folder: Path) -> list[Job]:
    """AlexNet's first layer on 244 pixels: the last row and column are not read."""
    steps = [["selectOption", ".settings select >> nth=0", "244"], *more("kernel", 8), *more("stride", 3)]
    return both({"name": "show-unread", "url": page(folder, "stamp", "stamp"), "steps": steps, "height": 640})


def field(folder: Path) -> list[Job]:
    """What a place of a layer of ResNet-18 depends on."""
    return both({"name": "show-field", "url": page(folder, "resnet18", random_resnet18()),
                 "steps": [["click", "#tab-field"], ["fill", ".sliding input", "30"],
                           ["hover", '[data-plane="sight"]']]})  # fmt: skip


def measured(folder: Path) -> list[Job]:
    """The measured field of a place of `digits-cnn`."""
    steps = [["click", "#tab-field"], ["fill", ".sliding input", "3"], ["click", "[data-measure]"],
             ["waitForSelector", ".measured[data-parts]"], ["hover", '[data-plane="sight"]']]  # fmt: skip
    url = page(folder, "digits", "digits-cnn")
    return both({"name": "show-field-measured", "url": url, "element": "section.panel", "steps": steps})


def waste(folder: Path) -> list[Job]:
    """Rows of channels, and a correlation matrix in four groups."""
    steps = [["click", "#tab-waste"], *[["press", ".correlation .sliding input", "ArrowRight"]] * 2]
    job = {"name": "show-waste", "url": page(folder, "waste", planted(), data="digits"), "steps": steps, "height": 900}
    return both(job)


def before_after(folder: Path) -> list[Job]:
    """A slimmed network beside its original."""
    report(folder, "slim", "digits-cnn", "--data", "digits", "--force", "-o", "slim")
    url = page(folder, "sides", folder / "slim" / "model.onnx", before="digits-cnn", data="digits")
    return both({"name": "show-before-after", "url": url, "steps": [["click", "#tab-beforeAfter"]], "height": 900})


def devices(folder: Path) -> list[Job]:
    """AlexNet over two devices."""
    url = report(folder, "count", "alexnet", "--devices", "2", "--force", "--html", "devices.html")
    return [{"name": "show-devices", "url": url, "element": "figure", "width": 900}]


def curves(folder: Path) -> list[Job]:
    """The curves of a training on both parts of its data."""
    (folder / "small.net").write_text(SMALL)
    report(folder, "train", "small.net", "--data", "digits", "--epochs", "12", "--force", "-o", "train")
    return [
        {"name": "show-curves", "url": (folder / "train" / "report.html").as_uri(), "element": "figure", "width": 900}
    ]


SCENES: tuple[Callable[[Path], list[Job]], ...] = (
    network, googlenet, stamp, cases, unread, field, measured, waste, before_after, devices, curves,
)  # fmt: skip


def main(wanted: list[str]) -> None:
    """Every wanted picture, in as few colours as it needs."""
    named = {f"show-{scene.__name__.replace('_', '-')}": scene for scene in SCENES}
    named["show-field-measured"] = named.pop("show-measured")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        chosen = [scene for name, scene in named.items() if not wanted or any(name == one for one in wanted)]
        if not chosen:
            sys.exit(f"none of {', '.join(wanted)}; there are {', '.join(named)}")
        jobs = [job for scene in chosen for job in scene(folder)]
        node = shutil.which("node") or sys.exit("node is not installed")
        subprocess.run([node, ROOT / "tests/page/pictures.mjs", folder], input=json.dumps(jobs).encode(), check=True)
        for job in jobs:
            with Image.open(folder / f"{job['name']}.png") as taken:
                small = taken.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            target = ROOT / "docs" / "pictures" / f"{job['name']}.png"
            small.save(target, optimize=True)
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])

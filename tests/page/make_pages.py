"""Makes what the browser suite looks at: networks, pictures, pages in one file, and the right numbers by PyTorch.

python tests/page/make_pages.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as f

import dojang
from dojang.app.looking import PictureInside
from dojang.arith.graph import Graph, Node
from dojang.filters.gallery import sample
from dojang.formats import checkpoint

NAMES = {"conv": "층 <img src=x onerror=alert(1)> 도장", "network": "작은 </script><b>망"}


def branched() -> Graph:
    """Branches, strides, groups, a rounded-up pooling, a transposed layer, dense layers; names with markup."""
    nodes = (
        Node.of("input", "input", shape=(3, 32, 48), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        Node.of(NAMES["conv"], "conv", "input", out=8, kernel=(5, 5), stride=2, padding=2),
        Node.of("bn1", "batchnorm", NAMES["conv"]),
        Node.of("relu1", "relu", "bn1"),
        Node.of("block.left", "conv", "relu1", out=8, kernel=(3, 3), padding=1, groups=2),
        Node.of("block.right", "conv", "relu1", out=8, kernel=(1, 1)),
        Node.of("block.add", "add", "block.left", "block.right"),
        Node.of("pool", "maxpool", "block.add", kernel=(3, 3), stride=2, ceil=True),
        Node.of("up", "conv_transpose", "pool", out=6, kernel=(3, 2), stride=2, padding=1, groups=2),
        Node.of("mean", "global_avgpool", "up"),
        Node.of("flat", "flatten", "mean"),
        Node.of("fc", "dense", "flat", out=4),
    )
    graph = Graph(nodes, ("fc",), NAMES["network"], meta={"classes": "고양이,<i>개</i>,a,b"})
    rng = np.random.default_rng(11)
    arrays = {n: rng.normal(0, 0.4, s).astype(np.float32) for n, s in graph.param_shapes.items()}
    arrays["bn1.running_var"] = np.abs(arrays["bn1.running_var"]) + 0.5
    return graph.replace(weights=arrays)


def values_of(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of `branched`, by PyTorch."""
    w = {name: torch.from_numpy(array) for name, array in graph.weights.items()}
    t, conv = torch.from_numpy(x), NAMES["conv"]
    found = {"input": t}
    found[conv] = f.conv2d(t, w[f"{conv}.weight"], w[f"{conv}.bias"], stride=2, padding=2)
    found["bn1"] = f.batch_norm(
        found[conv], w["bn1.running_mean"], w["bn1.running_var"], w["bn1.weight"], w["bn1.bias"], eps=1e-5
    )
    found["relu1"] = f.relu(found["bn1"])
    found["block.left"] = f.conv2d(found["relu1"], w["block.left.weight"], w["block.left.bias"], padding=1, groups=2)
    found["block.right"] = f.conv2d(found["relu1"], w["block.right.weight"], w["block.right.bias"])
    found["block.add"] = found["block.left"] + found["block.right"]
    found["pool"] = f.max_pool2d(found["block.add"], 3, 2, ceil_mode=True)
    found["up"] = f.conv_transpose2d(found["pool"], w["up.weight"], w["up.bias"], stride=2, padding=1, groups=2)
    found["mean"] = found["up"].mean((2, 3), keepdim=True)
    found["flat"] = found["mean"].flatten(1)
    found["fc"] = f.linear(found["flat"], w["fc.weight"], w["fc.bias"])
    return {name: value.numpy()[0] for name, value in found.items()}


def lacking() -> Graph:
    """An operator for which the browser has no kernel, and layers before and behind it."""
    nodes = (
        Node.of("input", "input", shape=(3, 32, 48)),
        Node.of("first", "conv", "input", out=4, kernel=(3, 3)),
        Node.of("odd", "pow", "first", "first"),
        Node.of("behind", "conv", "odd", out=3, kernel=(1, 1)),
    )
    graph = Graph(nodes, ("behind",), "lacking")
    return graph.replace(weights={n: np.ones(s, np.float32) for n, s in graph.param_shapes.items()})


def two_inputs() -> Graph:
    """A network of two pictures."""
    nodes = (
        Node.of("left", "input", shape=(3, 16, 16)),
        Node.of("right", "input", shape=(3, 16, 16)),
        Node.of("conv", "conv", "left", out=4, kernel=(3, 3)),
        Node.of("other", "conv", "right", out=4, kernel=(3, 3)),
        Node.of("sum", "add", "conv", "other"),
    )
    graph = Graph(nodes, ("sum",), "two")
    rng = np.random.default_rng(6)
    return graph.replace(weights={n: rng.normal(0, 1, s).astype(np.float32) for n, s in graph.param_shapes.items()})


def sound() -> Graph:
    """Sequences: a row of values, no picture."""
    nodes = (
        Node.of("input", "input", shape=(1, 200)),
        Node.of("conv", "conv", "input", out=4, kernel=(9,), stride=4),
        Node.of("relu", "relu", "conv"),
    )
    graph = Graph(nodes, ("relu",), "sound")
    rng = np.random.default_rng(4)
    return graph.replace(weights={n: rng.normal(0, 1, s).astype(np.float32) for n, s in graph.param_shapes.items()})


MODES = {"zero": "zeros", "replicate": "replicate", "reflect": "reflect", "circular": "circular"}


def pressings(count: int = 150) -> list[dict[str, object]]:
    """Random windows with the right map by PyTorch, and the costs by `Conv`."""
    rng = np.random.default_rng(2)
    found: list[dict[str, object]] = []
    while len(found) < count:
        size = [int(v) for v in rng.integers(3, 12, 2)]
        kernel, stride, dilation = ([int(v) for v in rng.integers(1, most, 2)] for most in (5, 4, 3))
        kind = str(rng.choice(["conv", "transposed", "max", "mean"]))
        mode = str(rng.choice(list(MODES))) if kind == "conv" else "zero"
        pad = [int(rng.integers(0, min(3, k // 2 + 1) if kind != "conv" else 3)) for k in kernel]
        groups = int(rng.choice([1, 2, 4])) if kind in ("conv", "transposed") else 1
        x = torch.from_numpy(rng.normal(0, 1, (1, 4, *size)).astype(np.float32))
        case: dict[str, object] = {}
        try:
            if kind == "conv":
                weight = torch.from_numpy(rng.normal(0, 1, (8, 4 // groups, *kernel)).astype(np.float32))
                padded = x
                if any(pad):
                    sides = (pad[1], pad[1], pad[0], pad[0])
                    padded = f.pad(x, sides, mode="constant" if mode == "zero" else mode)
                out = f.conv2d(padded, weight, stride=stride, dilation=dilation, groups=groups)
                filters, shape = weight, (4, 8)
            elif kind == "transposed":
                weight = torch.from_numpy(rng.normal(0, 1, (4, 8 // groups, *kernel)).astype(np.float32))
                out = f.conv_transpose2d(x, weight, stride=stride, padding=pad, dilation=dilation, groups=groups)
                per = weight.reshape(groups, 4 // groups, 8 // groups, *kernel).transpose(1, 2)
                filters, shape = per.reshape(8, 4 // groups, *kernel), (4, 8)
            elif kind == "max":
                out, filters, shape = f.max_pool2d(x, kernel, stride, pad, dilation), None, (4, 4)
            else:
                dilation = [1, 1]
                out, filters, shape = f.avg_pool2d(x, kernel, stride, pad), None, (4, 4)
        except RuntimeError:  # the window does not fit
            continue
        channel = int(rng.integers(shape[1]))
        geometry = {
            "kernel": kernel, "stride": stride, "padding": [[p, p] for p in pad], "dilation": dilation,
            "groups": groups, "extra": [0, 0], "transposed": kind == "transposed", "mode": mode,
        }  # fmt: skip
        case = {"g": geometry, "operation": "conv" if filters is not None else kind, "channel": channel,
                "input": {"c": 4, "h": size[0], "w": size[1], "data": x.flatten().tolist()},
                "map": {"h": out.shape[2], "w": out.shape[3], "data": out[0, channel].flatten().tolist()}}  # fmt: skip
        if filters is not None:
            taps = filters[channel]
            case["taps"] = {"c": taps.shape[0], "h": kernel[0], "w": kernel[1], "data": taps.flatten().tolist()}
            conv = dojang.Conv.of(4, 8, size, kernel, stride, tuple((p, p) for p in pad), dilation, groups,
                                  transposed=kind == "transposed")  # fmt: skip
            case["costs"] = {"out": list(conv.out_size), "params": conv.params, "macs": conv.macs}
        found.append(case)
    return found


def fittings(count: int = 30) -> list[dict[str, object]]:
    """Random pictures, and what Pillow makes of them at random sizes."""
    rng = np.random.default_rng(5)
    found: list[dict[str, object]] = []
    for _ in range(count):
        h, w, height, width = (int(v) for v in rng.integers(1, 60, 4))
        c = int(rng.choice([1, 3]))
        pixels = rng.integers(0, 256, (h, w, c), np.uint8)
        image = Image.fromarray(pixels[:, :, 0] if c == 1 else pixels)
        small = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))
        found.append({"h": h, "w": w, "c": c, "height": height, "width": width, "from": pixels.flatten().tolist(),
                      "to": small.flatten().tolist()})  # fmt: skip
    return found


def long(count: int = 1000) -> Graph:
    """A network of many nodes with skips."""
    nodes = [Node.of("input", "input", shape=(4, 8, 8))]
    for i in range(count):
        if i % 5 == 4:
            nodes.append(Node.of(f"sum{i}", "add", nodes[-1].name, nodes[-4].name))
        else:
            nodes.append(Node.of(f"conv{i}", "conv", nodes[-1].name, out=4, kernel=(3, 3), padding=1))
    graph = Graph(tuple(nodes), (nodes[-1].name,), "long")
    rng = np.random.default_rng(3)
    return graph.replace(weights={n: rng.normal(0, 0.1, s).astype(np.float32) for n, s in graph.param_shapes.items()})


def main(folder: Path) -> None:
    """Everything into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = branched()
    Image.fromarray(sample(96, 144)).save(folder / "사진.png")
    Image.fromarray(sample(96, 144)[:, ::-1]).save(folder / "other.png")
    Image.fromarray(sample(300, 600)).save(folder / "wide.png")
    checkpoint.save(graph, folder / "net.safetensors", force=True)
    checkpoint.save(long(), folder / "long.safetensors", force=True)
    values = values_of(graph, PictureInside(graph, folder / "사진.png").x)
    told = {name: {"shape": list(v.shape), "data": v.flatten().tolist()} for name, v in values.items()}
    (folder / "right.json").write_text(json.dumps({"values": told, "names": NAMES, "pressings": pressings(),
                                                   "fittings": fittings()}))  # fmt: skip
    page = dojang.show(graph, folder / "사진.png", output=folder / "net.html", force=True)
    cell = f"<!doctype html><title>notebook</title>{page._repr_html_()}"
    (folder / "notebook.html").write_text(cell, encoding="utf-8")
    dojang.show(lacking(), folder / "사진.png", output=folder / "lacking.html", force=True)
    dojang.show(two_inputs(), output=folder / "two.html", force=True)
    checkpoint.save(two_inputs(), folder / "two.safetensors", force=True)
    nodes = (Node.of("words", "input", shape=(4,), dtype="string"), Node.of("same", "identity", "words"))
    dojang.show(Graph(nodes, ("same",), "words"), output=folder / "words.html", force=True)
    wave = np.sin(np.arange(200, dtype=np.float32) / 5)[None]
    dojang.show(sound(), wave, output=folder / "sound.html", force=True)
    dojang.show("stamp", folder / "사진.png", output=folder / "stamp.html", force=True)
    digits = dojang.load("digits-cnn")
    arrays = {name: np.array(array) for name, array in digits.weights.items()}
    arrays["conv1.weight"][3], arrays["conv1.bias"][3] = 0, -1
    planted = digits.replace(weights=arrays)
    checkpoint.save(planted, folder / "planted.safetensors", force=True)
    dojang.show(planted, data="digits", before="digits-cnn", output=folder / "waste.html", force=True)
    dojang.show("resnet50", output=folder / "resnet50.html", force=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

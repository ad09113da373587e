"""Attention layers of vision transformers: as one step, step by step, and in ONNX Runtime, one thread, in turns.

    python bench/attention.py > bench/results/attention.txt

A layer is the dense layer to queries, keys and values, the attention, and the dense layer out; tokens and widths are
those of DeiT-Ti, ViT-B, windows of Swin-T (with a table of positions added), and 1,024 tokens. Times are of the
processor, the least of all turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional as F

import dojang
from dojang.engine.compiled import compile as compiled
from dojang.engine.plan.attention import Attentions
from record import head

LAYERS = {
    "DeiT-Ti": (1, 197, 192, 3, False),
    "ViT-B": (1, 197, 768, 12, False),
    "Swin-T, stage 1": (64, 49, 96, 3, True),
    "Swin-T, stage 3": (4, 49, 384, 12, True),
    "1,024 tokens": (1, 1024, 64, 2, False),
}
"""By name: images (windows), tokens, width, heads, whether a table of positions is added."""


class Layer(nn.Module):
    """Queries, keys and values; the attention; the layer out."""

    def __init__(self, tokens: int, width: int, heads: int, positions: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.positions = nn.Parameter(torch.randn(1, heads, tokens, tokens)) if positions else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        many, tokens, width = x.shape
        parts = self.qkv(x).reshape(many, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), attn_mask=self.positions)
        return self.out(mixed.transpose(1, 2).reshape(many, tokens, width))


def turn(call: Callable[[], Any], seconds: float) -> float:
    """Processor seconds of one call, the mean of as many as fit."""
    begin, calls = time.process_time(), 0
    while time.process_time() - begin < seconds:
        call()
        calls += 1
    return (time.process_time() - begin) / calls


def main() -> None:
    """Prints a line for each layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.03)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(head("src/dojang/engine", "src/dojang/native", peaks=False))
    print(f"{'layer':<18}{'one step, ms':>14}{'step by step':>14}{'ONNX Runtime':>14}{'error':>10}")
    for name, (many, tokens, width, heads, positions) in LAYERS.items():
        module, x = Layer(tokens, width, heads, positions).eval(), torch.randn(many, tokens, width)
        net, given = dojang.load(module, input_size=(tokens, width)), x.numpy()
        one = compiled(net, threads=1)
        answer = one(given)
        assert "attention" in [c.algorithm for c in one.plan(many).choices]
        with mock.patch.object(Attentions, "pays", return_value=False):
            apart = compiled(net, threads=1)
            apart(given)
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "layer.onnx")
            torch.onnx.export(module, (x,), file, dynamo=False, opset_version=17)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(file, options)
        entry = session.get_inputs()[0].name
        calls = (lambda: one(given), lambda: apart(given), lambda: session.run(None, {entry: given}))  # noqa: B023
        least = np.min([[turn(call, args.seconds) for call in calls] for _ in range(args.turns)], 0)
        with torch.no_grad():
            wanted = module.double()(x.double()).numpy()
        error = np.abs(answer - wanted).max() / np.abs(wanted).max()
        print(f"{name:<18}" + "".join(f"{1e3 * s:14.3f}" for s in least) + f"{error:10.1e}", flush=True)


if __name__ == "__main__":
    main()

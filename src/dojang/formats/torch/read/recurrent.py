"""PyTorch functions that have an operator of ONNX and none of our own: recurrent layers, look-ups, grids."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import HANDLERS, Traced, Tracer

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where PyTorch has each gate of ONNX's order: input, output, forget, new; update, reset, new."""


@lowers("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(t: Tracer, x: Any, state: Any, weights: Any, *rest: Any) -> Any:
    """All layers of a recurrent network; not of packed sequences, nor with projections."""
    if not isinstance(weights, list | tuple) or len(rest) != 6 or x.dim() != 3:
        return NotImplemented
    biased, layers, _, _, both, first = rest
    name = t.func
    kind = "RNN" if name.startswith("rnn") else name.upper()
    each, directions = (4 if biased else 2), (2 if both else 1)
    states = list(state) if isinstance(state, list | tuple) else [state]
    if len(weights) != each * directions * layers or not isinstance(x, Traced):
        return NotImplemented
    inner = x if not first else t.emit("transpose", x, part="steps", perm=(1, 0, 2))
    hidden = weights[1].shape[-1]
    ends: list[list[Traced]] = [[] for _ in states]
    for layer in range(layers):
        own = weights[layer * each * directions : (layer + 1) * each * directions]
        parts = [own[d * each : (d + 1) * each] for d in range(directions)]
        arrays = [_stacked(t, [[p[role]] for p in parts], kind, f"layer{layer}.{word}")
                  for role, word in enumerate(("input", "hidden"))]  # fmt: skip
        bias = _stacked(t, [[p[2], p[3]] for p in parts], kind, f"layer{layer}.bias") if biased else None
        initial = [_initial(t, s, layer * directions, directions, f"layer{layer}.state{i}")
                   for i, s in enumerate(states)]  # fmt: skip
        steps, n, _ = inner.sizes
        settings: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if both else "forward"}
        if kind == "GRU":
            settings["linear_before_reset"] = 1
        if name == "rnn_relu":
            settings["activations"] = ["Relu"] * directions
        given = [inner, *arrays, bias, None, *initial]
        while given[-1] is None:
            given.pop()
        wide = t.standard(kind, given, (steps, directions, n, hidden), part=f"layer{layer}", **settings)
        for i, found in enumerate(ends):
            part = f"layer{layer}.end{i}"
            found.append(t.standard(kind, given, (directions, n, hidden), output=1 + i, part=part, **settings))
        turned = t.emit("transpose", wide, part=f"layer{layer}.order", perm=(0, 2, 1, 3))
        inner = HANDLERS["reshape"](t, turned, steps, n, directions * hidden)
    last = [found[0] if layers == 1 else t.emit("concat", *found, part=f"ends{i}", axis=0)
            for i, found in enumerate(ends)]  # fmt: skip
    return (inner if not first else t.emit("transpose", inner, part="order", perm=(1, 0, 2)), *last)


def _stacked(t: Tracer, parts: Sequence[Sequence[Any]], kind: str, part: str) -> Traced:
    """(directions, all gates in the order of ONNX, ...): of each direction the arrays behind each other."""
    whole: list[Traced] = []
    for d, arrays in enumerate(parts):
        pieces: list[Traced] = []
        for i, array in enumerate(arrays):
            value = t.value(array)
            size = value.sizes[0] // len(GATES[kind])
            if len(GATES[kind]) == 1:
                pieces.append(value)
                continue
            pieces += [t.emit("slice", value, part=f"{part}.gate{d}{i}{k}", axis=0, start=k * size or None,
                              stop=None if k == len(GATES[kind]) - 1 else (k + 1) * size)
                       for k in GATES[kind]]  # fmt: skip
        joined = t.emit("concat", *pieces, part=f"{part}.gates{d}", axis=0) if len(pieces) > 1 else pieces[0]
        whole.append(t.emit("unsqueeze", joined, part=f"{part}.wide{d}", axes=(0,)))
    return t.emit("concat", *whole, part=part, axis=0) if len(whole) > 1 else whole[0]


def _initial(t: Tracer, given: Any, start: int, count: int, part: str) -> Traced | None:
    """The states that a layer begins with; None where all are 0, which is what the operator takes then."""
    numbers = t.alike(given) if isinstance(given, Traced) else None if t.known(given) else given
    if numbers is not None and numbers.device.type != "meta" and not bool(numbers.any()):
        return None
    state = t.value(given)
    if count == state.sizes[0]:
        return state
    stop = None if start + count == state.sizes[0] else start + count
    return t.emit("slice", state, part=part, axis=0, start=start or None, stop=stop)


@lowers("embedding")
def embedding(t: Tracer, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of a table by computed numbers."""
    x, table = t.value(x), t.value(weight)
    whole = x if t.read(x) in t.whole else t.cast(x, torch.int64)
    return t.standard("Gather", (table, whole), (*x.sizes, table.sizes[-1]), axis=0)


@lowers("affine_grid", "affine_grid_generator")
def affine_grid(t: Tracer, theta: Any, size: Any, align_corners: bool | None = None) -> Any:
    """Places of pixels, moved by a matrix for each image: a product of the places, and 1, with the matrix."""
    rank, places = len(size) - 2, prod(int(s) for s in size[2:])
    moved = t.value(theta)
    if rank not in (2, 3) or moved.sizes[0] != size[0]:
        return NotImplemented
    with torch._C.DisableTorchFunction():
        still = torch.eye(rank, rank + 1)[None]
        grid = torch.nn.functional.affine_grid(still, [1, 1, *size[2:]], align_corners=bool(align_corners))
        whole = torch.cat((grid.reshape(1, places, rank), torch.ones(1, places, 1)), 2)
    turned = t.emit("transpose", moved, part="transpose", perm=(0, 2, 1))
    product = t.emit("matmul", t.loose(whole), turned, part="product")
    return HANDLERS["reshape"](t, product, -1, *(int(s) for s in size[2:]), rank)


SAMPLING = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
MODES, BORDERS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@lowers("grid_sample", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(
    t: Tracer, x: Any, grid: Any, mode: Any = "bilinear", padding_mode: Any = "zeros", align_corners: Any = None
) -> Any:
    """Values of a picture between its pixels."""
    x, grid = t.value(x), t.value(grid)
    mode = MODES[mode] if isinstance(mode, int) else mode
    border = BORDERS[padding_mode] if isinstance(padding_mode, int) else padding_mode
    shape = (x.sizes[0], x.sizes[1], *grid.sizes[1:-1])
    settings = {"mode": SAMPLING[mode], "padding_mode": border, "align_corners": int(bool(align_corners))}
    return t.standard("GridSample", (x, grid), shape, **settings)

"""Writing networks in other formats, each file read back before it is called written."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dojang.app.networks import InputSize, load, require_weights
from dojang.app.normalising import normalising_inside
from dojang.app.runtimes import has_onnxruntime, onnx_runner
from dojang.arith.cost import count
from dojang.arith.graph import Graph, with_batch
from dojang.arith.preparation import WHITE, preparations
from dojang.base.errors import CheckFailed, UsageError
from dojang.base.writing import check_target, replace_text, writing
from dojang.report.results import Exported

Format = Literal["onnx", "safetensors", "net"]
Normalise = Literal["outside", "inside"]
FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors", "net": ".net"}

TOLERANCE = 1e-4
"""Largest difference between runtimes, relative to the largest output: float32 sums of some 10^4 terms in any order."""
ROUNDED = 0.1
"""The same for quantised networks: a number halfway between two steps is rounded up by one and down by the other, and
the layers behind it carry that on."""


def export(
    net: Any,
    format: Format | None = None,
    *,
    output: str | Path | None = None,
    force: bool = False,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    normalise: Normalise = "outside",
) -> Exported:
    """Writes a network as ONNX, as a checkpoint (safetensors) or as text (.net, without weights).

    The format follows the suffix of `output` where it is not given; `output` is NAME.SUFFIX by default; `force`
    replaces a file that exists. `net`, `weights`, `input_size` and `num_classes` are as in `load`. What was written is
    read back and must cost the same; ONNX Runtime, where it is installed, must give the answers that dojang gets from
    an ONNX file.

    The file holds the network alone: whoever runs it normalises the samples, and `normalisation` of the result says
    with which figures. With `normalise="inside"` the written network does so itself: it takes pixels from 0 to 255 as
    float32 (or, where it was trained on floats, values as they are in the data).

    Raises what `load` raises, `UsageError` for a format that is not known and a file that exists,
    `GraphError` for missing weights, `CheckFailed` when the check fails.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     export("lenet5", output=f"{folder}/lenet5.net").checked
    'read back: the same layers'
    """
    kind = format or {v: k for k, v in FORMATS.items()}.get(Path(output).suffix if output else "")
    if kind is None or kind not in FORMATS:
        raise UsageError(
            f"say the format: --format {', '.join(FORMATS)}, or a file that ends in {', '.join(FORMATS.values())}"
        )
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes, arrays=kind != "net")
    target = Path(output) if output is not None else Path(f"{graph.name}{FORMATS[kind]}")
    if target.suffix != FORMATS[kind]:
        raise UsageError(f"{target}: a file of format {kind} ends in {FORMATS[kind]}")
    check_target(target, force)
    if normalise not in ("outside", "inside"):
        raise UsageError(f"normalise {normalise!r} is not known; use outside or inside")
    if kind != "net":
        require_weights(graph, graph.name)
    elif normalise == "inside":
        raise UsageError("a .net file holds no numbers to normalise by inside; export .onnx or .safetensors")
    graph = normalising_inside(graph) if normalise == "inside" else graph
    with writing(target, force) as temporary:
        checked = write_checked(graph, kind, temporary)
        size = temporary.stat().st_size
    return Exported(graph.name, kind, str(target), size, checked, preparations(graph))


def write_checked(graph: Graph, kind: str, path: Path) -> str:
    """Writes a network to `path` (replacing what is there), reads it back, and says how it was checked."""
    if kind == "net":
        from dojang.formats import text

        replace_text(path, text.to_text(graph))
        again = text.parse(path.read_text(encoding="utf-8"), name=graph.name, file=str(path))
        said = "read back: the same layers"
    elif kind == "safetensors":
        from dojang.formats import checkpoint

        checkpoint.save(graph, path, force=True)
        again = checkpoint.load(path)
        for name in graph.param_shapes:
            if not np.array_equal(np.asarray(again.weights[name]), np.asarray(graph.weights[name], np.float32)):
                raise CheckFailed(f"{path.name}: {name} read back differs from what was written")
        said = "read back: the same layers and numbers"
    else:
        module = import_module(f"dojang.formats.{kind}")
        module.save(graph, path)
        again = module.load(path)
        said = f"read back: the same cost{check_onnx(graph, path) if kind == 'onnx' else ''}"
    old, new = count(graph.alone()).total, count(again.alone()).total
    if (old.params, old.macs) != (new.params, new.macs):
        raise CheckFailed(
            f"{path.name}: read back it has {new.params} parameters and {new.macs} MACs, "
            f"not {old.params} and {old.macs}"
        )
    return said


def check_onnx(graph: Graph, path: Path) -> str:
    """What ONNX Runtime makes of a written file, against dojang's own run on random input; "" where not installed."""
    if not has_onnxruntime() or len(graph.inputs) != 1:
        return ""
    import onnxruntime

    from dojang.engine.compiled import Compiled
    from dojang.native.machine import Machine

    (node,) = graph.inputs
    if node.attrs["dtype"] != "float32":
        return ""
    rng, shape = np.random.default_rng(0), with_batch(node.attrs, 2)
    (how,) = preparations(graph)
    pixels = how.where == "inside" and how.divisor == WHITE
    x = (rng.integers(0, 256, shape) if pixels else rng.normal(size=shape)).astype(np.float32)
    ours = Compiled(graph, machine=Machine.processor())  # whatever machine plans are made for
    return f"; {compare_answers(ours(x), onnx_runner(onnxruntime, str(path))(x), tolerance_of(graph))}"


def tolerance_of(graph: Graph) -> float:
    """How far answers of two runtimes may be apart, as a part of the largest."""
    rounds = any(n.op == "fake_quantize" or "Quantize" in n.attrs.get("kind", "") for n in graph.nodes)
    return ROUNDED if rounds else TOLERANCE


def compare_answers(ours: np.ndarray, theirs: np.ndarray, most: float = TOLERANCE) -> str:
    """Says how far ONNX Runtime's answers are from ours; raises `CheckFailed` when further than `most`."""
    scale = float(np.abs(ours.astype(np.float64)).max()) or 1.0
    wide = np.float64
    same = ours.shape == theirs.shape
    off = float(np.abs(ours.astype(wide) - theirs.astype(wide)).max()) / scale if same else float("inf")
    if not off <= most:
        raise CheckFailed(
            f"ONNX Runtime's answers to the written file differ by {off:.2g} of the largest, more than {most:g}"
        )
    return f"ONNX Runtime gives the same answers within {off:.1g} of the largest"

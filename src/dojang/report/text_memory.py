"""Memory, traffic and time on a roofline as text, at most 80 columns wide."""

from __future__ import annotations

from dojang.arith.memory import MemoryUse, total_ms
from dojang.report.table import PLAIN, WIDTH, Column, Style, milliseconds, paragraph, size, span, table


def memory_text(use: MemoryUse, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The memory of inference and of a training step; then bytes, intensity and the interval of time per layer."""
    m, bound = use.memory, bool(use.unknown)
    lines = [style.bold(f"Memory of {use.network}, float32, batch {m.batch}"), ""]
    parts = {
        "inference_bytes": "inference: activations alive at once",
        "weight_bytes": "weights and running statistics",
        "saved_bytes": "training: activations saved for backward",
        "gradient_bytes": "training: gradients",
        "optimiser_bytes": f"training: state of the optimiser ({m.optimiser})",
        "training_bytes": "training: total, weights included",
    }
    every = [(one.memory.to_dict(), bool(one.unknown)) for one in use.ways or (use,)]
    rows = [[name, span([(figures[key], open_) for figures, open_ in every], size)] for key, name in parts.items()]
    lines.append(table([Column("what", right=False), Column("memory")], rows, width=width, style=style))
    if use.ways:
        text = (
            f"Values decide between {len(use.ways)} paths: least to most. The layers are those of the costliest path."
        )
        lines += ["", paragraph(text, width)]
    timed = use.machine is not None
    columns = [Column("layer", right=False, shrink=True), Column("moved"), Column("FLOP/byte")]
    columns += [Column("at least"), Column("at most")] if timed else []
    rows = [
        [r.name, *("??" if r.unknown else (size(r.moved_bytes), f"{r.intensity:.1f}" if r.intensity else "-"))]
        + ([*("??" if r.unknown else (milliseconds(r.least_ms), milliseconds(r.most_ms)))] if timed else [])
        for r in use.rows
    ]
    moved = size(sum(r.moved_bytes for r in use.rows), bound)
    foot = ["total", moved, "", *(map(milliseconds, total_ms(use.rows)) if timed else ())]
    lines += ["", table(columns, rows, [foot], width, style), ""]
    if use.machine is not None:
        text = (
            f"Roofline of {use.machine.name}: {use.machine.gflops:.4g} GFLOP/s, {use.machine.gbytes:.4g} GB/s. "
            "At least: only weights come from memory, in parallel with "
            "arithmetic. At most, for kernels at peak: inputs, weights "
            "and outputs go through memory, before or after arithmetic; kernels below peak take longer."
        )
        lines.append(style.dim(paragraph(text, width)))
    text = (
        "Moved: inputs, weights and output of each layer, once. Not counted: scratch memory of algorithms, gradients "
        "of activations."
    )
    lines.append(style.dim(paragraph(text, width)))
    if bound:
        lines.append(style.bad(paragraph(f"Lower bounds: {', '.join(use.unknown)} could not be counted.", width)))
    return "\n".join(lines)

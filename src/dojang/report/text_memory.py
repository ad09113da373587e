"""Memory, traffic and time on a roofline as a person reads them, at 80 columns."""

from __future__ import annotations

from dojang.arith.memory import MemoryUse, total_ms
from dojang.report.table import PLAIN, WIDTH, Column, Style, milliseconds, paragraph, size, span, table


def memory_text(held: MemoryUse, width: int = WIDTH, style: Style = PLAIN) -> str:
    """What inference and a training step hold, then bytes, intensity and the interval of time per layer."""
    m, bound = held.memory, bool(held.unknown)
    lines = [style.bold(f"Memory of {held.network}, float32, batch {m.batch}"), ""]
    parts = {
        "inference_bytes": "inference: activations alive at once",
        "weight_bytes": "weights and running statistics",
        "saved_bytes": "training: activations saved for the way back",
        "gradient_bytes": "training: gradients",
        "optimiser_bytes": f"training: state of the optimiser ({m.optimiser})",
        "training_bytes": "training: weights, saved, gradients, state",
    }
    every = [(one.memory.to_dict(), bool(one.unknown)) for one in held.ways or (held,)]
    rows = [[name, span([(figures[key], open_) for figures, open_ in every], size)] for key, name in parts.items()]
    lines.append(table([Column("what", right=False), Column("memory")], rows, width=width, style=style))
    if held.ways:
        text = f"Values decide between {len(held.ways)} ways: from the least to the most; layer by layer the dearest."
        lines += ["", paragraph(text, width)]
    timed = held.machine is not None
    columns = [Column("layer", right=False, shrink=True), Column("moved"), Column("FLOP/byte")]
    columns += [Column("at least"), Column("at most")] if timed else []
    rows = [
        [r.name, *("??" if r.unknown else (size(r.moved_bytes), f"{r.intensity:.1f}" if r.intensity else "-"))]
        + ([*("??" if r.unknown else (milliseconds(r.least_ms), milliseconds(r.most_ms)))] if timed else [])
        for r in held.rows
    ]
    moved = size(sum(r.moved_bytes for r in held.rows), bound)
    foot = ["total", moved, "", *(map(milliseconds, total_ms(held.rows)) if timed else ())]
    lines += ["", table(columns, rows, [foot], width, style), ""]
    if held.machine is not None:
        text = (
            f"Roofline of {held.machine.name}: {held.machine.gflops:.4g} GFLOP/s, {held.machine.gbytes:.4g} GB/s. "
            "At least: weights come from memory, arithmetic hides it. At most, for kernels at peak: inputs, weights "
            "and outputs go through memory and nothing hides; kernels below peak take longer."
        )
        lines.append(style.dim(paragraph(text, width)))
    text = (
        "Moved: inputs, weights and output of each layer, once. Not counted: scratch memory of algorithms, gradients "
        "of activations."
    )
    lines.append(style.dim(paragraph(text, width)))
    if bound:
        lines.append(style.bad(paragraph(f"Lower bounds: {', '.join(held.unknown)} could not be counted.", width)))
    return "\n".join(lines)

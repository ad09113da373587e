"""Memory, traffic and time on a roofline as a person reads them, at 80 columns."""

from __future__ import annotations

from dojang.arith.memory import Held, total_ms
from dojang.report.table import PLAIN, WIDTH, Column, Style, milliseconds, paragraph, size, table


def memory_text(held: Held, width: int = WIDTH, style: Style = PLAIN) -> str:
    """What inference and a training step hold, then bytes, intensity and the interval of time per layer."""
    m, bound = held.memory, bool(held.unknown)
    lines = [style.bold(f"Memory of {held.network}, float32, batch {m.batch}"), ""]
    parts = [
        ("inference: activations alive at once", m.inference_bytes),
        ("weights and running statistics", m.weight_bytes),
        ("training: activations saved for the way back", m.saved_bytes),
        ("training: gradients", m.gradient_bytes),
        (f"training: state of the optimiser ({m.optimiser})", m.optimiser_bytes),
        ("training: weights, saved, gradients, state", m.training_bytes),
    ]
    lines.append(table([Column("what", right=False), Column("memory")], [[n, size(b, bound)] for n, b in parts],
                       width=width, style=style))  # fmt: skip
    timed = held.machine is not None
    columns = [Column("layer", right=False, shrink=True), Column("moved"), Column("FLOP/byte")]
    columns += [Column("at least"), Column("at most")] if timed else []
    rows = [
        [r.name, size(r.moved_bytes), f"{r.intensity:.1f}" if r.intensity else "-"]
        + ([milliseconds(r.least_ms), milliseconds(r.most_ms)] if timed else [])
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

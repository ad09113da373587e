"""Filtered pictures, and plans for filtering them, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dojang.arith.conv import by
from dojang.base.wording import counted
from dojang.report.table import PLAIN, WIDTH, Style, paragraph

if TYPE_CHECKING:
    from dojang.filters.files import Filtered, FilterPlans, FilterReport
    from dojang.filters.plan.choose import FilterPlan


LEAST_SAID = 0.01
"""The least share of saturated values that is printed."""


def filter_text(report: FilterReport, width: int = WIDTH, style: Style = PLAIN) -> str:
    """One line per picture written: from, to, size, pixel type, offset, saturated share from 1 % on."""
    del width, style  # names of files are not shortened
    return "\n".join(f"{done.source} -> {done.target}  {about(done)}" for done in report.done)


def about(done: Filtered) -> str:
    """Size and pixel type; the level that stands for 0, and how much saturates, where there is something to say."""
    parts = [f"{done.width}x{done.height}", counted(done.channels, "channel"), done.dtype]
    if done.offset:
        parts.append(f"{done.offset:g} stands for 0 (--offset)")
    if done.saturated >= LEAST_SAID:
        parts.append(f"{done.saturated:.0%} of the values saturate")
    return ", ".join(parts)


def filter_plan_text(plans: FilterPlans, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Per picture and pass: the kernels, the algorithm, its predicted cost, and why other algorithms were refused."""
    lines = []
    for planned in plans.pictures:
        lines += [style.bold(planned.source)]
        for plan in planned.plans:
            lines += [paragraph(f"  {_head(plan, planned.channels)}", width, "    ")]
            chosen = f"    {plan.way.name}: {plan.way.detail}; {plan.way.cycles:.2f} cycles per element predicted"
            lines += [paragraph(chosen, width, "      ")]
            lines += [paragraph(f"    not {name}: {why}", width, "      ") for name, why in plan.refused]
    return "\n".join(lines)


def _head(plan: FilterPlan, picture_channels: int) -> str:
    job = plan.jobs[0]
    kernels = ", ".join(f"{j.kernel.name} ({by(j.kernel.size)})" for j in plan.jobs)
    held = f" (held as {job.channels} in memory)" if job.channels != picture_channels else ""
    channels = f"{counted(picture_channels, 'channel')}{held}"
    return f"{kernels} on {channels} of {job.dtype}, result {job.out_dtype}"

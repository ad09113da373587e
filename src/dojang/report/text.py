"""The results of the commands as text, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dojang.base.showing import columns_of, shown
from dojang.base.wording import counted
from dojang.report.confusion import by_label_text, confusion_text
from dojang.report.table import (
    PLAIN,
    WIDTH,
    Column,
    Style,
    milliseconds,
    names,
    padded,
    paragraph,
    percent,
    short,
    size,
    sizes,
    table,
)

if TYPE_CHECKING:
    from dojang.engine.plan.choose import Plan
    from dojang.report.results import Bench, Environment, Exported, Listing, Run, ShownPage, Trained


def env_text(facts: Environment, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Versions, machine and settings, one per line."""
    del width, style  # paths are not shortened
    machine, cache = facts.machine, facts.cache
    lines = [f"{name:<14} {version or 'not installed'}" for name, version in facts.versions.items()]
    caches = ", ".join(f"L{n} {machine[f'l{n}_bytes'] >> 10:,} KiB" for n in (1, 2, 3))
    isa = f"{machine['isa']} with matrix tiles" if machine["amx"] else machine["isa"]
    lines += [
        f"{'system':<14} {machine['system']}",
        f"{'processor':<14} {shown(machine['processor'])}",
        f"{'planned for':<14} {shown(machine['name'])}, family {machine['family']}"
        + ("" if machine["runs_here"] else "; code for it cannot run on this machine"),
        f"{'':<14} {isa}, {counted(machine['cores'], 'core')}, {caches}",
        f"{'peaks, 1 core':<14} {_peaks(machine['peaks'])}",
        f"{'':<14} {shown(machine['peaks_from'])}",
    ]
    if "ignored_file" in machine:
        lines.append(f"{'':<14} the file of measured peaks is ignored: {machine['ignored_file']}")
    lines += [
        f"{'memory':<14} {size(machine['memory_bytes'])}",
        f"{'cache':<14} {cache['directory']}",
        f"{'':<14} machine code, {size(cache['bytes'])} of at most {size(cache['limit_bytes'])}",
        *([f"{'':<14} not used: {cache['not_used']}"] if cache.get("not_used") else []),
        f"{'executable':<14} {facts.executable}",
    ]
    lines += [f"{name:<14} {shown(value)}" for name, value in facts.settings.items()]
    if facts.measured is not None:
        lines += ["", *_measured_text(facts.measured)]
    return "\n".join(lines)


def _measured_text(done: Mapping[str, Any]) -> list[str]:
    """What `dojang env --measure` found, next to the shipped peaks."""
    use = "plans use it from now on; remove the file to use the shipped peaks again"
    if not done["used"]:
        use = f"used where DOJANG_MACHINE={shown(done['file'])} is set"
    return [
        f"{'shipped':<14} {_peaks(done['shipped'])}",
        f"{'measured':<14} {_peaks(done['measured'])}",
        f"{'wrote':<14} {shown(done['file'])}",
        f"{'':<14} {use}",
    ]


def _peaks(peaks: Mapping[str, float]) -> str:
    return (
        f"{peaks['fma_gflops']:.4g} GFLOP/s, {peaks['read_gbs']:.4g} GB/s from memory, "
        f"{peaks['cache_gbs']:.4g} GB/s from the shared cache"
    )


def plan_text(plan: Plan, width: int = WIDTH, style: Style = PLAIN) -> str:
    """One row per step: its operator, algorithm and times; below, why other algorithms were refused."""
    columns = [Column("step", right=False, shrink=True), Column("op", right=False, shrink=True)]
    columns += [Column("algorithm", right=False), Column("predicted"), Column("measured"), Column("GMAC/s")]

    def ms(seconds: float | None) -> str:
        return "-" if seconds is None else milliseconds(1e3 * seconds)

    rows = []
    for choice in plan.choices:
        rate = f"{choice.macs / choice.measured_s / 1e9:.1f}" if choice.macs and choice.measured_s else "-"
        steps = [choice.value, choice.op, choice.algorithm, ms(choice.predicted_s), ms(choice.measured_s), rate]
        rows.append(steps)
    threads = counted(plan.threads, "thread")
    if plan.run_threads < plan.threads:
        threads = f"kernels for {threads}, run by {plan.run_threads}"
    head = f"Plan: {threads}, {plan.isa}, precision {plan.precision}, batch {plan.batch}"
    tuned = "; algorithms were chosen by their measured times" if plan.tuned else ""
    made = f"made for {shown(plan.machine)}; peaks: {shown(plan.peaks_from)}{tuned}" if plan.machine else ""
    lines = [style.bold(head), *([style.dim(made)] if made else []), table(columns, rows, width=width, style=style)]
    if plan.call is not None:
        said = (
            f"One call takes {milliseconds(1e3 * plan.call.call_s)}: its steps {milliseconds(1e3 * plan.measured_s)}, "
            f"Python {milliseconds(1e3 * plan.call.outside_s)}; means over the faster half of {plan.call.runs:,} calls."
        )
        lines.append(style.dim(paragraph(said, width)))
        lines += [style.bad(paragraph(f"Do not rely on these times: {plan.doubt}.", width))] if plan.doubt else []
    reasons: dict[str, list[str]] = {}
    for choice in plan.choices:
        for algorithm, reason in choice.refused:
            reasons.setdefault(f"{algorithm}: {reason}", []).append(choice.value)
    if reasons:
        lines += ["", style.bold("Refused")]
        lines += [paragraph(f"  {names(where, 6)}: {why}", width, "    ") for why, where in reasons.items()]
    return "\n".join(lines)


def bench_text(bench: Bench, width: int = WIDTH, style: Style = PLAIN) -> str:
    """One row per runtime, fastest first; the ratio to the best peer; the machine."""
    columns = [Column("runtime", right=False), Column("version", right=False), Column("median"), Column("spread")]
    columns += [Column("largest difference")]
    rows = [
        [t.runtime, t.version or "?", milliseconds(t.median_ms), milliseconds(t.iqr_ms), _difference(t.max_abs_diff)]
        for t in sorted(bench.results, key=lambda t: t.median_ms)
    ]
    lines = [style.bold(f"{bench.network}, batch {bench.batch}"), table(columns, rows, width=width, style=style), ""]
    if bench.ratio is not None:
        word = "faster" if bench.ratio < 1 else "slower"
        times = 1 / bench.ratio if bench.ratio < 1 else bench.ratio
        said = f"dojang is {times:.2f} times {word} than the best peer"
        lines.append(style.good(said) if bench.ratio < 1 else style.bad(said))
    lines += [paragraph(f"Not timed: {name}: {why}.", width) for name, why in bench.missing.items()]
    machine = bench.machine
    where = f"{machine['processor']}, {machine['isa']}, {counted(machine['cores'], 'core')}"
    lines.append(style.dim(paragraph(f"Convention: {bench.convention}. Machine: {where}.", width)))
    return "\n".join(lines)


def _difference(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def run_text(run: Run, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The best classes of every sample with their probabilities; for other outputs, shapes and ranges."""
    lines = [style.bold(f"{run.network} on {run.source}"), style.dim(f"input: {run.prepared}")]
    for place, sample in enumerate(run.top):
        if len(run.top) > 1:
            lines.append(f"sample {place}")
        called = [shown(guess.name) for guess in sample]
        wide = max(map(columns_of, called))
        lines += [
            f"  {padded(name, wide)}  {percent(guess.probability):>8}  score {guess.score:.4g}"
            for name, guess in zip(called, sample, strict=True)
        ]
    if run.guessed_names:
        lines.append(style.dim(f"class names: {run.guessed_names}"))
    if not run.top:
        for name, array in run.outputs.items():
            spread = f", from {array.min():.4g} to {array.max():.4g}" if array.size else ""
            lines.append(f"  {shown(name)}: {sizes(array.shape)}{spread}")
    lines += [f"wrote {file}" for file in run.files]
    lines += ["", plan_text(run.plan, width, style)] if run.plan is not None else []
    return "\n".join(lines)


def list_text(listing: Listing, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The rows, with their keys as headings."""
    if not listing.rows:
        return f"no {listing.what}"
    keys = [key for key in listing.rows[0] if not isinstance(listing.rows[0][key], (dict, list))]
    numeric = {key for key in keys if all(isinstance(row[key], int) for row in listing.rows)}
    columns = [
        Column(key, right=key in numeric, shrink=key not in numeric and key != "name", prose=True) for key in keys
    ]
    rows = [[short(row[key]) if key in numeric else str(row[key]) for key in keys] for row in listing.rows]
    return table(columns, rows, width=width, style=style)


def trained_text(trained: Trained, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The final figures of a training, the gap between train and test part, the figures by class, and the files."""
    record = trained.history
    name = "R²" if record["metric"] == "r2" else record["metric"]
    show = (lambda v: f"{v:.4f}") if record["metric"] == "r2" else percent
    lines = [
        style.bold(f"{trained.network}: test {name} {show(record['test_accuracy'])}"),
        f"train {name} {show(record['train_accuracy'])}, gap {show(record['gap'])}",
        f"{counted(record['epochs'], 'epoch')}, {counted(record['steps'], 'step')}, {record['seconds']:.1f} s on "
        f"{record['device']}, "
        f"peak learning rate {record['lr']:g}, seed {record['config']['seed']}",
        *_fine_tuned(record, name, show),
    ]
    if trained.warning:
        lines.append(style.bad(paragraph(f"Warning: {trained.warning}", width)))
    if record.get("confusion"):
        lines += ["", confusion_text(record["confusion"], width, style), ""]
    if record.get("by_label"):
        lines += ["", by_label_text(record["by_label"], width, style), ""]
    # names of files are not shortened
    return "\n".join([*lines, *(f"wrote {file}" for file in trained.files)])


def _fine_tuned(record: Mapping[str, Any], name: str, show: Callable[[float], str]) -> list[str]:
    """Before and after, and the best epoch; empty for a training from scratch without a selection part."""
    lines: list[str] = []
    before, best = record["start"]["before"], record["best"]
    if before is not None:
        lost = record["test_accuracy"] < before["accuracy"]
        said = f"before the first step: test {name} {show(before['accuracy'])}"
        lines.append(f"WORSE than before: {said}; try a smaller --lr" if lost else said)
    if record["stopped_early"]:
        lines.append(f"stopped early, after {record['epochs']} of {record['config']['epochs']} epochs")
    if best is not None:
        which = f"epoch {best['epoch']}" if best["epoch"] else "the state before the first step"
        lines.append(
            f"best on the selection part: {which}, {show(best['accuracy'])} of {best['samples']} samples, test {name} "
            f"{show(best['test_accuracy'])}; it is in best.safetensors, the last epoch in model.safetensors"
        )
    return lines


def exported_text(exported: Exported, width: int = WIDTH, style: Style = PLAIN) -> str:
    """What was written and how it was checked, then for each input who normalises its samples."""
    del width, style  # names of files are not shortened
    what = f"{shown(exported.network)} as {exported.format}, {size(exported.size_bytes)}"
    wrote = f"wrote {exported.file}: {what}; {exported.checked}"
    return "\n".join([wrote, *(shown(str(how)) for how in exported.normalisation)])


def page_text(page: ShownPage, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Where the page is, how it ends, and what it cannot show."""
    del width, style  # addresses and names of files are not shortened
    bare = [f"the page shows layers and costs, but no maps: {shown(page.why_not)}"] if page.why_not else []
    if page.url is None:
        how = f", weights as {page.weights}" if page.weights else ""
        said = [f"wrote {page.files[0]}: {shown(page.network)} as one page, {size(page.size_bytes)}{how}"]
        if page.lacking:
            names = shown(", ".join(page.lacking))
            said.append(f"the browser has no kernel for {names}; what depends on them is shown without -o only")
        return "\n".join([*said, *bare])
    how = "" if page.opened else "open it in a browser; "
    return "\n".join([f"{shown(page.network)} is shown at {page.url}", *bare, f"{how}Ctrl-C ends it"])

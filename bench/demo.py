"""The network that `make demo` slims: its output as a result file, its figures as the picture of the README.

    python bench/demo.py                   # runs it: bench/results/demo.txt and both pictures
    python bench/demo.py --run out/demo    # draws the pictures of a run that is there

The picture is drawn twice, for light and for dark pages (docs/pictures/before-after-light.svg and -dark.svg).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dojang.report.svg import ChartBar, bar_chart
from dojang.report.table import milliseconds, number, percent, size
from experiment import MEASURES
from record import RESULTS, ROOT, head

PICTURES = ROOT / "docs" / "pictures"
COMMAND = ("slim", "digits-cnn", "--data", "digits", "-o", "out/demo", "--force")
STYLE = {
    "light": {"text": "#1f2328", "faint": "#b8bfc6", "a": "#0969da"},
    "dark": {"text": "#e6edf3", "faint": "#565e67", "a": "#4493f8"},
}


def picture(results: dict[str, Any], colours: dict[str, str]) -> str:
    """Before and after, one row each, with what came of it under the heading of each column."""
    before, after = results["before"], results["after"]
    shown = {"params": number, "macs": number, "median_ms": milliseconds, "size_bytes": size, "accuracy": percent}
    names = {"params": "parameters", "macs": "MACs", "median_ms": "median time", "size_bytes": "file size"}
    headings = [f"{name}: {before[key] / after[key]:.3g} × less" for key, name in names.items()]
    rows = [
        (title, [ChartBar(side[key], shown[key](side[key]), kind) for key in names])
        for title, side, kind in (("before", before, "faint"), ("after", after, "a"))
    ]
    chart = bar_chart("digits-cnn before and after slimming", headings, rows, width=900, row=26)
    accuracy = (
        f"Test accuracy: {percent(before['accuracy'])} before, {percent(after['accuracy'])} after; "
        f"{percent(results['control']['accuracy'])} for the original fine-tuned as long"
    )
    style = (
        f"<style>text{{font:13px system-ui,sans-serif;fill:{colours['text']}}}.head{{font-weight:600}}"
        f".faint{{fill:{colours['faint']}}}.a{{fill:{colours['a']}}}</style>"
    )
    text = f'<text x="12" y="112">{accuracy}</text></svg>'
    chart = chart.replace("<title>", f"{style}<title>", 1).removesuffix("</svg>") + text
    return chart.replace('viewBox="0 0 900 88"', 'width="900" height="122" viewBox="0 0 900 122"')


def main() -> None:
    """Runs the demo unless a run is named, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="the folder of a run that is there")
    args = parser.parse_args()
    folder = args.run or ROOT / "out" / "demo"
    if args.run is None:
        done = subprocess.run(
            [sys.executable, "-m", "dojang", *COMMAND], cwd=ROOT, check=True, capture_output=True, text=True
        )
        (RESULTS / "demo.txt").write_text(head(*MEASURES) + "\n" + done.stdout, encoding="utf-8")
    results = json.loads((folder / "run.json").read_text(encoding="utf-8"))["results"]
    PICTURES.mkdir(exist_ok=True)
    for name, colours in STYLE.items():
        (PICTURES / f"before-after-{name}.svg").write_text(picture(results, colours) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The Python on the page about pictures runs."""

import re
from pathlib import Path


def test_the_page_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/filters.md", "exec"), scope)
    assert "taps as constants" in capsys.readouterr().out

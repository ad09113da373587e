"""A page opened from a file, in Chromium, under a policy that forbids every request: it computes all the same."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import nets
from children import finished
from dojang.engine.browser.program import browser_program
from dojang.engine.reference.operators import run_reference
from dojang.formats import zoo

RUNTIME = Path(__file__).parents[3] / "src/dojang/report/web/compute.mjs"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCRIPT = """
const said = {};
document.addEventListener("securitypolicyviolation", (e) => { said.violation = e.violatedDirective; });
try {
  const network = await loadNetwork(JSON.parse(document.getElementById("program").textContent));
  const input = network.program.inputs[0];
  const x = Float32Array.from(JSON.parse(document.getElementById("picture").textContent));
  said.outputs = network.run({ [input.name]: x }).map((a) => Array.from(a.data));
  said.window = network.window(network.names.at(1), [0, 3, 3]).before;
  said.requests = performance.getEntriesByType("resource").length;
} catch (error) {
  said.error = String(error);
}
document.getElementById("said").textContent = JSON.stringify(said);
"""


def page(program, x: np.ndarray, policy: str) -> str:
    """One file: the runtime without its exports, the network, a picture."""
    code = re.sub(r"^export ", "", RUNTIME.read_text(), flags=re.MULTILINE) + SCRIPT
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    data = {"program": json.dumps(program.to_dict()), "picture": json.dumps(x.ravel().tolist())}
    blocks = "".join(f'<script type="application/json" id="{k}">{v}</script>' for k, v in data.items())
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy.format(code=digest)}">'
    return (
        f'<!doctype html><meta charset="utf-8">{head}<pre id="said"></pre>{blocks}<script type="module">{code}</script>'
    )


def opened(path: Path) -> dict:
    """What the page wrote, once it is done."""
    assert CHROMIUM is not None
    flags = ("headless", "no-sandbox", "disable-gpu", "no-first-run", f"user-data-dir={path}.user", "dump-dom")
    command = [CHROMIUM, *(f"--{flag}" for flag in flags), "--virtual-time-budget=60000", path.as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = finished(process)
    found = re.search(r'<pre id="said">(.*?)</pre>', out, re.DOTALL)
    assert found, out[:500] + err[-500:]
    return json.loads(html.unescape(found[1]) or "{}")


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make test-page` installs it")


@needs_chromium
@pytest.mark.slow
def test_a_file_computes_under_a_policy_that_forbids_requests(tmp_path: Path) -> None:
    graph = zoo.load("digits-cnn")
    program = browser_program(graph, weights="float32")
    x = nets.feed(graph, 1)
    picture = next(iter(x.values()))
    policy = "default-src 'none'; script-src 'wasm-unsafe-eval' 'sha256-{code}'"
    path = tmp_path / "page.html"
    path.write_text(page(program, picture, policy), encoding="utf-8")
    said = opened(path)
    assert not {"error", "violation"} & set(said), said
    exact = run_reference(graph, x, np.float64).outputs[0][0]
    assert np.abs(np.array(said["outputs"][0]) - exact).max() <= 2e-5 * np.abs(exact).max()
    assert isinstance(said["window"], float)
    assert said["requests"] == 0
    # Without leave to compile WebAssembly the same page says so: the policy is in force.
    path.write_text(page(program, picture, "default-src 'none'; script-src 'sha256-{code}'"), encoding="utf-8")
    assert "WebAssembly" in opened(path)["error"]

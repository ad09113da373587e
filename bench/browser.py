"""Networks in the browser: speed of 3x3 layers, and of whole networks beside onnxruntime-web, on one thread.

    npm install --prefix FOLDER onnxruntime-web
    python bench/browser.py --ort FOLDER [--chromium chromium] [--node node] [--out bench/results/browser.txt]

One run of Chromium (headless, a page from this machine) and one of node. In each the contenders take turns, in one
thread, after warming up: dojang with every value kept to be looked at, dojang with the outputs alone, onnxruntime-web.
GFLOP/s of a layer are 2 times its multiply-adds, as the definition counts them, by the least time; algorithms that save
multiplications may so exceed what the processor does. "strict" forbids such algorithms; "fused": with relaxed
multiply-adds, which Chromium has and node from version 22 on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.benching import with_random_weights
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.base.errors import UsageError
from dojang.engine.browser.program import browser_program
from dojang.formats import onnx, zoo
from record import ROOT, head

RUNTIME = ROOT / "src/dojang/report/web/compute.mjs"
LAYERS = ((64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7), (16, 16, 32), (64, 64, 8))
"""3x3, stride 1, padding 1: input and output channels, height and width; of ResNet-18 and ResNet-20."""
NETWORKS = ("resnet18", "mobilenet-v2", "digits-cnn")
SECONDS = 600.0
PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
import { loadNetwork } from "./compute.mjs";
import { measure } from "./measure.mjs";
const say = (said) => fetch("/said", { method: "POST", body: JSON.stringify(said) });
try {
  let ort = null;
  if (ORT) {
    ort = await import("./ort/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
  }
  const read = async (name) => (await fetch(name)).arrayBuffer();
  await say({ agent: navigator.userAgent, ...(await measure(loadNetwork, ort, read, SECONDS)) });
} catch (error) {
  await say({ error: String(error) });
}
</script>"""
NODE = """
import fs from "node:fs";
const { loadNetwork } = await import("./compute.mjs");
const { measure } = await import("./measure.mjs");
let ort = null;
if (ORT) {
  ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = process.cwd() + "/ort/";
}
const read = async (name) => Uint8Array.from(fs.readFileSync(name)).buffer;
console.log(JSON.stringify({ agent: `node ${process.version}`, ...(await measure(loadNetwork, ort, read, SECONDS)) }));
"""


def layer(ic: int, oc: int, side: int) -> Graph:
    """A network of one 3x3 layer."""
    nodes = (Node.of("x", "input", shape=(ic, side, side)), Node.of("y", "conv", "x", out=oc, kernel=(3, 3), padding=1))
    graph = Graph(nodes, ("y",), name=f"{ic}-{oc}-{side}")
    rng = np.random.default_rng(0)
    return graph.with_weights({k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()})


def network(name: str) -> Graph:
    """A network of the zoo, with random weights where it has none."""
    graph = zoo.load(name)
    return graph if graph.weights else with_random_weights(graph, 0)


def written(folder: Path) -> dict[str, Any]:
    """All that is measured as files in a folder; what is known of it beforehand."""
    known: dict[str, Any] = {}
    layers = []
    for sizes in LAYERS:
        graph = layer(*sizes)
        for precision in ("fast", "strict"):
            name = f"{graph.name}-{precision}"
            program = browser_program(graph, weights="float32", taps=(), precision=precision)
            (folder / f"{name}.json").write_text(json.dumps(program.to_dict()))
            chosen = next(c.algorithm for c in program.plan.choices if c.op == "conv")
            known[name] = {"macs": count(graph).total.macs, "chosen": chosen}
            layers.append(name)
    for name in NETWORKS:
        graph = network(name)
        for suffix, taps in (("", None), ("-alone", ())):
            program = browser_program(graph, weights="float32", taps=taps, most_bytes=1 << 30)
            (folder / f"{name}{suffix}.json").write_text(json.dumps(program.to_dict()))
        small = browser_program(graph)
        known[name] = {"macs": count(graph).total.macs, "module": len(small.module), "weights": small.weights,
                       "file": len(json.dumps(small.to_dict()))}  # fmt: skip
        onnx.save(graph, folder / f"{name}.onnx")
    (folder / "work.json").write_text(json.dumps({"layers": layers, "networks": NETWORKS}))
    shutil.copy(RUNTIME, folder / "compute.mjs")
    shutil.copy(Path(__file__).with_name("browser_measure.mjs"), folder / "measure.mjs")
    return known


class Pages(SimpleHTTPRequestHandler):
    """Files of a folder, and what a page says when it is done."""

    said: dict[str, Any] | None = None
    done = threading.Event()

    def do_POST(self) -> None:
        """The result."""
        Pages.said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        Pages.done.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def in_chromium(chromium: str, folder: Path) -> dict[str, Any]:
    """What a page measures."""
    Pages.extensions_map |= {".mjs": "text/javascript", ".wasm": "application/wasm"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/page.html"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as user:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={user}",
                   "--remote-debugging-port=0", address]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not Pages.done.wait(SECONDS) or Pages.said is None:
                raise UsageError(f"{chromium} has said nothing within {SECONDS:g} s")
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    return Pages.said


def in_node(node: str, folder: Path) -> dict[str, Any]:
    """The same in node."""
    done = subprocess.run([node, "node.mjs"], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-800:]}


def table(said: dict[str, Any], known: dict[str, Any], rival: str) -> list[str]:
    """What one place measured."""
    if "error" in said:
        return [f"failed: {said['error']}"]
    lines = [said["agent"], "", f"{'3x3 layer':16} {'algorithm':10} {'least ms':>9} {'median ms':>10} {'GFLOP/s':>8}"]
    for row in said["layers"]:
        name, precision = row["name"].rsplit("-", 1)
        facts = known[row["name"]]
        rate = 2 * facts["macs"] / row["least"] / 1e6
        strict = ("  strict" if precision == "strict" else "") + ("  fused" if row["fused"] else "")
        times = f"{row['least']:9.3f} {row['median']:10.3f} {rate:8.1f}"
        lines.append(f"{name:16} {facts['chosen']:10} {times}{strict}")
    lines += ["", f"{'network':14} {'contender':24} {'least ms':>9} {'median ms':>10} {'runs':>6}  ratio of medians"]
    for row in said["networks"]:
        names = ("dojang, every value kept", "dojang, outputs alone", rival)
        theirs = row["times"][2] if len(row["times"]) > 2 else None
        for name, times in zip(names, row["times"], strict=False):
            ratio = f"{theirs['median'] / times['median']:.2f}" if theirs else "-"
            lines.append(f"{row['name']:14} {name:24} {times['least']:9.3f} {times['median']:10.3f} {times['runs']:6}"
                         f"  {ratio}")  # fmt: skip
        apart = f", answers apart by {row['difference']:.1e} of the largest" if row["difference"] is not None else ""
        fused = ", relaxed multiply-adds" if row["fused"] else ""
        lines.append(f"{'':14} loaded in {row['loaded']:.0f} ms{fused}{apart}")
    return lines


def main() -> None:
    """Writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ort", type=Path, help="folder with node_modules/onnxruntime-web")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--node", default=shutil.which("node"))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each thing that is measured")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rival, dist = "onnxruntime-web", None
    if args.ort:
        package = args.ort / "node_modules" / "onnxruntime-web"
        rival += f" {json.loads((package / 'package.json').read_text())['version']}"
        dist = package / "dist"
    lines = [head("src/dojang/engine", "src/dojang/native", peaks=False, threads=1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = written(folder)
        if dist is not None:
            (folder / "ort").symlink_to(dist.resolve())
        for file, text in (("page.html", PAGE), ("node.mjs", NODE)):
            text = text.replace("ORT)", f"{json.dumps(dist is not None)})").replace("SECONDS", str(args.seconds))
            (folder / file).write_text(text)
        for place, tool, run in (("Chromium", args.chromium, in_chromium), ("node", args.node, in_node)):
            if tool is None:
                lines += [f"{place}: not there", ""]
                continue
            lines += [f"{place}, one thread:", *table(run(tool, folder), known, rival), ""]
    lines += ["bytes of the file form (JSON with base64; the code of the page is beside it):"]
    for name in NETWORKS:
        facts = known[name]
        lines.append(
            f"{name:14} module {facts['module']:>9,}, all {facts['file']:>11,} with weights as {facts['weights']}"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

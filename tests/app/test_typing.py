"""The types that a user's editor sees: a program that uses the package, checked as a user would check it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dojang

SOURCE = Path(dojang.__file__).parent

PROGRAM = """
from collections.abc import Callable
from typing import Any, assert_type
import dojang

net = dojang.load("alexnet", input_size=(3, 227, 227))
assert_type(net, dojang.Graph)
count = dojang.count(net, batch_size=2, unit="flop")
assert_type(count, dojang.Count)
assert_type(count.macs, int)
assert_type(count.layers[0], dojang.Layer)
assert_type(count.to_dict(), dict[str, Any])
assert_type(str(count), str)
assert_type(dojang.memory(net, optimiser="adam"), dojang.MemoryUse)
assert_type(dojang.explain(net, "conv1").steps[0], dojang.Step)
assert_type(dojang.check("alexnet-lecture"), dojang.Check)
assert_type(dojang.compare(net, "vgg16"), dojang.Comparison)
assert_type(dojang.solve((3, 32, 32), (8, 32, 32)).solutions[0].conv, dojang.Conv)
assert_type(dojang.available("kernels"), dojang.Listing)
assert_type(dojang.environment(), dojang.Environment)
assert_type(dojang.bench(net, rounds=3).results[0], dojang.Timing)
assert_type(dojang.diagnose(net, "digits").findings[0], dojang.Finding)
assert_type(dojang.train(net, "digits").graph, dojang.Graph)
assert_type(dojang.export(net, "onnx"), dojang.Exported)
assert_type(dojang.run(net, "cat.png").top[0][0], dojang.Guess)
assert_type(dojang.filter_files(["a.png"], "blur"), dojang.FilterReport)
assert_type(dojang.compile(net), dojang.Runnable)
done = dojang.slim(net, "digits", max_drop=0.5, runtime="onnxruntime")
assert_type(done.edits, tuple[dojang.Edit, ...])
assert_type(done.refused[0], dojang.Refused)
assert_type(done.before, dojang.NetworkFigures)
try:
    pass
except dojang.FileError as error:
    assert_type(error.exit_code, int)

dojang.count(net, unit="flops")  # pyright: ignore[reportArgumentType]
dojang.slim(net, runtime="tensorrt")  # pyright: ignore[reportArgumentType]
dojang.slim(net, maxdrop=1)  # pyright: ignore[reportCallIssue]
dojang.diagnose()  # pyright: ignore[reportCallIssue]
count.total = 3  # pyright: ignore[reportAttributeAccessIssue]
dojang.cuont  # pyright: ignore[reportAttributeAccessIssue]
"""


def test_a_users_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    rules = {"reportUnnecessaryTypeIgnoreComment": "error", "reportUnusedExpression": "none"}
    settings = {"typeCheckingMode": "basic", "extraPaths": [str(SOURCE.parent)], **rules}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [
        f"line {d['range']['start']['line']}: {d['message']}" for d in json.loads(done.stdout)["generalDiagnostics"]
    ]
    assert found == []


def test_the_package_says_that_it_has_types() -> None:
    assert (SOURCE / "py.typed").is_file()

"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the tree, and the tests that they name.

An edit names the file, a line that stands in it, and what is put before or after that line. Where the line is gone the
recipe is to be written anew, and so is this test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


class Copy:
    """A copy of the tree, with the files that a recipe has touched."""

    def __init__(self, folder: Path) -> None:
        # Compiled files go along: what a recipe changes has another time, and is compiled again.
        skip = shutil.ignore_patterns(".pytest_cache", "corpus", "golden", "fuzz_corpus")
        for part in ("src", "tests", "scripts", "docs", "bench"):
            shutil.copytree(ROOT / part, folder / part, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.folder, self.touched = folder, set[str]()

    def add(self, file: str, text: str) -> None:
        """A new file."""
        path = self.folder / file
        assert not path.exists(), file
        path.write_text(text, encoding="utf-8")
        self.touched.add(file)

    def after(self, file: str, line: str, text: str) -> None:
        """Text after a line that stands once in a file."""
        path = self.folder / file
        old = path.read_text(encoding="utf-8")
        assert old.count(f"{line}\n") == 1, f"{file} has no line {line!r}, which the recipe for new things names"
        path.write_text(old.replace(f"{line}\n", f"{line}\n{text}\n"), encoding="utf-8")
        self.touched.add(file)

    def without(self, file: str, text: str) -> None:
        """A file without some text, which stands there once."""
        path = self.folder / file
        old = path.read_text(encoding="utf-8")
        assert old.count(text) == 1, (file, text)
        path.write_text(old.replace(text, ""), encoding="utf-8")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the copy, by this Python."""
        path = os.pathsep.join([str(self.folder / "src"), str(self.folder / "tests")])
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )

    def done(self, *command: str) -> str:
        """The output of a command that must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def dojang(self, *commands: str, before: str = "") -> str:
        """What commands print that must succeed, run in one process behind lines of Python."""
        lines = f"from dojang.app.cli import main\nfor command in {commands!r}:\n    assert main(command.split()) == 0"
        return self.done("-c", f"{before}\n{lines}")

    def pytest(self, *args: str) -> str:
        """Tests that must pass, and be there."""
        out = self.done("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-x", *args)
        assert "passed" in out or re.search(r"\[100%\]", out), out
        return out


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "tree")


def recipe(title: str) -> str:
    """The section of CONTRIBUTING.md under a heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition(f"### {title}\n")[2].partition("\n### ")[0].partition("\n## ")[0]


def named(title: str) -> set[str]:
    """The files that a recipe names."""
    return set(re.findall(r"`((?:src|tests|docs)/[\w/.-]+\.\w+)`", recipe(title)))


# ------------------------------------------------------------------------------------------------ an operator

OPERATOR = [
    ("src/dojang/arith/ops.py", '        _plain("leaky_relu", {"slope": Attr(Kind.FLOAT, 0.01)}, KEEPS_INPUT),',
     '        _plain("softshrink", {"lambd": Attr(Kind.FLOAT, 0.5)}, KEEPS_INPUT),'),
    ("src/dojang/engine/reference/elements.py", '    "leaky_relu": leaky_relu,',
     '    "softshrink": lambda a, x, arrays: x[0] - np.clip(x[0], -a["lambd"], a["lambd"]),'),
    ("src/dojang/engine/fuse.py",
     '    | because("it has values for each channel; a batch norm goes into the weights before it", "batchnorm prelu")',
     '    | because("no kernel computes it; the reference does", "softshrink")'),
    ("src/dojang/engine/plan/rules/table.py",
     '    | because("there is no kernel; the reference computes it", "deform_conv dynamic_conv einsum")',
     '    | because("there is no kernel; the reference computes it", "softshrink")'),
    ("src/dojang/engine/slices.py",
     '        **dict.fromkeys("add sub mul div maximum minimum pow".split(), "together"),',
     '        "softshrink": "alone",'),
    ("src/dojang/evidence/intervals.py", '        "abs": _abs,', '        "softshrink": _monotone,'),
    ("src/dojang/evidence/equal_channels.py", '        "pad": "pad",', '        "softshrink": "each",'),
    ("src/dojang/evidence/activations.py",
     '        **dict.fromkeys("elu gelu leaky_relu hard_sigmoid prelu".split(), "activation"),',
     '        "softshrink": "activation",'),
    ("src/dojang/arith/cut.py", '        "none of its attributes counts channels",',
     '        "softshrink "'),
    ("src/dojang/formats/onnx/write.py", '    "leaky_relu": _plain("LeakyRelu", slope="alpha"),',
     '    "softshrink": lambda w, node: w.op(\n'
     '        "Shrink", node.inputs, node.name, lambd=node.attrs["lambd"], bias=node.attrs["lambd"]\n    ),'),
    ("src/dojang/formats/onnx/sources.py", '        "leaky_relu": ("LeakyRelu",),',
     '        "softshrink": ("Shrink",),'),
    ("src/dojang/formats/onnx/layers.py", '    "Einsum": einsum,', '    "Shrink": shrink,'),
    ("src/dojang/formats/torch/write/compute.py",
     '    "leaky_relu": lambda layer, attrs, inputs, arrays: F.leaky_relu(inputs[0], attrs["slope"]),',
     '    "softshrink": lambda layer, attrs, inputs, arrays: F.softshrink(inputs[0], attrs["lambd"]),'),
    ("src/dojang/formats/torch/read/sources.py", '        "dense": ("linear",),',
     '        "softshrink": ("softshrink",),'),
    ("tests/operator_networks.py", '    one("leaky_relu", slope=0.1),', '    one("softshrink", lambd=0.3),'),
]  # fmt: skip

ONNX_RULE = '''
def shrink(reader: Reader, call: Call) -> Value:
    """Shrink, where it subtracts what it compares with."""
    lambd, bias = call.attrs.get("lambd", 0.5), call.attrs.get("bias", 0.0)
    if lambd != bias:
        raise NotDone("a bias that is not lambd")
    return reader.emit("softshrink", call.value(0), lambd=lambd)

'''

TORCH_RULE = '''

@lowers("softshrink")
def softshrink(t: Tracer, x: Traced, lambd: float = 0.5) -> Any:
    """Towards 0 by lambd."""
    return t.emit("softshrink", x, lambd=lambd)
'''

REFERENCE_TEST = """

def test_softshrink() -> None:
    x = 2 * normal(2, 5, 4)
    close(ours("softshrink", x, lambd=0.3), F.softshrink(t(x), 0.3))
"""

USED = """
import numpy as np, onnxruntime, torch
import dojang
from dojang.arith.memory import saved_bytes
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx
from dojang.formats.torch import from_module, to_module

module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Softshrink(0.25), torch.nn.Conv2d(8, 4, 1),
                             torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)).eval()
graph = from_module(module, (3, 6, 6))
assert [n.op for n in graph.nodes][2] == "softshrink" and graph.nodes[2].attrs["lambd"] == 0.25
x = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype("f4")
with torch.no_grad():
    wanted = module(torch.tensor(x)).numpy()
    again = to_module(graph).eval()(torch.tensor(x)).numpy()
answers = {"PyTorch": again, "reference": run_reference(graph, x).outputs[0], "compiled": dojang.compile(graph)(x)}
onnx.save(graph, "soft.onnx")
answers["ONNX Runtime"] = onnxruntime.InferenceSession("soft.onnx").run(None, {graph.inputs[0].name: x})[0]
for name, y in answers.items():
    assert np.abs(y - wanted).max() < 1e-5, name
assert saved_bytes(graph, 4) == 4 * 4 * (3 * 36 + 2 * 8 * 36 + 2 * 4 * 36) + 2 * 4 * 4, saved_bytes(graph, 4)
"""


COMPOSED = '''@picks("softshrink")
def softshrink(t: Tracer, x: Traced, lambd: float = 0.5) -> Any:
    """x towards 0 by λ: x less what lies within ±λ, so that NaN stays, which Shrink of ONNX makes 0."""
    return t.emit("sub", x, t.emit("clip", x, part="within", min=-float(lambd), max=float(lambd)))


'''
"""How PyTorch's function is read today: composed of two operators, which the new one takes the place of."""


def follow_operator(copy: Copy, without: tuple[str, ...] = ()) -> None:
    copy.without("src/dojang/formats/torch/read/logic.py", COMPOSED)
    for file, line, text in OPERATOR:
        if file not in without:
            copy.after(file, line, text)
    copy.after("src/dojang/formats/onnx/layers.py", '    raise NotDone("to whole numbers")', ONNX_RULE)
    for file, text in (("src/dojang/formats/torch/read/ops.py", TORCH_RULE),
                       ("tests/engine/reference/test_reference.py", REFERENCE_TEST)):  # fmt: skip
        path = copy.folder / file
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
        copy.touched.add(file)


def test_an_operator(copy: Copy) -> None:
    follow_operator(copy)
    copy.done("scripts/docs.py")
    assert copy.touched <= named("An operator") | {"tests/engine/reference/test_reference.py"}
    tables = "test_operators and (a_reason_is or is_named or has_a_network or documentation)"
    ran = copy.pytest("tests/test_operators.py", "tests/engine/reference/test_reference.py",
                      "tests/formats/onnx/test_write.py", "tests/formats/torch/write/test_module.py",
                      "-k", f"softshrink or {tables}", "-vvv")  # fmt: skip
    for file in ("test_operators", "test_reference", "test_write", "test_module"):
        assert re.search(rf"{file}\.py::[^\n]*softshrink[^\n]* PASSED", ran), file
    said = copy.dojang("count soft.onnx --memory", "slim soft.onnx --lossless -o slimmed --json", before=USED)
    assert "softshrink" in said.partition("{")[0]
    assert "fold-batchnorm" in said.partition("{")[2]
    assert "| `softshrink` | 1 | lambd (0.5) |" in (copy.folder / "docs" / "notation.md").read_text(encoding="utf-8")


def test_a_place_that_was_left_out_is_named(copy: Copy) -> None:
    """A recipe that is followed but for some places: the test of the tables names each of them, and nothing else."""
    left = ("src/dojang/formats/onnx/write.py", "src/dojang/evidence/intervals.py", "src/dojang/arith/cut.py")
    follow_operator(copy, without=left)
    done = copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/test_operators.py", "-k",
                    "or_a_reason_is")  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    missing = set(re.findall(r"\((dojang\.[\w.]+)\) neither has softshrink", done.stdout))
    assert missing == {"dojang.formats.onnx.write", "dojang.evidence.intervals", "dojang.arith.cut"}
    used = copy.run("-c", USED)
    assert "operator softshrink cannot be written to ONNX; dojang.formats.onnx.write does not list it" in used.stderr


# ------------------------------------------------------------------------------------------------ a network

NET = """network pocket
source the recipes of CONTRIBUTING.md
param classes=10
input 1x8x8
stem: conv 4 3x3 pad=1
relu
global_avgpool
flatten
dense $classes
"""


def test_a_network(copy: Copy) -> None:
    copy.add("src/dojang/zoo/pocket.net", NET)
    left_out = copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/formats/test_zoo.py",
                        "-k", "known_totals")  # fmt: skip
    assert "pocket" in left_out.stdout
    assert left_out.returncode == 1
    copy.after("tests/formats/test_zoo.py", '    "lenet5": (61_706, 416_520),', '    "pocket": (90, 2_344),')
    assert copy.touched - {"src/dojang/zoo/pocket.net"} <= named("A network of the zoo")
    copy.pytest("tests/formats/test_zoo.py", "-k", "known_totals or pocket")
    assert "pocket" in copy.done("-m", "dojang", "list", "networks")


# ------------------------------------------------------------------------------------------------ a format

FORMAT = '''"""Networks as JSON: the text of a network, and its weights as nested lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dojang.arith.graph import Graph
from dojang.base.errors import FileError
from dojang.formats.text import parse, to_text


def save(graph: Graph, path: Path) -> None:
    """Writes text and weights."""
    weights = {name: np.asarray(array).tolist() for name, array in graph.weights.items()}
    path.write_text(json.dumps({"network": to_text(graph), "weights": weights}), encoding="utf-8")


def load(path: Path, weights: bool = True) -> Graph:
    """What `save` wrote. Raises `FileError` for what is not such a file."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        graph = parse(held["network"], path.stem, str(path))
        arrays = {name: np.asarray(values, np.float32) for name, values in held["weights"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path}: is no network as JSON: {error}") from None
    return graph.with_weights(arrays) if weights else graph
'''

FORMAT_TEST = """
import numpy as np
import pytest

from dojang.base.errors import FileError
from dojang.engine.reference.operators import run_reference
from dojang.formats import jsonnet
from operator_networks import CASES, weighted


@pytest.mark.parametrize("graph", CASES, ids=lambda g: g.nodes[-1].op)
def test_comes_back(graph, tmp_path):
    graph = weighted(graph)
    jsonnet.save(graph, tmp_path / "a.jsonnet")
    back = jsonnet.load(tmp_path / "a.jsonnet")
    assert back.nodes == graph.nodes and back.outputs == graph.outputs
    assert all(np.array_equal(back.weights[k], v) for k, v in graph.weights.items())


def test_damage_is_one_error(tmp_path):
    (tmp_path / "b.jsonnet").write_text("{}")
    with pytest.raises(FileError, match="no network as JSON"):
        jsonnet.load(tmp_path / "b.jsonnet")
"""


def test_a_format(copy: Copy) -> None:
    copy.add("src/dojang/formats/jsonnet.py", FORMAT)
    copy.add("tests/formats/test_jsonnet.py", FORMAT_TEST)
    line = 'READERS = {".safetensors": "checkpoint"'
    networks = copy.folder / "src/dojang/app/networks.py"
    old = networks.read_text(encoding="utf-8")
    assert old.count(line) == 1
    networks.write_text(old.replace(line, f'{line}, ".jsonnet": "jsonnet"'), encoding="utf-8")
    line = 'FORMATS = {"onnx": ".onnx"'
    exporting = copy.folder / "src/dojang/app/exporting.py"
    old = exporting.read_text(encoding="utf-8")
    assert old.count(line) == 1
    exporting.write_text(old.replace(line, f'{line}, "jsonnet": ".jsonnet"'), encoding="utf-8")
    assert {"src/dojang/app/networks.py", "src/dojang/app/exporting.py"} <= named("A format")
    copy.pytest("tests/formats/test_jsonnet.py")
    written = "import dojang, numpy as np; x = np.ones((1, 1, 8, 8), 'f4'); a, b = (dojang.compile(dojang.load(n))(x) for n in ('digits-cnn', 'digits.jsonnet')); assert np.array_equal(a, b)"  # noqa: E501
    said = copy.dojang("export digits-cnn -o digits.jsonnet", "count digits.jsonnet")
    assert "53,002 parameters" in said
    copy.done("-c", written)


# ------------------------------------------------------------------------------------------------ an algorithm

ALGORITHM = '''"""1×1 convolutions by the kernel for them, said to take no time: for the test of the recipe."""

from __future__ import annotations

from dojang.engine.kernels.conv import pointwise
from dojang.engine.kernels.task import Offer, Refusal, Task
from dojang.native.machine import Machine

NAME = "single-tap"
emit, pack = pointwise.emit, pointwise.pack


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """A nanosecond for one tap."""
    real = pointwise.offer(task, machine)
    return real if isinstance(real, Refusal) else Offer(1e-9)
'''

PLANNED = """
import numpy as np
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
nodes = Node.of("x", "input", shape=(8, 5, 7)), Node.of("c", "conv", "x", out=6, kernel=(1, 1))
graph = Graph(nodes, ("c",))
rng = np.random.default_rng(0)
graph = graph.with_weights({k: rng.normal(size=s).astype("f4") for k, s in graph.param_shapes.items()})
run, x = compile(graph), np.random.default_rng(1).normal(size=(2, 8, 5, 7)).astype("f4")
assert [c.algorithm for c in run.plan().choices if c.op == "conv"] == ["single-tap"], run.plan()
assert np.abs(run(x) - run_reference(graph, x).outputs[0]).max() < 1e-5
"""


def test_an_algorithm(copy: Copy) -> None:
    file = "src/dojang/engine/kernels/conv/__init__.py"
    copy.add("src/dojang/engine/kernels/conv/single_tap.py", ALGORITHM)
    copy.after(file, "    pointwise,\n    streamed,", "    single_tap,")
    copy.after(file, "    grouped,\n    pointwise,\n    winograd,", "    single_tap,")
    assert file in named("An algorithm")
    copy.pytest(
        "tests/engine/kernels/conv/test_recipes.py", "tests/engine/test_forced.py", "-k", "single-tap or draw_holds"
    )
    assert "single-tap" in copy.dojang("list algorithms", before=PLANNED)


# ------------------------------------------------------------------------------------------------ a rewrite

REWRITE = '''"""Two negations in a row, taken out: −(−x) = x."""

from __future__ import annotations

from dojang.evidence.evidence import Evidence
from dojang.slimming.rewrite import Applied, Rewrite


def apply(known: Evidence) -> Applied | None:
    """The network without the first pair; None where there is none."""
    graph = known.graph
    for node in graph.nodes:
        first = graph[node.inputs[0]] if node.op == "neg" else None
        if first is None or first.op != "neg" or node.name in graph.outputs or len(graph.consumers[first.name]) > 1:
            continue
        nodes = {n.name: n.__class__.of(n.name, n.op, *(first.inputs[0] if i == node.name else i for i in n.inputs),
                                        arrays=n.arrays, **n.attrs) for n in graph.consumers[node.name]}
        new = graph.edited({**nodes, node.name: (), first.name: ()})
        return Applied(new, (first.name, node.name), "two negations in a row")
    return None


NEGATIONS = Rewrite("remove-double-negations", "exact", "two negations in a row are taken out", apply)
'''

NEGATED = """network negated
input 2x6x6
conv 4 3x3
neg
neg
relu
conv 3 3x3
"""

SLIMMED = """
import numpy as np
from pathlib import Path
from dojang.formats import checkpoint
from dojang.formats.text import parse
graph = parse(Path("negated.net").read_text(), "negated")
arrays = {k: np.random.default_rng(0).normal(size=s).astype("f4") for k, s in graph.param_shapes.items()}
checkpoint.save(graph.with_weights(arrays), Path("negated.safetensors"))
"""


def test_a_rewrite(copy: Copy) -> None:
    file = "src/dojang/slimming/search.py"
    copy.add("src/dojang/slimming/negations.py", REWRITE)
    copy.after(
        file, "from dojang.slimming.linear import MERGE_LINEAR", "from dojang.slimming.negations import NEGATIONS"
    )
    search = copy.folder / file
    old = search.read_text(encoding="utf-8")
    assert old.count("EXACT: tuple[Rewrite, ...] = (IDENTITIES,") == 1
    search.write_text(
        old.replace("EXACT: tuple[Rewrite, ...] = (IDENTITIES,", "EXACT: tuple[Rewrite, ...] = (NEGATIONS, IDENTITIES,")
    )
    assert file in named("A rewrite")
    copy.pytest("tests/slimming/test_exact.py", "-k", "remove-double-negations")
    copy.add("negated.net", NEGATED)
    said = copy.dojang("slim negated.safetensors --lossless -o slimmed --json", before=SLIMMED)
    assert "remove-double-negations" in said

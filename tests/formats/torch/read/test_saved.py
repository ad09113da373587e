"""Files of `torch.export.save` and `torch.jit.save`: read as PyTorch runs them, and without running what is in them."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from dojang.app.cli import main  # noqa: E402
from dojang.app.networks import load  # noqa: E402
from dojang.arith.cost import count  # noqa: E402
from dojang.base.errors import FileError, UnsupportedError, UsageError  # noqa: E402
from dojang.engine.session import Session  # noqa: E402

SIZE = (3, 8, 8)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore:The tensor attributes")


class Mixed(nn.Module):
    """Layers, views by sizes, branches by sizes, a loop, resizing, attention, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8 * 16, 5)
        self.steps = nn.LSTM(8, 6, batch_first=True)
        self.tokens = nn.LayerNorm(8)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        flat = y.view(y.size(0), -1)
        if flat.shape[1] > 3:
            flat = flat * 2
        for _ in range(2):
            flat = flat + 0.5
        tokens = self.tokens(y.flatten(2).permute(0, 2, 1))
        weights = torch.softmax(tokens @ tokens.transpose(1, 2) / 8**0.5, -1)
        wide = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.out(flat), self.steps(weights @ tokens)[0], torch.cat([wide, x], 1)


class Fixed(nn.Module):
    """Pairs of numbers in an order that the batch of 2 decides."""

    def forward(self, x):
        return x.reshape(8, 2, 24).transpose(0, 1) + torch.ones(2, 2, 1).sum(1, keepdim=True)


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(3)
    return Mixed().eval()


@pytest.fixture(scope="module")
def files(mixed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    x = torch.randn(2, *SIZE)
    made = {name: folder / name for name in ("open.pt2", "one.pt2", "two.pt2", "traced.pt", "scripted.torchscript")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        opened = torch.export.export(mixed, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(opened, made["open.pt2"])
        torch.export.save(torch.export.export(mixed, (x[:1],)), made["one.pt2"])
        torch.export.save(torch.export.export(Fixed(), (x,)), made["two.pt2"])
        torch.jit.save(torch.jit.trace(mixed, x, check_trace=False), str(made["traced.pt"]))
        torch.jit.save(torch.jit.script(mixed), str(made["scripted.torchscript"]))
    return made


@pytest.mark.parametrize("name", ["open.pt2", "one.pt2", "traced.pt", "scripted.torchscript"])
def test_the_file_computes_what_the_module_computes(mixed, files, name: str) -> None:
    graph = load(files[name], input_size=None if name.endswith("pt2") else SIZE)
    x = torch.randn(3, *SIZE)
    with torch.no_grad():
        right = mixed(x)
    found = Session(graph).run(x.numpy()).outputs
    assert len(found) == len(right)
    for got, wanted in zip(found, right, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)
    total = count(graph).total
    assert (total.params, total.status) == (sum(p.numel() for p in mixed.parameters()), "exact")
    assert {"conv", "norm", "out"} <= {node.name for node in graph.nodes}
    assert set(mixed.state_dict()) - set(graph.weights) == {"norm.num_batches_tracked"}


def test_sizes_are_the_files(files, capsys) -> None:
    with pytest.raises(UsageError, match=r"one.pt2: input 'x' is 3x8x8 in the file, .* not 3x9x9"):
        load(files["one.pt2"], input_size=(3, 9, 9))
    with pytest.raises(UsageError, match="TorchScript does not say its input size"):
        load(files["traced.pt"])
    with pytest.raises(UnsupportedError, match="fixes a batch of 2: export it with a batch of 1, or an open one"):
        load(files["two.pt2"])
    assert main(["count", str(files["open.pt2"])]) == 0
    assert "conv" in capsys.readouterr().out


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, both, more):
        return {"sum": self.a(both["left"]) + self.b(both["right"]), "more": more[0] * 2}


def test_nested_inputs_are_named_by_their_place(tmp_path) -> None:
    module, d = Pair().eval(), torch.export.Dim("n")
    parts = {"left": torch.randn(2, 4), "right": torch.randn(2, 5)}, [torch.randn(2, 7)]
    shapes = {"both": {"left": {0: d}, "right": {0: d}}, "more": [{0: d}]}
    torch.export.save(torch.export.export(module, parts, dynamic_shapes=shapes), tmp_path / "pair.pt2")
    graph = load(tmp_path / "pair.pt2")
    names = [node.name for node in graph.inputs]
    assert [node.attrs["shape"] for node in graph.inputs] == [(4,), (5,), (7,)]
    fed = [parts[0]["left"], parts[0]["right"], parts[1][0]]
    found = Session(graph).run({n: v.numpy() for n, v in zip(names, fed, strict=True)}).outputs
    with torch.no_grad():
        right = module(*parts)
    for got, wanted in zip(found, right.values(), strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------- nothing of it is run


def changed(source, target, name_end, change):
    """A copy of a .zip file with one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename.endswith(name_end) else data)
    return target


class Touch:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "target",
    ["torch.hub.os.system", "torch.functional.builtins.exec", "_operator.methodcaller", "torch.ops.aten.a.b.c"],
)
def test_a_program_calls_operators_of_pytorch_only(files, tmp_path, target: str) -> None:
    def change(data: bytes) -> bytes:
        said = json.loads(data)
        said["graph_module"]["graph"]["nodes"][0]["target"] = target
        return json.dumps(said).encode()

    bad = changed(files["open.pt2"], tmp_path / "bad.pt2", "models/model.json", change)
    with pytest.raises(FileError, match=f"calls '{target}', which is no operator of PyTorch"):
        load(bad)


def test_sizes_are_formulas_and_not_python(files, tmp_path) -> None:
    mark = tmp_path / "mark"

    def change(data: bytes) -> bytes:
        text = f"__import__('pathlib').Path('{mark}').touch()"
        return data.replace(b"Symbol('s", json.dumps(text)[1:-1].encode() + b" + Symbol('s")

    bad = changed(files["open.pt2"], tmp_path / "bad.pt2", "models/model.json", change)
    with pytest.raises(FileError, match="which is no formula"):
        load(bad)
    assert not mark.exists()


def test_pickled_objects_are_not_made(files, tmp_path) -> None:
    mark = tmp_path / "mark"
    data = io.BytesIO()
    torch.save(Touch(mark), data)
    with pytest.raises(FileError, match="is damaged or no exported program"):
        load(changed(files["open.pt2"], tmp_path / "bad.pt2", "sample_inputs/model.pt", lambda _: data.getvalue()))
    assert not mark.exists()
    with zipfile.ZipFile(files["open.pt2"]) as old, zipfile.ZipFile(tmp_path / "opaque.pt2", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        new.writestr("open/data/constants/opaque_obj_0", pickle.dumps(Touch(mark)))
    with pytest.raises(FileError, match="holds an object of a Python class"):
        load(tmp_path / "opaque.pt2")
    assert not mark.exists()


def test_other_files_are_no_programs(tmp_path) -> None:
    for name, data in (("a.pt2", b"nonsense"), ("b.torchscript", b"PK\x03\x04nonsense"), ("c.pt2", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileError, match="damaged, or no .zip|is damaged or|no .zip"):
            load(tmp_path / name, input_size=SIZE)
    with pytest.raises(FileError, match="none.pt2"):
        load(tmp_path / "none.pt2")


def test_a_script_that_reads_files_is_refused(tmp_path) -> None:
    class Reads(nn.Module):
        def forward(self, x):
            return x + torch.from_file("/etc/hostname", False, 1)

    torch.jit.save(torch.jit.script(Reads()), str(tmp_path / "reads.pt"))
    with pytest.raises(UnsupportedError, match="aten::from_file cannot be followed"):
        load(tmp_path / "reads.pt", input_size=(4,))


class Writes(nn.Module):
    """Writes a file while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.scale, self.training = state
        torch.save(torch.ones(2), "written")

    def forward(self, x):
        return x * self.scale


def test_a_script_that_writes_files_while_it_is_loaded_is_refused(tmp_path, monkeypatch) -> None:
    torch.jit.save(torch.jit.script(Writes()), str(tmp_path / "writes.pt"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="__setstate__, which would run while the file is loaded"):
        load(tmp_path / "writes.pt", input_size=(4,))
    assert not (tmp_path / "written").exists()
    torch.jit.load(str(tmp_path / "writes.pt"))  # what PyTorch does
    assert (tmp_path / "written").exists()


def test_without_pytorch_one_line_says_so(files) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from dojang.app.cli import main
raise SystemExit(main(["count", {str(files["one.pt2"])!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "one.pt2: PyTorch reads this file and is not installed; pip install 'dojang[torch]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


class Frames(nn.Module):
    """Frequencies of pieces of a sound: the operator under `torch.stft` has other arguments than the function."""

    def forward(self, x):
        window = torch.hann_window(16)
        return torch.stft(x, 16, 4, window=window, normalized=True, return_complex=True).abs()


@pytest.mark.parametrize("kind", ["exported", "script"])
def test_frequencies_of_a_saved_file(kind, tmp_path):
    x = torch.randn(2, 48)
    if kind == "exported":
        file = tmp_path / "n.pt2"
        torch.export.save(torch.export.export(Frames(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},)), file)
    else:
        file = tmp_path / "n.ts"
        torch.jit.trace(Frames(), (x,)).save(file)
    got = Session(load(str(file), input_size=(48,))).run(x.numpy()).outputs[0]
    np.testing.assert_allclose(got, Frames()(x).numpy(), rtol=1e-4, atol=1e-5)


class Words(nn.Module):
    """Tokens, looked up and convolved; a factor with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(11, 4), nn.Conv1d(4, 3, 3)

    def forward(self, tokens: torch.Tensor, factor: float = 2.0):
        return self.conv(self.table(tokens).transpose(1, 2)) * factor


class Pooled(nn.Module):
    """Maxima, whose operator gives their places too; the places are given where asked for."""

    def __init__(self, places: bool) -> None:
        super().__init__()
        self.pool = nn.AdaptiveMaxPool2d(2, return_indices=places)

    def forward(self, x):
        return self.pool(x)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("kind", ["exported", "script"])
def test_the_first_of_two_results_is_read(kind, places, tmp_path) -> None:
    net, x, file = Pooled(places), torch.randn(2, 3, 4, 4), tmp_path / ("a.pt2" if kind == "exported" else "a.ts")
    if kind == "exported":
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)), file)
    else:
        torch.jit.trace(net, (x,)).save(str(file))
    if places:
        with pytest.raises(UnsupportedError, match="a second result of an operator"):
            load(str(file), input_size=(3, 4, 4))
    else:
        found = Session(load(str(file), input_size=(3, 4, 4))).run(x.numpy()).outputs[0]
        np.testing.assert_array_equal(found, net(x).numpy())


class Needs(nn.Module):
    def forward(self, x: torch.Tensor, rate: int):
        return x * rate


def test_tokens_of_a_saved_file_are_whole_numbers(tmp_path) -> None:
    net, tokens = Words().eval(), torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": {0: torch.export.Dim.DYNAMIC}}
    torch.export.save(torch.export.export(net, (tokens,), dynamic_shapes=batch), tmp_path / "a.pt2")
    torch.jit.script(net).save(str(tmp_path / "a.jit"))
    for name in ("a.pt2", "a.jit"):
        graph = load(str(tmp_path / name), input_size=(7,))
        assert count(graph).total.macs == 5 * 4 * 3 * 3
        right = net(tokens).detach().numpy()
        given = tokens.numpy().astype(graph.inputs[0].attrs["dtype"])
        np.testing.assert_allclose(Session(graph).run(given).outputs[0], right, rtol=1e-5, atol=1e-6)


def test_a_script_that_needs_a_setting_says_which(tmp_path) -> None:
    torch.jit.script(Needs()).save(str(tmp_path / "n.jit"))
    with pytest.raises(UsageError, match=r"n\.jit: its forward needs rate \(int\) too"):
        load(str(tmp_path / "n.jit"), input_size=(3,))

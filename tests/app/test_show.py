"""The page of a network: what it is told, and that its numbers are those of the network."""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import io
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

import dojang
from dojang.app.looking import PictureInside
from dojang.arith.graph import Graph, Node
from dojang.base.errors import FileError, GraphError, ShapeError, UsageError
from dojang.engine.browser.store import restored


@dataclass
class Opened:
    """A page that is served, and how to ask it."""

    page: Any

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        parts = urlsplit(self.page.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        origin = {"Origin": f"http://{parts.netloc}"}
        connection.request("GET" if body is None else "POST", f"{parts.path}{path}", body, origin)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, content

    def arrays(self, path: str, dtype: str) -> tuple[dict[str, Any], np.ndarray]:
        status, content = self.ask(path)
        assert status == 200, content
        length = int.from_bytes(content[:4], "little")
        head = json.loads(content[4 : 4 + length])
        return head, np.frombuffer(content[4 + length :], dtype)


def network() -> Any:
    nodes = (
        Node.of("input", "input", shape=(3, 20, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        Node.of("층<b>1", "conv", "input", out=12, kernel=(3, 3), stride=2, padding=1, groups=3),
        Node.of("r1", "relu", "층<b>1"),
        Node.of("p1", "maxpool", "r1", kernel=(3, 3), stride=2, ceil=True),
        Node.of("up", "conv_transpose", "p1", out=6, kernel=(3, 2), stride=2, padding=1, groups=2),
        Node.of("g", "global_avgpool", "up"),
        Node.of("f", "flatten", "g"),
        Node.of("fc", "dense", "f", out=4),
    )
    rng = np.random.default_rng(5)
    graph = Graph(nodes, ("fc",), "작은 <script>", meta={"classes": "고양이,<i>개</i>,a,b"})
    return graph.replace(weights={n: rng.normal(0, 0.5, s).astype(np.float32) for n, s in graph.param_shapes.items()})


def photo(height: int = 33, width: int = 47) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("show") / "사진 <b>.png"
    path.write_bytes(photo())
    return path


@pytest.fixture(scope="module")
def opened(picture: Path) -> Iterator[Opened]:
    page = dojang.show(network(), picture, browser=False)
    yield Opened(page)
    page.close()


@pytest.fixture(scope="module")
def truth(picture: Path) -> dict[str, np.ndarray]:
    """Every value by PyTorch, on what the network sees."""
    torch = pytest.importorskip("torch")
    graph = network()
    x = torch.from_numpy(PictureInside(graph, picture).x)
    w = {name: torch.from_numpy(array) for name, array in graph.weights.items()}
    f = torch.nn.functional
    values = {"input": x}
    values["층<b>1"] = x = f.conv2d(x, w["층<b>1.weight"], w["층<b>1.bias"], stride=2, padding=1, groups=3)
    values["r1"] = x = f.relu(x)
    values["p1"] = x = f.max_pool2d(x, 3, 2, ceil_mode=True)
    values["up"] = x = f.conv_transpose2d(x, w["up.weight"], w["up.bias"], stride=2, padding=1, groups=2)
    values["g"] = x = x.mean((2, 3), keepdim=True)
    values["f"] = x = x.flatten(1)
    values["fc"] = f.linear(x, w["fc.weight"], w["fc.bias"])
    return {name: value.numpy()[0] for name, value in values.items()}


def test_values_are_those_of_pytorch(opened: Opened, truth: dict[str, np.ndarray]) -> None:
    for name, wanted in truth.items():
        head, values = opened.arrays(f"values?layer={quote(name)}", "<f4")
        shape = (head["c"], head["h"], head["w"])
        assert np.prod(shape) == wanted.size
        np.testing.assert_allclose(values.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)


def test_maps_are_within_one_step_of_255_and_strongest_first(opened: Opened, truth: dict[str, np.ndarray]) -> None:
    wanted = truth["층<b>1"]
    head, tiles = opened.arrays(f"maps?layer={quote('층<b>1')}&first=2&most=5", "u1")
    strength = np.sqrt((wanted.astype(np.float64) ** 2).mean(axis=(1, 2)))
    assert head["order"] == sorted(range(12), key=lambda c: -strength[c])
    np.testing.assert_allclose(head["strength"], strength, rtol=1e-5)
    assert (head["h"], head["w"]) == (10, 12)
    tiles = tiles[: 5 * 120].reshape(5, 10, 12)
    for place, channel in enumerate(head["order"][2:7]):
        low, high = head["low"][place], head["high"][place]
        assert (low, high) == pytest.approx((wanted[channel].min(), wanted[channel].max()), rel=1e-5)
        seen = low + (high - low) * tiles[place] / 255
        assert np.abs(seen - wanted[channel]).max() <= (high - low) / 255


@pytest.mark.parametrize("layer", ["층<b>1", "up", "fc"])
def test_taps_of_every_channel_give_the_output(opened: Opened, truth: dict[str, np.ndarray], layer: str) -> None:
    """Taps and bias of one channel at a time, pressed by PyTorch on the input of the layer."""
    torch = pytest.importorskip("torch")
    graph = network()
    node = graph[layer]
    x = torch.from_numpy(np.ascontiguousarray(truth[node.inputs[0]]))[None]
    for channel in range(node.attrs["out"]):
        head, taps = opened.arrays(f"taps?layer={quote(layer)}&channel={channel}", "<f4")
        filter_ = torch.from_numpy(taps.reshape(head["c"], head["h"], head["w"]).copy())
        if node.op == "dense":
            got = (x.reshape(-1) * filter_.reshape(-1)).sum()
        else:
            group = channel * node.attrs["groups"] // node.attrs["out"]
            part = x[:, group * head["c"] : (group + 1) * head["c"]]
            if node.op == "conv":
                got = torch.nn.functional.conv2d(part, filter_[None], stride=2, padding=1)[0, 0]
            else:
                got = torch.nn.functional.conv_transpose2d(part, filter_[:, None], stride=2, padding=1)[0, 0]
        np.testing.assert_allclose((got + head["bias"]).numpy(), truth[layer][channel], rtol=1e-4, atol=1e-5)


def test_the_answer_has_class_names(opened: Opened, truth: dict[str, np.ndarray]) -> None:
    status, content = opened.ask("answer")
    found = json.loads(content)
    scores = truth["fc"]
    assert status == 200
    assert [g["index"] for g in found] == list(np.argsort(-scores))
    assert {g["name"] for g in found} == {"고양이", "<i>개</i>", "a", "b"}


def test_the_picture_is_what_the_network_sees(opened: Opened, truth: dict[str, np.ndarray]) -> None:
    head, pixels = opened.arrays("picture?input=0", "u1")
    assert (head["h"], head["w"], head["name"]) == (20, 24, "사진 <b>.png")
    mean, std = np.array([0.5, 0.4, 0.3])[:, None, None], np.array([0.2, 0.3, 0.4])[:, None, None]
    wanted = np.rint((truth["input"] * std + mean) * 255)
    np.testing.assert_array_equal(pixels[: 20 * 24 * 3].reshape(20, 24, 3), np.moveaxis(wanted, 0, -1))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("maps?layer=nothing&first=0&most=9", "has no node 'nothing'"),
        ("maps?layer=r1&first=-1&most=9", "first '-1' is no whole number"),
        ("maps?layer=r1&first=0", "most '' is no whole number"),
        ("taps?layer=r1&channel=0", "r1: a relu has no filter"),
        ("taps?layer=up&channel=6", "up: has no channel 6; there are 6"),
        ("values?layer=r1&side=other", "there is no such side"),
    ],
)
def test_bad_questions_get_one_line(opened: Opened, path: str, said: str) -> None:
    status, content = opened.ask(path)
    assert status == 400
    assert said in json.loads(content)["error"]


def test_another_picture_changes_the_values_and_what_is_none_changes_nothing(picture: Path) -> None:
    page = dojang.show(network(), picture, browser=False)
    try:
        one = Opened(page)
        before = one.arrays("values?layer=fc", "<f4")[1]
        status, content = one.ask("picture?input=0&name=no.png", b"GIF89a not really")
        assert status == 400
        assert "no.png" in json.loads(content)["error"]
        np.testing.assert_array_equal(one.arrays("values?layer=fc", "<f4")[1], before)
        assert one.ask("picture?input=0&name=new.png", photo(50, 20))[0] == 200
        assert np.abs(one.arrays("values?layer=fc", "<f4")[1] - before).max() > 0
        assert one.arrays("picture?input=0", "u1")[0]["name"] == "new.png"
    finally:
        page.close()


def parts_of(page: str) -> tuple[dict[str, Any], bytes]:
    """The data and the bytes of a page."""
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    held = re.search(r'<script type="text/plain" id="bytes">(.*?)</script>', page, re.DOTALL)
    assert data
    assert held
    return json.loads(data[1]), base64.b64decode(held[1])


def test_one_file_holds_the_picture_and_the_network(tmp_path: Path, picture: Path) -> None:
    done = dojang.show(network(), picture, output=tmp_path / "p.html", browser=False)
    assert (done.url, done.weights, done.lacking) == (None, "float16", ())
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert done.size_bytes == len(text.encode())
    data, content = parts_of(text)
    held = data["held"]
    (given,) = held["inputs"]
    at, size = given["at"], given["size"]
    x = PictureInside(network(), picture).x
    np.testing.assert_array_equal(np.frombuffer(content, "<f4", size, at), x.ravel())
    side = held["sides"]["after"]
    assert side["classes"] == ["고양이", "<i>개</i>", "a", "b"]
    program = side["program"]
    stored = next(one["weight"] for one in program["layers"] if one["node"] == "up")
    raw = base64.b64decode(program["data"])
    raw = zlib.decompress(raw) if "data" in program["deflated"] else raw
    weights = network().weights["up.weight"]  # (ic, oc / groups, kh, kw) in two groups; the page has (oc, ic / groups)
    each = weights.shape[0] // 2
    rows = np.concatenate([weights[:each].swapaxes(0, 1), weights[each:].swapaxes(0, 1)])
    np.testing.assert_allclose(restored(raw, stored).reshape(rows.shape), rows, rtol=1e-3)
    with pytest.raises(UsageError, match="exists already"):
        dojang.show(network(), picture, output=tmp_path / "p.html")


def test_a_file_stores_weights_as_asked(tmp_path: Path) -> None:
    sizes = {}
    for kind in ("float32", "float16", "int8"):
        done = dojang.show("digits-cnn", output=tmp_path / f"{kind}.html", page_weights=kind)
        data, _ = parts_of((tmp_path / f"{kind}.html").read_text(encoding="utf-8"))
        assert done.weights == data["held"]["sides"]["after"]["program"]["weights"] == kind
        sizes[kind] = done.size_bytes
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]
    assert sizes["float16"] < 400_000
    with pytest.raises(UsageError, match="give -o PAGE.html too"):
        dojang.show("digits-cnn", page_weights="int8", browser=False)
    with pytest.raises(UsageError, match="'int4': use float32, float16 or int8"):
        dojang.show("digits-cnn", output=tmp_path / "x.html", page_weights="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("most", "kind", "said"),
    [
        (30_000, None, r"take 0\.2 MB as float32, 0\.1 MB as float16, 0\.1 MB as int8; .*leave out -o: the server"),
        (60_000, "float16", r"at most 0\.1 MB: use --page-weights int8, or leave out -o"),
    ],
)
def test_a_network_that_is_too_large_for_a_file_is_refused(
    most: int, kind: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dojang.app.holding.MOST_BYTES", most)
    with pytest.raises(UsageError, match=said):
        dojang.show("digits-cnn", output=tmp_path / "p.html", page_weights=kind)
    assert not (tmp_path / "p.html").exists()


def test_operators_without_a_kernel_are_named(tmp_path: Path) -> None:
    done = dojang.show(lacking_network(), output=tmp_path / "p.html")
    assert done.lacking == ("odd (pow)",)
    assert "no kernel for odd (pow)" in str(done)
    data, _ = parts_of((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert set(data["held"]["sides"]["after"]["program"]["missing"]) == {"odd", "after"}


def test_the_measured_field_is_what_pytorch_says(picture: Path) -> None:
    import torch

    inside = PictureInside(network(), picture)
    layer = inside.graph.nodes[1]
    found = inside.effect(layer.name, seed=4)
    x = torch.from_numpy(inside.x)
    weight = torch.from_numpy(np.asarray(inside.graph.weights[f"{layer.name}.weight"]))
    noise = np.random.default_rng(4).normal(0, float(inside.x.std()), inside.x.shape).astype(np.float32)
    rows, columns = found.shape[:2]
    edges = [np.linspace(0, size, n + 1).astype(int) for size, n in zip(x.shape[2:], (rows, columns), strict=True)]
    right = np.zeros(found.shape)
    for i, j in np.ndindex(rows, columns):
        part = (..., slice(*edges[0][i : i + 2]), slice(*edges[1][j : j + 2]))
        change = np.zeros(inside.x.shape, np.float32)
        change[part] = noise[part]
        moved = torch.nn.functional.conv2d(
            torch.from_numpy(change), weight, None, tuple(layer.attrs["stride"]),
            tuple(before for before, _ in layer.attrs["padding"]), tuple(layer.attrs["dilation"]),
            int(layer.attrs["groups"]),
        )  # fmt: skip
        right[i, j] = moved.square().mean(dim=1).sqrt().numpy()[0]
    assert (rows, columns) == (16, 16)
    np.testing.assert_allclose(found, 255 * right / right.max(axis=(0, 1)), atol=0.51)
    with pytest.raises(GraphError, match="no node"):
        inside.effect("conv9")


def test_a_notebook_has_the_page_in_its_cell_or_a_link(tmp_path: Path, picture: Path) -> None:
    done = dojang.show(network(), picture, output=tmp_path / "p.html")
    cell = done._repr_html_()
    frame = re.fullmatch(
        r'<iframe title="([^"]*)" sandbox="allow-scripts" style="[^"]*" srcdoc="([^"]*)"></iframe>', cell
    )
    assert frame
    assert html.unescape(frame[2]) == (tmp_path / "p.html").read_text(encoding="utf-8")
    assert html.unescape(frame[1]) == "작은 <script>"
    page = dojang.show(network(), picture, browser=False)
    try:
        assert page._repr_html_() == (
            f'<a href="{page.url}" target="_blank" rel="noopener">작은 &lt;script&gt;</a>'
        )  # fmt: skip
    finally:
        page.close()


def test_run_writes_the_page_of_the_picture(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dojang.app.cli import main

    assert main(["run", "digits-cnn", str(picture), "--html", str(tmp_path / "r.html")]) == 0
    said = capsys.readouterr().out
    dojang.show("digits-cnn", picture, output=tmp_path / "s.html")
    assert (tmp_path / "r.html").read_bytes() == (tmp_path / "s.html").read_bytes()
    assert "class" in said or "%" in said
    assert main(["run", "digits-cnn", str(picture), "--html", str(tmp_path / "r.html")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["run", "digits-cnn", str(picture), "--html", str(tmp_path / "n.html"), "--plan"]) == 2
    assert not (tmp_path / "n.html").exists()


def lacking_network() -> Any:
    """A convolution, a power, another convolution."""
    nodes = (
        Node.of("x", "input", shape=(3, 6, 8)),
        Node.of("c", "conv", "x", out=4, kernel=(3, 3)),
        Node.of("odd", "pow", "c", "c"),
        Node.of("after", "conv", "odd", out=3, kernel=(1, 1)),
    )
    graph = Graph(nodes, ("after",), "odd")
    return graph.replace(weights={n: np.ones(s, np.float32) for n, s in graph.param_shapes.items()})


def test_names_are_data_and_never_markup(tmp_path: Path, picture: Path) -> None:
    dojang.show(network(), picture, output=tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    data, _ = parts_of(text)
    assert [layer["name"] for layer in data["overview"]["layers"]][1] == "층<b>1"
    assert "작은 <script>" not in text
    assert text.count("<script") == 3
    assert "<b>" not in text


def test_the_policy_allows_this_script_and_no_request(tmp_path: Path, picture: Path) -> None:
    dojang.show(network(), picture, output=tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    script = re.search(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    for found, rule in ((script, "script-src"), (style, "style-src")):
        assert found
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[rule]
        assert "unsafe-inline" not in rules[rule]
    outside = [found for found in re.findall(r"\bhttps?://[\w./-]*", text) if found != "http://www.w3.org/2000/svg"]
    assert outside == []


def test_a_network_without_weights_is_drawn(picture: Path) -> None:
    page = dojang.show("alexnet", picture, browser=False)
    try:
        data, _ = parts_of(Opened(page).ask("")[1].decode())
        assert data["overview"]["macs"] == 724406816
        assert "no weights" in data["overview"]["why_not"]["english"]
        status, content = Opened(page).ask("maps?layer=conv1&first=0&most=1")
        assert (status, "no weights" in json.loads(content)["error"]) == (400, True)
        assert "but no maps: the network has no weights" in str(page)
    finally:
        page.close()


@pytest.mark.parametrize(
    ("shape", "kind", "made"),
    [((1, 40), "float32", "drawn"), ((5, 8, 8), "float32", "drawn"), ((12,), "int64", "ones"),
     ((1, 4, 6, 6), "float64", "drawn"), ((3, 8, 8), "uint8", "drawn-whole")],
)  # fmt: skip
def test_an_input_that_takes_no_picture_has_a_sample_that_was_drawn(
    tmp_path: Path, shape: tuple[int, ...], kind: str, made: str
) -> None:
    nodes = (Node.of("i", "input", shape=shape, dtype=kind), Node.of("sum", "add", "i", "i"))
    graph = Graph(nodes, ("sum",), "others")
    page = dojang.show(graph, browser=False)
    try:
        told = parts_of(Opened(page).ask("")[1].decode())[0]["overview"]
        assert (page.why_not, told["bare"], told["drawn"]) == ("", False, True)
        assert told["inputs"] == [{"name": "i", "shape": list(shape), "takes_pictures": False}]
        assert Opened(page).arrays("picture?input=0", "u1")[0]["prepared"]["made"] == made
        status, content = Opened(page).ask("picture?input=0", photo())
        assert (status, json.loads(content)["words"]["key"]) == (400, "takesNone")
        status, content = Opened(page).ask("picture?input=1")
        assert (status, json.loads(content)["error"]) == (400, "others has no input 1")
    finally:
        page.close()
    assert dojang.show(graph, output=tmp_path / "drawn.html").why_not == ""


def test_a_network_whose_input_cannot_be_drawn_is_counted(tmp_path: Path) -> None:
    nodes = (Node.of("i", "input", shape=(4,), dtype="string"), Node.of("same", "identity", "i"))
    done = dojang.show(Graph(nodes, ("same",), "words"), output=tmp_path / "bare.html")
    assert done.why_not == "the input i takes values of type string, of which no sample is drawn"


def test_an_array_stands_in_for_a_picture(tmp_path: Path) -> None:
    """Whole numbers go in as they are, and a batch is looked at by its first sample, on whatever axis it lies."""
    for axis, given in ((0, np.array([[7, -2, 8], [1, 1, 1]])), (1, np.array([[7, 1], [-2, 1], [8, 1]]))):
        nodes = (
            Node.of("input", "input", shape=(3,), dtype="int64", batch_axis=axis),
            Node.of("twice", "add", "input", "input"),
        )
        np.save(tmp_path / "tokens.npy", given)
        inside = PictureInside(Graph(nodes, ("twice",), "words"), tmp_path / "tokens.npy")
        assert (inside.why_not, inside.x.dtype, inside.one.tolist()) == (None, np.int64, [7, -2, 8])
        assert inside.outputs_on(inside.x).reshape(-1).tolist() == [14, -4, 16]


def test_bytes_as_input_have_a_measured_field_and_an_output_of_whole_numbers_no_maps(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["real", "w"], ["y"], "conv"),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1),
    ]
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 16, 16])
    best = helper.make_tensor_value_info("best", TensorProto.INT64, [1, 1, 14, 14])
    made = helper.make_graph(nodes, "bytes", [x], [best], [weight])
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "bytes.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 16, 16), np.uint8)
    inside = PictureInside(dojang.load(tmp_path / "bytes.onnx"), pixels)
    assert inside.x.dtype == np.uint8
    name = next(node.name for node in inside.graph.nodes if node.op == "conv")
    found = inside.effect(name)
    assert found.shape == (16, 16, 14, 14)
    y, x, i, j = np.indices(found.shape)
    assert not found[(y < i) | (y > i + 2) | (x < j) | (x > j + 2)].any()
    assert (found.max(axis=(0, 1)) == 255).all()
    with pytest.raises(GraphError, match=r"cannot be drawn as maps \(shape 1x1x14x14\)"):
        inside.values(inside.graph.outputs[0])


def test_a_picture_alone(tmp_path: Path, picture: Path) -> None:
    done = dojang.show("stamp", picture, output=tmp_path / "s.html", lang="ko")
    data, held = parts_of((tmp_path / "s.html").read_text(encoding="utf-8"))
    assert (data["alone"], data["lang"], done.network) == (True, "ko", "stamp")
    at = data["held"]["picture"]
    pixels = np.frombuffer(held, "u1", at["h"] * at["w"] * 3, at["at"]).reshape(at["h"], at["w"], 3)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(picture)))


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"\xff\xd8 no")
    with pytest.raises(FileError, match="no picture that can be read"):
        dojang.show("digits-cnn", tmp_path / "no.jpg", browser=False)
    with pytest.raises(FileError, match="missing.png"):
        dojang.show("stamp", tmp_path / "missing.png", browser=False)
    with pytest.raises(UsageError, match="leave out --before$"):
        dojang.show("stamp", before="digits-cnn", browser=False)
    with pytest.raises(UsageError, match="leave out --weights and --input-size and --page-weights$"):
        dojang.show("stamp", weights="w.pt", input_size=(3, 5, 5), page_weights="int8", output=tmp_path / "s.html")
    line = Graph((Node.of("input", "input", shape=(1, 40)),), ("input",), "line")
    (tmp_path / "photo.png").write_bytes(photo())
    with pytest.raises(ShapeError, match="photo.png: a picture does not fit an input of 1x40"):
        dojang.show(line, tmp_path / "photo.png", browser=False)
    (tmp_path / "photo.png").unlink()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "no.jpg"]
    with pytest.raises(GraphError, match="no node"):
        PictureInside(dojang.load("digits-cnn"), None).values("conv9")


def test_the_command_serves_until_it_is_interrupted() -> None:
    import signal

    with subprocess.Popen(
        [sys.executable, "-m", "dojang", "show", "digits-cnn", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        line = child.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", line)
        assert url, line
        parts = urlsplit(url[0])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.request("GET", parts.path)
        assert connection.getresponse().status == 200
        connection.close()
        child.send_signal(signal.SIGINT)
        assert "Ctrl-C ends it" in child.stdout.readline()
        _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (0, "")


def planted() -> Any:
    """digits-cnn with a dead channel, a duplicate and a constant."""
    graph = dojang.load("digits-cnn")
    arrays = {name: np.array(array) for name, array in graph.weights.items()}
    arrays["conv1.weight"][3], arrays["conv1.bias"][3] = 0, -1
    arrays["conv1.weight"][5], arrays["conv1.bias"][5] = arrays["conv1.weight"][2], arrays["conv1.bias"][2]
    arrays["conv2.weight"][7], arrays["conv2.bias"][7] = 0, 0.5
    return graph.replace(weights=arrays)


@pytest.mark.slow
def test_planted_waste_is_marked_and_its_maps_prove_it() -> None:
    pytest.importorskip("sklearn")
    page = dojang.show(planted(), data="digits", before="digits-cnn", browser=False)
    one = Opened(page)
    try:
        status, content = one.ask("waste")
        assert status == 200
        found = json.loads(content)
        states = {row["layer"]: row["states"] for row in found["layers"]}
        assert (states["conv1"][3], states["conv1"][5], states["conv2"][7]) == ("dead", "duplicate", "constant")
        assert states["fc2"] == ["used"] * 10
        assert found["marks"]["conv1"] == sum(state != "used" for state in states["conv1"])
        head, values = one.arrays("samples?layer=relu1&channel=3", "<f4")
        assert head["n"] >= 8
        assert not values[: head["n"] * head["h"] * head["w"]].any()
        (pair,) = (p for p in found["pairs"] if p["after"] == "conv2")
        check_splits(pair)
        assert 0 <= found["changed"]["changed"] <= found["changed"]["samples"] == found["samples"]
    finally:
        page.close()


def check_splits(pair: dict[str, Any]) -> None:
    """What a split keeps inside is what its order and its ends say, counted anew from the matrix."""
    raw = np.frombuffer(base64.b64decode(pair["matrix"]), np.int8).reshape(pair["h"], pair["w"])
    energy = (raw / 127.0) ** 2
    for split in pair["splits"]:
        assert sorted(split["rows"]) == list(range(pair["h"]))
        ordered = energy[np.ix_(split["rows"], split["columns"])]
        rows, columns = ([0, *ends] for ends in split["ends"])
        inside = sum(ordered[rows[g] : rows[g + 1], columns[g] : columns[g + 1]].sum() for g in range(split["groups"]))
        assert inside / energy.sum() == pytest.approx(split["inside"], abs=0.01)
        assert split["chance"] == pytest.approx(1 / split["groups"], abs=0.08)
    assert pair["splits"][0]["inside"] == pytest.approx(1)


def test_what_was_cut_is_read_from_the_record_beside_the_network(tmp_path: Path) -> None:
    dojang.export("digits-cnn", output=tmp_path / "model.safetensors")
    wanted = {"rewrite": "merge<b>", "claim": "exact", "found": "1 of conv1"}
    edits = [{**wanted, "other": 3}]
    for content, found in (
        (json.dumps({"command": "slim", "results": {"edits": edits}}), [wanted]),
        (json.dumps({"command": "train", "results": {"edits": edits}}), []),
        ("[1", []),
        (json.dumps([1]), []),
        (json.dumps({"command": "slim", "results": {"edits": [1]}}), []),
    ):
        (tmp_path / "run.json").write_text(content)
        dojang.show(tmp_path / "model.safetensors", before="digits-cnn", output=tmp_path / "p.html", force=True)
        data, _ = parts_of((tmp_path / "p.html").read_text(encoding="utf-8"))
        assert data["edits"] == found
        assert data["before"]["macs"] == 347392
        assert set(data["held"]["sides"]) == {"before", "after"}


def test_the_modules_have_no_name_twice() -> None:
    """The page joins them into one script, where a name that stands twice would stop all of it."""
    from importlib.resources import files

    from dojang.report.show.page import MODULES, script, styles

    names: dict[str, str] = {}
    web = files("dojang.report") / "web"
    assert {f"{name}.mjs" for name in MODULES} <= {f.name for f in web.iterdir()}
    for module in MODULES:
        text = (web / f"{module}.mjs").read_text(encoding="utf-8")
        for name in re.findall(r"^(?:export )?(?:async )?(?:const|let|function|class) (\w+)", text, re.MULTILINE):
            assert name not in names, f"{name} stands in {names.get(name)} and {module}"
            names[name] = module
        for imported in re.findall(r'from "\./(\w+)\.mjs"', text):
            assert MODULES.index(imported) < MODULES.index(module)
    assert len(script()) + len(styles()) < 250_000
    assert not re.search(r"^(import|export) ", script(), re.MULTILINE)


def test_every_word_is_in_both_languages() -> None:
    from importlib.resources import files

    web = files("dojang.report") / "web"
    words = (web / "words.mjs").read_text(encoding="utf-8")
    known = re.findall(r'^  (\w+): \["((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\],$', words, re.MULTILINE)
    assert len(known) > 100
    for key, english, korean in known:
        assert sorted(re.findall(r"\{\w+\}", korean)) in (sorted(re.findall(r"\{\w+\}", english)), []), key
        assert re.search("[가-힣]", korean) or korean in (english, "0", "MAC"), key
    used = set()
    for file in web.iterdir():
        if file.name.endswith(".mjs"):
            used |= set(re.findall(r'\bt\("(\w+)"', file.read_text(encoding="utf-8")))
    from dojang.evidence.severity import SEVERITY

    rooms = (files("dojang.app") / name for name in ("looking.py", "serving.py", "showing.py"))
    said = {key for room in rooms for key in re.findall(r'Sentence\(\s*"(\w+)"', room.read_text(encoding="utf-8"))}
    assert len(said) > 10
    used |= said | {f"kind_{kind.replace('-', '_')}" for kind in SEVERITY}
    assert used <= {key for key, _, _ in known}

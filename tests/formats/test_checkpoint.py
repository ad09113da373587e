"""Checkpoints: exact round trips, safetensors' own reader as oracle, damaged files, weights from elsewhere."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError, DojangError, FileError, GraphError, UsageError
from dojang.base.writing import writing
from dojang.formats import checkpoint, zoo
from dojang.formats.checkpoint import KEY, apply_state, check_finite, load, read_arrays, read_header, save, write_arrays

RESNET20 = Path(__file__).parents[3] / "shared" / "data" / "resnet20-cifar10.safetensors"


def small(seed: int = 0) -> Graph:
    nodes = (
        Node.of("image", "input", shape=(3, 6, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)),
        Node.of("a.conv", "conv", "image", out=4, kernel=(3, 3), padding=1),
        Node.of("bn", "batchnorm", "a.conv"),
        Node.of("scale", "constant", shape=(), trained=True),
        Node.of("mul", "mul", "bn", "scale"),
        Node.of("flat", "flatten", "mul"),
        Node.of("fc", "dense", "flat", out=2),
    )
    graph = Graph(nodes, ("fc",), "small", meta={"source": "a test", "classes": "cat,dög", "seed": "3"})
    rng = np.random.default_rng(seed)
    return graph.replace(weights={k: rng.normal(size=s).astype(np.float32) for k, s in graph.param_shapes.items()})


def test_round_trip_is_exact(tmp_path):
    graph = small()
    path = save(graph, tmp_path / "small.safetensors")
    again = load(path)
    assert again == graph  # nodes, outputs, name, meta
    assert set(again.weights) == set(graph.weights)
    for name, array in graph.weights.items():
        assert again.weights[name].shape == array.shape
        assert np.array_equal(again.weights[name], array)
    again.check_weights()
    assert not load(path, weights=False).weights
    assert os.listdir(tmp_path) == ["small.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_safetensors_library_reads_what_is_written_and_the_reverse(tmp_path):
    graph = small()
    save(graph, tmp_path / "s.safetensors")
    theirs = load_file(tmp_path / "s.safetensors")
    assert {k: v.tolist() for k, v in theirs.items()} == {k: v.tolist() for k, v in graph.weights.items()}
    with safe_open(tmp_path / "s.safetensors", "np") as found:
        assert "conv 4 3x3" in found.metadata()[KEY]
    arrays = {
        "x": np.arange(6, dtype=np.float16).reshape(2, 3),
        "y": np.array([1, 2]),
        "e": np.zeros((0, 3), np.float32),
    }
    save_file(arrays, tmp_path / "t.safetensors")
    ours = read_arrays(tmp_path / "t.safetensors")
    assert ours["x"].dtype == np.float32
    assert ours["y"].dtype == np.int64
    assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in arrays.items()}
    ours["x"][0] = 7  # one's own, writable


def test_bfloat16_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    values = torch.tensor([1.5, -3.0, 1e30, 0.1], dtype=torch.bfloat16)
    save_torch({"v": values}, tmp_path / "b.safetensors")
    assert read_arrays(tmp_path / "b.safetensors")["v"].tolist() == values.float().tolist()


def test_counting_a_checkpoint_loads_neither_numpy_nor_arrays(tmp_path):
    path = save(small(), tmp_path / "small.safetensors")
    code = (
        "import sys; from dojang.formats.checkpoint import load; from dojang.arith.cost import count;"
        f"g = load({str(path)!r}); print(count(g).total.params, len(g.weights), 'numpy' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(count(small()).total.params), "9", "False"]
    graph = load(path)
    assert isinstance(graph.weights, checkpoint.FileArrays)
    assert not graph.weights.held
    assert graph.weights["scale.value"].shape == ()
    assert list(graph.weights.held) == ["scale.value"]


def test_nothing_is_overwritten_unless_forced(tmp_path):
    path = save(small(), tmp_path / "n.safetensors")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already.*--force"):
        save(small(1), path)
    assert path.read_bytes() == before
    save(small(1), path, force=True)
    assert path.read_bytes() != before
    with pytest.raises(UsageError, match="does not exist"):
        save(small(), tmp_path / "none" / "n.safetensors")


def _fail_half_way(path: Path, raised: BaseException) -> None:
    with writing(path, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise raised


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = save(small(), tmp_path / "n.safetensors")
    before = path.read_bytes()
    for raised, kind in ((OSError(28, "No space left on device"), FileError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(kind):
            _fail_half_way(path, raised)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["n.safetensors"]
    missing = small().replace(weights={})
    with pytest.raises(GraphError, match="no weights for"):
        save(missing, tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["n.safetensors"]


def test_a_file_changed_under_way_is_noticed(tmp_path):
    path = save(small(), tmp_path / "n.safetensors")
    graph = load(path)
    save(small(1), path, force=True)
    with pytest.raises(FileError, match="was changed"):
        graph.weights["fc.weight"]


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: object, start: object, stop: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "length beyond the file": raw({}, length=1 << 62),
    "length of terabytes": raw({}, length=1 << 40),
    "no json": raw(b"{nonsense"),
    "a list": raw([1, 2]),
    "not utf-8": raw(b"{\xff\xfe}"),
    "deep": raw(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "name twice": raw(b'{"a":1,"a":2}'),
    "no fields": raw({"a": {}}),
    "a number": raw({"a": 5}),
    "wrong bytes": raw({"a": entry([2], 0, 4)}, bytes(4)),
    "negative": raw({"a": entry([-1], 0, -4)}),
    "negative start": raw({"a": entry([1], -4, 0)}, bytes(4)),
    "float sizes": raw({"a": entry([1.0], 0, 4)}, bytes(4)),
    "true for 1": raw({"a": entry([True], 0, 4)}, bytes(4)),
    "absurd shape": raw({"a": entry([1 << 62, 1 << 62], 0, 4)}, bytes(4)),
    "strange type": raw({"a": entry([1], 0, 4, "PICKLE")}, bytes(4)),
    "type that is a list": raw({"a": entry([1], 0, 4, ["F32"])}, bytes(4)),
    "past the end": raw({"a": entry([2], 0, 8)}, bytes(4)),
    "overlap": raw({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)),
    "gap": raw({"a": entry([1], 4, 8)}, bytes(8)),
    "rest": raw({"a": entry([1], 0, 4)}, bytes(8)),
    "metadata": raw({"__metadata__": {"a": 5}}),
    "metadata list": raw({"__metadata__": [1]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / "h.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(FileError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_bytes_never_do_more_than_raise(tmp_path, data):
    good = (
        (tmp_path / "good.safetensors")
        if (tmp_path / "good.safetensors").exists()
        else save(small(), tmp_path / "good.safetensors")
    )
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 900))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2, 700, 9]))]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    try:
        graph = load(path)
        dict(graph.weights)
    except DojangError as error:
        assert "\n" not in str(error)


def test_files_without_a_network_and_missing_ones_say_what_to_do(tmp_path):
    write_arrays({"w": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="has weights but no network.*--weights"):
        load(tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="no such file"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match="is a folder"):
        load(tmp_path)
    arrays = dict(small().weights)
    text = read_header(save(small(), tmp_path / "s.safetensors")).metadata[KEY]
    write_arrays({**arrays, "fc.bias": np.zeros(3, np.float32)}, tmp_path / "b.safetensors", {KEY: text})
    with pytest.raises(GraphError, match=r"fc\.bias is 3, its network needs 2"):
        load(tmp_path / "b.safetensors")
    write_arrays(arrays, tmp_path / "c.safetensors", {KEY: "input 3x6x6\nconv nonsense\n"})
    with pytest.raises(FileError, match="network in it cannot be read"):
        load(tmp_path / "c.safetensors")


def test_nan_is_found():
    graph = small()
    check_finite(graph)
    weight = np.array(graph.weights["fc.weight"])
    weight[0, :2] = np.nan
    with pytest.raises(DataError, match=r"fc\.weight: 2 of 288 weights are NaN"):
        check_finite(graph.replace(weights={**graph.weights, "fc.weight": weight}))
    with pytest.raises(DataError, match=r"bn\.bias: 1 of 4 weights are infinite"):
        check_finite(graph.replace(weights={**graph.weights, "bn.bias": np.array([0, np.inf, 0, 0])}))


def test_masks_may_be_infinite_and_not_nan():
    nodes = (
        Node.of("x", "input", shape=(4, 4)),
        Node.of("mask", "constant", shape=(4, 4)),
        Node.of("a", "add", "x", "mask"),
    )
    mask = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype("f4")
    graph = Graph(nodes, ("a",), "masked", weights={"mask.value": mask})
    check_finite(graph)
    with pytest.raises(DataError, match=r"mask\.value: 1 of 16 weights are NaN"):
        check_finite(graph.replace(weights={"mask.value": np.where(np.eye(4) * [1, 0, 0, 0], np.nan, mask)}))


def test_state_dicts_are_matched_by_name():
    graph, arrays = small().replace(weights={}), dict(small().weights)
    full = {f"module.{k}": v for k, v in arrays.items()} | {"module.bn.num_batches_tracked": np.array(4)}
    assert {k: v.tolist() for k, v in apply_state(graph, full).weights.items()} == {
        k: v.tolist() for k, v in arrays.items()
    }
    renamed = {k.replace("fc.", "linear."): v for k, v in arrays.items()}
    renamed["linear.weight"] = renamed["linear.weight"][:, :, None, None]  # as a 1x1 convolution would have it
    with pytest.raises(GraphError, match=r"fc\.weight: the weights have no array of this name"):
        apply_state(graph, renamed)
    renamed["linear.weight"] = renamed["linear.weight"][:, :, 0, 0]
    assert np.array_equal(apply_state(graph, renamed).weights["fc.weight"], arrays["fc.weight"])
    wide = {**arrays, "fc.weight": arrays["fc.weight"][:, :, None, None]}
    assert apply_state(graph, wide).weights["fc.weight"].shape == (2, 144)
    with pytest.raises(GraphError, match=r"fc\.bias: the weights are 5, small needs 2.*--num-classes"):
        apply_state(graph, {**arrays, "fc.bias": np.zeros(5)})
    with pytest.raises(GraphError, match=r"aux\.w 3: small has no array of this name"):
        apply_state(graph, {**arrays, "aux.w": np.zeros(3)})
    assert "aux.w" not in apply_state(graph, {**arrays, "aux.w": np.zeros(3)}, strict=False).weights


@pytest.mark.skipif(not RESNET20.exists(), reason="the trained ResNet-20 is not here")
def test_the_trained_resnet20_fits_the_zoo():
    graph = apply_state(zoo.load("resnet20-cifar10"), read_arrays(RESNET20))
    graph.check_weights()
    assert count(graph).total.params == 269_722
    check_finite(graph)

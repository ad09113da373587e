"""The wire reader and writer against Google's protobuf (through the onnx package), and against damaged bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dojang.base.errors import FileError
from dojang.formats.onnx import protobuf
from dojang.formats.onnx.protobuf import Field, decode, encode
from dojang.formats.onnx.schema import MODEL, TENSOR

onnx = pytest.importorskip("onnx")

int64 = st.integers(-(2**63), 2**63 - 1)
float32 = st.floats(width=32, allow_nan=False)


@given(st.lists(int64), st.text(), st.binary(), st.lists(float32), st.lists(int64))
def test_tensors_as_google_writes_them(dims, name, raw, floats, ints) -> None:
    theirs = onnx.TensorProto(dims=dims, name=name, raw_data=raw, float_data=floats, int64_data=ints, data_type=1)
    message = decode(TENSOR, theirs.SerializeToString())
    assert list(message.get("dims", [])) == dims
    assert (message.get("name"), bytes(message["raw_data"])) == (name, raw)
    assert list(struct.unpack(f"<{len(floats)}f", message.get("float_data", b""))) == floats
    assert protobuf.varints(message.get("int64_data", b"")) == ints
    back = onnx.TensorProto.FromString(encode(TENSOR, message))
    assert back == theirs


NODES = st.builds(
    lambda op, inputs, f, i, s, floats, ints: onnx.NodeProto(
        op_type=op,
        input=inputs,
        attribute=[
            onnx.AttributeProto(name="f", f=f, type=1),
            onnx.AttributeProto(name="i", i=i, type=2),
            onnx.AttributeProto(name="s", s=s, type=3),
            onnx.AttributeProto(name="floats", floats=floats, type=6),
            onnx.AttributeProto(name="ints", ints=ints, type=7),
        ],
    ),
    st.text(),
    st.lists(st.text()),
    float32,
    int64,
    st.binary(),
    st.lists(float32),
    st.lists(int64),
)


@given(st.lists(NODES, max_size=4), st.text(), st.integers(0, 30))
def test_models_as_google_writes_them(nodes, name, version) -> None:
    theirs = onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name=name, node=nodes))
    theirs.opset_import.append(onnx.OperatorSetIdProto(domain="", version=version))
    assert onnx.ModelProto.FromString(encode(MODEL, decode(MODEL, theirs.SerializeToString()))) == theirs


def test_packed_and_single_numbers_read_the_same() -> None:
    # float_data (field 4) as one packed run of two, then one by itself; dims (field 1) one by one, then packed
    data = b"\x22\x08" + struct.pack("<2f", 1.0, 2.0) + b"\x25" + struct.pack("<f", 3.0) + b"\x08\x05\x0a\x02\x06\x07"
    message = decode(TENSOR, data)
    assert struct.unpack("<3f", message["float_data"]) == (1.0, 2.0, 3.0)
    assert message["dims"] == [5, 6, 7]
    assert onnx.TensorProto.FromString(data).dims == [5, 6, 7]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x0a\x05ab", "a field has 5 bytes, but only 2 are left"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number does not end"),
        (b"\x08\x80", "a number does not end"),
        (b"\x0b\x0c", "wire type 3 is not known"),
        (b"\x42\x02\xff\xfe", "name is not UTF-8"),
        (b"\x40\x01", "field name has wire type 0"),
        (b"\x25\x01", "bytes, but only"),
    ],
)
def test_damaged_bytes_are_named(data: bytes, says: str) -> None:
    with pytest.raises(FileError, match=says):
        decode(TENSOR, data)


def test_nesting_is_bounded() -> None:
    schema: dict[int, Field] = {}
    schema[1] = Field("inner", "message", schema=schema)
    data = b""
    for _ in range(1000):
        data = b"\x0a" + protobuf.number(len(data)) + data
    with pytest.raises(FileError, match="nest deeper than 16"):
        decode(schema, data)


def test_the_number_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 1000)
    assert len(decode(TENSOR, b"\x08\x01" * 1000)["dims"]) == 1000
    with pytest.raises(FileError, match="more than 1000 fields"):
        decode(TENSOR, b"\x08\x01" * 1001)
    with pytest.raises(FileError, match="more than 1000 fields"):
        decode(TENSOR, b"\x0a\xe9\x07" + b"\x01" * 1001)


def test_bulk_data_is_not_copied() -> None:
    raw = b"x" * 100
    data = memoryview(encode(TENSOR, {"raw_data": raw}))
    assert decode(TENSOR, data)["raw_data"].obj is data.obj


def test_a_field_that_the_schema_lacks_is_not_written() -> None:
    with pytest.raises(ValueError, match="no field 'colour'"):
        encode(TENSOR, {"colour": 1})

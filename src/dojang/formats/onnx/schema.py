"""The fields of ONNX that dojang reads and writes, by number. Source: onnx/onnx.proto of the ONNX standard, IR 13."""

from __future__ import annotations

from dojang.formats.onnx.protobuf import Field, Schema


def _texts(name: str) -> Field:
    return Field(name, "text", repeated=True)


def _many(name: str, schema: Schema) -> Field:
    return Field(name, "message", repeated=True, schema=schema)


def _one(name: str, schema: Schema) -> Field:
    return Field(name, "message", schema=schema)


ENTRY: Schema = {1: Field("key", "text"), 2: Field("value", "text")}
TENSOR: Schema = {
    1: Field("dims", "int", repeated=True),
    2: Field("data_type", "int"),
    4: Field("float_data", "fixed32"),
    5: Field("int32_data", "varints"),
    6: Field("string_data", "bytes", repeated=True),
    7: Field("int64_data", "varints"),
    8: Field("name", "text"),
    9: Field("raw_data", "bytes"),
    10: Field("double_data", "fixed64"),
    11: Field("uint64_data", "varints"),
    13: _many("external_data", ENTRY),
    14: Field("data_location", "int"),
}
# The bodies of If, Loop and Scan (field 6) stay bytes until they are read (`control.py`).
ATTRIBUTE: Schema = {
    1: Field("name", "text"),
    2: Field("f", "float"),
    3: Field("i", "int"),
    4: Field("s", "bytes"),
    5: _one("t", TENSOR),
    6: Field("g", "bytes"),
    7: Field("floats", "float", repeated=True),
    8: Field("ints", "int", repeated=True),
    9: Field("strings", "bytes", repeated=True),
    20: Field("type", "int"),
    21: Field("ref_attr_name", "text"),
}
NODE: Schema = {
    1: _texts("input"),
    2: _texts("output"),
    3: Field("name", "text"),
    4: Field("op_type", "text"),
    5: _many("attribute", ATTRIBUTE),
    7: Field("domain", "text"),
    9: Field("metadata_props", "bytes", repeated=True),
}
DIM: Schema = {1: Field("dim_value", "int"), 2: Field("dim_param", "text")}
SHAPE: Schema = {1: _many("dim", DIM)}
TENSOR_TYPE: Schema = {1: Field("elem_type", "int"), 2: _one("shape", SHAPE)}
TYPE: Schema = {1: _one("tensor_type", TENSOR_TYPE)}
VALUE: Schema = {1: Field("name", "text"), 2: _one("type", TYPE), 3: Field("doc_string", "text")}
SPARSE: Schema = {1: _one("values", TENSOR)}
GRAPH: Schema = {
    1: _many("node", NODE),
    2: Field("name", "text"),
    5: _many("initializer", TENSOR),
    11: _many("input", VALUE),
    12: _many("output", VALUE),
    13: _many("value_info", VALUE),
    15: _many("sparse_initializer", SPARSE),
}
OPSET: Schema = {1: Field("domain", "text"), 2: Field("version", "int")}
FUNCTION: Schema = {
    1: Field("name", "text"),
    4: _texts("input"),
    5: _texts("output"),
    6: _texts("attribute"),
    7: _many("node", NODE),
    9: _many("opset_import", OPSET),
    10: Field("domain", "text"),
    11: _many("attribute_proto", ATTRIBUTE),
    13: Field("overload", "text"),
}
MODEL: Schema = {
    1: Field("ir_version", "int"),
    2: Field("producer_name", "text"),
    3: Field("producer_version", "text"),
    6: Field("doc_string", "text"),
    7: _one("graph", GRAPH),
    8: _many("opset_import", OPSET),
    14: _many("metadata_props", ENTRY),
    25: _many("functions", FUNCTION),
}

ATTRIBUTE_TYPES = {"f": 1, "i": 2, "s": 3, "t": 4, "floats": 6, "ints": 7, "strings": 8}
"""AttributeProto.type, by the field of the value."""

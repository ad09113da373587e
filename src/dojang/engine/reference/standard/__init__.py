"""Operators of ONNX as the standard defines them, in NumPy, for those that dojang has no row of its own for.

`run.FUNCTIONS` has one function per operator: `f(call) -> outputs`, where `call` gives inputs, attributes and the
version of the operator set. Types are kept: whole numbers stay whole numbers, truth values stay truth values.
"""

"""The modules of a network in an ONNX file, where its exporter wrote them into the metadata of nodes.

PyTorch's exporter writes an entry `namespace` for each node: the modules from the outermost to the innermost, each with
its class, and the operator at the end, as in `: net.UNet/down: torch.nn.Sequential/down.1: torch.nn.ReLU/relu: aten.…`.
"""

from __future__ import annotations

from dojang.arith.graph import Graph
from dojang.base.errors import DojangError
from dojang.formats.onnx.protobuf import Message, decode
from dojang.formats.onnx.schema import ENTRY

KEY = "namespace"


def with_modules(graph: Graph, message: Message) -> Graph:
    """The network with the modules that its file names; as it is if there are none."""
    scopes: dict[str, str] = {}
    classes: dict[str, str] = {}
    for node in message.get("node", ()):
        said = _namespace(node)
        if said:
            levels = [level.partition(": ") for level in said.split("/")[:-1]]
            path = ""
            for name, _, kind in levels:
                if name:
                    path = name
                    classes[name] = kind.rpartition(".")[2]
            names = [name for name in (node.get("name", ""), *node.get("output", ())) if name]
            scopes.update(dict.fromkeys(names[:1], path))
    if not scopes:
        return graph
    found: dict[str, str] = {}
    for node in graph.nodes:
        told = scopes.get(node.name, scopes.get(node.name.rpartition(".")[0]))
        if told is not None:
            found[node.name] = told
    return graph.replace(scopes=found, modules=classes)


def _namespace(node: Message) -> str:
    """The entry of a node; "" without one, and where it cannot be read, because it changes no figure."""
    for data in node.get("metadata_props", ()):
        if KEY.encode() in bytes(data[:64]):
            try:
                entry = decode(ENTRY, data)
            except DojangError:
                continue
            if entry.get("key") == KEY:
                return entry.get("value", "")
    return ""

"""The weights of a network as kernels need them: batch norms folded in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.base.errors import UsageError
from dojang.engine.fuse import Group
from dojang.engine.reference.operators import apply, typed


@dataclass(frozen=True)
class Weights:
    """The arrays of a graph, read when they are packed."""

    graph: Graph

    def array(self, node: Node, role: str) -> np.ndarray:
        """A weight array as it is."""
        return np.asarray(self.graph.weights[node.array(role)])

    def constant(self, node: Node) -> np.ndarray:
        """The value of a constant."""
        arrays = {r: typed(self.graph, node.name, self.array(node, r)) for r in self.graph.node_params(node)}
        return typed(self.graph, node.name, apply(node, (), arrays))

    def affine(self, norm: Node) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of a batch norm, in float64."""
        arrays = {r: np.asarray(self.array(norm, r), "f8") for r in self.graph.node_params(norm)}
        with np.errstate(all="ignore"):
            scale = arrays.get("weight", 1.0) / np.sqrt(arrays["running_var"] + norm.attrs["eps"])
            return scale, arrays.get("bias", 0.0) - arrays["running_mean"] * scale

    def folded(self, group: Group) -> tuple[np.ndarray, np.ndarray | None]:
        """Weights and bias with the batch norm folded in, computed in float64 where there is one."""
        node = group.node
        if node.array("weight") not in self.graph.weights:
            raise UsageError(
                f"{node.name}: its weights were released after they were packed, and are now needed in another form; "
                "compile with release=False"
            )
        weight = self.array(node, "weight")
        bias = self.array(node, "bias") if node.attrs["bias"] else None
        if group.norm is None:
            return weight, bias
        scale, shift = self.affine(group.norm)
        bias = shift if bias is None else bias * scale + shift
        if node.op == "conv_transpose":
            groups = node.attrs["groups"]
            parts = np.asarray(weight, "f8").reshape(groups, -1, *weight.shape[1:])
            parts = parts * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
            return parts.reshape(weight.shape), bias
        # Multiplied in float64, rounded once, without a float64 copy of all weights.
        folded = np.empty(weight.shape, np.result_type(weight, np.float32))
        np.multiply(weight, scale.reshape(-1, *(1,) * (weight.ndim - 1)), out=folded, casting="same_kind")
        return folded, bias

"""Published networks end to end: the error of the compiled engine and of PyTorch in float32, both against float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dojang.arith.graph import Graph
from dojang.engine.compiled import compile
from dojang.formats import zoo
from dojang.formats.torch import to_module

FACTOR, FLOOR = 10, 2.0**-20
"""At most so many times the error of PyTorch's direct float32 sums, plus this part of the largest score."""


@dataclass(frozen=True)
class Errors:
    """Largest differences from float64, the largest score, and whether the best class is the same."""

    ours: float
    plain: float
    scale: float
    same_class: bool

    @property
    def fine(self) -> bool:
        """Whether the rule holds."""
        return self.ours <= FACTOR * self.plain + FLOOR * self.scale and self.same_class


def filled(graph: Graph) -> Graph:
    """He-initialised weights, batch norms near the identity: signals keep their size through all layers."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in graph.param_shapes.items():
        if name.endswith(("running_var", ".weight")) and len(shape) == 1:
            weights[name] = rng.uniform(0.7, 1.3, shape).astype("f4")
        else:
            values = rng.standard_normal(shape, np.float32)
            weights[name] = values * np.float32((2 / max(1, np.prod(shape[1:]))) ** 0.5 if len(shape) > 1 else 0.1)
    return graph.replace(weights=weights)


def errors(name: str, threads: int | None = None) -> Errors:
    """One picture of noise through a network of the zoo."""
    graph = filled(zoo.load(name))
    (node,) = graph.inputs
    x = np.random.default_rng(1).standard_normal((1, *node.attrs["shape"]), np.float32)
    module = to_module(graph).eval()
    with torch.no_grad():
        plain = module(torch.from_numpy(x)).numpy()
        exact = module.double()(torch.from_numpy(x).double()).numpy()
    found = compile(graph, threads=threads)(x)
    assert found.shape == exact.shape
    return Errors(
        float(np.abs(found - exact).max()),
        float(np.abs(plain - exact).max()),
        float(np.abs(exact).max()),
        bool((found.argmax(1) == exact.argmax(1)).all()),
    )

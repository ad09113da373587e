"""PyTorch modules: read into a Graph, written as a module, and run as a backend of torch.compile.

`from_module` reads a module, `to_module` makes one, `load_state` reads weight files, `load_callable` runs the code
that a person names. Only this package, `training` and the benches import torch.
"""

from dojang.formats.checkpoint import apply_state
from dojang.formats.torch.read.code import load_callable
from dojang.formats.torch.read.module import from_module, paths_of
from dojang.formats.torch.read.saved import load_saved
from dojang.formats.torch.read.state import load_state
from dojang.formats.torch.write.module import Network, to_module, weights_of

__all__ = [
    "Network",
    "apply_state",
    "from_module",
    "load_callable",
    "load_saved",
    "load_state",
    "paths_of",
    "to_module",
    "weights_of",
]

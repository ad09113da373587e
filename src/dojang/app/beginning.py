"""Where a training begins: with fresh weights, with trained ones, with a new last layer, with somebody's own module."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.feeding import fed
from dojang.app.networks import InputSize, as_trained, is_module, load, names_code, read_arrays, torch_format
from dojang.app.samples import asked_of, load_samples, numbers_only, outputs_of
from dojang.arith import classes
from dojang.arith.graph import Graph
from dojang.base.errors import GraphError, UsageError
from dojang.formats import checkpoint
from dojang.training.asked import Asked, Layout, PerChannel, TaskFlag, Values
from dojang.training.config import Mode
from dojang.training.data import Data


@dataclass(frozen=True)
class Wanted:
    """What a person asks to train, on what: the keywords of `train` of these names. `seed` draws new weights."""

    net: Any
    data: Any
    val_data: str | Path | None
    weights: str | Path | None
    input_size: InputSize | None
    num_classes: int | None
    task: TaskFlag | None
    values: Values | None
    layout: Layout | None
    mean: PerChannel | None
    std: PerChannel | None
    seed: int

    def asked(self, graph: Graph) -> Asked:
        """What is said of the data, for this network."""
        return asked_of(graph, self.task, self.values, self.layout, self.mean, self.std)

    def samples(self, graph: Graph) -> Data:
        """The data set, for the network that will be trained on it."""
        return load_samples(self.data, graph, self.val_data, self.asked(graph))


@dataclass(frozen=True)
class Beginning:
    """What `train` starts from. `module` is trained: the owner's own (`owned`), or one made from `graph`.

    `anew` names the arrays of a last layer that starts anew, `remarks` says in sentences what was decided.
    """

    graph: Graph
    samples: Data
    module: Any
    owned: bool
    fresh: bool
    mode: Mode
    anew: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())
    input_size: InputSize | None = None

    def about(self) -> dict[str, str]:
        """What `resume` knows the run by, beside data and settings: the network's text and its first weights."""
        from dojang.formats import text

        said = {} if self.owned else {"network": text.to_text(self.graph.replace(weights={}))}
        if self.fresh or self.owned:
            return said
        digest = hashlib.sha256()
        for name in sorted(self.graph.param_shapes):
            digest.update(np.ascontiguousarray(self.graph.weights[name], np.float32).tobytes())
        return {**said, "weights": digest.hexdigest()}

    def read(self, state: Mapping[str, Any] | None = None) -> Graph:
        """The network with the module's weights as they are now, or with those of `state`."""
        if not self.owned:
            if state is None:
                return torch_format().weights_of(self.module, self.graph)
            arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
            return checkpoint.apply_state(self.graph, arrays, strict=False)
        if state is None:
            return load(self.module, input_size=self.input_size)
        now = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        try:
            self.module.load_state_dict(state)
            return load(self.module, input_size=self.input_size)
        finally:
            self.module.load_state_dict(now)


def beginning(wanted: Wanted) -> Beginning:
    """Network, data and module of a training, which fit each other.

    Raises what `load` and `load_samples` raise, and `DataError` where the data have other classes than a module.
    """
    net, weights, num_classes = wanted.net, wanted.weights, wanted.num_classes
    if is_module(net) or names_code(net):
        return _owned(wanted)
    fresh = weights is None and starts_fresh(net)
    remarks: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    if fresh:
        graph = load(net, input_size=wanted.input_size, num_classes=num_classes, arrays=False).replace(weights={})
    else:
        graph = _with_weights(net, weights, wanted.input_size, num_classes)
    samples = wanted.samples(graph)
    if not fresh and _needs_head(graph, samples, num_classes):
        from dojang.training.heads import head_of, with_new_head

        old, count = head_of(graph), outputs_of(graph)
        graph, anew = with_new_head(graph, samples.outputs, wanted.seed)
        why = (
            f"the network gives {count} outputs, and the data ask for {samples.outputs}" if count != samples.outputs
            else "the data have other classes than the network was trained on"
        )  # fmt: skip
        remarks = (f"The last layer {old.name} is replaced by one with {samples.outputs} outputs, because {why}.",)
    samples = fed(graph, samples, wanted.asked(graph))
    from dojang.training.start import module_of

    mode: Mode = "scratch" if fresh else "fine-tune"
    if isinstance(net, Graph) and not fresh and weights is None and not anew:
        mode = "auto"  # it may be of a module that nobody has trained
    return Beginning(graph, samples, module_of(graph, wanted.seed), False, fresh, mode, anew, remarks)


def starts_fresh(net: Any) -> bool:
    """Whether the network is text, which names layers but no weights of its own: a zoo name or a .net file."""
    if isinstance(net, Graph):
        return not net.weights
    return isinstance(net, (str, Path)) and not _is_stored(net) and not names_code(net)


def _is_stored(net: str | Path) -> bool:
    """Whether it is a file that holds weights."""
    return Path(net).suffix.lower() in (".onnx", ".safetensors")


def _needs_head(graph: Graph, samples: Data, num_classes: int | None) -> bool:
    """Whether the data ask for another last layer than the trained network has."""
    count = outputs_of(graph)
    if samples.task == "unlabelled" or count is None:
        return False
    if count != samples.outputs:
        return num_classes in (None, samples.outputs)  # another number is for match_classes to refuse
    known = classes.from_text(graph.meta.get("classes", ""))
    plain = not samples.named or tuple(samples.classes) == tuple(map(str, range(len(samples.classes))))
    if samples.task != "classification" or len(known) != count or plain or numbers_only(known, samples):
        return False
    return set(known) != set(samples.classes)


def _with_weights(net: Any, weights: str | Path | None, input_size: InputSize | None, num_classes: int | None) -> Graph:
    """A network with trained weights. They may be of a network with another number of classes."""
    stored = isinstance(net, (str, Path)) and _is_stored(net)
    if weights is None or num_classes is None or stored:
        return load(net, weights=weights, input_size=input_size, num_classes=None if stored else num_classes)
    graph = load(net, input_size=input_size, num_classes=num_classes, arrays=False).replace(weights={})
    arrays = read_arrays(Path(weights))
    from dojang.training.heads import arrays_of, head_of, resized

    head = head_of(graph)
    (name, shape), *_ = [(n, graph.param_shapes[n]) for n in sorted(arrays_of(head, graph)) if n.endswith("weight")]
    there = checkpoint.without_prefix(arrays)
    near = there.get(name)
    if near is None:
        spare = [a for n, a in there.items() if n not in graph.param_shapes and tuple(a.shape[1:]) == tuple(shape[1:])]
        near = spare[0] if len(spare) == 1 else None
    if near is not None and near.shape[0] != shape[0] and tuple(near.shape[1:]) == tuple(shape[1:]):
        graph = resized(graph, int(near.shape[0]))
    try:
        return as_trained(checkpoint.apply_state(graph, arrays), Path(weights))
    except GraphError as error:
        raise error.within(str(weights)) from None


def _owned(wanted: Wanted) -> Beginning:
    """Somebody's module, which is trained as it is."""
    net, weights, input_size = wanted.net, wanted.weights, wanted.input_size
    if wanted.num_classes is not None:
        raise UsageError("--num-classes applies to zoo names, .net texts and files; change the module itself")
    module = net if is_module(net) else torch_format().load_callable(net)
    remarks: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    if weights is not None:
        from dojang.training.start import take_arrays

        anew = take_arrays(module, read_arrays(Path(weights)), str(weights))
        if anew:
            remarks = (f"{', '.join(anew)} start anew, because the weights have them in other sizes.",)
    graph = load(module, input_size=input_size)
    if weights is not None and not anew:
        graph = as_trained(graph, Path(weights))
    if isinstance(net, str):
        graph = graph.replace(name=net.rpartition(":")[2])
    samples = fed(graph, wanted.samples(graph), wanted.asked(graph))
    mode: Mode = "auto" if weights is None else "fine-tune"
    return Beginning(graph, samples, module, True, False, mode, anew, remarks, input_size)

"""Following a PyTorch forward with stand-ins for tensors: shapes by our own rules, nothing allocated, nothing run.

The forward of the user's module runs as plain Python, but on `Traced` stand-ins that know only their shape. Every
PyTorch function called on them arrives in `Tracer.function`, which lowers it (`ops.py`) to nodes of a Graph. So
shapes are plain numbers in the forward: loops over them, asserts and views with computed sizes all work. The batch is
a prime number that divides no size of the network, and so is recognised wherever arithmetic on shapes takes it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_map

from dojang.arith.conv import by
from dojang.arith.graph import Node
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.base.errors import DojangError, UnsupportedError, UsageError
from dojang.formats.torch.read.free import FREE
from dojang.formats.torch.read.intercept import Mode, is_leaf, patch, unpatch, walk
from dojang.formats.torch.read.memory import SCATTERS, ViewStep, certain, shows_memory
from dojang.formats.torch.read.traced import (
    ACTIVE,
    COMPLEX,
    HANDLERS,
    MODULES,
    VIEWS,
    DataDependent,
    Handler,
    Stale,
    Traced,
    name_of,
    plain,
)
from dojang.formats.torch.read.values import UnknownNumber

PRIMES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)
"""Candidates for the batch during a trace: the first that divides no size of the network."""

METADATA = frozenset(
    "dim size numel nelement ndimension is_contiguous is_floating_point is_complex stride element_size dtype device "
    "layout requires_grad is_cuda is_cpu is_meta is_sparse is_quantized is_nested is_leaf ndim shape get_device "
    "storage_offset grad_fn is_mkldnn is_mps is_xpu is_inference names is_signed is_pinned is_shared itemsize nbytes "
    "_set_grad_enabled is_grad_enabled grad __hash__ __len__ result_type can_cast is_tensor promote_types "
    "is_same_size _is_view is_neg is_conj __format__ __repr__ __contains__ set_grad_enabled".split()
)
"""Functions that only ask what a stand-in knows; PyTorch answers them itself."""

YES_OR_NO = frozenset(("__bool__", "equal", "allclose"))
"""Those of `DECISIONS` that answer yes or no, so that both ways can be followed."""

DECISIONS = frozenset("__bool__ __int__ __float__ __index__ item tolist __array__ numpy equal allclose nonzero".split())
"""Functions whose result depends on values, and which plain Python would then act on."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A real tensor that was computed from parameters or buffers: by which function of what. It is held, so that its
    id stays its own. `name` is empty where the Graph cannot compute it again: it is then read as it is. `sources` are
    the known tensors that went in, in either case: they say which stored parameters it counts by.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: torch.Tensor
    trained: bool
    sources: tuple[torch.Tensor, ...] = ()


class Tracer:
    """What is known while one forward is followed. Real tensors stay real, so plain Python works on them; they become
    `constant` nodes where they meet a traced value."""

    tuples: ClassVar[tuple[type, ...]] = (tuple, list)

    def __init__(
        self, module: nn.Module, sizes: Sequence[Sequence[int]], batch: int | None = None, but: int = 0
    ) -> None:
        self.nodes: list[Node] = []
        self.root = module
        self.paths: dict[int, str] = {}
        self.arrays: dict[int, str] = {}
        self.trained: set[str] = set()
        self.tensors: dict[str, torch.Tensor] = {}
        self.held: list[tuple[str, torch.Tensor, bool]] = []
        self.values: dict[str, torch.Tensor] = {}
        self.modules: list[nn.Module] = []
        for path, m in walk(module):
            if id(m) not in self.paths:
                self.paths[id(m)] = path
                self.modules.append(m)
            prefix = f"{path}." if path else ""
            for held, learned in ((m._parameters, True), (m._buffers, False)):
                for key, value in held.items():
                    if value is not None:
                        if is_lazy(value):
                            raise UsageError(
                                f"{prefix}{key}: a lazy layer has no size yet; run the module once on a batch before"
                            )
                        self.arrays.setdefault(id(value), prefix + key)
                        self.tensors[prefix + key] = value
                        self.held.append((prefix + key, value, learned))
                        if learned:
                            self.trained.add(prefix + key)
        known = [tuple(v.shape) for v in self.tensors.values()] + [tuple(s) for s in sizes]
        self.batch = batch or pick_batch(known, but)
        first = next(iter(self.tensors.values()), None)
        floating = next((p for p in self.tensors.values() if p.is_floating_point()), None)
        self.device = first.device if first is not None else torch.device("cpu")
        self.dtype = floating.dtype if floating is not None else torch.float32
        self.used: set[str] = set()
        self.repeats: dict[str, int] = {}
        self.reserved = set(self.paths.values())
        self.stack: list[tuple[str, bool]] = [("", False)]
        self.func = ""
        self.constants: dict[str, Traced] = {}
        self.replayed: dict[int, Traced] = {}
        self.whole: set[str] = set()
        self.tokens: set[str] = set()  # casts of what an embedding looks up
        self.derived: dict[int, Derived] = {}
        self.unplaced: list[tuple[str, torch.Tensor]] = []
        self.reads: dict[int, list[tuple[str, torch.Tensor]]] = {}
        self.before_write: Callable[[torch.Tensor], None] | None = None
        self.overlaid: dict[int, tuple[torch.Tensor, Traced]] = {}
        self.decisions: list[bool] = []
        self.decided: list[str] = []
        self.ahead: list[bool] = []
        self.images: list[Traced] = []
        self.counted = False  # a number was taken for one that is made of the number of images
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.complex = False  # whether there is a complex value

    # -- names -------------------------------------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """Where the forward is, for messages: the innermost module and the function."""
        path, leaf = self.stack[-1]
        return path if leaf and path else ".".join(p for p in (path, self.func) if p) or type(self.root).__name__

    def base(self) -> str:
        """The name of what is being made: a PyTorch layer's path, or the function's name under its module's path."""
        path, leaf = self.stack[-1]
        if leaf and path:
            return path
        return ".".join(p for p in (path, self.func) if p) or "value"

    def fresh(self, part: str | None = None, name: str | None = None) -> str:
        """A name not used before; functions do not take the names of modules."""
        base = name or self.base()
        own = name is not None or (self.stack[-1][1] and part is None)
        if part:
            base = f"{base}.{part}"
        found = base
        while found in self.used or (found in self.reserved and not (own and found == base)):
            self.repeats[base] = self.repeats.get(base, 0) + 1
            found = f"{base}_{self.repeats[base]}"
        self.used.add(found)
        return found

    # -- making nodes ------------------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        *inputs: Traced,
        part: str | None = None,
        name: str | None = None,
        arrays: Mapping[str, str] | None = None,
        **attrs: Any,
    ) -> Traced:
        """A new node over traced values; raises where shapes do not fit."""
        title = self.fresh(part, name)
        read, kind = [self.read(i) for i in inputs], self.dtype_of(op, inputs) if inputs else None
        whole = [r in self.whole for r in read] if self.whole else ()
        if any(whole) and not (all(whole) and op in KEEPS_WHOLE):  # as PyTorch promotes them
            inputs = tuple(self.cast(i, torch.float32) if w else i for i, w in zip(inputs, whole, strict=True))
            read = [self.read(i) for i in inputs]
        elif whole and any(whole):
            self.whole.add(title)
        node = Node.of(title, op, *read, arrays=arrays, **attrs)
        shape = node.infer([i.sizes for i in inputs])
        self.nodes.append(node)
        return self.made(title, shape, kind)

    def dtype_of(self, op: str, inputs: Sequence[Traced]) -> torch.dtype | None:
        """Whole numbers and truth values stay what they are where an operator keeps them; None: real numbers."""
        if op not in KEEPS_WHOLE and op != "reduce_sum":
            return None
        with torch._C.DisableTorchFunctionSubclass():
            types = [i.dtype for i in inputs]
        if any(d.is_floating_point or d.is_complex for d in types):
            return None
        return torch.int64 if op == "reduce_sum" else functools.reduce(torch.promote_types, types)

    def made(self, name: str, sizes: Sequence[int], dtype: torch.dtype | None = None) -> Traced:
        """The stand-in for a node's output."""
        self.shapes[name] = tuple(sizes)
        return Traced(name, sizes, dtype or self.dtype, self.device)

    def read(self, value: Traced) -> str:
        """The node that makes a value, now."""
        if value.version != value.memory.version:
            self.renew(value)
        return value.node

    def renew(self, value: Traced) -> None:
        """What a value shows now, after its memory was written through another view."""
        memory = value.memory
        if not all(certain(steps) for steps in (value.steps, *(steps for steps, _, _ in memory.written))):
            raise Stale(f"{self.place}: reads a view whose memory was changed in place through another view")
        for steps, node, sizes in memory.written:
            whole = Traced(memory.node, memory.sizes, memory.dtype, memory.device)
            shown = self.views(whole, steps)
            part = Traced(node, sizes, memory.dtype, memory.device)
            for outer, step in zip(reversed(shown[:-1]), reversed(steps), strict=True):
                part = self.within("setitem", SCATTERS[step.name], outer, part, step)
            memory.node = self.read(part)
        memory.written.clear()
        whole = Traced(memory.node, memory.sizes, memory.dtype, memory.device)
        value.node = self.views(whole, value.steps)[-1].node
        value.version, value.alike = memory.version, None

    def views(self, whole: Traced, steps: Sequence[ViewStep]) -> list[Traced]:
        """The whole, and what each view in turn shows of it."""
        found = [whole]
        for step in steps:
            result = self.within(step.name, HANDLERS[step.name], found[-1], *step.args, **step.kwargs)
            found.append(result if step.index is None else result[step.index])
        return found

    def within(self, name: str, function: Handler, *args: Any, **kwargs: Any) -> Any:
        """A handler, as if the forward had called the function of this name."""
        outer, self.func = self.func, name
        try:
            return function(self, *args, **kwargs)
        finally:
            self.func = outer

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Traced:
        """An input node: of whole numbers or truth values where `dtype` is one of these, else of real numbers."""
        title = self.fresh(name=name if name not in self.reserved else f"{name}_input")
        whole = not dtype.is_floating_point
        kind = str(dtype).removeprefix("torch.") if whole else "float32"
        self.nodes.append(Node.of(title, "input", shape=tuple(shape), dtype=kind))
        if whole:
            self.whole.add(title)
        value = self.made(title, (self.batch, *shape), dtype if whole else None)
        self.images.append(value)
        return value

    def value(self, value: Any) -> Traced:
        """Anything as a traced value: numbers and real tensors become constants."""
        if isinstance(value, Traced):
            return value
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        return self.number(value)

    def number(self, value: float, *beside: Any) -> Traced:
        """A number as a constant with one axis; with none where a value that it stands beside has none, so that the
        result has none either, as in PyTorch.
        """
        bare = any(isinstance(v, Traced) and not v.sizes for v in beside)
        made = self.fill(float(value), () if bare else (1,))
        if not isinstance(value, int):
            return made
        kind = torch.bool if isinstance(value, bool) else torch.int64
        types = [v.dtype for v in beside if isinstance(v, Traced)]
        if kind == torch.int64 and types and not types[0].is_floating_point and types[0] != torch.bool:
            kind = types[0]  # a number does not widen what it stands beside
        return self.made(made.node, made.sizes, kind)

    def fill(self, value: float, shape: Sequence[int]) -> Traced:
        """A constant of one value. A batch axis is made by broadcasting. Raises `ImagesCounted` for a value that was
        made of the number of images.
        """
        if self.batch in PRIMES and counts_images(value, self.batch):
            self.counted = True
            raise ImagesCounted(f"{self.place}: computes with the number of images, which stays open")
        sizes = tuple(shape)
        plain_sizes = tuple(1 if s % self.batch == 0 and self.batch > 1 else s for s in sizes)
        if plain_sizes == sizes:
            return self.emit("constant", part="value", shape=sizes, fill=value)
        alike = torch.full(tuple(s // self.batch if s % self.batch == 0 else s for s in sizes), float(value))
        made = self.spread(sizes, alike)
        if made is None:
            raise UnsupportedError(f"{self.place}: {by(sizes)} has the batch in several axes")
        return made

    def tensor(self, value: torch.Tensor) -> Traced:
        """A real tensor as a constant; one that was computed from parameters is computed from them in the Graph too."""
        found = self.arrays.get(id(value))
        if found is None and id(value) in self.derived and value.is_floating_point():
            computed = self.again(value)
            if computed is not None:
                return computed
        if found is None:
            return self.loose(value, self.learned(value))
        self.noted(found, value)
        if found not in self.constants:
            arrays = {"value": found}
            shape = tuple(value.shape)
            name = self.fresh(name=found)
            self.nodes.append(Node.of(name, "constant", arrays=arrays, shape=shape, trained=found in self.trained))
            self.constants[found] = self.made(name, shape, value.dtype)
        return self.constants[found]

    def again(self, value: torch.Tensor) -> Traced | None:
        """A tensor that was computed from parameters, computed from them in the Graph, once; None where the Graph has
        no operator for it.
        """
        made = self.derived[id(value)]
        if made.name not in HANDLERS:
            return None
        known = self.replayed.get(id(value))
        if known is not None:
            return known
        kept = len(self.nodes)
        try:
            args, kwargs = tree_map(self.lift, usual_form(made.args, made.kwargs))
            result = self.within(made.name, HANDLERS[made.name], *args, **kwargs)
        except (DojangError, AttributeError, TypeError):  # a form that the handler does not know
            result = None
        if isinstance(result, Traced) and result.sizes == tuple(value.shape):
            self.replayed[id(value)] = result
            return result
        self.forget(kept)
        return None

    def forget(self, kept: int) -> None:
        """All nodes but the first so many never were; their names are free again."""
        gone = {node.name for node in self.nodes[kept:]}
        self.used -= gone
        self.whole -= gone
        del self.nodes[kept:]
        self.replayed = {k: v for k, v in self.replayed.items() if v.node not in gone}
        self.constants = {k: v for k, v in self.constants.items() if v.node not in gone}

    def lift(self, value: Any) -> Any:
        """Parameters, buffers and what was computed from them as nodes; indices stay real."""
        return self.tensor(value) if self.known(value) and value.is_floating_point() else value

    def learned(self, value: Any) -> bool:
        """Whether a tensor is a trained parameter or was computed from one."""
        if isinstance(value, nn.Parameter) or self.arrays.get(id(value)) in self.trained:
            return True
        return id(value) in self.derived and self.derived[id(value)].trained

    def noted(self, array: str, value: torch.Tensor) -> None:
        """An array of the Graph is what this tensor holds now. Where its memory is, is asked by the first write: most
        forwards write nothing, and each question would be followed as one more call of PyTorch.
        """
        self.unplaced.append((array, value))

    def write(self, value: torch.Tensor) -> torch.Tensor | None:
        """A real tensor is about to change in place.

        What was read of its memory keeps the numbers that it had; what is read later is an array of its own. Nothing
        is computed again in the Graph from what no longer is what it was. A tensor that the forward itself computed
        from parameters is copied before, so that what it was can still be computed again: the copy is given back.
        """
        if self.before_write is not None:
            self.before_write(value)
        for array, read in self.unplaced:
            self.reads.setdefault(read.untyped_storage()._cdata, []).append((array, read))
        self.unplaced.clear()
        for array, read in self.reads.pop(value.untyped_storage()._cdata, ()):
            self.tensors[array] = read.detach().clone()
            self.constants.pop(array, None)
            if self.arrays.get(id(read)) == array:
                del self.arrays[id(read)]
                self.derived[id(read)] = Derived("", (), {}, read, array in self.trained)
        memory = value.untyped_storage()._cdata
        alone = (
            id(value) in self.derived
            and self.derived[id(value)].name
            and not any(held.untyped_storage()._cdata == memory for held in self.tensors.values())
        )
        before = value.detach().clone() if alone else None
        if before is not None:
            self.derived[id(before)] = replace(self.derived[id(value)], result=before)
        for key in [k for k in self.replayed if self.shows(self.derived[k].result, memory)]:
            now = self.replayed.pop(key)
            if before is not None and key == id(value):
                self.replayed[id(before)] = now
        for key, made in list(self.derived.items()):
            if not made.name or key == id(before):
                continue
            read = [v for v in tree_flatten((made.args, made.kwargs))[0] if self.shows(v, memory)]
            if before is None or self.shows(made.result, memory) or any(v is not value for v in read):
                self.derived[key] = replace(made, name="", args=(), kwargs={})
            elif read:
                swap = lambda v: before if v is value else v  # noqa: E731
                args, kwargs = tree_map(swap, (made.args, made.kwargs))
                self.derived[key] = replace(made, args=args, kwargs=kwargs)
        return before

    @staticmethod
    def shows(value: Any, memory: int) -> bool:
        """Whether a value is a real tensor that shows this memory."""
        if not isinstance(value, torch.Tensor) or isinstance(value, Traced):
            return False
        return value.untyped_storage()._cdata == memory

    def known(self, value: Any) -> bool:
        """Whether a tensor is a parameter or buffer, or was computed from one."""
        return isinstance(value, torch.Tensor) and (id(value) in self.arrays or id(value) in self.derived)

    def loose(self, value: torch.Tensor, trained: bool = False) -> Traced:
        """A real tensor that is no parameter or buffer; `trained` when it was computed from parameters."""
        shape = tuple(value.shape)
        if not trained and value.device.type != "meta" and value.numel() and not value.is_complex():
            first = value.reshape(-1)[0]
            if bool((value == first).all()):
                return self.fill(float(first), shape)
        name = self.fresh("value")
        array = f"{name}.value"
        self.register(array, value, trained)
        self.noted(array, value)
        self.nodes.append(Node.of(name, "constant", shape=shape, trained=trained))
        self.constants[array] = made = self.made(name, shape, value.dtype)
        return made

    def register(self, array: str, value: torch.Tensor, trained: bool = True) -> None:
        """A real tensor as an array of the Graph."""
        self.tensors[array] = value
        self.arrays[id(value)] = array
        if trained:
            self.trained.add(array)

    def opaque(
        self, kind: str, sources: Sequence[Traced], shape: Sequence[int], dtype: torch.dtype | None = None,
        free: bool = False, name: str | None = None,
    ) -> Traced:  # fmt: skip
        """An `unknown` node of a shape that is known, also where the batch is part of an axis or of none."""
        return self.placed(UNKNOWN, sources, shape, dtype, name, {"kind": kind, "free": free})

    def standard(
        self, kind: str, sources: Sequence[Traced | None], shape: Sequence[int], dtype: torch.dtype | None = None,
        output: int = 0, part: str | None = None, **settings: Any,
    ) -> Traced:  # fmt: skip
        """One output of an operator of ONNX, which is run as the standard defines it; None for an input left out."""
        places = tuple(place for place, source in enumerate(sources) if source is not None)
        given = [source for source in sources if source is not None]
        text = json.dumps(settings, separators=(", ", ": "))
        title = self.fresh(part)
        attrs = {"kind": kind, "settings": text, "places": places, "output": output, "first": output == 0,
                 "dtype": str(dtype or torch.float32).removeprefix("torch.")}  # fmt: skip
        if dtype is not None and not dtype.is_floating_point:
            self.whole.add(title)
        return self.placed(STANDARD, given, shape, dtype, title, attrs)

    def cast(self, value: Traced, dtype: torch.dtype) -> Traced:
        """The numbers of a value as another type, by a node."""
        return self.standard("Cast", (value,), value.sizes, dtype, part="cast", to=ONNX_TYPES[dtype])

    def placed(
        self, op: str, sources: Sequence[Traced], shape: Sequence[int], dtype: torch.dtype | None, name: str | None,
        attrs: Mapping[str, Any],
    ) -> Traced:  # fmt: skip
        """A node whose shape is said, not inferred: without the batch, and where that is."""
        sizes, inputs = tuple(shape), [self.read(s) for s in sources]
        axes = [a for a, s in enumerate(sizes) if self.batch > 1 and s and s % self.batch == 0]
        title = name or self.fresh()
        if len(axes) > 1 or self.batch == 1:
            self.nodes.append(Node.of(title, op, *inputs, **attrs))
            return self.made(title, sizes, dtype)
        axis = axes[0] if axes else -1
        parts = sizes[axis] // self.batch if axes else 1
        own = sizes if not axes else (*sizes[:axis], *((parts,) if parts > 1 else ()), *sizes[axis + 1 :])
        self.nodes.append(Node.of(title, op, *inputs, shape=own, batch_axis=axis, **attrs))
        made = self.made(title, (*own[:axis], self.batch, *own[axis:]) if axes else own, dtype)
        if parts > 1:
            wanted = tuple(-1 if a == axis else s for a, s in enumerate(sizes))
            return self.made(self.emit("reshape", made, part="shape", shape=wanted).node, sizes, dtype)
        return made

    def roles(self, node: str, **values: torch.Tensor | None) -> dict[str, str]:
        """Array names by role for a layer's real tensors; what is not registered is registered under the node."""
        found: dict[str, str] = {}
        for role, value in values.items():
            if value is None:
                continue
            if id(value) not in self.arrays:
                self.register(f"{node}.{role}", value.detach() if not isinstance(value, nn.Parameter) else value)
                self.arrays[id(value)] = f"{node}.{role}"
                self.values[f"{node}.{role}"] = value
                self.derived.setdefault(id(value), Derived("", (), {}, value, self.learned(value)))
            found[role] = self.arrays[id(value)]
            self.noted(found[role], value)
        return found

    def owner(self, value: Any, role: str = "weight") -> str | None:
        """The path of the module that owns an array of this role, as a name for the layer that reads it."""
        array = self.arrays.get(id(value), "")
        path = array.removesuffix(f".{role}")
        return path if path != array and path not in self.used else None

    def unknown(
        self, func: Any, name: str, args: Any, kwargs: Any, kind: str | None = None, module: nn.Module | None = None
    ) -> Any:
        """A function that is not known becomes `unknown` nodes, one per tensor it returns, of the shapes it tells.

        Parameters that go in (or are those of `module`) are counted, as constants that it reads.
        """
        name = name.strip("_")
        flat, _ = tree_flatten((args, kwargs))
        flat += list(module.parameters()) if module is not None else []
        tensors = [v for v in flat if isinstance(v, torch.Tensor) and (isinstance(v, Traced) or self.known(v))]
        sources = [self.value(v) for v in tensors]
        try:
            with torch._C.DisableTorchFunction():
                result = func(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnsupportedError(f"{self.place}: {name} cannot be followed ({reason})") from error
        count, free = 0, kind is None and name in FREE

        def place(value: Any) -> Any:
            nonlocal count
            if not isinstance(value, torch.Tensor):
                return value
            count += 1
            title = self.fresh(None if count == 1 else f"output{count}")
            label = (kind or name) if count == 1 else f"{kind or name}, output {count}"
            return self.opaque(label, sources, tuple(value.shape), value.dtype, free, title)

        return tree_map(place, result)

    # -- what PyTorch calls ------------------------------------------------------------------------------------------

    def function(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One PyTorch function, called by the forward."""
        if (
            func is torch.Tensor.where and len(args) + len(kwargs) == 3
        ):  # the one method in another order than its function
            given = dict(zip(("self", "condition", "other"), args, strict=False)) | kwargs
            func, args, kwargs = torch.where, (given["condition"], given["self"], given["other"]), {}
        called = name_of(func)
        if called in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        base, in_place = plain(called)
        if self.overlaid:
            args, kwargs = tree_map(self.over, (args, kwargs))
            types = [*types, *(Traced for v in tree_flatten((args, kwargs))[0] if isinstance(v, Traced))]
        if in_place and Traced in types and args and not isinstance(args[0], Traced):
            args = (self.overlay(args[0]), *args[1:])
        if Traced not in types and not self.wants(base, args, kwargs):
            return self.real(func, base, args, kwargs)
        if called == "item" or called in DECISIONS or UnknownNumber in types:
            self.decided += [v.node for v in tree_flatten((args, kwargs))[0] if isinstance(v, Traced)]
        if getattr(func, "__name__", "") == "__set__" and not (args and isinstance(args[0], Traced)):
            raise Stale(f"{self.place}: a parameter or buffer is made to stand for a computed tensor")
        if called in ("item", *DECISIONS) and args and isinstance(args[0], Traced):
            numbers = self.alike(args[0])
            if numbers is not None and numbers.numel() == 1 and math.prod(args[0].sizes) == 1:
                return func(numbers, *args[1:], **kwargs)
        if called == "item":
            return UnknownNumber(lambda: self.decide("__bool__"), lambda: self.decide("item"))
        if called in DECISIONS or UnknownNumber in types:
            return self.decide(called if called in DECISIONS else "item")
        return self.apply(func, base, in_place, args, dict(kwargs))

    def overlay(self, value: torch.Tensor) -> Traced:
        """A real tensor into which a traced value is written: from now on a stand-in takes its place."""
        if not isinstance(value, torch.Tensor) or id(value) in self.arrays:
            raise Stale(f"{self.place}: a traced value is written into a parameter or buffer")
        made = self.within("clone", HANDLERS["clone"], self.loose(value.clone()))
        self.overlaid[value.untyped_storage()._cdata] = value, made
        return made

    def over(self, value: Any) -> Any:
        """The stand-in for a real tensor that has one."""
        if not isinstance(value, torch.Tensor) or isinstance(value, Traced) or value.device.type == "meta":
            return value
        with torch._C.DisableTorchFunction():
            found = self.overlaid.get(value.untyped_storage()._cdata)
        if found is None:
            return value
        if found[0] is not value:
            raise Stale(f"{self.place}: a traced value was written into another view of this tensor")
        return found[1]

    def apply(self, func: Any, base: str, in_place: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One function by its handler's name, which is then the name of where the forward is."""
        outer, self.func = self.func, base
        try:
            return self.lower(func, base, in_place, args, kwargs)
        finally:
            self.func = outer

    def wants(self, base: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a function without traced values must be followed all the same: it makes something of batch size."""
        if base not in FACTORIES or self.batch == 1:
            return False
        flat, _ = tree_flatten((args, kwargs.get("size")))
        return any(type(v) is int and v and v % self.batch == 0 for v in flat)

    def real(self, func: Any, base: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of real tensors only: computed, and remembered where a parameter or buffer goes in."""
        changed = written(func, args, kwargs)
        before = [self.write(value) for value in changed]
        result = func(*args, **kwargs)
        if len(changed) == 1 and before[0] is not None and args and args[0] is changed[0] and base in HANDLERS:
            self.in_place(base, args, kwargs, before[0])
        several = isinstance(result, self.tuples)
        made = [v for v in (result if several else (result,)) if isinstance(v, torch.Tensor)]
        if not made:
            return result
        flat, _ = tree_flatten((args, kwargs))
        sources = [v for v in flat if self.known(v)]
        # Many functions give back what they were given: casts to the type it has, `contiguous`, in-place forms.
        made = [v for v in made if id(v) not in self.arrays and not any(v is given for given in flat)]
        if sources and made:
            trained = any(map(self.learned, sources))
            name = "" if several or changed or any(map(_rounds, sources, [made[0]] * len(sources))) else base
            for value in made:
                self.derived[id(value)] = Derived(
                    name, args if name else (), kwargs if name else {}, value, trained, tuple(sources)
                )
        return result

    def in_place(self, base: str, args: tuple[Any, ...], kwargs: dict[str, Any], before: torch.Tensor) -> None:
        """A real tensor has become what a function makes of what it was."""
        value, was = args[0], self.derived[id(before)]
        given = tree_flatten((args[1:], kwargs))[0]
        more = [v for v in given if self.known(v)]
        if base == "setitem" or any(self.shows(v, value.untyped_storage()._cdata) for v in given):
            return
        kept = {k: v for k, v in kwargs.items() if k != "inplace"}
        sources = (*was.sources, *more)
        trained = was.trained or any(map(self.learned, more))
        self.derived[id(value)] = Derived(base, (before, *args[1:]), kept, value, trained, sources)

    def decide(self, called: str) -> Any:
        """A decision by value: those that are yes or no can be tried both ways, when the caller asked for it."""
        if called in YES_OR_NO and len(self.decisions) < len(self.ahead):
            self.decisions.append(self.ahead[len(self.decisions)])
            return self.decisions[-1]
        what = {"__bool__": "an `if` on its values"}.get(called, f"{called.strip('_')}()")
        path = self.stack[-1][0] or type(self.root).__name__
        error = DataDependent(
            f"{path}: the forward depends on the values of a tensor ({what}); "
            "make the decision by shapes or by a setting of the module"
        )
        error.what, error.yes_or_no = what, called in YES_OR_NO
        raise error

    def lower(self, func: Any, base: str, in_place: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The nodes for one function; in place, the first argument then stands for the new value."""
        handler = HANDLERS.get(base)
        if self.complex and any(isinstance(v, Traced) and v.pair is not None for v in tree_flatten((args, kwargs))[0]):
            handler = COMPLEX.get(base)
        in_place = bool(kwargs.pop("inplace", False)) or in_place
        if kwargs.get("out") is not None:
            raise Stale(f"{self.place}: writes into out=")
        kwargs.pop("out", None)
        args, kwargs = usual_form(args, kwargs)
        kind, kept = None, len(self.nodes)
        result = self.evaluate(func, base, in_place, args, kwargs)
        if result is not None:
            handler = None
        elif handler is None:
            result = NotImplemented
        else:
            try:
                result = handler(self, *args, **kwargs)
            except TypeError as error:
                # raised by the call itself, not within: a form of it that the handler does not know
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise
                result = NotImplemented
            except ImagesCounted:
                self.forget(kept)
                kind, result = f"{base.strip('_')} with the number of images", NotImplemented
        if result is NotImplemented:
            if in_place:
                raise Stale(f"{self.place}: {base} works in place")
            return self.unknown(func, base, args, kwargs, kind)
        if in_place:
            return self.replace(args[0], result)
        if base in VIEWS and isinstance(args[0], Traced) and shows_memory(base, args):
            source, several = args[0], isinstance(result, self.tuples)
            for index, part in enumerate(result if several else (result,)):
                if isinstance(part, Traced) and part is not source:
                    step = ViewStep(base, args[1:], kwargs, index if several else None)
                    part.memory, part.version = source.memory, source.memory.version
                    part.steps = (*source.steps, step)
        return result

    def alike(self, value: Traced) -> torch.Tensor | None:
        """The numbers of a value that is known and the same for every image; None for others."""
        return value.alike if value.version == value.memory.version else None

    def mask(self, value: Any) -> Any:
        """A known value that is the same for every image as a real tensor that spreads over the batch; others as is."""
        numbers = self.alike(value) if isinstance(value, Traced) else None
        if numbers is None:
            return value
        fits = all(a in (b, 1) for a, b in zip(numbers.shape, value.sizes, strict=True))
        return numbers if fits else value

    def evaluate(self, func: Any, base: str, in_place: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function of values that are known and the same for every image; None where there are others.

        It is computed for real, without the batch: sizes that the batch is part of are taken without it.
        """
        flat, _ = tree_flatten((args, kwargs))
        traced = [v for v in flat if isinstance(v, Traced)]
        if not traced or base in RANDOM or any(v.alike is None for v in traced):
            return None
        if any(self.alike(v) is None for v in traced) or any(self.known(v) for v in flat if not isinstance(v, Traced)):
            return None

        def plain(value: Any) -> Any:
            if isinstance(value, Traced):
                return self.alike(value)
            sized = type(value) is int and value and value % self.batch == 0
            return value // self.batch if sized else value

        try:
            with torch._C.DisableTorchFunction():
                full = func(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))
                real_args, real_kwargs = tree_map(plain, (args, kwargs))
                if in_place:
                    real_args = (real_args[0].clone(), *real_args[1:])
                real = func(*real_args, **real_kwargs)
                full, real = (args[0], real_args[0]) if in_place else (full, real)
        except Exception:
            return None
        several = isinstance(real, self.tuples)
        pairs = list(zip(full, real, strict=True)) if several else [(full, real)]
        made = [self.spread(a.sizes if isinstance(a, Traced) else tuple(a.shape), b)
                if isinstance(a, torch.Tensor) else None for a, b in pairs]  # fmt: skip
        if not made or any(m is None for m in made):
            return None
        return tuple(made) if several else made[0]

    def spread(self, sizes: Sequence[int], real: Any) -> Traced | None:
        """A known value, the same for every image, as large as `sizes`; None where it is not so."""
        if not isinstance(real, torch.Tensor) or len(sizes) != real.dim() or real.is_complex():
            return None
        grown = [a for a, (b, s) in enumerate(zip(real.shape, sizes, strict=True)) if b != s]
        if len(grown) > 1 or any(real.shape[a] * self.batch != sizes[a] for a in grown):
            return None
        value = self.loose(real)
        if grown and real.shape[grown[0]] > 1:  # the batch in front of what it is part of
            axis = grown[0]
            apart = (*real.shape[:axis], 1, *real.shape[axis:])
            wide = HANDLERS["reshape"](self, value, *apart)
            wide = HANDLERS["expand"](self, wide, *(self.batch if a == axis else s for a, s in enumerate(apart)))
            value = HANDLERS["reshape"](self, wide, *sizes) if isinstance(wide, Traced) else None
        elif grown:
            value = HANDLERS["expand"](self, value, *sizes)
        if not isinstance(value, Traced):
            return None
        made = self.made(value.node, sizes, real.dtype)
        made.alike = real
        return made

    def replace(self, old: Traced, new: Traced) -> Traced:
        """`old` now stands for `new`; other views of its memory show it when they are read."""
        if not isinstance(old, Traced) or old.sizes != new.sizes or old.memory.copied:
            raise Stale(f"{self.place}: {self.func} changes a tensor in place")
        old.node = self.read(new)
        memory = old.memory
        if old.steps:
            memory.written.append((old.steps, old.node, old.sizes))
        else:
            memory.node = old.node
            memory.written.clear()
        memory.version += 1
        old.version, old.alike = memory.version, new.alike
        return old

    def call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """One module, called by the forward."""
        path = self.paths.get(id(module))
        if path is None:
            path = ".".join(p for p in (self.stack[-1][0], type(module).__name__.lower()) if p)
            self.paths[id(module)] = path
            for name, value in module.named_parameters():
                if id(value) not in self.arrays:
                    self.register(f"{path}.{name}", value)
        depth = len(self.stack)
        self.stack.append((path, is_leaf(module)))
        special = MODULES.get(type(module))
        result = NotImplemented
        if isinstance(module, torch.jit.ScriptModule):
            result = self.unknown(module.forward, "", args, kwargs, f"TorchScript {module.original_name}", module)
        elif special is not None and not (module._forward_hooks or module._forward_pre_hooks or
                                          "forward" in module.__dict__):  # fmt: skip
            result = special(self, module, *args, **kwargs)
        if result is NotImplemented:
            result = original(module, *args, **kwargs)
        del self.stack[depth:]
        return result

    @contextmanager
    def active(self, follow: bool = True) -> Iterator[None]:
        """Makes this the tracer of the thread: module calls come here and, with `follow`, all PyTorch functions."""
        if ACTIVE.tracer is not None:
            raise UnsupportedError("a network is already being traced on this thread")
        flags = [(m, m.__dict__["training"]) for m in self.modules if m.__dict__.get("training")]
        patch()
        ACTIVE.tracer = self
        for m, _ in flags:
            m.__dict__["training"] = False
        try:
            with torch.no_grad(), Mode(self) if follow else nullcontext():
                yield
        finally:
            for m, flag in flags:
                m.__dict__["training"] = flag
            ACTIVE.tracer = None
            unpatch()


def usual_form(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as handlers take them: the first one by its place, PyTorch's other names for `dim` and `keepdim` by
    these, and nothing about working in place.
    """
    kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(k, k): v for k, v in kwargs.items() if k not in ("inplace",)}
    word = next((w for w in ("input", "self", "tensors", "query") if w in kwargs), None) if not args else None
    return (args, kwargs) if word is None else ((kwargs.pop(word),), kwargs)


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The real tensors that a function changes."""
    own, called = getattr(func, "__name__", ""), name_of(func)
    found: list[Any] = list(tree_flatten(kwargs.get("out"))[0])
    if own == "__set__" or called == "__setitem__" or plain(called)[1] or kwargs.get("inplace") is True:
        found += [v for v in args[:1] if isinstance(v, torch.Tensor)] or list(kwargs.values())[:1]
    elif called in ("batch_norm", "instance_norm"):  # running statistics
        found += args[1:3]
    elif called.startswith("_foreach_") and called.endswith("_"):
        found += tree_flatten(args[0])[0]
    return [v for v in found if isinstance(v, torch.Tensor) and not isinstance(v, Traced)]


def _rounds(source: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a result is kept with less precision than float32, and than what it was computed from."""
    if not source.is_floating_point() or not result.is_floating_point():
        return False
    return torch.finfo(result.dtype).eps > max(torch.finfo(torch.float32).eps, torch.finfo(source.dtype).eps)


ONNX_TYPES = {
    torch.float32: 1, torch.uint8: 2, torch.int8: 3, torch.int16: 5, torch.int32: 6, torch.int64: 7, torch.bool: 9
}  # fmt: skip
"""The numbers that ONNX has for types that nodes are cast to."""

RANDOM = frozenset(
    "bernoulli normal uniform exponential multinomial rand_like randn_like randint_like dropout alpha_dropout".split()
)
"""Functions that give other numbers each time."""

KEEPS_WHOLE = frozenset(
    "reshape flatten squeeze unsqueeze transpose slice gather concat pad add sub mul maximum minimum neg abs sign clip "
    "reduce_max reduce_min floor ceil round".split()
)
"""Operators whose result has whole numbers where all their inputs have."""

FACTORIES = frozenset("zeros ones full empty expand repeat broadcast_to tile".split())
"""Functions that may be called with a batch size and no traced value."""


def _to_meta(value: Any) -> Any:
    if isinstance(value, Traced):
        return torch.empty(value.sizes, dtype=value.dtype, device="meta")
    if isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")):
        return torch.device("meta")
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def pick_batch(sizes: Sequence[Sequence[int]], but: int = 0) -> int:
    """A prime for the batch that divides none of the sizes, and so none of their products; another one than `but`."""
    seen = {s for shape in sizes for s in shape if s >= PRIMES[0]}
    primes = [p for p in PRIMES if p != but]
    return next((p for p in primes if not any(s % p == 0 for s in seen)), primes[0])


def counts_images(value: float, batch: int) -> bool:
    """Whether a number may be made of the number of images: it, its square or a reciprocal is a multiple, or it is one
    less than a multiple, as in a variance. Another number may look so by chance, but not for two primes.
    """
    if not value or not math.isfinite(value):
        return False
    number = abs(value)
    for made, less in ((number, 1), (1 / number, 1), (number * number, 0), (1 / (number * number), 0)):
        whole = round(made) if made < 2**52 else 0
        if whole and abs(made - whole) <= 1e-9 * made and 0 in (whole % batch, (whole + less) % batch):
            return True
    return False


class ImagesCounted(UnsupportedError):
    """A number that depends on how many images a batch has."""

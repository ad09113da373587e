"""A module as it was before its forward was followed: attributes, containers, numbers, caches, random numbers.

The forward of a module is Python that may keep what it computes: a grid on `self`, an entry of a dictionary, a count in
a global, a value in a buffer. Followed with stand-ins it would keep stand-ins. So what can be reached from the module
is noted before, and put back after, whether following ended well or not. What is noted: the attributes of every module
and of plain objects that it holds; dictionaries, lists, sets, deques and NumPy arrays among them; variables and
defaults of functions that belong to the module's own classes and hooks, and the globals that these name; class
attributes; the state of random number generators; PyTorch's global settings. Numbers of tensors are noted when they
are about to be written (`Tracer.write`).

Not put back: what is outside Python's objects (files, sockets), iterators and generators, and objects whose attributes
cannot be listed.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

MOST_SEEN = 200_000
"""Objects of a module that are looked at; one of a thousand layers has some fifteen thousand."""
MOST_OF_CODE = 20_000
"""Objects that are looked at beyond those because its code names them: some 20 ms."""

_ATOMS = frozenset((
    int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, torch.layout, slice,
    range, types.ModuleType, types.BuiltinFunctionType, torch.Tensor, nn.Parameter,
))  # fmt: skip
"""Exact types that hold nothing that is noted here; numbers of tensors are noted before they are written."""
_CONTAINERS = frozenset((dict, OrderedDict, list, set, deque))
"""Exact types of which it is enough to know that they were empty: most hooks."""
_CODE = (type, types.FunctionType)
_FOREIGN = ("torch", "numpy", "dojang", "builtins", "typing", "functools", "collections", "math", "types", "abc")
"""Packages whose globals no forward of a user's module changes in a way that has to be undone here."""

Undo = Callable[[], None]


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Generator[Noted]:
    """Puts everything back at the end that was noted at the start, or was noted by the object given meanwhile."""
    noted = Noted()
    noted.settings()
    noted.look(module)
    try:
        yield noted
    finally:
        noted.undo()


class Noted:
    """What was found, as functions that put it back where it has changed."""

    def __init__(self) -> None:
        self.undos: list[Undo] = []
        self.pairs: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self.items: list[tuple[list[Any] | deque[Any], list[Any]]] = []
        self.empty: list[Any] = []
        self.seen: dict[int, Any] = {}
        self.storages: dict[int, Undo] = {}

    def undo(self) -> None:
        """Puts all back. What cannot be put back does not keep the rest from it."""
        for back in [*self.storages.values(), *reversed(self.undos)]:
            with contextlib.suppress(Exception):
                back()
        for value, old in self.pairs:
            _put_back(value, old)
        for value, old in self.items:
            _refill(value, old)
        for value in self.empty:
            if value:
                value.clear()

    # -- numbers of tensors ------------------------------------------------------------------------------------------

    def before_write(self, tensor: torch.Tensor) -> None:
        """A tensor is about to change: its numbers, or which memory it stands for."""
        held, grad = tensor.detach(), tensor.requires_grad

        def stand_for() -> None:
            now = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if now != (held.data_ptr(), held.shape, held.stride(), held.dtype):
                tensor.data = held
            if tensor.requires_grad != grad:
                tensor.requires_grad_(grad)

        self.undos.append(stand_for)
        storage = tensor.untyped_storage()
        if storage._cdata not in self.storages and storage.device.type != "meta":
            kept = storage.clone()

            def numbers() -> None:
                if storage.nbytes() != kept.nbytes():
                    storage.resize_(kept.nbytes())
                storage.copy_(kept)

            self.storages[storage._cdata] = numbers

    # -- objects -----------------------------------------------------------------------------------------------------

    def look(self, start: Any) -> None:
        """Notes all that can be reached: first what the module holds, then what its code can see.

        The code of a large program sees more objects than are looked at; they must not take the module's own place.
        """
        code: list[Any] = []
        self._look([start], code, MOST_SEEN)
        self._look(code, None, len(self.seen) + MOST_OF_CODE)

    def _look(self, waiting: list[Any], code: list[Any] | None, most: int) -> None:
        """Notes what is waiting and what it holds; classes and functions are put off to `code` where that is given."""
        seen, empty = self.seen, self.empty.append
        while waiting and len(seen) < most:
            value = waiting.pop()
            if id(value) in seen:
                continue
            if code is not None and isinstance(value, _CODE):
                code.append(value)
                continue
            seen[id(value)] = value  # held, so that its id stays its own
            if isinstance(value, nn.Module) and type(value.__dict__) is dict:
                held: Iterable[Any] = self.mapping(value.__dict__)
                seen[id(value.__dict__)] = value.__dict__
                waiting.append(type(value))
            else:
                held = self.note(value)
            for one in [one for one in held if type(one) not in _ATOMS]:
                kind = type(one)
                if kind in _CONTAINERS and not one:
                    empty(one)
                elif kind is not tuple or not _ATOMS.issuperset(map(type, one)):
                    waiting.append(one)

    def note(self, value: Any) -> Iterable[Any]:
        """Notes one object; returns what it holds."""
        if isinstance(value, dict):
            return self.mapping(value)
        if isinstance(value, (list, deque)):
            return self.sequence(value)
        if isinstance(value, (tuple, frozenset)):
            return value
        if isinstance(value, torch.Tensor):
            return []
        if isinstance(value, set):
            return self.members(value)
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, functools.partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, types.CellType):
            return self.cell(value)
        if isinstance(value, type):
            return self.class_of(value)
        if isinstance(value, functools._lru_cache_wrapper):
            return self.cached(value)
        if isinstance(value, torch.Generator):
            self.state(value.get_state, value.set_state)
            return []
        if isinstance(value, np.random.Generator):
            value = value.bit_generator
        if isinstance(value, np.random.BitGenerator):
            self.state(lambda: value.state, lambda old: setattr(value, "state", old))
            return []
        if isinstance(value, np.random.RandomState):
            self.state(value.get_state, value.set_state)
            return []
        if isinstance(value, random.Random):
            self.state(value.getstate, value.setstate)
            return []
        return self.attributes(value)

    def state(self, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        """What one function gives and another takes back."""
        old = read()
        self.undos.append(lambda: write(old))

    def mapping(self, value: dict[Any, Any]) -> Iterable[Any]:
        """A dictionary: its pairs, and their order."""
        old = value.copy() if type(value) is dict else dict(value)
        self.pairs.append((value, old))
        return old.values()

    def sequence(self, value: list[Any] | deque[Any]) -> list[Any]:
        """A list: its items."""
        old = list(value)
        if type(value) in _CONTAINERS:
            self.items.append((value, old))
        else:
            self.undos.append(functools.partial(_refill, value, old))
        return old

    def members(self, value: set[Any]) -> list[Any]:
        """A set."""
        old = list(value)

        def back() -> None:
            if len(value) != len(old) or any(v not in value for v in old):
                value.clear()
                value.update(old)

        self.undos.append(back)
        return old

    def array(self, value: np.ndarray) -> list[Any]:
        """A NumPy array: its numbers."""
        if value.flags.writeable:
            old = value.copy()
            self.undos.append(lambda: np.copyto(value, old))
        return []

    def function(self, value: types.FunctionType) -> list[Any]:
        """A function: the variables that it closes over, its defaults, the globals of its file that it names."""
        found = [*(value.__closure__ or ()), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        found.append(value.__dict__)
        variables = value.__globals__
        if not _foreign(variables.get("__name__", "")):
            if id(variables) not in self.seen:
                self.seen[id(variables)] = variables
                self.pairs.append((variables, dict(variables)))
            found += [variables[name] for name in _named(value.__code__) if name in variables]
        return found

    def cell(self, value: types.CellType) -> list[Any]:
        """A variable of a function around."""
        try:
            old = value.cell_contents
        except ValueError:  # not bound yet
            return []

        def back() -> None:
            value.cell_contents = old

        self.undos.append(back)
        return [old]

    def class_of(self, value: type) -> list[Any]:
        """A class of the user's: its attributes."""
        if _foreign(value.__module__):
            return []
        old = {k: v for k, v in vars(value).items() if k not in ("__dict__", "__weakref__", "__doc__")}

        def back() -> None:
            for name in [k for k in vars(value) if k not in old and not k.startswith("__")]:
                delattr(value, name)
            for name, held in old.items():
                if vars(value).get(name) is not held:
                    setattr(value, name, held)

        self.undos.append(back)
        inner = [v.__func__ if isinstance(v, classmethod | staticmethod) else v for v in old.values()]
        inner += [f for v in old.values() if isinstance(v, property) for f in (v.fget, v.fset) if f is not None]
        return [*inner, *value.__mro__[1:]]

    def cached(self, value: Any) -> list[Any]:
        """A function with a cache, which is emptied if something came in: it may be a stand-in."""
        misses = value.cache_info().misses

        def back() -> None:
            if value.cache_info().misses != misses:
                value.cache_clear()

        self.undos.append(back)
        return [value.__wrapped__]

    def attributes(self, value: Any) -> list[Any]:
        """Any other object: its attributes and its class."""
        found: list[Any] = [type(value)]
        held = getattr(value, "__dict__", None)
        if type(held) is dict:
            found.append(held)
        for slot in {s for c in type(value).__mro__ if not _foreign(c.__module__) for s in _slots(c)}:
            with contextlib.suppress(AttributeError):
                old = getattr(value, slot)
                self.undos.append(functools.partial(_set_slot, value, slot, old))
                found.append(old)
        return found

    # -- settings of the process -------------------------------------------------------------------------------------

    def settings(self) -> None:
        """Random numbers, precision, gradients."""
        self.state(torch.get_rng_state, torch.set_rng_state)
        self.state(random.getstate, random.setstate)
        self.state(np.random.get_state, np.random.set_state)
        if torch.cuda.is_initialized():
            self.state(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all)
        self.state(torch.get_default_dtype, torch.set_default_dtype)
        self.state(torch.is_grad_enabled, torch._C._set_grad_enabled)


def _named(code: types.CodeType) -> set[str]:
    """Names of globals and attributes in a function, and in the functions within it."""
    inner = (_named(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _put_back(value: dict[Any, Any], old: dict[Any, Any]) -> None:
    if len(value) == len(old) and all(map(operator.is_, value, old)):
        if any(map(operator.is_not, value.values(), old.values())):
            value.update(old)
        return
    value.clear()
    value.update(old)


def _refill(value: list[Any] | deque[Any], old: list[Any]) -> None:
    if len(value) != len(old) or not all(map(operator.is_, value, old)):
        value.clear()
        value.extend(old)


def _set_slot(value: Any, slot: str, old: Any) -> None:
    if getattr(value, slot, None) is not old:
        setattr(value, slot, old)


def _slots(cls: type) -> tuple[str, ...]:
    """Attributes without a dictionary."""
    said = vars(cls).get("__slots__", ())
    names = (said,) if isinstance(said, str) else tuple(said)
    return tuple(n for n in names if not n.startswith("__"))


def _foreign(name: str | None) -> bool:
    """Whether code is PyTorch's, Python's or ours."""
    first = (name or "builtins").split(".")[0]
    return first in _FOREIGN or first in sys.stdlib_module_names - {"__main__"}

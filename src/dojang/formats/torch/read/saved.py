"""Networks that PyTorch saved as programs: `torch.export.save` (.pt2) and `torch.jit.save` (TorchScript).

What is trusted. Neither file's Python code is run, and no class that it names is made: an exported program is JSON and
tensors, and what it may name is held against a list before PyTorch reads it (operators of PyTorch, arithmetic of sizes,
no pickled objects). A TorchScript file is a program in a language of its own, which `torch.jit.load` compiles. All that
it would run then are methods `__setstate__`, and a file that names one is refused before that; the forward is followed
here operator by operator, and operators that touch files are refused.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dojang.arith.graph import Graph
from dojang.arith.ops import UNKNOWN
from dojang.base.errors import DojangError, FileError, UnsupportedError, UsageError
from dojang.base.reading import cause, member, opened, zipped
from dojang.base.showing import first_line
from dojang.formats.torch.read.export import replay
from dojang.formats.torch.read.module import graph_of
from dojang.formats.torch.read.script import follow
from dojang.formats.torch.read.state import checked_bytes
from dojang.formats.torch.read.trace import Tracer

OPERATORS = re.compile(
    r"torch\.ops\.(aten|prim|prims|torchvision|quantized_decomposed)\.\w+(\.\w+)?"
    r"|_operator\.(getitem|add|sub|mul|floordiv|mod|truediv|neg|pow|le|ge|lt|gt|eq|ne)|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(max|min|float|int|not|ite)"
)
"""What a node of an exported program may call."""

CALLED = ("torch", "_operator", "math", "#")
"""How targets begin that PyTorch looks up as functions; others are names of parameters and buffers."""

WORDS = frozenset(
    "Symbol positive integer nonnegative Integer Rational True False Max Min Mod PythonMod FloorDiv CleanDiv CeilToInt "
    "FloorToInt IntTrueDiv FloatTrueDiv ToFloat TruncToInt Where Eq Ne Lt Le Gt Ge And Or Not oo int_oo Add Mul "
    "Pow".split()
)
"""Names in formulas of sizes, beside symbols such as s31 and u0."""

LOADING = b"__setstate__"
"""The method that TorchScript runs while it loads a module."""

NAME = re.compile(r"[A-Za-z_]\w*")
PLAIN = re.compile(r"[\w\s+\-*/%(),.<>=!&|'~]*")
SYMBOL = re.compile(r"(z?[suf]|z?uf)\d+")

Size = tuple[int, ...]


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a .zip with code beside its data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipped(path) as archive:
        names = archive.namelist()
    return any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names)


def load_saved(path: Path, input_size: Any, weights: bool) -> Graph:
    """The network of a .pt2 or a TorchScript file. Raises `FileError` for a damaged file and for what it may not hold,
    `UsageError` where the size of an input is needed, `UnsupportedError` where it cannot be followed.
    """
    checked_bytes(path)
    if is_script(path):
        return _script(path, input_size, weights)
    program = _program(path)
    given = [node for node in program.graph.nodes if node.op == "placeholder"]
    wanted = [node for node in given if node.name in program.graph_signature.user_inputs]
    held = [node.meta.get("val") for node in wanted]
    if not all(isinstance(v, torch.Tensor) for v in held):
        raise UnsupportedError(f"{path.name}: takes inputs that are no tensors; export it with tensors alone")
    names, shapes = [node.name for node in wanted], [tuple(v.shape) for v in held if isinstance(v, torch.Tensor)]
    open_ = bool(shapes) and all(s and not isinstance(s[0], int) for s in shapes)
    sizes = _sizes(path.name, names, shapes, input_size, open_)
    root = _root(path.stem, {**program.state_dict, **_tensors(program.constants)}, program)
    # An open batch is a number that no other size is; a fixed one is what the program has.
    batch = None if open_ else 1 if not shapes or not shapes[0] else int(shapes[0][0])
    with suppress(Exception):  # most programs are read as they are; decomposing takes longer than reading
        tracer = Tracer(root, sizes, batch)
        found = _graph(path, root, program, tracer, names, sizes, held, open_, weights)
        if tracer.counted:  # with another prime for the batch, what only looked like the number of images does not
            tracer = Tracer(root, sizes, batch, tracer.batch)
            found = _graph(path, root, program, tracer, names, sizes, held, open_, weights)
        if not any(node.op == UNKNOWN for node in found.nodes):
            return found
    program = _decomposed(path, program)
    return _graph(path, root, program, Tracer(root, sizes, batch), names, sizes, held, open_, weights)


def _graph(
    path: Path, root: nn.Module, program: Any, t: Tracer, names: Sequence[str], sizes: Sequence[Size],
    held: Sequence[Any], open_: bool, weights: bool,
) -> Graph:  # fmt: skip
    """The network of a program, operator by operator."""
    with t.active(follow=False):
        inputs = [t.input(name, size, value.dtype) for name, size, value in zip(names, sizes, held, strict=True)]
        try:
            result: Any = replay(t, program, inputs)
            return graph_of(root, t, result, weights).replace(name=path.stem)
        except UnsupportedError as error:
            if open_ or t.batch == 1:
                raise
            raise UnsupportedError(
                f"{error}; the file fixes a batch of {t.batch}: export it with a batch of 1, or an open one "
                "(dynamic_shapes)"
            ) from error
        except DojangError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{path.name}: {t.place}: {first_line(error)}") from error


def _sizes(name: str, names: Sequence[str], shapes: Sequence[Sequence[Any]], given: Any, open_: bool) -> list[Size]:
    """Sizes of the inputs without their batch; given ones where the file leaves them open."""
    wanted: list[Any] = [None] * len(names)
    if isinstance(given, Mapping):
        strange = next((k for k in given if k not in names), None)
        if strange is not None:
            raise UsageError(f"{name}: has no input {strange!r}; its inputs are {', '.join(names)}")
        wanted = [given.get(n) for n in names]
    elif given is not None:
        wanted = list(given) if given and isinstance(given[0], (tuple, list)) else [given]
        if len(wanted) != len(names):
            raise UsageError(f"{name}: has {len(names)} inputs ({', '.join(names)}), {len(wanted)} sizes were given")
    found: list[Size] = []
    for title, shape, size in zip(names, shapes, wanted, strict=True):
        fixed = [s if isinstance(s, int) else None for s in shape[1:]]
        if size is None and None in fixed:
            said = "x".join("?" if s is None else str(s) for s in fixed)
            raise UsageError(f"{name}: input {title!r} is {said}; give its size with --input-size")
        size = tuple(size if size is not None else fixed)
        if len(size) != len(fixed) or any(a is not None and a != b for a, b in zip(fixed, size, strict=True)):
            said = "x".join("?" if s is None else str(s) for s in fixed)
            raise UsageError(
                f"{name}: input {title!r} is {said} in the file, which was exported for that; it is not "
                + "x".join(map(str, size))
            )
        found.append(tuple(s for s in size if s is not None))
    return found


def _tensors(constants: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in constants.items() if isinstance(value, torch.Tensor)}


def _root(title: str, tensors: Mapping[str, torch.Tensor], program: Any) -> nn.Module:
    """Modules that hold the tensors under their names."""
    kind = type("".join(c if c.isalnum() else "_" for c in title) or "Program", (nn.Module,), {})
    root, learned = kind(), set(program.graph_signature.inputs_to_parameters.values())
    for name, value in tensors.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
            assert owner is not None
        if name in learned:
            owner.register_parameter(last, nn.Parameter(value.detach(), requires_grad=value.is_floating_point()))
        else:
            owner.register_buffer(last, value.detach())
    return root.eval()


def _program(path: Path) -> Any:
    """What `torch.export.load` reads, after the file was held against what it may contain."""
    try:
        with zipped(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".json"):
                    _check(path, json.loads(archive.read(info)))
                if "opaque_obj" in info.filename or "custom_obj" in info.filename:
                    raise FileError(f"{path}: holds an object of a Python class, which is not made")
        with _only_weights(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(str(path))
    except DojangError:
        raise
    except Exception as error:
        raise FileError(f"{path}: is damaged or no exported program ({cause(error)})") from None
    with suppress(AttributeError):
        program._guards_code = []  # Python text, which is not run
    return program


def _decomposed(path: Path, program: Any) -> Any:
    """The program in PyTorch's core operators, without writes in place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program.run_decompositions({})
    except Exception as error:
        raise UnsupportedError(f"{path}: cannot be brought to PyTorch's core operators ({first_line(error)})") from None


@contextmanager
def _only_weights() -> Iterator[None]:
    """`torch.load` reads tensors and plain containers only, whatever it is asked for."""
    names = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}
    before = {name: os.environ.get(name) for name in names}
    _set(names)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _check(path: Path, value: Any, key: str = "") -> None:
    """Raises `FileError` for a name that an exported program has no business to call."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check(path, inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            _check(path, inner, key)
    elif isinstance(value, str):
        if key == "target" and value.startswith(CALLED) and not OPERATORS.fullmatch(value):
            raise FileError(f"{path}: calls {value!r}, which is no operator of PyTorch")
        if key == "expr_str":
            strange = [w for w in NAME.findall(value) if w not in WORDS and not SYMBOL.fullmatch(w)]
            if strange or not PLAIN.fullmatch(value):
                raise FileError(f"{path}: has the size {value!r}, which is no formula")


def _refuse_loading_code(path: Path) -> None:
    """Raises `FileError` for a TorchScript file with a method that PyTorch would run while it loads the file.

    Such a method may write files. Its name stands in the text of the program, in whatever member that lies.
    """
    with zipped(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".py"):
                with member(archive, info, f"{path}:{info.filename}") as read:
                    if LOADING in read(info.file_size):
                        raise FileError(
                            f"{path}: has a method __setstate__, which would run while the file is loaded; save the "
                            "module without it (torch.export.save), or give its weights and code"
                        )


def _script(path: Path, input_size: Any, weights: bool) -> Graph:
    """A TorchScript file."""
    _refuse_loading_code(path)
    try:
        with opened(path, "a TorchScript file"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:
        raise FileError(f"{path}: is damaged or no TorchScript file ({cause(error)})") from None
    graph = module.inlined_graph
    names = [v.debugName().split(".")[0] for v in list(graph.inputs())[1:]]
    if input_size is None:
        raise UsageError(
            f"{path.name}: TorchScript does not say its input size; give it with --input-size C,H,W (in Python "
            "input_size=(c, h, w))"
        )
    if isinstance(input_size, Mapping):
        sizes = _sizes(path.name, names, [(1, *[None] * len(input_size.get(n, ()))) for n in names], input_size, True)
    else:
        listed = list(input_size) if input_size and isinstance(input_size[0], (tuple, list)) else [input_size]
        if len(listed) > len(names):
            raise UsageError(f"{path.name}: takes {', '.join(names)}, {len(listed)} sizes were given")
        names, sizes = names[: len(listed)], [tuple(s) for s in listed]
    defaults = _defaults(path, module, len(names))
    t = Tracer(module, sizes)
    with t.active(follow=False):
        inputs = [t.input(name, size) for name, size in zip(names, sizes, strict=True)]
        try:
            result = follow(t, module, graph, [*inputs, *defaults])
        except DojangError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{path.name}: {t.place}: {first_line(error)}") from error
        return graph_of(module, t, result, weights).replace(name=path.stem)


def _defaults(path: Path, module: torch.jit.ScriptModule, given: int) -> list[Any]:
    """What the forward takes behind the inputs that are given. Raises `UsageError` for what has no default."""
    rest = list(module.forward.schema.arguments)[1 + given :]
    for argument in rest:
        if not argument.has_default_value():
            kind = str(argument.type)
            remedy = (
                "give one size for each tensor, as --input-size '3,32,32;10'" if kind == "Tensor"
                else "dojang reads networks of tensors; save one in which it is a constant"
            )  # fmt: skip
            raise UsageError(f"{path.name}: its forward needs {argument.name} ({kind}) too; {remedy}")
    return [argument.default_value for argument in rest]

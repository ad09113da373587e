"""From what a person names (zoo name, file, Python code, module) to a Graph with its weights."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dojang.app.symbolic import symbolised
from dojang.arith import preparation
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import is_open
from dojang.arith.ops import UNKNOWN
from dojang.arith.symbol import Expr, symbol
from dojang.base.errors import (
    DojangError,
    FileError,
    GraphError,
    MissingPart,
    ShapeError,
    UnsupportedError,
    UsageError,
)
from dojang.base.reading import opened, read_text
from dojang.base.wording import did_you_mean

KINDS = (
    "a zoo name, a .net, .onnx, .safetensors or .pt2 file, or Python code as package.module:callable or "
    "file.py:callable"
)
READERS = {".safetensors": "checkpoint"}
"""The modules of `formats` whose `load(path, weights=)` reads files of these suffixes whole, beside ONNX."""
STATE = (".pt", ".pth", ".bin")
PROGRAMS = (".pt2", ".ts", ".torchscript")
"""Files of whole networks that PyTorch saved, which it takes PyTorch to read; so are .pt files of `torch.jit.save`."""
TORCHVISION = tuple(
    "resnet resnext vgg densenet mobilenet_v mnasnet efficientnet convnext swin_ vit_ regnet_ shufflenet squeezenet "
    "inception_v wide_resnet maxvit".split()
)
"""How names of torchvision's networks begin."""
TORCH_INSTALL = "pip install 'dojang[torch]'"


def load(
    net: Any,
    *,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    arrays: bool = True,
) -> Graph:
    """The network that `net` names, as a `Graph`: its layers with their attributes, and its weights by name.

    As `any_size.load`, which users have; but sizes are numbers where arrays are read: only counting takes symbols.
    """
    size = checked_size(input_size)
    if arrays and is_symbolic(size):
        raise UsageError(f"input size {_said(size)}: only counting works with symbols; give numbers")
    try:
        graph = _sized(net, size, num_classes, arrays)
    except (ShapeError, GraphError, UnsupportedError) as error:
        raise _with_hint(error, size) from error.__cause__
    if num_classes is not None and not isinstance(net, (str, Path)):
        raise UsageError("num_classes applies to zoo names and .net texts; change the module itself")
    if arrays and is_open(graph):
        shape = graph.inputs[0].attrs["shape"]
        raise UsageError(f"{graph.name}: its input size {by(shape)} is open; give it in numbers, as in 3,224,224")
    return finished(graph, weights) if arrays else graph


def finished(graph: Graph, weights: str | Path | None) -> Graph:
    """The graph with the arrays of a file, if any; raises for weights that are not finite."""
    if weights is not None:
        graph = with_file_weights(graph, Path(weights))
    if graph.weights:
        from dojang.formats.checkpoint import check_finite

        check_finite(graph)
    return graph


def _sized(net: Any, size: Sizes | None, num_classes: int | None, arrays: bool) -> Graph:
    """The network at a size that was checked."""
    if isinstance(net, Graph):
        return with_size(net, size)
    if is_onnx_data(net):
        return _from_data(net, size, arrays)
    if is_module(net):
        return _from_module(net, size, arrays)
    if isinstance(net, (str, Path)):
        return _from_name(str(net), size, num_classes, arrays)
    raise UsageError(f"a network is {KINDS}; got {type(net).__name__}")


def _with_hint(error: DojangError, size: Sizes | None) -> DojangError:
    """The error, with what an input size is where the one that was given is no picture's, or has its channels last.

    >>> str(_with_hint(ShapeError("conv1: needs 2 sizes"), (224,)))
    'conv1: needs 2 sizes; the input size was 224: a picture has three numbers, C,H,W, such as 3,224,224'
    """
    if isinstance(size, tuple) and len(size) in (1, 2):
        channels = size[0] if len(size) == 2 and size[0] in (1, 3, 4) else 3
        example = by((channels, size[0] if channels == 3 and len(size) == 2 and size[0] != 3 else size[-1], size[-1]))
        example = example.replace("x", ",")
        hint = f"a picture has three numbers, C,H,W, such as {example}"
    elif isinstance(size, tuple) and len(size) == 3 and _channels_last(size):
        hint = f"channels come first, C,H,W, as in {size[2]},{size[0]},{size[1]}"
    else:
        return error
    error.args = (f"{error}; the input size was {_said(size)}: {hint}", *error.args[1:])
    return error


def _channels_last(size: Size) -> bool:
    """Whether three sizes look like height, width, channels."""
    return all(isinstance(s, int) for s in size) and size[2] in (1, 3, 4) and min(size[:2]) > 4


InputSize = Sequence[int | str] | Sequence[Sequence[int | str]] | Mapping[str, Sequence[int | str]]
"""One size (channels first, without batch), one per input in order, or one per input by name."""

Size = tuple[int, ...]
Sizes = Size | list[Size] | dict[str, Size]


def checked_size(size: InputSize | None) -> Sizes | None:
    """A size as a tuple of whole numbers of at least 1, several as a list or dictionary of such.

    Names become symbols, "32H" 32 times one. Raises `UsageError` for anything else.
    """
    if size is None:
        return None
    if isinstance(size, Mapping):
        if not size:
            raise UsageError("input size {}: name at least one input, as in {'x': (3, 224, 224)}")
        return {str(name): _one_size(one) for name, one in size.items()}
    if isinstance(size, Sequence) and size and all(_is_size(one) for one in size):
        found = [_one_size(one) for one in size]
        return found if len(found) > 1 else found[0]
    return _one_size(size)


def _is_size(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _one_size(size: Any) -> Size:
    if not _is_size(size):
        raise UsageError(f"input size {size!r}: give C,H,W as numbers, as in (3, 224, 224), or one such per input")
    sizes: list[Any] = []
    for one in size:
        try:
            sizes.append(_symbol(one) if isinstance(one, str) else operator.index(one))
        except TypeError:
            raise UsageError(
                f"input size {tuple(size)!r}: {one!r} is no whole number; give C,H,W as in (3, 224, 224), "
                "or one such per input, as in ((3, 224, 224), (10,))"
            ) from None
    if not sizes or any(s < 1 or isinstance(one, bool) for s, one in zip(sizes, size, strict=True)):
        raise UsageError(f"input size {by(sizes)} must be at least 1 everywhere, as C,H,W")
    return tuple(sizes)


def _said(size: Sizes | None) -> str:
    """Sizes as a person reads them."""
    if isinstance(size, dict):
        return " and ".join(f"{name} {by(one)}" for name, one in size.items())
    return " and ".join(map(by, size)) if isinstance(size, list) else by(size or ())


def _symbol(text: str) -> Any:
    """The symbol of a name, times the number before it."""
    name = text.lstrip("0123456789")
    times = int(text.removesuffix(name) or 1)
    if not name.isidentifier() or times < 1:
        raise UsageError(f"{text}: a size is a number, a name such as H, or a multiple of one such as 32H")
    return times * symbol(name)


def require_weights(graph: Graph, name: object) -> Graph:
    """The graph, if it can be run: no unknown operator, all arrays there and of the right shape."""
    strange = [f"{node.name} ({node.attrs['kind']})" for node in graph.nodes if node.op == UNKNOWN]
    if strange:
        raise GraphError(f"{name}: operators that dojang cannot run: {', '.join(strange[:5])}; it can only be counted")
    if not graph.weights and graph.param_shapes:
        raise GraphError(f"{name}: the network has no weights; give them with --weights FILE, or train it first")
    graph.check_weights()
    return graph


def with_file_weights(graph: Graph, path: Path) -> Graph:
    """The graph with arrays of a file, matched by name. Raises `GraphError` for missing, unfitting or extra arrays."""
    from dojang.formats import checkpoint

    try:
        return as_trained(checkpoint.apply_state(graph, read_arrays(path)), path)
    except GraphError as error:
        raise error.within(str(path)) from None


def as_trained(graph: Graph, path: Path) -> Graph:
    """The graph with what a file of weights says of them: the names of the classes, the normalisation of the inputs.

    Files that dojang wrote say both, because weights are right only with the classes and the normalisation that they
    were trained with; what the graph says itself is then of no account. Inputs correspond to each other by their order.
    """
    from dojang.formats import checkpoint

    if path.suffix != ".safetensors" or checkpoint.KEY not in checkpoint.read_header(path).metadata:
        return graph
    said = checkpoint.load(path, weights=False)
    changed: dict[str, Node] = {}
    for ours, theirs in zip(graph.inputs, said.inputs, strict=False):
        mean, std = theirs.attrs["mean"], theirs.attrs["std"]
        if mean and len(mean) in (1, ours.attrs["shape"][0]):
            changed[ours.name] = ours.with_attrs(mean=mean, std=std)
    meta = dict(graph.meta)
    if changed:
        meta.pop(preparation.KEY, None)
        meta |= preparation.values_of(said)
    if "classes" in said.meta:
        meta["classes"] = said.meta["classes"]
    return graph.replace(nodes=tuple(changed.get(node.name, node) for node in graph.nodes), meta=meta)


def read_arrays(path: Path) -> Mapping[str, Any]:
    """Arrays of a .safetensors file, or of a .pt/.pth file read without running any code in it."""
    with opened(path, "weights as .safetensors, .pt or .pth"):  # what is missing, a folder or a device is told first
        pass
    if path.suffix == ".safetensors":
        from dojang.formats import checkpoint

        return checkpoint.read_arrays(path)
    if path.suffix in STATE:
        return torch_format().load_state(path)
    raise UsageError(f"{path}: weights come as .safetensors, .pt or .pth, not {path.suffix or 'without a suffix'}")


def names_code(name: Any) -> bool:
    """Whether a name is Python code that gives a network, such as "package.module:callable", and not a file to read."""
    known = (".net", ".onnx", *READERS, *STATE, *PROGRAMS)
    return isinstance(name, str) and ":" in name and Path(name).suffix.lower() not in known


def is_onnx_data(net: object) -> bool:
    """Whether it is the content of an ONNX file, or an `onnx.ModelProto`."""
    return isinstance(net, bytes | bytearray | memoryview) or type(net).__name__ == "ModelProto"


def onnx_bytes(net: Any) -> Any:
    """The content of an ONNX file, of its path or of what `is_onnx_data`; None for anything else."""
    if is_onnx_data(net):
        return net.SerializeToString() if hasattr(net, "SerializeToString") else bytes(net)
    if isinstance(net, str | Path) and Path(net).suffix.lower() == ".onnx" and Path(net).is_file():
        import mmap

        with open(net, "rb") as file, contextlib.suppress(OSError, ValueError):  # empty
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return None


def name_of(net: Any) -> str:
    """What a network is called in messages."""
    return str(net) if isinstance(net, str | Path) else "the ONNX model" if is_onnx_data(net) else type(net).__name__


def _from_data(net: Any, size: Sizes | None, arrays: bool) -> Graph:
    from dojang.formats import onnx

    data = onnx_bytes(net)

    def read(sized: Size | dict[str, Size] | None) -> Graph:
        return onnx.from_bytes(data, weights=arrays, input_size=sized)

    if isinstance(size, list):
        size = in_order(data, size, name_of(net))
    return symbolised(read, size, name_of(net)) if size is not None and is_symbolic(size) else read(size)


def _from_name(name: str, size: Sizes | None, classes: int | None, arrays: bool) -> Graph:
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix == ".net":
        from dojang.formats import text

        content = read_text(path, wanted="a .net file, which is plain text")
        graph = text.parse(content, name=path.stem, file=name, params=_classes(classes))
        return with_size(graph, size)
    if suffix in (".onnx", *READERS):
        with opened(path, f"{'an' if suffix == '.onnx' else 'a'} {suffix} file"):
            pass
        if classes is not None:
            raise UsageError(f"{name}: --num-classes applies to zoo names and .net texts; this file says its classes")
        if suffix == ".onnx":
            from dojang.formats import onnx

            def read(sized: Size | dict[str, Size] | None) -> Graph:
                return onnx.load(path, weights=arrays, input_size=sized)

            if isinstance(size, list):
                size = in_order(onnx_bytes(path), size, str(path))
            return symbolised(read, size, name) if size is not None and is_symbolic(size) else read(size)
        return with_size(import_module(f"dojang.formats.{READERS[suffix]}").load(path, weights=arrays), size)
    if suffix in PROGRAMS or (suffix and not names_code(name) and _is_script(path)):
        return _from_program(path, size, classes, arrays)
    if suffix in STATE:
        raise UsageError(
            f"{name}: a {suffix} file is read for its weights alone; name the network (NET) and give these with "
            f"--weights {name}"
        )
    if names_code(name):
        if classes is not None:
            raise UsageError(f"{name}: --num-classes applies to zoo names and .net texts; change the code itself")
        return _from_module(torch_format().load_callable(name), size, arrays, name)
    if suffix == ".py":
        raise UsageError(f"{name}: say which callable returns the network, as {name}:callable")
    return _from_zoo(name, size, classes, arrays)


def _is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a .zip with code beside its data."""
    import zipfile

    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def _from_program(path: Path, size: Sizes | None, classes: int | None, arrays: bool) -> Graph:
    """An exported program or a TorchScript file."""
    with opened(path, "a file of torch.export.save or torch.jit.save"):
        pass
    if classes is not None:
        raise UsageError(f"{path}: --num-classes applies to zoo names and .net texts; this file says its classes")
    try:
        read = torch_format().load_saved
    except MissingPart:
        raise MissingPart(f"{path}: PyTorch reads this file and is not installed; {TORCH_INSTALL}") from None
    if is_symbolic(size):
        one = _single(size, str(path))
        return symbolised(lambda sized: read(path, sized, arrays), one, str(path))
    return read(path, size, arrays)


def _from_zoo(name: str, size: Sizes | None, classes: int | None, arrays: bool) -> Graph:
    from dojang.formats import zoo

    if name not in zoo.names():
        path = Path(name)
        if path.exists():
            raise UsageError(f"{name}: not a network dojang reads; give {KINDS}")
        if (path.suffix and not path.suffix[1:].isdigit()) or path.parent != Path("."):
            raise FileError(f"{name}: no such file; a network is {KINDS}")
        if name.startswith(TORCHVISION) and name.isidentifier():
            raise UsageError(
                f"{name!r} is not a network of the zoo (`dojang list networks`); if it is one of torchvision, write "
                f"torchvision.models:{name} and its size, as --input-size 3,224,224"
            )
    return with_size(zoo.load(name, num_classes=classes, weights=arrays), size)


def _classes(classes: int | None) -> Mapping[str, int]:
    if classes is not None and classes < 1:
        raise UsageError(f"--num-classes {classes} must be at least 1")
    return {} if classes is None else {"classes": classes}


def with_size(graph: Graph, size: Sizes | None) -> Graph:
    """The graph with other input sizes, one per input or by name. Weights that no longer fit are an error."""
    if size is None:
        return graph
    if isinstance(size, tuple) and len(graph.inputs) != 1:
        raise UsageError(
            f"{graph.name}: has {len(graph.inputs)} inputs ({', '.join(n.name for n in graph.inputs)}); "
            "give one size per input"
        )
    wanted = _by_name(graph, [size] if isinstance(size, tuple) else size)
    changed: dict[str, Node] = {}
    for node in graph.inputs:
        one: Size = wanted.get(node.name) or tuple(node.attrs["shape"])
        own = tuple(node.attrs["shape"])
        if len(one) == len(own) == 3 and _channels_last(one) and one[2] == own[0] != one[0]:
            raise UsageError(
                f"{graph.name}: takes {own[0]} channels, and channels come first in an input size; {by(one)} is "
                f"height, width, channels: give {one[2]},{one[0]},{one[1]}"
            )
        if own != one:
            keeps = len(node.attrs["mean"] or ()) in (0, one[0])
            changed[node.name] = (
                node.with_attrs(shape=one) if keeps else node.with_attrs(shape=one, mean=None, std=None)
            )
    if not changed:
        return graph
    new = graph.replace(nodes=tuple(changed.get(n.name, n) for n in graph.nodes))
    new.shapes()
    if new.weights:
        try:
            new.check_weights()
        except DojangError as error:
            raise error.within(f"with input size {_said(size)}") from None
    return new


def in_order(data: Any, size: list[Size], title: str) -> dict[str, Size]:
    """Sizes by the names of an ONNX file's inputs, which are read alone: the network may need the sizes."""
    from dojang.formats.onnx.open_input import input_sizes

    return _each(list(input_sizes(data)), size, title)


def _each(names: list[str], size: list[Size], title: str) -> dict[str, Size]:
    if len(size) != len(names):
        raise UsageError(
            f"{title}: has {len(names)} input{'s' * (len(names) != 1)} ({', '.join(names)}), "
            f"{len(size)} sizes were given; give one per input"
        )
    return dict(zip(names, size, strict=True))


def _by_name(graph: Graph, size: list[Size] | dict[str, Size]) -> dict[str, Size]:
    """Sizes by the names of the inputs that they are for."""
    names = [node.name for node in graph.inputs]
    if isinstance(size, list):
        return _each(names, size, graph.name)
    strange = next((name for name in size if name not in names), None)
    if strange is not None:
        hint = did_you_mean(strange, names, f"its inputs are {', '.join(names)}")
        raise UsageError(f"{graph.name}: has no input {strange!r}; {hint}")
    return size


def _single(size: Sizes | None, name: str) -> Size:
    """The one size; symbols work with one input, but for ONNX files."""
    if isinstance(size, tuple):
        return size
    raise UsageError(f"{name}: symbolic sizes fit networks with one input, or ONNX files; give numbers")


def is_module(net: object) -> bool:
    """Whether it is a `torch.nn.Module`, without importing torch."""
    return any(cls.__module__ == "torch.nn.modules.module" and cls.__name__ == "Module" for cls in type(net).__mro__)


def torch_format() -> Any:
    """`dojang.formats.torch`, or `MissingPart` with the line that installs PyTorch."""
    try:
        from dojang.formats import torch as found
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingPart(f"PyTorch is not installed; {TORCH_INSTALL}") from None
    return found


def _from_module(module: Any, size: Sizes | None, arrays: bool, name: str | None = None) -> Graph:
    if size is None:
        raise UsageError(
            f"{name or type(module).__name__}: PyTorch code does not say its input size; "
            "give it with --input-size C,H,W (in Python input_size=(c, h, w))"
        )
    title = name or type(module).__name__
    if is_symbolic(size):
        one = _single(size, title)
        return symbolised(lambda sized: torch_format().from_module(module, sized, weights=arrays), one, title)
    return torch_format().from_module(module, size, weights=arrays)


def is_symbolic(size: Sizes | None) -> bool:
    """Whether a size has a symbol."""
    every = size.values() if isinstance(size, dict) else size if isinstance(size, list) else [size or ()]
    return any(isinstance(s, Expr) for one in every for s in one)


def paths(net: Any, *, input_size: InputSize | None = None) -> tuple[Graph, ...]:
    """One Graph, without weights, per path through a network that branches on the values of a tensor.

    `net` is a PyTorch module, names Python code, or an ONNX file. Raises `UnsupportedError` where values decide by
    other means than `if`.
    """
    size = checked_size(input_size)
    if isinstance(net, str | Path) and Path(net).suffix == ".onnx":
        from dojang.formats import onnx

        if is_symbolic(size):
            raise UsageError(f"{net}: values decide which path it takes; give its input size in numbers, as C,H,W")
        if isinstance(size, list):
            size = in_order(onnx_bytes(net), size, name_of(net))
        return onnx.paths(net, input_size=size)
    module = net if is_module(net) else torch_format().load_callable(str(net))
    if size is None or is_symbolic(size):
        raise UsageError(f"{net}: values decide which path its forward takes; give its input size in numbers, as C,H,W")
    return torch_format().paths_of(module, size)

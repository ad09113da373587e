"""Running networks: pictures and arrays in, answers out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from dojang.app.any_size import load
from dojang.app.class_names import class_names
from dojang.app.code_pictures import NormaliseBy, how_to_normalise, normalised_by
from dojang.app.feeding import per_channel
from dojang.app.networks import InputSize, is_module, names_code, require_weights
from dojang.app.prepared import InputPreparation
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import is_open, nearest, values_for
from dojang.arith.outputs import PROBABILITY, output_keys, output_numbers
from dojang.arith.preparation import takes_floats
from dojang.arith.standard import SINGLE
from dojang.arith.symbol import Expr
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.base.reading import read_bytes
from dojang.base.writing import check_target, replace_bytes
from dojang.formats.arrays import read_npy
from dojang.report.results import Guess, Run
from dojang.training.asked import PerChannel

Array = np.ndarray
Precision = Literal["fast", "strict"]


@final
class Runnable:
    """A network compiled for this machine. Thread-safe.

    `runnable(x)` takes a batch as NumPy array or PyTorch tensor (one per input, in their order, or all by name), and
    gives the first output as the same kind. A tensor has no gradients, lies on the device of the first input, and has
    its precision if both are real numbers; classes, places and truth values keep their own type. `runnable.engine` has
    all outputs, taps on activations, and the plan.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        precision: str = "fast",
        release: bool = True,
        batch_size: int = 1,
    ) -> None:
        """Checks the network; memory is planned when a batch size is first seen."""
        from dojang.engine.compiled import Compiled  # takes long to import

        self.engine = Compiled(graph, threads, precision, release=release, batch_size=batch_size)

    @property
    def graph(self) -> Graph:
        """The network; with `release`, without the weights that kernels hold in their own order."""
        return self.engine.graph

    def __call__(self, x: Any, *more: Any) -> Any:
        """The first output for a batch. Raises `UsageError` and `ShapeError` for inputs that do not fit."""
        if more:
            names = [node.name for node in self.engine.graph.inputs]
            if len(names) != 1 + len(more):
                has = f"{len(names)} input{'s' * (len(names) != 1)} ({', '.join(names)})"
                raise UsageError(f"{self.engine.graph.name} has {has}, but {1 + len(more)} arrays were given")
            x = dict(zip(names, (x, *more), strict=True))
        if type(x) is np.ndarray:
            return self.engine(x)
        if isinstance(x, Mapping):
            first = next((v for v in x.values() if _is_tensor(v)), None)
            y = self.engine({k: _to_numpy(v) for k, v in x.items()})
        else:
            first = x if _is_tensor(x) else None
            y = self.engine(_to_numpy(x))
        if first is None:
            return y
        from dojang.formats.torch.tensors import tensor_like  # PyTorch, which is there: the input is a tensor of it

        return tensor_like(y, first)


def _is_tensor(x: Any) -> bool:
    """Whether it is a PyTorch tensor, told without importing PyTorch."""
    return hasattr(x, "detach") and hasattr(x, "new_tensor")


def _to_numpy(x: Any) -> Any:
    """A tensor as an array, floating point as float32; anything else as it is."""
    if not _is_tensor(x):
        return x
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).numpy()


def compile(
    net: Any,
    *,
    threads: int | None = None,
    precision: Precision = "fast",
    release: bool = True,
    batch_size: int = 1,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
) -> Runnable:
    """The network made ready to run on this machine: a function from a batch to the first output.

    `net`, `weights`, `input_size` and `num_classes` are as in `load`; the network needs weights. The function takes a
    NumPy array (n, *input) or a PyTorch tensor, gives the same kind back, computes in float32, and may be called from
    several threads.

    `threads` defaults to DOJANG_THREADS, else to the cores that this process may use. `precision="strict"` keeps to
    algorithms that compute the sums of the definition; "fast" also takes Winograd's and Fourier's. Kernels are chosen
    for batches of `batch_size`; batches of other sizes run on them too. With `release` the network lets its weights go
    once the kernels hold them, so that they are in memory once; reading activations inside of what is fused needs
    `release=False`.

    Raises what `load` raises, `GraphError` where weights are missing or an operator cannot be run.

    >>> run = compile("digits-cnn")
    >>> run(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    """
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes)
    return Runnable(require_weights(graph, graph.name), threads, precision, release, batch_size)


def run(
    net: Any,
    input: str | Path | Array,
    *,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    top: int = 5,
    plan: bool = False,
    output: str | Path | None = None,
    force: bool = False,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    normalise: Literal["none", "imagenet", "half"] | None = None,
) -> Run:
    """A forward pass on a picture, an .npy file or an array; the answers with class names where they are known.

    The result has the outputs as arrays, by their keys where the network gives a dictionary, and, for each sample, the
    `top` best classes with their probabilities. `net`, `weights`, `input_size` and `num_classes` are as in `load`. A
    picture is scaled to cover the input size, centre-cropped and normalised as the network's input says. Arrays are (c,
    h, w) or a batch (n, c, h, w); uint8 is treated as pictures; floats go in as they stand, unless the network was
    trained on floats: then they are normalised as those were. PyTorch code does not say how it takes pictures: `mean`
    and `std` do, or `normalise` ("none", "imagenet", "half"). `output` is an .npy file for the first output; `force`
    replaces one that exists. With `plan` the result says how each layer was run, with predicted and measured times; for
    a machine (DOJANG_MACHINE) whose code cannot run here it has the plan alone, and nothing is run.

    Raises what `load` raises, `FileError` for what cannot be read, `ShapeError` for sizes that do not fit, `DataError`
    for NaN.

    >>> done = run("digits-cnn", np.zeros((1, 8, 8), np.float32), top=2)
    >>> len(done.top[0]), [array.shape for array in done.outputs.values()]
    (2, [(1, 10)])
    """
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes)
    require_weights(graph, graph.name)
    if len(graph.inputs) != 1:
        raise UsageError(f"{graph.name}: has {len(graph.inputs)} inputs; only networks with one can be run from here")
    if top < 0:
        raise UsageError(f"top {top} must be at least 0")
    if output is not None:
        if Path(output).suffix != ".npy":
            raise UsageError(f"{output}: outputs are written as .npy")
        check_target(output, force)
    node = with_means(size_of(graph, input), normalise, mean, std)
    x, prepared = prepare(input, node, takes_floats(graph))
    if not node.attrs["mean"] and (is_module(net) or names_code(net)) and _pixels(input):
        raise UsageError(how_to_normalise("the picture" if isinstance(input, Array) else str(input), False))
    from dojang.engine.compiled import Compiled

    engine = Compiled(graph, release=True, batch_size=len(x))
    said = "array" if isinstance(input, Array) else str(input)
    if plan and not engine.machine.runs_here:
        if output is not None:
            engine.machine.require_here()
        return Run(graph.name, said, str(prepared), {}, plan=engine.plan(len(x), size=x.shape[1:]))
    graph = graph.replace(weights={})  # so that the engine can let them go
    result = engine.run(x)
    arrays = dict(zip(output_keys(graph), result.outputs, strict=True))
    files = () if output is None else (str(_write_npy(output, result.outputs[0], force)),)
    best = answers(graph, result.outputs[0], top)
    meaning = PROBABILITY[output_numbers(graph)] if best else ""
    guessed = class_names(graph, result.outputs[0].shape[1]).guessed if best else ""
    timed = (
        engine.measured(len(x) if graph.has_batch else 1, size=x.shape[1:] if graph.has_batch else None)
        if plan
        else None
    )
    return Run(graph.name, said, str(prepared), arrays, best, files, timed, meaning, guessed)


def with_means(node: Node, normalise: NormaliseBy | None, mean: PerChannel | None, std: PerChannel | None) -> Node:
    """An input that states mean and deviation as they were said; as it is where nothing was."""
    if normalise == "data":
        raise UsageError("normalise data needs data; say none, imagenet or half, or mean and std")
    mean, std = normalised_by(normalise, mean, std)
    if mean is None and std is None:
        return node
    channels = node.attrs["shape"][0]
    return node.with_attrs(
        mean=per_channel(mean, 0.0, channels, "mean"), std=per_channel(std, 1.0, channels, "std")
    )  # fmt: skip


def _pixels(source: str | Path | Array) -> bool:
    """Whether it holds pixels from 0 to 255, and not numbers as a network takes them."""
    if isinstance(source, Array):
        return source.dtype == np.uint8
    return Path(source).suffix != ".npy" or read_npy(Path(source)).dtype == np.uint8


def size_of(graph: Graph, source: str | Path | Array) -> Node:
    """The input node; where it takes images of any size, with that of the array, or the nearest to the picture's."""
    node = graph.inputs[0]
    if not is_open(graph):
        return node
    wanted = node.attrs["shape"]
    if isinstance(source, Array) or Path(source).suffix == ".npy":
        shape = source.shape if isinstance(source, Array) else read_npy(Path(source)).shape
        given: tuple[int, ...] = shape[-len(wanted) :]
    else:
        from dojang.training.pictures import size_of_picture

        given = (wanted[0], *size_of_picture(Path(source)))
        if len(given) != len(wanted):
            raise ShapeError(f"{source}: a picture does not fit an input of {by(wanted)}; give an .npy array")
        given = nearest(wanted, given)
    values = values_for(graph, {node.name: given})
    return node.with_attrs(shape=tuple(int(s.at(values)) if isinstance(s, Expr) else s for s in wanted))


def prepare(source: str | Path | Array, node: Node, floats: bool = False) -> tuple[Array, InputPreparation]:
    """A batch (n, *shape) of float32 for an input node, and how it was made.

    With `floats` the node's mean and deviation belong to floats, which are then normalised; otherwise they belong to
    pixels, and floats count as normalised already.
    """
    wanted = tuple(node.attrs["shape"])
    if isinstance(source, Array):
        return _from_array(source, node, "array", floats)
    path = Path(source)
    if path.suffix == ".npy":
        array = read_npy(path)
        return _from_array(array, node, str(path), floats)
    from dojang.training.pictures import MAX_FILE_BYTES

    if len(wanted) != 3:
        raise ShapeError(f"{path}: a picture does not fit an input of {by(wanted)}; give an .npy array")
    return prepare_picture(read_bytes(path, MAX_FILE_BYTES, "a picture"), str(path), node)


def prepare_picture(raw: bytes, name: str, node: Node) -> tuple[Array, InputPreparation]:
    """A batch of one for an input node from the content of a picture file, and how it was made.

    Raises `FileError` for what is no picture, `ShapeError` for an input that takes none.
    """
    from dojang.training.pictures import SampleSize, decoded

    wanted = tuple(node.attrs["shape"])
    if len(wanted) != 3:
        raise ShapeError(f"{name}: a picture does not fit an input of {by(wanted)}; give an .npy array")
    pixels = decoded(raw, name, SampleSize(wanted[0], (wanted[1], wanted[2])))
    return _normalised(np.moveaxis(pixels, -1, 0)[None], node), InputPreparation.normalised("scaled", node)


FAR = 8.0
"""Mean and deviation of normalised floats are near 0 and 1; pixels of 0 to 255 are far above this."""


def _from_array(array: Array, node: Node, name: str, floats: bool) -> tuple[Array, InputPreparation]:
    wanted = tuple(node.attrs["shape"])
    if node.attrs["batch_axis"] != 0 or node.attrs["dtype"] not in SINGLE:
        return array, InputPreparation(
            "as-they-stand", wanted
        )  # an input without a batch, or of whole numbers: the run says what fits
    if array.dtype.kind not in "buif":
        raise DataError(f"{name}: values of type {array.dtype} are no input; use uint8 or floats")
    batch = array[None] if array.shape == wanted else array
    if batch.shape[1:] != wanted or len(batch) < 1:
        raise ShapeError(f"{name}: has shape {by(array.shape)}, the network takes {by(wanted)} or a batch of such")
    if batch.dtype == np.uint8:
        return _normalised(batch, node), InputPreparation.normalised("pixels", node)
    batch = batch.astype(np.float32)
    if not np.isfinite(batch).all():
        raise DataError(f"{name}: holds NaN or infinity; repair or remove such values")
    if not node.attrs["mean"]:
        return batch, InputPreparation("as-they-stand", wanted)
    if floats:
        return _normalised(batch, node), InputPreparation.normalised("values", node)
    mean, std = batch.mean(axis=0, dtype=np.float64), float(batch.std(dtype=np.float64))
    if std > FAR or float(np.abs(mean.mean())) > FAR:
        raise DataError(
            f"{name}: floats count as normalised already, and these have mean {mean.mean():.3g} and deviation "
            f"{std:.3g}; give pixels of 0 to 255 as uint8, or normalise them first"
        )
    return batch, InputPreparation("normalised-already", wanted)


def _normalised(x: Array, node: Node) -> Array:
    """uint8 (n, c, …) as (x / 255 − mean) / std, floats as (x − mean) / std."""
    from dojang.training.data import Normalisation

    mean, std = node.attrs["mean"], node.attrs["std"]
    how = Normalisation(tuple(mean), tuple(std)) if mean and std else Normalisation.none(x.shape[1])
    return how.apply(x)


def answers(graph: Graph, output: Array, top: int) -> tuple[tuple[Guess, ...], ...]:
    """The `top` best classes of each row of an output (n, classes), best first; empty for outputs of other shapes, and
    for networks that were trained to give amounts.

    Their probabilities are those of `evidence.probabilities`.
    """
    if graph.meta.get("task") == "regression":
        return ()
    rows = output.reshape(len(output), -1) if output.ndim == 2 or output.shape[2:] == (1,) * (output.ndim - 2) else None
    if rows is None or rows.shape[1] < 2 or top == 0:
        return ()
    names = class_names(graph, rows.shape[1])
    wide = rows.astype(np.float64)
    from dojang.evidence.probabilities import probabilities

    chances = probabilities(graph, wide)
    order = np.argsort(-wide, axis=1, kind="stable")[:, :top]
    return tuple(
        tuple(Guess(int(i), names.of(i), float(row[i]), float(chance[i])) for i in best)
        for row, chance, best in zip(wide, chances, order, strict=True)
    )


def _write_npy(path: str | Path, array: Array, force: bool) -> Path:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return replace_bytes(path, buffer.getvalue(), force)

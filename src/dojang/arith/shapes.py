"""Shape rules: the shape of an operator's output, from its attributes and the shapes of its inputs.

Shapes include the batch as axis 0 and channels as axis 1: (n, c, *spatial). Every rule takes `(attrs, shapes)` and
raises `ShapeError`, which `Graph` prefixes with the node's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

from dojang.arith.attrs import Attrs
from dojang.arith.conv import Conv, by, resolve_padding, too_small
from dojang.arith.resizing import resized
from dojang.arith.symbol import scaled, symbolic
from dojang.arith.window import out_size
from dojang.base.errors import ShapeError

Shape = tuple[int, ...]
Shapes = Sequence[Shape]
Rule = Callable[[Attrs, Shapes], Shape]


def spatial(shape: Shape, rank: int, op: str, kernel: Shape = ()) -> Shape:
    """The `rank` axes after batch and channels."""
    if len(shape) != rank + 2:
        has = len(shape) - 2
        remedy = ""
        if kernel and has > 0:
            axes = "one axis" if has == 1 else f"{has} axes"
            remedy = f", which has {axes} to slide along: write a kernel such as {by((max(kernel),) * has)}"
        raise ShapeError(f"a {rank}-d {op} needs an input (n, c, {rank} sizes), got {by(shape)}{remedy}")
    return shape[2:]


def conv_problem(attrs: Attrs, shapes: Shapes, transposed: bool = False) -> Conv:
    """The `Conv` that a conv or conv_transpose node stands for."""
    kernel, stride, dilation = attrs["kernel"], attrs["stride"], attrs["dilation"]
    size = spatial(shapes[0], len(kernel), "convolution", kernel)
    if transposed and isinstance(attrs["padding"], str):
        raise ShapeError("a transposed convolution needs padding in numbers")
    pads = resolve_padding(attrs["padding"], size, kernel, stride, dilation)
    n, ic = shapes[0][:2]
    extra = attrs["output_padding"] if transposed else ()
    groups, bias = attrs["groups"], attrs["bias"]
    return _conv(n, ic, attrs["out"], size, kernel, stride, pads, dilation, groups, bias, transposed, extra)


@lru_cache(maxsize=4096)  # shapes, parameters and MACs of one layer need the same problem
def _conv(*fields: Any) -> Conv:
    return Conv(*fields)


def conv(attrs: Attrs, shapes: Shapes) -> Shape:
    """Convolution."""
    return conv_problem(attrs, shapes).out_shape


def conv_transpose(attrs: Attrs, shapes: Shapes) -> Shape:
    """Transposed convolution."""
    return conv_problem(attrs, shapes, transposed=True).out_shape


def deform_conv(attrs: Attrs, shapes: Shapes) -> Shape:
    """Deformable convolution: for each tap, position and offset group an offset per axis, and with a mask a factor."""
    problem = conv_problem(attrs, shapes)
    groups, taps = attrs["offset_groups"], prod(problem.kernel)
    if groups < 1 or problem.ic % groups:
        raise ShapeError(f"{problem.ic} input channels do not divide into {groups} offset groups")
    wanted = [("offsets", groups * taps * problem.rank), ("mask", groups * taps)]
    for (what, channels), shape in zip(wanted, shapes[1:], strict=False):
        needed = (problem.n, channels, *problem.out_size)
        if tuple(shape) not in (needed, (1, *needed[1:])):  # offsets of a single image hold for the whole batch
            raise ShapeError(f"the {what} of a deformable convolution must be {by(needed)} here, got {by(shape)}")
    return problem.out_shape


def dynamic_problem(attrs: Attrs, shapes: Shapes) -> Conv:
    """The `Conv` that a dynamic_conv node stands for. Its second input is the weights, which determine its channels.

    The groups follow from both inputs: so one kernel per image, with the batch folded into the channels, fits any
    batch.
    """
    kernel, stride, dilation = attrs["kernel"], attrs["stride"], attrs["dilation"]
    size = spatial(shapes[0], len(kernel), "convolution", kernel)
    weight = tuple(shapes[1])
    if len(weight) != len(kernel) + 2 or weight[2:] != tuple(kernel) or not weight[1]:
        raise ShapeError(f"a {by(kernel)} kernel needs weights (oc, ic/groups, {by(kernel)}), got {by(weight)}")
    n, ic = shapes[0][:2]
    if ic % weight[1]:
        raise ShapeError(f"{ic} input channels do not divide into groups of {weight[1]}, which the weights need")
    pads = resolve_padding(attrs["padding"], size, kernel, stride, dilation)
    return _conv(n, ic, weight[0], size, kernel, stride, pads, dilation, ic // weight[1], attrs["bias"], False, ())


def dynamic_conv(attrs: Attrs, shapes: Shapes) -> Shape:
    """Convolution with weights that the network computes."""
    return dynamic_problem(attrs, shapes).out_shape


def pool(attrs: Attrs, shapes: Shapes) -> Shape:
    """Max or average pooling, floor or ceil."""
    kernel, stride = attrs["kernel"], attrs["stride"]
    size = spatial(shapes[0], len(kernel), "pooling", kernel)
    dilation = attrs.get("dilation", (1,) * len(kernel))
    pads = resolve_padding(attrs["padding"], size, kernel, stride, dilation)
    axes = zip(size, kernel, stride, pads, dilation, strict=True)
    out = tuple(out_size(i, k, s, p0, p1, d, attrs["ceil"]) for i, k, s, (p0, p1), d in axes)
    for axis, o in enumerate(out):
        if o < 1:
            raise ShapeError(too_small(size, kernel, pads, dilation, axis))
    return (*shapes[0][:2], *out)


def adaptive_pool(attrs: Attrs, shapes: Shapes) -> Shape:
    """Pooling to a given output size."""
    spatial(shapes[0], len(attrs["out"]), "adaptive pooling", attrs["out"])
    if any(size < 1 for size in attrs["out"]):
        raise ShapeError(f"adaptive pooling to {by(attrs['out'])}: every size must be at least 1")
    return (*shapes[0][:2], *attrs["out"])


def global_pool(attrs: Attrs, shapes: Shapes) -> Shape:
    """Pooling of each channel to one value; spatial axes stay, as 1."""
    if len(shapes[0]) < 3:
        raise ShapeError(f"global pooling needs spatial axes, got {by(shapes[0])}")
    return (*shapes[0][:2], *(1 for _ in shapes[0][2:]))


def dense(attrs: Attrs, shapes: Shapes) -> Shape:
    """Fully connected layer over the last axis."""
    if len(shapes[0]) < 2:
        raise ShapeError(f"a dense layer needs an input (n, ..., features), got {by(shapes[0])}")
    if attrs["out"] < 1:
        raise ShapeError(f"a dense layer of {attrs['out']} outputs: it must have at least 1")
    return (*shapes[0][:-1], attrs["out"])


def same(attrs: Attrs, shapes: Shapes) -> Shape:
    """Element by element: the shape of the first input."""
    return shapes[0]


def channelwise(attrs: Attrs, shapes: Shapes) -> Shape:
    """Normalisations with one value per channel: needs a channel axis."""
    if len(shapes[0]) < 2:
        raise ShapeError(f"needs a channel axis, got {by(shapes[0])}")
    if "groups" in attrs and (attrs["groups"] < 1 or shapes[0][1] % attrs["groups"]):
        raise ShapeError(f"{shapes[0][1]} channels do not divide into {attrs['groups']} groups")
    return shapes[0]


def layer_norm(attrs: Attrs, shapes: Shapes) -> Shape:
    """Normalisation over the last axes, whose sizes must be those given."""
    norm = attrs["shape"]
    if tuple(shapes[0][-len(norm) :]) != norm:
        raise ShapeError(f"normalises over {by(norm)}, but the input is {by(shapes[0])}")
    return shapes[0]


def broadcast(attrs: Attrs, shapes: Shapes) -> Shape:
    """Element by element over several inputs, aligned at the last axis; a size of 1 is stretched."""
    rank = max(len(s) for s in shapes)
    full = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    out: list[int] = []
    for sizes in zip(*full, strict=True):
        wide = {s for s in sizes if s != 1}
        if len(wide) > 1:
            raise ShapeError(f"shapes {' and '.join(by(s) for s in shapes)} do not fit element by element")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis; raises when out of range."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is outside a shape of {rank} axes")
    return axis % rank


def concat(attrs: Attrs, shapes: Shapes) -> Shape:
    """Joins along one axis; the other sizes must agree."""
    axis = axis_of(attrs["axis"], len(shapes[0]))
    rest = {tuple(s[:axis]) + tuple(s[axis + 1 :]) for s in shapes}
    if len(rest) > 1 or len({len(s) for s in shapes}) > 1:
        raise ShapeError(f"cannot join {' and '.join(by(s) for s in shapes)} on axis {axis}: other sizes differ")
    return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])


def flatten(attrs: Attrs, shapes: Shapes) -> Shape:
    """Axes from `axis` on become one; with `axis` at the rank, a new axis of 1."""
    rank = len(shapes[0])
    axis = rank if attrs["axis"] == rank else axis_of(attrs["axis"], rank)
    return (*shapes[0][:axis], prod(shapes[0][axis:]))


def reshape(attrs: Attrs, shapes: Shapes) -> Shape:
    """New sizes for the same elements: 0 copies the input's size at that position, one -1 is inferred."""
    source, wanted = shapes[0], attrs["shape"]
    if any(w == 0 and i >= len(source) for i, w in enumerate(wanted)):
        raise ShapeError(f"reshape to {by(wanted)}: 0 copies a size that {by(source)} does not have")
    out = [source[i] if w == 0 else w for i, w in enumerate(wanted)]
    if out.count(-1) > 1 or any(w < -1 for w in out):
        raise ShapeError(f"reshape to {by(wanted)}: at most one size may be -1, and none less")
    # Copied sizes cancel; compare the products of the others, so that an empty batch is checked, too.
    copied = {i for i, w in enumerate(wanted) if w == 0}
    rest = prod(s for i, s in enumerate(source) if i not in copied)
    if -1 in out:
        known = prod(w for i, w in enumerate(wanted) if i not in copied and w != -1)
        out[out.index(-1)] = rest // known
    if prod(w for i, w in enumerate(out) if i not in copied) != rest:
        raise ShapeError(f"reshape: {by(source)} has {prod(source)} elements, which do not fill {by(wanted)}")
    return tuple(out)


def transpose(attrs: Attrs, shapes: Shapes) -> Shape:
    """Axes in another order."""
    perm: Shape = attrs["perm"]
    if sorted(perm) != list(range(len(shapes[0]))):
        raise ShapeError(f"perm {perm} is not an order of the {len(shapes[0])} axes of {by(shapes[0])}")
    return tuple(shapes[0][p] for p in perm)


def squeeze(attrs: Attrs, shapes: Shapes) -> Shape:
    """Drops axes of size 1."""
    axes = {axis_of(a, len(shapes[0])) for a in attrs["axes"]}
    if any(shapes[0][a] != 1 for a in axes):
        raise ShapeError(f"cannot squeeze axes {sorted(axes)} of {by(shapes[0])}: not all are 1")
    return tuple(s for i, s in enumerate(shapes[0]) if i not in axes)


def unsqueeze(attrs: Attrs, shapes: Shapes) -> Shape:
    """Inserts axes of size 1 at the given positions of the result."""
    rank = len(shapes[0]) + len(attrs["axes"])
    axes = {axis_of(a, rank) for a in attrs["axes"]}
    if len(axes) < len(attrs["axes"]):
        raise ShapeError(f"axes {by(attrs['axes'])} name one position twice; each new axis needs its own")
    rest = iter(shapes[0])
    return tuple(1 if i in axes else next(rest) for i in range(rank))


def pad(attrs: Attrs, shapes: Shapes) -> Shape:
    """Adds (or, when negative, crops) elements around the last axes."""
    pads, shape = attrs["pads"], shapes[0]
    if len(pads) > len(shape):
        raise ShapeError(f"{len(pads)} pairs of padding for an input of {len(shape)} axes")
    keep = len(shape) - len(pads)
    out = tuple(s + a + b for s, (a, b) in zip(shape[keep:], pads, strict=True))
    if any(s < 1 for s in out):
        raise ShapeError(f"padding {pads} shrinks {by(shape)} below 1")
    if attrs["mode"] in ("reflect", "circular"):
        limit = 1 if attrs["mode"] == "reflect" else 0
        for s, pair in zip(shape[keep:], pads, strict=True):
            if max(pair) > s - limit:
                raise ShapeError(f"{attrs['mode']} padding {max(pair)} is too much for a size of {s}")
    return (*shape[:keep], *out)


def slice_(attrs: Attrs, shapes: Shapes) -> Shape:
    """Every `step`-th element from `start` to before `stop` along one axis, by Python's rules."""
    if not attrs["step"]:
        raise ShapeError("a slice needs a step other than 0")
    axis = axis_of(attrs["axis"], len(shapes[0]))
    count = slice_count(shapes[0][axis], attrs["start"], attrs["stop"], attrs["step"])
    if count < 1 and shapes[0][axis]:
        raise ShapeError(f"the slice of axis {axis} of {by(shapes[0])} is empty")
    return (*shapes[0][:axis], count, *shapes[0][axis + 1 :])


def slice_count(size: int, start: int | None, stop: int | None, step: int) -> int:
    """The number of elements of a slice. Symbolic sizes follow the same rule, for positive steps only."""
    if not symbolic(size):
        return len(range(*slice(start, stop, step).indices(size)))
    if step < 0:
        raise ShapeError("a slice with a negative step needs a size in numbers")
    first = 0 if start is None else start if start >= 0 else size + start
    last = size if stop is None else min(stop, size) if stop >= 0 else size + stop
    return (last - first + step - 1) // step


def gather(attrs: Attrs, shapes: Shapes) -> Shape:
    """The elements at `indices` along one axis."""
    axis, indices = axis_of(attrs["axis"], len(shapes[0])), attrs["indices"]
    bad = [i for i in indices if not -shapes[0][axis] <= i < shapes[0][axis]]
    if bad:
        raise ShapeError(f"index {bad[0]} is outside axis {axis} of {by(shapes[0])}")
    return (*shapes[0][:axis], len(indices), *shapes[0][axis + 1 :])


def resize(attrs: Attrs, shapes: Shapes) -> Shape:
    """Spatial axes to a given size, or by a factor (rounded down)."""
    shape = shapes[0]
    rank = len(shape) - 2
    if (attrs["size"] is None) == (attrs["scale"] is None):
        raise ShapeError("resize needs one of size and scale, not both")
    if attrs["size"] is not None:
        spatial(shape, len(attrs["size"]), "resize")
        if any(size < 1 for size in attrs["size"]):
            raise ShapeError(f"resize to {by(attrs['size'])}: every size must be at least 1")
        return (*shape[:2], *attrs["size"])
    scale = attrs["scale"] * rank if len(attrs["scale"]) == 1 else attrs["scale"]
    sizes = spatial(shape, len(scale), "resize")
    out = tuple(
        scaled(s, f) if symbolic(s) else resized(s, f, attrs["arithmetic"]) for s, f in zip(sizes, scale, strict=True)
    )
    if any(o < 1 for o in out):
        raise ShapeError(f"resize by {scale} shrinks {by(shape)} below 1")
    return (*shape[:2], *out)


def reduce(attrs: Attrs, shapes: Shapes) -> Shape:
    """Axes summed (or averaged, or maximised) away; kept as 1 with `keepdims`."""
    axes = {axis_of(a, len(shapes[0])) for a in attrs["axes"]}
    if attrs["keepdims"]:
        return tuple(1 if i in axes else s for i, s in enumerate(shapes[0]))
    return tuple(s for i, s in enumerate(shapes[0]) if i not in axes)


def matmul(attrs: Attrs, shapes: Shapes) -> Shape:
    """Matrix product over the last two axes; the axes before broadcast."""
    a, b = shapes
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ShapeError(
            f"matrices {by(a)} and {by(b)} cannot be multiplied; columns of the first must equal rows of the second"
        )
    return (*broadcast({}, [a[:-2], b[:-2]]), a[-2], b[-1])


def einsum_sizes(equation: str, shapes: Shapes) -> tuple[dict[str, int], str]:
    """The size of every index of an einsum equation, and its output indices (no ellipsis)."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(shapes):
        raise ShapeError(f"einsum {equation!r}: write every index, one term per input, and the output")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if len(term) != len(shape):
            raise ShapeError(f"einsum {equation!r}: {term} does not name the {len(shape)} axes of {by(shape)}")
        for index, size in zip(term, shape, strict=True):
            if sizes.setdefault(index, size) != size:
                raise ShapeError(f"einsum {equation!r}: index {index} is {sizes[index]} and {size}")
    if any(index not in sizes for index in right):
        raise ShapeError(f"einsum {equation!r}: the output has an index that no input has")
    return sizes, right


def einsum_pairs(equation: str) -> list[str]:
    """The equations of a sum of several inputs, two at a time from the left, as PyTorch and ONNX Runtime take it: each
    of what the ones before gave and the next input. One of at most two inputs is itself.

    >>> einsum_pairs("bcn,bcm,bdm->bdn")
    ['bcn,bcm->bnm', 'bnm,bdm->bdn']
    """
    left, _, right = equation.partition("->")
    terms = left.split(",")
    made: list[str] = []
    while len(terms) > 2:
        needed = set(right + "".join(terms[2:]))
        kept = "".join(c for c in dict.fromkeys(terms[0] + terms[1]) if c in needed)
        made.append(f"{terms[0]},{terms[1]}->{kept}")
        terms[:2] = [kept]
    return [*made, f"{','.join(terms)}->{right}"]


def einsum_spread(equation: str, shapes: Shapes) -> tuple[str, list[tuple[int, ...]]]:
    """An einsum equation without the axes of one place whose index is larger elsewhere, and which these are, input by
    input: dropped, they mean the same.

    >>> einsum_spread("bij,bjk->bik", [(4, 2, 1), (4, 3, 5)])
    ('bi,bjk->bik', [(2,), ()])
    """
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    named = [list(zip(term, shape, strict=True)) for term, shape in zip(terms, shapes, strict=True)]
    wide = {index for term in named for index, size in term if size != 1}
    gone = [tuple(k for k, (index, size) in enumerate(term) if size == 1 and index in wide) for term in named]
    kept = ["".join(c for k, c in enumerate(term) if k not in axes) for term, axes in zip(terms, gone, strict=True)]
    return f"{','.join(kept)}{arrow}{right}", gone


def einsum(attrs: Attrs, shapes: Shapes) -> Shape:
    """Sum of products over named indices."""
    sizes, right = einsum_sizes(attrs["equation"], shapes)
    return tuple(sizes[index] for index in right)

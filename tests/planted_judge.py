"""Whether a finding of dojang is what was planted, and whether it is true at all, judged in PyTorch and NumPy.

`tells(finding, planted)` is about the first question. `true(net, x, fresh, finding, plants)` answers the second without
dojang's own figures: what the finding claims is looked up in the network's values in float64, on the samples that
dojang saw and on others. So natural waste that is told is no false alarm, and what merely looks like waste is one.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from planted_networks import Call, Net, Unit
from planted_truth import Plant, moved, outputs, share_of_parameters, values

Array = np.ndarray

DEAD = ("dead-proven", "dead-observed")
ALIKE = ("duplicate", "repeated")
THIN = ("low-rank",)

ACCEPTED: dict[str, tuple[str, ...]] = {
    "dead by weights": ("dead-proven",),
    "dead on the samples": DEAD,
    "scale 0 after ReLU": (*DEAD, "constant"),
    "dead behind two ReLUs": DEAD,
    "dead in a shared layer": DEAD,
    "dead sum": DEAD,
    "silent branch": DEAD,
    "constant": ("constant",),
    "duplicate": ALIKE,
    "positive multiple": ALIKE,
    "negative multiple": (*ALIKE, *THIN),
    "linear combination": THIN,
    "identical branches": ALIKE,
    "low rank": THIN,
    "unread channel": ("unread",),
    "unused input": ("unread",),
    "block that adds nothing": ("idle-block",),
    "oversized dense layer": ("hot-spot",),
    "saturated": ("saturated",),
    "exploding": ("exploding",),
    "vanishing": ("vanishing",),
    "weight not finite": ("not-finite",),
    "activation not finite": ("not-finite",),
    **{f"groups of filters: {g}": ("low-correlation",) for g in (2, 4, 8)},
}
"""Kinds of finding that tell a plant."""

NOT_LOOKED_FOR = (
    ("layers in another order that would compute the same with less (two 1×1 layers in a row)", "dojang slim"),
    ("channels that are not linear functions of others, but predictable from them", "no test of this kind is made"),
    ("kernels with less in them than their size: rows of zeros at their border, separable kernels", "not measured"),
    ("weights that are 0 one by one (unstructured sparsity)", "dojang count shows parameters, not zeros"),
    ("heads of attention that do nothing, tokens that carry nothing", "attention is not taken apart"),
    ("more depth, width or input size than the task needs", "dojang slim, by search"),
)
"""What nothing is planted of, because dojang does not look for it, and where else it is found."""


def tells(finding: Any, planted: Plant) -> bool:
    """Whether this finding alone tells what was planted."""
    if finding.kind not in ACCEPTED.get(planted.kind, ()) or own_name(finding.layer) not in planted.names:
        return False
    if planted.groups and planted.kind.startswith("groups"):
        return told_groups(finding) == planted.groups
    return True


def found(findings: list[Any], planted: Plant) -> bool:
    """Whether these findings tell the plant, with all its channels."""
    fitting = [f for f in findings if tells(f, planted)]
    if planted.kind in ("duplicate", "positive multiple", "negative multiple"):
        return any(set(planted.channels) <= set(f.channels) or not f.channels for f in fitting)
    if not planted.channels or planted.kind in ("linear combination", "identical branches"):
        return bool(fitting)
    told = {c for f in fitting for c in f.channels}
    return set(planted.channels) <= told


def own_name(layer: str) -> str:
    """The module of a layer: where it is run again dojang calls the later uses name_1, name_2."""
    return re.sub(r"(\.layer)_\d+$", r"\1", layer)


def told_groups(finding: Any) -> int | None:
    """The number of groups that a low-correlation finding names."""
    words = finding.evidence.replace(",", " ").split()
    for i, word in enumerate(words[1:], 1):
        if word == "groups" and words[i - 1].isdigit():
            return int(words[i - 1])
    return None


def true(net: Net, x: Array, fresh: Array, finding: Any, plants: list[Plant]) -> bool | None:
    """Whether the finding is true of the network; None for kinds that nothing here can judge.

    `fresh`: samples of the same distribution that dojang has not seen, for what is claimed beyond the samples.
    """
    channels, layer = list(finding.channels), own_name(finding.layer)
    if finding.kind in (*DEAD, "constant"):
        given = _taps(net, x, layer)
        other = _taps(net, 10 * fresh, layer) if finding.proved else given
        limit = 0.0 if finding.kind == "constant" else None
        return any(_still(given[t], channels, limit) and _still(other[t], channels, limit) for t in given)
    if finding.kind == "duplicate":
        seen = _taps(net, fresh, layer).values()
        return any(all(_multiple(v, channels[0], c) for c in channels[1:]) for v in seen)
    if finding.kind == "repeated":
        return _repeated(net, fresh, layer, channels)
    if finding.kind == "low-rank":
        return _dependent(net, layer)
    if finding.kind == "low-correlation":
        groups = told_groups(finding)
        return groups is not None and parts(net, x, layer) % groups == 0
    if finding.kind == "hot-spot" and "parameters" in finding.evidence:
        return abs(share_of_parameters(net, layer) - finding.value) < 0.005
    if finding.kind == "unread":
        tap = "x" if layer not in dict(net.named_modules()) else net.taps(layer)[-1]
        noise = torch.Generator().manual_seed(3)
        return moved(net, fresh, tap, tuple(channels), lambda v: v.std() * torch.randn(
            v[..., channels].shape, generator=noise, dtype=v.dtype)) < 1e-6  # fmt: skip
    if finding.kind in ("exploding", "vanishing"):
        return _far(net, x, layer, finding.kind == "exploding")
    if finding.kind == "idle-block":
        return _idle(net, x, finding.layer)
    if finding.kind == "saturated":
        return any(_at_ends(v) > 0.5 for v in _taps(net, x, layer).values())
    return None


def _idle(net: Net, x: Array, at: str) -> bool | None:
    """The outputs move by about a tenth of their deviation at most without a branch of a sum, or without a unit."""
    step, _, part = at.rpartition(".")
    module = dict(net.named_modules()).get(net.uses.get(step, ""))
    if part == "add" and isinstance(module, Call):
        hooks = [lambda m, given, y, k=k: y - given[k] for k in (0, 1)]  # one branch or the other
    elif isinstance(module, Unit) and part in ("layer", module.parts()[-1]):
        module, hooks = module.layer if part == "layer" else module, [lambda m, given, y: given[0]]
    else:
        return None
    after = outputs(net, x)
    limit = 0.15 * float((after - after.mean(0)).pow(2).mean().sqrt())
    found = [outputs_without(net, x, module.register_forward_hook(hook)) for hook in hooks]
    return any(float((after - before).pow(2).mean().sqrt()) <= limit for before in found)


def outputs_without(net: Net, x: Array, hook: Any) -> torch.Tensor:
    """The outputs while a hook is in place, which is removed then."""
    try:
        return outputs(net, x)
    finally:
        hook.remove()


def _layers(net: Net) -> list[str]:
    return [n for n, m in net.named_modules() if getattr(m, "weight", None) is not None and m.weight.ndim > 1]


def _sizes(net: Net, x: Array, layer: str) -> tuple[float, float, float]:
    """Root mean square of what a layer reads and of what it gives, and the largest size of that, over all uses."""
    read: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        del module
        read.append(inputs[0].flatten())
        given.append(output.flatten())

    hook = dict(net.named_modules())[layer].register_forward_hook(look)
    try:
        outputs(net, x)
    finally:
        hook.remove()
    before, after = torch.cat(read), torch.cat(given)
    return float(before.pow(2).mean().sqrt()), float(after.pow(2).mean().sqrt()), float(after.abs().max())


def _far(net: Net, x: Array, layer: str, explodes: bool) -> bool:
    """What a layer gives, or its norm or activation make of it, is far from what it reads; behind a norm from 1 too."""
    read, given, peak = _sizes(net, x, layer)
    step, _, _ = layer.rpartition(".")
    own = {t: v for t, v in _taps(net, x, layer).items() if t.startswith(f"{step}.")}
    sizes, peaks, normed = [(given, False)], [peak], False
    for name, seen in own.items():
        normed = normed or name.endswith(".norm")
        sizes.append((float(np.sqrt(np.square(seen).mean())), normed))
        peaks.append(float(np.abs(seen).max()))
    if explodes:
        apart = any(size > 500 * (max(read, 1.0) if normed else read) for size, normed in sizes)
        return apart or max(peaks) > 65504  # the largest number of half precision
    return any(size < max((min(read, 1.0) if normed else read) / 500, 1e-4) for size, normed in sizes)


def _at_ends(seen: Array) -> float:
    """The part of values that lie within a hundredth of the least or the largest that there is."""
    low, high = seen.min(), seen.max()
    reach = 0.01 * (high - low)
    return float(((seen - low < reach) | (high - seen < reach)).mean())


def _repeated(net: Net, x: Array, layer: str, channels: list[int]) -> bool:
    """Each of these channels is a multiple of one of another layer, at some place behind both."""
    own = _taps(net, x, layer)
    others = [v for n in _layers(net) if n != layer for v in _taps(net, x, n).values()]
    fitting = [(a, b) for a in own.values() for b in others if a.shape[:2] == b.shape[:2]]
    return any(
        all(any(_multiple(np.stack([a[..., c], b[..., d]], -1), 0, 1) for d in range(b.shape[-1])) for c in channels)
        for a, b in fitting
    )


def _dependent(net: Net, layer: str) -> bool:
    """The filters of a layer (with their biases), each scaled to length 1, are fewer directions than there could be."""
    module = dict(net.named_modules())[layer]
    rows = module.weight.detach().double().flatten(1)
    if module.bias is not None:
        rows = torch.cat([rows, module.bias.detach().double()[:, None]], 1)
    for part in rows.reshape(getattr(module, "groups", 1), -1, rows.shape[1]):
        live = part[part.norm(dim=1) > 0]
        s = torch.linalg.svdvals(live / live.norm(dim=1, keepdim=True))
        if len(s) > 1 and s[-1] < 3e-6 * s[0]:
            return True
    return False


def _taps(net: Net, x: Array, layer: str) -> dict[str, Array]:
    """The values on the way of a layer's channels, (n, places, channels) each."""
    taps = [t for t in net.taps(layer) if t in dict(net.named_modules())]
    return {t: v.reshape(len(v), -1, v.shape[-1]).numpy() for t, v in values(net, x, taps).items()}


def _still(seen: Array, channels: list[int], constant: float | None) -> bool:
    """These channels are 0 (or one value each) but for float32 rounding of the values that went into them."""
    if max(channels, default=0) >= seen.shape[-1]:
        return False
    own = seen[..., channels]
    if constant is None:
        return bool(np.abs(own).max(initial=0.0) <= 1e-6 * max(float(np.abs(seen).max()), 1e-30))
    size = np.abs(own).max(axis=(0, 1))
    return bool((own.max(axis=(0, 1)) - own.min(axis=(0, 1)) <= 1e-5 * np.maximum(size, 1e-30)).all())


def _multiple(seen: Array, a: int, b: int) -> bool:
    """Channel b is s·(channel a) + t on at least 95 % of fresh samples, and both move."""
    if max(a, b) >= seen.shape[-1]:
        return False
    p, q = (seen[..., c] - seen[..., c].mean() for c in (a, b))
    if p.std() <= 1e-9 * max(float(np.abs(seen[..., a]).max()), 1e-30):
        return False
    factor = float((p * q).sum() / (p * p).sum())
    apart = np.abs(q - factor * p).max(axis=1) > 1e-3 * max(float(q.std()), 1e-30)
    return bool(apart.mean() < 0.05)


def parts(net: Net, x: Array, layer: str, least: float = 1e-3) -> int:
    """Into how many separate parts a layer's weights fall where links below `least` of a row's energy are left out.

    The energy of a link is that of its weights; 1 for a layer in which everything hangs together. Grouped layers have
    nothing left to split: 1.
    """
    module = dict(net.named_modules())[layer]
    if getattr(module, "groups", 1) > 1:
        return 1
    weight = (
        module.weight.detach().double().flatten(2)
        if module.weight.ndim > 2
        else module.weight.detach().double()[..., None]
    )
    energy = (weight**2).sum(2).numpy()
    linked = energy > least * energy.sum(1, keepdims=True)
    rows, columns = energy.shape
    label = list(range(rows + columns))

    def root(k: int) -> int:
        while label[k] != k:
            k = label[k]
        return k

    for r, c in zip(*np.nonzero(linked), strict=True):
        label[root(int(r))] = root(rows + int(c))
    return len({root(k) for k in range(rows + columns)})

"""How each kind of waste is planted: functions that change the weights of a `Net` in place and say what they planted.

A planter returns None where the architecture has no place for its kind. `taken` holds the steps that other plants need
as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from planted_networks import Call, Net, Unit
from planted_truth import Array, Plant, Predicted, moved, share_of_parameters, values

Rng = np.random.Generator
Planter = Callable[[Net, Array, Rng, set[str]], Plant | None]


def pick(net: Net, rng: Rng, taken: set[str], fits: Callable[[str, Unit], bool]) -> tuple[str, Unit] | None:
    """One of the units that fit and are not taken, which is taken now."""
    found = [(n, u) for n, u in net.units().items() if n not in taken and n != "head" and fits(n, u)]
    if not found:
        return None
    name, unit = found[rng.integers(len(found))]
    taken.add(name)
    return name, unit


def width(unit: Unit) -> int:
    return unit.layer.weight.shape[0]


def some(rng: Rng, unit: Unit) -> tuple[int, ...]:
    """One to three channels."""
    return tuple(sorted(int(c) for c in rng.permutation(width(unit))[: rng.integers(1, 4)]))


def act_of(unit: Unit) -> str:
    return {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky", nn.GELU: "gelu", nn.SiLU: "silu",
            nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}.get(type(unit.act), "none")  # fmt: skip


def last_part(name: str, unit: Unit) -> str:
    return f"{name}.{unit.parts()[-1]}"


def set_constant(unit: Unit, c: int, before: float) -> None:
    """The channel is `before` in front of the activation (after a norm that stands behind it) everywhere."""
    if unit.norm is not None:
        unit.norm.weight[c], unit.norm.bias[c] = 0, before
    else:
        unit.layer.weight[c], unit.layer.bias[c] = 0, before


def dead_by_weights(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Scale or weights 0 in front of an activation that gives 0 there."""
    chosen = pick(net, rng, taken, lambda n, u: act_of(u) != "sigmoid" and u.order != "lan")
    if chosen is None:
        return None
    name, unit = chosen
    channels = some(rng, unit)
    for c in channels:
        set_constant(unit, c, -rng.uniform(0.1, 1) if act_of(unit).startswith("relu") else 0.0)
    tap = last_part(name, unit)
    return Plant("dead by weights", f"{name}.layer", channels, tap=tap, predicted=_zero, check=_is(tap, channels, 0.0))


def scale_zero_after_relu(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A norm behind the activation whose scale and shift are 0."""
    chosen = pick(net, rng, taken, lambda n, u: u.order == "lan")
    if chosen is None:
        return None
    name, unit = chosen
    channels = some(rng, unit)
    for c in channels:
        set_constant(unit, c, 0.0)
    tap = last_part(name, unit)
    return Plant(
        "scale 0 after ReLU", f"{name}.layer", channels, (f"{name}.norm",), tap, _zero, _is(tap, channels, 0.0)
    )


def dead_on_samples(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A shift so far down that ReLU never opens on the samples, which no range of the input proves."""
    chosen = pick(net, rng, taken, lambda n, u: act_of(u).startswith("relu") and u.order != "lan")
    if chosen is None:
        return None
    name, unit = chosen
    channels = some(rng, unit)
    before = "norm" if unit.norm is not None else "layer"
    seen = values(net, x, [f"{name}.{before}"])[f"{name}.{before}"]
    bias = getattr(unit, before).bias
    for c in channels:
        one = seen[..., c]
        bias[c] -= one.max() + (0.2 + rng.uniform(0, 1)) * one.std()
    tap = last_part(name, unit)
    return Plant("dead on the samples", f"{name}.layer", channels, (), tap, _zero, _is(tap, channels, 0.0))


def dead_behind_two(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A layer that goes through two activations, both of which give 0 on all samples."""
    if net.kind != "two_readers" or "stem" in taken:
        return None
    taken.add("stem")
    unit = net.units()["stem"]
    channels = some(rng, unit)
    seen = values(net, x, ["stem.norm"])["stem.norm"]
    for c in channels:
        unit.norm.bias[c] -= seen[..., c].max() + 0.5 * seen[..., c].std()
    return Plant(
        "dead behind two ReLUs", "stem.layer", channels, ("act0", "act1"), "act0", _zero, _is("act1", channels, 0.0)
    )


def dead_in_shared(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A layer that is run twice has weights 0 and a shift below 0: dead in both uses."""
    if net.kind != "shared" or "twice" in taken:
        return None
    taken.add("twice")
    unit = net.twice
    channels = some(rng, unit)
    for c in channels:
        unit.layer.weight[c], unit.layer.bias[c] = 0, -0.3
    return Plant(
        "dead in a shared layer", "twice.layer", channels, (), "twice.act", _zero, _is("twice.act", channels, 0.0)
    )


def constant(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Weights or scale 0, and a value that passes the activation."""
    chosen = pick(net, rng, taken, lambda n, u: True)
    if chosen is None:
        return None
    name, unit = chosen
    channels = some(rng, unit)
    for c in channels:
        set_constant(unit, c, rng.uniform(0.3, 1.5))
    tap = last_part(name, unit)

    def still(net: Net, x: Array) -> bool:
        seen = values(net, x, [tap])[tap][..., list(channels)].flatten(0, -2)
        return bool((seen.amax(0) - seen.amin(0)).max() < 1e-9)

    return Plant(
        "constant", f"{name}.layer", channels, (), tap, lambda v: v[:1, ..., list(channels)].flatten(0, -2)[0], still
    )


def _multiple(kind: str, net: Net, rng: Rng, taken: set[str], factor: float, acts: tuple[str, ...]) -> Plant | None:
    def fits(name: str, unit: Unit) -> bool:
        groups = getattr(unit.layer, "groups", 1)
        return (
            act_of(unit) in acts
            and width(unit) // groups > 1
            and not (factor < 0 and isinstance(unit.norm, nn.GroupNorm))
        )

    chosen = pick(net, rng, taken, fits)
    if chosen is None:
        return None
    name, unit = chosen
    blocks = max(getattr(unit.layer, "groups", 1), unit.norm.num_groups if isinstance(unit.norm, nn.GroupNorm) else 1)
    block, size = rng.integers(blocks), width(unit) // blocks
    a, b = sorted(int(block * size + k) for k in rng.permutation(size)[:2])
    layer, norm = unit.layer, unit.norm
    inner = factor if norm is None or not isinstance(norm, nn.GroupNorm) else 1.0
    layer.weight[b] = inner * layer.weight[a]
    if layer.bias is not None:
        layer.bias[b] = inner * layer.bias[a]
    if isinstance(norm, nn.GroupNorm):
        norm.weight[b], norm.bias[b] = factor * norm.weight[a], factor * norm.bias[a]
    elif norm is not None:
        norm.running_mean[b], norm.running_var[b] = factor * norm.running_mean[a], norm.running_var[a]
        norm.weight[b] = norm.weight[a]
        norm.bias[b] = norm.bias[a] if factor == 1 else factor * norm.bias[a]
    return Plant(
        kind,
        f"{name}.layer",
        (a, b),
        (),
        last_part(name, unit),
        lambda v: torch.stack([v[..., a], factor * v[..., a]], -1),
    )


def duplicate(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Two channels with the same weights, shift and norm."""
    return _multiple(
        "duplicate", net, rng, taken, 1.0, ("relu", "relu6", "leaky", "gelu", "silu", "tanh", "sigmoid", "none")
    )


def positive_multiple(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """One channel is 0.3 to 3 times another behind ReLU or leaky ReLU (or no activation)."""
    return _multiple(
        "positive multiple", net, rng, taken, float(np.float32(rng.uniform(0.3, 3))), ("relu", "leaky", "none")
    )


def negative_multiple(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """One channel is −0.3 to −3 times another where no activation comes between, or the odd tanh (−1 times)."""
    factor = -1.0 if net.kind == "saturating" else float(np.float32(-rng.uniform(0.3, 3)))
    return _multiple("negative multiple", net, rng, taken, factor, ("tanh",) if net.kind == "saturating" else ("none",))


def linear_combination(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """One channel is a weighted sum of two others, without an activation behind, where all could be independent."""
    chosen = pick(
        net, rng, taken,
        lambda n, u: u.act is None and u.pool is None and not isinstance(u.norm, nn.GroupNorm)
        and getattr(u.layer, "groups", 1) == 1 and width(u) <= u.layer.weight[0].numel(),
    )  # fmt: skip
    if chosen is None:
        return None
    name, unit = chosen
    i, j, to = (int(c) for c in rng.permutation(width(unit))[:3])
    a, b = (float(v) for v in rng.uniform(0.4, 1.5, 2) * rng.choice([-1, 1], 2))
    layer, norm = unit.layer, unit.norm
    if norm is None:
        k, t = torch.ones(width(unit)).double(), torch.zeros(width(unit)).double()
    else:
        k = norm.weight / (norm.running_var + norm.eps).sqrt()
        t = norm.bias - k * norm.running_mean
        norm.bias[to] = a * t[i] + b * t[j] + k[to] * norm.running_mean[to]
    layer.weight[to] = (a * k[i] * layer.weight[i] + b * k[j] * layer.weight[j]) / k[to]
    if layer.bias is not None:
        layer.bias[to] = (a * k[i] * layer.bias[i] + b * k[j] * layer.bias[j]) / k[to]
    return Plant("linear combination", f"{name}.layer", (to,), (), last_part(name, unit),
                 lambda v: (a * v[..., i] + b * v[..., j])[..., None])  # fmt: skip


def low_rank(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """The weights of a layer are a product of two thin matrices: an eighth of the directions that they could have."""
    chosen = pick(
        net, rng, taken, lambda n, u: getattr(u.layer, "groups", 1) == 1 and min(u.layer.weight.flatten(1).shape) >= 16
    )
    if chosen is None:
        return None
    name, unit = chosen
    weight = unit.layer.weight
    flat = weight.flatten(1)
    rank = max(2, min(flat.shape) // 8)
    thin = torch.from_numpy(rng.normal(size=(flat.shape[0], rank)) @ rng.normal(size=(rank, flat.shape[1])))
    weight.copy_((thin * flat.norm() / thin.norm()).reshape(weight.shape))

    def few(net: Net, x: Array) -> bool:
        s = torch.linalg.svdvals(unit.layer.weight.flatten(1))
        return bool((s[rank:] ** 2).sum() < 1e-10 * (s**2).sum())

    return Plant("low rank", f"{name}.layer", (), check=few, groups=rank)


def _readers(net: Net, name: str) -> list[Unit] | None:
    """The units that read this step and nothing else does; means over space are looked through."""
    found: list[Unit] = []
    for reader in net.readers(name):
        if reader == "mean" and net.kind != "tokens":
            found += _readers(net, reader) or []
            continue
        module = getattr(net, net.uses[reader])
        if not isinstance(module, Unit) or getattr(module.layer, "groups", 1) > 1 or net.uses[reader] != reader:
            return None
        if list(net.uses.values()).count(reader) > 1:
            return None
        found.append(module)
    return None if name in net.outputs else found or None


def unread_channel(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """No layer behind has a weight for the channel."""
    chosen = pick(net, rng, taken, lambda n, u: _readers(net, n) is not None)
    if chosen is None:
        return None
    name, unit = chosen
    channels = some(rng, unit)
    for reader in _readers(net, name) or ():
        reader.layer.weight[:, list(channels)] = 0
    return Plant("unread channel", f"{name}.layer", channels, (), last_part(name, unit), _noise(channels))


def unused_input(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """No layer has a weight for a channel of the input."""
    readers = [(n, m) for n in net.readers("x") if isinstance(m := getattr(net, n), Unit)]
    if "x" in taken or not readers:
        return None
    taken.add("x")
    channel = int(rng.integers(net.size[0]))
    for _, reader in readers:
        reader.layer.weight[:, channel] = 0
    return Plant("unused input", "x", (channel,), tuple(f"{n}.layer" for n, _ in readers), "x", _noise((channel,)))


def _sums(net: Net, taken: set[str]) -> list[tuple[str, list[str]]]:
    """Sums with a ReLU behind, and the units among what they add."""
    found: list[tuple[str, list[str]]] = []
    for step, reads in net.reads.items():
        units = [
            r for r in reads if isinstance(u := getattr(net, r, None), Unit) and u.act is None and u.norm is not None
            and r not in taken
        ]  # fmt: skip
        module = getattr(net, f"{step}_act", None)
        if isinstance(module, Call) and isinstance(module.call, nn.ReLU) and units:
            found.append((step, units))
    return found


def dead_sum(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A sum is below 0 on all samples, so the ReLU behind it never opens, while what is added moves."""
    found = _sums(net, taken)
    if not found:
        return None
    step, units = found[rng.integers(len(found))]
    taken.update(units)
    unit = getattr(net, units[0])
    channels = some(rng, unit)
    seen = values(net, x, [step])[step]
    for c in channels:
        unit.norm.bias[c] -= seen[..., c].max() + (0.2 + rng.uniform(0, 1)) * seen[..., c].std()
    also = (*(f"{r}.layer" for r in net.reads[step]), step, f"{step}_act")
    return Plant(
        "dead sum", f"{units[0]}.layer", channels, also, f"{step}_act", _zero, _is(f"{step}_act", channels, 0.0)
    )


def silent_branch(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """The last norm of a block has scale and shift 0: the block adds nothing."""
    chosen = _branch(net, rng, taken, lambda unit: unit.norm is not None)
    if chosen is None:
        return None
    _, name, unit = chosen
    for c in range(width(unit)):
        set_constant(unit, c, 0.0)
    tap = last_part(name, unit)
    every = tuple(range(width(unit)))
    return Plant("silent branch", f"{name}.layer", every, (), tap, _zero, _is(tap, every, 0.0))


def _branches(net: Net, taken: set[str]) -> list[tuple[str, str]]:
    """Residual sums over the identity or a projection, and the last unit of their branch."""
    found: list[tuple[str, str]] = []
    for step, reads in net.reads.items():
        if "sum" in step and not step.endswith("_act") and len(reads) == 2 and reads[0] not in taken:
            unit = getattr(net, reads[0], None)
            if isinstance(unit, Unit) and unit.act is None and reads[0].startswith("b") and net.kind != "branches":
                found.append((step, reads[0]))
    return found


def _branch(net: Net, rng: Rng, taken: set[str], fits: Callable[[Unit], bool]) -> tuple[str, str, Unit] | None:
    """One of the sums of `_branches` whose unit fits, with the unit, which is taken now."""
    found = [(step, name) for step, name in _branches(net, taken) if fits(getattr(net, name))]
    if not found:
        return None
    step, name = found[rng.integers(len(found))]
    taken.add(name)
    return step, name, getattr(net, name)


def bypassable_block(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A block of which next to nothing (a ten-thousandth) is added to its shortcut."""
    chosen = _branch(net, rng, taken, lambda unit: True)
    if chosen is None:
        return None
    step, name, unit = chosen
    target = unit.norm if unit.norm is not None else unit.layer
    target.weight.mul_(1e-4)
    if target.bias is not None:
        target.bias.mul_(1e-4)
    tap = last_part(name, unit)
    every = tuple(range(width(unit)))

    def small(net: Net, x: Array) -> bool:
        return moved(net, x, tap, every, _zero) < 0.01

    inside = (step, f"{step}.add")
    return Plant("block that adds nothing", f"{name}.layer", (), inside, check=small)


def identical_branches(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Two parallel layers have the same weights."""
    found = [n[:-1] for n in net.units() if net.kind == "branches" and n.endswith("a") and n not in taken]
    if not found:
        return None
    stem = found[rng.integers(len(found))]
    one, other = f"{stem}a", f"{stem}b"
    taken.update((one, other))
    for part in getattr(net, one).parts():
        setattr(getattr(net, other), part, copy.deepcopy(getattr(getattr(net, one), part)))
    every = tuple(range(width(getattr(net, one))))

    def same(net: Net, x: Array) -> bool:
        a, b = (last_part(n, getattr(net, n)) for n in (one, other))
        seen = values(net, x, [a, b])
        return bool(torch.equal(seen[a], seen[b]))

    return Plant("identical branches", f"{one}.layer", every, (f"{other}.layer", *net.readers(one)), check=same)


def _groups(count: int) -> Planter:
    def planter(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
        """The weights connect each group, in an order of their own, with itself only, but for a noise of 1 %."""

        def fits(name: str, unit: Unit) -> bool:
            o, i = unit.layer.weight.shape[:2]
            conv = not isinstance(unit.layer, nn.Linear) and unit.layer.groups == 1
            return conv and o % count == 0 and i % count == 0 and min(i, o) // count >= 4

        chosen = pick(net, rng, taken, fits)
        if chosen is None:
            return None
        name, unit = chosen
        weight = unit.layer.weight
        o, i = weight.shape[:2]
        rows, columns = rng.permutation(o) % count, rng.permutation(i) % count
        inside = torch.from_numpy(rows[:, None] == columns).reshape(o, i, *[1] * (weight.ndim - 2))
        scale = weight.std()
        noise = torch.from_numpy(rng.normal(size=tuple(weight.shape))) * scale * 0.01
        weight.copy_(weight * inside * count**0.5 + noise)
        return Plant(f"groups of filters: {count}", f"{name}.layer", groups=count)

    return planter


def oversized_dense(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """A dense layer on flattened maps that holds most of all parameters."""
    if net.kind != "dense":
        return None
    taken.add("d0")

    def most(net: Net, x: Array) -> bool:
        return share_of_parameters(net, "d0.layer") > 0.4

    return Plant("oversized dense layer", "d0.layer", check=most)


def not_finite(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """One weight is NaN or infinite."""
    chosen = pick(net, rng, taken, lambda n, u: True)
    assert chosen is not None
    name, unit = chosen
    flat = unit.layer.weight.view(-1)
    flat[rng.integers(len(flat))] = rng.choice([np.nan, np.inf, -np.inf])
    return Plant("weight not finite", f"{name}.layer")


def overflow(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Weights of 1e25 in one layer, and again in another: what comes of it is not finite in float32."""
    straight = [n for n in net.units() if n != "head"]
    if len(straight) < 2:
        return None
    for name in straight:
        getattr(net, name).layer.weight.mul_(1e25)
    taken.update(straight)

    def infinite(net: Net, x: Array) -> bool:
        modules = [f"{n}.layer" for n in straight]
        return any(float(v.abs().max()) > 3.4e38 for v in values(net, x, modules).values())

    return Plant(
        "activation not finite", f"{straight[0]}.layer", also=tuple(n for n, _ in net.named_modules()), check=infinite
    )


def saturated(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Values in front of sigmoid, tanh or ReLU6 are 100 times too large: nearly all lie at its ends."""
    chosen = pick(net, rng, taken, lambda n, u: act_of(u) in ("sigmoid", "tanh"))
    if chosen is None:
        return None
    name, unit = chosen
    target = unit.norm if unit.norm is not None else unit.layer
    target.weight.mul_(100)
    low = 0.0 if act_of(unit) == "sigmoid" else -1.0

    def at_the_ends(net: Net, x: Array) -> bool:
        y = values(net, x, [f"{name}.act"])[f"{name}.act"]
        return float((((y - low) < 0.01) | ((1 - y) < 0.01)).double().mean()) > 0.9

    return Plant("saturated", f"{name}.layer", (), (f"{name}.act",), check=at_the_ends)


def _scaled(kind: str, factor: float) -> Planter:
    def planter(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
        """Scale (or weights) and shift of one layer by a large factor."""
        chosen = pick(net, rng, taken, lambda n, u: act_of(u) not in ("sigmoid", "tanh", "relu6"))
        if chosen is None:
            return None
        name, unit = chosen
        target = unit.norm if unit.norm is not None else unit.layer
        target.weight.mul_(factor)
        if target.bias is not None:
            target.bias.mul_(factor)
        tap = last_part(name, unit)

        def far(net: Net, x: Array) -> bool:
            size = float(values(net, x, [tap])[tap].std())
            return size > 100 if factor > 1 else size < 0.01

        also = tuple(n for n, _ in net.named_modules() if n.startswith(f"{name}."))
        return Plant(kind, f"{name}.layer", (), also, check=far)

    return planter


# Places where something looks like waste and is none: nothing may be told about them that the oracle does not confirm.


def one_use_dead(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Of a layer that is run twice a channel is dead in the second use only."""
    if net.kind != "shared":
        return None
    seen = values(net, x, ["twice.layer"])["twice.layer"]
    first, second = seen[: len(x)], seen[len(x) :]
    room = (first.flatten(0, -2).amax(0) - second.flatten(0, -2).amax(0)).detach()
    c = int(room.argmax())
    if room[c] <= 0:
        return None
    net.twice.layer.bias[c] -= (first[..., c].max() + second[..., c].max()) / 2
    return Plant("trap: dead in one of two uses", "twice.layer", (c,))


def one_huge_row(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """One channel is 1e7 times as large as the others, which therefore hardly move beside it."""
    chosen = pick(net, rng, taken, lambda n, u: u.norm is None and act_of(u) in ("relu", "none", "leaky"))
    if chosen is None:
        return None
    name, unit = chosen
    c = int(rng.integers(width(unit)))
    unit.layer.weight[c] *= 1e7
    return Plant("trap: one huge channel", f"{name}.layer", (c,))


def large_means(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Shifts of 10,000: channels have nearly the same ratio on all samples, and are independent beside it."""
    chosen = pick(net, rng, taken, lambda n, u: act_of(u) in ("relu", "none", "leaky"))
    if chosen is None:
        return None
    name, unit = chosen
    target = unit.norm if unit.norm is not None else unit.layer
    if target.bias is None:
        return None
    target.bias.add_(1e4)
    return Plant("trap: means of 10,000", f"{name}.layer")


def fired_once(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """Two unlike channels open on the same single sample only."""
    chosen = pick(net, rng, taken, lambda n, u: act_of(u) == "relu" and u.order == "lnap")
    if chosen is None:
        return None
    name, unit = chosen
    before = "norm" if unit.norm is not None else "layer"
    seen = values(net, x, [f"{name}.{before}"])[f"{name}.{before}"]
    top = seen.reshape(len(seen), -1, seen.shape[-1]).amax(1)
    best = top.argmax(0)
    same = [(a, b) for a in range(len(best)) for b in range(a) if best[a] == best[b]]
    if not same:
        return None
    for c in same[rng.integers(len(same))]:
        two = top[:, c].sort().values[-2:]
        getattr(unit, before).bias[c] -= two.mean()
    return Plant("trap: two channels that fired on one sample", f"{name}.layer")


def nothing(net: Net, x: Array, rng: Rng, taken: set[str]) -> Plant | None:
    """The network as it was drawn."""
    return Plant("nothing planted", "")


def _zero(v: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=v.dtype)


def _noise(channels: tuple[int, ...]) -> Predicted:
    def predicted(v: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(v[..., list(channels)].shape, generator=torch.Generator().manual_seed(1), dtype=v.dtype)
        return 3 * v.std() * drawn

    return predicted


def _is(tap: str, channels: tuple[int, ...], value: float) -> Callable[[Net, Array], bool]:
    return lambda net, x: bool((values(net, x, [tap])[tap][..., list(channels)] == value).all())


STRUCTURE: dict[str, Planter] = {
    "low rank": low_rank,
    **{f"groups of filters: {g}": _groups(g) for g in (2, 4, 8)},
}
"""Plants that change the statistics of all that follows: batch norms are calibrated again behind them."""

CHANNELS: dict[str, Planter] = {
    "dead by weights": dead_by_weights,
    "dead on the samples": dead_on_samples,
    "scale 0 after ReLU": scale_zero_after_relu,
    "dead behind two ReLUs": dead_behind_two,
    "dead in a shared layer": dead_in_shared,
    "dead sum": dead_sum,
    "silent branch": silent_branch,
    "constant": constant,
    "duplicate": duplicate,
    "positive multiple": positive_multiple,
    "negative multiple": negative_multiple,
    "linear combination": linear_combination,
    "identical branches": identical_branches,
    "unread channel": unread_channel,
    "unused input": unused_input,
}
"""Plants in channels, several of which fit into one network."""

ALONE: dict[str, Planter] = {
    "block that adds nothing": bypassable_block,
    "oversized dense layer": oversized_dense,
    "saturated": saturated,
    "exploding": _scaled("exploding", 1e4),
    "vanishing": _scaled("vanishing", 1e-5),
    "weight not finite": not_finite,
    "activation not finite": overflow,
}
"""Plants that change the whole network: one in each."""

TRAPS: dict[str, Planter] = {
    "nothing planted": nothing,
    "trap: dead in one of two uses": one_use_dead,
    "trap: one huge channel": one_huge_row,
    "trap: means of 10,000": large_means,
    "trap: two channels that fired on one sample": fired_once,
}
"""What must not be told."""

PLACES: dict[str, tuple[str, ...]] = {
    "scale 0 after ReLU": ("norm_after_relu",),
    "dead behind two ReLUs": ("two_readers",),
    "dead in a shared layer": ("shared",),
    "trap: dead in one of two uses": ("shared",),
    "dead sum": ("residual", "grouped", "residual_group_norm"),
    "silent branch": ("residual", "grouped", "depthwise", "residual_group_norm"),
    "block that adds nothing": ("residual", "grouped", "depthwise", "residual_group_norm", "tokens"),
    "negative multiple": ("residual", "grouped", "depthwise", "squeeze_excite", "tokens", "two_readers", "saturating"),
    "linear combination": ("residual", "grouped", "depthwise", "squeeze_excite", "tokens", "two_readers"),
    "identical branches": ("branches",),
    "oversized dense layer": ("dense",),
    "saturated": ("saturating",),
    "trap: one huge channel": ("plain", "dense", "shared", "tokens"),
}
"""The architectures that have a place for a kind, where few have."""

PLANTERS = {**STRUCTURE, **CHANNELS, **ALONE, **TRAPS}

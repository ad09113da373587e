"""DOJANG_VERBOSE=plan,lower prints the results of these passes on stderr: it shows how a network is run, and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean
from dojang.engine.fuse import Fused
from dojang.engine.lower.network import Lowered
from dojang.engine.plan.steps import HostStep, KernelStep, Place, Planned
from dojang.native.jit import Native, Recipe

ENVIRONMENT = "DOJANG_VERBOSE"
T = TypeVar("T")


def show(name: str, result: T) -> T:
    """The result, printed if that pass is asked for. Raises `UsageError` for a pass that is not known."""
    said = os.environ.get(ENVIRONMENT)
    if said and name in asked(said):
        print("\n".join((f"-- {name}", *LINES[name](result))), file=sys.stderr)
    return result


def asked(said: str) -> list[str]:
    """The passes that a value of DOJANG_VERBOSE names.

    >>> asked("plan, lower")
    ['plan', 'lower']
    """
    names = [name.strip() for name in said.split(",") if name.strip()]
    for name in names:
        if name not in LINES:
            hint = did_you_mean(name, LINES, f"use some of {', '.join(LINES)}", most=1)
            raise UsageError(f"{ENVIRONMENT}: there is no pass {name!r}; {hint}")
    return names


def _fuse(found: Fused) -> Iterator[str]:
    for group in found.groups:
        extra = f" + {group.residual}" if group.residual else ""
        act = f", then {group.activation.name}" if group.activation else ""
        yield f"{group.value}: {' '.join(group.members)} of {' '.join(group.inputs) or 'nothing'}{extra}{act}"


def _plan(found: Planned) -> Iterator[str]:
    p = found.public
    yield (f"{p.network}, batch {p.batch}: planned for {p.threads} threads of {p.machine or p.isa}, "
           f"run by {found.run_threads}, {1e6 * p.predicted_s:.4g} µs predicted")  # fmt: skip
    for step in found.steps:
        c = step.choice
        time = "no prediction" if c.predicted_s is None else f"{1e6 * c.predicted_s:.4g} µs"
        yield f"{c.value}: {c.algorithm}, {time}{''.join(f'; {a}: {why}' for a, why in c.refused)}"
        if isinstance(step, KernelStep):
            yield f"    {step.task}"


def _lower(found: Lowered) -> Iterator[str]:
    yield f"{found.scratch_at} bytes of values, {found.run_bytes - found.scratch_at} of the threads' own"
    for step, code, shared in zip(found.planned.steps, found.codes, found.areas.shared, strict=True):
        if isinstance(step, HostStep) or code is None:
            yield f"{step.choice.value}: reference functions of {' '.join(step.choice.members)}"
            continue
        units = " + ".join(str(s.units(step.images)) for s in code.steps)
        values = ", ".join(_place(found, p) for p in step.slots.values() if isinstance(p, Place))
        both = f", shared {[found.areas.sizes[a] for a in shared if a >= 0]}" if max(shared) >= 0 else ""
        yield f"{step.choice.value}: {units} units, scratch {code.scratch}{both}; {values}"


def _place(found: Lowered, place: Place) -> str:
    shape = "x".join(str(n) for n in place.shape)
    if place.buffer < 0:
        return f"{shape} of input {-1 - place.buffer}"
    return f"{shape} at {found.areas.offsets[place.buffer] + 4 * place.offset} by {4 * place.ld}"


def _emit(found: list[list[Recipe]]) -> Iterator[str]:
    for recipe in dict.fromkeys(r.text for row in found for r in row):
        made = next(r for row in found for r in row if r.text == recipe)
        yield f"; {recipe}"
        yield made.build()


def _native(found: list[list[Native]]) -> Iterator[str]:
    for made in {n.key: n for row in found for n in row}.values():
        yield f"{made.key}: {made.size} bytes, {'from the cache' if made.from_disk else 'compiled'}"


def _pack(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{sum(a.nbytes for a in found.values())} bytes in {len(found)} arrays"
    for key, array in found.items():
        yield f"{array.nbytes} bytes: {key}"


LINES: Mapping[str, Callable[[Any], Iterator[str]]] = MappingProxyType(
    {"fuse": _fuse, "plan": _plan, "lower": _lower, "pack": _pack, "emit": _emit, "native": _native}
)
"""What each pass prints, by its name."""

"""How a training computes: repeatably, in which precision, and with the memory of the step before."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import torch

from dojang.base.errors import UsageError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt` (malloc.h)."""

_USUAL = {_M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**26, _M_MMAP_MAX: 65536}
"""What they are in a program that has once freed a block of 32 MiB, by glibc's own rule (mallopt(3))."""


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Full float32 and repeatable algorithms on CUDA; the caller's random generator untouched everywhere."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    devices = [device.index] if device.type == "cuda" else []
    # the manager of PyTorch works, too, where its global switches are frozen, as its own test tools freeze them
    flags = cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.random.fork_rng(devices=devices), flags:
        try:
            matmul.allow_tf32 = False
            yield
        finally:
            matmul.allow_tf32 = before


def require_precision(precision: str, device: torch.device) -> None:
    """Raise UsageError where the device has no convolutions in this precision: PyTorch would be slower, not faster."""
    if precision != "bf16":
        return
    if device.type == "cuda":
        able, needs = torch.cuda.is_bf16_supported(including_emulation=False), "a GPU of compute capability 8.0"
    else:
        able, needs = torch.ops.mkldnn._is_mkldnn_bf16_supported(), "AVX-512 or bfloat16 instructions"
    if not able:
        raise UsageError(f"precision bf16: {device.type} has no bfloat16 convolutions here ({needs}); use float32")


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context in which convolutions and dense layers of float32 weights multiply in this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it memory that a step frees stays with the process for the next one; at the end it is handed back.

    glibc gives blocks of more than 32 MiB back at once, and the kernel clears as many pages anew in each step: of a
    step of `nin-cifar10` with 128 pictures that was a third (bfloat16, one core with AMX, November 2026). Elsewhere
    than on glibc nothing is changed.
    """
    try:
        libc = ctypes.CDLL(None)
        setting, trim = libc.mallopt, libc.malloc_trim
    except (OSError, TypeError, AttributeError):
        yield
        return
    setting(_M_MMAP_MAX, 0)
    setting(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            setting(parameter, value)
        trim(0)

"""Operators of ONNX for sound: Fourier transforms, windows, mel filters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dojang.engine.reference.standard.call import Array, Function, OperatorCall, axis_in
from dojang.engine.reference.standard.types import type_of


def dft(call: OperatorCall) -> tuple[Array, ...]:
    """The discrete Fourier transform along an axis; real and imaginary parts are the last axis."""
    x, length = call[0], call.get(1)
    given = call.get(2)
    axis = int(given.ravel()[0]) if given is not None else call.attr("axis", 1 if call.opset < 20 else -2)
    axis = axis_in(axis, x.ndim)
    size = int(length.ravel()[0]) if length is not None else None
    inverse, half = bool(call.attr("inverse")), bool(call.attr("onesided"))
    z = x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]
    if inverse and half:
        y = np.fft.irfft(z, size, axis)
        return (y[..., None].astype(x.dtype),)
    y = (np.fft.ifft if inverse else np.fft.fft)(z, size, axis)
    if half:
        y = np.take(y, np.arange(y.shape[axis] // 2 + 1), axis)
    return (np.stack([y.real, y.imag], -1).astype(x.dtype),)


def stft(call: OperatorCall) -> tuple[Array, ...]:
    """The Fourier transform of each piece of a signal, times a window."""
    x, step = call[0], int(call[1].ravel()[0])
    window, length = call.get(2), call.get(3)
    size = int(length.ravel()[0]) if length is not None else len(call[2])
    w = window if window is not None else np.ones(size, x.dtype)
    z = x[..., 0] + 1j * x[..., 1] if x.ndim == 3 and x.shape[-1] == 2 else x.reshape(x.shape[0], -1)
    starts = np.arange((z.shape[1] - size) // step + 1) * step
    pieces = z[:, starts[:, None] + np.arange(size)] * w
    y = np.fft.fft(pieces, size, -1)
    if call.attr("onesided", 1):
        y = y[..., : size // 2 + 1]
    return (np.stack([y.real, y.imag], -1).astype(x.dtype),)


def window(parts: tuple[float, ...]) -> Function:
    """A sum of cosines over `size` places."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        size = int(call[0].ravel()[0])
        over = size if call.attr("periodic", 1) else size - 1
        angle = 2 * np.pi * np.arange(size) / over
        y = sum(part * np.cos(k * angle) for k, part in enumerate(parts))
        return (np.asarray(y, type_of(call.attr("output_datatype", 1))),)

    return run


def mel(call: OperatorCall) -> tuple[Array, ...]:
    """Triangles over the frequencies of a transform, evenly spaced on the mel scale."""
    bins, length, rate = int(call[0].ravel()[0]), int(call[1].ravel()[0]), int(call[2].ravel()[0])
    low, high = float(call[3].ravel()[0]), float(call[4].ravel()[0])
    count = length // 2 + 1
    ends = 2595 * np.log10(1 + np.array([low, high]) / 700)
    steps = ends[0] + np.arange(bins + 2) * (ends[1] - ends[0]) / (bins + 2)
    at = ((length + 1) * (700 * (10 ** (steps / 2595) - 1)) // rate).astype(int)
    y = np.zeros((count, bins))
    for k in range(bins):
        first, middle, last = at[k], at[k + 1], at[k + 2]
        if middle == first:
            y[middle, k] = 1
        else:
            rise = np.arange(first, middle + 1)
            y[rise, k] = (rise - first) / (middle - first)
        if last > middle:
            fall = np.arange(middle, last)
            y[fall, k] = (last - fall) / (last - middle)
    return (np.asarray(y, type_of(call.attr("output_datatype", 1))),)


FUNCTIONS: Mapping[str, Function] = {
    "DFT": dft,
    "STFT": stft,
    "HannWindow": window((0.5, -0.5)),
    "HammingWindow": window((25 / 46, -21 / 46)),
    "BlackmanWindow": window((0.42, -0.5, 0.08)),
    "MelWeightMatrix": mel,
}
"""One function per operator."""

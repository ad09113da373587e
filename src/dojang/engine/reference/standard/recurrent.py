"""RNN, GRU and LSTM of ONNX: both directions, states, lengths, peepholes, all activations of the standard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dojang.base.errors import UnsupportedError
from dojang.engine.reference.elements import sigmoid, softplus
from dojang.engine.reference.standard.call import Array, Function, OperatorCall

Act = Callable[[Array], Array]
State = tuple[Array, ...]

ACTIVATIONS: Mapping[str, Callable[[Array, float | None, float | None], Array]] = {
    "relu": lambda x, a, b: np.maximum(x, 0),
    "tanh": lambda x, a, b: np.tanh(x),
    "sigmoid": lambda x, a, b: sigmoid(x),
    "affine": lambda x, a, b: (1.0 if a is None else a) * x + (0.0 if b is None else b),
    "leakyrelu": lambda x, a, b: np.where(x >= 0, x, (0.01 if a is None else a) * x),
    "thresholdedrelu": lambda x, a, b: np.where(x > (1.0 if a is None else a), x, 0),
    "scaledtanh": lambda x, a, b: (1.0 if a is None else a) * np.tanh((1.0 if b is None else b) * x),
    "hardsigmoid": lambda x, a, b: np.clip((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
    "elu": lambda x, a, b: np.where(x >= 0, x, (1.0 if a is None else a) * np.expm1(x)),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: softplus(x),
}
"""By name in small letters, of a value and the two parameters."""


def activations(call: OperatorCall, default: Sequence[str], directions: int) -> list[list[Act]]:
    """The functions of each direction."""
    names = call.attr("activations") or list(default) * directions
    alphas, betas = list(call.attr("activation_alpha") or []), list(call.attr("activation_beta") or [])
    clip = call.attr("clip")
    made: list[Act] = []
    for name in names:
        rule = ACTIVATIONS.get(name.lower())
        if rule is None:
            raise UnsupportedError(f"{call.kind} with the activation {name!r}")
        takes_a = name.lower() in ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
        takes_b = name.lower() in ("affine", "scaledtanh", "hardsigmoid")
        a = alphas.pop(0) if takes_a and alphas else None
        b = betas.pop(0) if takes_b and betas else None
        made.append(_bounded(rule, a, b, clip))
    each = len(default)
    return [made[k * each : (k + 1) * each] for k in range(directions)]


def _bounded(rule: Any, a: float | None, b: float | None, clip: float | None) -> Act:
    if clip:
        return lambda x: rule(np.clip(x, -clip, clip), a, b)
    return lambda x: rule(x, a, b)


Step = Callable[[Array, State], State]
"""The next state from the products with the input and the state."""


def rnn_step(call: OperatorCall, acts: Sequence[Act], r: Array, rb: Array, p: Array | None) -> Step:
    """h ← f(x·Wᵀ + h·Rᵀ + b)."""
    return lambda gates, state: (acts[0](gates + state[0] @ r.T + rb),)


def gru_step(call: OperatorCall, acts: Sequence[Act], r: Array, rb: Array, p: Array | None) -> Step:
    """Gates z and r, then the new value h̃ (Cho et al. 2014); `linear_before_reset` as in cuDNN and PyTorch."""
    size = r.shape[1]
    late = bool(call.attr("linear_before_reset"))

    def step(gates: Array, state: State) -> State:
        h = state[0]
        both = gates[:, : 2 * size] + h @ r[: 2 * size].T + rb[: 2 * size]
        z, reset = acts[0](both[:, :size]), acts[0](both[:, size:])
        last = r[2 * size :].T
        back = reset * (h @ last + rb[2 * size :]) if late else (reset * h) @ last + rb[2 * size :]
        return ((1 - z) * acts[1](gates[:, 2 * size :] + back) + z * h,)

    return step


def lstm_step(call: OperatorCall, acts: Sequence[Act], r: Array, rb: Array, p: Array | None) -> Step:
    """Gates i, o, f and the new value c̃, in this order; peepholes p of i, o and f (Gers and Schmidhuber 2000)."""
    size = r.shape[1]
    coupled = bool(call.attr("input_forget"))

    def step(gates: Array, state: State) -> State:
        h, c = state
        i, o, f, new = np.split(gates + h @ r.T + rb, 4, 1)
        i = acts[0](i + p[:size] * c if p is not None else i)
        f = 1 - i if coupled else acts[0](f + p[2 * size :] * c if p is not None else f)
        c = f * c + i * acts[1](new)
        o = acts[0](o + p[size : 2 * size] * c if p is not None else o)
        return o * acts[2](c), c

    return step


def recurrent(make: Callable[..., Any], gates: int, default: Sequence[str], states: int) -> Function:
    """All steps of all directions: outputs Y (steps, directions, n, hidden), Y_h, and Y_c of an LSTM."""

    def run(call: OperatorCall) -> tuple[Array, ...]:
        x, w, r = call[0], call[1], call[2]
        late = bool(call.attr("layout", 0))
        x = x.swapaxes(0, 1) if late else x
        steps, n, _ = x.shape
        directions, hidden = w.shape[0], r.shape[2]
        bias, lengths = call.get(3), call.get(4)
        acts = activations(call, default, directions)
        peep = call.get(7) if states == 2 else None
        y = np.zeros((steps, directions, n, hidden), x.dtype)
        ends: list[State] = []
        for k in range(directions):
            back = call.attr("direction", "forward") == "reverse" or k == 1
            wb = bias[k, : gates * hidden] if bias is not None else 0
            rb = bias[k, gates * hidden :] if bias is not None else np.zeros(gates * hidden, x.dtype)
            state: State = tuple(_start(call, 5 + s, k, n, hidden, x.dtype, late) for s in range(states))
            inputs = (x.reshape(steps * n, -1) @ w[k].T).reshape(steps, n, -1) + wb
            step = make(call, acts[k], r[k], rb, peep[k] if peep is not None else None)
            for t in range(steps - 1, -1, -1) if back else range(steps):
                new = step(inputs[t], state)
                if lengths is not None:
                    here = (t < lengths)[:, None]
                    new = tuple(np.where(here, a, b) for a, b in zip(new, state, strict=True))
                    y[t, k] = np.where(here, new[0], 0)
                else:
                    y[t, k] = new[0]
                state = new
            ends.append(state)
        last = [np.stack([end[s] for end in ends]) for s in range(states)]
        if late:
            return y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in last)
        return y, *last

    return run


def _start(call: OperatorCall, place: int, direction: int, n: int, hidden: int, kind: Any, late: bool) -> Array:
    given = call.get(place)
    if given is None:
        return np.zeros((n, hidden), kind)
    return (given.swapaxes(0, 1) if late else given)[direction]


FUNCTIONS: Mapping[str, Function] = {
    "RNN": recurrent(rnn_step, 1, ("Tanh",), 1),
    "GRU": recurrent(gru_step, 3, ("Sigmoid", "Tanh"), 1),
    "LSTM": recurrent(lstm_step, 4, ("Sigmoid", "Tanh", "Tanh"), 2),
}
"""One function per operator."""

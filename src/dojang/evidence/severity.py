"""How severe each kind of finding is: the one table, which `--fail-on` and docs/diagnose.md go by."""

from __future__ import annotations

from collections.abc import Mapping

SEVERITY: Mapping[str, tuple[str, str]] = {
    "not-finite": ("error", "weights or activations are NaN or infinite"),
    "constant-answers": ("error", "the network gives all samples the same answer"),
    "no-better-than-majority": ("error", "always answering the largest class is right as often"),
    "dead-proven": ("warning", "a channel is 0 on every input"),
    "constant": ("warning or info", "a channel has one value: proved a warning, observed info"),
    "duplicate": ("warning or info", "a channel is a multiple of another: proved a warning, observed info"),
    "repeated": ("warning", "a layer or branch computes what another does"),
    "unread": ("warning", "nothing reads a channel, an input or a layer"),
    "class-missed": ("warning", "no sample of a class, of at least 5, is answered right"),
    "exploding": ("warning", "a layer gives more than 65,504, or 1,000 times what it reads"),
    "vanishing": ("warning", "a layer gives less than 1/1,000 of what it reads, or than 6.1e-5"),
    "saturated": ("warning", "more than half of a layer's activations are at an end of their range"),
    "sensitive": ("warning or info", "rounding a layer's weights changes over 1 % of the answers: to 16 bits a "
                  "warning, to 8 bits info"),
    "dead-observed": ("info", "a channel was 0 on all samples"),
    "low-correlation": ("info", "a layer could be split into groups"),
    "low-rank": ("info", "a layer's filters span fewer directions than there are of them"),
    "coverage": ("info", "a convolution's input sees the whole image already"),
    "hot-spot": ("info", "a layer holds much of the cost, or is far below the machine's peak"),
    "idle-block": ("info", "a block: without it at most 1 % of the answers change, and the output hardly moves"),
}  # fmt: skip
"""For each kind its severity, and what it says."""

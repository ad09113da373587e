"""Which parameters of a module stay as they are in training: by patterns of names, and by the owner's own switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean


def paths(name: str) -> tuple[str, ...]:
    """A name and the names of all modules around it.

    >>> paths("layer1.0.weight")
    ('layer1.0.weight', 'layer1.0', 'layer1')
    """
    parts = name.split(".")
    return tuple(".".join(parts[:end]) for end in range(len(parts), 0, -1))


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern (*, ?, [abc], upper and lower case told apart) names this parameter or a module around it.

    >>> matches("conv1.weight", "conv*"), matches("layer1.0.conv1.weight", "layer1"), matches("fc.weight", "conv*")
    (True, True, False)
    """
    return any(fnmatchcase(path, pattern) for path in paths(name))


@contextmanager
def frozen(module: nn.Module, patterns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Within it the parameters that a pattern names need no gradient; gives the names of all frozen parameters.

    Those that the owner had frozen are among them, and stay so afterwards. Raises UsageError for a pattern that names
    nothing.
    """
    named = dict(module.named_parameters())
    known = list(dict.fromkeys(path for name in named for path in paths(name)[1:] or (name,)))
    for pattern in patterns:
        if not any(matches(name, pattern) for name in named):
            last = sorted(known, key=lambda path: path.count("."))
            hint = did_you_mean(pattern.strip("*"), last, f"its layers are {', '.join(last[:8])}")
            raise UsageError(f"freeze {pattern!r}: names no layer of the network that has parameters; {hint}")
    changed = [p for n, p in named.items() if p.requires_grad and any(matches(n, pattern) for pattern in patterns)]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield tuple(name for name, parameter in named.items() if not parameter.requires_grad)
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def training_mode(module: nn.Module, patterns: Sequence[str]) -> Callable[[nn.Module], None]:
    """A function that puts a module into training mode as its owner and the patterns want it.

    Modules within a module in training mode that were in evaluation mode stay there, as the owner has put them; so do
    batch norms that a pattern names, whose statistics are then those that they had.
    """
    still = [m for m in module.modules() if not m.training] if module.training else []
    norms = nn.modules.batchnorm._BatchNorm
    still += [
        m for name, m in module.named_modules()
        if isinstance(m, norms) and any(matches(name, pattern) for pattern in patterns)
    ]  # fmt: skip

    def start(trained: nn.Module) -> None:
        trained.train()
        for part in still:
            part.training = False

    return start

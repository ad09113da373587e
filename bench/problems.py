"""The list of convolution problems that correctness tests and benchmarks share: `problems.txt`, one per line.

    64x56x56 conv 64 3x3 pad=1          input CxHxW, operator, filters, kernel, what differs from the default

Run as a program it prints the distinct convolutions of the zoo's networks, in that notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dojang.arith.conv import Conv, by
from dojang.arith.shapes import conv_problem

LIST = Path(__file__).parent / "problems.txt"
NETWORKS = "alexnet vgg16 googlenet nin-cifar10 resnet50 resnext50-32x4d mobilenet-v2".split()


@dataclass(frozen=True)
class Problem:
    """One line of the list."""

    text: str
    conv: Conv
    network: str


def parse(line: str) -> Conv:
    """A line as a `Conv` of batch 1."""
    shape, op, out, kernel, *rest = line.split()
    if op != "conv":
        raise ValueError(f"{line!r}: only conv lines are known")
    ic, *size = (int(v) for v in shape.split("x"))
    given = dict(part.split("=") for part in rest)
    numbers = lambda text: [int(v) for v in text.split(",")]  # noqa: E731
    pads = [tuple(int(v) for v in p.split(":")) for p in given.get("pad", "0").split(",")]
    pads = [p if len(p) == 2 else (p[0], p[0]) for p in pads]
    pads = pads * len(size) if len(pads) == 1 else pads
    strides = numbers(given.get("stride", "1"))
    return Conv.of(
        ic,
        int(out),
        size,
        [int(v) for v in kernel.split("x")],
        strides[0] if len(strides) == 1 else strides,
        pads,
        groups=int(given.get("groups", 1)),
    )


def text_of(c: Conv) -> str:
    """A `Conv` as a line."""
    words = [by((c.ic, *c.size)), "conv", str(c.oc), by(c.kernel)]
    if set(c.stride) != {1}:
        words.append(f"stride={c.stride[0]}" if len(set(c.stride)) == 1 else "stride=" + ",".join(map(str, c.stride)))
    pads = [str(a) if a == b else f"{a}:{b}" for a, b in c.padding]
    if set(pads) != {"0"}:
        words.append("pad=" + (pads[0] if len(set(pads)) == 1 else ",".join(pads)))
    if c.groups > 1:
        words.append(f"groups={c.groups}")
    return " ".join(words)


def read(path: Path = LIST) -> list[Problem]:
    """All problems, with the network under whose heading they stand."""
    found, network = [], ""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            network = line[1:].strip()
        elif line.strip():
            found.append(Problem(line.strip(), parse(line), network))
    return found


def main() -> None:
    """Prints the list from the zoo."""
    from dojang.formats import zoo

    seen: set[str] = set()
    for name in NETWORKS:
        graph = zoo.load(name)
        shapes = graph.unit_shapes
        print(f"# {name}")
        for node in graph.nodes:
            if node.op == "conv":
                line = text_of(conv_problem(node.attrs, [shapes[i] for i in node.inputs]))
                if line not in seen:
                    seen.add(line)
                    print(line)
        print()


if __name__ == "__main__":
    main()

"""The types of convolution, and what each costs compared with the plain convolution that it replaces."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.arith.conv import Conv, by


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One type of convolution: its layers, formulas for weights and MACs, and its source.

    Formulas: K = kernel taps (k·k in two dimensions), C = input channels, N = filters, A = output pixels at stride 1.
    """

    name: str
    layers: tuple[Conv, ...]
    weights_formula: str
    macs_formula: str
    source: str

    @property
    def weights(self) -> int:
        """Weights of all its layers, without biases."""
        return sum(c.weights for c in self.layers)

    @property
    def macs(self) -> int:
        """MACs of all its layers."""
        return sum(c.macs for c in self.layers)

    def to_dict(self, plain: LayerKind) -> dict[str, Any]:
        """The row of the table, with ratios to the plain convolution of the same shapes."""
        first, last = self.layers[0], self.layers[-1]
        return {
            "kind": self.name,
            "in_shape": list(first.in_shape[1:]),
            "out_shape": list(last.out_shape[1:]),
            "layers": [
                f"{by(c.kernel)}{'ᵀ' if c.transposed else ''} {c.ic}→{c.oc}" + (f" /{c.groups}" if c.groups > 1 else "")
                for c in self.layers
            ],
            "weights": self.weights,
            "macs": self.macs,
            "weights_formula": self.weights_formula,
            "macs_formula": self.macs_formula,
            "weights_ratio": self.weights / plain.weights,
            "macs_ratio": self.macs / plain.macs,
            "source": self.source,
        }


def kinds(channels: int = 64, filters: int = 64, size: int = 32, kernel: int = 3) -> tuple[LayerKind, ...]:
    """Every type for one layer from `channels` to `filters` channels on `size`², the plain one first.

    Biases are left out, padding taps are counted. Stride and dilation change the output or the field, not the weights;
    each is shown with the padding that keeps ⌈size/stride⌉.

    >>> [round(k.macs / kinds()[0].macs, 3) for k in kinds() if k.name in ("plain", "depthwise-separable")]
    [1.0, 0.127]
    """
    c, n, k, s = channels, filters, kernel, size

    def conv(ic: int, oc: int, window: tuple[int, ...] = (k, k), at: int = s, **more: Any) -> Conv:
        return Conv.of(ic, oc, (at,) * len(window), window, padding=more.pop("padding", "same"), bias=False, **more)

    quarter, groups = max(n // 4, 1), next(g for g in (4, 2, 1) if c % g == 0 and n % g == 0)
    half = -(-s // 2)
    return (
        LayerKind("plain", (conv(c, n),), "K·C·N", "A·K·C·N", "LeCun et al. 1989"),
        LayerKind("strided", (conv(c, n, stride=2),), "K·C·N", "A/4·K·C·N", "a quarter of the positions"),
        LayerKind("strided per axis", (conv(c, n, stride=(2, 1)),), "K·C·N", "A/2·K·C·N", "half of the rows"),
        LayerKind("padded per side", (conv(c, n, padding=((k - 1, 0), (k - 1, 0))),), "K·C·N", "A·K·C·N", "causal"),
        LayerKind("dilated", (conv(c, n, dilation=2),), "K·C·N", "A·K·C·N", "Yu, Koltun 2016"),
        LayerKind("grouped", (conv(c, n, groups=groups),), "K·C·N/g", "A·K·C·N/g", "Krizhevsky et al. 2012"),
        LayerKind("depthwise", (conv(c, c, groups=c),), "K·C", "A·K·C", "Sifre 2014"),
        LayerKind("pointwise", (conv(c, n, (1, 1)),), "C·N", "A·C·N", "Lin et al. 2014"),
        LayerKind(
            "spatially separable", (conv(c, n, (k, 1)), conv(n, n, (1, k))), "k·C·N + k·N·N", "A·(k·C·N + k·N·N)",
            "Szegedy et al. 2016",
        ),
        LayerKind(
            "depthwise-separable", (conv(c, c, groups=c), conv(c, n, (1, 1))), "K·C + C·N", "A·(K·C + C·N)",
            "Howard et al. 2017",
        ),
        LayerKind(
            "bottleneck", (conv(c, quarter, (1, 1)), conv(quarter, quarter), conv(quarter, n, (1, 1))),
            "C·N/4 + K·(N/4)² + N/4·N", "A·(C·N/4 + K·(N/4)² + N/4·N)", "He et al. 2016",
        ),
        LayerKind(
            "transposed", (conv(c, n, at=half, stride=2, padding=(k - 1) // 2, output_padding=1, transposed=True),),
            "K·C·N", "A_in·K·C·N", "Zeiler et al. 2010",
        ),
        LayerKind(
            "deformable", (conv(c, 2 * k * k), conv(c, n)), "K·C·N + 2·K·K·C", "A·(K·C·N + 2·K·K·C)",
            "Dai et al. 2017; with the layer that gives 2K offsets",
        ),
        LayerKind("1-D", (conv(c, n, (k,)),), "k·C·N", "A·k·C·N", "Waibel et al. 1989"),
        LayerKind("3-D", (conv(c, n, (k, k, k)),), "k³·C·N", "A·k³·C·N", "Ji et al. 2010"),
    )  # fmt: skip


def field_trade(size: int = 7, channels: int = 64) -> tuple[dict[str, Any], ...]:
    """Layers that see `size` x `size` pixels at stride 1: few with a large kernel, or more with smaller ones.

    Each row: kernel, dilation, number of layers, weights without biases for `channels` channels throughout. As in
    Simonyan, Zisserman 2015, section 2.3: three 3x3 layers see what one 7x7 sees, for 27C² instead of 49C².

    >>> [(r["kernel"], r["layers"], r["weights"] // 64**2) for r in field_trade() if r["dilation"] == 1]
    [(7, 1, 49), (3, 3, 27), (4, 2, 32), (2, 6, 24)]
    """
    rows: list[dict[str, Any]] = []
    for dilation in (1, 2, 3):
        for kernel in (size, *range(3, size), 2):
            reach = (kernel - 1) * dilation
            if reach > size - 1 or (size - 1) % reach:
                continue
            layers = (size - 1) // reach
            weights = layers * prod((kernel, kernel, channels, channels))
            rows.append({"kernel": kernel, "dilation": dilation, "layers": layers, "weights": weights, "field": size})
    return tuple(rows)

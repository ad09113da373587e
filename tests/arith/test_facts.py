"""Every figure of the lecture notes and of the published tables that the project was started from."""

from __future__ import annotations

import pytest

from dojang.arith.conv import Conv
from dojang.arith.cost import Count, count
from dojang.arith.graph import Graph, Node


def truncated(value: int, unit: int) -> int:
    return value // unit


# ---------------------------------------------------------------------------------------------- the notes


def test_a_seven_by_seven_image() -> None:
    assert Conv.of(1, 1, (7, 7), 3).out_size == (5, 5)


def test_four_then_ten_filters() -> None:
    assert Conv.of(3, 1, (32, 32), 5).weight_shape == (1, 3, 5, 5)  # one 5×5 filter is really 5×5×3
    assert Conv.of(3, 1, (32, 32), 5).out_shape == (1, 1, 28, 28)
    four = Conv.of(3, 4, (32, 32), 5, bias=False)
    ten = Conv.of(4, 10, four.out_size, 5, bias=False)
    assert four.out_shape == (1, 4, 28, 28)
    assert ten.out_shape == (1, 10, 24, 24)
    assert (four.params, ten.params) == (300, 1000)


def test_one_dimension() -> None:
    assert Conv.of(1, 1, 7, 3).out_size == (5,)
    assert Conv.of(1, 1, 7, 3, stride=2).out_size == (3,)
    assert Conv.of(1, 1, 5, 3).out_size == (3,)
    assert Conv.of(1, 1, 5, 3, padding=1).out_size == (5,)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (7, 3)])
def test_padding_that_keeps_the_size(kernel: int, padding: int) -> None:
    assert Conv.of(1, 1, (19, 23), kernel, padding="same").padding == ((padding, padding),) * 2
    assert Conv.of(1, 1, (19, 23), kernel, padding=padding).out_size == (19, 23)


def test_stride_has_one_value_per_axis() -> None:
    assert Conv.of(1, 1, (9, 9), 3, stride=(1, 2)).out_size == (7, 4)


def test_the_slip_in_the_notes() -> None:
    conv = Conv.of(128, 64, (40, 50), 3, stride=1, padding=1, bias=False)
    assert conv.out_shape == (1, 64, 40, 50)
    assert conv.params == 3 * 3 * 128 * 64 == 73_728 != 76_728
    assert Conv.of(128, 64, (40, 50), 3, stride=2, padding=0, bias=False).params == 73_728


def test_cost_formulas() -> None:
    for c, h, w, k, n in ((3, 32, 28, 5, 4), (16, 7, 9, 3, 32)):
        conv = Conv.of(c, n, (h, w), k, padding="same")
        assert conv.macs == c * h * w * k**2 * n
        assert conv.params == n * (c * k**2 + 1)


# ---------------------------------------------------------------------------------------------- AlexNet


def alexnet(
    widths: tuple[int, ...] = (96, 256, 384, 384, 256), groups: tuple[int, ...] = (1, 2, 1, 2, 2), size: int = 227,
    pad: int = 0, ceil: bool = False, adaptive: bool = False,
) -> Count:  # fmt: skip
    """Krizhevsky et al. 2012, figure 2 and section 3.5."""
    kernels, pads, pooled = (11, 5, 3, 3, 3), (pad, 2, 1, 1, 1), (0, 1, 4)
    nodes = [Node.of("x", "input", shape=(3, size, size))]
    for i in range(5):
        stride = 4 if i == 0 else 1
        nodes.append(Node.of(f"conv{i + 1}", "conv", nodes[-1].name, out=widths[i], kernel=(kernels[i],) * 2,
                             stride=stride, padding=pads[i], groups=groups[i]))  # fmt: skip
        nodes.append(Node.of(f"relu{i + 1}", "relu", nodes[-1].name))
        if i in pooled:
            nodes.append(Node.of(f"pool{i + 1}", "maxpool", nodes[-1].name, kernel=(3, 3), stride=2, ceil=ceil))
    if adaptive:
        nodes.append(Node.of("mean", "adaptive_avgpool", nodes[-1].name, out=(6, 6)))
    nodes.append(Node.of("flat", "flatten", nodes[-1].name))
    for name, out in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        nodes.append(Node.of(name, "dense", nodes[-1].name, out=out))
    return count(Graph(tuple(nodes), ("fc8",), "alexnet"))


ALEXNET = {
    "conv1": (34_848, 34_944, 105_415_200),
    "conv2": (307_200, 307_456, 223_948_800),
    "conv3": (884_736, 885_120, 149_520_384),
    "conv4": (663_552, 663_936, 112_140_288),
    "conv5": (442_368, 442_624, 74_760_192),
    "fc6": (37_748_736, 37_752_832, 37_748_736),
    "fc7": (16_777_216, 16_781_312, 16_777_216),
    "fc8": (4_096_000, 4_097_000, 4_096_000),
}


def test_alexnet_layer_by_layer() -> None:
    costs = alexnet()
    rows = {x.name: (x.cost.weights, x.cost.params, x.cost.macs) for x in costs.layers if x.cost.params}
    assert rows == ALEXNET
    assert (costs.total.params, costs.total.macs) == (60_965_224, 724_406_816)


def test_alexnet_as_taught() -> None:
    """Two towers, products as the slide writes them; the slide truncates (884,736 is 884k), and fc6 forgets a pool."""
    weights = {name: row[0] for name, row in ALEXNET.items()}
    assert weights["conv1"] == 11 * 11 * 3 * 48 * 2
    assert round(weights["conv1"] / 1000) == 35
    assert weights["conv2"] == 5 * 5 * 48 * 128 * 2
    assert weights["conv3"] == 3 * 3 * 128 * 2 * 192 * 2
    assert weights["conv4"] == 3 * 3 * 192 * 192 * 2
    assert weights["conv5"] == 3 * 3 * 192 * 128 * 2
    assert [truncated(weights[f"conv{i}"], 1000) for i in (2, 3, 4, 5)] == [307, 884, 663, 442]
    forgot = Conv.of(256, 4096, (13, 13), 13, bias=False)
    assert forgot.weights == 13 * 13 * 128 * 2 * 2048 * 2 == 177_209_344
    assert weights["fc6"] == 6 * 6 * 256 * 4096
    assert round(forgot.weights / weights["fc6"], 1) == 4.7
    assert weights["fc7"] == 2048 * 2 * 2048 * 2
    assert truncated(weights["fc7"], 10**6) == 16
    assert weights["fc8"] == 2048 * 2 * 1000
    assert truncated(weights["fc8"], 10**6) == 4


def test_alexnet_without_groups() -> None:
    costs = alexnet(groups=(1, 1, 1, 1, 1))
    rows = {x.name: x.cost.params for x in costs.layers}
    assert (rows["conv2"], rows["conv4"], rows["conv5"]) == (614_656, 1_327_488, 884_992)
    assert (costs.total.params, costs.total.macs) == (62_378_344, 1_135_256_096)


def test_alexnet_with_one_tower_as_frameworks_ship_it() -> None:
    costs = alexnet((64, 192, 384, 256, 256), (1, 1, 1, 1, 1), 224, 2, adaptive=True)
    assert (costs.total.params, costs.total.macs) == (61_100_840, 714_188_480)


def test_alexnet_input_sizes() -> None:
    """224 with padding 2 is 227 without; with ceil-mode pools 224 without padding keeps the parameters only."""
    padded, bare = alexnet(size=224, pad=2), alexnet(size=224, ceil=True)
    assert (padded.total.params, padded.total.macs) == (60_965_224, 724_406_816)
    assert bare.total.params == 60_965_224
    assert bare.total.macs < 724_406_816


# ---------------------------------------------------------------------------------------------- GoogLeNet, table 1

# 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection; input channels, size; weights, MACs (Szegedy et al. 2015)
INCEPTION = {
    "3a": ((64, 96, 128, 16, 32, 32), 192, 28, 163_328, 128_049_152),
    "3b": ((128, 128, 192, 32, 96, 64), 256, 28, 388_096, 304_267_264),
    "4a": ((192, 96, 208, 16, 48, 64), 480, 14, 375_552, 73_608_192),
    "4b": ((160, 112, 224, 24, 64, 64), 512, 14, 448_512, 87_908_352),
    "4c": ((128, 128, 256, 24, 64, 64), 512, 14, 509_440, 99_850_240),
    "4d": ((112, 144, 288, 32, 64, 64), 512, 14, 604_672, 118_515_712),
    "4e": ((256, 160, 320, 32, 128, 128), 528, 14, 867_328, 169_996_288),
    "5a": ((256, 160, 320, 32, 128, 128), 832, 7, 1_042_432, 51_079_168),
    "5b": ((384, 192, 384, 48, 128, 128), 832, 7, 1_442_816, 70_697_984),
}
PRINTED_OUT = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}


def googlenet() -> Graph:
    nodes = [Node.of("x", "input", shape=(3, 224, 224))]

    def conv(name: str, source: str, out: int, k: int, stride: int = 1) -> str:
        nodes.append(Node.of(name, "conv", source, out=out, kernel=(k, k), stride=stride, padding=k // 2))
        return name

    def pool(name: str, source: str, stride: int) -> str:
        padding = 1 if stride == 1 else 0
        nodes.append(Node.of(name, "maxpool", source, kernel=(3, 3), stride=stride, padding=padding, ceil=True))
        return name

    here = pool("pool1", conv("conv1", "x", 64, 7, 2), 2)
    here = pool("pool2", conv("conv2", conv("conv2.reduce", here, 64, 1), 192, 3), 2)
    for name, ((one, r3, three, r5, five, projected), *_) in INCEPTION.items():
        parts = (
            conv(f"{name}.1", here, one, 1),
            conv(f"{name}.3", conv(f"{name}.3r", here, r3, 1), three, 3),
            conv(f"{name}.5", conv(f"{name}.5r", here, r5, 1), five, 5),
            conv(f"{name}.p", pool(f"{name}.pool", here, 1), projected, 1),
        )
        nodes.append(Node.of(name, "concat", *parts))
        here = pool(f"{name}.down", name, 2) if name in ("3b", "4e") else name
    nodes += [Node.of("mean", "global_avgpool", here), Node.of("flat", "flatten", "mean")]
    nodes.append(Node.of("linear", "dense", "flat", out=1000))
    return Graph(tuple(nodes), ("linear",), "googlenet")


def test_googlenet_row_by_row() -> None:
    graph = googlenet()
    costs = count(graph)
    for name, (_, _, size, weights, macs) in INCEPTION.items():
        rows = [layer.cost for layer in costs.layers if layer.name.startswith(f"{name}.")]
        assert (sum(r.weights for r in rows), sum(r.macs for r in rows)) == (weights, macs), name
        assert graph.unit_shapes[name] == (1, PRINTED_OUT[name], size, size)
    by_name = {layer.name: layer.cost for layer in costs.layers}
    assert (by_name["conv1"].weights, by_name["conv1"].macs) == (9_408, 118_013_952)
    stem = by_name["conv2"] + by_name["conv2.reduce"]
    assert (stem.weights, stem.macs) == (114_688, 359_661_568)
    assert by_name["linear"].weights == by_name["linear"].macs == 1_024_000


def test_googlenet_totals() -> None:
    total = count(googlenet()).total
    assert (total.weights, total.params, total.macs) == (6_990_272, 6_998_552, 1_582_671_872)


def test_googlenet_printed_stem_is_separable() -> None:
    """2.7K and 34M are no 7×7×3×64: they fit 8 filters per input channel and a 1×1 over the 24 results."""
    depth = Conv.of(3, 24, (224, 224), 7, stride=2, padding=3, groups=3, bias=False)
    point = Conv.of(24, 64, depth.out_size, 1, bias=False)
    assert depth.weights + point.weights == 7 * 7 * 3 * 8 + 24 * 64 == 2_712
    assert depth.macs + point.macs == 34_019_328


@pytest.mark.parametrize(("row", "printed"), [("4c", 463), ("4d", 580), ("5a", 1072), ("5b", 1388)])
def test_googlenet_rows_that_do_not_fit_their_sizes(row: str, printed: int) -> None:
    weights = INCEPTION[row][3]
    assert abs(weights - printed * 1024) > 0.01 * weights


@pytest.mark.parametrize(("row", "printed"), [("3a", 159), ("3b", 380), ("4b", 437)])
def test_googlenet_thousands_are_1024(row: str, printed: int) -> None:
    weights = INCEPTION[row][3]
    assert abs(weights / 1024 - printed) < 1.5
    assert abs(weights / 1000 - printed) > 3


# ---------------------------------------------------------------------------------------------- Network in Network


@pytest.mark.parametrize(
    ("second", "third", "macs", "params"),
    [(1, 1, 222.5, 967.0), (2, 1, 163.5, 736.6), (4, 2, 123.4, 455.5), (8, 4, 103.3, 315.0), (16, 8, 93.3, 244.7)],
)
def test_network_in_network_with_filter_groups(second: int, third: int, macs: float, params: float) -> None:
    layers = (
        (3, 192, 5, 32, 1), (192, 160, 1, 32, 1), (160, 96, 1, 32, 1),
        (96, 192, 5, 16, second), (192, 192, 1, 16, 1), (192, 192, 1, 16, 1),
        (192, 192, 3, 8, third), (192, 192, 1, 8, 1), (192, 10, 1, 8, 1),
    )  # fmt: skip
    convs = [Conv.of(ic, oc, (s, s), k, padding=k // 2, groups=g) for ic, oc, k, s, g in layers]
    assert round(sum(c.macs for c in convs) / 1e6, 1) == macs
    assert round(sum(c.params for c in convs) / 1e3, 1) == params


# ---------------------------------------------------------------------------------------------- traps


def test_a_transposed_layer_counted_right() -> None:
    assert Conv.of(64, 32, (16, 16), 2, stride=2, transposed=True).macs == 2_097_152

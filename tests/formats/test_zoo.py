"""Every zoo network parses and has the parameters and MACs that its paper, or the framework that ships it, states."""

from __future__ import annotations

import pytest

from dojang.arith.cost import Count, count
from dojang.base.errors import UsageError
from dojang.formats import zoo
from dojang.formats.text import parse, to_text

# Parameters with biases and normalisation, MACs with padding taps counted. The sources are those of each file's
# `source` line; one-tower AlexNet, VGG-16, the ResNets, ResNeXt and MobileNetV2 are as PyTorch ships them.
TOTALS = {
    "lenet5": (61_706, 416_520),
    "alexnet": (60_965_224, 724_406_816),
    "alexnet-one-tower": (61_100_840, 714_188_480),
    "vgg16": (138_357_544, 15_470_264_320),
    "googlenet": (6_998_552, 1_582_671_872),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnext50-32x4d": (25_028_904, 4_230_479_872),
    "mobilenet-v2": (3_504_872, 300_774_272),
    "resnet20-cifar10": (269_722, 40_551_040),
    "resnet32-cifar10": (464_154, 68_862_592),
    "resnet44-cifar10": (658_586, 97_174_144),
    "resnet56-cifar10": (853_018, 125_485_696),
    "digits-cnn": (53_002, 347_392),
}

# "Deep roots", table of Network in Network on CIFAR-10: MACs in millions, parameters of convolutions in thousands.
ROOTS = {
    "nin-cifar10": ("222.5", "967.0"),
    "nin-cifar10-root2": ("163.5", "736.6"),
    "nin-cifar10-root4": ("123.4", "455.5"),
    "nin-cifar10-root8": ("103.3", "315.0"),
    "nin-cifar10-root16": ("93.3", "244.7"),
}

# Layer: weights, weights with bias, MACs. Krizhevsky et al. 2012 with groups 1, 2, 1, 2, 2.
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


def counted(name: str) -> Count:
    return count(zoo.load(name, weights=False))


def test_every_zoo_network_has_known_totals():
    assert set(zoo.names()) == set(TOTALS) | set(ROOTS)


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name):
    total = counted(name).total
    assert (total.params, total.macs) == TOTALS[name]
    assert total.status == "exact"


@pytest.mark.parametrize("name", ROOTS)
def test_network_in_network_with_filter_groups(name):
    result = counted(name)
    convs = sum(layer.cost.params for layer in result.layers if layer.op == "conv")
    assert (f"{result.total.macs / 1e6:.1f}", f"{convs / 1e3:.1f}") == ROOTS[name]


def test_alexnet_layer_by_layer():
    layers = {layer.name: layer.cost for layer in counted("alexnet").layers}
    found = {name: (layers[name].weights, layers[name].params, layers[name].macs) for name in ALEXNET}
    assert found == ALEXNET


def test_ungrouped_alexnet():
    text = to_text(zoo.load("alexnet", weights=False)).replace(" groups=2", "")
    total = count(parse(text)).total
    assert (total.params, total.macs) == (62_378_344, 1_135_256_096)


@pytest.mark.parametrize("name", zoo.names())
def test_each_file_names_its_source_and_round_trips(name):
    graph = zoo.load(name, weights=False)
    assert graph.name == name
    assert graph.meta["source"]
    assert parse(to_text(graph)) == graph


def test_number_of_classes():
    assert zoo.load("resnet50", num_classes=7).unit_shapes["fc"] == (1, 7)


def test_an_unknown_name_says_what_was_perhaps_meant():
    with pytest.raises(UsageError, match="did you mean alexnet"):
        zoo.load("alexnett")

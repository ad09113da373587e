"""The paths of devices: they cross where Krizhevsky et al. (2012, figure 2) draw a crossing, and nowhere else."""

import xml.etree.ElementTree as ElementTree

import dojang
from dojang.formats.text import parse
from dojang.report.svg_devices import paths_chart

TEXT = "{http://www.w3.org/2000/svg}text"
LINE = "{http://www.w3.org/2000/svg}line"


def test_the_paths_cross_where_the_paper_draws_it() -> None:
    drawn = ElementTree.fromstring(paths_chart(dojang.over_devices("alexnet", 2)))
    names = [one.text for one in drawn.iter(TEXT) if one.get("class") == "label"]
    tops = sorted({float(one.get("y2") or 0) for one in drawn.iter(LINE) if "cross" in (one.get("class") or "")})
    row = {30 + 64.0 * place: name for place, name in enumerate(names)}
    # norm1 and norm2 as dojang computes them, over all channels; the paper has them within each device.
    assert [row[top] for top in tops] == ["norm1", "norm2", "conv3", "fc6", "fc7", "fc8"]
    held = [one.text for one in drawn.iter(TEXT) if one.get("class") == "inside"]
    assert held[:4] == ["48x55x55 · 17.5K"] * 2 + ["128x27x27 · 154K"] * 2


def test_there_is_no_drawing_of_one_device_or_of_many() -> None:
    assert paths_chart(dojang.over_devices("alexnet", 1)) == ""
    assert paths_chart(dojang.over_devices("alexnet", 5)) == ""


def test_names_with_markup_are_text() -> None:
    net = parse("input 3x8x8\n<b>&: conv 8 3x3\n", "t", "t.net")
    drawn = ElementTree.fromstring(paths_chart(dojang.over_devices(net, 3)))
    assert "<b>&" in [one.text for one in drawn.iter(TEXT)]

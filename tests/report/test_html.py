from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import combinations, pairwise

import numpy as np
import pytest

from dojang.arith.cost import count
from dojang.arith.symbol import symbol
from dojang.formats import zoo
from dojang.formats.text import parse
from dojang.report.confusion import confusion_text
from dojang.report.html import count_html, fields_drawn, trained_html
from dojang.report.results import Trained
from dojang.report.svg import ChartBar, Series, bar_chart, line_chart
from dojang.report.svg_cost import share_chart
from dojang.report.text import trained_text
from dojang.training.confusion import confusion

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Checker(HTMLParser):
    """Collects tags that are not closed in order, text, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_page(page: str) -> str:
    """A well-formed page that asks for nothing; its text."""
    checker = Checker()
    checker.feed(page)
    assert checker.faults == []
    assert checker.open == []
    assert checker.addresses == []
    assert "url(" not in page
    assert "@import" not in page
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root[0].tag.endswith("title")
        assert root[0].text
        assert root[1].tag.endswith("desc")
    return " ".join(checker.text)


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet20-cifar10"])
def test_count_page(name: str) -> None:
    result = count(zoo.load(name))
    text = check_page(count_html(result))
    assert f"{result.total.params:,}" in text
    assert f"{result.total.macs:,}" in text
    for layer in result.layers:
        assert layer.name in text


def test_names_are_escaped() -> None:
    graph = parse('network "<b>x</b> & co"\ninput 3x8x8\n"<script>": conv 4 3x3\n')
    page = count_html(count(graph))
    check_page(page)
    assert "<b>x" not in page
    assert "&lt;script&gt;" in page


CURVE = [
    {"epoch": i, "train_accuracy": 1 - 0.5 / i, "test_accuracy": None if i == 2 else 0.9 - 0.4 / i} for i in range(1, 6)
]
HISTORY = {
    "metric": "accuracy",
    "test_accuracy": 0.82,
    "train_accuracy": 0.9,
    "gap": 0.08,
    "seconds": 12.3,
    "epochs": 5,
    "steps": 60,
    "device": "cpu",
    "curve": CURVE,
    "data": {"name": "digits"},
    "config": {"seed": 0},
    "lr": 0.03,
    "start": {"before": None},
    "best": None,
    "stopped_early": False,
}


def test_training_page() -> None:
    page = trained_html(Trained("net", HISTORY, (), True, zoo.load("digits-cnn")))
    text = check_page(page)
    assert "82.00 %" in text
    assert page.count("<polyline") == 2


@pytest.mark.parametrize("count_of_classes", [2, 12, 40, 150])
def test_the_confusion_of_a_training_is_told_in_text_and_on_the_page(count_of_classes: int) -> None:
    rng = np.random.default_rng(count_of_classes)
    labels = rng.integers(0, count_of_classes - 1, 400)  # the last class has no samples
    answers = np.where(rng.random(400) < 0.8, labels, rng.integers(0, count_of_classes, 400))
    names = [f"kind <{i}>" for i in range(count_of_classes)]
    seen = confusion(answers, labels, names).to_dict()
    text = confusion_text(seen, 100)
    assert max(map(len, text.splitlines())) <= 100
    recall = [(answers[labels == i] == i).mean() if (labels == i).any() else None for i in range(count_of_classes)]
    lines = {
        line.split(">")[0].split("<")[1]: line
        for line in text.splitlines()
        if re.match(r"(\d+ )?kind <\d+> +\d+ ", line)
    }
    if count_of_classes <= 20:
        assert len(lines) == count_of_classes
    else:
        worst = sorted(v for v in recall if v is not None)[:20]
        assert [round(100 * v, 1) for v in worst] == [float(re.findall(r"([\d.]+) %", s)[0]) for s in lines.values()]
    for i, line in lines.items():
        share = recall[int(i)]
        assert ("-" if share is None else f"{100 * share:.1f} %") in line
    if count_of_classes == 2:
        counts = [int(n) for n in lines["0"].split("%")[-1].split()]
        assert counts == [int(((labels == 0) & (answers == j)).sum()) for j in range(2)]
    page = trained_html(Trained("net", {**HISTORY, "confusion": seen}, (), True, zoo.load("digits-cnn")))
    pictures = re.findall(r'<figure><img [^>]*src="data:image/png;base64,[^"]+"', page)
    assert len(pictures) == (20 < count_of_classes <= 100)  # a heat map, within the page
    page = check_page(re.sub('src="data:image[^"]+"', "", page))
    assert all(f"kind <{i}>" in page for i in range(count_of_classes))


def test_a_majority_class_is_warned_of_in_text_and_on_the_page() -> None:
    """950 samples of one class and 50 of another: 95 % by always giving the same answer."""
    seen = confusion(np.zeros(1000, int), np.repeat([0, 1], [950, 50]), ["fine", "broken"]).to_dict()
    trained = Trained("net", {**HISTORY, "confusion": seen}, (), True, zoo.load("digits-cnn"))
    wanted = "Warning: an accuracy of 95.00 % shows no learning: always answering class fine gives the same."
    assert wanted in " ".join(trained_text(trained).split())
    assert wanted in check_page(trained_html(trained))


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "googlenet", "mobilenet-v2", "resnet56-cifar10"])
def test_leaders_of_drawn_fields_do_not_cross(name: str) -> None:
    """From each corner to its name: no two of the lines have a point in common, unless they begin in one."""
    chart = fields_drawn(count(zoo.load(name)))
    leaders = [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'<polyline class="grid" fill="none" points="([^"]+)"', chart)
    ]
    assert len(leaders) >= 5

    def side(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    def cross(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...], d: tuple[float, ...]) -> bool:
        return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0

    for one, other in combinations(leaders, 2):
        assert not any(cross(*p, *q) for p in pairwise(one) for q in pairwise(other)), (one, other)


def test_bars_are_in_proportion() -> None:
    chart = bar_chart(
        "t", ["v"], [("one", [ChartBar(1, "1")]), ("four", [ChartBar(4, "4")]), ("none", [ChartBar(0, "0")])]
    )
    widths = [float(w) for w in re.findall(r'<rect[^>]* width="([\d.]+)"', chart)]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.3)
    assert widths[2] == 0
    assert "one: v 1; four: v 4; none: v 0" in chart


def test_lines_meet_their_values() -> None:
    chart = line_chart("t", "x", "y", [Series("s", ((0, 0), (1, 1), (2, 0.5)))])
    ((points),) = re.findall(r'points="([^"]+)"', chart)
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, p.split(","))) for p in points.split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.2)
    assert y1 < y0
    assert line_chart("t", "x", "y", []) == ""


def test_a_single_point_is_drawn() -> None:
    assert "<circle" in line_chart("t", "x", "y", [Series("s", ((1, 0.5),))])


def test_fields_are_drawn_to_scale() -> None:
    page = count_html(count(zoo.load("alexnet")))
    check_page(page)
    (drawn,) = re.findall(r"<svg(?:(?!</svg>).)*?Receptive fields.*?</svg>", page, re.DOTALL)
    image = float(re.findall(r'class="image"[^>]* width="([\d.]+)"', drawn)[0])
    widths = [float(w) for w in re.findall(r'class="field"[^>]* width="([\d.]+)"', drawn)]
    assert any(w / image == pytest.approx(195 / 227, abs=0.01) for w in widths)  # pool5
    assert any(w / image == pytest.approx(11 / 227, abs=0.01) for w in widths)  # conv1
    assert "conv1 11x11" in drawn


def test_shares_say_where_parameters_and_macs_are() -> None:
    chart = share_chart(count(zoo.load("alexnet", weights=False)))
    said = re.search("<desc>(.*?)</desc>", chart).group(1)
    assert said == (
        "parameters in convolutions: 3.8 %; parameters in dense layers: 96.2 %; "
        "MACs in convolutions: 91.9 %; MACs in dense layers: 8.1 %"
    )
    check_page(count_html(count(zoo.load("mobilenet-v2", weights=False))))


def test_a_page_of_formulas() -> None:
    graph = parse("input 3x9x9\nconv 8 3x3 pad=1")
    node = graph.inputs[0]
    page = count_html(count(graph.edited({node.name: node.with_attrs(shape=(3, symbol("H"), symbol("W")))})))
    assert "216·H·W" in check_page(page)


WIDE = """input 3x32x32
첫번째합성곱층의아주아주긴이름입니다정말로: conv 8 3x3 pad=1
b: conv 8 3x3
밀집: dense 4
"""


def test_wide_letters_keep_their_beginning_in_charts() -> None:
    """A label, right-aligned at its place, begins inside the picture: two columns for each Hangul letter."""
    root = ElementTree.fromstring(
        bar_chart("t", ["x"], [("가" * 60, [ChartBar(1, "1")]), ("b" * 60, [ChartBar(2, "2")])])
    )
    labels = [e for e in root.iter() if e.get("class") == "label"]
    assert len(labels) == 2
    for label in labels:
        letters = sum(13.0 if c >= "가" else 8.0 for c in label.text or "")  # of the 13-pixel type
        assert float(label.get("x", "0")) - letters > -13
        assert "…" in (label.text or "")


def test_a_type_of_layer_has_one_colour_and_small_shares_are_labelled() -> None:
    counted = count(zoo.load("alexnet", weights=False))
    page = count_html(counted)
    share = share_chart(counted)
    assert "convolutions 3.8 %" in share
    (bars,) = re.findall(r"<svg[^>]*><title>Parameters and MACs of alexnet by layer.*?</svg>", page)
    kinds = re.findall(r'<rect class="(\w+)"', bars)
    assert kinds == ["conv"] * 10 + ["dense"] * 6


def test_the_frame_of_receptive_fields_is_labelled() -> None:
    assert ">input 224x224<" in fields_drawn(count(parse(WIDE.replace("32x32", "224x224"))))


def test_shapes_are_sorted_by_how_many_values_they_have() -> None:
    page = count_html(count(parse(WIDE)))
    assert re.search(r'data-value="8192"[^>]*>8x32x32<', page)


def test_wide_tables_become_cards_with_their_headings() -> None:
    page = count_html(count(parse(WIDE)))
    assert 'data-head="MACs"' in page
    assert "table.many td::before{content:attr(data-head)" in page

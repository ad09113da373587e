"""Heat maps, read back with Pillow."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dojang.report.heat import COLOURS, heat_figure, heat_map


def test_a_map_has_a_square_per_entry_by_size_whatever_the_sign():
    matrix = np.array([[0.0, 1.0, -1.0], [0.25, -0.25, 2.0]])
    picture = Image.open(io.BytesIO(heat_map(matrix))).convert("RGB")
    zoom = picture.width // 3
    assert (picture.width, picture.height) == (3 * zoom, 2 * zoom)
    assert picture.width >= 256
    seen = [[picture.getpixel((c * zoom + zoom // 2, r * zoom + zoom - 1)) for c in range(3)] for r in range(2)]
    dark, light = COLOURS[0][1], COLOURS[-1][1]
    assert seen[0] == [dark, light, light]
    assert seen[1][0] == seen[1][1] == COLOURS[1][1]  # a quarter of 255 is 64
    assert seen[1][2] == light


def test_light_grows_with_strength():
    picture = Image.open(io.BytesIO(heat_map([list(np.linspace(0, 1, 256))]))).convert("L")
    assert (np.diff(np.asarray(picture, int)[0]) >= 0).all()


def test_a_figure_is_escaped_and_says_what_it_shows():
    figure = heat_figure([[0.5]], "a<b", "1 & 2")
    assert 'alt="a&lt;b: 1 rows, 1 columns. 1 &amp; 2"' in figure
    assert "<b>a&lt;b</b>" in figure


def test_the_page_of_a_diagnosis_draws_each_pair_of_layers_once():
    from dojang.app.diagnosing import diagnose
    from dojang.arith.cost import count
    from dojang.formats import zoo
    from dojang.report.html_slim import diagnosis_html

    found = diagnose("digits-cnn", "digits", samples=32)
    page = diagnosis_html(found, count(zoo.load("digits-cnn")))
    assert page.count("<figure><img ") == len(found.correlations) + 1 > 1  # and the confusion matrix
    assert page.count('<img class="strip"') == page.count("<figure><img ")  # each with its scale
    assert "img-src data:" in page

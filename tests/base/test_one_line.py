"""A message of one line is never longer than asked for."""

import pytest

from dojang.base.showing import one_line


@pytest.mark.parametrize("most", [0, 1, 3, 4, 5, 6, 50, 302, 303, 304, 600, 1500])
def test_never_longer_than_asked_for(most):
    text = "".join(chr(ord("a") + i % 26) for i in range(5000))
    line = one_line(text, most)
    assert len(line) == most
    assert text.startswith(line.partition(" … ")[0])
    assert text.endswith(line.partition(" … ")[2])

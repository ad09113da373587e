"""A training that is refused leaves nothing where its result would have gone."""

import pytest

import dojang
from dojang.base.errors import DojangError

pytest.importorskip("torch")


@pytest.mark.parametrize("refused", [{"device": "nowhere"}, {"device": "cuda:99"}, {"lr": -1.0}])
def test_nothing_is_left(tmp_path, refused):
    with pytest.raises(DojangError):
        dojang.train("digits-cnn", "digits", epochs=1, output=tmp_path / "out" / "run", **refused)
    assert list(tmp_path.iterdir()) == []

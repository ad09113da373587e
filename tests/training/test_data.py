"""Splits, normalisation, the selection part, the hash; and that none of it needs PyTorch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dojang import training as train
from dojang.base.errors import DataError, UsageError
from dojang.training.data import Augment, Normalisation, from_arrays, split_indices
from dojang.training.load import load

RNG = np.random.default_rng(3)


def test_data_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, numpy as np\n"
        "from dojang import training as train\n"
        "d = train.from_arrays(np.zeros((20, 1, 4, 4)), np.arange(20) % 2)\n"
        "d.train.inputs(); d.selection(); train.TrainConfig(); train.History\n"
        "print(*sorted({'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_torch_fit_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from dojang import training as train\n"
        "from dojang.base.errors import MissingPart\n"
        "try: train.fit\n"
        "except MissingPart as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'dojang[torch]'" in done.stdout


def test_public_names() -> None:
    assert train.__all__ == [
        "Augment",
        "Data",
        "Epoch",
        "History",
        "Normalisation",
        "Progress",
        "Scores",
        "Split",
        "TrainConfig",
        "evaluate",
        "fit",
        "from_arrays",
    ]
    for name in train.__all__:
        assert getattr(train, name).__name__ == name


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalisation_has_mean_0_and_deviation_1_per_channel(dtype: type) -> None:
    x = RNG.integers(0, 256, (5000, 3, 5, 4)).astype(dtype)
    x[:, 2] = 77
    normalisation = Normalisation.of(x)
    out = normalisation.apply(x).astype(np.float64)
    unit = x / 255 if dtype == np.uint8 else x
    assert np.allclose(normalisation.mean, unit.mean((0, 2, 3), dtype=np.float64), rtol=1e-9)
    assert np.allclose(normalisation.std[:2], unit.std((0, 2, 3), dtype=np.float64)[:2], rtol=1e-9)
    assert normalisation.std[2] == 1
    assert np.allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    assert np.allclose(out.std((0, 2, 3))[:2], 1, atol=1e-5)


def test_a_networks_own_normalisation_replaces_the_computed_one() -> None:
    data = from_arrays(RNG.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8), np.arange(20) % 2)
    own = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    other = data.normalised(own)
    true = (data.test.x / 255 - np.reshape(own.mean, (1, 3, 1, 1))) / np.reshape(own.std, (1, 3, 1, 1))
    assert np.allclose(other.test.inputs(), true, atol=1e-6)
    assert np.allclose(other.test.inputs(1, 3), true[1:3], atol=1e-6)
    assert other.hash == data.hash
    with pytest.raises(DataError, match="normalises 1 channels, the data have 3"):
        data.normalised(Normalisation.none(1))
    with pytest.raises(UsageError, match="deviations"):
        Normalisation((0.0,), (0.0,))


@given(st.integers(2, 60), st.integers(2, 5), st.floats(0.01, 0.99), st.integers(0, 9))
def test_any_split_is_a_partition_with_every_class_on_both_sides(n: int, k: int, fraction: float, seed: int) -> None:
    y = np.arange(n * k) % k
    rest, chosen = split_indices(y, "classification", fraction, seed, "here")
    assert sorted([*rest.tolist(), *chosen.tolist()]) == list(range(n * k))
    for label in range(k):
        count = int((y[chosen] == label).sum())
        assert 1 <= count < n
        assert count in (1, n - 1) or abs(count - fraction * n) <= 0.5


def test_selection_comes_out_of_the_train_part_alone() -> None:
    data = load("digits")
    chosen = data.selection(0.25, seed=4)
    both = {row.tobytes() for part in (chosen.train, chosen.test) for row in part.x}
    assert both == {row.tobytes() for row in data.train.x}
    assert len(chosen.train) + len(chosen.test) == len(data.train)
    assert chosen.test.y.shape[0] == sum(round(0.25 * int((data.train.y == c).sum())) for c in range(10))
    assert chosen.normalisation == data.normalisation
    assert len({data.hash, chosen.hash, data.selection(0.25, seed=5).hash}) == 3
    assert data.selection(0.25, seed=4).hash == chosen.hash


def test_the_hash_follows_every_part_of_the_content() -> None:
    x, y = RNG.integers(0, 256, (12, 1, 3, 3), dtype=np.uint8), np.arange(12) % 2
    base = from_arrays(x, y, x, y)
    assert from_arrays(x.copy(), y.copy(), x, y, name="other").hash == base.hash
    changed = x.copy()
    changed[7, 0, 1, 1] ^= 1
    flipped = y[::-1]
    hashes = {
        base.hash,
        from_arrays(changed, y, x, y).hash,
        from_arrays(x, y, changed, y).hash,
        from_arrays(x, flipped, x, y).hash,
        from_arrays(x, y, x, flipped).hash,
        from_arrays(x, y, x, y, classes=("a", "b")).hash,
    }
    assert len(hashes) == 6


def test_parts_that_do_not_agree() -> None:
    x, y = np.zeros((8, 1, 4, 4), np.float32), np.arange(8) % 2
    for x_test, y_test, message in (
        (x[:, :, :3], y, "samples are 1×3×4, those of the train part 1×4×4"),
        (x, y + 1, "label 2 of sample 1 is out of range; 2 classes are 0 … 1"),
        (x, y + 0.5, "labels are float64"),
        (x.astype(np.uint8), y, "uint8"),
        (x, None, "without labels"),
    ):
        with pytest.raises(DataError, match=message):
            from_arrays(x, y, x_test, y_test)
    with pytest.raises(UsageError, match="crop"):
        Augment(crop=-1)


def test_a_bad_sample_is_named_by_its_place_in_what_was_given() -> None:
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32)
    x[3, 0, 0, 0] = np.nan  # the split into two parts must not number it anew
    with pytest.raises(DataError, match="arrays: sample 3 holds NaN"):
        from_arrays(x, np.arange(20) % 2)
    x[3, 0, 0, 0], x[7] = 1e15, -1e30
    with pytest.raises(DataError, match="arrays: sample 7 holds values up to 1e[+]30, above 1e[+]15.*scale"):
        from_arrays(x, np.arange(20) % 2)

"""Names of parts: any case and synonym, in folders and in arrays; what is no part is refused by name."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dojang
from dojang.base.errors import DataError
from dojang.training.config import TrainConfig
from dojang.training.data import Augment
from dojang.training.load import load
from dojang.training.understood import paragraph

RNG = np.random.default_rng(4)


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def tree(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3, below: str = "") -> Path:
    for name in classes:
        place = folder / below / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            (place / f"{i}.png").write_bytes(png())
    return folder


WAYS = [("train", "test"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("train", "eval"),
        ("Training", "Validation"), ("train", "dev"), ("training_set", "test_set"), ("train", "valid")]  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("names", WAYS)
def test_two_parts_by_any_name(tmp_path: Path, names: tuple[str, str], zipped: bool) -> None:
    source = tmp_path / "d"
    for name, each in zip(names, (4, 2), strict=True):
        tree(source, each=each, below=name)
    if zipped:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for file in sorted(source.rglob("*.png")):
                archive.write(file, file.relative_to(tmp_path))
        source = tmp_path / "d.zip"
    data = load(source)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test), data.val) == (8, 4, None)
    assert names[0] in data.split
    assert names[1] in data.split


def test_a_validation_part_beside_train_and_test_is_what_choices_are_made_on(tmp_path: Path) -> None:
    for name, each in (("train", 5), ("Val", 2), ("test", 3)):
        tree(tmp_path, each=each, below=name)
    data = load(tmp_path)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)
    chosen = data.selection(0.5)
    assert np.array_equal(chosen.test.x, data.val.x)
    assert np.array_equal(chosen.train.x, data.train.x)
    assert chosen.val is None
    other = load(tmp_path)
    (tmp_path / "Val" / "cat" / "0.png").write_bytes(png())
    assert load(tmp_path).hash != other.hash == data.hash


@pytest.mark.parametrize(
    ("below", "message"),
    [
        (("train", "test", "extra"), "extra stands beside test and train"),
        (("train", "holdout"), "holdout stands beside train"),
        (("train", "Training", "test"), "Training and train both name the train part"),
        (("test", "val"), "there is none to train on"),
        (("Test", "train", "testing"), "Test and testing both name the test part"),
    ],
)
def test_parts_that_are_not_known_are_named(tmp_path: Path, below: tuple[str, ...], message: str) -> None:
    for name in below:
        tree(tmp_path, below=name)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(tree(tmp_path, ("bus", "car", "train"), 5)).classes == ("bus", "car", "train")


def test_pictures_of_parts_without_classes_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/0\.png is in no class folder|0\.png is in no class folder"):
        load(tree(tmp_path, ("test", "train")))


def test_a_test_part_named_apart_may_have_fewer_classes(tmp_path: Path) -> None:
    tree(tmp_path / "a", ("ant", "cat", "dog"))
    tree(tmp_path / "b", ("dog",))
    data = load(tmp_path / "a", val=tmp_path / "b")
    assert data.test.y.tolist() == [2, 2, 2]
    tree(tmp_path / "c", ("emu",))
    with pytest.raises(DataError, match="class 'emu' is not among the trained classes"):
        load(tmp_path / "a", val=tmp_path / "c")


@pytest.mark.parametrize("classes", [("left", "right"), ("1", "2"), ("a", "b"), ("forward", "back")])
def test_nothing_is_mirrored_by_a_guess_from_names(tmp_path: Path, classes: tuple[str, ...]) -> None:
    assert load(tree(tmp_path, classes)).augment == Augment(crop=1, mirror=False)


def test_the_rule_by_which_pictures_are_mirrored_is_said(tmp_path: Path) -> None:
    from dojang.training.cifar import NAMES_10

    data = load(tree(tmp_path, NAMES_10, 2))
    assert data.augment.mirror
    assert any("mirrored at random, because" in note for note in data.notes)
    net = dojang.load("digits-cnn")
    said = paragraph(net, data, TrainConfig())
    assert said.startswith(f"{data.name}: 10 samples to train on")  # as it is written: it names a file
    assert "mirrored at random" in said
    unvaried = paragraph(net, data, TrainConfig(augment=Augment()))  # as a short training from scratch decides
    assert "not varied" in unvaried
    assert "mirrored" not in unvaried


KEYS = [("x", "y"), ("X", "Y"), ("x_train", "y_train"), ("train_images", "train_labels"), ("X_TRAIN", "Y_Train"),
        ("images", "labels"), ("data", "target"), ("training_data", "training_labels")]  # fmt: skip


@pytest.mark.parametrize("keys", KEYS)
def test_arrays_by_any_name(tmp_path: Path, keys: tuple[str, str]) -> None:
    x, y = RNG.random((20, 1, 4, 4)).astype(np.float32), np.arange(20) % 2
    test = {"Test_Images": x[:6], "test_labels": y[:6]} if "train" in keys[0] else {}
    np.savez(tmp_path / "a.npz", **{keys[0]: x, keys[1]: y}, **test, index=y)
    data = load(tmp_path / "a.npz")
    assert sum(map(len, (data.train, data.test))) == 20 + len(test.get("test_labels", ()))


def test_three_parts_of_arrays(tmp_path: Path) -> None:
    x, y = RNG.random((20, 1, 4, 4)).astype(np.float32), np.asarray(["no", "yes"])[np.arange(20) % 2]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_val=x[:4], y_val=y[:4], x_test=x[:6], y_test=y[:6])
    data = load(tmp_path / "a.npz")
    assert data.val is not None
    assert data.val.y.tolist() == [0, 1, 0, 1]
    assert len(data.test) == 6
    np.savez(tmp_path / "b.npz", x=x, y=y, x_extra=x)
    with pytest.raises(DataError, match="x_extra is of no part known here"):
        load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=x, images=x, y=y)
    with pytest.raises(DataError, match=r"images and x|x and images"):
        load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=x, y=y)
    np.savez(tmp_path / "e.npz", x=x[:5], y=np.asarray(["yes"] * 5))
    assert load(tmp_path / "d.npz", val=tmp_path / "e.npz").test.y.tolist() == [1] * 5


@pytest.mark.parametrize("part", ["test", "VAL"])
def test_a_part_without_classes_is_refused(tmp_path: Path, part: str) -> None:
    """Its accuracy would be that of no samples, which is no number."""
    tree(tmp_path, below="train")
    (tmp_path / part).mkdir()
    with pytest.raises(DataError, match=f"{part} is empty"):
        load(tmp_path)


def test_parts_inside_of_classes_are_not_mixed(tmp_path: Path) -> None:
    tree(tmp_path, ("Train", "Test"), below="a")
    tree(tmp_path, ("Train", "Test"), below="b")
    with pytest.raises(DataError, match="class folder a holds Test and Train; put the parts outside"):
        load(tmp_path)

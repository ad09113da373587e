"""Every kind of data, read from small real files written here; and every way in which they can be bad."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from dojang.base.errors import DataError, FileError, UsageError
from dojang.training.data import TEST_FRACTION, Augment
from dojang.training.load import load

RNG = np.random.default_rng(5)


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, part: str, count: int, zipped: bool) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.integers(0, 256, (count, 7, 5), dtype=np.uint8)
    y = (np.arange(count) % 3).astype(np.uint8)
    for kind, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
        blob = idx_bytes(array)
        (folder / (kind + ".gz" * zipped)).write_bytes(gzip.compress(blob) if zipped else blob)
    return x, y


def write_cifar(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    y = (np.arange(count) % 10).astype(np.uint8)
    path.write_bytes(b"".join(bytes([label]) + picture.tobytes() for label, picture in zip(y, x, strict=True)))
    return x, y


def test_digits_are_scikit_learns_in_0_to_1_and_never_mirrored() -> None:
    from sklearn.datasets import load_digits

    data = load("digits")
    every = np.concatenate([data.train.x, data.test.x])[:, 0] * 16
    theirs = np.asarray(load_digits().images)
    assert every.shape == theirs.shape
    order, other = (np.lexsort(a.reshape(1797, -1).T) for a in (every, theirs))
    assert np.array_equal(every[order], theirs[other])
    assert data.train.x.dtype == np.float32
    assert data.classes == tuple("0123456789")
    assert data.augment.mirror is False


def test_a_split_is_stratified_seeded_and_without_overlap() -> None:
    a, b, c = load("digits", seed=1), load("digits", seed=1), load("digits", seed=2)
    assert a.hash == b.hash != c.hash
    for label in range(10):
        train, test = (int((part.y == label).sum()) for part in (a.train, a.test))
        assert test == round(TEST_FRACTION * (train + test))
    seen = {row.tobytes() for row in a.train.x}
    # scikit-learn's digits hold no picture twice.
    assert not any(row.tobytes() in seen for row in a.test.x)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_of_a_folder_and_alone(tmp_path: Path, zipped: bool) -> None:
    x, y = write_idx(tmp_path, "train", 30, zipped)
    x_test, y_test = write_idx(tmp_path, "t10k", 12, zipped)
    data = load(tmp_path)
    assert np.array_equal(data.train.x, x[:, None])
    assert np.array_equal(data.train.y, y)
    assert np.array_equal(data.test.x, x_test[:, None])
    assert np.array_equal(data.test.y, y_test)
    assert data.augment == Augment(crop=2)
    images = tmp_path / ("train-images-idx3-ubyte" + ".gz" * zipped)
    alone = load(images)
    assert len(alone.train) + len(alone.test) == 30


def test_idx_truncated_too_long_declared_huge_and_without_labels(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 30, False)
    path = tmp_path / "train-images-idx3-ubyte"
    blob = path.read_bytes()
    for bad, word in (
        (blob[:-1], "truncated"),
        (blob + b"x", "longer"),
        (blob[:4] + struct.pack(">3I", 2**31, 2**31, 4) + blob[16:], "truncated"),
        (b"PK" + blob[2:], "IDX"),
        (blob[:6], "header"),
    ):
        path.write_bytes(bad)
        with pytest.raises(FileError, match=word):
            load(tmp_path)
    path.write_bytes(blob)
    os.unlink(tmp_path / "train-labels-idx1-ubyte")
    with pytest.raises(FileError, match=r"labels train-labels-idx1-ubyte are missing"):
        load(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(30, np.uint8)))[:-9])
    with pytest.raises(FileError, match=r"damaged \.gz"):
        load(tmp_path)


def test_cifar_batches_with_names(tmp_path: Path) -> None:
    first, second = write_cifar(tmp_path / "data_batch_1.bin", 20), write_cifar(tmp_path / "data_batch_2.bin", 10)
    test = write_cifar(tmp_path / "test_batch.bin", 10)
    data = load(tmp_path)
    assert np.array_equal(data.train.x, np.concatenate([first[0], second[0]]))
    assert np.array_equal(data.train.y, np.concatenate([first[1], second[1]]))
    assert np.array_equal(data.test.x, test[0])
    assert data.classes[:2] == ("airplane", "automobile")
    assert data.augment == Augment(crop=4, mirror=True)
    assert load(tmp_path / "data_batch_1.bin", val=tmp_path / "test_batch.bin").test.y.tolist() == test[1].tolist()
    (tmp_path / "test_batch.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(FileError, match="3072 bytes are no whole number"):
        load(tmp_path)
    bad = np.fromfile(tmp_path / "data_batch_1.bin", np.uint8)
    bad[3073] = 10
    bad.tofile(tmp_path / "bad.bin")
    with pytest.raises(DataError, match="label 10 of sample 1 is out of range"):
        load(tmp_path / "bad.bin")


def test_npz_of_classes_and_of_a_regression(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 2, classes=["no", "yes"])
    data = load(tmp_path / "a.npz")
    assert data.sample_shape == (3, 6, 5)
    assert data.classes == ("no", "yes")
    assert data.outputs == 2
    rows = {row.tobytes() for row in x.transpose(0, 3, 1, 2)}
    assert all(row.tobytes() in rows for row in data.train.x)
    values = RNG.normal(size=(20, 2))
    np.savez_compressed(tmp_path / "b.npz", x=RNG.normal(size=(20, 4, 4)), y=values, x_test=x[:4, :4, :4, 0] / 255.0,
                        y_test=values[:4])  # fmt: skip
    data = load(tmp_path / "b.npz")
    assert data.task == "regression"
    assert data.classes == ()
    assert data.outputs == 2
    assert data.sample_shape == (1, 4, 4)
    assert data.test.y.dtype == np.float32
    assert len(data.train) == 20


def test_npz_that_is_damaged_holds_code_or_lacks_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((9, 1, 4, 4)), y=np.arange(9) % 2)
    blob = path.read_bytes()
    path.write_bytes(blob[:-30])
    with pytest.raises(FileError, match="truncated or damaged"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="truncated or damaged"):
        load(path)
    np.savez(path, x=np.array([object()] * 4), y=np.arange(4))
    with pytest.raises(FileError, match="run code"):
        load(path)
    np.savez(path, x=np.zeros((4, 1, 2, 2)))
    with pytest.raises(DataError, match="needs arrays x and y; found x"):
        load(path)
    np.savez(path, x=np.zeros((4, 1, 2, 2)), y=np.arange(4) % 2, x_test=np.zeros((4, 1, 2, 2)))
    with pytest.raises(DataError, match="go together"):
        load(path)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((8, 1, 2, 2), np.nan), np.arange(8) % 2, "sample 0 holds NaN"),
        (np.zeros((8, 1, 2, 2)), np.where(np.arange(8) == 3, np.inf, 0.5), "targets: sample 3 holds NaN"),
        (np.zeros((8, 1, 2, 2)), np.arange(8) % 2 - 1, "2 different numbers from -1 to 0.*--task"),
        (np.zeros((8, 1, 2, 2)), np.where(np.arange(8) == 5, 255, 1), "2 different numbers from 1 to 255.*--task"),
        (np.zeros((8, 1, 2, 2)), np.ones(8, int), "one class"),
        (np.zeros((8, 1, 2, 2)), np.arange(7) % 2, "8 samples but 7 labels"),
        (np.zeros((8, 1, 2, 2)), np.full((8, 3), 2), "one class number per sample"),
        (np.zeros((0, 1, 2, 2)), np.zeros(0, int), "shape"),
        (np.zeros(8), np.arange(8) % 2, "shape"),
        (np.array(["a"] * 8)[:, None], np.arange(8) % 2, "type"),
        (np.zeros((3, 1, 2, 2)), np.array([0, 0, 1]), "one sample, too few to split"),
    ],
)
def test_content_that_cannot_be_used(tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)
    assert "a.npz" in str(caught.value)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such data") as caught:
        load(tmp_path / "none.npz")
    assert caught.value.exit_code == 4
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(FileError, match=r"\.csv is no kind of data"):
        load(tmp_path / "a.csv")


def test_resizing_arrays_to_what_a_network_takes(tmp_path: Path) -> None:
    data = load("digits", size=(1, 32, 24))
    assert data.sample_shape == (1, 32, 24)
    assert data.train.x.dtype == np.float32
    assert 0 <= data.train.x.min() < data.train.x.max() <= 1
    assert load("digits", size=16).sample_shape == (1, 16, 16)
    colour = load("digits", size=(3, 8, 8))
    assert np.array_equal(colour.train.x, np.repeat(load("digits").train.x, 3, axis=1))
    with pytest.raises(UsageError, match="size"):
        load("digits", size=(1, 0, 8))
    x = RNG.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 2, x_test=x, y_test=np.arange(20) % 2)
    with pytest.warns(UserWarning, match=r"a.npz: samples of 3×4×4 were made 1×4×4"):
        grey = load(tmp_path / "a.npz", size=(1, 4, 4)).train.x[:, 0]
    true = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    assert np.abs(grey - true).max() <= 0.5 + 1e-4


def write_cifar_100(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    y = (np.arange(count) % 100).astype(np.uint8)
    path.write_bytes(b"".join(bytes([c // 5, c]) + p.tobytes() for c, p in zip(y, x, strict=True)))
    return x, y


def test_cifar_100_has_the_finer_of_its_two_labels(tmp_path: Path) -> None:
    x, y = write_cifar_100(tmp_path / "train.bin", 200)
    x_test, y_test = write_cifar_100(tmp_path / "test.bin", 100)
    names = [f"thing_{i}" for i in range(100)]
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "coarse_label_names.txt").write_text("\n".join(f"kind_{i}" for i in range(20)))
    data = load(tmp_path)
    assert data.classes == tuple(names)
    for part, pictures, labels in ((data.train, x, y), (data.test, x_test, y_test)):
        assert np.array_equal(part.x, pictures)
        assert np.array_equal(part.y, labels)
    assert load(tmp_path / "train.bin").classes == tuple(names)
    (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-9])
    with pytest.raises(FileError, match=r"CIFAR-10 \(3073 bytes\) or CIFAR-100 \(3074\)"):
        load(tmp_path)

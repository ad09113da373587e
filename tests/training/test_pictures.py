"""Class folders and .zip files of them, with pictures that are written here."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dojang.base.errors import DataError, FileError
from dojang.training import pictures
from dojang.training.data import Augment
from dojang.training.load import load

RNG = np.random.default_rng(7)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def colour(h: int = 6, w: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, blob in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(blob)
    return root


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in files.items():
            archive.writestr(name, blob)
    return path


@pytest.fixture
def animals() -> dict[str, np.ndarray]:
    return {f"{name}/{i}.png": colour() for name in ("cat", "dog") for i in range(10)}


@pytest.mark.parametrize("wrap", ["", "all/", "a/b/"])
@pytest.mark.parametrize("archived", [False, True])
def test_a_tree_with_a_train_and_a_test_part(
    tmp_path: Path, animals: dict[str, np.ndarray], wrap: str, archived: bool
) -> None:
    files = {f"{wrap}{part}/{name}": png(a) for part in ("train", "test") for name, a in animals.items()}
    files |= {f"{wrap}train/cat/.hidden": b"x", f"{wrap}train/dog/Thumbs.db": b"x", f"{wrap}readme.txt": b"hello"}
    data = load(zipped(tmp_path / "a.zip", files) if archived else write(tmp_path / "a", files))
    assert data.classes == ("cat", "dog")
    expected = np.stack([animals[name].transpose(2, 0, 1) for name in sorted(animals)])
    for part in (data.train, data.test):
        assert np.array_equal(part.x, expected)
        assert part.y.tolist() == [0] * 10 + [1] * 10
    assert data.augment == Augment(crop=0)


def test_a_plain_tree_is_split_and_zip_equals_folder(tmp_path: Path, animals: dict[str, np.ndarray]) -> None:
    files = {name: png(a) for name, a in animals.items()}
    folder, archive = load(write(tmp_path / "a", files)), load(zipped(tmp_path / "a.zip", files))
    assert folder.hash == archive.hash
    assert (len(folder.train), len(folder.test)) == (16, 4)
    whole = load(tmp_path / "a", val=tmp_path / "a.zip")
    assert (len(whole.train), len(whole.test)) == (20, 20)


def test_a_test_part_named_apart_is_matched_by_class_name(tmp_path: Path, animals: dict[str, np.ndarray]) -> None:
    files = {name: png(a) for name, a in animals.items()}
    write(tmp_path / "train", files | {f"bee/{i}.png": png(colour()) for i in range(3)})
    write(tmp_path / "val", files)
    data = load(tmp_path / "train", val=tmp_path / "val")
    assert data.classes == ("bee", "cat", "dog")
    assert set(data.test.y.tolist()) == {1, 2}
    write(tmp_path / "val", {"cow/1.png": png(colour())})
    with pytest.raises(DataError, match="class 'cow' is not among the trained classes"):
        load(tmp_path / "train", val=tmp_path / "val")


def test_signs_are_never_mirrored(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(colour(16, 16)) for name in "01" for i in range(5)}
    assert load(write(tmp_path / "a", files)).augment == Augment(crop=2, mirror=False)


def test_modes_orientation_and_mixed_colour(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (4, 4), dtype=np.uint8)
    deep = (np.arange(16).reshape(4, 4) * 4000).astype(np.uint16)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be shown turned by 90° clockwise
    Image.fromarray(grey).save(turned, "PNG", exif=exif)
    palette = io.BytesIO()
    Image.fromarray(colour(4, 4)).convert("P").save(palette, "PNG", transparency=b"\x00\xff")
    alpha = np.concatenate([colour(4, 4), np.full((4, 4, 1), 9, np.uint8)], 2)
    files = {"x/0.png": png(grey), "x/1.png": png(deep), "y/0.png": turned.getvalue(), "y/1.png": png(grey)}
    data = load(write(tmp_path / "grey", files), val=tmp_path / "grey")
    assert np.array_equal(data.train.x[0, 0], grey)
    assert np.array_equal(data.train.x[1, 0], deep // 257)
    assert np.array_equal(data.train.x[2, 0], np.rot90(grey, -1))
    assert data.augment.mirror is False
    files |= {"y/2.png": png(alpha), "y/3.png": palette.getvalue()}
    data = load(write(tmp_path / "mixed", files), val=tmp_path / "mixed")
    assert data.sample_shape == (3, 4, 4)
    assert np.array_equal(data.train.x[0], np.repeat(grey[None], 3, 0))
    assert np.array_equal(data.train.x[4], alpha[..., :3].transpose(2, 0, 1))


def test_sizes_differ_without_a_size_and_are_covered_and_cropped_with_one(tmp_path: Path) -> None:
    half = np.zeros((8, 16, 3), np.uint8)
    half[:, 4:12] = 200  # the middle square is what a centre crop keeps
    write(tmp_path, {"a/0.png": png(half), "a/1.png": png(colour(4, 4)), "b/0.png": png(colour(9, 4))})
    with pytest.raises(DataError, match=r"a/1\.png is 4×4 while a/0\.png is 8×16; give one size"):
        load(tmp_path)
    data = load(tmp_path, size=(3, 8, 8), val=tmp_path)
    assert np.array_equal(data.train.x[0], np.full((3, 8, 8), 200))
    assert load(tmp_path, size=(1, 4, 4), val=tmp_path).sample_shape == (1, 4, 4)


def test_pictures_that_are_none(tmp_path: Path, animals: dict[str, np.ndarray]) -> None:
    files = {name: png(a) for name, a in animals.items()}
    whole = files["dog/3.png"]
    for bad in (b"", b"no picture", whole[:-40], whole[:30]):
        write(tmp_path / "a", files | {"dog/3.png": bad})
        with pytest.raises(FileError, match=r"dog/3\.png: no picture that can be read") as caught:
            load(tmp_path / "a")
        assert "\n" not in str(caught.value)
        assert "object at" not in str(caught.value)


def test_empty_class_folder_one_class_and_none(tmp_path: Path, animals: dict[str, np.ndarray]) -> None:
    files = {name: png(a) for name, a in animals.items()}
    write(tmp_path / "a", files)
    (tmp_path / "a" / "emu").mkdir()
    with pytest.raises(DataError, match="class folder emu is empty"):
        load(tmp_path / "a")
    with pytest.raises(DataError, match="class folder emu is empty"):
        load(zipped(tmp_path / "a.zip", files | {"emu/": b""}))
    with pytest.raises(DataError, match="only 'cat'"):
        load(write(tmp_path / "b", {n: b for n, b in files.items() if n.startswith("cat")}))
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="found none"):
        load(tmp_path / "c")
    with pytest.raises(DataError, match=r"loose\.png is in no class folder"):
        load(write(tmp_path / "d", files | {"loose.png": png(colour())}))
    with pytest.raises(DataError, match="more stands beside test and train"):
        load(write(tmp_path / "e", {f"{part}/{n}": b for part in ("train", "test", "more") for n, b in files.items()}))


def test_zips_that_are_truncated_damaged_or_locked(tmp_path: Path, animals: dict[str, np.ndarray]) -> None:
    path = zipped(tmp_path / "a.zip", {name: png(a) for name, a in animals.items()})
    blob = path.read_bytes()
    path.write_bytes(blob[: len(blob) // 2])
    with pytest.raises(FileError, match=r"damaged, or no \.zip"):
        load(path)
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        at = archive.getinfo("dog/3.png").header_offset + 30 + len("dog/3.png")
    path.write_bytes(blob[: at + 20] + bytes(b ^ 255 for b in blob[at + 20 : at + 40]) + blob[at + 40 :])
    with pytest.raises(FileError, match=r"dog/3\.png: damaged"):
        load(path)
    locked = bytearray(blob)
    entry = 0
    while (entry := locked.find(b"PK\x01\x02", entry)) >= 0:  # the encryption bit of every central entry
        locked[entry + 8] |= 1
        entry += 4
    path.write_bytes(bytes(locked))
    with pytest.raises(FileError, match="is encrypted"):
        load(path)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its few bytes unpack to nothing near."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9000, 11000, 60000])
def test_decompression_bombs_are_refused_before_they_unpack(
    tmp_path: Path, animals: dict[str, np.ndarray], side: int
) -> None:
    files = {name: png(a) for name, a in animals.items()} | {"dog/3.png": huge_png(side, side)}
    with pytest.raises(FileError, match=r"dog/3\.png"):
        load(write(tmp_path / "a", files))


def test_a_zip_entry_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, animals: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1 << 16)
    files = {name: png(a) for name, a in animals.items()} | {"dog/3.png": bytes(1 << 20)}
    with pytest.raises(FileError, match=r"dog/3\.png: unpacks to 1048576 bytes"):
        load(zipped(tmp_path / "a.zip", files))


def test_links_in_a_loop_end(tmp_path: Path, animals: dict[str, np.ndarray]) -> None:
    write(tmp_path / "a", {name: png(a) for name, a in animals.items()})
    (tmp_path / "a" / "cat" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    data = load(tmp_path / "a", val=tmp_path / "a")
    assert set(data.classes) == {"cat", "dog"}


def test_pictures_of_32_bits_ask_where_white_is(tmp_path: Path) -> None:
    from dojang.training.asked import Asked

    grey = RNG.integers(0, 256, (4, 5)).astype(np.int32)
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for j in range(2):
            Image.fromarray(grey * (i + 1)).save(tmp_path / name / f"{j}.tiff")
    with pytest.raises(DataError, match="--values 0-255 or 0-65535") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    data = load(tmp_path, asked=Asked(values="0-65535"))
    assert np.array_equal(np.unique(data.train.x), np.unique([grey // 257, 2 * grey // 257]))
    with pytest.raises(DataError, match="not within 0-255"):
        load(tmp_path, asked=Asked(values="0-255"))
    for j in range(2):
        Image.fromarray(grey).save(tmp_path / "b" / f"{j}.tiff")
    assert np.array_equal(load(tmp_path, asked=Asked(values="0-255")).train.x[0, 0], grey)

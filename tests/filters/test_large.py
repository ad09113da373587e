"""Bands of files and Dask chunks give what the whole picture gives, to the bit; bad stores are refused."""

import os
import sys

import numpy as np
import pytest
import tifffile
import zarr
from tests.filters.bounded import filter_within_limit

from dojang.base.errors import FileError, MissingPart, ShapeError, UnsupportedError, UsageError
from dojang.filters.files import filter_files, plan_file
from dojang.filters.filter import filter
from dojang.filters.job import Options
from dojang.filters.kernels.parse import Kernel, as_kernel
from dojang.filters.large import filter_large
from weighted import check_weighted

from .test_filter import picture

KERNELS = [
    "blur",
    "blur:size=31",
    "gaussian:sigma=3",
    "sobel",
    Kernel("dense", (np.random.default_rng(0).random((15, 17)),)),
]


def store(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".zarr":
        zarr.save(str(path), array)
    else:
        tifffile.imwrite(path, array, tile=(64, 48), photometric="rgb" if array.ndim == 3 else "minisblack")
    return path


def load(path):
    if path.suffix == ".npy":
        return np.load(path)
    return np.asarray(zarr.open(str(path), mode="r")) if path.suffix == ".zarr" else tifffile.imread(path)


@pytest.mark.parametrize("suffix", [".npy", ".zarr", ".tif"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: getattr(k, "name", k))
@pytest.mark.parametrize(("dtype", "border"), [("uint8", "reflect"), ("float32", "circular"), ("uint16", "constant")])
def test_bands_are_the_whole(tmp_path, suffix, kernel, dtype, border):
    image = picture((700, 90, 3), dtype)
    options = Options(border, value=7.0 if border == "constant" else 0.0)
    seen = []
    shape, *_ = filter_large(
        store(tmp_path / f"a{suffix}", image),
        tmp_path / f"b{suffix}",
        as_kernel(kernel),
        options,
        progress=lambda *a: seen.append(a),
        band_bytes=1000 if suffix == ".npy" else 20_000,  # a row, or some: each is one more call of a peer's writer
    )
    assert len(seen) >= 2
    assert seen[-1] == (700, 700)
    result = load(tmp_path / f"b{suffix}")
    assert result.shape == shape == image.shape
    assert np.array_equal(result, filter(image, kernel, border, value=options.value))


@pytest.mark.parametrize("kwargs", [{"stride": (3, 2)}, {"dilation": 3}, {"border": "valid"}, {"dtype": "float64"}])
def test_other_options(tmp_path, kwargs):
    image = picture((600, 70), "uint8")
    source = store(tmp_path / "a.npy", image)
    filter_large(source, tmp_path / "b.npy", as_kernel("blur:size=5"), Options.of(**kwargs), band_bytes=1000)
    assert np.array_equal(np.load(tmp_path / "b.npy"), filter(image, "blur:size=5", **kwargs))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on private memory is one of Linux")
def test_a_picture_larger_than_the_memory_allowed(tmp_path):
    """240 MB from file to file in a process that may have 200 MB of its own; to the bit what rows of it give."""
    block = np.random.default_rng(5).integers(0, 256, (1000, 4000, 3), dtype=np.uint8)
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (20_000, 4000, 3))
    for y in range(0, 20_000, 1000):
        array[y : y + 1000] = block + np.uint8(y // 1000)
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    filter_within_limit(*files, "gaussian:sigma=3", 120)
    result = np.load(files[1], mmap_mode="r")
    assert result.shape == array.shape
    for y in (0, 6990, 19_000):
        top, end = max(y - 20, 0), min(y + 1020, 20_000)
        whole = filter(np.ascontiguousarray(array[top:end]), "gaussian:sigma=3")
        count = min(1000, 20_000 - y)
        np.testing.assert_array_equal(result[y : y + count], whole[y - top : y - top + count])


def test_from_one_format_to_another_by_the_command(tmp_path):
    image = picture((300, 200), "uint16")
    report = filter_files([store(tmp_path / "a.npy", image)], "sharpen", tmp_path / "b.zarr")
    assert (report.done[0].width, report.done[0].height, report.done[0].dtype) == (200, 300, "uint16")
    filter_files([tmp_path / "b.zarr"], "identity", tmp_path / "c.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "c.tif"), filter(image, "sharpen"))


def test_alpha_and_profile_of_large_tiff(tmp_path):
    image = picture((300, 100, 4), "uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb", extrasamples=["unassalpha"], iccprofile=b"profile"
    )
    filter_large(tmp_path / "a.tif", tmp_path / "b.tif", as_kernel("blur"), Options(), band_bytes=1)
    result = tifffile.imread(tmp_path / "b.tif")
    assert np.array_equal(result, filter(image, "blur", alpha=True))
    check_weighted(result, image, np.full((3, 3), 1 / 9))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].iccprofile == b"profile"


def test_refusals(tmp_path):
    good = store(tmp_path / "a.npy", picture((20, 20), "uint8"))
    (tmp_path / "cut.npy").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "cut.tif").write_bytes(store(tmp_path / "a.tif", picture((200, 200), "uint8")).read_bytes()[:300])
    np.save(tmp_path / "int.npy", np.zeros((4, 4), int))
    np.save(tmp_path / "line.npy", np.zeros(4))
    (tmp_path / "x.zarr").mkdir()
    for source, target, error, says in (
        ("missing.npy", "b.npy", FileError, "no such file"),
        ("missing.zarr", "b.npy", FileError, "no such file"),
        ("cut.npy", "b.npy", FileError, "cut.npy"),
        ("cut.tif", "b.tif", FileError, "cut.tif"),
        ("x.zarr", "b.zarr", FileError, "x.zarr"),
        ("int.npy", "b.npy", UsageError, "int.npy: picture of dtype int64"),
        ("line.npy", "b.npy", ShapeError, "line.npy"),
        ("a.npy", "b.xyz", UnsupportedError, ".zarr"),
        ("a.npy", "a.npy", UsageError, "exists already"),
    ):
        with pytest.raises(error) as caught:
            filter_large(tmp_path / source, tmp_path / target, as_kernel("blur"), Options())
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not [n for n in os.listdir(tmp_path) if n.startswith((".", "b."))]


def test_a_zarr_folder_is_a_file_to_the_user(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", image)
    store = tmp_path / "a.zarr"
    filter_files([tmp_path / "a.npy"], "identity", store)
    with pytest.raises(UsageError, match="exists already"):
        filter_files([store], "blur", store)
    filter_files([store], "blur", store, force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.zarr"]
    assert not [n for n in os.listdir(store) if "zarr" in n and n != "zarr.json"]
    filter_files([store], "identity", tmp_path / "b.npy")
    assert (np.load(tmp_path / "b.npy") == filter(image, "blur")).all()


def test_a_band_that_fails_leaves_no_file(tmp_path):
    image = store(tmp_path / "a.zarr", picture((700, 50), "uint8"))

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filter_large(image, tmp_path / "b.npy", as_kernel("blur"), Options(), progress=stop, band_bytes=1)
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_missing_parts(tmp_path, monkeypatch):
    store(tmp_path / "a.zarr", picture((20, 20), "uint8"))
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(MissingPart, match="pip install zarr"):
        filter_large(tmp_path / "a.zarr", tmp_path / "b.npy", as_kernel("blur"), Options())


da = pytest.importorskip("dask.array")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: getattr(k, "name", k))
@pytest.mark.parametrize("border", ["reflect", "circular", "constant", "replicate", "valid"])
def test_dask_is_the_whole(kernel, border):
    image = picture((90, 130, 3), "uint8", 5)
    lazy = filter(da.from_array(image, chunks=(40, 50, 2)), kernel, border, value=3 * (border == "constant"))
    assert isinstance(lazy, da.Array)
    result = lazy.compute(scheduler="synchronous")
    assert lazy.shape == result.shape
    assert lazy.dtype == result.dtype
    assert np.array_equal(result, filter(image, kernel, border, value=3 * (border == "constant")))


@pytest.mark.parametrize("shape", [(50, 60), (2, 50, 60, 2)])
@pytest.mark.parametrize("kwargs", [{"stride": 2}, {"dilation": (2, 3)}, {"dtype": "float32"}, {"anchor": (0, 2)}])
def test_dask_options(shape, kwargs):
    image = picture(shape, "uint16")
    lazy = filter(da.from_array(image, chunks=17), "gaussian:size=3", **kwargs)
    assert np.array_equal(lazy.compute(scheduler="threads"), filter(image, "gaussian:size=3", **kwargs))


def test_dask_banks_and_refusals():
    image = picture((50, 60), "float32")
    lazy = da.from_array(image, chunks=20)
    assert np.allclose(filter(lazy, ["blur", "sobel"]).compute(), filter(image, ["blur", "sobel"]), atol=1e-6)
    with pytest.raises(UsageError, match="lazy"):
        filter(lazy, "blur", out=image)
    with pytest.raises(ShapeError, match="spans"):
        filter(lazy, "blur:size=99", "valid")
    with pytest.raises(UsageError, match="int64"):
        filter(da.ones((5, 5), dtype="int64"), "blur")
    with pytest.raises(ShapeError, match="unknown"):
        filter(lazy[lazy[:, 0] > 0], "blur")


def test_two_dask_workers(tmp_path):
    """A local cluster of two worker processes does the chunks."""
    distributed = pytest.importorskip("distributed")
    image = picture((200, 150), "uint8")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        result = client.compute(filter(da.from_array(image, chunks=64), "gaussian:sigma=2")).result(timeout=120)
    assert np.array_equal(result, filter(image, "gaussian:sigma=2"))


def test_plans_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_MACHINE", "laptop-avx2")  # planned for, wherever this runs
    (plan,) = plan_file(store(tmp_path / "a.npy", picture((20, 20, 3), "uint8")), "sharpen").plans
    text = plan.explain()
    assert "5 taps as constants, 4 zeros skipped, 16-bit integers" in text
    assert "not separable: its rows are not multiples of one" in text
    assert plan.to_dict()["algorithm"] == "direct"
    tifffile.imwrite(tmp_path / "b.tif", picture((20, 20), "float32"))
    (plan,) = plan_file(tmp_path / "b.tif", "gaussian:sigma=3").plans
    assert plan.way.name == "separable"
    assert "separable: 1 pair of passes, " in plan.explain()
    with pytest.raises(ShapeError, match=r"b\.tif: kernel"):
        plan_file(tmp_path / "b.tif", "blur:size=30", border="valid")

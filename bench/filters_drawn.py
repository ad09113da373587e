"""Picture filters and convolutions of drawn cases against OpenCV, Pillow, SciPy, scikit-image, PyTorch and kornia.

    python bench/filters_drawn.py --minutes 20 --out bench/results/filters-drawn.txt [--state STATE.jsonl] [--only TEXT]

Case number i is drawn by `numpy.random.default_rng([SEED, i])`, and no case is left out or chosen: the number of cases
is the only thing that time decides. `draw` is the rule; docs/filters.md says it in words. Every measured case goes into
the file of `--state` (by default --out with .jsonl) at once, and a run that is started again goes on after the last.

Two times of dojang: of a kernel that was used before ("again"), and of one that was never used ("new": each call has
another sigma or other taps, so planning counts, and so would compiling). Peers have no such difference and have one
time, at the best of their functions. All take turns in one process; least times. A peer whose first call takes more
than `SLOW` times the best one is not timed further. Ratio: best peer / dojang, so that above 1 dojang is ahead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.ndimage as ndi
import scipy.signal
import torch
from PIL import Image, ImageFilter

import dojang
from dojang.filters.kernels.parse import Kernel
from record import head as record_head

try:
    import skimage.filters as skimage_filters
except ImportError:
    skimage_filters = None
try:
    import kornia.filters as kornia_filters
except ImportError:
    kornia_filters = None

SEED = 19
MOST_ELEMENTS = 1 << 24  # of a picture or a stack: 64 MiB of float32
MOST_WORK = (
    4e9  # products of a case if its taps are added up (a column and a row, for gaussians); else it is drawn again
)
SLOW_WORK = 4e8  # products from which on only OpenCV, Pillow and transforms run: others take minutes
SLOW = 8.0
DTYPES = ("uint8", "uint16", "float32", "float64")
Array = np.ndarray
Runner = Callable[[], Any]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is spread evenly."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw(i: int) -> dict[str, Any]:
    """Case number i: what is filtered, and by which kernel."""
    rng = np.random.default_rng([SEED, i])
    case: dict[str, Any] = {"threads": int(rng.choice([1, 2])), "number": i}
    if rng.random() < 0.1:
        n, k = int(between(rng, 1e3, 1e7)), int(between(rng, 3, 2e4))
        case |= {"what": "signal", "dtype": str(rng.choice(["float32", "float64"])), "n": n, "k": min(k, n)}
        return case
    form = str(rng.choice(["picture", "picture", "stack", "view"]))
    dtype, channels = str(rng.choice(DTYPES)), int(rng.choice([1, 1, 3, 4, int(rng.integers(2, 17))]))
    kernel = str(rng.choice(["gaussian", "gaussian", "dense", "dense", "box", "sobel"]))
    sigma, side = between(rng, 0.5, 200), int(between(rng, 3, 255)) | 1
    while True:
        height, width = (int(between(rng, 32, 32768)) for _ in range(2))
        count = int(between(rng, 2, 1000)) if form == "stack" else 1
        if form == "stack":
            height, width = min(height, 512), min(width, 512)
        elements = count * height * width * channels
        taps = {"gaussian": 2 * (2 * ceil(3 * sigma) + 1), "dense": min(side, 31) * side, "box": 4, "sobel": 6}[kernel]
        if elements <= MOST_ELEMENTS and elements * taps <= MOST_WORK:
            break
    return case | {"what": form, "dtype": dtype, "channels": channels, "height": height, "width": width, "count": count,
                   "kernel": kernel, "sigma": sigma, "side": side}  # fmt: skip


def named(case: dict[str, Any]) -> str:
    """One line for a case."""
    if case["what"] == "signal":
        return f"signal {case['n']} * {case['k']} {case['dtype']} t{case['threads']}"
    known = {"gaussian": f"gaussian {case['sigma']:.2f}", "sobel": "sobel-x"}
    kernel = known.get(case["kernel"], f"{case['kernel']} {case['side']}")
    stack = f"{case['count']}x" if case["what"] == "stack" else "view " if case["what"] == "view" else ""
    size = f"{stack}{case['height']}x{case['width']}x{case['channels']}"
    return f"{kernel} {size} {case['dtype']} t{case['threads']}"


def tensor(image: Array) -> torch.Tensor:
    """(n, c, h, w) float from (n, h, w, c)."""
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(0, 3, 1, 2)
    return x if x.dtype == torch.float64 else x.float()


def back(x: torch.Tensor, dtype: np.dtype) -> Array:
    """(n, h, w, c) of the dtype, integers rounded and saturated."""
    return rounded(x.permute(0, 2, 3, 1).contiguous().numpy(), dtype)


def rounded(x: Array, dtype: np.dtype) -> Array:
    """Of the dtype, integers rounded and saturated."""
    return np.rint(x).clip(0, np.iinfo(dtype).max).astype(dtype) if dtype.kind == "u" else x.astype(dtype, copy=False)


def image_of(case: dict[str, Any]) -> Array:
    """(n, h, w, c), or a view into a picture that is larger on every side."""
    rng = np.random.default_rng(case["number"])
    edge = 40 if case["what"] == "view" else 0
    shape = (case["count"], case["height"] + 2 * edge, case["width"] + 2 * edge, case["channels"])
    dtype = np.dtype(case["dtype"])
    if dtype.kind == "u":
        image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    else:
        image = rng.random(shape, np.float32).astype(dtype)
    return image[:, edge : edge + case["height"], edge : edge + case["width"]] if edge else image


def runners_of(case: dict[str, Any]) -> tuple[Callable[[int], Any], dict[str, Runner]]:
    """dojang for the k-th kernel of the case (0 again and again, others new), and the peers."""
    return signal_runners(case) if case["what"] == "signal" else picture_runners(case)


def signal_runners(case: dict[str, Any]) -> tuple[Callable[[int], Any], dict[str, Runner]]:
    """One axis, full convolution."""
    rng = np.random.default_rng(case["number"])
    f, g = (rng.standard_normal(n).astype(case["dtype"]) for n in (case["n"], case["k"]))
    peers: dict[str, Runner] = {
        "scipy-fft": lambda: scipy.signal.fftconvolve(f, g),
        "scipy-oa": lambda: scipy.signal.oaconvolve(f, g),
    }
    if case["n"] * case["k"] < 1e9:
        peers["numpy"] = lambda: np.convolve(f, g)
    return lambda k: dojang.convolve(f, g + k * g.dtype.type(1e-3)), peers


def picture_runners(case: dict[str, Any]) -> tuple[Callable[[int], Any], dict[str, Runner]]:
    """A picture, a stack or a view; borders reflected where the peer has them."""
    stack = image_of(case)
    dtype, c = stack.dtype, stack.shape[3]
    single = len(stack) == 1
    image = stack[0] if single else stack
    flat = [one[..., 0] if c == 1 else one for one in stack]
    kernel, threads = case["kernel"], case["threads"]
    rng = np.random.default_rng([case["number"], 1])
    n = 2 * ceil(3 * case["sigma"]) + 1 if kernel == "gaussian" else case["side"]
    taps = rng.standard_normal((n, n)) / n if kernel == "dense" else None
    line = cv2.getGaussianKernel(n, case["sigma"])[:, 0] if kernel == "gaussian" else np.full(n, 1 / n)

    def kernel_of(k: int) -> Any:
        if kernel == "gaussian":
            return f"gaussian:sigma={case['sigma'] * (1 + 1e-9 * k)!r},size={n}"
        if kernel == "dense":
            return Kernel("dense", (taps * (1 + 1e-3 * k),))
        return f"blur:size={n}" if kernel == "box" else "sobel-x"

    def mine(k: int) -> Any:
        return dojang.filter(image, kernel_of(k), threads=threads)

    kept = kernel_of(0)

    def again(k: int) -> Any:
        return dojang.filter(image, kept, threads=threads) if k == 0 else mine(k)

    def each(function: Callable[[Array], Array]) -> Runner:
        """A peer that takes one picture, on all of them."""
        return lambda: [function(one) for one in flat]

    peers: dict[str, Runner] = {}
    deep = np.float64 if dtype == np.float64 else np.float32

    def deeper(one: Array) -> Array:
        """(h, w, c) in the type of the sums."""
        return one.reshape(*one.shape[:2], c).astype(deep)

    def scipy_lines(lines: list[tuple[Array, int]]) -> Callable[[Array], Array]:
        def run(one: Array) -> Array:
            x = deeper(one)
            for weights, axis in lines:
                x = ndi.correlate1d(x, weights, axis, mode="mirror")
            return rounded(x, dtype)

        return run

    def torch_lines(matrices: list[Array]) -> Runner:
        weights = [torch.from_numpy(m.astype(deep)) for m in matrices]

        def run() -> Array:
            x = tensor(stack)
            for w in weights:
                kh, kw = w.shape
                x = torch.nn.functional.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2), "reflect")
                x = torch.nn.functional.conv2d(x, w.expand(c, 1, kh, kw), groups=c)
            return back(x, dtype)

        return run

    fits = n // 2 < min(stack.shape[1:3])  # PyTorch reflects once only
    pil = dtype == np.uint8 and single and c in (1, 3, 4) and case["what"] != "view"
    picture = Image.fromarray(image[..., 0] if c == 1 else image) if pil else None
    if kernel == "gaussian":
        peers["opencv"] = each(lambda one: cv2.GaussianBlur(one, (n, n), case["sigma"]))
        peers["opencv-sep"] = each(lambda one: cv2.sepFilter2D(one, -1, line, line))
        peers["scipy"] = each(scipy_lines([(line, 0), (line, 1)]))
        if skimage_filters is not None:
            more = {"mode": "mirror", "preserve_range": True, "truncate": 3.0, "channel_axis": 2}
            peers["skimage"] = each(
                lambda one: rounded(skimage_filters.gaussian(deeper(one), case["sigma"], **more), dtype)
            )
        if fits:
            peers["torch"] = torch_lines([line[:, None], line[None, :]])
        if kornia_filters is not None and fits:
            s = case["sigma"]
            peers["kornia"] = lambda: back(
                kornia_filters.gaussian_blur2d(tensor(stack), (n, n), (s, s), "reflect"), dtype
            )
    elif kernel == "dense":
        assert taps is not None
        peers["opencv"] = each(lambda one: cv2.filter2D(one, -1, taps.astype(deep)))
        if n <= 15:
            peers["scipy"] = each(
                lambda one: rounded(ndi.correlate(deeper(one), taps[:, :, None], mode="mirror"), dtype)
            )
            if fits:
                peers["torch"] = torch_lines([taps])
        pads = ((n // 2, n // 2), (n // 2, n // 2), (0, 0))
        turned = taps[::-1, ::-1, None].astype(deep)

        def by_blocks(one: Array) -> Array:
            padded = np.pad(deeper(one), pads, "reflect")
            return rounded(scipy.signal.oaconvolve(padded, turned, "valid", (0, 1)), dtype)

        peers["scipy-fft"] = each(by_blocks)
        if kornia_filters is not None and fits and n <= 15:
            w = torch.from_numpy(taps.astype(deep))[None]
            peers["kornia"] = lambda: back(kornia_filters.filter2d(tensor(stack), w, "reflect"), dtype)
        if picture is not None and n <= 5:
            small = ImageFilter.Kernel((n, n), taps.ravel().tolist(), scale=1)
            peers["pillow"] = lambda: np.asarray(picture.filter(small))
    elif kernel == "box":
        peers["opencv"] = each(lambda one: cv2.blur(one, (n, n)))
        peers["scipy"] = each(lambda one: rounded(ndi.uniform_filter(deeper(one), (n, n, 1), mode="mirror"), dtype))
        if fits:
            peers["torch"] = torch_lines([line[:, None], line[None, :]])
        if picture is not None:
            peers["pillow"] = lambda: np.asarray(picture.filter(ImageFilter.BoxBlur(n // 2)))
    else:
        smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
        peers["opencv"] = each(lambda one: cv2.Sobel(one, -1, 1, 0))
        peers["scipy"] = each(scipy_lines([(smooth, 0), (slope, 1)]))
        peers["torch"] = torch_lines([smooth[:, None], slope[None, :]])
    work = stack.size * (n * n if kernel == "dense" else 2 * n)
    if work > SLOW_WORK:
        peers = {name: run for name, run in peers.items() if name.startswith(("opencv", "pillow", "scipy-fft"))}
    return again, peers


def timed(run: Runner) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Least times of all, in milliseconds."""
    cv2.setNumThreads(case["threads"])
    torch.set_num_threads(case["threads"])
    mine, peers = runners_of(case)
    best: dict[str, float] = {}
    lost: dict[str, str] = {}
    with dojang_threads(case["threads"]):
        mine(0)
        mine(1)  # its code is loaded; the next kernel is new in nothing but its taps
        for name, run in peers.items():
            try:
                best[name] = timed(run)
            except Exception as error:  # a type or a number of channels that the peer does not take
                lost[name] = type(error).__name__
        quickest = min([*best.values(), timed(lambda: mine(0))])
        turns: dict[str, Runner] = {n: peers[n] for n in best if best[n] < SLOW * quickest}
        count = 1

        def new() -> Any:
            nonlocal count
            count += 1
            return mine(count)

        turns |= {"again": lambda: mine(0), "new": new}
        end, rounds = time.perf_counter() + seconds, 0
        while rounds < 3 or time.perf_counter() < end:
            for name, run in turns.items():
                best[name] = min(best.get(name, np.inf), timed(run))
            rounds += 1
            if rounds >= 2 and time.perf_counter() > end + 4 * seconds:
                break
    return {"case": named(case), "number": case["number"], "kind": f"{case['what']} {case.get('kernel', '')}".strip(),
            "dtype": case["dtype"], "ms": {n: 1e3 * t for n, t in best.items()}, "lost": lost}  # fmt: skip


def dojang_threads(threads: int) -> Any:
    """The default number of threads, for `convolve`."""
    from dojang.native.threads import limited

    return limited(threads)


def ratios(row: dict[str, Any]) -> tuple[str, float, float]:
    """The best peer, and its time over dojang's for a known and for a new kernel."""
    peers = {n: t for n, t in row["ms"].items() if n not in ("again", "new")}
    name = min(peers, key=lambda n: peers[n])
    return name, peers[name] / row["ms"]["again"], peers[name] / row["ms"]["new"]


def line_of(row: dict[str, Any]) -> str:
    """One line of the table."""
    name, again, new = ratios(row)
    times = row["ms"]
    return (
        f"{row['number']:5} {row['case']:48} {times['again']:10.3f} {times['new']:10.3f}  {name:10} "
        f"{times[name]:10.3f} {again:7.2f} {new:7.2f}"
    )


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each kind, and for all: least ratio, geometric mean, cases behind."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        _, again, new = ratios(row)
        for kind in (row["kind"], row["dtype"], "all"):
            groups.setdefault(kind, []).append((again, new))
    for kind, values in groups.items():
        again, new = (np.array(v) for v in zip(*values, strict=True))
        yield (
            f"{kind:18} {len(values):4} cases; used before: least {again.min():.2f}, geometric mean "
            f"{np.exp(np.log(again).mean()):.2f}, behind in {(again < 1).sum()}; new: least {new.min():.2f}, "
            f"geometric mean {np.exp(np.log(new).mean()):.2f}, behind by more than 1.2 in {(new < 1 / 1.2).sum()}"
        )


def main() -> None:
    """Measures cases until the time is over, and prints the table, losses included."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=0.6, help="for each case, once everybody has run")
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    parser.add_argument("--only", default="", help="cases whose line contains this")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--state", type=Path)
    args = parser.parse_args()
    state = args.state or (args.out and args.out.with_suffix(".jsonl"))
    rows: dict[int, dict[str, Any]] = {}
    if state and state.exists():
        rows = {row["number"]: row for row in map(json.loads, state.read_text().splitlines())}
    head = [
        record_head("src/dojang/filters", "src/dojang/native", "src/dojang/engine/spectral.py", threads=2,
                    extra=("opencv-python-headless", "scipy", "scikit-image", "kornia", "pillow")).rstrip(),
        f"# seed {SEED}; milliseconds, least; ratio: best peer / dojang",
        f"{'':5} {'case':48} {'again':>10} {'new':>10}  {'best peer':10} {'ms':>10} {'again':>7} {'new':>7}",
    ]  # fmt: skip
    print(*head, sep="\n", flush=True)
    end, i = time.monotonic() + 60 * args.minutes, args.first
    with torch.inference_mode():
        while time.monotonic() < end:
            case = draw(i)
            i += 1
            if case["number"] in rows or args.only not in named(case):
                continue
            row = measure(case, args.seconds)
            rows[case["number"]] = row
            print(line_of(row), flush=True)
            if state:
                state.parent.mkdir(parents=True, exist_ok=True)
                with state.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    table = [line_of(rows[n]) for n in sorted(rows)]
    found = list(summary([rows[n] for n in sorted(rows)]))
    print("", *found, sep="\n")
    if args.out:
        args.out.write_text("\n".join([*head, *table, "", *found]) + "\n")


if __name__ == "__main__":
    sys.exit(main())

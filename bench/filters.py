"""Picture filters against OpenCV, Pillow, SciPy, scikit-image, PyTorch and kornia, in turns in one process.

    python bench/filters.py --seconds 0.5 --out bench/results/filters.txt [--quick] [--only TEXT]
    python bench/filters.py ... --part 2/5         every fifth case; lines of other cases in --out stay, with --only too

Every runner takes a NumPy picture (h, w, channels) and gives one of the same dtype; PyTorch and kornia convert on the
way in and out, as a user of pictures must. Reflected borders where the peer has them. A peer that only approximates
the kernel (Pillow's GaussianBlur is made of boxes) is left out. Peers whose taps times pixels exceed --limit are
left out too: they would take minutes. OpenCV runs every case. Ratio: best peer / dojang, of least times, which other
work on the machine disturbs least; of medians beside it. Small pictures are timed in bursts (`peers.in_bursts`).
`copy` is numpy.copy of the picture.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import kornia
import numpy as np
import scipy.ndimage as ndi
import skimage.filters
import torch
from PIL import Image, ImageFilter

from dojang.filters.files import filter_files
from dojang.filters.filter import filter as press
from dojang.filters.kernels.parse import Kernel, named
from peers import Runner, in_bursts, interleaved, spread
from record import head as record_head

SIZES = (3, 5, 7, 11, 15, 31, 63)
SHAPES = ((2160, 3840), (512, 512))
SMALL = 1 << 21  # elements
WIDTH = 32


def back(x: torch.Tensor, dtype: np.dtype) -> np.ndarray:
    """(1, c, h, w) to (h, w, c) of the dtype, integers rounded and saturated."""
    if dtype == np.uint8:
        x = x.round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def saturated(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(x).clip(0, 255).astype(np.uint8) if dtype == np.uint8 else x.astype(dtype)


def cases(image: np.ndarray) -> Iterator[tuple[str, int, dict[str, Runner], int]]:
    """(name, taps that a naive peer multiplies for each element, runners, largest share of the limit)."""
    rng = np.random.default_rng(0)
    c, dtype = image.shape[2], image.dtype
    pil = Image.fromarray(image[..., 0] if c == 1 else image) if dtype == np.uint8 else None

    def conv(weights: list[torch.Tensor]) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            x = tensor(image)
            for w in weights:
                kh, kw = w.shape
                x = torch.nn.functional.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2), "reflect")
                x = torch.nn.functional.conv2d(x, w.expand(c, 1, kh, kw), groups=c)
            return back(x, dtype)

        return run

    for k in SIZES:
        taps = rng.standard_normal((k, k)) / k
        mine, single = Kernel(f"dense {k}", (taps,)), torch.tensor(taps, dtype=torch.float32)
        deep = taps[:, :, None]
        runners: dict[str, Runner] = {
            "dojang": lambda mine=mine: press(image, mine),
            "opencv": lambda taps=taps: cv2.filter2D(image, -1, taps.astype(np.float32)),
            "scipy": lambda deep=deep: saturated(ndi.correlate(image.astype("f4"), deep, mode="mirror"), dtype),
            "torch": conv([single]),
            "kornia": lambda s=single: back(kornia.filters.filter2d(tensor(image), s[None], "reflect"), dtype),
        }
        if pil is not None and k <= 5:
            kernel = ImageFilter.Kernel((k, k), taps.ravel().tolist(), scale=1)
            runners["pillow"] = lambda kernel=kernel: np.asarray(pil.filter(kernel))
        yield f"dense {k}", k * k, runners, 1
    for k in SIZES:
        sigma = 0.3 * ((k - 1) * 0.5 - 1) + 0.8
        column = cv2.getGaussianKernel(k, sigma)
        mine = Kernel(f"gaussian {k}", (column @ column.T,))
        line = torch.tensor(column[:, 0], dtype=torch.float32)
        runners = {
            "dojang": lambda mine=mine: press(image, mine),
            "opencv": lambda k=k, s=sigma: cv2.GaussianBlur(image, (k, k), s),
            "opencv-sep": lambda column=column: cv2.sepFilter2D(image, -1, column, column),
            "scipy": lambda k=k, s=sigma: saturated(
                ndi.gaussian_filter(image.astype("f4"), s, mode="mirror", radius=(k // 2, k // 2, 0)), dtype
            ),
            "skimage": lambda k=k, s=sigma: saturated(
                skimage.filters.gaussian(
                    image, s, mode="mirror", preserve_range=True, truncate=(k // 2) / s, channel_axis=2
                ),
                dtype,
            ),
            "torch": conv([line[:, None], line[None, :]]),
            "kornia": lambda k=k, s=sigma: back(
                kornia.filters.gaussian_blur2d(tensor(image), (k, k), (s, s), "reflect"), dtype
            ),
        }
        yield f"gaussian {k}", 2 * k, runners, 4
    for k in SIZES:
        mine, ones = named("blur", size=k), torch.full((k,), 1.0 / k)
        runners = {
            "dojang": lambda mine=mine: press(image, mine),
            "opencv": lambda k=k: cv2.blur(image, (k, k)),
            "scipy": lambda k=k: saturated(ndi.uniform_filter(image.astype("f4"), (k, k, 1), mode="mirror"), dtype),
            "torch": conv([ones[:, None], ones[None, :]]),
            "kornia": lambda k=k: back(kornia.filters.box_blur(tensor(image), (k, k), "reflect", True), dtype),
        }
        if pil is not None:
            runners["pillow"] = lambda k=k: np.asarray(pil.filter(ImageFilter.BoxBlur(k // 2)))
        yield f"box {k}", 2 * k, runners, 4
    mine = named("sobel-x")
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    yield (
        "sobel-x",
        6,
        {
            "dojang": lambda: press(image, mine),
            "opencv": lambda: cv2.Sobel(image, -1, 1, 0),
            "scipy": lambda: saturated(
                ndi.correlate1d(ndi.correlate1d(image.astype("f4"), [1, 2, 1], 0, mode="mirror"), [-1, 0, 1], 1), dtype
            ),
            "torch": conv([smooth[:, None], slope[None, :]]),
        },
        4,
    )


def command(seconds: float) -> list[str]:
    """The whole command on a 12-megapixel JPEG against decoding and encoding alone.

    Two measures: what is encoded alone is the photograph itself, or the filtered picture, which has as many details
    to encode as the command's own.
    """
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (3000, 4000, 3), dtype=np.uint8), (0, 0), 2)
    kernels = ("sharpen", "gaussian:sigma=3", "blur:size=31", "sobel")
    with tempfile.TemporaryDirectory() as folder:
        source, copy, out = (os.path.join(folder, name) for name in ("photo.jpg", "copy.jpg", "out.jpg"))
        Image.fromarray(cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)).save(source, quality=90)
        with Image.open(source) as image:
            tables, photo = image.quantization, image.convert("RGB")

        def codec(picture: Image.Image) -> Runner:
            def run() -> None:
                with Image.open(source) as image:
                    image.load()
                picture.save(copy, qtables=tables)

            return run

        runners = {"codec": codec(photo)}
        for kernel in kernels:
            runners[kernel] = lambda kernel=kernel: filter_files([source], kernel, out, force=True)
            runners[f"codec {kernel}"] = codec(Image.fromarray(press(np.asarray(photo), kernel)))
        times = interleaved(runners, seconds)
        anew = interleaved(processes(source, out, copy), seconds)
    base = spread(times["codec"])
    lines = [f"12-megapixel JPEG: decode and encode alone {1e3 * base[0]:.0f} ms (median {1e3 * base[1]:.0f})"]
    for kernel in kernels:
        (least, median, _), own = spread(times[kernel]), spread(times[f"codec {kernel}"])
        lines.append(
            f"  dojang filter --kernel {kernel:18} {1e3 * least:6.0f} ms  ratio {least / base[0]:.2f} "
            f"(medians {median / base[1]:.2f}); to encoding its result {least / own[0]:.2f} ({median / own[1]:.2f})"
        )
    (alone, middle, _), (whole, median, _) = spread(anew["pillow"]), spread(anew["dojang"])
    lines.append(
        f"12-megapixel JPEG, a new process each time: sharpen {1e3 * whole:.0f} ms (median {1e3 * median:.0f}), Python "
        f"and Pillow decoding and encoding alone {1e3 * alone:.0f} ms ({1e3 * middle:.0f}), ratio {whole / alone:.2f} "
        f"({median / middle:.2f})"
    )
    return lines


def processes(source: str, out: str, copy: str) -> dict[str, Runner]:
    """The command from the start of Python to its end, and a program that only decodes and encodes the same."""
    decode = "import sys; from PIL import Image; image = Image.open(sys.argv[1]); image.load(); "
    encode = "image.save(sys.argv[2], qtables=image.quantization)"
    # As installed: compiled modules are on disk.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = os.path.join(os.path.dirname(source), "compiled")

    def run(*words: str) -> Runner:
        return lambda: subprocess.run([sys.executable, *words], check=True, env=env, stdout=subprocess.DEVNULL)

    return {
        "dojang": run("-m", "dojang", "filter", source, "--kernel", "sharpen", "-o", out, "--force"),
        "pillow": run("-c", decode + encode, source, copy),
    }


def line_of(label: str, runners: dict[str, Runner], image: np.ndarray, seconds: float) -> str:
    """One line of the table."""
    # Small pictures in bursts: PyTorch's idle threads spin for longer than a peer's turn, on the core it wants.
    taken = interleaved if image.size > SMALL else in_bursts
    times = taken({**runners, "copy": image.copy}, seconds)
    found = {k: spread(v) for k, v in times.items()}
    mine, copy = found.pop("dojang"), found.pop("copy")
    best = min(found, key=lambda k: found[k][0])
    medians = min(v[1] for v in found.values()) / mine[1]
    return (
        f"{label:{WIDTH}} {1e3 * mine[0]:9.3f} {1e3 * mine[1]:9.3f} {1e3 * copy[0]:8.3f}  "
        f"{best:12} {1e3 * found[best][0]:9.3f} {found[best][0] / mine[0]:6.2f} {medians:6.2f}"
    )


def labels() -> Iterator[tuple[str, tuple[int, int], int, str]]:
    """The pictures: the beginning of their cases' lines, (height, width), channels, dtype."""
    for height, width in SHAPES:
        for channels in (1, 3, 4):
            for dtype in ("uint8", "float32"):
                yield f"{width}x{height} {channels} {dtype}", (height, width), channels, dtype


def summary(rows: dict[str, str]) -> list[str]:
    """For each kind of kernel how it stands to the best peer, and 3x3 kernels to a copy, from the table's lines."""
    ratios: dict[str, list[tuple[float, float]]] = {}
    copies = []
    for label, line in rows.items():
        size, channels, dtype, kind, *rest = label.split()
        mine, _, copy, _, _, *both = line[WIDTH:].split()
        ratios.setdefault(f"{dtype} {kind}", []).append((float(both[0]), float(both[1])))
        if channels == "3" and dtype == "uint8" and rest in ([], ["3"]):
            copies.append(f"{kind} {float(mine) / float(copy):.1f} at {size}")
    lines = []
    for kind, values in ratios.items():
        least, medians = (np.array(v) for v in zip(*values, strict=True))
        mean, behind, by_medians = np.exp(np.log(least).mean()), sum(least < 1), sum(medians < 1)
        lines.append(
            f"{kind:18} {len(values):3} cases: least ratio {least.min():.2f} (of medians {medians.min():.2f}), "
            f"geometric mean {mean:.2f}; behind in {behind} (by medians {by_medians})"
        )
    if copies:
        lines.append(f"3x3 on uint8 RGB, in times of numpy.copy (one thread): {', '.join(copies)}")
    return lines


def main() -> None:
    """Runs the cases, or a part of them, and prints the table, losses included."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case")
    parser.add_argument("--limit", type=float, default=1.5e9, help="taps times elements that a slow peer may take on")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="512x512 only")
    parser.add_argument(
        "--only", default="", help="cases whose line begins with this, e.g. '512x512 3 uint8 box'; or jpeg"
    )
    parser.add_argument("--part", default="1/1", help="K/N: every N-th case from the K-th; --out keeps those of others")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    part, parts = (int(v) for v in args.part.split("/"))
    conditions = f"# {args.threads} threads, limit {args.limit:.0e}; milliseconds, least and median; peers' least"
    rows: dict[str, str] = {}
    whole: list[str] = []  # the lines on the whole command
    if args.out and (parts > 1 or args.only) and args.out.exists():
        earlier = args.out.read_text().splitlines()
        if conditions not in earlier:
            sys.exit(f"{args.out} holds other measurements than {conditions[2:]!r}: name another file for --out")
        heads = tuple(head for head, *_ in labels())
        rows = {line[:WIDTH].strip(): line for line in earlier if line.startswith(heads)}
        whole = [line for line in earlier if line.startswith(("12-megapixel", "  dojang filter"))]
    head = [
        record_head(
            *("src/dojang/filters", "src/dojang/native"),
            threads=args.threads,
            extra=("opencv-python-headless", "kornia"),
        ).rstrip(),
        conditions,
        f"{'case':{WIDTH}} {'dojang':>9} {'median':>9} {'copy':>8}  {'best peer':12} {'ms':>9} {'ratio':>6} "
        f"{'median':>6}",
    ]
    print(*head, sep="\n", flush=True)
    rng, count, order = np.random.default_rng(1), 0, []

    def write() -> None:
        if args.out:  # after each line, so that a run that is stopped loses nothing
            args.out.parent.mkdir(parents=True, exist_ok=True)
            kept = {label: rows[label] for label in (order if parts > 1 else rows) if label in rows}
            kept = {**kept, **rows} if len(kept) < len(rows) else kept
            args.out.write_text("\n".join([*head, *kept.values(), "", *summary(kept), *whole]) + "\n")

    with torch.inference_mode():
        for start, (height, width), channels, dtype in labels():
            if (args.quick and height > 512) or not (start.startswith(args.only) or args.only.startswith(start)):
                continue
            image = rng.integers(0, 256, (height, width, channels)).astype(dtype)
            for name, taps, runners, share in cases(image):
                label = f"{start} {name}"
                if not label.startswith(args.only):
                    continue
                order.append(label)
                count += 1
                if (count - part) % parts:
                    continue
                if taps * image.size > args.limit / share:
                    runners = {k: r for k, r in runners.items() if k in ("dojang", "opencv", "opencv-sep")}
                rows[label] = line_of(label, runners, image, args.seconds)
                print(rows[label], flush=True)
                write()
    if (not args.only and part == parts) or args.only == "jpeg":
        whole = command(8 * args.seconds)
    write()
    print("", *(summary(rows) if rows else []), *whole, sep="\n")


if __name__ == "__main__":
    main()

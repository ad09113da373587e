"""ResNet-50 at 224 pixels with 1,000 pictures: slimmed at once, and diagnosed; time, processor time and memory.

    python bench/slim_scale.py --out bench/results/slim_scale.txt

Needs torchvision. Weights are drawn at random and batch norms measured on some of the pictures, which are smooth noise:
how long it takes does not depend on what the network knows. Each job runs in a process of its own; its peak of memory
is that of the whole process, with PyTorch, torchvision and the 602 MB of pictures in float32. Processor time adds up
all threads: on a quiet machine it is at most the wall time times the threads, on a busy one the wall time says nothing.
--jobs chooses among jobs, --looked-at how many pictures `diagnose` looks at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import head

JOBS = ("slim", "slim-command", "diagnose")
MEASURES = (
    "src/dojang/app/own.py",
    "src/dojang/app/own_search.py",
    "src/dojang/app/own_candidates.py",
    "src/dojang/app/shortening.py",
    "src/dojang/app/diagnosing.py",
    "src/dojang/diagnosis",
    "src/dojang/evidence",
    "src/dojang/slimming/oneshot.py",
    "src/dojang/training/observed.py",
)


def network() -> Any:
    """ResNet-50 with batch norms as a trained one has them: of the statistics of what they read."""
    import torch
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.resnet50(weights=None)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
    with torch.no_grad():
        module.train()(torch.from_numpy(pictures(8, 1)))
    for norm in norms:
        norm.momentum = 0.1
    return module.eval()


def pictures(count: int, seed: int = 0, size: int = 224) -> Any:
    """Smooth noise (count, 3, size, size) in float32."""
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, size // 14, size // 14), np.float32)
    return coarse.repeat(14, axis=2).repeat(14, axis=3) + 0.3 * rng.standard_normal((1, 3, size, size), np.float32)


class Told:
    """Keeps when each stage began."""

    def __init__(self) -> None:
        self.began = time.monotonic(), time.process_time()
        self.stages: list[tuple[str, float, float]] = []

    def stage(self, name: str, total: int | None = None) -> None:
        del total
        now = time.monotonic() - self.began[0], time.process_time() - self.began[1]
        self.stages.append((name, *now))
        sys.stderr.write(f"{now[0]:7.1f} s {now[1]:7.1f} s of processor  {name}\n")

    def step(self, done: int, total: int | None = None, remark: str = "") -> None:
        pass


def job(name: str, count: int, looked_at: int) -> dict[str, Any]:
    """One job in this process."""
    import resource

    import torch

    import dojang

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    module, told = network(), Told()
    said: dict[str, Any] = {}
    if name == "slim":
        done = dojang.slim(module, pictures(count), target_macs=0.5, progress=told)
        said = {"macs": done.after.macs / done.before.macs, "notes": done.notes}
    else:
        found = dojang.diagnose(module, pictures(count), input_size=(3, 224, 224), samples=looked_at, progress=told)
        said = {"findings": len(found.findings), "notes": found.notes}
    told.stage("end")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, wall, processor = told.stages[-1]
    return {**said, "wall": wall, "processor": processor, "peak": peak, "stages": told.stages}


def command(count: int, folder: Path) -> dict[str, Any]:
    """`dojang slim` on an .npy and code, as a process; its peak is that of all children so far."""
    import resource

    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", pictures(count))
    line = [
        sys.executable, "-m", "dojang", "slim", f"{Path(__file__).resolve()}:network", "--data",
        str(folder / "pictures.npy"), "--target-macs", "0.5", "--input-size", "3,224,224", "-o", str(folder / "slim"),
        "--force", "--json",
    ]  # fmt: skip
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run(line, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path()})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(answer.stdout)["result"]
    return {
        "macs": result["after"]["macs"] / result["before"]["macs"], "notes": result["notes"], "stages": [],
        "wall": time.monotonic() - began, "peak": after.ru_maxrss * 1024,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }  # fmt: skip


def path() -> str:
    """Where children find this folder and the package."""
    here = Path(__file__).parent
    return os.pathsep.join([str(here.parent / "src"), str(here), os.environ.get("PYTHONPATH", "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--looked-at", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path("out/slim_scale"))
    parser.add_argument("--one", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(job(args.one, args.pictures, args.looked_at)))
        return
    lines: list[str] = []
    for name in args.jobs:
        if name == "slim-command":
            found = command(args.pictures, args.folder)
        else:
            more = ["--one", name, "--pictures", str(args.pictures), "--looked-at", str(args.looked_at)]
            done = subprocess.run(
                [sys.executable, __file__, *more], check=True, stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path()},
            )  # fmt: skip
            found = json.loads(done.stdout.decode().splitlines()[-1])
        what = f"{found['macs']:.3f} of the MACs" if "macs" in found else f"{found['findings']} findings"
        of = f", {args.looked_at} looked at" if name == "diagnose" else ""
        lines.append(
            f"{name}: {args.pictures} pictures{of}: {found['wall']:.1f} s, {found['processor']:.1f} s of processor "
            f"time, peak {found['peak'] / 1e9:.2f} GB: {what}"
        )
        lines += [
            f"  {wall:7.1f} s  {processor:7.1f} s of processor  {stage}" for stage, wall, processor in found["stages"]
        ]
        lines += [f"  note: {note}" for note in found["notes"]]
        print("\n".join(lines[-30:]), flush=True)
    if args.out:
        args.out.write_text("\n".join([head(*MEASURES, extra=("torchvision",)), "", *lines, ""]))


if __name__ == "__main__":
    main()

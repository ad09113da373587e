"""Hundreds of architectures that people use: read, counted, run, compared. One process each, a JSON line each.

    python bench/sweep.py --list > bench/sweep_networks.txt           # by rule, from what is installed
    python bench/sweep.py --level count --lines /tmp/sweep.jsonl      # goes on where it stopped
    python bench/sweep.py --level run --every 4 --lines /tmp/run.jsonl
    python bench/sweep.py --report --lines /tmp/sweep.jsonl /tmp/run.jsonl > bench/results/sweep.txt

It needs packages that the project does not install: torchvision, timm, segmentation-models-pytorch, ultralytics,
fvcore, torchinfo, facenet-pytorch; make an environment of its own and start this file with its Python.

With --quick FlopCounterMode is the only witness of counts, on the meta device, and at level `count` modules have no
numbers: two seconds a network. With --shuffle the order is random, one network of each family before a second of any.

Levels, each with those before: `count` (MACs and parameters against FlopCounterMode, fvcore and `parameters()`;
the module must be as it was; seconds against torchinfo's), `run` (answers against float64, batch 2; steps in Python),
`time` (processor time of one thread against ONNX Runtime and PyTorch, in turns).

An answer is right if its largest error, over the largest value, is at most 1e-4, or eight times what PyTorch's own
float32 has. Three rules lead from FlopCounterMode to dojang's count (`sweep_flops.py`): products that it leaves out are
added; what depends on parameters only, and what no output needs, is left out.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NETWORKS = HERE / "sweep_networks.txt"
LEVELS = ("count", "run", "time")


def measure(name: str, level: str, quick: bool = False) -> dict[str, Any]:
    """Everything about one network."""
    import torch

    import dojang
    from dojang.formats.torch import from_module
    from sweep_build import build, quiet, randomise

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    found: dict[str, Any] = {"name": name, "level": level, "stage": "build"}
    module, sizes = build(name, numbers=not quick or level != "count")
    if level != "count":
        randomise(module, sizes)
    size: Any = sizes[0] if len(sizes) == 1 else sizes
    found |= {"sizes": [list(s) for s in sizes], "stage": "load"}
    found["parameters"] = sum(p.numel() for p in module.parameters())
    before = _state(module)
    try:
        start = time.perf_counter()
        with quiet():
            graph = from_module(module, size, weights=level != "count")
        found["load_s"] = time.perf_counter() - start
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        if not isinstance(error, dojang.DojangError):
            found["trace"] = traceback.format_exc()[-1500:]
        graph = None
    found["changed"] = _differs(before, _state(module))
    if graph is not None:
        found["stage"] = "count"
        _count(found, graph)
    _witnesses(found, module, sizes, quick)
    if graph is not None and level != "count" and not found["unknown"]:
        found["stage"] = "run"
        _run(found, graph, module, sizes, level == "time")
    found["stage"] = "done"
    return found


def _state(module: Any) -> dict[str, Any]:
    """What a module holds, to tell whether it was changed."""
    state: dict[str, Any] = {}
    for path, m in module.named_modules():
        for key, value in m.__dict__.items():
            if key in ("_parameters", "_buffers"):
                for inner, tensor in value.items():
                    if tensor is not None:
                        state[f"{path}.{inner}"] = (id(tensor), tensor._version)
            elif key != "_modules":
                state[f"{path}.{key}"] = id(value)
    return state


def _differs(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first name that is not as it was; "" where all are."""
    return next((k for k in {**before, **after} if before.get(k) != after.get(k)), "")


def _count(found: dict[str, Any], graph: Any) -> None:
    from dojang.arith.cost import count

    counted = count(graph)
    found["macs"] = counted.total.macs
    found["stored"] = counted.parameters.stored
    found["unknown"] = list(counted.total.unknown)[:40]
    found["unknown_nodes"] = sum(n.op == "unknown" for n in graph.nodes)


def _witnesses(found: dict[str, Any], module: Any, sizes: Any, fast: bool) -> None:
    import copy

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from sweep_build import quiet
    from sweep_flops import Products

    inputs = [torch.zeros(1, *s) for s in sizes]
    for device in ("meta", "cpu") if fast else ("cpu",):
        try:
            here = module if device == "cpu" else copy.deepcopy(module).to("meta")
            here.requires_grad_(False)
            given = [x.to(device) for x in inputs]
            with torch.no_grad(), quiet(), sdpa_kernel(SDPBackend.MATH), Products(given) as products:
                products.end(here(*given))
            found |= products.counted()
            break
        except Exception as error:
            found["flopcounter_error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if fast:
        return
    try:
        from torchinfo import summary

        start = time.perf_counter()
        with quiet():
            summary(module, input_data=inputs, verbose=0)
        found["torchinfo_s"] = time.perf_counter() - start
    except Exception as error:
        found["torchinfo_error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    try:
        import logging

        from fvcore.nn import FlopCountAnalysis

        logging.disable(logging.WARNING)
        with torch.no_grad(), quiet():
            analysis = FlopCountAnalysis(module, tuple(inputs)).unsupported_ops_warnings(False)
            by = analysis.by_operator()
        products = ("conv", "addmm", "linear", "matmul", "bmm", "baddbmm", "einsum")
        found["fvcore"] = int(sum(by.get(p, 0) for p in products))
        found["fvcore_skips"] = dict(analysis.unsupported_ops())
    except Exception as error:
        found["fvcore_error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _run(found: dict[str, Any], graph: Any, module: Any, sizes: Any, timed: bool) -> None:
    import copy

    import numpy as np
    import torch
    from torch.utils._pytree import tree_leaves

    from dojang.base.errors import DojangError
    from dojang.engine.compiled import compile
    from dojang.formats.torch.tensors import tensors_in
    from sweep_build import quiet

    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((2, *s), np.float32) for s in sizes]
    with torch.no_grad(), quiet():
        plain = [v.numpy() for v in tensors_in(module(*[torch.from_numpy(a) for a in arrays]))]
        try:
            wide = copy.deepcopy(module).double()
            exact = [v.numpy() for v in tensors_in(wide(*[torch.from_numpy(a).double() for a in arrays]))]
            found["oracle"] = "float64"
        except Exception as error:
            exact, found["oracle"] = plain, f"float32 ({type(error).__name__}: {error})"[:200]
    del tree_leaves
    try:
        start = time.perf_counter()
        compiled = compile(graph, threads=1)
        outputs = compiled.run(dict(zip([n.name for n in graph.inputs], arrays, strict=True))).outputs
        found["compile_s"] = time.perf_counter() - start
        plan = compiled.plan(batch=2)
    except DojangError as error:
        found["run_error"] = str(error)[:300]
        return
    found["steps"] = len(plan.choices)
    python = collections.Counter(c.op for c in plan.choices if c.algorithm == "reference")
    found["python"] = dict(python)
    found["python_steps"] = list(plan.in_python)[:30]
    errors, own = [], []
    found["outputs"] = len(exact)
    if len(outputs) != len(exact) or any(
        tuple(o.shape) != tuple(e.shape) for o, e in zip(outputs, exact, strict=False)
    ):
        found["run_error"] = f"outputs {[o.shape for o in outputs]} for {[e.shape for e in exact]}"[:300]
        return
    for got, one, true in zip(outputs, plain, exact, strict=True):
        scale = max(1e-6, float(np.abs(true).max())) if true.size else 1.0
        errors.append(float(np.abs(got - true).max()) / scale if true.size else 0.0)
        own.append(float(np.abs(one - true).max()) / scale if true.size else 0.0)
    found["errors"], found["torch_errors"] = errors, own
    found["right"] = all(e <= max(1e-4, 8 * o) for e, o in zip(errors, own, strict=True))
    if timed:
        _time(found, graph, module, compiled, arrays)


def _time(found: dict[str, Any], graph: Any, module: Any, compiled: Any, arrays: Any) -> None:
    """Milliseconds of one picture, on one thread: the processor time of the least of calls in turns."""
    import torch

    from dojang.formats import onnx as onnx_format
    from peers import onnx_runner

    one = [a[:1] for a in arrays]
    x = one[0] if len(one) == 1 else dict(zip([n.name for n in graph.inputs], one, strict=True))
    runners: dict[str, Any] = {"dojang": lambda: compiled.run(x)}
    given = [torch.from_numpy(a) for a in one]

    def eager() -> Any:
        with torch.inference_mode():
            return module(*given)

    runners["torch"] = eager
    try:
        fed = dict(zip([n.name for n in graph.inputs], one, strict=True))
        runners["ort"] = onnx_runner(onnx_format.to_bytes(graph), fed, 1)
    except Exception as error:
        found["ort_error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    found["ms"] = {name: 1e3 * seconds for name, seconds in _processor_seconds(runners).items()}


def _processor_seconds(runners: dict[str, Any], turns: int = 12, seconds: float = 0.05) -> dict[str, float]:
    """The processor time of the fastest call of each, which is the same where other programs run beside it, as far as
    they leave it the caches. Turns of about `seconds` each, the first call of a turn not counted."""
    least = dict.fromkeys(runners, float("inf"))
    for _ in range(turns):
        for name, run in runners.items():
            run()
            begun = time.process_time()
            while True:
                before = time.process_time()
                run()
                now = time.process_time()
                least[name] = min(least[name], now - before)
                if now - begun > seconds:
                    break
    return least


# -- many -----------------------------------------------------------------------------------------------------------


def one_process(name: str, level: str, seconds: float, gigabytes: float, quick: bool) -> dict[str, Any]:
    """`measure` in a process of its own, within limits. It is a copy of this one, which has imported all packages."""
    start = time.perf_counter()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)
        try:
            found = measure(name, level, quick)
        except BaseException as error:
            found = {"died": f"{type(error).__name__}: {error}"[:300], "trace": traceback.format_exc()[-1500:]}
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps(found))
        os._exit(0)
    os.close(writing)
    found, text = {}, b""
    with os.fdopen(reading, "rb") as file:
        while not found:
            left = start + seconds - time.perf_counter()
            if left <= 0 or not select.select([file], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                found = {"died": f"took more than {seconds:g} s"}
                break
            part = os.read(file.fileno(), 1 << 16)
            text += part
            if not part:
                found = json.loads(text) if text else {"died": "killed"}
    _, status = os.waitpid(child, 0)
    if found.get("died") == "killed":
        found["died"] = f"killed by signal {os.WTERMSIG(status)}"
    return {"name": name, "level": level, **found, "wall_s": round(time.perf_counter() - start, 2)}


def import_all() -> None:
    """The packages of the sweep, once for all processes."""
    os.environ |= {"YOLO_VERBOSE": "False", "HF_HUB_OFFLINE": "1"}
    from importlib import import_module

    from sweep_build import quiet

    with quiet():
        for package in ("torch", "timm", "torchvision", "segmentation_models_pytorch", "ultralytics.nn.tasks",
                        "fvcore.nn", "torchinfo", "dojang.engine.compiled", "dojang.formats.torch"):  # fmt: skip
            import_module(package)


def sweep(names: list[str], args: argparse.Namespace) -> None:
    """Those that the file of lines does not have yet."""
    out = args.lines[0]
    done = {row["name"] for row in rows([out]) if LEVELS.index(row["level"]) >= LEVELS.index(args.level)}
    todo = [n for n in names if n not in done]
    import_all()
    for i, name in enumerate(todo, 1):
        found = one_process(name, args.level, args.seconds, args.gigabytes, args.quick)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{i}/{len(todo)} {name}: {verdict(found)}  {found['wall_s']:.1f} s", file=sys.stderr, flush=True)


def by_family(names: list[str], seed: int) -> list[str]:
    """One network of each family (the letters that a name begins with) in random order, then a second of each …"""
    families: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        package, _, rest = name.partition("/")
        families[package + re.sub(r"[^A-Za-z].*", "", rest)].append(name)
    draw = random.Random(seed)
    order: list[str] = []
    for i in range(max(map(len, families.values()), default=0)):
        turn = [family[i] for family in families.values() if i < len(family)]
        draw.shuffle(turn)
        order += turn
    return order


def rows(paths: list[Path]) -> list[dict[str, Any]]:
    """The last line of each network, over all files in order."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                found[row["name"]] = row
    return list(found.values())


def counted_exactly(row: dict[str, Any]) -> bool:
    """Whether MACs and parameters are known, and are what the witnesses say."""
    return (
        row.get("macs") is not None
        and not row.get("unknown")
        and row.get("stored") == row.get("parameters")
        and row["macs"] in _truths(row)
    )


def _truths(row: dict[str, Any]) -> tuple[int, ...]:
    """What FlopCounterMode says, after the rules; fvcore where it is the only one."""
    if "flopcounter" in row:
        most = row["flopcounter"] + sum(row["added"].values()) - row.get("unneeded", 0)
        return most, most - row.get("constant", 0)
    return (row["fvcore"],) if "fvcore" in row else ()


def verdict(row: dict[str, Any]) -> str:
    """What became of a network, in words."""
    if "died" in row:
        return f"died: {row['died']}"
    if row.get("stage") == "build" or row.get("macs") is None:
        return f"not read: {row.get('error', '?')}"
    if row.get("unknown"):
        kinds = collections.Counter(u.rpartition("(")[2].rstrip(")") for u in row["unknown"])
        return f"lower bound: {', '.join(f'{k} {n}' for k, n in kinds.most_common(6))}"
    if row["macs"] not in _truths(row):
        more = f"{row.get('added')} − {row.get('constant')} − {row.get('unneeded')}, fvcore {row.get('fvcore')}"
        return f"MACs {row['macs']:,}, FlopCounterMode {row.get('flopcounter', -1):,} + {more}"
    if row.get("stored") != row.get("parameters"):
        return f"parameters {row['stored']:,}, not {row['parameters']:,}"
    if row.get("changed"):
        return f"exact, but the module was changed: {row['changed']}"
    if row["level"] == "count":
        return "exact"
    if row.get("run_error"):
        return f"exact, not run: {row['run_error']}"
    if not row.get("right"):
        return f"wrong by {max(row.get('errors') or [-1]):.2g} (PyTorch {max(row.get('torch_errors') or [-1]):.2g})"
    return f"right, in Python: {row['python']}" if row["python"] else "right, all native"


def report(args: argparse.Namespace) -> None:
    """Counts, and what fails with its reason."""
    from record import head

    found = rows(args.lines)
    measures = ("src/dojang/arith", "src/dojang/engine", "src/dojang/formats/torch", "src/dojang/native")
    print(head(*measures, peaks=False, extra=("torchvision", "timm", "segmentation-models-pytorch", "ultralytics")))
    ran = [r for r in found if r["level"] != "count" and "right" in r]
    read = [r for r in found if r.get("macs") is not None]
    exact = [r for r in found if counted_exactly(r)]
    listed = len(NETWORKS.read_text(encoding="utf-8").split())
    print(f"{len(found):4} networks of the {listed} listed")
    print(f"{len(read):4} read")
    print(f"{len(exact):4} counted exactly ({len(exact) / max(1, len(found)):.1%})")
    print(f"{sum(bool(r.get('changed')) for r in read):4} modules changed by reading")
    both = [r for r in read if "torchinfo_s" in r and "load_s" in r]
    slow = [r for r in both if r["load_s"] > r["torchinfo_s"]]
    print(f"{len(slow):4} of the {len(both)} timed take longer to read than torchinfo takes")
    agree = sum(r.get("fvcore") == r["macs"] for r in exact)
    print(f"{agree:4} of the {sum('fvcore' in r for r in exact)} that fvcore counted too, it counts the same")
    print(f"{len(ran):4} run")
    print(f"{sum(r['right'] for r in ran):4} right")
    native = [r for r in ran if not r["python"]]
    print(f"{len(native):4} wholly native ({len(native) / max(1, len(ran)):.1%})")
    for title, chosen in (
        (
            "not exact, or not right",
            [r for r in found if not counted_exactly(r) or r.get("right") is False or r.get("run_error")],
        ),
        ("steps in Python", [r for r in ran if r["python"]]),
        ("slower to read than torchinfo", slow),
    ):
        if chosen:
            print(f"\n{title}:")
        for r in chosen:
            more = f"{r['load_s']:.2f} s, torchinfo {r['torchinfo_s']:.2f} s" if chosen is slow else verdict(r)
            print(f"  {r['name']}: {more}")
    timed = [r for r in ran if r.get("ms", {}).get("ort")]
    if timed:
        from math import exp, log

        ratios = [r["ms"]["ort"] / r["ms"]["dojang"] for r in timed]
        mean, ahead = exp(sum(map(log, ratios)) / len(ratios)), sum(x >= 1 for x in ratios)
        share = f"{ahead} at or above 1 ({ahead / len(timed):.1%})"
        print(f"\n{len(timed)} timed; ONNX Runtime / dojang: geometric mean {mean:.2f}, {share}")
        for r, ratio in sorted(zip(timed, ratios, strict=True), key=lambda pair: pair[1]):
            if ratio < 1:
                ms = r["ms"]
                print(f"  {r['name']}: {ratio:.2f} ({ms['dojang']:.2f} ms, ONNX Runtime {ms['ort']:.2f} ms)")


def main() -> None:
    """Does what the command line says."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help="names, or parts of names; all where there are none")
    p.add_argument("--list", action="store_true", help="the names, by rule, from what is installed")
    p.add_argument("--one", help="this network, here, as a JSON line")
    p.add_argument("--level", choices=LEVELS, default="count")
    p.add_argument("--lines", type=Path, nargs="+", help="where results are kept; the first is added to")
    p.add_argument("--report", action="store_true")
    p.add_argument("--every", type=int, default=1, help="only every n-th network of the list")
    p.add_argument("--shuffle", type=int, help="a random order from this seed, families in turn")
    p.add_argument("--part", default="0/1", help="i/n: the i-th of n processes that share the list")
    p.add_argument("--quick", action="store_true", help="FlopCounterMode alone, on the meta device: for looking")
    p.add_argument("--seconds", type=float, default=300, help="limit for one network")
    p.add_argument("--gigabytes", type=float, default=16, help="limit of address space for one network")
    args = p.parse_args()
    if args.one:
        print("\n" + json.dumps(measure(args.one, args.level, args.quick)), flush=True)
        return
    if args.list:
        from sweep_build import listed

        for name in listed():
            print(name, flush=True)
        return
    if args.report:
        report(args)
        return
    names = [
        n
        for n in NETWORKS.read_text(encoding="utf-8").split()
        if not args.names or any(part in n for part in args.names)
    ]
    if args.shuffle is not None:
        names = by_family(names, args.shuffle)
    first, parts = (int(v) for v in args.part.split("/"))
    sweep(names[:: args.every][first::parts], args)


if __name__ == "__main__":
    main()

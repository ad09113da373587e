"""The networks of the sweep: which there are, by rule, and how each is made with random numbers.

A name is `package/network`, or `smp/architecture/encoder`. Sizes are without batch, several for several inputs.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

Sizes = tuple[tuple[int, ...], ...]
SIDE = 128
"""Pixels of a side where a network takes any: small, so that many networks are done in an hour."""
MOST_PARAMETERS = 100_000_000
PER_FILE = 5
"""Networks of one file of timm: those with the fewest parameters that differ in their count."""
TORCHVISION_PER_FILE = 3
ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "densenet121")
SMP_LEAVES_OUT = {("Linknet", "densenet121"), ("PAN", "densenet121"), ("DeepLabV3", "densenet121"),
                  ("DeepLabV3Plus", "densenet121"), ("DPT", "*")}  # fmt: skip
"""Encoders that an architecture of segmentation-models-pytorch does not take, and DPT, which takes timm's ViTs only."""


def listed() -> Iterator[str]:
    """Every network of the sweep, one line each."""
    yield from (f"timm/{name}" for name in _timm())
    yield from (f"torchvision/{name}" for name in _torchvision())
    yield from (f"smp/{name}" for name in _smp())
    yield from (f"ultralytics/{name}" for name in _ultralytics())
    from sweep_classics import ALL

    yield from (f"classics/{name}" for name in ALL)
    yield from (f"facenet/{name}" for name in ("pnet", "rnet", "onet", "inception-resnet-v1"))


def _timm() -> Iterator[str]:
    import timm

    for file in timm.list_modules():
        found: dict[int, str] = {}
        for name in timm.list_models(module=file):
            with contextlib.suppress(Exception), torch.device("meta"), quiet():
                size = sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
                if size <= MOST_PARAMETERS:
                    found.setdefault(size, name)
        yield from (found[size] for size in sorted(found)[:PER_FILE])


def _torchvision() -> Iterator[str]:
    from torchvision import models

    files: dict[str, list[str]] = defaultdict(list)
    for name in models.list_models():
        where = models.get_model_builder(name).__module__
        if "quantization" not in where and "detection" not in where:
            files[where].append(name)
    for where in sorted(files):
        found: dict[int, str] = {}
        for name in files[where]:
            with contextlib.suppress(Exception), torch.device("meta"), quiet():
                size = sum(p.numel() for p in _torchvision_model(name).parameters())
                if size <= MOST_PARAMETERS or where.endswith(("alexnet", "vgg")):
                    found.setdefault(size, name)
        yield from (found[size] for size in sorted(found)[:TORCHVISION_PER_FILE])


def _torchvision_model(name: str) -> nn.Module:
    from torchvision import models

    given: dict[str, Any] = (
        {"weights_backbone": None} if "segmentation" in models.get_model_builder(name).__module__ else {}
    )
    given |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **given)


def _smp() -> Iterator[str]:
    import segmentation_models_pytorch as smp

    for kind in sorted(smp.MODEL_ARCHITECTURES_MAPPING):
        title = smp.MODEL_ARCHITECTURES_MAPPING[kind].__name__
        if (title, "*") not in SMP_LEAVES_OUT:
            yield from (f"{title}/{e}" for e in ENCODERS if (title, e) not in SMP_LEAVES_OUT)


def _ultralytics() -> Iterator[str]:
    import ultralytics

    for file in sorted((Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")):
        if "-cls-resnet" not in file.name:  # asks a server for trained weights
            yield file.name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, no warnings."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def build(name: str, numbers: bool = True) -> tuple[nn.Module, Sizes]:
    """The network in inference mode, and its input sizes; with its own initial weights, or without `numbers` any."""
    torch.manual_seed(0)
    package, _, rest = name.partition("/")
    drawn = ("normal_", "uniform_", "erfinv_", "trunc_normal_")
    kept = [(torch.Tensor, key, getattr(torch.Tensor, key)) for key in drawn if hasattr(torch.Tensor, key)]
    kept.append((nn.init, "_no_grad_trunc_normal_", nn.init._no_grad_trunc_normal_))
    try:
        if not numbers:
            for owner, key, _ in kept:
                setattr(owner, key, lambda tensor, *_, **__: tensor)
        with quiet():
            module, sizes = _BUILDERS[package](rest)
    finally:
        for owner, key, function in kept:
            setattr(owner, key, function)
    return module.eval(), sizes


def _build_timm(name: str) -> tuple[nn.Module, Sizes]:
    import timm

    module = timm.create_model(name, pretrained=False)
    given = module.pretrained_cfg
    channels, *size = given.get("input_size", (3, 224, 224))
    side = size if given.get("fixed_input_size") or "vit" in name or "swin" in name else (SIDE, SIDE)
    size = tuple(side)
    try:
        with torch.no_grad():
            module(torch.zeros(1, channels, *size))
    except Exception:
        size = tuple(given.get("input_size", (3, 224, 224))[1:])
    return module, ((channels, *size),)


def _build_torchvision(name: str) -> tuple[nn.Module, Sizes]:
    module = _torchvision_model(name)
    where = type(module).__module__
    if "optical_flow" in where:
        return module, ((3, SIDE, SIDE), (3, SIDE, SIDE))
    if "video" in where:
        return module, ((3, 16, 224, 224) if name.startswith(("mvit", "swin", "s3d")) else (3, 8, 112, 112),)
    large = name.startswith(("vit", "alexnet", "inception", "swin", "maxvit", "vgg"))
    return module, ((3, 224, 224) if large else (3, SIDE, SIDE),)


def _build_smp(name: str) -> tuple[nn.Module, Sizes]:
    import segmentation_models_pytorch as smp

    title, _, encoder = name.partition("/")
    return getattr(smp, title)(encoder_name=encoder, encoder_weights=None, classes=3), ((3, SIDE, SIDE),)


def _build_ultralytics(name: str) -> tuple[nn.Module, Sizes]:
    from ultralytics.nn import tasks

    kinds = {"rtdetr": "RTDETRDetection", "yoloe": "YOLOE", "world": "World", "-cls": "Classification",
             "-seg": "Segmentation", "-pose": "Pose", "-obb": "OBB", "-depth": "Depth", "-sem": "Semantic"}  # fmt: skip
    kind = next((k for part, k in kinds.items() if part in name), "Detection")
    kind = "YOLOESeg" if kind == "YOLOE" and "-seg" in name else kind
    kind = next(c for c in vars(tasks) if c.lower().startswith(kind.lower()) and c.endswith("Model"))
    module = getattr(tasks, kind)(tasks.yaml_model_load(name), ch=3, verbose=False)
    return module, ((3, 224, 224) if "-cls" in name else (3, 192, 192) if "-p6" in name else (3, 160, 160),)


def _build_classics(name: str) -> tuple[nn.Module, Sizes]:
    from sweep_classics import ALL

    make, sizes = ALL[name]
    return make(), sizes


def _build_facenet(name: str) -> tuple[nn.Module, Sizes]:
    if name == "inception-resnet-v1":
        from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

        return InceptionResnetV1(pretrained=None, classify=True, num_classes=100), ((3, 160, 160),)
    from facenet_pytorch.models import mtcnn

    kind, side = {"pnet": (mtcnn.PNet, 40), "rnet": (mtcnn.RNet, 24), "onet": (mtcnn.ONet, 48)}[name]
    return kind(pretrained=True), ((3, side, side),)


_BUILDERS: dict[str, Any] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "smp": _build_smp,
    "ultralytics": _build_ultralytics,
    "classics": _build_classics,
    "facenet": _build_facenet,
}


def randomise(module: nn.Module, sizes: Sizes) -> None:
    """Random numbers where initial weights would hide an error.

    A parameter that is one number throughout (a scale of 1, a branch that begins at 0) is drawn anew. Batch norms get
    the statistics of two random pictures, moved by a tenth of a deviation and spread by 0.5 to 1.5: so activations
    stay of one size in deep networks, and no two channels are alike.
    """
    make = torch.Generator().manual_seed(1)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for value in module.parameters():
            if value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                fan = value[0].numel() if value.dim() > 1 else 1
                value += torch.randn(value.shape, generator=make) * (fan**-0.5 if fan > 1 else 0.1)
        kept = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
            m.train()
        with contextlib.suppress(Exception), quiet():
            module(*[torch.randn(2, *s, generator=make) for s in sizes])
        for m, momentum in zip(norms, kept, strict=True):
            m.momentum = momentum
            m.eval()
            if m.running_var is not None and m.running_mean is not None:
                m.running_var.nan_to_num_(1.0).clamp_(0.05, 1e6)
                m.running_mean.nan_to_num_(0.0)
                shape = m.running_var.shape
                m.running_mean += 0.1 * m.running_var.sqrt() * torch.randn(shape, generator=make)
                m.running_var *= 0.5 + torch.rand(shape, generator=make)

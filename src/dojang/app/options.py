"""The commands and their arguments: one table for the command line, for its help and docs, and for the Python verbs.

The parser and docs/commands.md are made from this table. Python functions cannot be, so that editors and type checkers
see their signatures; tests/app/test_options.py holds every signature against the table: names, defaults and choices.
Only the standard library is imported, so that help is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dojang.app.values import (
    axes,
    batch_or_name,
    either_order,
    one_or_each,
    pads_or_each,
    per_channel,
    place,
    positive,
    seed,
    sizes,
    sizes_or_names,
    whole,
    words,
)

OWN = "the command's own verb"


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a command.

    `name` is the keyword of the Python verb (or else `keyword` is). The flag is the name with dashes, unless `flag`
    says otherwise; "" makes a positional argument, "?" one that may be left out. A default of False makes a switch, a
    default of True a switch that turns it off, as --no-bias does for `bias`. `verbs` are the Python functions that take
    the argument; there are none where only the command line has it.
    """

    name: str
    help: str
    default: Any = None
    type: Callable[[str], Any] | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    flag: str | None = None
    required: bool = False
    several: bool = False
    keyword: str | None = None
    verbs: tuple[str, ...] = (OWN,)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a person types; empty for a positional argument."""
        if self.flag in ("", "?"):
            return ()
        long = f"--{self.name.replace('_', '-')}"
        return (self.flag, long) if self.flag and len(self.flag) == 2 else (self.flag or long,)

    @property
    def optional(self) -> bool:
        """Whether it is a positional argument that may be left out."""
        return self.flag == "?"

    @property
    def dest(self) -> str:
        """Where the parser puts the value."""
        return f"no_{self.name}" if self.default is True else self.name

    def value(self, parsed: Mapping[str, Any]) -> Any:
        """The value that a verb takes, from all that the parser has found."""
        found = parsed[self.dest]
        return not found if self.default is True else found


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the command line: what it does, the Python verb of the same work, and its arguments in order."""

    name: str
    does: str
    verb: str
    options: tuple[Option, ...]

    @property
    def examples(self) -> tuple[str, ...]:
        """Command lines to begin with, which its help shows."""
        return EXAMPLES[self.name]

    def keywords(self, parsed: Mapping[str, Any], verb: str | None = None) -> dict[str, Any]:
        """The arguments for a verb, by keyword, from what the parser has found."""
        return {option.keyword or option.name: option.value(parsed) for option in self.options_of(verb or self.verb)}

    def options_of(self, verb: str) -> tuple[Option, ...]:
        """The options that a Python verb takes."""
        own = verb == self.verb
        return tuple(option for option in self.options if verb in option.verbs or (own and OWN in option.verbs))


NETWORK = (
    "zoo name, .net, .onnx, .safetensors or .pt2 file, or package.module:callable or file.py:callable (runs that code)"
)
SIZE = "size of one input, channels first; sizes of several inputs are separated by ; (or by name: x=3,48,48;y=10)"
DATA = "digits, a folder or .zip of class folders, .npz or .zarr with x and y, IDX files, CIFAR files"
NO_LABELS = f"{DATA}; or samples without labels: .npy, .npz with x"

NET = Option("net", NETWORK, flag="", metavar="NET")
WEIGHTS = Option("weights", "file with the weights by name: .safetensors, .pt or .pth", metavar="FILE")
INPUT_SIZE = Option("input_size", SIZE, type=sizes, metavar="C,H,W")
NUM_CLASSES = Option("num_classes", "number of classes, for zoo names", type=positive, metavar="N")
LOADING = (NET, WEIGHTS, INPUT_SIZE, NUM_CLASSES)

JSON = Option("json", "print one JSON object", False, verbs=())
FORCE = Option("force", "replace files that exist", False)
PAGE = Option("html", "write a self-contained page", metavar="FILE", verbs=())
THREADS = Option(
    "threads",
    "threads that compute (default: DOJANG_THREADS, else the cores that this process may use)",
    type=positive,
    metavar="N",
    verbs=(),
)
SEED = Option("seed", "seed of all random numbers", 0, seed, "N")
NORMALISE = Option(
    "normalise",
    "how pictures are normalised for PyTorch code, which does not say it: 0 to 1, as ImageNet, minus 0.5 over 0.5, or "
    "by mean and deviation of the train part",
    choices=("none", "imagenet", "half", "data"),
)
TRAINING_DATA = (
    Option("data", DATA, metavar="DATA"),
    Option("val_data", "the test part, if it is separate from --data", metavar="DATA"),
    Option(
        "task",
        "what labels are, where data do not tell: one class, an amount, or several classes a sample",
        choices=("classification", "regression", "multilabel"),
    ),
    Option(
        "values",
        "what values of arrays are: as they stand, divided by 255 or by 65535, or normalised already (pictures in "
        "files are divided by their value of white, whatever is said here)",
        choices=("as-is", "0-255", "0-65535", "normalised"),
    ),
    Option(
        "layout",
        "which axis of a sample is the channel, where data do not tell",
        choices=("channels-first", "channels-last"),
    ),
    Option(
        "mean",
        "mean that is subtracted from samples (pixels: after / 255): a number, or one per channel with commas",
        type=per_channel,
        metavar="M",
    ),
    Option(
        "std",
        "standard deviation by which they are then divided (default for both: what the network states, else what suits "
        "it on labelled samples, else that of the train part)",
        type=per_channel,
        metavar="S",
    ),
    SEED,
)
TRAINING_DATA_ONLY = (
    Option(
        "augment",
        "how samples vary in training: none, or crop=PIXELS, mirror, or both with a comma (default: by "
        "the data; the first line says how)",
        metavar="HOW",
    ),
    Option("mirror", "mirror no pictures", True),
    Option(
        "class_weights",
        "weights of the classes in the loss: balanced, or one number per class with commas",
        metavar="W",
    ),
)
DEVICE = Option("device", "device for training: auto, cpu, cuda or cuda:N", "auto", metavar="NAME")
PRECISION = Option(
    "precision",
    "number format of training; bf16 is several times faster on processors with instructions for it",
    "float32",
    choices=("float32", "bf16"),
)


def _output(metavar: str, does: str) -> tuple[Option, Option]:
    return Option("output", does, flag="-o", metavar=metavar), FORCE


_COUNTED = (OWN, "memory", "over_devices", "explain")

_COUNT = Command(
    "count",
    "count what a network costs: shapes, parameters, MACs, memory, receptive fields",
    "count",
    (
        JSON,
        replace(NET, verbs=_COUNTED),
        Option("input_size", "size of one input, channels first; 3,H,W gives formulas; several inputs in order as "
               "'3,48,48;10', or by name as 'image=3,48,48;tokens=10'", type=sizes_or_names,
               metavar="C,H,W", verbs=_COUNTED),
        replace(NUM_CLASSES, verbs=_COUNTED),
        replace(WEIGHTS, help="also check that these weights fit: .safetensors, .pt or .pth", verbs=()),
        Option("batch_size", "inputs per batch (default 1); a name gives formulas", 1, batch_or_name, "N",
               verbs=(OWN, "memory", "over_devices")),
        Option("bias", "leave biases out of the parameters", True),
        Option("unit", "1 MAC = 2 FLOPs", "mac", choices=("mac", "flop")),
        Option("exact_padding", "do not count taps that fall on padding", False),
        Option("depth", "fold modules at this depth: 1 shows the outermost (default: as deep as one screen holds)",
               type=positive, metavar="N"),
        Option("columns", "columns of the table, with commas: layer, op, kernel, input, output, weights, dtype, "
               "params, params-share, trained, macs, macs-share, memory, field; or all (default: what fits)",
               type=words, metavar="NAMES", verbs=()),
        Option("csv", "print one line per layer (with --depth per module), comma-separated", False, verbs=()),
        Option("explain", "show how every figure of one layer is computed", keyword="layer",
               metavar="LAYER", verbs=("explain",)),
        Option("memory", "also the memory of inference and training, and the bytes moved", False, verbs=()),
        Option("devices", "cut over N devices by filters: what each holds and computes, and what they exchange",
               type=positive, metavar="N", verbs=("over_devices",)),
        Option("optimiser", "the optimiser for --memory (default momentum)",
               choices=("none", "sgd", "momentum", "rmsprop", "adam"), verbs=("memory",)),
        Option("machine", "also the least and the most time on a machine: here, a100, h200, raspberry-pi-5, or "
               "GFLOPS,GBYTES", metavar="NAME", verbs=("memory",)),
        PAGE,
        replace(FORCE, verbs=()),
        Option("max_macs", "budget: exit 1 when over (K, M, G allowed)", type=whole, metavar="N", verbs=()),
        Option("max_params", "budget: exit 1 when over (K, M, G allowed)", type=whole, metavar="N", verbs=()),
    ),
)  # fmt: skip

_SOLVE = Command(
    "solve",
    "find the layers that lead from one shape to another",
    "solve",
    (
        JSON,
        Option("in_shape", "input shape: HxWxC, or C,H,W", type=either_order, flag="--in", metavar="HxWxC"),
        Option("out_shape", "output shape: HxWxC, or C,H,W", type=either_order, flag="--out", metavar="HxWxC"),
        Option("kernel", "kernel size: one number, or one per axis", type=one_or_each, metavar="K"),
        Option("stride", "stride: one number, or one per axis", type=one_or_each, metavar="K"),
        Option(
            "padding",
            "zeros on each side: one number, or one per axis; before:after where sides differ",
            type=pads_or_each,
            metavar="K",
        ),
        Option("dilation", "distance between neighbouring taps", 1, one_or_each, "K"),
        Option("groups", "number of groups", 1, positive, "N"),
        Option("filters", "number of channels of the shape that is not given", type=positive, metavar="N"),
        Option("bias", "count layers without biases", True),
        Option("transposed", "look for transposed convolutions", False),
    ),
)

_CHECK = Command(
    "check",
    "check every cell of a published table",
    "check",
    (
        JSON,
        Option("table", "a table's name (`dojang list tables`) or a .csv file", flag="", metavar="TABLE"),
        Option("net", "the network (default: the one that the table names)", flag="?", metavar="NET"),
        INPUT_SIZE,
    ),
)

_COMPARE = Command(
    "compare",
    "compare two networks, layer by layer",
    "compare",
    (
        JSON,
        Option("a", NETWORK, flag="", metavar="A"),
        Option("b", "the other network", flag="", metavar="B"),
        replace(INPUT_SIZE, help="size of one input, for both networks"),
    ),
)

_KERNEL = (
    "a name (`dojang list kernels`) such as blur or gaussian:sigma=2; a matrix, its rows separated by ; or FILE.npy; "
    "given several times, each kernel writes a file of its own"
)
_BORDER = (
    "how the picture continues outside (default reflect: mirrored without repeating the edge); "
    "with valid it does not, and the result is smaller"
)
_OFFSET = (
    "added to every value (default: 0; for kernels of both signs, such as sobel-x, the middle level of integer pixels, "
    "so that negative values show)"
)
_FILTERING = ("filter_files", "filter_plans")

_FILTER = Command(
    "filter",
    "filter pictures with a kernel",
    "filter_files",
    (
        JSON,
        Option("images", "picture files", flag="", metavar="IMAGE", several=True, verbs=_FILTERING),
        Option("kernel", _KERNEL, metavar="KERNEL", required=True, several=True, verbs=_FILTERING),
        Option("border", _BORDER, "reflect", verbs=_FILTERING,
               choices=("zero", "constant", "replicate", "reflect", "symmetric", "circular", "valid")),
        Option("value", "the pixel value outside, for --border constant", 0.0, float, "V", verbs=_FILTERING),
        Option("stride", "keep every Nth pixel, or N,M by rows,columns", 1, axes, "N", verbs=_FILTERING),
        Option("dilation", "place the kernel's taps N pixels apart", 1, axes, "N", verbs=_FILTERING),
        Option("anchor", "the tap that lies on the output pixel, as row,column from 0 (default: the middle)",
               (-1, -1), place, "Y,X", verbs=_FILTERING),
        Option("offset", _OFFSET, None, float, "V", verbs=_FILTERING),
        Option("dtype", "write the response as it is, not rounded, as a TIFF of floats", verbs=_FILTERING,
               choices=("float32", "float64")),
        Option("max_pixels", "the most pixels of a picture that is decoded whole (default: DOJANG_MAX_PIXELS, else "
               "178,956,970)", type=positive, metavar="N", verbs=_FILTERING),
        Option("plan", "write nothing; show which algorithm would be used, and why", False, verbs=()),
        replace(PAGE, help="write a self-contained page: before, after, taps, one window in numbers"),
        replace(THREADS, verbs=("filter_files",)),
        *_output("OUT", "file, or folder for several pictures (default: IMAGE-KERNEL beside each)"),
    ),
)  # fmt: skip

_RUN = Command(
    "run",
    "run a network on a picture or an array",
    "run",
    (
        JSON,
        *LOADING,
        Option("input", "a picture, or .npy of shape (c,h,w) or (n,c,h,w)", flag="", metavar="INPUT"),
        Option("plan", "show each layer's algorithm and time, and why others were refused", False),
        Option("top", "show the K best classes", 5, whole, "K"),
        *(
            replace(own, help=own.help.partition(" (default")[0])
            for own in TRAINING_DATA
            if own.name in ("mean", "std")
        ),
        replace(
            NORMALISE,
            help="how pictures are normalised for PyTorch code, which does not say it: 0 to 1, as "
            "ImageNet, or minus 0.5 over 0.5",
            choices=("none", "imagenet", "half"),
        ),
        replace(PAGE, help="write a page with the maps of all layers on the picture, as `dojang show -o` does"),
        THREADS,
        *_output("OUT.npy", "write the output as an array"),
    ),
)

_SHOW = Command(
    "show",
    "show a network on a picture in the browser: its maps, each filter at work, what an output sees",
    "show",
    (
        JSON,
        replace(NET, help=f"{NETWORK}; or the word stamp: filters on the picture alone"),
        *LOADING[1:],
        Option("image", "a picture, an .npy, or an .npz with an array for each input by name (default: dojang's own "
               "picture)", flag="?",
               metavar="IMAGE"),
        replace(TRAINING_DATA[0], help=f"samples on which waste is looked for: {NO_LABELS}"),
        Option("before", "another network, such as the original of a slimmed one, to be shown beside", metavar="NET"),
        Option("lang", "the language that the page begins with (default: that of the browser)", choices=("en", "ko")),
        Option("page_weights", "with -o: how the file stores weights (default: float16; int8 where that takes "
               "more than 32 MiB)", choices=("float32", "float16", "int8")),
        Option("port", "port of the server; 0 is any that is free", 0, whole, "N"),
        Option("browser", "do not open a browser; print the address", True),
        THREADS,
        *_output("PAGE.html", "write one file that needs no server: it holds the network, and computes in the browser"),
    ),
)  # fmt: skip

_TRAIN = Command(
    "train",
    "train or fine-tune a network",
    "train",
    (
        JSON,
        *LOADING,
        replace(TRAINING_DATA[0], required=True),
        *TRAINING_DATA[1:],
        *TRAINING_DATA_ONLY,
        Option("epochs", "passes over the data", 30, positive, "N"),
        Option("batch_size", "samples per step", 128, positive, "N"),
        Option("lr", "peak learning rate (default: chosen by network and batch size)", type=float, metavar="X"),
        Option(
            "optimiser",
            "what turns gradients into steps (auto: AdamW in runs from scratch of fewer than 2,000 "
            "steps, else SGD; --lr is SGD's)",
            "auto",
            choices=("auto", "sgd", "adamw"),
        ),
        Option(
            "mode",
            "from scratch or fine-tuning, which has a smaller rate and keeps the best epoch (auto: by the weights)",
            "auto",
            choices=("auto", "scratch", "fine-tune"),
        ),
        Option(
            "freeze",
            "keep the layers of this name as they are, such as 'conv*'; may be given several times",
            metavar="PATTERN",
            several=True,
        ),
        Option(
            "select",
            "fraction of the train part set aside to choose the best epoch by (default: in fine-tuning 0.1 of at most "
            "500 samples, 0.025 of at least 2000, 50 samples between; with --patience 0.1)",
            type=float,
            metavar="X",
        ),
        Option("patience", "stop after N epochs in a row without a better one", type=positive, metavar="N"),
        Option("label_smoothing", "fraction of each label that is spread over the other classes", 0.0, float, "X"),
        DEVICE,
        PRECISION,
        Option("resume", "continue the run in the output folder", False),
        Option("tensorboard", "write events for TensorBoard into the output folder; auto does so where the package "
               "tensorboard is installed", "auto", choices=("auto", "on", "off")),
        *_output("DIR", "folder for checkpoint, run.json, report and log.csv (default out/NET-trained)"),
    ),
)  # fmt: skip

_DIAGNOSE = Command(
    "diagnose",
    "find what a trained network wastes, where it is wrong, and what it can spare",
    "diagnose",
    (
        JSON,
        *LOADING,
        replace(TRAINING_DATA[0], help=NO_LABELS),
        *TRAINING_DATA[1:],
        Option("samples", "number of samples that are used", 512, positive, "N"),
        Option("threshold", "treat a channel as dead if its activation never exceeds X", 0.0, float, "X"),
        Option("part", "the part of the data to look at; the network may have learnt the samples of the train part",
               "train", choices=("train", "test")),
        Option("trial_macs", "MACs that leaving out blocks, and rounding weights, may take each (K, M, G allowed)",
               30_000_000_000, whole, "N"),
        NORMALISE,
        Option("correlations", "measure the correlations of all filters of neighbouring layers, which --html draws, "
               "where that takes long too", False),
        Option("fail_on", "exit 1 on a finding of this severity or a higher one; they go from info to error", verbs=(),
               choices=("info", "warning", "error")),
        THREADS,
        PAGE,
        replace(FORCE, verbs=()),
    ),
)  # fmt: skip

_SLIM = Command(
    "slim",
    "find and cut waste, prove or measure each cut, write the cheaper network",
    "slim",
    (
        JSON,
        *LOADING,
        replace(TRAINING_DATA[0], help=f"{NO_LABELS} (with --lossless)"),
        *TRAINING_DATA[1:],
        Option("lossless", "make only cuts that change no output; needs no labels, and no --data", False),
        Option("max_drop", "the most accuracy that may be lost against the original tuned as long, in percentage "
               "points (default: 1; samples without labels have none)", type=float, metavar="POINTS"),
        Option("target_macs", "stop at this fraction of the MACs", type=float, metavar="FRACTION"),
        Option("train_samples", "use only N samples of the train part", type=positive, metavar="N"),
        NORMALISE,
        Option("select", "data that choices are made on, which the network was not trained on (default: a part of the "
               "train part)", metavar="DATA"),
        Option("keep", "layers left alone, as names or patterns with commas; for samples without labels", (),
               type=words, metavar="NAMES"),
        Option("target_time", "stop at this fraction of the run time", type=float, metavar="FRACTION"),
        Option("target_ms", "stop at this many milliseconds per batch", type=float, metavar="MS"),
        Option("minutes", "the best network found in this time: how many candidates there are and how long they are "
               "tuned follow from it", type=float, metavar="N"),
        Option("epochs", "passes over the data to fine-tune the best candidate of each step", 10, positive, "N"),
        Option("final_epochs", "passes of a final fine-tuning, whose teacher is the original tuned as long "
               "(default: none)", 0, positive, "N"),
        Option("bits", "8: put the result into whole numbers of 8 bits, calibrated on samples, judged on the selection",
               type=positive, metavar="N"),
        Option("tuning", "with --bits 8: train nothing, and make only exact cuts beside; needs no labels", True),
        Option("runtime", "the runtime on which the result must be faster", "dojang",
               choices=("dojang", "torch", "onnxruntime")),
        Option("importance", "what the channels of a layer are ranked by", "activation",
               choices=("activation", "weight", "batchnorm", "taylor")),
        Option("batch_size", "inputs per batch when networks are timed", 1, positive, "N"),
        DEVICE,
        PRECISION,
        Option("resume", "continue a slimming that was interrupted", False),
        THREADS,
        *_output("DIR", "folder for report.html, front.svg, model.onnx, model.safetensors, run.json "
                 "(default out/NET-slim)"),
    ),
)  # fmt: skip

_EXPORT = Command(
    "export",
    "write a network in another format",
    "export",
    (
        JSON,
        *LOADING,
        Option("format", "file format (default: by the suffix of -o)", choices=("onnx", "safetensors", "net")),
        Option("normalise", "who normalises samples: whoever runs the file, or the network inside of it, which then "
               "takes pixels from 0 to 255", "outside", choices=("outside", "inside")),
        *_output("FILE", "file to write (default: NAME with the format's suffix)"),
    ),
)  # fmt: skip

_BENCH = Command(
    "bench",
    "time a network on this machine, and other runtimes with it",
    "bench",
    (
        JSON,
        *LOADING,
        Option("peers", "also time PyTorch (both memory layouts) and ONNX Runtime", False),
        Option("batch_size", "inputs per batch", 1, positive, "N"),
        Option("rounds", "rounds in which all runtimes take turns", 31, positive, "N"),
        replace(SEED, help="seed of the input, and of weights if there are none"),
        THREADS,
    ),
)

_LISTS = ("networks", "tables", "kernels", "kinds", "algorithms", "operators")

_LIST = Command(
    "list",
    f"list {', '.join(_LISTS[:-1])} or {_LISTS[-1]}",
    "available",
    (
        JSON,
        Option("what", "which list; kinds are the kinds of convolution", flag="", choices=_LISTS),
        replace(PAGE, help="for kernels: write a page that shows each of them on a picture"),
        replace(FORCE, verbs=()),
    ),
)

_ENV = Command(
    "env",
    "show versions, machine and settings, for a bug report",
    "environment",
    (
        JSON,
        Option("measure", "measure the peaks of a core (half a second), and use them in plans from now on", False),
        *_output("FILE", "with --measure: write a machine file there instead, which DOJANG_MACHINE can name"),
    ),
)

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "count": (
        "dojang count resnet50",
        "dojang count model.onnx --html cost.html",
        "dojang count alexnet --explain conv2",
        "dojang count torchvision.models:resnet34 --input-size 3,224,224",
    ),
    "solve": (
        "dojang solve --in 32x32x3 --out 28x28x4",
        "dojang solve --in 224x224x3 --out 112x112x64 --kernel 7 --stride 2",
    ),
    "check": ("dojang check alexnet-lecture", "dojang check table.csv resnet18"),
    "compare": ("dojang compare resnet18 resnet50", "dojang compare model.onnx out/model-slim/model.onnx"),
    "filter": (
        "dojang filter photo.jpg --kernel emboss",
        "dojang filter photo.jpg --kernel gaussian:sigma=2 -o soft.jpg",
        "dojang filter *.jpg --kernel '1,2,1;2,4,2;1,2,1' -o filtered/",
    ),
    "run": ("dojang run model.onnx photo.jpg", "dojang run digits-cnn digit.png --top 3 --plan"),
    "show": (
        "dojang show model.onnx photo.jpg",
        "dojang show stamp photo.jpg",
        "dojang show out/model-slim/model.onnx photo.jpg --before model.onnx --data pictures/",
        "dojang show digits-cnn digit.png -o page.html",
    ),
    "train": (
        "dojang train digits-cnn --data digits",
        "dojang train resnet20-cifar10 --data pictures/ --weights model.safetensors -o out/mine",
        "dojang train resnet20-cifar10 --data pictures/ -o out/mine --resume",
    ),
    "diagnose": (
        "dojang diagnose model.onnx --data pictures/ --html findings.html",
        "dojang diagnose digits-cnn --data digits --fail-on warning",
    ),
    "slim": (
        "dojang slim digits-cnn --data digits",
        "dojang slim model.onnx --lossless",
        "dojang slim model.onnx --data pictures/ --max-drop 0.5 -o out/small",
        "dojang slim model.onnx --data samples.npy --bits 8 --no-tuning -o out/bytes",
    ),
    "export": ("dojang export digits-cnn -o digits.onnx", "dojang export model.onnx -o model.net"),
    "bench": ("dojang bench resnet18", "dojang bench model.onnx --peers --threads 1"),
    "list": ("dojang list networks", "dojang list kernels --html kernels.html"),
    "env": ("dojang env", "dojang env --measure"),
}
"""For each command the examples of its help."""

COMMANDS = {
    command.name: command
    for command in (
        *(
            _COUNT,
            _SOLVE,
            _CHECK,
            _COMPARE,
            _FILTER,
            _RUN,
            _SHOW,
            _TRAIN,
            _DIAGNOSE,
            _SLIM,
            _EXPORT,
            _BENCH,
            _LIST,
            _ENV,
        ),
    )
}
"""Every command by name, in the order of the help."""

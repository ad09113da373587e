"""The commands and their flags. Only the standard library is imported, so that help is quick."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn

from dojang.base.errors import UsageError
from dojang.base.version import __version__

NET = "zoo name, .net, .onnx or .safetensors file, or package.module:callable or file.py:callable (runs that code)"
SIZE = "size of one input, channels first; sizes of several inputs are parted by ;"
DATA = "digits, a folder or .zip of class folders, .npz with x and y, IDX files, CIFAR-10 batches"
SEED = 0
OPTIMISERS = ("none", "sgd", "momentum", "rmsprop", "adam")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError` instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def sizes(text: str) -> Any:
    """C,H,W as numbers; x may stand for the comma. Several inputs are separated by semicolons.

    >>> sizes("3,224,224"), sizes("3x48x48;10")
    ((3, 224, 224), ((3, 48, 48), (10,)))
    """
    try:
        every = tuple(tuple(int(n) for n in part.lower().replace("x", ",").split(",")) for part in text.split(";"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write C,H,W such as 3,224,224, for several inputs '3,48,48;10'"
        ) from None
    return every if len(every) > 1 else next(iter(every))


def sizes_or_names(text: str) -> Any:
    """C,H,W as numbers, or names for sizes that stay symbols. Several inputs are separated by semicolons.

    >>> sizes_or_names("3,H,W"), sizes_or_names("3x224x224;10")
    ((3, 'H', 'W'), ((3, 224, 224), (10,)))
    """
    every = tuple(tuple(number_or_name(n) for n in re.split("[,xX]", part)) for part in text.split(";"))
    return every if len(every) > 1 else next(iter(every))


def number_or_name(text: str) -> int | str:
    """A whole number, or a name that stays a symbol, perhaps times a number: H, 32H."""
    if re.fullmatch(r"[0-9]{0,6}[A-Za-wyz][A-Za-wyz0-9_]*", text.strip(), re.ASCII):
        return text.strip()
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write C,H,W such as 3,224,224, or 3,H,W or 3,32H,32W for formulas"
        ) from None


def batch_or_name(text: str) -> int | str:
    """A batch size of at least 1, or a name that stays a symbol."""
    return text if text.isidentifier() and text.isascii() else positive(text)


def seed(text: str) -> int:
    """A whole number from 0 to below 2^63, as PyTorch's generators take them."""
    number = whole(text)
    if not 0 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text[:40]} is no seed; give a whole number from 0 to below 2^63")
    return number


def whole(text: str) -> int:
    """A whole number; K, M and G stand for powers of 1000."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    try:
        value = float(digits.replace("_", "").replace(",", "")) * scale
        exact = int(digits) * scale if digits.isdecimal() else int(value)
        if exact != value and not digits.isdecimal():
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    return exact


def channels_last(text: str) -> tuple[int, ...]:
    """HxWxC as (c, h, w)."""
    *spatial, channels = sizes(text)
    return (channels, *spatial)


def axes(text: str) -> int | tuple[int, int]:
    """One number for both axes, or two: rows,columns."""
    match sizes(text):
        case (both,):
            return both
        case (rows, columns):
            return rows, columns
        case _:
            raise argparse.ArgumentTypeError(f"{text!r}: give one number or two, as rows,columns")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="dojang",
        description="Count, run and slim convolutional networks.",
        epilog="`dojang COMMAND --help` shows the flags of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dojang {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for add in (
        _count,
        _solve,
        _check,
        _compare,
        _filter,
        _run,
        _train,
        _diagnose,
        _slim,
        _export,
        _bench,
        _list,
        _env,
    ):
        add(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["Parser"]


def _add(commands: Commands, name: str, does: str, *, json: bool = True) -> Parser:
    parser = commands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False)
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _network(parser: Parser, weights: bool = True) -> None:
    parser.add_argument("net", metavar="NET", help=NET)
    if weights:
        parser.add_argument("--weights", metavar="FILE", help="arrays by name: .safetensors, .pt or .pth")
        parser.add_argument("--input-size", metavar="C,H,W", type=sizes, help=SIZE)
    else:
        does = "size of one input, channels first; 3,H,W gives formulas"
        parser.add_argument("--input-size", metavar="C,H,W", type=sizes_or_names, help=does)
    parser.add_argument("--num-classes", metavar="N", type=positive, help="number of classes, for zoo names")


def _threads(parser: Parser) -> None:
    does = "threads that compute (default: DOJANG_THREADS, else the cores that this process may use)"
    parser.add_argument("--threads", metavar="N", type=positive, help=does)


def _output(parser: Parser, metavar: str, does: str) -> None:
    parser.add_argument("-o", "--output", metavar=metavar, help=does)
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def _page(parser: Parser, force: bool = True) -> None:
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page")
    if force:
        parser.add_argument("--force", action="store_true", help="replace files that exist")


def _count(commands: Commands) -> None:
    parser = _add(commands, "count", "what a network costs: shapes, parameters, MACs, memory, receptive field")
    _network(parser, weights=False)
    parser.add_argument("--weights", metavar="FILE", help="also see that these arrays fit: .safetensors, .pt or .pth")
    parser.add_argument("--batch-size", metavar="N", type=batch_or_name, default=1,
                        help="inputs at once (default 1); a name gives formulas")  # fmt: skip
    parser.add_argument("--no-bias", action="store_true", help="leave biases out of the parameters")
    parser.add_argument("--unit", choices=("mac", "flop"), default="mac", help="1 MAC = 2 FLOPs (default mac)")
    parser.add_argument("--exact-padding", action="store_true", help="do not count taps that fall on padding")
    parser.add_argument("--csv", action="store_true", help="print one line per layer, comma-separated")
    parser.add_argument("--explain", metavar="LAYER", help="unfold every figure of one layer: formula, numbers, result")
    parser.add_argument("--memory", action="store_true", help="also what inference and training hold, bytes moved")
    parser.add_argument("--optimiser", choices=OPTIMISERS, help="for --memory (default momentum)")
    parser.add_argument("--machine", metavar="NAME", help="also the time on a machine, as an interval: here, a100, "
                        "h200, raspberry-pi-5, or GFLOPS,GBYTES")  # fmt: skip
    _page(parser)
    parser.add_argument("--max-macs", metavar="N", type=whole, help="budget: exit 1 when over (K, M, G allowed)")
    parser.add_argument("--max-params", metavar="N", type=whole, help="budget: exit 1 when over (K, M, G allowed)")


def _solve(commands: Commands) -> None:
    parser = _add(commands, "solve", "which layers lead from one shape to another")
    parser.add_argument("--in", dest="in_shape", metavar="HxWxC", type=channels_last, help="input shape")
    parser.add_argument("--out", dest="out_shape", metavar="HxWxC", type=channels_last, help="output shape")
    for name, does in (("kernel", "kernel size"), ("stride", "stride"), ("padding", "zeros on each side")):
        parser.add_argument(f"--{name}", metavar="K", type=sizes, help=f"{does}: one number, or one per axis")
    parser.add_argument("--dilation", metavar="K", type=sizes, default=(1,), help="spread of the taps (default 1)")
    parser.add_argument("--groups", metavar="N", type=positive, default=1, help="groups (default 1)")
    parser.add_argument("--filters", metavar="N", type=positive, help="channels of the shape that is not given")
    parser.add_argument("--no-bias", action="store_true", help="layers without biases")
    parser.add_argument("--transposed", action="store_true", help="transposed convolution")


def _check(commands: Commands) -> None:
    parser = _add(commands, "check", "a published table against the truth, every cell judged")
    parser.add_argument("table", metavar="TABLE", help="a table's name (`dojang list tables`) or a .csv file")
    parser.add_argument("net", metavar="NET", nargs="?", help="the network (default: the one that the table names)")
    parser.add_argument("--input-size", metavar="C,H,W", type=sizes, help=SIZE)


def _compare(commands: Commands) -> None:
    parser = _add(commands, "compare", "two networks side by side, layers aligned")
    parser.add_argument("a", metavar="A", help=NET)
    parser.add_argument("b", metavar="B", help="the other network")
    parser.add_argument("--input-size", metavar="C,H,W", type=sizes, help="size of one input of both")


def _filter(commands: Commands) -> None:
    parser = _add(commands, "filter", "press a kernel on pictures")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    parser.add_argument(
        "--kernel",
        required=True,
        action="append",
        metavar="KERNEL",
        help="a name (`dojang list kernels`) such as blur or gaussian:sigma=2; a matrix, rows parted by ; FILE.npy; "
        "given several times, each makes a file of its own from one reading of the picture",
    )
    parser.add_argument(
        "--border",
        choices=("zero", "constant", "replicate", "reflect", "circular", "valid"),
        default="reflect",
        help="what lies outside the picture (default reflect: mirrored without repeating the edge); "
        "valid: nothing, the result is smaller",
    )
    parser.add_argument(
        "--value", type=float, default=0.0, metavar="V", help="the pixel value outside, with --border constant"
    )
    parser.add_argument(
        "--stride", type=axes, default=1, metavar="N", help="keep every Nth pixel, or N,M by rows,columns"
    )
    parser.add_argument("--dilation", type=axes, default=1, metavar="N", help="spread the kernel's taps N pixels apart")
    parser.add_argument("--plan", action="store_true", help="write nothing; say which algorithm it would be and why")
    _threads(parser)
    _output(parser, "OUT", "file, or folder for several pictures (default: IMAGE-KERNEL beside each)")


def _run(commands: Commands) -> None:
    parser = _add(commands, "run", "a forward pass on a picture or an array")
    _network(parser)
    parser.add_argument("input", metavar="INPUT", help="a picture, or .npy of shape (c,h,w) or (n,c,h,w)")
    parser.add_argument("--plan", action="store_true", help="how each layer was run: algorithm, time, why not others")
    parser.add_argument("--top", type=whole, default=5, metavar="K", help="show the K best classes (default 5)")
    _threads(parser)
    _output(parser, "OUT.npy", "write the output as an array")


def _data(parser: Parser, required: bool = True) -> None:
    parser.add_argument("--data", metavar="DATA", required=required, help=DATA)
    parser.add_argument("--val-data", metavar="DATA", help="the test part, where it is apart")
    parser.add_argument(
        "--seed", metavar="N", type=seed, default=SEED, help=f"seed of all that is drawn (default {SEED})"
    )


def _precision(parser: Parser) -> None:
    does = "what training computes in: float32 (default), or bf16, several times faster where there are instructions"
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help=does)


def _train(commands: Commands) -> None:
    parser = _add(commands, "train", "train or fine-tune a network")
    _network(parser)
    _data(parser)
    parser.add_argument("--epochs", metavar="N", type=positive, default=30, help="passes over the data (default 30)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=128, help="samples per step (default 128)")
    parser.add_argument("--lr", metavar="X", type=float, help="peak learning rate (default by network and batch size)")
    parser.add_argument("--label-smoothing", metavar="X", type=float, default=0.0, help="share taken from the label")
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    _precision(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    _output(parser, "DIR", "folder for checkpoint, run.json and report (default out/NET-trained)")


def _diagnose(commands: Commands) -> None:
    parser = _add(commands, "diagnose", "what a trained network wastes: dead channels, duplicates, coverage, hot spots")
    _network(parser)
    _data(parser, required=False)
    parser.add_argument("--samples", metavar="N", type=positive, default=512, help="samples looked at (default 512)")
    parser.add_argument("--threshold", metavar="X", type=float, default=0.0, help="a channel never above is dead (0)")
    parser.add_argument(
        "--fail-on", metavar="SEVERITY", choices=("info", "warning", "error"), help="exit 1 on such a finding or worse"
    )
    _threads(parser)
    _page(parser)


def _slim(commands: Commands) -> None:
    parser = _add(commands, "slim", "find waste, cut it, prove or measure each cut, write the cheaper network")
    _network(parser)
    _data(parser, required=False)
    parser.add_argument(
        "--lossless", action="store_true", help="only cuts that change no answer; needs no labels, nor --data at all"
    )
    parser.add_argument(
        "--max-drop", metavar="POINTS", type=float, default=1.0, help="percentage points that may be lost (default 1)"
    )
    parser.add_argument("--target-macs", metavar="FRACTION", type=float, help="stop at this fraction of the MACs")
    parser.add_argument("--train-samples", metavar="N", type=positive, help="use so many of the train part only")
    parser.add_argument("--target-time", metavar="FRACTION", type=float, help="stop at this fraction of the run time")
    parser.add_argument("--target-ms", metavar="MS", type=float, help="stop at so many milliseconds per batch")
    parser.add_argument("--epochs", metavar="N", type=positive, default=10, help="passes of fine-tuning per cut (10)")
    last = "passes of a last fine-tuning, taught by the original tuned as long (default: none)"
    parser.add_argument("--final-epochs", metavar="N", type=positive, default=0, help=last)
    parser.add_argument(
        "--runtime", choices=("dojang", "torch", "onnxruntime"), default="dojang", help="where time must be saved"
    )
    kinds = ("activation", "weight", "batchnorm", "taylor")
    ranked = "how the channels of a layer are ranked (default activation)"
    parser.add_argument("--importance", choices=kinds, default=kinds[0], help=ranked)
    parser.add_argument("--batch-size", metavar="N", type=positive, default=1, help="inputs at once when timed (1)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="for tuning: auto, cpu, cuda or cuda:N (auto)")
    _precision(parser)
    parser.add_argument("--resume", action="store_true", help="go on with a slimming that was interrupted")
    _threads(parser)
    _output(parser, "DIR", "folder for report.html, model.onnx, model.safetensors, run.json (default out/NET-slim)")


def _export(commands: Commands) -> None:
    parser = _add(commands, "export", "write a network in another format")
    _network(parser)
    parser.add_argument("--format", choices=("onnx", "safetensors", "net"), help="default: by the suffix of -o")
    _output(parser, "FILE", "file to write (default: NAME with the format's suffix)")


def _bench(commands: Commands) -> None:
    parser = _add(commands, "bench", "time a network here, other runtimes beside it")
    _network(parser)
    parser.add_argument("--peers", action="store_true", help="also PyTorch (both layouts) and ONNX Runtime")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=1, help="inputs at once (default 1)")
    parser.add_argument("--rounds", metavar="N", type=positive, default=31, help="interleaved rounds (default 31)")
    parser.add_argument("--seed", metavar="N", type=seed, default=SEED, help="seed of input and missing weights")
    _threads(parser)


def _list(commands: Commands) -> None:
    parser = _add(commands, "list", "what there is to choose from")
    parser.add_argument("what", choices=("networks", "tables", "kernels", "kinds", "algorithms"), help="which list")
    parser.add_argument("--html", metavar="FILE", help="kernels only: write a page that shows each on one picture")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def _env(commands: Commands) -> None:
    parser = _add(commands, "env", "facts for a bug report: versions, machine, settings")
    does = "measure the peaks of a core (half a second) and plan by them from now on"
    parser.add_argument("--measure", action="store_true", help=does)
    _output(parser, "FILE", "with --measure: write a machine file there instead, for DOJANG_MACHINE to name")

"""The page of a network on a picture: served on this machine, or written as one file."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dojang.app.any_size import load
from dojang.app.class_names import ClassNames, class_names
from dojang.app.looking import PictureInside, packed
from dojang.app.networks import InputSize, require_weights
from dojang.app.sentences import Sentence, saying
from dojang.app.serving import PageServer, Reply, json_bytes
from dojang.app.shown_inputs import Given, picture_node
from dojang.arith.cost import count
from dojang.base.errors import DojangError, FileError, UsageError
from dojang.base.reading import read_bytes
from dojang.base.writing import check_target, replace_text
from dojang.report.json import plain
from dojang.report.results import ShownPage
from dojang.report.show.overview import overview
from dojang.report.show.page import policy, shown_page

if TYPE_CHECKING:  # each takes long to import, and most pages need one of them
    from dojang.app.holding import HeldArrays
    from dojang.app.wasting import WasteOnData

Language = Literal["en", "ko"]
PrecisionOnPage = Literal["float32", "float16", "int8"]

STAMP = "stamp"
"""In place of a network: the stamp on a picture alone."""

PHOTO = 448
"""Longer side of a photo that is shown without a network."""

MOST_RECORD = 8 << 20
"""Bytes of a run.json that is read."""

MOST_VALUES = 64 << 20
"""Values of one layer in one answer, at most: 256 MiB."""


def show(
    net: Any,
    image: Given | Mapping[str, Given] | None = None,
    *,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    data: str | Path | Any = None,
    before: Any = None,
    lang: Language | None = None,
    page_weights: PrecisionOnPage | None = None,
    port: int = 0,
    browser: bool = True,
    output: str | Path | None = None,
    force: bool = False,
) -> ShownPage:
    """A page in the browser: the network on a picture, the maps of its layers, each filter at work, what outputs see.

    `net`, `weights`, `input_size` and `num_classes` are as in `load`; "stamp" in place of a network shows filters on
    the picture alone. `image` is a picture, an .npy file or an array; for a network with several inputs also an .npz
    file, or one of these for each input by its name. Inputs without one begin with a picture of dojang's own, and take
    others; those that take no picture have a sample that is drawn at random, which the page says. `data` (as in
    `diagnose`) are samples on which waste is looked for. `before` is another network, such as the original of a slimmed
    one, to be shown beside. `lang` is the language that the page begins with (else that of the browser).

    The page is served at 127.0.0.1 on `port` (0: any that is free) under an address with a random token, until the
    result is closed or the program ends; `browser=False` does not open it. With `output` it is one file instead, that
    needs no server and makes no request: it holds the network and computes in WebAssembly, on this picture and on
    others. `page_weights` says how it stores the weights: "float32", "float16" or "int8" (one scale for each output
    channel); by default float16, or int8 where float16 takes more than 32 MiB.

    Raises what `load` raises, `FileError` for what is no picture, `UsageError` for a port that is taken, and for a
    network that is too large for a file. A network without weights is drawn and counted; its maps are not shown, and
    the page says why.

    >>> page = show("digits-cnn", browser=False)
    >>> page.url.startswith("http://127.0.0.1:")
    True
    >>> page.close()
    """
    if lang not in (None, "en", "ko"):
        raise UsageError(f"lang {lang!r}: the page speaks en and ko")
    if page_weights not in (None, "float32", "float16", "int8"):
        raise UsageError(f"page_weights {page_weights!r}: use float32, float16 or int8")
    if page_weights is not None and output is None:
        raise UsageError("--page-weights is for a page in one file: give -o PAGE.html too")
    if output is not None:
        check_target(output, force)
    begun = {} if lang is None else {"lang": lang}
    if isinstance(net, str) and net == STAMP:
        of_networks = {
            "--weights": weights, "--input-size": input_size, "--num-classes": num_classes, "--data": data,
            "--before": before, "--page-weights": page_weights,
        }  # fmt: skip
        given = [option for option, value in of_networks.items() if value is not None]
        if given:
            raise UsageError(f"the stamp alone has no network; leave out {' and '.join(given)}")
        from dojang.app.holding import held_picture

        held = held_picture(_photo(image), Path(image).name if isinstance(image, str | Path) else "")
        told = {**begun, "alone": True, "held": held.told, "photo": PHOTO}
        if output is not None:
            return _written(STAMP, told, held, output, force)
        return _served(STAMP, told, {}, port, browser, held.content)
    sides = {"after": _inside(net, image, weights, input_size, num_classes)}
    if before is not None:
        sides["before"] = _inside(before, image, None, input_size, num_classes)
    inside = sides["after"]
    told = {**begun, "overview": _overview(inside)}
    if before is not None:
        told |= {"before": _overview(sides["before"]), "edits": _edits(net)}
    waste = None
    if data is not None:
        require_weights(inside.graph, inside.graph.name)
        from dojang.app.wasting import WasteOnData

        waste = WasteOnData(inside, data, sides.get("before"))
    name = inside.graph.name
    if output is None:
        return _served(name, {**told, "server": True, "waste": waste is not None}, sides, port, browser, waste=waste)
    from dojang.app.holding import held_networks

    held = held_networks(sides, page_weights, waste)
    if waste is not None:
        told["waste"] = plain(waste.told())
    return _written(name, {**told, "held": held.told}, held, output, force)


def _inside(net: Any, image: Any, weights: Any, input_size: Any, num_classes: int | None) -> PictureInside:
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes)
    return PictureInside(graph, image)


def _overview(inside: PictureInside) -> dict[str, Any]:
    """What the page is told of a network at once."""
    graph = inside.graph
    told = overview(count(graph), graph)
    shape = graph.unit_shapes[graph.outputs[0]]
    called = class_names(graph, shape[1]) if shape and len(shape) > 1 else ClassNames()
    return {
        **told, "outputs": list(graph.outputs), "classes": list(called.names), "guessed_names": called.guessed,
        "why_not": inside.why_not and inside.why_not.to_dict(), "bare": inside.bare,
        "inputs": [
            {"name": node.name, "shape": list(node.attrs["shape"]), "takes_pictures": picture_node(node) is not None}
            for node in inside.graph.inputs
        ],
        "main": inside.main,
        "drawn": any(one.is_drawn for one in inside.inputs),
    }  # fmt: skip


def _photo(image: Any) -> NDArray[np.uint8]:
    """A picture as uint8 (h, w, 3), no larger than the page shows it."""
    from dojang.training.pictures import MAX_FILE_BYTES, SampleSize, decoded

    if isinstance(image, Mapping):
        raise UsageError("the stamp alone takes one picture")
    if image is None:
        from dojang.filters.gallery import sample

        return sample(240, 360)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise UsageError("the stamp alone takes a picture as a file, or as uint8 (h, w) or (h, w, 3)")
        pixels = image if image.ndim == 3 else image[:, :, None]
    else:
        pixels = decoded(read_bytes(image, MAX_FILE_BYTES, "a picture"), str(image), SampleSize(3))
    step = max(1, -(-max(pixels.shape[:2]) // PHOTO))
    height, width = (side // step * step for side in pixels.shape[:2])
    cut = pixels[:height, :width].astype(np.float32)
    small = cut.reshape(height // step, step, width // step, step, -1).mean(axis=(1, 3))
    return np.ascontiguousarray(np.broadcast_to(np.rint(small).astype(np.uint8), (*small.shape[:2], 3)))


def _written(network: str, told: dict[str, Any], held: HeldArrays, output: Any, force: bool) -> ShownPage:
    page = shown_page(told, held.content, network)
    path = replace_text(output, page, force)
    return ShownPage(network, None, (str(path),), len(page.encode()), held.weights, tuple(held.lacking), _why_not(told))


def _served(
    network: str,
    told: dict[str, Any],
    sides: dict[str, PictureInside],
    port: int,
    browser: bool,
    content: bytes = b"",
    waste: WasteOnData | None = None,
) -> ShownPage:
    page = shown_page(told, content, network, served=True).encode("utf-8", "backslashreplace")
    head = f"{policy(True)}; frame-ancestors 'none'"

    def handle(method: str, path: str, query: dict[str, str], body: bytes) -> Reply | None:
        if method == "GET" and not path:
            return Reply(page, "text/html; charset=utf-8", policy=head)
        if not sides:
            return None
        if path in ("waste", "samples") and waste is not None and method == "GET":
            return _of_waste(waste, path, query)
        return _answered(sides, method, path, query, body)

    server = PageServer(handle, port)
    if sides:  # the first answer is made while the browser starts
        threading.Thread(target=lambda: _quietly(sides["after"]), daemon=True).start()
    opened = browser and _open(server.url)
    return ShownPage(network, server.url, (), len(page), why_not=_why_not(told), server=server, opened=opened)


def _why_not(told: dict[str, Any]) -> str:
    """Why the page shows no maps; "" if it shows them."""
    return (told.get("overview", {}).get("why_not") or {}).get("english", "")


def _quietly(inside: PictureInside) -> None:
    with contextlib.suppress(DojangError):  # said when the page asks
        inside.answer()


def _open(url: str) -> bool:
    """Whether a browser was opened."""
    import webbrowser

    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False


def _answered(
    sides: dict[str, PictureInside], method: str, path: str, query: dict[str, str], body: bytes
) -> Reply | None:
    """The reply to what the page asks of a network."""
    if path == "picture" and method == "POST":
        _look(sides, body, query.get("name", "")[:200], _number(query, "input"))
        return Reply(b"{}", "application/json")
    if method != "GET":
        return None
    inside = sides.get(query.get("side", "after"))
    if inside is None:
        raise UsageError("there is no such side")
    if path == "picture":
        place = _number(query, "input")
        if place >= len(inside.inputs):
            raise UsageError(f"{inside.graph.name} has no input {place}")
        one = inside.inputs[place]
        head = {
            "h": one.pixels.shape[0],
            "w": one.pixels.shape[1],
            "name": one.name,
            "prepared": one.prepared.to_dict(),
        }
        return Reply(packed(head, [one.pixels]))
    if path == "time":
        return Reply(json_bytes(inside.milliseconds()), "application/json")
    if path == "answer":
        return Reply(json_bytes(inside.answer()), "application/json")
    layer = query.get("layer", "")
    if path == "maps":
        maps = inside.maps(layer, _number(query, "first"), _number(query, "most"))
        head = {
            "order": maps.order.tolist(),
            "strength": _finite(maps.strength),
            "low": maps.low.tolist(),
            "high": maps.high.tolist(),
            "h": maps.tiles.shape[1],
            "w": maps.tiles.shape[2],
        }
        return Reply(packed(head, [maps.tiles]))
    if path == "effect":
        effect = inside.effect(layer, _number(query, "input"))
        return Reply(packed(dict(zip(("rows", "columns", "h", "w"), effect.shape, strict=True)), [effect]))
    if path == "values":
        if inside.size_of_values(layer) > MOST_VALUES:
            size = inside.size_of_values(layer)
            english = f"{layer}: {size:,} values are too many for the page"
            raise saying(UsageError, Sentence("tooLarge", english, {"n": f"{size:,}"}))
        values = inside.values(layer)
        return Reply(packed(dict(zip("chw", values.shape, strict=True)), [values]))
    if path == "taps":
        taps, bias = inside.taps(layer, _number(query, "channel"))
        if taps.ndim != 3:
            english = f"{layer}: filters with more than two axes are not drawn"
            raise saying(UsageError, Sentence("filterAxes", english, {"layer": layer}))
        return Reply(packed({**dict(zip("chw", taps.shape, strict=True)), "bias": bias}, [taps]))
    return None


def _of_waste(waste: WasteOnData, path: str, query: dict[str, str]) -> Reply:
    """Evidence on data, or the maps of one channel on samples."""
    if path == "waste":
        return Reply(json_bytes(plain(waste.told())), "application/json")
    values, pictures = waste.maps(query.get("layer", ""), _number(query, "channel"))
    head = {
        "n": len(values),
        "h": values.shape[1],
        "w": values.shape[2],
        "ph": pictures.shape[1],
        "pw": pictures.shape[2],
    }
    return Reply(packed(head, [np.ascontiguousarray(values, np.float32), pictures]))


def _edits(net: Any) -> list[dict[str, Any]]:
    """What `dojang slim` cut, from the record that it left beside the network; empty where there is none."""
    if not isinstance(net, str | Path):
        return []
    path = Path(net).parent / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < MOST_RECORD else {}
        found = record["results"]["edits"] if record.get("command") == "slim" else []
        return [{key: str(one.get(key, "")) for key in ("rewrite", "claim", "found")} for one in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _look(sides: dict[str, PictureInside], body: bytes, name: str, place: int) -> None:
    """The same picture into all networks, or into none."""
    for inside in sides.values():
        try:
            inside.look_at_bytes(body, name, place)
        except FileError as error:
            raise saying(FileError, Sentence("refusedPicture", str(error), {"why": str(error)})) from None


def _number(query: dict[str, str], name: str) -> int:
    said = query.get(name, "")
    if not (said.isascii() and said.isdigit() and len(said) < 10):
        raise UsageError(f"{name} {said[:20]!r} is no whole number")
    return int(said)


def _finite(values: NDArray[Any]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]

"""The text notation of networks: one layer per line, whose input is the line before unless it says otherwise.

    network small
    source LeCun et al. 1998            # meta lines: network, source, classes, meta KEY VALUE
    param classes=10                    # a number that callers can change, used as $classes
    block residual(ch, stride=1)        # using the name of a block inserts its lines; `in` is its input
      conv1: conv $ch 3x3 stride=$stride pad=1 bias=no
      relu
      conv2: conv $ch 3x3 pad=1
      add <- _, in                      # `<-` names the inputs; `_` is the line before
    end
    input 3x32x32                       # channels x height x width, without the batch
    stem: conv 16 3x3/2 pad=same        # kernel 3x3, stride 2
    stage.{1..3}: residual 16           # three times: stage.1, stage.2, stage.3, layers stage.1.conv1 ...
    flatten
    dense $classes
    output _                            # optional: the last line is the output

Attributes are those of `arith/ops.py`, as `name=value`: sizes 3x3, lists 1,2, padding before:after per axis (0:1,0:1),
yes and no; `pad` stands for `padding`. `share=conv1` takes the weights of conv1. Names and values with spaces or
special characters go in double quotes, within which \\" \\\\ \\n \\r \\t \\xHH \\uHHHH and \\UHHHHHHHH stand for the
characters that they name. A line ends with a newline (\\n, \\r\\n or \\r) and with nothing else. Everything after # is
a comment.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dojang.arith.attrs import Attr, Kind, normalise
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.base.budget import Budget
from dojang.base.errors import DojangError, ParseError
from dojang.base.showing import is_plain, shown
from dojang.base.wording import did_you_mean

MOST_NODES = 50_000
"""The most nodes of a text with all its blocks inserted; blocks that use blocks grow fast."""
MOST_WORDS = 8 * MOST_NODES
"""The most words of a text; each quoted piece counts as one. Reading so many takes about two seconds.
"""
MOST_DEPTH = 64

ALIASES = {"pad": "padding"}
SHORT = {long: short for short, long in ALIASES.items()}
DIRECTIVES = frozenset({"network", "source", "classes", "meta", "param", "block", "end", "output"})

# One piece of a line at a time, so that the time stays linear in its length: a pattern for a whole line that repeats
# quoted pieces would backtrack over all of them if the last quote is not closed.
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # matches runs of letters: a repeated choice takes 150 bytes per letter
_PIECE = re.compile(rf'(?P<quoted>{_QUOTED})|(?P<plain>[^\s"#]+)|(?P<space>\s+)|(?P<end>["#])')
_NAME = re.compile(rf'\s*({_QUOTED}|[^\s":]+):(?=\s)')
_PLAIN = re.compile(r"[^\s\",#:<{}$]+")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PARAM = re.compile(rf"{_QUOTED}|\$(\w+)")
_LISTED = re.compile(rf'(?:{_QUOTED}|[^,"]++)+|,')
_LONG = re.compile(r"\S{80,}")
_NEWLINE = re.compile(r"\r\n|\n|\r")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|(.))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_PAIR = re.compile(r"(?:[^,\\]|\\.)+")


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a line and its column (from 1); quoted text is taken literally."""

    text: str
    column: int
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: `[name:] word args [<- sources]`."""

    number: int
    name: Token | None
    word: Token
    args: tuple[Token, ...]
    sources: tuple[Token, ...] | None


@dataclass(slots=True)
class Block:
    """A block definition: parameters with defaults (None: must be given) and its lines."""

    start: int
    params: dict[str, str | None]
    lines: list[Statement] = field(default_factory=list[Statement])


@dataclass(slots=True)
class Scope:
    """The scope in which names of a block are resolved: a prefix, parameters, and what `_` and `in` stand for."""

    prefix: str
    params: Mapping[str, str]
    inputs: tuple[str, ...] = ()
    last: str | None = None
    taken: frozenset[str] = frozenset()
    counts: dict[str, int] = field(default_factory=dict[str, int])


def parse(text: str, name: str = "network", file: str = "<text>", params: Mapping[str, int] | None = None) -> Graph:
    """The Graph that a text describes. `params` replaces defaults of its `param` lines.

    Raises `ParseError` ("file:line:column: what, rule, remedy"); with all blocks inserted, there may be at most
    `MOST_NODES` nodes.

    >>> parse("input 3x32x32\\nconv 4 5x5\\nconv 10 5x5").unit_shapes["conv2"]
    (1, 10, 24, 24)
    """
    return _Parser(file, name, dict(params or {})).parse(text)


def to_text(graph: Graph) -> str:
    """The text of a Graph, without blocks and with the names of all nodes; `parse` gives an equal Graph."""
    lines = [f"network {_quote(graph.name)}"]
    for key, value in graph.meta.items():
        bare = key in ("source", "classes") and value == value.strip() != "" and not re.search(r'["#<\\]', value)
        if bare and is_plain(value):
            lines.append(f"{key} {value}")
        else:
            lines.append(f"meta {_quote(key)} {_quote(value, always=True)}")
    before: str | None = None
    for node in graph.nodes:
        lines.append(_node_line(graph, node, before))
        before = node.name
    if graph.outputs != (before,):
        lines.append("output " + ", ".join(_quote(o) for o in graph.outputs))
    return "\n".join(lines) + "\n"


class _Parser:
    """Reads lines, stores blocks, and turns everything into nodes."""

    def __init__(self, file: str, name: str, params: dict[str, int]) -> None:
        self.file, self.name = file, name
        self.given = params
        self.meta: dict[str, str] = {}
        self.params: dict[str, str] = {}
        self.blocks: dict[str, Block] = {}
        self.nodes: dict[str, Node] = {}
        self.ends: dict[str, str] = {}
        """The last node of every inserted block, which the name of the block stands for."""
        self.places: dict[str, int] = {}
        """Line number of every node, for errors that are found only when shapes are inferred."""
        self.budget = Budget(file)
        self.words = 0

    def fail(self, line: int, column: int, message: str) -> NoReturn:
        message = _LONG.sub(lambda word: f"{word.group()[:40]}…{word.group()[-8:]}", message)
        raise ParseError(f"{self.file}:{line}:{column}: {message}")

    def parse(self, text: str) -> Graph:
        scope = Scope("", self.params)
        main: list[Statement] = []
        open_block: Block | None = None
        output: Statement | None = None
        for number, raw in enumerate(_NEWLINE.split(text), 1):
            line = self.line(number, raw)
            if line is None:
                continue
            word = line.word.text if line.name is None else ""
            if word == "end":
                if open_block is None:
                    self.fail(number, line.word.column, "`end` without a block")
                if not open_block.lines:
                    self.fail(open_block.start, 1, "this block is empty")
                open_block = None
            elif word == "block":
                if open_block is not None:
                    self.fail(number, line.word.column, f"the block of line {open_block.start} has no `end` yet")
                open_block = self.block(line, raw)
            elif open_block is not None:
                open_block.lines.append(line)
            elif word == "output":
                output = line
            elif word in DIRECTIVES:
                self.directive(line, raw)
            else:
                main.append(line)
        if open_block is not None:
            self.fail(open_block.start, 1, "this block has no `end`")
        unused = [k for k in self.given if k not in self.params]
        if unused:
            raise ParseError(f"{self.file}: has no `param {unused[0]}`, so it cannot be set")
        total, sizes = 0, dict[str, int]()
        for line in main:
            total += self.least([line], sizes)
            if total > MOST_NODES:
                self.fail(line.number, 1, f"the text unfolds to more than {MOST_NODES:,} nodes")
        self.unfold(main, scope, 0)
        if not self.nodes:
            raise ParseError(f"{self.file}:1:1: no layers; begin with a line such as `input 3x224x224`")
        if output is not None:
            tokens = self.names(output.number, " ".join(t.text for t in output.args), output.word.column + 7)
            outputs = tuple(self.resolve(output.number, t, scope) for t in tokens)
        else:
            outputs = (scope.last if scope.last is not None else "",)
        try:
            graph = Graph(tuple(self.nodes.values()), outputs, self.name, {}, self.meta)
            _ = graph.unit_shapes
        except DojangError as error:
            place = self.places.get(str(error).partition(":")[0], 1)
            raise ParseError(f"{self.file}:{place}:1: {error}") from None
        return graph

    # Reading lines

    def line(self, number: int, raw: str) -> Statement | None:
        """The statement of one line; None for an empty one."""
        body, tokens = self.tokens(number, raw)
        if not tokens:
            return None
        sources: tuple[Token, ...] | None = None
        arrow = next((i for i, t in enumerate(tokens) if t.text == "<-"), None)
        if arrow is not None:
            column = tokens[arrow].column + 2
            sources = self.names(number, body[column - 1 :], column)
            tokens = tokens[:arrow]
        name = None
        match = _NAME.match(body + " ")
        if match and tokens and tokens[0].text == match.group(1) + ":":
            name = self.unquoted(number, match.group(1), tokens[0].column)
            tokens = tokens[1:]
        if not tokens:
            self.fail(number, len(body) + 1, "an operator or block is missing here")
        return Statement(number, name, tokens[0], tuple(tokens[1:]), sources)

    def tokens(self, number: int, raw: str) -> tuple[str, list[Token]]:
        """The line up to its comment, and its words; a word may hold quoted pieces."""
        found: list[Token] = []
        place, start = 0, -1
        while match := _PIECE.match(raw, place):
            kind = match.lastgroup
            if kind == "end" and match.group() == '"':
                self.fail(number, place + 1, "this quote is not closed")
            if kind in ("space", "end"):
                if start >= 0:
                    found.append(Token(raw[start:place], start + 1))
                start = -1
                if kind == "end":
                    return raw[:place], found
            else:
                self.words += 1
                if self.words > MOST_WORDS:
                    self.fail(number, place + 1, f"the text has more than {MOST_WORDS:,} words; split the network")
                if start < 0:
                    start = place
            place = match.end()
        if start >= 0:
            found.append(Token(raw[start:], start + 1))
        return raw, found

    def names(self, number: int, text: str, column: int) -> tuple[Token, ...]:
        """Comma-separated names."""
        found: list[Token] = []
        place = 0
        for part in _LISTED.findall(text):
            if part != ",":
                word = part.strip()
                start = column + place + len(part) - len(part.lstrip())
                if word:
                    found.append(self.unquoted(number, word, start))
            place += len(part)
        if not found:
            self.fail(number, column, "a name is missing here")
        return tuple(found)

    def unquoted(self, number: int, text: str, column: int) -> Token:
        """The token of a name that may be quoted."""
        return Token(self.unquote(number, text, column), column, text.startswith('"'))

    def unquote(self, number: int, text: str, column: int) -> str:
        if text.startswith('"'):
            if len(text) < 2 or not text.endswith('"'):
                self.fail(number, column, f"{text} is not a name; quote all of it or nothing")
            return _ESCAPE.sub(_meant, text[1:-1])
        if '"' in text or " " in text:
            self.fail(number, column, f"{text!r} is not a name; separate names by commas, or quote it")
        return text

    def directive(self, line: Statement, raw: str) -> None:
        """network, source, classes, meta, param."""
        word, rest = line.word.text, raw[line.word.column - 1 + len(line.word.text) :]
        value = self.tokens(line.number, rest)[0].strip()
        if not value:
            self.fail(line.number, line.word.column, f"`{word}` needs a value")
        if word == "network":
            self.name = self.unquote(line.number, value, line.word.column)
        elif word == "param":
            key, _, default = value.partition("=")
            key, default = key.strip(), default.strip()
            if not re.fullmatch(r"\w+", key) or not re.fullmatch(r"\d{1,9}", default):
                self.fail(line.number, line.word.column, "write `param name=number`")
            self.params[key] = str(self.given.get(key, default))
        elif word == "meta":
            if len(line.args) != 2:
                self.fail(line.number, line.word.column, 'write `meta key "value"`')
            key, text = (self.unquote(line.number, t.text, t.column) for t in line.args)
            self.meta[key] = text
        else:
            self.meta[word] = value

    def block(self, line: Statement, raw: str) -> Block:
        said = self.tokens(line.number, raw)[0].strip()
        match = re.fullmatch(r"block\s+([\w.-]+)\s*(?:\(([^()]*)\))?", said)
        if not match:
            self.fail(line.number, line.word.column, "write `block name(param, param=default)`")
        name, inside = match.group(1), match.group(2) or ""
        if name in OPS or name in self.blocks or name in DIRECTIVES:
            self.fail(line.number, line.word.column, f"{name!r} is already an operator or block")
        params: dict[str, str | None] = {}
        for part in filter(None, (p.strip() for p in inside.split(","))):
            key, equals, default = part.partition("=")
            params[key.strip()] = default.strip() if equals else None
        block = Block(line.number, params)
        self.blocks[name] = block
        return block

    # Inserting blocks

    def unfold(self, lines: Sequence[Statement], scope: Scope, depth: int) -> None:
        """Adds the nodes of some lines."""
        scope.taken = frozenset(line.name.text for line in lines if line.name)
        for line in lines:
            for name in self.expand(line, scope):
                self.add(line, name, scope, depth)

    def least(self, lines: Sequence[Statement], sizes: dict[str, int], depth: int = 0) -> int:
        """At least how many nodes some lines become, without inserting blocks; `sizes` stores the numbers of blocks."""
        total = 0
        for line in lines:
            word, each = line.word.text, 1
            if word in self.blocks and depth < MOST_DEPTH:
                if word not in sizes:
                    sizes[word] = 0  # a block that uses itself is found when it is inserted
                    sizes[word] = self.least(self.blocks[word].lines, sizes, depth + 1)
                each = sizes[word]
            match = _RANGE.search(line.name.text) if line.name is not None and not line.name.quoted else None
            total += each * max(1, _numbers(match) if match else 1)
            if total > MOST_NODES:
                return MOST_NODES + 1  # enough for the check, and the number stays small
        return total

    def expand(self, line: Statement, scope: Scope) -> Iterator[str]:
        """The full names of a line: one, or one per number of its {a..b}."""
        if line.name is None:
            self.write(line.number, len(scope.prefix) + len(line.word.text))
            yield scope.prefix + self.automatic(line.word.text, scope)
            return
        text = self.fill(line.number, line.name, scope)
        match = None if line.name.quoted else _RANGE.search(text)
        if not match:
            self.write(line.number, len(scope.prefix))
            yield scope.prefix + text
            return
        count = _numbers(match)
        if count < 1:
            self.fail(line.number, line.name.column, f"the range {match.group()} is empty")
        if count > MOST_NODES:
            self.fail(line.number, line.name.column, f"the range has more than {MOST_NODES:,} numbers")
        first, last = int(match.group(1)), int(match.group(2))
        for number in range(first, last + 1):
            self.write(line.number, len(scope.prefix) + len(text))
            yield scope.prefix + text[: match.start()] + str(number) + text[match.end() :]

    def automatic(self, word: str, scope: Scope) -> str:
        """conv1, conv2, ..., except names that the text uses itself; the first input is `input`."""
        if word == "input" and "input" not in scope.taken and not scope.counts.get(word):
            scope.counts[word] = 1
            return word
        while True:
            scope.counts[word] = scope.counts.get(word, 0) + 1
            name = f"{word}{scope.counts[word]}"
            if name not in scope.taken:
                return name

    def fill(self, number: int, token: Token, scope: Scope) -> str:
        """A token with its $parameters replaced; quoted text is taken literally."""

        def value(match: re.Match[str]) -> str:
            key = match.group(1)
            if key is None:
                return match.group()
            if key not in scope.params:
                some = ", ".join(f"${p}" for p in list(scope.params)[:20]) or "none"
                self.fail(number, token.column + match.start(), f"${key} is not a parameter here; use one of: {some}")
            self.write(number, len(scope.params[key]))
            return scope.params[key]

        self.write(number, len(token.text))
        return token.text if token.quoted else _PARAM.sub(value, token.text)

    def write(self, number: int, letters: int) -> None:
        """Announces to the budget so many letters of the text with all blocks written out."""
        try:
            self.budget.write_letters(letters)
        except DojangError:
            self.fail(
                number, 1, f"the text grows beyond {self.budget.letters:,} letters when its blocks are written out"
            )

    def resolve(self, number: int, token: Token, scope: Scope) -> str:
        """The node that a name means: `_`, `in`, a name of this block, else one of the whole network."""
        text = self.fill(number, token, scope)
        if text == "_" and not token.quoted:
            if scope.last is None:
                self.fail(number, token.column, "`_` has no line before it")
            return scope.last
        if scope.prefix and not token.quoted and re.fullmatch(r"in\d*", text):
            place = int(text[2:] or 1) - 1
            if not 0 <= place < len(scope.inputs):
                self.fail(number, token.column, f"`{text}`: the block is applied to {len(scope.inputs)} inputs")
            return scope.inputs[place]
        self.write(number, len(scope.prefix))
        for name in (scope.prefix + text, text):
            if name in self.nodes or name in self.ends:
                return self.ends.get(name, name)
        near = ", ".join(list(self.nodes)[-3:]) or "none yet"
        return self.fail(number, token.column, f"{text!r} is not a line before this one (the last ones are: {near})")

    def add(self, line: Statement, name: str, scope: Scope, depth: int) -> None:
        """The node of one line, or the nodes of the block it names."""
        number, word = line.number, line.word.text
        if name in self.nodes or name in self.ends:
            self.fail(number, (line.name or line.word).column, f"the name {name!r} is taken")
        if len(self.nodes) >= MOST_NODES:
            self.fail(number, 1, f"the text unfolds to more than {MOST_NODES:,} nodes")
        if line.sources is not None:
            sources = tuple(self.resolve(number, t, scope) for t in line.sources)
        elif word in self.blocks:
            sources = () if scope.last is None else (scope.last,)
        else:
            reads = scope.last is not None and word in OPS and OPS[word].inputs[1]
            sources = (scope.last,) if reads and scope.last is not None else ()
        if word in self.blocks:
            scope.last = self.paste(line, name, sources, scope, depth)
            return
        if word not in OPS:
            self.fail(number, line.word.column, f"{word!r} is not an operator or block{_similar(word, self.blocks)}")
        self.places[name] = number
        self.nodes[name] = self.node(line, name, sources, scope)
        scope.last = name

    def paste(self, line: Statement, name: str, sources: tuple[str, ...], scope: Scope, depth: int) -> str:
        """Inserts the nodes of a block; returns the name of the last one, for which the block's name stands."""
        if depth >= MOST_DEPTH:
            self.fail(line.number, line.word.column, f"blocks are nested deeper than {MOST_DEPTH}")
        block = self.blocks[line.word.text]
        self.write(line.number, len(block.params))
        values = dict(block.params)
        order = iter(block.params)
        for token in line.args:
            key, equals, value = self.fill(line.number, token, scope).partition("=")
            if not equals:
                key, value = next(order, ""), key
            if key not in values:
                takes = ", ".join(list(values)[:20]) or "nothing"
                self.fail(line.number, token.column, f"block {line.word.text} takes {takes}")
            values[key] = value
        missing = [k for k, v in values.items() if v is None]
        if missing:
            self.fail(line.number, line.word.column, f"block {line.word.text} needs {missing[0]}")
        own = {k: v or "" for k, v in values.items()}
        inner = Scope(name + ".", ChainMap(own, self.params), sources)
        inner.last = sources[0] if sources else None
        self.unfold(block.lines, inner, depth + 1)
        self.ends[name] = last = name if inner.last is None else inner.last
        return last

    def node(self, line: Statement, name: str, sources: tuple[str, ...], scope: Scope) -> Node:
        number, word = line.number, line.word.text
        op = OPS[word]
        main = iter(op.main)
        attrs: dict[str, Any] = {}
        arrays: dict[str, str] = {}
        for token in line.args:
            text = self.fill(number, token, scope)
            key, equals, value = text.partition("=")
            if not equals or text.startswith('"'):
                key, value = next(main, ""), text
                if not key:
                    takes = ", ".join(op.main) or "no value"
                    self.fail(number, token.column, f"{text!r} is too much: {word} takes {takes} without a name")
            key = ALIASES.get(key, key)
            if key == "share":
                arrays = self.shared(number, Token(value, token.column), scope)
                continue
            if key not in op.attrs:
                has = ", ".join(SHORT.get(k, k) for k in op.attrs) or "none"
                self.fail(number, token.column, f"{word} has no attribute {key!r}; it has: {has}")
            if key in attrs:
                self.fail(number, token.column, f"{key} is given twice")
            try:
                if key == "kernel" and "/" in value:
                    value, _, stride = value.partition("/")
                    attrs["stride"] = _read(op.attrs["stride"], stride)
                attrs[key] = _read(op.attrs[key], self.unquote(number, value, token.column))
            except ValueError:
                kind, order = op.attrs[key].kind, ", ".join(op.main)
                said = {Kind.SIZE: ", such as 3x3"}.get(kind, "") + (f" ({word} takes {order})" if not equals else "")
                self.fail(number, token.column, f"{key}={value} is not {kind.value}{said}")
        try:
            node = Node.of(name, word, *sources, **attrs)
        except DojangError as error:
            self.fail(number, line.word.column, str(error))
        if not arrays:
            return node
        roles = arrays if "" not in arrays else {r: f"{arrays['']}.{r}" for r in node.rule.roles}
        return Node.of(name, word, *sources, arrays=roles, **attrs)

    def shared(self, number: int, token: Token, scope: Scope) -> dict[str, str]:
        """`share=conv1` as {"": "conv1"}, `share=weight:a.weight,bias:b.bias` by role."""
        text = self.unquote(number, token.text, token.column)
        if ":" in text:
            pairs = (part.partition(":") for part in _PAIR.findall(text))
            return {role: re.sub(r"\\(.)", r"\1", array) for role, _, array in pairs}
        inside = scope.prefix + text
        return {"": inside if inside in self.nodes else text}


def _numbers(match: re.Match[str]) -> int:
    """How many numbers a range {a..b} has; `MOST_NODES` + 1 if its ends have too many digits."""
    first, last = match.groups()
    if max(len(first), len(last)) > 12:
        return MOST_NODES + 1
    return int(last) - int(first) + 1


def _similar(word: str, blocks: Mapping[str, Block]) -> str:
    """A hint at the operator that may have been meant."""
    if word.lower() in ELSEWHERE:
        return f"; here it is {ELSEWHERE[word.lower()]}"
    return f"; {did_you_mean(word, (*OPS, *blocks), 'see docs/notation.md for the operators')}"


ELSEWHERE = {
    "linear": "dense", "fc": "dense", "bn": "batchnorm", "cat": "concat", "upsample": "resize", "gap": "global_avgpool",
    "relu6": "clip min=0 max=6", "depthwise": "conv with groups=channels", "deconv": "conv_transpose",
    "view": "reshape", "permute": "transpose",
}  # fmt: skip
"""Other names that people give to operators."""


def _int(text: str) -> int:
    """A whole number of at most 18 digits."""
    if len(text) > 19:
        raise ValueError
    return int(text)


def _read(spec: Attr, text: str) -> Any:
    """A value from its text, by the type of its attribute; raises ValueError."""
    match spec.kind:
        case Kind.INT:
            return _int(text)
        case Kind.FLOAT:
            return float(text)
        case Kind.BOOL:
            if text not in _BOOLS:
                raise ValueError
            return _BOOLS[text]
        case Kind.TEXT:
            return text
        case Kind.SIZE:
            return tuple(_int(part) for part in text.split("x"))
        case Kind.INTS:
            return () if text == "()" else tuple(_int(part) for part in text.split(","))
        case Kind.AXES:
            return tuple(_int(part) for part in re.split("[,x]", text))
        case Kind.FLOATS:
            return tuple(float(part) for part in text.split(","))
        case Kind.PADS:
            if text in ("same", "same-lower", "valid"):
                return text
            pairs = [part.split(":") for part in text.split(",")]
            if any(len(p) > 2 for p in pairs):
                raise ValueError
            return tuple((_int(p[0]), _int(p[-1])) for p in pairs)


_BOOLS = {"yes": True, "no": False, "true": True, "false": False}


# Writing


def _quote(name: str, always: bool = False) -> str:
    """A name or value as it is written: as it is if it reads as one word, else in quotes."""
    if not always and _PLAIN.fullmatch(name) and is_plain(name) and name not in DIRECTIVES and name != "_":
        return name
    # `shown` leaves only characters that a line and a terminal can show, so no name ends a line.
    escaped = shown(name.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{escaped}"'


def _meant(match: re.Match[str]) -> str:
    """The character that an escape within quotes stands for."""
    digits = match.group(1) or match.group(2) or match.group(3)
    return chr(int(digits, 16)) if digits else _ESCAPED.get(match.group(4), match.group(4))


def _node_line(graph: Graph, node: Node, before: str | None) -> str:
    op = node.rule
    words = [f"{_quote(node.name)}: {node.op}"]
    words += [_value(op.attrs[key], node.attrs[key]) for key in op.main]
    needed = {key: node.attrs[key] for key, spec in op.attrs.items() if spec.required}
    plain = normalise(node.op, op.attrs, needed)
    for key, value in node.attrs.items():
        if key not in op.main and value != plain[key]:
            words.append(f"{SHORT.get(key, key)}={_value(op.attrs[key], value)}")
        elif key not in op.main and op.attrs[key].required:
            words.append(f"{key}={_value(op.attrs[key], value)}")
    if node.arrays:
        owners = {array.removesuffix(f".{role}") for role, array in node.arrays.items()}
        owner = owners.pop() if len(owners) == 1 else ""
        whole = {role: f"{owner}.{role}" for role in node.rule.roles} == dict(node.arrays)
        pairs = ",".join(f"{role}:{_commas(array)}" for role, array in node.arrays.items())
        words.append(f"share={_quote(owner) if whole and ':' not in owner else _quote(pairs, always=True)}")
    follows = node.inputs == (before,) if op.inputs[1] else not node.inputs
    if not follows and node.inputs:
        words.append("<- " + ", ".join(_quote(i) for i in node.inputs))
    return " ".join(words)


def _commas(array: str) -> str:
    """The name of an array within `share=role:array,role:array`."""
    return array.replace("\\", "\\\\").replace(",", "\\,")


def _value(spec: Attr, value: Any) -> str:
    """A value as `_read` reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return _quote(value, always=spec.words == () and spec.kind is Kind.TEXT)
    if not isinstance(value, tuple):
        return repr(value)
    if spec.kind is Kind.SIZE:
        return "x".join(str(v) for v in value)
    if spec.kind is Kind.PADS:
        spreads = not spec.required and len({p for pair in value for p in pair}) == 1
        return str(value[0][0]) if spreads else _pads(value)
    if spec.kind is Kind.AXES and len(set(value)) == 1:
        return str(value[0])
    return ",".join(repr(v) for v in value) or "()"


def _pads(value: tuple[tuple[int, int], ...]) -> str:
    return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in value)

"""One self-contained HTML page: no network, light and dark, printable, usable without a mouse."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from dojang.base.version import __version__
from dojang.report.markup import escape

STYLE = """
:root{--bg:#fdfdfb;--fg:#1b1f24;--muted:#59626d;--rule:#d8dce1;--panel:#f4f4f0;
--a:#0b6b6b;--b:#8a5a00;--conv:#b8342a;--dense:#2a63a8;--plus:#17692f;--minus:#7a2f8f;
--good:#1a7f4b;--bad:#b3261e;--faint:#8b95a0;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e6e8eb;--muted:#9aa4af;--rule:#343a42;--panel:#1d2126;
--a:#5fd0d0;--b:#e6b450;--conv:#f08379;--dense:#78aef0;--plus:#66dd92;--minus:#dda4ee;
--good:#56c288;--bad:#ef7a72;--faint:#7b8590}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--rule)}
p{max-width:46rem;margin:.5rem 0}
.muted,footer,figcaption{color:var(--muted);font-size:.9rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem;min-width:50%}
th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid var(--rule);vertical-align:top}
th{font-weight:600;border-bottom:2px solid var(--rule);white-space:nowrap}
.num{text-align:right;white-space:nowrap}
tr.strong td:first-child{font-weight:600}
summary{cursor:pointer}
tfoot td{font-weight:600;border-top:2px solid var(--rule);border-bottom:0}
.good{color:var(--good)}.bad{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.7rem;margin:1rem 0}
.card{background:var(--panel);border-radius:.5rem;padding:.7rem .9rem}
.card b{display:block;font-size:1.2rem;line-height:1.3;white-space:nowrap}
.card span{color:var(--muted);font-size:.88rem}
figure{margin:1rem 0}
svg{width:100%;height:auto;font:13px system-ui,sans-serif;display:block}
svg text{fill:var(--fg)}svg .label{fill:var(--muted)}svg .head{font-weight:600}
svg .a{fill:var(--a)}svg .b{fill:var(--b)}svg .conv{fill:var(--conv)}svg .dense{fill:var(--dense)}
svg .plus{fill:var(--plus)}svg .minus{fill:var(--minus)}
svg .l0,svg .l3{fill:var(--a)}svg .l1,svg .l4{fill:var(--b)}svg .l2,svg .l5{fill:var(--minus)}
svg .good{fill:var(--good)}svg .bad{fill:var(--bad)}svg .faint{fill:var(--faint)}
svg .inside{fill:var(--bg);font-weight:600}
svg polyline{fill:none!important;stroke-width:2}
svg polyline.l0,svg polyline.l3{stroke:var(--a)}svg polyline.l1,svg polyline.l4{stroke:var(--b)}
svg polyline.l2,svg polyline.l5{stroke:var(--minus)}
svg polyline.l1{stroke-dasharray:7 3}svg polyline.l2{stroke-dasharray:2 3}svg polyline.l3{stroke-dasharray:11 3 2 3}
svg polyline.l4{stroke-dasharray:3 5}svg polyline.l5{stroke-dasharray:14 4}
svg polyline.a{stroke:var(--a)}svg polyline.b{stroke:var(--b)}svg polyline.faint{stroke:var(--faint)}
svg .image{fill:var(--panel);stroke:var(--fg);stroke-width:2}
svg .field{fill:none;stroke:var(--a);stroke-width:1.5}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .path{stroke:var(--muted);stroke-width:2}svg .cross{stroke:var(--a);stroke-dasharray:7 3}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--a)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
code{font-family:ui-monospace,monospace;font-size:.92em}
footer{margin-top:3rem;border-top:1px solid var(--rule);padding-top:.8rem}
@media(max-width:640px){figure{overflow-x:auto}figure>svg{min-width:46rem}
table.many thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.many,table.many tbody,table.many tfoot,table.many tr{display:block;min-width:0}
table.many tr{border:1px solid var(--rule);border-radius:.4rem;margin-bottom:.6rem;padding:.2rem .6rem}
table.many td{display:grid;grid-template-columns:8.5rem minmax(0,1fr);border:0;padding:.12rem 0;text-align:left;
overflow-wrap:anywhere;white-space:normal}
table.many td.none{display:none}
table.many td::before{content:attr(data-head);color:var(--muted)}}
@media(min-width:1040px){.scroll{width:fit-content;min-width:100%;max-width:calc(100vw - 4rem);position:relative;
left:50%;transform:translateX(-50%)}}
@media print{.scroll{overflow:visible;max-width:none;left:0;transform:none}details>*{display:block}
svg,tr{break-inside:avoid}}
"""

SORT = """
for(const table of document.querySelectorAll("table.sortable")){
const heads=[...table.tHead.rows[0].cells],body=table.tBodies[0],first=[...body.rows];
heads.forEach((head,column)=>{const button=document.createElement("button");button.append(...head.childNodes);
head.append(button);button.addEventListener("click",()=>{
const was=head.getAttribute("aria-sort"),next=was==="descending"?"ascending":was==="ascending"?null:"descending";
heads.forEach(h=>h.removeAttribute("aria-sort"));let rows=[...first];
if(next){head.setAttribute("aria-sort",next);
const key=row=>row.cells[column].dataset.value??row.cells[column].textContent;
rows.sort((x,y)=>{const a=key(x),b=key(y),d=isNaN(a)||isNaN(b)?String(a).localeCompare(b):a-b;
return next==="ascending"?d:-d})}
body.append(...rows)})})}
"""


def page(
    title: str, lead: str, sections: Sequence[tuple[str, str]], sortable: bool = False, pictures: bool = False
) -> str:
    """The page: a heading, a sentence, sections of (heading, HTML). `title` and `lead` are text, and escaped here.

    Its content policy forbids every request, so that nothing in it can reach the network; `pictures` allows images
    that are part of the page.
    """
    digest = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'" + (f"; script-src 'sha256-{digest}'" if sortable else "")
    policy += "; img-src data:" if pictures else ""
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>\n" for name, content in sections if content)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f'<h1>{escape(title)}</h1><p class="muted">{escape(lead)}</p>\n{body}'
        f"<footer>dojang {escape(__version__)}</footer></main>"
        f"{f'<script>{SORT}</script>' if sortable else ''}</body></html>\n"
    )


def figure(svg: str, caption: str = "") -> str:
    """A chart with its caption."""
    if not svg:
        return ""
    return f"<figure>{svg}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</p>"


def cards(items: Sequence[tuple[str, str]]) -> str:
    """Figures that a reader should see first: (figure, what it is)."""
    each = (f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in items)
    return f'<div class="cards">{"".join(each)}</div>'


MANY = 3
"""Tables with more columns are shown as cards where the window is narrow."""


def html_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str | tuple[str, float | int | None]]],
    numeric: Sequence[int] = (),
    footer: Sequence[str] = (),
    sortable: bool = False,
    strong: Sequence[int] = (),
) -> str:
    """A table of text. `numeric` columns are right-aligned; a cell (text, value) sorts by its value. `strong` are the
    places of rows that stand out.
    """

    many = len(heads) > MANY  # a row is a card on a phone

    def cell(tag: str, place: int, content: str | tuple[str, float | int | None]) -> str:
        kind = ' class="num"' if place in numeric else ""
        scope = ' scope="col"' if tag == "th" else ""
        if tag == "td" and many:
            kind += f' data-head="{escape(heads[place])}"'
        if many and tag == "td" and (content[0] if isinstance(content, tuple) else content) in ("", "-"):
            kind = kind.replace('class="num"', 'class="num none"') if "class" in kind else f' class="none"{kind}'
        if isinstance(content, tuple):
            text, value = content
            return f'<{tag}{kind}{scope} data-value="{-1 if value is None else value}">{escape(text)}</{tag}>'
        return f"<{tag}{kind}{scope}>{escape(content)}</{tag}>"

    marked = frozenset(strong)
    classes = " ".join(["sortable"] * sortable + ["many"] * many)
    said = f' class="{classes}"' if classes else ""

    def line(tag: str, cells: Sequence[str | tuple[str, float | int | None]], stands_out: bool = False) -> str:
        kind = ' class="strong"' if stands_out else ""
        return f"<tr{kind}>{''.join(cell(tag, i, c) for i, c in enumerate(cells))}</tr>"

    foot = f"<tfoot>{line('td', footer)}</tfoot>" if footer else ""
    body = "".join(line("td", row, place in marked) for place, row in enumerate(rows))
    return (
        f'<div class="scroll"><table{said}><thead>{line("th", heads)}</thead><tbody>{body}</tbody>{foot}</table></div>'
    )

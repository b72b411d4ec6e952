"""HTML by construction: text becomes markup in one place, and is escaped there.

A page is a tree of `tag(…)` calls. Whatever is not `Html` already is text of somebody: it is escaped, quotes included, and
control characters that HTML forbids are shown as the replacement character. Only this module makes `Html`. Pages hold no
script, no `style` attribute and no address outside this server, so their Content-Security-Policy needs one hash: the style
sheet's.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re

VOID = frozenset({"meta", "link", "img", "br"})
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(content: object) -> Html:
    """Escape a value of somebody as text of an element or attribute; Html stays as it is."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(_FORBIDDEN.sub("\ufffd", str(content)), quote=True))


def join(*parts: object) -> Html:
    """Put parts one after the other; None and False are left out."""
    return Html("".join(text(part) for part in parts if part is not None and part is not False))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Make an element.

    Args:
        name: the element, a word of ours.
        children: text or elements; None and False are left out.
        attributes: `class_` is class and `data_label` is data-label; None is left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items() if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


STYLE = Html("""
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5c6670;--line:#d9dee3;--back:#fff;--card:#f6f8fa;--link:#0a5bd3;
--mark:#0a7a5c;--good:#14713d;--bad:#b3261e;--wait:#8a5a00;--code:#f0f2f5}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#98a2ad;--line:#30363d;--back:#101418;--card:#171c22;--link:#6cb0ff;
--mark:#4fd1a5;--good:#5fd38d;--bad:#ff8a80;--wait:#f0b955;--code:#1d232a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,footer{max-width:1320px;margin:0 auto;padding:0 20px}
header{display:flex;flex-wrap:wrap;gap:4px 20px;align-items:baseline}
header{padding-top:18px;padding-bottom:14px;border-bottom:1px solid var(--line)}
header strong{font-size:17px}
header nav{display:flex;gap:16px;margin-left:auto}
footer{color:var(--soft);font-size:13px;padding-top:24px;padding-bottom:32px}
a{color:var(--link);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
h1{font-size:22px;line-height:1.3;margin:24px 0 6px;overflow-wrap:anywhere}
h2{font-size:16px;margin:32px 0 10px}
h3{font-size:14px;margin:0;overflow-wrap:anywhere}
p{margin:6px 0}
.soft{color:var(--soft)}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre,.code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px}
pre{background:var(--code);border-radius:6px;padding:10px 12px;margin:6px 0;overflow:auto;max-height:340px;white-space:pre-wrap;
overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th{font-weight:500;font-size:13px;color:var(--soft);text-align:left}
th.num{text-align:right}
td,th{padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere}
td.word{min-width:104px}
.line{white-space:nowrap}
td:first-child,th:first-child{padding-left:0}
td:last-child,th:last-child{padding-right:0}
tbody tr:hover{background:var(--card)}
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:20px 0 0;padding:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 16px;min-width:96px}
.tiles b{display:block;font-size:20px;font-weight:600;font-variant-numeric:tabular-nums}
.chips{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 10px;padding:0;list-style:none}
.chip{display:inline-block;border:1px solid var(--line);border-radius:12px;padding:0 9px;font-size:13px;line-height:22px;
overflow-wrap:anywhere;max-width:100%}
.chip.here{background:var(--ink);color:var(--back);border-color:var(--ink)}
.pairs span{display:inline-block;margin-right:12px;overflow-wrap:anywhere;max-width:100%}
.pairs i{font-style:normal;color:var(--soft)}
.status{white-space:nowrap;margin-right:8px}
.status::before{content:"";display:inline-block;width:8px;height:8px;border-radius:50%;background:currentColor;margin-right:7px}
.completed{color:var(--good)}.failed,.killed,.crashed{color:var(--bad)}.running,.pending{color:var(--wait)}
dl{display:grid;grid-template-columns:minmax(90px,max-content) minmax(0,1fr);gap:4px 18px;margin:0}
dt{color:var(--soft);overflow-wrap:anywhere}
dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
.links{margin-top:28px;color:var(--soft)}
.links a{margin-left:10px}
.note{white-space:pre-wrap;overflow-wrap:anywhere}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:0 40px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,270px),1fr));gap:14px}
.chart{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}
.chart p{display:flex;justify-content:space-between;gap:10px;margin:2px 0 6px;font-size:13px;color:var(--soft);
font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto}
svg .curve{fill:none;stroke:var(--mark);stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
svg .dot{fill:var(--mark)}
svg .grid{stroke:var(--line);stroke-width:1}
.figures{display:flex;flex-wrap:wrap;gap:14px;margin-top:14px}
.figures img{max-width:min(100%,420px);height:auto;border:1px solid var(--line);border-radius:8px;background:#fff}
details{margin:8px 0}
summary{cursor:pointer;color:var(--link)}
.route{border-top:1px solid var(--line);padding:18px 0 12px}
.route h3{font-size:15px}
.verb{font-weight:700;margin-right:8px}
@media (max-width:700px){header,main,footer{padding-left:14px;padding-right:14px}
.cards thead{display:none}
.cards,.cards tbody,.cards tr,.cards td{display:block;width:100%}
.cards tr{border:1px solid var(--line);border-radius:8px;background:var(--card);margin:0 0 10px;padding:8px 12px}
.cards td{border:0;padding:2px 0;display:flex;gap:12px;text-align:left;white-space:normal}
.cards td::before{content:attr(data-label);color:var(--soft);flex:0 0 84px;font-size:13px}
.cards td>*{min-width:0}
.cards td.empty{display:none}}
""")
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""How the Content-Security-Policy names the style sheet."""


def page(title: str, *body: object, project: str) -> str:
    """A whole document.

    Args:
        title: what the browser's tab says.
        body: the content of its main part.
        project: the installation's name.
    """
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title), tag("link", rel="icon", href="data:,"), tag("style", STYLE),
    )  # fmt: skip
    top = tag(
        "header", tag("strong", tag("a", project, href="/")),
        tag("nav", tag("a", "Runs as JSON", href="/runs"), tag("a", "Changes", href="/changes"), tag("a", "API", href="/schema")),
    )  # fmt: skip
    return "<!doctype html>\n" + tag("html", head, tag("body", top, tag("main", *body)), lang="en")


def table(columns: list[tuple[str, str]], rows: list[list[object]]) -> Html:
    """A table that turns into cards where the window is narrow.

    Args:
        columns: heading and class of each column; class `num` is set to the right.
        rows: a cell per column; a cell that is "" is left out of a card.
    """
    head = tag("tr", *(tag("th", name, class_=kind or None, scope="col") for name, kind in columns))
    body = [tag("tr", *(_cell(*column, cell) for column, cell in zip(columns, row, strict=True))) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="cards")


def _cell(name: str, kind: str, content: object) -> Html:
    if content == "":
        return tag("td", class_=f"{kind} empty".strip())
    return tag("td", tag("span", content), class_=kind or None, data_label=name)


def pairs(values: dict[str, object]) -> Html:
    """Names and values in a row."""
    return (
        tag("span", *(tag("span", tag("i", f"{name} "), value) for name, value in values.items()), class_="pairs")
        if values
        else Html("")
    )


def facts(values: dict[str, object]) -> Html:
    """Names and values below each other; values that are None or "" are left out."""
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in values.items() if value not in {None, ""}))

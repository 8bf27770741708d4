"""The few pieces of HTML that the report is made of; every text is escaped here."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --muted: #5c5c5c; --line: #dcdcdc; --blue: #0072b2 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1.25rem 4rem; background: #fff;
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2 }
h2 { margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 2px solid var(--ink);
  font-size: 1.3rem }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.05rem }
p { max-width: 46rem; margin: .5rem 0 }
a { color: var(--blue) }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 1.5rem }
.lead, figcaption, .note { color: var(--muted) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .75rem;
  margin: 1rem 0 }
.tile { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .4rem }
.tile b { display: block; font-size: 1.55rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.tile span { display: block; color: var(--muted); font-size: .85rem }
.scroll { overflow-x: auto }
td { white-space: nowrap }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .9rem }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }
thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
tr.winner td { font-weight: 600; background: #eef6fb }
figure { margin: 1.25rem 0 2rem }
figure img { display: block; max-width: 100%; height: auto }
figcaption { max-width: 46rem; margin-top: .4rem; font-size: .9rem }
pre { margin: .5rem 0; padding: .75rem 1rem; background: #f5f5f5; border-radius: .4rem;
  overflow-x: auto; font-size: .9rem }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt }
  nav { display: none }
  .scroll { overflow: visible }
  table { font-size: 7.5pt }
  th, td { padding-right: .5rem }
  h2, h3 { break-after: avoid }
  figure, .tile, tr { break-inside: avoid }
}
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Cell:
    """A right-aligned figure of a table."""

    text: str


def page(name: str, body: str) -> str:
    """A whole self-contained page; it can load nothing and run nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def title(text: str) -> str:
    """The page's title."""
    return f"<h1>{escape(text)}</h1>"


def navigation(anchors: dict[str, str]) -> str:
    """Links to sections: text -> anchor."""
    links = (f'<a href="#{escape(to)}">{escape(text)}</a>' for text, to in anchors.items())
    return f"<nav>{''.join(links)}</nav>"


def heading(text: str, anchor: str) -> str:
    """A section's title that links can point to."""
    return f'<h2 id="{escape(anchor)}">{escape(text)}</h2>'


def subheading(text: str) -> str:
    """A title inside a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(lines: list[str]) -> str:
    """An unordered list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def tile(label: str, value: str, detail: str) -> str:
    """A headline figure."""
    return (
        f'<div class="tile"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<span>{escape(detail)}</span></div>"
    )


def table(headers: list[str], rows: list[list[str | Cell]], winner: int | None = None) -> str:
    """A table; a column is right-aligned where its first row is a Cell."""
    kinds = [' class="number"' if isinstance(c, Cell) else "" for c in (rows[0] if rows else [])]
    kinds += [""] * (len(headers) - len(kinds))
    head = "".join(f"<th{k}>{escape(h)}</th>" for h, k in zip(headers, kinds, strict=True))
    body = "".join(
        f"<tr{' class=winner' if index == winner else ''}>{''.join(map(_cell, row))}</tr>\n"
        for index, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>"
    )


def image(png: bytes, alternative: str, caption: str) -> str:
    """A figure with its caption, the picture inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(alternative)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def commands(lines: list[str]) -> str:
    """Lines to type into a shell."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _cell(value: str | Cell) -> str:
    if isinstance(value, Cell):
        return f'<td class="number">{escape(value.text)}</td>'
    return f"<td>{escape(value)}</td>"

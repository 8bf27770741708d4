"""The few pieces of HTML that the report is made of; every text is escaped here."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --muted: #5c5c5c; --line: #dcdcdc; --blue: #0072b2;
  --page: #fff; --winner: #eef6fb; --code: #f5f5f5 }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #e6e6e6; --muted: #a6a6a6; --line: #3c3c3c; --blue: #6cb8ea;
    --page: #161616; --winner: #1c3140; --code: #242424 }
  figure img { filter: brightness(.88) }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1.25rem 4rem; background: var(--page);
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
.wide th, .wide td { padding-right: .6rem; font-size: .82rem }
td { white-space: nowrap }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .9rem }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }
thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
tr.winner td { font-weight: 600; background: var(--winner) }
figure { margin: 1.25rem 0 2rem }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .3rem }
figcaption { max-width: 46rem; margin-top: .4rem; font-size: .9rem }
figcaption b { color: var(--ink); font-weight: 600 }
pre { margin: .5rem 0; padding: .75rem 1rem; background: var(--code); border-radius: .4rem;
  overflow-x: auto; font-size: .9rem }
@media screen and (max-width: 44rem) {
  body { padding: 1rem .9rem 3rem }
  th, td { padding-right: .5rem }
  td { white-space: normal; overflow-wrap: anywhere }
  td.number { white-space: nowrap }
  td:first-child { overflow-wrap: break-word }
  figure .scroll img { max-width: none; width: 44rem }
  table.wide, .wide tbody, .wide tr, .wide td { display: block; text-align: left }
  .wide thead { display: none }
  .wide tr { padding: .5rem 0; border-bottom: 1px solid var(--ink) }
  .wide td, .wide td.number { display: flex; justify-content: space-between; gap: 1rem;
    padding: .15rem .3rem; border: 0; text-align: right }
  .wide td::before { content: attr(data-label); color: var(--muted); text-align: left }
}
@page { size: A4; margin: 12mm }
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; line-height: 1.35 }
  nav { display: none }
  p, figcaption { max-width: none }
  h1 { font-size: 16pt }
  h2 { margin: 5mm 0 2mm; padding-top: 1mm; font-size: 12pt }
  h3 { margin: 3mm 0 1mm; font-size: 10pt }
  .tiles { grid-template-columns: repeat(3, 1fr); gap: 2mm; margin: 2mm 0 }
  .tile { padding: 1mm 2mm }
  .tile b { font-size: 12pt }
  .scroll { overflow: visible }
  table { margin: 1mm 0 2mm; font-size: 7.5pt }
  table.wide { width: 100%; font-size: 6pt }
  th, td { padding: .5mm 2mm .5mm 0; white-space: normal }
  .wide th, .wide td { padding-right: 1mm; overflow-wrap: anywhere }
  h2, h3 { break-after: avoid }
  figure { margin: 2mm 0 4mm }
  figure img { max-height: 82mm; width: auto; max-width: 100% }
  figcaption { margin-top: 1mm; font-size: 8pt }
  figure, .tile, tr { break-inside: avoid }
}
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


WIDE = 5  # columns that a phone has no room for


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
        f"<tr{' class=winner' if index == winner else ''}>{_cells(headers, row)}</tr>\n"
        for index, row in enumerate(rows)
    )
    wide = ' class="wide"' if len(headers) > WIDE else ""  # on a phone each row becomes a list
    return (
        f'<div class="scroll"><table{wide}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>"
    )


def image(png: bytes, alternative: str, caption: str, reading: str) -> str:
    """A figure with its caption and how to read it, the picture inside the page."""
    data = base64.b64encode(png).decode("ascii")
    how = f" <b>How to read it:</b> {escape(reading)}" if reading else ""
    return (
        f'<figure><div class="scroll"><img alt="{escape(alternative)}"'
        f' src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{escape(caption)}{how}</figcaption></figure>"
    )


def commands(lines: list[str]) -> str:
    """Lines to type into a shell."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _cells(headers: list[str], row: list[str | Cell]) -> str:
    labels = [f' data-label="{escape(header)}"' for header in headers]
    if len(headers) <= WIDE:
        labels = [""] * len(headers)
    return "".join(map(_cell, row, labels))


def _cell(value: str | Cell, label: str) -> str:
    if isinstance(value, Cell):
        return f'<td class="number"{label}>{escape(value.text)}</td>'
    return f"<td{label}>{escape(value)}</td>"

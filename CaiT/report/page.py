# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page: its styles and images are inside, no script, nothing is fetched."""
from __future__ import annotations

import base64
import io
from html import escape
from typing import Any, Iterable, List, Sequence

import numpy as np
from PIL import Image

STYLE = """
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:#1c2128;background:#fff;
margin:0 auto;max-width:1240px;padding:16px}
h1{font-size:24px;margin:4px 0 2px;overflow-wrap:anywhere}
h2{font-size:19px;margin:32px 0 8px;border-bottom:1px solid #d8dee4;padding-bottom:4px}
h3{font-size:14px;margin:16px 0 4px}figure h3{margin-top:0}
p{margin:6px 0;max-width:75ch;overflow-wrap:anywhere}.note{color:#57606a;font-size:13px}
nav a{margin-right:14px;font-size:14px}a{color:#0550ae}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:16px}
figure{margin:0;padding:10px;border:1px solid #d8dee4;border-radius:6px;min-width:0}
figcaption{font-size:12px;color:#57606a;margin-top:2px}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#424a53}
svg .grid{stroke:#e6eaee;stroke-width:1}svg .axis{stroke:#6e7781;fill:none}
.key{display:inline-flex;align-items:center;margin-right:12px;overflow-wrap:anywhere}
.swatch{width:22px;flex:none;margin-right:5px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px 3px 0;text-align:left;vertical-align:top;border-bottom:1px solid #eaeef2}
th{font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}
td:not(.n){max-width:min(420px,46vw);overflow-wrap:break-word}
td:first-child:not(.n){min-width:min(120px,32vw)}.grid+.scroll{margin-top:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}
.tile{border:1px solid #d8dee4;border-radius:6px;padding:8px}.tile b{display:block;font-size:20px}
.tile span{font-size:12px;color:#57606a}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(155px,1fr));gap:10px}
.card{border:1px solid #d8dee4;border-radius:6px;padding:6px;font-size:12px;overflow-wrap:anywhere}
.card img,.card .missing{width:100%;aspect-ratio:1;object-fit:contain;background:#f6f8fa;display:block}
.card .note{font-size:12px;margin:2px 0 0}.card .missing{display:grid;place-items:center;color:#57606a}
.pixelated{image-rendering:pixelated}
.right{color:#116329}.wrong{color:#a40e26}
details{margin:8px 0}summary{cursor:pointer}
.sheets{display:flex;flex-wrap:wrap;gap:10px}.sheets img{max-width:100%;height:auto;display:block}
pre{font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f8fa;padding:8px;border-radius:6px}
"""


class Html(str):
    """Text that is HTML already and is not escaped again."""


def html(value: Any) -> str:
    """A value as HTML; text is escaped, ``Html`` left as it is."""
    return str(value) if isinstance(value, Html) else escape(str(value))


def page(title: str, subtitle: str, sections: Iterable[str], refresh: int = 0) -> str:
    """The document. ``refresh``: seconds after which a browser loads the file again, 0 for never."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ''
    text = (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{again}'
            '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
            f'<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n'
            f'<p class="note">{html(subtitle)}</p>\n' + '\n'.join(sections) + '\n</body></html>\n')
    return text.encode('utf-8', 'backslashreplace').decode('utf-8')  # a name from disk may be no Unicode


def section(title: str, *parts: str) -> Html:
    """A heading with its anchor and what stands below it."""
    anchor = ''.join(letter if letter.isalnum() else '-' for letter in title.lower())
    return Html(f'<section id="{anchor}"><h2>{escape(title)}</h2>\n' + '\n'.join(parts) + '</section>')


def heading(title: str) -> Html:
    """Of a part of a section."""
    return Html(f'<h3>{escape(title)}</h3>')


def isolated(text: Any) -> Html:
    """A name inside a line: in a script that runs from right to left it does not turn what stands around it."""
    return Html(f'<bdi>{html(text)}</bdi>')


def note(text: Any) -> Html:
    return Html(f'<p class="note">{html(text)}</p>')


def figure(title: str, drawing: str, caption: Any = '') -> Html:
    caption = f'<figcaption>{html(caption)}</figcaption>' if caption else ''
    return Html(f'<figure><h3>{escape(title)}</h3>{drawing}{caption}</figure>')


def grid(figures: Iterable[str]) -> Html:
    return Html('<div class="grid">' + ''.join(figures) + '</div>')


def tiles(values: Sequence[tuple]) -> Html:
    """(what, value, further words) side by side."""
    cells = (f'<div class="tile"><span>{html(name)}</span><b>{html(value)}</b><span>{html(more)}</span></div>'
             for name, value, more in values)
    return Html('<div class="tiles">' + ''.join(cells) + '</div>')


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], text_columns: Iterable[int] = (0,)) -> Html:
    """A table that scrolls by itself on a narrow screen; columns other than ``text_columns`` are aligned right."""
    text_columns = set(text_columns)

    def cell(tag: str, index: int, value: Any) -> str:
        return f'<{tag}{"" if index in text_columns else " class=n"}>{html(value)}</{tag.split()[0]}>'
    lines: List[str] = ['<div class="scroll" tabindex="0"><table><thead><tr>']  # the keyboard scrolls it too
    lines += [cell('th scope="col"', index, value) for index, value in enumerate(header)]
    lines.append('</tr></thead><tbody>')
    for row in rows:
        lines.append('<tr>' + ''.join(cell('td', index, value) for index, value in enumerate(row)) + '</tr>')
    return Html(''.join(lines) + '</tbody></table></div>')


def percent(value: float, digits: int = 2) -> str:
    """A fraction as a percentage; a dash where it is not defined."""
    return '–' if value is None or not np.isfinite(value) else f'{100 * value:.{digits}f}%'


def counted(count: int, what: str) -> str:
    """'1 class', '2 classes'."""
    plural = what + ('es' if what.endswith('s') else 's')
    return f'{count:,} {what if count == 1 else plural}'


def png_uri(image: Image.Image) -> str:
    """An image as a data URI, without loss."""
    return _uri(image, 'png')


def thumbnail_uri(image: Image.Image, side: int = 160) -> str:
    """A small copy as a data URI: JPEG, or PNG as it is for images smaller than ``side``."""
    image = image.convert('RGB')
    if max(image.size) <= 64:
        return _uri(image, 'png')
    image = image.copy()
    image.thumbnail((side, side))
    return _uri(image, 'jpeg', quality=80)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode("ascii")}'

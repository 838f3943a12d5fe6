"""SVG of a painting: light and dark, with ids and data for scripts, and nothing that runs or loads anything."""

from __future__ import annotations

import html
import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape
from fxgrad.render.drawing.metrics import is_measured
from fxgrad.render.drawing.paint import TIP_HALF, TIP_LENGTH, Area, Curve, Item, Painting, Part, Polyline, Words
from fxgrad.render.pictures import theme

_DASHES = {"solid": "", "dashed": "6 3", "dotted": "1.5 3"}
_FONTS = "Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif"


class _Style(NamedTuple):
    """What a class stands for: colours on a light page, and what else is equal in the dark.

    ``tip`` is the colour of an arrow's head, ``end`` the number of the head at a line's end.
    """

    fill: str | None = None
    line: str | None = None
    text_on: str | None = None
    tip: str | None = None
    end: int | None = None
    rest: str = ""


class _Styles:
    """Names for the styles that occur."""

    def __init__(self) -> None:
        self.names: dict[_Style, str] = {}
        self.tips: dict[str, int] = {}

    def name(self, style: _Style) -> str:
        return self.names.setdefault(style, f"s{len(self.names)}")

    def write_tips(self, name: str) -> Iterator[str]:
        """The heads of arrows of the picture of that name, one of each colour: they begin where a line ends."""
        size = (
            f'markerUnits="userSpaceOnUse" markerWidth="{TIP_LENGTH}" markerHeight="{2 * TIP_HALF}" refY="{TIP_HALF}"'
        )
        shape = f"M0 0L{TIP_LENGTH} {TIP_HALF}L0 {2 * TIP_HALF}z"
        for line, number in self.tips.items():
            colour = self.name(_Style(tip=line))
            yield f'<marker id="{name}-tip{number}" {size} orient="auto"><path class="{colour}" d="{shape}"/></marker>'

    def write(self, name: str) -> Iterator[str]:
        """The style sheet of the picture of that name. A sheet inside a page is for the whole page: other pictures have other
        names, and what is no picture has none."""
        of = f".{name} "
        yield f"{of}text{{font-family:{_FONTS}}}{of}path,{of}rect{{fill:none}}"
        yield f"{of}.page{{fill:{theme.PAGE}}}"
        for style, each in self.names.items():
            end = "" if style.end is None else f";marker-end:url(#{name}-tip{style.end})"
            yield f"{of}.{each}{{{_write_colours(style)}{style.rest}{end}}}"
        dark = "".join(f"{of}.{each}{{{_write_colours(style, is_dark=True)}}}" for style, each in self.names.items())
        yield f"@media (prefers-color-scheme:dark){{{of}.page{{fill:{theme.DARK_PAGE}}}{dark}}}"


def _write_colours(style: _Style, *, is_dark: bool = False) -> str:
    parts = []
    if style.text_on is not None:
        on = theme.darken_fill(style.text_on) if is_dark else style.text_on
        parts.append(f"fill:{theme.pick_text_colour(on)}")
    if style.fill is not None:
        parts.append(f"fill:{theme.darken_fill(style.fill) if is_dark else style.fill}")
    if style.line is not None:
        parts.append(f"stroke:{theme.lighten_line(style.line) if is_dark else style.line}")
    if style.tip is not None:
        parts.append(f"fill:{theme.lighten_line(style.tip) if is_dark else style.tip}")
    return ";".join(parts)


def write_svg(painting: Painting, *, link_base: str | None = None) -> str:
    """Write a painting as SVG; with a ``link_base``, what comes from a line of a file links to that line below it.

    Raises `UsageError` for an address of another kind than https and http.
    """
    if link_base is not None:
        check_address(link_base)
    styles = _Styles()
    groups = [_write_item(item, styles, link_base) for item in painting.items]
    width, height = _number(painting.width), _number(painting.height)
    name = f"f{zlib.crc32(''.join(groups).encode()):08x}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fxgrad {name}" '
        f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}">'
    )
    tips = f"<defs>{''.join(styles.write_tips(name))}</defs>"
    sheet = f"<style>{''.join(styles.write(name))}</style>"
    page = f'<rect class="page" width="{width}" height="{height}"/>'
    return "\n".join([head, sheet, tips, page, *groups, "</svg>", ""])


def _write_item(item: Item, styles: _Styles, link_base: str | None) -> str:
    content = "".join(_write_part(part, styles) for part in item.parts)
    title = f"<title>{_quote(chr(10).join(item.tooltip))}</title>" if item.tooltip else ""
    return f"<g {' '.join(_list_attributes(item))}>{title}{_link(item, content, link_base)}</g>"


def _list_attributes(item: Item) -> Iterator[str]:
    yield f'id="{item.key}"'
    yield f'class="{item.kind}"'
    if item.ends is not None:
        yield f'data-tail="{item.ends[0]}" data-head="{item.ends[1]}"'
    identity = item.identity
    if identity.label:
        yield f'data-kind="{identity.kind}"'
        yield f'data-label="{_quote(escape(identity.label))}"'
        if identity.module is not None:
            yield f'data-module="{_quote(escape(identity.module))}"'
        if identity.source is not None:
            yield f'data-source="{_quote(escape(identity.source))}:{identity.line}"'


def _link(item: Item, content: str, base: str | None) -> str:
    source = item.identity.source
    if (
        base is None or source is None or os.path.isabs(source)
    ):  # it is outside of the folder that the address stands for
        return content
    address = f"{base.rstrip('/')}/{quote(source)}#L{item.identity.line}"
    return f'<a href="{_quote(address)}">{content}</a>'


def check_address(link_base: str) -> None:
    """Raise `UsageError` for an address that a link in a picture should not lead to."""
    if not link_base.startswith(("https://", "http://")):
        raise UsageError(
            f'link_base "{escape(link_base)}"',
            "an address that begins with https:// or http://",
            '"https://github.com/owner/name/blob/COMMIT"',
        )


def _quote(text: str) -> str:
    return html.escape(text)


def _number(value: float) -> str:
    """A number with at most one digit behind the point.

    >>> _number(3.0), _number(-0.04), _number(2.25)
    ('3', '0', '2.2')
    """
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def _write_part(part: Part, styles: _Styles) -> str:
    if isinstance(part, Words):
        return _write_words(part, styles)
    if isinstance(part, Area):
        return _write_area(part, styles)
    if isinstance(part, Polyline):
        name = styles.name(_Style(line=part.line, rest=f";stroke-width:{_number(part.width)}"))
        return f'<path class="{name}" d="{_join_points(part.points)}"/>'
    return _write_curve(part, styles)


def _join_points(points: tuple[tuple[float, float], ...]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _write_area(part: Area, styles: _Styles) -> str:
    rest = f";stroke-width:{_number(part.width)}" if part.line else ""
    name = styles.name(_Style(fill=part.fill, line=part.line, rest=rest + _write_dash(part.dash)))
    left, top = min(x for x, _ in part.points), min(y for _, y in part.points)
    right, bottom = max(x for x, _ in part.points), max(y for _, y in part.points)
    if set(part.points) == {(left, top), (right, top), (right, bottom), (left, bottom)}:
        size = (
            f'x="{_number(left)}" y="{_number(top)}" width="{_number(right - left)}" height="{_number(bottom - top)}"'
        )
        corner = f' rx="{_number(part.round)}"' if part.round else ""
        return f'<rect class="{name}" {size}{corner}/>'
    return f'<path class="{name}" d="{_join_points(part.points)}z"/>'


def _write_curve(part: Curve, styles: _Styles) -> str:
    rest = f";stroke-width:{_number(part.width)}{_write_dash(part.dash)}"
    # the tip of an arrow of that colour is at its end
    end = styles.tips.setdefault(part.line, len(styles.tips)) if part.tip else None
    name = styles.name(_Style(line=part.line, rest=rest, end=end))
    first, *others = (f"{x:.0f} {y:.0f}" for x, y in part.points)
    return f'<path class="{name}" d="M{first}C{" ".join(others)}"/>'


def _write_dash(dash: str) -> str:
    return f";stroke-dasharray:{_DASHES[dash]}" if _DASHES[dash] else ""


def _write_words(part: Words, styles: _Styles) -> str:
    rest = f";font-size:{part.size}px" + (";font-weight:bold" if part.bold else "")
    rest += ";text-anchor:middle" if part.centred else ""
    name = styles.name(_Style(text_on=part.on, rest=rest))
    # a font may have wider letters than the table reckons with, where it does not know them
    length = "" if is_measured(part.text) else f' textLength="{_number(part.width)}" lengthAdjust="spacingAndGlyphs"'
    return f'<text class="{name}" x="{_number(part.x)}" y="{_number(part.y)}"{length}>{_quote(part.text)}</text>'

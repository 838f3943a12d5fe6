"""Labels in Graphviz's HTML-like notation: lines of text in boxes that are wide enough for any font."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable

from fxgrad.render import theme
from fxgrad.render.drawing.legend import Entry
from fxgrad.render.drawing.shapes import Cluster, Line
from fxgrad.render.escaping import ems, html_text
from fxgrad.render.theme import Flow

BOX_SIZE = 11
SMALL_SIZE = 10
HEADLINE_SIZE = 13
BOLD = 1.14
"""How much wider bold letters are."""
ENTRY_WIDTH = 30
LEFT, RIGHT = ' ALIGN="LEFT"', ' ALIGN="RIGHT"'


def box_label(lines: Iterable[Line], fill: str) -> str:
    """The lines of a box below each other; a hook's line stands on its kind's colour."""
    return _table(_row(line, fill) for line in lines)


def _row(line: Line, fill: str) -> str:
    background = fill if line.hook is None else theme.HOOK_FILLS[line.hook]
    text = html_text(line.text)
    colour = f'<FONT COLOR="{theme.text_on(background)}">{f"<B>{text}</B>" if line.bold else text}</FONT>'
    chip = f' BGCOLOR="{background}" STYLE="ROUNDED"' if background != fill else ""
    width = ems(line.text) * BOX_SIZE * (BOLD if line.bold else 1)
    return _cell(colour, width=width, attributes=chip)


def arrow_label(lines: Iterable[str]) -> str:
    """The lines on an arrow, on a plate that keeps them readable over anything but leaves the arrow itself free."""
    plate = _table(
        (_cell(html_text(line), width=ems(line) * SMALL_SIZE) for line in lines),
        attributes=f' BGCOLOR="{theme.LABEL_FILL}" STYLE="ROUNDED"',
    )
    return _table([f"<TD>{plate[1:-1]}</TD>"])


def cluster_label(cluster: Cluster, *, is_turned: bool = False) -> str:
    """The path of a module in bold, and below it its type and which call this is: on the left, or turned to the right.

    As much room again is left free beside it, where most arrows come in: they are drawn over it.
    """
    side = RIGHT if is_turned else LEFT
    notes = " · ".join(cluster.notes)
    width = max(ems(cluster.title) * BOLD, ems(notes)) * BOX_SIZE
    title = _cell(f"<B>{html_text(cluster.title)}</B>", width=2 * width, attributes=side)
    return _table([title, _cell(html_text(notes), width=0, attributes=side)] if notes else [title])


def headline_label(lines: Iterable[str]) -> str:
    """What stands above the legend."""
    return _table(_cell(html_text(line), width=ems(line) * HEADLINE_SIZE) for line in lines)


def entry_label(entry: Entry) -> str:
    """A legend sample's meaning; a line's stands beside a piece of the line."""
    words = textwrap.wrap(entry.meaning, ENTRY_WIDTH, break_long_words=False)
    fill = theme.HOOK_FILLS[entry.hook] if entry.hook else entry.look.fill
    label = box_label([Line(line) for line in words], fill)
    return label if entry.flow is None else _beside(_line_sample(entry.flow), label)


def _beside(left: str, right: str) -> str:
    return _table([f"<TD>{left[1:-1]}</TD><TD>{right[1:-1]}</TD>"])


def _line_sample(flow: Flow) -> str:
    """A piece of line: the lower border of an empty cell."""
    style = "" if flow is Flow.GRADIENT else f' STYLE="{flow.value.upper()}"'
    line = f'<TD SIDES="B" BORDER="2" COLOR="{theme.EDGE_LINE}" WIDTH="34" HEIGHT="8"{style}></TD>'
    return _table([line, '<TD HEIGHT="8"></TD>'])


def _cell(content: str, *, width: float, attributes: str = "") -> str:
    return f'<TD WIDTH="{math.ceil(width)}"{attributes}>{content}</TD>'


def _table(rows: Iterable[str], *, attributes: str = "") -> str:
    inside = "".join(f"<TR>{row}</TR>" for row in rows)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="1" CELLPADDING="2"{attributes}>{inside}</TABLE>>'

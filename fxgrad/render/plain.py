"""A document as plain text of a given width. Only a name that is longer than the width makes a longer line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from unicodedata import combining, east_asian_width

from fxgrad.graph.text import escape_unprintable
from fxgrad.render.document import Block, Document, Paragraph, Section, Table, Terms, is_spaced

_STEP = "  "
_GAP = "  "
_TITLE_GAP = "   "
_CONTINUED = "    "
_LEAST_CELL = 16
"""A column that is narrower than this reads badly: then each row is written as the parts of a title are."""


def plain(document: Document, *, width: int) -> str:
    """Write a document as text."""
    return "\n".join(_body(document, "", width, 0)) + "\n"


def cells(text: str) -> int:
    """How many columns of a terminal the text takes.

    >>> cells("abc"), cells("日本")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def wrapped(words: Iterable[str], first: str, rest: str, width: int, *, gap: str = " ") -> Iterator[str]:
    """Fill lines with words, the first line behind ``first``, the others behind ``rest``.

    >>> list(wrapped("which node is it on".split(), "- ", "  ", 12))
    ['- which node', '  is it on']
    """
    line, empty = first, True
    for word in words:
        if not empty and cells(line) + len(gap) + cells(word) > width:
            yield line.rstrip()
            line, empty = rest, True
        line = line + word if empty else f"{line}{gap}{word}"
        empty = False
    yield line.rstrip()


def _words(text: str) -> list[str]:
    return escape_unprintable(text).split(" ")


def _body(blocks: Sequence[Block], indent: str, width: int, depth: int) -> Iterator[str]:
    for before, block in zip((None, *blocks), blocks, strict=False):
        if is_spaced(before, block, depth):
            yield ""
        yield from _block(block, indent, width, depth)


def _block(block: Block, indent: str, width: int, depth: int) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield from wrapped(_words(text), indent, indent + _STEP * min(depth, 1), width)
        case Terms(items):
            yield from _terms(items, indent, width)
        case Table():
            yield from _table(block, indent, width)
        case Section(title, body):
            yield from _title(title, indent, width)
            yield from _body(body, indent + _STEP, width, depth + 1)


def _title(parts: Sequence[str], indent: str, width: int) -> Iterator[str]:
    """Parts side by side; one that is longer than a line starts a line and is wrapped."""
    start = indent
    line: list[str] = []
    for part in map(escape_unprintable, filter(None, parts)):
        if line and cells(_TITLE_GAP.join([start, *line, part])) - len(_TITLE_GAP) > width:
            yield from wrapped(_TITLE_GAP.join(line).split(" "), start, indent + _CONTINUED, width)
            start, line = indent + _CONTINUED, []
        line.append(part)
    yield from wrapped(_TITLE_GAP.join(line).split(" "), start, indent + _CONTINUED, width)


def _terms(items: Sequence[tuple[str, str]], indent: str, width: int) -> Iterator[str]:
    room = max(cells(escape_unprintable(label)) for label, _ in items)
    rest = indent + " " * room + _GAP
    for label, text in items:
        yield from wrapped(_words(text), indent + _padded(escape_unprintable(label), room) + _GAP, rest, width)


def _padded(text: str, room: int) -> str:
    return text + " " * (room - cells(text))


def _table(table: Table, indent: str, width: int) -> Iterator[str]:
    rows = [[escape_unprintable(cell) for cell in row] for row in table.rows]
    shown = [list(table.columns), *rows] if table.headed else rows
    rooms = _rooms(shown, width - len(indent))
    for row in rows if rooms is None else shown:
        yield from _title(row, indent, width) if rooms is None else _row(row, rooms, indent)


def _rooms(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """How wide each column is: as wide as it needs to be, else the widest ones narrowed; None where too narrow."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    rooms = [max(map(cells, column)) for column in columns]
    least = [max(cells(word) for cell in column for word in cell.split(" ")) for column in columns]
    least = [min(room, max(word, _LEAST_CELL)) for room, word in zip(rooms, least, strict=True)]
    excess = sum(rooms) + len(_GAP) * (len(rooms) - 1) - width
    if excess > sum(rooms) - sum(least):
        return None
    while excess > 0:
        widest = max((index for index, room in enumerate(rooms) if room > least[index]), key=rooms.__getitem__)
        rooms[widest] -= 1
        excess -= 1
    return rooms


def _row(row: Sequence[str], rooms: Sequence[int], indent: str) -> Iterator[str]:
    columns = [list(wrapped(cell.split(" "), "", "", room)) for cell, room in zip(row, rooms, strict=True)]
    for number in range(max(map(len, columns))):
        parts = [column[number] if number < len(column) else "" for column in columns]
        yield (indent + _GAP.join(map(_padded, parts, rooms))).rstrip()

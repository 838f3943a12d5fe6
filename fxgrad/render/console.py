"""A document as rich renderables, for a terminal with colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fxgrad.graph.text import escape_unprintable
from fxgrad.render.document import PLAIN, Block, Document, Paragraph, Section, Table, Terms, is_spaced, spans

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_CODE = "cyan"
_TONES = {PLAIN: "bold", "info": "bold blue", "warning": "bold yellow", "error": "bold red"}


def rich_document(document: Document) -> RenderableType:
    """Write a document as one renderable; rich wraps it to the terminal."""
    return _body(document, 0)


def _body(blocks: Sequence[Block], depth: int) -> RenderableType:
    from rich.console import Group

    parts: list[RenderableType] = []
    for before, block in zip((None, *blocks), blocks, strict=False):
        if is_spaced(before, block, depth):
            parts.append("")
        parts.append(_block(block, depth))
    return Group(*parts)


def _block(block: Block, depth: int) -> RenderableType:
    match block:
        case Paragraph(text):
            return _text(text)
        case Terms():
            return _terms(block)
        case Table():
            return _table(block)
        case Section(title, body):
            return _section(title, body, depth)


def _text(text: str, *, style: str = "") -> Text:
    from rich.text import Text

    return Text.assemble(
        *((escape_unprintable(part), _CODE if is_code else "") for part, is_code in spans(text)), style=style
    )


def _terms(terms: Terms) -> RenderableType:
    from rich.table import Table as Grid

    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for number, (label, text) in enumerate(terms.items):
        grid.add_row(_text(label, style="dim" if number else _TONES[terms.tone]), _text(text))
    return grid


def _table(table: Table) -> RenderableType:
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=table.headed, header_style="bold")
    for name in table.columns:
        grid.add_column(_text(name), overflow="fold")
    for row in table.rows:
        grid.add_row(*map(_text, row))
    return grid


def _section(title: Sequence[str], body: Sequence[Block], depth: int) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts = [_text(part, style="" if number else "bold") for number, part in enumerate(filter(None, title))]
    return Group(Text("   ").join(parts), Padding(_body(body, depth + 1), (0, 0, 0, 2)))

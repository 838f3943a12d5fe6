"""A text before it has a form: sections, paragraphs, labelled texts and tables, for the renderers beside this module.

Every text in a document is one paragraph of prose in which backticks mark code; renderers escape what their notation
gives a meaning, so nothing in a document is escaped for one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PLAIN = "plain"
"""The tone of a block that is no finding; the others are the severities of explanations."""


_SPACED_DEPTH = 1


class Span(NamedTuple):
    """A part of a text: prose, or code that was between backticks."""

    text: str
    is_code: bool


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One text."""

    text: str


@dataclass(frozen=True, slots=True)
class Terms:
    """Texts with labels, aligned: ``(("because", "..."), ("fix", "..."))``. ``tone`` colours the first label."""

    items: tuple[tuple[str, str], ...]
    tone: str = PLAIN


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, one for each column. The header is shown where ``headed``; Markdown has no tables without."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    headed: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A title in parts, kept apart by space, and what stands under it."""

    title: tuple[str, ...]
    body: tuple[Block, ...] = ()


Block = Paragraph | Terms | Table | Section
Document = tuple[Block, ...]


def is_spaced(before: Block | None, block: Block, depth: int) -> bool:
    """Whether an empty line goes before the block: the two outer levels of sections stand apart from what is around."""
    if depth > _SPACED_DEPTH:
        return False
    return isinstance(before, Section) or (isinstance(block, Section) and (before is not None or depth > 0))


def spans(text: str) -> tuple[Span, ...]:
    """Split a text at its backticks; an odd one out stays what it is.

    >>> spans("hook `show` on `a`")
    (Span(text='hook ', is_code=False), Span(text='show', is_code=True), Span(text=' on ', is_code=False), \
Span(text='a', is_code=True))
    >>> spans("an odd ` one")
    (Span(text='an odd ` one', is_code=False),)
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = [f"{parts[-2]}`{parts[-1]}"]
    return tuple(Span(part, bool(number % 2)) for number, part in enumerate(parts) if part)

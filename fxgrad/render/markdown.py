"""A document as GitHub-flavoured Markdown. Nothing of the user's becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fxgrad.graph.text import escape_unprintable
from fxgrad.render.document import Block, Document, Paragraph, Section, Span, Table, Terms, split_code

_HEADINGS = ("##", "###")
_SPECIAL = re.compile(r"[\\`*_\[\]<>#|~&$]|(?<=www)\.|:(?=//)")
_LIST_MARK = re.compile(r"^(\d*)([-+.)])")


def format_markdown(document: Document, *, title: str | None = None) -> str:
    """Write a document as Markdown, its outer sections as headings of the second and third level."""
    return "\n\n".join([*([] if title is None else [f"# {title}"]), *_format_blocks(document, 0)]) + "\n"


def escape_prose(text: str) -> str:
    r"""Write a text, with its code between backticks, so that nothing else in it is markup.

    >>> print(escape_prose("`a|b` is <i>*not*</i>"))
    `a|b` is \<i\>\*not\*\</i\>
    >>> print(escape_prose("1. no list"))
    1\. no list
    """
    return _LIST_MARK.sub(r"\1\\\2", "".join(map(_format_span, split_code(escape_unprintable(text)))))


def escape_cell(text: str) -> str:
    r"""Write a text for a table. A pipe would end the cell even in code, so code that holds one becomes prose.

    >>> print(escape_cell("`a|b` and `c`"))
    a\|b and `c`
    """
    parts = (
        _escape_span(part) if "|" in part.text else _format_span(part) for part in split_code(escape_unprintable(text))
    )
    return "".join(parts)


def _format_span(span: Span) -> str:
    return f"`{span.text}`" if span.is_code else _escape_span(span)


def _escape_span(span: Span) -> str:
    return _SPECIAL.sub(r"\\\g<0>", span.text)


def _format_blocks(blocks: Sequence[Block], depth: int) -> Iterator[str]:
    for block in blocks:
        match block:
            case Paragraph(text):
                yield escape_prose(text)
            case Terms(items):
                yield "\n".join(f"- **{escape_prose(label)}** {escape_prose(text)}" for label, text in items)
            case Table():
                yield "\n".join(_format_table(block))
            case Section(title, body):
                yield _format_title(title, depth)
                yield from _format_blocks(body, depth + 1)


def _format_title(parts: Sequence[str], depth: int) -> str:
    text = " · ".join(escape_prose(part) for part in parts if part)
    return f"{_HEADINGS[depth]} {text}" if depth < len(_HEADINGS) else f"**{text}**"


def _format_table(table: Table) -> Iterator[str]:
    yield _format_row(table.columns)
    yield _format_row(["---"] * len(table.columns))
    yield from map(_format_row, ([escape_cell(text) for text in row] for row in table.rows))


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

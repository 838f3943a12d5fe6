"""A report as GitHub-flavoured Markdown. Nothing of the user's can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from fxgrad.graph import BackwardGraph, Explanation
from fxgrad.render.document import Block, Document, Paragraph, Section, Table, Terms, spans
from fxgrad.render.report import report_document
from fxgrad.rules.phrases import printable

_HEADINGS = 3
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~$&:@=])")


def report_markdown(graph: BackwardGraph, explanations: Sequence[Explanation], *, picture: str | None = None) -> str:
    """Write the whole report as Markdown, with the picture at ``picture``, a relative path or URL, under the title."""
    image = [f"![The backward graph](<{_link(picture)}>)"] if picture else []
    return "\n\n".join(["# Backward graph", *image, *_blocks(report_document(graph, explanations), 0)]) + "\n"


def markdown(document: Document) -> str:
    """Write a document as Markdown."""
    return "\n\n".join(_blocks(document, 0)) + "\n"


def inline(text: str) -> str:
    r"""A text, with its code between backticks, where nothing else is markup.

    >>> print(inline("`a|b` is <i>*not*</i>"))
    `a|b` is \<i\>\*not\*\</i\>
    """
    return "".join(_code(part) if is_code else _prose(part) for part, is_code in spans(text))

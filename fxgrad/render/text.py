"""The answers as text: for a terminal through rich, for everything else as plain text of a given width."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fxgrad.graph import BackwardGraph, Explanation, HookSite
from fxgrad.render.console import rich_document
from fxgrad.render.document import Document
from fxgrad.render.explain import explain_document
from fxgrad.render.order import order_document
from fxgrad.render.plain import plain
from fxgrad.render.report import report_document

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 100


def explain_text(
    graph: BackwardGraph, explanations: Iterable[Explanation], *, module: str | None = None, width: int = _WIDTH
) -> str:
    """Answer, for every hook or those of one module, which node it sits on, what it will receive and why.

    ``module`` is a path that named_modules() lists; the hooks on its parameters come along. ``width`` is in columns;
    only a name that is longer makes a longer line. Sites that say the same but for numbers are told once.

    Raises `UsageError` for a path that no module has, with the nearest ones.
    """
    return plain(explain_document(graph, explanations, module=module), width=width)


def report_text(graph: BackwardGraph, explanations: Iterable[Explanation], *, width: int = _WIDTH) -> str:
    """Write the report on a whole graph; its first line says what backward starts from. See `explain_text`."""
    return plain(report_document(graph, explanations), width=width)


def order_text(graph: BackwardGraph, *, wanted: Callable[[HookSite], bool], width: int = _WIDTH) -> str:
    """Say in which order the hooks at the `wanted` sites are called. See `explain_text`."""
    return plain(order_document(graph, wanted=wanted), width=width)


def order_rich(graph: BackwardGraph, *, wanted: Callable[[HookSite], bool]) -> RenderableType:
    """What `order_text` says, for ``rich.console.Console.print``."""
    return rich_document(order_document(graph, wanted=wanted))


def explain_rich(
    graph: BackwardGraph, explanations: Iterable[Explanation], *, module: str | None = None
) -> RenderableType:
    """What `explain_text` says, for ``rich.console.Console.print``."""
    return rich_document(explain_document(graph, explanations, module=module))


def report_rich(graph: BackwardGraph, explanations: Iterable[Explanation]) -> RenderableType:
    """What `report_text` says, for ``rich.console.Console.print``."""
    return rich_document(report_document(graph, explanations))


def document_text(document: Document, *, width: int = _WIDTH) -> str:
    """A document as plain text. See `explain_text`."""
    return plain(document, width=width)


def document_rich(document: Document) -> RenderableType:
    """A document for ``rich.console.Console.print``."""
    return rich_document(document)

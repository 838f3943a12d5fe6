"""The text that answers what a hook would get, had it been registered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fxgrad.graph import BackwardGraph, Explanation, HookSite
from fxgrad.graph.hook_sites import find_owner, group_sites
from fxgrad.graph.text import escape, name_module, name_registering_function
from fxgrad.render import sentences as say
from fxgrad.render.console import rich_document
from fxgrad.render.document import Block, Document, Paragraph, Section, Table, Terms
from fxgrad.render.explain import graph_head, subject_section
from fxgrad.render.plain import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fxgrad.probe import Hypothesis

_WIDTH = 100
_MOST_MOVED = 20


def probe_text(supposed: Hypothesis, findings: Sequence[Explanation], *, width: int = _WIDTH) -> str:
    """Answer, for a hook that is not registered, where it would sit, what it would receive and what it would move."""
    return plain(probe_document(supposed, findings), width=width)


def probe_rich(supposed: Hypothesis, findings: Sequence[Explanation]) -> RenderableType:
    """What `probe_text` says, for ``rich.console.Console.print``."""
    return rich_document(probe_document(supposed, findings))


def probe_document(supposed: Hypothesis, findings: Sequence[Explanation]) -> Document:
    """The hook's sites with what the rules say, then the hooks that it would move, then what is not certain."""
    return (*graph_head(supposed.graph), Paragraph(_supposition(supposed)), *_answer(supposed, findings))


def _supposition(supposed: Hypothesis) -> str:
    hook = supposed.graph.hooks[supposed.hook]
    where = "every module" if hook.kind.is_global else name_module(hook.owner)
    return f"supposed, not registered: {name_registering_function(hook.kind)} on {where}"


def _answer(supposed: Hypothesis, findings: Sequence[Explanation]) -> Iterator[Block]:
    if supposed.refused is not None:
        yield Terms((("refused", supposed.refused),), "error")
        return
    graph = supposed.graph
    for subject in group_sites(graph):
        if subject.hook.id == supposed.hook:
            told = [each for each in findings if each.site and find_owner(graph, each.site) == subject.key]
            yield subject_section(subject, told)
    if supposed.moved:
        yield _moved(graph, supposed.moved)
    if supposed.caveats:
        yield Section(("what is not certain",), tuple(map(Paragraph, supposed.caveats)))


def _moved(graph: BackwardGraph, moved: Iterable[tuple[HookSite, HookSite]]) -> Section:
    pairs = list(moved)
    rows = [
        (escape(after.hook.owner) or "all", say.registration(after.hook), _receives(before), _at(graph, after))
        for before, after in pairs[:_MOST_MOVED]
    ]
    body: list[Block] = [Table(("on", "hook", "gets", "would get"), tuple(rows))]
    if len(pairs) > _MOST_MOVED:
        body.append(Paragraph(f"and {len(pairs) - _MOST_MOVED:,} more: `probe(...).moved` has them all"))
    return Section(("other hooks that it would move",), tuple(body))


def _at(graph: BackwardGraph, site: HookSite) -> str:
    node = "" if site.node is None else f" at {escape(graph.nodes[site.node].label)}"
    return _receives(site) + node


def _receives(site: HookSite) -> str:
    if site.fires is False:
        return "nothing: it does not fire"
    sides = (("grad_input", site.grad_input), ("grad_output", site.grad_output))
    shown = [f"{name} ({', '.join(map(say.entry_shape, gradients))})" for name, gradients in sides if gradients]
    return ", ".join(shown) or "a call"

"""The text that says in which order hooks are called, across all nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fxgrad.graph import BackwardGraph, HookSite
from fxgrad.graph.hook_sites import HookSites, find_owner, group_sites
from fxgrad.graph.text import escape
from fxgrad.predict import find_order_caveat
from fxgrad.render import sentences as say
from fxgrad.render.document import Block, Document, Paragraph, Section, Table
from fxgrad.render.explain import graph_head

_COLUMNS = ("no.", "node", "gradient", "kind", "on", "function")
_SILENT_COLUMNS = ("on", "kind", "function", "why")
_MOST_ROWS = 1000


def order_document(graph: BackwardGraph, *, wanted: Callable[[HookSite], bool]) -> Document:
    """Every call of a hook at the sites that are `wanted`, numbered among all; then the hooks that are not called."""
    by_key = {subject.key: subject for subject in group_sites(graph)}
    calls = [(site.order + 1, site) for site in graph.sites if site.order is not None and wanted(site)]
    silent = [site for site in graph.sites if site.fires is False and wanted(site)]
    rows = [_row(by_key[find_owner(graph, site)], site, number) for number, site in calls[:_MOST_ROWS]]
    silent_rows = [_silent_row(by_key[find_owner(graph, site)], site) for site in silent[:_MOST_ROWS]]
    return (
        *graph_head(graph),
        *_caveats(graph),
        *_table("the calls of hooks, in their order", _COLUMNS, rows, len(calls)),
        *_table("hooks that are not called", _SILENT_COLUMNS, silent_rows, len(silent)),
        *([] if calls or silent else [Paragraph("no hook is here")]),
    )


def _caveats(graph: BackwardGraph) -> Iterator[Paragraph]:
    caveat = find_order_caveat(graph)
    if caveat is not None:
        yield Paragraph(f"this order holds on each device's thread alone: {caveat}")


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], number: int) -> Iterator[Block]:
    if not rows:
        return
    left = [Paragraph(f"and {number - len(rows):,} more")] if number > len(rows) else []
    yield Section((title,), (Table(columns, tuple(rows)), *left))


def _row(subject: HookSites, site: HookSite, number: int) -> tuple[str, ...]:
    node = "backward decides" if site.node is None else escape(subject.graph.nodes[site.node].label)
    return (f"{number}", node, _gradient(subject, site), _kind(site), *_owner(subject, site))


def _gradient(subject: HookSites, site: HookSite) -> str:
    """Which gradient of the node a hook on a tensor sees; "" for a hook on the whole node."""
    if site.node is None or site.slot is None:
        return ""
    names = subject.graph.nodes[site.node].output_names
    return f"[{site.slot}] {escape(names[site.slot])}" if site.slot < len(names) else f"[{site.slot}]"


def _kind(site: HookSite) -> str:
    return say.short_kind(site.hook) + say.how_sure(site)


def _owner(subject: HookSites, site: HookSite) -> tuple[str, str]:
    on, *_ = say.owner_title(subject)
    call = say.calls_title(subject, (site,))
    return f"{on}, {call}" if call else on, say.short_function(site.hook)


def _silent_row(subject: HookSites, site: HookSite) -> tuple[str, ...]:
    on, function = _owner(subject, site)
    return on, say.short_kind(site.hook), function, site.reason

"""The report on a whole graph, and the order in which its hooks are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from fxgrad.collection import pause_collection
from fxgrad.graph import BackwardGraph, Explanation, HookSite
from fxgrad.graph.backward_graph import HookSites, find_owner, group_sites
from fxgrad.graph.lookup import find_inside_scripts, find_traced_away
from fxgrad.graph.names import join_labels
from fxgrad.graph.text import count_noun, escape, format_meta, join_words, quote_code
from fxgrad.predict import find_order_caveat, find_unreached_nodes
from fxgrad.render import sentences as say
from fxgrad.render.document import Block, Document, Paragraph, Section, Table, Terms
from fxgrad.render.explain import introduce_graph
from fxgrad.rules.fxg2_gradients import describe_lost_gradient, find_lost_gradients

_MOST_ROWS = 100
_MOST_FINDINGS = 20
_MOST_FIXES = 8
_MOST_KINDS = 8
_MOST_CALLS = 1000
_IN_THE_TRACE = ": see the saved trace (`--json`)"
_MOST_NODES = 1
_HOOK_COLUMNS = ("on", "kind", "function", "registered at", "node", "gets", "fires")
_CALL_COLUMNS = ("no.", "node", "gradient", "kind", "on", "function")
_SILENT_COLUMNS = ("on", "kind", "function", "why")
_INFO = "info"
_SEVERITIES = ("error", "warning", _INFO)


@pause_collection()
def compose_report(graph: BackwardGraph, explanations: Iterable[Explanation], *, all_hooks: bool = False) -> Document:
    """Everything that is known of the graph, for a reader who knows the model. Hooks of PyTorch's own are counted only,
    unless `all_hooks`."""
    every, found = group_sites(graph), tuple(explanations)
    hidden = [subject for subject in every if subject.hook.by_torch and not all_hooks]
    shown = [subject for subject in every if all_hooks or not subject.hook.by_torch]
    sections = (
        _compose_findings("findings", every, graph, [each for each in found if each.severity != _INFO]),
        _tabulate_lost(graph),
        _list_skipped(graph),
        _tabulate_hooks(shown, hidden),
        _tabulate_order(graph, shown),
        _compose_findings("worth knowing", every, graph, [each for each in found if each.severity == _INFO]),
        _summarize_graph(graph),
    )
    return (
        *_introduce_trace(graph),
        *(section for section in sections if section.body),
        Paragraph(say.describe_promise()),
    )


def _introduce_trace(graph: BackwardGraph) -> Iterator[Paragraph]:
    info = graph.info
    yield from (Paragraph(line) for line in (say.describe_roots(info), say.describe_call_of_backward(info)) if line)
    yield Paragraph(say.describe_trace(info))
    lines = (say.describe_emulation(info), *info.notes, info.calls_reason)
    yield from (Paragraph(line) for line in lines if line)


# Summary


def _summarize_graph(graph: BackwardGraph) -> Section:
    kinds = Counter(node.kind.value for node in graph.nodes)
    shown = [f"{number:,} {kind}" for kind, number in kinds.most_common()]
    modules = {call.path for call in graph.calls}
    unseen, inlined = len(find_inside_scripts(graph)), len(find_traced_away(graph))
    inside = f", {unseen:,} inside of TorchScript, which calls them unseen" if unseen else ""
    inside += f", {inlined:,} traced before, whose operations run without them" if inlined else ""
    rows = [
        ("nodes", f"{len(graph.nodes):,}" + (f": {join_words(shown, most=_MOST_KINDS)}" if shown else "")),
        ("roots", f"{len(graph.roots):,}: {join_words(escape(graph.nodes[root.node].label) for root in graph.roots)}"),
        (
            "module calls",
            f"{len(graph.calls):,}; {len(modules):,} of {count_noun(len(graph.modules), 'module', zero='0')} called{inside}",
        ),
        (
            "hooks",
            f"{len(graph.hooks):,}, at {count_noun(len(graph.sites), 'site', zero='0')} (a hook at one call, node or tensor)",
        ),
        ("fire", _count_firing(graph.sites)),
        ("entries", _count_entries(graph.sites)),
    ]
    if graph.info.calls_reason is not None:
        rows = [row for row in rows if row[0] != "module calls"]
    return Section(("summary",), (Terms(tuple(rows)),))


def _count_firing(sites: Sequence[HookSite]) -> str:
    counts = Counter(site.fires for site in sites)
    fire = f"{counts[True]:,} of {count_noun(len(sites), 'site', zero='0')}"
    return f"{fire}; {counts[None]:,} only backward decides" if counts[None] else fire


def _count_entries(sites: Sequence[HookSite]) -> str:
    every = Counter(entry.status for site in sites for entry in (*(site.grad_output or ()), *(site.grad_input or ())))
    tensors = count_noun(every["tensor"], "tensor", zero="0")
    return f"{every.total():,}: {tensors}, {every['none']:,} None, {every['unknown']:,} unknown"


# Hooks


def _tabulate_hooks(shown: Sequence[HookSites], hidden: Sequence[HookSites]) -> Section:
    in_order = sorted(shown, key=lambda subject: subject.hook.id)
    rows = [_make_hook_row(subject) for subject in in_order[:_MOST_ROWS]]
    section = _make_table("hooks, in order of registration", _HOOK_COLUMNS, rows, len(shown))
    return Section(section.title, (*section.body, *([Paragraph(say.describe_hidden(hidden))] if hidden else [])))


def _make_hook_row(subject: HookSites) -> tuple[str, ...]:
    nodes = join_labels([node for _, node, _ in subject.placed], most=_MOST_NODES)
    gets = "" if not subject.firing else say.describe_gradients(subject.firing[0])
    return (
        *_describe_hook(subject),
        say.locate_hook(subject.hook).removeprefix("registered at "),
        nodes,
        gets,
        _count_times(subject),
    )


def _describe_hook(subject: HookSites) -> tuple[str, str, str]:
    on, *_ = say.describe_owner(subject)
    return on, subject.hook.kind.short_name, say.shorten_function(subject.hook)


def _count_times(subject: HookSites) -> str:
    if any(site.fires is None or (site.fires and site.times is None) for site in subject.sites):
        return "backward decides"
    times = sum(site.times or 0 for site in subject.sites)
    return {0: "never", 1: "once"}.get(times, f"{times} times")


def _make_table(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], number: int, *, where: str = _IN_THE_TRACE
) -> Section:
    if not rows:
        return Section((title,))
    body: list[Block] = [Table(columns, tuple(rows))]
    if number > len(rows):
        body.append(Paragraph(f"and {number - len(rows):,} more{where}"))
    return Section((title,), tuple(body))


# Firing order


def _tabulate_order(graph: BackwardGraph, shown: Sequence[HookSites]) -> Section:
    by_key = {subject.key: subject for subject in shown}
    firing = [site for site in graph.sites if site.order is not None and find_owner(graph, site) in by_key]
    rows = [_make_order_row(by_key[find_owner(graph, site)], site) for site in firing[:_MOST_ROWS]]
    return _make_table("firing order", ("no.", "on", "kind", "node"), rows, len(firing))


def _make_order_row(subject: HookSites, site: HookSite) -> tuple[str, str, str, str]:
    on, kind, _ = _describe_hook(subject)
    call = say.name_calls(subject, (site,))
    node = escape(subject.graph.nodes[site.node].label) if site.node is not None else ""
    return (f"{(site.order or 0) + 1}", f"{on}, {call}" if call else on, kind + say.qualify_order(site), node)


# Findings


def _compose_findings(
    title: str, every: Sequence[HookSites], graph: BackwardGraph, explanations: Sequence[Explanation]
) -> Section:
    """The findings of one code, severity and fix together: the first in full, of the others the headline."""
    by_key = {subject.key: subject for subject in every}
    groups: dict[tuple[int, str], dict[str, list[_Found]]] = {}
    for finding in explanations:
        subject = by_key[find_owner(graph, finding.site)] if finding.site is not None else None
        by_fix = groups.setdefault((_SEVERITIES.index(finding.severity), finding.code), {})
        fix = finding.fix if finding.fix in by_fix or len(by_fix) < _MOST_FIXES else next(iter(by_fix))
        by_fix.setdefault(fix, []).append(_Found(subject, finding))
    return Section((title,), tuple(_compose_group(found) for key in sorted(groups) for found in groups[key].values()))


class _Found(NamedTuple):
    subject: HookSites | None
    finding: Explanation


def _compose_group(found: Sequence[_Found]) -> Section:
    (subject, finding), *others = found
    items = (("on", _describe_place(subject, finding)), ("because", finding.because), ("fix", finding.fix))
    body: list[Block] = [Terms(tuple(item for item in items if item[1]))]
    if others:
        body.append(_tabulate_others(finding, others[:_MOST_FINDINGS]))
    if len(others) > _MOST_FINDINGS:
        body.append(Paragraph(f"and {len(others) - _MOST_FINDINGS:,} more"))
    return Section((finding.code, f"{finding.severity}: {finding.headline}"), tuple(body))


def _tabulate_others(shown: Explanation, others: Sequence[_Found]) -> Table:
    """The columns about hooks are there where the findings are about some."""
    rows = [(*_describe_finding(each), _tell_apart(shown, each.finding)) for each in others]
    if any(each.subject for each in others):
        return Table(("the same code on", "kind", "function", "finding"), tuple(rows))
    return Table(("the same code on", "finding"), tuple((row[0], row[-1]) for row in rows))


def _tell_apart(shown: Explanation, other: Explanation) -> str:
    """The other's headline; where that is the same, the first sentence of its reason."""
    return other.headline if other.headline != shown.headline else other.because.partition(". ")[0].rstrip(".")


def _describe_place(subject: HookSites | None, finding: Explanation) -> str:
    if subject is None:
        return _name_owner(finding)
    on, *_ = say.describe_owner(subject)
    return f"{on}, {say.format_registration(subject.hook)}"


def _name_owner(finding: Explanation) -> str:
    return "" if finding.owner is None else escape(finding.owner) or "the model"


def _describe_finding(found: _Found) -> tuple[str, str, str]:
    return _describe_hook(found.subject) if found.subject else (_name_owner(found.finding), "", "")


# What gets no gradient


def _tabulate_lost(graph: BackwardGraph) -> Section:
    lost, left = find_lost_gradients(graph), find_unreached_nodes(graph)
    parameters = graph.parameters
    reasons = {each.parameter.name: describe_lost_gradient(graph, each) for each in lost[:_MOST_ROWS]}
    names = {each.parameter.name for each in lost}
    missing = [each for each in parameters if each.requires_grad and (each.name in names or each.node in left)]
    frozen = sum(not each.requires_grad for each in parameters)
    rows = [
        (quote_code(each.name), format_meta(each.meta), reasons.get(each.name) or left[each.node or 0])
        for each in missing[:_MOST_ROWS]
    ]
    section = _make_table(
        "parameters that no gradient reaches in this graph", ("parameter", "shape", "why"), rows, len(missing)
    )
    note = Paragraph(f"{count_noun(frozen, 'more parameter')} with requires_grad=False")
    return Section(section.title, (*section.body, *([note] if rows and frozen else [])))


def _list_skipped(graph: BackwardGraph) -> Section:
    return Section(("outputs that backward does not start from",), tuple(map(Paragraph, graph.info.skipped)))


# The order of calls alone


@pause_collection()
def compose_order(graph: BackwardGraph, *, wanted: Callable[[HookSite], bool], all_hooks: bool = False) -> Document:
    """Every call of a hook at the sites that are `wanted`, numbered among all; then the hooks that are not called. Hooks of
    PyTorch's own are counted only, unless `all_hooks`."""
    by_key = {subject.key: subject for subject in group_sites(graph)}
    sites = [site for site in graph.sites if wanted(site)]
    shown = [site for site in sites if all_hooks or not site.hook.by_torch]
    left = dict.fromkeys(find_owner(graph, site) for site in sites if not all_hooks and site.hook.by_torch)
    hidden = say.describe_hidden([by_key[key] for key in left])
    firing = [site for site in shown if site.order is not None]
    silent = [site for site in shown if site.fires is False]
    calls = [_make_call_row(by_key[find_owner(graph, site)], site) for site in firing[:_MOST_CALLS]]
    others = [_make_silent_row(by_key[find_owner(graph, site)], site) for site in silent[:_MOST_CALLS]]
    caveat = find_order_caveat(graph)
    sections = (
        _make_table("hook calls, in order", _CALL_COLUMNS, calls, len(firing), where=""),
        _make_table("hooks that never fire", _SILENT_COLUMNS, others, len(silent), where=""),
    )
    return (
        *introduce_graph(graph),
        *([] if caveat is None else [Paragraph(f"this order holds only within each device's thread: {caveat}")]),
        *(section for section in sections if section.body),
        *([] if firing or silent or hidden else [Paragraph("no hook is here")]),
        *([Paragraph(hidden)] if hidden else []),
    )


def _make_call_row(subject: HookSites, site: HookSite) -> tuple[str, ...]:
    number, on, kind, _ = _make_order_row(subject, site)
    node = "backward decides" if site.node is None else escape(subject.graph.nodes[site.node].label)
    return number, node, _name_gradient(subject, site), kind, on, say.shorten_function(site.hook)


def _name_gradient(subject: HookSites, site: HookSite) -> str:
    """Which gradient of the node a hook on a tensor sees; "" for a hook on the whole node."""
    if site.node is None or site.slot is None:
        return ""
    names = subject.graph.nodes[site.node].output_names
    return f"[{site.slot}] {escape(names[site.slot])}" if site.slot < len(names) else f"[{site.slot}]"


def _make_silent_row(subject: HookSites, site: HookSite) -> tuple[str, ...]:
    _, on, _, _ = _make_order_row(subject, site)
    return on, site.hook.kind.short_name, say.shorten_function(site.hook), site.reason

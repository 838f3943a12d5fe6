"""The text that answers what each hook sits on, what it will receive, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fxgrad.collection import pause_collection
from fxgrad.graph import (
    BackwardGraph,
    Explanation,
    Gradient,
    Hook,
    HookSite,
    Module,
    ModuleCall,
    Node,
    NodeKind,
)
from fxgrad.graph.backward_graph import HookSites, find_owner, find_result, group_sites
from fxgrad.graph.lookup import find_inside_scripts, find_module_path, list_nodes_without_call
from fxgrad.graph.names import describe_node_kind, join_labels
from fxgrad.graph.text import (
    count_noun,
    escape,
    join_words,
    name_entry,
    name_module,
    name_registering_function,
    pluralize,
    quote_code,
)
from fxgrad.render import sentences as say
from fxgrad.render.document import Block, Document, Paragraph, Section, Table, Terms

_COLUMNS = ("entry", "what it is", "what it stands for")
_MOST_ENTRIES = 40
_MOST_FOLDS = 8
_MOST_MOVED = 20
_MOST_CHANGES = 3
_MOST_ALIKE = 6


@pause_collection()
def compose_explanation(
    graph: BackwardGraph, explanations: Iterable[Explanation], *, module: str | None = None, all_hooks: bool = False
) -> Document:
    """Explain every hook, or those on one module and its parameters: all its sites, and what the rules say.

    Hooks of PyTorch's own are counted only, unless `all_hooks`.

    Raises `UsageError` for a path that no module has, with the nearest ones.
    """
    found = group_sites(graph) if module is None else _select_module(graph, module)
    wanted = [subject for subject in found if all_hooks or not subject.hook.by_torch]
    hidden = say.describe_hidden([subject for subject in found if not all_hooks and subject.hook.by_torch])
    every, head = tuple(explanations), tuple(introduce_graph(graph))
    by_subject = _group_by_subject(graph, every)
    hooks: list[Block] = [
        _compose_alike(group, by_subject.get(group[0].key, [])) for group in _fold_subjects(wanted, by_subject)
    ]
    return (
        *head,
        *(hooks or ([] if hidden else [Paragraph(_explain_absence(graph, module))])),
        *([Paragraph(hidden)] if hidden else []),
        *_compose_other_findings(graph, every, module),
    )


def compose_probe(
    graph: BackwardGraph,
    hook: Hook,
    findings: Sequence[Explanation],
    *,
    moved: Sequence[tuple[HookSite, HookSite]] = (),
    zeros: Sequence[str] = (),
    refused: str | None = None,
) -> Document:
    """Explain a hook that is not registered: its sites, what the rules say, and what it would change.

    `graph` is the graph with the hook. If PyTorch refuses the hook, for the reason `refused`, it is the one without.
    """
    where = "every module" if hook.kind.is_global else name_module(hook.owner)
    supposed = Paragraph(f"not registered, only tried: {name_registering_function(hook.kind)} on {where}")
    blocks: list[Block] = [*introduce_graph(graph), supposed]
    if refused is not None:
        return (*blocks, Terms((("refused", refused),), "error"), *map(_compose_finding, findings))
    by_subject = _group_by_subject(graph, findings)
    blocks += [
        _compose_hook(each, by_subject.get(each.key, [])) for each in group_sites(graph) if each.hook.id == hook.id
    ]
    if moved:
        blocks.append(_compose_moved(graph, moved))
    if zeros:
        names = join_words([quote_code(name) for name in zeros])
        sentence = f"with the hook, the gradient of {names} is zeros instead of None"
        blocks.append(Section(("gradients it would change",), (Paragraph(sentence),)))
    return tuple(blocks)


def _compose_moved(graph: BackwardGraph, moved: Sequence[tuple[HookSite, HookSite]]) -> Section:
    rows = [
        (
            escape(after.hook.owner) or "all",
            say.format_registration(after.hook),
            say.describe_gradients(before),
            _describe_after(graph, after),
        )
        for before, after in moved[:_MOST_MOVED]
    ]
    body: list[Block] = [Table(("on", "hook", "gets", "would get"), tuple(rows))]
    if len(moved) > _MOST_MOVED:
        body.append(Paragraph(f"and {len(moved) - _MOST_MOVED:,} more: see `probe(...).moved`"))
    return Section(("other hooks it would move",), tuple(body))


def _describe_after(graph: BackwardGraph, site: HookSite) -> str:
    node = "" if site.node is None else f" at {escape(graph.nodes[site.node].label)}"
    return say.describe_gradients(site) + node


def _compose_other_findings(
    graph: BackwardGraph, explanations: Iterable[Explanation], module: str | None
) -> Iterator[Section]:
    """The findings that are about no hook, or those of them about one module and its parameters."""
    found = [finding for finding in explanations if finding.site is None]
    if module is not None:
        owner = graph.modules_by_path[find_module_path(graph, module)]
        about = {owner.path, *owner.aliases, *owner.parameters}
        found = [finding for finding in found if finding.owner in about]
    if found:
        yield Section(("about no hook",), tuple(map(_compose_finding, found)))


def _group_by_subject(
    graph: BackwardGraph, explanations: Iterable[Explanation]
) -> dict[tuple[int, str], list[Explanation]]:
    found: dict[tuple[int, str], list[Explanation]] = {}
    for finding in explanations:
        if finding.site is not None:
            found.setdefault(find_owner(graph, finding.site), []).append(finding)
    return found


def introduce_graph(graph: BackwardGraph) -> Iterator[Paragraph]:
    """What backward starts from, and whether the trace was emulated."""
    lines = (
        say.describe_roots(graph.info),
        say.describe_call_of_backward(graph.info),
        say.describe_emulation(graph.info),
    )
    yield from (Paragraph(line) for line in lines if line)


def _select_module(graph: BackwardGraph, path: str) -> tuple[HookSites, ...]:
    module = graph.modules_by_path[find_module_path(graph, path)]
    paths = {module.path, *module.aliases}
    return tuple(
        subject
        for subject in group_sites(graph)
        if (subject.path in paths if subject.hook.kind.is_module else _is_on_tensor_of(subject, module))
    )


def _is_on_tensor_of(subject: HookSites, module: Module) -> bool:
    """Whether the hook is on a parameter of the module, or on what it returned."""
    result = find_result(subject.graph, subject.hook)
    if result is not None:
        return result[0].path == module.path
    return bool({subject.hook.owner, *subject.hook.targets} & set(module.parameters))


def _explain_absence(graph: BackwardGraph, module: str | None) -> str:
    if module is None:
        return "no hook is registered on any module, tensor or node of this graph"
    path = find_module_path(graph, module)
    if path in find_inside_scripts(graph):
        return (
            f"{name_module(path)} runs inside of TorchScript, where no module hook can be: {_list_made_in(graph, path)}. Hooks "
            "on its parameters (Tensor.register_hook) and on the tensors that go into the script and come out of it work"
        )
    if not graph.calls_per_module[path] and list_nodes_without_call(graph, path):
        return (
            f"{name_module(path)} is not called: its operations are in the graph that was traced before, so that no hook on "
            f"the module is called: {_list_made_in(graph, path)}. Hooks on its parameters (Tensor.register_hook) work"
        )
    calls = count_noun(graph.calls_per_module[path], "call")
    return (
        f"no hook is registered on {name_module(path)} or its parameters ({calls}); what one would get there: "
        "`fxgrad.probe(model, args, module=..., kind=...)`, or `fxgrad explain TARGET MODULE --hook KIND`"
    )


def _list_made_in(graph: BackwardGraph, path: str) -> str:
    nodes = list_nodes_without_call(graph, path)
    are = pluralize(len(nodes), "is", plural="are")
    return f"{join_labels(nodes)} {are} made in it" if nodes else "no node is known to be made in it"


def _compose_hook(subject: HookSites, explanations: Sequence[Explanation]) -> Section:
    """One hook at one owner: what it is, each of its sites, alike ones folded, and what the rules say."""
    title = (*say.describe_owner(subject), say.format_registration(subject.hook), say.locate_hook(subject.hook))
    return Section(title, (*_compose_sites(subject), *map(_compose_finding, explanations)))


def _compose_alike(group: Sequence[HookSites], explanations: Sequence[Explanation]) -> Section:
    """The same hook on several modules or tensors where it gets the same: the first in full, then where the others are."""
    first = _compose_hook(group[0], explanations)
    if len(group) == 1:
        return first
    names = [next(say.describe_owner(subject)) for subject in group]
    what = pluralize(len(names), "module" if group[0].hook.kind.is_module else "tensor")
    title = (f"{names[0]} … {names[-1]} ({len(names):,} {what})", *first.title[1:], f"alike; shown is {names[0]}")
    body: list[Block] = [Table(("on", "node", "fires"), tuple(map(_make_alike_row, group[:_MOST_ALIKE])))]
    if len(group) > _MOST_ALIKE:
        body.append(Paragraph(f"and {len(group) - _MOST_ALIKE:,} more: see `trace.sites`"))
    return Section(title, (*first.body, *body))


def _make_alike_row(subject: HookSites) -> tuple[str, str, str]:
    places = [f"{site.order + 1}" for site in subject.sites if site.order is not None]
    nodes = [node for _, node, _ in subject.placed]
    fires = f"number {join_words(places)}" if places else "never"
    return next(say.describe_owner(subject)), join_labels(nodes), fires


def _fold_subjects(
    subjects: Sequence[HookSites], findings: Mapping[tuple[int, str], Sequence[Explanation]]
) -> list[list[HookSites]]:
    """The subjects that say the same but for numbers in names, in the order of the first of each."""
    found: dict[object, list[HookSites]] = {}
    for subject in subjects:
        found.setdefault(_make_subject_key(subject, findings.get(subject.key, ())), []).append(subject)
    return list(found.values())


def _make_subject_key(subject: HookSites, findings: Sequence[Explanation]) -> tuple[object, ...]:
    hook = subject.hook
    _, *description = say.describe_owner(subject)
    said = [(each.code, each.severity, each.headline, each.because, each.fix) for each in findings]
    return (
        *(hook.kind, hook.function, hook.source, hook.registered, hook.active, hook.prepend, hook.mode),
        *(_erase_numbers(subject.path), *description, len(subject.calls), len(hook.targets)),
        tuple([_make_content_key(subject, site) for site in subject.sites]),
        tuple([tuple(map(_erase_numbers, texts)) for texts in said]),
    )


def _compose_sites(subject: HookSites) -> Iterator[Block]:
    every = _fold_sites(subject)
    for number, fold in enumerate(every[:_MOST_FOLDS]):
        changed = _list_changes(subject, every[0][0], fold[0]) if number else None
        yield _compose_site(subject, fold) if changed is None else _compose_changes(subject, every[0], fold, changed)
    left = sum(len(fold) for fold in every[_MOST_FOLDS:])
    if left:
        yield Paragraph(f"and {count_noun(left, 'more site')} that differ from these: see `trace.sites`")


def _compose_site(subject: HookSites, fold: _Fold) -> Section:
    site, call = fold[0], subject.call(fold[0])
    node = subject.graph.nodes[site.node] if site.node is not None else None
    body: list[Block] = [Paragraph(line) for line in _describe_site(site, node, call) if line]
    if site.grad_output and site.hook.kind.gets_one_gradient:
        body.append(Table(_COLUMNS, (("the gradient", *_describe_entry(site.grad_output[0])),), headed=False))
    elif site.grad_output:
        body.append(_compose_gradients(say.describe_grad_output(site, node, call), site.grad_output))
    if site.grad_input:
        body.append(_compose_gradients(say.describe_grad_input(site, node, call), site.grad_input))
    return Section((*_title_fold(subject, fold), site.reason), tuple(body))


def _describe_site(site: HookSite, node: Node | None, call: ModuleCall | None) -> Iterator[str]:
    yield say.describe_firing(site, call)
    if node is not None:
        # PyTorch makes the nodes of full hooks around a call: what is the user's is the call
        yield say.locate_call(call) if call and node.kind is NodeKind.BACKWARD_HOOK else say.locate_node(node)
        yield "" if site.hook.kind.is_full or site.hook.kind.is_full_pre else describe_node_kind(node)
    if not site.grad_output or site.hook.kind.gets_one_gradient:
        yield say.describe_argument(site.hook)
    yield say.describe_unknown_entries(site)


def _title_fold(subject: HookSites, fold: _Fold) -> Iterator[str]:
    calls, nodes = say.name_calls(subject, fold), say.name_nodes(subject.graph, fold)
    yield f"{calls}  {nodes}".strip()
    shown = say.name_calls(subject, (fold[0],))
    if len(fold) > 1 and shown:
        yield f"alike; shown is {shown.partition(' of ')[0]}"


def _compose_changes(subject: HookSites, base: _Fold, fold: _Fold, changed: Sequence[tuple[str, Gradient]]) -> Section:
    as_base = say.name_calls(subject, (base[0],)).partition(" of ")[0] or "above"
    rows = [(f"{side}{name_entry(gradient)}", *_describe_entry(gradient)) for side, gradient in changed]
    title = (*_title_fold(subject, fold), f"as {as_base}, but")
    return Section(title, (Table(_COLUMNS, tuple(rows), headed=False),))


def _compose_gradients(title: str, gradients: Sequence[Gradient]) -> Section:
    rows = [(name_entry(gradient), *_describe_entry(gradient)) for gradient in gradients[:_MOST_ENTRIES]]
    body: list[Block] = [Table(_COLUMNS, tuple(rows), headed=False)]
    if len(gradients) > _MOST_ENTRIES:
        body.append(Paragraph(f"and {say.count_entries(len(gradients) - _MOST_ENTRIES)} more: see `trace.sites`"))
    return Section((title,), tuple(body))


def _describe_entry(gradient: Gradient) -> tuple[str, str]:
    return say.format_gradient(gradient), say.explain_gradient(gradient)


def _compose_finding(finding: Explanation) -> Terms:
    """What a rule says, with its code."""
    items = (
        (finding.code, f"{finding.severity}: {finding.headline}"),
        ("because", finding.because),
        ("fix", finding.fix),
    )
    return Terms(tuple(item for item in items if item[1]), finding.severity)


# Sites that say the same are shown once: a recurrent cell has one for each step, and a reader wants the differences


_Fold = Sequence[HookSite]
"""Sites with the same content but for numbers in names. The first one stands for all."""


def _fold_sites(subject: HookSites) -> list[_Fold]:
    """The subject's sites, those of the same content together, in the order of the first of each."""
    found: dict[object, list[HookSite]] = {}
    for site in subject.sites:
        found.setdefault(_make_content_key(subject, site), []).append(site)
    return list(found.values())


def _list_changes(subject: HookSites, base: HookSite, other: HookSite) -> list[tuple[str, Gradient]] | None:
    """The entries of ``other`` that are not as in ``base``, each with its side; None where more than a few differ."""
    if _make_frame_key(subject, base) != _make_frame_key(subject, other):
        return None
    pairs = [
        *(("grad_output", old, new) for old, new in zip(base.grad_output or (), other.grad_output or (), strict=True)),
        *(("grad_input", old, new) for old, new in zip(base.grad_input or (), other.grad_input or (), strict=True)),
    ]
    changes = [(side, new) for side, old, new in pairs if _make_entry_key(old) != _make_entry_key(new)]
    return changes if len(changes) <= _MOST_CHANGES else None


def _make_content_key(subject: HookSites, site: HookSite) -> tuple[object, ...]:
    entries = tuple(_make_entry_key(gradient) for gradient in (*(site.grad_output or ()), *(site.grad_input or ())))
    return (*_make_frame_key(subject, site), entries)


def _make_frame_key(subject: HookSites, site: HookSite) -> tuple[object, ...]:
    node = subject.graph.nodes[site.node].name if site.node is not None else None
    return (
        node,
        site.call is None,
        site.fires,
        site.times,
        site.slot,
        None if site.grad_output is None else len(site.grad_output),
        None if site.grad_input is None else len(site.grad_input),
        _erase_numbers(site.reason),
    )


def _make_entry_key(gradient: Gradient) -> tuple[object, ...]:
    texts = (_erase_numbers(gradient.expression), _erase_numbers(gradient.reason))
    return (gradient.argument, gradient.status, gradient.shape, gradient.dtype, *texts)


def _erase_numbers(text: str | None) -> str | None:
    return None if text is None else re.sub(r"\d+", "0", text)

"""Checks that a graph keeps the records' own rules, as torch.fx's ``Graph.lint`` does.

The rules are those that the docstrings in `records` state; each function checks the records of one kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.hook_kinds import HookKind
from fxgrad.graph.lengths import call_text, node_text, site_text, unrecorded_text
from fxgrad.graph.records import (
    BACKWARD_APIS,
    EARLIER_CALLS,
    SCHEMA_VERSION,
    Gradient,
    GraphInfo,
    Hook,
    HookSite,
    ModuleCall,
    Node,
    NodeKind,
    TensorRef,
    UnrecordedCall,
    Variable,
)
from fxgrad.graph.structure import structural_problems
from fxgrad.graph.text import escape

MOST_PROBLEMS = 20
VARIABLE_KINDS = ("parameter", "buffer", "input", "other leaf")
STATUSES = ("tensor", "none", "unknown")
CHECKPOINTS = (None, "reentrant", "non-reentrant", "function")
MODES = ("all", "any")


class GraphLintError(ValueError):
    """A graph breaks the rules of its own records; `problems` holds a sentence for each, at most 20."""

    def __init__(self, problems: Iterable[str], *, more: bool = False) -> None:
        self.problems = tuple(problems)
        ending = ["there are more"] if more else []
        super().__init__("\n  ".join(["the graph breaks its own rules:", *self.problems, *ending]))


def lint(graph: GraphRecords) -> None:
    """Check every rule of the records; return nothing where all hold.

    Raises `GraphLintError` with the first 20 problems found, each naming its record and the rule.
    """
    found = list(islice(problems(graph), MOST_PROBLEMS + 1))
    if found:
        raise GraphLintError(found[:MOST_PROBLEMS], more=len(found) > MOST_PROBLEMS)


def problems(graph: GraphRecords) -> Iterator[str]:
    """Find what breaks a rule. The rules about meaning are asked only of a graph whose references lead somewhere."""
    first = next(structure := structural_problems(graph), None)
    if first is not None:
        return chain((first,), structure)
    return _problems_of_meaning(graph)


def _problems_of_meaning(graph: GraphRecords) -> Iterator[str]:
    yield from _info_problems(graph.info, graph)
    for node in graph.nodes:
        yield from _node_problems(node, graph)
    for variable in graph.variables:
        yield from _variable_problems(variable, graph)
    for module in graph.modules:
        for name in module.parameters:
            if name not in graph.variables_by_name:
                yield f'module "{escape(module.path)}": its parameter "{escape(name)}" is no variable'
    for call in graph.calls:
        yield from _call_problems(call, graph)
    for index, unrecorded in enumerate(graph.unrecorded_calls):
        yield from _hook_node_problems(unrecorded, unrecorded_text(unrecorded, index), graph)
    for fx_node in graph.forward:
        if fx_node.sequence_window is not None:
            yield from _window_problems(f'fx node "{escape(fx_node.name)}"', fx_node.sequence_window)
    for hook in graph.hooks:
        yield from _hook_problems(hook)
    for index, site in enumerate(graph.sites):
        yield from _site_problems(site, site_text(site, index))
    yield from _order_problems(graph.sites)
    yield from _hooks_without_site(graph)


def _info_problems(info: GraphInfo, graph: GraphRecords) -> Iterator[str]:
    if info.schema_version != SCHEMA_VERSION:
        yield f"info: its schema_version is {info.schema_version}, but these records are of version {SCHEMA_VERSION}"
    if info.calls_reason is not None and (graph.calls or graph.forward):
        yield "info: calls_reason says why there are no calls, but there are"
    yield from _choice("info, backward", "api", info.backward.api, BACKWARD_APIS)
    yield from _choice("info, backward", "after", info.backward.after, (None, *EARLIER_CALLS))
    if info.backward.api == "grad" and info.backward.inputs is None:
        yield "info, backward: autograd.grad has no inputs"


def _node_problems(node: Node, graph: GraphRecords) -> Iterator[str]:
    where = node_text(node)
    yield from _edge_problems(node, where)
    yield from _provenance_problems(node, where, graph.info)
    if node.variable is not None:
        yield from _leaf_problems(node, node.variable, where, graph)


def _edge_problems(node: Node, where: str) -> Iterator[str]:
    for index, edge in enumerate(node.edges):
        is_null = edge.next_node is None
        if is_null and edge.null_reason is None:
            yield f"{where}, edges[{index}]: next_node is None without a null_reason"
        if not is_null and edge.null_reason is not None:
            yield f"{where}, edges[{index}]: it has a null_reason, but it leads to node {edge.next_node}"
        if not is_null and edge.operand is not None:
            yield f"{where}, edges[{index}]: it has an operand, but only a null edge does"
        if edge.group is not None and not (edge.argument or "").startswith(f"{edge.group}["):
            yield f"{where}, edges[{index}]: it belongs to the list {escape(edge.group)}, but its argument does not"


def _provenance_problems(node: Node, where: str, info: GraphInfo) -> Iterator[str]:
    for field, known, reason in (
        ("call", node.call, node.call_reason),
        ("fx_node", node.fx_node, node.fx_reason),
    ):
        if known is not None and reason is not None:
            yield f"{where}: it has a {field}, and a reason why it has none"
        if known is None and reason is None and info.calls_reason is None:
            yield f"{where}: {field} is None without a reason"


def _leaf_problems(node: Node, name: str, where: str, graph: GraphRecords) -> Iterator[str]:
    if node.kind is not NodeKind.ACCUMULATE_GRAD:
        yield f'{where}: it has the variable "{escape(name)}", but only an AccumulateGrad has one'
    variable = graph.variables_by_name[name]
    if name != variable.name:
        yield f'{where}: its variable "{escape(name)}" is an alias, but it is called by its name'
    if variable.node != node.id:
        yield f'{where}: its variable "{escape(name)}" is at node {variable.node}'


def _variable_problems(variable: Variable, graph: GraphRecords) -> Iterator[str]:
    where = f'variable "{escape(variable.name)}"'
    yield from _choice(where, "kind", variable.kind, VARIABLE_KINDS)
    if variable.node is None:
        return
    node = graph.nodes[variable.node]
    if node.kind is NodeKind.ACCUMULATE_GRAD and node.variable != variable.name:
        yield f"{where}: it is at {node_text(node)}, which does not name it"


def _choice(where: str, field: str, value: object, allowed: tuple[object, ...]) -> Iterator[str]:
    if value not in allowed:
        yield f"{where}: {field} is {value!a}, but it is one of {', '.join(map(repr, allowed))}"


def _call_problems(call: ModuleCall, graph: GraphRecords) -> Iterator[str]:
    where = call_text(call)
    if call.id != f"{call.path}#{call.index}":
        yield f'{where}: an id is path#index, which is "{escape(call.path)}#{call.index}"'
    if call.index < 1:
        yield f"{where}: index is {call.index}, but calls are counted from 1"
    yield from _choice(where, "checkpointed", call.checkpointed, CHECKPOINTS)
    if call.legacy_tensor is not None and call.legacy_reason is not None:
        yield f"{where}: it has a legacy_tensor, and a reason why it has none"
    yield from _window_problems(where, call.sequence_window)
    if call.parent is not None:
        yield from _nesting_problems(call, graph.calls_by_id[call.parent], where)
    yield from _hook_node_problems(call, where, graph)
    for ref in (*call.inputs, *call.outputs, *([call.legacy_tensor] if call.legacy_tensor else [])):
        yield from _ref_problems(ref, where, graph)


def _window_problems(where: str, window: tuple[int, int]) -> Iterator[str]:
    start, end = window
    if not 0 <= start <= end:
        yield f"{where}: its sequence_window ({start}, {end}) is not a range of numbers from 0 up"


def _nesting_problems(call: ModuleCall, parent: ModuleCall, where: str) -> Iterator[str]:
    inner, outer = call.sequence_window, parent.sequence_window
    if not (outer[0] <= inner[0] and inner[1] <= outer[1]):
        yield f"{where}: its sequence_window {inner} is not within {outer}, that of {call_text(parent)}"


def _hook_node_problems(call: ModuleCall | UnrecordedCall, where: str, graph: GraphRecords) -> Iterator[str]:
    for field, node in (("input_hook_node", call.input_hook_node), ("output_hook_node", call.output_hook_node)):
        if node is not None and graph.nodes[node].kind is not NodeKind.BACKWARD_HOOK:
            yield f"{where}: its {field} is {node_text(graph.nodes[node])}, which is no BackwardHookFunction"


def _ref_problems(ref: TensorRef, where: str, graph: GraphRecords) -> Iterator[str]:
    if ref.node is not None and ref.node_name != graph.nodes[ref.node].name:
        name = "None" if ref.node_name is None else escape(ref.node_name)
        yield f"{where}: a tensor's node_name is {name}, but its node is {node_text(graph.nodes[ref.node])}"


def _hook_problems(hook: Hook) -> Iterator[str]:
    where = f"hook {hook.id} ({escape(hook.function)})"
    if hook.kind is HookKind.MULTI_GRAD:
        yield from _choice(where, "mode", hook.mode, MODES)
    elif hook.mode is not None or hook.targets:
        yield f"{where}: only a multi-grad hook has a mode and targets"
    if hook.target_slots and len(hook.target_slots) != len(hook.targets):
        yield f"{where}: {len(hook.target_slots)} target_slots for {len(hook.targets)} targets"
    if hook.kind.is_global and hook.owner:
        yield f'{where}: a global hook has no owner, but it has "{escape(hook.owner)}"'
    if hook.observed is not None and hook.unplaced is not None:
        yield f"{where}: it was seen on a node, and has a reason why it is on none"


def _site_problems(site: HookSite, where: str) -> Iterator[str]:
    if not site.reason:
        yield f"{where}: it has no reason"
    if (site.order is None) != (site.fires is False):
        yield f"{where}: fires is {site.fires} and order is {site.order}, but order is None iff fires is False"
    if site.fires is True and site.node is None:
        yield f"{where}: it fires, but it is on no node"
    if site.times is not None and site.fires is not None and (site.times > 0) != site.fires:
        yield f"{where}: fires is {site.fires}, but times is {site.times}"
    for name, gradients in (("grad_input", site.grad_input), ("grad_output", site.grad_output)):
        yield from _gradient_problems(gradients, f"{where}, {name}")


def _gradient_problems(gradients: tuple[Gradient, ...], where: str) -> Iterator[str]:
    for index, gradient in enumerate(gradients):
        if gradient.index != index:
            yield f"{where}[{index}]: its index is {gradient.index}, but an index is the rank in the tuple"
        yield from _choice(f"{where}[{index}]", "status", gradient.status, STATUSES)
        if gradient.status != "tensor" and not gradient.reason:
            yield f'{where}[{index}]: status is "{escape(gradient.status)}" without a reason'


def _order_problems(sites: tuple[HookSite, ...]) -> Iterator[str]:
    ranked = [(site.order, index) for index, site in enumerate(sites) if site.order is not None]
    for (earlier, _), (later, index) in pairwise(ranked):
        if later <= earlier:
            where = site_text(sites[index], index)
            yield f"{where}: its order {later} follows {earlier}, but sites are in firing order"


def _hooks_without_site(graph: GraphRecords) -> Iterator[str]:
    placed = {site.hook.id for site in graph.sites}
    for hook in graph.hooks:
        if graph.sites and hook.id not in placed:
            yield f"hook {hook.id} ({escape(hook.function)}): it has no site, but each hook has at least one"

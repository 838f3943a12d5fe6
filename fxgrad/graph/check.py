"""Checks that the records of a graph keep their own rules, as torch.fx's ``Graph.lint`` does.

Two sorts of rules. Where the *structure* is sound, ids are ranks, names are unique, every reference leads to a record,
and numbers that belong together agree: a saved graph must pass before it is handed out, so that no reader of a graph
need check again. The rules about *meaning*, which the docstrings in `records` state, are asked of a sound graph only.

Every check is a generator of sentences, each of which names the record and the rule. No recursion; time proportional to
the size of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import chain, islice, pairwise

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.hook_kinds import HookArguments
from fxgrad.graph.records import (
    BACKWARD_APIS,
    EARLIER_CALLS,
    SCHEMA_VERSION,
    FullHookSetup,
    Gradient,
    GraphInfo,
    Hook,
    HookSite,
    ModuleCall,
    Node,
    NodeKind,
    TensorRef,
    UnrecordedCall,
    Value,
    Variable,
)
from fxgrad.graph.text import escape, format_path

MOST_PROBLEMS = 20
_VARIABLE_KINDS = ("parameter", "buffer", "input", "other leaf")
_STATUSES = ("tensor", "none", "unknown")
_CHECKPOINTS = (None, "reentrant", "non-reentrant", "function")
_MODES = ("all", "any")
_WHOLE_NODE = (HookArguments.NODE_GRADIENTS, HookArguments.NODE_GRAD_OUTPUT)


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
    problems = find_structural_problems(graph)
    first = next(problems, None)
    problems = _find_contradictions(graph) if first is None else chain((first,), problems)
    found = list(islice(problems, MOST_PROBLEMS + 1))
    if found:
        raise GraphLintError(found[:MOST_PROBLEMS], more=len(found) > MOST_PROBLEMS)


def find_structural_problems(graph: GraphRecords) -> Iterator[str]:
    """What breaks the rules about structure; numbers are compared only where every reference leads to a record."""
    references = chain(_check_identities(graph), _check_references(graph))
    first = next(references, None)
    return _check_numbers(graph) if first is None else chain((first,), references)


# How a problem names a record


def _name_node(node: Node) -> str:
    return f"node {node.id} ({escape(node.label)})"


def _name_call(call: ModuleCall) -> str:
    return f'call "{escape(call.id)}"'


def _name_unrecorded(call: UnrecordedCall, index: int) -> str:
    return f'unrecorded_calls[{index}] ("{escape(call.path)}")'


def _name_site(site: HookSite, index: int) -> str:
    return f"sites[{index}] (hook {site.hook.id}, {escape(site.hook.function)})"


def _quote(name: str) -> str:
    return f'"{escape(name)}"'


# Structure: ids, names and order


def _check_identities(graph: GraphRecords) -> Iterator[str]:
    yield from _check_ranks("nodes", (node.id for node in graph.nodes))
    yield from _check_ranks("hooks", (hook.id for hook in graph.hooks))
    yield from _check_unique("nodes", "label", (node.label for node in graph.nodes))
    yield from _check_unique("calls", "id", (call.id for call in graph.calls))
    yield from _check_unique("forward", "name", (fx_node.name for fx_node in graph.forward))
    names = (name for variable in graph.variables for name in (variable.name, *variable.aliases))
    yield from _check_unique("variables", "name", names)
    paths = (path for module in graph.modules for path in (module.path, *module.aliases))
    yield from _check_unique("modules", "path", paths)
    yield from _check_parents(graph.calls)


def _check_ranks(collection: str, ids: Iterable[int]) -> Iterator[str]:
    for rank, number in enumerate(ids):
        if number != rank:
            yield f"{collection}[{rank}]: its id is {number}, but an id is the rank in the tuple"


def _check_unique(collection: str, field: str, names: Iterable[str]) -> Iterator[str]:
    seen = set()
    for name in names:
        if name in seen:
            yield f"{collection}: two have the {field} {_quote(name)}, but it is unique"
        seen.add(name)


def _check_parents(calls: Iterable[ModuleCall]) -> Iterator[str]:
    """Calls stand in the order in which they began, so parents never lead in a circle."""
    begun: set[str] = set()
    for call in calls:
        if call.parent is not None and call.parent not in begun:
            yield f"{_name_call(call)}, parent: no module call {_quote(call.parent)} stands before it"
        begun.add(call.id)


# Structure: references. Each `_list_...` yields where a reference stands and what it refers to


def _check_references(graph: GraphRecords) -> Iterator[str]:
    yield from _check_known("module call", graph.calls_by_id.keys(), _list_call_ids(graph))
    yield from _check_known("module", graph.modules_by_path.keys(), _list_paths(graph))
    yield from _check_known("variable", graph.variables_by_name.keys(), _list_variable_names(graph))
    yield from _check_known("fx node", graph.fx_nodes_by_name.keys(), _list_fx_names(graph))
    for where, hook in _list_hook_ids(graph):
        if not 0 <= hook < len(graph.hooks):
            yield f"{where}: there is no hook {hook}; hooks are 0 to {len(graph.hooks) - 1}"
    for index, site in enumerate(graph.sites):
        if 0 <= site.hook.id < len(graph.hooks) and site.hook != graph.hooks[site.hook.id]:
            yield f"{_name_site(site, index)}: its hook is another one than hooks[{site.hook.id}]"
    for where, value in _list_values(graph):
        if value.index is not None and value.index < 0:
            yield f"{where}: result number {value.index} of an fx node, but they are counted from 0"
    yield from _check_slots(graph)


def _check_known(what: str, known: Set[str], references: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    for where, name in references:
        if name is not None and name not in known:
            yield f"{where}: there is no {what} {_quote(name)}"


def _check_slots(graph: GraphRecords) -> Iterator[str]:
    """Every reference to a node, or to one of the gradients that it receives."""
    slots = [len(node.grad_outputs) for node in graph.nodes]
    for where, node, slot in _list_slots(graph):
        if node is None:
            continue
        if not 0 <= node < len(slots):
            yield f"{where}: there is no node {node}; nodes are 0 to {len(slots) - 1}"
        elif slot is not None and not 0 <= slot < slots[node]:
            yield f"{where}: node {node} has no slot {slot}; it has {slots[node]}"
    for record in graph.nodes:
        for index, edge in enumerate(record.edges):
            if edge.next_node is not None and edge.next_node <= record.id:
                where = f"{_name_node(record)}, edges[{index}]"
                yield f"{where}: it leads to node {edge.next_node}, but ids are in topological order: to a larger one"


def _list_slots(graph: GraphRecords) -> Iterator[tuple[str, int | None, int | None]]:
    for index, root in enumerate(graph.roots):
        yield f"roots[{index}]", root.node, root.slot
    for node_id, slot in graph.info.backward.inputs or ():
        yield "info, the inputs of backward", node_id, slot
    for node in graph.nodes:
        where = _name_node(node)
        for index, edge in enumerate(node.edges):
            yield f"{where}, edges[{index}]", edge.next_node, edge.input_nr
        for entered, slot in node.nested_backward or ():
            yield f"{where}, nested_backward", entered, slot
    for where, call in _list_hooked_calls(graph):
        yield f"{where}, input_hook_node", call.input_hook_node, None
        yield f"{where}, output_hook_node", call.output_hook_node, None
    for where, ref in _list_tensors(graph):
        yield where, ref.node, ref.slot
    for variable in graph.variables:
        yield f"variable {_quote(variable.name)}", variable.node, variable.slot
    yield from _list_hook_slots(graph)


def _list_hook_slots(graph: GraphRecords) -> Iterator[tuple[str, int | None, int | None]]:
    for hook in graph.hooks:
        if hook.observed is not None:
            yield f"hook {hook.id}, observed", *hook.observed
        for held in hook.holds:
            yield f"hook {hook.id}, holds", held.node, None
        for index, target in enumerate(hook.target_slots):
            yield f"hook {hook.id}, target_slots[{index}]", *target
    for index, site in enumerate(graph.sites):
        yield _name_site(site, index), site.node, site.slot


def _list_hooked_calls(graph: GraphRecords) -> Iterator[tuple[str, ModuleCall | UnrecordedCall]]:
    for call in graph.calls:
        yield _name_call(call), call
    for index, unrecorded in enumerate(graph.unrecorded_calls):
        yield _name_unrecorded(unrecorded, index), unrecorded


def _list_tensors(graph: GraphRecords) -> Iterator[tuple[str, TensorRef]]:
    for call in graph.calls:
        where = _name_call(call)
        for field, refs in (("inputs", call.inputs), ("outputs", call.outputs)):
            for index, ref in enumerate(refs):
                yield f"{where}, {field}[{index}]", ref
        if call.legacy_tensor is not None:
            yield f"{where}, legacy_tensor", call.legacy_tensor


def _list_hook_ids(graph: GraphRecords) -> Iterator[tuple[str, int]]:
    for node in graph.nodes:
        for hook in (*node.hooks, *node.prehooks):
            yield _name_node(node), hook
    for module in graph.modules:
        for hook in module.hooks:
            yield f"module {_quote(module.path)}", hook
    for call in graph.calls:
        for hook in call.hooks:
            yield _name_call(call), hook
    for index, site in enumerate(graph.sites):
        yield _name_site(site, index), site.hook.id


def _list_call_ids(graph: GraphRecords) -> Iterator[tuple[str, str | None]]:
    for node in graph.nodes:
        yield _name_node(node), node.call
    for index, site in enumerate(graph.sites):
        yield _name_site(site, index), site.call
    for fx_node in graph.forward:
        where = f"fx node {_quote(fx_node.name)}"
        for call in fx_node.modules:
            yield where, call
        for taken in (*fx_node.taken, *fx_node.asked):
            yield f"{where}, taken", taken.call


def _list_paths(graph: GraphRecords) -> Iterator[tuple[str, str | None]]:
    for module in graph.modules:
        yield f"module {_quote(module.path)}, wraps", module.wraps


def _list_variable_names(graph: GraphRecords) -> Iterator[tuple[str, str | None]]:
    for node in graph.nodes:
        yield _name_node(node), node.variable
    for where, ref in _list_tensors(graph):
        yield where, ref.name


def _list_fx_names(graph: GraphRecords) -> Iterator[tuple[str, str | None]]:
    for node in graph.nodes:
        yield _name_node(node), node.fx_node
    for where, value in _list_values(graph):
        yield where, value.fx_node
    for fx_node in graph.forward:
        for name in fx_node.inputs:
            yield f"fx node {_quote(fx_node.name)}, inputs", name


def _list_values(graph: GraphRecords) -> Iterator[tuple[str, Value]]:
    for node in graph.nodes:
        where = _name_node(node)
        for index, edge in enumerate(node.edges):
            if edge.value is not None:
                yield f"{where}, edges[{index}]", edge.value
        for value in node.values:
            if value is not None:
                yield where, value
    for place, ref in _list_tensors(graph):
        if ref.fx_node is not None:
            yield place, Value(ref.fx_node, ref.fx_index)
    for fx_node in graph.forward:
        for value in (*fx_node.changes, *fx_node.aliases):
            if value is not None:
                yield f"fx node {_quote(fx_node.name)}", value


# Structure: numbers that belong together


def _check_numbers(graph: GraphRecords) -> Iterator[str]:
    for node in graph.nodes:
        yield from _check_lengths(node, _name_node(node))
    for call in graph.calls:
        for field, start, refs in (("inputs", ("args", "kwargs"), call.inputs), ("outputs", ("result",), call.outputs)):
            for index, ref in enumerate(refs):
                yield from _check_path(ref, f"{_name_call(call)}, {field}[{index}]", field, start)
    for where, hooked in _list_hooked_calls(graph):
        if hooked.full_hook is not None:
            place = f"{where}, full_hook" if isinstance(hooked, ModuleCall) else where
            yield from _check_setup(hooked, hooked.full_hook, graph, place)
    for index, site in enumerate(graph.sites):
        if site.node is not None and site.fires is not False:
            yield from _check_entries(site, graph.nodes[site.node], _name_site(site, index))


def _check_lengths(node: Node, where: str) -> Iterator[str]:
    if len(node.output_names) != len(node.grad_outputs):
        yield f"{where}: {len(node.output_names)} output_names for {len(node.grad_outputs)} grad_outputs"
    if node.values and len(node.values) != len(node.grad_outputs):
        yield f"{where}: {len(node.values)} values for {len(node.grad_outputs)} grad_outputs"
    if node.returned is None:
        return
    for name, entries in (("whenever", node.returned.whenever), ("if_arrived", node.returned.if_arrived)):
        if len(entries) != len(node.edges):
            yield f"{where}, returned.{name}: {len(entries)} entries for {len(node.edges)} edges"
        for entry in {*entries} - {*_STATUSES}:
            yield f'{where}, returned.{name}: an entry is {_quote(entry)}, but it is "tensor", "none" or "unknown"'
    for slot in node.returned.slots:
        if not 0 <= slot < len(node.grad_outputs):
            yield f"{where}, returned.slots: there is no slot {slot} of {len(node.grad_outputs)}"


def _check_path(ref: TensorRef, where: str, field: str, start: tuple[str, ...]) -> Iterator[str]:
    """An argument has a position or a name; a result may be the whole."""
    shortest = 2 if field == "inputs" else 1
    if len(ref.path) < shortest or ref.path[0] not in start:
        yield f"{where}: its path is {format_path(ref.path) or 'empty'}, which leads into no {field}"
    elif ref.path[0] == "args" and not isinstance(ref.path[1], int):
        yield f"{where}: its path is {format_path(ref.path)}, but positional arguments have numbers"


def _check_setup(
    call: ModuleCall | UnrecordedCall, setup: FullHookSetup, graph: GraphRecords, where: str
) -> Iterator[str]:
    sides = (
        ("input", call.input_hook_node, setup.input_positions, setup.n_inputs),
        ("output", call.output_hook_node, setup.output_positions, setup.n_outputs),
    )
    for side, node, positions, most in sides:
        if any(not 0 <= position < most for position in positions or ()):
            yield f"{where}: {side}_positions are {positions}, but there are {most} {side}s"
        if node is not None and positions is not None and len(positions) != len(graph.nodes[node].edges):
            yield f"{where}: {len(positions)} {side}_positions for the {len(graph.nodes[node].edges)} edges of its node"


def _check_entries(site: HookSite, node: Node, where: str) -> Iterator[str]:
    """What each kind of hook is given: torch/csrc/autograd/engine.cpp, ``call_pre_hooks`` and ``call_post_hooks``."""
    kind, arguments = site.hook.kind, site.hook.kind.arguments
    if arguments is HookArguments.NODE_GRADIENTS and len(site.grad_input) != len(node.edges):
        yield f"{where}: {len(site.grad_input)} grad_input for the {len(node.edges)} edges of {_name_node(node)}"
    if arguments in _WHOLE_NODE and len(site.grad_output) != len(node.grad_outputs):
        yield f"{where}: {len(site.grad_output)} grad_output for the {len(node.grad_outputs)} of {_name_node(node)}"
    if not kind.gets_grad_input and site.grad_input:
        yield f"{where}: {kind.function} gets no grad_input, but it has {len(site.grad_input)}"
    if arguments is HookArguments.LEAF and site.grad_output:
        yield f"{where}: {kind.function} gets the leaf, but it has {len(site.grad_output)} grad_output"
    if arguments is HookArguments.GRADIENT and (site.slot is None or len(site.grad_output) != 1):
        count = len(site.grad_output)
        yield f"{where}: {kind.function} sees one slot, but slot is {site.slot}, with {count} grad_output"


# Meaning


def _find_contradictions(graph: GraphRecords) -> Iterator[str]:
    yield from _check_info(graph.info, graph)
    for node in graph.nodes:
        yield from _check_node(node, _name_node(node), graph)
    for variable in graph.variables:
        yield from _check_variable(variable, graph)
    for module in graph.modules:
        for name in module.parameters:
            if name not in graph.variables_by_name:
                yield f"module {_quote(module.path)}: its parameter {_quote(name)} is no variable"
    for call in graph.calls:
        yield from _check_call(call, _name_call(call), graph)
    for where, hooked in _list_hooked_calls(graph):
        yield from _check_hook_node(hooked.input_hook_node, f"{where}: its input_hook_node", graph)
        yield from _check_hook_node(hooked.output_hook_node, f"{where}: its output_hook_node", graph)
    for fx_node in graph.forward:
        yield from _check_window(f"fx node {_quote(fx_node.name)}", fx_node.sequence_window or (0, 0))
    for hook in graph.hooks:
        yield from _check_hook(hook, graph)
    for index, site in enumerate(graph.sites):
        yield from _check_site(site, _name_site(site, index))
    yield from _check_order(graph.sites)


def _check_choice(where: str, field: str, value: object, allowed: tuple[object, ...]) -> Iterator[str]:
    if value not in allowed:
        yield f"{where}: {field} is {value!a}, but it is one of {', '.join(map(repr, allowed))}"


def _check_info(info: GraphInfo, graph: GraphRecords) -> Iterator[str]:
    if info.schema_version != SCHEMA_VERSION:
        yield f"info: its schema_version is {info.schema_version}, but these records are of version {SCHEMA_VERSION}"
    if info.calls_reason is not None and (graph.calls or graph.forward):
        yield "info: calls_reason says why there are no calls, but there are"
    yield from _check_choice("info, backward", "api", info.backward.api, BACKWARD_APIS)
    yield from _check_choice("info, backward", "after", info.backward.after, (None, *EARLIER_CALLS))
    if info.backward.api == "grad" and info.backward.inputs is None:
        yield "info, backward: autograd.grad has no inputs"


def _check_node(node: Node, where: str, graph: GraphRecords) -> Iterator[str]:
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
    for field, known, reason in (("call", node.call, node.call_reason), ("fx_node", node.fx_node, node.fx_reason)):
        if known is not None and reason is not None:
            yield f"{where}: it has a {field}, and a reason why it has none"
        if known is None and reason is None and graph.info.calls_reason is None:
            yield f"{where}: {field} is None without a reason"
    if node.variable is not None:
        yield from _check_leaf(node, graph.variables_by_name[node.variable], node.variable, where)


def _check_leaf(node: Node, variable: Variable, name: str, where: str) -> Iterator[str]:
    if node.kind is not NodeKind.ACCUMULATE_GRAD:
        yield f"{where}: it has the variable {_quote(name)}, but only an AccumulateGrad has one"
    if name != variable.name:
        yield f"{where}: its variable {_quote(name)} is an alias, but it is called by its name"
    if variable.node != node.id:
        yield f"{where}: its variable {_quote(name)} is at node {variable.node}"


def _check_variable(variable: Variable, graph: GraphRecords) -> Iterator[str]:
    where = f"variable {_quote(variable.name)}"
    yield from _check_choice(where, "kind", variable.kind, _VARIABLE_KINDS)
    node = None if variable.node is None else graph.nodes[variable.node]
    if node is not None and node.kind is NodeKind.ACCUMULATE_GRAD and node.variable != variable.name:
        yield f"{where}: it is at {_name_node(node)}, which does not name it"


def _check_call(call: ModuleCall, where: str, graph: GraphRecords) -> Iterator[str]:
    if call.id != f"{call.path}#{call.index}":
        yield f'{where}: an id is path#index, which is "{escape(call.path)}#{call.index}"'
    if call.index < 1:
        yield f"{where}: index is {call.index}, but calls are counted from 1"
    yield from _check_choice(where, "checkpointed", call.checkpointed, _CHECKPOINTS)
    if call.legacy_tensor is not None and call.legacy_reason is not None:
        yield f"{where}: it has a legacy_tensor, and a reason why it has none"
    yield from _check_window(where, call.sequence_window)
    if call.parent is not None:
        parent, (start, end) = graph.calls_by_id[call.parent], call.sequence_window
        first, last = parent.sequence_window
        if not (first <= start and end <= last):
            outer = f"{parent.sequence_window}, that of {_name_call(parent)}"
            yield f"{where}: its sequence_window {call.sequence_window} is not within {outer}"
    for ref in (*call.inputs, *call.outputs, *([call.legacy_tensor] if call.legacy_tensor else [])):
        if ref.node is not None and ref.node_name != graph.nodes[ref.node].name:
            name, node = "None" if ref.node_name is None else escape(ref.node_name), _name_node(graph.nodes[ref.node])
            yield f"{where}: a tensor's node_name is {name}, but its node is {node}"


def _check_hook_node(number: int | None, where: str, graph: GraphRecords) -> Iterator[str]:
    if number is not None and graph.nodes[number].kind is not NodeKind.BACKWARD_HOOK:
        yield f"{where} is {_name_node(graph.nodes[number])}, which is no BackwardHookFunction"


def _check_window(where: str, window: tuple[int, int]) -> Iterator[str]:
    start, end = window
    if not 0 <= start <= end:
        yield f"{where}: its sequence_window ({start}, {end}) is not a range of numbers from 0 up"


def _check_hook(hook: Hook, graph: GraphRecords) -> Iterator[str]:
    where = f"hook {hook.id} ({escape(hook.function)})"
    if hook.kind.on_several_tensors:
        yield from _check_choice(where, "mode", hook.mode, _MODES)
    elif hook.mode is not None or hook.targets:
        yield f"{where}: only a multi-grad hook has a mode and targets"
    if hook.target_slots and len(hook.target_slots) != len(hook.targets):
        yield f"{where}: {len(hook.target_slots)} target_slots for {len(hook.targets)} targets"
    if hook.kind.is_global and hook.owner:
        yield f"{where}: a global hook has no owner, but it has {_quote(hook.owner)}"
    if hook.observed is not None and hook.unplaced is not None:
        yield f"{where}: it was seen on a node, and has a reason why it is on none"
    if graph.sites and hook.id not in graph.sites_by_hook:
        yield f"{where}: it has no site, but each hook has at least one"


def _check_site(site: HookSite, where: str) -> Iterator[str]:
    if not site.reason:
        yield f"{where}: it has no reason"
    if (site.order is None) != (site.fires is False):
        yield f"{where}: fires is {site.fires} and order is {site.order}, but order is None iff fires is False"
    if site.fires is True and site.node is None:
        yield f"{where}: it fires, but it is on no node"
    if site.times is not None and site.fires is not None and (site.times > 0) != site.fires:
        yield f"{where}: fires is {site.fires}, but times is {site.times}"
    for name, gradients in (("grad_input", site.grad_input), ("grad_output", site.grad_output)):
        for index, gradient in enumerate(gradients):
            yield from _check_gradient(gradient, index, f"{where}, {name}[{index}]")


def _check_gradient(gradient: Gradient, index: int, where: str) -> Iterator[str]:
    if gradient.index != index:
        yield f"{where}: its index is {gradient.index}, but an index is the rank in the tuple"
    yield from _check_choice(where, "status", gradient.status, _STATUSES)
    if gradient.status != "tensor" and not gradient.reason:
        yield f"{where}: status is {_quote(gradient.status)} without a reason"


def _check_order(sites: tuple[HookSite, ...]) -> Iterator[str]:
    ranked = [(site.order, index) for index, site in enumerate(sites) if site.order is not None]
    for (earlier, _), (later, index) in pairwise(ranked):
        if later <= earlier:
            where = _name_site(sites[index], index)
            yield f"{where}: its order {later} follows {earlier}, but sites are in firing order"

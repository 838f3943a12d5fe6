"""Checks that the records of a graph keep their own rules, as torch.fx's ``Graph.lint`` does.

Two sorts of rules. `find_structural_problems` checks what a reader of a saved graph relies on: ids are ranks, names are
unique, every reference leads to a record, and numbers that belong together agree. A graph that breaks one of these is
refused, so that no reader need check again. `lint` also checks what a trace and its prediction promise: each None has
a reason, and sites agree with themselves. msgspec checks the types of a saved graph before either.

Every check is a generator of sentences, each of which names the record and the rule. No recursion; time proportional to
the size of the graph.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import chain, islice, pairwise

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.hook_kinds import HookArguments
from fxgrad.graph.records import (
    FullHookSetup,
    Gradient,
    HookSite,
    ModuleCall,
    Node,
    TensorRef,
    UnrecordedCall,
    Value,
)
from fxgrad.graph.text import escape, format_path

MOST_PROBLEMS = 20
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
    first = next(problems, None)  # where the structure is broken, the look-ups of the other rules would raise
    problems = _find_contradictions(graph) if first is None else chain((first,), problems)
    found = list(islice(problems, MOST_PROBLEMS + 1))
    if found:
        raise GraphLintError(found[:MOST_PROBLEMS], more=len(found) > MOST_PROBLEMS)


def find_structural_problems(graph: GraphRecords) -> Iterator[str]:
    """What breaks the rules about structure; numbers are compared only where every reference leads to a record."""
    references = chain(_check_identities(graph), _check_references(graph), _check_slots(graph))
    first = next(references, None)
    return _check_numbers(graph) if first is None else chain((first,), references)


# How a problem names a record


def _name_node(node: Node) -> str:
    return f"node {node.id} ({escape(node.label)})"


def _name_call(call: ModuleCall) -> str:
    return f'call "{escape(call.id)}"'


def _name_site(site: HookSite, index: int) -> str:
    return f"sites[{index}] (hook {site.hook.id}, {escape(site.hook.function)})"


def _quote(name: str) -> str:
    return f'"{escape(name)}"'


def _list_hooked_calls(graph: GraphRecords) -> Iterator[tuple[str, ModuleCall | UnrecordedCall]]:
    for call in graph.calls:
        yield _name_call(call), call
    for index, unrecorded in enumerate(graph.unrecorded_calls):
        yield f'unrecorded_calls[{index}] ("{escape(unrecorded.path)}")', unrecorded


def _list_tensors(graph: GraphRecords) -> Iterator[tuple[str, TensorRef]]:
    for call in graph.calls:
        where = _name_call(call)
        for field, refs in (("inputs", call.inputs), ("outputs", call.outputs)):
            for index, ref in enumerate(refs):
                yield f"{where}, {field}[{index}]", ref
        if call.legacy_tensor is not None:
            yield f"{where}, legacy_tensor", call.legacy_tensor


# Structure: ids, names and order


def _check_identities(graph: GraphRecords) -> Iterator[str]:
    for collection, ids in (("nodes", [node.id for node in graph.nodes]), ("hooks", [hook.id for hook in graph.hooks])):
        for rank, number in enumerate(ids):
            if number != rank:
                yield f"{collection}[{rank}]: its id is {number}, but an id is the rank in the tuple"
    yield from _check_unique("nodes", "label", (node.label for node in graph.nodes))
    yield from _check_unique("calls", "id", (call.id for call in graph.calls))
    yield from _check_unique("forward", "name", (fx_node.name for fx_node in graph.forward))
    names = (name for variable in graph.variables for name in (variable.name, *variable.aliases))
    yield from _check_unique("variables", "name", names)
    paths = (path for module in graph.modules for path in (module.path, *module.aliases))
    yield from _check_unique("modules", "path", paths)
    begun: set[str] = set()
    for call in graph.calls:  # in the order in which they began, so parents never lead in a circle
        if call.parent is not None and call.parent not in begun:
            yield f"{_name_call(call)}, parent: no module call {_quote(call.parent)} stands before it"
        begun.add(call.id)


def _check_unique(collection: str, field: str, names: Iterable[str]) -> Iterator[str]:
    seen = set()
    for name in names:
        if name in seen:
            yield f"{collection}: two have the {field} {_quote(name)}, but it is unique"
        seen.add(name)


# Structure: references


def _check_references(graph: GraphRecords) -> Iterator[str]:
    known: dict[str, Container[object]] = {
        "module call": graph.calls_by_id,
        "module": graph.modules_by_path,
        "variable": graph.variables_by_name,
        "fx node": graph.fx_nodes_by_name,
        "hook": range(len(graph.hooks)),
    }
    for where, kind, key in _list_references(graph):
        if key is not None and key not in known[kind]:
            name = _quote(key) if isinstance(key, str) else f"{key}; hooks are 0 to {len(graph.hooks) - 1}"
            yield f"{where}: there is no {kind} {name}"
    for index, site in enumerate(graph.sites):
        if 0 <= site.hook.id < len(graph.hooks) and site.hook != graph.hooks[site.hook.id]:
            yield f"{_name_site(site, index)}: its hook is another one than hooks[{site.hook.id}]"


def _list_references(graph: GraphRecords) -> Iterator[tuple[str, str, str | int | None]]:
    """Where each reference by name or rank stands, what it refers to, and by which key."""
    for node in graph.nodes:
        where = _name_node(node)
        yield where, "module call", node.call
        yield where, "variable", node.variable
        yield where, "fx node", node.fx_node
        for hook in (*node.hooks, *node.prehooks):
            yield where, "hook", hook
        for edge in node.edges:
            yield where, "fx node", _fx_name(edge.value)
    yield from _list_sharded(graph)
    for where, ref in _list_tensors(graph):
        yield where, "variable", ref.name
        yield where, "fx node", ref.fx_node
    for module in graph.modules:
        where = f"module {_quote(module.path)}"
        yield f"{where}, wraps", "module", module.wraps
        for hook in module.hooks:
            yield where, "hook", hook
    for call in graph.calls:
        for hook in (*call.hooks, *[passed.hook for passed in call.compiled_before]):
            yield _name_call(call), "hook", hook
    for fx_node in graph.forward:
        where = f"fx node {_quote(fx_node.name)}"
        for call_id in (*fx_node.modules, *[taken.call for taken in (*fx_node.taken, *fx_node.asked)]):
            yield where, "module call", call_id
        for name in (*fx_node.inputs, *map(_fx_name, (*fx_node.changes, *fx_node.aliases))):
            yield where, "fx node", name
    for index, site in enumerate(graph.sites):
        where = _name_site(site, index)
        yield where, "module call", site.call
        yield where, "hook", site.hook.id


def _list_sharded(graph: GraphRecords) -> Iterator[tuple[str, str, str | None]]:
    for variable in graph.variables:
        yield f"variable {_quote(variable.name)}, unsharded", "variable", variable.unsharded
        yield f"variable {_quote(variable.name)}, made_from", "fx node", variable.made_from
        yield f"variable {_quote(variable.name)}, replaces", "variable", variable.replaces
    for hook in graph.hooks:
        if hook.sharding is not None:
            yield f"hook {hook.id}, sharding", "variable", hook.sharding.parameter


def _fx_name(value: Value | None) -> str | None:
    return None if value is None else value.fx_node


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
    """Where each of these stands, with the node's id and the slot; slot None: the node as a whole."""
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
        for earlier in variable.earlier:
            yield f"variable {_quote(variable.name)}, earlier", earlier, None
    yield from _list_hook_slots(graph)


def _list_hook_slots(graph: GraphRecords) -> Iterator[tuple[str, int | None, int | None]]:
    for hook in graph.hooks:
        if hook.observed is not None:
            yield f"hook {hook.id}, observed", *hook.observed
        if hook.sharding is not None:
            yield f"hook {hook.id}, sharding", hook.sharding.leaf, None
        for entered, slot in hook.nested_backward or ():
            yield f"hook {hook.id}, nested_backward", entered, slot
        for held in hook.holds:
            yield f"hook {hook.id}, holds", held.node, None
        for index, target in enumerate(hook.target_slots):
            yield f"hook {hook.id}, target_slots[{index}]", *target
    for index, site in enumerate(graph.sites):
        yield _name_site(site, index), site.node, site.slot


# Structure: numbers that belong together


def _check_numbers(graph: GraphRecords) -> Iterator[str]:
    for node in graph.nodes:
        yield from _check_lengths(node, _name_node(node))
    for call in graph.calls:
        # an argument has a position or a name; a result may be the whole
        sides = (("inputs", ("args", "kwargs"), 2, call.inputs), ("outputs", ("result",), 1, call.outputs))
        for field, start, shortest, refs in sides:
            for index, ref in enumerate(refs):
                if len(ref.path) < shortest or ref.path[0] not in start:
                    path = format_path(ref.path) or "empty"
                    yield f"{_name_call(call)}, {field}[{index}]: its path is {path}, which leads into no {field}"
    for where, hooked in _list_hooked_calls(graph):
        if hooked.full_hook is not None:
            yield from _check_setup(hooked, hooked.full_hook, graph, where)
    for index, site in enumerate(graph.sites):
        if site.node is not None and site.fires is not False:
            yield from _check_entries(site, graph.nodes[site.node], _name_site(site, index))


def _check_lengths(node: Node, where: str) -> Iterator[str]:
    if len(node.output_names) != len(node.grad_outputs):
        yield f"{where}: {len(node.output_names)} output_names for {len(node.grad_outputs)} grad_outputs"
    if node.returned is None:
        return
    for name, entries in (("whenever", node.returned.whenever), ("if_arrived", node.returned.if_arrived)):
        if len(entries) != len(node.edges):
            yield f"{where}, returned.{name}: {len(entries)} entries for {len(node.edges)} edges"
    for slot in node.returned.slots:
        if not 0 <= slot < len(node.grad_outputs):
            yield f"{where}, returned.slots: there is no slot {slot} of {len(node.grad_outputs)}"


def _check_setup(
    call: ModuleCall | UnrecordedCall, setup: FullHookSetup, graph: GraphRecords, where: str
) -> Iterator[str]:
    sides = (
        ("input", call.input_hook_node, setup.input_positions, setup.n_inputs),
        ("output", call.output_hook_node, setup.output_positions, setup.n_outputs),
    )
    for side, node, positions, most in sides:
        if any(not 0 <= position < most for position in positions or ()):
            yield f"{where}, full_hook: {side}_positions are {positions}, but there are {most} {side}s"
        if node is not None and positions is not None and len(positions) != len(graph.nodes[node].edges):
            edges = len(graph.nodes[node].edges)
            yield f"{where}, full_hook: {len(positions)} {side}_positions for the {edges} edges of its node"


def _check_entries(site: HookSite, node: Node, where: str) -> Iterator[str]:
    """What each kind of hook is given: torch/csrc/autograd/engine.cpp, ``call_pre_hooks`` and ``call_post_hooks``."""
    kind, arguments = site.hook.kind, site.hook.kind.arguments
    if site.grad_input is None or site.grad_output is None:
        yield f"{where}: the number of its entries is unknown, but it is on {_name_node(node)}"
        return
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
    for node in graph.nodes:
        yield from _check_node(node, _name_node(node), graph)
    if graph.sites:
        for hook in graph.hooks:
            if hook.id not in graph.sites_by_hook:
                yield f"hook {hook.id} ({escape(hook.function)}): it has no site, but each hook has at least one"
    for index, site in enumerate(graph.sites):
        yield from _check_site(site, _name_site(site, index))
    ranked = [(site.order, index) for index, site in enumerate(graph.sites) if site.order is not None]
    for (earlier, _), (later, index) in pairwise(ranked):
        if later <= earlier:
            where = _name_site(graph.sites[index], index)
            yield f"{where}: its order {later} follows {earlier}, but sites are in firing order"


def _check_node(node: Node, where: str, graph: GraphRecords) -> Iterator[str]:
    for index, edge in enumerate(node.edges):
        if edge.next_node is None and edge.null_reason is None:
            yield f"{where}, edges[{index}]: next_node is None without a null_reason"
        if edge.next_node is not None and edge.null_reason is not None:
            yield f"{where}, edges[{index}]: it has a null_reason, but it leads to node {edge.next_node}"
    for field, known, reason in (("call", node.call, node.call_reason), ("fx_node", node.fx_node, node.fx_reason)):
        if known is not None and reason is not None:
            yield f"{where}: it has a {field}, and a reason why it has none"
        if known is None and reason is None and graph.info.calls_reason is None:
            yield f"{where}: {field} is None without a reason"
    variable = None if node.variable is None else graph.variables_by_name[node.variable]
    if variable is not None and node.id not in (variable.node, *variable.earlier):
        yield f"{where}: its variable {_quote(variable.name)} is at node {variable.node}"


def _check_site(site: HookSite, where: str) -> Iterator[str]:
    if not site.reason:
        yield f"{where}: it has no reason"
    if (site.order is None) != (site.fires is False):
        yield f"{where}: fires is {site.fires} and order is {site.order}, but order is None iff fires is False"
    if site.fires is True and site.node is None and not site.hook.is_called_by_fsdp:
        yield f"{where}: it fires, but it is on no node"
    if site.times is not None and site.fires is not None and (site.times > 0) != site.fires:
        yield f"{where}: fires is {site.fires}, but times is {site.times}"
    for name, gradients in (("grad_input", site.grad_input), ("grad_output", site.grad_output)):
        for index, gradient in enumerate(gradients or ()):
            yield from _check_gradient(gradient, index, f"{where}, {name}[{index}]")


def _check_gradient(gradient: Gradient, index: int, where: str) -> Iterator[str]:
    if gradient.index != index:
        yield f"{where}: its index is {gradient.index}, but an index is the rank in the tuple"
    if gradient.status != "tensor" and not gradient.reason:
        yield f"{where}: status is {_quote(gradient.status)} without a reason"

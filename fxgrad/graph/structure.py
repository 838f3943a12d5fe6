"""The rules that make a graph safe to work on: ids are ranks, names are unique, every reference leads somewhere.

What is checked here no reader of a graph needs to check again, so a saved graph must pass before it is handed out.
The rules about meaning are in `lint`. No recursion; time proportional to the size of the graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.lengths import call_text, length_problems, node_text, site_text, unrecorded_text
from fxgrad.graph.records import (
    FxNode,
    Hook,
    HookSite,
    Module,
    ModuleCall,
    Node,
    TensorRef,
    UnrecordedCall,
    Value,
    Variable,
)
from fxgrad.graph.text import escape


def structural_problems(graph: GraphRecords) -> Iterator[str]:
    """Find what breaks these rules, each as a sentence that names the record; where nothing does, those of `lengths`."""
    first = next(found := _reference_problems(graph), None)
    return length_problems(graph) if first is None else chain((first,), found)


def _reference_problems(graph: GraphRecords) -> Iterator[str]:
    known = _Known.of(graph)
    yield from _ranks("nodes", (node.id for node in graph.nodes))
    yield from _ranks("hooks", (hook.id for hook in graph.hooks))
    yield from _unique("nodes", "label", (node.label for node in graph.nodes))
    yield from _unique("calls", "id", (call.id for call in graph.calls))
    yield from _unique("forward", "name", (fx_node.name for fx_node in graph.forward))
    yield from _unique("variables", "name", (name for variable in graph.variables for name in _names(variable)))
    yield from _unique("modules", "path", (path for module in graph.modules for path in _paths(module)))
    for index, root in enumerate(graph.roots):
        yield from known.place(f"roots[{index}]", root.node, root.slot)
    for node_id, slot in graph.info.backward.inputs or ():
        yield from known.place("info, the inputs of backward", node_id, slot)
    for node in graph.nodes:
        yield from _node_problems(node, known)
    for module in graph.modules:
        yield from known.hooks(f"module {_quoted(module.path)}", module.hooks)
        yield from known.module(f"module {_quoted(module.path)}, wraps", module.wraps)
    for call in graph.calls:
        yield from _call_problems(call, known)
    yield from _parent_cycles(graph.calls)
    for index, unrecorded in enumerate(graph.unrecorded_calls):
        yield from _hook_node_problems(unrecorded, unrecorded_text(unrecorded, index), known)
    for variable in graph.variables:
        yield from known.place(f"variable {_quoted(variable.name)}", variable.node, variable.slot)
    for hook in graph.hooks:
        yield from _hook_problems(hook, known)
    for index, site in enumerate(graph.sites):
        yield from _site_problems(site, index, graph, known)
    for fx_node in graph.forward:
        yield from _fx_node_problems(fx_node, known)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a reference may lead to, and the sentences for one that leads nowhere."""

    slots: tuple[int, ...]
    n_hooks: int
    call_ids: frozenset[str]
    paths: frozenset[str]
    variable_names: frozenset[str]
    fx_names: frozenset[str]

    @classmethod
    def of(cls, graph: GraphRecords) -> _Known:
        """Collect what `graph` holds."""
        return cls(
            tuple(len(node.grad_outputs) for node in graph.nodes),
            len(graph.hooks),
            frozenset(call.id for call in graph.calls),
            frozenset(path for module in graph.modules for path in _paths(module)),
            frozenset(name for variable in graph.variables for name in _names(variable)),
            frozenset(fx_node.name for fx_node in graph.forward),
        )

    def place(self, where: str, node: int | None, slot: int | None) -> Iterator[str]:
        """A node that is not in the graph, or a slot that it does not have."""
        if node is None:
            return
        if not 0 <= node < len(self.slots):
            yield f"{where}: there is no node {node}; nodes are 0 to {len(self.slots) - 1}"
        elif slot is not None and not 0 <= slot < self.slots[node]:
            yield f"{where}: node {node} has no slot {slot}; it has {self.slots[node]}"

    def hooks(self, where: str, ids: Iterable[int]) -> Iterator[str]:
        """Ids that no hook has."""
        for hook in ids:
            if not 0 <= hook < self.n_hooks:
                yield f"{where}: there is no hook {hook}; hooks are 0 to {self.n_hooks - 1}"

    def call(self, where: str, call: str | None) -> Iterator[str]:
        """A module call that was not recorded."""
        if call is not None and call not in self.call_ids:
            yield f"{where}: there is no module call {_quoted(call)}"

    def module(self, where: str, path: str | None) -> Iterator[str]:
        """A module that is not listed."""
        if path is not None and path not in self.paths:
            yield f"{where}: there is no module {_quoted(path)}"

    def variable(self, where: str, name: str | None) -> Iterator[str]:
        """A variable that is not listed."""
        if name is not None and name not in self.variable_names:
            yield f"{where}: there is no variable {_quoted(name)}"

    def fx_node(self, where: str, name: str | None) -> Iterator[str]:
        """An fx node that was not recorded."""
        if name is not None and name not in self.fx_names:
            yield f"{where}: there is no fx node {_quoted(name)}"

    def value(self, where: str, value: Value | None) -> Iterator[str]:
        """A forward value of an fx node that was not recorded."""
        if value is not None:
            yield from self.fx_node(where, value.fx_node)
            yield from _rank(where, value.index)

    def tensor(self, where: str, ref: TensorRef) -> Iterator[str]:
        """A tensor of a module call: its node, its name, its fx node."""
        yield from self.place(where, ref.node, ref.slot)
        yield from self.variable(where, ref.name)
        yield from self.fx_node(where, ref.fx_node)
        yield from _rank(where, ref.fx_index)


def _rank(where: str, index: int | None) -> Iterator[str]:
    if index is not None and index < 0:
        yield f"{where}: result number {index} of an fx node, but they are counted from 0"


def _quoted(name: str) -> str:
    return f'"{escape(name)}"'


def _names(variable: Variable) -> tuple[str, ...]:
    return (variable.name, *variable.aliases)


def _paths(module: Module) -> tuple[str, ...]:
    return (module.path, *module.aliases)


def _ranks(collection: str, ids: Iterable[int]) -> Iterator[str]:
    for rank, number in enumerate(ids):
        if number != rank:
            yield f"{collection}[{rank}]: its id is {number}, but an id is the rank in the tuple"


def _unique(collection: str, field: str, names: Iterable[Hashable]) -> Iterator[str]:
    seen = set()
    for name in names:
        if name in seen:
            yield f'{collection}: two have the {field} "{escape(str(name))}", but it is unique'
        seen.add(name)


def _node_problems(node: Node, known: _Known) -> Iterator[str]:
    where = node_text(node)
    for index, edge in enumerate(node.edges):
        if edge.next_node is not None or edge.value is not None:
            at = f"{where}, edges[{index}]"
            yield from known.place(at, edge.next_node, edge.input_nr)
            yield from known.value(at, edge.value)
            if edge.next_node is not None and edge.next_node <= node.id:
                yield f"{at}: it leads to node {edge.next_node}, but ids are in topological order: to a larger one"
    for number, slot in node.nested_backward or ():
        yield from known.place(f"{where}, nested_backward", number, slot)
    yield from _returned_problems(node, where)
    for value in node.values:
        yield from known.value(where, value)
    yield from known.variable(where, node.variable)
    yield from known.call(where, node.call)
    yield from known.fx_node(where, node.fx_node)
    yield from known.hooks(where, node.hooks)
    yield from known.hooks(where, node.prehooks)


def _returned_problems(node: Node, where: str) -> Iterator[str]:
    if node.returned is None:
        return
    for name, entries in (("whenever", node.returned.whenever), ("if_arrived", node.returned.if_arrived)):
        if len(entries) != len(node.edges):
            yield f"{where}, returned.{name}: {len(entries)} entries for {len(node.edges)} edges"
        for entry in {*entries} - {"tensor", "none", "unknown"}:
            yield f'{where}, returned.{name}: an entry is "{escape(entry)}", but it is "tensor", "none" or "unknown"'
    for slot in node.returned.slots:
        if not 0 <= slot < len(node.grad_outputs):
            yield f"{where}, returned.slots: there is no slot {slot} of {len(node.grad_outputs)}"


def _call_problems(call: ModuleCall, known: _Known) -> Iterator[str]:
    where = call_text(call)
    yield from known.call(f"{where}, parent", call.parent)
    yield from known.hooks(where, call.hooks)
    yield from _hook_node_problems(call, where, known)
    for name, refs in (("inputs", call.inputs), ("outputs", call.outputs)):
        for index, ref in enumerate(refs):
            yield from known.tensor(f"{where}, {name}[{index}]", ref)
    if call.legacy_tensor is not None:
        yield from known.tensor(f"{where}, legacy_tensor", call.legacy_tensor)


def _hook_node_problems(call: ModuleCall | UnrecordedCall, where: str, known: _Known) -> Iterator[str]:
    yield from known.place(f"{where}, input_hook_node", call.input_hook_node, None)
    yield from known.place(f"{where}, output_hook_node", call.output_hook_node, None)


def _parent_cycles(calls: tuple[ModuleCall, ...]) -> Iterator[str]:
    parents = {call.id: call.parent for call in calls}
    ends_well: set[str | None] = {None}
    for call in calls:
        trail: dict[str | None, None] = {}
        at: str | None = call.id
        while at not in ends_well and at not in trail:
            trail[at] = None
            at = parents.get(at) if at is not None else None
        if at in trail:
            yield f"{call_text(call)}: its parents lead in a circle"
        ends_well.update(trail)


def _hook_problems(hook: Hook, known: _Known) -> Iterator[str]:
    if hook.observed is not None:
        yield from known.place(f"hook {hook.id}, observed", *hook.observed)
    for held in hook.holds:
        yield from known.place(f"hook {hook.id}, holds", held.node, None)
    for index, (node, slot) in enumerate(hook.target_slots):
        yield from known.place(f"hook {hook.id}, target_slots[{index}]", node, slot)


def _site_problems(site: HookSite, index: int, graph: GraphRecords, known: _Known) -> Iterator[str]:
    where = site_text(site, index)
    yield from known.place(where, site.node, site.slot)
    yield from known.call(where, site.call)
    hook = site.hook
    if not 0 <= hook.id < len(graph.hooks):
        yield from known.hooks(where, (hook.id,))
    elif hook != graph.hooks[hook.id]:
        yield f"{where}: its hook is another one than hooks[{hook.id}]"


def _fx_node_problems(fx_node: FxNode, known: _Known) -> Iterator[str]:
    for call in fx_node.modules:
        yield from known.call(f"fx node {_quoted(fx_node.name)}", call)
    for taken in (*fx_node.taken, *fx_node.asked):
        yield from known.call(f"fx node {_quoted(fx_node.name)}, taken", taken.call)
    for argument in fx_node.inputs:
        yield from known.fx_node(f"fx node {_quoted(fx_node.name)}, inputs", argument)
    for value in (*fx_node.changes, *fx_node.aliases):
        yield from known.value(f"fx node {_quoted(fx_node.name)}", value)

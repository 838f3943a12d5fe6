"""The records of one graph, and the look-ups over them that every layer above asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from fxgrad.graph.records import (
    FxNode,
    GraphInfo,
    Hook,
    HookSite,
    Module,
    ModuleCall,
    Node,
    NodeKind,
    Path,
    Record,
    Root,
    UnrecordedCall,
    Variable,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # new in typing of Python 3.11

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


class GraphRecords(Record, frozen=True, dict=True, gc=True):
    """The fields of a `BackwardGraph`, which says what they are, with look-ups that are made when first asked for.

    A class of its own, so that the modules which `BackwardGraph` calls can name its type.
    """

    roots: tuple[Root, ...]
    nodes: tuple[Node, ...]
    modules: tuple[Module, ...]
    calls: tuple[ModuleCall, ...]
    variables: tuple[Variable, ...]
    hooks: tuple[Hook, ...]
    sites: tuple[HookSite, ...]
    forward: tuple[FxNode, ...]
    info: GraphInfo
    unrecorded_calls: tuple[UnrecordedCall, ...] = ()

    def remember(self, make: Callable[[Self], _Entry]) -> _Entry:
        """What a function of a layer above makes of the graph, which never changes: made when first asked for."""
        name = f"{make.__module__}.{make.__qualname__}"
        known: dict[str, _Entry] = self.__dict__
        if name not in known:
            known[name] = make(self)
        return known[name]

    # Module calls

    @cached_property
    def calls_by_id(self) -> dict[str, ModuleCall]:
        """Every module call by its id."""
        return {call.id: call for call in self.calls}

    @cached_property
    def calls_by_path(self) -> dict[str, tuple[ModuleCall, ...]]:
        """For each module path its calls, in the order in which they began."""
        return _group((call.path, call) for call in self.calls)

    @cached_property
    def calls_by_hook(self) -> dict[int, tuple[ModuleCall, ...]]:
        """For each hook id the calls that snapshotted the hook, in the order in which they began."""
        return _group((hook, call) for call in self.calls for hook in dict.fromkeys(call.hooks))

    @cached_property
    def calls_by_hook_node(self) -> dict[int, ModuleCall]:
        """For each BackwardHookFunction node the call whose full hook put it there: it is made outside of the window."""
        pairs = ((node, call) for call in self.calls for node in (call.input_hook_node, call.output_hook_node))
        return {node: call for node, call in pairs if node is not None}

    @cached_property
    def calls_within(self) -> dict[str, tuple[ModuleCall, ...]]:
        """For each call id the calls that were made directly inside it, in order."""
        return _group((call.parent, call) for call in self.calls if call.parent is not None)

    @cached_property
    def calls_per_module(self) -> Counter[str]:
        """How many calls of each module path there are."""
        return Counter(call.path for call in self.calls)

    @cached_property
    def recomputed_modules(self) -> frozenset[str]:
        """The paths of the modules that were called inside of what runs its forward again in backward."""
        return frozenset(call.path for call in self.calls if call.checkpointed in ("reentrant", "function"))

    @cached_property
    def unrecorded_calls_by_node(self) -> dict[int, UnrecordedCall]:
        """Every unrecorded call by its node on the inputs and by that on the outputs."""
        return {
            node: call
            for call in self.unrecorded_calls
            for node in (call.input_hook_node, call.output_hook_node)
            if node is not None
        }

    def enclosing_calls(self, call: str | None) -> Iterator[ModuleCall]:
        """The call of this id and the calls around it, innermost first; nothing for None."""
        while call is not None:
            found = self.calls_by_id[call]
            yield found
            call = found.parent

    def is_within(self, inner: str, outer: str) -> bool:
        """Whether the call `inner` is the call `outer`, or was made inside it."""
        return any(call.id == outer for call in self.enclosing_calls(inner))

    # Nodes

    @cached_property
    def nodes_by_label(self) -> dict[str, Node]:
        """Every node by its label."""
        return {node.label: node for node in self.nodes}

    @cached_property
    def nodes_by_call(self) -> dict[str, tuple[Node, ...]]:
        """For each call id the nodes that it made, without those of the calls inside it (`nodes_within`)."""
        return _group((node.call, node) for node in self.nodes if node.call is not None)

    @cached_property
    def nodes_by_hook(self) -> dict[int, tuple[Node, ...]]:
        """For each hook id the nodes whose post-hooks list it, once for every time that they do."""
        return _group((hook, node) for node in self.nodes for hook in node.hooks)

    def nodes_within(self, call: str) -> tuple[Node, ...]:
        """The nodes that a call made, those of the calls inside it included."""
        found: list[Node] = []
        waiting = [call]
        while waiting:
            inner = waiting.pop()
            found.extend(self.nodes_by_call.get(inner, ()))
            waiting.extend(within.id for within in self.calls_within.get(inner, ()))
        return tuple(found)

    def find_maker(self, node: Node) -> ModuleCall | None:
        """The call that made the node, or whose full hook put it there; None outside of every call."""
        if node.id in self.calls_by_hook_node:
            return self.calls_by_hook_node[node.id]
        return None if node.call is None else self.calls_by_id[node.call]

    def nodes_behind(self, starts: Iterable[int]) -> frozenset[int]:
        """Ids of `starts` and of every node that their gradients reach."""
        found = set(starts)
        for node in self.nodes[min(found, default=0) :]:  # a node comes before the nodes that its gradients go to
            if node.id in found:
                found.update(edge.next_node for edge in node.edges if edge.next_node is not None)
        return frozenset(found)

    @cached_property
    def nesting(self) -> tuple[Node, ...]:
        """The nodes that start a backward: reentrant checkpoints, custom Functions like them, and those with such hooks."""
        starting = self.nesting_hooks
        return tuple([node for node in self.nodes if node.nested_backward is not None or node.id in starting])

    @cached_property
    def nesting_hooks(self) -> dict[int, Hook]:
        """For the id of each node that has hooks whose code starts a backward, and does not start one itself: the first one."""
        starting = {hook.id: hook for hook in self.hooks if hook.active and hook.nested_backward is not None}
        if not starting:
            return {}
        found: dict[int, Hook] = {}
        for hook in starting.values():
            places = [hook.observed[0]] if hook.observed is not None else [node for node, _ in hook.target_slots]
            for place in places:
                if place is not None:
                    found.setdefault(place, hook)
        for node in self.nodes:
            for number in (*node.prehooks, *node.hooks):
                if number in starting:
                    found.setdefault(node.id, starting[number])
        return {place: hook for place, hook in found.items() if self.nodes[place].nested_backward is None}

    def list_entries(self, node: Node) -> tuple[tuple[int | None, int], ...]:
        """The slots that the backward which starts at a node may enter besides leaves: see `Node.nested_backward`."""
        hook = self.nesting_hooks.get(node.id)
        return (hook.nested_backward if hook is not None else node.nested_backward) or ()

    @cached_property
    def recomputes(self) -> bool:
        """Whether a non-reentrant checkpoint runs forward again for what one of the nodes saved."""
        return any(node.recomputed for node in self.nodes)

    @cached_property
    def nests_in_checkpoints(self) -> bool:
        """Whether all of these are reentrant checkpoints."""
        return all(node.kind is NodeKind.CHECKPOINT for node in self.nesting)

    # Slots: a gradient that a node receives, as (node id, slot)

    @cached_property
    def root_slots(self) -> frozenset[tuple[int, int]]:
        """The slots that backward starts from."""
        return frozenset((root.node, root.slot) for root in self.roots)

    @cached_property
    def users_of_slots(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """For each slot the ids of the nodes with an edge to it: they used its value, and send it gradients."""
        leading = ((edge.next_node, edge.input_nr, node.id) for node in self.nodes for edge in node.edges)
        users = _group(((node, slot), user) for node, slot, user in leading if node is not None)
        return {slot: tuple(dict.fromkeys(ids)) for slot, ids in users.items()}

    @cached_property
    def results_of_slots(self) -> dict[tuple[int, int], tuple[tuple[str, Path], ...]]:
        """For each slot the ids of the calls in whose result its value is, and where in the result."""
        return _group(
            ((ref.node, ref.slot), (call.id, ref.path))
            for call in self.calls
            for ref in call.outputs
            if ref.node is not None
        )

    def find_returning_call(self, node: int, slot: int) -> tuple[ModuleCall, Path] | None:
        """The innermost call around what made a value that returned it, and where in its result; None if none did."""
        places = dict(self.results_of_slots.get((node, slot), ()))
        maker = self.find_maker(self.nodes[node])
        calls = self.enclosing_calls(None if maker is None else maker.id)
        return next(((call, places[call.id]) for call in calls if call.id in places), None)

    @cached_property
    def names_of_slots(self) -> dict[tuple[int, int], str]:
        """For each slot the name of the variable that it belongs to."""
        return {
            (variable.node, variable.slot): variable.name for variable in self.variables if variable.node is not None
        }

    # Hooks

    @cached_property
    def sites_by_hook(self) -> dict[int, tuple[HookSite, ...]]:
        """For each hook id its sites, in firing order."""
        return _group((site.hook.id, site) for site in self.sites)

    @cached_property
    def sites_by_node(self) -> dict[int, tuple[HookSite, ...]]:
        """For each node id the sites on it, in firing order."""
        return _group((site.node, site) for site in self.sites if site.node is not None)

    # Modules, variables, fx nodes

    @cached_property
    def modules_by_path(self) -> dict[str, Module]:
        """Every module by its path and by each of its aliases."""
        return {path: module for module in self.modules for path in (module.path, *module.aliases)}

    @cached_property
    def variables_by_name(self) -> dict[str, Variable]:
        """Every variable by its name and by each of its aliases."""
        return {name: variable for variable in self.variables for name in (variable.name, *variable.aliases)}

    @cached_property
    def parameters(self) -> tuple[Variable, ...]:
        """The variables that are parameters of the model."""
        return tuple(variable for variable in self.variables if variable.kind == "parameter")

    def find_gradient_node(self, variable: Variable) -> int | None:
        """The id of the node that a variable gets its gradient from: its own, or that of what FSDP gathers for it."""
        unsharded = None if variable.unsharded is None else self.variables_by_name.get(variable.unsharded)
        return variable.node if variable.node is not None or unsharded is None else unsharded.node

    @cached_property
    def fx_nodes_by_name(self) -> dict[str, FxNode]:
        """Every recorded fx node by its name."""
        return {fx_node.name: fx_node for fx_node in self.forward}


def _group(pairs: Iterable[tuple[_Key, _Entry]]) -> dict[_Key, tuple[_Entry, ...]]:
    found: dict[_Key, list[_Entry]] = {}
    for key, record in pairs:
        found.setdefault(key, []).append(record)
    return {key: tuple(records) for key, records in found.items()}

"""All that was worked out of one backward, with the look-ups that every site needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fxgrad.graph import BackwardCall, BackwardGraph, HookSite, ModuleCall, Node, NodeKind, UnrecordedCall
from fxgrad.predict.engine import Schedule, schedule
from fxgrad.predict.flow import Flow, flow, hook_sides


@dataclass(frozen=True)
class Outlook:
    """One graph, how backward will be called, and what follows from both."""

    graph: BackwardGraph
    call: BackwardCall
    schedule: Schedule
    flow: Flow

    @classmethod
    def of(cls, graph: BackwardGraph, call: BackwardCall) -> Outlook:
        """Simulate one backward."""
        plan = schedule(graph, call)
        return cls(graph, call, plan, flow(graph, plan))

    @cached_property
    def ranks(self) -> dict[int, int]:
        """Each node that the engine reaches, and its place in the engine's order."""
        return {node: rank for rank, node in enumerate(self.schedule.order)}

    @cached_property
    def sides(self) -> dict[int, str]:
        """Which side of its module each BackwardHookFunction node is on."""
        return hook_sides(self.graph)

    def module_call(self, site: HookSite) -> ModuleCall | UnrecordedCall | None:
        """The module call that put a module's hook where it is; None where nothing is known of it."""
        if site.call is not None:
            return self.graph.calls_by_id[site.call]
        return None if site.node is None else self.graph.unrecorded_calls_by_node.get(site.node)

    @cached_property
    def users(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """The nodes whose edges lead to each (node, slot)."""
        found: dict[tuple[int, int], list[int]] = {}
        for node in self.graph.nodes:
            for edge in node.edges:
                if edge.next_node is not None:
                    found.setdefault((edge.next_node, edge.input_nr), []).append(node.id)
        return {place: tuple(dict.fromkeys(nodes)) for place, nodes in found.items()}

    @cached_property
    def nesting(self) -> tuple[Node, ...]:
        """The nodes that start a backward of their own, in the order in which this backward executes them."""
        if not self.graph.nesting:
            return ()
        executed = (self.graph.nodes[node] for node in self.schedule.order if self.runs(node))
        return tuple([node for node in executed if node.nested_backward is not None])

    @cached_property
    def intruder(self) -> Node | None:
        """The first of these that may come to more of this graph than leaves, and free it."""
        return next((node for node in self.nesting if any(entry is not None for entry, _ in _entries(node))), None)

    @cached_property
    def _entered(self) -> frozenset[int]:
        """What those may come to, besides leaves: where they enter, and all that is behind."""
        found = {entry for node in self.nesting for entry, _ in _entries(node) if entry is not None}
        waiting = list(found)
        while waiting:
            after = {edge.next_node for edge in self.graph.nodes[waiting.pop()].edges if edge.next_node is not None}
            waiting.extend(after - found)
            found |= after
        return frozenset(found)

    def is_shared(self, node: int) -> bool:
        """Whether the hooks at a node may be called by a backward that starts inside this one, too."""
        if not self.nesting:
            return False
        return self.graph.nodes[node].kind is NodeKind.ACCUMULATE_GRAD or node in self._entered

    def runs(self, node: int) -> bool:
        """Whether backward executes the node to its end, so that hooks after it are called."""
        return bool(self.schedule.runs[node]) and node != self.schedule.raises_at


def _entries(node: Node) -> tuple[tuple[int | None, int], ...]:
    return node.nested_backward or ()

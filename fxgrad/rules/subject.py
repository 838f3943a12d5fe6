"""What a rule looks at: the sites of one hook at one owner, and look-ups over the graph around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from fxgrad.graph import BackwardCall, BackwardGraph, HookKind, HookSite, ModuleCall, Node
from fxgrad.graph.hook_sites import HookSites, group_sites
from fxgrad.graph.lookup import keep_outermost, list_parent_paths
from fxgrad.predict import NodePrediction, predict, predict_nodes
from fxgrad.rules.data_flow import DataFlow
from fxgrad.rules.leaves import LeavesBehind


class Spot(NamedTuple):
    """A site whose node and module call are both known."""

    site: HookSite
    node: Node
    call: ModuleCall


_Identity = tuple[int, str | None, int | None]


def _identity(site: HookSite) -> _Identity:
    """What two predictions for one graph have in common; a multi-grad hook's node is where it is called."""
    return site.hook.id, site.call, None if site.hook.kind is HookKind.MULTI_GRAD else site.node


class Index:
    """Look-ups over one graph that several rules need; each is made when first asked for."""

    def __init__(self, graph: BackwardGraph) -> None:
        self.graph = graph

    @cached_property
    def _nodes_by_call(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            if node.call is not None:
                found.setdefault(node.call, []).append(node)
        return found

    @cached_property
    def data_flow(self) -> DataFlow:
        """The recorded forward as a graph of values."""
        return DataFlow(self.graph)

    @cached_property
    def leaves_behind(self) -> LeavesBehind:
        """What gets its gradients from the nodes that hooks are on which may return a value, and from those after."""
        nodes = [
            self.graph.nodes[site.node] for site in self.graph.sites if site.node is not None and site.hook.may_return
        ]
        after = [edge.next_node for node in nodes for edge in node.edges if edge.next_node is not None]
        return LeavesBehind(self.graph, {*after, *[node.id for node in nodes]})

    @cached_property
    def users(self) -> dict[tuple[int, int], list[int]]:
        """The nodes that pass a gradient to each (node, slot)."""
        found: dict[tuple[int, int], list[int]] = {}
        for node in self.graph.nodes:
            for edge in node.edges:
                if edge.next_node is not None:
                    found.setdefault((edge.next_node, edge.input_nr), []).append(node.id)
        return found

    @cached_property
    def _hook_node_calls(self) -> dict[int, str]:
        """The call that each BackwardHookFunction node was put around: it is made outside of the call's window."""
        pairs = ((node, call.id) for call in self.graph.calls for node in (call.input_hook_node, call.output_hook_node))
        return {node: call for node, call in pairs if node is not None}

    def maker(self, node: Node) -> ModuleCall | None:
        """The call that made the node, or whose full hook put it there."""
        call = self._hook_node_calls.get(node.id, node.call)
        return self.graph.calls_by_id.get(call) if call is not None else None

    @cached_property
    def predicted_nodes(self) -> tuple[NodePrediction, ...]:
        """What backward does at each node."""
        return predict_nodes(self.graph)

    @cached_property
    def variable_ranks(self) -> dict[str, int]:
        """The place of each variable among the graph's, by its name."""
        return {variable.name: rank for rank, variable in enumerate(self.graph.variables)}

    @cached_property
    def parameters_within(self) -> dict[str, list[int]]:
        """Of each module's path: the ranks of the parameters that it or a module inside it holds."""
        found: dict[str, list[int]] = {}
        for rank, variable in enumerate(self.graph.variables):
            names = (variable.name, *variable.aliases) if variable.kind == "parameter" else ()
            for holder in {holder for name in names for holder in list_parent_paths(name)}:
                found.setdefault(holder, []).append(rank)
        return found

    @cached_property
    def compiled(self) -> list[str]:
        """The paths of the modules that torch.compile compiles, those inside others left out."""
        return keep_outermost(module.path for module in self.graph.modules if module.made_by == "torch.compile")

    @cached_property
    def containers(self) -> frozenset[str]:
        """The paths of the modules that hold others."""
        return frozenset(holder for path in self.graph.modules_by_path for holder in list_parent_paths(path))

    @cached_property
    def _left_out_by_inputs(self) -> frozenset[_Identity]:
        """The sites that are silent because of ``inputs=``: without it they fire."""
        call = self.graph.info.backward
        if call.inputs is None:
            return frozenset()
        everything = predict(self.graph, BackwardCall(after=call.after, roots=call.roots))
        silent = {_identity(site) for site in self.graph.sites if site.fires is False}
        return frozenset(silent & {_identity(site) for site in everything.sites if site.fires})

    def is_left_out(self, site: HookSite) -> bool:
        """Whether the site would fire in a backward without ``inputs=``, and does not fire in this one."""
        return _identity(site) in self._left_out_by_inputs

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for call in self.graph.calls:
            if call.parent is not None:
                found.setdefault(call.parent, []).append(call.id)
        return found

    def nodes_within(self, call: str) -> tuple[Node, ...]:
        """The nodes that the call made, those of the calls inside it included."""
        found: list[Node] = []
        waiting = [call]
        while waiting:
            inner = waiting.pop()
            found.extend(self._nodes_by_call.get(inner, ()))
            waiting.extend(self._children.get(inner, ()))
        return tuple(found)

    def is_within(self, inner: str, outer: str) -> bool:
        """Whether the call ``inner`` is ``outer`` or was made inside it."""
        call: str | None = inner
        while call is not None and call != outer:
            known = self.graph.calls_by_id.get(call)
            call = known.parent if known else None
        return call == outer


@dataclass(frozen=True)
class Subject(HookSites):
    """What a rule looks at: the sites of one hook at one owner, and look-ups over the graph around them."""

    index: Index = field(repr=False)

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """The sites whose node and module call are both known."""
        return tuple(Spot(site, node, call) for site, node, call in self.placed if call is not None)

    @cached_property
    def left_out(self) -> tuple[HookSite, ...]:
        """The sites that are silent only because backward is called with ``inputs=``."""
        return tuple(site for site in self.sites if self.index.is_left_out(site))


def subjects(graph: BackwardGraph) -> tuple[Subject, ...]:
    """Every hook at every owner, in the order of the first site of each."""
    index = Index(graph)
    return tuple(Subject(graph, group.hook, group.path, group.sites, index) for group in group_sites(graph))

"""The backward graph as one immutable object, its sites by hook and owner, and two graphs that a probe compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from msgspec import structs

from fxgrad.graph import check, names, printing
from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.hook_kinds import HookOwner
from fxgrad.graph.lookup import find_node
from fxgrad.graph.records import Edge, Hook, HookSite, Module, ModuleCall, Node, Path, Record


class BackwardGraph(GraphRecords, frozen=True, dict=True, gc=True):
    """Everything that is known of one backward graph: the records, the look-ups of `GraphRecords`, and what follows.

    ``nodes[i].id == i``, in a topological order from the roots (a node comes before the nodes that its gradients go
    to), and ``hooks[i].id == i``, in the order of registration. ``sites`` are in predicted firing order.
    ``unrecorded_calls`` are those of modules with full hooks that were over before anybody watched.
    """

    def __str__(self) -> str:
        """The whole graph as text, one node a line: see `printing.format_graph`."""
        return printing.format_graph(self)

    def lint(self) -> None:
        """Check that the records keep their own rules; raises `GraphLintError` where they do not: see `check.lint`."""
        check.lint(self)

    def expression(self, edge: Edge, depth: int = 2, width: int = 3, *, call: str | None = None) -> str | None:
        """What the gradient of an edge belongs to, in a few words: see `names.format_expression`."""
        return names.format_expression(self, edge, call=call, depth=depth, width=width)

    def path(self, a: int | str, b: int | str) -> tuple[int, ...] | None:
        """Which way a gradient takes from node `a` to node `b`, each an id or a label.

        The result holds the ids of a path with the fewest edges, `a` and `b` included, along `Node.edges` (PyTorch's
        ``next_functions``, torch/csrc/autograd/python_cpp_function.cpp); of several, the first in the order of the
        edges. None where no gradient of `a` can reach `b`.

        Raises `UsageError` for a node that is not in the graph, with the nearest labels.
        """
        import networkx

        start, end = find_node(self, a).id, find_node(self, b).id
        # ids are in topological order: what lies between has an id between
        between: networkx.DiGraph[int] = networkx.DiGraph()
        between.add_node(start)
        between.add_edges_from(
            (node.id, edge.next_node)
            for node in self.nodes[start:end]
            for edge in node.edges
            if edge.next_node is not None and edge.next_node <= end
        )
        came_from = {target: source for source, target in networkx.bfs_edges(between, start)}
        steps = [end]
        while steps[-1] in came_from:
            steps.append(came_from[steps[-1]])
        return tuple(reversed(steps)) if steps[-1] == start else None


# The sites of a graph by hook and owner


class PlacedSite(NamedTuple):
    """A site that is on a node, with that node, and the module call it belongs to where there is one."""

    site: HookSite
    node: Node
    call: ModuleCall | None


@dataclass(frozen=True)
class HookSites:
    """The sites that one hook has at one owner. A global hook has one of these for each module that it is called for.

    ``path`` is the module's path, or the hook's owner where the hook is on a tensor or a node. ``sites`` keep the order
    of the graph, which is the predicted firing order.
    """

    graph: BackwardGraph = field(repr=False)
    hook: Hook
    path: str
    sites: tuple[HookSite, ...]

    @property
    def key(self) -> tuple[int, str]:
        """What `find_owner` answers for each of the sites."""
        return self.hook.id, self.path

    @property
    def module(self) -> Module | None:
        """The module that the hook is called for; None for hooks on tensors and nodes."""
        return self.graph.modules_by_path.get(self.path) if self.hook.kind.is_module else None

    @cached_property
    def calls(self) -> tuple[ModuleCall, ...]:
        """Every call of that module, also those without a site."""
        path = self.module.path if self.module else self.path
        return self.graph.calls_by_path.get(path, ()) if self.hook.kind.is_module else ()

    @cached_property
    def placed(self) -> tuple[PlacedSite, ...]:
        """The sites that are on a node."""
        nodes = self.graph.nodes
        return tuple(
            PlacedSite(site, nodes[site.node], self.call(site)) for site in self.sites if site.node is not None
        )

    @cached_property
    def firing(self) -> tuple[HookSite, ...]:
        """The sites that fire, or may."""
        return tuple(site for site in self.sites if site.fires is not False)

    def call(self, site: HookSite) -> ModuleCall | None:
        """The call that one of the sites belongs to."""
        return self.graph.calls_by_id.get(site.call) if site.call is not None else None


def group_sites(graph: BackwardGraph) -> tuple[HookSites, ...]:
    """Every hook at every owner, in the order of the first site of each."""
    found: dict[tuple[int, str], list[HookSite]] = {}
    for site in graph.sites:
        found.setdefault(find_owner(graph, site), []).append(site)
    return tuple(HookSites(graph, sites[0].hook, path, tuple(sites)) for (_, path), sites in found.items())


def find_owner(graph: BackwardGraph, site: HookSite) -> tuple[int, str]:
    """The hook's id and the path of the owner that it has this site at."""
    call = graph.calls_by_id.get(site.call) if site.call is not None else None
    return site.hook.id, call.path if call is not None and site.hook.kind.is_module else site.hook.owner


def find_result(graph: BackwardGraph, hook: Hook) -> tuple[ModuleCall, Path] | None:
    """The module call whose result a hook on a tensor is on, and where in the result; None for any other hook."""
    if hook.kind.owner is not HookOwner.TENSOR or hook.observed is None:
        return None
    node, slot = hook.observed
    return None if graph.nodes[node].kind.is_leaf else graph.find_returning_call(node, slot or 0)


# What a probe observes


class ProbeRun(Record, frozen=True, gc=True):
    """The graphs of one forward that ran without a module hook and with it.

    ``hook``     the added hook, as it is in ``after``
    ``before``   the graph without it
    ``after``    the graph with it; None where PyTorch refuses the hook
    ``refused``  what PyTorch raised, in registering or in forward; None where it raised nothing
    """

    hook: Hook
    before: BackwardGraph
    after: BackwardGraph | None
    refused: str | None = None

    def with_graphs(self, change: Callable[[BackwardGraph], BackwardGraph]) -> ProbeRun:
        """The same run, with `change` of each graph in its place."""
        after = None if self.after is None else change(self.after)
        return structs.replace(self, before=change(self.before), after=after)

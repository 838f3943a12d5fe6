"""One graph as it is about to be drawn, with everything looked up that boxes and arrows are made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fxgrad.graph import BackwardGraph, HookSite, Root
from fxgrad.predict import NodePrediction
from fxgrad.render.drawing.clusters import Lineage, collapsed_into, homes, lineages
from fxgrad.render.drawing.scope import Scope


@dataclass(frozen=True)
class View:
    """The nodes drawn and what is known of them.

    ``predictions``  for each node what it receives and sends
    ``homes``        for each node the id of the module call that it is drawn in
    ``lineages``     for each module call the calls around it and itself
    ``groups``       for each node drawn in one box with others, the id of the call that the box stands for
    ``sites``        for each node the sites on it, in firing order
    ``call_ranks``   for each module call its place among all
    ``call_counts``  how often each module was called
    """

    graph: BackwardGraph
    predictions: Sequence[NodePrediction]
    scope: Scope
    homes: tuple[str | None, ...]
    lineages: Mapping[str, Lineage]
    groups: Mapping[int, str]
    sites: Mapping[int, list[HookSite]]
    call_ranks: Mapping[str, int]
    call_counts: Counter[str]

    @property
    def roots(self) -> tuple[tuple[int, Root], ...]:
        """The roots in sight, each with its place among all."""
        inside = set(self.scope.nodes) - self.scope.stubs
        return tuple((rank, root) for rank, root in enumerate(self.graph.roots) if root.node in inside)

    def key(self, node: int) -> str:
        """The key of the box that a node is drawn in."""
        return self.group_key(self.groups[node]) if node in self.groups else f"n{node}"

    def group_key(self, call: str) -> str:
        """The key of the one box that stands for a module call."""
        return f"c{self.call_ranks[call]}"

    def cluster_key(self, call: str | None) -> str | None:
        """The key of the frame that a module call is drawn as."""
        return None if call is None else f"cluster{self.call_ranks[call]}"


def view(graph: BackwardGraph, predictions: Sequence[NodePrediction], scope: Scope, depth: int | None) -> View:
    """Look up everything; calls deeper than ``depth`` path components become one box each."""
    home, around = homes(graph), lineages(graph)
    return View(
        graph=graph,
        predictions=predictions,
        scope=scope,
        homes=home,
        lineages=around,
        groups={} if depth is None else dict(_groups(graph, scope, home, around, depth)),
        sites=_sites_by_node(graph),
        call_ranks={call.id: rank for rank, call in enumerate(graph.calls)},
        call_counts=Counter(call.path for call in graph.calls),
    )


def _groups(
    graph: BackwardGraph, scope: Scope, home: tuple[str | None, ...], around: Mapping[str, Lineage], depth: int
) -> Iterator[tuple[int, str]]:
    for node in scope.nodes:
        call = home[node]
        group = collapsed_into(graph, around[call], depth) if call is not None else None
        if group is not None:
            yield node, group


def _sites_by_node(graph: BackwardGraph) -> Mapping[int, list[HookSite]]:
    found: defaultdict[int, list[HookSite]] = defaultdict(list)
    for site in graph.sites:
        if site.node is not None:
            found[site.node].append(site)
    return found

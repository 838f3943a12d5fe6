"""What runs after a site's node, within the module call that the site belongs to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from fxgrad.graph import HookSite, Node, NodeKind
from fxgrad.rules.subject import Subject


@dataclass(frozen=True, slots=True)
class ParameterWay:
    """How a parameter's gradient gets from a site's node to its AccumulateGrad.

    ``entry`` is the entry of grad_input that it comes from, ``through`` the nodes in between: none where the parameter
    is an argument of the site's own function. ``ways`` counts the nodes of the module that feed the parameter.
    """

    name: str
    leaf: Node
    entry: int
    through: tuple[Node, ...]
    ways: int


def nodes_behind(subject: Subject, site: HookSite) -> tuple[Node, ...]:
    """The nodes of the site's module call that the site's node feeds, and which therefore run after it.

    () where ``inputs=`` says how far backward goes, as for `parameter_ways`.
    """
    return tuple(subject.graph.nodes[node] for node in _feeders(subject, site) if node != site.node)


def parameter_ways(subject: Subject, site: HookSite) -> tuple[ParameterWay, ...]:
    """Where the gradients of the module's own parameters come out, for those that pass the site's node."""
    wanted = _own_parameters(subject)
    feeders = _feeders(subject, site) if wanted else {}
    ends: dict[int, list[int]] = {}
    for node in feeders:
        for edge in subject.graph.nodes[node].edges:
            if edge.next_node is not None and _is_leaf_of(subject.graph.nodes[edge.next_node], wanted):
                ends.setdefault(edge.next_node, []).append(node)
    found = [_way(subject, leaf, sources, feeders) for leaf, sources in ends.items()]
    return tuple(sorted(found, key=lambda way: wanted[way.name]))


def _way(subject: Subject, leaf: int, sources: list[int], feeders: dict[int, int | None]) -> ParameterWay:
    nodes, chain = subject.graph.nodes, _chain(sources[0], feeders)
    first = chain[1] if len(chain) > 1 else leaf
    entry = next(index for index, edge in enumerate(nodes[chain[0]].edges) if edge.next_node == first)
    through = tuple(nodes[node] for node in chain[1:])
    return ParameterWay(nodes[leaf].variable or "", nodes[leaf], entry, through, len(sources))


def _chain(node: int, feeders: dict[int, int | None]) -> list[int]:
    chain: list[int] = []
    current: int | None = node
    while current is not None:
        chain.append(current)
        current = feeders[current]
    return chain[::-1]


def _own_parameters(subject: Subject) -> dict[str, int]:
    """The names that the module's parameters have in the graph, each with its rank."""
    names = subject.module.parameters if subject.module else ()
    known = subject.graph.variables_by_name
    return {known[name].name if name in known else name: rank for rank, name in enumerate(names)}


def _is_leaf_of(node: Node, names: dict[str, int]) -> bool:
    return node.kind is NodeKind.ACCUMULATE_GRAD and node.variable in names


def _feeders(subject: Subject, site: HookSite) -> dict[int, int | None]:
    """From the site's node on, each node of the call with the one that it was first reached from."""
    if site.node is None or site.call is None or subject.graph.info.backward.inputs is not None:
        return {}
    within = {node.id for node in subject.index.nodes_within(site.call)}
    feeders: dict[int, int | None] = {site.node: None}
    waiting = deque([site.node])
    while waiting:
        current = waiting.popleft()
        for edge in subject.graph.nodes[current].edges:
            if edge.next_node in within and edge.next_node not in feeders:
                feeders[edge.next_node] = current
                waiting.append(edge.next_node)
    return feeders

"""What a rule looks at: the sites of one hook at one owner, and what is known of the graph around them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from fxgrad.graph import BackwardCall, BackwardGraph, FxNode, HookSite, ModuleCall, Node
from fxgrad.graph.backward_graph import HookSites, group_sites
from fxgrad.graph.hook_kinds import HookMoment, HookOwner
from fxgrad.graph.lookup import keep_outermost, list_parent_paths
from fxgrad.predict import NodePrediction, find_raising_nodes, predict, predict_nodes
from fxgrad.rules.data_flow import DataFlow
from fxgrad.rules.gradless import Gradless, find_gradless


class ModuleSite(NamedTuple):
    """A site whose node and module call are both known."""

    site: HookSite
    node: Node
    call: ModuleCall


@dataclass(frozen=True)
class Subject(HookSites):
    """The sites of one hook at one owner, and the facts about the graph around them."""

    facts: GraphFacts = field(repr=False)

    @cached_property
    def module_sites(self) -> tuple[ModuleSite, ...]:
        """The sites whose node and module call are both known."""
        return tuple(ModuleSite(site, node, call) for site, node, call in self.placed if call is not None)

    @cached_property
    def left_out(self) -> tuple[HookSite, ...]:
        """The sites that are silent only because backward is called with ``inputs=``."""
        return tuple(site for site in self.sites if _identify(site) in self.facts.left_out)

    @cached_property
    def later_change(self) -> FxNode | None:
        """Of a hook on a tensor: the first operation that gave the tensor, or the one that it is a view of, another grad_fn
        after the hook was registered.

        One that makes no node (under no_grad, through detach) does not: the number is autograd's, of the next node.
        """
        kind, registered = self.hook.kind, self.hook.registered_nr
        if kind.moment is not HookMoment.TENSOR_PRE_HOOK or kind.on_several_tensors or not self.hook.active:
            return None
        if registered is None or self.path not in self.graph.fx_nodes_by_name:
            return None
        for fx_node in self.facts.data_flow.list_changers(self.path):
            window = fx_node.sequence_window
            if window is not None and registered <= window[0] < window[1]:
                return fx_node
        return None


def list_subjects(graph: BackwardGraph) -> tuple[Subject, ...]:
    """Every hook at every owner, in the order of the first site of each."""
    facts = GraphFacts(graph)
    return tuple(Subject(graph, group.hook, group.path, group.sites, facts) for group in group_sites(graph))


_Identity = tuple[int, str | None, int | None]


def _identify(site: HookSite) -> _Identity:
    """What two predictions for one graph have in common; a multi-grad hook's node is where it is called."""
    return site.hook.id, site.call, None if site.hook.kind.owner is HookOwner.TENSORS else site.node


class GraphFacts:
    """What the rules ask about one graph; each fact is computed when it is first needed."""

    def __init__(self, graph: BackwardGraph) -> None:
        self.graph = graph

    @cached_property
    def data_flow(self) -> DataFlow:
        """The recorded forward as a graph of values."""
        return DataFlow(self.graph)

    @cached_property
    def predicted_nodes(self) -> tuple[NodePrediction, ...]:
        """What backward does at each node."""
        return predict_nodes(self.graph)

    @cached_property
    def _end(self) -> Node | None:
        """The node at which backward raises whatever it gets. FXG203 or FXG208 is about it."""
        raising, _ = find_raising_nodes(self.graph)
        return raising if raising is not None and raising.always_raises else None

    def comes_after_the_end(self, site: HookSite) -> bool:
        """Whether a hook is silent only because backward raises before it would be called."""
        if self._end is None or site.node is None:
            return False
        predicted = self.predicted_nodes[site.node]
        return site.node == self._end.id or (predicted.behind and predicted.rank is None)

    @cached_property
    def left_out(self) -> frozenset[_Identity]:
        """The sites that fire in a backward without ``inputs=``, and do not fire in this one."""
        call = self.graph.info.backward
        if call.inputs is None:
            return frozenset()
        everything = predict(self.graph, BackwardCall(after=call.after, roots=call.roots))
        silent = {_identify(site) for site in self.graph.sites if site.fires is False}
        return frozenset(silent & {_identify(site) for site in everything.sites if site.fires})

    @cached_property
    def leaves_behind(self) -> LeavesBehind:
        """The leaves behind the nodes whose hooks may return a value, and behind the next functions of these nodes."""
        nodes = [
            self.graph.nodes[site.node] for site in self.graph.sites if site.node is not None and site.hook.may_return
        ]
        after = [edge.next_node for node in nodes for edge in node.edges if edge.next_node is not None]
        return LeavesBehind(self.graph, {*after, *[node.id for node in nodes]})

    def find_gradless(self, name: str) -> Gradless | None:
        """The first reentrant checkpoint, or Function like one, that uses a variable, if only such use it as get nothing
        with grad."""
        variable = self.graph.variables_by_name.get(name)
        if variable is None or variable.node is not None or self.graph.nesting:
            return None
        names = (variable.name, *variable.aliases)
        getters = [each.name for each in self.graph.forward if each.op == "get_attr" and each.target in names]
        unseen = [self.data_flow.unseen[each] for each in names if each in self.data_flow.unseen and not getters]
        uses = self.data_flow.list_gradless_uses(getters) or tuple(unseen)
        return find_gradless(uses[0]) if uses else None

    @cached_property
    def variable_ranks(self) -> dict[str, int]:
        """The place of each variable among the graph's, by its name."""
        return {variable.name: rank for rank, variable in enumerate(self.graph.variables)}

    @cached_property
    def parameters_within(self) -> dict[str, list[int]]:
        """For each module path: the ranks of the parameters that the module, or one inside it, holds."""
        found: dict[str, list[int]] = {}
        for rank, variable in enumerate(self.graph.variables):
            names = (variable.name, *variable.aliases) if variable.kind == "parameter" else ()
            for path in {path for name in names for path in list_parent_paths(name)}:
                found.setdefault(path, []).append(rank)
        return found

    @cached_property
    def compiled(self) -> list[str]:
        """The paths of the modules that torch.compile compiles, without those inside others."""
        return keep_outermost(module.path for module in self.graph.modules if module.made_by == "torch.compile")

    @cached_property
    def containers(self) -> frozenset[str]:
        """The paths of the modules that hold others."""
        return frozenset(parent for path in self.graph.modules_by_path for parent in list_parent_paths(path))


class LeavesBehind:
    """The leaves behind each of the `wanted` nodes, all found in one pass over the graph.

    Leaves are the bits of an int, so a node costs one operation for each edge. What a node found is dropped once all of
    its users have it, so memory does not grow with nodes times leaves.
    """

    def __init__(self, graph: BackwardGraph, wanted: set[int]) -> None:
        self._leaves = [node for node in graph.nodes if node.variable is not None]
        self._bits = {node.id: 1 << rank for rank, node in enumerate(self._leaves)}
        self._nesting = 1 << len(self._leaves)
        self._behind: dict[int, int] = {}
        nesting = {node.id for node in graph.nesting}
        users = Counter(edge.next_node for node in graph.nodes for edge in node.edges)
        for node in reversed(graph.nodes):  # a node comes before those that its gradients go to
            found = self._nesting if node.id in nesting else self._bits.get(node.id, 0)
            for after in [edge.next_node for edge in node.edges if edge.next_node is not None]:
                found |= self._behind[after]
                users[after] -= 1
                if not users[after] and after not in wanted:
                    del self._behind[after]
            self._behind[node.id] = found

    def _join(self, starts: Iterable[int]) -> int:
        found = 0
        for start in starts:
            found |= self._behind[start]
        return found

    def list_leaves(self, starts: Iterable[int]) -> tuple[int, Iterator[str]]:
        """How many leaves get gradients from these nodes, or are these, and their names in the order of the nodes."""
        leaves = self._join(starts) & ~self._nesting
        return leaves.bit_count(), self._list_names(leaves)

    def _list_names(self, leaves: int) -> Iterator[str]:
        while leaves:
            lowest = leaves & -leaves
            yield self._leaves[lowest.bit_length() - 1].variable or ""
            leaves ^= lowest

    def lead_to_nesting(self, starts: Iterable[int]) -> bool:
        """Whether a node that starts a nested backward is among these or behind them: it uses what no edge shows."""
        return bool(self._join(starts) & self._nesting)


# What runs after a site's node, within the module call that the site belongs to


class ParameterWay(NamedTuple):
    """How a parameter's gradient gets from a site's node to its AccumulateGrad.

    ``entry`` is the entry of grad_input that it comes from, ``through`` the nodes in between: none where the parameter
    is an argument of the site's own function.
    """

    name: str
    leaf: Node
    entry: int
    through: tuple[Node, ...]


def list_nodes_behind(subject: Subject, site: HookSite) -> tuple[Node, ...]:
    """The nodes of the site's module call that the site's node feeds, and which therefore run after it.

    () if backward is called with ``inputs=``, as for `list_parameter_ways`.
    """
    return tuple(subject.graph.nodes[node] for node in _find_feeders(subject, site) if node != site.node)


def list_parameter_ways(subject: Subject, site: HookSite) -> tuple[ParameterWay, ...]:
    """Where the gradients of the module's own parameters come out, for those that pass the site's node."""
    nodes, wanted = subject.graph.nodes, _rank_own_parameters(subject)
    feeders = _find_feeders(subject, site) if wanted else {}
    first_feeders: dict[int, int] = {}
    for node in feeders:
        for edge in nodes[node].edges:
            if edge.next_node is not None and _is_leaf_of(nodes[edge.next_node], wanted):
                first_feeders.setdefault(edge.next_node, node)
    ways = [_trace_way(subject, nodes[leaf], _chain(feeder, feeders)) for leaf, feeder in first_feeders.items()]
    return tuple(sorted(ways, key=lambda way: wanted[way.name]))


def _trace_way(subject: Subject, leaf: Node, chain: list[int]) -> ParameterWay:
    nodes = subject.graph.nodes
    first = chain[1] if len(chain) > 1 else leaf.id
    entry = next(index for index, edge in enumerate(nodes[chain[0]].edges) if edge.next_node == first)
    return ParameterWay(leaf.variable or "", leaf, entry, tuple(nodes[node] for node in chain[1:]))


def _chain(node: int, feeders: dict[int, int | None]) -> list[int]:
    """The nodes from the site's to this one."""
    chain: list[int] = []
    current: int | None = node
    while current is not None:
        chain.append(current)
        current = feeders[current]
    return chain[::-1]


def _rank_own_parameters(subject: Subject) -> dict[str, int]:
    """The names that the module's parameters have in the graph, each with its rank."""
    names = subject.module.parameters if subject.module else ()
    known = subject.graph.variables_by_name
    return {known[name].name if name in known else name: rank for rank, name in enumerate(names)}


def _is_leaf_of(node: Node, names: dict[str, int]) -> bool:
    return node.kind.is_leaf and node.variable in names


def _find_feeders(subject: Subject, site: HookSite) -> dict[int, int | None]:
    """From the site's node on, each node of the call with the one that it was first reached from, breadth first."""
    if site.node is None or site.call is None or subject.graph.info.backward.inputs is not None:
        return {}
    within = {node.id for node in subject.graph.nodes_within(site.call)}
    feeders: dict[int, int | None] = {site.node: None}
    waiting = deque([site.node])
    while waiting:
        current = waiting.popleft()
        for edge in subject.graph.nodes[current].edges:
            if edge.next_node in within and edge.next_node not in feeders:
                feeders[edge.next_node] = current
                waiting.append(edge.next_node)
    return feeders

"""Puts the BackwardHookFunction nodes of a full hook into the records, as PyTorch would have put them into the graph.

``torch.utils.hooks.BackwardHook`` replaces the tensors among the positional arguments by the results of one
``BackwardHookFunction`` before forward, and those among the results by the results of another one after the forward
hooks. So the run is gone through again, in the order in which it happened.

Right where what follows a call uses the tensor that the call returned, and not the same tensor kept aside by forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, ModuleCall, Node, NodeKind, Path, Root, TensorRef, Variable
from fxgrad.probe.hook_functions import hook_function, passed_through
from fxgrad.probe.members import Member, argument_members, has_only_tensors, result_members
from fxgrad.probe.moments import Moment, Step, moments
from fxgrad.probe.outside import Outside, Place
from fxgrad.probe.placing import attributes_by_module, hook_now
from fxgrad.probe.whereabouts import Whereabouts
from fxgrad.probe.windows import INPUT, LOOK, OUTPUT, Insertions

Refs = dict[TensorRef, Place]

_STALE_VIEW = "AsStridedBackward0"
_AS_STRIDED = ("as_strided", "as_strided_")


@dataclass(frozen=True)
class Spliced:
    """The graph with the nodes in it.

    ``graph``    in no order yet; ids are those of the graph before, and larger ones those of new nodes
    ``late``     ids of nodes that PyTorch makes when it looks at a tensor's grad_fn, and now makes earlier
    ``untimed``  ids of hooks that moved although it is not known whether they were registered before or after
    """

    graph: BackwardGraph
    late: tuple[int, ...]
    untimed: tuple[int, ...]


def spliced(graph: BackwardGraph, calls: Set[str], *, legacy_calls: Set[str] = frozenset()) -> Spliced:
    """Put nodes on the inputs and outputs of each of `calls`; at `legacy_calls` only look at the results' grad_fn.

    The FullHookSetup of each of the calls says what PyTorch would do there.
    """
    return _Replay(graph, calls, legacy_calls).result()


class _Replay:
    """The run, gone through again. A place is one of the graph before unless it is said to be one of now."""

    def __init__(self, graph: BackwardGraph, calls: Set[str], legacy_calls: Set[str]) -> None:
        self._graph = graph
        self._spliced = calls
        self._legacy_calls = legacy_calls
        self._nodes = list(graph.nodes)
        self._done = bytearray(not node.edges and node.sequence_nr is None for node in graph.nodes)
        self._numbered = sorted(
            [(node.sequence_nr, node.id) for node in graph.nodes if node.sequence_nr is not None], reverse=True
        )
        self._next_number = 0
        self._outside = Outside(graph, self._nodes, self._done)
        self._now = Whereabouts()
        self._insertions = Insertions()
        self._late: list[int] = []
        self._untimed: list[int] = []
        self._calls: dict[str, ModuleCall] = {}
        self._hooks = list(graph.hooks)
        self._results_of_model: dict[tuple[Path, int | None, int], Place] = {}
        self._calls_without_nodes = _without_nodes(graph, calls | legacy_calls)
        self._attributes = attributes_by_module(graph)
        self._places_of_attributes: dict[int, Place] = {}

    def result(self) -> Spliced:
        """Go through the run, and make the records of it."""
        happens = {
            Step.START: self._start,
            Step.FORWARD: self._forward,
            Step.END: self._end,
            Step.REGISTRATION: self._register,
        }
        for moment in moments(self._graph):
            self._make_nodes(until=moment.number)
            happens[moment.step](moment)
        self._make_nodes(until=None)
        for node in self._graph.nodes:
            self._settle(node.id)
        self._place_hooks_registered_at_other_times()
        return Spliced(self._spliced_graph(), tuple(self._late), tuple(self._untimed))

    def _spliced_graph(self) -> BackwardGraph:
        before = len(self._graph.nodes)
        calls = [self._calls[call.id] for call in self._graph.calls]
        return replace(
            self._graph,
            roots=tuple([self._root(root) for root in self._graph.roots]),
            nodes=(*self._nodes[:before], *map(self._renumbered, self._nodes[before:])),
            calls=tuple([self._outside.completed(call) for call in calls]),
            variables=tuple(self._variables()),
            hooks=tuple(self._hooks),
            forward=tuple(self._insertions.shifted_windows(self._graph.forward)),
        )

    def _renumbered(self, node: Node) -> Node:
        """A new node; one from outside the graph has a number of the run before."""
        if node.kind is NodeKind.BACKWARD_HOOK or node.sequence_nr is None:
            return node
        return replace(node, sequence_nr=self._insertions.shifted_node(node.sequence_nr))

    # Nodes, in the order of their sequence numbers

    def _make_nodes(self, *, until: int | None) -> None:
        while self._numbered and (until is None or self._numbered[-1][0] < until):
            number, node = self._numbered.pop()
            self._next_number = number + 1
            self._settle(node)
        if until is not None:
            self._next_number = max(self._next_number, until)

    def _settle(self, node: int, *, looked_at_by: str | None = None) -> None:
        """Give a node the edges that it has now, and before it those that its edges lead to.

        The grad_fn of a view whose base was changed in place is made when it is looked at.
        """
        stack = [node]
        while stack:
            edges = () if self._done[stack[-1]] else self._nodes[stack[-1]].edges
            waiting = [
                edge.next_node for edge in edges if edge.next_node is not None and not self._done[edge.next_node]
            ]
            if waiting:
                stack += waiting
            else:
                self._finish(stack.pop(), looked_at_by)

    def _finish(self, node: int, looked_at_by: str | None) -> None:
        if self._done[node]:
            return
        self._done[node] = True
        record = self._nodes[node]
        to_base = self._edges_to_base(record)
        record = replace(record, edges=(*record.edges[:to_base], *self._now.of_edges(record.edges[to_base:])))
        number = record.sequence_nr
        if number is not None and looked_at_by is not None and number >= self._next_number:
            self._late.append(node)
            number = self._insertions.add(self._next_number, looked_at_by, LOOK)
            record = replace(record, call=looked_at_by, call_reason=None)
        elif number is not None:
            number = self._insertions.shifted(number)
        self._nodes[node] = replace(record, sequence_nr=number)

    def _edges_to_base(self, node: Node) -> int:
        """How many of a node's first edges lead to the base of a view that was changed in place, or whose base was.

        What a hook puts in a tensor's place is a view itself, and no base (torch/csrc/autograd/variable.cpp).
        """
        if node.kind is NodeKind.COPY_SLICES:
            return 1
        fx_node = None if node.fx_node is None else self._graph.fx_nodes_by_name[node.fx_node]
        is_called = fx_node is not None and fx_node.target.rpartition(".")[2] in _AS_STRIDED
        return 1 if node.short_name == _STALE_VIEW and not is_called else 0

    # Module calls

    def _start(self, moment: Moment) -> None:
        call = _call_of(moment)
        self._now.enter()
        start = self._insertions.shifted(moment.number)
        self._calls[call.id] = replace(call, sequence_window=(start, start), forward_start=None)

    def _forward(self, moment: Moment) -> None:
        call = _call_of(moment)
        start = self._insertions.shifted(moment.number)
        inputs = tuple([self._ref_now(ref) for ref in call.inputs])
        self._calls[call.id] = replace(self._calls[call.id], forward_start=start, inputs=inputs)
        setup = call.full_hook
        if call.id in self._spliced and setup is not None and setup.input_positions is not None:
            node, replaced = self._put_hook_function(call, argument_members(call), INPUT)
            self._calls[call.id] = replace(self._calls[call.id], input_hook_node=node)
            self._move(replaced)

    def _end(self, moment: Moment) -> None:
        call = _call_of(moment)
        self._note_attributes(call)
        for node in _nodes_looked_at(call) if call.id in self._legacy_calls else ():
            self._settle(node, looked_at_by=call.id)
        replaced = self._replace_results(call)
        self._now.leave(
            returned={self._known_place(ref) for ref in call.outputs},
            is_new=lambda place: (
                place[0] < len(self._graph.nodes) and was_made_since(self._graph.nodes[place[0]], call)
            ),
        )
        self._close(call, moment, replaced)
        self._move(replaced)

    def _replace_results(self, call: ModuleCall) -> Refs:
        setup = call.full_hook
        if call.id not in self._spliced or setup is None or setup.output_positions is None:
            return {}
        node, replaced = self._put_hook_function(call, result_members(call), OUTPUT)
        self._calls[call.id] = replace(self._calls[call.id], output_hook_node=node)
        return replaced

    def _close(self, call: ModuleCall, moment: Moment, replaced: Refs) -> None:
        places = {ref.path: place for ref, place in replaced.items()}

        def now(ref: TensorRef) -> TensorRef:
            return passed_through(ref, places[ref.path]) if ref.path in places else self._ref_now(ref)

        outputs = tuple([now(ref) for ref in call.outputs])
        known = self._calls[call.id]
        self._calls[call.id] = replace(
            known,
            sequence_window=(known.sequence_window[0], self._insertions.shifted(moment.number)),
            outputs=outputs,
            legacy_tensor=None if call.legacy_tensor is None else now(call.legacy_tensor),
        )
        if replaced and call.parent is None:
            for ref, new in zip(call.outputs, outputs, strict=True):
                if new.node is not None:
                    self._results_of_model[ref.path, ref.node, ref.slot] = (new.node, new.slot)

    def _put_hook_function(self, call: ModuleCall, members: Sequence[Member], side: str) -> tuple[int, Refs]:
        """Make the node; its id, and the new place of each tensor that requires grad."""
        places = [self._looked_at(ref, call.id) if ref.requires_grad else None for _, ref in members]
        number = self._insertions.add(self._next_number, call.id, side)
        node = hook_function(len(self._nodes), number, call, members=members, places=places)
        self._nodes.append(node)
        self._done.append(True)
        return node.id, {ref: (node.id, slot) for slot, (_, ref) in enumerate(members) if ref.requires_grad}

    def _looked_at(self, ref: TensorRef, call: str) -> Place:
        place = self._place(ref)
        self._settle(place[0], looked_at_by=call)
        return self._now.of(place)

    # Where tensors are

    def _place(self, ref: TensorRef) -> Place:
        """Where a tensor that requires grad is; a place of its own if the roots do not reach it."""
        return (ref.node, ref.slot) if ref.node is not None else self._outside.place(ref)

    def _known_place(self, ref: TensorRef) -> Place | None:
        return (ref.node, ref.slot) if ref.node is not None else self._outside.known_place(ref)

    def _ref_now(self, ref: TensorRef) -> TensorRef:
        place = self._known_place(ref)
        new = None if place is None else self._now.get(place)
        return ref if new is None else passed_through(ref, new)

    def _move(self, replaced: Refs) -> None:
        """Of several references to one tensor the first counts: which is meant later the graph does not show."""
        for ref, place in reversed(replaced.items()):
            self._now.move(self._place(ref), place)

    # Hooks, roots and attributes

    def _register(self, moment: Moment) -> None:
        hook = moment.hook
        assert hook is not None
        self._hooks[hook.id] = hook_now(hook, self._now, self._outside, self._nodes)
        if (moment.number, hook.registered_in) in self._calls_without_nodes:
            self._untimed.append(hook.id)

    def _place_hooks_registered_at_other_times(self) -> None:
        """Before the run: on what was there then. At times that are not known: on what is there at the end."""
        for hook in self._graph.hooks:
            if hook.registered_nr is None and not hook.kind.is_module:
                is_untimed = hook.registered is not None
                if is_untimed or hook.observed is None:
                    self._hooks[hook.id] = hook_now(hook, self._now, self._outside, self._nodes)
                if is_untimed and self._hooks[hook.id] != hook:
                    self._untimed.append(hook.id)

    def _root(self, root: Root) -> Root:
        place = self._results_of_model.get((root.path, root.node, root.slot))
        return Root(*(place or self._now.of((root.node, root.slot))), root.path)

    def _note_attributes(self, call: ModuleCall) -> None:
        """What a module's forward keeps in its attributes is there before the hook replaces the results."""
        for index in self._attributes.get(call.path, ()):
            variable = self._graph.variables[index]
            assert variable.node is not None
            self._places_of_attributes[index] = self._now.of((variable.node, variable.slot))

    def _variables(self) -> Iterator[Variable]:
        for index, variable in enumerate(self._outside.variables()):
            place = self._places_of_attributes.get(index)
            yield variable if place is None else replace(variable, node=place[0], slot=place[1])


def was_made_since(node: Node, call: ModuleCall) -> bool:
    """Whether a node was made after the call began; leaves are always older."""
    return node.sequence_nr is not None and node.sequence_nr >= call.sequence_window[0]


def _nodes_looked_at(call: ModuleCall) -> Iterator[int]:
    """The grad_fns that a non-full hook reads: the one it goes to, and for a warning those of the other results.

    ``Module._maybe_warn_non_full_backward_hook``: only where all arguments and all results are tensors.
    """
    refs = [call.legacy_tensor, *[ref for _, ref in result_members(call) if has_only_tensors(call)]]
    return (ref.node for ref in refs if ref is not None and ref.node is not None)


def _without_nodes(graph: BackwardGraph, calls: Set[str]) -> set[tuple[int, str | None]]:
    """Where calls made no node, by number and parent: what the parent did at that number came before or after."""
    found = [call for call in graph.calls if call.id in calls and call.sequence_window[0] == call.sequence_window[1]]
    return {(call.sequence_window[0], call.parent) for call in found}


def _call_of(moment: Moment) -> ModuleCall:
    assert moment.call is not None
    return moment.call

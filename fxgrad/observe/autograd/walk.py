"""Walks ``next_functions`` from the roots and reads what every node shows.

Nothing here recurses: autograd graphs are as deep as the program ran long. What is done for every node is written for
speed, as a graph may have a million of them. Sources relied on: torch/csrc/autograd/python_cpp_function.cpp (what a node
shows to Python), torch/csrc/autograd/function.h (topological numbers, sequence numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from torch.autograd.graph import Node as AutogradNode

from fxgrad.collection import pause_collection
from fxgrad.graph import TensorMeta
from fxgrad.observe.record.tensors import MetaTable

ACCUMULATE_GRAD = "torch::autograd::AccumulateGrad"
SHARED_CLASS = "CppFunction"
"""The class of every C++ node that has none of its own (torch/csrc/autograd/python_cpp_function.cpp): names differ."""
NO_SEQUENCE_NR = 2**64 - 1
"""What AccumulateGrad, Error and NotImplemented answer (torch/csrc/autograd/function.h: UINT64_MAX)."""
DEEP = 10_000
"""Graphs of more nodes than this get the cure of `free_without_recursion`."""
SEGMENT = 1_000


def name_of(node: AutogradNode) -> str:
    """``node.name()``, also where the user's ``ctx.name = …`` hides that method of a Python Function's node."""
    name: str = type(node).name(node)
    return name


def sequence_nr_of(node: AutogradNode) -> int:
    """``node._sequence_nr()``, also where an attribute of the user's hides it; NO_SEQUENCE_NR where it has none."""
    number: int = type(node)._sequence_nr(node)
    return number


class WalkedGraph:
    """The live nodes behind some roots, with what each shows. Holds the graph alive: drop it when the records are made.

    The columns are in the order in which the nodes were found, all that a node shows being read at once, while it is in
    the processor's cache. ``places`` are the places in them by the nodes' ids, and ``id_of_place`` the ids by place,
    with -1 at -1, the place of None. ``targets`` and ``slots`` are the places and input numbers that edges lead to.
    """

    def __init__(self, roots: Iterable[AutogradNode], metas: MetaTable) -> None:
        self.nodes = list(dict.fromkeys(roots))
        self.all_names: list[str] = []
        self.sequence_nrs: list[int | None] = []
        self.gradients: list[tuple[TensorMeta, ...]] = []
        self.targets: list[list[int]] = []
        self.slots: list[list[int]] = []
        self.places = _sort_topologically(self.targets, self._discover(metas))
        self.id_of_place = [-1] * (len(self.nodes) + 1)
        for number, place in enumerate(self.places):
            self.id_of_place[place] = number

    def _discover(self, metas: MetaTable) -> list[int]:
        """Fill the columns; how many edges lead to each node."""
        nodes, waiting = self.nodes, [0] * len(self.nodes)
        places: dict[AutogradNode | None, int] = {node: place for place, node in enumerate(nodes)}
        places[None] = -1
        names_of_classes: dict[type, str] = {}
        place_of, name_of_class, describe = places.get, names_of_classes.get, metas.of_gradients
        add_targets, add_slots, add_name = self.targets.append, self.slots.append, self.all_names.append
        add_sequence_nr, add_gradients = self.sequence_nrs.append, self.gradients.append
        for node in nodes:  # grows meanwhile
            targets: list[int] = []
            slots: list[int] = []
            for next_node, slot in node.next_functions:  # not kept: Python makes these tuples for every reader
                place = place_of(next_node)
                if place is None:
                    assert next_node is not None
                    place = places[next_node] = len(nodes)
                    nodes.append(next_node)
                    waiting.append(1)
                elif place >= 0:
                    waiting[place] += 1
                targets.append(place)
                slots.append(slot)
            add_targets(targets)
            add_slots(slots)
            kind = type(node)  # the user's attributes may hide the methods of a Python Function's node
            name = name_of_class(kind)
            if name is None:
                name = kind.name(node)
                if kind.__name__ != SHARED_CLASS:
                    names_of_classes[kind] = name
            add_name(name)
            sequence_nr = kind._sequence_nr(node)
            add_sequence_nr(None if sequence_nr == NO_SEQUENCE_NR else sequence_nr)
            add_gradients(describe(node._input_metadata))
        return waiting

    def gradient(self, number: int, slot: int) -> TensorMeta:
        """The gradient that a node receives in one of its slots, by the node's id."""
        return self.gradients[self.places[number]][slot]

    @cached_property
    def order(self) -> list[AutogradNode]:
        """The nodes by id."""
        return [self.nodes[place] for place in self.places]

    @cached_property
    def names(self) -> list[str]:
        """What ``name()`` says, by id."""
        return [self.all_names[place] for place in self.places]

    @cached_property
    def labels(self) -> list[str]:
        """Their labels, by id."""
        return make_labels(self.names)

    @cached_property
    def ids(self) -> dict[AutogradNode, int]:
        """The id of each node."""
        return dict(zip(self.nodes, self.id_of_place, strict=False))


@pause_collection()
def walk(roots: Iterable[AutogradNode], metas: MetaTable | None = None) -> WalkedGraph:
    """Find every node behind `roots` and put them in a topological order that depends on the graph alone.

    `metas` makes the descriptions of the gradients.
    """
    walked = WalkedGraph(roots, metas or MetaTable())
    if len(walked.nodes) > DEEP:
        free_without_recursion(walked.order)
    return walked


def _sort_topologically(edges: list[list[int]], waiting: list[int]) -> list[int]:
    ready = [place for place, count in enumerate(waiting) if count == 0][::-1]
    order = []
    while ready:
        place = ready.pop()
        order.append(place)
        for target in reversed(edges[place]):
            if target >= 0:
                left = waiting[target] = waiting[target] - 1
                if left == 0:
                    ready.append(target)
    return order


def free_without_recursion(order: Sequence[AutogradNode]) -> None:
    """Make sure that the graph can be freed, now that Python has wrapped its nodes.

    From torch 2.13 on, freeing a deep chain of wrapped nodes recurses in ``THPCppFunction_dealloc`` and overflows the
    C stack. Every 1,000th node is given, in its ``metadata``, the next 1,000 nodes in reverse: each segment is then
    released from its far end, one node at a time. The lists point the way the graph itself does, so they make no cycle.
    """
    for start in range(0, len(order), SEGMENT):
        segment = list(order[start + 1 : start + 1 + SEGMENT])
        segment.reverse()
        order[start].metadata["fxgrad.keepalive"] = segment  # type: ignore[index]  # a property, in C++


def make_labels(names: Iterable[str]) -> list[str]:
    """A unique label for each node name: the short name, and how many nodes of that name came before.

    >>> make_labels(["AddBackward0", "MulBackward0", "AddBackward0", "torch::autograd::AccumulateGrad"])
    ['AddBackward0_0', 'MulBackward0_0', 'AddBackward0_1', 'AccumulateGrad_0']
    """
    counts: dict[str, int] = {}
    prefixes: dict[str, str] = {}
    made = []
    for name in names:
        prefix = prefixes.get(name)
        if prefix is None:
            prefix = prefixes[name] = f"{name.rpartition('::')[2]}_"
        count = counts.get(prefix, 0)
        counts[prefix] = count + 1
        made.append(f"{prefix}{count}")
    return made

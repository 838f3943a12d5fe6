"""Makes the record of every node of a walked graph.

A graph may have a million nodes: each record is made once, and what is done for every node is written for speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import Node as AutogradNode

from fxgrad.collection import pause_collection
from fxgrad.graph import Edge, Node, NodeKind
from fxgrad.observe.autograd.argument_names import UNNAMED, EdgeName, find_signature, name_edges, name_outputs
from fxgrad.observe.autograd.backward_code import Answers
from fxgrad.observe.autograd.nested_backward import NestedBackward, find_nested_backward
from fxgrad.observe.autograd.node_types import classify_node, read_settings
from fxgrad.observe.autograd.operands import Operands
from fxgrad.observe.autograd.provenance import Provenance, Timeline
from fxgrad.observe.autograd.python_functions import read_backward, read_custom_signature
from fxgrad.observe.autograd.saved_tensors import KEPT, LostSaved
from fxgrad.observe.autograd.walk import WalkedGraph
from fxgrad.observe.record.tensors import Origin

NULL_CPP = "it did not require grad when it was made or used, or is not a tensor"
NULL_PYTHON = "it did not require grad when it was made or used"

HookIds = tuple[tuple[int, ...], tuple[int, ...]]
"""The ids of the hooks on a node, and those of its prehooks."""
_NO_HOOKS: HookIds = ((), ())
_NOWHERE = (None, 0)
"""What the roots do not reach, in `Node.nested_backward`."""


@dataclass(frozen=True)
class NodeNotes:
    """What is known of the nodes besides what they show.

    ``variables``    the name of the leaf of an AccumulateGrad, by the node's id
    ``hooks``        the hooks on a node, by its id
    ``lost_saved``   what became of what a node saved, by its id, where it cannot be read any more
    ``saturated``    the ids of nodes that pass only zeros on, for the values that forward had
    ``nesting``      of a recorded Function whose backward may start another one: whether and how it does, and the origins
                     of what forward used
    ``timeline``     what made each node; None if the forward was not recorded
    ``operands``     the tensors behind the edges that lead nowhere; None likewise
    """

    variables: Mapping[int, str] = field(default_factory=dict)
    hooks: Mapping[int, HookIds] = field(default_factory=dict)
    lost_saved: Mapping[int, LostSaved] = field(default_factory=dict)
    saturated: frozenset[int] = frozenset()
    nesting: Mapping[AutogradNode, tuple[NestedBackward | None, Sequence[Origin]]] = field(default_factory=dict)
    timeline: Timeline | None = None
    operands: Operands | None = None


class _Form(NamedTuple):
    """What the C++ nodes of one name, with as many edges and gradients, have in common."""

    kind: NodeKind
    schema: str | None
    outputs: tuple[str, ...]
    edges: tuple[tuple[str | None, str | None, Edge], ...]
    """Of each edge the argument, its group, and the record where the edge leads nowhere."""
    decisive: str | None
    """The argument to read of each, that decides whether a gradient exists."""


@pause_collection()
def make_node_records(walked: WalkedGraph, notes: NodeNotes | None = None) -> tuple[Node, ...]:
    """One record per node, in id order."""
    notes = notes or NodeNotes()
    forms: dict[str, _Form] = {}
    records: list[Node] = []
    origin = Provenance()
    answers: Answers = {}
    timeline, operands = notes.timeline, notes.operands
    saturated = notes.saturated
    variable_of, hooks_of, lost_of = notes.variables.get, notes.hooks.get, notes.lost_saved.get
    python_function, id_of_place = torch._C._FunctionBase, walked.id_of_place
    nodes, names, all_gradients, sequence_nrs = walked.nodes, walked.all_names, walked.gradients, walked.sequence_nrs
    all_targets, all_slots = walked.targets, walked.slots
    for number, (place, label) in enumerate(zip(walked.places, walked.labels, strict=True)):
        if timeline is not None:
            origin = timeline.find_provenance(number)
        node, name, gradients, targets = nodes[place], names[place], all_gradients[place], all_targets[place]
        if isinstance(node, python_function):
            records.append(_make_python_record(walked, notes, number, label, origin, answers))
            continue
        form = forms.get(name)
        if form is None or len(form.edges) != len(targets) or len(form.outputs) != len(gradients):
            form = _make_form(node, name, len(targets), len(gradients))
            if form.kind is not NodeKind.COPY_SLICES:  # their arguments are those of the operation inside
                forms[name] = form
        kind, schema, outputs, arguments, decisive = form
        edges = []
        for (argument, group, null_edge), target, slot in zip(arguments, targets, all_slots[place]):  # noqa: B905
            edges.append(null_edge if target < 0 else Edge(argument, group, id_of_place[target], slot))
        if operands is not None and kind is NodeKind.FUNCTION and -1 in targets:
            edges = operands.complete_edges(edges, node, schema, origin.fx_node)
        # positional arguments are the fastest way to build a record: this runs for each of a million nodes
        records.append(
            Node(
                number,
                label,
                name,
                kind,
                schema,
                sequence_nrs[place],
                gradients,
                outputs,
                tuple(edges),
                variable_of(number),
                *origin[:-1],
                None,
                *hooks_of(number, _NO_HOOKS),
                () if decisive is None else read_settings(node, decisive),
                *lost_of(number, KEPT),  # type: ignore[arg-type]
                saturated=number in saturated,
                script=origin.script,
            )
        )
    return tuple(records)


def _make_form(node: AutogradNode, name: str, n_edges: int, n_outputs: int) -> _Form:
    kind, signature, decisive = classify_node(node, name)
    is_copy = kind is NodeKind.COPY_SLICES
    named = name_copy_slices_edges(node, n_edges) if is_copy else name_edges(signature, n_edges)
    edges = [(argument, group, Edge(argument, group, None, 0, NULL_CPP)) for argument, group in named]
    schema = None if signature is None else signature.schema
    return _Form(kind, schema, name_outputs(signature, n_outputs), tuple(edges), decisive)


def name_copy_slices_edges(node: AutogradNode, n_edges: int) -> tuple[EdgeName, ...]:
    """The names of the edges of a ``CopySlices``, an in-place operation on a view as its base sees it.

    Edge 0 goes to the base, the others are those of the operation's own node, which Python can reach from torch 2.14 on
    (torch/csrc/autograd/functions/tensor.cpp).
    """
    wrapped = getattr(node, "_wrapped_node", None)
    operation = (UNNAMED,) * n_edges if wrapped is None else _name_operation_edges(wrapped, n_edges)
    return (("base", None), *operation[1:])


def _name_operation_edges(node: AutogradNode, n_edges: int) -> tuple[EdgeName, ...]:
    if isinstance(node, torch._C._FunctionBase):
        custom = read_custom_signature(node)
        return tuple(zip(custom.arguments, custom.groups, strict=True))
    return name_edges(find_signature(node.name()), n_edges)


def _make_python_record(
    walked: WalkedGraph, notes: NodeNotes, number: int, label: str, origin: Provenance, answers: Answers
) -> Node:
    place = walked.places[number]
    node, name = walked.nodes[place], walked.all_names[place]
    kind = classify_node(node, name).kind
    custom = read_custom_signature(node)  # type: ignore[arg-type]
    named = zip(custom.arguments, custom.groups, walked.targets[place], walked.slots[place], strict=True)
    edges = [
        Edge(argument, group, walked.id_of_place[target], slot)
        if target >= 0
        else Edge(argument, group, None, 0, NULL_PYTHON)
        for argument, group, target, slot in named
    ]
    hooks, prehooks = notes.hooks.get(number, _NO_HOOKS)
    may_nest = kind in (NodeKind.CUSTOM_FUNCTION, NodeKind.CHECKPOINT)
    return Node(
        id=number,
        label=label,
        name=name,
        kind=kind,
        schema=custom.schema,
        sequence_nr=walked.sequence_nrs[place],
        grad_outputs=walked.gradients[place],
        output_names=custom.outputs,
        edges=tuple(edges),
        **origin._asdict(),
        needs_input_grad=custom.needs_input_grad,
        hooks=hooks,
        prehooks=prehooks,
        **notes.lost_saved.get(number, KEPT)._asdict(),
        nested_backward=_find_nested_slots(walked, place, notes) if may_nest else None,
        returned=read_backward(node, custom, answers) if kind is NodeKind.CUSTOM_FUNCTION else None,  # type: ignore[arg-type]
    )


def _find_nested_slots(walked: WalkedGraph, place: int, notes: NodeNotes) -> tuple[tuple[int | None, int], ...] | None:
    """Where the backward that a Function's own backward starts may enter the graph; None where it starts none."""
    node: Any = walked.nodes[place]
    function = getattr(node, "_forward_cls", None)
    if node in notes.nesting:
        nested, used = notes.nesting[node]
    else:
        nested, used = None if function is None else find_nested_backward(function, vars(node)), ()
    if nested is None:
        return None
    entered = [] if nested.detaches else list(_find_slots_of_arguments(walked, place))
    for node, slot in used:
        number = walked.ids.get(node)
        entered.append(_NOWHERE if number is None else (number, slot))
    return tuple(dict.fromkeys(entered))


def _find_slots_of_arguments(walked: WalkedGraph, place: int) -> Iterator[tuple[int | None, int]]:
    """The slots that the edges of a node lead to, but for leaves."""
    for target, slot in zip(walked.targets[place], walked.slots[place], strict=True):
        if target >= 0 and walked.targets[target]:
            yield walked.id_of_place[target], slot

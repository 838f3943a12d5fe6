"""Finds the gradient that somebody means: that of a variable, of a root, or one of a node's by its label and slot."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph.notation import escaped, path_text
from fxgrad.graph.records import Node, Root

if TYPE_CHECKING:
    from fxgrad.graph.backward_graph import BackwardGraph

_SLOT = re.compile(r"(.*)\[([0-9]{1,9})\]", re.DOTALL)
_MOST_NAMES = 3


class GradientPlace(NamedTuple):
    """A gradient of a node; ``node`` is None for a tensor that is not in the graph."""

    name: str
    node: int | None
    slot: int


def find_input(graph: BackwardGraph, text: str) -> GradientPlace:
    """The gradient of the variable, or of the node's slot, that `text` names: ``weight``, ``UnbindBackward0_0[1]``.

    Raises UsageError with the nearest names where there is none, and for a variable that requires no grad.
    """
    variable = graph.variables_by_name.get(text)
    if variable is None:
        return _of_node(graph, text) or _refuse(text, "tensor", _input_names(graph))
    if not variable.requires_grad:
        raise UsageError(
            f"{escaped(text)}, which requires no grad",
            "tensors that require grad: PyTorch raises for others",
            "leave it out, or let it require grad and trace again",
        )
    return GradientPlace(variable.name, variable.node, variable.slot)


def find_root(graph: BackwardGraph, text: str) -> Root:
    """The root that `text` names: one of the graph's by where it was found (``result[1]``), or any gradient in it.

    Raises UsageError with the nearest names where there is none, and for a tensor that is not in the graph.
    """
    known = {path_text(root.path): root for root in graph.roots}
    if text in known:
        return known[text]
    if text not in graph.variables_by_name and _of_node(graph, text) is None:
        _refuse(text, "root", (*known, *_input_names(graph)))
    place = find_input(graph, text)
    if place.node is None:
        raise UsageError(
            f"{escaped(text)} as a root, which is not in this graph",
            "a tensor that the traced roots lead to",
            "trace a model that returns it",
        )
    return Root(place.node, place.slot, (place.name,))


def _of_node(graph: BackwardGraph, text: str) -> GradientPlace | None:
    """``label`` for a node that receives one gradient, ``label[slot]`` for any."""
    node = graph.nodes_by_label.get(text)
    if node is not None:
        return GradientPlace(text, node.id, _only_slot(node))
    match = _SLOT.fullmatch(text)
    node = None if match is None else graph.nodes_by_label.get(match[1])
    if match is None or node is None:
        return None
    slot = int(match[2])
    if slot >= len(node.grad_outputs):
        raise _wrong_slot(node, text)
    return GradientPlace(text, node.id, slot)


def _only_slot(node: Node) -> int:
    if len(node.grad_outputs) != 1:
        raise _wrong_slot(node, node.label)
    return 0


def _wrong_slot(node: Node, text: str) -> UsageError:
    count, label = len(node.grad_outputs), escaped(node.label)
    return UsageError(
        f"{escaped(text)} as one gradient",
        f"{label} receives {count}, numbered from 0",
        f"{label}[{count - 1}]" if count else "another node",
    )


def _input_names(graph: BackwardGraph) -> tuple[str, ...]:
    wanted = [name for name, variable in graph.variables_by_name.items() if variable.requires_grad]
    return (*wanted, *graph.nodes_by_label)


def _refuse(text: str, what: str, known: Iterable[str]) -> GradientPlace:
    names = list(known)
    near = difflib.get_close_matches(text, names, n=_MOST_NAMES, cutoff=0.4) or names[:_MOST_NAMES]
    raise UsageError(
        f"no {what} {escaped(text)!r}",
        f"the name of one of the {len(names)} variables that require grad and nodes, a node's with its slot: label[1]",
        "one of " + ", ".join(map(escaped, near)) if near else "trace a model with parameters",
    )

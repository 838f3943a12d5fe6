"""What a node's gradients belong to, as phrases."""

from __future__ import annotations

from fxgrad.graph import Node, NodeKind
from fxgrad.graph.notation import escaped


def function_of(node: Node) -> str:
    """The function whose backward the node is: ``aten::addmm``, ``Scale.forward``, else the node's own name."""
    if node.schema:
        return f"aten::{escaped(node.schema.partition('(')[0].strip().removeprefix('aten::'))}"
    if node.kind is NodeKind.CUSTOM_FUNCTION:
        return f"{escaped(node.short_name.removesuffix('Backward'))}.forward"
    return escaped(node.short_name)


def argument_of(node: Node) -> str:
    """What each entry of the node's grad_input belongs to."""
    if node.schema:
        return f"differentiable argument of {function_of(node)}"
    match node.kind:
        case NodeKind.CUSTOM_FUNCTION:
            return f"tensor argument of {function_of(node)}"
        case NodeKind.BACKWARD_HOOK:
            return "tensor that a full hook's BackwardHookFunction passed on"
        case _:
            return f"next function of {function_of(node)}"


def result_of(node: Node) -> str:
    """What each entry of the node's grad_output belongs to."""
    if node.schema:
        return f"differentiable result of {function_of(node)}"
    match node.kind:
        case NodeKind.CUSTOM_FUNCTION:
            return f"value that {function_of(node)} returned"
        case NodeKind.BACKWARD_HOOK:
            return "tensor that a full hook's BackwardHookFunction passed on"
        case _:
            return f"result of {function_of(node)}"


_NOTES = {
    NodeKind.COPY_SLICES: (
        "an in-place operation on a view, seen from the view's base: its gradients have the shape of the base"
    ),
    NodeKind.BACKWARD_HOOK: "the node of a full module hook: it passes gradients on unchanged",
    NodeKind.COMPILED: "a region that torch.compile made into one node: the modules inside it have none of their own",
    NodeKind.CHECKPOINT: "a reentrant checkpoint: what lies inside it is built again while backward runs",
    NodeKind.SCRIPTED: "a differentiable graph of TorchScript: one node for all the operations inside it",
    NodeKind.ERROR: "a node that raises when backward reaches it",
}


def kind_note(node: Node) -> str:
    """What a reader must know about a node of this kind; "" for ordinary ones."""
    if node.kind is NodeKind.CUSTOM_FUNCTION and node.nested_backward is not None:
        return "a Function whose backward starts another backward: what hooks that comes to is left open"
    return _NOTES.get(node.kind, "")

"""Names nodes, and says in a few words which forward value a gradient belongs to.

Every name is one that the reader knows: of a parameter, buffer or input, of a module's result (``layers.3 call 2
result[1]``), or of the aten function and its arguments below those. What has none of these stays unnamed.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache, lru_cache

from fxgrad.graph.graph_records import GraphRecords
from fxgrad.graph.records import Edge, ModuleCall, Node, NodeKind, Path, Source, TensorRef, Value
from fxgrad.graph.text import escape, format_argument, format_path, join_words

_LONGEST_ARGUMENTS = 60
_MOST_LABELS = 6


def format_expression(
    graph: GraphRecords, edge: Edge, *, call: str | None = None, depth: int = 2, width: int = 3
) -> str | None:
    """What the gradient of one edge belongs to, seen from the module call `call`.

    `depth` bounds how many functions are nested in the text, `width` how many arguments each shows.
    None where nothing is known.
    """
    if edge.next_node is None:
        return None if edge.value is None else _format_value(graph, edge.value, call)
    return _format_slot_expression(graph, edge.next_node, edge.input_nr, call=call, depth=depth, width=width)


def _format_slot_expression(
    graph: GraphRecords, node_id: int, slot: int, *, call: str | None = None, depth: int = 2, width: int = 3
) -> str:
    """What gradient number `slot` of a node belongs to, seen from the module call `call`."""
    node, slot = _behind_hook_functions(graph, graph.nodes[node_id], slot)
    name = _find_name(graph, node, slot, call)
    if name is not None:
        return name
    arguments = _format_arguments(graph, node, call=call, depth=depth, width=width)
    text = _apply(node, arguments)
    return text if len(node.output_names) <= 1 or slot >= len(node.output_names) else f"{text}[{slot}]"


def _behind_hook_functions(graph: GraphRecords, node: Node, slot: int) -> tuple[Node, int]:
    """A BackwardHookFunction is the identity: the value that it passes on."""
    while node.kind is NodeKind.BACKWARD_HOOK and slot < len(node.edges):
        edge = node.edges[slot]
        if edge.next_node is None:
            break
        node, slot = graph.nodes[edge.next_node], edge.input_nr
    return node, slot


def _find_name(graph: GraphRecords, node: Node, slot: int, call: str | None) -> str | None:
    if node.variable is not None:
        return escape(node.variable)
    made_by = _find_maker(graph, node, slot)
    if made_by is not None and made_by[0].id != call:
        return _format_result(graph, *made_by, call)
    name = graph.names_of_slots.get((node.id, slot))
    return None if name is None else escape(name)


def _find_maker(graph: GraphRecords, node: Node, slot: int) -> tuple[ModuleCall, Path] | None:
    """The innermost module call that made the value and has it in its result."""
    results = dict(graph.results_of_slots.get((node.id, slot), ()))
    made_by = next((call for call in graph.enclosing_calls(node.call) if call.id in results), None)
    return None if made_by is None else (made_by, results[made_by.id])


def _format_result(graph: GraphRecords, made_by: ModuleCall, path: Path, call: str | None) -> str:
    return f"{name_call(graph, made_by, seen_from=call)} {format_path(path)}"


def name_call(graph: GraphRecords, call: ModuleCall, *, seen_from: str | None = None) -> str:
    """``layers.3 call 2``; the number is left out where the module has one call, or the same number of calls and the
    same number of this call as the one it is seen from (the same step of a loop)."""
    path = escape(call.path) or "the model"
    total = graph.calls_per_module[call.path]
    if total == 1:
        return path
    if seen_from is not None and seen_from in graph.calls_by_id:
        near = graph.calls_by_id[seen_from]
        if near.index == call.index and graph.calls_per_module[near.path] == total:
            return path
    return f"{path} call {call.index}"


def _format_arguments(graph: GraphRecords, node: Node, *, call: str | None, depth: int, width: int) -> list[str]:
    view = _is_view(node.schema) and len([edge for edge in node.edges if edge.next_node is not None]) == 1
    # the last level names no arguments, but what a view is of: weight.t()
    if depth < (0 if view else 1):
        return ["…"]
    shown = [
        format_expression(graph, edge, call=call, depth=depth - 1, width=width) or edge.argument or "…"
        for edge in node.edges[:width]
    ]
    return [*shown, "…"] if len(node.edges) > width else shown


def _apply(node: Node, arguments: list[str]) -> str:
    function = _name_function(node)
    if _is_view(node.schema) and arguments:
        return f"{arguments[0]}.{function}({'' if _takes_one_argument(node.schema) else '…'})"
    return f"{function}({', '.join(arguments)})"


def _name_function(node: Node) -> str:
    """The function that the node differentiates: its aten name, or the name of the custom Function's class."""
    if node.schema is not None:
        return node.schema.partition("(")[0].rpartition("::")[2].partition(".")[0]
    return node.short_name.removesuffix("Backward")


@cache
def _is_view(schema: str | None) -> bool:
    """Whether a schema's result is a view of its first argument: ``t(Tensor(a) self) -> Tensor(a)``."""
    return schema is not None and "Tensor(a) self" in schema and "-> Tensor(a)" in schema


@cache
def _takes_one_argument(schema: str | None) -> bool:
    """Whether a schema has a single argument."""
    return schema is not None and "," not in schema.partition("(")[2].rpartition(") ->")[0]


def _format_value(graph: GraphRecords, value: Value, call: str | None) -> str | None:
    """The name of a recorded value that requires no grad."""
    fx_node = graph.fx_nodes_by_name.get(value.fx_node)
    if fx_node is None:
        return None
    if fx_node.op in ("placeholder", "get_attr"):
        return escape(fx_node.target)
    for around in graph.enclosing_calls(call):
        for ref in around.inputs:
            if ref.fx_node == value.fx_node and _same_result(ref, value):
                return format_argument(around.argument_names, ref.path)
    function = fx_node.target.rpartition(".")[2]
    arguments = fx_node.args_text
    if len(arguments) > _LONGEST_ARGUMENTS:
        arguments = arguments[:_LONGEST_ARGUMENTS] + "…"
    return f"{function}({arguments})" + ("" if value.index is None else f"[{value.index}]")


def _same_result(ref: TensorRef, value: Value) -> bool:
    return value.index is None or ref.fx_index == value.index


def name_grad_output(graph: GraphRecords, node_id: int, slot: int, *, call: str | None = None) -> str | None:
    """What a grad_output of a node belongs to: ``the module's result[0], `hidden` at model.py:38``."""
    for call_id, path in graph.results_of_slots.get((node_id, slot), ()):
        if call_id == call:
            made_by = graph.calls_by_id[call_id]
            assigned = _find_assigned_name(made_by.source, path) if made_by.on_source_line else None
            return f"the module's {format_path(path)}" + ("" if assigned is None else f", {assigned}")
    return _find_name(graph, graph.nodes[node_id], slot, call)


def _find_assigned_name(source: Source | None, path: Path) -> str | None:
    """The variable that the user's line assigns a result to, with the place: ```hidden` at model.py:38``.

    Only where the line is one assignment from one call: then there is no doubt which call's result it is.

    >>> line = Source("model.py", 38, "hidden, cell = rnn(input, (h[i], c[i]))")
    >>> _find_assigned_name(line, ("result", 1))
    '`cell` at model.py:38'
    >>> _find_assigned_name(Source("model.py", 5, "y = relu(rnn(x))"), ("result",)) is None
    True
    """
    if source is None:
        return None
    target: ast.AST | None = _assignment_target(source.code)
    for step in path[1:]:
        members = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
        if (
            not isinstance(step, int)
            or not 0 <= step < len(members)
            or any(isinstance(one, ast.Starred) for one in members)
        ):
            return None
        target = members[step]
    if not isinstance(target, (ast.Name, ast.Attribute)):
        return None
    return f"`{ast.unparse(target)}` at {escape(source.file)}:{source.line}"


@lru_cache(maxsize=4096)
def _assignment_target(code: str) -> ast.expr | None:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # part of a longer statement
        return None
    if len(body) != 1 or not isinstance(body[0], ast.Assign) or len(body[0].targets) != 1:
        return None
    calls = [node for node in ast.walk(body[0].value) if isinstance(node, ast.Call)]
    return body[0].targets[0] if calls == [body[0].value] else None


# Nodes


def join_labels(nodes: Sequence[Node], *, most: int = _MOST_LABELS) -> str:
    """Labels of nodes; of neighbours with one name, the name once: ``MulBackward0_0, _1 and _2``."""
    labels: list[str] = []
    shown = nodes[:most]
    for before, node in zip((None, *shown), shown, strict=False):
        same = before is not None and before.name == node.name and node.label.startswith(node.name)
        labels.append(escape(node.label.removeprefix(node.name) if same else node.label))
    return join_words(labels, most=most, total=len(nodes))


def name_node_function(node: Node) -> str:
    """The function whose backward the node is: ``aten::addmm``, ``Scale.forward``, else the node's own name."""
    if node.schema:
        return f"aten::{escape(node.schema.partition('(')[0].strip().removeprefix('aten::'))}"
    if node.kind is NodeKind.CUSTOM_FUNCTION:
        return f"{escape(node.short_name.removesuffix('Backward'))}.forward"
    return escape(node.short_name)


def describe_grad_inputs(node: Node) -> str:
    """What each entry of the node's grad_input belongs to: ``differentiable argument of aten::addmm``."""
    if node.schema:
        return f"differentiable argument of {name_node_function(node)}"
    match node.kind:
        case NodeKind.CUSTOM_FUNCTION:
            return f"tensor argument of {name_node_function(node)}"
        case NodeKind.BACKWARD_HOOK:
            return "tensor that a full hook's BackwardHookFunction passed on"
        case _:
            return f"next function of {name_node_function(node)}"


def describe_grad_outputs(node: Node) -> str:
    """What each entry of the node's grad_output belongs to: ``differentiable result of aten::addmm``."""
    if node.schema:
        return f"differentiable result of {name_node_function(node)}"
    match node.kind:
        case NodeKind.CUSTOM_FUNCTION:
            return f"value that {name_node_function(node)} returned"
        case NodeKind.BACKWARD_HOOK:
            return "tensor that a full hook's BackwardHookFunction passed on"
        case _:
            return f"result of {name_node_function(node)}"


_KIND_NOTES = {
    NodeKind.COPY_SLICES: (
        "an in-place operation on a view, seen from the view's base: its gradients have the shape of the base"
    ),
    NodeKind.BACKWARD_HOOK: "the node of a full module hook: it passes gradients on unchanged",
    NodeKind.COMPILED: "a region that torch.compile made into one node: the modules inside it have no nodes",
    NodeKind.CHECKPOINT: "a reentrant checkpoint: the graph inside it is built during backward",
    NodeKind.SCRIPTED: "a differentiable graph of TorchScript: one node for all the operations inside it",
    NodeKind.ERROR: "a node that raises when backward reaches it",
}


def describe_node_kind(node: Node) -> str:
    """What a reader must know about a node of this kind; "" for ordinary ones."""
    if node.kind is NodeKind.CUSTOM_FUNCTION and node.nested_backward is not None:
        return "a Function whose backward starts a nested backward: which hooks that calls is unknown"
    return _KIND_NOTES.get(node.kind, "")

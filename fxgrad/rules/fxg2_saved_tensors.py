"""Nodes that raise because a tensor that they saved was modified or freed: FXG203."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Explanation, FxNode, Node
from fxgrad.graph.names import name_node_function
from fxgrad.graph.text import escape, format_source, join_words, quote_code
from fxgrad.predict import predict_nodes
from fxgrad.rules.data_flow import DataFlow, begin_at, name_operation
from fxgrad.rules.rule import Page, Rule

# FXG203

_FXG203 = Page(
    code="FXG203",
    title="Modified by an inplace operation; backward a second time",
    what="""
    backward raises "one of the variables needed for gradient computation has been modified by an inplace
    operation", or "Trying to backward through the graph a second time".
    """,
    why="""
    Nodes save tensors from forward: mul its factors, exp its result. Each tensor counts its in-place changes in a
    version counter. A node raises if the counter is not the one it saved, as its gradient would be wrong. Views and
    detached tensors share the counter; .data does not, and then the gradient is wrong without an error.

    backward frees the saved tensors unless retain_graph=True. A tensor that is kept from one step to the next with its
    graph, like the hidden state of a recurrent module, leads the second backward into the first step's graph.
    """,
    source="torch/csrc/autograd/saved_variable.cpp, SavedVariable::unpack",
    example="""
    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = x.exp()
    >>> handle = y.mul_(2)
    >>> y.sum().backward()
    Traceback (most recent call last):
        ...
    RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation: ...
    >>> z = x.exp().sum()
    >>> z.backward()
    >>> z.backward()
    Traceback (most recent call last):
        ...
    RuntimeError: Trying to backward through the graph a second time ...
    """,
    fix="""
    fxgrad names the node, the line that made it and the line that changed what it saved: use an out-of-place operation
    there, or a clone. Between steps, keep hidden.detach().
    """,
)

_UNPACK_CPP = "(torch/csrc/autograd/saved_variable.cpp)"
_OVERWRITTEN = "has been modified by an inplace operation"
_AGAIN = "Trying to backward through the graph a second time"


def _explain_overwritten(graph: BackwardGraph) -> Iterator[Explanation]:
    """Backward reaches a node whose saved tensor was modified in place."""
    nodes = [node for node in graph.nodes if node.overwritten]
    if not nodes:
        return
    predicted, flow = predict_nodes(graph), DataFlow(graph)
    for node in nodes:
        if predicted[node.id].runs:
            yield _explain_overwritten_node(node, _find_change_after(graph, flow, node))


def _find_change_after(graph: BackwardGraph, flow: DataFlow, node: Node) -> FxNode | None:
    """The first operation after the node's own that modified its arguments or results in place."""
    if node.fx_node is None:
        return None
    own = graph.fx_nodes_by_name[node.fx_node]
    changers = {flow.rank[fx_node.name] for name in (own.name, *own.inputs) for fx_node in flow.list_changers(name)}
    later = [rank for rank in changers if rank > flow.rank[own.name]]
    return graph.forward[min(later)] if later else None


def _explain_overwritten_node(node: Node, change: FxNode | None) -> Explanation:
    changed_by = name_operation(change) if change else "an in-place operation"
    made_at = f", at {format_source(node.source)}," if node.source else ""
    saved = join_words(map(quote_code, node.overwritten))
    line = (
        f"{begin_at(change.source)}, {changed_by} modifies that in place"
        if change
        else "That is modified in place later"
    )
    return Explanation(
        code="FXG203",
        severity="error",
        headline=f"backward raises at {escape(node.label)}: {changed_by} changed what it saved",
        because=(
            f"{name_node_function(node)}{made_at} saved {saved} for backward. {line}. "
            "Backward compares version counters, and raises `one of the variables needed for gradient computation has "
            f"been modified by an inplace operation`. {_UNPACK_CPP}"
        ),
        fix=f"replace {changed_by} with an out-of-place operation, or apply it to a clone",
        owner=node.label,
        source=change.source if change else node.source,
    )


def _explain_overwritten_error(message: str) -> Explanation | None:
    """Explain the RuntimeError about a saved tensor that was changed; None for any other message."""
    if _OVERWRITTEN not in message:
        return None
    return Explanation(
        code="FXG203",
        severity="error",
        headline="backward reached a node whose saved tensor was modified in place",
        because=f"Backward checks the version counters of saved tensors. {_UNPACK_CPP}",
        fix=(
            "call fxgrad.trace(...).explain() or run fxgrad check: they name the node, its line, and the line of the "
            "change"
        ),
    )


def _explain_second_backward_error(message: str) -> Explanation | None:
    """Explain the RuntimeError about a second backward; None for any other message."""
    if _AGAIN not in message:
        return None
    return Explanation(
        code="FXG203",
        severity="error",
        headline="backward reached a part of the graph that an earlier backward freed",
        because=(
            "A backward frees the saved tensors of its nodes. A tensor that is kept from one step to the next with "
            f"its graph, or computed once and used in each step, leads the next backward there again. {_UNPACK_CPP}"
        ),
        fix="keep it detached (hidden = hidden.detach()), compute it in each step, or call backward(retain_graph=True)",
    )


RULES = (
    Rule(
        _FXG203,
        graph_rules=(_explain_overwritten,),
        error_rules=(_explain_overwritten_error, _explain_second_backward_error),
    ),
)

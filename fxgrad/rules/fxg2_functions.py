"""Nodes that raise whatever they get: custom Functions that return too little, functions without a derivative: FXG208."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Explanation, Node, NodeKind, ReturnError
from fxgrad.graph.text import count_noun, escape, quote_code
from fxgrad.predict import describe_return_error, find_raising_nodes
from fxgrad.rules.data_flow import begin_at, name_operation
from fxgrad.rules.rule import Page, Rule

_FXG208 = Page(
    code="FXG208",
    title="A node whose backward always raises",
    what="""
    backward raises "function MyFunctionBackward returned an incorrect number of gradients (expected 3, got 2)", "You must
    implement either the backward or vjp method", or "derivative for aten::heaviside is not implemented".
    """,
    why="""
    forward of a torch.autograd.Function gets the arguments of apply, and its backward returns a gradient for each of them,
    in their order, also for those that are no tensors: None. One value too few, or one too many that is not None, raises. A
    value that is no tuple counts as one, and so does None, which a backward without a return statement returns.

    Some functions of torch have no derivative. Where an argument requires grad, PyTorch puts a node there all the same, and
    that raises when backward reaches it.
    """,
    source="torch/csrc/autograd/python_function.cpp, PyNode::apply; torch/autograd/function.py; torch/csrc/autograd/functions/basic_ops.h, Error and NotImplemented",
    example="""
    >>> import torch
    >>> class Scale(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x, factor):
    ...         ctx.factor = factor
    ...         return x * factor
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         return grad * ctx.factor
    >>> Scale.apply(torch.ones(2, requires_grad=True), 3).sum().backward()
    Traceback (most recent call last):
        ...
    RuntimeError: function ScaleBackward returned an incorrect number of gradients (expected 2, got 1)
    """,
    fix="""
    Return one value for each argument of forward, and None for an argument that needs no gradient: return grad * ctx.factor,
    None. Where a function has no derivative, use another one, or pass it x.detach() if no gradient is to go through it.
    """,
)


def _explain_return_error(graph: BackwardGraph) -> Iterator[Explanation]:
    """Backward reaches a node that raises whatever it gets."""
    node, _ = find_raising_nodes(graph)
    if node is not None and node.kind is NodeKind.ERROR:
        yield _explain_no_derivative(graph, node)
    if node is not None and node.return_error is not None and not node.has_lost_saved:
        yield _explain_error(node, node.return_error)


def _explain_error(node: Node, error: ReturnError) -> Explanation:
    function = node.name.removesuffix("Backward")
    backward = quote_code(f"{function}.backward")
    subject = quote_code(function) if error.is_missing else backward
    return Explanation(
        code="FXG208",
        severity="error",
        headline=f"backward raises at {escape(node.label)}: {subject} {describe_return_error(error)}",
        because=f"{begin_at(node.source)}, forward made {escape(node.label)}. {_describe_rule(error)}",
        fix=_advise_on_error(backward, error),
        owner=node.label,
        source=node.source,
    )


def _explain_no_derivative(graph: BackwardGraph, node: Node) -> Explanation:
    fx_node = None if node.fx_node is None else graph.fx_nodes_by_name[node.fx_node]
    name = "its function" if fx_node is None else name_operation(fx_node)
    return Explanation(
        code="FXG208",
        severity="error",
        headline=f"backward raises at {escape(node.label)}: {name} has no derivative here",
        because=(
            f"{begin_at(node.source)}, forward made {escape(node.label)}: a node that PyTorch puts where a derivative is not "
            "implemented, or not for a second time, and that raises when backward reaches it. "
            "(torch/csrc/autograd/functions/basic_ops.h)"
        ),
        fix=f"use another function in place of {name}, or pass it a detached tensor if no gradient is to go through it",
        owner=node.label,
        source=node.source,
    )


def _describe_rule(error: ReturnError) -> str:
    if error.is_missing:
        return "The backward of torch.autograd.Function raises NotImplementedError. (torch/autograd/function.py)"
    if error.got is None:
        return "No way through its code leads to a return, whichever gradients it gets."
    return (
        "Backward must return one value for each argument of forward, None included, and raises `returned an incorrect number "
        f"of gradients (expected {error.expected}, got {error.got})`. (torch/csrc/autograd/python_function.cpp)"
    )


def _advise_on_error(backward: str, error: ReturnError) -> str:
    if error.got is None:
        return f"write a {backward} that returns the gradients, or call the Function where no gradient is needed"
    if error.got > error.expected:
        surplus = count_noun(error.got - error.expected, "value")
        return f"return {surplus} less: one for each argument of forward, in their order"
    missing = error.expected - error.got
    values = ", ".join(["..."] * error.got + ["None"] * missing)
    return (
        f"return {count_noun(missing, 'more value')}, as in `return {values}`: one for each argument of forward, in their order, "
        "None where no gradient is needed"
    )


RULES = (Rule(_FXG208, graph_rules=(_explain_return_error,)),)

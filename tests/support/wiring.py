"""Compares the names of edges and slots with the arguments and results of real calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fxgrad.observe.autograd.argument_names import (
    find_signature,
    name_edges,
    name_outputs,
)


def names_of(node):
    """The names of the edges of a node."""
    return [argument for argument, _ in name_edges(find_signature(node.name()), len(node.next_functions))]


def connected_names(node):
    """The names of the edges that lead somewhere."""
    return [name for name, (next_node, _) in zip(names_of(node), node.next_functions, strict=True) if next_node]


def slot_names(node):
    return name_outputs(find_signature(node.name()), len(node._input_metadata))


def first_node(result):
    return next(tensor.grad_fn for tensor in tree_leaves(result) if tensor.grad_fn is not None)


class Wiring(TorchDispatchMode):
    """Notes, for every call of an aten function, the edge that each of its arguments would be."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._C.FunctionSchema, dict[str, object], object]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        bound = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | (kwargs or {})
        edges: dict[str, object] = {}
        for name, value in bound.items():
            if isinstance(value, (list, tuple)):
                edges |= {f"{name}[{index}]": edge_of(member) for index, member in enumerate(value)}
            else:
                edges[name] = edge_of(value)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func._schema, edges, result))
        return result


def edge_of(value: object) -> object:
    """Where the gradient of a value goes: (node, input_nr), a leaf, or None."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return None
    return value if value.grad_fn is None else (value.grad_fn, value.output_nr)


def edge_in_graph(next_node, input_nr: int) -> object:
    if next_node is None:
        return None
    return next_node.variable if next_node.name().endswith("AccumulateGrad") else (next_node, input_nr)


def same_edge(left: object, right: object) -> bool:
    return left is right if isinstance(right, torch.Tensor) else left == right


def wrong_names(calls) -> Iterator[str]:
    """Every edge and slot of a node made by the calls whose name is not that of the argument or result there."""
    checked = set()
    for schema, edges, result in reversed(calls):  # a tensor that is changed in place has the node of the last call
        made = [tensor for tensor in tensors_made(schema, result) if tensor.grad_fn not in checked]
        checked.update(tensor.grad_fn for tensor in made)
        for node in dict.fromkeys(tensor.grad_fn for tensor in made):
            yield from wrong_edges(node, edges)
        for tensor in made:
            yield from wrong_slot(tensor, result_name(schema, result, tensor))


def tensors_made(schema: torch._C.FunctionSchema, result: object) -> list[torch.Tensor]:
    """Those whose node is that of the function called, and not one of a call around it."""
    function = schema.name.partition("::")[2].removesuffix("_")
    return [
        tensor
        for tensor in tree_leaves(result)
        if isinstance(tensor, torch.Tensor)
        and tensor.grad_fn is not None
        and (signature := find_signature(tensor.grad_fn.name())) is not None
        and signature.function == function
    ]


def wrong_edges(node, edges: dict[str, object]) -> Iterator[str]:
    for name, (next_node, input_nr) in zip(names_of(node), node.next_functions, strict=True):
        if name is None:
            yield f"{node.name()}: no name"
        elif next_node is not None and next_node.name() in ("ConjBackward0", "NegViewBackward0"):
            continue  # ATen/native/MathBitsFallback.h materializes the argument before the mode sees it
        elif not same_edge(edge_in_graph(next_node, input_nr), edges.get(name)):
            yield f"{node.name()}: {name}"


def wrong_slot(tensor: torch.Tensor, expected: str) -> Iterator[str]:
    name = slot_names(tensor.grad_fn)[tensor.output_nr]
    if name != expected:
        yield f"{tensor.grad_fn.name()}: slot {tensor.output_nr} is {expected}, not {name}"


def result_name(schema: torch._C.FunctionSchema, result: object, tensor: torch.Tensor) -> str:
    """What a tensor among the results of a call is called."""
    if isinstance(result, torch.Tensor):
        return schema.returns[0].name or "result"
    index = next(index for index, member in enumerate(result) if member is tensor)
    if len(schema.returns) == 1:
        return f"result[{index}]"
    return schema.returns[index].name or f"result {index}"


def wiring_of(operators, *, samples: int) -> Wiring:
    """Run sample inputs of the operators, plain and in place."""
    wiring = Wiring()
    for operator in operators:
        for function in filter(None, (operator.op, operator.inplace_variant)):
            inputs = operator.sample_inputs("cpu", torch.float64, requires_grad=True)
            for sample, _ in zip(inputs, range(samples), strict=False):
                first = tree_map(
                    lambda value: value.clone() if isinstance(value, torch.Tensor) else value, sample.input
                )
                # not every sample allows the in-place variant
                with wiring, suppress(RuntimeError, TypeError, ValueError):
                    function(first, *sample.args, **sample.kwargs)
    return wiring


def differentiable(operators):
    return [
        operator
        for operator in operators
        if operator.supports_autograd and torch.float64 in operator.supported_backward_dtypes("cpu")
    ]

"""Runs programs on the emulated CUDA device, in forked children: the backend that they register dies with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo  # what FakeTensorMode imports at its first use, here once instead of in every child
from torch import Tensor

from fxgrad.observe.accelerator.backend import emulate
from fxgrad.observe.accelerator.forked import in_forked_child
from tests.support.needs import CANNOT_EMULATE


def emulated(program: Callable[[Any], Any]) -> Any:
    """What `program(device)` returns on the emulated device, as JSON gives it back (tuples are lists)."""
    if CANNOT_EMULATE or torch.cuda.is_available():
        pytest.skip("torch 2.9 emulates no device, and where there is a CUDA device there is nothing to emulate")

    def work() -> str:
        with emulate("cuda") as device:
            return json.dumps(program(device))

    return json.loads(in_forked_child(work, timeout=60))


def structure(*tensors: Tensor) -> list[str]:
    """The graph behind `tensors`, one line a node, numbered as they are met: name, edges, shapes of its gradients."""
    order = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    numbers = {node: number for number, node in enumerate(order)}
    for node in order:
        for next_node, _ in node.next_functions:
            if next_node is not None and next_node not in numbers:
                numbers[next_node] = len(order)
                order.append(next_node)
    return [_line(node, numbers) for node in order]


def _line(node: Any, numbers: dict[Any, int]) -> str:
    edges = (f"{numbers[each]}.{slot}" if each is not None else "-" for each, slot in node.next_functions)
    shapes = [tuple(meta.shape) for meta in node._input_metadata]
    return f"{numbers[node]} {node_name(node)}({', '.join(edges)}) {shapes}"


def node_name(node: Any) -> str:
    """The name without its namespace."""
    return node.name().rpartition("::")[2]


def arguments(tensor: Tensor) -> list[str | None]:
    """The name of the node of `tensor` and of the nodes that its gradients go to."""
    node = tensor.grad_fn
    return [node_name(node), *(each and node_name(each) for each, _ in node.next_functions)]

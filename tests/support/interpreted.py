"""What the nodes of a GraphModule's graph compute, as torch.fx runs them one by one."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from module_hooks import roots_in
from torch.utils._pytree import tree_leaves


class Interpreted(NamedTuple):
    """By the name of a node, the autograd nodes that were first seen in what it gave; and all behind the graph's output."""

    made: dict[str, list[Any]]
    reached: set[Any]


class _Interpreter(torch.fx.Interpreter):
    def __init__(self, module):
        super().__init__(module, garbage_collect_values=False)
        self.made = {}
        self._seen = set()

    def run_node(self, node):
        result = super().run_node(node)
        found = [each.grad_fn for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        fresh = [grad_fn for grad_fn in found if grad_fn is not None and grad_fn not in self._seen]
        self._seen.update(fresh)
        if fresh and node.op.startswith("call_"):
            self.made[node.name] = fresh
        return result


def interpret(module, *args, **kwargs):
    """Run the graph of a GraphModule node by node."""
    interpreter = _Interpreter(module)
    given = inspect.signature(module.forward).bind(*args, **kwargs)
    given.apply_defaults()
    flat = module.graph._codegen.process_inputs(*given.args, *given.kwargs.values())
    result = interpreter.run(*flat, enable_io_processing=False)
    waiting, reached = [root.grad_fn for root in roots_in(result)], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in reached:
            reached.add(node)
            waiting += [following for following, _ in node.next_functions]
    return Interpreted(interpreter.made, reached)

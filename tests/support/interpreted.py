"""What the nodes of a GraphModule's graph compute, as torch.fx runs them one by one."""

from __future__ import annotations

import torch


class _Interpreter(torch.fx.Interpreter):
    def __init__(self, module):
        super().__init__(module, garbage_collect_values=False)
        self.results = {}

    def run_node(self, node):
        result = super().run_node(node)
        if node.op.startswith("call_"):
            self.results[node.name] = result
        return result


def interpret(module, *args):
    """By the name of a node: the name of the grad_fn of the tensor that it gave, and the tensor's shape."""
    interpreter = _Interpreter(module)
    args = module.graph._codegen.process_inputs(*args)
    interpreter.run(*args, enable_io_processing=False)
    return {
        name: (result.grad_fn.name(), tuple(result.shape))
        for name, result in interpreter.results.items()
        if isinstance(result, torch.Tensor) and result.grad_fn is not None
    }

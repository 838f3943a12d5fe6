"""Registers hooks of one kind wherever that kind can be: on a module and those inside it, on tensors and nodes.

What goes in and comes out of every module is hooked from inside forward, by forward hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from module_hooks import Notebook
from torch import nn

from fxgrad.graph import HookKind

ON_MODULES = {
    HookKind.MODULE_BACKWARD: Notebook.legacy,
    HookKind.MODULE_FULL_BACKWARD: Notebook.full,
    HookKind.MODULE_FULL_BACKWARD_PRE: Notebook.full_pre,
}
ON_ONE_TENSOR = (
    HookKind.TENSOR,
    HookKind.RETAIN_GRAD,
    HookKind.POST_ACCUMULATE_GRAD,
    HookKind.NODE,
    HookKind.NODE_PRE,
)


def hook_everywhere(notebook: Notebook, kind: HookKind, model: nn.Module) -> None:
    """Register hooks of a kind on a model; its inputs are hooked by `hook_inputs`."""
    if kind.is_global:
        notebook.everywhere(notebook.name(kind.value), kind)
        return
    for path, module in model.named_modules():
        if kind in ON_MODULES:
            _hook_module(notebook, kind, path, module)
        elif kind in ON_ONE_TENSOR:
            _hook_results_of(notebook, kind, path, module)
    parameters = list(model.named_parameters())
    if kind in ON_ONE_TENSOR:
        for name, parameter in parameters:
            hook_tensor(notebook, kind, parameter, name)
    if kind is HookKind.MULTI_GRAD:
        _hook_several(notebook, [parameter for _, parameter in parameters], "parameters")
        model.register_forward_hook(_hooks_results_together(notebook, [parameter for _, parameter in parameters]))


def _hook_results_of(notebook: Notebook, kind: HookKind, path: str, module: nn.Module) -> None:
    try:
        module.register_forward_hook(_hooks_results(notebook, kind, path))
    except RuntimeError as error:  # a ScriptModule
        notebook.refused.append(str(error))


def _hook_module(notebook: Notebook, kind: HookKind, path: str, module: nn.Module) -> None:
    name = f"{kind.value} at {path!r}"
    try:
        ON_MODULES[kind](notebook, module, name)
    except RuntimeError as error:  # a ScriptModule, or one that has a hook of another kind
        notebook.refused.append(str(error))
    else:
        notebook.name(name)


def hook_inputs(notebook: Notebook, kind: HookKind, inputs: Sequence[Any]) -> None:
    """Register hooks of a kind on a model's inputs."""
    tensors = list(tensors_in(inputs))
    if kind in ON_ONE_TENSOR:
        for number, tensor in enumerate(tensors):
            hook_tensor(notebook, kind, tensor, f"input {number}")
    if kind is HookKind.MULTI_GRAD:
        _hook_several(notebook, tensors, "inputs")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from tensors_in(member)


def hook_tensor(notebook: Notebook, kind: HookKind, tensor: torch.Tensor, what: str) -> None:
    """Register one hook on a tensor, or on the node that its gradient goes to; nothing where it does not require grad."""
    if not tensor.requires_grad or (kind is HookKind.POST_ACCUMULATE_GRAD and not tensor.is_leaf):
        return
    name = f"{kind.value} at {what}"
    _ = tensor.grad_fn  # a view whose base was changed gets its grad_fn here; a hook on it before would crash PyTorch
    if kind is HookKind.TENSOR:
        tensor.register_hook(notebook.tensor(notebook.name(name)))
    elif kind is HookKind.RETAIN_GRAD:
        notebook.retain(tensor)
    elif kind is HookKind.POST_ACCUMULATE_GRAD:
        tensor.register_post_accumulate_grad_hook(notebook.leaf(notebook.name(name)))
    elif kind is HookKind.NODE:
        _node_of(notebook, tensor).register_hook(notebook.on_node(notebook.name(name)))
    elif kind is HookKind.NODE_PRE:
        _node_of(notebook, tensor).register_prehook(notebook.before_node(notebook.name(name)))


def _node_of(notebook: Notebook, tensor: torch.Tensor) -> Any:
    """The node that the gradient goes to. An AccumulateGrad and its hooks live only as long as something holds it."""
    node = torch.autograd.graph.get_gradient_edge(tensor).node
    notebook.kept.append(node)
    return node


def _hooks_results(notebook: Notebook, kind: HookKind, path: str) -> Callable[..., None]:
    def hooks_results(module: nn.Module, args: Any, result: Any) -> None:
        if _is_inside_backward():  # what is registered there nobody could have predicted
            return
        for number, tensor in enumerate(tensors_in(result)):
            hook_tensor(notebook, kind, tensor, f"result {number} of {path!r}")

    return hooks_results


def _is_inside_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _hooks_results_together(notebook: Notebook, parameters: Sequence[torch.Tensor]) -> Callable[..., None]:
    def hooks_results_together(module: nn.Module, args: Any, result: Any) -> None:
        results = list(tensors_in(result))
        _hook_several(notebook, results, "results")
        _hook_several(notebook, [*results, *tensors_in(args), *parameters], "results, inputs and parameters")

    return hooks_results_together


def _hook_several(notebook: Notebook, tensors: Sequence[torch.Tensor], what: str) -> None:
    """One "all" and one "any" hook on those that require grad."""
    differentiable = [tensor for tensor in tensors if tensor.requires_grad]
    if not differentiable:
        return
    for mode in ("all", "any"):
        notebook.on_several(differentiable, notebook.name(f"{mode} of {what}"), mode)

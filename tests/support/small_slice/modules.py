"""Programs of modules, with hooks of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comparison import Comparison, Reality, compare_with
from module_hooks import FromFunction, Notebook, backward, roots_in
from same_graph import ids_in
from torch import nn
from torch.utils.checkpoint import checkpoint
from zoo_nested import ByHelper

import fxgrad
from small_slice.parts import leaf, part


def traced(
    register: Callable[[Notebook, nn.Module], None],
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Any] = lambda out: out,
) -> Comparison:
    """Trace a model with hooks, then run it."""
    notebook = Notebook()
    try:
        register(notebook, model)
        graph = fxgrad.trace(model, args, loss=loss).graph
        notebook.clear()
        roots = roots_in(loss(model(*args)))
        ids = ids_in(graph, roots)
        backward(roots)
        paths = {module: path for path, module in model.named_modules()}
        reality = Reality(notebook.log, ids, paths, retained=notebook.retained(ids), registered=notebook.names)
        return compare_with(graph, reality)
    finally:
        notebook.close()


def full_hooks(notebook: Notebook, model: nn.Module) -> None:
    for path, module in model.named_modules():
        notebook.full(module, notebook.name(f"full {path}"))
        notebook.full_pre(module, notebook.name(f"pre {path}"))


def legacy_hooks(notebook: Notebook, model: nn.Module) -> None:
    for path, module in model.named_modules():
        notebook.legacy(module, notebook.name(f"legacy {path}"))


@part
def non_full_hooks() -> Comparison:
    return traced(legacy_hooks, nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Tanh(), nn.Tanh())), leaf(4, 3))


@part
def one_module_called_twice() -> Comparison:
    inner = nn.Linear(3, 3)
    model = FromFunction(lambda module, x: inner(inner(x).exp()))
    model.inner = inner
    return traced(legacy_hooks, model, leaf(4, 3))


@part
def a_non_full_hook_where_there_is_no_graph() -> Comparison:
    model = FromFunction(lambda module, x: (x.detach(), x * 2))
    return traced(legacy_hooks, model, leaf())


@part
def full_hooks_on_modules() -> Comparison:
    return traced(full_hooks, nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Tanh(), nn.Tanh())), leaf(4, 3))


@part
def arguments_that_no_gradient_reaches() -> Comparison:
    model = FromFunction(lambda module, x, nothing, unused, half: (x.exp(), 5, x.detach(), x.sin()))
    arguments = [leaf(), None, leaf(2).exp(), torch.ones(5, dtype=torch.half)]
    return traced(full_hooks, model, *arguments, loss=lambda out: out[0].sum())


@part
def arguments_that_require_no_grad() -> Comparison:
    return traced(full_hooks, nn.Linear(3, 2), torch.ones(4, 3))


@part
def what_the_nodes_of_full_hooks_hand_on() -> Comparison:
    """Zeros for an argument that gets no gradient, None for a result that gets none."""
    inner = FromFunction(lambda module, a, b: (a * 2, b.exp()))

    def register(notebook: Notebook, model: nn.Module) -> None:
        full_hooks(notebook, inner)
        inner.register_forward_pre_hook(lambda module, args: on_node(notebook, "behind the module", args[1]))
        inner.register_forward_hook(lambda module, args, results: on_node(notebook, "in the module", results[1]))

    model = FromFunction(lambda module, a, b: inner(a.sin(), b.cos())[0])
    model.inner = inner
    return traced(register, model, leaf(), leaf())


def on_node(notebook: Notebook, name: str, tensor: torch.Tensor) -> None:
    tensor.grad_fn.register_hook(notebook.on_node(notebook.name(name)))


@part
def a_gradient_by_a_way_around() -> Comparison:
    kept = []
    inner = FromFunction(lambda module, a: kept.append(a) or a.exp())

    def forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        inner(x)
        return kept.pop() * 2

    model = FromFunction(forward)
    model.inner = inner
    return traced(full_hooks, model, leaf())


@part
def results_that_are_not_hooked() -> Comparison:
    return traced(full_hooks, FromFunction(lambda module, x: {"a": x * 2}), leaf())


@part
def a_reentrant_checkpoint() -> Comparison:
    inner = nn.Linear(3, 3)
    model = FromFunction(lambda module, x: checkpoint(inner, x, use_reentrant=True) + inner(x))
    model.inner = inner

    def register(notebook: Notebook, model: nn.Module) -> None:
        notebook.legacy(inner, notebook.name("legacy"))
        inner.weight.register_hook(notebook.tensor(notebook.name("weight")))

    return traced(register, model, leaf(4, 3))


@part
def a_function_that_starts_a_backward() -> Comparison:
    inner = nn.Linear(3, 3)
    model = FromFunction(lambda module, x: ByHelper.apply(x, inner) + inner(x))
    model.inner = inner

    def register(notebook: Notebook, model: nn.Module) -> None:
        inner.weight.register_hook(notebook.tensor(notebook.name("weight")))

    return traced(register, model, leaf(4, 3))


@part
def a_checkpoint_with_a_closure() -> Comparison:
    """The tensor that the checkpoint uses without being given it has a hook, and so has a module behind it."""
    made: dict[str, Notebook] = {}

    def forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        shift = module.inner(module.weight)
        shift.register_hook(made["notebook"].tensor("shift"))
        return checkpoint(lambda y: y + shift, x * 2, use_reentrant=True) + shift

    model = FromFunction(forward)
    model.inner = FromFunction(lambda module, weight: weight + 1)

    def register(notebook: Notebook, model: nn.Module) -> None:
        made["notebook"] = notebook
        notebook.name("shift")

    return traced(register, model, leaf(4, 3))


@part
def a_hook_on_several_tensors_and_a_checkpoint() -> Comparison:
    def forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        hidden = x * 2
        made["notebook"].on_several([hidden, module.weight], "several", "all")
        return checkpoint(lambda y: y * module.weight, hidden, use_reentrant=True)

    made: dict[str, Notebook] = {}

    def register(notebook: Notebook, model: nn.Module) -> None:
        made["notebook"] = notebook
        notebook.name("several")

    return traced(register, FromFunction(forward), leaf(4, 3))


@part
def global_hooks() -> Comparison:
    from fxgrad.graph import HookKind

    def register(notebook: Notebook, model: nn.Module) -> None:
        notebook.everywhere(notebook.name("everywhere"), HookKind.GLOBAL_FULL_BACKWARD)
        full_hooks(notebook, model)

    return traced(register, nn.Sequential(nn.Linear(3, 2), nn.Tanh()), leaf(4, 3))

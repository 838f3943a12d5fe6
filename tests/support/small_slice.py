"""A small slice of the oracles: programs that between them use every rule of `fxgrad.predict` and `fxgrad.resolve`.

Each is a function that predicts, runs backward for real, and returns how the two compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import Comparison, Reality, compare_with
from module_hooks import FromFunction, Notebook, backward, roots_in
from real_backward import Bench
from same_graph import ids_in
from torch import nn
from torch.utils.checkpoint import checkpoint
from zoo_nested import ByHelper

import fxgrad

Slice = dict[str, Callable[[], Comparison]]
SLICE: Slice = {}


def part(function: Callable[[], Comparison]) -> Callable[[], Comparison]:
    SLICE[function.__name__] = function
    return function


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (3,), requires_grad=True)


# Programs of functions, with hooks on nodes and tensors


def compared(bench: Bench, inputs: Any = None, api: str = "backward") -> Comparison:
    predicted = bench.predicted(inputs, api)
    bench.run(inputs, api)
    return bench.compared(predicted)


def compared_until_it_raises(bench: Bench, inputs: Any = None, api: str = "backward") -> Comparison:
    predicted = bench.predicted(inputs, api)
    with pytest.raises(RuntimeError):
        bench.run(inputs, api)
    return bench.compared(predicted)


def every_node(output: Any, *, made_by: str | None = None) -> Comparison:
    return compared(Bench(output, made_by=made_by).on_every_node())


@part
def a_sum_of_products() -> Comparison:
    x, y = leaf(2, 3), leaf(3, 2)
    return every_node((x.mm(y).exp() + torch.ones(2, 2)).double().sum())


@part
def two_branches_and_leaves() -> Comparison:
    x, y, z = leaf(), leaf(), leaf()
    first = x * y
    return every_node(((first + z) * x.sin() * y.cos() * first.exp()).sum())


@part
def many_leaves() -> Comparison:
    return every_node(torch.stack([leaf() for _ in range(7)]).sum())


@part
def slots_of_different_shapes() -> Comparison:
    first, second = leaf(5).exp().split([2, 3])
    bench = Bench([first, second])
    bench.on_tensor(second)
    bench.retain(second)
    return compared(bench)


@part
def unused_results() -> Comparison:
    first, _ = leaf(4, 3).exp().split(2)
    return every_node(first.sum())


@part
def a_gradient_that_nothing_gives() -> Comparison:
    x = leaf()
    return every_node([Stops.apply(x.exp(), x.sin()) * 2])


class Stops(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad, None


@part
def a_list_argument() -> Comparison:
    return every_node(torch.cat([leaf(), torch.ones(2), leaf()]).sum())


@part
def functions_over_lists() -> Comparison:
    first, _ = torch._foreach_mul([leaf(), leaf()], [leaf(), leaf()])
    return every_node(first.sum())


@part
def a_zero_norm() -> Comparison:
    return every_node(torch.linalg.vector_norm(leaf().exp(), 0))


@part
def the_sign_of_a_determinant() -> Comparison:
    sign, _ = torch.linalg.slogdet(leaf(3, 3).exp())
    return every_node(sign)


@part
def residuals_without_elements() -> Comparison:
    solved = torch.linalg.lstsq(leaf(2, 3).exp(), leaf(2, 2).exp())
    return every_node(solved.residuals)


@part
def statistics_of_a_group_norm() -> Comparison:
    _, mean, _ = torch.native_group_norm(leaf(1, 2, 3).exp(), leaf(2).exp(), leaf(2).exp(), 1, 2, 3, 1, 1e-5)
    return every_node(mean)


@part
def a_second_derivative() -> Comparison:
    x = leaf(1, 1, 3, 3)
    weight = leaf(1, 1, 2, 2)
    (grad,) = torch.autograd.grad(nn.functional.conv2d(x, weight).sum(), x, create_graph=True)
    return every_node(grad)


@part
def no_reflectors() -> Comparison:
    return every_node(torch.linalg.householder_product(leaf(3, 0).exp(), leaf(0).exp()))


@part
def a_view_changed_by_a_custom_function() -> Comparison:
    base = leaf(4) * 2
    view = base[:2]
    ChangesInPlace.apply(view)
    return every_node(base.sum(), made_by="torch.autograd.function.apply")


class ChangesInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return None


@part
def hooks_on_tensors_and_nodes() -> Comparison:
    x, y = leaf(), leaf()
    first, second = torch.stack([x.exp(), y]).unbind(0)
    bench = Bench((first * second).sum())
    tensors = [second, first, second, x]
    for tensor in tensors:
        bench.on_tensor(tensor)
    bench.retain(first)
    node, _ = bench.place(first)
    assert node is not None
    bench.on_node(node)
    bench.before_node(node)
    bench.on_node(node)
    bench.on_tensor(first)
    bench.after_accumulation(x)
    accumulate, _ = bench.place(x)
    assert accumulate is not None
    bench.on_node(accumulate)
    bench.remove(0)
    bench.remove(bench.on_tensor(y))
    return compared(bench)


@part
def hooks_on_several_tensors() -> Comparison:
    x, y = leaf(), leaf()
    z = x * y
    root = z.exp()
    bench = Bench(root)
    bench.on_several([x, y, z])
    bench.on_several([root, z, x])
    bench.on_several([x, z], "any")
    bench.on_several([root])
    return compared(bench)


@part
def a_hook_on_several_tensors_and_a_listed_leaf() -> Comparison:
    x = leaf()
    y = x * 2
    bench = Bench(y.sum()).on_every_node()
    bench.on_several([y, x])
    return compared_until_it_raises(bench, [x], "grad")


@part
def backward_to_some_inputs() -> Comparison:
    x, y = leaf(), leaf()
    return compared(Bench((x.exp() * y).sum()).on_every_node(), [x])


@part
def gradients_of_some_inputs() -> Comparison:
    x, y = leaf(), leaf()
    z = x.exp()
    bench = Bench((z * y).sum()).on_every_node()
    bench.on_tensor(z)
    return compared(bench, [z], "grad")


@part
def several_roots() -> Comparison:
    x = leaf()
    y, z = x.exp(), x.sin()
    bench = Bench([y, z]).on_every_node()
    bench.on_several([y, z])
    return compared(bench)


@part
def a_node_that_raises() -> Comparison:
    y = torch._C._functions.DelayedError("stop", 1)(leaf().exp())
    return compared_until_it_raises(Bench((y + leaf()).sum()).on_every_node())


# Modules


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

"""Programs of functions, with hooks on nodes and tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparison import Comparison, End
from real_backward import Bench
from torch import nn

from small_slice.parts import leaf, part


def compared(bench: Bench, inputs: Any = None, api: str = "backward") -> Comparison:
    predicted = bench.predicted(inputs, api)
    bench.run(inputs, api)
    return bench.compared(predicted)


def compared_until_it_raises(bench: Bench, inputs: Any = None, api: str = "backward") -> Comparison:
    predicted = bench.predicted(inputs, api)
    with pytest.raises(RuntimeError) as raised:
        bench.run(inputs, api)
    refused_by_hook = "A leaf node was passed" in str(raised.value)  # no node raises, and the sites say so
    return bench.compared(predicted, end=None if refused_by_hook else End(raised=str(raised.value)))


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

"""Leaves that got another AccumulateGrad between two uses: both add into them, and both call the hooks of the tensor.

What forward replaces inside of one run is predicted as it is, and held against real backward, also with ``inputs=``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge, register_multi_grad_hook

import fxgrad
from fxgrad.rules import explain

X = torch.linspace(-1, 1, 9).reshape(3, 3)
KEPT = []


def set_it(model: nn.Module) -> None:
    with torch.no_grad():
        model.weight.set_(torch.full((3, 3), 0.5))


def convert_it(model: nn.Module) -> None:
    model.weight.data = model.weight.data.double()


def change_its_data(model: nn.Module) -> None:
    model.weight.data = torch.full((3, 3), 0.5)


def assign_another(model: nn.Module) -> None:
    model.weight = nn.Parameter(torch.full((3, 3), 0.5))


def load_another(model: nn.Module) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def keep_the_old_one(model: nn.Module) -> None:
    model.old = [model.weight]
    assign_another(model)


def do_nothing(model: nn.Module) -> None:
    pass


REPLACE = [set_it, convert_it, change_its_data, assign_another, load_another, keep_the_old_one, do_nothing]


class Twice(nn.Module):
    """Uses its weight, replaces it, and uses it again, in a row or side by side; and replaces it afterwards once more."""

    def __init__(self, replace: Callable[[nn.Module], None], order: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.replace, self.order = replace, order

    def use(self, x: Tensor) -> Tensor:
        return x.to(self.weight.dtype) @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        first = self.use(x)
        self.replace(self)
        if self.order == "in a row":
            return self.use(first).tanh()
        second = self.use(x).tanh()
        if self.order == "and once more":
            self.replace(self)
        return second.tanh() * 2 + first.to(second.dtype)


ORDERS = ["in a row", "side by side", "and once more"]


def nothing(*_: object) -> None:
    pass


def on_tensor(weight: Tensor) -> None:
    weight.register_hook(nothing)


def after_accumulate(weight: Tensor) -> None:
    weight.register_post_accumulate_grad_hook(nothing)


def on_node(weight: Tensor) -> None:
    node = get_gradient_edge(weight).node
    node.register_hook(nothing)
    node.register_prehook(nothing)
    KEPT.append(node)


def on_several(weight: Tensor) -> None:
    register_multi_grad_hook([weight], nothing)


REGISTER = [on_tensor, after_accumulate, on_node, on_several]


@pytest.mark.parametrize("inputs", [None, "weight"])
@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("replace", REPLACE)
def test_what_is_said_of_hooks_on_a_weight_that_forward_replaces_is_right(
    replace: Callable[[nn.Module], None], order: str, register: Callable[[Tensor], None], inputs: str | None
) -> None:
    model = Twice(replace, order)
    register(model.weight)
    is_refused = register is on_several  # autograd.grad raises where a leaf in inputs= has such a hook
    for api in ("backward", "grad") if inputs and not is_refused else ("backward",):
        verification = fxgrad.verify(model, X, inputs=inputs and [inputs], api=api)
        assert verification.ok, verification


def test_the_hook_of_a_leaf_with_two_nodes_is_called_at_both() -> None:
    model, called = Twice(set_it, "in a row"), []
    model.weight.register_hook(lambda _: called.append("tensor"))
    with fxgrad.record(model) as recording:
        loss = model(X).sum()
    trace = recording.trace(loss)
    loss.backward()
    assert [site.times for site in trace.sites] == [1, 1]
    assert called == ["tensor", "tensor"]


def test_inputs_find_only_the_node_that_the_leaf_has_now() -> None:
    model = Twice(set_it, "in a row")
    model.weight.register_hook(nothing)
    with fxgrad.record(model) as recording:
        result = model(X)
    predicted = recording.trace(result.sum()).predict(inputs=["weight"])
    own = get_gradient_edge(model.weight).node
    assert result.grad_fn.next_functions[0][0].next_functions[1][0] is own
    (fired,) = [site for site in predicted.sites if site.fires]
    weight = predicted.graph.variables_by_name["weight"]
    assert fired.node == weight.node
    assert fired.node not in weight.earlier


def test_a_leaf_that_got_another_node_after_its_last_use_gets_a_gradient_but_inputs_do_not_find_it() -> None:
    model, called = Twice(do_nothing, "in a row"), []
    model.weight.register_post_accumulate_grad_hook(lambda _: called.append("hook"))
    with fxgrad.record(model) as recording:
        loss = model(X).double().sum()
        model.weight.data = model.weight.data.clone().double()
        model.weight.data = model.weight.data.float()
    trace = recording.trace(loss)
    assert explain(trace.graph, unasked=True) == ()
    assert [site.fires for site in trace.sites] == [True]
    assert [site.fires for site in trace.predict(inputs=["weight"]).sites] == [False]
    loss.backward(inputs=[model.weight], retain_graph=True)
    assert (called, model.weight.grad) == ([], None)
    loss.backward()
    assert (called, model.weight.grad is None) == (["hook"], False)


def test_verify_takes_the_node_that_inputs_name_though_the_leaf_has_another_by_now() -> None:
    model = Twice(set_it, "in a row")
    earlier = fxgrad.trace(model, X).graph.variables_by_name["weight"].earlier
    label = fxgrad.trace(model, X).graph.nodes[earlier[0]].label
    model.weight.register_hook(nothing)
    verification = fxgrad.verify(model, X, inputs=[f"{label}[0]"], api="grad")
    assert verification.ok, verification
    assert [site.node for site in verification.graph.sites if site.fires] == [earlier[0]]

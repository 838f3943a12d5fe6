"""What the note says: whether a hook fires, in which order, and what a change in place does."""

import pytest
import torch
from module_hooks import site_of
from recorded_program import held
from registering import after_accumulation, before_node, leaf, on_node, on_tensor
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

from fxgrad.graph import HookKind

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using")


# The note: whether a hook fires


# A tensor's hook runs whenever that tensor's gradient is computed, even where its grad_fn is not executed: for example
# where the tensor is an input of autograd.grad.
def test_a_tensor_hook_runs_although_its_grad_fn_is_not_executed(notebook):
    y = leaf() * 2

    def program():
        on_tensor(notebook, y, "tensor")
        on_node(notebook, y, "node")
        return y.exp()

    _, called = held(notebook, program, inputs=[y], api="grad")
    assert called == ["tensor"]


# Hooks on a node run only if that node is executed.
def test_node_hooks_run_only_if_the_node_is_executed(notebook):
    x, other = leaf(), leaf()

    def program():
        used, unneeded = x * 2, other * 3
        on_node(notebook, used, "needed")
        on_node(notebook, unneeded, "not needed")
        before_node(notebook, unneeded, "not needed before")
        return used * unneeded

    graph, called = held(notebook, program, inputs=[x])
    assert called == ["needed"]
    assert site_of(graph, "not needed").fires is False


# backward() executes every node, that of a tensor in inputs= too, so all of the hooks run.
def test_backward_executes_the_node_of_an_input(notebook):
    y = leaf() * 2

    def program():
        on_tensor(notebook, y, "tensor")
        before_node(notebook, y, "prehook")
        on_node(notebook, y, "post-hook")
        return y.exp()

    _, called = held(notebook, program, inputs=[y])
    assert called == ["tensor", "prehook", "post-hook"]


# grad() may leave out the hooks on the node of an input, unless another input depends on what that node returns.
def test_grad_executes_the_node_of_an_input_where_another_input_is_behind_it(notebook):
    x = leaf()
    y = x * 2

    def program():
        on_node(notebook, y, "node")
        return y.exp()

    _, called = held(notebook, program, inputs=[y, x], api="grad")
    assert called == ["node"]


# Post-accumulate hooks run once .grad of the leaf was updated: backward does that, grad does not.
@pytest.mark.parametrize(("api", "expected"), [("backward", ["leaf"]), ("grad", [])])
def test_post_accumulate_hooks_run_only_where_the_gradient_is_accumulated(notebook, api, expected):
    x = leaf()

    def program():
        after_accumulation(notebook, x, "leaf")
        return x.exp()

    _, called = held(notebook, program, inputs=[x], api=api)
    assert called == expected


# The note: in which order


# Hooks on the tensor, the node's prehooks, the node itself, post-hooks of the node.
def test_tensor_hooks_run_before_prehooks_and_those_before_post_hooks(notebook):
    y = leaf() * 2

    def program():
        on_node(notebook, y, "post-hook")
        before_node(notebook, y, "prehook")
        on_tensor(notebook, y, "tensor")
        return y.exp()

    _, called = held(notebook, program)
    assert called == ["tensor", "prehook", "post-hook"]


# .grad of a tensor that retains it is updated before its node is executed. (It is there already when prehooks run.)
def test_retain_grad_comes_after_tensor_hooks_and_before_prehooks(notebook):
    y = leaf() * 2
    seen = {}
    for name in ("tensor", "prehook"):
        notebook.answers[name] = lambda grad_input, grad_output, name=name: seen.update({name: y.grad is not None})

    def program():
        notebook.retain(y)
        before_node(notebook, y, "prehook")
        on_tensor(notebook, y, "tensor")
        return y.exp()

    graph, _ = held(notebook, program)
    assert seen == {"tensor": False, "prehook": True}
    assert [site.hook.kind for site in graph.sites] == [HookKind.TENSOR, HookKind.RETAIN_GRAD, HookKind.NODE_PRE]


# For a leaf: its tensor hooks, its AccumulateGrad, post-accumulate hooks, post-hooks of AccumulateGrad.
def test_post_accumulate_hooks_run_before_the_post_hooks_of_accumulate_grad(notebook):
    x = leaf()
    accumulate = torch.autograd.graph.get_gradient_edge(x).node

    def program():
        accumulate.register_hook(notebook.on_node(notebook.name("post-hook")))
        after_accumulation(notebook, x, "accumulated")
        on_tensor(notebook, x, "tensor")
        return x.exp()

    _, called = held(notebook, program)
    assert called == ["tensor", "accumulated", "post-hook"]


# Several hooks of one kind run in the order in which they were registered.
@pytest.mark.parametrize("register", [on_tensor, before_node, on_node])
def test_hooks_of_one_kind_run_in_the_order_of_registration(notebook, register):
    y = leaf() * 2

    def program():
        for name in "cab":
            register(notebook, y, name)
        return y.exp()

    _, called = held(notebook, program)
    assert called == ["c", "a", "b"]


def test_post_accumulate_hooks_run_in_the_order_of_registration(notebook):
    x = leaf()

    def program():
        for name in "cab":
            after_accumulation(notebook, x, name)
        return x.exp()

    _, called = held(notebook, program)
    assert called == ["c", "a", "b"]


# A multi-grad hook is made of hooks on tensors, and is called when the gradient of the last one is computed.
def test_a_multi_grad_hook_is_called_at_its_last_tensor_at_its_place_among_the_hooks_there(notebook):
    x = leaf()

    def program():
        y = x * 2
        on_tensor(notebook, x, "before")
        register_multi_grad_hook([x, y], notebook.several(notebook.name("both"), "all"))
        on_tensor(notebook, x, "after")
        on_tensor(notebook, y, "first")
        return y.exp()

    graph, called = held(notebook, program)
    assert called == ["first", "before", "both", "after"]
    assert graph.nodes[site_of(graph, "both").node].short_name == "AccumulateGrad"


# Full module hooks are hooks on nodes: a dummy Function is put on the inputs and on the outputs of the module.
def test_full_module_hooks_sit_on_dummy_nodes_around_the_module(notebook):
    model = nn.Linear(3, 2)
    notebook.full(model, notebook.name("full"))
    notebook.full_pre(model, notebook.name("pre"))
    graph, called = held(notebook, lambda: model(leaf(4, 3)), model=model)
    assert called == ["pre", "full"]
    names = [graph.nodes[site_of(graph, name).node].name for name in called]
    assert names == ["BackwardHookFunctionBackward"] * 2
    assert site_of(graph, "pre").node < site_of(graph, "full").node


# The note: a tensor that is modified in place


# A hook registered before the modification gets the gradient of the value before it; after it, of the new value.
def test_a_hook_stays_with_the_value_that_the_tensor_had(notebook):
    def program():
        t = leaf().sin()
        on_tensor(notebook, t, "of the sine")
        t.cos_()
        on_tensor(notebook, t, "of the cosine")
        return t

    graph, called = held(notebook, program)
    assert called == ["of the cosine", "of the sine"]
    nodes = [graph.nodes[site_of(graph, name).node].name for name in called]
    assert nodes == ["CosBackward0", "SinBackward0"]

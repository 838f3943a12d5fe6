"""The text that says in which order hooks are called."""

import json

import torch
from msgspec.structs import replace
from torch import nn

import fxgrad
from fxgrad.cli import main
from fxgrad.graph import HookKind
from fxgrad.predict import predict


def lines_of(order):
    return [" ".join(line.split()) for line in str(order).splitlines()]


def test_every_kind_at_one_leaf_comes_in_the_order_of_the_engine():
    weight = torch.ones(3, requires_grad=True)
    weight.register_post_accumulate_grad_hook(lambda leaf: None)
    node = torch.autograd.graph.get_gradient_edge(weight).node
    node.register_hook(lambda grad_input, grad_output: None)
    node.register_prehook(lambda grad_output: None)
    weight.register_hook(lambda grad: None)
    kinds = [site.hook.kind for site in fxgrad.capture(weight * 2).order().calls]
    assert kinds == [HookKind.TENSOR, HookKind.NODE_PRE, HookKind.POST_ACCUMULATE_GRAD, HookKind.NODE]


def test_hooks_are_numbered_across_nodes():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].register_full_backward_hook(first)
    model[1].register_full_backward_hook(second)
    model[1].bias.register_hook(third)
    trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True))
    assert lines_of(trace.order())[2:] == [
        "the calls of hooks, in their order",
        "no. node gradient kind on function",
        "1 AccumulateGrad_0 [0] result tensor 1.bias third",
        "2 BackwardHookFunctionBackward_1 full 1 second",
        "3 BackwardHookFunctionBackward_3 full 0 first",
    ]


def first(module, grad_input, grad_output):
    pass


def second(module, grad_input, grad_output):
    pass


def third(grad):
    pass


def test_the_hooks_of_one_module_keep_their_numbers():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for module in model:
        module.register_full_backward_hook(first)
    trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True))
    assert lines_of(trace.order("0"))[4:] == ["2 BackwardHookFunctionBackward_3 full 0 first"]


def test_hooks_that_are_not_called_come_last_with_why():
    model = nn.Linear(3, 4)
    model.register_full_backward_hook(first)
    trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True)).predict(inputs="weight")
    assert trace.order().calls == ()
    assert lines_of(trace.order())[3] == "hooks that are not called"


def test_an_all_hook_that_is_called_twice_comes_twice():
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    tensors = [x, x, (x * y)]
    loss = tensors[2].sum() + x.sum()
    torch.autograd.graph.register_multi_grad_hook(tensors[:1] * 2, lambda grads: None)
    trace = fxgrad.capture(loss)
    assert [site.times for site in trace.sites] == [trace.order().calls.count(trace.sites[0])]


def test_global_hooks_come_before_a_module_s_own_and_prepended_ones_first():
    model = nn.Linear(3, 4)
    model.register_full_backward_hook(first)
    model.register_full_backward_hook(second, prepend=True)
    handle = nn.modules.module.register_module_full_backward_hook(everywhere)
    try:
        trace = fxgrad.trace(model, torch.ones(5, 3, requires_grad=True))
    finally:
        handle.remove()
        nn.modules.module._global_is_full_backward_hook = None
    assert [site.hook.function for site in trace.order().calls] == ["everywhere", "second", "first"]


def everywhere(module, grad_input, grad_output):
    pass


def test_on_several_devices_there_is_no_order_between_them(linear):
    graph = linear.graph()
    node, *nodes = graph.nodes
    metas = tuple([meta.__class__(meta.shape, meta.dtype, "cuda:0") for meta in node.grad_outputs])
    there = predict(replace(graph, nodes=(replace(node, grad_outputs=metas), *nodes)))
    assert (
        "this order holds on each device's thread alone: each device (cuda:0, cpu) has a thread of its own, so "
        "between them there is no order" in " ".join(str(fxgrad.result.Trace(there).order()).split())
    )


def test_json_holds_the_calls():
    weight = torch.ones(3, requires_grad=True)
    weight.register_hook(third)
    (call,) = json.loads(fxgrad.capture(weight * 2).order().to_json())
    assert call["hook"]["function"] == "third"


def test_the_command_line_shows_the_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weight = torch.ones(3, requires_grad=True)
    weight.register_hook(third)
    fxgrad.capture(weight * 2).to_json("trace.json")
    assert main(["explain", "trace.json", "--order"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "the calls of hooks, in their order"


def test_the_command_line_shows_what_grad_calls(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fxgrad.trace(nn.Linear(3, 4), torch.ones(5, 3)).to_json("trace.json")
    assert main(["explain", "trace.json", "--inputs", "weight", "--inputs", "bias", "--api", "grad"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "predicted for autograd.grad(inputs=[weight, bias])"


def test_the_command_line_refuses_an_order_of_supposed_hooks(tmp_path, monkeypatch, capsys):
    assert main(["explain", "trace.json", "--order", "--hook", "register_full_backward_hook"]) == 2
    assert "--order with --hook" in capsys.readouterr().err

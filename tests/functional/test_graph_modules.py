"""Models that torch.fx has traced: calls are named as the nodes of the GraphModule's own graph."""

from __future__ import annotations

import inspect

import pytest
import torch
from interpreted import interpret
from torch import fx, nn

import fxgrad


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        y = self.linear(x)
        return torch.relu(y) + 1


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        x *= 2
        return (1 - x * self.scale).sum(-1)


def forward_of(model, *args):
    return fxgrad.trace(model, args).graph.forward


def calls_of(model, *args):
    return [node for node in forward_of(model, *args) if node.op.startswith("call_")]


def list_calls(graph):
    return [node.name for node in graph.nodes if node.op.startswith("call_")]


def line_of(text):
    lines, start = inspect.getsourcelines(Block.forward)
    return next(start + number for number, line in enumerate(lines) if text in line)


@pytest.fixture
def x():
    return torch.randn(2, 3)


def test_recorded_calls_have_the_names_of_the_graphs_nodes(x):
    traced = fx.symbolic_trace(Model())
    assert [node.name for node in calls_of(traced, x)] == list_calls(traced.graph)


def test_each_named_node_has_the_grad_fn_that_torch_fx_gets_for_it(x):
    traced = fx.symbolic_trace(Model())
    graph = fxgrad.trace(traced, x).graph
    made = {name: {node.name for node in graph.nodes if node.fx_node == name} for name in list_calls(traced.graph)}
    for name, grad_fns in interpret(traced, x).made.items():
        assert {grad_fn.name() for grad_fn in grad_fns} <= made[name], name


def test_an_operation_knows_the_module_that_it_was_in_before(x):
    traced = fx.symbolic_trace(Model())
    assert {node.name: node.traced_in for node in calls_of(traced, x)} == {
        "layers_0_linear": None,  # the GraphModule calls the module itself
        "relu": "layers.0",
        "add": "layers.0",
        "layers_1_linear": None,
        "relu_1": "layers.1",
        "add_1": "layers.1",
        "mul": None,
        "mul_1": None,
        "sub": None,
        "sum_1": None,
    }


def test_a_module_that_was_inlined_is_explained_by_the_nodes_that_come_from_it(x):
    trace = fxgrad.trace(fx.symbolic_trace(Model()), x)
    told = " ".join(str(trace.explain("layers.0")).split())
    assert "`layers.0` is not called: its operations are in the graph that was traced before" in told
    assert "AddBackward0_1 and ReluBackward0_1 are made in it" in told
    assert "no hook is registered on `layers.0.linear` or its parameters (1 call)" in " ".join(
        str(trace.explain("layers.0.linear")).split()
    )


def test_the_records_as_text_say_the_module_that_an_operation_was_in_before(x):
    assert "# #1  in layers.0  relu  " in str(fxgrad.trace(fx.symbolic_trace(Model()), x))


def test_a_stack_trace_of_the_graph_gives_the_users_line(x):
    tracer = fx.Tracer()
    tracer.record_stack_traces = True
    model = Model()
    traced = fx.GraphModule(model, tracer.trace(model))
    sources = {node.name: node.source for node in calls_of(traced, x)}
    assert sources["relu_1"].file.endswith("test_graph_modules.py")
    assert sources["relu_1"].line == line_of("torch.relu")
    assert sources["relu_1"].code == "return torch.relu(y) + 1"
    assert sources["layers_0_linear"].line == line_of("self.linear(x)")


def test_without_a_stack_trace_the_line_is_that_of_the_graph_modules_code(x):
    traced = fx.symbolic_trace(Model())
    source = next(node.source for node in calls_of(traced, x) if node.name == "relu_1")
    assert source.file == "<GraphModule.code>"
    assert traced.code.splitlines()[source.line - 1].strip() == source.code
    assert source.code.startswith("relu_1 = torch.relu(")


def test_of_a_graph_that_was_edited_without_recompile_nothing_is_said(x):
    traced = fx.symbolic_trace(Model())
    next(node for node in traced.graph.nodes if node.name == "relu").target = torch.sigmoid
    assert {node.graph_node for node in calls_of(traced, x)} == {None}


def test_after_recompile_the_nodes_are_those_of_the_new_graph(x):
    traced = fx.symbolic_trace(Model())
    next(node for node in traced.graph.nodes if node.name == "relu").target = torch.sigmoid
    traced.recompile()
    found = {node.name: node.target for node in calls_of(traced, x)}
    assert found["relu"] == "torch.sigmoid"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = fx.symbolic_trace(Block())

    def forward(self, x):
        return self.encoder(torch.relu(self.encoder(x)))


def test_inside_a_larger_model_each_call_of_the_graph_module_has_its_nodes(x):
    calls = [(node.name, node.graph_node, node.modules[-1]) for node in calls_of(Twice(), x)]
    assert calls == [
        ("linear", "linear", "encoder.linear#1"),
        ("relu", "relu", "encoder#1"),
        ("add", "add", "encoder#1"),
        ("relu_1", None, "#1"),
        ("linear_1", "linear", "encoder.linear#2"),
        ("relu_2", "relu", "encoder#2"),
        ("add_1", "add", "encoder#2"),
    ]


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.wide = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    def forward(self, x):
        return self.wide(self.norm(x))


class CallsSequential(fx.Tracer):
    def is_leaf_module(self, module, path):
        return isinstance(module, nn.Sequential) or super().is_leaf_module(module, path)


def test_of_a_module_with_several_operations_the_one_that_makes_its_result_has_the_name(x):
    model = Attends()
    traced = fx.GraphModule(model, CallsSequential().trace(model))
    assert [(node.name, node.graph_node) for node in calls_of(traced, x)][-3:] == [
        ("norm", "norm"),
        ("linear", "wide"),
        ("wide", "wide"),
    ]


def test_the_records_as_text_say_which_node_of_the_graph_a_second_call_is(x):
    assert "# encoder#2  relu_2 of the graph's relu  " in str(fxgrad.trace(Twice(), x))


def test_names_of_other_operations_are_none_of_the_graphs(x):
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.ReLU(), nn.Tanh())

        def forward(self, x):
            return torch.relu(self.inner(x))

    model = Clash()
    traced = fx.GraphModule(model, CallsSequential().trace(model))
    names = {node.name: node.graph_node for node in calls_of(traced, x.requires_grad_())}
    assert names == {"relu_1": "inner", "inner": "inner", "relu": "relu"}


def test_a_graph_module_of_the_users_own_forward_is_traced_as_any_other(x):
    class Own(fx.GraphModule):
        def forward(self, x):
            return torch.tanh(x) * self.scale

    traced = Own(Model(), fx.symbolic_trace(Model()).graph)
    type(traced).forward = Own.forward
    assert [(node.name, node.graph_node) for node in calls_of(traced, x)] == [("tanh", None), ("mul", None)]


class Halves(nn.Module):
    def forward(self, x):
        first, second = torch.split(x, 1)
        return second * 2 + first


def test_the_members_of_a_result_have_the_names_of_the_nodes_that_get_them(x):
    traced = fx.symbolic_trace(Halves())
    recorded = fxgrad.trace(traced, x.requires_grad_()).forward
    assert {node.name: node.args[1] for node in recorded.nodes if node.name.startswith("getitem")} == {
        node.name: node.args[1] for node in traced.graph.nodes if node.name.startswith("getitem")
    }

"""Programs of torch.export: calls are named as the nodes of the exported graph, parameters as those of the model."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from interpreted import interpret
from torch import nn

import fxgrad
import fxgrad.cli


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
        return (1 - self.layers[0](x) * self.scale).sum(-1)


def export(model, *args, strict=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export itself
        return torch.export.export(model, args, strict=strict)


def list_calls(graph):
    return [node.name for node in graph.nodes if node.op.startswith("call_")]


@pytest.fixture
def x():
    return torch.randn(2, 3)


@pytest.fixture(params=[False, True], ids=["not strict", "strict"])
def program(request, x):
    return export(Model(), x, strict=request.param)


def test_recorded_calls_have_the_names_of_the_exported_graphs_nodes(program, x):
    calls = [node.name for node in fxgrad.trace(program, x).graph.forward if node.graph_node == node.name]
    assert calls == list_calls(program.graph)


def test_each_named_node_has_the_grad_fn_that_torch_fx_gets_for_it(program, x):
    graph = fxgrad.trace(program, x).graph
    made = {name: {node.name for node in graph.nodes if node.fx_node == name} for name in list_calls(program.graph)}
    results = interpret(program.module(), x).made
    assert results.keys() == made.keys()
    for name, grad_fns in results.items():
        assert {grad_fn.name() for grad_fn in grad_fns} <= made[name], name


def test_parameters_have_the_names_of_the_models(program, x):
    graph = fxgrad.trace(program, x).graph
    leaves = {node.variable for node in graph.nodes if node.variable is not None}
    assert leaves == {name for name, _ in Model().named_parameters()}


def test_each_operation_knows_the_module_of_the_model_that_it_was_in(program, x):
    traced_in = {
        node.name: node.traced_in for node in fxgrad.trace(program, x).graph.forward if node.graph_node == node.name
    }
    assert traced_in == {
        "linear": "layers.0.linear",
        "relu": "layers.0",
        "add": "layers.0",
        "linear_1": "layers.1.linear",
        "relu_1": "layers.1",
        "add_1": "layers.1",
        "linear_2": "layers.0.linear",
        "relu_2": "layers.0",
        "add_2": "layers.0",
        "mul": "",
        "rsub": "",
        "sum_1": "",
    }


def test_a_module_of_the_model_is_explained_by_the_nodes_that_come_from_it(program, x):
    trace = fxgrad.trace(program, x)
    told = " ".join(str(trace.explain("layers.1")).split())
    assert (
        "`layers.1` is not called: its operations are in the graph that was traced before, so that no hook on the module is "
        "called: AddBackward0_1, ReluBackward0_1, "
    ) in told
    assert "called, 5 traced before, whose operations run without them" in str(trace.report())
    called = []
    module = program.module()
    module.get_submodule("layers.1").register_full_backward_hook(lambda *_: called.append(1))
    module(x).sum().backward()
    assert called == []


def test_each_operation_has_the_line_of_the_model(program, x):
    source = next(node.source for node in fxgrad.trace(program, x).graph.forward if node.name == "relu_1")
    lines, start = inspect.getsourcelines(Block.forward)
    assert source.file.endswith("test_exported_programs.py")
    assert (source.line, source.code) == (start + len(lines) - 1, "return torch.relu(y) + 1")


def test_a_hook_on_a_parameter_of_the_program_gets_what_was_predicted(program, x):
    got = []
    program.state_dict["scale"].register_hook(lambda grad: got.append(tuple(grad.shape)))
    site = fxgrad.trace(program, x).sites[0]
    program.module()(x).sum().backward()
    assert got == [site.grad_output[0].shape]


def test_verify_compares_the_hooks_of_the_program(program, x):
    program.state_dict["scale"].register_hook(lambda grad: None)
    assert str(fxgrad.verify(program, x)) == "1 hook site, 1 entry compared: 0 wrong, 0 unknown"


def test_probe_tries_a_hook_on_the_programs_module(program, x):
    probe = fxgrad.probe(program, x.requires_grad_(), module="", kind="register_full_backward_hook")
    assert [entry.shape for entry in probe.sites[0].grad_input] == [(2, 3)]


def test_record_asks_for_the_module_that_runs(program):
    with pytest.raises(fxgrad.UsageError) as caught, fxgrad.record(program):
        pass
    assert str(caught.value).splitlines() == [
        "an ExportedProgram as the model, of which each module() is another module",
        "  allowed: the module that is run",
        "  try: module = program.module(), and pass that",
    ]


def test_a_factory_may_return_a_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(
        "import torch\n\n\ndef build():\n    x = torch.ones(2, 3)\n"
        "    return torch.export.export(torch.nn.Linear(3, 3), (x,)), (x,)\n",
        encoding="utf-8",
    )
    assert fxgrad.cli.main(["verify", "model.py"]) == 0
    assert capsys.readouterr().out == "0 hook sites, 0 entries compared: 0 wrong, 0 unknown\n"

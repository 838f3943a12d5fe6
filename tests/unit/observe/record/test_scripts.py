"""Which operator of a TorchScript program made a node, in which module and at which line of the user's file.

Where the same model is traced as Python, the graph is the same, and its module calls say what must come out.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrad
from fxgrad.graph import NodeKind
from fxgrad.observe.run import JOINED_LATER

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
X = torch.ones(2, 4)


@pytest.fixture(autouse=True)
def new_types():
    """Modules of one class share their code, and with it the graph that was optimized when it ran before."""
    torch._C._jit_clear_class_registry()
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    torch.jit._state._clear_class_state()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.linear(x)) * 2 + x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
        self.blocks = nn.ModuleList([Block(), Block()])
        self.heads = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        x = F.relu(self.front(x))
        if x.dim() > 0:
            for block in self.blocks:
                x = block(x)
        return self.heads[1](self.heads[0](x))


class CalledOtherwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(me, x):
        return me.block(x)


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(x.shape[0]):
            x = self.second(self.first(x))
        return self.last(x)


class Raising(nn.Module):
    def forward(self, x):
        if x.shape[0] > 0:
            raise ValueError("wrong")
        return x


class Forking(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        future = torch.jit.fork(self.linear, x)
        return self.linear(x) + torch.jit.wait(future)


def script(model):
    return torch.jit.script(model)


def jit_trace(model):
    return torch.jit.trace(model, (X,))


def reload(make, model, folder):
    make(model).save(folder / "model.pt")
    return torch.jit.load(folder / "model.pt")


def owners(graph):
    """Each operator's node with the module that it is in, in the order of the walk; ``* 2`` is another overload there."""
    return [(node.name.rstrip("01"), node.script.module) for node in graph.nodes if not node.kind.is_leaf]


def owners_in_python(model):
    graph = fxgrad.trace(model, X).graph
    return [(node.name.rstrip("01"), node.call.rpartition("#")[0]) for node in graph.nodes if not node.kind.is_leaf]


def lines(graph):
    return {node.source.code for node in graph.nodes if not node.kind.is_leaf}


@pytest.mark.parametrize("make", [script, jit_trace])
def test_each_node_has_the_module_that_it_has_in_python(make):
    model = Model()
    assert owners(fxgrad.trace(make(model), X).graph) == owners_in_python(model)


@pytest.mark.parametrize("make", [script, jit_trace])
def test_so_it_has_after_the_script_was_saved_and_loaded(make, tmp_path):
    model = Model()
    assert owners(fxgrad.trace(reload(make, model, tmp_path), X).graph) == owners_in_python(model)


def test_the_module_is_named_as_the_model_around_the_script_names_it():
    inner = Model()
    graph = fxgrad.trace(nn.Sequential(nn.Identity(), script(inner)), X).graph
    wanted = [(name, f"1.{path}" if path else "1") for name, path in owners_in_python(inner)]
    assert owners(graph) == wanted


def test_the_module_itself_may_have_any_name():
    model = CalledOtherwise()
    assert owners(fxgrad.trace(script(model), X).graph) == owners_in_python(model)


def test_the_source_is_the_innermost_line_of_the_users():
    graph = fxgrad.trace(script(Model()), X).graph
    assert lines(graph) == {
        "x = F.relu(self.front(x))",
        "return torch.relu(self.linear(x)) * 2 + x",
        "return self.heads[1](self.heads[0](x))",
    }


def test_a_saved_script_keeps_the_lines_of_the_file_that_it_was_made_from(tmp_path):
    graph = fxgrad.trace(reload(script, Block(), tmp_path), X).graph
    assert {(Path(node.source.file).name, node.source.line) for node in graph.nodes if not node.kind.is_leaf} == {
        (Path(__file__).name, inspect.getsourcelines(Block.forward)[1] + 1)
    }
    assert lines(graph) == {"return torch.relu(self.linear(x)) * 2 + x"}


def test_the_operator_is_that_of_the_script_and_not_what_it_calls():
    graph = fxgrad.trace(script(nn.Linear(4, 4)), X).graph
    node = graph.nodes[0]
    assert (node.name, node.script.kind, node.script.module) == ("AddmmBackward0", "aten::linear", "")
    assert node.script.source.code == "return F.linear(input, self.weight, self.bias)"
    assert node.script.source.file == "torch/nn/modules/linear.py"


def test_of_modules_that_a_loop_calls_on_one_line_none_is_named():
    graph = fxgrad.trace(script(Looped()), X).graph
    made_by = {node.script.module for node in graph.nodes if node.name == "AddmmBackward0"}
    assert made_by == {None, "last"}
    assert "x = self.second(self.first(x))" in lines(graph)


def test_nodes_that_another_thread_made_have_no_operator():
    graph = fxgrad.trace(script(Forking()), X).graph
    assert [node.script for node in graph.nodes] == [None] * len(graph.nodes)


def test_a_scripted_function_has_no_modules():
    @torch.jit.script
    def double(x):
        return x.exp() * 2

    class Caller(nn.Module):
        def forward(self, x):
            return double(x)

    graph = fxgrad.trace(Caller(), X.clone().requires_grad_()).graph
    operators = [(node.script.kind, node.script.module) for node in graph.nodes if not node.kind.is_leaf]
    assert operators == [("aten::mul", None), ("aten::exp", None)]
    assert lines(graph) == {"return x.exp() * 2"}


def test_a_profiler_of_the_programs_goes_on_undisturbed():
    with torch.autograd.profiler.profile() as profile:
        graph = fxgrad.trace(script(Block()), X).graph
        torch.ones(1).cos()
    assert [node.script for node in graph.nodes] == [None] * len(graph.nodes)
    assert "aten::cos" in {event.name for event in profile.function_events}


def test_no_profiler_runs_after_a_script_that_raises():
    with pytest.raises(fxgrad.TargetError, match="TorchScript interpreter"):
        fxgrad.trace(script(Raising()), X)
    assert not torch.autograd._profiler_enabled()


# What TorchScript has optimized


@pytest.fixture
def optimized():
    """A script that has run twice: from then on one node takes the place of several."""
    model = script(Model())
    for _ in range(2):
        model(X)
    return model


def find_joined(graph):
    return [node for node in graph.nodes if node.kind is NodeKind.SCRIPTED]


def test_a_joined_node_says_which_operators_are_inside(optimized):
    joined = find_joined(fxgrad.trace(optimized, X).graph)
    assert {node.script.kind for node in joined} == {"prim::DifferentiableGraph"}
    inside = [operator for node in joined for operator in node.script.inside]
    assert {operator.kind for operator in inside} == {"aten::linear", "aten::relu", "aten::mul", "aten::add"}
    assert [operator.kind for operator in inside].count("aten::mul") == 2
    assert "return torch.relu(self.linear(x)) * 2 + x" in {operator.source.code for operator in inside}


def test_two_joined_nodes_have_their_own_operators_each():
    model = script(nn.Sequential(Block(), Block()))
    double = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = model, double

        def forward(self, x):
            return self.second(self.first(x))

    both = Both()
    for _ in range(2):
        both(X)
    second, first = find_joined(fxgrad.trace(both, X).graph)
    assert {operator.kind for operator in second.script.inside} == {"aten::linear", "aten::tanh"}
    assert [operator.kind for operator in first.script.inside].count("aten::mul") == 2


def names(graph):
    return [node.name for node in graph.nodes]


@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_the_run_after_a_trace_has_the_nodes_of_the_trace(earlier):
    model = script(Model())
    for _ in range(earlier):
        model(X)
    graph = fxgrad.trace(model, X).graph
    assert bool(find_joined(graph)) == (earlier > 0)
    assert names(fxgrad.capture(model(X)).graph) == names(graph)


def test_the_first_run_of_a_script_stays_the_first_after_two_traces():
    model = script(Model())
    first = fxgrad.trace(model, X).graph
    assert names(fxgrad.trace(model, X).graph) == names(first)
    assert names(fxgrad.capture(model(X)).graph) == names(first)
    assert find_joined(fxgrad.capture(model(X)).graph)


def test_a_recorded_run_is_the_programs_own_first():
    model = script(Model())
    with fxgrad.record(model) as recording:
        output = model(X)
    assert find_joined(recording.trace(output).graph) == []
    assert find_joined(fxgrad.capture(model(X)).graph)


def test_that_a_later_run_may_have_other_nodes_is_said_until_it_has(optimized):
    assert JOINED_LATER in fxgrad.trace(script(Block()), X).graph.info.notes
    assert JOINED_LATER not in fxgrad.trace(optimized, X).graph.info.notes
    assert JOINED_LATER not in fxgrad.trace(Block(), X).graph.info.notes


def test_a_module_inside_a_script_is_explained_by_its_nodes():
    trace = fxgrad.trace(script(nn.Sequential(Block(), nn.Linear(4, 4), nn.Identity())), X)
    told = " ".join(str(trace.explain("0")).split())
    assert "`0` runs inside of TorchScript, where no module hook can be: AddBackward0_0, MulBackward1_0," in told
    assert "AddmmBackward0_1 and TBackward0_0 are made in it." in told
    assert "no node is known to be made in it" in " ".join(str(trace.explain("2")).split())
    with pytest.raises(RuntimeError, match="not supported on ScriptModules"):
        script(Block()).linear.register_full_backward_hook(print)

"""Tools that lose hooks, held against what they do: FXG301, FXG302 and FXG303."""

import re

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

import fxgrad
from fxgrad.rules import explain, explain_error

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch warns of much that is done here

# FXG301


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run, self.linear, self.bias = run, nn.Linear(3, 3), nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.ones(()))

    def forward(self, x, *, flag=None):
        return self.run(self, self.linear(x))


def in_a_condition(module, x):
    return x * 2 if x.sum() > 0 else x


def of_a_parameter(module, x):
    return x * 2 if module.bias.sum() > 0 else x


def as_a_float(module, x):
    return x * float(x.sum())


def as_an_index(module, x):
    return x[:, : max(1, int(x.argmax()) % 3)]


def in_a_loop(module, x):
    while x.abs().sum() > 1:
        x = x / 2
    return x


def in_an_assertion(module, x):
    assert x.isfinite().all()
    return x


def of_what_is_detached(module, x):
    return x * 2 if (x.detach() > 0).any() else x


FAILING = (in_a_condition, of_a_parameter, as_a_float, as_an_index, in_a_loop, in_an_assertion, of_what_is_detached)


def of_a_buffer(module, x):
    return x * 2 if module.count > 0 else x


def of_a_constant(module, x):
    return x * 2 if torch.ones(()) > 0 else x


def by_item_alone(module, x):
    return x * x.sum().item()


def without_a_question(module, x):
    return torch.where(x > 0, x, -x)


TRACED = (of_a_buffer, of_a_constant, by_item_alone, without_a_question)


def told(model, *args):
    trace = fxgrad.trace(model, args or (torch.ones(2, 3),))
    found = [finding for finding in explain(trace.graph) if finding.code == "FXG301"]
    return [finding for finding in found if "would raise" in finding.headline]


def fails(model):
    try:
        torch.fx.symbolic_trace(model)
    except (torch.fx.proxy.TraceError, TypeError):
        return True
    return False


@pytest.mark.parametrize("run", [*FAILING, *TRACED])
def test_what_is_said_is_what_symbolic_trace_does(run):
    model = Program(run)
    assert fails(model) == bool(told(model)) == (run in FAILING)


def test_a_question_inside_a_module_that_is_called_as_a_whole_does_not_matter():
    class Loss(nn.CrossEntropyLoss):
        __module__ = "torch.nn.modules.loss"  # what makes it a leaf for torch.fx

        def forward(self, x):
            return x.sum() if x.sum() > 0 else x.mean()

    model = nn.Sequential(nn.Linear(3, 3), Loss())
    assert (fails(model), told(model)) == (False, [])
    inside = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Program(in_a_condition)))
    assert (fails(inside), len(told(inside))) == (True, 1)


def test_a_question_of_the_loss_function_is_none_of_forward():
    trace = fxgrad.trace(nn.Linear(3, 3), torch.ones(2, 3), loss=lambda y: y.sum() if y.sum() > 0 else y.mean())
    assert [found for found in explain(trace.graph) if found.code == "FXG301"] == []


def test_the_line_is_told_and_how_many_more_there_are():
    (finding,) = told(Program(lambda module, x: in_a_condition(module, as_a_float(module, x))))
    assert (finding.severity, finding.headline) == (
        "info",
        "torch.fx.symbolic_trace would raise: forward needs the value of a tensor",
    )
    assert re.sub(r"[\w/]+/test_fxg3_tools.py:\d+", "HERE", finding.because) == (
        "At HERE, `return x * float(x.sum())`, forward calls `float` on a tensor that depends on its arguments or "
        "parameters. symbolic_trace has a Proxy there, which has no value, and raises. Forward does the same at 1 "
        "more place. (torch/fx/proxy.py, Proxy.__bool__ and TracerBase.to_bool)"
    )
    assert finding.source is not None
    assert finding.source.code == "return x * float(x.sum())"
    assert finding.fix.startswith("compute it with torch operations (torch.where); or use fxgrad's trace.forward")


def test_the_recorded_forward_that_is_advised_is_there_for_such_a_model():
    model, x = Program(in_a_condition), torch.ones(2, 3)
    recorded = fxgrad.trace(model, x).forward_module(model)
    assert torch.equal(recorded(x), model(x))


# FXG302 and FXG303


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x)


class Outer(nn.Module):
    """One module of each sort: a user's, a Sequential, a plain leaf, and a leaf that holds modules."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.sequential = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh()))
        self.layer = nn.TransformerEncoderLayer(3, 1, 4, batch_first=True)
        self.never = Inner()

    def forward(self, x):
        return self.layer(self.sequential(self.inner(x))[:, None])


def tensor():
    return torch.ones(2, 3, requires_grad=True)


def hooked(model, paths=None):
    """Put a full hook on each module, and give the list that their paths will be written in."""
    fired = []
    for path, module in model.named_modules():
        if paths is None or path in paths:
            module.register_full_backward_hook(lambda *given, path=path: fired.append(path))
    return fired


def fired_by(run, fired):
    fired.clear()
    run(tensor()).sum().backward()
    return set(fired)


def found(model, code, x=None):
    graph = fxgrad.trace(model, tensor() if x is None else x).graph
    return [told for told in explain(graph) if told.code == code]


def paths_of(findings):
    return {told.site.hook.owner for told in findings}


# torch.fx


def test_the_hooks_named_are_exactly_those_that_symbolic_trace_loses():
    model = Outer()
    fired = hooked(model)
    whole, traced = fired_by(model, fired), fired_by(torch.fx.symbolic_trace(model), fired)
    told = paths_of(found(model, "FXG301"))
    assert told == whole - traced == {"", "inner", "sequential", "sequential.1"}


def test_a_lost_hook_of_a_module_is_told_with_the_rule_that_loses_it():
    model = Outer()
    hooked(model, ["inner"])
    (told,) = found(model, "FXG301")
    assert told.severity == "info"
    assert told.headline.startswith("torch.fx.symbolic_trace would lose the lambda at ")
    assert told.headline.endswith(" on `inner`")
    assert told.because == (
        "If it can trace the model, its graph has the operations of `inner` (Inner) but no call of that module: only "
        "modules of torch.nn, except Sequential, are called as a whole. (torch/fx/_symbolic_trace.py, "
        "Tracer.is_leaf_module)"
    )
    assert told.fix == "trace with a torch.fx.Tracer whose is_leaf_module returns True for the modules with hooks"


def test_a_lost_hook_of_the_model_itself_is_told():
    model = Outer()
    hooked(model, [""])
    (told,) = found(model, "FXG301")
    assert told.because == (
        "If it can trace the model, it returns a new GraphModule with the operations of the model's forward and "
        "none of its hooks. (torch/fx/_symbolic_trace.py, Tracer.is_leaf_module)"
    )
    assert told.fix == "register it on the GraphModule that symbolic_trace returns"


class Dropping(Inner):
    def forward(self, x):
        self.inner(x)
        return super().forward(x)

    def __init__(self):
        super().__init__()
        self.inner = Inner()


def test_a_hook_that_never_fires_cannot_be_lost():
    model = Dropping()
    fired = hooked(model, ["inner"])
    assert fired_by(model, fired) == set()
    assert found(model, "FXG301") == []


def test_the_tracer_that_is_advised_keeps_the_hook():
    class Keeping(torch.fx.Tracer):
        def is_leaf_module(self, module, path):
            return path == "inner" or super().is_leaf_module(module, path)

    model = Outer()
    fired = hooked(model, ["inner"])
    traced = torch.fx.GraphModule(model, Keeping().trace(model))
    assert fired_by(traced, fired) == {"inner"}


def test_the_model_that_symbolic_trace_returns_takes_the_hook():
    traced = torch.fx.symbolic_trace(Outer())
    assert fired_by(traced, hooked(traced, [""])) == {""}


def test_a_global_hook_is_lost_for_modules_that_are_traced_through_and_not_for_the_model():
    model, fired = Inner(), []
    outer = nn.Sequential(model)
    with module_hooks.register_module_full_backward_hook(lambda module, *given: fired.append(type(module).__name__)):
        told = [explanation.site.call for explanation in found(outer, "FXG301")]
        traced = torch.fx.symbolic_trace(outer)
        fired.clear()
        traced(tensor()).sum().backward()
    module_hooks._global_is_full_backward_hook = None
    assert told == ["0#1"]
    assert sorted(fired) == ["Linear", "Sequential"]  # the GraphModule has the name of what was traced


# TorchScript


def test_a_scripted_module_inside_a_model_is_told():
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(Inner()))
    (told,) = found(model, "FXG302")
    assert (told.severity, told.owner) == ("info", "1")
    assert told.headline == "`1` runs in TorchScript, without hooks"
    assert told.because == (
        "Backward hooks that it had when it was scripted were silently dropped. A ScriptModule accepts none, and with "
        "a global backward hook every call of one raises. (torch/jit/_script.py, torch/jit/_recursive.py)"
    )
    assert told.fix == (
        "use Tensor.register_hook on its inputs, outputs and parameters, or use the module without TorchScript"
    )


def test_the_hooks_that_scripting_left_out_are_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fired = hooked(model[0])
    scripted = torch.jit.script(model)
    (dropped,) = found(scripted, "FXG302")
    assert (dropped.severity, dropped.owner) == ("warning", "0")
    assert dropped.headline.endswith("not in the TorchScript of `0`")
    assert dropped.because == (
        "torch.jit.script leaves out the backward hooks of the modules that it compiles: only the module that was scripted "
        "has them. (torch/jit/_recursive.py, ignored_attributes)"
    )
    assert fired_by(scripted, fired) == set()
    assert fired_by(model, fired) == {""}


def test_what_an_optimized_script_has_inside_is_told():
    model = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh()))
    for _ in range(2):
        model(tensor())
    _, told = found(model, "FXG302")
    assert told.severity == "info"
    assert "DifferentiableGraphBackward_0: no node is there for each operator" in told.headline
    assert "inside are 2 aten::linear, 2 aten::tanh." in told.because


def test_the_advised_strategy_keeps_a_node_for_each_operator():
    before = torch.jit.set_fusion_strategy([])
    try:
        model = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 3), nn.Sigmoid()))
        for _ in range(3):
            model(tensor())
    finally:
        torch.jit.set_fusion_strategy(before)
    told = found(model, "FXG302")
    assert [each.headline for each in told] == ["the model runs in TorchScript, without hooks"]


def test_a_model_without_torchscript_has_no_such_finding():
    model = Outer()
    hooked(model)
    assert found(model, "FXG302") == []


def test_scripting_drops_hooks_in_silence():
    model = nn.Linear(3, 3)
    fired = hooked(model)
    assert fired_by(model, fired) == {""}
    assert fired_by(torch.jit.script(model), fired) == set()


def trace_with_a_hook():
    model = nn.Linear(3, 3)
    hooked(model)
    torch.jit.trace(model, tensor())


def register_on_a_script_module():
    torch.jit.script(nn.Linear(3, 3)).register_full_backward_hook(print)


def call_under_a_global_hook():
    scripted = torch.jit.script(nn.Linear(3, 3))
    try:
        with module_hooks.register_module_full_backward_hook(print):
            scripted(tensor())
    finally:
        module_hooks._global_is_full_backward_hook = None


@pytest.mark.parametrize("program", [trace_with_a_hook, register_on_a_script_module, call_under_a_global_hook])
def test_the_errors_of_torchscript_about_hooks_are_explained(program):
    with pytest.raises((RuntimeError, ValueError)) as raised:
        program()
    told = explain_error(str(raised.value))
    assert told is not None
    assert (told.code, told.severity, told.headline) == (
        "FXG302",
        "error",
        "TorchScript does not support backward hooks",
    )
    assert told.because == (
        "torch.jit.trace refuses modules that have backward hooks, torch.jit.script drops them, a ScriptModule "
        "accepts none, and with a global one every call of a ScriptModule raises. (torch/jit/_trace.py, "
        "torch/jit/_script.py)"
    )
    assert told.fix == "remove the hooks first, and use Tensor.register_hook on inputs and outputs"


def test_what_is_advised_for_torchscript_is_called():
    scripted, fired, x = torch.jit.script(nn.Linear(3, 3)), [], tensor()
    x.register_hook(lambda grad: fired.append("in"))
    output = scripted(x)
    output.register_hook(lambda grad: fired.append("out"))
    output.sum().backward()
    assert fired == ["out", "in"]


# torch.compile


@pytest.fixture(autouse=True)
def dynamo():
    yield
    torch._dynamo.reset()


def compiled_in_place(model):
    model.inner.compile(backend="aot_eager")
    return ["inner.linear"]


def compiled_by_a_wrapper(model):
    model.inner = torch.compile(model.inner, backend="aot_eager")
    return ["inner._orig_mod.linear"]


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x) * 2


@pytest.mark.parametrize("make", [compiled_in_place, compiled_by_a_wrapper])
def test_the_hooks_named_are_those_that_are_passed_by_when_registered_after_the_first_call(make):
    model = Around()
    (inside,) = make(model)
    model(tensor())
    fired = hooked(model, ["", inside])
    assert fired_by(model, fired) == {""}
    assert paths_of(found(model, "FXG303")) == {inside}


@pytest.mark.parametrize("mend", ["before", "reset"])
def test_a_hook_in_a_compiled_module_is_called_as_advised(mend):
    model = Around()
    (inside,) = compiled_in_place(model)
    if mend == "reset":
        model(tensor())
    fired = hooked(model, [inside])
    if mend == "reset":
        torch._dynamo.reset()
    assert fired_by(model, fired) == {inside}


def test_a_hook_in_a_compiled_module_is_told_with_the_reason():
    model = Around()
    compiled_in_place(model)
    hooked(model, ["inner.linear"])
    (told,) = found(model, "FXG303")
    assert told.severity == "info"
    assert told.headline.endswith(" only if it was registered before the first call")
    assert told.because == (
        "`inner.linear` is inside `inner`, which is compiled; for this trace it ran eagerly. If a hook exists "
        "when a region is compiled, Dynamo breaks the graph around it; it does not look for hooks that are "
        "registered after the first call. (torch/_dynamo/config.py, skip_nnmodule_hook_guards)"
    )
    assert told.fix == "register it before the first call, or call torch._dynamo.reset() after registering it"


def test_a_captured_graph_with_a_compiled_region_is_told():
    compiled = torch.compile(Inner(), backend="aot_eager")
    graph = fxgrad.capture(compiled(tensor())).graph
    (told,) = [told for told in explain(graph) if told.code == "FXG303"]
    assert (told.severity, told.headline) == ("info", "1 node of the graph is made by torch.compile")
    assert told.because == (
        "`CompiledFunctionBackward_0`: operations inside have no nodes of their own, so hooks on modules or tensors "
        "in there have none to sit on. A module hook that was registered after the first call is not called. "
        "(torch/_dynamo/config.py, skip_nnmodule_hook_guards)"
    )
    assert told.fix == (
        "trace the model itself (fxgrad.trace), which runs it eagerly; or register hooks before the first call"
    )

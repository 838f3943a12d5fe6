"""Whether and when a hook fires: FXG104, FXG105 and FXG114."""

import pytest
import torch
from msgspec.structs import replace
from torch import nn

import fxgrad
from fxgrad.graph import FullHookSetup, HookKind
from fxgrad.rules import explain

# FXG104 and FXG105


def told(graph, code):
    return [explanation for explanation in explain(graph) if explanation.code == code]


def silent(program, kind=HookKind.MODULE_BACKWARD, *, reason="it has its reasons", call=True, **about_call):
    """A module `m` whose one hook never fires."""
    program.node("ExpBackward0_0", (4, 3), arguments=[("self", "AccumulateGrad_0")], schema="exp(Tensor self)")
    program.leaf("AccumulateGrad_0", "x", 4, 3, kind="input")
    program.module("m", "M")
    if call:
        outputs = [program.ref(("result",), 4, 3)]
        program.call("m", "M", **({"outputs": outputs} | about_call))
    program.site(program.hook(kind, "m"), "m#1" if call else None, fires=False, reason=reason)
    return program


def test_a_silent_hook_is_named_with_its_reason(program):
    (found,) = told(silent(program, reason="forward returned a dict").graph(), "FXG104")
    assert (found.severity, found.headline, found.because) == (
        "warning",
        "`show` never fires: backward does not use what the module returns",
        "forward returned a dict.",
    )


def returned(program, *path):
    """A result in the graph that backward starts from."""
    return program.ref(path, 4, 3, node="ExpBackward0_0")


@pytest.mark.parametrize(
    ("about_call", "cause"),
    [
        ({"grad_enabled": False}, ": gradients are disabled where the module is called"),
        ({"outputs": []}, ": no result of the module requires grad"),
        ({"outputs": [("result", "all")], "result_type": "dict"}, ": the module returns a dict"),
        ({"outputs": [("result", 1, 0)]}, ": backward uses result[1][0], which the hook does not see"),
        ({"outputs": [("result", 0)]}, ""),
    ],
)
def test_the_headline_says_why_where_a_few_words_do(program, about_call, cause):
    outputs = (
        {"outputs": [returned(program, *path) for path in about_call["outputs"]]} if "outputs" in about_call else {}
    )
    result_type = {"result_type": "tuple"} | about_call
    graph = silent(program, HookKind.MODULE_FULL_BACKWARD, **(result_type | outputs)).graph()
    (found,) = told(graph, "FXG104")
    assert found.headline == f"`show` never fires{cause}"


def test_the_headline_gives_no_reason_where_calls_have_several(lstm_cells):
    lstm_cells.sites[:] = [replace(site, fires=False, order=None) for site in lstm_cells.sites]
    lstm_cells.calls[0] = replace(lstm_cells.calls[0], grad_enabled=False)
    (found,) = told(lstm_cells.graph(), "FXG104")
    assert found.headline == "`print_sizes` never fires"


def test_a_hook_that_fires_is_no_finding(linear):
    assert told(linear.graph(), "FXG104") == []


def test_a_hook_of_which_only_backward_decides_is_no_finding(linear):
    linear.sites[0] = replace(linear.sites[0], fires=None, times=None)
    assert told(linear.graph(), "FXG104") == []


def test_a_removed_hook_that_is_nowhere_is_silent_on_purpose(program):
    silent(program)
    program.hooks[0] = replace(program.hooks[0], active=False)
    program.sites[0] = replace(program.sites[0], hook=program.hooks[0])
    assert told(program.graph(), "FXG104") == []


def test_a_hook_that_fires_for_some_calls_is_told_for_which_it_does_not(lstm_cells):
    lstm_cells.sites[1:] = [replace(site, fires=False, order=None, reason="no use") for site in lstm_cells.sites[1:]]
    (found,) = told(lstm_cells.graph(), "FXG104")
    assert found.headline == "`print_sizes` does not fire for calls 2 and 1 of 3"


def test_different_reasons_are_told_call_by_call(lstm_cells):
    sites = lstm_cells.sites
    sites[1] = replace(sites[1], fires=False, order=None, reason="it ran under no_grad")
    sites[2] = replace(sites[2], fires=False, order=None, reason="no root depends on it")
    (found,) = told(lstm_cells.graph(), "FXG104")
    assert found.because == "Call 2: it ran under no_grad. Call 1: no root depends on it."


def fix_of(program):
    (found,) = told(program.graph(), "FXG104")
    return found.fix


def test_no_grad_is_the_first_thing_to_change(program):
    assert fix_of(silent(program, grad_enabled=False)).startswith("call `m` with gradients enabled")


def test_a_module_that_was_never_called_is_to_be_called(program):
    assert fix_of(silent(program, call=False)).startswith("call the module itself, `module(x)`")


def test_a_container_that_was_never_called_points_to_what_it_holds(program):
    silent(program, call=False).module("m.0", "Linear")
    program.modules[0] = replace(program.modules[0], has_forward=False)
    assert fix_of(program) == "it only holds other modules: hook those"


def test_a_wrapper_that_was_never_called_is_to_be_called(program):
    """Such as a DistributedDataParallel of which ``ddp.module`` is called."""
    silent(program, call=False).module("m.0", "Linear")
    assert fix_of(program) == "call `m` itself, or hook the modules inside that are called"


class Wrapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3))
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        for holder in (self.inner, self.layers):
            holder.register_full_backward_hook(lambda *given: None)

    def forward(self, x):
        return self.layers[0](self.inner[0](x))


def test_whether_a_module_can_be_called_is_read_from_it():
    trace = fxgrad.trace(Wrapping(), (torch.ones(2, 3, requires_grad=True),))
    assert {module.path for module in trace.graph.modules if not module.has_forward} == {"layers"}
    assert [found.fix for found in trace.explain().findings if found.code == "FXG104"] == [
        "call `inner` itself, or hook the modules inside that are called",
        "it only holds other modules: hook those",
    ]
    model = Wrapping()
    with pytest.raises(NotImplementedError):
        model.layers(torch.ones(2, 3))
    assert model.inner(torch.ones(2, 3)).shape == (2, 3)


def test_parameters_that_are_used_without_a_call_are_noticed(program):
    silent(program, call=False)
    program.modules[0] = replace(program.modules[0], parameters=("x",))
    assert fix_of(program).startswith("its parameters are used without calling it")


def test_a_hook_that_came_after_the_calls_is_to_be_registered_before(program):
    silent(program)
    program.sites[0] = replace(program.sites[0], call=None)
    assert fix_of(program).startswith("register the hook before forward runs")


def test_a_capture_cannot_see_calls_and_says_what_can(program):
    silent(program, call=False)
    program.info = replace(program.info, calls_reason="the forward is over")
    assert fix_of(program).startswith("trace the run itself")


def test_a_result_without_grad_needs_something_that_requires_it(program):
    frozen = [program.ref(("result",), 4, 3, requires_grad=False)]
    assert fix_of(silent(program, outputs=frozen)).startswith("make one of its parameters or inputs require grad")


def test_a_dict_is_to_become_a_tuple(program):
    silent(program, HookKind.MODULE_FULL_BACKWARD, outputs=[program.ref(("result", "y"), 4, 3)])
    assert fix_of(program) == (
        "return a Tensor or a tuple of Tensors from M.forward, or use Tensor.register_hook on result['y']"
    )


def test_a_first_result_without_grad_is_to_change_places(program):
    outputs = [program.ref(("result", 0), requires_grad=False), program.ref(("result", 1), 4, 3)]
    assert fix_of(silent(program, outputs=outputs)) == (
        "make the first tensor that it returns require grad, or use Tensor.register_hook on result[1]"
    )


def test_an_unused_result_is_to_be_used(program):
    assert fix_of(silent(program)) == (
        "use this call's result in what you call backward on, or use register_full_backward_hook"
    )


@pytest.mark.parametrize(
    ("kind", "owner", "fix"),
    [
        (HookKind.TENSOR, "x", "use `x` in what you call backward on"),
        (
            HookKind.TENSOR,
            "y",
            "register it on the tensor that the rest of forward uses, after any in-place operation on it",
        ),
        (HookKind.MULTI_GRAD, "", "register it on tensors that the roots of backward depend on"),
        (
            HookKind.NODE,
            "n",
            "register it on a node between the roots of backward and the leaves that require grad",
        ),
    ],
)
def test_hooks_on_tensors_and_nodes_have_a_fix_too(program, kind, owner, fix):
    silent(program, kind, call=False)
    program.hooks[0] = replace(program.hooks[0], owner=owner)
    program.sites[0] = replace(program.sites[0], hook=program.hooks[0])
    assert fix_of(program) == fix


def test_a_legacy_hook_is_told_what_of_the_module_runs_later(lstm_cells):
    (found,) = told(lstm_cells.graph(), "FXG105")
    assert "4 more nodes of the module run later (MmBackward0_0, _1, TBackward0_0 and _1)" in found.because


def test_a_legacy_hook_on_the_last_node_of_its_module_is_not_early(linear):
    assert told(linear.graph(), "FXG105") == []


def full(program, setup):
    program.node("BackwardHookFunctionBackward_0", (8, 20), call=None)
    program.module("fc", "Linear")
    program.call(
        "fc",
        "Linear",
        inputs=[program.ref(("args", 0), 8, 10, requires_grad=setup.input_positions is not None)],
        outputs=[program.ref(("result",), 8, 20, node="BackwardHookFunctionBackward_0")],
        full_hook=setup,
        argument_names=("input",),
    )
    hook = program.hook(HookKind.MODULE_FULL_BACKWARD, "fc")
    program.site(hook, "fc#1", "BackwardHookFunctionBackward_0")
    return program.graph()


def test_a_full_hook_without_an_input_node_is_told_that_it_gets_only_none(program):
    (found,) = told(full(program, FullHookSetup(1, None, 1, (0,))), "FXG105")
    assert found.severity == "warning"
    assert found.headline == "the hook fires when backward of its module begins, and its grad_input is all None"
    assert "call `input.requires_grad_()` before the module is called" in found.fix


def test_a_full_hook_with_an_input_node_is_in_order(program):
    assert told(full(program, FullHookSetup(1, (0,), 1, (0,))), "FXG105") == []


# FXG114


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def called():
    return []


@pytest.fixture
def model(called):
    made = TwoLayers()

    def on_first(module, grad_input, grad_output):
        called.append("on_first")

    def on_weight(grad):
        called.append("on_weight")

    made.first.register_full_backward_hook(on_first)
    made.second.weight.register_hook(on_weight)
    return made


@pytest.fixture
def x():
    return torch.ones(4, 3, requires_grad=True)


def left_out(trace):
    return [finding for finding in trace.explain().findings if finding.code in ("FXG104", "FXG114")]


def test_a_hook_on_the_way_to_no_input_is_told_with_all_that_is_known(model, x, called):
    (finding,) = left_out(fxgrad.trace(model, x).predict(inputs="second.weight"))
    assert (finding.code, finding.severity) == ("FXG114", "warning")
    assert finding.headline.endswith("on_first` does not fire in backward(inputs=[second.weight])")
    assert finding.because == (
        "backward does not reach BackwardHookFunctionBackward_1: none of the tensors in inputs= is there or behind "
        "it. It fires in a backward without inputs=. With inputs=, only nodes on a path to one of them are executed, "
        "and at the inputs' own nodes autograd.grad runs only the hooks on tensors. (torch/csrc/autograd/engine.cpp, "
        "GraphTask::init_to_execute)"
    )
    assert finding.fix == (
        "call backward without inputs=, or add a tensor to inputs= whose gradient passes through the hook's node"
    )
    model(x).sum().backward(inputs=[model.second.weight])
    assert called == ["on_weight"]


def test_a_hook_on_the_way_to_an_input_is_no_finding(model, x, called):
    names = [finding.headline for finding in left_out(fxgrad.trace(model, x).predict(inputs="x", api="grad"))]
    assert len(names) == 1
    assert "on_weight` does not fire in autograd.grad(inputs=[x])" in names[0]
    torch.autograd.grad(model(x).sum(), [x])
    assert called == ["on_first"]


def test_a_plain_backward_leaves_no_hook_out(model, x, called):
    assert left_out(fxgrad.trace(model, x)) == []
    model(x).sum().backward()
    assert called == ["on_weight", "on_first"]


def test_a_hook_that_never_fires_is_not_left_out_by_inputs(model, x):
    model.unused = nn.Linear(3, 3)
    model.unused.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    codes = [finding.code for finding in left_out(fxgrad.trace(model, x).predict(inputs="second.weight"))]
    assert codes == ["FXG114", "FXG104"]


def test_what_the_fix_names_makes_the_hook_fire(model, x):
    trace = fxgrad.trace(model, x)
    assert [finding.code for finding in left_out(trace.predict(inputs=["second.weight", "x"]))] == []

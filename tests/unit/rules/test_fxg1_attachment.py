"""Which node a hook sits on: FXG101, FXG102 and FXG103."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import HookKind, Landing, NodeKind, OtherDevice
from fxgrad.rules import explain

# FXG101 and FXG103


def told(graph, code):
    return [explanation for explanation in explain(graph) if explanation.code == code]


def test_legacy_hook_is_told_that_it_sits_on_one_node(linear):
    (found,) = told(linear.graph(), "FXG101")
    assert (found.severity, found.headline) == (
        "warning",
        "a non-full hook sits on one autograd node, not on the module: its grad_input is self, mat1 and mat2 of aten::addmm",
    )


def test_the_headline_names_no_entries_where_one_has_no_name(linear):
    graph = linear.graph()
    (site,) = [each for each in graph.sites if each.hook.kind.is_legacy]
    unnamed = replace(site, grad_input=(replace(site.grad_input[0], argument=None), *site.grad_input[1:]))
    (found,) = told(replace(graph, sites=(unnamed,)), "FXG101")
    assert found.headline == "a non-full hook sits on one autograd node, not on the module"


def test_legacy_hook_is_told_the_function_whose_arguments_it_gets(linear):
    (found,) = told(linear.graph(), "FXG101")
    assert (
        "grad_input has 3 entries, one per differentiable argument of aten::addmm (self, mat1 and mat2)"
        in found.because
    )


def test_legacy_hook_is_told_which_parameter_is_an_entry(linear):
    (found,) = told(linear.graph(), "FXG101")
    assert "`bias` is entry 0." in found.because


def test_legacy_hook_is_told_where_a_transposed_weight_gets_its_gradient(linear):
    (found,) = told(linear.graph(), "FXG101")
    assert (
        "Further down is the gradient of `weight` (20, 10) at AccumulateGrad_1 through TBackward0_0." in found.because
    )


def test_the_fix_says_that_a_full_hook_gets_none_without_an_input_that_requires_grad(linear):
    (found,) = told(linear.graph(), "FXG101")
    assert "grad_input would be (None,)" in found.fix
    assert "all None because none of them requires grad" in found.fix


def test_the_fix_names_tensors_that_a_full_hook_does_not_see(lstm_cells):
    (found,) = told(lstm_cells.graph(), "FXG101")
    assert "it does not see hx[0] and hx[1], passed by keyword or inside a container" in found.fix


def test_the_fix_knows_that_nothing_outside_the_module_uses_the_last_cell_state(lstm_cells):
    (found,) = told(lstm_cells.graph(), "FXG101")
    assert "grad_output (result[0], None)" in found.fix


def test_one_finding_speaks_for_all_calls_of_a_module(lstm_cells):
    assert len(told(lstm_cells.graph(), "FXG101")) == 1


def relu(program, **call):
    program.node(
        "ReluBackward0_0", (4, 3), arguments=[("self", "ExpBackward0_0")], schema="relu(Tensor self)", call="act#1"
    )
    program.node(
        "ExpBackward0_0", (4, 3), arguments=[("self", "AccumulateGrad_0")], schema="exp(Tensor self)", sequence=1
    )
    program.leaf("AccumulateGrad_0", "x", 4, 3, kind="input")
    program.module("act", "ReLU")
    program.call(
        "act",
        "ReLU",
        inputs=[program.ref(("args", 0), 4, 3, node="ExpBackward0_0")],
        outputs=[program.ref(("result",), 4, 3, node="ReluBackward0_0")],
        argument_names=("input",),
        window=(50, 101),
    )
    hook = program.hook(HookKind.MODULE_BACKWARD, "act")
    program.site(hook, "act#1", "ReluBackward0_0")
    return program


def test_a_module_that_is_one_function_of_its_arguments_is_only_an_info(program):
    (found,) = told(relu(program).graph(), "FXG101")
    assert (found.severity, found.headline) == (
        "info",
        "a non-full hook sits on one autograd node, which here is the whole module",
    )


@pytest.mark.parametrize("kind", [kind for kind in HookKind if not kind.is_legacy])
def test_no_other_kind_of_hook_is_told_about_nodes_and_modules(linear, kind):
    linear.hooks[0] = replace(linear.hooks[0], kind=kind)
    linear.sites[0] = replace(linear.sites[0], hook=linear.hooks[0])
    assert {found.code for found in explain(linear.graph())} & {"FXG101", "FXG102", "FXG103"} == set()


def test_a_hook_without_a_node_is_not_told_where_it_sits(linear):
    linear.sites[0] = replace(linear.sites[0], node=None, fires=False, order=None, reason="it was lost")
    assert told(linear.graph(), "FXG101") == []


def test_a_result_that_full_hooks_cannot_handle_is_hooked_tensor_by_tensor(linear):
    linear.calls[0] = replace(linear.calls[0], result_type="dict", outputs=(linear.ref(("result", "y"), 8, 20),))
    (found,) = told(linear.graph(), "FXG101")
    assert found.fix.startswith("use Tensor.register_hook on the tensors themselves")


def test_a_capture_without_module_calls_still_names_the_node(linear):
    linear.calls.clear()
    linear.sites[0] = replace(linear.sites[0], call=None)
    graph = linear.graph()
    graph = replace(graph, nodes=tuple(replace(node, call=None) for node in graph.nodes))
    (found,) = told(graph, "FXG101")
    assert "on the grad_fn of the first tensor of the result: AddmmBackward0_0." in found.because


def test_an_emulated_device_is_named_as_what_decided_the_node(lstm_cells):
    (found,) = told(lstm_cells.graph(), "FXG102")
    assert "On cuda (emulated), `layers.3` ran through aten::_thnn_fused_lstm_cell" in found.because


def test_a_function_of_one_backend_is_recognised_on_its_own_device(lstm_cells):
    lstm_cells.info = replace(lstm_cells.info, emulated=False)
    (found,) = told(lstm_cells.graph(), "FXG102")
    assert "belongs to the fused cells of CUDA, XPU and PrivateUse1" in found.because


def test_a_function_that_every_device_has_raises_no_doubt(linear):
    assert told(linear.graph(), "FXG102") == []


def test_any_function_of_an_emulated_device_may_have_another_node_elsewhere(linear):
    linear.info = replace(linear.info, emulated=True)
    (found,) = told(linear.graph(), "FXG102")
    assert found.headline == "on another device this hook may sit on another node"


def identity(program):
    program.node(
        "ExpBackward0_0", (4, 3), arguments=[("self", "AccumulateGrad_0")], schema="exp", call="up#1", sequence=1
    )
    program.leaf("AccumulateGrad_0", "x", 4, 3, kind="input")
    program.module("up", "Up")
    program.module("same", "Identity")
    program.call("up", "Up", outputs=[program.ref(("result",), 4, 3, node="ExpBackward0_0")], window=(0, 2))
    program.call(
        "same",
        "Identity",
        inputs=[program.ref(("args", 0), 4, 3, node="ExpBackward0_0")],
        outputs=[program.ref(("result",), 4, 3, node="ExpBackward0_0")],
        argument_names=("input",),
        window=(2, 2),
    )
    hook = program.hook(HookKind.MODULE_BACKWARD, "same")
    program.site(hook, "same#1", "ExpBackward0_0")
    return program


def test_a_module_that_returns_its_argument_hooks_the_module_before_it(program):
    (found,) = told(identity(program).graph(), "FXG103")
    assert (found.severity, found.headline) == ("warning", "the node belongs to `up` (Up), not to `same`")
    assert "Identity.forward returned its argument `input` unchanged" in found.because


def test_a_node_made_outside_of_all_modules_belongs_to_the_code_before(program):
    graph = identity(program).graph()
    graph = replace(graph, nodes=(replace(graph.nodes[0], call=None), *graph.nodes[1:]))
    (found,) = told(graph, "FXG103")
    assert found.headline == "the node belongs to code before the module, not to `same`"


def test_a_node_with_a_later_number_than_the_call_is_not_called_a_strangers(program):
    graph = identity(program).graph()
    graph = replace(graph, nodes=(replace(graph.nodes[0], sequence_nr=7), *graph.nodes[1:]))
    assert told(graph, "FXG103") == []


def test_a_container_is_told_which_module_inside_it_made_the_node(program):
    relu(program)
    program.module("", "Sequential")
    program.call("", "Sequential", outputs=[program.ref(("result",), 4, 3, node="ReluBackward0_0")], window=(0, 200))
    program.calls[0] = replace(program.calls[0], parent="#1")
    program.site(program.hook(HookKind.MODULE_BACKWARD, ""), "#1", "ReluBackward0_0")
    (found,) = told(program.graph(), "FXG103")
    assert (found.severity, found.headline) == ("info", "the node belongs to `act` (ReLU), inside the model")


def test_a_modules_own_node_is_not_called_a_strangers(linear):
    assert told(linear.graph(), "FXG103") == []


def test_the_output_node_of_a_modules_own_full_hook_is_its_own(program):
    relu(program)
    graph = program.graph()
    call = replace(graph.calls[0], output_hook_node=0)
    node = replace(graph.nodes[0], kind=NodeKind.BACKWARD_HOOK, call=None, schema=None)
    graph = replace(graph, calls=(call,), nodes=(node, *graph.nodes[1:]))
    assert told(graph, "FXG103") == []
    (found,) = told(graph, "FXG108")
    assert found.headline == "the non-full hook sits on the node of a full hook"


# FXG102


ON_THE_CPU = (
    Landing("layers.3#1", "MulBackward0", 2, 1),
    Landing("layers.3#2", "MulBackward0", 2, 1),
    Landing("layers.3#3", "MulBackward0", 2, 1),
)


def told_of_kernels(program, other):
    program.info = replace(program.info, other_device=other)
    return [explanation for explanation in explain(program.graph()) if explanation.code == "FXG102"]


def test_both_sides_are_shown_with_the_nodes_and_the_numbers_of_entries(lstm_cells):
    (found,) = told_of_kernels(lstm_cells, OtherDevice("cpu", ON_THE_CPU))
    assert found.headline == "on the CPU this hook sits on another node, MulBackward0"
    assert found.because.endswith(
        "and the hook sits on that function's node, ThnnFusedLstmCellBackward0_0. That function belongs to the fused "
        "cells of CUDA, XPU and PrivateUse1. On the CPU, where fxgrad ran the same program as well, it sits on "
        "MulBackward0 at call 3 and gets 2 grad_input and 1 grad_output, not 5 and 2."
    )


def test_the_call_that_differs_is_the_one_shown(lstm_cells):
    same = Landing("layers.3#3", "ThnnFusedLstmCellBackward0", 5, 2)
    (found,) = told_of_kernels(lstm_cells, OtherDevice("cpu", (*ON_THE_CPU[:2], same)))
    assert found.site.call == "layers.3#2"
    assert "MulBackward0 at call 2 and" in found.because


def test_nothing_is_said_where_the_sites_are_the_same(lstm_cells):
    same = tuple(
        replace(landing, node="ThnnFusedLstmCellBackward0", grad_input=5, grad_output=2) for landing in ON_THE_CPU
    )
    assert told_of_kernels(lstm_cells, OtherDevice("cpu", same)) == []


@pytest.mark.parametrize("change", [{"grad_input": 4}, {"grad_output": 1}])
def test_a_node_of_the_same_name_with_other_entries_is_another(lstm_cells, change):
    same = Landing("layers.3#3", "ThnnFusedLstmCellBackward0", 5, 2)
    assert len(told_of_kernels(lstm_cells, OtherDevice("cpu", (replace(same, **change),)))) == 1


def test_a_failure_over_there_is_told_and_nothing_claimed(lstm_cells):
    (found,) = told_of_kernels(lstm_cells, OtherDevice("cpu", failure="RuntimeError while calling model.py:build()"))
    assert found.headline == "on another device this hook may sit on another node"
    assert found.because.endswith("Its node on the CPU is unknown: RuntimeError while calling model.py:build().")


def test_a_function_of_one_backend_has_other_nodes_elsewhere_also_without_a_comparison(lstm_cells):
    (found,) = told_of_kernels(lstm_cells, None)
    assert found.headline == "on another device this hook may sit on another node"
    assert found.because.endswith("PrivateUse1. Elsewhere, other functions with other nodes do the same work.")


def test_nothing_is_claimed_of_a_call_that_the_other_device_did_not_make(lstm_cells):
    (found,) = told_of_kernels(lstm_cells, OtherDevice("cpu", (Landing("layers.9#1", "MulBackward0", 2, 1),)))
    assert "MulBackward0" not in found.because


def test_a_name_from_over_there_is_escaped(lstm_cells):
    (found,) = told_of_kernels(lstm_cells, OtherDevice("xpu\n", (replace(ON_THE_CPU[2], node="a\x1bBackward"),)))
    assert "On xpu\\n, where fxgrad ran the same program as well, it sits on a\\x1bBackward at call 3" in found.because

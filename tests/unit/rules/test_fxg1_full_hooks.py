"""FXG106, FXG107, FXG108: what full hooks do not see, or do not stand."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import FullHookSetup, HookKind
from fxgrad.rules import explain


def told(graph, code):
    return [explanation for explanation in explain(graph) if explanation.code == code]


ROOT = "BackwardHookFunctionBackward_0"


def call(program, kind, *, inputs, outputs, **more):
    program.node(ROOT, (4, 3))
    program.module("m", "M")
    program.call("m", "M", inputs=inputs, outputs=outputs, argument_names=("x", "state"), **more)
    program.site(program.hook(kind, "m"), "m#1", ROOT)
    return program.graph()


def test_tensors_in_a_container_and_in_a_keyword_have_no_entry(program):
    inputs = [program.ref(path, 4, 3) for path in (("args", 0), ("args", 1, 0), ("kwargs", "mask"))]
    graph = call(program, HookKind.MODULE_FULL_BACKWARD, inputs=inputs, outputs=[program.ref(("result",), 4, 3)])
    (found,) = told(graph, "FXG107")
    assert (found.severity, found.headline) == ("warning", "grad_input has no entry for state[0] and mask")
    assert "each of the 2 positional arguments of M.forward" in found.because


def test_a_hidden_tensor_that_requires_no_grad_is_not_missed(program):
    inputs = [program.ref(("args", 0), 4, 3), program.ref(("kwargs", "mask"), 4, 3, requires_grad=False)]
    graph = call(program, HookKind.MODULE_FULL_BACKWARD, inputs=inputs, outputs=[program.ref(("result",), 4, 3)])
    assert told(graph, "FXG107") == []


def test_a_pre_hook_is_told_about_hidden_results_only(program):
    inputs = [program.ref(("args", 1, 0), 4, 3)]
    outputs = [program.ref(("result", 0), 4, 3), program.ref(("result", 1, 0), 4, 3, node=ROOT)]
    graph = call(program, HookKind.MODULE_FULL_BACKWARD_PRE, inputs=inputs, outputs=outputs)
    (found,) = told(graph, "FXG107")
    assert found.headline == "grad_output has no entry for result[1][0]"


def test_a_hidden_result_to_which_no_gradient_comes_back_is_not_missed(program):
    outputs = [program.ref(("result", 0), 4, 3, node=ROOT), program.ref(("result", 1, 0), 4, 3)]
    graph = call(program, HookKind.MODULE_FULL_BACKWARD, inputs=[program.ref(("args", 0), 4, 3)], outputs=outputs)
    assert told(graph, "FXG107") == []


def test_a_hidden_argument_is_named_once_where_grad_input_is_all_none(program):
    inputs = [program.ref(("args", 0), 4, 3, requires_grad=False), program.ref(("kwargs", "mask"), 4, 3)]
    setup = FullHookSetup(n_inputs=1, input_positions=None, n_outputs=1, output_positions=(0,))
    outputs = [program.ref(("result",), 4, 3, node=ROOT)]
    graph = call(program, HookKind.MODULE_FULL_BACKWARD, inputs=inputs, outputs=outputs, full_hook=setup)
    assert told(graph, "FXG107") == []
    (found,) = told(graph, "FXG105")
    assert found.headline.endswith("its grad_input is all None: mask has no entry")


def test_a_legacy_hook_is_not_asked_about_positional_arguments(lstm_cells):
    assert told(lstm_cells.graph(), "FXG107") == []


@pytest.mark.parametrize(("sticky", "refused"), [(True, "non-full"), (False, "full")])
def test_a_module_that_had_a_hook_once_refuses_the_other_kind(linear, sticky, refused):
    linear.module("old", "Linear", sticky=sticky)
    (found,) = told(linear.graph(), "FXG108")
    assert (found.severity, found.headline) == ("info", f"`old` has no backward hook but still refuses {refused} ones")
    assert found.site is None


def test_a_module_that_still_has_its_hook_is_not_blamed(linear):
    linear.modules[1] = replace(linear.modules[1], full_backward_sticky=False, hooks=(0,))
    assert told(linear.graph(), "FXG108") == []

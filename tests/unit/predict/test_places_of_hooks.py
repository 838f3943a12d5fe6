"""Every registered hook has a site, and each site says why it is there, or why it is nowhere."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import (
    BackwardGraph,
    FullHookSetup,
    GraphInfo,
    Hook,
    HookKind,
    Module,
    ModuleCall,
    Node,
    NodeKind,
    TensorMeta,
    TensorRef,
    Variable,
)
from fxgrad.predict import find_places

META = TensorMeta((3,), "float32", "cpu")
INFO = GraphInfo(2, "0", "2.13.0", "3", "cpu", False, "the output of forward")
LEGACY, FULL, PRE = HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD, HookKind.MODULE_FULL_BACKWARD_PRE


def node(number, *, name="MulBackward0", kind=NodeKind.FUNCTION, slots=1, **fields):
    outputs = tuple(f"result {slot}" for slot in range(slots))
    return Node(number, f"{name}_{number}", name, kind, None, number, (META,) * slots, outputs, (), **fields)


def ref(*path, **fields):
    fields = {"requires_grad": True, "is_leaf": False, **fields}
    return TensorRef(path or ("result",), META, **fields)


def call(index=1, **fields):
    fields = {"result_type": "Tensor", "grad_enabled": True, "completed": True, "outputs": (), **fields}
    return ModuleCall(f"m#{index}", "m", "M", index, None, (0, 1), (), n_args=1, n_results=1, training=True, **fields)


def graph(*hooks, nodes=(), calls=(), variables=(), info=INFO, **module):
    """The module's flag is as registering the hooks leaves it."""
    module = {"full_backward_sticky": any(each.kind is FULL for each in hooks), **module}
    modules = (Module("m", (), "M", True, hooks=(), parameters=(), **module),)
    return BackwardGraph((), tuple(nodes), modules, tuple(calls), tuple(variables), hooks, (), (), info)


def only(sites):
    (site,) = sites
    return site


def hook(kind=LEGACY, number=0, **fields):
    return Hook(number, kind, "" if kind.is_global else "m", "f", **fields)


def assert_nowhere(site, reason):
    assert (site.node, site.fires, site.times, site.order, site.reason) == (None, False, 0, None, reason)


def test_a_legacy_hook_is_on_the_node_of_the_first_tensor():
    calls = [call(hooks=(0,), outputs=(ref(node=0),), legacy_tensor=ref(node=0, node_name="MulBackward0"))]
    site = only(find_places(graph(hook(), nodes=[node(0)], calls=calls)))
    assert (site.call, site.node, site.slot, site.reason) == ("m#1", 0, None, "the grad_fn of what M returns")


def test_it_has_one_site_per_call_that_took_it_along():
    tensor = ref(node=0, node_name="MulBackward0")
    calls = [call(1, hooks=(0,), legacy_tensor=tensor), call(2), call(3, hooks=(0,), legacy_tensor=tensor)]
    sites = find_places(graph(hook(), nodes=[node(0)], calls=calls))
    assert [site.call for site in sites] == ["m#1", "m#3"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"legacy_reason": "the result is empty"}, "the result is empty"),
        ({"legacy_tensor": ref(requires_grad=False)}, "result requires no grad, so it has no grad_fn"),
        (
            {"legacy_tensor": ref(requires_grad=False), "grad_enabled": False},
            "result requires no grad (gradients are disabled), so it has no grad_fn",
        ),
        ({"legacy_tensor": ref("result", 0, is_leaf=True)}, "result[0] is a leaf, which has no grad_fn"),
        (
            {"legacy_tensor": ref(node_name="ExpBackward0")},
            "it is on ExpBackward0, the grad_fn of result: no root depends on it",
        ),
        ({"completed": False}, "the call raised before its hooks were attached"),
    ],
)
def test_a_legacy_hook_without_a_place_says_why(fields, reason):
    site = only(find_places(graph(hook(), calls=[call(hooks=(0,), **fields)])))
    assert_nowhere(site, reason)
    assert site.call == "m#1"


def full_call(input_positions=(0,), output_positions=(0,), **fields):
    return call(hooks=(0,), full_hook=FullHookSetup(1, input_positions, 1, output_positions), **fields)


def hook_nodes():
    return [node(number, name="BackwardHookFunctionBackward", kind=NodeKind.BACKWARD_HOOK) for number in range(2)]


def test_a_full_hook_is_on_the_node_on_the_inputs_and_a_pre_hook_on_that_on_the_outputs():
    around = full_call(input_hook_node=1, output_hook_node=0)
    assert only(find_places(graph(hook(FULL), nodes=hook_nodes(), calls=[around]))).node == 1
    assert only(find_places(graph(hook(PRE), nodes=hook_nodes(), calls=[around]))).node == 0


def test_without_an_input_that_requires_grad_a_full_hook_is_on_the_outputs():
    site = only(find_places(graph(hook(FULL), nodes=hook_nodes(), calls=[full_call(None, output_hook_node=0)])))
    assert site.node == 0
    assert site.reason == ("the node that PyTorch put on the module's outputs, as no positional input requires grad")


def test_a_full_hook_waits_in_vain_where_no_result_is_hooked():
    around = full_call((0,), None, input_hook_node=1, outputs=(ref("result", 0),), result_type="list")
    site = only(find_places(graph(hook(FULL), nodes=hook_nodes(), calls=[around])))
    assert_nowhere(
        site,
        "it waits for the gradients of the results, and the result is a list: "
        "only a tensor, or the tensors of a tuple, are hooked",
    )


def test_a_hook_whose_node_no_root_reaches_says_so():
    site = only(find_places(graph(hook(PRE), calls=[full_call()])))
    assert_nowhere(site, "it is on the node that PyTorch put on the module's outputs, and no root depends on that node")


def test_a_module_that_is_never_called_says_so():
    assert_nowhere(only(find_places(graph(hook(FULL)))), "the module was never called")


def test_a_module_that_is_never_called_but_whose_parameters_are_used_says_that():
    used = Variable("m.weight", (), "parameter", META, True, True, node=0)
    unused = graph(hook(FULL), nodes=[node(0)], variables=[used])
    site = only(find_places(replace(unused, modules=(Module("m", (), "M", True, None, (), ("m.weight",)),))))
    assert_nowhere(site, "the module was never called, though backward reaches its parameters")


def test_a_call_that_did_not_take_the_hook_along_says_so():
    site = only(find_places(graph(hook(FULL), calls=[call()])))
    assert_nowhere(site, "the module's call did not take it along: a call takes what is registered when it starts")


def test_a_module_without_a_flag_has_hooks_that_no_call_takes_along():
    site = only(find_places(graph(hook(FULL), calls=[call()], full_backward_sticky=None)))
    assert_nowhere(site, "its _is_full_backward_hook is None, and its calls take neither full nor non-full hooks along")


def test_a_wrapper_says_which_module_has_the_flag_instead():
    site = only(find_places(graph(hook(FULL), calls=[call()], full_backward_sticky=None, wraps="m._orig_mod")))
    assert site.reason.startswith("torch.compile returned this module, and registering on it sets the flag of m._orig")


def test_several_calls_that_did_not_take_a_removed_hook_along_say_so():
    site = only(find_places(graph(hook(FULL, active=False), calls=[call(1), call(2)])))
    assert_nowhere(
        site,
        "none of the 2 calls took it along: a call takes what is registered when it starts, "
        "and its handle was removed since",
    )


def test_a_global_hook_without_any_call_says_so():
    assert_nowhere(only(find_places(graph(hook(HookKind.GLOBAL_BACKWARD)))), "no module was called")


def test_in_a_capture_a_module_hook_is_where_it_was_found():
    info = GraphInfo(2, "0", "2.13.0", "3", "cpu", False, "outputs", calls_reason="nothing was run")
    found = only(find_places(graph(hook(), nodes=[node(0, hooks=(0,))], info=info)))
    assert (found.node, found.reason) == (0, "it was found on MulBackward0_0")
    assert_nowhere(only(find_places(graph(hook(), info=info))), "it was found on no node; nothing was run")


def test_a_tensor_hook_is_where_it_was_observed():
    site = only(find_places(graph(hook(HookKind.TENSOR, observed=(0, 1)), nodes=[node(0, slots=2)])))
    assert (site.node, site.slot, site.reason) == (0, 1, "the tensor's gradient goes into MulBackward0_0, slot 1")


def test_a_hook_on_a_leaf_names_the_leaf():
    accumulate = node(0, name="AccumulateGrad", kind=NodeKind.ACCUMULATE_GRAD, variable="weight")
    site = only(find_places(graph(hook(HookKind.POST_ACCUMULATE_GRAD, observed=(0, 0)), nodes=[accumulate])))
    assert (site.node, site.slot, site.reason) == (0, None, "AccumulateGrad_0 adds into the leaf weight")


def test_a_node_hook_is_on_the_whole_node():
    site = only(find_places(graph(hook(HookKind.NODE, observed=(0, None)), nodes=[node(0)])))
    assert (site.node, site.slot, site.reason) == (0, None, "it was registered on MulBackward0_0 itself")


def test_a_tensor_hook_without_a_place_gives_the_reason_that_was_observed():
    site = only(find_places(graph(hook(HookKind.TENSOR, unplaced="its tensor requires no grad"))))
    assert_nowhere(site, "its tensor requires no grad")


def test_a_removed_tensor_hook_says_so():
    assert_nowhere(only(find_places(graph(hook(HookKind.TENSOR, active=False)))), "its handle was removed")


def test_a_multi_grad_hook_is_at_its_first_tensor_in_the_graph():
    several = hook(HookKind.MULTI_GRAD, mode="all", targets=("a", "b"), target_slots=((None, 0), (0, 0)))
    site = only(find_places(graph(several, nodes=[node(0)])))
    assert (site.node, site.slot) == (0, 0)
    assert site.reason == "in the graph: 1 of its 2 tensors; it is called once the gradients of all have arrived"


def test_a_hook_on_a_leaf_may_fire_inside_a_reentrant_checkpoint():
    checkpoint = node(0, name="CheckpointFunctionBackward", kind=NodeKind.CHECKPOINT, nested_backward=())
    leaf = Variable("m", (), "parameter", META, requires_grad=True, is_leaf=True)
    site = only(find_places(graph(hook(HookKind.TENSOR), nodes=[checkpoint], variables=[leaf])))
    assert (site.node, site.fires) == (None, None)


def test_a_hook_on_a_tensor_that_is_no_leaf_does_not_fire_inside_a_reentrant_checkpoint():
    checkpoint = node(0, name="CheckpointFunctionBackward", kind=NodeKind.CHECKPOINT, nested_backward=())
    other = Variable("m", (), "input", META, requires_grad=True, is_leaf=False)
    site = only(find_places(graph(hook(HookKind.TENSOR, unplaced="cut"), nodes=[checkpoint], variables=[other])))
    assert_nowhere(site, "cut")


def test_names_from_the_program_are_escaped():
    tensor = ref(node=0, node_name="MulBackward0")
    calls = [call(hooks=(0,), outputs=(ref(),), legacy_tensor=tensor)]
    calls[0] = replace(calls[0], type_name="M\n\x1b[31m")
    site = only(find_places(graph(hook(), nodes=[node(0)], calls=calls)))
    assert site.reason == "the grad_fn of what M\\n\\x1b[31m returns"


def test_every_hook_has_a_site_in_the_order_of_registration():
    kinds = list(HookKind)
    hooks = [hook(kind, number) for number, kind in enumerate(kinds)]
    assert [site.hook.kind for site in find_places(graph(*hooks))] == kinds


def test_a_module_that_is_not_listed_has_no_flag_to_look_at():
    site = only(find_places(replace(graph(hook(FULL), calls=[call()]), modules=())))
    assert_nowhere(site, "the module's call did not take it along: a call takes what is registered when it starts")

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
    UnrecordedCall,
    Variable,
)
from fxgrad.predict import find_places

META = TensorMeta((3,), "float32", "cpu")
INFO = GraphInfo(2, "0", "2.13.0", "3", "cpu", False, "the output of forward")
CAPTURED = replace(INFO, root_rule="outputs", calls_reason="nothing was run")
FUNCTION = NodeKind.CUSTOM_FUNCTION
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


def starter(kind=NodeKind.CHECKPOINT, nested_backward=()):
    """A node that starts a backward of its own."""
    return node(0, name="N", kind=kind, nested_backward=nested_backward)


def assert_undecided(site, reason):
    assert (site.node, site.fires, site.times, site.order, site.reason) == (None, None, None, None, reason)


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
        ({}, "the result holds no tensor"),
        ({"legacy_tensor": ref(requires_grad=False)}, "result does not require grad, so it has no grad_fn"),
        (
            {"legacy_tensor": ref(requires_grad=False), "grad_enabled": False},
            "result does not require grad (gradients are disabled), so it has no grad_fn",
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
    assert site.reason == (
        "the node that PyTorch put on the module's outputs, because no positional input requires grad"
    )


def test_a_full_hook_waits_in_vain_where_no_result_is_hooked():
    around = full_call((0,), None, input_hook_node=1, outputs=(ref("result", 0),), result_type="list")
    site = only(find_places(graph(hook(FULL), nodes=hook_nodes(), calls=[around])))
    assert_nowhere(
        site,
        "it waits for the gradients of the results, and the result is a list: "
        "only a tensor, or the tensors of a tuple, are hooked",
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"grad_enabled": False}, "gradients are disabled"),
        ({"outputs": (ref("result", requires_grad=False),)}, "no tensor in the result requires grad"),
        (
            {"outputs": (ref("result", 0, "h"), ref("result", 1, requires_grad=False))},
            "the tensors in the result that require grad are nested: only those at its top level are hooked",
        ),
        (
            {"outputs": (ref("result", 0, "h"), ref("result", 1)), "result_type": "list"},
            "the result is a list: only a tensor, or the tensors of a tuple, are hooked",
        ),
    ],
)
def test_a_pre_hook_is_nowhere_where_no_result_is_hooked(fields, reason):
    assert_nowhere(only(find_places(graph(hook(PRE), calls=[full_call((0,), None, **fields)]))), reason)


def test_a_call_for_which_pytorch_set_up_no_hook_says_so():
    assert_nowhere(
        only(find_places(graph(hook(FULL), calls=[call(hooks=(0,))]))), "PyTorch set up no hook for this call"
    )


RERUN = [
    (
        "reentrant",
        {"grad_enabled": False},
        "a reentrant checkpoint runs this call again during backward, and its hooks",
    ),
    (
        "function",
        {},
        "a custom Function made this call, and the backward of that Function may run it again: its hooks",
    ),
]


@pytest.mark.parametrize(("checkpointed", "fields", "again"), RERUN)
def test_a_call_that_backward_runs_again_attaches_its_hooks_then(checkpointed, fields, again):
    around = call(hooks=(0,), checkpointed=checkpointed, **fields)
    site = only(find_places(graph(hook(), nodes=[starter()], calls=[around])))
    assert_undecided(site, f"{again} are attached and called then")
    assert site.call == "m#1"


@pytest.mark.parametrize(
    ("checkpointed", "around"), [("reentrant", "a reentrant checkpoint"), ("function", "a custom Function")]
)
def test_a_call_that_backward_could_run_again_is_not_run_where_nothing_leads_there(checkpointed, around):
    calls = [call(hooks=(0,), checkpointed=checkpointed, grad_enabled=False)]
    reason = f"it ran in {around} that no root depends on, or that got no tensor that requires grad"
    assert_nowhere(only(find_places(graph(hook(), calls=calls))), reason)


def test_a_call_in_a_checkpoint_that_hands_on_a_tensor_of_the_graph_around_has_two_sites():
    tensor = ref(node=1, node_name="MulBackward0")
    around = call(hooks=(0,), checkpointed="reentrant", grad_enabled=False, legacy_tensor=tensor, outputs=(tensor,))
    sites = find_places(graph(hook(), nodes=[starter(), node(1)], calls=[around]))
    assert [(site.node, site.fires) for site in sites] == [(1, None), (None, None)]


def test_a_call_in_a_checkpoint_that_is_not_reentrant_has_one_site():
    tensor = ref(node=1, node_name="MulBackward0")
    around = call(hooks=(0,), checkpointed="non-reentrant", legacy_tensor=tensor, outputs=(tensor,))
    assert only(find_places(graph(hook(), nodes=[starter(), node(1)], calls=[around]))).node == 1


def test_a_function_that_calls_no_module_in_forward_may_call_any_in_backward():
    knows = "only the backward of N_0 decides whether to call it"
    nodes = [starter(FUNCTION)]
    assert_undecided(only(find_places(graph(hook(FULL), nodes=nodes))), f"the module was never called, and {knows}")
    tensor = ref(node=0, node_name="N")
    placed, unseen = find_places(graph(hook(), nodes=nodes, calls=[call(hooks=(0,), legacy_tensor=tensor)]))
    assert placed.node == 0
    assert_undecided(unseen, knows)


def test_a_function_that_called_modules_in_forward_may_call_others_that_were_not_called():
    knows = "only the backward of N_0 decides whether to call it"
    other = replace(call(checkpointed="function"), id="other#1", path="other")
    nodes = [starter(FUNCTION)]
    assert_undecided(
        only(find_places(graph(hook(FULL), nodes=nodes, calls=[other]))), f"the module was never called, and {knows}"
    )
    taken = "the module's call did not capture it: a call captures the hooks that are registered when it starts"
    assert_nowhere(only(find_places(graph(hook(FULL), nodes=nodes, calls=[call(checkpointed="function")]))), taken)
    assert_nowhere(
        only(find_places(graph(hook(FULL, active=False), nodes=nodes, calls=[other]))), "the module was never called"
    )


def test_in_a_capture_modules_may_run_again_in_any_backward_inside():
    runs = "N_0 may run modules again, whose hooks are then attached and called"
    sites = find_places(graph(hook(), nodes=[starter(), node(1, hooks=(0,))], info=CAPTURED))
    assert [site.node for site in sites] == [1, None]
    assert_undecided(sites[1], runs)
    nowhere = only(find_places(graph(hook(), nodes=[starter()], info=CAPTURED)))
    assert_undecided(nowhere, f"it was found on no node; nothing was run, and {runs}")


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
    assert_nowhere(
        site, "the module's call did not capture it: a call captures the hooks that are registered when it starts"
    )


def test_a_module_without_a_flag_has_hooks_that_no_call_takes_along():
    site = only(find_places(graph(hook(FULL), calls=[call()], full_backward_sticky=None)))
    assert_nowhere(site, "its _is_full_backward_hook is None, so its calls capture neither full nor non-full hooks")


def test_a_wrapper_says_which_module_has_the_flag_instead():
    site = only(find_places(graph(hook(FULL), calls=[call()], full_backward_sticky=None, wraps="m._orig_mod")))
    assert_nowhere(
        site,
        "torch.compile returned this module, and registering on it sets _is_full_backward_hook of m._orig_mod, the "
        "module inside; no call captures the hooks of this module itself",
    )


@pytest.mark.parametrize(
    ("flag", "kind", "reason"),
    [
        (
            None,
            HookKind.GLOBAL_BACKWARD,
            "_global_is_full_backward_hook is None, so calls capture neither full nor non-full hooks",
        ),
        (
            True,
            HookKind.GLOBAL_BACKWARD,
            "the module's call did not capture it: a call captures the hooks that are registered when it starts",
        ),
        (
            None,
            HookKind.GLOBAL_FULL_BACKWARD_PRE,
            "the module's call did not capture it: a call captures the hooks that are registered when it starts",
        ),
    ],
)
def test_global_hooks_without_a_flag_are_taken_along_by_no_call(flag, kind, reason):
    info = replace(INFO, global_backward_sticky=flag)
    assert_nowhere(only(find_places(graph(hook(kind), calls=[call()], info=info))), reason)


def test_several_calls_that_did_not_take_a_removed_hook_along_say_so():
    site = only(find_places(graph(hook(FULL, active=False), calls=[call(1), call(2)])))
    assert_nowhere(
        site,
        "none of the 2 calls captured it: a call captures the hooks that are registered when it starts, "
        "and its handle was removed since",
    )


def test_a_global_hook_without_any_call_says_so():
    assert_nowhere(only(find_places(graph(hook(HookKind.GLOBAL_BACKWARD)))), "no module was called")


def test_in_a_capture_a_module_hook_is_where_it_was_found():
    found = only(find_places(graph(hook(), nodes=[node(0, hooks=(0,))], info=CAPTURED)))
    assert (found.node, found.reason) == (0, "it was found on MulBackward0_0")
    assert_nowhere(only(find_places(graph(hook(), info=CAPTURED))), "it was found on no node; nothing was run")


@pytest.mark.parametrize(
    ("path", "number", "place"),
    [("m", 0, "the outputs of m"), ("m", 1, "the inputs of m"), ("", 1, "the inputs of the model")],
)
def test_in_a_capture_a_full_hook_is_on_a_node_of_a_call_that_is_over(path, number, place):
    over = UnrecordedCall(path, FullHookSetup(1, (0,), 1, (0,)), input_hook_node=1, output_hook_node=0)
    nodes = [replace(each, hooks=(0,)) if each.id == number else each for each in hook_nodes()]
    site = only(find_places(replace(graph(hook(FULL), nodes=nodes, info=CAPTURED), unrecorded_calls=(over,))))
    assert (site.node, site.reason) == (number, f"it was found on the node that PyTorch put on {place}")


def test_a_full_hook_on_a_node_of_no_known_call_is_not_taken_for_one_that_a_call_put_there():
    site = only(find_places(graph(hook(FULL), nodes=[node(0, hooks=(0,))], info=CAPTURED)))
    assert site.node is None


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
    site = only(find_places(graph(hook(HookKind.TENSOR, unplaced="its tensor does not require grad"))))
    assert_nowhere(site, "its tensor does not require grad")


def test_a_removed_tensor_hook_says_so():
    assert_nowhere(only(find_places(graph(hook(HookKind.TENSOR, active=False)))), "its handle was removed")


def test_a_multi_grad_hook_is_at_its_first_tensor_in_the_graph():
    several = hook(HookKind.MULTI_GRAD, mode="all", targets=("a", "b"), target_slots=((None, 0), (0, 0)))
    site = only(find_places(graph(several, nodes=[node(0)])))
    assert (site.node, site.slot) == (0, 0)
    assert site.reason == "in the graph: 1 of its 2 tensors; it is called once the gradients of all have arrived"


@pytest.mark.parametrize("active", [True, False])
def test_a_multi_grad_hook_on_tensors_that_are_not_known_is_somewhere(active):
    several = hook(HookKind.MULTI_GRAD, mode="any", more_targets="it is on tensors that nobody holds", active=active)
    site = only(find_places(graph(several)))
    if active:
        assert_undecided(site, "it is on tensors that nobody holds")
    else:
        assert_nowhere(site, "its handle was removed")


def test_an_any_hook_is_called_with_the_first_gradient():
    several = hook(HookKind.MULTI_GRAD, mode="any", targets=("a", "b"), target_slots=((1, 1), (0, 0)))
    site = only(find_places(graph(several, nodes=[node(0), node(1, slots=2)])))
    assert (site.node, site.slot) == (1, 1)
    assert site.reason == "in the graph: 2 of its 2 tensors; it is called with the first gradient that arrives"


def test_a_hook_on_a_leaf_may_fire_inside_a_reentrant_checkpoint():
    leaf = Variable("m", (), "parameter", META, requires_grad=True, is_leaf=True)
    site = only(find_places(graph(hook(HookKind.TENSOR), nodes=[starter()], variables=[leaf])))
    assert_undecided(
        site, "a reentrant checkpoint recomputes during backward, and calls the hooks of every leaf that it uses"
    )


def test_a_hook_on_a_leaf_may_fire_inside_the_backward_of_a_function():
    leaf = Variable("m", (), "parameter", META, requires_grad=True, is_leaf=True)
    site = only(find_places(graph(hook(HookKind.TENSOR), nodes=[starter(FUNCTION)], variables=[leaf])))
    assert_undecided(
        site, "a custom Function may start a nested backward, which calls the hooks of every leaf that it uses"
    )


def test_retain_grad_on_a_leaf_does_not_fire_inside_a_reentrant_checkpoint():
    leaf = Variable("m", (), "parameter", META, requires_grad=True, is_leaf=True)
    site = only(find_places(graph(hook(HookKind.RETAIN_GRAD), nodes=[starter()], variables=[leaf])))
    assert_nowhere(site, "no root depends on what it is registered on")


@pytest.mark.parametrize(
    ("kind", "nested_backward", "fires"),
    [(FUNCTION, (), None), (NodeKind.CHECKPOINT, ((None, 0),), None), (NodeKind.CHECKPOINT, ((0, 0),), False)],
)
def test_a_tensor_that_no_root_depends_on_may_be_reached_by_a_backward_inside(kind, nested_backward, fires):
    other = Variable("m", (), "input", META, requires_grad=True, is_leaf=False)
    nodes = [starter(kind, nested_backward)]
    site = only(find_places(graph(hook(HookKind.TENSOR, unplaced="cut"), nodes=nodes, variables=[other])))
    there = "" if fires is False else "; N_0 may start a nested backward, which may reach it"
    assert (site.node, site.fires, site.reason) == (None, fires, f"cut{there}")


def test_a_node_that_pytorch_put_on_the_outputs_may_be_reached_by_a_backward_inside():
    site = only(find_places(graph(hook(PRE), nodes=[starter(nested_backward=((None, 0),))], calls=[full_call()])))
    assert_undecided(
        site,
        "it is on the node that PyTorch put on the module's outputs, and no root depends on that node; "
        "N_0 may start a nested backward, which may reach it",
    )


def test_a_hook_on_a_tensor_that_is_no_leaf_does_not_fire_inside_a_reentrant_checkpoint():
    other = Variable("m", (), "input", META, requires_grad=True, is_leaf=False)
    site = only(find_places(graph(hook(HookKind.TENSOR, unplaced="cut"), nodes=[starter()], variables=[other])))
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
    assert_nowhere(
        site, "the module's call did not capture it: a call captures the hooks that are registered when it starts"
    )

"""The sentences that say why an entry is None or unknown, and why a hook is not called: records alone."""

from typing import NamedTuple

import pytest

from fxgrad.graph import (
    BackwardGraph,
    Edge,
    FullHookSetup,
    FxNode,
    GraphInfo,
    Hook,
    HookKind,
    ModuleCall,
    Node,
    NodeKind,
    Returned,
    Root,
    TensorMeta,
    UnrecordedCall,
)
from fxgrad.graph.records import SCHEMA_VERSION
from fxgrad.predict import BackwardCall, find_unreached_nodes, predict

META = TensorMeta((3,), "float32", "cpu")
EMPTY = TensorMeta((0,), "float32", "cpu")
HOOK_FUNCTION = "BackwardHookFunctionBackward"


class To(NamedTuple):
    """Where an edge leads: to a node's slot, or nowhere."""

    node: int | None
    slot: int = 0
    group: str | None = None
    argument: str = "self"
    null_reason: str | None = None
    operand: TensorMeta | None = None


NOWHERE = To(None)


def node(number, *edges, name="MulBackward0", kind=NodeKind.FUNCTION, slots=1, metas=None, **fields):
    metas = metas or (META,) * slots
    names = tuple(f"result {slot}" for slot in range(len(metas)))
    ends = tuple(
        Edge(to.argument, to.group, to.node, to.slot, to.null_reason, to.operand)
        for to in (edge if isinstance(edge, To) else To(edge) for edge in edges)
    )
    return Node(number, f"{name}_{number}", name, kind, None, 100 - number, metas, names, ends, **fields)


def leaf(number, **fields):
    return node(number, name="AccumulateGrad", kind=NodeKind.ACCUMULATE_GRAD, **fields)


def hook(kind=HookKind.NODE, on=0, slot=None, number=0, **fields):
    observed = None if kind.is_module or on is None else (on, slot)
    return Hook(number, kind, "m" if kind.is_module else "t", "f", observed=observed, **fields)


def graph(*nodes, hooks=(), roots=(0,), torch="2.13.0", **records):
    starts = tuple(root if isinstance(root, Root) else Root(root, 0, ()) for root in roots)
    info = GraphInfo(SCHEMA_VERSION, "0", torch, "3", "cpu", False, "the output of forward")
    parts = {"modules": (), "calls": (), "variables": (), "sites": (), "forward": (), **records}
    return BackwardGraph(roots=starts, nodes=nodes, hooks=tuple(hooks), info=info, **parts)


def site(*nodes, hooks, backward=None, **records):
    """The last site of the hooks: with one hook its only one."""
    return predict(graph(*nodes, hooks=hooks, **records), backward).sites[-1]


def entries(*nodes, on=0, which="grad_input", **records):
    """Status and reason of each entry that a hook on a node gets."""
    found = site(*nodes, hooks=[hook(on=on)], **records)
    return [(entry.status, entry.reason) for entry in getattr(found, which)]


# grad_output


def test_a_slot_whose_only_user_lies_behind_no_root_says_so():
    received = entries(node(0, 2), node(1, To(2, 1)), node(2, slots=2), on=2, which="grad_output")
    assert received == [("tensor", None), ("none", "nothing that backward executes uses it")]


@pytest.mark.parametrize(
    ("users", "reason"),
    [
        (1, "CustomBackward_1 returns None for it"),
        (2, "CustomBackward_1 and CustomBackward_2 return None for it"),
        (3, "CustomBackward_1, CustomBackward_2 and CustomBackward_3 return None for it"),
        (5, "CustomBackward_1, CustomBackward_2, CustomBackward_3 and 2 more return None for it"),
    ],
)
def test_the_users_that_return_none_are_named_up_to_three(users, reason):
    last, nothing = users + 1, Returned(("none",), ("none",), ())
    makers = [
        node(number, last, name="CustomBackward", kind=NodeKind.CUSTOM_FUNCTION, returned=nothing)
        for number in range(1, last)
    ]
    received = entries(node(0, *range(1, last)), *makers, node(last), on=last, which="grad_output")
    assert received == [("none", reason)]


# grad_input


def test_an_edge_that_leads_nowhere_without_a_known_reason_says_that():
    assert entries(node(0, NOWHERE)) == [("none", "its gradient goes nowhere")]


def test_an_edge_that_leads_nowhere_gives_its_reason():
    assert entries(node(0, To(None, null_reason="it does not require grad"))) == [("none", "it does not require grad")]


def test_an_element_of_a_list_whose_own_result_gets_no_gradient_says_so():
    pair = [To(1, argument="self[0]", group="self"), To(2, argument="self[1]", group="self")]
    returned = entries(node(0, *pair, name="ForeachExpBackward0", slots=2), leaf(1), leaf(2))
    assert returned == [("tensor", None), ("none", "the same element of the result gets no gradient")]


def test_zeros_or_none_of_a_hook_function_whose_side_is_not_known_are_left_to_backward():
    returned = entries(node(0, 1, To(1, 1), name=HOOK_FUNCTION, kind=NodeKind.BACKWARD_HOOK, slots=2), leaf(1, slots=2))
    assert returned == [("tensor", None), ("unknown", "only backward decides whether this is zeros or None")]


@pytest.mark.parametrize(
    ("kind", "decider"),
    [
        (NodeKind.CHECKPOINT, "the recomputation of N_0 decides"),
        (NodeKind.CUSTOM_FUNCTION, "the backward of N_0, a Python function, decides"),
        (NodeKind.OPAQUE, "N_0 decides"),
    ],
)
def test_what_decides_alone_is_named(kind, decider):
    nodes = node(0, 1, name="N", kind=kind), node(1)
    assert entries(*nodes) == [("unknown", f"{decider} whether this is a Tensor or None")]
    received = entries(*nodes, on=1, which="grad_output")
    assert received == [("unknown", f"{decider} whether a gradient arrives here")]


def test_behind_a_slot_that_is_unknown_the_decider_is_named_also_past_other_nodes():
    nodes = node(0, 1, name="N", kind=NodeKind.OPAQUE), node(1, 2), leaf(2)
    assert entries(*nodes, on=1) == [("unknown", "N_0 decides whether a gradient arrives here")]


NORM_0 = {"name": "NormBackward0", "settings": (("p", "0"),)}
RESIDUALS = {"name": "LinalgLstsqBackward0", "roots": [Root(0, 1, ())]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (NORM_0, ("none", "the 0-norm has no gradient")),
        (NORM_0 | {"settings": (("p", "-0.0"),)}, ("none", "the 0-norm has no gradient")),
        (NORM_0 | {"name": "DistBackward0"}, ("unknown", "the 0-norm has no gradient")),
        (NORM_0 | {"name": "ForeachNormBackward0Scalar"}, ("none", "the 0-norm has no gradient")),
        (NORM_0 | {"settings": (("p", "2"),)}, ("tensor", None)),
        (
            {"name": "NormBackward0"},
            ("unknown", "only the 0-norm has no gradient, and the order is unknown"),
        ),
        (
            {"name": "CopySlices"},
            ("unknown", "which function changed the view in place was not recorded"),
        ),
        (
            {"name": "ConvolutionBackwardBackward0", "slots": 3},
            ("unknown", "the gradients of a second derivative depend on which of its terms are zero"),
        ),
        ({"name": "SigmoidBackwardBackward0"}, ("tensor", None)),
        (
            {"name": "LinalgSlogdetBackward0", "slots": 4},
            ("none", "the sign of a real determinant is constant"),
        ),
        (RESIDUALS | {"metas": (META, EMPTY)}, ("none", "residuals without elements pass no gradient on")),
        (
            RESIDUALS | {"metas": (META, TensorMeta(None, "float32", "cpu"))},
            ("unknown", "residuals without elements pass no gradient on"),
        ),
        (RESIDUALS | {"metas": (META, META)}, ("tensor", None)),
        (
            {"name": "NativeGroupNormBackward0", "slots": 3, "roots": [Root(0, 1, ())]},
            (
                "none",
                "without a gradient for the result, those for mean and rstd count only together, and only for the input",
            ),
        ),
        (
            {"name": "NativeGroupNormBackward0", "slots": 3, "roots": [Root(0, 1, ())], "torch": "2.14.0"},
            ("unknown", "the gradients from mean and rstd alone depend on the version of torch"),
        ),
        (
            {"name": "FusedRmsNormBackward0", "slots": 2, "roots": [Root(0, 1, ())]},
            ("unknown", "the result of a gradient for rstd alone is unknown"),
        ),
        ({"name": "FusedRmsNormBackward0", "slots": 2}, ("tensor", None)),
        (
            {"name": "LinalgDetBackward0", "torch": "2.11.0", "behind": EMPTY},
            ("none", "without elements there is no gradient (None)"),
        ),
        (
            {"name": "LinalgDetBackward0", "torch": "2.11.0", "behind": TensorMeta(("s0",), "float32", "cpu")},
            ("unknown", "without elements there is no gradient (None)"),
        ),
        ({"name": "LinalgDetBackward0", "torch": "2.12.0", "behind": EMPTY}, ("tensor", None)),
        ({"name": "LinalgDetBackward0", "torch": "2.11.0", "behind": META}, ("tensor", None)),
        ({"name": "OrmqrBackward0", "behind": EMPTY}, ("none", "without elements there is no gradient (None)")),
        ({"name": "LinalgHouseholderProductBackward0", "behind": META}, ("tensor", None)),
    ],
)
def test_a_formula_with_an_exception_gives_its_reason(fields, expected):
    known = {"roots": (0,), "torch": "2.13.0", "behind": META} | fields
    roots, torch, behind = known.pop("roots"), known.pop("torch"), known.pop("behind")
    assert entries(node(0, 1, **known), leaf(1, metas=(behind,)), roots=roots, torch=torch) == [expected]


def test_the_third_argument_of_ormqr_has_a_gradient_also_where_there_are_no_reflectors():
    returned = entries(node(0, 1, 1, 2, name="OrmqrBackward0"), leaf(1, metas=(EMPTY,)), leaf(2))
    assert [status for status, _ in returned] == ["none", "none", "tensor"]


@pytest.mark.parametrize(
    ("op", "target", "status"),
    [
        ("call_method", "mul_", "tensor"),
        ("call_function", "operator.setitem", "tensor"),
        ("call_function", "torch.ops.lib.change_", "unknown"),
    ],
)
def test_a_view_that_a_function_of_torch_changed_in_place_gets_its_gradient(op, target, status):
    changed = FxNode("change", op, target, "", (), None, (), None)
    returned = entries(node(0, 1, name="CopySlices", fx_node="change"), leaf(1), forward=(changed,))
    assert [known for known, _ in returned] == [status]


def test_an_exception_says_nothing_of_what_is_not_needed():
    nodes = node(0, 1, 2, **NORM_0), leaf(1), leaf(2)
    returned = entries(*nodes, backward=BackwardCall(((1, 0),)))
    assert returned == [
        ("none", "the 0-norm has no gradient"),
        ("none", "none of the tensors in inputs= is behind it"),
    ]


# Hooks that are not called


def silent(*nodes, hooks, backward=None, **records):
    found = site(*nodes, hooks=hooks, backward=backward, **records)
    assert (found.fires, found.times, found.order, found.grad_input, found.grad_output) == (False, 0, None, (), ())
    return found.reason


def test_retain_grad_on_a_leaf_says_that_it_does_nothing():
    assert silent(node(0, 1), leaf(1), hooks=[hook(HookKind.RETAIN_GRAD, 1, 0)]) == "retain_grad does nothing on a leaf"


def test_a_removed_hook_says_so_also_where_its_node_runs():
    assert silent(node(0), hooks=[hook(active=False)]) == "its handle was removed"


def test_a_node_that_raises_says_that_it_does():
    nodes = node(0, 1), node(1, 2, name="NotImplemented", kind=NodeKind.ERROR), leaf(2)
    assert silent(*nodes, hooks=[hook(on=1)]) == "NotImplemented_1 raises when backward executes it"
    assert silent(*nodes, hooks=[hook(on=2)]) == "backward ends before AccumulateGrad_2: NotImplemented_1 raises"


def test_a_node_that_no_root_leads_to_says_so():
    assert (
        silent(node(0), node(1), hooks=[hook(on=1)]) == "backward does not reach MulBackward0_1: no root depends on it"
    )


def test_a_node_with_no_input_behind_it_says_so():
    reason = silent(node(0, 1, 2), node(1), node(2), hooks=[hook(on=1)], backward=BackwardCall(((2, 0),)))
    assert reason == "backward does not reach MulBackward0_1: none of the tensors in inputs= is there or behind it"


def test_a_node_that_grad_captures_calls_hooks_on_tensors_only():
    reason = silent(node(0, 1), node(1), hooks=[hook(on=1)], backward=BackwardCall(((1, 0),), "grad"))
    assert reason == (
        "autograd.grad takes the gradient at MulBackward0_1 and does not execute it: only hooks on tensors are called"
    )


def test_a_lone_root_with_no_input_behind_it_calls_hooks_on_tensors_only():
    assert silent(node(0), hooks=[hook()], backward=BackwardCall(())) == (
        "MulBackward0_0 is the root, and none of the tensors in inputs= is behind it: only hooks on tensors are called"
    )


def full_call(**fields):
    setup = FullHookSetup(1, (0,), 1, (0,))
    known = {"result_type": "Tensor", "grad_enabled": True, "completed": True, "training": True}
    return ModuleCall(
        "m#1", "m", "M", 1, None, (0, 1), (), (), n_args=1, n_results=1, hooks=(0,), full_hook=setup, **known, **fields
    )


def hook_function(number, *edges):
    return node(number, *edges, name=HOOK_FUNCTION, kind=NodeKind.BACKWARD_HOOK)


def test_a_full_hook_that_the_gradient_reaches_by_a_way_around_says_so():
    around = full_call(input_hook_node=1, output_hook_node=2)
    nodes = node(0, 1), hook_function(1, 3), hook_function(2, 1), leaf(3)
    assert silent(*nodes, hooks=[hook(HookKind.MODULE_FULL_BACKWARD)], calls=(around,)) == (
        "the gradient reaches the module's inputs on a path around its outputs: "
        f"{HOOK_FUNCTION}_2, on the outputs, has not run by then"
    )


def test_a_full_hook_whose_outputs_no_root_depends_on_says_so():
    reason = silent(
        node(0, 1),
        hook_function(1),
        hooks=[hook(HookKind.MODULE_FULL_BACKWARD)],
        calls=(full_call(input_hook_node=1, output_hook_node=None),),
    )
    assert reason == "the gradient reaches the module's inputs, but no root depends on the module's outputs"


def multi_grad(*slots, mode="all", number=0, **fields):
    names = tuple(f"t{target}" for target in range(len(slots)))
    return Hook(number, HookKind.MULTI_GRAD, "", "f", targets=names, mode=mode, target_slots=slots, **fields)


def test_an_all_hook_that_waits_for_what_pytorch_does_not_count_says_so():
    assert silent(node(0, 1), leaf(1), hooks=[multi_grad((0, 0))]) == (
        "an 'all' hook waits for one gradient per node that PyTorch executes among those of t0, "
        "and the root that backward starts from does not count"
    )


ENDED = "backward ends before it: an 'all' hook on several tensors raises"


def reasons_where_an_all_hook_raises(*others):
    """Of hooks on a root with two leaves, of which autograd.grad takes the gradients and the first has the hook."""
    nodes, call = (node(0, 1, 2), leaf(1), leaf(2)), BackwardCall(((1, 0), (2, 0)), "grad")
    sites = predict(graph(*nodes, hooks=[multi_grad((1, 0)), *others]), call).sites
    return {found.hook.id: found.reason for found in sites if found.fires is False}


def test_an_all_hook_on_a_leaf_that_grad_captures_ends_backward():
    others = hook(on=0, number=1), hook(HookKind.TENSOR, 1, 0, number=2), hook(HookKind.TENSOR, 2, 0, number=3)
    assert reasons_where_an_all_hook_raises(*others) == {
        0: "autograd.grad raises: one of the hook's tensors is a leaf in inputs=",
        2: ENDED,
        3: ENDED,
    }


def test_a_hook_that_would_not_be_called_anyway_gives_its_own_reason_where_an_all_hook_ends_backward():
    assert reasons_where_an_all_hook_raises(hook(on=2, number=1))[1] == (
        "autograd.grad takes the gradient at AccumulateGrad_2 and does not execute it: only hooks on tensors are called"
    )


def test_another_multi_grad_hook_whose_gradients_would_arrive_is_not_called_after_an_all_hook_raised():
    waits_for_root = multi_grad((0, 0), number=2)
    reasons = reasons_where_an_all_hook_raises(multi_grad((2, 0), mode="any", number=1), waits_for_root)
    assert reasons[1] == ENDED
    assert reasons[2].startswith("an 'all' hook waits for one gradient per node that PyTorch executes")


def test_nodes_that_backward_does_not_reach_are_listed_with_why():
    assert find_unreached_nodes(graph(node(0), node(1))) == {
        1: "backward does not reach MulBackward0_1: no root depends on it"
    }


# Hooks of which only backward decides


def nesting(number, *edges, entries=(), kind=NodeKind.CHECKPOINT):
    return node(number, *edges, name="N", kind=kind, nested_backward=entries)


@pytest.mark.parametrize(
    ("kind", "starts"),
    [(NodeKind.CHECKPOINT, "N_1 runs"), (NodeKind.CUSTOM_FUNCTION, "N_1 may run")],
)
def test_a_hook_on_a_leaf_may_be_called_again_by_a_backward_inside(kind, starts):
    nodes = node(0, 1, 2), nesting(1, 3, kind=kind), leaf(2, variable="w"), leaf(3)
    found = site(*nodes, hooks=[hook(HookKind.TENSOR, 2, 0)])
    again = f"{starts} a nested backward, which calls the hooks on leaves once more if it uses them"
    assert (found.fires, found.times) == (True, None)
    assert found.reason == f"AccumulateGrad_2 adds into the leaf w; {again}"
    assert [(entry.status, entry.reason) for entry in found.grad_output] == [("unknown", again)]


def test_a_backward_inside_that_enters_this_graph_may_call_hooks_on_what_it_reaches():
    nodes = nesting(0, 1, entries=((2, 0),)), node(1, 2), node(2, 3), leaf(3)
    found = site(*nodes, hooks=[hook(HookKind.TENSOR, 2, 0)])
    assert (found.fires, found.times) == (None, None)
    assert found.reason == (
        "N_0 uses tensors of this graph that are not detached: a nested backward may reach their nodes first and "
        "free what they need"
    )


def test_a_hook_on_the_node_that_starts_a_backward_inside_is_called_for_certain():
    nodes = nesting(0, 1, entries=((1, 0),)), node(1, 2), leaf(2)
    assert site(*nodes, hooks=[hook(on=0)]).fires is True


def test_a_hook_that_only_a_backward_inside_may_call_says_so():
    starter = nesting(1, 3, entries=((2, 0),), kind=NodeKind.CUSTOM_FUNCTION)
    nodes = node(0, 1, 2), starter, node(2, 4), leaf(3), leaf(4)
    found = site(*nodes, hooks=[hook(on=2)], backward=BackwardCall(((3, 0),)))
    assert (found.fires, found.times) == (None, None)
    assert found.reason == (
        "N_1 may run a nested backward, which calls the hooks on leaves, and on what it reaches, once more if it uses "
        "them"
    )


@pytest.mark.parametrize(("mode", "entries"), [("all", [0, 1]), ("any", [0])])
def test_a_multi_grad_hook_on_a_leaf_may_count_gradients_of_a_backward_inside(mode, entries):
    nodes = node(0, 1, 2), nesting(1, 3), leaf(2), leaf(3)
    found = site(*nodes, hooks=[multi_grad((0, 0), (2, 0), mode=mode)])
    assert (found.node, found.fires, found.times) == (None, None, None)
    assert found.reason == (
        "N_1 runs a nested backward, which also calls the hook for those of its tensors that it reaches: only "
        "backward decides how often, and with which gradients"
    )
    again = "N_1 runs a nested backward, which calls the hooks on leaves once more if it uses them"
    assert [(entry.index, entry.status, entry.reason) for entry in found.grad_output] == [
        (index, "unknown", again) for index in entries
    ]


def test_what_an_earlier_backward_left_for_a_full_hook_may_still_be_there():
    left = UnrecordedCall(
        "m", FullHookSetup(1, (0,), 1, (0,)), input_hook_node=1, output_hook_node=None, has_waiting=True
    )
    nodes = node(0, 1), node(1, 2, name=HOOK_FUNCTION, kind=NodeKind.BACKWARD_HOOK, hooks=(0,)), leaf(2)
    found = site(*nodes, hooks=[hook(HookKind.MODULE_FULL_BACKWARD)], unrecorded_calls=(left,))
    assert (found.fires, found.reason) == (
        None,
        "an earlier backward reached only the module's outputs, and what it left for the hook may still be there",
    )


@pytest.mark.parametrize(
    ("kind", "fires"),
    [(HookKind.NODE_PRE, True), (HookKind.TENSOR, True), (HookKind.NODE, None)],
)
def test_on_a_freed_graph_only_hooks_before_the_first_execution_are_called_for_certain(kind, fires):
    slot = 0 if kind is HookKind.TENSOR else None
    found = site(node(0), hooks=[hook(kind, 0, slot)], backward=BackwardCall(after="freed"))
    assert found.fires is fires
    assert fires or found.reason == (
        "an earlier call freed the graph: this one raises at the first node that needs what was freed"
    )


def test_an_any_hook_on_the_first_node_of_a_freed_graph_is_called_for_certain():
    any_hook, all_hook = multi_grad((0, 0), mode="any"), multi_grad((1, 0), number=1)
    sites = predict(graph(node(0, 1), leaf(1), hooks=[any_hook, all_hook]), BackwardCall(after="freed")).sites
    assert {found.hook.mode: found.fires for found in sites} == {"any": True, "all": None}

"""Records that contradict each other, which do not keep a saved graph from being read."""

import pytest
from changed_graphs import CALL, NODE, SITE, problems_of, with_edge, with_hook, with_record
from msgspec.structs import replace

from fxgrad.graph import BackwardCall, Gradient, HookKind, NodeKind
from fxgrad.graph.structure import structural_problems

MEANING = {
    "backward is called in a known way": (
        lambda g: replace(g, info=replace(g.info, backward=BackwardCall(None, "grad", "kept"))),
        (
            "info, backward: after is 'kept', but it is one of None, 'retained', 'freed'",
            "info, backward: autograd.grad has no inputs",
        ),
    ),
    "the schema is this one": (
        lambda g: replace(g, info=replace(g.info, schema_version=3)),
        ("info: its schema_version is 3, but these records are of version 2",),
    ),
    "a reason for having no calls is not beside calls": (
        lambda g: replace(g, info=replace(g.info, calls_reason="captured")),
        ("info: calls_reason says why there are no calls, but there are",),
    ),
    "a null edge has a reason": (
        lambda g: with_edge(g, 0, 1, null_reason=None),
        (f"{NODE}, edges[1]: next_node is None without a null_reason",),
    ),
    "only a null edge has a reason and an operand": (
        lambda g: with_edge(g, 2, 0, null_reason="frozen", operand=g.nodes[0].grad_outputs[0]),
        (
            "node 2 (TBackward0_0), edges[0]: it has a null_reason, but it leads to node 3",
            "node 2 (TBackward0_0), edges[0]: it has an operand, but only a null edge does",
        ),
    ),
    "an edge of a list is called by the list": (
        lambda g: with_edge(g, 0, 2, group="tensors"),
        (f"{NODE}, edges[2]: it belongs to the list tensors, but its argument does not",),
    ),
    "a node without a call has a reason, and one with a call has none": (
        lambda g: with_record(g, "nodes", 0, call=None, fx_reason="unknown"),
        (f"{NODE}: call is None without a reason", f"{NODE}: it has a fx_node, and a reason why it has none"),
    ),
    "only an AccumulateGrad adds into a leaf": (
        lambda g: with_record(g, "nodes", 1, kind=NodeKind.FUNCTION),
        ('node 1 (AccumulateGrad_0): it has the variable "fc.bias", but only an AccumulateGrad has one',),
    ),
    "a leaf is at the node that names it": (
        lambda g: with_record(g, "variables", 1, node=None),
        ('node 1 (AccumulateGrad_0): its variable "fc.bias" is at node None',),
    ),
    "a node names its leaf": (
        lambda g: with_record(g, "nodes", 1, variable=None),
        ('variable "fc.bias": it is at node 1 (AccumulateGrad_0), which does not name it',),
    ),
    "a variable is of a known kind": (
        lambda g: with_record(g, "variables", 0, kind="weight\n"),
        ("variable \"fc.weight\": kind is 'weight\\n', but it is one of 'parameter', 'buffer', 'input', 'other leaf'",),
    ),
    "a module's parameters are variables": (
        lambda g: with_record(g, "modules", 1, parameters=("weight",)),
        ('module "spare": its parameter "weight" is no variable',),
    ),
    "a call's id is its path and its index, from 1": (
        lambda g: with_record(g, "calls", 0, index=0),
        (f'{CALL}: an id is path#index, which is "fc#0"', f"{CALL}: index is 0, but calls are counted from 1"),
    ),
    "a call is checkpointed in a known way": (
        lambda g: with_record(g, "calls", 0, checkpointed="yes"),
        (f"{CALL}: checkpointed is 'yes', but it is one of None, 'reentrant', 'non-reentrant', 'function'",),
    ),
    "a call has a legacy tensor or a reason": (
        lambda g: with_record(g, "calls", 0, legacy_reason="no tensor"),
        (f"{CALL}: it has a legacy_tensor, and a reason why it has none",),
    ),
    "a window is a range": (
        lambda g: with_record(g, "calls", 0, sequence_window=(3, 2)),
        (f"{CALL}: its sequence_window (3, 2) is not a range of numbers from 0 up",),
    ),
    "an fx node's window is a range": (
        lambda g: with_record(g, "forward", 2, sequence_window=(-1, 2)),
        ('fx node "linear": its sequence_window (-1, 2) is not a range of numbers from 0 up',),
    ),
    "a window is within its parent's": (
        lambda g: replace(
            g,
            calls=(
                replace(g.calls[0], parent="#1"),
                replace(g.calls[0], id="#1", path="", sequence_window=(1, 5)),
            ),
        ),
        (f'{CALL}: its sequence_window (0, 2) is not within (1, 5), that of call "#1"',),
    ),
    "a hook node is a BackwardHookFunction": (
        lambda g: with_record(g, "calls", 0, input_hook_node=2),
        (f"{CALL}: its input_hook_node is node 2 (TBackward0_0), which is no BackwardHookFunction",),
    ),
    "a tensor's node has its name": (
        lambda g: with_record(g, "calls", 0, legacy_tensor=replace(g.calls[0].outputs[0], node_name=None)),
        (f"{CALL}: a tensor's node_name is None, but its node is {NODE}",),
    ),
    "a multi-grad hook has a mode": (
        lambda g: with_hook(g, 2, kind=HookKind.MULTI_GRAD, mode=None),
        ("hook 2 (never): mode is None, but it is one of 'all', 'any'",),
    ),
    "only a multi-grad hook has targets, and each has a slot": (
        lambda g: with_hook(g, 2, targets=("x",), target_slots=((None, 0), (None, 0))),
        (
            "hook 2 (never): only a multi-grad hook has a mode and targets",
            "hook 2 (never): 2 target_slots for 1 targets",
        ),
    ),
    "a global hook has no owner": (
        lambda g: with_hook(g, 2, kind=HookKind.GLOBAL_BACKWARD),
        ('hook 2 (never): a global hook has no owner, but it has "spare"',),
    ),
    "a hook that was seen is placed": (
        lambda g: with_hook(g, 1, unplaced="its tensor died"),
        ("hook 1 (double): it was seen on a node, and has a reason why it is on none",),
    ),
    "a site has a reason": (lambda g: with_record(g, "sites", 0, reason=""), (f"{SITE}: it has no reason",)),
    "a site that may fire has an order": (
        lambda g: with_record(g, "sites", 0, order=None),
        (f"{SITE}: fires is True and order is None, but order is None iff fires is False",),
    ),
    "a site that never fires has no order": (
        lambda g: with_record(g, "sites", 2, order=9),
        ("sites[2] (hook 2, never): fires is False and order is 9, but order is None iff fires is False",),
    ),
    "a site on no node does not fire": (
        lambda g: with_record(g, "sites", 0, node=None),
        (f"{SITE}: it fires, but it is on no node",),
    ),
    "a site that fires fires at least once": (
        lambda g: with_record(g, "sites", 0, times=0),
        (f"{SITE}: fires is True, but times is 0",),
    ),
    "gradients are numbered, and a missing one has a reason": (
        lambda g: with_record(g, "sites", 0, grad_output=(Gradient(1, None, "none", None, None, None),)),
        (
            f"{SITE}, grad_output[0]: its index is 1, but an index is the rank in the tuple",
            f'{SITE}, grad_output[0]: status is "none" without a reason',
        ),
    ),
    "a gradient's status is a known one": (
        lambda g: with_record(g, "sites", 0, grad_output=(Gradient(0, None, "zeros", None, None, None, "so"),)),
        (f"{SITE}, grad_output[0]: status is 'zeros', but it is one of 'tensor', 'none', 'unknown'",),
    ),
    "sites are in firing order": (
        lambda g: with_record(g, "sites", 0, order=1),
        ("sites[1] (hook 1, double): its order 1 follows 1, but sites are in firing order",),
    ),
    "each hook has a site": (
        lambda g: replace(g, sites=g.sites[:2]),
        ("hook 2 (never): it has no site, but each hook has at least one",),
    ),
}


@pytest.mark.parametrize("rule", MEANING)
def test_a_broken_rule_is_named(linear_graph, rule):
    change, expected = MEANING[rule]
    assert problems_of(change(linear_graph)) == expected


@pytest.mark.parametrize("rule", MEANING)
def test_a_rule_about_meaning_does_not_keep_a_saved_graph_from_being_read(linear_graph, rule):
    change, _ = MEANING[rule]
    assert list(structural_problems(change(linear_graph))) == []

"""Each rule of the records is named where a graph breaks it; broken references also keep a saved graph from being read."""

import pytest
from changed_graphs import CALL, NODE, SITE, problems_of, with_edge, with_hook, with_record
from msgspec.structs import replace

from fxgrad.graph import BackwardCall, BackwardGraph, FullHookSetup, Gradient, Held, HookKind, Sharding, Taken, Value
from fxgrad.graph.check import GraphLintError, find_structural_problems


def test_a_sound_graph_passes(linear_graph):
    linear_graph.lint()


def test_an_empty_graph_passes(linear_graph):
    BackwardGraph((), (), (), (), (), (), (), (), linear_graph.info).lint()


def test_hooks_without_any_site_are_not_resolved_yet(linear_graph):
    replace(linear_graph, sites=()).lint()


def test_a_capture_gives_its_reason_once_for_all_nodes(linear_graph):
    nodes = tuple(
        replace(
            node,
            call=None,
            call_reason=None,
            fx_node=None,
            fx_reason=None,
            edges=tuple(replace(edge, value=None) for edge in node.edges),
        )
        for node in linear_graph.nodes
    )
    info = replace(linear_graph.info, calls_reason="captured from tensors")
    replace(linear_graph, nodes=nodes, calls=(), forward=(), sites=(), info=info).lint()


def test_the_message_lists_every_problem_found(linear_graph):
    with pytest.raises(GraphLintError) as refused:
        with_record(linear_graph, "sites", 0, reason="", times=0).lint()
    assert str(refused.value) == (
        "the graph breaks its own rules:\n"
        "  sites[0] (hook 0, print_sizes): it has no reason\n"
        "  sites[0] (hook 0, print_sizes): fires is True, but times is 0"
    )


@pytest.mark.parametrize(("broken", "ending"), [(20, "no slot 3; it has 1"), (21, "there are more")])
def test_at_most_twenty_problems_are_listed_and_that_there_are_more_is_said(linear_graph, broken, ending):
    with pytest.raises(GraphLintError) as refused:
        replace(linear_graph, roots=(replace(linear_graph.roots[0], slot=3),) * broken).lint()
    assert len(refused.value.problems) == 20
    assert str(refused.value).endswith(ending)


def test_a_deep_chain_is_checked_without_recursion(linear_graph):
    middle = linear_graph.nodes[2]
    plain = replace(middle, call=None, call_reason="outside")
    chain = (
        replace(plain, id=i, label=f"TBackward0_{i}", edges=(replace(middle.edges[0], next_node=i + 1),))
        for i in range(20_000)
    )
    end = replace(plain, id=20_000, label="TBackward0_20000", edges=())
    BackwardGraph(linear_graph.roots, (*chain, end), (), (), (), (), (), (), linear_graph.info).lint()


def test_deeply_nested_calls_are_checked_without_recursion(linear_graph):
    (call,) = linear_graph.calls
    nested = tuple(
        replace(call, id=f"fc#{i}", index=i, parent=f"fc#{i - 1}" if i > 1 else None) for i in range(1, 20_001)
    )
    replace(linear_graph, calls=nested).lint()


# Structure

STRUCTURE = {
    "ids of nodes are ranks": (
        lambda g: with_record(g, "nodes", 3, id=7),
        ("nodes[3]: its id is 7, but an id is the rank in the tuple",),
    ),
    "ids of hooks are ranks": (
        lambda g: replace(g, hooks=(*g.hooks, replace(g.hooks[2], id=5))),
        ("hooks[3]: its id is 5, but an id is the rank in the tuple",),
    ),
    "labels are unique": (
        lambda g: with_record(g, "nodes", 2, label="AddmmBackward0_0"),
        ('nodes: two have the label "AddmmBackward0_0", but it is unique',),
    ),
    "call ids are unique": (
        lambda g: replace(g, calls=g.calls * 2),
        ('calls: two have the id "fc#1", but it is unique',),
    ),
    "what a hook holds is in the graph": (
        lambda g: with_hook(g, 1, holds=(Held("loss", 9, False),)),
        ("hook 1, holds: there is no node 9; nodes are 0 to 3",),
    ),
    "the inputs of an fx node are recorded": (
        lambda g: with_record(g, "forward", 2, inputs=("y",)),
        ('fx node "linear": there is no fx node "y"',),
    ),
    "fx nodes' names are unique": (
        lambda g: with_record(g, "forward", 0, name="linear"),
        ('forward: two have the name "linear", but it is unique', f'{NODE}: there is no fx node "x"'),
    ),
    "variables' names and aliases are unique": (
        lambda g: with_record(g, "variables", 0, aliases=("fc.bias",)),
        ('variables: two have the name "fc.bias", but it is unique',),
    ),
    "modules' paths and aliases are unique": (
        lambda g: with_record(g, "modules", 0, aliases=("spare",)),
        ('modules: two have the path "spare", but it is unique',),
    ),
    "a root is a node": (
        lambda g: with_record(g, "roots", 0, node=4),
        ("roots[0]: there is no node 4; nodes are 0 to 3",),
    ),
    "a root's slot exists": (
        lambda g: with_record(g, "roots", 0, slot=1),
        ("roots[0]: node 0 has no slot 1; it has 1",),
    ),
    "the inputs of backward are nodes": (
        lambda g: replace(g, info=replace(g.info, backward=BackwardCall(((9, 0),)))),
        ("info, the inputs of backward: there is no node 9; nodes are 0 to 3",),
    ),
    "an edge leads to a node": (
        lambda g: with_edge(g, 0, 0, next_node=4),
        (f"{NODE}, edges[0]: there is no node 4; nodes are 0 to 3",),
    ),
    "an edge leads to a slot": (
        lambda g: with_edge(g, 0, 0, input_nr=1),
        (f"{NODE}, edges[0]: node 1 has no slot 1; it has 1",),
    ),
    "slots are not counted from the end": (
        lambda g: with_edge(g, 0, 0, input_nr=-1),
        (f"{NODE}, edges[0]: node 1 has no slot -1; it has 1",),
    ),
    "an edge leads to a larger id": (
        lambda g: with_edge(g, 2, 0, next_node=0),
        ("node 2 (TBackward0_0), edges[0]: it leads to node 0, but ids are in topological order: to a larger one",),
    ),
    "an edge does not lead to its own node": (
        lambda g: with_edge(g, 2, 0, next_node=2),
        ("node 2 (TBackward0_0), edges[0]: it leads to node 2, but ids are in topological order: to a larger one",),
    ),
    "an edge's value is recorded": (
        lambda g: replace(g, forward=g.forward[:1] + g.forward[2:]),
        (f'{NODE}: there is no fx node "fc_bias"',),
    ),
    "a node's call, fx node and hooks exist": (
        lambda g: with_record(g, "nodes", 0, call="fc#2", fx_node="y", hooks=(3,), prehooks=(-1,)),
        (
            f'{NODE}: there is no module call "fc#2"',
            f'{NODE}: there is no fx node "y"',
            f"{NODE}: there is no hook 3; hooks are 0 to 2",
            f"{NODE}: there is no hook -1; hooks are 0 to 2",
        ),
    ),
    "a leaf's variable exists": (
        lambda g: with_record(g, "nodes", 3, variable="fc.scale\n"),
        ('node 3 (AccumulateGrad_1): there is no variable "fc.scale\\n"',),
    ),
    "a module's hooks exist": (
        lambda g: with_record(g, "modules", 1, hooks=(2, 9)),
        ('module "spare": there is no hook 9; hooks are 0 to 2',),
    ),
    "the module that a module wraps exists": (
        lambda g: with_record(g, "modules", 1, wraps="spare._orig_mod"),
        ('module "spare", wraps: there is no module "spare._orig_mod"',),
    ),
    "a call's references exist": (
        lambda g: with_record(g, "calls", 0, parent="#1", hooks=(8,), input_hook_node=9, output_hook_node=-1),
        (
            f'{CALL}, parent: no module call "#1" stands before it',
            f"{CALL}: there is no hook 8; hooks are 0 to 2",
            f"{CALL}, input_hook_node: there is no node 9; nodes are 0 to 3",
            f"{CALL}, output_hook_node: there is no node -1; nodes are 0 to 3",
        ),
    ),
    "a call's tensors exist": (
        lambda g: with_record(
            g,
            "calls",
            0,
            inputs=(replace(g.calls[0].inputs[0], name="z"),),
            legacy_tensor=replace(g.calls[0].outputs[0], slot=2, fx_node="y"),
        ),
        (
            f'{CALL}, inputs[0]: there is no variable "z"',
            f'{CALL}, legacy_tensor: there is no fx node "y"',
            f"{CALL}, legacy_tensor: node 0 has no slot 2; it has 1",
        ),
    ),
    "a call is not its own parent": (
        lambda g: with_record(g, "calls", 0, parent="fc#1"),
        (f'{CALL}, parent: no module call "fc#1" stands before it',),
    ),
    "a parent begins before the calls inside it": (
        lambda g: replace(g, calls=(replace(g.calls[0], parent="#1"), replace(g.calls[0], id="#1", path=""))),
        (f'{CALL}, parent: no module call "#1" stands before it',),
    ),
    "a variable is at a slot of a node": (
        lambda g: with_record(g, "variables", 1, slot=1),
        ('variable "fc.bias": node 1 has no slot 1; it has 1',),
    ),
    "a hook was seen on a node": (
        lambda g: with_hook(g, 1, observed=(9, None)),
        ("hook 1, observed: there is no node 9; nodes are 0 to 3",),
    ),
    "a parameter that fully_shard manages exists": (
        lambda g: with_hook(g, 2, sharding=Sharding("nowhere", is_replaced=False, leaf=None)),
        ('hook 2, sharding: there is no variable "nowhere"',),
    ),
    "the leaf of such a parameter exists": (
        lambda g: with_hook(g, 2, sharding=Sharding("fc.weight", is_replaced=False, leaf=99)),
        ("hook 2, sharding: there is no node 99; nodes are 0 to 3",),
    ),
    "what is gathered in place of a variable exists": (
        lambda g: with_record(g, "variables", 1, unsharded="z"),
        ('variable "fc.bias", unsharded: there is no variable "z"',),
    ),
    "a hook's targets exist": (
        lambda g: with_hook(g, 2, target_slots=((None, 0), (3, 1))),
        ("hook 2, target_slots[1]: node 3 has no slot 1; it has 1",),
    ),
    "a site's place exists": (
        lambda g: with_record(g, "sites", 0, node=4, call="fc#2"),
        (f'{SITE}: there is no module call "fc#2"', f"{SITE}: there is no node 4; nodes are 0 to 3"),
    ),
    "a site's hook exists": (
        lambda g: with_record(g, "sites", 0, hook=replace(g.hooks[0], id=3)),
        ("sites[0] (hook 3, print_sizes): there is no hook 3; hooks are 0 to 2",),
    ),
    "a site's hook is that of the graph": (
        lambda g: with_record(g, "sites", 0, hook=replace(g.hooks[0], owner="fc2")),
        (f"{SITE}: its hook is another one than hooks[0]",),
    ),
    "an fx node's calls exist": (
        lambda g: with_record(g, "forward", 1, modules=("fc#1", "fc#3")),
        ('fx node "fc_bias": there is no module call "fc#3"',),
    ),
    "the calls in which Python took a value exist": (
        lambda g: with_record(
            g, "forward", 1, taken=(Taken("item", None, "fc#4"),), asked=(Taken("__bool__", None, "fc#5"),)
        ),
        (
            'fx node "fc_bias": there is no module call "fc#4"',
            'fx node "fc_bias": there is no module call "fc#5"',
        ),
    ),
    "an fx node's changes and aliases are recorded": (
        lambda g: with_record(g, "forward", 1, changes=(Value("y"),), aliases=(None, Value("z"))),
        ('fx node "fc_bias": there is no fx node "y"', 'fx node "fc_bias": there is no fx node "z"'),
    ),
    "a call's tensors are found in its arguments and results": (
        lambda g: with_record(
            g,
            "calls",
            0,
            inputs=(replace(g.calls[0].inputs[0], path=("result",)), replace(g.calls[0].inputs[0], path=("args",))),
            outputs=(replace(g.calls[0].outputs[0], path=()),),
        ),
        (
            f"{CALL}, inputs[0]: its path is result, which leads into no inputs",
            f"{CALL}, inputs[1]: its path is args, which leads into no inputs",
            f"{CALL}, outputs[0]: its path is empty, which leads into no outputs",
        ),
    ),
    "a full hook's positions are those of arguments and slots": (
        lambda g: with_record(g, "calls", 0, output_hook_node=0, full_hook=FullHookSetup(1, (1,), 2, (0, 1))),
        (
            f"{CALL}, full_hook: input_positions are (1,), but there are 1 inputs",
            f"{CALL}, full_hook: 2 output_positions for the 3 edges of its node",
        ),
    ),
    "each gradient of a node has a name": (
        lambda g: with_record(g, "nodes", 0, output_names=()),
        (f"{NODE}: 0 output_names for 1 grad_outputs",),
    ),
    "a hook on a node gets an entry for each edge and for each gradient": (
        lambda g: with_record(g, "sites", 0, grad_input=(), grad_output=()),
        (
            f"{SITE}: 0 grad_input for the 3 edges of {NODE}",
            f"{SITE}: 0 grad_output for the 1 of {NODE}",
        ),
    ),
    "a tensor hook sees one slot, and no grad_input": (
        lambda g: with_record(g, "sites", 1, slot=None, grad_input=g.sites[1].grad_output),
        (
            "sites[1] (hook 1, double): Tensor.register_hook gets no grad_input, but it has 1",
            "sites[1] (hook 1, double): Tensor.register_hook sees one slot, but slot is None, with 1 grad_output",
        ),
    ),
    "a post-accumulate hook gets the leaf": (
        lambda g: with_hook(g, 1, kind=HookKind.POST_ACCUMULATE_GRAD),
        (
            "sites[1] (hook 1, double): Tensor.register_post_accumulate_grad_hook gets the leaf, "
            "but it has 1 grad_output",
        ),
    ),
}


@pytest.mark.parametrize("rule", STRUCTURE)
def test_a_broken_reference_is_named_also_when_a_saved_graph_is_read(linear_graph, rule):
    change, expected = STRUCTURE[rule]
    assert tuple(find_structural_problems(change(linear_graph))) == expected
    assert problems_of(change(linear_graph)) == expected


# Meaning

MEANING = {
    "a null edge has a reason": (
        lambda g: with_edge(g, 0, 1, null_reason=None),
        (f"{NODE}, edges[1]: next_node is None without a null_reason",),
    ),
    "only a null edge has a reason": (
        lambda g: with_edge(g, 2, 0, null_reason="frozen"),
        ("node 2 (TBackward0_0), edges[0]: it has a null_reason, but it leads to node 3",),
    ),
    "a node without a call has a reason, and one with a call has none": (
        lambda g: with_record(g, "nodes", 0, call=None, fx_reason="unknown"),
        (f"{NODE}: call is None without a reason", f"{NODE}: it has a fx_node, and a reason why it has none"),
    ),
    "a leaf is at the node that names it": (
        lambda g: with_record(g, "variables", 1, node=None),
        ('node 1 (AccumulateGrad_0): its variable "fc.bias" is at node None',),
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
    assert list(find_structural_problems(change(linear_graph))) == []

"""The look-ups of a graph: an encoder with two layers, the first of which has hooks, and a loss outside of it."""

import pytest

from fxgrad.graph import HookKind


@pytest.fixture
def graph(program):
    first = program.hook(HookKind.MODULE_FULL_BACKWARD, "encoder.0")
    on_node = program.hook(HookKind.NODE, "ReluBackward0_0")
    program.node("SumBackward0_0", (), arguments=[("self", "AddBackward0_0")])
    program.node(
        "AddBackward0_0", (2,), arguments=[("self", "ReluBackward0_0"), ("other", "ReluBackward0_0")], call="encoder#1"
    )
    program.node("ReluBackward0_0", (2,), arguments=[("self", "BackwardHook_0")], call="encoder.1#1", hooks=(1, 1))
    program.node("BackwardHook_0", (2,), arguments=[("self", "MulBackward0_0")], call="encoder#1")
    program.node("MulBackward0_0", (2,), arguments=[("self", "AccumulateGrad_0")], call="encoder.0#1")
    program.leaf("AccumulateGrad_0", "encoder.0.weight", 2)
    program.variable("x", 2, kind="input", requires_grad=False)
    program.call("encoder", "Encoder")
    program.call("encoder.0", "Scale", parent="encoder#1", hooks=(0, 0), output_hook_node="BackwardHook_0")
    program.call("encoder.1", "ReLU", parent="encoder#1", outputs=[program.ref(("result",), 2, node="ReluBackward0_0")])
    program.site(first, "encoder.0#1", "BackwardHook_0")
    program.site(on_node, node="ReluBackward0_0", slot=None)
    program.site(first, fires=False)
    return program.graph()


def ids(records):
    return [record.id for record in records]


def labels(nodes):
    return [node.label for node in nodes]


def test_calls_are_found_by_path_and_by_the_hooks_that_they_snapshotted(graph):
    assert {path: ids(calls) for path, calls in graph.calls_by_path.items()} == {
        "encoder": ["encoder#1"],
        "encoder.0": ["encoder.0#1"],
        "encoder.1": ["encoder.1#1"],
    }
    assert {hook: ids(calls) for hook, calls in graph.calls_by_hook.items()} == {0: ["encoder.0#1"]}


def test_a_call_leads_to_the_calls_around_it_and_inside_it(graph):
    assert ids(graph.enclosing_calls("encoder.1#1")) == ["encoder.1#1", "encoder#1"]
    assert ids(graph.enclosing_calls(None)) == []
    assert {call: ids(inside) for call, inside in graph.calls_within.items()} == {
        "encoder#1": ["encoder.0#1", "encoder.1#1"]
    }


@pytest.mark.parametrize(
    ("inner", "outer", "within"),
    [
        ("encoder.0#1", "encoder#1", True),
        ("encoder#1", "encoder#1", True),
        ("encoder#1", "encoder.0#1", False),
    ],
)
def test_a_call_is_within_itself_and_the_calls_around_it(graph, inner, outer, within):
    assert graph.is_within(inner, outer) is within


def test_the_nodes_within_a_call_include_those_of_the_calls_inside_it(graph):
    assert labels(graph.nodes_by_call["encoder#1"]) == ["AddBackward0_0", "BackwardHook_0"]
    assert sorted(labels(graph.nodes_within("encoder#1"))) == [
        "AddBackward0_0",
        "BackwardHook_0",
        "MulBackward0_0",
        "ReluBackward0_0",
    ]
    assert labels(graph.nodes_within("encoder.1#1")) == ["ReluBackward0_0"]


def test_a_hook_listed_twice_finds_its_node_twice(graph):
    assert {hook: labels(nodes) for hook, nodes in graph.nodes_by_hook.items()} == {1: ["ReluBackward0_0"] * 2}


@pytest.mark.parametrize(
    ("label", "call"),
    [("MulBackward0_0", "encoder.0#1"), ("BackwardHook_0", "encoder.0#1"), ("SumBackward0_0", None)],
)
def test_the_maker_of_a_hook_function_is_the_call_that_it_is_put_around(graph, label, call):
    maker = graph.find_maker(graph.nodes_by_label[label])
    assert (None if maker is None else maker.id) == call


@pytest.mark.parametrize(("starts", "behind"), [([3], {3, 4, 5}), ([1, 5], {1, 2, 3, 4, 5}), ([], set())])
def test_gradients_reach_the_nodes_behind(graph, starts, behind):
    assert graph.nodes_behind(starts) == behind


def test_a_slot_knows_its_users_its_results_and_whether_it_is_a_root(graph):
    assert graph.users_of_slots == {(1, 0): (0,), (2, 0): (1,), (3, 0): (2,), (4, 0): (3,), (5, 0): (4,)}
    assert graph.results_of_slots == {(2, 0): (("encoder.1#1", ("result",)),)}
    assert graph.names_of_slots == {(5, 0): "encoder.0.weight"}
    assert graph.root_slots == {(0, 0)}


def test_sites_are_found_by_hook_and_by_node(graph):
    assert graph.sites_by_hook == {0: (graph.sites[0], graph.sites[2]), 1: (graph.sites[1],)}
    assert graph.sites_by_node == {3: (graph.sites[0],), 2: (graph.sites[1],)}


def test_parameters_are_variables_of_that_kind(graph):
    assert [variable.name for variable in graph.parameters] == ["encoder.0.weight"]

"""What lint says of a graph as a whole."""

import pytest
from changed_graphs import with_record
from msgspec.structs import replace

from fxgrad.graph import BackwardGraph
from fxgrad.graph.lint import GraphLintError


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
            values=(),
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

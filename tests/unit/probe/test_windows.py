"""Sequence numbers after nodes were made in between."""

from fxgrad.graph import FxNode
from fxgrad.probe.windows import INPUT, OUTPUT, Insertions


def fx_node(name, start, end, *modules):
    return FxNode(name, "call_function", "f", "", modules, None, (), (start, end))


def windows(insertions, *forward):
    return [each.sequence_window for each in insertions.shifted_windows(forward)]


def test_a_node_in_between_takes_the_number_of_the_next_one():
    insertions = Insertions()
    assert [insertions.add(3, "a", INPUT), insertions.add(3, "b", INPUT), insertions.add(7, "a", OUTPUT)] == [3, 4, 9]


def test_nodes_keep_their_order():
    insertions = Insertions()
    insertions.add(3, "a", INPUT)
    insertions.add(5, "a", OUTPUT)
    assert [insertions.shifted_node(number) for number in range(2, 7)] == [2, 4, 5, 7, 8]


def test_what_runs_in_a_call_comes_behind_the_node_on_its_inputs_and_before_that_on_its_outputs():
    insertions = Insertions()
    insertions.add(3, "a", INPUT)
    insertions.add(5, "a", OUTPUT)
    before, inside, after = fx_node("x", 1, 3), fx_node("y", 3, 5, "a"), fx_node("z", 5, 6)
    assert windows(insertions, before, inside, after) == [(1, 3), (4, 6), (7, 8)]


def test_what_made_no_node_comes_behind_a_call_whose_operations_it_follows():
    insertions = Insertions()
    insertions.add(3, "a", INPUT)
    insertions.add(3, "a", OUTPUT)
    earlier, inside, later = fx_node("x", 3, 3), fx_node("y", 3, 3, "a"), fx_node("z", 3, 3)
    assert windows(insertions, earlier, inside, later) == [(3, 3), (4, 4), (5, 5)]

"""Where tensors are while others take their place."""

from fxgrad.graph import Edge
from fxgrad.probe.whereabouts import Whereabouts

X, Y, NEW, NEWER = (1, 0), (2, 1), (7, 0), (8, 0)


def edge(place):
    return Edge("self", None, *place)


def test_a_replaced_tensor_is_where_the_new_one_is():
    now = Whereabouts()
    now.move(X, NEW)
    assert (now.of(X), now.get(Y), now.of(Y)) == (NEW, None, Y)


def test_edges_follow_and_those_that_lead_nowhere_stay():
    now = Whereabouts()
    now.move(X, NEW)
    nowhere = Edge("other", None, None, 0, "it is no tensor")
    assert now.of_edges((edge(X), edge(Y), nowhere)) == (edge(NEW), edge(Y), nowhere)


def test_outside_of_the_call_an_older_tensor_is_where_it_was():
    now = Whereabouts()
    now.enter()
    now.move(X, NEW)
    now.move(X, NEWER)
    now.leave(returned=(), is_new=lambda place: False)
    assert now.of(X) == X


def test_what_the_call_returned_is_seen_outside():
    now = Whereabouts()
    now.enter()
    now.move(X, NEW)
    now.leave(returned=(X,), is_new=lambda place: False)
    assert now.of(X) == NEW


def test_what_the_call_made_itself_is_seen_outside():
    now = Whereabouts()
    now.enter()
    now.move(X, NEW)
    now.leave(returned=(), is_new=lambda place: place == X)
    assert now.of(X) == NEW


def test_what_one_call_returned_to_another_is_not_seen_behind_that():
    now = Whereabouts()
    now.enter()
    now.enter()
    now.move(X, NEW)
    now.leave(returned=(X,), is_new=lambda place: False)
    assert now.of(X) == NEW
    now.leave(returned=(), is_new=lambda place: False)
    assert now.of(X) == X

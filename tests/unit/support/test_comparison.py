"""The comparison of predictions with a real backward sees what is wrong, also where only the beginning is compared."""

import pytest
import torch
from comparison import End
from real_backward import Bench


@pytest.fixture
def bench():
    x = torch.ones(3, requires_grad=True)
    made = Bench((x.exp() * 2).sum()).on_every_node()
    yield made
    made.close()


def test_the_first_calls_are_compared_alone(bench):
    predicted = bench.predicted()
    bench.run()
    assert bench.compared(predicted, bench.log[:2], cut=2).wrong == []
    assert bench.compared(predicted, bench.log[:2]).wrong != []


def test_among_the_first_calls_one_out_of_turn_is_seen(bench):
    predicted = bench.predicted()
    bench.run()
    (wrong,) = bench.compared(predicted, [bench.log[1], bench.log[0]], cut=2).differences
    assert wrong.what == "order"


def test_among_the_first_calls_one_that_is_not_predicted_is_seen(bench):
    predicted = bench.predicted()
    bench.run()
    (wrong,) = bench.compared(predicted, [*bench.log, bench.log[0]], cut=len(bench.log) + 1).differences
    assert wrong.what == "order"


def test_an_entry_of_the_first_calls_is_compared(bench):
    predicted = bench.predicted()
    bench.run()
    first = bench.log[0]._replace(grad_output=(None,))
    assert {each.what for each in bench.compared(predicted, [first], cut=1).differences} == {"none"}


def test_an_end_that_is_not_predicted_is_seen(bench):
    predicted = bench.predicted()
    bench.run()
    (wrong,) = bench.compared(predicted, end=End(raised="modified by an inplace operation")).differences
    assert wrong.what == "raises"


def test_a_predicted_end_at_another_node_is_seen():
    bench = Bench((torch._C._functions.DelayedError("stop", 1)(torch.ones(3, requires_grad=True)) * 2).sum())
    predicted = bench.predicted()
    with pytest.raises(RuntimeError, match="stop"):
        bench.run()
    node = next(node for node in bench.walked.order if "Error" in node.name())
    assert bench.compared(predicted, end=End(node, "stop")).wrong == []
    (ends,) = bench.compared(predicted, end=End()).differences
    (elsewhere,) = bench.compared(predicted, end=End(bench.walked.order[0], "stop")).differences
    assert (ends.what, elsewhere.what) == ("raises", "raises")
    bench.close()

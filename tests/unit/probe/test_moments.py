"""The order in which calls began and ended, out of hand-made records."""

from types import SimpleNamespace

from fxgrad.graph import Hook, HookKind, ModuleCall
from fxgrad.probe.moments import Step, moments


def call(name, start, end, *, parent=None, forward_start=None):
    flags = {"grad_enabled": True, "completed": True, "training": True}
    return ModuleCall(
        name, name, "M", 1, parent, (start, end), (), (), 0, 1, "Tensor", **flags, forward_start=forward_start
    )


def hook(number, *, inside):
    return Hook(0, HookKind.TENSOR, "x", "f", registered_nr=number, registered_in=inside)


def order(*calls, hooks=()):
    graph = SimpleNamespace(calls=calls, hooks=hooks, calls_by_id={call.id: call for call in calls})
    return [(moment.step.value, moment.call.id if moment.call else "hook") for moment in moments(graph)]


def steps_of(found, name):
    return [step for step, of in found if of == name]


def test_a_call_inside_another_begins_after_it_and_ends_before_it():
    found = order(call("a", 0, 5), call("b", 1, 3, parent="a"))
    assert [each for each in found if each[0] != "forward"] == [
        ("start", "a"),
        ("start", "b"),
        ("end", "b"),
        ("end", "a"),
    ]


def test_forward_begins_behind_what_the_forward_pre_hooks_made():
    found = order(call("a", 0, 9, forward_start=4), call("pre", 1, 3, parent="a"), call("b", 4, 6, parent="a"))
    assert found.index(("end", "pre")) < found.index(("forward", "a")) < found.index(("start", "b"))


def test_without_pre_hooks_forward_begins_with_the_call():
    assert order(call("a", 3, 3, forward_start=3))[:2] == [("start", "a"), ("forward", "a")]


def test_a_hook_registered_by_the_caller_comes_after_the_call_before_it():
    calls = call("a", 0, 9), call("b", 1, 3, parent="a"), call("c", 3, 5, parent="a")
    found = order(*calls, hooks=[hook(3, inside="a")])
    assert found.index(("end", "b")) < found.index(("registration", "hook")) < found.index(("start", "c"))


def test_a_hook_registered_inside_a_call_comes_before_its_end():
    found = order(call("a", 0, 9), call("b", 1, 3, parent="a"), hooks=[hook(3, inside="b")])
    assert found.index(("start", "b")) < found.index(("registration", "hook")) < found.index(("end", "b"))


def test_a_hook_registered_after_everything_comes_last():
    assert order(call("a", 0, 9), hooks=[hook(9, inside=None)])[-1] == ("registration", "hook")


def test_every_call_begins_runs_and_ends_once():
    found = order(call("a", 0, 9), call("b", 1, 1, parent="a"), call("c", 1, 1, parent="a"))
    assert all(steps_of(found, name) == [step.value for step in list(Step)[:3]] for name in "abc")

"""Which operations change a tensor in place, out of hand-made records."""

from types import SimpleNamespace

from fxgrad.graph import FxNode, TensorMeta, TensorRef, Value
from fxgrad.probe.memory import Memory

META = TensorMeta((3,), "float32", "cpu")


def fx_node(name, *, target="f", alias=None, changes=(), modules=("a",)):
    aliases = (None if alias is None else Value(alias),)
    return FxNode(
        name, "call_function", target, "", modules, None, (META,), (0, 1), tuple(map(Value, changes)), aliases
    )


def memory(*forward):
    return Memory(SimpleNamespace(forward=forward, fx_nodes_by_name={each.name: each for each in forward}))


def ref(name):
    return TensorRef(("result",), META, requires_grad=True, is_leaf=False, fx_node=name)


def changes(found, name, *, where=lambda _: True):
    return [(change.fx_node.name, change.is_direct) for change in found.changes(ref(name), where=where)]


X, VIEW = fx_node("x"), fx_node("view", alias="x")


def test_a_change_of_the_value_itself_is_direct():
    assert changes(memory(X, fx_node("mul_", alias="x", changes=["x"])), "x") == [("mul_", True)]


def test_a_change_of_a_view_is_direct():
    assert changes(memory(X, VIEW, fx_node("mul_", alias="view", changes=["view"])), "x") == [("mul_", True)]


def test_a_change_of_the_base_is_none_of_the_view_but_of_its_memory():
    assert changes(memory(X, VIEW, fx_node("mul_", alias="x", changes=["x"])), "view") == [("mul_", False)]


def test_a_change_of_what_was_detached_is_one_of_the_memory():
    detached = fx_node("detach", target="detach", alias="x")
    assert changes(memory(X, detached, fx_node("mul_", alias="detach", changes=["detach"])), "x") == [("mul_", False)]


def test_a_second_change_is_found_through_the_first():
    first, second = fx_node("add_", alias="x", changes=["x"]), fx_node("mul_", alias="add_", changes=["add_"])
    assert changes(memory(X, first, second), "x") == [("add_", True), ("mul_", True)]


def test_of_arguments_that_share_a_version_counter_the_one_that_is_returned_was_changed():
    detached = fx_node("detach", target="detach", alias="x")
    found = memory(X, detached, fx_node("add_", alias="detach", changes=["detach", "x"]))
    assert changes(found, "x") == [("add_", False)]


def test_a_view_that_was_made_elsewhere_is_no_view_of_what_replaces_the_tensor():
    elsewhere = fx_node("view", alias="x", modules=())
    found = memory(X, elsewhere, fx_node("mul_", alias="view", changes=["view"]))
    assert changes(found, "x", where=lambda each: "a" in each.modules) == [("mul_", False)]


def test_another_memory_is_another_matter():
    assert changes(memory(X, fx_node("y"), fx_node("mul_", alias="y", changes=["y"])), "x") == []

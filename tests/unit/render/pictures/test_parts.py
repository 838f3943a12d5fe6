"""What a picture of a part of the graph shows: to a depth, of one module, of the hooks alone."""

import pytest
from drawn import arrow_between, arrows_between, box_of, by_title, frame_of, texts
from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.graph import HookKind, NodeKind
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.picture import compose_picture
from fxgrad.render.pictures.theme import Flow


class TestDepth:
    def test_calls_deeper_than_depth_are_one_box_each(self, encoder):
        drawn = compose_picture(encoder.graph(), depth=1)
        assert texts(box_of(drawn, "encoder.0")) == ["encoder.0", "Layer · 1 node · 1 leaf"]
        assert frame_of(drawn, "encoder.0") == ["Model", "encoder"]

    def test_depth_0_leaves_the_nodes_of_the_model_itself(self, encoder):
        assert set(by_title(compose_picture(encoder.graph(), depth=0))) == {"result", "SumBackward0_0", "encoder"}

    def test_a_depth_that_nothing_exceeds_changes_nothing(self, encoder):
        assert compose_picture(encoder.graph(), depth=2) == compose_picture(encoder.graph())

    def test_a_box_names_the_hooks_inside(self, encoder):
        encoder.site(encoder.hook(HookKind.MODULE_BACKWARD, "encoder.0"), "encoder.0#1", "MulBackward0_1")
        box = box_of(compose_picture(encoder.graph(), depth=0), "encoder")
        assert texts(box)[2:] == ["show · register_backward_hook · encoder.0 · no. 1", "FXG101"]

    def test_one_edge_out_of_a_box_shows_its_shape_but_not_the_argument_of_a_node_out_of_sight(self, encoder):
        assert arrow_between(compose_picture(encoder.graph(), depth=1), "encoder.1", "bias").lines == ("(4,)",)

    def test_one_edge_into_a_box_is_as_ever(self, encoder):
        assert arrow_between(compose_picture(encoder.graph(), depth=1), "SumBackward0_0", "encoder.1").lines == (
            "self",
            "(4,)",
        )

    def test_several_edges_between_boxes_are_one_arrow_with_their_number_and_shape(self, program):
        program.call("a", "A")
        program.call("b", "B")
        program.node(
            "MulBackward0_0", (3,), arguments=[("self", "AddBackward0_0"), ("other", "AddBackward0_0")], call="a#1"
        )
        program.node("AddBackward0_0", (3,), call="b#1")
        assert arrow_between(compose_picture(program.graph(), depth=0), "a", "b").lines == ("2 × (3,)",)

    def test_a_negative_depth_is_refused(self, encoder):
        with pytest.raises(UsageError, match="depth -1\n  allowed: a depth of 0 or more\n  try: omit depth"):
            compose_picture(encoder.graph(), depth=-1)


class TestModule:
    def test_only_the_module_its_leaves_and_its_neighbours_are_drawn(self, encoder):
        drawn = compose_picture(encoder.graph(), module="encoder.1")
        assert set(by_title(drawn)) == {"SumBackward0_0", "MulBackward0_0", "MulBackward0_1", "weight_1", "bias"}

    def test_neighbours_are_stubs_that_name_their_module(self, encoder):
        box = box_of(compose_picture(encoder.graph(), module="encoder.1"), "MulBackward0_1")
        assert (texts(box), box.look, box.cluster) == (["MulBackward0_1", "in encoder.0"], theme.STUB, None)

    def test_a_stub_tells_which_call_of_its_module_it_is_in(self, program):
        program.call("cell", "Cell")
        program.call("cell", "Cell")
        program.call("head", "Head")
        program.node("MulBackward0_0", (3,), arguments=[("self", "TanhBackward0_0")], call="head#1")
        program.node("TanhBackward0_0", (3,), call="cell#2")
        box = box_of(compose_picture(program.graph(), module="head"), "TanhBackward0_0")
        assert texts(box) == ["TanhBackward0_0", "in cell, call 2 of 2"]

    def test_leaves_are_drawn_whole(self, encoder):
        assert box_of(compose_picture(encoder.graph(), module="encoder.1"), "bias").look is not theme.STUB

    def test_what_is_inside_the_module_belongs_to_it(self, encoder):
        drawn = compose_picture(encoder.graph(), module="encoder")
        assert {box.lines[0].text for box in drawn.boxes if box.look == theme.STUB} == {"SumBackward0_0"}

    def test_all_calls_of_the_module_are_drawn(self, program):
        for call in ("cell#1", "cell#2"):
            program.call("cell", "Cell")
            program.node(f"TanhBackward0_{call[-1]}", (3,), call=call)
        drawn = compose_picture(program.graph("TanhBackward0_1", "TanhBackward0_2"), module="cell")
        assert [frame.notes[-1] for frame in drawn.clusters] == ["call 1 of 2", "call 2 of 2"]

    def test_the_empty_path_is_the_model(self, encoder):
        assert compose_picture(encoder.graph(), module="") == compose_picture(encoder.graph())

    def test_an_unknown_path_is_refused_with_the_nearest_one(self, encoder):
        with pytest.raises(UsageError) as error:
            compose_picture(encoder.graph(), module="encodr.1")
        assert str(error.value).splitlines() == [
            '"encodr.1" is not a module of this model',
            '  allowed: the path of a module that was called: "", "encoder", "encoder.0", "encoder.1"',
            '  try: "encoder.1"',
        ]

    def test_a_module_that_was_not_called_is_refused(self, encoder):
        encoder.module("head", "Linear")
        with pytest.raises(UsageError, match='"head" was not called in this graph'):
            compose_picture(encoder.graph(), module="head")

    def test_a_graph_without_module_calls_says_why_it_has_none(self, program):
        program.node("MulBackward0_0", (3,))
        program.info = replace(program.info, calls_reason="captured after the forward")
        with pytest.raises(UsageError, match='module "fc": captured after the forward'):
            compose_picture(program.graph(), module="fc")


class TestHooksOnly:
    def test_hooked_nodes_roots_and_leaves_stay(self, encoder):
        encoder.site(encoder.hook(HookKind.MODULE_BACKWARD, "encoder.0"), "encoder.0#1", "MulBackward0_1")
        drawn = compose_picture(encoder.graph(), hooks_only=True)
        assert set(by_title(drawn)) == {
            *("result", "SumBackward0_0", "MulBackward0_1", "weight_0", "weight_1", "bias"),
            "needs no gradient",
        }

    def test_an_arrow_over_nodes_left_out_counts_them(self, encoder):
        encoder.site(encoder.hook(HookKind.MODULE_BACKWARD, "encoder.0"), "encoder.0#1", "MulBackward0_1")
        drawn = compose_picture(encoder.graph(), hooks_only=True)
        assert arrow_between(drawn, "SumBackward0_0", "MulBackward0_1").lines == ("1 node between",)

    def test_a_node_on_several_paths_is_counted_once(self, program):
        program.node("SumBackward0_0", (), arguments=[("self", "AddBackward0_0")])
        program.node("AddBackward0_0", (3,), arguments=[("self", "CosBackward0_0"), ("other", "SinBackward0_0")])
        program.node("CosBackward0_0", (3,), arguments=[("self", "AccumulateGrad_0")])
        program.node("SinBackward0_0", (3,), arguments=[("self", "AccumulateGrad_0")])
        program.leaf("AccumulateGrad_0", "x", 3)
        drawn = compose_picture(program.graph(), hooks_only=True)
        assert arrow_between(drawn, "SumBackward0_0", "x").lines == ("3 nodes between",)

    def test_a_node_that_leads_elsewhere_is_not_between(self, program):
        program.node("AddBackward0_0", (3,), arguments=[("self", "CosBackward0_0"), ("other", "SinBackward0_0")])
        program.node("CosBackward0_0", (3,), arguments=[("self", "AccumulateGrad_0")])
        program.node("SinBackward0_0", (3,), arguments=[("self", "AccumulateGrad_1")])
        program.leaf("AccumulateGrad_0", "x", 3)
        program.leaf("AccumulateGrad_1", "y", 3)
        drawn = compose_picture(program.graph(), hooks_only=True)
        assert arrow_between(drawn, "AddBackward0_0", "x").lines == ("1 node between",)

    def test_paths_end_at_the_next_node_that_is_kept(self, encoder):
        encoder.site(encoder.hook(HookKind.MODULE_BACKWARD, "encoder.1"), "encoder.1#1", "MulBackward0_0")
        drawn = compose_picture(encoder.graph(), hooks_only=True)
        assert arrows_between(drawn, "SumBackward0_0", "weight_0") == []

    def test_an_arrow_over_a_custom_function_is_left_open(self, program):
        program.node("SumBackward0_0", (), arguments=[("self", "MyBackward_0")])
        program.node("MyBackward_0", (3,), arguments=[("x", "AccumulateGrad_0")], kind=NodeKind.CUSTOM_FUNCTION)
        program.leaf("AccumulateGrad_0", "x", 3)
        arrow = arrow_between(compose_picture(program.graph(), hooks_only=True), "SumBackward0_0", "x")
        assert arrow.flow is Flow.UNKNOWN

    def test_the_headline_counts_what_is_shown(self, encoder):
        assert (
            compose_picture(encoder.graph(), hooks_only=True).headline[0]
            == "Backward graph of Model · 4 of 6 nodes · cpu"
        )

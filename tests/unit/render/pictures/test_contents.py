"""What a picture shows of a graph: its boxes, arrows and frames, before any notation."""

from drawn import arrow_between, arrows_between, box_of, by_title, frame_of, texts
from msgspec.structs import replace

from fxgrad.graph import HookKind, NodeKind, TensorMeta
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.picture import compose_picture
from fxgrad.render.pictures.theme import Flow


class TestNodes:
    def test_a_node_shows_its_function_and_its_label(self, linear):
        box = box_of(compose_picture(linear.graph()), "AddmmBackward0_0")
        assert (texts(box), box.look) == (["addmm", "AddmmBackward0_0"], theme.NODE_LOOKS[NodeKind.FUNCTION])

    def test_a_custom_function_shows_its_class(self, program):
        program.node("ScaleBackward_0", (3,), kind=NodeKind.CUSTOM_FUNCTION)
        box = box_of(compose_picture(program.graph()), "ScaleBackward_0")
        assert texts(box) == ["Scale", "ScaleBackward_0"]

    def test_a_node_without_a_schema_shows_its_label_alone(self, program):
        program.node("CopySlices_0", (3,), kind=NodeKind.COPY_SLICES)
        assert texts(box_of(compose_picture(program.graph()), "CopySlices_0")) == ["CopySlices_0"]

    def test_a_parameter_shows_its_name_and_shape(self, linear):
        assert texts(box_of(compose_picture(linear.graph()), "weight")) == ["weight", "(20, 10)"]

    def test_a_leaf_that_is_no_parameter_says_what_it_is(self, program):
        program.node("MulBackward0_0", (3,), arguments=[("self", "AccumulateGrad_0")])
        program.leaf("AccumulateGrad_0", "x", 3, kind="input")
        assert texts(box_of(compose_picture(program.graph()), "x")) == ["x", "(3,) · input"]

    def test_a_leaf_without_a_name_shows_its_label(self, program):
        program.node("AccumulateGrad_0", (3,), kind=NodeKind.ACCUMULATE_GRAD)
        assert texts(box_of(compose_picture(program.graph()), "AccumulateGrad_0")) == ["AccumulateGrad_0", "(3,)"]

    def test_a_long_name_is_cut_in_the_middle_and_whole_in_the_tooltip(self, program):
        name = "encoder." * 10 + "weight"
        program.leaf("AccumulateGrad_0", name, 3)
        box = compose_picture(program.graph()).boxes[1]
        assert len(box.lines[0].text) == 44
        assert box.lines[0].text.startswith("encoder.encoder.")
        assert f"parameter: {name}" in box.tooltip

    def test_a_tooltip_carries_schema_sequence_number_gradients_and_call(self, linear):
        assert box_of(compose_picture(linear.graph()), "AddmmBackward0_0").tooltip == (
            "AddmmBackward0_0",
            "schema: aten::addmm(Tensor self, Tensor mat1, Tensor mat2) -> Tensor",
            "sequence number: 100",
            "receives: result (8, 20)",
            "made in the module call #1",
        )

    def test_a_tooltip_says_which_gradient_does_not_arrive(self, program):
        program.node("SumBackward0_0", (), arguments=[("self", "SplitBackward0_0", 1)])
        program.node("SplitBackward0_0", (2,), (3,))
        assert (
            "receives: result 0 None, result 1 (3,)"
            in box_of(compose_picture(program.graph()), "SplitBackward0_0").tooltip
        )


class TestRoots:
    def test_a_root_has_a_marker_above_it_with_the_shape_that_backward_starts_with(self, linear):
        drawn = compose_picture(linear.graph())
        assert box_of(drawn, "result").look == theme.ROOT
        assert arrow_between(drawn, "result", "AddmmBackward0_0").lines == ("(8, 20)",)

    def test_the_arrow_of_a_root_tells_which_of_several_gradients_it_is(self, program):
        program.node("SplitBackward0_0", (2,), (3,))
        drawn = compose_picture(program.graph())
        assert arrow_between(drawn, "result", "SplitBackward0_0").lines == ("(2,)", "to result 0")


class TestHooks:
    def test_a_hook_is_named_on_its_node_by_function_kind_and_owner(self, linear):
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "layers.3", "print_sizes"), "#1", "AddmmBackward0_0")
        box = box_of(compose_picture(linear.graph()), "AddmmBackward0_0")
        assert texts(box)[2:3] == ["print_sizes · register_backward_hook · layers.3 · no. 1"]
        assert box.hook_kinds == (HookKind.MODULE_BACKWARD,)

    def test_kinds_whose_short_names_are_the_same_are_named_in_full(self, linear):
        linear.site(linear.hook(HookKind.TENSOR, "y", "look"), None, "AddmmBackward0_0", slot=0)
        linear.site(linear.hook(HookKind.NODE, "AddmmBackward0_0", "look"), None, "AddmmBackward0_0")
        lines = texts(box_of(compose_picture(linear.graph()), "AddmmBackward0_0"))
        assert lines[2:] == [
            "look · Tensor.register_hook · y · no. 1",
            "look · Node.register_hook · AddmmBackward0_0 · no. 2",
        ]

    def test_several_kinds_on_one_node_are_all_shown(self, linear):
        linear.site(linear.hook(HookKind.TENSOR, "y"), None, "AddmmBackward0_0", slot=0)
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "fc"), "#1", "AddmmBackward0_0")
        box = box_of(compose_picture(linear.graph()), "AddmmBackward0_0")
        assert box.hook_kinds == (HookKind.TENSOR, HookKind.MODULE_BACKWARD)

    def test_one_function_registered_twice_is_one_line_that_says_so(self, linear):
        for _ in range(2):
            linear.site(linear.hook(HookKind.MODULE_BACKWARD, "fc"), "#1", "AddmmBackward0_0")
        lines = texts(box_of(compose_picture(linear.graph()), "AddmmBackward0_0"))
        assert lines[2:3] == ["show · register_backward_hook · fc · 2 times · no. 1 and 2"]

    def test_a_hook_that_never_fires_says_so(self, linear):
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "fc"), "#1", "AddmmBackward0_0", fires=False)
        lines = texts(box_of(compose_picture(linear.graph()), "AddmmBackward0_0"))
        assert lines[2:3] == ["show · register_backward_hook · fc · never fires"]

    def test_a_hook_that_may_fire_has_its_place_if_it_does(self, linear):
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "fc"), "#1", "AddmmBackward0_0", fires=None, order=0)
        lines = texts(box_of(compose_picture(linear.graph()), "AddmmBackward0_0"))
        assert lines[2:3] == ["show · register_backward_hook · fc · no. 1, if it fires"]

    def test_a_global_hook_belongs_to_every_module(self, linear):
        linear.site(linear.hook(HookKind.GLOBAL_BACKWARD, ""), "#1", "AddmmBackward0_0")
        lines = texts(box_of(compose_picture(linear.graph()), "AddmmBackward0_0"))
        assert lines[2:3] == ["show · register_module_backward_hook · every module · no. 1"]

    def test_of_many_hooks_the_first_are_named_and_the_rest_counted(self, linear):
        for number in range(10):
            linear.site(linear.hook(HookKind.NODE, "AddmmBackward0_0", f"f{number}"), None, "AddmmBackward0_0")
        lines = texts(box_of(compose_picture(linear.graph()), "AddmmBackward0_0"))
        assert (len(lines), lines[-1]) == (11, "and 2 more hooks")

    def test_hooks_without_a_place_are_named_in_the_headline(self, linear):
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "unused", "print_sizes"), fires=False)
        headline = compose_picture(linear.graph()).headline
        assert headline[-1] == "1 hook on no node of this graph: print_sizes · register_backward_hook · unused"

    def test_of_many_hooks_without_a_place_the_first_are_named_and_the_rest_counted(self, linear):
        for number in range(7):
            linear.site(linear.hook(HookKind.MODULE_BACKWARD, f"unused{number}", "f"), fires=False)
        assert compose_picture(linear.graph()).headline[3:] == (
            "7 hooks on no node of this graph: f · register_backward_hook · unused0",
            *(f"f · register_backward_hook · unused{number}" for number in range(1, 5)),
            "and 2 more hooks",
        )

    def test_a_hook_that_never_fires_is_not_coloured_and_says_why(self, linear):
        hook = linear.hook(HookKind.MODULE_BACKWARD, "fc")
        linear.site(hook, "#1", "AddmmBackward0_0", fires=False, reason="no gradient arrives")
        box = box_of(compose_picture(linear.graph()), "AddmmBackward0_0")
        assert (box.hook_kinds, texts(box)[3]) == ((), "no gradient arrives")


class TestFindings:
    def test_a_box_names_the_codes_of_what_rules_say_there_and_tells_it_in_its_tooltip(self, linear):
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "fc"), "#1", "AddmmBackward0_0")
        box = box_of(compose_picture(linear.graph()), "AddmmBackward0_0")
        (finding,) = box.findings
        assert (finding.code, texts(box)[-1]) == ("FXG101", "FXG101")
        assert box.tooltip[-1] == f"FXG101: {finding.headline}"

    def test_where_backward_raises_it_says_so(self, program):
        program.node("Error_0", (3,), arguments=[("x", "AccumulateGrad_0")], kind=NodeKind.ERROR)
        program.leaf("AccumulateGrad_0", "x", 3)
        assert texts(box_of(compose_picture(program.graph()), "Error_0"))[1] == "backward raises here"

    def test_a_closed_module_says_that_backward_raises_inside(self, program):
        program.call("fc", "Linear")
        program.node("Error_0", (3,), kind=NodeKind.ERROR, call="fc#1")
        assert "backward raises inside" in texts(box_of(compose_picture(program.graph(), depth=0), "fc"))

    def test_parameters_that_no_gradient_reaches_are_drawn_with_the_reason_though_no_edge_leads_there(self, linear):
        linear.variable("scale", 3)
        box = box_of(compose_picture(linear.graph()), "scale")
        assert (box.look, texts(box)) == (theme.LOST, ["scale", "no root depends on it"])

    def test_many_of_them_are_one_box(self, linear):
        for number in range(30):
            linear.variable(f"scale{number}", 3)
        drawn = compose_picture(linear.graph())
        assert texts(box_of(drawn, "scale0"))[3:] == ["scale3", "and 26 more parameters", "no root depends on it"]

    def test_in_the_picture_of_a_part_they_are_left_out(self, encoder):
        encoder.variable("scale", 3)
        assert "scale" not in by_title(compose_picture(encoder.graph(), module="encoder.1"))


class TestArrows:
    def test_an_arrow_carries_argument_name_and_shape_of_the_gradient(self, linear):
        drawn = compose_picture(linear.graph())
        assert arrow_between(drawn, "AddmmBackward0_0", "TBackward0_0").lines == ("mat2", "(10, 20)")

    def test_an_arrow_tells_which_of_several_gradients_it_adds_to(self, program):
        program.node("MulBackward0_0", (3,), arguments=[("self", "SplitBackward0_0", 1)])
        program.node("SplitBackward0_0", (2,), (3,))
        drawn = compose_picture(program.graph())
        assert arrow_between(drawn, "MulBackward0_0", "SplitBackward0_0").lines == ("self", "(3,)", "to result 1")

    def test_two_edges_between_two_nodes_are_two_arrows(self, program):
        program.node("MulBackward0_0", (3,), arguments=[("self", "AccumulateGrad_0"), ("other", "AccumulateGrad_0")])
        program.leaf("AccumulateGrad_0", "x", 3)
        drawn = compose_picture(program.graph())
        assert [arrow.lines[0] for arrow in arrows_between(drawn, "MulBackward0_0", "x")] == ["self", "other"]

    def test_an_arrow_along_which_a_gradient_goes_is_not_dashed(self, linear):
        drawn = compose_picture(linear.graph())
        assert arrow_between(drawn, "AddmmBackward0_0", "TBackward0_0").flow is Flow.GRADIENT

    def test_what_a_custom_function_returns_is_left_open(self, program):
        program.node("MyBackward_0", (3,), arguments=[("x", "AccumulateGrad_0")], kind=NodeKind.CUSTOM_FUNCTION)
        program.leaf("AccumulateGrad_0", "x", 3)
        assert arrow_between(compose_picture(program.graph()), "MyBackward_0", "x").flow is Flow.UNKNOWN

    def test_an_arrow_without_a_gradient_is_told_apart(self, program):
        program.node("Error_0", (3,), arguments=[("x", "MulBackward0_0")], kind=NodeKind.ERROR)
        program.node("MulBackward0_0", (3,), arguments=[("self", "AccumulateGrad_0")])
        program.leaf("AccumulateGrad_0", "x", 3)
        assert arrow_between(compose_picture(program.graph()), "MulBackward0_0", "x").flow is not Flow.GRADIENT


class TestNullEdges:
    def test_a_hooked_node_shows_each_argument_that_needs_no_gradient(self, linear):
        linear.site(linear.hook(HookKind.MODULE_BACKWARD, "fc"), "#1", "AddmmBackward0_0")
        arrow = arrow_between(compose_picture(linear.graph()), "AddmmBackward0_0", "needs no gradient")
        assert (arrow.lines, arrow.flow) == (("mat1",), Flow.NONE)
        assert arrow.tooltip == ("grad_input[1] of AddmmBackward0_0: mat1", "requires no grad")

    def test_without_a_hook_and_without_a_tensor_behind_it_nothing_is_drawn(self, linear):
        assert "needs no gradient" not in by_title(compose_picture(linear.graph()))

    def test_without_a_hook_an_argument_is_drawn_behind_which_a_tensor_stands(self, linear):
        drawn = compose_picture(with_operand(linear.graph(), shape=(8, 10)))
        assert arrow_between(drawn, "AddmmBackward0_0", "needs no gradient").lines == ("mat1",)

    def test_a_number_behind_an_argument_is_not_worth_drawing(self, linear):
        assert "needs no gradient" not in by_title(compose_picture(with_operand(linear.graph(), shape=())))


def with_operand(graph, *, shape):
    node = graph.nodes[0]
    edges = tuple(
        replace(edge, operand=TensorMeta(shape, "float32", "cpu")) if edge.next_node is None else edge
        for edge in node.edges
    )
    return replace(graph, nodes=(replace(node, edges=edges), *graph.nodes[1:]))


class TestFrames:
    def test_a_node_stands_in_the_calls_around_it(self, encoder):
        assert frame_of(compose_picture(encoder.graph()), "MulBackward0_0") == ["Model", "encoder", "encoder.1"]

    def test_a_leaf_of_one_call_stands_in_it(self, encoder):
        assert frame_of(compose_picture(encoder.graph()), "weight_0") == ["Model", "encoder", "encoder.0"]

    def test_a_leaf_of_several_calls_stands_in_what_is_around_them_all(self, encoder):
        assert frame_of(compose_picture(encoder.graph()), "bias") == ["Model", "encoder"]

    def test_roots_stand_outside(self, encoder):
        assert frame_of(compose_picture(encoder.graph()), "result") == []

    def test_a_module_called_once_shows_path_and_type(self, encoder):
        frame = next(frame for frame in compose_picture(encoder.graph()).clusters if frame.title == "encoder.0")
        assert frame.notes == ("Layer",)

    def test_a_module_called_several_times_numbers_its_calls(self, program):
        for _ in range(3):
            program.call("cell", "Cell")
        program.node("TanhBackward0_0", (3,), call="cell#2")
        (frame,) = compose_picture(program.graph()).clusters
        assert (frame.title, frame.notes) == ("cell", ("Cell", "call 2 of 3"))

    def test_calls_without_nodes_are_not_drawn(self, encoder):
        encoder.call("dropout", "Dropout", parent="#1")
        assert "dropout" not in {frame.title for frame in compose_picture(encoder.graph()).clusters}

    def test_what_a_full_hook_puts_around_a_module_stands_in_its_call(self, program):
        program.call("", "Model")
        program.call("fc", "Linear", parent="#1", output_hook_node="BackwardHookFunctionBackward_0")
        kind = NodeKind.BACKWARD_HOOK
        arguments = [("args[0]", "AddmmBackward0_0")]
        program.node("BackwardHookFunctionBackward_0", (3,), arguments=arguments, kind=kind, call="#1")
        program.node("AddmmBackward0_0", (3,), call="fc#1")
        assert frame_of(compose_picture(program.graph()), "BackwardHookFunctionBackward_0") == ["Model", "fc"]

    def test_a_graph_without_calls_has_no_frames(self, program):
        program.node("MulBackward0_0", (3,))
        assert compose_picture(program.graph()).clusters == ()
